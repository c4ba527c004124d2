package stack

import (
	"syscall"

	"github.com/usernet/usernet/stack/wire"
)

// maxICMPError6 is the largest size of an ICMPv6 error, with its IP header. RFC 4443 2.4 (c): an error
// "MUST include as much of the IPv6 offending (invoking) packet [...] as possible without making the
// error message packet exceed the minimum IPv6 MTU".
const maxICMPError6 = wire.MinIPv6MTU

// exceededReassembly6 is the code of Time Exceeded for a reassembly timeout (RFC 4443 3.3).
const exceededReassembly6 = 1

// inputICMPv6 handles a received ICMPv6 message.
func (s *Stack) inputICMPv6(p *packet) {
	h, body, r := wire.ParseICMPv6(p.src, p.dst, p.payload)
	if r != wire.OK {
		p.drop(r)
		return
	}
	s.counts.icmp6Received.Add(1)
	switch h.Type {
	case wire.ICMPv6Echo:
		s.echo6(p, &h, body)
	case wire.ICMPv6MLDQuery, wire.ICMPv6MLDReport, wire.ICMPv6MLDDone, wire.ICMPv6MLDv2Report:
		s.inputMLD(p, &h, body)
	case wire.ICMPv6EchoReply:
		// Only raw sockets use echo replies, and they have received this reply already.
	case wire.ICMPv6RouterSol, wire.ICMPv6RouterAdv, wire.ICMPv6NeighborSol, wire.ICMPv6NeighborAdv, wire.ICMPv6Redirect:
		s.inputND(p, &h, body)
	default:
		if h.IsError() {
			s.inputICMPError6(p, &h, body)
			return
		}
		// RFC 4443 2.4 (b): "If an ICMPv6 informational message of unknown type is
		// received, it MUST be silently discarded."
		p.drop(dropICMPType)
	}
}

// echo6 answers an Echo Request whose source is unicast.
//
// RFC 4443 4.2: "Every node MUST implement an ICMPv6 Echo responder function"; "The data
// received in the ICMPv6 Echo Request message MUST be returned entirely and unmodified in the ICMPv6
// Echo Reply message"; "An Echo Reply SHOULD be sent in response to an Echo Request message sent to an
// IPv6 multicast or anycast address." As on Linux, the reply to a multicast request has an address of
// the host as its source.
func (s *Stack) echo6(p *packet, h *wire.ICMPv6, body []byte) {
	if !isUnicast(p.src) {
		p.drop(dropEchoBroadcast)
		return
	}
	n := wire.ICMPLen + len(body)
	buf := s.bufs.get(transportAt + n)
	copy(buf[transportAt+wire.ICMPLen:], body)
	s.echoed.add(p.src, wire.IPv6Len+n, s.now())
	s.sendICMPv6(p, wire.ICMPv6{Type: wire.ICMPv6EchoReply, Rest: h.Rest}, p.tos, buf, n)
}

// sendICMPv6 sends an ICMPv6 message to the source of p. The message is the n bytes at buf[transportAt:].
// The caller has written the body, and sendICMPv6 writes the header h. It takes ownership of buf.
//
// RFC 4443 2.2: "If the message is a response to a message sent to one of the node's unicast
// addresses, the Source Address of the reply MUST be that same address". If p was sent to a multicast
// address, routeOver chooses the source.
func (s *Stack) sendICMPv6(p *packet, h wire.ICMPv6, tos uint8, buf []byte, n int) {
	src, zone := p.dst, p.zone()
	if src.IsMulticast() {
		out, err := s.routeOver(p.src, unspecifiedOf(p.src), zone)
		if err != nil {
			s.bufs.put(buf)
			p.drop(dropNoReply)
			return
		}
		src = out.src
	}
	h.Put(src, p.src, buf[transportAt:], buf[transportAt+wire.ICMPLen:transportAt+n])
	s.counts.icmp6Sent.Add(1)
	s.reply(p.src, src, zone, ipHeader{proto: wire.ProtoICMPv6, tos: tos}, buf, n)
}

// v6 returns the ICMPv6 header of an error of kind k.
func (k icmpKind) v6(pointer int) wire.ICMPv6 {
	param := func(code uint8) wire.ICMPv6 {
		return wire.ICMPv6{Type: wire.ICMPv6ParamProblem, Code: code, Rest: uint32(pointer)}
	}
	switch k {
	case icmpPort:
		return wire.ICMPv6{Type: wire.ICMPv6Unreachable, Code: wire.Unreach6Port}
	case icmpReassembly:
		return wire.ICMPv6{Type: wire.ICMPv6TimeExceeded, Code: exceededReassembly6}
	case icmpProto:
		return param(wire.ParamNextHeader)
	case icmpOption, icmpOptionToGroup:
		return param(wire.ParamOption)
	case icmpFirstChain:
		return param(wire.ParamFirstChain)
	}
	return param(wire.ParamHeader)
}

// sendICMPError6 sends an ICMPv6 error about p. sendICMPError has checked that the error may be sent.
func (s *Stack) sendICMPError6(p *packet, k icmpKind, pointer int) {
	const most = maxICMPError6 - wire.IPv6Len - wire.ICMPLen
	buf := s.bufs.get(transportAt + wire.ICMPLen + min(len(p.header)+len(p.payload), most))
	n := p.quote(buf[transportAt+wire.ICMPLen:])
	s.sendICMPv6(p, k.v6(pointer), 0, buf, wire.ICMPLen+n)
}

// isICMPError6 is isICMPError for ICMPv6. A Redirect also counts as an error.
//
// RFC 4443 2.4 (e): "An ICMPv6 error message MUST NOT be originated as a result of receiving": "An
// ICMPv6 error message", and "An ICMPv6 redirect message".
func isICMPError6(message []byte) bool {
	return len(message) == 0 || message[0] < 128 || wire.ICMPv6Type(message[0]) == wire.ICMPv6Redirect
}

// inputICMPError6 handles a received ICMPv6 error. It passes the error to the socket that sent the quoted
// packet.
func (s *Stack) inputICMPError6(p *packet, h *wire.ICMPv6, body []byte) {
	q, r := wire.ParseQuoted6(body)
	if r != wire.OK {
		p.drop(r)
		return
	}
	// The quoted packet must have come from this host, so its source is the address to which the error
	// was sent.
	if p.broadcast || q.Src != p.dst || q.Transport == nil || !isUnicast(q.Dst) {
		p.drop(dropBadICMPError)
		return
	}
	e := icmpError{local: q.Src, remote: q.Dst, transport: q.Transport, from: p.src, zone: p.zone(), received: receivedError{p.ifc, p.header, p.payload}}
	if isLinkLocal6(q.Dst) && e.zone == 0 {
		e.zone = p.ifc.index
	}
	e.errno, e.hard = ICMPv6Errno(h.Type, h.Code)
	e.reassembly = h.Type == wire.ICMPv6TimeExceeded && h.Code == exceededReassembly6
	if e.errno == syscall.EMSGSIZE {
		// RFC 8201 4: "If a node receives a Packet Too Big message reporting a next-hop MTU that is
		// less than the IPv6 minimum link MTU, it must discard it."
		if e.mtu = int(min(h.Rest, maxIPv6)); e.mtu < wire.MinIPv6MTU {
			p.drop(dropBadICMPError)
			return
		}
	}
	s.counts.icmp6Errors.Add(1)
	s.deliverError(q.Proto, &e)
}

// ICMPv6Errno is ICMPErrno for ICMPv6, with the errnos of Linux (icmpv6_err_convert). The errno of an
// error of unknown type is EPROTO, because RFC 4443 2.4 (a) requires that such errors are passed to the
// transport protocol.
func ICMPv6Errno(typ wire.ICMPv6Type, code uint8) (errno syscall.Errno, hard bool) {
	switch typ {
	case wire.ICMPv6TooBig:
		return syscall.EMSGSIZE, false
	case wire.ICMPv6TimeExceeded:
		return syscall.EHOSTUNREACH, false
	case wire.ICMPv6ParamProblem:
		return syscall.EPROTO, true
	case wire.ICMPv6Unreachable:
		switch code {
		case wire.Unreach6NoRoute:
			return syscall.ENETUNREACH, false
		case wire.Unreach6Prohibited, wire.Unreach6SourcePolicy, wire.Unreach6RejectRoute:
			return syscall.EACCES, true
		case wire.Unreach6BeyondScope, wire.Unreach6Address:
			return syscall.EHOSTUNREACH, false
		case wire.Unreach6Port:
			return syscall.ECONNREFUSED, true
		}
		return syscall.EPROTO, true
	}
	return syscall.EPROTO, false
}
