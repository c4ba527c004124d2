package tcp

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSlowStartHardlyOverflowsTheQueue(t *testing.T) {
	// RFC 9406 4.2: slow start ends when the round-trip time grows, "before overshoot and packet loss".
	// A paced round begins with an empty queue. The minimum over all samples of a round would therefore
	// show the growth one round too late.
	for _, tc := range []struct {
		rate   float64
		rtt    Time
		bdps   float64
		second float64 // fraction of the path's rate that must arrive in the first second
	}{
		{1000e6, 40, 1, 0.6}, {1000e6, 10, 1, 0.85}, {100e6, 40, 1, 0.73}, {100e6, 40, 2, 0.73}, {100e6, 100, 0.5, 0.28},
	} {
		l := bottleneck{rate: tc.rate, rtt: tc.rtt * Millisecond}
		l.queue = int(tc.bdps * float64(l.bdp()))
		s := newNetsim(l, CUBIC, 1, 1)
		s.run(Second)
		require.Greater(t, float64(s.flows[0].arrived())*8, tc.second*tc.rate, "%+v", tc)
		s.run(3 * Second)
		require.LessOrEqual(t, float64(s.dropped)*wireSize, 0.85*float64(l.bdp()), "%+v", tc)
	}
}

func TestLossesInBurstsCostLessThanSingleOnes(t *testing.T) {
	// A burst of losses is one sign of congestion, and PRR repairs it in a few round trips. With the same
	// mean loss, bursts of four cause a quarter as many reductions of the window.
	for _, cc := range []Congestion{CUBIC, NewReno} {
		for _, rtt := range []Time{20, 100} {
			goodput := func(burst float64) float64 {
				l := bottleneck{rate: 50e6, rtt: rtt * Millisecond, loss: 0.01, burst: burst}
				l.queue = max(l.bdp(), 150_000)
				g, _ := newNetsim(l, cc, 1, 3).measure(2*Second, 60*Second)
				return g[0]
			}
			single, bursts := goodput(0), goodput(4)
			require.Greater(t, bursts, 1.3*single, "%v, %d ms", cc, rtt)
		}
	}
}

func TestTheWayBackMayBeNarrow(t *testing.T) {
	// The path has 50 Mbit/s, and 0.5 Mbit/s on the way back, which is too little for an acknowledgement of
	// every second segment. CUBIC grows its window until the queue of the way back drops acknowledgements.
	// BBR takes the rate of the acknowledgements for the rate of the path, as the kernel's BBR does
	// (docs/differential.md), and reaches only that rate.
	for _, tc := range []struct {
		cc   Congestion
		want float64
	}{{CUBIC, 30e6}, {BBR, 21e6}} {
		t.Run(fmt.Sprint(tc.cc), func(t *testing.T) {
			l := bottleneck{rate: 50e6, rtt: 40 * Millisecond, back: 0.5e6, backQueue: 10_000}
			l.queue = l.bdp()
			g, _ := newNetsim(l, tc.cc, 1, 1).measure(2*Second, 10*Second)
			require.Greater(t, g[0], tc.want)
		})
	}
}
