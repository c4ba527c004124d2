package stack

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

// This file keeps what an interface with NIC.Auto learns from Router Advertisements: default routers
// and on-link prefixes (RFC 4861 6.3), more specific routes (RFC 4191) and name servers (RFC 8106). The
// addresses (RFC 4862) are in ip_slaac_addr.go.

const (
	// Maximum numbers of entries per interface. maxAutoDNS also limits search domains and NAT64 prefixes.
	maxAutoRoutes   = 32
	maxAutoPrefixes = 32
	maxAutoAddrs    = 16 // Linux's max_addresses
	maxAutoDNS      = 8

	twoHours = 2 * 3600 * tcp.Second // RFC 4862 5.5.3 (e)

	solicitDelay       = tcp.Second        // RFC 4861 10, MAX_RTR_SOLICITATION_DELAY
	solicitInterval    = 4 * tcp.Second    // RFC 7559 2, IRT
	maxSolicitInterval = 3600 * tcp.Second // RFC 7559 2, MRT

	// RFC 8981 3.8, TEMP_VALID_LIFETIME and TEMP_PREFERRED_LIFETIME.
	temporaryValid     = 2 * 24 * 3600 * tcp.Second
	temporaryPreferred = 24 * 3600 * tcp.Second
)

// An autoconf is the configuration that an interface has learned from the routers of its link. Stack.mu
// protects it.
type autoconf struct {
	temporary bool // make temporary addresses too (RFC 8981)

	routes   []autoRoute  // default routes and more specific ones
	prefixes []autoPrefix // on-link prefixes
	dns      []autoDNS
	search   []autoSearch
	nat64    []autoPrefix // prefixes of RFC 8781

	hopLimit       uint8  // 0: none received
	managed, other bool   // the flags M and O of the last Router Advertisement
	mtu            int    // MTU for IPv6; 0: none received
	reachable      uint32 // last Reachable Time received, in milliseconds; 0: none

	solicitAt tcp.Time // time of the next Router Solicitation; 0: none is scheduled
	interval  tcp.Time // from the last Router Solicitation to solicitAt; 0: none was sent yet
}

// An autoRoute is a route that a router has advertised. until is when the lifetime of the route ends; 0:
// never. The same holds for until in the types below.
type autoRoute struct {
	dst        netip.Prefix
	via        netip.Addr
	preference wire.Preference
	until      tcp.Time
}

type autoPrefix struct {
	prefix netip.Prefix
	until  tcp.Time
}

type autoDNS struct {
	addr  netip.Addr
	until tcp.Time
}

type autoSearch struct {
	domain string
	until  tcp.Time
}

// lifetimeEnd returns when a lifetime that begins now ends; 0: never.
// RFC 4861 4.6.2: "A value of all one bits (0xffffffff) represents infinity."
func lifetimeEnd(now tcp.Time, seconds uint32) tcp.Time {
	if seconds == 1<<32-1 {
		return 0
	}
	return now + tcp.Time(seconds)*tcp.Second
}

// ended reports whether a lifetime has ended.
func ended(until, now tcp.Time) bool { return until != 0 && until <= now }

// next returns the time of the next scheduled change or solicitation; 0: none.
func (a *autoconf) next() tcp.Time {
	if a == nil {
		return 0
	}
	at := a.solicitAt
	for i := range a.routes {
		at = earlier(at, a.routes[i].until)
	}
	for i := range a.prefixes {
		at = earlier(at, a.prefixes[i].until)
	}
	for i := range a.dns {
		at = earlier(at, a.dns[i].until)
	}
	for i := range a.search {
		at = earlier(at, a.search[i].until)
	}
	for i := range a.nat64 {
		at = earlier(at, a.nat64[i].until)
	}
	return at
}

// age removes entries whose lifetime has ended, and reports whether there were any.
func (a *autoconf) age(now tcp.Time) bool {
	n := a.size()
	a.routes = slices.DeleteFunc(a.routes, func(r autoRoute) bool { return ended(r.until, now) })
	a.prefixes = slices.DeleteFunc(a.prefixes, func(p autoPrefix) bool { return ended(p.until, now) })
	a.dns = slices.DeleteFunc(a.dns, func(d autoDNS) bool { return ended(d.until, now) })
	a.search = slices.DeleteFunc(a.search, func(d autoSearch) bool { return ended(d.until, now) })
	a.nat64 = slices.DeleteFunc(a.nat64, func(p autoPrefix) bool { return ended(p.until, now) })
	return a.size() < n
}

// size returns the number of entries.
func (a *autoconf) size() int {
	return len(a.routes) + len(a.prefixes) + len(a.dns) + len(a.search) + len(a.nat64)
}

// ageAuto sends a Router Solicitation on an interface if one is due, and removes the expired entries. It
// reports whether entries were removed. s.mu is held. The caller must drain.
func (s *Stack) ageAuto(ifc *iface, now tcp.Time) bool {
	a := ifc.auto
	if a == nil {
		return false
	}
	if a.solicitAt != 0 && a.solicitAt <= now {
		s.solicitRouters(ifc, now)
	}
	defer s.forgetRedirects(ifc, a.defaultRouters())
	return a.age(now)
}

// defaultRouters returns the routers of the default routes: the Default Router List of RFC 4861 5.1.
func (a *autoconf) defaultRouters() (list []netip.Addr) {
	for i := range a.routes {
		if r := &a.routes[i]; r.dst.Bits() == 0 {
			list = append(list, r.via)
		}
	}
	return list
}

// forgetRedirects removes the redirects to those routers of had that are no longer default routers.
//
// RFC 4861 6.3.5: "When removing a router from the Default Router list, the node MUST update the Destination
// Cache in such a way that all entries using the router perform next-hop determination again rather than
// continue sending traffic to the (deleted) router."
func (s *Stack) forgetRedirects(ifc *iface, had []netip.Addr) {
	if s.redirects.n.Load() == 0 {
		return
	}
	have := ifc.auto.defaultRouters()
	for _, router := range had {
		if !slices.Contains(have, router) {
			s.redirects.forget(ifc, router)
		}
	}
}

// beginSoliciting schedules the first Router Solicitation after the link has come up. s.mu is held.
//
// RFC 4861 6.3.7: "Before a host sends an initial solicitation, it SHOULD delay the transmission for a
// random amount of time between 0 and MAX_RTR_SOLICITATION_DELAY."
func (s *Stack) beginSoliciting(ifc *iface, now tcp.Time) {
	if a := ifc.auto; a != nil {
		a.interval = 0
		a.solicitAt = now + tcp.Time(s.random.next(randND)%uint64(solicitDelay))
	}
}

// solicitRouters sends a Router Solicitation and schedules the next one. While no router answers, the
// solicitations go on, at intervals that double up to an hour.
//
// RFC 7559 2: "RT for the first message transmission is based on IRT: RT = IRT + RAND*IRT. RT for each
// subsequent message transmission is based on the previous value of RT: RT = 2*RTprev + RAND*RTprev",
// where RAND is between -0.1 and 0.1, and RT is at most MRT.
func (s *Stack) solicitRouters(ifc *iface, now tcp.Time) {
	a := ifc.auto
	if ifc.down6() {
		a.solicitAt = 0 // until beginSoliciting
		return
	}
	prev, rt := a.interval, 2*a.interval
	if prev == 0 {
		prev, rt = solicitInterval, solicitInterval
	}
	spread := uint64(prev/5) + 1 // from -prev/10 to prev/10
	rt += tcp.Time(s.random.next(randND)%spread) - prev/10
	a.interval = min(rt, maxSolicitInterval)
	a.solicitAt = now + a.interval
	src := netip.IPv6Unspecified()
	for _, x := range ifc.list() {
		if isLinkLocal6(x.addr()) && x.usable() {
			src = x.addr()
		}
	}
	var body []byte
	if ifc.includesLinkAddr(src) {
		mac := ifc.mac()
		body = wire.AppendNDOption(nil, wire.NDSourceLink, mac[:])
	}
	ifc.sendND(wire.ICMPv6RouterSol, 0, src, allRouters6(), nil, body)
}

// inputRouterAdv handles a Router Advertisement (RFC 4861 6.1.2 and 6.3.4).
func (ifc *iface) inputRouterAdv(p *packet, h *wire.ICMPv6, body []byte) wire.Reason {
	ra, r := wire.ParseRouterAdv(h.Rest, body)
	if r != wire.OK {
		return r
	}
	// RFC 4861 6.1.2: "IP Source Address is a link-local address."
	if ifc.auto == nil || !isLinkLocal6(p.src) {
		return dropRA
	}
	mac, ok := ra.SourceLink()
	switch {
	case ifc.linkLen == 0: // there are no neighbour entries
	case ok && !ifc.isStation(mac):
		return dropBadNDSender
	case ok:
		ifc.nd().learn(p.src, mac, updateMAC|updateOverride|updateCreate|updateRouter)
	default:
		ifc.nd().learn(p.src, mac, updateRouter)
	}
	s := ifc.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed.Load() {
		return wire.OK
	}
	now := s.now()
	if s.takeRouterAdv(ifc, p.src, &ra, now) {
		s.rebuildRoutes()
	}
	s.ageAddrs()
	return wire.OK
}

// takeRouterAdv applies a Router Advertisement. It reports whether anything but lifetimes, the Reachable Time
// and the Retrans Timer has changed. s.mu is held.
func (s *Stack) takeRouterAdv(ifc *iface, router netip.Addr, ra *wire.RouterAdv, now tcp.Time) (changed bool) {
	a := ifc.auto
	defer s.forgetRedirects(ifc, a.defaultRouters())
	if ra.Lifetime != 0 {
		// RFC 4861 6.3.7: "Once the host sends a Router Solicitation, and receives a valid Router
		// Advertisement with a non-zero Router Lifetime, the host MUST desist from sending additional
		// solicitations on that interface".
		a.solicitAt = 0
	}
	// RFC 4861 6.3.4: "If the received Cur Hop Limit value is non-zero, the host SHOULD set its
	// CurHopLimit variable to the received value."
	if ra.HopLimit != 0 && a.hopLimit != ra.HopLimit {
		a.hopLimit, changed = ra.HopLimit, true
		ifc.hops6.Store(int32(ra.HopLimit))
	}
	if a.managed != ra.Managed || a.other != ra.Other {
		// A DHCPv6 client may wait for the flags.
		a.managed, a.other, changed = ra.Managed, ra.Other, true
	}
	s.setReachable(ifc, ra)
	preference := ra.Preference
	if ra.Lifetime == 0 {
		// RFC 4191 2.2: "If the Router Lifetime is zero, the preference value MUST be [...] ignored by
		// the receiver."
		preference = wire.PreferMedium
	}
	all := netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	// Router Lifetime has 16 bits, so lifetimeEnd never takes it for infinity.
	changed = a.setRoute(autoRoute{all, router, preference, lifetimeEnd(now, uint32(ra.Lifetime))}, now) || changed
	for o, rest, ok := wire.NextNDOption(ra.Options); ok; o, rest, ok = wire.NextNDOption(rest) {
		changed = s.takeRAOption(ifc, router, &o, now) || changed
	}
	return changed
}

// setReachable applies the Reachable Time and the Retrans Timer of a Router Advertisement.
//
// RFC 4861 6.3.4: "If the received Reachable Time value is non-zero, the host SHOULD set its
// BaseReachableTime variable to the received value. If the new value differs from the previous
// value, the host SHOULD re-compute a new random ReachableTime value"; 6.3.2: "a uniformly
// distributed random value between MIN_RANDOM_FACTOR and MAX_RANDOM_FACTOR times BaseReachableTime
// milliseconds", 0.5 and 1.5.
func (s *Stack) setReachable(ifc *iface, ra *wire.RouterAdv) {
	const most = 3600 * 1000 // RFC 4861 6.2.1: AdvReachableTime "MUST be no greater than 3,600,000 milliseconds"
	if ifc.linkLen == 0 {
		return // there are no neighbour entries
	}
	t := ifc.nd()
	t.mu.Lock()
	defer t.mu.Unlock()
	if ra.Reachable != 0 && ra.Reachable <= most && ra.Reachable != ifc.auto.reachable {
		ifc.auto.reachable = ra.Reachable
		base := tcp.Time(ra.Reachable) * tcp.Millisecond
		t.reachable = base/2 + tcp.Time(s.random.next(randND)%uint64(base))
	}
	// RFC 4861 6.3.4: "The RetransTimer variable SHOULD be copied from the Retrans Timer field, if it is
	// non-zero." The RFC does not have the bounds below: too long a time would prevent resolution, and too
	// short a time would flood the link.
	if ra.Retrans >= 100 && ra.Retrans <= 60_000 {
		t.retrans = tcp.Time(ra.Retrans) * tcp.Millisecond
	}
}

// takeRAOption applies an option of a Router Advertisement, and reports whether anything but lifetimes has
// changed. s.mu is held.
func (s *Stack) takeRAOption(ifc *iface, router netip.Addr, o *wire.NDOption, now tcp.Time) (changed bool) {
	a := ifc.auto
	switch o.Type {
	case wire.NDPrefix:
		if p, ok := wire.ParsePrefixInfo(o.Body); ok && isRoutable6(p.Prefix) {
			changed = p.OnLink && a.setPrefix(p.Prefix, p.Valid, now)
			if p.Auto {
				changed = s.takeAutoPrefix(ifc, router, &p, now) || changed
			}
		}
	case wire.NDMTU:
		// RFC 4861 6.3.4: "hosts SHOULD copy the option's value into LinkMTU so long as the value is
		// greater than or equal to the minimum link MTU [IPv6] and does not exceed the maximum LinkMTU
		// value specified in the link-type-specific document".
		if mtu, ok := wire.ParseMTU(o.Body); ok && mtu >= wire.MinIPv6MTU && uint64(mtu) <= uint64(ifc.mtu()) && a.mtu != int(mtu) {
			a.mtu, changed = int(mtu), true
			ifc.mtu6.Store(int32(mtu))
		}
	case wire.NDRoute:
		if r, ok := wire.ParseRouteInfo(o.Body); ok && (r.Prefix.Bits() == 0 || isRoutable6(r.Prefix)) {
			changed = a.setRoute(autoRoute{r.Prefix, router, r.Preference, lifetimeEnd(now, r.Lifetime)}, now)
		}
	case wire.NDRDNSS:
		if life, addrs, ok := wire.ParseRDNSS(o.Body); ok {
			for ; len(addrs) >= 16; addrs = addrs[16:] {
				changed = a.setDNS(netip.AddrFrom16([16]byte(addrs)), lifetimeEnd(now, life), now) || changed
			}
		}
	case wire.NDDNSSL:
		if life, names, ok := wire.ParseDNSSL(o.Body); ok {
			for name, rest, ok := wire.NextDomain(names); ok; name, rest, ok = wire.NextDomain(rest) {
				changed = a.setSearch(name, lifetimeEnd(now, life), now) || changed
			}
		}
	case wire.NDPREF64:
		if p, life, ok := wire.ParsePREF64(o.Body); ok {
			changed = setEntry(&a.nat64, autoPrefix{p, lifetimeEnd(now, life)}, now, maxAutoDNS,
				func(x, y *autoPrefix) bool { return x.prefix == y.prefix }, func(x *autoPrefix) tcp.Time { return x.until })
		}
	}
	return changed
}

// isRoutable6 reports whether a prefix can be an on-link prefix or the destination of a route.
//
// RFC 4861 6.3.4 and RFC 4862 5.5.3: "If the prefix is the link-local prefix, silently ignore the Prefix
// Information option."
func isRoutable6(p netip.Prefix) bool {
	a := p.Addr()
	return p.Bits() > 0 && !a.IsLinkLocalUnicast() && !a.IsMulticast() && !a.IsLoopback() && !a.Is4In6() && !a.IsUnspecified()
}

// setEntry replaces the entry x of the list for which same(x, &e) is true. If there is none, setEntry adds e,
// unless the list has limit entries already. until(&e) is the end of e's lifetime. If it has passed, setEntry
// removes x, and adds nothing. It reports whether an entry was added or removed.
func setEntry[T any](list *[]T, e T, now tcp.Time, limit int, same func(x, y *T) bool, until func(x *T) tcp.Time) (changed bool) {
	i := slices.IndexFunc(*list, func(x T) bool { return same(&x, &e) })
	switch over := ended(until(&e), now); {
	case i >= 0 && over:
		*list = slices.Delete(*list, i, i+1)
		return true
	case i >= 0:
		(*list)[i] = e
	case !over && len(*list) < limit:
		*list = append(*list, e)
		return true
	}
	return false
}

func (a *autoconf) setPrefix(p netip.Prefix, valid uint32, now tcp.Time) bool {
	return setEntry(&a.prefixes, autoPrefix{p, lifetimeEnd(now, valid)}, now, maxAutoPrefixes,
		func(x, y *autoPrefix) bool { return x.prefix == y.prefix }, func(x *autoPrefix) tcp.Time { return x.until })
}

func (a *autoconf) setDNS(server netip.Addr, until, now tcp.Time) bool {
	if !isUnicast(server) || server.IsLoopback() || server.Is4In6() {
		return false
	}
	return setEntry(&a.dns, autoDNS{server, until}, now, maxAutoDNS,
		func(x, y *autoDNS) bool { return x.addr == y.addr }, func(x *autoDNS) tcp.Time { return x.until })
}

func (a *autoconf) setSearch(domain string, until, now tcp.Time) bool {
	return setEntry(&a.search, autoSearch{domain, until}, now, maxAutoDNS,
		func(x, y *autoSearch) bool { return x.domain == y.domain }, func(x *autoSearch) tcp.Time { return x.until })
}

// setRoute adds, updates or removes a route. It keeps the routes ordered by preference (RFC 4191 3.1),
// because a lookup selects the first matching route whose router answers. setRoute reports whether the
// set or the order of routes has changed.
func (a *autoconf) setRoute(r autoRoute, now tcp.Time) bool {
	same := func(x, y *autoRoute) bool { return x.dst == y.dst && x.via == y.via }
	i := slices.IndexFunc(a.routes, func(x autoRoute) bool { return same(&x, &r) })
	moved := i >= 0 && a.routes[i].preference != r.preference
	changed := setEntry(&a.routes, r, now, maxAutoRoutes, same, func(x *autoRoute) tcp.Time { return x.until })
	if changed || moved {
		slices.SortStableFunc(a.routes, func(x, y autoRoute) int { return cmp.Compare(y.preference, x.preference) })
	}
	return changed || moved
}

// addAuto appends to all the routes that the interfaces have learned from Router Advertisements: first the
// on-link prefixes, then the routes over routers.
//
// RFC 4191 3.1: among matching routes of the same length, the host prefers the routes with the higher
// preference. This holds for routers on different links, too.
func (t *routeTable) addAuto(all []route, ifaces []*iface) []route {
	for _, ifc := range ifaces {
		if ifc.auto == nil {
			continue
		}
		for _, p := range ifc.auto.prefixes {
			all = append(all, route{dst: p.prefix, ifc: ifc})
		}
	}
	for _, pref := range []wire.Preference{wire.PreferHigh, wire.PreferMedium, wire.PreferLow} {
		for _, ifc := range ifaces {
			if ifc.auto == nil {
				continue
			}
			for _, r := range ifc.auto.routes {
				if r.preference == pref {
					all = append(all, route{dst: r.dst, via: r.via, ifc: ifc})
				}
			}
		}
	}
	return all
}

// forgetRouter removes the routes and redirects through a neighbour that is no longer a router. No lock
// is held.
//
// RFC 4861 7.2.5: "In those cases where the IsRouter flag changes from TRUE to FALSE as a result of this
// update, the node MUST remove that router from the Default Router List and update the
// Destination Cache entries for all destinations using that neighbor as a router".
func (s *Stack) forgetRouter(ifc *iface, router netip.Addr) {
	s.redirects.forget(ifc, router)
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := ifc.auto; a != nil && !s.closed.Load() {
		n := len(a.routes)
		a.routes = slices.DeleteFunc(a.routes, func(r autoRoute) bool { return r.via == router })
		if len(a.routes) < n {
			s.rebuildRoutes()
		}
	}
}

// An AutoInfo describes what an interface has learned from Router Advertisements.
type AutoInfo struct {
	// DNS are the addresses of name servers, with a zone if they are link-local. Search are the search
	// domains, each with a final dot (RFC 8106).
	DNS    []netip.Addr
	Search []string
	// NAT64 are the prefixes of NAT64 translators (RFC 8781).
	NAT64 []netip.Prefix
	// HopLimit is the hop limit for sent packets, and MTU is the MTU for IPv6 in bytes. A value that no
	// router has advertised is 0.
	HopLimit uint8
	MTU      int
	// Managed and Other are the flags M and O of RFC 4861 4.2. Managed reports whether DHCPv6 provides
	// addresses, and Other whether it provides other configuration.
	Managed, Other bool
}

// describeAuto returns the AutoInfo of an interface; nil if NIC.Auto is not set.
func (s *Stack) describeAuto(ifc *iface) *AutoInfo {
	if ifc.auto == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return ifc.auto.describe(ifc)
}

// describe returns the AutoInfo of ifc, whose autoconf is a. s.mu is held.
func (a *autoconf) describe(ifc *iface) *AutoInfo {
	info := &AutoInfo{HopLimit: a.hopLimit, MTU: a.mtu, Managed: a.managed, Other: a.other}
	for _, d := range a.dns {
		info.DNS = append(info.DNS, ifc.s.zoned(d.addr, ifc.index))
	}
	for _, d := range a.search {
		info.Search = append(info.Search, d.domain)
	}
	for _, p := range a.nat64 {
		info.NAT64 = append(info.NAT64, p.prefix)
	}
	return info
}

// LearnedDNS returns the name servers and search domains of the interfaces that are up: those that routers
// have advertised, and those that devices have negotiated.
func (s *Stack) LearnedDNS() (servers []netip.AddrPort, search []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ifc := range *s.ifaces.Load() {
		if ifc.down.Load() {
			continue
		}
		if ifc.negotiated != nil {
			for _, a := range ifc.negotiated.dns {
				servers = append(servers, netip.AddrPortFrom(a, 53))
			}
		}
		if ifc.auto == nil {
			continue
		}
		info := ifc.auto.describe(ifc)
		for _, a := range info.DNS {
			servers = append(servers, netip.AddrPortFrom(a, 53))
		}
		search = append(search, info.Search...)
	}
	return servers, search
}
