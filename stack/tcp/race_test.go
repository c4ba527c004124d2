//go:build race

package tcp

// racing reports whether the race detector is on. The Conn has no goroutines in which it could find a
// race, so the long tests run only a sample.
const racing = true

// sampled is how many of n equal things a long test does.
func sampled(n uint64) uint64 { return n / 5 }
