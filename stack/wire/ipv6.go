package wire

import (
	"encoding/binary"
	"net/netip"
)

const (
	// IPv6Len is the length of an IPv6 header in bytes, without extension headers
	// (RFC 8200 3).
	IPv6Len = 40

	// MinIPv6MTU is the minimum MTU of a link that carries IPv6, in bytes. RFC 8200 5: "IPv6 requires
	// that every link in the Internet have an MTU of 1280 octets or greater."
	MinIPv6MTU = 1280
)

// Offsets of fields in an IPv6 header, for the pointer of a Parameter Problem.
const (
	IPv6PayloadLenOffset = 4
	IPv6NextOffset       = 6
)

// An IPv6 is the header of an IPv6 packet (RFC 8200 3).
type IPv6 struct {
	TrafficClass uint8  // six bits of DSCP and two bits of ECN
	FlowLabel    uint32 // 20 bits (RFC 6437); 0: none
	Next         Proto  // type of the next header: an extension header or the transport
	HopLimit     uint8
	Src, Dst     netip.Addr // IPv6, without a zone
	PayloadLen   uint16     // length of the payload in bytes; 0 if above 65535; set by ParseIPv6, ignored by Put
}

// ParseIPv6 checks a packet as a node must, and returns its header and its payload. The payload begins
// with the extension headers, if there are any, and excludes bytes that the link has appended.
// ParseIPv6 does not check the extension headers; WalkIPv6 does.
//
// A TCP super-frame with a payload of more than 65535 bytes has a payload length of 0 and no extension
// headers, and its length is that of b. Such a packet exists in memory only. It is not a jumbogram of RFC
// 2675, which has a hop-by-hop option with the length.
//
// It fails with ShortIPv6, BadIPv6Version or BadIPv6PayloadLen.
func ParseIPv6(b []byte) (h IPv6, payload []byte, r Reason) {
	payload, r = h.ParseHead(b, 0)
	return h, payload, r
}

// ParseHead is ParseIPv6 for a packet in two parts. It stores the header in h, which must be zero. b is the
// first part and contains all headers, tail is the length of the second part in bytes. If tail is positive,
// the two lengths must add up to the length of the packet; if not, ParseHead fails with BadIPv6PayloadLen.
func (h *IPv6) ParseHead(b []byte, tail int) (payload []byte, r Reason) {
	if len(b) < IPv6Len {
		return nil, ShortIPv6
	}
	if b[0]>>4 != 6 {
		return nil, BadIPv6Version
	}
	end := IPv6Len + int(binary.BigEndian.Uint16(b[4:6])) - tail
	if end == IPv6Len-tail && isBig(b[4:6], Proto(b[6]), len(b)-IPv6Len+tail) {
		end = len(b)
	}
	if end < IPv6Len || end > len(b) || tail > 0 && end < len(b) {
		return nil, BadIPv6PayloadLen
	}
	h.read(b)
	return b[IPv6Len:end:end], OK
}

// read sets h from the header at the start of b, which has at least IPv6Len bytes.
func (h *IPv6) read(b []byte) {
	v := binary.BigEndian.Uint32(b[0:4])
	h.TrafficClass = uint8(v >> 20)
	h.FlowLabel = v & 0xfffff
	h.PayloadLen = binary.BigEndian.Uint16(b[4:6])
	h.Next = Proto(b[6])
	h.HopLimit = b[7]
	h.Src = netip.AddrFrom16([16]byte(b[8:24]))
	h.Dst = netip.AddrFrom16([16]byte(b[24:40]))
}

// Put writes the header to the first IPv6Len bytes of b. payloadLen is the length of the payload,
// extension headers included. Put does not read the payload. Put writes IPv4 addresses in their
// IPv4-mapped form.
func (h *IPv6) Put(b []byte, payloadLen int) {
	if payloadLen < 0 || payloadLen > 0xffff {
		panic("wire: the payload does not fit an IPv6 packet")
	}
	_ = b[IPv6Len-1]
	be := binary.BigEndian
	be.PutUint32(b[0:4], 6<<28|uint32(h.TrafficClass)<<20|h.FlowLabel&0xfffff)
	be.PutUint16(b[4:6], uint16(payloadLen))
	b[6] = uint8(h.Next)
	b[7] = h.HopLimit
	*(*[16]byte)(b[8:24]) = h.Src.As16()
	*(*[16]byte)(b[24:40]) = h.Dst.As16()
}
