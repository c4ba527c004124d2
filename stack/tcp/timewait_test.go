package tcp

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/stack/wire"
)

// waiting returns a Waiter for a connection in TIME-WAIT, and its rig.
func waiting(t *testing.T, modern bool) (*rig, *Waiter) {
	r := timeWait(t, rigOptions{modern: modern})
	w := r.c.Waiter(r.now)
	// Both clocks advance, so the peer's next timestamp is newer than tsRecent.
	r.now += Second
	r.peer += 1000
	return r, &w
}

func TestWaiterAgreesWithTheConnThatItStandsFor(t *testing.T) {
	for _, modern := range []bool{false, true} {
		// The window is then 1000. It can be scaled without loss, so the Waiter has the same window.
		o := rigOptions{modern: modern, change: func(p *Params) { p.RecvBuffer = rigBuffer + 1 }}
		first := timeWait(t, o)
		nxt, edge := first.c.rcv.nxt, first.c.farEdge()
		require.Equal(t, rigBuffer, int(edge-nxt))
		n := 0
		modelCases(tcbOf(&first.c), true, func(k modelCase) {
			if k.flags&(wire.FlagRST|wire.FlagSYN) != 0 {
				return // a Waiter treats RST and SYN differently on purpose: see the tests below
			}
			n++
			r := timeWait(t, o)
			w, wait := r.c.Waiter(r.now), r.c.timers.wait
			r.now += Millisecond // if the Conn restarts the timer, timers.wait changes
			s := r.segment(k.flags, k.seq-rigIRS-1, k.ack-rigISS-1, modelText[:k.n])
			var out Segment
			v := w.Segment(r.now, s, &out)
			r.c.Segment(r.now, s)
			sent := r.pull()

			restarted := r.c.timers.wait != wait
			require.Equal(t, restarted, v == WaitRestart, "%+v: the Conn restarts the timer: %v, the Waiter: %v", k, restarted, v)
			answers := v == WaitAck || v == WaitRestart
			if s.seqLen() == 0 && k.flags&wire.FlagACK != 0 && nxt.LessEq(k.seq) && k.seq.LessEq(edge) {
				// A Conn answers an empty segment in the window only if its ACK is unacceptable. A Waiter
				// does not check the ACK. As on Linux, it answers unless the segment is in order.
				require.Equal(t, k.seq != nxt, answers, "%+v: an empty segment", k)
			} else {
				require.Equal(t, len(sent) > 0, answers, "%+v: the Conn sends %v, the Waiter: %v", k, sent, v)
			}
			if answers && len(sent) > 0 {
				require.Len(t, sent, 1)
				want := sent[0].TCP
				want.NSACK, want.SACK = 0, out.SACK // a Waiter reports no duplicates (RFC 2883)
				require.Equal(t, want, out.TCP, "%+v", k)
			}
		})
		require.Greater(t, n, 500)
	}
}

func TestOnlyTheRSTOfAChallengeEndsTimeWait(t *testing.T) {
	r, w := waiting(t, true)
	segment := func(flags wire.TCPFlags, seq Seq, n int) (Verdict, Segment) {
		var out Segment
		v := w.Segment(r.now, r.segment(flags, seq, 0, modelText[:n]), &out)
		return v, out
	}
	// RFC 1337 3, F1: "Ignore RST segments in TIME-WAIT state."
	ignored := func(seqs ...Seq) {
		t.Helper()
		for _, seq := range seqs {
			for _, flags := range []wire.TCPFlags{0, wire.FlagACK, wire.FlagFIN, wire.FlagSYN} {
				v, out := segment(wire.FlagRST|flags, seq, 0)
				require.Equal(t, WaitDrop, v)
				require.Zero(t, out.Flags, "a RST is never answered")
			}
		}
	}
	challenge := func() {
		t.Helper()
		v, out := segment(wire.FlagSYN|wire.FlagACK, 1<<20, 0)
		require.Equal(t, WaitAck, v)
		require.Equal(t, wire.FlagACK, out.Flags)
		require.Equal(t, w.rcvNxt, Seq(out.Ack))
	}
	next := r.theirs()
	ignored(next, next-1, next+100)

	// RFC 5961 4.2: a peer that has forgotten the connection answers the challenge ACK with a RST "with the
	// sequence number derived from the ACK field".
	challenge()
	ignored(next-1, next+1, next+100)
	v, out := segment(wire.FlagRST, next, 0)
	require.Equal(t, WaitEnd, v)
	require.Zero(t, out.Flags)

	// An answer to an old duplicate is no challenge.
	challenge()
	v, _ = segment(wire.FlagACK, next-10, 5)
	require.Equal(t, WaitAck, v)
	ignored(next)

	// The caller sends the answer of WaitReuse as a challenge ACK if there is no listener.
	v, out = segment(wire.FlagSYN, 1<<20, 0)
	require.Equal(t, WaitReuse, v)
	require.Equal(t, wire.FlagACK, out.Flags)
	v, _ = segment(wire.FlagRST, next, 0)
	require.Equal(t, WaitEnd, v)
}

func TestASynReusesTimeWaitOnlyWhenItIsNewer(t *testing.T) {
	var out Segment
	t.Run("by timestamp", func(t *testing.T) {
		// RFC 6191 2: "If the timestamp of the incoming SYN is greater than the last timestamp seen",
		// the SYN may open a new connection.
		r, w := waiting(t, true)
		s := r.segment(wire.FlagSYN, 0, 0, nil)
		s.Seq -= 1 << 20 // older by number
		require.Equal(t, WaitReuse, w.Segment(r.now, s, &out))
		s.TSVal = w.tsRecent - 1
		require.Equal(t, WaitAck, w.Segment(r.now, s, &out), "older by time")
		s.TSVal = w.tsRecent
		require.Equal(t, WaitAck, w.Segment(r.now, s, &out), "the same time, and older by number")
		s.Seq = uint32(w.rcvNxt + 1)
		require.Equal(t, WaitReuse, w.Segment(r.now, s, &out), "the same time, and newer by number")
	})
	t.Run("by sequence number", func(t *testing.T) {
		r, w := waiting(t, false)
		s := r.segment(wire.FlagSYN, 0, 0, nil)
		s.Seq = uint32(w.rcvNxt + 1)
		require.Equal(t, WaitReuse, w.Segment(r.now, s, &out))
		s.Seq = uint32(w.rcvNxt - 100)
		require.Equal(t, WaitAck, w.Segment(r.now, s, &out))
	})
	t.Run("not with an ACK", func(t *testing.T) {
		r, w := waiting(t, true)
		s := r.segment(wire.FlagSYN|wire.FlagACK, 1<<20, 0, nil)
		require.Equal(t, WaitAck, w.Segment(r.now, s, &out))
	})
}

func TestTheISSAfterReuseIsBeyondTheOldNumbers(t *testing.T) {
	_, w := waiting(t, true)
	for _, iss := range []Seq{w.sndNxt - 1<<30, w.sndNxt, w.sndNxt + 1000, w.sndNxt + 65535, w.sndNxt + 65536, w.sndNxt + 1<<30} {
		next := w.NextISS(iss)
		require.True(t, (w.sndNxt + 65535).Less(next), "RFC 9293 3.4.3: larger than any number of the old connection")
		if (w.sndNxt + 65535).Less(iss) {
			require.Equal(t, iss, next)
		}
	}
}

func TestTwoWaitersDoNotAnswerEachOtherForever(t *testing.T) {
	// A simultaneous close leaves TIME-WAIT on both sides.
	for _, tc := range []struct {
		name    string
		off     Seq // added to both numbers of b
		answers int // until one of the two does not answer
	}{
		{"the numbers agree", 0, 1}, // b does not answer a's ACK
		// Each answer is out of order and causes the next one. Only the limit of ten answers per second ends
		// the exchange (RFC 5961 7): a does not send its 11th.
		{"b's numbers are greater", 1000, 20},
		{"b's numbers are less", ^Seq(999), 20},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := timeWait(t, rigOptions{modern: true})
			a := r.c.Waiter(r.now)
			// Make b the peer of a: each expects the other's numbers, but for tc.off. Their timestamp clocks
			// differ by 5 s.
			b := a
			b.sndNxt, b.rcvNxt = a.rcvNxt+tc.off, a.sndNxt+tc.off
			b.tsOffset = a.tsOffset + 5000
			a.tsRecent, b.tsRecent = tsClock(r.now)+b.tsOffset, tsClock(r.now)+a.tsOffset
			fin := Segment{TCP: wire.TCP{
				Seq: uint32(a.rcvNxt - 1), Ack: uint32(a.sndNxt), Flags: wire.FlagACK | wire.FlagFIN, HasTS: true, TSVal: a.tsRecent,
			}}
			var s Segment
			require.Equal(t, WaitRestart, a.Segment(r.now, &fin, &s))
			n := 1
			for to, from := &b, &a; n < 100; n++ {
				var answer Segment
				r.now += Millisecond // on the way
				v := to.Segment(r.now, &s, &answer)
				if v == WaitDrop {
					break
				}
				require.Equal(t, WaitAck, v, "TIME-WAIT is not prolonged")
				to, from, s = from, to, answer
			}
			require.Equal(t, tc.answers, n)
		})
	}
}

func TestATupleIsReopenedAtTheNextTimestamp(t *testing.T) {
	r, w := waiting(t, true)
	offset := w.TSOffset()
	require.Equal(t, r.now, w.ReopenAt(r.now, offset), "at once: the last timestamp was sent a second ago")
	var out Segment
	require.Equal(t, WaitAck, w.Segment(r.now, r.segment(wire.FlagACK, 0, 0, modelText[:1]), &out))
	at := w.ReopenAt(r.now, offset)
	require.Greater(t, at, r.now, "the current timestamp was sent")
	require.LessOrEqual(t, at, r.now+Millisecond)
	require.Positive(t, int32(Timestamp(at, offset)-out.TSVal), "the timestamp at that time is newer than the one that was sent")
	require.Equal(t, at, w.ReopenAt(at, offset))
	require.Equal(t, at+500*Millisecond, w.ReopenAt(r.now, offset-500), "the new connection's clock is 500 ms behind")

	r, w = waiting(t, false)
	require.Zero(t, w.ReopenAt(r.now, offset), "never, without timestamps")
}
