package stack

import (
	"container/heap"
	"sync"
	"time"

	"github.com/usernet/usernet/stack/tcp"
)

// A dueList has the connections that the wheel has let go of because they will have
// something to do within a step or two. They tick one after the other, each at its
// time, or when there is room for what they send: thousands that wait for it would stand
// before everyone else. Those of an interface whose queue is full do not keep the others.
// One that has become busy or has ended meanwhile ticks for nothing, which does no harm.
type dueList struct {
	s *Stack

	mu      sync.Mutex
	heap    dueHeap
	blocked map[*iface]*dueBlocked // by the interface whose queue is full
	timer   *time.Timer
	at      tcp.Time // when the timer fires; 0: it does not run
	firing  bool     // it has fired, and is at it
	closed  bool
}

// A dueBlocked has those of a dueList that are due at an interface whose queue is full.
type dueBlocked struct {
	l    *dueList
	ifc  *iface
	list []*TCP
}

type dueEntry struct {
	at tcp.Time
	t  *TCP
}

// put has t.tick be called at a time, which is not 0.
func (l *dueList) put(t *TCP, now, at tcp.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	heap.Push(&l.heap, dueEntry{at, t})
	l.arm(now)
}

// arm sets the timer for the first. The lock is held.
func (l *dueList) arm(now tcp.Time) {
	if len(l.heap) == 0 || l.closed || l.firing || l.at != 0 && l.at <= l.heap[0].at {
		return
	}
	l.at = l.heap[0].at
	wait := time.Duration(max(l.at-now, 0))
	if l.timer == nil {
		l.timer = time.AfterFunc(wait, l.fire)
	} else {
		l.timer.Reset(wait)
	}
}

// fire has those tick whose time has come.
func (l *dueList) fire() {
	now := l.s.now()
	l.mu.Lock()
	if l.firing {
		l.mu.Unlock()
		return
	}
	l.at, l.firing = 0, true
	for len(l.heap) > 0 {
		if l.heap[0].at > now {
			if now = l.s.now(); l.heap[0].at > now { // some time has passed
				break
			}
		}
		t := heap.Pop(&l.heap).(dueEntry).t
		l.mu.Unlock()
		ifc := t.link()
		wait := !ifc.tx.room() && l.block(ifc, t)
		if !wait {
			t.tick()
		}
		l.mu.Lock()
	}
	if cap(l.heap) > 1024 && len(l.heap) < cap(l.heap)/8 {
		l.heap = append([]dueEntry(nil), l.heap...)
	}
	l.firing = false
	l.arm(now)
	l.mu.Unlock()
}

// block keeps t until the interface's queue has room. It reports false if it has.
func (l *dueList) block(ifc *iface, t *TCP) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	b := l.blocked[ifc]
	if b == nil {
		b = &dueBlocked{l: l, ifc: ifc}
		if !ifc.await(b) {
			return false
		}
		if l.blocked == nil {
			l.blocked = make(map[*iface]*dueBlocked)
		}
		l.blocked[ifc] = b
	}
	b.list = append(b.list, t)
	return true
}

// txReady is called when the queue that was full has room again, or the interface is closed.
func (b *dueBlocked) txReady() {
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
		heap.Push(&l.heap, dueEntry{now, t})
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
type dueHeap []dueEntry

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].at < h[j].at }
func (h dueHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *dueHeap) Push(e any)        { *h = append(*h, e.(dueEntry)) }

func (h *dueHeap) Pop() any {
	n := len(*h) - 1
	e := (*h)[n]
	(*h)[n] = dueEntry{}
	*h = (*h)[:n]
	return e
}

func (l *dueList) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed, l.heap, l.blocked = true, nil, nil
	if l.timer != nil {
		l.timer.Stop()
	}
}
