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

// An rxLoop is the receiving part of devices that have to be read: TAP, Packet and Adapter.
// Its readers are the only standing goroutines of package nic: one for each device, or for each
// queue of a TAP.
type rxLoop struct {
	base
	state    atomic.Pointer[Link] // replaced, never changed; Up is that of the system's interface
	src      source
	more     []source              // the other queues
	dead     atomic.Pointer[error] // the error with which the device has failed
	onDown   func(error)
	reported atomic.Bool    // onDown was called
	zeroCopy zeroCopySource // nil: src does not read into the stack's buffers

	watch  watcher // reports changes of the system's interface; may be nil
	onLink func()
}

// A watcher follows an interface of the system.
type watcher interface {
	// run watches until Close.
	run()
	Close() error
}

// current returns the current state of the link, except Up: see Link.
func (l *rxLoop) current() *Link { return l.state.Load() }

// setLink changes the link, and calls onLink. One goroutine at a time calls it.
func (l *rxLoop) setLink(link Link) {
	l.state.Store(&link)
	if l.onLink != nil {
		l.onLink()
	}
}

// NotifyLink registers f, which is called when the MTU, the MAC or the state of the system's interface
// changes, or the MAC of the kernel's end of a TAP, after which neighbour entries may be wrong. It
// reports whether changes are followed, as they are on Linux. It must be called before Attach.
func (l *rxLoop) NotifyLink(f func()) bool {
	l.onLink = f
	return l.watch != nil
}

// A source is what an rxLoop reads.
type source interface {
	// read waits for frames, and returns them in the order of the wire. They are valid until the
	// next call. dropped is how many it has discarded. There may be no frames and
	// no error.
	read() (frames []Frame, dropped int, err error)
	// Close makes a read that waits, and all later ones, return.
	Close() error
}

// Link describes the present state of the link. Up is whether the device is open, has not failed, and
// the system's interface, if it is followed, is up and has a carrier.
func (l *rxLoop) Link() Link {
	link := *l.current()
	link.Up = link.Up && !l.closed.Load() && l.dead.Load() == nil
	return link
}

// NotifyDown registers f, which is called once if the device fails, with the error of Err, from the
// reading goroutine. It is not called after Close. It must be called before Attach.
func (l *rxLoop) NotifyDown(f func(err error)) { l.onDown = f }

// MergeReceived turns on GRO, if the device can do it and the kernel does not: TCP segments
// that arrive together are merged into super-frames, even if the link has no GSO.
// It must be called before Attach.
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
	// release ends the use of the buffer that holds the frame of the last read, if any.
	release()
}

// ReceiveInto sets the function from which the device gets a ReceiveBuffer before it
// reads a frame. It reports whether the device calls it, as a TAP with
// offloads and one queue does. It must be called before Attach.
func (l *rxLoop) ReceiveInto(buffer func() ReceiveBuffer) bool {
	src, ok := l.src.(zeroCopySource)
	if !ok || len(l.more) > 0 || !src.receiveInto(buffer) {
		return false
	}
	l.zeroCopy = src
	return true
}

// sources returns the sources of all queues.
func (l *rxLoop) sources() []source { return append([]source{l.src}, l.more...) }

// closeSources closes all sources, and returns the error of the first one.
func (l *rxLoop) closeSources() error {
	for _, src := range l.more {
		src.Close()
	}
	if l.watch != nil {
		l.watch.Close()
	}
	return l.src.Close()
}

// yieldBytes is how many bytes have to arrive at once for the reader to yield, so that the goroutine
// that it woke takes them while they are in the cache of this core.
const yieldBytes = 16 << 10

// notifyDown calls NotifyDown of a wrapped device, if it has one.
func notifyDown(dev Device, f func(err error)) {
	if d, ok := dev.(DownNotifier); ok {
		d.NotifyDown(f)
	}
}

// notifyLink calls NotifyLink of a wrapped device, if it has one.
func notifyLink(dev Device, f func()) bool {
	d, ok := dev.(LinkNotifier)
	return ok && d.NotifyLink(f)
}

// Err returns nil while the device works, net.ErrClosed after Close, and else the error with which it has
// failed.
func (l *rxLoop) Err() error {
	if err := l.dead.Load(); err != nil {
		return *err
	}
	if l.closed.Load() {
		return net.ErrClosed
	}
	return nil
}

// Attach starts a goroutine for each queue, which reads frames and passes those that are there at
// once to recv in one batch. A second call panics.
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

// fail records the error with which the device has failed, and ends the readers.
func (l *rxLoop) fail(err error) {
	if l.closed.Load() {
		return // and so it ended by Close
	}
	err = fmt.Errorf("nic: %s: %w", l.current().Name, err)
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
				// The application that was woken takes the data while it is in the cache of
				// this core, and waits with its buffer for the next: bulk transfers
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
	if err := l.dead.Load(); err != nil && l.onDown != nil && !l.reported.Swap(true) {
		l.onDown(*err)
	}
}

// A frameReader is a source over an io.Reader that returns one frame with each Read.
type frameReader struct {
	io.ReadCloser
	min, max int // bytes in a frame
	empty    int // reads in a row that returned nothing
	buf      []byte
	batch    [1]Frame
}

func newFrameReader(r io.ReadCloser, m Medium, max int) *frameReader {
	// A read that fills one byte more than the longest frame shows that the frame was truncated.
	return &frameReader{ReadCloser: r, min: m.headerLen(), max: max, buf: make([]byte, max+1)}
}

// maxEmptyReads is how many consecutive reads may return neither bytes nor an error before the
// reader counts as broken.
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

// sendError returns the error of Send after Close or a failure, else nil.
func (l *rxLoop) sendError() error {
	if l.closed.Load() {
		return net.ErrClosed
	}
	if err := l.dead.Load(); err != nil {
		return *err
	}
	return nil
}

// A condMutex is a lock that may be held during a blocking call. Goroutines wait for it in a sync.Cond,
// which testing/synctest treats as durably blocked, unlike a sync.Mutex.
type condMutex struct {
	mu    sync.Mutex
	cond  sync.Cond
	taken bool
}

func (t *condMutex) lock() {
	t.mu.Lock()
	if t.cond.L == nil { // it is set once, because Wait reads it without the lock
		t.cond.L = &t.mu
	}
	for t.taken {
		t.cond.Wait()
	}
	t.taken = true
	t.mu.Unlock()
}

func (t *condMutex) unlock() {
	t.mu.Lock()
	t.taken = false
	t.mu.Unlock()
	t.cond.Signal()
}

// timedOut reports whether err is a timeout, after which another attempt may succeed.
func timedOut(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}
