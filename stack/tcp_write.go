package stack

import (
	"encoding/binary"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

// yieldBytes is how much a writer has to have sent at once to let others run before it
// sends more: on a wire in memory the peer's reader was woken by this very goroutine, and
// takes the data while it is in this core's cache, which gave twice the throughput on two
// cores. Less is cheaper to fetch from another core's cache than a switch of goroutines.
//
// The yield comes before the next bytes, in this Write or the next one, and never between
// the last byte of a Write and its return: the peer could read all, answer, and close
// before the caller knows that its request was sent. httputil.ReverseProxy fails then.
//
// The reader of a device has a bound of its own, in nic, which is the same number for its
// own reason.
const yieldBytes = 16 << 10

// pinBytes is how large a Write has to be, in bytes, for its data to be sent from
// where the application has it, which costs a wait in the end; gatherBytes, what a
// frame has to have of it not to be copied.
const (
	pinBytes    = 16 << 10
	gatherBytes = 2 << 10
)

// Where crowd Writes of at least crowdBytes go on at an interface, one of them whose
// bytes have all been sent waits up to ackWait for them to be acknowledged: the
// others keep the device busy, and nothing is left to be copied, which took a third of
// the time with four. Alone a writer does not wait, for its reader would be idle then,
// nor with less, where it would wait more often than that saves.
const (
	crowd      = 3
	crowdBytes = 64 << 10
	ackWait    = tcp.Millisecond
)

// zeroCopySend tracks the frames that refer to a writer's pinned bytes.
//
// Frames are built under the socket's lock but leave later, when the transmit queue is
// drained. Write does not return while a frame refers to the caller's buffer.
type zeroCopySend struct {
	t       *TCP
	frames  atomic.Int32 // queued, or in a device's Send
	waiting atomic.Bool  // the writer waits for frames to become 0

	late uint8  // consecutive waits in which the acknowledgements did not come within ackWait
	skip uint16 // number of Writes that will not wait, a consequence of late

	// charged is what unpin may have to copy, in bytes. It counts as used memory:
	// otherwise many writers whose deadlines pass at once would copy more than there is.
	charged int64

	done func() // the method value complete, allocated once
}

// Write queues p to be sent, waiting for room. Concurrent writes do not mix.
func (t *TCP) Write(p []byte) (int, error) {
	growStack(false)
	t.mu.Lock()
	for t.writing {
		if err := t.writeEnd(); err != nil {
			t.mu.Unlock()
			return 0, err
		}
		t.waiting().write()
	}
	t.writing = true
	n, err := t.writeAll(p)
	t.writing = false
	t.wakeWriters()
	t.mu.Unlock()
	return n, err
}

// writeAll writes p in this caller's turn. t.mu is held, and released to send
// and to wait.
func (t *TCP) writeAll(p []byte) (n int, err error) {
	take := t.conn.Write
	var writers *atomic.Int32
	if len(p) >= pinBytes {
		if t.zc == nil {
			t.zc = &zeroCopySend{t: t}
			t.zc.done = t.zc.complete
		}
		take = t.conn.Pin
		if len(p) >= crowdBytes && t.conn.Near() {
			writers = &t.path.ifc.bulk
			writers.Add(1)
			defer writers.Add(-1)
		}
		defer t.unpin()
	}
	if t.yield {
		t.yield = false
		t.mu.Unlock()
		runtime.Gosched()
		t.mu.Lock()
	}
	for {
		if err := t.writeEnd(); err != nil {
			return n, err
		}
		if n == len(p) {
			return n, nil
		}
		now := t.s.now()
		if k := take(now, p[n:]); k > 0 {
			n += k
			t.charge()
			// What is chosen is sent before anyone waits for its answer.
			if k <= directBytes {
				t.runDirect(now)
			} else {
				t.run(now)
				t.mu.Unlock()
				t.s.drain()
			}
			if k > yieldBytes && n < len(p) {
				runtime.Gosched()
			}
			t.mu.Lock()
			t.yield = k > yieldBytes && n == len(p)
			if n == len(p) {
				if writers != nil && writers.Load() >= crowd {
					t.awaitAcks()
				}
				return n, nil
			}
			continue
		}
		t.waiting().write()
	}
}

// awaitAcks waits up to ackWait until all pinned bytes are acknowledged. If they are not, for
// instance because the peer's application reads slowly, later Writes wait less and less often.
// t.mu is held, and released to wait.
func (t *TCP) awaitAcks() {
	l := t.zc
	if l.skip > 0 {
		l.skip--
		return
	}
	now := t.s.now()
	until := now + ackWait
	for t.conn.AwaitAcks(now, until) {
		t.arm(now)
		t.waiting().write()
		now = t.s.now()
	}
	if now < until {
		l.late = 0
		return
	}
	l.late = min(l.late+1, 10)
	l.skip = 1 << l.late
}

// charge counts the pinned bytes as used memory. t.mu is held.
func (t *TCP) charge() {
	if n := int64(t.conn.Pinned()); n > 0 && n > t.zc.charged {
		t.s.tcp.charge(n - t.zc.charged)
		t.zc.charged = n
	}
}

// unpin copies the pinned bytes that are not acknowledged, and waits until no frame refers to
// the caller's buffer. t.mu is held, and released to wait.
func (t *TCP) unpin() {
	t.conn.Unpin()
	l := t.zc
	t.s.tcp.used.Add(-l.charged)
	l.charged = 0
	for l.frames.Load() > 0 {
		l.waiting.Store(true)
		if l.frames.Load() > 0 {
			t.waiting().write()
		}
	}
	l.waiting.Store(false)
}

// complete is called when a frame that refers to pinned bytes was sent or dropped. The caller
// may hold the socket's lock only before unpin, while no writer waits.
func (l *zeroCopySend) complete() {
	if l.frames.Add(-1) == 0 && l.waiting.Load() {
		l.t.mu.Lock()
		l.t.wakeWriters()
		l.t.mu.Unlock()
	}
}

// writeEnd returns why nothing more can be written, or nil. t.mu is held.
func (t *TCP) writeEnd() error {
	switch {
	case t.closed:
		return net.ErrClosed
	case t.wrPast || t.dl != nil && t.dl.wr.expired():
		return os.ErrDeadlineExceeded
	}
	if e := t.conn.Err(); e != tcp.ErrNone && !t.errReported {
		t.errReported = true
		return errnoOf(e)
	}
	if t.wrShut || t.conn.State() == tcp.Closed || t.conn.State() == tcp.TimeWait {
		return syscall.EPIPE
	}
	return nil
}

// send puts a segment into a frame and queues it. t.mu is held.
func (t *TCP) send(now tcp.Time, seg *tcp.Segment) {
	s := t.s
	if t.path.noRoute {
		s.drop(dropNoRoute)
		return
	}
	seg.SrcPort, seg.DstPort = t.key.ports()
	hdr := seg.Len()
	total := hdr + seg.DataLen()
	p := t.path
	meta := frameMeta{checksum: true, csumOffset: wire.TCPChecksumOffset}
	n := total // in the slot
	if len(seg.Pinned) >= gatherBytes && p.ifc.txChecksum && !p.ifc.tx.async.Load() {
		meta.body, meta.done = seg.Pinned, t.zc.done
		t.zc.frames.Add(1)
		n -= len(seg.Pinned)
	}
	h := ipHeader{proto: wire.ProtoTCP, ttl: t.ttl, tos: t.tos, df: true, id: t.ipID, count: 1}
	if seg.GSOSize > 0 {
		meta.gso, meta.gsoSize, meta.headerLen = nic.GSOTCP4, seg.GSOSize, hdr
		h.count = uint16((seg.DataLen()-1)/seg.GSOSize + 1)
	}
	t.ipID += h.count
	sl := p.slot(now, n, t.direct == directAllowed && meta.done == nil)
	b := sl.buf[transportAt : transportAt+n]
	seg.Put(b)
	at := hdr + copy(b[hdr:], seg.Payload)
	at += copy(b[at:], seg.Payload2)
	copy(b[at:], seg.Pinned)
	binary.BigEndian.PutUint16(b[wire.TCPChecksumOffset:], p.pseudoSum(wire.ProtoTCP, total))
	s.counts.tcpOut.Add(1)
	if seg.ECT {
		h.tos |= 2 // RFC 3168 5: ECT(0)
	}
	if s.emit(now, p, &h, &sl, n, &meta) != nil {
		t.direct = directMade
	}
}
