package tcp

// A sendQueue is what was written and is not yet acknowledged: bytes in a ring
// and, behind them, bytes that are still where the application has them.
type sendQueue struct {
	ring ring
	// lent is a part of what was given to Lend. Its capacity reaches to the end
	// of that, so that it grows in place.
	lent []byte
}

// len is the number of bytes in the queue.
func (q *sendQueue) len() int { return q.ring.n + len(q.lent) }

// slices returns the n bytes that begin off bytes from the head: up to two
// pieces of the ring, and what was lent.
func (q *sendQueue) slices(off, n int) (a, b, lent []byte) {
	if k := min(n, q.ring.n-off); k > 0 {
		a, b = q.ring.slices(off, k)
		off, n = off+k, n-k
	}
	if n > 0 {
		off -= q.ring.n
		lent = q.lent[off : off+n]
	}
	return a, b, lent
}

// drop takes n bytes from the head of the queue.
func (q *sendQueue) drop(n int) {
	k := min(n, q.ring.n)
	q.ring.drop(k)
	q.lent = q.lent[n-k:]
}

// clear empties the queue.
func (q *sendQueue) clear() { q.ring.n, q.lent = 0, nil }

// Write queues what fits of p to be sent, and returns how much that is.
// When it is less than len(p), a Writable event follows.
func (c *Conn) Write(now Time, p []byte) int {
	n := c.admit(now, p)
	if n == 0 {
		return 0
	}
	q := &c.snd.buf.ring
	q.reserve(c.p, q.n+n, q.n)
	q.put(q.n, p[:n])
	q.n += n
	return n
}

// Lend is Write without the copy: what it takes is sent from p itself, which must
// not change until Settle was called. Calls that follow without a Settle go on
// where the one before ended: p is what was left then. No Write may come between.
func (c *Conn) Lend(now Time, p []byte) int {
	n := c.admit(now, p)
	if n == 0 {
		return 0
	}
	if q := &c.snd.buf; len(q.lent) > 0 {
		q.lent = q.lent[:len(q.lent)+n]
	} else {
		q.lent = p[:n]
	}
	return n
}

// Lent is how much of what was given to Lend is still needed, in bytes: Settle would
// copy it.
func (c *Conn) Lent() int { return len(c.snd.buf.lent) }

// Settle ends what Lend began: what is not acknowledged is copied. Segments that
// Next gave before still refer to what was lent.
func (c *Conn) Settle() {
	q := &c.snd.buf
	n := len(q.lent)
	if n > 0 {
		q.ring.reserve(c.p, q.ring.n+n, q.ring.n)
		q.ring.put(q.ring.n, q.lent)
		q.ring.n += n
	}
	q.lent = nil
}

// near is the round-trip time below which acknowledgements come so soon that it may
// cost less to wait for them than to copy what they are for.
const near = Millisecond / 2

// Near tells whether the peer is as near as one in the same machine.
func (c *Conn) Near() bool { return c.rtt.min > 0 && c.rtt.min < near }

// Una is SND.UNA: it moves when the peer acknowledges something new, and so shows that
// what is sent arrives.
func (c *Conn) Una() Seq { return c.snd.una }

// AwaitSettled asks for a Writable event when all that was lent is acknowledged, so
// that Settle has nothing to copy, or when it is until. It reports false, and asks
// for nothing, where one of both is so now.
func (c *Conn) AwaitSettled(now, until Time) bool {
	if c.busy == nil {
		return false
	}
	c.settleBy = 0
	if len(c.snd.buf.lent) > 0 && now < until {
		c.settleBy = until
	}
	return c.settleBy != 0
}

// endSettling ends AwaitSettled's wait.
func (c *Conn) endSettling() {
	c.settleBy = 0
	c.events |= Writable
}

// admit is how much of p may be queued now.
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
	c.work(now)
	if c.cwr.bbr != nil {
		c.cwr.bbr.writing(c)
	}
	return n
}

// WriteSpace is the number of bytes that Write would take.
func (c *Conn) WriteSpace() int { return max(c.share(c.snd.limit)-c.snd.buf.len(), 0) }
