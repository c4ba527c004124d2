package stack

import (
	"encoding/binary"
	"net/netip"
	"syscall"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

// This file sends IP packets. A sender does the following:
//
//	sl := p.slot(now, n, direct)             // get a buffer
//	… write the transport header and the payload to sl.buf[transportAt:] …
//	q := s.emit(now, p, &h, &sl, n, &meta)   // write the link and IP headers, and queue the frame
//	… release all locks …
//	s.flush(q)                               // pass the queued frames to the device
//
// If a sender holds the same lock from slot to emit for all packets of a path, the packets leave in the
// order of their slots.

const (
	maxIPv4    = 65535 // largest datagram in bytes
	maxIPv6    = 65535 // largest IPv6 payload in bytes, including extension headers
	defaultTTL = 64    // RFC 1122 3.2.1.7, and the value of the Assigned Numbers

	// transportAt is the offset of the transport header in a buffer. The IP header ends there, and the
	// link header ends where the IP header begins. The transportAt bytes are enough for an Ethernet
	// header, a VLAN tag, and an IPv4 header with 40 bytes of options or an IPv6 header with 16 bytes of
	// extension headers. The IP header is aligned to 4 bytes.
	transportAt = 80

	// directRoom is the size in bytes of the buffer for direct transmit: enough for an Ethernet
	// frame with 1500 bytes of payload.
	directRoom = 2 << 10

	// directBytes is the largest transport header and payload, in bytes, for direct transmit.
	directBytes = directRoom - transportAt
)

// A slot is a buffer for a packet whose transport header begins at buf[transportAt]. The buffer comes
// from the pool. If direct is set, it is the transmit queue's own buffer, and the caller is the drainer of
// the queue until it calls flush.
type slot struct {
	q      *txQueue // queue of the interface of the packet's path
	buf    []byte
	mac    macWord // MAC of the next hop, if direct is set
	direct bool
}

// slot returns a slot for n bytes of transport header and payload.
//
// If direct is set, slot returns a direct slot if the packet is one small unicast frame, the MAC of the
// next hop is known, the queue is empty, no goroutine is sending, and the device does not block. The
// packet then needs neither a pooled buffer nor an entry in the queue. A caller that sets direct must
// call flush after emit.
func (p *path) slot(now tcp.Time, n int, direct bool) slot {
	return p.slotOn(&p.ifc.tx, now, n, direct)
}

// slotOn is slot for a packet that leaves through a certain queue of the path's interface.
func (p *path) slotOn(q *txQueue, now tcp.Time, n int, direct bool) slot {
	ifc := p.ifc
	if direct && n <= directBytes && int(p.ipLen)+n <= p.mtu && !p.group && !ifc.down.Load() {
		mac, ok := p.mac, true
		if p.neigh != nil {
			mac, ok = p.neigh.lookup(now)
		}
		if ok && q.claim() {
			return slot{q: q, buf: q.scratch.bytes[:transportAt+n], mac: mac, direct: true}
		}
	}
	return slot{q: q, buf: ifc.s.bufs.get(transportAt + n)}
}

// An ipHeader has the fields of a packet's IP header that the sender chooses.
type ipHeader struct {
	proto wire.Proto
	ttl   uint8
	tos   uint8
	df    dfMode  // a path with mayFrag overrides it in IPv4
	loop  bool    // deliver a copy of a multicast or broadcast packet to this host
	id    uint16  // identification of an IPv4 packet with dfAlways; for others the path chooses one
	count uint16  // packets in a super-frame, with consecutive identifications; 0 for one packet
	more  *ipMore // rarely needed parts; usually nil
}

// A dfMode says whether an IPv4 packet has the Don't Fragment flag (DF), and whether the host may send it in
// fragments.
type dfMode uint8

const (
	// dfNever: no DF, and fragments if the packet is larger than the path's MTU.
	dfNever dfMode = iota
	// dfFits: DF if the packet fits the path's MTU, and otherwise fragments without DF. The path's MTU is
	// then found from the errors of routers (RFC 1191). This is IP_PMTUDISC_WANT, Linux's default.
	dfFits
	// dfAlways: DF, and no fragments. This is IP_PMTUDISC_DO.
	dfAlways
)

// An ipMore has the rarely needed parts of an IP header.
type ipMore struct {
	options []byte // IPv4 options; a multiple of 4 bytes, at most 40
	header  []byte // a complete IP header from the application, or nil

	// ext are IPv6 extension headers: a multiple of 8 bytes, at most 16. first is the type of the first
	// extension header. The Next Header field of the last one names the transport protocol.
	ext   []byte
	first wire.Proto

	// frag is the flags and the offset of an IPv4 fragment, as in the IP header; 0 if the packet is not
	// a fragment. id is the identification of the fragment's datagram.
	frag, id uint16
}

// options returns the packet's IPv4 options or IPv6 extension headers.
func (h *ipHeader) options() []byte {
	if h.more == nil {
		return nil
	}
	if h.more.ext != nil {
		return h.more.ext
	}
	return h.more.options
}

// appHeader returns the complete IP header from the application, or nil.
func (h *ipHeader) appHeader() []byte {
	if h.more == nil {
		return nil
	}
	return h.more.header
}

// A frameMeta has the offloads and the zero-copy payload of a packet.
type frameMeta struct {
	checksum   bool // the checksum field holds only the folded sum of the pseudo-header
	csumOffset int  // offset of the checksum field in the transport header
	gso        nic.GSOKind
	gsoSize    int // payload bytes of each segment, if gso is set
	headerLen  int // length of the transport header, if gso is set

	body []byte // payload that follows the bytes in the slot and is not copied
	done func() // called when the frame is sent or dropped; may be nil
}

// A pathHeader is the part of the headers that all packets of a path have in common. It is computed
// when the path is made.
type pathHeader struct {
	// link ends with the Ethernet header, which has a zero destination. Without a VLAN tag, the header is
	// shorter than link.
	link   [maxLinkLen]byte
	addrs  [8]byte  // IPv4 source and destination
	label  uint32   // IPv6 version and the part of the flow label that all packets share
	sum    uint64   // sum of addrs and ipVersionIHL, not folded
	pseudo uint64   // sum of the addresses, for the pseudo-header; not folded
	addrs6 [32]byte // IPv6 source and destination
}

// makeHeader sets p.header and the fields that depend on the family. The caller has set p's addresses
// and interface.
func (p *path) makeHeader() {
	if p.dst.Is6() {
		p.makeHeader6()
		return
	}
	p.ipLen, p.gsoKind, p.hops = wire.IPv4Len, nic.GSOTCP4, defaultTTL
	h := &p.header
	if p.ifc.linkLen > 0 {
		p.ifc.putLink(h.link[maxLinkLen-p.ifc.linkLen:], wire.MAC{}, wire.EtherTypeIPv4)
	}
	*(*[4]byte)(h.addrs[:4]) = p.src.As4()
	*(*[4]byte)(h.addrs[4:]) = p.dst.As4()
	p.ids, p.idOffset = p.ifc.s.ids.of(p.ifc.s.key.sum(h.addrs[:]))
	h.pseudo = wire.PseudoSum(p.src, p.dst, 0, 0)
	h.sum = h.pseudo + ipVersionIHL<<8
}

// pseudoSum returns the folded sum of the pseudo-header for a segment of n bytes. The caller stores the
// sum in the segment's checksum field until the checksum is completed.
func (p *path) pseudoSum(proto wire.Proto, n int) uint16 {
	return wire.Fold(p.header.pseudo + uint64(proto) + uint64(n))
}

// putLink writes an Ethernet header with the interface's MAC as its source to b, and the tag of the
// interface's VLAN, if it has one. No other code writes tags.
func (ifc *iface) putLink(b []byte, dst wire.MAC, typ wire.EtherType) {
	h := wire.Ethernet{Dst: dst, Src: ifc.mac(), Type: typ}
	if ifc.vlan != 0 {
		h.Type = wire.EtherTypeVLAN
		tag := wire.VLANTag{ID: ifc.vlan, Type: typ}
		tag.Put(b[wire.EthernetLen:])
	}
	h.Put(b)
}

// putHeaders writes the link header and the IP header of a packet before buf[transportAt], and returns
// the offset of the IP header. n is the number of bytes of transport header and payload.
func (s *Stack) putHeaders(p *path, h *ipHeader, buf []byte, n int) int {
	if p.v6 {
		if own := h.appHeader(); own != nil {
			return s.putAppHeader(p, own, buf, n)
		}
		return p.putHeaders6(h, buf, n)
	}
	at := transportAt - wire.IPv4Len
	first, tos, ttl, proto := uint64(ipVersionIHL), uint64(h.tos), uint64(h.ttl), uint64(h.proto)
	sum := p.header.sum + tos + ttl<<8 + proto
	var id, frag uint64
	if m := h.more; m != nil {
		if m.header != nil {
			return s.putAppHeader(p, m.header, buf, n)
		}
		at -= len(m.options)
		words := uint64(len(m.options) / 4)
		first += words
		sum += words<<8 + wire.Sum(m.options, 0)
		copy(buf[transportAt-len(m.options):], m.options)
		id, frag = uint64(m.id), uint64(m.frag)
	}
	if frag == 0 {
		if h.df != dfNever && !p.mayFrag {
			frag = ipDontFragment
		}
		if h.df == dfAlways && frag != 0 {
			id = uint64(h.id)
		} else {
			id = uint64(p.nextID(max(h.count, 1)))
		}
	}
	b := buf[at-maxLinkLen : transportAt]
	*(*[maxLinkLen]byte)(b) = p.header.link
	ip := b[maxLinkLen:]
	total := uint64(len(ip) + n)
	if total > maxIPv4 {
		total = 0 // a large TCP super-frame: see wire.ParseIPv4
	}
	sum += total + id + frag
	be := binary.BigEndian
	be.PutUint64(ip[0:8], first<<56|tos<<48|total<<32|id<<16|frag)
	be.PutUint32(ip[8:12], uint32(ttl<<24|proto<<16)|uint32(^wire.Fold(sum)))
	*(*[8]byte)(ip[12:20]) = p.header.addrs
	return at
}

// putAppHeader is putHeaders for a packet whose IP header comes from the application. As on Linux
// (raw(7)), putAppHeader sets the total length and the checksum of an IPv4 header in any case, and the
// identification and the source if they are zero. It does not change an IPv6 header.
func (s *Stack) putAppHeader(p *path, header, buf []byte, n int) int {
	at := transportAt - len(header)
	*(*[maxLinkLen]byte)(buf[at-maxLinkLen:]) = p.header.link
	ip := buf[at:transportAt]
	copy(ip, header)
	if p.v6 {
		return at
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

// ipVersionIHL is the first byte of an IPv4 header without options: the version and the header length.
const ipVersionIHL = 4<<4 | wire.IPv4Len/4

// Flags in an IPv4 header (RFC 791 3.1).
const (
	ipDontFragment  = 0x4000
	ipMoreFragments = 0x2000
)

// emit writes the headers of a packet and queues its frame. n is the number of bytes of transport header
// and payload in the slot. emit takes ownership of the slot. The packet must fit the path's MTU; send
// also takes larger packets.
//
// The frame goes into the interface's queue, or, if the neighbour's link address is unknown, into the
// neighbour's queue. If the slot is direct, emit only makes the frame, and flush sends it. The caller
// passes the result to flush.
//
// emit does not check whether the queue is full. A caller that can wait calls the queue's method room first.
func (s *Stack) emit(now tcp.Time, p *path, h *ipHeader, sl *slot, n int, meta *frameMeta) (direct *txQueue) {
	ifc := p.ifc
	at := s.putHeaders(p, h, sl.buf, n+len(meta.body))
	if h.loop {
		s.loop.put(s, ifc, sl.buf[at:transportAt+n], n, meta)
	}
	if ifc.down.Load() && !sl.direct || h.ttl == 0 && !ifc.loopback {
		// The link is down, or the packet has a TTL of 0 and must not leave this host. A direct slot
		// never has a TTL of 0.
		if h.ttl != 0 {
			ifc.dropIP(dropLinkDown, sl.buf, at, n, meta)
		}
		s.release(&txEntry{buf: sl.buf, done: meta.done})
		return nil
	}
	if sl.direct {
		q := sl.q
		f := &q.scratch.batch[0]
		ifc.makeFrame(f, sl.buf, at, n, meta)
		if ifc.linkLen > 0 {
			sl.mac.put(f.Head)
		}
		return q
	}
	e := txEntry{buf: sl.buf, done: meta.done}
	ifc.makeFrame(&e.frame, sl.buf, at, n, meta)
	s.counts.ipSent.Add(1)
	if ifc.linkLen > 0 {
		mac := p.mac
		if p.neigh != nil {
			var ok bool
			if mac, ok = p.neigh.lookup(now); !ok {
				ifc.neighbors(p.hop).send(p.neigh, p.src, sl.q, &e)
				return nil
			}
		}
		mac.put(e.frame.Head)
	}
	sl.q.enqueue(&e)
	return nil
}

// flush sends the frame of a direct slot of the queue direct. If direct is nil, flush sends the queued frames
// of all interfaces. The caller must not hold a lock.
func (s *Stack) flush(direct *txQueue) {
	if direct == nil {
		s.drain()
		return
	}
	direct.sendDirect()
}

// makeFrame fills in f for a packet whose IP header begins at buf[at]. f must be zero. n is the number
// of bytes of transport header and payload at buf[transportAt]. On Ethernet, the caller then sets the
// destination MAC.
func (ifc *iface) makeFrame(f *nic.Frame, buf []byte, at, n int, meta *frameMeta) {
	start := at - ifc.linkLen
	head := buf[start : transportAt+n]
	if ifc.linkLen > 0 && len(meta.body) == 0 && len(head) < ifc.linkLen+minPayload {
		head = ifc.pad(head)
	}
	f.Head, f.Body = head, meta.body
	switch {
	case !meta.checksum:
		// The checksum is complete, or there is none.
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

// minPayload is the minimum length of the payload of an Ethernet frame in bytes. It is the same in a frame
// with a VLAN tag, so that the frame is long enough after a switch has removed the tag.
const minPayload = wire.MinFrame - wire.EthernetLen

// pad extends a short frame with zeros to the minimum size of an Ethernet frame, if its capacity allows.
// RFC 894: "the data field should be padded (with octets of zero) to meet the
// Ethernet minimum frame size."
func (ifc *iface) pad(frame []byte) []byte {
	n, least := len(frame), ifc.linkLen+minPayload
	if n >= least || cap(frame) < least {
		return frame
	}
	frame = frame[:least]
	clear(frame[n:])
	return frame
}

// completeChecksum completes the checksum of a segment. The checksum field, at offset, must hold the
// folded sum of the pseudo-header.
func completeChecksum(segment []byte, offset int) {
	binary.BigEndian.PutUint16(segment[offset:], wire.FinishChecksum(segment, offset))
}

// send is emit for a datagram that may be larger than the path's MTU. It sends such a datagram in
// fragments, or returns EMSGSIZE if h.df is dfAlways. It takes ownership of the slot, even on
// error.
func (s *Stack) send(now tcp.Time, p *path, h *ipHeader, sl *slot, n int, meta *frameMeta) (direct *txQueue, err error) {
	if int(p.ipLen)+n <= p.mtu && h.more == nil || meta.gso != nic.GSONone {
		return s.emit(now, p, h, sl, n, meta), nil
	}
	return nil, s.sendLarge(now, p, h, sl, n, meta)
}

// sendLarge is send for a datagram that is larger than the path's MTU, or that has options, extension
// headers or a header from the application. The slot must not be direct.
func (s *Stack) sendLarge(now tcp.Time, p *path, h *ipHeader, sl *slot, n int, meta *frameMeta) error {
	if h.appHeader() != nil || int(p.ipLen)+len(h.options())+n <= p.mtu {
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
	if h.df == dfFits {
		h.df = dfNever // it does not fit
	}
	if h.loop && (h.df == dfNever || p.mayFrag) {
		// The host itself receives the datagram whole. sendFragments clears h.loop.
		at := s.putHeaders(p, h, sl.buf, n)
		s.loop.put(s, p.ifc, sl.buf[at:transportAt+n], n, meta)
	}
	if h.ttl == 0 && !p.ifc.loopback {
		return nil
	}
	if h.df == dfAlways && !p.mayFrag {
		return syscall.EMSGSIZE
	}
	datagram := sl.buf[transportAt : transportAt+n]
	if meta.checksum {
		completeChecksum(datagram, meta.csumOffset)
	}
	s.sendFragments(now, p, *h, datagram)
	return nil
}

// sendFragments sends a datagram in fragments. payload is the datagram without its IP header.
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
			n = room &^ 7 // a multiple of 8
			more.frag |= ipMoreFragments
		}
		sl := p.slot(now, n, false)
		copy(sl.buf[transportAt:], payload[off:off+n])
		s.counts.fragsSent.Add(1)
		s.emit(now, p, &h, &sl, n, &frameMeta{})
		off += n
		// RFC 791 3.1 about each option that this stack sends: "Not copied on fragmentation, goes
		// in first fragment only."
		more.options = nil
	}
}

// reply sends a datagram that does not come from a socket. Its transport header and payload are the n
// bytes at buf[transportAt:]. buf must come from s.bufs; reply takes ownership of it. h.ttl is not used:
// the TTL is the path's default. If an address is link-local, zone is the interface's index.
//
// reply drops the datagram if the queue is full, if there is no route, or if dst is a broadcast or
// multicast address.
func (s *Stack) reply(dst, src netip.Addr, zone int, h ipHeader, buf []byte, n int) {
	p, err := s.routeOver(dst, src, zone)
	if err != nil || p.group || !p.ifc.tx.room() {
		s.bufs.put(buf)
		s.dropFlow(dropNoReply, netip.AddrPortFrom(src, 0), netip.AddrPortFrom(dst, 0))
		return
	}
	if h.proto != wire.ProtoTCP {
		s.datagramMTU.apply(s, &p)
	}
	h.ttl = p.hops
	if _, err := s.send(s.now(), &p, &h, &slot{q: &p.ifc.tx, buf: buf}, n, &frameMeta{}); err != nil {
		s.dropFlow(dropNoReply, netip.AddrPortFrom(src, 0), netip.AddrPortFrom(dst, 0))
	}
}
