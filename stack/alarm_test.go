package stack

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/stack/tcp"
)

// A testOwner notes when its alarm fires.
type testOwner struct {
	mu    sync.Mutex
	start time.Time
	alarm alarm
	at    []time.Duration
}

func (o *testOwner) fired() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.alarm.over() {
		o.at = append(o.at, time.Since(o.start))
	}
}

func (o *testOwner) now() tcp.Time { return tcp.Time(time.Since(o.start)) }

func TestAlarmFiresAtTheEarliestTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &testOwner{start: time.Now()}
		at := func(d time.Duration) tcp.Time { return tcp.Time(d) }
		o.mu.Lock()
		o.alarm.set(o.now(), at(3*time.Second), o)
		o.alarm.set(o.now(), at(5*time.Second), o)
		o.alarm.set(o.now(), at(2*time.Second), o)
		o.alarm.set(o.now(), 0, o)
		o.mu.Unlock()
		time.Sleep(4 * time.Second)
		require.Equal(t, []time.Duration{2 * time.Second}, o.at)

		o.mu.Lock()
		o.alarm.set(o.now(), at(time.Second), o) // has come
		o.mu.Unlock()
		synctest.Wait()
		require.Equal(t, []time.Duration{2 * time.Second, 4 * time.Second}, o.at)
	})
}

func TestAlarmMovesLaterAndStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &testOwner{start: time.Now()}
		o.alarm.move(o.now(), 0, o)
		o.alarm.move(o.now(), tcp.Second, o)
		o.alarm.move(o.now(), 3*tcp.Second, o)
		time.Sleep(2 * time.Second)
		require.Empty(t, o.at)
		time.Sleep(2 * time.Second)
		require.Equal(t, []time.Duration{3 * time.Second}, o.at)

		o.alarm.move(o.now(), 5*tcp.Second, o)
		o.alarm.move(o.now(), 0, o)
		time.Sleep(time.Minute)
		require.Len(t, o.at, 1)

		o.alarm.close()
		o.alarm.set(o.now(), o.now()+1, o)
		o.alarm.move(o.now(), o.now()+1, o)
		time.Sleep(time.Minute)
		require.Len(t, o.at, 1)
		require.False(t, o.alarm.over())
	})
}

// A table sets its alarm while packets go by: it must not make garbage.
func TestAnAlarmThatIsSetAllocatesNothing(t *testing.T) {
	o := &testOwner{start: time.Now()}
	o.alarm.set(0, tcp.Time(time.Hour), o)
	n := tcp.Time(time.Hour)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		n--
		o.alarm.set(0, n, o)
	}))
	o.alarm.close()
}
