package stack

import (
	"container/heap"

	"github.com/usernet/usernet/stack/tcp"
)

// A timerQueue holds connections whose next timer is due within a step or two of the timer wheel.
// They tick one after the other, each at its time or when the queue of its interface has room for
// what it sends: thousands that wait for room would otherwise stand before everyone else. The
// connections of an interface whose queue is full do not keep the others. If a connection has become
// active or has ended meanwhile, its tick does nothing.
type timerQueue struct {
	s *Stack

	mu      mutex[levelTimers]
	heap    timerHeap
	blocked map[*iface]*timersBlocked // by the interface whose queue is full
	alarm   alarm                     // for the first
	firing  bool                      // the alarm has fired, and connections tick
	closed  bool
}

// A timersBlocked holds the connections of a timerQueue that are due at an interface whose queue is
// full.
type timersBlocked struct {
	l    *timerQueue
	ifc  *iface
	list []*TCP
}

type timerEntry struct {
	at tcp.Time
	t  *TCP
}

// put schedules t.tick to run at time at, which must be non-zero.
func (l *timerQueue) put(t *TCP, now, at tcp.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	heap.Push(&l.heap, timerEntry{at, t})
	l.arm(now)
}

// arm sets the alarm for the first. The lock is held.
func (l *timerQueue) arm(now tcp.Time) {
	if len(l.heap) > 0 && !l.firing {
		l.alarm.set(now, l.heap[0].at, l)
	}
}

// fired has those tick whose time has come.
func (l *timerQueue) fired() {
	now := l.s.now()
	l.mu.Lock()
	if l.firing {
		l.mu.Unlock()
		return
	}
	l.alarm.over()
	l.firing = true
	for len(l.heap) > 0 {
		if l.heap[0].at > now {
			if now = l.s.now(); l.heap[0].at > now { // some time has passed
				break
			}
		}
		t := heap.Pop(&l.heap).(timerEntry).t
		l.mu.Unlock()
		ifc := t.link()
		wait := !ifc.tx.room() && l.block(ifc, t)
		if !wait {
			t.tick()
		}
		l.mu.Lock()
	}
	if cap(l.heap) > 1024 && len(l.heap) < cap(l.heap)/8 {
		l.heap = append([]timerEntry(nil), l.heap...)
	}
	l.firing = false
	l.arm(now)
	l.mu.Unlock()
}

// block keeps t until the interface's queue has room. It reports false if it has.
func (l *timerQueue) block(ifc *iface, t *TCP) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	b := l.blocked[ifc]
	if b == nil {
		b = &timersBlocked{l: l, ifc: ifc}
		if !ifc.await(b) {
			return false
		}
		if l.blocked == nil {
			l.blocked = make(map[*iface]*timersBlocked)
		}
		l.blocked[ifc] = b
	}
	b.list = append(b.list, t)
	return true
}

// txReady is called when the queue that was full has room again, or the interface is closed.
func (b *timersBlocked) txReady() {
	l := b.l
	now := l.s.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.blocked[b.ifc] == b {
		delete(l.blocked, b.ifc)
	}
	if l.closed {
		return
	}
	for _, t := range b.list {
		heap.Push(&l.heap, timerEntry{now, t})
	}
	b.list = nil
	l.arm(now)
}

// link is the interface on which the connection sends.
func (t *TCP) link() *iface {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.path.ifc
}

// A dueHeap has the earliest first, for container/heap.
type timerHeap []timerEntry

func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].at < h[j].at }
func (h timerHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *timerHeap) Push(e any)        { *h = append(*h, e.(timerEntry)) }

func (h *timerHeap) Pop() any {
	n := len(*h) - 1
	e := (*h)[n]
	(*h)[n] = timerEntry{}
	*h = (*h)[:n]
	return e
}

func (l *timerQueue) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed, l.heap, l.blocked = true, nil, nil
	l.alarm.close()
}
