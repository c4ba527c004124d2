package stack

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestADeadlineMovesBothWays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var d deadline
		var woken []time.Duration
		begin := time.Now()
		set := func(after time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			d.set(begin.Add(after), &mu, func() { woken = append(woken, time.Since(begin)) })
		}
		check := func(at time.Duration, expired bool, want ...time.Duration) {
			t.Helper()
			time.Sleep(time.Until(begin.Add(at)))
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			require.Equal(t, expired, d.expired())
			require.Equal(t, want, woken)
		}
		set(10 * time.Second)
		set(20 * time.Second) // later: the old timer may still fire, which must not expire the deadline
		check(15*time.Second, false)
		check(20*time.Second, true, 20*time.Second)
		set(time.Hour)
		check(21*time.Second, false, 20*time.Second)
		set(30 * time.Second) // earlier
		check(30*time.Second, true, 20*time.Second, 30*time.Second)
		set(-time.Hour) // past: expires at once
		check(31*time.Second, true, 20*time.Second, 30*time.Second, 30*time.Second)
		set(40 * time.Second)
		mu.Lock()
		d.set(time.Time{}, &mu, nil)
		require.False(t, d.expired())
		mu.Unlock()
		check(50*time.Second, false, 20*time.Second, 30*time.Second, 30*time.Second)
		set(time.Minute)
		mu.Lock()
		d.stop()
		mu.Unlock()
		check(2*time.Minute, false, 20*time.Second, 30*time.Second, 30*time.Second)
	})
}

func TestADeadlineThatIsSetWhileItsTimerFiresHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var d deadline
		wakes := 0
		begin := time.Now()
		for i := range 100 {
			mu.Lock()
			d.set(begin.Add(time.Duration(i+1)*time.Second), &mu, func() { wakes++ })
			mu.Unlock()
			// The timer of the deadline and the test wake at the same time, so either may lock mu first.
			time.Sleep(time.Second)
			mu.Lock()
			d.set(begin.Add(time.Hour), &mu, nil)
			require.False(t, d.expired())
			mu.Unlock()
			synctest.Wait()
			mu.Lock()
			require.False(t, d.expired(), "the timer of the previous deadline has fired")
			mu.Unlock()
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		require.True(t, d.expired())
	})
}
