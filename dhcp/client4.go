package dhcp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// A State4 is a state of a client (RFC 2131 4.4, figure 5).
type State4 uint8

const (
	Stopped    State4 = iota // not started, released, or the link is down
	Init                     // waits before it searches for servers
	Selecting                // has sent DHCPDISCOVER
	Requesting               // has requested the address that a server offered
	Rebooting                // has requested the address of its previous lease
	Probing                  // has a lease, and checks whether the address is free (RFC 5227)
	Bound                    // has a lease
	Renewing                 // asks its server to extend the lease
	Rebinding                // asks all servers to extend the lease
	IPv6Only                 // the network asks hosts to do without IPv4 (RFC 8925)
)

func (s State4) String() string {
	names := []string{"STOPPED", "INIT", "SELECTING", "REQUESTING", "REBOOTING", "PROBING", "BOUND", "RENEWING", "REBINDING", "IPV6-ONLY"}
	if int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// ClientConfig4 configures a Client4.
type ClientConfig4 struct {
	// MAC is the link address.
	MAC [6]byte
	// ID is the client identifier, at least 2 bytes; if nil, ClientID(MAC).
	ID []byte
	// HostName is the name that the client sends; if empty, it sends none.
	HostName string
	// VendorClass describes the kind of host to servers; if empty, the client does not send it.
	VendorClass string
	// Parameters are options that the client requests in addition to those of Lease4.
	Parameters []OptionCode4
	// Lease is an address that the client had before and requests first; an invalid address means
	// none. The client does not use it before a server confirms it.
	Lease netip.Addr
	// IPv6Only tells servers that the host can do without IPv4. Servers may then ask it to do so
	// (RFC 8925).
	IPv6Only bool
	// MTU is the length in bytes of the longest IP datagram that the host receives on the link;
	// 1500 if zero.
	MTU int
	// Rand returns random bits, for transaction IDs and delays. It must be set.
	Rand func() uint64
}

// A Send4 is a message to send from port 68 to port 67.
type Send4 struct {
	Message *Message4
	// To is the server, for a unicast message from the address of the lease. If it is invalid, the
	// message is broadcast to 255.255.255.255.
	To netip.Addr
}

// An EventKind4 is the kind of an event.
type EventKind4 uint8

const (
	// Probe asks the caller to check whether another host uses the address of Lease, as by
	// RFC 5227 2.1, and to call Probed.
	Probe EventKind4 = 1 + iota
	// Acquired reports a new lease, whose address may be used from now on.
	Acquired
	// Renewed reports an extended lease of the same address. Its times and other values may have
	// changed.
	Renewed
	// Lost reports that the address of Lease must not be used any more, with the Reason.
	Lost
	// Refused reports that the client rejected something that a server sent, or that a server
	// refused a request, with the Reason.
	Refused
)

func (k EventKind4) String() string {
	names := []string{"probe", "acquired", "renewed", "lost", "refused"}
	if k >= 1 && int(k) <= len(names) {
		return names[k-1]
	}
	return fmt.Sprintf("event %d", uint8(k))
}

// An Event4 is a change in a client.
type Event4 struct {
	Kind   EventKind4
	Lease  *Lease4 // must not be modified; nil with Refused
	Reason string  // a text for people; set with Lost and Refused
}

// A Client4 is a client of DHCPv4 on one link (RFC 2131 4.4). It is not safe for concurrent use.
//
// After each call, the caller sends the messages from NextSend, processes the events from
// NextEvent, and calls Tick at the time of Deadline. The time of a call must not be before the time
// of the previous call.
type Client4 struct {
	cfg   ClientConfig4
	state State4
	down  bool // whether Down was called after the last Up

	xid       uint32
	began     time.Time // when the search for a server began
	secs      uint16    // seconds from began to the last message; a DHCPREQUEST for an offer does not change it
	asked     time.Time // when the first request of xid was sent
	tries     int       // number of messages sent in this state
	next      time.Time // when Tick has something to do; zero: never
	held      *Lease4   // the lease whose address is in use; nil: none
	offer     *Lease4   // the lease that is requested or probed
	fallback  *Lease4   // an offer from a server in avoid
	avoid     []netip.Addr
	naks      int // consecutive DHCPNAKs
	conflicts int // consecutive conflicts

	sends  []Send4
	events []Event4
}

const (
	firstRetry  = 4 * time.Second
	lastRetry   = 64 * time.Second
	maxRequests = 4                // RFC 2131 3.1.5: "might retransmit the DHCPREQUEST message four times"
	maxReboots  = 2                // maximum number of DHCPREQUESTs for the previous address
	declineWait = 10 * time.Second // RFC 2131 3.1.5: "The client SHOULD wait a minimum of ten seconds"
	// RFC 5227 1.1.
	maxConflicts      = 10
	rateLimitInterval = 60 * time.Second

	renewInterval = 60 * time.Second // RFC 2131 4.4.5
	maxAvoided    = 8
	maxRefusals   = 4 // maximum number of queued Refused events
)

// NewClient4 returns a stopped client.
func NewClient4(cfg ClientConfig4) *Client4 {
	if len(cfg.ID) < 2 { // RFC 2132 9.14: "minimum length is 2"
		cfg.ID = ClientID(cfg.MAC)
	}
	if cfg.MTU == 0 {
		cfg.MTU = 1500
	}
	return &Client4{cfg: cfg}
}

// State returns the state of the client.
func (c *Client4) State() State4 { return c.state }

// Tries returns how many messages the client has sent in its current state without a usable answer.
func (c *Client4) Tries() int { return c.tries }

// Lease returns the lease whose address is in use, or nil.
func (c *Client4) Lease() *Lease4 { return c.held }

// NextSend returns the next message to send. ok is false if there is none.
func (c *Client4) NextSend() (s Send4, ok bool) {
	if len(c.sends) == 0 {
		return s, false
	}
	s, c.sends = c.sends[0], c.sends[1:]
	return s, true
}

// NextEvent returns the next event. ok is false if there is none.
func (c *Client4) NextEvent() (e Event4, ok bool) {
	if len(c.events) == 0 {
		return e, false
	}
	e, c.events = c.events[0], c.events[1:]
	return e, true
}

// Deadline returns when to call Tick; the zero time means never.
func (c *Client4) Deadline() time.Time {
	at := c.next
	if c.held != nil && !c.held.Expires.IsZero() && (at.IsZero() || c.held.Expires.Before(at)) {
		at = c.held.Expires
	}
	return at
}

// Up tells the client that the link is up: for the first time, or again, possibly on another network.
// A client that had an address asks servers whether it may still use that address (INIT-REBOOT). Until
// the client gets an answer, it keeps a lease that has not expired.
//
// RFC 2131 3.7: "A client SHOULD use DHCP to reacquire or verify its IP address and network
// parameters whenever the local network parameters may have changed".
func (c *Client4) Up(now time.Time) {
	c.down = false
	c.avoid, c.naks, c.conflicts = nil, 0, 0
	if c.held != nil {
		c.cfg.Lease = c.held.Addr.Addr()
	}
	if !isHost(c.cfg.Lease) {
		// By RFC 2131 4.4.1 a client waits for one to ten seconds first, so that many clients that
		// are turned on together do not send at the same time. Like other current clients, this one
		// starts at once, because users wait for it.
		c.restart(now, 0)
		return
	}
	c.enter(Rebooting)
	c.began = now
	c.request(now)
}

// Down tells the client that the link is down. The client sends nothing until Up. A lease still
// expires at its time.
func (c *Client4) Down() {
	c.down = true
	c.enter(Stopped)
}

// Release returns the lease to the server and stops the client. It also returns an address that is still
// being probed.
func (c *Client4) Release() {
	if l := c.held; l != nil && !c.down {
		// RFC 2131 4.4.6: "the client sends a DHCPRELEASE message to the server"; 4.4.4: "The client unicasts
		// DHCPRELEASE messages to the server."
		c.sendRelease(l, l.Server)
	}
	if c.state == Probing && !c.down {
		// The server has assigned the address, but the client does not use it yet, so it has no source
		// address for a unicast message.
		c.sendRelease(c.offer, netip.Addr{})
	}
	c.lose("it was released")
	c.enter(Stopped)
	c.cfg.Lease = netip.Addr{}
}

// sendRelease sends a DHCPRELEASE for a lease.
func (c *Client4) sendRelease(l *Lease4, to netip.Addr) {
	m := c.message(Release)
	m.CIAddr = l.Addr.Addr()
	m.Options.Set(OptServerID, AppendAddrs(nil, l.Server))
	c.send(m, to)
}

// enter changes to a state in which nothing has been sent yet, and chooses a new transaction ID.
func (c *Client4) enter(s State4) {
	c.state, c.tries, c.next, c.offer, c.fallback = s, 0, time.Time{}, nil, nil
	c.xid = uint32(c.cfg.Rand())
}

// restart starts the search for servers after the duration after.
func (c *Client4) restart(now time.Time, after time.Duration) {
	c.enter(Init)
	c.next = now.Add(after)
	if after == 0 {
		c.Tick(now)
	}
}

// lose ends the use of the lease, if there is one, and queues a Lost event.
func (c *Client4) lose(reason string) {
	if c.held != nil {
		c.events = append(c.events, Event4{Kind: Lost, Lease: c.held, Reason: reason})
		c.held = nil
	}
}

// refuse queues a Refused event, unless maxRefusals of them are queued already.
func (c *Client4) refuse(format string, args ...any) {
	n := 0
	for _, e := range c.events {
		if e.Kind == Refused {
			n++
		}
	}
	if n < maxRefusals {
		c.events = append(c.events, Event4{Kind: Refused, Reason: fmt.Sprintf(format, args...)})
	}
}

// Tick does what is due at now: it ends an expired lease, retransmits, or enters the next state.
func (c *Client4) Tick(now time.Time) {
	if l := c.held; l != nil && !l.Expires.IsZero() && !now.Before(l.Expires) {
		// RFC 2131 4.4.5: "If the lease expires before the client receives a DHCPACK, the client moves to INIT
		// state, MUST immediately stop any other network processing".
		c.lose("it has expired")
		if c.state == Bound || c.state == Renewing || c.state == Rebinding {
			c.restart(now, 0)
			return
		}
	}
	if c.next.IsZero() || now.Before(c.next) {
		return
	}
	switch c.state {
	case Init, IPv6Only:
		c.enter(Selecting)
		c.began = now
		c.discover(now)
	case Selecting:
		if c.fallback != nil {
			c.accept(now, c.fallback)
			return
		}
		c.discover(now)
	case Requesting:
		if c.tries < maxRequests {
			c.request(now)
			return
		}
		c.refuse("%v has offered %v and does not answer a request for it", c.offer.Server, c.offer.Addr.Addr())
		c.avoidServer(c.offer.Server)
		c.restart(now, 0)
	case Rebooting:
		if c.tries < maxReboots {
			c.request(now)
			return
		}
		// RFC 2131 3.2.3: "If the client receives neither a DHCPACK or a DHCPNAK message after
		// employing the retransmission algorithm, the client MAY choose to use the previously
		// allocated network address and configuration parameters for the remainder of the unexpired
		// lease." This client does so, and searches for servers meanwhile: servers of another
		// network may not answer requests for unknown addresses.
		c.restart(now, 0)
	case Bound:
		c.enter(Renewing)
		c.began = now
		c.renew(now)
	case Renewing:
		if !now.Before(c.held.Rebind) {
			c.enter(Rebinding)
		}
		c.renew(now)
	case Rebinding:
		c.renew(now)
	}
}

// avoidServer makes the client accept a server's offer only if no other server makes one.
func (c *Client4) avoidServer(server netip.Addr) {
	if !slices.Contains(c.avoid, server) && len(c.avoid) < maxAvoided {
		c.avoid = append(c.avoid, server)
	}
}

// backoff sets the time of the next retransmission.
//
// RFC 2131 4.1: "The client MUST adopt a retransmission strategy that incorporates a randomized
// exponential backoff algorithm"; "the delay before the first retransmission SHOULD be 4 seconds
// randomized by the value of a uniform random number chosen from the range -1 to +1"; "The
// retransmission delay SHOULD be doubled with subsequent retransmissions up to a maximum of 64
// seconds."
func (c *Client4) backoff(now time.Time) {
	d := min(firstRetry<<min(c.tries, 8), lastRetry)
	spread := time.Duration(c.cfg.Rand()%uint64(2*time.Second)) - time.Second
	c.tries++
	c.next = now.Add(d + spread)
}

// message returns a message of the client with its common fields (RFC 2131 4.4.1, table 5).
func (c *Client4) message(t MessageType4) *Message4 {
	m := &Message4{Op: BootRequest, HType: 1, XID: c.xid, CHAddr: c.cfg.MAC[:]}
	m.Options.Set(OptMessageType, []byte{byte(t)})
	// RFC 2131 4.2: "If a client uses a 'client identifier' in one message, it MUST use that same identifier in all
	// subsequent messages".
	m.Options.Set(OptClientID, c.cfg.ID)
	return m
}

// ask adds the fields and options that DHCPDISCOVER and DHCPREQUEST share.
func (c *Client4) ask(m *Message4) {
	// RFC 2131 4.1: a DHCPREQUEST must "use the same value in the DHCP message header's 'secs'
	// field" as the preceding DHCPDISCOVER.
	m.Secs = c.secs
	if !m.CIAddr.IsValid() {
		// RFC 2131 4.1: "A client that cannot receive unicast IP datagrams until its protocol software has
		// been configured with an IP address SHOULD set the BROADCAST bit".
		m.Flags = FlagBroadcast
	}
	size := max(c.cfg.MTU, 576) // RFC 2132 9.10: includes the headers of IP and UDP; the minimum is 576
	m.Options.Set(OptMaxMessageSize, binary.BigEndian.AppendUint16(nil, uint16(min(size, 1<<16-1))))
	// RFC 3442: the code of the classless routes "SHOULD appear prior to" that of the routers.
	params := []byte{byte(OptSubnetMask), byte(OptClasslessRoutes), byte(OptRouter), byte(OptDNS), byte(OptHostName),
		byte(OptDomainName), byte(OptMTU), byte(OptNTP), byte(OptLeaseTime), byte(OptRenewalTime), byte(OptRebindingTime), byte(OptDomainSearch)}
	if c.cfg.IPv6Only {
		params = append(params, byte(OptIPv6Only))
	}
	for _, code := range c.cfg.Parameters {
		if !bytes.Contains(params, []byte{byte(code)}) && len(params) < 255 {
			params = append(params, byte(code))
		}
	}
	m.Options.Set(OptParameters, params)
	if c.cfg.VendorClass != "" {
		m.Options.Set(OptVendorClass, []byte(c.cfg.VendorClass))
	}
	if c.cfg.HostName != "" {
		m.Options.Set(OptHostName, []byte(c.cfg.HostName))
	}
}

func (c *Client4) send(m *Message4, to netip.Addr) { c.sends = append(c.sends, Send4{m, to}) }

// count sets the field secs of later messages.
func (c *Client4) count(now time.Time) { c.secs = uint16(min(now.Sub(c.began)/time.Second, 1<<16-1)) }

// discover sends a DHCPDISCOVER with the address that the client prefers.
func (c *Client4) discover(now time.Time) {
	c.count(now)
	m := c.message(Discover)
	c.ask(m)
	if isHost(c.cfg.Lease) {
		m.Options.Set(OptRequestedAddr, AppendAddrs(nil, c.cfg.Lease))
	}
	c.send(m, netip.Addr{})
	c.backoff(now)
}

// request sends the DHCPREQUEST of the states REQUESTING and REBOOTING (RFC 2131 4.3.2).
func (c *Client4) request(now time.Time) {
	m := c.message(Request)
	addr := c.cfg.Lease
	if c.state == Requesting {
		addr = c.offer.Addr.Addr()
		m.Options.Set(OptServerID, AppendAddrs(nil, c.offer.Server))
	} else {
		c.count(now)
	}
	m.Options.Set(OptRequestedAddr, AppendAddrs(nil, addr))
	c.ask(m)
	if c.tries == 0 {
		c.asked = now
	}
	c.send(m, netip.Addr{})
	c.backoff(now)
}

// renew sends the DHCPREQUEST of the states RENEWING and REBINDING (RFC 2131 4.3.2), and sets the
// time of the next one. A new lease starts at the time when its request was sent. Each request has a
// new transaction ID, so that an answer to an earlier request is ignored.
//
// RFC 2131 4.4.5: "In both RENEWING and REBINDING states, if the client receives no response to its
// DHCPREQUEST message, the client SHOULD wait one-half of the remaining time until T2 (in RENEWING
// state) and one-half of the remaining lease time (in REBINDING state), down to a minimum of 60
// seconds, before retransmitting". With that minimum, a lease of a few minutes would end after one lost
// message. So the minimum is a sixteenth of the lease if that is shorter, but at least firstRetry.
func (c *Client4) renew(now time.Time) {
	l := c.held
	c.xid = uint32(c.cfg.Rand())
	c.asked = now
	c.count(now)
	m := c.message(Request)
	m.CIAddr = l.Addr.Addr()
	c.ask(m)
	to, end := l.Server, l.Rebind
	if c.state == Rebinding {
		to, end = netip.Addr{}, l.Expires
	}
	c.send(m, to)
	c.tries++
	least := min(renewInterval, max(firstRetry, l.Expires.Sub(l.Obtained)/16))
	c.next = now.Add(max(end.Sub(now)/2, least))
	if c.next.After(end) {
		c.next = end
	}
}

// Receive processes a message that arrived on port 68. It ignores messages that are not for the
// client or not expected.
func (c *Client4) Receive(now time.Time, m *Message4) {
	if m.Op != BootReply || m.XID != c.xid || m.HType != 1 || !bytes.Equal(m.CHAddr, c.cfg.MAC[:]) {
		return
	}
	// RFC 6842 3: "the client MUST compare that client identifier with the one it is configured to send. If the two
	// client identifiers do not match, the client MUST silently discard the message."
	if id, ok := m.Options.Get(OptClientID); ok && !bytes.Equal(id, c.cfg.ID) {
		return
	}
	switch t := m.Type(); {
	case t == Offer && c.state == Selecting:
		c.takeOffer(now, m)
	case t == ACK && (c.state == Requesting || c.state == Rebooting || c.state == Renewing || c.state == Rebinding):
		c.takeACK(now, m)
	case t == NAK && (c.state == Requesting || c.state == Rebooting || c.state == Renewing || c.state == Rebinding):
		c.takeNAK(now, m)
	}
}

// takeOffer accepts the first usable offer. RFC 2131 4.4.1 leaves the choice to the client: "e.g.,
// the first DHCPOFFER message or the DHCPOFFER message from the previously used server".
func (c *Client4) takeOffer(now time.Time, m *Message4) {
	l, err := leaseOf(m, now)
	switch {
	case err != nil:
		c.refuse("an offer of %v is not taken: %v", serverOf(m), err)
	case c.doWithout(now, l):
	case slices.Contains(c.avoid, l.Server):
		c.fallback = l // keep it until the next DHCPDISCOVER is due
	default:
		c.accept(now, l)
	}
}

// serverOf names the server of a message in a text for people.
func serverOf(m *Message4) string {
	if a := m.Options.Addr(OptServerID); a.IsValid() {
		return a.String()
	}
	return "an unknown server"
}

// doWithout stops the client for a while if the network asks hosts to do without IPv4. It reports
// whether it has stopped the client.
//
// RFC 8925 3.2: the client "SHOULD NOT request the IPv4 address provided in the DHCPOFFER", and
// stops for V6ONLY_WAIT. An address in use is kept, with its connections, as long as servers extend
// its lease.
func (c *Client4) doWithout(now time.Time, l *Lease4) bool {
	if !c.cfg.IPv6Only || l.IPv6Only == 0 || c.held != nil {
		return false
	}
	c.enter(IPv6Only)
	c.next = now.Add(l.IPv6Only)
	return true
}

// accept requests the address that a server has offered.
func (c *Client4) accept(now time.Time, l *Lease4) {
	c.state, c.tries, c.offer, c.fallback = Requesting, 0, l, nil
	c.request(now)
}

// takeACK processes a DHCPACK.
func (c *Client4) takeACK(now time.Time, m *Message4) {
	l, err := leaseOf(m, c.asked)
	if err == nil {
		err = c.checkACK(now, l)
	}
	if err != nil {
		c.refuse("a lease of %v is not taken: %v", serverOf(m), err)
		return
	}
	if c.state == Rebooting && c.doWithout(now, l) {
		return
	}
	c.naks, c.cfg.Lease = 0, l.Addr.Addr()
	if c.held == nil || c.held.Addr.Addr() != l.Addr.Addr() {
		// RFC 2131 4.4.1: "The client SHOULD perform a check on the suggested address to ensure that the address is
		// not already in use."
		c.enter(Probing)
		c.offer = l
		c.events = append(c.events, Event4{Kind: Probe, Lease: l})
		return
	}
	c.bind(l, Renewed)
}

// checkACK returns an error if the lease is not the requested one, or has already ended.
func (c *Client4) checkACK(now time.Time, l *Lease4) error {
	want, server := c.cfg.Lease, l.Server
	switch c.state {
	case Requesting:
		want, server = c.offer.Addr.Addr(), c.offer.Server
	case Renewing, Rebinding:
		want = c.held.Addr.Addr()
	}
	switch {
	case server != l.Server:
		return fmt.Errorf("%v was asked", server)
	case want != l.Addr.Addr():
		return fmt.Errorf("it is of %v, and %v was asked for", l.Addr.Addr(), want)
	case !l.Expires.IsZero() && !now.Before(l.Expires):
		return fmt.Errorf("it came after its end")
	}
	return nil
}

// bind starts the use of a lease.
func (c *Client4) bind(l *Lease4, kind EventKind4) {
	c.enter(Bound)
	c.held, c.avoid = l, nil
	if !l.Renew.IsZero() {
		// RFC 2131 4.4.5: "Times T1 and T2 SHOULD be chosen with some random 'fuzz' around a fixed value, to avoid
		// synchronization of client reacquisition."
		fuzz := time.Duration(c.cfg.Rand() % uint64(max(1, l.Renew.Sub(l.Obtained)/32)))
		c.next = l.Renew.Add(-fuzz)
	}
	c.events = append(c.events, Event4{Kind: kind, Lease: l})
}

// takeNAK restarts the client after a DHCPNAK: the address is not for this client or this network.
func (c *Client4) takeNAK(now time.Time, m *Message4) {
	server := m.Options.Addr(OptServerID)
	switch c.state {
	case Requesting:
		if server != c.offer.Server {
			return // another server's answer
		}
		c.avoidServer(server)
	case Renewing:
		if server != c.held.Server {
			return
		}
	}
	why := ""
	if text := m.Options.Text(OptMessage); text != "" {
		why = ": " + text[:min(len(text), 100)]
	}
	c.refuse("%v refuses%s", serverOf(m), why)
	// In REQUESTING, the DHCPNAK concerns only the offered address. If the lease in use has another
	// address, the client keeps that lease.
	if c.state != Requesting || c.held != nil && c.held.Addr.Addr() == c.offer.Addr.Addr() {
		c.lose(fmt.Sprintf("%v has taken it back%s", serverOf(m), why))
	}
	c.cfg.Lease = netip.Addr{}
	// The first restart is immediate, because the host may be on another network. Later ones wait:
	// two servers that disagree, or a server that refuses what it offers, would otherwise cause
	// endless requests.
	after := time.Duration(0)
	if c.naks > 0 {
		after = min(time.Second<<min(c.naks-1, 8), lastRetry)
	}
	c.naks++
	c.restart(now, after)
}

// Probed tells the client whether the address of the last Probe event is free. If the address is not
// free, the client informs the server and restarts after a delay.
func (c *Client4) Probed(now time.Time, free bool) {
	if c.state != Probing {
		return
	}
	l := c.offer
	if !free {
		c.decline(now, l)
		return
	}
	c.conflicts = 0
	c.lose(fmt.Sprintf("%v takes its place", l.Addr.Addr()))
	c.bind(l, Acquired)
	if !l.Expires.IsZero() && !now.Before(l.Expires) {
		c.Tick(now)
	}
}

// Conflict tells the client that another host uses the address of the lease. The client ends the
// lease and informs the server.
func (c *Client4) Conflict(now time.Time) {
	l := c.held
	if l == nil {
		return
	}
	c.lose("another host uses it")
	c.decline(now, l)
}

// decline informs the server of l that another host uses l's address. It then restarts the client
// after a delay.
//
// RFC 2131 3.1.5: "If the client detects that the address is already in use (e.g., through the use
// of ARP), the client MUST send a DHCPDECLINE message to the server and restarts the configuration
// process."
func (c *Client4) decline(now time.Time, l *Lease4) {
	c.enter(Init)
	if !c.down {
		m := c.message(Decline)
		m.Options.Set(OptRequestedAddr, AppendAddrs(nil, l.Addr.Addr()))
		m.Options.Set(OptServerID, AppendAddrs(nil, l.Server))
		c.send(m, netip.Addr{})
	}
	c.refuse("%v is in use by another host", l.Addr.Addr())
	c.cfg.Lease = netip.Addr{}
	c.conflicts++
	after := declineWait
	if c.conflicts >= maxConflicts {
		after = rateLimitInterval
	}
	if c.down {
		c.state = Stopped
		return
	}
	c.restart(now, after)
}
