package stack

import (
	"os"
	"testing"
)

// full reports whether tests run at full scale, as in .ci/long with USERNET_LONG set. Otherwise they
// run fewer cases of the same kind, and say so with -v.
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
