//go:build !race

package stack

// racing tells that the race detector is on, for which a tenth of the work shows as much.
const racing = false
