package tcp

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestGoodputUnderRandomLoss measures the goodput of CUBIC on links without a bottleneck that lose packets at
// random. A single run says little: with 1 % of loss, 200 round trips have about 25 losses, and the goodput of two
// seeds may differ by a factor of two. So the test takes the mean of 20 seeds, without the first third of each
// run, in which slow start still shows.
//
// linux is the mean of Linux 6.18 with cubic in Mbit/s, with the same numbers of seeds and of round trips, between
// two network namespaces whose TAP devices a nic.Impaired connects; its standard error is 3 to 6 %.
// At 20 ms Linux is below the response function of RFC 9438 (theory). One reason is that it does not follow RFC 9438
// 4.3: once W_est has reached cwnd_prior, the sender "SHOULD set alpha_cubic to 1". Without that rule, this code
// loses 4 to 10 % of its goodput.
func TestGoodputUnderRandomLoss(t *testing.T) {
	const seeds = 20
	for _, tc := range []struct {
		rtt   Time
		loss  float64
		linux float64
	}{
		{20 * Millisecond, 0.001, 21.2},
		{20 * Millisecond, 0.01, 5.76},
		{20 * Millisecond, 0.03, 3.03},
		{100 * Millisecond, 0.001, 5.4},
		{100 * Millisecond, 0.01, 1.28},
		{100 * Millisecond, 0.03, 0.67},
	} {
		link := bottleneck{rate: 10e9, rtt: tc.rtt, loss: tc.loss, queue: 1 << 30}
		var mean float64
		var counts [NumCounters]int
		lost := 0
		for seed := range uint64(seeds) {
			s := newNetsim(link, CUBIC, 1, seed+1)
			s.params.Count = func(k Counter, n int) { counts[k] += n }
			g, _ := s.measure(67*tc.rtt, 133*tc.rtt)
			mean += g[0] / seeds
			lost += s.lost
		}
		theory := link.bound(CUBIC, 133*tc.rtt)
		t.Logf("RTT %3d ms, loss %.1f %%: %6.2f Mbit/s, Linux %6.2f, theory %6.2f; %d lost, %d retransmitted, %d recoveries, %d timeouts",
			tc.rtt/Millisecond, 100*tc.loss, mean/1e6, tc.linux, theory/1e6, lost, counts[RetransSegs], counts[SackRecovery], counts[Timeouts])
		require.Greater(t, mean/1e6, tc.linux, "RTT %v, loss %v", tc.rtt, tc.loss)
		require.Greater(t, mean, 0.9*theory, "RTT %v, loss %v", tc.rtt, tc.loss)
		require.Less(t, mean, 1.35*theory, "RTT %v, loss %v", tc.rtt, tc.loss)
		// Each lost segment is retransmitted once. A connection of 200 round trips has no timeout.
		require.InEpsilon(t, lost, counts[RetransSegs], 0.03)
		require.LessOrEqual(t, counts[Timeouts], seeds/10)
	}
}
