package tcp

import (
	"os"
	"testing"
)

// full reports that tests are to run at their full scale, as .ci/long has them with USERNET_LONG. Else
// they run at one that proves the same of fewer cases, and say so with -v.
func full(t testing.TB) bool {
	if os.Getenv("USERNET_LONG") != "" && !racing {
		return true
	}
	t.Log("at a smaller scale: USERNET_LONG=1 is the full one")
	return false
}
