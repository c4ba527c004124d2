package wire

import "strconv"

// A Reason is why a packet was dropped. It is small enough to index an array of counters. It implements
// error, but the zero value, OK, means that there is no error and must not be returned as one.
type Reason uint8

// The reasons of this package. A user of the package may define further reasons from NumReasons on.
const (
	OK Reason = iota

	ShortEthernet // fewer than 14 bytes
	ShortVLANTag  // fewer than 4 bytes

	ShortARP // fewer than 28 bytes
	BadARP   // not Ethernet and IPv4, or neither request nor reply

	ShortIPv4        // fewer than 20 bytes
	BadIPv4Version   // the version is not 4
	BadIPv4HeaderLen // the header is shorter than 20 bytes, or longer than the packet
	BadIPv4TotalLen  // the total length is less than the header's, or more than was received
	BadIPv4Checksum
	BadIPv4Options // a malformed option, or one that appears twice

	ShortIPv6         // fewer than 40 bytes
	BadIPv6Version    // the version is not 6
	BadIPv6PayloadLen // the payload length is more than was received
	ShortIPv6Ext      // the packet ends within an extension header
	BadIPv6Ext        // Hop-by-Hop Options are not the first header
	BadIPv6Option     // an incomplete option, or an unknown one that requires the packet to be dropped
	BadIPv6Routing    // a routing header with segments left
	BadIPv6Fragment   // a fragment with an impossible length or offset, or inside another fragment
	LongIPv6Chain     // more extension headers than the limit

	ShortICMP // fewer than 8 bytes
	BadICMPChecksum
	ShortQuoted // an ICMP error quotes less than a header and 8 bytes
	BadQuoted   // an ICMP error quotes something that is not an IPv4 packet

	ShortICMPv6 // fewer than 8 bytes
	BadICMPv6Checksum
	ShortQuoted6 // an ICMPv6 error quotes less than a header and 8 bytes
	BadQuoted6   // an ICMPv6 error quotes something that is not an IPv6 packet

	ShortND     // an incomplete neighbour discovery message
	BadNDOption // an option that is incomplete or has length 0
	BadND       // an invalid target or destination

	ShortMLD     // fewer than 24 bytes
	BadMLDLength // a query whose length fits no version, or that is too short for its number of sources

	ShortIGMP     // fewer than 8 bytes
	BadIGMPLength // a query whose length fits no version, or that is too short for its number of sources
	BadIGMPChecksum

	ShortUDP     // fewer than 8 bytes
	BadUDPLength // the length is less than 8, or more than was received
	BadUDPChecksum

	ShortTCP     // fewer than 20 bytes
	BadTCPOffset // the header is shorter than 20 bytes, or longer than the segment
	BadTCPChecksum

	NumReasons // number of reasons
)

// The names are used for counters: they are short, and the same in every report.
var reasonNames = [NumReasons]string{
	OK:                "ok",
	ShortEthernet:     "short Ethernet frame",
	ShortVLANTag:      "short VLAN tag",
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

// reasonRules has the rule of an RFC that a packet has broken, or an empty string if there is no particular rule.
var reasonRules = [NumReasons]string{
	ShortIPv4:         `RFC 1812 5.2.2: the packet "must be large enough to hold the minimum length legal IP datagram (20 bytes)"`,
	BadIPv4Version:    `RFC 1122 3.2.1.1: "A datagram whose version number is not 4 MUST be silently discarded."`,
	BadIPv4HeaderLen:  `RFC 1812 5.2.2: "The IP header length field must be large enough to hold the minimum length legal IP datagram (20 bytes = 5 words)."`,
	BadIPv4TotalLen:   `RFC 1812 5.2.2: "The IP total length field must be large enough to hold the IP datagram header, whose length is specified in the IP header length field."`,
	BadIPv4Checksum:   `RFC 1122 3.2.1.2: "A host MUST verify the IP header checksum on every received datagram and silently discard every datagram that has a bad checksum."`,
	BadIPv6Version:    `RFC 8200 3: Version is the "4-bit Internet Protocol version number = 6."`,
	BadIPv6Ext:        `RFC 8200 4.1: Hop-by-Hop Options are "restricted to appear immediately after an IPv6 header only".`,
	BadIPv6Option:     `RFC 8200 4.2: the highest two bits of an unknown option say whether to "skip over this option" or to "discard the packet".`,
	BadIPv6Routing:    `RFC 8200 4.4: "If Segments Left is non-zero, the node must discard the packet". RFC 5095 3 says the same of Type 0.`,
	BadIPv6Fragment:   `RFC 8200 4.5: a fragment whose length is not a multiple of 8, or that ends beyond 65,535, "must be discarded".`,
	LongIPv6Chain:     `RFC 8504 5.3: a host may limit the number of extension headers and options.`,
	BadICMPChecksum:   `RFC 792: the checksum is "the 16-bit ones's complement of the one's complement sum of the ICMP message".`,
	ShortQuoted:       `RFC 1122 3.2.2: "Every ICMP error message includes the Internet header and at least the first 8 data octets of the datagram that triggered the error".`,
	BadQuoted:         `RFC 1122 3.2.2: "Every ICMP error message includes the Internet header and at least the first 8 data octets of the datagram that triggered the error".`,
	BadICMPv6Checksum: `RFC 4443 2.3: the checksum covers "the entire ICMPv6 message" and a pseudo-header.`,
	ShortQuoted6:      `RFC 4443 2.4 (c): an error message "MUST include as much of the IPv6 offending (invoking) packet [...] as possible".`,
	BadQuoted6:        `RFC 4443 2.4 (c): an error message "MUST include as much of the IPv6 offending (invoking) packet [...] as possible".`,
	ShortND:           `RFC 4861 7.1.1: "ICMP length (derived from the IP length) is 24 or more octets."`,
	BadNDOption:       `RFC 4861 4.6: "Nodes MUST silently discard an ND packet that contains an option with length zero."`,
	BadND:             `RFC 4861 7.1.1: "Target Address is not a multicast address."`,
	BadMLDLength:      `RFC 9777 8.1: queries of a length that fits no version "MUST be silently ignored".`,
	BadIGMPLength:     `RFC 3376 7.1: "Query messages that do not match any of the above conditions [...] MUST be silently ignored."`,
	BadIGMPChecksum:   `RFC 3376 4.1.2: "When receiving packets, the checksum MUST be verified before processing a packet."`,
	BadUDPLength:      `RFC 768: the "minimum value of the length is eight".`,
	BadUDPChecksum:    `RFC 1122 4.1.3.4: "If a UDP datagram is received with a checksum that is non-zero and invalid, UDP MUST silently discard the datagram."`,
	BadTCPOffset:      `RFC 9293 3.1: Data Offset is the "number of 32-bit words in the TCP header".`,
	BadTCPChecksum:    `RFC 9293 3.1 MUST-3: "the receiver MUST check it".`,
}

// String returns the reason in a few words, such as "bad IPv4 checksum".
func (r Reason) String() string {
	if r < NumReasons {
		return reasonNames[r]
	}
	return "reason " + strconv.Itoa(int(r))
}

// Error returns the same as String.
func (r Reason) Error() string { return r.String() }

// Rule returns the rule of an RFC that packets dropped for the reason have broken, with the number and the section
// of the RFC. It returns an empty string if there is no particular rule.
func (r Reason) Rule() string {
	if r < NumReasons {
		return reasonRules[r]
	}
	return ""
}
