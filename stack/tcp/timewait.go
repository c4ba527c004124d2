package tcp

import "github.com/usernet/usernet/stack/wire"

// A Waiter is what is left of a connection in TIME-WAIT: enough to answer
// whatever comes late, and small enough for a table of many.
type Waiter struct {
	rcvNxt     Seq
	sndNxt     Seq
	tsRecent   uint32
	tsOffset   uint32
	tsSent     uint32 // no timestamp that was sent is later
	wnd        uint16
	scale      uint8 // of wnd
	ts         bool
	challenged bool  // the last answer was to a SYN: see Segment
	replies    uint8 // sent in the second that began at repliesAt
	repliesAt  Time
}

// Waiter returns what stands in for a connection whose State is TimeWait, and which
// has nothing to send at now.
func (c *Conn) Waiter(now Time) Waiter {
	return Waiter{
		rcvNxt: c.rcv.nxt, sndNxt: c.snd.nxt,
		tsRecent: c.rcv.tsRecent, tsOffset: c.snd.tsOffset, tsSent: c.tsVal(now), ts: c.tsOK,
		wnd: uint16(min(c.window()>>c.rcv.scale, 65535)), scale: c.rcv.scale,
	}
}

// A Verdict is what a Waiter makes of a segment.
type Verdict uint8

const (
	WaitDrop    Verdict = iota // nothing is due
	WaitAck                    // out is to be sent
	WaitRestart                // out is to be sent, and 2 MSL begin anew
	WaitReuse                  // a new connection may take the place: give the segment to the listener; without one, out is to be sent, unless it is empty
	WaitEnd                    // TIME-WAIT is over: the peer knows nothing of the connection
)

// Segment is RFC 9293 3.10.7.4 in TIME-WAIT. A segment that is answered has its
// answer in out. Answers are limited: see replyAllowed.
func (w *Waiter) Segment(now Time, s, out *Segment) Verdict {
	seq := Seq(s.Seq)
	if s.has(wire.FlagRST) {
		// RFC 1337 3, F1: "Ignore RST segments in TIME-WAIT state", lest an old
		// duplicate, our ACK of it and the peer's RST to that end it. But a peer
		// that sent a SYN which may not take the place, and resets what we answer,
		// has forgotten the connection. RFC 5961 4.2: "the remote TCP endpoint
		// would send a RST segment back [...] with the sequence number derived
		// from the ACK field".
		if w.challenged && seq == w.rcvNxt {
			return WaitEnd
		}
		return WaitDrop
	}
	old := w.ts && s.HasTS && int32(s.TSVal-w.tsRecent) < 0
	syn, ack := s.has(wire.FlagSYN), s.has(wire.FlagACK)
	switch {
	case syn && !ack && w.reusable(s, old):
		*out = Segment{}
		w.answer(now, out, true)
		return WaitReuse
	case syn:
	case seq == w.rcvNxt && s.seqLen() == 0:
		return WaitDrop // an acknowledgement in order needs no answer
	case !ack && !old && w.acceptable(seq, s.seqLen()):
		return WaitDrop // fifth: "if the ACK bit is off, drop the segment and return"
	}
	if !w.answer(now, out, syn) {
		return WaitDrop
	}
	if s.has(wire.FlagFIN) && ack && !old && seq+Seq(s.seqLen()) == w.rcvNxt {
		// "The only thing that can arrive in this state is a retransmission of
		// the remote FIN. Acknowledge it, and restart the 2 MSL timeout."
		return WaitRestart
	}
	return WaitAck
}

// acceptable is the first step, RFC 9293 3.4, table 6.
func (w *Waiter) acceptable(seq Seq, n int) bool {
	wnd := int(w.wnd) << w.scale
	return wnd > 0 && (seq.In(w.rcvNxt, wnd) || n > 0 && (seq+Seq(n-1)).In(w.rcvNxt, wnd))
}

// reusable tells whether a SYN may take the place: RFC 6191 2, where its
// timestamp is greater than the last one seen, or without timestamps RFC 9293
// 3.6.1: MAY, if its sequence number is greater.
func (w *Waiter) reusable(s *Segment, old bool) bool {
	if w.ts && s.HasTS {
		return !old && (s.TSVal != w.tsRecent || w.rcvNxt.Less(Seq(s.Seq)))
	}
	return w.rcvNxt.Less(Seq(s.Seq))
}

// ReopenAt returns when an active open whose timestamps have tsOffset may take the
// place, 0 if it never may. As with Linux's tcp_tw_reuse that is as soon as its
// timestamps are later than any that the old connection sent: by PAWS the peer then
// discards what is left of that one, and by them it takes our SYN if it is in
// TIME-WAIT itself (RFC 6191 2).
func (w *Waiter) ReopenAt(now Time, tsOffset uint32) Time {
	if !w.ts {
		return 0
	}
	ahead := int32(w.tsSent - Timestamp(now, tsOffset))
	if ahead < 0 {
		return now
	}
	return (now/Millisecond + Time(ahead) + 1) * Millisecond
}

// NextISS returns an initial sequence number for the connection that takes the
// place: beyond every number of the old one.
func (w *Waiter) NextISS(iss Seq) Seq {
	if iss.LessEq(w.sndNxt + 65535) {
		return w.sndNxt + 65535 + 2
	}
	return iss
}

// answer makes the acknowledgement in out, and reports whether one may be sent.
func (w *Waiter) answer(now Time, out *Segment, syn bool) bool {
	if !replyAllowed(now, &w.repliesAt, &w.replies) {
		return false
	}
	w.challenged = syn
	*out = Segment{TCP: wire.TCP{
		Seq: uint32(w.sndNxt), Ack: uint32(w.rcvNxt), Flags: wire.FlagACK, Window: w.wnd,
	}}
	if w.ts {
		w.tsSent = Timestamp(now, w.tsOffset)
		out.HasTS, out.TSVal, out.TSEcr = true, w.tsSent, w.tsRecent
	}
	return true
}

// TSOffset is the offset of the timestamps that were sent.
func (w *Waiter) TSOffset() uint32 { return w.tsOffset }

// RcvNxt is the next number that was expected.
func (w *Waiter) RcvNxt() Seq { return w.rcvNxt }
