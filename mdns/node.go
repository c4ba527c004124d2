// Package mdns is Multicast DNS (RFC 6762) and DNS-based Service Discovery (RFC 6763) for one link, as a
// state machine whose inputs are messages and the time. It resolves names below "local.", publishes the name
// of a host and its services, and finds the services of others.
//
// A Node has no clock, socket or goroutine. Its caller passes received messages and the time, sends the
// messages that Next returns, and calls Tick when Deadline is reached. A usernet.Host does all this, see
// Host.StartMDNS.
package mdns

import (
	"errors"
	"net/netip"
	"time"
)

// Port is the port of Multicast DNS.
const Port = 5353

// The groups of Multicast DNS (RFC 6762 section 3). Multicast messages are sent to both groups, with a TTL or hop limit
// of 255.
var (
	Group4 = netip.AddrFrom4([4]byte{224, 0, 0, 251})
	Group6 = netip.AddrFrom16([16]byte{0: 0xff, 1: 0x02, 15: 0xfb})
)

// A Message is a message to send.
type Message struct {
	Data []byte
	// To is the destination of a unicast message. If To is the zero AddrPort, the message is to be sent to
	// Group4 and Group6, port 5353.
	To netip.AddrPort
}

// Errors of Receive.
var (
	// ErrMalformed is the error for a message that has more than 9000 bytes or that cannot be parsed.
	ErrMalformed = errors.New("mdns: malformed message")
	// ErrCode is the error for a message whose opcode or response code is not zero. RFC 6762 sections 18.3
	// and 18.11: such messages "MUST be silently ignored".
	ErrCode = errors.New("mdns: message with an opcode or a response code")
	// ErrPort is the error for a response from another port than 5353. RFC 6762 section 6: "Multicast DNS
	// implementations MUST silently ignore any Multicast DNS responses they receive where the source UDP
	// port is not 5353."
	ErrPort = errors.New("mdns: response from another port than 5353")
)

// Config configures a Node.
type Config struct {
	// Host is the first label of the host's name: Host.local. It has 1 to 63 bytes. If another host has
	// the name, the Node adds a number. If Host is empty, no name and no services can be published.
	Host string
	// Rand returns 64 random bits, for delays.
	Rand func() uint64
}

// A Node is Multicast DNS on one link. Its methods must not be called at the same time.
type Node struct {
	cfg   Config
	cache cache

	questions map[key]*ask

	host     *group
	groups   []*group // including host
	index    map[name][]*own
	addrs    []netip.Addr
	delayed  []*response        // multicast responses that wait for their time
	again    []repeat           // records that are multicast again
	goodbyes []farewell         // goodbyes that are sent a second time
	denied   map[name]time.Time // when an NSEC record of an own name was last multicast

	out []Message
}

// A key is what a question asks for: a folded name and a type.
type key struct {
	name name
	typ  uint16
}

// New returns a Node. It publishes the host's name after SetAddrs.
func New(cfg Config) *Node {
	n := &Node{cfg: cfg, questions: make(map[key]*ask), index: make(map[name][]*own), denied: make(map[name]time.Time)}
	n.cache.entries = make(map[key][]*cached)
	return n
}

// between returns a random duration in [low,high).
func (n *Node) between(low, high time.Duration) time.Duration {
	return low + time.Duration(n.cfg.Rand()%uint64(high-low))
}

// Next returns the next message to send. It reports false if there is none.
func (n *Node) Next() (Message, bool) {
	if len(n.out) == 0 {
		n.out = nil
		return Message{}, false
	}
	m := n.out[0]
	n.out = n.out[1:]
	return m, true
}

// Deadline returns the time at which Tick must be called, or the zero Time if there is none. Each call of another
// method may change this time.
func (n *Node) Deadline() time.Time {
	var at time.Time
	sooner := func(t time.Time) {
		if !t.IsZero() && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	sooner(n.cache.next)
	for _, q := range n.questions {
		sooner(q.at)
	}
	for _, g := range n.groups {
		sooner(g.at)
	}
	for _, r := range n.delayed {
		sooner(r.at)
	}
	for _, r := range n.again {
		sooner(r.at)
	}
	for _, f := range n.goodbyes {
		sooner(f.at)
	}
	return at
}

// Tick does what is due at the time now.
func (n *Node) Tick(now time.Time) {
	n.expire(now)
	n.sendQueries(now)
	n.advance(now)
	n.repeatGoodbyes(now)
	n.sendDelayed(now)
}

// Receive handles a message from another machine on the link. The caller must not pass messages from other links
// or its own messages. The error is the reason why the Node ignored the message: ErrMalformed, ErrCode or ErrPort.
func (n *Node) Receive(now time.Time, data []byte, from netip.AddrPort) error {
	m, err := accept(data, from)
	switch {
	case err != nil:
		return err
	case m.flags&flagResponse == 0:
		n.receiveQuery(now, m, from)
	default:
		n.receiveResponse(now, m)
	}
	return nil
}

// Check returns the error with which Receive of a Node would ignore a message, and nil for other messages.
func Check(data []byte, from netip.AddrPort) error {
	_, err := accept(data, from)
	return err
}

// accept parses a message, and refuses those that a Node ignores.
func accept(data []byte, from netip.AddrPort) (*message, error) {
	m, err := parse(data)
	switch {
	case err != nil:
		return nil, err
	case m.flags&opcodeAndRCode != 0:
		return nil, ErrCode
	case m.flags&flagResponse != 0 && from.Port() != Port:
		return nil, ErrPort
	}
	return m, nil
}

func (n *Node) receiveResponse(now time.Time, m *message) {
	for i := range m.answers {
		r := &m.answers[i]
		n.checkConflict(now, r)
		n.suppress(now, r)
		n.rescue(now, r)
		n.learn(now, r)
	}
	for i := range m.additionals {
		r := &m.additionals[i]
		n.checkConflict(now, r)
		n.learn(now, r)
	}
}
