package tcp

// plpmtud is packetization layer path MTU discovery (RFC 4821, RFC 8899). A Conn has a plpmtud only
// while its segments are smaller than the interface and the peer allow (after a black hole, or
// since the path MTU has grown), or while a black hole is suspected. Sizes are payload bytes,
// without options.
//
// A probe is one segment of new data that is larger than Conn.MSS. If it is lost, its data is
// retransmitted in segments of normal size.
type plpmtud struct {
	max    int   // upper end of the search; 0: no search
	hi     int   // the largest size that may still get through
	probe  block // the probe in flight; empty if start == end
	at     Time  // earliest time of the next probe
	lost   uint8 // consecutive lost probes
	lowest int   // size of the smallest of these probes

	// small is a size; it is 0 if no black hole is suspected. passed is the time at which a
	// retransmission of at most that size was last delivered, or 0 if none was. While small is
	// set and passed is 0, data is retransmitted only in pieces of at most that size.
	small  int
	passed Time
}

const (
	// blackHole is the number of consecutive timeouts after which a black hole is suspected.
	blackHole = 2
	// plBase is eff_pmtu of RFC 4821 7.2: "an initial value for search_low [...]
	// 1024 bytes is probably safe enough". The 1024 bytes include the headers; plBase does not.
	plBase = 1024 - 40
	// plStep is the precision of the search, which ends when less can be gained.
	plStep = 32
	// plProbes is MAX_PROBES of RFC 8899 5.1.2. After this many consecutive lost probes, the path is
	// assumed not to carry the smallest of their sizes.
	plProbes = 3
	// plRaise is PMTU_RAISE_TIMER of RFC 8899 5.1.1.
	plRaise = 600 * Second
)

// PathMTU tells the Conn that the path MTU has changed: because of an ICMP message, because the effect
// of such a message has expired (RFC 1191 6.3), or because the route has changed. mss is the new
// maximum of payload and options, in bytes (the MTU less the IP and TCP headers). If mss is lower than
// before, the data in flight is retransmitted in smaller segments. If mss is higher, probes must show
// first that the path carries larger segments.
func (c *Conn) PathMTU(now Time, mss int) {
	if c.state == SynSent {
		c.snd.mss = max(mss, minMSS) // takeOptions applies the peer's MSS
		return
	}
	n := max(min(mss, int(c.peerMSS))-int(c.snd.opt), min(minMSS, c.snd.mss))
	if n > c.snd.mss {
		c.dropProbe(now, n)
		c.search(n, now)
		return
	}
	if n == c.snd.mss {
		// The answer to a probe: its loss is no congestion (RFC 4821 7.3).
		c.dropProbe(now, n)
	}
	c.pl = nil
	if n == c.snd.mss {
		return
	}
	c.snd.mss = n
	if c.active == nil {
		return
	}
	// Retransmit the segments that were too large for the path. RFC 1191 6.4: "a retransmission caused
	// by a Datagram Too Big message should not change the congestion window". The RFC continues: "only
	// one segment should be retransmitted until acknowledgements begin to arrive again". We do as Linux
	// does (tcp_simple_retransmit): we retransmit all these segments, as the congestion window allows. The
	// path has dropped the segments because of their size, not because of congestion.
	c.rec.noCongestion = c.sb.due == 0
	c.sb.markLargerLost(n)
}

// plpmtu returns c.pl, allocating it on first use.
func (c *Conn) plpmtu() *plpmtud {
	if c.pl == nil {
		c.pl = new(plpmtud)
	}
	return c.pl
}

// search starts a search for the largest segment size up to n bytes. The first probe is sent at the time
// at, or later.
func (c *Conn) search(n int, at Time) {
	q := c.plpmtu()
	q.max, q.hi, q.at, q.lost = n, n, at, 0
}

// suspect detects black holes: paths that carry small segments and silently drop full ones. It
// is called at a retransmission timeout, after backoff was incremented.
//
// RFC 4821 7.7: "If a full stop timeout occurs, [...] the sender should assume [...] that the
// MTU is too large". But an outage causes full stop timeouts too, and an outage must not reduce
// the segment size. Linux also keeps the segment size then. So after the second timeout a small
// piece is retransmitted first. This piece gets through a black hole, and it gets through when an
// outage is over. If the full segment that follows times out again, the path is a black hole
// (RFC 8899 4.3: "loss of packets of the PLPMTU size", while others arrive).
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
	// Over IPv4, a path may not even carry segments of plBase bytes. So after more timeouts, base is the
	// default MSS. Over IPv6, base is always the default MSS, because every path carries 1280 bytes.
	base := max(plBase, int(c.defaultMSS))
	if c.timers.backoff > 2*blackHole {
		base = int(c.defaultMSS)
	}
	base = max(base-int(c.snd.opt), minMSS)
	if c.timers.backoff >= blackHole && c.snd.mss > base && head > base {
		c.plpmtu().small = base
	}
}

// smallResend returns the size of the small piece if a black hole is suspected and no such piece has
// been delivered yet. Until then, only one such piece may be in flight, and nothing else may be
// retransmitted. Otherwise smallResend returns 0.
func (c *Conn) smallResend() int {
	if q := c.pl; q != nil && q.passed == 0 && c.timers.backoff >= blackHole {
		return q.small
	}
	return 0
}

// sizeArrived is called when a piece of n bytes was delivered while a black hole is suspected.
// again tells whether that piece was retransmitted.
func (c *Conn) sizeArrived(now Time, n int, again bool) {
	q := c.pl
	switch {
	case n > q.small:
		// The path carries larger segments. So there was an outage, not a black hole, and the outage
		// is over.
		if q.small, q.passed = 0, 0; q.max == 0 {
			c.pl = nil
		}
	case again:
		q.passed = now
	}
}

// probeSize returns the size of the probe to send as the next segment of new data, or 0 for none. At
// first the size is the upper end of the search. When hi is below that end, the size is half way
// between the segment size and hi. The size is at most the unsent data, the peer's window and the
// congestion window. If wait is true, the probe will fit the windows when more data is
// acknowledged, and nothing may be sent until then.
//
// A probe has no room for SACK blocks, so no probe is sent while there are SACK blocks to report.
//
// RFC 4821 7.4 asks for more data behind the probe, so that its loss is detected sooner. That is
// not required here: a connection that seldom has so much data would never probe.
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

// probed records that a probe was sent.
func (c *Conn) probed(seq Seq, n int) { c.pl.probe = block{seq, seq + Seq(n)} }

// judgeProbe checks after an acknowledgement whether the probe was delivered or lost.
func (c *Conn) judgeProbe(now Time) {
	q := c.pl
	if q == nil || q.probe.start == q.probe.end {
		return
	}
	if q.probe.end.LessEq(c.snd.una) {
		c.probeArrived(now)
		return
	}
	if c.snd.una.LessEq(q.probe.start) {
		// The probe is one segment, so the state of its first byte is that of all its bytes.
		switch s := c.sb.find(q.probe.start).sent(); {
		case s.flags&segSacked != 0:
			c.probeArrived(now)
		case s.flags&segLost != 0:
			c.probeLost(now)
		}
	}
}

// probeArrived raises the segment size to that of the delivered probe.
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
		c.pl = nil // the path carries the largest size
		return
	}
	c.searchEnds(now)
}

// probeLost schedules the retransmission of a lost probe in segments of normal size.
func (c *Conn) probeLost(now Time) {
	q := c.pl
	n := int(q.probe.end - q.probe.start)
	if q.lost == 0 || n < q.lowest {
		q.lowest = n
	}
	c.resendProbe()
	q.at = now + 2*c.rtt.srtt
	if q.lost++; q.lost >= plProbes {
		q.hi, q.lost = q.lowest-1, 0
		c.searchEnds(now)
	}
}

// resendProbe marks the whole probe lost. If nothing else must be retransmitted, the Conn does not enter
// recovery: by RFC 4821 7.3 "the congestion window [...] MUST NOT be reduced".
func (c *Conn) resendProbe() {
	q, due := c.pl, 0
	for p := c.sb.find(q.probe.start); p.c != nil && p.sent().seq.Less(q.probe.end); p = c.sb.next(p) {
		c.sb.markLost(p)
		if p.sent().kind() == kindDue {
			due += p.sent().len()
		}
	}
	q.probe = block{}
	c.rec.noCongestion = c.sb.due == due
}

// dropProbe gives up the probe in flight if it is larger than n bytes, the path's new maximum.
func (c *Conn) dropProbe(now Time, n int) {
	if q := c.pl; c.active != nil && q != nil && int(q.probe.end-q.probe.start) > n && c.snd.una.LessEq(q.probe.start) {
		c.resendProbe()
	}
}

// probeTimedOut handles a retransmission timeout while a probe is in flight. If nothing else is in
// flight, no recovery is in progress, and the peer's window is open, probeTimedOut schedules the
// retransmission of the probe in smaller segments and returns true. The congestion window is then not
// reduced (RFC 4821 7.3). closed tells whether the peer's window is closed.
func (c *Conn) probeTimedOut(now Time, closed bool) bool {
	q := c.pl
	if q == nil || q.probe.start == q.probe.end {
		return false
	}
	if closed || c.rec.phase != phaseOpen || q.probe != (block{c.snd.una, c.snd.nxt}) {
		// RFC 4821 7.6.4: the probe is "inconclusive" if other segments are lost near it.
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

// searchEnds ends the search if less than plStep can be gained. The next search starts after plRaise.
func (c *Conn) searchEnds(now Time) {
	q := c.pl
	if q.hi-c.snd.mss < plStep {
		q.hi = q.max
		q.at = now + plRaise
	}
}
