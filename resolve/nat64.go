package resolve

import (
	"context"
	"net/netip"
	"slices"

	"golang.org/x/net/dns/dnsmessage"
)

// maxPrefixes64 is the maximum number of NAT64 prefixes that are used.
const maxPrefixes64 = 4

// ipv4Only is the name with which a host finds the NAT64 prefix (RFC 7050 section 2).
const ipv4Only = "ipv4only.arpa."

// prefixLengths64 are the lengths of NAT64 prefixes (RFC 6052 section 2.2), the most frequent first.
var prefixLengths64 = [...]int{96, 64, 56, 48, 40, 32}

// wellKnown64 is the well-known prefix for NAT64 (RFC 6052 section 2.1).
var wellKnown64 = netip.PrefixFrom(netip.AddrFrom16([16]byte{0, 0x64, 0xff, 0x9b}), 96)

// Synthesize returns the IPv6 addresses at which the network's NAT64 translator represents an IPv4
// address: one for each prefix of the translator, and at most four. It returns none if Config.NAT64 is not set,
// if the host has a route to IPv4 addresses, if the network has no NAT64, or if no prefix may represent the
// address. A dial to an IPv4 literal calls Synthesize.
func (r *Resolver) Synthesize(ctx context.Context, addr netip.Addr) []netip.Addr {
	if !r.needs64() {
		return nil
	}
	return synthesize(r.prefixes64(ctx), []netip.Addr{addr})
}

// needs64 reports whether the host needs NAT64 to reach IPv4 addresses. RFC 7050 section 1: synthesis is for hosts
// whose network has no IPv4.
func (r *Resolver) needs64() bool {
	if !r.cfg.NAT64 {
		return false
	}
	v4, v6 := r.families()
	if !v4 || !v6 || r.cfg.Source == nil {
		return !v4
	}
	return !r.cfg.Source(netip.AddrFrom4([4]byte{192, 0, 0, 170})).IsValid()
}

// prefixes64 returns the NAT64 prefixes of the network: the prefixes that its routers advertise or, if there are
// none, the prefixes in the IPv6 addresses of ipv4only.arpa.
func (r *Resolver) prefixes64(ctx context.Context) []netip.Prefix {
	// RFC 8781 5.1: if a prefix is received in Router Advertisements, the host should prefer it to
	// one found by other means.
	if r.cfg.Prefixes64 != nil {
		if ps := r.cfg.Prefixes64(); len(ps) > 0 {
			return ps[:min(len(ps), maxPrefixes64)]
		}
	}
	ans, err := r.ask(ctx, ipv4Only, dnsmessage.TypeAAAA)
	if err != nil {
		return nil
	}
	var prefixes []netip.Prefix
	for _, rr := range ans.records {
		body, ok := rr.Body.(*dnsmessage.AAAAResource)
		if !ok {
			continue
		}
		p, ok := prefixIn(body.AAAA)
		if ok && !slices.Contains(prefixes, p) && len(prefixes) < maxPrefixes64 {
			prefixes = append(prefixes, p)
		}
	}
	return prefixes
}

// prefixIn finds the NAT64 prefix in an address of ipv4only.arpa. RFC 7050 section 3: the node "looks
// through all of the received AAAA resource records" for one of the well-known IPv4 addresses at the places
// that RFC 6052 allows. If there is such an address at no place or at several places, prefixIn reports false.
func prefixIn(a [16]byte) (found netip.Prefix, ok bool) {
	n := 0
	for _, bits := range prefixLengths64 {
		if bits < 96 && a[8] != 0 {
			continue
		}
		v4 := embedded(a, bits)
		if v4 == [4]byte{192, 0, 0, 170} || v4 == [4]byte{192, 0, 0, 171} {
			found = netip.PrefixFrom(netip.AddrFrom16(a), bits).Masked()
			n++
		}
	}
	return found, n == 1
}

// embedded returns the IPv4 address in the IPv6 address a. bits is the length of the NAT64 prefix of a. The
// bits after the IPv4 address are ignored.
func embedded(a [16]byte, bits int) (v4 [4]byte) {
	i := bits / 8
	for k := range v4 {
		if i == 8 {
			i++
		}
		v4[k] = a[i]
		i++
	}
	return v4
}

// embed returns the IPv6 address that represents an IPv4 address with a prefix (RFC 6052 section 2.2). The bits
// after the IPv4 address are zero. Bits 64 to 71 are zero too, unless a prefix of 96 bits sets them.
func embed(p netip.Prefix, v4 [4]byte) netip.Addr {
	a := p.Masked().Addr().As16()
	i := p.Bits() / 8
	for _, b := range v4 {
		if i == 8 {
			i++ // RFC 6052 2.2: "Bits 64 to 71 of the address are reserved [...] and MUST be set to zero."
		}
		a[i] = b
		i++
	}
	return netip.AddrFrom16(a)
}

// synthesize returns the IPv6 addresses for the IPv4 addresses in addrs, in the order of the prefixes.
func synthesize(prefixes []netip.Prefix, addrs []netip.Addr) []netip.Addr {
	var all []netip.Addr
	for _, p := range prefixes {
		if !p.IsValid() || !p.Addr().Is6() || !slices.Contains(prefixLengths64[:], p.Bits()) {
			continue
		}
		for _, a := range addrs {
			if a = a.Unmap(); a.Is4() && canTranslate(p, a) {
				all = append(all, embed(p, a.As4()))
			}
		}
	}
	return all
}

// canTranslate reports whether an IPv4 address may be represented with a prefix. RFC 6052 section 3.1: "The
// Well-Known Prefix MUST NOT be used to represent non-global IPv4 addresses".
func canTranslate(p netip.Prefix, a netip.Addr) bool {
	switch {
	case a.IsLoopback(), a.IsUnspecified(), a.IsMulticast(), a.IsLinkLocalUnicast():
		return false
	case p.Masked() != wellKnown64:
		return true
	}
	return !a.IsPrivate() && !slices.ContainsFunc(notGlobal[:], func(n netip.Prefix) bool { return n.Contains(a) })
}

// notGlobal are the non-global blocks of RFC 6890 for which netip.Addr has no method.
var notGlobal = [...]netip.Prefix{
	block(0, 0, 0, 8), block(100, 64, 0, 10), block(192, 0, 0, 24), block(192, 0, 2, 24), block(198, 18, 0, 15),
	block(198, 51, 100, 24), block(203, 0, 113, 24), block(240, 0, 0, 4),
}

func block(a, b, c byte, bits int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{a, b, c}), bits)
}

// add64 adds the synthesized addresses of a name that has only IPv4 addresses. network is "ip" or "ip6".
// RFC 6147 section 5.1.1: nothing is synthesized if there are AAAA records.
func (r *Resolver) add64(ctx context.Context, network, host string, addrs []netip.Addr, canonical string, err error) ([]netip.Addr, string, error) {
	if slices.ContainsFunc(addrs, netip.Addr.Is6) || err != nil && !isNotFound(err) || err != nil && network != "ip6" {
		return addrs, canonical, err
	}
	v4 := addrs
	if network == "ip6" {
		answers, e := r.search(ctx, host, dnsmessage.TypeA)
		if e != nil {
			return addrs, canonical, err
		}
		v4, canonical = addrsOf(answers)
	}
	made := synthesize(r.prefixes64(ctx), v4)
	if len(made) == 0 {
		return addrs, canonical, err
	}
	return append(made, addrs...), canonical, nil
}
