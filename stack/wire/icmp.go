package wire

import "encoding/binary"

// ICMPLen is the length in bytes of the header of an ICMP message.
const ICMPLen = 8

// An ICMPType is the type of an ICMP message for IPv4 (RFC 792).
type ICMPType uint8

const (
	ICMPEchoReply      ICMPType = 0
	ICMPUnreachable    ICMPType = 3
	ICMPSourceQuench   ICMPType = 4 // deprecated by RFC 6633: to be ignored
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
	Rest uint32 // bytes 4 to 7, whose meaning is the type's; see EchoRest
}

// EchoRest returns the Rest of an echo or echo reply.
func EchoRest(id, seq uint16) uint32 { return uint32(id)<<16 | uint32(seq) }

// ID returns the identifier of an echo or echo reply.
func (h *ICMP) ID() uint16 { return uint16(h.Rest >> 16) }

// Seq returns the sequence number of an echo or echo reply.
func (h *ICMP) Seq() uint16 { return uint16(h.Rest) }

// NextHopMTU returns the MTU that UnreachFragNeeded tells of, or 0 where the
// router does not know RFC 1191 (its section 4).
func (h *ICMP) NextHopMTU() uint16 { return uint16(h.Rest) }

// Pointer returns the offset in bytes of what ICMPParamProblem complains of.
func (h *ICMP) Pointer() uint8 { return uint8(h.Rest >> 24) }

// IsError tells whether the message reports an error about a datagram, which
// its body quotes. RFC 1122 3.2.2 forbids to answer such a message by another.
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

// readICMP returns the header that b, of at least ICMPLen bytes, begins with.
func readICMP(b []byte) ICMP {
	return ICMP{Type: ICMPType(b[0]), Code: b[1], Rest: binary.BigEndian.Uint32(b[4:8])}
}

// Put writes the header to the first ICMPLen bytes of b and body after it, with
// the checksum of both. The body may lie at b[ICMPLen:] already.
func (h *ICMP) Put(b []byte, body []byte) {
	b = b[:ICMPLen+len(body)]
	b[0] = uint8(h.Type)
	b[1] = h.Code
	b[2], b[3] = 0, 0
	binary.BigEndian.PutUint32(b[4:8], h.Rest)
	copy(b[ICMPLen:], body)
	binary.BigEndian.PutUint16(b[2:4], Checksum(b))
}

// ParseQuoted parses what an ICMP error quotes of the datagram that it is
// about: an IPv4 header and the first bytes of what followed, at least 8. The
// quote is as a rule cut short, and routers may have changed it: therefore
// neither its total length nor its checksum is verified, and bytes after its
// total length, such as the extensions of RFC 4884, are left out only where at
// least 8 remain. It fails with ShortQuoted or BadQuoted.
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
