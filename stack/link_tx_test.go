package stack

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
)

// A herdMember is a waiter of a transmit queue. It waits for room and then puts its frames.
type herdMember struct {
	ifc   *iface
	left  int // frames to put
	calls *int
}

func (m *herdMember) txReady(*iface) {
	*m.calls++
	m.put()
}

func (m *herdMember) put() {
	for q := &m.ifc.tx; m.left > 0; m.left-- {
		if !q.room() && q.wait(m) {
			return
		}
		m.ifc.enqueue(&txEntry{frame: nic.Frame{Head: make([]byte, 60)}})
	}
}

// drain calls only as many waiters as the queue has space for. If drain called all waiters each time that
// half of the queue is free, ten thousand waiters would take a hundred thousand calls.
func TestOnlyAsManyWaitersAreCalledAsFit(t *testing.T) {
	for _, frames := range []int{0, 1, 3} {
		a, _ := twoHosts(t, nic.PipeConfig{})
		ifc := a.ifaceNamed("eth0")
		sent := ifc.stats.sent()
		first := herdMember{ifc, 1000, new(int)}
		first.put() // nothing drains the queue
		require.False(t, ifc.tx.room())
		const n = 10_000
		calls := 0
		members := make([]herdMember, n)
		for i := range members {
			m := &members[i]
			*m = herdMember{ifc, frames, &calls}
			require.True(t, ifc.tx.wait(m))
		}
		ifc.drain() // another goroutine may continue to drain
		require.Eventually(t, func() bool {
			return !ifc.tx.draining.Load() && ifc.tx.n.Load() == 0
		}, time.Minute, time.Millisecond)
		for i := range members {
			require.Zero(t, members[i].left)
		}
		require.Zero(t, first.left)
		require.Empty(t, ifc.tx.waiters)
		require.GreaterOrEqual(t, calls, n)
		require.LessOrEqual(t, calls, n*max(frames, 1)+1000, "%d frames each", frames)
		require.EqualValues(t, 1000+n*frames, ifc.stats.sent()-sent)
	}
}

// The drainer checks the queue again after it has cleared draining. Between the drainer's last check and
// the clearing, another goroutine may put a frame, see that draining is set, and return.
func TestDrainerSeesLateFrame(t *testing.T) {
	a, _ := twoHosts(t, nic.PipeConfig{})
	ifc := a.ifaceNamed("eth0")
	const rounds = 50_000 // without the second check, the test failed within 7000 rounds
	frame := make([]byte, 60)
	var ready, done [2]atomic.Int64 // rounds that each goroutine has started and finished
	await := func(n *atomic.Int64, round int64) {
		for n.Load() <= round {
			runtime.Gosched()
		}
	}
	var wg sync.WaitGroup
	for i := range 2 {
		wg.Go(func() {
			for r := range int64(rounds) {
				ready[i].Add(1)
				for spin := 0; ready[1-i].Load() <= r; spin++ { // wait until the other goroutine starts this round too
					if spin > 1000 {
						runtime.Gosched() // with only one processor, spinning would never end
					}
				}
				ifc.enqueue(&txEntry{frame: nic.Frame{Head: frame}})
				ifc.drain()
				done[i].Add(1)
				await(&done[1-i], r)
				if left := ifc.tx.n.Load(); left != 0 {
					t.Errorf("round %d: %d frames were left in the queue", r, left)
					return
				}
			}
		})
	}
	wg.Wait()
}
