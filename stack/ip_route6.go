package stack

import (
	"cmp"
	"fmt"
	"net/netip"
	"strconv"
	"syscall"

	"github.com/usernet/usernet/internal/addrsel"
	"github.com/usernet/usernet/stack/wire"
)

// Inside the stack no address has a zone. Instead, functions pass the index of the interface along with
// an address. The index is 0 if the address is not link-local. The exported functions take and return
// addresses with zones.

// isLinkLocal6 reports whether a is in fe80::/10 (RFC 4291 2.5.6). IPv4's link-local addresses have no
// zone.
func isLinkLocal6(a netip.Addr) bool { return a.Is6() && a.IsLinkLocalUnicast() }

// inZone returns an address of the interface's configuration without its zone. The error is EINVAL if the
// zone names another interface or none.
func (ifc *iface) inZone(a netip.Addr) (netip.Addr, error) {
	if zone := a.Zone(); zone != "" && zone != ifc.name && zone != strconv.Itoa(ifc.index) {
		return a, fmt.Errorf("the zone of %v is not %s: write it as %v or without a zone: %w", a, ifc.name, a.WithZone(ifc.name), syscall.EINVAL)
	}
	return a.WithZone(""), nil
}

// inZone returns r without the zone of its router. If r has no NIC, the zone names it. The error is ENODEV
// if there is no such interface, and EINVAL if the zone and NIC name different ones.
func (s *Stack) inZone(r Route) (Route, error) {
	zone := r.Via.Zone()
	if zone == "" {
		return r, nil
	}
	ifc := s.ifaceNamed(cmp.Or(r.NIC, zone))
	if index, err := strconv.Atoi(zone); ifc == nil && r.NIC == "" && err == nil {
		ifc = s.ifaceAt(index)
	}
	switch {
	case ifc == nil && r.NIC == "":
		return r, fmt.Errorf("the zone of the router %v names no interface: it has to be the name or the index of one: %w", r.Via, syscall.ENODEV)
	case ifc == nil:
		return r, fmt.Errorf("no interface %q: %w", r.NIC, syscall.ENODEV)
	}
	via, err := ifc.inZone(r.Via)
	r.Via, r.NIC = via, ifc.name
	return r, err
}

// zoned returns an address for the API. A link-local address gets the name of its interface as the zone,
// or the index if the interface has been removed.
func (s *Stack) zoned(a netip.Addr, index int) netip.Addr {
	if index == 0 || !isLinkLocal6(a) && !a.IsLinkLocalMulticast() || a.Is4() {
		return a
	}
	if ifc := s.ifaceAt(index); ifc != nil {
		return a.WithZone(ifc.name)
	}
	return a.WithZone(strconv.Itoa(index))
}

// zonedPort is zoned for an address with a port.
func (s *Stack) zonedPort(a netip.AddrPort, index int) netip.AddrPort {
	return netip.AddrPortFrom(s.zoned(a.Addr(), index), a.Port())
}

// unzone returns an address from the API without its zone, and the index of the interface that the zone
// names. The zone is the name of an interface or its index as a number. The result is 0 if the zone is
// empty or unknown. As in package net, the zone of an address that needs no zone is ignored.
func (s *Stack) unzone(a netip.Addr) (netip.Addr, int) {
	zone := a.Zone()
	a = a.Unmap()
	if zone == "" {
		return a, 0
	}
	a = a.WithZone("")
	if !isLinkLocal6(a) && !a.IsLinkLocalMulticast() && !a.IsInterfaceLocalMulticast() {
		return a, 0
	}
	if ifc := s.ifaceNamed(zone); ifc != nil {
		return a, ifc.index
	}
	index, err := strconv.Atoi(zone)
	if err != nil || index < 0 {
		return a, 0
	}
	return a, index
}

// carries6 reports whether the host supports IPv6 and the link can carry IPv6.
//
// RFC 8200 5: "IPv6 requires that every link in the Internet have an MTU of 1280 octets or greater."
func (ifc *iface) carries6() bool { return ifc.s.v6 && ifc.mtu() >= wire.MinIPv6MTU }

// down6 reports whether the interface sends no IPv6 packets now: because the link is down, or because it
// does not carry IPv6.
func (ifc *iface) down6() bool { return ifc.down.Load() || !ifc.carries6() }

// check6 returns nil if the link can carry IPv6, and otherwise an error that says why it cannot.
func (ifc *iface) check6() error {
	switch {
	case !ifc.s.v6:
		return fmt.Errorf("Config.NoIPv6 is set: %w", syscall.EAFNOSUPPORT)
	case !ifc.carries6():
		return fmt.Errorf("the link's MTU of %d is below the %d that IPv6 needs (RFC 8200 5): %w", ifc.mtu(), wire.MinIPv6MTU, syscall.EINVAL)
	}
	return nil
}

// routeOver6 is routeOver for IPv6. dst is an IPv6 address, and src an address of the host or invalid.
func (s *Stack) routeOver6(t *routeTable, dst, src netip.Addr, index int, gen uint32) (path, error) {
	switch {
	case !s.v6:
		return path{}, syscall.ENETUNREACH
	case src.Is4():
		return path{}, syscall.EAFNOSUPPORT // as on Linux for an IPv4-mapped source
	}
	if dst.IsUnspecified() {
		if dst = src; !dst.IsValid() {
			dst = netip.IPv6Loopback()
		}
	}
	on, err := s.chosenLink6(dst, src, index)
	if err != nil {
		return path{}, err
	}
	p := path{src: src, dst: dst, hop: dst, gen: gen}
	if on != nil && (isLinkLocal6(dst) || isLinkLocal6(src)) {
		p.zone = uint16(on.index)
	}
	if isLinkLocal6(dst) && on.owns(dst) || !isLinkLocal6(dst) && t.isLocal(dst) {
		return s.localPath6(p), nil
	}
	// RFC 4291 2.5.3: the loopback address "must not be used as the source address in IPv6
	// packets that are sent outside of a single node".
	if src.IsLoopback() && (on == nil || !on.loopback) {
		return path{}, syscall.EINVAL
	}
	if err := s.leave6(t, &p, on); err != nil {
		return path{}, err
	}
	if isLinkLocal6(p.src) {
		p.zone = uint16(p.ifc.index)
	}
	s.finishPath(&p)
	return p, nil
}

// chosenLink6 is chosenLink for IPv6. As on Linux, if neither the index nor the source chooses the link
// of a link-local dst, the link is the first one that has an IPv6 address.
func (s *Stack) chosenLink6(dst, src netip.Addr, index int) (*iface, error) {
	var on *iface
	switch {
	case index != 0:
		if on = s.ifaceAt(index); on == nil {
			if isLinkLocal6(dst) {
				return nil, syscall.ENETUNREACH
			}
			return nil, syscall.ENODEV
		}
	case isLinkLocal6(src), dst.IsMulticast() && src.IsValid() && !src.IsLoopback():
		on = s.ifaceWith(src)
	case isLinkLocal6(dst):
		if on = s.groupLink6(); on == nil {
			return nil, syscall.ENETUNREACH
		}
	}
	switch {
	case on == nil && (isLinkLocal6(src) || isLinkLocal6(dst)):
		return nil, syscall.EADDRNOTAVAIL // the source was removed after t was made
	case on != nil && (on.down.Load() || !on.carries6()):
		return nil, syscall.ENETDOWN
	}
	return on, nil
}

// localPath6 completes a path whose dst is an address of the host.
func (s *Stack) localPath6(p path) path {
	if !p.src.IsValid() {
		p.src = p.dst
	}
	p.ifc, p.mtu = s.lo, s.lo.mtu()
	p.makeHeader()
	return p
}

// leave6 is leave for IPv6. It also considers Redirects, and chooses the source if the path has none.
func (s *Stack) leave6(t *routeTable, p *path, on *iface) error {
	if on != nil && !hasUsable(on.list(), netip.Addr.Is6) || on == s.lo {
		return syscall.ENETUNREACH // no route, as on Linux
	}
	switch {
	case p.dst.IsMulticast():
		if on == nil {
			// As on Linux, each link has a route to all groups, and the route of the first link is used.
			if on = s.groupLink6(); on == nil {
				return syscall.ENETUNREACH
			}
		}
		p.ifc, p.group, p.mac = on, true, wordOf(wire.MulticastMAC(p.dst))
	case isLinkLocal6(p.dst):
		p.ifc = on
	default:
		r, err := t.lookup(p.dst, p.src, on)
		if err != nil {
			return err
		}
		if p.ifc = r.ifc; r.via.IsValid() {
			p.hop = r.via
		}
		if hop := s.redirects.hop(p.ifc, p.dst, p.hop); hop.IsValid() {
			p.hop = hop
		}
		if !p.src.IsValid() {
			p.src = r.src
		}
	}
	if !p.src.IsValid() {
		p.src = s.sourceFor6(p.dst, p.hop, p.ifc)
	}
	if !p.src.IsValid() {
		return syscall.EADDRNOTAVAIL
	}
	return nil
}

// groupLink6 returns the link for a multicast or link-local destination for which no link was chosen. It
// is the first link that is up and has a usable IPv6 address; nil if there is none.
func (s *Stack) groupLink6() *iface {
	for _, ifc := range *s.ifaces.Load() {
		if !ifc.loopback && !ifc.down.Load() && hasUsable(ifc.list(), netip.Addr.Is6) {
			return ifc
		}
	}
	return nil
}

// sourceFor6 returns the source of packets to dst that leave over the interface out to the neighbour hop
// (RFC 6724 5). If dst is link-local, the source is an address of out. Otherwise it may be an address of
// another interface, as on Linux. The result is invalid if there is no usable address.
func (s *Stack) sourceFor6(dst, hop netip.Addr, out *iface) netip.Addr {
	var best addrsel.Source
	onLink := isLinkLocal6(dst) || dst.IsLinkLocalMulticast() || dst.IsInterfaceLocalMulticast()
	for _, ifc := range *s.ifaces.Load() {
		if ifc != out && (onLink || ifc.loopback) {
			continue
		}
		for _, a := range ifc.list() {
			// RFC 6724 4: "multicast addresses and the unspecified address MUST NOT be included
			// in a candidate set". A link-local address of another interface is not valid on out.
			if !a.addr().Is6() || !a.usable() || ifc != out && isLinkLocal6(a.addr()) {
				continue
			}
			c := addrsel.Source{Prefix: a.prefix, Deprecated: a.state != AddrPreferred, Outgoing: ifc == out}
			if a.auto != nil {
				c.Temporary, c.NextHop = a.auto.temporary, ifc == out && a.auto.isFrom(hop, s)
			}
			if !best.Prefix.IsValid() || addrsel.Better(dst, c, best) {
				best = c
			}
		}
	}
	return best.Prefix.Addr()
}

// unspecifiedOf returns the unspecified address of a's family.
func unspecifiedOf(a netip.Addr) netip.Addr {
	if a.Is6() {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

// connectable returns an error if a socket of family fam cannot connect to a. zone is the index of the
// interface that the address or the socket names; 0 means that neither does. As on Linux, the error for a
// link-local address without an interface is EINVAL.
func connectable(fam Family, a netip.Addr, zone int) error {
	switch {
	case !fam.holds(a):
		return fam.refusal(a)
	case zone == 0 && a.Is6() && (isLinkLocal6(a) || a.IsLinkLocalMulticast() || a.IsInterfaceLocalMulticast()):
		return syscall.EINVAL
	}
	return nil
}
