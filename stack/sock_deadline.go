package stack

import (
	"sync"
	"time"
)

// A deadline is the time from which a socket's reads or writes fail. The socket's lock guards it, and is
// held during each method call.
//
// If the deadline is moved to a later time or removed, the timer keeps running. When the timer fires, it
// checks the deadline, and is set again if necessary. Many servers move a deadline with each request; not
// resetting the timer saves time.
type deadline struct { // zero: no deadline
	when  time.Time   // the deadline; zero: none
	past  bool        // the deadline has passed
	timer *time.Timer // nil until first needed
	fires time.Time   // when timer fires; zero: it is not running
}

// set sets the deadline to t; the zero time means no deadline. When the deadline passes, or at once if it
// has already passed, wake is called with the socket's lock mu held. Every call must pass the same mu and
// wake, because the timer keeps the values of the first call.
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
	// t may lack a monotonic clock reading. now has one, so if the wall clock is set, when stays the
	// same time from now.
	d.when = now.Add(left)
	if !d.fires.IsZero() && !d.fires.After(d.when) {
		return // the timer fires early enough
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

// fired calls wake if the deadline has passed. If the deadline was moved since the timer was set, fired
// sets the timer again. The timer calls fired.
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

// stop removes the deadline and stops the timer. It is called when the socket is closed.
func (d *deadline) stop() {
	d.when = time.Time{}
	if d.timer != nil {
		d.timer.Stop()
	}
	d.fires = time.Time{}
}
