package tcp

import (
	"os"
	"testing"
)

// full reports whether tests run at full scale, as with USERNET_LONG in .ci/long. Otherwise they prove
// the same for fewer cases, and log that.
func full(t testing.TB) bool {
	if os.Getenv("USERNET_LONG") != "" && !racing {
		return true
	}
	t.Log("at a smaller scale: USERNET_LONG=1 is the full one")
	return false
}
