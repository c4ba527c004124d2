package stack

import (
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

// This file has the addresses of interfaces. Those of Config and those that are added later
// are kept and checked by the same code.

// An AddrState says what an address may be used for.
type AddrState uint8

const (
	// AddrPreferred is an address without a restriction.
	AddrPreferred AddrState = iota
	// AddrDeprecated is an address whose preferred lifetime is over. It receives, and sends for
	// sockets that are bound to it; what has a choice is sent from another one.
	AddrDeprecated
	// AddrDuplicate is an address that was given up, because another machine on the link uses
	// it. The host neither receives nor sends with it. It stays until it is removed or added
	// again.
	AddrDuplicate
	// AddrOptimistic is an IPv6 address that is in use while duplicate detection for it goes on
	// (RFC 4429).
	AddrOptimistic
	// AddrTentative is an IPv6 address that is not used before duplicate detection is over:
	// see Config.WaitForDAD.
	AddrTentative
)

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

// An AddrOrigin says where an address is from. It decides what happens when another machine
// uses the address too: see Stack.AddAddr.
type AddrOrigin uint8

const (
	AddrStatic    AddrOrigin = iota // by configuration
	AddrDHCP                        // a lease
	AddrLinkLocal                   // chosen by the host itself (RFC 3927), or made from the MAC (RFC 4862 5.3)
	AddrRA                          // of a prefix that a router advertises (RFC 4862)
)

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
	}
	return fmt.Sprintf("origin %d", uint8(o))
}

// AddrOptions are what an address is added with. The zero value is a static address for ever.
type AddrOptions struct {
	// Valid is after what time the address is removed; 0: never.
	Valid time.Duration
	// Preferred is after what time the address is deprecated, at most Valid; 0: when it is
	// removed; negative: at once.
	Preferred time.Duration
	// Origin is where the address is from.
	Origin AddrOrigin
}

// AddrInfo describes an address of an interface.
type AddrInfo struct {
	Prefix netip.Prefix // the address with the length of its network
	State  AddrState
	Origin AddrOrigin
	// ValidUntil is when the address is removed, and PreferredUntil when it is deprecated. The
	// zero time means never.
	ValidUntil, PreferredUntil time.Time
	// ConflictMAC is the link address of the machine that was last seen to use the address
	// too; zero if none was.
	ConflictMAC wire.MAC
	// Temporary tells an address of RFC 8981.
	Temporary bool
}

// An ifaceAddr is an address of an interface. It does not change: a new state is a new list.
type ifaceAddr struct {
	prefix      netip.Prefix
	state       AddrState
	origin      AddrOrigin
	preferred   tcp.Time  // when the address is deprecated; 0: never
	valid       tcp.Time  // when it is removed; 0: never
	conflictMAC wire.MAC  // of another machine that uses it; zero: none
	defence     *defence  // common to all versions of the address
	dad         *dad      // duplicate detection, while it goes on; else nil
	auto        *autoAddr // of an address whose prefix a router advertises; else nil
}

func (a *ifaceAddr) addr() netip.Addr { return a.prefix.Addr() }

// usable reports whether the host receives and sends with the address.
func (a *ifaceAddr) usable() bool { return a.state != AddrDuplicate && a.state != AddrTentative }

// until returns when the next change of the address is due; 0: never.
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

// earlier returns the earlier of two times, of which 0 is never.
func earlier(a, b tcp.Time) tcp.Time {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// list returns the addresses of the interface. The caller does not change it.
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

// present reports whether the interface has the address, if only to use it later: what is configured with it
// stays.
func (a *ifaceAddr) present() bool { return a.state != AddrDuplicate }

// hasPresent reports whether a list has an address of a family that is present.
func hasPresent(list []ifaceAddr, of func(netip.Addr) bool) bool {
	return slices.ContainsFunc(list, func(a ifaceAddr) bool { return a.present() && of(a.addr()) })
}

// has reports whether some interface has an address, if only to use it later.
func (s *Stack) has(a netip.Addr) bool {
	return slices.ContainsFunc(*s.ifaces.Load(), func(ifc *iface) bool {
		x, ok := ifc.addr(a)
		return ok && x.present()
	})
}

// hasUsable reports whether a list has a usable address of a family.
func hasUsable(list []ifaceAddr, of func(netip.Addr) bool) bool {
	return slices.ContainsFunc(list, func(a ifaceAddr) bool { return a.usable() && of(a.addr()) })
}

// owns reports whether a is a usable address of the interface.
func (ifc *iface) owns(a netip.Addr) bool {
	list := ifc.list()
	for i := range list {
		if list[i].addr() == a {
			return list[i].usable()
		}
	}
	return ifc.loopback && a.IsLoopback()
}

// sourceFor chooses the address of the interface from which to send to a
// neighbour: one of its family, the one on whose network the neighbour is, and of several one that is not
// deprecated.
//
// RFC 1122 3.3.4.3 leaves the choice to the host, and prefers an address on the
// network of the destination or else of the router. RFC 4862 5.5.4: a deprecated address "SHOULD
// NOT be used to initiate new communications if an alternate (non-deprecated) address of
// sufficient scope can easily be used instead".
func (ifc *iface) sourceFor(hop netip.Addr) netip.Addr {
	var best netip.Prefix
	bestRank := -1
	for _, a := range ifc.list() {
		if !a.usable() || a.addr().Is4() != hop.Is4() {
			continue
		}
		rank := 0
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

// describeAddrs is what InterfaceInfo says of the addresses.
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

// checkAddr tells whether a prefix can be an address of an interface.
func checkAddr(p netip.Prefix) error {
	a := p.Addr()
	bad := func(text string) error { return fmt.Errorf("%s: %w", text, syscall.EINVAL) }
	switch {
	case !p.IsValid():
		return bad("the prefix is malformed")
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
	// RFC 3021 2.1: a network of 31 bits has neither of the two.
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

// newAddr makes an address that begins now.
func (s *Stack) newAddr(p netip.Prefix, o AddrOptions) (ifaceAddr, error) {
	a := ifaceAddr{prefix: p, origin: o.Origin, defence: new(defence)}
	if err := checkAddr(p); err != nil {
		return a, err
	}
	switch {
	case o.Origin > AddrRA:
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

// withAddr returns the addresses of an interface with another one, or with one that begins anew. The
// other interfaces are among ifaces.
func (s *Stack) withAddr(ifaces []*iface, ifc *iface, p netip.Prefix, o AddrOptions) ([]ifaceAddr, error) {
	a, err := s.newAddr(p, o)
	if err != nil {
		return nil, err
	}
	if p.Addr().Is6() && !ifc.carries6() {
		return nil, fmt.Errorf("the link's MTU of %d is below the %d that IPv6 needs (RFC 8200 5): %w", ifc.mtu(), wire.MinIPv6MTU, syscall.EINVAL)
	}
	list := slices.Clone(ifc.list())
	for _, other := range ifaces {
		// The same link-local address may be on several links.
		if !isLinkLocal6(p.Addr()) && other != ifc && other.find(p.Addr()) >= 0 {
			return nil, fmt.Errorf("the address is there twice: %s has it: %w", other.name, syscall.EEXIST)
		}
	}
	i := ifc.find(p.Addr())
	if i < 0 || list[i].state == AddrDuplicate {
		s.detect(ifc, &a, s.now())
	}
	switch {
	case i < 0:
		if a.addr().Is6() {
			list = s.withLinkLocal(ifc, list)
		}
		return append(list, a), nil
	case list[i].prefix != p:
		return nil, fmt.Errorf("the address is there twice, as %v: %w", list[i].prefix, syscall.EEXIST)
	}
	if list[i].state != AddrDuplicate {
		a.conflictMAC, a.defence, a.dad = list[i].conflictMAC, list[i].defence, list[i].dad
		if a.dad != nil {
			a.state = list[i].state
		}
	}
	list[i] = a
	return list, nil
}

// find returns the place of an address in the list, or -1.
func (ifc *iface) find(a netip.Addr) int {
	return slices.IndexFunc(ifc.list(), func(b ifaceAddr) bool { return b.addr() == a })
}

// AddAddr adds an address to an interface of a running stack, with the route to its network, and
// tells the link (RFC 5227 3). An empty name stands for the only link besides the loopback. An
// address that is there already with the same prefix begins anew with the options, as a lease that
// is renewed.
//
// When another machine on the link uses the address too, the host says that it is its own, at
// most once in ten seconds (RFC 5227 2.4). A static address is kept whatever comes; one of
// another origin is given up, and becomes AddrDuplicate, if there is a second conflict within the ten
// seconds.
//
// The errors are ENODEV, EINVAL for what cannot be an address or a lifetime, EEXIST for one that
// is there with another prefix or on another interface, and net.ErrClosed. A link-local address of
// IPv6 may be on several interfaces.
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

// addAddr is AddAddr without the announcement, and tells whether that is due.
func (s *Stack) addAddr(nic string, p netip.Prefix, o AddrOptions) (ifc *iface, added bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed.Load() {
		return nil, false, net.ErrClosed
	}
	if ifc, err = s.linkNamed(nic); err != nil {
		return nil, false, err
	}
	added = !ifc.owns(p.Addr())
	list, err := s.withAddr(*s.ifaces.Load(), ifc, p, o)
	if err != nil {
		return nil, false, err
	}
	s.setAddrs(ifc, list)
	s.ageAddrs()
	return ifc, added, nil
}

// RemoveAddr takes an address from an interface of a running stack. An empty name stands for the
// only link besides the loopback. As on Linux:
//
//   - The route to the address's network goes, and routes whose source it is. With the last
//     address of an interface go all routes over it, its gateway among them.
//   - Connections that have the address send nothing any more. They end with ENETUNREACH or
//     ETIMEDOUT when what they have to send has been tried for as long as it would be with
//     a peer that is silent, and go on if the address comes back before.
//   - UDP and IP sockets that are bound to it stay, and fail to send with ENETUNREACH.
//   - Listeners stay, and are of use again when the address comes back.
//
// The errors are ENODEV, EADDRNOTAVAIL for an address that is not there, EINVAL for the loopback, and
// net.ErrClosed.
func (s *Stack) RemoveAddr(nic string, a netip.Addr) error {
	err := s.removeAddr(nic, a)
	s.drain() // the routers are told of the groups that were left
	return err
}

func (s *Stack) removeAddr(nic string, a netip.Addr) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed.Load() {
		return net.ErrClosed
	}
	ifc, err := s.linkNamed(nic)
	if err != nil {
		return fmt.Errorf("stack: RemoveAddr: %v: %w", a, err)
	}
	i := ifc.find(a.Unmap().WithZone(""))
	if i < 0 {
		return fmt.Errorf("stack: RemoveAddr: %v is not an address of %s: %w", a, ifc.name, syscall.EADDRNOTAVAIL)
	}
	s.setAddrs(ifc, slices.Delete(slices.Clone(ifc.list()), i, i+1))
	return nil
}

// linkNamed returns the interface of that name, or if it is empty the only one besides the
// loopback. s.mu is held.
func (s *Stack) linkNamed(name string) (*iface, error) {
	ifaces := *s.ifaces.Load()
	if name == "" {
		if len(ifaces) != 2 {
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

// setAddrs replaces the addresses of an interface, and the routes with them. s.mu is held.
func (s *Stack) setAddrs(ifc *iface, list []ifaceAddr) {
	old := ifc.list()
	ifc.addrs.Store(&list)
	ifc.joinSolicited()
	s.groups.addressed(ifc)
	for i, of := range []func(netip.Addr) bool{netip.Addr.Is4, netip.Addr.Is6} {
		if hasPresent(old, of) && !hasPresent(list, of) {
			// As on Linux, where fib_disable_ip does it.
			ifc.gateways[i] = nicGateway{}
			s.static = slices.DeleteFunc(s.static, func(r Route) bool { return r.NIC == ifc.name && of(r.Dst.Addr()) })
		}
	}
	s.rebuildRoutes()
}

// armAddrs sets the alarm for the next end of a lifetime of an address. One that fires for nothing
// does no harm. s.mu is held.
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

// lifetimes are those of the addresses of a stack.
type lifetimes struct {
	s     *Stack
	alarm alarm // under s.mu
}

// fired does what is due for the addresses.
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

// ageAddrs deprecates and removes the addresses whose lifetimes have ended, and goes on with the detection of
// duplicates. It returns the addresses that it removed. s.mu is held; the caller drains.
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
			if d := a.dad; d != nil && d.at != 0 && d.at <= now && s.stepDAD(ifc, &a, now) {
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

// A defence remembers when an address was last claimed by another machine.
type defence struct {
	mu         mutex[levelLink]
	last       tcp.Time // 0: never
	defendedAt tcp.Time // when the host last defended the address; 0: never
}

// defendInterval is RFC 5227 1.1's DEFEND_INTERVAL.
const defendInterval = tcp.Time(10 * time.Second)

// conflict is called when another machine on the link, with the link address mac, uses an address
// of the interface. It defends the address or gives it up. No lock is held.
//
// RFC 5227 2.4 (b): the host may defend its address by "broadcasting one single ARP
// Announcement"; "if this is not the first conflicting ARP packet the host has seen, and the time
// recorded for the previous conflicting ARP packet is recent, within DEFEND_INTERVAL seconds, then
// the host MUST immediately cease using this address". (c): "If a host has been configured such
// that it should not give up its address under any circumstances", as one with AddrStatic, "it MAY elect
// to defend its address indefinitely".
func (ifc *iface) conflict(addr netip.Addr, mac wire.MAC) {
	s := ifc.s
	s.drop(dropAddressConflict)
	i := ifc.find(addr)
	if i < 0 {
		return
	}
	a := ifc.list()[i]
	now := s.now()
	d := a.defence
	d.mu.Lock()
	again := d.last != 0 && now-d.last < defendInterval
	quiet := d.defendedAt != 0 && now-d.defendedAt < defendInterval
	d.last = now
	giveUp := again && a.origin != AddrStatic
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

// markConflict takes note of who else uses an address, and gives that up if giveUp is set. It
// reports false where the address has gone meanwhile, or was given up before.
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
