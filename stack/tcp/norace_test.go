//go:build !race

package tcp

const racing = false

// sampled is how many of n equal things a long test does.
func sampled(n uint64) uint64 { return n }
