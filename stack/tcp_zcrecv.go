package stack

import (
	"github.com/usernet/usernet/nic"
)

// minReceiveBuffer is the least size in bytes of a reader's buffer for zero-copy receive: any frame
// has to fit.
const minReceiveBuffer = maxIPv4

// A zeroCopyReceive lets the device of an interface put the payload of a segment straight into the
// buffer of a reader that waits. That saves one copy of two, and a bulk receiver does little
// else: a stream through a TAP took a sixth less CPU time by it.
//
// The interface asks the reader that began to wait last, which is a guess. If the next segment is
// for another connection, or does not fit to what this one has, its payload is copied out of the
// buffer, as out of any frame. Read does not return while the device may write to its buffer, and
// io.Reader allows it to leave anything behind the bytes that it returns.
type zeroCopyReceive struct {
	t       *TCP
	ifc     *iface // it stays this one: one goroutine asks for buffers
	done    func() // end, as a value made once
	leaving bool   // the reader waits for the device; under the socket's lock
}

// offerBuffer lets the interface's device find the socket, whose reader waits with the buffer p. t.mu
// is held.
func (t *TCP) offerBuffer(p []byte) {
	ifc := t.path.ifc
	if len(p) < minReceiveBuffer || !ifc.zeroCopy {
		return
	}
	w := t.waiters
	if w.zcReceive == nil {
		w.zcReceive = &zeroCopyReceive{t: t, ifc: ifc}
		w.zcReceive.done = w.zcReceive.end
	}
	if w.zcReceive.ifc == ifc {
		ifc.reader.Store(w.zcReceive)
	}
}

// withdrawBuffer ends offerBuffer, and waits while a device is writing to the buffer. t.mu is held,
// and released to wait.
func (t *TCP) withdrawBuffer() {
	z := t.waiters.zcReceive
	if z == nil {
		return
	}
	z.ifc.reader.CompareAndSwap(z, nil)
	for t.conn.BufferTaken() {
		z.leaving = true
		t.waiters.read()
	}
	z.leaving = false
}

// receiveBuffer gives the device the buffer of the reader that began to wait last.
func (ifc *iface) receiveBuffer() nic.ReceiveBuffer {
	z := ifc.reader.Load()
	if z == nil {
		return nic.ReceiveBuffer{}
	}
	z.t.mu.Lock()
	defer z.t.mu.Unlock()
	buf, header := z.t.conn.TakeBuffer(minReceiveBuffer)
	if buf == nil {
		return nic.ReceiveBuffer{}
	}
	return nic.ReceiveBuffer{Headers: ifc.linkLen + int(z.t.path.ipLen) + header, Buf: buf, End: z.done}
}

// end is called by the device when it no longer writes to the buffer. The segment may have said so
// before.
func (z *zeroCopyReceive) end() {
	z.t.mu.Lock()
	defer z.t.mu.Unlock()
	z.t.conn.ReturnBuffer()
	if z.leaving {
		z.t.wakeReaders()
	}
}
