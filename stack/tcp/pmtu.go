package tcp

// plpmtud is packetization layer path MTU discovery (RFC 4821, RFC 8899). A Conn has
// one only while its segments are smaller than the interface and the peer allow, or
// are suspected to be too large: after a path swallowed full segments without a word,
// or has become wider than it was. Sizes are payload bytes, options taken off.
//
// Probes are segments of new data that are larger than Conn.MSS. One that is lost is
// sent again in segments that are not.
type plpmtud struct {
	max    int   // the size that the search ends with, 0 while nothing is searched
	hi     int   // the largest size that may get through
	probe  block // in flight, empty if start == end
	at     Time  // no probe before
	lost   uint8 // probes in a row that were lost
	lowest int   // the smallest of those

	// While a black hole is suspected, the first segment is sent again in pieces of
	// small bytes, until one is acknowledged, which happened at passed. 0: it is not
	// suspected, or none was.
	small  int
	passed Time
}

const (
	// blackHole is after how many timeouts in a row a black hole is suspected.
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

// PathMTU takes how large segments may be on the path, in bytes of payload and options
// (the packet without IP and TCP headers), where that has changed: because of an ICMP
// message, or because such a message has become too old (RFC 1191 6.3) or the route has
// changed. What is in flight and larger is sent again; larger segments are probed first.
func (c *Conn) PathMTU(now Time, mss int) {
	if c.state == SynSent {
		c.snd.mss = max(mss, minMSS) // the peer's option will bound it
		return
	}
	n := max(min(mss, c.snd.peer)-int(c.snd.opt), min(minMSS, c.snd.mss))
	if n > c.snd.mss {
		c.dropProbe(now, n)
		c.search(n, now)
		return
	}
	c.pl = nil
	if n == c.snd.mss {
		return
	}
	c.snd.mss = n
	if c.active == nil {
		return
	}
	c.sb.markAllLost()
	// Not a sign of congestion (RFC 8201 5.4), so no recovery is entered.
}

// plpmtu returns c.pl, made anew if there is none.
func (c *Conn) plpmtu() *plpmtud {
	if c.pl == nil {
		c.pl = new(plpmtud)
	}
	return c.pl
}

// search begins to look for a segment size of at most n bytes, at a time.
func (c *Conn) search(n int, at Time) {
	q := c.plpmtu()
	q.max, q.hi, q.at, q.lost = n, n, at, 0
}

// suspect runs at a retransmission timeout, after the back-off was counted. It looks
// for a black hole: a path that carries small segments, and silently drops full ones.
//
// RFC 4821 7.7: "If a full stop timeout occurs, [...] the sender should assume [...]
// that the MTU is too large". But an outage has full stop timeouts too, and Linux keeps
// its segment size through it: so what is first sent again after the second timeout is
// a small piece, which gets through both when the outage is over and in a black hole.
// What follows tells them apart. If the full segment behind it times out, it is a black
// hole (RFC 8899 4.3: "loss of packets of the PLPMTU size", while others arrive).
func (c *Conn) suspect(now Time) {
	q, head := c.pl, c.sb.firstPiece().sent().len()
	if q != nil && q.small > 0 && q.passed != 0 {
		if head > q.small && now-q.passed <= 4*c.rtt.timeout(0, c.p) {
			if q.max == 0 {
				q.max = c.snd.mss
			}
			c.search(q.max, now+Second)
			c.snd.mss = min(c.snd.mss, q.small)
			q.small, q.passed = 0, 0
			return
		}
		q.small, q.passed = 0, 0
	}
	base := plBase
	if c.timers.backoff > 2*blackHole {
		base = defaultMSS
	}
	base = max(base-int(c.snd.opt), minMSS)
	if c.timers.backoff >= blackHole && c.snd.mss > base && head > base {
		c.plpmtu().small = base
	}
}

// smallResend is how large the one piece is that is sent again while it is not known
// whether even that gets through, or 0.
func (c *Conn) smallResend() int {
	if q := c.pl; q != nil && q.passed == 0 && c.timers.backoff >= blackHole {
		return q.small
	}
	return 0
}

// sizeArrived learns from a piece of n bytes that got through while a black hole is
// suspected.
func (c *Conn) sizeArrived(now Time, n int, again bool) {
	q := c.pl
	switch {
	case n > q.small:
		// There is none: the outage is over.
		if q.small, q.passed = 0, 0; q.max == 0 {
			c.pl = nil
		}
	case again:
		q.passed = now
	}
}

// probeSize is how much the next segment of new data is to carry to find out whether
// that gets through, or 0: the largest size that may, or half way there, but no more
// than there is to send now. Where that fits the windows once more is acknowledged,
// wait is true, and nothing is to be sent before.
//
// It has no room for SACK blocks: it waits until there are none.
//
// RFC 4821 7.4 asks for more data behind a probe, so that its loss is seen sooner. A
// connection that seldom has as much would never probe.
func (c *Conn) probeSize(now Time, unsent, room int) (n int, wait bool) {
	q := c.pl
	if q.max == 0 || now < q.at || q.probe.start != q.probe.end || c.rec.phase != phaseOpen ||
		c.sb.sacked > 0 || c.sb.lost > 0 || c.sb.reno > 0 || c.timers.backoff > 0 || c.segSize() < c.snd.mss {
		return 0, false
	}
	want := q.hi
	if want != q.max {
		want = (c.snd.mss + q.hi + 1) / 2
	}
	n = min(want, unsent, int(c.snd.wnd), c.cc.cwnd)
	if n <= c.snd.mss || n < want && n < c.snd.mss+plStep {
		return 0, false
	}
	if n > room || n > c.cc.cwnd-c.pipe() {
		return 0, c.snd.una != c.snd.nxt
	}
	return n, false
}

// probed notes that a probe was sent.
func (c *Conn) probed(seq Seq, n int) { c.pl.probe = block{seq, seq + Seq(n)} }

// judgeProbe learns after an acknowledgement what has become of the probe. It
// reports that nothing but the probe was lost: RFC 4821 7.3: "the congestion
// window [...] MUST NOT be reduced" for it.
func (c *Conn) judgeProbe(now Time) (only bool) {
	q := c.pl
	if q == nil || q.probe.start == q.probe.end {
		return false
	}
	if q.probe.end.LessEq(c.snd.una) {
		c.probeArrived(now)
		return false
	}
	if c.snd.una.LessEq(q.probe.start) {
		// The probe was one segment: what became of its first byte became of all.
		switch s := c.sb.find(q.probe.start).sent(); {
		case s.flags&segSacked != 0:
			c.probeArrived(now)
		case s.flags&segLost != 0:
			return c.probeLost(now)
		}
	}
	return false
}

func (c *Conn) probeArrived(now Time) {
	q := c.pl
	n := int(q.probe.end - q.probe.start)
	q.probe, q.lost = block{}, 0
	c.snd.mss = max(c.snd.mss, n)
	// RFC 5681 3.1: no window is less than "1 full-sized segment", and no ssthresh less
	// than "2*SMSS".
	c.cc.cwnd = max(c.cc.cwnd, c.snd.mss)
	c.cc.ssthresh = max(c.cc.ssthresh, 2*c.snd.mss)
	q.at = now + c.rtt.srtt
	if c.snd.mss >= q.max {
		c.pl = nil // the path carries what it may
		return
	}
	c.searchEnds(now)
}

// probeLost has the probe sent again in segments that get through, and reports whether
// nothing else is lost.
func (c *Conn) probeLost(now Time) (only bool) {
	q := c.pl
	n := int(q.probe.end - q.probe.start)
	if q.lost == 0 || n < q.lowest {
		q.lowest = n
	}
	only = c.resendProbe()
	q.at = now + 2*c.rtt.srtt
	if q.lost++; q.lost >= plProbes {
		q.hi, q.lost = q.lowest-1, 0
		c.searchEnds(now)
	}
	return only
}

// resendProbe takes the whole probe for lost, and ends it. It reports whether nothing
// else is to be sent again.
func (c *Conn) resendProbe() (only bool) {
	q, due := c.pl, 0
	for p := c.sb.find(q.probe.start); p.c != nil && p.sent().seq.Less(q.probe.end); p = c.sb.next(p) {
		c.sb.markLost(p)
		if p.sent().kind() == kindDue {
			due += p.sent().len()
		}
	}
	q.probe = block{}
	return c.sb.due == due
}

// dropProbe ends a probe of more than n bytes: it is known to be too large.
func (c *Conn) dropProbe(now Time, n int) {
	if q := c.pl; c.active != nil && q != nil && int(q.probe.end-q.probe.start) > n && c.snd.una.LessEq(q.probe.start) {
		c.resendProbe()
	}
}

// probeTimedOut reports whether a retransmission timeout came for nothing but a probe,
// which is sent again in smaller segments. RFC 4821 7.3: the congestion window is not
// reduced for it. closed says that the peer's window is.
func (c *Conn) probeTimedOut(now Time, closed bool) bool {
	q := c.pl
	if q == nil || q.probe.start == q.probe.end {
		return false
	}
	if closed || c.rec.phase != phaseOpen || q.probe != (block{c.snd.una, c.snd.nxt}) {
		// RFC 4821 7.6.4: "inconclusive": the loss of others is near.
		q.probe = block{}
		q.at = now + Second
		return false
	}
	c.probeLost(now)
	t := &c.timers
	t.backoff++
	t.rto = now + c.rtt.timeout(t.backoff, c.p)
	t.rtx, t.rtxKind = t.rto, rtxRTO
	return true
}

// searchEnds waits before the next search when there is little left to find.
func (c *Conn) searchEnds(now Time) {
	q := c.pl
	if q.hi-c.snd.mss < plStep {
		q.hi = q.max
		q.at = now + plRaise
	}
}
