package stack

import "runtime"

// yieldBytes is the number of bytes that a writer may send at once without yielding to other goroutines. If
// the writer has sent more, it yields before it sends again.
//
// On a wire in memory, sending wakes the peer's reader. During the yield, the reader can read the data while
// the data is in the cache of this core. With the yield, one stream has three times the throughput (P1), and
// four streams have ten times (P2). For yieldBytes or less, a switch of goroutines takes longer than fetching
// the data from the cache of another core.
//
// The yield comes before the next bytes, in the same Write or in the next Write. It never comes between the
// last bytes of a Write and its return: see promptBytes.
//
// Package nic has a constant of the same name and value for its rx loop. The two constants are independent.
const yieldBytes = 16 << 10

// yieldNow clears t.yield, which the last Write has set, and yields to other goroutines. t.mu is held, but
// not during the yield.
func (t *TCP) yieldNow() {
	t.yield = false
	t.mu.Unlock()
	runtime.Gosched()
	t.mu.Lock()
}
