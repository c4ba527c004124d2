package nic

import (
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
)

// An rxLoop is a device that has to be read: what TAP, Packet and Adapter have in common.
// Its reader is the one goroutine that package nic starts, or one for each of the
// queues of a TAP that has several.
type rxLoop struct {
	base
	state    atomic.Pointer[Link] // replaced, never changed; Up is that of the system's interface
	src      source
	more     []source              // the other queues
	dead     atomic.Pointer[error] // why the device came to an end by itself
	onDown   func(error)
	told     atomic.Bool    // onDown
	zeroCopy zeroCopySource // nil: src does not read into the stack's buffers

	watch  watcher // tells of changes of the system's interface; nil: nothing does
	onLink func()
}

// A watcher follows an interface of the system.
type watcher interface {
	// run watches until Close.
	run()
	Close() error
}

// now is the link as it is now. Up is not looked at: see Link.
func (l *rxLoop) now() *Link { return l.state.Load() }

// setLink changes the link, and tells the device's user. One goroutine at a time calls it.
func (l *rxLoop) setLink(link Link) {
	l.state.Store(&link)
	if l.onLink != nil {
		l.onLink()
	}
}

// NotifyLink has f called when the MTU, the MAC or the state of the system's interface has
// changed, and when that of the kernel's end of a TAP has another MAC: then what was known of
// the stations on the link may be wrong. It reports whether it will, which it does on Linux.
// It must be called before Attach.
func (l *rxLoop) NotifyLink(f func()) bool {
	l.onLink = f
	return l.watch != nil
}

// A source is what an rxLoop reads.
type source interface {
	// read waits for frames, in the order of the wire. They are valid until the
	// next call. What arrived and is no frame is counted in dropped; there may
	// be no frames without an error.
	read() (frames []Frame, dropped int, err error)
	// Close ends a read that waits, and all later ones.
	Close() error
}

// Link describes the link as it is now. Up is whether the device is open, has not failed, and
// the system's interface, where there is one that can be watched, is up and has a carrier.
func (l *rxLoop) Link() Link {
	link := *l.now()
	link.Up = link.Up && !l.closed.Load() && l.dead.Load() == nil
	return link
}

// NotifyDown has f called once if the device comes to an end by itself, with
// what Err returns then, from the goroutine that reads. It is not called for
// Close. It must be called before Attach.
func (l *rxLoop) NotifyDown(f func(err error)) { l.onDown = f }

// MergeReceived has the device join segments of TCP that arrive together to
// super-frames, where it can and the kernel does not. It is for a user who takes
// super-frames whatever the link sends, and must be called before Attach.
func (l *rxLoop) MergeReceived() {
	for _, src := range l.sources() {
		if src, ok := src.(interface{ mergeReceived() }); ok {
			src.mergeReceived()
		}
	}
}

// A zeroCopySource is a source that can read into a ReceiveBuffer.
type zeroCopySource interface {
	source
	// receiveInto reports whether the source will ask for buffers.
	receiveInto(buffer func() ReceiveBuffer) bool
	// release ends the buffer that the frame that read returned may be in.
	release()
}

// ReceiveInto gives the device a function that it may ask for a ReceiveBuffer before it
// reads a frame. It reports whether it will, which is so for a TAP whose frames come
// with offloads, by one queue. It must be called before Attach.
func (l *rxLoop) ReceiveInto(buffer func() ReceiveBuffer) bool {
	src, ok := l.src.(zeroCopySource)
	if !ok || len(l.more) > 0 || !src.receiveInto(buffer) {
		return false
	}
	l.zeroCopy = src
	return true
}

// sources returns what there is to read.
func (l *rxLoop) sources() []source { return append([]source{l.src}, l.more...) }

// closeSources closes all, and returns what closing the first one did.
func (l *rxLoop) closeSources() error {
	for _, src := range l.more {
		src.Close()
	}
	if l.watch != nil {
		l.watch.Close()
	}
	return l.src.Close()
}

// yieldBytes is how much has to have come at once for the reader to let others
// run: those whom it woke take the data while it is in this core's cache.
const yieldBytes = 16 << 10

// notifyDown passes NotifyDown on to a device that is wrapped.
func notifyDown(dev Device, f func(err error)) {
	if d, ok := dev.(DownNotifier); ok {
		d.NotifyDown(f)
	}
}

// notifyLink passes NotifyLink on to a device that is wrapped.
func notifyLink(dev Device, f func()) bool {
	d, ok := dev.(LinkNotifier)
	return ok && d.NotifyLink(f)
}

// Err tells why the device does not work any more: nil while it does,
// net.ErrClosed after Close, else what ended it.
func (l *rxLoop) Err() error {
	if err := l.dead.Load(); err != nil {
		return *err
	}
	if l.closed.Load() {
		return net.ErrClosed
	}
	return nil
}

// Attach starts the goroutine that reads frames and gives them to recv, in a
// batch what is there at once; each queue has one. A second call panics.
func (l *rxLoop) Attach(recv func(batch []Frame)) {
	l.base.Attach(recv)
	for _, src := range l.sources() {
		go l.read(src)
	}
	if l.watch != nil {
		go l.watch.run()
	}
}

// Close ends the link and the reader. A second Close returns net.ErrClosed.
func (l *rxLoop) Close() error {
	if err := l.base.Close(); err != nil {
		return err
	}
	if l.dead.Load() != nil {
		return nil // fail has closed it
	}
	return l.closeSources()
}

// fail records that the device came to an end, and wakes the reader.
func (l *rxLoop) fail(err error) {
	if l.closed.Load() {
		return // and so it ended by Close
	}
	err = fmt.Errorf("nic: %s: %w", l.now().Name, err)
	if l.dead.CompareAndSwap(nil, &err) {
		l.closeSources()
	}
}

// read is the goroutine that reads src.
func (l *rxLoop) read(src source) {
	for !l.closed.Load() {
		frames, dropped, err := src.read()
		if len(frames) > 0 {
			bytes := 0
			for i := range frames {
				bytes += frames[i].Len()
			}
			if !l.deliver(frames, bytes) {
				dropped += len(frames)
			}
			if l.zeroCopy != nil {
				l.zeroCopy.release()
			}
			if bytes > yieldBytes {
				// The application that was woken takes the data while it is in this
				// core's cache, and offers its buffer for the next: bulk transfers
				// from the kernel went from 26 to 38 Gbit/s.
				runtime.Gosched()
			}
		}
		if dropped > 0 {
			l.recvDropped.Add(uint64(dropped))
		}
		if err != nil {
			l.fail(err)
			break
		}
	}
	if err := l.dead.Load(); err != nil && l.onDown != nil && !l.told.Swap(true) {
		l.onDown(*err)
	}
}

// A frameReader is the source that is anything with one frame for every Read.
type frameReader struct {
	io.ReadCloser
	min, max int // bytes in a frame
	empty    int // reads in a row that returned nothing
	buf      []byte
	batch    [1]Frame
}

func newFrameReader(r io.ReadCloser, m Medium, max int) *frameReader {
	// One byte more than fits shows a frame that was cut off.
	return &frameReader{ReadCloser: r, min: m.headerLen(), max: max, buf: make([]byte, max+1)}
}

// maxEmptyReads is how often in a row a reader may return nothing at all before
// it is taken for broken.
const maxEmptyReads = 100

func (r *frameReader) read() (frames []Frame, dropped int, err error) {
	n, err := r.Read(r.buf)
	switch {
	case n > r.max || n > 0 && n < r.min:
		dropped = 1
	case n > 0:
		r.batch[0] = Frame{Head: r.buf[:n]}
		frames = r.batch[:]
	}
	if n > 0 {
		r.empty = 0
	} else if r.empty++; err == nil && r.empty >= maxEmptyReads {
		err = io.ErrNoProgress
	}
	return frames, dropped, err
}

// sendError is what Send returns when the device is of no more use, else nil.
func (l *rxLoop) sendError() error {
	if l.closed.Load() {
		return net.ErrClosed
	}
	if err := l.dead.Load(); err != nil {
		return *err
	}
	return nil
}

// turn lets one goroutine at a time do something that may wait. Unlike a mutex
// it may be held while waiting: those who wait for it wait in a Cond, as
// testing/synctest needs.
type turn struct {
	mu    sync.Mutex
	cond  sync.Cond
	taken bool
}

func (t *turn) take() {
	t.mu.Lock()
	if t.cond.L == nil { // who waits reads it without the lock
		t.cond.L = &t.mu
	}
	for t.taken {
		t.cond.Wait()
	}
	t.taken = true
	t.mu.Unlock()
}

func (t *turn) give() {
	t.mu.Lock()
	t.taken = false
	t.mu.Unlock()
	t.cond.Signal()
}

// timedOut reports whether err says that a wait took too long, after which
// another try may succeed.
func timedOut(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}
