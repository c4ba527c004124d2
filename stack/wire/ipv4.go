package wire

import (
	"encoding/binary"
	"net/netip"
)

const (
	IPv4Len    = 20 // bytes of an IPv4 header without options
	MaxIPv4Len = 60 // maximum length of an IPv4 header with options, in bytes
)

// A Proto is the protocol of an IP datagram's payload: the Protocol field of IPv4, the Next Header
// field of IPv6.
type Proto uint8

const (
	ProtoICMP   Proto = 1
	ProtoIGMP   Proto = 2
	ProtoTCP    Proto = 6
	ProtoUDP    Proto = 17
	ProtoICMPv6 Proto = 58
)

// ECN codepoints: the two lowest bits of TOS (RFC 3168 5).
const (
	NotECT  = 0 // not ECN-capable
	ECT1    = 1
	ECT0    = 2
	CE      = 3 // congestion experienced
	ECNMask = 3
)

const (
	ipv4DontFragment  = 0x4000
	ipv4MoreFragments = 0x2000
	ipv4OffsetMask    = 0x1fff // in units of 8 bytes
)

// An IPv4 is the header of an IPv4 datagram (RFC 791 3.1).
type IPv4 struct {
	TOS           uint8 // six bits of DSCP and two bits of ECN
	ID            uint16
	DontFragment  bool
	MoreFragments bool
	FragOffset    uint16 // in bytes, a multiple of 8
	TTL           uint8
	Proto         Proto
	Src, Dst      netip.Addr // IPv4
	Options       []byte     // at most 40 bytes; set by ParseIPv4 to a slice of the packet, not a copy
	TotalLen      uint16     // header and payload in bytes; 0 if above 65535; set by ParseIPv4, ignored by Put
}

// ParseIPv4 checks a datagram as a host must, and returns its header and its payload. The payload
// excludes bytes that the link has appended. ParseIPv4 does not check the options; ParseIPv4Options
// does.
//
// A TCP super-frame of more than 65535 bytes does not fit the Total Length field. It has a total length of
// 0, as on Linux (BIG TCP), and its length is that of b. Such a datagram exists in memory only: no link
// carries it.
//
// It fails with ShortIPv4, BadIPv4Version, BadIPv4HeaderLen, BadIPv4TotalLen or
// BadIPv4Checksum.
func ParseIPv4(b []byte) (h IPv4, payload []byte, r Reason) {
	payload, r = h.ParseHead(b, 0)
	return h, payload, r
}

// ParseHead is ParseIPv4 for a datagram in two parts. It stores the header in h, which must be zero. b is
// the first part and contains the whole header, tail is the length of the second part in bytes. If tail is
// positive, the two lengths must add up to the total length; if not, ParseHead fails with BadIPv4TotalLen.
//
// The stack receives packets with ParseHead, because a header that is returned takes more room on the
// goroutine's stack.
func (h *IPv4) ParseHead(b []byte, tail int) (payload []byte, r Reason) {
	n, r := checkIPv4(b)
	if r != OK {
		return nil, r
	}
	total := int(binary.BigEndian.Uint16(b[2:4])) - tail
	if total < n || total > len(b) || tail > 0 && total < len(b) {
		const fragment = ipv4MoreFragments | ipv4OffsetMask
		if !isBig(b[2:4], Proto(b[9]), len(b)+tail) || binary.BigEndian.Uint16(b[6:8])&fragment != 0 {
			return nil, BadIPv4TotalLen
		}
		total = len(b)
	}
	// RFC 1122 3.2.1.2: "A host MUST verify the IP header checksum on every
	// received datagram and silently discard every datagram that has a bad
	// checksum."
	if Fold(Sum(b[:n], 0)) != 0xffff {
		return nil, BadIPv4Checksum
	}
	h.read(b, n)
	return b[n:total:total], OK
}

// isBig reports whether a packet of the given length is a TCP super-frame that is too long for the length
// field of its IP header. length counts what the field counts.
func isBig(field []byte, proto Proto, length int) bool {
	return field[0]|field[1] == 0 && proto == ProtoTCP && length > 0xffff
}

// checkIPv4 returns the length of the IPv4 header at the start of b. It fails if there is no whole
// header.
func checkIPv4(b []byte) (headerLen int, r Reason) {
	if len(b) < IPv4Len {
		return 0, ShortIPv4
	}
	// RFC 1122 3.2.1.1: "A datagram whose version number is not 4 MUST be
	// silently discarded."
	if b[0]>>4 != 4 {
		return 0, BadIPv4Version
	}
	// RFC 791 3.1: "Note that the minimum value for a correct header is 5."
	n := int(b[0]&15) * 4
	if n < IPv4Len || n > len(b) {
		return 0, BadIPv4HeaderLen
	}
	return n, OK
}

// read sets h from the header of n bytes at the start of b.
func (h *IPv4) read(b []byte, n int) {
	be := binary.BigEndian
	h.TOS = b[1]
	h.TotalLen = be.Uint16(b[2:4])
	h.ID = be.Uint16(b[4:6])
	f := be.Uint16(b[6:8])
	h.DontFragment = f&ipv4DontFragment != 0
	h.MoreFragments = f&ipv4MoreFragments != 0
	h.FragOffset = f & ipv4OffsetMask * 8
	h.TTL = b[8]
	h.Proto = Proto(b[9])
	h.Src = netip.AddrFrom4([4]byte(b[12:16]))
	h.Dst = netip.AddrFrom4([4]byte(b[16:20]))
	if n > IPv4Len {
		h.Options = b[IPv4Len:n:n]
	}
}

// HeaderLen returns the length of the header in bytes, options included. It is a multiple of 4 from 20
// to 60.
func (h *IPv4) HeaderLen() int { return IPv4Len + (len(h.Options)+3)&^3 }

// IsFragment reports whether the datagram is a fragment.
func (h *IPv4) IsFragment() bool { return h.MoreFragments || h.FragOffset != 0 }

// Put writes the header, checksum included, to the first HeaderLen bytes of b. payloadLen is the length
// of the payload. Put does not read the payload. Options are padded with zeros, which mean End of Option
// List. Both addresses must be IPv4.
func (h *IPv4) Put(b []byte, payloadLen int) {
	n := h.HeaderLen()
	if n > MaxIPv4Len {
		panic("wire: more than 40 bytes of IPv4 options")
	}
	if payloadLen < 0 || n+payloadLen > 0xffff {
		panic("wire: the payload does not fit an IPv4 datagram")
	}
	b = b[:n]
	be := binary.BigEndian
	b[0] = 4<<4 | uint8(n/4)
	b[1] = h.TOS
	be.PutUint16(b[2:4], uint16(n+payloadLen))
	be.PutUint16(b[4:6], h.ID)
	f := h.FragOffset / 8
	if h.DontFragment {
		f |= ipv4DontFragment
	}
	if h.MoreFragments {
		f |= ipv4MoreFragments
	}
	be.PutUint16(b[6:8], f)
	b[8] = h.TTL
	b[9] = uint8(h.Proto)
	b[10], b[11] = 0, 0
	*(*[4]byte)(b[12:16]) = h.Src.As4()
	*(*[4]byte)(b[16:20]) = h.Dst.As4()
	if n > IPv4Len {
		clear(b[IPv4Len+copy(b[IPv4Len:], h.Options):])
	}
	be.PutUint16(b[10:12], Checksum(b))
}
