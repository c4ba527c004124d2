package wire

import (
	"encoding/binary"
	"net/netip"
)

const (
	TCPLen    = 20 // bytes of a TCP header without options
	MaxTCPLen = 60 // maximum length of a TCP header with options, in bytes

	// TCPChecksumOffset is the offset of the checksum in the header (RFC 9293 3.1).
	TCPChecksumOffset = 16
)

// TCPFlags are the control bits of a TCP segment (RFC 9293 3.1; AE is RFC 9768's).
type TCPFlags uint16

const (
	FlagFIN TCPFlags = 1 << iota
	FlagSYN
	FlagRST
	FlagPSH
	FlagACK
	FlagURG
	FlagECE
	FlagCWR
	FlagAE

	flagMask = 1<<iota - 1
)

const flagNames = "FINSYNRSTPSHACKURGECECWRAE"

// String returns the names of the flags, such as "SYN,ACK", or "none" if f is 0.
func (f TCPFlags) String() string { return string(f.appendTo(nil)) }

func (f TCPFlags) appendTo(dst []byte) []byte {
	if f&flagMask == 0 {
		return append(dst, "none"...)
	}
	start := len(dst)
	for i := range 9 {
		if f&(1<<i) == 0 {
			continue
		}
		if len(dst) > start {
			dst = append(dst, ',')
		}
		dst = append(dst, flagNames[3*i:min(3*i+3, len(flagNames))]...) // the last one, AE, has 2 letters
	}
	return dst
}

// A SACKBlock is a block of received sequence numbers, from Start up to but not including End (RFC 2018
// 3).
type SACKBlock struct{ Start, End uint32 }

// A TCP is the header of a TCP segment (RFC 9293 3.1) with the options that this stack uses.
type TCP struct {
	SrcPort, DstPort uint16
	Seq, Ack         uint32
	Flags            TCPFlags
	Window           uint16 // as on the wire: not scaled
	Urgent           uint16

	MSS           uint16       // in bytes; 0: the option is absent
	WScale        uint8        // the shift count, at most 14 (RFC 7323 2.3)
	HasWScale     bool         // the Window Scale option is there
	SACKPermitted bool         // RFC 2018 2
	HasTS         bool         // the Timestamps option is there
	TSVal, TSEcr  uint32       // RFC 7323 3.2
	NSACK         uint8        // number of valid entries of SACK, 0 to 4
	SACK          [4]SACKBlock // RFC 2018 3
}

// Options of TCP and their lengths.
const (
	tcpOptEnd       = 0
	tcpOptNop       = 1
	tcpOptMSS       = 2
	tcpOptWScale    = 3
	tcpOptSACKPerm  = 4
	tcpOptSACK      = 5
	tcpOptTS        = 8
	tcpMSSLen       = 4
	tcpWScaleLen    = 3
	tcpSACKPermLen  = 2
	tcpTSLen        = 10
	tcpSACKBlockLen = 8
	maxWScale       = 14

	// The 4 bytes that begin the usual options of an established connection
	// (RFC 7323 appendix A) and the usual SACK option.
	tcpNopNopTS   = tcpOptNop<<24 | tcpOptNop<<16 | tcpOptTS<<8 | tcpTSLen
	tcpNopNopSACK = tcpOptNop<<24 | tcpOptNop<<16 | tcpOptSACK<<8
)

// ParseTCP returns the header and the data of the segment b. It does not verify
// the checksum. It skips malformed and unknown options, and stops at an option
// whose length is impossible. It fails with ShortTCP or BadTCPOffset.
func ParseTCP(b []byte) (h TCP, payload []byte, r Reason) {
	payload, r = h.Parse(b)
	return h, payload, r
}

// Parse is ParseTCP, but stores the header in h, which must be zero.
func (h *TCP) Parse(b []byte) (payload []byte, r Reason) {
	if len(b) < TCPLen {
		return nil, ShortTCP
	}
	n := int(b[12]>>4) * 4
	if n < TCPLen || n > len(b) {
		return nil, BadTCPOffset
	}
	be := binary.BigEndian
	h.SrcPort = be.Uint16(b[0:2])
	h.DstPort = be.Uint16(b[2:4])
	h.Seq = be.Uint32(b[4:8])
	h.Ack = be.Uint32(b[8:12])
	h.Flags = TCPFlags(be.Uint16(b[12:14])) & flagMask
	h.Window = be.Uint16(b[14:16])
	h.Urgent = be.Uint16(b[18:20])
	switch {
	case n == TCPLen:
	case n == TCPLen+12 && be.Uint32(b[20:24]) == tcpNopNopTS:
		h.HasTS = true
		h.TSVal = be.Uint32(b[24:28])
		h.TSEcr = be.Uint32(b[28:32])
	default:
		h.parseOptions(b[TCPLen:n])
	}
	return b[n:], OK
}

// parseOptions sets the fields of h that are options. If an option appears twice, the last one counts.
func (h *TCP) parseOptions(b []byte) {
	for len(b) > 0 {
		switch b[0] {
		case tcpOptEnd:
			return
		case tcpOptNop:
			b = b[1:]
			continue
		}
		// RFC 9293 3.1, MUST-7: "TCP implementations MUST be prepared to handle an illegal option
		// length (e.g., zero)". Stop then, because the next option cannot be found.
		if len(b) < 2 || b[1] < 2 || int(b[1]) > len(b) {
			return
		}
		// RFC 9293 3.1, MUST-6: "MUST ignore without error any TCP Option it
		// does not implement".
		h.parseOption(b[0], b[:b[1]])
		b = b[b[1]:]
	}
}

// parseOption parses one option b, which includes the kind and the length. It
// ignores a known kind with a wrong length.
func (h *TCP) parseOption(kind uint8, b []byte) {
	be := binary.BigEndian
	switch {
	case kind == tcpOptMSS && len(b) == tcpMSSLen:
		h.MSS = be.Uint16(b[2:4])
	case kind == tcpOptWScale && len(b) == tcpWScaleLen:
		// RFC 7323 2.3: "If a Window Scale option is received with a shift.cnt
		// value larger than 14, the TCP SHOULD log the error but MUST use 14
		// instead of the specified value."
		h.HasWScale = true
		h.WScale = min(b[2], maxWScale)
	case kind == tcpOptSACKPerm && len(b) == tcpSACKPermLen:
		h.SACKPermitted = true
	case kind == tcpOptTS && len(b) == tcpTSLen:
		h.HasTS = true
		h.TSVal = be.Uint32(b[2:6])
		h.TSEcr = be.Uint32(b[6:10])
	case kind == tcpOptSACK && len(b) > 2 && (len(b)-2)%tcpSACKBlockLen == 0:
		b = b[2:]
		h.SACK = [4]SACKBlock{}
		h.NSACK = uint8(len(b) / tcpSACKBlockLen) // at most 4: a header has 40 bytes of options
		for i := range h.NSACK {
			h.SACK[i] = SACKBlock{Start: be.Uint32(b[0:4]), End: be.Uint32(b[4:8])}
			b = b[tcpSACKBlockLen:]
		}
	}
}

// Len returns the length of the header with its options in bytes: a multiple of 4 from 20 to 60. SACK
// blocks that do not fit are omitted. Three blocks fit with the Timestamps option, four without.
func (h *TCP) Len() int {
	n := h.fixedLen()
	if k := h.sackFit(n); k > 0 {
		n += 4 + k*tcpSACKBlockLen
	}
	return n
}

// fixedLen returns Len without SACK blocks.
func (h *TCP) fixedLen() int {
	n := TCPLen
	if h.MSS != 0 {
		n += tcpMSSLen
	}
	if h.HasTS {
		n += 12 // with SACK-Permitted or two NOPs
	} else if h.SACKPermitted {
		n += 4
	}
	if h.HasWScale {
		n += 4
	}
	return n
}

// sackFit returns the number of SACK blocks that fit in a header whose other fields and options take n
// bytes.
func (h *TCP) sackFit(n int) int {
	return min(int(h.NSACK), len(h.SACK), (MaxTCPLen-n-4)/tcpSACKBlockLen)
}

// Put writes the header with its options to the first Len bytes of b, with a
// checksum of 0, and returns Len. The options are in the same order as those of
// Linux and BSD, and each is aligned: MSS; SACK-Permitted and Timestamps; Window
// Scale; SACK.
func (h *TCP) Put(b []byte) int {
	n := h.fixedLen()
	k := h.sackFit(n)
	if k > 0 {
		n += 4 + k*tcpSACKBlockLen
	}
	b = b[:n]
	be := binary.BigEndian
	be.PutUint16(b[0:2], h.SrcPort)
	be.PutUint16(b[2:4], h.DstPort)
	be.PutUint32(b[4:8], h.Seq)
	be.PutUint32(b[8:12], h.Ack)
	be.PutUint16(b[12:14], uint16(n/4)<<12|uint16(h.Flags&flagMask))
	be.PutUint16(b[14:16], h.Window)
	b[16], b[17] = 0, 0
	be.PutUint16(b[18:20], h.Urgent)
	if n > TCPLen {
		h.putOptions(b[TCPLen:], k)
	}
	return n
}

// putOptions writes the options, with k SACK blocks. They fill b.
func (h *TCP) putOptions(b []byte, k int) {
	be := binary.BigEndian
	if h.MSS != 0 {
		be.PutUint32(b, tcpOptMSS<<24|tcpMSSLen<<16|uint32(h.MSS))
		b = b[4:]
	}
	if h.HasTS {
		if h.SACKPermitted {
			be.PutUint32(b, tcpOptSACKPerm<<24|tcpSACKPermLen<<16|tcpOptTS<<8|tcpTSLen)
		} else {
			be.PutUint32(b, tcpNopNopTS)
		}
		be.PutUint32(b[4:], h.TSVal)
		be.PutUint32(b[8:], h.TSEcr)
		b = b[12:]
	} else if h.SACKPermitted {
		be.PutUint32(b, tcpOptNop<<24|tcpOptNop<<16|tcpOptSACKPerm<<8|tcpSACKPermLen)
		b = b[4:]
	}
	if h.HasWScale {
		be.PutUint32(b, tcpOptNop<<24|tcpOptWScale<<16|tcpWScaleLen<<8|uint32(min(h.WScale, maxWScale)))
		b = b[4:]
	}
	if k > 0 {
		be.PutUint32(b, tcpNopNopSACK|uint32(2+k*tcpSACKBlockLen))
		b = b[4:]
		for _, s := range h.SACK[:k] {
			be.PutUint32(b, s.Start)
			be.PutUint32(b[4:], s.End)
			b = b[tcpSACKBlockLen:]
		}
	}
}

// TCPChecksumOK verifies the checksum of a segment.
func TCPChecksumOK(src, dst netip.Addr, segment []byte) bool {
	return Fold(Sum(segment, PseudoSum(src, dst, uint8(ProtoTCP), len(segment)))) == 0xffff
}

// SetTCPChecksum computes the checksum of a segment and writes it to the checksum field.
func SetTCPChecksum(src, dst netip.Addr, segment []byte) {
	segment[16], segment[17] = 0, 0
	sum := Fold(Sum(segment, PseudoSum(src, dst, uint8(ProtoTCP), len(segment))))
	binary.BigEndian.PutUint16(segment[16:18], ^sum)
}
