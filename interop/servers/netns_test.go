//go:build linux

package servers

import (
	"bytes"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/internal/netns"
	"github.com/usernet/usernet/nic"
)

// The two ends of every test's link.
const (
	ourAddr    = "192.0.2.2"
	kernelAddr = "192.0.2.1"
)

// patience ends a test that hangs, and says nothing about speed.
const patience = time.Minute

// need skips the test without root, or if something is missing. With CI=true a missing thing is a failure.
func need(t *testing.T, what string, err error) {
	t.Helper()
	netns.Need(t)
	if err != nil {
		netns.Lacks(t, what, err)
	}
}

// A namespace is a network namespace.
type namespace struct{ netns.Namespace }

// newLink makes a namespace and a host on a TAP in it. The host knows the namespace as kernel.test.
// Both are removed at the end of the test. imp, if not nil, impairs both directions.
func newLink(t *testing.T, imp *nic.Impairment) (namespace, *usernet.Host) {
	t.Helper()
	_, err := os.Stat("/dev/net/tun")
	need(t, "/dev/net/tun (modprobe tun)", err)
	ns := namespace{netns.New(t)}
	var tap *nic.TAP
	require.NoError(t, ns.Do(func() (err error) {
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

// start runs a server in the namespace and waits until it answers on the port. At the end of the
// test the server gets the signal.
func (ns namespace) start(t *testing.T, h *usernet.Host, port string, end syscall.Signal, cmd *exec.Cmd) {
	t.Helper()
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.WaitDelay = patience
	require.NoError(t, ns.Do(cmd.Start))
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		cmd.Process.Signal(end) // fails if the server has ended by itself
		<-ended                 // until then, output may still be written
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
