package stack

import (
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/stack/wire"
)

// This file has the tests of the requirements of RFC 8504 (IPv6 nodes) that no other test covers.
// testdata/rfc8504.txt names the other tests.

// RFC 8504 MUST-17: "all nodes MUST respond to unicast Neighbor Solicitation (NS) messages".
func TestUnicastSolicitationsAreAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p := ndHost(t)
		for _, target := range []string{"2001:db8::1", llA} {
			for _, hasMAC := range []bool{true, false} {
				// RFC 4861 4.3: a unicast solicitation need not include the sender's MAC, because the
				// host already knows it.
				h := wire.NeighborSol{Target: addr(target), Source: macB, HasSource: hasMAC}
				p.nd(ndMessage{typ: wire.ICMPv6NeighborSol, src: "2001:db8::2", dst: target, body: h.Append(nil)})
				require.Equal(t, []string{macA.String() + " > " + macB.String() + " IPv6 " + target + " > 2001:db8::2 ICMPv6 neighbor advertisement " +
					target + " is-at " + macA.String() + " solicited override"}, p.sent())
			}
		}
	})
}

// RFC 8504 MUST-9: an unrecognized header is handled as in RFC 8200 4, "whether the value is an
// unrecognized extension header or an unrecognized upper-layer protocol".
func TestAllUnknownHeadersAreAnswered(t *testing.T) {
	_, p := hostAndPeer6(t)
	const esp, ah, mobility, hip, shim6, experiment, sctp = 50, 51, 135, 139, 140, 253, 132
	for _, next := range []wire.Proto{esp, ah, mobility, hip, shim6, experiment, sctp} {
		for at, first := range map[uint32]wire.Proto{wire.IPv6NextOffset: next, wire.IPv6Len: wire.ProtoDstOpts} {
			payload := make([]byte, 16)
			if first == wire.ProtoDstOpts {
				payload = append(ext(next, 1, 4), payload...)
			}
			p.send(ip6Packet(wire.IPv6{Next: first}, payload))
			frames := p.take()
			require.Len(t, frames, 1, "%d", next)
			m, _ := icmp6(t, frames[0])
			require.Equal(t, wire.ICMPv6{Type: wire.ICMPv6ParamProblem, Code: wire.ParamNextHeader, Rest: at}, m, "%d", next)
		}
	}
}

// RFC 8504 MUST-29: the flags are separate bits (RFC 7371). A socket can join a group with any
// combination of flags, receive its datagrams and send to it.
func TestGroupsOfIPv6MayHaveAnyFlags(t *testing.T) {
	for flags := range 16 {
		for _, scope := range []int{2, 5, 8, 14} {
			s, p := hostAndPeer6(t)
			u := openUDP(t, s, "[::]:6")
			group := addr(fmt.Sprintf("ff%x%x::1234", flags, scope))
			d := udpDatagram(addrPort("[2001:db8::2]:5"), addrPort("["+group.String()+"]:6"), []byte("hi"))
			p.send(ip6Packet(wire.IPv6{Next: wire.ProtoUDP, Dst: group}, d))
			require.Empty(t, texts(u), "%v: not joined", group)
			require.NoError(t, u.Join(group, 2))
			p.send(ip6Packet(wire.IPv6{Next: wire.ProtoUDP, Dst: group}, d))
			require.Equal(t, []string{"hi"}, texts(u), "%v", group)
			p.take()
			_, err := u.WriteTo([]byte("x"), addrPort("["+group.WithZone("eth0").String()+"]:9"), SendOptions{})
			require.NoError(t, err)
			frames := p.take()
			require.Len(t, frames, 1, "%v", group)
			h, _, r := wire.ParseIPv6(frames[0])
			require.Equal(t, wire.OK, r)
			require.Equal(t, group, h.Dst)
		}
	}
}
