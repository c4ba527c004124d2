package wire

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"runtime"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/ipv4"
)

var (
	host1 = netip.MustParseAddr("192.0.2.1")
	host2 = netip.MustParseAddr("192.0.2.2")
)

// ipv4Packet returns a datagram from host1 to host2.
func ipv4Packet(h IPv4, payload []byte) []byte {
	if !h.Src.IsValid() {
		h.Src, h.Dst = host1, host2
	}
	b := make([]byte, h.HeaderLen()+len(payload))
	h.Put(b, len(payload))
	copy(b[h.HeaderLen():], payload)
	return b
}

// fixIPv4 corrects the header checksum of b if b has a whole header.
func fixIPv4(b []byte) {
	if n, r := checkIPv4(b); r == OK {
		b[10], b[11] = 0, 0
		binary.BigEndian.PutUint16(b[10:12], Checksum(b[:n]))
	}
}

// requireAsOracle compares h, which was parsed from the datagram b, with package ipv4.
func requireAsOracle(t *testing.T, b []byte, h IPv4) {
	t.Helper()
	o, err := ipv4.ParseHeader(b)
	require.NoError(t, err)
	require.Equal(t, 4, o.Version)
	require.Equal(t, o.Len, h.HeaderLen())
	require.Equal(t, o.TOS, int(h.TOS))
	require.Equal(t, o.ID, int(h.ID))
	// ParseHeader expects a header as a raw socket of the system has it. On these systems the total length, the flags and
	// the fragment offset then are in the byte order of the machine, so package ipv4 misreads them in b.
	if !slices.Contains([]string{"darwin", "ios", "dragonfly", "netbsd"}, runtime.GOOS) {
		require.Equal(t, o.TotalLen, int(h.TotalLen))
		require.Equal(t, o.Flags&ipv4.DontFragment != 0, h.DontFragment)
		require.Equal(t, o.Flags&ipv4.MoreFragments != 0, h.MoreFragments)
		require.Equal(t, o.FragOff*8, int(h.FragOffset))
	}
	require.Equal(t, o.TTL, int(h.TTL))
	require.Equal(t, o.Protocol, int(h.Proto))
	require.Equal(t, o.Src.To4().String(), h.Src.String())
	require.Equal(t, o.Dst.To4().String(), h.Dst.String())
	require.True(t, bytes.Equal(o.Options, h.Options))
}

func TestIPv4HeaderIsReadAndWrittenToTheByte(t *testing.T) {
	// DF, TTL 64, TCP; the checksum was computed by hand.
	b := unhex("4500 003c 1c46 4000 4006 9a72 c0000201 c0000202")
	b = append(b, make([]byte, 40)...)
	h, payload, r := ParseIPv4(b)
	require.Equal(t, OK, r)
	require.Equal(t, IPv4{
		ID: 0x1c46, DontFragment: true, TTL: 64, Proto: ProtoTCP, Src: host1, Dst: host2, TotalLen: 60,
	}, h)
	require.Len(t, payload, 40)
	requireAsOracle(t, b, h)

	out := make([]byte, IPv4Len)
	h.Put(out, 40)
	require.Equal(t, b[:IPv4Len], out)
}

func TestIPv4HeadersReadAsPackageIPv4ReadsThem(t *testing.T) {
	rnd := testRand()
	for range 500 {
		want := IPv4{
			TOS:           uint8(rnd.Uint32()),
			ID:            uint16(rnd.Uint32()),
			DontFragment:  rnd.IntN(2) == 0,
			MoreFragments: rnd.IntN(2) == 0,
			FragOffset:    uint16(rnd.IntN(8192) * 8),
			TTL:           uint8(rnd.Uint32()),
			Proto:         Proto(rnd.Uint32()),
			Src:           netip.AddrFrom4([4]byte(randomBytes(rnd, 4))),
			Dst:           netip.AddrFrom4([4]byte(randomBytes(rnd, 4))),
		}
		if n := rnd.IntN(11) * 4; n > 0 {
			want.Options = randomBytes(rnd, n)
		}
		payload := randomBytes(rnd, rnd.IntN(100))
		b := ipv4Packet(want, payload)
		want.TotalLen = uint16(len(b))
		got, gotPayload, r := ParseIPv4(b)
		require.Equal(t, OK, r)
		require.Equal(t, want, got)
		require.Equal(t, payload, gotPayload)
		requireAsOracle(t, b, got)
	}
}

func TestIPv4OptionsArePaddedWithEndOfList(t *testing.T) {
	h := IPv4{TTL: 1, Options: []byte{7, 3, 4, 1, 1}}
	require.Equal(t, 28, h.HeaderLen())
	b := bytes.Repeat([]byte{0xee}, 30)
	h.Src, h.Dst = host1, host2
	h.Put(b, 2)
	require.Equal(t, []byte{7, 3, 4, 1, 1, 0, 0, 0, 0xee, 0xee}, b[20:], "the payload is not touched")
	_, _, r := ParseIPv4(b)
	require.Equal(t, OK, r)
}

func TestIPv4LosesThePaddingOfTheLink(t *testing.T) {
	b := append(ipv4Packet(IPv4{TTL: 64, Proto: ProtoUDP}, []byte("data")), make([]byte, 22)...)
	_, payload, r := ParseIPv4(b)
	require.Equal(t, OK, r)
	require.Equal(t, "data", string(payload))
	require.Equal(t, 4, cap(payload), "nothing may be appended into the padding")
}

func TestIPv4RefusesWhatAHostMust(t *testing.T) {
	good := ipv4Packet(IPv4{TTL: 64, Proto: ProtoUDP, Options: []byte{1, 1, 1, 0}}, []byte("datagram"))
	for _, c := range []struct {
		name   string
		want   Reason
		change func(b []byte) []byte
	}{
		{"empty", ShortIPv4, func(b []byte) []byte { return nil }},
		{"19 bytes", ShortIPv4, func(b []byte) []byte { return b[:19] }},
		{"version 6", BadIPv4Version, func(b []byte) []byte { b[0] = 6<<4 | 6; return b }},
		{"version 0", BadIPv4Version, func(b []byte) []byte { b[0] &= 15; return b }},
		{"IHL 4", BadIPv4HeaderLen, func(b []byte) []byte { b[0] = 4<<4 | 4; return b }},
		{"IHL 0", BadIPv4HeaderLen, func(b []byte) []byte { b[0] = 4 << 4; return b }},
		{"IHL beyond the packet", BadIPv4HeaderLen, func(b []byte) []byte { b[0] = 4<<4 | 15; return b }},
		{"total length less than the header", BadIPv4TotalLen, func(b []byte) []byte { b[3] = 23; return b }},
		{"total length 0", BadIPv4TotalLen, func(b []byte) []byte { b[3] = 0; return b }},
		{"total length beyond the packet", BadIPv4TotalLen, func(b []byte) []byte { b[3]++; return b }},
		{"truncated by the link", BadIPv4TotalLen, func(b []byte) []byte { return b[:len(b)-1] }},
	} {
		b := c.change(bytes.Clone(good))
		fixIPv4(b)
		_, payload, r := ParseIPv4(b)
		require.Equal(t, c.want, r, c.name)
		require.Nil(t, payload, c.name)
	}
}

func TestIPv4NoticesEveryFlippedBitOfTheHeader(t *testing.T) {
	good := ipv4Packet(IPv4{TTL: 64, Proto: ProtoUDP}, []byte("data"))
	for bit := range IPv4Len * 8 {
		b := bytes.Clone(good)
		b[bit/8] ^= 1 << (bit % 8)
		_, _, r := ParseIPv4(b)
		require.NotEqual(t, OK, r, "bit %d", bit)
		// The version, the header length and the total length are checked before the checksum.
		if byteOf := bit / 8; byteOf != 0 && byteOf != 2 && byteOf != 3 {
			require.Equal(t, BadIPv4Checksum, r, "bit %d", bit)
		}
	}
}

func TestIPv4PutRefusesImpossibleLengths(t *testing.T) {
	h := IPv4{Src: host1, Dst: host2}
	b := make([]byte, 100)
	require.Panics(t, func() { h.Put(b, 65516) }, "a total length of 65536")
	require.NotPanics(t, func() { h.Put(b, 65515) })
	h.Options = make([]byte, 41)
	require.Panics(t, func() { h.Put(b, 0) }, "41 bytes of options")
}

// bigIPv4 returns a TCP super-frame of n bytes, which is too long for the Total Length field.
func bigIPv4(n int) []byte {
	b := append(ipv4Packet(IPv4{TTL: 64, Proto: ProtoTCP}, nil), make([]byte, n-IPv4Len)...)
	b[2], b[3] = 0, 0
	binary.BigEndian.PutUint16(b[10:], 0)
	binary.BigEndian.PutUint16(b[10:], Checksum(b[:IPv4Len]))
	return b
}

func TestALargeSuperFrameHasNoTotalLength(t *testing.T) {
	b := bigIPv4(100_000)
	h, payload, r := ParseIPv4(b)
	require.Equal(t, OK, r)
	require.Len(t, payload, 100_000-IPv4Len)
	require.Zero(t, h.TotalLen)
	payload, r = new(IPv4).ParseHead(b[:60], len(b)-60)
	require.Equal(t, OK, r)
	require.Len(t, payload, 60-IPv4Len)

	_, r = new(IPv4).ParseHead(b[:60], 0xffff-60)
	require.Equal(t, BadIPv4TotalLen, r, "a length that fits the field must be in the field")
	_, r = new(IPv4).ParseHead(b[:60], 0xffff-60+1)
	require.Equal(t, OK, r)
	for name, change := range map[string]func([]byte){
		"UDP":                   func(b []byte) { b[9] = byte(ProtoUDP) },
		"fragment":              func(b []byte) { b[7] = 1 },
		"first fragment":        func(b []byte) { b[6] = 0x20 },
		"a total length, small": func(b []byte) { b[3] = 1 },
	} {
		c := bytes.Clone(b)
		change(c)
		binary.BigEndian.PutUint16(c[10:], 0)
		binary.BigEndian.PutUint16(c[10:], Checksum(c[:IPv4Len]))
		_, _, r := ParseIPv4(c)
		require.Equal(t, BadIPv4TotalLen, r, name)
	}
}

func TestIPv4DoesNotAllocate(t *testing.T) {
	b := ipv4Packet(IPv4{TTL: 64, Proto: ProtoUDP, Options: []byte{131, 3, 4, 0}}, []byte("data"))
	out := make([]byte, len(b))
	require.Zero(t, testing.AllocsPerRun(100, func() {
		h, payload, _ := ParseIPv4(b)
		ParseIPv4Options(h.Options)
		h.Put(out, len(payload))
	}))
}

func FuzzIPv4(f *testing.F) {
	f.Add(ipv4Packet(IPv4{TTL: 64, Proto: ProtoUDP}, []byte("data")))
	f.Add(ipv4Packet(IPv4{TTL: 1, MoreFragments: true, FragOffset: 1480, Options: []byte{131, 7, 4, 192, 0, 2, 9}}, nil))
	f.Add([]byte{})
	f.Add(bigIPv4(100_000))
	f.Fuzz(func(t *testing.T, b []byte) {
		ParseIPv4(b)
		ParseIPv4Options(b)
		// Random bytes seldom have a correct checksum.
		fixIPv4(b)
		h, payload, r := ParseIPv4(b)
		if r != OK {
			return
		}
		requireAsOracle(t, b, h)
		ParseIPv4Options(h.Options)
		if n := h.HeaderLen() + len(payload); h.TotalLen == 0 && n > 0xffff {
			require.Equal(t, ProtoTCP, h.Proto)
			require.False(t, h.IsFragment())
			require.Len(t, b, n)
			return // Put does not write such headers
		}
		require.Equal(t, int(h.TotalLen), h.HeaderLen()+len(payload))
		out := make([]byte, h.TotalLen)
		h.Put(out, len(payload))
		copy(out[h.HeaderLen():], payload)
		again, againPayload, r := ParseIPv4(out)
		require.Equal(t, OK, r)
		require.Equal(t, h, again)
		require.True(t, bytes.Equal(payload, againPayload))
	})
}

func BenchmarkParseIPv4(b *testing.B) {
	p := ipv4Packet(IPv4{TTL: 64, Proto: ProtoTCP}, make([]byte, 1480))
	for b.Loop() {
		if _, _, r := ParseIPv4(p); r != OK {
			b.Fatal(r)
		}
	}
}

func BenchmarkPutIPv4(b *testing.B) {
	h := IPv4{TTL: 64, Proto: ProtoTCP, DontFragment: true, Src: host1, Dst: host2}
	p := make([]byte, IPv4Len)
	for b.Loop() {
		h.Put(p, 1480)
	}
}
