//go:build linux

package taptest

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/stack"
)

// The two ends of a link of IPv6. The link-local addresses are those of the MACs.
const (
	ourAddr6    = "2001:db8::2"
	kernelAddr6 = "2001:db8::1"
)

// newLink6 makes a namespace and a host of both families on a TAP in it.
func newLink6(t *testing.T, plain bool, tools ...string) (*namespace, *usernet.Host) {
	t.Helper()
	need(t, tools...)
	ns := newNamespace(t)
	tap := ns.openTAP(t, plain)
	ns.run(t, "ip", "-6", "addr", "add", kernelAddr6+"/64", "dev", tapName, "nodad")
	// While it looks for duplicates of its link-local address, the kernel sends from the other one
	// to ours, and an answer then comes from our other one.
	require.Eventually(t, func() bool {
		link := ns.run(t, "ip", "-6", "addr", "show", "dev", tapName, "scope", "link")
		return strings.Contains(link, "inet6") && !strings.Contains(link, "tentative")
	}, patience, 20*time.Millisecond)
	h, err := usernet.New(usernet.Config{
		NIC:      tap,
		Addrs:    []netip.Prefix{netip.MustParsePrefix(ourAddr + "/24"), netip.MustParsePrefix(ourAddr6 + "/64")},
		Gateway:  netip.MustParseAddr(kernelAddr),
		Gateway6: netip.MustParseAddr(kernelAddr6),
	})
	require.NoError(t, err)
	t.Cleanup(func() { h.Close() })
	return ns, h
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

// kernelLinkLocal waits until the kernel's link-local address is of use, and returns it.
func (ns *namespace) kernelLinkLocal(t *testing.T) string {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		out := ns.run(t, "ip", "-6", "-o", "addr", "show", "dev", tapName, "scope", "link")
		if f := strings.Fields(out); len(f) > 3 && !strings.Contains(out, "tentative") {
			return strings.TrimSuffix(f[3], "/64")
		}
	}
	t.Fatal("the kernel has no link-local address")
	return ""
}

func TestTheKernelPingsOverIPv6(t *testing.T) {
	t.Parallel()
	for _, plain := range []bool{false, true} {
		ns, h := newLink6(t, plain, "ping")
		for _, to := range []string{ourAddr6, linkLocal(t, h).WithZone(tapName).String()} {
			require.Empty(t, ns.shell(t, fmt.Sprintf(
				"for s in 0 1 7 8 56 1400 1451 1452; do ping -6 -q -c 3 -i 0.01 -W 5 -s $s %s >/dev/null || echo lost $s; done", to)))
		}
		// Its table says what it has learnt.
		out := ns.run(t, "ip", "-6", "neigh", "show", "dev", tapName)
		require.Contains(t, out, ourAddr6+" lladdr "+h.Interfaces()[1].MAC.String())
		require.NotContains(t, out, "router")
	}
}

func TestUsernetPingsTheKernelOverIPv6(t *testing.T) {
	t.Parallel()
	ns, h := newLink6(t, false)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	name := h.Interfaces()[1].Name
	for _, to := range []string{kernelAddr6, ns.kernelLinkLocal(t) + "%" + name} {
		c, err := h.DialContext(ctx, "udp", netip.AddrPortFrom(netip.MustParseAddr(to), 9).String())
		require.NoError(t, err)
		// Nobody listens there: the kernel says so, if it gets the datagram.
		_, err = c.Write([]byte("x"))
		require.NoError(t, err)
		c.SetReadDeadline(time.Now().Add(time.Minute))
		_, err = c.Read(make([]byte, 10))
		require.ErrorContains(t, err, "connection refused", to)
		require.NoError(t, c.Close())
	}
	require.NotEmpty(t, h.Neighbors())
}

func TestCurlAndNetcatOverIPv6(t *testing.T) {
	t.Parallel()
	for _, plain := range []bool{false, true} {
		ns, h := newLink6(t, plain, "curl", "nc", "socat", "sha256sum")
		serveSite(t, h)
		serveEcho(t, h)
		ll := linkLocal(t, h).WithZone(tapName).String()
		for _, to := range []string{ourAddr6, ll} {
			for _, n := range []int64{0, 1, 1428, 1429, 100_000, someBulk} {
				url := "http://[" + strings.Replace(to, "%", "%25", 1) + "]"
				out := ns.shell(t, fmt.Sprintf("curl -6 -sS --fail '%s/content?n=%d' | sha256sum", url, n))
				require.Equal(t, contentSum(t, n), strings.Fields(out)[0], "the SHA-256 of what curl got")
				out = ns.shell(t, fmt.Sprintf("%s %d | curl -6 -sS --fail -T - '%s/sum'", self(t, "generate"), n, url))
				require.Equal(t, fmt.Sprintf("%d %s\n", n, contentSum(t, n)), out, "the SHA-256 of what the server got")
			}
			require.Equal(t, "over TCP\n", ns.shell(t, "echo over TCP | nc -6 -N "+to+" 7"))
			require.Equal(t, "over UDP\n", ns.shell(t, "echo over UDP | nc -6 -u -W 1 -w 30 "+to+" 7"))
		}
		// The same listeners serve IPv4.
		require.Equal(t, "over IPv4\n", ns.shell(t, "echo over IPv4 | nc -4 -N "+ourAddr+" 7"))
	}
}

// Each finds that the other has an address which both were given.
func TestDuplicatesAreFoundByAndAtTheKernel(t *testing.T) {
	t.Parallel()
	ns, h := newLink6(t, false)
	const addr = "2001:db8::dd"
	// The host has it first.
	require.NoError(t, h.AddAddr("", netip.MustParsePrefix(addr+"/64"), stack.AddrOptions{}))
	time.Sleep(3 * time.Second)
	ns.run(t, "ip", "-6", "addr", "add", addr+"/64", "dev", tapName)
	require.Eventually(t, func() bool {
		return strings.Contains(ns.run(t, "ip", "-6", "addr", "show", "dev", tapName), addr+"/64 scope global dadfailed")
	}, patience, 100*time.Millisecond)
	// The kernel has it first.
	ns.run(t, "ip", "-6", "addr", "add", "2001:db8::de/64", "dev", tapName, "nodad")
	changed := h.Changed()
	require.NoError(t, h.AddAddr("", netip.MustParsePrefix("2001:db8::de/64"), stack.AddrOptions{}))
	for end := time.After(patience); ; changed = h.Changed() {
		infos := h.Interfaces()[1].AddrInfo
		if i := infos[len(infos)-1]; i.State.String() == "duplicate" {
			require.NotZero(t, i.ConflictMAC)
			break
		}
		select {
		case <-changed:
		case <-end:
			t.Fatal("the duplicate was not found")
		}
	}
}

func TestNdisc6FindsTheHost(t *testing.T) {
	t.Parallel()
	ns, h := newLink6(t, false, "ndisc6")
	mac := strings.ToUpper(h.Interfaces()[1].MAC.String())
	for _, to := range []string{ourAddr6, linkLocal(t, h).String()} {
		require.Equal(t, mac, strings.TrimSpace(ns.run(t, "ndisc6", "-q", "-1", to, tapName)))
	}
}
