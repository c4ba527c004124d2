package resolve

import (
	"context"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/net/dns/dnsmessage"
)

// LookupHost returns the addresses of host, in the order in which to try them. Addresses from the
// hosts file keep their order in the file. A literal is returned as it is.
func (r *Resolver) LookupHost(ctx context.Context, host string) ([]string, error) {
	if host == "" {
		return nil, dnsError(errNoSuchHost, host, "")
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return []string{host}, nil
	}
	addrs, _ := r.cfg.Hosts.Addrs(host)
	if len(addrs) == 0 {
		var err error
		if addrs, _, err = r.lookupAddrs(ctx, "ip", host); err != nil {
			return nil, err
		}
		for i, a := range addrs {
			addrs[i] = a.Unmap()
		}
	}
	names := make([]string, len(addrs))
	for i, a := range addrs {
		names[i] = a.String()
	}
	return names, nil
}

// LookupIPAddr returns the addresses of host, in the order in which to try them.
func (r *Resolver) LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error) {
	return r.lookupIPAddr(ctx, "ip", host)
}

// LookupIP returns the addresses of host for a network, "ip", "ip4" or "ip6", in the order in which
// to try them. For another network the error is a net.UnknownNetworkError. If host is known locally
// but has no address for the network, the error is a *net.AddrError.
func (r *Resolver) LookupIP(ctx context.Context, network, host string) ([]net.IP, error) {
	switch network {
	case "ip", "ip4", "ip6":
	default:
		return nil, net.UnknownNetworkError(network)
	}
	addrs, err := r.lookupIPAddr(ctx, network, host)
	if err != nil {
		return nil, err
	}
	if len(addrs) == 1 && addrs[0].IP.Equal(net.IPv6unspecified) {
		// As in net: a host that cannot dial "::" may be able to dial 0.0.0.0.
		addrs = append(addrs, net.IPAddr{IP: net.IPv4zero})
	}
	ips := make([]net.IP, 0, len(addrs))
	for _, a := range addrs {
		is4 := a.IP.To4() != nil
		if network == "ip" || is4 == (network == "ip4") {
			ips = append(ips, a.IP)
		}
	}
	if len(ips) == 0 {
		return nil, &net.AddrError{Err: "no suitable address found", Addr: host}
	}
	return ips, nil
}

// LookupNetIP is like LookupIP but returns netip.Addrs. As in net, zones are lost, and IPv4 addresses
// have their IPv4-mapped IPv6 form if they are literals or from the hosts file, but not if they are
// from a server. netip.Addr.Unmap converts the IPv4-mapped form.
func (r *Resolver) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	ips, err := r.LookupIP(ctx, network, host)
	if err != nil {
		return nil, err
	}
	addrs := make([]netip.Addr, 0, len(ips))
	for _, ip := range ips {
		if a, ok := netip.AddrFromSlice(ip); ok {
			addrs = append(addrs, a)
		}
	}
	return addrs, nil
}

func (r *Resolver) lookupIPAddr(ctx context.Context, network, host string) ([]net.IPAddr, error) {
	if host == "" {
		return nil, dnsError(errNoSuchHost, host, "")
	}
	addrs, err := []netip.Addr(nil), error(nil)
	if a, bad := netip.ParseAddr(host); bad == nil {
		addrs = []netip.Addr{mapped(a)}
	} else if cause := done(ctx); cause != nil {
		// As in net, a context that has ended is an error even if no server has to be queried.
		return nil, dnsError(cause, host, "")
	} else if addrs, _, err = r.lookupAddrs(ctx, network, host); err != nil {
		if cause := done(ctx); cause != nil && !isNotFound(err) {
			// The caller gave up, so the error does not name the server that was queried last.
			err = dnsError(cause, host, "")
		}
		return nil, err
	}
	ips := make([]net.IPAddr, len(addrs))
	for i, a := range addrs {
		ips[i] = net.IPAddr{IP: a.AsSlice(), Zone: a.Zone()}
	}
	return ips, nil
}

// lookupAddrs returns the addresses of a name and its canonical name. network is "ip", "ip4" or
// "ip6". If the name is known locally, the addresses may be of any family, and IPv4 addresses have the
// IPv4-mapped form.
func (r *Resolver) lookupAddrs(ctx context.Context, network, host string) ([]netip.Addr, string, error) {
	if addrs, canonical := r.local(host); len(addrs) > 0 {
		return addrs, canonical, nil
	}
	if r.cfg.Multicast != nil && isDomainName(host) && isMulticastName(host) {
		addrs, used, err := r.cfg.Multicast(ctx, network, host)
		switch {
		case !used:
		case err != nil:
			return nil, "", dnsError(err, host, "")
		case len(addrs) == 0:
			return nil, "", dnsError(errNoSuchHost, host, "")
		default:
			r.order(addrs)
			return addrs, rooted(host), nil
		}
	}
	answers, err := r.search(ctx, host, r.addrTypes(network)...)
	addrs, canonical := addrsOf(answers)
	if network != "ip4" && r.needs64() {
		addrs, canonical, err = r.add64(ctx, network, host, addrs, canonical, err)
	}
	if err != nil {
		return nil, "", err
	}
	r.order(addrs)
	return addrs, canonical, nil
}

// local returns the addresses of a name in the hosts file or of a localhost name.
func (r *Resolver) local(host string) (addrs []netip.Addr, canonical string) {
	addrs, canonical = r.cfg.Hosts.Addrs(host)
	if len(addrs) == 0 && isLocalhost(host) && isDomainName(host) {
		// RFC 6761 6.3: "Name resolution APIs and libraries SHOULD recognize
		// localhost names as special and SHOULD always return the IP loopback
		// address for address queries".
		addrs = r.loopback()
		canonical = lower(absName(host))
	}
	for i, a := range addrs {
		addrs[i] = mapped(a)
	}
	r.order(addrs)
	return addrs, canonical
}

// loopback returns the loopback addresses of the families that the host has.
func (r *Resolver) loopback() []netip.Addr {
	v4, v6 := r.families()
	all := make([]netip.Addr, 0, 2)
	if v4 {
		all = append(all, netip.AddrFrom4([4]byte{127, 0, 0, 1}))
	}
	if v6 {
		all = append(all, netip.IPv6Loopback())
	}
	if r.cfg.Families != nil || r.cfg.Source == nil {
		return all
	}
	reachable := make([]netip.Addr, 0, 2)
	for _, a := range all {
		if r.cfg.Source(a).IsValid() {
			reachable = append(reachable, a)
		}
	}
	if len(reachable) == 0 {
		return all
	}
	return reachable
}

// addrTypes returns the types of the records to query.
func (r *Resolver) addrTypes(network string) []dnsmessage.Type {
	v4, v6 := network == "ip4", network == "ip6"
	if !v4 && !v6 {
		v4, v6 = r.families()
		v4 = v4 || r.needs64()
	}
	types := make([]dnsmessage.Type, 0, 3)
	if v4 {
		types = append(types, dnsmessage.TypeA)
	}
	if v6 {
		types = append(types, dnsmessage.TypeAAAA)
	}
	return types
}

// addrsOf returns the addresses in the answers, and the canonical name that has them.
func addrsOf(answers []*answer) (addrs []netip.Addr, canonical string) {
	for _, ans := range answers {
		if ans == nil {
			continue
		}
		n := len(addrs)
		for _, rr := range ans.records {
			switch body := rr.Body.(type) {
			case *dnsmessage.AResource:
				addrs = append(addrs, netip.AddrFrom4(body.A))
			case *dnsmessage.AAAAResource:
				addrs = append(addrs, netip.AddrFrom16(body.AAAA))
			}
		}
		if canonical == "" && len(addrs) > n {
			canonical = ans.canonical.String()
		}
	}
	return addrs, canonical
}

// mapped converts an IPv4 address to the IPv4-mapped form. It returns other addresses unchanged.
func mapped(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.AddrFrom16(a.As16())
	}
	return a
}

// LookupCNAME returns the canonical name of host. That is the target of the last alias in the chain of
// aliases that begins at host, or, if host has addresses and no alias, the name that has the addresses.
func (r *Resolver) LookupCNAME(ctx context.Context, host string) (string, error) {
	cname, err := r.canonicalName(ctx, host)
	if err != nil {
		return "", err
	}
	if !isDomainName(cname) {
		return "", dnsError(errMalformedRecords, host, "")
	}
	return cname, nil
}

func (r *Resolver) canonicalName(ctx context.Context, host string) (string, error) {
	if addrs, canonical := r.local(host); len(addrs) > 0 {
		return canonical, nil
	}
	answers, err := r.search(ctx, host, append(r.addrTypes("ip"), dnsmessage.TypeCNAME)...)
	if err != nil {
		return "", err
	}
	if _, canonical := addrsOf(answers); canonical != "" {
		return canonical, nil
	}
	// The name has no addresses, but it may be an alias.
	alias := answers[len(answers)-1]
	for _, ans := range answers {
		switch {
		case ans == nil || ans.aliases == 0:
		case ans.loop:
			// RFC 1034 3.6.2: "CNAME loops signalled as an error".
			return "", dnsError(errNoSuchHost, host, ans.server)
		case !ans.dangling || neverAsked(ans.canonical.String()):
			return ans.canonical.String(), nil
		}
	}
	return r.walk(ctx, host, alias)
}

// walk queries the aliases of host one after the other and returns the last name. alias is the answer
// with the first alias.
func (r *Resolver) walk(ctx context.Context, host string, alias *answer) (string, error) {
	seen := []string{lower(absName(host))}
	for {
		target := alias.records[0].Body.(*dnsmessage.CNAMEResource).CNAME.String()
		if slices.Contains(seen, lower(target)) {
			return "", dnsError(errNoSuchHost, host, alias.server)
		}
		if len(seen) > maxChain {
			return "", dnsError(errTooManyAliases, host, alias.server)
		}
		seen = append(seen, lower(target))
		if neverAsked(target) {
			return target, nil
		}
		next, err := r.ask(ctx, target, dnsmessage.TypeCNAME)
		if cause := done(ctx); cause != nil && err != nil {
			return "", named(err, host)
		}
		if err != nil {
			return target, nil // the last known name
		}
		alias = next
	}
}
