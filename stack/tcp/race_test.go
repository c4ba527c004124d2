//go:build race

package tcp

// racing tells that the race detector is on. The core has no goroutine in which it
// could find anything: it is given a sample of the long tests.
const racing = true

// sampled is how many of n equal things a long test does.
func sampled(n uint64) uint64 { return n / 5 }
