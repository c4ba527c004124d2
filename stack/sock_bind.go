package stack

import "net/netip"

// A bound is the local address that a socket is bound to. It determines which packets the socket takes,
// and with which other sockets of the same port it conflicts. The rules are the same for UDP, TCP and raw
// sockets.
type bound struct {
	addr netip.Addr // without its zone; unspecified for a wildcard
	all  families   // families of a wildcard; 0 for any other address
	zone int        // index of the interface of a link-local address; else 0
}

// families is a set of address families.
type families uint8

const (
	ipv4 families = 1 << iota
	ipv6
)

// familyOf returns the family of an address.
func familyOf(a netip.Addr) families {
	if a.Is4() {
		return ipv4
	}
	return ipv6
}

// bind returns the bound of a socket of family fam. a and zone are results of checkLocal. The IPv6
// wildcard has both families unless fam is Family6.
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

// family returns the family of the packets that the socket takes.
func (b *bound) family() Family {
	of := b.all
	if of == 0 {
		of = familyOf(b.addr)
	}
	return [...]Family{ipv4: Family4, ipv6: Family6, ipv4 | ipv6: FamilyAny}[of]
}

// wildcard reports whether the socket is bound to all addresses of one or both families.
func (b *bound) wildcard() bool { return b.all != 0 }

// takes reports whether the socket takes packets with the destination a. zone is the index of the
// interface of the packets if one of their addresses is link-local.
func (b *bound) takes(a netip.Addr, zone int) bool {
	if b.all != 0 {
		return b.all&familyOf(a) != 0
	}
	return b.addr == a && (b.zone == 0 || b.zone == zone)
}

// conflicts reports whether two sockets cannot share a port. As on Linux, a wildcard conflicts with every
// address of its families. Other addresses conflict if they are the same. Sockets of different families
// never conflict.
func (b *bound) conflicts(c *bound) bool {
	switch {
	case b.all != 0 && c.all != 0:
		return b.all&c.all != 0
	case b.all != 0:
		return b.takes(c.addr, c.zone)
	}
	return c.takes(b.addr, b.zone)
}
