package nic

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/usernet/usernet/stack/wire"
)

// segmented returns the frames that Medium.complete makes of f.
func segmented(m Medium, f *Frame) (frames [][]byte, ok bool) {
	ok = m.complete(f, func(n int) []byte { return make([]byte, n) },
		func(b []byte) { frames = append(frames, b) })
	return frames, ok
}

func TestASuperFrameIsCutIntoThePacketsThatItStandsFor(t *testing.T) {
	for _, tc := range []struct {
		name string
		spec packetSpec
	}{
		{"tcp4", packetSpec{tcp: true}},
		{"tcp4 with options", packetSpec{tcp: true, options: pattern(12), ipOpts: []byte{1, 1, 1, 0}}},
		{"tcp4 on vlan", packetSpec{tcp: true, vlan: true}},
		{"tcp6", packetSpec{tcp: true, v6: true}},
		{"tcp4 on ip", packetSpec{tcp: true, medium: IP}},
		{"tcp6 on ip", packetSpec{tcp: true, v6: true, medium: IP}},
		{"udp4", packetSpec{}},
		{"udp6", packetSpec{v6: true}},
	} {
		for _, size := range []int{1, 536, 1448, 4000} {
			for _, split := range []bool{false, true} {
				t.Run(fmt.Sprint(tc.name, " ", size, " ", split), func(t *testing.T) {
					n := 10000
					if size == 1 {
						n = 50
					}
					checkCut(t, tc.spec, n, size, split)
				})
			}
		}
	}
}

// checkCut compares the segments of a super-frame with n bytes of payload with packets that are built one by one.
func checkCut(t *testing.T, spec packetSpec, n, size int, split bool) {
	const fin, psh, ack, cwr = 0x01, 0x08, 0x10, 0x80
	whole := pattern(n)
	spec.id, spec.seq = 0xfffe, 0xffffff00 // both wrap around within the super-frame
	spec.payload, spec.flags = whole, fin|psh|ack|cwr
	super := spec.super(t, size, split)
	before := super.AppendTo(nil)

	pieces, ok := segmented(spec.medium, &super)
	require.True(t, ok)
	require.Len(t, pieces, (len(whole)+size-1)/size)
	for i, piece := range pieces {
		p := spec
		off := i * size
		p.payload = whole[off:min(off+size, len(whole))]
		p.id += uint16(i)
		p.seq += uint32(off)
		p.flags = ack
		if i == 0 {
			p.flags |= cwr
		}
		if i == len(pieces)-1 {
			p.flags |= fin | psh
		}
		want, _, _ := p.build(t)
		require.Equal(t, want, piece, "piece %d", i)
	}
	require.Equal(t, before, super.AppendTo(nil), "the sender's bytes are not to be changed")
}

func TestFinishLeavesAnOrdinaryFrameAsItIs(t *testing.T) {
	b := ether(macA, macB, 1, 100)
	frames, ok := segmented(Ethernet, &Frame{Head: b[:14], Body: b[14:]})
	require.True(t, ok)
	require.Equal(t, [][]byte{b}, frames)
}

func TestFinishCompletesAChecksum(t *testing.T) {
	for n := range 40 {
		spec := packetSpec{payload: pattern(n)}
		want, _, _ := spec.build(t)
		f := spec.super(t, 1, true)
		f.GSO, f.GSOSize = GSONone, 0
		frames, ok := segmented(Ethernet, &f)
		require.True(t, ok)
		require.Equal(t, [][]byte{want}, frames)
	}
}

// RFC 768: "If the computed checksum is zero, it is transmitted as all ones".
func TestAChecksumOfZeroIsSentAsAllOnesInUDPOnly(t *testing.T) {
	b := make([]byte, 20)
	for offset, want := range map[int]uint16{wire.UDPChecksumOffset: 0xffff, wire.TCPChecksumOffset: 0} {
		clear(b)
		copy(b, []byte{0xff, 0xf0, 0, 0x0f}) // the sum is 0xffff
		require.True(t, completeChecksum(b, 0, offset))
		require.Equal(t, want, binary.BigEndian.Uint16(b[offset:]))
	}
}

func TestASuperFrameWithWrongFieldsIsRefused(t *testing.T) {
	good := packetSpec{tcp: true, payload: pattern(3000)}.super(t, 1448, true)
	_, ok := segmented(Ethernet, &good)
	require.True(t, ok)
	for name, spoil := range map[string]func(*Frame){
		"no size":                    func(f *Frame) { f.GSOSize = 0 },
		"no checksum":                func(f *Frame) { f.NeedsChecksum = false },
		"headers beyond the head":    func(f *Frame) { f.HeaderLen = 2000 },
		"no payload":                 func(f *Frame) { f.Body = nil },
		"not an ip packet":           func(f *Frame) { f.Head[14] = 0x25 },
		"another family":             func(f *Frame) { f.GSO = GSOTCP6 },
		"unknown kind":               func(f *Frame) { f.GSO = 99 },
		"transport in the ip header": func(f *Frame) { f.ChecksumStart = 20 },
		"transport too far":          func(f *Frame) { f.ChecksumStart = 40 },
		"checksum in the payload":    func(f *Frame) { f.ChecksumOffset = 40 },
		"no head":                    func(f *Frame) { f.Head, f.HeaderLen = nil, 0 },
	} {
		f := packetSpec{tcp: true, payload: pattern(3000)}.super(t, 1448, true)
		spoil(&f)
		frames, ok := segmented(Ethernet, &f)
		require.False(t, ok, name)
		require.Empty(t, frames, name)
	}
	f := Frame{Head: ether(macA, macB, 0, 20), NeedsChecksum: true, ChecksumStart: 18, ChecksumOffset: 1}
	_, ok = segmented(Ethernet, &f)
	require.False(t, ok, "a checksum field beyond the end")
}

func FuzzFinishNeverPanics(f *testing.F) {
	good := packetSpec{tcp: true, payload: pattern(300)}.super(f, 100, false)
	f.Add(good.Head, uint16(54), uint16(34), uint16(16), uint16(100), uint8(GSOTCP4), uint16(60), false)
	f.Fuzz(func(t *testing.T, b []byte, hdr, start, offset, size uint16, kind uint8, head uint16, ip bool) {
		cut := min(int(head), len(b))
		fr := Frame{
			Head: b[:cut], Body: b[cut:], NeedsChecksum: true, ChecksumStart: start,
			ChecksumOffset: offset, GSO: GSOKind(kind), GSOSize: size, HeaderLen: hdr,
		}
		m := Ethernet
		if ip {
			m = IP
		}
		frames, ok := segmented(m, &fr)
		if !ok && len(frames) > 0 {
			t.Fatal("refused, but emitted")
		}
		total := 0
		for _, p := range frames {
			total += len(p)
		}
		if ok && fr.GSO != GSONone && total != fr.Len()+(len(frames)-1)*int(hdr) {
			t.Fatalf("%d bytes in %d pieces of %d", total, len(frames), fr.Len())
		}
	})
}
