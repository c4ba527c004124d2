package stack

import (
	"encoding/binary"
	"net"
	"os"
	"runtime"
	"syscall"

	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

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
	var writers *bulkWriters
	if len(p) >= pinBytes {
		t.startPinning()
		take = t.conn.Pin
		defer t.unpin()
		if writers = t.bulkWriters(len(p)); writers != nil {
			writers.Add(1)
			defer writers.Add(-1)
		}
	}
	if t.yield {
		t.yieldNow()
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
			t.chargePinned()
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
				if writers.crowded() {
					t.awaitAcks()
				}
				return n, nil
			}
			continue
		}
		t.waiting().write()
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
		meta.body, meta.done = seg.Pinned, t.zc.frame()
		n -= len(seg.Pinned)
	}
	h := ipHeader{proto: wire.ProtoTCP, ttl: t.ttl, tos: t.tos, df: true, id: t.ipID, count: 1}
	if seg.GSOSize > 0 {
		meta.gso, meta.gsoSize, meta.headerLen = p.gsoKind, seg.GSOSize, hdr
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
