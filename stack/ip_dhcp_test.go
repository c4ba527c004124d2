package stack

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/stack/wire"
)

// RFC 2131 section 2: "the TCP/IP software SHOULD accept and forward to the IP layer any IP packets delivered to
// the client's hardware address before the IP address is configured".
func TestOffersReachAClientWithoutAnAddress(t *testing.T) {
	s, p := hostAndPeer(t)
	u := openUDP(t, s, "0.0.0.0:68")
	var got []string
	u.SetHandler(func(b []byte, from netip.AddrPort, meta Meta) { got = append(got, string(b)+" to "+meta.Dst.String()) })
	other := openUDP(t, s, "0.0.0.0:69")
	other.SetHandler(func([]byte, netip.AddrPort, Meta) { got = append(got, "on another port") })
	server, offered := addrPort("192.0.2.2:67"), addrPort("192.0.2.100:68")
	h := wire.IPv4{Proto: wire.ProtoUDP, Src: server.Addr(), Dst: offered.Addr()}
	offer := func(to wire.MAC, port string, h wire.IPv4) (accepted bool) {
		t.Helper()
		got = nil
		before := dropped(s, dropNotLocal)
		p.ip(to, h, udpDatagram(server, addrPort("192.0.2.100:"+port), []byte("offer")))
		if dropped(s, dropNotLocal) > before {
			require.Empty(t, got)
			return false
		}
		require.Equal(t, []string{"offer to 192.0.2.100"}, got)
		return true
	}
	require.False(t, offer(macA, "68", h), "the host has an address")
	require.NoError(t, s.RemoveAddr("", addr("192.0.2.1")))
	require.True(t, offer(macA, "68", h))
	require.NoError(t, s.AddAddr("", netip.MustParsePrefix("169.254.1.1/16"), AddrOptions{}))
	require.True(t, offer(macA, "68", h), "a link-local address is not configured")
	require.False(t, offer(macA, "69", h), "for another program")
	require.False(t, offer(wire.Broadcast(), "68", h), "a unicast datagram in a broadcast frame")
	h.MoreFragments = true
	require.False(t, offer(macA, "68", h), "a fragment")
	require.NoError(t, s.AddAddr("", netip.MustParsePrefix("198.51.100.1/24"), AddrOptions{}))
	h.MoreFragments = false
	require.False(t, offer(macA, "68", h))
	for _, line := range p.sent() {
		require.NotContains(t, line, "unreachable")
	}
}
