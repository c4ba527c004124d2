//go:build !race

package tcp

const racing = false

// sampled returns how many of n equal cases a long test runs.
func sampled(n uint64) uint64 { return n }
