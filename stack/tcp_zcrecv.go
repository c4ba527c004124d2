package stack

import (
	"github.com/usernet/usernet/nic"
)

// minReceiveBuffer is the minimum size in bytes of a reader's buffer for zero-copy receive. Any packet
// fits into a buffer of this size.
const minReceiveBuffer = maxIPv4

// A zeroCopyReceive lets the device of an interface write the payload of a segment into the buffer of a
// waiting reader. That saves one of the two copies, which are most of the work of a bulk receiver: a stream
// through a TAP takes a sixth less CPU time.
//
// The device gets the buffer of the reader that began to wait last, because the next segment is
// probably for that reader. If the segment is for another connection, or is not the next data of the
// reader's connection, its payload is copied out of the buffer, as from any frame. Read does not return
// while the device may write to the buffer. io.Reader allows Read to change the buffer beyond the bytes that
// Read returns.
type zeroCopyReceive struct {
	t       *TCP
	ifc     *iface // never changes, even if t.path does, so that only one rx loop asks for the buffer
	done    func() // the method value end, allocated once
	leaving bool   // the reader waits for the device; guarded by the socket's mu
}

// offerBuffer offers p, the buffer of a reader that is about to wait, to the device of the interface. It does
// nothing if p is too small or the device does not use zero-copy receive. t.mu is held.
func (t *TCP) offerBuffer(p []byte) {
	ifc := t.path.ifc
	if len(p) < minReceiveBuffer || !ifc.port.zeroCopy.Load() {
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

// withdrawBuffer withdraws the offer of offerBuffer, if any, and waits while the device may write to the
// buffer. t.mu is held, but not during the wait.
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

// receiveBuffer returns the buffer of the reader that began to wait last, for the device to write to, or the
// zero value if there is none. The device calls receiveBuffer before it receives.
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

// end returns the buffer to the reader. The device calls end when it no longer writes to the buffer. The Conn
// may have taken the buffer back before, when it handled the segment.
func (z *zeroCopyReceive) end() {
	z.t.mu.Lock()
	defer z.t.mu.Unlock()
	z.t.conn.ReturnBuffer()
	if z.leaving {
		z.t.wakeReaders()
	}
}
