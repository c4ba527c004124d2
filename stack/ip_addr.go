package stack

import (
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

// This file keeps the addresses of interfaces. Config and AddAddr use the same code.

// An AddrState says what an address may be used for.
type AddrState uint8

const (
	// AddrPreferred is an address that may be used without restriction.
	AddrPreferred AddrState = iota
	// AddrDeprecated is an address whose preferred lifetime has ended. The host receives packets to the
	// address, and sends packets from sockets that are bound to it. New communication uses another
	// address if the host has one.
	AddrDeprecated
	// AddrDuplicate is an address that the host has given up because another machine on the link uses
	// it. The host neither receives nor sends packets with the address. The address stays in the list
	// until it is removed or added again.
	AddrDuplicate
	// AddrOptimistic is an IPv6 address that is used during its duplicate address detection (RFC 4429).
	AddrOptimistic
	// AddrTentative is an address that is not used yet, because another machine on the link may have it.
	// See Config.WaitForDAD for IPv6, and AddrOptions.Probe for IPv4.
	AddrTentative
)

// String returns the name of the state.
func (st AddrState) String() string {
	switch st {
	case AddrPreferred:
		return "preferred"
	case AddrDeprecated:
		return "deprecated"
	case AddrDuplicate:
		return "duplicate"
	case AddrOptimistic:
		return "optimistic"
	case AddrTentative:
		return "tentative"
	}
	return fmt.Sprintf("state %d", uint8(st))
}

// An AddrOrigin says where an address comes from. The origin decides what the host does if another
// machine uses the address too: see Stack.AddAddr.
type AddrOrigin uint8

const (
	AddrStatic    AddrOrigin = iota // configured
	AddrDHCP                        // from a DHCP lease
	AddrLinkLocal                   // chosen by the host (RFC 3927), or made from the MAC (RFC 4862 5.3)
	AddrRA                          // in a prefix that a router advertises (RFC 4862)

	// AddrNegotiated is the origin of an address that the device has negotiated with the other end of the
	// link, as PPP does.
	AddrNegotiated
)

// String returns the name of the origin.
func (o AddrOrigin) String() string {
	switch o {
	case AddrStatic:
		return "static"
	case AddrDHCP:
		return "DHCP"
	case AddrLinkLocal:
		return "link-local"
	case AddrRA:
		return "RA"
	case AddrNegotiated:
		return "negotiated"
	}
	return fmt.Sprintf("origin %d", uint8(o))
}

// AddrOptions are the options of AddAddr. The zero value stands for a static address that never expires.
type AddrOptions struct {
	// Valid is the time until the address is removed. 0 means that it is never removed.
	Valid time.Duration
	// Preferred is the time until the address is deprecated. 0 means that the address is not deprecated
	// before it is removed. If Preferred is negative, the address is deprecated at once. If Valid is not
	// 0, Preferred must not be longer than Valid.
	Preferred time.Duration
	// Origin is where the address comes from.
	Origin AddrOrigin
	// Probe makes the host probe for an IPv4 address before it uses the address. The probes take four to
	// seven seconds (RFC 5227 2.1). During this time the address is AddrTentative. If another machine on
	// the link uses the address, the address becomes AddrDuplicate. Otherwise the address becomes
	// AddrPreferred, or AddrDeprecated if its preferred lifetime has ended.
	//
	// Probe has no effect on a link without ARP, on an IPv6 address (see Config.WaitForDAD), or on an address
	// that the interface already has, unless the address is AddrDuplicate.
	Probe bool
}

// AddrInfo describes an address of an interface.
type AddrInfo struct {
	Prefix netip.Prefix // the address with the length of its network
	State  AddrState
	Origin AddrOrigin
	// ValidUntil is when the address will be removed, PreferredUntil when it will be deprecated. The
	// zero time means never.
	ValidUntil, PreferredUntil time.Time
	// ConflictMAC is the link address of the other machine that was last seen to use the address. It is
	// zero if there was no such machine.
	ConflictMAC wire.MAC
	// Temporary reports whether the address is a temporary address of RFC 8981.
	Temporary bool
}

// An ifaceAddr is an address of an interface. The entries of an interface's list are not changed: a
// change makes a new list.
type ifaceAddr struct {
	prefix      netip.Prefix
	state       AddrState
	origin      AddrOrigin
	preferred   tcp.Time  // when the address is deprecated; 0: never
	valid       tcp.Time  // when the address is removed; 0: never
	conflictMAC wire.MAC  // the other machine that was last seen to use the address; zero: none
	defence     *defence  // shared by the entries for this address in old and new lists
	dad         *dad      // duplicate address detection, or IPv4 probes; nil when ended
	auto        *autoAddr // nil unless a router advertises the prefix
}

func (a *ifaceAddr) addr() netip.Addr { return a.prefix.Addr() }

// usable reports whether the host receives and sends packets with the address.
func (a *ifaceAddr) usable() bool { return a.state != AddrDuplicate && a.state != AddrTentative }

// detecting reports whether the detection of duplicates for the address has not ended. An IPv4 address that
// is still to be announced also has a dad, but is in use already.
func (a *ifaceAddr) detecting() bool {
	return a.dad != nil && (a.addr().Is6() || a.state == AddrTentative)
}

// until returns the time of the next scheduled change of the address, or 0 if there is none.
func (a *ifaceAddr) until() tcp.Time {
	at := a.valid
	if a.state == AddrPreferred {
		at = earlier(at, a.preferred)
	}
	if a.dad != nil {
		at = earlier(at, a.dad.at)
	}
	if a.auto != nil {
		at = earlier(at, a.auto.renewAt)
	}
	return at
}

// earlier returns the earlier of two times; 0 means never.
func earlier(a, b tcp.Time) tcp.Time {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// list returns the addresses of the interface. The caller must not modify it.
func (ifc *iface) list() []ifaceAddr { return *ifc.addrs.Load() }

// prefixes returns the usable addresses with the lengths of their networks.
func (ifc *iface) prefixes() []netip.Prefix {
	var ps []netip.Prefix
	for _, a := range ifc.list() {
		if a.usable() {
			ps = append(ps, a.prefix)
		}
	}
	return ps
}

// present reports whether the address belongs to the interface, even if it is not usable yet. Static
// routes whose source is a present address are kept.
func (a *ifaceAddr) present() bool { return a.state != AddrDuplicate }

// hasPresent reports whether a list has a present address for which the function of returns true. of is
// netip.Addr.Is4 or netip.Addr.Is6.
func hasPresent(list []ifaceAddr, of func(netip.Addr) bool) bool {
	return slices.ContainsFunc(list, func(a ifaceAddr) bool { return a.present() && of(a.addr()) })
}

// has reports whether a is a present address of an interface.
func (s *Stack) has(a netip.Addr) bool {
	return slices.ContainsFunc(*s.ifaces.Load(), func(ifc *iface) bool {
		x, ok := ifc.addr(a)
		return ok && x.present()
	})
}

// hasOn reports whether a is a present address of the host. A link-local IPv6 address must be an address of
// ifc, because the same address on another link may be another host's. The stack may not list ifc yet.
func (s *Stack) hasOn(ifc *iface, a netip.Addr) bool {
	if x, ok := ifc.addr(a); ok && x.present() {
		return true
	}
	return !isLinkLocal6(a) && s.has(a)
}

// hasUsable reports whether a list has a usable address for which the function of returns true. of is
// netip.Addr.Is4 or netip.Addr.Is6.
func hasUsable(list []ifaceAddr, of func(netip.Addr) bool) bool {
	return slices.ContainsFunc(list, func(a ifaceAddr) bool { return a.usable() && of(a.addr()) })
}

// owns reports whether a is a usable address of the interface. The loopback owns all loopback addresses.
func (ifc *iface) owns(a netip.Addr) bool {
	list := ifc.list()
	for i := range list {
		if list[i].addr() == a {
			return list[i].usable()
		}
	}
	return ifc.loopback && a.IsLoopback()
}

// sourceFor returns the interface's source address for packets to the neighbour hop. It chooses among the
// addresses of hop's family. It prefers an address whose network contains hop, then an address that is
// AddrPreferred. Among addresses whose networks contain hop it then prefers the longest prefix. The result
// is invalid if there is no usable address.
//
// RFC 1122 3.3.4.3 recommends a source address on the network of the destination, and otherwise a source
// address on the network of the router. RFC 4862 5.5.4: a deprecated address "SHOULD
// NOT be used to initiate new communications if an alternate (non-deprecated) address of
// sufficient scope can easily be used instead".
func (ifc *iface) sourceFor(hop netip.Addr) netip.Addr {
	var best netip.Prefix
	bestRank := -1
	for _, a := range ifc.list() {
		if !a.usable() || a.addr().Is4() != hop.Is4() {
			continue
		}
		rank := 0 // 2 for the network, 1 for the state
		if a.state == AddrPreferred {
			rank = 1
		}
		if a.prefix.Contains(hop) {
			rank += 2
		}
		if rank > bestRank || rank == bestRank && rank >= 2 && a.prefix.Bits() > best.Bits() {
			best, bestRank = a.prefix, rank
		}
	}
	return best.Addr()
}

// describeAddrs returns the interface's addresses for InterfaceInfo.
func (ifc *iface) describeAddrs() []AddrInfo {
	at := func(t tcp.Time) time.Time {
		if t == 0 {
			return time.Time{}
		}
		return ifc.s.wallTime(t)
	}
	var infos []AddrInfo
	for _, a := range ifc.list() {
		infos = append(infos, AddrInfo{
			Prefix: a.prefix, State: a.state, Origin: a.origin, ValidUntil: at(a.valid), PreferredUntil: at(a.preferred),
			ConflictMAC: a.conflictMAC, Temporary: a.auto != nil && a.auto.temporary,
		})
	}
	return infos
}

// malformed says what is wrong with a prefix that is not valid.
func malformed(p netip.Prefix) string {
	if a := p.Addr(); a.IsValid() {
		return fmt.Sprintf("the prefix is malformed: the length after %v has to be from 0 to %d", a.WithZone(""), a.BitLen())
	}
	return "the prefix is malformed: it has no address"
}

// checkAddr returns an error if an interface cannot have the address and the prefix length of p.
func checkAddr(p netip.Prefix) error {
	a := p.Addr()
	bad := func(text string) error { return fmt.Errorf("%s: %w", text, syscall.EINVAL) }
	switch {
	case !p.IsValid():
		return bad(malformed(p))
	case a.Is4In6():
		return bad("an IPv4 address is to be written as one")
	case a.Is6() && a.IsLoopback():
		return bad("::1 belongs to the loopback")
	case a.IsUnspecified():
		return bad("the unspecified address cannot be an interface's")
	case a.IsLoopback():
		return bad("127.0.0.0/8 belongs to the loopback")
	case a.IsMulticast(), isReserved(a):
		return bad("not a unicast address")
	case p.Bits() == 0:
		return bad("a network of length 0 has no place for a route")
	}
	if hasSubnet(a) {
		return bad("a link-local address has 54 zero bits after fe80 (RFC 4291 2.5.6)")
	}
	// RFC 3021 2.1: a network of 31 bits has neither a network address nor a broadcast address.
	if a.Is4() && p.Bits() <= 30 {
		if a == p.Masked().Addr() {
			return bad("it is the address of the network itself")
		}
		if a == broadcastOf(p) {
			return bad("it is the broadcast address of its network")
		}
	}
	return nil
}

// newAddr returns an address whose lifetimes begin now, or an error if p or o is invalid.
func (s *Stack) newAddr(p netip.Prefix, o AddrOptions) (ifaceAddr, error) {
	a := ifaceAddr{prefix: p, origin: o.Origin, defence: new(defence)}
	if err := checkAddr(p); err != nil {
		return a, err
	}
	switch {
	case o.Origin > AddrNegotiated:
		return a, fmt.Errorf("unknown %v: %w", o.Origin, syscall.EINVAL)
	case o.Valid < 0:
		return a, fmt.Errorf("the lifetime of %v is negative: %w", o.Valid, syscall.EINVAL)
	case o.Valid > 0 && o.Preferred > o.Valid:
		return a, fmt.Errorf("the preferred lifetime of %v is longer than the valid one of %v: %w", o.Preferred, o.Valid, syscall.EINVAL)
	}
	now := s.now()
	after := func(d time.Duration) tcp.Time {
		if d <= 0 || tcp.Time(d) > math.MaxInt64-now {
			return 0
		}
		return now + tcp.Time(d)
	}
	a.valid, a.preferred = after(o.Valid), after(o.Preferred)
	if o.Preferred < 0 {
		a.state = AddrDeprecated
	}
	return a, nil
}

// withAddr returns the interface's addresses with p added. If the interface has the address already,
// withAddr replaces the entry as AddAddr describes. The error is EEXIST if the interface has the address
// from another origin or, with AddrStatic, with another prefix length. The error is also EEXIST if another
// interface of ifaces has the address, unless the address is a link-local IPv6 address. s.mu is held, or
// the caller is New.
func (s *Stack) withAddr(ifaces []*iface, ifc *iface, p netip.Prefix, o AddrOptions) ([]ifaceAddr, error) {
	a, err := s.newAddr(p, o)
	if err != nil {
		return nil, err
	}
	if p.Addr().Is6() {
		if err := ifc.check6(); err != nil {
			return nil, err
		}
	}
	list := slices.Clone(ifc.list())
	for _, other := range ifaces {
		// Several interfaces may have the same link-local address.
		if !isLinkLocal6(p.Addr()) && other != ifc && other.find(p.Addr()) >= 0 {
			return nil, fmt.Errorf("the address is there twice: %s has it: %w", other.name, syscall.EEXIST)
		}
	}
	i := ifc.find(p.Addr())
	if i < 0 || list[i].state == AddrDuplicate {
		s.detect(ifc, &a, s.now())
		if o.Probe {
			s.probe(ifc, &a, s.now())
		}
	}
	switch {
	case i < 0:
		if a.addr().Is6() && ifc.needsLinkLocal() {
			list = s.withLinkLocal(ifc, list)
		}
		return append(list, a), nil
	case o.Origin == AddrStatic && list[i].prefix != p:
		return nil, fmt.Errorf("the address is there twice, as %v: %w", list[i].prefix, syscall.EEXIST)
	case o.Origin != AddrStatic && (list[i].origin != o.Origin || list[i].auto != nil):
		return nil, fmt.Errorf("the address is there already, with the origin %v: %w", list[i].origin, syscall.EEXIST)
	}
	if list[i].state != AddrDuplicate { // a duplicate begins as a new address
		a.conflictMAC, a.defence, a.dad = list[i].conflictMAC, list[i].defence, list[i].dad
		if list[i].detecting() {
			if a.state == AddrDeprecated {
				a.preferred = s.now() // endDAD makes the address AddrDeprecated again
			}
			a.state = list[i].state
		}
	}
	list[i] = a
	return list, nil
}

// find returns the index of a in ifc.list, or -1. While s.mu is not held, another goroutine may replace
// the list, so the index may not be valid for the next call of ifc.list. The method addr has no such
// limit.
func (ifc *iface) find(a netip.Addr) int {
	return slices.IndexFunc(ifc.list(), func(b ifaceAddr) bool { return b.addr() == a })
}

// AddAddr adds an address to an interface of a running stack, with the route to its network, and
// announces it on the link (RFC 5227 3). If nic is empty, the stack must have exactly one interface
// besides the loopback. If the interface already has the address, the origin decides:
//
//   - A static address replaces an address with the same prefix, and makes it static.
//   - An address with another origin replaces only an address with the same origin. AddAddr then replaces
//     the lifetimes and the length of the prefix. The renewal of a lease does this.
//
// If another machine on the link uses the address too, the host defends the address by an announcement,
// at most once in ten seconds (RFC 5227 2.4). At a second conflict within ten seconds the host gives up
// an IPv4 address that is not static; the address becomes AddrDuplicate. The host never gives up a
// static address, or an IPv6 address after its duplicate address detection.
//
// A link-local IPv6 address may be on several interfaces.
//
// The errors are ENODEV if there is no such interface, EINVAL for an invalid address or lifetime,
// EAFNOSUPPORT for an IPv6 address if Config.NoIPv6 is set, EEXIST if the interface has the address and
// AddAddr may not replace it or if another interface has it, and net.ErrClosed.
func (s *Stack) AddAddr(nic string, p netip.Prefix, o AddrOptions) error {
	ifc, added, err := s.addAddr(nic, p, o)
	if err != nil {
		if err != net.ErrClosed {
			err = fmt.Errorf("stack: AddAddr: %v: %w", p, err)
		}
		return err
	}
	if added && ifc.linkLen > 0 {
		ifc.announce(p.Addr())
	}
	s.drain()
	return nil
}

// addAddr is AddAddr without the announcement. added reports whether the caller has to announce the address.
func (s *Stack) addAddr(nic string, p netip.Prefix, o AddrOptions) (ifc *iface, added bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed.Load() {
		return nil, false, net.ErrClosed
	}
	if ifc, err = s.linkNamed(nic); err != nil {
		return nil, false, err
	}
	had := ifc.owns(p.Addr())
	list, err := s.withAddr(*s.ifaces.Load(), ifc, p, o)
	if err != nil {
		return nil, false, err
	}
	s.setAddrs(ifc, list)
	s.ageAddrs()
	return ifc, !had && ifc.owns(p.Addr()), nil
}

// RemoveAddr removes an address from an interface of a running stack. If nic is empty, the stack must
// have exactly one interface besides the loopback. As on Linux:
//
//   - The stack deletes the route to the address's network, and the routes whose source is the address.
//     If it is the interface's last address of its family, the stack also deletes the interface's
//     gateway and all other routes of the family over the interface.
//   - TCP connections from the address can no longer send. If they have data to send or to retransmit,
//     they fail with ENETUNREACH or ETIMEDOUT, after the same time as if the peer were silent. If the
//     address is added again during that time, they continue.
//   - UDP and IP sockets that are bound to the address stay open. Their sends fail with ENETUNREACH.
//   - Listeners stay open. They accept connections again once the address is added again.
//
// The errors are ENODEV if there is no such interface, EADDRNOTAVAIL if the interface does not have the
// address, EINVAL for the loopback or if the zone of a names another interface, and net.ErrClosed.
func (s *Stack) RemoveAddr(nic string, a netip.Addr) error {
	err := s.removeAddr(nic, a, nil)
	s.drain() // sends the reports about solicited-node groups that were left
	return err
}

// RemoveAddrOf removes an address as RemoveAddr does, but only if the address has the given origin. A DHCP
// client, for example, removes its own address in this way, but not an address with which the program has
// replaced it. The error is EADDRNOTAVAIL if the address has another origin.
func (s *Stack) RemoveAddrOf(nic string, a netip.Addr, origin AddrOrigin) error {
	err := s.removeAddr(nic, a, &origin)
	s.drain()
	return err
}

// removeAddr removes an address. If origin is not nil, the address must have that origin.
func (s *Stack) removeAddr(nic string, a netip.Addr, origin *AddrOrigin) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed.Load() {
		return net.ErrClosed
	}
	ifc, err := s.linkNamed(nic)
	if err != nil {
		return fmt.Errorf("stack: RemoveAddr: %v: %w", a, err)
	}
	own, err := ifc.inZone(a.Unmap())
	if err != nil {
		return fmt.Errorf("stack: RemoveAddr: %w", err)
	}
	i := ifc.find(own)
	if i < 0 {
		return fmt.Errorf("stack: RemoveAddr: %v is not an address of %s: %w", a, ifc.name, syscall.EADDRNOTAVAIL)
	}
	if o := ifc.list()[i].origin; origin != nil && o != *origin {
		return fmt.Errorf("stack: RemoveAddr: %v has the origin %v, not %v: %w", a, o, *origin, syscall.EADDRNOTAVAIL)
	}
	s.setAddrs(ifc, slices.Delete(slices.Clone(ifc.list()), i, i+1))
	return nil
}

// linkNamed returns the interface with the given name. If the name is empty, it returns the only
// interface besides the loopback. The errors are ENODEV, and EINVAL for the loopback. s.mu is held.
func (s *Stack) linkNamed(name string) (*iface, error) {
	ifaces := *s.ifaces.Load()
	if name == "" {
		if len(ifaces) != 2 { // ifaces[0] is the loopback
			return nil, fmt.Errorf("no interface is named, and there are %d: %w", len(ifaces)-1, syscall.ENODEV)
		}
		return ifaces[1], nil
	}
	ifc := s.ifaceNamed(name)
	switch {
	case ifc == nil:
		return nil, fmt.Errorf("no interface %q: %w", name, syscall.ENODEV)
	case ifc.loopback:
		return nil, fmt.Errorf("the addresses of the loopback stay as they are: %w", syscall.EINVAL)
	}
	return ifc, nil
}

// setAddrs replaces the addresses of an interface, and updates the solicited-node groups and the routes.
// If the interface has lost its last address of a family, setAddrs removes the family's gateway and
// static routes. s.mu is held. The caller calls s.drain after it has released s.mu.
func (s *Stack) setAddrs(ifc *iface, list []ifaceAddr) {
	old := ifc.list()
	ifc.addrs.Store(&list)
	ifc.joinSolicited()
	s.groups.addressed(ifc)
	for i, of := range []func(netip.Addr) bool{netip.Addr.Is4, netip.Addr.Is6} {
		if hasPresent(old, of) && !hasPresent(list, of) {
			// Linux does the same in fib_disable_ip.
			ifc.gateways[i] = nicGateway{}
			s.static = slices.DeleteFunc(s.static, func(r Route) bool { return r.NIC == ifc.name && of(r.Dst.Addr()) })
		}
	}
	s.rebuildRoutes()
}

// armAddrs sets the alarm for the next scheduled change of an address, an advertised prefix or a router.
// The alarm does no harm if it fires early. s.mu is held.
func (s *Stack) armAddrs() {
	var next tcp.Time
	for _, ifc := range *s.ifaces.Load() {
		next = earlier(next, ifc.auto.next())
		if ifc.router != nil {
			next = earlier(next, ifc.router.at)
		}
		for _, a := range ifc.list() {
			next = earlier(next, a.until())
		}
	}
	s.lifetimes.alarm.set(s.now(), next, &s.lifetimes)
}

// lifetimes is the owner of the alarm that armAddrs sets.
type lifetimes struct {
	s     *Stack
	alarm alarm // under s.mu
}

// fired is called by the alarm. It applies the changes that are due.
func (l *lifetimes) fired() {
	s := l.s
	s.mu.Lock()
	var expired []ifaceAddr
	if l.alarm.over() {
		expired = s.ageAddrs()
	}
	s.mu.Unlock()
	for _, a := range expired {
		s.log.Info("address has expired", "addr", a.prefix, "origin", a.origin)
	}
	s.drain()
}

// ageAddrs makes all changes of addresses that are due, and sets the alarm for the next one. It
// deprecates and removes addresses whose lifetimes have ended, and continues duplicate address
// detection, router solicitation and autoconfiguration. It returns the removed addresses. s.mu is held;
// the caller drains.
func (s *Stack) ageAddrs() (expired []ifaceAddr) {
	now := s.now()
	for _, ifc := range *s.ifaces.Load() {
		var list, ended []ifaceAddr
		changed := false
		for _, a := range ifc.list() {
			if a.valid != 0 && a.valid <= now {
				expired = append(expired, a)
				changed = true
				continue
			}
			switch d := a.dad; {
			case d == nil || d.at == 0 || d.at > now:
				// No step of the detection is due.
			case a.addr().Is4():
				changed = s.stepProbe(ifc, &a, now) || changed
			case s.stepDAD(ifc, &a, now):
				a = endDAD(a, now)
				ended = append(ended, a)
				changed = true
			}
			if a.state == AddrPreferred && a.preferred != 0 && a.preferred <= now {
				a.state = AddrDeprecated
				changed = true
			}
			list = append(list, a)
		}
		list, followed := s.followTemporary(ifc, list, now)
		learnt := s.ageAuto(ifc, now)
		switch {
		case changed || followed:
			s.setAddrs(ifc, list)
		case learnt:
			s.rebuildRoutes()
		}
		s.stepRouter(ifc, now)
		for _, a := range ended {
			ifc.advertiseToRouters(a.addr(), 0)
		}
	}
	s.armAddrs()
	return expired
}

// A defence records the conflicts of an address with other machines.
type defence struct {
	mu         mutex[levelLink]
	last       tcp.Time // time of the last conflict; 0: none
	defendedAt tcp.Time // when the host last announced the address in defence; 0: never
}

// defendInterval is RFC 5227 1.1's DEFEND_INTERVAL.
const defendInterval = tcp.Time(10 * time.Second)

// conflict defends or gives up an address of the interface, because another machine on the link has sent
// a packet that uses the address. mac is the other machine's link address. No lock is held.
//
// RFC 5227 2.4 (b): the host may defend its address by "broadcasting one single ARP
// Announcement"; "if this is not the first conflicting ARP packet the host has seen, and the time
// recorded for the previous conflicting ARP packet is recent, within DEFEND_INTERVAL seconds, then
// the host MUST immediately cease using this address". The host does so unless the origin is AddrStatic.
// RFC 5227 2.4 (c), for static addresses: "If a host has been configured such that it should not give up
// its address under any circumstances", "it MAY elect to defend its address indefinitely".
//
// An IPv6 address is not given up after its detection has ended: RFC 4862 5.4 requires this only of
// tentative addresses, and any machine on the link can forge advertisements. Linux does the same
// (ndisc_recv_na).
func (ifc *iface) conflict(addr netip.Addr, mac wire.MAC, f *nic.Frame) {
	s := ifc.s
	s.dropFrame(dropAddressConflict, ifc, f, false)
	a, ok := ifc.addr(addr) // the list may be replaced meanwhile
	if !ok {
		return
	}
	now := s.now()
	d := a.defence
	d.mu.Lock()
	again := d.last != 0 && now-d.last < defendInterval
	quiet := d.defendedAt != 0 && now-d.defendedAt < defendInterval // too early for another defence
	d.last = now
	giveUp := again && a.origin != AddrStatic && addr.Is4()
	if !giveUp && !quiet {
		d.defendedAt = now
	}
	d.mu.Unlock()
	if quiet && !giveUp {
		return
	}
	if !s.markConflict(ifc, addr, mac, giveUp) {
		return
	}
	if giveUp {
		s.log.Warn("address is in use by another machine, and was given up", "nic", ifc.name, "addr", addr, "mac", mac)
		return
	}
	s.log.Warn("address is in use by another machine", "nic", ifc.name, "addr", addr, "mac", mac)
	ifc.announce(addr)
}

// markConflict records the link address of another machine that uses an address of the interface. If
// giveUp is set, the address becomes AddrDuplicate. markConflict reports false if the address is no
// longer usable, because it was removed or given up at the same time.
func (s *Stack) markConflict(ifc *iface, addr netip.Addr, mac wire.MAC, giveUp bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := ifc.find(addr)
	if s.closed.Load() || i < 0 || !ifc.list()[i].usable() {
		return false
	}
	list := slices.Clone(ifc.list())
	list[i].conflictMAC = mac
	if giveUp {
		list[i].state = AddrDuplicate
		s.setAddrs(ifc, list)
		return true
	}
	ifc.addrs.Store(&list)
	s.changes.notify()
	return true
}
