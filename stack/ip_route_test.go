package stack

import (
	"math/rand/v2"
	"net/netip"
	"strconv"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// slowLookup is a reference for the lookup of a route: the first route with the longest prefix.
func slowLookup(rs []Route, dst netip.Addr) (Route, bool) {
	best := -1
	for i, r := range rs {
		if r.Dst.Contains(dst) && (best < 0 || r.Dst.Bits() > rs[best].Dst.Bits()) {
			best = i
		}
	}
	if best < 0 {
		return Route{}, false
	}
	return rs[best], true
}

// With few routes the table is a slice, with many it is a map.
func TestTheRouteTableAgreesWithASlowReference(t *testing.T) {
	for _, n := range []int{1, routeScan / 2, routeScan, 300} {
		t.Run(strconv.Itoa(n), func(t *testing.T) { checkRouteTable(t, n) })
	}
}

func checkRouteTable(t *testing.T, n int) {
	rnd := rand.New(rand.NewPCG(1, uint64(n)))
	s := newHost(t, nic.NewNull(nic.Link{}), "192.0.2.1/24")
	randomAddr := func() netip.Addr {
		// There are few addresses, so prefixes nest and contain the destinations.
		return netip.AddrFrom4([4]byte{10, byte(rnd.UintN(3)), byte(rnd.UintN(3)), byte(rnd.UintN(4))})
	}
	for range n {
		r := Route{Dst: netip.PrefixFrom(randomAddr(), int(rnd.UintN(33))).Masked(), Via: netip.AddrFrom4([4]byte{192, 0, 2, byte(2 + rnd.UintN(250))})}
		if err := s.AddRoute(r); err != nil {
			require.ErrorIs(t, err, syscall.EEXIST)
		}
	}
	for i := range 3000 {
		if i == 1500 {
			for _, r := range s.Routes()[:(n+2)/3] {
				if r.Via.IsValid() {
					require.NoError(t, s.DelRoute(r))
				}
			}
		}
		dst := randomAddr()
		p, err := s.route(dst, netip.Addr{})
		r, ok := slowLookup(s.Routes(), dst)
		if !ok {
			require.ErrorIs(t, err, syscall.ENETUNREACH)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, r.Via, p.hop, "to %v", dst)
	}
}

func TestAmongEqualRoutesTheFirstThatIsUpWins(t *testing.T) {
	s, err := New(Config{
		NICs: []NIC{
			{Name: "a", Device: nic.NewNull(nic.Link{}), Addrs: []netip.Prefix{prefix("192.0.2.1/24")}, Gateway: addr("192.0.2.254")},
			{Name: "b", Device: nic.NewNull(nic.Link{}), Addrs: []netip.Prefix{prefix("198.51.100.1/24"), prefix("198.51.100.129/25")}, Gateway: addr("198.51.100.254")},
		},
		Routes: []Route{{Dst: prefix("203.0.113.0/24"), Via: addr("198.51.100.9"), Src: addr("192.0.2.1")}},
	})
	require.NoError(t, err)
	defer s.Close()
	lookup := func(dst, src string) (netip.Addr, netip.Addr) {
		from := netip.Addr{}
		if src != "" {
			from = addr(src)
		}
		p, err := s.route(addr(dst), from)
		require.NoError(t, err)
		return p.hop, p.src
	}
	via, src := lookup("8.8.8.8", "")
	require.Equal(t, "192.0.2.254", via.String())
	require.Equal(t, "192.0.2.1", src.String())
	via, _ = lookup("8.8.8.8", "198.51.100.1")
	require.Equal(t, "198.51.100.254", via.String(), "by the interface of the source")
	via, src = lookup("203.0.113.7", "")
	require.Equal(t, "198.51.100.9", via.String())
	require.Equal(t, "192.0.2.1", src.String(), "as the route says")
	via, src = lookup("198.51.100.200", "")
	require.Equal(t, "198.51.100.200", via.String(), "on the link")
	require.Equal(t, "198.51.100.129", src.String(), "from the longest prefix")

	p, err := s.route(addr("8.8.8.8"), netip.Addr{})
	require.NoError(t, err)
	require.True(t, p.valid(s))
	s.ifaceNamed("a").failed(syscall.EIO)
	require.False(t, p.valid(s))
	via, _ = lookup("8.8.8.8", "")
	require.Equal(t, "198.51.100.254", via.String(), "the first is down")
	s.ifaceNamed("b").failed(syscall.EIO)
	_, err = s.route(addr("8.8.8.8"), netip.Addr{})
	require.ErrorIs(t, err, syscall.ENETDOWN)
}

func TestRouteRefusesInvalidAddresses(t *testing.T) {
	s := newHost(t, nic.NewNull(nic.Link{}), "192.0.2.1/24")
	for _, test := range []struct {
		dst, src netip.Addr
		want     syscall.Errno
	}{
		{netip.Addr{}, netip.Addr{}, syscall.EINVAL},
		{addr("192.0.2.2"), addr("192.0.2.3"), syscall.EADDRNOTAVAIL},
		{addr("192.0.2.2"), addr("127.0.0.1"), syscall.EINVAL},
		{addr("198.51.100.1"), netip.Addr{}, syscall.ENETUNREACH},
		{addr("240.0.0.1"), netip.Addr{}, syscall.ENETUNREACH},
		{addr("224.0.0.9"), netip.Addr{}, syscall.ENETUNREACH},
		{addr("2001:db8::1"), netip.Addr{}, syscall.ENETUNREACH},
	} {
		_, err := s.route(test.dst, test.src)
		require.ErrorIs(t, err, test.want, "%v from %v", test.dst, test.src)
	}
}

func TestLocalPacketsStayInTheHost(t *testing.T) {
	s := newHost(t, nic.NewNull(nic.Link{}), "192.0.2.1/24")
	for dst, src := range map[string]string{
		"192.0.2.1":        "192.0.2.1",
		"127.0.0.1":        "127.0.0.1",
		"127.9.9.9":        "127.0.0.1",
		"0.0.0.0":          "127.0.0.1",
		"::ffff:192.0.2.1": "192.0.2.1",
	} {
		p, err := s.route(addr(dst), netip.Addr{})
		require.NoError(t, err)
		require.True(t, p.ifc.loopback, dst)
		require.Equal(t, addr(src), p.src, dst)
	}
	p, err := s.route(addr("127.0.0.1"), addr("192.0.2.1"))
	require.NoError(t, err)
	require.Equal(t, addr("192.0.2.1"), p.src, "the source is preserved")
}

func TestBroadcastsNeedNoNeighbour(t *testing.T) {
	s := newHost(t, nic.NewNull(nic.Link{}), "192.0.2.1/24")
	for _, dst := range []string{"255.255.255.255", "192.0.2.255"} {
		p, err := s.route(addr(dst), netip.Addr{})
		require.NoError(t, err)
		require.True(t, p.group)
		require.Nil(t, p.neigh)
		require.Equal(t, wordOf(wire.Broadcast()), p.mac)
		require.Equal(t, addr("192.0.2.1"), p.src)
	}
	require.NoError(t, s.AddRoute(Route{Dst: prefix("224.0.0.0/4"), NIC: "eth0"}))
	p, err := s.route(addr("224.1.2.3"), netip.Addr{})
	require.NoError(t, err)
	require.Equal(t, wordOf(wire.MulticastMAC(addr("224.1.2.3"))), p.mac)
}

func TestALoweredPathMTUIsKeptForTenMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newHost(t, nic.NewNull(nic.Link{}), "192.0.2.1/24")
		mtu := func() int {
			p, err := s.route(addr("192.0.2.2"), netip.Addr{})
			require.NoError(t, err)
			return p.mtu
		}
		p, err := s.route(addr("192.0.2.2"), netip.Addr{})
		require.NoError(t, err)
		s.lowerPathMTU(addr("192.0.2.2"), netip.Addr{}, 1400)
		require.False(t, p.valid(s))
		require.Equal(t, 1400, mtu())
		s.lowerPathMTU(addr("192.0.2.2"), netip.Addr{}, 1450)
		require.Equal(t, 1400, mtu(), "never raised")
		s.lowerPathMTU(addr("192.0.2.2"), netip.Addr{}, 100)
		require.Equal(t, minPathMTU, mtu())
		p, _ = s.route(addr("192.0.2.2"), netip.Addr{})
		require.True(t, p.mayFrag)
		other, _ := s.route(addr("192.0.2.3"), netip.Addr{})
		require.Equal(t, 1500, other.mtu)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		require.Equal(t, 1500, mtu())
		require.False(t, p.valid(s))
		a := addr("192.0.2.2")
		for range 3 * maxPathMTUs {
			s.lowerPathMTU(a, netip.Addr{}, 1000)
			if a = a.Next(); a == addr("192.0.2.254") {
				a = addr("192.0.2.2")
			}
		}
		require.LessOrEqual(t, len(s.pmtu.m), maxPathMTUs)
	})
}

func TestRoutingAllocatesNothing(t *testing.T) {
	s := newHost(t, nic.NewNull(nic.Link{}), "192.0.2.1/24")
	dst := addr("192.0.2.2")
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if _, err := s.route(dst, netip.Addr{}); err != nil {
			t.Error(err)
		}
	}))
}

// As on Linux, a router must have a unicast address. A prefix of IPv4-mapped addresses is refused, because no
// IPv6 packet has such a destination. The source of a route must be an address of the host. If it is
// link-local, it must be an address of the route's interface.
func TestInvalidRoutesAreRefused(t *testing.T) {
	s, err := New(Config{Rand: testRand(), NICs: []NIC{
		{Name: "a", Device: nic.NewNull(nic.Link{Medium: nic.IP}), Addrs: []netip.Prefix{prefix("192.0.2.1/24"), prefix("2001:db8::1/64"), prefix("fe80::a/64")}},
		{Name: "b", Device: nic.NewNull(nic.Link{Medium: nic.IP}), Addrs: []netip.Prefix{prefix("198.51.100.1/31"), prefix("fe80::b/64")}},
	}})
	require.NoError(t, err)
	defer s.Close()
	// Routes that make each address count as on the link.
	require.NoError(t, s.AddRoute(Route{Dst: prefix("0.0.0.0/0"), NIC: "a"}))
	require.NoError(t, s.AddRoute(Route{Dst: prefix("::/0"), NIC: "a"}))
	for _, c := range []struct{ dst, via, nic, src string }{
		{"10.0.0.0/8", "192.0.2.255", "a", ""},
		{"10.0.0.0/8", "192.0.2.255", "", ""},
		{"10.0.0.0/8", "255.255.255.255", "a", ""},
		{"10.0.0.0/8", "224.0.0.5", "a", ""},
		{"10.0.0.0/8", "224.0.0.5", "", ""},
		{"10.0.0.0/8", "127.0.0.1", "a", ""},
		{"10.0.0.0/8", "0.0.0.0", "a", ""},
		{"2001:db8:9::/48", "ff02::5", "a", ""},
		{"2001:db8:9::/48", "::", "a", ""},
		{"2001:db8:9::/48", "::ffff:192.0.2.9", "a", ""},
		{"::ffff:10.0.0.0/104", "", "a", ""},
		{"::ffff:10.0.0.0/104", "fe80::9", "a", ""},
		{"2001:db8:9::/48", "fe80::9", "a", "fe80::b"},
	} {
		r := Route{Dst: prefix(c.dst), NIC: c.nic}
		if c.via != "" {
			r.Via = addr(c.via)
		}
		if c.src != "" {
			r.Src = addr(c.src)
		}
		require.ErrorIs(t, s.AddRoute(r), syscall.EINVAL, "%v", c)
	}
	// A network of 31 bits has no broadcast address.
	require.NoError(t, s.AddRoute(Route{Dst: prefix("10.0.0.0/8"), Via: addr("198.51.100.0"), NIC: "b"}))
	require.NoError(t, s.AddRoute(Route{Dst: prefix("2001:db8:9::/48"), Via: addr("fe80::9"), NIC: "b", Src: addr("fe80::b")}))
	require.NoError(t, s.AddRoute(Route{Dst: prefix("2001:db8:8::/48"), Via: addr("fe80::9"), NIC: "b", Src: addr("2001:db8::1")}))
}

func TestABroadcastAddressIsNoNeighbour(t *testing.T) {
	s := newHost(t, nic.NewNull(nic.Link{}), "192.0.2.1/24")
	for _, a := range []string{"192.0.2.255", "255.255.255.255", "224.0.0.1"} {
		require.ErrorIs(t, s.SetNeighbor(Neighbor{NIC: "eth0", Addr: addr(a), MAC: macB}), syscall.EINVAL, a)
	}
}

// A tentative address is already the host's own, although the host does not use it yet. So a router, a
// neighbour or the target of a redirect cannot have this address.
func TestATentativeAddressIsTheHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wait := func(c *Config) { c.WaitForDAD = true }
		s, p := ndHost(t, wait, func(c *Config) { c.NICs[0].Gateway6 = addr("fe80::99") })
		require.NoError(t, s.AddAddr("", prefix("2001:db8::7/64"), AddrOptions{}))
		require.NoError(t, s.AddAddr("", prefix("fe80::7/64"), AddrOptions{}))
		require.NoError(t, s.AddAddr("", prefix("192.0.2.1/24"), AddrOptions{Probe: true}))
		for dst, via := range map[string]string{"2001:db8:9::/48": "2001:db8::7", "2001:db8:8::/48": "fe80::7", "10.0.0.0/8": "192.0.2.1"} {
			require.ErrorIs(t, s.AddRoute(Route{Dst: prefix(dst), Via: addr(via), NIC: "eth0"}), syscall.EINVAL, via)
			require.ErrorIs(t, s.SetNeighbor(Neighbor{NIC: "eth0", Addr: addr(via), MAC: macB}), syscall.EINVAL, via)
		}
		p.redirect("fe80::99", "2001:db8:5::5", "fe80::7")
		require.Equal(t, 1, dropped(s, dropRedirect))
		err := s.AddNIC(NIC{Device: nic.NewNull(nic.Link{}), Addrs: []netip.Prefix{prefix("2001:db8:1::1/64")}, Gateway6: addr("2001:db8:1::1")})
		require.ErrorContains(t, err, "own address")
	})
}
