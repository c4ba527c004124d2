package stack

// A connection that sends or receives in bulk uses one of a few transmit queues of its interface instead of the shared
// one, so that several goroutines send at the same time. With only the shared queue, one goroutine sends the frames of all
// connections, and their data goes from core to core. Measured with two cores and four streams: 1.33 times the rate
// in memory (P2; 1.4 times that of one core, instead of 0.8 times) and 1.18 times out of a TAP (T4); 16 connections
// that get 1 MiB each by HTTP 1.12 times (T15). With one core there is no difference. On a machine with faster system calls
// and 2 MiB of second-level cache for each core, P2 gains 1.1 times, and T15 nothing. That the ACKs of those who receive
// in bulk leave through these queues too gives P2 another 1.1 times.
//
// Other small frames stay in the shared queue. When they too were in several queues, ping-pong on 16 connections over a
// TAP (T6) had 1.2 times the rate, but net/http with 64 connections (T10) 0.9 times and 11 % more CPU time: several
// goroutines that send small frames at once wake the receivers more often.
//
// All frames of a connection are in one queue, so they stay in order. NIC.OneQueue turns the other queues off.

// bulkQueues is the number of transmit queues for bulk transfers.
const bulkQueues = 4

// txQueues calls yield for each transmit queue of the interface.
func (ifc *iface) txQueues(yield func(*txQueue) bool) {
	if !yield(&ifc.tx) {
		return
	}
	if qs := ifc.txBulk.Load(); qs != nil {
		for i := range qs {
			if !yield(&qs[i]) {
				return
			}
		}
	}
}

// drain sends the queued frames of the interface: see txQueue.drain.
func (ifc *iface) drain() {
	if ifc.tx.n.Load() > 0 {
		ifc.tx.drain()
	}
	if qs := ifc.txBulk.Load(); qs != nil {
		for i := range qs {
			if q := &qs[i]; q.n.Load() > 0 {
				q.drain()
			}
		}
	}
}

// txQueue returns the transmit queue for the connection's segments. t.mu is held.
func (t *TCP) txQueue() *txQueue {
	ifc := t.path.ifc
	if t.bulk == 0 {
		return &ifc.tx
	}
	return ifc.bulkQueue(t.bulk)
}

// noteBulk makes the connection use a queue for bulk transfers if a Write or a received segment of n bytes is large.
// t.mu is held.
func (t *TCP) noteBulk(n int) {
	if t.bulk == 0 && n >= pinBytes {
		t.useBulkQueue()
	}
}

// useBulkQueue makes the connection use a queue for bulk transfers from now on, unless it already does. It does nothing
// if a frame of the connection may still wait in the shared queue, because later frames could overtake it; the caller
// then tries again with its next bytes. t.mu is held.
func (t *TCP) useBulkQueue() {
	if t.bulk != 0 {
		return
	}
	ifc := t.path.ifc
	// The drainer sets draining before it takes a frame from the queue, so the order of the checks matters.
	if ifc.tx.n.Load() != 0 || ifc.tx.draining.Load() {
		return
	}
	t.bulk = uint8(ifc.lastBulk.Add(1)%bulkQueues) + 1
}

// bulkQueue returns queue i for bulk transfers, from 1. It returns the shared queue if the interface has no other:
// with NIC.OneQueue, on a seeded host, if Send of the device may block, or if the interface is being closed.
func (ifc *iface) bulkQueue(i uint8) *txQueue {
	qs := ifc.txBulk.Load()
	if qs == nil && !ifc.oneQueue && !ifc.tx.async.Load() {
		qs = ifc.makeBulkQueues()
	}
	if qs == nil {
		return &ifc.tx
	}
	return &qs[i-1]
}

// makeBulkQueues makes the queues for bulk transfers, unless the interface has them or is being closed. It
// returns them, or nil.
func (ifc *iface) makeBulkQueues() *[bulkQueues]txQueue {
	q := &ifc.tx
	q.mu.Lock()
	defer q.mu.Unlock()
	if ifc.txBulk.Load() == nil && !q.closed && !q.async.Load() {
		qs := new([bulkQueues]txQueue)
		for i := range qs {
			qs[i].ifc = ifc
			qs[i].draining.Store(!ifc.sending)
		}
		ifc.txBulk.Store(qs)
	}
	return ifc.txBulk.Load()
}

// beginSending lets the queues send. The device is attached, and the caller must then drain.
func (ifc *iface) beginSending() {
	ifc.tx.mu.Lock()
	defer ifc.tx.mu.Unlock()
	ifc.sending = true
	for q := range ifc.txQueues {
		q.draining.Store(false)
	}
}

// drainAsync makes drain start goroutines from now on: see txQueue.async.
func (ifc *iface) drainAsync() {
	ifc.tx.mu.Lock() // makeBulkQueues makes no queues any more
	defer ifc.tx.mu.Unlock()
	// The shared queue is last. Whoever sees its async, and uses it because no other queue was there, must not
	// claim another queue for direct transmit afterwards.
	if qs := ifc.txBulk.Load(); qs != nil {
		for i := range qs {
			qs[i].async.Store(true)
		}
	}
	ifc.tx.async.Store(true)
}
