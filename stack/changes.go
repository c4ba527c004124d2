package stack

// changes is the state of Stack.Changed.
type changes struct {
	mu mutex[levelLink]
	ch chan struct{} // nil: no call of Changed since the last change
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

// notify closes the channel that Changed has returned.
func (c *changes) notify() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ch != nil {
		close(c.ch)
		c.ch = nil
	}
}
