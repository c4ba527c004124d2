package stack

import (
	"time"

	"github.com/usernet/usernet/stack/tcp"
)

// An alarm calls its owner's fired method at a time that the owner can change. A table of a stack has
// one alarm for all of its entries. An alarm has no goroutine, and no timer until it is first set.
//
// The owner's lock protects the alarm and must be held for every call. The zero value is an alarm that
// is not set.
type alarm struct {
	timer *time.Timer // nil until first needed
	at    tcp.Time    // when the timer fires; 0: not set; or alarmClosed
}

// alarmClosed is the value of at after close. It is before all other times, so that set does nothing.
const alarmClosed = tcp.Time(-1)

// An alarmOwner is the owner of an alarm. fired is called without locks. It locks the owner's lock,
// calls alarm.over, and checks the clock, because the call may be late or for a time that has changed
// since.
type alarmOwner interface{ fired() }

// set makes the alarm fire at time at, unless it is set for an earlier time. If at has passed, it fires
// at once. 0 means never: set then does nothing.
func (a *alarm) set(now, at tcp.Time, owner alarmOwner) {
	if at != 0 && (a.at == 0 || at < a.at) {
		a.move(now, at, owner)
	}
}

// move sets the alarm to time at, whatever it was set to. 0 means never.
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

// over must be called by fired. It marks the alarm as not set. It reports false if the alarm is closed.
func (a *alarm) over() bool {
	if a.at == alarmClosed {
		return false
	}
	a.at = 0
	return true
}

// close stops the alarm. It cannot be set again.
func (a *alarm) close() {
	a.at = alarmClosed
	if a.timer != nil {
		a.timer.Stop()
	}
}

// timerSlots is the distance in nanoseconds of the instants at which timers fire. It is slotRound of
// package nic.
const timerSlots = 64

// timerWait returns the duration for a timer that is set now and fires at time at, or up to timerSlots
// later. It then fires in a slot that no link with a seed uses for its frames (see slots in package
// nic). In a testing/synctest bubble the order of timers and frames is then the same in each run.
func timerWait(now, at tcp.Time) time.Duration {
	at = max(at, now)
	return time.Duration(at - now + -at&(timerSlots-1))
}
