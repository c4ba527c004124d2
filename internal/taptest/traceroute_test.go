//go:build linux

package taptest

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"

	"github.com/usernet/usernet"
)

// The way from our host: the kernel behind the TAP, a router, and the destination.
var hops = []string{kernelAddr, "198.51.100.2", "198.51.100.6"}

// newRouters makes a link whose kernel forwards to a router of its own namespace,
// behind which is a third one.
func newRouters(t *testing.T) *usernet.Host {
	first, h := newLink(t, "sysctl")
	second, third := newNamespace(t), newNamespace(t)
	for _, link := range []struct {
		from, to   *namespace
		name       string
		near, away string
	}{
		{first, second, "right", "198.51.100.1/30", "198.51.100.2/30"},
		{second, third, "right", "198.51.100.5/30", "198.51.100.6/30"},
	} {
		link.from.run(t, "ip", "link", "add", link.name, "type", "veth", "peer", "name", "left", "netns", link.to.name)
		link.from.run(t, "ip", "addr", "add", link.near, "dev", link.name)
		link.to.run(t, "ip", "addr", "add", link.away, "dev", "left")
		link.from.run(t, "ip", "link", "set", link.name, "up")
		link.to.run(t, "ip", "link", "set", "left", "up")
	}
	first.run(t, "ip", "route", "add", "198.51.100.4/30", "via", "198.51.100.2")
	second.run(t, "ip", "route", "add", "192.0.2.0/24", "via", "198.51.100.1")
	third.run(t, "ip", "route", "add", "192.0.2.0/24", "via", "198.51.100.5")
	for _, ns := range []*namespace{first, second, third} {
		ns.run(t, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.icmp_ratelimit=0")
	}
	return h
}

// readICMP reads the next message from a router or the destination.
func readICMP(t *testing.T, c net.PacketConn) (from string, m *icmp.Message) {
	t.Helper()
	b := make([]byte, 1500)
	require.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
	n, peer, err := c.ReadFrom(b)
	require.NoError(t, err)
	m, err = icmp.ParseMessage(1, b[:n])
	require.NoError(t, err)
	return peer.String(), m
}

func TestATracerouteWithEchoRequests(t *testing.T) {
	h := newRouters(t)
	pc, err := h.ListenPacket("ip4:icmp", "0.0.0.0")
	require.NoError(t, err)
	defer pc.Close()
	for i, hop := range hops {
		echo := &icmp.Echo{ID: 0x1234, Seq: i, Data: []byte("which way?")}
		b, err := (&icmp.Message{Type: ipv4.ICMPTypeEcho, Body: echo}).Marshal(nil)
		require.NoError(t, err)
		_, err = pc.(*usernet.IPConn).WritePacket(b, usernet.PacketInfo{Remote: netip.AddrPortFrom(netip.MustParseAddr(hops[len(hops)-1]), 0), TTL: uint8(i + 1)})
		require.NoError(t, err)

		from, m := readICMP(t, pc)
		require.Equal(t, hop, from)
		if i == len(hops)-1 {
			require.Equal(t, ipv4.ICMPTypeEchoReply, m.Type)
			require.Equal(t, echo, m.Body)
			break
		}
		// RFC 792: "the internet header plus the first 64 bits of the original datagram's data",
		// which tell one's own from others'.
		require.Equal(t, ipv4.ICMPTypeTimeExceeded, m.Type)
		original := m.Body.(*icmp.TimeExceeded).Data
		header, err := icmp.ParseIPv4Header(original)
		require.NoError(t, err)
		require.Equal(t, ourAddr, header.Src.String())
		require.Equal(t, hops[len(hops)-1], header.Dst.String())
		require.Equal(t, b[:8], original[header.Len:header.Len+8])
	}
}

func TestATracerouteWithDatagrams(t *testing.T) {
	h := newRouters(t)
	listener, err := h.ListenPacket("ip4:icmp", "0.0.0.0")
	require.NoError(t, err)
	defer listener.Close()
	pc, err := h.ListenPacket("udp4", ":0")
	require.NoError(t, err)
	defer pc.Close()
	for i, hop := range hops {
		to := netip.AddrPortFrom(netip.MustParseAddr(hops[len(hops)-1]), uint16(33434+i))
		_, err = pc.(*usernet.UDPConn).WritePacket([]byte("which way?"), usernet.PacketInfo{Remote: to, TTL: uint8(i + 1)})
		require.NoError(t, err)
		from, m := readICMP(t, listener)
		require.Equal(t, hop, from)
		var original []byte
		if i < len(hops)-1 {
			require.Equal(t, ipv4.ICMPTypeTimeExceeded, m.Type)
			original = m.Body.(*icmp.TimeExceeded).Data
		} else { // nobody has such a port, which is how one knows to have arrived
			require.Equal(t, ipv4.ICMPTypeDestinationUnreachable, m.Type)
			require.Equal(t, 3, m.Code)
			original = m.Body.(*icmp.DstUnreach).Data
		}
		header, err := icmp.ParseIPv4Header(original)
		require.NoError(t, err)
		require.Equal(t, 17, header.Protocol)
		require.EqualValues(t, to.Port(), int(original[header.Len+2])<<8|int(original[header.Len+3]))
	}
}
