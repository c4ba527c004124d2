package tcp

// rttEstimator is RFC 6298: SRTT, RTTVAR and the timeout made of them.
type rttEstimator struct {
	srtt   Time // smoothed round-trip time; 0 before the first sample
	rttvar Time
	rto    Time // without back-off
	min    Time // least sample of the last minRTTWindow; 0 before the first
	minAt  Time // when min was measured
}

// minRTTWindow is how long a least round-trip time holds (RFC 8985 6.2 step 2
// asks for a windowed minimum; five minutes are Linux's).
const minRTTWindow = 300 * Second

// initialRTO: RFC 6298 2.1: "Until a round-trip time (RTT) measurement has been
// made for a segment sent between the sender and receiver, the sender SHOULD
// set RTO <- 1 second".
const initialRTO = 1 * Second

// fallbackRTO is what RFC 6298 5.7 asks for after a SYN was lost.
const fallbackRTO = 3 * Second

// sample takes a measured round-trip time r.
func (e *rttEstimator) sample(now, r Time, p *Params) {
	r = max(r, 1)
	if e.min == 0 || r <= e.min || now-e.minAt > minRTTWindow {
		e.min, e.minAt = r, now
	}
	if e.srtt == 0 {
		// RFC 6298 2.2: "SRTT <- R, RTTVAR <- R/2"
		e.srtt, e.rttvar = r, r/2
	} else {
		// RFC 6298 2.3: "RTTVAR <- (1 - beta) * RTTVAR + beta * |SRTT - R'|,
		// SRTT <- (1 - alpha) * SRTT + alpha * R'", with alpha=1/8, beta=1/4.
		d := e.srtt - r
		if d < 0 {
			d = -d
		}
		e.rttvar += (d - e.rttvar) / 4
		e.srtt += (r - e.srtt) / 8
	}
	// "RTO <- SRTT + max (G, K*RTTVAR)" with K = 4. The lower bound of RFC 6298
	// 2.4 is put on the second term, as Linux does: on a long path whose
	// round-trip time does not vary, a bound on the sum would let one delayed
	// acknowledgement look like a loss.
	e.rto = min(e.srtt+max(p.MinRTO, 4*e.rttvar), p.MaxRTO)
}

// timeout is the RTO after the given number of back-offs.
// RFC 6298 5.5: "The host MUST set RTO <- RTO * 2 ("back off the timer")."
func (e *rttEstimator) timeout(backoff uint8, p *Params) Time {
	rto := e.rto
	if rto == 0 {
		rto = min(max(initialRTO, p.MinRTO), p.MaxRTO)
	}
	if backoff > 30 {
		return p.MaxRTO
	}
	return min(rto<<backoff, p.MaxRTO)
}
