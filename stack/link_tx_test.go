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
	q     *txQueue
	left  int // frames to put
	calls *int
}

func (m *herdMember) txReady(*txQueue) {
	*m.calls++
	m.put()
}

func (m *herdMember) put() {
	for ; m.left > 0; m.left-- {
		if !m.q.room() && m.q.wait(m) {
			return
		}
		m.q.enqueue(&txEntry{frame: nic.Frame{Head: make([]byte, 60)}})
	}
}

// drain calls only as many waiters as the queue has space for. If drain called all waiters each time that
// half of the queue is free, ten thousand waiters would take a hundred thousand calls.
func TestOnlyAsManyWaitersAreCalledAsFit(t *testing.T) {
	for _, frames := range []int{0, 1, 3} {
		a, _ := twoHosts(t, nic.PipeConfig{})
		ifc := a.ifaceNamed("eth0")
		q := &ifc.tx
		if frames == 3 {
			q = ifc.bulkQueue(1)
		}
		sent := ifc.stats.sent()
		first := herdMember{q, 1000, new(int)}
		first.put() // nothing drains the queue
		require.False(t, q.room())
		const n = 10_000
		calls := 0
		members := make([]herdMember, n)
		for i := range members {
			m := &members[i]
			*m = herdMember{q, frames, &calls}
			require.True(t, q.wait(m))
		}
		ifc.drain() // another goroutine may continue to drain
		require.Eventually(t, func() bool {
			return !q.draining.Load() && q.n.Load() == 0
		}, time.Minute, time.Millisecond)
		for i := range members {
			require.Zero(t, members[i].left)
		}
		require.Zero(t, first.left)
		require.Empty(t, q.waiters)
		require.GreaterOrEqual(t, calls, n)
		require.LessOrEqual(t, calls, n*max(frames, 1)+1000, "%d frames each", frames)
		// On a slow machine the host sends up to three Router Solicitations meanwhile, if it has IPv6.
		require.InDelta(t, 1000+n*frames, ifc.stats.sent()-sent, 3)
	}
}

// The drainer checks the queue again after it has cleared draining. Between the drainer's last check and
// the clearing, another goroutine may put a frame, see that draining is set, and return.
func TestDrainerSeesLateFrame(t *testing.T) {
	a, _ := twoHosts(t, nic.PipeConfig{})
	ifc := a.ifaceNamed("eth0")
	t.Run("shared queue", func(t *testing.T) { testLateFrames(t, ifc, &ifc.tx) })
	t.Run("bulk queue", func(t *testing.T) { testLateFrames(t, ifc, ifc.bulkQueue(1)) })
}

func testLateFrames(t *testing.T, ifc *iface, q *txQueue) {
	const rounds = 50_000 // without the second check, the test failed within 7000 rounds
	frame := make([]byte, 60)
	var ready, done [2]atomic.Int64 // rounds that each goroutine has started and finished
	var failed atomic.Bool
	// await waits until ok returns true. It returns false if that takes too long.
	await := func(ok func() bool) bool {
		for start := time.Now(); !ok(); runtime.Gosched() {
			if failed.Load() || time.Since(start) > 30*time.Second {
				failed.Store(true)
				return false
			}
		}
		return true
	}
	var wg sync.WaitGroup
	for i := range 2 {
		wg.Go(func() {
			for r := range int64(rounds) {
				ready[i].Add(1)
				// Wait until the other goroutine starts this round too. Spinning brings the two closest
				// together, but with only one processor it would never end.
				for spin := 0; spin < 1000 && ready[1-i].Load() <= r; spin++ {
				}
				if !await(func() bool { return ready[1-i].Load() > r }) {
					return
				}
				q.enqueue(&txEntry{frame: nic.Frame{Head: frame}})
				ifc.drain()
				done[i].Add(1)
				// A timer of the stack may be the drainer, so the frames may leave a little later.
				if !await(func() bool { return done[1-i].Load() > r && q.n.Load() == 0 }) {
					t.Errorf("round %d: %d frames were left in the queue", r, q.n.Load())
					return
				}
			}
		})
	}
	wg.Wait()
}
