package wire

import (
	"encoding/binary"
	"net/netip"
	"strconv"
)

// Describe returns a frame with its Ethernet header in one line for people, as
// AppendFrame does.
func Describe(frame []byte) string { return string(AppendFrame(nil, frame, true)) }

// AppendFrame appends to dst what is in a frame, in one line for people without
// a newline. With ethernet the frame begins with its Ethernet header, without it
// with its IP header. What is malformed is named by its Reason. Any bytes will
// do. It is for traces, and may allocate.
func AppendFrame(dst []byte, frame []byte, ethernet bool) []byte {
	if !ethernet {
		if len(frame) > 0 && frame[0]>>4 == 6 {
			return appendIPv6(dst, frame)
		}
		return appendIPv4(dst, frame)
	}
	h, payload, r := ParseEthernet(frame)
	if r != OK {
		return appendBad(dst, r, frame)
	}
	dst = h.Src.appendTo(dst)
	dst = append(dst, " > "...)
	dst = h.Dst.appendTo(dst)
	dst = append(dst, ' ')
	switch h.Type {
	case EtherTypeARP:
		return appendARP(dst, payload)
	case EtherTypeIPv4:
		return appendIPv4(dst, payload)
	case EtherTypeIPv6:
		return appendIPv6(dst, payload)
	}
	dst = append(dst, "type=0x"...)
	dst = strconv.AppendUint(dst, uint64(h.Type), 16)
	return appendNum(dst, " len=", len(payload))
}

// appendBad appends why a packet is no good, and how long it is.
func appendBad(dst []byte, r Reason, b []byte) []byte {
	dst = append(dst, '[')
	dst = append(dst, r.String()...)
	dst = appendNum(dst, ", ", len(b))
	return append(dst, " bytes]"...)
}

func appendNum[T ~int | ~uint8 | ~uint16 | ~uint32](dst []byte, name string, n T) []byte {
	dst = append(dst, name...)
	return strconv.AppendUint(dst, uint64(n), 10)
}

func appendARP(dst []byte, b []byte) []byte {
	dst = append(dst, "ARP "...)
	h, r := ParseARP(b)
	if r != OK {
		return appendBad(dst, r, b)
	}
	switch {
	case h.SenderIP == h.TargetIP:
		// RFC 5227 2.3: an announcement, also called a gratuitous ARP.
		dst = append(dst, "announce "...)
		dst = h.SenderIP.AppendTo(dst)
		dst = append(dst, " is-at "...)
		dst = h.SenderMAC.appendTo(dst)
	case h.Op == ARPRequest:
		dst = append(dst, "who-has "...)
		dst = h.TargetIP.AppendTo(dst)
		dst = append(dst, " tell "...)
		dst = h.SenderIP.AppendTo(dst)
	default:
		dst = append(dst, "reply "...)
		dst = h.SenderIP.AppendTo(dst)
		dst = append(dst, " is-at "...)
		dst = h.SenderMAC.appendTo(dst)
	}
	return dst
}

func appendIPv4(dst []byte, b []byte) []byte {
	dst = append(dst, "IPv4 "...)
	h, payload, r := ParseIPv4(b)
	if r != OK {
		return appendBad(dst, r, b)
	}
	if h.FragOffset != 0 {
		dst = appendPair(dst, h.Src, h.Dst)
		dst = appendProto(dst, h.Proto)
		dst = appendNum(dst, " len=", len(payload))
	} else {
		dst = appendTransport(dst, &h, payload)
	}
	if h.IsFragment() {
		dst = appendNum(dst, " frag=", h.FragOffset)
		if h.MoreFragments {
			dst = append(dst, '+')
		}
		dst = appendNum(dst, " id=", h.ID)
	}
	if len(h.Options) > 0 {
		dst = appendNum(dst, " ipopts=", len(h.Options))
	}
	return dst
}

// appendIPv6 appends the addresses of an IPv6 packet and what it carries.
func appendIPv6(dst []byte, b []byte) []byte {
	const headerLen = 40
	dst = append(dst, "IPv6 "...)
	if len(b) < headerLen {
		return append(appendNum(dst, "[short IPv6 packet, ", len(b)), " bytes]"...)
	}
	dst = appendPair(dst, netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40])))
	dst = appendProto(dst, Proto(b[6]))
	return appendNum(dst, " len=", binary.BigEndian.Uint16(b[4:6]))
}

func appendPair(dst []byte, src, to netip.Addr) []byte {
	dst = src.AppendTo(dst)
	dst = append(dst, " > "...)
	dst = to.AppendTo(dst)
	return append(dst, ' ')
}

func appendPorts(dst []byte, h *IPv4, src, to uint16) []byte {
	dst = netip.AddrPortFrom(h.Src, src).AppendTo(dst)
	dst = append(dst, " > "...)
	dst = netip.AddrPortFrom(h.Dst, to).AppendTo(dst)
	return append(dst, ' ')
}

func appendProto(dst []byte, p Proto) []byte {
	switch p {
	case ProtoICMP:
		return append(dst, "ICMP"...)
	case ProtoIGMP:
		return append(dst, "IGMP"...)
	case ProtoTCP:
		return append(dst, "TCP"...)
	case ProtoUDP:
		return append(dst, "UDP"...)
	case ProtoICMPv6:
		return append(dst, "ICMPv6"...)
	}
	return appendNum(dst, "proto=", p)
}

// appendTransport appends the addresses of a datagram and its payload, of which
// the first bytes at least are there: a first fragment is not checked further.
func appendTransport(dst []byte, h *IPv4, b []byte) []byte {
	whole := !h.IsFragment()
	switch h.Proto {
	case ProtoICMP:
		return appendICMP(dst, h, b, whole)
	case ProtoUDP:
		u, payload, r := ParseUDP(b)
		if r == BadUDPLength && !whole {
			u, payload, r = readUDP(b), b[UDPLen:], OK
		}
		if r != OK {
			break
		}
		dst = appendPorts(dst, h, u.SrcPort, u.DstPort)
		dst = appendNum(dst, "UDP len=", len(payload))
		if whole && !UDPChecksumOK(h.Src, h.Dst, b) {
			dst = appendSumNote(dst, h, b[:u.Length], u.Checksum, BadUDPChecksum)
		}
		return dst
	case ProtoTCP:
		t, payload, r := ParseTCP(b)
		if r != OK {
			break
		}
		dst = appendPorts(dst, h, t.SrcPort, t.DstPort)
		dst = appendTCP(dst, &t, len(payload))
		if whole && !TCPChecksumOK(h.Src, h.Dst, b) {
			dst = appendSumNote(dst, h, b, binary.BigEndian.Uint16(b[16:18]), BadTCPChecksum)
		}
		return dst
	}
	dst = appendPair(dst, h.Src, h.Dst)
	dst = appendProto(dst, h.Proto)
	switch h.Proto {
	case ProtoUDP:
		_, _, r := ParseUDP(b)
		return appendBad(append(dst, ' '), r, b)
	case ProtoTCP:
		_, _, r := ParseTCP(b)
		return appendBad(append(dst, ' '), r, b)
	case ProtoIGMP:
		if whole {
			return appendIGMP(append(dst, ' '), b)
		}
	}
	return appendNum(dst, " len=", len(b))
}

// appendIGMP appends what an IGMP message asks or reports.
func appendIGMP(dst []byte, b []byte) []byte {
	h, r := ParseIGMP(b)
	if r != OK {
		return appendBad(dst, r, b)
	}
	switch h.Type {
	case IGMPQuery:
		dst = h.Group.AppendTo(append(appendNum(dst, "query v", h.Version), ' '))
		return appendNum(appendNum(dst, " tenths=", h.Tenths), " sources=", len(h.Sources)/4)
	case IGMPv1Report:
		return h.Group.AppendTo(append(dst, "report v1 "...))
	case IGMPv2Report:
		return h.Group.AppendTo(append(dst, "report v2 "...))
	case IGMPv2Leave:
		return h.Group.AppendTo(append(dst, "leave "...))
	case IGMPv3Report:
		return appendIGMPRecords(append(dst, "report v3"...), b[IGMPLen:])
	}
	return appendNum(appendNum(dst, "type=", h.Type), " len=", len(b))
}

// appendIGMPRecords appends the records of a report as far as they are whole.
func appendIGMPRecords(dst []byte, b []byte) []byte {
	kinds := [...]string{IGMPIsInclude: " IS_IN ", IGMPIsExclude: " IS_EX ", IGMPToInclude: " TO_IN ", IGMPToExclude: " TO_EX "}
	for len(b) >= IGMPRecordLen {
		if kind := b[0]; int(kind) < len(kinds) && kind > 0 {
			dst = append(dst, kinds[kind]...)
		} else {
			dst = append(appendNum(dst, " type=", kind), ' ')
		}
		dst = netip.AddrFrom4([4]byte(b[4:8])).AppendTo(dst)
		n := int(binary.BigEndian.Uint16(b[2:4]))
		dst = appendNum(dst, " sources=", n)
		b = b[min(IGMPRecordLen+4*n+4*int(b[1]), len(b)):]
	}
	return dst
}

// appendSumNote tells a checksum that is left to the device, whose field holds
// the sum of the pseudo-header alone, from one that is wrong.
func appendSumNote(dst []byte, h *IPv4, b []byte, field uint16, bad Reason) []byte {
	if field == Fold(PseudoSum(h.Src, h.Dst, uint8(h.Proto), len(b))) {
		return append(dst, " [checksum offloaded]"...)
	}
	dst = append(dst, " ["...)
	dst = append(dst, bad.String()...)
	return append(dst, ']')
}

// readUDP returns the header that b, of at least UDPLen bytes, begins with.
func readUDP(b []byte) UDP {
	be := binary.BigEndian
	return UDP{SrcPort: be.Uint16(b[0:2]), DstPort: be.Uint16(b[2:4]), Length: be.Uint16(b[4:6]), Checksum: be.Uint16(b[6:8])}
}

func appendTCP(dst []byte, t *TCP, payloadLen int) []byte {
	dst = append(dst, "TCP ["...)
	dst = t.Flags.appendTo(dst)
	dst = appendNum(dst, "] seq=", t.Seq)
	if t.Flags&FlagACK != 0 {
		dst = appendNum(dst, " ack=", t.Ack)
	}
	dst = appendNum(dst, " win=", t.Window)
	if t.Flags&FlagURG != 0 {
		dst = appendNum(dst, " urg=", t.Urgent)
	}
	if t.MSS != 0 {
		dst = appendNum(dst, " mss=", t.MSS)
	}
	if t.HasWScale {
		dst = appendNum(dst, " ws=", t.WScale)
	}
	if t.SACKPermitted {
		dst = append(dst, " sackok"...)
	}
	if t.HasTS {
		dst = appendNum(dst, " ts=", t.TSVal)
		dst = appendNum(dst, "/", t.TSEcr)
	}
	for i, s := range t.SACK[:t.NSACK] {
		if i == 0 {
			dst = appendNum(dst, " sack=", s.Start)
		} else {
			dst = appendNum(dst, ",", s.Start)
		}
		dst = appendNum(dst, "-", s.End)
	}
	return appendNum(dst, " len=", payloadLen)
}

var icmpNames = [...]string{
	ICMPEchoReply:      "echo reply",
	ICMPUnreachable:    "unreachable",
	ICMPSourceQuench:   "source quench",
	ICMPRedirect:       "redirect",
	ICMPEcho:           "echo",
	ICMPTimeExceeded:   "time exceeded",
	ICMPParamProblem:   "parameter problem",
	ICMPTimestamp:      "timestamp",
	ICMPTimestampReply: "timestamp reply",
}

var unreachNames = [...]string{
	UnreachNet:             "net unreachable",
	UnreachHost:            "host unreachable",
	UnreachProto:           "protocol unreachable",
	UnreachPort:            "port unreachable",
	UnreachFragNeeded:      "fragmentation needed",
	UnreachSourceRoute:     "source route failed",
	UnreachNetUnknown:      "net unknown",
	UnreachHostUnknown:     "host unknown",
	UnreachHostIsolated:    "source isolated",
	UnreachNetProhibited:   "net prohibited",
	UnreachHostProhibited:  "host prohibited",
	UnreachNetTOS:          "net unreachable for TOS",
	UnreachHostTOS:         "host unreachable for TOS",
	UnreachAdminProhibited: "administratively prohibited",
}

// appendICMP appends the addresses of an ICMP message and the message. A first
// fragment has a checksum that cannot be verified.
func appendICMP(dst []byte, ip *IPv4, b []byte, whole bool) []byte {
	dst = appendPair(dst, ip.Src, ip.Dst)
	dst = append(dst, "ICMP "...)
	if len(b) < ICMPLen {
		return appendBad(dst, ShortICMP, b)
	}
	h, body := readICMP(b), b[ICMPLen:]
	dst = appendICMPKind(dst, &h)
	switch {
	case h.Type == ICMPEcho || h.Type == ICMPEchoReply:
		dst = appendNum(dst, " id=", h.ID())
		dst = appendNum(dst, " seq=", h.Seq())
		dst = appendNum(dst, " len=", len(body))
	case h.IsError():
		dst = appendQuoted(dst, body)
	default:
		dst = appendNum(dst, " len=", len(body))
	}
	if whole && Fold(Sum(b, 0)) != 0xffff {
		dst = append(dst, " ["...)
		dst = append(dst, BadICMPChecksum.String()...)
		dst = append(dst, ']')
	}
	return dst
}

// appendICMPKind appends the type and code of a message in words.
func appendICMPKind(dst []byte, h *ICMP) []byte {
	switch {
	case h.Type == ICMPUnreachable && int(h.Code) < len(unreachNames):
		dst = append(dst, unreachNames[h.Code]...)
		if h.Code == UnreachFragNeeded {
			dst = appendNum(dst, " mtu=", h.NextHopMTU())
		}
		return dst
	case h.Type == ICMPTimeExceeded && h.Code == ExceededTTL:
		return append(dst, "time exceeded in transit"...)
	case h.Type == ICMPTimeExceeded && h.Code == ExceededReassembly:
		return append(dst, "time exceeded in reassembly"...)
	case int(h.Type) < len(icmpNames) && icmpNames[h.Type] != "":
		dst = append(dst, icmpNames[h.Type]...)
	default:
		dst = appendNum(dst, "type=", h.Type)
	}
	if h.Type == ICMPParamProblem {
		dst = appendNum(dst, " pointer=", h.Pointer())
	}
	if h.Code != 0 {
		dst = appendNum(dst, " code=", h.Code)
	}
	return dst
}

// appendQuoted appends in parentheses the datagram that an ICMP error is about.
func appendQuoted(dst []byte, b []byte) []byte {
	dst = append(dst, " ("...)
	h, t, r := ParseQuoted(b)
	if r != OK {
		return append(appendBad(dst, r, b), ')')
	}
	if h.FragOffset == 0 && (h.Proto == ProtoUDP || h.Proto == ProtoTCP) {
		be := binary.BigEndian
		dst = appendPorts(dst, &h, be.Uint16(t[0:2]), be.Uint16(t[2:4]))
	} else {
		dst = appendPair(dst, h.Src, h.Dst)
	}
	return append(appendProto(dst, h.Proto), ')')
}
