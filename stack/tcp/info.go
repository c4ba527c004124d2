package tcp

// Info is the state of a connection for monitoring. The names are those of Linux's tcp_info;
// sizes are in bytes.
type Info struct {
	State                    State
	RTT, RTTVar, RTO         Time // smoothed round-trip time, its variation, retransmission timeout with back-off
	MinRTT                   Time
	SndCwnd, SndSsthresh     int
	SndMSS, RcvMSS           int
	SndWnd, RcvWnd           int    // windows advertised by the peer and by us
	InFlight                 int    // estimated bytes in the network (pipe of RFC 6675)
	Unacked                  int    // bytes sent and not acknowledged
	Sacked, Lost             int    // bytes
	NotSent                  int    // bytes written and not yet sent
	Delivered                uint64 // bytes that are known to have arrived since the open; a FIN counts as one
	Retrans                  int    // segments retransmitted since the open
	Backoff                  int
	SndBuf, RcvBuf           int // limits of the buffers
	SACK, Timestamps, WScale bool
	Congestion               Congestion
	Recovery                 bool  // loss recovery is in progress
	PacingRate               int64 // bytes/s; 0: no pacing
	DeliveryRate             int64 // latest delivery rate sample in bytes/s; 0: not measured (only BBR measures it)
}

// Info returns the connection's state.
func (c *Conn) Info() Info {
	if c.active == nil {
		c.activate(c.rcv.last)
		defer c.deactivate()
	}
	info := Info{
		State: c.state,
		RTT:   c.rtt.srtt, RTTVar: c.rtt.rttvar, RTO: c.rtt.timeout(c.timers.backoff, c.p), MinRTT: c.rtt.min,
		SndCwnd: c.cc.cwnd, SndSsthresh: c.cc.ssthresh,
		SndMSS: c.snd.mss, RcvMSS: c.rcv.mss,
		SndWnd: int(c.snd.wnd), RcvWnd: c.window(),
		InFlight: c.pipe(), Unacked: int(c.snd.nxt - c.snd.una),
		Sacked: c.sb.sacked, Lost: c.sb.lost,
		Delivered: c.delivered,
		NotSent:   c.unsent(), Retrans: int(c.retrans), Backoff: int(c.timers.backoff),
		SndBuf: c.snd.limit, RcvBuf: c.rcv.limit,
		SACK: c.sackOK, Timestamps: c.tsOK, WScale: c.wsOK,
		Congestion: c.p.Congestion, Recovery: c.rec.phase != phaseOpen,
	}
	if p := c.cc.pace; p != nil {
		info.PacingRate = p.rate
	}
	if b := c.cc.bbr; b != nil {
		info.DeliveryRate = b.latest
	}
	return info
}
