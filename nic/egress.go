package nic

import (
	"sync"
	"sync/atomic"
)

// An egress queues copies of the frames for a device whose Send may block, so that the senders on the
// switch do not block. A goroutine sends the copies. It ends when the queue is empty.
type egress struct {
	dev     Device
	dropped *atomic.Uint64 // frames that the device did not accept
	failed  func()         // called when Send returned an error

	mu      sync.Mutex
	queue   []Frame   // each has all its bytes in Head
	buffers []*[]byte // the buffers of queue, from pool
	bytes   int       // in queue and in the batch that is being sent
	sending bool
	pool    sync.Pool // of *[]byte
}

// maxEgress bounds the bytes of an egress queue. It holds a hundred super-frames, or more than four
// thousand frames of 1500 bytes.
const maxEgress = 100 * maxFrame

// put queues copies of the first frames of run, as many as fit, and returns their number.
func (q *egress) put(run []Frame) (n int) {
	q.mu.Lock()
	for n < len(run) && q.bytes+run[n].Len() <= maxEgress {
		f := run[n]
		b, _ := q.pool.Get().(*[]byte)
		if b == nil {
			b = new([]byte)
		}
		*b = f.AppendTo((*b)[:0])
		f.Head, f.Body = *b, nil
		q.queue, q.buffers = append(q.queue, f), append(q.buffers, b)
		q.bytes += f.Len()
		n++
	}
	start := !q.sending && len(q.queue) > 0
	q.sending = q.sending || start
	q.mu.Unlock()
	if start {
		go q.send()
	}
	return n
}

// send sends the queued frames until the queue is empty.
func (q *egress) send() {
	var batch []Frame
	var buffers []*[]byte
	for {
		q.mu.Lock()
		for i, b := range buffers {
			q.bytes -= len(*b)
			q.pool.Put(b)
			batch[i], buffers[i] = Frame{}, nil
		}
		if len(q.queue) == 0 {
			q.sending = false
			q.mu.Unlock()
			return
		}
		batch, q.queue = q.queue, batch[:0]
		buffers, q.buffers = q.buffers, buffers[:0]
		q.mu.Unlock()
		n, err := q.dev.Send(batch)
		q.dropped.Add(uint64(len(batch) - n))
		if err != nil {
			q.failed()
		}
	}
}
