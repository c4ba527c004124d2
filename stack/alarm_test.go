package stack

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/stack/tcp"
)

// A testOwner records when its alarm fires.
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

// times returns the times at which the alarm has fired.
func (o *testOwner) times() []time.Duration {
	synctest.Wait()
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.at)
}

// move calls the move method of the alarm, with o.mu held.
func (o *testOwner) move(at tcp.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.alarm.move(o.now(), at, o)
}

func TestAlarmFiresAtTheEarliestTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &testOwner{start: time.Now()}
		at := func(d time.Duration) tcp.Time { return tcp.Time(d) }
		o.mu.Lock()
		o.alarm.set(o.now(), at(3*time.Second), o)
		o.alarm.set(o.now(), at(5*time.Second), o)
		o.alarm.set(o.now(), at(2*time.Second), o)
		o.alarm.set(o.now(), 0, o) // 0 means never, and changes nothing
		o.mu.Unlock()
		time.Sleep(4 * time.Second)
		require.Equal(t, []time.Duration{2 * time.Second}, o.times())

		o.mu.Lock()
		o.alarm.set(o.now(), at(time.Second), o) // the time has passed
		o.mu.Unlock()
		require.Equal(t, []time.Duration{2 * time.Second, 4 * time.Second}, o.times())
	})
}

func TestAlarmMovesLaterAndStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := &testOwner{start: time.Now()}
		o.move(0)
		o.move(tcp.Second)
		o.move(3 * tcp.Second)
		time.Sleep(2 * time.Second)
		require.Empty(t, o.times())
		time.Sleep(2 * time.Second)
		require.Equal(t, []time.Duration{3 * time.Second}, o.times())

		o.move(5 * tcp.Second)
		o.move(0) // unlike set(0), this stops the alarm
		time.Sleep(time.Minute)
		require.Len(t, o.times(), 1)

		o.alarm.close()
		o.alarm.set(o.now(), o.now()+1, o)
		o.move(o.now() + 1)
		time.Sleep(time.Minute)
		require.Len(t, o.times(), 1)
		require.False(t, o.alarm.over())
	})
}

// A table may set its alarm for each packet, so setting an alarm must not allocate.
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
