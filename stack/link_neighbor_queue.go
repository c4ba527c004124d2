package stack

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// Limits on the memory of the frames that wait for the addresses of neighbours, in bytes.
//
// RFC 1122 2.3.2.2: "The link layer SHOULD save (rather than discard) at
// least one (the latest) packet of each set of packets destined to the same
// unresolved IP address".
const (
	// maxWaiting is the limit per neighbour, Linux's unres_qlen_bytes. A single datagram may exceed it.
	maxWaiting = 212992
	// While the waiting frames of a table exceed keepLatestAbove, a datagram that is added to a neighbour's
	// queue replaces older datagrams of that queue.
	keepLatestAbove = 4 << 20
	// maxWaitingTotal is the limit per table. The latest datagrams of 1024 neighbours fit if none is
	// larger than 16 KiB.
	maxWaitingTotal = 16 << 20

	// waitingOverhead is the memory of a waiting frame in addition to its buffer.
	waitingOverhead = 128
)

// A neighborQueue holds the datagrams that wait for the address of a neighbour, oldest first.
type neighborQueue struct {
	list  []waitingDatagram
	bytes int // sum over list
}

// A waitingDatagram holds the frames of a datagram, several if it is fragmented. Either all of them are
// sent or none.
type waitingDatagram struct {
	frames []txEntry
	src    netip.Addr
	tx     *txQueue    // for the frames
	key    datagramKey // zero if the datagram is not fragmented
	bytes  int         // memory of the frames, with waitingOverhead
}

// first returns the first frame of the datagram, or nil if it has none.
func (d *waitingDatagram) first() *nic.Frame {
	if len(d.frames) == 0 {
		return nil
	}
	return &d.frames[0].frame
}

// A datagramKey identifies the fragments of a datagram: addresses, identification and protocol. It is
// zero for a datagram that is not fragmented.
type datagramKey [37]byte

// fragmentOf returns the key of a frame's datagram, and whether the frame is a fragment other than the
// first.
func (ifc *iface) fragmentOf(e *txEntry) (key datagramKey, later bool) {
	h := e.frame.Head[min(ifc.linkLen, len(e.frame.Head)):]
	if wire.Version(h) == 6 {
		return fragmentOf6(h)
	}
	if len(h) < wire.IPv4Len {
		return key, false
	}
	field := binary.BigEndian.Uint16(h[6:]) & 0x3fff // the More Fragments flag and the Fragment Offset
	if field == 0 {
		return key, false
	}
	copy(key[:], h[12:20]) // source and destination
	copy(key[8:], h[4:6])  // Identification
	key[10] = h[9]         // Protocol
	return key, field&0x1fff != 0
}

// fragmentOf6 is fragmentOf for IPv6. In the packets that the host sends, the fragment header follows
// the IPv6 header directly.
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

// source returns the source address of the oldest waiting datagram; invalid if there is none.
func (q *neighborQueue) source() netip.Addr {
	if len(q.list) == 0 {
		return netip.Addr{}
	}
	return q.list[0].src
}

// last returns the index of the latest datagram with the given key, or -1 if there is none.
func (q *neighborQueue) last(key datagramKey) int {
	i := len(q.list) - 1
	for i >= 0 && q.list[i].key != key {
		i--
	}
	return i
}

// park keeps a frame with source address src until the neighbour's address is known. The frame then goes to the
// transmit queue tx. t.mu is held.
func (t *neighborTable) park(n *neighbor, src netip.Addr, tx *txQueue, e txEntry) {
	s, q := t.ifc.s, &n.waiting
	key, later := t.ifc.fragmentOf(&e)
	i := len(q.list)
	if later {
		if i = q.last(key); i < 0 {
			// The datagram's first fragment was dropped, so this fragment is useless.
			s.dropFrame(dropNeighborQueue, t.ifc, &e.frame, true)
			s.release(&e)
			return
		}
	} else {
		q.list = append(q.list, waitingDatagram{src: src, tx: tx, key: key})
	}
	e = s.own(e) // copy pinned bytes, so that a zero-copy writer does not wait for the resolution
	d := &q.list[i]
	d.frames = append(d.frames, e)
	n.charge(t, d, cap(e.buf)+waitingOverhead)
	for len(q.list) > 1 && (q.bytes > maxWaiting || t.waiting > keepLatestAbove) {
		t.dropOldest(n)
	}
	for t.waiting > maxWaitingTotal {
		t.dropOldest(t.firstWaiting())
	}
}

// charge adds bytes, which may be negative, to the counts of a datagram, its neighbour and the table.
func (n *neighbor) charge(t *neighborTable, d *waitingDatagram, bytes int) {
	d.bytes += bytes
	n.waiting.bytes += bytes
	t.waiting += bytes
}

// firstWaiting returns the least recently used neighbour with a waiting datagram. All neighbours with
// waiting datagrams are in t.unresolved. The caller must ensure that t.waiting is not 0.
func (t *neighborTable) firstWaiting() *neighbor {
	for e := t.unresolved.Front(); ; e = e.Next() {
		if n := e.Value.(*neighbor); len(n.waiting.list) > 0 {
			return n
		}
	}
}

// dropOldest drops the oldest datagram that waits for a neighbour.
func (t *neighborTable) dropOldest(n *neighbor) {
	q := &n.waiting
	d := q.list[0]
	q.list = slices.Delete(q.list, 0, 1)
	n.charge(t, &d, -d.bytes)
	t.ifc.s.dropFrame(dropNeighborQueue, t.ifc, d.first(), true)
	for i := range d.frames {
		t.ifc.s.release(&d.frames[i])
	}
}

// dropWaiting drops all datagrams that wait for a neighbour.
func (t *neighborTable) dropWaiting(n *neighbor) {
	for len(n.waiting.list) > 0 {
		t.dropOldest(n)
	}
}

// takeWaiting empties a neighbour's queue and returns its datagrams.
func (t *neighborTable) takeWaiting(n *neighbor) []waitingDatagram {
	list := n.waiting.list
	t.waiting -= n.waiting.bytes
	n.waiting = neighborQueue{}
	return list
}

// sendWaiting queues the waiting datagrams of a neighbour for transmission to mac. It must be called
// before mac is stored in n.word. Once mac is there, senders transmit at once, and their datagrams would
// overtake the waiting ones.
func (t *neighborTable) sendWaiting(n *neighbor, mac wire.MAC) {
	for _, d := range t.takeWaiting(n) {
		for i := range d.frames {
			copy(d.frames[i].frame.Head, mac[:])
			d.tx.enqueue(&d.frames[i])
		}
	}
}

// resendOrDrop handles a datagram that waited for a neighbour whose resolution has failed. failed is the
// address of this neighbour. resendOrDrop sends the datagram by another next hop if there is one.
// Otherwise it drops the datagram and reports an error to the datagram's sender. No lock is held.
func (t *neighborTable) resendOrDrop(d *waitingDatagram, failed netip.Addr, why wire.Reason) {
	s := t.ifc.s
	if s.sendByOtherHop(t.ifc, d, failed) {
		return
	}
	s.dropFrame(why, t.ifc, d.first(), true)
	for i := range d.frames {
		s.unreachable(t.ifc, &d.frames[i].frame)
		s.release(&d.frames[i])
	}
}
