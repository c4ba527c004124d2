package stack

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

// The limits of the ICMP errors that are sent. They are those of Linux's icmp_msgs_per_sec and
// icmp_msgs_burst.
const (
	icmpErrorRate  = 1000 // errors per second, on average
	icmpErrorBurst = 50
)

// An icmpKind is the reason for an ICMP error, independent of the family. Its methods v4 and v6 return
// the header of the error.
type icmpKind uint8

const (
	icmpPort       icmpKind = iota // no socket on the port
	icmpProto                      // unknown protocol; in IPv6 the pointer is the offset of the Next Header field
	icmpReassembly                 // reassembly timeout
	icmpBadHeader                  // invalid header field; the pointer is its offset

	// IPv6 only.
	icmpOption        // unknown option that asks for an error
	icmpOptionToGroup // unknown option that asks for an error even if the destination is multicast
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
	transport     []byte        // the beginning of the datagram's payload, at least 8 bytes
	from          netip.Addr    // sender of the error; invalid: this host
	zone          int           // index of the interface if local or remote is link-local, otherwise 0
	received      receivedError // the zero value if the error comes from this host
}

// A receivedError has the packet of a received ICMP error, for Watchers. A pointer to the packet would move the
// packet to the heap.
type receivedError struct {
	ifc             *iface
	header, payload []byte // borrowed
}

// sendICMPError sends an ICMP error about a received datagram, if the rules of the RFCs and the rate
// limit allow it. pointer is the offset of the error in the datagram, for the kinds that have a pointer.
//
// RFC 1122 3.2.2: "An ICMP error message MUST NOT be sent as the result of receiving: an ICMP error
// message, or a datagram destined to an IP broadcast or IP multicast address, or a datagram sent as a
// link-layer broadcast, or a non-initial fragment, or a datagram whose source address does not define a
// single host". RFC 4443 2.4 (e) has the same rules, except for "the Parameter Problem Message, Code 2,
// [...] that reports an unrecognized IPv6 option [...] that has the Option Type highest-order two bits
// set to 10".
func (s *Stack) sendICMPError(p *packet, k icmpKind, pointer int) {
	// p.broadcast is also true for multicast. The callers pass no non-initial fragments of IPv4.
	if p.broadcast && k != icmpOptionToGroup || !isUnicast(p.src) || p.isICMPError() {
		return
	}
	if !p.ifc.loopback && !s.icmp.take(s.now()) {
		p.drop(dropICMPRate)
		return
	}
	if p.src.Is6() {
		s.sendICMPError6(p, k, pointer)
		return
	}
	s.sendICMPError4(p, k, pointer)
}

// isICMPError reports whether p is or may be an ICMP error. An empty ICMP message and an ICMPv4 message
// of unknown type count as errors. isICMPQuery and isICMPError6 have the types.
func (p *packet) isICMPError() bool {
	if p.src.Is6() {
		return p.proto == wire.ProtoICMPv6 && isICMPError6(p.payload)
	}
	return p.proto == wire.ProtoICMP && (len(p.payload) == 0 || !isICMPQuery(wire.ICMPType(p.payload[0])))
}

// quote copies the headers and the payload of a datagram to b, as much as fits. It returns the number of
// bytes copied.
func (p *packet) quote(b []byte) int {
	n := copy(b, p.header)
	n += copy(b[n:], p.payload)
	if at := len(p.header) + p.csumOffset; p.csumOffset > 0 && at+2 <= n {
		// The checksum in p is incomplete. Complete it in the quote.
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

// take reports whether one more error may be sent now, and if so takes a token for it.
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

// deliverError passes an error to the TCP or UDP socket that may have sent the datagram, and to the raw
// sockets. proto is the transport protocol of the datagram. The caller must not hold a lock.
func (s *Stack) deliverError(proto wire.Proto, e *icmpError) {
	switch proto {
	case wire.ProtoTCP:
		s.tcpICMP(e)
	case wire.ProtoUDP:
		s.udpICMP(e)
	case wire.ProtoICMPv6:
		s.echoReplyTooBig(e)
	}
	s.rawICMP(proto, e)
}

// echoReplyTooBig lowers the path MTU if e says that an ICMPv6 echo reply was too large, and the host has
// sent a large reply to e.remote lately. ICMPv4 echo replies do not have DF set, so the routers fragment
// them.
//
// RFC 8201 4: "When a node receives a Packet Too Big message, it must reduce its estimate of the PMTU for
// the relevant path, based on the value of the MTU field in the message."
func (s *Stack) echoReplyTooBig(e *icmpError) {
	if e.errno != syscall.EMSGSIZE || wire.ICMPv6Type(e.transport[0]) != wire.ICMPv6EchoReply {
		return
	}
	if !s.echoed.take(e.remote, s.now()) {
		s.dropError(dropBadICMPError, e)
		return
	}
	s.lowerDatagramMTU(e.remote, e.local, e.mtu)
}

const (
	maxEchoed = 64              // destinations that echoLog keeps
	echoedAge = 60 * tcp.Second // how long a Packet Too Big message about a reply is believed
)

// An echoLog has the destinations of the latest large ICMPv6 echo replies. The stack sends these replies
// without a socket, so only the log tells whether a Packet Too Big message about a reply may be true. Each
// reply lets one message lower the path MTU. A flood of forged messages about other destinations changes
// nothing.
//
// RFC 8201 4: "Nodes should appropriately validate the payload of ICMPv6 PTB messages to ensure these are
// received in response to transmitted traffic".
type echoLog struct {
	mu   mutex[levelTable]
	list []echoed // the latest last
}

type echoed struct {
	dst netip.Addr
	at  tcp.Time
}

// add records a reply to dst of the given length, with its IP header. A reply that fits the smallest MTU
// is never too large, so it is not recorded.
func (l *echoLog) add(dst netip.Addr, length int, now tcp.Time) {
	if length <= wire.MinIPv6MTU {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = slices.DeleteFunc(l.list, func(e echoed) bool { return e.dst == dst || now-e.at >= echoedAge })
	if len(l.list) >= maxEchoed {
		l.list = slices.Delete(l.list, 0, 1)
	}
	l.list = append(l.list, echoed{dst, now})
}

// take removes the record of dst, and reports whether there was one.
func (l *echoLog) take(dst netip.Addr, now tcp.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.IndexFunc(l.list, func(e echoed) bool { return e.dst == dst && now-e.at < echoedAge })
	if i < 0 {
		return false
	}
	l.list = slices.Delete(l.list, i, i+1)
	return true
}

// unreachable delivers EHOSTUNREACH to the socket that sent f, because the next hop does not answer ARP
// requests or neighbour solicitations. The effect is that of a Host Unreachable message from a router.
//
// RFC 1122 2.4: "The link layer MUST NOT report a Destination Unreachable error to IP solely because
// there is no ARP cache entry for a destination". unreachable does not violate this, because requests
// have been sent and none was answered.
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
