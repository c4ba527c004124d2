package wire

import "encoding/binary"

// ICMPLen is the length of an ICMP header in bytes.
const ICMPLen = 8

// An ICMPType is the type of an ICMP message for IPv4 (RFC 792).
type ICMPType uint8

const (
	ICMPEchoReply      ICMPType = 0
	ICMPUnreachable    ICMPType = 3
	ICMPSourceQuench   ICMPType = 4 // deprecated by RFC 6633, ignored
	ICMPRedirect       ICMPType = 5
	ICMPEcho           ICMPType = 8
	ICMPTimeExceeded   ICMPType = 11
	ICMPParamProblem   ICMPType = 12
	ICMPTimestamp      ICMPType = 13
	ICMPTimestampReply ICMPType = 14
)

// Codes of ICMPUnreachable (RFC 792, RFC 1122 3.2.2.1, RFC 1812 5.2.7.1).
const (
	UnreachNet             = 0
	UnreachHost            = 1
	UnreachProto           = 2
	UnreachPort            = 3
	UnreachFragNeeded      = 4 // fragmentation needed and DF set: see NextHopMTU
	UnreachSourceRoute     = 5 // source route failed
	UnreachNetUnknown      = 6
	UnreachHostUnknown     = 7
	UnreachHostIsolated    = 8
	UnreachNetProhibited   = 9
	UnreachHostProhibited  = 10
	UnreachNetTOS          = 11
	UnreachHostTOS         = 12
	UnreachAdminProhibited = 13
)

// Codes of ICMPTimeExceeded (RFC 792).
const (
	ExceededTTL        = 0 // in transit
	ExceededReassembly = 1
)

// An ICMP is the header of an ICMP message for IPv4 (RFC 792).
type ICMP struct {
	Type ICMPType
	Code uint8
	Rest uint32 // bytes 4 to 7, whose meaning depends on Type; see EchoRest
}

// EchoRest returns the Rest of an echo or echo reply.
func EchoRest(id, seq uint16) uint32 { return uint32(id)<<16 | uint32(seq) }

// ID returns the identifier of an echo or echo reply.
func (h *ICMP) ID() uint16 { return uint16(h.Rest >> 16) }

// Seq returns the sequence number of an echo or echo reply.
func (h *ICMP) Seq() uint16 { return uint16(h.Rest) }

// NextHopMTU returns the MTU in an UnreachFragNeeded message. It is 0 if the router does not implement
// RFC 1191 (section 4).
func (h *ICMP) NextHopMTU() uint16 { return uint16(h.Rest) }

// Pointer returns the offset in bytes of the error that ICMPParamProblem reports.
func (h *ICMP) Pointer() uint8 { return uint8(h.Rest >> 24) }

// IsError reports whether the message is an error message, whose body quotes the datagram that caused
// it. RFC 1122 3.2.2 forbids answering an error message with another one.
func (h *ICMP) IsError() bool {
	switch h.Type {
	case ICMPUnreachable, ICMPSourceQuench, ICMPRedirect, ICMPTimeExceeded, ICMPParamProblem:
		return true
	}
	return false
}

// ParseICMP returns the header and the body of the ICMP message b. It fails with
// ShortICMP or BadICMPChecksum.
func ParseICMP(b []byte) (h ICMP, body []byte, r Reason) {
	if len(b) < ICMPLen {
		return h, nil, ShortICMP
	}
	if Fold(Sum(b, 0)) != 0xffff {
		return h, nil, BadICMPChecksum
	}
	return readICMP(b), b[ICMPLen:], OK
}

// readICMP returns the header at the start of b, which has at least ICMPLen bytes.
func readICMP(b []byte) ICMP {
	return ICMP{Type: ICMPType(b[0]), Code: b[1], Rest: binary.BigEndian.Uint32(b[4:8])}
}

// Put writes the header to the first ICMPLen bytes of b, followed by body, with the checksum of both.
// The body may already be at b[ICMPLen:].
func (h *ICMP) Put(b []byte, body []byte) {
	b = b[:ICMPLen+len(body)]
	b[0] = uint8(h.Type)
	b[1] = h.Code
	b[2], b[3] = 0, 0
	binary.BigEndian.PutUint32(b[4:8], h.Rest)
	copy(b[ICMPLen:], body)
	binary.BigEndian.PutUint16(b[2:4], Checksum(b))
}

// ParseQuoted parses the datagram that an ICMP error quotes: an IPv4 header and at least 8 bytes of its
// payload. A quote is usually cut short, and routers may have changed it. Therefore ParseQuoted does
// not verify the quoted total length and checksum. Bytes after the total length, such as the extensions of
// RFC 4884, are not part of transport, unless fewer than 8 bytes would remain. It fails with
// ShortQuoted or BadQuoted.
func ParseQuoted(b []byte) (h IPv4, transport []byte, r Reason) {
	n, r := checkIPv4(b)
	switch {
	case r == ShortIPv4:
		return h, nil, ShortQuoted
	case r == BadIPv4HeaderLen && b[0]&15 >= 5:
		return h, nil, ShortQuoted
	case r != OK:
		return h, nil, BadQuoted
	}
	// RFC 792: "The internet header plus the first 64 bits of the original
	// datagram's data."
	const quoted = 8
	if len(b) < n+quoted {
		return h, nil, ShortQuoted
	}
	h.read(b, n)
	end := len(b)
	if t := int(h.TotalLen); t >= n+quoted && t < end {
		end = t
	}
	return h, b[n:end:end], OK
}
