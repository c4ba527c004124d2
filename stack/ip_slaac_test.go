package stack

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

const router6 = llB // the peer as a router

// autoHost makes a host with NIC.Auto on a plain Ethernet. The peer at the other end is a router that
// has not sent anything yet. The caller is in a synctest bubble.
func autoHost(t testing.TB, change ...func(*Config)) (*Stack, *peer) {
	t.Helper()
	change = append([]func(*Config){func(c *Config) {
		c.NICs[0].Addrs, c.NICs[0].Auto = nil, true
		c.StableSecret = []byte("0123456789abcdef")
	}}, change...)
	return hostAndPeer(t, change...)
}

// An ra describes a Router Advertisement. The default source is router6, and the default lifetime is 30
// minutes.
type ra struct {
	wire.RouterAdv
	src          string
	zeroLifetime bool
}

// ra sends a Router Advertisement with a Source Link-Layer Address option and the given options.
func (p *peer) ra(r ra, options ...[]byte) {
	p.t.Helper()
	if r.src == "" {
		r.src = router6
	}
	if r.Lifetime == 0 && !r.zeroLifetime {
		r.Lifetime = 1800
	}
	r.Options = append(wire.AppendNDOption(nil, wire.NDSourceLink, macB[:]), slices.Concat(options...)...)
	body, rest := r.Append(nil)
	p.nd(ndMessage{typ: wire.ICMPv6RouterAdv, rest: rest, src: r.src, dst: "ff02::1", body: body})
}

// prefixOption returns the option for an on-link prefix with the Autonomous flag.
func prefixOption(p string, valid, preferred time.Duration) []byte {
	sec := func(d time.Duration) uint32 { return uint32(d / time.Second) }
	i := wire.PrefixInfo{Prefix: prefix(p), OnLink: true, Auto: true, Valid: sec(valid), Preferred: sec(preferred)}
	return i.Append(nil)
}

// autoAddrs returns the addresses in a prefix that come from Router Advertisements.
func autoAddrs(s *Stack, p string) (list []AddrInfo) {
	for _, a := range s.Interfaces()[1].AddrInfo {
		if a.Origin == AddrRA && prefix(p).Contains(a.Prefix.Addr()) {
			list = append(list, a)
		}
	}
	return list
}

// left returns the time until at, in whole seconds.
func left(at time.Time) time.Duration { return time.Until(at).Round(time.Second) }

// RFC 4861 6.3 and RFC 4862 5.5.3.
//
// RFC 4861 MUST-18 MUST-19 MUST-21 MUST-24 SHLD-4 SHLD-6.
// RFC 4862 MUST-14 MUST-16.
func TestARouterGivesAnAddressAndARoute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := autoHost(t)
		require.Equal(t, "optimistic", stateOf(s, llA))
		time.Sleep(time.Second + time.Millisecond)
		require.Contains(t, strings.Join(p.sent(), "\n"), llA+" > ff02::2 ICMPv6 router solicitation")
		require.ErrorIs(t, routeError(s, "2001:db8:9::1"), syscall.ENETUNREACH)
		changed := s.Changed()
		p.ra(ra{}, prefixOption("2001:db8:1::/64", 24*time.Hour, 4*time.Hour))
		<-changed
		as := autoAddrs(s, "2001:db8:1::/64")
		require.Len(t, as, 1)
		require.Equal(t, "optimistic", as[0].State.String())
		require.Equal(t, 24*time.Hour, left(as[0].ValidUntil))
		require.Equal(t, 4*time.Hour, left(as[0].PreferredUntil))
		require.Equal(t, addr(router6), s.Interfaces()[1].Gateway6)
		require.True(t, neighbor6(s, router6).Router)
		way, err := s.route(addr("2001:db8:9::1"), netip.Addr{})
		require.NoError(t, err)
		require.Equal(t, router6, way.hop.String())
		require.Equal(t, as[0].Prefix.Addr(), way.src)
		way, err = s.route(addr("2001:db8:1::77"), netip.Addr{})
		require.NoError(t, err)
		require.Equal(t, "2001:db8:1::77", way.hop.String(), "the prefix is on the link")
		time.Sleep(20 * time.Second)
		require.Equal(t, "preferred", stateOf(s, as[0].Prefix.Addr().String()))
		require.NotContains(t, strings.Join(p.sent(), "\n"), "router solicitation", "RFC 4861 6.3.7: it has been answered")
		// RFC 4861 6.3.4: a prefix without the L flag is not on-link, although the host has an address
		// in it.
		auto := wire.PrefixInfo{Prefix: prefix("2001:db8:3::/64"), Auto: true, Valid: 3600, Preferred: 3600}
		p.ra(ra{}, auto.Append(nil))
		require.Len(t, autoAddrs(s, "2001:db8:3::/64"), 1)
		way, err = s.route(addr("2001:db8:3::77"), netip.Addr{})
		require.NoError(t, err)
		require.Equal(t, router6, way.hop.String())
		// A router's link address changes.
		macC := wire.MAC{2, 0, 0, 0, 0, 0xc}
		b, rest := (&wire.RouterAdv{Lifetime: 1800, Options: wire.AppendNDOption(nil, wire.NDSourceLink, macC[:])}).Append(nil)
		p.nd(ndMessage{typ: wire.ICMPv6RouterAdv, rest: rest, src: router6, dst: "ff02::1", body: b})
		require.Equal(t, macC, neighbor6(s, router6).MAC)
		require.Equal(t, "stale", state6(s, router6))
		// A router lifetime of 0 removes the default router, but not the address.
		p.ra(ra{zeroLifetime: true})
		require.False(t, s.Interfaces()[1].Gateway6.IsValid())
		require.Len(t, autoAddrs(s, "2001:db8:1::/64"), 1)
		require.ErrorIs(t, routeError(s, "2001:db8:9::1"), syscall.ENETUNREACH)
	})
}

// routeError returns the error of a route lookup, or nil if there is a route to dst.
func routeError(s *Stack, dst string) error {
	_, err := s.route(addr(dst), netip.Addr{})
	return err
}

// RFC 4862 5.5.4 and RFC 4861 6.3.5: when lifetimes end, the entries are removed.
//
// RFC 4861 MUST-23 SHLD-4.
// RFC 4862 MUST-19 MUST-20.
func TestLifetimesOfWeeksEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := autoHost(t)
		const day = 24 * time.Hour
		// The router is valid for 2.5 hours, and its DNS server for one hour.
		p.ra(ra{RouterAdv: wire.RouterAdv{Lifetime: 9000}}, prefixOption("2001:db8:1::/64", 30*day, 7*day),
			wire.AppendRDNSS(nil, 3600, addr("2001:db8::53")))
		time.Sleep(2 * time.Hour)
		servers, _ := s.LearnedDNS()
		require.Empty(t, servers)
		require.True(t, s.Interfaces()[1].Gateway6.IsValid())
		time.Sleep(time.Hour)
		require.False(t, s.Interfaces()[1].Gateway6.IsValid())
		time.Sleep(7*day - 3*time.Hour - time.Second)
		require.Equal(t, AddrPreferred, autoAddrs(s, "2001:db8:1::/64")[0].State)
		time.Sleep(2 * time.Second)
		require.Equal(t, AddrDeprecated, autoAddrs(s, "2001:db8:1::/64")[0].State)
		require.NoError(t, routeError(s, "2001:db8:1::77"))
		time.Sleep(23 * day)
		require.Empty(t, autoAddrs(s, "2001:db8:1::/64"))
		require.Error(t, routeError(s, "2001:db8:1::77"))
		require.Zero(t, s.ifaceNamed("eth0").auto.size())
	})
}

// RFC 4862 5.5.3 (e): the rule of two hours.
//
// RFC 4862 MUST-16 MUST-17 MUST-18.
func TestTheValidLifetimeIsNotCutBelowTwoHours(t *testing.T) {
	const forEver = (1<<32 - 1) * time.Second
	for _, c := range []struct {
		have, advertised time.Duration
		want             time.Duration // 0: the valid lifetime does not end
	}{
		{10 * time.Hour, 20 * time.Hour, 20 * time.Hour}, // greater than two hours
		{10 * time.Hour, 3 * time.Hour, 3 * time.Hour},   // greater than two hours
		{10 * time.Hour, time.Hour, 2 * time.Hour},       // rule 3 of (e)
		{10 * time.Hour, 0, 2 * time.Hour},               // rule 3
		{time.Hour, 90 * time.Minute, 90 * time.Minute},  // greater than the remaining lifetime
		{time.Hour, 30 * time.Minute, time.Hour},         // rule 2
		{time.Hour, 0, time.Hour},                        // rule 2
		{2 * time.Hour, time.Hour, 2 * time.Hour},        // rule 2
		{forEver, time.Hour, 2 * time.Hour},              // rule 3
		{forEver, 3 * time.Hour, 3 * time.Hour},
		{time.Hour, forEver, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			s, p := autoHost(t)
			p.ra(ra{}, prefixOption("2001:db8:1::/64", c.have, 0))
			p.ra(ra{}, prefixOption("2001:db8:1::/64", c.advertised, 0))
			a := autoAddrs(s, "2001:db8:1::/64")[0]
			require.Equal(t, AddrOptimistic, a.State)
			if c.want == 0 {
				require.Zero(t, a.ValidUntil)
			} else {
				require.Equal(t, c.want, left(a.ValidUntil), "%v, then %v", c.have, c.advertised)
			}
			time.Sleep(3 * time.Second)
			require.Equal(t, AddrDeprecated, autoAddrs(s, "2001:db8:1::/64")[0].State)
			// "the preferred lifetime of the corresponding address is always reset".
			p.ra(ra{}, prefixOption("2001:db8:1::/64", time.Minute, time.Minute))
			require.Equal(t, AddrPreferred, autoAddrs(s, "2001:db8:1::/64")[0].State)
			p.ra(ra{}, prefixOption("2001:db8:1::/64", time.Minute, 0))
			require.Equal(t, AddrDeprecated, autoAddrs(s, "2001:db8:1::/64")[0].State)
		})
	}
}

// RFC 4861 6.1.2 and 6.3.4, RFC 4862 5.5.3: invalid advertisements and options are ignored.
//
// RFC 4861 MUST-11 MUST-12 MUST-14 MUST-15 MUST-22 SHLD-4 SHLD-3.
// RFC 4862 MUST-11 MUST-12 MUST-13 MUST-15.
func TestInvalidAdvertisementsAreIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := autoHost(t)
		p.ra(ra{src: "2001:db8::99"}, prefixOption("2001:db8:1::/64", time.Hour, time.Hour))
		require.Equal(t, 1, dropped(s, dropRA), "RFC 4861 6.1.2: IP Source Address MUST be the link-local address")
		b, rest := (&wire.RouterAdv{Lifetime: 1800}).Append(nil)
		p.nd(ndMessage{typ: wire.ICMPv6RouterAdv, rest: rest, src: router6, dst: "ff02::1", body: b, hops: 254})
		p.nd(ndMessage{typ: wire.ICMPv6RouterAdv, rest: rest, code: 1, src: router6, dst: "ff02::1", body: b})
		p.nd(ndMessage{typ: wire.ICMPv6RouterAdv, rest: rest, src: router6, dst: "ff02::1", body: b[:7]})
		require.False(t, s.Interfaces()[1].Gateway6.IsValid())
		one := func(i wire.PrefixInfo) []byte { return i.Append(nil) }
		p.ra(ra{},
			prefixOption("fe80::/64", time.Hour, time.Hour),                    // link-local
			prefixOption("2001:db8:2::/64", time.Hour, 2*time.Hour),            // preferred for longer than valid
			prefixOption("2001:db8:3::/63", time.Hour, time.Hour),              // no space for an identifier of 64 bits
			prefixOption("2001:db8:4::/64", 0, 0),                              // no valid lifetime
			one(wire.PrefixInfo{Prefix: prefix("2001:db8:5::/64"), Valid: 60}), // neither on-link nor autonomous
			prefixOption("ff00::/64", time.Hour, time.Hour),
			wire.AppendMTU(nil, 1279), wire.AppendMTU(nil, 1501),
			wire.AppendRDNSS(nil, 60, addr("ff02::53"), addr("::1"), addr("::")),
			wire.AppendDNSSL(nil, 60, "a b.test"))
		info := s.Interfaces()[1]
		require.Len(t, info.AddrInfo, 1, "%v", info.AddrInfo)
		require.Equal(t, &AutoInfo{}, info.Auto)
		require.Len(t, s.ifaceNamed("eth0").auto.prefixes, 2, "2001:db8:2:: and 2001:db8:3:: are on the link")
	})
	// A host without NIC.Auto ignores advertisements.
	synctest.Test(t, func(t *testing.T) {
		s, p := ndHost(t)
		p.ra(ra{}, prefixOption("2001:db8:1::/64", time.Hour, time.Hour))
		require.Equal(t, 1, dropped(s, dropRA))
		require.Empty(t, autoAddrs(s, "2001:db8:1::/64"))
		require.False(t, s.Interfaces()[1].Gateway6.IsValid())
	})
}

// RFC 4191: preferences and routes; RFC 8106; RFC 8781; RFC 4861 6.3.4.
//
// RFC 4861 SHLD-2 SHLD-3 MUST-20.
func TestRouterOptionsAreApplied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := autoHost(t)
		hop := func(dst string) string {
			way, err := s.route(addr(dst), netip.Addr{})
			require.NoError(t, err)
			return way.hop.String()
		}
		route := func(dst string, pref wire.Preference, life uint32) []byte {
			r := wire.RouteInfo{Prefix: prefix(dst), Preference: pref, Lifetime: life}
			return r.Append(nil)
		}
		p.ra(ra{src: "fe80::1"}, prefixOption("2001:db8:1::/64", time.Hour, time.Hour), route("2001:db8:7::/48", wire.PreferLow, 60))
		p.ra(ra{src: "fe80::2", RouterAdv: wire.RouterAdv{Preference: wire.PreferHigh}})
		p.ra(ra{src: "fe80::3", RouterAdv: wire.RouterAdv{Preference: wire.PreferLow}},
			route("2001:db8:7::/48", wire.PreferMedium, 600), route("2001:db8:8:1::/64", wire.PreferHigh, 1<<32-1))
		require.Equal(t, "fe80::2", hop("2001:db8:9::1"), "the preference is high")
		require.Equal(t, "fe80::3", hop("2001:db8:7::1"), "the longest prefix, and the better one of two")
		require.Equal(t, "fe80::3", hop("2001:db8:8:1::1"))
		// RFC 4191 3.1: ::/0 in an option has its own preference and lifetime.
		p.ra(ra{src: "fe80::3"}, route("::/0", wire.PreferHigh, 30))
		p.ra(ra{src: "fe80::2"})
		require.Equal(t, "fe80::3", hop("2001:db8:9::1"))
		time.Sleep(31 * time.Second)
		require.NotEqual(t, "fe80::3", hop("2001:db8:9::1"))
		p.ra(ra{src: "fe80::3", zeroLifetime: true}, route("2001:db8:7::/48", wire.PreferMedium, 0))
		require.Equal(t, "fe80::1", hop("2001:db8:7::1"))

		p.ra(ra{RouterAdv: wire.RouterAdv{HopLimit: 17, Managed: true, Other: true, Reachable: 10_000, Retrans: 300}},
			wire.AppendMTU(nil, 1400),
			wire.AppendRDNSS(nil, 600, addr("2001:db8::53"), addr("fe80::53")),
			wire.AppendDNSSL(nil, 600, "example.test", "a.test."),
			wire.AppendPREF64(nil, prefix("64:ff9b::/96"), 600))
		require.Equal(t, &AutoInfo{
			DNS: []netip.Addr{addr("2001:db8::53"), addr("fe80::53%eth0")}, Search: []string{"example.test.", "a.test."},
			NAT64: []netip.Prefix{prefix("64:ff9b::/96")}, HopLimit: 17, MTU: 1400, Managed: true, Other: true,
		}, s.Interfaces()[1].Auto)
		servers, search := s.LearnedDNS()
		require.Equal(t, "[[2001:db8::53]:53 [fe80::53%eth0]:53]", fmt.Sprint(servers))
		require.Equal(t, []string{"example.test.", "a.test."}, search)
		way, err := s.route(addr("2001:db8:9::1"), netip.Addr{})
		require.NoError(t, err)
		require.Equal(t, 1400, way.mtu)
		p.ra(ra{}, wire.AppendMTU(nil, 1<<31|1300))
		require.Equal(t, 1400, s.Interfaces()[1].Auto.MTU, "an MTU above that of the link is ignored")
		// The hop limit applies to all sockets that have not set one.
		u := openUDP(t, s, "[::]:9")
		sendUDP6(t, u, router6+"%eth0", "x")
		require.NoError(t, u.SetTTL(3))
		sendUDP6(t, u, router6+"%eth0", "x")
		require.NoError(t, u.SetTTL(-1))
		sendUDP6(t, u, router6+"%eth0", "x")
		var hops []uint8
		for _, f := range p.take() {
			if h, _, r := wire.ParseIPv6(f[wire.EthernetLen:]); r == wire.OK && h.Next == wire.ProtoUDP {
				hops = append(hops, h.HopLimit)
			}
		}
		require.Equal(t, []uint8{17, 3, 17}, hops)
		require.EqualValues(t, 17, s.newTCP(addrPort("[2001:db8:1::5]:9"), addrPort("[2001:db8:9::1]:9"), &way).ttl)
		require.Equal(t, 1340, way.advMSS(), "the MTU less the headers of IPv6 and TCP")
		nt := s.ifaceNamed("eth0").nd()
		require.Equal(t, 300*time.Millisecond, time.Duration(nt.retrans))
		// RFC 4861 6.3.2: a random value from 0.5 to 1.5 times the advertised 10 s.
		require.GreaterOrEqual(t, time.Duration(nt.reachable), 5*time.Second)
		require.Less(t, time.Duration(nt.reachable), 15*time.Second)
		p.ra(ra{}, wire.AppendRDNSS(nil, 0, addr("2001:db8::53")), wire.AppendDNSSL(nil, 0, "a.test"))
		servers, search = s.LearnedDNS()
		require.Equal(t, "[[fe80::53%eth0]:53]", fmt.Sprint(servers))
		require.Equal(t, []string{"example.test."}, search)
	})
}

// RFC 4861 7.2.5.
//
// RFC 4861 MUST-50.
func TestAFormerRouterIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := autoHost(t)
		p.ra(ra{})
		require.True(t, s.Interfaces()[1].Gateway6.IsValid())
		p.na(router6, macB, wire.NARouter)
		require.True(t, s.Interfaces()[1].Gateway6.IsValid())
		p.na(router6, macB, 0)
		require.False(t, s.Interfaces()[1].Gateway6.IsValid())
	})
}

// RFC 7559: the interval between solicitations grows, but the solicitations never stop.
func TestTheSolicitationIntervalGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p := autoHost(t)
		var at []time.Time
		for range 30_000 {
			time.Sleep(time.Second)
			for _, f := range p.sent() {
				if strings.Contains(f, "router solicitation") {
					at = append(at, time.Now())
				}
			}
		}
		require.Greater(t, len(at), 14)
		for i := 1; i < len(at); i++ {
			want := min(4*time.Second<<min(i-1, 20), time.Hour)
			require.InDelta(t, want.Seconds(), at[i].Sub(at[i-1]).Seconds(), want.Seconds()*0.5+1, "%d", i)
		}
		require.LessOrEqual(t, at[len(at)-1].Sub(at[len(at)-2]), time.Hour+time.Second)
	})
}

// RFC 4861 6.3.7: only a valid advertisement "with a non-zero Router Lifetime" ends the solicitations.
func TestAnAnswerEndsTheSolicitations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p := autoHost(t)
		solicited := func() bool {
			p.take()
			time.Sleep(time.Minute)
			return strings.Contains(strings.Join(p.sent(), " "), "router solicitation")
		}
		require.True(t, solicited())
		p.ra(ra{zeroLifetime: true})
		require.True(t, solicited())
		p.ra(ra{})
		require.False(t, solicited())
	})
}

// RFC 7217 6 and 7.
func TestStableAddressesAreStable(t *testing.T) {
	stableAddr := func(secret, name, p string) (got netip.Addr) {
		synctest.Test(t, func(t *testing.T) {
			s, peer := autoHost(t, func(c *Config) {
				c.StableSecret, c.NICs[0].Name = []byte(secret), name
			})
			peer.ra(ra{}, prefixOption(p, time.Hour, time.Hour))
			got = autoAddrs(s, p)[0].Prefix.Addr()
		})
		return got
	}
	id := func(a netip.Addr) string { b := a.As16(); return string(b[8:]) }
	const secret = "0123456789abcdef"
	first := stableAddr(secret, "eth0", "2001:db8:1::/64")
	require.Equal(t, first, stableAddr(secret, "eth0", "2001:db8:1::/64"))
	require.NotEqual(t, first, stableAddr("another secret !", "eth0", "2001:db8:1::/64"))
	require.NotEqual(t, first, stableAddr(secret, "eth1", "2001:db8:1::/64"))
	require.NotEqual(t, id(first), id(stableAddr(secret, "eth0", "2001:db8:2::/64")), "another network gets an unrelated identifier")
	require.NotEqual(t, id(addr(llA)), id(first))

	for id, want := range map[uint64]bool{ // the limits of the ranges of RFC 5453
		0: true, 1: false, 0xfdffffffffffff7f: false, 0xfdffffffffffff80: true, 0xfdffffffffffffff: true, 0xfe00000000000000: false,
		0x02005efffe000000: true, 0x02005efffeffffff: true, 0x02005eff00000000: false, 0x02005efffd000000: false,
	} {
		require.Equal(t, want, isReservedID(id), "%x", id)
	}
	_, err := New(Config{StableSecret: []byte("short")})
	require.ErrorContains(t, err, "at least 16")
}

// RFC 7217 6: a duplicate is replaced up to IDGEN_RETRIES times.
func TestADuplicateIsReplacedThreeTimes(t *testing.T) {
	for _, temporary := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s, p := autoHost(t, func(c *Config) { c.NICs[0].Temporary = temporary })
			p.ra(ra{}, prefixOption("2001:db8:1::/64", 20*time.Hour, 20*time.Hour))
			seen := map[netip.Addr]bool{}
			for range 10 {
				for _, a := range autoAddrs(s, "2001:db8:1::/64") {
					if a.State != AddrDuplicate && a.Temporary == temporary {
						require.False(t, seen[a.Prefix.Addr()])
						seen[a.Prefix.Addr()] = true
						h := wire.NeighborSol{Target: a.Prefix.Addr()}
						p.nd(ndMessage{typ: wire.ICMPv6NeighborSol, src: "::", dst: wire.SolicitedNode(h.Target).String(), body: h.Append(nil)})
					}
				}
			}
			require.Len(t, seen, 1+maxIDTries)
		})
	}
}

// RFC 8981 3.
//
// RFC 4862 SHLD-2.
func TestTemporaryAddressesChangeEachDay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := autoHost(t, func(c *Config) { c.NICs[0].Temporary = true })
		seen := map[netip.Addr]bool{}
		const day = 24 * time.Hour
		for hour := range 10 * 24 {
			p.ra(ra{RouterAdv: wire.RouterAdv{Lifetime: 9000}}, prefixOption("2001:db8:1::/64", 30*day, 7*day))
			p.take()
			time.Sleep(time.Hour)
			way, err := s.route(addr("2001:db8:9::1"), netip.Addr{})
			require.NoError(t, err)
			fresh := 0
			for _, a := range autoAddrs(s, "2001:db8:1::/64") {
				if !a.Temporary {
					require.NotEqual(t, a.Prefix.Addr(), way.src)
					continue
				}
				seen[a.Prefix.Addr()] = true
				require.LessOrEqual(t, left(a.ValidUntil), 2*day)
				require.LessOrEqual(t, left(a.PreferredUntil), day)
				if a.State == AddrPreferred {
					fresh++
					require.Equal(t, a.Prefix.Addr(), way.src, "RFC 6724 5, rule 7")
				}
			}
			require.Equal(t, 1, fresh, "hour %d", hour)
			require.LessOrEqual(t, len(autoAddrs(s, "2001:db8:1::/64")), 6)
		}
		require.GreaterOrEqual(t, len(seen), 10)
		require.LessOrEqual(t, len(seen), 18, "MAX_DESYNC_FACTOR is 0.4 of a day")
	})
}

// RFC 8981 3.4: a temporary address is made only if its preferred lifetime "is greater than REGEN_ADVANCE
// time units". When the prefix is preferred again, the host makes temporary addresses again.
func TestTemporaryAddressesComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const day = 24 * time.Hour
		const net = "2001:db8:1::/64"
		s, p := autoHost(t, func(c *Config) { c.NICs[0].Temporary = true })
		temporary := func() (preferred, all []netip.Addr) {
			for _, a := range autoAddrs(s, net) {
				if a.Temporary {
					all = append(all, a.Prefix.Addr())
					if a.State == AddrPreferred || a.State == AddrOptimistic {
						preferred = append(preferred, a.Prefix.Addr())
					}
				}
			}
			return preferred, all
		}
		advertise := func(preferred time.Duration) {
			p.ra(ra{}, prefixOption(net, 30*day, preferred))
			time.Sleep(3 * time.Second)
		}
		advertise(0)
		_, all := temporary()
		require.Empty(t, all, "the prefix is deprecated")
		advertise(time.Minute)
		first, _ := temporary()
		require.Len(t, first, 1)
		// No router answers until the preferred lifetime has ended.
		time.Sleep(2 * time.Minute)
		preferred, all := temporary()
		require.Empty(t, preferred)
		require.Equal(t, first, all)
		// The address is preferred again, so there is no second one. Later another follows it.
		advertise(7 * day)
		preferred, all = temporary()
		require.Equal(t, first, preferred)
		require.Equal(t, first, all)
		time.Sleep(day)
		preferred, all = temporary()
		require.Len(t, preferred, 1)
		require.Len(t, all, 2)
		require.NotEqual(t, first, preferred)
		// The prefix is deprecated for longer than a temporary address is preferred.
		advertise(0)
		time.Sleep(day)
		preferred, _ = temporary()
		require.Empty(t, preferred)
		advertise(7 * day)
		preferred, _ = temporary()
		require.Len(t, preferred, 1)
		require.NotContains(t, all, preferred[0])
	})
}

// A flood of advertisements uses bounded memory.
func TestAFloodOfAdvertisementsIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := autoHost(t, func(c *Config) { c.NICs[0].Temporary = true })
		for i := range 2000 {
			a := addr("2001:db8::").As16()
			a[4], a[5], a[6] = 1, byte(i>>8), byte(i)
			n := netip.AddrFrom16(a)
			r := wire.RouteInfo{Prefix: netip.PrefixFrom(n, 56), Lifetime: 600}
			p.ra(ra{src: fmt.Sprintf("fe80::1:%x", i)}, prefixOption(n.String()+"/64", time.Hour, time.Hour),
				r.Append(nil), wire.AppendRDNSS(nil, 600, n.Next()), wire.AppendDNSSL(nil, 600, fmt.Sprintf("x%d.test", i)))
		}
		a := s.ifaceNamed("eth0").auto
		require.LessOrEqual(t, a.size(), maxAutoRoutes+maxAutoPrefixes+3*maxAutoDNS)
		require.LessOrEqual(t, len(s.Interfaces()[1].AddrInfo), 1+maxAutoAddrs) // and the link-local address
		require.LessOrEqual(t, len(s.Neighbors()), maxNeighbors)
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		require.Zero(t, a.size())
		require.Len(t, s.Interfaces()[1].AddrInfo, 1)
	})
}

func TestAutoNeedsASuitableLink(t *testing.T) {
	for want, f := range map[string]func() NIC{
		"1280": func() NIC {
			a, _ := nic.Pipe(nic.PipeConfig{MTU: 1279})
			return NIC{Device: a, Auto: true}
		},
		"Temporary needs Auto": func() NIC {
			a, _ := nic.Pipe(nic.PipeConfig{})
			return NIC{Device: a, Temporary: true}
		},
	} {
		_, err := New(Config{NICs: []NIC{f()}})
		require.ErrorContains(t, err, want)
	}
}

// RFC 4191 3.1: the host prefers the routers with the higher preference, on whichever link they are.
func TestThePreferenceHoldsAcrossLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		da, db := nic.Pipe(nic.PipeConfig{NoTxChecksum: true})
		second := &peer{t: t, dev: db}
		db.Attach(func([]nic.Frame) {})
		s, p := autoHost(t, func(c *Config) { c.NICs = append(c.NICs, NIC{Name: "eth1", Device: da, Auto: true}) })
		advertise := func(p *peer, src string, pref wire.Preference, life uint16) {
			r := wire.RouterAdv{Lifetime: life, Preference: pref, Options: wire.AppendNDOption(nil, wire.NDSourceLink, macB[:])}
			more := wire.RouteInfo{Prefix: prefix("2001:db8:7::/48"), Preference: pref, Lifetime: uint32(life)}
			r.Options = append(r.Options, more.Append(nil)...)
			body, rest := r.Append(nil)
			p.nd(ndMessage{typ: wire.ICMPv6RouterAdv, rest: rest, src: src, dst: "ff02::1", body: body})
		}
		over := func(dst string) string {
			way, err := s.route(addr(dst), netip.Addr{})
			require.NoError(t, err)
			return way.ifc.name
		}
		for _, dst := range []string{"2001:db8:9::1", "2001:db8:7::1"} {
			advertise(p, "fe80::a", wire.PreferLow, 1800)
			advertise(second, "fe80::b", wire.PreferHigh, 1800)
			require.Equal(t, "eth1", over(dst))
			advertise(p, "fe80::a", wire.PreferHigh, 1800)
			require.Equal(t, "eth0", over(dst), "among equal preferences, the first link")
			advertise(p, "fe80::a", wire.PreferMedium, 1800)
			require.Equal(t, "eth1", over(dst))
			advertise(second, "fe80::b", wire.PreferLow, 1800)
			require.Equal(t, "eth0", over(dst))
			advertise(p, "fe80::a", wire.PreferLow, 0)
			require.Equal(t, "eth1", over(dst))
		}
	})
}
