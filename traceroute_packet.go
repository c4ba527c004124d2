package usernet

import (
	"encoding/binary"
	"net/netip"
	"syscall"

	"github.com/usernet/usernet/stack"
	"github.com/usernet/usernet/stack/wire"
)

// data returns the data of a probe.
func (t *tracer) data() []byte {
	b := make([]byte, t.cfg.Size)
	for i := range b {
		b[i] = byte('@' + i%64)
	}
	return b
}

// echo returns the echo request with index i. Its identifier is t.id.
func (t *tracer) echo(i int) []byte {
	data := t.data()
	b := make([]byte, echoLen+len(data))
	rest := uint32(t.id)<<16 | uint32(t.cfg.Port+uint16(i))
	if t.fam.six {
		h := wire.ICMPv6{Type: wire.ICMPv6Echo, Rest: rest}
		h.Put(t.src, t.to.WithZone(""), b, data)
	} else {
		h := wire.ICMP{Type: wire.ICMPEcho, Rest: rest}
		h.Put(b, data)
	}
	return b
}

// udpPort returns the destination port of the UDP datagram with index i. The port after 65535 is 1, because no
// datagram can be sent to port 0.
func (t *tracer) udpPort(i int) uint16 { return uint16((int(t.cfg.Port)-1+i)%65535 + 1) }

// udpIndex returns the index of the UDP datagram to a port, which is not 0.
func (t *tracer) udpIndex(port uint16) int { return (int(port) - int(t.cfg.Port) + 65535) % 65535 }

// syn returns the SYN with index i. Each has its own source port, so that it is not a retransmission of
// another one, and the answer names the port.
func (t *tracer) syn(i int) []byte {
	h := wire.TCP{SrcPort: t.id + uint16(i), DstPort: t.cfg.Port, Seq: t.seq, Flags: wire.FlagSYN, Window: 5840, MSS: 1460}
	b := make([]byte, h.Len())
	h.Put(b)
	if !t.fam.six { // an IPv6 raw socket sets the checksum itself
		wire.SetTCPChecksum(t.src, t.to, b)
	}
	return b
}

// isFrom reports whether addr is the destination.
func (t *tracer) isFrom(addr netip.Addr) bool { return addr.WithZone("") == t.to.WithZone("") }

// tcpAnswer returns the answer in a segment: a SYN-ACK or an RST of the destination. It cannot verify the
// checksum, which is not complete yet if the sender offloads it; the acknowledgment of t.seq shows that the
// segment is an answer.
func (t *tracer) tcpAnswer(b []byte, from netip.Addr) (a traceAnswer, ok bool) {
	h, _, r := wire.ParseTCP(b)
	if r != wire.OK || !t.isFrom(from) || h.SrcPort != t.cfg.Port || h.Flags&wire.FlagACK == 0 || h.Ack != t.seq+1 ||
		h.Flags&(wire.FlagSYN|wire.FlagRST) == 0 {
		return a, false
	}
	return traceAnswer{index: int(h.DstPort - t.id), reply: TraceReply{Final: true}}, true
}

// icmpAnswer returns the answer in an ICMP message: an echo reply, or an error about a probe.
func (t *tracer) icmpAnswer(b []byte) (a traceAnswer, ok bool) {
	if len(b) < echoLen || !t.fam.six && wire.Checksum(b) != 0 {
		return a, false
	}
	a.reply.ICMP, a.reply.Type, a.reply.Code = true, b[0], b[1]
	if t.isEchoReply(b) {
		a.index, a.reply.Final = int(binary.BigEndian.Uint16(b[6:])-t.cfg.Port), true
		return a, t.cfg.Method == TraceICMP && binary.BigEndian.Uint16(b[4:]) == t.id
	}
	var exceeded, port bool
	var errno syscall.Errno
	if t.fam.six {
		kind := wire.ICMPv6Type(b[0])
		exceeded = kind == wire.ICMPv6TimeExceeded && b[1] == wire.ExceededTTL
		port = kind == wire.ICMPv6Unreachable && b[1] == wire.Unreach6Port
		errno, _ = stack.ICMPv6Errno(kind, b[1])
		if kind == wire.ICMPv6TooBig {
			a.reply.MTU = int(binary.BigEndian.Uint32(b[4:]))
		}
	} else {
		kind := wire.ICMPType(b[0])
		exceeded = kind == wire.ICMPTimeExceeded && b[1] == wire.ExceededTTL
		port = kind == wire.ICMPUnreachable && b[1] == wire.UnreachPort
		errno, _ = stack.ICMPErrno(kind, b[1])
		if kind == wire.ICMPUnreachable && b[1] == wire.UnreachFragNeeded {
			a.reply.MTU = int(binary.BigEndian.Uint16(b[6:]))
		}
	}
	if errno == 0 {
		return a, false
	}
	if a.index, ok = t.quoted(b[echoLen:]); !ok {
		return a, false
	}
	a.reply.Final = !exceeded
	if !exceeded && !port {
		a.reply.Err = errno
	}
	return a, true
}

// isEchoReply reports whether an ICMP message is an echo reply.
func (t *tracer) isEchoReply(b []byte) bool {
	if t.fam.six {
		return wire.ICMPv6Type(b[0]) == wire.ICMPv6EchoReply
	}
	return wire.ICMPType(b[0]) == wire.ICMPEchoReply
}

// quoted returns the index of the probe that an ICMP error quotes. It reports false if the error is about
// another packet, or quotes less than 8 bytes after the IP headers.
func (t *tracer) quoted(ip []byte) (index int, ok bool) {
	var proto wire.Proto
	var dst netip.Addr
	var b []byte
	if t.fam.six {
		q, r := wire.ParseQuoted6(ip)
		if r != wire.OK {
			return 0, false
		}
		proto, dst, b = q.Proto, q.Dst, q.Transport
	} else {
		h, transport, r := wire.ParseQuoted(ip)
		if r != wire.OK {
			return 0, false
		}
		proto, dst, b = h.Proto, h.Dst, transport
	}
	if len(b) < 8 || !t.isFrom(dst) {
		return 0, false
	}
	x, y := binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:]) // the ports, of UDP and TCP
	switch {
	case proto == wire.ProtoUDP && t.udp != nil:
		return t.udpIndex(y), x == t.udp.LocalAddr().Port() && y != 0
	case proto == wire.ProtoTCP && t.tcp != nil:
		return int(x - t.id), y == t.cfg.Port && binary.BigEndian.Uint32(b[4:]) == t.seq
	case (proto == wire.ProtoICMP || proto == wire.ProtoICMPv6) && t.cfg.Method == TraceICMP:
		return int(binary.BigEndian.Uint16(b[6:]) - t.cfg.Port), binary.BigEndian.Uint16(b[4:]) == t.id
	}
	return 0, false
}
