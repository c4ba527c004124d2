package stack

import "sync/atomic"

// Zero-copy send: a large Write sends its bytes from where the application has them, pinned, instead of
// copying them into the send buffer first. Frames refer to them, which the transmit queue does not know:
// it only reports that an entry is complete (frameMeta.done). Write returns when no frame refers to its
// bytes any more. Those that are not acknowledged then are unpinned: copied into the send buffer.

const (
	// pinBytes is the least size in bytes of a Write whose data is pinned: that costs a wait
	// in the end.
	pinBytes = 16 << 10
	// gatherBytes is the least number of pinned bytes to which a frame refers. Fewer are
	// copied into the frame.
	gatherBytes = 2 << 10
)

// A zeroCopySend counts the frames that refer to the pinned bytes of a connection's writer.
//
// Frames are built under the socket's lock but leave later, when the transmit queue is
// drained. Write does not return while a frame refers to the caller's buffer.
type zeroCopySend struct {
	t       *TCP
	frames  atomic.Int32 // queued, or in a device's Send
	waiting atomic.Bool  // the writer waits for frames to become 0
	copying bool         // frames get copies: another goroutine sends the last bytes of a prompt Write

	acks ackWaits

	// charged is what unpin may have to copy, in bytes. It counts as used memory:
	// otherwise many writers whose deadlines pass at once would copy more than there is.
	charged int64

	done func() // the method value complete, allocated once
}

// startPinning makes the socket ready for Writes whose bytes are pinned. Each ends with unpin. t.mu is
// held.
func (t *TCP) startPinning() {
	if t.zc == nil {
		t.zc = &zeroCopySend{t: t}
		t.zc.done = t.zc.complete
	}
}

// frame takes note of one more frame that refers to pinned bytes, and returns what is to be called
// when it was sent or dropped.
func (z *zeroCopySend) frame() (done func()) {
	z.frames.Add(1)
	return z.done
}

// chargePinned counts the pinned bytes as used memory. t.mu is held.
func (t *TCP) chargePinned() {
	if n := int64(t.conn.Pinned()); n > 0 && n > t.zc.charged {
		t.s.tcp.charge(n - t.zc.charged)
		t.zc.charged = n
	}
}

// unpin copies the pinned bytes that are not acknowledged, and waits until no frame refers to
// the caller's buffer. t.mu is held, and released to wait.
func (t *TCP) unpin() {
	t.conn.Unpin()
	z := t.zc
	t.s.tcp.used.Add(-z.charged)
	z.charged = 0
	z.copying = false
	t.awaitFrames()
}

// awaitFrames waits until no frame refers to the caller's buffer. t.mu is held, and released to
// wait.
func (t *TCP) awaitFrames() {
	z := t.zc
	for z.frames.Load() > 0 {
		z.waiting.Store(true)
		if z.frames.Load() > 0 {
			t.waiting().write()
		}
	}
	z.waiting.Store(false)
}

// complete is called when a frame that refers to pinned bytes was sent or dropped. The caller
// may hold the socket's lock only before unpin, while no writer waits.
func (z *zeroCopySend) complete() {
	if z.frames.Add(-1) == 0 && z.waiting.Load() {
		z.t.mu.Lock()
		z.t.wakeWriters()
		z.t.mu.Unlock()
	}
}
