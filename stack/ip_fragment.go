package stack

import (
	"container/list"
	"net/netip"
	"slices"
	"unsafe"

	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

const (
	maxReassemblyBytes = 4 << 20 // buffers of all datagrams of a family together, and what describes them
	maxReassemblies    = 1024    // datagrams of a family
)

// A fragmentKey tells which fragments belong together.
type fragmentKey struct {
	src, dst netip.Addr
	id       uint32
	proto    wire.Proto // of IPv4: fragments of IPv6 may differ in it
	zone     int32      // index of the interface to which the addresses belong; 0: to none
}

// A fragment is a piece of a datagram's payload, in a buffer of the pool: one that arrived, or
// several that arrived one after the other and fitted into the buffer of the first.
type fragment struct {
	off int
	buf []byte
}

// A run is a part of a datagram's payload that has arrived, from off to before end.
type run struct{ off, end int }

// fragmentOverhead is what a fragment counts beside its buffer.
const fragmentOverhead = int(unsafe.Sizeof(fragment{}) + unsafe.Sizeof(run{}))

// A datagramParts is a datagram of which a part has arrived. How many fragments it may have is
// bounded by its cost alone.
type datagramParts struct {
	key    fragmentKey
	ifc    *iface
	born   tcp.Time
	parts  []fragment // in the order of arrival
	runs   []run      // by offset; there is something missing between any two
	few    [4]run     // where runs begins to be
	have   int        // bytes in parts
	total  int        // of the payload; -1 until the last fragment came
	cost   int        // capacity of the parts' buffers, and overhead
	elem   *list.Element
	group  bool
	header []byte // what was before the payload of the fragment at offset 0, in a buffer of the pool; nil until it came
	first  int    // index of the part that begins at offset 0
	length int    // of the payload of the fragment at offset 0
	ecns   uint8  // which ECN codepoints the fragments have: the bit 1<<codepoint for each
	tos    uint8
	ttl    uint8
}

// A reassembly puts the fragments of one address family together: the family reads and checks them,
// and makes a packet of a datagram that is complete. It holds what has arrived for a fixed
// time, and forgets the oldest datagram where that would be too much.
type reassembly struct {
	s       *Stack
	timeout tcp.Time
	late    func(d *datagramParts) // tells the sender of a datagram that was not completed in time

	mu     mutex[levelTable]
	m      map[fragmentKey]*datagramParts // nil until first needed
	byAge  list.List                      // of *datagramParts, oldest first
	cost   int
	alarm  alarm // for the oldest
	closed bool
}

// input takes a fragment, whose payload, of at least one byte, begins at off in that of the
// datagram; more says that it is not the last. It returns the datagram if that is complete, which
// is then the caller's, until release.
func (a *reassembly) input(p *packet, key fragmentKey, off int, more bool) *datagramParts {
	a.mu.Lock()
	d, r := a.add(p, key, off, off+len(p.payload), more)
	a.mu.Unlock()
	if r != wire.OK {
		p.ifc.drop(r)
	}
	if d == nil {
		return nil
	}
	ce, ok := d.ecn()
	if !ok {
		a.fail(d)
		p.ifc.drop(dropFragmentECN)
		return nil
	}
	if ce {
		d.tos |= wire.CE
	}
	return d
}

// fail gives up a complete datagram.
func (a *reassembly) fail(d *datagramParts) {
	a.release(d)
	a.s.counts.reassemblyFailed.Add(1)
}

// join makes the packet of a complete datagram, whose last fragment was p, and whose first bytes, up to its
// payload, are header. The datagram is given away. The caller puts whole back into the pool, which
// has the header and the payload.
func (a *reassembly) join(p *packet, d *datagramParts, header []byte) (q packet, whole []byte) {
	whole = a.s.bufs.get(len(header) + d.total)
	n := copy(whole, header)
	for _, f := range d.parts {
		copy(whole[n+f.off:], f.buf)
	}
	a.release(d)
	q = *p
	q.header, q.payload = whole[:n], whole[n:]
	q.ttl, q.tos = d.ttl, d.tos
	q.broadcast = d.group
	q.checksumOK, q.gso, q.gsoSize = false, 0, 0
	a.s.counts.reassembled.Add(1)
	return q, whole
}

// add stores a fragment. It returns the datagram if that is complete, which is
// then the caller's.
func (a *reassembly) add(p *packet, key fragmentKey, off, end int, more bool) (*datagramParts, wire.Reason) {
	if a.closed {
		return nil, dropBadFragment
	}
	d := a.m[key]
	if d == nil {
		if len(a.m) >= maxReassemblies {
			a.evict()
		}
		if a.m == nil {
			a.m = make(map[fragmentKey]*datagramParts)
		}
		d = &datagramParts{key: key, ifc: p.ifc, born: a.s.now(), total: -1}
		d.runs = d.few[:0]
		a.m[key] = d
		d.elem = a.byAge.PushBack(d)
		a.alarm.set(d.born, d.born+a.timeout, a)
	}
	// A datagram of which two fragments tell different ends cannot be.
	if d.total >= 0 && (end > d.total || !more && end != d.total) ||
		!more && len(d.runs) > 0 && d.runs[len(d.runs)-1].end > end {
		a.forget(d)
		return nil, dropBadFragment
	}
	if !more {
		d.total = end
	}
	// Run i is the first that ends after the fragment's beginning.
	i, _ := slices.BinarySearchFunc(d.runs, off, func(r run, off int) int { return r.end - off - 1 })
	if i < len(d.runs) && d.runs[i].off < end {
		// RFC 5722 4 with erratum 3089: what has come already is a duplicate and
		// ignored. As on Linux, it may have come in other pieces, here in any order.
		if d.runs[i].off <= off && d.runs[i].end >= end {
			return nil, dropDuplicateFragment
		}
		// Ibid.: where a fragment of an IPv6 datagram overlaps another, "the
		// entire datagram ... MUST be silently discarded". The attack is IPv4's as
		// well (RFC 1858 3).
		a.forget(d)
		return nil, dropOverlap
	}
	d.insert(i, off, end)
	a.store(d, p, off)
	d.group = d.group || p.broadcast
	d.ecns |= 1 << (p.tos & wire.ECNMask)
	if d.have == d.total && d.header != nil {
		a.detach(d)
		return d, wire.OK
	}
	for a.cost > maxReassemblyBytes {
		a.evict()
	}
	return nil, wire.OK
}

// insert puts what a fragment brings among the runs, before run i, which begins where it ends or
// later; run i-1 ends where it begins or earlier.
func (d *datagramParts) insert(i, off, end int) {
	left := i > 0 && d.runs[i-1].end == off
	right := i < len(d.runs) && d.runs[i].off == end
	switch {
	case left && right:
		d.runs[i-1].end = d.runs[i].end
		d.runs = slices.Delete(d.runs, i, i+1)
	case left:
		d.runs[i-1].end = end
	case right:
		d.runs[i].off = off
	default:
		d.runs = slices.Insert(d.runs, i, run{off, end})
	}
	d.have += end - off
}

// store copies a fragment into its datagram.
func (a *reassembly) store(d *datagramParts, p *packet, off int) {
	before := d.cost
	if n := len(d.parts) - 1; n >= 0 && d.parts[n].off+len(d.parts[n].buf) == off && len(p.payload) <= cap(d.parts[n].buf)-len(d.parts[n].buf) {
		d.parts[n].buf = append(d.parts[n].buf, p.payload...)
	} else {
		buf := append(a.s.bufs.get(len(p.payload))[:0], p.payload...)
		d.parts = append(d.parts, fragment{off, buf})
		d.cost += cap(buf) + fragmentOverhead
	}
	if off == 0 {
		d.first, d.length = len(d.parts)-1, len(p.payload)
		d.header = append(a.s.bufs.get(len(p.header))[:0], p.header...)
		d.tos, d.ttl = p.tos, p.ttl
		d.cost += cap(d.header)
	}
	a.cost += d.cost - before
}

// ecn tells what the fragments of a complete datagram make of its ECN field: whether it has to
// be CE, and whether it may be delivered at all. Otherwise it is that of the first fragment.
//
// RFC 3168 5.3: "if any fragment of an IP packet to be reassembled has the CE codepoint set,
// then one of two actions MUST be taken": "Set the CE codepoint on the reassembled packet.
// However, this MUST NOT occur if any of the other fragments contributing to this reassembly
// carries the Not-ECT codepoint", or "The packet is dropped". Where only some fragments
// are ECN-capable and none has CE it requires nothing; they are not of one sender's
// datagram, and are dropped as on Linux.
func (d *datagramParts) ecn() (ce, ok bool) {
	const notECT = 1 << wire.NotECT
	return d.ecns&(1<<wire.CE) != 0, d.ecns&notECT == 0 || d.ecns == notECT
}

// detach takes a datagram out of the table.
func (a *reassembly) detach(d *datagramParts) {
	delete(a.m, d.key)
	a.byAge.Remove(d.elem)
	a.cost -= d.cost
}

// forget drops a datagram.
func (a *reassembly) forget(d *datagramParts) {
	a.detach(d)
	a.release(d)
	a.s.counts.reassemblyFailed.Add(1)
}

// release gives the buffers of a detached datagram back.
func (a *reassembly) release(d *datagramParts) {
	for _, f := range d.parts {
		a.s.bufs.put(f.buf)
	}
	if d.header != nil {
		a.s.bufs.put(d.header)
	}
	d.parts, d.header = nil, nil
}

// evict forgets the oldest datagram.
func (a *reassembly) evict() {
	a.s.drop(dropReassemblyFull)
	a.forget(a.byAge.Front().Value.(*datagramParts))
}

// fired forgets what was not completed in time.
func (a *reassembly) fired() {
	var late []*datagramParts
	a.mu.Lock()
	a.alarm.over()
	now := a.s.now()
	for !a.closed && a.byAge.Len() > 0 {
		d := a.byAge.Front().Value.(*datagramParts)
		if end := d.born + a.timeout; now < end {
			a.alarm.set(now, end, a)
			break
		}
		a.detach(d)
		late = append(late, d)
	}
	a.mu.Unlock()
	for _, d := range late {
		a.s.drop(dropReassemblyTimeout)
		a.s.counts.reassemblyFailed.Add(1)
		if d.header != nil {
			a.late(d)
		}
		a.release(d)
	}
	a.s.drain()
}

// close drops everything and stops the alarm.
func (a *reassembly) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	a.alarm.close()
	for _, d := range a.m {
		a.release(d)
	}
	clear(a.m)
	a.byAge.Init()
	a.cost = 0
}
