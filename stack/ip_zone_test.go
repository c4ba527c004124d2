package stack

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
)

// RFC 4007 6: "the same non-global address may be in use in more than one zone of the same scope". Packets to an
// address of the host go over the loopback, and have to keep their zone.
func TestTwoLinksMayHaveTheSameLinkLocalAddress(t *testing.T) {
	const one = "fe80::1"
	cfg := Config{Rand: testRand()}
	for _, name := range []string{"eth0", "eth1"} {
		dev, far := nic.Pipe(nic.PipeConfig{})
		t.Cleanup(func() { far.Close() })
		cfg.NICs = append(cfg.NICs, NIC{Name: name, Device: dev, Addrs: []netip.Prefix{prefix(one + "/64")}, DADTransmits: -1})
	}
	s, err := New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	for _, name := range []string{"eth0", "eth1"} {
		other := map[string]string{"eth0": "eth1", "eth1": "eth0"}[name]
		at := addrPort("[" + one + "%" + name + "]:80")
		l, err := s.ListenTCP(FamilyAny, at, ListenOptions{})
		require.NoError(t, err)
		c, err := s.DialTCP(context.Background(), FamilyAny, netip.AddrPort{}, at, TCPOptions{})
		require.NoError(t, err)
		d, err := l.Accept()
		require.NoError(t, err)
		for _, a := range []netip.AddrPort{c.LocalAddr(), c.RemoteAddr(), d.LocalAddr(), d.RemoteAddr()} {
			require.Equal(t, name, a.Addr().Zone())
		}
		_, err = s.DialTCP(context.Background(), FamilyAny, netip.AddrPort{}, addrPort("["+one+"%"+other+"]:80"), TCPOptions{})
		require.Error(t, err, "nothing listens in the other zone")

		// A large datagram is sent in fragments.
		u, v := openUDP(t, s, "["+one+"%"+name+"]:9"), openUDP(t, s, "["+one+"%"+other+"]:9")
		w := openUDP(t, s, "[::]:0")
		for _, n := range []int{1, 65500} {
			_, err = w.WriteTo(make([]byte, n), addrPort("["+one+"%"+name+"]:9"), SendOptions{})
			require.NoError(t, err)
			require.NoError(t, u.SetReadDeadline(time.Now().Add(time.Minute)))
			got, _, from, _, err := u.ReadFrom(make([]byte, 65536))
			require.NoError(t, err)
			require.Equal(t, n, got)
			require.Equal(t, name, from.Addr().Zone())
		}
		require.NoError(t, v.SetReadDeadline(time.Now()))
		_, _, _, _, err = v.ReadFrom(nil)
		require.ErrorContains(t, err, "timeout")

		// An error about a datagram quotes it.
		require.NoError(t, u.Close())
		require.NoError(t, w.Connect(addrPort("["+one+"%"+name+"]:9")))
		_, err = w.Write(nil)
		require.NoError(t, err)
		require.NoError(t, w.SetReadDeadline(time.Now().Add(time.Minute)))
		_, err = w.Read(make([]byte, 1))
		require.ErrorContains(t, err, "refused")
		require.NoError(t, v.Close())
		require.NoError(t, w.Close())
		require.NoError(t, l.Close())
	}
}
