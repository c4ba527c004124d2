package stack

import "sync/atomic"

// Zero-copy send: a large Write pins its bytes. Frames then refer to the bytes in the application's buffer
// instead of to copies in the send buffer. When such a frame was sent or dropped, the transmit queue calls
// the frame's function done (frameMeta.done); this is all that the queue does for zero-copy send. When the
// last bytes are sent, the unacknowledged bytes are unpinned: copied into the send buffer. Write returns
// when no frame refers to its bytes any more.

const (
	// pinBytes is the minimum size in bytes of a Write that pins. Smaller Writes copy their bytes, because
	// a Write that pins has to wait at its end.
	pinBytes = 16 << 10
	// gatherBytes is the minimum number of pinned bytes that a frame refers to. Fewer bytes are copied
	// into the frame.
	gatherBytes = 2 << 10
)

// A zeroCopySend counts the frames that refer to the pinned bytes of a connection's writer. Write must not
// return before the count is 0: a frame is built under the socket's lock, but leaves later, when the
// transmit queue is drained.
type zeroCopySend struct {
	t       *TCP
	frames  atomic.Int32 // frames that are queued or in a call of a device's Send
	waiting atomic.Bool  // the writer waits until frames is 0
	copying bool         // new frames get copies of pinned bytes; see awaitFrames and runPrompt

	acks ackWaits

	// charged is the number of bytes that unpin may have to copy. They count as memory in use, so that
	// many writers whose deadlines pass at once do not copy more than the budget allows.
	charged int64

	done func() // the method value complete, allocated once
}

// startPinning allocates t.zc on first use, for a Write that pins. The Write must end with unpin. t.mu is
// held.
func (t *TCP) startPinning() {
	if t.zc == nil {
		t.zc = &zeroCopySend{t: t}
		t.zc.done = t.zc.complete
	}
}

// frame counts one more frame that refers to pinned bytes. It returns the function that must be called when
// the frame was sent or dropped.
func (z *zeroCopySend) frame() (done func()) {
	z.frames.Add(1)
	return z.done
}

// chargePinned counts the pinned bytes as memory in use. t.mu is held.
func (t *TCP) chargePinned() {
	if n := int64(t.conn.Pinned()); n > 0 && n > t.zc.charged {
		t.s.tcp.charge(n - t.zc.charged)
		t.zc.charged = n
	}
}

// unpin copies the pinned bytes that are not acknowledged into the send buffer, and waits until no
// frame refers to the caller's buffer. t.mu is held, but not during the wait.
func (t *TCP) unpin() {
	t.conn.Unpin()
	z := t.zc
	t.s.tcp.used.Add(-z.charged)
	z.charged = 0
	t.awaitFrames()
	z.copying = false
}

// awaitFrames waits until no frame refers to the caller's buffer. t.mu is held, but not during the
// wait. Frames that are built during the wait contain copies, because a frame may be dropped while
// t.mu is held, and complete would then lock t.mu again.
func (t *TCP) awaitFrames() {
	z := t.zc
	z.copying = true
	for z.frames.Load() > 0 {
		z.waiting.Store(true)
		if z.frames.Load() > 0 {
			t.waiting().write()
		}
	}
	z.waiting.Store(false)
}

// complete counts one frame less, and wakes the writer in awaitFrames if that was the last. It is called when
// a frame that refers to pinned bytes was sent or dropped. Because complete locks t.mu if a writer waits, the
// caller may hold t.mu only while no writer waits.
func (z *zeroCopySend) complete() {
	if z.frames.Add(-1) == 0 && z.waiting.Load() {
		z.t.mu.Lock()
		z.t.wakeWriters()
		z.t.mu.Unlock()
	}
}
