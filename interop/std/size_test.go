package std

import "os"

// streamed is the number of bytes that the streaming test sends in each direction: 64 MiB, or 1 GiB with USERNET_LONG,
// as in .ci/long.
var streamed = func() int64 {
	if os.Getenv("USERNET_LONG") != "" {
		return 1 << 30
	}
	return 64 << 20
}()
