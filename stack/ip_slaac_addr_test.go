package stack

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/internal/nictest"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// probe sends the probe of another node's Duplicate Address Detection.
func (p *peer) probe(a netip.Addr) {
	p.t.Helper()
	h := wire.NeighborSol{Target: a}
	p.nd(ndMessage{typ: wire.ICMPv6NeighborSol, src: "::", dst: wire.SolicitedNode(a).String(), body: h.Append(nil)})
}

// RFC 8981 3.4: after TEMP_IDGEN_RETRIES duplicates, the host "SHOULD NOT attempt to generate a temporary
// address for the given prefix for the duration of the host's attachment to the network via this
// interface."
func TestTemporaryAddressesEndAfterFourDuplicates(t *testing.T) {
	const day, net = 24 * time.Hour, "2001:db8:1::/64"
	synctest.Test(t, func(t *testing.T) {
		da, db := nic.Pipe(nic.PipeConfig{MACs: [2][6]byte{macA, macB}, NoTxChecksum: true})
		db.Attach(func([]nic.Frame) {})
		dev := nictest.NewChangeable(da)
		p := &peer{t: t, dev: db}
		s := newHost(t, dev, "192.0.2.1/24", func(c *Config) { c.NICs[0].Auto, c.NICs[0].Temporary = true, true })
		seen := map[netip.Addr]bool{}
		// run advertises the prefix for some days, and answers the detection of each temporary address.
		run := func(days int) {
			for range days * 24 {
				p.ra(ra{}, prefixOption(net, 30*day, 7*day))
				for range 6 {
					for _, a := range autoAddrs(s, net) {
						if a.Temporary && a.State == AddrOptimistic {
							seen[a.Prefix.Addr()] = true
							p.probe(a.Prefix.Addr())
						}
					}
				}
				time.Sleep(time.Hour)
			}
		}
		run(10)
		require.Len(t, seen, 1+maxIDTries)
		dev.Change(func(l *nic.Link) { l.Up = false })
		dev.Change(func(l *nic.Link) { l.Up = true })
		run(5)
		require.Len(t, seen, 2*(1+maxIDTries), "the host is attached to the network again")
	})
}

// RFC 8981 3.4: a duplicate has only one successor, the address that replaces it. That address has a successor
// of its own.
func TestADuplicateHasOneSuccessor(t *testing.T) {
	const day, net = 24 * time.Hour, "2001:db8:1::/64"
	synctest.Test(t, func(t *testing.T) {
		s, p := autoHost(t, func(c *Config) { c.NICs[0].Temporary = true })
		duplicates := 0
		for range 5 * 24 {
			p.ra(ra{}, prefixOption(net, 30*day, 7*day))
			for range maxIDTries {
				for _, a := range autoAddrs(s, net) {
					if a.Temporary && a.State == AddrOptimistic && duplicates < maxIDTries {
						duplicates++
						p.probe(a.Prefix.Addr())
					}
				}
			}
			time.Sleep(time.Hour)
			usable := 0
			for _, a := range autoAddrs(s, net) {
				if a.Temporary && a.State == AddrPreferred {
					usable++
				}
			}
			require.Equal(t, 1, usable)
		}
		require.Equal(t, maxIDTries, duplicates)
	})
}

// RFC 6724 5, rule 5.5: "Prefer addresses in a prefix advertised by the next-hop". The host forgets a router
// that no longer advertises the prefix, and has space for a new one.
func TestTheSourceFollowsThePrefixOfTheNextHop(t *testing.T) {
	const p1, p2, dst, router = "2001:db8:1::/64", "2001:db8:2::/64", "2001:db8:1:9::1", "fe80::99"
	// source returns the prefix of the source address for dst. Without rule 5.5, rule 8 would choose p1.
	source := func(s *Stack) string {
		way, err := s.route(addr(dst), netip.Addr{})
		require.NoError(t, err)
		require.Equal(t, router, way.hop.String())
		p, _ := way.src.Prefix(64)
		return p.String()
	}
	hour := func(p string) []byte { return prefixOption(p, time.Hour, time.Hour) }
	synctest.Test(t, func(t *testing.T) {
		s, p := autoHost(t)
		p.ra(ra{src: router, RouterAdv: wire.RouterAdv{Lifetime: 9000}}, prefixOption(p2, 9*time.Hour, 9*time.Hour), hour(p1))
		require.Equal(t, p1, source(s))
		// The router withdraws p1, and another one advertises it.
		p.ra(ra{src: router, RouterAdv: wire.RouterAdv{Lifetime: 9000}}, prefixOption(p1, 0, 0))
		p.ra(ra{src: "fe80::1", zeroLifetime: true}, hour(p1))
		require.Equal(t, p2, source(s))
		p.ra(ra{src: router, RouterAdv: wire.RouterAdv{Lifetime: 9000}}, hour(p1))
		require.Equal(t, p1, source(s))
		// The lifetime of p1 by the router's last advertisement ends. The other router still advertises p1.
		for range 2 {
			time.Sleep(40 * time.Minute)
			p.ra(ra{src: "fe80::1", zeroLifetime: true}, hour(p1))
		}
		require.Equal(t, p2, source(s))
	})
	synctest.Test(t, func(t *testing.T) {
		s, p := autoHost(t)
		for i := range 3 * maxPrefixRouters { // they advertise p2 and are no default routers
			p.ra(ra{src: fmt.Sprintf("fe80::1:%x", i), zeroLifetime: true}, hour(p2))
		}
		p.ra(ra{src: "fe80::1", zeroLifetime: true}, hour(p1))
		p.ra(ra{src: router}, hour(p2))
		require.Equal(t, p2, source(s))
		for i := range 3 * maxPrefixRouters {
			p.ra(ra{src: fmt.Sprintf("fe80::1:%x", i), zeroLifetime: true}, hour(p2))
		}
		require.Equal(t, p2, source(s), "a flood does not remove the next hop")
	})
}

// A change of the flags M and O alone is reported as a change of the host, because a DHCPv6 client waits for
// the flags.
func TestTheFlagsOfARouterAreReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := autoHost(t)
		for _, flags := range []wire.RouterAdv{{Managed: true}, {Managed: true, Other: true}, {}} {
			requireChanged(t, s, fmt.Sprint(flags), func() { p.ra(ra{RouterAdv: flags, zeroLifetime: true}) })
			info := s.Interfaces()[1].Auto
			require.Equal(t, flags.Managed, info.Managed)
			require.Equal(t, flags.Other, info.Other)
		}
	})
}

// The program makes an address of an advertised prefix static. Advertisements then do not change the address,
// and the stack does not rebuild the routes.
func TestAnAdvertisedAddressBecomesStatic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := autoHost(t)
		p.ra(ra{}, prefixOption("2001:db8:1::/64", time.Hour, time.Hour))
		own := autoAddrs(s, "2001:db8:1::/64")[0].Prefix
		require.NoError(t, s.AddAddr("", own, AddrOptions{}))
		time.Sleep(5 * time.Second)
		changed := s.Changed()
		p.ra(ra{}, prefixOption("2001:db8:1::/64", time.Hour, time.Hour))
		select {
		case <-changed:
			t.Error("the same advertisement has changed the host")
		default:
		}
		time.Sleep(24 * time.Hour)
		require.Empty(t, autoAddrs(s, "2001:db8:1::/64"))
		require.Equal(t, "preferred", stateOf(s, own.Addr().String()))
	})
}

// The program makes the stable address of a prefix static. The router still renews the temporary addresses.
func TestTemporaryAddressesLiveBesideAStaticOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := autoHost(t, func(c *Config) { c.NICs[0].Temporary = true })
		advertise := func() { p.ra(ra{}, prefixOption("2001:db8:1::/64", time.Hour, time.Hour)) }
		advertise()
		time.Sleep(5 * time.Second)
		for _, a := range autoAddrs(s, "2001:db8:1::/64") {
			if !a.Temporary {
				require.NoError(t, s.AddAddr("", a.Prefix, AddrOptions{}))
			}
		}
		for range 6 {
			time.Sleep(30 * time.Minute)
			advertise()
		}
		time.Sleep(30 * time.Minute)
		left := autoAddrs(s, "2001:db8:1::/64")
		require.Len(t, left, 1)
		require.True(t, left[0].Temporary)
		require.Equal(t, AddrPreferred, left[0].State)
	})
}
