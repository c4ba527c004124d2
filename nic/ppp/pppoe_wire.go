package ppp

import "encoding/binary"

// This file builds and parses PPPoE frames (RFC 2516 4 and 5, appendix A).

const (
	etherDiscovery = 0x8863
	etherSession   = 0x8864

	etherLen   = 14
	pppoeLen   = 6 // version and type, code, session, length
	sessionLen = etherLen + pppoeLen + 2

	versionType = 0x11
)

// Values of the CODE field. Session frames have codeSession; all others are of discovery.
const (
	codeSession = 0
	codePADO    = 0x07
	codePADI    = 0x09
	codePADR    = 0x19
	codePADS    = 0x65
	codePADT    = 0xa7
)

// Tags.
const (
	tagEndOfList        = 0
	tagServiceName      = 0x0101
	tagACName           = 0x0102
	tagHostUniq         = 0x0103
	tagACCookie         = 0x0104
	tagRelaySessionID   = 0x0110
	tagMaxPayload       = 0x0120 // RFC 4638 4
	tagServiceNameError = 0x0201
	tagACSystemError    = 0x0202
	tagGenericError     = 0x0203
)

const (
	pppoeMTU = 1492 // RFC 2516 7: the largest packet, unless both ends support a larger one by RFC 4638
	maxTags  = 64   // a discovery packet with more tags is invalid
)

var broadcastMAC = [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// A tag of a discovery packet.
type tag struct {
	kind  uint16
	value []byte
}

// A discovery is a discovery packet.
type discovery struct {
	dst, src [6]byte
	code     byte
	session  uint16
	tags     []tag
}

// find returns the value of the first tag of a kind.
func (d *discovery) find(kind uint16) (value []byte, ok bool) {
	for _, t := range d.tags {
		if t.kind == kind {
			return t.value, true
		}
	}
	return nil, false
}

// append appends the packet as an Ethernet frame.
func (d *discovery) append(b []byte) []byte {
	b = appendPPPoE(b, d.dst, d.src, etherDiscovery, d.code, d.session, 0)
	start := len(b)
	for _, t := range d.tags {
		b = binary.BigEndian.AppendUint16(b, t.kind)
		b = binary.BigEndian.AppendUint16(b, uint16(len(t.value)))
		b = append(b, t.value...)
	}
	binary.BigEndian.PutUint16(b[start-2:], uint16(len(b)-start))
	return b
}

// appendPPPoE appends the headers of Ethernet and PPPoE.
func appendPPPoE(b []byte, dst, src [6]byte, ether uint16, code byte, session uint16, length int) []byte {
	b = append(append(b, dst[:]...), src[:]...)
	b = binary.BigEndian.AppendUint16(b, ether)
	b = append(b, versionType, code)
	b = binary.BigEndian.AppendUint16(b, session)
	return binary.BigEndian.AppendUint16(b, uint16(length))
}

// A pppoeHeader has the headers of a frame.
type pppoeHeader struct {
	dst, src [6]byte
	ether    uint16
	code     byte
	session  uint16
	length   int
}

// parsePPPoE parses the headers of a frame. It reports false if the frame is not a PPPoE frame.
func parsePPPoE(b []byte) (h pppoeHeader, ok bool) {
	if len(b) < etherLen+pppoeLen || b[etherLen] != versionType {
		return h, false
	}
	h = pppoeHeader{[6]byte(b), [6]byte(b[6:]), binary.BigEndian.Uint16(b[12:]), b[15], binary.BigEndian.Uint16(b[16:]), int(binary.BigEndian.Uint16(b[18:]))}
	return h, h.ether == etherDiscovery || h.ether == etherSession
}

// parseDiscovery parses a discovery packet. It ignores the octets after the packet's end, which are the padding of
// Ethernet, and the tags after an End-Of-List tag.
func parseDiscovery(b []byte) (d discovery, ok bool) {
	h, ok := parsePPPoE(b)
	if !ok || h.ether != etherDiscovery || h.length > len(b)-etherLen-pppoeLen {
		return d, false
	}
	d = discovery{dst: h.dst, src: h.src, code: h.code, session: h.session}
	b = b[etherLen+pppoeLen:][:h.length]
	for len(b) > 0 {
		if len(b) < 4 || len(d.tags) == maxTags {
			return d, false
		}
		t := tag{binary.BigEndian.Uint16(b), nil}
		n := int(binary.BigEndian.Uint16(b[2:]))
		if n > len(b)-4 {
			return d, false
		}
		if t.kind == tagEndOfList {
			break
		}
		t.value = b[4 : 4+n]
		d.tags = append(d.tags, t)
		b = b[4+n:]
	}
	return d, true
}
