package stack

import (
	"net/netip"

	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

// This file has the messages of IGMP. groupEngine decides when they are sent.

const (
	igmpTenth  = tcp.Second / 10  // unit of the Max Response Time
	igmpTOS    = 0xc0             // RFC 3376 4: "IP Precedence of Internetwork Control"
	igmpHeader = wire.IPv4Len + 4 // with the Router Alert option
)

// inputIGMP handles a received IGMP message.
func (s *Stack) inputIGMP(p *packet) {
	h, r := wire.ParseIGMP(p.payload)
	if r != wire.OK {
		p.drop(r)
		return
	}
	s.counts.igmpReceived.Add(1)
	l := &p.ifc.igmp
	if !s.groups.input(l, func(now tcp.Time) bool { return s.takeIGMP(l, p, &h, now) }) {
		p.drop(dropIGMP)
	}
}

// takeIGMP handles a message. It reports false if the host ignores the message. The engine's lock is
// held.
func (s *Stack) takeIGMP(l *groupLink, p *packet, h *wire.IGMP, now tcp.Time) bool {
	switch h.Type {
	case wire.IGMPQuery:
		// RFC 3376 9.1, against forged queries: "Hosts SHOULD ignore v2 or v3 Queries
		// without the Router-Alert option"; "Hosts SHOULD ignore v1, v2 or v3 General
		// Queries sent to a multicast address other than 224.0.0.1".
		if h.Version > 1 && !wire.RouterAlert(p.header[wire.IPv4Len:]) {
			return false
		}
		if h.Group.IsUnspecified() && p.dst != allHosts() {
			return false
		}
		s.groups.query(l, &groupQuery{
			version:    h.Version,
			group:      h.Group,
			limit:      tcp.Time(h.Tenths) * igmpTenth,
			robustness: h.Robustness,
			interval:   tcp.Time(h.Interval) * tcp.Second,
			sources:    querySources(h.Sources, 4),
		}, now)
		return true
	case wire.IGMPv1Report, wire.IGMPv2Report:
		// A report whose destination is not its group is malformed, and is ignored.
		return h.Group == p.dst && s.groups.overheard(l, h.Group, now)
	}
	return false
}

// sendIGMPv3Report sends a report of version 3. b has space for the report's header, followed by n
// records.
//
// RFC 3376 4.2.14: "Version 3 Reports are sent with an IP destination address of
// 224.0.0.22, to which all IGMPv3-capable multicast routers listen."
func (l *groupLink) sendIGMPv3Report(b []byte, n int) {
	wire.PutIGMPv3Report(b, n)
	l.sendIGMP(netip.AddrFrom4([4]byte{224, 0, 0, 22}), b)
}

// sendIGMPv2 sends a message of version 1 or 2 about a group.
func (l *groupLink) sendIGMPv2(dst netip.Addr, typ wire.IGMPType, group netip.Addr) {
	var b [wire.IGMPLen]byte
	wire.PutIGMP(b[:], typ, group)
	l.sendIGMP(dst, b[:])
}

// sendIGMP puts a message into the transmit queue. If the queue is full, sendIGMP drops the message. A
// repetition makes up for this, as it does for a message that is lost on the link.
//
// RFC 3376 4: "Every IGMP message described in this document is sent with an IP
// Time-to-Live of 1, IP Precedence of Internetwork Control (e.g., Type of Service
// 0xc0), and carries an IP Router Alert option [RFC-2113] in its IP header."
func (l *groupLink) sendIGMP(dst netip.Addr, message []byte) {
	ifc := l.ifc
	s := ifc.s
	if !ifc.tx.room() {
		s.dropFlow(dropNoReply, netip.AddrPort{}, netip.AddrPortFrom(dst, 0))
		return
	}
	// RFC 3376 4.2.13: a host without an address yet sends from 0.0.0.0.
	src := ifc.sourceFor(dst)
	if !src.IsValid() {
		src = netip.IPv4Unspecified()
	}
	p := path{ifc: ifc, src: src, dst: dst, hop: dst, group: true, mac: wordOf(wire.MulticastMAC(dst)), mtu: ifc.mtu()}
	p.makeHeader()
	now := s.now()
	sl := p.slot(now, len(message), false)
	copy(sl.buf[transportAt:], message)
	s.counts.igmpSent.Add(1)
	h := ipHeader{proto: wire.ProtoIGMP, tos: igmpTOS, ttl: 1, df: dfAlways, more: &ipMore{options: wire.RouterAlertOption()}}
	s.emit(now, &p, &h, &sl, len(message), &frameMeta{})
}
