package dhcp

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// A Range4 is a range of IPv4 addresses, both ends included.
type Range4 struct{ First, Last netip.Addr }

// A Reservation4 is an address that a server assigns only to one client. The client is known by its
// client identifier, if ClientID is set, and otherwise by its MAC.
type Reservation4 struct {
	MAC      [6]byte
	ClientID []byte
	// Addr is an address of the network, inside or outside of the pools.
	Addr netip.Addr
	// HostName is the name that the server gives to the client. If it is empty, the server gives none.
	HostName string
	// Options replace those options of the network that have the same code.
	Options Options4
}

// A Network4 is a network whose addresses a server assigns.
type Network4 struct {
	// Prefix is the network.
	Prefix netip.Prefix
	// Pools are the addresses for clients without a reservation. The server does not assign the
	// addresses of Routers, its own address, and the network and broadcast addresses of Prefix.
	Pools        []Range4
	Reservations []Reservation4

	// Lease is the duration of a lease; one hour if zero. The unit on the wire is the second. A
	// duration of 2^32-1 seconds or more has no end. MaxLease limits the duration that a client can
	// ask for; Lease if zero.
	Lease, MaxLease time.Duration

	// Routers, DNS and NTP are the addresses of default routers and servers, the preferred ones first.
	Routers, DNS, NTP []netip.Addr
	// Routes are classless static routes (RFC 3442). A client that requests them ignores Routers, so
	// the server adds default routes through Routers, unless Routes has a default route.
	Routes []Route4
	// Domain is the domain of the clients, and Search are their search domains (RFC 3397).
	Domain string
	Search []string
	// MTU is the MTU of the link in bytes, at least 68; if zero, the server does not send it.
	MTU int
	// IPv6Only, if not zero, asks clients that can do without IPv4 to do so for this duration. Clients use
	// 300 seconds if it is shorter (RFC 8925).
	IPv6Only time.Duration
	// Options are further options. They replace options with the same code from the other fields.
	Options Options4
}

// ServerConfig4 configures a Server4.
type ServerConfig4 struct {
	// ID is the server identifier: an address of the server that clients can reach.
	ID netip.Addr
	// Link is the network of the link on which the server receives broadcasts.
	Link Network4
	// Relayed are networks behind relay agents. If there are none, the server ignores messages from
	// relay agents.
	Relayed []Network4
	// Authoritative makes the server treat its link as its own: it answers clients that request an
	// address of which the server has no record. The server assigns the address if it is free, and
	// otherwise sends a DHCPNAK. Without Authoritative the server is silent, because another server
	// may have assigned the address (RFC 2131 4.3.2).
	Authoritative bool
	// RapidCommit makes the server assign an address at once to clients that ask for this (RFC 4039).
	// No other server should be on the link, because each of them would assign an address.
	RapidCommit bool
	// Probe makes the server check that an address is not in use before it offers the address to a
	// client that did not have it before (RFC 2131 3.1). See Server4.NextProbe.
	Probe bool
	// OfferTime is how long an offered address is kept for the client; one minute if zero.
	OfferTime time.Duration
	// DeclineTime is how long an address that is in use by another machine is not assigned; ten minutes
	// if zero.
	DeclineTime time.Duration
	// MaxBindings limits the number of addresses that the server keeps in memory; 65536 if zero. A
	// binding takes up to about 1,000 bytes.
	MaxBindings int
	// Bindings are those of an earlier server, as Server4.Bindings returned them. Bindings that do not
	// fit the networks are ignored.
	Bindings []Binding4
}

// A BindingState4 is the state of an address of a server.
type BindingState4 uint8

const (
	// Free is an address whose lease has ended. The server remembers the client, and prefers to assign
	// the address to that client again.
	Free     BindingState4 = iota
	Offered                // offered to a client that has not yet requested it
	Leased                 // assigned to a client
	Declined               // in use by another machine, as a client or a probe has found
)

func (s BindingState4) String() string {
	names := []string{"free", "offered", "leased", "declined"}
	if int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// A Binding4 is an address of a server and the client that has or last had the address.
type Binding4 struct {
	Addr  netip.Addr
	State BindingState4
	// ClientID is the client identifier of the client, and MAC is its link address. HostName is its name, from
	// the reservation or else from the client. Each is empty if it is not known. HostName has only letters,
	// digits, hyphens, underscores and dots.
	ClientID []byte
	MAC      []byte
	HostName string
	// Until is when the state ends; the zero time means never. In state Free, it is when the lease ended or, if
	// the address was offered after that, when the offer ended or would have ended.
	Until time.Time
}

// A Reply4 is a message to send from port 67 of the server.
type Reply4 struct {
	Message *Message4
	Payload []byte // Message, encoded
	// To is the destination. If MAC is set, the client has not configured the address in To yet: the caller
	// sends the datagram to the link address MAC, without ARP. If the caller cannot do that, it may broadcast
	// the datagram (RFC 2131 4.1).
	To  netip.AddrPort
	MAC []byte
}

// A ServerEventKind4 is the kind of an event of a server.
type ServerEventKind4 uint8

const (
	// Assigned reports a new lease. Extended reports a lease that the client has renewed.
	Assigned ServerEventKind4 = 1 + iota
	Extended
	// Returned reports a lease that the client has released. Ended reports a lease that has expired, or that
	// ended because the client got another address.
	Returned
	Ended
	// InUse reports that an address is in use by another machine: a client has declined it, or a probe
	// has found the machine.
	InUse
)

func (k ServerEventKind4) String() string {
	names := []string{"assigned", "extended", "returned", "ended", "in use"}
	if k >= 1 && int(k) <= len(names) {
		return names[k-1]
	}
	return fmt.Sprintf("event %d", uint8(k))
}

// A ServerEvent4 is a change of a binding.
type ServerEvent4 struct {
	Kind    ServerEventKind4
	Binding Binding4
}

// ServerStats4 counts what a server has received, and why it did not answer.
type ServerStats4 struct {
	Discovers, Requests, Declines, Releases, Informs uint64 // received
	Offers, ACKs, NAKs                               uint64 // sent
	// Foreign counts messages with which clients chose another server. Unknown counts messages about
	// addresses of which the server has no record. Relays counts messages of relay agents that the server
	// does not serve. Invalid counts messages without a usable type, client or address. Full counts
	// messages for which there was no free address.
	Foreign, Unknown, Relays, Invalid, Full uint64
	// Reclaimed counts offers that ended early, because another client needed the address or because there were
	// maxOffers offers.
	Reclaimed uint64
}

// A Server4 is a server of DHCPv4 (RFC 2131 4.3). It is not safe for concurrent use.
//
// After each call, the caller sends the messages from NextReply, processes the events from NextEvent,
// starts the probes of NextProbe, and calls Tick at the time of Deadline. The time of a call must not
// be before the time of the previous call.
//
// The memory is bounded: see ServerConfig4.MaxBindings. Clients that only send DHCPDISCOVERs get at
// most maxOffers addresses at a time. If no address is free, the server ends its oldest offer and offers that
// address to the new client. So a flood of DHCPDISCOVERs from forged clients does not keep out real clients.
type Server4 struct {
	cfg      ServerConfig4
	networks []*network4 // the link's network first
	table    table4
	stats    ServerStats4

	replies []Reply4
	events  []ServerEvent4
	probes  []netip.Addr
}

const (
	defaultOfferTime   = time.Minute
	defaultDeclineTime = 10 * time.Minute
	defaultMaxBindings = 65536
	// minLease is the shortest duration that a client can ask for, unless Network4.Lease is shorter.
	minLease = time.Minute
)

// NewServer4 returns a server. Bindings of cfg that have ended at now become free. The error says which
// part of the configuration is wrong.
func NewServer4(cfg ServerConfig4, now time.Time) (*Server4, error) {
	if !isHost(cfg.ID) {
		return nil, fmt.Errorf("dhcp: the server identifier %v is not the address of a host", cfg.ID)
	}
	if cfg.OfferTime <= 0 {
		cfg.OfferTime = defaultOfferTime
	}
	if cfg.DeclineTime <= 0 {
		cfg.DeclineTime = defaultDeclineTime
	}
	if cfg.MaxBindings <= 0 {
		cfg.MaxBindings = defaultMaxBindings
	}
	s := &Server4{cfg: cfg}
	for i, n := range append([]Network4{cfg.Link}, cfg.Relayed...) {
		made, err := newNetwork4(n, cfg.ID)
		if err != nil {
			return nil, err
		}
		for _, other := range s.networks {
			if other.Prefix.Overlaps(made.Prefix) {
				return nil, fmt.Errorf("dhcp: the networks %v and %v overlap", other.Prefix, made.Prefix)
			}
		}
		made.index = i
		s.networks = append(s.networks, made)
	}
	s.table.init(&s.cfg)
	// Restore the free addresses in the order in which their leases ended.
	old := slices.SortedStableFunc(slices.Values(cfg.Bindings), func(a, b Binding4) int { return a.Until.Compare(b.Until) })
	for i := range old {
		s.restore(now, &old[i])
	}
	s.cfg.Bindings = nil
	return s, nil
}

// Stats returns the counters of the server.
func (s *Server4) Stats() ServerStats4 { return s.stats }

// NextReply returns the next message to send. ok is false if there is none.
func (s *Server4) NextReply() (r Reply4, ok bool) {
	if len(s.replies) == 0 {
		return r, false
	}
	r, s.replies = s.replies[0], s.replies[1:]
	return r, true
}

// NextEvent returns the next event. ok is false if there is none.
func (s *Server4) NextEvent() (e ServerEvent4, ok bool) {
	if len(s.events) == 0 {
		return e, false
	}
	e, s.events = s.events[0], s.events[1:]
	return e, true
}

// NextProbe returns the next address to probe. ok is false if there is none. The caller sends an ICMP
// echo request to the address, and calls Answered if a machine answers the echo request or the ARP request
// that precedes it. Otherwise the server offers the address after half a second.
//
// RFC 2131 3.1: servers "SHOULD check that the offered network address is not already in use; e.g., the
// server may probe the offered address with an ICMP Echo Request."
func (s *Server4) NextProbe() (a netip.Addr, ok bool) {
	if len(s.probes) == 0 {
		return a, false
	}
	a, s.probes = s.probes[0], s.probes[1:]
	return a, true
}

// Deadline returns when to call Tick; the zero time means never.
func (s *Server4) Deadline() time.Time { return s.table.deadline() }

// Tick does what is due at now: it ends leases, offers and quarantines, and offers addresses whose probes
// got no answer.
func (s *Server4) Tick(now time.Time) {
	for {
		b := s.table.due(now)
		if b == nil {
			return
		}
		switch {
		case b.waiting != nil:
			s.offerProbed(now, b)
		case b.state == Leased:
			s.table.free(b)
			s.event(Ended, b)
		default:
			s.table.free(b)
		}
	}
}

func (s *Server4) event(kind ServerEventKind4, b *binding4) {
	s.events = append(s.events, ServerEvent4{kind, b.export()})
}

// Receive processes a message that arrived on port 67. broadcast reports whether the destination of the
// datagram was a broadcast address.
func (s *Server4) Receive(now time.Time, m *Message4, broadcast bool) {
	if m.Op != BootRequest || len(m.CHAddr) == 0 && len(clientID(m)) == 0 {
		s.stats.Invalid++
		return
	}
	n, ok := s.network(m, broadcast)
	if !ok {
		s.stats.Relays++
		return
	}
	s.Tick(now)
	q := n.query(m)
	switch m.Type() {
	case Discover:
		s.stats.Discovers++
		s.discover(now, q)
	case Request:
		s.stats.Requests++
		s.request(now, q)
	case Decline:
		s.stats.Declines++
		s.decline(now, q)
	case Release:
		s.stats.Releases++
		s.release(now, q)
	case Inform:
		s.stats.Informs++
		s.inform(q)
	default:
		s.stats.Invalid++
	}
}

// A query4 is a message of a client, together with what the server knows about the client.
type query4 struct {
	*Message4
	net      *network4
	key      clientKey
	reserved *Reservation4 // nil: none
}

// network returns the network of the client that sent a message. ok is false if the message comes from a
// relay agent that the server does not serve.
//
// RFC 2131 4.3.1: the address is chosen "based on the subnet from which the message was received (if
// 'giaddr' is 0) or on the address of the relay agent that forwarded the message ('giaddr' when not 0)".
func (s *Server4) network(m *Message4, broadcast bool) (n *network4, ok bool) {
	a := m.GIAddr
	if link := linkSelection(m); a.IsValid() && link.IsValid() {
		a = link
	}
	if !a.IsValid() {
		// A client in a relayed network renews its lease by unicast to the server, without the relay agent.
		if !broadcast && m.CIAddr.IsValid() {
			for _, n := range s.networks {
				if n.Prefix.Contains(m.CIAddr) {
					return n, true
				}
			}
		}
		return s.networks[0], true
	}
	for _, n := range s.networks[1:] {
		if n.Prefix.Contains(a) {
			return n, true
		}
	}
	return nil, false
}

// discover answers a DHCPDISCOVER.
func (s *Server4) discover(now time.Time, q *query4) {
	b, known := s.table.choose(q, s)
	if b == nil {
		s.stats.Full++
		return
	}
	if _, rapid := q.Options.Get(OptRapidCommit); rapid && s.cfg.RapidCommit {
		// RFC 4039 3.1: a server that "is configured to commit" "SHOULD respond to the DHCPDISCOVER with a
		// DHCPACK" that has the option.
		s.assign(now, q, b)
		return
	}
	switch {
	case b.state == Leased: // by this client: the offer does not change the lease, only a DHCPREQUEST extends it
		s.offer(q, b)
	case b.waiting != nil:
		s.table.await(b, q.Message4) // a probe is going on: answer this message after it, instead of the previous one
	case s.cfg.Probe && !known && s.table.probing < maxProbes:
		s.table.offer(b, q, now.Add(probeTime))
		s.table.await(b, q.Message4)
		s.probes = append(s.probes, b.addr)
	default:
		s.table.offer(b, q, now.Add(s.cfg.OfferTime))
		s.offer(q, b)
	}
}

// probeTime is how long a server waits for an answer to a probe.
const probeTime = 500 * time.Millisecond

// Answered tells the server that a machine has answered a probe of an address. mac is the machine's link
// address, or nil if it is unknown. If the machine is the client that waits for the offer of the address, the
// server sends the offer at once. Otherwise the address is not assigned for DeclineTime, and the client gets
// another one.
func (s *Server4) Answered(now time.Time, a netip.Addr, mac []byte) {
	b := s.table.byAddr[a]
	if b == nil || b.waiting == nil {
		return
	}
	m := b.waiting
	if len(mac) > 0 && string(mac) == string(m.CHAddr) {
		s.offerProbed(now, b)
		return
	}
	s.table.quarantine(b, now.Add(s.cfg.DeclineTime))
	s.event(InUse, b)
	s.discover(now, b.net.query(m))
}

// offerProbed ends the probe of an address and offers the address.
func (s *Server4) offerProbed(now time.Time, b *binding4) {
	q := b.net.query(b.waiting)
	s.table.await(b, nil)
	s.table.schedule(b, now.Add(s.cfg.OfferTime))
	s.offer(q, b)
}

// request answers a DHCPREQUEST (RFC 2131 4.3.2).
func (s *Server4) request(now time.Time, q *query4) {
	server, requested := q.Options.Addr(OptServerID), q.Options.Addr(OptRequestedAddr)
	switch {
	case server.IsValid() && server != s.cfg.ID:
		// RFC 2131 3.1.4: "Those servers not selected by the DHCPREQUEST message use the message as notification
		// that the client has declined that server's offer."
		s.stats.Foreign++
		s.table.withdraw(q.key)
	case server.IsValid():
		s.selecting(now, q, requested)
	case requested.IsValid() && !q.CIAddr.IsValid():
		s.confirm(now, q, requested)
	case q.CIAddr.IsValid():
		s.confirm(now, q, q.CIAddr)
	default:
		s.stats.Invalid++
	}
}

// selecting answers the DHCPREQUEST of a client that has chosen the server's offer. The server may have no
// record of the offer, because the offer has ended or the server was restarted. The client then still gets the
// address if the address is free.
//
// RFC 2131 4.3.2: "If the selected server is unable to satisfy the DHCPREQUEST message (e.g., the
// requested network address has been allocated), the server SHOULD respond with a DHCPNAK message."
func (s *Server4) selecting(now time.Time, q *query4, requested netip.Addr) {
	b := s.table.of(q, requested)
	if b == nil {
		s.nak(q, fmt.Sprintf("%v is not available", requested))
		return
	}
	s.assign(now, q, b)
}

// confirm answers the DHCPREQUEST of a client that has an address, or had it before it was restarted.
//
// RFC 2131 4.3.2, INIT-REBOOT: "Server SHOULD send a DHCPNAK message to the client if the 'requested IP
// address' is incorrect, or is on the wrong network." "If the DHCP server has no record of this client,
// then it MUST remain silent, and MAY output a warning to the network administrator."
func (s *Server4) confirm(now time.Time, q *query4, a netip.Addr) {
	if !q.net.Prefix.Contains(a) {
		s.nak(q, fmt.Sprintf("%v is not an address of this network", a))
		return
	}
	held, other := s.table.byClient[q.key], s.table.byAddr[a]
	switch {
	case held != nil && held.addr == a && held.state != Declined || q.reserved != nil && q.reserved.Addr == a:
		// The address is the client's.
	case held != nil && held.state == Leased, q.reserved != nil:
		s.nak(q, fmt.Sprintf("%v is not the address of this client", a))
		return
	case other != nil && other.state == Leased:
		s.nak(q, fmt.Sprintf("%v is the address of another client", a))
		return
	case !s.cfg.Authoritative:
		s.stats.Unknown++
		return
	}
	b := s.table.of(q, a)
	if b == nil {
		s.nak(q, fmt.Sprintf("%v is not available", a))
		return
	}
	s.assign(now, q, b)
}

// assign gives a lease to the client, or extends the client's lease, and sends a DHCPACK.
func (s *Server4) assign(now time.Time, q *query4, b *binding4) {
	kind := Assigned
	if b.state == Leased && b.key == q.key {
		kind = Extended
	}
	d := q.net.duration(q.Message4)
	until := time.Time{}
	if d < infinity*time.Second {
		until = now.Add(d)
	}
	if old := s.table.byClient[q.key]; old != nil && old != b && old.state == Leased {
		s.table.schedule(old, now)
		s.event(Ended, old)
	}
	s.table.lease(b, q, until)
	s.event(kind, b)
	m := s.reply(q, ACK)
	m.YIAddr = b.addr
	m.CIAddr = q.CIAddr
	if q.Type() == Discover {
		m.Options.Set(OptRapidCommit, []byte{})
	}
	s.stats.ACKs++
	s.send(q, m, d)
}

// offer sends a DHCPOFFER.
func (s *Server4) offer(q *query4, b *binding4) {
	m := s.reply(q, Offer)
	m.YIAddr = b.addr
	s.stats.Offers++
	s.send(q, m, b.net.duration(q.Message4))
}

// nak sends a DHCPNAK.
func (s *Server4) nak(q *query4, text string) {
	m := s.reply(q, NAK)
	m.Options.Set(OptMessage, []byte(text))
	s.stats.NAKs++
	s.send(q, m, 0)
}

// decline processes a DHCPDECLINE.
//
// RFC 2131 4.3.3: "The server MUST mark the network address as not available and SHOULD notify the local
// system administrator of a possible configuration problem."
func (s *Server4) decline(now time.Time, q *query4) {
	b := s.table.byAddr[q.Options.Addr(OptRequestedAddr)]
	if q.Options.Addr(OptServerID) != s.cfg.ID || b == nil || b.holder() != q.key {
		s.stats.Unknown++
		return
	}
	s.table.quarantine(b, now.Add(s.cfg.DeclineTime))
	s.event(InUse, b)
}

// release processes a DHCPRELEASE.
//
// RFC 2131 4.3.4: "Upon receipt of a DHCPRELEASE message, the server marks the network address as not
// allocated. The server SHOULD retain a record of the client's initialization parameters for possible
// reuse".
func (s *Server4) release(now time.Time, q *query4) {
	b := s.table.byAddr[q.CIAddr]
	if id := q.Options.Addr(OptServerID); id.IsValid() && id != s.cfg.ID || b == nil || b.state != Leased || b.key != q.key {
		s.stats.Unknown++
		return
	}
	b.until = now
	s.table.free(b)
	s.event(Returned, b)
}

// inform answers a DHCPINFORM of a client that did not get its address from this server. The answer goes to the
// client's address, so the server answers only if this is an address of the network.
//
// RFC 2131 4.3.5: "The server MUST NOT send a lease expiration time to the client and SHOULD NOT fill in
// 'yiaddr'."
func (s *Server4) inform(q *query4) {
	if !q.net.Prefix.Contains(q.CIAddr) {
		s.stats.Invalid++
		return
	}
	m := s.reply(q, ACK)
	m.CIAddr = q.CIAddr
	s.stats.ACKs++
	s.send(q, m, 0)
}
