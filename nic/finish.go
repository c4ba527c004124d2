package nic

import (
	"encoding/binary"
	"math/bits"
)

// finish makes the frames that f stands for, as they have to be on a wire
// without offloads: cut to size, and with complete checksums. Each is built in
// a buffer that alloc returns, of the length asked for, and given to emit.
// It reports false, and emits nothing, when the headers are not what f says.
func (m Medium) finish(f *Frame, alloc func(n int) []byte, emit func(frame []byte)) bool {
	if f.GSO != GSONone {
		return m.cut(f, alloc, emit)
	}
	b := f.appendTo(alloc(f.Len()))
	if f.NeedsChecksum && !completeChecksum(b, int(f.ChecksumStart), int(f.ChecksumOffset)) {
		return false
	}
	emit(b)
	return true
}

// appendTo fills b, which has the frame's length, with its bytes.
func (f *Frame) appendTo(b []byte) []byte { return f.AppendTo(b[:0]) }

// completeChecksum adds the bytes from start on to the sum of the
// pseudo-header that stands in the field at start+offset, and puts the
// complement there. It reports false if the field is not in the frame.
func completeChecksum(b []byte, start, offset int) bool {
	if start+offset+2 > len(b) {
		return false
	}
	sum := ^onesSum(b[start:], 0)
	// RFC 768: "If the computed checksum is zero, it is transmitted as all
	// ones". That is UDP's alone: TCP's is never all ones (RFC 1624 section 3), and
	// though receivers take it, Wireshark calls it bad.
	if sum == 0 && offset == udpChecksumOffset {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(b[start+offset:], sum)
	return true
}

// onesSum adds b, as big-endian 16-bit words padded with a zero, to initial in
// ones' complement arithmetic (RFC 1071 section 1).
func onesSum(b []byte, initial uint16) uint16 {
	// RFC 1071 2(B): "the sum of 16-bit integers can be computed in either byte
	// order", and that of the processor is free. Carries are added in the end.
	le := binary.LittleEndian
	var sum, carry uint64
	for len(b) >= 64 {
		p := b[:64]
		sum, carry = bits.Add64(sum, le.Uint64(p[0:]), carry)
		sum, carry = bits.Add64(sum, le.Uint64(p[8:]), carry)
		sum, carry = bits.Add64(sum, le.Uint64(p[16:]), carry)
		sum, carry = bits.Add64(sum, le.Uint64(p[24:]), carry)
		sum, carry = bits.Add64(sum, le.Uint64(p[32:]), carry)
		sum, carry = bits.Add64(sum, le.Uint64(p[40:]), carry)
		sum, carry = bits.Add64(sum, le.Uint64(p[48:]), carry)
		sum, carry = bits.Add64(sum, le.Uint64(p[56:]), carry)
		sum, carry = sum+carry, 0
		b = b[64:]
	}
	for len(b) >= 8 {
		sum, carry = bits.Add64(sum, le.Uint64(b), 0)
		sum += carry
		b = b[8:]
	}
	var tail [8]byte
	copy(tail[:], b)
	sum, carry = bits.Add64(sum, le.Uint64(tail[:]), 0)
	sum, carry = bits.Add64(sum, uint64(bits.ReverseBytes16(initial)), carry)
	sum = sum>>32 + sum&0xffffffff + carry
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return bits.ReverseBytes16(uint16(sum))
}

const (
	ip4HeaderLen = 20
	ip6HeaderLen = 40
	udpHeaderLen = 8
	tcpHeaderLen = 20

	tcpFIN, tcpPSH, tcpCWR = 0x01, 0x08, 0x80

	// Where the transport protocols have their checksums.
	tcpChecksumOffset = 16
	udpChecksumOffset = 6
)

// superFrame is what cut has to know about a super-frame.
type superFrame struct {
	*Frame
	network   int // offset of the IP header
	transport int // offset of the TCP or UDP header
	v6        bool
}

// parse finds the headers of a super-frame. It reports false unless they are
// all where the frame's fields say.
func (m Medium) parse(f *Frame) (s superFrame, ok bool) {
	s = superFrame{Frame: f, network: m.headerLen(), transport: int(f.ChecksumStart)}
	if m == Ethernet && vlanTagged(f.Head) {
		s.network += vlanTagLen
	}
	if f.GSOSize == 0 || !f.NeedsChecksum || int(f.HeaderLen) > len(f.Head) ||
		f.Len() <= int(f.HeaderLen) || s.network >= len(f.Head) {
		return s, false
	}
	ipLen := ip4HeaderLen
	switch f.Head[s.network] >> 4 {
	case 4:
	case 6:
		s.v6, ipLen = true, ip6HeaderLen
	default:
		return s, false
	}
	var least int // of the transport header
	switch f.GSO {
	case GSOTCP4:
		least, ok = tcpHeaderLen, !s.v6
	case GSOTCP6:
		least, ok = tcpHeaderLen, s.v6
	case GSOUDP:
		least, ok = udpHeaderLen, true
	}
	ok = ok && s.transport >= s.network+ipLen &&
		s.transport+least <= int(f.HeaderLen) &&
		s.transport+int(f.ChecksumOffset)+2 <= int(f.HeaderLen)
	return s, ok
}

// cut emits the pieces of a super-frame in their order.
func (m Medium) cut(f *Frame, alloc func(n int) []byte, emit func(frame []byte)) bool {
	s, ok := m.parse(f)
	if !ok {
		return false
	}
	hdr, size := int(f.HeaderLen), int(f.GSOSize)
	total := f.Len() - hdr
	inHead := f.Head[hdr:]
	for off := 0; off < total; off += size {
		n := min(size, total-off)
		b := alloc(hdr + n)
		copy(b, f.Head[:hdr])
		payload := b[hdr:]
		if off < len(inHead) {
			payload = payload[copy(payload, inHead[off:]):]
		}
		if len(payload) > 0 {
			copy(payload, f.Body[off+n-len(payload)-len(inHead):])
		}
		s.fix(b, off, off+n == total)
		emit(b)
	}
	return true
}

// fix makes the headers of piece b, whose payload began off bytes into the
// super-frame's, those of a packet of its own.
func (s *superFrame) fix(b []byte, off int, last bool) {
	ip := b[s.network:]
	if s.v6 {
		binary.BigEndian.PutUint16(ip[4:], uint16(len(ip)-ip6HeaderLen))
	} else {
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
		// Each piece may be fragmented further on, and so needs an
		// identification of its own.
		id := binary.BigEndian.Uint16(ip[4:]) + uint16(off/int(s.GSOSize))
		binary.BigEndian.PutUint16(ip[4:], id)
		header := ip[:max(ip4HeaderLen, min(int(ip[0]&15)*4, s.transport-s.network))]
		binary.BigEndian.PutUint16(ip[10:], 0)
		binary.BigEndian.PutUint16(ip[10:], ^onesSum(header, 0))
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

	// The pseudo-header's sum has the length of the whole super-frame in it.
	// RFC 1624 section 3: a changed field is taken out by its complement.
	sum := t[s.ChecksumOffset:]
	var delta [4]byte
	binary.BigEndian.PutUint16(delta[0:], ^uint16(s.Len()-s.transport))
	binary.BigEndian.PutUint16(delta[2:], uint16(len(t)))
	binary.BigEndian.PutUint16(sum, onesSum(delta[:], binary.BigEndian.Uint16(sum)))
	completeChecksum(b, s.transport, int(s.ChecksumOffset))
}
