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
	watchers []*time.Timer // of OnChange
}

// Changed returns a channel that is closed at the next change of an address, a link or a route, and by
// Close. To wait for the change after that, call Changed again before reading the new state, for
// example with Interfaces and Routes: a change after the call then closes the new channel, and none is
// missed. A caller that stops calling Changed leaves nothing behind.
func (s *Stack) Changed() <-chan struct{} {
	c := &s.changes
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ch == nil {
		c.ch = make(chan struct{})
	}
	return c.ch
}

// OnChange makes the stack call f, in a goroutine of its own, soon after each change that closes the
// channel of Changed, until stop is called. One call may be for several changes, and calls may overlap.
// Unlike a loop over Changed, it needs no goroutine that waits between the changes.
func (s *Stack) OnChange(f func()) (stop func()) {
	t := time.AfterFunc(time.Hour, f)
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

// NotifyChange reports a change of a setting that is kept outside of the stack, such as a lease: it
// closes the channel of Changed and starts the calls of OnChange's functions.
func (s *Stack) NotifyChange() { s.changes.notify() }

// notify closes the channel that Changed has returned, and starts the calls of OnChange's functions.
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
