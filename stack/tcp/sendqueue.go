package tcp

// A sendQueue holds the bytes that were written and are not yet acknowledged: copied bytes in
// a ring, followed by bytes in Blocks, followed by pinned bytes, which are still in the
// application's buffer. While there are bytes in Blocks, further bytes are not put into the ring.
//
// The bytes in Blocks are in a blockQueue, which is in the active part of the Conn. It is nil while
// the Conn is idle.
type sendQueue struct {
	ring ring
	// pinned is a part of the slice that was given to Pin. Its capacity reaches to the
	// end of that slice, so that the next Pin extends it in place.
	pinned []byte
}

// len returns the number of bytes in the queue.
func (q *sendQueue) len(x *blockQueue) int { return q.ring.n + x.len() + len(q.pinned) }

// payload sets the payload of out to the n bytes that begin off bytes from the head.
func (q *sendQueue) payload(p *Params, x *blockQueue, out *Segment, off, n int) {
	if k := min(n, q.ring.n-off); k > 0 {
		out.Payload, out.Payload2 = q.ring.slices(off, k)
		off, n = off+k, n-k
	}
	off -= q.ring.n
	if k := min(n, x.len()-off); k > 0 {
		x.payload(p, out, off, k, k < n)
		off, n = off+k, n-k
	}
	if n > 0 {
		off -= x.len()
		out.Pinned = q.pinned[off : off+n]
	}
}

// put appends a copy of b. There are no pinned bytes.
func (q *sendQueue) put(p *Params, x *blockQueue, b []byte) {
	if x.len() > 0 {
		x.put(p, b)
		return
	}
	q.ring.reserve(p, q.ring.n+len(b), q.ring.n)
	q.ring.put(q.ring.n, b)
	q.ring.n += len(b)
}

// drop removes n bytes from the head of the queue.
func (q *sendQueue) drop(x *blockQueue, n int) {
	k := min(n, q.ring.n)
	q.ring.drop(k)
	n -= k
	if k = min(n, x.len()); k > 0 {
		x.drop(k)
		n -= k
	}
	q.pinned = q.pinned[n:]
}

// clear empties the queue.
func (q *sendQueue) clear(x *blockQueue) {
	if k := x.len(); k > 0 {
		x.drop(k)
	}
	q.ring.n, q.pinned = 0, nil
}

// Write copies as much of p as fits to the send queue and returns that number of bytes.
// If it is less than len(p), a Writable event follows when there is room again.
func (c *Conn) Write(now Time, p []byte) int {
	n := c.admit(now, p)
	if n == 0 {
		return 0
	}
	c.snd.buf.put(c.p, c.blocks(), p[:n])
	return n
}

// Pin is Write without the copy (zero-copy send): the bytes that it accepts are sent from p itself. p
// must not change until the caller has called Unpin. If Pin is called again before Unpin, its argument
// must be the part of p that the previous call did not accept. Write must not be called between Pin and
// Unpin.
func (c *Conn) Pin(now Time, p []byte) int {
	n := c.admit(now, p)
	if n == 0 {
		return 0
	}
	if q := &c.snd.buf; len(q.pinned) > 0 {
		q.pinned = q.pinned[:len(q.pinned)+n]
	} else {
		q.pinned = p[:n]
	}
	return n
}

// Pinned returns the number of pinned bytes that are not yet acknowledged: Unpin would copy them.
func (c *Conn) Pinned() int { return len(c.snd.buf.pinned) }

// Unpin copies the pinned bytes that are not yet acknowledged to the ring or to a Block. Segments that Next
// returned before still refer to the caller's buffer.
func (c *Conn) Unpin() {
	q := &c.snd.buf
	pinned := q.pinned
	q.pinned = nil
	if len(pinned) > 0 {
		q.put(c.p, c.blocks(), pinned)
	}
}

// near is the round-trip time below which waiting for an acknowledgement may cost less than
// copying the data that it covers.
const near = Millisecond / 2

// Near reports whether the round-trip time is so short that the peer is probably on the same
// machine.
func (c *Conn) Near() bool { return c.rtt.min > 0 && c.rtt.min < near }

// Una returns SND.UNA. It advances when the peer acknowledges new data, which shows that the
// connection makes progress.
func (c *Conn) Una() Seq { return c.snd.una }

// AwaitAcks requests a Writable event. The event comes when all pinned bytes are acknowledged, so that
// Unpin has nothing to copy, but at the latest at the time that until gives. If no pinned byte is
// unacknowledged now, or that time has come, AwaitAcks requests nothing and returns false.
func (c *Conn) AwaitAcks(now, until Time) bool {
	if c.active == nil {
		return false
	}
	c.awaitAcksBy = 0
	if len(c.snd.buf.pinned) > 0 && now < until {
		c.awaitAcksBy = until
	}
	return c.awaitAcksBy != 0
}

// endAwaitAcks ends the wait of AwaitAcks.
func (c *Conn) endAwaitAcks() {
	c.awaitAcksBy = 0
	c.events |= Writable
}

// admit returns how many bytes of p may be queued now. If not all of them, a Writable event follows
// when there is space again.
func (c *Conn) admit(now Time, p []byte) int {
	s := &c.snd
	if s.fin || c.err != ErrNone {
		return 0
	}
	n := min(len(p), c.WriteSpace())
	s.full = n < len(p)
	if n == 0 {
		return 0
	}
	c.activateForData(now)
	if c.cc.bbr != nil {
		c.cc.bbr.writing(c)
	}
	return n
}

// WriteSpace returns the number of bytes that Write would accept now.
func (c *Conn) WriteSpace() int { return max(c.bufferLimit(c.snd.limit)-c.Unacked(), 0) }

// tuneSend grows the send buffer to twice the congestion window plus the bytes that are
// SACKed, and reports Writable when a third of the buffer is free for a waiting writer. The factor
// of two keeps new data ready when an acknowledgement arrives. SACKed bytes are no longer in flight
// but stay in the buffer until the hole before them is filled.
func (c *Conn) tuneSend() {
	s := &c.snd
	if want := min(2*c.cc.cwnd+c.sb.sacked, c.p.SendBufferMax, cacheable(c.rtt.min)); !s.fixed && want > s.limit && c.bufferLimit(want) == want {
		s.limit = want
	}
	if s.full {
		if limit := c.bufferLimit(s.limit); limit-c.Unacked() >= limit/3 {
			s.full = false
			c.events |= Writable
		}
	}
}
