package wire

import (
	"encoding/binary"
	"net/netip"
)

// UDPLen is the length of a UDP header in bytes.
const UDPLen = 8

// UDPChecksumOffset is the offset of the checksum in the header (RFC 768).
const UDPChecksumOffset = 6

// A UDP is the header of a UDP datagram (RFC 768).
type UDP struct {
	SrcPort, DstPort uint16
	Length           uint16 // header and data in bytes; set by ParseUDP, ignored by Put
	Checksum         uint16 // as received, 0 if the sender computed none; ignored by Put
}

// ParseUDP returns the header and the data of the UDP datagram at the start of b. It does not verify
// the checksum. It fails with ShortUDP or BadUDPLength.
func ParseUDP(b []byte) (h UDP, payload []byte, r Reason) {
	if len(b) < UDPLen {
		return h, nil, ShortUDP
	}
	// RFC 768: "Length is the length in octets of this user datagram including
	// this header and the data. (This means the minimum value of the length is
	// eight.)"
	be := binary.BigEndian
	n := be.Uint16(b[4:6])
	if n < UDPLen || int(n) > len(b) {
		return h, nil, BadUDPLength
	}
	h.SrcPort = be.Uint16(b[0:2])
	h.DstPort = be.Uint16(b[2:4])
	h.Length = n
	h.Checksum = be.Uint16(b[6:8])
	return h, b[UDPLen:n:n], OK
}

// Put writes the header for payloadLen bytes of data to the first UDPLen bytes of b. The checksum is 0,
// which means none.
func (h *UDP) Put(b []byte, payloadLen int) {
	if payloadLen < 0 || payloadLen > 0xffff-UDPLen {
		panic("wire: the payload does not fit a UDP datagram")
	}
	_ = b[UDPLen-1]
	be := binary.BigEndian
	be.PutUint16(b[0:2], h.SrcPort)
	be.PutUint16(b[2:4], h.DstPort)
	be.PutUint16(b[4:6], uint16(UDPLen+payloadLen))
	b[6], b[7] = 0, 0
}

// UDPChecksumOK verifies the checksum of a datagram that ParseUDP has accepted. datagram has the header
// and the data as received. Bytes beyond the length in the header are ignored.
func UDPChecksumOK(src, dst netip.Addr, datagram []byte) bool {
	if len(datagram) < UDPLen {
		return false
	}
	if datagram[6] == 0 && datagram[7] == 0 {
		// RFC 768: "An all zero transmitted checksum value means that the
		// transmitter generated no checksum".
		// RFC 8200 8.1: "IPv6 receivers must discard UDP packets containing a
		// zero checksum".
		return src.Is4() || src.Is4In6()
	}
	if n := int(binary.BigEndian.Uint16(datagram[4:6])); n < len(datagram) {
		datagram = datagram[:n]
	}
	return Fold(Sum(datagram, PseudoSum(src, dst, uint8(ProtoUDP), len(datagram)))) == 0xffff
}

// SetUDPChecksum computes the checksum of a datagram and writes it to the checksum field.
func SetUDPChecksum(src, dst netip.Addr, datagram []byte) {
	datagram[6], datagram[7] = 0, 0
	c := ^Fold(Sum(datagram, PseudoSum(src, dst, uint8(ProtoUDP), len(datagram))))
	// RFC 768: "If the computed checksum is zero, it is transmitted as all ones".
	if c == 0 {
		c = 0xffff
	}
	binary.BigEndian.PutUint16(datagram[6:8], c)
}
