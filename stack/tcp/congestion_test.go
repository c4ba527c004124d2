package tcp

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// slowCubic is a reference for the congestion avoidance of RFC 9438 section 4. It counts in segments, in
// floating point, and handles one acknowledged segment at a time.
type slowCubic struct {
	cwnd, wMax, prior, wEst, k, epoch float64 // times in seconds
	began                             bool
}

func (q *slowCubic) loss() {
	// RFC 9438 4.6 and 4.7.
	q.prior = q.cwnd
	if q.cwnd < q.wMax {
		q.wMax = q.cwnd * (1 + 0.7) / 2
	} else {
		q.wMax = q.cwnd
	}
	q.cwnd *= 0.7
	q.began = false
}

// ack handles one acknowledged segment at the time now. Times are in seconds.
func (q *slowCubic) ack(now, rtt float64) {
	const c, beta = 0.4, 0.7
	if !q.began {
		q.began, q.epoch, q.wEst = true, now, q.cwnd
		q.wMax = max(q.wMax, q.cwnd)
		q.k = math.Cbrt((q.wMax - q.cwnd) / c) // 4.2, figure 2
	}
	cubic := func(t float64) float64 { return c*math.Pow(t-q.k, 3) + q.wMax } // figure 1
	alpha := 3 * (1 - beta) / (1 + beta)
	if q.wEst >= q.prior {
		alpha = 1
	}
	q.wEst += alpha / q.cwnd // 4.3, figure 4
	t := now - q.epoch
	if cubic(t) < q.wEst {
		q.cwnd = max(q.cwnd, q.wEst)
		return
	}
	target := min(max(cubic(t+rtt), q.cwnd), 1.5*q.cwnd)
	q.cwnd += (target - q.cwnd) / q.cwnd
}

func TestCubicFollowsTheCurveOfRFC9438(t *testing.T) {
	const mss = 1000
	for _, tc := range []struct {
		name string
		rtt  Time
		wMax int
		time Time
		// The Conn grows its window by whole segments, so it differs from the reference by up to within
		// segments plus the fraction share of the window.
		within, share float64
	}{
		{"a long path", 100 * Millisecond, 100, 12 * Second, 2, 0.01},
		{"a short path, where Reno would be faster", 2 * Millisecond, 20, 300 * Millisecond, 1.01, 0},
		{"a large window", 50 * Millisecond, 2000, 20 * Second, 2, 0.01},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := &congestionState{cwnd: tc.wMax * mss, ssthresh: math.MaxInt32}
			w.control = &w.cubic
			ref := &slowCubic{cwnd: float64(tc.wMax)}
			now := Time(1)
			// The second phase is short, so its loss comes while the window is below the last maximum. That
			// leads to fast convergence.
			for _, phase := range []Time{tc.time, tc.time / 3, tc.time} {
				ref.cwnd = float64(w.cwnd) / mss // the reference starts from the rounded window
				w.ssthresh = w.control.threshold(now, w, mss)
				w.cwnd, w.credit = w.ssthresh, 0
				ref.loss()
				require.InDelta(t, ref.cwnd, float64(w.cwnd)/mss, 0.01, "RFC 9438 4.6: beta is 0.7")
				w.cwnd = w.cwnd / mss * mss
				ref.cwnd = math.Floor(ref.cwnd)
				end := now + phase
				for now < end {
					flight := w.cwnd / mss
					for i := range flight {
						at := now + tc.rtt*Time(i)/Time(flight)
						w.cwnd += w.control.avoid(at, w, mss, mss, tc.rtt)
						ref.ack(float64(at)/float64(Second), float64(tc.rtt)/float64(Second))
					}
					now += tc.rtt
					require.InDelta(t, ref.cwnd, float64(w.cwnd)/mss, tc.within+ref.cwnd*tc.share, "at %v", float64(now)/float64(Second))
				}
				require.Greater(t, w.cwnd, w.ssthresh)
			}
		})
	}
}

func TestCubicReachesTheOldWindowAfterKSeconds(t *testing.T) {
	// RFC 9438 4.2: "K is the time period that the above function takes to
	// increase the congestion window size at the beginning of the current
	// congestion avoidance stage to W_max": cbrt(100*0.3/0.4) is 4.217 s.
	const mss = 1000
	w := &congestionState{cwnd: 100 * mss}
	w.control = &w.cubic
	now, rtt := Time(1), 100*Millisecond
	w.cwnd = w.control.threshold(now, w, mss)
	for now < 4200*Millisecond {
		for range w.cwnd / mss {
			w.cwnd += w.control.avoid(now, w, mss, mss, rtt)
		}
		now += rtt
	}
	require.InDelta(t, 100, w.cwnd/mss, 1)
}

func TestCubicRestartsAtItsWindowAfterATimeout(t *testing.T) {
	// RFC 9438 4.8: "K is set to 0, and W_max is set to the congestion window
	// size at the beginning of the current congestion avoidance stage".
	r := bare(t, rigOptions{modern: true, window: 60000})
	w := &r.c.cc
	w.cwnd = 100 * r.c.snd.mss
	w.timeout(&r.c, r.now)
	require.Equal(t, 70*r.c.snd.mss, w.ssthresh)
	w.cwnd = w.ssthresh
	w.control.avoid(r.now, w, r.c.snd.mss, r.c.snd.mss, Second)
	require.Zero(t, w.cubic.k)
	require.InDelta(t, 70, w.cubic.origin, 0.01)
}

func TestNewRenoGrowsBySegmentForEachWindow(t *testing.T) {
	// RFC 5681 3.1: "During congestion avoidance, cwnd is incremented by roughly
	// 1 full-sized segment per round-trip time".
	const mss = 1000
	w := &congestionState{cwnd: 10 * mss}
	for round := range 20 {
		require.Equal(t, (10+round)*mss, w.cwnd)
		for range w.cwnd / mss {
			w.cwnd += newReno{}.avoid(1, w, mss, mss, 1)
		}
	}
	require.Equal(t, w.cwnd/2, newReno{}.threshold(1, w, mss))
}

// hystartRound passes a round of samples to h, and reports whether slow start has ended.
func hystartRound(h *hystart, rtt Time, samples int) bool {
	for range samples {
		h.sample(rtt)
	}
	return h.endRound()
}

func TestHystartLeavesSlowStartWhenTheRoundTripTimeGrows(t *testing.T) {
	var h hystart
	require.False(t, hystartRound(&h, 40*Millisecond, 10))
	require.Equal(t, 1000, h.limit(1000), "slow start")
	// RFC 9406 4.2: RttThresh = max(4 ms, min(lastRoundMinRTT/8, 16 ms)): 5 ms.
	require.False(t, hystartRound(&h, 44*Millisecond, 10))
	require.False(t, h.css, "4 ms more are not enough")
	for range hystartSamples - 1 {
		h.sample(50 * Millisecond)
	}
	require.False(t, h.css, "RFC 9406 4.2: at least N_RTT_SAMPLE samples")
	h.sample(50 * Millisecond)
	require.True(t, h.css)
	require.Equal(t, 250, h.limit(1000), "RFC 9406 4.3: CSS_GROWTH_DIVISOR is 4")
	for round := 1; round < cssRounds; round++ {
		require.False(t, h.endRound(), "round %d", round)
		for range hystartSamples {
			h.sample(50 * Millisecond)
		}
	}
	require.True(t, h.endRound(), "after CSS_ROUNDS, the partial one counted")
}

func TestHystartResumesSlowStartAfterADelaySpike(t *testing.T) {
	var h hystart
	hystartRound(&h, 40*Millisecond, 10)
	for range hystartSamples {
		h.sample(60 * Millisecond)
	}
	require.True(t, h.css)
	h.endRound()
	for range hystartSamples {
		h.sample(45 * Millisecond)
	}
	require.False(t, h.css, "RFC 9406 4.2: if currentRoundMinRTT < cssBaselineMinRtt, resume slow start")
	require.Equal(t, 1000, h.limit(1000))
}

func TestHystartBoundsItsThreshold(t *testing.T) {
	for _, tc := range []struct{ last, less, enough Time }{
		{Millisecond, 4 * Millisecond, 5 * Millisecond},           // MIN_RTT_THRESH
		{80 * Millisecond, 89 * Millisecond, 90 * Millisecond},    // an eighth
		{400 * Millisecond, 415 * Millisecond, 416 * Millisecond}, // MAX_RTT_THRESH
	} {
		var h hystart
		hystartRound(&h, tc.last, 8)
		for range hystartSamples {
			h.sample(tc.less)
		}
		require.False(t, h.css, "%v", tc)
		h = hystart{}
		hystartRound(&h, tc.last, 8)
		for range hystartSamples {
			h.sample(tc.enough)
		}
		require.True(t, h.css, "%v", tc)
	}
}

func TestInitialWindowIsThatOfRFC6928(t *testing.T) {
	for _, tc := range []struct{ mss, want int }{{536, 5360}, {1460, 14600}, {2000, 14600}, {9000, 18000}, {48, 480}} {
		require.Equal(t, tc.want, initialWindow(tc.mss))
	}
}

func TestAnUnusedWindowDoesNotGrow(t *testing.T) {
	r := bare(t, rigOptions{modern: true, window: 60000})
	cwnd := r.c.Info(0).SndCwnd
	for range 200 {
		r.c.Write(r.now, make([]byte, 100))
		r.pull()
		r.now += 20 * Millisecond
		r.send(16 /* ACK */, r.theirs(), r.c.snd.nxt-rigISS-1, nil)
	}
	require.Equal(t, cwnd, r.c.Info(0).SndCwnd, "one segment at a time does not test the path")
}
