package wire

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// Sum adds the 16-bit big-endian words of b to acc in ones' complement arithmetic (RFC 1071). If the
// length of b is odd, the last byte counts as if a zero byte followed.
//
// Sums of consecutive pieces are chained by passing the result of one call as acc of the next. Each
// piece must begin at an even offset; use SumOdd for a piece at an odd offset. The caller may also add
// numbers to acc itself, as long as acc does not overflow.
func Sum(b []byte, acc uint64) uint64 {
	s := sumSwapped(b)
	sum, carry := bits.Add64(acc, uint64(bits.ReverseBytes16(s)), 0)
	return sum + carry
}

// SumOdd is Sum for a piece that begins at an odd offset of the summed bytes:
//
//	acc = Sum(head, acc) // len(head) is odd
//	acc = SumOdd(body, acc)
func SumOdd(b []byte, acc uint64) uint64 {
	// RFC 1071 2(B): "the sum of 16-bit integers can be computed in either byte order". A piece that
	// begins one byte later has a sum with its two bytes swapped.
	sum, carry := bits.Add64(acc, uint64(sumSwapped(b)), 0)
	return sum + carry
}

// sumSwapped returns the folded sum of the little-endian words of b. That is the sum of the big-endian
// words with its two bytes swapped. Little-endian loads cost nothing extra on the common processors.
func sumSwapped(b []byte) uint16 {
	le := binary.LittleEndian
	var s, c uint64
	for len(b) >= 64 {
		p := b[:64]
		s, c = bits.Add64(s, le.Uint64(p[0:]), 0)
		s, c = bits.Add64(s, le.Uint64(p[8:]), c)
		s, c = bits.Add64(s, le.Uint64(p[16:]), c)
		s, c = bits.Add64(s, le.Uint64(p[24:]), c)
		s, c = bits.Add64(s, le.Uint64(p[32:]), c)
		s, c = bits.Add64(s, le.Uint64(p[40:]), c)
		s, c = bits.Add64(s, le.Uint64(p[48:]), c)
		s, c = bits.Add64(s, le.Uint64(p[56:]), c)
		s += c
		b = b[64:]
	}
	for len(b) >= 8 {
		s, c = bits.Add64(s, le.Uint64(b), 0)
		s += c
		b = b[8:]
	}
	// At most 7 bytes are left. Add them as one number, padded with zeros.
	var tail uint64
	if len(b) >= 4 {
		tail = uint64(le.Uint32(b))
		b = b[4:]
		switch len(b) {
		case 3:
			tail |= uint64(le.Uint16(b))<<32 | uint64(b[2])<<48
		case 2:
			tail |= uint64(le.Uint16(b)) << 32
		case 1:
			tail |= uint64(b[0]) << 32
		}
	} else {
		switch len(b) {
		case 3:
			tail = uint64(le.Uint16(b)) | uint64(b[2])<<16
		case 2:
			tail = uint64(le.Uint16(b))
		case 1:
			tail = uint64(b[0])
		}
	}
	s, c = bits.Add64(s, tail, 0)
	return Fold(s + c)
}

// Fold reduces a sum to 16 bits. It does not complement the sum: a packet with a correct checksum folds
// to 0xffff.
func Fold(acc uint64) uint16 {
	acc = acc>>32 + acc&0xffffffff // at most 33 bits
	acc = acc>>32 + acc&0xffffffff // at most 32 bits
	acc = acc>>16 + acc&0xffff     // at most 17 bits
	acc = acc>>16 + acc&0xffff
	return uint16(acc)
}

// Checksum returns the Internet checksum of b: the complement of the folded sum.
func Checksum(b []byte) uint16 { return ^Fold(Sum(b, 0)) }

// PseudoSum returns the sum of the pseudo-header of TCP, UDP or ICMPv6 (RFC 9293 3.1, RFC 8200 8.1), to be
// passed to Sum as acc. length is the length of the transport header and its data in bytes. Both
// addresses must have the same family; an IPv4-mapped IPv6 address counts as IPv4.
func PseudoSum(src, dst netip.Addr, proto uint8, length int) uint64 {
	acc := uint64(proto) + uint64(length)
	if src.Is4() || src.Is4In6() {
		s, d := src.As4(), dst.As4()
		return acc + uint64(binary.BigEndian.Uint32(s[:])) + uint64(binary.BigEndian.Uint32(d[:]))
	}
	s, d := src.As16(), dst.As16()
	return Sum(d[:], Sum(s[:], acc))
}

// UpdateChecksum returns the checksum of a packet after one of its 16-bit words has changed. old is the
// checksum before the change.
func UpdateChecksum(old, from, to uint16) uint16 {
	// RFC 1624 3, equation 3: "HC' = ~(~HC + ~m + m')".
	return ^Fold(uint64(^old) + uint64(^from) + uint64(to))
}

// FinishChecksum returns the checksum of a TCP segment or UDP datagram. The checksum field, at the
// given offset, must hold the folded sum of the pseudo-header, not complemented. Senders store that sum
// there for a device that computes checksums. The field must lie inside the segment.
func FinishChecksum(segment []byte, offset int) uint16 {
	sum := ^Fold(Sum(segment, 0))
	// RFC 768: "If the computed checksum is zero, it is transmitted as all ones". This applies to UDP
	// only. A checksum of TCP is never all ones (RFC 1624 section 3): receivers would accept it, but
	// Wireshark reports it as bad.
	if sum == 0 && offset == UDPChecksumOffset {
		sum = 0xffff
	}
	return sum
}
