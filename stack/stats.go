package stack

import (
	"sync/atomic"

	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

// counters are the counters of a stack. Each interface also has its own counters, in ifaceStats.
type counters struct {
	drops [numReasons]atomic.Uint64

	arpReceived, arpSent, arpFailed            atomic.Uint64
	ipReceived, ipSent                         atomic.Uint64 // ipReceived has only IPv4, ipSent both versions
	ipStopped                                  atomic.Uint64 // received, but dropped or fragments
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

// Stats is a snapshot of a stack's counters since New.
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
	// Drops counts the dropped packets by reason. It has only reasons that have occurred.
	Drops map[DropReason]uint64
}

// NICStats counts the frames of an interface. A super-frame counts as one frame.
type NICStats struct {
	Name      string
	RxFrames  uint64
	RxBytes   uint64 // with the link header
	RxDropped uint64 // frames for another station, malformed, or forbidden by a rule
	TxFrames  uint64
	TxBytes   uint64 // with the link header
	TxDropped uint64 // frames that the device has not accepted, or that found the transmit queue full or closed
}

// ARPStats counts the packets of ARP or of IPv6 Neighbour Discovery.
type ARPStats struct {
	Received uint64
	Sent     uint64
	Failed   uint64 // resolutions that got no answer
}

// IPStats counts the packets of IPv4 and IPv6 together.
type IPStats struct {
	Received          uint64 // datagrams and fragments, including invalid ones
	V6                uint64 // the IPv6 packets among Received
	Delivered         uint64 // complete datagrams that were passed to a protocol
	Sent              uint64 // datagrams and fragments
	FragmentsReceived uint64
	Reassembled       uint64 // datagrams that were reassembled
	ReassemblyFailed  uint64 // datagrams whose reassembly failed
	FragmentsSent     uint64
}

// ICMPStats counts ICMP messages.
type ICMPStats struct {
	Received uint64 // messages with a good checksum
	Errors   uint64 // received messages that report an error about a packet of this host
	Sent     uint64 // messages sent by the stack, without those of sockets
}

// IGMPStats counts the messages of IGMP or MLD.
type IGMPStats struct {
	Received uint64 // well-formed messages of any type
	Sent     uint64
}

// DatagramStats counts the datagrams of UDP or of raw sockets.
type DatagramStats struct {
	Received uint64 // datagrams passed to a socket
	Sent     uint64
}

// TCPStats counts TCP segments. A super-frame counts as one segment.
type TCPStats struct {
	Received         uint64 // segments with a good checksum
	Sent             uint64
	TimeWaitOverflow uint64 // connections whose TIME-WAIT ended early because of TCPConfig.TimeWaits
	CookiesSent      uint64 // SYNs answered with a cookie because the SYN queue was full
	CookiesTaken     uint64 // connections opened by a valid cookie
	Memory           int64  // current bytes of buffers, and of pinned data that may be copied to buffers
	CookiesBad       uint64 // ACKs for no connection that looked like ACKs of a cookie, but had no valid cookie
	Orphans          int    // current number of orphans: see TCPConfig.Orphans
	OrphansReset     uint64 // orphans that were reset because of their number or memory pressure
	// Events counts the events of the protocol: Events[tcp.RetransSegs] is the number of retransmitted
	// segments.
	Events [tcp.NumCounters]uint64
}

// ipSent returns the number of IP packets sent. The counter ipSent lacks the packets that left by direct
// transmit: the interfaces count these, which avoids a shared counter.
func (s *Stack) ipSent() uint64 {
	n := s.counts.ipSent.Load()
	for _, ifc := range *s.ifaces.Load() {
		n += ifc.stats.TxDirect.Frames()
	}
	return n
}

// Stats returns a snapshot of the counters. Each counter is read at a slightly different time.
func (s *Stack) Stats() Stats {
	c := &s.counts
	udpReceived, udpSent := s.udp.counted(&c.udpReceived, &c.udpSent)
	// Delivered counts the packets that were received or reassembled, without those that were stopped.
	// ipStopped is read before the counters of received packets, so the result is not negative.
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
		Drops: make(map[DropReason]uint64),
	}
	if all := s.tcp.events.Load(); all != nil {
		for k := range all {
			st.TCP.Events[k] = all[k].Load()
		}
	}
	for _, ifc := range *s.ifaces.Load() {
		// The frames of direct transmit and of the transmit queue are counted apart.
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
