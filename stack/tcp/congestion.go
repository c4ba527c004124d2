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

// A control computes the changes of cwnd and ssthresh, except in fast recovery, in which PRR (RFC 9937)
// sets cwnd.
type control interface {
	// avoid returns by how many bytes cwnd grows in congestion avoidance after
	// acked bytes were acknowledged.
	avoid(now Time, w *congestionState, acked, mss int, srtt Time) int
	// threshold returns ssthresh after a loss.
	threshold(now Time, w *congestionState, mss int) int
	// reset begins a new epoch, after a timeout or an undo.
	reset()
}

// congestionState is the congestion window and the state of its growth.
type congestionState struct {
	cwnd     int // congestion window in bytes, at most maxWindow
	ssthresh int // slow-start threshold in bytes

	// maxFlight is the maximum number of bytes in flight in this round. limited says that cwnd has prevented
	// a transmission in this round. Both show whether cwnd limits the connection; if not, cwnd does not grow.
	maxFlight int32
	round     Seq // the round ends when this is acknowledged
	limited   bool

	credit int32 // acknowledged bytes that have not yet made cwnd grow

	control control
	cubic   cubic
	hystart hystart

	bbr  *bbr   // sets cwnd instead of control; nil unless the congestion control is BBR
	pace *pacer // nil: no pacing
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

// note records the flight size after a segment was sent, and whether the window prevented more from being
// sent.
func (w *congestionState) note(flight int, limited bool) {
	w.maxFlight = max(w.maxFlight, int32(flight))
	w.limited = w.limited || limited
}

// used reports whether cwnd limits the connection. A window that the application does not fill has not
// been tested on the path, and must not grow (RFC 7661).
func (w *congestionState) used() bool {
	if w.cwnd < w.ssthresh {
		// As on Linux, cwnd may grow to twice the flight size in slow start.
		return w.limited || w.cwnd < 2*int(w.maxFlight)
	}
	return w.limited
}

// grow grows the window after an acknowledgement.
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
				acked = 0 // CSS uses up all acknowledged bytes
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
		w.maxFlight = int32(c.pipe())
		w.limited = false
	}
}

// paced is the minimum round-trip time of a path on which a window-based control is paced. On shorter
// paths a timer is too coarse.
const paced = 2 * Millisecond

// setRate sets the pacing rate of a window-based control. Acknowledgements may arrive in bunches, and
// recovery may permit many segments at once. A burst of segments can overflow a queue into which the
// window itself would fit. As on Linux, the rate is 1.2 windows per round trip. While the window is below
// half of ssthresh, the rate is 2 windows per round trip, so that pacing does not slow the window's growth.
// An initial window (RFC 6928) may be sent at once, so that small windows are not delayed.
func (w *congestionState) setRate(c *Conn) {
	if w.bbr != nil {
		return
	}
	if c.rtt.min < paced {
		// Stop pacing. It may have started because the first round-trip time sample was longer, for
		// example because it included address resolution.
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

// maxWindow is the largest window that the window scale option can express.
const maxWindow = 1 << 30

// reduce sets ssthresh after a loss. PRR then reduces cwnd.
func (w *congestionState) reduce(c *Conn, now Time) {
	c.ecnReduced()
	if w.bbr != nil {
		return // BBR learns of the loss from its own samples
	}
	w.ssthresh = max(w.control.threshold(now, w, c.snd.mss), 2*c.snd.mss)
	w.hystart = hystart{}
	w.credit = 0
}

// timeout reduces the window after a retransmission timeout.
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

// restore undoes a reduction that was spurious.
func (w *congestionState) restore(c *Conn, cwnd, ssthresh int) {
	if w.bbr != nil {
		w.bbr.spurious(c)
		return
	}
	w.cwnd = max(w.cwnd, cwnd)
	w.ssthresh = max(w.ssthresh, ssthresh)
	w.control.reset()
}

// idle reduces the window after a pause. RFC 5681 4.1: "when TCP has not received a segment for more
// than one retransmission timeout, cwnd is reduced to the value of the restart window". Like Linux we
// halve cwnd once for each timeout in the pause, and not below the restart window.
func (w *congestionState) idle(c *Conn, pause, rto Time) {
	if w.bbr != nil {
		return // BBR restarts at the rate that it has measured
	}
	restart := min(initialWindow(c.snd.mss), w.cwnd)
	w.ssthresh = max(w.ssthresh, w.cwnd*3/4) // slow start may restore most of the window, as on Linux
	for ; pause > rto && w.cwnd > restart; pause -= rto {
		w.cwnd /= 2
	}
	w.cwnd = max(w.cwnd, restart)
	w.control.reset()
	w.maxFlight = 0
}

// release frees the state that is needed only while data is in flight.
func (w *congestionState) release() {
	w.pace.release()
	if w.bbr != nil {
		w.bbr.ring = nil
	}
}

// newReno is congestion avoidance by RFC 5681.
type newReno struct{}

func (newReno) avoid(_ Time, w *congestionState, acked, mss int, _ Time) int {
	// RFC 5681 3.1, with byte counting (RFC 3465 2.1): cwnd grows by one segment for each
	// window of acknowledged bytes.
	w.credit += int32(acked)
	if int(w.credit) < w.cwnd {
		return 0
	}
	w.credit -= int32(w.cwnd)
	return mss
}

func (newReno) threshold(_ Time, w *congestionState, mss int) int { return w.cwnd / 2 }

func (newReno) reset() {}

// cubic is congestion avoidance by RFC 9438. Its windows are in segments, as in the RFC's formulas.
type cubic struct {
	epoch  Time    // when this congestion avoidance stage began; 0: no stage
	wMax   float64 // window in segments at the last loss, less after fast convergence
	prior  float64 // window in segments at the last loss
	k      float64 // seconds until the curve is back at wMax
	origin float64 // window in segments at the plateau of the curve
	wEst   float64 // the window that Reno would have, in segments
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
		grow = q.wEst - cwnd // the Reno-friendly region
	} else {
		// "cwnd MUST be incremented by (target - cwnd) / cwnd for each
		// received new ACK"
		grow = (target - cwnd) / cwnd * segs
	}
	if grow <= 0 {
		return 0
	}
	// cwnd grows by whole segments; the remainder is kept.
	w.credit += int32(min(grow*float64(mss), maxWindow))
	n := int(w.credit) / mss * mss
	w.credit -= int32(n)
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
	last, current Time  // minimum round-trip time of the last round and of this one
	recent        Time  // minimum of the last few samples
	samples       uint8 // number of samples in recent
	css           bool  // Conservative Slow Start
	rounds        uint8 // rounds of CSS so far
	credit        uint8 // acknowledged bytes in CSS that have not made cwnd grow, less than cssGrowthDivisor
	baseline      Time  // cssBaselineMinRtt
}

// RFC 9406 4.3.
const (
	hystartMinThresh = 4 * Millisecond
	hystartMaxThresh = 16 * Millisecond
	hystartSamples   = 8
	cssGrowthDivisor = 4
	cssRounds        = 5
)

// sample takes a round-trip time sample, and begins or ends CSS.
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

// limit returns by how many bytes cwnd grows in slow start after acked bytes were acknowledged.
func (h *hystart) limit(acked int) int {
	if !h.css {
		return acked
	}
	acked += int(h.credit)
	h.credit = uint8(acked % cssGrowthDivisor)
	return acked / cssGrowthDivisor
}

// endRound begins a new round. It returns true if slow start ends, because CSS has lasted long enough.
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
