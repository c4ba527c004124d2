package main

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// documentation returns prefixes reserved for documentation: the IPv4 prefixes of RFC 5737 or, if six
// is set, parts of the IPv6 prefix of RFC 3849. No real network uses them, so the link of a
// demonstration can.
func documentation(six bool) []netip.Prefix {
	if six {
		return []netip.Prefix{
			netip.MustParsePrefix("2001:db8::/64"),
			netip.MustParsePrefix("2001:db8:1::/64"),
			netip.MustParsePrefix("2001:db8:2::/64"),
		}
	}
	return []netip.Prefix{
		netip.MustParsePrefix("192.0.2.0/24"),
		netip.MustParsePrefix("198.51.100.0/24"),
		netip.MustParsePrefix("203.0.113.0/24"),
	}
}

// An ifaceAddr is an address of one of the kernel's interfaces.
type ifaceAddr struct {
	iface  string
	prefix netip.Prefix
}

// kernelAddrs returns the addresses of the kernel's interfaces, without IPv6's link-local ones.
func kernelAddrs() ([]ifaceAddr, error) {
	ifaces, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var all []ifaceAddr
	for _, ifc := range ifaces {
		addrs, err := ifc.Addrs()
		if err != nil {
			continue // the interface was deleted after net.Interfaces
		}
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			if err == nil && !(p.Addr().Is6() && p.Addr().IsLinkLocalUnicast()) {
				all = append(all, ifaceAddr{ifc.Name, p})
			}
		}
	}
	return all, nil
}

// isDown reports whether an interface of the kernel exists and is not up.
func isDown(name string) bool {
	ifc, err := net.InterfaceByName(name)
	return err == nil && ifc.Flags&net.FlagUp == 0
}

// plans holds a plan for each family. If there is no IPv6, the addresses in six are invalid, and six.note may
// say why.
type plans struct{ four, six plan }

// ours returns the addresses of our end of the link, and hosts returns those of the other end.
func (p *plans) ours() prefixes  { return prefixes{p.four.addr, p.six.addr} }
func (p *plans) hosts() prefixes { return prefixes{p.four.host, p.six.host} }

// planBoth calls planAddrs for IPv4, and also for IPv6 if wanted is set, the user gave an IPv6
// address, or the TAP has an IPv6 address. If only wanted is set and there is no free IPv6 network, it plans
// IPv4 only.
func planBoth(addr, host prefixes, onTAP, elsewhere []ifaceAddr, wanted bool) (p plans, err error) {
	// ofFamily returns the addresses in list that are of IPv6, if six is set, or of IPv4.
	ofFamily := func(six bool, list []ifaceAddr) (some []ifaceAddr) {
		for _, a := range list {
			if a.prefix.Addr().Is6() == six {
				some = append(some, a)
			}
		}
		return some
	}
	if p.four, err = planAddrs(addr.four, host.four, ofFamily(false, onTAP), ofFamily(false, elsewhere), false); err != nil {
		return p, err
	}
	onTAP, elsewhere = ofFamily(true, onTAP), ofFamily(true, elsewhere)
	asked := addr.six.IsValid() || host.six.IsValid() || len(onTAP) > 0
	if !asked && !wanted {
		return p, nil
	}
	if p.six, err = planAddrs(addr.six, host.six, onTAP, elsewhere, true); err != nil && !asked {
		p.six, err = plan{note: "the link has no IPv6 addresses: " + err.Error()}, nil
	}
	return p, err
}

// A plan holds the addresses of one family for both ends of the link.
type plan struct {
	addr netip.Prefix // ours
	host netip.Prefix // the kernel's or, on a wire, the second host's
	note string       // says why the addresses are not the default ones; may be empty
}

// planAddrs chooses the addresses of a link for one family. addr and host are the addresses that the
// user asked for; they may be invalid. onTAP are the kernel's addresses on the TAP, and elsewhere are those
// on all other interfaces. planAddrs refuses a network that overlaps with that of an address elsewhere: the
// kernel would send packets for that network to our link.
func planAddrs(addr, host netip.Prefix, onTAP, elsewhere []ifaceAddr, six bool) (plan, error) {
	var p plan
	var err error
	switch {
	case addr.IsValid() && host.IsValid():
		p = plan{addr: addr, host: host}
	case addr.IsValid() && len(onTAP) > 0:
		p = plan{addr: addr, host: onTAP[0].prefix}
	case addr.IsValid():
		p = plan{addr: addr}
		p.host, err = sibling(addr)
	case host.IsValid():
		p = plan{host: host}
		p.addr, err = sibling(host)
	case len(onTAP) > 0:
		p = plan{host: onTAP[0].prefix}
		p.addr, err = sibling(p.host)
		p.note = fmt.Sprintf("%s has the address %v, so ours is %v", onTAP[0].iface, p.host, p.addr)
	default:
		return freePlan(elsewhere, six)
	}
	if err != nil {
		return plan{}, err
	}
	// Errors name an address that the user gave, if there is one.
	given := []netip.Prefix{p.addr, p.host}
	if !addr.IsValid() && host.IsValid() {
		slices.Reverse(given)
	}
	return p, p.check(elsewhere, given...)
}

// freePlan returns a plan in the first documentation prefix that overlaps with no taken address.
func freePlan(taken []ifaceAddr, six bool) (plan, error) {
	var first *ifaceAddr
	for _, doc := range documentation(six) {
		if t := overlap(doc, taken); t != nil {
			if first == nil {
				first = t
			}
			continue
		}
		hostAddr := doc.Addr().Next()
		p := plan{
			host: netip.PrefixFrom(hostAddr, doc.Bits()),
			addr: netip.PrefixFrom(hostAddr.Next(), doc.Bits()),
		}
		if first != nil {
			p.note = fmt.Sprintf("%s has the address %v, so the link is %v", first.iface, first.prefix, doc)
		}
		return p, nil
	}
	return plan{}, fmt.Errorf("every network kept for documentation is in use (%v on %s): choose -addr and -host-addr yourself", first.prefix, first.iface)
}

// check returns an error if the plan cannot work or would disturb another interface. It looks at the addresses
// in the given order.
func (p *plan) check(taken []ifaceAddr, order ...netip.Prefix) error {
	for _, q := range order {
		if err := checkHostAddr(q); err != nil {
			return fmt.Errorf("address %v: %w", q, err)
		}
		if t := overlap(q, taken); t != nil {
			return fmt.Errorf("address %v clashes with %v of %s: choose -addr and -host-addr from a network that is free", q, t.prefix, t.iface)
		}
	}
	if p.addr.Addr() == p.host.Addr() {
		return fmt.Errorf("-addr and -host-addr are both %v: the two ends need an address each", p.addr.Addr())
	}
	if p.addr.Masked() != p.host.Masked() {
		return fmt.Errorf("-addr %v and -host-addr %v are not on one network", p.addr, p.host)
	}
	return nil
}

// overlap returns the first taken address whose network overlaps with p, or nil.
func overlap(p netip.Prefix, taken []ifaceAddr) *ifaceAddr {
	for i := range taken {
		if taken[i].prefix.Overlaps(p) {
			return &taken[i]
		}
	}
	return nil
}

// sibling returns another host address on the network of p: the next one, or
// the previous if there is no next one.
func sibling(p netip.Prefix) (netip.Prefix, error) {
	network := p.Masked()
	for _, a := range []netip.Addr{p.Addr().Next(), p.Addr().Prev()} {
		if q := netip.PrefixFrom(a, p.Bits()); network.Contains(a) && !isEdge(q) {
			return q, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("the network of %v has no second host address: give both -addr and -host-addr", p)
}
