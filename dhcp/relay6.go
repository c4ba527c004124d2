package dhcp

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"
)

// A Relay6 is a message between a relay agent and a server, a Relay-forward or a Relay-reply (RFC 8415 9). Its
// option Opt6RelayMessage has the message of a client, or the message of another relay agent.
type Relay6 struct {
	Type MessageType6
	Hops uint8
	// Link is an address on the client's link, or unspecified. Peer is the address of the client or of the
	// relay agent from which the message came.
	Link, Peer netip.Addr
	Options    Options6
}

// relayHeader6 is the length of a relay message without options: the type, the hop count and two addresses.
const relayHeader6 = 2 + 2*16

// ParseRelay6 parses a message of a relay agent. It keeps no reference to b. The error matches ErrMalformed.
func ParseRelay6(b []byte) (*Relay6, error) {
	if len(b) < relayHeader6 {
		return nil, malformed("%d bytes, shorter than a relay message", len(b))
	}
	r := &Relay6{Type: MessageType6(b[0]), Hops: b[1], Link: netip.AddrFrom16([16]byte(b[2:])), Peer: netip.AddrFrom16([16]byte(b[18:]))}
	if r.Type != RelayForward6 && r.Type != RelayReply6 {
		return nil, malformed("%v is no message of a relay agent", r.Type)
	}
	var err error
	r.Options, err = parseOptions6(slices.Clone(b[relayHeader6:]))
	return r, err
}

// IsRelayed6 reports whether a datagram that a server has received is from a relay agent.
func IsRelayed6(b []byte) bool { return len(b) > 0 && MessageType6(b[0]) == RelayForward6 }

// Append appends the message to b.
func (r *Relay6) Append(b []byte) []byte {
	link, peer := r.Link.As16(), r.Peer.As16()
	b = append(b, byte(r.Type), r.Hops)
	b = append(append(b, link[:]...), peer[:]...)
	return r.Options.append(b)
}

// maxRelays6 is the maximum number of relay agents between a client and a server. RFC 8415 7.6: HOP_COUNT_LIMIT is 8.
// The first agent sets the hop count to 0, so there may be nine agents.
const maxRelays6 = 9

// ReceiveRelayed processes a message that a relay agent has sent to port 547, and returns the reply for the agent's
// address, port 547. The reply is nil if there is none. Only clients on the links in ServerConfig6.Relayed get one.
//
// RFC 8415 13.1: the link of the client is that of the link-address in the message of the agent that is the closest
// to the client. An agent that is not the closest sets the link-address to 0 (19.1.2).
func (s *Server6) ReceiveRelayed(now time.Time, r *Relay6) *Relay6 {
	s.stats.Relayed++
	relays := []*Relay6{r}
	link := r.Link
	var m *Message6
	for m == nil {
		last := relays[len(relays)-1]
		b, ok := last.Options.Get(Opt6RelayMessage)
		if !ok || last.Type != RelayForward6 || len(b) == 0 {
			s.stats.Invalid++
			return nil
		}
		if MessageType6(b[0]) != RelayForward6 {
			var err error
			if m, err = ParseMessage6(b); err != nil {
				s.stats.Invalid++
				return nil
			}
			break
		}
		next, err := ParseRelay6(b)
		if err != nil || len(relays) == maxRelays6 {
			s.stats.Invalid++
			return nil
		}
		if !next.Link.IsUnspecified() {
			link = next.Link
		}
		relays = append(relays, next)
	}
	i := slices.IndexFunc(s.links[1:], func(l *Link6) bool { return l.Prefix.Contains(link) })
	if i < 0 {
		s.stats.Foreign++
		return nil
	}
	answer := s.receive(now, m, s.links[1+i])
	if answer == nil {
		return nil
	}
	// RFC 8415 19.3: the server returns a Relay-reply through the same agents. It copies the hop count, the addresses
	// and the interface identifier from the Relay-forward of each agent.
	inner := answer.Append(nil)
	var reply *Relay6
	for _, f := range slices.Backward(relays) {
		reply = &Relay6{Type: RelayReply6, Hops: f.Hops, Link: f.Link, Peer: f.Peer}
		if id, ok := f.Options.Get(Opt6InterfaceID); ok {
			reply.Options.Add(Opt6InterfaceID, id)
		}
		reply.Options.Add(Opt6RelayMessage, inner)
		inner = reply.Append(nil)
	}
	if len(inner) > 1<<16-1-8 { // the reply does not fit into a UDP datagram
		return nil
	}
	return reply
}

// prefixes6 returns the number of prefixes of a pool, at most 2^62.
func prefixes6(p PrefixPool6) uint64 { return 1 << min(p.Bits-p.Prefix.Bits(), 62) }

// prefixAt returns a prefix of a pool by its number.
func (p PrefixPool6) prefixAt(n uint64) netip.Prefix {
	b := p.Prefix.Masked().Addr().As16()
	high := binary.BigEndian.Uint64(b[:]) + n<<(64-p.Bits)
	binary.BigEndian.PutUint64(b[:], high)
	return netip.PrefixFrom(netip.AddrFrom16(b), p.Bits)
}

// contains reports whether a prefix is one of the prefixes of a pool.
func (p PrefixPool6) contains(x netip.Prefix) bool {
	return x.Bits() == p.Bits && p.Prefix.Contains(x.Addr()) && x == x.Masked()
}
