package nic

import (
	"bytes"
	"encoding/binary"

	"github.com/usernet/usernet/stack/wire"
)

// A gro merges consecutive segments of a TCP connection in a batch of received frames into one
// super-frame, as the kernel's generic receive offload does; cut is the reverse. The stack then
// processes and acknowledges one segment instead of many.
//
// The result is a super-frame that a sender could have sent: all segments but the last have the
// same length, and they differ only in sequence numbers, lengths, checksums and the flags of the
// last one. The gro verifies the checksum of each segment, and the stack does not verify it again.
// Reading each payload directly to its final place, which avoids moving it, made no measurable
// difference. The checksum takes 60 of the 1400 ns that a frame costs, too little to justify
// assembly code.
type gro struct {
	medium Medium // what the frames begin with
	open   bool   // whether segments may be added to the last frame of the batch

	// The fields below describe the last frame while open is true.
	network   int // offset of the IP header
	transport int // offset of the TCP header
	header    int // offset of the payload
	v6        bool
	next      uint32 // the sequence number after the frame's payload
	size      int    // payload length of the frame's first segment
	merged    bool   // whether the frame has more than one segment
}

const (
	// mergeLimit is the length of the longest packet that merging makes.
	mergeLimit = maxPacket

	ip4DontFragment = 0x4000

	// The first 4 bytes of the options of most segments (RFC 7323 appendix A).
	tcpNopNopTS = 0x0101080a
)

// add tries to merge b, the frame after batch, into the last frame of batch. If it can, it appends
// the payload of b to that frame's Head and returns true. The Head must have enough unused capacity, and b may
// lie in it. Otherwise add returns false, and the caller appends b to the batch.
func (m *gro) add(batch []Frame, b []byte) bool {
	if !m.open || len(batch) == 0 {
		m.open = m.begin(b)
		return false
	}
	last := &batch[len(batch)-1]
	n, flags, ok := m.continues(last.Head, b)
	ok = ok && len(last.Head)+n <= cap(last.Head)
	if ok && !m.merged {
		ok = m.valid(last.Head) // if not valid, the stack drops and counts it
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

// begin stores the offsets of b's headers and reports whether later segments may be merged into b.
func (m *gro) begin(b []byte) bool {
	network, typ, _ := m.medium.network(b)
	if len(b) < network+wire.IPv4Len+wire.TCPLen {
		return false
	}
	m.network, m.merged = network, false
	ip := b[network:]
	switch typ {
	case wire.EtherTypeIPv4:
		// No options, and not a fragment.
		if ip[0] != 0x45 || ip[9] != byte(wire.ProtoTCP) || binary.BigEndian.Uint16(ip[6:])&^ip4DontFragment != 0 ||
			int(binary.BigEndian.Uint16(ip[2:])) != len(ip) {
			return false
		}
		m.v6, m.transport = false, network+wire.IPv4Len
	case wire.EtherTypeIPv6:
		if len(ip) < wire.IPv6Len+wire.TCPLen || ip[0]>>4 != 6 || ip[6] != byte(wire.ProtoTCP) ||
			int(binary.BigEndian.Uint16(ip[4:])) != len(ip)-wire.IPv6Len {
			return false
		}
		m.v6, m.transport = true, network+wire.IPv6Len
	default:
		return false
	}
	t := b[m.transport:]
	header := int(t[12]>>4) * 4
	// Options other than timestamps apply to one segment only, and so do all flags but ACK. The
	// last segment of a super-frame may have PSH or FIN; nothing is merged after it.
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

// continues reports whether b is the segment after the open frame a. It returns the
// length of its payload and the flags to add to those of a.
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

// valid reports whether the checksums of a segment are correct.
func (m *gro) valid(b []byte) bool {
	if !m.v6 && wire.Checksum(b[m.network:m.transport]) != 0 {
		return false
	}
	return wire.Fold(wire.Sum(b[m.transport:], uint64(m.pseudoSum(b)))) == 0xffff
}

// pseudoSum returns the sum of the pseudo-header of a segment or a super-frame.
func (m *gro) pseudoSum(b []byte) uint16 {
	addrs := b[m.network+12 : m.transport]
	if m.v6 {
		addrs = b[m.network+8 : m.transport]
	}
	return pseudoSum(addrs, byte(wire.ProtoTCP), len(b)-m.transport)
}

// pseudoSum returns the sum of a pseudo-header (RFC 9293 3.1, RFC 8200 8.1): both addresses, the
// protocol, and the length of the transport header with its payload.
func pseudoSum(addrs []byte, proto byte, length int) uint16 {
	return wire.Fold(wire.Sum(addrs, uint64(proto)+uint64(length)))
}

// close ends merging into the last frame of a batch. If segments were merged into it, close makes
// it a super-frame.
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
