package stack

import (
	"sync/atomic"
	"time"

	"github.com/usernet/usernet/stack/tcp"
)

// coarseTime is by how much the coarse clock may be slow.
const coarseTime = 100 * time.Millisecond

// A coarseClock keeps a time that was read for as long as it is good enough. To read
// the clock costs about a tenth of a datagram. It runs only while there is much to send,
// with one alarm, which nothing waits for.
type coarseClock struct {
	read atomic.Int64 // tcp.Time; 0: it is not kept

	mu    mutex[levelLink]
	alarm alarm
}

// coarse is the time, or one that was not more than coarseTime ago. Who has sent much
// has the clock run.
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
