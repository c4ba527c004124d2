package stack

import "net/netip"

// A bound says to which addresses of the host a socket is bound: which packets it takes, and
// which other sockets of its port stand in its way. UDP, TCP and raw sockets all ask it.
type bound struct {
	addr netip.Addr // without a zone; unspecified for a wildcard
	all  families   // of a wildcard: those whose addresses it has; else none
	zone int        // of a link-local address: the index of its interface; else 0
}

// families is a set of address families.
type families uint8

const (
	ipv4 families = 1 << iota
	ipv6
)

// familyOf is the family of an address.
func familyOf(a netip.Addr) families {
	if a.Is4() {
		return ipv4
	}
	return ipv6
}

// bind returns what a socket of a family is bound to by an address that checkLocal has
// completed. The wildcard of IPv6 has both families unless the socket is of IPv6 only.
func bind(fam Family, a netip.Addr, zone int) bound {
	b := bound{addr: a, zone: zone}
	if a.IsUnspecified() {
		b.all = familyOf(a)
		if b.all == ipv6 && fam != Family6 {
			b.all |= ipv4
		}
	}
	return b
}

// wildcard reports whether the socket has all addresses of a family or two.
func (b *bound) wildcard() bool { return b.all != 0 }

// takes reports whether packets to an address of the host, or to a group, are for the socket. zone is
// the index of the interface to which they belong, if one of their addresses is link-local.
func (b *bound) takes(a netip.Addr, zone int) bool {
	if b.all != 0 {
		return b.all&familyOf(a) != 0
	}
	return b.addr == a && (b.zone == 0 || b.zone == zone)
}

// conflicts reports whether two sockets of one port cannot both be: some packet would be for
// both, neither being for it alone. As on Linux, a wildcard stands in the way of each
// address that it has, and those of different families stand side by side.
func (b *bound) conflicts(c *bound) bool {
	switch {
	case b.all != 0 && c.all != 0:
		return b.all&c.all != 0
	case b.all != 0:
		return b.takes(c.addr, c.zone)
	}
	return c.takes(b.addr, b.zone)
}
