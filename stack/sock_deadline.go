package stack

import (
	"sync"
	"time"
)

// A deadline is the time at which a socket's reads or writes fail. The socket's lock guards it and is
// held for every call.
//
// When the deadline is moved later or removed, the timer keeps running. It checks the deadline when it
// fires. Many servers move a deadline with each request, and this saves the cost of resetting the
// timer.
type deadline struct { // zero: no deadline
	when  time.Time   // zero: none
	past  bool        // when has passed
	timer *time.Timer // nil until first needed
	fires time.Time   // when timer fires; zero: it is not running
}

// set sets the deadline; the zero time means none. When the deadline passes, wake is called with mu
// held; if it has already passed, at once. The timer keeps the mu and wake of the first call that
// needed it, so every call must pass the same.
func (d *deadline) set(t time.Time, mu sync.Locker, wake func()) {
	d.past = false
	if t.IsZero() {
		d.when = time.Time{}
		return
	}
	now := time.Now()
	left := t.Sub(now)
	if left <= 0 {
		d.when, d.past = t, true
		wake()
		return
	}
	// A time derived from now has a monotonic clock reading, so setting the wall clock does not move
	// it.
	d.when = now.Add(left)
	if !d.fires.IsZero() && !d.fires.After(d.when) {
		return
	}
	d.fires = d.when
	if d.timer == nil {
		d.timer = time.AfterFunc(left, func() {
			mu.Lock()
			defer mu.Unlock()
			d.fired(wake)
		})
		return
	}
	d.timer.Reset(left)
}

// fired is called when the timer fires. The deadline may have been moved or removed since the timer was
// set.
func (d *deadline) fired(wake func()) {
	if d.when.IsZero() || d.past {
		d.fires = time.Time{}
		return
	}
	left := time.Until(d.when)
	if left <= 0 {
		d.past = true
		d.fires = time.Time{}
		wake()
		return
	}
	d.fires = d.when
	d.timer.Reset(left)
}

// expired reports whether the deadline has passed, even if the timer has not fired yet.
func (d *deadline) expired() bool {
	return d.past || !d.when.IsZero() && time.Until(d.when) <= 0
}

// stop removes the deadline and stops the timer, when the socket is closed.
func (d *deadline) stop() {
	d.when = time.Time{}
	if d.timer != nil {
		d.timer.Stop()
	}
	d.fires = time.Time{}
}
