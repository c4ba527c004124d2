//go:build linux

package taptest

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/dhcp"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack"
)

// dhcp6Servers start DHCPv6 servers in a namespace whose TAP has 2001:db8:1::1. They assign addresses from
// 2001:db8:1::100 to 2001:db8:1::1ff, and send the name server 2001:db8:1::1 and the domain dhcp.test.
var dhcp6Servers = map[string]func(t *testing.T, ns *namespace, dir string){
	"kea": func(t *testing.T, ns *namespace, dir string) {
		conf := filepath.Join(dir, "kea.conf")
		require.NoError(t, os.WriteFile(conf, fmt.Appendf(nil, `{"Dhcp6": {
			"interfaces-config": {"interfaces": [%q]},
			"lease-database": {"type": "memfile", "persist": false},
			"preferred-lifetime": 60, "valid-lifetime": 120, "renew-timer": 4, "rebind-timer": 30,
			"subnet6": [{"subnet": "2001:db8:1::/64", "interface": %[1]q, "rapid-commit": true,
				"pools": [{"pool": "2001:db8:1::100 - 2001:db8:1::1ff"}],
				"pd-pools": [{"prefix": "2001:db8:100::", "prefix-len": 40, "delegated-len": 56}],
				"option-data": [{"name": "dns-servers", "data": "2001:db8:1::1"}, {"name": "domain-search", "data": "dhcp.test"}]
			}],
			"loggers": [{"name": "kea-dhcp6", "severity": "DEBUG", "debuglevel": 40, "output_options": [{"output": %[2]q, "flush": true}]}]
		}}`, tapName, filepath.Join(dir, "log")), 0o644))
		// kea keeps its DUID in a fixed place, so give it a place of its own.
		ns.daemon(t, "unshare", "-m", "--propagation", "private", "sh", "-c", "mount -t tmpfs none /var/lib && mkdir /var/lib/kea && exec env KEA_PIDFILE_DIR="+dir+
			" KEA_LOCKFILE_DIR="+dir+" KEA_LOGGER_DESTINATION=stdout kea-dhcp6 -c "+conf)
	},
	"dnsmasq": func(t *testing.T, ns *namespace, dir string) {
		ns.daemon(t, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--no-resolv", "--no-hosts", "--user=root",
			"--interface="+tapName, "--enable-ra", "--dhcp-range=2001:db8:1::100,2001:db8:1::1ff,64,2m", "--ra-param="+tapName+",4,600",
			"--dhcp-option=option6:dns-server,[2001:db8:1::1]", "--dhcp-option=option6:domain-search,dhcp.test",
			"--dhcp-leasefile="+filepath.Join(dir, "leases"), "--pid-file="+filepath.Join(dir, "pid"), "--log-facility="+filepath.Join(dir, "log"), "--log-dhcp")
	},
}

// newTAP6 makes a namespace whose TAP has 2001:db8:1::1.
func newTAP6(t *testing.T) (*namespace, *nic.TAP) {
	ns := newNamespace(t)
	tap := ns.openTAP(t, false)
	ns.run(t, "sysctl", "-q", "-w", "net.ipv6.conf.all.forwarding=1")
	ns.run(t, "ip", "-6", "addr", "add", "2001:db8:1::1/64", "dev", tapName, "nodad")
	ns.kernelLinkLocal(t)
	return ns, tap
}

// Each server assigns an address to the host, which releases it at the end. dnsmasq also sends Router Advertisements
// with the flag M, so that the host starts DHCPv6 by itself. kea also delegates a prefix, the host renews its lease,
// and the link loses frames.
func TestDHCPv6ServersConfigureAHost(t *testing.T) {
	t.Parallel()
	need(t, "kea-dhcp6", "dnsmasq", "ping", "tshark", "unshare")
	for name, start := range dhcp6Servers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ns, tap := newTAP6(t)
			dir := t.TempDir()
			capture, err := os.Create(filepath.Join(dir, "capture.pcapng"))
			require.NoError(t, err)
			defer capture.Close()
			start(t, ns, dir)
			var dev nic.Device = tap
			cfg := usernet.Config{Auto: true, DHCP: true}
			if name == "kea" {
				bad := nic.Impairment{Loss: 0.15, Duplicate: 0.05}
				dev = nic.Impair(dev, nic.ImpairConfig{In: bad, Out: bad, Seed: 5})
				cfg = usernet.Config{}
			}
			// The capture is between the host and the loss. It has all that the host sends, also the Release, which
			// the host sends only once.
			cfg.NIC = nic.Capture(dev, capture, nic.CaptureConfig{})
			h, err := usernet.New(cfg)
			require.NoError(t, err)
			t.Cleanup(func() { h.Close() })
			if name == "kea" {
				require.NoError(t, h.StartDHCP6("", usernet.DHCP6Config{Prefix: true, PrefixBits: 56}))
			}
			lease := func() *dhcp.Lease6 { return h.DHCP6()[0].Lease }
			require.Eventually(t, func() bool { return lease() != nil && len(lease().Addrs) == 1 }, patience, 50*time.Millisecond)
			l := lease()
			a := l.Addrs[0].Prefix.Addr()
			require.True(t, a.Compare(netip.MustParseAddr("2001:db8:1::100")) >= 0 && a.Compare(netip.MustParseAddr("2001:db8:1::1ff")) <= 0, "%v", a)
			require.Equal(t, []netip.Addr{netip.MustParseAddr("2001:db8:1::1")}, l.DNS)
			require.Equal(t, []string{"dhcp.test"}, l.Search)
			require.Eventually(t, func() bool {
				return slices.ContainsFunc(h.Interfaces()[1].AddrInfo, func(x stack.AddrInfo) bool { return x.Prefix.Addr() == a && x.Origin == stack.AddrDHCP })
			}, patience, 50*time.Millisecond)
			if name == "kea" {
				require.Len(t, l.Prefixes, 1)
				require.Equal(t, 56, l.Prefixes[0].Prefix.Bits())
				require.True(t, netip.MustParsePrefix("2001:db8:100::/40").Contains(l.Prefixes[0].Prefix.Addr()))
				require.Eventually(t, func() bool { return lease() != nil && lease().Obtained.Sub(l.Obtained) > 5*time.Second }, patience, 100*time.Millisecond, "it renews")
				require.Equal(t, a, lease().Addrs[0].Prefix.Addr())
			}
			if name == "dnsmasq" { // its advertisements say that the network is on the link
				require.Contains(t, ns.run(t, "ping", "-6", "-c", "4", "-i", "0.3", "-W", "60", a.String()), " 4 received")
			}
			require.NoError(t, h.StopDHCP6(""))
			if name == "dnsmasq" { // without loss
				require.Eventually(t, func() bool {
					log, _ := os.ReadFile(filepath.Join(dir, "log"))
					return strings.Contains(string(log), "DHCPRELEASE("+tapName+")")
				}, patience, 50*time.Millisecond)
			}
			require.NoError(t, h.Close())
			show := captureOf(t, capture.Name())
			require.Empty(t, show("-Y", "dhcpv6 && (_ws.malformed || _ws.expert.severity >= warning)"))
			types := strings.Fields(show("-Y", "dhcpv6", "-T", "fields", "-e", "dhcpv6.msgtype"))
			for _, want := range []string{"1", "2", "3", "7", "8"} { // Solicit, Advertise, Request, Reply, Release
				require.Contains(t, types, want)
			}
		})
	}
}

// dhclient and dhcpcd get addresses and prefixes from the host and renew them, and dhclient releases both. The link loses
// frames.
func TestDHCPv6ClientsAreConfiguredByAHost(t *testing.T) {
	t.Parallel()
	need(t, "dhclient", "dhcpcd", "tshark", "unshare")
	for _, name := range []string{"dhclient", "dhcpcd"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ns := newNamespace(t)
			tap := ns.openTAP(t, false)
			ns.kernelLinkLocal(t)
			dir := t.TempDir()
			capture, err := os.Create(filepath.Join(dir, "capture.pcapng"))
			require.NoError(t, err)
			defer capture.Close()
			bad := nic.Impairment{Loss: 0.15, Duplicate: 0.05}
			dev := nic.Impair(nic.Capture(tap, capture, nic.CaptureConfig{}), nic.ImpairConfig{In: bad, Out: bad, Seed: 3})
			h, err := usernet.New(usernet.Config{NIC: dev, Addrs: []netip.Prefix{netip.MustParsePrefix("2001:db8:1::1/64")}})
			require.NoError(t, err)
			t.Cleanup(func() { h.Close() })
			var cfg usernet.DHCP6ServerConfig
			var mu sync.Mutex
			events := make(map[string]int)
			cfg.OnEvent = func(e dhcp.ServerEvent6) {
				mu.Lock()
				defer mu.Unlock()
				events[e.Kind.String()]++
			}
			cfg.Server.Pools = []dhcp.Range6{{First: netip.MustParseAddr("2001:db8:1::1:0"), Last: netip.MustParseAddr("2001:db8:1::1:ff")}}
			cfg.Server.Delegated = []dhcp.PrefixPool6{{Prefix: netip.MustParsePrefix("2001:db8:100::/40"), Bits: 56}}
			cfg.Server.Valid, cfg.Server.Preferred = 40*time.Second, 20*time.Second
			cfg.Server.DNS, cfg.Server.Search = []netip.Addr{netip.MustParseAddr("2001:db8:1::1")}, []string{"dhcp.test"}
			d, err := h.ServeDHCP6("", cfg)
			require.NoError(t, err)
			count := func(kind string) int {
				mu.Lock()
				defer mu.Unlock()
				return events[kind]
			}
			args := []string{"-6", "-N", "-P", "-lf", dir + "/leases", "-pf", dir + "/pid", "-sf", dir + "/script", tapName}
			if name == "dhclient" {
				require.NoError(t, os.WriteFile(filepath.Join(dir, "script"), []byte(`#!/bin/sh
case "$reason" in
BOUND6|RENEW6|REBIND6)
	[ -z "$new_ip6_prefix" ] || echo "$new_ip6_prefix" >`+dir+`/prefix
	[ -z "$new_ip6_address" ] || ip -6 addr replace "$new_ip6_address/128" dev `+tapName+` preferred_lft "$new_preferred_life" valid_lft "$new_max_life" ;;
EXPIRE6|RELEASE6|STOP6) [ -z "$old_ip6_address" ] || ip -6 addr del "$old_ip6_address/128" dev `+tapName+` ;;
esac
exit 0
`), 0o755))
				ns.daemon(t, append([]string{"dhclient", "-d"}, args...)...)
			} else {
				conf := filepath.Join(dir, "dhcpcd.conf")
				require.NoError(t, os.WriteFile(conf, []byte("duid\nnohook resolv.conf, hostname, yp, ntp\nnoipv6rs\noption domain_name_servers, domain_search\ninterface "+tapName+"\nia_na\nia_pd 2 -\n"), 0o644))
				ns.daemon(t, "unshare", "-m", "--propagation", "private", "sh", "-c",
					"mount -t tmpfs none /run && mount -t tmpfs none /var/lib/dhcpcd && exec dhcpcd -6 -B -d -f "+conf+" "+tapName)
			}
			var a, prefix string
			require.Eventually(t, func() bool {
				for b := range d.Bindings() {
					if b.Bits == 0 {
						a = b.Addr.String()
					} else {
						prefix = netip.PrefixFrom(b.Addr, b.Bits).String()
					}
				}
				return a != "" && prefix != "" && strings.Contains(ns.run(t, "ip", "-6", "-o", "addr", "show", "dev", tapName), a)
			}, patience, 50*time.Millisecond)
			require.Eventually(t, func() bool { return count("extended") >= 1 }, patience, 50*time.Millisecond, "it renews")
			if name == "dhclient" { // dhcpcd 9.4.1 ends without a Release
				require.Eventually(t, func() bool {
					b, _ := os.ReadFile(filepath.Join(dir, "prefix"))
					return strings.TrimSpace(string(b)) == prefix
				}, patience, 50*time.Millisecond, "the script gets the prefix")
				ns.run(t, append([]string{"dhclient", "-r"}, args...)...)
				require.Eventually(t, func() bool { return count("returned") >= 2 }, patience, 50*time.Millisecond, "it releases")
			}
			require.NoError(t, h.Close())
			show := captureOf(t, capture.Name())
			require.Empty(t, show("-Y", "dhcpv6 && (_ws.malformed || _ws.expert.severity >= warning)"))
		})
	}
}

// A host serves another one through ISC's relay agent, and delegates a prefix to it.
func TestADHCPv6RelayAgentServesAnotherLink(t *testing.T) {
	t.Parallel()
	need(t, "dhcrelay", "tshark")
	ns, tap := newTAP6(t)
	capture, err := os.Create(filepath.Join(t.TempDir(), "capture.pcapng"))
	require.NoError(t, err)
	defer capture.Close()
	server, err := usernet.New(usernet.Config{
		NIC: nic.Capture(tap, capture, nic.CaptureConfig{}), Addrs: []netip.Prefix{netip.MustParsePrefix("2001:db8:1::2/64")}, Gateway6: netip.MustParseAddr("2001:db8:1::1"),
	})
	require.NoError(t, err)
	t.Cleanup(func() { server.Close() })
	var cfg usernet.DHCP6ServerConfig
	cfg.Server.Relayed = []dhcp.Link6{{
		Prefix:    netip.MustParsePrefix("2001:db8:2::/64"),
		Pools:     []dhcp.Range6{{First: netip.MustParseAddr("2001:db8:2::100"), Last: netip.MustParseAddr("2001:db8:2::1ff")}},
		Delegated: []dhcp.PrefixPool6{{Prefix: netip.MustParsePrefix("2001:db8:100::/40"), Bits: 56}},
	}}
	cfg.Server.Valid, cfg.Server.Preferred = 40*time.Second, 10*time.Second
	d, err := server.ServeDHCP6("", cfg)
	require.NoError(t, err)
	var lower *nic.TAP
	require.NoError(t, ns.inside(func() (err error) {
		lower, err = nic.OpenTAP(nic.TAPConfig{Name: "lower"})
		return err
	}))
	ns.run(t, "ip", "link", "set", "lower", "up")
	ns.run(t, "ip", "-6", "addr", "add", "2001:db8:2::1/64", "dev", "lower", "nodad")
	h, err := usernet.New(usernet.Config{NIC: lower})
	require.NoError(t, err)
	t.Cleanup(func() { h.Close() })
	dir := t.TempDir()
	ns.daemon(t, "dhcrelay", "-6", "-d", "-I", "-pf", filepath.Join(dir, "pid"), "-l", "2001:db8:2::1%lower", "-u", "2001:db8:1::2%"+tapName)
	require.NoError(t, h.StartDHCP6("", usernet.DHCP6Config{Prefix: true}))
	lease := func() *dhcp.Lease6 { return h.DHCP6()[0].Lease }
	require.Eventually(t, func() bool { return lease() != nil }, patience, 50*time.Millisecond)
	l := lease()
	require.Len(t, l.Addrs, 1)
	require.True(t, netip.MustParsePrefix("2001:db8:2::100/120").Contains(l.Addrs[0].Prefix.Addr()))
	require.Len(t, l.Prefixes, 1)
	require.True(t, netip.MustParsePrefix("2001:db8:100::/40").Contains(l.Prefixes[0].Prefix.Addr()))
	require.Eventually(t, func() bool { return lease() != nil && lease().Obtained.After(l.Obtained) }, patience, 50*time.Millisecond, "it renews")
	require.Len(t, slices.Collect(d.Bindings()), 2)
	require.NoError(t, h.StopDHCP6(""))
	require.Eventually(t, func() bool { return len(slices.Collect(d.Bindings())) == 0 }, patience, 50*time.Millisecond, "both are released")
	require.NoError(t, server.Close())
	show := captureOf(t, capture.Name())
	require.Empty(t, show("-Y", "dhcpv6 && (_ws.malformed || _ws.expert.severity >= warning)"))
	types := show("-Y", "dhcpv6", "-T", "fields", "-e", "dhcpv6.msgtype")
	// 12 is Relay-forward, 13 is Relay-reply, and 8 is Release.
	require.Contains(t, types, "12,")
	require.Contains(t, types, "13,")
	require.Contains(t, types, "12,8", "the agent relayed a Release")
}
