package stack

import (
	"sync/atomic"
	"time"

	"github.com/usernet/usernet/stack/tcp"
)

// coarseTime is the maximum error of the coarse clock, which is slow by it at most.
const coarseTime = 100 * time.Millisecond

// A coarseClock gives datagram sockets a time that is up to coarseTime old. They need the time only for
// the neighbour cache. Reading the exact time costs about a tenth of the CPU time of a datagram in
// memory (P8). The coarse clock runs only while a socket sends many datagrams. It has one alarm.
type coarseClock struct {
	read atomic.Int64 // the time, as tcp.Time; 0: the clock does not run

	mu    mutex[levelLink]
	alarm alarm
}

// coarse returns the coarse time if the coarse clock runs, and otherwise the exact time. If much is
// set, it starts the coarse clock.
func (s *Stack) coarse(much bool) tcp.Time {
	if t := s.clock.read.Load(); t != 0 {
		return tcp.Time(t)
	}
	now := s.now()
	if much {
		s.clock.keep(now)
	}
	return now
}

// keep starts the clock: it stores now for coarseTime.
func (c *coarseClock) keep(now tcp.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.alarm.at == alarmClosed || c.read.Load() != 0 {
		return
	}
	c.read.Store(int64(now))
	c.alarm.set(now, now+tcp.Time(coarseTime), c)
}

// fired stops the clock. The next call of coarse reads the exact time.
func (c *coarseClock) fired() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.alarm.over()
	c.read.Store(0)
}

// stop stops the clock when the stack closes.
func (c *coarseClock) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.alarm.close()
	c.read.Store(0)
}
