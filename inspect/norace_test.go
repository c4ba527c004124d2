//go:build !race

package inspect

// racing reports whether the race detector is on.
const racing = false
