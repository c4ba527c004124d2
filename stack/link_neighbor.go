package stack

import (
	"cmp"
	"container/list"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

const (
	maxNeighbors = 1024 // per interface and family, static ones not counted
	maxRequests  = 3    // sent before a neighbour is given up; RFC 4861 10, MAX_MULTICAST_SOLICIT

	// RFC 1122 2.3.2.1: "The recommended maximum rate is 1 per second per
	// destination."
	requestInterval = tcp.Time(time.Second)
	// RFC 4861 10, REACHABLE_TIME and DELAY_FIRST_PROBE_TIME.
	reachableTime   = tcp.Time(30 * time.Second)
	delayFirstProbe = tcp.Time(5 * time.Second)
)

// The states of a neighbour, by the names of RFC 4861 7.3.2. A reachable entry that has
// not been confirmed for long is stale, too.
type neighborState uint8

const (
	neighUnknown    neighborState = iota // nothing asked, or there was no answer
	neighIncomplete                      // asked for by broadcast; packets are parked
	neighReachable
	neighStale     // its address is known, but not whether what is sent there arrives
	neighDelay     // stale and used: an upper layer may confirm it before it is asked
	neighProbe     // asked; still good to send to
	neighPermanent // configured
	neighGone      // it has left the table: paths to it are void
)

func (st neighborState) String() string {
	switch st {
	case neighIncomplete:
		return "incomplete"
	case neighReachable:
		return "reachable"
	case neighDelay:
		return "delay"
	case neighProbe:
		return "probe"
	case neighPermanent:
		return "permanent"
	case neighStale:
		return "stale"
	}
	return "failed"
}

// A neighbor is a host or router on a link. Paths point to it, so that sending
// to one whose address is known takes no lock.
type neighbor struct {
	addr      netip.Addr
	word      atomic.Uint64 // MAC<<16 | neighRouter | state; changed under the table's lock, except by confirm
	confirmed atomic.Int64  // tcp.Time at which it was last known to be there
	reachable atomic.Int64  // tcp.Time for how long after that it counts as reachable

	// Under the table's lock.
	tries   int      // requests sent in the states incomplete and probe
	retryAt tcp.Time // when to ask again, or give up
	queued  bool     // it is in the table's asking
	polls   int      // since it failed, where it is a router that others stand in for
	waiting neighborQueue
	elem    *list.Element // in one of the table's lists; nil once it left the table, and if permanent
	solved  bool          // place is in the list of the resolved
}

// neighRouter is the flag in the word of a neighbour that is a router: RFC 4861 5.1's IsRouter.
const neighRouter = 1 << 15

func packNeighbor(mac wire.MAC, st neighborState) uint64 {
	var w uint64
	for _, b := range mac {
		w = w<<8 | uint64(b)
	}
	return w<<16 | uint64(st)
}

func unpackNeighbor(w uint64) (mac wire.MAC, st neighborState) {
	st = neighborState(w)
	w >>= 16
	for i := 5; i >= 0; i-- {
		mac[i] = byte(w)
		w >>= 8
	}
	return mac, st
}

// A macWord is a link-layer address in its upper 48 bits. It is a
// neighbour's word as it stands: taking it apart byte by byte would cost each packet more than all
// else that lookup does.
type macWord uint64

// hopOf returns the macWord for an address.
func wordOf(mac wire.MAC) macWord { return macWord(packNeighbor(mac, 0)) }

// put writes the address to the beginning of an Ethernet header.
func (h macWord) put(b []byte) {
	be := binary.BigEndian
	be.PutUint32(b[0:4], uint32(h>>32))
	be.PutUint16(b[4:6], uint16(h>>16))
}

// lookup returns the neighbour's address if packets can go there right away.
func (n *neighbor) lookup(now tcp.Time) (macWord, bool) {
	w := n.word.Load()
	switch neighborState(w) {
	case neighPermanent, neighDelay, neighProbe:
		return macWord(w), true
	case neighReachable:
		return macWord(w), int64(now)-n.confirmed.Load() < n.reachable.Load()
	}
	return 0, false
}

// gone reports whether the neighbour has left the table.
func (n *neighbor) gone() bool { return neighborState(n.word.Load()) == neighGone }

// confirm takes note that the neighbour has received what was sent to it: the other end
// acknowledged something new. A nil neighbour is confirmed without effect.
//
// RFC 4861 7.3.1: "In TCP, for example, receipt of a (new) acknowledgment indicates that
// previously sent data reached the peer"; RFC 1122 2.3.2.1 (4): "Higher-Layer Advice". That
// the neighbour sends something is no sign: it may be forged, and repeated because our
// answers go to an address that it no longer has.
func (n *neighbor) confirm(now tcp.Time) {
	if n == nil {
		return
	}
	w := n.word.Load()
	switch neighborState(w) {
	case neighReachable:
		if now-tcp.Time(n.confirmed.Load()) >= tcp.Time(time.Second) {
			n.confirmed.Store(int64(now))
		}
	case neighStale, neighDelay, neighProbe:
		n.confirmed.Store(int64(now))
		mac, _ := unpackNeighbor(w)
		n.word.CompareAndSwap(w, packNeighbor(mac, neighReachable)|w&neighRouter)
	}
}

// setState changes the state, and keeps what else is known. The table's lock is held.
func (n *neighbor) setState(st neighborState) {
	w := n.word.Load()
	mac, _ := unpackNeighbor(w)
	n.word.Store(packNeighbor(mac, st) | w&neighRouter)
}

// A neighborTable is an interface's ARP cache, or what RFC 4861 5.1 calls the neighbor cache. An
// interface has one for each family, so that a scan of one does not displace the entries of the
// other.
type neighborTable struct {
	ifc *iface
	v6  bool

	mu     mutex[levelNeighbor]
	m      map[netip.Addr]*neighbor // nil until first needed
	static int
	// Of the link, by RFC 4861 6.3.2. A router may set them.
	reachable tcp.Time // for how long an answer is good
	retrans   tcp.Time // between requests
	// Those that may be evicted, the least recently changed or used first, apart by whether the host has
	// learnt their address by asking: so neither a scan over addresses that nobody has, nor
	// requests from ever new ones, displace more than half of the table (RFC 6583 7.1). Those that have only
	// told of themselves go first, so that they displace none that is being asked for.
	unresolved, resolved list.List
	asking               []*neighbor // incomplete, delay, probe or polled, and some that just were
	waiting              int         // bytes that packets take that wait for any neighbour
	alarm                alarm       // for asking
	closed               bool
}

func newNeighborTable(ifc *iface, v6 bool) *neighborTable {
	return &neighborTable{ifc: ifc, v6: v6, reachable: reachableTime, retrans: requestInterval}
}

// retransTime is the time between two requests.
func (t *neighborTable) retransTime() tcp.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.retrans
}

// neighbors returns the table for the neighbours of a's family; nil where the link has none.
func (ifc *iface) neighbors(a netip.Addr) *neighborTable {
	if a.Is4() {
		return ifc.neigh4
	}
	return ifc.neigh6
}

// neighborTables returns the tables that the interface has.
func (ifc *iface) neighborTables() []*neighborTable {
	if ifc.neigh4 == nil {
		return nil
	}
	return []*neighborTable{ifc.neigh4, ifc.neigh6}
}

// get returns the entry for an address, and makes one if there is none.
func (t *neighborTable) get(addr netip.Addr) *neighbor {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.getLocked(addr)
}

func (t *neighborTable) getLocked(addr netip.Addr) *neighbor {
	if n := t.m[addr]; n != nil {
		return n
	}
	if len(t.m)-t.static >= maxNeighbors {
		t.evict()
	}
	n := t.add(addr)
	n.elem = t.unresolved.PushBack(n)
	return n
}

// add makes an entry, which is in none of the lists.
func (t *neighborTable) add(addr netip.Addr) *neighbor {
	n := &neighbor{addr: addr}
	n.reachable.Store(int64(t.reachable))
	if t.m == nil {
		t.m = make(map[netip.Addr]*neighbor)
	}
	t.m[addr] = n
	return n
}

// evict removes the entry that is missed least. A router that is polled stays: it would be
// taken for one that answers. There are no more of them than routes.
func (t *neighborTable) evict() {
	from := &t.resolved
	if from.Len() == 0 || t.unresolved.Len() > maxNeighbors/2 {
		from = &t.unresolved
	}
	victim := from.Front()
	for victim.Value.(*neighbor).polls > 0 && victim.Next() != nil {
		victim = victim.Next()
	}
	t.ifc.s.drop(dropNeighborTable)
	t.remove(victim.Value.(*neighbor))
}

// remove takes an entry out of the table.
func (t *neighborTable) remove(n *neighbor) {
	delete(t.m, n.addr)
	if n.elem != nil {
		t.listOf(n).Remove(n.elem)
		n.elem = nil
	} else {
		t.static--
	}
	n.word.Store(packNeighbor(wire.MAC{}, neighGone))
	n.polls = 0
	t.dropWaiting(n)
	t.ifc.routerAnswers(n.addr)
}

func (t *neighborTable) listOf(n *neighbor) *list.List {
	if n.solved {
		return &t.resolved
	}
	return &t.unresolved
}

// touch moves an entry that is not static behind those changed before it.
func (t *neighborTable) touch(n *neighbor, solved bool) {
	if n.elem == nil {
		return
	}
	t.listOf(n).Remove(n.elem)
	n.solved = solved
	n.elem = t.listOf(n).PushBack(n)
}

// send queues a frame for the neighbour, whose address is not known to be
// fresh, or parks it and asks. The frame's destination is filled in here.
func (t *neighborTable) send(n *neighbor, src netip.Addr, e txEntry) {
	s := t.ifc.s
	now := s.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		s.release(e)
		s.drop(dropLinkDown)
		return
	}
	if t.m[n.addr] != n {
		// The path is older than the entry's eviction.
		n = t.getLocked(n.addr)
	}
	if mac, ok := n.lookup(now); ok {
		mac.put(e.frame.Head)
		t.ifc.enqueue(e)
		return
	}
	mac, st := unpackNeighbor(n.word.Load())
	if st == neighReachable || st == neighStale {
		// RFC 4861 7.3.3: "The first time a node sends a packet to a neighbor whose
		// entry is STALE, the sender changes the state to DELAY and sets a timer to
		// expire in DELAY_FIRST_PROBE_TIME seconds."
		n.setState(neighDelay)
		t.touch(n, n.solved)
		n.retryAt = now + delayFirstProbe
		t.await(n, now)
		copy(e.frame.Head, mac[:])
		t.ifc.enqueue(e)
		return
	}
	t.park(n, src, e)
	if st == neighUnknown {
		n.word.Store(packNeighbor(wire.MAC{}, neighIncomplete))
		t.touch(n, false)
		switch {
		case n.polls > 0: // the next poll may be far off
			n.polls = 0
			fallthrough
		case now >= n.retryAt:
			t.ask(n, src, now)
		default:
			t.await(n, now)
		}
	}
}

// ask sends the first request of a resolution or a probe.
func (t *neighborTable) ask(n *neighbor, src netip.Addr, now tcp.Time) {
	n.tries = 1
	n.retryAt = now + t.retrans
	t.request(n, src)
	t.await(n, now)
}

// request asks for a neighbour: all that may have its address, or the link address that is known.
func (t *neighborTable) request(n *neighbor, src netip.Addr) {
	// RFC 5227 2.1.1 has requests from an address of the link; a packet may have one of another
	// interface. RFC 4861 7.2.2: "If the source address of the packet prompting the solicitation is
	// the same as one of the addresses assigned to the outgoing interface, that address SHOULD be
	// placed in the IP Source Address of the outgoing solicitation."
	switch {
	case t.ifc.owns(src):
	case t.v6:
		src = t.ifc.s.sourceFor6(n.addr, t.ifc)
	default:
		src = t.ifc.sourceFor(n.addr)
	}
	mac, st := unpackNeighbor(n.word.Load())
	switch {
	case t.v6:
		t.ifc.solicit(n.addr, src, mac, st == neighProbe)
	case st == neighProbe:
		t.ifc.sendARP(wire.ARPRequest, mac, src, wire.MAC{}, n.addr)
	default:
		t.ifc.sendARP(wire.ARPRequest, wire.Broadcast(), src, wire.MAC{}, n.addr)
	}
}

// await has the alarm look after an entry.
func (t *neighborTable) await(n *neighbor, now tcp.Time) {
	t.queue(n)
	t.alarm.set(now, n.retryAt, t)
}

// queue has fired look after an entry. Those that have left the table, of which a scan leaves many, are dropped
// before they are more than those that may be in it.
func (t *neighborTable) queue(n *neighbor) {
	if n.queued {
		return
	}
	if len(t.asking) >= 2*(maxNeighbors+t.static) {
		t.asking = slices.DeleteFunc(t.asking, (*neighbor).gone)
	}
	n.queued = true
	t.asking = append(t.asking, n)
}

// fired asks again where there was no answer, and gives up on those that have
// been asked often enough.
func (t *neighborTable) fired() {
	s := t.ifc.s
	now := s.now()
	var failed []*neighbor
	var lost []waitingDatagram
	t.mu.Lock()
	t.alarm.over()
	next := tcp.Time(0)
	t.asking = slices.DeleteFunc(t.asking, func(n *neighbor) bool {
		if now >= n.retryAt {
			switch asked := t.askAgain(n, now); asked {
			case askFailed:
				failed = append(failed, n)
				lost = append(lost, t.takeWaiting(n)...)
				fallthrough
			case askNoMore:
				n.queued = false
				return true
			}
		}
		if next == 0 || n.retryAt < next {
			next = n.retryAt
		}
		return false
	})
	for _, n := range failed {
		if t.v6 {
			s.redirects.forget(t.ifc, n.addr)
		}
		if t.ifc.routerFails(n.addr) {
			t.pollLater(n, now)
			next = min(cmp.Or(next, n.retryAt), n.retryAt)
		}
	}
	t.alarm.set(now, next, t)
	t.mu.Unlock()
	for i := range lost {
		t.lose(&lost[i], dropUnreachableNeighbor)
	}
	s.drain()
}

// What askAgain did.
type askResult uint8

const (
	askWaits  askResult = iota // the neighbour has time until retryAt
	askNoMore                  // there is nothing more to ask
	askFailed                  // it has not answered
)

// askAgain does what there is to do about an entry whose retryAt has come.
func (t *neighborTable) askAgain(n *neighbor, now tcp.Time) askResult {
	w := n.word.Load()
	mac, st := unpackNeighbor(w)
	switch {
	case st == neighDelay:
		// RFC 1122 2.3.2.1 (2): "Unicast Poll -- Actively poll the remote host
		// by periodically sending a point-to-point ARP Request to it".
		if !n.word.CompareAndSwap(w, packNeighbor(mac, neighProbe)|w&neighRouter) {
			return askNoMore // it was confirmed just now
		}
		n.tries = 0
	case st == neighUnknown && n.polls > 0:
		if !t.ifc.routerFails(n.addr) {
			n.polls = 0
			return askNoMore // the routes have changed
		}
		t.request(n, netip.Addr{})
		t.pollLater(n, now)
		return askWaits
	case st != neighIncomplete && st != neighProbe:
		return askNoMore
	case n.tries >= maxRequests:
		if !n.word.CompareAndSwap(w, packNeighbor(wire.MAC{}, neighUnknown)) {
			return askNoMore
		}
		t.touch(n, false)
		n.tries = 0
		if t.v6 {
			t.ifc.s.counts.ndFailed.Add(1)
		} else {
			t.ifc.s.counts.arpFailed.Add(1)
		}
		return askFailed
	}
	n.tries++
	n.retryAt = now + t.retrans
	t.request(n, n.waiting.source())
	return askWaits
}

// A neighborUpdate is what a packet tells of a neighbour.
type neighborUpdate uint8

const (
	updateMAC       neighborUpdate = 1 << iota // its link address
	updateSolicited                            // it answers the host, and so has received something
	updateOverride                             // its link address replaces one that is known
	updateRouter                               // it is a router
	updateHost                                 // it is no router
	updateCreate                               // it is to be known from now on, if it was not
)

// update returns the state of a neighbour after a packet about it. take is whether the link address
// that was told replaces the one that is known, from which it differs or not; ok is false where
// nothing changes.
//
// This is the table of RFC 4861 7.2.5 for advertisements, with what 7.2.3, 6.3.4 and 8.3 say
// of packets that have the address of their sender: those count as told with Override, without
// Solicited. ARP has no such flags. A reply to the host counts as told with both, if the host
// has asked, and all else as told with Override.
//
//	state           link address  S O   link address, state
//	unknown         told          - -   told, STALE, or REACHABLE where S; only with updateCreate
//	INCOMPLETE      told          - -   told, STALE, or REACHABLE where S
//	these           none          - -   nothing
//	REACHABLE       differs       - 0   kept, STALE
//	other           differs       - 0   nothing
//	REACHABLE, ...  differs       - 1   told, STALE, or REACHABLE where S
//	REACHABLE, ...  same or none  1 -   kept, REACHABLE
//	REACHABLE, ...  same or none  0 -   nothing
func (st neighborState) update(how neighborUpdate, differs bool) (next neighborState, take, ok bool) {
	next = neighStale
	if how&updateSolicited != 0 {
		next = neighReachable
	}
	switch st {
	case neighUnknown:
		return next, true, how&updateMAC != 0 && how&updateCreate != 0
	case neighIncomplete:
		return next, true, how&updateMAC != 0
	case neighReachable, neighStale, neighDelay, neighProbe:
		differs = differs && how&updateMAC != 0
		switch {
		case differs && how&updateOverride != 0:
			return next, true, true
		case differs:
			return neighStale, false, st == neighReachable
		}
		return next, false, next == neighReachable
	}
	return st, false, false
}

// learn takes note of what a packet told of a neighbour. mac counts with updateMAC. It reports whether
// the neighbour was a router and is none any more.
func (t *neighborTable) learn(addr netip.Addr, mac wire.MAC, how neighborUpdate) (routerGone bool) {
	now := t.ifc.s.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.m[addr]
	if n == nil {
		if how&updateCreate == 0 || how&updateMAC == 0 || t.closed {
			return false
		}
		n = t.getLocked(addr)
	}
	w := n.word.Load()
	old, st := unpackNeighbor(w)
	if how&updateSolicited != 0 {
		asked := st == neighIncomplete || st == neighProbe || n.polls > 0
		switch {
		case !asked && !t.v6:
			how &^= updateSolicited // ARP does not tell what a reply answers
		case n.polls > 0:
			how |= updateCreate // it has failed, and was asked again
		}
	}
	next, take, ok := st.update(how, old != mac)
	if st == neighPermanent || st == neighUnknown && !ok {
		return false
	}
	router := w & neighRouter
	switch {
	case how&updateRouter != 0:
		router = neighRouter
	case how&updateHost != 0:
		router = 0
	}
	if !take {
		mac = old
	}
	if !ok {
		next = st
	}
	if take || next == neighReachable {
		n.tries, n.polls = 0, 0
		n.reachable.Store(int64(t.reachable))
		n.confirmed.Store(int64(now))
		t.sendWaiting(n, mac)
	}
	n.word.Store(packNeighbor(mac, next) | router)
	if ok {
		t.touch(n, how&updateCreate == 0 || n.solved || st == neighIncomplete)
		if !n.solved && n.elem != nil {
			// Of those that nobody has asked for, the last that came is missed least.
			t.unresolved.MoveToFront(n.elem)
		}
		t.ifc.routerAnswers(addr)
	}
	return router == 0 && w&neighRouter != 0
}

// flush forgets all entries that are not permanent, and drops what waits for them.
// With fail, the senders are told that the link is gone.
func (t *neighborTable) flush(fail bool) {
	var lost []waitingDatagram
	t.mu.Lock()
	for _, n := range t.m {
		if n.elem == nil {
			continue
		}
		if fail {
			lost = append(lost, t.takeWaiting(n)...)
		}
		t.remove(n)
	}
	t.mu.Unlock()
	for i := range lost {
		t.lose(&lost[i], dropLinkDown)
	}
}

// close drops everything and stops the alarm.
func (t *neighborTable) close() {
	t.flush(false)
	t.mu.Lock()
	t.closed = true
	t.alarm.close()
	t.mu.Unlock()
}

// A Neighbor is an entry of an interface's ARP cache or of its IPv6 neighbor cache.
type Neighbor struct {
	NIC  string
	Addr netip.Addr
	MAC  wire.MAC // zero where it is not known
	// State is incomplete, reachable, stale, delay, probe, failed or permanent. It is
	// not looked at where an entry is set, which is always permanent.
	State string
	// Age is how long ago the neighbour was last known to be there.
	Age time.Duration
	// Router tells that an IPv6 neighbour says that it is a router. It is not looked at where
	// an entry is set.
	Router bool
}

// Neighbors returns the entries of all interfaces, by interface and address.
func (s *Stack) Neighbors() []Neighbor {
	var all []Neighbor
	now := s.now()
	for _, ifc := range *s.ifaces.Load() {
		first := len(all)
		for _, t := range ifc.neighborTables() {
			all = t.describe(all, now)
		}
		slices.SortFunc(all[first:], func(a, b Neighbor) int { return a.Addr.Compare(b.Addr) })
	}
	return all
}

// describe appends what Neighbors says of a table.
func (t *neighborTable) describe(all []Neighbor, now tcp.Time) []Neighbor {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, n := range t.m {
		w := n.word.Load()
		mac, st := unpackNeighbor(w)
		age := time.Duration(now - tcp.Time(n.confirmed.Load()))
		if st == neighReachable && int64(age) >= n.reachable.Load() {
			st = neighStale
		}
		if st == neighPermanent || st == neighUnknown || st == neighIncomplete {
			age = 0
		}
		all = append(all, Neighbor{
			NIC: t.ifc.name, Addr: n.addr, MAC: mac, State: st.String(), Age: age, Router: w&neighRouter != 0,
		})
	}
	return all
}

// FlushNeighbors forgets all entries that are not permanent.
func (s *Stack) FlushNeighbors() {
	for _, ifc := range *s.ifaces.Load() {
		ifc.flushNeighbors(false)
	}
}

// flushNeighbors flushes both tables, and forgets redirects to neighbours.
func (ifc *iface) flushNeighbors(fail bool) {
	for _, t := range ifc.neighborTables() {
		t.flush(fail)
	}
	ifc.s.redirects.forget(ifc, netip.Addr{})
}

// SetNeighbor sets a permanent entry. A zero MAC removes the entry instead.
func (s *Stack) SetNeighbor(n Neighbor) error {
	if s.closed.Load() {
		return net.ErrClosed
	}
	if err := s.setNeighbor(n); err != nil {
		return fmt.Errorf("stack: SetNeighbor: %w", err)
	}
	s.drain()
	return nil
}

func (s *Stack) setNeighbor(n Neighbor) error {
	ifc := s.ifaceNamed(n.NIC)
	n.Addr = n.Addr.WithZone("") // the interface is named
	switch {
	case ifc == nil:
		return fmt.Errorf("no interface %q: %w", n.NIC, syscall.ENODEV)
	case ifc.linkLen == 0:
		return fmt.Errorf("%s has no neighbours: it carries no Ethernet: %w", n.NIC, syscall.EINVAL)
	case !isUnicast(n.Addr) || n.Addr.Is4In6() || n.Addr.IsLoopback():
		return fmt.Errorf("%v is not the address of one host: %w", n.Addr, syscall.EINVAL)
	case ifc.owns(n.Addr):
		return fmt.Errorf("%v is the host itself: %w", n.Addr, syscall.EINVAL)
	case n.MAC.IsMulticast():
		return fmt.Errorf("%v is a group address: %w", n.MAC, syscall.EINVAL)
	}
	ifc.neighbors(n.Addr).set(n.Addr, n.MAC)
	return nil
}

// set makes an entry permanent, or removes it if the MAC is zero.
func (t *neighborTable) set(addr netip.Addr, mac wire.MAC) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if mac == (wire.MAC{}) {
		if n := t.m[addr]; n != nil {
			t.remove(n)
		}
		return
	}
	n := t.m[addr]
	if n == nil {
		n = t.add(addr)
		t.static++
	} else if n.elem != nil {
		t.listOf(n).Remove(n.elem)
		n.elem = nil
		t.static++
	}
	t.sendWaiting(n, mac)
	n.polls = 0
	n.word.Store(packNeighbor(mac, neighPermanent))
	t.ifc.routerAnswers(addr)
}
