package ppp

import "encoding/binary"

// This file frames packets on a byte stream: PPP in HDLC-like framing (RFC 1662).

const (
	flag    = 0x7e // begins and ends a frame
	escape  = 0x7d // the next octet is XORed with flip
	flip    = 0x20
	address = 0xff // all stations
	control = 0x03 // unnumbered information

	fcsInit = 0xffff
	fcsGood = 0xf0b8 // the FCS over a valid frame, including its FCS field

	allEscaped = 0xffffffff // the ACCM before negotiation
)

// fcsTable has the FCS of each octet. RFC 1662 C.2.
var fcsTable = makeFCSTable()

func makeFCSTable() (t [256]uint16) {
	for i := range t {
		v := uint16(i)
		for range 8 {
			if v&1 != 0 {
				v = v>>1 ^ 0x8408 // x^0 + x^5 + x^12 + x^16, bits reversed
			} else {
				v >>= 1
			}
		}
		t[i] = v
	}
	return t
}

// updateFCS adds octets to the 16-bit FCS.
func updateFCS(fcs uint16, b []byte) uint16 {
	for _, c := range b {
		fcs = fcs>>8 ^ fcsTable[byte(fcs)^c]
	}
	return fcs
}

// A framing holds what the peers have negotiated for the frames of one direction.
type framing struct {
	accm    uint32 // bit n: the octet n is escaped
	noProto bool   // the first octet of a protocol below 256 is left out (PFC)
	noAddr  bool   // the address and control fields are left out (ACFC)
}

// defaultFraming is the framing before negotiation.
var defaultFraming = framing{accm: allEscaped}

// appendHeader appends the fields before the information field.
func (f framing) appendHeader(b []byte, proto uint16) []byte {
	if !f.noAddr {
		b = append(b, address, control)
	}
	if f.noProto && proto < 256 {
		return append(b, byte(proto))
	}
	return binary.BigEndian.AppendUint16(b, proto)
}

// appendFrame appends a frame, whose information field is head followed by body.
func (f framing) appendFrame(b []byte, proto uint16, head, body []byte) []byte {
	if proto == protoLCP {
		// RFC 1661 6.5: "The Protocol field is never compressed when sending any LCP packet. This rule
		// guarantees unambiguous recognition of LCP packets." 6.6 says the same of the address and control
		// fields. All control characters are escaped too, as in pppd.
		f = defaultFraming
	}
	var header [4]byte
	h := f.appendHeader(header[:0], proto)
	b = append(b, flag)
	fcs := uint16(fcsInit)
	for _, part := range [3][]byte{h, head, body} {
		fcs = updateFCS(fcs, part)
		b = f.appendEscaped(b, part)
	}
	fcs ^= 0xffff
	b = f.appendEscaped(b, []byte{byte(fcs), byte(fcs >> 8)})
	return append(b, flag)
}

// appendEscaped appends octets, and an escape before each octet that needs one.
func (f framing) appendEscaped(b, part []byte) []byte {
	for _, c := range part {
		if c == flag || c == escape || c < 0x20 && f.accm>>c&1 != 0 {
			b = append(b, escape, c^flip)
		} else {
			b = append(b, c)
		}
	}
	return b
}

// A decoder finds frames in a stream of octets.
type decoder struct {
	accm     uint32 // the control octets that the peer escapes; feed drops such an octet if it arrives without an escape
	max      int    // the longest frame in octets, with its FCS
	arena    []byte // the frames of the last feed, and the part of a frame that has arrived so far
	begin    int    // where the current frame begins in arena
	escaped  bool   // an escape has arrived
	overlong bool   // the current frame is longer than max
	bad      uint64 // frames that were dropped: wrong FCS, bad protocol field, too long, too short or aborted
}

// feed decodes b, and calls frame for each valid frame that ends in b. info is the frame's information field. It
// is valid until the next call of feed.
func (d *decoder) feed(b []byte, frame func(proto uint16, info []byte)) {
	n := copy(d.arena, d.arena[d.begin:])
	d.arena, d.begin = d.arena[:n], 0
	if need := n + len(b); cap(d.arena) < need { // so that no append below moves a frame that was passed to frame
		d.arena = append(make([]byte, 0, need), d.arena...)
	}
	for _, c := range b {
		switch {
		case c == flag:
			d.end(frame)
		case c == escape:
			d.escaped = true
		case c < 0x20 && d.accm>>c&1 != 0 && !d.escaped:
			// RFC 1662 4.2: such an octet "is simply removed (it may have been inserted by intervening data
			// communications equipment)".
		default:
			if d.escaped {
				c ^= flip
				d.escaped = false
			}
			if len(d.arena)-d.begin >= d.max {
				d.overlong = true
				continue
			}
			d.arena = append(d.arena, c)
		}
	}
}

// end ends the current frame.
func (d *decoder) end(frame func(proto uint16, info []byte)) {
	b := d.arena[d.begin:len(d.arena):len(d.arena)]
	aborted, overlong := d.escaped, d.overlong
	d.begin, d.escaped, d.overlong = len(d.arena), false, false
	if len(b) == 0 && !aborted {
		return // two flags in a row
	}
	// RFC 1662 4.3: frames that are too short, "or which end with a Control Escape octet followed
	// immediately by a closing Flag Sequence", are silently discarded.
	if aborted || overlong || len(b) < 4 || updateFCS(fcsInit, b) != fcsGood {
		d.bad++
		return
	}
	proto, info, ok := parseHeader(b[:len(b)-2])
	if !ok {
		d.bad++
		return
	}
	frame(proto, info)
}

// parseHeader parses the address, control and protocol fields of a frame. It accepts compressed fields
// whether they were negotiated or not.
func parseHeader(b []byte) (proto uint16, info []byte, ok bool) {
	if len(b) >= 2 && b[0] == address && b[1] == control {
		b = b[2:]
	}
	return parseProtocol(b)
}

// parseProtocol parses the protocol field.
//
// RFC 1661 2: "All Protocols MUST be odd; the least significant bit of the least significant octet MUST
// equal '1'. Also, all Protocols MUST be assigned such that the least significant bit of the most
// significant octet equals '0'."
func parseProtocol(b []byte) (proto uint16, info []byte, ok bool) {
	switch {
	case len(b) >= 1 && b[0]&1 != 0:
		return uint16(b[0]), b[1:], true
	case len(b) >= 2 && b[1]&1 != 0:
		return binary.BigEndian.Uint16(b), b[2:], true
	}
	return 0, nil, false
}
