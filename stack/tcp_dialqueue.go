package stack

import (
	"context"
	"math"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"

	"github.com/usernet/usernet/stack/tcp"
)

// dialEnds are what dials that compete for local ports have in common.
type dialEnds struct {
	src    netip.Addr
	remote netip.AddrPort
	zone   int
}

// A dialQueue has the dials between the same ends that found no free port while some
// ports were held by connections that are over for the application. They wait in the
// order in which they came, and only the first looks for a port: to look at all ports
// takes a while.
type dialQueue struct {
	waiting []*queuedDial
	at      tcp.Time // when the first is to look; 0: when it is told that a port is free
}

// A queuedDial is a dial that waits. Its lock is that of timeWaits.
type queuedDial struct {
	cond     sync.Cond
	canceled bool // the context of the dial ended
}

// wake wakes the first dial if it is to look by now.
func (q *dialQueue) wake(now tcp.Time) {
	if q.at != 0 && q.at <= now {
		q.waiting[0].cond.Signal()
	}
}

// free notes that the tuple k can be taken by a dial at the given time; at is not 0.
// w.mu is held.
func (w *timeWaits) free(k *tuple, at tcp.Time) {
	if len(w.dials) == 0 {
		return
	}
	q := w.dials[dialEnds{k.local().Addr(), k.remote(), k.zone()}]
	if q != nil && (q.at == 0 || at < q.at) {
		q.at = at
		q.wake(w.s.now())
	}
}

// freed notes that the tuple k has left the table.
func (w *timeWaits) freed(k *tuple) {
	if w.queued.Load() == 0 {
		return
	}
	w.mu.Lock()
	w.free(k, 1)
	w.mu.Unlock()
}

// queue puts a dial behind those that wait, and returns nil if none do and first is
// not set.
func (w *timeWaits) queue(ends dialEnds, first bool) *queuedDial {
	if !first && w.queued.Load() == 0 {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	q := w.dials[ends]
	if q == nil {
		if !first {
			return nil
		}
		if w.dials == nil {
			w.dials = make(map[dialEnds]*dialQueue)
		}
		q = &dialQueue{}
		w.dials[ends] = q
		w.queued.Store(int32(len(w.dials)))
	}
	d := &queuedDial{}
	d.cond.L = &w.mu
	q.waiting = append(q.waiting, d)
	return d
}

// leave takes a dial out of its queue, and has the next one look if it was the first.
func (w *timeWaits) leave(ends dialEnds, d *queuedDial) {
	w.mu.Lock()
	defer w.mu.Unlock()
	q := w.dials[ends]
	first := q.waiting[0] == d
	q.waiting = slices.DeleteFunc(q.waiting, func(x *queuedDial) bool { return x == d })
	if len(q.waiting) == 0 {
		delete(w.dials, ends)
		w.queued.Store(int32(len(w.dials)))
	} else if first {
		q.at = 1
		q.waiting[0].cond.Signal()
	}
}

// await waits until it is the turn of d to look for a port: at the given time, or when
// one is free.
func (w *timeWaits) await(ctx context.Context, ends dialEnds, d *queuedDial, at tcp.Time) error {
	if ctx.Done() != nil {
		defer context.AfterFunc(ctx, func() {
			w.mu.Lock()
			d.canceled = true
			d.cond.Signal()
			w.mu.Unlock()
		})()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	q := w.dials[ends]
	if q.waiting[0] == d && at < whenTold && (q.at == 0 || at < q.at) {
		q.at = at
		w.arm(w.s.now())
	}
	for {
		switch {
		case w.closed:
			return net.ErrClosed
		case d.canceled:
			return ctx.Err()
		case q.waiting[0] == d && q.at != 0 && q.at <= w.s.now():
			q.at = 0 // what is told from now on comes after the look
			return nil
		}
		d.cond.Wait()
	}
}

// Instead of the time when a port can be taken.
const (
	whenTold tcp.Time = math.MaxInt64 - 1 // not known: free will tell
	noPort   tcp.Time = math.MaxInt64     // it cannot
)

// glance is how many ports a dial looks at before it takes its place in the queue to
// look at all.
const glance = 256

// orphaned reports whether the application has closed the connection.
func (t *TCP) orphaned() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.closed
}

// bindEphemeral chooses the local port of an active open (RFC 6056), and puts the
// socket into the table. old is the connection in TIME-WAIT whose place it takes, or nil.
//
// Where every port is taken, and some only by connections that are over for the
// application, it waits for one of those.
func (s *Stack) bindEphemeral(ctx context.Context, t *TCP, src netip.Addr, remote netip.AddrPort) (old *timeWait, err error) {
	w, ends := &s.tcp.waits, dialEnds{src, remote, int(t.path.zone)}
	hash := s.hashAddrs(netip.AddrPortFrom(src, 0), remote)
	d := w.queue(ends, false) // behind those that wait
	at := noPort
	for {
		if d != nil {
			if err := w.await(ctx, ends, d, at); err != nil {
				w.leave(ends, d)
				return nil, err
			}
		}
		now, tries := s.now(), 0
		at = noPort
		_, ok := s.ephemeralPort(hash, func(port uint16) bool {
			if tries++; tries > glance && d == nil {
				at = 1
				return false
			}
			local := netip.AddrPortFrom(src, port)
			if local == remote || s.tcp.listeners.find(local, int(t.path.zone)) != nil {
				return false // it would connect to itself, which only who asks for it wants
			}
			t.key = makeTuple(local, remote, int(t.path.zone))
			taken := s.tcp.table.put(&t.tcpEntry)
			if taken == nil {
				return true
			}
			var when tcp.Time
			switch {
			case taken.wait != nil:
				var ok bool
				if ok, when = w.take(now, taken.wait, t); ok {
					old = taken.wait
					return true
				}
			case taken.sock.orphaned():
				when = whenTold
			default:
				return false
			}
			at = min(at, when)
			return false
		})
		switch {
		case ok || at == noPort:
			if d != nil {
				w.leave(ends, d)
			}
			if !ok {
				return nil, os.NewSyscallError("connect", syscall.EADDRNOTAVAIL)
			}
			return old, nil
		case d == nil:
			d, at = w.queue(ends, true), 1 // what was freed before it had a place has to be seen
		}
	}
}
