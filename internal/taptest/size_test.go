//go:build linux

package taptest

import "os"

// How much the long tests do. With USERNET_LONG, as in .ci/long, it is the full scale; otherwise less, which shows the
// same in a fraction of the time.
var (
	bulk      int64 = 32 << 20 // bytes of a large transfer, in super-frames: without loss and with it
	someBulk  int64 = 8 << 20  // bytes of the other large transfers: 6,000 frames
	pingStep        = 16       // from one size of a ping to the next
	pings           = 10       // of each size that is at an edge
	wrkPeriod       = "1s"
)

func init() {
	if os.Getenv("USERNET_LONG") != "" {
		bulk, someBulk, pingStep, pings, wrkPeriod = 1<<30, 96<<20, 1, 100, "10s"
	}
}
