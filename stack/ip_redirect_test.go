package stack

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// redirect sends a Redirect of a router for dst to target.
func (p *peer) redirect(router, dst, target string) {
	p.t.Helper()
	m := wire.RedirectMsg{Target: addr(target), Dst: addr(dst)}
	p.nd(ndMessage{typ: wire.ICMPv6Redirect, src: router, dst: "2001:db8::1", body: m.Append(nil)})
}

// hopOver returns the next hop for dst over an interface; "" if there is no route.
func hopOver(s *Stack, dst string, index int) string {
	p, err := s.routeOver(addr(dst), netip.Addr{}, index)
	if err != nil {
		return ""
	}
	return p.hop.String()
}

// RFC 4861 8.1: a Redirect comes from "the current first-hop router for the specified ICMP Destination
// Address". If the source or the socket of a packet chooses the interface, the first-hop router is that of the
// chosen interface, and not that of the best route.
func TestARedirectHoldsForItsInterface(t *testing.T) {
	const dst = "2001:db8:5::5"
	synctest.Test(t, func(t *testing.T) {
		s, p := ndHost(t, func(c *Config) {
			c.NICs[0].Gateway6 = addr("fe80::99")
			first := NIC{Name: "first", Device: nic.NewNull(nic.Link{}), Addrs: []netip.Prefix{prefix("2001:db8:1::1/64")}, Gateway6: addr("fe80::99")}
			c.NICs = []NIC{first, c.NICs[0]}
		})
		first, second := s.ifaceNamed("first").index, s.ifaceNamed("eth0").index
		require.Equal(t, "fe80::99", hopOver(s, dst, 0))
		p.redirect("fe80::99", dst, "fe80::98")
		require.Equal(t, "fe80::98", hopOver(s, dst, second))
		require.Equal(t, "fe80::99", hopOver(s, dst, first))
		way, err := s.route(addr(dst), addr("2001:db8::1"))
		require.NoError(t, err)
		require.Equal(t, "fe80::98", way.hop.String(), "the source has chosen the interface")
	})
}

// A redirect applies only while the routing table gives the same router as at the time of the redirect.
func TestARedirectFollowsTheRoutes(t *testing.T) {
	const dst = "2001:db8:5::5"
	synctest.Test(t, func(t *testing.T) {
		s, p := ndHost(t, func(c *Config) { c.NICs[0].Gateway6 = addr("fe80::99") })
		p.redirect("fe80::99", dst, "fe80::98")
		require.Equal(t, "fe80::98", hopOver(s, dst, 0))
		// The target of the redirect becomes the router of the routing table.
		require.NoError(t, s.AddRoute(Route{Dst: prefix("2001:db8:5::/48"), Via: addr("fe80::98"), NIC: "eth0"}))
		p.redirect("fe80::98", dst, "fe80::97")
		require.Equal(t, "fe80::97", hopOver(s, dst, 0))
	})
}

// RFC 4861 6.3.5: "When removing a router from the Default Router list, the node MUST update the
// Destination Cache in such a way that all entries using the router perform next-hop determination again
// rather than continue sending traffic to the (deleted) router."
//
// RFC 4861 MUST-23.
func TestARedirectEndsWithItsRouter(t *testing.T) {
	const dst, one, two = "2001:db8:5::5", "fe80::1", "fe80::2"
	for name, end := range map[string]func(p *peer){
		"lifetime 0":         func(p *peer) { p.ra(ra{src: two, zeroLifetime: true}) },
		"lifetime ends":      func(*peer) { time.Sleep(200 * time.Second) },
		"no longer a router": func(p *peer) { p.na(two, macB, wire.NAOverride) },
	} {
		synctest.Test(t, func(t *testing.T) {
			s, p := autoHost(t)
			p.ra(ra{src: one}, prefixOption("2001:db8::/64", time.Hour, time.Hour))
			p.ra(ra{src: two, RouterAdv: wire.RouterAdv{Lifetime: 100}})
			m := wire.RedirectMsg{Target: addr(two), Dst: addr(dst)}
			p.nd(ndMessage{typ: wire.ICMPv6Redirect, src: one, dst: autoAddrs(s, "2001:db8::/64")[0].Prefix.Addr().String(), body: m.Append(nil)})
			require.Equal(t, two, hopOver(s, dst, 0), name)
			end(p)
			require.Equal(t, one, hopOver(s, dst, 0), name)
		})
	}
}
