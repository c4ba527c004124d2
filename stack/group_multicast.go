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

// A groupChange replaces what a socket wants of a group on an interface.
type groupChange struct {
	ifc      *iface
	group    netip.Addr
	from, to sourceFilter
}

// compare orders by interface and group, so that equal states say equal things.
func (c groupChange) compare(o groupChange) int {
	return cmp.Or(cmp.Compare(c.ifc.index, o.ifc.index), c.group.Compare(o.group))
}

// A membership is what a socket wants of a group on an interface.
type membership struct {
	ifc    *iface
	filter sourceFilter
}

// A multicast is what a datagram socket has been told about groups. It belongs to
// the socket's lock.
type multicast struct {
	joins    map[netip.Addr][]membership // of each group, in the order in which they were joined
	filtered atomic.Int32                // memberships with a list of sources; read without the lock
	index    int                         // of the interface over which groups are reached; 0: by the routes
	ttl      uint8                       // of datagrams to groups
	loop     bool                        // the host's own sockets hear them too
}

// find returns the place in joins[group] of the membership on an interface; of the first that there is
// if index is 0. It is -1 if there is none.
func (m *multicast) find(group netip.Addr, index int) int {
	return slices.IndexFunc(m.joins[group], func(j membership) bool { return index == 0 || j.ifc.index == index })
}

// set replaces a membership by another filter, which ends it where that wants nothing. at is the
// place of the membership; -1 for a new one.
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
	m.filtered.Add(int32(min(len(f.sources), 1) - min(len(c.from.sources), 1)))
	s.groups.change(c)
}

// wantsGroup reports whether the socket lets what a source sends to a group pass. One that has not
// joined the group does, as on Linux: what has come so far, another has joined. No lock is held.
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

// Join has the interface of an index, or with 0 the one on the route to the group,
// accept what is sent to a multicast group. The errors are those of Linux: EINVAL for
// what is no group of a family that the socket has, ENODEV without such an interface or route, and EADDRINUSE for a group
// that the socket has joined there already.
func (g *dgram) Join(group netip.Addr, index int) error {
	return g.membership(group, index, func(group netip.Addr, at int, ifc *iface) error {
		if at >= 0 {
			return syscall.EADDRINUSE
		}
		g.mc.set(g.s, group, at, ifc, sourceFilter{exclude: true})
		return nil
	})
}

// JoinSource is Join for what one source sends to a group. It can be called for many sources. After
// Join without BlockSource it has the group receive that source only. The errors are Join's, but for
// EADDRINUSE; EADDRNOTAVAIL for a source that is joined already or is of another family, and
// EINVAL where sources of the group are blocked.
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

// BlockSource has a group that was joined with Join be received without what a source sends to it.
// The errors are EADDRNOTAVAIL for a source that is blocked already or is of another family, and
// EINVAL where the group is not joined, or by its sources.
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

// LeaveSource undoes a JoinSource. The last one leaves the group. The errors are EADDRNOTAVAIL for a source
// that was not joined, and EINVAL where the group is not joined, or sources of it are blocked.
func (g *dgram) LeaveSource(group, source netip.Addr, index int) error {
	return g.removeSource(group, source, index, false)
}

// UnblockSource undoes a BlockSource. The errors are EADDRNOTAVAIL for a source that is not blocked, and EINVAL
// where the group is not joined, or by its sources.
func (g *dgram) UnblockSource(group, source netip.Addr, index int) error {
	return g.removeSource(group, source, index, true)
}

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

// Leave undoes a Join, and all JoinSource of a group, on the interface of an index, or with 0 the first
// that there was of the group. EADDRNOTAVAIL says that there was none.
func (g *dgram) Leave(group netip.Addr, index int) error {
	return g.present(group, index, func(group netip.Addr, at int, m membership) error {
		if at < 0 {
			return syscall.EADDRNOTAVAIL
		}
		g.mc.set(g.s, group, at, m.ifc, sourceFilter{})
		return nil
	})
}

// membership calls do for a group on the interface of an index, or with 0 the one on the route to
// the group, with the place of the socket's membership there, which is -1 if there is none.
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

// present calls do for the socket's membership of a group on the interface of an index, or with 0 the
// first that there is of the group, and with its place, which is -1 if there is none.
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

// canJoin reports whether an address is that of a group which the socket can join. As on Linux, one of
// IPv6 alone can join a group of IPv4.
func (g *dgram) canJoin(a netip.Addr) bool {
	return a.IsMulticast() && (a.Is4() || g.fam.holds(a) && g.s.HasIPv6())
}

// groupOn returns a group without its zone, and the index of the interface: that of the zone if
// index is 0.
func (s *Stack) groupOn(group netip.Addr, index int) (netip.Addr, int) {
	group, zone := s.unzone(group)
	if index == 0 {
		index = zone
	}
	return group, index
}

// leaveBatch is how many groups are left at once: as many as two reports of version 3 name on an
// Ethernet, and fewer than a transmit queue has room for, because version 2 names one in each.
const leaveBatch = 366

// leaveAll leaves the groups of a socket that has been closed, and tells the routers so in
// as few messages as it takes. No lock is held.
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

// SetMulticastInterface chooses the interface over which the socket sends to
// groups: 0 leaves it to the routes. EADDRNOTAVAIL says that there is none of that index.
func (g *dgram) SetMulticastInterface(index int) error {
	known := index == 0 || g.s.ifaceAt(index) != nil
	return g.configure(known, syscall.EADDRNOTAVAIL, func() { g.mc.index = index })
}

// SetMulticastTTL sets the time to live of what the socket sends to groups. With 0
// it does not leave the host, and -1 is the default, 1, as on Linux. EINVAL says that it is
// not from -1 to 255.
func (g *dgram) SetMulticastTTL(ttl int) error {
	if ttl == -1 {
		ttl = 1
	}
	return g.configure(ttl >= 0 && ttl <= 255, syscall.EINVAL, func() { g.mc.ttl = uint8(ttl) })
}

// SetMulticastLoopback says whether the host's own sockets hear what the socket
// sends to a group that they have joined: they do by default.
func (g *dgram) SetMulticastLoopback(on bool) error {
	return g.configure(true, 0, func() { g.mc.loop = on })
}

// SetTTL sets the time to live of what the socket sends to hosts; -1 is the default, as on Linux: 64, or
// what IPv6 routers have said (RFC 4861 6.3.4). EINVAL says that it is neither that nor from 1 to 255.
func (g *dgram) SetTTL(ttl int) error {
	return g.configure(ttl == -1 || ttl >= 1 && ttl <= 255, syscall.EINVAL, func() {
		g.ttl = uint8(max(ttl, 0))
		g.path = path{} // which has it
	})
}

// SetTOS sets the type of service of what the socket sends, of which only the lowest
// eight bits count.
func (g *dgram) SetTOS(tos int) error {
	return g.configure(true, 0, func() { g.tos = uint8(tos) })
}

// DatagramSettings are what a datagram socket has been told, or does by default.
type DatagramSettings struct {
	TTL, TOS          uint8
	MulticastTTL      uint8
	MulticastNIC      int // index of the interface for groups; 0: by the routes
	MulticastLoopback bool
}

// Settings returns what the setters have set; net.ErrClosed once the socket is closed.
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

// configure calls set if the socket is open and the value is good; bad is the error if
// it is not.
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

// header sets in h the IP header of a datagram on g.path. It is not returned: a copy made right after
// its bytes were stored would wait for them. The lock is held.
//
// RFC 1112 6.1: "If the upper-layer protocol chooses not to specify a
// time-to-live, it should default to 1 for all multicast IP datagrams".
func (g *dgram) header(h *ipHeader, proto wire.Proto, o *SendOptions) {
	p := &g.path
	h.proto, h.ttl, h.tos, h.df = proto, p.hops, g.tos, o.DontFragment
	if o.TOS != 0 || o.SetTOS {
		h.tos = o.TOS
	}
	if p.group {
		toGroup := p.dst.IsMulticast()
		if toGroup {
			h.ttl = g.mc.ttl
		}
		// RFC 1112 6.1 and 7.1: a member of a group hears itself too, on the interface
		// where it is one, unless the sender has ruled that out. A broadcast always
		// comes back, as on Linux.
		h.loop = !p.ifc.loopback && (!toGroup || g.mc.loop && p.loops())
	}
	if o.TTL != 0 {
		h.ttl = o.TTL
	}
}

// over is the index of the interface that a datagram is to leave by; 0: by the routes.
func (g *dgram) over(dst netip.Addr, o *SendOptions) int {
	switch {
	case o.NIC != 0:
		return o.NIC
	case dst.IsMulticast() && g.mc.index != 0:
		return g.mc.index
	}
	return g.zone
}

// loops reports whether the host itself hears what it sends to the group that the path leads to.
func (p *path) loops() bool {
	_, ok := p.ifc.group.wants(p.dst, p.src)
	return ok
}
