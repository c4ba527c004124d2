package stack

import (
	"context"
	"net/netip"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
)

// As on Linux 6.18, there is no route from an address that the host no longer has.
func TestAnAddressGoesWithItsLink(t *testing.T) {
	sw := nic.NewSwitch(nic.SwitchConfig{})
	s, o := newHost(t, sw.Port(), "192.0.2.1/24"), newHost(t, sw.Port(), "192.0.2.2/24")
	to := addrPort("192.0.2.2:9")
	far, farRaw := openUDP(t, o, "0.0.0.0:9"), openRaw(t, o)
	soon(t, far)

	connected, bound, wild := openUDP(t, s, "0.0.0.0:0"), openUDP(t, s, "192.0.2.1:99"), openUDP(t, s, "0.0.0.0:98")
	require.NoError(t, connected.Connect(to))
	toAll := openUDP(t, s, "192.0.2.255:97") // bound to a broadcast address: the route determines the source
	rawConnected, rawBound := openRaw(t, s), func() *Raw {
		r, err := s.OpenRaw(Family4, 1, addr("192.0.2.1"))
		require.NoError(t, err)
		t.Cleanup(func() { r.Close() })
		return r
	}()
	require.NoError(t, rawConnected.Connect(to.Addr()))
	require.Equal(t, addr("192.0.2.1"), rawConnected.LocalAddr())

	writes := map[string]func() error{
		"connected UDP":                 func() error { _, err := connected.Write([]byte("x")); return err },
		"bound UDP":                     func() error { _, err := bound.WriteTo([]byte("x"), to, SendOptions{}); return err },
		"bound UDP, to the host itself": func() error { _, err := bound.WriteTo([]byte("x"), addrPort("127.0.0.1:1"), SendOptions{}); return err },
		"bound UDP, broadcast":          func() error { _, err := bound.WriteTo(nil, addrPort("255.255.255.255:1"), SendOptions{}); return err },
		"bound UDP, to a group":         func() error { _, err := bound.WriteTo(nil, addrPort("224.1.2.3:1"), SendOptions{NIC: 3}); return err },
		"bound UDP, batch":              func() error { _, err := bound.WriteBatch([]Datagram{{Addr: to, Buffers: [][]byte{{1}}}}); return err },
		"bound UDP connects":            func() error { return bound.Connect(to) },
		"connected raw":                 func() error { _, err := rawConnected.Write([]byte("x")); return err },
		"bound raw":                     func() error { _, err := rawBound.WriteTo([]byte("x"), to.Addr(), SendOptions{}); return err },
	}
	require.NoError(t, writes["connected UDP"]())
	require.NoError(t, writes["connected raw"]())
	require.NoError(t, writes["bound raw"]())
	take(far)
	require.Equal(t, 2, farRaw.queue.n)
	require.NoError(t, s.RemoveNIC("eth0"))
	add := func(a string) {
		require.NoError(t, s.AddNIC(NIC{Name: "eth1", Device: sw.Port(), Addrs: []netip.Prefix{prefix(a)}}))
	}
	add("192.0.2.77/24")
	for name, write := range writes {
		require.ErrorIs(t, write(), syscall.ENETUNREACH, name)
	}
	require.Empty(t, texts(far), "nothing was sent from another address instead")
	require.Equal(t, 2, farRaw.queue.n)
	require.Equal(t, addr("192.0.2.1"), connected.LocalAddr().Addr(), "the socket's address stays")
	require.Equal(t, addr("192.0.2.1"), rawConnected.LocalAddr())
	_, err := s.OpenUDP(FamilyAny, addrPort("192.0.2.1:0"))
	require.ErrorIs(t, err, syscall.EADDRNOTAVAIL)
	_, err = s.DialTCP(context.Background(), FamilyAny, addrPort("192.0.2.1:0"), to, TCPOptions{})
	require.ErrorIs(t, err, syscall.EADDRNOTAVAIL)
	for _, u := range []*UDP{wild, toAll} {
		say(t, u, to.String(), "x", SendOptions{})
		_, from := readUDP(t, far)
		require.Equal(t, addr("192.0.2.77"), from.Addr())
	}

	// When the address comes back, the sockets work again.
	require.NoError(t, s.RemoveNIC("eth1"))
	add("192.0.2.1/24")
	require.NoError(t, writes["connected UDP"]())
	_, from := readUDP(t, far)
	require.Equal(t, connected.LocalAddr(), from)
	require.NoError(t, writes["connected raw"]())
}

// As on Linux 6.18, a route is deleted with the address that is its source.
func TestARouteGoesWithItsSource(t *testing.T) {
	s, _, _ := twoLinks(t)
	add := func(dst, src string) {
		require.NoError(t, s.AddRoute(Route{Dst: prefix(dst), Via: addr("192.0.2.9"), Src: addr(src)}))
	}
	add("203.0.113.0/24", "198.51.100.1")
	add("203.0.113.0/25", "192.0.2.1")
	require.NoError(t, s.AddRoute(Route{Dst: prefix("203.0.113.0/26"), Via: addr("198.51.100.9")}))
	source := func(dst string) netip.Addr { return s.SourceFor(addr(dst)) }
	require.Equal(t, addr("198.51.100.1"), source("203.0.113.200"))
	require.NoError(t, s.RemoveNIC("eth1"))
	require.Equal(t, addr("192.0.2.1"), source("203.0.113.200"), "by the default route")
	require.Equal(t, addr("192.0.2.1"), source("203.0.113.1"))
	for _, r := range s.Routes() {
		require.False(t, r.Src.IsValid() && !s.IsLocal(r.Src), "%+v", r)
		require.Equal(t, "eth0", r.NIC)
	}
	require.ErrorIs(t, s.DelRoute(Route{Dst: prefix("203.0.113.0/24")}), syscall.ESRCH)
	require.NoError(t, s.DelRoute(Route{Dst: prefix("203.0.113.0/25")}))
}
