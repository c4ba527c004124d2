//go:build lockorder && !race

package stack

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
)

func TestABreachOfTheLockOrderPanics(t *testing.T) {
	a, b := twoHosts(t, nic.PipeConfig{})
	c, _ := connect(t, a, b)
	u := openUDP(t, a, "0.0.0.0:1")
	breach := func(first, second sync.Locker) {
		t.Helper()
		first.Lock()
		require.Panics(t, second.Lock)
		first.Unlock()
		second.Lock() // not held by this goroutine
		first.Lock()
		first.Unlock()
		second.Unlock()
	}
	breach(&c.mu, &a.mu)
	breach(&a.udp.mu, &u.mu)
	breach(&a.ifaceNamed("eth0").tx.mu, &a.tcp.waits.mu)

	c.mu.Lock()
	require.Panics(t, u.mu.Lock, "one socket at a time")
	taken := make(chan bool)
	go func() {
		u.mu.Lock()
		u.mu.Unlock()
		taken <- true
	}()
	<-taken // locked by another goroutine
	c.mu.Unlock()
}
