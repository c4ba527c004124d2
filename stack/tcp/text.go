package tcp

import (
	"sort"

	"github.com/usernet/usernet/stack/wire"
)

// maxHoles bounds the out-of-order queue in pieces. When slow start overflows a
// queue of the path, every second segment of a window may be missing.
const maxHoles = 16384

// text takes the payload and the FIN of a segment whose text begins at seq:
// RFC 9293 3.10.7.4, seventh and eighth.
func (c *Conn) text(now Time, seq Seq, s *Segment) {
	r := &c.rcv
	n := s.DataLen()
	c.brief = false
	c.ecnReceived(s)
	end := seq + Seq(n)
	if s.has(wire.FlagFIN) && !r.fin && end.LessEq(r.edge) && (len(r.ooo) == 0 || r.ooo[len(r.ooo)-1].end.LessEq(end)) {
		// The FIN counts once everything before it has come. One that lies
		// before text that is here already is nobody's. It takes no room in the
		// buffer, so as on Linux it may be the one number beyond the window.
		r.fin, r.finSeq = true, end
	}
	lo, hi := maxSeq(seq, r.nxt), minSeq(end, r.edge)
	if r.fin {
		hi = minSeq(hi, r.finSeq) // nothing follows a FIN
	}
	if seq.Less(lo) && n > 0 && c.sackOK {
		r.dsack = block{seq, minSeq(lo, end)}
		r.ackNow = true
	}
	if lo.Less(hi) {
		c.store(lo, hi, int(lo-seq), s)
		c.ackText(now, s)
		c.receiverRTT(now, s)
	}
	if r.fin && r.nxt == r.finSeq {
		// "advance RCV.NXT over the FIN, and send an acknowledgment"
		r.nxt++
		if c.state == Established && !r.ackNow && (r.chatty || !c.passive && c.timers.ack != 0) {
			// An application that answers, or that has just had its answer, will
			// most likely close as well: our FIN can carry the acknowledgement.
			c.ackSoon(now)
		} else {
			r.ackNow = true
		}
		c.peerFinished()
	} else if r.nxt.Less(end) || s.has(wire.FlagFIN) {
		r.ackNow = true
	}
}

// store puts the bytes from lo to hi, which begin at off in the payload, into
// the ring, and moves RCV.NXT over what is now without a gap.
func (c *Conn) store(lo, hi Seq, off int, s *Segment) {
	r := &c.rcv
	if lo != r.nxt && len(r.ooo) >= maxHoles && !c.fillsHole(lo, hi) {
		r.ackNow = true
		return
	}
	if lo == r.nxt && r.buf.n == 0 && len(r.ooo) == 0 && r.got < len(r.await) && (!r.placing || s.liesAt(r.await[r.got:])) {
		r.placing = false // or who has placed it there has given it to us
		k := s.copyText(r.await[r.got:], off, int(hi-lo))
		r.got += k
		off += k
		lo += Seq(k)
		r.nxt = lo
		c.events |= Readable
		if lo == hi {
			return
		}
	}
	at := r.buf.n + int(lo-r.nxt)
	used := r.buf.n
	if len(r.ooo) > 0 {
		used += int(r.ooo[len(r.ooo)-1].end - r.nxt)
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
	if len(r.ooo) > 0 {
		k := 0
		for k < len(r.ooo) && r.ooo[k].start.LessEq(nxt) {
			c.noteDuplicate(block{lo, hi}, r.ooo[k])
			nxt = maxSeq(nxt, r.ooo[k].end)
			k++
		}
		r.ooo = append(r.ooo[:0], r.ooo[k:]...)
		if len(r.ooo) == 0 && cap(r.ooo) > keepPieces {
			r.ooo = nil
		}
		r.ackNow = true // RFC 5681 4.2: "send an immediate ACK when [...] fills in all or part of a gap"
		c.trimSACK(nxt)
	}
	r.buf.n += int(nxt - r.nxt)
	r.nxt = nxt
	c.events |= Readable
}

// affordable is how much may be kept of the text from lo to hi, which would begin at
// bytes from the ring's head: it returns the new end. Windows that were offered may add
// up to more than there is memory for. When that is scarce, a ring does not grow
// for them, unless it has less than what every connection may have.
func (c *Conn) affordable(lo, hi Seq, at int) Seq {
	r := &c.rcv
	room := max(scarce, len(r.buf.b)) - at
	if int(hi-lo) <= room || c.p.Full == nil || !c.p.Full() {
		return hi
	}
	r.ackNow = true
	if lo != r.nxt {
		return lo // it comes again when the gap is filled
	}
	// RFC 9293 3.8.6: "A TCP receiver SHOULD NOT shrink the window", but a sender that
	// goes on sending what is dropped would give up. As Linux does, it is told to wait.
	r.edge, r.edgeMoved = lo+Seq(max(room, 0)), true
	return r.edge
}

// copyText copies to p what fits of the n bytes that begin at off in the payload
// of a received segment, and returns how many those are.
func (s *Segment) copyText(p []byte, off, n int) int {
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

// liesAt reports whether the text of a segment was put to the beginning of p before.
func (s *Segment) liesAt(p []byte) bool { return len(s.Payload) > 0 && &s.Payload[0] == &p[0] }

// fillsHole tells whether a block only extends pieces that are there.
func (c *Conn) fillsHole(lo, hi Seq) bool {
	o := c.rcv.ooo
	i := sort.Search(len(o), func(i int) bool { return lo.LessEq(o[i].end) })
	return i < len(o) && o[i].start.LessEq(hi)
}

// storeHole notes a block beyond RCV.NXT, and reports it first in the next
// acknowledgement.
func (c *Conn) storeHole(k block) {
	r := &c.rcv
	o := r.ooo
	i := sort.Search(len(o), func(i int) bool { return k.start.LessEq(o[i].end) })
	j := i
	came := k
	for j < len(o) && o[j].start.LessEq(k.end) {
		c.noteDuplicate(came, o[j])
		k.start, k.end = minSeq(k.start, o[j].start), maxSeq(k.end, o[j].end)
		j++
	}
	switch {
	case i == j:
		o = append(o, block{})
		copy(o[i+1:], o[i:])
		o[i] = k
	default:
		o[i] = k
		o = append(o[:i+1], o[j:]...)
	}
	r.ooo = o
	r.ackNow = true
	r.quick = quickSegments
	c.noteSACK(k)
	c.tuneHole()
}

// tuneHole makes room behind a hole. A sender that recovers by SACK goes on
// sending: until what it lost is noticed, perhaps after waiting for reordering,
// and has come again, it sends what two or three round trips hold, all of which
// waits here. The buffer grows once half of it is taken: the sender learns of it
// half a round trip later, and in slow start sends twice as much in each. Without
// SACK it sends little; and its acknowledgements would not count as duplicates if
// they offered more each time (RFC 5681 2).
func (c *Conn) tuneHole() {
	r := &c.rcv
	last := r.ooo[len(r.ooo)-1].end
	if r.fixed || !c.sackOK || r.buf.n+int(last-r.nxt) < r.limit/2 {
		return
	}
	want := min(2*r.limit, c.p.RecvBufferMax, cacheable(c.receiverLeastRTT()))
	if want <= r.limit || c.share(want) != want {
		return
	}
	// A few bytes far away are no reason: whoever sends those would have the largest
	// ring made for a handful of segments. Where slow start has overflowed a queue,
	// half of what was sent is here.
	held := 0
	for _, k := range r.ooo {
		held += int(k.end - k.start)
	}
	if held >= int(last-r.nxt)/4 {
		r.limit = want
	}
}

// noteDuplicate reports what of a segment that came was there already. RFC 2883
// 4.2: where more than one part was, "the first" of them is reported.
func (c *Conn) noteDuplicate(came, have block) {
	d := block{maxSeq(came.start, have.start), minSeq(came.end, have.end)}
	if c.sackOK && d.start.Less(d.end) && c.rcv.dsack == (block{}) {
		c.rcv.dsack = d
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

// trimSACK forgets what is acknowledged.
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

// quickSegments is how many segments are acknowledged at once for a sender that
// may be in slow start: as many as Linux does.
const quickSegments = 16

// answerTime is how long an acknowledgement that a sender in slow start may wait
// for is held back for an application that answers. So long at most does a
// sender with Nagle's algorithm keep the second half of a request.
const answerTime = Millisecond

// ackText decides when what has come is acknowledged. RFC 5681 4.2: "an ACK
// SHOULD be generated for at least every second full-sized segment, and MUST be
// generated within 500 ms of the arrival of the first unacknowledged packet".
func (c *Conn) ackText(now Time, s *Segment) {
	r := &c.rcv
	n := s.DataLen()
	if seg := s.GSOSize; seg == 0 && n > r.mss {
		r.mss = n
	}
	r.unacked += uint32(n)
	full := r.mss
	first := r.lastText == 0
	if now-r.lastText > c.rtt.rto {
		// After so long a pause the sender begins anew, be it from a timeout or
		// from having had nothing to send.
		r.quick = quickSegments
	}
	r.lastText = now
	if int(r.unacked) >= 2*full || len(r.ooo) > 0 {
		r.ackNow = true
		return
	}
	if r.quick > 0 && !r.chatty {
		// The sender is in slow start: each acknowledgement lets it grow.
		r.quick--
		if n >= full || !s.has(wire.FlagPSH) || c.snd.lastData != 0 && !(first && c.isAnswer()) {
			r.ackNow = true
			return
		}
		// But this is no burst: it is the whole of a request, and we have said
		// nothing so far, or of the answer to ours. What we say next, or our FIN,
		// will carry the acknowledgement, if it comes soon: a short connection
		// needs a segment or two less.
		c.ackSoon(now)
		return
	}
	if c.timers.ack == 0 {
		c.timers.ack = now + c.p.DelayedAck
	}
}

// isAnswer reports whether the first text that comes is an answer: we opened the
// connection, and all that we have sent has arrived.
func (c *Conn) isAnswer() bool { return !c.passive && c.snd.una == c.snd.nxt }

// ackSoon has what came acknowledged by what the application sends within
// answerTime, or else by itself.
func (c *Conn) ackSoon(now Time) {
	if at := now + answerTime; c.timers.ack == 0 || at < c.timers.ack {
		c.timers.ack = at
	}
}

// receiverRTT measures the round-trip time as a receiver that sends nothing
// sees it, from the timestamps that come back.
func (c *Conn) receiverRTT(now Time, s *Segment) {
	c.measureWindow(now)
	if !c.tsOK || s.TSEcr == 0 {
		return
	}
	d := Time(int32(c.tsVal(now)-s.TSEcr)) * Millisecond
	q := &c.rcv.drs
	if d <= Millisecond {
		// The timestamp clock is too coarse to say more than "at most this". On
		// a path of microseconds, what the handshake measured is nearer: a
		// buffer for the bandwidth of a whole millisecond falls out of the cache.
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

// measureWindow notes how long it takes until text comes from beyond the window that
// is offered now. A round-trip time must have passed by then.
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

// receiverLeastRTT is the least round-trip time that is known of the path. The mean
// has the time in it that text waited in queues and for the processor: a buffer that
// grew for that made the queues longer, and the mean with them.
func (c *Conn) receiverLeastRTT() Time {
	rtt := c.rcv.drs.rtt
	for _, d := range [...]Time{c.rcv.drs.least, c.rtt.min} {
		if d != 0 && d < rtt {
			rtt = d
		}
	}
	return rtt
}

// tuneReceive is dynamic right-sizing: the buffer holds twice what the
// application takes in a round-trip time, so that the window never is what
// limits a sender whose window still grows.
func (c *Conn) tuneReceive(now Time) {
	r := &c.rcv
	q := &r.drs
	read := r.nxt - Seq(r.buf.n)
	rtt := max(q.rtt, 10*Microsecond)
	if now-q.at < rtt {
		return
	}
	// What was read in one round trip: a reader that paused takes more at once.
	taken := int(int64(read-q.seq) * int64(rtt) / int64(now-q.at))
	want := 2*taken + 16*r.mss
	if taken > q.taken && q.taken > 0 {
		// A sender in slow start will have twice as much in the next round.
		want += int(2 * int64(want) * int64(min(taken-q.taken, q.taken)) / int64(q.taken))
	}
	if want = min(want, c.p.RecvBufferMax, cacheable(c.receiverLeastRTT())); !r.fixed && want > r.limit && c.share(want) == want {
		r.limit = want
	}
	q.seq, q.at, q.taken = read, now, taken
}

// cacheable is what a buffer may grow to on a path with the given round-trip
// time: what 100 Gbit/s have in flight, and a quarter of a mebibyte; beyond 4 MiB,
// what 20 Gbit/s have. On the shortest paths more only waits in the buffer, which
// falls out of the processor's cache: a bulk transfer through a TAP spent half its
// time on copying there.
func cacheable(rtt Time) int {
	rtt = min(rtt, Second)
	return int(min(256<<10+rtt*25/2, 4<<20+rtt*5/2))
}

// tuneSend lets the send buffer hold twice the congestion window, so that what
// is acknowledged can be followed at once, and what was selectively acknowledged
// beside it: behind a hole that takes up room and is no longer in flight.
func (c *Conn) tuneSend() {
	s := &c.snd
	if want := min(2*c.cwr.cwnd+c.sb.sacked, c.p.SendBufferMax, cacheable(c.rtt.min)); !s.fixed && want > s.limit && c.share(want) == want {
		s.limit = want
	}
	if limit := c.share(s.limit); s.full && limit-s.buf.len() >= limit/3 {
		s.full = false
		c.events |= Writable
	}
}

// advertise moves the right edge of the window as far as the buffer allows, and
// returns the window. RFC 9293 3.8.6.2.2: "a receiving TCP endpoint SHOULD NOT
// [...] advance the right edge in small increments": at least by
// min(Fr * RCV.BUFF, Eff.snd.MSS), and never back.
func (c *Conn) advertise() int {
	r := &c.rcv
	limit := c.share(r.limit)
	edge := r.nxt + Seq(max(limit-r.buf.n, 0))
	if c.finReceived() {
		return c.window()
	}
	// The field has 16 bits: an edge that it cannot express is not advertised.
	max16 := Seq(65535) << r.scale
	if r.nxt.Less(edge) && uint32(edge-r.nxt) > uint32(max16) {
		edge = r.nxt + max16
	}
	unit := Seq(1) << r.scale
	if r.buf.n == 0 && r.nxt.Less(edge) && edge-r.nxt < unit {
		edge = r.nxt + unit // or a buffer below the unit would never be offered
	}
	edge = r.nxt + (edge-r.nxt)/unit*unit
	if r.edge.Less(edge) && int(edge-r.edge) >= min(limit/2, r.mss) {
		r.edge, r.edgeMoved = edge, true
		r.maxEdge = maxSeq(r.maxEdge, edge)
	}
	return c.window()
}

// updateWindow sends a window update when the application has read enough that
// the peer should know of it at once.
func (c *Conn) updateWindow() {
	r := &c.rcv
	if !c.state.synchronized() || c.finReceived() {
		return
	}
	now := c.window()
	limit := c.share(r.limit)
	offered := limit
	if !r.edgeMoved {
		// Only the SYN has offered a window, which is never scaled. That it is
		// half of the buffer is no reason to tell of more: half of it has to be gone.
		offered = min(limit, int(r.synWnd))
	}
	room := min(max(limit-r.buf.n, 0), 65535<<r.scale)
	if 2*now <= offered && room >= 2*now && room-now >= min(limit/2, r.mss) {
		r.ackNow = true
	}
}
