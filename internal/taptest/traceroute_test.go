//go:build linux

package taptest

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"github.com/usernet/usernet"
)

// A trace has the properties of a family that the tests of routes need.
type trace struct {
	end
	hops   []string // hops from the host: the kernel behind the TAP, a router, and the destination
	back   []string // hops from the destination to the host
	header int      // length of an IP header
	proto  int      // protocol number of ICMP

	echo, reply, exceeded, unreachable icmp.Type
	port                               int // code of unreachable for a closed port
}

var traces = []trace{
	{families[0], []string{kernelAddr, "198.51.100.2", "198.51.100.6"}, []string{"198.51.100.5", "198.51.100.1", ourAddr}, 20, 1,
		ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply, ipv4.ICMPTypeTimeExceeded, ipv4.ICMPTypeDestinationUnreachable, 3},
	{families[1], []string{kernelAddr6, "2001:db8:1::2", "2001:db8:2::2"}, []string{"2001:db8:2::1", "2001:db8:1::1", ourAddr6}, 40, 58,
		ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply, ipv6.ICMPTypeTimeExceeded, ipv6.ICMPTypeDestinationUnreachable, 4},
}

// newRouters makes a host on a link whose kernel forwards to a router in a second namespace. The namespace
// third is behind that router.
func newRouters(t *testing.T, tools ...string) (h *usernet.Host, third *namespace) {
	first, h := newLink(t, append(tools, "sysctl")...)
	_, third = routersBehind(t, first)
	return h, third
}

// routersBehind makes first, which has the addresses of the kernel's side of a link, forward to a router in
// a second namespace. The namespace third is behind that router.
func routersBehind(t *testing.T, first *namespace) (second, third *namespace) {
	second, third = newNamespace(t), newNamespace(t)
	for i, ns := range []*namespace{first, second, third} {
		if i > 0 {
			ns.shell(t, fmt.Sprintf(`
				ip addr add %[1]s/30 dev left
				ip -6 addr add %[2]s/64 dev left nodad
				ip link set left up`, traces[0].hops[i], traces[1].hops[i]))
		}
		if i < 2 {
			ns.shell(t, fmt.Sprintf(`
				ip link add right type veth peer name left netns %[3]s
				ip addr add %[1]s/30 dev right
				ip -6 addr add %[2]s/64 dev right nodad
				ip link set right up`, traces[0].back[1-i], traces[1].back[1-i], []*namespace{second, third}[i].Namespace))
		}
		ns.run(t, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.icmp_ratelimit=0", "net.ipv6.conf.all.forwarding=1", "net.ipv6.icmp.ratelimit=0")
	}
	first.shell(t, "ip route add 198.51.100.4/30 via 198.51.100.2; ip -6 route add 2001:db8:2::/64 via 2001:db8:1::2")
	second.shell(t, "ip route add 192.0.2.0/24 via 198.51.100.1; ip -6 route add 2001:db8::/64 via 2001:db8:1::1")
	third.shell(t, "ip route add default via 198.51.100.5; ip -6 route add default via 2001:db8:2::1")
	return second, third
}

// readICMP reads the next ICMP message from a router or the destination. It skips messages of Neighbor
// Discovery.
func (tr trace) readICMP(t *testing.T, c net.PacketConn) (from string, m *icmp.Message) {
	t.Helper()
	b := make([]byte, 1500)
	require.NoError(t, c.SetReadDeadline(time.Now().Add(patience)))
	for {
		n, peer, err := c.ReadFrom(b)
		require.NoError(t, err)
		m, err = icmp.ParseMessage(tr.proto, b[:n])
		require.NoError(t, err)
		if m.Type == tr.reply || m.Type == tr.exceeded || m.Type == tr.unreachable {
			return peer.String(), m
		}
	}
}

// quoted checks the addresses of the datagram that an error quotes, and returns the protocol and the
// payload of that datagram.
func (tr trace) quoted(t *testing.T, m *icmp.Message) (proto int, payload []byte) {
	t.Helper()
	var original []byte
	switch body := m.Body.(type) {
	case *icmp.TimeExceeded:
		original = body.Data
	case *icmp.DstUnreach:
		original = body.Data
	}
	at, n := tr.header-8, 4 // offset and length of the addresses
	proto = int(original[9])
	if tr.v6() {
		at, n = 8, 16
		proto = int(original[6])
	}
	addr := func(i int) string { a, _ := netip.AddrFromSlice(original[at+i*n:][:n]); return a.String() }
	require.Equal(t, tr.ours, addr(0))
	require.Equal(t, tr.hops[len(tr.hops)-1], addr(1))
	return proto, original[tr.header:]
}

func TestRoutesAreTraced(t *testing.T) {
	t.Parallel()
	h, third := newRouters(t, "traceroute", "tracepath")
	serveEcho(t, h)
	t.Run("by us with echo requests", func(t *testing.T) { traceWithEchoes(t, h) })
	t.Run("by us with datagrams", func(t *testing.T) { traceWithDatagrams(t, h) })
	t.Run("by programs", func(t *testing.T) { traceWithPrograms(t, third) })
}

func traceWithEchoes(t *testing.T, h *usernet.Host) {
	for _, tr := range traces {
		pc, err := h.ListenPacket(fmt.Sprintf("%s:%d", tr.network("ip"), tr.proto), "")
		require.NoError(t, err)
		defer pc.Close()
		for i, hop := range tr.hops {
			echo := &icmp.Echo{ID: 0x1234, Seq: i, Data: []byte("which way?")}
			// The checksum of ICMPv6 includes a pseudo-header, so the stack sets it (RFC 3542 3.1).
			b, err := (&icmp.Message{Type: tr.echo, Body: echo}).Marshal(nil)
			require.NoError(t, err)
			_, err = pc.(*usernet.IPConn).WritePacket(b, usernet.PacketInfo{Remote: netip.AddrPortFrom(netip.MustParseAddr(tr.hops[len(tr.hops)-1]), 0), TTL: uint8(i + 1)})
			require.NoError(t, err)

			from, m := tr.readICMP(t, pc)
			require.Equal(t, hop, from)
			if i == len(tr.hops)-1 {
				require.Equal(t, tr.reply, m.Type)
				require.Equal(t, echo, m.Body)
				break
			}
			// RFC 792: "the internet header plus the first 64 bits of the original datagram's
			// data". These identify the sender's own datagrams.
			require.Equal(t, tr.exceeded, m.Type)
			proto, original := tr.quoted(t, m)
			require.Equal(t, tr.proto, proto)
			require.Equal(t, b[:2], original[:2])
			require.Equal(t, b[4:8], original[4:8])
		}
	}
}

func traceWithDatagrams(t *testing.T, h *usernet.Host) {
	for _, tr := range traces {
		listener, err := h.ListenPacket(fmt.Sprintf("%s:%d", tr.network("ip"), tr.proto), "")
		require.NoError(t, err)
		defer listener.Close()
		pc, err := h.ListenPacket(tr.network("udp"), ":0")
		require.NoError(t, err)
		defer pc.Close()
		for i, hop := range tr.hops {
			to := netip.AddrPortFrom(netip.MustParseAddr(tr.hops[len(tr.hops)-1]), uint16(33434+i))
			_, err = pc.(*usernet.UDPConn).WritePacket([]byte("which way?"), usernet.PacketInfo{Remote: to, TTL: uint8(i + 1)})
			require.NoError(t, err)
			from, m := tr.readICMP(t, listener)
			require.Equal(t, hop, from)
			if i < len(tr.hops)-1 {
				require.Equal(t, tr.exceeded, m.Type)
			} else { // the last error is from the destination, whose port is closed
				require.Equal(t, tr.unreachable, m.Type)
				require.Equal(t, tr.port, m.Code)
			}
			proto, original := tr.quoted(t, m)
			require.Equal(t, 17, proto)
			require.EqualValues(t, to.Port(), binary.BigEndian.Uint16(original[2:]))
		}
	}
}

// traceWithPrograms traces the route to the host with the kernel's programs.
func traceWithPrograms(t *testing.T, third *namespace) {
	for _, tr := range traces {
		for _, how := range []string{"", "-I", "-T -p 7"} {
			out := third.shell(t, "traceroute "+tr.flag+" -n -q 1 -N 1 -w 5 "+how+" "+tr.ours)
			var way []string
			for line := range strings.Lines(out) {
				if f := strings.Fields(line); f[0] != "traceroute" {
					way = append(way, f[1])
				}
			}
			require.Equal(t, tr.back, way, how)
		}
		require.Contains(t, third.run(t, "tracepath", tr.flag, "-n", tr.ours), "Resume: pmtu 1500 hops 3 back 3")
	}
}
