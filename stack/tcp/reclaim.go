package tcp

// stale is how long nothing must have come for a connection before out-of-order data is
// taken for abandoned.
const stale = Second

// Reclaim gives back memory that other connections need more: the part of the buffers
// that is not in use, and out-of-order data that is not worth its room, or all of it
// where all is set. RFC 2018 8 allows the receiver to discard data that it has reported
// by SACK and not acknowledged; the sender's timeout brings it again.
func (c *Conn) Reclaim(now Time, all bool) {
	r := &c.rcv
	if c.active != nil && len(r.ooo) > 0 {
		held := r.buf.n
		for _, k := range r.ooo {
			held += int(k.end - k.start)
		}
		// A byte at the far end of the window takes a ring of the window's size.
		if all || len(r.buf.b) > max(minBuffer, 4*held) || now-r.lastData > stale {
			c.dropOutOfOrder()
		}
	}
	if c.active == nil || len(r.ooo) == 0 {
		r.buf.shrink(c.p)
	}
	c.snd.buf.ring.shrink(c.p)
}

// dropOutOfOrder discards what has come beyond RCV.NXT.
func (c *Conn) dropOutOfOrder() {
	r := &c.rcv
	if c.active == nil {
		return
	}
	r.ooo, r.nsack = nil, 0
	if r.buf.n == 0 {
		r.buf.giveBack(c.p)
	}
}
