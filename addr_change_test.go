package usernet_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack"
)

// The program is the DHCP client of one of two links. Its lease is renewed once and then expires.
// RFC 2131 4.1: "DHCP messages broadcast by a client prior to that client obtaining its IP
// address must have the source address field in the IP header set to 0."
func TestDHCPConfiguresOneOfTwoLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan, _ := nic.Pipe(nic.PipeConfig{})
		wan, far := nic.Pipe(nic.PipeConfig{})
		server := host(far, "192.0.2.1/24")
		defer server.Close()
		client, err := usernet.New(usernet.Config{NoIPv6: true, NICs: []stack.NIC{
			{Name: "lan", Device: lan, Addrs: []netip.Prefix{netip.MustParsePrefix("198.51.100.1/24")}},
			{Name: "wan", Device: wan},
		}})
		require.NoError(t, err)
		defer client.Close()
		serveDHCP(server, netip.MustParseAddr("192.0.2.7"), time.Hour)
		conn, err := client.ListenPacket("udp4", "0.0.0.0:68")
		require.NoError(t, err)
		defer conn.Close()
		watched, err := server.ListenPacket("ip4:udp", "0.0.0.0")
		require.NoError(t, err)
		defer watched.Close()
		link := client.Interfaces()[2]
		require.Equal(t, "wan", link.Name)
		sentOnLAN := func() uint64 { return client.Stats().NICs[1].TxFrames } // NICs[0] is the loopback
		before := sentOnLAN()

		offer := askDHCP(conn, link, dhcpMessage{kind: dhcpDiscover})
		require.EqualValues(t, dhcpOffer, offer.kind)
		lease := askDHCP(conn, link, dhcpMessage{kind: dhcpRequest, addr: offer.addr})
		require.EqualValues(t, dhcpAck, lease.kind)
		// The server's raw socket receives the two requests, and also the server's own two answers,
		// because these are broadcasts.
		for range 2 {
			for _, want := range []string{"0.0.0.0", "192.0.2.1"} {
				_, from, err := watched.ReadFrom(make([]byte, 1500))
				require.NoError(t, err)
				require.Equal(t, want, from.String())
			}
		}
		require.Equal(t, before, sentOnLAN(), "nothing is sent on the other link")

		all := netip.MustParsePrefix("0.0.0.0/0")
		assigned := netip.PrefixFrom(lease.addr, lease.bits)
		options := stack.AddrOptions{Valid: lease.time, Origin: stack.AddrDHCP}
		require.NoError(t, client.AddAddr("wan", assigned, options))
		require.NoError(t, client.AddRoute(stack.Route{Dst: all, Via: lease.router}))
		require.Equal(t, lease.router, client.Interfaces()[2].Gateway)
		ln, err := server.Listen("tcp", ":80")
		require.NoError(t, err)
		c, err := client.Dial("tcp", "192.0.2.1:80")
		require.NoError(t, err)
		require.Equal(t, "192.0.2.7", c.LocalAddr().(*net.TCPAddr).IP.String())
		d, err := ln.Accept()
		require.NoError(t, err)

		// The client renews the lease at half of its time. A connection does not notice.
		time.Sleep(lease.time / 2)
		renewed := askDHCP(conn, link, dhcpMessage{kind: dhcpRequest, addr: lease.addr})
		require.EqualValues(t, dhcpAck, renewed.kind)
		require.NoError(t, client.AddAddr("wan", assigned, options))
		time.Sleep(lease.time * 3 / 4)
		_, err = c.Write([]byte("x"))
		require.NoError(t, err)
		_, err = d.Read(make([]byte, 1))
		require.NoError(t, err)

		// The client does not renew the lease again. It expires lease.time after the renewal, of which
		// three quarters have passed.
		changed := client.Changed()
		start := time.Now()
		<-changed
		require.Equal(t, lease.time/4, time.Since(start))
		require.Equal(t, []netip.Prefix{netip.MustParsePrefix("198.51.100.1/24")}, client.Addrs())
		require.Len(t, client.Routes(), 1, "the default route has gone with the address")
		_, err = client.Dial("tcp", "192.0.2.1:80")
		require.EqualError(t, err, "dial tcp 192.0.2.1:80: connect: network is unreachable")
		d.Close()
	})
}

// The errors equal net's on Linux 6.18.
func TestErrorsOfAnAddressThatHasGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wireA, wireB := nic.Pipe(nic.PipeConfig{})
		client, server := host(wireA, "192.0.2.1/24"), host(wireB, "192.0.2.2/24")
		defer client.Close()
		defer server.Close()
		ln, err := server.Listen("tcp", ":80")
		require.NoError(t, err)
		c, err := client.Dial("tcp", "192.0.2.2:80")
		require.NoError(t, err)
		_, err = ln.Accept()
		require.NoError(t, err)
		u, err := client.Dial("udp", "192.0.2.2:9")
		require.NoError(t, err)
		bound, err := client.ListenPacket("udp", "192.0.2.1:99")
		require.NoError(t, err)
		time.Sleep(time.Second)
		link := client.Interfaces()[1].Name
		require.NoError(t, client.RemoveAddr(link, netip.MustParseAddr("192.0.2.1")))

		requireError := func(err error, text string, errno syscall.Errno) {
			t.Helper()
			var op *net.OpError
			require.True(t, errors.As(err, &op))
			require.Equal(t, op, err)
			require.IsType(t, &os.SyscallError{}, op.Err)
			require.EqualError(t, err, text)
			require.ErrorIs(t, err, errno)
		}
		// Write queues the data. It is never acknowledged, so the connection times out.
		_, err = c.Write([]byte("x"))
		require.NoError(t, err)
		_, err = c.Read(make([]byte, 1))
		requireError(err, "read tcp "+c.LocalAddr().String()+"->192.0.2.2:80: read: connection timed out", syscall.ETIMEDOUT)
		_, err = u.Write([]byte("x"))
		requireError(err, "write udp "+u.LocalAddr().String()+"->192.0.2.2:9: write: network is unreachable", syscall.ENETUNREACH)
		_, err = bound.WriteTo([]byte("x"), &net.UDPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 9})
		requireError(err, "write udp 192.0.2.1:99->192.0.2.2:9: sendto: network is unreachable", syscall.ENETUNREACH)
		_, err = client.Listen("tcp", "192.0.2.1:80")
		requireError(err, "listen tcp 192.0.2.1:80: bind: cannot assign requested address", syscall.EADDRNOTAVAIL)
		d := usernet.Dialer{Host: client, LocalAddr: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)}}
		_, err = d.Dial("tcp", "192.0.2.2:80")
		requireError(err, "dial tcp 192.0.2.1:0->192.0.2.2:80: bind: cannot assign requested address", syscall.EADDRNOTAVAIL)
	})
}
