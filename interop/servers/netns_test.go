//go:build linux

package servers

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
)

// The two ends of every test's link.
const (
	ourAddr    = "192.0.2.2"
	kernelAddr = "192.0.2.1"
)

// patience ends a test that hangs, and says nothing about speed.
const patience = time.Minute

// need skips the test without root, or if something is missing. With CI=true that is a failure.
func need(t *testing.T, what string, err error) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make a network namespace and a TAP device in it")
	}
	if err == nil {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("needs %s: %v", what, err)
	}
	t.Skipf("needs %s: %v", what, err)
}

// A namespace is a network namespace.
type namespace string

var lastNamespace atomic.Int64

// newLink makes a namespace and a host on a TAP in it. The host knows the namespace as kernel.test.
// Both are removed at the end of the test. imp, if not nil, impairs both directions.
func newLink(t *testing.T, imp *nic.Impairment) (namespace, *usernet.Host) {
	t.Helper()
	_, err := exec.LookPath("ip")
	need(t, "iproute2", err)
	_, err = os.Stat("/dev/net/tun")
	need(t, "/dev/net/tun (modprobe tun)", err)
	prefix := os.Getenv("USERNET_NETNS")
	if prefix == "" {
		prefix = "usernet-interop"
	}
	ns := namespace(fmt.Sprintf("%s-%d-%d", prefix, os.Getpid(), lastNamespace.Add(1)))
	out, err := exec.Command("ip", "netns", "add", string(ns)).CombinedOutput()
	require.NoError(t, err, "%s", out)
	t.Cleanup(func() {
		out, err := exec.Command("ip", "netns", "del", string(ns)).CombinedOutput()
		require.NoError(t, err, "%s", out)
	})
	var tap *nic.TAP
	require.NoError(t, ns.inside(func() (err error) {
		tap, err = nic.OpenTAP(nic.TAPConfig{Name: "tap0", Addr: netip.MustParsePrefix(kernelAddr + "/24")})
		return err
	}))
	var dev nic.Device = tap
	if imp != nil {
		dev = nic.Impair(tap, nic.ImpairConfig{In: *imp, Out: *imp, Seed: 1})
	}
	h, err := usernet.New(usernet.Config{
		NIC:   dev,
		Addrs: []netip.Prefix{netip.MustParsePrefix(ourAddr + "/24")},
		Hosts: map[string][]netip.Addr{"kernel.test": {netip.MustParseAddr(kernelAddr)}},
	})
	require.NoError(t, err)
	t.Cleanup(func() { h.Close() })
	return ns, h
}

// inside calls f in a thread that is in the namespace during the call. Sockets that f opens and
// processes that it starts stay in the namespace.
func (ns namespace) inside(f func() error) error {
	runtime.LockOSThread()
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(home)
	there, err := unix.Open("/run/netns/"+string(ns), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(there)
	if err := unix.Setns(there, unix.CLONE_NEWNET); err != nil {
		return err
	}
	err = f()
	if err := unix.Setns(home, unix.CLONE_NEWNET); err != nil {
		// The thread stays locked, because nothing else may run in it.
		return fmt.Errorf("back to our own namespace: %w", err)
	}
	runtime.UnlockOSThread()
	return err
}

// start runs a server in the namespace and waits until it answers on the port. At the end of the
// test the server gets the signal.
func (ns namespace) start(t *testing.T, h *usernet.Host, port string, end syscall.Signal, cmd *exec.Cmd) {
	t.Helper()
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.WaitDelay = patience
	require.NoError(t, ns.inside(cmd.Start))
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		if cmd.Process.Signal(end) == nil {
			<-ended
		}
		if t.Failed() {
			t.Logf("%s wrote:\n%s", cmd.Path, &output)
		}
	})
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		c, err := h.Dial("tcp", net.JoinHostPort("kernel.test", port))
		if err == nil {
			c.Close()
			return
		}
		select {
		case err := <-ended:
			ended <- err
			t.Fatalf("%s ended: %v", cmd.Path, err)
		default:
		}
		require.Less(t, time.Since(began), patience, "%s does not answer: %v", cmd.Path, err)
	}
}
