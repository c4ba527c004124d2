//go:build linux && !race

package taptest

// How much the long tests do.
const (
	bulk      = 1 << 30  // bytes of a large transfer, in super-frames: without loss and with it
	someBulk  = 96 << 20 // bytes of the other large transfers: 70,000 frames
	pingStep  = 1        // from one size of a ping to the next
	wrkPeriod = "10s"
)
