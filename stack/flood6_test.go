package stack

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// A flood6 is a flood of packets to the host 2001:db8::1.
type flood6 struct {
	name string
	// packet returns packet i of the flood. If packet is nil, the host itself sends datagrams to random
	// addresses of its /64.
	packet func(i uint32) []byte
	// count returns the value of a counter. At the end of a flood of n packets, it must be at least
	// n - uncounted.
	count     func(s *Stats) uint64
	uncounted uint64
	// whole is true if even a short run needs all packets. Other floods use a tenth in a short run.
	whole bool
	// million is true if even a short run sends a million packets, which takes a second. A test with the race
	// detector is slower, and sends only as many packets as whole requires.
	million bool
}

// drops returns a function for flood6.count, which returns the number of packets dropped for a reason.
func drops(reason DropReason) func(*Stats) uint64 {
	return func(s *Stats) uint64 { return s.Drops[reason] }
}

func ndReceived(s *Stats) uint64 { return s.ND.Received }

// random6 returns a random-looking address in the /64 prefix p, different for each i.
func random6(p string, i uint32) netip.Addr {
	b := addr(p).As16()
	binary.BigEndian.PutUint64(b[8:], (uint64(i)+1)*0x9e3779b97f4a7c15)
	return netip.AddrFrom16(b)
}

// nd6 returns an ICMPv6 packet with the hop limit of Neighbor Discovery.
func nd6(typ wire.ICMPv6Type, rest uint32, src, dst netip.Addr, body []byte) []byte {
	b := make([]byte, wire.ICMPLen+len(body))
	h := wire.ICMPv6{Type: typ, Rest: rest}
	h.Put(src, dst, b, body)
	return ip6Packet(wire.IPv6{Next: wire.ProtoICMPv6, HopLimit: wire.NDHopLimit, Src: src, Dst: dst}, b)
}

// floodMAC returns a MAC that is different for each i, and that no port of the switch has.
func floodMAC(i uint32) (m wire.MAC) {
	m[0], m[1] = 2, 0xff
	binary.BigEndian.PutUint32(m[2:], i)
	return m
}

var (
	floodHost  = addr("2001:db8::1")
	floodNodes = addr("ff02::1") // all nodes

	// floods6 are the floods of RFC 6583, RFC 7112 and others.
	floods6 = []flood6{
		{name: "solicitations of random targets", packet: func(i uint32) []byte {
			h := wire.NeighborSol{Target: random6("2001:db8::", i), Source: floodMAC(i), HasSource: true}
			return nd6(wire.ICMPv6NeighborSol, 0, random6("2001:db8::", ^i), floodHost, h.Append(nil))
		}, count: drops("neighbor solicitation for another host"), whole: true, million: true},
		{name: "solicitations of groups not joined", packet: func(i uint32) []byte {
			h := wire.NeighborSol{Target: random6("2001:db8::", i), Source: floodMAC(i), HasSource: true}
			return nd6(wire.ICMPv6NeighborSol, 0, random6("2001:db8::", ^i), wire.SolicitedNode(h.Target), h.Append(nil))
		}, count: drops("multicast group not joined"), uncounted: 5}, // a few may hit a group that the host has joined
		{name: "solicitations from random sources", packet: func(i uint32) []byte {
			h := wire.NeighborSol{Target: floodHost, Source: floodMAC(i), HasSource: true}
			return nd6(wire.ICMPv6NeighborSol, 0, random6("2001:db8::", i), wire.SolicitedNode(floodHost), h.Append(nil))
		}, count: drops("neighbor evicted"), uncounted: maxNeighbors},
		{name: "probes of the host's address", packet: func(i uint32) []byte {
			h := wire.NeighborSol{Target: floodHost}
			return nd6(wire.ICMPv6NeighborSol, 0, netip.IPv6Unspecified(), wire.SolicitedNode(floodHost), h.Append(nil))
		}, count: func(s *Stats) uint64 { return s.ND.Sent }},
		{name: "advertisements of neighbours", packet: func(i uint32) []byte {
			h := wire.NeighborAdv{Target: random6("2001:db8::", i), Link: floodMAC(i), HasLink: true}
			return nd6(wire.ICMPv6NeighborAdv, wire.NAOverride|wire.NARouter, h.Target, floodNodes, h.Append(nil))
		}, count: ndReceived},
		{name: "claims of the host's address", packet: func(i uint32) []byte {
			h := wire.NeighborAdv{Target: floodHost, Link: floodMAC(i), HasLink: true}
			return nd6(wire.ICMPv6NeighborAdv, wire.NAOverride, random6("2001:db8::", i), floodHost, h.Append(nil)) // sent to the host only, because the client would believe it
		}, count: drops("address of this host used by another station")},
		{name: "advertisements of routers", packet: func(i uint32) []byte {
			var b [16]byte
			b[0], b[1] = 0x20, 1 // a different prefix 2001:0:xxxx:xxxx::/64 for each i
			binary.BigEndian.PutUint32(b[4:], i)
			net := netip.AddrFrom16(b)
			src := random6("fe80::", i)
			mac := floodMAC(i)
			r := wire.RouterAdv{Lifetime: 1800, Options: wire.AppendNDOption(nil, wire.NDSourceLink, mac[:])}
			r.Options = append(r.Options, prefixOption(net.String()+"/64", time.Hour, time.Hour)...)
			r.Options = (&wire.RouteInfo{Prefix: netip.PrefixFrom(net, 56), Lifetime: 600}).Append(r.Options)
			r.Options = wire.AppendRDNSS(r.Options, 600, net.Next())
			r.Options = wire.AppendDNSSL(r.Options, 600, fmt.Sprintf("x%d.test", i))
			body, rest := r.Append(nil)
			return nd6(wire.ICMPv6RouterAdv, rest, src, floodNodes, body)
		}, count: ndReceived},
		{name: "redirects", packet: func(i uint32) []byte {
			h := wire.RedirectMsg{Target: random6("fe80::", i), Dst: random6("2001:db8:9::", i)}
			return nd6(wire.ICMPv6Redirect, 0, random6("fe80::", ^i), floodHost, h.Append(nil))
		}, count: drops("invalid or unwanted redirect")},
		{name: "first fragments", packet: func(i uint32) []byte {
			part := make([]byte, wire.FragmentLen+1024)
			(&wire.Fragment{Next: wire.ProtoUDP, More: true, ID: i}).Put(part)
			return ip6Packet(wire.IPv6{Next: wire.ProtoFragment, Src: random6("2001:db8::", i)}, part)
		}, count: drops("reassembly evicted"), uncounted: maxReassemblies},
		{name: "last fragments", packet: func(i uint32) []byte {
			part := make([]byte, wire.FragmentLen+8)
			(&wire.Fragment{Next: wire.ProtoUDP, Offset: 65000, ID: i}).Put(part)
			return ip6Packet(wire.IPv6{Next: wire.ProtoFragment, Src: random6("2001:db8::", i)}, part)
		}, count: drops("reassembly evicted"), uncounted: maxReassemblies},
		{name: "hop-by-hop options that are unknown", packet: func(i uint32) []byte {
			// The two highest bits of type 0x9e ask for an error to each source, within the rate limit.
			b := []byte{byte(wire.ProtoNone), 0, 0x9e, 4, 0, 0, 0, 0}
			return ip6Packet(wire.IPv6{Next: wire.ProtoHopByHop, Src: random6("2001:db8::", i)}, b)
		}, count: drops("bad IPv6 option")},
		{name: "hop-by-hop options that are long", packet: func(i uint32) []byte {
			b := make([]byte, 1400) // all Pad1
			b[0], b[1] = byte(wire.ProtoNone), 1400/8-1
			return ip6Packet(wire.IPv6{Next: wire.ProtoHopByHop, Src: random6("2001:db8::", i)}, b)
		}, count: drops("bad IPv6 option")},
		{name: "messages that packets are too big", packet: func(i uint32) []byte {
			quoted := ip6Packet(wire.IPv6{Next: wire.ProtoUDP, Src: floodHost, Dst: random6("2001:db8:9::", i)}, udpDatagram(
				netip.AddrPortFrom(floodHost, 9), netip.AddrPortFrom(random6("2001:db8:9::", i), 9), make([]byte, 1000)))
			return nd6(wire.ICMPv6TooBig, 1280, random6("2001:db8::", i), floodHost, quoted)
		}, count: func(s *Stats) uint64 { return s.ICMP6.Received }},
		{name: "queries of MLD", packet: func(i uint32) []byte {
			b := make([]byte, wire.ICMPLen+20)
			body := b[wire.ICMPLen:]
			group := random6("ff15::", i).As16()
			copy(body, group[:])
			src, dst := random6("fe80::", i), floodNodes
			(&wire.ICMPv6{Type: wire.ICMPv6MLDQuery, Rest: 1000 << 16}).Put(src, dst, b, body)
			b = append([]byte{byte(wire.ProtoICMPv6), 0, 5, 2, 0, 0, 1, 0}, b...)
			return ip6Packet(wire.IPv6{Next: wire.ProtoHopByHop, HopLimit: 1, Src: src, Dst: dst}, b)
		}, count: func(s *Stats) uint64 { return s.MLD.Received }},
		{name: "a scan of the /64 by the host", count: drops("neighbor evicted"), uncounted: maxNeighbors, whole: true},
	}
)

// TestAConnectionIsMadeInAFloodOfIPv6 floods a host, connects from an unknown host during the flood,
// and checks the cost of the flood.
//
// RFC 6583 5; RFC 4861 11.
func TestAConnectionIsMadeInAFloodOfIPv6(t *testing.T) {
	for _, f := range floods6 {
		t.Run(f.name, func(t *testing.T) { synctest.Test(t, f.run) })
	}
}

func (f *flood6) run(t *testing.T) {
	sw := nic.NewSwitch(nic.SwitchConfig{})
	mk := func(a string, auto bool) *Stack {
		s, err := New(Config{NICs: []NIC{{Name: "eth0", Device: sw.Port(), Addrs: []netip.Prefix{prefix(a)}, Auto: auto}}, Rand: testRand()})
		require.NoError(t, err)
		t.Cleanup(func() { s.Close() })
		return s
	}
	server, client := mk("2001:db8::1/64", true), mk("2001:db8::2/64", false)
	port := sw.Port()
	port.Attach(func([]nic.Frame) {})
	l, err := server.ListenTCP(FamilyAny, addrPort("[::]:80"), ListenOptions{})
	require.NoError(t, err)
	u := openUDP(t, server, "[::]:9")
	time.Sleep(20 * time.Second) // duplicate detection has ended, and no router has been advertised
	mac := server.Interfaces()[1].MAC
	n := uint32(flood(t))
	switch {
	case f.million && !racing:
		n = 1_000_000
	case n < 1_000_000 && !f.whole:
		n /= 10
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	sent := time.Now()
	var connected time.Duration
	var d *TCP
	for i := range n {
		if f.packet == nil {
			// The error is ignored: a failed resolution is reported by this or by a later WriteTo.
			u.WriteTo([]byte("x"), netip.AddrPortFrom(random6("2001:db8::", i), 9), SendOptions{})
		} else {
			packet := f.packet(i)
			to := mac
			if dst := netip.AddrFrom16([16]byte(packet[24:])); dst.IsMulticast() {
				to = wire.MulticastMAC(dst)
			}
			port.Send([]nic.Frame{{Head: ethernet6(to, packet)}})
		}
		if i == n/2 {
			go func() {
				began := time.Now()
				c, err := client.DialTCP(t.Context(), FamilyAny, netip.AddrPort{}, addrPort("[2001:db8::1]:80"), TCPOptions{})
				connected = time.Since(began)
				if err != nil {
					t.Errorf("Dial: %v", err)
					l.Close()
					return
				}
				c.Write([]byte("hello"))
				c.Close()
			}()
			go func() { d, _ = l.Accept() }()
		}
		if i%1000 == 999 {
			time.Sleep(time.Millisecond)
		}
	}
	took := time.Since(sent)
	time.Sleep(time.Second)
	synctest.Wait()
	runtime.GC()
	runtime.ReadMemStats(&after)
	require.NotNil(t, d)
	require.Less(t, connected, time.Second)
	b := make([]byte, 5)
	_, err = d.Read(b)
	require.NoError(t, err)
	require.Equal(t, "hello", string(b))
	require.NoError(t, d.Close())
	st := server.Stats()
	grown := int64(after.HeapAlloc) - int64(before.HeapAlloc)
	t.Logf("%d packets in %v: connected within %v, %d kB more in use, dropped %v", n, took, connected, grown>>10, st.Drops)
	require.Less(t, grown, int64(2<<20+server.frags6.cost))
	require.LessOrEqual(t, server.frags6.cost, maxReassemblyBytes)
	require.GreaterOrEqual(t, f.count(&st)+f.uncounted, uint64(n))
	require.LessOrEqual(t, len(server.Neighbors()), maxNeighbors)
	// Two addresses are not learned: the configured address and the link-local address.
	require.LessOrEqual(t, len(server.Interfaces()[1].AddrInfo), 2+maxAutoAddrs)
}
