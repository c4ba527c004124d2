package nic

import (
	"io"
	"net"
	"sync"
)

// Adapter is a Device over anything that reads and writes one frame at a time.
type Adapter struct {
	rxLoop
	rw   io.ReadWriteCloser
	turn turn
	join []byte // used by the goroutine that has the turn
}

var _ Device = (*Adapter)(nil)

// FromReadWriter returns a Device that reads and writes one frame with each Read and Write of rw,
// which may be a *water.Interface. link describes it; its offloads are ignored. An empty Name becomes
// "adapter", a zero MTU 1500, and on Ethernet a zero MAC a random one.
//
// Attach starts a goroutine that reads until Close, which closes rw, or until
// Read returns an error, which ends the device. Send calls Write for one frame at a time, and waits
// while Write does. An error of Write ends the device, except a timeout, after which the
// frame is dropped.
func FromReadWriter(rw io.ReadWriteCloser, link Link) *Adapter {
	link = link.withDefaults("adapter")
	link.GSO, link.TxChecksum, link.Up = 0, false, true
	longest := link.MTU + link.Medium.headerLen() + vlanTagLen
	a := &Adapter{rxLoop: rxLoop{src: newFrameReader(rw, link.Medium, longest)}, rw: rw}
	a.setLink(link)
	return a
}

// Send writes the frames. It drops and counts those that the link cannot carry, or whose Write has
// timed out. After Close it returns net.ErrClosed, and after the device has failed the error of Err.
func (a *Adapter) Send(batch []Frame) (n int, err error) {
	a.turn.take()
	defer a.turn.give()
	if err := a.sendError(); err != nil {
		return 0, err
	}
	for n = range batch {
		f := &batch[n]
		if !a.now().carries(f) {
			a.sendDropped.Add(1)
			continue
		}
		b := f.Head
		if len(f.Body) > 0 {
			a.join = f.AppendTo(a.join[:0])
			b = a.join
		}
		written, err := a.rw.Write(b)
		switch {
		case err == nil && written == len(b):
			a.countSent(1, len(b))
		case err == nil || timedOut(err):
			a.sendDropped.Add(1)
		default:
			a.fail(err)
			return n, a.sendError()
		}
	}
	return len(batch), nil
}

// FuncDevice is a Device whose frames come and go through function calls.
type FuncDevice struct {
	base
	link    Link
	send    func(frame []byte) error
	scratch sync.Pool // of *funcScratch
}

var _ Device = (*FuncDevice)(nil)

// funcScratch has the temporary values of one call.
type funcScratch struct {
	join  []byte
	batch [1]Frame
}

// FromFuncs returns a Device that calls send for each frame that is sent, and
// receives the frames that are passed to its Receive method. link describes it; its offloads are
// ignored. An empty Name becomes "func", a zero MTU 1500, and on Ethernet a zero MAC a random one.
//
// send is called in the goroutine of the sender, perhaps by several at once; it must not keep the
// frame. Send returns an error of send, after which the device cannot be used any more. If there is
// only no room for a frame, send should drop it and return nil.
func FromFuncs(link Link, send func(frame []byte) error) *FuncDevice {
	link = link.withDefaults("func")
	link.GSO, link.TxChecksum = 0, false
	return &FuncDevice{link: link, send: send}
}

// Link describes the link.
func (d *FuncDevice) Link() Link {
	l := d.link
	l.Up = !d.closed.Load()
	return l
}

func (d *FuncDevice) getScratch() *funcScratch {
	if s, ok := d.scratch.Get().(*funcScratch); ok {
		return s
	}
	return new(funcScratch)
}

// Receive passes a frame to the device's user, in the goroutine of the caller. It does not keep the
// frame. A frame that is too long for the link, or that comes before Attach, is dropped and
// counted. After Close it returns net.ErrClosed. Receive may be called by several goroutines at once.
func (d *FuncDevice) Receive(frame []byte) error {
	if d.closed.Load() {
		return net.ErrClosed
	}
	s := d.getScratch()
	s.batch[0] = Frame{Head: frame}
	if !d.link.carries(&s.batch[0]) || !d.deliver(s.batch[:], len(frame)) {
		d.recvDropped.Add(1)
	}
	s.batch[0] = Frame{}
	d.scratch.Put(s)
	return nil
}

// Send calls send for each frame. Those that the link cannot carry are dropped
// and counted. After Close it returns net.ErrClosed.
func (d *FuncDevice) Send(batch []Frame) (n int, err error) {
	if d.closed.Load() {
		return 0, net.ErrClosed
	}
	for n = range batch {
		f := &batch[n]
		if !d.link.carries(f) {
			d.sendDropped.Add(1)
			continue
		}
		if err := d.sendOne(f); err != nil {
			return n, err
		}
		d.countSent(1, f.Len())
	}
	return len(batch), nil
}

func (d *FuncDevice) sendOne(f *Frame) error {
	if len(f.Body) == 0 {
		return d.send(f.Head)
	}
	s := d.getScratch()
	s.join = f.AppendTo(s.join[:0])
	err := d.send(s.join)
	d.scratch.Put(s)
	return err
}
