//go:build linux

package taptest

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/internal/netns"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack"
)

// The addresses of the two ends of each test's link.
const (
	ourAddr     = "192.0.2.2"
	kernelAddr  = "192.0.2.1"
	ourAddr6    = "2001:db8::2"
	kernelAddr6 = "2001:db8::1"
	tapName     = "tap0"
)

// An end is a pair of addresses by which the two sides of a link reach each other.
type end struct {
	name   string
	flag   string // the option for programs: -4 or -6
	ours   string // usernet's address, in the form for the kernel's programs
	kernel string // the kernel's address, in the form for usernet
}

// families has an end for each family.
var families = []end{{"IPv4", "-4", ourAddr, kernelAddr}, {"IPv6", "-6", ourAddr6, kernelAddr6}}

// v6 reports whether the end has IPv6 addresses.
func (e end) v6() bool { return e.flag == "-6" }

// network returns the network for a protocol, such as "udp4".
func (e end) network(proto string) string { return proto + e.flag[1:] }

// url returns the URL of a path on port 80 of the host.
func (e end) url(path string) string {
	if !e.v6() {
		return "http://" + e.ours + path
	}
	return "http://[" + strings.Replace(e.ours, "%", "%25", 1) + "]" + path
}

// at returns the address of the kernel's side with a port.
func (e end) at(port string) string { return net.JoinHostPort(e.kernel, port) }

// ends returns the ends in families, and an end with the IPv6 link-local addresses and their zones.
func (ns *namespace) ends(t *testing.T, h *usernet.Host) []end {
	return append(families[:2:2], end{"link-local", "-6", linkLocal(t, h).WithZone(tapName).String(),
		ns.kernelLinkLocal(t) + "%" + h.Interfaces()[1].Name})
}

// linkLocal returns the host's link-local address.
func linkLocal(t *testing.T, h *usernet.Host) netip.Addr {
	t.Helper()
	for _, p := range h.Addrs() {
		if p.Addr().Is6() && p.Addr().IsLinkLocalUnicast() {
			return p.Addr()
		}
	}
	t.Fatal("the host has no link-local address")
	return netip.Addr{}
}

// kernelLinkLocal waits until the kernel's link-local address is usable, and returns it.
func (ns *namespace) kernelLinkLocal(t *testing.T) string {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		out := ns.run(t, "ip", "-6", "-o", "addr", "show", "dev", tapName, "scope", "link")
		if f := strings.Fields(out); len(f) > 3 && !strings.Contains(out, "tentative") {
			return strings.TrimSuffix(f[3], "/64")
		}
	}
	t.Fatal("the kernel has no link-local address")
	return ""
}

// patience limits the time of a command on the kernel's side. It is long, because it only has to end a
// test that hangs.
const patience = 3 * time.Minute

// need skips the test if it does not run as root, or if a tool is missing. With CI=true a missing tool
// fails the test.
func need(t *testing.T, tools ...string) {
	t.Helper()
	netns.Need(t, tools...)
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		netns.Lacks(t, "/dev/net/tun (modprobe tun)", err)
	}
}

// A namespace is a network namespace.
type namespace struct{ netns.Namespace }

// newNamespace makes a namespace with only a loopback. At the end of the test, the namespace is deleted
// and all processes in it are killed.
func newNamespace(t *testing.T) *namespace {
	t.Helper()
	return &namespace{netns.New(t)}
}

// inside calls f in a thread that is in the namespace during the call. Sockets and files that f
// opens stay in the namespace, and can be used from any thread.
func (ns *namespace) inside(f func() error) error { return ns.Do(f) }

// openTAP opens a TAP in the namespace, and creates it if it does not exist. A plain TAP has no offloads.
// The kernel uses its addresses on the TAP at once, without duplicate address detection.
func (ns *namespace) openTAP(t *testing.T, plain bool) *nic.TAP {
	t.Helper()
	var tap *nic.TAP
	// /proc/sys/net belongs to the namespace of the thread that opens the file.
	err := ns.inside(func() error {
		return os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0)
	})
	require.NoError(t, err)
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		err = ns.inside(func() (err error) {
			tap, err = nic.OpenTAP(nic.TAPConfig{Name: tapName, Addr: netip.MustParsePrefix(kernelAddr + "/24"), NoOffload: plain})
			return err
		})
		// A process that another test is starting has copies of this process's descriptors until its
		// exec. They keep a closed device busy, so try again.
		if !errors.Is(err, syscall.EBUSY) || time.Now().After(end) {
			break
		}
	}
	require.NoError(t, err)
	t.Cleanup(func() { tap.Close() })
	return tap
}

// newHost makes a host with both families on a device.
func newHost(t *testing.T, dev nic.Device) *usernet.Host {
	t.Helper()
	return newHostWith(t, dev, stack.TCPConfig{})
}

// newHostWith is newHost with a configuration of TCP.
func newHostWith(t *testing.T, dev nic.Device, cfg stack.TCPConfig) *usernet.Host {
	t.Helper()
	h, err := usernet.New(usernet.Config{
		NIC:      dev,
		TCP:      cfg,
		Addrs:    []netip.Prefix{netip.MustParsePrefix(ourAddr + "/24"), netip.MustParsePrefix(ourAddr6 + "/64")},
		Gateway:  netip.MustParseAddr(kernelAddr),
		Gateway6: netip.MustParseAddr(kernelAddr6),
	})
	require.NoError(t, err)
	t.Cleanup(func() { h.Close() })
	return h
}

// newTAP makes a namespace with a TAP that has addresses of both families.
func newTAP(t *testing.T, plain bool) (*namespace, *nic.TAP) {
	t.Helper()
	ns := newNamespace(t)
	tap := ns.openTAP(t, plain)
	ns.run(t, "ip", "-6", "addr", "add", kernelAddr6+"/64", "dev", tapName, "nodad")
	return ns, tap
}

// newLink makes a namespace with a TAP that has offloads, and a host on the TAP.
func newLink(t *testing.T, tools ...string) (*namespace, *usernet.Host) {
	t.Helper()
	need(t, tools...)
	ns, tap := newTAP(t, false)
	return ns, newHost(t, tap)
}

// links has the kinds of TAP by name. The value is true for a plain TAP, which has no offloads.
var links = map[string]bool{"super-frames": false, "plain frames": true}

// onBothLinks runs a test over a TAP with super-frames and over a plain TAP.
func onBothLinks(t *testing.T, tools []string, test func(t *testing.T, ns *namespace, h *usernet.Host, plain bool)) {
	t.Helper()
	need(t, tools...)
	for name, plain := range links {
		t.Run(name, func(t *testing.T) {
			ns, tap := newTAP(t, plain)
			test(t, ns, newHost(t, tap), plain)
		})
	}
}

// command returns a command that runs in the namespace, and that is killed when ctx ends.
func (ns *namespace) command(ctx context.Context, args ...string) *exec.Cmd {
	return ns.Command(ctx, args...)
}

// try runs a command in the namespace and returns its output.
func (ns *namespace) try(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	return ns.Try(t, args...)
}

// run runs a command in the namespace, which must succeed, and returns its output.
func (ns *namespace) run(t *testing.T, args ...string) string {
	t.Helper()
	return ns.Run(t, args...)
}

// shell runs a script in the namespace, and returns its output. Each command of the script must succeed.
func (ns *namespace) shell(t *testing.T, script string) string {
	t.Helper()
	return ns.Shell(t, script)
}

// drop makes the kernel drop one packet in a hundred, at random, in each direction.
func (ns *namespace) drop(t *testing.T) {
	t.Helper()
	ns.Lose(t, "")
}

// dropped returns how many packets the rules of drop have dropped in each direction.
func (ns *namespace) dropped(t *testing.T) (in, out int) {
	t.Helper()
	return ns.Lost(t)
}
