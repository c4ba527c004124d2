package stack

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// A Route says how to reach the addresses of a prefix.
type Route struct {
	// Dst is the route's destination prefix.
	Dst netip.Prefix
	// Via is the router, which must be on the link of the interface. If Via is invalid, the destinations
	// themselves are on the link.
	Via netip.Addr
	// NIC names the interface. NIC may be empty if Via is set. The route then uses the interface that the
	// zone of Via names. If Via has no zone, the route uses the first interface that has Via on its link.
	NIC string
	// Src is the source address for sockets that have not chosen one. If Src is invalid, the stack chooses
	// the source. For IPv4, the stack chooses among the interface's addresses, and prefers an address whose
	// network contains the next hop. For IPv6, the stack follows the rules of RFC 6724.
	Src netip.Addr
}

// A route is a Route whose interface has been found.
type route struct {
	dst netip.Prefix
	via netip.Addr
	src netip.Addr
	ifc *iface

	gateway *gateway // whether via is dead; nil if no other router can replace via
}

// A routeTable is the routing table of a stack. It is immutable: a change of the configuration makes a
// new one.
type routeTable struct {
	routes   []route                  // in the order of Routes
	byPrefix map[netip.Prefix][]route // routes by destination prefix; nil if there are at most routeScan routes
	lens4    []int                    // the lengths of the IPv4 prefixes, longest first
	lens6    []int                    // the lengths of the IPv6 prefixes, longest first
	own      []netip.Addr             // the usable addresses of all interfaces but the loopback
	ownSet   map[netip.Addr]struct{}  // own as a set; nil if own has at most ownScan addresses
	bcasts   []broadcast              // directed broadcast addresses, longest prefix first

	gateways map[gatewayKey]*gateway // the states of routers that another router can replace

	v6 bool // the host supports IPv6
}

// lens returns the lengths of the prefixes of a's family, longest first.
func (t *routeTable) lens(a netip.Addr) []int {
	if a.Is4() {
		return t.lens4
	}
	return t.lens6
}

// routeScan is the largest number of routes for which a linear scan is at least as fast as a map lookup.
const routeScan = 8

// to returns the routes to exactly the prefix p, in order of preference.
func (t *routeTable) to(p netip.Prefix) []route {
	if t.byPrefix != nil {
		return t.byPrefix[p]
	}
	for i := range t.routes {
		if t.routes[i].dst == p {
			return t.routes[i:prefixEnd(t.routes, i)]
		}
	}
	return nil
}

// prefixEnd returns the end of the run of routes with the same prefix that begins at rs[i].
func prefixEnd(rs []route, i int) int {
	end := i + 1
	for end < len(rs) && rs[end].dst == rs[i].dst {
		end++
	}
	return end
}

// setRoutes sets the routes of a new table. all has the routes of each prefix in order of preference.
func (t *routeTable) setRoutes(all []route) {
	slices.SortStableFunc(all, func(a, b route) int {
		return cmp.Or(b.dst.Bits()-a.dst.Bits(), a.dst.Addr().Compare(b.dst.Addr()))
	})
	t.routes = slices.Clone(all) // without spare capacity
	if len(all) > routeScan {
		t.byPrefix = make(map[netip.Prefix][]route, len(all))
	}
	for i, end := 0, 0; i < len(all); i = end {
		end = prefixEnd(t.routes, i)
		dst := t.routes[i].dst
		if t.byPrefix != nil {
			t.byPrefix[dst] = t.routes[i:end]
		}
		lens := &t.lens4
		if dst.Addr().Is6() {
			lens = &t.lens6
		}
		if n := len(*lens); n == 0 || (*lens)[n-1] != dst.Bits() {
			*lens = append(*lens, dst.Bits())
		}
	}
}

// A broadcast is the broadcast address of an interface's network. Two broadcasts may have the same
// address, because networks may overlap or be on two links.
type broadcast struct {
	addr netip.Addr
	bits int // of the network's prefix
	ifc  *iface
}

// isBroadcast reports whether a is the broadcast address of a network on some link.
func (t *routeTable) isBroadcast(a netip.Addr) bool {
	return slices.ContainsFunc(t.bcasts, func(b broadcast) bool { return b.addr == a })
}

// isBroadcastOn reports whether a is the broadcast address of a network on an interface.
func (t *routeTable) isBroadcastOn(a netip.Addr, ifc *iface) bool {
	return slices.ContainsFunc(t.bcasts, func(b broadcast) bool { return b.addr == a && b.ifc == ifc })
}

// ownScan is the largest number of addresses for which a linear scan is faster than a map lookup.
const ownScan = 8

// isOwn reports whether a is a usable address of an interface other than the loopback.
func (t *routeTable) isOwn(a netip.Addr) bool {
	if len(t.own) > ownScan {
		_, ok := t.ownSet[a]
		return ok
	}
	return slices.Contains(t.own, a)
}

// isLocal reports whether packets to a stay on the host: whether a is an address of the host, is in
// 127.0.0.0/8, or is ::1 and the host supports IPv6.
func (t *routeTable) isLocal(a netip.Addr) bool {
	return t.isOwn(a) || a.IsLoopback() && (t.v6 || a.Is4())
}

// lookup returns the route to dst with the longest prefix, among the routes whose link is up. Among
// routes of the same prefix it prefers a route whose router is not dead, then a route whose interface
// owns src, then the first route. If the routers of the longest IPv6 prefix are dead, lookup returns the
// route of the next shorter prefix that has a live router, if there is one (RFC 4191 3.2).
//
// If on is set, lookup considers only routes over that interface. If there is no such route to an IPv4
// destination and on is not the loopback, lookup treats the destination as on that interface's link, as Linux
// does.
//
// The error is ENETUNREACH if no route leads to dst, and ENETDOWN if each route to dst is over a link that
// is down or cannot carry an IPv6 dst.
func (t *routeTable) lookup(dst, src netip.Addr, on *iface) (*route, error) {
	err := syscall.ENETUNREACH
	var dead *route // the first match, if its router is dead
	for _, bits := range t.lens(dst) {
		p, _ := dst.Prefix(bits)
		rs := t.to(p)
		best := -1
		var found *route
		for i := range rs {
			r := &rs[i]
			if on != nil && r.ifc != on {
				continue
			}
			if r.ifc.down.Load() || dst.Is6() && !r.ifc.carries6() {
				err = syscall.ENETDOWN
				continue
			}
			rank := 0 // 2 if the router is not dead, plus 1 if the interface owns src
			if !r.isDead() {
				rank = 2
			}
			if src.IsValid() && r.ifc.owns(src) {
				rank++
			}
			if rank > best {
				best, found = rank, r
			}
		}
		switch {
		case found == nil:
		case !dst.Is6() || !found.isDead():
			if dead == nil || found.via.IsValid() {
				return found, nil
			}
		case dead == nil:
			dead = found
		}
	}
	if dead != nil {
		return dead, nil
	}
	if on != nil && !on.loopback && dst.Is4() {
		return &route{dst: netip.PrefixFrom(dst, dst.BitLen()), ifc: on}, nil
	}
	return nil, err
}

// onLink reports whether the table has a route without a router to the address a over the interface.
func (t *routeTable) onLink(ifc *iface, a netip.Addr) bool {
	for _, bits := range t.lens(a) {
		p, _ := a.Prefix(bits)
		rs := t.to(p)
		for i := range rs {
			if r := &rs[i]; r.ifc == ifc && !r.via.IsValid() {
				return true
			}
		}
	}
	return false
}

// rebuildRoutes makes a new routing table from the configuration and makes all cached paths invalid. It
// first deletes the static routes whose interface or source address has been removed, as Linux does.
// The caller is New or holds s.mu.
func (s *Stack) rebuildRoutes() {
	s.static = slices.DeleteFunc(s.static, func(r Route) bool {
		ifc := s.ifaceNamed(r.NIC)
		return ifc == nil || r.Src.IsValid() && !s.hasOn(ifc, r.Src)
	})
	t := &routeTable{v6: s.v6}
	ifaces := *s.ifaces.Load()
	var all []route
	for _, r := range s.static {
		ifc, from := s.ifaceNamed(r.NIC), s.ifaceWith(r.Src)
		if r.Src.IsValid() && (from == nil || isLinkLocal6(r.Src) && !ifc.owns(r.Src)) {
			continue // the source is tentative
		}
		all = append(all, route{dst: r.Dst, via: r.Via, src: r.Src, ifc: ifc})
	}
	for _, ifc := range ifaces {
		if ifc.loopback {
			continue // packets to the host's own addresses use no route
		}
		all = t.addAddrs(all, ifc)
	}
	for _, ifc := range ifaces {
		for _, gw := range ifc.gateways {
			if !gw.addr.IsValid() {
				continue
			}
			if gw.onLink {
				all = append(all, route{dst: netip.PrefixFrom(gw.addr, gw.addr.BitLen()), ifc: ifc})
			}
			all = append(all, route{dst: netip.PrefixFrom(unspecifiedOf(gw.addr), 0), via: gw.addr, ifc: ifc})
		}
	}
	all = t.addAuto(all, ifaces)
	t.setRoutes(all)
	slices.SortStableFunc(t.bcasts, func(a, b broadcast) int { return b.bits - a.bits })
	if len(t.own) > ownScan {
		t.ownSet = make(map[netip.Addr]struct{}, len(t.own))
		for _, a := range t.own {
			t.ownSet[a] = struct{}{}
		}
	}
	t.setGateways(s.table.Load())
	// Store the table before changing the generation. A path that is made from the old table then has
	// the old generation, so it is invalid.
	s.table.Store(t)
	s.gen.Add(1)
	s.changes.notify()
}

// addAddrs adds the usable addresses of an interface, and the broadcast addresses of their networks, to the
// table. For each address whose prefix no router advertises, addAddrs appends a route to the address's network to
// all. It returns the result. If two addresses have the same network, the route of a deprecated address comes
// second.
func (t *routeTable) addAddrs(all []route, ifc *iface) []route {
	for _, st := range []AddrState{AddrPreferred, AddrOptimistic, AddrDeprecated} {
		for _, a := range ifc.list() {
			if a.state != st {
				continue
			}
			p := a.prefix
			t.own = append(t.own, p.Addr())
			if a.auto != nil {
				continue // RFC 5942 3: the address does not imply an on-link prefix
			}
			r := route{dst: p.Masked(), ifc: ifc}
			if p.Addr().Is4() {
				r.src = p.Addr() // for IPv6, sourceFor6 chooses the source (RFC 6724)
			}
			all = append(all, r)
			if p.Addr().Is4() && p.Bits() <= 30 { // longer prefixes have no broadcast address (RFC 3021 2.1)
				t.bcasts = append(t.bcasts, broadcast{broadcastOf(p), p.Bits(), ifc})
			}
		}
	}
	return all
}

// gatewayOf returns the router of an interface's first default route of a family, or an invalid
// address if no such route has a router.
func (t *routeTable) gatewayOf(ifc *iface, v6 bool) netip.Addr {
	for i := range t.routes {
		if r := &t.routes[i]; r.ifc == ifc && r.dst.Bits() == 0 && r.via.IsValid() && r.via.Is6() == v6 {
			return r.via
		}
	}
	return netip.Addr{}
}

// broadcastOf returns the broadcast address of an IPv4 network, in which all host bits are set.
func broadcastOf(p netip.Prefix) netip.Addr {
	a := p.Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		a[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(a)
}

// limitedBroadcast is 255.255.255.255.
func limitedBroadcast() netip.Addr { return netip.AddrFrom4([4]byte{255, 255, 255, 255}) }

// loopbackBroadcast is 127.255.255.255. UDP and IP sockets treat it like any other loopback address. TCP
// treats it as a broadcast address, to which no connection is possible.
func loopbackBroadcast() netip.Addr { return netip.AddrFrom4([4]byte{127, 255, 255, 255}) }

// isReserved reports whether a is in 240.0.0.0/4, which includes the limited broadcast address.
func isReserved(a netip.Addr) bool { return a.Is4() && a.As4()[0] >= 240 }

// A path says how to send datagrams to a destination. A socket caches the path, and uses it while it is
// valid: see the method valid.
type path struct {
	ifc      *iface
	src, dst netip.Addr
	hop      netip.Addr  // the next hop: the router, or dst if dst is on the link
	gen      uint32      // generation of the stack for which the path was made
	group    bool        // dst is a broadcast or multicast address
	noRoute  bool        // the route has been removed: nothing may be sent
	mayFrag  bool        // the path MTU is so small that DF must not be set
	neigh    *neighbor   // of hop; nil if the link has no link addresses or group is set
	mac      macWord     // the destination MAC if group is set
	mtu      int         // path MTU
	tsOffset uint32      // offset of TCP timestamps; only in a shared path
	mtuGen   uint32      // generation of datagramMTU; only in a datagram socket's path
	ipLen    uint8       // length of the IP header, without options
	v6       bool        // the addresses are IPv6 addresses
	gsoKind  nic.GSOKind // kind of TCP super-frames
	hops     uint8       // default TTL or hop limit
	zone     uint16      // index of the interface if an address is link-local; else 0
	idOffset uint16      // added to ids: see idSource
	ids      *atomic.Uint32
	header   pathHeader
}

// mss returns the largest TCP payload of a segment without options on the path.
func (p *path) mss() int { return p.mtu - int(p.ipLen) - wire.TCPLen }

// defaultMSS returns the send MSS for a peer that sends no MSS option.
//
// RFC 9293 3.7.1: "TCP implementations MUST assume a default send MSS of 536 (576-40) for IPv4
// or 1220 (1280 - 60) for IPv6".
func (p *path) defaultMSS() int {
	if p.v6 {
		return wire.MinIPv6MTU - wire.IPv6Len - wire.TCPLen
	}
	return 576 - wire.IPv4Len - wire.TCPLen
}

// advMSS returns the value of the MSS option: the largest TCP payload that the interface can receive.
// RFC 9293 3.7.1: it "MUST be less than or equal to: MMS_R - 20". MMS_R, the largest transport message
// that can be received, depends on the interface and not on the path.
func (p *path) advMSS() int { return p.ifc.ipMTU(p.v6) - int(p.ipLen) - wire.TCPLen }

// gso returns the largest TCP payload of one super-frame on the path, or 0 if the interface takes no
// super-frames.
func (p *path) gso() int {
	most := p.ifc.gso()
	if most == 0 {
		return 0
	}
	return most - int(p.ipLen) - wire.MaxTCPLen
}

// valid reports whether the path may still be used. The zero path is never valid.
func (p *path) valid(s *Stack) bool {
	return p.ifc != nil && p.gen == s.gen.Load() && (p.neigh == nil || !p.neigh.gone())
}

// route returns the path to dst. If src is invalid or unspecified, route chooses the source. The errors
// are
//
//   - EINVAL if dst is invalid, or if src is a loopback address and dst is not an address of the host,
//   - EADDRNOTAVAIL if src is not an address of the host, or if no source can be chosen,
//   - EAFNOSUPPORT if src is an IPv4 and dst an IPv6 address,
//   - ENETUNREACH if there is no route, or if src is an IPv6 and dst an IPv4 address,
//   - ENETDOWN if the link is down.
func (s *Stack) route(dst, src netip.Addr) (path, error) { return s.routeOver(dst, src, 0) }

// routeOver returns the path to dst over the interface with the given index. If index is 0, routeOver does
// the same as route. If there is no interface with the index, the error is ENODEV. If there is no route to an
// IPv4 dst over the interface, routeOver treats dst as on the interface's link. The path to an address of the
// host always uses the loopback.
func (s *Stack) routeOver(dst, src netip.Addr, index int) (path, error) {
	gen := s.gen.Load()
	t := s.table.Load()
	dst = dst.Unmap()
	src = src.Unmap()
	if !dst.IsValid() {
		return path{}, syscall.EINVAL
	}
	if src.IsValid() && src.IsUnspecified() {
		src = netip.Addr{}
	}
	if src.IsValid() && !t.isLocal(src) {
		return path{}, syscall.EADDRNOTAVAIL
	}
	if !dst.Is4() {
		return s.routeOver6(t, dst, src, index, gen)
	}
	if src.Is6() {
		return path{}, syscall.ENETUNREACH // as on Linux for an IPv4-mapped destination
	}
	// An unspecified destination means this host.
	if dst.IsUnspecified() {
		if dst = src; !dst.IsValid() {
			dst = s.lo.list()[0].addr()
		}
	}
	on, err := s.chosenLink(dst, src, index)
	if err != nil {
		return path{}, err
	}
	if t.isLocal(dst) {
		return s.localPath(dst, src, gen), nil
	}
	// RFC 1122 3.2.1.3 (g): "{127, <any>} ... MUST NOT appear outside a host."
	if src.IsLoopback() && (on == nil || !on.loopback) {
		return path{}, syscall.EINVAL
	}
	p := path{src: src, dst: dst, hop: dst, gen: gen}
	if err := s.leave(t, &p, on); err != nil {
		return path{}, err
	}
	if err := s.chooseSource(t, &p); err != nil {
		return path{}, err
	}
	s.finishPath(&p)
	return p, nil
}

// finishPath fills in the fields of a path that depend on its addresses and its interface.
func (s *Stack) finishPath(p *path) {
	p.mtu = p.ifc.ipMTU(p.dst.Is6())
	if !p.group {
		if p.ifc.linkLen > 0 {
			p.neigh = p.ifc.neighbors(p.hop).get(p.hop)
		}
		s.pmtu.apply(s, p)
	}
	p.makeHeader()
}

// leave fills in the interface and the next hop of a path. If the destination is a broadcast or
// multicast address, leave also sets group and mac. If the path has no source yet and the route has a
// source, leave sets that source. on is the interface that the caller has chosen, or nil.
func (s *Stack) leave(t *routeTable, p *path, on *iface) error {
	r, err := s.broadcastRoute(t, p.dst, p.src, on)
	switch {
	case err != nil:
		return err
	case r != nil:
		p.group, p.mac = true, wordOf(wire.Broadcast())
	case isReserved(p.dst):
		return syscall.ENETUNREACH
	case on != nil && p.dst.IsMulticast():
		p.ifc, p.group, p.mac = on, true, wordOf(wire.MulticastMAC(p.dst))
		return nil
	default:
		if r, err = t.lookup(p.dst, p.src, on); err != nil {
			return err
		}
		if p.dst.IsMulticast() {
			// RFC 1112 6.1: multicast datagrams go to the local link, not to a router.
			p.group, p.mac = true, wordOf(wire.MulticastMAC(p.dst))
		} else if r.via.IsValid() {
			p.hop = r.via
		}
	}
	p.ifc = r.ifc
	if !p.src.IsValid() {
		p.src = r.src
	}
	return nil
}

// chooseSource fills in the source of a path that has no source yet. The error is EADDRNOTAVAIL if the
// host has no suitable address.
func (s *Stack) chooseSource(t *routeTable, p *path) error {
	if i := slices.IndexFunc(t.own, netip.Addr.Is4); !p.src.IsValid() && p.ifc.loopback && i >= 0 {
		// This is the path to a group on the loopback. As on Linux, the source is not 127.0.0.1 if the
		// host has another address.
		p.src = t.own[i]
	}
	if !p.src.IsValid() {
		p.src = p.ifc.sourceFor(p.hop)
	}
	if !p.src.IsValid() {
		// RFC 1122 3.2.1.3 (a): 0.0.0.0 may be sent "as a source address as part of an
		// initialization procedure by which the host learns its own IP address". DHCP
		// does this (RFC 2131 4.1).
		if p.dst != limitedBroadcast() {
			return syscall.EADDRNOTAVAIL
		}
		p.src = netip.IPv4Unspecified()
	}
	return nil
}

// chosenLink returns the interface that the caller has chosen, or nil if the routes decide. The caller
// chooses an interface by its index. If index is 0, src is valid and dst is a multicast address or the limited
// broadcast address, chosenLink returns the interface that has src, as Linux does. The error is ENODEV if no
// interface has the index, and ENETDOWN if the link of the chosen interface is down.
func (s *Stack) chosenLink(dst, src netip.Addr, index int) (*iface, error) {
	var on *iface
	switch {
	case index != 0:
		if on = s.ifaceAt(index); on == nil {
			return nil, syscall.ENODEV
		}
	case dst.IsMulticast() && src.IsValid(), dst == limitedBroadcast() && src.IsValid() && !src.IsLoopback():
		on = s.ifaceWith(src)
	}
	if on != nil && on.down.Load() {
		return nil, syscall.ENETDOWN
	}
	return on, nil
}

// localPath returns the path to dst, which is an address of the host.
func (s *Stack) localPath(dst, src netip.Addr, gen uint32) path {
	if !src.IsValid() {
		src = dst
		if dst.IsLoopback() {
			src = s.lo.list()[0].addr()
		}
	}
	p := path{ifc: s.lo, src: src, dst: dst, hop: dst, gen: gen, mtu: s.lo.mtu()}
	p.makeHeader()
	return p
}

// broadcastRoute returns the route for a broadcast to dst, or nil if dst is not a broadcast address.
// If on is set, only the networks of that interface count. A directed broadcast uses the interface that owns
// src, or else the interface whose network has the longest prefix. The error is ENETDOWN if dst is the
// broadcast address of networks whose links are all down.
func (s *Stack) broadcastRoute(t *routeTable, dst, src netip.Addr, on *iface) (*route, error) {
	if dst == limitedBroadcast() {
		return s.limitedRoute(t, src, on)
	}
	var best *iface
	var err error
	for i := range t.bcasts {
		b := &t.bcasts[i]
		if b.addr != dst || on != nil && b.ifc != on {
			continue
		}
		if b.ifc.down.Load() {
			err = syscall.ENETDOWN
			continue
		}
		if best == nil || src.IsValid() && b.ifc.owns(src) && !best.owns(src) {
			best = b.ifc
		}
	}
	if best == nil {
		return nil, err
	}
	return &route{ifc: best}, nil
}

// limitedRoute does what broadcastRoute does, for 255.255.255.255. It uses the first of these that exists:
//
//   - the interface on,
//   - the route to 255.255.255.255, which usually is the default route,
//   - the first link that is up and has an IPv4 address,
//   - the first link that is up.
//
// If none exists, limitedRoute returns nil. Linux uses only the first two, and otherwise returns ENETUNREACH.
func (s *Stack) limitedRoute(t *routeTable, src netip.Addr, on *iface) (*route, error) {
	if on != nil {
		return &route{ifc: on}, nil
	}
	if r, err := t.lookup(limitedBroadcast(), src, nil); err == nil {
		return r, nil
	}
	var first *iface
	for _, ifc := range *s.ifaces.Load() {
		if ifc.loopback || ifc.down.Load() {
			continue
		}
		if first == nil || hasUsable(ifc.list(), netip.Addr.Is4) && !hasUsable(first.list(), netip.Addr.Is4) {
			first = ifc
		}
	}
	if first == nil {
		return nil, nil
	}
	return &route{ifc: first}, nil
}

// SourceFor returns the source address that the host would use for packets to dst. The result is invalid
// if there is no route.
func (s *Stack) SourceFor(dst netip.Addr) netip.Addr {
	dst, zone := s.unzone(dst)
	p, err := s.routeOver(dst, netip.Addr{}, zone)
	if err != nil {
		return netip.Addr{}
	}
	return s.zoned(p.src, int(p.zone))
}

// IsLocal reports whether a is an address of the host: a usable address of any interface, an address in
// 127.0.0.0/8, or, if the host supports IPv6, ::1.
func (s *Stack) IsLocal(a netip.Addr) bool { return s.table.Load().isLocal(a.Unmap().WithZone("")) }

// IsDeprecated reports whether a is a deprecated address of the host (RFC 4862 5.5.4): a valid address that
// new communication should not use. If a is link-local and its zone names an interface, IsDeprecated looks only
// at the addresses of that interface.
func (s *Stack) IsDeprecated(a netip.Addr) bool {
	a, zone := s.unzone(a)
	return slices.ContainsFunc(*s.ifaces.Load(), func(ifc *iface) bool {
		x, ok := ifc.addr(a)
		return ok && x.state == AddrDeprecated && (zone == 0 || zone == ifc.index)
	})
}

// IsBroadcast reports whether a is the limited broadcast address or the broadcast address of one of the
// host's networks.
func (s *Stack) IsBroadcast(a netip.Addr) bool {
	a = a.Unmap()
	return a == limitedBroadcast() || s.table.Load().isBroadcast(a)
}

// HasIPv4 reports whether the host supports IPv4. It always does, at least on the loopback.
func (s *Stack) HasIPv4() bool { return true }

// HasIPv6 reports whether the host supports IPv6: always, unless Config.NoIPv6 is set.
func (s *Stack) HasIPv6() bool { return s.v6 }

// Routes returns the routes. The longest prefixes come first, and prefixes of the same length are in the order
// of their addresses, IPv4 first. The routes of one prefix are in the order of preference: the routes of
// Config and AddRoute come first, then those of addresses, of gateways and of Router Advertisements.
func (s *Stack) Routes() []Route {
	var rs []Route
	for _, r := range s.table.Load().routes {
		rs = append(rs, Route{Dst: r.dst, Via: r.via, NIC: r.ifc.name, Src: r.src})
	}
	return rs
}

// AddRoute adds a route. The default route is the route to 0.0.0.0/0 or ::/0. The new route comes after
// earlier routes of the same prefix. As on Linux, the stack deletes the route when its interface is
// removed, when its Src is removed, or when the interface loses its last address of the family.
//
// The errors are EINVAL if r is not a valid route or the zone of r.Via names another interface than r.NIC,
// EAFNOSUPPORT if the addresses of r are of different families, EEXIST if the same route was added before,
// ENODEV if there is no such interface, ENETUNREACH if the router is not on the link, and net.ErrClosed if the
// stack is closed.
func (s *Stack) AddRoute(r Route) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed.Load() {
		return net.ErrClosed
	}
	r, err := s.checkRoute(r)
	if err != nil {
		return fmt.Errorf("stack: AddRoute: %w", err)
	}
	if slices.Contains(s.static, r) {
		return fmt.Errorf("stack: AddRoute: %v is there already: %w", r.Dst, syscall.EEXIST)
	}
	s.static = append(s.static, r)
	s.rebuildRoutes()
	return nil
}

// DelRoute removes the first route with prefix r.Dst that was added by Config or AddRoute. If r.Via or
// r.NIC is set, the route must match it too. If there is no such route and r.Dst is 0.0.0.0/0 or ::/0,
// DelRoute removes the gateway of the first matching interface. It does not remove routes that come from
// addresses or Router Advertisements.
//
// Connections without another route can no longer send; they end as described at RemoveAddr. The error is
// ESRCH if no route matches, ENODEV or EINVAL for the zone of r.Via as in AddRoute, and net.ErrClosed if the
// stack is closed.
func (s *Stack) DelRoute(r Route) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed.Load() {
		return net.ErrClosed
	}
	r, err := s.inZone(r)
	if err != nil {
		return fmt.Errorf("stack: DelRoute: %w", err)
	}
	i := slices.IndexFunc(s.static, func(have Route) bool {
		return have.Dst == r.Dst.Masked() && (!r.Via.IsValid() || r.Via == have.Via) && (r.NIC == "" || r.NIC == have.NIC)
	})
	if i >= 0 {
		s.static = slices.Delete(s.static, i, i+1)
	} else if !s.delGateway(r) {
		return fmt.Errorf("stack: DelRoute: no route to %v: %w", r.Dst, syscall.ESRCH)
	}
	s.rebuildRoutes()
	return nil
}

// delGateway removes the gateway of the first interface whose default route matches r. It reports
// whether it removed a gateway. s.mu is held.
func (s *Stack) delGateway(r Route) bool {
	if r.Dst.Bits() != 0 {
		return false
	}
	for _, ifc := range *s.ifaces.Load() {
		gw := ifc.gatewayFor(r.Dst.Addr())
		if gw.addr.IsValid() && (!r.Via.IsValid() || r.Via == gw.addr) && (r.NIC == "" || r.NIC == ifc.name) {
			*gw = nicGateway{}
			return true
		}
	}
	return false
}

// checkRoute returns r with its prefix masked and its interface filled in, or an error if r cannot be a
// route. s.mu is held, or the caller is New.
func (s *Stack) checkRoute(r Route) (Route, error) {
	if !r.Dst.IsValid() {
		return r, fmt.Errorf("%s: %w", malformed(r.Dst), syscall.EINVAL)
	}
	r.Dst = r.Dst.Masked()
	if r.Dst.Addr().Is4In6() {
		return r, fmt.Errorf("an IPv4 prefix is to be written as one: %w", syscall.EINVAL)
	}
	v4 := r.Dst.Addr().Is4()
	if r.Via.IsValid() && r.Via.Is4() != v4 || r.Src.IsValid() && r.Src.Is4() != v4 {
		return r, fmt.Errorf("the addresses are of different families: %w", syscall.EAFNOSUPPORT)
	}
	r, err := s.inZone(r)
	if err != nil {
		return r, err
	}
	if r.Via.IsValid() && !isNeighborAddr(r.Via) {
		return r, fmt.Errorf("the router %v is not a unicast address: %w", r.Via, syscall.EINVAL)
	}
	if r.NIC == "" {
		if !r.Via.IsValid() {
			return r, fmt.Errorf("it names neither an interface nor a router: %w", syscall.EINVAL)
		}
		for _, ifc := range *s.ifaces.Load() {
			if !ifc.loopback && s.onLink(ifc, r.Via) {
				r.NIC = ifc.name
				break
			}
		}
		if r.NIC == "" {
			return r, fmt.Errorf("the router %v is on no link: %w", r.Via, syscall.ENETUNREACH)
		}
	}
	ifc := s.ifaceNamed(r.NIC)
	if ifc == nil {
		return r, fmt.Errorf("no interface %q: %w", r.NIC, syscall.ENODEV)
	}
	if ifc.loopback {
		return r, fmt.Errorf("the loopback takes no routes: %w", syscall.EINVAL)
	}
	if r.Via.IsValid() && !s.onLink(ifc, r.Via) {
		return r, fmt.Errorf("the router %v is not on the link of %s: %w", r.Via, r.NIC, syscall.ENETUNREACH)
	}
	if r.Via.IsValid() && s.hasOn(ifc, r.Via) {
		return r, fmt.Errorf("the router %v is the host itself: %w", r.Via, syscall.EINVAL)
	}
	if r.Via.IsValid() && ifc.isBroadcast(r.Via) {
		return r, fmt.Errorf("the router %v is the broadcast address of a network: %w", r.Via, syscall.EINVAL)
	}
	if r.Src.IsValid() && !s.hasOn(ifc, r.Src) {
		return r, fmt.Errorf("the source %v is not an address of the host: %w", r.Src, syscall.EINVAL)
	}
	return r, nil
}

// isBroadcast reports whether a is the broadcast address of a network of the interface. Unlike
// routeTable.isBroadcastOn, it does not need the routing table.
func (ifc *iface) isBroadcast(a netip.Addr) bool {
	return slices.ContainsFunc(ifc.list(), func(x ifaceAddr) bool {
		p := x.prefix
		return x.present() && p.Addr().Is4() && p.Bits() <= 30 && a == broadcastOf(p)
	})
}

// onLink reports whether the configuration or a router says that a is on the link of the interface.
// Unlike routeTable.onLink, it does not need the routing table.
func (s *Stack) onLink(ifc *iface, a netip.Addr) bool {
	if isLinkLocal6(a) {
		return ifc.carries6()
	}
	for _, x := range ifc.list() {
		if x.present() && x.auto == nil && x.prefix.Contains(a) {
			return true
		}
	}
	if ifc.auto != nil && slices.ContainsFunc(ifc.auto.prefixes, func(p autoPrefix) bool { return p.prefix.Contains(a) }) {
		return true
	}
	if gw := ifc.gatewayFor(a); a == gw.addr && gw.onLink {
		return true
	}
	for _, r := range s.static {
		if r.NIC == ifc.name && !r.Via.IsValid() && r.Dst.Contains(a) {
			return true
		}
	}
	return false
}
