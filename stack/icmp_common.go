package stack

import (
	"encoding/binary"
	"net/netip"
	"syscall"
	"time"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

// Errors that are sent are limited to those of Linux's icmp_msgs_per_sec and
// icmp_msgs_burst.
const (
	icmpErrorRate  = 1000 // per second
	icmpErrorBurst = 50
)

// An icmpKind is what was wrong with a datagram that was received, or what became of it. Each
// family has its own types and codes for it.
type icmpKind uint8

const (
	icmpPort       icmpKind = iota // nobody listens on the port
	icmpProto                      // a protocol that is not known; the pointer, of IPv6, is that of its number
	icmpReassembly                 // a fragment did not come in time
	icmpBadHeader                  // a field of the header, at the pointer, is wrong

	// Of IPv6 only.
	icmpOption        // an option that is not known and says to tell
	icmpOptionToGroup // the same, and to tell even if the packet was for a group
	icmpFirstChain    // the first fragment has not all headers (RFC 7112 5)
)

// An icmpError is a report, by ICMP or by this host's own neighbour table, that
// a datagram of ours did not arrive.
type icmpError struct {
	errno         syscall.Errno // EMSGSIZE where fragmentation is needed
	hard          bool          // RFC 1122 4.2.3.9: it will not get better by trying again
	mtu           int           // with EMSGSIZE: the next hop's, or a guess (RFC 1191)
	reassembly    bool          // a fragment was lost: it will pass
	local, remote netip.Addr    // source and destination of the datagram
	transport     []byte        // the beginning of its payload: at least 8 bytes
	from          netip.Addr    // who reports; invalid: this host
	zone          int           // index of the interface to which local and remote belong, where one is link-local; else 0
}

// sendICMPError sends an ICMP error about a datagram, where that is allowed. pointer is the offset
// in the datagram of what is wrong, of the kinds that have one.
//
// RFC 1122 3.2.2: "An ICMP error message MUST NOT be sent as the result of
// receiving: an ICMP error message, or a datagram destined to an IP broadcast
// or IP multicast address, or a datagram sent as a link-layer broadcast, or a
// non-initial fragment, or a datagram whose source address does not define a
// single host". RFC 4443 2.4 (e) says the same, but for "the Parameter Problem Message, Code 2,
// [...] that reports an unrecognized IPv6 option [...] that has the Option Type highest-order
// two bits set to 10".
func (s *Stack) sendICMPError(p *packet, k icmpKind, pointer int) {
	if p.broadcast && k != icmpOptionToGroup || !isUnicast(p.src) || p.isICMPError() {
		return
	}
	if !p.ifc.loopback && !s.icmp.take(s.now()) {
		s.drop(dropICMPRate)
		return
	}
	if p.src.Is6() {
		s.sendICMPError6(p, k, pointer)
		return
	}
	s.counts.icmpSent.Add(1)
	s.sendICMPError4(p, k, pointer)
}

// isICMPError reports whether a datagram is an ICMP message that is not known not to be an error.
func (p *packet) isICMPError() bool {
	if p.src.Is6() {
		return p.proto == wire.ProtoICMPv6 && isICMPError6(p.payload)
	}
	return p.proto == wire.ProtoICMP && (len(p.payload) == 0 || !isICMPQuery(wire.ICMPType(p.payload[0])))
}

// quote copies as much of a datagram as fits to b, and returns how much that is.
func (p *packet) quote(b []byte) int {
	n := copy(b, p.header)
	n += copy(b[n:], p.payload)
	if at := len(p.header) + p.csumOffset; p.csumOffset > 0 && at+2 <= n {
		// The sender reads its datagram as it was on the wire, had there been one.
		binary.BigEndian.PutUint16(b[at:], wire.FinishChecksum(p.payload, p.csumOffset))
	}
	return n
}

// An icmpBudget is a token bucket for the errors that are sent.
//
// RFC 1812 4.3.2.8 has the rate of errors limited, lest they cost the host what
// it has its own traffic for.
type icmpBudget struct {
	mu     mutex[levelTable]
	tokens float64
	at     tcp.Time
}

func (b *icmpBudget) init(now tcp.Time) {
	b.tokens, b.at = icmpErrorBurst, now
}

// take reports whether one more error may be sent now.
func (b *icmpBudget) take(now tcp.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if d := now - b.at; d > 0 {
		b.tokens = min(b.tokens+time.Duration(d).Seconds()*icmpErrorRate, icmpErrorBurst)
		b.at = now
	}
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

// deliverError tells those whose datagram it was of an error. No lock is held.
func (s *Stack) deliverError(proto wire.Proto, e *icmpError) {
	switch proto {
	case wire.ProtoTCP:
		s.tcpICMP(e)
	case wire.ProtoUDP:
		s.udpICMP(e)
	}
	s.rawICMP(proto, e)
}

// unreachable tells the senders of a frame that the neighbour that it was for
// does not answer, as if a router had sent a host unreachable.
//
// RFC 1122 2.4: "The link layer MUST NOT report a Destination Unreachable error
// to IP solely because there is no ARP cache entry for a destination": it has
// been asked for by now, often enough.
func (s *Stack) unreachable(ifc *iface, f *nic.Frame) {
	b := f.Head[ifc.linkLen:]
	if wire.Version(b) == 6 {
		s.unreachable6(ifc, b)
		return
	}
	h, transport, r := wire.ParseIPv4(b)
	if r != wire.OK || h.FragOffset != 0 || len(transport) < 8 {
		return
	}
	s.deliverError(h.Proto, &icmpError{
		errno:     syscall.EHOSTUNREACH,
		local:     h.Src,
		remote:    h.Dst,
		transport: transport,
	})
}

// unreachable6 is unreachable for a packet of IPv6.
func (s *Stack) unreachable6(ifc *iface, b []byte) {
	q, r := wire.ParseQuoted6(b)
	if r != wire.OK || q.Transport == nil {
		return
	}
	e := icmpError{errno: syscall.EHOSTUNREACH, local: q.Src, remote: q.Dst, transport: q.Transport}
	if isLinkLocal6(q.Src) || isLinkLocal6(q.Dst) {
		e.zone = ifc.index
	}
	s.deliverError(q.Proto, &e)
}
