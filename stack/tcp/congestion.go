package tcp

import "math"

// Congestion names a congestion control.
type Congestion uint8

const (
	CUBIC   Congestion = iota // RFC 9438 with HyStart++ (RFC 9406)
	NewReno                   // RFC 5681
	BBR                       // BBRv3, draft-ietf-ccwg-bbr-06, which paces
)

func (c Congestion) String() string {
	switch c {
	case NewReno:
		return "newreno"
	case BBR:
		return "bbr"
	}
	return "cubic"
}

// A control grows and reduces the window. It is called in the open phase and
// after a timeout; fast recovery paces itself by PRR.
type control interface {
	// avoid returns by how many bytes cwnd grows in congestion avoidance for
	// acked bytes.
	avoid(now Time, w *congestionState, acked, mss int, srtt Time) int
	// threshold returns ssthresh after a loss.
	threshold(now Time, w *congestionState, mss int) int
	// reset forgets the epoch, after a timeout or an undo.
	reset()
}

// congestionState is the window and what grows it.
type congestionState struct {
	cwnd     int // congestion window in bytes
	ssthresh int // slow-start threshold in bytes
	credit   int // acknowledged bytes that have not yet made cwnd grow

	// What was in flight at most in this round, to tell whether cwnd is what
	// limits the connection: a window that is not used does not grow.
	maxFlight int
	round     Seq // the round ends when this is acknowledged
	limited   bool

	control control
	cubic   cubic
	hystart hystart

	bbr  *bbr   // with BBR, which sets cwnd in place of control; otherwise nil
	pace *pacer // nil: what is sent is not paced
}

func (w *congestionState) init(c *Conn) {
	w.ssthresh = math.MaxInt32
	switch c.p.Congestion {
	case NewReno:
		w.control = newReno{}
	case BBR:
		w.bbr = newBBR(c.snd.iss)
		w.pace = &w.bbr.pace
	default:
		w.control = &w.cubic
	}
	w.start(c)
}

// start sets the initial window. RFC 6928 2: "min (10*MSS, max (2*MSS, 14600))".
func (w *congestionState) start(c *Conn) {
	w.cwnd = initialWindow(c.snd.mss)
	w.round = c.snd.nxt
}

func initialWindow(mss int) int { return min(10*mss, max(2*mss, 14600)) }

// note is told what is in flight after something was sent, and whether the
// window kept more from being sent.
func (w *congestionState) note(flight int, limited bool) {
	w.maxFlight = max(w.maxFlight, flight)
	w.limited = w.limited || limited
}

// used reports whether cwnd is what limits the connection (RFC 7661's concern:
// a window that was not tested by traffic says nothing about the path).
func (w *congestionState) used() bool {
	if w.cwnd < w.ssthresh {
		return w.limited || w.cwnd < 2*w.maxFlight
	}
	return w.limited
}

// grow takes an acknowledgement.
func (w *congestionState) grow(c *Conn, a *ackSample) {
	mss := c.snd.mss
	slow := w.cwnd < w.ssthresh
	if slow && a.rtt > 0 {
		w.hystart.sample(a.rtt)
	}
	if w.used() {
		acked := a.delivered
		if slow {
			n := min(w.hystart.limit(acked), w.ssthresh-w.cwnd)
			w.cwnd += n
			acked -= n
			if w.hystart.css {
				acked = 0
			}
		}
		if acked > 0 && w.cwnd >= w.ssthresh {
			w.cwnd += w.control.avoid(a.now, w, acked, mss, c.rtt.srtt)
		}
		w.cwnd = min(w.cwnd, maxWindow)
	}
	if w.round.LessEq(c.snd.una) {
		if slow && w.hystart.endRound() {
			// RFC 9406 4.2: "the congestion avoidance phase is entered by
			// setting the ssthresh to the current cwnd".
			w.ssthresh = w.cwnd
		}
		w.round = c.snd.nxt
		w.maxFlight = c.pipe()
		w.limited = false
	}
}

// paced is the shortest path, in least round-trip time, on which what a window
// lets go is spread. On shorter ones a timer is too coarse to help.
const paced = 2 * Millisecond

// setRate paces a control that has a window. Acknowledgements may come in
// bunches, and a recovery frees what it may send all at once: sent so, it
// overflows a queue that the window itself would fit into. As Linux does it, the
// rate is twice what the window needs in slow start, so that the window and not
// the rate is what grows, and a fifth more in avoidance and recovery. What RFC
// 6928 lets go at once, ten segments, still does: small windows do not wait.
func (w *congestionState) setRate(c *Conn) {
	if w.bbr != nil {
		return
	}
	if c.rtt.min < paced {
		// It may have looked longer at first, as when its neighbour had to be asked for.
		w.pace = nil
		return
	}
	if w.pace == nil {
		w.pace = &pacer{}
	}
	w.pace.free = initialWindow(c.snd.mss)
	gain := 1.2
	if w.cwnd < w.ssthresh/2 {
		gain = 2
	}
	w.pace.rate = int64(gain * float64(max(w.cwnd, c.pipe())) * float64(Second) / float64(c.rtt.srtt))
}

// maxWindow is the largest window that the window scale option can offer.
const maxWindow = 1 << 30

// reduce answers a loss. cwnd itself follows PRR.
func (w *congestionState) reduce(c *Conn, now Time) {
	c.ecnReduced()
	if w.bbr != nil {
		return // it has learnt of the loss by losing
	}
	w.ssthresh = max(w.control.threshold(now, w, c.snd.mss), 2*c.snd.mss)
	w.hystart = hystart{}
	w.credit = 0
}

// timeout answers a retransmission timeout.
func (w *congestionState) timeout(c *Conn, now Time) {
	if w.bbr != nil {
		c.ecnReduced()
		w.bbr.timeout(c, now)
		return
	}
	w.reduce(c, now)
	w.control.reset()
	// RFC 9438 4.8: in the congestion avoidance that follows a timeout, "K is
	// set to 0, and W_max is set to the congestion window size at the beginning
	// of the current congestion avoidance stage".
	w.cubic.wMax = 0
	w.credit = 0
}

// restore takes a reduction back that was for nothing.
func (w *congestionState) restore(c *Conn, cwnd, ssthresh int) {
	if w.bbr != nil {
		w.bbr.spurious(c)
		return
	}
	w.cwnd = max(w.cwnd, cwnd)
	w.ssthresh = max(w.ssthresh, ssthresh)
	w.control.reset()
}

// idle shrinks the window after a pause. RFC 5681 4.1: "when TCP has not
// received a segment for more than one retransmission timeout, cwnd is reduced
// to the value of the restart window". Like Linux we halve it for each timeout
// that has passed, down to that.
func (w *congestionState) idle(c *Conn, pause, rto Time) {
	if w.bbr != nil {
		return // it restarts at the rate that it knows
	}
	restart := min(initialWindow(c.snd.mss), w.cwnd)
	w.ssthresh = max(w.ssthresh, w.cwnd*3/4)
	for ; pause > rto && w.cwnd > restart; pause -= rto {
		w.cwnd /= 2
	}
	w.cwnd = max(w.cwnd, restart)
	w.control.reset()
	w.maxFlight = 0
}

// release gives up what is only of use while something is in flight.
func (w *congestionState) release() {
	w.pace.release()
	if w.bbr != nil {
		w.bbr.ring = nil
	}
}

// newReno is RFC 5681.
type newReno struct{}

func (newReno) avoid(_ Time, w *congestionState, acked, mss int, _ Time) int {
	// RFC 5681 3.1, with byte counting (RFC 3465 2.1): one segment for each
	// window that was acknowledged.
	w.credit += acked
	if w.credit < w.cwnd {
		return 0
	}
	w.credit -= w.cwnd
	return mss
}

func (newReno) threshold(_ Time, w *congestionState, mss int) int { return w.cwnd / 2 }

func (newReno) reset() {}

// cubic is RFC 9438. Windows are in segments where the RFC's formulas are.
type cubic struct {
	epoch  Time    // when congestion avoidance began; 0: it has not
	wMax   float64 // window in segments at the last loss, less after fast convergence
	prior  float64 // window in segments at the last loss
	k      float64 // seconds until the curve is back at wMax
	origin float64
	wEst   float64 // the window that Reno would have
}

const (
	cubicC    = 0.4 // RFC 9438 5
	cubicBeta = 0.7 // RFC 9438 4.6
	// RFC 9438 4.3: alpha_cubic = 3 * (1 - beta) / (1 + beta)
	cubicAlpha = 3 * (1 - cubicBeta) / (1 + cubicBeta)
)

func (q *cubic) avoid(now Time, w *congestionState, acked, mss int, srtt Time) int {
	cwnd := float64(w.cwnd) / float64(mss)
	if q.epoch == 0 {
		q.epoch = now
		q.wEst = cwnd
		if cwnd < q.wMax {
			// RFC 9438 4.2: K = cbrt((W_max - cwnd_epoch) / C)
			q.k = math.Cbrt((q.wMax - cwnd) / cubicC)
			q.origin = q.wMax
		} else {
			q.k, q.origin = 0, cwnd
		}
	}
	// W_cubic(t + RTT) = C*(t-K)^3 + W_max
	d := float64(now-q.epoch+srtt)/float64(Second) - q.k
	target := q.origin + cubicC*d*d*d
	// RFC 9438 4.2: the target is kept between cwnd and 1.5*cwnd.
	target = min(max(target, cwnd), 1.5*cwnd)
	segs := float64(acked) / float64(mss)
	// RFC 9438 4.3: W_est = W_est + alpha_cubic * segments_acked / cwnd; once it
	// has reached cwnd_prior, alpha is 1.
	alpha := cubicAlpha
	if q.wEst >= q.prior {
		alpha = 1
	}
	q.wEst += alpha * segs / cwnd
	var grow float64
	if target < q.wEst {
		grow = q.wEst - cwnd
	} else {
		// "cwnd MUST be incremented by (target - cwnd) / cwnd for each
		// received new ACK"
		grow = (target - cwnd) / cwnd * segs
	}
	if grow <= 0 {
		return 0
	}
	// Whole segments, so that cwnd stays one; what is left over is kept.
	w.credit += int(grow * float64(mss))
	n := w.credit / mss * mss
	w.credit -= n
	return n
}

func (q *cubic) threshold(now Time, w *congestionState, mss int) int {
	cwnd := float64(w.cwnd) / float64(mss)
	q.prior = cwnd
	// RFC 9438 4.7, fast convergence: "if cwnd < W_max, W_max = cwnd * (1 +
	// beta_cubic) / 2".
	if cwnd < q.wMax {
		q.wMax = cwnd * (1 + cubicBeta) / 2
	} else {
		q.wMax = cwnd
	}
	q.epoch = 0
	return int(float64(w.cwnd) * cubicBeta)
}

func (q *cubic) reset() { q.epoch = 0 }

// hystart is HyStart++ (RFC 9406): slow start ends when the round-trip time
// grows, before the queue overflows.
type hystart struct {
	last, current Time  // least round-trip time of the last round and of this one
	recent        Time  // least of the last few samples
	samples       uint8 // that recent is the least of
	css           bool  // Conservative Slow Start
	rounds        uint8 // of CSS
	credit        uint8 // acknowledged bytes that were not a whole cssGrowthDivisor
	baseline      Time
}

// RFC 9406 4.3.
const (
	hystartMinThresh = 4 * Millisecond
	hystartMaxThresh = 16 * Millisecond
	hystartSamples   = 8
	cssGrowthDivisor = 4
	cssRounds        = 5
)

func (h *hystart) sample(rtt Time) {
	if h.current == 0 || rtt < h.current {
		h.current = rtt
	}
	if h.samples == 0 || rtt < h.recent {
		h.recent = rtt
	}
	if h.samples++; h.samples < hystartSamples {
		return
	}
	h.samples = 0
	if h.last == 0 {
		return
	}
	if h.css {
		// "if (currentRoundMinRTT < cssBaselineMinRtt): resume slow start"
		if h.recent < h.baseline {
			h.css, h.rounds = false, 0
		}
		return
	}
	thresh := max(hystartMinThresh, min(h.last/8, hystartMaxThresh))
	if h.recent >= h.last+thresh {
		h.css, h.baseline = true, h.recent
		h.rounds = 0
	}
}

// limit returns the growth for acked bytes in slow start.
func (h *hystart) limit(acked int) int {
	if !h.css {
		return acked
	}
	acked += int(h.credit)
	h.credit = uint8(acked % cssGrowthDivisor)
	return acked / cssGrowthDivisor
}

// endRound reports that CSS has lasted long enough.
func (h *hystart) endRound() bool {
	h.last, h.current, h.samples = h.current, 0, 0
	if h.css {
		h.rounds++
	}
	// RFC 9406 4.2: "CSS lasts at most CSS_ROUNDS rounds. If the transition into
	// CSS happens in the middle of a round, that partial round counts towards
	// the limit."
	return h.css && h.rounds >= cssRounds
}
