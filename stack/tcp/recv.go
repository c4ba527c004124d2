package tcp

import "github.com/usernet/usernet/stack/wire"

// A verdict is the result of one step of segment processing.
type verdict uint8

const (
	keep          verdict = iota // go on to the next step
	drop                         // drop the segment
	dropAck                      // drop it and send an acknowledgement
	dropChallenge                // drop it and send a challenge ACK (RFC 5961)
)

// Segment processes an arrived segment in the order of RFC 9293 3.10.7. The caller has verified the
// checksum. Segment does not keep s or its payload after it returns.
func (c *Conn) Segment(now Time, s *Segment) {
	if c.state == Closed {
		return // the caller answers with Reset (3.10.7.1)
	}
	c.activate(now)
	c.countIn(s)
	if c.state == SynSent {
		c.synSent(now, s)
		return
	}
	const synAckRst = wire.FlagSYN | wire.FlagACK | wire.FlagRST
	if c.state == SynReceived && !c.passive && s.Flags&synAckRst == wire.FlagSYN|wire.FlagACK && Seq(s.Seq) == c.rcv.irs {
		// RFC 9293 3.5, figure 7: in a simultaneous open each side answers the other's
		// SYN by a SYN,ACK. The SYN was received before, so treat the SYN,ACK as a pure ACK.
		ack := *s
		ack.Flags &^= wire.FlagSYN
		ack.hadSYN = true
		ack.Seq++
		s = &ack
	}
	v := c.checkSequence(now, s)
	if v == keep {
		v = c.checkReset(s)
	}
	if v == keep {
		v = c.checkSyn(s)
	}
	if v == keep {
		v = c.checkAck(now, s)
	}
	if v == keep {
		c.rcv.last = now
		c.timers.keepProbes, c.timers.probes = 0, 0
		c.noteTimestamp(now, s)
		c.noteOrigin(s)
		v = c.segmentData(now, s)
	}
	switch v {
	case dropAck:
		c.rcv.ackNow = true
	case dropChallenge:
		c.challenge(now)
	}
}

// synSent processes a segment in SYN-SENT (3.10.7.3).
func (c *Conn) synSent(now Time, s *Segment) {
	ack := Seq(s.Ack)
	if s.has(wire.FlagACK) {
		// First: "If SEG.ACK =< ISS, or SEG.ACK > SND.NXT, send a reset (unless
		// the RST bit is set) [...] and discard the segment."
		if ack.LessEq(c.snd.iss) || c.snd.nxt.Less(ack) {
			if !s.has(wire.FlagRST) {
				c.rstFor(s)
				// The RST ends an old connection of the peer. As on Linux, send the
				// SYN again after the RST, unless it was retransmitted already.
				c.synUnsent = c.synUnsent || !c.snd.synAgain
			}
			return
		}
	}
	if s.has(wire.FlagRST) {
		// Second: "If the ACK was acceptable, then signal to the user 'error:
		// connection reset', drop the segment, enter CLOSED state".
		if s.has(wire.FlagACK) {
			c.fail(ErrRefused)
		}
		return
	}
	if !s.has(wire.FlagSYN) {
		return // Fifth: "if neither of the SYN or RST bits is set, then drop the segment"
	}
	// Fourth: "RCV.NXT is set to SEG.SEQ+1, IRS is set to SEG.SEQ."
	c.rcv.last = now
	c.takeSyn(now, s)
	c.takeOptions(s)
	c.noteOrigin(s)
	// RFC 7323 2.2: the window of a SYN is never scaled.
	c.snd.wnd = uint32(s.Window)
	c.snd.maxWnd = c.snd.wnd
	c.snd.wl1, c.snd.wl2 = Seq(s.Seq), ack
	if !s.has(wire.FlagACK) {
		// "Otherwise, enter SYN-RECEIVED, form a SYN,ACK segment": a simultaneous
		// open. Data is kept until the connection is established.
		c.state = SynReceived
		c.synUnsent = true
		c.timers.rtx = 0
		if s.DataLen() > 0 || s.has(wire.FlagFIN) {
			c.takeData(now, Seq(s.Seq)+1, s)
		}
		return
	}
	c.synAcked(now, s, ack)
	c.rcv.ackNow = true
	c.established()
	if s.DataLen() > 0 || s.has(wire.FlagFIN) {
		c.takeData(now, Seq(s.Seq)+1, s)
	}
}

// synAcked processes the acknowledgement of our SYN.
func (c *Conn) synAcked(now Time, s *Segment, ack Seq) {
	c.snd.una = ack
	// If the SYN was retransmitted, only timestamps give a valid sample. After a SYN cookie
	// (lastData is 0) there is no sample, because the cookie uses the timestamp's low bits.
	if !c.snd.synAgain && c.snd.lastData != 0 {
		c.rtt.sample(now, now-c.snd.lastData, c.p)
		c.rcv.drs.rtt = c.rtt.srtt
	} else if c.snd.synAgain && c.tsOK && s.TSEcr != 0 {
		if d := int32(c.tsVal(now) - s.TSEcr); d >= 0 {
			c.rtt.sample(now, max(Time(d)*Millisecond, Millisecond), c.p)
		}
	}
	if c.timers.backoff > 0 {
		// RFC 6298 5.7: after a lost SYN "the RTO MUST be re-initialized to 3
		// seconds when data transmission begins". As on Linux, this is done only if no
		// timestamp has given a sample.
		if c.rtt.srtt == 0 {
			c.rtt.rto = min(fallbackRTO, c.p.MaxRTO)
		}
		// RFC 5681 3.1: "If the SYN or SYN/ACK is lost, the initial window used
		// by a sender after a correctly transmitted SYN MUST be one segment".
		c.cc.cwnd = min(c.cc.cwnd, c.snd.mss)
	}
	c.timers.rtx, c.timers.backoff = 0, 0
	c.sb.reset(ack)
	c.cc.round = ack
}

// established enters ESTABLISHED, or a later state if our FIN is queued or the peer's FIN has arrived.
func (c *Conn) established() {
	if c.passive {
		c.count(PassiveOpens)
	}
	c.state = Established
	c.synUnsent = false
	c.events |= Connected | Writable
	c.snd.lastData = 0 // no data was sent yet: lastData was the time of the SYN
	if c.snd.fin {
		c.state = FinWait1
	}
	// The SYN may have carried a FIN.
	if c.finReceived() {
		c.peerFinished()
		c.rcv.ackNow = true
	}
}

// acceptable reports whether s passes the test of RFC 9293 3.4, table 6. The test is widened, so that
// segments of a peer that has filled or overrun the window are still processed. The ACK and the window
// of an acceptable segment are used. Of its data, only the part in the window is stored (see takeData).
//
// The window extends to the farthest right edge ever advertised. RFC 7323 2.4: "The receiver MUST
// honor, as in window, any segment that would have been in window for any <ACK> sent by the receiver."
// A segment may begin at that edge: RFC 9293 3.10.7.4: "If the RCV.WND is zero, no segments will be
// acceptable, but special allowance should be made to accept valid ACKs, URGs, and RSTs." A segment
// without data may begin as early as the last acknowledgement that we sent, as on Linux (rcv_wup). The
// reason is a peer that has seen our window shrink. Such a peer uses the new right edge as the sequence
// number of its acknowledgements (see ackSeq). If we have accepted data beyond the new edge since our last
// acknowledgement, RCV.NXT is above the peer's sequence number.
//
// Each accepted number, except the right edge itself, was in a window that we advertised. The test
// therefore accepts only one number that was in no advertised window, and a blind attacker gains nothing.
func (c *Conn) acceptable(s *Segment) bool {
	r := &c.rcv
	seq, n := Seq(s.Seq), s.seqLen()
	if s.Flags&(wire.FlagACK|wire.FlagSYN) != wire.FlagACK {
		// There is no ACK to process, or there is a SYN: apply table 6 as it is.
		if wnd := c.window(); wnd > 0 {
			return seq.In(r.nxt, wnd) || n > 0 && (seq+Seq(n-1)).In(r.nxt, wnd)
		}
		return n == 0 && seq == r.nxt
	}
	if n == 0 {
		return r.lastAck.LessEq(seq) && seq.LessEq(c.farEdge())
	}
	return r.nxt.Less(seq+Seq(n)) && seq.LessEq(c.farEdge())
}

// farEdge returns the farthest right edge that was ever advertised, or RCV.NXT if that is greater. RCV.NXT
// is greater after a FIN that began at the edge.
func (c *Conn) farEdge() Seq { return maxSeq(c.rcv.maxEdge, c.rcv.nxt) }

// window returns RCV.WND: the part of the advertised window that is not yet used.
func (c *Conn) window() int { return max(int(int32(c.rcv.edge-c.rcv.nxt)), 0) }

// checkSequence is the first step: it checks the sequence number, after PAWS (RFC 7323 5.3).
func (c *Conn) checkSequence(now Time, s *Segment) verdict {
	seq := Seq(s.Seq)
	// RFC 7323 3.2: "If a non-<RST> segment is received without a TSopt, a TCP SHOULD
	// silently drop the segment." Like Linux we accept it, without PAWS: Windows and some
	// middleboxes negotiate timestamps and then omit them. If we dropped their segments, such a
	// connection would carry no data.
	if c.tsOK && s.HasTS && !s.has(wire.FlagRST) && c.paws(now, s) && !c.besideHole(s) {
		c.count(PAWSEstab)
		// RFC 7323 5.3 R1: "Send an acknowledgment in reply [...] and drop the segment".
		return c.unacceptable(now, s)
	}
	if c.state == SynReceived && seq == c.rcv.irs && s.Flags&(wire.FlagSYN|wire.FlagACK|wire.FlagRST) == wire.FlagSYN {
		// The peer has not received our SYN,ACK. Send it again and echo the timestamp of this SYN. An
		// echo of the first SYN's timestamp would make the peer's round-trip time include the time
		// between the two SYNs.
		c.noteTimestamp(now, s)
		c.withdrawOptions(s)
		c.synUnsent = c.synUnsent || c.replyAllowed(now)
		return drop
	}
	if s.has(wire.FlagRST) {
		return keep // checkReset checks its sequence number
	}
	if !c.acceptable(s) {
		// "If an incoming segment is not acceptable, an acknowledgment should
		// be sent in reply (unless the RST bit is set [...])"
		if s.has(wire.FlagACK) {
			c.unacceptableAck = Seq(s.Ack)
		}
		if c.provesLife(s) {
			c.rcv.last = now
			c.timers.keepProbes = 0
		}
		return c.unacceptable(now, s)
	}
	return keep
}

// noteTimestamp implements RFC 7323 4.3 (2): "If: SEG.TSval >= TS.Recent and SEG.SEQ <= Last.ACK.sent
// then SEG.TSval is copied to TS.Recent". The segment must have passed all tests, those of RFC 5961
// included. Otherwise an attacker who guesses a sequence number could make PAWS discard everything that
// the peer sends.
func (c *Conn) noteTimestamp(now Time, s *Segment) {
	if seq := Seq(s.Seq); c.tsOK && s.HasTS && seq.LessEq(c.rcv.lastAck) {
		c.takeStamp(now, seq, s.TSVal)
	}
}

// paws reports whether PAWS rejects a segment as an old duplicate. RFC 7323 5.3 R1:
// "If there is a Timestamps option in the arriving segment, SEG.TSval <
// TS.Recent, TS.Recent is valid [...], then treat the arriving segment as not
// acceptable".
func (c *Conn) paws(now Time, s *Segment) bool {
	return int32(s.TSVal-c.rcv.tsRecent) < 0 && now-c.rcv.tsRecentAt < pawsValid
}

// pawsValid is how long TS.Recent stays valid for comparison (RFC 7323 5.5).
const pawsValid = 24 * 24 * 3600 * Second

// takeStamp updates TS.Recent with the timestamp of a new segment that begins at seq. It also replaces
// the mark (see overtaken) if the mark is too old.
func (c *Conn) takeStamp(now Time, seq Seq, ts uint32) {
	r := &c.rcv
	// RFC 7323 5.5: if TS.Recent is no longer valid, "replace TS.Recent".
	old := now-r.tsRecentAt >= pawsValid
	if int32(ts-r.tsRecent) < 0 && !old {
		return
	}
	if old || seq-r.markSeq >= markRange || ts-r.markTS >= markRange {
		r.markTS, r.markSeq = ts, seq
	}
	r.tsRecent, r.tsRecentAt = ts, now
}

// markRange is the number of bytes, or of ticks of the peer's timestamp clock, after which a mark is
// replaced.
const markRange = 1 << 30

// besideHole reports whether s has data that may be accepted although its timestamp is older than
// TS.Recent (see overtaken), because there is a hole in the received data. Without a hole, no
// retransmission can have overtaken s.
func (c *Conn) besideHole(s *Segment) bool {
	end := Seq(s.Seq) + Seq(s.DataLen())
	return c.rcv.ooo.n > 0 && s.DataLen() > 0 && !s.has(wire.FlagSYN) && c.overtaken(end, s.TSVal)
}

// overtaken reports whether the data of a segment was sent after the mark (markTS, markSeq) and before
// the segment that gave TS.Recent. The data ends at sequence number end, and the segment has timestamp
// ts. If such data is in the window, it is not from an earlier wrap of the sequence space, and PAWS need
// not discard it.
//
// This matters after a retransmission has filled a hole. TS.Recent is then newer than all
// segments sent before the retransmission. PAWS would discard those that arrive late, and the
// peer would send them again. RFC 7323 5.3: "In certain unlikely circumstances, the algorithm of
// rules R1-R5 could lead to discarding some segments unnecessarily". On parallel links such
// circumstances are likely.
//
// Proof: end is less than 2^31 above markSeq, because the mark is replaced after 2^30 bytes
// (markRange) and the window is at most 2^30. The same number in the previous wrap is more than
// 2^31 below markSeq. When the mark's segment was sent, all data more than a window (2^30) below
// markSeq had been acknowledged, and acknowledged data is never sent again. The timestamp clock
// does not go back, because it is "at least approximately proportional to real time" (RFC 7323
// 5.4). So no segment of the previous wrap has a timestamp newer than markTS.
func (c *Conn) overtaken(end Seq, ts uint32) bool {
	r := &c.rcv
	age := ts - r.markTS
	return age > 0 && age < r.tsRecent-r.markTS && end-r.markSeq < 2*markRange
}

// unacceptable decides how to answer an unacceptable segment. Data is always acknowledged, because its
// sender waits for that. The answers to other segments are limited to the rate of challenge ACKs:
// otherwise two hosts that disagree could answer each other forever.
func (c *Conn) unacceptable(now Time, s *Segment) verdict {
	seq, n := Seq(s.Seq), s.DataLen()
	if c.state == TimeWait && s.has(wire.FlagFIN) && s.has(wire.FlagACK) && seq+Seq(s.seqLen()) == c.rcv.nxt {
		// "The only thing that can arrive in this state is a retransmission of
		// the remote FIN. Acknowledge it, and restart the 2 MSL timeout."
		c.timers.wait = now + c.p.TimeWait
		return dropAck
	}
	if n == 0 || s.has(wire.FlagSYN) {
		if s.has(wire.FlagSYN) && s.has(wire.FlagACK) && !c.passive && seq+1 == c.rcv.nxt && Seq(s.Ack) == c.snd.una {
			// This is a retransmitted SYN,ACK: our ACK was lost. Its sequence and
			// acknowledgement numbers are right, so take its timestamp. The peer measures the
			// round-trip time with our echo of it.
			c.noteTimestamp(now, s)
		}
		return dropChallenge
	}
	if c.sackOK && seq.Less(c.rcv.nxt) {
		// RFC 2883 4.1: "the first block of the SACK option field reports the
		// sequence numbers of a duplicate".
		c.rcv.dsack = block{seq, minSeq(seq+Seq(n), c.rcv.nxt)}
	}
	return dropAck
}

// provesLife reports whether an unacceptable segment shows that the peer is alive: a keep-alive
// probe (RFC 9293 3.8.4), or data that was received before and ends at most a window below
// RCV.NXT. Its acknowledgement number must be acceptable: otherwise a blind attacker could keep
// the connection of a dead peer open forever.
func (c *Conn) provesLife(s *Segment) bool {
	r := &c.rcv
	if ack := Seq(s.Ack); s.has(wire.FlagSYN) || !s.has(wire.FlagACK) || c.snd.nxt.Less(ack) || ack.Less(c.snd.una-Seq(c.snd.maxWnd)) {
		return false
	}
	if s.DataLen() == 0 {
		return Seq(s.Seq)+1 == r.nxt
	}
	end := Seq(s.Seq) + Seq(s.DataLen())
	return r.nxt-end <= Seq(max(c.window(), r.limit))
}

// challenge schedules a challenge ACK (RFC 5961), if replyAllowed permits it.
func (c *Conn) challenge(now Time) {
	if c.replyAllowed(now) {
		c.count(ChallengeACK)
		c.rcv.ackNow = true
	}
}

// replyAllowed counts one more reply to segments that an attacker can forge in any number, and reports
// whether that reply may be sent. It limits challenge ACKs and repeated SYN,ACKs.
func (c *Conn) replyAllowed(now Time) bool {
	return replyAllowed(now, &c.rcv.challengeAt, &c.rcv.challenges)
}

// replyAllowed counts a reply and reports whether it is within the limit of ten per second. The
// current second began at since, and n replies were counted in it. RFC 5961 7: "An implementation
// SHOULD include an ACK throttling mechanism".
func replyAllowed(now Time, since *Time, n *uint8) bool {
	if now-*since >= Second || *since == 0 {
		*since, *n = now, 0
	}
	if *n >= 10 {
		return false
	}
	*n++
	return true
}

// resets reports whether a RST with sequence number seq ends the connection. The peer uses its SND.NXT,
// which may be above our RCV.NXT.
func (c *Conn) resets(seq Seq) bool {
	r := &c.rcv
	if seq == r.nxt {
		return true
	}
	if r.ooo.n > 0 && c.sackOK && seq == r.ooo.end() {
		// Data before the RST was lost. By RFC 5961 3.2 the peer must answer a
		// challenge ACK, but a middlebox may drop the challenge ACK or its answer. As on
		// Linux, accept the end of the highest SACKed block: it is as hard to guess as RCV.NXT.
		return true
	}
	switch c.state {
	case CloseWait, Closing, LastAck:
		// Right after its FIN, macOS sends a RST with the FIN's sequence number, and
		// does not answer challenge ACKs. Linux accepts such a RST too.
		return seq+1 == r.nxt
	}
	return false
}

// checkReset is the second step: it checks the RST bit. RFC 9293 3.4: "A TCP receiver MUST process the RST
// and URG fields of all incoming segments, even when the receive window is zero
// (MUST-66)"; and 3.5.3: "TCP implementations SHOULD allow a received RST segment to
// include data (SHLD-2)".
func (c *Conn) checkReset(s *Segment) verdict {
	if !s.has(wire.FlagRST) {
		return keep
	}
	// RFC 9293 3.10.7.4, from RFC 5961 3.2: "If the RST bit is set and the
	// sequence number exactly matches the next expected sequence number
	// (RCV.NXT), then TCP endpoints MUST reset the connection"; "If the RST bit
	// is set and the sequence number does not exactly match [...] yet is within
	// the current receive window, TCP endpoints MUST send an acknowledgment
	// (challenge ACK)".
	if seq := Seq(s.Seq); !c.resets(seq) {
		if !seq.In(c.rcv.nxt, int(c.farEdge()-c.rcv.nxt)) {
			return drop
		}
		return dropChallenge
	}
	switch c.state {
	case SynReceived:
		// "If this connection was initiated with a passive OPEN [...], then
		// return this connection to LISTEN state": the Conn ends, and the listener forgets it.
		c.fail(ErrRefused)
	case Closing, LastAck, TimeWait:
		c.die(ErrNone)
	case CloseWait:
		// As on Linux: the application already knows that the peer has closed. Reads
		// still return EOF, and writes return EPIPE.
		c.fail(ErrPipe)
	default:
		c.fail(ErrReset)
	}
	return drop
}

// checkSyn is the fourth step: it checks the SYN bit. The third, security, does not exist here.
func (c *Conn) checkSyn(s *Segment) verdict {
	if !s.has(wire.FlagSYN) {
		return keep
	}
	if c.state == SynReceived && c.passive {
		// "If the connection was initiated with a passive OPEN, then return
		// this connection to the LISTEN state and return." As on Linux, also send the
		// RST that a host without the connection would send.
		c.tsOK = false // such a host knows no timestamps
		if s.has(wire.FlagACK) {
			c.rstFor(s)
			c.die(ErrNone)
			return drop
		}
		// <SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>
		c.rstUnsent, c.rcv.rstSeq, c.rcv.nxt = true, 0, Seq(s.Seq)+Seq(s.seqLen())
		c.die(ErrNone)
		c.events &^= Dead // reported when Next has returned the RST
		return drop
	}
	// RFC 5961 4.2: "If the SYN bit is set, irrespective of the sequence
	// number, TCP endpoints MUST send a challenge ACK to the remote peer".
	return dropChallenge
}

// checkAck is the fifth step: it checks and processes the acknowledgement number and the window.
func (c *Conn) checkAck(now Time, s *Segment) verdict {
	if !s.has(wire.FlagACK) {
		return drop // "if the ACK bit is off, drop the segment and return"
	}
	ack := Seq(s.Ack)
	if c.state == SynReceived {
		// "If SND.UNA < SEG.ACK =< SND.NXT, then enter ESTABLISHED state";
		// otherwise "form a reset segment <SEQ=SEG.ACK><CTL=RST> and send it".
		if !c.snd.una.Less(ack) || c.snd.nxt.Less(ack) {
			c.rstFor(s)
			return drop
		}
		c.synAcked(now, s, c.snd.iss+1)
		c.snd.wnd = c.peerWindow(s)
		c.snd.maxWnd = max(c.snd.maxWnd, c.snd.wnd)
		c.snd.wl1, c.snd.wl2 = Seq(s.Seq), ack
		c.established()
	}
	// RFC 5961 5.2: "The ACK value is considered acceptable only if it is in
	// the range of ((SND.UNA - MAX.SND.WND) <= SEG.ACK <= SND.NXT). All
	// incoming segments whose ACK value doesn't satisfy the above condition
	// MUST be discarded and an ACK sent back."
	if c.snd.nxt.Less(ack) || ack.Less(c.snd.una-Seq(c.snd.maxWnd)) {
		return dropChallenge
	}
	c.ack(now, s, ack)
	if c.state == Closed {
		return drop
	}
	return keep
}

// peerWindow returns the window of a segment in bytes. RFC 7323 2.2: "The window field in a
// segment where the SYN bit is set (i.e., a <SYN> or <SYN,ACK>) MUST NOT be scaled". The
// SYN,ACK of a simultaneous open is such a segment.
func (c *Conn) peerWindow(s *Segment) uint32 {
	if s.hadSYN || s.has(wire.FlagSYN) {
		return uint32(s.Window)
	}
	return uint32(s.Window) << c.snd.scale
}

// ack processes an acceptable acknowledgement number.
func (c *Conn) ack(now Time, s *Segment, ack Seq) {
	a := ackSample{now: now, prior: c.snd.una, fack: c.sb.fack, timestamp: c.tsOK && s.HasTS, tsEcr: s.TSEcr, marked: c.rec.marked}
	wnd := c.peerWindow(s)
	inFlight, shut := c.snd.una != c.snd.nxt, c.shut()
	if c.cc.bbr != nil {
		c.cc.bbr.begin(c.delivered)
	}
	// RFC 5681 2: an acknowledgement is a duplicate when "the receiver of the
	// ACK has outstanding data, the incoming acknowledgment carries no data,
	// the SYN and FIN bits are both off, the acknowledgment number is equal to
	// the greatest acknowledgment received [...] and the advertised window
	// equals" the last one. While the window is shut, acknowledgements answer probes and do not count.
	repeated := !shut && s.seqLen() == 0 && ack == c.snd.una && wnd == c.snd.wnd
	duplicate := inFlight && repeated
	if repeated && s.NSACK == 0 && ack == c.rec.tlpEnd {
		// RFC 8985 7.4.2, for a peer that sends no DSACK: "Else If ACK is a DUPACK without
		// any SACK option": the original and the probe have arrived.
		c.rec.tlpOut = false
	}

	if c.snd.una.Less(ack) {
		c.advance(&a, ack)
	}
	if c.sackOK && s.NSACK > 0 {
		c.takeSACK(&a, s)
	}
	c.ecnAck(now, s)
	c.takeWindow(s, ack, wnd, a.advanced)
	c.windowMoved(now, shut)
	// a.advanced does not imply a.delivered > 0: everything up to the new SND.UNA may have been SACKed
	// before. A peer that drops data after it has SACKed the data causes this.
	if a.advanced || a.delivered > 0 || a.dsack || duplicate {
		c.sampleRTT(&a)
		if a.advanced {
			// RFC 6298 5: an acknowledgement of new data resets the number of
			// timeouts. By Karn's algorithm the RTO stays backed off until there is
			// a sample.
			if a.rtt == 0 {
				c.rtt.rto = c.rtt.timeout(c.timers.backoff, c.p)
			}
			c.timers.backoff = 0
		}
		c.recover(&a, duplicate)
	}
	if a.advanced || a.sacked {
		c.tuneSend()
	}
	if a.advanced {
		c.finAcked(now)
	}
}

// advance moves SND.UNA to ack and frees the acknowledged data.
func (c *Conn) advance(a *ackSample, ack Seq) {
	b := &c.snd
	a.advanced = true
	b.progress = a.now
	c.soft = ErrNone // data gets through, so the error was transient
	n := int(ack - b.una)
	c.takeAck(a, ack)
	b.una = ack
	b.buf.drop(c.blocks(), min(n, c.Unacked())) // the FIN has a number but is not in the buffer
	if b.buf.ring.n == 0 {
		b.buf.ring.free(c.p)
	}
	if c.awaitAcksBy != 0 && len(b.buf.pinned) == 0 {
		c.endAwaitAcks()
	}
	if c.Unacked() == 0 {
		if !b.fin || b.finSent && b.una == b.nxt {
			c.events |= Acked
		}
	}
}

// takeWindow updates the send window: "If SND.UNA =< SEG.ACK =< SND.NXT, the
// send window should be updated. If (SND.WL1 < SEG.SEQ or (SND.WL1 = SEG.SEQ and
// SND.WL2 =< SEG.ACK)), set SND.WND <- SEG.WND". A segment that advances SND.UNA is the newest,
// even if SEG.SEQ is lower than SND.WL1: it may be a retransmission. SND.WND counts from
// SND.UNA and must be updated with it.
func (c *Conn) takeWindow(s *Segment, ack Seq, wnd uint32, advanced bool) {
	b := &c.snd
	seq := Seq(s.Seq)
	if ack.Less(b.una) || !(advanced || b.wl1.Less(seq) || b.wl1 == seq && b.wl2.LessEq(ack)) {
		return
	}
	if wnd != b.wnd {
		c.timers.persist, c.timers.persists = 0, 0
	}
	b.wnd = wnd
	b.maxWnd = max(b.maxWnd, wnd)
	b.wl1, b.wl2 = seq, ack
	c.unacceptableAck = b.una // clear: an acceptable segment has come
}

// windowMoved handles an acknowledgement that closes or opens the peer's window. was tells whether the
// window was shut before that acknowledgement.
func (c *Conn) windowMoved(now Time, was bool) {
	t := &c.timers
	switch is := c.shut(); {
	case is && !was:
		if c.snd.una != c.snd.nxt {
			// RFC 9293 3.8.6: "If the window shrinks to zero, the TCP implementation
			// MUST probe it in the standard way (MUST-35)". Nothing is retransmitted
			// while the window is shut, so the retransmission timer is off (SHLD-17).
			t.rtx, t.rtxKind = 0, rtxRTO
			c.armPersist(now)
		}
	case was && !is:
		t.persist, t.persists, t.probes, t.backoff = 0, 0, 0, 0
		if c.snd.una != c.snd.nxt {
			// The peer shrank its window and dropped the data beyond it. Retransmit at
			// once. This is no sign of congestion, unless data was due for retransmission before.
			c.rec.noCongestion = c.sb.due == 0
			c.sb.markAllLost()
			c.armRtx(now, 0, true)
		}
	}
}

// finAcked changes the state if our FIN is acknowledged.
func (c *Conn) finAcked(now Time) {
	if !c.snd.finSent || c.snd.una != c.snd.nxt {
		return
	}
	switch c.state {
	case FinWait1:
		c.state = FinWait2
		if c.orphan {
			c.timers.wait = now + c.p.FinTimeout
		}
	case Closing:
		c.enterTimeWait(now)
	case LastAck:
		c.die(ErrNone)
	}
}

// enterTimeWait enters TIME-WAIT and stops all other timers.
func (c *Conn) enterTimeWait(now Time) {
	c.state = TimeWait
	c.timers = timers{wait: now + c.p.TimeWait}
	c.sb.release()
	c.cc.release()
}

// segmentData is the seventh and the eighth step: it takes the data and the FIN. The sixth step has
// nothing to do, because urgent data is delivered in line with other data (RFC 6093 4).
func (c *Conn) segmentData(now Time, s *Segment) verdict {
	n := s.DataLen()
	if n == 0 && !s.has(wire.FlagFIN) {
		return keep
	}
	switch c.state {
	case Established, FinWait1, FinWait2:
	default:
		// "This should not occur, since a FIN has been received from the remote
		// side. Ignore the segment text."
		return dropAck
	}
	// RFC 1122 4.2.2.13: "if new data is received after CLOSE is called,
	// its TCP SHOULD send a RST to show that data was lost." A segment whose FIN is new, but
	// whose payload was received before, has no new data.
	if n > 0 && (c.orphan || c.shutRead) && c.rcv.nxt.Less(Seq(s.Seq)+Seq(n)) {
		if c.orphan {
			c.Abort(now)
			return drop
		}
		if c.state != Established {
			// The application closed both directions but keeps the Conn. Reset the connection,
			// as for an orphan, and report the error to the application.
			c.failReset(ErrReset)
			return drop
		}
	}
	c.takeData(now, Seq(s.Seq), s)
	return keep
}

// peerFinished changes the state when RCV.NXT has passed the peer's FIN.
func (c *Conn) peerFinished() {
	switch c.state {
	case Established:
		c.state = CloseWait
	case FinWait1:
		// "If our FIN has been ACKed (perhaps in this segment), then enter
		// TIME-WAIT [...]; otherwise, enter the CLOSING state." If our FIN has been ACKed, finAcked
		// has entered FIN-WAIT-2 before.
		c.state = Closing
	case FinWait2:
		c.enterTimeWait(c.rcv.last)
	default:
		return
	}
	c.events |= EOF | Readable
}

// rstFor schedules the RST that answers a segment with an unacceptable acknowledgement number.
// The connection stays.
func (c *Conn) rstFor(s *Segment) {
	c.rcv.rstSeq, c.rcv.rstNow = s.Ack, true
}
