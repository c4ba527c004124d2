package stack

import (
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// placeLeast is how large a reader's buffer has to be to be a device's room, in
// bytes: any frame has to fit.
const placeLeast = maxIPv4

// placing lets the device of an interface put the payload of a segment straight into
// the buffer of a reader who waits. That is one copy of two, and a bulk receiver does
// little else: a stream through a TAP took a sixth less CPU time by it.
//
// The reader that waited last is asked for room, which is a guess. If a segment that
// comes is not for it, or does not fit to what it has, what was placed is copied from
// there, as from any frame. Read does not return while the device may write to its
// buffer, and io.Reader allows it to leave anything behind the bytes that it returns.
type placing struct {
	t       *TCP
	ifc     *iface // it stays this one: rooms are asked for by one goroutine
	done    func() // end, as a value made once
	leaving bool   // the reader waits for the device; under the socket's lock
}

// offer lets the interface's device find the socket, whose reader waits with p. t.mu
// is held.
func (t *TCP) offer(p []byte) {
	ifc := t.path.ifc
	if len(p) < placeLeast || !ifc.places {
		return
	}
	w := t.waiters
	if w.placing == nil {
		w.placing = &placing{t: t, ifc: ifc}
		w.placing.done = w.placing.end
	}
	if w.placing.ifc == ifc {
		ifc.reader.Store(w.placing)
	}
}

// retract ends offer, and waits for a device that is writing to the buffer. t.mu is
// held, and released to wait.
func (t *TCP) retract() {
	pl := t.waiters.placing
	if pl == nil {
		return
	}
	pl.ifc.reader.CompareAndSwap(pl, nil)
	for t.conn.Placing() {
		pl.leaving = true
		t.waiters.read()
	}
	pl.leaving = false
}

// place gives the device the room of the reader that waited last.
func (ifc *iface) place() nic.ReceiveBuffer {
	pl := ifc.reader.Load()
	if pl == nil {
		return nic.ReceiveBuffer{}
	}
	pl.t.mu.Lock()
	defer pl.t.mu.Unlock()
	buf, header := pl.t.conn.Place(placeLeast)
	if buf == nil {
		return nic.ReceiveBuffer{}
	}
	return nic.ReceiveBuffer{Headers: ifc.linkLen + wire.IPv4Len + header, Buf: buf, End: pl.done}
}

// end is the device's word that it is done, if the segment has not told that before.
func (pl *placing) end() {
	pl.t.mu.Lock()
	defer pl.t.mu.Unlock()
	pl.t.conn.Placed()
	if pl.leaving {
		pl.t.wakeReaders()
	}
}
