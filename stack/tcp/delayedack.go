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
	if seg := s.GSOSize; seg == 0 && n > r.mss { // a super-segment is longer than the peer's segments
		r.mss = n
	}
	r.unacked += uint32(n)
	full := r.mss
	first := r.lastData == 0
	idle := now-r.lastData > c.rtt.rto
	c.noteRun(now, n, idle || r.ooo.n > 0)
	r.thin.noteArrival(now, c.receiverLeastRTT())
	if idle {
		// No data has arrived for an RTO. Probably the sender had a timeout or was idle. After
		// either, the sender is in slow start again.
		r.quick = quickSegments
	}
	r.lastData = now
	if int(r.unacked) >= 2*full || r.ooo.n > 0 {
		if r.ooo.n > 0 || !c.thinAck(now, s) {
			r.ackNow = true
		}
		return
	}
	if r.quick > 0 && !r.pingpong {
		// The sender may be in slow start: each acknowledgement grows its window.
		r.quick--
		if n >= full || !s.has(wire.FlagPSH) || c.snd.lastData != 0 && !(first && c.isFirstAnswer()) {
			r.ackNow = true
			return
		}
		// This is a small segment with PSH. We have sent no data yet, or the segment is the
		// first answer to our data. So it is a whole request or a whole answer. If our reply
		// or our FIN follows soon, it can carry the acknowledgement, which saves a short
		// connection a segment or two.
		c.ackSoon(now)
		return
	}
	if c.timers.ack == 0 {
		c.timers.ack = now + c.p.DelayedAck
	}
}

// isFirstAnswer reports whether the first data from the peer is an answer to our data. That is so if we
// opened the connection and the peer has acknowledged everything that we sent.
func (c *Conn) isFirstAnswer() bool { return !c.passive && c.snd.una == c.snd.nxt }

// ackSoon schedules an acknowledgement for answerTime from now. If the application sends data
// earlier, the data carries the acknowledgement.
func (c *Conn) ackSoon(now Time) {
	if at := now + answerTime; c.timers.ack == 0 || at < c.timers.ack {
		c.timers.ack = at
	}
}
