//go:build race

package tcp

// racing reports whether the race detector is on. A Conn starts no goroutines, so the race detector would
// find nothing in the long tests. They run only a sample then.
const racing = true

// sampled returns how many of n equal cases a long test runs.
func sampled(n uint64) uint64 { return n / 5 }
