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

// dialEnds identifies the dials that compete for the same local ports: those with the same source address
// and the same remote address and port.
type dialEnds struct {
	src    netip.Addr
	remote netip.AddrPort
	zone   int
}

// A dialQueue holds, in FIFO order, the dials with the same ends that found no free port. The dials wait
// for the port of a connection that is in TIME-WAIT, or that the application has closed. Only the first
// dial searches for a port, because searching all ports takes long.
type dialQueue struct {
	waiting []*queuedDial
	at      tcp.Time // when the first dial has to search again; 0: not before freeAt sets at
}

// A queuedDial is a dial in a dialQueue. timeWaits.mu is its lock.
type queuedDial struct {
	cond     sync.Cond
	canceled bool // the context of the dial ended
}

// wake wakes the first dial if it has to search now.
func (q *dialQueue) wake(now tcp.Time) {
	if q.at != 0 && q.at <= now {
		q.waiting[0].cond.Signal()
	}
}

// freeAt records that a dial can take the tuple k from time at on, and wakes the dial if that time has come.
// at must be non-zero; 1 means now. w.mu is held.
func (w *timeWaits) freeAt(k *tuple, at tcp.Time) {
	if len(w.dials) == 0 {
		return
	}
	q := w.dials[dialEnds{k.local().Addr(), k.remote(), k.zone()}]
	if q != nil && (q.at == 0 || at < q.at) {
		q.at = at
		q.wake(w.s.now())
	}
}

// freed records that the tuple k has left the table, so that a dial can take it now. w.mu is not held.
func (w *timeWaits) freed(k *tuple) {
	if w.queued.Load() == 0 {
		return
	}
	w.mu.Lock()
	w.freeAt(k, 1)
	w.mu.Unlock()
}

// queue adds a dial to the queue of ends and returns it. If there is no queue, it makes a queue if first is
// set, and otherwise returns nil.
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

// leave removes d from its queue. If d was the first, leave makes the next dial search at once.
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

// await waits until d has to search for a port. That is when d is the first in its queue, and either the
// time at has come or a port has become free. at is the result of the last search of d. await returns an
// error if ctx ends or the stack is closed.
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
	if q.waiting[0] == d && at < whenFreed && (q.at == 0 || at < q.at) {
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
			q.at = 0 // if a port becomes free during the search, freeAt sets q.at again
			return nil
		}
		d.cond.Wait()
	}
}

// Special values of the earliest time at which a dial can take one of the ports.
const (
	whenFreed tcp.Time = math.MaxInt64 - 1 // not known yet; freeAt reports it
	noPort    tcp.Time = math.MaxInt64     // never
)

// firstTries is the number of ports that a dial tries before it joins the queue. In the queue it tries all
// ports.
const firstTries = 256

// orphaned reports whether the application has closed the connection.
func (t *TCP) orphaned() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.closed
}

// bindEphemeral chooses the local port of an active open (RFC 6056), sets t.key, and inserts the socket into
// the table. old is the connection in TIME-WAIT that the socket replaces, or nil.
//
// If no port is free, bindEphemeral waits for a port of a connection that is in TIME-WAIT or that the
// application has closed. If there is no such connection, it fails with EADDRNOTAVAIL.
func (s *Stack) bindEphemeral(ctx context.Context, t *TCP, src netip.Addr, remote netip.AddrPort) (old *timeWait, err error) {
	w, ends := &s.tcp.waits, dialEnds{src, remote, int(t.path.zone)}
	hash := s.hashAddrs(netip.AddrPortFrom(src, 0), remote)
	d := w.queue(ends, false) // nil if no other dial waits
	at := noPort              // earliest time at which a dial can take a port that the last search found taken
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
			if tries++; tries > firstTries && d == nil {
				at = 1 // the other ports are not known to be taken: join the queue
				return false
			}
			local := netip.AddrPortFrom(src, port)
			if local == remote || s.tcp.listeners.find(local, int(t.path.zone)) != nil {
				return false // a listener has the port, or the socket would connect to itself
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
				when = whenFreed
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
			// Search at once, because a port may have become free before d was in the queue.
			d, at = w.queue(ends, true), 1
		}
	}
}
