//go:build !race && !lockorder

// These tests do not run with the race detector, because it makes sync.Pool drop items at random.

package stack

import (
	"io"
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

func TestSocketsOverIPv6AllocateNothing(t *testing.T) {
	TestSegmentsOfAConnectionAllocateNothing(t)
}
