package tcp

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/stack/wire"
)

// flightWithoutTimestamps is flight for a connection with SACK but without timestamps.
func flightWithoutTimestamps(t testing.TB, n int) *rig {
	// The rig adds 12 bytes for timestamps to the MSS.
	r := bare(t, rigOptions{modern: true, window: 60000, mss: 88, change: func(p *Params) { p.NoTimestamps = true }})
	require.Equal(t, 100, r.c.MSS())
	r.c.Write(r.now, make([]byte, 100))
	r.pull()
	r.now += 20 * Millisecond
	r.ack(100)
	r.c.Write(r.now, make([]byte, 100*n))
	require.Len(t, numbers(r.pull()), n)
	return r
}

// untilTimeout lets time pass until the retransmission timeout. The peer does not answer the tail loss
// probe that comes first.
func (r *rig) untilTimeout() {
	r.t.Helper()
	for r.c.Info(0).Backoff == 0 {
		d, ok := r.c.Deadline()
		require.True(r.t, ok)
		r.now = max(r.now, d)
		r.c.Tick(r.now)
		r.pull()
	}
}

func TestEifelUndoesASpuriousTimeout(t *testing.T) {
	// RFC 3522 3.2: "If the value of the Timestamp Echo Reply field of the
	// acceptable ACK's Timestamps option is smaller than the value of
	// RetransmitTS, then [...] SpuriousRecovery". RFC 4015 3: the window is restored.
	r := flight(t, 10)
	before, stamp := r.c.Info(0), r.echo
	r.untilTimeout()
	during := r.c.Info(0)
	require.Less(t, during.SndSsthresh, before.SndSsthresh)
	require.LessOrEqual(t, during.SndCwnd, 2*r.c.MSS())
	s := r.segment(wire.FlagACK, r.theirs(), 200, nil)
	s.TSEcr = stamp // the original was late
	r.c.Segment(r.now, s)
	after := r.c.Info(0)
	require.GreaterOrEqual(t, after.SndCwnd, before.SndCwnd)
	require.Equal(t, before.SndSsthresh, after.SndSsthresh)
	require.Zero(t, after.Backoff)
	require.Zero(t, after.Lost, "nothing was lost")
	require.Empty(t, numbers(r.pull()), "nothing is retransmitted")
}

func TestAGenuineTimeoutIsNotUndone(t *testing.T) {
	r := flight(t, 10)
	r.untilTimeout()
	during := r.c.Info(0)
	r.now += 20 * Millisecond
	r.ack(200) // echoes the timestamp of the retransmission
	require.Equal(t, during.SndSsthresh, r.c.Info(0).SndSsthresh)
	require.NotEmpty(t, numbers(r.pull()), "RFC 5681 3.1: slow start")
}

func TestFRTOUndoesASpuriousTimeout(t *testing.T) {
	// RFC 5682 3.1 step 3 (b): "If the acknowledgment acknowledges some segments
	// that were not retransmitted after the timeout, then the TCP sender declares
	// the timeout spurious".
	r := flightWithoutTimestamps(t, 10)
	before := r.c.Info(0)
	r.untilTimeout()
	require.Less(t, r.c.Info(0).SndSsthresh, before.SndSsthresh)
	r.now += 10 * Millisecond
	r.ack(500)
	after := r.c.Info(0)
	require.Equal(t, before.SndSsthresh, after.SndSsthresh)
	require.GreaterOrEqual(t, after.SndCwnd, before.SndCwnd)
	require.Empty(t, numbers(r.pull()))
}

func TestDSACKOfEachRetransmissionUndoesTheReduction(t *testing.T) {
	// RFC 3708 3 (A): if a DSACK has come for each retransmitted segment, all these retransmissions were
	// unnecessary.
	r := flightWithoutTimestamps(t, 10)
	before := r.c.Info(0)
	r.now += 20 * Millisecond
	r.ack(100, block{300, 1100}) // two segments seem to be missing
	require.Equal(t, []int{100}, numbers(r.pull())[:1])
	during := r.c.Info(0)
	require.True(t, during.Recovery)
	require.Less(t, during.SndSsthresh, before.SndSsthresh)
	r.now += 5 * Millisecond
	r.ack(1100) // the two segments were only late
	r.now += 15 * Millisecond
	retrans := int(r.c.Info(0).Retrans)
	for i := range retrans {
		at := Seq(100 + 100*i)
		r.ack(1100, block{at, at + 100})
	}
	require.Equal(t, before.SndSsthresh, r.c.Info(0).SndSsthresh)
}

func TestALaterDuplicateUndoesNoReduction(t *testing.T) {
	// RFC 3708 3 (A) is about the retransmissions of the episode. A DSACK for a duplicate that the
	// network makes later proves nothing about these retransmissions.
	r := flightWithoutTimestamps(t, 10)
	r.now += 20 * Millisecond
	r.ack(100, block{200, 1100})
	require.Equal(t, 100, numbers(r.pull())[0])
	r.now += 20 * Millisecond
	r.ack(1100) // one segment was lost
	during := r.c.Info(0)
	require.False(t, during.Recovery)
	for una := Seq(1100); una < 1300; una += 100 {
		r.c.Write(r.now, make([]byte, 100))
		r.pull()
		r.now += 20 * Millisecond
		r.ack(una + 100)
	}
	r.ack(1300, block{1200, 1300})
	require.Equal(t, during.SndSsthresh, r.c.Info(0).SndSsthresh)
}

func TestALostRetransmissionIsDetectedWithoutATimeout(t *testing.T) {
	// RFC 8985 3.1: RACK "can detect lost retransmissions".
	r := flight(t, 10)
	r.c.Write(r.now, make([]byte, 2000))
	r.now += 20 * Millisecond
	r.ack(100, block{200, 1100})
	out := numbers(r.pull())
	require.Equal(t, 100, out[0])
	require.Greater(t, len(out), 1, "and new data after it")
	r.now += 20 * Millisecond
	// The retransmission is lost, but segments that were sent after it arrive.
	end := Seq(out[len(out)-1] + 100)
	r.ack(100, block{200, end})
	out = numbers(r.wait(10 * Millisecond))
	require.Contains(t, out, 100)
	require.Zero(t, r.c.Info(0).Backoff)
}

func TestTheReorderingWindowIsAtMostSRTT(t *testing.T) {
	// RFC 8985 6.2 step 4: "RACK.reo_wnd = min(RACK.reo_wnd_mult *
	// RACK.min_RTT / 4, SRTT)".
	r := flight(t, 10)
	require.Equal(t, r.c.rtt.min/4, r.c.reorderWindow(), "nothing is known to be reordered yet")
	r.c.rec.reoSeen = true
	for mult := range uint8(30) {
		r.c.rec.reoMult = mult
		want := min(Time(max(mult, 1))*r.c.rtt.min/4, r.c.rtt.srtt)
		require.Equal(t, want, r.c.reorderWindow())
	}
	r.c.rec.reoSeen = false
	r.c.rec.phase = phaseRecovery
	require.Zero(t, r.c.reorderWindow(), "in recovery, without reordering, it is zero")
}

func TestRetransmissionsGiveNoRTTSample(t *testing.T) {
	// RFC 6298 3: "RTT samples MUST NOT be made using segments that were
	// retransmitted (and thus for which it is ambiguous whether the reply was for
	// the first instance of the packet or a later instance)" (Karn).
	r := flightWithoutTimestamps(t, 1)
	before := r.c.Info(0)
	r.untilTimeout()
	r.now += 3 * Second
	r.ack(200)
	require.Equal(t, before.RTT, r.c.Info(0).RTT)
	require.Equal(t, before.RTTVar, r.c.Info(0).RTTVar)
	require.Zero(t, r.c.Info(0).Backoff)
}

func TestRenegedDataIsRetransmittedAfterATimeout(t *testing.T) {
	// RFC 2018 8: "the data sender MUST NOT discard data in its retransmission
	// queue until it is acknowledged by the Acknowledgment Number field".
	r := flight(t, 10)
	r.now += 20 * Millisecond
	r.ack(100, block{100, 1100}) // the peer has received all data
	require.Equal(t, 1000, r.c.Info(0).Sacked)
	r.untilTimeout()
	require.Zero(t, r.c.Info(0).Sacked, "but does not acknowledge it: it was dropped")
	seen := map[int]bool{100: true}
	for una := Seq(100); una < 1100; una += 100 {
		r.now += 20 * Millisecond
		r.ack(una + 100)
		for _, n := range numbers(r.pull()) {
			seen[n] = true
		}
	}
	require.Len(t, seen, 10)
}

func TestSACKOfUnsentDataIsIgnored(t *testing.T) {
	r := flight(t, 3)
	r.ack(100, block{200, 5000}, block{0, 50}, block{300, 300}, block{400, 200})
	info := r.c.Info(0)
	require.Zero(t, info.Sacked)
	require.Zero(t, info.Lost)
	require.NoError(t, checkConn(&r.c))
}

func TestDSACKOfUnsentDataIsIgnored(t *testing.T) {
	r := flight(t, 3)
	end := r.c.snd.nxt - rigISS - 1
	s := r.segment(wire.FlagACK, r.theirs(), end, nil)
	r.sack(s, block{end + 100, end + 200})
	r.c.Segment(r.now, s)
	s = r.segment(wire.FlagACK, r.theirs(), end, nil)
	r.sack(s, block{end - 100, end + 100}, block{end - 200, end + 200})
	r.c.Segment(r.now, s)
	require.False(t, r.c.rec.reoSeen, "RFC 8985 6.2 step 4 asks for a DSACK")
	s = r.segment(wire.FlagACK, r.theirs(), end, nil)
	r.sack(s, block{end - 100, end})
	r.c.Segment(r.now, s)
	require.True(t, r.c.rec.reoSeen)
}

func TestADeliveredRetransmissionShowsEarlierLosses(t *testing.T) {
	// RFC 8985 6.2 step 2: RACK.xmit_ts also follows a retransmitted segment, if it is certain that the
	// second copy has arrived.
	r := flight(t, 5)
	r.now += 20 * Millisecond
	r.ack(100, block{200, 300}, block{400, 500})
	require.Equal(t, []int{100}, numbers(r.wait(10*Millisecond)))
	r.ack(100, block{500, 600}, block{400, 500}, block{200, 300})
	require.Equal(t, []int{300}, numbers(r.pull()))
	second := r.c.sb.find(rigISS + 1 + 300).sent().at
	r.now = second + 20*Millisecond
	r.ack(100, block{200, 600}) // the retransmission of 300 has arrived, so the earlier one of 100 is lost
	require.Equal(t, second, r.c.rec.xmit)
	require.Equal(t, []int{100}, numbers(r.wait(10*Millisecond)))
	require.Zero(t, r.c.Info(0).Backoff)
}

func TestAnOldRetransmissionDoesNotUndoTheNextEpisode(t *testing.T) {
	// RFC 3522 3.2: RetransmitTS is of "the retransmit sent when loss recovery is initiated". An
	// acknowledgement of a retransmission from an earlier episode proves nothing.
	r := flight(t, 10)
	r.c.Write(r.now, make([]byte, 3000))
	r.now += 20 * Millisecond
	r.ack(100, block{200, 1100})
	out := numbers(r.wait(5 * Millisecond))
	require.Equal(t, 100, out[0])
	require.Greater(t, len(out), 3, "and new data after it")
	end := Seq(out[len(out)-1] + 100)
	require.Greater(t, end, Seq(1500))
	r.now += 15 * Millisecond
	r.ack(100, block{1200, 1300}, block{200, 1100}) // the segment at 1100 is lost too
	require.Contains(t, numbers(r.pull()), 1100)
	stamp := r.c.tsVal(r.now)
	r.now += Millisecond
	r.ack(1100, block{1200, 1300})
	require.False(t, r.c.Info(0).Recovery, "the first episode is over")
	r.now += 2 * Millisecond
	before := r.c.Info(0)
	r.ack(1100, block{1400, end}, block{1200, 1300})
	require.Contains(t, numbers(r.wait(10*Millisecond)), 1300)
	during := r.c.Info(0)
	require.True(t, during.Recovery)
	require.Less(t, during.SndSsthresh, before.SndSsthresh)
	s := r.segment(wire.FlagACK, r.theirs(), 1300, nil)
	r.sack(s, block{1400, end})
	s.TSEcr = stamp // echoes a retransmission of the first episode, which filled the hole of that episode
	r.c.Segment(r.now, s)
	after := r.c.Info(0)
	require.True(t, after.Recovery)
	require.Equal(t, during.SndSsthresh, after.SndSsthresh)
}
