package nic

import (
	"encoding/binary"

	"github.com/usernet/usernet/stack/wire"
)

// complete converts f to frames that a link without offloads can carry: it segments a super-frame
// and completes the checksums. It builds each frame in a buffer from alloc and passes it to emit.
// If the headers are not where f says, complete returns false and emits nothing.
func (m Medium) complete(f *Frame, alloc func(n int) []byte, emit func(frame []byte)) bool {
	if f.GSO != GSONone {
		return m.cut(f, int(f.GSOSize), alloc, emit)
	}
	b := f.appendTo(alloc(f.Len()))
	if f.NeedsChecksum && !completeChecksum(b, int(f.ChecksumStart), int(f.ChecksumOffset)) {
		return false
	}
	emit(b)
	return true
}

// appendTo copies the frame to b, which has the frame's length, and returns b.
func (f *Frame) appendTo(b []byte) []byte { return f.AppendTo(b[:0]) }

// completeChecksum adds the bytes from start on to the sum of the pseudo-header in the field at
// start+offset, and stores the complement of the result in the field. It returns false if the field
// is not in the frame.
func completeChecksum(b []byte, start, offset int) bool {
	if start+offset+2 > len(b) {
		return false
	}
	binary.BigEndian.PutUint16(b[start+offset:], wire.FinishChecksum(b[start:], offset))
	return true
}

// TCP flags as they stand in the header.
const (
	tcpFIN = byte(wire.FlagFIN)
	tcpPSH = byte(wire.FlagPSH)
	tcpACK = byte(wire.FlagACK)
	tcpCWR = byte(wire.FlagCWR)
)

// A superFrame is a super-frame with the offsets of its headers.
type superFrame struct {
	*Frame
	network   int // offset of the IP header
	transport int // offset of the TCP or UDP header
	v6        bool
}

// parse finds the headers of a super-frame. It returns false if one of them is not where the
// frame's fields say.
func (m Medium) parse(f *Frame) (s superFrame, ok bool) {
	s = superFrame{Frame: f, network: m.headerLen(), transport: int(f.ChecksumStart)}
	if m == Ethernet && vlanTagged(f.Head) {
		s.network += vlanTagLen
	}
	if f.GSOSize == 0 || !f.NeedsChecksum || int(f.HeaderLen) > len(f.Head) ||
		f.Len() <= int(f.HeaderLen) || s.network >= len(f.Head) {
		return s, false
	}
	ipLen := wire.IPv4Len
	switch f.Head[s.network] >> 4 {
	case 4:
	case 6:
		s.v6, ipLen = true, wire.IPv6Len
	default:
		return s, false
	}
	var least int // the minimum length of the transport header
	switch f.GSO {
	case GSOTCP4:
		least, ok = wire.TCPLen, !s.v6
	case GSOTCP6:
		least, ok = wire.TCPLen, s.v6
	case GSOUDP:
		least, ok = wire.UDPLen, true
	}
	ok = ok && s.transport >= s.network+ipLen &&
		s.transport+least <= int(f.HeaderLen) &&
		s.transport+int(f.ChecksumOffset)+2 <= int(f.HeaderLen)
	return s, ok
}

// cut cuts a super-frame into packets with size bytes of payload and emits them in order. size is
// f.GSOSize or a multiple of it.
func (m Medium) cut(f *Frame, size int, alloc func(n int) []byte, emit func(frame []byte)) bool {
	s, ok := m.parse(f)
	if !ok {
		return false
	}
	hdr := int(f.HeaderLen)
	total := f.Len() - hdr
	for off := 0; off < total; off += size {
		b := alloc(hdr + min(size, total-off))
		s.segment(b, off)
		emit(b)
	}
	return true
}

// segment writes a segment of the super-frame to b. off is the offset of the segment's payload in the
// super-frame's payload, and b has the length of the segment with all headers.
func (s *superFrame) segment(b []byte, off int) {
	hdr := int(s.HeaderLen)
	copy(b, s.Head[:hdr])
	payload, inHead := b[hdr:], s.Head[hdr:]
	end := off + len(payload)
	if off < len(inHead) {
		payload = payload[copy(payload, inHead[off:]):]
	}
	if len(payload) > 0 {
		copy(payload, s.Body[end-len(payload)-len(inHead):])
	}
	s.fix(b, off, end == s.Len()-hdr)
}

// fix changes the headers of segment b from the super-frame's to those of a single packet. off is
// the offset of its payload in the super-frame's payload.
func (s *superFrame) fix(b []byte, off int, last bool) {
	ip := b[s.network:]
	if s.v6 {
		binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-wire.IPv6Len))
	} else {
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
		// Each segment needs its own identification, because a router may fragment it.
		id := binary.BigEndian.Uint16(ip[4:]) + uint16(off/int(s.GSOSize))
		binary.BigEndian.PutUint16(ip[4:], id)
		header := ip[:max(wire.IPv4Len, min(int(ip[0]&15)*4, s.transport-s.network))]
		binary.BigEndian.PutUint16(ip[10:], 0)
		binary.BigEndian.PutUint16(ip[10:], wire.Checksum(header))
	}

	t := b[s.transport:]
	if s.GSO == GSOUDP {
		binary.BigEndian.PutUint16(t[4:], uint16(len(t)))
	} else {
		binary.BigEndian.PutUint32(t[4:], binary.BigEndian.Uint32(t[4:])+uint32(off))
		if !last {
			t[13] &^= tcpFIN | tcpPSH
		}
		// RFC 3168 6.1.2: CWR is set in the first new data packet only.
		if off > 0 {
			t[13] &^= tcpCWR
		}
	}

	// The sum of the pseudo-header contains the length of the whole super-frame. RFC 1624 section
	// 3: adding the complement of a field removes it from the sum.
	field := t[s.ChecksumOffset:]
	sum := uint64(binary.BigEndian.Uint16(field)) + uint64(^wire.Fold(uint64(s.Len()-s.transport))) + uint64(len(t))
	binary.BigEndian.PutUint16(field, wire.Fold(sum))
	completeChecksum(b, s.transport, int(s.ChecksumOffset))
}
