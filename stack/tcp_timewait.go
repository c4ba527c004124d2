package stack

import (
	"sync/atomic"

	"github.com/usernet/usernet/stack/tcp"
)

// A timeWait is a connection in TIME-WAIT. It takes the place of the TCP in the table, so that the memory of
// the TCP can be freed.
type timeWait struct {
	tcpEntry   // entry in the table; first, as in TCP
	tcp.Waiter // the state machine; guarded by timeWaits.mu
	expires    tcp.Time
	prev, next *timeWait // in the list of timeWaits, ordered by expires
	gone       bool      // no longer in the table
}

// timeWaits holds the connections in TIME-WAIT. One alarm serves all of them.
type timeWaits struct {
	s     *Stack
	limit int

	queued atomic.Int32 // len(dials); stored with mu held, read without it

	mu     mutex[levelShared]
	first  *timeWait // head of the list: the first to expire
	last   *timeWait
	n      int                     // length of the list
	dials  map[dialEnds]*dialQueue // dials that wait for a port
	alarm  alarm                   // for the expiry of first and for dials
	closed bool
}

// init initializes w. limit is TCPConfig.TimeWaits.
func (w *timeWaits) init(s *Stack, limit int) {
	w.s = s
	w.limit = limit
	if w.limit <= 0 {
		w.limit = defaultTimeWaits
	}
}

// add replaces t in the table with a timeWait. If there are too many timeWaits, it drops the oldest. t.mu is
// held.
func (w *timeWaits) add(now tcp.Time, t *TCP) {
	tw := &timeWait{Waiter: t.conn.Waiter(now)}
	tw.key, tw.wait = t.key, tw
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.s.tcp.table.replace(&t.tcpEntry, &tw.tcpEntry) {
		return // t is no longer in the table
	}
	if w.n >= w.limit {
		w.s.counts.timeWaitOverflow.Add(1)
		w.drop(w.first)
	}
	w.append(now, tw)
	w.freeAt(&tw.key, w.takeAt(now, tw, tw.TSOffset()))
	w.arm(now)
}

// append sets the expiry of tw and appends it to the list. w.mu is held.
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

// unlink removes tw from the list. w.mu is held.
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

// drop removes tw from the list and from the table, so that a dial can take its tuple. w.mu is held.
func (w *timeWaits) drop(tw *timeWait) {
	w.unlink(tw)
	tw.gone = true
	w.s.tcp.table.remove(&tw.tcpEntry)
	w.freeAt(&tw.key, 1)
}

// takeAt returns the time from which an active open with the timestamp offset tsOffset may take the
// tuple of tw.
func (w *timeWaits) takeAt(now tcp.Time, tw *timeWait, tsOffset uint32) tcp.Time {
	if at := tw.ReopenAt(now, tsOffset); at != 0 && at < tw.expires {
		return at
	}
	return tw.expires
}

// take replaces tw in the table with t, which has the same tuple. If it must not do so yet, take returns
// false and the time from which it may. w.mu is not held.
func (w *timeWaits) take(now tcp.Time, tw *timeWait, t *TCP) (ok bool, at tcp.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if tw.gone {
		return false, now // try to insert t again
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

// arm sets the alarm for the next expiry, or for the time when a dial has to search for a port again, whichever
// is first. w.mu is held.
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

// fired drops the expired entries, and wakes the dials that have to search for a port. The alarm calls it.
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

// segment handles a received segment for the tuple of tw, and reports whether it did. It returns false if tw
// ended before, or if seg is a SYN that may open a new connection. The caller then looks up the tuple again.
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
		// RFC 6191 allows the SYN to open a new connection. If no listener can open it, RFC 5961 4.2
		// applies: "TCP endpoints MUST send a challenge ACK".
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

// close drops all entries, and makes the dials that wait fail with net.ErrClosed.
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
