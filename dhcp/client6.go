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

// A State6 is a state of a Client6.
type State6 uint8

const (
	Stopped6    State6 = iota // not started, released, or the link is down
	Soliciting6               // searches for servers
	Requesting6               // has requested what a server advertised
	Confirming6               // asks whether its addresses are right for the link
	Bound6                    // has a lease
	Renewing6                 // asks its server to extend the lease
	Rebinding6                // asks all servers to extend the lease
	Declining6                // tells its server that an address is in use by another node
	Informing6                // asks for settings without an address
	Informed6                 // has settings without an address
)

func (s State6) String() string {
	names := []string{"stopped", "soliciting", "requesting", "confirming", "bound", "renewing", "rebinding", "declining", "informing", "informed"}
	if int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// ClientConfig6 configures a Client6.
type ClientConfig6 struct {
	// DUID identifies the client. If it does not have 3 to 130 bytes, the client uses DUIDFromMAC(MAC).
	MAC  [6]byte
	DUID []byte
	// IAID identifies the interface among those of the client. If it is 0, the client uses the last four bytes
	// of the MAC.
	IAID uint32
	// Addrs asks for an address, and Prefixes for a delegated prefix. PrefixBits, if not 0, is the length of the
	// prefix that the client prefers. With neither Addrs nor Prefixes, the client only asks for other settings
	// (RFC 8415 18.2.6).
	Addrs, Prefixes bool
	PrefixBits      int
	// RapidCommit makes the client ask for, and accept, a lease in the first answer of a server (RFC 8415 18.2.1).
	RapidCommit bool
	// Parameters are options to request in addition to those that the client always requests.
	Parameters []OptionCode6
	// Rand returns random bits. It must be set.
	Rand func() uint64
}

// A Lease6 is what a server has given to a client. A zero time in it means never.
type Lease6 struct {
	ServerID []byte
	// Addrs are addresses, as prefixes of 128 bits. Prefixes are delegated prefixes.
	Addrs, Prefixes []LeaseItem6
	// DNS and NTP are the addresses of servers, and Search are the search domains. Names that a host cannot
	// have are omitted.
	DNS, NTP []netip.Addr
	Search   []string
	// Obtained is when the lease was received. From Renew (T1) on, the client asks its server to extend the
	// lease, and from Rebind (T2) on, it asks all servers. Expires is when the last address or prefix ends. If
	// there are no addresses and prefixes, Renew is when the client asks for the settings again.
	Obtained, Renew, Rebind, Expires time.Time
	// Options are all received options.
	Options Options6
}

// A LeaseItem6 is an address or a prefix.
type LeaseItem6 struct {
	Prefix                     netip.Prefix
	PreferredUntil, ValidUntil time.Time
}

// An Event6 is a change in a client. The kinds are Acquired, Renewed, Lost and Refused.
type Event6 struct {
	Kind   EventKind4
	Lease  *Lease6 // must not be modified; nil with Refused
	Reason string  // a text for people; set with Lost and Refused
}

// A Client6 is a client of DHCPv6 on one link (RFC 8415 18.2). It is not safe for concurrent use.
//
// After each call, the caller takes the messages from NextSend and sends them from port 546 to AllServers6, port
// 547. It then processes the events from NextEvent, and calls Tick at the time of Deadline. The time of a call must
// not be before the time of the previous call. The client ignores Reconfigure messages, and does not tell servers
// that it accepts them.
type Client6 struct {
	cfg   ClientConfig6
	state State6

	xid    uint32
	began  time.Time     // when the client sent the first message of the exchange
	rt     time.Duration // the current retransmission timeout, RT in RFC 8415 15
	tries  int           // number of messages sent in this exchange
	next   time.Time     // when Tick has something to do; zero: never
	held   *Lease6       // nil: none
	server []byte        // the DUID of the server of a Request or Decline
	offer  *Message6     // the best Advertise; in Requesting6 the one that the client requests; may be nil
	rank   int           // of offer
	bad    netip.Addr    // the address that is being declined

	solMaxRT, infMaxRT time.Duration
	paid               time.Time // each message advances it by messageTime; wait limits how far it is ahead of now

	sends  []*Message6
	events []Event6
}

// An exchange6 has the retransmission parameters of a state (RFC 8415 7.6 and 15).
type exchange6 struct {
	kind     MessageType6
	delay    time.Duration // the maximum delay before the first message
	irt, mrt time.Duration
	mrc      int
	mrd      time.Duration
}

func (c *Client6) exchange() exchange6 {
	const s = time.Second
	switch c.state {
	case Soliciting6:
		return exchange6{kind: Solicit6, delay: s, irt: s, mrt: c.solMaxRT}
	case Requesting6:
		return exchange6{kind: Request6, irt: s, mrt: 30 * s, mrc: 10}
	case Confirming6:
		return exchange6{kind: Confirm6, delay: s, irt: s, mrt: 4 * s, mrd: 10 * s}
	case Renewing6:
		return exchange6{kind: Renew6, irt: 10 * s, mrt: 600 * s}
	case Rebinding6:
		return exchange6{kind: Rebind6, irt: 10 * s, mrt: 600 * s}
	case Declining6:
		return exchange6{kind: Decline6, irt: s, mrc: 4}
	case Informing6:
		return exchange6{kind: InformationRequest6, delay: s, irt: s, mrt: c.infMaxRT}
	}
	return exchange6{}
}

// NewClient6 returns a stopped client.
func NewClient6(cfg ClientConfig6) *Client6 {
	if !isDUID(cfg.DUID) {
		cfg.DUID = DUIDFromMAC(cfg.MAC)
	}
	if cfg.IAID == 0 {
		cfg.IAID = binary.BigEndian.Uint32(cfg.MAC[2:])
	}
	return &Client6{cfg: cfg, solMaxRT: time.Hour, infMaxRT: time.Hour}
}

// State returns the state of the client.
func (c *Client6) State() State6 { return c.state }

// Tries returns how many messages the client has sent in its current state without a usable answer.
func (c *Client6) Tries() int { return c.tries }

// Lease returns the lease in use, or nil.
func (c *Client6) Lease() *Lease6 { return c.held }

// NextSend returns the next message to send. ok is false if there is none.
func (c *Client6) NextSend() (m *Message6, ok bool) {
	if len(c.sends) == 0 {
		return nil, false
	}
	m, c.sends = c.sends[0], c.sends[1:]
	return m, true
}

// NextEvent returns the next event. ok is false if there is none.
func (c *Client6) NextEvent() (e Event6, ok bool) {
	if len(c.events) == 0 {
		return e, false
	}
	e, c.events = c.events[0], c.events[1:]
	return e, true
}

// Deadline returns when to call Tick; the zero time means never.
func (c *Client6) Deadline() time.Time {
	at := c.next
	if c.held != nil && !c.held.Expires.IsZero() && (at.IsZero() || c.held.Expires.Before(at)) {
		at = c.held.Expires
	}
	return at
}

// Up tells the client that the link is up: for the first time, or again, possibly on another network.
//
// RFC 8415 18.2.12: a client that has moved "MUST initiate one of the following message exchanges": Rebind with
// delegated prefixes, Confirm with addresses, Information-request otherwise.
func (c *Client6) Up(now time.Time) {
	switch l := c.held; {
	case l != nil && len(l.Prefixes) > 0:
		c.enter(now, Rebinding6)
	case l != nil && len(l.Addrs) > 0:
		c.enter(now, Confirming6)
	default:
		c.search(now)
	}
}

// Down tells the client that the link is down. The client sends nothing until Up. A lease still expires at its
// time.
func (c *Client6) Down() { c.stop() }

func (c *Client6) stop() { c.state, c.next, c.tries, c.offer = Stopped6, time.Time{}, 0, nil }

// SetMode sets Addrs and Prefixes of ClientConfig6. If this changes one of them, a started client loses its lease
// and starts again.
func (c *Client6) SetMode(now time.Time, addrs, prefixes bool) {
	if c.cfg.Addrs == addrs && c.cfg.Prefixes == prefixes {
		return
	}
	c.cfg.Addrs, c.cfg.Prefixes = addrs, prefixes
	if c.state != Stopped6 {
		c.lose("the network has changed how it configures hosts")
		c.search(now)
	}
}

// Release returns the lease to the server and stops the client.
//
// RFC 8415 18.2.7 has the client retransmit the Release. This client sends it once, because its caller is about
// to leave.
func (c *Client6) Release(now time.Time) {
	if l := c.held; l != nil && c.state != Stopped6 && len(l.Addrs)+len(l.Prefixes) > 0 {
		c.xid, c.tries, c.began = uint32(c.cfg.Rand())&0xffffff, 0, now
		m := c.message(now, Release6)
		m.Options.Add(Opt6ServerID, l.ServerID)
		c.addIAs(m, l)
		c.sends = append(c.sends, m)
	}
	c.lose("it was released")
	c.stop()
}

// search starts to search for servers.
func (c *Client6) search(now time.Time) {
	if c.cfg.Addrs || c.cfg.Prefixes {
		c.enter(now, Soliciting6)
	} else {
		c.enter(now, Informing6)
	}
}

// enter starts the exchange of a state.
func (c *Client6) enter(now time.Time, s State6) {
	c.state, c.tries, c.rt, c.xid = s, 0, 0, uint32(c.cfg.Rand())&0xffffff
	if s != Requesting6 {
		c.offer = nil
	}
	if d := c.exchange().delay; d > 0 {
		// RFC 8415 18.2.1, 18.2.3, 18.2.6: the first message "MUST be delayed by a random amount of time".
		c.next = now.Add(time.Duration(c.cfg.Rand() % uint64(d)))
		return
	}
	c.transmit(now)
}

// fuzz returns a random duration from -d/10 to d/10.
func (c *Client6) fuzz(d time.Duration) time.Duration {
	return time.Duration(c.cfg.Rand()%uint64(d/5+1)) - d/10
}

// The client sends at most one message in messageTime, after a burst of at most burstTime/messageTime messages.
const (
	messageTime = time.Second
	burstTime   = 20 * time.Second
)

// wait returns when the client may send a message: now, or later if it has sent too many.
//
// RFC 8415 14.1: "A client MUST limit the rate of DHCP messages it transmits or retransmits." It gives 20 packets
// in 20 seconds as a possible default. Without the limit, a server that advertises a lease and then refuses it
// would make the client send messages without end.
func (c *Client6) wait(now time.Time) time.Time {
	c.paid = later(c.paid, now)
	if at := c.paid.Add(messageTime - burstTime); at.After(now) {
		return at
	}
	c.paid = c.paid.Add(messageTime)
	return now
}

// transmit queues the message of the exchange, and sets the time of the next one (RFC 8415 15). If the client has
// sent too many messages, transmit only sets the time of the next attempt.
func (c *Client6) transmit(now time.Time) {
	if at := c.wait(now); at.After(now) {
		c.next = at
		return
	}
	x := c.exchange()
	switch {
	case c.tries == 0:
		c.began, c.rt = now, x.irt+c.fuzz(x.irt)
		if c.state == Soliciting6 && c.rt <= x.irt { // 18.2.1: "the first RT MUST be selected to be strictly greater than IRT"
			c.rt = x.irt + time.Millisecond
		}
	default:
		c.rt = 2*c.rt + c.fuzz(c.rt)
		if x.mrt > 0 && c.rt > x.mrt {
			c.rt = x.mrt + c.fuzz(x.mrt)
		}
	}
	m := c.message(now, x.kind)
	switch c.state {
	case Soliciting6:
		if c.cfg.RapidCommit {
			m.Options.Add(Opt6RapidCommit, nil)
		}
		c.addIAs(m, c.held)
	case Requesting6:
		m.Options.Add(Opt6ServerID, c.server)
		var l *Lease6
		if c.offer != nil {
			l, _ = c.leaseOf(now, c.offer)
		} else {
			l = c.held
		}
		c.addIAs(m, l)
	case Renewing6:
		m.Options.Add(Opt6ServerID, c.held.ServerID)
		c.addIAs(m, c.held)
	case Rebinding6:
		c.addIAs(m, c.held)
	case Confirming6:
		c.addIA(m, Opt6IANA, c.held.Addrs)
	case Declining6:
		m.Options.Add(Opt6ServerID, c.server)
		c.addIA(m, Opt6IANA, []LeaseItem6{{Prefix: netip.PrefixFrom(c.bad, 128)}})
	}
	c.sends = append(c.sends, m)
	c.tries++
	c.next = now.Add(c.rt)
	if end := c.began.Add(x.mrd); x.mrd > 0 && c.next.After(end) {
		c.next = end
	}
	if c.state == Renewing6 && c.next.After(c.held.Rebind) {
		c.next = c.held.Rebind
	}
}

// message returns a message with the options that all messages have.
func (c *Client6) message(now time.Time, t MessageType6) *Message6 {
	m := &Message6{Type: t, XID: c.xid}
	m.Options.Add(Opt6ClientID, c.cfg.DUID)
	elapsed := time.Duration(0)
	if c.tries > 0 {
		elapsed = now.Sub(c.began) / (10 * time.Millisecond)
	}
	m.Options.Add(Opt6ElapsedTime, binary.BigEndian.AppendUint16(nil, uint16(min(elapsed, math.MaxUint16))))
	if t == Release6 || t == Decline6 || t == Confirm6 {
		return m
	}
	codes := []OptionCode6{Opt6DNS, Opt6DomainSearch, Opt6NTP, Opt6SNTP, Opt6SolMaxRT}
	if t == InformationRequest6 {
		codes = append(codes, Opt6Refresh, Opt6InfMaxRT)
	}
	var list []byte
	for _, code := range append(codes, c.cfg.Parameters...) {
		list = binary.BigEndian.AppendUint16(list, uint16(code))
	}
	m.Options.Add(Opt6Request, list)
	return m
}

// addIAs adds the identity associations that the client asks for. They have the addresses and prefixes of l, or none
// if l is nil.
func (c *Client6) addIAs(m *Message6, l *Lease6) {
	if l == nil {
		l = &Lease6{}
	}
	if c.cfg.Addrs {
		c.addIA(m, Opt6IANA, l.Addrs)
	}
	if c.cfg.Prefixes {
		items := l.Prefixes
		if len(items) == 0 && c.cfg.PrefixBits > 0 && c.cfg.PrefixBits <= 64 { // ask for this length
			items = []LeaseItem6{{Prefix: netip.PrefixFrom(netip.IPv6Unspecified(), c.cfg.PrefixBits)}}
		}
		c.addIA(m, Opt6IAPD, items)
	}
}

// addIA adds an identity association. RFC 8415 18.2.4: the client sets the lifetimes and T1 and T2 to 0.
func (c *Client6) addIA(m *Message6, code OptionCode6, items []LeaseItem6) {
	ia := ia6{id: c.cfg.IAID}
	for _, item := range items {
		ia.items = append(ia.items, iaItem6{prefix: item.Prefix})
	}
	m.Options = append(m.Options, ia.option(code))
}

// Tick does what is due at now: it ends an expired lease, retransmits, or enters the next state.
func (c *Client6) Tick(now time.Time) {
	if l := c.held; l != nil && !l.Expires.IsZero() && !now.Before(l.Expires) {
		c.lose("it has expired")
		if c.state != Stopped6 {
			c.search(now)
		}
		return
	}
	if c.next.IsZero() || now.Before(c.next) {
		return
	}
	x := c.exchange()
	switch {
	case c.state == Bound6:
		c.enter(now, Renewing6)
	case c.state == Informed6:
		c.enter(now, Informing6)
	case c.state == Soliciting6 && c.offer != nil:
		c.request(now)
	case c.state == Confirming6 && c.tries > 0 && !now.Before(c.began.Add(x.mrd)):
		// RFC 8415 18.2.3: without an answer, "the client SHOULD continue to use any leases, using the last
		// known lifetimes".
		c.rest()
	case c.state == Renewing6 && !now.Before(c.held.Rebind):
		c.enter(now, Rebinding6)
	case x.mrc > 0 && c.tries >= x.mrc:
		c.search(now)
	default:
		c.transmit(now)
	}
}

// lose ends the use of the lease, if there is one, and queues a Lost event.
func (c *Client6) lose(reason string) {
	if c.held != nil {
		c.events = append(c.events, Event6{Kind: Lost, Lease: c.held, Reason: reason})
		c.held = nil
	}
}

// refuse queues a Refused event, unless maxRefusals of them are queued already.
func (c *Client6) refuse(format string, args ...any) {
	n := 0
	for _, e := range c.events {
		if e.Kind == Refused {
			n++
		}
	}
	if n < maxRefusals {
		c.events = append(c.events, Event6{Kind: Refused, Reason: fmt.Sprintf(format, args...)})
	}
}

// Receive processes a message that arrived on port 546. It ignores messages that are not for the client or not
// expected.
//
// RFC 8415 16.3 and 16.10: the client discards an Advertise or a Reply without a server identifier, with another
// client identifier or with another transaction ID.
func (c *Client6) Receive(now time.Time, m *Message6) {
	id, _ := m.Options.Get(Opt6ClientID)
	server, _ := m.Options.Get(Opt6ServerID)
	if m.XID != c.xid || c.tries == 0 || !bytes.Equal(id, c.cfg.DUID) || !isDUID(server) {
		return
	}
	switch {
	case m.Type == Advertise6 && c.state == Soliciting6:
		c.limits(m)
		c.advertised(now, m)
	case m.Type == Reply6:
		c.limits(m)
		c.replied(now, m, server)
	}
}

// limits takes SOL_MAX_RT and INF_MAX_RT. RFC 8415 21.24: "The client MUST ignore any SOL_MAX_RT option values that
// are less than 60 or more than 86400."
func (c *Client6) limits(m *Message6) {
	for code, d := range map[OptionCode6]*time.Duration{Opt6SolMaxRT: &c.solMaxRT, Opt6InfMaxRT: &c.infMaxRT} {
		if v, ok := m.Options.Uint32(code); ok && v >= 60 && v <= 86400 {
			*d = time.Duration(v) * time.Second
		}
	}
}

// advertised processes an Advertise.
//
// RFC 8415 18.2.9: the client ignores an Advertise without addresses and prefixes. It prefers the server with the
// highest preference value. It waits until the first retransmission timeout, unless the preference is 255.
func (c *Client6) advertised(now time.Time, m *Message6) {
	l, err := c.leaseOf(now, m)
	if err != nil {
		c.refuse("an Advertise is not taken: %v", err)
		return
	}
	preference := 0
	if b, _ := m.Options.Get(Opt6Preference); len(b) == 1 {
		preference = int(b[0])
	}
	rank := preference << 1
	if (len(l.Addrs) > 0) == c.cfg.Addrs && (len(l.Prefixes) > 0) == c.cfg.Prefixes {
		rank++
	}
	if c.offer == nil || rank > c.rank {
		c.offer, c.rank = m, rank
	}
	if preference == 255 || c.tries > 1 {
		c.request(now)
	}
}

// request requests the lease in the best Advertise.
func (c *Client6) request(now time.Time) {
	c.server, _ = c.offer.Options.Get(Opt6ServerID)
	c.enter(now, Requesting6)
}

// replied processes a Reply.
func (c *Client6) replied(now time.Time, m *Message6, server []byte) {
	status, text := m.Options.Status()
	_, rapid := m.Options.Get(Opt6RapidCommit)
	switch c.state {
	case Soliciting6:
		if !rapid || !c.cfg.RapidCommit {
			return
		}
	case Requesting6, Declining6:
		if !bytes.Equal(server, c.server) {
			return
		}
	case Renewing6:
		if !bytes.Equal(server, c.held.ServerID) {
			return
		}
	case Confirming6, Rebinding6, Informing6:
	default:
		return
	}
	switch {
	case c.state == Declining6:
		c.search(now)
	case status == NotOnLink6 && c.state == Confirming6:
		c.lose("its addresses are not right for this link")
		c.search(now)
	case status != Success6:
		c.refuse("a server answers %v: %s", status, text)
		if status == NotOnLink6 && c.state == Requesting6 {
			c.search(now)
		}
	case c.state == Confirming6:
		c.rest()
	case c.state == Informing6:
		c.inform(now, m)
	default:
		c.take(now, m)
	}
}

// rest enters the state Bound6, in which the client uses its lease until the renewal is due.
func (c *Client6) rest() {
	c.state, c.tries, c.next = Bound6, 0, c.held.Renew
}

// settings6 returns a lease with the settings of a message, without addresses.
func settings6(now time.Time, m *Message6) *Lease6 {
	l := &Lease6{Obtained: now, Options: m.Options, DNS: m.Options.Addrs(Opt6DNS, maxServers), Search: m.Options.Search(maxSearch)}
	l.ServerID, _ = m.Options.Get(Opt6ServerID)
	if l.NTP = m.Options.ntpServers(maxServers); len(l.NTP) == 0 {
		l.NTP = m.Options.Addrs(Opt6SNTP, maxServers)
	}
	return l
}

// inform takes the settings of a Reply to an Information-request.
//
// RFC 8415 21.23: the default of the information refresh time is IRT_DEFAULT, 86400 seconds, and its minimum is
// IRT_MINIMUM, 600 seconds.
func (c *Client6) inform(now time.Time, m *Message6) {
	l := settings6(now, m)
	refresh := uint32(86400)
	if v, ok := m.Options.Uint32(Opt6Refresh); ok {
		refresh = max(v, 600)
	}
	if refresh != infinity {
		l.Renew = now.Add(time.Duration(refresh) * time.Second)
	}
	kind := Renewed
	if c.held == nil {
		kind = Acquired
	}
	c.held, c.state, c.tries, c.next = l, Informed6, 0, l.Renew
	c.events = append(c.events, Event6{Kind: kind, Lease: l})
}

// ias returns the IAs of the client in a message, with their options' codes.
//
// RFC 8415 21.4: a client discards an IA "if T1 is greater than T2, and both are greater than 0", and processes the rest
// of the message as though the server had not included it.
func (c *Client6) ias(m *Message6) iter.Seq2[OptionCode6, *ia6] {
	return func(yield func(OptionCode6, *ia6) bool) {
		for _, o := range m.Options {
			if o.Code != Opt6IANA && o.Code != Opt6IAPD {
				continue
			}
			ia, ok := parseIA(o.Code, o.Data)
			if ok && ia.id == c.cfg.IAID && (ia.t1 <= ia.t2 || ia.t2 == 0) && !yield(o.Code, &ia) {
				return
			}
		}
	}
}

// leaseOf returns the lease in a message. The error says why there is none.
func (c *Client6) leaseOf(now time.Time, m *Message6) (*Lease6, error) {
	l := settings6(now, m)
	var t1, t2 time.Duration // the soonest T1 and T2 of the IAs; 0: none; negative: never
	why := "it has no address"
	shortest := time.Duration(-1)
	for code, ia := range c.ias(m) {
		if ia.status != Success6 {
			why = fmt.Sprintf("%v: %s", ia.status, ia.text)
		}
		for _, item := range ia.items {
			if item.valid == 0 {
				continue
			}
			li := LeaseItem6{Prefix: item.prefix}
			preferred, valid := seconds6(item.preferred), seconds6(item.valid)
			if preferred >= 0 {
				li.PreferredUntil = now.Add(preferred)
			}
			if valid >= 0 {
				li.ValidUntil = now.Add(valid)
			}
			if preferred == 0 {
				preferred = valid // otherwise T1 would be 0, and the client would renew again and again
			}
			if preferred >= 0 && (shortest < 0 || preferred < shortest) {
				shortest = preferred
			}
			if code == Opt6IANA && c.cfg.Addrs {
				l.Addrs = append(l.Addrs, li)
			} else if code == Opt6IAPD && c.cfg.Prefixes {
				l.Prefixes = append(l.Prefixes, li)
			}
		}
		t1, t2 = sooner6(t1, ia.t1), sooner6(t2, ia.t2)
	}
	if len(l.Addrs)+len(l.Prefixes) == 0 {
		return nil, fmt.Errorf("%s", why)
	}
	l.setTimes(t1, t2, shortest)
	return l, nil
}

// sooner6 returns the shorter of t and s seconds. If t or s is 0, it has no value, and sooner6 returns the other. A
// negative t and an infinite s mean never.
func sooner6(t time.Duration, s uint32) time.Duration {
	d := seconds6(s)
	if d == 0 || t > 0 && (d < 0 || t <= d) {
		return t
	}
	return d
}

// setTimes sets Expires, Renew and Rebind of a lease. t1 and t2 are 0 if the server did not give them. If t1 is
// negative, the client never renews the lease. shortest is the shortest preferred lifetime; negative: infinite.
//
// RFC 8415 21.4: "Recommended values for T1 and T2 are 0.5 and 0.8 times the shortest preferred lifetime of the
// addresses in the IA".
func (l *Lease6) setTimes(t1, t2, shortest time.Duration) {
	l.Expires = time.Time{}
	for i, item := range slices.Concat(l.Addrs, l.Prefixes) {
		if item.ValidUntil.IsZero() {
			l.Expires = time.Time{}
			break
		}
		if i == 0 || item.ValidUntil.After(l.Expires) {
			l.Expires = item.ValidUntil
		}
	}
	if shortest < 0 && t1 <= 0 || t1 < 0 {
		return // never
	}
	if t2 <= 0 {
		t2 = max(shortest/5*4, t1) // divide first: shortest may be 136 years, and shortest*4 would overflow
	}
	if t1 == 0 {
		t1 = min(shortest/2, t2)
	}
	if !l.Expires.IsZero() { // T1 and T2 must be before the lease expires, or the client would not renew it
		valid := l.Expires.Sub(l.Obtained)
		t2 = min(t2, valid/10*9)
		t1 = min(t1, t2/8*5)
	}
	l.Renew, l.Rebind = l.Obtained.Add(max(t1, time.Second)), l.Obtained.Add(max(t2, 2*time.Second))
}

// take starts to use the lease in a Reply. If the Reply has no lease, a client that requests, renews or rebinds
// enters another state.
func (c *Client6) take(now time.Time, m *Message6) {
	l, err := c.leaseOf(now, m)
	if err != nil {
		c.refuse("a Reply has no lease: %v", err)
		server, _ := m.Options.Get(Opt6ServerID)
		switch {
		case c.state == Renewing6 || c.state == Rebinding6:
			// RFC 8415 18.2.10.1, of an IA that is not in the Reply: the client "MAY just wait for the normal
			// retransmission time (as if the Reply message had not been received)".
			if !c.answers(m) {
				return
			}
			if !c.unknown(m) {
				c.lose("a server has taken it back")
				c.search(now)
				return
			}
			// RFC 8415 18.2.10.1, NoBinding: "the client sends a Request message" to the server.
			c.server, c.offer = server, nil
			c.enter(now, Requesting6)
		case c.state == Requesting6:
			c.stop()
			c.search(now)
		}
		return
	}
	kind := Acquired
	if c.held != nil {
		kind = Renewed
	}
	c.held, c.offer = l, nil
	c.rest()
	c.events = append(c.events, Event6{Kind: kind, Lease: l})
}

// unknown reports whether a Reply says that the server has no record of the client's addresses and prefixes, or
// has none of them. It is called if the Reply has an IA of the client.
func (c *Client6) unknown(m *Message6) bool {
	none := true
	for _, ia := range c.ias(m) {
		if ia.status == NoBinding6 {
			return true
		}
		none = none && len(ia.items) == 0
	}
	return none
}

// answers reports whether a Reply has an IA of the client.
func (c *Client6) answers(m *Message6) bool {
	for range c.ias(m) {
		return true
	}
	return false
}

// Conflict tells the client that another node uses an address of the lease. The client declines the address and
// searches for another one (RFC 8415 18.2.8).
func (c *Client6) Conflict(now time.Time, a netip.Addr) {
	l := c.held
	if l == nil || c.state == Stopped6 || !slices.ContainsFunc(l.Addrs, func(i LeaseItem6) bool { return i.Prefix.Addr() == a }) {
		return
	}
	c.refuse("%v is in use by another node", a)
	c.lose("another node uses its address")
	c.server, c.bad = l.ServerID, a
	c.enter(now, Declining6)
}
