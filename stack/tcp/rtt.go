package tcp

// An rttEstimator implements RFC 6298: it has SRTT, RTTVAR and the timeout computed from them.
type rttEstimator struct {
	srtt   Time // smoothed round-trip time; 0 before the first sample
	rttvar Time
	rto    Time // without back-off
	min    Time // minimum of the samples in the last minRTTWindow; 0 before the first
	minAt  Time // when min was measured
}

// minRTTWindow is the window of the minimum round-trip time. RFC 8985 6.2 step 2 asks for a
// windowed minimum; Linux uses five minutes.
const minRTTWindow = 300 * Second

// initialRTO is the RTO before the first sample. RFC 6298 2.1: "Until a round-trip time (RTT)
// measurement has been made for a segment sent between the sender and receiver, the sender SHOULD set
// RTO <- 1 second".
const initialRTO = 1 * Second

// fallbackRTO is the RTO after a SYN was lost (RFC 6298 5.7).
const fallbackRTO = 3 * Second

// sample updates the estimate with a measured round-trip time r.
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
	// 2.4 applies to the second term, as on Linux: on a long path with a constant
	// round-trip time, a bound on the sum would make one delayed acknowledgement cause a
	// timeout.
	e.rto = min(e.srtt+max(p.MinRTO, 4*e.rttvar), p.MaxRTO)
}

// timeout returns the RTO after the given number of back-offs.
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

// sampleRTT takes the round-trip time sample of an acknowledgement, if there is one. RFC 6298 3,
// Karn's algorithm: "RTT samples MUST NOT be made using segments that were retransmitted",
// unless timestamps identify the copy.
func (c *Conn) sampleRTT(a *ackSample) {
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

// tsClock returns the time of the timestamp clock. RFC 7323 5.4: "between 1 ms and 1 sec per tick".
func tsClock(now Time) uint32 { return uint32(now / Millisecond) }

// Timestamp returns the TSval that a connection with a Config.TSOffset sends now.
func Timestamp(now Time, offset uint32) uint32 { return tsClock(now) + offset }

func (c *Conn) tsVal(now Time) uint32 { return Timestamp(now, c.snd.tsOffset) }
