package stack

import (
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
)

// passUnnoticed moves the time of a deadline into the past, but its timer does not fire.
func (d *deadline) passUnnoticed(mu sync.Locker) {
	mu.Lock()
	d.when = time.Now().Add(-time.Nanosecond)
	mu.Unlock()
}

// Two goroutines wait for an item. The first goroutine is woken, sees that its deadline has passed, and
// leaves the item to the second. It must wake the second goroutine itself, because the deadline is
// removed before its timer fires.
func TestAWaiterThatGivesUpLeavesItsItem(t *testing.T) {
	t.Run("accept", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a, b := twoHosts(t, nic.PipeConfig{})
			l, err := b.ListenTCP(FamilyAny, addrPort("0.0.0.0:80"), ListenOptions{})
			require.NoError(t, err)
			var waiting atomic.Int32
			waiting.Store(2)
			for range 2 {
				go func() {
					l.Accept()
					waiting.Add(-1)
				}()
			}
			synctest.Wait()
			l.dl.passUnnoticed(&l.mu)
			_, err = a.DialTCP(t.Context(), FamilyAny, netip.AddrPort{}, addrPort("192.0.2.2:80"), TCPOptions{})
			require.NoError(t, err)
			synctest.Wait()
			require.NoError(t, l.SetDeadline(time.Time{}))
			synctest.Wait()
			require.True(t, waiting.Load() == 0 || l.n.Load() == 0, "%d goroutines wait, although a connection is there", waiting.Load())
			l.Close()
		})
	})
	t.Run("datagram", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a, b := twoHosts(t, nic.PipeConfig{})
			u, v := openUDP(t, a, "192.0.2.1:1"), openUDP(t, b, "192.0.2.2:2")
			var waiting atomic.Int32
			waiting.Store(2)
			for range 2 {
				go func() {
					v.ReadFrom(make([]byte, 10))
					waiting.Add(-1)
				}()
			}
			synctest.Wait()
			v.rd.passUnnoticed(&v.mu)
			_, err := u.WriteTo([]byte("x"), addrPort("192.0.2.2:2"), SendOptions{})
			require.NoError(t, err)
			synctest.Wait()
			require.NoError(t, v.SetReadDeadline(time.Time{}))
			synctest.Wait()
			require.True(t, waiting.Load() == 0 || v.queue.n == 0, "%d goroutines wait, although a datagram is there", waiting.Load())
			v.Close()
		})
	})
}

func TestInterruptedWritersLeaveNoWaiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{Null: nic.NewNull(nic.Link{Medium: nic.IP})}
		g.cond.L = &g.mu
		s := newHost(t, g, "192.0.2.1/24")
		u := openUDP(t, s, "0.0.0.0:9")
		q := &s.ifaceNamed("eth0").tx
		g.set(true)
		go u.WriteTo(nil, addrPort("192.0.2.2:9"), SendOptions{}) // blocks in the device
		synctest.Wait()
		for q.room() {
			u.WriteTo(nil, addrPort("192.0.2.2:9"), SendOptions{})
		}
		for range 100 {
			require.NoError(t, u.SetWriteDeadline(time.Now().Add(time.Second)))
			_, err := u.WriteTo(nil, addrPort("192.0.2.2:9"), SendOptions{})
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		}
		require.Equal(t, 1, len(q.waiters))
		// The queue calls the waiter each time that there is room again.
		for range 3 {
			for q.room() {
				u.SetWriteDeadline(time.Now().Add(time.Second))
				u.WriteTo(nil, addrPort("192.0.2.2:9"), SendOptions{})
			}
			require.NoError(t, u.SetWriteDeadline(time.Time{}))
			done := make(chan error)
			go func() {
				_, err := u.WriteTo(nil, addrPort("192.0.2.2:9"), SendOptions{})
				done <- err
			}()
			synctest.Wait()
			g.set(false)
			require.NoError(t, <-done)
			synctest.Wait()
			require.Empty(t, q.waiters)
			g.set(true)
			go u.WriteTo(nil, addrPort("192.0.2.2:9"), SendOptions{})
			synctest.Wait()
		}
		g.set(false)
	})
}
