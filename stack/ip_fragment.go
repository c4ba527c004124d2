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
	maxReassemblyBytes = 4 << 20 // per family: the buffers of all datagrams, and overhead
	maxReassemblies    = 1024    // per family: the number of incomplete datagrams
)

// A fragmentKey identifies the datagram of a fragment.
type fragmentKey struct {
	src, dst netip.Addr
	id       uint32
	proto    wire.Proto // IPv4 only: the fragments of an IPv6 datagram may have different Next Headers
	zone     int32      // IPv6 only: index of the interface if an address is link-local or dst is multicast
}

// A fragment is a piece of a datagram's payload in a pooled buffer. If the next fragment to arrive
// continues the piece and fits the buffer, it is appended.
type fragment struct {
	off int // in the datagram's payload
	buf []byte
}

// A run is the range [off, end) of a datagram's payload, all of which has arrived.
type run struct{ off, end int }

// fragmentOverhead is the memory that is counted for a fragment besides its buffer.
const fragmentOverhead = int(unsafe.Sizeof(fragment{}) + unsafe.Sizeof(run{}))

// A datagramParts is an incomplete datagram. The number of its fragments is limited only by
// maxReassemblyBytes.
type datagramParts struct {
	key    fragmentKey
	ifc    *iface
	born   tcp.Time
	parts  []fragment // in the order of arrival
	runs   []run      // ascending, with a gap between any two
	few    [4]run     // the first array of runs, to save an allocation
	have   int        // bytes in parts
	total  int        // length of the payload; -1 until the last fragment has arrived
	cost   int        // capacity of the parts' buffers, and overhead
	elem   *list.Element
	group  bool   // a fragment was a broadcast or multicast packet
	header []byte // headers of the fragment at offset 0, in a pooled buffer; nil until it has arrived
	first  int    // index of the part that begins at offset 0
	length int    // payload length of the fragment at offset 0
	ecns   uint8  // the ECN codepoints of the fragments: a bit 1<<codepoint for each
	tos    uint8  // of the fragment at offset 0
	ttl    uint8  // of the fragment at offset 0
}

// A reassembly reassembles the datagrams of one address family. The code of the family parses and checks
// the fragments. It calls input for each fragment, and join for a complete datagram. The fragments of a
// datagram are kept for a fixed time. If the datagrams exceed a limit, the oldest datagram is dropped.
type reassembly struct {
	s       *Stack
	timeout tcp.Time
	late    func(d *datagramParts) // sends an ICMP error for a datagram that has timed out

	mu     mutex[levelTable]
	m      map[fragmentKey]*datagramParts // nil until first needed
	byAge  list.List                      // of *datagramParts, oldest first
	cost   int
	alarm  alarm // for the timeout of the oldest datagram
	closed bool
}

// input adds the fragment p. Its payload is not empty, and begins at off in the datagram's payload. more
// is the fragment's More Fragments flag. If p completes the datagram, input returns the datagram; the
// caller owns it until it calls join or fail. Otherwise input returns nil.
func (a *reassembly) input(p *packet, key fragmentKey, off int, more bool) *datagramParts {
	a.mu.Lock()
	d, r := a.add(p, key, off, off+len(p.payload), more)
	a.mu.Unlock()
	if r != wire.OK {
		p.dropRx(r)
	}
	if d == nil {
		return nil
	}
	ce, ok := d.ecn()
	if !ok {
		a.fail(d)
		p.dropRx(dropFragmentECN)
		return nil
	}
	if ce {
		d.tos |= wire.CE
	}
	return d
}

// fail drops a complete datagram that input has returned.
func (a *reassembly) fail(d *datagramParts) {
	a.release(d)
	a.s.counts.reassemblyFailed.Add(1)
}

// join makes the packet q of a complete datagram, and releases the datagram. p is the fragment that
// completed the datagram; header has the headers of q. whole is the pooled buffer with the headers and
// the payload of q. The caller returns whole to the pool.
func (a *reassembly) join(p *packet, d *datagramParts, header []byte) (q packet, whole []byte) {
	whole = a.s.bufs.get(len(header) + d.total)
	n := copy(whole, header)
	for _, f := range d.parts {
		copy(whole[n+f.off:], f.buf)
	}
	a.release(d)
	q = *p
	q.header, q.payload = whole[:n], whole[n:]
	q.frame = nil
	q.ttl, q.tos = d.ttl, d.tos
	q.broadcast = d.group
	q.checksumOK, q.local, q.gso, q.gsoSize = false, false, 0, 0
	a.s.counts.reassembled.Add(1)
	return q, whole
}

// add stores a fragment whose payload is the range [off, end) of the datagram's payload. If the datagram
// is complete, add removes it from the table and returns it. a.mu is held.
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
	// Drop the datagram if two fragments disagree about its end: the fragment is beyond the end, is
	// another last fragment, or is a last fragment before bytes that have arrived.
	if d.total >= 0 && (end > d.total || !more && end != d.total) ||
		!more && len(d.runs) > 0 && d.runs[len(d.runs)-1].end > end {
		a.forget(d)
		return nil, dropBadFragment
	}
	if !more {
		d.total = end
	}
	// Run i is the first run that ends after off.
	i, _ := slices.BinarySearchFunc(d.runs, off, func(r run, off int) int { return r.end - off - 1 })
	if i < len(d.runs) && d.runs[i].off < end {
		// RFC 5722 4 with erratum 3089: a fragment whose bytes have all arrived is a duplicate and is
		// ignored. As on Linux, the bytes may have arrived in several fragments.
		if d.runs[i].off <= off && d.runs[i].end >= end {
			return nil, dropDuplicateFragment
		}
		// RFC 5722 4: if a fragment of an IPv6 datagram overlaps another fragment, "the entire datagram
		// ... MUST be silently discarded". The same is done for IPv4, which is open to the same attack
		// (RFC 1858 3).
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

// insert adds the range [off, end) to the runs, before run i, and merges it with the runs that it
// touches. The range must not overlap run i-1 or run i.
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

// store copies the fragment p into its datagram. a.mu is held.
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

// ecn combines the ECN fields of the fragments. If ce is true, the datagram's ECN field must be set to
// CE; otherwise it is that of the fragment at offset 0. ok is false if the datagram must be dropped.
//
// RFC 3168 5.3: "if any fragment of an IP packet to be reassembled has the CE codepoint set,
// then one of two actions MUST be taken": "Set the CE codepoint on the reassembled packet.
// However, this MUST NOT occur if any of the other fragments contributing to this reassembly
// carries the Not-ECT codepoint", or "The packet is dropped". The RFC requires nothing if some fragments
// are ECN-capable, some are not, and none has CE. Such fragments do not come from one datagram. As on
// Linux, they are dropped.
func (d *datagramParts) ecn() (ce, ok bool) {
	const notECT = 1 << wire.NotECT
	return d.ecns&(1<<wire.CE) != 0, d.ecns&notECT == 0 || d.ecns == notECT
}

// detach removes a datagram from the table. a.mu is held.
func (a *reassembly) detach(d *datagramParts) {
	delete(a.m, d.key)
	a.byAge.Remove(d.elem)
	a.cost -= d.cost
}

// forget drops an incomplete datagram. a.mu is held.
func (a *reassembly) forget(d *datagramParts) {
	a.detach(d)
	a.release(d)
	a.s.counts.reassemblyFailed.Add(1)
}

// drop counts an incomplete datagram that is dropped. A Watcher gets the fragment at offset 0, if it has arrived.
func (d *datagramParts) drop(r wire.Reason) {
	p := packet{ifc: d.ifc, src: d.key.src, dst: d.key.dst, proto: d.key.proto}
	if d.header != nil {
		p.header, p.payload = d.header, d.parts[d.first].buf[:d.length]
	}
	p.drop(r)
}

// release frees the buffers of a detached datagram.
func (a *reassembly) release(d *datagramParts) {
	for _, f := range d.parts {
		a.s.bufs.put(f.buf)
	}
	if d.header != nil {
		a.s.bufs.put(d.header)
	}
	d.parts, d.header = nil, nil
}

// evict drops the oldest datagram. a.mu is held.
func (a *reassembly) evict() {
	d := a.byAge.Front().Value.(*datagramParts)
	d.drop(dropReassemblyFull)
	a.forget(d)
}

// fired is called by the alarm. It drops the datagrams that have timed out, and calls a.late for those
// whose first fragment has arrived.
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
		d.drop(dropReassemblyTimeout)
		a.s.counts.reassemblyFailed.Add(1)
		if d.header != nil {
			a.late(d)
		}
		a.release(d)
	}
	a.s.drain()
}

// close drops all datagrams and stops the alarm. add then accepts no more fragments.
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
