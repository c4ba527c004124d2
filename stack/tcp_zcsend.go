package stack

import "sync/atomic"

// Zero-copy send: a large Write pins its bytes. Frames then refer to the bytes where the application
// has them, instead of to copies in the send buffer. The transmit queue does not know about this; it
// only reports that an entry is complete (frameMeta.done). Write returns when no frame refers to its
// bytes any more. Bytes that are not acknowledged by then are unpinned: copied into the send buffer.

const (
	// pinBytes is the minimum size in bytes of a Write that pins. Pinning costs a wait at the end of
	// the Write.
	pinBytes = 16 << 10
	// gatherBytes is the minimum number of pinned bytes that a frame refers to. Fewer are copied into
	// the frame.
	gatherBytes = 2 << 10
)

// A zeroCopySend counts the frames that refer to the pinned bytes of a connection's writer.
//
// Frames are built under the socket's lock but leave later, when the transmit queue is
// drained. Write does not return while a frame refers to the caller's buffer.
type zeroCopySend struct {
	t       *TCP
	frames  atomic.Int32 // frames that are queued or in a call of a device's Send
	waiting atomic.Bool  // the writer waits until frames is 0
	copying bool         // copy pinned bytes into frames; see awaitFrames and runPrompt

	acks ackWaits

	// charged is the number of bytes that unpin may have to copy. It counts as memory in use, so that
	// many writers whose deadlines pass at once do not copy more than the budget allows.
	charged int64

	done func() // the method value complete, allocated once
}

// startPinning allocates t.zc for a Write that pins. The Write ends with unpin. t.mu is held.
func (t *TCP) startPinning() {
	if t.zc == nil {
		t.zc = &zeroCopySend{t: t}
		t.zc.done = t.zc.complete
	}
}

// frame counts one more frame that refers to pinned bytes, and returns the function to call when the
// frame has been sent or dropped.
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

// complete is called when a frame that refers to pinned bytes has been sent or dropped. It locks t.mu
// if a writer waits in awaitFrames. The caller may hold t.mu only while no writer waits.
func (z *zeroCopySend) complete() {
	if z.frames.Add(-1) == 0 && z.waiting.Load() {
		z.t.mu.Lock()
		z.t.wakeWriters()
		z.t.mu.Unlock()
	}
}
