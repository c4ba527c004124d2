package wire

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv6"
)

var (
	six1   = netip.MustParseAddr("2001:db8::1")
	six2   = netip.MustParseAddr("2001:db8::2")
	link1  = netip.MustParseAddr("fe80::1")
	group1 = netip.MustParseAddr("ff02::1:ff00:2")
)

// ipv6Packet returns a packet with the header h. Unset addresses become six1 and six2.
func ipv6Packet(h IPv6, payload []byte) []byte {
	if !h.Src.IsValid() {
		h.Src = six1
	}
	if !h.Dst.IsValid() {
		h.Dst = six2
	}
	b := make([]byte, IPv6Len+len(payload))
	h.Put(b, len(payload))
	copy(b[IPv6Len:], payload)
	return b
}

// fixIPv6 corrects the version and the payload length of b if b has a header.
func fixIPv6(b []byte) {
	if len(b) >= IPv6Len {
		b[0] = b[0]&15 | 6<<4
		n := len(b) - IPv6Len
		if n > 0xffff {
			n = 0
		}
		binary.BigEndian.PutUint16(b[4:6], uint16(n))
	}
}

func TestIPv6HeaderIsReadAsPackageIPv6ReadsIt(t *testing.T) {
	rnd := testRand()
	for range 500 {
		b := randomBytes(rnd, IPv6Len+rnd.IntN(40))
		fixIPv6(b)
		h, payload, r := ParseIPv6(b)
		require.Equal(t, OK, r)
		o, err := ipv6.ParseHeader(b)
		require.NoError(t, err)
		require.Equal(t, o.TrafficClass, int(h.TrafficClass))
		require.Equal(t, o.FlowLabel, int(h.FlowLabel))
		require.Equal(t, o.PayloadLen, int(h.PayloadLen))
		require.Equal(t, o.NextHeader, int(h.Next))
		require.Equal(t, o.HopLimit, int(h.HopLimit))
		require.Equal(t, []byte(o.Src.To16()), h.Src.AsSlice())
		require.Equal(t, []byte(o.Dst.To16()), h.Dst.AsSlice())
		require.Len(t, payload, o.PayloadLen)

		out := make([]byte, IPv6Len)
		h.Put(out, len(payload))
		require.Equal(t, b[:IPv6Len], out)
	}
}

func TestIPv6RefusesWhatANodeMust(t *testing.T) {
	b := ipv6Packet(IPv6{Next: ProtoUDP, HopLimit: 64}, []byte("12345678"))
	for n := range len(b) {
		_, _, r := ParseIPv6(b[:n])
		if n < IPv6Len {
			require.Equal(t, ShortIPv6, r)
		} else {
			require.Equal(t, BadIPv6PayloadLen, r)
		}
	}
	_, payload, r := ParseIPv6(append(bytes.Clone(b), 0, 0)) // padded by the link
	require.Equal(t, OK, r)
	require.Equal(t, "12345678", string(payload))
	for v := range 16 {
		c := bytes.Clone(b)
		c[0] = byte(v)<<4 | c[0]&15
		_, _, r := ParseIPv6(c)
		require.Equal(t, v == 6, r == OK)
	}
}

func TestIPv6PayloadMayContinueInAnotherBuffer(t *testing.T) {
	b := ipv6Packet(IPv6{Next: ProtoTCP}, make([]byte, 100))
	payload, r := new(IPv6).ParseHead(b[:60], 80) // the last 80 bytes are elsewhere
	require.Equal(t, OK, r)
	require.Len(t, payload, 20)
	_, r = new(IPv6).ParseHead(b[:60], 79)
	require.Equal(t, BadIPv6PayloadLen, r)
	_, r = new(IPv6).ParseHead(b[:60], 81)
	require.Equal(t, BadIPv6PayloadLen, r)
}

// ext returns an options header of 8*units bytes with these options, padded with Pad1.
func ext(next Proto, units int, options ...byte) []byte {
	b := make([]byte, 8*units)
	b[0], b[1] = byte(next), byte(units-1)
	copy(b[2:], options)
	return b
}

// RFC 8200 MUST-1 MUST-4.
func TestExtensionHeadersAreWalked(t *testing.T) {
	alert := make([]byte, RouterAlertLen)
	PutRouterAlert(alert, ProtoICMPv6)
	atomic := make([]byte, FragmentLen)
	(&Fragment{Next: ProtoUDP, ID: 7}).Put(atomic)
	piece := make([]byte, FragmentLen)
	(&Fragment{Next: ProtoUDP, Offset: 16, More: true, ID: 0x01020304}).Put(piece)
	last := make([]byte, FragmentLen)
	(&Fragment{Next: ProtoUDP, Offset: 65528}).Put(last)
	eight := make([]byte, 8)
	long := []byte{}
	for range maxIPv6Ext {
		long = append(long, ext(ProtoDstOpts, 1)...)
	}
	// b is the payload of an IPv6 header whose next header is next. NextAt and Pointer count from the start of that header.
	for name, c := range map[string]struct {
		next  Proto
		b     []byte
		want  Chain
		wantR Reason
	}{
		"none":                         {ProtoTCP, eight, Chain{Proto: ProtoTCP, NextAt: 6}, OK},
		"no next header":               {ProtoNone, eight, Chain{Proto: ProtoNone, NextAt: 6}, OK},
		"destination options":          {ProtoDstOpts, append(ext(ProtoUDP, 2, 1, 4), eight...), Chain{Proto: ProtoUDP, Offset: 16, NextAt: 40}, OK},
		"a router alert":               {ProtoHopByHop, alert, Chain{Proto: ProtoICMPv6, Offset: 8, NextAt: 40, RouterAlert: true}, OK},
		"two headers":                  {ProtoHopByHop, append(ext(ProtoDstOpts, 1), ext(ProtoUDP, 1)...), Chain{Proto: ProtoUDP, Offset: 16, NextAt: 48}, OK},
		"an unknown option to skip":    {ProtoDstOpts, ext(ProtoUDP, 1, 0x3e, 4), Chain{Proto: ProtoUDP, Offset: 8, NextAt: 40}, OK},
		"an unknown option: discard":   {ProtoDstOpts, ext(ProtoUDP, 1, 0x7e, 4), Chain{Proto: ProtoDstOpts, NextAt: 6, Code: ParamOption, Pointer: 42}, BadIPv6Option},
		"an unknown option: answer":    {ProtoHopByHop, ext(ProtoUDP, 2, 1, 1, 0, 0xbe, 4), Chain{Proto: ProtoHopByHop, NextAt: 6, Answer: AnswerAlways, Code: ParamOption, Pointer: 45}, BadIPv6Option},
		"an unknown option: not group": {ProtoHopByHop, ext(ProtoUDP, 1, 0xc2, 4), Chain{Proto: ProtoHopByHop, NextAt: 6, Answer: AnswerUnicast, Code: ParamOption, Pointer: 42}, BadIPv6Option},
		"an option that is too long":   {ProtoDstOpts, ext(ProtoUDP, 1, 1, 5), Chain{Proto: ProtoDstOpts, NextAt: 6}, BadIPv6Option},
		"an option without length":     {ProtoDstOpts, ext(ProtoUDP, 1, 0, 0, 0, 0, 0, 9), Chain{Proto: ProtoDstOpts, NextAt: 6}, BadIPv6Option},
		"hop-by-hop in second place":   {ProtoDstOpts, append(ext(ProtoHopByHop, 1), ext(ProtoUDP, 1)...), Chain{Proto: ProtoHopByHop, Offset: 8, NextAt: 40, Answer: AnswerUnicast, Code: ParamNextHeader, Pointer: 40}, BadIPv6Ext},
		"a header that is cut off":     {ProtoDstOpts, ext(ProtoUDP, 2)[:15], Chain{Proto: ProtoDstOpts, NextAt: 6}, ShortIPv6Ext},
		"less than a header":           {ProtoDstOpts, eight[:7], Chain{Proto: ProtoDstOpts, NextAt: 6}, ShortIPv6Ext},
		"eight headers":                {ProtoDstOpts, append(bytes.Clone(long[:len(long)-8]), ext(ProtoUDP, 1)...), Chain{Proto: ProtoUDP, Offset: 64, NextAt: 96}, OK},
		"nine headers":                 {ProtoDstOpts, append(bytes.Clone(long), ext(ProtoUDP, 1)...), Chain{Proto: ProtoDstOpts, Offset: 64, NextAt: 96}, LongIPv6Chain},
		// RFC 8200 4.4.
		"a route at its end":    {ProtoRouting, ext(ProtoUDP, 3, 0, 0), Chain{Proto: ProtoUDP, Offset: 24, NextAt: 40}, OK},
		"a route of type 0":     {ProtoRouting, ext(ProtoUDP, 3, 0, 1), Chain{Proto: ProtoRouting, NextAt: 6, Answer: AnswerUnicast, Code: ParamHeader, Pointer: 42}, BadIPv6Routing},
		"a route after options": {ProtoDstOpts, append(ext(ProtoRouting, 1), ext(ProtoUDP, 3, 4, 1)...), Chain{Proto: ProtoRouting, Offset: 8, NextAt: 40, Answer: AnswerUnicast, Code: ParamHeader, Pointer: 50}, BadIPv6Routing},
		// RFC 6946: "A host that receives an IPv6 packet which includes a Fragment Header with the
		// 'Fragment Offset' equal to 0 and the 'M' flag equal to 0 MUST process that packet in
		// isolation from any other packets/fragments".
		"an atomic fragment": {ProtoFragment, append(atomic, eight...), Chain{Proto: ProtoUDP, Offset: 8, NextAt: 40}, OK},
		"a fragment": {ProtoFragment, append(bytes.Clone(piece), eight...), Chain{Proto: ProtoUDP, Offset: 8, NextAt: 40, Fragmented: true,
			Fragment: Fragment{Next: ProtoUDP, Offset: 16, More: true, ID: 0x01020304}}, OK},
		"a fragment that is not a multiple of 8": {ProtoFragment, append(bytes.Clone(piece), eight[:7]...), Chain{Proto: ProtoUDP, Offset: 8, NextAt: 40, Fragmented: true,
			Fragment: Fragment{Next: ProtoUDP, Offset: 16, More: true, ID: 0x01020304}, Answer: AnswerUnicast, Code: ParamHeader, Pointer: 4}, BadIPv6Fragment},
		"a fragment that ends beyond 65,535": {ProtoFragment, append(bytes.Clone(last), eight...), Chain{Proto: ProtoUDP, Offset: 8, NextAt: 40, Fragmented: true,
			Fragment: Fragment{Next: ProtoUDP, Offset: 65528}, Answer: AnswerUnicast, Code: ParamHeader, Pointer: 42}, BadIPv6Fragment},
	} {
		got, r := WalkIPv6(c.next, c.b)
		require.Equal(t, c.wantR, r, name)
		require.Equal(t, c.want, got, name)
	}
}

// RFC 8200 MUST-4.
func TestReassembledPartHasNoFragments(t *testing.T) {
	piece := make([]byte, FragmentLen)
	(&Fragment{Next: ProtoUDP, More: true}).Put(piece)
	base := make([]byte, IPv6Len)
	base[IPv6NextOffset] = byte(ProtoDstOpts)
	_, r := WalkReassembled(ProtoFragment, base, append(piece, make([]byte, 8)...))
	require.Equal(t, BadIPv6Fragment, r)
	c, r := WalkReassembled(ProtoDstOpts, slices.Concat(base, ext(ProtoDstOpts, 1)), ext(ProtoUDP, 1))
	require.Equal(t, OK, r)
	require.Equal(t, Chain{Proto: ProtoUDP, Offset: 8, NextAt: 48}, c)
}

// RFC 8200 4: "If, as a result of processing a header, the destination node is required to proceed to the
// next header but the Next Header value in the current header is unrecognized by the node, it should [...]
// send an ICMP Parameter Problem message to the source of the packet, with an ICMP Code value of 1". "The
// same action should be taken if a node encounters a Next Header value of zero in any header other than an
// IPv6 header."
func TestNoHopByHopOptionsFollowAFragmentHeader(t *testing.T) {
	base := make([]byte, IPv6Len)
	base[IPv6NextOffset] = byte(ProtoDstOpts)
	// before returns base and other headers, the last of which has the next header f.
	before := func(f Proto, headers ...[]byte) []byte {
		h := slices.Concat(append([][]byte{base}, headers...)...)
		h[LastNextAt(h)] = byte(f)
		return h
	}
	atomic := make([]byte, FragmentLen)
	(&Fragment{Next: ProtoDstOpts}).Put(atomic)
	atomic[1] = 0xff // reserved
	withAtomic := slices.Concat(base, atomic, ext(ProtoHopByHop, 2))
	withAtomic[IPv6NextOffset] = byte(ProtoFragment)
	// The key is the offset of the last Next Header field.
	for pointer, header := range map[int][]byte{
		IPv6NextOffset: before(ProtoHopByHop),
		40:             before(ProtoHopByHop, ext(ProtoUDP, 3)),
		64:             before(ProtoHopByHop, ext(ProtoDstOpts, 3), ext(ProtoUDP, 1)),
		48:             withAtomic,
	} {
		c, r := WalkReassembled(ProtoHopByHop, header, ext(ProtoUDP, 1))
		require.Equal(t, BadIPv6Ext, r)
		require.Equal(t, Chain{NextAt: pointer, Answer: AnswerUnicast, Code: ParamNextHeader, Pointer: uint32(pointer)}, c)
		c, r = WalkReassembled(ProtoUDP, header, nil)
		require.Equal(t, OK, r)
		require.Equal(t, Chain{Proto: ProtoUDP, NextAt: pointer}, c)
	}
}

// RFC 7112 5: "a host that receives a First Fragment that does not satisfy the above-stated
// requirement SHOULD discard the packet".
func TestFirstFragmentHasTheWholeChain(t *testing.T) {
	tcp := append(ext(ProtoTCP, 2), make([]byte, TCPLen)...)
	for n := range len(tcp) {
		require.False(t, CompleteChain(ProtoDstOpts, tcp[:n]), "%d bytes", n)
	}
	require.True(t, CompleteChain(ProtoDstOpts, tcp))
	require.True(t, CompleteChain(ProtoUDP, make([]byte, 8)))
	require.False(t, CompleteChain(ProtoUDP, make([]byte, 7)))
	require.True(t, CompleteChain(ProtoNone, nil))
	require.False(t, CompleteChain(ProtoDstOpts, bytes.Repeat(ext(ProtoDstOpts, 1), 20)))
}

// slowWalk is a reference for the walk over well-formed headers. It returns the last protocol and its
// offset. It reports false if the bytes end early, or if there are too many headers.
func slowWalk(next Proto, b []byte) (p Proto, at int, ok bool) {
	for n := 0; ; n++ {
		length := 0
		switch next {
		case ProtoHopByHop, ProtoDstOpts, ProtoRouting:
			if at+1 < len(b) {
				length = 8 + 8*int(b[at+1])
			}
		case ProtoFragment:
			length = 8
		default:
			return next, at, true
		}
		if n == maxIPv6Ext || length == 0 || at+length > len(b) {
			return next, at, false
		}
		next = Proto(b[at])
		for range length {
			at++
		}
	}
}

// RFC 8200 MUST-1 MUST-2.
func TestWalkAgreesWithTheSlowOne(t *testing.T) {
	rnd := testRand()
	agreed := 0
	for range 20000 {
		next, b := randomChain(rnd)
		c, r := WalkIPv6(next, b)
		p, at, ok := slowWalk(next, b)
		if r == OK && !c.Fragmented {
			require.True(t, ok)
			require.Equal(t, p, c.Proto)
			require.Equal(t, at, c.Offset)
			agreed++
		}
		if !ok && !c.Fragmented {
			require.NotEqual(t, OK, r)
		}
	}
	require.Greater(t, agreed, 3000)
}

// randomChain returns headers, most of which are correct.
func randomChain(rnd *rand.Rand) (first Proto, b []byte) {
	kinds := []Proto{ProtoDstOpts, ProtoDstOpts, ProtoRouting, ProtoFragment, ProtoHopByHop, ProtoTCP, ProtoNone}
	n := rnd.IntN(4)
	first = ProtoUDP
	for range n {
		k := kinds[rnd.IntN(len(kinds))]
		h := ext(first, 1+rnd.IntN(3))
		if k == ProtoFragment {
			h = make([]byte, FragmentLen)
			(&Fragment{Next: first, Offset: uint16(rnd.IntN(2)) * 8}).Put(h)
		}
		if rnd.IntN(8) == 0 {
			h[rnd.IntN(len(h))] ^= byte(rnd.Uint32())
		}
		b = append(h, b...)
		first = k
	}
	return first, append(b, randomBytes(rnd, rnd.IntN(20))...)
}

// RFC 8200 MUST-39.
func TestICMPv6EchoIsWhatPackageICMPMakesOfIt(t *testing.T) {
	rnd := testRand()
	for n := range 60 {
		data := randomBytes(rnd, n)
		typ, oracle := ICMPv6Echo, ipv6.ICMPTypeEchoRequest
		if n%2 == 1 {
			typ, oracle = ICMPv6EchoReply, ipv6.ICMPTypeEchoReply
		}
		m := icmp.Message{Type: oracle, Body: &icmp.Echo{ID: rnd.IntN(65536), Seq: rnd.IntN(65536), Data: data}}
		b, err := m.Marshal(icmp.IPv6PseudoHeader(six1.AsSlice(), six2.AsSlice()))
		require.NoError(t, err)
		h, body, r := ParseICMPv6(six1, six2, b)
		require.Equal(t, OK, r)
		require.Equal(t, typ, h.Type)
		require.Equal(t, m.Body.(*icmp.Echo).ID, int(h.ID()))
		require.Equal(t, m.Body.(*icmp.Echo).Seq, int(h.Seq()))
		require.True(t, bytes.Equal(data, body))
		require.False(t, h.IsError())

		out := make([]byte, ICMPLen+n)
		(&ICMPv6{Type: typ, Rest: EchoRest(h.ID(), h.Seq())}).Put(six1, six2, out, data)
		require.Equal(t, b, out)
	}
}

// RFC 8200 MUST-39.
func TestICMPv6RefusesShortAndDamagedMessages(t *testing.T) {
	b := make([]byte, ICMPLen+4)
	(&ICMPv6{Type: ICMPv6Echo}).Put(six1, six2, b, []byte("data"))
	for n := range ICMPLen {
		_, _, r := ParseICMPv6(six1, six2, b[:n])
		require.Equal(t, ShortICMPv6, r)
	}
	for bit := range len(b) * 8 {
		c := bytes.Clone(b)
		c[bit/8] ^= 1 << (bit % 8)
		_, _, r := ParseICMPv6(six1, six2, c)
		require.Equal(t, BadICMPv6Checksum, r)
	}
	// The checksum covers the pseudo-header: RFC 4443 2.3.
	_, _, r := ParseICMPv6(six1, link1, b)
	require.Equal(t, BadICMPv6Checksum, r)
}

func TestQuotedIPv6PacketsAreReadThoughCutShort(t *testing.T) {
	udp := udpDatagram(UDP{SrcPort: 1, DstPort: 2}, make([]byte, 100))
	plain := ipv6Packet(IPv6{Next: ProtoUDP}, udp)
	for n := range len(plain) {
		q, r := ParseQuoted6(plain[:n])
		if n < IPv6Len+8 {
			require.Equal(t, ShortQuoted6, r)
			continue
		}
		require.Equal(t, OK, r)
		require.Equal(t, ProtoUDP, q.Proto)
		require.Equal(t, six1, q.Src)
		require.Equal(t, plain[IPv6Len:n], q.Transport)
	}
	behind := ipv6Packet(IPv6{Next: ProtoDstOpts}, append(ext(ProtoUDP, 1), udp...))
	q, r := ParseQuoted6(behind)
	require.Equal(t, OK, r)
	require.Equal(t, udp, q.Transport)
	q, r = ParseQuoted6(behind[:IPv6Len+12])
	require.Equal(t, OK, r)
	require.Nil(t, q.Transport)
	require.Equal(t, ProtoUDP, q.Proto)

	frag := make([]byte, FragmentLen)
	(&Fragment{Next: ProtoUDP, Offset: 1232}).Put(frag)
	q, r = ParseQuoted6(ipv6Packet(IPv6{Next: ProtoFragment}, append(frag, udp...)))
	require.Equal(t, OK, r)
	require.Equal(t, uint16(1232), q.Fragment)
	require.Nil(t, q.Transport)

	_, r = ParseQuoted6(ipv4Packet(IPv4{Proto: ProtoUDP}, make([]byte, 40)))
	require.Equal(t, BadQuoted6, r)
	_, r = ParseQuoted6(ipv6Packet(IPv6{Next: ProtoDstOpts}, bytes.Repeat(ext(ProtoDstOpts, 1), 20)))
	require.Equal(t, BadQuoted6, r)
}

// bigIPv6 returns a TCP super-frame with n bytes of payload, which are too many for the Payload Length field.
func bigIPv6(n int) []byte {
	return append(ipv6Packet(IPv6{Next: ProtoTCP}, nil), make([]byte, n)...)
}

func TestALargeSuperFrameHasNoPayloadLength(t *testing.T) {
	b := bigIPv6(100_000)
	h, payload, r := ParseIPv6(b)
	require.Equal(t, OK, r)
	require.Len(t, payload, 100_000)
	require.Zero(t, h.PayloadLen)
	payload, r = new(IPv6).ParseHead(b[:80], len(b)-80)
	require.Equal(t, OK, r)
	require.Len(t, payload, 80-IPv6Len)
	_, r = new(IPv6).ParseHead(b[:80], IPv6Len+0xffff-80)
	require.Equal(t, BadIPv6PayloadLen, r, "a length that fits the field must be in the field")
	_, r = new(IPv6).ParseHead(b[:80], IPv6Len+0xffff-80+1)
	require.Equal(t, OK, r)
	b[6] = byte(ProtoUDP)
	_, payload, r = ParseIPv6(b)
	require.Equal(t, OK, r)
	require.Empty(t, payload, "the link has padded the packet")
}

func TestIPv6DoesNotAllocate(t *testing.T) {
	alert := append(ext(ProtoDstOpts, 1, 5, 2), append(ext(ProtoUDP, 1), make([]byte, 8)...)...)
	b := ipv6Packet(IPv6{Next: ProtoHopByHop}, alert)
	m := make([]byte, ICMPLen)
	out := make([]byte, IPv6Len)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		h, payload, _ := ParseIPv6(b)
		WalkIPv6(h.Next, payload)
		h.Put(out, len(payload))
		(&ICMPv6{Type: ICMPv6Echo}).Put(six1, six2, m, nil)
		ParseICMPv6(six1, six2, m)
		ParseQuoted6(b)
	}))
}

func FuzzIPv6(f *testing.F) {
	frag := make([]byte, FragmentLen)
	(&Fragment{Next: ProtoTCP, More: true}).Put(frag)
	f.Add(ipv6Packet(IPv6{Next: ProtoTCP}, make([]byte, 20)))
	f.Add(ipv6Packet(IPv6{Next: ProtoHopByHop}, append(ext(ProtoFragment, 1), frag...)))
	f.Add(ipv6Packet(IPv6{Next: ProtoRouting}, ext(ProtoDstOpts, 3, 0, 2)))
	f.Add(ipv6Packet(IPv6{Next: ProtoDstOpts}, ext(ProtoUDP, 2, 0xc2, 4)))
	f.Add(bigIPv6(100_000))
	f.Fuzz(func(t *testing.T, b []byte) {
		ParseIPv6(b)
		ParseQuoted6(b)
		fixIPv6(b)
		h, payload, r := ParseIPv6(b)
		if r != OK {
			return
		}
		if h.PayloadLen == 0 && h.Next == ProtoTCP && len(b) > IPv6Len+0xffff {
			require.Len(t, payload, len(b)-IPv6Len)
			return // Put does not write such headers
		}
		require.Len(t, payload, int(h.PayloadLen))
		out := make([]byte, IPv6Len)
		h.Put(out, len(payload))
		require.Equal(t, b[:IPv6Len], out)
		c, r := WalkIPv6(h.Next, payload)
		require.LessOrEqual(t, c.Offset, len(payload))
		require.Less(t, c.NextAt, len(b))
		if r != OK {
			require.Less(t, int(c.Pointer), len(b))
			require.True(t, c.Answer == AnswerNone || c.Pointer > 0)
			return
		}
		require.Equal(t, Proto(b[c.NextAt]), c.Proto)
		if p, at, ok := slowWalk(h.Next, payload); !c.Fragmented {
			require.True(t, ok)
			require.Equal(t, p, c.Proto)
			require.Equal(t, at, c.Offset)
		}
		CompleteChain(c.Proto, payload[c.Offset:])
		WalkReassembled(c.Proto, b[:IPv6Len+c.Offset], payload[c.Offset:])
	})
}

func BenchmarkParseIPv6(b *testing.B) {
	p := ipv6Packet(IPv6{Next: ProtoTCP}, make([]byte, 1440))
	for b.Loop() {
		h, payload, _ := ParseIPv6(p)
		WalkIPv6(h.Next, payload)
	}
}
