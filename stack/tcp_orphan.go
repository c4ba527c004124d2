package stack

import (
	"sync/atomic"
	"time"

	"github.com/usernet/usernet/stack/tcp"
)

const (
	// defaultOrphans is the default maximum number of orphans.
	defaultOrphans = 32768
	// An orphan counts as stalled if it was closed at least stallAfter ago, and the peer needs more than
	// stallTime to acknowledge the remaining data at the average rate since the close.
	stallAfter = 2 * tcp.Second
	stallTime  = 60 * tcp.Second
	// reclaimEvery is the time between two runs of the reclaimer under memory pressure.
	reclaimEvery = tcp.Time(250 * time.Millisecond)
	// reclaimBatch is the maximum number of orphans that one call of reclaim examines. The reclaimer calls
	// it, and so does admits for each new connection.
	reclaimBatch = 64
	// examineEvery is the minimum time between two examinations of an orphan that is not stalled, and
	// between two passes of reclaimBuffers of the same kind. Without it, each SYN of a flood would cost a
	// walk over many connections.
	examineEvery = tcp.Second
)

// orphans holds the orphans: the connections that the application has closed, except those in CLOSED or
// in TIME-WAIT. If the peer does not accept the data of an orphan, only the stack can end the connection.
//
// There are two lists. The list orphanData has the orphans with unacknowledged data, which hold memory.
// The list orphanFIN has the orphans that only wait for the peer's FIN or for the ACK of their own FIN.
// Each list is ordered by linkedAt: track and spare put an orphan at the end. So the first orphan is the
// one that has waited longest since it was closed, came from the other list, or was spared.
//
// TCP.orphan is a connection's slot, negated if it is in the list orphanFIN.
type orphans struct {
	limit int

	mu    mutex[levelTable]
	slots []orphanSlot // allocated on first use; the first two are the heads of the lists
	free  int32        // head of the list of free slots, linked by next; 0: none
	n     [2]int       // number of orphans in each list
}

// Indexes of the two lists of orphans.
const (
	orphanData = iota // with unacknowledged data
	orphanFIN         // without unacknowledged data
)

// An orphanSlot is an element of one of the two circular lists.
type orphanSlot struct {
	t              *TCP
	prev, next     int32
	list           uint8
	linkedAt       tcp.Time // when the slot was put at the end of its list
	closedAt       tcp.Time // when the connection was closed
	unackedAtClose int      // number of bytes that were unacknowledged then
}

// track puts a closed connection into the list for its state, moves it there from the other list, or
// removes it if it is no longer an orphan. t.mu is held.
func (o *orphans) track(now tcp.Time, t *TCP) {
	unacked := t.conn.Unacked()
	list := uint8(orphanFIN)
	if unacked > 0 {
		list = orphanData
	}
	gone := !t.linked || t.conn.State() == tcp.Closed
	i, was := t.orphanSlot()
	tracked := i != 0
	if gone && !tracked || !gone && tracked && was == list {
		return // nothing changes, as for most segments; skip the shared lock
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if tracked {
		o.unlink(i)
	} else {
		i = o.take()
		o.slots[i] = orphanSlot{t: t, closedAt: now, unackedAtClose: unacked}
	}
	if gone {
		o.release(i)
		t.orphan = 0
		return
	}
	o.link(now, i, list)
	t.orphan = i
	if list == orphanFIN {
		t.orphan = -i // negated in orphanFIN
	}
}

// orphanSlot returns the connection's slot and its list. The slot is 0 if the connection is not an
// orphan. t.mu is held.
func (t *TCP) orphanSlot() (slot int32, list uint8) {
	if t.orphan < 0 {
		return -t.orphan, orphanFIN
	}
	return t.orphan, orphanData
}

// take returns a free slot. o.mu is held.
func (o *orphans) take() int32 {
	if o.slots == nil {
		// Both lists are empty, so each head points to itself. For head 0 that is the zero value.
		o.slots = make([]orphanSlot, 2, 16)
		o.slots[orphanFIN].prev, o.slots[orphanFIN].next = orphanFIN, orphanFIN
	}
	i := o.free
	if i == 0 {
		o.slots = append(o.slots, orphanSlot{})
		return int32(len(o.slots) - 1)
	}
	o.free = o.slots[i].next
	return i
}

// release frees slot i. o.mu is held.
func (o *orphans) release(i int32) {
	o.slots[i] = orphanSlot{next: o.free}
	o.free = i
	if o.count() == 0 && len(o.slots) > 1024 {
		o.slots, o.free = nil, 0 // free the memory of a burst
	}
}

// link puts slot i at the end of a list. o.mu is held.
func (o *orphans) link(now tcp.Time, i int32, list uint8) {
	s, head := &o.slots[i], &o.slots[list]
	s.linkedAt = now
	s.list, s.prev, s.next = list, head.prev, int32(list)
	o.slots[head.prev].next = i
	head.prev = i
	o.n[list]++
}

// unlink removes slot i from its list. o.mu is held.
func (o *orphans) unlink(i int32) {
	s := &o.slots[i]
	o.slots[s.prev].next, o.slots[s.next].prev = s.next, s.prev
	o.n[s.list]--
}

// count returns the number of orphans. o.mu is held.
func (o *orphans) count() int { return o.n[orphanData] + o.n[orphanFIN] }

// stats is count for a caller that does not hold o.mu.
func (o *orphans) stats() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.count()
}

// first returns a copy of the first slot of a list, or a zero slot if the list is empty.
func (o *orphans) first(list int) orphanSlot {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.n[list] == 0 {
		return orphanSlot{}
	}
	return o.slots[o.slots[list].next]
}

// excess returns a copy of the first slot of the longer list if there are more than limit orphans, and
// otherwise a zero slot.
func (o *orphans) excess() orphanSlot {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.count() <= o.limit {
		return orphanSlot{}
	}
	list := orphanData
	if o.n[orphanFIN] > o.n[orphanData] {
		list = orphanFIN
	}
	return o.slots[o.slots[list].next]
}

// spare moves an orphan to the end of its list, so that reclaim examines all others first. t.mu is held.
func (o *orphans) spare(now tcp.Time, t *TCP) {
	o.mu.Lock()
	defer o.mu.Unlock()
	i, list := t.orphanSlot()
	o.unlink(i)
	o.link(now, i, list)
}

// stalled reports whether an orphan is stalled: see stallAfter. age is the time since the orphan was
// closed. atClose is the number of unacknowledged bytes at the close, and left is that number now.
func stalled(age tcp.Time, atClose, left int) bool {
	done := atClose - left
	switch {
	case age < stallAfter:
		return false
	case done <= 0:
		return true
	}
	// left / (done/age) > stallTime, without the division
	return float64(left)*float64(age) > float64(stallTime)*float64(done)
}

// resetOrphan resets the connection of o if it still is an orphan. If onlyStalled is set and the orphan
// is not stalled, resetOrphan moves the orphan to the end of its list instead.
func (s *Stack) resetOrphan(now tcp.Time, o orphanSlot, onlyStalled bool) {
	t := o.t
	t.mu.Lock()
	now = max(now, t.lastRun) // another goroutine may have run t since now was read
	switch {
	case t.orphan == 0: // the connection has ended since o was copied
		t.mu.Unlock()
		return
	case onlyStalled && !stalled(now-o.closedAt, o.unackedAtClose, t.conn.Unacked()):
		s.tcp.orphans.spare(now, t)
		t.mu.Unlock()
		return
	}
	t.conn.Abort(now)
	ev := t.run(now)
	t.mu.Unlock()
	t.report(ev)
	s.counts.orphansReset.Add(1)
}

// limitOrphans resets orphans while there are more than the limit: the first of the longer list. It also
// transmits the RSTs, because the caller may wait next. The caller must not hold a lock.
func (s *Stack) limitOrphans() {
	o := s.tcp.orphans.excess()
	if o.t == nil {
		return
	}
	for ; o.t != nil; o = s.tcp.orphans.excess() {
		s.resetOrphan(s.now(), o, false)
	}
	s.drain()
}

// pressure reports memory pressure: whether at least three quarters of the budget are in use. Under memory
// pressure, buffers do not grow, and the stack frees memory that is not needed. The last quarter is for
// the minimum that each connection may use at any time.
func (ts *tcpState) pressure() bool { return ts.used.Load() >= ts.memory/4*3 }

// admits reports whether there is memory for one more connection. Under memory pressure it first frees
// memory. The caller must not hold a lock.
func (s *Stack) admits(now tcp.Time) bool {
	ts := &s.tcp
	if !ts.pressure() {
		return true
	}
	s.reclaim(now, false)
	if ts.used.Load() >= ts.memory {
		s.reclaim(now, true)
	}
	return ts.used.Load() < ts.memory
}

// reclaim frees memory. It resets stalled orphans until there is no memory pressure. If hard is set, it
// resets orphans whether or not they are stalled, until less than the whole budget is in use. If that is
// not enough, it calls reclaimBuffers. The caller must not hold a lock.
func (s *Stack) reclaim(now tcp.Time, hard bool) {
	ts := &s.tcp
	short := func() bool { return hard && ts.used.Load() >= ts.memory || !hard && ts.pressure() }
	for range reclaimBatch {
		if !short() {
			return
		}
		o := ts.orphans.first(orphanData)
		if o.t == nil || !hard && now-o.linkedAt < examineEvery {
			break // the orphans after o have been examined or closed even later
		}
		s.resetOrphan(now, o, !hard)
	}
	if short() {
		s.reclaimBuffers(now, hard)
	}
}

// reclaimBuffers calls Reclaim(now, all) on every tcp.Conn. It does nothing if less than examineEvery has
// passed since it last did this with the same all, because a pass over all connections takes long.
func (s *Stack) reclaimBuffers(now tcp.Time, all bool) {
	ts := &s.tcp
	at := &ts.reclaimedSoft
	if all {
		at = &ts.reclaimedHard
	}
	last := at.Load()
	if last != 0 && now-tcp.Time(last) < examineEvery || !at.CompareAndSwap(last, int64(now)) {
		return
	}
	var socks []*TCP
	for i := range tcpShards {
		socks = ts.table.parts()[i].sockets(socks[:0])
		for _, t := range socks {
			t.mu.Lock()
			t.conn.Reclaim(now, all)
			t.mu.Unlock()
		}
	}
}

// A reclaimer calls reclaim at intervals of reclaimEvery while there is memory pressure.
type reclaimer struct {
	s     *Stack
	armed atomic.Bool // the alarm is set, or fired is running

	mu    mutex[levelTable]
	alarm alarm
}

// kick sets the alarm unless it is already set. The caller may hold the lock of a connection.
func (r *reclaimer) kick() {
	if r.armed.Load() || !r.armed.CompareAndSwap(false, true) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.s.now()
	r.alarm.set(now, now+reclaimEvery, r)
}

// fired calls reclaim, and sets the alarm again if there still is memory pressure. The alarm calls fired.
func (r *reclaimer) fired() {
	r.mu.Lock()
	r.alarm.over()
	r.mu.Unlock()
	r.s.reclaim(r.s.now(), false)
	r.s.drain()
	r.armed.Store(false)
	if r.s.tcp.pressure() {
		r.kick()
	}
}

// close stops the alarm.
func (r *reclaimer) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.alarm.close()
}
