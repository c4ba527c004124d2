package tcp

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// smallWindows returns Params with small buffers, so that tests of long virtual times run fast.
func smallWindows() Params {
	p := DefaultParams()
	p.RecvBuffer, p.RecvBufferMax = 32<<10, 32<<10
	return p
}

// blackHoleRun sends over a path that silently drops segments with more than limit bytes of payload,
// until the time until. It returns the number of delivered bytes.
func blackHoleRun(t *testing.T, p *Params, w *wirePair, limit func() int, until Time) (delivered int) {
	buf := make([]byte, 64<<10)
	for w.now < until {
		if w.a.State().synchronized() {
			w.a.Write(w.now, buf)
		}
		if w.b.p != nil {
			for n := w.b.Read(w.now, buf); n > 0; n = w.b.Read(w.now, buf) {
				delivered += n
			}
		}
		w.flush()
		for i := range w.queue {
			kept := w.queue[i][:0]
			for _, f := range w.queue[i] {
				if f.seg.DataLen() <= limit() {
					kept = append(kept, f)
				}
			}
			w.queue[i] = kept
		}
		require.True(t, w.step(p))
		require.Equal(t, ErrNone, w.a.Err())
	}
	return delivered
}

func TestABlackHoleCostsSecondsAndNotTheConnection(t *testing.T) {
	p := smallWindows()
	w := newPair(t, 1, p)
	limit := 1300
	n := blackHoleRun(t, &p, w, func() int { return limit }, 3*Second)
	require.Greater(t, n, 0, "RFC 4821 7.7: some data arrives within seconds")
	n = blackHoleRun(t, &p, w, func() int { return limit }, 20*Second)
	require.Greater(t, n, 2_000_000)
	require.Greater(t, w.a.MSS(), limit-2*plStep, "RFC 4821 7.3: the search approaches the path's maximum")
	require.LessOrEqual(t, w.a.MSS(), limit)
	w.delay = Second // a long delay: few segments are needed for the remaining virtual time
	blackHoleRun(t, &p, w, func() int { return limit }, 90*Second)
	probes := w.a.Info(0).Retrans
	blackHoleRun(t, &p, w, func() int { return limit }, 300*Second)
	require.Equal(t, probes, w.a.Info(0).Retrans, "the search has ended")

	// The path improves: RFC 8899 5.1.1, PMTU_RAISE_TIMER.
	limit = 65535
	blackHoleRun(t, &p, w, func() int { return limit }, 700*Second)
	require.Equal(t, 1448, w.a.MSS()) // 1460 without the timestamps option
}

func TestLossIsNotTakenForABlackHole(t *testing.T) {
	p := smallWindows()
	w := newPair(t, 1, p)
	w.loss = 0.1
	blackHoleRun(t, &p, w, func() int { return 65535 }, 60*Second)
	w.loss = 0
	blackHoleRun(t, &p, w, func() int { return 65535 }, 70*Second)
	require.Equal(t, 1448, w.a.MSS(), "a suspicion ends when a probe arrives")
}

func TestALostProbeIsNoCongestion(t *testing.T) {
	p := smallWindows()
	w := newPair(t, 1, p)
	limit := func() int { return 1300 }
	for w.a.pl == nil || w.a.pl.max == 0 {
		blackHoleRun(t, &p, w, limit, w.now+100*Millisecond)
	}
	require.Less(t, w.a.MSS(), 1000)
	cwnd, lost := 0, false
	for w.now < 10*Second && w.a.pl != nil {
		probing := w.a.pl.probe.start != w.a.pl.probe.end
		cwnd = w.a.Info(0).SndCwnd
		hi := w.a.pl.hi
		blackHoleRun(t, &p, w, limit, w.now+Millisecond)
		if probing && w.a.pl != nil && w.a.pl.hi < hi && w.a.timers.backoff == 0 {
			lost = true
			require.GreaterOrEqual(t, w.a.Info(0).SndCwnd, cwnd)
			require.Equal(t, phaseOpen, w.a.rec.phase)
		}
	}
	require.True(t, lost, "a probe was lost")
}

// The path MTU that a Conn has learnt expires, and a router answers the first probe with the same MTU. RFC 4821 7.3: "the
// congestion window [...] MUST NOT be reduced".
func TestAProbeThatIsAnsweredIsNoCongestion(t *testing.T) {
	p := smallWindows()
	w := newPair(t, 1, p)
	limit := func() int { return 988 } // 1000 without the timestamps option
	w.a.PathMTU(w.now, 1000)
	blackHoleRun(t, &p, w, limit, Second)
	require.Equal(t, 988, w.a.MSS())
	w.a.PathMTU(w.now, 1460) // the MTU has expired
	for w.a.pl.probe == (block{}) {
		blackHoleRun(t, &p, w, limit, w.now+Millisecond)
	}
	cwnd, retrans := w.a.Info(0).SndCwnd, w.a.Info(0).Retrans
	w.a.PathMTU(w.now, 1000)
	blackHoleRun(t, &p, w, limit, w.now+Second)
	require.Equal(t, 988, w.a.MSS())
	require.Greater(t, w.a.Info(0).Retrans, retrans)
	require.GreaterOrEqual(t, w.a.Info(0).SndCwnd, cwnd)
	require.EqualValues(t, math.MaxInt32, w.a.Info(0).SndSsthresh)
}

func TestASearchDoesNotKeepAConnActive(t *testing.T) {
	p := smallWindows()
	w := newPair(t, 1, p)
	limit := func() int { return 65535 }
	blackHoleRun(t, &p, w, limit, Second)
	w.a.PathMTU(w.now, 1000)
	blackHoleRun(t, &p, w, limit, 2*Second)
	require.Equal(t, 988, w.a.MSS())
	buf := make([]byte, 64<<10)
	for w.now < 5*Second { // read the remaining data until all of it is acknowledged
		for w.b.Read(w.now, buf) > 0 {
		}
		w.flush()
		require.True(t, w.step(&p) || w.a.Unacked() == 0)
		if w.a.Unacked() == 0 {
			break
		}
	}
	w.now += 10 * Second
	w.a.PathMTU(w.now, 1460)
	require.Zero(t, w.a.Deactivate(w.now))
	require.Nil(t, w.a.active, "the search must not keep the Conn active")
	blackHoleRun(t, &p, w, limit, w.now+2*Second)
	require.Equal(t, 1448, w.a.MSS())
	require.Nil(t, w.a.pl, "and ends")
}
