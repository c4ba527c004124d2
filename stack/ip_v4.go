package stack

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

// inputIPv4 handles a received IPv4 datagram in the frame f. b begins with the IP header. tail is the rest
// of the payload of a super-frame, and otherwise empty. linkGroup says that the frame was sent to a
// broadcast or multicast address of the link. now is the time of the batch, or 0 if the clock was not read
// yet. inputIPv4 may read the clock, and returns now or the time that it has read.
func (ifc *iface) inputIPv4(now tcp.Time, f *nic.Frame, b, tail []byte, linkGroup bool) tcp.Time {
	s := ifc.s
	s.counts.ipReceived.Add(1)
	var h wire.IPv4
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
	p.proto, p.ttl, p.tos = h.Proto, h.TTL, h.TOS
	p.header, p.payload, p.tail = b[:h.HeaderLen()], payload, tail
	p.checksumOK, p.local = f.NeedsChecksum || f.ChecksumValid, f.Local
	p.broadcast = linkGroup
	if f.NeedsChecksum {
		p.csumOffset = int(f.ChecksumOffset)
	}
	if f.GSO != nic.GSONone {
		p.gso, p.gsoSize = f.GSO, int(f.GSOSize)
	}
	if r := ifc.filter(&p, linkGroup); r != wire.OK {
		p.stop(r)
		return now
	}
	if len(h.Options) > 0 {
		if r := ifc.checkOptions(&p, &h); r != wire.OK {
			p.stop(r)
			return now
		}
	}
	if h.MoreFragments || h.FragOffset != 0 {
		if len(tail) > 0 {
			p.stop(wire.BadIPv4TotalLen) // no fragment is a super-frame
			return now
		}
		s.counts.ipStopped.Add(1)
		s.inputFragment4(&p, &h)
		return p.now
	}
	s.deliver(&p)
	return p.now
}

// checkOptions returns the reason to drop a datagram because of its IP options, or wire.OK. It answers
// invalid options with a Parameter Problem.
func (ifc *iface) checkOptions(p *packet, h *wire.IPv4) wire.Reason {
	o, bad, r := wire.ParseIPv4Options(h.Options)
	switch {
	case r != wire.OK:
		// RFC 1122 3.2.2.5: "A host SHOULD generate Parameter Problem messages." RFC 1122 3.2.2 forbids
		// them for a fragment other than the first.
		if h.FragOffset == 0 {
			ifc.s.sendICMPError(p, icmpBadHeader, int(bad))
		}
		return r
	case o.SourceRoute != nil:
		// RFC 6274 3.13.2.3 and 3.13.2.4: source-routed packets should be
		// dropped; RFC 1122 3.2.1.8 (c) lets a host do so.
		return dropSourceRoute
	}
	return wire.OK
}

// stop counts a datagram that is dropped before delivery.
func (p *packet) stop(r wire.Reason) {
	p.ifc.s.counts.ipStopped.Add(1)
	p.dropRx(r)
}

// filter returns the reason to drop a datagram that is not for the host or has an invalid source, or
// wire.OK. It sets p.broadcast if the destination is a broadcast or multicast address.
func (ifc *iface) filter(p *packet, linkGroup bool) wire.Reason {
	t := ifc.s.table.Load()
	if ifc.loopback {
		// Only the host itself sends on the loopback.
		if p.dst.IsMulticast() {
			p.broadcast = true
			return ifc.filterGroup(p)
		}
		if !t.isLocal(p.dst) {
			return dropNotLocal
		}
		return wire.OK
	}
	switch {
	// RFC 1122 3.2.1.3: "A host MUST silently discard an incoming datagram
	// containing an IP source address that is invalid by the rules of this
	// section."
	case p.src.IsMulticast(), isReserved(p.src):
		return dropGroupSource
	case p.src.IsUnspecified() && !mayLackSource(p):
		return dropNoSource
	case p.src.IsLoopback(), p.dst.IsLoopback():
		// RFC 1122 3.2.1.3 (g): "Addresses of this form MUST NOT appear outside a host."
		return dropLoopbackOutside
	case t.isOwn(p.src):
		return dropOwnSource
	case t.isBroadcast(p.src):
		return dropGroupSource
	}
	if t.isOwn(p.dst) {
		// RFC 1122 3.3.6: "A host SHOULD silently discard a datagram that is
		// received via a link-layer broadcast but does not specify an IP
		// multicast or broadcast destination address."
		if linkGroup {
			return dropUnicastInBroadcast
		}
		return wire.OK
	}
	p.broadcast = true
	if p.dst.IsMulticast() {
		return ifc.filterGroup(p)
	}
	if p.dst == limitedBroadcast() || t.isBroadcastOn(p.dst, ifc) || p.dst.IsUnspecified() && p.src.IsUnspecified() {
		return wire.OK
	}
	if !linkGroup && ifc.isOffer(p) {
		return wire.OK
	}
	// RFC 1122 3.2.1.3: "A host MUST silently discard an incoming datagram that is not destined for the
	// host." The stack does not forward.
	return dropNotLocal
}

// isOffer reports whether a datagram is for a DHCP client, on an interface without an IPv4 address. Link-local
// addresses do not count. Some servers, for example passt, send to the address that they offer, although the
// client asks them to broadcast.
//
// RFC 2131 section 2: "the TCP/IP software SHOULD accept and forward to the IP layer any IP packets delivered to
// the client's hardware address before the IP address is configured".
func (ifc *iface) isOffer(p *packet) bool {
	const clientPort, fragment = 68, 0x3fff // MF and the offset
	if p.proto != wire.ProtoUDP || len(p.payload) < wire.UDPLen || binary.BigEndian.Uint16(p.payload[2:]) != clientPort ||
		binary.BigEndian.Uint16(p.header[6:])&fragment != 0 {
		return false
	}
	return !slices.ContainsFunc(ifc.list(), func(a ifaceAddr) bool {
		return a.usable() && a.addr().Is4() && !a.addr().IsLinkLocalUnicast()
	})
}

// filterGroup is filter for a datagram to a multicast group.
func (ifc *iface) filterGroup(p *packet) wire.Reason {
	joined, wanted := ifc.group.wants(p.dst, p.src)
	switch {
	case !joined:
		return dropNotJoined
	case !wanted && !p.asksForGroups():
		// The members of the group do not accept this source (RFC 3376 3: "requests for packets from
		// specific sources"). A router that queries the group is not a source of it.
		return dropSourceFilter
	}
	return wire.OK
}

// asksForGroups reports whether a packet is a message of IGMP or MLD, such as a query. p.proto and
// p.payload must be as received: the chain of IPv6 extension headers must not have been removed.
func (p *packet) asksForGroups() bool {
	if p.dst.Is4() {
		return p.proto == wire.ProtoIGMP
	}
	c, _ := wire.WalkIPv6(p.proto, p.payload)
	return c.Proto == wire.ProtoICMPv6 && c.RouterAlert
}

// mayLackSource reports whether a datagram may have the source 0.0.0.0. The rules are those of Linux.
//
// RFC 1122 3.2.1.3 (a): 0.0.0.0 is sent "as a source address as part of an initialization procedure
// by which the host learns its own IP address". RFC 2131 4.1: "DHCP messages broadcast by
// a client prior to that client obtaining its IP address must have the source address field in
// the IP header set to 0." Old hosts broadcast to 0.0.0.0 (RFC 1122 3.3.6).
func mayLackSource(p *packet) bool {
	if p.dst.IsMulticast() {
		// RFC 4541 2.1.1: a switch with IGMP snooping may send queries with "an all-zeros IP Source
		// Address". RFC 3376 4.2.13: a host that has no address yet may send reports with that source.
		return p.proto == wire.ProtoIGMP || p.dst.IsLinkLocalMulticast()
	}
	return p.dst == limitedBroadcast() || p.dst.IsUnspecified()
}

// deliver passes a complete datagram to its protocol and to raw sockets.
func (s *Stack) deliver(p *packet) {
	switch p.proto {
	case wire.ProtoTCP:
		s.inputRaw(p)
		s.inputTCP(p)
	case wire.ProtoUDP:
		s.inputRaw(p)
		s.inputUDP(p)
	case wire.ProtoICMP, wire.ProtoIGMP, wire.ProtoICMPv6:
		s.deliverControl(p)
	default:
		s.refuse(p, s.inputRaw(p))
	}
}

// deliverControl is deliver for ICMP, IGMP and ICMPv6.
func (s *Stack) deliverControl(p *packet) {
	if p.isICMPError() {
		// The error takes effect before a raw socket has it. A program that reads a Packet Too Big
		// message can then send its next datagram in fragments that fit.
		s.inputControl(p)
		s.inputRaw(p)
		return
	}
	raw := s.inputRaw(p)
	if !s.inputControl(p) {
		s.refuse(p, raw)
	}
}

// inputControl handles ICMP, IGMP and ICMPv6. It reports false if the protocol is of the other family.
func (s *Stack) inputControl(p *packet) bool {
	switch v6 := p.src.Is6(); {
	case p.proto == wire.ProtoICMPv6 && v6:
		s.inputICMPv6(p)
	case p.proto == wire.ProtoICMP && !v6:
		s.inputICMP(p)
	case p.proto == wire.ProtoIGMP && !v6:
		s.inputIGMP(p)
	default:
		return false
	}
	return true
}

// refuse drops a datagram of an unknown protocol and answers it with an ICMP error. If raw is set, a raw
// socket has received the datagram, and refuse does nothing.
func (s *Stack) refuse(p *packet, raw bool) {
	if raw || p.proto == wire.ProtoNone && p.src.Is6() {
		return // RFC 8200 4.7: No Next Header is not an error
	}
	p.drop(dropProtocol)
	pointer := 0
	if p.src.Is6() {
		// RFC 8200 4: "the ICMP Pointer field containing the offset of the unrecognized value
		// within the original packet".
		c, _ := wire.WalkIPv6(wire.Proto(p.header[wire.IPv6NextOffset]), p.header[wire.IPv6Len:])
		pointer = c.NextAt
	}
	s.sendICMPError(p, icmpProto, pointer)
}

// isUnicast reports whether a can be the address of one host.
func isUnicast(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && !isReserved(a)
}

// isNeighborAddr reports whether a can be the address of a host or router on a link.
func isNeighborAddr(a netip.Addr) bool { return isUnicast(a) && !a.IsLoopback() && !a.Is4In6() }
