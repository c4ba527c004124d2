//go:build linux

package taptest

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/stack"
)

// Each side is given an address that the other side already has, and detects the duplicate.
func TestDuplicatesAreFoundByAndAtTheKernel(t *testing.T) {
	t.Parallel()
	ns, h := newLink(t, "sysctl")
	ns.run(t, "sysctl", "-q", "-w", "net.ipv6.conf."+tapName+".accept_dad=1")
	const addr = "2001:db8::dd"
	// The host has the first address before the kernel.
	require.NoError(t, h.AddAddr("", netip.MustParsePrefix(addr+"/64"), stack.AddrOptions{}))
	await(t, h, "the address is the host's", func() bool {
		infos := h.Interfaces()[1].AddrInfo
		return infos[len(infos)-1].State == stack.AddrPreferred
	})
	ns.run(t, "ip", "-6", "addr", "add", addr+"/64", "dev", tapName)
	require.Eventually(t, func() bool {
		return strings.Contains(ns.run(t, "ip", "-6", "addr", "show", "dev", tapName), addr+"/64 scope global dadfailed")
	}, patience, 100*time.Millisecond)
	// The kernel has the second address before the host.
	ns.run(t, "ip", "-6", "addr", "add", "2001:db8::de/64", "dev", tapName, "nodad")
	require.Eventually(t, func() bool { // the kernel joins the group of the address some time later
		return strings.Contains(ns.run(t, "ip", "-6", "maddr", "show", "dev", tapName), "ff02::1:ff00:de")
	}, patience, 20*time.Millisecond)
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
	ns, h := newLink(t, "ndisc6", "ping")
	mac := strings.ToUpper(h.Interfaces()[1].MAC.String())
	for _, to := range []string{ourAddr6, linkLocal(t, h).String()} {
		require.Equal(t, mac, strings.TrimSpace(ns.run(t, "ndisc6", "-q", "-1", to, tapName)))
	}
	// The kernel's neighbour table shows what it has learned.
	ns.run(t, "ping", "-6", "-q", "-c", "1", "-W", "30", ourAddr6)
	out := ns.run(t, "ip", "-6", "neigh", "show", "dev", tapName)
	require.Contains(t, out, ourAddr6+" lladdr "+h.Interfaces()[1].MAC.String())
	require.NotContains(t, out, "router")
}
