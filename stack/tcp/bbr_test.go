package tcp

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Section numbers in this file are those of draft-ietf-ccwg-bbr-06.

// bbrFlow runs one flow with BBR, and calls see after each millisecond.
func bbrFlow(l bottleneck, until Time, see func(s *netsim, c *Conn, b *bbr)) *netsim {
	s := newNetsim(l, BBR, 1, 1)
	for s.now < until {
		s.run(s.now + Millisecond)
		c := &s.flows[0].snd
		see(s, c, c.cc.bbr)
	}
	return s
}

// bytesPerSecond returns the goodput of a link in the unit of BBR's model.
func (l *bottleneck) bytesPerSecond() float64 { return l.line() / 8 }

func TestBBRGoesThroughTheStatesOfTheDraft(t *testing.T) {
	l := bottleneck{rate: 50e6, rtt: 40 * Millisecond}
	l.queue = 4 * l.bdp()
	var states []bbrState
	bbrFlow(l, 20*Second, func(s *netsim, _ *Conn, b *bbr) {
		if s.now > 10*Second {
			s.link.rtt = 50 * Millisecond
		}
		if n := len(states); n == 0 || states[n-1] != b.state {
			states = append(states, b.state)
		}
	})
	require.Equal(t, []bbrState{bbrStartup, bbrDrain}, states[:2])
	for _, s := range []bbrState{bbrDown, bbrCruise, bbrRefill, bbrUp} {
		require.Contains(t, states, s)
	}
	require.Contains(t, states, bbrProbeRTT, "5.3.4: after 5 s without a sample of the minimum round-trip time")
	follows := map[bbrState][]bbrState{ // DOWN may last less than a millisecond
		bbrStartup: {bbrDrain}, bbrDrain: {bbrDown, bbrCruise}, bbrDown: {bbrCruise, bbrRefill, bbrProbeRTT}, bbrCruise: {bbrRefill, bbrProbeRTT}, bbrRefill: {bbrUp, bbrProbeRTT},
		bbrUp: {bbrDown, bbrProbeRTT, bbrCruise}, bbrProbeRTT: {bbrCruise},
	}
	for i, s := range states[1:] {
		require.Contains(t, follows[states[i]], s, "%v", states)
	}
}

func TestBBRKnowsThePath(t *testing.T) {
	for _, l := range []bottleneck{
		{rate: 10e6, rtt: 20 * Millisecond}, {rate: 50e6, rtt: 40 * Millisecond},
		{rate: 100e6, rtt: 5 * Millisecond}, {rate: 20e6, rtt: 100 * Millisecond, loss: 0.01},
	} {
		l.queue = 4 * l.bdp()
		s := bbrFlow(l, 8*Second, func(*netsim, *Conn, *bbr) {})
		c := &s.flows[0].snd
		b := c.cc.bbr
		require.InEpsilon(t, l.bytesPerSecond(), float64(b.bandwidth()), 0.05, "%v", l)
		require.InDelta(t, float64(l.rtt), float64(b.minRTT), float64(2*Millisecond), "%v", l)
		info := c.Info(0)
		require.InEpsilon(t, l.bytesPerSecond(), float64(info.PacingRate), 0.35, "%v", l)
		require.Positive(t, info.DeliveryRate)
	}
}

func TestBBRKeepsTheQueueShortWhereCubicFillsIt(t *testing.T) {
	l := bottleneck{rate: 50e6, rtt: 40 * Millisecond}
	l.queue = 4 * l.bdp()
	delay := make(map[Congestion]Time)
	for _, cc := range []Congestion{CUBIC, BBR} {
		s := newNetsim(l, cc, 1, 1)
		g, d := s.measure(3*Second, 20*Second)
		require.Greater(t, g[0], 0.95*l.line(), "%v", cc)
		delay[cc] = d
	}
	require.Less(t, delay[BBR], 15*Millisecond)
	require.Greater(t, delay[CUBIC], 80*Millisecond)
}

func TestBBRBearsRandomLoss(t *testing.T) {
	l := bottleneck{rate: 50e6, rtt: 40 * Millisecond, loss: 0.01}
	l.queue = l.bdp()
	s := newNetsim(l, BBR, 1, 1)
	g, _ := s.measure(3*Second, 10*Second)
	require.Greater(t, g[0], 0.75*l.line())
	s = newNetsim(l, CUBIC, 1, 1)
	g, _ = s.measure(3*Second, 10*Second)
	require.Less(t, g[0], 0.2*l.line(), "the bound of the response function")
}

func TestBBRDrainsTheQueueInProbeRTT(t *testing.T) {
	// 5.3.4: for 200 ms, the data in flight is half the bandwidth-delay product, and the queue drains.
	l := bottleneck{rate: 50e6, rtt: 40 * Millisecond}
	l.queue = 4 * l.bdp()
	low := false
	bbrFlow(l, 12*Second, func(s *netsim, c *Conn, b *bbr) {
		if s.now > 2*Second {
			s.link.rtt = 44 * Millisecond // without samples of the minimum, BBR has to probe
		}
		if b.state == bbrProbeRTT && b.probeDone != 0 {
			require.LessOrEqual(t, c.pipe(), int(0.55*float64(l.bdp())))
			low = low || s.free <= s.now
		}
	})
	require.True(t, low, "the queue was empty")
}

func TestBBRAloneOnAPathNeedsNoProbeRTT(t *testing.T) {
	// Whenever BBR has drained the queue, it measures the minimum round-trip time again.
	for _, rtt := range []Time{20 * Millisecond, 100 * Millisecond} {
		l := bottleneck{rate: 50e6, rtt: rtt}
		l.queue = 4 * l.bdp()
		bbrFlow(l, 40*Second, func(s *netsim, _ *Conn, b *bbr) {
			require.NotEqual(t, bbrProbeRTT, b.state, "at %v", s.now)
		})
	}
}

func TestBBRProbesTheRTTOfAPathThatHasBecomeLonger(t *testing.T) {
	// No sample matches the old minimum any more. 5.3.4.1: BBR enters ProbeRTT, and replaces the minimum
	// after 10 s.
	l := bottleneck{rate: 20e6, rtt: 20 * Millisecond}
	l.queue = 4 * l.bdp()
	probed := false
	s := bbrFlow(l, 25*Second, func(s *netsim, _ *Conn, b *bbr) {
		if s.now > 8*Second {
			s.link.rtt = 30 * Millisecond
			probed = probed || b.state == bbrProbeRTT
		}
	})
	require.True(t, probed)
	require.InDelta(t, float64(30*Millisecond), float64(s.flows[0].snd.cc.bbr.minRTT), float64(Millisecond))
}

func TestBBRFlowsThatShareAQueueProbeTheRTT(t *testing.T) {
	// The queue of another flow hides the minimum round-trip time, even if a flow drains its own share.
	// 5.3.4: flows "cooperate to periodically drain the bottleneck queue".
	for _, flows := range []int{2, 4, 10} {
		l := bottleneck{rate: 50e6, rtt: 20 * Millisecond}
		l.queue = 2 * l.bdp()
		s := newNetsim(l, BBR, flows, 3)
		probing := make([]int, flows)
		for s.now < 30*Second {
			s.run(s.now + 50*Millisecond)
			for i, f := range s.flows {
				if f.snd.cc.bbr.state == bbrProbeRTT {
					probing[i]++
				}
			}
		}
		for i, f := range s.flows {
			require.Positive(t, probing[i], "flow %d of %d", i, flows)
			require.InDelta(t, float64(l.rtt), float64(f.snd.cc.bbr.minRTT), float64(3*Millisecond), "flow %d of %d", i, flows)
		}
	}
}

func TestALateOriginalGivesNoRateSample(t *testing.T) {
	// 4.1.2.3: "rate may still be overestimated when a spuriously retransmitted packet was first
	// (s)acked". It may also be underestimated, if little was delivered since.
	var r rateSampler
	s := sent{seq: 0, end: 1000, at: 1}
	s.tx = r.sent(s.at, 0, true, 1000, 1)
	r.lost += 1000
	s.flags, s.at = segLost|segResent|segEverResent, 50*Millisecond
	s.tx = r.sent(s.at, 40_000, false, 1000, 2)
	r.begin(40_000)
	r.arrived(51*Millisecond, &s, true)
	r.found(s.len())
	r.finish(41_000, 50*Millisecond)
	require.False(t, r.rs.valid, "it must not end a round")
	require.Zero(t, r.latest)
	require.EqualValues(t, 1000, r.rs.newlyAcked)
	require.Zero(t, r.lost, "it was not lost")
	require.Zero(t, r.lostSince(1000), "nothing else was lost")
}

func TestBBRBearsReorderingAndLossInStartup(t *testing.T) {
	// An overtaken and retransmitted segment must not end a round in which nothing was delivered.
	// Otherwise Startup would end at a twentieth of the rate, because the pipe seems to be full.
	l := bottleneck{rate: 100e6, rtt: 100 * Millisecond, loss: 0.01, reorder: 0.05}
	l.queue = l.bdp()
	s := newNetsim(l, BBR, 1, 1)
	g, _ := s.measure(3*Second, 6*Second)
	require.Greater(t, g[0], 0.85*l.line())
}

func TestBBRBacksOffAtTwoPercentLossWhileProbing(t *testing.T) {
	// The queue is a tenth of the bandwidth-delay product, so probing with a gain of 1.25 overflows the
	// queue. 5.5.10.2: BBR then bounds the data in flight, which also bounds the loss.
	l := bottleneck{rate: 50e6, rtt: 40 * Millisecond}
	l.queue = l.bdp() / 10
	s := bbrFlow(l, 30*Second, func(*netsim, *Conn, *bbr) {})
	c := &s.flows[0].snd
	b := c.cc.bbr
	require.NotEqual(t, unbounded, b.inflightLong)
	require.InEpsilon(t, float64(l.bdp()+l.queue), float64(b.inflightLong), 0.2)
	sent := s.flows[0].delivered / 1448
	require.Less(t, float64(c.retrans)/float64(sent), 0.02)
}

func TestBBRIsNotMisledByAnApplicationThatPauses(t *testing.T) {
	// 5.5.4: an application-limited sample does not lower the estimate.
	r := bare(t, rigOptions{modern: true, window: 500_000, mss: 1000, change: func(p *Params) { p.Congestion = BBR }})
	b := r.c.cc.bbr
	exchange := func(n int) {
		r.c.Write(r.now, make([]byte, n))
		for end := r.now + 20*Millisecond; r.now < end; r.now += Millisecond {
			r.c.Tick(r.now)
			r.pull()
		}
		r.ack(r.c.snd.nxt - rigISS - 1)
	}
	for range 10 {
		exchange(10_000)
	}
	rate := b.bandwidth()
	require.Positive(t, rate)
	for range 100 {
		exchange(100)
	}
	require.True(t, b.rs.appLimited)
	require.Equal(t, bbrStartup, b.state, "the pipe was never full")
	require.GreaterOrEqual(t, b.bandwidth(), rate)
}

func TestDeliveryRateUsesTheLongerInterval(t *testing.T) {
	// 4.1.2.3: "Use the longer of the send_elapsed and ack_elapsed".
	var r rateSampler
	now, delivered := Time(1), uint64(0)
	board := make([]sent, 20)
	for i := range board {
		at := now + Time(i)*Millisecond // 1000 bytes each: 1 MB/s
		board[i] = sent{seq: Seq(1000 * i), end: Seq(1000*i + 1000), at: at}
		board[i].tx = r.sent(at, delivered, i == 0, 1000*(i+1), i+1)
	}
	for i := range board {
		// The path has bunched the acknowledgements, so they arrive twice as fast as the data was sent.
		at := now + 50*Millisecond + Time(i)*Millisecond/2
		r.begin(delivered)
		delivered += 1000
		r.arrived(at, &board[i], false)
		r.finish(delivered, 10*Millisecond)
	}
	require.Positive(t, r.latest)
	require.LessOrEqual(t, r.latest, int64(1_000_000))
	require.EqualValues(t, 1000, r.rs.newlyAcked)
	require.Nil(t, r.record(r.next), "never sent")
	require.Nil(t, r.record(r.next-uint32(len(r.ring))-1), "overwritten")
}

func TestBBRRestoresItsStateAfterASpuriousLoss(t *testing.T) {
	// 5.5.11.2: "BBR restores aspects of its state to their previously saved values."
	r := bare(t, rigOptions{modern: true, window: 500_000, change: func(p *Params) { p.Congestion = BBR }})
	c, b := &r.c, r.c.cc.bbr
	b.fullReached, b.undoState = true, bbrNone
	b.inflightLong = 50_000
	c.cc.cwnd = 40_000
	b.startUp(c)
	b.probeSample = true
	b.saveState(c)
	b.handleTooHigh(c, r.now, 10_000, false)
	require.Equal(t, bbrDown, b.state)
	require.Less(t, b.inflightLong, 50_000)
	c.cc.cwnd = 10_000
	b.spurious(c)
	require.Equal(t, bbrRefill, b.state, "it probes again")
	require.Equal(t, 50_000, b.inflightLong)
	require.Equal(t, 40_000, c.cc.cwnd)
}

func TestCongestionExperiencedEndsStartup(t *testing.T) {
	r := bare(t, rigOptions{modern: true, window: 500_000, change: func(p *Params) { p.Congestion = BBR }})
	r.c.congested(r.now)
	require.True(t, r.c.cc.bbr.fullReached, "RFC 3168 6.1.2: it is treated as a loss")
}
