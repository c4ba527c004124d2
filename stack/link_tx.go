package stack

import (
	"sync/atomic"
	"time"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/tcp"
)

const (
	txQueueLen = 512 // frames that may wait for a device
	txBatch    = 32  // frames given to a device in one Send, at most
	minTxRing  = 4   // frames that a queue begins with room for
	maxDrain   = 256 // batches that one caller sends before it hands the turn on

	// txStall is how long a full queue may stand still before what connections send is dropped.
	txStall = 3 * time.Second
)

// A txQueue holds the frames that wait for one device. Frames leave in the order in which they
// were put.
//
// No goroutine owns the queue. A caller puts frames and then calls drain, after it has released
// its locks; drain either becomes the drainer or returns, because another goroutine is
// draining. The drainer re-checks n after it has cleared draining, so a frame that is put in between is
// never left behind.
//
// A device whose Send may block (see nic.Nonblocking) would keep whoever drains: a timer,
// the receiver of another link, the caller of Close. A goroutine that ends when the queue is
// empty sends to such a device, so that only the queue fills while the device is stuck.
type txQueue struct {
	n        atomic.Int32                  // frames queued; read without mu
	draining atomic.Bool                   // a goroutine is sending
	async    atomic.Bool                   // a goroutine of its own sends: Send may block, or the interface is being closed
	idle     atomic.Pointer[chan struct{}] // told when the drainer is done; set while the interface is being closed

	mu      mutex[levelLink]
	ring    []txEntry  // allocated on first use; its length is a power of two
	head    int        // index of the oldest entry
	closed  bool       // put fails from now on
	waiters []txWaiter // senders that found the queue full, oldest first; where n is 0, they are being called

	// The watch over a full queue for which connections wait; see await.
	takes   uint64 // batches taken
	seen    uint64 // takes when watch was set
	watch   alarm
	stalled atomic.Bool // the queue is full, and nothing was taken for txStall; changed under mu

	scratch txScratch // of the goroutine that is sending
}

// A txScratch is what the goroutine that is sending works with. Its parts are allocated on first use.
type txScratch struct {
	batch []nic.Frame
	taken []txEntry         // as many as batch has frames
	bytes *[directRoom]byte // of a direct frame
}

// reserve makes room for a batch of n frames, at most txBatch.
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

// claim makes the caller the one that sends, for one frame that is to go directly, if nothing
// is queued, nobody is sending, and the device does not block. The caller may hold the lock of a
// socket. It makes the frame in own.bytes and own.batch[0], releases its locks, and calls
// sendDirect.
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

// endDrain ends the turn of the goroutine that sends.
func (q *txQueue) endDrain() {
	q.draining.Store(false)
	if idle := q.idle.Load(); idle != nil {
		select {
		case *idle <- struct{}{}:
		default:
		}
	}
}

// sendDirect sends the frame in own.batch[0], and what others have queued meanwhile.
func (ifc *iface) sendDirect() {
	q := &ifc.tx
	f := &q.scratch.batch[0]
	bytes := f.Len()
	n, err := ifc.dev.Send(q.scratch.batch[:1])
	*f = nic.Frame{}
	if n == 1 {
		ifc.stats.TxDirect.Add(1, bytes)
	} else {
		ifc.stats.TxDropped.Add(1)
		ifc.s.counts.ipSent.Add(1)
	}
	if err != nil {
		ifc.failed(err)
	}
	if q.endDrain(); q.n.Load() > 0 {
		ifc.drain()
	}
}

// A txEntry is a frame and the pooled buffer that its Head lies in. Its Body, if there is one,
// belongs to somebody else, to whom done says that the entry is no more.
type txEntry struct {
	frame nic.Frame
	buf   []byte
	done  func() // nil: nobody asks
}

// release gives back what an entry holds that will not be sent any more.
func (s *Stack) release(e txEntry) {
	s.bufs.put(e.buf)
	if e.done != nil {
		e.done()
	}
}

// own makes an entry that may be kept for long: its bytes are in a buffer of the pool.
func (s *Stack) own(e txEntry) txEntry {
	if e.done == nil {
		return e
	}
	f := e.frame
	buf := f.AppendTo(s.bufs.get(f.Len())[:0])
	f.Head, f.Body = buf, nil
	s.release(e)
	return txEntry{frame: f, buf: buf}
}

// A txWaiter stopped choosing what to send because a queue was full. txReady is
// called once, without any lock held, when there is room again.
type txWaiter interface{ txReady() }

// room tells whether the queue takes more. It is a soft limit: those who were
// told that there is room may put what they have at hand.
func (q *txQueue) room() bool { return q.n.Load() < txQueueLen }

// wait enlists w to be called when there is room, and reports whether it has to
// wait at all: where it finds room, it does not enlist.
func (q *txQueue) wait(w txWaiter) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.room() || q.closed {
		return false
	}
	q.waiters = append(q.waiters, w)
	return true
}

// await is wait for connections. It does not wait for a stalled queue, which drops what is put:
// for a connection whose segments are lost on the way its timers go on, and it is given up in
// time if nobody answers. While a queue is full and moves, nothing is lost.
func (ifc *iface) await(w txWaiter) bool {
	q := &ifc.tx
	if q.stalled.Load() || !q.wait(w) {
		return false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.watch.at == 0 {
		ifc.setWatch()
	}
	return true
}

// setWatch has the watch look after a while whether the queue has moved. q.mu is held.
func (ifc *iface) setWatch() {
	q := &ifc.tx
	q.seen = q.takes
	now := ifc.s.now()
	q.watch.set(now, now+tcp.Time(txStall), (*txWatch)(ifc))
}

// A txWatch is the interface as the owner of the watch over its queue.
type txWatch iface

func (w *txWatch) fired() { (*iface)(w).watchQueue() }

// watchQueue looks whether the queue for which connections wait has moved. If it has not, it
// is stalled, and they send in vain.
func (ifc *iface) watchQueue() {
	q := &ifc.tx
	q.mu.Lock()
	if !q.watch.over() || q.room() || len(q.waiters) == 0 {
		q.mu.Unlock()
		return
	}
	if q.seen != q.takes {
		ifc.setWatch()
		q.mu.Unlock()
		return
	}
	q.stalled.Store(true)
	var woken, rest []txWaiter
	for _, w := range q.waiters {
		if _, ok := w.(*dgram); ok {
			rest = append(rest, w) // its Write waits for room, as long as its deadline lets it
		} else {
			woken = append(woken, w)
		}
	}
	q.waiters = rest
	q.mu.Unlock()
	for _, w := range woken {
		w.txReady()
	}
	ifc.s.drain()
}

// put appends a frame, and reports false where the queue was closed, or is full and stalled. Otherwise it
// owns the frame's buffer from now on.
func (q *txQueue) put(e txEntry) bool {
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
	q.ring[(q.head+n)&(len(q.ring)-1)] = e
	q.n.Store(int32(n + 1))
	return true
}

// closeQueue drops what is queued and has put refuse what comes from now on. Those who
// wait for room find out that there is another interface, or none.
func (ifc *iface) closeQueue() {
	q := &ifc.tx
	batch, taken := make([]nic.Frame, txBatch), make([]txEntry, txBatch)
	for {
		q.mu.Lock()
		q.closed = true
		q.watch.close()
		k := q.take(batch, taken)
		waiters := q.waiters
		q.waiters = nil
		q.mu.Unlock()
		for _, e := range taken[:k] {
			ifc.s.release(e)
		}
		ifc.stats.TxDropped.Add(uint64(k))
		for _, w := range waiters {
			w.txReady()
		}
		if k == 0 {
			return
		}
	}
}

// enqueue queues a frame, unless the interface was closed meanwhile: one that has been
// removed is drained by nobody, and a writer would wait for its bytes for ever.
func (ifc *iface) enqueue(e txEntry) {
	if !ifc.tx.put(e) {
		ifc.stats.TxDropped.Add(1)
		ifc.s.release(e)
	}
}

// grow doubles the ring, which has n entries. q.mu is held.
func (q *txQueue) grow(n int) {
	ring := make([]txEntry, max(2*n, minTxRing))
	copy(ring[copy(ring, q.ring[q.head:]):], q.ring[:q.head])
	q.ring, q.head = ring, 0
}

// take moves up to txBatch entries to the caller's arrays. q.mu is held.
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
		q.ring, q.head = nil, 0 // more was put than there was room for; that is rare
	}
	q.n.Store(int32(n - k))
	return k
}

// ready takes those out of waiters that are to be called now: no more than there is room
// for, because the others would have to wait again, and thousands may. q.mu is held.
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

// drain sends what waits for the interface, unless another goroutine is at it. It does
// not wait for a device whose Send may wait.
// No lock may be held: the device may call back into this stack.
func (ifc *iface) drain() {
	switch {
	case !ifc.tx.draining.CompareAndSwap(false, true):
	case ifc.tx.async.Load():
		go ifc.drainOn(maxDrain)
	default:
		ifc.drainOn(maxDrain)
	}
}

// drainQueued sends what is queued now, for a caller whose turn it is and who does not want to
// be kept by what others queue meanwhile.
func (ifc *iface) drainQueued() {
	ifc.drainOn((int(ifc.tx.n.Load()) + txBatch - 1) / txBatch)
}

// drainOn sends until nothing waits; it is the caller's turn, which ends. A caller that came to
// send its own, or to receive, is not kept for ever by others that go on putting: after some
// batches its turn is handed on to a goroutine that ends with it.
func (ifc *iface) drainOn(batches int) {
	q := &ifc.tx
	for sent := 0; ; sent++ {
		if sent >= batches && q.n.Load() > 0 {
			go ifc.drainOn(maxDrain)
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
			w.txReady()
		}
		if len(ready) > 0 {
			clear(ready)
			ifc.s.drain() // routes may have changed: what they put may be elsewhere
		}
		if more || q.n.Load() > 0 {
			continue
		}
		// Who puts something from here on finds either that the turn has ended, or
		// that we have not looked yet.
		q.endDrain()
		if q.n.Load() == 0 || !q.draining.CompareAndSwap(false, true) {
			return
		}
	}
}

// flush sends what waits although another goroutine may be sending: the device is about
// to be closed, and resets that come out of order are better than none.
func (ifc *iface) flush() {
	q := &ifc.tx
	batch, taken := make([]nic.Frame, txBatch), make([]txEntry, txBatch)
	for left := int(q.n.Load()); left > 0; left -= txBatch { // what waited, no more
		q.mu.Lock()
		k := q.take(batch, taken)
		ready := q.waiters
		q.waiters = nil
		q.mu.Unlock()
		if k > 0 {
			ifc.transmit(batch[:k], taken[:k])
		}
		for _, w := range ready {
			w.txReady()
		}
	}
}

// While interfaces are closed, closeStall is how long to wait for a device that takes no frame
// or does not close, and closeLimit how long for those that do take some.
const (
	closeStall = 500 * time.Millisecond
	closeLimit = 5 * time.Second
)

// sendLast waits until the devices have taken what is queued for them. It does not wait for
// one that takes nothing: a stuck device, or one below whose Send the caller runs.
// From now on no device can keep a caller that sends.
func (s *Stack) sendLast(ifaces ...*iface) {
	idle := make(chan struct{}, 1)
	for _, ifc := range ifaces {
		ifc.tx.async.Store(true)
		ifc.tx.idle.Store(&idle)
		ifc.drain()
	}
	if awaitSent(ifaces, idle) {
		return
	}
	done := make(chan struct{}, len(ifaces))
	for _, ifc := range ifaces {
		go func() {
			ifc.flush()
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

// awaitSent waits until nothing is queued at the interfaces, as long as frames leave. idle is
// told when a turn ends. It reports whether all has been sent.
func awaitSent(ifaces []*iface, idle <-chan struct{}) bool {
	state := func() (taken uint64, waiting bool) {
		for _, ifc := range ifaces {
			taken += ifc.stats.sent() + ifc.stats.TxDropped.Load()
			waiting = waiting || ifc.tx.n.Load() > 0 || ifc.tx.draining.Load()
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

// transmit gives frames to the device, and their buffers back.
func (ifc *iface) transmit(batch []nic.Frame, taken []txEntry) {
	n, err := ifc.dev.Send(batch)
	bytes := 0
	for i := range batch {
		f := &batch[i]
		if i < n {
			bytes += f.Len()
		}
		ifc.s.release(taken[i])
		taken[i] = txEntry{}
		*f = nic.Frame{}
	}
	if n > 0 {
		ifc.stats.Tx.Add(n, bytes)
	}
	if n < len(batch) {
		ifc.stats.TxDropped.Add(uint64(len(batch) - n))
	}
	if err != nil {
		ifc.failed(err)
	}
}

// drain sends what waits for any interface. Every way into the stack ends with
// it: to wait with one's own frames queued is the one deadlock that sending by
// the caller allows.
func (s *Stack) drain() {
	if s.loop.n.Load() > 0 {
		s.loop.drain(s)
	}
	for _, ifc := range *s.ifaces.Load() {
		if ifc.tx.n.Load() > 0 {
			ifc.drain()
		}
	}
}
