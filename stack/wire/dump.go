package wire

import (
	"encoding/binary"
	"net/netip"
	"strconv"
)

// Describe returns a description of an Ethernet frame in one line, as AppendFrame does.
func Describe(frame []byte) string { return string(AppendFrame(nil, frame, true)) }

// AppendFrame appends a description of a frame to dst, in one line without a newline. If ethernet is
// set, the frame begins with its Ethernet header, and otherwise with its IP header. A malformed part is
// described by its Reason, so frame may be any bytes. AppendFrame is for traces, and may allocate.
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
	for h.Type == EtherTypeVLAN {
		var tag VLANTag
		whole := payload
		if tag, payload, r = ParseVLANTag(whole); r != OK {
			return appendBad(dst, r, whole)
		}
		h.Type = tag.Type
		dst = appendVLANTag(dst, &tag)
	}
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

func appendVLANTag(dst []byte, t *VLANTag) []byte {
	dst = appendNum(dst, "vlan ", t.ID)
	if t.Priority != 0 {
		dst = appendNum(dst, " prio=", t.Priority)
	}
	if t.DropEligible {
		dst = append(dst, " dei"...)
	}
	return append(dst, ' ')
}

// appendBad appends the reason why b is malformed, and its length.
func appendBad(dst []byte, r Reason, b []byte) []byte {
	dst = append(dst, '[')
	dst = append(dst, r.String()...)
	dst = appendNum(dst, ", ", len(b))
	return append(dst, " bytes]"...)
}

// appendNum appends a name and a decimal number.
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
		dst = appendTransport(dst, ends{h.Src, h.Dst, h.Proto, !h.IsFragment()}, payload)
	}
	if h.IsFragment() {
		dst = appendFragment(dst, h.FragOffset, h.MoreFragments, uint32(h.ID))
	}
	if len(h.Options) > 0 {
		dst = appendNum(dst, " ipopts=", len(h.Options))
	}
	return dst
}

// appendFragment appends the offset of a fragment and its identification.
func appendFragment(dst []byte, offset uint16, more bool, id uint32) []byte {
	dst = appendNum(dst, " frag=", offset)
	if more {
		dst = append(dst, '+')
	}
	return appendNum(dst, " id=", id)
}

// ends is what appendTransport needs to know from the IP header of a packet.
type ends struct {
	src, dst netip.Addr
	proto    Proto
	whole    bool // not a fragment
}

func appendPair(dst []byte, src, to netip.Addr) []byte {
	dst = src.AppendTo(dst)
	dst = append(dst, " > "...)
	dst = to.AppendTo(dst)
	return append(dst, ' ')
}

func appendPorts(dst []byte, h ends, src, to uint16) []byte {
	dst = netip.AddrPortFrom(h.src, src).AppendTo(dst)
	dst = append(dst, " > "...)
	dst = netip.AddrPortFrom(h.dst, to).AppendTo(dst)
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
	case ProtoNone:
		return append(dst, "nothing"...)
	}
	return appendNum(dst, "proto=", p)
}

// appendTransport appends the addresses and the payload of a datagram. If h.whole is false, b is the
// payload of a first fragment, and its length and checksum are not checked.
func appendTransport(dst []byte, h ends, b []byte) []byte {
	switch h.proto {
	case ProtoICMP:
		return appendICMP(dst, h, b)
	case ProtoICMPv6:
		return appendICMPv6(dst, h, b)
	case ProtoUDP:
		u, payload, r := ParseUDP(b)
		if r == BadUDPLength && !h.whole {
			u, payload, r = readUDP(b), b[UDPLen:], OK
		}
		if r != OK {
			break
		}
		dst = appendPorts(dst, h, u.SrcPort, u.DstPort)
		dst = appendNum(dst, "UDP len=", len(payload))
		if h.whole && !UDPChecksumOK(h.src, h.dst, b) {
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
		if h.whole && !TCPChecksumOK(h.src, h.dst, b) {
			dst = appendSumNote(dst, h, b, binary.BigEndian.Uint16(b[16:18]), BadTCPChecksum)
		}
		return dst
	}
	dst = appendPair(dst, h.src, h.dst)
	dst = appendProto(dst, h.proto)
	switch h.proto {
	case ProtoUDP:
		_, _, r := ParseUDP(b)
		return appendBad(append(dst, ' '), r, b)
	case ProtoTCP:
		_, _, r := ParseTCP(b)
		return appendBad(append(dst, ' '), r, b)
	case ProtoIGMP:
		if h.whole {
			return appendIGMP(append(dst, ' '), b)
		}
	}
	return appendNum(dst, " len=", len(b))
}

// appendIGMP appends the contents of an IGMP message.
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
		return appendGroupRecords(append(dst, "report v3"...), b[IGMPLen:], 4)
	}
	return appendNum(appendNum(dst, "type=", h.Type), " len=", len(b))
}

// appendGroupRecords appends the complete records of a report. Addresses have size bytes.
func appendGroupRecords(dst []byte, b []byte, size int) []byte {
	for len(b) >= 4+size {
		dst = appendRecordKind(dst, b[0])
		group, _ := netip.AddrFromSlice(b[4 : 4+size])
		dst = group.AppendTo(dst)
		n := int(binary.BigEndian.Uint16(b[2:4]))
		dst = appendNum(dst, " sources=", n)
		b = b[min(4+size+size*n+4*int(b[1]), len(b)):] // b[1] is the length of the auxiliary data in words
	}
	return dst
}

// appendRecordKind appends the type of a group record, of IGMP or MLD.
func appendRecordKind(dst []byte, kind uint8) []byte {
	kinds := [...]string{
		GroupIsInclude: " IS_IN ", GroupIsExclude: " IS_EX ", GroupToInclude: " TO_IN ", GroupToExclude: " TO_EX ",
		GroupAllow: " ALLOW ", GroupBlock: " BLOCK ",
	}
	if int(kind) < len(kinds) && kind > 0 {
		return append(dst, kinds[kind]...)
	}
	return append(appendNum(dst, " type=", kind), ' ')
}

// appendSumNote appends a note that a checksum is wrong or offloaded. The field of an offloaded checksum
// holds only the sum of the pseudo-header, for a device to complete.
func appendSumNote(dst []byte, h ends, b []byte, field uint16, bad Reason) []byte {
	if field == Fold(PseudoSum(h.src, h.dst, uint8(h.proto), len(b))) {
		return append(dst, " [checksum offloaded]"...)
	}
	dst = append(dst, " ["...)
	dst = append(dst, bad.String()...)
	return append(dst, ']')
}

// readUDP returns the header at the start of b, which has at least UDPLen bytes.
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

// appendICMP appends the addresses and the contents of an ICMP message. The checksum is not verified in
// a first fragment.
func appendICMP(dst []byte, ip ends, b []byte) []byte {
	dst = appendPair(dst, ip.src, ip.dst)
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
	if ip.whole && Fold(Sum(b, 0)) != 0xffff {
		dst = append(dst, " ["...)
		dst = append(dst, BadICMPChecksum.String()...)
		dst = append(dst, ']')
	}
	return dst
}

// appendICMPKind appends the name of a message's type and code.
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

// appendQuoted appends the datagram that an ICMP error quotes, in parentheses.
func appendQuoted(dst []byte, b []byte) []byte {
	dst = append(dst, " ("...)
	h, t, r := ParseQuoted(b)
	if r != OK {
		return append(appendBad(dst, r, b), ')')
	}
	if h.FragOffset == 0 && (h.Proto == ProtoUDP || h.Proto == ProtoTCP) {
		be := binary.BigEndian
		dst = appendPorts(dst, ends{src: h.Src, dst: h.Dst}, be.Uint16(t[0:2]), be.Uint16(t[2:4]))
	} else {
		dst = appendPair(dst, h.Src, h.Dst)
	}
	return append(appendProto(dst, h.Proto), ')')
}
