package wire

import (
	"encoding/binary"
	"strconv"
)

func (p *fieldPrinter) ip6(b []byte) {
	p.header("IPv6")
	if p.cut(b, IPv6Len) {
		return
	}
	word := binary.BigEndian.Uint32(b)
	p.num("version", uint64(word>>28))
	p.trafficClass(uint8(word >> 20))
	p.hex("flow label", uint64(word&0xfffff), 5, "")
	size := int(binary.BigEndian.Uint16(b[4:]))
	p.unit("payload length", uint64(size), " bytes")
	next := Proto(b[IPv6NextOffset])
	p.proto("next header", next)
	p.num("hop limit", uint64(b[7]))
	p.addr("source", b[8:24])
	p.addr("destination", b[24:40])
	if word>>28 != 6 {
		p.text("malformed", "the version")
		return
	}
	if isBig(b[4:6], next, len(b)-IPv6Len) {
		size = len(b) - IPv6Len
	}
	src, dst := Ends(b)
	h := ends{src, dst, next, size <= len(b)-IPv6Len && !p.quoted}
	p.ip6Payload(h, b[IPv6Len:min(IPv6Len+size, len(b))])
}

// ip6Payload describes the extension headers of an IPv6 packet and what follows them.
func (p *fieldPrinter) ip6Payload(h ends, b []byte) {
	for range maxIPv6Ext {
		if !isIPv6Ext(h.proto) {
			p.transport(h, b, false)
			return
		}
		p.header(map[Proto]string{
			ProtoHopByHop: "IPv6 Hop-by-Hop Options", ProtoRouting: "IPv6 Routing",
			ProtoFragment: "IPv6 Fragment", ProtoDstOpts: "IPv6 Destination Options",
		}[h.proto])
		if p.cut(b, 8) {
			return
		}
		next, size := Proto(b[0]), (int(b[1])+1)*8
		if h.proto == ProtoFragment {
			size = FragmentLen
		}
		p.proto("next header", next)
		if h.proto != ProtoFragment {
			p.unit("length", uint64(size), " bytes")
		}
		if p.cut(b, size) {
			return
		}
		switch h.proto {
		case ProtoHopByHop, ProtoDstOpts:
			p.ip6Options(b[2:size])
		case ProtoRouting:
			p.num("routing type", uint64(b[2]))
			p.num("segments left", uint64(b[3]))
		case ProtoFragment:
			f := readFragment(b)
			p.unit("fragment offset", uint64(f.Offset), " bytes")
			p.flag("more fragments", f.More)
			p.hex("identification", uint64(f.ID), 8, "")
			h.whole = h.whole && f.Offset == 0 && !f.More
			if f.Offset != 0 {
				p.data(b[size:])
				return
			}
		}
		h.proto, b = next, b[size:]
	}
	p.data(b)
}

// ip6Options describes the options of a Hop-by-Hop or Destination Options header. Padding is omitted.
func (p *fieldPrinter) ip6Options(b []byte) {
	for len(b) > 0 {
		if b[0] == ipv6OptPad1 {
			b = b[1:]
			continue
		}
		if len(b) < 2 || 2+int(b[1]) > len(b) {
			p.text("malformed", "the length of an option")
			return
		}
		value := b[2 : 2+int(b[1])]
		switch {
		case b[0] == ipv6OptPadN:
		case b[0] == ipv6OptRouterAlert && len(value) == 2:
			p.text("option", "Router Alert "+strconv.Itoa(int(binary.BigEndian.Uint16(value))))
		default:
			p.option(b[0], value, "")
		}
		b = b[2+len(value):]
	}
}

// icmp6 describes an ICMPv6 message.
func (p *fieldPrinter) icmp6(h ends, b []byte) {
	p.header("ICMPv6")
	if p.cut(b, ICMPLen) {
		return
	}
	be := binary.BigEndian
	m, body := readICMPv6(b), b[ICMPLen:]
	p.named("type", uint64(m.Type), icmpv6Names[m.Type])
	meaning := ""
	switch {
	case m.Type == ICMPv6Unreachable && int(m.Code) < len(unreach6Names):
		meaning = unreach6Names[m.Code]
	case m.Type == ICMPv6TimeExceeded && m.Code == ExceededTTL:
		meaning = "in transit"
	case m.Type == ICMPv6TimeExceeded && m.Code == ExceededReassembly:
		meaning = "in reassembly"
	}
	p.named("code", uint64(m.Code), meaning)
	pseudo := PseudoSum(h.src, h.dst, uint8(ProtoICMPv6), len(b))
	p.checksum(be.Uint16(b[2:]), Fold(Sum(b, pseudo)), Fold(pseudo), h.whole)
	switch m.Type {
	case ICMPv6Echo, ICMPv6EchoReply:
		p.num("identifier", uint64(m.ID()))
		p.num("sequence number", uint64(m.Seq()))
		p.data(body)
	case ICMPv6TooBig:
		p.unit("MTU", uint64(m.Rest), " bytes")
		p.quote(body, true)
	case ICMPv6ParamProblem:
		p.num("pointer", uint64(m.Rest))
		p.quote(body, true)
	case ICMPv6Unreachable, ICMPv6TimeExceeded:
		p.quote(body, true)
	case ICMPv6MLDQuery, ICMPv6MLDReport, ICMPv6MLDDone, ICMPv6MLDv2Report:
		p.mld(&m, body)
	case ICMPv6RouterSol, ICMPv6RouterAdv, ICMPv6NeighborSol, ICMPv6NeighborAdv, ICMPv6Redirect:
		p.nd(&m, body)
	default:
		p.data(body)
	}
}

// mld describes the body of a multicast listener discovery message.
func (p *fieldPrinter) mld(m *ICMPv6, b []byte) {
	if m.Type == ICMPv6MLDv2Report {
		p.num("records", uint64(m.Rest&0xffff))
		p.groupRecords(b, 16)
		return
	}
	if p.cut(b, MLDLen) {
		return
	}
	p.unit("maximum response delay", uint64(m.Rest>>16), " ms")
	p.addr("group", b[:16])
	if q, r := ParseMLDQuery(m.Rest, b); m.Type == ICMPv6MLDQuery && r == OK && q.Version > 1 {
		p.num("sources", uint64(len(q.Sources)/16))
		for s := q.Sources; len(s) >= 16; s = s[16:] {
			p.addr("source", s[:16])
		}
	}
}

// groupRecords describes the records of an IGMPv3 or MLDv2 report. Each address in b has size bytes.
func (p *fieldPrinter) groupRecords(b []byte, size int) {
	for len(b) >= 4+size {
		kind := string(appendRecordKind(nil, b[0]))
		p.named("record type", uint64(b[0]), kind[1:len(kind)-1])
		p.addr("group", b[4:4+size])
		n := int(binary.BigEndian.Uint16(b[2:4]))
		p.num("sources", uint64(n))
		rest := b[4+size:]
		for ; n > 0 && len(rest) >= size; n-- {
			p.addr("source", rest[:size])
			rest = rest[size:]
		}
		b = rest[min(4*int(b[1]), len(rest)):] // b[1] is the length of the auxiliary data in words
	}
}

// nd describes the body of a neighbour discovery message.
func (p *fieldPrinter) nd(m *ICMPv6, b []byte) {
	fixed := map[ICMPv6Type]int{ICMPv6RouterAdv: 8, ICMPv6NeighborSol: 16, ICMPv6NeighborAdv: 16, ICMPv6Redirect: 32}[m.Type]
	if p.cut(b, fixed) {
		return
	}
	switch m.Type {
	case ICMPv6RouterAdv:
		p.num("hop limit", uint64(m.Rest>>24))
		p.flag("managed", m.Rest&RAManaged != 0)
		p.flag("other", m.Rest&RAOther != 0)
		p.preference(preference(m.Rest >> raPreferenceAt))
		p.unit("router lifetime", uint64(m.Rest&0xffff), " s")
		p.unit("reachable time", uint64(binary.BigEndian.Uint32(b)), " ms")
		p.unit("retransmission timer", uint64(binary.BigEndian.Uint32(b[4:])), " ms")
	case ICMPv6NeighborSol:
		p.addr("target", b[:16])
	case ICMPv6NeighborAdv:
		for i, name := range []string{"router", "solicited", "override"} {
			p.flag(name, m.Rest&(NARouter>>i) != 0)
		}
		p.addr("target", b[:16])
	case ICMPv6Redirect:
		p.addr("target", b[:16])
		p.addr("destination", b[16:32])
	}
	b = b[fixed:]
	for len(b) > 0 {
		o, rest, ok := NextNDOption(b)
		if !ok {
			p.text("malformed", "the length of an option")
			return
		}
		p.ndOption(o)
		b = rest
	}
}

func (p *fieldPrinter) preference(pref Preference) {
	p.text("preference", map[Preference]string{PreferLow: "low", PreferMedium: "medium", PreferHigh: "high"}[pref])
}

// ndOption describes an option of neighbour discovery.
func (p *fieldPrinter) ndOption(o NDOption) {
	switch o.Type {
	case NDSourceLink, NDTargetLink:
		if len(o.Body) == 6 {
			p.mac(map[NDOptionType]string{NDSourceLink: "source MAC", NDTargetLink: "target MAC"}[o.Type], o.Body)
			return
		}
	case NDPrefix:
		if i, ok := ParsePrefixInfo(o.Body); ok {
			p.text("prefix", i.Prefix.String())
			p.flag("on-link", i.OnLink)
			p.flag("autonomous", i.Auto)
			p.unit("valid lifetime", uint64(i.Valid), " s")
			p.unit("preferred lifetime", uint64(i.Preferred), " s")
			return
		}
	case NDMTU:
		if mtu, ok := ParseMTU(o.Body); ok {
			p.unit("MTU", uint64(mtu), " bytes")
			return
		}
	case NDRoute:
		if i, ok := ParseRouteInfo(o.Body); ok {
			p.text("route", i.Prefix.String())
			p.preference(i.Preference)
			p.unit("route lifetime", uint64(i.Lifetime), " s")
			return
		}
	case NDRDNSS:
		if life, addrs, ok := ParseRDNSS(o.Body); ok {
			p.unit("name server lifetime", uint64(life), " s")
			for ; len(addrs) >= 16; addrs = addrs[16:] {
				p.addr("name server", addrs[:16])
			}
			return
		}
	case NDDNSSL:
		if life, names, ok := ParseDNSSL(o.Body); ok {
			p.unit("search domain lifetime", uint64(life), " s")
			for name, rest, ok := NextDomain(names); ok; name, rest, ok = NextDomain(rest) {
				p.text("search domain", name)
			}
			return
		}
	case NDPREF64:
		if prefix, life, ok := ParsePREF64(o.Body); ok {
			p.text("NAT64 prefix", prefix.String())
			p.unit("NAT64 lifetime", uint64(life), " s")
			return
		}
	case NDNonce:
		p.bytes("nonce", o.Body)
		return
	}
	p.option(uint8(o.Type), o.Body, "")
}
