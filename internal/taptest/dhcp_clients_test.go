//go:build linux

package taptest

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/dhcp"
	"github.com/usernet/usernet/nic"
)

// A dhcpClient is a DHCP client that configures the TAP of a namespace. release makes it return its address.
type dhcpClient struct {
	tools   []string
	start   func(t *testing.T, ns *namespace, dir string) *exec.Cmd
	release func(t *testing.T, ns *namespace, dir string, cmd *exec.Cmd)
}

// clientScript writes a script that a client runs when its lease changes. reason, ip, mask and router are the shell
// expressions by which the script gets these values from the client.
func clientScript(t *testing.T, dir, reason, ip, mask, router string) string {
	path := filepath.Join(dir, "script")
	text := fmt.Sprintf(`#!/bin/sh
exec 2>>%s/script.log
set -x
case "%s" in
deconfig|EXPIRE|RELEASE|STOP|FAIL) ip -4 addr flush dev %s ;;
bound|renew|BOUND|RENEW|REBIND|REBOOT)
	ip -4 addr replace %s/%s dev %[3]s
	ip -4 route replace default via %[6]s dev %[3]s ;;
esac
exit 0
`, dir, reason, tapName, ip, mask, router)
	require.NoError(t, os.WriteFile(path, []byte(text), 0o755))
	return path
}

func dhcpClients() map[string]dhcpClient {
	signal := func(sig syscall.Signal) func(*testing.T, *namespace, string, *exec.Cmd) {
		return func(t *testing.T, _ *namespace, _ string, cmd *exec.Cmd) { require.NoError(t, cmd.Process.Signal(sig)) }
	}
	return map[string]dhcpClient{
		"udhcpc": {
			tools: []string{"busybox"},
			start: func(t *testing.T, ns *namespace, dir string) *exec.Cmd {
				script := clientScript(t, dir, "$1", "$ip", "$mask", "$router")
				return ns.daemon(t, "busybox", "udhcpc", "-f", "-i", tapName, "-s", script, "-t", "200", "-T", "2", "-x", "hostname:guest", "-O", "mtu")
			},
			release: signal(syscall.SIGUSR2),
		},
		"dhcpcd": {
			tools: []string{"dhcpcd"},
			start: func(t *testing.T, ns *namespace, dir string) *exec.Cmd {
				conf := filepath.Join(dir, "dhcpcd.conf")
				require.NoError(t, os.WriteFile(conf, []byte("hostname guest\noption domain_name_servers, domain_search, classless_static_routes, interface_mtu\nnohook resolv.conf, hostname, yp, ntp\noption rapid_commit\n"), 0o644))
				// dhcpcd keeps its state in fixed places, so give it places of its own.
				return ns.daemon(t, "unshare", "-m", "--propagation", "private", "sh", "-c",
					"mount -t tmpfs none /run && mount -t tmpfs none /var/lib/dhcpcd && exec dhcpcd -4 -B -d --noipv4ll -f "+conf+" "+tapName)
			},
			// dhcpcd 9.4.1 loses a signal that arrives while its script runs, so send the signal until dhcpcd ends.
			release: func(_ *testing.T, _ *namespace, _ string, cmd *exec.Cmd) {
				ended := make(chan struct{})
				go func() { cmd.Wait(); close(ended) }()
				for end := time.After(patience); ; {
					cmd.Process.Signal(syscall.SIGALRM) // fails if dhcpcd has ended
					select {
					case <-ended:
						return
					case <-end:
						return
					case <-time.After(2 * time.Second):
					}
				}
			},
		},
		"dhclient": {
			tools: []string{"dhclient"},
			start: func(t *testing.T, ns *namespace, dir string) *exec.Cmd {
				conf, script := filepath.Join(dir, "dhclient.conf"), clientScript(t, dir, "$reason", "$new_ip_address", "$new_subnet_mask", "$new_routers")
				require.NoError(t, os.WriteFile(conf, []byte("send host-name \"guest\"; retry 2; initial-interval 2; backoff-cutoff 4;\n"), 0o644))
				return ns.daemon(t, "dhclient", "-4", "-d", "-cf", conf, "-lf", dir+"/leases", "-pf", dir+"/pid", "-sf", script, tapName)
			},
			release: func(t *testing.T, ns *namespace, dir string, _ *exec.Cmd) {
				ns.run(t, "dhclient", "-4", "-r", "-cf", dir+"/dhclient.conf", "-lf", dir+"/leases", "-pf", dir+"/pid", "-sf", dir+"/script", tapName)
			},
		},
	}
}

// A dhcpLog records the events of a server.
type dhcpLog struct {
	mu     sync.Mutex
	events []string
}

func (l *dhcpLog) add(e dhcp.ServerEvent4) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e.Kind.String())
}

func (l *dhcpLog) count(kind string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.events {
		if e == kind {
			n++
		}
	}
	return n
}

// serveTAP makes a namespace whose TAP has no address, and a host on it with a DHCP server, whose leases last 20
// seconds. wrap wraps the TAP.
func serveTAP(t *testing.T, wrap func(nic.Device) nic.Device) (*namespace, *usernet.Host, *usernet.DHCPServer, *dhcpLog) {
	ns := newNamespace(t)
	tap := ns.openTAP(t, false)
	ns.run(t, "ip", "-4", "addr", "flush", "dev", tapName)
	h, err := usernet.New(usernet.Config{NIC: wrap(tap), Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}})
	require.NoError(t, err)
	t.Cleanup(func() { h.Close() })
	log := new(dhcpLog)
	cfg := usernet.DHCPServerConfig{OnEvent: log.add}
	s, link := &cfg.Server, &cfg.Server.Link
	s.Probe, s.Authoritative, s.RapidCommit = true, true, true
	self := netip.MustParseAddr("192.0.2.1")
	link.Pools = []dhcp.Range4{{First: netip.MustParseAddr("192.0.2.100"), Last: netip.MustParseAddr("192.0.2.150")}}
	link.Lease, link.Routers, link.DNS, link.Search, link.MTU = 20*time.Second, []netip.Addr{self}, []netip.Addr{self}, []string{"dhcp.test"}, 1400
	link.Routes = []dhcp.Route4{{Dst: netip.MustParsePrefix("198.51.100.0/24"), Via: netip.MustParseAddr("192.0.2.9")}}
	d, err := h.ServeDHCP("", cfg)
	require.NoError(t, err)
	return ns, h, d, log
}

// Each client gets an address from the host, uses it, renews it, and returns it. tshark checks the messages.
func TestClientsAreConfiguredByAHost(t *testing.T) {
	t.Parallel()
	for name, client := range dhcpClients() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			need(t, append(client.tools, "curl", "tshark", "unshare")...)
			dir := t.TempDir()
			capture, err := os.Create(filepath.Join(dir, "capture.pcapng"))
			require.NoError(t, err)
			defer capture.Close()
			ns, h, d, log := serveTAP(t, func(dev nic.Device) nic.Device { return nic.Capture(dev, capture, nic.CaptureConfig{}) })
			cmd := client.start(t, ns, dir)
			has := func(text string) func() bool {
				return func() bool {
					return strings.Contains(ns.run(t, "ip", "-4", "-o", "addr", "show", "dev", tapName), text)
				}
			}
			require.Eventually(t, has("192.0.2.100/24"), patience, 50*time.Millisecond)
			b := slices.Collect(d.Bindings())
			require.Len(t, b, 1)
			require.Equal(t, "192.0.2.100", b[0].Addr.String())
			require.Equal(t, dhcp.Leased, b[0].State)
			require.Equal(t, "guest", b[0].HostName)
			serveSite(t, h)
			out := ns.shell(t, fmt.Sprintf("curl -sS --fail --max-time 60 'http://192.0.2.1/content?n=%d' | sha256sum", someBulk))
			require.Equal(t, contentSum(t, someBulk), strings.Fields(out)[0])
			require.Eventually(t, func() bool { return log.count("extended") >= 1 }, patience, 100*time.Millisecond, "it renews")
			require.True(t, has("192.0.2.100/24")())
			client.release(t, ns, dir, cmd)
			require.Eventually(t, func() bool { return log.count("returned") > 0 }, patience, 50*time.Millisecond, "it returns the address")
			require.Eventually(t, func() bool { return !has("192.0.2.100/24")() }, patience, 50*time.Millisecond)
			require.Equal(t, 1, log.count("assigned"))
			require.NoError(t, h.Close())
			show := captureOf(t, capture.Name())
			require.Empty(t, show("-Y", "(dhcp || arp) && (_ws.malformed || _ws.expert.severity >= warning)"))
			types := strings.Fields(show("-Y", "dhcp", "-T", "fields", "-e", "dhcp.option.dhcp"))
			require.Contains(t, types, "5", "DHCPACK: %v", types)
			require.Contains(t, types, "7", "DHCPRELEASE: %v", types)
			require.NotContains(t, types, "6", "no DHCPNAK: %v", types)
		})
	}
}

// Frames are lost in both directions. Each client still gets its address, and renews it.
func TestClientsRenewUnderLoss(t *testing.T) {
	t.Parallel()
	for name, client := range dhcpClients() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			need(t, append(client.tools, "unshare")...)
			bad := nic.Impairment{Loss: 0.15, Duplicate: 0.05}
			ns, _, d, log := serveTAP(t, func(dev nic.Device) nic.Device { return nic.Impair(dev, nic.ImpairConfig{In: bad, Out: bad, Seed: 9}) })
			client.start(t, ns, t.TempDir())
			require.Eventually(t, func() bool { return log.count("extended") >= 2 }, patience, 100*time.Millisecond)
			leased := 0
			for b := range d.Bindings() {
				if b.State == dhcp.Leased {
					leased++
				}
			}
			require.LessOrEqual(t, leased, 1)
		})
	}
}
