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

func TestBlocksAllocateNothing(t *testing.T) {
	a, b := wiredPair(t, nil)
	c, d := connect(t, a, b)
	back, far := connect(t, a, b)
	buf := make([]byte, 128<<10)
	for _, n := range []int{3000, 10_000, 64 << 10} {
		relay := func() { // c -> d, and from there by the memory of the receive buffer over far -> back
			for range 2 {
				sb := c.NewBlock(64 << 10)
				if _, err := c.WriteBlock(sb, sb.Bytes()[:n]); err != nil {
					t.Error(err)
				}
				sb.Free()
			}
			for got := 0; got < 2*n; {
				d.AwaitReadable()
				x, y, storage := d.Take()
				tb := d.TakeBlock(far, storage)
				for _, p := range [2][]byte{x, y} {
					k, err := far.WriteBlock(tb, p)
					if err != nil {
						t.Error(err)
					}
					got += k
				}
				tb.Free()
			}
			io.ReadFull(back, buf[:2*n])
		}
		for range 100 {
			relay()
		}
		require.Zero(t, testing.AllocsPerRun(500, relay), n)
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
