package stack

import (
	"time"

	"github.com/usernet/usernet/stack/tcp"
)

const (
	// wheelStep is the time between two slots. The wheel reaches a connection up to one step before its
	// deadline. The connection then moves to the timer queue, which meets the deadline exactly.
	wheelStep = tcp.Time(500 * time.Millisecond)
	// wheelSlots is a power of two. If a deadline is beyond the last slot, the connection is in the last
	// slot, and is put into the wheel again when the wheel reaches it.
	wheelSlots = 64
)

// A timerWheel holds the connections whose next deadline is far off, for example the time of a keep-alive
// probe. One alarm serves all of them. The wheel takes two pointers of memory for each connection; a timer
// for each would take a fifth of a connection's memory. Each slot is a circular list, and a connection is in
// at most one slot.
//
// When the deadline of a connection is near, the connection moves to the timerQueue. The queue has an alarm
// of its own, and one goroutine runs the ticks of all connections in the queue. With one goroutine for each
// connection, the keep-alive probes of a million connections would starve all other goroutines.
type timerWheel struct {
	s *Stack

	mu     mutex[levelTable]
	slots  *[wheelSlots]*TCP // the first connection of each slot, or nil; step i has slot i%wheelSlots; allocated on first use
	n      int               // connections in the wheel
	alarm  alarm             // for the first slot that is not empty
	next   int64             // the first step whose slot may hold a connection
	queue  timerQueue
	closed bool
}

// A wheelSlot links a connection into a slot of the wheel. timerWheel.mu guards it.
type wheelSlot struct {
	prev, next *TCP // neighbours in the list; nil if the connection is in no slot
}

// put puts t into the last slot that is not after the deadline d, and returns the time of that slot. d must
// be at least one step after now. If t is already in a slot, put moves t.
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

// remove removes t from the wheel, if it is there.
func (w *timerWheel) remove(t *TCP) {
	w.mu.Lock()
	w.unlink(t)
	w.mu.Unlock()
}

// link appends t to a slot. w.mu is held.
func (w *timerWheel) link(t *TCP, slot uint8) {
	if w.slots == nil {
		w.slots = new([wheelSlots]*TCP)
	}
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

// unlink removes t from its slot, if it is in one. w.mu is held.
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
		return // if the alarm is still set, fired finds nothing to do
	}
	for w.slots[w.next%wheelSlots] == nil {
		w.next++
	}
	w.alarm.set(now, tcp.Time(w.next)*wheelStep, w)
}

// fired calls wheelTick for the connections in the slots whose time has come. It releases w.mu during each
// call, because the lock of a connection precedes w.mu in the lock order. The alarm calls fired.
func (w *timerWheel) fired() {
	now := w.s.now()
	this := int64(now / wheelStep)
	w.mu.Lock()
	w.alarm.over()
	// n bounds the loop: wheelTick may put a connection into the wheel again.
	for n := w.n; n > 0 && w.next <= this; {
		t := w.slots[w.next%wheelSlots]
		if t == nil {
			w.next++
			continue
		}
		w.unlink(t)
		n--
		w.mu.Unlock()
		t.wheelTick()
		w.mu.Lock()
	}
	w.arm(now)
	w.mu.Unlock()
}

// close stops the alarms of the wheel and of the timer queue.
func (w *timerWheel) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.alarm.close()
	w.queue.close()
}
