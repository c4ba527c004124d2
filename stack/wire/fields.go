package wire

import (
	"encoding/binary"
	"net/netip"
	"strconv"
)

// AppendFields appends a description of a frame to dst, with one line for each field, in the manner of
// tshark -V. If ethernet is set, the frame begins with its Ethernet header, and otherwise with its IP
// header. The lines of a header's fields are indented below a line with the name of the header. frame may
// be any bytes: the description ends at a truncated header. AppendFields is for traces, and may allocate.
func AppendFields(dst []byte, frame []byte, ethernet bool) []byte {
	p := fieldPrinter{dst: dst}
	if ethernet {
		p.ethernet(frame)
	} else {
		p.ip(frame)
	}
	return p.dst
}

// A fieldPrinter appends lines to dst.
type fieldPrinter struct {
	dst    []byte
	quoted bool // set while fieldPrinter describes a packet that an ICMP error quotes
}

// header begins the description of a header.
func (p *fieldPrinter) header(name string) {
	if p.quoted {
		p.dst = append(p.dst, "quoted "...)
	}
	p.dst = append(append(p.dst, name...), '\n')
}

func (p *fieldPrinter) name(name string) {
	p.dst = append(append(append(p.dst, "    "...), name...), ": "...)
}

func (p *fieldPrinter) end() { p.dst = append(p.dst, '\n') }

func (p *fieldPrinter) text(name, value string) {
	p.name(name)
	p.dst = append(p.dst, value...)
	p.end()
}

func (p *fieldPrinter) num(name string, n uint64) { p.unit(name, n, "") }

// unit appends a number, followed by its unit.
func (p *fieldPrinter) unit(name string, n uint64, unit string) {
	p.name(name)
	p.dst = append(strconv.AppendUint(p.dst, n, 10), unit...)
	p.end()
}

// hex appends n with at least the given number of hexadecimal digits, followed by note in parentheses, unless
// note is empty.
func (p *fieldPrinter) hex(name string, n uint64, digits int, note string) {
	p.name(name)
	p.dst = append(p.dst, "0x"...)
	s := strconv.FormatUint(n, 16)
	for range digits - len(s) {
		p.dst = append(p.dst, '0')
	}
	p.dst = append(p.dst, s...)
	p.note(note)
	p.end()
}

func (p *fieldPrinter) note(note string) {
	if note != "" {
		p.dst = append(append(append(p.dst, " ("...), note...), ')')
	}
}

// named appends n, followed by its meaning in parentheses, unless meaning is empty.
func (p *fieldPrinter) named(name string, n uint64, meaning string) {
	p.name(name)
	p.dst = strconv.AppendUint(p.dst, n, 10)
	p.note(meaning)
	p.end()
}

func (p *fieldPrinter) addr(name string, b []byte) {
	a, ok := netip.AddrFromSlice(b)
	if !ok {
		return
	}
	p.name(name)
	p.dst = a.AppendTo(p.dst)
	p.end()
}

func (p *fieldPrinter) mac(name string, b []byte) {
	p.name(name)
	p.dst = MAC(b).appendTo(p.dst)
	p.end()
}

// bytes appends up to 32 bytes in hexadecimal.
func (p *fieldPrinter) bytes(name string, b []byte) {
	const most, digits = 32, "0123456789abcdef"
	p.name(name)
	for _, c := range b[:min(len(b), most)] {
		p.dst = append(p.dst, digits[c>>4], digits[c&15])
	}
	if len(b) > most {
		p.dst = append(p.dst, "..."...)
	}
	p.end()
}

func (p *fieldPrinter) flag(name string, set bool) {
	value := "not set"
	if set {
		value = "set"
	}
	p.text(name, value)
}

// data ends the description with the length of b, the bytes after the last header, unless b is empty.
func (p *fieldPrinter) data(b []byte) {
	if len(b) > 0 {
		p.header("Data")
		p.unit("length", uint64(len(b)), " bytes")
	}
}

// cut reports whether b is shorter than n bytes. If it is, cut appends the last line of the description.
func (p *fieldPrinter) cut(b []byte, n int) bool {
	if len(b) >= n {
		return false
	}
	p.name("cut")
	p.dst = strconv.AppendUint(p.dst, uint64(len(b)), 10)
	p.dst = append(p.dst, " bytes of "...)
	p.dst = strconv.AppendUint(p.dst, uint64(n), 10)
	p.end()
	return true
}

// checksum appends a checksum field. sum is the folded sum of all bytes that the checksum protects, including
// the field. pseudo is the folded sum of the pseudo-header, or 0 if there is no pseudo-header. The field holds
// pseudo if the checksum is offloaded. If whole is false, the checksum is not verified.
func (p *fieldPrinter) checksum(field, sum uint16, pseudo uint16, whole bool) {
	note := "bad"
	switch {
	case !whole:
		note = "not verified"
	case sum == 0xffff:
		note = "good"
	case pseudo != 0 && field == pseudo:
		note = "offloaded"
	}
	p.hex("checksum", uint64(field), 4, note)
}

func (p *fieldPrinter) ethernet(b []byte) {
	p.header("Ethernet")
	if p.cut(b, EthernetLen) {
		return
	}
	p.mac("destination", b[0:6])
	p.mac("source", b[6:12])
	kind := binary.BigEndian.Uint16(b[12:])
	p.hex("type", uint64(kind), 4, etherTypeName(kind))
	b = b[EthernetLen:]
	for kind == 0x8100 || kind == 0x88a8 {
		p.header("VLAN tag")
		if p.cut(b, 4) {
			return
		}
		tci := binary.BigEndian.Uint16(b)
		p.num("priority", uint64(tci>>13))
		p.flag("drop eligible", tci&0x1000 != 0)
		p.num("VLAN", uint64(tci&0xfff))
		kind = binary.BigEndian.Uint16(b[2:])
		p.hex("type", uint64(kind), 4, etherTypeName(kind))
		b = b[4:]
	}
	switch EtherType(kind) {
	case EtherTypeARP:
		p.arp(b)
	case EtherTypeIPv4:
		p.ip4(b)
	case EtherTypeIPv6:
		p.ip6(b)
	default:
		p.data(b)
	}
}

func etherTypeName(kind uint16) string {
	switch EtherType(kind) {
	case EtherTypeARP:
		return "ARP"
	case EtherTypeIPv4:
		return "IPv4"
	case EtherTypeIPv6:
		return "IPv6"
	case 0x8100:
		return "VLAN"
	case 0x88a8:
		return "service VLAN"
	}
	return ""
}

func (p *fieldPrinter) arp(b []byte) {
	p.header("ARP")
	if p.cut(b, 8) {
		return
	}
	be := binary.BigEndian
	p.num("hardware type", uint64(be.Uint16(b)))
	p.hex("protocol type", uint64(be.Uint16(b[2:])), 4, etherTypeName(be.Uint16(b[2:])))
	p.num("hardware length", uint64(b[4]))
	p.num("protocol length", uint64(b[5]))
	op := be.Uint16(b[6:])
	p.named("operation", uint64(op), map[ARPOp]string{ARPRequest: "request", ARPReply: "reply"}[ARPOp(op)])
	if b[4] != arpMACLen || b[5] != arpIPLen || p.cut(b, ARPLen) {
		return
	}
	p.mac("sender MAC", b[8:14])
	p.addr("sender IP", b[14:18])
	p.mac("target MAC", b[18:24])
	p.addr("target IP", b[24:28])
}

// ip describes a packet without a link-layer header.
func (p *fieldPrinter) ip(b []byte) {
	if Version(b) == 6 {
		p.ip6(b)
		return
	}
	p.ip4(b)
}

func (p *fieldPrinter) ip4(b []byte) {
	p.header("IPv4")
	if p.cut(b, IPv4Len) {
		return
	}
	be := binary.BigEndian
	n := int(b[0]&15) * 4
	p.num("version", uint64(b[0]>>4))
	p.unit("header length", uint64(n), " bytes")
	p.trafficClass(b[1])
	total := int(be.Uint16(b[2:]))
	p.unit("total length", uint64(total), " bytes")
	p.hex("identification", uint64(be.Uint16(b[4:])), 4, "")
	f := be.Uint16(b[6:])
	offset, more := f&ipv4OffsetMask*8, f&ipv4MoreFragments != 0
	p.flag("do not fragment", f&ipv4DontFragment != 0)
	p.flag("more fragments", more)
	p.unit("fragment offset", uint64(offset), " bytes")
	p.num("time to live", uint64(b[8]))
	p.proto("protocol", Proto(b[9]))
	if n >= IPv4Len && n <= len(b) {
		p.checksum(be.Uint16(b[10:]), Fold(Sum(b[:n], 0)), 0, !p.quoted)
	}
	p.addr("source", b[12:16])
	p.addr("destination", b[16:20])
	if b[0]>>4 != 4 || n < IPv4Len {
		p.text("malformed", "the version or the header length")
		return
	}
	if p.cut(b, n) {
		return
	}
	p.ip4Options(b[IPv4Len:n])
	rest := b[n:]
	if total >= n && total < len(b) {
		rest = b[n:total] // padding of the link layer follows
	}
	src, dst := Ends(b)
	p.transport(ends{src, dst, Proto(b[9]), offset == 0 && !more && total <= len(b) && !p.quoted}, rest, offset != 0)
}

// trafficClass appends the two parts of the field TOS or Traffic Class (RFC 2474 3, RFC 3168 5).
func (p *fieldPrinter) trafficClass(tos uint8) {
	p.num("DSCP", uint64(tos>>2))
	p.named("ECN", uint64(tos&ECNMask), [...]string{NotECT: "not ECN-capable", ECT1: "ECT(1)", ECT0: "ECT(0)", CE: "congestion experienced"}[tos&ECNMask])
}

func (p *fieldPrinter) proto(name string, proto Proto) {
	meaning := string(appendProto(nil, proto))
	switch proto {
	case ProtoHopByHop:
		meaning = "Hop-by-Hop Options"
	case ProtoRouting:
		meaning = "Routing"
	case ProtoFragment:
		meaning = "Fragment"
	case ProtoDstOpts:
		meaning = "Destination Options"
	case ProtoICMP, ProtoIGMP, ProtoTCP, ProtoUDP, ProtoICMPv6, ProtoNone:
	default:
		meaning = ""
	}
	p.named(name, uint64(proto), meaning)
}

// ip4Options describes the options of an IPv4 header.
func (p *fieldPrinter) ip4Options(b []byte) {
	names := map[byte]string{7: "Record Route", 68: "Timestamp", 130: "Security", 131: "Loose Source Route", 137: "Strict Source Route", 148: "Router Alert"}
	p.options(b, 0, 1, func(kind byte, _ []byte) string { return names[kind] })
}

// options describes options that consist of a kind, the length of the whole option, and a value. end is the
// kind that ends the list, and nop is the kind of an option that is only its kind. describe returns the
// description of an option, or "" if it knows none.
func (p *fieldPrinter) options(b []byte, end, nop byte, describe func(kind byte, value []byte) string) {
	for len(b) > 0 {
		switch {
		case b[0] == end:
			p.text("option", "end of options")
			return
		case b[0] == nop:
			p.text("option", "no operation")
			b = b[1:]
			continue
		case len(b) < 2 || b[1] < 2 || int(b[1]) > len(b):
			p.text("malformed", "the length of an option")
			return
		}
		p.option(b[0], b[2:b[1]], describe(b[0], b[2:b[1]]))
		b = b[b[1]:]
	}
}

// option appends the description of an option or, if description is empty, the bytes of the option's value.
func (p *fieldPrinter) option(kind byte, value []byte, description string) {
	if description != "" {
		p.text("option", description)
		return
	}
	p.bytes("option "+strconv.Itoa(int(kind)), value)
}
