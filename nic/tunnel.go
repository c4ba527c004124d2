package nic

import (
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// TunnelConfig configures a Tunnel.
type TunnelConfig struct {
	// Name is the name of the device in messages, "tunnel" if empty.
	Name string
	// MTU is the largest packet in bytes, 1420 if zero: WireGuard's default.
	MTU int
	// GSO is the largest super-frame in bytes that the host may send. 0 stands for 65535, and a negative
	// value for no super-frames. The size of the packets that Read returns does not depend on GSO.
	GSO int
	// Queue is how many bytes may wait for Read, 1 MiB if zero. Send blocks while that many or more wait.
	Queue int
}

// A Tunnel is a Device of medium IP whose other end is a program that carries the packets. Read
// returns the packets that the host sends, and Write passes packets to the host. Both take many packets
// with one call, in the form of the tun.Device of WireGuard's Go implementation.
//
// The host may send super-frames: Read cuts them into packets. Write merges the TCP segments that it
// gets with one call into super-frames if the host asks for that (GRO). A full queue loses no packet:
// Send waits while the queue is full.
type Tunnel struct {
	base
	link    atomic.Pointer[Link] // replaced, never modified
	limit   int                  // the queue is full if queued is at least limit
	reading condMutex            // held by the Read that takes packets
	rest    tunnelFrame          // the frame that Read has begun; guarded by reading

	mu       sync.Mutex
	readable sync.Cond // the queue is not empty, or the tunnel has ended
	writable sync.Cond // the queue is not full, or the tunnel has ended
	queue    []tunnelFrame
	queued   int   // bytes in queue
	ended    error // after Close or Fail: the error of Read, Send and Write

	merge  atomic.Bool
	onDown func(error) // guarded by mu, as onLink is
	onLink func()
	frames sync.Pool // of *[]byte: the bytes of queued frames
	writes sync.Pool // of *tunnelBatch
}

var (
	_ Device        = (*Tunnel)(nil)
	_ DownNotifier  = (*Tunnel)(nil)
	_ LinkNotifier  = (*Tunnel)(nil)
	_ ReceiveMerger = (*Tunnel)(nil)
)

// A tunnelFrame is a copy of a frame that the host has sent.
type tunnelFrame struct {
	f    Frame   // f.Head has all bytes
	buf  *[]byte // the memory of f, from the pool; nil if there is no frame
	done int     // bytes of the payload of a super-frame that Read has returned or dropped
}

// A tunnelBatch is the memory that one call of Write needs.
type tunnelBatch struct {
	frames []Frame
	gro    gro
}

// NewTunnel returns a Tunnel.
func NewTunnel(cfg TunnelConfig) *Tunnel {
	link := Link{Name: cfg.Name, MTU: cfg.MTU, Medium: IP, GSO: gsoSize(cfg.GSO), TxChecksum: true, Up: true}
	if link.Name == "" {
		link.Name = "tunnel"
	}
	if link.MTU <= 0 {
		link.MTU = 1420
	}
	t := &Tunnel{limit: cfg.Queue}
	if t.limit <= 0 {
		t.limit = 1 << 20
	}
	t.link.Store(&link)
	t.readable.L, t.writable.L = &t.mu, &t.mu
	return t
}

// Link describes the link. Up is true until the tunnel ends, except while SetLink has set it to false.
func (t *Tunnel) Link() Link {
	l := *t.link.Load()
	t.mu.Lock()
	defer t.mu.Unlock()
	l.Up = l.Up && t.ended == nil
	return l
}

// SetLink sets the MTU, and whether the link is up, and reports the change to the host. The program that
// carries the packets calls SetLink when its connection to the other side is made or lost. If mtu is not
// positive, SetLink does not change the MTU. SetLink must not be called concurrently.
func (t *Tunnel) SetLink(mtu int, up bool) {
	l := *t.link.Load()
	if mtu > 0 {
		l.MTU = mtu
	}
	l.Up = up
	t.link.Store(&l)
	t.mu.Lock()
	f := t.onLink
	t.mu.Unlock()
	if f != nil {
		f()
	}
}

// NotifyLink registers f, which SetLink calls. It returns true. It must be called before Attach.
func (t *Tunnel) NotifyLink(f func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.onLink = f
	return true
}

// NotifyDown registers f, which Fail calls. It must be called before Attach.
func (t *Tunnel) NotifyDown(f func(err error)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.onDown = f
}

// MergeReceived turns on GRO: Write merges TCP segments into super-frames. It must be called before
// Attach.
func (t *Tunnel) MergeReceived() { t.merge.Store(true) }

// Send queues copies of the frames for Read. It waits while the queue is full. It drops and counts a frame
// that the link cannot carry. After Close it returns net.ErrClosed, and after Fail the error of Fail.
func (t *Tunnel) Send(batch []Frame) (n int, err error) {
	if err := t.err(); err != nil {
		return 0, err
	}
	for n = range batch {
		f := &batch[n]
		if !t.link.Load().carries(f) {
			t.sendDropped.Add(1)
			continue
		}
		if err := t.put(t.copy(f)); err != nil {
			return n, err
		}
	}
	return len(batch), nil
}

// copy returns a copy of a frame.
func (t *Tunnel) copy(f *Frame) tunnelFrame {
	buf, ok := t.frames.Get().(*[]byte)
	if !ok {
		buf = new([]byte)
	}
	*buf = f.AppendTo((*buf)[:0])
	c := tunnelFrame{f: *f, buf: buf}
	c.f.Head, c.f.Body = *buf, nil
	return c
}

// put appends a frame to the queue. It waits while the queue is full.
func (t *Tunnel) put(c tunnelFrame) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.queued >= t.limit && t.ended == nil {
		t.writable.Wait()
	}
	if t.ended != nil {
		return t.ended
	}
	t.queue = append(t.queue, c)
	t.queued += len(c.f.Head)
	t.countSent(1, len(c.f.Head))
	t.readable.Signal()
	return nil
}

// take removes the oldest frame from the queue and returns it. If the queue is empty and wait is true, take
// waits for a frame. If the queue is empty and wait is false, take returns no frame and no error.
func (t *Tunnel) take(wait bool) (c tunnelFrame, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.queue) == 0 && t.ended == nil && wait {
		t.readable.Wait()
	}
	switch {
	case t.ended != nil:
		return c, t.ended
	case len(t.queue) == 0:
		return c, nil
	}
	c = t.queue[0]
	t.queue[0] = tunnelFrame{}
	if t.queue = t.queue[1:]; len(t.queue) == 0 {
		t.queue = nil
	}
	t.queued -= len(c.f.Head)
	t.writable.Signal()
	return c, nil
}

// Read waits for packets that the host sends. It copies the i-th packet to bufs[i][offset:], and stores
// the packet's length in sizes[i]. It returns the number of packets, at most len(bufs). sizes must not
// be shorter than bufs. Read drops and counts a packet that is longer than its buffer.
//
// After Close, Read returns net.ErrClosed, and after Fail the error of Fail.
func (t *Tunnel) Read(bufs [][]byte, sizes []int, offset int) (n int, err error) {
	t.reading.lock()
	defer t.reading.unlock()
	for n < len(bufs) {
		if t.rest.buf == nil {
			if t.rest, err = t.take(n == 0); err != nil || t.rest.buf == nil {
				break
			}
		}
		n += t.next(bufs[n:], sizes[n:], offset)
	}
	if n > 0 {
		err = nil // the next call returns it
	}
	return n, err
}

// next copies packets of t.rest to bufs, as Read does, and returns the number of packets. It releases t.rest
// after the last packet. t.reading is held.
func (t *Tunnel) next(bufs [][]byte, sizes []int, offset int) (n int) {
	c := &t.rest
	if c.f.GSO == GSONone {
		b := bufs[0][offset:]
		if len(b) >= len(c.f.Head) {
			b = b[:copy(b, c.f.Head)]
			if !c.f.NeedsChecksum || completeChecksum(b, int(c.f.ChecksumStart), int(c.f.ChecksumOffset)) {
				sizes[0], n = len(b), 1
			}
		}
		if n == 0 {
			t.sendDropped.Add(1)
		}
		t.release(c)
		return n
	}
	s, ok := IP.parse(&c.f)
	if !ok {
		t.sendDropped.Add(1)
		t.release(c)
		return 0
	}
	total := c.f.Len() - int(c.f.HeaderLen)
	for n < len(bufs) && c.done < total {
		size := min(int(c.f.GSOSize), total-c.done)
		if b := bufs[n][offset:]; len(b) >= int(c.f.HeaderLen)+size {
			s.segment(b[:int(c.f.HeaderLen)+size], c.done)
			sizes[n] = int(c.f.HeaderLen) + size
			n++
		} else {
			t.sendDropped.Add(1)
		}
		c.done += size
	}
	if c.done == total {
		t.release(c)
	}
	return n
}

// release returns the memory of a frame to the pool.
func (t *Tunnel) release(c *tunnelFrame) {
	t.frames.Put(c.buf)
	*c = tunnelFrame{}
}

// Write passes packets to the host: the i-th is bufs[i][offset:]. It does not use the buffers after it has
// returned. With GRO, Write may change the bytes of a buffer, and the bytes between its length and its
// capacity. Write drops and counts a packet that is empty or longer than the MTU, and all packets that come
// before Attach. It returns len(bufs): dropped packets count too. Write may be called by several goroutines at once.
//
// After Close, Write returns net.ErrClosed, and after Fail the error of Fail.
func (t *Tunnel) Write(bufs [][]byte, offset int) (int, error) {
	if err := t.err(); err != nil {
		return 0, err
	}
	w, ok := t.writes.Get().(*tunnelBatch)
	if !ok {
		w = &tunnelBatch{gro: gro{medium: IP}}
	}
	bytes, count := 0, 0
	for _, b := range bufs {
		if len(b) < offset {
			return 0, fmt.Errorf("nic: %s: a packet of %d bytes is shorter than the offset %d: %w", t.link.Load().Name, len(b), offset, io.ErrShortBuffer)
		}
		b = b[offset:]
		if f := (Frame{Head: b}); !t.link.Load().carries(&f) {
			t.recvDropped.Add(1)
			continue
		}
		bytes += len(b)
		count++
		if !t.merge.Load() || !w.gro.add(w.frames, b) {
			w.frames = append(w.frames, Frame{Head: b})
		}
	}
	w.gro.close(w.frames)
	if len(w.frames) > 0 && !t.deliver(w.frames, bytes) {
		t.recvDropped.Add(uint64(count))
	}
	clear(w.frames)
	w.frames = w.frames[:0]
	t.writes.Put(w)
	return len(bufs), nil
}

// err returns nil while the tunnel works, and otherwise the error of Read, Send and Write.
func (t *Tunnel) err() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ended
}

// end makes Read, Send and Write return err. It does nothing and returns false if the tunnel has already
// ended.
func (t *Tunnel) end(err error) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended != nil {
		return false
	}
	t.ended = err
	t.queue, t.queued = nil, 0
	t.readable.Broadcast()
	t.writable.Broadcast()
	return true
}

// Fail ends the tunnel from the side of the program that carries the packets. The host learns that the
// device has failed with err, which must not be nil. Fail does nothing after Close or another Fail.
func (t *Tunnel) Fail(err error) {
	err = fmt.Errorf("nic: %s: %w", t.link.Load().Name, err)
	if !t.end(err) {
		return
	}
	t.mu.Lock()
	f := t.onDown
	t.mu.Unlock()
	if f != nil {
		f(err)
	}
}

// Close ends the tunnel from the side of the host. A second Close returns net.ErrClosed.
func (t *Tunnel) Close() error {
	if err := t.base.Close(); err != nil {
		return err
	}
	t.end(net.ErrClosed)
	return nil
}
