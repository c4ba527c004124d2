package stack

import (
	"net/netip"

	"github.com/usernet/usernet/stack/wire"
)

// This file sends and receives the messages of Neighbor Discovery (RFC 4861). neighborTable keeps the
// neighbour entries, and autoconf keeps the configuration that routers advertise.

// allRouters6 returns the multicast address of all routers on a link (RFC 4291 2.7.1).
func allRouters6() netip.Addr { return netip.IPv6LinkLocalAllRouters() }

// inputND handles a message of Neighbor Discovery.
func (s *Stack) inputND(p *packet, h *wire.ICMPv6, body []byte) {
	s.counts.ndReceived.Add(1)
	r := p.checkND(h)
	if r == wire.OK {
		switch h.Type {
		case wire.ICMPv6NeighborSol:
			r = p.ifc.inputNeighborSol(p, body)
		case wire.ICMPv6NeighborAdv:
			r = p.ifc.inputNeighborAdv(p, h, body)
		case wire.ICMPv6RouterSol:
			r = p.ifc.inputRouterSol(p, body)
		case wire.ICMPv6RouterAdv:
			r = p.ifc.inputRouterAdv(p, h, body)
		case wire.ICMPv6Redirect:
			r = p.ifc.inputRedirect(p, body)
		default:
			r = dropICMPType
		}
	}
	if r != wire.OK {
		p.drop(r)
	}
}

// checkND checks a packet by the rules for all messages of Neighbor Discovery. It returns the reason to
// drop the packet, or wire.OK.
//
// RFC 4861 6.1, 7.1 and 8.1: "The IP Hop Limit field has a value of 255, i.e., the packet could not
// possibly have been forwarded by a router"; "ICMP Code is 0". RFC 6980 5: "Nodes MUST silently
// ignore the following Neighbor Discovery [...] messages if the packets carrying them include an
// IPv6 Fragmentation Header".
func (p *packet) checkND(h *wire.ICMPv6) wire.Reason {
	switch {
	case p.ifc.linkLen == 0 && h.Type != wire.ICMPv6RouterSol && h.Type != wire.ICMPv6RouterAdv:
		return dropICMPType // a link without link addresses has no neighbour entries
	case p.ttl != wire.NDHopLimit:
		return dropNDHopLimit
	case h.Code != 0:
		return wire.BadND
	case p.fragmented():
		return dropNDFragment
	}
	return wire.OK
}

// fragmented reports whether an IPv6 packet has a fragment header, even one of an atomic fragment.
func (p *packet) fragmented() bool {
	next, b := wire.Proto(p.header[wire.IPv6NextOffset]), p.header[wire.IPv6Len:]
	for next != wire.ProtoFragment {
		if len(b) < 8 { // no extension header is shorter, so b has none
			return false
		}
		next, b = wire.Proto(b[0]), b[min((int(b[1])+1)*8, len(b)):]
	}
	return true
}

// isND reports whether an IPv6 packet is a message of Neighbor Discovery.
func (p *packet) isND() bool {
	return p.proto == wire.ProtoICMPv6 && len(p.payload) > 0 &&
		wire.ICMPv6Type(p.payload[0]) >= wire.ICMPv6RouterSol && wire.ICMPv6Type(p.payload[0]) <= wire.ICMPv6Redirect
}

// isNAToAllNodes reports whether an IPv6 packet is a Neighbor Advertisement to all nodes. filterSpecial6
// accepts it even if its source is an address of the host, because another node may use that address too.
func (p *packet) isNAToAllNodes() bool {
	return p.dst == allNodes6() && p.proto == wire.ProtoICMPv6 && len(p.payload) > 0 &&
		wire.ICMPv6Type(p.payload[0]) == wire.ICMPv6NeighborAdv
}

// isStation reports whether mac can be the link address of another station on the link.
func (ifc *iface) isStation(mac wire.MAC) bool {
	return !mac.IsMulticast() && mac != (wire.MAC{}) && mac != ifc.mac()
}

// inputNeighborSol answers a Neighbor Solicitation (RFC 4861 7.2.3 and 7.2.4).
func (ifc *iface) inputNeighborSol(p *packet, body []byte) wire.Reason {
	ns, r := wire.ParseNeighborSol(body)
	if r != wire.OK {
		return r
	}
	// RFC 4861 7.1.1: "If the IP source address is the unspecified address, the IP destination address
	// is a solicited-node multicast address", and "there is no source link-layer address option
	// in the message."
	detects := p.src.IsUnspecified() // the sender does Duplicate Address Detection for the target
	// SolicitedNode maps a solicited-node multicast address, and no other, to itself.
	if detects && (ns.HasSource || p.dst != wire.SolicitedNode(p.dst)) {
		return wire.BadND
	}
	if ns.HasSource && !ifc.isStation(ns.Source) {
		return dropBadNDSender
	}
	a, ok := ifc.addr(ns.Target)
	switch {
	case !ok || a.state == AddrDuplicate:
		return dropNDTarget
	case detects && a.dad != nil: // this host does Duplicate Address Detection for the target, too
		return ifc.s.contest(p, &ns)
	case a.state == AddrTentative:
		// RFC 4862 5.4.3: "If the source address of the Neighbor Solicitation is a unicast address,
		// the sender is performing address resolution on the target; the solicitation should be
		// silently ignored."
		return dropTentative
	}
	var flags uint32
	if a.state != AddrOptimistic {
		// RFC 4429 3.3: for an optimistic address, the node MUST "clear the 'Override' flag".
		flags = wire.NAOverride
	}
	if detects {
		// RFC 4861 7.2.4: "If the source of the solicitation is the unspecified address, the node MUST
		// set the Solicited flag to zero and multicast the advertisement to the all-nodes address.
		// Otherwise, the node MUST set the Solicited flag to one and unicast the advertisement to the
		// Source Address of the solicitation."
		ifc.advertise(ns.Target, allNodes6(), nil, flags)
		return wire.OK
	}
	if ns.HasSource {
		if ifc.mayLearn(p.src) {
			ifc.nd().learn(p.src, ns.Source, updateMAC|updateOverride|updateCreate)
		} else {
			p.drop(dropOffLinkND)
		}
		ifc.advertise(ns.Target, p.src, &ns.Source, flags|wire.NASolicited)
		return wire.OK
	}
	// The sender has not included its link address, because its IP address is optimistic. The host must
	// not resolve that IP address: if both nodes had optimistic addresses, each would wait for the other.
	// So the answer goes to the source MAC of the frame, and no neighbour entry is made.
	var mac *wire.MAC
	if ifc.isStation(p.link) {
		mac = &p.link
	}
	ifc.advertise(ns.Target, p.src, mac, flags|wire.NASolicited)
	return wire.OK
}

// mayLearn reports whether a solicitation from src may create or change the entry of src. It may not if src
// is not on the link: the sender gets an answer, but no entry. Otherwise forged solicitations could fill
// the table, or take over an address of another network (VU#472363).
func (ifc *iface) mayLearn(src netip.Addr) bool {
	return isLinkLocal6(src) || ifc.s.table.Load().onLink(ifc, src)
}

// inputNeighborAdv handles a Neighbor Advertisement (RFC 4861 7.2.5).
func (ifc *iface) inputNeighborAdv(p *packet, h *wire.ICMPv6, body []byte) wire.Reason {
	na, r := wire.ParseNeighborAdv(body)
	if r != wire.OK {
		return r
	}
	// RFC 4861 7.1.2: "If the IP Destination Address is a multicast address the Solicited flag is
	// zero."
	if p.dst.IsMulticast() && h.Rest&wire.NASolicited != 0 {
		return wire.BadND
	}
	a, own := ifc.addr(na.Target)
	// An advertisement for a tentative address proves a duplicate, whatever its link address is.
	if na.HasLink && !ifc.isStation(na.Link) && !(own && a.state == AddrTentative) {
		return dropBadNDSender // or a copy of a message that this host has sent
	}
	if own {
		f := p.receivedFrame()
		// The detection may have ended since addr returned a. giveUpDuplicate then returns false.
		given := a.dad != nil && ifc.s.giveUpDuplicate(ifc, na.Target, na.Link, &f)
		if !given && ifc.owns(na.Target) {
			ifc.conflict(na.Target, na.Link, &f)
		}
		return wire.OK
	}
	how := updateHost
	if h.Rest&wire.NARouter != 0 {
		how = updateRouter
	}
	if na.HasLink {
		how |= updateMAC
	}
	if h.Rest&wire.NASolicited != 0 {
		how |= updateSolicited
	}
	if h.Rest&wire.NAOverride != 0 {
		how |= updateOverride
	}
	if ifc.nd().learn(na.Target, na.Link, how) {
		ifc.s.forgetRouter(ifc, na.Target)
	}
	return wire.OK
}

// solicit sends a Neighbor Solicitation for target from src. If unicast is set, it goes to target, whose
// link address is mac, else to the solicited-node multicast address of target.
func (ifc *iface) solicit(target, src netip.Addr, mac wire.MAC, unicast bool) {
	if !src.Is6() {
		return // there is no source address
	}
	dst := target
	if !unicast {
		dst = wire.SolicitedNode(target)
		mac = wire.MulticastMAC(dst)
	}
	ns := wire.NeighborSol{Target: target, Source: ifc.mac(), HasSource: ifc.includesLinkAddr(src)}
	ifc.sendND(wire.ICMPv6NeighborSol, 0, src, dst, &mac, ns.Append(nil))
}

// isOptimistic reports whether a is an optimistic address of the interface.
func (ifc *iface) isOptimistic(a netip.Addr) bool {
	x, ok := ifc.addr(a)
	return ok && x.state == AddrOptimistic
}

// settled6 returns an IPv6 address of the interface that is neither tentative nor optimistic, preferably a
// link-local address. It returns an invalid address if there is none.
func (ifc *iface) settled6() (found netip.Addr) {
	for _, a := range ifc.list() {
		if a.addr().Is6() && (a.state == AddrPreferred || a.state == AddrDeprecated) && (!found.IsValid() || isLinkLocal6(a.addr())) {
			found = a.addr()
		}
	}
	return found
}

// includesLinkAddr reports whether a message from src has to include the interface's link address.
//
// RFC 4861 4.3: the source link-layer address option "MUST NOT be included when the source IP
// address is the unspecified address. Otherwise, [...] this option MUST be included in multicast
// solicitations and SHOULD be included in unicast solicitations." RFC 4429 3.2: a node "MUST NOT
// use an Optimistic Address as the source address of a Neighbor Solicitation" with this option.
func (ifc *iface) includesLinkAddr(src netip.Addr) bool {
	a, ok := ifc.addr(src)
	return ok && a.state != AddrOptimistic && ifc.linkLen > 0
}

// advertise sends a Neighbor Advertisement for target, an address of the interface, to dst. mac is the link
// address of dst, or nil if it is not known. flags has the Solicited and the Override flag; advertise adds
// the Router flag.
//
// RFC 4861 4.4: the target link-layer address option "MUST be included on link layers that have
// addresses when responding to multicast solicitations. When responding to a unicast Neighbor
// Solicitation this option SHOULD be included."
func (ifc *iface) advertise(target, dst netip.Addr, mac *wire.MAC, flags uint32) {
	na := wire.NeighborAdv{Target: target, Link: ifc.mac(), HasLink: true}
	if ifc.isRouter.Load() {
		flags |= wire.NARouter
	}
	ifc.sendND(wire.ICMPv6NeighborAdv, flags, target, dst, mac, na.Append(nil))
}

// announce6 sends an unsolicited Neighbor Advertisement for an address to all nodes of the link.
//
// RFC 4861 7.2.6: "a node MAY send up to MAX_NEIGHBOR_ADVERTISEMENT unsolicited Neighbor
// Advertisement messages to the all-nodes multicast address". An address in Duplicate Address Detection is
// not announced: its probes show that it is in use.
func (ifc *iface) announce6(a netip.Addr) {
	if x, ok := ifc.addr(a); ok && x.dad == nil && x.usable() {
		ifc.advertise(a, allNodes6(), nil, wire.NAOverride)
	}
}

// sendND queues a message of Neighbor Discovery. rest is the word after the checksum. mac is the link
// address of dst; if it is nil, sendND resolves a unicast dst. If the queue is full, the message is
// dropped.
func (ifc *iface) sendND(typ wire.ICMPv6Type, rest uint32, src, dst netip.Addr, mac *wire.MAC, body []byte) {
	if ifc.down6() {
		return
	}
	if !ifc.tx.room() {
		ifc.stats.TxDropped.Add(1)
		return
	}
	s := ifc.s
	p := path{ifc: ifc, src: src, dst: dst, hop: dst, group: dst.IsMulticast(), mtu: ifc.mtu()}
	switch {
	case mac != nil:
		p.mac = wordOf(*mac)
	case p.group:
		p.mac = wordOf(wire.MulticastMAC(dst))
	default:
		p.neigh = ifc.nd().get(dst)
	}
	p.makeHeader()
	now := s.now()
	n := wire.ICMPLen + len(body)
	sl := p.slot(now, n, false)
	h := wire.ICMPv6{Type: typ, Rest: rest}
	h.Put(src, dst, sl.buf[transportAt:], body)
	s.counts.ndSent.Add(1)
	s.emit(now, &p, &ipHeader{proto: wire.ProtoICMPv6, ttl: wire.NDHopLimit}, &sl, n, &frameMeta{})
}
