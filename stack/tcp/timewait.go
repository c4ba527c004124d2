package tcp

import "github.com/usernet/usernet/stack/wire"

// A Waiter is what is left of a connection in TIME-WAIT: enough to answer
// whatever comes late, and small enough for a table of many.
type Waiter struct {
	rcvNxt   Seq
	sndNxt   Seq
	tsRecent uint32
	tsOffset uint32
	wnd      uint16
	ts       bool
}

// Waiter returns what stands in for a connection whose State is TimeWait.
func (c *Conn) Waiter() Waiter {
	return Waiter{
		rcvNxt: c.rcv.nxt, sndNxt: c.snd.nxt,
		tsRecent: c.rcv.tsRecent, tsOffset: c.snd.tsOffset, ts: c.tsOK,
		wnd: uint16(min(c.window()>>c.rcv.scale, 65535)),
	}
}

// A Verdict is what a Waiter makes of a segment.
type Verdict uint8

const (
	WaitDrop    Verdict = iota // nothing is due
	WaitAck                    // out is to be sent
	WaitRestart                // out is to be sent, and 2 MSL begin anew
	WaitReuse                  // a new connection may take the place: give the segment to the listener; without one, out is to be sent
)

// Segment is RFC 9293 3.10.7.4 in TIME-WAIT. A segment that is answered has its
// answer in out. A reset never ends TIME-WAIT (RFC 1337 3, fix F1: "Ignore RST
// segments in TIME-WAIT state").
func (w *Waiter) Segment(now Time, s, out *Segment) Verdict {
	if s.has(wire.FlagRST) {
		return WaitDrop
	}
	old := w.ts && s.HasTS && int32(s.TSVal-w.tsRecent) < 0
	w.ack(now, out)
	if s.has(wire.FlagSYN) && !s.has(wire.FlagACK) && w.reusable(s, old) {
		return WaitReuse
	}
	if s.has(wire.FlagFIN) && !old && Seq(s.Seq)+Seq(s.seqLen()) == w.rcvNxt {
		// "The only thing that can arrive in this state is a retransmission of
		// the remote FIN. Acknowledge it, and restart the 2 MSL timeout."
		return WaitRestart
	}
	if s.seqLen() == 0 && Seq(s.Seq) == w.rcvNxt {
		return WaitDrop // an acknowledgement in order needs no answer
	}
	return WaitAck
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

// NextISS returns an initial sequence number for the connection that takes the
// place: beyond every number of the old one.
func (w *Waiter) NextISS(iss Seq) Seq {
	if iss.LessEq(w.sndNxt + 65535) {
		return w.sndNxt + 65535 + 2
	}
	return iss
}

func (w *Waiter) ack(now Time, out *Segment) {
	*out = Segment{TCP: wire.TCP{
		Seq: uint32(w.sndNxt), Ack: uint32(w.rcvNxt), Flags: wire.FlagACK, Window: w.wnd,
	}}
	if w.ts {
		out.HasTS, out.TSVal, out.TSEcr = true, tsClock(now)+w.tsOffset, w.tsRecent
	}
}

// RcvNxt is the next number that was expected.
func (w *Waiter) RcvNxt() Seq { return w.rcvNxt }
