package wire

import "strconv"

// A Reason says why a packet was not taken. It is small enough to index an
// array of counters, and it is an error for those who want one; OK, the zero
// value, is no error and is never to be returned as one.
type Reason uint8

// The reasons of this package. A user of the package may go on with reasons of
// its own from NumReasons.
const (
	OK Reason = iota

	ShortEthernet // fewer than 14 bytes

	ShortARP // fewer than 28 bytes
	BadARP   // not Ethernet and IPv4, or neither request nor reply

	ShortIPv4        // fewer than 20 bytes
	BadIPv4Version   // the version is not 4
	BadIPv4HeaderLen // the header is shorter than 20 bytes, or longer than the packet
	BadIPv4TotalLen  // the total length is less than the header's, or more than was received
	BadIPv4Checksum
	BadIPv4Options // an option has an impossible length, or there are two source routes

	ShortIPv6         // fewer than 40 bytes
	BadIPv6Version    // the version is not 6
	BadIPv6PayloadLen // the payload length is more than was received
	ShortIPv6Ext      // the packet ends within an extension header
	BadIPv6Ext        // Hop-by-Hop Options are not the first header
	BadIPv6Option     // an option that is not whole, or forbids to go on where it is not known
	BadIPv6Routing    // a source route that is not at its end
	BadIPv6Fragment   // a fragment of an impossible length or offset, or within another
	LongIPv6Chain     // more extension headers than anybody needs

	ShortICMP // fewer than 8 bytes
	BadICMPChecksum
	ShortQuoted // an ICMP error quotes less than a header and 8 bytes
	BadQuoted   // an ICMP error quotes what is no IPv4 header

	ShortICMPv6 // fewer than 8 bytes
	BadICMPv6Checksum
	ShortQuoted6 // an ICMPv6 error quotes less than a header and 8 bytes
	BadQuoted6   // an ICMPv6 error quotes what is no IPv6 packet

	ShortND     // a message of neighbour discovery that is not whole
	BadNDOption // an option of length 0, or that is not whole
	BadND       // a target or destination that cannot be

	ShortMLD     // fewer than 24 bytes
	BadMLDLength // a query that is of no version, or has fewer sources than it says

	ShortIGMP     // fewer than 8 bytes
	BadIGMPLength // a query that is of no version, or has fewer sources than it says
	BadIGMPChecksum

	ShortUDP     // fewer than 8 bytes
	BadUDPLength // the length is less than 8, or more than was received
	BadUDPChecksum

	ShortTCP     // fewer than 20 bytes
	BadTCPOffset // the header is shorter than 20 bytes, or longer than the segment
	BadTCPChecksum

	NumReasons // how many there are
)

// The names are those of counters: short, and the same in every report.
var reasonNames = [NumReasons]string{
	OK:                "ok",
	ShortEthernet:     "short Ethernet frame",
	ShortARP:          "short ARP packet",
	BadARP:            "bad ARP packet",
	ShortIPv4:         "short IPv4 packet",
	BadIPv4Version:    "bad IPv4 version",
	BadIPv4HeaderLen:  "bad IPv4 header length",
	BadIPv4TotalLen:   "bad IPv4 total length",
	BadIPv4Checksum:   "bad IPv4 checksum",
	BadIPv4Options:    "bad IPv4 options",
	ShortIPv6:         "short IPv6 packet",
	BadIPv6Version:    "bad IPv6 version",
	BadIPv6PayloadLen: "bad IPv6 payload length",
	ShortIPv6Ext:      "short IPv6 extension header",
	BadIPv6Ext:        "misplaced IPv6 hop-by-hop options",
	BadIPv6Option:     "bad IPv6 option",
	BadIPv6Routing:    "IPv6 source route",
	BadIPv6Fragment:   "impossible IPv6 fragment",
	LongIPv6Chain:     "too many IPv6 extension headers",
	ShortICMP:         "short ICMP message",
	BadICMPChecksum:   "bad ICMP checksum",
	ShortQuoted:       "short quote in ICMP error",
	BadQuoted:         "bad quote in ICMP error",
	ShortICMPv6:       "short ICMPv6 message",
	BadICMPv6Checksum: "bad ICMPv6 checksum",
	ShortQuoted6:      "short quote in ICMPv6 error",
	BadQuoted6:        "bad quote in ICMPv6 error",
	ShortND:           "short neighbor discovery message",
	BadNDOption:       "bad neighbor discovery option",
	BadND:             "bad neighbor discovery message",
	ShortMLD:          "short MLD message",
	BadMLDLength:      "bad MLD length",
	ShortIGMP:         "short IGMP message",
	BadIGMPLength:     "bad IGMP length",
	BadIGMPChecksum:   "bad IGMP checksum",
	ShortUDP:          "short UDP datagram",
	BadUDPLength:      "bad UDP length",
	BadUDPChecksum:    "bad UDP checksum",
	ShortTCP:          "short TCP segment",
	BadTCPOffset:      "bad TCP data offset",
	BadTCPChecksum:    "bad TCP checksum",
}

// String returns the reason in a few words, as "bad IPv4 checksum".
func (r Reason) String() string {
	if r < NumReasons {
		return reasonNames[r]
	}
	return "reason " + strconv.Itoa(int(r))
}

// Error returns the same as String.
func (r Reason) Error() string { return r.String() }
