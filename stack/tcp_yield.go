package stack

import "runtime"

// yieldBytes is the number of bytes that a writer may send at once without yielding to other
// goroutines. If it has sent more, it yields before it sends again. On a wire in memory, sending wakes
// the peer's reader, which can then read the data while it is in the cache of this core. With the
// yield, one stream has three times the throughput (P1), and four have ten times (P2). Fewer bytes are
// cheaper to fetch from the cache of another core than by a switch of goroutines.
//
// The yield comes before the next bytes, in the same Write or in the next. It never comes between the
// last bytes of a Write and its return: see promptBytes.
//
// Package nic has a constant of the same name and value for its rx loop. The two are independent.
const yieldBytes = 16 << 10

// yieldNow yields to other goroutines, because the last Write has set t.yield. t.mu is held, but not
// during the yield.
func (t *TCP) yieldNow() {
	t.yield = false
	t.mu.Unlock()
	runtime.Gosched()
	t.mu.Lock()
}
