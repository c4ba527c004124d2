package wire

import (
	"encoding/binary"
	"net/netip"
)

// Multicast listener discovery: version 1 is RFC 2710, version 2 is RFC 9777. The functions parse and
// write the body of an ICMPv6 message, which begins after its first 8 bytes. ICMPv6.Rest contains the
// maximum response delay or code in its upper half, and the number of records of a version 2 report in
// its lower half.

const (
	MLDLen   = 16 // bytes of a version 1 body
	MLDv2Len = 20 // bytes of the body of a version 2 query without its sources
)

// An MLDQuery is a Multicast Listener Query.
type MLDQuery struct {
	Version    int        // 1 or 2
	Group      netip.Addr // unspecified means all groups
	Millis     int        // maximum response delay in milliseconds
	Robustness int        // version 2: the querier's robustness variable, up to 7; 0: unspecified
	Interval   int        // version 2: the querier's query interval in seconds; 0: unspecified
	Sources    []byte     // version 2: 16 bytes each
}

// ParseMLDQuery parses the body of a query. rest is ICMPv6.Rest. It fails with ShortMLD or
// BadMLDLength.
func ParseMLDQuery(rest uint32, b []byte) (h MLDQuery, r Reason) {
	if len(b) < MLDLen {
		return h, ShortMLD
	}
	h.Group = netip.AddrFrom16([16]byte(b[:16]))
	code := uint16(rest >> 16)
	// RFC 9777 8.1: "MLDv1 Query: length = 24 octets. MLDv2 Query: length >= 28 octets. Query
	// messages that do not match any of the above conditions (e.g., a Query of length 26
	// octets) MUST be silently ignored."
	switch {
	case len(b) == MLDLen:
		h.Version, h.Millis = 1, int(code)
	case len(b) >= MLDv2Len:
		h.Version, h.Millis = 2, mldFloat(code)
		h.Robustness = int(b[16] & 7)
		h.Interval = igmpFloat(b[17])
		n := int(binary.BigEndian.Uint16(b[18:20])) * 16
		if MLDv2Len+n > len(b) {
			return h, BadMLDLength
		}
		h.Sources = b[MLDv2Len : MLDv2Len+n]
	default:
		return h, BadMLDLength
	}
	return h, OK
}

// mldFloat decodes a maximum response code. RFC 9777 5.1.3: "If Maximum Response Code >= 32768, Maximum
// Response Code represents a floating-point value".
func mldFloat(code uint16) int {
	if code < 32768 {
		return int(code)
	}
	mant, exp := int(code&0xfff), int(code>>12&7)
	return (mant | 0x1000) << (exp + 3)
}
