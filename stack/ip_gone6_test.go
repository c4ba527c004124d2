package stack

import (
	"net/netip"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
)

// sixOn makes a host with one IPv6 address on a device, and waits until duplicate address detection has
// ended.
func sixOn(t *testing.T, dev nic.Device, a string, routes ...Route) *Stack {
	t.Helper()
	s, err := New(Config{Rand: testRand(), Routes: routes, NICs: []NIC{{Name: "eth0", Device: dev, Addrs: []netip.Prefix{prefix(a)}}}})
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	time.Sleep(3 * time.Second)
	return s
}

// As with IPv4 (TestAnAddressGoesWithItsLink), there is no route from an address that the host no longer
// has.
func TestAnIPv6AddressGoesWithItsLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := nic.NewSwitch(nic.SwitchConfig{})
		s, o := sixOn(t, sw.Port(), "2001:db8::1/64"), sixOn(t, sw.Port(), "2001:db8::2/64")
		to := addrPort("[2001:db8::2]:9")
		far := openUDP(t, o, "[::]:9")
		soon(t, far)
		connected, bound, wild := openUDP(t, s, "[::]:0"), openUDP(t, s, "[2001:db8::1]:99"), openUDP(t, s, "[::]:98")
		require.NoError(t, connected.Connect(to))
		say(t, wild, to.String(), "x", SendOptions{})
		readUDP(t, far)
		require.NoError(t, s.RemoveNIC("eth0"))
		require.NoError(t, s.AddNIC(NIC{Name: "eth1", Device: sw.Port(), Addrs: []netip.Prefix{prefix("2001:db8::77/64")}}))
		time.Sleep(3 * time.Second)
		_, err := connected.Write([]byte("x"))
		require.ErrorIs(t, err, syscall.ENETUNREACH)
		for _, to := range []string{"[2001:db8::2]:9", "[::1]:1"} {
			_, err = bound.WriteTo([]byte("x"), addrPort(to), SendOptions{})
			require.ErrorIs(t, err, syscall.ENETUNREACH, to)
		}
		_, err = s.DialTCP(t.Context(), FamilyAny, addrPort("[2001:db8::1]:0"), to, TCPOptions{})
		require.ErrorIs(t, err, syscall.EADDRNOTAVAIL)
		say(t, wild, to.String(), "x", SendOptions{})
		_, from := readUDP(t, far)
		require.Equal(t, addrPort("[2001:db8::77]:98"), from)
	})
}

// As with IPv4 (TestAConnectionEndsWithoutItsAddress), the error depends on whether data was in flight.
func TestAnIPv6ConnectionEndsWithoutItsAddress(t *testing.T) {
	for _, inFlight := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			sw := nic.NewSwitch(nic.SwitchConfig{})
			a, b := sixOn(t, sw.Port(), "2001:db8::1/64"), sixOn(t, sw.Port(), "2001:db8::2/64")
			l := listenAt(t, b, addrPort("[::]:80"))
			c, err := a.DialTCP(t.Context(), FamilyAny, netip.AddrPort{}, addrPort("[2001:db8::2]:80"), TCPOptions{})
			require.NoError(t, err)
			_, err = l.Accept()
			require.NoError(t, err)
			time.Sleep(time.Second)
			want := syscall.ETIMEDOUT
			if inFlight {
				want = syscall.ENETUNREACH
				require.NoError(t, b.RemoveAddr("", addr("2001:db8::2")))
				_, err := c.Write([]byte("lost"))
				require.NoError(t, err)
			}
			require.NoError(t, a.AddAddr("", prefix("2001:db8::77/64"), AddrOptions{}))
			require.NoError(t, a.RemoveAddr("", addr("2001:db8::1")))
			_, err = c.Write([]byte("x"))
			require.NoError(t, err)
			_, err = c.Read(make([]byte, 1))
			require.ErrorIs(t, err, want)
		})
	}
}

// The same as for IPv4 (TestAnotherRouterReplacesADeadOne). RFC 4861 6.3.6: "Routers that are reachable or
// probably reachable [...] SHOULD be preferred over routers whose reachability is unknown or suspect".
func TestAnotherIPv6RouterStandsInForADeadOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := nic.NewSwitch(nic.SwitchConfig{})
		first, second := addr("2001:db8::fe"), addr("2001:db8::fd")
		r := sixOn(t, sw.Port(), "2001:db8::fe/64")
		sixOn(t, sw.Port(), "2001:db8::fd/64")
		s := sixOn(t, sw.Port(), "2001:db8::1/64", Route{Dst: prefix("::/0"), Via: first}, Route{Dst: prefix("::/0"), Via: second})
		u := openUDP(t, s, "[::]:9")
		hopAfter := func(seconds int) netip.Addr {
			for range seconds {
				say(t, u, "[2001:db8:9::9]:9", "x", SendOptions{})
				time.Sleep(time.Second)
			}
			p, err := s.route(addr("2001:db8:9::9"), netip.Addr{})
			require.NoError(t, err)
			return p.hop
		}
		require.Equal(t, first, hopAfter(60))
		require.NoError(t, r.RemoveNIC("eth0"))
		require.Equal(t, second, hopAfter(40), "RFC 4861 10: 30 s reachable, 5 s of delay, 3 probes")
	})
}
