package tcp

import "github.com/usernet/usernet/stack/wire"

// A Waiter stands for a connection in TIME-WAIT. It holds only what is needed to answer late
// segments, so that a host can keep many.
type Waiter struct {
	rcvNxt     Seq
	sndNxt     Seq
	tsRecent   uint32
	tsOffset   uint32
	tsSent     uint32 // the latest timestamp that was sent
	wnd        uint16
	scale      uint8 // of wnd
	ts         bool
	challenged bool  // the last answer was to a SYN: see Segment
	replies    uint8 // number of answers in the second that began at repliesAt
	repliesAt  Time
}

// Waiter returns a Waiter for the connection, which must be in state TimeWait and have nothing
// to send.
func (c *Conn) Waiter(now Time) Waiter {
	return Waiter{
		rcvNxt: c.rcv.nxt, sndNxt: c.snd.nxt,
		tsRecent: c.rcv.tsRecent, tsOffset: c.snd.tsOffset, tsSent: c.tsVal(now), ts: c.tsOK,
		wnd: uint16(min(c.window()>>c.rcv.scale, 65535)), scale: c.rcv.scale,
	}
}

// A Verdict is a Waiter's decision about a segment.
type Verdict uint8

const (
	WaitDrop    Verdict = iota // ignore the segment
	WaitAck                    // send out
	WaitRestart                // send out and restart the 2 MSL timer
	WaitReuse                  // a new connection may reuse the addresses: see Waiter.Segment
	WaitEnd                    // end TIME-WAIT: the peer has forgotten the connection
)

// Segment processes a segment in TIME-WAIT (RFC 9293 3.10.7.4) and writes the answer, if any, to
// out. The rate of answers is limited: see replyAllowed.
//
// If the verdict is WaitReuse, the caller passes the segment to the listener. Without a listener, the
// caller sends out, unless out is empty because of the rate limit.
func (w *Waiter) Segment(now Time, s, out *Segment) Verdict {
	seq := Seq(s.Seq)
	if s.has(wire.FlagRST) {
		// RFC 1337 3, F1: "Ignore RST segments in TIME-WAIT state". Otherwise an old duplicate would
		// end the state: the peer answers our ACK of the duplicate with a RST. There is one exception:
		// the peer sent a SYN that was not accepted for reuse, and answers our ACK with a RST, because
		// it has forgotten the connection. RFC 5961 4.2: "the remote TCP endpoint would send a RST
		// segment back [...] with the sequence number derived from the ACK field".
		if w.challenged && seq == w.rcvNxt {
			return WaitEnd
		}
		return WaitDrop
	}
	old := w.ts && s.HasTS && int32(s.TSVal-w.tsRecent) < 0 // PAWS: s is an old duplicate
	syn, ack := s.has(wire.FlagSYN), s.has(wire.FlagACK)
	switch {
	case syn && !ack && w.reusable(s, old):
		*out = Segment{}
		w.answer(now, out, true)
		return WaitReuse
	case syn: // answer it: RFC 5961 4.2 requires a challenge ACK
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

// acceptable reports whether a segment passes the test of RFC 9293 3.4, table 6. n is SEG.LEN.
func (w *Waiter) acceptable(seq Seq, n int) bool {
	wnd := int(w.wnd) << w.scale
	return wnd > 0 && (seq.In(w.rcvNxt, wnd) || n > 0 && (seq+Seq(n-1)).In(w.rcvNxt, wnd))
}

// reusable reports whether a SYN may open a new connection with the same addresses: if its
// timestamp is greater than the last one seen (RFC 6191 2), or without timestamps, if its
// sequence number is greater (RFC 9293 3.6.1, MAY).
func (w *Waiter) reusable(s *Segment, old bool) bool {
	if w.ts && s.HasTS {
		return !old && (s.TSVal != w.tsRecent || w.rcvNxt.Less(Seq(s.Seq)))
	}
	return w.rcvNxt.Less(Seq(s.Seq))
}

// ReopenAt returns the time from which an active open with tsOffset may reuse the addresses, or 0 for
// never. As with Linux's tcp_tw_reuse, the timestamps of the new connection must be later than all that
// the old connection sent. Then the peer's PAWS discards old segments of the old connection, and a peer
// that is itself in TIME-WAIT accepts our SYN (RFC 6191 2).
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

// NextISS returns an initial sequence number for the connection that reuses the addresses. The number is
// more than 65535 beyond all numbers of the old connection, as on Linux. NextISS returns iss if iss meets
// this condition.
func (w *Waiter) NextISS(iss Seq) Seq {
	if iss.LessEq(w.sndNxt + 65535) {
		return w.sndNxt + 65535 + 2
	}
	return iss
}

// answer writes an acknowledgement to out. It returns false if the rate limit forbids it. syn tells
// whether the acknowledgement answers a SYN.
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

// TSOffset returns the Config.TSOffset of the connection.
func (w *Waiter) TSOffset() uint32 { return w.tsOffset }

// RcvNxt returns the connection's RCV.NXT.
func (w *Waiter) RcvNxt() Seq { return w.rcvNxt }
