package tcp

// busy is what a Conn keeps track of while segments are under way, in either
// direction. It is a third of a Conn, and most Conns are idle most of the time:
// one that rests has none.
type busy struct {
	sb  scoreboard
	rec recovery
	arrivals
	told     Seq  // SEG.ACK of a segment that was not acceptable, if none was since, or SND.UNA: see ackSeq
	settleBy Time // until then the application waits for what it lent; 0: it does not
	brief    bool // it was made for a probe or its answer, and text has not come or gone
}

// arrivals is what a Conn knows of what has come beyond RCV.NXT, and of how fast
// text comes.
type arrivals struct {
	ooo   []block
	sack  [4]block // blocks to report, the newest first (RFC 2018 4)
	nsack int
	dsack block // duplicate to report once (RFC 2883), empty if start == end

	// maxEdge is the farthest that the window's right edge ever was. It is more than
	// edge only where memory was short and edge was taken back: see affordable.
	maxEdge Seq

	// Receive-buffer tuning (dynamic right-sizing).
	drs struct {
		seq   Seq  // what the application had read at
		at    Time // this time
		taken int  // what it read in the round before
		rtt   Time // round-trip time as the receiver sees it
		edge  Seq  // of the window that was offered at
		edged Time // this time; 0: never
		least Time // that it took for more than that to come; 0: it has not
	}
}

// restAfter is how long nothing must have gone or come before a Conn rests.
const restAfter = 500 * Millisecond

// rouse makes sure that there is a busy part. One that is made anew knows nothing of
// earlier ones: how far segments were reordered on the path, for example, is
// learnt again.
func (c *Conn) rouse(now Time) {
	if c.busy != nil {
		return
	}
	var f *busy
	if c.p.Spare != nil {
		f, _ = c.p.Spare.Get().(*busy)
	}
	if f == nil {
		f = new(busy)
		f.sb.init()
	}
	c.busy, c.rcv.arrivals = f, &f.arrivals
	f.sb.fack = c.snd.una
	f.drs.seq, f.drs.at, f.drs.rtt = c.rcv.nxt, now, c.rtt.srtt
	f.told, f.maxEdge = c.snd.una, c.rcv.edge
	f.brief = true
}

// work is rouse for text.
func (c *Conn) work(now Time) {
	c.rouse(now)
	if c.brief {
		c.brief = false
		c.cwr.setRate(c) // as before the rest: see unload
	}
}

// Rest gives up what a Conn needs only while it is busy, if it has not been for a
// while; what comes next makes it anew. It returns when to try again, or 0 where
// the Conn rests, or will not before something happens to it.
func (c *Conn) Rest(now Time) (again Time) {
	if c.busy == nil || !c.restful() {
		return 0
	}
	if c.state.synchronized() && c.state != TimeWait {
		if at := max(c.rcv.last, c.snd.lastData, c.snd.progress) + restAfter; now < at {
			return at
		}
	}
	c.unload()
	c.cwr.release()
	return 0
}

// Resting reports that the Conn rests: nothing has happened for restAfter, or it is over.
func (c *Conn) Resting() bool { return c.busy == nil }

// relax ends what a Conn that rests was roused for, if it is over: a keep-alive
// probe and its answer teach nothing that is worth to be kept.
func (c *Conn) relax() {
	if c.busy != nil && c.brief && c.restful() {
		c.unload()
	}
}

// unload gives up the busy part.
func (c *Conn) unload() {
	f := c.busy
	c.busy, c.rcv.arrivals = nil, nil
	if c.cwr.bbr == nil {
		c.cwr.pace = nil
	}
	if c.p.Spare != nil {
		*f = busy{}
		f.sb.init()
		c.p.Spare.Put(f)
	}
}

// restful tells whether there is nothing under way, and nothing to be remembered.
func (c *Conn) restful() bool {
	r, s, t := &c.rcv, &c.snd, &c.timers
	if r.buf.n > 0 || r.got > 0 || c.Unacked() > 0 || c.rstUnsent || r.rstNow {
		return false
	}
	switch {
	case c.state == Closed || c.state == TimeWait:
		return true
	case !c.state.synchronized():
		return false
	case s.una != s.nxt || s.fin && !s.finSent:
		return false
	case r.maxEdge != r.edge:
		return false
	case len(r.ooo) > 0 || r.nsack > 0 || r.dsack != (block{}) || r.ackNow:
		return false
	case t.rtx != 0 || t.ack != 0 || t.persist != 0 || t.keepNow || t.probeNow:
		return false
	case c.rec.phase != phaseOpen || c.rec.pending:
		return false
	}
	return true
}

// due tells whether a Conn that rests has something to send.
func (c *Conn) due() bool {
	return c.synUnsent || c.rcv.ackNow || c.timers.keepNow || c.Unacked() > 0 || c.snd.fin && !c.snd.finSent
}
