package stack

import (
	"sync/atomic"
	"time"

	"github.com/usernet/usernet/stack/tcp"
)

// A sockTimer is the timer of an active connection. When the connection becomes idle or ends, the sockTimer
// goes to a pool, and another connection may take it over. If the timer then fires for its old time, tick
// of the new connection runs too early, which does no harm.
type sockTimer struct {
	timer *time.Timer
	of    atomic.Pointer[TCP] // the connection whose tick the timer calls; nil in the pool
}

// newTimer returns a sockTimer that calls t.tick after wait.
func (s *Stack) newTimer(t *TCP, wait time.Duration) *sockTimer {
	if st, _ := s.tcp.timers.Get().(*sockTimer); st != nil {
		st.of.Store(t)
		st.timer.Reset(wait)
		return st
	}
	st := new(sockTimer)
	st.of.Store(t)
	st.timer = time.AfterFunc(wait, func() {
		if t := st.of.Load(); t != nil {
			t.tick()
		}
	})
	return st
}

// minWheelWait is the minimum time between now and a deadline for which arm uses the timer wheel.
const minWheelWait = 2 * wheelStep

// arm makes sure that tick runs at the next deadline of the Conn or earlier. If a timer is set for an
// earlier time, arm leaves it. If no timer is set, and the deadline is at least minWheelWait away or does
// not exist, arm calls Deactivate, and puts the connection into the wheel if there is a time to wait for.
// Otherwise arm sets the timer. If the connection has ended, arm calls disarm. t.mu is held.
func (t *TCP) arm(now tcp.Time) {
	d, ok := t.conn.Deadline()
	if t.detached() || t.conn.State() == tcp.Closed {
		t.disarm()
		return
	}
	if t.timerAt == 0 && (!ok || d-now >= minWheelWait) {
		t.freeTimer() // if there is a timer, it has fired
		if w := t.waiters; w != nil && w.n == 0 {
			t.waiters = nil
		}
		// again is the time at which to call Deactivate again, or 0. If that time is before the deadline,
		// wait for it instead.
		if again := t.conn.Deactivate(now); again != 0 && (!ok || again < d) {
			d, ok = max(again, now+minWheelWait), true
		}
		if w := t.waiters; w != nil && w.untilIdle > 0 && t.conn.Idle() {
			t.wakeReaders() // those in ReadActive return ErrIdle
		}
		if ok {
			t.wheeled = true
			t.timerAt = t.s.tcp.wheel.put(t, now, d)
		}
		return
	}
	if !ok || t.timerAt != 0 && t.timerAt <= d {
		return // no deadline, or tick or wheelTick comes early enough and calls arm again
	}
	t.timerAt = d
	wait := timerWait(now, d)
	if t.timer == nil {
		t.timer = t.s.newTimer(t, wait)
	} else {
		t.timer.timer.Reset(wait)
	}
}

// freeTimer returns the connection's sockTimer, if any, to the pool. The timer may still be running. t.mu is
// held.
func (t *TCP) freeTimer() {
	if t.timer != nil {
		t.timer.of.Store(nil)
		t.s.tcp.timers.Put(t.timer)
		t.timer = nil
	}
}

// disarm stops the timer of a connection that has ended. t.mu is held.
func (t *TCP) disarm() {
	if t.timer != nil {
		t.timer.timer.Stop()
		t.freeTimer()
	}
	if t.wheeled {
		t.s.tcp.wheel.remove(t)
		t.wheeled = false
	}
	t.timerAt = 0
	t.conn.Deactivate(t.lastRun)
}

// tick runs the timers of the Conn. The connection's sockTimer or the timer queue calls tick.
func (t *TCP) tick() {
	t.mu.Lock()
	t.timerAt = 0
	now := t.s.now()
	switch {
	case t.detached(): // a timeWait has replaced the connection
	case t.listener != nil && !t.connected:
		t.conn.TickHalfOpen(now, t.listener.synAckRetries())
	default:
		t.conn.Tick(now)
	}
	ev := t.run(now)
	t.mu.Unlock()
	t.report(ev)
	t.s.drain()
}

// wheelTick moves the connection to the timer queue if its deadline is near, and otherwise calls arm. The
// wheel calls wheelTick when it has reached the connection and removed it from its slot.
func (t *TCP) wheelTick() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.wheeled = false
	if t.timer != nil {
		return // the connection has become active, and uses the timer
	}
	t.timerAt = 0
	now := t.s.now() // the connections before this one may have taken some time
	d, ok := t.conn.Deadline()
	if ok && d-now < minWheelWait && !t.detached() && t.conn.State() != tcp.Closed {
		t.timerAt = d
		t.s.tcp.wheel.queue.put(t, now, d)
		return
	}
	t.arm(now)
}
