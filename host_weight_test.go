//go:build !race

package usernet

import (
	"net/netip"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
)

// A test of a network may have thousands of hosts, most of which are idle at any time. IPv6 needs memory
// for the link-local address, its solicited-node group and its Duplicate Address Detection.
func TestAnIdleHostWeighsLittle(t *testing.T) {
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	const n = 1000
	for _, c := range []struct {
		name   string
		noIPv6 bool
		most   uint64
	}{{"both families", false, 12_288}, {"IPv4", true, 10_240}} {
		t.Run(c.name, func(t *testing.T) {
			hosts, far := make([]*Host, 0, n), make([]*nic.PipeEnd, 0, n)
			before := heap()
			for range n {
				a, b := nic.Pipe(nic.PipeConfig{})
				h, err := New(Config{NIC: a, Addrs: []netip.Prefix{netip.MustParsePrefix(addrA + "/24")}, NoIPv6: c.noIPv6})
				require.NoError(t, err)
				hosts, far = append(hosts, h), append(far, b)
			}
			each := (heap() - before) / n
			t.Logf("%d bytes", each)
			require.LessOrEqual(t, each, c.most, "bytes of an idle host with one pipe")
			runtime.KeepAlive(far)
			for _, h := range hosts {
				require.NoError(t, h.Close())
			}
		})
	}
}
