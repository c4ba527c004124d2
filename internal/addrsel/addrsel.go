// Package addrsel implements the address selection of RFC 6724: in which order to try the addresses of
// a destination, and from which address to send.
package addrsel

import (
	"math/bits"
	"net/netip"
	"slices"
)

// A policy is a row of the policy table of RFC 6724 section 2.1.
type policy struct {
	prefix     netip.Prefix
	precedence uint8
	label      uint8
}

// policyTable is the default policy table of RFC 6724 2.1, the longest prefixes first. It is never
// modified.
var policyTable = [...]policy{
	{netip.MustParsePrefix("::1/128"), 50, 0},
	{netip.MustParsePrefix("::ffff:0:0/96"), 35, 4},
	{netip.MustParsePrefix("::/96"), 1, 3},
	{netip.MustParsePrefix("2001::/32"), 5, 5},
	{netip.MustParsePrefix("2002::/16"), 30, 2},
	{netip.MustParsePrefix("3ffe::/16"), 1, 12},
	{netip.MustParsePrefix("fec0::/10"), 1, 11},
	{netip.MustParsePrefix("fc00::/7"), 3, 13},
	{netip.MustParsePrefix("::/0"), 40, 1},
}

// policyOf returns the row with the longest prefix that contains a. RFC 6724 2.1: IPv4 addresses
// are looked up as IPv4-mapped ones.
func policyOf(a netip.Addr) policy {
	a = netip.AddrFrom16(a.As16())
	last := len(policyTable) - 1
	for _, p := range policyTable[:last] {
		if p.prefix.Contains(a) {
			return p
		}
	}
	return policyTable[last] // ::/0
}

// Scopes of RFC 6724 section 3.1, numbered as in multicast addresses.
const (
	scopeLinkLocal = 0x2
	scopeSiteLocal = 0x5
	scopeGlobal    = 0xe
)

func scopeOf(a netip.Addr) uint8 {
	a = a.Unmap()
	switch b := a.As16(); {
	case a.Is6() && a.IsMulticast():
		return b[1] & 0xf
	case a.IsLinkLocalUnicast(), a.IsLoopback():
		// RFC 6724 3.2: 169.254/16 and 127/8 "are assigned link-local scope". RFC 6724 3.4 assigns
		// the same scope to ::1.
		return scopeLinkLocal
	case a.Is6() && b[0] == 0xfe && b[1]&0xc0 == 0xc0:
		return scopeSiteLocal // fec0::/10, deprecated by RFC 3879
	default:
		return scopeGlobal
	}
}

// A destination is an address with the properties that the rules compare.
type destination struct {
	addr, src  netip.Addr // src is the source for addr; invalid if addr cannot be reached
	policy     policy
	scope      uint8
	deprecated bool // whether src is deprecated
	sameScope  bool // whether addr and src have the same scope
	sameLabel  bool // whether addr and src have the same label
	commonBits int  // length of the common prefix of addr and src; 0 for IPv4
}

func newDestination(addr, src netip.Addr, deprecated bool) destination {
	d := destination{addr: addr, src: src, policy: policyOf(addr), scope: scopeOf(addr), deprecated: deprecated}
	if src.IsValid() {
		d.sameScope = scopeOf(src) == d.scope
		d.sameLabel = policyOf(src).label == d.policy.label
		d.commonBits = commonPrefixLen(src, addr)
	}
	return d
}

// compare returns a negative number if a comes before b, a positive number if a comes after b, and
// zero if the rules of RFC 6724 section 6 do not decide. It leaves out two rules: rule 4 concerns
// the home addresses of mobile nodes, and rule 7 concerns tunnels. This host has neither.
func compare(a, b destination) int {
	// Rule 1: "Avoid unusable destinations."
	if !a.src.IsValid() || !b.src.IsValid() {
		return prefer(a.src.IsValid(), b.src.IsValid())
	}
	// Rule 2: "Prefer matching scope."
	if c := prefer(a.sameScope, b.sameScope); c != 0 {
		return c
	}
	// Rule 3: "Avoid deprecated addresses. If Source(DA) is deprecated and Source(DB) is not, then prefer
	// DB."
	if c := prefer(!a.deprecated, !b.deprecated); c != 0 {
		return c
	}
	// Rule 5: "Prefer matching label."
	if c := prefer(a.sameLabel, b.sameLabel); c != 0 {
		return c
	}
	// Rule 6: "Prefer higher precedence."
	if c := int(b.policy.precedence) - int(a.policy.precedence); c != 0 {
		return c
	}
	// Rule 8: "Prefer smaller scope."
	if c := int(a.scope) - int(b.scope); c != 0 {
		return c
	}
	// Rule 9: "Use longest matching prefix", for IPv6 only. For IPv4 this rule would defeat the round
	// robin of servers, and IPv4 prefixes do not follow the topology. Rule 10: "Otherwise, leave the
	// order unchanged."
	return b.commonBits - a.commonBits
}

// prefer returns -1 if only a is true, 1 if only b is true, and 0 otherwise.
func prefer(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	default:
		return 1
	}
}

func is6(a netip.Addr) bool { return a.Unmap().Is6() }

// commonPrefixLen returns CommonPrefixLen(S, D) of RFC 6724 section 2.2: "up to the length of S's
// prefix (i.e., the portion of the address not including the interface ID)", which is 64 bits. For
// IPv4 it returns zero, so that rule 9 does not apply.
func commonPrefixLen(s, d netip.Addr) int {
	if !is6(s) || !is6(d) {
		return 0
	}
	return common(s, d, 64)
}

// common returns the number of leading bits that two IPv6 addresses have in common, or most if the
// number is larger.
func common(s, d netip.Addr, most int) int {
	a, b := s.As16(), d.As16()
	for i := range a {
		if x := a[i] ^ b[i]; x != 0 {
			return min(8*i+bits.LeadingZeros8(x), most)
		}
	}
	return most
}

// SortDestinations sorts addresses in the order in which to try them (RFC 6724 6). source returns
// the address from which the host would send to dst, or an invalid address if the host cannot send to
// dst. deprecated reports whether such a source is deprecated (RFC 4862 5.5.4). If deprecated is nil, no
// source is.
func SortDestinations(addrs []netip.Addr, source func(dst netip.Addr) netip.Addr, deprecated func(src netip.Addr) bool) {
	if len(addrs) < 2 {
		return
	}
	dests := make([]destination, len(addrs))
	for i, a := range addrs {
		src := source(a.Unmap())
		dests[i] = newDestination(a, src, src.IsValid() && deprecated != nil && deprecated(src))
	}
	slices.SortStableFunc(dests, compare)
	for i := range dests {
		addrs[i] = dests[i].addr
	}
}

// A Source is an address that a host may send from, with the properties that the rules compare.
type Source struct {
	Prefix     netip.Prefix // the address with the length of its prefix, unmasked
	Deprecated bool         // RFC 4862 5.5.4
	Temporary  bool         // RFC 8981
	Outgoing   bool         // whether it belongs to the outgoing interface
	NextHop    bool         // whether the next-hop router advertised its prefix
}

// Better reports whether a is preferred to b as the source for dst (RFC 6724 5). If the rules do not
// decide, it returns false, so that the first of several sources wins. The addresses of a and b have
// the family of dst.
//
// Better leaves out rule 4, because this host has no home addresses of a mobile node.
func Better(dst netip.Addr, a, b Source) bool {
	s, r := a.Prefix.Addr(), b.Prefix.Addr()
	// Rule 1: "Prefer same address."
	if s == dst || r == dst {
		return s == dst && r != dst
	}
	// Rule 2: "Prefer appropriate scope. If Scope(SA) < Scope(SB): If Scope(SA) < Scope(D),
	// then prefer SB and otherwise prefer SA."
	if x, y := scopeOf(s), scopeOf(r); x != y {
		if x < y {
			return x >= scopeOf(dst)
		}
		return y < scopeOf(dst)
	}
	// Rule 3: "Avoid deprecated addresses."
	if a.Deprecated != b.Deprecated {
		return b.Deprecated
	}
	// Rule 5: "Prefer outgoing interface."
	if a.Outgoing != b.Outgoing {
		return a.Outgoing
	}
	// Rule 5.5: "Prefer addresses in a prefix advertised by the next-hop."
	if a.NextHop != b.NextHop {
		return a.NextHop
	}
	// Rule 6: "Prefer matching label."
	label := policyOf(dst).label
	if x, y := policyOf(s).label == label, policyOf(r).label == label; x != y {
		return x
	}
	// Rule 7: "Prefer temporary addresses."
	if a.Temporary != b.Temporary {
		return a.Temporary
	}
	// Rule 8: "Use longest matching prefix." RFC 6724 2.2 compares "up to the length of S's prefix".
	if is6(dst) {
		return common(s, dst, a.Prefix.Bits()) > common(r, dst, b.Prefix.Bits())
	}
	return common4(s, dst, a.Prefix.Bits()) > common4(r, dst, b.Prefix.Bits())
}

// common4 is like common, for IPv4.
func common4(s, d netip.Addr, most int) int {
	const mapped = 96 // length of the prefix of IPv4-mapped addresses
	return common(s, d, mapped+most) - mapped
}
