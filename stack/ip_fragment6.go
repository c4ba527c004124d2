package stack

import (
	"encoding/binary"
	"net/netip"
	"syscall"
	"time"

	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

// reassemblyTimeout6 is the IPv6 reassembly timeout. RFC 8200 4.5: "If insufficient fragments
// are received to complete reassembly of a packet within 60 seconds of the reception of the
// first-arriving fragment of that packet, reassembly of that packet must be abandoned and all the
// fragments that have been received for that packet must be discarded."
const reassemblyTimeout6 = tcp.Time(60 * time.Second)

// inputFragment6 handles a received fragment. p.header ends with the Fragment header; p.payload is what
// follows. c describes the headers. If the fragment completes its packet, inputFragment6 delivers the
// packet.
func (s *Stack) inputFragment6(p *packet, c *wire.Chain) {
	s.counts.fragsReceived.Add(1)
	f := &c.Fragment
	before := len(p.header) - wire.FragmentLen // length of the per-fragment headers
	switch {
	case before-wire.IPv6Len+int(f.Offset)+len(p.payload) > maxIPv6:
		// RFC 8200 4.5: "If the length and offset of a fragment are such that the Payload Length of
		// the packet reassembled from that fragment would exceed 65,535 octets, then that
		// fragment must be discarded and an ICMP Parameter Problem, Code 0, message should be
		// sent to the source of the fragment, pointing to the Fragment Offset field of the
		// fragment packet."
		p.dropRx(dropBadFragment)
		s.sendICMPError(p, icmpBadHeader, before+2)
		return
	case f.Offset == 0 && !wire.CompleteChain(f.Next, p.payload):
		// RFC 7112 5: "A host that receives a First Fragment that does not satisfy the
		// above-stated requirement SHOULD discard the packet and SHOULD send an ICMPv6 error
		// message to the source address of the offending packet". RFC 7112 5, about this error, whose
		// code is 3: the "Pointer field MUST be set to zero".
		p.dropRx(dropFirstChain)
		s.sendICMPError(p, icmpFirstChain, 0)
		return
	case len(p.payload) == 0:
		p.dropRx(dropBadFragment)
		return
	}
	// RFC 8200 4.5: a packet "is reassembled only from fragment packets that have the same Source
	// Address, Destination Address, and Fragment Identification."
	key := fragmentKey{src: p.src, dst: p.dst, id: f.ID, zone: int32(p.zone())}
	if p.dst.IsMulticast() {
		key.zone = int32(p.ifc.index)
	}
	d := s.frags6.input(p, key, int(f.Offset), f.More)
	if d == nil {
		return
	}
	// RFC 8200 4.5: "Only those headers in the Offset zero fragment packet are retained in the
	// reassembled packet". Of the Next Header fields, "Only the value from the Offset zero fragment
	// packet is used".
	header, next := withoutFragment(d.header)
	length := len(header) - wire.IPv6Len + d.total
	if length > maxIPv6 {
		s.frags6.fail(d)
		p.dropRx(dropBadFragment)
		return
	}
	be := binary.BigEndian
	be.PutUint16(header, be.Uint16(header)&^0xff0|uint16(d.tos)<<4) // Traffic Class
	be.PutUint16(header[wire.IPv6PayloadLenOffset:], uint16(length))
	q, whole := s.frags6.join(p, d, header)
	q.proto = next
	s.inputReassembled6(&q, whole)
	s.bufs.put(whole)
}

// withoutFragment removes the Fragment header from the end of a packet's headers, in place. It returns
// the headers and the type of the header that follows them.
//
// RFC 8200 4.5: "The Next Header field of the last header of the per-fragment headers is obtained
// from the Next Header field of the first fragment's Fragment header."
func withoutFragment(header []byte) ([]byte, wire.Proto) {
	n := len(header) - wire.FragmentLen
	next := header[n]
	header[wire.LastNextAt(header[:n])] = next
	return header[:n], wire.Proto(next)
}

// inputReassembled6 handles a reassembled packet. p.payload begins with the first header after the
// per-fragment headers. whole is the entire packet.
func (s *Stack) inputReassembled6(p *packet, whole []byte) {
	c, r := wire.WalkReassembled(p.proto, p.header, p.payload)
	if r != wire.OK {
		p.dropRx(r)
		s.answerChain(p, &c, whole)
		return
	}
	p.proto = c.Proto
	p.header, p.payload = whole[:len(p.header)+c.Offset], p.payload[c.Offset:]
	if p.isND() {
		// RFC 6980 5: "Nodes MUST silently ignore the following Neighbor Discovery [...] messages
		// if the packets carrying them include an IPv6 Fragmentation Header". Reassembly has removed
		// that header.
		p.dropRx(dropNDFragment)
		return
	}
	s.deliver(p)
}

// fragmentsLate6 is fragmentsLate4 for IPv6. It sends no error about an ICMPv6 error.
//
// RFC 8200 4.5: "If the first fragment (i.e., the one with a Fragment Offset of zero) has been
// received, an ICMP Time Exceeded -- Fragment Reassembly Time Exceeded message should be sent to
// the source of that fragment."
func (s *Stack) fragmentsLate6(d *datagramParts) {
	first := d.parts[d.first].buf[:d.length]
	before := len(d.header) - wire.FragmentLen
	p := packet{
		ifc: d.ifc, src: d.key.src, dst: d.key.dst, proto: wire.Proto(d.header[before]),
		header: d.header, payload: first, broadcast: d.group,
	}
	if c, r := wire.WalkReassembled(p.proto, d.header[:before], first); r == wire.OK && c.Proto == wire.ProtoICMPv6 && isICMPError6(first[c.Offset:]) {
		return
	}
	s.sendICMPError(&p, icmpReassembly, 0)
}

// sendLarge6 is sendLarge for IPv6. p.mayFrag has no meaning, because routers do not fragment IPv6
// packets.
func (s *Stack) sendLarge6(now tcp.Time, p *path, h *ipHeader, sl *slot, n int, meta *frameMeta) error {
	ext := len(h.options())
	if h.appHeader() != nil || int(p.ipLen)+ext+n <= p.mtu {
		s.emit(now, p, h, sl, n, meta)
		return nil
	}
	defer s.bufs.put(sl.buf)
	if ext+n > maxIPv6 {
		return syscall.EMSGSIZE
	}
	datagram := sl.buf[transportAt : transportAt+n]
	if h.loop && h.df != dfAlways {
		at := s.putHeaders(p, h, sl.buf, n)
		s.loop.put(s, p.ifc, sl.buf[at:transportAt+n], n, meta)
	}
	if h.ttl == 0 && !p.ifc.loopback {
		return nil
	}
	if h.df == dfAlways {
		return syscall.EMSGSIZE
	}
	if meta.checksum {
		completeChecksum(datagram, meta.csumOffset)
	}
	s.sendFragments6(now, p, *h, datagram)
	return nil
}

// sendFragments6 sends a packet in fragments. Each fragment has the packet's extension headers. payload
// is the part of the packet after the extension headers.
//
// RFC 8200 4.5: "The lengths of the fragments must be chosen such that the resulting fragment
// packets fit within the MTU of the path to the packet's destination(s)"; each but the last
// is "an integer multiple of 8 octets long"; all have the same identification.
func (s *Stack) sendFragments6(now tcp.Time, p *path, h ipHeader, payload []byte) {
	more := ipMore{first: wire.ProtoFragment}
	if ext := h.options(); len(ext) > 0 {
		more.ext, more.first = append(more.ext, ext...), h.more.first
		*lastNext(more.ext) = byte(wire.ProtoFragment)
	}
	at := len(more.ext) // offset of the Fragment header
	more.ext = append(more.ext, make([]byte, wire.FragmentLen)...)
	f := wire.Fragment{Next: h.proto, ID: p.nextFragmentID()}
	h.loop, h.more = false, &more
	room := (p.mtu - int(p.ipLen) - len(more.ext)) &^ 7
	for off := 0; off < len(payload); {
		n := min(room, len(payload)-off)
		f.Offset, f.More = uint16(off), off+n < len(payload)
		f.Put(more.ext[at:])
		sl := p.slot(now, n, false)
		copy(sl.buf[transportAt:], payload[off:off+n])
		s.counts.fragsSent.Add(1)
		s.emit(now, p, &h, &sl, n, &frameMeta{})
		off += n
	}
}

// lastNext returns the Next Header field of the last extension header in ext.
func lastNext(ext []byte) *byte {
	off := 0
	for {
		n := (int(ext[off+1]) + 1) * 8
		if off+n >= len(ext) {
			return &ext[off]
		}
		off += n
	}
}

// nextFragmentID returns the identification for a packet that is fragmented.
//
// RFC 8200 4.5: "The Identification must be different than that of any other fragmented packet sent
// recently with the same Source Address and Destination Address." RFC 7739 3: other hosts must not be
// able to predict the identification.
func (p *path) nextFragmentID() uint32 {
	s := p.ifc.s
	hash := s.hashAddrs(netip.AddrPortFrom(p.src, 0), netip.AddrPortFrom(p.dst, 0))
	counter, _ := s.ids.of(hash)
	return counter.Add(1) + uint32(hash>>32)
}
