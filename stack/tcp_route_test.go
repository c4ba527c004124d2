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

// framesAt returns the number of frames that a host has received on its link.
func framesAt(s *Stack) uint64 { return s.ifaceNamed("eth0").stats.Rx.Frames() }

// pass sends a byte from c to d and reads it.
func pass(t *testing.T, c, d *TCP) {
	t.Helper()
	_, err := c.Write([]byte("x"))
	require.NoError(t, err)
	_, err = d.Read(make([]byte, 1))
	require.NoError(t, err)
}

// As on Linux 6.18, written data waits for a route until the connection times out.
func TestAConnectionWithoutARouteSendsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := twoHosts(t, nic.PipeConfig{})
		far := Route{Dst: prefix("203.0.113.0/24"), Via: addr("192.0.2.2")}
		require.NoError(t, a.AddRoute(far))
		require.NoError(t, b.AddNIC(NIC{Name: "far", Device: nic.NewNull(nic.Link{}), Addrs: []netip.Prefix{prefix("203.0.113.9/24")}}))
		l, err := b.ListenTCP(FamilyAny, addrPort("203.0.113.9:80"), ListenOptions{})
		require.NoError(t, err)
		c, err := a.DialTCP(t.Context(), FamilyAny, netip.AddrPort{}, addrPort("203.0.113.9:80"), TCPOptions{})
		require.NoError(t, err)
		d, err := l.Accept()
		require.NoError(t, err)
		pass(t, c, d)
		time.Sleep(time.Second)

		require.NoError(t, a.DelRoute(far))
		before := framesAt(b)
		_, err = c.Write([]byte("x"))
		require.NoError(t, err)
		time.Sleep(20 * time.Second)
		require.Equal(t, before, framesAt(b))
		require.NoError(t, a.AddRoute(far))
		_, err = d.Read(make([]byte, 1))
		require.NoError(t, err)

		require.NoError(t, a.DelRoute(far))
		before = framesAt(b)
		_, err = c.Write([]byte("x"))
		require.NoError(t, err)
		_, err = c.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ETIMEDOUT)
		require.Equal(t, before, framesAt(b))
	})
}
