package stack

import (
	"container/heap"

	"github.com/usernet/usernet/stack/tcp"
)

// A timerQueue holds the connections from the timer wheel whose deadline is less than two steps of the
// wheel away. Their ticks run one after the other, each at its deadline, or later if the transmit queue of
// its interface is full. If a connection has become active or has ended meanwhile, its tick does no harm.
//
// While a transmit queue is full, the connections of its interface wait in a timersBlocked. In the transmit
// queue's list of waiters, thousands of connections would delay all other senders. The connections of other
// interfaces are not delayed.
type timerQueue struct {
	s *Stack

	mu      mutex[levelTimers]
	heap    timerHeap
	blocked map[*txQueue]*timersBlocked // keyed by the transmit queue that is full
	alarm   alarm                       // for the first entry of heap
	firing  bool                        // fired is running
	closed  bool
}

// A timersBlocked holds the connections of a timerQueue whose deadline has passed, but whose transmit
// queue is full. In that queue's list of waiters, one timersBlocked stands for all of these connections.
type timersBlocked struct {
	l    *timerQueue
	q    *txQueue
	list []*TCP
}

// A timerEntry is a connection whose tick has to run at the time at.
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

// arm sets the alarm for the earliest deadline. While fired runs, it does nothing, because fired calls arm
// at its end. l.mu is held.
func (l *timerQueue) arm(now tcp.Time) {
	if len(l.heap) > 0 && !l.firing {
		l.alarm.set(now, l.heap[0].at, l)
	}
}

// fired runs the ticks whose time has come. The alarm calls fired.
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
			if now = l.s.now(); l.heap[0].at > now { // read the clock again, because ticks take time
				break
			}
		}
		t := heap.Pop(&l.heap).(timerEntry).t
		l.mu.Unlock()
		q := t.lockedTxQueue()
		wait := !q.room() && l.block(q, t)
		if !wait {
			t.tick()
		}
		l.mu.Lock()
	}
	if cap(l.heap) > 1024 && len(l.heap) < cap(l.heap)/8 { // free the memory of a burst
		l.heap = append([]timerEntry(nil), l.heap...)
	}
	l.firing = false
	l.arm(now)
	l.mu.Unlock()
}

// block adds t to the connections that wait for the transmit queue q. It reports false if t need not
// wait: q has room or is stalled, or l is closed.
func (l *timerQueue) block(q *txQueue, t *TCP) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	b := l.blocked[q]
	if b == nil {
		b = &timersBlocked{l: l, q: q}
		if !q.await(b) {
			return false
		}
		if l.blocked == nil {
			l.blocked = make(map[*txQueue]*timersBlocked)
		}
		l.blocked[q] = b
	}
	b.list = append(b.list, t)
	return true
}

// txReady schedules the ticks of all connections of b for now. The transmit queue calls txReady when it has
// room again, is stalled or is closed.
func (b *timersBlocked) txReady(*txQueue) {
	l := b.l
	now := l.s.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.blocked[b.q] == b {
		delete(l.blocked, b.q)
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

// lockedTxQueue locks t.mu and calls txQueue.
func (t *TCP) lockedTxQueue() *txQueue {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.txQueue()
}

// A timerHeap implements heap.Interface. The entry with the earliest deadline comes first.
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

// close drops all entries and stops the alarm.
func (l *timerQueue) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed, l.heap, l.blocked = true, nil, nil
	l.alarm.close()
}
