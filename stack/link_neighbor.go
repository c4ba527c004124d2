package stack

import (
	"cmp"
	"container/list"
	"encoding/binary"
	"fmt"
	"maps"
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
	maxNeighbors = 1024 // per interface and family, not counting permanent entries
	maxRequests  = 3    // unanswered requests after which a neighbour fails; RFC 4861 10, MAX_MULTICAST_SOLICIT

	// RFC 1122 2.3.2.1: "The recommended maximum rate is 1 per second per
	// destination."
	requestInterval = tcp.Time(time.Second)
	// RFC 4861 10, REACHABLE_TIME and DELAY_FIRST_PROBE_TIME.
	reachableTime   = tcp.Time(30 * time.Second)
	delayFirstProbe = tcp.Time(5 * time.Second)
)

// A NeighborState is the state of a neighbour. The names are those of RFC 4861 7.3.2. A reachable neighbour is
// reported as stale once its reachable time has passed.
type NeighborState uint8

const (
	NeighborFailed     NeighborState = iota // no request was sent yet, or the last requests got no answer
	NeighborIncomplete                      // requested by broadcast or multicast; packets wait
	NeighborReachable
	NeighborStale     // the link address is known, but the neighbour may no longer be reachable
	NeighborDelay     // stale and in use: waits for a confirmation by an upper layer
	NeighborProbe     // unicast requests are sent; packets still use the address
	NeighborPermanent // configured by SetNeighbor
	neighGone         // removed from the table: paths that point to it are invalid
)

// String returns the name of the state in lower case, for example "reachable".
func (st NeighborState) String() string {
	switch st {
	case NeighborIncomplete:
		return "incomplete"
	case NeighborReachable:
		return "reachable"
	case NeighborDelay:
		return "delay"
	case NeighborProbe:
		return "probe"
	case NeighborPermanent:
		return "permanent"
	case NeighborStale:
		return "stale"
	}
	return "failed"
}

// A neighbor is an entry for a host or router on a link. A path points to the neighbor of its next hop, so
// that sending to a neighbour whose link address is known takes no lock.
type neighbor struct {
	addr      netip.Addr
	word      atomic.Uint64 // MAC<<16 | neighRouter | state; changed under the table's lock, except by confirm
	confirmed atomic.Int64  // tcp.Time of the last proof of reachability
	reachable atomic.Int64  // how long after confirmed the proof is valid, a tcp.Time

	// Under the table's lock.
	tries   int      // requests sent in state incomplete or probe
	retryAt tcp.Time // when to send the next request, or give up
	queued  bool     // the entry is in the table's asking
	polls   int      // polls scheduled since the entry failed; 0: not polled; see pollLater
	waiting neighborQueue
	elem    *list.Element // in one of the table's lists; nil after removal, and if permanent
	solved  bool          // elem is in the table's list resolved, else in unresolved
}

// neighRouter is the flag in the word of a neighbour that is a router: RFC 4861 5.1's IsRouter.
const neighRouter = 1 << 15

func packNeighbor(mac wire.MAC, st NeighborState) uint64 {
	var w uint64
	for _, b := range mac {
		w = w<<8 | uint64(b)
	}
	return w<<16 | uint64(st)
}

func unpackNeighbor(w uint64) (mac wire.MAC, st NeighborState) {
	st = NeighborState(w)
	w >>= 16
	for i := 5; i >= 0; i-- {
		mac[i] = byte(w)
		w >>= 8
	}
	return mac, st
}

// A macWord has a link-layer address in its upper 48 bits. It is a copy of neighbor.word, whose lower
// bits put ignores. Unpacking the address byte by byte would cost each packet more than the rest of
// lookup.
type macWord uint64

// wordOf returns the macWord of an address.
func wordOf(mac wire.MAC) macWord { return macWord(packNeighbor(mac, 0)) }

// put writes the address to the beginning of an Ethernet header.
func (h macWord) put(b []byte) {
	be := binary.BigEndian
	be.PutUint32(b[0:4], uint32(h>>32))
	be.PutUint16(b[4:6], uint16(h>>16))
}

// lookup returns the neighbour's link address. It reports whether packets may be sent to that address at
// once; if not, the caller must call neighborTable.send.
func (n *neighbor) lookup(now tcp.Time) (macWord, bool) {
	w := n.word.Load()
	switch NeighborState(w) {
	case NeighborPermanent, NeighborDelay, NeighborProbe:
		return macWord(w), true
	case NeighborReachable:
		return macWord(w), int64(now)-n.confirmed.Load() < n.reachable.Load()
	}
	return 0, false
}

// gone reports whether the neighbour has left the table.
func (n *neighbor) gone() bool { return NeighborState(n.word.Load()) == neighGone }

// confirm marks the neighbour as reachable, because the other end has acknowledged new data. It does
// nothing for a nil neighbour.
//
// RFC 4861 7.3.1: "In TCP, for example, receipt of a (new) acknowledgment indicates that previously
// sent data reached the peer"; RFC 1122 2.3.2.1 (4): "Higher-Layer Advice". A packet from the neighbour
// proves nothing: it may be forged, or be a retransmission because our packets go to an address that
// the neighbour no longer has.
func (n *neighbor) confirm(now tcp.Time) {
	if n == nil {
		return
	}
	w := n.word.Load()
	switch NeighborState(w) {
	case NeighborReachable:
		// Storing once per second is exact enough, and avoids a write for each ACK.
		if now-tcp.Time(n.confirmed.Load()) >= tcp.Time(time.Second) {
			n.confirmed.Store(int64(now))
		}
	case NeighborStale, NeighborDelay, NeighborProbe:
		n.confirmed.Store(int64(now))
		mac, _ := unpackNeighbor(w)
		n.word.CompareAndSwap(w, packNeighbor(mac, NeighborReachable)|w&neighRouter)
	}
}

// setState changes the state and keeps the rest of the word. The table's lock is held.
func (n *neighbor) setState(st NeighborState) {
	w := n.word.Load()
	mac, _ := unpackNeighbor(w)
	n.word.Store(packNeighbor(mac, st) | w&neighRouter)
}

// A neighborTable is an interface's ARP cache, or its neighbor cache (RFC 4861 5.1). An interface has
// one table for each family, so that a scan of one family does not evict entries of the other.
type neighborTable struct {
	ifc *iface
	v6  bool

	mu mutex[levelNeighbor]
	m  map[netip.Addr]*neighbor // nil until first needed
	// static counts the permanent entries.
	static int
	// ReachableTime and RetransTimer of RFC 4861 6.3.2. A Router Advertisement may set them.
	reachable tcp.Time // for how long a confirmation is valid
	retrans   tcp.Time // time between two requests
	// unresolved and resolved are the lists of entries that may be evicted, the least recently used or
	// changed first. resolved has the entries whose link address the host has resolved itself, and
	// unresolved has all others. A scan of unused addresses fills only unresolved, and so do requests from
	// many addresses. New entries evict entries of resolved only until half of the table is unresolved
	// (RFC 6583 7.1). Entries that only received packets have created are at the front of unresolved, so
	// they are evicted before the entries that the host is resolving.
	unresolved, resolved list.List
	asking               []*neighbor // in state incomplete, delay or probe, or polled; fired removes all others
	waiting              int         // total bytes of the packets that wait for neighbours
	alarm                alarm       // for the earliest retryAt of asking
	closed               bool
}

func newNeighborTable(ifc *iface, v6 bool) *neighborTable {
	return &neighborTable{ifc: ifc, v6: v6, reachable: reachableTime, retrans: requestInterval}
}

// retransTime returns the interval between Neighbor Solicitations (RetransTimer).
func (ifc *iface) retransTime() tcp.Time {
	t := ifc.neigh6.Load()
	if t == nil {
		return requestInterval
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.retrans
}

// neighbors returns the table for the family of a. It returns nil if the link has no neighbours.
func (ifc *iface) neighbors(a netip.Addr) *neighborTable {
	if a.Is4() || ifc.linkLen == 0 {
		return ifc.neigh4 // nil if linkLen is 0
	}
	return ifc.nd()
}

// nd returns the IPv6 neighbor cache of an Ethernet interface, allocating it on first use: many hosts do
// not use IPv6, except for having a link-local address.
func (ifc *iface) nd() *neighborTable {
	if t := ifc.neigh6.Load(); t != nil {
		return t
	}
	ifc.neigh6.CompareAndSwap(nil, newNeighborTable(ifc, true))
	return ifc.neigh6.Load()
}

// neighborTables returns the interface's tables; none if the link has no neighbours.
func (ifc *iface) neighborTables() (ts []*neighborTable) {
	for _, t := range []*neighborTable{ifc.neigh4, ifc.neigh6.Load()} {
		if t != nil {
			ts = append(ts, t)
		}
	}
	return ts
}

// get returns the entry for an address, creating it if necessary.
func (t *neighborTable) get(addr netip.Addr) *neighbor {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.getLocked(addr)
}

// getLocked implements get. t.mu is held.
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

// add adds an entry to the table, but to neither list. t.mu is held.
func (t *neighborTable) add(addr netip.Addr) *neighbor {
	n := &neighbor{addr: addr}
	n.reachable.Store(int64(t.reachable))
	if t.m == nil {
		t.m = make(map[netip.Addr]*neighbor)
	}
	t.m[addr] = n
	return n
}

// evict removes the first entry of a list. The list is unresolved if it has more than maxNeighbors/2
// entries or if resolved is empty, else resolved. evict skips dead routers, because without their
// entries the table would forget that these routers do not answer. Dead routers are few: each is the
// next hop of a route. If the list contains only dead routers, evict removes the last one.
func (t *neighborTable) evict() {
	from := &t.resolved
	if from.Len() == 0 || t.unresolved.Len() > maxNeighbors/2 {
		from = &t.unresolved
	}
	victim := from.Front()
	for t.ifc.routerDead(victim.Value.(*neighbor).addr) && victim.Next() != nil {
		victim = victim.Next()
	}
	t.ifc.s.dropFlow(dropNeighborTable, netip.AddrPort{}, netip.AddrPortFrom(victim.Value.(*neighbor).addr, 0))
	t.remove(victim.Value.(*neighbor))
}

// remove removes an entry from the table and drops the packets that wait for it. t.mu is held.
func (t *neighborTable) remove(n *neighbor) {
	delete(t.m, n.addr)
	if n.elem != nil {
		t.listOf(n).Remove(n.elem)
		n.elem = nil
	} else {
		t.static-- // a permanent entry is in no list
	}
	n.word.Store(packNeighbor(wire.MAC{}, neighGone))
	n.polls = 0
	t.dropWaiting(n)
	t.ifc.routerAnswers(n.addr)
}

// listOf returns the list that contains n, which must not be permanent.
func (t *neighborTable) listOf(n *neighbor) *list.List {
	if n.solved {
		return &t.resolved
	}
	return &t.unresolved
}

// touch moves an entry to the end of resolved if solved is set, else to the end of unresolved. It does
// nothing for a permanent entry, which is in neither list. t.mu is held.
func (t *neighborTable) touch(n *neighbor, solved bool) {
	if n.elem == nil {
		return
	}
	t.listOf(n).Remove(n.elem)
	n.solved = solved
	n.elem = t.listOf(n).PushBack(n)
}

// send sends a frame to a neighbour for which lookup has returned false. If the neighbour's link address
// is known, even if it is stale, send queues the frame for transmission. Otherwise the frame waits until
// the neighbour answers. The frame's destination address is filled in when it is queued in q. src is the
// source address of the packet.
func (t *neighborTable) send(n *neighbor, src netip.Addr, q *txQueue, e *txEntry) {
	s := t.ifc.s
	now := s.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		s.dropFrame(dropLinkDown, t.ifc, &e.frame, true)
		s.release(e)
		return
	}
	if t.m[n.addr] != n {
		// The entry was removed after the path was made.
		n = t.getLocked(n.addr)
	}
	if mac, ok := n.lookup(now); ok {
		mac.put(e.frame.Head)
		q.enqueue(e)
		return
	}
	mac, st := unpackNeighbor(n.word.Load())
	if st == NeighborReachable || st == NeighborStale {
		// RFC 4861 7.3.3: "The first time a node sends a packet to a neighbor whose
		// entry is STALE, the sender changes the state to DELAY and sets a timer to
		// expire in DELAY_FIRST_PROBE_TIME seconds."
		n.setState(NeighborDelay)
		t.touch(n, n.solved)
		n.retryAt = now + delayFirstProbe
		t.await(n, now)
		copy(e.frame.Head, mac[:])
		q.enqueue(e)
		return
	}
	t.park(n, src, q, *e)
	if st == NeighborFailed {
		n.word.Store(packNeighbor(wire.MAC{}, NeighborIncomplete))
		t.touch(n, false)
		switch {
		case n.polls > 0: // retryAt is the time of the next poll, which may be far off: ask now
			n.polls = 0
			fallthrough
		case now >= n.retryAt:
			t.ask(n, src, now)
		default: // it is too early for the next request: fired sends it at retryAt
			t.await(n, now)
		}
	}
}

// ask sends the first request of a resolution, or the first probe. t.mu is held.
func (t *neighborTable) ask(n *neighbor, src netip.Addr, now tcp.Time) {
	n.tries = 1
	n.retryAt = now + t.retrans
	t.request(n, src)
	t.await(n, now)
}

// request sends an ARP request or a Neighbor Solicitation for a neighbour: to its known link address in
// state probe, else by broadcast or multicast. src is the source address of the packet that prompted the
// request; it may be invalid.
func (t *neighborTable) request(n *neighbor, src netip.Addr) {
	// RFC 5227 2.1.1 requires a sender address of this link, but the packet's source may be an address of
	// another interface. RFC 4861 7.2.2: "If the source address of the packet prompting the solicitation is
	// the same as one of the addresses assigned to the outgoing interface, that address SHOULD be
	// placed in the IP Source Address of the outgoing solicitation."
	//
	// RFC 4429 3.2 forbids the link address in a solicitation from an optimistic address, and Linux does
	// not answer a solicitation without a link address. So src is replaced by an address that is not
	// optimistic, if there is one.
	switch {
	case t.v6 && t.ifc.isOptimistic(src):
		if a := t.ifc.settled6(); a.IsValid() {
			src = a
		}
	case t.ifc.owns(src): // keep src
	case t.v6:
		src = t.ifc.s.sourceFor6(n.addr, n.addr, t.ifc)
	default:
		src = t.ifc.sourceFor(n.addr)
	}
	mac, st := unpackNeighbor(n.word.Load())
	switch {
	case t.v6:
		t.ifc.solicit(n.addr, src, mac, st == NeighborProbe)
	case st == NeighborProbe:
		t.ifc.sendARP(wire.ARPRequest, mac, src, wire.MAC{}, n.addr)
	default:
		t.ifc.sendARP(wire.ARPRequest, wire.Broadcast(), src, wire.MAC{}, n.addr)
	}
}

// await adds an entry to t.asking and sets the alarm for its retryAt.
func (t *neighborTable) await(n *neighbor, now tcp.Time) {
	t.queue(n)
	t.alarm.set(now, n.retryAt, t)
}

// queue adds an entry to t.asking, unless the entry is in it already. If the slice is twice as long as
// the table can be, queue first drops the entries that were removed from the table. A scan leaves many
// such entries.
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

// fired repeats the unanswered requests. An entry fails after maxRequests of them. The alarm calls fired.
func (t *neighborTable) fired() {
	s := t.ifc.s
	now := s.now()
	var failed []*neighbor
	var lost [][]waitingDatagram // of the neighbours in failed
	t.mu.Lock()
	t.alarm.over()
	next := tcp.Time(0)
	t.asking = slices.DeleteFunc(t.asking, func(n *neighbor) bool {
		if now >= n.retryAt {
			switch asked := t.askAgain(n, now); asked {
			case askFailed:
				failed = append(failed, n)
				lost = append(lost, t.takeWaiting(n))
				fallthrough
			case askNoMore:
				switch NeighborState(n.word.Load()) {
				case NeighborReachable, NeighborStale, NeighborPermanent:
					t.ifc.routerAnswers(n.addr) // confirm or learn may have ended the probes
				}
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
	for i, list := range lost {
		for j := range list {
			t.resendOrDrop(&list[j], failed[i].addr, dropUnreachableNeighbor)
		}
	}
	s.drain()
}

// An askResult says what askAgain did.
type askResult uint8

const (
	askWaits  askResult = iota // sent a request; the entry stays in t.asking and has a new retryAt
	askNoMore                  // nothing: the entry needs no more requests
	askFailed                  // gave up, because the neighbour has not answered
)

// askAgain handles an entry whose retryAt has come: it sends the next request or poll, or gives up.
func (t *neighborTable) askAgain(n *neighbor, now tcp.Time) askResult {
	w := n.word.Load()
	mac, st := unpackNeighbor(w)
	switch {
	case st == NeighborDelay:
		// RFC 1122 2.3.2.1 (2): "Unicast Poll -- Actively poll the remote host
		// by periodically sending a point-to-point ARP Request to it".
		if !n.word.CompareAndSwap(w, packNeighbor(mac, NeighborProbe)|w&neighRouter) {
			return askNoMore // confirm has changed the state in between
		}
		n.tries = 0
	case st == NeighborFailed && n.polls > 0:
		if !t.ifc.routerFails(n.addr) {
			n.polls = 0
			return askNoMore // the routes have changed
		}
		t.request(n, netip.Addr{})
		t.pollLater(n, now)
		return askWaits
	case st != NeighborIncomplete && st != NeighborProbe:
		return askNoMore
	case n.tries >= maxRequests:
		if !n.word.CompareAndSwap(w, packNeighbor(wire.MAC{}, NeighborFailed)) {
			return askNoMore // confirm has changed the state in between
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

// A neighborUpdate says what a received packet contains about a neighbour.
type neighborUpdate uint8

const (
	updateMAC       neighborUpdate = 1 << iota // the packet contains the neighbour's link address
	updateSolicited                            // it answers a request: the neighbour is reachable
	updateOverride                             // its link address may replace a different one
	updateRouter                               // the neighbour is a router
	updateHost                                 // the neighbour is a host, not a router
	updateCreate                               // an entry may be created for the neighbour
)

// update returns the state of a neighbour after a packet about it. differs says that the packet's link
// address is not the stored one. take reports whether the packet's link address replaces the stored one.
// If ok is false, nothing changes: next is st, and take is false.
//
// The table follows RFC 4861 7.2.5, which is about advertisements with the flags Solicited (S) and
// Override (O). Other messages with the link address of their sender (7.2.3, 6.3.4 and 8.3) count as
// advertisements with Override only. ARP packets have no flags. An ARP reply counts as an advertisement
// with both flags if this host has sent a request. All other ARP packets count as advertisements with
// Override only. "Given" is the packet's link address. "Known" stands for the states REACHABLE, STALE,
// DELAY and PROBE.
//
//	state           link address  S O   link address, state
//	unknown         given         - -   given, STALE, or REACHABLE if S; only with updateCreate
//	INCOMPLETE      given         - -   given, STALE, or REACHABLE if S
//	the above       none          - -   nothing
//	REACHABLE       differs       - 0   kept, STALE
//	other known     differs       - 0   nothing
//	known           differs       - 1   given, STALE, or REACHABLE if S
//	known           same or none  1 -   kept, REACHABLE
//	known           same or none  0 -   nothing
func (st NeighborState) update(how neighborUpdate, differs bool) (next NeighborState, take, ok bool) {
	next = NeighborStale
	if how&updateSolicited != 0 {
		next = NeighborReachable
	}
	switch st {
	case NeighborFailed:
		if how&updateMAC != 0 && how&updateCreate != 0 {
			return next, true, true
		}
	case NeighborIncomplete:
		if how&updateMAC != 0 {
			return next, true, true
		}
	case NeighborReachable, NeighborStale, NeighborDelay, NeighborProbe:
		differs = differs && how&updateMAC != 0
		switch {
		case differs && how&updateOverride != 0:
			return next, true, true
		case differs && st == NeighborReachable:
			return NeighborStale, false, true
		case !differs && next == NeighborReachable:
			return NeighborReachable, false, true
		}
	}
	return st, false, false
}

// learn updates the entry of a neighbour from a received packet. how says what the packet contains; mac is
// the link address in it, and is valid only with updateMAC. learn reports whether the neighbour was a
// router and no longer is one.
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
	asked := st == NeighborIncomplete || st == NeighborProbe || n.polls > 0
	solved := n.solved || st == NeighborIncomplete || asked && how&updateSolicited != 0
	if how&updateSolicited != 0 {
		switch {
		case !asked && !t.v6:
			how &^= updateSolicited // an ARP reply does not say whether it answers a request
		case n.polls > 0:
			how |= updateCreate // a failed router answers a poll
		}
	}
	next, take, ok := st.update(how, old != mac)
	if st == NeighborPermanent || st == NeighborFailed && !ok {
		return false
	}
	router := w & neighRouter
	switch {
	case !take && how&updateMAC != 0 && old != mac:
		// RFC 4861 7.2.5: with the Override flag clear and another link address, "do not update the entry in
		// any other way".
	case how&updateRouter != 0:
		router = neighRouter
	case how&updateHost != 0:
		router = 0
	}
	if !take {
		mac = old
	}
	// RFC 4861 7.3.1: "Receipt of other Neighbor Discovery messages, such as Router Advertisements and
	// Neighbor Advertisement with the Solicited flag set to zero, MUST NOT be treated as a reachability
	// confirmation."
	probe := false
	if take || ok && next == NeighborReachable {
		// A router that has failed may send messages although it does not receive any. Such a message does
		// not revive the router, but the host asks the router at once, and not at its next poll.
		if probe = next == NeighborStale && t.ifc.routerDead(addr); probe {
			next = NeighborProbe
		}
		n.tries, n.polls = 0, 0
		n.reachable.Store(int64(t.reachable))
		n.confirmed.Store(int64(now))
		t.sendWaiting(n, mac)
	}
	n.word.Store(packNeighbor(mac, next) | router)
	if ok {
		t.touch(n, solved)
		if !n.solved && n.elem != nil && !probe {
			// A received packet has set the link address of this entry while the host was not resolving
			// it. The latest such entry is evicted first.
			t.unresolved.MoveToFront(n.elem)
		}
	}
	switch {
	case probe:
		t.ask(n, netip.Addr{}, now)
	case ok && next == NeighborReachable:
		t.ifc.routerAnswers(addr)
	}
	return router == 0 && w&neighRouter != 0
}

// flush removes all entries that are not permanent, and drops the packets that wait for them. If fail
// is set, their senders get an error.
func (t *neighborTable) flush(fail bool) {
	type lostDatagram struct {
		waitingDatagram
		hop netip.Addr
	}
	var lost []lostDatagram
	t.mu.Lock()
	// Sort by address, so that with the same seed the senders get their errors in the same order.
	for _, n := range slices.SortedFunc(maps.Values(t.m), func(a, b *neighbor) int { return a.addr.Compare(b.addr) }) {
		if n.elem == nil {
			continue
		}
		if fail {
			for _, d := range t.takeWaiting(n) {
				lost = append(lost, lostDatagram{d, n.addr})
			}
		}
		t.remove(n)
	}
	t.mu.Unlock()
	for i := range lost {
		t.resendOrDrop(&lost[i].waitingDatagram, lost[i].hop, dropLinkDown)
	}
}

// close removes all entries that are not permanent, and stops the alarm.
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
	MAC  wire.MAC // zero if it is not known
	// State is the state of the entry. SetNeighbor ignores it and makes every entry permanent.
	State NeighborState
	// Age is the time since the last proof that the neighbour is reachable. It is 0 in the states
	// incomplete, failed and permanent.
	Age time.Duration
	// Router reports whether an IPv6 neighbour advertises itself as a router. SetNeighbor ignores it.
	Router bool
}

// Neighbors returns the entries of all interfaces, ordered by interface and address.
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

// describe appends the entries of a table, as Neighbors returns them.
func (t *neighborTable) describe(all []Neighbor, now tcp.Time) []Neighbor {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, n := range t.m {
		w := n.word.Load()
		mac, st := unpackNeighbor(w)
		age := time.Duration(now - tcp.Time(n.confirmed.Load()))
		if st == NeighborReachable && int64(age) >= n.reachable.Load() {
			st = NeighborStale
		}
		if st == NeighborPermanent || st == NeighborFailed || st == NeighborIncomplete {
			age = 0
		}
		all = append(all, Neighbor{
			NIC: t.ifc.name, Addr: n.addr, MAC: mac, State: st, Age: age, Router: w&neighRouter != 0,
		})
	}
	return all
}

// FlushNeighbors removes all entries that are not permanent.
func (s *Stack) FlushNeighbors() {
	for _, ifc := range *s.ifaces.Load() {
		ifc.flushNeighbors(false)
	}
}

// flushNeighbors flushes both tables of the interface, and removes its redirects. If fail is set, the
// senders of waiting packets get an error.
func (ifc *iface) flushNeighbors(fail bool) {
	for _, t := range ifc.neighborTables() {
		t.flush(fail)
	}
	ifc.s.redirects.forget(ifc, netip.Addr{})
}

// SetNeighbor sets a permanent entry. If n.MAC is zero, it removes the entry instead. n.NIC must name an
// Ethernet interface. The errors are ENODEV, EINVAL and net.ErrClosed.
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
	if ifc == nil {
		return fmt.Errorf("no interface %q: %w", n.NIC, syscall.ENODEV)
	}
	var err error
	if n.Addr, err = ifc.inZone(n.Addr); err != nil {
		return err
	}
	switch {
	case ifc.linkLen == 0:
		return fmt.Errorf("%s has no neighbours: it carries no Ethernet: %w", n.NIC, syscall.EINVAL)
	case !isNeighborAddr(n.Addr) || ifc.isBroadcast(n.Addr):
		return fmt.Errorf("%v is not the address of one host: %w", n.Addr, syscall.EINVAL)
	case s.hasOn(ifc, n.Addr):
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
	n.word.Store(packNeighbor(mac, NeighborPermanent))
	t.ifc.routerAnswers(addr)
}
