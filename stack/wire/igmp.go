package wire

import (
	"encoding/binary"
	"net/netip"
)

const (
	IGMPLen   = 8  // bytes of a message of version 1 or 2, and of a version 3 report without its records
	IGMPv3Len = 12 // bytes of a version 3 query without its sources
)

// An IGMPType is the type of an IGMP message (RFC 1112, RFC 2236, RFC 3376).
type IGMPType uint8

const (
	IGMPQuery    IGMPType = 0x11
	IGMPv1Report IGMPType = 0x12
	IGMPv2Report IGMPType = 0x16
	IGMPv2Leave  IGMPType = 0x17
	IGMPv3Report IGMPType = 0x22
)

// An IGMP is an IGMP message. The fields from Version on are set only for queries.
type IGMP struct {
	Type  IGMPType
	Group netip.Addr // in a query, unspecified means all groups

	Version    int    // 1, 2 or 3
	Tenths     int    // maximum response time in tenths of a second; 100 for version 1
	Robustness int    // version 3: the querier's robustness variable, up to 7; 0: unspecified
	Interval   int    // version 3: the querier's query interval in seconds; 0: unspecified
	Sources    []byte // version 3: 4 bytes each
}

// ParseIGMP checks a message and returns the fields that a host needs. It fails with ShortIGMP,
// BadIGMPLength or BadIGMPChecksum.
func ParseIGMP(b []byte) (h IGMP, r Reason) {
	if len(b) < IGMPLen {
		return h, ShortIGMP
	}
	// RFC 3376 4.1.2: "When receiving packets, the checksum MUST be verified
	// before processing a packet." It covers all of the IP payload.
	if Fold(Sum(b, 0)) != 0xffff {
		return h, BadIGMPChecksum
	}
	h.Type = IGMPType(b[0])
	h.Group = netip.AddrFrom4([4]byte(b[4:8]))
	if h.Type != IGMPQuery {
		return h, OK
	}
	code := b[1]
	// RFC 3376 7.1: "IGMPv1 Query: length = 8 octets AND Max Resp Code field is
	// zero. IGMPv2 Query: length = 8 octets AND Max Resp Code field is
	// non-zero. IGMPv3 Query: length >= 12 octets. Query messages that do not
	// match any of the above conditions ... MUST be silently ignored."
	switch {
	case len(b) == IGMPLen && code == 0:
		h.Version, h.Tenths = 1, 100
	case len(b) == IGMPLen:
		h.Version, h.Tenths = 2, int(code)
	case len(b) >= IGMPv3Len:
		h.Version, h.Tenths = 3, igmpFloat(code)
		h.Robustness = int(b[8] & 7)
		h.Interval = igmpFloat(b[9])
		n := int(binary.BigEndian.Uint16(b[10:12])) * 4
		if IGMPv3Len+n > len(b) {
			return h, BadIGMPLength
		}
		h.Sources = b[IGMPv3Len : IGMPv3Len+n]
	default:
		return h, BadIGMPLength
	}
	return h, OK
}

// igmpFloat decodes a Max Resp Code (RFC 3376 4.1.1) or a QQIC (4.1.7): "If Max Resp Code >= 128, Max Resp
// Code represents a floating-point value".
func igmpFloat(code uint8) int {
	if code < 128 {
		return int(code)
	}
	mant, exp := int(code&15), int(code>>4&7)
	return (mant | 0x10) << (exp + 3)
}

// PutIGMP writes a message of version 1 or 2 to the first IGMPLen bytes of b.
func PutIGMP(b []byte, typ IGMPType, group netip.Addr) {
	b = b[:IGMPLen]
	b[0], b[1], b[2], b[3] = byte(typ), 0, 0, 0
	*(*[4]byte)(b[4:8]) = group.As4()
	binary.BigEndian.PutUint16(b[2:4], Checksum(b))
}

// PutIGMPv3Report writes the header of a report to the start of b. b is the whole message, and already
// contains the n group records.
func PutIGMPv3Report(b []byte, n int) {
	clear(b[:IGMPLen])
	b[0] = byte(IGMPv3Report)
	binary.BigEndian.PutUint16(b[6:8], uint16(n))
	binary.BigEndian.PutUint16(b[2:4], Checksum(b))
}

// ipv4OptRouterAlert is the type of the router alert option (RFC 2113 2.1). The option's value 0 means
// "Router shall examine packet".
const ipv4OptRouterAlert = 148

// RouterAlertOption returns IPv4 options that consist of a router alert.
func RouterAlertOption() []byte { return []byte{ipv4OptRouterAlert, 4, 0, 0} }

// RouterAlert reports whether the options of a datagram contain a router alert. The options must be
// well formed.
func RouterAlert(options []byte) bool {
	for i := 0; i+1 < len(options); {
		switch options[i] {
		case ipv4OptEnd:
			return false
		case ipv4OptNop:
			i++
			continue
		case ipv4OptRouterAlert:
			return true
		}
		i += max(int(options[i+1]), 2)
	}
	return false
}
