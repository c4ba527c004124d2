package stack

import (
	"sync"
	"time"
)

// A deadline is the time at which a socket's reads or writes stop waiting. It
// belongs to the socket's lock, which is held for every call.
//
// The timer is left running when a deadline moves later or ends, as it does with
// each request of many a server: it looks at the deadline when it fires.
type deadline struct {
	when  time.Time   // zero: none
	past  bool        // when has come
	timer *time.Timer // nil until needed
	fires time.Time   // when the timer fires; zero: it does not run
}

// set sets the deadline; the zero time means none. When it passes, wake is
// called with mu held, at once if it has passed already. mu and wake are those
// of the first call for which the deadline had to wait.
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
	// Counted from now, the deadline does not move when the wall clock is set.
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

// fired runs when the timer does, which may be a timer's last run from before
// the deadline was set anew.
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

// expired reports whether the deadline has passed, whether or not its timer has
// had its turn.
func (d *deadline) expired() bool {
	return d.past || !d.when.IsZero() && time.Until(d.when) <= 0
}

// stop ends the deadline for good, when its socket is closed.
func (d *deadline) stop() {
	d.when = time.Time{}
	if d.timer != nil {
		d.timer.Stop()
	}
	d.fires = time.Time{}
}
