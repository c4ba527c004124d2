// Package leak measures the goroutines and the memory that a repeated action leaves behind.
package leak

import (
	"runtime"
	"time"
)

// patience is how long goroutines may need to end.
const patience = time.Minute

// Growth first calls f several times to fill caches and pools, and then n times. It returns by how much the number of
// goroutines and the bytes of the heap in use have grown during the n calls. Nothing else should run meanwhile. In
// a bubble of testing/synctest, Growth also counts the goroutines outside the bubble.
func Growth(n int, f func()) (goroutines int, bytes int64) {
	for range n/10 + 2 {
		f()
	}
	time.Sleep(10 * time.Millisecond) // the last goroutines end
	before, heap := runtime.NumGoroutine(), inUse()
	for range n {
		f()
	}
	for end := time.Now().Add(patience); runtime.NumGoroutine() > before && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	return max(runtime.NumGoroutine()-before, 0), inUse() - heap
}

// inUse returns the bytes of the heap that are in use.
func inUse() int64 {
	runtime.GC()
	runtime.GC() // the first one only moves the items of a sync.Pool to its victim cache
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
