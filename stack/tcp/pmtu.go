package tcp

// plpmtud finds what the path carries when no ICMP message tells: packetization
// layer path MTU discovery (RFC 4821, RFC 8899). It does nothing until a path
// swallows full segments; then segments shrink, and grow again as far as probes
// get through. Sizes are payload bytes, options taken off.
type plpmtud struct {
	max   int   // what the interface carries; 0: no black hole was seen
	hi    int   // the largest size that may get through
	probe block // the probe in flight, empty if start == end
	at    Time  // no probe before
	lost  uint8 // probes of the present size that were lost
}

const (
	// blackHole is after how many timeouts in a row full segments are suspected.
	// RFC 4821 7.7: "If a full stop timeout occurs, [...] the sender should
	// assume [...] that the MTU is too large" and set it to a small value.
	blackHole = 2
	// plBase is eff_pmtu of RFC 4821 7.2: "an initial value for search_low [...]
	// 1024 bytes is probably safe enough"; it counts headers.
	plBase = 1024 - 40
	// plStep ends the search: what is left to gain is less.
	plStep = 32
	// plProbes is MAX_PROBES of RFC 8899 5.1.2: a size that is lost so often is
	// not carried.
	plProbes = 3
	// plRaise is PMTU_RAISE_TIMER of RFC 8899 5.1.1.
	plRaise = 600 * Second
)

// suspect runs at a retransmission timeout, after the back-off was counted.
func (c *Conn) suspect(now Time) {
	q := &c.pl
	base := max(plBase-int(c.snd.opt), minMSS)
	if c.timers.backoff > 2*blackHole {
		base = max(defaultMSS-int(c.snd.opt), minMSS)
	}
	if c.timers.backoff < blackHole || c.snd.mss <= base || c.sb.firstPiece().sent().len() <= base {
		return
	}
	if q.max == 0 {
		q.max = c.snd.mss
	}
	q.hi = q.max
	q.probe = block{}
	q.at = now + Second
	c.snd.mss = base
}

// probeSize is how much the next segment of new data is to carry to find out
// whether that gets through, or 0. RFC 4821 7.4 asks for enough data behind it
// that its loss is seen.
func (c *Conn) probeSize(now Time, unsent, room int) int {
	q := &c.pl
	if q.max == 0 || now < q.at || q.probe.start != q.probe.end || c.rec.phase != phaseOpen ||
		c.sb.sacked > 0 || c.sb.lost > 0 || !c.sackOK {
		return 0
	}
	n := q.hi
	if n != q.max {
		n = (c.snd.mss + q.hi) / 2
	}
	after := (dupThresh + 1) * c.snd.mss
	if n <= c.snd.mss || unsent < n+after || room < n+after || c.cwr.cwnd-c.pipe() < n+after {
		return 0
	}
	return n
}

// probed notes that a probe was sent.
func (c *Conn) probed(seq Seq, n int) { c.pl.probe = block{seq, seq + Seq(n)} }

// judgeProbe learns after an acknowledgement what has become of the probe. It
// reports that nothing but the probe was lost: RFC 4821 7.3: "the congestion
// window [...] MUST NOT be reduced" for it.
func (c *Conn) judgeProbe(now Time) (only bool) {
	q := &c.pl
	if q.probe.start == q.probe.end {
		return false
	}
	n := int(q.probe.end - q.probe.start)
	if q.probe.end.LessEq(c.snd.una) {
		c.probeArrived(now, n)
		return false
	}
	s := c.sb.find(q.probe.start).sent()
	switch {
	case s.flags&segSacked != 0:
		c.probeArrived(now, n)
	case s.flags&segLost != 0:
		q.probe = block{}
		q.at = now + 2*c.rtt.srtt
		if q.lost++; q.lost >= plProbes {
			q.hi, q.lost = n-1, 0
			c.searchEnds(now)
		}
		return c.sb.due == n
	}
	return false
}

func (c *Conn) probeArrived(now Time, n int) {
	q := &c.pl
	q.probe, q.lost = block{}, 0
	c.snd.mss = max(c.snd.mss, n)
	q.at = now + c.rtt.srtt
	if n >= q.max {
		q.max = 0 // the path carries what the interface does
		return
	}
	c.searchEnds(now)
}

// searchEnds waits before the next search when there is little left to find.
func (c *Conn) searchEnds(now Time) {
	q := &c.pl
	if q.hi-c.snd.mss < plStep {
		q.hi = q.max
		q.at = now + plRaise
	}
}
