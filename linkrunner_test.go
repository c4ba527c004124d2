package usernet

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/stack"
)

// Several goroutines make messages under the lock. One goroutine at a time sends, without the lock, in the order in
// which the messages were made.
func TestALinkRunnerSendsInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r linkRunner
		var made []int
		var sent []int // the goroutine that sends appends to it, without a lock
		r.init(nil, &stack.InterfaceInfo{}, 1, func(queue []func(time.Time)) time.Time {
			r.mu.Lock()
			for _, f := range queue {
				f(time.Now())
			}
			messages := made
			made = nil
			r.mu.Unlock()
			sent = append(sent, messages...)
			return time.Time{}
		})
		next := 0
		put := func(time.Time) {
			made = append(made, next)
			next++
		}
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				for range 500 {
					require.True(t, r.do(put))
					r.put(put)
				}
			})
		}
		all.Wait()
		time.Sleep(time.Second)
		require.True(t, r.end())
		r.wait()
		require.Len(t, sent, 8000)
		for i, n := range sent {
			require.Equal(t, i, n)
		}
		require.False(t, r.do(put))
		require.False(t, r.room())
	})
}

// A caller of do does a bounded number of rounds. The goroutine of the timer does the others.
func TestAFloodDoesNotDetainACallerOfDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r linkRunner
		var rounds atomic.Int32
		r.init(nil, &stack.InterfaceInfo{}, 1, func([]func(time.Time)) time.Time {
			if rounds.Add(1) < 1000 {
				r.put(func(time.Time) {}) // the next message of a flood
			}
			return time.Time{}
		})
		r.do(nil)
		require.EqualValues(t, runnerRounds, rounds.Load())
		time.Sleep(time.Second)
		r.wait()
		require.EqualValues(t, 1000, rounds.Load())
		// finish runs last once, after the work that is due, and waits for it.
		last := 0
		r.last = func() { last++ }
		var all sync.WaitGroup
		for range 2 {
			all.Go(func() { r.finish(time.Now().Add(dhcpReleaseTime)) })
		}
		all.Wait()
		require.Equal(t, 1, last)
		require.EqualValues(t, 1001, rounds.Load())
	})
}

// If work is stuck, finish returns at its time limit. When work has returned, the runner still calls last.
func TestFinishDoesNotWaitForStuckWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r linkRunner
		r.init(nil, &stack.InterfaceInfo{}, 1, func([]func(time.Time)) time.Time {
			time.Sleep(time.Minute)
			return time.Time{}
		})
		last := false
		r.last = func() { last = true }
		go r.do(nil)
		time.Sleep(time.Second)
		began := time.Now()
		r.finish(began.Add(dhcpReleaseTime))
		require.Equal(t, dhcpReleaseTime, time.Since(began))
		require.True(t, r.hasEnded())
		r.wait()
		require.True(t, last)
		require.Equal(t, 59*time.Second, time.Since(began))
	})
}
