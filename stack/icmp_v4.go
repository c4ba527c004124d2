package stack

import (
	"syscall"
	"time"

	"github.com/usernet/usernet/stack/wire"
)

// maxICMPError is the largest size of an ICMPv4 error, with its IP header. RFC 1812 4.3.2.3: an ICMP
// error "SHOULD contain as much of the original datagram as possible without the length of the ICMP
// datagram exceeding 576 bytes."
const maxICMPError = 576

// Codes of Destination Unreachable. A router sends them for packets that it drops because of the
// precedence in their TOS (RFC 1812 5.2.7.1).
const (
	precedenceViolation = 14
	precedenceCutoff    = 15
)

// inputICMP handles a received ICMP message.
func (s *Stack) inputICMP(p *packet) {
	h, body, r := wire.ParseICMP(p.payload)
	if r != wire.OK {
		p.drop(r)
		return
	}
	s.counts.icmpReceived.Add(1)
	switch h.Type {
	case wire.ICMPEcho:
		s.echo(p, &h, body)
	case wire.ICMPUnreachable, wire.ICMPTimeExceeded, wire.ICMPParamProblem:
		s.inputICMPError(p, &h, body)
	case wire.ICMPEchoReply:
		// Only raw sockets use echo replies, and they have received this reply already.
	default:
		// RFC 1122 3.2.2: "If an ICMP message of unknown type is received, it
		// MUST be silently discarded." Source Quench messages are discarded too (RFC 6633 3), and IPv4
		// Redirects.
		p.drop(dropICMPType)
	}
}

// echo answers an Echo Request, unless its source is not unicast or it was sent to a broadcast or
// multicast address.
//
// RFC 1122 3.2.2.6: "Every host MUST implement an ICMP Echo server function";
// "Data received in an ICMP Echo Request MUST be entirely included in the
// resulting Echo Reply"; a request to a broadcast address "MAY be silently discarded".
func (s *Stack) echo(p *packet, h *wire.ICMP, body []byte) {
	if p.broadcast || !isUnicast(p.src) {
		p.drop(dropEchoBroadcast)
		return
	}
	n := wire.ICMPLen + len(body)
	buf := s.bufs.get(transportAt + n)
	copy(buf[transportAt+wire.ICMPLen:], body)
	answer := wire.ICMP{Type: wire.ICMPEchoReply, Rest: h.Rest}
	answer.Put(buf[transportAt:], buf[transportAt+wire.ICMPLen:])
	s.counts.icmpSent.Add(1)
	s.reply(p.src, p.dst, 0, ipHeader{proto: wire.ProtoICMP, tos: p.tos, more: s.echoOptions(p)}, buf, n)
}

// echoOptions returns the IP options of the answer to an Echo Request, or nil for no options.
//
// RFC 1122 3.2.2.6: "If a Record Route and/or Time Stamp option is received in an ICMP Echo
// Request, this option (these options) SHOULD be updated to include the current host and
// included in the IP header of the Echo Reply message, without 'truncation'." As in BSD, the host adds
// its address once; Linux adds it twice, as the destination and as the source.
func (s *Stack) echoOptions(p *packet) *ipMore {
	if len(p.header) <= wire.IPv4Len {
		return nil
	}
	o, _, r := wire.ParseIPv4Options(p.header[wire.IPv4Len:])
	if r != wire.OK || o.RecordRoute == nil && o.Timestamp == nil {
		return nil
	}
	// Copy the options, because the received packet must not be changed.
	options := append(append(make([]byte, 0, wire.MaxIPv4Len-wire.IPv4Len), o.RecordRoute...), o.Timestamp...)
	o, _, _ = wire.ParseIPv4Options(options)
	// RFC 1122 3.2.2.8: the "standard value" is "milliseconds since midnight UT".
	const day = 24 * time.Hour
	o.Record(p.dst, uint32(time.Now().UnixMilli()%day.Milliseconds()))
	for len(options)%4 != 0 {
		options = append(options, 0) // End of Option List
	}
	return &ipMore{options: options}
}

// v4 returns the ICMPv4 header of an error of kind k.
func (k icmpKind) v4(pointer int) wire.ICMP {
	switch k {
	case icmpPort:
		return wire.ICMP{Type: wire.ICMPUnreachable, Code: wire.UnreachPort}
	case icmpProto:
		return wire.ICMP{Type: wire.ICMPUnreachable, Code: wire.UnreachProto}
	case icmpReassembly:
		return wire.ICMP{Type: wire.ICMPTimeExceeded, Code: wire.ExceededReassembly}
	}
	// RFC 792: "If code = 0, the pointer identifies the octet where an error was detected."
	return wire.ICMP{Type: wire.ICMPParamProblem, Rest: uint32(pointer) << 24}
}

// sendICMPError4 sends an ICMPv4 error about p. sendICMPError has checked that the error may be sent.
func (s *Stack) sendICMPError4(p *packet, k icmpKind, pointer int) {
	const most = maxICMPError - wire.IPv4Len - wire.ICMPLen
	buf := s.bufs.get(transportAt + wire.ICMPLen + min(len(p.header)+len(p.payload), most))
	b := buf[transportAt:]
	n := p.quote(b[wire.ICMPLen:min(len(b), wire.ICMPLen+most)])
	h := k.v4(pointer)
	h.Put(b, b[wire.ICMPLen:wire.ICMPLen+n])
	s.counts.icmpSent.Add(1)
	s.reply(p.src, p.dst, 0, ipHeader{proto: wire.ProtoICMP}, buf, wire.ICMPLen+n)
}

// isICMPQuery reports whether t is the type of a query or a reply. All other types count as errors.
func isICMPQuery(t wire.ICMPType) bool {
	switch t {
	case wire.ICMPEcho, wire.ICMPEchoReply, wire.ICMPTimestamp, wire.ICMPTimestampReply:
		return true
	}
	return false
}

// inputICMPError handles a received ICMP error. It passes the error to the socket that sent the quoted
// datagram.
func (s *Stack) inputICMPError(p *packet, h *wire.ICMP, body []byte) {
	quoted, transport, r := wire.ParseQuoted(body)
	if r != wire.OK {
		p.drop(r)
		return
	}
	// The quoted datagram must have come from this host, so its source is the address to which the
	// error was sent.
	if p.broadcast || quoted.Src != p.dst || quoted.FragOffset != 0 || !isUnicast(quoted.Dst) {
		p.drop(dropBadICMPError)
		return
	}
	e := icmpError{local: quoted.Src, remote: quoted.Dst, transport: transport, from: p.src, received: receivedError{p.ifc, p.header, p.payload}}
	e.errno, e.hard = ICMPErrno(h.Type, h.Code)
	e.reassembly = h.Type == wire.ICMPTimeExceeded && h.Code == wire.ExceededReassembly
	if e.errno == syscall.EMSGSIZE {
		e.mtu = nextMTU(int(h.NextHopMTU()), int(quoted.TotalLen))
	}
	if e.errno == 0 {
		p.drop(dropICMPType)
		return
	}
	s.counts.icmpErrors.Add(1)
	s.deliverError(quoted.Proto, &e)
}

// nextMTU returns the MTU of the next hop for a Fragmentation Needed message that reports mtu. If mtu is
// less than minMTU, nextMTU estimates the MTU from total, the length of the quoted datagram. RFC 1191 4:
// routers that only follow RFC 792 send 0.
func nextMTU(mtu, total int) int {
	if mtu < minMTU {
		return plateau(total)
	}
	return mtu
}

// ICMPErrno returns the errno that Linux has for an ICMP error message (icmp_err_convert), and whether
// the error is hard. Connected UDP and raw sockets return only hard errors to the application; UDP
// sockets also return EMSGSIZE. The errno is 0 if the message is not an error or its code is not
// defined.
//
// RFC 1122 4.2.3.9: codes 0, 1 and 5 of Destination Unreachable are soft errors, "2-4 ... are hard error
// conditions". The codes for prohibited communication are hard too.
func ICMPErrno(typ wire.ICMPType, code uint8) (errno syscall.Errno, hard bool) {
	switch {
	case typ == wire.ICMPTimeExceeded:
		return syscall.EHOSTUNREACH, false
	case typ == wire.ICMPParamProblem:
		return syscall.EPROTO, true
	case typ == wire.ICMPUnreachable && int(code) < len(unreachableErrnos):
		e := &unreachableErrnos[code]
		return e.errno, e.hard
	}
	return 0, false
}

// unreachableErrnos has the errnos of the codes of Destination Unreachable.
var unreachableErrnos = [...]struct {
	errno syscall.Errno
	hard  bool
}{
	wire.UnreachNet:             {syscall.ENETUNREACH, false},
	wire.UnreachHost:            {syscall.EHOSTUNREACH, false},
	wire.UnreachProto:           {syscall.ENOPROTOOPT, true},
	wire.UnreachPort:            {syscall.ECONNREFUSED, true},
	wire.UnreachFragNeeded:      {syscall.EMSGSIZE, true},
	wire.UnreachSourceRoute:     {syscall.EOPNOTSUPP, false},
	wire.UnreachNetUnknown:      {syscall.ENETUNREACH, true},
	wire.UnreachHostUnknown:     {errHostDown, true},
	wire.UnreachHostIsolated:    {errHostIsolated, true},
	wire.UnreachNetProhibited:   {syscall.ENETUNREACH, true},
	wire.UnreachHostProhibited:  {syscall.EHOSTUNREACH, true},
	wire.UnreachNetTOS:          {syscall.ENETUNREACH, false},
	wire.UnreachHostTOS:         {syscall.EHOSTUNREACH, false},
	wire.UnreachAdminProhibited: {syscall.EHOSTUNREACH, true},
	precedenceViolation:         {syscall.EHOSTUNREACH, true},
	precedenceCutoff:            {syscall.EHOSTUNREACH, true},
}
