package stack

import (
	"net/netip"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// fuzzInBubble returns a function for f.Fuzz that runs fuzz in a synctest bubble. In a bubble, Close does
// not time out because the machine is busy.
func fuzzInBubble(fuzz func(t *testing.T, b []byte, fix bool)) func(*testing.T, []byte, bool) {
	return func(t *testing.T, b []byte, fix bool) {
		synctest.Test(t, func(t *testing.T) { fuzz(t, b, fix) })
	}
}

// FuzzInput sends frames to a host. The input is a list of frames, each preceded by its length in two
// bytes. If fix is true, the test corrects the checksums, so that mutated frames reach more of the code.
func FuzzInput(f *testing.F) {
	list := func(frames ...[]byte) (b []byte) {
		for _, fr := range frames {
			b = append(b, byte(len(fr)>>8), byte(len(fr)))
			b = append(b, fr...)
		}
		return b
	}
	udp := udpDatagram(addrPort("192.0.2.2:9"), addrPort("192.0.2.1:9"), []byte("hello, world"))
	ask := make([]byte, wire.EthernetLen+wire.ARPLen)
	(&wire.Ethernet{Dst: wire.Broadcast(), Src: macB, Type: wire.EtherTypeARP}).Put(ask)
	(&wire.ARP{Op: wire.ARPRequest, SenderMAC: macB, SenderIP: addr("192.0.2.2"), TargetIP: addr("192.0.2.1")}).Put(ask[wire.EthernetLen:])
	ip := func(h wire.IPv4, b []byte) []byte { return ethernet(macA, ipPacket(h, b)) }
	syn := make([]byte, wire.MaxTCPLen)
	tcp := wire.TCP{SrcPort: 9, DstPort: 80, Flags: wire.FlagSYN, Window: 1000, MSS: 1460, HasTS: true, SACKPermitted: true}
	syn = syn[:tcp.Put(syn)]
	wire.SetTCPChecksum(addr("192.0.2.2"), addr("192.0.2.1"), syn)
	sent := ipPacket(wire.IPv4{Proto: wire.ProtoUDP, Src: addr("192.0.2.1"), Dst: addr("192.0.2.2")}, udp)
	f.Add(list(ask), true)
	f.Add(list(ask, ip(wire.IPv4{Proto: wire.ProtoUDP}, udp)), true)
	f.Add(list(ip(wire.IPv4{Proto: wire.ProtoICMP}, echoRequest(1, 2, []byte("x")))), true)
	f.Add(list(ip(wire.IPv4{Proto: wire.ProtoTCP}, syn)), true)
	f.Add(list(ip(wire.IPv4{Proto: 99}, udp)), false)
	f.Add(list(ip(wire.IPv4{Proto: wire.ProtoICMP}, quote(wire.ICMPUnreachable, wire.UnreachPort, 0, sent))), true)
	f.Add(list(ip(wire.IPv4{Proto: wire.ProtoICMP}, quote(wire.ICMPUnreachable, wire.UnreachFragNeeded, 576, sent))), true)
	f.Add(list(
		ip(wire.IPv4{Proto: wire.ProtoUDP, ID: 1, MoreFragments: true}, udp[:16]),
		ip(wire.IPv4{Proto: wire.ProtoUDP, ID: 1, FragOffset: 16}, udp[16:]),
	), true)
	igmp := func(dst string, b ...byte) []byte {
		return ethernet(wire.MulticastMAC(addr(dst)), ipPacket(wire.IPv4{Proto: wire.ProtoIGMP, Dst: addr(dst), Options: wire.RouterAlertOption()}, b))
	}
	f.Add(list(
		igmp("224.0.0.1", 0x11, 1, 0, 0, 0, 0, 0, 0, 2, 125, 0, 0),
		igmp("224.1.2.3", 0x11, 1, 0, 0, 224, 1, 2, 3, 2, 125, 0, 1, 198, 51, 100, 1),
		igmp("224.0.0.1", 0x11, 100, 0, 0, 0, 0, 0, 0),
		igmp("224.1.2.3", 0x16, 0, 0, 0, 224, 1, 2, 3),
		igmp("224.0.0.1", 0x11, 0, 0, 0, 0, 0, 0, 0),
	), true)
	f.Add(list(tagFrame(5, ask), tagFrame(5, ip(wire.IPv4{Proto: wire.ProtoUDP, Dst: addr("198.51.100.1")}, udp))), true)
	f.Add(list(tagFrame(0xe000, ip(wire.IPv4{Proto: wire.ProtoUDP}, udp)), tagFrame(6, ask)), true)
	f.Add(list(tagFrame(5, tagFrame(5, ask)), tagFrame(0, tagFrame(5, ask)), tagFrame(5, ask)[:17]), false)
	f.Fuzz(fuzzInBubble(func(t *testing.T, b []byte, fix bool) {
		dev, other := nic.Pipe(nic.PipeConfig{NoTxChecksum: true, MACs: [2][6]byte{macA, macB}})
		other.Attach(func([]nic.Frame) {})
		s, err := New(Config{
			NICs: []NIC{
				{Name: "eth0", Device: dev, Addrs: []netip.Prefix{prefix("192.0.2.1/24")}},
				{Device: dev, VLAN: 5, Addrs: []netip.Prefix{prefix("198.51.100.1/24")}},
			},
			Rand: testRand(),
		})
		require.NoError(t, err)
		u, err := s.OpenUDP(FamilyAny, addrPort("0.0.0.0:9"))
		require.NoError(t, err)
		require.NoError(t, u.Connect(addrPort("192.0.2.2:9")))
		require.NoError(t, u.Join(addr("224.1.2.3"), 2))
		l, err := s.ListenTCP(FamilyAny, addrPort("0.0.0.0:80"), ListenOptions{})
		require.NoError(t, err)
		r, err := s.OpenRaw(FamilyAny, uint16(wire.ProtoICMP), netip.Addr{})
		require.NoError(t, err)
		for len(b) >= 2 {
			n := min(int(b[0])<<8|int(b[1]), len(b)-2)
			frame := append([]byte(nil), b[2:2+n]...)
			b = b[2+n:]
			if fix {
				fixChecksums(frame)
			}
			if n > 0 {
				other.Send([]nic.Frame{{Head: frame}})
			}
		}
		s.Stats()
		require.NoError(t, r.Close())
		require.NoError(t, u.Close())
		require.NoError(t, l.Close())
		require.NoError(t, s.Close())
	}))
}

// fixChecksums corrects the checksums of an IPv4 frame, and leaves other frames unchanged.
func fixChecksums(frame []byte) {
	if len(frame) > maxLinkLen && frame[12] == 0x81 && frame[13] == 0 {
		frame = frame[wire.VLANTagLen:] // as if the tag were part of the addresses
	}
	if len(frame) < wire.EthernetLen+wire.IPv4Len || frame[12] != 8 || frame[13] != 0 { // not IPv4
		return
	}
	ip := frame[wire.EthernetLen:]
	hlen := int(ip[0]&15) * 4
	if hlen < wire.IPv4Len || hlen > len(ip) {
		return
	}
	ip[10], ip[11] = 0, 0
	sum := wire.Checksum(ip[:hlen])
	ip[10], ip[11] = byte(sum>>8), byte(sum)
	h, b, r := wire.ParseIPv4(ip)
	if r != wire.OK || h.IsFragment() {
		return
	}
	switch {
	case h.Proto == wire.ProtoIGMP && len(b) >= wire.IGMPLen, h.Proto == wire.ProtoICMP && len(b) >= wire.ICMPLen:
		b[2], b[3] = 0, 0
		sum := wire.Checksum(b)
		b[2], b[3] = byte(sum>>8), byte(sum)
	case h.Proto == wire.ProtoTCP && len(b) >= wire.TCPLen:
		wire.SetTCPChecksum(h.Src, h.Dst, b)
	case h.Proto == wire.ProtoUDP && len(b) >= wire.UDPLen:
		b[6], b[7] = 0, 0 // a datagram without a checksum is valid
	}
}
