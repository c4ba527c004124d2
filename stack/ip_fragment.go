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
	maxReassemblies    = 1024    // per family
)

// A fragmentKey identifies the datagram of a fragment.
type fragmentKey struct {
	src, dst netip.Addr
	id       uint32
	proto    wire.Proto // IPv4 only: the fragments of an IPv6 datagram may differ in it
	zone     int32      // index of the interface, if an address is link-local; else 0
}

// A fragment is a piece of a datagram's payload in a pooled buffer. Later fragments that continue it
// are appended to the buffer if they fit.
type fragment struct {
	off int
	buf []byte
}

// A run is the range from off to before end of a datagram's payload that has arrived without gaps.
type run struct{ off, end int }

// fragmentOverhead is the memory that is counted for a fragment beside its buffer.
const fragmentOverhead = int(unsafe.Sizeof(fragment{}) + unsafe.Sizeof(run{}))

// A datagramParts is an incomplete datagram. The number of its fragments is limited only by
// maxReassemblyBytes.
type datagramParts struct {
	key    fragmentKey
	ifc    *iface
	born   tcp.Time
	parts  []fragment // in the order of arrival
	runs   []run      // ascending, with a gap between any two
	few    [4]run     // initial array of runs
	have   int        // bytes in parts
	total  int        // length of the payload; -1 until the last fragment has arrived
	cost   int        // capacity of the parts' buffers, and overhead
	elem   *list.Element
	group  bool
	header []byte // headers of the fragment at offset 0, in a pooled buffer; nil until it has arrived
	first  int    // index of the part that begins at offset 0
	length int    // payload length of the fragment at offset 0
	ecns   uint8  // the ECN codepoints of the fragments: a bit 1<<codepoint for each
	tos    uint8
	ttl    uint8
}

// A reassembly reassembles the datagrams of one address family. The family's code parses and checks the
// fragments, and makes a packet of a complete datagram. Fragments are kept for a fixed time. If they
// exceed a limit, the oldest datagram is dropped.
type reassembly struct {
	s       *Stack
	timeout tcp.Time
	late    func(d *datagramParts) // sends an ICMP error for a datagram that has timed out

	mu     mutex[levelTable]
	m      map[fragmentKey]*datagramParts // nil until first needed
	byAge  list.List                      // of *datagramParts, oldest first
	cost   int
	alarm  alarm // for the oldest
	closed bool
}

// input adds a fragment. Its payload, at least one byte, begins at off in the datagram's payload; more
// says that it is not the last fragment. If the datagram is complete, input returns it, and the caller
// owns it until it calls join or fail.
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

// fail drops a complete datagram.
func (a *reassembly) fail(d *datagramParts) {
	a.release(d)
	a.s.counts.reassemblyFailed.Add(1)
}

// join makes a packet of a complete datagram and releases the datagram. p is the fragment that
// completed it, and header are the headers of the packet. whole is the pooled buffer with the packet's
// headers and payload. The caller puts it back.
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

// add stores a fragment. If the datagram is complete, add removes it from the table and returns it.
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
	// Two fragments disagree about the end of the datagram.
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
		// ignored. As on Linux, they may have arrived in other fragments.
		if d.runs[i].off <= off && d.runs[i].end >= end {
			return nil, dropDuplicateFragment
		}
		// Ibid.: if a fragment of an IPv6 datagram overlaps another, "the entire datagram ... MUST be
		// silently discarded". IPv4 is open to the same attack (RFC 1858 3).
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

// insert adds the range from off to end to the runs, before run i. The range overlaps neither run i-1
// nor run i.
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

// ecn combines the ECN fields of the fragments. ce says that the datagram's field must be set to CE; if
// it is not, the field is that of the first fragment. ok is false if the datagram must be dropped.
//
// RFC 3168 5.3: "if any fragment of an IP packet to be reassembled has the CE codepoint set,
// then one of two actions MUST be taken": "Set the CE codepoint on the reassembled packet.
// However, this MUST NOT occur if any of the other fragments contributing to this reassembly
// carries the Not-ECT codepoint", or "The packet is dropped". If some fragments are ECN-capable, some
// are not and none has CE, the RFC requires nothing. Such fragments do not come from one datagram, and
// are dropped as on Linux.
func (d *datagramParts) ecn() (ce, ok bool) {
	const notECT = 1 << wire.NotECT
	return d.ecns&(1<<wire.CE) != 0, d.ecns&notECT == 0 || d.ecns == notECT
}

// detach removes a datagram from the table.
func (a *reassembly) detach(d *datagramParts) {
	delete(a.m, d.key)
	a.byAge.Remove(d.elem)
	a.cost -= d.cost
}

// forget drops an incomplete datagram.
func (a *reassembly) forget(d *datagramParts) {
	a.detach(d)
	a.release(d)
	a.s.counts.reassemblyFailed.Add(1)
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

// evict drops the oldest datagram.
func (a *reassembly) evict() {
	a.s.drop(dropReassemblyFull)
	a.forget(a.byAge.Front().Value.(*datagramParts))
}

// fired is called by the alarm. It drops the datagrams that have timed out.
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
