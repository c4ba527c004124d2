package nic

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// timestamps is the usual option of a segment, NOP, NOP, TSopt.
var timestamps = []byte{1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 7}

// merged returns the batch into which a gro merges frames that arrive together. As in a reader, the frames
// are one after the other in one buffer.
func merged(frames [][]byte) (batch []Frame) { return mergedOn(Ethernet, frames) }

// mergedOn is merged for frames of a medium.
func mergedOn(medium Medium, frames [][]byte) (batch []Frame) {
	m := gro{medium: medium}
	total := 0
	for _, b := range frames {
		total += len(b) + 1
	}
	buf := make([]byte, total)
	used := 0
	for _, b := range frames {
		in := buf[used:][:copy(buf[used:], b)]
		if !m.add(batch, in) {
			batch = append(batch, Frame{Head: in})
		}
		last := batch[len(batch)-1].Head
		used = total - cap(last) + len(last)
	}
	m.close(batch)
	return batch
}

func TestThePiecesOfASuperFrameAreMergedToIt(t *testing.T) {
	for _, tc := range []struct {
		name string
		spec packetSpec
	}{
		{"tcp4", packetSpec{tcp: true}},
		{"tcp4 with timestamps", packetSpec{tcp: true, options: timestamps}},
		{"tcp6", packetSpec{tcp: true, v6: true}},
		{"tcp6 with timestamps", packetSpec{tcp: true, v6: true, options: timestamps}},
		{"tcp4 without Ethernet", packetSpec{medium: IP, tcp: true, options: timestamps}},
		{"tcp6 without Ethernet", packetSpec{medium: IP, tcp: true, v6: true}},
		{"tcp4 in a VLAN", packetSpec{vlan: true, tcp: true}},
		{"tcp6 in a VLAN", packetSpec{vlan: true, tcp: true, v6: true, options: timestamps}},
	} {
		for _, flags := range []byte{tcpACK, tcpACK | tcpPSH, tcpACK | tcpPSH | tcpFIN} {
			for _, size := range []int{1, 2, 536, 1447, 1448, 4000} {
				for _, n := range []int{2, 3, 11} {
					t.Run(fmt.Sprint(tc.name, " ", flags, " ", size, " ", n), func(t *testing.T) {
						spec := tc.spec
						spec.seq, spec.flags = 0xffffff00, flags
						spec.payload = pattern(size*n - size/2)
						want := spec.super(t, size, false)
						pieces, ok := segmented(spec.medium, &want)
						require.True(t, ok)
						require.Len(t, pieces, n)
						require.Equal(t, []Frame{want}, mergedOn(spec.medium, pieces))
					})
				}
			}
		}
	}
}

// TestWhatIsMergedIsWhatCame segments merged frames again, and compares the segments with the original
// frames.
func TestWhatIsMergedIsWhatCame(t *testing.T) {
	const size = 100
	segment := func(i int, change func(*packetSpec)) []byte {
		p := packetSpec{tcp: true, id: uint16(i), seq: uint32(1000 + i*size), flags: tcpACK, payload: pattern(size), options: timestamps}
		if change != nil {
			change(&p)
		}
		b, _, _ := p.build(t)
		return b
	}
	// resum corrects the checksums of a changed segment.
	resum := func(b []byte) []byte {
		ip, l4 := b[14:34], b[34:]
		ip[10], ip[11], l4[16], l4[17] = 0, 0, 0, 0
		sum := ^slowSum(ip)
		ip[10], ip[11] = byte(sum>>8), byte(sum)
		sum = ^slowSum(ip[12:20], []byte{0, 6, byte(len(l4) >> 8), byte(len(l4))}, l4)
		l4[16], l4[17] = byte(sum>>8), byte(sum)
		return b
	}
	// at returns a function that returns segment i with the byte value at an offset in the frame.
	at := func(i, offset int, value byte) func([]byte) []byte {
		return func([]byte) []byte {
			b := segment(i, nil)
			b[offset] = value
			return resum(b)
		}
	}
	for name, tc := range map[string]struct {
		third func([]byte) []byte // changes the third of five segments
		want  []int               // payload lengths after merging
	}{
		"nothing else":         {func(b []byte) []byte { return b }, []int{500}},
		"its end":              {func([]byte) []byte { return segment(2, func(p *packetSpec) { p.flags |= tcpPSH }) }, []int{300, 200}},
		"the FIN":              {func([]byte) []byte { return segment(2, func(p *packetSpec) { p.flags |= tcpFIN }) }, []int{300, 200}},
		"a SYN":                {func([]byte) []byte { return segment(2, func(p *packetSpec) { p.flags = 2 }) }, []int{200, 100, 200}},
		"a reset":              {func([]byte) []byte { return segment(2, func(p *packetSpec) { p.flags |= 4 }) }, []int{200, 100, 200}},
		"urgent data":          {func([]byte) []byte { return segment(2, func(p *packetSpec) { p.flags |= 0x20 }) }, []int{200, 100, 200}},
		"an ECN echo":          {func([]byte) []byte { return segment(2, func(p *packetSpec) { p.flags |= 0x40 }) }, []int{200, 100, 200}},
		"a reduced window":     {func([]byte) []byte { return segment(2, func(p *packetSpec) { p.flags |= 0x80 }) }, []int{200, 100, 200}},
		"a gap":                {func([]byte) []byte { return segment(3, nil) }, []int{200, 100, 200}},
		"a repetition":         {func([]byte) []byte { return segment(1, nil) }, []int{200, 100, 200}},
		"a shorter one":        {func([]byte) []byte { return segment(2, func(p *packetSpec) { p.payload = p.payload[:99] }) }, []int{299, 200}},
		"a longer one":         {func([]byte) []byte { return segment(2, func(p *packetSpec) { p.payload = pattern(101) }) }, []int{200, 101, 200}},
		"an empty one":         {func([]byte) []byte { return segment(2, func(p *packetSpec) { p.payload = nil }) }, []int{200, 0, 200}},
		"no timestamps":        {func([]byte) []byte { return segment(2, func(p *packetSpec) { p.options = nil }) }, []int{200, 100, 200}},
		"other options":        {func([]byte) []byte { return segment(2, func(p *packetSpec) { p.options = make([]byte, 12) }) }, []int{200, 100, 200}},
		"options of IPv4":      {func([]byte) []byte { return segment(2, func(p *packetSpec) { p.ipOpts = []byte{1, 1, 1, 0} }) }, []int{200, 100, 200}},
		"a VLAN":               {func([]byte) []byte { return segment(2, func(p *packetSpec) { p.vlan = true }) }, []int{200, 100, 200}},
		"a datagram":           {func([]byte) []byte { return segment(2, func(p *packetSpec) { p.tcp = false }) }, []int{200, 100, 200}},
		"another family":       {func([]byte) []byte { return segment(2, func(p *packetSpec) { p.v6 = true }) }, []int{200, 100, 200}},
		"another station":      {at(2, 11, 0xdd), []int{200, 100, 200}},
		"congestion":           {at(2, 15, 3), []int{200, 100, 200}},
		"another time to live": {at(2, 22, 63), []int{200, 100, 200}},
		"a fragment":           {at(2, 20, 0x20), []int{200, 100, 200}},
		"another host":         {at(2, 29, 77), []int{200, 100, 200}},
		"another port":         {at(2, 35, 1), []int{200, 100, 200}},
		"another ACK":          {at(2, 45, 1), []int{200, 100, 200}},
		"a reserved bit":       {at(2, 46, 0x82), []int{200, 100, 200}},
		"another window":       {at(2, 49, 1), []int{200, 100, 200}},
		"a later timestamp":    {at(2, 61, 10), []int{200, 100, 200}},
		"bytes after the end":  {func(b []byte) []byte { return append(b, 0) }, []int{200, 100, 200}},
		"an early end":         {func(b []byte) []byte { return b[:len(b)-1] }, []int{200, 100, 200}},
		"a bad checksum":       {func(b []byte) []byte { b[120] ^= 1; return b }, []int{200, 100, 200}},
		"a bad IP checksum":    {func(b []byte) []byte { b[24] ^= 1; return b }, []int{200, 100, 200}},
		"half a header":        {func(b []byte) []byte { return b[:60] }, []int{200, 100, 200}},
	} {
		t.Run(name, func(t *testing.T) {
			var received [][]byte
			for i := range 5 {
				received = append(received, segment(i, nil))
			}
			received[2] = tc.third(received[2])
			batch := merged(received)
			var lengths []int
			var resegmented [][]byte
			for i := range batch {
				f := &batch[i]
				pieces, ok := segmented(Ethernet, f)
				require.True(t, ok)
				resegmented = append(resegmented, pieces...)
				n := f.Len() - 66 // without the headers of Ethernet, IPv4 and TCP
				// A frame that is not merged has the payload of its segment: 100 bytes, or those of the third one.
				if f.GSO == GSONone {
					require.Equal(t, Frame{Head: f.Head}, *f, "a frame that is not merged is not changed")
					n = 100
					if bytes.Equal(f.Head, received[2]) {
						n = tc.want[1]
					}
				}
				lengths = append(lengths, n)
			}
			require.Equal(t, received, resegmented)
			require.Equal(t, tc.want, lengths)
		})
	}
}

func TestSegmentsAreMergedOnlyWithThoseOfTheSameBatch(t *testing.T) {
	var m gro
	a, _, _ := packetSpec{tcp: true, seq: 1, flags: tcpACK, payload: pattern(10)}.build(t)
	b, _, _ := packetSpec{tcp: true, seq: 11, flags: tcpACK, payload: pattern(10)}.build(t)
	require.False(t, m.add(nil, a))
	m.close([]Frame{{Head: a}})
	require.False(t, m.add(nil, b))
	require.False(t, m.add(nil, b), "add does not look into an empty batch")
}

func TestASuperFrameIsMergedUpToTheLongestPacket(t *testing.T) {
	var came [][]byte
	for i := range 100 {
		b, _, _ := packetSpec{tcp: true, id: uint16(i), seq: uint32(i * 1460), flags: tcpACK, payload: pattern(1460)}.build(t)
		came = append(came, b)
	}
	batch := merged(came)
	require.Len(t, batch, 3)
	require.Equal(t, 14+40+44*1460, batch[0].Len(), "the most that an IPv4 packet holds")
	require.Equal(t, 14+40+44*1460, batch[1].Len())
	require.Equal(t, 14+40+12*1460, batch[2].Len())
}

func TestMergingAllocatesNothing(t *testing.T) {
	a, _, _ := packetSpec{tcp: true, seq: 1, flags: tcpACK, payload: pattern(1460)}.build(t)
	b, _, _ := packetSpec{tcp: true, seq: 1461, flags: tcpACK, payload: pattern(1460)}.build(t)
	var m gro
	buf := make([]byte, 4000)
	batch := make([]Frame, 1)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		batch[0] = Frame{Head: buf[:copy(buf, a)]}
		m.add(nil, a)
		if !m.add(batch, b) {
			panic("not merged")
		}
		m.close(batch)
	}))
}

func FuzzWhatIsMergedIsWhatCame(f *testing.F) {
	a, _, _ := packetSpec{tcp: true, seq: 1, flags: tcpACK, payload: pattern(30), options: timestamps}.build(f)
	b, _, _ := packetSpec{tcp: true, seq: 31, flags: tcpACK | tcpPSH, payload: pattern(30), options: timestamps}.build(f)
	f.Add(a, b, uint16(0), byte(0))
	f.Add(a, b, uint16(66), byte(1))
	f.Fuzz(func(t *testing.T, a, b []byte, at uint16, value byte) {
		if len(a) == 0 || len(b) == 0 {
			return
		}
		if len(b) > int(at) {
			b[at] ^= value
		}
		received := [][]byte{a, b, a}
		var resegmented [][]byte
		for _, fr := range merged(received) {
			pieces, ok := segmented(Ethernet, &fr)
			if !ok {
				t.Fatal("a merged frame cannot be segmented")
			}
			resegmented = append(resegmented, pieces...)
		}
		if len(resegmented) != 3 {
			t.Fatalf("%d frames of 3", len(resegmented))
		}
		for i, b := range resegmented {
			if len(b) >= 54 && len(received[i]) == len(b) && b[12] == 8 {
				copy(b[18:], received[i][18:20]) // the identification and the header checksum may differ
				copy(b[24:], received[i][24:26])
			}
			if !bytes.Equal(received[i], b) {
				t.Fatalf("frame %d:\n%x was received,\n%x is what segmentation makes", i, received[i], b)
			}
		}
	})
}
