package stack

import (
	"container/heap"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/tcp"
)

func TestTheTimerQueueIsOrderedByDeadline(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	var l timerQueue
	var slow []tcp.Time
	for range 20_000 {
		if len(slow) == 0 || rng.IntN(100) < 51 {
			at := tcp.Time(1 + rng.IntN(1000))
			heap.Push(&l.heap, timerEntry{at: at})
			slow = append(slow, at)
			continue
		}
		i := slices.Index(slow, slices.Min(slow))
		require.Equal(t, slow[i], heap.Pop(&l.heap).(timerEntry).at)
		slow = slices.Delete(slow, i, i+1)
	}
	require.Greater(t, len(slow), 100)
}

// A crowdMeter records the maximum number of goroutines during a Send.
type crowdMeter struct {
	nic.Device
	most atomic.Int64
}

func (m *crowdMeter) Nonblocking() nic.Device { return m }

func (m *crowdMeter) Send(batch []nic.Frame) (int, error) {
	m.most.Store(max(m.most.Load(), int64(runtime.NumGoroutine())))
	return m.Device.Send(batch)
}

// With a time.Timer for each connection, each expired timer would start a goroutine, and any other
// goroutine would have to wait until all of them have run.
func TestTheProbesOfManyConnectionsTakeOneGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m *crowdMeter
		a, b := wiredPair(t, func(d nic.Device) nic.Device {
			m = &crowdMeter{Device: d}
			return m
		})
		const n = 2000
		var all []*TCP
		for range n {
			c, d := connect(t, a, b)
			require.NoError(t, c.SetKeepAlive(true))
			all = append(all, c, d)
		}
		time.Sleep(10 * time.Second)
		before := a.Stats().TCP.Sent
		m.most.Store(0)
		time.Sleep(6 * time.Second)
		require.EqualValues(t, n, a.Stats().TCP.Sent-before, "one probe each")
		require.Less(t, m.most.Load(), int64(50))
		for _, c := range all {
			require.NoError(t, c.Close())
		}
	})
}

// Connections whose timers expire while the transmit queue is full share one waiter of the queue.
func TestDueConnectionsWaitForRoomAsOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dev *sticky
		a, b := wiredPair(t, func(d nic.Device) nic.Device {
			dev = &sticky{Device: d, in: make(chan struct{}), out: make(chan struct{})}
			return dev
		})
		const n = 2000
		for range n {
			c, _ := connect(t, a, b)
			require.NoError(t, c.SetKeepAlive(true))
		}
		u := openUDP(t, a, "0.0.0.0:0")
		time.Sleep(10 * time.Second)
		before := a.Stats().TCP.Sent
		dev.keep.Store(true)
		go u.WriteTo([]byte("x"), addrPort("192.0.2.2:9"), SendOptions{})
		<-dev.in
		time.Sleep(6 * time.Second)
		synctest.Wait()
		q := &(*a.ifaces.Load())[1].tx
		require.False(t, q.room())
		q.mu.Lock()
		waiters := len(q.waiters)
		q.mu.Unlock()
		require.LessOrEqual(t, waiters, 3, "not one for each connection")
		close(dev.out)
		time.Sleep(time.Second)
		synctest.Wait()
		require.EqualValues(t, n, a.Stats().TCP.Sent-before, "one probe each")
		require.Empty(t, q.waiters)
		require.Empty(t, a.tcp.wheel.queue.heap)
	})
}
