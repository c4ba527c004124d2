//go:build linux

package taptest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
)

const tunName = "tun0"

// newTUN makes a namespace with a TUN that has addresses of both families.
func newTUN(t *testing.T, plain bool) (*namespace, *nic.TUN) {
	t.Helper()
	ns := newNamespace(t)
	var tun *nic.TUN
	var err error
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		err = ns.inside(func() (err error) {
			tun, err = nic.OpenTUN(nic.TUNConfig{
				Name: tunName, NoOffload: plain,
				Addr:  netip.MustParsePrefix(kernelAddr + "/24"),
				Addr6: netip.MustParsePrefix(kernelAddr6 + "/64"),
			})
			return err
		})
		if !errors.Is(err, syscall.EBUSY) || time.Now().After(end) {
			break // see openTAP
		}
	}
	require.NoError(t, err)
	t.Cleanup(func() { tun.Close() })
	// The kernel uses an IPv6 address a moment after it has been added.
	require.Eventually(t, func() bool {
		return strings.Contains(ns.run(t, "ip", "-6", "route", "show", "table", "local"), kernelAddr6)
	}, patience, 10*time.Millisecond)
	return ns, tun
}

// onBothTUNs runs a test over a TUN with super-frames and over a plain TUN.
func onBothTUNs(t *testing.T, tools []string, test func(t *testing.T, ns *namespace, tun *nic.TUN, h *usernet.Host)) {
	t.Helper()
	need(t, tools...)
	for name, plain := range links {
		t.Run(name, func(t *testing.T) {
			ns, tun := newTUN(t, plain)
			test(t, ns, tun, newHost(t, tun))
		})
	}
}

func TestTransfersOverATUNAreIntact(t *testing.T) {
	t.Parallel()
	onBothTUNs(t, []string{"curl", "sha256sum"}, func(t *testing.T, ns *namespace, tun *nic.TUN, h *usernet.Host) {
		serveSite(t, h)
		ns.startHelper(t, "ready", "http", ":8000")
		for _, e := range families {
			curlDownload(t, ns, e, someBulk)
			curlUpload(t, ns, e, someBulk)
			fetch(t, h, e, someBulk)
		}
		require.Empty(t, h.Neighbors(), "there are no link-layer addresses")
		st := tun.Stats()
		require.Zero(t, st.SendDropped)
		require.Zero(t, st.RecvDropped)
		if tun.Link().GSO > 0 {
			require.Greater(t, st.SentBytes/st.Sent, uint64(4000), "bytes of a frame, on average: super-frames")
			require.Greater(t, st.ReceivedBytes/st.Received, uint64(4000), "bytes of a frame, on average: super-frames")
		}
	})
}

func TestTransfersOverATUNSurviveLoss(t *testing.T) {
	t.Parallel()
	onBothTUNs(t, []string{"curl", "sha256sum", "nft"}, func(t *testing.T, ns *namespace, tun *nic.TUN, h *usernet.Host) {
		serveSite(t, h)
		ns.drop(t)
		size := someBulk
		if tun.Link().GSO > 0 {
			size = bulk // a super-frame is lost as a whole
		}
		for in, out := 0, 0; in == 0 || out == 0; in, out = ns.dropped(t) { // a transfer may lose nothing
			for _, e := range families {
				curlDownload(t, ns, e, size)
				curlUpload(t, ns, e, size)
			}
		}
	})
}

func TestPingsCrossATUNInBothDirections(t *testing.T) {
	t.Parallel()
	onBothTUNs(t, []string{"ping"}, func(t *testing.T, ns *namespace, tun *nic.TUN, h *usernet.Host) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		for _, e := range families {
			for _, size := range []int{0, 56, 1400, 1472, 5000, 65000} {
				const count = 5
				ns.pingWithoutLoss(t, e, count, "-A", "-s", fmt.Sprint(size))
				st, err := h.Ping(ctx, e.kernel, usernet.PingConfig{Count: count, Interval: -1, Timeout: 30 * time.Second, Size: size})
				require.NoError(t, err)
				require.Equal(t, count, st.Received, "size %d", size)
			}
		}
	})
}

func TestCommandsWorkOnATUN(t *testing.T) {
	t.Parallel()
	need(t, "curl", "setpriv", "mount", "ping")
	exe := build(t)
	ns := newNamespace(t)

	// A TUN that the command makes.
	p, line := ns.start(t, exe, "serve", "-tun", tunName, "-v")
	require.Equal(t, "serving on http://192.0.2.2/ and http://[2001:db8::2]/ (Ctrl-C ends)", line)
	require.Contains(t, ns.run(t, "curl", "-sS", "--fail", "http://192.0.2.2/"), "the TUN device tun0")
	require.Contains(t, ns.run(t, "curl", "-sS", "--fail", "--connect-timeout", "5", "--retry", "20", "--retry-all-errors", "-g", "http://[2001:db8::2]/"), "Hello from")
	errs := p.interrupt()
	require.Contains(t, errs, "IPv4 192.0.2.1:", "-v shows packets")
	require.NotContains(t, errs, "who-has", "there is no ARP")
	require.NotContains(t, ns.run(t, "ip", "-o", "link"), tunName, "the device is gone after the end")

	// A persistent TUN of an ordinary user, made with packet information.
	ns.shell(t, `
		ip tuntap add dev tun7 mode tun user nobody pi
		ip addr add 198.51.100.1/24 dev tun7
		ip link set tun7 up`)
	dir, err := os.MkdirTemp("", "usernet")
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	nobody := ns.asNobody(dir)
	p, line = ns.start(t, append(nobody, exe, "serve", "-tun", "tun7")...)
	require.Equal(t, "serving on http://198.51.100.2/ (Ctrl-C ends)", line)
	require.Contains(t, ns.run(t, "curl", "-sS", "--fail", "http://198.51.100.2/"), "Hello from")
	p.interrupt()
	require.Contains(t, ns.run(t, exe, "ping", "-tun", "tun7", "-c", "3", "-i", "0.01", "-W", "30", "198.51.100.1"), " 3 received")
	_, errs, err = ns.try(t, append(nobody, exe, "echo", "-tun", "other0")...)
	require.Error(t, err)
	require.Contains(t, errs, "no TUN device: operation not permitted\n")
	require.Contains(t, errs, "ip tuntap add dev other0 mode tun user nobody && ")

	// The dump shows packets.
	d := &program{t: t, cmd: ns.command(t.Context(), exe, "dump", "-tun", "tun7", "-answer", "-c", "10")}
	var out bytes.Buffer
	d.cmd.Stdout, d.cmd.Stderr = &out, &d.errs
	require.NoError(t, d.cmd.Start())
	ns.shell(t, "until ping -q -c 1 -W 1 198.51.100.2; do sleep 0.1; done; ping -q -c 10 -i 0.01 198.51.100.2 || true")
	require.NoError(t, d.cmd.Wait(), "%s", d.errs.String())
	require.Contains(t, out.String(), "IPv4 198.51.100.1 > 198.51.100.2")
}
