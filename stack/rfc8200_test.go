package stack

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

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
	// What is wrong first is what is told.
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
func TestOptionsAreTakenInTheirOrder(t *testing.T) {
	_, p := hostAndPeer6(t)
	two := []byte{byte(wire.ProtoNone), 0, 0x80, 0, 0xc0, 0, 0x40, 0}
	p.send(ip6Packet(wire.IPv6{Next: wire.ProtoDstOpts}, two))
	m, _ := icmp6(t, p.take()[0])
	require.EqualValues(t, 42, m.Rest, "the first is told of")
	two[2] = 0x40
	p.send(ip6Packet(wire.IPv6{Next: wire.ProtoDstOpts}, two))
	require.Empty(t, p.take(), "the first has the packet discarded in silence")
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
