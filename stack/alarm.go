package stack

import (
	"time"

	"github.com/usernet/usernet/stack/tcp"
)

// An alarm calls its owner at a time that the owner moves. The tables of a stack have one each for all
// of their entries. It costs no goroutine, and no timer before it is first set.
//
// An alarm belongs to the lock of its owner, which is held for every call. The zero value is an
// alarm that is not set.
type alarm struct {
	timer *time.Timer // nil until first needed
	at    tcp.Time    // when the timer fires; 0: it does not run; alarmClosed
}

// alarmClosed is the time of an alarm that is never set again. It is before all others.
const alarmClosed = tcp.Time(-1)

// An alarmOwner is who set an alarm. fired is called without a lock. It takes its own, calls
// alarm.over, and looks at the clock: it may be late, or called for a time that has been moved.
type alarmOwner interface{ fired() }

// set has the owner called at a time, unless it will be before. A time that has come is
// at once; 0 is never, and changes nothing.
func (a *alarm) set(now, at tcp.Time, owner alarmOwner) {
	if at != 0 && (a.at == 0 || at < a.at) {
		a.move(now, at, owner)
	}
}

// move has the owner called at a time, and at no other; 0 is never.
func (a *alarm) move(now, at tcp.Time, owner alarmOwner) {
	if a.at == alarmClosed || at == a.at {
		return
	}
	a.at = at
	wait := timerWait(now, at)
	switch {
	case at == 0:
		a.timer.Stop() // it runs
	case a.timer == nil:
		a.timer = time.AfterFunc(wait, owner.fired)
	default:
		a.timer.Reset(wait)
	}
}

// over takes note that the timer has fired. It reports false if the alarm was closed.
func (a *alarm) over() bool {
	if a.at == alarmClosed {
		return false
	}
	a.at = 0
	return true
}

// close stops the alarm for good.
func (a *alarm) close() {
	a.at = alarmClosed
	if a.timer != nil {
		a.timer.Stop()
	}
}

// timerSlots is how many nanoseconds are from one instant at which timers fire to the next. It is
// the slotRound of package nic.
const timerSlots = 64

// timerWait returns how long a timer has to run that is set now for a time: at most timerSlots longer,
// so that it fires in a slot that no link with a seed uses for its frames (see slots in package nic).
// In a testing/synctest bubble the order of the two is then the same in each run.
func timerWait(now, at tcp.Time) time.Duration {
	at = max(at, now)
	return time.Duration(at - now + -at&(timerSlots-1))
}
