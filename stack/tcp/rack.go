package tcp

// dupThresh is the number of duplicate ACKs that indicate a loss. RFC 5681 3.2: "The fast retransmit
// algorithm uses the arrival of 3 duplicate ACKs [...] as an indication that a segment has been lost."
const dupThresh = 3

// An ackSample is what one acknowledgement reported.
type ackSample struct {
	now       Time
	prior     Seq    // SND.UNA before this acknowledgement
	fack      Seq    // the highest sequence number known to have arrived before this acknowledgement
	delivered int    // bytes newly known to have arrived
	marked    uint64 // recovery.marked before this acknowledgement
	rtt       Time   // round-trip time of the newly arrived piece that was sent last; 0 if it was retransmitted
	rttAt     Time   // when that piece was sent
	origAcked bool   // a piece that was marked lost but not retransmitted has arrived
	dsack     bool
	sacked    bool // SACK reported something new
	advanced  bool // SND.UNA moved
	timestamp bool
	tsEcr     uint32
}

// takeSACK processes the SACK blocks of s.
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
		// Skip blocks that are already acknowledged, or were never sent.
		if blk.start.Less(c.snd.una) || c.snd.nxt.Less(blk.end) || !c.snd.una.Less(blk.end) {
			continue
		}
		c.sackBlock(a, blk)
	}
	// Keep the valid blocks, because the next acknowledgement repeats most of them.
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

// sackBlock marks the pieces in k as SACKed. It skips the parts that the previous acknowledgement
// has already reported: they are in c.sb.cache.
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
		if (s.seq.Less(k.start) || k.end.Less(s.end)) && b.n >= c.maxPieces() {
			continue // do not split s; it becomes SACKed when a block covers all of it
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

// maxPieces limits the number of pieces into which SACK blocks may split the scoreboard, to
// about twice the number of segments in flight. Otherwise a peer could SACK every second byte. Each
// of these bytes would become a piece, which takes memory, and each split moves other pieces.
func (c *Conn) maxPieces() int { return keepPieces + 2*int(c.snd.nxt-c.snd.una)/c.snd.mss }

// takeDSACK processes a DSACK block: k has arrived twice (RFC 2883).
func (c *Conn) takeDSACK(a *ackSample, k block) {
	r := &c.rec
	// Ignore a block that was never sent, or is too old to be plausible.
	if c.snd.nxt.Less(k.end) || uint32(c.snd.nxt-k.start) > max(c.snd.maxWnd, 1<<16) {
		return
	}
	a.dsack = true
	c.count(DSACKRecv)
	if r.canUndo && r.undoFrom.LessEq(k.start) {
		r.undoCount = max(r.undoCount-(int(k.end-k.start)+c.snd.mss-1)/c.snd.mss, 0)
	}
	// RFC 8985 6.2 step 4: "If a DSACK option is received [...] and was not in
	// this round trip: RACK.reo_wnd_mult += 1".
	if !r.dsackPending {
		r.dsackPending, r.dsackEnd = true, c.snd.nxt
		r.reoMult = min(max(r.reoMult, 1)+1, 20)
		r.reoKeep = 16
	}
	r.reoSeen = true
}

// takeAck removes the pieces below ack from the scoreboard.
func (c *Conn) takeAck(a *ackSample, ack Seq) {
	b := &c.sb
	if c.rec.phase == phaseRecovery {
		// Without SACK, each newly acknowledged segment except the retransmitted one has caused
		// a duplicate acknowledgement, which added one MSS to reno. Subtract these bytes.
		rest := max(b.reno-max(int(ack-c.snd.una)-c.snd.mss, 0), 0)
		b.reno = min(rest, int(c.snd.nxt-ack))
	} else {
		b.reno = 0
	}
	ambiguous := false
	for b.n > 0 {
		s := *b.firstPiece().sent()
		if ack.LessEq(s.seq) {
			break
		}
		if ack.Less(s.end) {
			b.trim(ack)
			s.end = ack
		} else {
			b.removeFirst(&s)
		}
		ambiguous = ambiguous || s.flags&segEverResent != 0
		if s.flags&segSacked == 0 {
			c.arrived(a, &s)
		}
		if s.flags != 0 {
			b.forget(&s)
		}
	}
	if ambiguous {
		// Karn's algorithm: take no sample from an acknowledgement that covers a
		// retransmission. The other pieces that it covers may have arrived long ago: they
		// could not be acknowledged before the retransmission filled the hole.
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

// arrived records that piece s was delivered, for the round-trip time, RACK and BBR.
func (c *Conn) arrived(a *ackSample, s *sent) {
	a.delivered += s.len()
	c.delivered += uint64(s.len())
	if c.pl != nil && c.pl.small > 0 { // a black hole is suspected
		c.sizeArrived(a.now, s.len(), s.flags&segEverResent != 0)
	}
	r := &c.rec
	rtt := a.now - s.at
	// early: s was retransmitted, but the acknowledgement is probably that of the original. It came
	// sooner than the minimum RTT, or it echoes an older timestamp (RFC 8985 6.2 step 2).
	early := s.flags&segEverResent != 0 && (rtt < c.rtt.min || a.timestamp && int32(a.tsEcr-c.tsVal(s.at)) < 0)
	if c.cc.bbr != nil {
		c.cc.bbr.arrived(a.now, s, early)
		if early || s.flags&(segLost|segEverResent) == segLost { // the original was marked lost, but has arrived
			c.cc.bbr.found(s.len())
		}
	}
	if s.at >= a.rttAt {
		// RFC 6298 3: "RTT samples MUST NOT be made using segments that were
		// retransmitted". If the same acknowledgement also reports a later retransmission,
		// take no sample from s either: s may have arrived before, and been acknowledged
		// only when the retransmission arrived.
		a.rttAt, a.rtt = s.at, 0
		if s.flags&segEverResent == 0 {
			a.rtt = max(a.now-s.at, 1)
		}
	}
	if s.flags&segEverResent == 0 {
		if s.flags&segLost != 0 {
			a.origAcked = true
		}
		// RFC 8985 6.2 step 3: "detect data segment reordering": a segment that was
		// not retransmitted is delivered after one with a higher sequence number.
		if s.end.Less(a.fack) {
			r.reoSeen = true
		}
	}
	c.sb.fack = maxSeq(c.sb.fack, s.end)

	// RFC 8985 6.2 step 2: update RACK.xmit_ts and RACK.end_seq.
	if !early && sentAfter(s.at, s.end, r.xmit, r.end) {
		r.xmit, r.end, r.rtt = s.at, s.end, max(rtt, 1)
	}
}

// sentAfter implements RACK_sent_after of RFC 8985 6.2.
func sentAfter(t1 Time, end1 Seq, t2 Time, end2 Seq) bool {
	return t1 > t2 || t1 == t2 && end2.Less(end1)
}

// reorderWindow returns RACK.reo_wnd (RFC 8985 6.2 step 4).
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

// sackedPieces counts the SACKed segments among the last 16 pieces of the scoreboard, up to about
// dupThresh. It counts small segments in full, unlike sb.sacked, which is in bytes.
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

// detectLoss implements RACK_detect_loss of RFC 8985 6.2 step 5. It returns the reordering timeout: how
// long to wait until the next piece may be marked lost, or 0 if none is pending.
func (c *Conn) detectLoss(now Time) (wait Time) {
	b, r := &c.sb, &c.rec
	if r.xmit == 0 || b.n == 0 {
		return 0
	}
	limit := r.rtt + c.reorderWindow()
	var next Time // when the next piece may be marked lost
	left := maxLost
	judge := func(p piece) bool { // marks p lost if its time has passed, and reports whether it is marked
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
		c.markLost(now, p)
		return true
	}
	// Pieces that were sent once are in the order of sending. Stop at the first that is not
	// lost yet: the others were sent later.
	for p := b.firstOf(kindOpen); p.c != nil && judge(p); p = b.nextOf(p, kindOpen) {
	}
	// b.again holds the retransmitted pieces in the order of sending. Skip entries whose piece has been
	// acknowledged, split or retransmitted again.
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

// maxLost is the number of pieces that one call of detectLoss may mark lost. The next acknowledgement
// or a timer after a millisecond marks the others. The limit bounds the CPU time per received segment
// when the window is large. It does not slow recovery, because one acknowledgement allows fewer
// pieces than that to be sent.
const maxLost = 128

// detectReno detects losses by RFC 6582, for peers without SACK.
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
			c.markHeadLost(a.now)
		}
		r.dups = 0
	case a.advanced:
		r.dups = 0
	case duplicate:
		r.dups++
		if r.phase == phaseLoss {
			break // the segments were already marked lost
		}
		// Each duplicate stands for a segment that has arrived (RFC 5681 3.2 step 4).
		b.reno = min(b.reno+c.snd.mss, int(c.snd.nxt-c.snd.una))
		a.delivered += c.snd.mss
		// RFC 6582 3.2 step 2: reduce only once per window.
		if r.dups == dupThresh && r.phase == phaseOpen && !r.pending {
			c.markHeadLost(a.now)
		}
	}
}

// markLost marks piece p lost and informs PRR and BBR.
func (c *Conn) markLost(now Time, p piece) {
	s := p.sent()
	r := &c.rec
	// If a retransmission that was sent after r.reduced is lost, reduceAgain reduces the window again. The
	// loss of an earlier retransmission is part of the congestion to which PRR already responds.
	if s.flags&segResent != 0 {
		c.count(LostRetransmit)
	}
	if s.flags&segResent != 0 && r.reduced != 0 && s.at > r.reduced {
		r.lost = true
	}
	counted := s.flags&(segLost|segResent) == segLost // p was marked lost before, and not sent again
	if c.cc.bbr != nil && s.flags&segSacked == 0 && !counted {
		c.cc.bbr.handleLost(c, now, s)
	}
	r.noCongestion = false
	r.marked += uint64(c.sb.markLost(p))
}

// markHeadLost marks the first segment in flight lost.
func (c *Conn) markHeadLost(now Time) {
	b := &c.sb
	p := b.firstPiece()
	if s := p.sent(); s.len() > c.snd.mss {
		p, _ = b.split(p, s.seq+Seq(c.snd.mss))
	}
	c.markLost(now, p)
}

// armProbe sets the timer for a tail loss probe if one is allowed. RFC 8985 7.2:
// "the sender SHOULD start or restart a loss probe PTO timer after transmitting
// new data [...] or upon receiving an ACK that cumulatively acknowledges new
// data"; "If Now() + PTO > TCP_RTO_expiration(): PTO = TCP_RTO_expiration() -
// Now()". If the RTO would expire before the PTO, the probe is sent when the RTO would expire, and the
// RTO timer restarts. This is the case for a single segment on a short path: the PTO exceeds the RTO,
// because the PTO includes the peer's delayed acknowledgement.
func (c *Conn) armProbe(now Time) {
	t := &c.timers
	if d, ok := c.probeTimeout(); ok && t.rtxKind != rtxReorder {
		t.rtx, t.rtxKind = min(now+d, t.rto), rtxTLP
	}
}

// probeTimeout implements TLP_calc_PTO of RFC 8985 7.2. It returns false if no probe may be sent: "the
// sender SHOULD NOT [...] if there is any lost or SACKed data".
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

// checkTLP decides from an acknowledgement whether a tail loss probe repaired a loss (RFC 8985
// 7.4.2). If the probe was a retransmission, the original may have arrived too, with a late
// acknowledgement. Then nothing was lost.
func (c *Conn) checkTLP(a *ackSample) {
	r := &c.rec
	if !r.tlpOut || c.snd.una.Less(r.tlpEnd) {
		return
	}
	switch {
	case !r.tlpRetrans, a.dsack, a.origAcked, r.phase != phaseOpen:
		// The probe was new data, the original arrived too, or recovery has answered the loss.
		r.tlpOut = false
	case a.timestamp && r.undoTS != 0:
		// The timestamp shows whether the original or the probe was acknowledged (RFC 3522).
		r.tlpOut = false
		if int32(a.tsEcr-r.undoTS) >= 0 {
			c.count(LossProbeRecovery)
			c.congested(a.now)
		}
	case r.tlpEnd.Less(c.snd.una):
		// "Else If ACK's ack. number > TLP.end_seq": "Repaired the single loss". An
		// acknowledgement of exactly TLP.end_seq may be that of the original, so wait for
		// the next one.
		r.tlpOut = false
		c.count(LossProbeRecovery)
		c.congested(a.now)
	}
}
