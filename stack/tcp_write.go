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

// Write sends p. It returns when all bytes are in the send buffer, or, for a large p, when no frame refers
// to p any more. It waits while the send buffer is full. The bytes of concurrent Writes do not mix.
func (t *TCP) Write(p []byte) (int, error) {
	growStack(false)
	t.mu.Lock()
	if err := t.beginWrite(); err != nil {
		t.mu.Unlock()
		return 0, err
	}
	t.noteBulk(len(p))
	if len(p) <= promptBytes {
		if t.yield {
			t.yieldNow()
		}
		if len(p) < pinBytes || t.copies(len(p)) {
			return t.writeQueued(nil, p)
		}
	}
	return t.writePinned(p)
}

// beginWrite waits until no other Write is in progress. t.mu is held, but not during the wait.
func (t *TCP) beginWrite() error {
	for t.writing {
		if err := t.writeEnd(); err != nil {
			return err
		}
		t.waiting().write()
	}
	t.writing = true
	return nil
}

// endWrite lets the next Write begin. t.mu is held.
func (t *TCP) endWrite() {
	t.writing = false
	t.wakeWriters()
}

// writeQueued implements Write by copying p into the send buffer, and WriteBlock if p is in the SendBlock b,
// which is otherwise nil. It calls endWrite before it sends the last bytes. Once the peer may have these bytes,
// it waits for nothing, not even for t.mu: see promptBytes. The caller holds t.mu; writeQueued unlocks it.
func (t *TCP) writeQueued(b *SendBlock, p []byte) (n int, err error) {
	for {
		if err = t.writeEnd(); err != nil || n == len(p) {
			t.endWrite()
			t.mu.Unlock()
			return n, err
		}
		now := t.s.now()
		k := t.queue(now, b, p[n:])
		if k == 0 { // the send buffer is full
			t.waiting().write()
			continue
		}
		n += k
		if n == len(p) {
			t.yield = k > yieldBytes
			t.endWrite()
		}
		// A small segment leaves by direct transmit.
		if k <= directBytes {
			t.runDirect(now)
		} else {
			t.run(now)
			t.mu.Unlock()
			t.s.drain()
		}
		if n == len(p) {
			return n, nil
		}
		if k > yieldBytes {
			runtime.Gosched()
		}
		t.mu.Lock()
	}
}

// queue adds bytes of p to the send buffer, as a copy if b is nil, otherwise as bytes in b. It returns their
// number. t.mu is held.
func (t *TCP) queue(now tcp.Time, b *SendBlock, p []byte) int {
	if b == nil {
		return t.conn.Write(now, p)
	}
	n, used := t.conn.WriteBlock(now, &b.Block, p)
	if used {
		use(&b.Block)
		b.charge()
	}
	return n
}

// writePinned implements Write by pinning p (see zeroCopySend). The caller holds t.mu; writePinned unlocks
// it.
func (t *TCP) writePinned(p []byte) (n int, err error) {
	t.startPinning()
	writers := t.bulkWriters(len(p))
	if writers != nil {
		writers.Add(1)
		defer writers.Add(-1)
	}
	if t.yield {
		t.yieldNow()
	}
	prompt := len(p) <= promptBytes
	for n < len(p) {
		if prompt && n > 0 && t.copies(len(p)-n) {
			// The last bytes will be copied. Wait for the earlier frames now, because a prompt Write must
			// not wait after its last bytes have left.
			t.awaitFrames()
		}
		if err = t.writeEnd(); err != nil {
			break
		}
		t.useBulkQueue() // a long Write may have begun while a frame was in the shared queue
		now := t.s.now()
		k := t.conn.Pin(now, p[n:])
		if k == 0 { // the send buffer is full
			t.waiting().write()
			continue
		}
		n += k
		t.chargePinned()
		switch {
		case k <= directBytes:
			t.runDirect(now)
		case prompt:
			t.runPrompt(now, n == len(p))
		default:
			t.run(now)
			t.mu.Unlock()
			t.s.drain()
		}
		if k > yieldBytes && n < len(p) {
			runtime.Gosched()
		}
		if prompt {
			t.lockSoon()
		} else {
			t.mu.Lock()
		}
		t.yield = k > yieldBytes && n == len(p)
	}
	if err == nil && writers.crowded() {
		t.awaitAcks()
	}
	t.unpin()
	t.endWrite()
	t.mu.Unlock()
	return n, err
}

// writeEnd returns the error with which a Write has to end, or nil. It returns the error of a failed
// connection only if no other call has returned it, and otherwise EPIPE. t.mu is held.
func (t *TCP) writeEnd() error {
	switch {
	case t.closed:
		return net.ErrClosed
	case t.wrPast || t.dl != nil && t.dl.wr.expired():
		return os.ErrDeadlineExceeded
	}
	if e := t.conn.Err(); e != tcp.ErrNone && !t.errReported {
		t.errReported = true // as on Linux, only one call returns the error
		return errnoOf(e)
	}
	if t.wrShut || t.conn.State() == tcp.Closed || t.conn.State() == tcp.TimeWait {
		return syscall.EPIPE
	}
	return nil
}

// send builds the frame of a segment, and queues it or leaves it in a direct slot. t.mu is held.
func (t *TCP) send(now tcp.Time, seg *tcp.Segment) {
	s := t.s
	if t.path.noRoute {
		s.dropFlow(dropNoRoute, t.LocalAddr(), t.RemoteAddr())
		return
	}
	seg.SrcPort, seg.DstPort = t.key.ports()
	hdr := seg.Len()
	total := hdr + seg.DataLen()
	p := t.path
	meta := frameMeta{checksum: true, csumOffset: wire.TCPChecksumOffset}
	n := total // bytes to put into the slot; the frame may refer to pinned bytes instead
	if len(seg.Pinned) >= gatherBytes && p.ifc.txChecksum {
		switch {
		case seg.Block != nil:
			use(seg.Block)
			meta.body, meta.done = seg.Pinned, seg.Block.Done
		case !p.ifc.tx.async.Load() && !t.zc.copying:
			meta.body, meta.done = seg.Pinned, t.zc.frame()
		}
		n -= len(meta.body)
	}
	h := ipHeader{proto: wire.ProtoTCP, ttl: t.ttl, tos: t.tos, df: dfAlways, id: t.ipID, count: 1}
	if seg.GSOSize > 0 {
		meta.gso, meta.gsoSize, meta.headerLen = p.gsoKind, seg.GSOSize, hdr
		h.count = uint16((seg.DataLen()-1)/seg.GSOSize + 1) // segments, rounded up
	}
	t.ipID += h.count
	sl := p.slotOn(t.txQueue(), now, n, t.direct == directAllowed && meta.done == nil)
	b := sl.buf[transportAt : transportAt+n]
	seg.Put(b)
	at := hdr + copy(b[hdr:], seg.Payload)
	at += copy(b[at:], seg.Payload2)
	at += copy(b[at:], seg.Payload3)
	copy(b[at:], seg.Pinned) // nothing if the frame refers to these bytes
	binary.BigEndian.PutUint16(b[wire.TCPChecksumOffset:], p.pseudoSum(wire.ProtoTCP, total))
	s.counts.tcpOut.Add(1)
	if seg.ECT {
		h.tos |= 2 // RFC 3168 5: ECT(0)
	}
	if s.emit(now, p, &h, &sl, n, &meta) != nil { // the frame is in a direct slot
		t.direct = directMade
	}
}
