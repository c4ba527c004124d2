package tcp

// advertise moves the right edge of the window as far as the buffer allows, never back, and
// returns the window in bytes. RFC 9293 3.8.6.2.2: "a receiving TCP endpoint SHOULD NOT [...]
// advance the right edge in small increments": at least by min(Fr * RCV.BUFF, Eff.snd.MSS).
func (c *Conn) advertise() int {
	r := &c.rcv
	limit := c.bufferLimit(r.limit)
	edge := r.nxt + Seq(max(limit-r.buf.n, 0))
	if c.finReceived() {
		return c.window() // nothing more can arrive
	}
	// Never move the edge further than the 16-bit field can express.
	max16 := Seq(65535) << r.scale
	if r.nxt.Less(edge) && uint32(edge-r.nxt) > uint32(max16) {
		edge = r.nxt + max16
	}
	unit := Seq(1) << r.scale
	if r.buf.n == 0 && r.nxt.Less(edge) && edge-r.nxt < unit {
		edge = r.nxt + unit // otherwise a buffer smaller than the unit would never be offered
	}
	edge = r.nxt + (edge-r.nxt)&^(unit-1)
	if r.edge.Less(edge) && int(edge-r.edge) >= min(limit/2, r.mss) {
		r.edge, r.edgeMoved = edge, true
		r.maxEdge = maxSeq(r.maxEdge, edge)
	}
	return c.window()
}

// updateWindow schedules a window update if the application has read enough data: if at most
// half of the window is left, and the window can at least double and grow by min(half the buffer, one
// segment).
func (c *Conn) updateWindow() {
	r := &c.rcv
	if !c.state.synchronized() || c.finReceived() {
		return
	}
	now := c.window()
	limit := c.bufferLimit(r.limit)
	offered := limit
	if !r.edgeMoved {
		// So far only the SYN advertised a window, limited to 16 bits because it is never
		// scaled. Measure the free part of that window, not of the larger buffer:
		// otherwise an update would be sent right after the handshake.
		offered = min(limit, int(r.synWnd))
	}
	room := min(max(limit-r.buf.n, 0), 65535<<r.scale)
	if c.thinning() {
		return
	}
	if 2*now <= offered && room >= 2*now && room-now >= min(limit/2, r.mss) {
		r.ackNow = true
	}
}

// affordable returns the end of the part of the data from lo to hi that may be stored. The byte lo
// belongs at offset at from the ring's head. Without memory pressure, all of the data may be stored.
// Under memory pressure no ring grows beyond minBuffer, and data that does not fit is dropped even if
// it is in the window: the windows of all connections may add up to more than the memory.
func (c *Conn) affordable(lo, hi Seq, at int) Seq {
	r := &c.rcv
	room := max(minBuffer, len(r.buf.b)) - at
	if int(hi-lo) <= room || c.p.Pressure == nil || !c.p.Pressure() {
		return hi
	}
	r.ackNow = true
	if lo != r.nxt {
		return lo // the peer retransmits the data after the gap is filled
	}
	// RFC 9293 3.8.6: "A TCP receiver SHOULD NOT shrink the window". But a sender whose
	// retransmissions are all dropped would give up; a closed window makes it wait. Linux
	// does the same.
	r.edge, r.edgeMoved = lo+Seq(max(room, 0)), true
	return r.edge
}

// tuneReceive implements dynamic right-sizing: it grows the buffer to twice the bytes that the
// application reads in a round-trip time, so that the receive window never limits a sender
// whose congestion window still grows.
func (c *Conn) tuneReceive(now Time) {
	r := &c.rcv
	q := &r.drs
	read := r.nxt - Seq(r.buf.n)
	rtt := max(q.rtt, 10*Microsecond)
	if now-q.at < rtt {
		return
	}
	// Scale to one round trip: a reader that paused reads more at once.
	taken := int(int64(read-q.seq) * int64(rtt) / int64(now-q.at))
	want := 2*taken + 16*r.mss // with slack for small windows, as on Linux
	if taken > q.taken && q.taken > 0 {
		// The sender may be in slow start and double its rate in the next round.
		want += int(2 * int64(want) * int64(min(taken-q.taken, q.taken)) / int64(q.taken))
	}
	if want = min(want, c.p.RecvBufferMax, cacheable(c.receiverLeastRTT())); !r.fixed && want > r.limit && c.bufferLimit(want) == want {
		r.limit = want
	}
	q.seq, q.at, q.taken = read, now, taken
}

// tuneHole grows the buffer while data beyond a hole accumulates. A sender that recovers by SACK keeps
// sending. From a loss to its repair it sends the data of two or three round trips, all of which is
// buffered here. The buffer grows when half of it is in use, because the sender learns of the new
// window half a round trip later, and in slow start doubles its rate per round trip. Without SACK the
// buffer does not grow: the sender sends little in recovery, and acknowledgements with a changed window
// would not count as duplicates (RFC 5681 2).
func (c *Conn) tuneHole() {
	r := &c.rcv
	last := r.ooo.end()
	if r.fixed || !c.sackOK || r.buf.n+int(last-r.nxt) < r.limit/2 {
		return
	}
	want := min(2*r.limit, c.p.RecvBufferMax, cacheable(c.receiverLeastRTT()))
	if want <= r.limit || c.bufferLimit(want) != want {
		return
	}
	// Do not grow for a few bytes far ahead: an attacker could force the largest ring with a
	// handful of segments. After slow start has overflowed a queue, half of the data sent has
	// arrived.
	if int(r.ooo.bytes) >= int(last-r.nxt)/4 {
		r.limit = want
	}
}

// cacheable returns the size in bytes to which auto-tuning may grow a buffer on a path with the given
// round-trip time: 256 KiB plus the bandwidth-delay product of 100 Gbit/s, or 4 MiB plus that of 20
// Gbit/s, whichever is less. On short paths a larger buffer does not help, and it does not fit the
// processor's cache: a bulk transfer through a TAP then spent half its time on copying.
func cacheable(rtt Time) int {
	rtt = min(rtt, Second)
	return int(min(256<<10+rtt*25/2, 4<<20+rtt*5/2))
}

// receiverRTT measures the round-trip time at a receiver that sends no data, from the
// timestamps that the peer echoes.
func (c *Conn) receiverRTT(now Time, s *Segment) {
	c.measureWindow(now)
	if !c.tsOK || s.TSEcr == 0 {
		return
	}
	d := Time(int32(c.tsVal(now)-s.TSEcr)) * Millisecond
	q := &c.rcv.drs
	if d <= Millisecond {
		// The timestamp clock ticks in milliseconds, so d is only an upper bound. On a
		// path of microseconds the handshake's sample is better: a buffer for the data of
		// a whole millisecond would not fit the processor's cache.
		if q.rtt == 0 || q.rtt > Millisecond {
			q.rtt = Millisecond
		}
		return
	}
	if q.rtt == 0 || d < q.rtt {
		q.rtt = d
	} else {
		q.rtt += (d - q.rtt) / 8
	}
}

// measureWindow measures how long it takes until data from beyond the current window arrives.
// That is at least one round-trip time, since the sender must have received a newer window.
func (c *Conn) measureWindow(now Time) {
	r := &c.rcv
	q := &r.drs
	if q.edged != 0 && r.nxt.LessEq(q.edge) {
		return
	}
	if d := now - q.edged; q.edged != 0 && (q.least == 0 || d < q.least) {
		q.least = d
	}
	q.edge, q.edged = r.edge, now
}

// receiverLeastRTT returns the smallest known round-trip time of the path. The mean is not suitable,
// because it includes the time that data waits in queues and for the processor. A buffer that grows
// with the mean would make the queues grow, and thus the mean.
func (c *Conn) receiverLeastRTT() Time {
	rtt := c.rcv.drs.rtt
	for _, d := range [...]Time{c.rcv.drs.least, c.rtt.min} {
		if d != 0 && d < rtt {
			rtt = d
		}
	}
	return rtt
}
