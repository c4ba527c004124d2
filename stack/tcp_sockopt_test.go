package stack

import (
	"math"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/tcp"
)

func TestInfiniteTimeoutsDoNotExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var wire *nic.Impaired
		a, b := wiredPair(t, func(d nic.Device) nic.Device {
			wire = nic.Impair(d, nic.ImpairConfig{})
			return wire
		})
		l, err := b.ListenTCP(FamilyAny, addrPort("0.0.0.0:80"), ListenOptions{})
		require.NoError(t, err)
		o := TCPOptions{KeepAlive: true, Idle: math.MaxInt64, Interval: math.MaxInt64, Count: 1}
		c, err := a.DialTCP(t.Context(), FamilyAny, netip.AddrPort{}, netip.AddrPortFrom(addrB, 80), o)
		require.NoError(t, err)
		d, err := l.Accept()
		require.NoError(t, err)
		require.NoError(t, d.SetKeepAlive(true))
		require.NoError(t, d.SetKeepAliveConfig(math.MaxInt64, math.MaxInt64, 1))
		sent := a.Stats().TCP.Sent
		time.Sleep(1000 * time.Hour)
		require.Equal(t, sent, a.Stats().TCP.Sent)
		// With an infinite user timeout, retransmission continues although the peer does not answer.
		require.NoError(t, c.SetUserTimeout(math.MaxInt64))
		wire.SetOut(nic.Impairment{Loss: 1})
		_, err = c.Write([]byte("x"))
		require.NoError(t, err)
		time.Sleep(time.Minute)
		require.Equal(t, tcp.Established, c.Info().State)
		require.Greater(t, c.Info().Retrans, 4)
		wire.SetOut(nic.Impairment{})
		time.Sleep(2 * time.Minute)
		require.Zero(t, c.Info().Unacked)
	})
}
