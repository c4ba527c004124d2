package usernet_test

import (
	"io"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/dhcp"
	"github.com/usernet/usernet/internal/nictest"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack"
)

// Two hosts find no DHCP server and talk by link-local addresses. Then there is a server.
func TestHostsTalkWithoutADHCPServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := nic.NewSwitch(nic.SwitchConfig{})
		fallback := func(c *usernet.Config) { c.LinkLocal = true }
		a, b := newDHCPHost(t, sw.Port(), fallback), newDHCPHost(t, sw.Port(), fallback)
		defer a.Close()
		defer b.Close()
		time.Sleep(10 * time.Second)
		require.False(t, linkLocal4(a).IsValid(), "a DHCP server may still answer")
		time.Sleep(20 * time.Second)
		require.True(t, linkLocal4(a).IsValid() && linkLocal4(b).IsValid())
		require.NotEqual(t, linkLocal4(a), linkLocal4(b))
		info := a.Interfaces()[1]
		require.Equal(t, netip.PrefixFrom(linkLocal4(a), 16), info.AddrInfo[0].Prefix)
		require.Equal(t, stack.AddrLinkLocal, info.AddrInfo[0].Origin)
		require.False(t, info.Gateway.IsValid())
		_, err := a.Dial("tcp", "203.0.113.1:80")
		require.ErrorIs(t, err, syscall.ENETUNREACH, "there is no router")
		ln, err := b.Listen("tcp", ":80")
		require.NoError(t, err)
		c, err := a.Dial("tcp", net.JoinHostPort(linkLocal4(b).String(), "80"))
		require.NoError(t, err)
		far, err := ln.Accept()
		require.NoError(t, err)

		server := host(sw.Port(), "192.0.2.1/24")
		defer server.Close()
		d := serve(t, server, pool("192.0.2.7", "192.0.2.9"))
		waitOnline(t, a)
		synctest.Wait()
		state := a.Interfaces()[1].AddrInfo
		require.Equal(t, stack.AddrDeprecated, state[0].State, "RFC 3927 1.9: new communication uses the other address")
		_, err = c.Write([]byte("x"))
		require.NoError(t, err)
		_, err = io.ReadFull(far, make([]byte, 1))
		require.NoError(t, err, "a connection goes on for a while")
		waitOnline(t, b)
		x, err := a.Dial("tcp", net.JoinHostPort(addrIn(b, "192.0.2.0/24").String(), "80"))
		require.NoError(t, err)
		require.Equal(t, addrIn(a, "192.0.2.0/24").String(), x.LocalAddr().(*net.TCPAddr).IP.String())
		time.Sleep(2 * time.Minute)
		require.False(t, linkLocal4(a).IsValid())
		require.True(t, slices.ContainsFunc(a.Routes(), func(r stack.Route) bool { return r.Dst == netip.MustParsePrefix("169.254.0.0/16") }),
			"RFC 3927 2.6.2: hosts with link-local addresses are on the link")

		// The server disappears, and the leases end.
		require.NoError(t, d.Close())
		time.Sleep(2 * time.Hour)
		require.Len(t, a.Addrs(), 1)
		require.True(t, linkLocal4(a).IsValid())
	})
}

// firstChoice returns the link-local address that a host with a MAC tries first.
func firstChoice(mac [6]byte) netip.Addr {
	l := dhcp.NewLinkLocal4(mac)
	l.Start()
	e, _ := l.NextEvent()
	return e.Addr.Addr()
}

// A host that has only a link-local address does not take an address that is in use, and gives up its own at the
// second conflict within ten seconds (RFC 3927 2.5).
func TestALinkLocalAddressAvoidsConflicts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := nic.NewSwitch(nic.SwitchConfig{})
		dev := nictest.NewChangeable(sw.Port())
		first := firstChoice(dev.Link().MAC)
		other := host(sw.Port(), first.String()+"/16")
		defer other.Close()
		h, err := usernet.New(usernet.Config{NIC: dev, NoIPv6: true, LinkLocal: true})
		require.NoError(t, err)
		defer h.Close()
		time.Sleep(20 * time.Second)
		second := linkLocal4(h)
		require.True(t, second.IsValid())
		require.NotEqual(t, first, second)
		require.Empty(t, h.DHCP(), "it is no DHCP client")
		_, err = h.Ping(t.Context(), first.String(), usernet.PingConfig{})
		require.NoError(t, err)

		thief := host(sw.Port(), second.String()+"/16")
		defer thief.Close()
		time.Sleep(20 * time.Second) // the thief answers our defence, and does not give up
		third := linkLocal4(h)
		require.True(t, third.IsValid())
		require.NotEqual(t, second, third)
		require.Len(t, h.Addrs(), 1)

		// RFC 3927 2.3: when the link comes up again, the address is probed again.
		dev.Plug(false)
		time.Sleep(time.Second)
		require.False(t, linkLocal4(h).IsValid())
		dev.Plug(true)
		time.Sleep(3 * time.Second)
		require.False(t, linkLocal4(h).IsValid())
		time.Sleep(10 * time.Second)
		require.Equal(t, third, linkLocal4(h))
		// A new MAC makes the host begin anew.
		dev.Change(func(l *nic.Link) { l.MAC[5]++ })
		time.Sleep(15 * time.Second)
		require.True(t, linkLocal4(h).IsValid())
		require.NoError(t, h.StopLinkLocal(""))
		require.Empty(t, h.Addrs())
	})
}

// The program makes the link-local address static. The address stays when StopLinkLocal is called.
func TestALinkLocalAddressBecomesStatic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dev, _ := nic.Pipe(nic.PipeConfig{})
		h, err := usernet.New(usernet.Config{NIC: dev, NoIPv6: true, LinkLocal: true})
		require.NoError(t, err)
		defer h.Close()
		time.Sleep(20 * time.Second)
		a := h.Addrs()[0]
		require.True(t, linkLocal4(h).IsValid())
		require.NoError(t, h.AddAddr("", a, stack.AddrOptions{}))
		time.Sleep(time.Minute)
		require.NoError(t, h.StopLinkLocal(""))
		require.Equal(t, []stack.AddrInfo{{Prefix: a}}, h.Interfaces()[1].AddrInfo)
	})
}

func TestErrorsOfLinkLocal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan, _ := nic.Pipe(nic.PipeConfig{})
		tun, _ := nic.Pipe(nic.PipeConfig{Medium: nic.IP})
		h, err := usernet.New(usernet.Config{NoIPv6: true, NICs: []stack.NIC{{Name: "lan", Device: lan}, {Name: "tun", Device: tun}}})
		require.NoError(t, err)
		require.EqualError(t, h.StartLinkLocal("tun"), "usernet: StartLinkLocal: tun is not an Ethernet, so that it has no MAC to ask with: invalid argument")
		require.ErrorIs(t, h.StartLinkLocal(""), syscall.ENODEV)
		require.ErrorIs(t, h.StopLinkLocal("lan"), syscall.ESRCH)
		require.NoError(t, h.StartLinkLocal("lan"))
		require.ErrorIs(t, h.StartLinkLocal("lan"), syscall.EEXIST)
		require.ErrorIs(t, h.StartDHCP("lan", usernet.DHCPConfig{}), syscall.EEXIST)
		require.ErrorIs(t, h.StopDHCP("lan"), syscall.ESRCH)
		pc, err := h.ListenPacket("udp4", ":68")
		require.NoError(t, err, "it needs no port")
		require.NoError(t, pc.Close())
		require.NoError(t, h.StopLinkLocal("lan"))
		require.NoError(t, h.StartDHCP("lan", usernet.DHCPConfig{}))
		require.ErrorIs(t, h.StopLinkLocal("lan"), syscall.ESRCH)
		require.NoError(t, h.Close())
		require.ErrorIs(t, h.StartLinkLocal("lan"), net.ErrClosed)
		_, err = usernet.New(usernet.Config{NIC: tun, LinkLocal: true})
		require.ErrorIs(t, err, syscall.EINVAL)
	})
}
