package tcp

// bandwidth returns BBR.max_bw.
func (b *bbr) bandwidth() int64 { return max(b.maxBw[0], b.maxBw[1]) }

// advanceMaxBw starts a new slot of the maximum filter (5.5.6). If the current slot has no
// sample, the filter stays as it is.
func (b *bbr) advanceMaxBw() {
	if b.maxBw[1] != 0 {
		b.maxBw[0], b.maxBw[1] = b.maxBw[1], 0
	}
}

// latestSignals implements UpdateLatestDeliverySignals of 5.5.10.3, which is called "near start of ACK
// processing".
func (b *bbr) latestSignals(c *Conn) {
	b.lossRoundStart = false
	if !b.rs.valid {
		return
	}
	b.bwLatest = max(b.bwLatest, b.rs.rate)
	b.inflightLatest = max(b.inflightLatest, int(b.rs.delivered))
	if b.rs.priorDelivered >= b.lossRound {
		b.lossRound = c.delivered
		b.lossRoundStart = true
	}
}

// congestionSignals implements UpdateCongestionSignals of 5.5.10.3, with UpdateMaxBw of
// 5.5.5 and UpdateRound of 5.5.1.
func (b *bbr) congestionSignals(c *Conn) {
	b.roundStart = false
	if b.rs.valid && b.rs.priorDelivered >= b.nextRound {
		b.nextRound = c.delivered
		b.rounds++
		b.sinceProbeUp++
		b.roundStart = true
		b.limitedBefore, c.cc.limited = c.cc.limited, false
	}
	// 5.5.4: "the estimator discards application-limited samples [...]. However,
	// the estimator does use application-limited samples if the measured
	// delivery rate happens to be larger than the current BBR.max_bw estimate".
	if b.rs.rate > 0 && (b.rs.rate >= b.bandwidth() || !b.rs.appLimited) {
		b.maxBw[1] = max(b.maxBw[1], b.rs.rate)
	}
	if !b.lossRoundStart {
		return
	}
	if b.lossInRound && !b.probing() {
		b.lowerBounds(c)
	}
	b.lossInRound = false
}

// lowerBounds lowers the short-term bounds. 5.5.10.3: "Upon the ACK at the end of each round that encountered
// a newly-marked loss, the flow updates its model: bw_shortterm = max(bw_latest,
// BBR.Beta * BBR.bw_shortterm), inflight_shortterm = max(inflight_latest,
// BBR.Beta * BBR.inflight_shortterm)".
func (b *bbr) lowerBounds(c *Conn) {
	if b.bwShort == unboundedRate {
		b.bwShort = b.bandwidth()
	}
	if b.inflightShort == unbounded {
		b.inflightShort = c.cc.cwnd
	}
	b.bwShort = max(b.bwLatest, int64(bbrBeta*float64(b.bwShort)))
	b.inflightShort = max(b.inflightLatest, int(bbrBeta*float64(b.inflightShort)))
}

// inflightTooHigh answers "Do loss signals suggest C.inflight was too high?" (5.5.10.2). Without SACK,
// any loss suggests that.
func (b *bbr) inflightTooHigh(c *Conn, rs *rateSample) bool {
	return float64(rs.lost) > float64(rs.inFlight)*bbrLossThresh || rs.lost > 0 && !c.sackOK
}

// handleTooHigh implements HandleInflightTooHigh of 5.5.10.2.
func (b *bbr) handleTooHigh(c *Conn, now Time, inFlight int, appLimited bool) {
	b.tooHigh = true
	b.probeSample = false // only react once per bw probe
	if !appLimited {
		b.inflightLong = max(inFlight, int(bbrBeta*float64(b.targetInflight(c))), bbrMinPipe*c.snd.mss)
	}
	if b.state == bbrUp {
		b.undoState = bbrUp
		b.startDown(c, now)
	}
}

// targetInflight returns "Our estimated BDP, unless congestion cut C.cwnd" (5.3.3.8.3).
func (b *bbr) targetInflight(c *Conn) int { return min(b.bdp(1), c.cc.cwnd) }

// noteLoss implements NoteLoss of 5.5.10.2.
func (b *bbr) noteLoss(c *Conn) {
	if !b.lossInRound {
		b.lossRound = c.delivered
	}
	b.lossInRound = true
}

// handleLost implements HandleLostPacket of 5.5.10.2. It is called when piece s is marked lost.
func (b *bbr) handleLost(c *Conn, now Time, s *sent) {
	if c.rec.phase == phaseOpen && !b.lossInRound {
		b.saveState(c)
	}
	b.noteLoss(c)
	b.rateSampler.lost += uint64(s.len())
	if s.seq != b.lossEnd {
		b.lossEvents++
	}
	b.lossEnd = s.end
	p := b.record(s.tx)
	if p == nil || !b.probeSample {
		return
	}
	rs := rateSample{inFlight: p.inFlight, lost: b.lostSince(p.lost)}
	if !b.inflightTooHigh(c, &rs) {
		return
	}
	// InflightAtLoss: "At what prefix of "packet" P did losses exceed
	// BBR.LossThresh? We perform this computation because P may be an offload
	// burst containing many packets".
	before := float64(p.inFlight - s.len())
	lostBefore := float64(rs.lost) - float64(s.len())
	prefix := max((bbrLossThresh*before-lostBefore)/(1-bbrLossThresh), 0)
	b.handleTooHigh(c, now, int(before+prefix), p.appLimited)
}

// congested reacts to an ECN signal. The draft defines no reaction; RFC 3168 6.1.2: "the
// indication of congestion should be treated just as a congestion loss". While BBR probes, an ECN
// signal counts as loss above the threshold.
func (b *bbr) congested(c *Conn, now Time) {
	if c.rec.phase == phaseOpen && !b.lossInRound {
		b.saveState(c)
	}
	b.noteLoss(c)
	if b.state == bbrStartup {
		b.undoState = bbrStartup
		b.fullAtLoss(c)
	} else if b.probeSample {
		b.handleTooHigh(c, now, c.pipe(), false)
	}
}

// timeout implements OnEnterRTO of 5.6.4.4: all data in flight counts as lost. The caller sets cwnd.
func (b *bbr) timeout(c *Conn, now Time) {
	b.saveCwnd(c)
	for p := c.sb.firstOf(kindAny); p.c != nil; p = c.sb.nextOf(p, kindAny) {
		c.markLost(now, p)
	}
}

// writing implements CheckIfApplicationLimited of 4.1.1.4. The connection was application-limited before
// this write if "There is no pending data to be sent", "The current
// estimate of the amount of data outstanding in the network is less than
// [cwnd]", "All packets considered lost have been retransmitted".
func (b *bbr) writing(c *Conn) {
	if c.unsent() == 0 && c.pipe() < c.cc.cwnd && c.sb.due == 0 {
		b.limited(c.delivered, c.pipe())
	}
}

// initRate implements InitPacingRate of 5.6.2: "nominal_bandwidth = C.InitialCwnd /
// (C.srtt ? C.srtt : 1ms); C.pacing_rate = BBR.StartupPacingGain *
// nominal_bandwidth". The initial window is sent as one quantum, as on Linux.
func (b *bbr) initRate(c *Conn) {
	if b.pace.rate != 0 {
		return
	}
	srtt := c.rtt.srtt
	if srtt == 0 {
		srtt = Millisecond
	}
	b.pace.rate = int64(bbrStartupGain * float64(c.cc.cwnd) * float64(Second) / float64(srtt))
	b.pace.left = c.cc.cwnd
}

// saveState implements SaveStateUponLoss of 5.5.11.1.
func (b *bbr) saveState(c *Conn) {
	b.saveCwnd(c)
	b.undoState = bbrNone
	b.undoBwShort, b.undoShort, b.undoLong = b.bwShort, b.inflightShort, b.inflightLong
}

// saveCwnd implements SaveCwnd of 5.6.4.4: "the latest C.cwnd unmodulated by loss
// recovery or ProbeRTT".
func (b *bbr) saveCwnd(c *Conn) {
	if c.rec.phase == phaseOpen && b.state != bbrProbeRTT {
		b.priorCwnd = c.cc.cwnd
	} else {
		b.priorCwnd = max(b.priorCwnd, c.cc.cwnd)
	}
}

// spurious implements HandleSpuriousLossDetection of 5.5.11.2.
func (b *bbr) spurious(c *Conn) {
	c.cc.cwnd = max(c.cc.cwnd, b.priorCwnd)
	b.lossInRound = false
	b.resetFull()
	b.bwShort = max(b.bwShort, b.undoBwShort)
	b.inflightShort = max(b.inflightShort, b.undoShort)
	b.inflightLong = max(b.inflightLong, b.undoLong)
	switch {
	case b.state == bbrProbeRTT:
		if b.undoState == bbrStartup {
			b.fullReached = false
		}
	case b.undoState == bbrStartup && b.state != bbrStartup:
		b.fullReached = false
		b.enterStartup()
	case b.undoState == bbrUp && b.state != bbrUp:
		b.startRefill(c)
	}
	b.undoState = bbrNone
}

// restart implements HandleRestartFromIdle of 5.4.1: "aiming to return as quickly as
// possible to its target operating point of rate balance and a full pipe".
func (b *bbr) restart(c *Conn, now Time) {
	if b.appLimited == 0 {
		return // the application has not paused
	}
	b.idleRestart = true
	b.extraFrom, b.extraDelivered = now, 0
	if b.inProbeBW() {
		b.setRate(c, 1)
	} else if b.state == bbrProbeRTT {
		b.checkProbeRTTDone(c, now)
	}
}

// ackAggregation implements UpdateACKAggregation of 5.5.9.
func (b *bbr) ackAggregation(c *Conn, now Time) {
	expected := int(float64(b.bw) * float64(now-b.extraFrom) / float64(Second))
	if b.extraDelivered <= expected {
		// "Reset interval if ACK rate is below expected rate".
		b.extraDelivered, b.extraFrom, expected = 0, now, 0
	}
	b.extraDelivered += b.rs.newlyAcked
	extra := min(b.extraDelivered-expected, c.cc.cwnd)
	// "The windowed maximum over 1 round trip during STARTUP and 10 round trips
	// after exiting STARTUP", in two slots.
	slot := 1
	if b.fullReached {
		slot = bbrExtraRounds / 2
	}
	if b.roundStart {
		if b.extraRounds++; b.extraRounds >= slot {
			b.extraRounds = 0
			b.extraAcked[0], b.extraAcked[1] = b.extraAcked[1], 0
		}
	}
	b.extraAcked[1] = max(b.extraAcked[1], extra)
}

// setRate implements SetPacingRateWithGain of 5.6.2. BBR sets the rate "as long as it estimates that it
// has filled the pipe [...], or doing so increases the pacing rate". The rate is at least
// BBR.MinPipeCwnd per second, because that is the lower bound of cwnd. Without this bound the rate
// could fall to almost nothing: after the peer's window was closed, a rate sample may measure the delivery
// of a single byte.
func (b *bbr) setRate(c *Conn, gain float64) {
	rate := int64(gain * float64(b.bw) * bbrPacingMargin)
	if rate > 0 && (b.fullReached || rate > b.pace.rate) {
		b.pace.rate = max(rate, int64(bbrMinPipe*c.snd.mss))
	}
}

// bdpOf implements BDPMultiple of 5.6.4.2, in bytes.
func (b *bbr) bdpOf(bw int64, gain float64) int {
	return int(min(gain*float64(bw)*float64(b.minRTT)/float64(Second), maxWindow))
}

// bdp returns gain times the bandwidth-delay product in bytes.
func (b *bbr) bdp(gain float64) int { return b.bdpOf(b.bw, gain) }

// quantize implements QuantizationBudget of 5.6.4.2.
func (b *bbr) quantize(c *Conn, n int) int {
	// 5.5.8.1: "BBR.offload_budget = 3 * C.send_quantum".
	n = max(n, 3*b.pace.quantum(c.snd.mss, int(c.snd.gso)), bbrMinPipe*c.snd.mss)
	if b.state == bbrUp {
		n += 2 * c.snd.mss
	}
	return n
}

// inflight implements Inflight of 5.6.4.2.
func (b *bbr) inflight(c *Conn, gain float64) int {
	if b.minRTT == 0 {
		return initialWindow(c.snd.mss)
	}
	return b.quantize(c, b.bdp(gain))
}

func (b *bbr) probeRTTCwnd(c *Conn) int {
	return max(b.bdp(bbrProbeCwndGain), bbrMinPipe*c.snd.mss)
}

// setCwnd implements SetCwnd of 5.6.4.6, with the bounds of 5.6.4.5 and 5.6.4.7.
func (b *bbr) setCwnd(c *Conn) {
	w := &c.cc
	mss := c.snd.mss
	most := initialWindow(mss)
	if b.minRTT != 0 {
		most = b.quantize(c, b.bdp(b.cwndGain)+max(b.extraAcked[0], b.extraAcked[1]))
	}
	if b.fullReached {
		w.cwnd = min(w.cwnd+b.rs.newlyAcked, most)
	} else if w.cwnd < most || c.delivered < uint64(initialWindow(mss)) {
		w.cwnd += b.rs.newlyAcked
	}
	w.cwnd = max(w.cwnd, bbrMinPipe*mss)
	if b.state == bbrProbeRTT {
		w.cwnd = min(w.cwnd, b.probeRTTCwnd(c))
	}
	bound := unbounded
	switch {
	case b.state == bbrProbeRTT || b.state == bbrCruise:
		bound = b.withHeadroom(c)
	case b.inProbeBW():
		bound = b.inflightLong
	}
	bound = max(min(bound, b.inflightShort), bbrMinPipe*mss)
	w.cwnd = min(w.cwnd, bound, maxWindow)
}
