//go:build linux

package taptest

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/stack"
)

// newRouter makes a namespace that is a router, with 2001:db8:1::1 on a TAP. The host at the other end
// configures itself from Router Advertisements.
func newRouter(t *testing.T, tools ...string) (*namespace, *usernet.Host) {
	t.Helper()
	need(t, tools...)
	ns := newNamespace(t)
	ns.run(t, "sysctl", "-q", "-w", "net.ipv6.conf.all.forwarding=1")
	tap := ns.openTAP(t, false)
	ns.run(t, "ip", "-6", "addr", "add", "2001:db8:1::1/64", "dev", tapName, "nodad")
	ns.run(t, "ip", "-6", "addr", "add", "2001:db8:9::9/128", "dev", "lo")
	h, err := usernet.New(usernet.Config{NIC: tap, Auto: true, StableSecret: []byte("a secret of the tests")})
	require.NoError(t, err)
	t.Cleanup(func() { h.Close() })
	ns.kernelLinkLocal(t) // wait for the address from which the router sends
	return ns, h
}

// daemon starts a daemon in the namespace, which runs in the foreground. The daemon is killed at the end of
// the test.
func (ns *namespace) daemon(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := ns.command(t.Context(), args...)
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	require.NoError(t, err)
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("%s says:\n%s", args[0], text)
		}
	})
	return cmd
}

// await waits until holds returns true. It calls holds whenever the host changes, and each second.
func await(t *testing.T, h *usernet.Host, what string, holds func() bool) {
	t.Helper()
	for end := time.After(patience); ; {
		changed := h.Changed()
		if holds() {
			return
		}
		select {
		case <-changed:
		case <-time.After(time.Second): // lifetimes change without a notification
		case <-end:
			t.Fatalf("waited in vain until %s: %+v", what, h.Interfaces()[1])
		}
	}
}

// autoAddr returns the host's first address in a prefix.
func autoAddr(h *usernet.Host, prefix string) (a stack.AddrInfo) {
	for _, a := range h.Interfaces()[1].AddrInfo {
		if netip.MustParsePrefix(prefix).Contains(a.Prefix.Addr()) {
			return a
		}
	}
	return a
}

func radvdConfig(preferred, valid int) string {
	return fmt.Sprintf(`interface %s {
	AdvSendAdvert on;
	MinRtrAdvInterval 3;
	MaxRtrAdvInterval 4;
	AdvDefaultLifetime 600;
	AdvDefaultPreference high;
	AdvLinkMTU 1400;
	AdvCurHopLimit 77;
	prefix 2001:db8:1::/64 { AdvValidLifetime %d; AdvPreferredLifetime %d; };
	route 2001:db8:77::/48 { AdvRoutePreference high; };
	RDNSS 2001:db8:1::1 { AdvRDNSSLifetime 600; };
	DNSSL auto.test { AdvDNSSLLifetime 600; };
};
`, tapName, valid, preferred)
}

// This test covers RFC 4861 6, RFC 4862 5.5, RFC 4191 and RFC 8106, with radvd as the router and dnsmasq as
// the name server.
func TestRadvdConfiguresAHost(t *testing.T) {
	t.Parallel()
	ns, h := newRouter(t, "radvd", "rdisc6", "dnsmasq", "curl", "sha256sum")
	dir := t.TempDir()
	conf := filepath.Join(dir, "radvd.conf")
	require.NoError(t, os.WriteFile(conf, []byte(radvdConfig(1800, 3600)), 0o644))
	ns.daemon(t, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root",
		"--bind-interfaces", "--listen-address=2001:db8:1::1", "--host-record=www.auto.test,2001:db8:9::9",
		"--pid-file="+filepath.Join(dir, "dnsmasq.pid"), "--log-facility=-")
	radvd := ns.daemon(t, "radvd", "-C", conf, "-p", filepath.Join(dir, "radvd.pid"), "-n", "-m", "stderr")

	await(t, h, "there is an address", func() bool {
		return autoAddr(h, "2001:db8:1::/64").State == stack.AddrPreferred && autoAddr(h, "2001:db8:1::/64").Prefix.IsValid()
	})
	a := autoAddr(h, "2001:db8:1::/64")
	require.Equal(t, stack.AddrRA, a.Origin)
	require.InDelta(t, 3600, time.Until(a.ValidUntil).Seconds(), 60)
	require.InDelta(t, 1800, time.Until(a.PreferredUntil).Seconds(), 60)
	info := h.Interfaces()[1]
	require.Equal(t, ns.kernelLinkLocal(t), info.Gateway6.String())
	require.Equal(t, 1400, info.Auto.MTU)
	require.EqualValues(t, 77, info.Auto.HopLimit)
	require.True(t, slices.ContainsFunc(h.Routes(), func(r stack.Route) bool {
		return r.Dst == netip.MustParsePrefix("2001:db8:77::/48") && r.Via == info.Gateway6
	}))

	// A name with a domain of the search list resolves, and a destination behind the router is
	// reachable.
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var addrs []string
	var err error
	for ctx.Err() == nil { // dnsmasq may not listen yet
		if addrs, err = h.Resolver().LookupHost(ctx, "www"); err == nil {
			break
		}
		time.Sleep(200 * time.Millisecond)
	}
	require.NoError(t, err)
	require.Equal(t, []string{"2001:db8:9::9"}, addrs)
	ns.startHelper(t, "ready", "http", "[2001:db8:9::9]:8000")
	c, err := h.DialContext(ctx, "tcp", "www:8000")
	require.NoError(t, err)
	require.Equal(t, a.Prefix.Addr().String(), netip.MustParseAddrPort(c.LocalAddr().String()).Addr().String())
	require.NoError(t, c.Close())
	serveSite(t, h)
	out := ns.shell(t, fmt.Sprintf("curl -6 -sS --fail 'http://[%s]/content?n=%d' | sha256sum", a.Prefix.Addr(), someBulk))
	require.Equal(t, contentSum(t, someBulk), strings.Fields(out)[0])

	// First radvd deprecates the prefix. When radvd stops, the router is removed. The address stays deprecated.
	require.NoError(t, os.WriteFile(conf, []byte(radvdConfig(0, 3600)), 0o644))
	require.NoError(t, radvd.Process.Signal(syscall.SIGHUP))
	await(t, h, "the prefix is deprecated", func() bool { return autoAddr(h, "2001:db8:1::/64").State == stack.AddrDeprecated })
	require.NoError(t, radvd.Process.Signal(syscall.SIGTERM))
	await(t, h, "the router has gone", func() bool { return !h.Interfaces()[1].Gateway6.IsValid() })
	require.Equal(t, stack.AddrDeprecated, autoAddr(h, "2001:db8:1::/64").State)
}

// withdrawConfig is a configuration of radvd with two prefixes. The lifetimes of the first are short, and those
// of the second are long or, if ended is set, zero.
func withdrawConfig(ended bool) string {
	lifetime := 10000
	if ended {
		lifetime = 0
	}
	return fmt.Sprintf(`interface %s {
	AdvSendAdvert on;
	MinRtrAdvInterval 3;
	MaxRtrAdvInterval 4;
	prefix 2001:db8:1::/64 { AdvValidLifetime 8; AdvPreferredLifetime 6; };
	prefix 2001:db8:2::/64 { AdvValidLifetime %d; AdvPreferredLifetime %d; };
};
`, tapName, lifetime, lifetime)
}

// RFC 4862 5.5.4: "An address (and its association with an interface) becomes invalid when its valid
// lifetime expires." 5.5.3 (e): a router cannot make a valid lifetime shorter than two hours. If it tries to,
// "set the valid lifetime of the corresponding address to 2 hours."
func TestRadvdWithdrawsAnAddress(t *testing.T) {
	t.Parallel()
	ns, h := newRouter(t, "radvd")
	dir := t.TempDir()
	conf := filepath.Join(dir, "radvd.conf")
	require.NoError(t, os.WriteFile(conf, []byte(withdrawConfig(false)), 0o644))
	radvd := ns.daemon(t, "radvd", "-C", conf, "-p", filepath.Join(dir, "radvd.pid"), "-n", "-m", "stderr")
	short, long := "2001:db8:1::/64", "2001:db8:2::/64"
	await(t, h, "there are two addresses", func() bool {
		return autoAddr(h, short).Prefix.IsValid() && autoAddr(h, long).Prefix.IsValid()
	})
	require.Greater(t, time.Until(autoAddr(h, long).ValidUntil), 2*time.Hour)
	// radvd sends its first advertisement before it can handle signals, and the second one after that.
	first := autoAddr(h, short).ValidUntil
	await(t, h, "a second advertisement renews the address", func() bool { return autoAddr(h, short).ValidUntil.After(first) })

	require.NoError(t, os.WriteFile(conf, []byte(withdrawConfig(true)), 0o644))
	require.NoError(t, radvd.Process.Signal(syscall.SIGHUP))
	await(t, h, "the second prefix is deprecated", func() bool { return autoAddr(h, long).State == stack.AddrDeprecated })
	require.LessOrEqual(t, time.Until(autoAddr(h, long).ValidUntil), 2*time.Hour)

	// While radvd runs, its advertisements renew the first address. Without them the address ends.
	require.NoError(t, radvd.Process.Signal(syscall.SIGTERM))
	await(t, h, "the first address is removed", func() bool { return !autoAddr(h, short).Prefix.IsValid() })
	require.True(t, autoAddr(h, long).Prefix.IsValid())
	require.Greater(t, time.Until(autoAddr(h, long).ValidUntil), time.Hour)
}

// dnsmasq is the router. It advertises the prefix of its interface.
func TestDnsmasqConfiguresAHost(t *testing.T) {
	t.Parallel()
	ns, h := newRouter(t, "dnsmasq", "ping")
	dir := t.TempDir()
	ns.daemon(t, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root",
		"--enable-ra", "--dhcp-range=::,constructor:"+tapName+",ra-stateless,64,1h", "--ra-param="+tapName+",5,600",
		"--dhcp-leasefile="+filepath.Join(dir, "leases"), "--domain=auto.test", "--interface="+tapName,
		"--dhcp-option=option6:dns-server,[::]", "--dhcp-option=option6:domain-search,auto.test",
		"--host-record=www.auto.test,2001:db8:9::9", "--pid-file="+filepath.Join(dir, "dnsmasq.pid"), "--log-facility=-")
	await(t, h, "there are an address, a router and a name server", func() bool {
		info := h.Interfaces()[1]
		return autoAddr(h, "2001:db8:1::/64").Prefix.IsValid() && info.Gateway6.IsValid() && len(info.Auto.DNS) > 0
	})
	require.True(t, h.Interfaces()[1].Auto.Other, "RFC 4861 4.2: the O flag")
	addrs, err := h.LookupHost("www.auto.test")
	require.NoError(t, err)
	require.Equal(t, []string{"2001:db8:9::9"}, addrs)
	out := ns.run(t, "ping", "-6", "-q", "-c", "3", "-i", "0.01", "-W", "30", autoAddr(h, "2001:db8:1::/64").Prefix.Addr().String())
	require.Contains(t, out, "3 received")

	// The router loses the prefix and gets another. It advertises the old prefix with a preferred lifetime
	// of zero.
	old, renewed := "2001:db8:1::/64", "2001:db8:2::/64"
	ns.shell(t, "ip -6 addr add 2001:db8:2::1/64 dev "+tapName+" nodad; ip -6 addr del 2001:db8:1::1/64 dev "+tapName)
	await(t, h, "the old prefix is deprecated, and the new one has an address", func() bool {
		now := autoAddr(h, renewed)
		return autoAddr(h, old).State == stack.AddrDeprecated && now.Prefix.IsValid() && now.State == stack.AddrPreferred
	})
	require.LessOrEqual(t, time.Until(autoAddr(h, old).ValidUntil), 2*time.Hour)
	require.True(t, netip.MustParsePrefix(renewed).Contains(h.Stack().SourceFor(netip.MustParseAddr("2001:db8:9::9"))))
}

// A usernet host is the router, and the kernel configures itself from its advertisements.
func TestTheKernelIsConfiguredByUsernet(t *testing.T) {
	t.Parallel()
	need(t, "rdisc6", "ping")
	ns := newNamespace(t)
	ns.run(t, "sysctl", "-q", "-w", "net.ipv6.conf.default.accept_ra=2")
	h, err := usernet.New(usernet.Config{NIC: ns.openTAP(t, false), Addrs: []netip.Prefix{netip.MustParsePrefix("2001:db8:5::1/64")}})
	require.NoError(t, err)
	t.Cleanup(func() { h.Close() })
	require.NoError(t, h.Stack().Advertise("", &stack.RouterConfig{
		Lifetime: 1800 * time.Second, Interval: 10 * time.Second, MTU: 1400,
		Prefixes: []stack.RouterPrefix{{Prefix: netip.MustParsePrefix("2001:db8:5::/64")}},
		DNS:      []netip.Addr{netip.MustParseAddr("2001:db8:5::53")}, Search: []string{"tap.test"},
		NAT64: netip.MustParsePrefix("64:ff9b::/96"),
	}))
	require.Eventually(t, func() bool {
		out := ns.run(t, "ip", "-6", "addr", "show", "dev", tapName, "dynamic", "-tentative")
		return strings.Contains(out, "inet6 2001:db8:5:")
	}, patience, 100*time.Millisecond)
	router := linkLocal(t, h).String()
	require.Contains(t, ns.run(t, "ip", "-6", "route", "show", "default"), "via "+router+" dev "+tapName)
	require.Contains(t, ns.run(t, "ping", "-6", "-q", "-c", "3", "-i", "0.01", "-W", "30", "2001:db8:5::1"), "3 received")
	out := ns.run(t, "rdisc6", "-1", tapName)
	for _, want := range []string{"2001:db8:5::/64", "2001:db8:5::53", "tap.test", "1400 bytes", "1800 (0x00000708) seconds", strings.ToUpper(h.Interfaces()[1].MAC.String())} {
		require.Contains(t, out, want)
	}
	require.NoError(t, h.Stack().Advertise("", nil))
	require.Eventually(t, func() bool {
		return !strings.Contains(ns.run(t, "ip", "-6", "route", "show", "default"), router)
	}, patience, 100*time.Millisecond)
}
