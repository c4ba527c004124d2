package usernet

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/usernet/usernet/stack"
)

// A linkRunner runs a machine without a clock, such as a client of package dhcp, on an interface of a host. No
// goroutine waits for messages or deadlines. One goroutine at a time has the turn: it calls work until
// nothing is left to do. Others only queue steps. Only work sends what the machine has made, and work holds no
// lock while it sends. So messages leave in the order in which the machine has made them.
type linkRunner struct {
	h     *Host
	nic   string
	index int
	conn  *stack.UDP // the socket of the linkSet; nil: none
	limit int        // of received messages in the queue
	// work runs the queued steps and does what is due. It returns when to call it again: never if the time is
	// zero, and at once if the time has come. The goroutine that has the turn calls work without a lock.
	work func(queue []func(now time.Time)) (next time.Time)
	// last ends the use of the machine: see finish. The goroutine that has the turn calls last.
	last  func()
	until time.Time // until when last may wait; zero: finish was not called. It is set with the turn and mu.

	mu      sync.Mutex
	changed sync.Cond             // turn or ended has changed
	timer   *time.Timer           // for the next call of work
	queue   []func(now time.Time) // steps, in the order in which they are to be run
	dropped uint64                // messages that arrived while the queue was full
	closing time.Time             // until when last may wait; zero: last is not to be called
	addrs   []netip.Addr          // added to the interface by addAddr, or about to be added
	turn    bool                  // a goroutine runs work
	again   bool                  // work is to be called once more
	ended   bool                  // set when work is not called any more, and nothing more may be added to the host
}

const (
	// runnerRounds is how often a goroutine calls work before it leaves the rest to the goroutine of the timer.
	// So a flood of messages does not detain a caller of StartDHCP.
	runnerRounds = 16
	// dhcpSendTime limits the time for which work waits for room in the transmit queue of the link.
	dhcpSendTime = time.Second
	// dhcpReleaseTime limits how long Close and the Stop methods wait. They wait for a running step, for room
	// in the transmit queue, and for the link address of the next hop to a server.
	dhcpReleaseTime = 200 * time.Millisecond
)

// init prepares a runner. It does not run before do, put or wake is called.
func (r *linkRunner) init(h *Host, info *stack.InterfaceInfo, limit int, work func([]func(time.Time)) time.Time) {
	r.h, r.nic, r.index, r.limit, r.work = h, info.Name, info.Index, limit, work
	r.changed.L = &r.mu
	r.timer = time.AfterFunc(time.Hour, func() { r.do(nil) })
	r.timer.Stop() // until run or wake arms it
}

// base returns r. A linkSet finds with it the runner that a linkUser embeds.
func (r *linkRunner) base() *linkRunner { return r }

// do calls f with the lock held, and then runs work. If another goroutine has the turn, that goroutine runs
// work. f may be nil. If the runner has ended, do does nothing and returns false.
func (r *linkRunner) do(f func(now time.Time)) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return false
	}
	if f != nil {
		f(time.Now())
	}
	r.run()
	return true
}

// run calls work until nothing is left to do, unless another goroutine has the turn. r.mu is held; run
// releases it meanwhile.
func (r *linkRunner) run() {
	r.again = true
	if r.turn {
		return
	}
	r.turn = true
	var next time.Time
	for n := 0; r.due(next, n); n++ {
		queue, closing, ended := r.queue, r.closing, r.ended
		r.queue, r.closing, r.again = nil, time.Time{}, false
		if !closing.IsZero() {
			r.until = closing
		}
		r.mu.Unlock()
		if !ended {
			next = r.work(queue)
		}
		if !closing.IsZero() {
			r.last()
		}
		r.mu.Lock()
		r.ended = r.ended || !closing.IsZero()
	}
	r.turn = false
	r.changed.Broadcast()
	switch {
	case r.ended:
		r.timer.Stop()
		r.queue = nil
	case r.again:
		r.arm(time.Now())
	case next.IsZero():
		r.timer.Stop()
	default:
		r.arm(next)
	}
}

// due reports whether run has to call work or last, after n calls. next is what work has returned. r.mu is
// held.
func (r *linkRunner) due(next time.Time, n int) bool {
	if !r.closing.IsZero() {
		return true
	}
	return !r.ended && n < runnerRounds && (r.again || !next.IsZero() && !next.After(time.Now()))
}

// arm sets the timer. r.mu is held. The timer fires after a century at the latest, so that no sum overflows; work then
// finds nothing to do.
func (r *linkRunner) arm(at time.Time) {
	now := time.Now()
	if at.Before(now) {
		at = now
	}
	if end := now.Add(100 * 365 * 24 * time.Hour); at.After(end) {
		at = end
	}
	// Round the time up to a multiple of 64 ns, as the timers of the stack do (see timerSlots in package
	// stack).
	r.timer.Reset(at.Sub(now) + time.Duration(-at.UnixNano()&63))
}

// room reports whether the queue has room for a received message. If not, it counts the message as dropped.
func (r *linkRunner) room() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.queue) < r.limit {
		return !r.ended
	}
	r.dropped++
	return false
}

// put queues a step, which work will run. It does not block, because the goroutine that received a packet
// calls it.
func (r *linkRunner) put(f func(now time.Time)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.ended {
		r.queue = append(r.queue, f)
		r.wake()
	}
}

// wake makes a goroutine call work soon. r.mu is held.
func (r *linkRunner) wake() {
	r.again = true
	if !r.turn {
		r.arm(time.Now())
	}
}

// look makes work compare the interface with the state of the machine, in a goroutine of the runner.
func (r *linkRunner) look() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.ended {
		r.wake()
	}
}

func (r *linkRunner) hasEnded() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ended
}

// end ends the runner without a call of last. It reports false if the runner had ended already. A running call
// of work continues.
func (r *linkRunner) end() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		r.changed.Broadcast() // finish may wait only until its time
		return false
	}
	r.ended = true
	r.timer.Stop()
	r.changed.Broadcast()
	return true
}

// wait waits until no goroutine has the turn.
func (r *linkRunner) wait() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.turn {
		r.changed.Wait()
	}
}

// finish calls last and ends the runner. It waits until time end at the latest. A call of work may still be running
// at that time, for example because the link accepts no frames. That call then changes nothing on the host any more,
// and last is called after it.
func (r *linkRunner) finish(end time.Time) {
	// The last quarter of the time is for what last does after its messages have waited for room in vain.
	soon := end.Add(-time.Until(end) / 4)
	late := time.AfterFunc(time.Until(soon), func() { r.end() })
	defer late.Stop()
	over := time.AfterFunc(time.Until(end), r.changed.Broadcast)
	defer over.Stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.ended && r.until.IsZero() {
		r.closing = soon
		go func() { // not here: last calls OnEvent, which may block or call Host.Close
			r.mu.Lock()
			defer r.mu.Unlock()
			r.run()
		}()
	}
	for !r.ended || (r.turn || !r.closing.IsZero()) && time.Now().Before(end) {
		r.changed.Wait()
	}
}

// sendEnd returns until when a message may wait for room in the transmit queue.
func (r *linkRunner) sendEnd() time.Time {
	if r.until.IsZero() {
		return time.Now().Add(dhcpSendTime)
	}
	return r.until
}

// link returns the interface, or nil if it was removed.
func (r *linkRunner) link() *stack.InterfaceInfo {
	infos := r.h.stack.Interfaces()
	i := slices.IndexFunc(infos, func(info stack.InterfaceInfo) bool { return info.Index == r.index })
	if i < 0 {
		return nil
	}
	return &infos[i]
}

func (r *linkRunner) log(level slog.Level, text string, args ...any) {
	if l := r.h.logger; l != nil {
		l.Log(context.Background(), level, text, append([]any{"nic", r.nic}, args...)...)
	}
}
