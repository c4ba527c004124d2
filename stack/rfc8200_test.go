package stack

import (
	"bytes"
	"context"
	"net/netip"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// RFC 8200 MUST-1 MUST-2 MUST-3: "IPv6 nodes must accept and attempt to process extension headers in any order and
// occurring any number of times in the same packet".
// RFC 8200 MUST-11: padding is known. RFC 8200 4.4, 4.7:
// RFC 8200 MUST-13 MUST-29: a Routing header at its end is ignored, and so is what follows No Next Header.
func TestHeadersAreAcceptedInAnyOrder(t *testing.T) {
	s, p := hostAndPeer6(t)
	u := openUDP(t, s, "[::]:6")
	udp := udpDatagram(addrPort("[2001:db8::2]:5"), addrPort("[2001:db8::1]:6"), []byte("hi"))
	options := func(next wire.Proto) []byte { return ext(next, 0, 1, 2, 0, 0) } // Pad1, PadN
	routing := func(next wire.Proto) []byte { return []byte{byte(next), 0, 253, 0, 0, 0, 0, 0} }
	for _, parts := range [][][]byte{
		{{byte(wire.ProtoDstOpts)}, options(wire.ProtoRouting), routing(wire.ProtoDstOpts), options(wire.ProtoUDP)},
		{{byte(wire.ProtoRouting)}, routing(wire.ProtoRouting), routing(wire.ProtoDstOpts), options(wire.ProtoUDP)},
		{{byte(wire.ProtoHopByHop)}, options(wire.ProtoRouting), routing(wire.ProtoUDP)},
		{{byte(wire.ProtoDstOpts)}, options(wire.ProtoDstOpts), options(wire.ProtoDstOpts), options(wire.ProtoUDP)},
	} {
		p.send(ip6Packet(wire.IPv6{Next: wire.Proto(parts[0][0])}, append(bytes.Join(parts[1:], nil), udp...)))
		require.Equal(t, []string{"hi"}, texts(u), "%x", parts)
	}
	// Of several faults, the host reports the first.
	bad := append(ext(wire.ProtoRouting, 0xbe, 4), 99, 0, 0, 1, 0, 0, 0, 0)
	p.send(ip6Packet(wire.IPv6{Next: wire.ProtoDstOpts}, bad))
	m, _ := icmp6(t, p.take()[0])
	require.Equal(t, wire.ICMPv6{Type: wire.ICMPv6ParamProblem, Code: wire.ParamOption, Rest: 42}, m)
	p.send(ip6Packet(wire.IPv6{Next: wire.ProtoNone}, udp))
	require.Empty(t, p.take())
	require.Empty(t, texts(u))
}

// RFC 8200 MUST-5 MUST-6: "a receiver must not, for example, scan through the header looking for a particular kind of option
// and process that option prior to processing all preceding ones."
func TestOptionsAreProcessedInOrder(t *testing.T) {
	_, p := hostAndPeer6(t)
	// The types 0x80 and 0xc0 ask for a Parameter Problem, and 0x40 for a silent discard.
	two := []byte{byte(wire.ProtoNone), 0, 0x80, 0, 0xc0, 0, 0x40, 0}
	p.send(ip6Packet(wire.IPv6{Next: wire.ProtoDstOpts}, two))
	m, _ := icmp6(t, p.take()[0])
	require.EqualValues(t, 42, m.Rest, "the first option is reported")
	two[2] = 0x40
	p.send(ip6Packet(wire.IPv6{Next: wire.ProtoDstOpts}, two))
	require.Empty(t, p.take(), "the first option makes the host discard the packet silently")
}

// RFC 8200 MUST-41: "the response packet(s) must not include a Routing header that was automatically derived by
// 'reversing' the received Routing header".
func TestAnswersHaveNoRoutingHeader(t *testing.T) {
	_, p := hostAndPeer6(t)
	echo := echoRequest6(addr("2001:db8::2"), addr("2001:db8::1"), 1, 2, nil)
	p.send(ip6Packet(wire.IPv6{Next: wire.ProtoRouting}, append([]byte{byte(wire.ProtoICMPv6), 2, 0, 0, 0, 0, 0, 0,
		0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9}, echo...)))
	frames := p.take()
	require.Len(t, frames, 1)
	require.Equal(t, byte(wire.ProtoICMPv6), frames[0][wire.IPv6NextOffset])
}

// RFC 8200 MUST-28: of both reserved fields, "Initialized to zero for transmission; ignored on reception."
func TestReservedBitsOfFragmentsAreIgnored(t *testing.T) {
	_, p, u, datagram, payload := fragmentHost6(t)
	for _, f := range []piece{{0, 1000}, {1000, 2000}, {2000, len(datagram)}} {
		b := fragment6(wire.IPv6{}, nil, wire.ProtoUDP, 1, datagram, f)
		b[wire.IPv6Len+1] = 0xff
		b[wire.IPv6Len+3] |= 6
		p.send(b)
	}
	require.True(t, bytes.Equal(payload, queued(t, u)))
}

// RFC 8200 MUST-31 MUST-32: "the node must be able to accept packets as large as that link's MTU", and "a fragmented packet
// that, after reassembly, is as large as 1500 octets"; here the largest that there are. RFC 8200 8.3:
// RFC 8200 MUST-40: "must take into account the larger size of the IPv6 header".
func TestPacketsOfAllSizesAreAccepted(t *testing.T) {
	s, p := hostAndPeer6(t)
	u := openUDP(t, s, "[::]:6")
	require.NoError(t, u.SetReadBuffer(1<<20))
	full := udpDatagram(addrPort("[2001:db8::2]:5"), addrPort("[2001:db8::1]:6"), make([]byte, 1452))
	p.send(ip6Packet(wire.IPv6{Next: wire.ProtoUDP}, full))
	require.Len(t, queued(t, u), 1452)
	for _, n := range []int{1452, maxUDPPayload6} {
		big := udpDatagram(addrPort("[2001:db8::2]:5"), addrPort("[2001:db8::1]:6"), make([]byte, n))
		for off := 0; off < len(big); off += 1448 {
			p.send(fragment6(wire.IPv6{}, nil, wire.ProtoUDP, uint32(n), big, piece{off, min(off+1448, len(big))}))
		}
		require.Len(t, queued(t, u), n)
	}
	out, err := s.route(addr("2001:db8::2"), addr("2001:db8::1"))
	require.NoError(t, err)
	require.Equal(t, 1440, out.mss())
}

// echoBehind sends an echo request behind the given extension headers, and returns the packets that the host
// sends in reply. The last header must have ICMPv6 as its Next Header.
func (p *peer) echoBehind(first wire.Proto, headers ...[]byte) [][]byte {
	p.t.Helper()
	echo := echoRequest6(addr("2001:db8::2"), addr("2001:db8::1"), 7, 8, []byte("data"))
	p.send(ip6Packet(wire.IPv6{Next: first}, append(bytes.Join(headers, nil), echo...)))
	return p.take()
}

// RFC 8200 MUST-1 MUST-2: "a receiver must not, for example, scan through a packet looking for a particular kind of
// extension header and process that header prior to processing all preceding ones."
func TestExtensionHeadersAreProcessedInOrder(t *testing.T) {
	_, p := hostAndPeer6(t)
	// discard and report are Destination Options with an unknown option: the host discards the packet
	// silently, or reports the option. route is a Routing header of type 0 with one segment left, which the
	// host reports.
	discard := func(next wire.Proto) []byte { return ext(next, 0x7e, 4) }
	report := func(next wire.Proto) []byte { return ext(next, 0xbe, 4) }
	route := func(next wire.Proto) []byte { return ext(next, 0, 1) }
	const routing, options, icmp = wire.ProtoRouting, wire.ProtoDstOpts, wire.ProtoICMPv6
	require.Empty(t, p.echoBehind(options, discard(routing), route(icmp)))
	require.Empty(t, p.echoBehind(options, discard(options), report(icmp)))
	require.Empty(t, p.echoBehind(options, discard(200)))
	for _, x := range []struct {
		frames  [][]byte
		code    uint8
		pointer uint32
	}{
		{p.echoBehind(routing, route(options), discard(icmp)), wire.ParamHeader, 42},
		{p.echoBehind(options, report(options), discard(icmp)), wire.ParamOption, 42},
		{p.echoBehind(options, report(routing), route(icmp)), wire.ParamOption, 42},
		{p.echoBehind(routing, route(options), report(icmp)), wire.ParamHeader, 42},
		{p.echoBehind(options, ext(options, 1, 4), report(200)), wire.ParamOption, 50},
	} {
		require.Len(t, x.frames, 1)
		m, _ := icmp6(t, x.frames[0])
		require.Equal(t, wire.ICMPv6{Type: wire.ICMPv6ParamProblem, Code: x.code, Rest: x.pointer}, m)
	}
}

// RFC 8200 MUST-42: "a particular option is identified by a full 8-bit Option Type, not just the low-order 5 bits of an
// Option Type." An option with the low bits of Pad1 or PadN is not padding.
func TestAnOptionIsItsWholeType(t *testing.T) {
	_, p := hostAndPeer6(t)
	for _, low := range []byte{0, 1} {
		for high := range byte(8) {
			frames := p.echoBehind(wire.ProtoDstOpts, ext(wire.ProtoICMPv6, low|high<<5, 4))
			switch {
			case high == 0 && low == 0:
				// Pad1, followed by an unknown option of type 4, which is skipped.
				require.Len(t, frames, 1)
			case high <= 1:
				require.Len(t, frames, 1)
				require.Equal(t, wire.ICMPv6EchoReply, wire.ICMPv6Type(frames[0][wire.IPv6Len]), "%d %d", high, low)
			case high <= 3:
				require.Empty(t, frames)
			default:
				require.Len(t, frames, 1)
				m, _ := icmp6(t, frames[0])
				require.EqualValues(t, wire.ParamOption, m.Code)
			}
		}
	}
}

// RFC 8200 SHLD-13: "A node that is the destination of a packet should not discard a packet with Hop Limit equal to zero;
// it should process the packet normally."
func TestAPacketOfHopLimitZeroIsProcessed(t *testing.T) {
	_, p := hostAndPeer6(t)
	packet := ip6Packet(wire.IPv6{Next: wire.ProtoICMPv6}, echoRequest6(addr("2001:db8::2"), addr("2001:db8::1"), 1, 1, nil))
	packet[7] = 0
	p.send(packet)
	require.Len(t, p.take(), 1)
}

// RFC 8200 MUST-16 MUST-18 MUST-19: "The Per-Fragment headers must consist of the IPv6 header plus any extension headers
// that must be processed by nodes en route to the destination"; of the others: "These headers must be in the first
// fragment." RFC 8200 MUST-20: "Fragments must not be created that overlap with any other fragments".
func TestFragmentsHaveTheHeadersOfTheirPacket(t *testing.T) {
	s, p := hostAndPeer6(t)
	way, err := s.route(addr("2001:db8::2"), netip.Addr{})
	require.NoError(t, err)
	datagram := udpDatagram(addrPort("[2001:db8::1]:9"), addrPort("[2001:db8::2]:9"), bytes.Repeat([]byte("0123456789"), 400))
	for _, options := range []bool{false, true} {
		h := ipHeader{proto: wire.ProtoUDP, ttl: 64}
		before := 0
		if options {
			var alert [wire.RouterAlertLen]byte
			wire.PutRouterAlert(alert[:], wire.ProtoUDP)
			h.more, before = &ipMore{ext: alert[:], first: wire.ProtoHopByHop}, len(alert)
		}
		sl := way.slot(s.now(), len(datagram), false)
		copy(sl.buf[transportAt:], datagram)
		require.NoError(t, s.sendLarge(s.now(), &way, &h, &sl, len(datagram), &frameMeta{}))
		s.drain()
		frames := p.take()
		require.Len(t, frames, 3)
		var whole []byte
		for i, f := range frames {
			require.LessOrEqual(t, len(f), 1500)
			ip, payload, r := wire.ParseIPv6(f)
			require.Equal(t, wire.OK, r)
			if options {
				require.Equal(t, wire.ProtoHopByHop, ip.Next)
				require.Equal(t, []byte{byte(wire.ProtoFragment), 0, 5, 2, 0, 0, 1, 0}, payload[:before])
			}
			c, r := wire.WalkIPv6(ip.Next, payload)
			require.Equal(t, wire.OK, r)
			require.True(t, c.Fragmented)
			require.Equal(t, before+wire.FragmentLen, c.Offset)
			require.Equal(t, wire.ProtoUDP, c.Fragment.Next)
			require.EqualValues(t, len(whole), c.Fragment.Offset, "they neither overlap nor leave anything out")
			require.Equal(t, i < 2, c.Fragment.More)
			piece := payload[c.Offset:]
			require.True(t, i == 2 || len(piece)%8 == 0)
			whole = append(whole, piece...)
		}
		require.True(t, bytes.Equal(datagram, whole))
	}
}

// RFC 8200 MUST-36 MUST-37: "whenever originating a UDP packet, an IPv6 node must compute a UDP checksum over the packet
// and the pseudo-header, and, if that computation yields a result of zero, it must be changed to hex FFFF".
func TestDatagramsOfIPv6HaveAChecksum(t *testing.T) {
	s, p := hostAndPeer6(t)
	u := openUDP(t, s, "[2001:db8::1]:9")
	ones := 0
	for v := range 1 << 16 { // for one value of v the checksum is zero
		_, err := u.WriteTo([]byte{byte(v >> 8), byte(v)}, addrPort("[2001:db8::2]:9"), SendOptions{})
		require.NoError(t, err)
		if v%1024 != 1023 {
			continue // take the packets in groups of 1024
		}
		for _, f := range p.take() {
			d := f[wire.IPv6Len:]
			if d[6] == 0 && d[7] == 0 || !wire.UDPChecksumOK(addr("2001:db8::1"), addr("2001:db8::2"), d) {
				t.Fatalf("the checksum of %x is wrong", d)
			}
			if d[6] == 0xff && d[7] == 0xff {
				ones++
			}
		}
	}
	require.Equal(t, 1, ones)
}

// RFC 8200 MUST-40 MUST-43: "When using TCP over IPv6, the MSS must be computed as the maximum packet size minus 60
// octets".
func TestTheMSSOfIPv6IsTheMTUMinus60(t *testing.T) {
	for _, mtu := range []int{1280, 1500, 9000} {
		synctest.Test(t, func(t *testing.T) {
			s, p := hostAndPeerOn(t, nic.PipeConfig{Medium: nic.IP, NoTxChecksum: true, MTU: mtu}, with(both[0]))
			ctx, cancel := context.WithCancel(t.Context())
			go s.DialTCP(ctx, FamilyAny, netip.AddrPort{}, addrPort("[2001:db8::2]:80"), TCPOptions{})
			synctest.Wait()
			frames := p.take()
			cancel()
			synctest.Wait()
			require.Len(t, frames, 1)
			ip, segment, r := wire.ParseIPv6(frames[0])
			require.Equal(t, wire.OK, r)
			require.True(t, wire.TCPChecksumOK(ip.Src, ip.Dst, segment))
			h, _, r := wire.ParseTCP(segment)
			require.Equal(t, wire.OK, r)
			require.EqualValues(t, mtu-60, h.MSS, "MTU %d", mtu)
		})
	}
}

// RFC 8200 MUST-31: "From each link to which a node is directly attached, the node must be able to accept packets as
// large as that link's MTU."
func TestPacketsAsLargeAsTheMTUAreAccepted(t *testing.T) {
	for _, mtu := range []int{1280, 1500, 9000, 65535} {
		s, p := hostAndPeerOn(t, nic.PipeConfig{Medium: nic.IP, NoTxChecksum: true, MTU: mtu}, with(both[0]))
		u := openUDP(t, s, "[2001:db8::1]:9")
		require.NoError(t, u.SetReadBuffer(1<<20))
		payload := bytes.Repeat([]byte{0x5a}, mtu-48)
		p.send(ip6Packet(wire.IPv6{Next: wire.ProtoUDP}, udpDatagram(addrPort("[2001:db8::2]:9"), addrPort("[2001:db8::1]:9"), payload)))
		require.True(t, bytes.Equal(payload, queued(t, u)), "MTU %d", mtu)
	}
}
