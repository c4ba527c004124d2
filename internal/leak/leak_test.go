package leak_test

import (
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/internal/leak"
)

func ExampleGrowth() {
	goroutines, bytes := leak.Growth(100, func() {
		done := make(chan []byte)
		go func() { done <- make([]byte, 100_000) }()
		<-done
	})
	fmt.Println(goroutines, bytes < 100_000)
	// Output: 0 true
}

func TestGrowthCountsWhatIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // the wait for the goroutines takes no time
		end := make(chan struct{})
		goroutines, _ := leak.Growth(10, func() { go func() { <-end }() })
		close(end)
		require.Equal(t, 10, goroutines)
	})
	var kept [][]byte
	goroutines, bytes := leak.Growth(100, func() { kept = append(kept, make([]byte, 64<<10)) })
	require.Zero(t, goroutines)
	require.InDelta(t, 100*64<<10, bytes, 1<<20)
	_, bytes = leak.Growth(100, func() { kept[0] = make([]byte, 64<<10) })
	require.Less(t, bytes, int64(1<<20))
}
