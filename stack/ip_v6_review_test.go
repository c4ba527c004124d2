package stack

import (
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// RFC 4862 5.4: a host gives up an address if duplicate address detection finds another node with the
// address. After the detection the host keeps the address, as Linux does (ndisc_recv_na), because any node
// on the link could forge an advertisement for the address.
func TestForgedAdvertisementsTakeNoAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := ndHost(t)
		require.NoError(t, s.AddAddr("", prefix("2001:db8::77/64"), AddrOptions{Origin: AddrRA}))
		time.Sleep(3 * time.Second)
		before := dropped(s, dropAddressConflict)
		own := s.Interfaces()[1].Addrs
		for range 3 {
			for _, a := range own {
				adv := wire.NeighborAdv{Target: a.Addr(), Link: macB, HasLink: true}
				p.nd(ndMessage{typ: wire.ICMPv6NeighborAdv, rest: wire.NAOverride, src: "2001:db8::2", dst: "ff02::1", body: adv.Append(nil)})
			}
			time.Sleep(time.Second)
		}
		require.Equal(t, own, s.Interfaces()[1].Addrs)
		require.Equal(t, before+3*len(own), dropped(s, dropAddressConflict))
	})
}

// RFC 4429 3.2: a node "MUST NOT use an Optimistic Address as the source address of a Neighbor Solicitation".
// RFC 4861 7.2.2 allows any other address of the interface as the source. The link-local address is not
// optimistic any more, so the solicitation can also contain the host's link address.
func TestASettledAddressAsksForANewOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := ndHost(t)
		time.Sleep(3 * time.Second)
		require.NoError(t, s.AddAddr("", prefix("2001:db8:5::1/64"), AddrOptions{}))
		p.sent()
		require.Equal(t, "optimistic", stateOf(s, "2001:db8:5::1"))
		sendUDP6(t, openUDP(t, s, "[2001:db8:5::1]:9"), "2001:db8:5::2", "x")
		link := linkLocalOf(macA).Addr()
		require.Equal(t, []string{macA.String() + " > 33:33:ff:00:00:02 IPv6 " + link.String() +
			" > ff02::1:ff00:2 ICMPv6 neighbor solicitation who-has 2001:db8:5::2 from " + macA.String()}, p.sent())
	})
}

// A solicitation is answered whatever its source address is, but only an on-link source becomes a
// neighbour.
func TestOffLinkSendersAreNoNeighbours(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := ndHost(t)
		time.Sleep(3 * time.Second)
		p.sent()
		for src, known := range map[string]bool{"2001:db8::2": true, "fe80::2": true, "2001:db8:6::2": false} {
			ns := wire.NeighborSol{Target: addr("2001:db8::1"), Source: macB, HasSource: true}
			p.nd(ndMessage{typ: wire.ICMPv6NeighborSol, src: src, dst: "ff02::1:ff00:1", body: ns.Append(nil)})
			require.Len(t, p.sent(), 1, src)
			found := false
			for _, n := range s.Neighbors() {
				found = found || n.Addr == addr(src)
			}
			require.Equal(t, known, found, src)
		}
		require.Equal(t, 1, dropped(s, dropOffLinkND))
	})
}

// A link without MAC addresses, such as a tunnel, has routers too. RFC 4861 4.2: "link layers that do not
// have addresses" have no link-layer address options. RFC 4861 6.1.2: an advertisement has a link-local
// source and the hop limit 255.
func TestAnIPLinkIsConfiguredByItsRouter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		da, db := nic.Pipe(nic.PipeConfig{Medium: nic.IP})
		host, err := New(Config{Rand: testRand(), NICs: []NIC{{Name: "tun0", Device: da, Auto: true}}})
		require.NoError(t, err)
		defer host.Close()
		router, err := New(Config{NICs: []NIC{{Name: "tun0", Device: db, Addrs: []netip.Prefix{prefix("2001:db8:1::1/64"), prefix("2001:db8:99::1/128")}}}})
		require.NoError(t, err)
		defer router.Close()
		own := host.Interfaces()[1].Addrs
		require.Len(t, own, 1)
		require.True(t, isLinkLocal6(own[0].Addr()))
		require.NoError(t, router.Advertise("", &RouterConfig{Lifetime: time.Hour, MTU: 1400, Prefixes: []RouterPrefix{{Prefix: prefix("2001:db8:1::/64")}}}))
		time.Sleep(10 * time.Second)
		info := host.Interfaces()[1]
		require.Len(t, info.Addrs, 2)
		require.True(t, prefix("2001:db8:1::/64").Contains(info.Addrs[1].Addr()))
		require.Equal(t, AddrPreferred, info.AddrInfo[1].State)
		require.Equal(t, 1400, info.Auto.MTU)
		require.True(t, isLinkLocal6(info.Gateway6))
		require.Empty(t, host.Neighbors())
		require.Zero(t, host.Stats().Drops["invalid link address in neighbor discovery"])

		l, err := router.ListenTCP(Family6, addrPort("[2001:db8:99::1]:80"), ListenOptions{})
		require.NoError(t, err)
		c, err := host.DialTCP(t.Context(), FamilyAny, netip.AddrPort{}, addrPort("[2001:db8:99::1]:80"), TCPOptions{})
		require.NoError(t, err)
		d, err := l.Accept()
		require.NoError(t, err)
		require.Equal(t, info.Addrs[1].Addr(), d.RemoteAddr().Addr())
		c.Close()
		d.Close()
		// The host uses no other part of Neighbor Discovery on such a link: no resolution has failed.
		require.Zero(t, host.Stats().ND.Failed)
	})
}

// RFC 6724 5, rule 5.5: "Prefer addresses in a prefix advertised by the next-hop." Otherwise the host could
// send a packet to one router with a source address from the prefix of another router. The provider of the
// first router would drop such a packet (RFC 8028).
//
// RFC 8504 SHLD-10 SHLD-18.
func TestTheSourceIsOfTheNextHopsPrefix(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const one, two = "fe80::98", "fe80::99"
		s, p := autoHost(t)
		p.ra(ra{src: one}, prefixOption("2001:db8:1::/64", time.Hour, time.Hour))
		p.ra(ra{src: two}, prefixOption("2001:db8:2::/64", time.Hour, time.Hour))
		time.Sleep(3 * time.Second)
		for _, c := range []struct{ router, prefix string }{{one, "2001:db8:1::/64"}, {two, "2001:db8:2::/64"}, {one, "2001:db8:1::/64"}} {
			for _, other := range []string{one, two} {
				// Rule 8 would prefer the address in 2001:db8:2::/64, which has more bits in common with the
				// destination.
				s.DelRoute(Route{Dst: prefix("2001:db8:2:8000::/49"), Via: addr(other)})
			}
			require.NoError(t, s.AddRoute(Route{Dst: prefix("2001:db8:2:8000::/49"), Via: addr(c.router), NIC: "eth0"}))
			way, err := s.route(addr("2001:db8:2:8000::9"), netip.Addr{})
			require.NoError(t, err)
			require.Equal(t, addr(c.router), way.hop)
			require.True(t, prefix(c.prefix).Contains(way.src), "%v by %v", way.src, c.router)
		}
	})
}

func TestAConnectToAnotherAddressDropsTheZone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := twoHosts6(t, nic.PipeConfig{})
		u, v := openUDP(t, a, "[2001:db8::1]:9"), openUDP(t, b, "[2001:db8::2]:9")
		require.NoError(t, u.Connect(addrPort("[fe80::2%eth0]:9")))
		require.NoError(t, u.Connect(addrPort("[2001:db8::2]:9")))
		_, err := v.WriteTo([]byte("hello"), addrPort("[2001:db8::1]:9"), SendOptions{})
		require.NoError(t, err)
		u.SetReadDeadline(time.Now().Add(time.Second))
		buf := make([]byte, 10)
		n, _, from, _, err := u.ReadFrom(buf)
		require.NoError(t, err)
		require.Equal(t, "hello", string(buf[:n]))
		require.Equal(t, addrPort("[2001:db8::2]:9"), from)

		r, err := a.OpenRaw(Family6, 253, addr("2001:db8::1"))
		require.NoError(t, err)
		q, err := b.OpenRaw(Family6, 253, addr("2001:db8::2"))
		require.NoError(t, err)
		require.NoError(t, r.Connect(addr("fe80::2%eth0")))
		require.NoError(t, r.Connect(addr("2001:db8::2")))
		_, err = q.WriteTo([]byte("hello"), addr("2001:db8::1"), SendOptions{})
		require.NoError(t, err)
		r.SetReadDeadline(time.Now().Add(time.Second))
		n, _, _, _, err = r.ReadFrom(buf)
		require.NoError(t, err)
		require.Equal(t, "hello", string(buf[:n]))
	})
}

// The MTU in an ICMP message is compared with the MTU of the path that the socket uses, and not with that
// of another link.
func TestAPathMTUIsOfTheSocketsOwnLink(t *testing.T) {
	one, _ := nic.Pipe(nic.PipeConfig{MTU: 1500, Medium: nic.IP})
	two, _ := nic.Pipe(nic.PipeConfig{MTU: 9000, Medium: nic.IP})
	s, err := New(Config{NICs: []NIC{
		{Name: "one", Device: one, Addrs: []netip.Prefix{prefix("192.0.2.1/24"), prefix("2001:db8:1::1/64")}},
		{Name: "two", Device: two, Addrs: []netip.Prefix{prefix("198.51.100.1/24"), prefix("2001:db8:2::1/64")}},
	}, Routes: []Route{
		{Dst: prefix("203.0.113.0/24"), NIC: "one"}, {Dst: prefix("203.0.113.0/24"), NIC: "two"},
		{Dst: prefix("2001:db8:3::/64"), NIC: "one"}, {Dst: prefix("2001:db8:3::/64"), NIC: "two"},
	}})
	require.NoError(t, err)
	defer s.Close()
	for dst, src := range map[string]string{"203.0.113.1": "198.51.100.1", "2001:db8:3::1": "2001:db8:2::1"} {
		p, err := s.route(addr(dst), addr(src))
		require.NoError(t, err)
		require.Equal(t, 9000, p.mtu)
		s.lowerPathMTU(addr(dst), addr(src), 5000)
		p, err = s.route(addr(dst), addr(src))
		require.NoError(t, err)
		require.Equal(t, 5000, p.mtu)
	}
}

// Runs with the same seed are equal, so the order of a map must not decide which entry a full table
// evicts.
func TestAFullTableForgetsTheSameInEachRun(t *testing.T) {
	run := func(t *testing.T) (redirects, mtus []netip.Addr) {
		s, _ := hostAndPeer6(t)
		ifc := s.ifaceNamed("eth0")
		for i := range maxRedirects + 20 {
			dst := netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 14: byte(i >> 8), 15: byte(i)})
			s.redirects.set(ifc, dst, addr("fe80::2"), addr("fe80::3"))
			s.lowerPathMTU(dst, netip.Addr{}, 1300)
		}
		for k := range s.redirects.m {
			redirects = append(redirects, k.dst)
		}
		for a := range s.pmtu.m {
			mtus = append(mtus, a)
		}
		require.Len(t, redirects, maxRedirects)
		require.Len(t, mtus, maxPathMTUs)
		slices.SortFunc(redirects, netip.Addr.Compare)
		slices.SortFunc(mtus, netip.Addr.Compare)
		return redirects, mtus
	}
	var redirects, mtus []netip.Addr
	for i := range 4 {
		synctest.Test(t, func(t *testing.T) {
			r, m := run(t)
			if i == 0 {
				redirects, mtus = r, m
			}
			require.Equal(t, redirects, r)
			require.Equal(t, mtus, m)
		})
	}
}
