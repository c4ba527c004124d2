package wire

import (
	"encoding/binary"
	"net/netip"
)

const (
	EthernetLen = 14 // bytes of an Ethernet header
	VLANTagLen  = 4  // bytes of a VLAN tag
	MinFrame    = 60 // minimum length of an Ethernet frame in bytes, without its check sequence
)

// A MAC is an Ethernet address. The zero value is not the address of any station.
type MAC [6]byte

// Broadcast returns ff:ff:ff:ff:ff:ff, the address of all stations.
func Broadcast() MAC { return MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff} }

// MulticastMAC returns the Ethernet address of an IP multicast group.
func MulticastMAC(ip netip.Addr) MAC {
	if ip.Is4() || ip.Is4In6() {
		// RFC 1112 6.4: "placing the low-order 23-bits of the IP address into
		// the low-order 23 bits of the Ethernet multicast address
		// 01-00-5E-00-00-00 (hex)."
		a := ip.As4()
		return MAC{0x01, 0x00, 0x5e, a[1] & 0x7f, a[2], a[3]}
	}
	// RFC 2464 7: "the Ethernet multicast address whose first two octets are
	// the value 3333 hexadecimal and whose last four octets are the last four
	// octets of DST."
	a := ip.As16()
	return MAC{0x33, 0x33, a[12], a[13], a[14], a[15]}
}

// IsBroadcast reports whether m is the broadcast address.
func (m MAC) IsBroadcast() bool { return m == Broadcast() }

// IsMulticast reports whether m is a group address. The broadcast address is a group address too.
func (m MAC) IsMulticast() bool { return m[0]&1 != 0 }

// String returns m as "02:00:5e:10:00:01".
func (m MAC) String() string { return string(m.appendTo(make([]byte, 0, 17))) }

func (m MAC) appendTo(dst []byte) []byte {
	const hex = "0123456789abcdef"
	for i, c := range m {
		if i > 0 {
			dst = append(dst, ':')
		}
		dst = append(dst, hex[c>>4], hex[c&15])
	}
	return dst
}

// An EtherType identifies the protocol of a frame's payload. Values below 0x600 are not types but
// lengths of IEEE 802.3 frames.
type EtherType uint16

const (
	EtherTypeIPv4 EtherType = 0x0800
	EtherTypeARP  EtherType = 0x0806
	EtherTypeVLAN EtherType = 0x8100 // a VLAN tag follows (IEEE 802.1Q)
	EtherTypeIPv6 EtherType = 0x86dd
)

// An Ethernet is the header of an Ethernet II frame (RFC 894).
type Ethernet struct {
	Dst, Src MAC
	Type     EtherType
}

// ParseEthernet returns the header and the payload of a frame. The payload includes the padding. It
// fails with ShortEthernet.
func ParseEthernet(b []byte) (h Ethernet, payload []byte, r Reason) {
	if len(b) < EthernetLen {
		return h, nil, ShortEthernet
	}
	h.Dst = MAC(b[0:6])
	h.Src = MAC(b[6:12])
	h.Type = EtherType(binary.BigEndian.Uint16(b[12:14]))
	return h, b[EthernetLen:], OK
}

// Put writes the header to the first EthernetLen bytes of b.
func (h *Ethernet) Put(b []byte) {
	_ = b[EthernetLen-1]
	*(*MAC)(b[0:6]) = h.Dst
	*(*MAC)(b[6:12]) = h.Src
	binary.BigEndian.PutUint16(b[12:14], uint16(h.Type))
}

// A VLANTag is the tag of IEEE 802.1Q that follows an Ethernet header with the type EtherTypeVLAN.
type VLANTag struct {
	Priority     uint8     // 0 to 7
	DropEligible bool      // the frame may be dropped before others
	ID           uint16    // of the VLAN, 0 to 4095; 0 means that the tag has only a priority
	Type         EtherType // of the payload
}

// ParseVLANTag returns the tag at the beginning of b, and the payload. It fails with ShortVLANTag.
func ParseVLANTag(b []byte) (t VLANTag, payload []byte, r Reason) {
	if len(b) < VLANTagLen {
		return t, nil, ShortVLANTag
	}
	t.Priority = b[0] >> 5
	t.DropEligible = b[0]&0x10 != 0
	t.ID = binary.BigEndian.Uint16(b) & 0xfff
	t.Type = EtherType(binary.BigEndian.Uint16(b[2:]))
	return t, b[VLANTagLen:], OK
}

// Put writes the tag to the first VLANTagLen bytes of b.
func (t *VLANTag) Put(b []byte) {
	_ = b[VLANTagLen-1]
	field := uint16(t.Priority)<<13 | t.ID
	if t.DropEligible {
		field |= 1 << 12
	}
	binary.BigEndian.PutUint16(b, field)
	binary.BigEndian.PutUint16(b[2:], uint16(t.Type))
}
