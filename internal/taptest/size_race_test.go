//go:build linux && race

package taptest

// How much the long tests do. The race detector makes everything many times slower,
// and what it finds it finds in the first of many equal steps.
const (
	bulk      = 64 << 20
	someBulk  = 16 << 20
	pingStep  = 16
	wrkPeriod = "2s"
)
