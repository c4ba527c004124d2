package stack

import (
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// A device may split a frame into Head and Body at any byte, even within its headers.
func TestAFrameMayBeCutAnywhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := ndHost(t)
		require.NoError(t, s.AddAddr("", prefix("192.0.2.1/24"), AddrOptions{}))
		p.reply()
		ask := wire.NeighborSol{Target: addr("2001:db8::1"), Source: macB, HasSource: true}
		p.nd(ndMessage{typ: wire.ICMPv6NeighborSol, src: "2001:db8::2", dst: "2001:db8::1", body: ask.Append(nil)})
		arp := make([]byte, wire.EthernetLen+wire.ARPLen)
		(&wire.Ethernet{Dst: wire.Broadcast(), Src: macB, Type: wire.EtherTypeARP}).Put(arp)
		(&wire.ARP{Op: wire.ARPRequest, SenderMAC: macB, SenderIP: addr("192.0.2.2"), TargetIP: addr("192.0.2.1")}).Put(arp[wire.EthernetLen:])
		recv := s.ifaceNamed("eth0").recv
		recv([]nic.Frame{{Head: arp}})
		for name, frame := range map[string][]byte{
			"ARP":  arp,
			"ND":   ndFrame(ndMessage{typ: wire.ICMPv6NeighborSol, src: "2001:db8::2", dst: "2001:db8::1", body: ask.Append(nil)}),
			"IPv4": ethernet(macA, ipPacket(wire.IPv4{Proto: wire.ProtoICMP}, echoRequest(1, 2, []byte("ping")))),
			"IPv6": ethernet6(macA, ip6Packet(wire.IPv6{
				Next: wire.ProtoICMPv6, HopLimit: 64, Src: addr("2001:db8::2"), Dst: addr("2001:db8::1"),
			}, echoRequest6(addr("2001:db8::2"), addr("2001:db8::1"), 1, 2, []byte("ping")))),
		} {
			for k := range len(frame) + 1 {
				p.take()
				recv([]nic.Frame{{Head: frame[:k:k], Body: frame[k:]}})
				require.Len(t, p.take(), 1, "%s, cut at %d", name, k)
			}
		}
	})
}
