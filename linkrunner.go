package usernet

import (
	"context"
	"iter"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/usernet/usernet/stack"
)

// A linkRunner runs a machine without a clock, such as a client of package dhcp, on an interface of a host. No
// goroutine waits for messages or deadlines. One goroutine at a time has the turn: it calls work until
// nothing is left to do. The other goroutines only queue steps. Only work sends the messages of the machine, and work
// holds no lock while it sends. So messages leave in the order in which the machine has made them.
type linkRunner struct {
	h     *Host
	nic   string
	index int
	conn  *stack.UDP // the socket of the linkSet; nil if the linkUser needs no socket
	limit int        // room accepts a received message while queue is shorter
	// work runs the queued steps and does what is due. It returns the time of the next call of work. If that time is
	// zero, no call is due; if it has passed, the call is due at once. The goroutine that has the turn calls work
	// without a lock.
	work func(queue []func(now time.Time)) (next time.Time)
	// last ends the use of the machine: see finish. The goroutine that has the turn calls last.
	last  func()
	until time.Time // messages of last may wait until then; zero: finish was not called. Written with the turn and mu.

	mu      sync.Mutex
	changed sync.Cond             // turn or ended has changed
	timer   *time.Timer           // for the next call of work
	queue   []func(now time.Time) // steps, in the order in which they are to be run
	dropped uint64                // received messages that found the queue full
	closing time.Time             // finish sets it, run moves it to until and calls last; zero: nothing to move
	addrs   []netip.Addr          // added to the interface by addAddr, or about to be added
	turn    bool                  // a goroutine runs work
	again   bool                  // run has to call work once more
	ended   bool                  // run does not call work any more, and addAddr and addRoute leave nothing on the host
}

const (
	// runnerRounds is how often run calls work before it leaves the rest to the goroutine of the timer.
	// So a flood of messages does not block a caller of StartDHCP for long.
	runnerRounds = 16
	// dhcpSendTime limits the time for which work waits for room in the transmit queue of the link.
	dhcpSendTime = time.Second
	// dhcpReleaseTime limits how long StopDHCP, StopDHCP6 and StopLinkLocal wait for a client, and how long
	// linkSet.close waits for all its clients. A client needs the time for a running step, for room in the transmit
	// queue, and for the link address of the next hop to a server.
	dhcpReleaseTime = 200 * time.Millisecond
)

// init prepares a runner. The runner calls work only after do, put, wake or finish was called.
func (r *linkRunner) init(h *Host, info *stack.InterfaceInfo, limit int, work func([]func(time.Time)) time.Time) {
	r.h, r.nic, r.index, r.limit, r.work = h, info.Name, info.Index, limit, work
	r.changed.L = &r.mu
	r.timer = time.AfterFunc(time.Hour, func() { r.do(nil) })
	r.timer.Stop() // until run or wake arms it
}

// base returns r. A linkSet calls base to get the runner that a linkUser embeds.
func (r *linkRunner) base() *linkRunner { return r }

// do calls f, if it is not nil, with the lock held, and then runs work. If another goroutine has the turn, that
// goroutine runs work. If the runner has ended, do does nothing and returns false.
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

// run calls work until nothing is left to do, but at most runnerRounds times; the timer then calls run again. If finish
// asked for it, run also calls last. If another goroutine has the turn, that goroutine makes these calls. r.mu is held;
// run releases it during the calls.
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

// due reports whether run has to call work or last, after n calls. next is the time that work has returned. r.mu is
// held.
func (r *linkRunner) due(next time.Time, n int) bool {
	if !r.closing.IsZero() {
		return true
	}
	return !r.ended && n < runnerRounds && (r.again || !next.IsZero() && !next.After(time.Now()))
}

// arm sets the timer. r.mu is held. The timer fires after a century at the latest, so that the sum below does not
// overflow. If nothing is due at that time, work does nothing and the timer is armed again.
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

// room reports whether the queue has room for a received message. If the queue is full, room counts the message as
// dropped. If the runner has ended, room returns false.
func (r *linkRunner) room() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.queue) < r.limit {
		return !r.ended
	}
	r.dropped++
	return false
}

// put queues a step, which work will run. If the runner has ended, put does nothing. put does not block: the goroutine
// that received a packet calls it.
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

// look makes a goroutine call work soon. work then compares the interface with the state of the machine.
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

// end ends the runner, and does not call last. It returns false if the runner had ended already. A running call
// of work continues.
func (r *linkRunner) end() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		r.changed.Broadcast() // wake finish, which checks its deadline
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

// finish makes another goroutine call last, and ends the runner. It waits until time end at the latest. A call of work
// may still be running at that time, for example because the link accepts no frames. That call then leaves no change on
// the host, and run calls last after it.
func (r *linkRunner) finish(end time.Time) {
	// The messages of last wait for room until soon. The last quarter of the time is for the rest of last.
	soon := end.Add(-time.Until(end) / 4)
	late := time.AfterFunc(time.Until(soon), func() { r.end() })
	defer late.Stop()
	over := time.AfterFunc(time.Until(end), r.changed.Broadcast)
	defer over.Stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.ended && r.until.IsZero() {
		r.closing = soon
		go func() { // not in this goroutine: last calls OnEvent, which may block or call Host.Close
			r.mu.Lock()
			defer r.mu.Unlock()
			r.run()
		}()
	}
	for !r.ended || (r.turn || !r.closing.IsZero()) && time.Now().Before(end) {
		r.changed.Wait()
	}
}

// sendEnd returns the time until which a message may wait for room in the transmit queue.
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

// collected returns an iterator over the elements of list. It collects them with mu held, but does not hold mu while
// the body of the loop runs.
func collected[T any](mu sync.Locker, list func() iter.Seq[T]) iter.Seq[T] {
	return func(yield func(T) bool) {
		mu.Lock()
		all := slices.Collect(list())
		mu.Unlock()
		for _, x := range all {
			if !yield(x) {
				return
			}
		}
	}
}
