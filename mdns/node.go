// Package mdns is Multicast DNS (RFC 6762) and DNS-based Service Discovery (RFC 6763) for one link, as a
// machine of messages and time. It resolves names below "local.", publishes the name of a host and its
// services, and finds the services of others.
//
// A Node has no clock, socket or goroutine. Its caller passes received messages and the time, sends the
// messages that Next returns, and calls Tick when Deadline is reached. A usernet.Host does all this, see
// Host.StartMDNS.
package mdns

import (
	"net/netip"
	"time"
)

// Port is the port of Multicast DNS.
const Port = 5353

// The groups of Multicast DNS (RFC 6762 section 3). Messages have these as destinations, and a TTL or hop
// limit of 255.
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

	host    *group
	groups  []*group // with host
	index   map[name][]*own
	addrs   []netip.Addr
	delayed []*response // multicast responses that wait for their time

	out []Message
}

// A key is what a question asks for: a folded name and a type.
type key struct {
	name name
	typ  uint16
}

// New returns a Node. It publishes the host's name after SetAddrs.
func New(cfg Config) *Node {
	n := &Node{cfg: cfg, questions: make(map[key]*ask), index: make(map[name][]*own)}
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

// Deadline returns the time at which Tick must be called, or the zero Time if there is none. It may change
// with each call of another method.
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
	return at
}

// Tick does what is due at a time.
func (n *Node) Tick(now time.Time) {
	n.expire(now)
	n.sendQueries(now)
	n.advance(now)
	n.sendDelayed(now)
}

// Receive handles a message from another machine on the link. The caller drops messages from other links,
// and its own. Malformed messages are ignored.
func (n *Node) Receive(now time.Time, data []byte, from netip.AddrPort) {
	m, err := parse(data)
	// RFC 6762 18.3 and 18.11: messages with another opcode or response code are ignored.
	if err != nil || m.flags&opcodeAndRCode != 0 {
		return
	}
	if m.flags&flagResponse == 0 {
		n.receiveQuery(now, m, from)
		return
	}
	// RFC 6762 6: "Multicast DNS implementations MUST silently ignore any Multicast DNS responses they
	// receive where the source UDP port is not 5353."
	if from.Port() == Port {
		n.receiveResponse(now, m)
	}
}

func (n *Node) receiveResponse(now time.Time, m *message) {
	for i := range m.answers {
		r := &m.answers[i]
		n.checkConflict(now, r)
		n.suppress(now, r)
		n.learn(now, r)
	}
	for i := range m.additionals {
		r := &m.additionals[i]
		n.checkConflict(now, r)
		n.learn(now, r)
	}
}
