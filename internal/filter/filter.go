// Package filter selects frames by an expression, in the manner of tcpdump (pcap-filter(7)).
//
// An expression joins primitives with "not", "and" and "or", also written !, && and ||. "not"
// binds most tightly. "and" and "or" have equal precedence and associate to the left, as in tcpdump;
// parentheses change that. The primitives are:
//
//	host ADDR     the source or the destination is ADDR
//	net PREFIX    the source or the destination is in PREFIX, such as 192.0.2.0/24
//	port NUMBER   the source or the destination port of TCP, UDP or SCTP is NUMBER
//	ip, ip6, arp  the protocol of the network layer
//	tcp, udp, icmp, icmp6, igmp  the protocol above IP
//
// "src" or "dst" before host, net or port restricts the primitive to that end. host and net also match the
// addresses of ARP packets. A protocol may stand before them: "tcp port 80", "ip6 net 2001:db8::/32", "udp
// src port 53". If a value has no keywords of its own, the keywords of the previous primitive apply to it: "port
// 80 or 443", "host 192.0.2.1 or 192.0.2.2". An address at the beginning or after src or dst needs no "host". A
// prefix there needs no "net".
//
// Unlike in tcpdump, a primitive compares the packet inside a VLAN tag, and the protocol after the extension headers
// of IPv6. An expression cannot contain names of hosts, networks or ports.
package filter

import (
	"encoding/binary"
	"net/netip"

	"github.com/usernet/usernet/stack/wire"
)

// A Filter selects frames. Its methods may be called by several goroutines.
type Filter struct{ all sequence }

// Match reports whether the filter selects a frame. If ethernet is set, the frame begins with its
// Ethernet header, and otherwise with its IP header. The frame may be cut or malformed. A primitive whose
// field is missing in the frame does not match, so "not" with that primitive matches. Match does not allocate.
func (f *Filter) Match(frame []byte, ethernet bool) bool {
	var p packet
	if ethernet {
		p.ethernet(frame)
	} else {
		p.ip(frame)
	}
	return f.all.match(&p)
}

// A sequence is a list of terms joined by "and" and "or". It is evaluated from left to right.
type sequence struct {
	first term
	rest  []joined
}

type joined struct {
	and bool // otherwise or
	term
}

// A term is a primitive or a sequence in parentheses. It may have "not" before it.
type term struct {
	not   bool
	inner *sequence // nil for a primitive
	primitive
}

func (s *sequence) match(p *packet) bool {
	ok := s.first.match(p)
	for i := range s.rest {
		if j := &s.rest[i]; ok == j.and {
			ok = j.match(p)
		}
	}
	return ok
}

func (t *term) match(p *packet) bool {
	var ok bool
	if t.inner != nil {
		ok = t.inner.match(p)
	} else {
		ok = t.primitive.match(p)
	}
	return ok != t.not
}

// A kind is what a primitive compares.
type kind uint8

const (
	kindNone kind = iota // the protocol only
	kindHost
	kindNet
	kindPort
)

// Protocols that a primitive may name.
type protocol uint8

const (
	anyProtocol protocol = iota
	protoIP
	protoIP6
	protoARP
	protoTCP
	protoUDP
	protoICMP
	protoICMP6
	protoIGMP
)

// A primitive is one condition.
type primitive struct {
	proto    protocol
	src, dst bool // which ends to compare
	kind     kind
	net      netip.Prefix // of kindHost and kindNet
	port     uint16
}

func (c *primitive) match(p *packet) bool {
	if !p.is(c.proto) {
		return false
	}
	switch c.kind {
	case kindHost, kindNet:
		return c.src && c.net.Contains(p.src) || c.dst && c.net.Contains(p.dst)
	case kindPort:
		return c.src && p.hasSrc && p.srcPort == c.port || c.dst && p.hasDst && p.dstPort == c.port
	}
	return true
}

// A network is the protocol of the network layer.
type network uint8

const (
	noNetwork network = iota
	ipv4
	ipv6
	arp
)

// A packet holds the fields of a frame that filters compare.
type packet struct {
	network  network
	src, dst netip.Addr // invalid if the packet is too short
	upper    wire.Proto // of IPv4 and IPv6
	hasUpper bool
	hasSrc   bool // the source port is there
	srcPort  uint16
	hasDst   bool // the destination port is there
	dstPort  uint16
}

func (p *packet) is(proto protocol) bool {
	v4, v6 := p.network == ipv4 && p.hasUpper, p.network == ipv6 && p.hasUpper
	switch proto {
	case protoIP:
		return p.network == ipv4
	case protoIP6:
		return p.network == ipv6
	case protoARP:
		return p.network == arp
	case protoTCP:
		return (v4 || v6) && p.upper == wire.ProtoTCP
	case protoUDP:
		return (v4 || v6) && p.upper == wire.ProtoUDP
	case protoICMP:
		return v4 && p.upper == wire.ProtoICMP
	case protoICMP6:
		return v6 && p.upper == wire.ProtoICMPv6
	case protoIGMP:
		return v4 && p.upper == wire.ProtoIGMP
	}
	return true
}

// The EtherTypes of VLAN tags (IEEE 802.1Q, 802.1ad).
const (
	etherTypeVLAN  = 0x8100
	etherTypeQinQ  = 0x88a8
	vlanTagLen     = 4
	maxVLANTags    = 2
	etherTypeAfter = 12 // offset of the EtherType
)

func (p *packet) ethernet(b []byte) {
	if len(b) < wire.EthernetLen {
		return
	}
	at := etherTypeAfter
	kind := binary.BigEndian.Uint16(b[at:])
	for n := 0; (kind == etherTypeVLAN || kind == etherTypeQinQ) && n < maxVLANTags; n++ {
		at += vlanTagLen
		if len(b) < at+2 {
			return
		}
		kind = binary.BigEndian.Uint16(b[at:])
	}
	b = b[at+2:]
	switch wire.EtherType(kind) {
	case wire.EtherTypeARP:
		p.network = arp
		if len(b) >= 18 {
			p.src = netip.AddrFrom4([4]byte(b[14:18]))
		}
		if len(b) >= wire.ARPLen {
			p.dst = netip.AddrFrom4([4]byte(b[24:28]))
		}
	case wire.EtherTypeIPv4:
		p.ip4(b)
	case wire.EtherTypeIPv6:
		p.ip6(b)
	}
}

// ip reads the headers of a packet without a link-layer header.
func (p *packet) ip(b []byte) {
	switch wire.Version(b) {
	case 4:
		p.ip4(b)
	case 6:
		p.ip6(b)
	}
}

// ip4 reads an IPv4 header. It reads the fields that tcpdump reads, and verifies nothing.
func (p *packet) ip4(b []byte) {
	p.network = ipv4
	if len(b) >= 10 {
		p.upper, p.hasUpper = wire.Proto(b[9]), true
	}
	if len(b) >= 16 {
		p.src = netip.AddrFrom4([4]byte(b[12:16]))
	}
	if len(b) < wire.IPv4Len {
		return
	}
	p.dst = netip.AddrFrom4([4]byte(b[16:20]))
	const offset = 0x1fff // mask of the fragment offset
	if n := int(b[0]&15) * 4; binary.BigEndian.Uint16(b[6:])&offset == 0 && n <= len(b) {
		p.transport(b[n:])
	}
}

// protoSCTP has its ports where TCP and UDP have theirs (RFC 9260 3.1).
const protoSCTP wire.Proto = 132

// protoAH is the Authentication Header (RFC 4302). Its length field has its length in words of 4 bytes, minus 2.
const protoAH wire.Proto = 51

// transport reads the ports.
func (p *packet) transport(b []byte) {
	switch p.upper {
	case wire.ProtoTCP, wire.ProtoUDP, protoSCTP:
		if len(b) >= 2 {
			p.hasSrc, p.srcPort = true, binary.BigEndian.Uint16(b)
		}
		if len(b) >= 4 {
			p.hasDst, p.dstPort = true, binary.BigEndian.Uint16(b[2:])
		}
	}
}

// maxExtensions is the maximum number of extension headers that ip6 walks.
const maxExtensions = 32

// ip6 reads an IPv6 header and walks the extension headers.
func (p *packet) ip6(b []byte) {
	p.network = ipv6
	if len(b) >= 24 {
		p.src = netip.AddrFrom16([16]byte(b[8:24]))
	}
	if len(b) < wire.IPv6Len {
		if len(b) > wire.IPv6NextOffset {
			p.upper, p.hasUpper = wire.Proto(b[wire.IPv6NextOffset]), true
		}
		return
	}
	p.dst = netip.AddrFrom16([16]byte(b[24:40]))
	next := wire.Proto(b[wire.IPv6NextOffset])
	b = b[wire.IPv6Len:]
	for range maxExtensions {
		size := 0
		switch next {
		case wire.ProtoHopByHop, wire.ProtoRouting, wire.ProtoDstOpts:
			if len(b) >= 2 {
				size = (int(b[1]) + 1) * 8
			}
		case protoAH:
			if len(b) >= 2 {
				size = (int(b[1]) + 2) * 4
			}
		case wire.ProtoFragment:
			if len(b) < wire.FragmentLen {
				return
			}
			if binary.BigEndian.Uint16(b[2:])&^7 != 0 {
				p.upper, p.hasUpper = wire.Proto(b[0]), true // a later fragment contains no transport header
				return
			}
			size = wire.FragmentLen
		default:
			p.upper, p.hasUpper = next, true
			p.transport(b)
			return
		}
		if size == 0 || size > len(b) {
			return
		}
		next, b = wire.Proto(b[0]), b[size:]
	}
}
