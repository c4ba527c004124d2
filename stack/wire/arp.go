package wire

import (
	"encoding/binary"
	"net/netip"
)

// ARPLen is the length in bytes of an ARP packet for IPv4 over Ethernet.
const ARPLen = 28

// An ARPOp is the operation of an ARP packet.
type ARPOp uint16

const (
	ARPRequest ARPOp = 1
	ARPReply   ARPOp = 2
)

// The fixed fields of an ARP packet for IPv4 over Ethernet (RFC 826).
const (
	arpEthernet = 1 // ar$hrd
	arpMACLen   = 6 // ar$hln
	arpIPLen    = 4 // ar$pln
)

// An ARP is an ARP packet for IPv4 over Ethernet (RFC 826).
type ARP struct {
	Op        ARPOp
	SenderMAC MAC
	SenderIP  netip.Addr // IPv4
	TargetMAC MAC        // not used in a request
	TargetIP  netip.Addr // IPv4
}

// ParseARP parses an ARP packet. It ignores padding after the packet. It fails with ShortARP, or with
// BadARP if the packet is not for IPv4 over Ethernet, or is neither a request nor a reply.
func ParseARP(b []byte) (h ARP, r Reason) {
	if len(b) < ARPLen {
		return h, ShortARP
	}
	// RFC 826: "?Do I have the hardware type in ar$hrd? ... ?Do I speak the
	// protocol in ar$pro?" with the optional checks of both lengths.
	be := binary.BigEndian
	if be.Uint16(b[0:2]) != arpEthernet || be.Uint16(b[2:4]) != uint16(EtherTypeIPv4) ||
		b[4] != arpMACLen || b[5] != arpIPLen {
		return h, BadARP
	}
	op := ARPOp(be.Uint16(b[6:8]))
	if op != ARPRequest && op != ARPReply {
		return h, BadARP
	}
	h.Op = op
	h.SenderMAC = MAC(b[8:14])
	h.SenderIP = netip.AddrFrom4([4]byte(b[14:18]))
	h.TargetMAC = MAC(b[18:24])
	h.TargetIP = netip.AddrFrom4([4]byte(b[24:28]))
	return h, OK
}

// Put writes the packet to the first ARPLen bytes of b. Both IP addresses must
// be IPv4.
func (h *ARP) Put(b []byte) {
	_ = b[ARPLen-1]
	be := binary.BigEndian
	be.PutUint16(b[0:2], arpEthernet)
	be.PutUint16(b[2:4], uint16(EtherTypeIPv4))
	b[4] = arpMACLen
	b[5] = arpIPLen
	be.PutUint16(b[6:8], uint16(h.Op))
	*(*MAC)(b[8:14]) = h.SenderMAC
	*(*[4]byte)(b[14:18]) = h.SenderIP.As4()
	*(*MAC)(b[18:24]) = h.TargetMAC
	*(*[4]byte)(b[24:28]) = h.TargetIP.As4()
}
