package stack

import (
	"sync/atomic"

	"github.com/usernet/usernet/stack/wire"
)

// Why the stack did not take a packet that package wire could read, or did not
// send one. They continue wire's reasons.
const (
	dropOtherMAC = wire.NumReasons + iota
	dropMulticastMAC
	dropEtherType
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
	dropTCPBroadcast
	dropSynQueue
	dropAcceptQueue
	dropICMPSequence
	dropTCPMemory
	dropTCPListen
	dropIGMP
	dropMLD
	dropLoopQueue
	dropMapped
	dropNDHopLimit
	dropNDFragment
	dropNDTarget
	dropBadNDSender
	dropTentative
	dropRedirect
	dropRA
	numReasons
)

// reasonText is what Stats calls a reason.
func reasonText(r wire.Reason) string {
	if r < wire.NumReasons {
		return r.String()
	}
	return [...]string{
		dropOtherMAC - wire.NumReasons:            "frame for another station",
		dropMulticastMAC - wire.NumReasons:        "frame from a group address",
		dropEtherType - wire.NumReasons:           "unknown EtherType",
		dropBadARPSender - wire.NumReasons:        "ARP sender that nobody can be",
		dropAddressConflict - wire.NumReasons:     "ARP sender has an address of ours",
		dropGroupSource - wire.NumReasons:         "source is a broadcast or multicast address",
		dropNoSource - wire.NumReasons:            "source is the unspecified address",
		dropLoopbackOutside - wire.NumReasons:     "loopback address on the wire",
		dropOwnSource - wire.NumReasons:           "source is an address of ours",
		dropUnicastInBroadcast - wire.NumReasons:  "unicast datagram in a broadcast frame",
		dropNotJoined - wire.NumReasons:           "multicast group not joined",
		dropSourceFilter - wire.NumReasons:        "source that no member of the group wants",
		dropNotLocal - wire.NumReasons:            "destination is not this host",
		dropSourceRoute - wire.NumReasons:         "source route",
		dropProtocol - wire.NumReasons:            "unknown IP protocol",
		dropBadFragment - wire.NumReasons:         "impossible fragment",
		dropFirstChain - wire.NumReasons:          "first fragment without all headers",
		dropDuplicateFragment - wire.NumReasons:   "fragment seen before",
		dropOverlap - wire.NumReasons:             "overlapping fragment",
		dropFragmentECN - wire.NumReasons:         "fragments that are ECN-capable and not",
		dropReassemblyFull - wire.NumReasons:      "reassembly evicted",
		dropReassemblyTimeout - wire.NumReasons:   "reassembly timed out",
		dropICMPType - wire.NumReasons:            "ICMP type not handled",
		dropBadICMPError - wire.NumReasons:        "ICMP error about nothing of ours",
		dropICMPRate - wire.NumReasons:            "ICMP error over the rate limit",
		dropEchoBroadcast - wire.NumReasons:       "echo request to a group",
		dropNoReply - wire.NumReasons:             "reply that could not be sent",
		dropNoRoute - wire.NumReasons:             "no route any more",
		dropNeighborTable - wire.NumReasons:       "neighbor evicted",
		dropNeighborQueue - wire.NumReasons:       "neighbor queue overflow",
		dropUnreachableNeighbor - wire.NumReasons: "neighbor did not answer",
		dropLinkDown - wire.NumReasons:            "link down",
		dropUDPNoSocket - wire.NumReasons:         "UDP port without a socket",
		dropUDPQueue - wire.NumReasons:            "UDP receive queue full",
		dropRawQueue - wire.NumReasons:            "raw receive queue full",
		dropTCPBroadcast - wire.NumReasons:        "TCP segment to a group",
		dropSynQueue - wire.NumReasons:            "SYN queue full",
		dropAcceptQueue - wire.NumReasons:         "accept queue full",
		dropTCPMemory - wire.NumReasons:           "SYN over the memory budget",
		dropTCPListen - wire.NumReasons:           "TCP segment for a listener without SYN, ACK or RST",
		dropMLD - wire.NumReasons:                 "MLD message that is not believed, or for routers",
		dropIGMP - wire.NumReasons:                "IGMP message that is not believed, or for routers",
		dropLoopQueue - wire.NumReasons:           "datagram to a group that its own host did not hear",
		dropMapped - wire.NumReasons:              "IPv6 address that cannot be on a link",
		dropNDHopLimit - wire.NumReasons:          "neighbor discovery from beyond the link",
		dropNDFragment - wire.NumReasons:          "neighbor discovery in fragments",
		dropNDTarget - wire.NumReasons:            "neighbor solicitation for another host",
		dropBadNDSender - wire.NumReasons:         "link address in neighbor discovery that nobody can have",
		dropTentative - wire.NumReasons:           "solicitation of an address that may be a duplicate",
		dropRedirect - wire.NumReasons:            "redirect that is not believed",
		dropRA - wire.NumReasons:                  "router advertisement that is not believed",
		dropICMPSequence - wire.NumReasons:        "ICMP error about a TCP segment not in flight",
	}[r-wire.NumReasons]
}

// counters are a stack's; those of interfaces are with them.
type counters struct {
	drops [numReasons]atomic.Uint64

	arpReceived, arpSent, arpFailed            atomic.Uint64
	ipReceived, ipSent                         atomic.Uint64 // received: of IPv4
	ipStopped                                  atomic.Uint64 // received and not delivered at once
	fragsReceived, reassembled                 atomic.Uint64
	reassemblyFailed, fragsSent                atomic.Uint64
	icmpReceived, icmpSent, icmpErrors         atomic.Uint64
	icmp6Received, icmp6Sent, icmp6Errors      atomic.Uint64
	ip6Received                                atomic.Uint64
	igmpReceived, igmpSent                     atomic.Uint64
	ndReceived, ndSent, ndFailed               atomic.Uint64
	mldReceived, mldSent                       atomic.Uint64
	udpReceived, udpSent, rawReceived, rawSent atomic.Uint64
	tcpIn, tcpOut, timeWaitOverflow            atomic.Uint64
	synCookiesSent, synCookiesTaken            atomic.Uint64
	synCookiesBad, orphansReset                atomic.Uint64
}

// drop counts a packet that was not taken or not sent.
func (s *Stack) drop(r wire.Reason) { s.counts.drops[r].Add(1) }

// Stats is a snapshot of a stack's counters, all since it began.
type Stats struct {
	NICs  []NICStats
	ARP   ARPStats
	IP    IPStats
	ICMP  ICMPStats
	ICMP6 ICMPStats
	ND    ARPStats // Neighbour Discovery
	IGMP  IGMPStats
	MLD   IGMPStats
	UDP   DatagramStats
	Raw   DatagramStats
	TCP   TCPStats
	// Drops counts by reason what was not taken or not sent. Reasons that have
	// not occurred are left out.
	Drops map[string]uint64
}

// NICStats counts the frames of one interface. A super-frame is one frame.
type NICStats struct {
	Name      string
	RxFrames  uint64
	RxBytes   uint64 // with the link header
	RxDropped uint64 // not for us, malformed, or in conflict with a rule
	TxFrames  uint64
	TxBytes   uint64 // with the link header
	TxDropped uint64 // not taken by the device
}

// ARPStats counts the packets of ARP, or of IPv6's Neighbour Discovery.
type ARPStats struct {
	Received uint64
	Sent     uint64
	Failed   uint64 // resolutions without an answer
}

// IPStats counts IP datagrams, of both versions.
type IPStats struct {
	Received          uint64 // datagrams and fragments, good or bad
	V6                uint64 // of these, those of IPv6
	Delivered         uint64 // whole datagrams given to a protocol
	Sent              uint64 // datagrams and fragments
	FragmentsReceived uint64
	Reassembled       uint64 // datagrams made of fragments
	ReassemblyFailed  uint64 // datagrams of which fragments were dropped
	FragmentsSent     uint64
}

// ICMPStats counts ICMP messages.
type ICMPStats struct {
	Received uint64 // messages with a good checksum
	Errors   uint64 // of these, errors about datagrams of ours
	Sent     uint64 // by the stack itself
}

// IGMPStats counts the messages of IGMP, or of MLD.
type IGMPStats struct {
	Received uint64 // well formed, of whatever kind
	Sent     uint64
}

// DatagramStats counts the datagrams of a kind of socket.
type DatagramStats struct {
	Received uint64 // put into a socket's queue
	Sent     uint64
}

// TCPStats counts TCP segments. A super-frame is one segment.
type TCPStats struct {
	Received         uint64 // with a good checksum
	Sent             uint64
	TimeWaitOverflow uint64 // connections whose TIME-WAIT was cut short
	CookiesSent      uint64 // SYNs answered with a cookie because the SYN queue was full
	CookiesTaken     uint64 // connections made of one that came back
	Memory           int64  // bytes of send and receive buffers now, and of what blocked Writes may leave in them
	CookiesBad       uint64 // acknowledgements that looked like one and were not
	Orphans          int    // connections now that were closed here and are not over
	OrphansReset     uint64 // of these, reset because there were too many, or under memory pressure
}

// ipSent counts the packets that were sent. Those that were sent directly are counted by their
// interface, without a shared counter.
func (s *Stack) ipSent() uint64 {
	n := s.counts.ipSent.Load()
	for _, ifc := range *s.ifaces.Load() {
		n += ifc.stats.TxDirect.Frames()
	}
	return n
}

// Stats returns a snapshot. The counters are read one after the other, while
// packets pass.
func (s *Stack) Stats() Stats {
	c := &s.counts
	udpReceived, udpSent := s.udp.counted(&c.udpReceived, &c.udpSent)
	// What is delivered was received, or put together. The other two are read before
	// what they are a part of.
	delivered := c.reassembled.Load() - c.ipStopped.Load()
	received6 := c.ip6Received.Load()
	received := c.ipReceived.Load() + received6
	delivered += received
	st := Stats{
		ARP: ARPStats{c.arpReceived.Load(), c.arpSent.Load(), c.arpFailed.Load()},
		IP: IPStats{
			Received:          received,
			V6:                received6,
			Delivered:         delivered,
			Sent:              s.ipSent(),
			FragmentsReceived: c.fragsReceived.Load(),
			Reassembled:       c.reassembled.Load(),
			ReassemblyFailed:  c.reassemblyFailed.Load(),
			FragmentsSent:     c.fragsSent.Load(),
		},
		ICMP:  ICMPStats{c.icmpReceived.Load(), c.icmpErrors.Load(), c.icmpSent.Load()},
		ICMP6: ICMPStats{c.icmp6Received.Load(), c.icmp6Errors.Load(), c.icmp6Sent.Load()},
		ND:    ARPStats{c.ndReceived.Load(), c.ndSent.Load(), c.ndFailed.Load()},
		IGMP:  IGMPStats{c.igmpReceived.Load(), c.igmpSent.Load()},
		MLD:   IGMPStats{c.mldReceived.Load(), c.mldSent.Load()},
		UDP:   DatagramStats{udpReceived, udpSent},
		Raw:   DatagramStats{c.rawReceived.Load(), c.rawSent.Load()},
		TCP: TCPStats{
			Received:         c.tcpIn.Load(),
			Sent:             c.tcpOut.Load(),
			TimeWaitOverflow: c.timeWaitOverflow.Load(),
			CookiesSent:      c.synCookiesSent.Load(),
			CookiesTaken:     c.synCookiesTaken.Load(),
			CookiesBad:       c.synCookiesBad.Load(),
			Memory:           s.tcp.used.Load(),
			Orphans:          s.tcp.orphans.stats(),
			OrphansReset:     c.orphansReset.Load(),
		},
		Drops: make(map[string]uint64),
	}
	for _, ifc := range *s.ifaces.Load() {
		is := &ifc.stats
		ns := NICStats{Name: ifc.name, RxDropped: is.RxDropped.Load(), TxDropped: is.TxDropped.Load()}
		ns.RxFrames, ns.RxBytes = is.Rx.Load()
		ns.TxFrames, ns.TxBytes = is.TxDirect.Load()
		frames, bytes := is.Tx.Load()
		ns.TxFrames += frames
		ns.TxBytes += bytes
		st.NICs = append(st.NICs, ns)
	}
	for r := range c.drops {
		if n := c.drops[r].Load(); n > 0 {
			st.Drops[reasonText(wire.Reason(r))] = n
		}
	}
	return st
}
