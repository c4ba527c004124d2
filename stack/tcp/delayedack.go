package tcp

import "github.com/usernet/usernet/stack/wire"

// quickSegments is how many segments are acknowledged immediately when the sender may be in
// slow start. Linux uses the same number.
const quickSegments = 16

// answerTime is how long the acknowledgement of a whole request or answer is delayed while the
// sender may be in slow start, so that the application's reply can carry it. It bounds how long
// a peer with Nagle's algorithm holds back the second half of a request.
const answerTime = Millisecond

// scheduleAck decides when received data is acknowledged. RFC 5681 4.2: "an ACK
// SHOULD be generated for at least every second full-sized segment, and MUST be
// generated within 500 ms of the arrival of the first unacknowledged packet".
func (c *Conn) scheduleAck(now Time, s *Segment) {
	r := &c.rcv
	n := s.DataLen()
	if seg := s.GSOSize; seg == 0 && n > r.mss {
		r.mss = n
	}
	r.unacked += uint32(n)
	full := r.mss
	first := r.lastData == 0
	if now-r.lastData > c.rtt.rto {
		// After so long a pause the sender begins anew, be it from a timeout or
		// from having had nothing to send.
		r.quick = quickSegments
	}
	r.lastData = now
	if int(r.unacked) >= 2*full || len(r.ooo) > 0 {
		r.ackNow = true
		return
	}
	if r.quick > 0 && !r.chatty {
		// The sender is in slow start: each acknowledgement lets it grow.
		r.quick--
		if n >= full || !s.has(wire.FlagPSH) || c.snd.lastData != 0 && !(first && c.isAnswer()) {
			r.ackNow = true
			return
		}
		// But this is no burst: it is the whole of a request, and we have said
		// nothing so far, or of the answer to ours. What we say next, or our FIN,
		// will carry the acknowledgement, if it comes soon: a short connection
		// needs a segment or two less.
		c.ackSoon(now)
		return
	}
	if c.timers.ack == 0 {
		c.timers.ack = now + c.p.DelayedAck
	}
}

// isAnswer reports whether the first text that comes is an answer: we opened the
// connection, and all that we have sent has arrived.
func (c *Conn) isAnswer() bool { return !c.passive && c.snd.una == c.snd.nxt }

// ackSoon has what came acknowledged by what the application sends within
// answerTime, or else by itself.
func (c *Conn) ackSoon(now Time) {
	if at := now + answerTime; c.timers.ack == 0 || at < c.timers.ack {
		c.timers.ack = at
	}
}
