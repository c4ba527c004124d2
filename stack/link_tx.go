package stack

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/tcp"
)

const (
	txQueueLen = 512 // frames that may wait for a device
	txBatch    = 32  // most frames of one Send
	minTxRing  = 1   // initial size of the ring
	maxDrain   = 256 // batches that a drainer sends before another goroutine continues

	// txStall is the time without progress after which a full queue counts as stalled. A stalled queue
	// drops the frames of connections.
	txStall = 3 * time.Second
)

// A txQueue holds frames that wait for one device. Frames leave in FIFO order. An interface has one queue for
// most frames, and may have others for bulk transfers: see link_txbulk.go.
//
// No goroutine owns the queue. A caller puts frames, releases its locks, and then calls drain. If no
// goroutine is draining, the caller becomes the drainer; otherwise drain returns at once. The drainer
// re-checks n after it has cleared draining, so that a frame that is put in between is never left behind
// (see TestDrainerSeesLateFrame).
//
// A device's Send may block (see nic.Nonblocking), but the goroutine that calls drain may be a timer, the
// receiver of another link or the caller of Close, none of which may block. For a device that may block,
// drain therefore starts a goroutine, which ends when the queue is empty. If the device is stuck, only its
// own queue fills.
type txQueue struct {
	ifc *iface

	n        atomic.Int32                  // frames queued; read without mu
	draining atomic.Bool                   // a goroutine is sending
	async    atomic.Bool                   // drain starts a goroutine: Send may block, or the interface closes
	idle     atomic.Pointer[chan struct{}] // gets a value when a drainer is done; nil until the interface closes

	mu      mutex[levelLink]
	ring    []txEntry  // allocated on first use; its length is a power of two
	head    int        // index of the oldest entry
	closed  bool       // put fails from now on
	waiters []txWaiter // senders that found the queue full, oldest first; the drainer calls them

	// While connections wait because the queue is full, watch detects a stall of the queue; see await.
	takes   uint64 // batches taken so far
	seen    uint64 // the value of takes when watch was set
	watch   alarm
	stalled atomic.Bool // the queue is full, and nothing was taken for txStall; changed under mu

	scratch txScratch // used by the drainer only
}

// A txScratch holds the arrays of the drainer. They are allocated on first use.
type txScratch struct {
	batch []nic.Frame
	taken []txEntry         // the entries of the frames in batch; of the same length
	bytes *[directRoom]byte // the frame of a direct transmit
}

// reserve makes batch and taken large enough for min(n, txBatch) frames.
func (o *txScratch) reserve(n int) {
	if n = min(n, txBatch); n <= len(o.batch) {
		return
	}
	for size := minTxRing; ; size *= 2 {
		if size >= n {
			o.batch, o.taken = make([]nic.Frame, size), make([]txEntry, size)
			return
		}
	}
}

// claim makes the caller the drainer, for a direct transmit of one frame. It reports false if a frame
// is queued, another goroutine is draining, or the device may block. The caller may hold the lock of a
// socket. After claim it writes the frame to scratch.bytes and scratch.batch[0], releases its locks, and
// calls sendDirect.
func (q *txQueue) claim() bool {
	if q.n.Load() != 0 || q.async.Load() || !q.draining.CompareAndSwap(false, true) {
		return false
	}
	if q.scratch.bytes == nil {
		q.scratch.bytes = new([directRoom]byte)
		q.scratch.reserve(1)
	}
	return true
}

// endDrain ends the caller's role as the drainer.
func (q *txQueue) endDrain() {
	q.draining.Store(false)
	if idle := q.idle.Load(); idle != nil {
		select {
		case *idle <- struct{}{}:
		default:
		}
	}
}

// sendDirect sends the frame in scratch.batch[0], and then the frames that were queued since claim. The
// caller is the drainer; sendDirect ends that role.
func (q *txQueue) sendDirect() {
	ifc := q.ifc
	f := &q.scratch.batch[0]
	bytes := f.Len()
	if ws := ifc.s.watch.set.Load(); ws != nil && ws.frames {
		ws.putFrames(ifc, q.scratch.batch[:1], FrameSent)
	}
	n, err := ifc.dev.Send(q.scratch.batch[:1])
	if n == 1 {
		ifc.stats.TxDirect.Add(1, bytes)
	} else {
		ifc.dropTx(dropDevice, f)
		ifc.s.counts.ipSent.Add(1) // a dropped packet counts as sent, and TxDirect does not count it
	}
	*f = nic.Frame{}
	if err != nil {
		ifc.port.failed(err)
	}
	if q.endDrain(); q.n.Load() > 0 {
		q.drain()
	}
}

// A txEntry is a queued frame. The frame's Body, if any, belongs to the sender.
type txEntry struct {
	frame nic.Frame
	buf   []byte // the pooled buffer that contains the frame's Head
	done  func() // called when the frame is sent or dropped, and the Body is no longer used; may be nil
}

// release frees the buffer of an entry that was sent or dropped, and calls done.
func (s *Stack) release(e *txEntry) {
	s.bufs.put(e.buf)
	if e.done != nil {
		e.done()
	}
}

// own returns an entry that may be kept for long. It copies an entry whose Body belongs to a writer to a
// pooled buffer, and releases the original.
func (s *Stack) own(e txEntry) txEntry {
	if e.done == nil {
		return e
	}
	f := e.frame
	buf := f.AppendTo(s.bufs.get(f.Len())[:0])
	f.Head, f.Body = buf, nil
	s.release(&e)
	return txEntry{frame: f, buf: buf}
}

// A txWaiter is a sender that found the queue of an interface full. txReady is called once, with no lock
// held, when the queue has room again, or is stalled or closed. The sender then tries again.
type txWaiter interface{ txReady(q *txQueue) }

// room reports whether the queue has fewer frames than its limit. The limit is soft: put accepts frames
// beyond it, so a sender that has found room may put several.
func (q *txQueue) room() bool { return q.n.Load() < txQueueLen }

// wait adds w to the waiters, and reports true. If the queue has room or is closed, it reports false.
func (q *txQueue) wait(w txWaiter) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.room() || q.closed {
		return false
	}
	q.waiters = append(q.waiters, w)
	return true
}

// unwait removes w from the waiters.
func (q *txQueue) unwait(w txWaiter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if i := slices.Index(q.waiters, w); i >= 0 {
		q.waiters = slices.Delete(q.waiters, i, i+1)
	}
}

// await does what wait does, for a connection w, and also sets the watch that detects a stall. If the
// queue is stalled, await returns false. The connection then sends, the queue drops the connection's
// segments, and the connection's retransmissions time out. A full queue that makes progress drops nothing.
func (q *txQueue) await(w txWaiter) bool {
	if q.stalled.Load() || !q.wait(w) {
		return false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.watch.at == 0 {
		q.setWatch()
	}
	return true
}

// setWatch schedules the next check of the queue's progress. q.mu is held.
func (q *txQueue) setWatch() {
	q.seen = q.takes
	now := q.ifc.s.now()
	q.watch.set(now, now+tcp.Time(txStall), q)
}

// fired marks the queue as stalled if it has made no progress since setWatch. The waiting connections then
// send, and the queue drops their segments. The alarm q.watch calls fired.
func (q *txQueue) fired() {
	q.mu.Lock()
	if !q.watch.over() || q.room() || len(q.waiters) == 0 {
		q.mu.Unlock()
		return
	}
	if q.seen != q.takes {
		q.setWatch()
		q.mu.Unlock()
		return
	}
	q.stalled.Store(true)
	var woken, rest []txWaiter
	for _, w := range q.waiters {
		if _, ok := w.(*dgram); ok {
			rest = append(rest, w) // the writer of a datagram waits until its deadline
		} else {
			woken = append(woken, w)
		}
	}
	q.waiters = rest
	q.mu.Unlock()
	for _, w := range woken {
		w.txReady(q)
	}
	q.ifc.s.drain()
}

// put appends a frame and takes ownership of its buffer. It reports false if the queue is closed, or is
// full and stalled; the caller then still owns the buffer.
func (q *txQueue) put(e *txEntry) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	n := int(q.n.Load())
	if n >= txQueueLen && q.stalled.Load() {
		return false
	}
	if n == len(q.ring) {
		q.grow(n)
	}
	q.ring[(q.head+n)&(len(q.ring)-1)] = *e
	q.n.Store(int32(n + 1))
	return true
}

// close drops all queued frames and makes put fail. It calls the waiters, which look up another route or fail.
func (q *txQueue) close() {
	batch, taken := make([]nic.Frame, txBatch), make([]txEntry, txBatch)
	for {
		q.mu.Lock()
		q.closed = true
		q.watch.close()
		k := q.take(batch, taken)
		waiters := q.waiters
		q.waiters = nil
		q.mu.Unlock()
		for i := range taken[:k] {
			q.ifc.dropTx(dropTxQueue, &batch[i])
			q.ifc.s.release(&taken[i])
		}
		for _, w := range waiters {
			w.txReady(q)
		}
		if k == 0 {
			return
		}
	}
}

// enqueue queues a frame, or drops it if put fails. put fails on a removed interface, because the queue of
// that interface has no drainer. A frame in that queue would never be released, and a zero-copy writer
// would wait for the frame forever.
func (q *txQueue) enqueue(e *txEntry) {
	if !q.put(e) {
		q.ifc.dropTx(dropTxQueue, &e.frame)
		q.ifc.s.release(e)
	}
}

// grow doubles the ring, which holds n entries. q.mu is held.
func (q *txQueue) grow(n int) {
	ring := make([]txEntry, max(2*n, minTxRing))
	copy(ring[copy(ring, q.ring[q.head:]):], q.ring[:q.head])
	q.ring, q.head = ring, 0
}

// take moves up to len(batch) of the oldest entries to taken, and their frames to batch. It returns their
// number. q.mu is held.
func (q *txQueue) take(batch []nic.Frame, taken []txEntry) int {
	n := int(q.n.Load())
	k := min(n, len(batch))
	q.takes++
	if q.stalled.Load() {
		q.stalled.Store(false)
	}
	for i := range k {
		e := &q.ring[q.head]
		taken[i] = *e
		batch[i] = e.frame
		*e = txEntry{}
		q.head = (q.head + 1) & (len(q.ring) - 1)
	}
	if k == n && len(q.ring) > txQueueLen {
		q.ring, q.head = nil, 0 // free a ring that has grown beyond the soft limit, which is rare
	}
	q.n.Store(int32(n - k))
	return k
}

// ready removes and returns the waiters to be called now. While the queue is at least half full, ready
// returns none. Otherwise it returns at most as many waiters as the queue has room for. Thousands may wait,
// and those that find no room would only wait again. q.mu is held.
func (q *txQueue) ready() []txWaiter {
	n := int(q.n.Load())
	if len(q.waiters) == 0 || n >= txQueueLen/2 {
		return nil
	}
	k := min(len(q.waiters), txQueueLen-n)
	ready := q.waiters[:k]
	if q.waiters = q.waiters[k:]; len(q.waiters) == 0 {
		q.waiters = nil
	}
	return ready
}

// drain sends the queued frames, unless another goroutine is draining. It never blocks on the device: if Send
// may block, a new goroutine drains. The caller must not hold a lock, because the device may call back into
// the stack.
func (q *txQueue) drain() {
	switch {
	case !q.draining.CompareAndSwap(false, true): // another goroutine is draining
	case q.async.Load():
		go q.drainAsync()
	default:
		q.drainOn(maxDrain)
	}
}

// drainAsync is drainOn in a goroutine of its own. If Send of the device may block, drainAsync first waits
// until no other interface of the device is sending.
func (q *txQueue) drainAsync() {
	if t := q.ifc.port.turn; t != nil {
		t.take()
		defer t.end()
	}
	q.drainOn(maxDrain)
}

// drainQueued is drainOn for the frames that are queued now. The caller is the drainer. A new goroutine
// sends the frames that are put later.
func (q *txQueue) drainQueued() {
	q.drainOn((int(q.n.Load()) + txBatch - 1) / txBatch)
}

// drainOn sends queued frames until the queue is empty. The caller is the drainer; drainOn ends that role.
// After the given number of batches a new goroutine continues. Otherwise the caller could go on sending the
// frames of other senders, and neither return nor receive frames.
func (q *txQueue) drainOn(batches int) {
	ifc := q.ifc
	for sent := 0; ; sent++ {
		if sent >= batches && q.n.Load() > 0 {
			go q.drainAsync()
			return
		}
		q.mu.Lock()
		q.scratch.reserve(int(q.n.Load()))
		k := q.take(q.scratch.batch, q.scratch.taken)
		ready := q.ready()
		more := len(q.waiters) > 0
		q.mu.Unlock()
		if k > 0 {
			ifc.transmit(q.scratch.batch[:k], q.scratch.taken[:k])
		}
		for _, w := range ready {
			w.txReady(q)
		}
		if len(ready) > 0 {
			clear(ready)
			ifc.s.drain() // if the routes have changed, the waiters have put their frames in another queue
		}
		if more || q.n.Load() > 0 {
			continue
		}
		// A sender that has put a frame since the check of n above either put it before the check of n
		// below, or finds that draining is false and becomes the drainer.
		q.endDrain()
		if q.n.Load() == 0 || !q.draining.CompareAndSwap(false, true) {
			return
		}
	}
}

// flush sends the queued frames even if another goroutine is draining. Frames may then leave out of order.
// flush is called when the device is about to be closed: a RST that arrives out of order is better than
// none.
func (q *txQueue) flush() {
	batch, taken := make([]nic.Frame, txBatch), make([]txEntry, txBatch)
	for left := int(q.n.Load()); left > 0; left -= txBatch { // only the frames queued at the start
		q.mu.Lock()
		k := q.take(batch, taken)
		ready := q.waiters
		q.waiters = nil
		q.mu.Unlock()
		if k > 0 {
			q.ifc.transmit(batch[:k], taken[:k])
		}
		for _, w := range ready {
			w.txReady(q)
		}
	}
}

// Close and RemoveNIC wait closeStall for a device that accepts no frames or does not close, and at most
// closeLimit for a device that accepts frames slowly.
const (
	closeStall = 500 * time.Millisecond
	closeLimit = 5 * time.Second
)

// sendLast waits until the devices have accepted the queued frames. It gives up on a device that accepts
// none. Such a device may be stuck, or Close may have been called from inside the device's Send. From now
// on no sender blocks on these devices, because drain starts goroutines. closing says that the devices will
// be closed. If closing is false, other interfaces still use the device: sendLast then sends only when it is
// the interface's turn (see sendTurn).
func (s *Stack) sendLast(closing bool, ifaces ...*iface) {
	idle := make(chan struct{}, 1)
	for _, ifc := range ifaces {
		ifc.drainAsync()
		for q := range ifc.txQueues {
			q.idle.Store(&idle)
			q.drain()
		}
	}
	if awaitSent(ifaces, idle) || !closing {
		return
	}
	done := make(chan struct{}, len(ifaces))
	for _, ifc := range ifaces {
		go func() {
			for q := range ifc.txQueues {
				q.flush()
			}
			done <- struct{}{}
		}()
	}
	stalled := time.NewTimer(closeStall)
	defer stalled.Stop()
	for range ifaces {
		select {
		case <-done:
		case <-stalled.C:
			return
		}
	}
}

// awaitSent waits while the interfaces' queues make progress, for at most closeLimit, and reports whether
// all of them are empty. idle gets a value when a drainer is done.
func awaitSent(ifaces []*iface, idle <-chan struct{}) bool {
	// state returns the number of frames that have left the queues, and whether a queue still waits.
	state := func() (taken uint64, waiting bool) {
		for _, ifc := range ifaces {
			taken += ifc.stats.sent() + ifc.stats.TxDropped.Load()
			for q := range ifc.txQueues {
				waiting = waiting || q.n.Load() > 0 || q.draining.Load()
			}
		}
		return taken, waiting
	}
	began := time.Now()
	taken, waiting := state()
	if !waiting {
		return true
	}
	stalled := time.NewTimer(closeStall)
	defer stalled.Stop()
	for {
		select {
		case <-idle:
			if _, waiting := state(); !waiting {
				return true
			}
		case <-stalled.C:
			n, waiting := state()
			if !waiting || n == taken || time.Since(began) > closeLimit {
				return !waiting
			}
			taken = n
			stalled.Reset(closeStall)
		}
	}
}

// transmit gives frames to the device and releases their buffers.
func (ifc *iface) transmit(batch []nic.Frame, taken []txEntry) {
	if ws := ifc.s.watch.set.Load(); ws != nil && ws.frames {
		ws.putFrames(ifc, batch, FrameSent)
	}
	n, err := ifc.dev.Send(batch)
	bytes := 0
	for i := range batch {
		f := &batch[i]
		if i < n {
			bytes += f.Len()
		} else {
			ifc.dropTx(dropDevice, f)
		}
		ifc.s.release(&taken[i])
		taken[i] = txEntry{}
		*f = nic.Frame{}
	}
	if n > 0 {
		ifc.stats.Tx.Add(n, bytes)
	}
	if err != nil {
		ifc.port.failed(err)
	}
}

// drain sends the queued frames of all interfaces. Every entry point of the stack ends with drain: a
// goroutine that waited while its own frames are still queued would deadlock.
func (s *Stack) drain() {
	if s.loop.n.Load() > 0 {
		s.loop.drain(s)
	}
	for _, ifc := range *s.ifaces.Load() {
		if ifc.tx.n.Load() > 0 || ifc.txBulk.Load() != nil { // usually neither
			ifc.drain()
		}
	}
}
