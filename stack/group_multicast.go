package stack

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"

	"github.com/usernet/usernet/stack/wire"
)

// A groupChange replaces the filter from by the filter to. They are a socket's filters for a group on an
// interface. The zero filter stands for a socket that has not joined.
type groupChange struct {
	ifc      *iface
	group    netip.Addr
	from, to sourceFilter
}

// compare orders by interface and group. The order of reports then does not depend on map order.
func (c groupChange) compare(o groupChange) int {
	return cmp.Or(cmp.Compare(c.ifc.index, o.ifc.index), c.group.Compare(o.group))
}

// A membership is a socket's filter for a group on an interface.
type membership struct {
	ifc    *iface
	filter sourceFilter
}

// A multicast has a datagram socket's memberships and its settings for groups. The socket's lock
// protects it.
type multicast struct {
	joins    map[netip.Addr][]membership // by group, in the order of joining
	filtered atomic.Int32                // memberships whose filter lists sources; read without the lock
	index    int                         // interface for datagrams to groups; 0: the routes choose it
	ttl      uint8                       // TTL of datagrams to groups
	loop     bool                        // deliver datagrams to groups to this host too
}

// find returns the position in joins[group] of the membership on the interface with the given index. If
// index is 0, it returns the position of the first membership. It returns -1 if there is no such
// membership.
func (m *multicast) find(group netip.Addr, index int) int {
	return slices.IndexFunc(m.joins[group], func(j membership) bool { return index == 0 || j.ifc.index == index })
}

// set sets the filter of the membership at joins[group][at] to f. If at is -1, it adds a membership on
// ifc. An f that accepts no source ends the membership. The socket's lock is held; the caller drains.
func (m *multicast) set(s *Stack, group netip.Addr, at int, ifc *iface, f sourceFilter) {
	c := groupChange{ifc: ifc, group: group, to: f}
	js := m.joins[group]
	if at >= 0 {
		c.from = js[at].filter
	}
	switch {
	case at < 0:
		js = append(js, membership{ifc, f})
	case f.isMember():
		js[at].filter = f
	default:
		js = slices.Delete(js, at, at+1)
	}
	switch {
	case len(js) == 0:
		delete(m.joins, group)
	case m.joins == nil:
		m.joins = map[netip.Addr][]membership{group: js}
	default:
		m.joins[group] = js
	}
	// A filter counts 1 if it lists sources, and 0 otherwise.
	m.filtered.Add(int32(min(len(f.sources), 1) - min(len(c.from.sources), 1)))
	s.groups.change(c)
}

// wantsGroup reports whether the socket's filters accept a datagram. As on Linux, a socket that has not
// joined the group accepts the datagram: IP has accepted it already, because another socket has joined
// the group. No lock is held.
//
// RFC 3376 3.1: "filtering of packets based upon a socket's multicast reception state is
// a new feature of this service interface."
func (g *dgram) wantsGroup(p *packet) bool {
	if g.mc.filtered.Load() == 0 || !p.dst.IsMulticast() {
		return true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	i := g.mc.find(p.dst, p.ifc.index)
	return i < 0 || g.mc.joins[p.dst][i].filter.wants(p.src)
}

// Join makes the socket a member of a multicast group on the interface with the given index. If index is
// 0, Join uses the interface that the group's zone names, or else that of the route to the group. The
// errors are those of Linux: EINVAL if group is not a multicast address of a family that the socket has,
// ENODEV if there is no such interface or route, and EADDRINUSE if the socket has joined the group on
// that interface already.
func (g *dgram) Join(group netip.Addr, index int) error {
	return g.membership(group, index, func(group netip.Addr, at int, ifc *iface) error {
		if at >= 0 {
			return syscall.EADDRINUSE
		}
		g.mc.set(g.s, group, at, ifc, sourceFilter{exclude: true})
		return nil
	})
}

// JoinSource joins a group for datagrams from source only. It can be called for several sources. It
// replaces an earlier Join, unless sources of the group are blocked. The errors are EINVAL and ENODEV as
// for Join, EADDRNOTAVAIL if the source was joined before or is of another family than the group, and
// EINVAL if sources of the group are blocked.
func (g *dgram) JoinSource(group, source netip.Addr, index int) error {
	source = source.Unmap().WithZone("")
	return g.membership(group, index, func(group netip.Addr, at int, ifc *iface) error {
		f := sourceFilter{}
		if at >= 0 {
			f = g.mc.joins[group][at].filter
		}
		switch {
		case source.Is4() != group.Is4() || !source.IsValid():
			return syscall.EADDRNOTAVAIL
		case f.exclude && len(f.sources) > 0:
			return syscall.EINVAL
		case f.exclude:
			f = sourceFilter{}
		case f.lists(source):
			return syscall.EADDRNOTAVAIL
		}
		g.mc.set(g.s, group, at, ifc, f.with(source))
		return nil
	})
}

// BlockSource blocks datagrams from a source to a group that was joined with Join. The errors are
// EADDRNOTAVAIL if the source is blocked already or is of another family than the group, and EINVAL if
// the group was not joined, or was joined with JoinSource.
func (g *dgram) BlockSource(group, source netip.Addr, index int) error {
	source = source.Unmap().WithZone("")
	return g.present(group, index, func(group netip.Addr, at int, m membership) error {
		switch f := &m.filter; {
		case source.Is4() != group.Is4() || !source.IsValid():
			return syscall.EADDRNOTAVAIL
		case at < 0, !f.exclude:
			return syscall.EINVAL
		case f.lists(source):
			return syscall.EADDRNOTAVAIL
		}
		g.mc.set(g.s, group, at, m.ifc, m.filter.with(source))
		return nil
	})
}

// LeaveSource undoes JoinSource for a source. Leaving the last source leaves the group. The errors are
// EADDRNOTAVAIL if the source was not joined, and EINVAL if the group was not joined or if sources of
// the group are blocked.
func (g *dgram) LeaveSource(group, source netip.Addr, index int) error {
	return g.removeSource(group, source, index, false)
}

// UnblockSource undoes BlockSource for a source. The errors are EADDRNOTAVAIL if the source is not
// blocked, and EINVAL if the group was not joined, or was joined with JoinSource.
func (g *dgram) UnblockSource(group, source netip.Addr, index int) error {
	return g.removeSource(group, source, index, true)
}

// removeSource removes a source from the list of the filter for a group. exclude is the mode that the
// filter must have.
func (g *dgram) removeSource(group, source netip.Addr, index int, exclude bool) error {
	source = source.Unmap().WithZone("")
	return g.present(group, index, func(group netip.Addr, at int, m membership) error {
		switch f := &m.filter; {
		case at < 0, f.exclude != exclude && len(f.sources) > 0:
			return syscall.EINVAL
		case f.exclude != exclude, !f.lists(source):
			return syscall.EADDRNOTAVAIL
		}
		g.mc.set(g.s, group, at, m.ifc, m.filter.without(source))
		return nil
	})
}

// Leave ends the membership of a group that began with Join or JoinSource, on the interface with the
// given index. If index is 0, Leave ends the socket's first membership of the group. The error is
// EADDRNOTAVAIL if there is no such membership.
func (g *dgram) Leave(group netip.Addr, index int) error {
	return g.present(group, index, func(group netip.Addr, at int, m membership) error {
		if at < 0 {
			return syscall.EADDRNOTAVAIL
		}
		g.mc.set(g.s, group, at, m.ifc, sourceFilter{})
		return nil
	})
}

// membership calls do, with the socket's lock held, for a group on the interface with the given index. If
// index is 0, it uses the interface that the group's zone names, or else that of the route to the group.
// at is the index in joins[group] of the socket's membership on the interface; -1 if there is none. do
// gets the group without its zone.
func (g *dgram) membership(group netip.Addr, index int, do func(group netip.Addr, at int, ifc *iface) error) error {
	if err := g.open(); err != nil {
		return err
	}
	group, index = g.s.groupOn(group, index)
	if !g.canJoin(group) {
		return syscall.EINVAL
	}
	ifc := g.s.ifaceAt(index)
	if index == 0 {
		if p, err := g.s.route(group, netip.Addr{}); err == nil {
			ifc = p.ifc
		}
	}
	if ifc == nil {
		return syscall.ENODEV
	}
	g.mu.Lock()
	err := error(net.ErrClosed)
	if !g.closed {
		err = do(group, g.mc.find(group, ifc.index), ifc)
	}
	g.mu.Unlock()
	g.s.drain()
	return err
}

// present calls do, with the socket's lock held, for the socket's membership m of a group on the
// interface with the given index. If index is 0, m is the first membership of the group. at is the index
// of m in joins[group]; -1 if there is no such membership. do gets the group without its zone.
func (g *dgram) present(group netip.Addr, index int, do func(group netip.Addr, at int, m membership) error) error {
	group, index = g.s.groupOn(group, index)
	g.mu.Lock()
	err := error(net.ErrClosed)
	switch {
	case g.closed:
	case !g.canJoin(group):
		err = syscall.EINVAL
	default:
		var m membership
		at := g.mc.find(group, index)
		if at >= 0 {
			m = g.mc.joins[group][at]
		}
		err = do(group, at, m)
	}
	g.mu.Unlock()
	g.s.drain()
	return err
}

// canJoin reports whether a is a multicast address that the socket can join. As on Linux, an IPv6-only
// socket can join an IPv4 group.
func (g *dgram) canJoin(a netip.Addr) bool {
	return a.IsMulticast() && (a.Is4() || g.fam.holds(a) && g.s.HasIPv6())
}

// groupOn returns a group without its zone, and the index of the interface for the group. If index is not
// 0, it returns index. Otherwise it returns the index of the interface that the zone names, or 0 if there
// is no zone.
func (s *Stack) groupOn(group netip.Addr, index int) (netip.Addr, int) {
	group, zone := s.unzone(group)
	if index == 0 {
		index = zone
	}
	return group, index
}

// leaveBatch is the number of groups that leaveAll leaves at once. In version 3 this many records fill
// two reports on an Ethernet. In version 2 each group needs a message; this many fit a transmit queue.
const leaveBatch = 366

// leaveAll leaves the groups of a closed socket, with as few messages as possible. No lock is held.
func (g *dgram) leaveAll() {
	g.mu.Lock()
	var all []groupChange
	for group, js := range g.mc.joins {
		for _, j := range js {
			all = append(all, groupChange{ifc: j.ifc, group: group, from: j.filter})
		}
	}
	g.mc.joins = nil
	g.mu.Unlock()
	slices.SortFunc(all, groupChange.compare)
	for some := range slices.Chunk(all, leaveBatch) {
		g.s.groups.change(some...)
		g.s.drain()
	}
}

// SetMulticastInterface sets the interface for datagrams to groups. If index is 0, the routes choose the
// interface. The error is EADDRNOTAVAIL if there is no interface with that index.
func (g *dgram) SetMulticastInterface(index int) error {
	known := index == 0 || g.s.ifaceAt(index) != nil
	return g.configure(known, syscall.EADDRNOTAVAIL, func() { g.mc.index = index })
}

// SetMulticastTTL sets the TTL of datagrams to groups. With a TTL of 0, datagrams do not leave the host.
// As on Linux, -1 sets the default, which is 1. The error is EINVAL if ttl is not from -1 to 255.
func (g *dgram) SetMulticastTTL(ttl int) error {
	if ttl == -1 {
		ttl = 1
	}
	return g.configure(ttl >= 0 && ttl <= 255, syscall.EINVAL, func() { g.mc.ttl = uint8(ttl) })
}

// SetMulticastLoopback sets whether sockets of this host receive the datagrams that this socket sends
// to groups. The default is true.
func (g *dgram) SetMulticastLoopback(on bool) error {
	return g.configure(true, 0, func() { g.mc.loop = on })
}

// SetTTL sets the TTL of datagrams to unicast addresses. As on Linux, -1 sets the default, which is 64,
// or the hop limit that IPv6 routers advertise (RFC 4861 6.3.4). The error is EINVAL if ttl is neither
// -1 nor from 1 to 255.
func (g *dgram) SetTTL(ttl int) error {
	return g.configure(ttl == -1 || ttl >= 1 && ttl <= 255, syscall.EINVAL, func() {
		g.ttl = uint8(max(ttl, 0))
		g.path = path{} // the path has a copy of the TTL
	})
}

// SetTOS sets the TOS or traffic class of the socket's datagrams. Only the lowest eight bits count.
func (g *dgram) SetTOS(tos int) error {
	return g.configure(true, 0, func() { g.tos = uint8(tos) })
}

// DatagramSettings are the settings of a datagram socket.
type DatagramSettings struct {
	TTL, TOS          uint8
	MulticastTTL      uint8
	MulticastNIC      int // index of the interface for groups; 0: the routes choose it
	MulticastLoopback bool
}

// Settings returns the socket's settings. The error is net.ErrClosed if the socket is closed.
func (g *dgram) Settings() (DatagramSettings, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return DatagramSettings{}, net.ErrClosed
	}
	return DatagramSettings{
		TTL: cmp.Or(g.ttl, defaultTTL), TOS: g.tos,
		MulticastTTL: g.mc.ttl, MulticastNIC: g.mc.index, MulticastLoopback: g.mc.loop,
	}, nil
}

// configure calls set if the socket is open and good is true. Otherwise it returns net.ErrClosed or
// bad.
func (g *dgram) configure(good bool, bad syscall.Errno, set func()) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.closed:
		return net.ErrClosed
	case !good:
		return bad
	}
	set()
	return nil
}

// header fills in h for a datagram on g.path, from the socket's settings and the options o. The socket's
// lock is held. h is a pointer and not a result: copying the result right after its bytes were stored
// would stall the CPU.
//
// RFC 1112 6.1: "If the upper-layer protocol chooses not to specify a
// time-to-live, it should default to 1 for all multicast IP datagrams".
func (g *dgram) header(h *ipHeader, proto wire.Proto, o *SendOptions) {
	p := &g.path
	h.proto, h.ttl, h.tos, h.df = proto, p.hops, g.tos, dfFits
	if o.DontFragment {
		h.df = dfAlways
	}
	if o.TOS != 0 || o.SetTOS {
		h.tos = o.TOS
	}
	if p.group {
		toGroup := p.dst.IsMulticast()
		if toGroup {
			h.ttl = g.mc.ttl
		}
		// RFC 1112 6.1 and 7.1: the host delivers a copy to itself if it is a member of the group on
		// that interface, unless the sender has turned that off. As on Linux, a broadcast is always
		// delivered.
		h.loop = !p.ifc.loopback && (!toGroup || g.mc.loop && p.loops())
	}
	if o.TTL != 0 {
		h.ttl = o.TTL
	}
}

// over returns the index of the interface for a datagram to dst, or 0 if the routes choose the
// interface.
func (g *dgram) over(dst netip.Addr, o *SendOptions) int {
	switch {
	case o.NIC != 0:
		return o.NIC
	case dst.IsMulticast() && g.mc.index != 0:
		return g.mc.index
	}
	return g.zone
}

// loops reports whether the host itself receives datagrams on a path to a group: it has joined the group
// on the path's interface, and accepts the path's source.
func (p *path) loops() bool {
	_, ok := p.ifc.group.wants(p.dst, p.src)
	return ok
}
