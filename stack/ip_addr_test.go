package stack

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// bare makes a host whose link has no address, with a peer at the other end.
func bare(t *testing.T, change ...func(*Config)) (*Stack, *peer) {
	t.Helper()
	s, p := hostAndPeer(t, append(change, func(c *Config) { c.NICs[0].Addrs = nil })...)
	require.Empty(t, p.sent())
	return s, p
}

// requireChanged calls change, and fails unless that closes the channel of Changed.
func requireChanged(t *testing.T, s *Stack, what string, change func()) {
	t.Helper()
	changed := s.Changed()
	select {
	case <-changed:
		require.Fail(t, "nothing has changed yet", what)
	default:
	}
	change()
	select {
	case <-changed:
	default:
		require.Fail(t, "the channel was not closed", what)
	}
}

func TestAddressesOfARunningHostChange(t *testing.T) {
	s, p := bare(t)
	whoHas1 := wire.ARP{Op: wire.ARPRequest, SenderMAC: macB, SenderIP: addr("192.0.2.2"), TargetIP: addr("192.0.2.1")}
	p.arp(wire.Broadcast(), whoHas1)
	require.Empty(t, p.sent())
	require.False(t, s.IsLocal(addr("192.0.2.1")))
	require.False(t, s.SourceFor(addr("192.0.2.2")).IsValid())

	require.NoError(t, s.AddAddr("", prefix("192.0.2.1/24"), AddrOptions{}))
	// RFC 5227 3: "the host ... announces".
	require.Equal(t, []string{"02:00:00:00:00:0a > ff:ff:ff:ff:ff:ff ARP announce 192.0.2.1 is-at 02:00:00:00:00:0a"}, p.sent())
	p.arp(wire.Broadcast(), whoHas1)
	require.Len(t, p.sent(), 1)
	require.True(t, s.IsLocal(addr("192.0.2.1")))
	require.True(t, s.IsBroadcast(addr("192.0.2.255")))
	require.Equal(t, addr("192.0.2.1"), s.SourceFor(addr("192.0.2.2")))
	require.NoError(t, s.AddRoute(Route{Dst: prefix("0.0.0.0/0"), Via: addr("192.0.2.9")}))
	require.Equal(t, addr("192.0.2.9"), s.Interfaces()[1].Gateway)
	require.Equal(t, []Route{
		{Dst: prefix("192.0.2.0/24"), NIC: "eth0", Src: addr("192.0.2.1")},
		{Dst: prefix("0.0.0.0/0"), NIC: "eth0", Via: addr("192.0.2.9")},
	}, s.Routes())

	// Add a second address in the network of the first address.
	require.NoError(t, s.AddAddr("eth0", prefix("192.0.2.7/24"), AddrOptions{}))
	require.Equal(t, addr("192.0.2.1"), s.SourceFor(addr("203.0.113.1")))
	require.NoError(t, s.RemoveAddr("eth0", addr("192.0.2.1")))
	p.sent()
	p.arp(wire.Broadcast(), whoHas1)
	require.Empty(t, p.sent())
	require.Equal(t, addr("192.0.2.7"), s.SourceFor(addr("203.0.113.1")), "the route stays")
	require.NoError(t, s.RemoveAddr("", addr("192.0.2.7")))
	require.Empty(t, s.Routes())
	require.Empty(t, s.Interfaces()[1].Addrs)
	require.False(t, s.IsBroadcast(addr("192.0.2.255")))
}

// As on Linux 6.18 (fib_disable_ip), the routes of a link go with its last address.
func TestRoutesGoWithTheLastAddress(t *testing.T) {
	s, _ := hostAndPeer(t, func(c *Config) {
		c.NICs[0].Gateway = addr("192.0.2.254")
		c.Routes = []Route{{Dst: prefix("198.51.100.0/24"), NIC: "eth0"}}
	})
	require.NoError(t, s.AddAddr("", prefix("10.9.9.9/24"), AddrOptions{}))
	require.NoError(t, s.RemoveAddr("", addr("192.0.2.1")))
	require.Equal(t, []Route{
		{Dst: prefix("10.9.9.0/24"), NIC: "eth0", Src: addr("10.9.9.9")},
		{Dst: prefix("198.51.100.0/24"), NIC: "eth0"},
		{Dst: prefix("0.0.0.0/0"), NIC: "eth0", Via: addr("192.0.2.254")},
	}, s.Routes(), "the other routes stay while the link has an address")
	require.Equal(t, addr("10.9.9.9"), s.SourceFor(addr("203.0.113.1")))
	require.NoError(t, s.RemoveAddr("", addr("10.9.9.9")))
	require.Empty(t, s.Routes())
	require.NoError(t, s.AddAddr("", prefix("192.0.2.1/24"), AddrOptions{}))
	require.Len(t, s.Routes(), 1)
}

func TestTheGatewayOfConfigCanBeReplaced(t *testing.T) {
	s, _ := hostAndPeer(t, func(c *Config) { c.NICs[0].Gateway = addr("192.0.2.254") })
	all := prefix("0.0.0.0/0")
	require.ErrorIs(t, s.DelRoute(Route{Dst: all, Via: addr("192.0.2.9")}), syscall.ESRCH)
	require.ErrorIs(t, s.DelRoute(Route{Dst: all, NIC: "lo"}), syscall.ESRCH)
	require.NoError(t, s.DelRoute(Route{Dst: all}))
	require.False(t, s.Interfaces()[1].Gateway.IsValid())
	require.ErrorIs(t, s.DelRoute(Route{Dst: all}), syscall.ESRCH)
	require.NoError(t, s.AddRoute(Route{Dst: all, Via: addr("192.0.2.9")}))
	require.Equal(t, addr("192.0.2.9"), s.Interfaces()[1].Gateway)
}

// A gateway outside the network of a single address stays on-link when another address is added.
func TestAGatewayOffTheNetworkSurvivesAnAddress(t *testing.T) {
	s, _ := hostAndPeer(t, func(c *Config) {
		c.NICs[0].Addrs, c.NICs[0].Gateway = []netip.Prefix{prefix("203.0.113.7/32")}, addr("169.254.0.1")
	})
	require.NoError(t, s.AddAddr("", prefix("192.0.2.1/24"), AddrOptions{}))
	p, err := s.route(addr("198.51.100.1"), netip.Addr{})
	require.NoError(t, err)
	require.Equal(t, addr("169.254.0.1"), p.hop)
	p, err = s.route(addr("169.254.0.1"), netip.Addr{})
	require.NoError(t, err)
	require.Equal(t, addr("169.254.0.1"), p.hop)
}

func TestAddAddrReturnsErrors(t *testing.T) {
	s, _, _ := twoLinks(t)
	require.NoError(t, s.AddAddr("eth0", prefix("192.0.2.8/24"), AddrOptions{}))
	for _, c := range []struct {
		nic, prefix string
		o           AddrOptions
		want        syscall.Errno
	}{
		{"", "10.0.0.1/8", AddrOptions{}, syscall.ENODEV},
		{"eth7", "10.0.0.1/8", AddrOptions{}, syscall.ENODEV},
		{"lo", "10.0.0.1/8", AddrOptions{}, syscall.EINVAL},
		{"eth0", "10.0.0.0/8", AddrOptions{}, syscall.EINVAL},
		{"eth0", "127.0.0.2/8", AddrOptions{}, syscall.EINVAL},
		{"eth0", "224.0.0.2/8", AddrOptions{}, syscall.EINVAL},
		{"eth0", "::1/128", AddrOptions{}, syscall.EINVAL},
		{"eth0", "192.0.2.8/25", AddrOptions{}, syscall.EEXIST},
		{"eth1", "192.0.2.8/24", AddrOptions{}, syscall.EEXIST},
		{"eth0", "10.0.0.1/8", AddrOptions{Valid: -1}, syscall.EINVAL},
		{"eth0", "10.0.0.1/8", AddrOptions{Valid: 1, Preferred: 2}, syscall.EINVAL},
		{"eth0", "10.0.0.1/8", AddrOptions{Origin: 99}, syscall.EINVAL},
	} {
		routes := s.Routes()
		err := s.AddAddr(c.nic, prefix(c.prefix), c.o)
		require.ErrorIs(t, err, c.want, "%+v", c)
		require.Contains(t, err.Error(), "stack: AddAddr: "+c.prefix)
		require.Equal(t, routes, s.Routes())
	}
	require.ErrorIs(t, s.AddAddr("eth0", netip.Prefix{}, AddrOptions{}), syscall.EINVAL)
	require.ErrorIs(t, s.RemoveAddr("eth7", addr("192.0.2.8")), syscall.ENODEV)
	require.ErrorIs(t, s.RemoveAddr("lo", addr("127.0.0.1")), syscall.EINVAL)
	require.ErrorIs(t, s.RemoveAddr("eth1", addr("192.0.2.8")), syscall.EADDRNOTAVAIL)
	require.ErrorIs(t, s.RemoveAddr("eth1", netip.Addr{}), syscall.EADDRNOTAVAIL)
	s.Close()
	require.Equal(t, net.ErrClosed, s.AddAddr("eth0", prefix("10.0.0.1/8"), AddrOptions{}))
	require.Equal(t, net.ErrClosed, s.RemoveAddr("eth0", addr("192.0.2.8")))
}

// As on Linux 6.18, the error depends on whether data was in flight when the address was removed. Nothing
// is sent from the removed address.
func TestAConnectionEndsWithoutItsAddress(t *testing.T) {
	for _, inFlight := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			a, b := twoHosts(t, nic.PipeConfig{})
			c, d := connect(t, a, b)
			pass(t, c, d)
			time.Sleep(time.Second)
			want := syscall.ETIMEDOUT
			if inFlight {
				want = syscall.ENETUNREACH
				require.NoError(t, b.RemoveAddr("", addr("192.0.2.2")))
				_, err := c.Write([]byte("lost"))
				require.NoError(t, err)
			}
			// This address keeps the route to the peer, so only the removed source ends the connection.
			require.NoError(t, a.AddAddr("", prefix("192.0.2.77/24"), AddrOptions{}))
			require.NoError(t, a.RemoveAddr("", addr("192.0.2.1")))
			before := framesAt(b)
			began := time.Now()
			_, err := c.Write([]byte("x"))
			require.NoError(t, err, "it is only queued")
			_, err = c.Read(make([]byte, 1))
			require.ErrorIs(t, err, want)
			require.Greater(t, time.Since(began), 10*time.Minute)
			require.Equal(t, before, framesAt(b))
			require.NotZero(t, dropped(a, dropNoRoute))
			_, err = c.Write([]byte("x"))
			require.ErrorIs(t, err, syscall.EPIPE)
			require.NoError(t, c.Close())
			require.Equal(t, before, framesAt(b))
		})
	}
}

func TestAConnectionGoesOnWhenItsAddressIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := twoHosts(t, nic.PipeConfig{})
		c, d := connect(t, a, b)
		pass(t, c, d)
		require.NoError(t, a.RemoveAddr("", addr("192.0.2.1")))
		done := make(chan error)
		go func() {
			_, err := c.Write(make([]byte, 200<<10)) // large enough for a zero-copy send
			done <- err
		}()
		time.Sleep(5 * time.Second)
		require.Zero(t, d.conn.Readable())
		require.NoError(t, a.AddAddr("", prefix("192.0.2.1/24"), AddrOptions{}))
		n := 0
		for buf := make([]byte, 4096); n < 200<<10; {
			k, err := d.Read(buf)
			require.NoError(t, err)
			n += k
		}
		require.NoError(t, <-done)
		pass(t, c, d)
	})
}

// As on Linux, if the address of a connection within the host is removed, both ends fail.
func TestAConnectionWithinTheHostEndsToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := twoHosts(t, nic.PipeConfig{})
		l, err := a.ListenTCP(FamilyAny, addrPort("192.0.2.1:80"), ListenOptions{})
		require.NoError(t, err)
		c, err := a.DialTCP(context.Background(), FamilyAny, netip.AddrPort{}, addrPort("192.0.2.1:80"), TCPOptions{})
		require.NoError(t, err)
		d, err := l.Accept()
		require.NoError(t, err)
		pass(t, c, d)
		time.Sleep(time.Second) // the data is acknowledged
		require.NoError(t, a.RemoveAddr("", addr("192.0.2.1")))
		_, err = c.Write([]byte("x"))
		require.NoError(t, err)
		_, err = c.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ETIMEDOUT)
	})
}

// As on Linux 6.18: the error is ENETUNREACH, after all SYNs.
func TestADialWithoutItsAddressIsUnreachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := hostAndPeer(t, func(c *Config) {
			c.Neighbors = []Neighbor{{NIC: "eth0", Addr: addr("192.0.2.2"), MAC: macB}}
		})
		p.sent()
		done := make(chan error)
		go func() {
			_, err := s.DialTCP(t.Context(), FamilyAny, netip.AddrPort{}, addrPort("192.0.2.2:80"), TCPOptions{})
			done <- err
		}()
		synctest.Wait()
		require.Len(t, p.sent(), 1)
		began := time.Now()
		require.NoError(t, s.RemoveAddr("", addr("192.0.2.1")))
		require.ErrorIs(t, <-done, syscall.ENETUNREACH)
		require.Greater(t, time.Since(began), time.Minute)
		require.Empty(t, p.sent())
	})
}

func TestSocketsStayWithoutTheirAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := twoHosts(t, nic.PipeConfig{})
		l, err := a.ListenTCP(FamilyAny, addrPort("192.0.2.1:80"), ListenOptions{})
		require.NoError(t, err)
		u, v := openUDP(t, a, "192.0.2.1:9"), openUDP(t, b, "0.0.0.0:9")
		to := addrPort("192.0.2.2:9")
		require.NoError(t, a.AddAddr("", prefix("192.0.2.77/24"), AddrOptions{}))
		require.NoError(t, a.RemoveAddr("", addr("192.0.2.1")))

		_, err = u.WriteTo([]byte("x"), to, SendOptions{})
		require.ErrorIs(t, err, syscall.ENETUNREACH)
		_, err = a.OpenUDP(FamilyAny, addrPort("192.0.2.1:0"))
		require.ErrorIs(t, err, syscall.EADDRNOTAVAIL)
		_, err = a.ListenTCP(FamilyAny, addrPort("192.0.2.1:81"), ListenOptions{})
		require.ErrorIs(t, err, syscall.EADDRNOTAVAIL)
		require.NoError(t, l.SetDeadline(time.Now().Add(time.Second)))
		_, err = l.Accept()
		require.ErrorContains(t, err, "timeout")

		require.NoError(t, a.AddAddr("", prefix("192.0.2.1/24"), AddrOptions{}))
		_, err = u.WriteTo([]byte("x"), to, SendOptions{})
		require.NoError(t, err)
		_, from := readUDP(t, v)
		require.Equal(t, addrPort("192.0.2.1:9"), from)
		require.NoError(t, l.SetDeadline(time.Time{}))
		_, err = b.DialTCP(t.Context(), FamilyAny, netip.AddrPort{}, addrPort("192.0.2.1:80"), TCPOptions{})
		require.NoError(t, err)
		_, err = l.Accept()
		require.NoError(t, err)
	})
}

// RFC 4862 5.5.4: "When the preferred lifetime expires ... the address becomes deprecated"; "an
// address (and its association with an interface) becomes invalid when its valid lifetime
// expires".
func TestAnAddressIsDeprecatedAndThenGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := bare(t)
		began := time.Now()
		lease := AddrOptions{Valid: time.Hour, Preferred: 30 * time.Minute, Origin: AddrDHCP}
		require.NoError(t, s.AddAddr("", prefix("192.0.2.1/24"), lease))
		require.NoError(t, s.AddAddr("", prefix("192.0.2.3/24"), AddrOptions{Origin: AddrDHCP, Valid: time.Hour + time.Minute}))
		require.NoError(t, s.AddAddr("", prefix("192.0.2.4/24"), AddrOptions{Preferred: -1}))
		require.Equal(t, []AddrInfo{
			{Prefix: prefix("192.0.2.1/24"), Origin: AddrDHCP, ValidUntil: began.Add(time.Hour), PreferredUntil: began.Add(30 * time.Minute)},
			{Prefix: prefix("192.0.2.3/24"), Origin: AddrDHCP, ValidUntil: began.Add(time.Hour + time.Minute)},
			{Prefix: prefix("192.0.2.4/24"), State: AddrDeprecated},
		}, s.Interfaces()[1].AddrInfo)
		source := func() string { return s.SourceFor(addr("192.0.2.9")).String() }
		bound := openUDP(t, s, "192.0.2.1:9")
		require.Equal(t, "192.0.2.1", source())

		changed := s.Changed()
		time.Sleep(30*time.Minute - 1)
		require.Equal(t, "192.0.2.1", source())
		<-changed
		require.Equal(t, 30*time.Minute, time.Since(began))
		require.Equal(t, AddrDeprecated, s.Interfaces()[1].AddrInfo[0].State)
		require.Equal(t, "192.0.2.3", source(), "the next preferred address")
		_, err := bound.WriteTo(nil, addrPort("192.0.2.9:9"), SendOptions{})
		require.NoError(t, err, "a socket bound to the deprecated address still sends")
		require.True(t, s.IsLocal(addr("192.0.2.1")))

		<-s.Changed()
		require.Equal(t, time.Hour, time.Since(began))
		require.False(t, s.IsLocal(addr("192.0.2.1")))
		<-s.Changed()
		require.Equal(t, time.Hour+time.Minute, time.Since(began))
		require.Equal(t, "192.0.2.4", source(), "a deprecated address, because no other is left")
		time.Sleep(1000 * time.Hour)
		require.Equal(t, "192.0.2.4", source())
	})
}

// Code that configures an interface, such as a DHCP client, neither replaces nor removes an address from another
// origin. Only the program does so, with AddrStatic and RemoveAddr.
func TestAnOriginKeepsToItsOwnAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := bare(t)
		origins := []AddrOrigin{AddrStatic, AddrDHCP, AddrLinkLocal, AddrRA, AddrNegotiated}
		for _, first := range origins {
			for _, second := range origins {
				require.NoError(t, s.AddAddr("", prefix("192.0.2.1/24"), AddrOptions{Origin: first}))
				err := s.AddAddr("", prefix("192.0.2.1/24"), AddrOptions{Origin: second})
				err25 := s.AddAddr("", prefix("192.0.2.1/25"), AddrOptions{Origin: second})
				want := AddrInfo{Prefix: prefix("192.0.2.1/25"), Origin: second} // a renewal may change the prefix
				switch {
				case second == AddrStatic:
					require.NoError(t, err)
					require.ErrorIs(t, err25, syscall.EEXIST)
					want.Prefix = prefix("192.0.2.1/24")
				case first != second:
					require.ErrorIs(t, err, syscall.EEXIST)
					require.ErrorIs(t, err25, syscall.EEXIST)
					want = AddrInfo{Prefix: prefix("192.0.2.1/24"), Origin: first}
				}
				require.Equal(t, []AddrInfo{want}, s.Interfaces()[1].AddrInfo, "%v and then %v", first, second)
				for _, o := range origins {
					if o != want.Origin {
						require.ErrorIs(t, s.RemoveAddrOf("", addr("192.0.2.1"), o), syscall.EADDRNOTAVAIL)
					}
				}
				require.NoError(t, s.RemoveAddrOf("", addr("192.0.2.1"), want.Origin))
			}
		}
		require.Empty(t, s.Interfaces()[1].AddrInfo)
	})
}

func TestALeaseIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := bare(t)
		lease := AddrOptions{Valid: time.Hour, Preferred: 45 * time.Minute, Origin: AddrDHCP}
		for range 5 {
			require.NoError(t, s.AddAddr("", prefix("192.0.2.1/24"), lease))
			require.NoError(t, s.AddAddr("", prefix("192.0.2.1/24"), lease))
			time.Sleep(50 * time.Minute)
			require.Equal(t, AddrDeprecated, s.Interfaces()[1].AddrInfo[0].State)
		}
		require.Len(t, p.sent(), 1, "it is announced once")
		require.Len(t, s.Routes(), 1)
		// Set a shorter lifetime, and then an infinite one.
		require.NoError(t, s.AddAddr("", prefix("192.0.2.1/24"), AddrOptions{Valid: time.Minute}))
		time.Sleep(time.Minute - 1)
		require.NoError(t, s.AddAddr("", prefix("192.0.2.1/24"), AddrOptions{Valid: 1<<63 - 1}))
		time.Sleep(100 * 365 * 24 * time.Hour)
		require.Equal(t, []AddrInfo{{Prefix: prefix("192.0.2.1/24")}}, s.Interfaces()[1].AddrInfo)
	})
}

// After Close or RemoveNIC, no timer remains.
func TestLifetimesEndWithTheHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := bare(t)
		require.NoError(t, s.AddAddr("", prefix("192.0.2.1/24"), AddrOptions{Valid: time.Hour}))
		require.NoError(t, s.RemoveNIC("eth0"))
		time.Sleep(2 * time.Hour)
		require.NoError(t, s.AddNIC(NIC{Name: "eth0", Device: nic.NewNull(nic.Link{})}))
		require.NoError(t, s.AddAddr("", prefix("192.0.2.1/24"), AddrOptions{Valid: time.Hour}))
		s.Close()
		time.Sleep(2 * time.Hour)
		require.True(t, s.Interfaces()[1].AddrInfo[0].ValidUntil.Before(time.Now()), "the expired address is still there")
	})
}

// claim returns an ARP reply in which another host uses the address a.
func claim(a string) wire.ARP {
	return wire.ARP{Op: wire.ARPReply, SenderMAC: macB, SenderIP: addr(a), TargetMAC: macA, TargetIP: addr("192.0.2.99")}
}

// RFC 5227 2.4 (b): "if this is not the first conflicting ARP packet the host has seen, and the
// time recorded for the previous conflicting ARP packet is recent, within DEFEND_INTERVAL
// seconds, then the host MUST immediately cease using this address".
func TestASecondConflictTakesALease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		s, p := bare(t, func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
		add := func() {
			require.NoError(t, s.AddAddr("", prefix("192.0.2.1/24"), AddrOptions{Origin: AddrDHCP, Valid: time.Hour}))
		}
		add()
		announcement := p.sent()
		info := func() AddrInfo { return s.Interfaces()[1].AddrInfo[0] }
		for range 3 {
			requireChanged(t, s, "conflict", func() { p.arp(wire.Broadcast(), claim("192.0.2.1")) })
			require.Equal(t, announcement, p.sent(), "the host defends the address")
			require.Equal(t, macB, info().ConflictMAC)
			require.Equal(t, AddrPreferred, info().State)
			time.Sleep(10 * time.Second)
		}
		p.arp(wire.Broadcast(), claim("192.0.2.1"))
		p.sent()
		time.Sleep(10*time.Second - timerSlots)
		requireChanged(t, s, "withdrawal", func() { p.arp(wire.Broadcast(), claim("192.0.2.1")) })
		require.Equal(t, AddrDuplicate, info().State)
		require.Equal(t, macB, info().ConflictMAC)
		require.False(t, s.IsLocal(addr("192.0.2.1")))
		require.Empty(t, s.Interfaces()[1].Addrs)
		require.Empty(t, s.Routes())
		require.Contains(t, log.String(), "given up")
		p.arp(wire.Broadcast(), wire.ARP{Op: wire.ARPRequest, SenderMAC: macB, SenderIP: addr("192.0.2.2"), TargetIP: addr("192.0.2.1")})
		p.arp(wire.Broadcast(), claim("192.0.2.1"))
		require.Empty(t, p.sent(), "the host no longer has the address")
		_, err := s.OpenUDP(FamilyAny, addrPort("192.0.2.1:0"))
		require.ErrorIs(t, err, syscall.EADDRNOTAVAIL)

		// Adding the address again ends its duplicate state.
		add()
		require.Equal(t, announcement, p.sent())
		require.Equal(t, AddrInfo{Prefix: prefix("192.0.2.1/24"), Origin: AddrDHCP, ValidUntil: info().ValidUntil}, info())
		p.arp(wire.Broadcast(), claim("192.0.2.1"))
		require.Equal(t, announcement, p.sent())
		require.Equal(t, AddrPreferred, info().State)
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Empty(t, s.Interfaces()[1].AddrInfo)
	})
}

// A conflict of one address is not counted for other addresses.
func TestEachAddressIsDefendedForItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := hostAndPeer(t)
		require.NoError(t, s.AddAddr("", prefix("192.0.2.3/24"), AddrOptions{Origin: AddrLinkLocal}))
		p.sent()
		p.arp(wire.Broadcast(), claim("192.0.2.1"))
		p.arp(wire.Broadcast(), claim("192.0.2.3"))
		require.Len(t, p.sent(), 2)
		for range 5 {
			p.arp(wire.Broadcast(), claim("192.0.2.1"))
		}
		require.Empty(t, p.sent())
		require.Equal(t, []netip.Prefix{prefix("192.0.2.1/24"), prefix("192.0.2.3/24")}, s.Interfaces()[1].Addrs)
	})
}

func TestAChangeClosesTheChannel(t *testing.T) {
	da, _ := nic.Pipe(nic.PipeConfig{})
	s := newHost(t, da, "192.0.2.1/24")
	route := Route{Dst: prefix("203.0.113.0/24"), Via: addr("192.0.2.9")}
	other := nic.NewNull(nic.Link{})
	for _, c := range []struct {
		name string
		f    func() error
	}{
		{"AddAddr", func() error { return s.AddAddr("", prefix("192.0.2.3/24"), AddrOptions{}) }},
		{"AddAddr again", func() error { return s.AddAddr("", prefix("192.0.2.3/24"), AddrOptions{Valid: time.Hour}) }},
		{"RemoveAddr", func() error { return s.RemoveAddr("", addr("192.0.2.3")) }},
		{"AddRoute", func() error { return s.AddRoute(route) }},
		{"DelRoute", func() error { return s.DelRoute(route) }},
		{"AddNIC", func() error { return s.AddNIC(NIC{Name: "eth1", Device: other}) }},
		{"RemoveNIC", func() error { return s.RemoveNIC("eth1") }},
		{"link fails", func() error { s.ifaceNamed("eth0").failed(syscall.EIO); return nil }},
		{"Close", s.Close},
	} {
		requireChanged(t, s, c.name, func() { require.NoError(t, c.f()) })
	}
	select {
	case <-s.Changed():
		require.Fail(t, "Close is the last change")
	default:
	}
}

// All callers that wait for a change are notified. A caller that does not wait changes nothing.
func TestAllWaitersLearnOfAChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := hostAndPeer(t)
		for range 100 {
			s.Changed() // the caller does not wait
		}
		done := make(chan bool, 10)
		for range cap(done) {
			go func() { <-s.Changed(); done <- true }()
		}
		synctest.Wait()
		require.NoError(t, s.AddAddr("", prefix("192.0.2.3/24"), AddrOptions{}))
		synctest.Wait()
		require.Len(t, done, cap(done))
	})
}
