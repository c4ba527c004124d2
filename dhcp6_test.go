package usernet_test

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/dhcp"
	"github.com/usernet/usernet/internal/nictest"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack"
)

// router6 makes a host that is a router with the address 2001:db8::1.
func router6(t *testing.T, dev nic.Device) *usernet.Host {
	h, err := usernet.New(usernet.Config{NIC: dev, Addrs: prefixes("2001:db8::1/64", "192.0.2.1/24")})
	require.NoError(t, err)
	return h
}

// advertise makes a router advertise its prefix, without addresses from it, and the flags M and O.
func advertise(t *testing.T, h *usernet.Host, managed, other bool) {
	require.NoError(t, h.Stack().Advertise("", &stack.RouterConfig{
		Lifetime: 30 * time.Minute, Interval: 10 * time.Second, Managed: managed, Other: other,
		Prefixes: []stack.RouterPrefix{{Prefix: netip.MustParsePrefix("2001:db8::/64"), NoAuto: true}},
	}))
}

func pool6() usernet.DHCP6ServerConfig {
	var cfg usernet.DHCP6ServerConfig
	cfg.Server.Pools = []dhcp.Range6{{First: netip.MustParseAddr("2001:db8::1:0"), Last: netip.MustParseAddr("2001:db8::1:ff")}}
	cfg.Server.DNS = []netip.Addr{netip.MustParseAddr("2001:db8::1")}
	cfg.Server.Search = []string{"b.test"}
	return cfg
}

// global6 returns the addresses of a host in 2001:db8::/64.
func global6(h *usernet.Host) (addrs []stack.AddrInfo) {
	for _, a := range h.Interfaces()[1].AddrInfo {
		if netip.MustParsePrefix("2001:db8::/64").Contains(a.Prefix.Addr()) {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for range 600 {
		if f() {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatal("not within a minute: " + what)
}

// The flags of a router decide whether a host asks a DHCPv6 server for an address, for settings, or for nothing.
func TestAHostAsksByDHCPv6WhatItsRouterSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wireA, wireB := nic.Pipe(nic.PipeConfig{})
		router := router6(t, wireA)
		defer router.Close()
		advertise(t, router, false, false)
		d, err := router.ServeDHCP6("", pool6())
		require.NoError(t, err)
		pc, err := router.ListenPacket("udp", ":53")
		require.NoError(t, err)
		go answerDNS(pc, map[string]string{"www.b.test.": "192.0.2.1"})
		h := newDHCPHost(t, wireB, func(c *usernet.Config) { c.Auto = true })
		defer h.Close()
		time.Sleep(time.Minute)
		require.Equal(t, dhcp.Stopped6, h.DHCP6()[0].State)
		stats, _ := d.Stats()
		require.Zero(t, stats.Received[dhcp.Solicit6]+stats.Received[dhcp.InformationRequest6])

		advertise(t, router, false, true)
		eventually(t, "settings", func() bool { return h.DHCP6()[0].State == dhcp.Informed6 })
		require.Empty(t, global6(h))
		require.Equal(t, []string{"b.test"}, h.DHCP6()[0].Lease.Search)

		advertise(t, router, true, true)
		eventually(t, "an address", func() bool { return len(global6(h)) == 1 })
		waitOnline(t, h)
		a := global6(h)[0]
		require.Equal(t, stack.AddrDHCP, a.Origin)
		require.Equal(t, 128, a.Prefix.Bits())
		require.Equal(t, h.DHCP6()[0].Lease.Addrs[0].Prefix, a.Prefix)
		require.Equal(t, slices.Collect(d.Bindings())[0].Addr, a.Prefix.Addr())
		_, err = h.Ping(t.Context(), "2001:db8::1", usernet.PingConfig{})
		require.NoError(t, err)
		addrs, err := h.LookupHost("www")
		require.NoError(t, err)
		require.Equal(t, []string{"192.0.2.1"}, addrs)

		time.Sleep(24 * time.Hour)
		require.Equal(t, a.Prefix, global6(h)[0].Prefix)
		require.NoError(t, h.Close())
		synctest.Wait()
		require.Empty(t, slices.Collect(d.Bindings()), "it was released")
	})
}

// A week's lease ends because its server has died; another node has the address afterwards; the link changes.
func TestADHCPv6LeaseEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := nic.NewSwitch(nic.SwitchConfig{})
		router := router6(t, sw.Port())
		defer router.Close()
		const week = 7 * 24 * time.Hour
		cfg := pool6()
		cfg.Server.Valid, cfg.Server.Preferred = week, week/2
		d, err := router.ServeDHCP6("", cfg)
		require.NoError(t, err)
		dev := nictest.NewChangeable(sw.Port())
		h, err := usernet.New(usernet.Config{NIC: dev})
		require.NoError(t, err)
		defer h.Close()
		var events []string
		require.NoError(t, h.StartDHCP6("", usernet.DHCP6Config{OnEvent: func(e dhcp.Event6) { events = append(events, e.Kind.String()) }}))
		eventually(t, "an address", func() bool { return len(global6(h)) == 1 })
		a := global6(h)[0].Prefix
		dev.Plug(false)
		time.Sleep(time.Second)
		dev.Plug(true)
		time.Sleep(10 * time.Second)
		require.Equal(t, dhcp.Bound6, h.DHCP6()[0].State, "confirmed")
		require.NoError(t, d.Close())
		time.Sleep(week / 2)
		require.Equal(t, stack.AddrDeprecated, global6(h)[0].State)
		time.Sleep(week / 2)
		require.Empty(t, global6(h))
		synctest.Wait()
		require.Equal(t, []string{"acquired", "lost"}, events)

		// Another node has taken the address. The host declines it.
		other, err := usernet.New(usernet.Config{NIC: sw.Port(), Addrs: []netip.Prefix{netip.PrefixFrom(a.Addr(), 64)}})
		require.NoError(t, err)
		defer other.Close()
		d, err = router.ServeDHCP6("", cfg)
		require.NoError(t, err)
		time.Sleep(2 * time.Hour) // the client asks once an hour
		require.Len(t, global6(h), 1)
		require.NotEqual(t, a, global6(h)[0].Prefix)
		stats, _ := d.Stats()
		require.EqualValues(t, 1, stats.Received[dhcp.Decline6])
		require.NoError(t, h.StopDHCP6(""))
		synctest.Wait()
		stats, _ = d.Stats()
		require.EqualValues(t, 1, stats.Received[dhcp.Release6])
		require.Empty(t, global6(h))
	})
}

func TestManyHostsAreServedByDHCPv6(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := nic.NewSwitch(nic.SwitchConfig{})
		bad := nic.Impairment{Loss: 0.15, Duplicate: 0.05, Latency: time.Millisecond}
		router := router6(t, sw.Port())
		defer router.Close()
		d, err := router.ServeDHCP6("", pool6())
		require.NoError(t, err)
		var hosts []*usernet.Host
		for i := range 30 {
			h, err := usernet.New(usernet.Config{NIC: nic.Impair(sw.Port(), nic.ImpairConfig{In: bad, Out: bad, Seed: uint64(i + 1)})})
			require.NoError(t, err)
			defer h.Close()
			require.NoError(t, h.StartDHCP6("", usernet.DHCP6Config{RapidCommit: true}))
			hosts = append(hosts, h)
		}
		time.Sleep(24 * time.Hour)
		seen := make(map[netip.Prefix]bool)
		for _, h := range hosts {
			require.Len(t, global6(h), 1, "%+v", h.DHCP6())
			seen[global6(h)[0].Prefix] = true
		}
		require.Len(t, seen, 30)
		require.GreaterOrEqual(t, len(slices.Collect(d.Bindings())), 30)
	})
}

func TestErrorsOfDHCPv6(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan, _ := nic.Pipe(nic.PipeConfig{})
		tun, _ := nic.Pipe(nic.PipeConfig{Medium: nic.IP})
		h, err := usernet.New(usernet.Config{NICs: []stack.NIC{{Name: "lan", Device: lan}, {Name: "tun", Device: tun}}})
		require.NoError(t, err)
		defer h.Close()
		require.ErrorIs(t, h.StartDHCP6("", usernet.DHCP6Config{}), syscall.ENODEV)
		require.ErrorIs(t, h.StartDHCP6("tun", usernet.DHCP6Config{}), syscall.EINVAL)
		require.EqualError(t, h.StartDHCP6("lan", usernet.DHCP6Config{FollowRouters: true}), "usernet: DHCPv6: FollowRouters needs Auto on lan: invalid argument")
		require.ErrorIs(t, h.StopDHCP6("lan"), syscall.ESRCH)
		pc, err := h.ListenPacket("udp6", ":546")
		require.NoError(t, err)
		require.EqualError(t, h.StartDHCP6("lan", usernet.DHCP6Config{}), "usernet: DHCPv6: UDP port 546: address already in use")
		require.NoError(t, pc.Close())
		require.NoError(t, h.StartDHCP6("lan", usernet.DHCP6Config{}))
		require.ErrorIs(t, h.StartDHCP6("lan", usernet.DHCP6Config{}), syscall.EEXIST)
		_, err = h.ServeDHCP6("tun", usernet.DHCP6ServerConfig{})
		require.ErrorIs(t, err, syscall.EINVAL)
		_, err = h.ServeDHCP6("lan", pool6())
		require.EqualError(t, err, "usernet: DHCPv6 server: dhcp: the network invalid Prefix is not an IPv6 prefix: invalid argument")
		d, err := h.ServeDHCP6("lan", usernet.DHCP6ServerConfig{})
		require.NoError(t, err, "stateless")
		_, err = h.ServeDHCP6("lan", usernet.DHCP6ServerConfig{})
		require.ErrorIs(t, err, syscall.EEXIST)
		require.NoError(t, d.Close())
		require.ErrorIs(t, d.Close(), net.ErrClosed)
		require.NoError(t, h.StopDHCP6("lan"))
		for _, port := range []int{546, 547} {
			pc, err := h.ListenPacket("udp6", fmt.Sprintf(":%d", port))
			require.NoError(t, err, "the port is free again")
			require.NoError(t, pc.Close())
		}
		require.NoError(t, h.Close())
		require.ErrorIs(t, h.StartDHCP6("lan", usernet.DHCP6Config{}), net.ErrClosed)

		only4, err := usernet.New(usernet.Config{NIC: lan, NoIPv6: true})
		if err == nil {
			require.ErrorIs(t, only4.StartDHCP6("", usernet.DHCP6Config{}), syscall.EAFNOSUPPORT)
			only4.Close()
		}
	})
}
