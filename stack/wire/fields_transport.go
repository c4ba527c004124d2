package wire

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"strings"
)

// transport describes the payload of an IP packet. later is set if the payload is that of a fragment
// that is not the first one.
func (p *fieldPrinter) transport(h ends, b []byte, later bool) {
	if later {
		p.data(b)
		return
	}
	switch h.proto {
	case ProtoTCP:
		p.tcp(h, b)
	case ProtoUDP:
		p.udp(h, b)
	case ProtoICMP:
		p.icmp(h, b)
	case ProtoICMPv6:
		p.icmp6(h, b)
	case ProtoIGMP:
		p.igmp(h, b)
	default:
		p.data(b)
	}
}

func (p *fieldPrinter) udp(h ends, b []byte) {
	p.header("UDP")
	if p.cut(b, UDPLen) {
		return
	}
	u := readUDP(b)
	p.num("source port", uint64(u.SrcPort))
	p.num("destination port", uint64(u.DstPort))
	p.unit("length", uint64(u.Length), " bytes")
	n := int(u.Length)
	if u.Checksum == 0 && h.src.Is4() {
		p.hex("checksum", 0, 4, "none")
	} else {
		end := max(min(n, len(b)), UDPLen)
		pseudo := PseudoSum(h.src, h.dst, uint8(ProtoUDP), end)
		p.checksum(u.Checksum, Fold(Sum(b[:end], pseudo)), Fold(pseudo), h.whole && n <= len(b))
	}
	if n < UDPLen {
		p.text("malformed", "the length")
		return
	}
	p.data(b[UDPLen:min(n, len(b))])
}

func (p *fieldPrinter) tcp(h ends, b []byte) {
	p.header("TCP")
	if p.quoted && len(b) >= 8 && len(b) < TCPLen {
		// An ICMP error may quote only the ports and the sequence number.
		p.ports(b)
		p.num("sequence number", uint64(binary.BigEndian.Uint32(b[4:])))
		return
	}
	if p.cut(b, TCPLen) {
		return
	}
	be := binary.BigEndian
	p.ports(b)
	p.num("sequence number", uint64(be.Uint32(b[4:])))
	p.num("acknowledgment number", uint64(be.Uint32(b[8:])))
	n := int(b[12]>>4) * 4
	p.unit("header length", uint64(n), " bytes")
	p.text("flags", (TCPFlags(be.Uint16(b[12:])) & flagMask).String())
	p.num("window", uint64(be.Uint16(b[14:])))
	pseudo := PseudoSum(h.src, h.dst, uint8(ProtoTCP), len(b))
	p.checksum(be.Uint16(b[TCPChecksumOffset:]), Fold(Sum(b, pseudo)), Fold(pseudo), h.whole)
	p.num("urgent pointer", uint64(be.Uint16(b[18:])))
	if n < TCPLen {
		p.text("malformed", "the header length")
		return
	}
	if p.cut(b, n) {
		return
	}
	p.options(b[TCPLen:n], tcpOptEnd, tcpOptNop, describeTCPOption)
	p.data(b[n:])
}

func (p *fieldPrinter) ports(b []byte) {
	p.num("source port", uint64(binary.BigEndian.Uint16(b)))
	p.num("destination port", uint64(binary.BigEndian.Uint16(b[2:])))
}

// describeTCPOption returns a description of an option, or "" if the option is unknown or malformed.
func describeTCPOption(kind byte, v []byte) string {
	be := binary.BigEndian
	num := func(n uint32) string { return strconv.FormatUint(uint64(n), 10) }
	switch {
	case kind == tcpOptMSS && len(v) == tcpMSSLen-2:
		return "maximum segment size " + num(uint32(be.Uint16(v)))
	case kind == tcpOptWScale && len(v) == tcpWScaleLen-2:
		return "window scale " + num(uint32(v[0]))
	case kind == tcpOptSACKPerm && len(v) == 0:
		return "SACK permitted"
	case kind == tcpOptTS && len(v) == tcpTSLen-2:
		return "timestamps " + num(be.Uint32(v)) + ", " + num(be.Uint32(v[4:]))
	case kind == tcpOptSACK && len(v)%tcpSACKBlockLen == 0 && len(v) > 0:
		var blocks []string
		for ; len(v) > 0; v = v[tcpSACKBlockLen:] {
			blocks = append(blocks, num(be.Uint32(v))+"-"+num(be.Uint32(v[4:])))
		}
		return "SACK " + strings.Join(blocks, ", ")
	}
	return ""
}

func (p *fieldPrinter) icmp(h ends, b []byte) {
	p.header("ICMP")
	if p.cut(b, ICMPLen) {
		return
	}
	m, body := readICMP(b), b[ICMPLen:]
	name := ""
	if int(m.Type) < len(icmpNames) {
		name = icmpNames[m.Type]
	}
	p.named("type", uint64(m.Type), name)
	meaning := ""
	switch {
	case m.Type == ICMPUnreachable && int(m.Code) < len(unreachNames):
		meaning = unreachNames[m.Code]
	case m.Type == ICMPTimeExceeded && m.Code == ExceededTTL:
		meaning = "in transit"
	case m.Type == ICMPTimeExceeded && m.Code == ExceededReassembly:
		meaning = "in reassembly"
	}
	p.named("code", uint64(m.Code), meaning)
	p.checksum(binary.BigEndian.Uint16(b[2:]), Fold(Sum(b, 0)), 0, h.whole)
	switch m.Type {
	case ICMPEcho, ICMPEchoReply:
		p.num("identifier", uint64(m.ID()))
		p.num("sequence number", uint64(m.Seq()))
	case ICMPUnreachable:
		if m.Code == UnreachFragNeeded {
			p.unit("MTU", uint64(m.NextHopMTU()), " bytes")
		}
	case ICMPParamProblem:
		p.num("pointer", uint64(m.Pointer()))
	case ICMPRedirect:
		p.addr("gateway", b[4:8])
	}
	if m.IsError() {
		p.quote(body, false)
		return
	}
	p.data(body)
}

// quote describes b, the packet that an ICMP error quotes. If the ICMP error is itself in a quoted packet, quote
// gives only the length of b.
func (p *fieldPrinter) quote(b []byte, six bool) {
	if p.quoted {
		p.data(b)
		return
	}
	p.quoted = true
	if six {
		p.ip6(b)
	} else {
		p.ip4(b)
	}
	p.quoted = false
}

var igmpNames = map[IGMPType]string{
	IGMPQuery: "query", IGMPv1Report: "report v1", IGMPv2Report: "report v2", IGMPv2Leave: "leave", IGMPv3Report: "report v3",
}

func (p *fieldPrinter) igmp(h ends, b []byte) {
	p.header("IGMP")
	if p.cut(b, IGMPLen) {
		return
	}
	kind := IGMPType(b[0])
	p.named("type", uint64(kind), igmpNames[kind])
	p.num("maximum response code", uint64(b[1]))
	p.checksum(binary.BigEndian.Uint16(b[2:]), Fold(Sum(b, 0)), 0, h.whole)
	if kind == IGMPv3Report {
		p.num("records", uint64(binary.BigEndian.Uint16(b[6:])))
		p.groupRecords(b[IGMPLen:], 4)
		return
	}
	p.addr("group", b[4:8])
	if q, r := ParseIGMP(b); kind == IGMPQuery && r == OK {
		for s := q.Sources; len(s) >= 4; s = s[4:] {
			a, _ := netip.AddrFromSlice(s[:4])
			p.text("source", a.String())
		}
	}
}
