package tcp

// dupThresh: RFC 5681 3.2: "The fast retransmit algorithm uses the arrival of 3
// duplicate ACKs [...] as an indication that a segment has been lost."
const dupThresh = 3

// An ackSample is what one acknowledgement reported.
type ackSample struct {
	now       Time
	prior     Seq    // SND.UNA before
	fack      Seq    // the highest number that had arrived before
	delivered int    // bytes newly known to have arrived
	marked    uint64 // recovery.marked before
	rtt       Time   // of the piece sent last among those that arrived; 0 if it was sent more than once
	rttAt     Time   // when that piece was sent
	origAcked bool   // a piece marked lost arrived that was never sent again
	dsack     bool
	sacked    bool // SACK reported something new
	advanced  bool // SND.UNA moved
	timestamp bool
	tsEcr     uint32
}

// takeSACK marks what the blocks of s report.
func (c *Conn) takeSACK(a *ackSample, s *Segment) {
	b := &c.sb
	ack := Seq(s.Ack)
	for i := range int(s.NSACK) {
		blk := block{Seq(s.SACK[i].Start), Seq(s.SACK[i].End)}
		if !blk.start.Less(blk.end) {
			continue
		}
		// RFC 2883 4: a first block at or below the acknowledgement, or inside
		// the second, reports a duplicate.
		if i == 0 && (blk.end.LessEq(ack) || s.NSACK > 1 &&
			Seq(s.SACK[1].Start).LessEq(blk.start) && blk.end.LessEq(Seq(s.SACK[1].End))) {
			c.takeDSACK(a, blk)
			continue
		}
		// What is acknowledged, or was never sent, is no news.
		if blk.start.Less(c.snd.una) || c.snd.nxt.Less(blk.end) || !c.snd.una.Less(blk.end) {
			continue
		}
		c.sackBlock(a, blk)
	}
	for i := range b.cache {
		b.cache[i] = block{}
		if i < int(s.NSACK) {
			k := block{Seq(s.SACK[i].Start), Seq(s.SACK[i].End)}
			if c.snd.una.LessEq(k.start) && k.end.LessEq(c.snd.nxt) && k.start.Less(k.end) {
				b.cache[i] = k
			}
		}
	}
}

// sackBlock marks the pieces in k, without those that the last acknowledgement
// reported as well.
func (c *Conn) sackBlock(a *ackSample, k block) {
	b := &c.sb
	for _, old := range b.cache {
		if old.start == old.end {
			continue
		}
		if old.start.LessEq(k.start) && k.start.Less(old.end) {
			k.start = old.end
		}
		if old.start.Less(k.end) && k.end.LessEq(old.end) {
			k.end = old.start
		}
		if !k.start.Less(k.end) {
			return
		}
	}
	for p := b.find(k.start); p.c != nil && p.sent().seq.Less(k.end); p = b.nextOf(p, kindAny) {
		s := p.sent()
		if s.flags&segSacked != 0 {
			continue
		}
		if (s.seq.Less(k.start) || k.end.Less(s.end)) && b.n >= c.mostPieces() {
			continue // it is no news that a part has arrived
		}
		if s.seq.Less(k.start) {
			_, p = b.split(p, k.start)
		}
		if k.end.Less(p.sent().end) {
			p, _ = b.split(p, k.end)
		}
		c.arrived(a, p.sent())
		p = b.markSacked(p)
		a.sacked = true
	}
}

// mostPieces bounds what blocks cut the scoreboard into: twice as many as there are
// segments in flight. A peer that reports every second byte would otherwise take
// up sixteen bytes of memory for each, and time with each block to move them.
func (c *Conn) mostPieces() int { return keepPieces + 2*int(c.snd.nxt-c.snd.una)/c.snd.mss }

// takeDSACK learns that something arrived twice (RFC 2883).
func (c *Conn) takeDSACK(a *ackSample, k block) {
	r := &c.rec
	// One that reports what was never sent, or too long ago, is not believed.
	if c.snd.nxt.Less(k.end) || uint32(c.snd.nxt-k.start) > max(c.snd.maxWnd, 1<<16) {
		return
	}
	a.dsack = true
	if r.canUndo && r.undoFrom.LessEq(k.start) {
		r.undoCount = max(r.undoCount-(int(k.end-k.start)+c.snd.mss-1)/c.snd.mss, 0)
	}
	// RFC 8985 6.2 step 4: "If a DSACK option is received [...] and was not in
	// this round trip: RACK.reo_wnd_mult += 1".
	if !r.dsackHot {
		r.dsackHot, r.dsackEnd = true, c.snd.nxt
		r.reoMult = min(max(r.reoMult, 1)+1, 20)
		r.reoKeep = 16
	}
	r.reoSeen = true
}

// takeAck removes what is acknowledged from the board.
func (c *Conn) takeAck(a *ackSample, ack Seq) {
	b := &c.sb
	if c.rec.phase == phaseRecovery {
		// All but the segment that was sent again had its duplicate.
		rest := max(b.reno-max(int(ack-c.snd.una)-c.snd.mss, 0), 0)
		b.reno = min(rest, int(c.snd.nxt-ack))
	} else {
		b.reno = 0
	}
	ambiguous := false
	for b.n > 0 {
		p := b.firstPiece()
		s := *p.sent()
		if ack.LessEq(s.seq) {
			break
		}
		if ack.Less(s.end) {
			b.trim(ack)
			s.end = ack
		} else {
			b.remove(p)
		}
		ambiguous = ambiguous || s.flags&segEver != 0
		if s.flags&segSacked == 0 {
			c.arrived(a, &s)
		}
		b.forget(&s)
	}
	if ambiguous {
		// Karn's algorithm, for the acknowledgement as a whole: what it covers may
		// have arrived long ago, and have waited behind the piece that was sent again.
		a.rtt = 0
		if c.cc.bbr != nil {
			c.cc.bbr.rs.rtt = 0
		}
	}
	if b.n == 0 {
		b.reset(ack)
	}
	b.fack = maxSeq(b.fack, ack)
}

// arrived notes that piece s got there, for the round-trip time and for RACK.
func (c *Conn) arrived(a *ackSample, s *sent) {
	a.delivered += s.len()
	c.delivered += uint64(s.len())
	if c.pl != nil && c.pl.small > 0 {
		c.sizeArrived(a.now, s.len(), s.flags&segEver != 0)
	}
	r := &c.rec
	rtt := a.now - s.at
	early := s.flags&segEver != 0 && (rtt < c.rtt.min || a.timestamp && int32(a.tsEcr-c.tsVal(s.at)) < 0)
	if c.cc.bbr != nil {
		c.cc.bbr.arrived(a.now, s, early)
		if early || s.flags&(segLost|segEver) == segLost {
			c.cc.bbr.found(s.len())
		}
	}
	if s.at >= a.rttAt {
		// RFC 6298 3: "RTT samples MUST NOT be made using segments that were
		// retransmitted". Nor from one that was sent before a retransmission which
		// the same acknowledgement reports: it may have waited for that.
		a.rttAt, a.rtt = s.at, 0
		if s.flags&segEver == 0 {
			a.rtt = max(a.now-s.at, 1)
		}
	}
	if s.flags&segEver == 0 {
		if s.flags&segLost != 0 {
			a.origAcked = true
		}
		// RFC 8985 6.2 step 3: "detect data segment reordering": a segment
		// that was never sent again arrives below one that arrived before it.
		if s.end.Less(a.fack) {
			r.reoSeen = true
		}
	}
	c.sb.fack = maxSeq(c.sb.fack, s.end)

	// RFC 8985 6.2 step 2: update RACK.xmit_ts and RACK.end_seq, unless a
	// retransmission may be taken for its original.
	if !early && sentAfter(s.at, s.end, r.xmit, r.end) {
		r.xmit, r.end, r.rtt = s.at, s.end, max(rtt, 1)
	}
}

// sentAfter is RACK_sent_after of RFC 8985 6.2.
func sentAfter(t1 Time, end1 Seq, t2 Time, end2 Seq) bool {
	return t1 > t2 || t1 == t2 && end2.Less(end1)
}

// reorderWindow is RACK.reo_wnd (RFC 8985 6.2 step 4).
func (c *Conn) reorderWindow() Time {
	r := &c.rec
	if !r.reoSeen {
		// "If in recovery, or if DupThresh segments were SACKed, the
		// reordering window is zero."
		if r.phase != phaseOpen || c.sb.sacked >= dupThresh*c.snd.mss || c.sackedPieces() >= dupThresh {
			return 0
		}
	}
	return min(Time(max(r.reoMult, 1))*c.rtt.min/4, c.rtt.srtt)
}

// sackedPieces counts a few of the pieces that are selectively acknowledged:
// DupThresh is in segments, and small ones count as well.
func (c *Conn) sackedPieces() int {
	b := &c.sb
	if b.sacked == 0 {
		return 0
	}
	n := 0
	for p, looked := b.lastPiece(), 0; p.c != nil && n < dupThresh && looked < 16; p, looked = b.prev(p), looked+1 {
		if s := p.sent(); s.flags&segSacked != 0 {
			n += int(s.pieces)
		}
	}
	return n
}

// detectLoss is RACK_detect_loss of RFC 8985 6.2 step 5. It returns how long
// the first of those that may only be late has still to be waited for, or 0.
func (c *Conn) detectLoss(now Time) (wait Time) {
	b, r := &c.sb, &c.rec
	if r.xmit == 0 || b.n == 0 {
		return 0
	}
	limit := r.rtt + c.reorderWindow()
	var next Time // when the first that is waited for will be taken for lost
	left := mostLost
	judge := func(p piece) bool { // reports whether piece p is lost
		s := p.sent()
		if !sentAfter(r.xmit, r.end, s.at, s.end) {
			return false
		}
		// "Segment.xmit_ts + RACK.rtt + RACK.reo_wnd - now"
		if s.at+limit > now {
			next = earliest(next, s.at+limit)
			return false
		}
		if left--; left < 0 {
			next = earliest(next, now+Millisecond)
			return false
		}
		c.lose(now, p)
		return true
	}
	// Those sent once lie in the order of sending. While the first of them that
	// is missing may be waited for, so may the others: they were sent later.
	for p := b.firstOf(kindOpen); p.c != nil && judge(p); p = b.nextOf(p, kindOpen) {
	}
	// Those sent again lie in the order of sending in their own queue.
	for b.againHead < len(b.again) {
		e := b.again[b.againHead]
		if p := b.find(e.seq); p.c != nil {
			if s := p.sent(); s.seq == e.seq && s.at == e.at && s.kind() == kindResent && !judge(p) {
				break
			}
		}
		b.againHead++
	}
	if b.againHead == len(b.again) {
		b.again, b.againHead = b.again[:0], 0
	}
	if next == 0 {
		return 0
	}
	return max(next-now, 1)
}

// mostLost bounds how many pieces one acknowledgement takes for lost: the rest
// waits for the next one, or for a millisecond. It is more than an acknowledgement
// lets go, and keeps a peer from having a large window judged again and again.
const mostLost = 128

// detectReno is RFC 6582 for peers without SACK.
func (c *Conn) detectReno(a *ackSample, duplicate bool) {
	r, b := &c.rec, &c.sb
	if b.n == 0 {
		r.dups = 0
		return
	}
	switch {
	case a.advanced && r.phase != phaseOpen:
		// RFC 6582 3.2 step 3, partial acknowledgement: "retransmit the first
		// unacknowledged segment".
		if a.prior.Less(r.point) && c.snd.una.Less(r.point) && b.firstPiece().sent().flags&segResent == 0 {
			c.loseHead(a.now)
		}
		r.dups = 0
	case a.advanced:
		r.dups = 0
	case duplicate:
		r.dups++
		if r.phase == phaseLoss {
			break // what arrives now was given up already
		}
		// Each stands for a segment that has arrived (RFC 5681 3.2 step 4).
		b.reno = min(b.reno+c.snd.mss, int(c.snd.nxt-c.snd.una))
		a.delivered += c.snd.mss
		// RFC 6582 3.2 step 2: no second reduction for the same window.
		if r.dups == dupThresh && r.phase == phaseOpen && !r.pending {
			c.loseHead(a.now)
		}
	}
}

// lose takes piece p for lost, by congestion as far as is known.
func (c *Conn) lose(now Time, p piece) {
	s := p.sent()
	if r := &c.rec; s.flags&segResent != 0 && r.reduced != 0 && s.at > r.reduced {
		c.rec.lost = true
	}
	if c.cc.bbr != nil && s.flags&segSacked == 0 && s.flags&(segLost|segResent) != segLost {
		c.cc.bbr.losing(c, now, s)
	}
	c.rec.marked += uint64(c.sb.markLost(p))
}

// loseHead takes the first segment in flight for lost.
func (c *Conn) loseHead(now Time) {
	b := &c.sb
	p := b.firstPiece()
	if s := p.sent(); s.len() > c.snd.mss {
		p, _ = b.split(p, s.seq+Seq(c.snd.mss))
	}
	c.lose(now, p)
}

// armProbe sets the timer for a tail loss probe where one is due. RFC 8985 7.2:
// "the sender SHOULD start or restart a loss probe PTO timer after transmitting
// new data [...] or upon receiving an ACK that cumulatively acknowledges new
// data"; "If Now() + PTO > TCP_RTO_expiration(): PTO = TCP_RTO_expiration() -
// Now()": where the timeout would come first, the probe goes in its place, and
// the timeout begins anew with it. So a single segment on a short path, whose
// PTO has the peer's delayed acknowledgement in it, is probed as well.
func (c *Conn) armProbe(now Time) {
	t := &c.timers
	if d, ok := c.probeTimeout(); ok && t.rtxKind != rtxReorder {
		t.rtx, t.rtxKind = min(now+d, t.rto), rtxTLP
	}
}

// probeTimeout is TLP_calc_PTO of RFC 8985 7.2, and whether a probe is due at
// all: "the sender SHOULD NOT [...] if there is any lost or SACKed data".
func (c *Conn) probeTimeout() (Time, bool) {
	r := &c.rec
	if !c.sackOK || r.phase != phaseOpen || r.tlpOut || c.sb.sacked > 0 || c.sb.lost > 0 ||
		c.timers.backoff > 0 || !c.state.synchronized() || c.sendEdge().Less(c.snd.nxt) {
		return 0, false
	}
	if c.rtt.srtt == 0 {
		return Second, true
	}
	d := 2 * c.rtt.srtt
	if int(c.snd.nxt-c.snd.una) <= c.snd.mss {
		// "If FlightSize is one segment: PTO += TLP.max_ack_delay"
		d += 200 * Millisecond
	}
	return max(d, 2*Millisecond), true
}

// checkTLP is RFC 8985 7.4: what an acknowledgement tells about a probe.
func (c *Conn) checkTLP(a *ackSample) {
	r := &c.rec
	if !r.tlpOut || c.snd.una.Less(r.tlpEnd) {
		return
	}
	r.tlpOut = false
	// "the original transmission of the probe was lost and the probe repaired
	// it": congestion, unless a DSACK shows that both arrived.
	if r.tlpAgain && !a.dsack && r.phase == phaseOpen && !a.origAcked {
		if a.timestamp && r.undoTS != 0 && int32(a.tsEcr-r.undoTS) < 0 {
			return
		}
		c.congested(a.now)
	}
}
