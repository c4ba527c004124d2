package inspect

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// compute uses the CPU for about a time.
func compute(d time.Duration) {
	n := 0
	for began, _ := threadCPU(); ; n++ {
		if now, _ := threadCPU(); now-began >= d {
			return
		}
	}
}

// On a busy machine a sample waits for a CPU, and for locks. That is no cost.
func TestACostIsCPUTimeAndNotWaiting(t *testing.T) {
	const wait = 300 * time.Millisecond
	require.Less(t, costOf(func() { time.Sleep(wait) }), wait/3)
	require.GreaterOrEqual(t, costOf(func() { compute(20 * time.Millisecond) }), 20*time.Millisecond)
}

// In a bubble the timers of the samples are those of the bubble. They must not depend on the machine.
func TestACostIsZeroInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		require.Zero(t, costOf(func() { compute(20 * time.Millisecond) }))
	})
}
