package stack

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
)

// budgetHost returns a host. All its TCP buffers together may use as many bytes as the parameter memory says; 0
// means the default budget.
func budgetHost(t *testing.T, dev nic.Device, addr netip.Addr, memory int64) *Stack {
	s, err := New(Config{
		NICs: []NIC{{Device: dev, Addrs: []netip.Prefix{netip.PrefixFrom(addr, 24)}}},
		TCP:  TCPConfig{Memory: memory},
	})
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

// All connections are open and have been offered a window before any data is sent.
func TestOfferedWindowsStayInTheMemoryBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const memory, n = 4 << 20, 400
		x, y := nic.Pipe(nic.PipeConfig{})
		a, b := budgetHost(t, x, addrA, 0), budgetHost(t, y, addrB, memory)
		var writers, readers []*TCP
		for range n {
			c, d := connect(t, a, b)
			writers, readers = append(writers, c), append(readers, d)
		}
		sent := make([]byte, 100_000)
		for i := range sent {
			sent[i] = byte(i ^ i>>8)
		}
		most := int64(0)
		done := make(chan error, n)
		for _, c := range writers {
			go func() {
				_, err := c.Write(sent)
				done <- err
			}()
		}
		for range 50 {
			time.Sleep(100 * time.Millisecond)
			most = max(most, b.Stats().TCP.Memory)
		}
		// Each connection may use its minimum in addition to the budget.
		require.LessOrEqual(t, most, int64(memory+n*16<<10))
		// All data arrives when it is read.
		for _, d := range readers {
			got := make([]byte, 0, len(sent))
			for len(got) < len(sent) {
				k, err := d.Read(got[len(got):cap(got)])
				require.NoError(t, err)
				got = got[:len(got)+k]
			}
			require.Equal(t, sent, got)
			most = max(most, b.Stats().TCP.Memory)
		}
		for range n {
			require.NoError(t, <-done)
		}
		require.LessOrEqual(t, most, int64(memory+n*16<<10))
		require.Less(t, b.Stats().TCP.Memory, int64(memory/2))
	})
}

// A dead peer acknowledges nothing. When the deadline of a Write passes, its pinned bytes are copied, and
// the copies must stay in the budget.
func TestWritesToADeadPeerStayInTheMemoryBudget(t *testing.T) {
	for name, size := range map[string]int{"small": 1000, "large": 1 << 20, "blocks": 0} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const memory, n = 4 << 20, 400
				x, y := nic.Pipe(nic.PipeConfig{})
				write := func(c *TCP) error {
					if size > 0 {
						_, err := c.Write(make([]byte, size))
						return err
					}
					b := c.NewBlock(64 << 10)
					defer b.Free()
					_, err := c.WriteBlock(b, b.Bytes())
					return err
				}
				wire := nic.Impair(y, nic.ImpairConfig{})
				a, b := budgetHost(t, wire, addrA, memory), budgetHost(t, x, addrB, 0)
				var writers []*TCP
				for range n {
					c, _ := connect(t, a, b)
					writers = append(writers, c)
				}
				wire.SetOut(nic.Impairment{Loss: 1})
				most := int64(0)
				for _, c := range writers {
					require.NoError(t, c.SetWriteDeadline(time.Now().Add(5*time.Second)))
					go func() {
						for {
							if write(c) != nil {
								return
							}
						}
					}()
				}
				for range 100 {
					time.Sleep(100 * time.Millisecond)
					most = max(most, a.Stats().TCP.Memory)
				}
				require.LessOrEqual(t, most, int64(memory+n*16<<10))
				for _, c := range writers {
					require.NoError(t, c.SetLinger(0))
					require.NoError(t, c.Close())
				}
				require.Zero(t, a.Stats().TCP.Memory)
			})
		})
	}
}

func TestConnectionsAreRefusedBeyondTheMemoryBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const memory, n = 256 << 10, 100
		x, y := nic.Pipe(nic.PipeConfig{})
		a, b := budgetHost(t, x, addrA, 0), budgetHost(t, y, addrB, memory)
		l, err := b.ListenTCP(FamilyAny, netip.MustParseAddrPort("0.0.0.0:80"), ListenOptions{})
		require.NoError(t, err)
		dial := func() (*TCP, error) {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			return a.DialTCP(ctx, FamilyAny, netip.AddrPort{}, netip.AddrPortFrom(addrB, 80), TCPOptions{})
		}
		var writers, readers []*TCP
		for range n {
			c, err := dial()
			require.NoError(t, err)
			d, err := l.Accept()
			require.NoError(t, err)
			writers, readers = append(writers, c), append(readers, d)
		}
		for _, c := range writers {
			go c.Write(make([]byte, 20_000))
		}
		time.Sleep(time.Second)
		require.GreaterOrEqual(t, b.Stats().TCP.Memory, int64(memory))
		_, err = dial()
		require.ErrorIs(t, err, context.DeadlineExceeded)
		// The open connections keep their minimum.
		for _, d := range readers {
			for left := 20_000; left > 0; {
				k, err := d.Read(make([]byte, left))
				require.NoError(t, err)
				left -= k
			}
		}
		_, err = dial()
		require.NoError(t, err)
	})
}
