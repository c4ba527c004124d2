package stack

import (
	"slices"
	"time"
)

// changes is the state of Stack.Changed and Stack.OnChange.
type changes struct {
	s        *Stack
	mu       mutex[levelLink]
	ch       chan struct{} // nil: no call of Changed since the last change
	watchers []*time.Timer // the timers of OnChange
}

// Changed returns a channel that is closed at the next change of an address, a link or a route, and by
// Close. To wait for several changes without missing one, a caller calls Changed again after each change,
// and only then reads the new state, for example with Interfaces and Routes. Channels that are no longer
// used need no cleanup.
func (s *Stack) Changed() <-chan struct{} {
	c := &s.changes
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ch == nil {
		c.ch = make(chan struct{})
	}
	return c.ch
}

// OnChange makes the stack call f after each change that closes the channel of Changed, until stop is
// called. The stack calls f in a goroutine of its own. Calls may overlap. One call may stand for several
// changes. Unlike a loop over Changed, OnChange needs no goroutine between changes.
func (s *Stack) OnChange(f func()) (stop func()) {
	t := time.AfterFunc(time.Hour, f) // notify sets the timer
	t.Stop()
	c := &s.changes
	c.mu.Lock()
	c.watchers = append(c.watchers, t)
	c.mu.Unlock()
	return func() {
		c.mu.Lock()
		c.watchers = slices.DeleteFunc(c.watchers, func(x *time.Timer) bool { return x == t })
		c.mu.Unlock()
		t.Stop()
	}
}

// NotifyChange closes the channel of Changed and calls the functions of OnChange. A caller reports with
// it a change outside of the stack, for example of a lease.
func (s *Stack) NotifyChange() { s.changes.notify() }

// notify closes the channel that Changed has returned, and makes the timers of OnChange fire at once.
func (c *changes) notify() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ch != nil {
		close(c.ch)
		c.ch = nil
	}
	if len(c.watchers) > 0 {
		now := c.s.now()
		for _, t := range c.watchers {
			t.Reset(timerWait(now, now))
		}
	}
}
