package stack

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// RFC 4861 6.2: a host of this stack is the router of another one.
//
// RFC 4861 SHLD-1.
func TestAHostAdvertisesItselfAsARouter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		da, db := nic.Pipe(nic.PipeConfig{MACs: [2][6]byte{macA, macB}})
		r := newHost(t, da, "2001:db8:1::1/64")
		cfg := RouterConfig{
			Lifetime: 1800 * time.Second, Preference: 1, MTU: 1400, HopLimit: 77, Other: true,
			Prefixes: []RouterPrefix{{Prefix: prefix("2001:db8:1::/64")}, {Prefix: prefix("2001:db8:2::/64"), NoAuto: true}},
			DNS:      []netip.Addr{addr("2001:db8:1::1")}, Search: []string{"example.test"}, NAT64: prefix("64:ff9b::/96"),
		}
		require.NoError(t, r.Advertise("", &cfg))
		h := newHost(t, db, "192.0.2.9/24", func(c *Config) { c.NICs[0].Auto = true })
		time.Sleep(5 * time.Second)
		info := h.Interfaces()[1]
		require.Equal(t, addr(llA), info.Gateway6)
		as := autoAddrs(h, "2001:db8:1::/64")
		require.Len(t, as, 1)
		require.InDelta(t, (30 * 24 * time.Hour).Seconds(), time.Until(as[0].ValidUntil).Seconds(), 60)
		require.InDelta(t, (7 * 24 * time.Hour).Seconds(), time.Until(as[0].PreferredUntil).Seconds(), 60)
		require.Empty(t, autoAddrs(h, "2001:db8:2::/64"))
		require.NoError(t, routeError(h, "2001:db8:2::5"))
		require.Equal(t, &AutoInfo{
			DNS: []netip.Addr{addr("2001:db8:1::1")}, Search: []string{"example.test."},
			NAT64: []netip.Prefix{prefix("64:ff9b::/96")}, HopLimit: 77, MTU: 1400, Other: true,
		}, info.Auto)
		require.True(t, neighbor6(h, llA).Router)
		// The host keeps the router while the router advertises, and removes it when the router stops.
		time.Sleep(100 * time.Hour)
		require.True(t, h.Interfaces()[1].Gateway6.IsValid())
		require.NotEmpty(t, h.Interfaces()[1].Auto.DNS)
		require.NoError(t, r.Advertise("", nil))
		require.False(t, h.Interfaces()[1].Gateway6.IsValid())
		require.NoError(t, r.Advertise("", &cfg))
		require.NoError(t, r.Advertise("", &cfg), "Advertise may be called again")
		time.Sleep(4 * time.Second)
		require.True(t, h.Interfaces()[1].Gateway6.IsValid())
		r.Close()
		require.False(t, h.Interfaces()[1].Gateway6.IsValid())
	})
}

// RFC 4191 2.2: "If the Router Lifetime value is zero, the preference value MUST be set to (00) by the sender".
func TestNoDefaultRouterHasNoPreference(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := ndHost(t)
		preferences := func() (list []wire.Preference) {
			for _, f := range p.take() {
				b := f[wire.EthernetLen+wire.IPv6Len:]
				if wire.ICMPv6Type(b[0]) != wire.ICMPv6RouterAdv {
					continue
				}
				ra, r := wire.ParseRouterAdv(binary.BigEndian.Uint32(b[4:]), b[wire.ICMPLen:])
				require.Equal(t, wire.OK, r)
				list = append(list, ra.Preference)
			}
			return list
		}
		require.NoError(t, s.Advertise("", &RouterConfig{Preference: 1}))
		require.Equal(t, []wire.Preference{wire.PreferMedium}, preferences())
		require.NoError(t, s.Advertise("", &RouterConfig{Preference: -1, Lifetime: time.Hour}))
		time.Sleep(time.Minute)
		require.Contains(t, preferences(), wire.PreferLow)
		require.NoError(t, s.Advertise("", nil))
		require.Equal(t, []wire.Preference{wire.PreferMedium}, preferences())
	})
}

// RFC 4861 6.2.4 and 6.2.6: the intervals of advertisements.
//
// RFC 4861 MUST-1 MUST-3 MUST-4 MUST-5 MUST-6 MUST-7 MUST-8 MUST-9 MUST-10 MUST-46.
func TestAdvertisementsAreLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := ndHost(t)
		count := func() (n int) {
			for _, f := range p.sent() {
				if strings.Contains(f, llA+" > ff02::1 ICMPv6 router advertisement") {
					n++
				}
			}
			return n
		}
		option := wire.AppendNDOption(nil, wire.NDSourceLink, macB[:])
		ask := ndMessage{typ: wire.ICMPv6RouterSol, src: llB, dst: "ff02::2", body: option}
		p.nd(ask)
		require.Equal(t, 1, dropped(s, dropNotJoined), "the host is not a router yet")
		require.NoError(t, s.Advertise("", &RouterConfig{Lifetime: time.Hour, Prefixes: []RouterPrefix{{Prefix: prefix("2001:db8::/64")}}}))
		require.Equal(t, 1, count())
		time.Sleep(33 * time.Second)
		require.Equal(t, 2, count(), "MAX_INITIAL_RTR_ADVERTISEMENTS, MAX_INITIAL_RTR_ADVERT_INTERVAL")
		time.Sleep(10 * time.Hour)
		n := count()
		require.GreaterOrEqual(t, n, 60)
		require.LessOrEqual(t, n, 180)
		for range 20 {
			time.Sleep(2 * time.Second)
			count()
			time.Sleep(2 * time.Second)
			if count() > 0 {
				continue // a periodic advertisement was due, so no answer can be counted
			}
			p.nd(ask)
			require.Zero(t, count(), "MAX_RA_DELAY_TIME")
			time.Sleep(501 * time.Millisecond)
			require.Equal(t, 1, count())
		}
		time.Sleep(time.Minute)
		count()
		for range 300 {
			p.nd(ask)
			time.Sleep(100 * time.Millisecond)
		}
		require.LessOrEqual(t, count(), 11, "MIN_DELAY_BETWEEN_RAS")
		require.Equal(t, "stale", state6(s, llB))
		require.False(t, neighbor6(s, llB).Router)
		// An answer to a Neighbor Solicitation has the Router flag.
		p.ns("2001:db8::1")
		require.Contains(t, strings.Join(p.sent(), "\n"), "router solicited override")
		for _, m := range []ndMessage{
			{typ: wire.ICMPv6RouterSol, src: "::", dst: "ff02::2", body: option},
			{typ: wire.ICMPv6RouterSol, src: llB, dst: "ff02::2", body: option[:7]},
			{typ: wire.ICMPv6RouterSol, src: llB, dst: "ff02::2", hops: 254},
			{typ: wire.ICMPv6RouterSol, src: llB, dst: "ff02::2", code: 1},
		} {
			p.nd(m)
		}
		require.Equal(t, 2, dropped(s, wire.BadND))
		require.Equal(t, 1, dropped(s, wire.BadNDOption))
		require.Equal(t, 1, dropped(s, dropNDHopLimit))
	})
}

// RFC 4861 6.2.4: a router may send "up to MAX_INITIAL_RTR_ADVERTISEMENTS" at short intervals; 6.1.2: their
// "IP Source Address is a link-local address". The advertisements wait until the host may use that address.
func TestAdvertisementsWaitForAnAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := ndHost(t, func(c *Config) { c.WaitForDAD, c.NICs[0].DADTransmits = true, 10 })
		count := func() int { return strings.Count(strings.Join(p.sent(), "\n"), "ICMPv6 router advertisement") }
		require.NoError(t, s.AddAddr("", prefix("fe80::77/64"), AddrOptions{}))
		require.NoError(t, s.RemoveAddr("", addr(llA)))
		require.NoError(t, s.Advertise("", &RouterConfig{Lifetime: time.Hour}))
		time.Sleep(9 * time.Second)
		require.Equal(t, "tentative", stateOf(s, "fe80::77"))
		require.Zero(t, count())
		time.Sleep(2 * time.Second)
		require.Equal(t, "preferred", stateOf(s, "fe80::77"))
		require.Equal(t, 1, count())
		time.Sleep(33 * time.Second)
		require.Equal(t, 2, count(), "three in all at short intervals")
	})
}

func TestInvalidRouterConfigsAreRefused(t *testing.T) {
	s, _ := hostAndPeer(t, func(cfg *Config) { cfg.NICs[0].Auto = true })
	many := make([]RouterPrefix, 40)
	for i := range many {
		many[i] = RouterPrefix{Prefix: prefix("2001:db8::/64")}
	}
	for want, c := range map[string]RouterConfig{
		"lifetime":     {Lifetime: 20 * time.Hour},
		"preference":   {Preference: 2},
		"shorter than": {Lifetime: 599 * time.Second},
		"of 5s is":     {Lifetime: 5 * time.Second, Interval: 6 * time.Second},
		"interval":     {Interval: time.Second},
		"MTU of 1279":  {MTU: 1279},
		"MTU of 1501":  {MTU: 1501},
		"no prefix":    {Prefixes: []RouterPrefix{{Prefix: prefix("192.0.2.0/24")}}},
		"fe80::/64 is": {Prefixes: []RouterPrefix{{Prefix: prefix("fe80::/64")}}},
		"longer than":  {Prefixes: []RouterPrefix{{Prefix: prefix("2001:db8::/64"), Valid: time.Hour}}},
		"name server":  {DNS: []netip.Addr{addr("192.0.2.1")}},
		"domain name":  {Search: []string{"a b"}},
		"of 4000":      {Search: []string{strings.Repeat("a.", 2000)}},
		"9 name":       {DNS: slices.Repeat([]netip.Addr{addr("2001:db8::9")}, 9)},
		"128 name":     {DNS: slices.Repeat([]netip.Addr{addr("2001:db8::9")}, 128)}, // an option has at most 127
		"NAT64":        {NAT64: prefix("64:ff9b::/95")},
		"too long":     {Prefixes: many},
	} {
		require.ErrorContains(t, s.Advertise("", &c), want)
	}
	require.ErrorContains(t, s.Advertise("eth7", nil), `no interface "eth7"`)
	a, _ := nic.Pipe(nic.PipeConfig{MTU: 1279})
	require.ErrorContains(t, newHost(t, a, "192.0.2.1/24").Advertise("", &RouterConfig{}), "no IPv6")
}

// RFC 4861 6.2.6: "Whether or not a Source Link-Layer Address option is provided, if a Neighbor Cache entry
// for the solicitation's sender exists (or is created) the entry's IsRouter flag MUST be set to FALSE." The
// Default Router List follows the flag (7.2.5).
//
// RFC 4861 MUST-10.
func TestASolicitingNodeIsNoRouter(t *testing.T) {
	for _, option := range [][]byte{nil, wire.AppendNDOption(nil, wire.NDSourceLink, macB[:])} {
		synctest.Test(t, func(t *testing.T) {
			s, p := autoHost(t)
			require.NoError(t, s.Advertise("", &RouterConfig{Lifetime: time.Hour}))
			p.ra(ra{})
			require.True(t, neighbor6(s, router6).Router)
			require.Equal(t, addr(router6), s.Interfaces()[1].Gateway6)
			p.nd(ndMessage{typ: wire.ICMPv6RouterSol, src: router6, dst: "ff02::2", body: option})
			require.False(t, neighbor6(s, router6).Router)
			require.False(t, s.Interfaces()[1].Gateway6.IsValid())
		})
	}
}

// A solicitation from an address that is not on the link makes no entry, as with Neighbor Solicitations
// (VU#472363).
func TestAnOffLinkSoliciterIsNotLearned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := ndHost(t)
		require.NoError(t, s.Advertise("", &RouterConfig{Lifetime: time.Hour}))
		option := wire.AppendNDOption(nil, wire.NDSourceLink, macB[:])
		p.nd(ndMessage{typ: wire.ICMPv6RouterSol, src: "2001:db8:9::9", dst: "ff02::2", body: option})
		require.Empty(t, s.Neighbors())
		require.Equal(t, 1, dropped(s, dropOffLinkND))
		p.nd(ndMessage{typ: wire.ICMPv6RouterSol, src: "2001:db8::9", dst: "ff02::2", body: option})
		require.Len(t, s.Neighbors(), 1)
	})
}
