package tcp

import "github.com/usernet/usernet/stack/wire"

// ecnState is explicit congestion notification (RFC 3168).
type ecnState struct {
	on    bool // ECN was negotiated
	mute  bool // we have sent a non-ECN-setup SYN, so our segments must not have ECT
	echo  bool // a segment with CE has arrived: set ECE until one with CWR arrives
	cwr   bool // the window was reduced: set CWR on the next new data
	point Seq  // no further reduction until this is acknowledged
	held  bool // point is not yet acknowledged
}

// ecnFlags returns the ECN flags of our SYN or SYN,ACK. RFC 3168 6.1.1: "an ECN-setup SYN
// packet" has "the ECE and CWR flags set", "an ECN-setup SYN-ACK packet" only ECE.
func (c *Conn) ecnFlags() wire.TCPFlags {
	switch {
	case c.state == SynSent && c.p.ECN && c.snd.lastData == 0:
		return wire.FlagECE | wire.FlagCWR
	case c.state == SynReceived && c.ecn.on:
		return wire.FlagECE
	}
	// "A host that receives no reply to an ECN-setup SYN within the normal SYN
	// retransmission timeout interval MAY resend the SYN with CWR and ECE
	// cleared" (6.1.1.1). A path that drops ECN-setup SYNs then drops only the first SYN.
	return 0
}

// ecnSetup negotiates ECN from the peer's SYN or SYN,ACK.
func (c *Conn) ecnSetup(s *Segment) {
	both := s.Flags & (wire.FlagECE | wire.FlagCWR)
	// RFC 3168 6.1.1: "A host MUST NOT set ECT on data packets unless it [...] has
	// sent no non-ECN-setup SYN".
	c.ecn.mute = c.snd.synAgain
	if s.has(wire.FlagACK) {
		c.ecn.on = c.p.ECN && both == wire.FlagECE
	} else {
		// "A host MUST NOT set ECT on SYN or SYN-ACK packets". If a SYN has ECT or CE, a
		// router on the path probably rewrites the field, so later CE marks would mean
		// nothing. Linux assumes the same.
		c.ecn.on = both == wire.FlagECE|wire.FlagCWR && !s.ECT && !s.CE
	}
}

// ecnReduced records that the window was reduced. RFC 3168 6.1.2: "When an ECN-Capable
// TCP sender reduces its congestion window for any reason (because of a retransmit
// timeout, a Fast Retransmit, or in response to an ECN Notification), the TCP sender
// sets the CWR flag in the TCP header of the first new data packet sent after".
func (c *Conn) ecnReduced() { c.ecn.cwr = c.ecn.on }

// ecnReceived processes CE and CWR of a received data segment. RFC 3168 6.1.3: the receiver
// "sets the ECN-Echo flag" until "it receives a CWR packet".
func (c *Conn) ecnReceived(s *Segment) {
	if !c.ecn.on {
		return
	}
	if s.has(wire.FlagCWR) {
		c.ecn.echo = false
	}
	if s.CE {
		c.ecn.echo = true
		c.count(InCEPkts)
		c.rcv.ackNow = true
	}
}

// ecnAck processes ECE of an acknowledgement. RFC 3168 6.1.2: "the indication of
// congestion should be treated just as a congestion loss in non-ECN-Capable
// TCP", and "TCP should not react to congestion indications more than once every
// window of data".
func (c *Conn) ecnAck(now Time, s *Segment) {
	e := &c.ecn
	if e.held && e.point.LessEq(c.snd.una) {
		e.held = false
	}
	if !e.on || !s.has(wire.FlagECE) || s.has(wire.FlagSYN) || e.held {
		return
	}
	e.held, e.point = true, c.snd.nxt
	c.ecnReduced()
	if c.rec.phase == phaseOpen {
		c.count(ECEReductions)
		c.congested(now)
	}
}
