package tcp

import (
	"fmt"
	"sort"
)

// checkConn returns an error for the first invariant that a Conn violates, or nil. The caller must have
// called Next until it returned false.
func checkConn(c *Conn) error {
	defer activated(c)()
	for _, f := range []func(*Conn) error{checkSend, checkBoard, checkRecv, checkLiveness} {
		if err := f(c); err != nil {
			return fmt.Errorf("%v: %w", c.state, err)
		}
	}
	return nil
}

// checkSend checks the send sequence space, the send buffer and the congestion window.
func checkSend(c *Conn) error {
	s := &c.snd
	if s.nxt.Less(s.una) {
		return fmt.Errorf("SND.NXT %d before SND.UNA %d", s.nxt-s.iss, s.una-s.iss)
	}
	if n := uint64(s.nxt - s.una); n > uint64(s.maxWnd) && c.state.synchronized() {
		return fmt.Errorf("%d in flight, the largest window ever offered is %d", n, s.maxWnd)
	}
	if s.mss < leastMSS-12 || c.segSize() < minData {
		return fmt.Errorf("MSS %d, segments of %d", s.mss, c.segSize())
	}
	if len(s.buf.ring.b)&(len(s.buf.ring.b)-1) != 0 || s.buf.ring.n > len(s.buf.ring.b) {
		return fmt.Errorf("send ring of %d holds %d", len(s.buf.ring.b), s.buf.ring.n)
	}
	finAcked := s.finSent && s.una == s.nxt
	if c.state.synchronized() && !finAcked && s.finSent != (s.nxt == c.dataEnd()+1) {
		return fmt.Errorf("finSent %v with SND.NXT %d and the data's end %d", s.finSent, s.nxt-s.iss, c.dataEnd()-s.iss)
	}
	w := &c.cc
	if w.cwnd <= 0 || c.rec.phase != phaseRecovery && c.state != Closed && w.cwnd < min(s.mss, minMSS) {
		return fmt.Errorf("cwnd %d in phase %d, MSS %d", w.cwnd, c.rec.phase, s.mss)
	}
	if w.ssthresh < 2*(leastMSS-12) {
		return fmt.Errorf("ssthresh %d", w.ssthresh)
	}
	return nil
}

// activated activates an idle Conn, and returns a function that makes it idle again.
func activated(c *Conn) func() {
	if c.active != nil {
		return func() {}
	}
	c.activate(c.rcv.last)
	return c.deactivate
}

// largest returns the maximum payload of a segment, including path MTU probes.
func largest(c *Conn) int {
	if c.active == nil {
		return c.snd.mss
	}
	if c.pl != nil {
		return max(c.snd.mss, c.pl.max)
	}
	return c.snd.mss
}

// checkBoard compares the counters of the scoreboard with its pieces.
func checkBoard(c *Conn) error {
	defer activated(c)()
	b := &c.sb
	if !c.state.synchronized() || c.state == TimeWait {
		if b.n != 0 {
			return fmt.Errorf("%d pieces in flight", b.n)
		}
		return nil
	}
	if err := checkTree(c); err != nil {
		return err
	}
	at := c.snd.una
	var sacked, lost, resent, due int // bytes; due: lost and not retransmitted yet
	i, before := -1, sent{}
	for k := b.firstPiece(); k.c != nil; k = b.next(k) {
		s := *k.sent()
		i++
		if s.flags&before.flags&segSacked != 0 {
			return fmt.Errorf("pieces %d and %d are both SACKed and are not joined", i-1, i)
		}
		before = s
		if s.seq != at || !s.seq.Less(s.end) {
			return fmt.Errorf("piece %d is %d..%d, the one before ended at %d", i, s.seq-c.snd.iss, s.end-c.snd.iss, at-c.snd.iss)
		}
		at = s.end
		n := s.len()
		if s.flags&segSacked != 0 {
			sacked += n
			if s.flags&(segLost|segResent) != 0 {
				return fmt.Errorf("piece %d is SACKed and has flags %b", i, s.flags)
			}
		}
		if s.flags&segLost != 0 {
			lost += n
			if s.flags&segResent == 0 {
				due += n
			}
		}
		if s.flags&segResent != 0 {
			resent += n
			if s.flags&segEverResent == 0 {
				return fmt.Errorf("piece %d was sent again and is not marked as sent again", i)
			}
			if !queued(b, s) {
				return fmt.Errorf("piece %d was sent again and RACK will not look at it", i)
			}
		}
	}
	if at != c.snd.nxt {
		return fmt.Errorf("the pieces end at %d, SND.NXT is %d", at-c.snd.iss, c.snd.nxt-c.snd.iss)
	}
	if sacked != b.sacked || lost != b.lost || resent != b.resent || due != b.due {
		return fmt.Errorf("sacked %d lost %d resent %d due %d, counted %d %d %d %d",
			b.sacked, b.lost, b.resent, b.due, sacked, lost, resent, due)
	}
	if b.reno < 0 || b.reno > int(c.snd.nxt-c.snd.una) {
		return fmt.Errorf("reno %d of %d in flight", b.reno, c.snd.nxt-c.snd.una)
	}
	return nil
}

// checkTree checks the balance and the links of the scoreboard's tree, and the counts in its nodes.
func checkTree(c *Conn) error {
	b := &c.sb
	count, pieces := 0, 0
	var walk func(n, up *chunk) (height int8, below sentKind, err error)
	walk = func(n, up *chunk) (int8, sentKind, error) {
		if n == nil {
			return 0, 0, nil
		}
		count++
		var kinds [kindAny + 1]uint8
		for i := range n.list[n.head:] {
			kinds[n.list[n.head+i].kind()]++
			pieces++
		}
		lh, lk, err := walk(n.left, n)
		if err != nil {
			return 0, 0, err
		}
		rh, rk, err := walk(n.right, n)
		switch {
		case err != nil:
			return 0, 0, err
		case n.up != up:
			return 0, 0, fmt.Errorf("a chunk has the wrong parent")
		case n.live() == 0 || n.live() > chunkLen || n.count != kinds:
			return 0, 0, fmt.Errorf("a chunk has %d pieces and counts %d as %d", n.live(), kinds, n.count)
		case lh-rh > 1 || rh-lh > 1 || n.height != 1+max(lh, rh):
			return 0, 0, fmt.Errorf("a chunk of height %d has %d and %d below it", n.height, lh, rh)
		case n.below != lk|rk|n.kinds():
			return 0, 0, fmt.Errorf("a chunk lists the kinds %b, and has %b below it", n.below, lk|rk|n.kinds())
		}
		return n.height, n.below, nil
	}
	if _, _, err := walk(b.root, nil); err != nil {
		return err
	}
	if pieces != b.n {
		return fmt.Errorf("%d pieces, counted %d", b.n, pieces)
	}
	if (b.first == nil) != (b.n == 0) || b.n > 0 && (b.first.prev() != nil || b.last.next() != nil) {
		return fmt.Errorf("first and last are not at the ends")
	}
	for n := b.free; n != nil; n = n.up {
		count++
	}
	if count != b.chunks+1 {
		return fmt.Errorf("%d chunks were made, counted %d", b.chunks+1, count)
	}
	return nil
}

// queued reports whether a retransmitted piece is in the queue of retransmissions.
func queued(b *scoreboard, s sent) bool {
	for _, e := range b.again[b.againHead:] {
		if e.seq == s.seq && e.at == s.at {
			return true
		}
	}
	return false
}

// checkRecv checks the receive sequence space, the receive ring and the out-of-order queue.
func checkRecv(c *Conn) error {
	r := &c.rcv
	if !c.state.synchronized() && c.state != SynReceived {
		return nil
	}
	if r.edge.Less(r.nxt) && !(c.finReceived() && r.edge+1 == r.nxt) {
		return fmt.Errorf("RCV.NXT %d beyond the window's edge %d", r.nxt-r.irs, r.edge-r.irs)
	}
	if len(r.buf.b)&(len(r.buf.b)-1) != 0 || r.buf.n > len(r.buf.b) {
		return fmt.Errorf("receive ring of %d holds %d", len(r.buf.b), r.buf.n)
	}
	last := r.nxt
	ooo := r.ooo.blocks()
	for i, k := range ooo {
		if !last.Less(k.start) || !k.start.Less(k.end) {
			return fmt.Errorf("block %d is %d..%d after %d", i, k.start-r.irs, k.end-r.irs, last-r.irs)
		}
		last = k.end
	}
	if err := r.ooo.check(); err != nil {
		return err
	}
	if n := len(ooo); n > 0 {
		if r.edge.Less(last) {
			return fmt.Errorf("a block ends at %d beyond the window's edge %d", last-r.irs, r.edge-r.irs)
		}
		if r.buf.n+int(last-r.nxt) > len(r.buf.b) {
			return fmt.Errorf("the ring of %d does not hold %d and blocks up to %d", len(r.buf.b), r.buf.n, last-r.nxt)
		}
		if n > maxHoles {
			return fmt.Errorf("%d blocks", n)
		}
	}
	for _, k := range r.sack[:r.nsack] {
		i := sort.Search(len(ooo), func(i int) bool { return k.start.Less(ooo[i].end) })
		if i == len(ooo) || k.start.Less(ooo[i].start) || ooo[i].end.Less(k.end) {
			return fmt.Errorf("the SACK block %d..%d has not arrived", k.start-r.irs, k.end-r.irs)
		}
	}
	if r.fin && r.finSeq.Less(last) && !c.finReceived() {
		return fmt.Errorf("the FIN is at %d, but data up to %d has arrived", r.finSeq-r.irs, last-r.irs)
	}
	return nil
}

// checkLiveness checks that a connection has a deadline if it has something left to do.
func checkLiveness(c *Conn) error {
	t := &c.timers
	switch {
	case c.state == Closed:
		if d, ok := c.Deadline(); ok {
			return fmt.Errorf("a deadline %d", d)
		}
		return nil
	case c.state == TimeWait:
		if t.wait == 0 {
			return fmt.Errorf("nothing ends it")
		}
		return nil
	case c.state == SynSent || c.state == SynReceived:
		if t.rtx == 0 {
			return fmt.Errorf("the SYN is not sent again")
		}
		return nil
	}
	if c.snd.una != c.snd.nxt {
		if t.rtx == 0 && (!c.shut() || t.persist == 0) {
			return fmt.Errorf("%d in flight, window %d, and no timer", c.snd.nxt-c.snd.una, c.snd.wnd)
		}
	} else if (c.unsent() > 0 || c.snd.fin && !c.snd.finSent) && t.persist == 0 && c.cc.pace.deadline() == 0 {
		return fmt.Errorf("%d unsent, window %d, cwnd %d, nothing in flight and no timer", c.unsent(), c.snd.wnd, c.cc.cwnd)
	}
	if n := c.rcv.nxt - c.rcv.lastAck; n != 0 && t.ack == 0 {
		return fmt.Errorf("%d sequence numbers were received and no timer will acknowledge them", n)
	}
	if c.orphan && c.state == FinWait2 && t.wait == 0 {
		return fmt.Errorf("an orphan that nothing ends")
	}
	return nil
}

// legal has the transitions of RFC 9293 figure 5 that a Conn can make. It also has the pairs of
// transitions that one segment can cause, as one transition. Every state may also become CLOSED.
var legal = map[State][]State{
	SynSent:     {SynReceived, Established, CloseWait},
	SynReceived: {Established, FinWait1, FinWait2, CloseWait, Closing},
	Established: {FinWait1, CloseWait},
	FinWait1:    {FinWait2, Closing, TimeWait},
	FinWait2:    {TimeWait},
	CloseWait:   {LastAck},
	Closing:     {TimeWait},
}

func legalMove(from, to State) bool {
	if from == to || to == Closed {
		return true
	}
	for _, s := range legal[from] {
		if s == to {
			return true
		}
	}
	return false
}
