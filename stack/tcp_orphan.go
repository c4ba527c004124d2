package stack

import (
	"sync/atomic"
	"time"

	"github.com/usernet/usernet/stack/tcp"
)

const (
	// defaultOrphans bounds the connections that the application has closed and that
	// are not over.
	defaultOrphans = 32768
	// stallAfter is how old an orphan is before it can be taken for stalled, and
	// stallTime, how long the rest of its data may take at the pace so far.
	stallAfter = 2 * tcp.Second
	stallTime  = 60 * tcp.Second
	// reclaimEvery is the time between two runs of the reclaimer under memory pressure.
	reclaimEvery = tcp.Time(250 * time.Millisecond)
	// reclaimBatch is how many orphans are looked at each time.
	reclaimBatch = 64
)

// orphans lists the connections that the application has closed and that are neither over
// nor in TIME-WAIT. Nobody but the stack can end one whose peer does not let its data out.
//
// They stand in two lists, in the order in which they were closed: those with data that is
// not acknowledged, which hold memory, and those that wait for the peer's FIN or for the
// acknowledgement of theirs. TCP.orphan is a connection's slot, negative in the second list.
type orphans struct {
	limit int

	mu    mutex[levelTable]
	slots []orphanSlot // made on first use; the first two are the heads of the lists
	free  int32        // the first free slot, which others follow by next; 0: none
	n     [2]int       // orphans in each list
}

// The lists of orphans.
const (
	orphanData = iota // with data that is not acknowledged
	orphanFIN         // without
)

// An orphanSlot is a place in one of two circular lists.
type orphanSlot struct {
	t          *TCP
	prev, next int32
	list       uint8
	at         tcp.Time // when the connection was closed
	bytes      int      // that were not acknowledged then
}

// track enters a closed connection into the list that it belongs to, or takes it out when
// it is over. The lock of t is held.
func (o *orphans) track(now tcp.Time, t *TCP) {
	unacked := t.conn.Unacked()
	list := uint8(orphanFIN)
	if unacked > 0 {
		list = orphanData
	}
	gone := !t.linked || t.conn.State() == tcp.Closed
	if slot, in := t.orphanSlot(); gone && slot == 0 || !gone && slot != 0 && in == list {
		return // without the lock that all orphans share: so it is for most of their segments
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	i, _ := t.orphanSlot()
	if i == 0 {
		i = o.take()
		o.slots[i] = orphanSlot{t: t, at: now, bytes: unacked}
	} else {
		o.unlink(i)
	}
	if gone {
		o.release(i)
		t.orphan = 0
		return
	}
	o.link(i, list)
	if t.orphan = i; list == orphanFIN {
		t.orphan = -i
	}
}

// orphanSlot returns the connection's slot among the orphans, or 0, and the list that it is in. t.mu
// is held.
func (t *TCP) orphanSlot() (slot int32, list uint8) {
	if t.orphan < 0 {
		return -t.orphan, orphanFIN
	}
	return t.orphan, orphanData
}

// take returns a free slot. o.mu is held.
func (o *orphans) take() int32 {
	if o.slots == nil {
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

// release makes slot i free. o.mu is held.
func (o *orphans) release(i int32) {
	o.slots[i] = orphanSlot{next: o.free}
	o.free = i
	if o.count() == 0 && len(o.slots) > 1024 {
		o.slots, o.free = nil, 0
	}
}

// link puts slot i at the end of a list. o.mu is held.
func (o *orphans) link(i int32, list uint8) {
	s, head := &o.slots[i], &o.slots[list]
	s.list, s.prev, s.next = list, head.prev, int32(list)
	o.slots[head.prev].next = i
	head.prev = i
	o.n[list]++
}

// unlink takes slot i out of its list. o.mu is held.
func (o *orphans) unlink(i int32) {
	s := &o.slots[i]
	o.slots[s.prev].next, o.slots[s.next].prev = s.next, s.prev
	o.n[s.list]--
}

// count is the number of orphans. o.mu is held.
func (o *orphans) count() int { return o.n[orphanData] + o.n[orphanFIN] }

// stats returns how many orphans there are.
func (o *orphans) stats() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.count()
}

// oldest returns the first orphan of a list with what was noted when it was closed, or a
// zero slot.
func (o *orphans) oldest(list int) orphanSlot {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.n[list] == 0 {
		return orphanSlot{}
	}
	return o.slots[o.slots[list].next]
}

// excess returns the oldest orphan of the longer list where there are more than limit, or
// a zero slot.
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

// spare puts an orphan at the end of its list, to be looked at after all others. The lock
// of t is held.
func (o *orphans) spare(t *TCP) {
	o.mu.Lock()
	defer o.mu.Unlock()
	i, list := t.orphanSlot()
	o.unlink(i)
	o.link(i, list)
}

// stalled reports whether the data of an orphan that was closed age ago, with so many bytes
// not acknowledged then and left of them now, would at that pace take longer than stallTime
// from now on.
func stalled(age tcp.Time, bytes, left int) bool {
	done := bytes - left
	return age >= stallAfter && (done <= 0 || float64(left)*float64(age) > float64(stallTime)*float64(done))
}

// resetOrphan ends a connection that nobody owns, if it still is one. Where only a stalled
// one is to be ended, others are put at the end of their list.
func (s *Stack) resetOrphan(now tcp.Time, o orphanSlot, onlyStalled bool) {
	t := o.t
	t.mu.Lock()
	now = max(now, t.lastRun)
	switch {
	case t.orphan == 0:
		t.mu.Unlock()
		return
	case onlyStalled && !stalled(now-o.at, o.bytes, t.conn.Unacked()):
		s.tcp.orphans.spare(t)
		t.mu.Unlock()
		return
	}
	t.conn.Abort(now)
	ev := t.run(now)
	t.mu.Unlock()
	t.report(ev)
	s.counts.orphansReset.Add(1)
}

// limitOrphans resets the oldest orphans while there are too many, and sends the resets: the
// caller may wait afterwards. No lock is held.
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

// pressure reports memory pressure: buffers do not grow, and what nobody owns or needs
// is given up. It begins at three quarters of the budget, so that what connections may
// always have finds its place in the rest.
func (ts *tcpState) pressure() bool { return ts.used.Load() >= ts.memory/4*3 }

// admits reports whether there is memory for one more connection, if need be after
// taking some from orphans and from data that was not acknowledged. No lock is held.
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

// reclaim gets memory back under memory pressure. It resets orphans that are stalled, oldest
// first, and then has all connections give up what their buffers hold in vain. With hard
// set it resets orphans whether they are stalled or not, until there is some memory to
// give. No lock is held.
func (s *Stack) reclaim(now tcp.Time, hard bool) {
	ts := &s.tcp
	short := func() bool { return hard && ts.used.Load() >= ts.memory || !hard && ts.pressure() }
	for range reclaimBatch {
		o := ts.orphans.oldest(orphanData)
		if o.t == nil || !short() {
			break
		}
		s.resetOrphan(now, o, !hard)
	}
	if short() {
		s.reclaimBuffers(now, hard)
	}
}

// reclaimBuffers has every connection give up what it holds in vain. That takes as long as
// there are connections, so it is done at most once in a second.
func (s *Stack) reclaimBuffers(now tcp.Time, all bool) {
	ts := &s.tcp
	last := ts.reclaimed.Load()
	if last != 0 && now-tcp.Time(last) < tcp.Second || !ts.reclaimed.CompareAndSwap(last, int64(now)) {
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

// A reclaimer gets memory back from time to time under memory pressure.
type reclaimer struct {
	s     *Stack
	armed atomic.Bool

	mu    mutex[levelTable]
	alarm alarm
}

// kick sets the alarm, unless it is set. The lock of a connection may be held.
func (r *reclaimer) kick() {
	if r.armed.Load() || !r.armed.CompareAndSwap(false, true) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.s.now()
	r.alarm.set(now, now+reclaimEvery, r)
}

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

func (r *reclaimer) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.alarm.close()
}
