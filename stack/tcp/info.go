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
	SndWScale, RcvWScale     uint8 // shifts of the windows that the peer and this side advertise (RFC 7323 2.3)
	Congestion               Congestion
	Recovery                 bool  // loss recovery is in progress
	PacingRate               int64 // bytes/s; 0: no pacing
	DeliveryRate             int64 // latest delivery rate sample in bytes/s; 0: not measured (only BBR measures it)

	// Totals since the open. A super-segment counts as the segments that it makes on the wire. Bytes are
	// those of payloads.
	SegsOut, SegsIn         uint32 // all segments, modulo 2^32
	DataSegsOut, DataSegsIn uint32 // segments with a payload, modulo 2^32
	BytesSent               uint64 // with retransmissions
	BytesRetrans            uint64
	BytesAcked              uint64 // bytes that the peer has acknowledged in order
	BytesReceived           uint64 // bytes received in order

	// Times since the last event; 0: never.
	LastDataSent, LastDataRecv, LastAckRecv Time

	RcvRTT     Time // round-trip time as the receiver measures it; 0: not known
	OutOfOrder int  // bytes received beyond a hole
	Reordering bool // segments of this connection were reordered on the path
	ECN        bool // explicit congestion notification was negotiated (RFC 3168)
	Passive    bool // the peer opened the connection
	KeepAlive  KeepAlive
}

// A TimerKind is the kind of a timer of a connection.
type TimerKind uint8

const (
	TimerNone      TimerKind = iota // no timer runs
	TimerOn                         // retransmission timeout, reordering timeout or tail loss probe
	TimerKeepAlive                  // next keep-alive probe
	TimerTimeWait                   // end of TIME-WAIT, or of an orphan's FIN-WAIT-2
	TimerPersist                    // next zero-window probe
)

// String returns the name that ss prints.
func (k TimerKind) String() string {
	return [...]string{"none", "on", "keepalive", "timewait", "persist"}[k]
}

// Timer returns which timer expires first, and when. As in ss, the timer of a delayed acknowledgement and
// that of the pacer are not considered.
func (c *Conn) Timer() (kind TimerKind, at Time) {
	sooner := func(k TimerKind, t Time) {
		if t != 0 && (at == 0 || t < at) {
			kind, at = k, t
		}
	}
	sooner(TimerOn, c.timers.rtx)
	sooner(TimerPersist, c.timers.persist)
	sooner(TimerTimeWait, c.timers.wait)
	sooner(TimerKeepAlive, c.keepDeadline())
	return kind, at
}

// Info returns the connection's state at time now.
func (c *Conn) Info(now Time) Info {
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
		SndWScale:  c.snd.scale,
		Congestion: c.p.Congestion, Recovery: c.rec.phase != phaseOpen,
	}
	info.SegsOut, info.SegsIn = c.segsOut, c.segsIn
	info.DataSegsOut, info.DataSegsIn = c.snd.dataSegs, c.dataSegsIn
	info.BytesRetrans, info.BytesReceived = c.bytesRetrans, c.bytesReceived
	info.BytesAcked = c.bytesAcked()
	info.BytesSent = info.BytesAcked + uint64(c.dataInFlight()) + c.bytesRetrans
	since := func(at Time) Time {
		if at == 0 {
			return 0
		}
		return max(now-at, 1)
	}
	if c.state.synchronized() {
		info.LastDataSent = since(c.snd.lastData)
	}
	info.LastDataRecv, info.LastAckRecv = since(c.rcv.lastData), since(c.rcv.last)
	info.RcvRTT, info.OutOfOrder = c.rcv.drs.rtt, int(c.rcv.ooo.bytes)
	info.Reordering, info.ECN, info.Passive = c.rec.reoSeen, c.ecn.on, c.passive
	if c.wsOK {
		info.RcvWScale = c.rcv.scale // the shift of a SYN without an answer is only an offer
	}
	info.KeepAlive = c.KeepAlive()
	if p := c.cc.pace; p != nil {
		info.PacingRate = p.rate
	}
	if b := c.cc.bbr; b != nil {
		info.DeliveryRate = b.latest
	}
	return info
}

// bytesAcked returns the number of payload bytes below SND.UNA since the open. Its lower 32 bits are
// SND.UNA-ISS-1, without the FIN. Its upper bits follow from the number of delivered bytes that are not
// SACKed, which differs from it by less than a window.
func (c *Conn) bytesAcked() uint64 {
	low := uint32(c.snd.una - c.snd.iss - 1)
	if c.snd.finSent && c.snd.una == c.snd.nxt {
		low-- // the FIN
	}
	near := int64(c.delivered) - int64(c.sb.sacked)
	return uint64(max(near+int64(int32(low-uint32(near))), 0))
}

// dataInFlight returns the number of bytes between SND.UNA and SND.NXT, without SYN and FIN.
func (c *Conn) dataInFlight() int {
	n := int(c.snd.nxt - c.dataStart())
	if c.snd.finSent && n > 0 {
		n--
	}
	return max(n, 0)
}
