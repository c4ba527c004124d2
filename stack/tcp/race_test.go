//go:build race

package tcp

// racing tells that the race detector is on. The core has no goroutine in which it
// could find anything: it is given a sample of the long tests.
const racing = true
