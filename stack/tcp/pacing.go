package tcp

// A pacer spreads transmissions over time. Only connections whose congestion control sets a
// rate have a pacer; the others are clocked by acknowledgements alone.
//
// A paced connection sends in quanta of about a millisecond of the rate, so one timer serves many
// segments, or one super-segment on a link with GSO.
type pacer struct {
	rate int64 // bytes/s; 0: no rate is set yet, no pacing
	next Time  // when the next quantum may be sent
	left int   // remaining bytes of the current quantum
	free int   // bytes that may be sent at once after a pause, in addition to a quantum
	held Time  // until when Next holds a segment back; 0: it does not
}

const (
	// pacedAtOnce is the sending time of one quantum.
	pacedAtOnce = Millisecond
	// pacedAhead is how much lost sending time may be made up after a late timer: timers
	// of the Go runtime are late by up to a millisecond.
	pacedAhead = Millisecond
	// maxQuantum is the upper bound of a quantum, unless a super-segment may be longer.
	// draft-ietf-ccwg-bbr-06 5.6.3: "C.send_quantum = min(C.send_quantum, 64 KBytes)".
	maxQuantum = 64 << 10
)

// quantum returns the maximum number of bytes sent at once. gso is the maximum payload of a
// super-segment in bytes. draft-ietf-ccwg-bbr-06 5.6.3: "C.send_quantum = C.pacing_rate * 1ms [...]
// max(C.send_quantum, 2 * C.SMSS)".
func (p *pacer) quantum(mss, gso int) int {
	return max(int(min(p.rate/int64(Second/pacedAtOnce), int64(max(maxQuantum, gso)))), 2*mss)
}

// hold reports whether the next segment must wait for the pacer, and if so sets the deadline.
func (p *pacer) hold(now Time) bool {
	if p == nil || p.rate == 0 || p.left > 0 || now >= p.next {
		return false
	}
	p.held = p.next
	return true
}

// sent accounts for n bytes sent. draft-ietf-ccwg-bbr-06 5.6.2: "pacing_delay =
// packet.size / C.pacing_rate; C.next_send_time = C.next_send_time + pacing_delay".
func (p *pacer) sent(now Time, n, mss, gso int) {
	if p == nil || p.rate == 0 {
		return
	}
	if p.left <= 0 {
		p.next = max(p.next, now-max(pacedAhead, p.time(p.free)))
		p.left = p.quantum(mss, gso)
	}
	p.left -= n
	p.next += p.time(n)
}

// time returns how long it takes to send n bytes at the rate.
func (p *pacer) time(n int) Time { return Time(float64(n) / float64(p.rate) * float64(Second)) }

// deadline returns when the segment that Next held back may be sent, or 0.
func (p *pacer) deadline() Time {
	if p == nil {
		return 0
	}
	return p.held
}

// release clears the deadline.
func (p *pacer) release() {
	if p != nil {
		p.held = 0
	}
}
