package stack

import "github.com/usernet/usernet/stack/wire"

// A DropReason says in a few words why the host has dropped a packet, for example "bad TCP checksum". It is a
// key of Stats.Drops.
type DropReason string

// Rule returns the rule that makes the stack drop packets for the reason, with the RFC or other standard and its
// section. It returns an empty string if there is no such rule, for example if a queue was full.
func (r DropReason) Rule() string {
	for i := wire.OK + 1; i < numReasons; i++ {
		if reasonText(i) == r {
			if i < wire.NumReasons {
				return i.Rule()
			}
			return dropReasons[i-wire.NumReasons].rule
		}
	}
	return ""
}

// Reasons for which the stack drops a packet; dropReasons has the text of each. Their numbers follow the numbers
// of package wire's reasons, which are for packets that wire cannot parse.
const (
	dropOtherMAC = wire.NumReasons + iota
	dropMulticastMAC
	dropEtherType
	dropVLAN
	dropBadARPSender
	dropAddressConflict
	dropGroupSource
	dropNoSource
	dropLoopbackOutside
	dropOwnSource
	dropUnicastInBroadcast
	dropNotJoined
	dropSourceFilter
	dropNotLocal
	dropSourceRoute
	dropProtocol
	dropBadFragment
	dropFirstChain
	dropDuplicateFragment
	dropOverlap
	dropFragmentECN
	dropReassemblyFull
	dropReassemblyTimeout
	dropICMPType
	dropBadICMPError
	dropICMPRate
	dropEchoBroadcast
	dropNoReply
	dropNoRoute
	dropNeighborTable
	dropNeighborQueue
	dropUnreachableNeighbor
	dropLinkDown
	dropUDPNoSocket
	dropUDPQueue
	dropRawQueue
	dropRawChecksum
	dropTCPBroadcast
	dropAcceptQueue
	dropICMPSequence
	dropTCPMemory
	dropTCPListen
	dropIGMP
	dropMLD
	dropLoopQueue
	dropInvalidIPv6
	dropNDHopLimit
	dropNDFragment
	dropNDTarget
	dropBadNDSender
	dropOffLinkND
	dropTentative
	dropRedirect
	dropRA
	dropTxQueue
	dropDevice
	numReasons
)

// reasonText returns the text of a reason.
func reasonText(r wire.Reason) DropReason {
	if r < wire.NumReasons {
		return DropReason(r.String())
	}
	return dropReasons[r-wire.NumReasons].text
}

// dropReasons has the text and the rule of each of the reasons above.
var dropReasons = [...]struct {
	text DropReason
	rule string
}{
	dropOtherMAC - wire.NumReasons:            {"frame for another station", ""},
	dropMulticastMAC - wire.NumReasons:        {"frame from a group address", `IEEE 802.3 3.2.3: a source address is the address of a single station.`},
	dropEtherType - wire.NumReasons:           {"unknown EtherType", ""},
	dropVLAN - wire.NumReasons:                {"frame of a VLAN without an interface", ""},
	dropBadARPSender - wire.NumReasons:        {"invalid ARP sender", `RFC 5227 2.1.1: a sender address of zero is that of a probe. RFC 826 has no broadcast sender.`},
	dropAddressConflict - wire.NumReasons:     {"address of this host used by another station", `RFC 5227 2.4: a packet whose sender IP address is one of the host's own, from another station, is a conflict.`},
	dropGroupSource - wire.NumReasons:         {"source is a broadcast or multicast address", `RFC 1122 3.2.1.3: "A host MUST silently discard an incoming datagram containing an IP source address that is invalid by the rules of this section."`},
	dropNoSource - wire.NumReasons:            {"source is the unspecified address", `RFC 1122 3.2.1.3: "A host MUST silently discard an incoming datagram containing an IP source address that is invalid by the rules of this section."`},
	dropLoopbackOutside - wire.NumReasons:     {"loopback address on the wire", `RFC 1122 3.2.1.3 (g): "Addresses of this form MUST NOT appear outside a host."`},
	dropOwnSource - wire.NumReasons:           {"source is an address of this host", `RFC 1122 3.2.1.3: "A host MUST silently discard an incoming datagram containing an IP source address that is invalid by the rules of this section."`},
	dropUnicastInBroadcast - wire.NumReasons:  {"unicast datagram in a broadcast frame", `RFC 1122 3.3.6: "A host SHOULD silently discard a datagram that is received via a link-layer broadcast but does not specify an IP multicast or broadcast destination address."`},
	dropNotJoined - wire.NumReasons:           {"multicast group not joined", `RFC 1122 3.2.1.3: "A host MUST silently discard an incoming datagram that is not destined for the host."`},
	dropSourceFilter - wire.NumReasons:        {"source that no member of the group accepts", `RFC 3376 3: a socket receives only the sources that its filter asks for.`},
	dropNotLocal - wire.NumReasons:            {"destination is not this host", `RFC 1122 3.2.1.3: "A host MUST silently discard an incoming datagram that is not destined for the host."`},
	dropSourceRoute - wire.NumReasons:         {"source route", `RFC 6274 3.13.2.3 and 3.13.2.4: source-routed packets should be dropped; RFC 1122 3.2.1.8 (c) lets a host do so.`},
	dropProtocol - wire.NumReasons:            {"unknown IP protocol", `RFC 1122 3.2.2.1: a host SHOULD generate Destination Unreachable, code 2, "when the designated transport protocol is not supported".`},
	dropBadFragment - wire.NumReasons:         {"invalid fragment", `RFC 8200 4.5: a fragment with an impossible length or offset "must be discarded".`},
	dropFirstChain - wire.NumReasons:          {"first fragment without all headers", `RFC 7112 5: "A host that receives a First Fragment that does not satisfy the above-stated requirement SHOULD discard the packet".`},
	dropDuplicateFragment - wire.NumReasons:   {"fragment seen before", `RFC 5722 4 with erratum 3089: a fragment whose bytes have all arrived is a duplicate.`},
	dropOverlap - wire.NumReasons:             {"overlapping fragment", `RFC 5722 4: "the entire datagram [...] MUST be silently discarded".`},
	dropFragmentECN - wire.NumReasons:         {"fragments with inconsistent ECN fields", `RFC 3168 5.3: fragments of one packet agree on whether it is ECN-capable.`},
	dropReassemblyFull - wire.NumReasons:      {"reassembly evicted", ""},
	dropReassemblyTimeout - wire.NumReasons:   {"reassembly timed out", `RFC 1122 3.3.2: "There MUST be a reassembly timeout."`},
	dropICMPType - wire.NumReasons:            {"ICMP type not handled", `RFC 1122 3.2.2: "If an ICMP message of unknown type is received, it MUST be silently discarded."`},
	dropBadICMPError - wire.NumReasons:        {"ICMP error about a packet of another host", `RFC 5927 4: an error is believed only if it quotes a packet that this host can have sent.`},
	dropICMPRate - wire.NumReasons:            {"ICMP error over the rate limit", `RFC 4443 2.4 (f): "an IPv6 node MUST limit the rate of ICMPv6 error messages it originates."`},
	dropEchoBroadcast - wire.NumReasons:       {"echo request to a group", `RFC 1122 3.2.2.6: a request to a broadcast address "MAY be silently discarded".`},
	dropNoReply - wire.NumReasons:             {"reply that could not be sent", ""},
	dropNoRoute - wire.NumReasons:             {"route is gone", ""},
	dropNeighborTable - wire.NumReasons:       {"neighbor evicted", ""},
	dropNeighborQueue - wire.NumReasons:       {"neighbor queue overflow", `RFC 1122 2.3.2.2: "The link layer SHOULD save (rather than discard) at least one (the latest) packet of each set of packets destined to the same unresolved IP address".`},
	dropUnreachableNeighbor - wire.NumReasons: {"neighbor did not answer", `RFC 4861 7.2.2: after the last solicitation "address resolution has failed".`},
	dropLinkDown - wire.NumReasons:            {"link down", ""},
	dropUDPNoSocket - wire.NumReasons:         {"UDP port without a socket", `RFC 1122 4.1.3.1: "UDP SHOULD send an ICMP Port Unreachable message."`},
	dropUDPQueue - wire.NumReasons:            {"UDP receive queue full", ""},
	dropRawQueue - wire.NumReasons:            {"raw receive queue full", ""},
	dropRawChecksum - wire.NumReasons:         {"bad checksum of a raw datagram", `RFC 3542 3.1: "the kernel will verify the ICMPv6 checksum on input".`},
	dropTCPBroadcast - wire.NumReasons:        {"TCP segment to a group", `RFC 9293 3.9.2.3 MUST-57: "A TCP implementation MUST silently discard an incoming SYN segment that is addressed to a broadcast or multicast address".`},
	dropAcceptQueue - wire.NumReasons:         {"accept queue full", ""},
	dropICMPSequence - wire.NumReasons:        {"ICMP error about a TCP segment not in flight", `RFC 5927 4.1: the quoted sequence number has to be "of a segment that is in flight".`},
	dropTCPMemory - wire.NumReasons:           {"SYN over the memory budget", ""},
	dropTCPListen - wire.NumReasons:           {"TCP segment for a listener without SYN, ACK or RST", `RFC 9293 3.10.7.2: "Any other control or data-bearing segment (not containing SYN) must have an ACK".`},
	dropIGMP - wire.NumReasons:                {"invalid IGMP message, or for routers", ""},
	dropMLD - wire.NumReasons:                 {"invalid MLD message, or for routers", ""},
	dropLoopQueue - wire.NumReasons:           {"loopback queue for datagrams to groups full", ""},
	dropInvalidIPv6 - wire.NumReasons:         {"invalid IPv6 address on a link", `RFC 4942 2.2: packets with IPv4-mapped addresses should not appear on a link.`},
	dropNDHopLimit - wire.NumReasons:          {"neighbor discovery from off the link", `RFC 4861 7.1.1: "The IP Hop Limit field has a value of 255, i.e., the packet could not possibly have been forwarded by a router."`},
	dropNDFragment - wire.NumReasons:          {"neighbor discovery in fragments", `RFC 6980 5: "Nodes MUST silently ignore" Neighbor Discovery messages with a Fragmentation Header.`},
	dropNDTarget - wire.NumReasons:            {"neighbor solicitation for another host", ""},
	dropBadNDSender - wire.NumReasons:         {"invalid link address in neighbor discovery", ""},
	dropOffLinkND - wire.NumReasons:           {"solicitation of an off-link sender", ""},
	dropTentative - wire.NumReasons:           {"solicitation of a tentative address", `RFC 4862 5.4.3: a solicitation of a tentative address from a unicast address is silently ignored.`},
	dropRedirect - wire.NumReasons:            {"invalid or unwanted redirect", `RFC 4861 8.1: "The IP source address of the Redirect is the same as the current first-hop router for the specified ICMP Destination Address."`},
	dropRA - wire.NumReasons:                  {"invalid or unwanted router advertisement", `RFC 4861 6.1.2: "IP Source Address is a link-local address."`},
	dropTxQueue - wire.NumReasons:             {"transmit queue full or closed", ""},
	dropDevice - wire.NumReasons:              {"frame not accepted by the device", ""},
}
