package stack

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/usernet/usernet/stack/wire"
)

// How many bytes of buffers may wait for the addresses of neighbours.
//
// RFC 1122 2.3.2.2: "The link layer SHOULD save (rather than discard) at
// least one (the latest) packet of each set of packets destined to the same
// unresolved IP address".
const (
	// maxWaiting is for one neighbour; Linux's unres_qlen_bytes. The latest datagram
	// may be larger.
	maxWaiting = 212992
	// maxWaitingMore is for what neighbours of an interface have beside the latest
	// datagram of each.
	maxWaitingMore = 4 << 20
	// maxWaitingTotal is for all of an interface: the latest datagrams of 1024 neighbours
	// fit if they have up to 16 KiB.
	maxWaitingTotal = 16 << 20

	// waitingOverhead is what a frame takes beside its buffer.
	waitingOverhead = 128
)

// A neighborQueue has the datagrams that wait for the address of a neighbour, the oldest
// first.
type neighborQueue struct {
	list  []waitingDatagram
	bytes int
}

// A waitingDatagram is the frames of a datagram, of which there are several if it is sent
// in fragments. It leaves whole or not at all.
type waitingDatagram struct {
	frames []txEntry
	src    netip.Addr
	key    datagramKey // of a fragmented one
	bytes  int
}

// A datagramKey is what the fragments of a datagram have in common: addresses,
// identification and protocol. The zero value is that of a datagram without fragments.
type datagramKey [37]byte

// fragmentOf tells of which datagram a frame has a fragment, and whether it is a later one.
func (ifc *iface) fragmentOf(e *txEntry) (key datagramKey, later bool) {
	h := e.frame.Head[min(ifc.linkLen, len(e.frame.Head)):]
	if wire.Version(h) == 6 {
		return fragmentOf6(h)
	}
	if len(h) < wire.IPv4Len {
		return key, false
	}
	field := binary.BigEndian.Uint16(h[6:]) & 0x3fff // more fragments, and the offset
	if field == 0 {
		return key, false
	}
	copy(key[:], h[12:20])
	copy(key[8:], h[4:6])
	key[10] = h[9]
	return key, field&0x1fff != 0
}

// fragmentOf6 is fragmentOf for a packet of IPv6. Those that the host sends have the fragment header first.
func fragmentOf6(h []byte) (key datagramKey, later bool) {
	if len(h) < wire.IPv6Len+wire.FragmentLen || wire.Proto(h[wire.IPv6NextOffset]) != wire.ProtoFragment {
		return key, false
	}
	f := h[wire.IPv6Len:]
	copy(key[:], h[8:40])
	copy(key[32:], f[4:8])
	key[36] = f[0]
	return key, binary.BigEndian.Uint16(f[2:])>>3 != 0
}

// source is the source of what waits longest, or invalid.
func (q *neighborQueue) source() netip.Addr {
	if len(q.list) == 0 {
		return netip.Addr{}
	}
	return q.list[0].src
}

// park keeps a frame until the neighbour's address is known. t.mu is held.
func (t *neighborTable) park(n *neighbor, src netip.Addr, e txEntry) {
	s, q := t.ifc.s, &n.waiting
	key, later := t.ifc.fragmentOf(&e)
	i := len(q.list)
	if later {
		for i--; i >= 0 && q.list[i].key != key; i-- {
		}
		if i < 0 {
			// The first fragments were dropped: the others would be sent in vain.
			s.release(e)
			s.drop(dropNeighborQueue)
			return
		}
	} else {
		q.list = append(q.list, waitingDatagram{src: src, key: key})
	}
	e = s.own(e) // a writer does not wait for that long
	d := &q.list[i]
	d.frames = append(d.frames, e)
	n.charge(t, d, cap(e.buf)+waitingOverhead)
	for len(q.list) > 1 && (q.bytes > maxWaiting || t.waiting > maxWaitingMore) {
		t.dropOldest(n)
	}
	for t.waiting > maxWaitingTotal {
		t.dropOldest(t.longestWaiting())
	}
}

// charge adds bytes to what a datagram takes.
func (n *neighbor) charge(t *neighborTable, d *waitingDatagram, bytes int) {
	d.bytes += bytes
	n.waiting.bytes += bytes
	t.waiting += bytes
}

// longestWaiting returns that of the neighbours that have something waiting which began to
// be asked for first. There is one.
func (t *neighborTable) longestWaiting() *neighbor {
	for e := t.unresolved.Front(); ; e = e.Next() {
		if n := e.Value.(*neighbor); len(n.waiting.list) > 0 {
			return n
		}
	}
}

// dropOldest drops the datagram that has waited for a neighbour for longest.
func (t *neighborTable) dropOldest(n *neighbor) {
	q := &n.waiting
	d := q.list[0]
	q.list = slices.Delete(q.list, 0, 1)
	n.charge(t, &d, -d.bytes)
	for _, e := range d.frames {
		t.ifc.s.release(e)
	}
	t.ifc.s.drop(dropNeighborQueue)
}

// dropWaiting drops all that waits for a neighbour.
func (t *neighborTable) dropWaiting(n *neighbor) {
	for len(n.waiting.list) > 0 {
		t.dropOldest(n)
	}
}

// takeWaiting takes all that waits for a neighbour out of its queue.
func (t *neighborTable) takeWaiting(n *neighbor) []waitingDatagram {
	list := n.waiting.list
	t.waiting -= n.waiting.bytes
	n.waiting = neighborQueue{}
	return list
}

// sendWaiting queues what waits for a neighbour at the interface, before anything that is
// sent by those who find the address known.
func (t *neighborTable) sendWaiting(n *neighbor, mac wire.MAC) {
	for _, d := range t.takeWaiting(n) {
		for _, e := range d.frames {
			copy(e.frame.Head, mac[:])
			t.ifc.enqueue(e)
		}
	}
}

// lose sends a datagram by another router, if there is one, and else drops it and tells its
// sender. No lock is held.
func (t *neighborTable) lose(d *waitingDatagram, why wire.Reason) {
	s := t.ifc.s
	if s.sendAnotherWay(t.ifc, d) {
		return
	}
	s.drop(why)
	for i := range d.frames {
		s.unreachable(t.ifc, &d.frames[i].frame)
		s.release(d.frames[i])
	}
}
