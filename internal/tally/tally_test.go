package tally

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNothingIsCountedTwiceOrLost(t *testing.T) {
	// A Tally keeps both counts in one word until fold. Adds of 64 KiB fill the bytes' part of the word many
	// times, and Adds without bytes fill the frames' part.
	for _, size := range []int{0, 64 << 10, 1 << 30} {
		var c Tally
		const adders, each = 4, 20_000
		var wg sync.WaitGroup
		for range adders {
			wg.Go(func() {
				for range each {
					c.Add(1000, size)
				}
			})
		}
		stop, watched := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(watched)
			var lastFrames, lastBytes uint64
			for {
				frames, bytes := c.Load()
				if frames < lastFrames || bytes < lastBytes {
					t.Errorf("from %d frames and %d bytes back to %d and %d", lastFrames, lastBytes, frames, bytes)
					return
				}
				if frames/1000*uint64(size) != bytes {
					t.Errorf("%d frames of %d bytes are not %d bytes", frames, size, bytes)
					return
				}
				lastFrames, lastBytes = frames, bytes
				select {
				case <-stop:
					return
				default:
				}
			}
		}()
		wg.Wait()
		close(stop)
		<-watched
		frames, bytes := c.Load()
		require.EqualValues(t, adders*each*1000, frames)
		require.EqualValues(t, adders*each*size, bytes)
		require.NotZero(t, c.ended.Load())
	}
}
