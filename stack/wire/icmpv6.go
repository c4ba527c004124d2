package wire

import (
	"encoding/binary"
	"net/netip"
)

// An ICMPv6Type is the type of an ICMPv6 message (RFC 4443, or the RFC beside the type).
type ICMPv6Type uint8

const (
	ICMPv6Unreachable  ICMPv6Type = 1
	ICMPv6TooBig       ICMPv6Type = 2
	ICMPv6TimeExceeded ICMPv6Type = 3
	ICMPv6ParamProblem ICMPv6Type = 4
	ICMPv6Echo         ICMPv6Type = 128
	ICMPv6EchoReply    ICMPv6Type = 129
	ICMPv6MLDQuery     ICMPv6Type = 130 // RFC 2710, RFC 9777
	ICMPv6MLDReport    ICMPv6Type = 131 // RFC 2710
	ICMPv6MLDDone      ICMPv6Type = 132 // RFC 2710
	ICMPv6RouterSol    ICMPv6Type = 133 // RFC 4861
	ICMPv6RouterAdv    ICMPv6Type = 134
	ICMPv6NeighborSol  ICMPv6Type = 135
	ICMPv6NeighborAdv  ICMPv6Type = 136
	ICMPv6Redirect     ICMPv6Type = 137
	ICMPv6MLDv2Report  ICMPv6Type = 143 // RFC 9777
)

// Codes of ICMPv6Unreachable (RFC 4443 3.1).
const (
	Unreach6NoRoute      = 0
	Unreach6Prohibited   = 1 // administratively
	Unreach6BeyondScope  = 2 // of the source address
	Unreach6Address      = 3
	Unreach6Port         = 4
	Unreach6SourcePolicy = 5 // the source address failed a policy
	Unreach6RejectRoute  = 6
)

// An ICMPv6 is the header of an ICMPv6 message (RFC 4443 2.1).
type ICMPv6 struct {
	Type ICMPv6Type
	Code uint8
	Rest uint32 // bytes 4 to 7, whose meaning depends on Type; see EchoRest
}

// ID returns the identifier of an echo or echo reply.
func (h *ICMPv6) ID() uint16 { return uint16(h.Rest >> 16) }

// Seq returns the sequence number of an echo or echo reply.
func (h *ICMPv6) Seq() uint16 { return uint16(h.Rest) }

// IsError reports whether the message is an error message, whose body quotes the packet that caused it.
// RFC 4443 2.1: "error messages have message types from 0 to 127".
func (h *ICMPv6) IsError() bool { return h.Type < 128 }

// ParseICMPv6 returns the header and the body of the ICMPv6 message b. src and dst are the addresses of
// its packet. It fails with ShortICMPv6 or BadICMPv6Checksum.
func ParseICMPv6(src, dst netip.Addr, b []byte) (h ICMPv6, body []byte, r Reason) {
	if len(b) < ICMPLen {
		return h, nil, ShortICMPv6
	}
	// RFC 4443 2.3: "The checksum is the 16-bit one's complement of the one's complement sum
	// of the entire ICMPv6 message, [...] prepended with a 'pseudo-header' of IPv6 header fields".
	if Fold(Sum(b, PseudoSum(src, dst, uint8(ProtoICMPv6), len(b)))) != 0xffff {
		return h, nil, BadICMPv6Checksum
	}
	return readICMPv6(b), b[ICMPLen:], OK
}

// readICMPv6 returns the header at the start of b, which has at least ICMPLen bytes.
func readICMPv6(b []byte) ICMPv6 {
	return ICMPv6{Type: ICMPv6Type(b[0]), Code: b[1], Rest: binary.BigEndian.Uint32(b[4:8])}
}

// Put writes the header to the first ICMPLen bytes of b, followed by body, with the checksum of both
// for a packet from src to dst. The body may already be at b[ICMPLen:].
func (h *ICMPv6) Put(src, dst netip.Addr, b, body []byte) {
	b = b[:ICMPLen+len(body)]
	b[0] = uint8(h.Type)
	b[1] = h.Code
	binary.BigEndian.PutUint32(b[4:8], h.Rest)
	copy(b[ICMPLen:], body)
	SetICMPv6Checksum(src, dst, b)
}

// ICMPv6ChecksumOffset is the offset of the checksum in a message (RFC 4443 2.1).
const ICMPv6ChecksumOffset = 2

// SetICMPv6Checksum computes the checksum of a message and writes it to the checksum field.
func SetICMPv6Checksum(src, dst netip.Addr, b []byte) {
	b[2], b[3] = 0, 0
	sum := ^Fold(Sum(b, PseudoSum(src, dst, uint8(ProtoICMPv6), len(b))))
	binary.BigEndian.PutUint16(b[2:4], sum)
}

// A Quoted6 is the part of a packet that an ICMPv6 error quotes.
type Quoted6 struct {
	IPv6
	Proto     Proto  // of Transport
	Transport []byte // start of the transport header, at least 8 bytes; nil if the quote ends earlier
	Fragment  uint16 // offset of the quoted fragment in bytes; if it is not 0, Transport is nil
}

// ParseQuoted6 parses the packet that an ICMPv6 error quotes: "as much of invoking packet as possible
// without the ICMPv6 packet exceeding the minimum IPv6 MTU" (RFC 4443 3). Routers may have changed the
// packet, so its length is not verified. It fails with ShortQuoted6 if there are fewer bytes than a
// header and 8 bytes or an extension header is incomplete, and with BadQuoted6 if the quote is not an
// IPv6 packet or has too many extension headers.
func ParseQuoted6(b []byte) (q Quoted6, r Reason) {
	const quoted = 8
	if len(b) < IPv6Len+quoted {
		return q, ShortQuoted6
	}
	if b[0]>>4 != 6 {
		return q, BadQuoted6
	}
	q.read(b)
	next, rest := q.Next, b[IPv6Len:]
	for range maxIPv6Ext {
		if !isIPv6Ext(next) {
			break
		}
		if len(rest) < 8 {
			return q, ShortQuoted6
		}
		size := (int(rest[1]) + 1) * 8
		if next == ProtoFragment {
			size = FragmentLen
			if f := readFragment(rest); f.Offset != 0 {
				q.Proto, q.Fragment = f.Next, f.Offset
				return q, OK
			}
		}
		if size > len(rest) {
			return q, ShortQuoted6
		}
		next, rest = Proto(rest[0]), rest[size:]
	}
	if isIPv6Ext(next) {
		return q, BadQuoted6
	}
	q.Proto = next
	if len(rest) >= quoted {
		q.Transport = rest
	}
	return q, OK
}
