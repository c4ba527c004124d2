package stack

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// FuzzInput6 sends arbitrary frames to a host with both families. The input has the format that FuzzInput
// describes.
func FuzzInput6(f *testing.F) {
	list := func(frames ...[]byte) (b []byte) {
		for _, fr := range frames {
			b = append(b, byte(len(fr)>>8), byte(len(fr)))
			b = append(b, fr...)
		}
		return b
	}
	host, other := addr("2001:db8::1"), addr("2001:db8::2")
	six := func(h wire.IPv6, b []byte) []byte { return ethernet6(macA, ip6Packet(h, b)) }
	udp := udpDatagram(netip.AddrPortFrom(other, 9), netip.AddrPortFrom(host, 9), []byte("hello, world"))
	sent := ip6Packet(wire.IPv6{Next: wire.ProtoUDP, Src: host, Dst: other}, udp)
	syn := make([]byte, wire.MaxTCPLen)
	tcp := wire.TCP{SrcPort: 9, DstPort: 80, Flags: wire.FlagSYN, Window: 1000, MSS: 1440, HasTS: true, SACKPermitted: true}
	syn = syn[:tcp.Put(syn)]
	wire.SetTCPChecksum(other, host, syn)
	icmp := func(typ wire.ICMPv6Type, code uint8, rest uint32, src, dst string, body []byte) []byte {
		return ndFrame(ndMessage{typ: typ, code: code, rest: rest, src: src, dst: dst, body: body})
	}
	fragment := func(off uint16, more bool, b []byte) []byte {
		h := make([]byte, wire.FragmentLen, wire.FragmentLen+len(b))
		(&wire.Fragment{Next: wire.ProtoUDP, Offset: off, More: more, ID: 7}).Put(h)
		return six(wire.IPv6{Next: wire.ProtoFragment}, append(h, b...))
	}
	ns := (&wire.NeighborSol{Target: host, Source: macB, HasSource: true, Nonce: [6]byte{1, 2, 3}, HasNonce: true}).Append(nil)
	na := (&wire.NeighborAdv{Target: other, Link: macB, HasLink: true}).Append(nil)
	ra, rest := (&wire.RouterAdv{HopLimit: 64, Lifetime: 1800, Options: wire.AppendMTU(nil, 1400)}).Append(nil)
	redirect := (&wire.RedirectMsg{Target: addr("fe80::2"), Dst: addr("2001:db8:1::1"), Link: macB, HasLink: true}).Append(nil)
	fullAdv, fullRest := (&wire.RouterAdv{Lifetime: 1800, Reachable: 1000, Retrans: 1000, Options: slices.Concat(
		(&wire.PrefixInfo{Prefix: prefix("2001:db8:2::/64"), OnLink: true, Auto: true, Valid: 7200, Preferred: 3600}).Append(nil),
		(&wire.RouteInfo{Prefix: prefix("2001:db8:3::/48"), Lifetime: 600}).Append(nil), wire.AppendRDNSS(nil, 600, other),
		wire.AppendDNSSL(nil, 600, "a.test"), wire.AppendPREF64(nil, prefix("64:ff9b::/96"), 600),
		wire.AppendNDOption(nil, wire.NDSourceLink, macB[:]))}).Append(nil)
	query := append(make([]byte, 16), 2, 125, 0, 0)
	mld := make([]byte, wire.RouterAlertLen, 64)
	wire.PutRouterAlert(mld, wire.ProtoICMPv6)
	message := make([]byte, wire.ICMPLen+len(query))
	(&wire.ICMPv6{Type: wire.ICMPv6MLDQuery, Rest: 1000 << 16}).Put(addr("fe80::2"), addr("ff02::1"), message, query)

	f.Add(list(icmp(wire.ICMPv6Echo, 0, wire.EchoRest(1, 2), "2001:db8::2", "2001:db8::1", []byte("ping"))), true)
	f.Add(list(icmp(wire.ICMPv6Echo, 0, wire.EchoRest(1, 2), "fe80::2", "ff02::1", []byte("ping"))), true)
	f.Add(list(icmp(wire.ICMPv6NeighborSol, 0, 0, "2001:db8::2", wire.SolicitedNode(host).String(), ns),
		icmp(wire.ICMPv6NeighborAdv, 0, wire.NASolicited|wire.NAOverride, "2001:db8::2", "2001:db8::1", na),
		six(wire.IPv6{Next: wire.ProtoUDP}, udp)), true)
	f.Add(list(icmp(wire.ICMPv6RouterAdv, 0, rest, "fe80::2", "ff02::1", ra),
		icmp(wire.ICMPv6Redirect, 0, 0, "fe80::2", "2001:db8::1", redirect)), true)
	f.Add(list(icmp(wire.ICMPv6RouterAdv, 0, fullRest, "fe80::2", "ff02::1", fullAdv),
		icmp(wire.ICMPv6RouterSol, 0, 0, "fe80::2", "ff02::2", wire.AppendNDOption(nil, wire.NDSourceLink, macB[:]))), true)
	f.Add(list(ethernet6(wire.MulticastMAC(addr("ff02::1")), ip6Packet(wire.IPv6{Next: wire.ProtoHopByHop, HopLimit: 1, Src: addr("fe80::2"), Dst: addr("ff02::1")},
		append(mld, message...)))), true)
	f.Add(list(six(wire.IPv6{Next: wire.ProtoTCP}, syn)), true)
	f.Add(list(six(wire.IPv6{Next: 99}, udp), six(wire.IPv6{Next: wire.ProtoNone}, nil)), false)
	f.Add(list(six(wire.IPv6{Next: wire.ProtoDstOpts}, append(ext(wire.ProtoUDP, 0xbe, 4), udp...))), true)
	f.Add(list(six(wire.IPv6{Next: wire.ProtoRouting}, append([]byte{17, 0, 0, 1, 0, 0, 0, 0}, udp...))), true)
	f.Add(list(fragment(0, true, udp[:16]), fragment(16, false, udp[16:])), true)
	f.Add(list(fragment(0, false, udp)), true)
	f.Add(list(icmp(wire.ICMPv6Unreachable, wire.Unreach6Port, 0, "2001:db8::2", "2001:db8::1", sent),
		icmp(wire.ICMPv6TooBig, 0, 1280, "2001:db8::2", "2001:db8::1", sent),
		icmp(wire.ICMPv6ParamProblem, 1, 6, "2001:db8::2", "2001:db8::1", sent)), true)
	f.Add(list(six(wire.IPv6{Next: wire.ProtoUDP, Src: addr("::ffff:192.0.2.2"), Dst: addr("::ffff:192.0.2.1")}, udp),
		ethernet(macA, ipPacket(wire.IPv4{Proto: wire.ProtoICMPv6}, ns))), true)
	f.Fuzz(fuzzInBubble(func(t *testing.T, b []byte, fix bool) {
		dev, peer := nic.Pipe(nic.PipeConfig{NoTxChecksum: true, MACs: [2][6]byte{macA, macB}})
		peer.Attach(func([]nic.Frame) {})
		s, err := New(Config{NICs: []NIC{{Name: "eth0", Device: dev, Addrs: both[0], Auto: true, Temporary: true}}, Rand: testRand()})
		require.NoError(t, err)
		require.NoError(t, s.Advertise("eth0", &RouterConfig{Lifetime: time.Hour}))
		u, err := s.OpenUDP(FamilyAny, addrPort("[::]:9"))
		require.NoError(t, err)
		c, err := s.OpenUDP(Family6, addrPort("[::]:10"))
		require.NoError(t, err)
		require.NoError(t, c.Connect(netip.AddrPortFrom(other, 9)))
		require.NoError(t, u.Join(addr("ff02::1:3"), 2))
		l, err := s.ListenTCP(FamilyAny, addrPort("[::]:80"), ListenOptions{})
		require.NoError(t, err)
		r, err := s.OpenRaw(Family6, uint16(wire.ProtoICMPv6), netip.Addr{})
		require.NoError(t, err)
		for len(b) >= 2 {
			n := min(int(b[0])<<8|int(b[1]), len(b)-2)
			frame := append([]byte(nil), b[2:2+n]...)
			b = b[2+n:]
			if fix {
				fixChecksums(frame)
				fixChecksums6(frame)
			}
			if n > 0 {
				peer.Send([]nic.Frame{{Head: frame}})
			}
		}
		s.Stats()
		require.Empty(t, s.checkNoZones())
		for _, x := range []interface{ Close() error }{r, u, c, l, s} {
			require.NoError(t, x.Close())
		}
	}))
}

// checkNoZones returns an address in the stack's tables that has a zone, or "" if no address has one.
func (s *Stack) checkNoZones() string {
	var all []netip.Addr
	for _, ifc := range *s.ifaces.Load() {
		for _, a := range ifc.list() {
			all = append(all, a.addr())
		}
		all = append(all, ifc.group.list(true)...)
		for _, t := range ifc.neighborTables() {
			for a := range t.m {
				all = append(all, a)
			}
		}
	}
	for i := range udpBuckets {
		for _, b := range s.udp.at(uint16(i)) {
			all = append(all, b.at.addr, b.peer.Addr(), b.u.src, b.u.path.dst, b.u.path.src)
		}
	}
	for _, r := range s.raw.sockets() {
		all = append(all, r.ends.Load().local.addr, r.ends.Load().peer, r.path.dst)
	}
	for _, l := range s.tcp.listeners.all() {
		all = append(all, l.at.addr, l.local.Addr())
	}
	for ends := range s.tcp.paths.m {
		all = append(all, ends.dst, ends.src)
	}
	for _, r := range s.table.Load().routes {
		all = append(all, r.via, r.src)
	}
	for _, a := range all {
		if a.Zone() != "" {
			return a.String()
		}
	}
	return ""
}

// fixChecksums6 corrects the checksums of an IPv6 frame.
func fixChecksums6(frame []byte) {
	if len(frame) < wire.EthernetLen+wire.IPv6Len || frame[12] != 0x86 || frame[13] != 0xdd { // not IPv6
		return
	}
	h, b, r := wire.ParseIPv6(frame[wire.EthernetLen:])
	if r != wire.OK || h.Src.Is4In6() || h.Dst.Is4In6() { // such a packet is invalid whatever its checksum is
		return
	}
	c, r := wire.WalkIPv6(h.Next, b)
	if r != wire.OK || c.Fragmented {
		return
	}
	switch b = b[c.Offset:]; {
	case c.Proto == wire.ProtoICMPv6 && len(b) >= wire.ICMPLen:
		wire.SetICMPv6Checksum(h.Src, h.Dst, b)
	case c.Proto == wire.ProtoTCP && len(b) >= wire.TCPLen:
		wire.SetTCPChecksum(h.Src, h.Dst, b)
	case c.Proto == wire.ProtoUDP && len(b) >= wire.UDPLen:
		wire.SetUDPChecksum(h.Src, h.Dst, b)
	}
}
