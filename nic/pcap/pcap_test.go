package pcap

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

type order interface {
	binary.ByteOrder
	binary.AppendByteOrder
}

var orders = map[string]order{"little": binary.LittleEndian, "big": binary.BigEndian}

// pcapFile returns the header of a pcap file.
func pcapFile(o order, magic, network uint32) []byte {
	b := o.AppendUint32(nil, magic)
	b = o.AppendUint16(b, 2)
	b = o.AppendUint16(b, 4)
	b = o.AppendUint64(b, 0)
	b = o.AppendUint32(b, 65535)
	return o.AppendUint32(b, network)
}

// record appends a packet of a pcap file.
func record(o order, b []byte, sec, frac uint32, data []byte, length int) []byte {
	b = o.AppendUint32(b, sec)
	b = o.AppendUint32(b, frac)
	b = o.AppendUint32(b, uint32(len(data)))
	b = o.AppendUint32(b, uint32(length))
	return append(b, data...)
}

// block appends a block of a pcapng file.
func block(o order, b []byte, kind uint32, body ...any) []byte {
	var buf bytes.Buffer
	for _, v := range body {
		if err := binary.Write(&buf, o, v); err != nil {
			panic(err)
		}
	}
	for buf.Len()%4 != 0 {
		buf.WriteByte(0)
	}
	n := uint32(buf.Len() + 12)
	b = o.AppendUint32(b, kind)
	b = o.AppendUint32(b, n)
	b = append(b, buf.Bytes()...)
	return o.AppendUint32(b, n)
}

func section(o order, b []byte) []byte {
	return block(o, b, blockSection, uint32(byteOrderMagic), uint16(1), uint16(0), uint64(math.MaxUint64))
}

// readAll returns all packets of a file, and the error that ended it.
func readAll(b []byte) (all []Packet, err error) {
	r, err := NewReader(bytes.NewReader(b))
	for err == nil {
		var p Packet
		if p, err = r.Next(); err == nil {
			p.Data = bytes.Clone(p.Data)
			p.Time = p.Time.UTC()
			all = append(all, p)
		}
	}
	if r != nil {
		if _, again := r.Next(); again != r.err || again == nil {
			panic("Next works after an error")
		}
	}
	return all, err
}

func TestPcapInAllByteOrdersAndResolutions(t *testing.T) {
	for name, o := range orders {
		for magic, unit := range map[uint32]time.Duration{magicMicro: time.Microsecond, magicNano: 1} {
			b := pcapFile(o, magic, 1)
			b = record(o, b, 1_700_000_000, 123_456, []byte("first"), 5)
			b = record(o, b, 1_700_000_001, 0, []byte("cut"), 1500)
			got, err := readAll(b)
			require.Equal(t, io.EOF, err, name)
			require.Equal(t, []Packet{
				{Data: []byte("first"), Len: 5, Time: time.Unix(1_700_000_000, int64(123_456*unit)).UTC(), Link: LinkEthernet},
				{Data: []byte("cut"), Len: 1500, Time: time.Unix(1_700_000_001, 0).UTC(), Link: LinkEthernet},
			}, got)
		}
	}
}

func TestLinkTypesOfIP(t *testing.T) {
	for network, want := range map[uint32]LinkType{12: LinkRaw, 14: LinkRaw, 101: LinkRaw, 228: LinkIPv4, 229: LinkIPv6, 1: LinkEthernet, 105: 105} {
		got, err := readAll(record(orders["big"], pcapFile(orders["big"], magicMicro, network), 0, 0, []byte{1}, 1))
		require.Equal(t, io.EOF, err)
		require.Equal(t, want, got[0].Link)
		require.Equal(t, network != 1 && network != 105, want.IsIP())
	}
	require.Equal(t, "link type 105, Ethernet, raw IP, IPv4, IPv6",
		strings.Join([]string{LinkType(105).String(), LinkEthernet.String(), LinkRaw.String(), LinkIPv4.String(), LinkIPv6.String()}, ", "))
}

func TestTheCheckSequenceIsNotPartOfThePacket(t *testing.T) {
	o := orders["little"]
	frame := []byte("a frame and its FCS.")
	b := pcapFile(o, magicMicro, 1|1<<26|2<<28) // Ethernet, with an FCS of 2 words of 16 bits
	b = record(o, b, 0, 0, frame, len(frame))
	b = record(o, b, 0, 0, frame, 100) // the end is missing anyway
	got, err := readAll(b)
	require.Equal(t, io.EOF, err)
	require.Equal(t, frame[:16], got[0].Data)
	require.Equal(t, 16, got[0].Len)
	require.Equal(t, frame, got[1].Data)

	b = section(o, nil)
	b = block(o, b, blockInterface, uint16(1), uint16(0), uint32(0), uint16(optIfFCSLen), uint16(1), []byte{4, 0, 0, 0}, uint32(0))
	b = block(o, b, blockInterface, uint16(1), uint16(0), uint32(0))
	for i := range uint32(2) {
		b = block(o, b, blockPacket, i, uint64(0), uint32(20), uint32(20), frame,
			uint16(optFlags), uint16(4), 2*i<<5, uint32(0)) // the flags of the second packet say that its FCS has 2 bytes
	}
	got, err = readAll(b)
	require.Equal(t, io.EOF, err)
	require.Equal(t, frame[:16], got[0].Data)
	require.Equal(t, frame[:18], got[1].Data)
}

// TestAllBlocksThatCarryPackets has a file with two sections of two byte orders, and each type of block
// that has a packet, between blocks that have none.
func TestAllBlocksThatCarryPackets(t *testing.T) {
	var b []byte
	for _, name := range []string{"little", "big"} {
		o := orders[name]
		b = section(o, b)
		b = block(o, b, blockInterface, uint16(1), uint16(0), uint32(4))
		b = block(o, b, blockInterface, uint16(101), uint16(0), uint32(0),
			uint16(optIfTSResol), uint16(1), []byte{9, 0, 0, 0}, uint16(optIfTSOff), uint16(8), int64(-10), uint32(0))
		b = block(o, b, 4, []byte("names"))                                                                                                                            // Name Resolution Block
		b = block(o, b, blockPacket, uint32(1), uint32(0), uint32(5), uint32(3), uint32(3), []byte("EPB"), byte(0), uint16(optFlags), uint16(4), uint32(2), uint32(0)) // Enhanced Packet Block
		b = block(o, b, 5, []byte("statistics"))                                                                                                                       // Interface Statistics Block
		b = block(o, b, blockSimple, uint32(9), []byte("SPB."))                                                                                                        // cut by the interface's SnapLen
		b = block(o, b, 0x0bad, []byte("custom"))
		b = block(o, b, blockOld, uint16(0), uint16(7), uint32(1), uint32(2), uint32(3), uint32(30), []byte("OPB"))
	}
	got, err := readAll(b)
	require.Equal(t, io.EOF, err)
	require.Len(t, got, 6)
	require.Equal(t, got[:3], got[3:], "both byte orders")
	require.Equal(t, []Packet{
		{Data: []byte("EPB"), Len: 3, Time: time.Unix(-10, 5).UTC(), Link: LinkRaw, Direction: Outbound},
		{Data: []byte("SPB."), Len: 9, Link: LinkEthernet},
		{Data: []byte("OPB"), Len: 30, Time: time.UnixMicro(1<<32 + 2).UTC(), Link: LinkEthernet},
	}, got[:3])
}

func TestResolutionsOfTimestamps(t *testing.T) {
	for resol, want := range map[uint8]time.Time{
		0:        time.Unix(1_000_003, 0),
		3:        time.Unix(1000, 3_000_000),
		9:        time.Unix(0, 1_000_003),
		12:       time.Unix(0, 1000),
		19:       time.Unix(0, 0),
		0x80:     time.Unix(1_000_003, 0),
		0x80 | 4: time.Unix(62500, 187_500_000),
		0xbf:     time.Unix(0, 0),
	} {
		ifc := iface{resol: resol}
		got, err := ifc.time(1_000_003)
		require.NoError(t, err)
		require.Equal(t, want, got, "if_tsresol %#x", resol)
	}
	for _, resol := range []uint8{20, 127, 0xc0} {
		_, err := (&iface{resol: resol}).time(0)
		require.ErrorContains(t, err, "unknown resolution")
	}
	ifc := iface{resol: 0xa0}
	got, err := ifc.time(5<<32 | 1<<31)
	require.NoError(t, err)
	require.Equal(t, time.Unix(5, 500_000_000), got)
}

// written returns a capture of a Writer, and its packets.
func written(t testing.TB) ([]byte, []Packet) {
	t.Helper()
	var buf bytes.Buffer
	w, err := NewWriter(&buf, Interface{Name: "test0", Link: LinkEthernet, SnapLen: 64})
	require.NoError(t, err)
	var want []Packet
	for i := range 50 {
		p := Packet{
			Data: bytes.Repeat([]byte{byte(i)}, 14+i), Len: 14 + i,
			Time: time.Unix(1_700_000_000+int64(i), int64(i)*1_001_001).UTC(),
			Link: []LinkType{LinkEthernet, LinkRaw}[i%2], Direction: Direction(i % 3),
			Interface: []string{"", "test1", "test0"}[i%3],
		}
		require.NoError(t, w.Write(p))
		p.Interface = cmp.Or(p.Interface, "test0")
		if len(p.Data) > 64 {
			t.Fatal("a packet is longer than SnapLen")
		}
		want = append(want, p)
	}
	long := Packet{Data: make([]byte, 100), Len: 100, Time: time.Unix(1_700_001_000, 0).UTC(), Link: LinkEthernet}
	require.NoError(t, w.Write(long))
	long.Data, long.Interface = long.Data[:64], "test0"
	return buf.Bytes(), append(want, long)
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	b, want := written(t)
	got, err := readAll(b)
	require.Equal(t, io.EOF, err)
	require.Equal(t, want, got)

	full := errors.New("disk full")
	_, err = NewWriter(writerFunc(func(b []byte) (int, error) { return 0, full }), Interface{})
	require.ErrorIs(t, err, full)
	_, err = NewWriter(writerFunc(func(b []byte) (int, error) { return 1, nil }), Interface{})
	require.ErrorIs(t, err, io.ErrShortWrite)
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// A capture that ends anywhere returns the packets before that place. The error is io.EOF only if it
// ends between two packets or blocks.
func TestACutCaptureIsAnError(t *testing.T) {
	ng, _ := written(t)
	ng = ng[:600]
	o := orders["big"]
	old := pcapFile(o, magicMicro, 1)
	ends := map[int]bool{len(old): true}
	for range 5 {
		old = record(o, old, 0, 0, make([]byte, 20), 20)
		ends[len(old)] = true
	}
	for n := range len(old) {
		got, err := readAll(old[:n])
		if ends[n] {
			require.Equal(t, io.EOF, err)
			require.Len(t, got, (n-24)/36) // the file header has 24 bytes, and each record 16 + 20
			continue
		}
		require.ErrorIs(t, err, io.ErrUnexpectedEOF, "%d", n)
	}
	ends = map[int]bool{}
	for at := 0; at < len(ng); at += int(binary.LittleEndian.Uint32(ng[at+4:])) {
		ends[at] = at > 0
		if at+8 > len(ng) {
			break
		}
	}
	for n := range len(ng) {
		_, err := readAll(ng[:n])
		if ends[n] {
			require.Equal(t, io.EOF, err, "%d", n)
			continue
		}
		require.ErrorIs(t, err, io.ErrUnexpectedEOF, "%d", n)
	}
}

func TestHostileCapturesAreAnError(t *testing.T) {
	o := orders["little"]
	ifc := block(o, section(o, nil), blockInterface, uint16(1), uint16(0), uint32(0))
	many := section(o, nil)
	for range maxInterfaces + 1 {
		many = block(o, many, blockInterface, uint16(1), uint16(0), uint32(0))
	}
	for want, b := range map[string][]byte{
		"neither pcap nor pcapng: it begins with 3c21444f":       []byte("<!DOCTYPE html>"),
		"unknown version 9.4":                                    func() []byte { b := pcapFile(o, magicMicro, 1); b[4] = 9; return b }(),
		"a packet of 4294967295 bytes: the maximum is 262144":    append(pcapFile(o, magicMicro, 1), bytes.Repeat([]byte{255}, 16)...),
		"byte-order magic is 00000000":                           o.AppendUint64(o.AppendUint64(nil, magicSection), 0),
		"a section header of 12 bytes":                           append(o.AppendUint32(o.AppendUint32(o.AppendUint32(nil, magicSection), 12), byteOrderMagic), 0, 0, 0, 0),
		"unknown version 2.0":                                    block(o, nil, blockSection, uint32(byteOrderMagic), uint16(2), uint16(0), uint64(0)),
		"a block of 8 bytes":                                     o.AppendUint32(o.AppendUint32(section(o, nil), 77), 8),
		"a block of 4294967292 bytes: the maximum is":            o.AppendUint32(o.AppendUint32(section(o, nil), blockPacket), 0xfffffffc),
		"a packet of interface 0 of 0":                           block(o, section(o, nil), blockSimple, uint32(0)),
		"a packet of interface 1 of 1":                           block(o, ifc, blockPacket, uint32(1), uint64(0), uint32(0), uint32(0)),
		"a packet of 9 bytes in a block of 32":                   block(o, ifc, blockPacket, uint32(0), uint64(0), uint32(9), uint32(9)),
		"a packet of 9 bytes in a block of 16":                   block(o, ifc, blockSimple, uint32(9)),
		"a block is shorter than its fields":                     block(o, ifc, blockPacket, uint32(0)),
		"unknown resolution of timestamps: 10^-77 s":             block(o, section(o, nil), blockInterface, uint16(1), uint16(0), uint32(0), uint16(9), uint16(1), []byte{77, 0, 0, 0}),
		"more than 4096 interfaces in a section":                 many,
		"a block of 20 bytes has the length 16777236 at its end": func() []byte { b := bytes.Clone(ifc); b[len(b)-1] = 1; return b }(),
		"a block of 12 bytes has the length 16777228 at its end": func() []byte { b := block(o, ifc, 99); b[len(b)-1] = 1; return b }(),
	} {
		_, err := readAll(b)
		require.ErrorContains(t, err, want)
	}
}

// need returns the path of a tool, or skips the test.
func need(t *testing.T, tool string) string {
	t.Helper()
	path, err := exec.LookPath(tool)
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is not installed", tool)
		}
		t.Skipf("%s is not installed", tool)
	}
	return path
}

// TestWiresharkConvertsWhatWeReadAndWrite makes editcap convert a capture to each format. The packets
// must stay the same, and tshark must see what the Reader sees.
func TestWiresharkConvertsWhatWeReadAndWrite(t *testing.T) {
	editcap, tshark := need(t, "editcap"), need(t, "tshark")
	b, _ := written(t)
	all, err := readAll(b)
	require.Equal(t, io.EOF, err)
	// A pcap file has one link type, so only the Ethernet packets are converted.
	var buf bytes.Buffer
	w, err := NewWriter(&buf, Interface{Name: "test0", Link: LinkEthernet})
	require.NoError(t, err)
	var want []Packet
	for _, p := range all {
		if p.Link == LinkEthernet {
			require.NoError(t, w.Write(p))
			want = append(want, p)
		}
	}
	dir := t.TempDir()
	from := filepath.Join(dir, "from.pcapng")
	require.NoError(t, os.WriteFile(from, buf.Bytes(), 0o644))
	for format, unit := range map[string]time.Duration{"pcapng": 1, "nsecpcap": 1, "pcap": time.Microsecond} {
		to := filepath.Join(dir, format)
		out, err := exec.Command(editcap, "-F", format, from, to).CombinedOutput()
		require.NoError(t, err, "%s", out)
		b, err := os.ReadFile(to)
		require.NoError(t, err)
		got, err := readAll(b)
		require.Equal(t, io.EOF, err)
		require.Len(t, got, len(want))
		out, err = exec.Command(tshark, "-r", to, "-T", "fields", "-E", "separator=,", "-e", "frame.time_epoch", "-e", "frame.cap_len", "-e", "frame.len").Output()
		require.NoError(t, err)
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		require.Len(t, lines, len(want))
		for i, p := range want {
			p.Time = p.Time.Truncate(unit)
			if format != "pcapng" {
				p.Direction, p.Interface = Unknown, ""
			}
			require.Equal(t, p, got[i], "%s: packet %d", format, i)
			sec, rest, _ := strings.Cut(lines[i], ".")
			frac, sizes, _ := strings.Cut(rest, ",")
			require.Equal(t, strconv.FormatInt(p.Time.Unix(), 10), sec)
			ns, err := strconv.Atoi(frac)
			require.NoError(t, err)
			require.Equal(t, p.Time.Nanosecond(), ns)
			require.Equal(t, strconv.Itoa(len(p.Data))+","+strconv.Itoa(p.Len), sizes)
		}
	}
}

func FuzzReader(f *testing.F) {
	b, _ := written(f)
	f.Add(b[:400])
	for _, o := range orders {
		f.Add(record(o, pcapFile(o, magicNano, 1), 1, 2, []byte("data"), 9))
		b := block(o, section(o, nil), blockInterface, uint16(1), uint16(0), uint32(4))
		b = block(o, b, blockSimple, uint32(9), []byte("SPB."))
		b = block(o, b, blockSecrets, uint32(secretsTLS), uint32(3), []byte("key"))
		b = block(o, b, blockPacket, uint32(0), uint64(0), uint32(4), uint32(4), []byte("data"), uint16(optComment), uint16(3), []byte("why"))
		f.Add(block(o, b, blockOld, uint16(0), uint16(7), uint32(1), uint32(2), uint32(3), uint32(30), []byte("OPB")))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		all, err := readAll(b)
		require.Error(t, err)
		var buf bytes.Buffer
		w, _ := NewWriter(&buf, Interface{Link: LinkEthernet})
		r, _ := NewReader(bytes.NewReader(b))
		for r != nil && r.err == nil {
			_, _ = r.Next()
		}
		if r != nil {
			require.LessOrEqual(t, len(r.KeyLog()), len(b))
		}
		for _, p := range all {
			require.LessOrEqual(t, len(p.Data), p.Len)
			require.LessOrEqual(t, len(p.Data), len(b))
			require.NoError(t, w.Write(p))
		}
		again, err := readAll(buf.Bytes())
		require.Equal(t, io.EOF, err)
		require.Len(t, again, len(all))
		for i := range all {
			require.Equal(t, all[i].Data, again[i].Data)
			require.Equal(t, cutText(all[i].Comment, maxComment), again[i].Comment)
		}
	})
}
