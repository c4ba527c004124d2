package tcp

import "math"

// bbr is BBRv3 (draft-ietf-ccwg-bbr-06); numbers in comments are sections of the draft. It
// keeps a model of the path (its bandwidth, its round-trip time without queues, and the volume
// that may be in flight without much loss) and derives the pacing rate and cwnd from this model.
// Only connections with BBR have a bbr.
//
// This file is the state machine of 5.3; bbr_model.go has the model of 5.5 and the control
// parameters of 5.6.
type bbr struct {
	rateSampler
	pace pacer

	state      bbrState
	ackPhase   ackPhase
	pacingGain float64
	cwndGain   float64
	rng        uint32

	// Rounds, 5.5.1.
	nextRound  uint64 // BBR.next_round_delivered: the round ends with the delivery of data sent when C.delivered was at least this
	rounds     int
	roundStart bool

	// The path's rates in bytes/s, 5.5.2 to 5.5.6.
	bw       int64
	maxBw    [2]int64 // maximum sample of the last ProbeBW cycle and of this one
	bwShort  int64    // math.MaxInt64: no bound
	bwLatest int64

	// Round-trip times, 5.5.7 and 5.3.4.
	minRTT, minRTTAt     Time // 0: none yet
	probeMin, probeMinAt Time // BBR.probe_rtt_min_delay and when it was set or confirmed
	probeExpired         bool
	probeDone            Time // ProbeRTT ends no earlier; 0: too much is still in flight
	probeRoundDone       bool
	idleRestart          bool

	// Volumes in bytes, 5.5.8 to 5.5.10; math.MaxInt: no bound.
	inflightLong, inflightShort int
	inflightLatest              int
	priorCwnd                   int
	extraAcked                  [2]int // maximum excess of acknowledged data in the last slot of rounds and in this one
	extraRounds                 int    // rounds in the current slot of extraAcked
	extraFrom                   Time   // start of the interval in which extraDelivered is counted
	extraDelivered              int

	// Full pipe, 5.3.1.2.
	fullBw      int64
	fullCount   int
	fullNow     bool
	fullReached bool
	drainRound  int

	// Probing, 5.3.3.
	cycleAt        Time // start of the current cycle
	probeWait      Time // the next probe for bandwidth begins at most this long after cycleAt
	sinceProbeUp   int  // rounds since the last probe for bandwidth
	upRounds       int  // doublings of the growth of inflightLong
	upAcked        int  // bytes acknowledged since inflightLong last grew
	upAckedPer     int  // upAcked at which inflightLong grows by one segment
	probeSample    bool // BBR.bw_probe_samples: the samples are of data sent while probing
	tooHigh        bool // BBR.prev_probe_too_high
	precautionary  bool // BBR.prev_probe_precautionary
	limitedBefore  bool // cwnd limited the previous round
	lossInRound    bool
	lossRoundStart bool
	lossRound      uint64 // BBR.loss_round_delivered
	lossEvents     int    // number of discontiguous ranges lost in this round
	lossEnd        Seq
	recoveryRounds int // whole rounds of fast recovery

	// Undo, 5.5.11: what to restore if a loss was spurious.
	undoState   bbrState
	undoBwShort int64
	undoShort   int
	undoLong    int
}

type bbrState uint8

const (
	bbrNone bbrState = iota // in undoState: there is no state to restore
	bbrStartup
	bbrDrain
	bbrDown
	bbrCruise
	bbrRefill
	bbrUp
	bbrProbeRTT
)

// ackPhase is BBR.ack_phase: the phase of probing in which the acknowledged data was sent.
type ackPhase uint8

const (
	acksInit ackPhase = iota
	acksRefilling
	acksProbeStarting
	acksProbeFeedback
	acksProbeStopping
)

// Constants of 2.4 to 2.14.
const (
	bbrPacingMargin    = 0.99
	bbrLossThresh      = 0.02
	bbrBeta            = 0.7
	bbrHeadroom        = 0.15
	bbrMinPipe         = 4 // segments
	bbrStartupGain     = 2.77
	bbrDrainGain       = 0.5
	bbrCwndGain        = 2
	bbrUpCwndGain      = 2.25
	bbrFullGrowth      = 1.25
	bbrFullRounds      = 3
	bbrStartupLosses   = 6
	bbrExtraRounds     = 10
	bbrMinRTTLen       = 10 * Second
	bbrSameRTT         = 64 // round-trip times match if they differ by at most 1/64, the noise of interrupts and timers
	bbrProbeInterval   = 5 * Second
	bbrProbeDuration   = 200 * Millisecond
	bbrProbeCwndGain   = 0.5
	bbrMostRenoRounds  = 63
	unbounded          = math.MaxInt
	unboundedRate      = math.MaxInt64
	bbrDrainRounds     = 3
	bbrMaxProbeUpShift = 30
)

// newBBR returns a bbr in Startup. seed, for the random choices of 5.3.3.8, is the initial
// sequence number, which is unpredictable.
func newBBR(seed Seq) *bbr {
	b := &bbr{
		rng:     uint32(seed) | 1,
		bwShort: unboundedRate, inflightLong: unbounded, inflightShort: unbounded,
		undoBwShort: unboundedRate, undoShort: unbounded, undoLong: unbounded,
	}
	b.enterStartup()
	return b
}

// random returns a pseudo-random number below n (xorshift).
func (b *bbr) random(n uint32) uint32 {
	b.rng ^= b.rng << 13
	b.rng ^= b.rng >> 17
	b.rng ^= b.rng << 5
	return b.rng % n
}

// acked implements 5.2.3: "On every ACK, the BBR algorithm executes the following [...]
// steps in order to update its network path model, update its state machine,
// and adjust its control parameters".
func (b *bbr) acked(c *Conn, a *ackSample) {
	b.finish(c.delivered, c.rtt.min)
	b.latestSignals(c)
	b.congestionSignals(c)
	b.ackAggregation(c, a.now)
	b.checkFull()
	b.checkStartupDone(c)
	b.checkDrainDone(c, a.now)
	b.cycle(c, a.now)
	b.updateMinRTT(a.now)
	b.checkProbeRTT(c, a.now)
	if b.lossRoundStart {
		b.bwLatest, b.inflightLatest = b.rs.rate, int(b.rs.delivered)
	}
	b.bw = min(b.bandwidth(), b.bwShort)
	b.setRate(c, b.pacingGain)
	b.setCwnd(c)
}

func (b *bbr) enterStartup() {
	b.state, b.pacingGain, b.cwndGain = bbrStartup, bbrStartupGain, bbrCwndGain
}

func (b *bbr) resetFull() { b.fullBw, b.fullCount, b.fullNow = 0, 0, false }

// checkFull implements 5.3.1.2: "if BBR counts several (three) non-application-limited
// rounds where attempts to significantly increase the delivery rate actually
// result in little increase (less than 25 percent), then it estimates that it
// has fully utilized the per-flow available bandwidth".
func (b *bbr) checkFull() {
	if b.fullNow || !b.roundStart || b.rs.appLimited || b.rs.rate == 0 {
		return
	}
	if float64(b.rs.rate) >= float64(b.fullBw)*bbrFullGrowth {
		b.resetFull()
		b.fullBw = b.rs.rate
		return
	}
	b.fullCount++
	if b.fullCount >= bbrFullRounds {
		b.fullNow, b.fullReached = true, true
	}
}

// checkStartupDone implements 5.3.1.1 with 5.3.1.3.
func (b *bbr) checkStartupDone(c *Conn) {
	if b.state != bbrStartup {
		return
	}
	// "The connection has been in fast recovery for at least one full
	// packet-timed round trip. The loss rate over the time scale of a single
	// full round trip exceeds BBR.LossThresh (2%). There are at least
	// BBRStartupFullLossCnt=6 discontiguous sequence ranges lost in that round
	// trip." Without SACK: "if any packet loss is detected during fast recovery".
	if b.roundStart {
		if c.rec.phase == phaseRecovery {
			b.recoveryRounds++
		} else {
			b.recoveryRounds = 0
		}
	}
	enough := b.recoveryRounds > 1 && b.lossRoundStart && b.lossEvents >= bbrStartupLosses
	if !c.sackOK {
		enough = c.rec.phase == phaseRecovery
	}
	if enough && b.inflightTooHigh(c, &b.rs) {
		b.undoState = bbrStartup
		b.fullAtLoss(c)
	}
	if b.lossRoundStart {
		b.lossEvents = 0
	}
	if b.fullReached {
		b.state, b.pacingGain, b.cwndGain = bbrDrain, bbrDrainGain, bbrCwndGain
		b.drainRound = b.rounds
	}
}

// fullAtLoss ends Startup because of congestion: the pipe counts as full.
func (b *bbr) fullAtLoss(c *Conn) {
	b.fullReached = true
	b.inflightLong = max(b.bdp(1), b.inflightLatest, bbrMinPipe*c.snd.mss)
}

// checkDrainDone implements 5.3.2: "if (BBR.state == Drain && (C.inflight <=
// Inflight(1.0) || BBR.round_count > BBR.drain_start_round + 3)) EnterProbeBW()".
func (b *bbr) checkDrainDone(c *Conn, now Time) {
	if b.state == bbrDrain && (c.pipe() <= b.inflight(c, 1) || b.rounds > b.drainRound+bbrDrainRounds) {
		b.startDown(c, now)
	}
}

func (b *bbr) probing() bool {
	return b.state == bbrStartup || b.state == bbrRefill || b.state == bbrUp
}

func (b *bbr) inProbeBW() bool { return b.state >= bbrDown && b.state <= bbrUp }

// startDown implements StartProbeBW_DOWN of 5.3.3.9.
func (b *bbr) startDown(c *Conn, now Time) {
	b.lossInRound, b.bwLatest, b.inflightLatest = false, 0, 0
	b.upAckedPer = unbounded
	// 5.3.3.8.3, PickProbeWait: "Decide random round-trip bound for wait",
	// "Decide the random wall clock bound for wait": 2 to 3 s.
	b.sinceProbeUp = int(b.random(2))
	b.probeWait = 2*Second + Time(b.random(1000))*Millisecond
	b.cycleAt = now
	b.ackPhase = acksProbeStopping
	b.nextRound = c.delivered
	b.state, b.pacingGain, b.cwndGain = bbrDown, 0.9, bbrCwndGain
}

func (b *bbr) startCruise() {
	b.state, b.pacingGain, b.cwndGain = bbrCruise, 1, bbrCwndGain
}

func (b *bbr) startRefill(c *Conn) {
	b.bwShort, b.inflightShort = unboundedRate, unbounded
	b.upRounds, b.upAcked = 0, 0
	b.precautionary = false
	b.ackPhase = acksRefilling
	b.nextRound = c.delivered
	b.state, b.pacingGain, b.cwndGain = bbrRefill, 1, bbrCwndGain
}

func (b *bbr) startUp(c *Conn) {
	b.ackPhase = acksProbeStarting
	b.nextRound = c.delivered
	b.resetFull()
	b.fullBw = b.rs.rate
	b.state, b.pacingGain, b.cwndGain = bbrUp, bbrUpGain, bbrUpCwndGain
	b.raiseSlope(c)
}

const bbrUpGain = 1.25

// cycle implements UpdateProbeBWCyclePhase of 5.3.3.9: "on each ACK that acknowledges
// new data, to advance the ProbeBW state machine".
func (b *bbr) cycle(c *Conn, now Time) {
	if !b.fullReached || !b.rs.valid || b.adaptLongTerm(c) {
		return
	}
	switch b.state {
	case bbrDown:
		if !b.timeToProbe(c, now) && b.timeToCruise(c) {
			b.startCruise()
		}
	case bbrCruise:
		b.timeToProbe(c, now)
	case bbrRefill:
		// "After one round of REFILL, start UP".
		if b.roundStart {
			b.probeSample = true
			b.startUp(c)
		}
	case bbrUp:
		if b.timeToGoDown(c) {
			b.tooHigh = false // no high loss (yet)
			b.startDown(c, now)
		}
	}
}

// timeToProbe implements IsTimeToProbeBW of 5.3.3.8.3, with T_probe = min(T_bbr, T_reno). If it is
// time to probe, timeToProbe starts ProbeBW_REFILL and returns true.
func (b *bbr) timeToProbe(c *Conn, now Time) bool {
	rounds := min(b.targetInflight(c)/c.snd.mss, bbrMostRenoRounds)
	if now > b.cycleAt+b.probeWait || b.sinceProbeUp >= rounds {
		b.startRefill(c)
		return true
	}
	return false
}

// timeToCruise reports whether ProbeBW_DOWN may end. 5.3.3.1: "There is free headroom", and
// "C.inflight is less than or equal to BBR.bdp".
func (b *bbr) timeToCruise(c *Conn) bool {
	return c.pipe() <= b.withHeadroom(c) && c.pipe() <= b.quantize(c, b.bdpOf(b.bandwidth(), 1))
}

// timeToGoDown implements IsTimeToGoDown of 5.3.3.9: it reports whether ProbeBW_UP must end (5.3.3.7:
// "Exit Conditions").
func (b *bbr) timeToGoDown(c *Conn) bool {
	if b.tooHigh && c.pipe() >= b.inflightLong {
		// "Precautionary Bandwidth Probing: Deceleration".
		b.precautionary = true
		return true
	}
	if b.cwndLimited(c) && c.cc.cwnd >= b.inflightLong {
		b.resetFull() // bw is limited by BBR.inflight_longterm
		b.fullBw = b.rs.rate
		return false
	}
	return b.fullNow // we estimate we've fully used path bw
}

// cwndLimited reports whether cwnd limited sending in this round or the last (C.is_cwnd_limited).
func (b *bbr) cwndLimited(c *Conn) bool { return c.cc.limited || b.limitedBefore }

// withHeadroom implements InflightWithHeadroom: "Return a volume of data that tries to
// leave free headroom in the bottleneck buffer or link for other flows".
func (b *bbr) withHeadroom(c *Conn) int {
	if b.inflightLong == unbounded {
		return unbounded
	}
	room := max(c.snd.mss, int(bbrHeadroom*float64(b.inflightLong)))
	return max(b.inflightLong-room, bbrMinPipe*c.snd.mss)
}

// raiseSlope doubles the growth of inflightLong. 5.3.3.5: "The additive increase to
// BBR.inflight_longterm doubles each round trip".
func (b *bbr) raiseSlope(c *Conn) {
	growth := 1 << b.upRounds
	b.upRounds = min(b.upRounds+1, bbrMaxProbeUpShift)
	b.upAckedPer = max(c.cc.cwnd/growth, c.snd.mss)
}

// probeUpward implements ProbeInflightLongtermUpward of 5.3.3.9.
func (b *bbr) probeUpward(c *Conn) {
	if !b.cwndLimited(c) || c.cc.cwnd < b.inflightLong {
		return // "not fully using BBR.inflight_longterm, so don't grow it"
	}
	b.upAcked += b.rs.newlyAcked
	if b.upAcked >= b.upAckedPer {
		n := b.upAcked / b.upAckedPer
		b.upAcked -= n * b.upAckedPer
		b.inflightLong += n * c.snd.mss
	}
	if b.roundStart {
		b.raiseSlope(c)
	}
}

// adaptLongTerm implements AdaptLongTermModel of 5.3.3.9. It reports whether it has changed the state.
func (b *bbr) adaptLongTerm(c *Conn) bool {
	if b.ackPhase == acksProbeStarting && b.roundStart {
		b.ackPhase = acksProbeFeedback // "starting to get bw probing samples"
	}
	if b.ackPhase == acksProbeStopping && b.roundStart {
		// "end of samples from bw probing phase"
		b.probeSample = false
		b.ackPhase = acksInit
		if b.inProbeBW() && !b.rs.appLimited {
			b.advanceMaxBw()
		}
		// "Precautionary Bandwidth Probing: Acceleration".
		if b.inProbeBW() && b.precautionary && !b.tooHigh {
			b.startRefill(c)
			return true
		}
	}
	if b.inflightTooHigh(c, &b.rs) || b.inflightLong == unbounded {
		return false
	}
	// "Loss rate is safe. Adjust upper bounds upward."
	b.inflightLong = max(b.inflightLong, b.rs.inFlight)
	if b.state == bbrUp {
		b.probeUpward(c)
	}
	return false
}

// updateMinRTT implements UpdateMinRTT of 5.3.4.3 with one change. In the draft, only a lower sample
// refreshes the estimate. Here a sample that matches the estimate (see bbrSameRTT) refreshes it too,
// because a matching sample also proves that the queue was empty. To prove this is the purpose of
// ProbeRTT. The change follows the intention of 5.3.4.2: for a flow with "low-rate periods [...] for
// long enough to drain its queue", "the BBR.probe_rtt_min_delay estimate refreshes without requiring
// ProbeRTT. This way, flows typically need only pay the 2 percent throughput penalty if there are
// multiple bulk flows busy". Linux too probes only if no sample "matches or decreases" the estimate.
//
// A flow alone drains the queue in each cycle of ProbeBW and need not probe. Flows that share a
// queue never empty it, see no matching sample, and do probe. So does a flow whose path has
// become longer.
func (b *bbr) updateMinRTT(now Time) {
	b.probeExpired = b.probeMinAt != 0 && now > b.probeMinAt+bbrProbeInterval
	if rtt := b.rs.rtt; b.rs.valid && rtt > 0 {
		switch {
		case b.probeMin == 0 || rtt < b.probeMin || b.probeExpired:
			b.probeMin, b.probeMinAt = rtt, now
		case rtt <= b.probeMin+b.probeMin/bbrSameRTT:
			b.probeMinAt = now
		}
	}
	if b.probeMin != 0 && (b.minRTT == 0 || b.probeMin < b.minRTT || now > b.minRTTAt+bbrMinRTTLen) {
		b.minRTT, b.minRTTAt = b.probeMin, b.probeMinAt
	}
}

// checkProbeRTT implements CheckProbeRTT of 5.3.4.3.
func (b *bbr) checkProbeRTT(c *Conn, now Time) {
	if b.state != bbrProbeRTT && b.probeExpired && !b.idleRestart {
		b.saveCwnd(c)
		b.state, b.pacingGain, b.cwndGain = bbrProbeRTT, 1, bbrProbeCwndGain
		b.probeDone = 0
		b.ackPhase = acksProbeStopping
		b.nextRound = c.delivered
	}
	if b.state == bbrProbeRTT {
		b.handleProbeRTT(c, now)
	}
	if b.rs.newlyAcked > 0 {
		b.idleRestart = false
	}
}

// handleProbeRTT implements HandleProbeRTT of 5.3.4.3, which ends ProbeRTT: "Wait for at least
// BBR.ProbeRTTDuration to elapse", "Wait for at least one round to elapse".
func (b *bbr) handleProbeRTT(c *Conn, now Time) {
	b.limited(c.delivered, c.pipe()) // "Ignore low rate samples during ProbeRTT"
	if b.probeDone == 0 {
		if c.pipe() <= b.probeRTTCwnd(c) {
			b.probeDone = now + bbrProbeDuration
			b.probeRoundDone = false
			b.nextRound = c.delivered
		}
		return
	}
	if b.roundStart {
		b.probeRoundDone = true
	}
	if b.probeRoundDone {
		b.checkProbeRTTDone(c, now)
	}
}

// checkProbeRTTDone ends ProbeRTT if probeDone has passed.
func (b *bbr) checkProbeRTTDone(c *Conn, now Time) {
	if b.probeDone == 0 || now <= b.probeDone {
		return
	}
	b.probeMinAt = now // "schedule next ProbeRTT"
	c.cc.cwnd = max(c.cc.cwnd, b.priorCwnd)
	// 5.3.4.4: "BBR calls ResetShortTermModel()"; "the algorithm resets the
	// bandwidth-probing clock by starting the cycle at ProbeBW_DOWN(). But then
	// [...] the connection can proceed immediately to ProbeBW_CRUISE."
	b.bwShort, b.inflightShort = unboundedRate, unbounded
	if b.fullReached {
		b.startDown(c, now)
		b.startCruise()
	} else {
		b.enterStartup()
	}
}
