package stack

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/usernet/usernet/nic"
)

const (
	txQueueLen = 512 // frames that may wait for a device
	txBatch    = 32  // frames given to a device in one Send
	txTurn     = 256 // batches that one caller sends before it hands the turn on
)

// txQueue is what waits to be sent by one device. Frames leave in the order in
// which they were put, and one goroutine at a time, whose turn it is, sends them:
// whoever puts frames calls drain after it has released its locks, and either sends or
// knows that another goroutine is about to. No goroutine stands by.
//
// A device whose Send may wait (see nic.Nonblocking) would keep whoever sends: a timer,
// the receiver of another link, the caller of Close. A goroutine that ends when the queue is
// empty sends to such a device, so that only the queue fills while the device is stuck.
type txQueue struct {
	n     atomic.Int32                  // frames waiting, to be read without mu
	busy  atomic.Bool                   // it is somebody's turn, who looks at n after having ended it
	async atomic.Bool                   // a goroutine of its own sends: Send may wait, or the interface is being closed
	idle  atomic.Pointer[chan struct{}] // told when a turn ends; set while the interface is being closed

	mu       sync.Mutex
	ring     [txQueueLen]txEntry
	head     int // index of the oldest entry
	overflow []txEntry
	closed   bool       // nobody looks for frames here any more
	waiters  []txWaiter // those that came first, first; where n is 0, somebody is calling them

	// Owned by the goroutine whose turn it is.
	batch [txBatch]nic.Frame
	taken [txBatch]txEntry
	bytes [txDirect]byte // of the one frame that claim was for
}

// txDirect is the room for a frame that is sent without having been queued: an
// Ethernet frame and the space before it.
const txDirect = 2 << 10

// claim takes the turn for a frame that is to go at once, if nothing waits and nobody
// sends. The caller, who may hold the lock of a socket, makes the frame in bytes and
// batch[0], releases its locks, and calls sendClaimed.
func (q *txQueue) claim() bool {
	return q.n.Load() == 0 && !q.async.Load() && q.busy.CompareAndSwap(false, true)
}

// endTurn ends the turn of the goroutine that sends.
func (q *txQueue) endTurn() {
	q.busy.Store(false)
	if idle := q.idle.Load(); idle != nil {
		select {
		case *idle <- struct{}{}:
		default:
		}
	}
}

// sendClaimed sends the frame in batch[0], and what others have put meanwhile.
func (ifc *iface) sendClaimed() {
	q := &ifc.tx
	f := &q.batch[0]
	bytes := f.Len()
	n, err := ifc.dev.Send(q.batch[:1])
	*f = nic.Frame{}
	if n == 1 {
		ifc.stats.TxFrames.Add(1)
		ifc.stats.TxBytes.Add(uint64(bytes))
	} else {
		ifc.stats.TxDropped.Add(1)
	}
	if err != nil {
		ifc.failed(err)
	}
	ifc.unclaim()
}

// unclaim ends a turn, and sends what others have put meanwhile.
func (ifc *iface) unclaim() {
	if ifc.tx.endTurn(); ifc.tx.n.Load() > 0 {
		ifc.drain()
	}
}

// A txEntry is a frame and the pooled buffer that its Head lies in. Its Body, if
// there is one, is the lender's.
type txEntry struct {
	frame  nic.Frame
	buf    []byte
	lender *lending
}

// release gives back what an entry holds that will not be sent any more.
func (s *Stack) release(e txEntry) {
	s.bufs.put(e.buf)
	if e.lender != nil {
		e.lender.giveBack()
	}
}

// own makes an entry that may be kept of one that may hold lent bytes.
func (s *Stack) own(e txEntry) txEntry {
	if e.lender == nil {
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

// put appends a frame, and reports false where the queue was closed. Otherwise it
// owns the frame's buffer from now on.
func (q *txQueue) put(e txEntry) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	n := int(q.n.Load())
	if n < txQueueLen {
		q.ring[(q.head+n)%txQueueLen] = e
	} else {
		q.overflow = append(q.overflow, e)
	}
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

// take moves up to txBatch entries to the caller's arrays. q.mu is held.
func (q *txQueue) take(batch []nic.Frame, taken []txEntry) int {
	n := int(q.n.Load())
	k := min(n, txBatch)
	for i := range k {
		slot := &q.ring[q.head]
		taken[i] = *slot
		batch[i] = slot.frame
		*slot = txEntry{}
		q.head = (q.head + 1) % txQueueLen
	}
	// What overflowed follows what is in the ring.
	inRing := min(n, txQueueLen) - k
	moved := 0
	for moved < len(q.overflow) && inRing < txQueueLen {
		q.ring[(q.head+inRing)%txQueueLen] = q.overflow[moved]
		inRing++
		moved++
	}
	if moved > 0 {
		rest := copy(q.overflow, q.overflow[moved:])
		clear(q.overflow[rest:])
		q.overflow = q.overflow[:rest]
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
	case !ifc.tx.busy.CompareAndSwap(false, true):
	case ifc.tx.async.Load():
		go ifc.drainOn()
	default:
		ifc.drainOn()
	}
}

// drainOn sends until nothing waits; it is the caller's turn, which ends. Who came to
// send its own, or to receive, is not kept for ever by others that go on putting: a long
// turn is handed on to a goroutine that ends with it.
func (ifc *iface) drainOn() {
	q := &ifc.tx
	for turn := 0; ; turn++ {
		if turn >= txTurn && q.n.Load() > 0 {
			go ifc.drainOn()
			return
		}
		q.mu.Lock()
		k := q.take(q.batch[:], q.taken[:])
		ready := q.ready()
		more := len(q.waiters) > 0
		q.mu.Unlock()
		if k > 0 {
			ifc.transmit(q.batch[:k], q.taken[:k])
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
		q.endTurn()
		if q.n.Load() == 0 || !q.busy.CompareAndSwap(false, true) {
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
			taken += ifc.stats.TxFrames.Load() + ifc.stats.TxDropped.Load()
			waiting = waiting || ifc.tx.n.Load() > 0 || ifc.tx.busy.Load()
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
		ifc.stats.TxFrames.Add(uint64(n))
		ifc.stats.TxBytes.Add(uint64(bytes))
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
