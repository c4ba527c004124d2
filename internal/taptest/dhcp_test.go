//go:build linux

package taptest

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/dhcp"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack"
)

// A dhcpServer is a DHCP server in a namespace whose TAP has 192.0.2.1/24. It assigns an address from
// 192.0.2.100 to 192.0.2.150 for lease seconds (dnsmasq: for at least 120). It also sends itself as the
// router and the name server, the domain dhcp.test, an MTU of 1400, and a route to 198.51.100.0/24
// through 192.0.2.9.
type dhcpServer struct {
	tool  string
	start func(t *testing.T, ns *namespace, dir string, lease int)
	log   func(t *testing.T, dir string) string
}

func dhcpServers() map[string]dhcpServer {
	read := func(name string) func(*testing.T, string) string {
		return func(t *testing.T, dir string) string {
			b, _ := os.ReadFile(filepath.Join(dir, name))
			return string(b)
		}
	}
	write := func(t *testing.T, dir, name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
		return path
	}
	return map[string]dhcpServer{
		"dnsmasq": {
			tool: "dnsmasq",
			start: func(t *testing.T, ns *namespace, dir string, lease int) {
				ns.daemon(t, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root",
					"--interface="+tapName, "--bind-interfaces", "--dhcp-authoritative", "--no-ping",
					fmt.Sprintf("--dhcp-range=192.0.2.100,192.0.2.150,%d", lease), "--dhcp-leasefile="+filepath.Join(dir, "leases"),
					"--dhcp-option=option:domain-search,dhcp.test", "--domain=dhcp.test", "--dhcp-option=option:mtu,1400",
					"--dhcp-option=option:classless-static-route,0.0.0.0/0,192.0.2.1,198.51.100.0/24,192.0.2.9",
					"--host-record=www.dhcp.test,192.0.2.1", "--local=/dhcp.test/",
					"--pid-file="+filepath.Join(dir, "pid"), "--log-facility="+filepath.Join(dir, "log"), "--log-dhcp")
			},
			log: read("log"),
		},
		"kea": {
			tool: "kea-dhcp4",
			start: func(t *testing.T, ns *namespace, dir string, lease int) {
				// The data of the classless option is 0.0.0.0/0 via 192.0.2.1 and 198.51.100.0/24 via 192.0.2.9 (RFC 3442).
				conf := write(t, dir, "kea.conf", fmt.Sprintf(`{"Dhcp4": {
					"interfaces-config": {"interfaces": [%q], "dhcp-socket-type": "raw"},
					"lease-database": {"type": "memfile", "persist": false},
					"valid-lifetime": %d, "renew-timer": %d, "rebind-timer": %d, "authoritative": true,
					"option-def": [{"name": "classless", "code": 121, "space": "dhcp4", "type": "binary"}],
					"subnet4": [{"subnet": "192.0.2.0/24", "pools": [{"pool": "192.0.2.100 - 192.0.2.150"}],
						"option-data": [
							{"name": "routers", "data": "192.0.2.1"}, {"name": "domain-name-servers", "data": "192.0.2.1"},
							{"name": "domain-name", "data": "dhcp.test"}, {"name": "domain-search", "data": "dhcp.test"},
							{"name": "interface-mtu", "data": "1400"},
							{"name": "classless", "csv-format": false, "data": "00c000020118c63364c0000209"}
						]}],
					"loggers": [{"name": "kea-dhcp4", "severity": "DEBUG", "debuglevel": 40, "output_options": [{"output": %q, "flush": true}]}]
				}}`, tapName, lease, lease/2, lease*7/8, filepath.Join(dir, "log")))
				ns.daemon(t, "env", "KEA_PIDFILE_DIR="+dir, "KEA_LOCKFILE_DIR="+dir, "KEA_LOGGER_DESTINATION=stdout", "kea-dhcp4", "-c", conf)
			},
			log: read("log"),
		},
		"udhcpd": {
			tool: "udhcpd",
			start: func(t *testing.T, ns *namespace, dir string, lease int) {
				conf := write(t, dir, "udhcpd.conf", fmt.Sprintf(`start 192.0.2.100
end 192.0.2.150
interface %s
lease_file %s/leases
pidfile %[2]s/pid
option subnet 255.255.255.0
option router 192.0.2.1
option dns 192.0.2.1
option domain dhcp.test
option search dhcp.test
option mtu 1400
option lease %[3]d
option staticroutes 0.0.0.0/0 192.0.2.1, 198.51.100.0/24 192.0.2.9
`, tapName, dir, lease))
				write(t, dir, "leases", "")
				ns.daemon(t, "sh", "-c", "exec udhcpd -f -I 192.0.2.1 "+conf+" >"+filepath.Join(dir, "log")+" 2>&1")
			},
			log: read("log"),
		},
	}
}

// onlineSoon waits until the host is online, and returns its lease.
func onlineSoon(t *testing.T, h *usernet.Host) *dhcp.Lease4 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, h.WaitOnline(ctx))
	l := h.DHCP()[0].Lease
	require.NotNil(t, l)
	return l
}

// Each server sends the same settings. The host applies all of them and later releases the lease. tshark
// checks the messages.
func TestServersConfigureAHost(t *testing.T) {
	t.Parallel()
	need(t, "dnsmasq", "kea-dhcp4", "udhcpd", "curl", "tshark")
	for name, server := range dhcpServers() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ns := newNamespace(t)
			tap := ns.openTAP(t, false)
			dir := t.TempDir()
			capture, err := os.Create(filepath.Join(dir, "capture.pcapng"))
			require.NoError(t, err)
			defer capture.Close()
			server.start(t, ns, dir, 120)
			h, err := usernet.New(usernet.Config{NIC: nic.Capture(tap, capture, nic.CaptureConfig{}), DHCP: true})
			require.NoError(t, err)
			t.Cleanup(func() { h.Close() })
			l := onlineSoon(t, h)

			a := l.Addr.Addr()
			require.Equal(t, 24, l.Addr.Bits())
			require.True(t, a.Compare(netip.MustParseAddr("192.0.2.100")) >= 0 && a.Compare(netip.MustParseAddr("192.0.2.150")) <= 0, "%v", a)
			require.Equal(t, kernelAddr, l.Server.String())
			require.InDelta(t, 120, l.Expires.Sub(l.Obtained).Seconds(), 1)
			require.Equal(t, []netip.Addr{netip.MustParseAddr(kernelAddr)}, l.DNS)
			require.Equal(t, []string{"dhcp.test"}, l.Search)
			require.Equal(t, "dhcp.test", l.Domain)
			info := h.Interfaces()[1]
			require.Equal(t, 1400, info.IPv4MTU)
			require.Equal(t, kernelAddr, info.Gateway.String())
			require.True(t, slices.ContainsFunc(h.Routes(), func(r stack.Route) bool {
				return r.Dst == netip.MustParsePrefix("198.51.100.0/24") && r.Via == netip.MustParseAddr("192.0.2.9")
			}))
			serveSite(t, h)
			out := ns.shell(t, fmt.Sprintf("curl -sS --fail 'http://%s/content?n=%d' | sha256sum", a, someBulk))
			require.Equal(t, contentSum(t, someBulk), strings.Fields(out)[0])
			if name == "dnsmasq" {
				addrs, err := h.LookupHost("www")
				require.NoError(t, err)
				require.Equal(t, []string{kernelAddr}, addrs)
			}

			// The client requests its previous address. Kea does not assign that address again at once.
			require.NoError(t, h.StopDHCP(""))
			require.Empty(t, addrs4(h))
			require.NoError(t, h.StartDHCP("", usernet.DHCPConfig{Addr: a, HostName: "guest", NoProbe: true}))
			if again := onlineSoon(t, h).Addr.Addr(); name != "kea" {
				require.Equal(t, a, again)
			}

			require.NoError(t, h.Close()) // deletes the TAP, so the server may not read the last message
			if name == "dnsmasq" {
				log := server.log(t, dir)
				require.Contains(t, log, "DHCPRELEASE("+tapName+") "+a.String())
				require.Contains(t, log, "client provides name: guest")
			}
			checkDHCPCapture(t, capture.Name())
		})
	}
}

// captureOf returns a function that runs tshark on a capture and returns what tshark prints.
func captureOf(t *testing.T, capture string) func(args ...string) string {
	t.Helper()
	return func(args ...string) string {
		out, err := exec.Command("tshark", append([]string{"-n", "-r", capture, "-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:FALSE"}, args...)...).CombinedOutput()
		require.NoError(t, err, "%s", out)
		var lines []string
		for line := range strings.Lines(string(out)) {
			if !strings.Contains(line, "Running as user") {
				lines = append(lines, line)
			}
		}
		return strings.Join(lines, "")
	}
}

// checkDHCPCapture checks that tshark finds no fault in the messages of a capture, and checks their order.
func checkDHCPCapture(t *testing.T, capture string) {
	t.Helper()
	show := captureOf(t, capture)
	require.Empty(t, show("-Y", "(dhcp || arp) && (_ws.malformed || _ws.expert.severity >= warning)"))
	// The server may not have received the first DHCPDISCOVER.
	types := slices.Compact(strings.Fields(show("-Y", "dhcp", "-T", "fields", "-e", "dhcp.option.dhcp")))
	require.Equal(t, []string{"1", "2", "3", "5", "7", "3"}, types[:6], "DISCOVER, OFFER, REQUEST, ACK, RELEASE, REQUEST: %v", types)
	require.Equal(t, []string{"5", "7"}, types[len(types)-2:], "ACK, RELEASE: %v", types)
}

// Frames are lost in both directions. The host still comes online, and renews its short lease.
func TestServersRenewUnderLoss(t *testing.T) {
	t.Parallel()
	need(t, "dnsmasq", "kea-dhcp4", "udhcpd")
	for name, server := range dhcpServers() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ns := newNamespace(t)
			tap := ns.openTAP(t, false)
			dir := t.TempDir()
			server.start(t, ns, dir, 30)
			bad := nic.Impairment{Loss: 0.15, Duplicate: 0.05}
			h, err := usernet.New(usernet.Config{NIC: nic.Impair(tap, nic.ImpairConfig{In: bad, Out: bad, Seed: 7}), DHCP: true})
			require.NoError(t, err)
			t.Cleanup(func() { h.Close() })
			l := onlineSoon(t, h)
			require.Eventually(t, func() bool {
				d := h.DHCP()[0]
				return d.Lease != nil && d.Lease.Addr == l.Addr && d.Lease.Expires.After(l.Expires.Add(10*time.Second))
			}, patience, time.Second, "it is renewed")
			require.Equal(t, []netip.Prefix{l.Addr}, addrs4(h))
		})
	}
}

// The host declines an address that the kernel already has on the link.
func TestDnsmasqIsToldOfAConflict(t *testing.T) {
	t.Parallel()
	need(t, "dnsmasq")
	ns := newNamespace(t)
	var tap *nic.TAP
	require.NoError(t, ns.inside(func() (err error) {
		tap, err = nic.OpenTAP(nic.TAPConfig{Name: tapName, Addr: netip.MustParsePrefix(kernelAddr + "/24"), MAC: [6]byte{2, 0, 0, 0, 0, 0x77}})
		return err
	}))
	ns.run(t, "ip", "addr", "add", "192.0.2.123/32", "dev", "lo") // the kernel answers ARP for this address
	dir := t.TempDir()
	ns.daemon(t, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--interface="+tapName, "--no-ping",
		"--dhcp-range=192.0.2.100,192.0.2.150,2m", "--dhcp-leasefile="+filepath.Join(dir, "leases"), "--dhcp-host=02:00:00:00:00:77,192.0.2.123",
		"--pid-file="+filepath.Join(dir, "pid"), "--log-facility="+filepath.Join(dir, "log"), "--log-dhcp")
	h, err := usernet.New(usernet.Config{NIC: tap, DHCP: true})
	require.NoError(t, err)
	t.Cleanup(func() { h.Close() })
	l := onlineSoon(t, h)
	require.NotEqual(t, "192.0.2.123", l.Addr.Addr().String())
	log, err := os.ReadFile(filepath.Join(dir, "log"))
	require.NoError(t, err)
	require.Regexp(t, `DHCPDECLINE\(`+tapName+`\) 192\.0\.2\.123`, string(log))
}

// usernet serve -auto gets its addresses from dnsmasq, and serves curl over both families.
func TestServeAutoGetsItsAddresses(t *testing.T) {
	t.Parallel()
	need(t, append(avahiTools, "dnsmasq", "curl")...)
	exe := build(t)
	ns := newNamespace(t)
	// dnsmasq must send router advertisements from a link-local address. Without duplicate address detection, the
	// interface has that address before the host asks for an advertisement.
	ns.run(t, "sysctl", "-q", "-w", "net.ipv6.conf.all.forwarding=1", "net.ipv6.conf.default.accept_dad=0")
	ns.run(t, "ip", "tuntap", "add", "dev", tapName, "mode", "tap")
	ns.run(t, "ip", "addr", "add", kernelAddr+"/24", "dev", tapName)
	ns.run(t, "ip", "-6", "addr", "add", "2001:db8:1::1/64", "dev", tapName, "nodad")
	ns.run(t, "ip", "link", "set", tapName, "up")
	dir := t.TempDir()
	ns.daemon(t, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root", "--interface="+tapName,
		"--dhcp-range=192.0.2.100,192.0.2.150,2m", "--dhcp-leasefile="+filepath.Join(dir, "leases"), "--no-ping",
		"--enable-ra", "--dhcp-range=::,constructor:"+tapName+",ra-stateless,64,1h", "--ra-param="+tapName+",5,600",
		"--pid-file="+filepath.Join(dir, "pid"), "--log-facility="+filepath.Join(dir, "log"), "--log-dhcp")
	read := func() string {
		log, _ := os.ReadFile(filepath.Join(dir, "log"))
		return string(log)
	}
	require.Eventually(t, func() bool { return strings.Contains(read(), "router advertisement on") }, patience, 20*time.Millisecond)
	p, line := ns.start(t, exe, "serve", "-auto", "-tap", tapName)
	urls := regexp.MustCompile(`^serving on http://(192\.0\.2\.1\d\d)/ and http://(\[2001:db8:1:.*\])/ \(Ctrl-C ends\)$`).FindStringSubmatch(line)
	require.NotNil(t, urls, "%q", line)
	for _, url := range urls[1:] {
		require.Contains(t, ns.run(t, "curl", "-gsS", "--fail", "--max-time", "60", "http://"+url+"/"), "Hello from")
	}
	a := ns.startAvahi(t)
	a.resolves(t, "usernet.local "+urls[1], "-4", "-n", "usernet.local")
	a.resolves(t, urls[1]+" usernet.local", "-a", urls[1])
	six := strings.Trim(urls[2], "[]")
	a.resolves(t, six+" usernet.local", "-a", six)
	require.NoError(t, p.cmd.Process.Signal(syscall.SIGINT))
	require.NoError(t, p.cmd.Wait())
	require.Contains(t, p.errs.String(), "DHCP lease acquired")
	require.Eventually(t, func() bool { return strings.Contains(read(), "DHCPRELEASE") }, patience, 50*time.Millisecond)
}

// TestCommandsUseATAPTooSmallForIPv6 runs commands, with -auto and without it, on a TAP whose MTU is too
// small for IPv6.
func TestCommandsUseATAPTooSmallForIPv6(t *testing.T) {
	t.Parallel()
	need(t, "dnsmasq", "curl")
	exe := build(t)
	ns := newNamespace(t)
	ns.shell(t, "ip tuntap add dev "+tapName+" mode tap; ip link set "+tapName+" mtu 1000 up; ip addr add "+kernelAddr+"/24 dev "+tapName)
	require.Contains(t, ns.run(t, exe, "ping", "-tap", tapName, "-c", "3", "-i", "0.01", "-W", "30", kernelAddr), " 3 received")
	dir := t.TempDir()
	ns.daemon(t, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root", "--interface="+tapName,
		"--dhcp-range=192.0.2.100,192.0.2.150,2m", "--dhcp-leasefile="+filepath.Join(dir, "leases"), "--no-ping",
		"--pid-file="+filepath.Join(dir, "pid"), "--log-facility="+filepath.Join(dir, "log"))
	p, line := ns.start(t, exe, "serve", "-auto", "-tap", tapName)
	url := regexp.MustCompile(`http://192\.0\.2\.1\d\d/`).FindString(line)
	require.NotEmpty(t, url, "%q", line)
	require.Contains(t, ns.run(t, "curl", "-sS", "--fail", "--max-time", "60", url), "Hello from")
	p.interrupt()
}

// addrs4 returns the IPv4 addresses of a host, without its IPv6 link-local address.
func addrs4(h *usernet.Host) []netip.Prefix {
	return slices.DeleteFunc(h.Addrs(), func(p netip.Prefix) bool { return p.Addr().Is6() })
}
