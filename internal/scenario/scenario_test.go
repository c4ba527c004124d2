package scenario

import (
	"io"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"github.com/usernet/usernet/internal/hosttest"
	"github.com/usernet/usernet/internal/world"
)

// everywhere runs a scenario in all Worlds: over the kernel's loopback, over a host's loopback, and between
// two hosts, in real time and in virtual time.
func everywhere(t *testing.T, f func(t *testing.T, w *world.World)) {
	t.Helper()
	for _, w := range world.All(t) {
		t.Run(w.Name, func(t *testing.T) { f(t, w) })
	}
	t.Run("virtual time", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a, b := hosttest.Pair(t)
			f(t, world.Usernet("virtual time", a, b, hosttest.AddrA, hosttest.AddrB))
		})
	})
}

// readFull reads n bytes.
func readFull(t *testing.T, r io.Reader, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	require.NoError(t, err)
	return b
}
