package tcp

type phase uint8

const (
	phaseOpen     phase = iota // nothing is known to be lost
	phaseRecovery              // fast recovery: PRR sets cwnd
	phaseLoss                  // after a retransmission timeout: slow start
)

// A frtoStep is a step of F-RTO (RFC 5682 2.1).
type frtoStep uint8

const (
	frtoOff  frtoStep = iota
	frtoSent          // step 1: only the first segment was retransmitted
	frtoNew           // step 2b: new data is sent, to see which segments get acknowledged
)

// recovery is the state of loss detection (RACK-TLP, RFC 8985) and of fast recovery (PRR,
// RFC 9937).
type recovery struct {
	phase   phase
	point   Seq  // the recovery episode ends when point is acknowledged (RecoveryPoint of RFC 6675)
	pending bool // point is not yet acknowledged
	reduced Time // when the pipe first fell to ssthresh in this episode; 0: not yet
	lost    bool // a retransmission sent after reduced was lost
	twice   bool // the window was reduced a second time: see reduceAgain

	// noCongestion means that all the data to retransmit was lost because of its size or because the
	// peer's window was closed, not because of congestion.
	noCongestion bool

	// RACK, RFC 8985 5.2.
	xmit         Time  // RACK.xmit_ts: send time of the delivered piece that was sent last
	end          Seq   // RACK.end_seq: the end of that piece
	rtt          Time  // RACK.rtt: its round-trip time
	reoSeen      bool  // RACK.reordering_seen
	reoMult      uint8 // RACK.reo_wnd_mult
	reoKeep      uint8 // RACK.reo_wnd_persist: recoveries until reoMult is reset
	dsackEnd     Seq   // RACK.dsack_round: SND.NXT when reoMult last grew
	dsackPending bool  // dsackEnd is not yet acknowledged

	// Tail loss probe, RFC 8985 7.
	tlpEnd     Seq  // TLP.end_seq: SND.NXT when the probe was sent
	tlpOut     bool // a probe is in flight
	tlpRetrans bool // TLP.is_retrans: the probe was a retransmission
	tlpNow     bool // Next must send a probe

	dups int // duplicate acknowledgements since SND.UNA last advanced; counted only if SACK is not in use

	frto frtoStep // progress of F-RTO after the last timeout

	// PRR, RFC 9937 5.
	early int // bytes SACKed while nothing was marked lost, for which cwnd has not yet grown

	delivered int    // prr_delivered
	out       int    // prr_out
	flight    int    // RecoverFS
	marked    uint64 // bytes marked lost since the Conn was opened

	// Undo: the state before the reduction, restored if the loss was spurious.
	canUndo      bool
	undoCwnd     int
	undoSsthresh int
	undoCount    int    // retransmissions that no DSACK has reported as duplicates
	undoTS       uint32 // timestamp of the first retransmission; 0: none yet
	undoFrom     Seq    // SND.UNA when the episode began
	undoEnd      Seq    // SND.NXT when the episode ended; undo is impossible once SND.UNA is beyond it
}

// recover runs loss detection and congestion control after an acknowledgement: it detects
// losses, enters and leaves recovery, and sets cwnd, the pacing rate and the timer.
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
	if r.phase == phaseOpen && r.undoEnd.Less(c.snd.una) {
		// A round trip has passed since the recovery episode ended. From now on, a DSACK does
		// not report a retransmission of that episode.
		r.canUndo = false
	}
	if r.dsackPending && r.dsackEnd.LessEq(c.snd.una) {
		r.dsackPending = false
	}
	var wait Time
	if c.sackOK {
		if !undone {
			wait = c.detectLoss(a.now)
		}
	} else {
		c.detectReno(a, duplicate)
	}
	c.judgeProbe(a.now)
	if c.congestionLoss() {
		c.enterRecovery(a)
	}
	c.reduceAgain(a.now)
	c.checkTLP(a)
	if c.cc.bbr != nil {
		c.cc.bbr.acked(c, a)
	} else if r.phase == phaseRecovery {
		c.reducePRR(a)
	} else if a.advanced && !recovered {
		a.delivered += r.early
		r.early = 0
		if a.delivered > 0 {
			c.cc.grow(c, a)
		}
	} else if r.phase == phaseOpen && c.sackOK && !a.advanced {
		// RFC 3042 2: "The congestion window (cwnd) MUST NOT be changed when these new
		// segments are transmitted". cwnd grows for these bytes when the gap is filled.
		r.early += a.delivered
	}
	if r.frto != frtoOff {
		c.stepFRTO(a)
	}
	c.cc.setRate(c)
	c.armRtx(a.now, wait, a.advanced || a.sacked)
}

// congestionLoss reports whether there is lost data to retransmit for which recovery must be entered.
func (c *Conn) congestionLoss() bool {
	r := &c.rec
	r.noCongestion = r.noCongestion && c.sb.due > 0
	return c.sb.due > 0 && r.phase == phaseOpen && !r.noCongestion
}

// enterRecovery begins fast recovery (RFC 6675 5, RFC 9937 5).
func (c *Conn) enterRecovery(a *ackSample) {
	r := &c.rec
	if r.phase == phaseOpen {
		c.saveUndo()
	}
	if c.sackOK {
		c.count(SackRecovery)
	} else {
		c.count(RenoRecovery)
	}
	r.phase = phaseRecovery
	r.point, r.pending = c.snd.nxt, true
	r.tlpOut = false
	// RFC 9937 6.1: "RecoverFS = SND.NXT - SND.UNA", less the SACKed bytes, plus the bytes
	// that this acknowledgement delivers, because PRR counts those as delivered.
	r.flight = int(c.snd.nxt-c.snd.una) - c.sb.sacked
	if c.sackOK {
		r.flight += a.delivered
	}
	r.early = 0
	r.twice = false
	c.beginPRR(a.now)
}

// beginPRR reduces ssthresh and starts PRR. PRR then moves cwnd to ssthresh (RFC 9937 5).
func (c *Conn) beginPRR(now Time) {
	r := &c.rec
	r.delivered, r.out = 0, 0
	r.reduced, r.lost = 0, false
	c.cc.reduce(c, now)
}

// reducePRR sets cwnd during fast recovery (RFC 9937 5): PRR sends in proportion to the delivered data.
func (c *Conn) reducePRR(a *ackSample) {
	r, w := &c.rec, &c.cc
	if a.delivered == 0 {
		return
	}
	r.delivered += a.delivered
	pipe := c.pipe()
	if r.reduced == 0 && pipe <= w.ssthresh {
		r.reduced = a.now
		if r.twice {
			// More segments may have been lost while PRR reduced the pipe. The two
			// reductions already answer these losses. Move the end of the episode to
			// SND.NXT, so that these losses do not begin another episode.
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
		// RFC 9937 6.2: safeACK means that "SND.UNA advances and no further loss is
		// indicated". No further loss is indicated if this acknowledgement has not
		// increased the number of bytes marked lost.
		n = max(r.delivered-r.out, a.delivered)
		if a.advanced && r.marked == a.marked {
			n += c.snd.mss
		}
		n = min(w.ssthresh-pipe, n)
	}
	n = max(n, 0)
	if r.out == 0 && n < c.snd.mss {
		// "If prr_out is 0 AND sndcnt is 0: sndcnt = MSS": force a fast retransmit.
		n = c.snd.mss
	}
	w.cwnd = pipe + n
}

// reduceAgain reduces the window again if a retransmission was lost during recovery. RFC 5681
// 4.3: "the loss of a retransmission, should be taken as two indications of congestion and,
// therefore, cwnd (and ssthresh) MUST be lowered twice". After slow start has overflowed a
// queue, ssthresh may exceed what the path and the queue hold; PRR would then keep the queue
// full, and the recovery would never end.
func (c *Conn) reduceAgain(now Time) {
	if r := &c.rec; r.lost && r.phase == phaseRecovery {
		r.flight = c.pipe()
		c.beginPRR(now)
		r.twice = true
	}
	c.rec.lost = false
}

// leaveRecovery ends the episode: point is acknowledged.
func (c *Conn) leaveRecovery() {
	r := &c.rec
	if b := c.cc.bbr; b != nil {
		// draft-ietf-ccwg-bbr-06 5.6.4.4: "When BBR exits loss recovery it
		// restores C.cwnd to the "last known good" value".
		c.cc.cwnd = max(c.cc.cwnd, b.priorCwnd)
	} else if r.phase == phaseRecovery {
		// RFC 9937 5: "At the end of a recovery episode: cwnd = ssthresh".
		c.cc.cwnd = c.cc.ssthresh
	}
	r.phase = phaseOpen
	r.undoEnd = c.snd.nxt
	r.dups = 0
	c.sb.reno = 0
	// RFC 8985 6.2: the larger reordering window lasts for 16 recoveries.
	if r.reoKeep > 0 {
		if r.reoKeep--; r.reoKeep == 0 {
			r.reoMult = 1
		}
	}
}

// saveUndo saves cwnd and ssthresh before a reduction, for undo.
func (c *Conn) saveUndo() {
	r := &c.rec
	r.canUndo = true
	r.undoCwnd, r.undoSsthresh = c.cc.cwnd, c.cc.ssthresh
	// A retransmission of the previous episode may still be in flight. Its timestamp is older
	// than the timestamps of this episode's retransmissions, and it may cause a DSACK. Neither
	// the old timestamp nor the DSACK means that this episode is spurious. So count the
	// retransmission in undoCount, and keep undoTS.
	r.undoCount = (c.sb.resent + c.snd.mss - 1) / c.snd.mss
	if c.sb.resent == 0 {
		r.undoTS = 0
	}
	r.undoFrom = c.snd.una
}

// undo restores the congestion window if the recovery was spurious, and reports whether it did. One of
// four signs shows that a recovery was spurious:
//
//   - Eifel (RFC 3522): the first acknowledgement echoes a timestamp older than the retransmission.
//   - DSACK (RFC 3708): the peer reports the data of every retransmission as a duplicate.
//   - F-RTO (RFC 5682): after a timeout, data arrives that was not retransmitted.
//   - All data that was marked lost arrives before anything is retransmitted.
func (c *Conn) undo(a *ackSample) bool {
	r := &c.rec
	if !r.canUndo {
		return false
	}
	eifel := a.advanced && a.timestamp && r.undoTS != 0 && int32(a.tsEcr-r.undoTS) < 0
	dsack := a.dsack && r.undoCount == 0 && r.undoTS != 0
	frto := r.phase == phaseLoss && a.origAcked && (c.sackOK || r.frto == frtoNew)
	unsent := r.phase == phaseRecovery && r.undoTS == 0 && a.origAcked && c.sb.lost == 0
	switch {
	case eifel:
		c.count(FullUndo)
	case dsack:
		c.count(DSACKUndo)
	case frto:
		c.count(SpuriousRTOs)
	case unsent:
		c.count(LossUndo)
	default:
		return false
	}
	r.canUndo, r.frto = false, frtoOff
	c.cc.restore(c, r.undoCwnd, r.undoSsthresh)
	// Nothing was lost: cancel the retransmissions that are still due.
	c.sb.unmarkDue()
	r.phase = phaseOpen
	c.timers.backoff = 0
	return true
}

// stepFRTO continues F-RTO after an acknowledgement that did not show that the timeout was
// spurious (see undo). RFC 5682 2.1 step 2b: "the TCP sender SHOULD transmit up to two new
// (previously unsent) segments", if it has them and the window allows, instead of
// retransmitting data that may only be late. With timestamps this is not needed: the first
// acknowledgement was conclusive (RFC 3522).
func (c *Conn) stepFRTO(a *ackSample) {
	r, mss := &c.rec, c.segSize()
	window := int(int32(c.snd.una + Seq(c.snd.wnd) - c.snd.nxt))
	if r.frto == frtoSent && r.phase == phaseLoss && a.advanced && !a.timestamp && c.unsent() >= mss && window >= mss {
		r.frto = frtoNew
		c.cc.cwnd = c.pipe() + 2*c.snd.mss
		return
	}
	r.frto = frtoOff
}

// congested reacts to congestion that is not followed by recovery: an ECN signal, or a loss that
// a tail loss probe repaired.
func (c *Conn) congested(now Time) {
	if c.cc.bbr != nil {
		c.cc.bbr.congested(c, now)
		return
	}
	c.cc.reduce(c, now)
	c.cc.cwnd = min(c.cc.cwnd, c.cc.ssthresh)
}

// pipe returns the number of bytes in the network (RFC 6675 4).
func (c *Conn) pipe() int {
	b := &c.sb
	n := int(c.snd.nxt-c.snd.una) - b.sacked - b.lost + b.resent - b.reno
	return max(n, 0)
}

// armRtx sets the retransmission timer: as reordering timer if reorder > 0, else for a tail loss
// probe or the RTO. progress tells whether data was newly acknowledged or SACKed.
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

// rtxExpired handles the expiry of the retransmission timer.
func (c *Conn) rtxExpired(now Time) {
	t := &c.timers
	switch {
	case t.rtxKind == rtxReorder && c.snd.una != c.snd.nxt:
		before := c.pipe()
		wait := c.detectLoss(now)
		if c.judgeProbe(now); c.congestionLoss() {
			c.enterRecovery(&ackSample{now: now})
		}
		if pipe := c.pipe(); pipe < before && c.rec.phase == phaseRecovery && c.cc.bbr == nil {
			// The bytes that left the pipe were lost, not delivered, so PRR allows
			// only the fast retransmit of RFC 9937 6.2: "If prr_out is 0 AND sndcnt is
			// 0: sndcnt = SMSS". Later acknowledgements allow the other retransmissions.
			left := 0
			if c.rec.out > 0 {
				left = max(c.cc.cwnd-before, 0) // allowed by the last acknowledgement, not yet sent
			}
			c.cc.cwnd = pipe + max(left, c.snd.mss)
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

// retransmissionTimeout retransmits and backs off the RTO (RFC 6298 5.4 to 5.7), or ends the
// connection after too many timeouts.
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
		c.count(Timeouts)
		c.synUnsent = true
		return
	}
	if c.snd.una == c.snd.nxt {
		return
	}
	// closed: the peer's window is closed, but the peer still answers, so it is alive. RFC 9293 3.8.6.1: "the
	// sending TCP peer MUST allow the connection to stay open" (MUST-37). An orphan is
	// limited nevertheless: see persistExpired.
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
	c.count(Timeouts)
	r := &c.rec
	// F-RTO is used only if no recovery is in progress. RFC 5682 2.1 step 1 excludes recovery after a
	// timeout; this code excludes fast recovery too.
	r.frto = frtoOff
	if r.phase != phaseLoss && !closed {
		if r.phase == phaseOpen {
			c.saveUndo()
			r.frto = frtoSent
		}
		c.cc.timeout(c, now)
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
		// The peer has discarded data that it had SACKed: otherwise it would have
		// acknowledged this piece cumulatively.
		b.renege()
		c.count(SACKReneging)
	}
	c.rec.noCongestion = false
	c.sb.markAllLost()
	// RFC 5681 3.1: after a timeout "cwnd MUST be set to no more than the loss
	// window, LW, which equals 1 full-sized segment".
	window := c.pipe() + c.snd.mss
	if closed {
		window = max(window, c.cc.cwnd) // the peer refused the data; no sign of congestion
	}
	c.cc.cwnd = window
	t.rto = now + c.rtt.timeout(t.backoff, c.p)
	t.rtx, t.rtxKind = t.rto, rtxRTO
}

// orphanRetries limits Params.Retries for a connection that the application has closed, even while
// the peer's window is closed. It corresponds to Linux's tcp_orphan_retries. See also persistExpired.
const orphanRetries = 8
