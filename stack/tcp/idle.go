package tcp

// active is the part of a Conn that is needed only while data is in flight in either
// direction. It is a third of a Conn's memory. An idle Conn has none, and most Conns are
// idle most of the time.
type active struct {
	sb  scoreboard
	rec recovery
	arrivals
	sendBlocks      blockQueue
	unacceptableAck Seq  // SEG.ACK of the latest segment if that was unacceptable, else at most SND.UNA: see ackSeq
	awaitAcksBy     Time // deadline of AwaitAcks; 0: no writer waits
	probeOnly       bool // activated for a keep-alive probe or its answer; no data was sent or received since
}

// arrivals is what a Conn knows about data beyond RCV.NXT and about the rate at which data
// arrives.
type arrivals struct {
	ooo   oooQueue // out-of-order data in the ring
	sack  [4]block // blocks to report, newest first (RFC 2018 4)
	nsack int
	dsack block // duplicate to report once (RFC 2883), empty if start == end

	// maxEdge is the farthest that the window's right edge ever was. It is beyond edge
	// only if memory pressure made the window shrink: see affordable.
	maxEdge Seq

	thin ackThinning

	// Receive-buffer tuning (dynamic right-sizing).
	drs struct {
		seq   Seq  // first number that the application had not read at time at
		at    Time // start of the current measurement round
		taken int  // bytes read in the previous round
		rtt   Time // smoothed round-trip time, measured by the receiver
		edge  Seq  // right edge of the window at time edged
		edged Time // start of the current window measurement; 0: none yet
		least Time // shortest time in which a whole window arrived; 0: not known
	}
}

// idleAfter is how long a Conn has sent and received nothing before it becomes idle.
const idleAfter = 500 * Millisecond

// activate allocates the active part if there is none. A new part inherits nothing from an earlier
// part: the degree of reordering on the path, for example, must be learnt again.
func (c *Conn) activate(now Time) {
	if c.active != nil {
		return
	}
	var f *active
	if c.p.Spare != nil {
		f, _ = c.p.Spare.Get().(*active)
	}
	if f == nil {
		f = new(active)
		f.sb.init()
	}
	c.active, c.rcv.arrivals = f, &f.arrivals
	f.sb.fack = c.snd.una
	f.drs.seq, f.drs.at, f.drs.rtt = c.rcv.nxt, now, c.rtt.srtt
	f.unacceptableAck, f.maxEdge = c.snd.una, c.rcv.edge
	f.probeOnly = true
}

// activateForData activates the Conn because data is sent or received.
func (c *Conn) activateForData(now Time) {
	c.activate(now)
	if c.probeOnly {
		c.probeOnly = false
		c.cc.setRate(c) // deactivate has dropped the pacer
	}
}

// Deactivate frees the active part if the Conn has been quiescent for idleAfter. The next
// segment or call allocates a new one. Deactivate returns the time at which to call it again,
// or 0 if the Conn is idle or cannot become idle before another call or segment.
func (c *Conn) Deactivate(now Time) (again Time) {
	if c.active == nil || !c.quiescent() {
		return 0
	}
	if c.state.synchronized() && c.state != TimeWait {
		if at := max(c.rcv.last, c.snd.lastData, c.snd.progress) + idleAfter; now < at {
			return at
		}
	}
	c.deactivate()
	c.cc.release()
	return 0
}

// Idle reports whether the Conn is idle: nothing has happened for idleAfter, or the connection has
// ended.
func (c *Conn) Idle() bool { return c.active == nil }

// deactivateAfterProbe makes a Conn idle if it was activated only for a keep-alive probe or its
// answer. It does not wait for idleAfter, because such a Conn has learnt nothing worth keeping.
func (c *Conn) deactivateAfterProbe() {
	if c.active != nil && c.probeOnly && c.quiescent() {
		c.deactivate()
	}
}

// deactivate frees the active part.
func (c *Conn) deactivate() {
	f := c.active
	c.active, c.rcv.arrivals = nil, nil
	if c.cc.bbr == nil {
		c.cc.pace = nil
	}
	if c.p.Spare != nil {
		*f = active{}
		f.sb.init()
		c.p.Spare.Put(f)
	}
}

// quiescent reports whether nothing is in flight or buffered, no timer for data or acknowledgements is
// set, and the active part holds nothing that is still needed.
func (c *Conn) quiescent() bool {
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
	case r.ooo.n > 0 || r.nsack > 0 || r.dsack != (block{}) || r.ackNow:
		return false
	case t.rtx != 0 || t.ack != 0 || t.persist != 0 || t.keepNow || t.probeNow:
		return false
	case c.rec.phase != phaseOpen || c.rec.pending:
		return false
	}
	return true
}

// hasOutput reports whether an idle Conn has something to send.
func (c *Conn) hasOutput() bool {
	return c.synUnsent || c.rcv.ackNow || c.timers.keepNow || c.Unacked() > 0 || c.snd.fin && !c.snd.finSent
}
