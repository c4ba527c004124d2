//go:build linux

package taptest

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
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
	require.True(t, a.within(patience, f), "waiting for %s", what)
}

// within reports whether f becomes true before d has passed.
func (a *avahi) within(d time.Duration, f func() bool) bool {
	for end := time.Now().Add(d); !f(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

// try runs a program that talks to the daemon.
func (a *avahi) try(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	return a.ns.try(t, append([]string{"env", "DBUS_SYSTEM_BUS_ADDRESS=" + a.bus}, args...)...)
}

// resolves waits until avahi-resolve prints the fields of want, which are separated by single spaces.
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
			goodbyes := 1 // how often a service may be withdrawn until one of its goodbyes arrives
			if loss {
				ns.drop(t)
				goodbyes = 5
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
			avahiLosesUs(t, a, h, goodbyes)
			weFindAvahi(t, a, h, goodbyes)
			aConflictWithAvahi(t, a, h)
			ours6 := linkLocal(t, h).String()
			require.NoError(t, h.Close())
			require.NoError(t, file.Sync())
			tshark := captureOf(t, file.Name())
			require.Empty(t, tshark("-Y", "mdns && ("+faulty+")"))
			for _, from := range []string{"ip.src == " + ourAddr, "ipv6.src == " + ours6} {
				require.NotEmpty(t, tshark("-Y", "mdns && "+from))
			}
			require.Empty(t, tshark("-Y", "mdns && (ip.src == "+ourAddr+" && ip.ttl != 255 || ipv6.src == "+ours6+" && ipv6.hlim != 255)"),
				"RFC 6762 11: the TTL is 255")
		})
	}
}

// ourWeb is the service that the host publishes.
var ourWeb = usernet.MDNSService{Instance: "Our Web. Server", Type: "_http._tcp", Port: 80, TXT: []string{"path=/", "x=y"}, Subtypes: []string{"_tested"}}

// browse returns what avahi-browse prints about the instances of a service type.
func (a *avahi) browse(t *testing.T, service string) string {
	t.Helper()
	out, _, _ := a.try(t, "avahi-browse", "-rtp", service)
	return out
}

func avahiFindsUs(t *testing.T, a *avahi, h *usernet.Host) {
	t.Helper()
	a.resolves(t, "ours.local "+ourAddr, "-4", "-n", "ours.local")
	a.resolves(t, ourAddr+" ours.local", "-a", ourAddr)
	a.resolves(t, ourAddr6+" ours.local", "-a", ourAddr6)
	six := linkLocal(t, h).String()
	a.resolves(t, six+" ours.local", "-a", six)
	a.wait(t, "the IPv6 address", func() bool {
		out, _, _ := a.try(t, "avahi-resolve", "-6", "-n", "ours.local")
		return strings.Contains(out, ourAddr6) || strings.Contains(out, linkLocal(t, h).String())
	})
}

// avahiLosesUs publishes a service, waits until avahi has found all of it, and withdraws it. With loss, both
// goodbyes may be lost on their way to avahi, which then keeps the service for 75 minutes. Therefore the
// service may be published and withdrawn several times.
func avahiLosesUs(t *testing.T, a *avahi, h *usernet.Host, times int) {
	t.Helper()
	want := `;Our\032Web\.\032Server;Web Site;local;ours.local;`
	for try := 1; ; try++ {
		p, err := h.Publish(ourWeb)
		require.NoError(t, err)
		a.wait(t, "avahi-browse to resolve the service", func() bool {
			out := a.browse(t, "_http._tcp")
			return strings.Contains(out, "=;tap0;IPv4"+want+ourAddr+`;80;"x=y" "path=/"`) || strings.Contains(out, "=;tap0;IPv4"+want+ourAddr+`;80;"path=/" "x=y"`)
		})
		a.wait(t, "avahi-browse to find it over IPv6", func() bool { return strings.Contains(a.browse(t, "_http._tcp"), "=;tap0;IPv6"+want) })
		a.wait(t, "avahi-browse to find the subtype", func() bool { return strings.Contains(a.browse(t, "_tested._sub._http._tcp"), "Our") })
		a.wait(t, "the second announcement", p.Established)
		require.NoError(t, p.Close())
		if a.within(patience/time.Duration(times), func() bool { return !strings.Contains(a.browse(t, "_http._tcp"), "Our") }) {
			return
		}
		require.Less(t, try, times, "avahi still has the service")
	}
}

func weFindAvahi(t *testing.T, a *avahi, h *usernet.Host, goodbyes int) {
	t.Helper()
	a.wait(t, "the host to resolve kernel.local", func() bool {
		addrs, err := h.LookupHost("kernel.local")
		return err == nil && strings.Contains(strings.Join(addrs, " ")+" ", kernelAddr+" ") && len(addrs) >= 2
	})
	_, err := h.LookupHost("nobody.local")
	require.ErrorContains(t, err, "no such host")
	events := make(chan mdns.Event, 64)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		h.Browse(ctx, "_ipp._tcp", func(e mdns.Event) { events <- e })
	}()
	defer func() { cancel(); <-ended }()
	// next waits for up to d for an event of a service that was added or, if added is false, removed.
	next := func(added bool, d time.Duration) (e mdns.Event, ok bool) {
		for timer := time.After(d); ; {
			select {
			case e = <-events:
				if e.Added == added {
					return e, true
				}
			case <-timer:
				return e, false
			}
		}
	}
	for try := 1; ; try++ {
		publishing, stop := context.WithCancel(t.Context())
		defer stop()
		cmd := a.ns.command(publishing, "env", "DBUS_SYSTEM_BUS_ADDRESS="+a.bus, "avahi-publish", "-s", "Kernel Printer 1.0", "_ipp._tcp", "631", "path=/x")
		require.NoError(t, cmd.Start())
		if try == 1 {
			e, ok := next(true, patience)
			require.True(t, ok, "the host does not find the printer")
			require.Equal(t, `Kernel Printer 1\.0._ipp._tcp.local.`, e.Record.Target)
		}
		var in *usernet.MDNSInstance
		a.wait(t, "the instance", func() bool {
			in, err = h.LookupInstance(t.Context(), `Kernel Printer 1\.0._ipp._tcp.local.`)
			return err == nil && len(in.Addrs) > 0 && len(in.TXT) > 0
		})
		require.Equal(t, "kernel.local.", in.Host)
		require.Equal(t, uint16(631), in.Port)
		require.Equal(t, []string{"path=/x"}, in.TXT)
		stop()
		cmd.Wait()
		// avahi sends a single goodbye over each family.
		if _, ok := next(false, patience/time.Duration(goodbyes)); ok {
			return
		}
		require.Less(t, try, goodbyes, "the host still has the printer")
	}
}

// aConflictWithAvahi makes the host ask for the name of avahi's host. The host finds the name taken, and takes another
// one. If avahi is so slow that it defends its name only after the host's announcement, both verify the name again. The
// one with the lesser address, avahi, then takes another name (RFC 6762 sections 8.2 and 9).
func aConflictWithAvahi(t *testing.T, a *avahi, h *usernet.Host) {
	t.Helper()
	require.NoError(t, h.StopMDNS(""))
	require.NoError(t, h.StartMDNS("", usernet.MDNSConfig{HostName: "kernel"}))
	resolves := func(name, addr string) bool {
		out, _, _ := a.try(t, "avahi-resolve", "-4", "-n", name)
		return strings.Join(strings.Fields(out), " ") == name+" "+addr
	}
	a.wait(t, "two names", func() bool {
		name, established := h.MDNSName("")
		switch {
		case !established:
			return false
		case name == "kernel.local.":
			return resolves("kernel.local", ourAddr) && resolves("kernel-2.local", kernelAddr)
		}
		return name == "kernel-2.local." && resolves("kernel-2.local", ourAddr) && resolves("kernel.local", kernelAddr)
	})
}

// RFC 6762 section 4: the names of link-local addresses are looked up by multicast. avahi publishes its
// link-local addresses only on a link without other ones.
func TestLinkLocalNamesOfAvahi(t *testing.T) {
	t.Parallel()
	need(t, avahiTools...)
	ns := newNamespace(t)
	tap := ns.openTAP(t, false)
	ns.shell(t, "ip -4 addr flush dev "+tapName+"; ip addr add 169.254.7.1/16 dev "+tapName)
	h, err := usernet.New(usernet.Config{
		NIC: tap, Addrs: []netip.Prefix{netip.MustParsePrefix("169.254.7.2/16")}, MDNS: &usernet.MDNSConfig{HostName: "ours"},
	})
	require.NoError(t, err)
	defer h.Close()
	theirs, ours := ns.kernelLinkLocal(t), linkLocal(t, h).String()
	a := ns.startAvahi(t)
	for _, addr := range []string{"169.254.7.1", theirs, theirs + "%" + h.Interfaces()[1].Name} {
		a.wait(t, "the name of "+addr, func() bool {
			names, err := h.LookupAddr(addr)
			return err == nil && slices.Equal(names, []string{"kernel.local."})
		})
	}
	for _, addr := range []string{"169.254.7.2", ours} {
		a.resolves(t, addr+" ours.local", "-a", addr)
	}
}
