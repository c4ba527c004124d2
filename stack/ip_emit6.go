package stack

import (
	"cmp"
	"encoding/binary"
	"net/netip"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// makeHeader6 is makeHeader for IPv6.
func (p *path) makeHeader6() {
	p.v6, p.ipLen, p.gsoKind = true, wire.IPv6Len, nic.GSOTCP6
	p.hops = uint8(cmp.Or(p.ifc.hops6.Load(), defaultTTL))
	h := &p.header
	if p.ifc.linkLen > 0 {
		p.ifc.putLink(h.link[maxLinkLen-p.ifc.linkLen:], wire.MAC{}, wire.EtherTypeIPv6)
	}
	*(*[16]byte)(h.addrs6[:16]) = p.src.As16()
	*(*[16]byte)(h.addrs6[16:]) = p.dst.As16()
	if p.ifc.loopback && p.zone != 0 {
		putScope(&h.addrs6, p.zone)
	}
	h.pseudo = wire.PseudoSum(p.src, p.dst, 0, 0)
	h.label = ipVersion6<<28 | p.ifc.s.flowLabel(p.src, p.dst)
}

// ipVersion6 is the version in an IPv6 header.
const ipVersion6 = 6

// flowLabel returns the part of the flow label that depends on the addresses only. putHeaders6 adds the
// ports of each packet.
//
// RFC 6437 3: a label is chosen "as a function of the 5-tuple"; its bits "exhibit a high degree of
// variability"; "third parties should be unlikely to be able to guess the next value".
func (s *Stack) flowLabel(src, dst netip.Addr) uint32 {
	return uint32(s.hashAddrs(netip.AddrPortFrom(src, 0), netip.AddrPortFrom(dst, 0))) & maxFlowLabel
}

const maxFlowLabel = 1<<20 - 1

// putHeaders6 is putHeaders for IPv6.
func (p *path) putHeaders6(h *ipHeader, buf []byte, n int) int {
	at, next := transportAt-wire.IPv6Len, h.proto
	label := p.header.label
	if (next == wire.ProtoTCP || next == wire.ProtoUDP) && len(buf) >= transportAt+4 {
		// The caller has written the ports; only a raw socket's packet may be too short for them. The
		// multiplication spreads the ports over all bits of the label.
		label ^= binary.BigEndian.Uint32(buf[transportAt:]) * 0x9e3779b1 >> 12
	}
	if m := h.more; m != nil && len(m.ext) > 0 {
		at -= len(m.ext)
		copy(buf[transportAt-len(m.ext):], m.ext)
		next, label = m.first, p.header.label // the label of fragments must not depend on their payload
	}
	b := buf[at-maxLinkLen : transportAt]
	*(*[maxLinkLen]byte)(b) = p.header.link
	ip := b[maxLinkLen:]
	length := uint64(len(ip) - wire.IPv6Len + n)
	if length > maxIPv6 {
		length = 0 // a large TCP super-frame: see wire.ParseIPv6
	}
	first := uint64(label | uint32(h.tos)<<20)
	binary.BigEndian.PutUint64(ip[0:8], first<<32|length<<16|uint64(next)<<8|uint64(h.ttl))
	*(*[32]byte)(ip[8:40]) = p.header.addrs6
	return at
}
