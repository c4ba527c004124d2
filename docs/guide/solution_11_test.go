package guide

import (
	"errors"
	"net"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
)

// scan dials the ports 1 to 1024 of an address, at most 100 at a time. It returns the open ones in order, and how many were
// refused.
func scan(h *usernet.Host, addr string) (open []int, closed int) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	slots := make(chan struct{}, 100)
	for port := 1; port <= 1024; port++ {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			c, err := h.DialTimeout("tcp", net.JoinHostPort(addr, strconv.Itoa(port)), 5*time.Second)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				open = append(open, port)
				c.Close()
			} else if errors.Is(err, syscall.ECONNREFUSED) {
				closed++
			}
		})
	}
	wg.Wait()
	slices.Sort(open)
	return open, closed
}

// Each dial takes a round trip of 100 ms, and 1024 dials in groups of 100 need eleven of them, and one more to find the
// neighbour.
func TestSolution11_1ParallelScan(t *testing.T) {
	solution(t, func(t *testing.T) {
		a, b := pair(t, nic.Impairment{Latency: 50 * time.Millisecond}, 1, nil)
		for _, port := range []string{":22", ":80", ":1024"} {
			ln, err := b.Listen("tcp", port)
			require.NoError(t, err)
			closeLater(t, ln)
		}
		time.Sleep(time.Second)
		began := time.Now()
		open, closed := scan(a, "192.0.2.2")
		require.Equal(t, []int{22, 80, 1024}, open)
		require.Equal(t, 1021, closed)
		require.InDelta(t, 1.2, time.Since(began).Seconds(), 0.11)
	})
}

// Nothing changes but the address: the listeners on ":80" accept both families.
func TestSolution11_2IPv6(t *testing.T) {
	solution(t, func(t *testing.T) {
		a, b := pair(t, nic.Impairment{Latency: 50 * time.Millisecond}, 1, nil)
		ln, err := b.Listen("tcp", ":80")
		require.NoError(t, err)
		closeLater(t, ln)
		open, closed := scan(a, "2001:db8::2")
		require.Equal(t, []int{80}, open)
		require.Equal(t, 1023, closed)
	})
}
