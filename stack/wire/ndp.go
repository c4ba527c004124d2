package wire

import (
	"encoding/binary"
	"net/netip"
	"strings"
)

// Neighbour discovery (RFC 4861). The functions parse and write the body of an ICMPv6 message, which
// begins after its first 8 bytes. The fields before the body are in ICMPv6.Rest.

// NDHopLimit is the hop limit of every message. RFC 4861 11.2: a node "MUST verify that the IP
// Hop Limit field has a value of 255, i.e., the packet could not possibly have been forwarded
// by a router."
const NDHopLimit = 255

// NDOptionType is the type of an option.
type NDOptionType uint8

const (
	NDSourceLink NDOptionType = 1
	NDTargetLink NDOptionType = 2
	NDPrefix     NDOptionType = 3
	NDRedirected NDOptionType = 4  // the packet that caused a Redirect
	NDMTU        NDOptionType = 5  // MTU of the link
	NDNonce      NDOptionType = 14 // RFC 3971 5.3.2, RFC 7527
	NDRoute      NDOptionType = 24 // RFC 4191
	NDRDNSS      NDOptionType = 25 // RFC 8106
	NDDNSSL      NDOptionType = 31 // RFC 8106
	NDPREF64     NDOptionType = 38 // RFC 8781
)

// maxNDOptions is the maximum number of options of a message.
const maxNDOptions = 64

// An NDOption is an option of a message. Body begins after the type and the length.
type NDOption struct {
	Type NDOptionType
	Body []byte
}

// NextNDOption returns the first option in b, and the options after it. It returns false at the end.
// The options must have passed CheckNDOptions.
func NextNDOption(b []byte) (o NDOption, rest []byte, ok bool) {
	if len(b) < 8 {
		return o, nil, false
	}
	n := int(b[1]) * 8
	if n == 0 || n > len(b) {
		return o, nil, false
	}
	return NDOption{NDOptionType(b[0]), b[2:n:n]}, b[n:], true
}

// CheckNDOptions checks that b consists of complete options. It fails with BadNDOption.
//
// RFC 4861 6.1, 7.1 and 8.1: "All included options have a length that is greater than zero."
func CheckNDOptions(b []byte) Reason {
	for range maxNDOptions {
		if len(b) == 0 {
			return OK
		}
		if len(b) < 8 || b[1] == 0 || int(b[1])*8 > len(b) {
			return BadNDOption
		}
		b = b[int(b[1])*8:]
	}
	return BadNDOption
}

// AppendNDOption appends an option. It pads the option with zeros to a multiple of 8 bytes, type and
// length included (RFC 4861 4.6). body has at most 2038 bytes.
func AppendNDOption(b []byte, t NDOptionType, body []byte) []byte {
	n := (len(body) + 2 + 7) / 8
	if n > 255 {
		panic("wire: the option is too long")
	}
	b = append(b, byte(t), byte(n))
	b = append(b, body...)
	for range n*8 - 2 - len(body) {
		b = append(b, 0)
	}
	return b
}

// linkOption returns the Ethernet address in the last option of type t. It returns false if there is no
// such option.
func linkOption(b []byte, t NDOptionType) (mac MAC, ok bool) {
	for {
		o, rest, more := NextNDOption(b)
		if !more {
			return mac, ok
		}
		if o.Type == t {
			mac, ok = MAC(o.Body), true
		}
		b = rest
	}
}

// SolicitedNode returns the solicited-node multicast address of a: the group of all nodes that have an
// address with the same last 24 bits. RFC 4291 2.7.1: it is "formed by taking the low-order 24 bits of
// an address (unicast or anycast) and appending those bits to the prefix FF02:0:0:0:0:1:FF00::/104".
func SolicitedNode(a netip.Addr) netip.Addr {
	b := a.As16()
	return netip.AddrFrom16([16]byte{0: 0xff, 1: 2, 11: 1, 12: 0xff, 13: b[13], 14: b[14], 15: b[15]})
}

// A NeighborSol is a Neighbor Solicitation (RFC 4861 4.3).
type NeighborSol struct {
	Target    netip.Addr
	Source    MAC  // Ethernet address of the sender
	HasSource bool // false in duplicate address detection
	Nonce     [6]byte
	HasNonce  bool // see RFC 7527 4.1
}

// ParseNeighborSol parses the body of a Neighbor Solicitation. It fails with ShortND,
// BadNDOption or BadND.
func ParseNeighborSol(b []byte) (h NeighborSol, r Reason) {
	if h.Target, r = ndTarget(b); r != OK {
		return h, r
	}
	h.Source, h.HasSource = linkOption(b[16:], NDSourceLink)
	for o, rest, ok := NextNDOption(b[16:]); ok; o, rest, ok = NextNDOption(rest) {
		if o.Type == NDNonce && len(o.Body) == len(h.Nonce) {
			h.Nonce, h.HasNonce = [6]byte(o.Body), true
		}
	}
	return h, OK
}

// Append appends the body.
func (h *NeighborSol) Append(b []byte) []byte {
	a := h.Target.As16()
	b = append(b, a[:]...)
	if h.HasSource {
		b = AppendNDOption(b, NDSourceLink, h.Source[:])
	}
	if h.HasNonce {
		b = AppendNDOption(b, NDNonce, h.Nonce[:])
	}
	return b
}

// Flags of a Neighbor Advertisement, in ICMPv6.Rest.
const (
	NARouter    = 1 << 31
	NASolicited = 1 << 30
	NAOverride  = 1 << 29
)

// A NeighborAdv is a Neighbor Advertisement (RFC 4861 4.4), without its flags.
type NeighborAdv struct {
	Target  netip.Addr
	Link    MAC // Ethernet address of the target
	HasLink bool
}

// ParseNeighborAdv parses the body of a Neighbor Advertisement. It fails with ShortND,
// BadNDOption or BadND.
func ParseNeighborAdv(b []byte) (h NeighborAdv, r Reason) {
	if h.Target, r = ndTarget(b); r != OK {
		return h, r
	}
	h.Link, h.HasLink = linkOption(b[16:], NDTargetLink)
	return h, OK
}

// Append appends the body.
func (h *NeighborAdv) Append(b []byte) []byte {
	a := h.Target.As16()
	b = append(b, a[:]...)
	if h.HasLink {
		b = AppendNDOption(b, NDTargetLink, h.Link[:])
	}
	return b
}

// ndTarget returns the target at the start of b, and checks the options after it.
func ndTarget(b []byte) (target netip.Addr, r Reason) {
	if len(b) < 16 {
		return target, ShortND
	}
	target = netip.AddrFrom16([16]byte(b[:16]))
	// RFC 4861 7.1.1 and 7.1.2: "Target Address is not a multicast address."
	if target.IsMulticast() {
		return target, BadND
	}
	return target, CheckNDOptions(b[16:])
}

// ParseRouterSol parses the body of a Router Solicitation (RFC 4861 4.1). It returns the Ethernet
// address of the sender if the message contains it. It fails with BadNDOption.
func ParseRouterSol(b []byte) (source MAC, hasSource bool, r Reason) {
	if r := CheckNDOptions(b); r != OK {
		return source, false, r
	}
	source, hasSource = linkOption(b, NDSourceLink)
	return source, hasSource, OK
}

// Flags of a Router Advertisement, in ICMPv6.Rest (RFC 4861 4.2, RFC 4191 2.2).
const (
	RAManaged = 1 << 23 // addresses are available by DHCPv6
	RAOther   = 1 << 22 // other configuration is available by DHCPv6

	raPreferenceAt = 19 // bits 19 and 20 are the preference
)

// A Preference is the preference of a default router or a route (RFC 4191 2.1).
type Preference int8

const (
	PreferLow    Preference = -1
	PreferMedium Preference = 0
	PreferHigh   Preference = 1
)

// preference decodes the two bits of a preference. RFC 4191 2.2: "If the Reserved (10) value is
// received, the receiver MUST treat the value as if it were (00)."
func preference(bits uint32) Preference { return [...]Preference{0, 1, 0, -1}[bits&3] }

// A RouterAdv is a Router Advertisement (RFC 4861 4.2).
type RouterAdv struct {
	HopLimit       uint8 // 0: unspecified
	Managed, Other bool
	Preference     Preference
	Lifetime       uint16 // seconds as a default router; 0: not a default router
	Reachable      uint32 // milliseconds; 0: unspecified
	Retrans        uint32 // milliseconds; 0: unspecified

	Options []byte // for NextNDOption
}

// ParseRouterAdv parses the body of a Router Advertisement. rest is ICMPv6.Rest. It fails with ShortND
// or BadNDOption.
func ParseRouterAdv(rest uint32, b []byte) (h RouterAdv, r Reason) {
	if len(b) < 8 {
		return h, ShortND
	}
	h.HopLimit = uint8(rest >> 24)
	h.Managed, h.Other = rest&RAManaged != 0, rest&RAOther != 0
	h.Preference = preference(rest >> raPreferenceAt)
	h.Lifetime = uint16(rest)
	h.Reachable = binary.BigEndian.Uint32(b[0:4])
	h.Retrans = binary.BigEndian.Uint32(b[4:8])
	h.Options = b[8:]
	return h, CheckNDOptions(h.Options)
}

// SourceLink returns the Ethernet address of the router. It returns false if the message does not
// contain it.
func (h *RouterAdv) SourceLink() (MAC, bool) { return linkOption(h.Options, NDSourceLink) }

// Append appends the body, and returns the result and ICMPv6.Rest.
func (h *RouterAdv) Append(b []byte) (body []byte, rest uint32) {
	rest = uint32(h.HopLimit)<<24 | uint32(h.Preference)&3<<raPreferenceAt | uint32(h.Lifetime)
	if h.Managed {
		rest |= RAManaged
	}
	if h.Other {
		rest |= RAOther
	}
	b = binary.BigEndian.AppendUint32(b, h.Reachable)
	b = binary.BigEndian.AppendUint32(b, h.Retrans)
	return append(b, h.Options...), rest
}

// A PrefixInfo is a Prefix Information option (RFC 4861 4.6.2). Lifetimes are in seconds; 0xffffffff
// means infinity.
type PrefixInfo struct {
	Prefix           netip.Prefix // masked
	OnLink, Auto     bool         // the flags L and A
	Valid, Preferred uint32
}

// ParsePrefixInfo parses the body of an option of type NDPrefix.
func ParsePrefixInfo(b []byte) (p PrefixInfo, ok bool) {
	if len(b) != 30 || b[0] > 128 {
		return p, false
	}
	p.Prefix = netip.PrefixFrom(netip.AddrFrom16([16]byte(b[14:30])), int(b[0])).Masked()
	p.OnLink, p.Auto = b[1]&0x80 != 0, b[1]&0x40 != 0
	p.Valid, p.Preferred = binary.BigEndian.Uint32(b[2:6]), binary.BigEndian.Uint32(b[6:10])
	return p, true
}

// Append appends the option.
func (p *PrefixInfo) Append(b []byte) []byte {
	var body [30]byte
	body[0] = byte(p.Prefix.Bits())
	if p.OnLink {
		body[1] |= 0x80
	}
	if p.Auto {
		body[1] |= 0x40
	}
	binary.BigEndian.PutUint32(body[2:6], p.Valid)
	binary.BigEndian.PutUint32(body[6:10], p.Preferred)
	*(*[16]byte)(body[14:30]) = p.Prefix.Addr().As16()
	return AppendNDOption(b, NDPrefix, body[:])
}

// ParseMTU parses the body of an option of type NDMTU (RFC 4861 4.6.4).
func ParseMTU(b []byte) (mtu uint32, ok bool) {
	if len(b) != 6 {
		return 0, false
	}
	return binary.BigEndian.Uint32(b[2:6]), true
}

// AppendMTU appends an option of type NDMTU.
func AppendMTU(b []byte, mtu uint32) []byte {
	return AppendNDOption(b, NDMTU, binary.BigEndian.AppendUint32([]byte{0, 0}, mtu))
}

// A RouteInfo is a Route Information option (RFC 4191 2.3). The lifetime is in seconds.
type RouteInfo struct {
	Prefix     netip.Prefix // masked
	Preference Preference
	Lifetime   uint32
}

// ParseRouteInfo parses the body of an option of type NDRoute. It returns false also if the preference
// has the reserved value. RFC 4191 2.3: "the Route Information Option MUST be ignored."
func ParseRouteInfo(b []byte) (o RouteInfo, ok bool) {
	if len(b) < 6 || len(b) > 22 || b[0] > 128 || b[1]>>3&3 == 2 {
		return o, false
	}
	// "The Length field is 1, 2, or 3 depending on the Prefix Length."
	if bits := int(b[0]); bits > 64 && len(b) < 22 || bits > 0 && len(b) < 14 {
		return o, false
	}
	var a [16]byte
	copy(a[:], b[6:])
	o.Prefix = netip.PrefixFrom(netip.AddrFrom16(a), int(b[0])).Masked()
	o.Preference = preference(uint32(b[1] >> 3))
	o.Lifetime = binary.BigEndian.Uint32(b[2:6])
	return o, true
}

// Append appends the option.
func (o *RouteInfo) Append(b []byte) []byte {
	n := 6
	switch bits := o.Prefix.Bits(); {
	case bits > 64:
		n = 22
	case bits > 0:
		n = 14
	}
	var body [22]byte
	body[0] = byte(o.Prefix.Bits())
	body[1] = byte(o.Preference) & 3 << 3
	binary.BigEndian.PutUint32(body[2:6], o.Lifetime)
	a := o.Prefix.Addr().As16()
	copy(body[6:], a[:])
	return AppendNDOption(b, NDRoute, body[:n])
}

// ParseRDNSS parses the body of an option of type NDRDNSS (RFC 8106 5.1). It returns the lifetime in
// seconds, and the addresses, 16 bytes each.
func ParseRDNSS(b []byte) (lifetime uint32, addrs []byte, ok bool) {
	// "The minimum value is 3 if one IPv6 address is contained in the option. Every additional
	// RDNSS address increases the length by 2."
	if len(b) < 22 || (len(b)-6)%16 != 0 {
		return 0, nil, false
	}
	return binary.BigEndian.Uint32(b[2:6]), b[6:], true
}

// AppendRDNSS appends an option of type NDRDNSS.
func AppendRDNSS(b []byte, lifetime uint32, addrs ...netip.Addr) []byte {
	body := binary.BigEndian.AppendUint32([]byte{0, 0}, lifetime)
	for _, addr := range addrs {
		a := addr.As16()
		body = append(body, a[:]...)
	}
	return AppendNDOption(b, NDRDNSS, body)
}

// ParseDNSSL parses the body of an option of type NDDNSSL (RFC 8106 5.2). It returns the lifetime in
// seconds, and domain names in the format of DNS messages (RFC 1035 3.1), uncompressed and padded with
// zeros.
func ParseDNSSL(b []byte) (lifetime uint32, names []byte, ok bool) {
	if len(b) < 14 {
		return 0, nil, false
	}
	return binary.BigEndian.Uint32(b[2:6]), b[6:], true
}

// ParsePREF64 parses the body of an option of type NDPREF64 (RFC 8781 4). It returns a NAT64 prefix and
// its lifetime in seconds.
func ParsePREF64(b []byte) (prefix netip.Prefix, lifetime uint32, ok bool) {
	if len(b) != 14 {
		return prefix, 0, false
	}
	v := binary.BigEndian.Uint16(b[0:2])
	// "PLC (Prefix Length Code): [...] The PLC field values 0, 1, 2, 3, 4, and 5 indicate the
	// NAT64 prefix length of 96, 64, 56, 48, 40, and 32 bits, respectively. The receiver MUST
	// ignore the PREF64 option if the Prefix Length Code field is not set to one of those values."
	lengths := [...]int{96, 64, 56, 48, 40, 32}
	plc := int(v & 7)
	if plc >= len(lengths) {
		return prefix, 0, false
	}
	var a [16]byte
	copy(a[:12], b[2:14])
	// "Scaled Lifetime: [...] The maximum time in units of 8 seconds".
	return netip.PrefixFrom(netip.AddrFrom16(a), lengths[plc]).Masked(), uint32(v &^ 7), true
}

// A RedirectMsg is a Redirect (RFC 4861 4.5).
type RedirectMsg struct {
	Target  netip.Addr // a better first hop, or Dst itself if that is on the link
	Dst     netip.Addr
	Link    MAC // Ethernet address of the target
	HasLink bool
	Options []byte // for NextNDOption
}

// ParseRedirect parses the body of a Redirect. It fails with ShortND, BadNDOption or BadND.
func ParseRedirect(b []byte) (h RedirectMsg, r Reason) {
	if len(b) < 32 {
		return h, ShortND
	}
	h.Target = netip.AddrFrom16([16]byte(b[0:16]))
	h.Dst = netip.AddrFrom16([16]byte(b[16:32]))
	h.Options = b[32:]
	// RFC 4861 8.1: "The ICMP Destination Address field in the redirect message does not contain
	// a multicast address", and the target "is either a link-local address (when redirected to a
	// router) or the same as the ICMP Destination Address".
	if h.Dst.IsMulticast() || h.Target != h.Dst && !h.Target.IsLinkLocalUnicast() {
		return h, BadND
	}
	if r := CheckNDOptions(h.Options); r != OK {
		return h, r
	}
	h.Link, h.HasLink = linkOption(h.Options, NDTargetLink)
	return h, OK
}

// Append appends the body.
func (h *RedirectMsg) Append(b []byte) []byte {
	t, d := h.Target.As16(), h.Dst.As16()
	b = append(append(b, t[:]...), d[:]...)
	if h.HasLink {
		b = AppendNDOption(b, NDTargetLink, h.Link[:])
	}
	return append(b, h.Options...)
}

// NextDomain returns the first domain name in b, with a final dot, and the names after it. b is a
// result of ParseDNSSL or NextDomain. NextDomain returns false at the end, and if b does not begin with
// a name of letters, digits, hyphens and underscores.
func NextDomain(b []byte) (name string, rest []byte, ok bool) {
	for {
		if len(b) == 0 {
			return "", nil, false
		}
		n := int(b[0])
		b = b[1:]
		if n == 0 {
			// RFC 8106 5.2: the names are followed by zeros, up to a multiple of 8 bytes.
			return name, b, name != ""
		}
		if n > 63 || n > len(b) || len(name)+n+1 > 254 || !isLabel(b[:n]) {
			return "", nil, false
		}
		name += string(b[:n]) + "."
		b = b[n:]
	}
}

// isLabel reports whether b is a valid label of a search domain.
func isLabel(b []byte) bool {
	for _, c := range b {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}

// AppendDNSSL appends an option of type NDDNSSL. The names must be domain names with labels of 1 to 63
// bytes. The final dot is optional.
func AppendDNSSL(b []byte, lifetime uint32, names ...string) []byte {
	body := binary.BigEndian.AppendUint32([]byte{0, 0}, lifetime)
	for _, name := range names {
		for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
			body = append(append(body, byte(len(label))), label...)
		}
		body = append(body, 0)
	}
	return AppendNDOption(b, NDDNSSL, body)
}

// AppendPREF64 appends an option of type NDPREF64. The prefix must have 96, 64, 56, 48, 40 or 32 bits.
// The lifetime in seconds is rounded down to a multiple of 8, and limited to 65528.
func AppendPREF64(b []byte, prefix netip.Prefix, lifetime uint32) []byte {
	plc := map[int]uint16{96: 0, 64: 1, 56: 2, 48: 3, 40: 4, 32: 5}[prefix.Bits()]
	a := prefix.Masked().Addr().As16()
	body := binary.BigEndian.AppendUint16(nil, uint16(min(lifetime, 65528))&^7|plc)
	return AppendNDOption(b, NDPREF64, append(body, a[:12]...))
}
