package tcp

// dupThresh: RFC 5681 3.2: "The fast retransmit algorithm uses the arrival of 3
// duplicate ACKs [...] as an indication that a segment has been lost."
const dupThresh = 3

type phase uint8

const (
	phaseOpen     phase = iota // nothing is known to be lost
	phaseRecovery              // fast recovery: paced by PRR
	phaseLoss                  // after a retransmission timeout: slow start
)

// A frtoStep is where F-RTO is, the steps of RFC 5682 2.1.
type frtoStep uint8

const (
	frtoOff  frtoStep = iota
	frtoSent          // step 1: the first segment was sent again, and nothing else
	frtoNew           // step 2b: new data goes, to see what is acknowledged next
)

// recovery is what loss detection (RACK-TLP, RFC 8985) and fast recovery (PRR,
// RFC 9937) remember.
type recovery struct {
	phase   phase
	point   Seq  // the episode ends when this is acknowledged (RecoveryPoint of RFC 6675)
	pending bool // point is still ahead
	reduced Time // since when the pipe has been within ssthresh in this episode; 0: it is not yet
	lost    bool // of what was sent again since then, something was lost
	twice   bool // and so the window was lowered again: see reduceAgain

	// RACK, RFC 8985 5.2.
	xmit     Time // when the most recently sent piece that was delivered was sent
	end      Seq  // and its end
	rtt      Time // its round-trip time
	reoSeen  bool // reordering was observed
	reoMult  uint8
	reoKeep  uint8 // recoveries until reoMult is taken back
	dsackEnd Seq   // SND.NXT when the reordering window last grew
	dsackHot bool  // dsackEnd holds

	// Tail loss probe, RFC 8985 7.
	tlpEnd   Seq // SND.NXT when the probe was sent
	tlpOut   bool
	tlpAgain bool // the probe was a retransmission
	tlpNow   bool // a probe is to be sent

	dups int // duplicate acknowledgements, where there is no SACK

	frto frtoStep // what is known of whether the last timeout was spurious

	// PRR, RFC 9937 5.
	early int // bytes SACKed while nothing is taken for lost: cwnd has not grown for them

	delivered int    // prr_delivered
	out       int    // prr_out
	flight    int    // RecoverFS
	marked    uint64 // bytes taken for lost, ever

	// Undo: what was given up, should the loss turn out not to be one.
	canUndo   bool
	undoCwnd  int
	undoSS    int
	undoCount int    // retransmissions that no DSACK has answered
	undoTS    uint32 // timestamp of the first retransmission
	undoFrom  Seq
}

// An ackSample is what one acknowledgement told.
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
	sacked    bool // SACK told something new
	advanced  bool // SND.UNA moved
	timestamp bool
	tsEcr     uint32
}

// pipe is the number of bytes in the network (RFC 6675 4).
func (c *Conn) pipe() int {
	b := &c.sb
	n := int(c.snd.nxt-c.snd.una) - b.sacked - b.lost + b.resent - b.reno
	return max(n, 0)
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
	if c.cwr.bbr != nil {
		c.cwr.bbr.arrived(a.now, s, early)
		if early || s.flags&(segLost|segEver) == segLost {
			c.cwr.bbr.found(s.len())
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
		if c.cwr.bbr != nil {
			c.cwr.bbr.rs.rtt = 0
		}
	}
	if b.n == 0 {
		b.reset(ack)
	}
	b.fack = maxSeq(b.fack, ack)
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
	if c.cwr.bbr != nil && s.flags&segSacked == 0 && s.flags&(segLost|segResent) != segLost {
		c.cwr.bbr.losing(c, now, s)
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

// enterRecovery begins fast recovery (RFC 6675 5, RFC 9937 5).
func (c *Conn) enterRecovery(a *ackSample) {
	r := &c.rec
	if r.phase == phaseOpen {
		c.saveUndo()
	}
	r.phase = phaseRecovery
	r.point, r.pending = c.snd.nxt, true
	r.tlpOut = false
	// RFC 9937 6.1: "RecoverFS = SND.NXT - SND.UNA", without what was SACKed,
	// and with what this acknowledgement told: it counts as delivered.
	r.flight = int(c.snd.nxt-c.snd.una) - c.sb.sacked
	if c.sackOK {
		r.flight += a.delivered
	}
	r.early = 0
	r.twice = false
	c.beginPRR(a.now)
}

// beginPRR lowers ssthresh, and has cwnd follow it (RFC 9937 5).
func (c *Conn) beginPRR(now Time) {
	r := &c.rec
	r.delivered, r.out = 0, 0
	r.reduced, r.lost = 0, false
	c.cwr.reduce(c, now)
}

// reduceAgain is for a recovery whose retransmissions are lost. RFC 5681 4.3:
// "the loss of a retransmission, should be taken as two indications of
// congestion and, therefore, cwnd (and ssthresh) MUST be lowered twice". Where
// slow start has overflowed a queue, ssthresh may be more than the path and the
// queue hold: PRR would keep the queue full, and the recovery would never end.
func (c *Conn) reduceAgain(now Time) {
	if r := &c.rec; r.lost && r.phase == phaseRecovery {
		r.flight = c.pipe()
		c.beginPRR(now)
		r.twice = true
	}
	c.rec.lost = false
}

// saveUndo keeps what the reduction that follows gives up.
func (c *Conn) saveUndo() {
	r := &c.rec
	r.canUndo = true
	r.undoCwnd, r.undoSS = c.cwr.cwnd, c.cwr.ssthresh
	// A retransmission of the episode before that is still on its way fills a hole
	// with a timestamp older than that of the first of this one, and may be
	// answered by a DSACK: neither tells that this episode is for nothing.
	r.undoCount = (c.sb.resent + c.snd.mss - 1) / c.snd.mss
	if c.sb.resent == 0 {
		r.undoTS = 0
	}
	r.undoFrom = c.snd.una
}

// undo restores the window after a spurious recovery: by Eifel (RFC 3522: the
// first acknowledgement echoes a timestamp older than the retransmission), by
// DSACK (RFC 3708: every retransmission arrived twice), after a timeout by the
// arrival of what was never sent again (RFC 5682), or where nothing was sent
// again at all.
func (c *Conn) undo(a *ackSample) bool {
	r := &c.rec
	if !r.canUndo {
		return false
	}
	eifel := a.advanced && a.timestamp && r.undoTS != 0 && int32(a.tsEcr-r.undoTS) < 0
	dsack := a.dsack && r.undoCount == 0 && r.undoTS != 0
	frto := r.phase == phaseLoss && a.origAcked && (c.sackOK || r.frto == frtoNew)
	// What was taken for lost arrived before it was its turn to be sent again.
	unsent := r.phase == phaseRecovery && r.undoTS == 0 && a.origAcked && c.sb.lost == 0
	if !eifel && !dsack && !frto && !unsent {
		return false
	}
	r.canUndo, r.frto = false, frtoOff
	c.cwr.restore(c, r.undoCwnd, r.undoSS)
	// Nothing was lost: what is marked and was not sent again has not to be.
	c.sb.unmarkDue()
	r.phase = phaseOpen
	c.timers.backoff = 0
	return true
}

// leaveRecovery ends an episode whose point has been passed.
func (c *Conn) leaveRecovery() {
	r := &c.rec
	if b := c.cwr.bbr; b != nil {
		// draft-ietf-ccwg-bbr-06 5.6.4.4: "When BBR exits loss recovery it
		// restores C.cwnd to the "last known good" value".
		c.cwr.cwnd = max(c.cwr.cwnd, b.priorCwnd)
	} else if r.phase == phaseRecovery {
		// RFC 9937 5: "At the end of a recovery episode: cwnd = ssthresh".
		c.cwr.cwnd = c.cwr.ssthresh
	}
	r.phase = phaseOpen
	r.dups = 0
	c.sb.reno = 0
	// RFC 8985 6.2: the larger reordering window lasts for 16 recoveries.
	if r.reoKeep > 0 {
		if r.reoKeep--; r.reoKeep == 0 {
			r.reoMult = 1
		}
	}
}

// recover runs after each acknowledgement: who is lost, and how fast to go on.
func (c *Conn) recover(a *ackSample, duplicate bool) {
	r := &c.rec
	undone := c.undo(a)
	recovered := false
	if r.pending && r.point.LessEq(c.snd.una) {
		r.pending = false
		if r.phase != phaseOpen {
			recovered = r.phase == phaseRecovery
			c.leaveRecovery()
		}
	}
	if r.dsackHot && r.dsackEnd.LessEq(c.snd.una) {
		r.dsackHot = false
	}
	var wait Time
	if c.sackOK {
		if !undone {
			wait = c.detectLoss(a.now)
		}
	} else {
		c.detectReno(a, duplicate)
	}
	probeLost := c.judgeProbe(a.now)
	if c.sb.due > 0 && r.phase == phaseOpen && !probeLost {
		c.enterRecovery(a)
	}
	c.reduceAgain(a.now)
	c.checkTLP(a)
	if c.cwr.bbr != nil {
		c.cwr.bbr.acked(c, a)
	} else if r.phase == phaseRecovery {
		c.reducePRR(a)
	} else if a.advanced && !recovered {
		a.delivered += r.early
		r.early = 0
		if a.delivered > 0 {
			c.cwr.grow(c, a)
		}
	} else if r.phase == phaseOpen && c.sackOK && !a.advanced {
		// RFC 3042 2: "The congestion window (cwnd) MUST NOT be changed when
		// these new segments are transmitted": it grows when the gap is filled.
		r.early += a.delivered
	}
	if r.frto != frtoOff {
		c.judgeTimeout(a)
	}
	c.cwr.setRate(c)
	c.armRtx(a.now, wait, a.advanced || a.sacked)
}

// judgeTimeout goes on with F-RTO after an acknowledgement that did not show yet
// that the timeout was spurious (see undo). RFC 5682 2.1 step 2b: "the TCP sender
// SHOULD transmit up to two new (previously unsent) segments" in place of sending
// again what may only be late, where it can. With timestamps the first
// acknowledgement has told by itself (RFC 3522).
func (c *Conn) judgeTimeout(a *ackSample) {
	r, mss := &c.rec, c.segSize()
	window := int(int32(c.snd.una + Seq(c.snd.wnd) - c.snd.nxt))
	if r.frto == frtoSent && r.phase == phaseLoss && a.advanced && !a.timestamp && c.unsent() >= mss && window >= mss {
		r.frto = frtoNew
		c.cwr.cwnd = c.pipe() + 2*c.snd.mss
		return
	}
	r.frto = frtoOff
}

// reducePRR is RFC 9937 5: cwnd follows what is delivered.
func (c *Conn) reducePRR(a *ackSample) {
	r, w := &c.rec, &c.cwr
	if a.delivered == 0 {
		return
	}
	r.delivered += a.delivered
	pipe := c.pipe()
	if r.reduced == 0 && pipe <= w.ssthresh {
		r.reduced = a.now
		if r.twice {
			// What the queue still dropped while PRR lowered the pipe belongs to
			// what has been answered twice: it does not ask for a third reduction.
			r.point = c.snd.nxt
		}
	}
	var n int
	if pipe > w.ssthresh {
		// "Proportional Rate Reduction:
		// sndcnt = CEIL(prr_delivered * ssthresh / RecoverFS) - prr_out"
		n = (r.delivered*w.ssthresh+r.flight-1)/max(r.flight, 1) - r.out
	} else {
		// "sndcnt = MAX(prr_delivered - prr_out, DeliveredData);
		// if safeACK: sndcnt += MSS; sndcnt = MIN(ssthresh - pipe, sndcnt)".
		// RFC 9937 6.2: safeACK is that "SND.UNA advances and no further loss is
		// indicated": what was taken for lost before does not count.
		n = max(r.delivered-r.out, a.delivered)
		if a.advanced && r.marked == a.marked {
			n += c.snd.mss
		}
		n = min(w.ssthresh-pipe, n)
	}
	n = max(n, 0)
	if r.out == 0 && n < c.snd.mss {
		// "If prr_out is 0 AND sndcnt is 0: sndcnt = MSS" - force a fast retransmit.
		n = c.snd.mss
	}
	w.cwnd = pipe + n
}

// armRtx sets the one timer of retransmission: for reordering, for a tail loss
// probe, or for the timeout.
func (c *Conn) armRtx(now, reorder Time, progress bool) {
	t := &c.timers
	if c.snd.una == c.snd.nxt {
		// RFC 6298 5.2: "When all outstanding data has been acknowledged, turn
		// off the retransmission timer."
		t.rtx, t.rtxKind = 0, rtxRTO
		return
	}
	if c.shut() {
		t.rtx, t.rtxKind = 0, rtxRTO
		c.armPersist(now)
		return
	}
	switch {
	case reorder > 0:
		t.rtx, t.rtxKind = now+reorder, rtxReorder
	case progress || t.rtx == 0 || t.rtxKind == rtxReorder:
		// RFC 6298 5.3: "When an ACK is received that acknowledges new data,
		// restart the retransmission timer".
		t.rto = now + c.rtt.timeout(t.backoff, c.p)
		t.rtx, t.rtxKind = t.rto, rtxRTO
		c.armProbe(now)
	}
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

// congested answers a sign of congestion that no recovery follows.
func (c *Conn) congested(now Time) {
	if c.cwr.bbr != nil {
		c.cwr.bbr.congested(c, now)
		return
	}
	c.cwr.reduce(c, now)
	c.cwr.cwnd = min(c.cwr.cwnd, c.cwr.ssthresh)
}

// rtxExpired acts on the retransmission timer.
func (c *Conn) rtxExpired(now Time) {
	t := &c.timers
	switch {
	case t.rtxKind == rtxReorder && c.snd.una != c.snd.nxt:
		before := c.pipe()
		wait := c.detectLoss(now)
		if probeLost := c.judgeProbe(now); c.sb.due > 0 && c.rec.phase == phaseOpen && !probeLost {
			c.enterRecovery(&ackSample{now: now})
		}
		if pipe := c.pipe(); pipe < before && c.rec.phase == phaseRecovery && c.cwr.bbr == nil {
			// What has left the pipe was not delivered, so it lets nothing go but the
			// fast retransmit that RFC 9937 6.2 forces: "If prr_out is 0 AND sndcnt is
			// 0: sndcnt = SMSS". The rest goes as acknowledgements come.
			left := 0
			if c.rec.out > 0 {
				left = max(c.cwr.cwnd-before, 0) // what the last acknowledgement let go
			}
			c.cwr.cwnd = pipe + max(left, c.snd.mss)
		}
		c.armRtx(now, wait, true)
	case t.rtxKind == rtxTLP && c.snd.una != c.snd.nxt:
		c.rec.tlpNow = true
		t.rto = now + c.rtt.timeout(0, c.p)
		t.rtx, t.rtxKind = t.rto, rtxRTO
	default:
		c.retransmissionTimeout(now)
	}
}

// retransmissionTimeout is RFC 6298 5.4 to 5.7.
func (c *Conn) retransmissionTimeout(now Time) {
	t := &c.timers
	if c.state == SynSent || c.state == SynReceived {
		retries := c.p.SynRetries
		if c.passive {
			retries = c.p.SynAckRetries
		}
		if t.backoff >= retries {
			c.timedOut()
			return
		}
		t.backoff++
		c.synUnsent = true
		return
	}
	if c.snd.una == c.snd.nxt {
		return
	}
	// A peer whose window is closed and who answers is alive. RFC 9293 3.8.6.1: "the
	// sending TCP peer MUST allow the connection to stay open" (MUST-37). That holds for
	// the application, which may end it. RFC 6429 4: connections in this state may be
	// closed by the application or the operating system, without violating TCP, and an
	// orphan has only the stack to do so.
	closed := c.snd.wnd == 0 && now-c.rcv.last < 4*c.p.MaxRTO
	retries := c.p.Retries
	if c.orphan {
		retries = min(retries, orphanRetries)
	}
	if t.backoff >= retries && (!closed || c.orphan) {
		c.timedOut()
		return
	}
	if c.probeTimedOut(now, closed) {
		return
	}
	r := &c.rec
	// RFC 5682 2.1 step 1: not where a timeout has already begun a recovery.
	r.frto = frtoOff
	if r.phase != phaseLoss && !closed {
		if r.phase == phaseOpen {
			c.saveUndo()
			r.frto = frtoSent
		}
		c.cwr.timeout(c, now)
	}
	t.backoff = min(t.backoff+1, 30)
	if !closed {
		c.suspect(now)
	}
	r.phase = phaseLoss
	r.point, r.pending = c.snd.nxt, true
	r.tlpOut, r.tlpNow = false, false
	r.dups = 0
	c.sb.reno, r.early = 0, 0
	if b := &c.sb; b.firstPiece().sent().flags&segSacked != 0 {
		// The peer has dropped what it had reported: it did not acknowledge it.
		b.renege()
	}
	c.sb.markAllLost()
	// RFC 5681 3.1: after a timeout "cwnd MUST be set to no more than the loss
	// window, LW, which equals 1 full-sized segment".
	window := c.pipe() + c.snd.mss
	if closed {
		window = max(window, c.cwr.cwnd) // what was not let in says nothing about the path
	}
	c.cwr.cwnd = window
	t.rtx, t.rtxKind = now+c.rtt.timeout(t.backoff, c.p), rtxRTO
}

// orphanRetries is Params.Retries for a connection that the application has closed,
// whether the peer's window is open or not: Linux's tcp_orphan_retries.
const orphanRetries = 8

// tsClock is the timestamp clock: RFC 7323 5.4: "between 1 ms and 1 sec per tick".
func tsClock(now Time) uint32 { return uint32(now / Millisecond) }

// Timestamp is the TSval that a connection with a Config.TSOffset sends now.
func Timestamp(now Time, offset uint32) uint32 { return tsClock(now) + offset }

func (c *Conn) tsVal(now Time) uint32 { return Timestamp(now, c.snd.tsOffset) }

// rttOf takes the samples of an acknowledgement (RFC 6298 3, Karn's algorithm:
// "RTT samples MUST NOT be made using segments that were retransmitted", unless
// timestamps tell which copy it was).
func (c *Conn) rttOf(a *ackSample) {
	switch {
	case a.rtt > 0:
	case a.advanced && a.timestamp && a.tsEcr != 0:
		d := int32(c.tsVal(a.now) - a.tsEcr)
		if d < 0 || Time(d)*Millisecond > 2*c.p.MaxRTO {
			return
		}
		a.rtt = max(Time(d)*Millisecond, Millisecond)
	default:
		return
	}
	c.rtt.sample(a.now, a.rtt, c.p)
}
