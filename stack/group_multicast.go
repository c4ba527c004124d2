package stack

import (
	"cmp"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// A groupTable counts how often each multicast group was joined on an interface.
// It is changed under the lock of the stack's groupEngine. Its own lock is the last of all.
type groupTable struct {
	n  atomic.Int32 // groups in joined, read without mu
	mu sync.RWMutex
	// A change costs as much with thousands of groups as with one.
	joined map[netip.Addr]int
}

// allHosts is the group to which every multicast host belongs.
// RFC 1112 4: "224.0.0.1 is assigned to the permanent group of all IP hosts".
func allHosts() netip.Addr { return netip.AddrFrom4([4]byte{224, 0, 0, 1}) }

// has reports whether packets to a multicast address are for us.
func (g *groupTable) has(a netip.Addr) bool {
	if a == allHosts() {
		return true
	}
	if g.n.Load() == 0 {
		return false
	}
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.joined[a] > 0
}

// list returns the groups in order.
func (g *groupTable) list() []netip.Addr {
	groups := []netip.Addr{allHosts()}
	g.mu.RLock()
	groups = slices.AppendSeq(groups, maps.Keys(g.joined))
	g.mu.RUnlock()
	slices.SortFunc(groups, netip.Addr.Compare)
	return slices.Compact(groups)
}

// add changes the count of a group by n, and returns what it was and is.
func (g *groupTable) add(a netip.Addr, n int) (before, after int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	before = g.joined[a]
	if after = max(before+n, 0); after == 0 {
		delete(g.joined, a)
	} else {
		if g.joined == nil {
			g.joined = make(map[netip.Addr]int)
		}
		g.joined[a] = after
	}
	g.n.Store(int32(len(g.joined)))
	return before, after
}

// A membership is a multicast group joined on an interface.
type membership struct {
	ifc   *iface
	group netip.Addr
}

// compare orders memberships by interface and group, so that equal states say equal things.
func (m membership) compare(o membership) int {
	return cmp.Or(cmp.Compare(m.ifc.index, o.ifc.index), m.group.Compare(o.group))
}

// A multicast is what a datagram socket has been told about groups. It belongs to
// the socket's lock.
type multicast struct {
	joins map[netip.Addr][]*iface // the interfaces on which each group was joined, in order
	index int                     // of the interface over which groups are reached; 0: by the routes
	ttl   uint8                   // of datagrams to groups
	loop  bool                    // the host's own sockets hear them too
}

// Join has the interface of an index, or with 0 the one on the route to the group,
// accept what is sent to a multicast group. The errors are those of Linux: EINVAL for
// what is no group, ENODEV without such an interface or route, and EADDRINUSE for a group
// that the socket has joined there already.
func (g *dgram) Join(group netip.Addr, index int) error {
	if _, err := g.Settings(); err != nil {
		return err
	}
	group = group.Unmap()
	if !group.Is4() || !group.IsMulticast() {
		return syscall.EINVAL
	}
	m := membership{ifc: g.s.ifaceAt(index), group: group}
	if index == 0 {
		if p, err := g.s.route(group, netip.Addr{}); err == nil {
			m.ifc = p.ifc
		}
	}
	if m.ifc == nil {
		return syscall.ENODEV
	}
	if err := g.join(m); err != nil {
		return err
	}
	g.s.drain()
	return nil
}

func (g *dgram) join(m membership) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return net.ErrClosed
	}
	if slices.Contains(g.mc.joins[m.group], m.ifc) {
		return syscall.EADDRINUSE
	}
	if g.mc.joins == nil {
		g.mc.joins = make(map[netip.Addr][]*iface)
	}
	g.mc.joins[m.group] = append(g.mc.joins[m.group], m.ifc)
	g.s.groups.change(1, m)
	return nil
}

// Leave undoes a Join on the interface of an index, or with 0 the first that there was
// of the group. EADDRNOTAVAIL says that there was none.
func (g *dgram) Leave(group netip.Addr, index int) error {
	group = group.Unmap()
	if err := g.leave(group, index); err != nil {
		return err
	}
	g.s.drain()
	return nil
}

func (g *dgram) leave(group netip.Addr, index int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.closed:
		return net.ErrClosed
	case !group.Is4() || !group.IsMulticast():
		return syscall.EINVAL
	}
	ifcs := g.mc.joins[group]
	i := slices.IndexFunc(ifcs, func(ifc *iface) bool { return index == 0 || ifc.index == index })
	if i < 0 {
		return syscall.EADDRNOTAVAIL
	}
	m := membership{ifcs[i], group}
	if ifcs = slices.Delete(ifcs, i, i+1); len(ifcs) == 0 {
		delete(g.mc.joins, group)
	} else {
		g.mc.joins[group] = ifcs
	}
	g.s.groups.change(-1, m)
	return nil
}

// leaveBatch is how many groups are left at once: as many as two reports of version 3 name on an
// Ethernet, and fewer than a transmit queue has room for, because version 2 names one in each.
const leaveBatch = 366

// leaveAll leaves the groups of a socket that has been closed, and tells the routers so in
// as few messages as it takes. No lock is held.
func (g *dgram) leaveAll() {
	g.mu.Lock()
	var all []membership
	for group, ifcs := range g.mc.joins {
		for _, ifc := range ifcs {
			all = append(all, membership{ifc, group})
		}
	}
	g.mc.joins = nil
	g.mu.Unlock()
	slices.SortFunc(all, membership.compare)
	for some := range slices.Chunk(all, leaveBatch) {
		g.s.groups.change(-1, some...)
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

// SetTTL sets the time to live of what the socket sends to hosts; -1 is the default, 64,
// as on Linux. EINVAL says that it is neither that nor from 1 to 255.
func (g *dgram) SetTTL(ttl int) error {
	if ttl == -1 {
		ttl = defaultTTL
	}
	return g.configure(ttl >= 1 && ttl <= 255, syscall.EINVAL, func() { g.ttl = uint8(ttl) })
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
		TTL: g.ttl, TOS: g.tos,
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

// header is the IP header of a datagram on g.path. The lock is held.
//
// RFC 1112 6.1: "If the upper-layer protocol chooses not to specify a
// time-to-live, it should default to 1 for all multicast IP datagrams".
func (g *dgram) header(proto wire.Proto, o *SendOptions) ipHeader {
	p := &g.path
	h := ipHeader{proto: proto, ttl: g.ttl, tos: g.tos, df: o.DontFragment}
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
		h.loop = !p.ifc.loopback && (!toGroup || g.mc.loop && p.ifc.group.has(p.dst))
	}
	if o.TTL != 0 {
		h.ttl = o.TTL
	}
	return h
}

// over is the index of the interface that a datagram is to leave by; 0: by the routes.
func (g *dgram) over(dst netip.Addr, o *SendOptions) int {
	if o.NIC == 0 && dst.IsMulticast() {
		return g.mc.index
	}
	return o.NIC
}

// A loopQueue holds copies of datagrams to groups that the host itself is to hear, until
// the sender has released its locks. One goroutine at a time delivers them, so
// that they come in the order in which they were sent.
type loopQueue struct {
	n     atomic.Int32 // waiting, to be read without mu
	bytes atomic.Int64 // of their buffers, likewise

	mu         sync.Mutex
	waiting    []looped
	delivering bool
}

// A looped is a datagram that was sent on an interface, in a buffer of the pool.
type looped struct {
	ifc        *iface
	buf        []byte
	csumOffset int // of a checksum that is not complete; 0: none
}

// maxLooped is how many bytes of buffers may wait: who sends, delivers, so that more
// gather only from those that send while another delivers, or that hold many ready.
const maxLooped = 4 << 20

// put queues a copy of a datagram that was sent on an interface, unless there are too many.
func (q *loopQueue) put(s *Stack, ifc *iface, datagram []byte, meta *frameMeta) {
	if q.bytes.Load() >= maxLooped {
		s.drop(dropLoopQueue)
		return
	}
	buf := s.bufs.get(len(datagram))
	copy(buf, datagram)
	l := looped{ifc: ifc, buf: buf}
	if meta.checksum {
		l.csumOffset = meta.csumOffset
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(q.waiting, l)
	q.n.Add(1)
	q.bytes.Add(int64(cap(l.buf)))
}

// drain delivers what waits, unless another goroutine is at it. No lock is held.
func (q *loopQueue) drain(s *Stack) {
	q.mu.Lock()
	busy := q.delivering
	q.delivering = true
	q.mu.Unlock()
	if !busy {
		q.drainOn(s)
	}
}

// drainOn delivers until nothing waits; the caller has set delivering. As with a
// device's queue, a long turn is handed on.
func (q *loopQueue) drainOn(s *Stack) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for turn := 0; len(q.waiting) > 0; turn++ {
		if turn == txTurn {
			go q.drainOn(s)
			return
		}
		batch := q.waiting
		q.waiting = nil
		q.mu.Unlock()
		for i := range batch {
			s.inputLooped(&batch[i])
			q.bytes.Add(-int64(cap(batch[i].buf)))
			q.n.Add(-1)
			s.bufs.put(batch[i].buf)
		}
		q.mu.Lock()
	}
	q.delivering = false
}

// inputLooped gives the host what it has sent to a group itself.
func (s *Stack) inputLooped(l *looped) {
	if s.closed.Load() {
		return
	}
	h, payload, r := wire.ParseIPv4(l.buf)
	if r != wire.OK {
		s.drop(r)
		return
	}
	s.counts.ipReceived.Add(1)
	p := packet{
		ifc:        l.ifc,
		src:        h.Src,
		dst:        h.Dst,
		proto:      h.Proto,
		ttl:        h.TTL,
		tos:        h.TOS,
		header:     l.buf[:h.HeaderLen()],
		payload:    payload,
		checksumOK: true,
		csumOffset: l.csumOffset,
		gso:        nic.GSONone,
		broadcast:  true,
	}
	if h.IsFragment() {
		s.counts.ipStopped.Add(1)
		s.frags.input(&p, &h)
		return
	}
	s.deliver(&p)
}
