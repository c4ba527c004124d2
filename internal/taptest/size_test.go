//go:build linux

package taptest

import "os"

// The scale of the long tests. With USERNET_LONG, as in .ci/long, init sets the full scale. Otherwise the
// tests check the same at a smaller scale, in a fraction of the time.
var (
	long            = os.Getenv("USERNET_LONG") != ""
	bulk      int64 = 32 << 20 // bytes of a large transfer in super-frames, also with loss
	someBulk  int64 = 8 << 20  // bytes of the other large transfers, which take 6,000 frames
	pingStep        = 16       // step between the sizes of pings
	pings           = 10       // pings of each size at a limit
	wrkPeriod       = "1s"
)

func init() {
	if long {
		bulk, someBulk, pingStep, pings, wrkPeriod = 1<<30, 96<<20, 1, 100, "10s"
	}
}
