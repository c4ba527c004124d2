package stack

import (
	"sync/atomic"

	"github.com/usernet/usernet/stack/tcp"
)

// A timeWait is a connection in TIME-WAIT: its state is over, its tuple taken.
type timeWait struct {
	tcpEntry // its place in the table; first, as in a TCP
	tcp.Waiter
	expires    tcp.Time
	prev, next *timeWait // in the order of expiry
	gone       bool      // it has left the table
}

// timeWaits holds the connections in TIME-WAIT, with one alarm for all.
type timeWaits struct {
	s     *Stack
	limit int

	queued atomic.Int32 // len(dials), to be read without mu

	mu     mutex[levelShared]
	first  *timeWait // expires first
	last   *timeWait
	n      int
	dials  map[dialEnds]*dialQueue // the dials that wait for a port
	alarm  alarm                   // for the first, and the dials
	closed bool
}

func (w *timeWaits) init(s *Stack, limit int) {
	w.s = s
	w.limit = limit
	if w.limit <= 0 {
		w.limit = defaultTimeWaits
	}
}

// add puts a Waiter into the place of a connection.
func (w *timeWaits) add(now tcp.Time, t *TCP) {
	tw := &timeWait{Waiter: t.conn.Waiter(now)}
	tw.key, tw.wait = t.key, tw
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.s.tcp.table.replace(&t.tcpEntry, &tw.tcpEntry) {
		return
	}
	if w.n >= w.limit {
		w.s.counts.timeWaitOverflow.Add(1)
		w.drop(w.first)
	}
	w.append(now, tw)
	w.freeAt(&tw.key, w.takeAt(now, tw, tw.TSOffset()))
	w.arm(now)
}

// append makes tw the last to expire. w.mu is held.
func (w *timeWaits) append(now tcp.Time, tw *timeWait) {
	tw.expires = now + w.s.tcp.params.TimeWait
	tw.prev, tw.next = w.last, nil
	if w.last != nil {
		w.last.next = tw
	} else {
		w.first = tw
	}
	w.last = tw
	w.n++
}

// unlink takes tw out of the order. w.mu is held.
func (w *timeWaits) unlink(tw *timeWait) {
	if tw.prev != nil {
		tw.prev.next = tw.next
	} else {
		w.first = tw.next
	}
	if tw.next != nil {
		tw.next.prev = tw.prev
	} else {
		w.last = tw.prev
	}
	tw.prev, tw.next = nil, nil
	w.n--
}

// drop ends tw for good. w.mu is held.
func (w *timeWaits) drop(tw *timeWait) {
	w.unlink(tw)
	tw.gone = true
	w.s.tcp.table.remove(&tw.tcpEntry)
	w.freeAt(&tw.key, 1)
}

// takeAt returns when an active open whose timestamps have tsOffset may take the
// tuple of tw.
func (w *timeWaits) takeAt(now tcp.Time, tw *timeWait, tsOffset uint32) tcp.Time {
	if at := tw.ReopenAt(now, tsOffset); at != 0 && at < tw.expires {
		return at
	}
	return tw.expires
}

// take puts t, which has the tuple of tw, into its place. If t may not have it yet,
// take returns when it may.
func (w *timeWaits) take(now tcp.Time, tw *timeWait, t *TCP) (ok bool, at tcp.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if tw.gone {
		return false, now
	}
	if at := w.takeAt(now, tw, t.path.tsOffset); at > now {
		return false, at
	}
	if !w.s.tcp.table.replace(&tw.tcpEntry, &t.tcpEntry) {
		return false, now
	}
	w.unlink(tw)
	tw.gone = true
	return true, now
}

// arm sets the alarm for whatever is first. w.mu is held.
func (w *timeWaits) arm(now tcp.Time) {
	var at tcp.Time
	if w.first != nil {
		at = w.first.expires
	}
	for _, q := range w.dials {
		if q.at != 0 && (at == 0 || q.at < at) {
			at = q.at
		}
	}
	if at != 0 && !w.s.closed.Load() {
		w.alarm.set(now, max(at, now+tcp.Millisecond), w)
	}
}

// fired ends those whose time has come, and wakes the dials that wait for a port.
func (w *timeWaits) fired() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.alarm.over()
	now := w.s.now()
	for w.first != nil && w.first.expires <= now {
		w.drop(w.first)
	}
	for _, q := range w.dials {
		q.wake(now)
	}
	w.arm(now)
}

// segment answers what comes for a connection in TIME-WAIT. It reports false where
// the place is free: that connection has just ended, or the segment may begin a new one.
func (w *timeWaits) segment(now tcp.Time, tw *timeWait, seg *tcp.Segment) bool {
	var out tcp.Segment
	w.mu.Lock()
	if tw.gone {
		w.mu.Unlock()
		return false
	}
	v := tw.Waiter.Segment(now, seg, &out)
	switch v {
	case tcp.WaitRestart:
		w.unlink(tw)
		w.append(now, tw)
	case tcp.WaitReuse:
		// RFC 6191: only where there is someone to take it. RFC 5961 4.2: otherwise
		// "TCP endpoints MUST send a challenge ACK".
		if w.s.tcp.listeners.find(tw.key.local(), tw.key.zone()) == nil {
			v = tcp.WaitAck
		} else {
			w.drop(tw)
		}
	case tcp.WaitEnd:
		w.drop(tw)
	}
	w.mu.Unlock()
	if (v == tcp.WaitAck || v == tcp.WaitRestart) && out.Flags != 0 {
		w.s.sendLone(tw.key.local(), tw.key.remote(), tw.key.zone(), &out)
	}
	return v != tcp.WaitReuse
}

func (w *timeWaits) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	for w.first != nil {
		w.drop(w.first)
	}
	for _, q := range w.dials {
		for _, d := range q.waiting {
			d.cond.Signal()
		}
	}
	w.alarm.close()
}
