package stack

import (
	"encoding/binary"
	"io"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
)

// An orderly is a device that records the last sequence number from each source port. It counts segments
// that were sent after a segment with a higher number.
type orderly struct {
	nic.Device
	mu        sync.Mutex
	last      map[uint16]uint32
	overtaken int
	frames    int
}

func (d *orderly) Nonblocking() nic.Device { return d }

func (d *orderly) Send(batch []nic.Frame) (int, error) {
	d.mu.Lock()
	for i := range batch {
		b := batch[i].Head
		if len(b) < 54 || b[12] != 8 || b[13] != 0 || b[23] != 6 { // not TCP over IPv4
			continue
		}
		port, seq := binary.BigEndian.Uint16(b[34:]), binary.BigEndian.Uint32(b[38:])
		if last, ok := d.last[port]; ok && int32(seq-last) < 0 {
			d.overtaken++
		}
		d.last[port] = seq
		d.frames++
	}
	d.mu.Unlock()
	return d.Device.Send(batch)
}

// Some writes use direct transmit, and others are queued behind these. The routes change at the same time.
func TestDirectSendersKeepTheOrderAndLeaveNothing(t *testing.T) {
	for name, plain := range map[string]bool{"offloads": false, "plain frames": true} {
		t.Run(name, func(t *testing.T) {
			da, db := nic.Pipe(nic.PipeConfig{NoTxChecksum: plain, MACs: [2][6]byte{macA, macB}})
			dev := &orderly{Device: da, last: make(map[uint16]uint32)}
			a, b := newHost(t, dev, "192.0.2.1/24"), newHost(t, db, "192.0.2.2/24")
			var wg sync.WaitGroup
			var conns []*TCP
			for _, size := range []int{1, 500, directBytes - 40, directBytes, directBytes + 1, 5000, 1} {
				c, d := connect(t, a, b)
				wg.Go(func() {
					buf := make([]byte, size)
					for {
						if _, err := io.ReadFull(d, buf); err != nil {
							break
						}
						d.Write(buf)
					}
					d.Close()
				})
				conns = append(conns, c)
				wg.Go(func() {
					buf := make([]byte, size)
					for i := range 1000 {
						c.Write(buf)
						if n, err := io.ReadFull(c, buf); n != size || err != nil {
							t.Error(i, n, err)
							break
						}
					}
					c.Close()
				})
			}
			wg.Go(func() {
				r := Route{Dst: netip.MustParsePrefix("198.51.100.0/24"), Via: addr("192.0.2.2")}
				for range 100 {
					if a.AddRoute(r) != nil || a.DelRoute(r) != nil {
						t.Error("routes")
					}
				}
			})
			wg.Wait()
			for _, s := range []*Stack{a, b} {
				tx := &(*s.ifaces.Load())[1].tx
				require.False(t, tx.draining.Load())
				require.Zero(t, tx.n.Load())
			}
			again := 0
			for _, c := range conns {
				again += int(c.Info().Retrans)
			}
			require.LessOrEqual(t, dev.overtaken, again)
			require.Greater(t, dev.frames, 7000)
		})
	}
}

func TestSmallSegmentGoesWithoutAPooledBuffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // in virtual time, so that no timer sends another segment on a loaded machine
		a, b := wiredPair(t, nil)
		c, d := connect(t, a, b)
		buf := make([]byte, 1000)
		ifc := (*a.ifaces.Load())[1]
		for i := range 10 {
			before, direct := c.ipID, ifc.stats.TxDirect.Frames()
			buf[0] = byte(i + 1)
			c.Write(buf)
			require.Equal(t, before+1, c.ipID, "one packet")
			require.Equal(t, direct+1, ifc.stats.TxDirect.Frames())
			// The payload follows a TCP header of 32 bytes, with timestamps.
			require.Equal(t, buf, ifc.tx.scratch.bytes[transportAt+32:][:len(buf)])
			_, err := io.ReadFull(d, buf)
			require.NoError(t, err)
		}
	})
}
