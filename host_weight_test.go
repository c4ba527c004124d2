//go:build !race

package usernet

import (
	"net/netip"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
)

// A test of a network has thousands of hosts. Most of them are idle at any time.
func TestAnIdleHostWeighsLittle(t *testing.T) {
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	const n = 1000
	hosts, far := make([]*Host, 0, n), make([]*nic.PipeEnd, 0, n)
	before := heap()
	for range n {
		a, b := nic.Pipe(nic.PipeConfig{})
		h, err := New(Config{NIC: a, Addrs: []netip.Prefix{netip.MustParsePrefix(addrA + "/24")}})
		require.NoError(t, err)
		hosts, far = append(hosts, h), append(far, b)
	}
	each := (heap() - before) / n
	t.Logf("%d bytes", each)
	require.LessOrEqual(t, each, uint64(12<<10), "bytes of an idle host with one pipe")
	runtime.KeepAlive(far)
	for _, h := range hosts {
		require.NoError(t, h.Close())
	}
}
