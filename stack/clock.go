package stack

import (
	"sync/atomic"
	"time"

	"github.com/usernet/usernet/stack/tcp"
)

// coarseTime is by how much the coarse clock may be slow.
const coarseTime = 100 * time.Millisecond

// A coarseClock gives datagram sockets a time that is up to coarseTime old, which they need only to look
// at their neighbours. Reading the clock is about a tenth of the CPU time of a datagram in memory (P8).
// The coarse clock runs only while a socket sends much, with one alarm.
type coarseClock struct {
	read atomic.Int64 // tcp.Time; 0: it is not kept

	mu    mutex[levelLink]
	alarm alarm
}

// coarse returns the time, or one that is at most coarseTime old. With much set, the coarse clock runs
// from now on.
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

// keep has the time stand for a while.
func (c *coarseClock) keep(now tcp.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.alarm.at == alarmClosed || c.read.Load() != 0 {
		return
	}
	c.read.Store(int64(now))
	c.alarm.set(now, now+tcp.Time(coarseTime), c)
}

// fired has the time read anew.
func (c *coarseClock) fired() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.alarm.over()
	c.read.Store(0)
}

// stop ends the clock with its stack.
func (c *coarseClock) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.alarm.close()
	c.read.Store(0)
}
