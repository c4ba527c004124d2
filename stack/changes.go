package stack

// changes tells those who want to know that the configuration has changed.
type changes struct {
	mu mutex[levelLink]
	ch chan struct{} // nil: nobody has asked since the last change
}

// Changed returns a channel that is closed at the next change of an address, a link or a route,
// and by Close, which is the last one. It is of no use for a second change: call Changed again,
// and then read what there is, as by Interfaces and Routes. So nothing is missed, however fast
// changes follow each other, and a caller that does not come back leaves nothing behind.
func (s *Stack) Changed() <-chan struct{} {
	c := &s.changes
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ch == nil {
		c.ch = make(chan struct{})
	}
	return c.ch
}

// notify wakes those who wait for a change.
func (c *changes) notify() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ch != nil {
		close(c.ch)
		c.ch = nil
	}
}
