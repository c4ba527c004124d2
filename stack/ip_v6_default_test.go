package stack

import (
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

// This file tests the IPv6 of a host that has no IPv6 address in its configuration.

// onlyFour is the configuration of a host with an IPv4 address.
func onlyFour(dev nic.Device, address string) Config {
	return Config{Rand: testRand(), NICs: []NIC{{Name: "eth0", Device: dev, Addrs: []netip.Prefix{prefix(address)}}}}
}

// RFC 4291 2.1: "All interfaces are required to have at least one Link-Local unicast address"; 2.8: a host is
// required to recognize "its required Link-Local address for each interface" and "the loopback address".
func TestAHostHasIPv6WithoutBeingAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		da, db := nic.Pipe(nic.PipeConfig{MACs: [2][6]byte{macA, macB}})
		began := time.Now()
		a, err := New(onlyFour(da, "192.0.2.1/24"))
		require.NoError(t, err)
		defer a.Close()
		b, err := New(onlyFour(db, "192.0.2.2/24"))
		require.NoError(t, err)
		defer b.Close()
		require.Zero(t, time.Since(began), "New does not wait for duplicate detection")
		require.True(t, a.HasIPv6())
		infos := a.Interfaces()
		require.Equal(t, []netip.Prefix{prefix("127.0.0.1/8"), prefix("::1/128")}, infos[0].Addrs)
		require.Equal(t, []netip.Prefix{prefix("192.0.2.1/24"), prefix("fe80::ff:fe00:a/64")}, infos[1].Addrs)

		l, err := b.ListenTCP(FamilyAny, addrPort("[::]:80"), ListenOptions{})
		require.NoError(t, err)
		for _, to := range []string{"[fe80::ff:fe00:b%eth0]:80", "192.0.2.2:80"} {
			c, err := a.DialTCP(t.Context(), FamilyAny, netip.AddrPort{}, addrPort(to), TCPOptions{})
			require.NoError(t, err)
			d, err := l.Accept()
			require.NoError(t, err)
			c.Close()
			d.Close()
		}
		require.Zero(t, time.Since(began), "an optimistic address is used at once")
		_, err = a.route(addr("2001:db8::1"), netip.Addr{})
		require.ErrorIs(t, err, syscall.ENETUNREACH)
	})
}

func TestNoIPv6LeavesNothingOfIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		da, db := nic.Pipe(nic.PipeConfig{MACs: [2][6]byte{macA, macB}, NoTxChecksum: true})
		p := &peer{t: t, dev: db}
		db.Attach(func(batch []nic.Frame) {
			for i := range batch {
				p.frames = append(p.frames, batch[i].AppendTo(nil))
			}
		})
		cfg := onlyFour(da, "192.0.2.1/24")
		cfg.NoIPv6 = true
		s, err := New(cfg)
		require.NoError(t, err)
		defer s.Close()
		require.False(t, s.HasIPv6())
		require.Equal(t, []netip.Prefix{prefix("127.0.0.1/8")}, s.Interfaces()[0].Addrs)
		require.Equal(t, []netip.Prefix{prefix("192.0.2.1/24")}, s.Interfaces()[1].Addrs)
		require.Equal(t, []netip.Addr{addr("224.0.0.1")}, s.Interfaces()[1].Groups)
		require.Len(t, s.Routes(), 1)
		time.Sleep(time.Minute)
		require.NotContains(t, strings.Join(p.sent(), " "), "IPv6")

		for _, a := range []string{"fe80::1/64", "2001:db8::1/64"} {
			err := s.AddAddr("eth0", prefix(a), AddrOptions{})
			require.ErrorIs(t, err, syscall.EAFNOSUPPORT)
			require.ErrorContains(t, err, "NoIPv6")
		}
		_, err = s.route(addr("::1"), netip.Addr{})
		require.ErrorIs(t, err, syscall.ENETUNREACH)
		require.False(t, s.IsLocal(addr("::1")))
		require.Error(t, s.Advertise("eth0", &RouterConfig{}))

		before := s.Stats().IP.Received
		b := make([]byte, wire.EthernetLen)
		eth := wire.Ethernet{Dst: macA, Src: macB, Type: wire.EtherTypeIPv6}
		eth.Put(b)
		p.send(append(b, ip6Packet(wire.IPv6{Next: wire.ProtoNone, Dst: addr("fe80::ff:fe00:a")}, nil)...))
		require.Equal(t, 1, dropped(s, dropEtherType))
		require.Equal(t, before, s.Stats().IP.Received)
	})
	for _, n := range []NIC{{Addrs: []netip.Prefix{prefix("2001:db8::1/64")}}, {Auto: true}} {
		n.Device, _ = nic.Pipe(nic.PipeConfig{})
		_, err := New(Config{NoIPv6: true, NICs: []NIC{n}})
		require.ErrorIs(t, err, syscall.EAFNOSUPPORT)
	}
}

// RFC 8200 5: "IPv6 requires that every link in the Internet have an MTU of 1280 octets or greater."
func TestALinkGetsIPv6WithItsMTU(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, _ := nic.Pipe(nic.PipeConfig{MTU: 1279, MACs: [2][6]byte{macA, macB}})
		dev := newChangeable(x)
		s, err := New(onlyFour(dev, "192.0.2.1/24"))
		require.NoError(t, err)
		defer s.Close()
		require.Len(t, s.Interfaces()[1].Addrs, 1)
		dev.Change(func(l *nic.Link) { l.MTU = 1280 })
		require.Equal(t, []netip.Prefix{prefix("192.0.2.1/24"), prefix("fe80::ff:fe00:a/64")}, s.Interfaces()[1].Addrs)
	})
}

// If a link is down at first, its addresses are probed when it comes up, and not before.
func TestALinkThatIsDownIsNotProbed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, _ := nic.Pipe(nic.PipeConfig{MACs: [2][6]byte{macA, macB}})
		dev := newChangeable(x)
		dev.Plug(false)
		s, err := New(onlyFour(dev, "192.0.2.1/24"))
		require.NoError(t, err)
		defer s.Close()
		time.Sleep(time.Minute)
		require.Empty(t, dev.sent())
		dev.Plug(true)
		require.Contains(t, strings.Join(dev.sent(), " "), "neighbor solicitation who-has fe80::ff:fe00:a")
		time.Sleep(time.Minute)
		require.Equal(t, AddrPreferred, s.Interfaces()[1].AddrInfo[1].State)
	})
}
