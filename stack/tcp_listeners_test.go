package stack

import (
	"fmt"
	"net/netip"
	"runtime"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
)

func listenAt(t testing.TB, s *Stack, local netip.AddrPort) *TCPListener {
	l, err := s.ListenTCP(FamilyAny, local, ListenOptions{})
	require.NoError(t, err)
	return l
}

func TestAllPortsCanBeListenedOn(t *testing.T) {
	s := newHost(t, nic.NewNull(nic.Link{}), "192.0.2.1/24")
	var all []*TCPListener
	for port := 1; port <= 65535; port++ {
		all = append(all, listenAt(t, s, netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(port))))
	}
	for _, l := range all {
		require.Same(t, l, s.tcp.listeners.find(netip.AddrPortFrom(addrA, l.LocalAddr().Port()), 0))
	}
	for _, port := range []uint16{0, 80} {
		_, err := s.ListenTCP(FamilyAny, netip.AddrPortFrom(addrA, port), ListenOptions{})
		require.ErrorIs(t, err, syscall.EADDRINUSE)
	}
	for _, l := range all {
		require.NoError(t, l.Close())
	}
	require.Empty(t, s.tcp.listeners.all())
}

func TestListenCostsTheSameBesideOthers(t *testing.T) {
	s := newHost(t, nic.NewNull(nic.Link{}), "192.0.2.1/24")
	// cost returns the number of bytes that Listen and Close allocate.
	cost := func() uint64 {
		const n = 100
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range n {
			require.NoError(t, listenAt(t, s, addrPort("192.0.2.1:80")).Close())
		}
		runtime.ReadMemStats(&after)
		return (after.TotalAlloc - before.TotalAlloc) / n
	}
	listenAt(t, s, addrPort("127.0.0.1:81"))
	alone := cost()
	for i := range 5000 { // many addresses of one port, and many ports
		a := netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(i)})
		listenAt(t, s, netip.AddrPortFrom(a, 80))
		listenAt(t, s, netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(1000+i)))
	}
	require.LessOrEqual(t, cost(), 2*alone)
}

// Listeners with the same link-local address and port are ordered by the index of their interface.
func TestListenersAreOrderedByTheirZonesToo(t *testing.T) {
	var tl tcpListeners
	const zones = 20
	for zone := zones; zone > 0; zone-- {
		tl.add(&TCPListener{local: addrPort("[fe80::1]:80"), at: bound{addr: addr("fe80::1"), zone: zone}})
	}
	for i, l := range tl.all() {
		require.Equal(t, i+1, l.at.zone)
	}
	require.Len(t, tl.all(), zones)
}

func TestAListenerIsFoundByItsAddressFirst(t *testing.T) {
	s := newHost(t, nic.NewNull(nic.Link{}), "192.0.2.1/24")
	find := func(a string) *TCPListener { return s.tcp.listeners.find(addrPort(a), 0) }
	one, two := listenAt(t, s, addrPort("192.0.2.1:80")), listenAt(t, s, addrPort("127.0.0.1:80"))
	require.Same(t, one, find("192.0.2.1:80"))
	require.Same(t, two, find("127.0.0.1:80"))
	require.Nil(t, find("127.0.0.2:80"))
	require.Nil(t, find("192.0.2.1:96"), "another port of the same shard")
	for _, taken := range []string{"0.0.0.0:80", "192.0.2.1:80"} {
		_, err := s.ListenTCP(FamilyAny, addrPort(taken), ListenOptions{})
		require.ErrorIs(t, err, syscall.EADDRINUSE)
	}
	require.NoError(t, one.Close())
	require.Nil(t, find("192.0.2.1:80"))
	_, err := s.ListenTCP(FamilyAny, addrPort("0.0.0.0:80"), ListenOptions{})
	require.ErrorIs(t, err, syscall.EADDRINUSE)
	require.NoError(t, two.Close())
	all := listenAt(t, s, addrPort("0.0.0.0:80"))
	require.Same(t, all, find("192.0.2.1:80"))
	_, err = s.ListenTCP(FamilyAny, addrPort("127.0.0.1:80"), ListenOptions{})
	require.ErrorIs(t, err, syscall.EADDRINUSE)
}

// BenchmarkListen shows that the time of Listen and Close does not depend on the number of listeners.
func BenchmarkListen(b *testing.B) {
	for _, n := range []int{0, 1000, 30_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := newHost(b, nic.NewNull(nic.Link{}), "192.0.2.1/24")
			for i := range n {
				listenAt(b, s, netip.AddrPortFrom(addrA, uint16(1000+i)))
			}
			for b.Loop() {
				listenAt(b, s, addrPort("192.0.2.1:80")).Close()
			}
		})
	}
}
