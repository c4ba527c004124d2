package stack

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
)

// A herdMember waits for room, and puts frames when it has it.
type herdMember struct {
	ifc   *iface
	left  int // frames to put
	calls *int
}

func (m *herdMember) txReady() {
	*m.calls++
	m.put()
}

func (m *herdMember) put() {
	for q := &m.ifc.tx; m.left > 0; m.left-- {
		if !q.room() && q.wait(m) {
			return
		}
		m.ifc.enqueue(txEntry{frame: nic.Frame{Head: make([]byte, 60)}})
	}
}

// All of them would be called for each half of a queue that has been sent: a hundred
// thousand calls for ten thousand.
func TestThoseWhoWaitForRoomAreCalledWhenThereIsRoomForThem(t *testing.T) {
	for _, frames := range []int{0, 1, 3} {
		a, _ := twoHosts(t, nic.PipeConfig{})
		ifc := a.ifaceNamed("eth0")
		sent := ifc.stats.TxFrames.Load()
		first := herdMember{ifc, 1000, new(int)}
		first.put() // nobody drains
		require.False(t, ifc.tx.room())
		const n = 10_000
		calls := 0
		members := make([]herdMember, n)
		for i := range members {
			m := &members[i]
			*m = herdMember{ifc, frames, &calls}
			require.True(t, ifc.tx.wait(m))
		}
		ifc.drain() // which may hand its turn on
		require.Eventually(t, func() bool {
			return !ifc.tx.busy.Load() && ifc.tx.n.Load() == 0
		}, time.Minute, time.Millisecond)
		for i := range members {
			require.Zero(t, members[i].left)
		}
		require.Zero(t, first.left)
		require.Empty(t, ifc.tx.waiters)
		require.GreaterOrEqual(t, calls, n)
		require.LessOrEqual(t, calls, n*max(frames, 1)+1000, "%d frames each", frames)
		require.EqualValues(t, 1000+n*frames, ifc.stats.TxFrames.Load()-sent)
	}
}
