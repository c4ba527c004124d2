package dhcp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"iter"
	"math"
	"math/bits"
	"net/netip"
	"slices"
	"time"
)

// A Range6 is a range of IPv6 addresses, both ends included.
type Range6 struct{ First, Last netip.Addr }

// A Reservation6 is an address that a server assigns only to the client with this DUID.
type Reservation6 struct {
	DUID []byte
	Addr netip.Addr
}

// A PrefixPool6 has the prefixes of length Bits in Prefix. A server delegates them to routers. Bits is at most 64.
type PrefixPool6 struct {
	Prefix netip.Prefix
	Bits   int
}

// A Link6 is a link whose clients a server serves.
type Link6 struct {
	// Prefix is the network of the link. Pools and Reservations have addresses of this network. If both are empty,
	// the server assigns no addresses.
	Prefix       netip.Prefix
	Pools        []Range6
	Reservations []Reservation6
	// Delegated are pools of prefixes for the clients that ask for one (RFC 8415 6.3). The routers of the link
	// need a route to each delegated prefix; the server does not add it.
	Delegated []PrefixPool6
}

// ServerConfig6 configures a Server6.
type ServerConfig6 struct {
	// DUID identifies the server, 3 to 130 bytes.
	DUID []byte
	// Prefix, Pools, Reservations and Delegated describe the link on which the server receives multicasts, as in
	// Link6. Without the last three, the server is stateless for this link: it gives clients settings, but no
	// addresses or prefixes (RFC 8415 6.1).
	Prefix       netip.Prefix
	Pools        []Range6
	Reservations []Reservation6
	Delegated    []PrefixPool6
	// Relayed are links behind relay agents. If there are none, the server ignores messages of relay agents.
	Relayed []Link6
	// Preferred and Valid are the lifetimes of the addresses and prefixes. If Valid is zero, it is two hours. If
	// Preferred is zero or longer than Valid, it is half of Valid. The unit on the wire is the second.
	Preferred, Valid time.Duration
	// DNS and NTP are the addresses of servers, and Search are search domains.
	DNS, NTP []netip.Addr
	Search   []string
	// Refresh is the time after which stateless clients ask again, at least 600 seconds; 86400 seconds if zero.
	Refresh time.Duration
	// Preference is the preference value from 0 to 255 (RFC 8415 21.8). Clients accept the offer of a server
	// with 255 at once.
	Preference uint8
	// RapidCommit assigns addresses in the first answer to clients that ask for this.
	RapidCommit bool
	// Options are further options for clients that request them.
	Options Options6
	// DeclineTime is how long an address that is in use by another node is not assigned; ten minutes if zero.
	DeclineTime time.Duration
	// MaxBindings limits the number of assigned addresses and prefixes; 65536 if zero.
	MaxBindings int
	// Bindings are those of an earlier server, as Server6.Bindings returned them. Bindings that have ended or do
	// not fit the links are ignored.
	Bindings []Binding6
}

// A Binding6 is an address or a prefix of a server.
type Binding6 struct {
	// Addr is the address, or the first address of the prefix. Bits is the length of the prefix; 0 for an address.
	Addr  netip.Addr
	Bits  int
	State BindingState4 // Leased or Declined
	// DUID and IAID identify the client and its interface.
	DUID []byte
	IAID uint32
	// Until is when the state ends.
	Until time.Time
}

// prefix returns the prefix of a binding. The prefix of an address has 128 bits.
func (b *Binding6) prefix() netip.Prefix {
	if b.Bits == 0 {
		return netip.PrefixFrom(b.Addr, 128)
	}
	return netip.PrefixFrom(b.Addr, b.Bits)
}

// code returns the code of the identity association that carries the binding: IA_NA or IA_PD.
func (b *Binding6) code() OptionCode6 {
	if b.Bits == 0 {
		return Opt6IANA
	}
	return Opt6IAPD
}

// A ServerEvent6 is a change of a binding.
type ServerEvent6 struct {
	Kind    ServerEventKind4
	Binding Binding6
}

// ServerStats6 counts what a server has received, and why it did not answer.
type ServerStats6 struct {
	Received [RelayForward6]uint64 // messages by type; index 0: other types
	Replies  uint64
	// Invalid counts malformed relay messages, messages of types that a server does not receive, and messages
	// without a required identifier or with a forbidden one.
	// Foreign counts messages for another server or from a link that is not served. Full counts the identity
	// associations for which there was no free address or prefix. Relayed counts the messages of relay agents.
	Invalid, Foreign, Full, Relayed uint64
}

// A Server6 is a server of DHCPv6 on one link (RFC 8415 18.3), and on further links behind relay agents. It is not
// safe for concurrent use.
//
// The server stores nothing for an Advertise. It computes the address for a client from the client's DUID and IAID,
// so the client gets the same address later, if the address is still free.
type Server6 struct {
	cfg       ServerConfig6
	links     []*Link6 // first the server's own link, then those behind relay agents
	byAddr    map[netip.Prefix]*Binding6
	byClient  map[string]*Binding6
	reserved  map[netip.Addr]string // the client's DUID, by reserved address
	delegated []PrefixPool6         // of all links
	next      time.Time             // when Tick next looks for bindings that have ended; zero: never
	options   Options6              // sent to clients that request them
	events    []ServerEvent6
	stats     ServerStats6
}

// NewServer6 returns a server. The error says which part of the configuration is wrong.
func NewServer6(cfg ServerConfig6, now time.Time) (*Server6, error) {
	if !isDUID(cfg.DUID) {
		return nil, fmt.Errorf("dhcp: the DUID of the server has %d bytes, not 3 to 130", len(cfg.DUID))
	}
	if cfg.Valid <= 0 {
		cfg.Valid = 2 * time.Hour
	}
	if cfg.Preferred <= 0 || cfg.Preferred > cfg.Valid {
		cfg.Preferred = cfg.Valid / 2
	}
	if cfg.DeclineTime <= 0 {
		cfg.DeclineTime = defaultDeclineTime
	}
	if cfg.MaxBindings <= 0 {
		cfg.MaxBindings = defaultMaxBindings
	}
	s := &Server6{cfg: cfg, byAddr: make(map[netip.Prefix]*Binding6), byClient: make(map[string]*Binding6), reserved: make(map[netip.Addr]string)}
	s.links = []*Link6{{cfg.Prefix, cfg.Pools, cfg.Reservations, cfg.Delegated}}
	for i := range s.cfg.Relayed {
		s.links = append(s.links, &s.cfg.Relayed[i])
	}
	for i, l := range s.links {
		if err := s.check(l, i > 0); err != nil {
			return nil, err
		}
	}
	search, err := AppendNames(nil, cfg.Search)
	if err != nil {
		return nil, err
	}
	s.put(Opt6DNS, AppendAddrs6(nil, cfg.DNS...))
	s.put(Opt6DomainSearch, search)
	var ntp Options6
	for _, a := range cfg.NTP {
		ntp.Add(1, AppendAddrs6(nil, a))
	}
	s.put(Opt6NTP, ntp.append(nil))
	s.put(Opt6SNTP, AppendAddrs6(nil, cfg.NTP...))
	s.options = append(s.options, cfg.Options...)
	for _, b := range cfg.Bindings {
		known := slices.ContainsFunc(s.links, func(l *Link6) bool { return l.fits(b.code(), b.prefix()) })
		if owner, ok := s.reserved[b.Addr]; ok && b.Bits == 0 && b.State == Leased && owner != string(b.DUID) {
			continue // the address has been reserved since
		}
		if known && now.Before(b.Until) && (b.State == Leased || b.State == Declined) && s.byAddr[b.prefix()] == nil {
			s.store(&b)
		}
	}
	s.cfg.Bindings = nil
	return s, nil
}

// check returns an error if the configuration of a link is wrong, and records its reservations.
func (s *Server6) check(l *Link6, relayed bool) error {
	if addrs := len(l.Pools)+len(l.Reservations) > 0; (addrs || relayed) && (!l.Prefix.IsValid() || !l.Prefix.Addr().Is6()) {
		return fmt.Errorf("dhcp: the network %v is not an IPv6 prefix", l.Prefix)
	}
	for _, p := range l.Pools {
		if !l.Prefix.Contains(p.First) || !l.Prefix.Contains(p.Last) || p.Last.Less(p.First) {
			return fmt.Errorf("dhcp: the pool from %v to %v is not a range of %v", p.First, p.Last, l.Prefix)
		}
	}
	for _, r := range l.Reservations {
		if !l.Prefix.Contains(r.Addr) || !isDUID(r.DUID) || s.reserved[r.Addr] != "" {
			return fmt.Errorf("dhcp: the reservation of %v is outside of %v, has no DUID, or is there twice", r.Addr, l.Prefix)
		}
		s.reserved[r.Addr] = string(r.DUID)
	}
	for _, p := range l.Delegated {
		if !p.Prefix.IsValid() || !p.Prefix.Addr().Is6() || p.Prefix.Bits() > p.Bits || p.Bits < 1 || p.Bits > 64 {
			return fmt.Errorf("dhcp: the pool %v of prefixes does not have prefixes of %d bits, at most 64", p.Prefix, p.Bits)
		}
		for _, q := range s.delegated {
			if q.Bits != p.Bits && q.Prefix.Overlaps(p.Prefix) {
				return fmt.Errorf("dhcp: the pools %v and %v overlap, but have prefixes of different lengths", q.Prefix, p.Prefix)
			}
		}
		s.delegated = append(s.delegated, p)
	}
	return nil
}

// fits reports whether an address or a prefix is right for a client on the link.
func (l *Link6) fits(code OptionCode6, p netip.Prefix) bool {
	if code == Opt6IANA {
		return l.assigns() && l.Prefix.Contains(p.Addr())
	}
	return slices.ContainsFunc(l.Delegated, func(pool PrefixPool6) bool { return pool.contains(p) })
}

// assigns reports whether clients on the link may get addresses.
func (l *Link6) assigns() bool { return len(l.Pools)+len(l.Reservations) > 0 }

func (s *Server6) put(code OptionCode6, data []byte) {
	if len(data) > 0 {
		s.options.Add(code, data)
	}
}

func clientKey6(code OptionCode6, duid []byte, iaid uint32) string {
	return string(binary.BigEndian.AppendUint32([]byte{byte(code)}, iaid)) + string(duid)
}

// store adds a binding.
func (s *Server6) store(b *Binding6) {
	s.byAddr[b.prefix()] = b
	if b.State == Leased {
		s.byClient[clientKey6(b.code(), b.DUID, b.IAID)] = b
	}
	if s.next.IsZero() || b.Until.Before(s.next) {
		s.next = b.Until
	}
}

// drop removes a binding.
func (s *Server6) drop(b *Binding6) {
	delete(s.byAddr, b.prefix())
	if key := clientKey6(b.code(), b.DUID, b.IAID); s.byClient[key] == b {
		delete(s.byClient, key)
	}
}

// Stats returns the counters of the server.
func (s *Server6) Stats() ServerStats6 { return s.stats }

// NextEvent returns the next event. ok is false if there is none.
func (s *Server6) NextEvent() (e ServerEvent6, ok bool) {
	if len(s.events) == 0 {
		return e, false
	}
	e, s.events = s.events[0], s.events[1:]
	return e, true
}

func (s *Server6) event(kind ServerEventKind4, b *Binding6) {
	s.events = append(s.events, ServerEvent6{kind, *b})
}

// Bindings returns the assigned and the declined addresses, and the assigned prefixes, in ascending order.
func (s *Server6) Bindings() iter.Seq[Binding6] {
	return func(yield func(Binding6) bool) {
		all := make([]Binding6, 0, len(s.byAddr))
		for _, b := range s.byAddr {
			all = append(all, *b)
		}
		slices.SortFunc(all, func(a, b Binding6) int { return a.prefix().Compare(b.prefix()) })
		for _, b := range all {
			if !yield(b) {
				return
			}
		}
	}
}

// Deadline returns when to call Tick; the zero time means never.
func (s *Server6) Deadline() time.Time { return s.next }

// Tick ends the bindings whose Until has come. A binding may end up to one second late.
func (s *Server6) Tick(now time.Time) {
	if s.next.IsZero() || now.Before(s.next) {
		return
	}
	s.next = time.Time{}
	var ended []*Binding6
	for _, b := range s.byAddr {
		switch {
		case !now.Before(b.Until):
			ended = append(ended, b)
		case s.next.IsZero() || b.Until.Before(s.next):
			s.next = b.Until
		}
	}
	slices.SortFunc(ended, func(a, b *Binding6) int { return a.prefix().Compare(b.prefix()) })
	for _, b := range ended {
		s.drop(b)
		if b.State == Leased {
			s.event(Ended, b)
		}
	}
	if !s.next.IsZero() { // look at all bindings at most once a second
		s.next = later(s.next, now.Add(time.Second))
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// Receive processes a message that arrived on port 547 by multicast, and returns the reply to its sender, or nil.
func (s *Server6) Receive(now time.Time, m *Message6) *Message6 { return s.receive(now, m, s.links[0]) }

// receive processes a message of a client on a link.
func (s *Server6) receive(now time.Time, m *Message6, link *Link6) *Message6 {
	if m.Type < RelayForward6 {
		s.stats.Received[m.Type]++
	} else {
		s.stats.Received[0]++
	}
	client, hasClient := m.Options.Get(Opt6ClientID)
	server, hasServer := m.Options.Get(Opt6ServerID)
	// RFC 8415 16: which messages need which identifiers.
	needServer, noServer := false, false
	switch m.Type {
	case Solicit6, Confirm6, Rebind6:
		noServer = true
	case Request6, Renew6, Release6, Decline6:
		needServer = true
	case InformationRequest6:
	default:
		s.stats.Invalid++
		return nil
	}
	switch {
	case hasClient && !isDUID(client) || !hasClient && m.Type != InformationRequest6, noServer && hasServer, needServer && !hasServer:
		s.stats.Invalid++
		return nil
	case hasServer && !bytes.Equal(server, s.cfg.DUID):
		s.stats.Foreign++
		return nil
	}
	s.Tick(now)
	r := &Message6{Type: Reply6, XID: m.XID}
	r.Options.Add(Opt6ServerID, s.cfg.DUID)
	if hasClient {
		r.Options.Add(Opt6ClientID, client)
	}
	if !s.answer(now, m, r, client, link) {
		return nil
	}
	s.stats.Replies++
	return r
}

// answer completes the reply r to the message m. It reports false if the server must not reply.
func (s *Server6) answer(now time.Time, m, r *Message6, client []byte, link *Link6) bool {
	switch m.Type {
	case InformationRequest6:
		refresh := cmpOr(s.cfg.Refresh, 86400*time.Second)
		r.Options.Add(Opt6Refresh, seconds(max(refresh, 600*time.Second)))
		s.parameters(m, r)
		return true
	case Confirm6:
		return s.confirm(m, r, link)
	case Release6, Decline6:
		s.giveBack(now, m, r, client)
		return true
	}
	if !link.assigns() && len(link.Delegated) == 0 {
		return false
	}
	_, rapid := m.Options.Get(Opt6RapidCommit)
	commit := m.Type != Solicit6
	if m.Type == Solicit6 {
		if commit = rapid && s.cfg.RapidCommit; commit {
			r.Options.Add(Opt6RapidCommit, []byte{})
		} else {
			r.Type = Advertise6
			if s.cfg.Preference > 0 {
				r.Options.Add(Opt6Preference, []byte{s.cfg.Preference})
			}
		}
	}
	any, served := false, 0
	for _, o := range m.Options {
		switch ia, ok := parseIA(o.Code, o.Data); {
		case !ok || o.Code != Opt6IANA && o.Code != Opt6IAPD:
		case o.Code == Opt6IAPD && len(link.Delegated) == 0:
			r.Options = append(r.Options, (&ia6{id: ia.id, status: NoPrefixAvail6, text: "no prefixes are delegated"}).option(Opt6IAPD))
		case o.Code == Opt6IANA && !link.assigns():
			r.Options = append(r.Options, (&ia6{id: ia.id, status: NoAddrsAvail6, text: "no addresses are assigned"}).option(Opt6IANA))
		case served == maxItems6: // ignore further ones, because each of them needs a search
		default:
			served++
			if full := s.assign(now, m.Type, o.Code, &ia, client, commit, link); full {
				s.stats.Full++
			}
			any = true
			r.Options = append(r.Options, ia.option(o.Code))
		}
	}
	s.parameters(m, r)
	return any
}

func cmpOr(a, b time.Duration) time.Duration {
	if a > 0 {
		return a
	}
	return b
}

func seconds(d time.Duration) []byte {
	return binary.BigEndian.AppendUint32(nil, uint32(min(d/time.Second, math.MaxUint32)))
}

// parameters adds the options that the client requests.
func (s *Server6) parameters(m, r *Message6) {
	b, _ := m.Options.Get(Opt6Request)
	for _, o := range s.options {
		for list := b; len(list) >= 2; list = list[2:] {
			if OptionCode6(binary.BigEndian.Uint16(list)) == o.Code {
				r.Options = append(r.Options, o)
				break
			}
		}
	}
}

// assign fills an identity association of a client with an address or a prefix. If commit is set, assign also
// stores the binding. full reports whether there was no free address or prefix.
func (s *Server6) assign(now time.Time, t MessageType6, code OptionCode6, ia *ia6, client []byte, commit bool, link *Link6) (full bool) {
	asked := ia.items
	*ia = ia6{id: ia.id}
	b := s.byClient[clientKey6(code, client, ia.id)]
	if b == nil && t == Renew6 && len(asked) == 0 {
		ia.status, ia.text = NoBinding6, "there is no binding" // RFC 8415 18.3.4
		return false
	}
	moved := b != nil && !link.fits(code, b.prefix()) // the client is now on another link
	if moved && commit {                              // drop b first, because the table may be full
		s.drop(b)
		s.event(Ended, b)
		b, moved = nil, false
	}
	var p netip.Prefix
	if b != nil && !moved {
		p = b.prefix()
	} else {
		for _, item := range asked { // if the server has lost its bindings, the client keeps its address
			if s.available(code, item.prefix, client, link) {
				p = item.prefix
				break
			}
		}
		if !p.IsValid() {
			p = s.choose(code, client, ia.id, link)
		}
	}
	// RFC 8415 18.3.4: addresses and prefixes that are not right for the client get lifetimes of 0.
	if t != Solicit6 {
		for _, item := range asked {
			if item.prefix != p {
				ia.items = append(ia.items, iaItem6{prefix: item.prefix})
			}
		}
	}
	if !p.IsValid() {
		ia.status, ia.text = NoAddrsAvail6, "there is no free address"
		if code == Opt6IAPD {
			ia.status, ia.text = NoPrefixAvail6, "there is no free prefix"
		}
		return true
	}
	preferred, valid := s.cfg.Preferred/time.Second, s.cfg.Valid/time.Second
	ia.items = append(ia.items, iaItem6{p, uint32(min(preferred, infinity)), uint32(min(valid, infinity))})
	ia.t1, ia.t2 = uint32(min(preferred/2, infinity)), uint32(min(preferred*4/5, infinity))
	if !commit {
		return false
	}
	kind := Extended
	if b == nil {
		kind = Assigned
		b = &Binding6{Addr: p.Addr(), State: Leased, DUID: bytes.Clone(client), IAID: ia.id}
		if code == Opt6IAPD {
			b.Bits = p.Bits()
		}
	}
	b.Until = now.Add(s.cfg.Valid)
	s.store(b)
	s.event(kind, b)
	return false
}

// available reports whether an address or a prefix may be assigned to a client that does not have it.
func (s *Server6) available(code OptionCode6, p netip.Prefix, client []byte, link *Link6) bool {
	if s.byAddr[p] != nil || len(s.byAddr) >= s.cfg.MaxBindings || !link.fits(code, p) {
		return false
	}
	if code == Opt6IAPD {
		return true
	}
	a := p.Addr()
	if owner, ok := s.reserved[a]; ok {
		return owner == string(client)
	}
	return slices.ContainsFunc(link.Pools, func(p Range6) bool { return !a.Less(p.First) && !p.Last.Less(a) })
}

// maxSearch6 limits the number of addresses or prefixes that choose looks at in each pool.
const maxSearch6 = 4096

// choose chooses a free address or prefix for a client: the reserved address, or else the first free one in the
// pools. The search starts at a place that a hash of the client's DUID and IAID determines. The result is invalid if
// choose finds none.
func (s *Server6) choose(code OptionCode6, client []byte, iaid uint32, link *Link6) netip.Prefix {
	if code == Opt6IANA {
		for _, r := range link.Reservations {
			if p := netip.PrefixFrom(r.Addr, 128); bytes.Equal(r.DUID, client) && s.available(code, p, client, link) {
				return p
			}
		}
	}
	if len(s.byAddr) >= s.cfg.MaxBindings {
		return netip.Prefix{}
	}
	// FNV-1a spreads the clients over the pools.
	hash := uint64(14695981039346656037)
	for _, c := range []byte(clientKey6(code, client, iaid)) {
		hash = (hash ^ uint64(c)) * 1099511628211
	}
	hash ^= hash >> 32
	pools := len(link.Pools)
	if code == Opt6IAPD {
		pools = len(link.Delegated)
	}
	for i := range pools {
		i = (i + int(hash%uint64(pools))) % pools
		var size uint64
		var at func(n uint64) netip.Prefix
		if code == Opt6IAPD {
			size, at = prefixes6(link.Delegated[i]), link.Delegated[i].prefixAt
		} else {
			size = poolSize(link.Pools[i])
			at = func(n uint64) netip.Prefix { return netip.PrefixFrom(addTo(link.Pools[i].First, n), 128) }
		}
		first := hash % size
		for n := range min(size, maxSearch6) {
			if p := at((first + n) % size); s.available(code, p, client, link) {
				return p
			}
		}
	}
	return netip.Prefix{}
}

// poolSize returns the number of addresses of a pool, at most 2^62.
func poolSize(p Range6) uint64 {
	first, last := p.First.As16(), p.Last.As16()
	low, borrow := bits.Sub64(binary.BigEndian.Uint64(last[8:]), binary.BigEndian.Uint64(first[8:]), 0)
	high, _ := bits.Sub64(binary.BigEndian.Uint64(last[:]), binary.BigEndian.Uint64(first[:]), borrow)
	if high > 0 || low >= 1<<62 {
		return 1 << 62
	}
	return low + 1
}

func addTo(a netip.Addr, n uint64) netip.Addr {
	b := a.As16()
	low := binary.BigEndian.Uint64(b[8:])
	if low+n < low {
		binary.BigEndian.PutUint64(b[:], binary.BigEndian.Uint64(b[:])+1)
	}
	binary.BigEndian.PutUint64(b[8:], low+n)
	return netip.AddrFrom16(b)
}

// confirm completes the reply to a Confirm. RFC 8415 18.3.3: the reply says whether all addresses are right for the
// link. There is no reply if the Confirm has no addresses, or if the server does not know the prefix of the link.
func (s *Server6) confirm(m, r *Message6, link *Link6) bool {
	n, status, text := 0, Success6, "all addresses are on the link"
	for _, o := range m.Options {
		ia, ok := parseIA(o.Code, o.Data)
		if o.Code != Opt6IANA || !ok {
			continue
		}
		for _, item := range ia.items {
			n++
			if !link.Prefix.Contains(item.prefix.Addr()) {
				status, text = NotOnLink6, "an address is not on the link"
			}
		}
	}
	r.Options.Add(Opt6Status, AppendStatus(nil, status, text))
	return n > 0 && link.Prefix.IsValid()
}

// giveBack processes a Release or a Decline (RFC 8415 18.3.7 and 18.3.8).
func (s *Server6) giveBack(now time.Time, m, r *Message6, client []byte) {
	for _, o := range m.Options {
		ia, ok := parseIA(o.Code, o.Data)
		if !ok || o.Code != Opt6IANA && (o.Code != Opt6IAPD || m.Type != Release6) {
			continue
		}
		b := s.byClient[clientKey6(o.Code, client, ia.id)]
		if b == nil {
			r.Options = append(r.Options, (&ia6{id: ia.id, status: NoBinding6, text: "there is no binding"}).option(o.Code))
			continue
		}
		if !slices.ContainsFunc(ia.items, func(x iaItem6) bool { return x.prefix == b.prefix() }) {
			continue
		}
		s.drop(b)
		if m.Type == Release6 {
			b.Until = now
			s.event(Returned, b)
			continue
		}
		declined := *b
		declined.State, declined.Until = Declined, now.Add(s.cfg.DeclineTime)
		s.store(&declined)
		s.event(InUse, &declined)
	}
	r.Options.Add(Opt6Status, AppendStatus(nil, Success6, ""))
}
