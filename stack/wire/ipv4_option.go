package wire

import (
	"encoding/binary"
	"net/netip"
)

// Types of IPv4 options (RFC 791 3.1).
const (
	ipv4OptEnd         = 0
	ipv4OptNop         = 1
	ipv4OptRecordRoute = 7
	ipv4OptTimestamp   = 68
	ipv4OptLSRR        = 131 // Loose Source and Record Route
	ipv4OptSSRR        = 137 // Strict Source and Record Route
)

// Values of the Timestamp option's fourth octet (RFC 791 3.1). The lower half is the flag. The upper half
// is the overflow: the number of hosts that found no room for a timestamp.
const (
	ipv4TimeOnly         = 0
	ipv4TimeAndAddr      = 1
	ipv4TimePrespecified = 3 // the addresses were chosen by the sender
	ipv4TimeMaxOverflow  = 15
)

// IPv4Options are the options that this stack handles. A field is nil if the option is absent, and
// otherwise the whole option, a sub-slice of the parsed bytes.
type IPv4Options struct {
	SourceRoute []byte // loose or strict
	RecordRoute []byte
	Timestamp   []byte
}

// ParseIPv4Options parses the options that ParseIPv4 has returned. It skips unknown options. It fails
// with BadIPv4Options. Then bad is the offset of the faulty octet from the start of the IP header, for
// the Pointer of an ICMP Parameter Problem. Where RFC 792 does not specify the faulty octet, bad is the
// offset that Linux reports.
func ParseIPv4Options(options []byte) (o IPv4Options, bad int, r Reason) {
	fault := func(i int) (IPv4Options, int, Reason) { return o, IPv4Len + i, BadIPv4Options }
	for i := 0; i < len(options); {
		switch options[i] {
		case ipv4OptEnd:
			return o, 0, OK
		case ipv4OptNop:
			i++
			continue
		}
		if i+1 >= len(options) {
			return fault(i)
		}
		n := int(options[i+1])
		if n < 2 || n > len(options)-i {
			return fault(i)
		}
		if at := o.add(options[i : i+n : i+n]); at >= 0 {
			return fault(i + at)
		}
		i += n
	}
	return o, 0, OK
}

// add checks an option, and records it if it is one of those in IPv4Options. It returns the index of
// the octet at fault, or -1.
func (o *IPv4Options) add(opt []byte) int {
	var known *[]byte
	head, least := 3, byte(4) // octets before the data, and the minimum pointer
	switch opt[0] {
	case ipv4OptLSRR, ipv4OptSSRR:
		known = &o.SourceRoute
	case ipv4OptRecordRoute:
		known = &o.RecordRoute
	case ipv4OptTimestamp:
		known = &o.Timestamp
		head, least = 4, 5
	case ipv4OptRouterAlert:
		if len(opt) < 4 {
			return 1
		}
		return -1
	default:
		return -1
	}
	switch {
	case *known != nil:
		// RFC 791 3.1, for each of these options: "Appears at most once in a datagram."
		return 0
	case len(opt) < head:
		return 1
	case opt[2] < least:
		// RFC 791 3.1: "The pointer is relative to this option, and the smallest legal value for the
		// pointer is 4", and for a timestamp "The smallest legal value is 5."
		return 2
	}
	*known = opt
	switch opt[0] {
	case ipv4OptRecordRoute:
		return checkRoom(opt, 4)
	case ipv4OptTimestamp:
		return checkTimestamp(opt)
	}
	return -1
}

// checkRoom checks that an option has room for a next entry of n octets, or is full. It returns the
// index of the octet at fault, or -1.
//
// RFC 791 3.1: "If there is some room but not enough room for a full address to be inserted,
// the original datagram is considered to be in error".
func checkRoom(opt []byte, n int) int {
	if at := int(opt[2]); at <= len(opt) && at-1+n > len(opt) {
		return 2
	}
	return -1
}

// checkTimestamp checks a Timestamp option. It returns the index of the octet at fault, or -1.
func checkTimestamp(opt []byte) int {
	flag, overflow := opt[3]&15, opt[3]>>4
	full := int(opt[2]) > len(opt)
	switch {
	case full && flag != ipv4TimePrespecified && overflow == ipv4TimeMaxOverflow:
		// RFC 791 3.1: "If ... the overflow count itself overflows, the original datagram is
		// considered to be in error".
		return 3
	case flag == ipv4TimeOnly:
		return checkRoom(opt, 4)
	case flag == ipv4TimeAndAddr, flag == ipv4TimePrespecified:
		return checkRoom(opt, 8)
	}
	return -1
}

// Record adds an address of this host and the time to the options in which there is room, as a host
// does when it receives the datagram. addr must be IPv4. ms is the time in milliseconds since midnight
// UT.
//
// RFC 791 3.1: "If the route data area is already full (the pointer exceeds the length) the
// datagram is forwarded without inserting the address"; "The Overflow ... is the number
// of IP modules that cannot register timestamps due to lack of space."
func (o *IPv4Options) Record(addr netip.Addr, ms uint32) {
	a := addr.As4()
	if opt := o.RecordRoute; opt != nil && int(opt[2]) <= len(opt) {
		copy(opt[opt[2]-1:], a[:])
		opt[2] += 4
	}
	opt := o.Timestamp
	if opt == nil {
		return
	}
	flag, full := opt[3]&15, int(opt[2]) > len(opt)
	if full {
		if flag != ipv4TimePrespecified {
			opt[3] += 1 << 4
		}
		return
	}
	next := opt[opt[2]-1:]
	switch flag {
	case ipv4TimeOnly:
		binary.BigEndian.PutUint32(next, ms)
		opt[2] += 4
	case ipv4TimePrespecified:
		if [4]byte(next) != a {
			return // another host fills in this entry
		}
		fallthrough
	case ipv4TimeAndAddr:
		copy(next, a[:])
		binary.BigEndian.PutUint32(next[4:], ms)
		opt[2] += 8
	}
}
