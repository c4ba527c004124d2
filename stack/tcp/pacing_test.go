package tcp

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/stack/wire"
)

// paced100 returns an established connection on a path with a round-trip time of 100 ms. cwnd is 100
// segments, and nothing is in flight.
func paced100(t testing.TB, gso int) *rig {
	r := bare(t, rigOptions{modern: true, window: 500_000, mss: 1000, gso: gso})
	r.c.SetSendLimit(128 << 10)
	r.c.Write(r.now, make([]byte, 1000))
	require.Len(t, r.pull(), 1)
	r.now += 100 * Millisecond
	r.ack(1000)
	r.c.rtt.min, r.c.rtt.srtt = 100*Millisecond, 100*Millisecond
	r.c.cc.cwnd, r.c.cc.ssthresh = 100_000, 100_000
	r.c.cc.setRate(&r.c)
	r.now += Second // long enough that the pacer does not catch up on lost time
	r.c.rcv.last, r.c.snd.lastData = r.now, r.now
	return r
}

func TestALargeWindowLeavesAtItsRate(t *testing.T) {
	r := paced100(t, 0)
	require.EqualValues(t, 1_200_000, r.c.Info(0).PacingRate, "1.2 windows in a round trip")
	r.c.Write(r.now, make([]byte, 100_000))
	sent := len(r.pull())
	require.InDelta(t, 12, sent, 2, "RFC 6928's ten segments, and one quantum")
	began := r.now
	for sent < 100 {
		d, ok := r.c.Deadline()
		require.True(t, ok)
		require.Greater(t, d, r.now, "segments must not need a timer each")
		require.LessOrEqual(t, d, r.now+2*Millisecond)
		r.now = d
		r.c.Tick(r.now)
		n := len(r.pull())
		require.LessOrEqual(t, n, 2, "a quantum is two segments at this rate")
		sent += n
		require.InDelta(t, float64(r.now-began), float64(sent-12)*1000/1.2e6*float64(Second), float64(3*Millisecond))
	}
	require.NoError(t, checkConn(&r.c))
}

func TestALateTimerMakesUpForItsLateness(t *testing.T) {
	r := paced100(t, 0)
	r.c.cc.pace.rate, r.c.cc.pace.free = 10_000_000, 0
	r.c.Write(r.now, make([]byte, 100_000))
	began, sent := r.now, 0
	for sent < 90 {
		sent += len(r.pull())
		r.now += 1500 * Microsecond // the timer is late, as on a busy machine
		r.c.Tick(r.now)
	}
	require.InDelta(t, 90_000/1e7*float64(Second), float64(r.now-began), float64(5*Millisecond))
}

func TestASuperSegmentIsAMillisecondOfTheRate(t *testing.T) {
	r := paced100(t, 65535)
	for _, tc := range []struct {
		rate int64
		want int
	}{{1_000_000, 2000}, {8_500_000, 8000}, {40_000_000, 40_000}, {1_000_000_000, 65_000}} {
		r.c.cc.pace.rate = tc.rate
		require.Equal(t, tc.want, r.c.burst(1000), "%d bytes/s", tc.rate)
	}
	r.c.cc.pace = nil
	require.Equal(t, 65_000, r.c.burst(1000), "without pacing, the maximum of the link")
}

func TestPacedDataDoesNotWaitForAnAcknowledgement(t *testing.T) {
	r := paced100(t, 0)
	r.c.Write(r.now, make([]byte, 100_000))
	r.pull()
	require.NotZero(t, r.c.cc.pace.deadline())
	// The acknowledgement of received data is sent at once.
	r.send(wire.FlagACK, r.theirs(), 1000, make([]byte, 3000))
	out := r.pull()
	require.Len(t, out, 1)
	require.Zero(t, out[0].DataLen())
	r.c.Abort(r.now)
	r.pull()
	_, ok := r.c.Deadline()
	require.False(t, ok, "a dead connection has no deadline")
}

func TestShortPathsAndSmallWindowsAreNotPaced(t *testing.T) {
	r := bare(t, rigOptions{modern: true, window: 500_000, mss: 1000})
	for range 6 {
		r.c.Write(r.now, make([]byte, r.c.cc.cwnd))
		require.Equal(t, r.c.cc.cwnd/1000, len(r.pull()))
		r.now += Millisecond
		r.ack(r.c.snd.nxt - rigISS - 1)
		require.Nil(t, r.c.cc.pace, "a path of 1 ms")
	}
	r = bare(t, rigOptions{modern: true, window: 500_000, mss: 1000})
	for range 20 {
		r.c.Write(r.now, make([]byte, 10_000))
		require.Len(t, r.pull(), 10, "RFC 6928: ten segments may go at once")
		r.c.cc.cwnd = 10_000
		r.now += 50 * Millisecond
		r.ack(r.c.snd.nxt - rigISS - 1)
		require.NotZero(t, r.c.Info(0).PacingRate)
	}
}

func TestALostRetransmissionReducesTheWindowTwice(t *testing.T) {
	// RFC 5681 4.3: "the loss of a retransmission, should be taken as two
	// indications of congestion and, therefore, cwnd (and ssthresh) MUST be
	// lowered twice in this case."
	for _, again := range []bool{false, true} {
		r := flight(t, 10)
		r.c.Write(r.now, make([]byte, 3000))
		r.now += 20 * Millisecond
		r.ack(100, block{200, 1100})
		r.pull()
		require.Equal(t, 700, r.c.Info(0).SndSsthresh)
		// The data in flight is now within ssthresh. Lose the retransmission, which is sent again. If
		// that copy is lost too, the capacity of the path has fallen further.
		r.now += 20 * Millisecond
		nxt := r.c.snd.nxt - rigISS - 1
		r.ack(100, block{200, 1200}, block{1300, nxt})
		require.Contains(t, numbers(r.pull()), 100, "lost again, but sent before the reduction")
		require.Equal(t, 700, r.c.Info(0).SndSsthresh)
		r.now += 20 * Millisecond
		nxt = r.c.snd.nxt - rigISS - 1
		if again {
			r.ack(100, block{200, nxt})
		} else {
			r.ack(nxt)
		}
		r.pull()
		require.Equal(t, again, r.c.Info(0).SndSsthresh < 600, "ssthresh %d", r.c.Info(0).SndSsthresh)
	}
}

func TestASpuriousLossIsUndoneBeforeRetransmission(t *testing.T) {
	r := flight(t, 10)
	before := r.c.Info(0)
	r.now += 20 * Millisecond
	r.ack(100, block{200, 500}) // Next is not called, as if pacing held segments back
	require.True(t, r.c.Info(0).Recovery)
	r.ack(500)
	require.False(t, r.c.Info(0).Recovery)
	require.Equal(t, before.SndSsthresh, r.c.Info(0).SndSsthresh)
	require.GreaterOrEqual(t, r.c.Info(0).SndCwnd, before.SndCwnd)
}

func TestARecoveryIsNotStoppedByTheBuffers(t *testing.T) {
	// Data beyond a hole uses space in both buffers. Buffers of twice the congestion window are too small
	// if the reordering window delays the detection of the loss.
	l := bottleneck{rate: 100e6, rtt: 20 * Millisecond, reorder: 0.01}
	l.queue = l.bdp() / 4
	s := newNetsim(l, CUBIC, 1, 1)
	d := DefaultParams()
	s.params.RecvBufferMax, s.params.SendBufferMax = d.RecvBufferMax, d.SendBufferMax
	g, _ := s.measure(2*Second, 6*Second)
	require.Greater(t, s.flows[0].snd.Info(0).Retrans, 0)
	require.Greater(t, g[0], 0.95*l.line())
}

func TestPacingEndsOnAShortPath(t *testing.T) {
	// The handshake waits for ARP, so the first sample of the round-trip time is long.
	p := DefaultParams()
	cfg := Config{Params: &p, ISS: 1, MSS: 1460, NoDelay: true}
	var a, b Conn
	var s Segment
	now := Time(1)
	a.Open(now, cfg)
	require.True(t, a.Next(now, &s))
	b.Accept(now, cfg, &s)
	require.True(t, b.Next(now, &s))
	now += 5 * Millisecond
	a.Segment(now, &s)
	require.True(t, a.Next(now, &s))
	b.Segment(now, &s)
	buf := make([]byte, 1<<20)
	round := func(d Time) {
		a.Write(now, buf)
		for a.Next(now, &s) {
			in := joined(&s)
			b.Segment(now, &in)
			b.Read(now, buf)
		}
		now += d
		for b.Next(now, &s) {
			a.Segment(now, &s)
		}
		for d, ok := a.Deadline(); ok && d <= now; d, ok = a.Deadline() {
			a.Tick(now)
		}
	}
	for range 3 {
		round(5 * Millisecond)
	}
	require.Positive(t, a.Info(0).PacingRate)
	for range 50 {
		round(Millisecond / 4)
	}
	require.Zero(t, a.Info(0).PacingRate)
}

func TestAQuantumIsALongSuperSegmentAtMost(t *testing.T) {
	for _, tc := range []struct{ mbit, gso, want int }{
		{100, 0, 12_500},          // a millisecond of the rate
		{100, 200_000, 12_500},    // not more because the link can have it
		{1_000, 60_000, 64 << 10}, // the draft's bound
		{1_000, 100_000, 100_000}, // a super-segment that the link can have
		{1_000, 200_000, 125_000}, // a millisecond again
		{10_000, 200_000, 200_000},
		{10_000, 0, maxQuantum}, // without super-segments
		{1, 200_000, 2 * 1448},  // two segments at least
	} {
		p := pacer{rate: int64(tc.mbit) * 1e6 / 8}
		require.Equal(t, tc.want, p.quantum(1448, tc.gso), "%+v", tc)
	}
}
