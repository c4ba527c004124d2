//go:build linux

package taptest

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/mdns"
	"github.com/usernet/usernet/nic"
)

// An avahi is avahi-daemon in a namespace, with a D-Bus daemon of its own.
type avahi struct {
	ns  *namespace
	bus string // the address of the D-Bus daemon
}

// avahiTools are the programs that the tests with avahi need.
var avahiTools = []string{"avahi-daemon", "avahi-resolve", "avahi-browse", "avahi-publish", "dbus-daemon", "unshare", "mount"}

const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=%[1]s/bus</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
`

const avahiConfig = `[server]
host-name=kernel
use-ipv4=yes
use-ipv6=yes
allow-interfaces=tap0
ratelimit-interval-usec=1000000
ratelimit-burst=1000
[publish]
publish-hinfo=no
publish-workstation=no
publish-aaaa-on-ipv4=yes
publish-a-on-ipv6=yes
[rlimits]
`

// startAvahi starts avahi-daemon as kernel.local on the TAP.
func (ns *namespace) startAvahi(t *testing.T) *avahi {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{"dbus.conf": fmt.Sprintf(busConfig, dir), "avahi.conf": avahiConfig} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644))
	}
	a := &avahi{ns, "unix:path=" + filepath.Join(dir, "bus")}
	ns.daemon(t, "dbus-daemon", "--nofork", "--nopidfile", "--config-file="+filepath.Join(dir, "dbus.conf"))
	a.wait(t, "the D-Bus daemon", func() bool {
		_, err := os.Stat(filepath.Join(dir, "bus"))
		return err == nil
	})
	// The directory of the daemon's socket is fixed, and another test may run a daemon at the same time.
	ns.daemon(t, "env", "DBUS_SYSTEM_BUS_ADDRESS="+a.bus, "unshare", "-m", "bash", "-euc", `
		mkdir -p /run/avahi-daemon
		mount -t tmpfs none /run/avahi-daemon
		exec avahi-daemon --no-drop-root --no-chroot --no-rlimits -f "$0"`, filepath.Join(dir, "avahi.conf"))
	a.wait(t, "avahi-daemon", func() bool {
		out, _, err := a.try(t, "avahi-resolve", "-n", "kernel.local")
		return err == nil && strings.Contains(out, "kernel.local")
	})
	return a
}

// wait waits until f is true.
func (a *avahi) wait(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !f(); time.Sleep(50 * time.Millisecond) {
		require.True(t, time.Now().Before(end), "waiting for %s", what)
	}
}

// try runs a program that talks to the daemon.
func (a *avahi) try(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	return a.ns.try(t, append([]string{"env", "DBUS_SYSTEM_BUS_ADDRESS=" + a.bus}, args...)...)
}

// resolves waits until avahi-resolve prints a line with the fields.
func (a *avahi) resolves(t *testing.T, want string, args ...string) {
	t.Helper()
	a.wait(t, strings.Join(args, " ")+" to print "+want, func() bool {
		out, _, _ := a.try(t, append([]string{"avahi-resolve"}, args...)...)
		return strings.Join(strings.Fields(out), " ") == want
	})
}

// avahi resolves and browses what the host publishes, and the host what avahi publishes, over both families and
// with loss. tshark checks all messages.
func TestMulticastDNSWithAvahi(t *testing.T) {
	t.Parallel()
	need(t, append(avahiTools, "tshark", "nft")...)
	for _, loss := range []bool{false, true} {
		t.Run(map[bool]string{false: "no loss", true: "loss"}[loss], func(t *testing.T) {
			t.Parallel()
			ns, tap := newTAP(t, false)
			if loss {
				ns.drop(t)
			}
			file, err := os.Create(filepath.Join(t.TempDir(), "mdns.pcapng"))
			require.NoError(t, err)
			defer file.Close()
			dev := nic.Capture(tap, file, nic.CaptureConfig{})
			h, err := usernet.New(usernet.Config{
				NIC: dev, Addrs: []netip.Prefix{netip.MustParsePrefix(ourAddr + "/24"), netip.MustParsePrefix(ourAddr6 + "/64")},
				MDNS: &usernet.MDNSConfig{HostName: "ours"},
			})
			require.NoError(t, err)
			defer h.Close()
			a := ns.startAvahi(t)
			avahiFindsUs(t, a, h)
			weFindAvahi(t, a, h)
			aConflictWithAvahi(t, a, h)
			require.NoError(t, h.Close())
			require.NoError(t, file.Sync())
			tshark := captureOf(t, file.Name())
			require.Empty(t, tshark("-Y", "mdns && ("+faulty+")"))
			sent := tshark("-Y", "mdns && (ip.src == "+ourAddr+" || ipv6.src == "+linkLocal(t, h).String()+") && ip.ttl != 255 && ipv6.hlim != 255")
			require.Empty(t, sent, "RFC 6762 11: the TTL is 255")
		})
	}
}

func avahiFindsUs(t *testing.T, a *avahi, h *usernet.Host) {
	t.Helper()
	a.resolves(t, "ours.local "+ourAddr, "-4", "-n", "ours.local")
	a.resolves(t, ourAddr+" ours.local", "-a", ourAddr)
	a.resolves(t, ourAddr6+" ours.local", "-a", ourAddr6)
	a.wait(t, "the IPv6 address", func() bool {
		out, _, _ := a.try(t, "avahi-resolve", "-6", "-n", "ours.local")
		return strings.Contains(out, ourAddr6) || strings.Contains(out, linkLocal(t, h).String())
	})
	p, err := h.Publish(usernet.MDNSService{Instance: "Our Web. Server", Type: "_http._tcp", Port: 80, TXT: []string{"path=/", "x=y"}, Subtypes: []string{"_tested"}})
	require.NoError(t, err)
	browse := func(service string) string {
		out, _, _ := a.try(t, "avahi-browse", "-rtp", service)
		return out
	}
	want := `;Our\032Web\.\032Server;Web Site;local;ours.local;`
	a.wait(t, "avahi-browse to resolve the service", func() bool {
		out := browse("_http._tcp")
		return strings.Contains(out, "=;tap0;IPv4"+want+ourAddr+`;80;"x=y" "path=/"`) || strings.Contains(out, "=;tap0;IPv4"+want+ourAddr+`;80;"path=/" "x=y"`)
	})
	a.wait(t, "avahi-browse to find it over IPv6", func() bool { return strings.Contains(browse("_http._tcp"), "=;tap0;IPv6"+want) })
	a.wait(t, "avahi-browse to find the subtype", func() bool { return strings.Contains(browse("_tested._sub._http._tcp"), "Our") })
	require.NoError(t, p.Close())
	a.wait(t, "the goodbye", func() bool { return !strings.Contains(browse("_http._tcp"), "Our") })
}

func weFindAvahi(t *testing.T, a *avahi, h *usernet.Host) {
	t.Helper()
	a.wait(t, "the host to resolve kernel.local", func() bool {
		addrs, err := h.LookupHost("kernel.local")
		return err == nil && strings.Contains(strings.Join(addrs, " ")+" ", kernelAddr+" ") && len(addrs) >= 2
	})
	_, err := h.LookupHost("nobody.local")
	require.ErrorContains(t, err, "no such host")
	events := make(chan mdns.Event, 16)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		h.Browse(ctx, "_ipp._tcp", func(e mdns.Event) { events <- e })
	}()
	defer func() { cancel(); <-ended }()
	publishing, stop := context.WithCancel(t.Context())
	defer stop()
	cmd := a.ns.command(publishing, "env", "DBUS_SYSTEM_BUS_ADDRESS="+a.bus, "avahi-publish", "-s", "Kernel Printer 1.0", "_ipp._tcp", "631", "path=/x")
	require.NoError(t, cmd.Start())
	e := <-events
	require.True(t, e.Added)
	require.Equal(t, `Kernel Printer 1\.0._ipp._tcp.local.`, e.Record.Target)
	var in *usernet.MDNSInstance
	a.wait(t, "the instance", func() bool {
		in, err = h.LookupInstance(t.Context(), e.Record.Target)
		return err == nil && len(in.Addrs) > 0
	})
	require.Equal(t, "kernel.local.", in.Host)
	require.Equal(t, uint16(631), in.Port)
	require.Equal(t, []string{"path=/x"}, in.TXT)
	stop()
	cmd.Wait()
	for e = range events {
		if !e.Added {
			break
		}
	}
	require.False(t, e.Added, "the goodbye of avahi, or the end of the record")
}

// The name of avahi's host is taken, so the host takes another one.
func aConflictWithAvahi(t *testing.T, a *avahi, h *usernet.Host) {
	t.Helper()
	require.NoError(t, h.StopMDNS(""))
	require.NoError(t, h.StartMDNS("", usernet.MDNSConfig{HostName: "kernel"}))
	a.wait(t, "another name", func() bool {
		name, established := h.MDNSName("")
		return established && name == "kernel-2.local."
	})
	a.resolves(t, "kernel-2.local "+ourAddr, "-4", "-n", "kernel-2.local")
	a.resolves(t, "kernel.local "+kernelAddr, "-4", "-n", "kernel.local")
}
