package tcp

import "github.com/usernet/usernet/stack/wire"

// maxHoles is the maximum number of blocks in the out-of-order queue. It is large, because every
// second segment of a window may be missing after slow start has overflowed a queue on the path.
const maxHoles = 16384

// takeData processes the payload and the FIN of a segment whose payload begins at seq: the seventh and
// the eighth step of RFC 9293 3.10.7.4.
func (c *Conn) takeData(now Time, seq Seq, s *Segment) {
	r := &c.rcv
	n := s.DataLen()
	c.probeOnly = false
	c.ecnReceived(s)
	end := seq + Seq(n)
	if s.has(wire.FlagFIN) && !r.fin && end.LessEq(r.edge) && (r.ooo.n == 0 || r.ooo.end().LessEq(end)) {
		// Note the FIN, which takes effect when all data before it has arrived. A FIN below
		// data that has already arrived is bogus. A FIN takes no space in the buffer. So, as on
		// Linux, it may be just beyond the window.
		r.fin, r.finSeq = true, end
	}
	lo, hi := maxSeq(seq, r.nxt), minSeq(end, r.edge)
	if r.fin {
		hi = minSeq(hi, r.finSeq) // nothing follows a FIN
	}
	if seq.Less(lo) && n > 0 && c.sackOK { // a part was received before: report it by DSACK
		r.dsack = block{seq, minSeq(lo, end)}
		r.ackNow = true
	}
	if lo.Less(hi) {
		c.store(lo, hi, int(lo-seq), s)
		c.scheduleAck(now, s)
		c.receiverRTT(now, s)
	}
	if r.fin && r.nxt == r.finSeq {
		// "advance RCV.NXT over the FIN, and send an acknowledgment"
		r.nxt++
		if c.state == Established && !r.ackNow && !c.holdsAck() && (r.pingpong || !c.passive && c.timers.ack != 0) {
			// An application that replies, or that has just received a reply, will
			// probably close soon: our FIN can carry the acknowledgement.
			c.ackSoon(now)
		} else {
			r.ackNow = true
		}
		c.peerFinished()
	} else if r.nxt.Less(end) || s.has(wire.FlagFIN) {
		r.ackNow = true
	}
}

// store copies the bytes from lo to hi, which begin at off in the payload, to the waiting
// reader's buffer or to the ring, and moves RCV.NXT over all data that is now contiguous.
func (c *Conn) store(lo, hi Seq, off int, s *Segment) {
	r := &c.rcv
	if lo != r.nxt && r.ooo.n >= maxHoles && !r.ooo.touches(block{lo, hi}) {
		r.ackNow = true // drop the data: there are too many blocks
		return
	}
	if lo == r.nxt && r.buf.n == 0 && r.ooo.n == 0 && r.got < len(r.await) && (!r.bufferTaken || s.liesAt(r.await[r.got:])) {
		r.bufferTaken = false // the payload may be in the buffer already
		k := s.copyData(r.await[r.got:], off, int(hi-lo))
		r.got += k
		c.bytesReceived += uint64(k)
		off += k
		lo += Seq(k)
		r.nxt = lo
		c.events |= Readable
		if lo == hi {
			return
		}
	}
	at := r.buf.n + int(lo-r.nxt)
	used := r.buf.n // bytes from the ring's head to the last stored byte
	if r.ooo.n > 0 {
		used += int(r.ooo.end() - r.nxt)
	}
	if hi = c.affordable(lo, hi, at); lo == hi {
		return
	}
	r.buf.reserve(c.p, at+int(hi-lo), used)
	p := s.Payload
	if off < len(p) {
		k := min(len(p)-off, int(hi-lo))
		r.buf.put(at, p[off:off+k])
		at += k
		lo2 := lo + Seq(k)
		if lo2.Less(hi) {
			r.buf.put(at, s.Payload2[:hi-lo2])
		}
	} else {
		off -= len(p)
		r.buf.put(at, s.Payload2[off:off+int(hi-lo)])
	}
	if lo != r.nxt {
		c.storeHole(block{lo, hi})
		return
	}
	nxt := hi
	if r.ooo.n > 0 {
		var dup block
		nxt, dup = r.ooo.takeFirst(block{lo, hi})
		c.noteDuplicate(dup)
		r.ackNow = true // RFC 5681 4.2: "send an immediate ACK when [...] fills in all or part of a gap"
		c.trimSACK(nxt)
	}
	r.buf.n += int(nxt - r.nxt)
	c.bytesReceived += uint64(nxt - r.nxt)
	r.nxt = nxt
	c.events |= Readable
}

// copyData copies the n bytes that begin at off in the payload of a received segment to p, or
// as many of them as fit, and returns their number.
func (s *Segment) copyData(p []byte, off, n int) int {
	n = min(n, len(p))
	k := 0
	if off < len(s.Payload) {
		k = min(n, len(s.Payload)-off)
		if off > 0 || !s.liesAt(p) {
			copy(p[:k], s.Payload[off:])
		}
	}
	if k < n {
		copy(p[k:n], s.Payload2[off+k-len(s.Payload):])
	}
	return n
}

// liesAt reports whether the payload of a segment already lies at the beginning of p.
func (s *Segment) liesAt(p []byte) bool { return len(s.Payload) > 0 && &s.Payload[0] == &p[0] }

// storeHole adds a block beyond RCV.NXT to the out-of-order queue, and reports it first in the
// next acknowledgement.
func (c *Conn) storeHole(k block) {
	r := &c.rcv
	whole, dup := r.ooo.add(k)
	c.count(OFOQueue)
	c.noteDuplicate(dup)
	r.ackNow = true
	r.quick = quickSegments
	c.noteSACK(whole)
	c.tuneHole()
}

// noteDuplicate records the first overlap of an arrived block with those received before, for
// DSACK. RFC 2883 4.2: if there is more than one overlap, "the first" is reported.
func (c *Conn) noteDuplicate(overlap block) {
	if c.sackOK && overlap != (block{}) && c.rcv.dsack == (block{}) {
		c.rcv.dsack = overlap
	}
}

// noteSACK puts k first among the blocks to report. RFC 2018 4: "The first SACK
// block [...] MUST specify the contiguous block of data containing the segment
// which triggered this ACK", "the SACK option SHOULD be filled out by repeating
// the most recently reported SACK blocks".
func (c *Conn) noteSACK(k block) {
	r := &c.rcv
	list := [4]block{k}
	n := 1
	for _, b := range r.sack[:r.nsack] {
		if n < len(list) && !(k.start.LessEq(b.start) && b.end.LessEq(k.end)) {
			list[n] = b
			n++
		}
	}
	r.sack, r.nsack = list, n
}

// trimSACK removes the blocks below nxt, which the acknowledgement number now covers.
func (c *Conn) trimSACK(nxt Seq) {
	r := &c.rcv
	n := 0
	for _, b := range r.sack[:r.nsack] {
		if nxt.Less(b.start) {
			r.sack[n] = b
			n++
		}
	}
	r.nsack = n
}
