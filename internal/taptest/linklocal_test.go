//go:build linux

package taptest

import (
	"net/netip"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/stack"
)

// ourLinkLocal4 returns the host's link-local IPv4 address in use; it is invalid if there is none.
func ourLinkLocal4(h *usernet.Host) netip.Addr {
	for _, a := range h.Interfaces()[1].AddrInfo {
		if a.Origin == stack.AddrLinkLocal && a.Prefix.Addr().Is4() && a.State == stack.AddrPreferred {
			return a.Prefix.Addr()
		}
	}
	return netip.Addr{}
}

// A host and avahi-autoipd configure themselves with link-local addresses and reach each other. Then the kernel
// takes the host's address, and the host moves to another one.
func TestLinkLocalAddressesBesideAvahi(t *testing.T) {
	t.Parallel()
	need(t, "avahi-autoipd", "arping", "busybox", "ping", "unshare")
	ns := newNamespace(t)
	tap := ns.openTAP(t, false)
	ns.run(t, "ip", "-4", "addr", "flush", "dev", tapName)
	h, err := usernet.New(usernet.Config{NIC: tap, LinkLocal: true})
	require.NoError(t, err)
	t.Cleanup(func() { h.Close() })
	// avahi-autoipd keeps its state in fixed places, so give it places of its own.
	ns.daemon(t, "unshare", "-m", "--propagation", "private", "sh", "-c",
		"mount -t tmpfs none /run && mount -t tmpfs none /var/lib && exec avahi-autoipd --no-drop-root --no-chroot --debug "+tapName)
	require.Eventually(t, func() bool { return ourLinkLocal4(h).IsValid() }, patience, 50*time.Millisecond)
	first := ourLinkLocal4(h)
	var kernel string
	require.Eventually(t, func() bool {
		m := regexp.MustCompile(`inet (169\.254\.\d+\.\d+)/16`).FindStringSubmatch(ns.run(t, "ip", "-4", "-o", "addr", "show", "dev", tapName))
		if m != nil {
			kernel = m[1]
		}
		return m != nil
	}, patience, 50*time.Millisecond)
	require.NotEqual(t, first.String(), kernel)
	require.Contains(t, ns.run(t, "ping", "-c", "2", "-i", "0.2", "-W", "60", first.String()), " 2 received")
	st, err := h.Ping(t.Context(), kernel, usernet.PingConfig{Timeout: patience})
	require.NoError(t, err)
	require.Equal(t, 1, st.Received)
	// RFC 3927 2.5 requires that ARP replies are broadcast. Debian's arping ignores such replies, so the test uses
	// that of busybox.
	require.Contains(t, ns.run(t, "busybox", "arping", "-f", "-w", "60", "-I", tapName, first.String()), "Received 1 response")

	// The kernel claims the host's address in each of its ARP requests, again and again.
	ns.run(t, "ip", "addr", "add", first.String()+"/16", "dev", tapName, "scope", "link")
	require.Eventually(t, func() bool {
		ns.try(t, "arping", "-c", "1", "-w", "1", "-i", tapName, "-S", first.String(), "169.254.255.1")
		a := ourLinkLocal4(h)
		return a.IsValid() && a != first
	}, patience, 100*time.Millisecond)
	second := ourLinkLocal4(h)
	ns.run(t, "ip", "addr", "del", first.String()+"/16", "dev", tapName)
	require.Contains(t, ns.run(t, "ping", "-c", "2", "-i", "0.2", "-W", "60", second.String()), " 2 received")
}

// dnsmasq starts after the host has chosen a link-local address. The host then gets a lease, and the link-local
// address is deprecated.
func TestALinkLocalAddressGivesWayToDnsmasq(t *testing.T) {
	t.Parallel()
	need(t, "dnsmasq", "ping")
	ns := newNamespace(t)
	tap := ns.openTAP(t, false)
	h, err := usernet.New(usernet.Config{NIC: tap, DHCP: true, LinkLocal: true})
	require.NoError(t, err)
	t.Cleanup(func() { h.Close() })
	require.Eventually(t, func() bool { return ourLinkLocal4(h).IsValid() }, patience, 100*time.Millisecond)
	first := ourLinkLocal4(h)
	ns.run(t, "ip", "addr", "add", "169.254.0.9/16", "dev", tapName, "scope", "link")
	require.Contains(t, ns.run(t, "ping", "-c", "2", "-i", "0.2", "-W", "60", first.String()), " 2 received")
	dhcpServers()["dnsmasq"].start(t, ns, t.TempDir(), 120)
	l := onlineSoon(t, h)
	require.Equal(t, kernelAddr, l.Server.String())
	require.False(t, ourLinkLocal4(h).IsValid(), "it is deprecated")
	require.Contains(t, ns.run(t, "ping", "-c", "2", "-i", "0.2", "-W", "60", first.String()), " 2 received", "connections may go on for a while")
	st, err := h.Ping(t.Context(), "169.254.0.9", usernet.PingConfig{Timeout: patience})
	require.NoError(t, err)
	require.Equal(t, 1, st.Received, "RFC 3927 2.6.2: directly, and not by the router")
}
