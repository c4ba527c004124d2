package stack

import (
	"sync/atomic"
	"time"

	"github.com/usernet/usernet/stack/tcp"
)

// coarseTime is the longest time by which the coarse clock is behind the exact time.
const coarseTime = 100 * time.Millisecond

// A coarseClock gives datagram sockets a time that is up to coarseTime old. Datagram sockets need the
// time only for the neighbour cache. Reading the exact time costs about a tenth of the CPU time of a
// datagram on an in-memory link (benchmark P8). The coarse clock runs only while a socket sends many
// datagrams.
type coarseClock struct {
	read atomic.Int64 // the coarse time, a tcp.Time; 0: the clock does not run

	mu    mutex[levelLink]
	alarm alarm // stops the clock
}

// coarse returns the coarse time if the coarse clock runs, and otherwise the exact time. In the second
// case, if much is set, it also starts the coarse clock. much says that the socket sends many datagrams.
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

// keep starts the clock. The coarse time then keeps the value of the argument until the alarm stops the
// clock after coarseTime.
func (c *coarseClock) keep(now tcp.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.alarm.at == alarmClosed || c.read.Load() != 0 {
		return
	}
	c.read.Store(int64(now))
	c.alarm.set(now, now+tcp.Time(coarseTime), c)
}

// fired is called by the alarm. It stops the clock, so the next call of coarse reads the exact time.
func (c *coarseClock) fired() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.alarm.over()
	c.read.Store(0)
}

// stop stops the clock for good. It is called when the stack closes.
func (c *coarseClock) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.alarm.close()
	c.read.Store(0)
}
