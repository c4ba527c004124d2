package stack

import (
	"encoding/binary"
	"net/netip"
	"syscall"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

// This file is how every IP packet leaves the host.
//
//	sl := p.slot(now, n, direct)            // a buffer
//	… the transport header and the payload at sl.buf[transportAt:] …
//	ifc := s.emit(now, p, &h, &sl, n, &meta) // the headers before it, and the queue
//	… release all locks …
//	s.flush(ifc)                             // the device
//
// Packets of one path leave in the order in which their slots were taken, if the caller
// holds one lock from slot to emit.

const (
	maxIPv4    = 65535 // largest datagram in bytes
	maxIPv6    = 65535 // largest payload of an IPv6 packet in bytes, extension headers included
	defaultTTL = 64    // RFC 1122 3.2.1.7, and the value of the Assigned Numbers

	// transportAt is where the transport header begins in a buffer. The IP header is written to
	// end there, and the link header before that: there is room for an IPv6 header, an
	// Ethernet header and a VLAN tag, and each IP header is aligned to 4 bytes.
	transportAt = 80

	// directRoom is the size in bytes of the buffer for direct transmit: a plain Ethernet frame
	// and what is before it.
	directRoom = 2 << 10

	// directBytes is the most that goes directly, in bytes of transport header and payload.
	directBytes = directRoom - transportAt
)

// A slot is a buffer for a packet whose transport header begins at buf[transportAt]. It is from
// the pool; or it is direct, and lies in the interface, whose turn to send the caller has until
// flush.
type slot struct {
	buf    []byte
	mac    macWord // where direct
	direct bool
}

// slot returns room for n bytes of transport header and payload.
//
// It is direct, so that the packet needs neither a buffer nor a place in the queue, where the caller
// asks for that with direct, promising to call flush next, and nothing is in the way: the
// packet is one small frame, its next hop is known, nothing is queued and nobody is sending, and the
// device does not block.
func (p *path) slot(now tcp.Time, n int, direct bool) slot {
	ifc := p.ifc
	if direct && n <= directBytes && int(p.ipLen)+n <= p.mtu && !p.group && !ifc.down.Load() {
		mac, ok := p.mac, true
		if p.neigh != nil {
			mac, ok = p.neigh.lookup(now)
		}
		if ok && ifc.tx.claim() {
			return slot{buf: ifc.tx.own.bytes[:transportAt+n], mac: mac, direct: true}
		}
	}
	return slot{buf: ifc.s.bufs.get(transportAt + n)}
}

// An ipHeader is what the sender of a packet chooses of its IP header.
type ipHeader struct {
	proto wire.Proto
	ttl   uint8
	tos   uint8
	df    bool    // RFC 791's Don't Fragment, unless the path is too small for it; IPv6 has it always
	loop  bool    // the host itself is to hear a group's packet too
	id    uint16  // the identification, if the packet cannot be fragmented; another is the path's
	count uint16  // packets in a super-frame, with consecutive identifications; 0 for one packet
	more  *ipMore // nil for most
}

// An ipMore is what few packets have.
type ipMore struct {
	options []byte // of IPv4; a multiple of 4 bytes, at most 40
	header  []byte // the whole header, from the application; nil: it is made here

	// Of IPv6: extension headers, of which the last names the transport, and the number of the
	// first; a multiple of 8 bytes, at most maxExt.
	ext   []byte
	first wire.Proto

	// Of a fragment: its flags and offset as they stand in the header, and the identification of
	// the datagram. frag is 0 for what is no fragment.
	frag, id uint16
}

// options are those of the packet, or its extension headers, if there are any.
func (h *ipHeader) options() []byte {
	if h.more == nil {
		return nil
	}
	if h.more.ext != nil {
		return h.more.ext
	}
	return h.more.options
}

// own is the header that the application has made, or nil.
func (h *ipHeader) own() []byte {
	if h.more == nil {
		return nil
	}
	return h.more.header
}

// A frameMeta says what is left for the device to do with a packet, and what follows the bytes
// that are in its slot.
type frameMeta struct {
	checksum   bool // the transport's checksum field holds the folded sum of the pseudo-header
	csumOffset int  // of the field, from the transport header
	gso        nic.GSOKind
	gsoSize    int // payload bytes of each piece
	headerLen  int // of the transport header, where gso is set

	body []byte // what follows in the frame, without having been copied
	done func() // called when the frame is sent or dropped; nil: nobody asks
}

// A pathHeader is what the headers of all packets of a path have in common. It is made with the
// path.
type pathHeader struct {
	link   [wire.EthernetLen]byte // without the next hop
	addrs  [8]byte                // of IPv4: source and destination
	sum    uint64                 // of the addresses and the first byte of the IP header, of IPv4
	pseudo uint64                 // of the addresses, for the transports' checksums
	addrs6 [32]byte               // of IPv6: source and destination
	label  uint32                 // of IPv6: the version and the flow label
}

// makeHeader fills in the header of a path whose addresses and interface are known.
func (p *path) makeHeader() {
	if p.dst.Is6() {
		p.makeHeader6()
		return
	}
	p.ipLen, p.gsoKind, p.hops = wire.IPv4Len, nic.GSOTCP4, defaultTTL
	h := &p.header
	if p.ifc.linkLen > 0 {
		p.ifc.putLink(h.link[:], wire.MAC{}, wire.EtherTypeIPv4)
	}
	*(*[4]byte)(h.addrs[:4]) = p.src.As4()
	*(*[4]byte)(h.addrs[4:]) = p.dst.As4()
	p.ids, p.idOffset = p.ifc.s.ids.of(p.ifc.s.key.sum(h.addrs[:]))
	h.pseudo = wire.PseudoSum(p.src, p.dst, 0, 0)
	h.sum = h.pseudo + ipVersion<<8
}

// pseudoSum is the folded sum of the pseudo-header of a segment of n bytes: what a checksum
// field holds until the checksum is completed.
func (p *path) pseudoSum(proto wire.Proto, n int) uint16 {
	return wire.Fold(p.header.pseudo + uint64(proto) + uint64(n))
}

// putLink writes an Ethernet header to b.
func (ifc *iface) putLink(b []byte, dst wire.MAC, typ wire.EtherType) {
	h := wire.Ethernet{Dst: dst, Src: ifc.mac(), Type: typ}
	h.Put(b)
}

// putHeaders writes the link and the IP header of a packet of n bytes of transport header and
// payload before buf[transportAt], and returns where the IP header begins.
func (s *Stack) putHeaders(p *path, h *ipHeader, buf []byte, n int) int {
	if p.v6 {
		if own := h.own(); own != nil {
			return s.putOwnHeader(p, own, buf, n)
		}
		return p.putHeaders6(h, buf, n)
	}
	at := transportAt - wire.IPv4Len
	first, tos, ttl, proto := uint64(ipVersion), uint64(h.tos), uint64(h.ttl), uint64(h.proto)
	sum := p.header.sum + tos + ttl<<8 + proto
	var id, frag uint64
	if m := h.more; m != nil {
		if m.header != nil {
			return s.putOwnHeader(p, m.header, buf, n)
		}
		at -= len(m.options)
		words := uint64(len(m.options) / 4)
		first += words
		sum += words<<8 + wire.Sum(m.options, 0)
		copy(buf[transportAt-len(m.options):], m.options)
		id, frag = uint64(m.id), uint64(m.frag)
	}
	if frag == 0 {
		if h.df && !p.mayFrag {
			id, frag = uint64(h.id), ipDontFragment
		} else {
			id = uint64(p.nextID(max(h.count, 1)))
		}
	}
	b := buf[at-wire.EthernetLen : transportAt]
	*(*[wire.EthernetLen]byte)(b) = p.header.link
	ip := b[wire.EthernetLen:]
	total := uint64(len(ip) + n)
	sum += total + id + frag
	be := binary.BigEndian
	be.PutUint64(ip[0:8], first<<56|tos<<48|total<<32|id<<16|frag)
	be.PutUint32(ip[8:12], uint32(ttl<<24|proto<<16)|uint32(^wire.Fold(sum)))
	*(*[8]byte)(ip[12:20]) = p.header.addrs
	return at
}

// putOwnHeader is putHeaders for an application that has made the IP header. As on Linux (raw(7)), the
// total length and the checksum are filled in always, the identification and the source where
// they are zero.
func (s *Stack) putOwnHeader(p *path, header, buf []byte, n int) int {
	at := transportAt - len(header)
	*(*[wire.EthernetLen]byte)(buf[at-wire.EthernetLen:]) = p.header.link
	ip := buf[at:transportAt]
	copy(ip, header)
	if p.v6 {
		return at // as it is, as on Linux
	}
	be := binary.BigEndian
	be.PutUint16(ip[2:], uint16(len(ip)+n))
	if be.Uint16(ip[4:]) == 0 {
		be.PutUint16(ip[4:], p.nextID(1))
	}
	if *(*[4]byte)(ip[12:]) == [4]byte{} {
		*(*[4]byte)(ip[12:]) = p.src.As4()
	}
	be.PutUint16(ip[10:], 0)
	be.PutUint16(ip[10:], wire.Checksum(ip))
	return at
}

// ipVersion is the first byte of an IPv4 header without options.
const ipVersion = 4<<4 | wire.IPv4Len/4

// Flags in an IPv4 header (RFC 791 3.1).
const (
	ipDontFragment  = 0x4000
	ipMoreFragments = 0x2000
)

// emit writes the headers of a packet, of which n bytes are in the slot, and queues the frame,
// parks it at the neighbour, or leaves it for flush, to which the caller passes the interface that is
// returned. The slot is given away. The packet has to fit the path: send cuts others.
//
// Whoever has a choice asks p.ifc.tx.room first; emit never refuses.
func (s *Stack) emit(now tcp.Time, p *path, h *ipHeader, sl *slot, n int, meta *frameMeta) (direct *iface) {
	ifc := p.ifc
	at := s.putHeaders(p, h, sl.buf, n+len(meta.body))
	if h.loop {
		s.loop.put(s, ifc, sl.buf[at:transportAt+n], meta)
	}
	if ifc.down.Load() && !sl.direct || h.ttl == 0 && !ifc.loopback {
		// The link is gone; or the packet has no hop to go and has reached its only receiver, this host.
		if h.ttl != 0 {
			ifc.stats.TxDropped.Add(1)
		}
		s.release(txEntry{buf: sl.buf, done: meta.done})
		return nil
	}
	if sl.direct {
		q := &ifc.tx
		f := &q.own.batch[0]
		ifc.makeFrame(f, sl.buf, at, n, meta)
		if ifc.linkLen > 0 {
			sl.mac.put(f.Head)
		}
		return ifc
	}
	e := txEntry{buf: sl.buf, done: meta.done}
	ifc.makeFrame(&e.frame, sl.buf, at, n, meta)
	s.counts.ipSent.Add(1)
	if ifc.linkLen > 0 {
		mac := p.mac
		if p.neigh != nil {
			var ok bool
			if mac, ok = p.neigh.lookup(now); !ok {
				ifc.neighbors(p.hop).send(p.neigh, p.src, e)
				return nil
			}
		}
		mac.put(e.frame.Head)
	}
	ifc.enqueue(e)
	return nil
}

// flush sends what emit has left to it, or else what waits for any interface. No lock is held.
func (s *Stack) flush(direct *iface) {
	if direct == nil {
		s.drain()
		return
	}
	direct.sendDirect()
}

// makeFrame makes in f, which is zero, the frame of a packet whose IP header begins at buf[at], and of which n bytes
// follow buf[transportAt]. On Ethernet the next hop is left for the caller to fill in.
func (ifc *iface) makeFrame(f *nic.Frame, buf []byte, at, n int, meta *frameMeta) {
	start := at - ifc.linkLen
	head := buf[start : transportAt+n]
	if ifc.linkLen > 0 && len(meta.body) == 0 && len(head) < wire.MinFrame {
		head = pad(head)
	}
	f.Head, f.Body = head, meta.body
	switch {
	case !meta.checksum:
	case ifc.txChecksum:
		f.NeedsChecksum = true
		f.ChecksumStart = uint16(transportAt - start)
		f.ChecksumOffset = uint16(meta.csumOffset)
		if meta.gso != nic.GSONone {
			f.GSO = meta.gso
			f.GSOSize = uint16(meta.gsoSize)
			f.HeaderLen = uint16(transportAt - start + meta.headerLen)
		}
	default:
		completeChecksum(buf[transportAt:transportAt+n], meta.csumOffset)
	}
}

// pad extends a short frame with zeros to the least that an Ethernet carries.
// RFC 894: "the data field should be padded (with octets of zero) to meet the
// Ethernet minimum frame size."
func pad(frame []byte) []byte {
	n := len(frame)
	if n >= wire.MinFrame || cap(frame) < wire.MinFrame {
		return frame
	}
	frame = frame[:wire.MinFrame]
	clear(frame[n:])
	return frame
}

// completeChecksum completes the checksum of a transport's packet, in whose field, at offset,
// the sum of the pseudo-header stands.
func completeChecksum(segment []byte, offset int) {
	binary.BigEndian.PutUint16(segment[offset:], wire.FinishChecksum(segment, offset))
}

// send sends a datagram of which n bytes are in the slot, which is given away, also on error. It is
// emit for what may be larger than the path: that is sent in fragments, or not at all where
// Don't Fragment is asked for, with EMSGSIZE.
func (s *Stack) send(now tcp.Time, p *path, h *ipHeader, sl *slot, n int, meta *frameMeta) (direct *iface, err error) {
	if int(p.ipLen)+n <= p.mtu && h.more == nil || meta.gso != nic.GSONone {
		return s.emit(now, p, h, sl, n, meta), nil
	}
	return nil, s.sendLarge(now, p, h, sl, n, meta)
}

// sendLarge is send for what is larger than the path, or has options or a header of its own. The
// slot is not direct.
func (s *Stack) sendLarge(now tcp.Time, p *path, h *ipHeader, sl *slot, n int, meta *frameMeta) error {
	if h.own() != nil || int(p.ipLen)+len(h.options())+n <= p.mtu {
		s.emit(now, p, h, sl, n, meta)
		return nil
	}
	if p.v6 {
		return s.sendLarge6(now, p, h, sl, n, meta)
	}
	defer s.bufs.put(sl.buf)
	if int(p.ipLen)+len(h.options())+n > maxIPv4 {
		return syscall.EMSGSIZE
	}
	if h.loop && (!h.df || p.mayFrag) {
		at := s.putHeaders(p, h, sl.buf, n)
		s.loop.put(s, p.ifc, sl.buf[at:transportAt+n], meta)
	}
	if h.ttl == 0 && !p.ifc.loopback {
		return nil
	}
	if h.df && !p.mayFrag {
		return syscall.EMSGSIZE
	}
	datagram := sl.buf[transportAt : transportAt+n]
	if meta.checksum {
		completeChecksum(datagram, meta.csumOffset)
	}
	s.sendFragments(now, p, *h, datagram)
	return nil
}

// sendFragments sends a datagram's payload in as many fragments as it takes.
//
// RFC 791 3.2: "the data ... is divided into two portions on a 8 octet (64 bit)
// boundary"; all fragments have the identification of the datagram.
func (s *Stack) sendFragments(now tcp.Time, p *path, h ipHeader, payload []byte) {
	more := ipMore{options: h.options(), id: p.nextID(1)}
	h.loop, h.more = false, &more
	for off := 0; off < len(payload); {
		room := p.mtu - int(p.ipLen) - len(more.options)
		n := len(payload) - off
		more.frag = uint16(off / 8)
		if n > room {
			n = room &^ 7
			more.frag |= ipMoreFragments
		}
		sl := p.slot(now, n, false)
		copy(sl.buf[transportAt:], payload[off:off+n])
		s.counts.fragsSent.Add(1)
		s.emit(now, p, &h, &sl, n, &frameMeta{})
		off += n
		// RFC 791 3.1, of all that are sent: "Not copied on fragmentation, goes in first
		// fragment only."
		more.options = nil
	}
}

// reply sends a datagram that no socket is behind: n bytes of buf[transportAt:], which comes from
// s.bufs and is given away. The time to live is the path's. Where one of the addresses is link-local, zone is the interface's
// index. Where the queue is full or there is no way back, it is lost.
func (s *Stack) reply(dst, src netip.Addr, zone int, h ipHeader, buf []byte, n int) {
	p, err := s.routeOver(dst, src, zone)
	if err != nil || p.group || !p.ifc.tx.room() {
		s.bufs.put(buf)
		s.drop(dropNoReply)
		return
	}
	h.ttl = p.hops
	if _, err := s.send(s.now(), &p, &h, &slot{buf: buf}, n, &frameMeta{}); err != nil {
		s.drop(dropNoReply)
	}
}
