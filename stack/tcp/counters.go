package tcp

// A Counter is an event that Params.Count counts. If Linux has a counter of the same meaning, the Counter has the
// name that nstat prints, without the prefix (Tcp, TcpExt, TcpExtTCP or IpExt). A super-segment counts as the
// segments that it makes on the wire.
type Counter uint8

const (
	// Connections (RFC 4022 3).
	ActiveOpens  Counter = iota // SYN-SENT was entered
	PassiveOpens                // a passive open was completed: ESTABLISHED was entered from SYN-RECEIVED
	AttemptFails                // CLOSED was entered from SYN-SENT or SYN-RECEIVED
	EstabResets                 // CLOSED was entered from ESTABLISHED or CLOSE-WAIT

	RetransSegs // segments retransmitted, SYNs and loss probes included
	OutRsts     // RSTs sent

	// Retransmissions by cause.
	SynRetrans       // SYNs and SYN,ACKs retransmitted
	FastRetrans      // segments retransmitted in fast recovery
	SlowStartRetrans // segments retransmitted after a retransmission timeout
	LostRetransmit   // pieces of sent data whose retransmission was lost as well
	LossProbes       // tail loss probes sent (RFC 8985 7)
	Timeouts         // retransmission timeouts

	// Loss recovery.
	SackRecovery      // episodes of fast recovery with SACK
	RenoRecovery      // episodes of fast recovery without SACK
	LossProbeRecovery // losses that a tail loss probe repaired
	SACKReneging      // the peer discarded data that it had SACKed
	DSACKRecv         // DSACK blocks received: data that arrived at the peer twice
	DSACKSent         // DSACK blocks sent (TcpExtTCPDSACKOldSent and TcpExtTCPDSACKOfoSent)

	// Undone reductions of the congestion window, by the evidence that the reduction was unnecessary.
	FullUndo     // a timestamp (RFC 3522)
	DSACKUndo    // DSACKs (RFC 3708)
	SpuriousRTOs // F-RTO (RFC 5682)
	LossUndo     // all data that was marked lost arrived before anything was retransmitted

	// Explicit congestion notification (RFC 3168).
	InCEPkts      // segments received with the CE codepoint
	ECEReductions // reductions of the congestion window because of ECE

	// Receiving.
	OFOQueue     // segments queued beyond a hole
	OFOPruned    // queues of out-of-order data discarded because of memory pressure (TcpExtOfoPruned)
	DelayedACKs  // delayed ACKs sent by the timer
	PAWSEstab    // segments rejected by PAWS (RFC 7323 5)
	ChallengeACK // challenge ACKs sent (RFC 5961)

	// Timers.
	WinProbe        // zero-window probes sent
	KeepAliveProbes // keep-alive probes sent
	AbortOnTimeout  // connections that failed because the peer did not answer

	NumCounters
)

// String returns the name of the counter.
func (k Counter) String() string {
	return [...]string{
		"ActiveOpens", "PassiveOpens", "AttemptFails", "EstabResets", "RetransSegs", "OutRsts",
		"SynRetrans", "FastRetrans", "SlowStartRetrans", "LostRetransmit", "LossProbes", "Timeouts",
		"SackRecovery", "RenoRecovery", "LossProbeRecovery", "SACKReneging", "DSACKRecv", "DSACKSent",
		"FullUndo", "DSACKUndo", "SpuriousRTOs", "LossUndo", "InCEPkts", "ECEReductions",
		"OFOQueue", "OFOPruned", "DelayedACKs", "PAWSEstab", "ChallengeACK",
		"WinProbe", "KeepAliveProbes", "AbortOnTimeout",
	}[k]
}

// count counts an event. Events are rare in a bulk transfer without loss, so the call of the function
// Params.Count has no measurable cost.
func (c *Conn) count(k Counter) { c.countN(k, 1) }

func (c *Conn) countN(k Counter, n int) {
	if c.p.Count != nil {
		c.p.Count(k, n)
	}
}

// countIn counts a received segment. A super-segment counts as the segments of which it consists.
func (c *Conn) countIn(s *Segment) {
	c.segsIn++
	n := s.DataLen()
	if n == 0 {
		return
	}
	c.dataSegsIn++
	if s.GSOSize > 0 && n > s.GSOSize {
		more := uint32((n - 1) / s.GSOSize)
		c.segsIn += more
		c.dataSegsIn += more
	}
}

// countRST counts a RST that Next returns.
func (c *Conn) countRST() {
	c.segsOut++
	c.count(OutRsts)
}

// countRetrans counts segs retransmitted segments, in total and by cause. n is the sum of their payloads in bytes.
func (c *Conn) countRetrans(segs, n int) {
	c.retrans += uint32(segs)
	c.bytesRetrans += uint64(n)
	c.countN(RetransSegs, segs)
	switch c.rec.phase {
	case phaseRecovery:
		c.countN(FastRetrans, segs)
	case phaseLoss:
		c.countN(SlowStartRetrans, segs)
	}
}
