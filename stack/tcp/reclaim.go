package tcp

// stale is the time without received data after which out-of-order data counts as abandoned.
const stale = Second

// Reclaim frees memory under memory pressure. It frees unused parts of the buffers. It discards
// out-of-order data if the receive ring is far larger than the data in it, if the out-of-order data
// is stale, or if all is set. RFC 2018 8 allows the receiver to discard data that it has SACKed but
// not acknowledged; the sender retransmits that data after a timeout.
func (c *Conn) Reclaim(now Time, all bool) {
	r := &c.rcv
	if c.active != nil && r.ooo.n > 0 {
		held := r.buf.n + int(r.ooo.bytes)
		// One byte at the far end of the window needs a ring of the window's size.
		if all || len(r.buf.b) > max(minBuffer, 4*held) || now-r.lastData > stale {
			c.dropOutOfOrder()
		}
	}
	if c.active == nil || r.ooo.n == 0 {
		r.buf.shrink(c.p)
	}
	c.snd.buf.ring.shrink(c.p)
}

// dropOutOfOrder discards the data beyond RCV.NXT.
func (c *Conn) dropOutOfOrder() {
	r := &c.rcv
	if c.active == nil {
		return
	}
	if r.ooo.n > 0 {
		c.count(OFOPruned)
	}
	r.ooo, r.nsack = oooQueue{}, 0
	if r.buf.n == 0 {
		r.buf.free(c.p)
	}
}
