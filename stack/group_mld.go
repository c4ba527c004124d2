package stack

import (
	"net/netip"

	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

// This file has the messages of MLD. groupEngine decides when they are sent. Versions 2 and 1 of MLD
// are the engine's versions 3 and 2.

// mldHeader is the length of the headers before a message: the IPv6 header and the Router Alert option.
const mldHeader = wire.IPv6Len + wire.RouterAlertLen

// allReporters6 is the destination of version 2 reports. RFC 9777 5.2.14: "Version 2 Multicast Listener
// Reports are sent with an IP destination address of FF02:0:0:0:0:0:0:16, to which all MLDv2-capable
// multicast routers listen."
func allReporters6() netip.Addr {
	return netip.AddrFrom16([16]byte{0xff, 0x02, 15: 0x16})
}

// inputMLD handles a received MLD message.
func (s *Stack) inputMLD(p *packet, h *wire.ICMPv6, body []byte) {
	q, r := wire.MLDQuery{}, wire.OK
	switch {
	case h.Type == wire.ICMPv6MLDQuery:
		q, r = wire.ParseMLDQuery(h.Rest, body)
	case len(body) < wire.MLDLen && h.Type == wire.ICMPv6MLDReport:
		r = wire.ShortMLD
	}
	if r != wire.OK {
		p.drop(r)
		return
	}
	s.counts.mldReceived.Add(1)
	l := &p.ifc.mld
	if !p.isMLD() || !s.groups.input(l, func(now tcp.Time) bool { return s.takeMLD(l, p, h, &q, body, now) }) {
		p.drop(dropMLD)
	}
}

// isMLD reports whether a packet has the source, the hop limit and the option that MLD requires.
//
// RFC 9777 6.2: "Upon reception of an MLD message that contains a Query, the node checks if the source
// address of the message is a valid link-local address, if the Hop Limit is set to 1, and if the Router
// Alert option is present in the Hop-by-Hop Options header of the IPv6 packet. If any of these checks
// fails, the packet is dropped."
func (p *packet) isMLD() bool {
	if !isLinkLocal6(p.src) || p.ttl != 1 {
		return false
	}
	c, _ := wire.WalkIPv6(wire.Proto(p.header[wire.IPv6NextOffset]), p.header[wire.IPv6Len:])
	return c.RouterAlert
}

// takeMLD handles a message. It reports false if the host ignores the message. The engine's lock is
// held. q is the parsed query if h.Type is MLDQuery.
func (s *Stack) takeMLD(l *groupLink, p *packet, h *wire.ICMPv6, q *wire.MLDQuery, body []byte, now tcp.Time) bool {
	switch h.Type {
	case wire.ICMPv6MLDQuery:
		// RFC 9777 5.1.15: "General Queries are sent to the link-scope all-nodes multicast address".
		// As in IGMP, a General Query to another address may be forged and is ignored.
		if q.Group.IsUnspecified() && p.dst != allNodes6() {
			return false
		}
		s.groups.query(l, &groupQuery{
			version:    q.Version + 1, // the engine's version
			group:      q.Group,
			limit:      tcp.Time(q.Millis) * tcp.Millisecond,
			robustness: q.Robustness,
			interval:   tcp.Time(q.Interval) * tcp.Second,
			sources:    querySources(q.Sources, 16),
		}, now)
		return true
	case wire.ICMPv6MLDReport:
		// A report whose destination is not its group is malformed, and is ignored.
		group := netip.AddrFrom16([16]byte(body[:16]))
		return group == p.dst && s.groups.overheard(l, group, now)
	}
	return false
}

// sendMLDv2Report sends a report of MLD version 2. b has space for the report's header, followed by n
// records.
func (l *groupLink) sendMLDv2Report(b []byte, n int) {
	l.sendMLD(allReporters6(), wire.ICMPv6{Type: wire.ICMPv6MLDv2Report, Rest: uint32(n)}, b[wire.GroupReportLen:])
}

// sendMLDv1 sends a message of version 1 about a group.
func (l *groupLink) sendMLDv1(dst netip.Addr, typ wire.ICMPv6Type, group netip.Addr) {
	l.sendMLD(dst, wire.ICMPv6{Type: typ}, group.AsSlice())
}

// sendMLD puts a message into the transmit queue. If the queue is full, sendMLD drops the message. A
// repetition makes up for this, as it does for a message that is lost on the link.
//
// RFC 9777 5: "All MLDv2 messages described in this document MUST be sent with a link-local IPv6 Source
// Address, an IPv6 Hop Limit of 1, and an IPv6 Router Alert option [RFC2711] in a Hop-by-Hop
// Options header."
func (l *groupLink) sendMLD(dst netip.Addr, h wire.ICMPv6, body []byte) {
	ifc := l.ifc
	s := ifc.s
	if !ifc.tx.room() || !ifc.carries6() {
		s.dropFlow(dropNoReply, netip.AddrPort{}, netip.AddrPortFrom(dst, 0))
		return
	}
	src := ifc.linkLocal6()
	l.unsourced = l.unsourced || src.IsUnspecified() // addressed then repeats the reports
	p := path{ifc: ifc, src: src, dst: dst, hop: dst, group: true, mac: wordOf(wire.MulticastMAC(dst)), mtu: ifc.mtu()}
	p.makeHeader()
	now := s.now()
	n := wire.ICMPLen + len(body)
	sl := p.slot(now, n, false)
	h.Put(src, dst, sl.buf[transportAt:], body)
	s.counts.mldSent.Add(1)
	var alert [wire.RouterAlertLen]byte
	wire.PutRouterAlert(alert[:], wire.ProtoICMPv6)
	ih := ipHeader{proto: wire.ProtoICMPv6, ttl: 1, df: dfAlways, more: &ipMore{ext: alert[:], first: wire.ProtoHopByHop}}
	s.emit(now, &p, &ih, &sl, n, &frameMeta{})
}

// linkLocal6 returns a usable link-local address of the interface, or the unspecified address.
//
// RFC 9777 5.2.13: a report is sent from a link-local address, "or the unspecified address (::), if the
// sending interface has not acquired a valid link-local address yet." RFC 3590 3 has the same rule for
// version 1.
func (ifc *iface) linkLocal6() netip.Addr {
	for _, a := range ifc.list() {
		if isLinkLocal6(a.addr()) && a.usable() {
			return a.addr()
		}
	}
	return netip.IPv6Unspecified()
}
