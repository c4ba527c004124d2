//go:build !race && !lockorder

// These tests do not run with the race detector, because it makes sync.Pool drop items at random.

package stack

import (
	"io"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSegmentsOfAConnectionAllocateNothing(t *testing.T) {
	a, b := wiredPair(t, nil)
	c, d := connect(t, a, b)
	buf := make([]byte, 100_000)
	roundTrip := func() {
		c.Write(buf[:1])
		d.Read(buf)
		d.Write(buf[:1])
		c.Read(buf)
	}
	for range 100 {
		roundTrip()
	}
	require.Zero(t, testing.AllocsPerRun(1000, roundTrip))
	for _, n := range []int{2000, len(buf)} {
		bulk := func() {
			c.Write(buf[:n])
			io.ReadFull(d, buf[:n])
		}
		for range 100 {
			bulk()
		}
		require.Zero(t, testing.AllocsPerRun(1000, bulk), n)
	}
}

// The name of this test makes wiredPair use IPv6 addresses: see overIPv6.
func TestSocketsOverIPv6AllocateNothing(t *testing.T) {
	TestSegmentsOfAConnectionAllocateNothing(t)
}

// After its last watcher is closed, a host again allocates nothing for watchers.
func TestAHostWithoutWatchersAllocatesNothingForThem(t *testing.T) {
	a, b := wiredPair(t, nil)
	w, err := a.Watch(WatchConfig{Frames: true, Drops: true, Conns: true})
	require.NoError(t, err)
	require.NoError(t, w.Close())
	c, d := connect(t, a, b)
	u := openUDP(t, b, "0.0.0.0:0")
	buf := make([]byte, 100)
	work := func() {
		c.Write(buf)
		d.Read(buf)
		u.WriteTo(buf, netip.AddrPortFrom(addrA, 4), SendOptions{}) // a drop
	}
	for range 2000 { // beyond the rate limit of ICMP errors
		work()
	}
	drops := a.Stats().Drops["UDP port without a socket"]
	require.Zero(t, testing.AllocsPerRun(1000, work))
	require.GreaterOrEqual(t, a.Stats().Drops["UDP port without a socket"]-drops, uint64(1000))
}
