package nic

import (
	"bytes"
	"encoding/binary"

	"github.com/usernet/usernet/stack/wire"
)

// A gro joins the segments of a TCP connection that follow each other in a
// batch of received frames to one super-frame: what cut undoes. The stack above
// then has one segment to look at and to acknowledge in place of many, as the
// kernel has behind its generic receive offload.
//
// What is joined could have been sent as one super-frame: all but the last piece
// have the same length, and nothing but sequence numbers, lengths, checksums and
// the flags of the last one differs. The checksum of each piece is verified
// here, and not again by the stack. To read each payload to where it belongs, so
// that it need not be moved, made no difference that could be measured; nor would
// assembly for the checksum, which takes 60 ns of the 1400 that a frame costs.
type gro struct {
	open bool // the last frame of the batch may be continued

	// Of the last frame, while it is open.
	network   int // offset of the IP header
	transport int // offset of the TCP header
	header    int // offset of the payload
	v6        bool
	next      uint32 // the sequence number that continues it
	size      int    // payload of its pieces
	merged    bool   // it has more than one
}

const (
	// mergeLimit is the longest packet that is made by merging.
	mergeLimit = maxPacket

	ip4DontFragment = 0x4000

	// The 4 bytes that begin the options of most segments (RFC 7323 appendix A).
	tcpNopNopTS = 0x0101080a
)

// add looks at frame b, the next after a batch. It reports whether it has joined it
// to the last one: its payload is appended to that one's Head, whose capacity must
// have room for it, and may overlap b. Otherwise b is to become the last one.
func (m *gro) add(batch []Frame, b []byte) bool {
	if !m.open || len(batch) == 0 {
		m.open = m.begin(b)
		return false
	}
	last := &batch[len(batch)-1]
	n, flags, ok := m.continues(last.Head, b)
	if ok && !m.merged {
		ok = m.valid(last.Head) // else the stack finds it, and says so
	}
	if !ok || !m.valid(b) {
		m.close(batch)
		m.open = m.begin(b)
		return false
	}
	last.Head = append(last.Head, b[m.header:m.header+n]...)
	last.Head[m.transport+13] |= flags
	m.merged = true
	m.next += uint32(n)
	if n < m.size || flags != 0 || len(last.Head)-m.network+m.size > mergeLimit {
		m.close(batch)
	}
	return true
}

// begin looks whether a frame may be continued, by one with the same headers.
func (m *gro) begin(b []byte) bool {
	if len(b) < wire.EthernetLen+wire.IPv4Len+wire.TCPLen {
		return false
	}
	m.network, m.merged = wire.EthernetLen, false
	ip := b[wire.EthernetLen:]
	switch wire.EtherType(binary.BigEndian.Uint16(b[12:])) {
	case wire.EtherTypeIPv4:
		// Without options, and not a fragment.
		if ip[0] != 0x45 || ip[9] != byte(wire.ProtoTCP) || binary.BigEndian.Uint16(ip[6:])&^ip4DontFragment != 0 ||
			int(binary.BigEndian.Uint16(ip[2:])) != len(ip) {
			return false
		}
		m.v6, m.transport = false, wire.EthernetLen+wire.IPv4Len
	case wire.EtherTypeIPv6:
		if len(ip) < wire.IPv6Len+wire.TCPLen || ip[0]>>4 != 6 || ip[6] != byte(wire.ProtoTCP) ||
			int(binary.BigEndian.Uint16(ip[4:])) != len(ip)-wire.IPv6Len {
			return false
		}
		m.v6, m.transport = true, wire.EthernetLen+wire.IPv6Len
	default:
		return false
	}
	t := b[m.transport:]
	header := int(t[12]>>4) * 4
	// Options other than timestamps say something about the one segment. So do
	// all flags but ACK, and PSH and FIN at the end, after which nothing follows.
	plain := header == wire.TCPLen ||
		header == wire.TCPLen+12 && len(t) > header && binary.BigEndian.Uint32(t[20:]) == tcpNopNopTS
	if !plain || t[12]&15 != 0 || t[13] != tcpACK || len(t) <= header {
		return false
	}
	m.header = m.transport + header
	m.size = len(b) - m.header
	m.next = binary.BigEndian.Uint32(t[4:]) + uint32(m.size)
	return true
}

// continues reports whether b is the segment after the open frame a, and returns the
// length of its payload and those of its flags that are to be added to a's.
func (m *gro) continues(a, b []byte) (n int, flags byte, ok bool) {
	n = len(b) - m.header
	if n <= 0 || n > m.size || len(a)-m.network+n > mergeLimit {
		return 0, 0, false
	}
	x, y := a[m.transport:], b[m.transport:m.header]
	if binary.BigEndian.Uint32(y[4:]) != m.next || !bytes.Equal(a[:m.network], b[:m.network]) {
		return 0, 0, false
	}
	ip := b[m.network:m.transport]
	if m.v6 {
		if int(binary.BigEndian.Uint16(ip[4:])) != len(b)-m.transport ||
			!bytes.Equal(a[m.network:m.network+4], ip[:4]) ||
			!bytes.Equal(a[m.network+6:m.transport], ip[6:]) {
			return 0, 0, false
		}
	} else if int(binary.BigEndian.Uint16(ip[2:])) != len(b)-m.network ||
		a[m.network+1] != ip[1] || ip[0] != 0x45 || // type of service
		!bytes.Equal(a[m.network+6:m.network+10], ip[6:10]) || // fragmentation, time to live, protocol
		!bytes.Equal(a[m.network+12:m.transport], ip[12:]) {
		return 0, 0, false
	}
	// Ports, acknowledgement, length, window and timestamps.
	flags = y[13]
	if flags&^(tcpPSH|tcpFIN) != tcpACK || x[12] != y[12] ||
		!bytes.Equal(x[:4], y[:4]) || !bytes.Equal(x[8:12], y[8:12]) || !bytes.Equal(x[14:16], y[14:16]) ||
		!bytes.Equal(x[18:m.header-m.transport], y[18:]) {
		return 0, 0, false
	}
	return n, flags & (tcpPSH | tcpFIN), true
}

// valid verifies the checksums of a piece.
func (m *gro) valid(b []byte) bool {
	if !m.v6 && wire.Checksum(b[m.network:m.transport]) != 0 {
		return false
	}
	return wire.Fold(wire.Sum(b[m.transport:], uint64(m.pseudoSum(b)))) == 0xffff
}

// pseudoSum is that of a piece, or of all.
func (m *gro) pseudoSum(b []byte) uint16 {
	addrs := b[m.network+12 : m.transport]
	if m.v6 {
		addrs = b[m.network+8 : m.transport]
	}
	return pseudoSum(addrs, byte(wire.ProtoTCP), len(b)-m.transport)
}

// pseudoSum is the sum of a pseudo-header (RFC 9293 3.1, RFC 8200 8.1): of both addresses,
// the protocol, and the length of the transport header and what follows it.
func pseudoSum(addrs []byte, proto byte, length int) uint16 {
	return wire.Fold(wire.Sum(addrs, uint64(proto)+uint64(length)))
}

// close ends the last frame of a batch, and makes what was joined a super-frame.
func (m *gro) close(batch []Frame) {
	if !m.open || !m.merged || len(batch) == 0 {
		m.open = false
		return
	}
	m.open = false
	f := &batch[len(batch)-1]
	b := f.Head
	ip := b[m.network:m.transport]
	f.GSO = GSOTCP4
	if m.v6 {
		f.GSO = GSOTCP6
		binary.BigEndian.PutUint16(ip[4:], uint16(len(b)-m.transport))
	} else {
		binary.BigEndian.PutUint16(ip[2:], uint16(len(b)-m.network))
		ip[10], ip[11] = 0, 0
		binary.BigEndian.PutUint16(ip[10:], wire.Checksum(ip))
	}
	f.NeedsChecksum = true
	f.ChecksumStart, f.ChecksumOffset = uint16(m.transport), wire.TCPChecksumOffset
	f.GSOSize, f.HeaderLen = uint16(m.size), uint16(m.header)
	binary.BigEndian.PutUint16(b[m.transport+wire.TCPChecksumOffset:], m.pseudoSum(b))
}
