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

// The limits of the ICMP errors that are sent. They are those of Linux's icmp_msgs_per_sec and
// icmp_msgs_burst.
const (
	icmpErrorRate  = 1000 // per second
	icmpErrorBurst = 50
)

// An icmpKind is the reason for an ICMP error, independent of the family. v4 and v6 return the type and
// code for it.
type icmpKind uint8

const (
	icmpPort       icmpKind = iota // no socket on the port
	icmpProto                      // unknown protocol; in IPv6 the pointer is the offset of its number
	icmpReassembly                 // reassembly timeout
	icmpBadHeader                  // invalid header field; the pointer is its offset

	// IPv6 only.
	icmpOption        // unknown option that asks for an error
	icmpOptionToGroup // unknown option that asks for an error even for a packet to a group
	icmpFirstChain    // the first fragment does not contain all headers (RFC 7112 5)
)

// An icmpError says that a datagram of this host was not delivered. It comes from an ICMP error or from
// the host's own neighbour table.
type icmpError struct {
	errno         syscall.Errno // EMSGSIZE: the datagram was too large
	hard          bool          // RFC 1122 4.2.3.9: a hard error
	mtu           int           // with EMSGSIZE: MTU of the next hop, or an estimate (RFC 1191)
	reassembly    bool          // reassembly timeout: a fragment was lost
	local, remote netip.Addr    // source and destination of the datagram
	transport     []byte        // the beginning of its payload, at least 8 bytes
	from          netip.Addr    // sender of the error; invalid: this host
	zone          int           // index of the interface if local or remote is link-local; else 0
}

// sendICMPError sends an ICMP error about a received datagram, if the rules allow it. pointer is the
// offset of the error in the datagram, for the kinds that have one.
//
// RFC 1122 3.2.2: "An ICMP error message MUST NOT be sent as the result of receiving: an ICMP error
// message, or a datagram destined to an IP broadcast or IP multicast address, or a datagram sent as a
// link-layer broadcast, or a non-initial fragment, or a datagram whose source address does not define a
// single host". RFC 4443 2.4 (e) has the same rules, except for "the Parameter Problem Message, Code 2,
// [...] that reports an unrecognized IPv6 option [...] that has the Option Type highest-order two bits
// set to 10".
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

// isICMPError reports whether a datagram is an ICMP error. An ICMP message of unknown type or without a
// type counts as one.
func (p *packet) isICMPError() bool {
	if p.src.Is6() {
		return p.proto == wire.ProtoICMPv6 && isICMPError6(p.payload)
	}
	return p.proto == wire.ProtoICMP && (len(p.payload) == 0 || !isICMPQuery(wire.ICMPType(p.payload[0])))
}

// quote copies as much of a datagram as fits to b, and returns the number of bytes.
func (p *packet) quote(b []byte) int {
	n := copy(b, p.header)
	n += copy(b[n:], p.payload)
	if at := len(p.header) + p.csumOffset; p.csumOffset > 0 && at+2 <= n {
		// The checksum is complete in the quote, as in the datagram that its sender sent.
		binary.BigEndian.PutUint16(b[at:], wire.FinishChecksum(p.payload, p.csumOffset))
	}
	return n
}

// An icmpBudget is a token bucket that limits the rate of ICMP errors, as RFC 1812 4.3.2.8 requires.
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

// deliverError passes an error to the sockets that may have sent the datagram. No lock is held.
func (s *Stack) deliverError(proto wire.Proto, e *icmpError) {
	switch proto {
	case wire.ProtoTCP:
		s.tcpICMP(e)
	case wire.ProtoUDP:
		s.udpICMP(e)
	}
	s.rawICMP(proto, e)
}

// unreachable reports EHOSTUNREACH to the sender of a frame whose neighbour does not answer, as for a
// host unreachable message from a router.
//
// RFC 1122 2.4: "The link layer MUST NOT report a Destination Unreachable error to IP solely because
// there is no ARP cache entry for a destination". Here the requests have gone unanswered.
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

// unreachable6 is unreachable for an IPv6 packet.
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
