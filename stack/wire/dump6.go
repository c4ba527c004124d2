package wire

import (
	"encoding/binary"
	"net/netip"
	"strconv"
)

// appendIPv6 appends an IPv6 packet.
func appendIPv6(dst []byte, b []byte) []byte {
	dst = append(dst, "IPv6 "...)
	h, payload, r := ParseIPv6(b)
	if r != OK {
		return appendBad(dst, r, b)
	}
	c, r := WalkIPv6(h.Next, payload)
	rest := payload[c.Offset:]
	switch {
	case r != OK:
		dst = appendPair(dst, h.Src, h.Dst)
		dst = appendBad(dst, r, rest)
	case c.Fragmented && (c.Fragment.Offset != 0 || !CompleteChain(c.Proto, rest)):
		dst = appendPair(dst, h.Src, h.Dst)
		dst = appendProto(dst, c.Proto)
		dst = appendNum(dst, " len=", len(rest))
	case c.Fragmented:
		dst = appendTransport(dst, ends{h.Src, h.Dst, c.Proto, false}, rest)
	default:
		dst = appendTransport(dst, ends{h.Src, h.Dst, c.Proto, true}, rest)
	}
	if c.Fragmented {
		dst = appendFragment(dst, c.Fragment.Offset, c.Fragment.More, c.Fragment.ID)
	}
	if c.Offset > 0 {
		dst = appendNum(dst, " ext=", c.Offset)
	}
	return dst
}

var icmpv6Names = map[ICMPv6Type]string{
	ICMPv6Unreachable:  "unreachable",
	ICMPv6TooBig:       "packet too big",
	ICMPv6TimeExceeded: "time exceeded",
	ICMPv6ParamProblem: "parameter problem",
	ICMPv6Echo:         "echo",
	ICMPv6EchoReply:    "echo reply",
	ICMPv6MLDQuery:     "MLD query",
	ICMPv6MLDReport:    "MLD report v1",
	ICMPv6MLDDone:      "MLD done",
	ICMPv6RouterSol:    "router solicitation",
	ICMPv6RouterAdv:    "router advertisement",
	ICMPv6NeighborSol:  "neighbor solicitation",
	ICMPv6NeighborAdv:  "neighbor advertisement",
	ICMPv6Redirect:     "redirect",
	ICMPv6MLDv2Report:  "MLD report v2",
}

var unreach6Names = [...]string{
	Unreach6NoRoute:      "no route",
	Unreach6Prohibited:   "administratively prohibited",
	Unreach6BeyondScope:  "beyond scope of source",
	Unreach6Address:      "address unreachable",
	Unreach6Port:         "port unreachable",
	Unreach6SourcePolicy: "source address failed policy",
	Unreach6RejectRoute:  "reject route",
}

// appendICMPv6 appends the addresses and the contents of an ICMPv6 message. The checksum is not
// verified in a first fragment.
func appendICMPv6(dst []byte, ip ends, b []byte) []byte {
	dst = appendPair(dst, ip.src, ip.dst)
	dst = append(dst, "ICMPv6 "...)
	if len(b) < ICMPLen {
		return appendBad(dst, ShortICMPv6, b)
	}
	h, body := readICMPv6(b), b[ICMPLen:]
	dst = appendICMPv6Kind(dst, &h)
	switch h.Type {
	case ICMPv6Echo, ICMPv6EchoReply:
		dst = appendNum(dst, " id=", h.ID())
		dst = appendNum(dst, " seq=", h.Seq())
		dst = appendNum(dst, " len=", len(body))
	case ICMPv6Unreachable, ICMPv6TooBig, ICMPv6TimeExceeded, ICMPv6ParamProblem:
		dst = appendQuoted6(dst, body)
	case ICMPv6MLDQuery, ICMPv6MLDReport, ICMPv6MLDDone, ICMPv6MLDv2Report:
		dst = appendMLD(dst, &h, body)
	case ICMPv6RouterSol, ICMPv6RouterAdv, ICMPv6NeighborSol, ICMPv6NeighborAdv, ICMPv6Redirect:
		dst = appendND(dst, &h, body)
	default:
		dst = appendNum(dst, " len=", len(body))
	}
	if ip.whole {
		if _, _, r := ParseICMPv6(ip.src, ip.dst, b); r != OK {
			dst = appendSumNote(dst, ip, b, binary.BigEndian.Uint16(b[2:4]), r)
		}
	}
	return dst
}

// appendICMPv6Kind appends the name of a message's type and code.
func appendICMPv6Kind(dst []byte, h *ICMPv6) []byte {
	name, known := icmpv6Names[h.Type]
	switch {
	case h.Type == ICMPv6Unreachable && int(h.Code) < len(unreach6Names):
		return append(dst, unreach6Names[h.Code]...)
	case h.Type == ICMPv6TimeExceeded && h.Code == ExceededTTL:
		return append(dst, "hop limit exceeded in transit"...)
	case h.Type == ICMPv6TimeExceeded && h.Code == ExceededReassembly:
		return append(dst, "time exceeded in reassembly"...)
	case known:
		dst = append(dst, name...)
	default:
		dst = appendNum(dst, "type=", h.Type)
	}
	switch h.Type {
	case ICMPv6TooBig:
		dst = appendNum(dst, " mtu=", h.Rest)
	case ICMPv6ParamProblem:
		dst = appendNum(dst, " pointer=", h.Rest)
	}
	if h.Code != 0 {
		dst = appendNum(dst, " code=", h.Code)
	}
	return dst
}

// appendQuoted6 appends the packet that an ICMPv6 error quotes, in parentheses.
func appendQuoted6(dst []byte, b []byte) []byte {
	dst = append(dst, " ("...)
	q, r := ParseQuoted6(b)
	if r != OK {
		return append(appendBad(dst, r, b), ')')
	}
	if q.Transport != nil && (q.Proto == ProtoUDP || q.Proto == ProtoTCP) {
		be := binary.BigEndian
		dst = appendPorts(dst, ends{src: q.Src, dst: q.Dst}, be.Uint16(q.Transport[0:2]), be.Uint16(q.Transport[2:4]))
	} else {
		dst = appendPair(dst, q.Src, q.Dst)
	}
	return append(appendProto(dst, q.Proto), ')')
}

// appendMLD appends the contents of a multicast listener discovery message.
func appendMLD(dst []byte, h *ICMPv6, b []byte) []byte {
	switch h.Type {
	case ICMPv6MLDQuery:
		q, r := ParseMLDQuery(h.Rest, b)
		if r != OK {
			return appendBad(append(dst, ' '), r, b)
		}
		dst = q.Group.AppendTo(append(appendNum(dst, " v", q.Version), ' '))
		return appendNum(appendNum(dst, " ms=", q.Millis), " sources=", len(q.Sources)/16)
	case ICMPv6MLDv2Report:
		return appendGroupRecords(dst, b, 16)
	}
	if len(b) < MLDLen {
		return appendBad(append(dst, ' '), ShortMLD, b)
	}
	return netip.AddrFrom16([16]byte(b[:16])).AppendTo(append(dst, ' '))
}

// appendND appends the contents of a neighbour discovery message.
func appendND(dst []byte, h *ICMPv6, b []byte) []byte {
	dst = append(dst, ' ')
	switch h.Type {
	case ICMPv6NeighborSol:
		m, r := ParseNeighborSol(b)
		if r != OK {
			return appendBad(dst, r, b)
		}
		dst = m.Target.AppendTo(append(dst, "who-has "...))
		if m.HasSource {
			dst = m.Source.appendTo(append(dst, " from "...))
		}
		return dst
	case ICMPv6NeighborAdv:
		m, r := ParseNeighborAdv(b)
		if r != OK {
			return appendBad(dst, r, b)
		}
		dst = m.Target.AppendTo(dst)
		if m.HasLink {
			dst = m.Link.appendTo(append(dst, " is-at "...))
		}
		for i, name := range []string{" router", " solicited", " override"} {
			if h.Rest&(NARouter>>i) != 0 {
				dst = append(dst, name...)
			}
		}
		return dst
	case ICMPv6RouterAdv:
		m, r := ParseRouterAdv(h.Rest, b)
		if r != OK {
			return appendBad(dst, r, b)
		}
		dst = appendNum(dst, "lifetime=", m.Lifetime)
		return appendNDOptions(dst, m.Options)
	case ICMPv6Redirect:
		m, r := ParseRedirect(b)
		if r != OK {
			return appendBad(dst, r, b)
		}
		dst = m.Dst.AppendTo(dst)
		return m.Target.AppendTo(append(dst, " via "...))
	}
	if r := CheckNDOptions(b); r != OK {
		return appendBad(dst, r, b)
	}
	if mac, ok := linkOption(b, NDSourceLink); ok {
		return mac.appendTo(append(dst, "from "...))
	}
	return dst[:len(dst)-1]
}

// appendNDOptions appends the main options of a router advertisement.
func appendNDOptions(dst []byte, b []byte) []byte {
	for o, rest, ok := NextNDOption(b); ok; o, rest, ok = NextNDOption(rest) {
		switch o.Type {
		case NDPrefix:
			if p, ok := ParsePrefixInfo(o.Body); ok {
				dst = p.Prefix.AppendTo(append(dst, " prefix="...))
			}
		case NDRoute:
			if p, ok := ParseRouteInfo(o.Body); ok {
				dst = p.Prefix.AppendTo(append(dst, " route="...))
			}
		case NDMTU:
			if mtu, ok := ParseMTU(o.Body); ok {
				dst = appendNum(dst, " mtu=", mtu)
			}
		case NDRDNSS:
			if _, addrs, ok := ParseRDNSS(o.Body); ok {
				for ; len(addrs) >= 16; addrs = addrs[16:] {
					dst = netip.AddrFrom16([16]byte(addrs)).AppendTo(append(dst, " dns="...))
				}
			}
		case NDPREF64:
			if p, _, ok := ParsePREF64(o.Body); ok {
				dst = p.AppendTo(append(dst, " nat64="...))
			}
		case NDSourceLink:
			dst = MAC(o.Body).appendTo(append(dst, " from "...))
		default:
			dst = append(dst, " option="...)
			dst = strconv.AppendUint(dst, uint64(o.Type), 10)
		}
	}
	return dst
}
