package stack

import (
	"encoding/binary"
	"net/netip"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

// inputIPv6 handles a received IPv6 packet. The parameters and the result are those of inputIPv4.
func (ifc *iface) inputIPv6(now tcp.Time, f *nic.Frame, b, tail []byte, linkGroup bool) tcp.Time {
	s := ifc.s
	s.counts.ip6Received.Add(1)
	scope := uint16(0)
	if ifc.loopback && len(b) >= wire.IPv6Len {
		scope = takeScope(b[8:40])
	}
	var h wire.IPv6
	payload, r := h.ParseHead(b, len(tail))
	if r != wire.OK {
		s.counts.ipStopped.Add(1)
		ifc.drop(r, f)
		return now
	}
	var p packet // set field by field: this needs less stack
	p.ifc, p.now = ifc, now
	p.frame, p.at = f.Head, uint16(len(f.Head)-len(b))
	p.src, p.dst = h.Src, h.Dst
	p.proto, p.ttl, p.tos = h.Next, h.HopLimit, h.TrafficClass
	p.header, p.payload, p.tail = b[:wire.IPv6Len], payload, tail
	if ifc.linkLen > 0 {
		p.link = wire.MAC(f.Head[len(p.link):])
	}
	p.checksumOK, p.local = f.NeedsChecksum || f.ChecksumValid, f.Local
	p.broadcast = linkGroup
	p.plain, p.scope = plain6(b), scope
	if f.NeedsChecksum {
		p.csumOffset = int(f.ChecksumOffset)
	}
	if f.GSO != nic.GSONone {
		p.gso, p.gsoSize = f.GSO, int(f.GSOSize)
	}
	if r := ifc.filter6(&p, linkGroup); r != wire.OK {
		p.stop(r)
		return now
	}
	if (p.proto == wire.ProtoTCP || p.proto == wire.ProtoUDP) && (p.plain || !p.src.IsUnspecified()) {
		s.deliver(&p) // most packets have no extension headers, and need no stack for input6
	} else {
		s.input6(&p)
	}
	return p.now
}

// input6 handles a packet from its first extension header on. p.payload must be all that follows the IPv6
// header, and filter6 must have accepted the addresses.
func (s *Stack) input6(p *packet) {
	whole := p.header[:len(p.header)+len(p.payload)] // the payload follows the header in memory
	c, r := wire.WalkIPv6(p.proto, p.payload)
	if r != wire.OK {
		p.stop(r)
		s.answerChain(p, &c, whole)
		return
	}
	p.proto = c.Proto
	p.header, p.payload = whole[:len(p.header)+c.Offset], p.payload[c.Offset:]
	switch {
	case p.src.IsUnspecified() && p.proto != wire.ProtoICMPv6:
		// RFC 4291 2.5.2: the unspecified address "indicates the absence of an address".
		p.stop(dropNoSource)
	case c.Fragmented && len(p.tail) > 0:
		p.stop(wire.BadIPv6PayloadLen) // no fragment is a super-frame
	case c.Fragmented:
		s.counts.ipStopped.Add(1)
		s.inputFragment6(p, &c)
	default:
		s.deliver(p)
	}
}

// answerChain sends the Parameter Problem that an invalid chain of extension headers requires, if any.
// whole is the packet from its IPv6 header on.
func (s *Stack) answerChain(p *packet, c *wire.Chain, whole []byte) {
	if c.Answer == wire.AnswerNone {
		return
	}
	// An ICMP error at the end of the chain gets no answer, even if the chain is invalid.
	if q, r := wire.ParseQuoted6(whole); r == wire.OK && q.Proto == wire.ProtoICMPv6 && isICMPError6(q.Transport) {
		return
	}
	k := icmpBadHeader
	switch {
	case c.Code == wire.ParamNextHeader:
		k = icmpProto
	case c.Code == wire.ParamFirstChain:
		k = icmpFirstChain
	case c.Code == wire.ParamOption && c.Answer == wire.AnswerAlways:
		k = icmpOptionToGroup
	case c.Code == wire.ParamOption:
		k = icmpOption
	}
	s.sendICMPError(p, k, int(c.Pointer))
}

// filter6 is filter for IPv6: it returns the reason to drop a packet because of its addresses, or wire.OK.
func (ifc *iface) filter6(p *packet, linkGroup bool) wire.Reason {
	if !p.plain {
		return ifc.filterSpecial6(p, linkGroup)
	}
	t := ifc.s.table.Load()
	switch {
	case !ifc.loopback && t.isOwn(p.src):
		return dropOwnSource
	case !t.isOwn(p.dst):
		return dropNotLocal
	case !ifc.loopback && linkGroup:
		return dropUnicastInBroadcast
	}
	return wire.OK
}

// plain6 reports whether each address of an IPv6 header is in 2000::/3 (global unicast, RFC 4291 2.5.4) or
// fc00::/7 (unique local, RFC 4193). For such addresses filter6 needs no rule of filterSpecial6, and they
// have no zone. Without this test, the rules took 7 % of the CPU time of a datagram over an in-memory link.
func plain6(header []byte) bool {
	src, dst := header[8], header[24] // the first bytes of the addresses
	return (src>>5 == 1 || src>>1 == 0xfc>>1) && (dst>>5 == 1 || dst>>1 == 0xfc>>1)
}

// filterSpecial6 is filter6 for addresses of any kind.
func (ifc *iface) filterSpecial6(p *packet, linkGroup bool) wire.Reason {
	t := ifc.s.table.Load()
	group := p.dst.IsMulticast()
	// The stack's tables store IPv4 addresses as IPv4-mapped addresses, so a packet with an IPv4-mapped
	// address would reach IPv4 connections. RFC 4942 2.2: such packets should be dropped.
	if p.src.Is4In6() || p.dst.Is4In6() {
		return dropInvalidIPv6
	}
	if ifc.loopback {
		// Only the host itself sends on the loopback.
		switch {
		case group:
			p.broadcast = true
			return ifc.filterGroup(p)
		case !t.isLocal(p.dst):
			return dropNotLocal
		}
		return wire.OK
	}
	switch {
	case p.src.IsMulticast():
		// RFC 4291 2.7: "Multicast addresses must not be used as source addresses in IPv6
		// packets or appear in any Routing header."
		return dropGroupSource
	case p.src.IsLoopback(), p.dst.IsLoopback():
		// RFC 4291 2.5.3: "An IPv6 packet with a destination address of loopback must
		// never be sent outside of a single node"; one "received on an interface [...]
		// must be dropped".
		return dropLoopbackOutside
	case hasSubnet(p.src), hasSubnet(p.dst):
		return dropInvalidIPv6
	case ifc.isOwn6(t, p.src) && !p.isNAToAllNodes():
		return dropOwnSource
	}
	if group {
		p.broadcast = true
		if p.dst.As16()[1]&0xf <= 1 {
			// RFC 4291 2.7: a packet with the reserved scope 0 "must be silently dropped". Scope 1:
			// "Interface-Local scope spans only a single interface on a node".
			return dropLoopbackOutside
		}
		return ifc.filterGroup(p)
	}
	switch {
	case !ifc.isOwn6(t, p.dst):
		return dropNotLocal
	case linkGroup:
		return dropUnicastInBroadcast
	}
	return wire.OK
}

// isOwn6 reports whether a is an address of the host. A link-local address must be one of this interface.
func (ifc *iface) isOwn6(t *routeTable, a netip.Addr) bool {
	if isLinkLocal6(a) {
		return ifc.owns(a)
	}
	return t.isOwn(a)
}

// hasSubnet reports whether a is a link-local address whose bits 16 to 31 are not zero. The table of
// connections needs these bits for the index of the interface: see tuple.setZone.
//
// RFC 4291 2.5.6: in a link-local address, 54 zero bits follow the first ten bits.
func hasSubnet(a netip.Addr) bool {
	if !isLinkLocal6(a) {
		return false
	}
	b := a.As16()
	return b[2] != 0 || b[3] != 0
}

// zone returns the index of the packet's interface if the source or the destination is link-local, else 0.
func (p *packet) zone() int {
	if p.src.Is4() {
		return 0
	}
	return p.zone6()
}

// zone6 is zone for an IPv6 packet.
func (p *packet) zone6() int {
	if p.plain {
		return 0
	}
	local := isLinkLocal6(p.dst)
	switch {
	case !local && !isLinkLocal6(p.src):
		return 0
	case !p.ifc.loopback:
		return p.ifc.index
	case p.scope != 0:
		return int(p.scope) // the host has sent the packet to itself
	}
	// A raw socket wrote the IPv6 header of the packet. The interface is the one that has the address.
	a := p.src
	if local {
		a = p.dst
	}
	if ifc := p.ifc.s.ifaceWith(a); ifc != nil {
		return ifc.index
	}
	return 0
}

// The loopback carries packets between link-local addresses of all interfaces, and two interfaces may have
// the same address. So on the loopback, the header has the index of the interface in bits 16 to 31 of a
// link-local address, which are zero otherwise. takeScope removes the index from the header before any other
// code sees the packet. The parameter addrs of putScope and takeScope is the source address of the header,
// followed by the destination address.

// putScope stores the index in each link-local address of a header.
func putScope(addrs *[32]byte, index uint16) {
	for at := 0; at < len(addrs); at += 16 {
		if addrs[at] == 0xfe && addrs[at+1]&0xc0 == 0x80 {
			binary.BigEndian.PutUint16(addrs[at+2:], index)
		}
	}
}

// takeScope returns the index in the link-local addresses of a header, and sets it to zero there.
func takeScope(addrs []byte) (index uint16) {
	for at := 0; at < len(addrs); at += 16 {
		if addrs[at] == 0xfe && addrs[at+1]&0xc0 == 0x80 {
			index = binary.BigEndian.Uint16(addrs[at+2:])
			addrs[at+2], addrs[at+3] = 0, 0
		}
	}
	return index
}

// inputLooped6 is inputLooped for IPv6.
func (s *Stack) inputLooped6(l *looped) {
	h, payload, r := wire.ParseIPv6(l.buf)
	if r != wire.OK {
		(&packet{ifc: l.ifc, header: l.buf}).drop(r)
		return
	}
	s.counts.ip6Received.Add(1)
	s.input6(&packet{
		ifc: l.ifc, src: h.Src, dst: h.Dst, proto: h.Next, ttl: h.HopLimit, tos: h.TrafficClass,
		header: l.buf[:wire.IPv6Len], payload: payload,
		checksumOK: true, csumOffset: l.csumOffset, broadcast: true,
	})
}
