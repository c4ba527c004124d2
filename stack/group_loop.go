package stack

import (
	"sync/atomic"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// A loopQueue holds copies of multicast and broadcast datagrams that the host sends and also receives
// itself. A copy waits until the sender has released its locks. One goroutine at a time delivers the
// copies, so they are received in the order in which they were sent.
type loopQueue struct {
	n     atomic.Int32 // datagrams that are waiting or being delivered; read without mu
	bytes atomic.Int64 // capacity of the buffers of these datagrams; read without mu

	mu         mutex[levelTable]
	waiting    []looped
	delivering bool
}

// A looped is a copy, in a pooled buffer, of a datagram that was sent on an interface.
type looped struct {
	ifc        *iface
	buf        []byte
	csumOffset int // offset of an incomplete checksum in the payload; 0: the checksum is complete
}

// maxLooped is the number of bytes of buffers at which put drops further datagrams. The last datagram that
// put accepts may exceed maxLooped. A sender delivers its own datagrams before its call returns, so
// datagrams wait only during that call or while another goroutine delivers.
const maxLooped = 4 << 20

// put queues a copy of a datagram that was sent on ifc, or drops the copy if too many bytes wait. n is the number of
// bytes of transport header and payload.
func (q *loopQueue) put(s *Stack, ifc *iface, datagram []byte, n int, meta *frameMeta) {
	if q.bytes.Load() >= maxLooped {
		at := len(datagram) - n
		p := packet{ifc: ifc, header: datagram[:at], payload: datagram[at:]}
		if meta.checksum {
			p.csumOffset = meta.csumOffset
		}
		p.drop(dropLoopQueue)
		return
	}
	buf := s.bufs.get(len(datagram))
	copy(buf, datagram)
	l := looped{ifc: ifc, buf: buf}
	if meta.checksum {
		l.csumOffset = meta.csumOffset
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(q.waiting, l)
	q.n.Add(1)
	q.bytes.Add(int64(cap(l.buf)))
}

// drain delivers the queued datagrams, unless another goroutine is delivering. No lock is held.
func (q *loopQueue) drain(s *Stack) {
	q.mu.Lock()
	busy := q.delivering
	q.delivering = true
	q.mu.Unlock()
	if !busy {
		q.drainOn(s)
	}
}

// drainOn delivers until the queue is empty. The caller has set delivering. Like iface.drainOn, it
// continues on a new goroutine after maxDrain batches.
func (q *loopQueue) drainOn(s *Stack) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for sent := 0; len(q.waiting) > 0; sent++ {
		if sent == maxDrain {
			go q.drainOn(s)
			return
		}
		batch := q.waiting
		q.waiting = nil
		q.mu.Unlock()
		for i := range batch {
			s.inputLooped(&batch[i])
			q.bytes.Add(-int64(cap(batch[i].buf)))
			q.n.Add(-1)
			s.bufs.put(batch[i].buf)
		}
		q.mu.Lock()
	}
	q.delivering = false
}

// inputLooped handles a multicast or broadcast datagram that the host itself has sent.
func (s *Stack) inputLooped(l *looped) {
	if s.closed.Load() {
		return
	}
	if wire.Version(l.buf) == 6 {
		s.inputLooped6(l)
		return
	}
	h, payload, r := wire.ParseIPv4(l.buf)
	if r != wire.OK {
		(&packet{ifc: l.ifc, header: l.buf}).drop(r)
		return
	}
	s.counts.ipReceived.Add(1)
	p := packet{
		ifc:        l.ifc,
		src:        h.Src,
		dst:        h.Dst,
		proto:      h.Proto,
		ttl:        h.TTL,
		tos:        h.TOS,
		header:     l.buf[:h.HeaderLen()],
		payload:    payload,
		checksumOK: true,
		csumOffset: l.csumOffset,
		gso:        nic.GSONone,
		broadcast:  true,
	}
	if h.IsFragment() {
		s.counts.ipStopped.Add(1)
		s.inputFragment4(&p, &h)
		return
	}
	s.deliver(&p)
}
