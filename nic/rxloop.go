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

// An rxLoop is the receiving part of the devices that read frames, such as TAP, Packet and Adapter. The readers
// and watchers of rxLoops are the only permanent goroutines of package nic: a reader for each device, or for
// each queue of a TAP, and at most one watcher for each device.
type rxLoop struct {
	base
	state    atomic.Pointer[Link] // replaced, never modified; its Up is the state of the system's interface
	src      source
	more     []source              // the sources of the other queues
	dead     atomic.Pointer[error] // the error that ended the device; nil while it works
	onDown   func(error)
	reported atomic.Bool    // whether onDown has been called
	zeroCopy zeroCopySource // nil if src does not read into the stack's buffers

	watch  watcher // reports changes of the system's interface; may be nil
	onLink func()
}

// A watcher reports changes of one of the system's interfaces.
type watcher interface {
	// run watches until Close.
	run()
	Close() error
}

// current returns the current state of the link. Its Up is only that of the system's interface; Link
// also considers Close and failures.
func (l *rxLoop) current() *Link { return l.state.Load() }

// setLink changes the link and calls onLink. It must not be called concurrently.
func (l *rxLoop) setLink(link Link) {
	l.state.Store(&link)
	if l.onLink != nil {
		l.onLink()
	}
}

// NotifyLink registers f. The device calls f when the MTU, the MAC or the state of the system's
// interface changes. It also calls f when the MAC of the kernel's end of a TAP changes, because
// neighbour entries may then be wrong. NotifyLink reports whether the device detects changes, as it
// does on Linux. It must be called before Attach.
func (l *rxLoop) NotifyLink(f func()) bool {
	l.onLink = f
	return l.watch != nil
}

// A source supplies the frames that an rxLoop reads.
type source interface {
	// read waits for frames and returns them in the order of the wire. They are valid until the
	// next call. dropped is the number of frames that read has discarded. read may return without
	// frames and without an error.
	read() (frames []Frame, dropped int, err error)
	// Close makes a blocked read and all later ones return.
	Close() error
}

// Link describes the current state of the link. Up is true if the device is open and has not failed
// and the system's interface is up with a carrier. Where changes of the interface are not detected,
// Up ignores its state.
func (l *rxLoop) Link() Link {
	link := *l.current()
	link.Up = link.Up && !l.closed.Load() && l.dead.Load() == nil
	return link
}

// NotifyDown registers f. If the device fails, the reading goroutine calls f once with the error
// that Err returns. f is not called after Close. NotifyDown must be called before Attach.
func (l *rxLoop) NotifyDown(f func(err error)) { l.onDown = f }

// MergeReceived turns on GRO if the device supports it and the kernel does not do it: TCP segments
// that arrive together are merged into super-frames. This does not depend on Link.GSO, which is
// about sending. MergeReceived must be called before Attach.
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
	// receiveInto sets buffer and reports whether the source will call it.
	receiveInto(buffer func() ReceiveBuffer) bool
	// release ends the use of the buffer that the last read filled, if any.
	release()
}

// ReceiveInto sets the function that the device calls before it reads a frame, to get a
// ReceiveBuffer. It reports whether the device will call the function: only a TAP or a TUN with offloads and
// one queue does. It must be called before Attach.
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

// closeSources closes the watcher and all sources, and returns the error of closing l.src.
func (l *rxLoop) closeSources() error {
	for _, src := range l.more {
		src.Close()
	}
	if l.watch != nil {
		l.watch.Close()
	}
	return l.src.Close()
}

// The reader yields if more than yieldBytes arrive at once. The goroutine that the reader woke can then
// process them while they are in this core's cache.
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

// Err returns nil while the device works, net.ErrClosed after Close, and the error that ended the
// device after a failure.
func (l *rxLoop) Err() error {
	if err := l.dead.Load(); err != nil {
		return *err
	}
	if l.closed.Load() {
		return net.ErrClosed
	}
	return nil
}

// Attach starts a goroutine for each queue. The goroutine reads frames and passes all that have
// arrived to recv in one batch. A second call panics.
func (l *rxLoop) Attach(recv func(batch []Frame)) {
	l.base.Attach(recv)
	for _, src := range l.sources() {
		go l.read(src)
	}
	if l.watch != nil {
		go l.watch.run()
	}
}

// Close ends the link and its goroutines. A second Close returns net.ErrClosed.
func (l *rxLoop) Close() error {
	if err := l.base.Close(); err != nil {
		return err
	}
	if l.dead.Load() != nil {
		return nil // fail has closed the sources
	}
	return l.closeSources()
}

// fail records the error that ended the device, and ends the readers.
func (l *rxLoop) fail(err error) {
	if l.closed.Load() {
		return // the error is a result of Close
	}
	err = fmt.Errorf("nic: %s: %w", l.current().Name, err)
	if l.dead.CompareAndSwap(nil, &err) {
		l.closeSources()
	}
}

// read is the goroutine that reads from src.
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
				// Yield, so that the woken application processes the data while it is in this
				// core's cache. It is then blocked in Read again, with its buffer ready, when
				// the next data arrives. Bulk transfers from the kernel went from 26 to 38 Gbit/s.
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

// A frameReader is a source that reads one frame with each Read of an io.Reader.
type frameReader struct {
	io.ReadCloser
	min, max int // length of a frame in bytes
	empty    int // consecutive reads that returned no bytes
	buf      []byte
	batch    [1]Frame
}

func newFrameReader(r io.ReadCloser, m Medium, max int) *frameReader {
	// buf has one byte more than the longest frame. If a read fills that byte too, the frame was too
	// long, and may be truncated.
	return &frameReader{ReadCloser: r, min: m.headerLen(), max: max, buf: make([]byte, max+1)}
}

// maxEmptyReads is how many consecutive reads may return neither bytes nor an error before the
// device fails.
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

// sendError returns the error of Send after Close or a failure, and nil otherwise.
func (l *rxLoop) sendError() error {
	if l.closed.Load() {
		return net.ErrClosed
	}
	if err := l.dead.Load(); err != nil {
		return *err
	}
	return nil
}

// A condMutex is a mutex that may be held during a blocking call. Goroutines wait for it in a
// sync.Cond, which testing/synctest treats as durably blocked, unlike a wait for a sync.Mutex.
type condMutex struct {
	mu    sync.Mutex
	cond  sync.Cond
	taken bool
}

func (t *condMutex) lock() {
	t.mu.Lock()
	if t.cond.L == nil { // set it only once: a woken Wait reads L before it has locked mu again
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
