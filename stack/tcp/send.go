package tcp

import "github.com/usernet/usernet/stack/wire"

// Next writes the next segment to be sent to out. It returns false if there is nothing to send
// now. The caller may skip or delay the call: each call derives what to send from the state.
func (c *Conn) Next(now Time, out *Segment) bool {
	switch {
	case c.rstUnsent:
		c.countRST()
		c.reset(now, out)
		return true
	case c.rcv.rstNow:
		// <SEQ=SEG.ACK><CTL=RST>
		c.rcv.rstNow = false
		c.countRST()
		*out = Segment{TCP: wire.TCP{Seq: c.rcv.rstSeq, Flags: wire.FlagRST}}
		if c.tsOK {
			// RFC 7323 3.2: "If the ACK bit is not set in the outgoing TCP header, the
			// sender of that segment SHOULD set the TSecr field to zero."
			out.HasTS, out.TSVal = true, c.tsVal(now)
		}
		return true
	case c.state == Closed, c.active == nil && !c.hasOutput():
		return false
	}
	c.activate(now)
	switch {
	case c.synUnsent:
		c.syn(now, out)
		return true
	case c.state == SynSent:
		return false
	}
	if c.state.synchronized() {
		c.cc.pace.release()
		if c.resend(now, out) || c.probe(now, out) || c.sendNew(now, out) {
			return true
		}
		if c.timers.keepNow {
			// RFC 9293 3.8.4: a probe has SEG.SEQ = SND.NXT-1 and no data.
			c.timers.keepNow = false
			c.count(KeepAliveProbes)
			c.header(now, out, c.snd.nxt-1, wire.FlagACK, false)
			return true
		}
	}
	if c.rcv.ackNow {
		c.header(now, out, c.ackSeq(), wire.FlagACK, false)
		return true
	}
	c.deactivateAfterProbe()
	return false
}

// ackSeq returns the sequence number of a segment without data: SND.NXT, unless the peer has shrunk its
// window. A peer that still honours the window it advertised (RFC 7323 2.4) accepts SND.NXT even then.
// Other peers accept only numbers up to the new right edge, so as on Linux the segment uses that edge.
// RFC 9293 3.8.6: "a sending TCP peer MUST be robust against window shrinking, which may cause the 'usable
// window' to become negative" (MUST-34).
//
// The peer may have received data beyond the edge meanwhile, and then the edge is too old. The peer's
// answer carries the number that it expects, in SEG.ACK. ackSeq returns that number even if the answer
// itself is unacceptable. Otherwise two peers that have both overrun the other's window would reject
// each other's segments forever.
func (c *Conn) ackSeq() Seq {
	s := &c.snd
	edge := c.sendEdge()
	switch {
	case s.nxt.LessEq(edge):
		return s.nxt
	case edge.Less(c.unacceptableAck) && c.unacceptableAck.LessEq(s.nxt):
		return c.unacceptableAck
	}
	return edge
}

// sendEdge returns the right edge of the peer's window for retransmissions: nothing beyond it is
// retransmitted. The edge is SND.UNA+SND.WND, or SND.NXT if SND.NXT is less than one unit of the window
// scale beyond that. Windows are rounded down to this unit, so they may seem to shrink by less than one
// unit. RFC 7323 2.4: "if the sequence number is out of window by
// less than 2^Rcv.Wind.Shift, then do normal retransmission(s) without regard to the
// receiver window as long as the original segment was in window when it was sent".
func (c *Conn) sendEdge() Seq {
	s := &c.snd
	edge := s.una + Seq(s.wnd)
	if edge.Less(s.nxt) && s.nxt-edge < 1<<s.scale {
		return s.nxt
	}
	return edge
}

// hasUnsent reports whether data or a FIN is queued that was never sent.
func (c *Conn) hasUnsent() bool {
	return c.unsent() > 0 || c.snd.fin && !c.snd.finSent && c.state != Closed
}

// shut reports whether the peer's window is zero while there is something to send or to
// retransmit. While the window is shut, the persist timer replaces the retransmission timer, and the
// window is probed.
func (c *Conn) shut() bool {
	s := &c.snd
	return s.wnd == 0 && c.state.synchronized() && c.sendEdge() == s.una && (s.una != s.nxt || c.hasUnsent())
}

// reset writes the last segment of an aborted connection: <SEQ=SND.NXT><CTL=RST> (see
// failReset). The segment also has an ACK, so that a peer that has not received our SYN,ACK accepts it.
func (c *Conn) reset(now Time, out *Segment) {
	c.rstUnsent = false
	c.events |= Dead
	*out = Segment{TCP: wire.TCP{
		Seq: c.rcv.rstSeq, Ack: uint32(c.rcv.nxt), Flags: wire.FlagRST | wire.FlagACK,
	}}
	if c.tsOK {
		// RFC 7323 3.2: once negotiated, "the TSopt MUST be sent in every non-<RST>
		// segment for the duration of the connection, and SHOULD be sent in an <RST>".
		out.HasTS, out.TSVal, out.TSEcr = true, c.tsVal(now), c.rcv.tsRecent
	}
}

// syn writes the SYN, or in SYN-RECEIVED the SYN,ACK.
func (c *Conn) syn(now Time, out *Segment) {
	c.synUnsent = false
	c.segsOut++
	*out = Segment{TCP: wire.TCP{
		Seq:    uint32(c.snd.iss),
		Flags:  wire.FlagSYN | c.ecnFlags(),
		Window: c.rcv.synWnd,
		// RFC 9293 3.7.1: "TCP implementations SHOULD send an MSS Option in
		// every SYN segment when its receive MSS differs from the default".
		MSS: uint16(min(c.rcv.announce, 65535)),
	}}
	first := c.state == SynSent
	out.SACKPermitted = !c.p.NoSACK && (first || c.sackOK)
	out.HasTS = !c.p.NoTimestamps && (first || c.tsOK)
	out.HasWScale = !c.p.NoWindowScale && (first || c.wsOK)
	out.WScale = c.rcv.scale
	if out.HasTS {
		out.TSVal = c.tsVal(now)
	}
	if !first {
		out.Flags |= wire.FlagACK
		out.Ack = uint32(c.rcv.nxt)
		if out.HasTS {
			out.TSEcr = c.rcv.tsRecent
		}
		c.ackSent()
	}
	if c.snd.lastData == 0 {
		c.snd.lastData = now
	} else {
		c.snd.synAgain = true
		c.retrans++
		c.count(SynRetrans)
		c.count(RetransSegs)
	}
	if c.timers.rtx == 0 {
		// A SYN,ACK that answers a repeated SYN does not restart the timer: otherwise a
		// peer that repeats its SYN could keep a half-open connection forever.
		c.timers.rtx, c.timers.rtxKind = now+c.rtt.timeout(c.timers.backoff, c.p), rtxRTO
	}
}

// header fills in the header of a segment of a synchronized connection. data tells whether the
// segment has a payload.
func (c *Conn) header(now Time, out *Segment, seq Seq, flags wire.TCPFlags, data bool) {
	r := &c.rcv
	c.segsOut++
	wnd := c.advertise()
	*out = Segment{TCP: wire.TCP{
		Seq: uint32(seq), Ack: uint32(r.nxt), Flags: flags | wire.FlagACK,
		Window: uint16(min(wnd>>r.scale, 65535)),
	}}
	if c.ecn.echo {
		out.Flags |= wire.FlagECE
	}
	if c.tsOK {
		out.HasTS, out.TSVal, out.TSEcr = true, c.tsVal(now), r.tsRecent
	}
	if c.sackOK && (r.nsack > 0 || r.dsack.start != r.dsack.end) {
		c.sackOptions(out, c.sackRoom(data))
	}
	c.ackSent()
}

// sackOptions fills in at most room SACK blocks: the duplicate first (RFC 2883 4), then the
// others.
func (c *Conn) sackOptions(out *Segment, room int) {
	r := &c.rcv
	n := 0
	if r.dsack.start != r.dsack.end && room > 0 {
		out.SACK[0] = wire.SACKBlock{Start: uint32(r.dsack.start), End: uint32(r.dsack.end)}
		c.count(DSACKSent)
		n = 1
		r.dsack = block{}
	}
	for _, b := range r.sack[:r.nsack] {
		if n < room {
			out.SACK[n] = wire.SACKBlock{Start: uint32(b.start), End: uint32(b.end)}
			n++
		}
	}
	out.NSACK = uint8(n)
}

// sackRoom returns how many SACK blocks fit in a segment. data tells whether the segment has a payload.
// RFC 2018 3: "a SACK option that specifies n blocks will have a length of 8*n+2 bytes, so the 40 bytes
// available for TCP options can specify a maximum of 4 blocks". With the Timestamps option the maximum
// is 3, and less if segments are very small.
func (c *Conn) sackRoom(data bool) int {
	n, room := 4, c.snd.mss-4 // less kind and length of the option, and two bytes of padding
	if c.tsOK {
		n = 3
	}
	if data {
		room -= minData
	}
	return max(min(n, room/8), 0)
}

// ackSent records that a segment with an acknowledgement is being sent.
func (c *Conn) ackSent() {
	r := &c.rcv
	r.ackNow = false
	r.unacked = 0
	r.lastAck = r.nxt
	r.thin.held = false
	c.timers.ack = 0
}

// segSize returns the payload in bytes of a full segment sent now, which is smaller if the segment
// reports SACK blocks (RFC 9293 3.7.1).
func (c *Conn) segSize() int {
	n := c.snd.mss
	r := &c.rcv
	if r.nsack > 0 || r.dsack.start != r.dsack.end {
		blocks := r.nsack
		if r.dsack.start != r.dsack.end {
			blocks++
		}
		if blocks = min(blocks, c.sackRoom(true)); blocks > 0 {
			n -= 4 + 8*blocks
		}
	}
	return n
}

// burst returns the maximum payload of one segment from Next: mss, or a multiple of it for a
// super-segment, limited by the pacer.
func (c *Conn) burst(mss int) int {
	if n := int(c.snd.gso); n > mss {
		if p := c.cc.pace; p != nil && p.rate > 0 {
			n = min(n, p.quantum(mss, n))
		}
		return n / mss * mss
	}
	return mss
}

// noteSent informs the pacer and BBR that s is sent now. first tells whether nothing was in flight
// before s.
func (c *Conn) noteSent(now Time, s *sent, first bool) {
	w := &c.cc
	if w.pace == nil {
		return
	}
	if w.bbr != nil {
		w.bbr.initRate(c)
		s.tx = w.bbr.sent(now, c.delivered, first, c.pipe(), c.sb.n)
	}
	w.pace.sent(now, s.len(), c.snd.mss, int(c.snd.gso))
}

// dataStart returns the sequence number of the first byte in the send queue: SND.UNA, or
// ISS+1 while the SYN is not acknowledged. The state decides, not a comparison with ISS: after
// 2^32-1 bytes SND.UNA equals ISS again.
func (c *Conn) dataStart() Seq {
	if c.state == SynSent || c.state == SynReceived {
		return c.snd.iss + 1
	}
	return c.snd.una
}

// dataEnd returns the sequence number after the last written byte. A FIN has this number.
func (c *Conn) dataEnd() Seq { return c.dataStart() + Seq(c.Unacked()) }

// data writes the segment with the bytes from seq to end. end may include the FIN. If there are more
// than mss bytes, the segment is a super-segment.
func (c *Conn) data(now Time, out *Segment, seq, end Seq, mss int) {
	last := c.dataEnd()
	flags := wire.FlagACK
	stop := end
	if last.Less(end) {
		flags |= wire.FlagFIN
		stop = last
	}
	if stop == last {
		// RFC 9293 3.9.1.2: "MUST set the PSH bit in the last buffered segment".
		flags |= wire.FlagPSH
	}
	if c.rcv.unacked > 0 && !c.holdsAck() {
		c.rcv.pingpong = true // this segment carries an acknowledgement
	}
	n := int(stop - seq)
	c.header(now, out, seq, flags, n > 0)
	if n == 0 {
		out.Flags &^= wire.FlagPSH
	}
	if n > 0 {
		c.snd.buf.payload(c.p, c.blocks(), out, int(seq-c.dataStart()), n)
	}
	if n > 0 {
		c.snd.dataSegs++
	}
	if n > mss {
		out.GSOSize = mss
		more := uint32((n - 1) / mss)
		c.segsOut += more
		c.snd.dataSegs += more
	}
}

// resend retransmits the first piece that is marked lost and not yet retransmitted, or a part of it. It
// returns false if there is no such piece, or if a window or the pacer does not allow it.
func (c *Conn) resend(now Time, out *Segment) bool {
	b := &c.sb
	p := b.firstOf(kindDue)
	if p.c == nil || c.rec.frto == frtoNew {
		return false // there is no such piece, or F-RTO sends new data first
	}
	// RFC 9293 3.8.6: if the peer has taken its window back, the sender "SHOULD
	// retransmit normally the old unacknowledged data between SND.UNA and
	// SND.UNA+SND.WND (SHLD-16)". It "MAY also retransmit old data beyond" that. We do
	// not: a peer that drops a segment which crosses the edge would never get the part
	// inside.
	admitted := int(int32(c.sendEdge() - p.sent().seq))
	if admitted <= 0 {
		return false
	}
	mss := c.segSize()
	if small := c.smallResend(); small > 0 {
		if b.resent > 0 {
			return false // the small piece is in flight
		}
		mss = min(mss, small)
	}
	room := c.cc.cwnd - c.pipe()
	n := min(p.sent().len(), c.burst(mss), admitted)
	if room < min(n, mss) {
		c.cc.note(c.pipe(), true)
		return false
	}
	if c.cc.pace.hold(now) {
		return false
	}
	if n > room {
		n = max(room/mss*mss, mss)
	}
	c.retransmit(now, out, p, c.evenBurst(p.sent().seq, min(n, p.sent().len()), mss), mss)
	return true
}

// retransmit writes a segment with the first n bytes of piece p, and marks them retransmitted.
func (c *Conn) retransmit(now Time, out *Segment, p piece, n, mss int) {
	b, r := &c.sb, &c.rec
	if n < p.sent().len() {
		p, _ = b.split(p, p.sent().seq+Seq(n))
	}
	s := p.sent()
	b.markResent(p, now)
	c.noteSent(now, s, false)
	if r.phase == phaseRecovery {
		r.out += n
	}
	if r.undoTS == 0 {
		r.undoTS = max(c.tsVal(now), 1)
	}
	r.undoCount += (n + mss - 1) / mss
	size := n
	if c.dataEnd().Less(s.end) {
		size-- // the FIN
	}
	c.countRetrans(max((size+mss-1)/mss, 1), size)
	c.data(now, out, s.seq, s.end, mss)
	if c.timers.rtx == 0 {
		c.armRtx(now, 0, true)
	}
}

// probe writes a tail loss probe (RFC 8985 7.3: new data if there is some and the window
// allows, "otherwise, retransmit the highest-sequence segment sent so far"), a zero-window
// probe, or a small segment that fills a small window.
func (c *Conn) probe(now Time, out *Segment) bool {
	mss := c.segSize()
	s := &c.snd
	unsent := c.unsent()
	room := int(int32(s.una + Seq(s.wnd) - s.nxt))
	if c.rec.tlpNow {
		c.rec.tlpNow = false
		if s.una == s.nxt || c.sb.lost > 0 || c.sb.sacked > 0 || c.sendEdge().Less(s.nxt) {
			return false // an acknowledgement has come since, or the window has shrunk
		}
		c.count(LossProbes)
		c.rec.tlpOut, c.rec.tlpEnd, c.rec.tlpRetrans = true, s.nxt, false
		if n := min(unsent, mss); n > 0 && n <= room {
			c.transmitNew(now, out, n, mss)
			c.rec.tlpEnd = s.nxt
			return true
		}
		c.rec.tlpRetrans = true
		// retransmit sets undoTS to the timestamp of the probe, which tells the probe from the
		// original. An earlier reduction can no longer be undone.
		c.rec.undoTS, c.rec.canUndo = 0, false
		p := c.sb.lastPiece()
		if s := p.sent(); s.len() > mss {
			_, p = c.sb.split(p, s.end-Seq(mss))
		}
		c.retransmit(now, out, p, p.sent().len(), mss)
		return true
	}
	if c.timers.probeNow {
		c.timers.probeNow = false
		if c.shut() {
			c.zeroWindowProbe(now, out)
			return true
		}
		if n := min(room, unsent, mss); n > 0 && s.una == s.nxt {
			c.transmitNew(now, out, n, mss) // RFC 9293 3.8.6.2.1: "the override timeout occurs"
			return true
		}
	}
	return false
}

// zeroWindowProbe writes a segment that the peer must answer. RFC 9293 3.8.6.1: "Probing of zero
// (offered) windows MUST be supported (MUST-36)". As on Linux, the probe has an old sequence number,
// SND.UNA-1, and no data. If the probe had new data, a peer that has just opened its window would accept
// the data, and any other peer would refuse it. The sender would not know which of the two has happened.
func (c *Conn) zeroWindowProbe(now Time, out *Segment) {
	t := &c.timers
	t.persists = min(t.persists+1, 30)
	t.probes = min(t.probes+1, 254)
	c.count(WinProbe)
	c.header(now, out, c.snd.una-1, wire.FlagACK, false)
	c.armPersist(now)
}

// persistExpired schedules a window probe, or ends the connection if too many probes were not answered.
// RFC 9293 3.8.6.1: "As long as the receiving TCP peer continues to send acknowledgments in response to
// the probe segments, the sending TCP peer MUST allow the connection to stay open" (MUST-37). An
// application may still close the connection. RFC 6429 4: the application or the operating system may
// close connections in this state without violating TCP.
//
// An orphan has no application, so the stack ends it as Linux does, in either of two cases:
// orphanRetries consecutive probes were not answered, or the time between two probes, answered or not,
// has grown to MaxRTO. The latter happens about five minutes after the window closed.
func (c *Conn) persistExpired() {
	t := &c.timers
	retries := c.p.Retries
	if c.orphan {
		if retries = min(retries, orphanRetries); c.rtt.timeout(t.persists, c.p) >= c.p.MaxRTO {
			retries = 0
		}
	}
	if c.shut() && t.probes >= retries {
		c.timedOut()
		return
	}
	t.probeNow = true
}

// unsent returns the number of bytes that were written and never sent.
func (c *Conn) unsent() int {
	if c.snd.finSent || c.state == Closed {
		return 0 // SND.NXT is past the FIN, or the queue is gone
	}
	return int(c.dataEnd() - c.snd.nxt)
}

// sendNew writes a segment with new data, the FIN, or both. It returns false if there is nothing to
// send, or if a window, Nagle's algorithm, or the pacer does not allow it.
func (c *Conn) sendNew(now Time, out *Segment) bool {
	s := &c.snd
	if s.finSent {
		return false
	}
	unsent := c.unsent()
	if unsent == 0 && !s.fin {
		return false
	}
	if s.una == s.nxt && s.lastData != 0 {
		// After an idle RTO the congestion window shrinks (RFC 5681 4.1).
		if rto := c.rtt.timeout(0, c.p); now-s.lastData > rto && now-c.rcv.last > rto {
			c.cc.idle(c, now-s.lastData, rto)
		}
	}
	mss := c.segSize()
	n := unsent
	if n > mss {
		n = min(n, c.burst(mss))
	}
	pipe := c.pipe()
	if room := c.cc.cwnd - pipe; room < min(n, mss) {
		c.cc.note(pipe, true)
		return false
	} else if n > room {
		n = room / mss * mss
	}
	room := int(int32(s.una + Seq(s.wnd) - s.nxt))
	if room < n || room < 1 { // a FIN alone needs one byte
		n = max(room, 0)
		if c.cc.bbr != nil && s.una == s.nxt {
			c.cc.bbr.limited(c.delivered, 0) // the peer's window limits the rate, not the path
		}
		if n == 0 {
			c.armPersist(now)
			return false
		}
	}
	if c.pl != nil { // send a probe for the path MTU, if one is due
		p, wait := c.probeSize(now, unsent, room)
		if wait {
			return false
		}
		if p > 0 && !c.cc.pace.hold(now) {
			c.probed(s.nxt, p)
			c.transmitNew(now, out, p, p)
			return true
		}
	}
	if n > mss && (n < unsent || !c.noDelay && !s.fin) {
		n = n / mss * mss // mayBeSmall decides about the remainder
	}
	n = c.evenBurst(s.nxt, n, mss)
	if n < mss && !c.mayBeSmall(now, n, unsent) || c.cc.pace.hold(now) {
		return false
	}
	c.transmitNew(now, out, n, mss)
	c.cc.note(c.pipe(), false)
	return true
}

// mayBeSmall reports whether the sender's silly window avoidance and Nagle's algorithm (RFC 9293
// 3.8.6.2.1 and 3.7.4) allow a segment of n bytes that is not full. If not, and n is limited by the
// window, it starts the persist timer.
func (c *Conn) mayBeSmall(now Time, n, unsent int) bool {
	s := &c.snd
	if n == unsent {
		// "(2) or if the data is pushed and all queued data can be sent now";
		// Nagle: "[SND.NXT = SND.UNA and] PUSHed and D =< U".
		return c.noDelay || s.fin || s.una == s.nxt
	}
	// "(3) or if at least a fraction Fs of the maximum window can be sent":
	// "its recommended value is 1/2".
	if n >= int(s.maxWnd/2) {
		return true
	}
	c.armPersist(now)
	return false
}

// armPersist starts the persist timer for a window that is zero or too small. While data is in flight,
// the timer is needed only if the window is shut, because an acknowledgement will carry a new window.
// RFC 9293 3.8.6.1: "The transmitting host SHOULD send the first zero-window probe when a zero window
// has existed for the retransmission timeout period, and SHOULD increase exponentially the interval
// between successive probes."
func (c *Conn) armPersist(now Time) {
	t := &c.timers
	if t.persist != 0 || t.probeNow || c.snd.una != c.snd.nxt && !c.shut() {
		return
	}
	if c.snd.una == c.snd.nxt && t.persists == 0 {
		c.snd.progress = now // the user timeout begins
	}
	wait := c.rtt.timeout(t.persists, c.p)
	if c.snd.wnd > 0 {
		// RFC 9293 3.8.6.2.1: "The override timeout should be in the range 0.1 -
		// 1.0 seconds". There is no backoff, because the window is not zero.
		wait = min(max(c.rtt.timeout(0, c.p), 100*Millisecond), Second)
	}
	t.persist = now + wait
}

// transmitNew writes a segment with n bytes of new data, and the FIN if it comes next and the window
// allows.
func (c *Conn) transmitNew(now Time, out *Segment, n, mss int) {
	s := &c.snd
	seq := s.nxt
	end := seq + Seq(n)
	if s.fin && end == c.dataEnd() && end.Less(s.una+Seq(s.wnd)) {
		end++
		s.finSent = true
	}
	first := s.una == s.nxt
	if first {
		s.progress = now
		if c.cc.bbr != nil {
			c.cc.bbr.restart(c, now)
		}
	}
	piece := c.sb.push(seq, end, now)
	s.nxt = end
	c.noteSent(now, piece, first)
	s.lastData = now
	if c.rec.phase == phaseRecovery {
		c.rec.out += n
	}
	c.data(now, out, seq, end, mss)
	if c.ecn.on && n > 0 {
		// RFC 3168 6.1.5: retransmissions are not ECN-capable. 6.1.6: "the TCP data sender
		// MUST NOT set either an ECT codepoint or the CWR bit on window probe packets":
		// our probes have no data.
		out.ECT = !c.ecn.mute
		if c.ecn.cwr {
			c.ecn.cwr = false
			out.Flags |= wire.FlagCWR
		}
	}
	if c.timers.rtx == 0 {
		c.armRtx(now, 0, true)
	} else {
		c.armProbe(now)
	}
}
