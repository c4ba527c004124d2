package tcp

// A pacer spreads what is sent over time. Only a connection whose control sets
// a rate has one: the others are clocked by their acknowledgements alone.
//
// What is sent goes in quanta of about a millisecond of the rate, so that one
// timer serves many segments, and one super-segment where the link takes them.
type pacer struct {
	rate int64 // bytes/s; 0: none is set yet, and nothing waits
	next Time  // when the next quantum may go
	left int   // bytes that may still go of the quantum that has begun
	free int   // bytes that a connection which has paused may send at once, beside a quantum
	held Time  // Next held something back until then; 0: it did not
}

const (
	// pacedAtOnce is the time for which one quantum lasts.
	pacedAtOnce = Millisecond
	// pacedAhead is how much sending time a late timer may make up for: timers
	// of the Go runtime are late by up to a millisecond.
	pacedAhead = Millisecond
	// maxQuantum bounds a quantum: draft-ietf-ccwg-bbr-06 5.6.3: "C.send_quantum =
	// min(C.send_quantum, 64 KBytes)".
	maxQuantum = 64 << 10
)

// quantum is the most that goes at once. draft-ietf-ccwg-bbr-06 5.6.3:
// "C.send_quantum = C.pacing_rate * 1ms [...] max(C.send_quantum, 2 * C.SMSS)".
func (p *pacer) quantum(mss int) int {
	return max(int(min(p.rate/int64(Second/pacedAtOnce), maxQuantum)), 2*mss)
}

// hold reports whether what could be sent now has to wait, and then notes until
// when, for Conn.Deadline.
func (p *pacer) hold(now Time) bool {
	if p == nil || p.rate == 0 || p.left > 0 || now >= p.next {
		return false
	}
	p.held = p.next
	return true
}

// sent charges n bytes. draft-ietf-ccwg-bbr-06 5.6.2: "pacing_delay =
// packet.size / C.pacing_rate; C.next_send_time = C.next_send_time + pacing_delay".
func (p *pacer) sent(now Time, n, mss int) {
	if p == nil || p.rate == 0 {
		return
	}
	if p.left <= 0 {
		p.next = max(p.next, now-max(pacedAhead, p.time(p.free)))
		p.left = p.quantum(mss)
	}
	p.left -= n
	p.next += p.time(n)
}

// time is how long n bytes take.
func (p *pacer) time(n int) Time { return Time(float64(n) / float64(p.rate) * float64(Second)) }

// deadline is when a quantum may go that Next held back, or 0.
func (p *pacer) deadline() Time {
	if p == nil {
		return 0
	}
	return p.held
}

// release forgets that something was held back.
func (p *pacer) release() {
	if p != nil {
		p.held = 0
	}
}
