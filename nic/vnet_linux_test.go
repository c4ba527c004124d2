package nic

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// vnetSpecs returns packets for each kind of super-frame.
func vnetSpecs() map[GSOKind]packetSpec {
	return map[GSOKind]packetSpec{
		GSOTCP4: {tcp: true, payload: pattern(5000), options: make([]byte, 12)},
		GSOTCP6: {tcp: true, v6: true, vlan: true, payload: pattern(5000)},
		GSOUDP:  {payload: pattern(5000)},
	}
}

func TestAVnetHeaderTellsWhatTheFrameTold(t *testing.T) {
	var hdr [vnetHeaderLen]byte
	roundTrip := func(f Frame) {
		t.Helper()
		for i := range hdr {
			hdr[i] = 0xff // putVnet must overwrite old contents
		}
		putVnet(hdr[:], &f)
		got, ok := Ethernet.parseVnet(hdr[:], f.AppendTo(nil), nil)
		require.True(t, ok)
		f.Head, f.Body = f.AppendTo(nil), nil
		f.Local = f.NeedsChecksum // the flag says where the frame comes from
		require.Equal(t, f, got)
	}
	b, transport, _ := packetSpec{payload: pattern(10)}.build(t)
	roundTrip(Frame{Head: b})
	roundTrip(Frame{Head: b, NeedsChecksum: true, ChecksumStart: uint16(transport), ChecksumOffset: 6})
	for kind, spec := range vnetSpecs() {
		f := spec.super(t, 1000, true)
		require.Equal(t, kind, f.GSO)
		roundTrip(f)
	}
}

func TestAVnetHeaderIsLaidOutAsLinuxHasIt(t *testing.T) {
	f := packetSpec{tcp: true, payload: pattern(5000)}.super(t, 1000, true)
	var hdr [vnetHeaderLen]byte
	putVnet(hdr[:], &f)
	// struct virtio_net_hdr { u8 flags, gso_type; u16 hdr_len, gso_size, csum_start, csum_offset; }
	ne := binary.NativeEndian
	want := []byte{1, 1}
	want = ne.AppendUint16(want, 54)
	want = ne.AppendUint16(want, 1000)
	want = ne.AppendUint16(want, 34)
	want = ne.AppendUint16(want, 16)
	require.Equal(t, want, hdr[:])
}

func TestAVnetHeaderMaySayThatTheChecksumIsGood(t *testing.T) {
	b, _, _ := packetSpec{payload: pattern(10)}.build(t)
	f, ok := Ethernet.parseVnet([]byte{unix.VIRTIO_NET_HDR_F_DATA_VALID, 0, 9: 0}, b, nil)
	require.True(t, ok)
	require.Equal(t, Frame{Head: b, ChecksumValid: true}, f)
}

func TestTheHeaderLengthInAVnetHeaderIsNotBelieved(t *testing.T) {
	f := packetSpec{tcp: true, payload: pattern(5000)}.super(t, 1000, false)
	for _, n := range []uint16{0, 1, 53, 1000, 65535} {
		var hdr [vnetHeaderLen]byte
		putVnet(hdr[:], &f)
		binary.NativeEndian.PutUint16(hdr[vnetHdrLen:], n)
		got, ok := Ethernet.parseVnet(hdr[:], f.Head, nil)
		require.True(t, ok)
		require.Equal(t, uint16(54), got.HeaderLen)
	}
}

func TestAVnetHeaderThatContradictsItsFrameIsRefused(t *testing.T) {
	ne := binary.NativeEndian
	for name, change := range map[string]func(hdr, b []byte) []byte{
		"a frame without a header":        func(_, b []byte) []byte { return b[:13] },
		"a checksum in the header":        func(h, b []byte) []byte { ne.PutUint16(h[vnetCsumStart:], 13); return b },
		"a checksum behind the frame":     func(h, b []byte) []byte { ne.PutUint16(h[vnetCsumOffset:], uint16(len(b)-35)); return b },
		"a checksum far behind the frame": func(h, b []byte) []byte { ne.PutUint16(h[vnetCsumStart:], 65535); return b },
		"a checksum elsewhere":            func(h, b []byte) []byte { ne.PutUint16(h[vnetCsumOffset:], 14); return b },
		"a super-frame with no checksum":  func(h, b []byte) []byte { h[vnetFlags] = 0; return b },
		"a super-frame of nothing":        func(h, b []byte) []byte { ne.PutUint16(h[vnetGSOSize:], 0); return b },
		"a super-frame without payload":   func(_, b []byte) []byte { return b[:54] },
		"half a transport header":         func(_, b []byte) []byte { return b[:53] },
		"a kind that nobody asked for":    func(h, b []byte) []byte { h[vnetGSOType] = unix.VIRTIO_NET_HDR_GSO_UDP; return b },
		"a kind that does not exist":      func(h, b []byte) []byte { h[vnetGSOType] = 77; return b },
		"another IP version":              func(h, b []byte) []byte { h[vnetGSOType] = unix.VIRTIO_NET_HDR_GSO_TCPV6; return b },
		"no IP at all":                    func(_, b []byte) []byte { b[14] = 0; return b },
		"a TCP header of four words":      func(_, b []byte) []byte { b[46] = 0x40; return b },
		"a TCP header beyond the end":     func(_, b []byte) []byte { b[46] = 0xf0; return b[:80] },
	} {
		f := packetSpec{tcp: true, payload: pattern(5000)}.super(t, 1000, false)
		var hdr [vnetHeaderLen]byte
		putVnet(hdr[:], &f)
		_, ok := Ethernet.parseVnet(hdr[:], change(hdr[:], f.Head), nil)
		require.False(t, ok, name)
	}
}

func TestASuperFrameWithGoodChecksumsIsCutIntoSuch(t *testing.T) {
	for kind, spec := range vnetSpecs() {
		want := pieces(t, spec.super(t, 1000, false))
		require.Len(t, want, 5)
		// A network card that merges segments may leave any value in the checksum field.
		f := spec.super(t, 1000, false)
		var hdr [vnetHeaderLen]byte
		putVnet(hdr[:], &f)
		hdr[vnetFlags] = unix.VIRTIO_NET_HDR_F_DATA_VALID
		copy(f.Head[f.ChecksumStart+f.ChecksumOffset:], []byte{0xde, 0xad})
		got, ok := Ethernet.parseVnet(hdr[:], f.Head, nil)
		require.True(t, ok)
		require.Equal(t, kind, got.GSO)
		require.False(t, got.ChecksumValid)
		require.Equal(t, want, pieces(t, got))
	}
}

// pieces returns the frames into which f is segmented.
func pieces(t *testing.T, f Frame) (frames [][]byte) {
	t.Helper()
	alloc := func(n int) []byte { return make([]byte, n) }
	require.True(t, Ethernet.complete(&f, alloc, func(b []byte) { frames = append(frames, b) }))
	return frames
}

func FuzzVnetHeader(f *testing.F) {
	for _, spec := range vnetSpecs() {
		frame := spec.super(f, 1000, false)
		var hdr [vnetHeaderLen]byte
		putVnet(hdr[:], &frame)
		f.Add(hdr[:], frame.Head)
		hdr[vnetFlags] = unix.VIRTIO_NET_HDR_F_DATA_VALID
		f.Add(hdr[:], frame.Head)
	}
	ip := packetSpec{medium: IP, tcp: true, payload: pattern(5000)}.super(f, 1000, false)
	var hdr [vnetHeaderLen]byte
	putVnet(hdr[:], &ip)
	f.Add(hdr[:], ip.Head)
	for _, v6 := range []bool{false, true} {
		big := packetSpec{tcp: true, v6: v6, payload: pattern(200_000)}.super(f, 8000, false)
		putVnet(hdr[:], &big)
		f.Add(hdr[:], big.Head)
	}
	f.Fuzz(func(t *testing.T, hdr, b []byte) {
		if len(hdr) != vnetHeaderLen || len(b) > MaxGSO+Ethernet.headerLen() {
			return
		}
		for _, m := range []Medium{Ethernet, IP} {
			checkVnet(t, m, hdr, bytes.Clone(b))
		}
	})
}

// checkVnet parses a frame of a medium and checks what is accepted.
func checkVnet(t *testing.T, m Medium, hdr, b []byte) {
	before := bytes.Clone(b)
	frame, ok := m.parseVnet(hdr, b, nil)
	if !ok {
		return
	}
	if frame.GSO != GSONone && !frame.NeedsChecksum {
		t.Fatalf("a super-frame needs a checksum: %+v", frame)
	}
	pieces, total := 0, 0
	complete := m.complete(&frame, func(n int) []byte { return make([]byte, n) }, func(p []byte) {
		pieces++
		total += len(p) - int(frame.HeaderLen)
		if frame.GSO != GSONone && len(p) > int(frame.HeaderLen)+int(frame.GSOSize) {
			t.Fatalf("a piece of %d bytes: %+v", len(p), frame)
		}
	})
	if !complete || pieces == 0 || total != len(b)-int(frame.HeaderLen) {
		t.Fatalf("an accepted frame cannot be segmented: %+v", frame)
	}
	reopened := frame.NeedsChecksum && hdr[vnetFlags]&unix.VIRTIO_NET_HDR_F_NEEDS_CSUM == 0
	if !reopened && !bytes.Equal(before, b) {
		t.Fatal("the frame was changed")
	}
	// Writing the header again and parsing it gives the same frame.
	var again [vnetHeaderLen]byte
	putVnet(again[:], &frame)
	second, ok := m.parseVnet(again[:], b, nil)
	second.ChecksumValid = frame.ChecksumValid // set only on received frames
	second.Head, frame.Head = nil, nil
	if !ok || second.NeedsChecksum != frame.NeedsChecksum || second.GSO != frame.GSO ||
		second.HeaderLen != frame.HeaderLen || second.GSOSize != frame.GSOSize {
		t.Fatalf("%+v became %+v", frame, second)
	}
}
