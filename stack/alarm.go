package stack

import (
	"time"

	"github.com/usernet/usernet/stack/tcp"
)

// An alarm calls its owner's method fired at a time that the owner can change. A table of a stack has
// one alarm for all of its entries. An alarm has no goroutine. It allocates its timer when it is first
// set.
//
// The owner's lock protects the alarm. The owner holds the lock when it calls any method of the alarm.
// The zero value is an alarm that is not set.
type alarm struct {
	timer *time.Timer // nil until first needed
	at    tcp.Time    // when the timer fires; 0: not set; alarmClosed: closed
}

// alarmClosed is the value of at after close. It is earlier than any time, so set does nothing.
const alarmClosed = tcp.Time(-1)

// An alarmOwner is the owner of an alarm. The alarm calls fired without locks held. fired takes the
// owner's lock and calls alarm.over. fired then compares the clock with the times of the owner's entries,
// because the call may be late, or may be for an earlier setting of the alarm.
type alarmOwner interface{ fired() }

// set makes the alarm fire at time at, unless it is already set for an earlier time. If at has passed,
// the alarm fires at once. If at is 0, which means never, set does nothing.
func (a *alarm) set(now, at tcp.Time, owner alarmOwner) {
	if at != 0 && (a.at == 0 || at < a.at) {
		a.move(now, at, owner)
	}
}

// move makes the alarm fire at time at, and not at the time for which it was set before. If at is 0, the
// alarm does not fire.
func (a *alarm) move(now, at tcp.Time, owner alarmOwner) {
	if a.at == alarmClosed || at == a.at {
		return
	}
	a.at = at
	wait := timerWait(now, at)
	switch {
	case at == 0:
		a.timer.Stop() // a.at was not 0, so the timer exists
	case a.timer == nil:
		a.timer = time.AfterFunc(wait, owner.fired)
	default:
		a.timer.Reset(wait)
	}
}

// over marks the alarm as not set. It reports false if the alarm is closed. The owner's fired calls it
// first.
func (a *alarm) over() bool {
	if a.at == alarmClosed {
		return false
	}
	a.at = 0
	return true
}

// close stops the alarm for good: set and move then do nothing.
func (a *alarm) close() {
	a.at = alarmClosed
	if a.timer != nil {
		a.timer.Stop()
	}
}

// timerSlots is a number of nanoseconds. The times at which timers fire are multiples of it. It equals
// slotRound of package nic.
const timerSlots = 64

// timerWait returns the duration for a timer that is set now and has to fire at time at. It rounds at up
// to a multiple of timerSlots. No link with a seed delivers frames in slots at these times (see slotRound
// in package nic), so in a testing/synctest bubble the order of timers and such frames is the same in each
// run.
func timerWait(now, at tcp.Time) time.Duration {
	at = max(at, now)
	return time.Duration(at - now + -at&(timerSlots-1))
}
