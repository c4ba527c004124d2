package wire

import "encoding/binary"

// Extension headers (RFC 8200 4). Their numbers are in the same space as those of the transports.
const (
	ProtoHopByHop Proto = 0
	ProtoRouting  Proto = 43
	ProtoFragment Proto = 44
	ProtoNone     Proto = 59 // there is no next header
	ProtoDstOpts  Proto = 60
)

// FragmentLen is the length of a Fragment header in bytes (RFC 8200 4.5).
const FragmentLen = 8

// maxIPv6Ext is the maximum number of extension headers of a packet. RFC 8504 5.3: "a host MAY limit
// the number of [...] extension headers". No useful packet has more.
const maxIPv6Ext = 8

// maxIPv6Opts is the maximum number of options of one header. RFC 8504 5.3 allows a host to limit "the
// number of non-padding options" to 8. maxIPv6Opts is larger because it also counts padding options.
const maxIPv6Opts = 16

// A Fragment is a Fragment header (RFC 8200 4.5).
type Fragment struct {
	Next   Proto  // type of the first header of the fragmentable part
	Offset uint16 // offset of the fragment in that part in bytes, a multiple of 8
	More   bool   // this is not the last fragment
	ID     uint32
}

// Put writes the header to the first FragmentLen bytes of b.
func (f *Fragment) Put(b []byte) {
	_ = b[FragmentLen-1]
	b[0], b[1] = uint8(f.Next), 0
	v := f.Offset &^ 7
	if f.More {
		v |= 1
	}
	binary.BigEndian.PutUint16(b[2:4], v)
	binary.BigEndian.PutUint32(b[4:8], f.ID)
}

func readFragment(b []byte) Fragment {
	v := binary.BigEndian.Uint16(b[2:4])
	return Fragment{Next: Proto(b[0]), Offset: v &^ 7, More: v&1 != 0, ID: binary.BigEndian.Uint32(b[4:8])}
}

// Codes of ICMPv6ParamProblem (RFC 4443 3.4, RFC 7112 5).
const (
	ParamHeader     = 0 // erroneous header field
	ParamNextHeader = 1 // unrecognized Next Header type
	ParamOption     = 2 // unrecognized IPv6 option
	ParamFirstChain = 3 // the first fragment has an incomplete header chain
)

// An Answer says whether a packet that was dropped because of its extension headers is answered by an
// ICMP Parameter Problem.
type Answer uint8

const (
	AnswerNone    Answer = iota // no
	AnswerUnicast               // yes, unless the packet was sent to a multicast address
	AnswerAlways                // yes, even if the packet was sent to a multicast address
)

// A Chain is the result of a walk over the extension headers of a packet.
type Chain struct {
	Proto  Proto // type of the header after the extension headers: a transport or ProtoNone
	Offset int   // offset of that header from the first byte that was walked

	// NextAt is the offset of the Next Header field that names Proto, from the first byte
	// of the IPv6 header.
	NextAt int

	// Fragmented is set if the walk ended after a Fragment header, which is in Fragment. Proto and
	// Offset are then those of the first header of the fragmentable part. A Fragment header that is
	// followed by the whole packet (an atomic fragment, RFC 6946) does not end the walk.
	Fragmented bool
	Fragment   Fragment

	// RouterAlert is set if a Hop-by-Hop Options header contains that option (RFC 2711).
	RouterAlert bool

	// If the walk failed: whether to send a Parameter Problem, and its code and pointer.
	Answer  Answer
	Code    uint8
	Pointer uint32 // offset from the first byte of the IPv6 header
}

// WalkIPv6 walks the extension headers of a packet. b is the payload of its IPv6 header, and next is
// the Next Header field of that header. It obeys RFC 8200 4, RFC 5095 and RFC 6946.
//
// It fails with ShortIPv6Ext, BadIPv6Ext, BadIPv6Option, BadIPv6Routing, BadIPv6Fragment or
// LongIPv6Chain. c then describes the answer.
func WalkIPv6(next Proto, b []byte) (c Chain, r Reason) {
	return walkIPv6(next, b, Chain{NextAt: IPv6NextOffset}, IPv6Len, true)
}

// WalkReassembled is WalkIPv6 for the fragmentable part of a packet after reassembly. next is the Next
// Header field of the Fragment header, and b is the fragmentable part. header contains the headers before
// the Fragment header, beginning with the IPv6 header.
func WalkReassembled(next Proto, header, b []byte) (c Chain, r Reason) {
	c, r = walkIPv6(next, b, Chain{NextAt: LastNextAt(header)}, len(header), false)
	if r == OK && c.Fragmented {
		// The fragmentable part must not contain fragments itself.
		return c, BadIPv6Fragment
	}
	return c, r
}

// LastNextAt returns the offset of the Next Header field of the last header in header. header contains an
// IPv6 header and after it zero or more complete extension headers.
func LastNextAt(header []byte) int {
	at := IPv6NextOffset
	for off := IPv6Len; off+8 <= len(header); {
		size := (int(header[off+1]) + 1) * 8
		if Proto(header[at]) == ProtoFragment {
			size = FragmentLen
		}
		at = off
		off += size
	}
	return at
}

// walkIPv6 walks the extension headers in b. at is the offset of b in the packet. first reports whether b
// follows the IPv6 header directly: only then may b begin with a Hop-by-Hop Options header.
func walkIPv6(next Proto, b []byte, c Chain, at int, first bool) (Chain, Reason) {
	off := 0
	for n := 0; ; n++ {
		c.Proto, c.Offset = next, off
		if !isIPv6Ext(next) {
			return c, OK
		}
		if next == ProtoHopByHop && (n > 0 || !first) {
			// RFC 8200 4: "The same action should be taken if a node encounters a Next
			// Header value of zero in any header other than an IPv6 header": a Parameter
			// Problem of code 1.
			return c.problem(AnswerUnicast, ParamNextHeader, c.NextAt), BadIPv6Ext
		}
		if n == maxIPv6Ext {
			return c, LongIPv6Chain
		}
		h := b[off:]
		if len(h) < 8 {
			return c, ShortIPv6Ext
		}
		size := (int(h[1]) + 1) * 8
		if next == ProtoFragment {
			size = FragmentLen
		}
		if size > len(h) {
			return c, ShortIPv6Ext
		}
		h = h[:size]
		switch next {
		case ProtoHopByHop, ProtoDstOpts:
			if r := c.options(next, h, at+off); r != OK {
				return c, r
			}
		case ProtoRouting:
			// RFC 8200 4.4: "If Segments Left is zero, the node must ignore the Routing
			// header [...]. If Segments Left is non-zero, the node must discard the packet
			// and send an ICMP Parameter Problem, Code 0, message to the packet's Source
			// Address, pointing to the unrecognized Routing Type." RFC 5095 3 requires the
			// same for type 0.
			if h[3] != 0 {
				return c.problem(AnswerUnicast, ParamHeader, at+off+2), BadIPv6Routing
			}
		case ProtoFragment:
			f := readFragment(h)
			if f.Offset != 0 || f.More {
				c.Fragmented, c.Fragment = true, f
				c.NextAt = at + off
				c.Proto, c.Offset = f.Next, off+FragmentLen
				return c, c.checkFragment(len(b) - c.Offset)
			}
		}
		c.NextAt = at + off
		next = Proto(h[0])
		off += size
	}
}

// problem sets the code and the pointer of a Parameter Problem, and when to send it.
func (c Chain) problem(to Answer, code uint8, pointer int) Chain {
	c.Answer, c.Code, c.Pointer = to, code, uint32(pointer)
	return c
}

// checkFragment checks a fragment of n bytes.
func (c *Chain) checkFragment(n int) Reason {
	if c.Fragment.More && n%8 != 0 {
		// RFC 8200 4.5: "If the length of a fragment, as derived from the fragment packet's
		// Payload Length field, is not a multiple of 8 octets and the M flag of that
		// fragment is 1, then that fragment must be discarded and an ICMP Parameter
		// Problem, Code 0, message should be sent to the source of the fragment,
		// pointing to the Payload Length field of the fragment packet."
		*c = c.problem(AnswerUnicast, ParamHeader, IPv6PayloadLenOffset)
		return BadIPv6Fragment
	}
	if int(c.Fragment.Offset)+n > 0xffff {
		// RFC 8200 4.5: "If the length and offset of a fragment are such that the Payload Length of
		// the packet reassembled from that fragment would exceed 65,535 octets", the answer is the
		// same, with a pointer "to the Fragment Offset field of the fragment packet". NextAt is the
		// Fragment header's first byte.
		*c = c.problem(AnswerUnicast, ParamHeader, c.NextAt+2)
		return BadIPv6Fragment
	}
	return OK
}

// isIPv6Ext reports whether p is an extension header that another header follows.
func isIPv6Ext(p Proto) bool {
	switch p {
	case ProtoHopByHop, ProtoRouting, ProtoFragment, ProtoDstOpts:
		return true
	}
	return false
}

// Options of IPv6 (RFC 8200 4.2, RFC 2711 2.1).
const (
	ipv6OptPad1        = 0
	ipv6OptPadN        = 1
	ipv6OptRouterAlert = 5
)

// options walks the options of h, a Hop-by-Hop or Destination Options header. at is the offset of h in the
// packet.
func (c *Chain) options(kind Proto, h []byte, at int) Reason {
	count := 0
	for i := 2; i < len(h); count++ {
		if count == maxIPv6Opts {
			return BadIPv6Option
		}
		t := h[i]
		if t == ipv6OptPad1 {
			i++
			continue
		}
		if i+1 >= len(h) {
			return BadIPv6Option
		}
		n := int(h[i+1])
		if i+2+n > len(h) {
			return BadIPv6Option
		}
		switch {
		case t == ipv6OptPadN:
		case t == ipv6OptRouterAlert && kind == ProtoHopByHop && n == 2:
			c.RouterAlert = true
		case t>>6 != 0:
			// RFC 8200 4.2, for an option that is not recognized: "00 - skip over this
			// option and continue processing the header. 01 - discard the packet. 10 -
			// discard the packet and, regardless of whether or not the packet's Destination
			// Address was a multicast address, send an ICMP Parameter Problem, Code 2,
			// message to the packet's Source Address, pointing to the unrecognized Option
			// Type. 11 - discard the packet and, only if the packet's Destination Address
			// was not a multicast address, send" the same.
			to := [...]Answer{1: AnswerNone, 2: AnswerAlways, 3: AnswerUnicast}[t>>6]
			*c = c.problem(to, ParamOption, at+i)
			return BadIPv6Option
		}
		i += 2 + n
	}
	return OK
}

// CompleteChain reports whether the first fragment of a packet contains all headers, including the
// transport's. b is the data of that fragment, without the Fragment header. next is the type of the first
// header in b.
//
// RFC 7112 5: "When a host fragments an IPv6 datagram, it MUST include the entire IPv6
// Header Chain in the First Fragment." A first fragment with an incomplete chain is dropped: see
// ParamFirstChain.
func CompleteChain(next Proto, b []byte) bool {
	for range maxIPv6Ext + 1 {
		if !isIPv6Ext(next) {
			return len(b) >= leastTransport(next)
		}
		if len(b) < 8 {
			return false
		}
		size := (int(b[1]) + 1) * 8
		if next == ProtoFragment {
			size = FragmentLen
		}
		if size > len(b) {
			return false
		}
		next, b = Proto(b[0]), b[size:]
	}
	return false
}

// leastTransport returns the minimum length of a transport's header in bytes.
func leastTransport(p Proto) int {
	switch p {
	case ProtoTCP:
		return TCPLen
	case ProtoUDP:
		return UDPLen
	case ProtoICMPv6:
		return ICMPLen
	}
	return 0
}

// RouterAlertLen is the length in bytes of the header that PutRouterAlert writes.
const RouterAlertLen = 8

// PutRouterAlert writes a Hop-by-Hop Options header with a router alert for MLD to the first
// RouterAlertLen bytes of b. next is the type of the header after it.
//
// RFC 2710 3: all messages "are sent with a link-local IPv6 Source Address, an IPv6 Hop Limit
// of 1, and an IPv6 Router Alert option in a Hop-by-Hop Options header."
func PutRouterAlert(b []byte, next Proto) {
	// RFC 2711 2.1: the value 0 means "Datagram contains a Multicast Listener Discovery message".
	*(*[RouterAlertLen]byte)(b) = [RouterAlertLen]byte{byte(next), 0, ipv6OptRouterAlert, 2, 0, 0, ipv6OptPadN, 0}
}
