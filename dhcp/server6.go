package dhcp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"iter"
	"math"
	"net/netip"
	"slices"
	"time"
)

// A Range6 is a range of IPv6 addresses, both ends included.
type Range6 struct{ First, Last netip.Addr }

// A Reservation6 is an address that a server assigns only to the client with a DUID.
type Reservation6 struct {
	DUID []byte
	Addr netip.Addr
}

// ServerConfig6 configures a Server6.
type ServerConfig6 struct {
	// DUID identifies the server, 3 to 130 bytes.
	DUID []byte
	// Prefix is the network of the link. Pools and Reservations have addresses of it. Without both, the server
	// is stateless: it only answers Information-requests (RFC 8415 6.1).
	Prefix       netip.Prefix
	Pools        []Range6
	Reservations []Reservation6
	// Preferred and Valid are the lifetimes of the addresses; half of Valid, and two hours, if zero.
	// The unit on the wire is the second.
	Preferred, Valid time.Duration
	// DNS and NTP are the addresses of servers, and Search are search domains.
	DNS, NTP []netip.Addr
	Search   []string
	// Refresh is when stateless clients ask again, at least 600 seconds; 86400 seconds if zero.
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
	// MaxBindings limits the number of assigned addresses; 65536 if zero.
	MaxBindings int
	// Bindings are those of an earlier server, as Server6.Bindings returned them.
	Bindings []Binding6
}

// A Binding6 is an address of a server.
type Binding6 struct {
	Addr  netip.Addr
	State BindingState4 // Leased or Declined
	// DUID and IAID identify the client and its interface.
	DUID []byte
	IAID uint32
	// Until is when the state ends.
	Until time.Time
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
	// Invalid counts messages without a required identifier or with a forbidden one, Foreign those for another
	// server, and Full the clients for which there was no address.
	Invalid, Foreign, Full uint64
}

// A Server6 is a server of DHCPv6 on one link (RFC 8415 18.3). It is not safe for concurrent use. It does not
// delegate prefixes, and serves no relay agents.
//
// An Advertise takes no memory: the server finds the address for a client from its DUID, so the client gets
// the same address later.
type Server6 struct {
	cfg      ServerConfig6
	byAddr   map[netip.Addr]*Binding6
	byClient map[string]*Binding6
	reserved map[netip.Addr]string // the DUID
	next     time.Time             // when the first binding ends; zero: unknown or never
	options  Options6              // by request
	events   []ServerEvent6
	stats    ServerStats6
}

// NewServer6 returns a server. The error says which part of the configuration is wrong.
func NewServer6(cfg ServerConfig6, now time.Time) (*Server6, error) {
	if !isDUID(cfg.DUID) {
		return nil, fmt.Errorf("dhcp: the DUID of the server has %d bytes, not 3 to 130", len(cfg.DUID))
	}
	stateful := len(cfg.Pools)+len(cfg.Reservations) > 0
	if stateful && (!cfg.Prefix.IsValid() || !cfg.Prefix.Addr().Is6()) {
		return nil, fmt.Errorf("dhcp: the network %v is not an IPv6 prefix", cfg.Prefix)
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
	s := &Server6{cfg: cfg, byAddr: make(map[netip.Addr]*Binding6), byClient: make(map[string]*Binding6), reserved: make(map[netip.Addr]string)}
	for _, p := range cfg.Pools {
		if !cfg.Prefix.Contains(p.First) || !cfg.Prefix.Contains(p.Last) || p.Last.Less(p.First) {
			return nil, fmt.Errorf("dhcp: the pool from %v to %v is not a range of %v", p.First, p.Last, cfg.Prefix)
		}
	}
	for _, r := range cfg.Reservations {
		if !cfg.Prefix.Contains(r.Addr) || !isDUID(r.DUID) || s.reserved[r.Addr] != "" {
			return nil, fmt.Errorf("dhcp: the reservation of %v is outside of %v, has no DUID, or is there twice", r.Addr, cfg.Prefix)
		}
		s.reserved[r.Addr] = string(r.DUID)
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
		if stateful && cfg.Prefix.Contains(b.Addr) && now.Before(b.Until) && (b.State == Leased || b.State == Declined) && s.byAddr[b.Addr] == nil {
			s.store(&b)
		}
	}
	s.cfg.Bindings = nil
	return s, nil
}

func (s *Server6) put(code OptionCode6, data []byte) {
	if len(data) > 0 {
		s.options.Add(code, data)
	}
}

func clientKey6(duid []byte, iaid uint32) string {
	return string(binary.BigEndian.AppendUint32(nil, iaid)) + string(duid)
}

// store adds a binding.
func (s *Server6) store(b *Binding6) {
	s.byAddr[b.Addr] = b
	if b.State == Leased {
		s.byClient[clientKey6(b.DUID, b.IAID)] = b
	}
	if s.next.IsZero() || b.Until.Before(s.next) {
		s.next = b.Until
	}
}

// drop removes a binding.
func (s *Server6) drop(b *Binding6) {
	delete(s.byAddr, b.Addr)
	if key := clientKey6(b.DUID, b.IAID); s.byClient[key] == b {
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

// Bindings returns the assigned and the declined addresses, in their order.
func (s *Server6) Bindings() iter.Seq[Binding6] {
	return func(yield func(Binding6) bool) {
		all := make([]Binding6, 0, len(s.byAddr))
		for _, b := range s.byAddr {
			all = append(all, *b)
		}
		slices.SortFunc(all, func(a, b Binding6) int { return a.Addr.Compare(b.Addr) })
		for _, b := range all {
			if !yield(b) {
				return
			}
		}
	}
}

// Deadline returns when to call Tick; the zero time means never.
func (s *Server6) Deadline() time.Time { return s.next }

// Tick ends the bindings whose time has come.
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
	slices.SortFunc(ended, func(a, b *Binding6) int { return a.Addr.Compare(b.Addr) })
	for _, b := range ended {
		s.drop(b)
		if b.State == Leased {
			s.event(Ended, b)
		}
	}
	if !s.next.IsZero() { // look at all bindings at most once in a second
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
func (s *Server6) Receive(now time.Time, m *Message6) *Message6 {
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
	if !s.answer(now, m, r, client) {
		return nil
	}
	s.stats.Replies++
	return r
}

// answer completes the reply to a message. It reports false if there is none.
func (s *Server6) answer(now time.Time, m, r *Message6, client []byte) bool {
	stateful := len(s.cfg.Pools)+len(s.cfg.Reservations) > 0
	switch m.Type {
	case InformationRequest6:
		refresh := cmpOr(s.cfg.Refresh, 86400*time.Second)
		r.Options.Add(Opt6Refresh, seconds(max(refresh, 600*time.Second)))
		s.parameters(m, r)
		return true
	case Confirm6:
		return s.confirm(m, r)
	case Release6, Decline6:
		s.giveBack(now, m, r, client)
		return true
	}
	if !stateful {
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
		case o.Code == Opt6IANA && ok && served == maxItems6: // ignored, because each needs a search
		case o.Code == Opt6IANA && ok:
			served++
			full := s.assign(now, m.Type, &ia, client, commit)
			if full {
				s.stats.Full++
			}
			any = true
			r.Options = append(r.Options, ia.option(Opt6IANA))
		case o.Code == Opt6IAPD && ok:
			r.Options = append(r.Options, (&ia6{id: ia.id, status: NoPrefixAvail6, text: "no prefixes are delegated"}).option(Opt6IAPD))
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

// assign fills an identity association of a client with an address. If commit is set, the client gets the
// address. full reports whether there was none.
func (s *Server6) assign(now time.Time, t MessageType6, ia *ia6, client []byte, commit bool) (full bool) {
	asked := ia.items
	*ia = ia6{id: ia.id}
	key := clientKey6(client, ia.id)
	b := s.byClient[key]
	if b == nil && t == Renew6 && len(asked) == 0 {
		ia.status, ia.text = NoBinding6, "there is no binding" // RFC 8415 18.3.4
		return false
	}
	var a netip.Addr
	switch {
	case b != nil:
		a = b.Addr
	default:
		for _, item := range asked { // a server that was started again gives the client what it has
			if x := item.prefix.Addr(); s.available(x, client) {
				a = x
				break
			}
		}
		if !a.IsValid() {
			a = s.choose(client, ia.id)
		}
	}
	// RFC 8415 18.3.4: addresses that are not right for the client get lifetimes of 0.
	if t != Solicit6 {
		for _, item := range asked {
			if item.prefix.Addr() != a {
				ia.items = append(ia.items, iaItem6{prefix: item.prefix})
			}
		}
	}
	if !a.IsValid() {
		ia.status, ia.text = NoAddrsAvail6, "there is no free address"
		return true
	}
	preferred, valid := s.cfg.Preferred/time.Second, s.cfg.Valid/time.Second
	ia.items = append(ia.items, iaItem6{netip.PrefixFrom(a, 128), uint32(min(preferred, infinity)), uint32(min(valid, infinity))})
	ia.t1, ia.t2 = uint32(min(preferred/2, infinity)), uint32(min(preferred*4/5, infinity))
	if !commit {
		return false
	}
	kind := Extended
	if b == nil {
		kind = Assigned
		b = &Binding6{Addr: a, State: Leased, DUID: bytes.Clone(client), IAID: ia.id}
	}
	b.Until = now.Add(s.cfg.Valid)
	s.store(b)
	s.event(kind, b)
	return false
}

// available reports whether an address may be assigned to a client that does not have it.
func (s *Server6) available(a netip.Addr, client []byte) bool {
	if s.byAddr[a] != nil || len(s.byAddr) >= s.cfg.MaxBindings {
		return false
	}
	if owner, ok := s.reserved[a]; ok {
		return owner == string(client)
	}
	return slices.ContainsFunc(s.cfg.Pools, func(p Range6) bool { return !a.Less(p.First) && !p.Last.Less(a) })
}

// maxSearch6 limits the number of addresses that choose looks at.
const maxSearch6 = 4096

// choose chooses a free address for a client: its reserved one, or else one at a place in the pools that the
// client's identity determines. It is invalid if there is none.
func (s *Server6) choose(client []byte, iaid uint32) netip.Addr {
	for _, r := range s.cfg.Reservations {
		if bytes.Equal(r.DUID, client) && s.available(r.Addr, client) {
			return r.Addr
		}
	}
	if len(s.byAddr) >= s.cfg.MaxBindings {
		return netip.Addr{}
	}
	// FNV-1a spreads the clients over the pools.
	hash := uint64(14695981039346656037)
	for _, c := range []byte(clientKey6(client, iaid)) {
		hash = (hash ^ uint64(c)) * 1099511628211
	}
	hash ^= hash >> 32
	for i := range s.cfg.Pools {
		p := s.cfg.Pools[(i+int(hash%uint64(len(s.cfg.Pools))))%len(s.cfg.Pools)]
		size := poolSize(p)
		first := hash % size
		for n := range min(size, maxSearch6) {
			if a := addTo(p.First, (first+n)%size); s.available(a, client) {
				return a
			}
		}
	}
	return netip.Addr{}
}

// poolSize returns the number of addresses of a pool, at most 2^62.
func poolSize(p Range6) uint64 {
	first, last := p.First.As16(), p.Last.As16()
	high := binary.BigEndian.Uint64(last[:]) - binary.BigEndian.Uint64(first[:])
	low1, low2 := binary.BigEndian.Uint64(first[8:]), binary.BigEndian.Uint64(last[8:])
	if high > 0 || low2-low1 >= 1<<62 {
		return 1 << 62
	}
	return low2 - low1 + 1
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

// confirm answers a Confirm. RFC 8415 18.3.3: the server answers whether all addresses are right for the link. It
// does not answer without addresses, or if it cannot know.
func (s *Server6) confirm(m, r *Message6) bool {
	n, status, text := 0, Success6, "all addresses are on the link"
	for _, o := range m.Options {
		ia, ok := parseIA(o.Code, o.Data)
		if o.Code != Opt6IANA || !ok {
			continue
		}
		for _, item := range ia.items {
			n++
			if !s.cfg.Prefix.Contains(item.prefix.Addr()) {
				status, text = NotOnLink6, "an address is not on the link"
			}
		}
	}
	r.Options.Add(Opt6Status, AppendStatus(nil, status, text))
	return n > 0 && s.cfg.Prefix.IsValid()
}

// giveBack processes a Release or a Decline (RFC 8415 18.3.7 and 18.3.8).
func (s *Server6) giveBack(now time.Time, m, r *Message6, client []byte) {
	for _, o := range m.Options {
		ia, ok := parseIA(o.Code, o.Data)
		if o.Code != Opt6IANA || !ok {
			continue
		}
		b := s.byClient[clientKey6(client, ia.id)]
		if b == nil {
			r.Options = append(r.Options, (&ia6{id: ia.id, status: NoBinding6, text: "there is no binding"}).option(Opt6IANA))
			continue
		}
		if !slices.ContainsFunc(ia.items, func(x iaItem6) bool { return x.prefix.Addr() == b.Addr }) {
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
