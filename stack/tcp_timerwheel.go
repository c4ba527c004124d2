package stack

import (
	"time"

	"github.com/usernet/usernet/stack/tcp"
)

const (
	// wheelStep is the time from slot to slot. When less than that is left, a
	// connection goes to the due ones, so that a deadline is met exactly.
	wheelStep = tcp.Time(500 * time.Millisecond)
	// wheelSlots is a power of two. Who waits for longer comes by more than once.
	wheelSlots = 64
)

// A wheel looks after the connections that have nothing to do for long: all but
// their keep-alive is over. It has one alarm for all of them, and two pointers
// for each, where a timer of its own would take a connection a fifth of its
// memory. Slots are circular lists; a connection stands in at most one. Those that are
// due have one alarm more, and so one goroutine: with one for each, the probes of a million
// connections would leave no other goroutine its share.
type timerWheel struct {
	s *Stack

	mu     mutex[levelTable]
	slots  [wheelSlots]*TCP
	n      int
	alarm  alarm // for the first slot that is not empty
	next   int64 // no connection waits for a step before
	queue  timerQueue
	closed bool
}

// A wheelPlace is where a connection stands in a wheel. It belongs to its lock.
type wheelSlot struct {
	prev, next *TCP // in the slot; nil: it is in none
}

// put files a connection until shortly before deadline d, and returns when that
// is. A connection that is there already moves. d is some steps ahead.
func (w *timerWheel) put(t *TCP, now, d tcp.Time) tcp.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.unlink(t)
	this := int64(now / wheelStep)
	step := min(int64(d/wheelStep), this+wheelSlots-1)
	if w.closed {
		return tcp.Time(step) * wheelStep
	}
	if w.n == 0 {
		w.next = step
	}
	w.link(t, uint8(step%wheelSlots))
	w.next = min(w.next, step)
	w.arm(now)
	return tcp.Time(step) * wheelStep
}

// remove takes a connection out.
func (w *timerWheel) remove(t *TCP) {
	w.mu.Lock()
	w.unlink(t)
	w.mu.Unlock()
}

// link puts a connection at the end of a slot. w.mu is held.
func (w *timerWheel) link(t *TCP, slot uint8) {
	t.inWheel, t.slot = wheelSlot{prev: t, next: t}, slot
	if first := w.slots[slot]; first != nil {
		last := first.inWheel.prev
		t.inWheel.prev, t.inWheel.next = last, first
		last.inWheel.next, first.inWheel.prev = t, t
	} else {
		w.slots[slot] = t
	}
	w.n++
}

// unlink takes a connection out of its slot, if it is in one. w.mu is held.
func (w *timerWheel) unlink(t *TCP) {
	r := &t.inWheel
	if r.next == nil {
		return
	}
	if first := &w.slots[t.slot]; r.next == t {
		*first = nil
	} else {
		r.prev.inWheel.next, r.next.inWheel.prev = r.next, r.prev
		if *first == t {
			*first = r.next
		}
	}
	r.prev, r.next = nil, nil
	w.n--
}

// arm sets the alarm for the first slot that is not empty. w.mu is held.
func (w *timerWheel) arm(now tcp.Time) {
	if w.n == 0 || w.closed {
		return // an alarm that is set finds nothing to do
	}
	for w.slots[w.next%wheelSlots] == nil {
		w.next++
	}
	w.alarm.set(now, tcp.Time(w.next)*wheelStep, w)
}

// fired lets the connections of the slots whose time has come look after
// themselves. Each is taken out alone, because its own lock comes first.
func (w *timerWheel) fired() {
	now := w.s.now()
	this := int64(now / wheelStep)
	w.mu.Lock()
	w.alarm.over()
	for n := w.n; n > 0 && w.next <= this; {
		t := w.slots[w.next%wheelSlots]
		if t == nil {
			w.next++
			continue
		}
		w.unlink(t)
		n--
		w.mu.Unlock()
		t.turn()
		w.mu.Lock()
	}
	w.arm(now)
	w.mu.Unlock()
}

func (w *timerWheel) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.alarm.close()
	w.queue.close()
}
