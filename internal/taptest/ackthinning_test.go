//go:build linux

package taptest

import (
	"io"
	"net"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack"
	"github.com/usernet/usernet/stack/tcp"
)

// A sendCounter counts the frames that a host sends over a TAP.
type sendCounter struct {
	*nic.TAP
	sent atomic.Int64
}

func (d *sendCounter) Send(batch []nic.Frame) (int, error) {
	n, err := d.TAP.Send(batch)
	d.sent.Add(int64(n))
	return n, err
}

// TestBulkDataOfTheKernelHasFewerACKs receives the same amount of data from the kernel with and without ACK
// thinning, and compares the numbers of sent frames, nearly all of which are ACKs. On a busy machine the
// kernel's sender may be late too often for ACK thinning, so the test tries several times.
func TestBulkDataOfTheKernelHasFewerACKs(t *testing.T) {
	need(t)
	const size = 96 << 20
	for _, e := range families {
		t.Run(e.name, func(t *testing.T) {
			var on, off int64
			for range 5 {
				on, off = countACKs(t, e, size, false), countACKs(t, e, size, true)
				t.Logf("%d MiB: %d ACKs with ACK thinning, %d without", size>>20, on, off)
				if 3*on < 2*off {
					return
				}
			}
			t.Fatalf("%d ACKs with ACK thinning, %d without", on, off)
		})
	}
}

// countACKs receives n bytes from the kernel and returns how many frames the host sends meanwhile.
func countACKs(t *testing.T, e end, n int64, thinningOff bool) int64 {
	ns, tap := newTAP(t, false)
	dev := &sendCounter{TAP: tap}
	params := tcp.DefaultParams()
	params.NoACKThinning = thinningOff
	addr := net.JoinHostPort(e.ours, "80")
	ln, err := newHostWith(t, dev, stack.TCPConfig{Params: &params}).Listen("tcp", addr)
	require.NoError(t, err)
	defer ln.Close()
	ns.startDiff(t, "source", addr, "cubic")
	c, err := ln.Accept()
	require.NoError(t, err)
	defer c.Close()
	before := dev.sent.Load()
	_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, io.LimitReader(c, n), make([]byte, 256<<10))
	require.NoError(t, err)
	return dev.sent.Load() - before
}
