package stack

import (
	"net/netip"
	"slices"

	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

// An autoAddr has the additional state of an address in an advertised prefix. A prefix has one stable
// address (RFC 7217) and, if NIC.Temporary is set, temporary ones (RFC 8981).
type autoAddr struct {
	temporary bool
	tries     uint8        // earlier identifiers that were duplicates; RFC 7217's DAD_Counter
	created   tcp.Time     // when a temporary address was made
	renewAt   tcp.Time     // when to make the next temporary address; 0: never, or it was made
	routers   []autoRouter // that advertise the prefix, the latest last; the slice is immutable

	// noTemporary is for stable addresses only. It says that too many temporary addresses in the prefix
	// were duplicates, and that no more are made while the link is up.
	noTemporary bool
}

// An autoRouter is a router that advertises the prefix of an address, for rule 5.5 of RFC 6724. until is the
// end of the prefix's valid lifetime, by the last Prefix Information option from this router.
type autoRouter struct {
	addr  netip.Addr
	until tcp.Time
}

// maxPrefixRouters is the number of routers that are kept for the prefix of an address.
const maxPrefixRouters = 8

// isFrom reports whether a router advertises the prefix of the address.
func (a *autoAddr) isFrom(router netip.Addr, s *Stack) bool {
	i := slices.IndexFunc(a.routers, func(r autoRouter) bool { return r.addr == router })
	return i >= 0 && !ended(a.routers[i].until, s.now())
}

// setPrefixRouter records that a router advertises the prefix of the address. If until has passed, it records
// that the router no longer does. If there are too many routers, setPrefixRouter forgets one: of those that
// are not next hops, or else of all, the one whose last advertisement is the oldest. It reports whether the
// source of packets over a next hop may change.
func (s *Stack) setPrefixRouter(ifc *iface, a *ifaceAddr, router netip.Addr, until, now tcp.Time) (changed bool) {
	had := a.auto.isFrom(router, s)
	list := slices.DeleteFunc(slices.Clone(a.auto.routers), func(r autoRouter) bool {
		return r.addr == router || ended(r.until, now)
	})
	has := !ended(until, now)
	if has && len(list) >= maxPrefixRouters {
		i := max(0, slices.IndexFunc(list, func(r autoRouter) bool { return !s.isNextHop(ifc, r.addr) }))
		changed = s.isNextHop(ifc, list[i].addr)
		list = slices.Delete(list, i, i+1)
	}
	if has {
		list = append(list, autoRouter{router, until})
	}
	auto := *a.auto
	auto.routers = list
	a.auto = &auto
	return changed || had != has && s.isNextHop(ifc, router)
}

// isNextHop reports whether a router is the next hop of a route over the interface. s.mu is held.
func (s *Stack) isNextHop(ifc *iface, router netip.Addr) bool {
	if slices.ContainsFunc(ifc.auto.routes, func(r autoRoute) bool { return r.via == router }) {
		return true
	}
	return slices.ContainsFunc(s.table.Load().routes, func(r route) bool { return r.ifc == ifc && r.via == router })
}

// takeAutoPrefix makes or renews the addresses in a prefix whose option has the Autonomous flag (RFC 4862
// 5.5.3). It reports whether the set, the state or the routers of the addresses have changed. s.mu is held.
func (s *Stack) takeAutoPrefix(ifc *iface, router netip.Addr, p *wire.PrefixInfo, now tcp.Time) bool {
	// RFC 4862 5.5.3: "c) If the preferred lifetime is greater than the valid lifetime, silently ignore
	// the Prefix Information option."; "If the sum of the prefix length and interface identifier length
	// does not equal 128 bits, the Prefix Information option MUST be ignored."
	if p.Preferred > p.Valid || p.Prefix.Bits() != 64 {
		return false
	}
	list := slices.Clone(ifc.list())
	found, changed := false, false
	for i := range list {
		a := &list[i]
		if a.auto == nil || a.prefix.Masked() != p.Prefix {
			continue
		}
		found = found || !a.auto.temporary // the prefix has its stable address
		before := a.state
		s.renew(ifc, a, p, now)
		changed = changed || a.state != before
	}
	// RFC 4862 5.5.3: "d) If no prefix is configured with a matching address [...] and if the Valid
	// Lifetime is not 0, form an address".
	if !found && p.Valid != 0 && countAuto(list) < maxAutoAddrs {
		n := len(list)
		list = s.appendStable(ifc, list, p.Prefix, 0, lifetimeEnd(now, p.Preferred), lifetimeEnd(now, p.Valid), now)
		list = s.appendTemporary(ifc, list, p.Prefix, 0, now)
		changed = changed || len(list) > n // appendStable adds nothing if the host has the address already
	} else if found && ifc.auto.temporary {
		n := len(list)
		list = s.resumeTemporary(ifc, list, p.Prefix, now)
		changed = changed || len(list) > n
	}
	for i := range list {
		if a := &list[i]; a.auto != nil && a.prefix.Masked() == p.Prefix {
			changed = s.setPrefixRouter(ifc, a, router, lifetimeEnd(now, p.Valid), now) || changed
		}
	}
	if changed {
		s.setAddrs(ifc, list)
	} else {
		ifc.addrs.Store(&list) // only lifetimes have changed: the routes do not depend on them
	}
	return changed
}

// countAuto returns the number of addresses in list that are in advertised prefixes.
func countAuto(list []ifaceAddr) (n int) {
	for i := range list {
		if list[i].auto != nil {
			n++
		}
	}
	return n
}

// renew sets the lifetimes of an address from a received Prefix Information option, and its state from the
// new lifetimes.
//
// RFC 4862 5.5.3 (e): "the preferred lifetime of the corresponding address is always reset to the
// Preferred Lifetime in the received Prefix Information option, regardless of whether the valid lifetime
// is also reset or ignored." RFC 8981 3.4 limits the lifetimes of a temporary address.
func (s *Stack) renew(ifc *iface, a *ifaceAddr, p *wire.PrefixInfo, now tcp.Time) {
	valid, preferred := lifetimeEnd(now, p.Valid), lifetimeEnd(now, p.Preferred)
	// RFC 4862 5.5.3 (e): "1. If the received Valid Lifetime is greater than 2 hours or greater than
	// RemainingLifetime, set the valid lifetime of the corresponding address to the advertised Valid
	// Lifetime. 2. If RemainingLifetime is less than or equal to 2 hours, ignore the Prefix Information
	// option with regards to the valid lifetime, unless the Router Advertisement from which this option was
	// obtained has been authenticated [...]. 3. Otherwise, reset the valid lifetime of the corresponding
	// address to 2 hours."
	switch {
	case valid == 0 || valid > now+twoHours || a.valid != 0 && valid > a.valid:
		a.valid = valid
	case a.valid != 0 && a.valid <= now+twoHours: // keep a.valid
	default:
		a.valid = now + twoHours
	}
	a.preferred = preferred
	if a.auto.temporary {
		a.valid = earlier(a.valid, a.auto.created+temporaryValid)
		a.preferred = earlier(a.preferred, a.auto.created+temporaryPreferred-s.desync)
		if a.auto.renewAt != 0 {
			a.auto = renewedAt(a.auto, a.preferred-ifc.temporaryAdvance())
		}
	}
	if a.dad == nil && a.usable() {
		a.state = AddrPreferred
		if ended(a.preferred, now) {
			a.state = AddrDeprecated
		}
	}
}

// renewedAt returns a copy of a whose renewAt is at. An autoAddr is immutable, because list slices share it.
func renewedAt(a *autoAddr, at tcp.Time) *autoAddr {
	b := *a
	b.renewAt = at
	return &b
}

// appendStable appends a new stable address in a prefix to list. tries is the number of earlier identifiers
// that were duplicates.
func (s *Stack) appendStable(ifc *iface, list []ifaceAddr, prefix netip.Prefix, tries uint8, preferred, valid, now tcp.Time) []ifaceAddr {
	addr := s.stableAddr(ifc, prefix, tries)
	return s.appendAuto(ifc, list, netip.PrefixFrom(addr, 64), &autoAddr{tries: tries}, preferred, valid, now)
}

// appendTemporary appends a new temporary address in a prefix to list, if the interface uses temporary
// addresses and the address would be preferred for long enough. tries is as for appendStable.
//
// RFC 8981 3.4: "A temporary address is created only if this calculated preferred lifetime is greater
// than REGEN_ADVANCE time units."
func (s *Stack) appendTemporary(ifc *iface, list []ifaceAddr, prefix netip.Prefix, tries uint8, now tcp.Time) []ifaceAddr {
	i := slices.IndexFunc(list, func(a ifaceAddr) bool {
		return a.auto != nil && !a.auto.temporary && a.prefix.Masked() == prefix
	})
	if !ifc.auto.temporary || i < 0 || list[i].auto.noTemporary || countAuto(list) >= maxAutoAddrs {
		return list
	}
	// RFC 8981 3.8: DESYNC_FACTOR is "a random value within the range 0 - MAX_DESYNC_FACTOR", which is
	// "0.4 * TEMP_PREFERRED_LIFETIME".
	if s.desync == 0 {
		s.desync = 1 + tcp.Time(s.random.next(randID)%uint64(temporaryPreferred*2/5))
	}
	stable := &list[i]
	preferred := earlier(stable.preferred, now+temporaryPreferred-s.desync)
	if preferred-now <= ifc.temporaryAdvance() {
		return list
	}
	auto := &autoAddr{temporary: true, tries: tries, created: now, renewAt: preferred - ifc.temporaryAdvance(), routers: stable.auto.routers}
	p := netip.PrefixFrom(s.temporaryAddr(prefix), 64)
	return s.appendAuto(ifc, list, p, auto, preferred, earlier(stable.valid, now+temporaryValid), now)
}

// appendAuto appends the address p, unless the host has that address already, and begins Duplicate Address
// Detection for it. A preferred or valid lifetime of 0 never ends.
func (s *Stack) appendAuto(ifc *iface, list []ifaceAddr, p netip.Prefix, auto *autoAddr, preferred, valid, now tcp.Time) []ifaceAddr {
	if s.isTaken(ifc, list, p.Addr()) {
		return list
	}
	a := ifaceAddr{prefix: p, origin: AddrRA, preferred: preferred, valid: valid, defence: new(defence), auto: auto}
	if ended(preferred, now) {
		a.state = AddrDeprecated
	}
	s.detect(ifc, &a, now)
	return append(list, a)
}

// isTaken reports whether an address is in list or on another interface.
func (s *Stack) isTaken(ifc *iface, list []ifaceAddr, addr netip.Addr) bool {
	if slices.ContainsFunc(list, func(a ifaceAddr) bool { return a.addr() == addr }) {
		return true
	}
	for _, other := range *s.ifaces.Load() {
		if other != ifc && other.find(addr) >= 0 {
			return true
		}
	}
	return false
}

// replaceDuplicate replaces the duplicate a of list: it appends an address with another identifier to list. If
// maxIDTries replacements were duplicates too, it gives up, and reports true.
//
// RFC 7217 6: "If the duplicate address detection procedure fails, [...] the DAD_Counter value should be
// incremented, and the algorithm should be employed again", up to IDGEN_RETRIES times. RFC 8981 3.4 has
// the same rule for temporary addresses: after TEMP_IDGEN_RETRIES attempts, the host "SHOULD NOT attempt to
// generate a temporary address for the given prefix for the duration of the host's attachment to the
// network via this interface."
func (s *Stack) replaceDuplicate(ifc *iface, list []ifaceAddr, a *ifaceAddr, now tcp.Time) (more []ifaceAddr, gaveUp bool) {
	if a.auto == nil || ifc.auto == nil {
		return list, false
	}
	if a.auto.temporary {
		a.auto = renewedAt(a.auto, 0) // the address that replaces a has its own successor
	}
	prefix, again := a.prefix.Masked(), a.auto.tries < maxIDTries
	switch {
	case again && a.auto.temporary:
		return s.appendTemporary(ifc, list, prefix, a.auto.tries+1, now), false
	case again:
		return s.appendStable(ifc, list, prefix, a.auto.tries+1, a.preferred, a.valid, now), false
	case a.auto.temporary:
		allowTemporary(list, prefix, false)
	}
	return list, true
}

// allowTemporary sets whether temporary addresses are made in a prefix. An invalid prefix means all.
func allowTemporary(list []ifaceAddr, prefix netip.Prefix, allow bool) {
	for i := range list {
		a := &list[i]
		if a.auto != nil && !a.auto.temporary && a.auto.noTemporary == allow && (!prefix.IsValid() || a.prefix.Masked() == prefix) {
			auto := *a.auto
			auto.noTemporary = !allow
			a.auto = &auto
		}
	}
}

// temporaryAdvance returns RFC 8981 3.8's REGEN_ADVANCE: how long before the preferred lifetime of a
// temporary address ends the next one is made.
func (ifc *iface) temporaryAdvance() tcp.Time {
	return 2*tcp.Second + maxIDTries*tcp.Time(max(0, ifc.dadTransmits))*requestInterval
}

// resumeTemporary makes sure that a temporary address of a prefix has a scheduled successor. There may be none
// if the preferred lifetime of the prefix was too short for a time (see appendTemporary). resumeTemporary then
// schedules a successor for the newest temporary address, or appends a new address to list.
func (s *Stack) resumeTemporary(ifc *iface, list []ifaceAddr, prefix netip.Prefix, now tcp.Time) []ifaceAddr {
	var newest *ifaceAddr
	for i := range list {
		a := &list[i]
		if a.auto == nil || !a.auto.temporary || a.prefix.Masked() != prefix {
			continue
		}
		if a.auto.renewAt != 0 {
			return list
		}
		if a.usable() && (newest == nil || a.auto.created >= newest.auto.created) {
			newest = a
		}
	}
	if newest != nil {
		if at := newest.preferred - ifc.temporaryAdvance(); at > now {
			newest.auto = renewedAt(newest.auto, at)
			return list
		}
	}
	return s.appendTemporary(ifc, list, prefix, 0, now)
}

// followTemporary appends to list the successors of the temporary addresses whose renewAt has come. It
// reports whether it has changed list. s.mu is held.
//
// RFC 8981 3.6: "When the preferred lifetime of a temporary address expires, a new temporary address
// SHOULD be generated"; 3.4: "REGEN_ADVANCE units of time before" that.
func (s *Stack) followTemporary(ifc *iface, list []ifaceAddr, now tcp.Time) (more []ifaceAddr, changed bool) {
	for i := range list {
		if a := list[i].auto; a != nil && ended(a.renewAt, now) {
			list[i].auto = renewedAt(a, 0)
			list = s.appendTemporary(ifc, list, list[i].prefix.Masked(), 0, now)
			changed = true
		}
	}
	return list, changed
}
