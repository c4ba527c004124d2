package nic

import (
	"io"
	"net"
	"sync"
)

// Adapter is a Device over an io.ReadWriteCloser that reads or writes one frame with each call.
type Adapter struct {
	rxLoop
	rw     io.ReadWriteCloser
	sendMu condMutex
	join   []byte // under sendMu
}

var _ Device = (*Adapter)(nil)

// FromReadWriter returns a Device that reads and writes one frame with each Read and Write of rw,
// which may be a *water.Interface. link describes the device; the offloads in it are ignored. The
// defaults are the Name "adapter", an MTU of 1500 and, on Ethernet, a random MAC.
//
// Attach starts a goroutine that calls Read. Close closes rw. An error from Read or Write ends the
// device, except that Send drops a frame whose Write times out. Send calls Write once for each
// frame, and blocks while Write blocks.
func FromReadWriter(rw io.ReadWriteCloser, link Link) *Adapter {
	link = link.withDefaults("adapter")
	link.GSO, link.TxChecksum, link.Up = 0, false, true
	longest := link.MTU + link.Medium.headerLen() + vlanTagLen
	a := &Adapter{rxLoop: rxLoop{src: newFrameReader(rw, link.Medium, longest)}, rw: rw}
	a.setLink(link)
	return a
}

// Send writes the frames. It drops and counts a frame that the link cannot carry, or whose Write
// times out. After Close it returns net.ErrClosed; after a failure it returns the error of Err.
func (a *Adapter) Send(batch []Frame) (n int, err error) {
	a.sendMu.lock()
	defer a.sendMu.unlock()
	if err := a.sendError(); err != nil {
		return 0, err
	}
	for n = range batch {
		f := &batch[n]
		if !a.current().carries(f) {
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

// FuncDevice is a Device that sends and receives frames by function calls.
type FuncDevice struct {
	base
	link    Link
	send    func(frame []byte) error
	scratch sync.Pool // of *funcScratch
}

var _ Device = (*FuncDevice)(nil)

// A funcScratch is the memory that one call of Send or Receive needs.
type funcScratch struct {
	join  []byte
	batch [1]Frame
}

// FromFuncs returns a Device that calls send for each frame that its user sends, and whose Receive
// method passes a frame to its user. link describes the device; the offloads in it are ignored. The
// defaults are the Name "func", an MTU of 1500 and, on Ethernet, a random MAC.
//
// send is called in the goroutine of the sender, and may be called by several goroutines at once.
// It must not keep the frame. An error from send means that the device has failed for good; Send
// returns it. If send merely cannot accept a frame now, it should drop the frame and return nil.
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
// frame. It drops and counts a frame that is too long for the link, or that comes before Attach.
// After Close it returns net.ErrClosed. Receive may be called by several goroutines at once.
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

// Send calls the function send for each frame. It drops and counts frames that the link cannot
// carry. After Close it returns net.ErrClosed.
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
