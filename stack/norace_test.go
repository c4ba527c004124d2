//go:build !race

package stack

// racing reports whether the race detector is on. Tests then do a tenth of the work.
const racing = false
