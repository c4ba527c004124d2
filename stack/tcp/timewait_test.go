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
	r.now += Second
	r.peer += 1000
	return r, &w
}

func TestWaiterAgreesWithTheConnThatItStandsFor(t *testing.T) {
	for _, modern := range []bool{false, true} {
		first := timeWait(t, rigOptions{modern: modern})
		n := 0
		modelCases(tcbOf(&first.c), true, func(k modelCase) {
			if k.flags&(wire.FlagRST|wire.FlagSYN) != 0 {
				return // a Waiter treats RST and SYN differently on purpose: see the tests below
			}
			r := timeWait(t, rigOptions{modern: modern})
			w := r.c.Waiter(r.now)
			s := r.segment(k.flags, k.seq-rigIRS-1, k.ack-rigISS-1, modelText[:k.n])
			var out Segment
			v := w.Segment(r.now, s, &out)
			wait := r.c.timers.wait
			r.now += Millisecond
			r.c.Segment(r.now, s)
			sent := r.pull()
			if v == WaitRestart != (r.c.timers.wait != wait) {
				t.Fatalf("%+v: the Waiter says %v, the Conn restarts %v", k, v, r.c.timers.wait != wait)
			}
			if len(sent) > 0 && v == WaitDrop && s.seqLen() > 0 {
				t.Fatalf("%+v: the Conn answers, the Waiter does not", k)
			}
			if v == WaitAck || v == WaitRestart {
				require.Equal(t, wire.FlagACK, out.Flags)
				require.Equal(t, first.c.snd.nxt, Seq(out.Seq))
				require.Equal(t, first.c.rcv.nxt, Seq(out.Ack))
			}
			n++
		})
		require.Greater(t, n, 500)
	}
}

func TestAResetDoesNotEndTimeWait(t *testing.T) {
	// RFC 1337 3, F1: "Ignore RST segments in TIME-WAIT state."
	r, w := waiting(t, true)
	var out Segment
	for _, seq := range []Seq{r.theirs(), r.theirs() - 1, r.theirs() + 100} {
		for _, flags := range []wire.TCPFlags{0, wire.FlagACK, wire.FlagFIN, wire.FlagSYN} {
			require.Equal(t, WaitDrop, w.Segment(r.now, r.segment(wire.FlagRST|flags, seq, 0, nil), &out))
			require.Zero(t, out.Flags, "a RST is never answered")
		}
	}
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
	a, b := timeWait(t, rigOptions{modern: true}), timeWait(t, rigOptions{modern: true})
	wa, wb := a.c.Waiter(a.now), b.c.Waiter(b.now)
	// Give b the sequence numbers and the timestamps of a's peer.
	wb.sndNxt, wb.rcvNxt = wa.rcvNxt, wa.sndNxt
	wb.tsOffset, wb.tsRecent = 5000, tsClock(a.now)+wa.tsOffset
	wa.tsRecent = tsClock(a.now) + wb.tsOffset
	s := Segment{TCP: wire.TCP{Seq: uint32(wb.sndNxt - 1), Ack: uint32(wb.rcvNxt), Flags: wire.FlagACK | wire.FlagFIN, HasTS: true, TSVal: wa.tsRecent}}
	var out Segment
	require.Equal(t, WaitRestart, wa.Segment(a.now, &s, &out))
	for n := 0; ; n++ {
		require.Less(t, n, 3)
		var back Segment
		if wb.Segment(a.now, &out, &back) == WaitDrop {
			break
		}
		if wa.Segment(a.now, &back, &out) == WaitDrop {
			break
		}
	}
}

func TestATupleIsReopenedAtTheNextTimestamp(t *testing.T) {
	r, w := waiting(t, true)
	offset := w.TSOffset()
	require.Equal(t, r.now, w.ReopenAt(r.now, offset), "a second after TIME-WAIT began")
	var out Segment
	require.Equal(t, WaitAck, w.Segment(r.now, r.segment(wire.FlagACK, 0, 0, modelText[:1]), &out))
	at := w.ReopenAt(r.now, offset)
	require.Greater(t, at, r.now, "the current timestamp was sent")
	require.LessOrEqual(t, at, r.now+Millisecond)
	require.Less(t, int32(out.TSVal-Timestamp(at, offset)), int32(0))
	require.Equal(t, at, w.ReopenAt(at, offset))
	require.Equal(t, at+500*Millisecond, w.ReopenAt(r.now, offset-500), "a clock that is behind")

	r, w = waiting(t, false)
	require.Zero(t, w.ReopenAt(r.now, offset), "without timestamps")
}
