package nic

// A packet is a copy of a frame in transit.
type packet struct {
	due int64
	seq uint64 // orders packets that are due at the same time
	buf []byte
}

// before reports whether p leaves a packetQueue before o.
func (p *packet) before(o *packet) bool { return p.due < o.due || p.due == o.due && p.seq < o.seq }

// A packetQueue holds packets in the order of due and then of seq. Nearly all packets are due in the order
// in which they are pushed, and are kept in a ring. Only the others are kept in a heap, whose cost per packet
// grows with the number of packets in it.
type packetQueue struct {
	ring []*packet // its length is 0 or a power of two
	head int       // index in ring of its first packet
	n    int       // number of packets in ring
	rest packetHeap
}

func (q *packetQueue) len() int { return q.n + len(q.rest) }

// due returns when the first packet is due. The queue must not be empty.
func (q *packetQueue) due() int64 {
	if q.restFirst() {
		return q.rest[0].due
	}
	return q.ring[q.head].due
}

// restFirst reports whether the first packet of the queue is in the heap.
func (q *packetQueue) restFirst() bool {
	return len(q.rest) > 0 && (q.n == 0 || q.rest[0].before(q.ring[q.head]))
}

// push adds a packet. Its seq must be greater than that of every packet in the queue. A reordered packet goes to
// the heap even if it is due last: the packets that overtake it then stay in the ring.
func (q *packetQueue) push(p *packet, reordered bool) {
	mask := len(q.ring) - 1
	if reordered || q.n > 0 && p.due < q.ring[(q.head+q.n-1)&mask].due {
		q.rest.push(p)
		return
	}
	if q.n == len(q.ring) {
		ring := make([]*packet, max(2*q.n, 16))
		k := copy(ring, q.ring[q.head:])
		copy(ring[k:], q.ring[:q.head])
		q.ring, q.head, mask = ring, 0, len(ring)-1
	}
	q.ring[(q.head+q.n)&mask] = p
	q.n++
}

// pop removes the first packet. The queue must not be empty.
func (q *packetQueue) pop() *packet {
	if q.restFirst() {
		return q.rest.pop()
	}
	p := q.ring[q.head]
	q.ring[q.head] = nil
	q.head = (q.head + 1) & (len(q.ring) - 1)
	q.n--
	return p
}

// packetHeap is a heap whose index 0 has the packet that is due next.
type packetHeap []*packet

func (h *packetHeap) push(p *packet) {
	*h = append(*h, p)
	q := *h
	for i := len(q) - 1; i > 0; {
		parent := (i - 1) / 2
		if !q[i].before(q[parent]) {
			return
		}
		q[i], q[parent] = q[parent], q[i]
		i = parent
	}
}

func (h *packetHeap) pop() *packet {
	q := *h
	top, last := q[0], len(q)-1
	q[0], q[last] = q[last], nil
	q = q[:last]
	*h = q
	for i := 0; ; {
		child := 2*i + 1
		if child >= last {
			return top
		}
		if child+1 < last && q[child+1].before(q[child]) {
			child++
		}
		if !q[child].before(q[i]) {
			return top
		}
		q[i], q[child] = q[child], q[i]
		i = child
	}
}
