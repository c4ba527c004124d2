package stack

import (
	"os"
	"testing"
)

// full reports whether tests run at full scale: USERNET_LONG is set, as in .ci/long, and the race
// detector is off. Otherwise tests run fewer cases, and full logs that.
func full(t testing.TB) bool {
	if os.Getenv("USERNET_LONG") != "" && !racing {
		return true
	}
	t.Log("at a smaller scale: USERNET_LONG=1 is the full one")
	return false
}

// flood returns the number of segments that an attacker sends.
func flood(t testing.TB) int {
	if full(t) {
		return 1_000_000
	}
	return 100_000
}
