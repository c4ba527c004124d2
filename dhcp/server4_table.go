package dhcp

import (
	"container/heap"
	"container/list"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"time"
)

// A network4 is a network of a server, with data derived from its configuration.
type network4 struct {
	Network4
	index    int
	byClient map[string]*Reservation4 // by the result of identity
	reserved map[netip.Addr]bool      // the addresses of reservations
	excluded map[netip.Addr]bool      // addresses that are not assigned
	pool     int                      // index in Pools of the pool with next
	next     netip.Addr               // the address at which nextUnused continues
	options  Options4                 // for all clients of the network
}

// newNetwork4 checks the configuration of a network and returns the network. id is the server's address.
func newNetwork4(cfg Network4, id netip.Addr) (*network4, error) {
	if !cfg.Prefix.IsValid() || !cfg.Prefix.Addr().Is4() {
		return nil, fmt.Errorf("dhcp: the network %v is not an IPv4 prefix", cfg.Prefix)
	}
	cfg.Prefix = cfg.Prefix.Masked()
	if cfg.Lease <= 0 {
		cfg.Lease = time.Hour
	}
	if cfg.MaxLease <= 0 {
		cfg.MaxLease = cfg.Lease
	}
	if cfg.Lease = cfg.Lease.Truncate(time.Second); cfg.Lease == 0 {
		cfg.Lease = time.Second
	}
	n := &network4{
		Network4: cfg, byClient: make(map[string]*Reservation4), reserved: make(map[netip.Addr]bool),
		excluded: map[netip.Addr]bool{id: true},
	}
	for _, a := range cfg.Routers {
		n.excluded[a] = true
	}
	if cfg.Prefix.Bits() <= 30 {
		n.excluded[cfg.Prefix.Addr()], n.excluded[broadcastOf(cfg.Prefix)] = true, true
	}
	for _, p := range cfg.Pools {
		if !cfg.Prefix.Contains(p.First) || !cfg.Prefix.Contains(p.Last) || p.Last.Less(p.First) {
			return nil, fmt.Errorf("dhcp: the pool from %v to %v is not a range of %v", p.First, p.Last, cfg.Prefix)
		}
	}
	if len(cfg.Pools) > 0 {
		n.next = cfg.Pools[0].First
	}
	for i := range cfg.Reservations {
		r := &cfg.Reservations[i]
		key := identity(r.ClientID, 1, r.MAC[:])
		if !cfg.Prefix.Contains(r.Addr) || n.excluded[r.Addr] {
			return nil, fmt.Errorf("dhcp: the reserved address %v is not available in %v", r.Addr, cfg.Prefix)
		}
		if n.reserved[r.Addr] || n.byClient[key] != nil {
			return nil, fmt.Errorf("dhcp: there are two reservations of %v or of its client", r.Addr)
		}
		n.reserved[r.Addr], n.byClient[key] = true, r
	}
	return n, n.makeOptions()
}

// broadcastOf returns the last address of a network.
func broadcastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(b)
}

// isDynamic reports whether an address may be assigned to a client without a reservation.
func (n *network4) isDynamic(a netip.Addr) bool {
	return !n.excluded[a] && !n.reserved[a] &&
		slices.ContainsFunc(n.Pools, func(p Range4) bool { return !a.Less(p.First) && !p.Last.Less(a) })
}

// client returns the key of a client and its reservation; the reservation is nil if there is none. A client with a
// reservation by MAC always has the same key, even if its operating system sends a client identifier and its boot
// loader does not.
func (n *network4) client(id []byte, htype uint8, chaddr []byte) (clientKey, *Reservation4) {
	for _, who := range []string{identity(id, htype, chaddr), identity(nil, htype, chaddr)} {
		if r := n.byClient[who]; r != nil {
			return clientKey{n.index, who}, r
		}
	}
	return clientKey{n.index, identity(id, htype, chaddr)}, nil
}

// query returns a message of a client, together with what the server knows about the client.
func (n *network4) query(m *Message4) *query4 {
	q := &query4{Message4: m, net: n}
	q.key, q.reserved = n.client(clientID(m), m.HType, m.CHAddr)
	return q
}

// duration returns the duration of a lease for the client that sent a message.
//
// RFC 2131 4.3.1: if the client "has requested a specific lease in the DHCPDISCOVER message [...], the
// server may choose either to return the requested lease [...] or select another lease."
func (n *network4) duration(m *Message4) time.Duration {
	d := n.Lease
	if s, ok := m.Options.Uint32(OptLeaseTime); ok {
		d = max(min(time.Duration(s)*time.Second, n.MaxLease), min(minLease, n.Lease))
	}
	return min(d.Truncate(time.Second), infinity*time.Second)
}

// clientID returns the client identifier in a message, or nil.
func clientID(m *Message4) []byte {
	id, _ := m.Options.Get(OptClientID)
	return id
}

// identity returns what identifies a client: its client identifier, or else its link address.
//
// RFC 2131 4.2: "If the client does not provide a 'client identifier' option, the server MUST use the
// contents of the 'chaddr' field to identify the client."
func identity(id []byte, htype uint8, chaddr []byte) string {
	if len(id) > 0 {
		return "i" + string(id)
	}
	return "m" + string([]byte{htype}) + string(chaddr)
}

// A clientKey identifies a client in a network. A client may have an address in each network.
type clientKey struct {
	network int
	client  string
}

// A binding4 is an address of which the server keeps a record: it is assigned, offered, declined, or free again.
type binding4 struct {
	addr     netip.Addr
	net      *network4
	state    BindingState4
	key      clientKey // the client that has or last had the address; zero: none
	offered  clientKey // the client to which the address is offered, in state Offered
	id, mac  []byte    // of the client; in state Declined, of the client that declined the address
	hostName string
	until    time.Time // when the state ends; zero: never; in state Free: see Binding4
	waiting  *Message4 // the DHCPDISCOVER that is answered after the probe; nil: no probe is going on
	at       int       // index in table4.timed; -1: not there
	elem     *list.Element
}

// holder returns the client that has the address or an offer of it. It is zero if there is none.
func (b *binding4) holder() clientKey {
	switch b.state {
	case Leased:
		return b.key
	case Offered:
		return b.offered
	}
	return clientKey{}
}

func (b *binding4) export() Binding4 {
	return Binding4{Addr: b.addr, State: b.state, ClientID: b.id, MAC: b.mac, HostName: b.hostName, Until: b.until}
}

// A table4 holds the bindings of a server. A binding whose state has an end is in timed. An offered binding is in
// offers. A free binding that any client may get is in unused or used, once free has put it there. A free binding of
// a reserved address is in no list.
type table4 struct {
	cfg      *ServerConfig4
	byAddr   map[netip.Addr]*binding4
	byClient map[clientKey]*binding4 // by the client that has or last had the address
	byOffer  map[clientKey]*binding4 // by the client to which the address is offered
	timed    timed4
	probing  int                // number of bindings with a probe
	offers   list.List          // of offered bindings, the oldest first
	unused   map[int]*list.List // of free bindings without a client, by network
	used     map[int]*list.List // of free bindings with a client, by network, the least recently used first
}

const (
	maxOffers = 1024 // maximum number of addresses that are offered at a time
	maxProbes = 64   // maximum number of probes at a time; further addresses are offered without a probe
)

func (t *table4) init(cfg *ServerConfig4) {
	t.cfg = cfg
	t.byAddr, t.byClient, t.byOffer = make(map[netip.Addr]*binding4), make(map[clientKey]*binding4), make(map[clientKey]*binding4)
	t.unused, t.used = make(map[int]*list.List), make(map[int]*list.List)
}

// timed4 is a heap of the bindings whose state has an end. The binding that ends first is at index 0.
type timed4 []*binding4

func (h timed4) Len() int { return len(h) }
func (h timed4) Less(i, j int) bool {
	if c := h[i].until.Compare(h[j].until); c != 0 {
		return c < 0
	}
	return h[i].addr.Less(h[j].addr)
}
func (h timed4) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].at, h[j].at = i, j
}
func (h *timed4) Push(x any) {
	b := x.(*binding4)
	b.at = len(*h)
	*h = append(*h, b)
}
func (h *timed4) Pop() any {
	last := len(*h) - 1
	b := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	b.at = -1
	return b
}

func (t *table4) deadline() time.Time {
	if len(t.timed) == 0 {
		return time.Time{}
	}
	return t.timed[0].until
}

// due returns a binding whose state has ended at now, or nil if there is none.
func (t *table4) due(now time.Time) *binding4 {
	if len(t.timed) == 0 || now.Before(t.timed[0].until) {
		return nil
	}
	return t.timed[0]
}

// schedule sets the end of the binding's state; the zero time means never.
func (t *table4) schedule(b *binding4, until time.Time) {
	if b.at >= 0 {
		heap.Remove(&t.timed, b.at)
	}
	b.until = until
	if !until.IsZero() {
		heap.Push(&t.timed, b)
	}
}

// leave takes a binding out of the lists of its state and out of timed, and ends its probe. The caller then sets the
// new state.
func (t *table4) leave(b *binding4) {
	switch b.state {
	case Free:
		if b.elem != nil {
			t.freeList(b).Remove(b.elem)
		}
	case Offered:
		t.offers.Remove(b.elem)
		delete(t.byOffer, b.offered)
	}
	t.await(b, nil)
	b.elem, b.offered = nil, clientKey{}
	if b.at >= 0 {
		heap.Remove(&t.timed, b.at)
	}
}

// await sets the DHCPDISCOVER that is answered after the probe of an address; nil ends the probe.
func (t *table4) await(b *binding4, m *Message4) {
	if b.waiting != nil {
		t.probing--
	}
	if b.waiting = m; m != nil {
		t.probing++
	}
}

// freeList returns the list for a binding in state Free.
func (t *table4) freeList(b *binding4) *list.List {
	lists := t.used
	if b.key == (clientKey{}) {
		lists = t.unused
	}
	l := lists[b.net.index]
	if l == nil {
		l = list.New()
		lists[b.net.index] = l
	}
	return l
}

// free makes a binding free. After a lease or a quarantine, the address goes to the end of its list. After an offer
// that did not become a lease, it goes to the front, because such an offer does not count as a use.
func (t *table4) free(b *binding4) {
	wasOffer := b.state == Offered
	t.leave(b)
	b.state = Free
	switch {
	case b.net.isDynamic(b.addr) && wasOffer:
		b.elem = t.freeList(b).PushFront(b)
	case b.net.isDynamic(b.addr):
		b.elem = t.freeList(b).PushBack(b)
	case b.key == (clientKey{}):
		delete(t.byAddr, b.addr) // a reserved address without a client needs no binding
	}
}

// forget removes the record of the client that last had the address.
func (t *table4) forget(b *binding4) {
	if t.byClient[b.key] == b {
		delete(t.byClient, b.key)
	}
	b.key, b.id, b.mac, b.hostName = clientKey{}, nil, nil, ""
}

// offer offers an address to a client until a time.
func (t *table4) offer(b *binding4, q *query4, until time.Time) {
	if old := t.byOffer[q.key]; old != nil && old != b {
		t.free(old)
	}
	t.leave(b)
	b.state, b.offered = Offered, q.key
	t.byOffer[q.key] = b
	b.elem = t.offers.PushBack(b)
	t.schedule(b, until)
}

// withdraw ends the offer to a client.
func (t *table4) withdraw(key clientKey) {
	if b := t.byOffer[key]; b != nil {
		t.free(b)
	}
}

// lease assigns an address to a client until a time; the zero time means without end. A client has only one
// address in a network: lease ends the client's lease of another address.
func (t *table4) lease(b *binding4, q *query4, until time.Time) {
	t.withdrawOther(q.key, b)
	t.leave(b)
	if b.key != q.key {
		t.forget(b)
		if old := t.byClient[q.key]; old != nil {
			if old.state == Leased || old.state == Free {
				t.leave(old)
				t.forget(old)
				old.state = Leased // so that free appends it to its list
				t.free(old)
			} else {
				t.forget(old)
			}
		}
		b.key = q.key
		t.byClient[q.key] = b
	}
	b.state = Leased
	b.id, b.mac = slices.Clone(clientID(q.Message4)), q.CHAddr
	b.hostName = q.Options.Name(OptHostName)
	if r := q.reserved; r != nil && r.HostName != "" {
		b.hostName = r.HostName
	}
	t.schedule(b, until)
}

// withdrawOther ends the offer to a client, unless the client is offered the address of b.
func (t *table4) withdrawOther(key clientKey, b *binding4) {
	if old := t.byOffer[key]; old != nil && old != b {
		t.free(old)
	}
}

// quarantine keeps an address from being assigned until a time.
func (t *table4) quarantine(b *binding4, until time.Time) {
	old := *b
	t.leave(b)
	t.forget(b)
	if old.state == Leased {
		// The binding keeps the client that has declined the address.
		b.id, b.mac, b.hostName = old.id, old.mac, old.hostName
	}
	b.state = Declined
	t.schedule(b, until)
}

// choose returns an address for a client that has sent a DHCPDISCOVER; nil if there is none. known is true if the
// client had the address, or an offer of it, so that no probe is needed. The order is that of RFC 2131 4.3.1:
//
//	"The client's current address as recorded in the client's current binding, ELSE
//	The client's previous address as recorded in the client's (now expired or released) binding, if that
//	address is in the server's pool of available addresses and not already allocated, ELSE
//	The address requested in the 'Requested IP Address' option, if that address is valid and not already
//	allocated, ELSE
//	A new address allocated from the server's pool of available addresses".
//
// A reserved address precedes all others.
func (t *table4) choose(q *query4, s *Server4) (b *binding4, known bool) {
	if r := q.reserved; r != nil {
		if b := t.take(q, r.Addr); b != nil {
			return b, b.key == q.key || b.offered == q.key
		}
	}
	if b := t.byOffer[q.key]; b != nil && q.net.isDynamic(b.addr) {
		return b, b.waiting == nil
	}
	if b := t.byClient[q.key]; b != nil && (b.state == Free || b.state == Leased) && q.net.isDynamic(b.addr) {
		return b, true
	}
	if a := q.Options.Addr(OptRequestedAddr); a.IsValid() && q.net.isDynamic(a) {
		if b := t.take(q, a); b != nil {
			return b, false
		}
	}
	return t.allocate(q, s), false
}

// of returns the binding of an address for a client that requests it, or nil if the address is not
// available to the client.
func (t *table4) of(q *query4, a netip.Addr) *binding4 {
	if !a.IsValid() {
		return nil
	}
	if r := q.reserved; r == nil || r.Addr != a {
		if !q.net.isDynamic(a) {
			return nil
		}
	}
	return t.take(q, a)
}

// take returns the binding of an address, and adds it if there is none. It returns nil if another client has the
// address or an offer of it, if the address is declined, or if there are too many bindings.
func (t *table4) take(q *query4, a netip.Addr) *binding4 {
	b := t.byAddr[a]
	if b == nil {
		return t.add(q.net, a)
	}
	if b.state == Free || b.holder() == q.key {
		return b
	}
	return nil
}

// add adds a binding for an address, or returns nil if there are too many. The binding is free, but in no
// list.
func (t *table4) add(n *network4, a netip.Addr) *binding4 {
	if len(t.byAddr) >= t.cfg.MaxBindings {
		return nil
	}
	b := &binding4{addr: a, net: n, at: -1}
	t.byAddr[a] = b
	return b
}

// allocate returns an address for a new client: an address that no client has had yet, or else the least recently
// used free address, or else the address of the oldest offer. If there are maxOffers offers, allocate first ends the
// oldest one.
func (t *table4) allocate(q *query4, s *Server4) *binding4 {
	if t.offers.Len() >= maxOffers {
		t.free(t.offers.Front().Value.(*binding4))
		s.stats.Reclaimed++
	}
	if l := t.unused[q.net.index]; l != nil && l.Len() > 0 {
		return l.Front().Value.(*binding4)
	}
	if a := t.nextUnused(q.net); a.IsValid() {
		if b := t.add(q.net, a); b != nil {
			return b
		}
	}
	if l := t.used[q.net.index]; l != nil && l.Len() > 0 {
		return l.Front().Value.(*binding4)
	}
	for e := t.offers.Front(); e != nil; e = e.Next() {
		if b := e.Value.(*binding4); b.net == q.net && q.net.isDynamic(b.addr) {
			t.free(b)
			s.stats.Reclaimed++
			return b
		}
	}
	return nil
}

// nextUnused returns an address of the pools that has no binding; invalid if there is none. Over the life of the
// server, nextUnused looks at each address once.
func (t *table4) nextUnused(n *network4) netip.Addr {
	for n.pool < len(n.Pools) && len(t.byAddr) < t.cfg.MaxBindings {
		a, last := n.next, n.Pools[n.pool].Last
		if n.next = a.Next(); a == last {
			if n.pool++; n.pool < len(n.Pools) {
				n.next = n.Pools[n.pool].First
			}
		}
		if t.byAddr[a] == nil && n.isDynamic(a) {
			return a
		}
	}
	return netip.Addr{}
}

// Bindings returns the addresses that are assigned, offered, or in use by another machine, and the free addresses
// whose last client the server knows. They are in the order of their addresses. A later server continues from
// them if they are its ServerConfig4.Bindings.
func (s *Server4) Bindings() iter.Seq[Binding4] {
	return func(yield func(Binding4) bool) {
		all := make([]*binding4, 0, len(s.table.byAddr))
		for _, b := range s.table.byAddr {
			if b.state != Free || b.key != (clientKey{}) {
				all = append(all, b)
			}
		}
		slices.SortFunc(all, func(a, b *binding4) int { return a.addr.Compare(b.addr) })
		for _, b := range all {
			if !yield(b.export()) {
				return
			}
		}
	}
}

// restore adds a binding of an earlier server, except an offer. A client that requests an address that the earlier
// server offered still gets the address if it is free.
func (s *Server4) restore(now time.Time, old *Binding4) {
	t := &s.table
	i := slices.IndexFunc(s.networks, func(n *network4) bool { return n.Prefix.Contains(old.Addr) })
	if i < 0 || old.State > Declined || old.State == Offered || s.networks[i].excluded[old.Addr] || t.byAddr[old.Addr] != nil {
		return
	}
	n := s.networks[i]
	key, _ := n.client(old.ClientID, 1, old.MAC)
	if old.State != Declined && (len(old.ClientID) == 0 && len(old.MAC) == 0 || t.byClient[key] != nil) {
		return
	}
	b := t.add(n, old.Addr)
	if b == nil {
		return
	}
	b.state, b.until = old.State, old.Until
	b.id, b.mac, b.hostName = slices.Clone(old.ClientID), slices.Clone(old.MAC), old.HostName
	if b.state != Declined {
		b.key = key
		t.byClient[key] = b
	}
	if b.state == Free || !old.Until.IsZero() && !now.Before(old.Until) {
		b.state = Leased // so that free appends it to its list
		t.free(b)
		return
	}
	t.schedule(b, old.Until)
}
