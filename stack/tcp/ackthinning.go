package tcp

// ACK thinning sends stretch ACKs (RFC 2525 2.13) for bulk data from a sender on this machine: one
// ACK for up to thinBytes of data, instead of one for each super-segment. When a host writes an ACK to a
// TAP, the kernel's sender runs inside the system call, so an ACK costs more time than the
// super-segment that it acknowledges. With ACK thinning, T1, T3 and T14in of bench have 1.06, 1.06 and 1.33
// times the rate, with 0.94, 0.98 and 0.74 of the CPU time.
//
// RFC 5681 4.2 requires an ACK for at least every second full-sized segment, for two reasons. Each
// ACK increases the sender's congestion window, and a late ACK causes a burst on the network. ACK
// thinning is limited to segments that cross no network, after slow start. It delays an ACK only if
// all of these conditions hold:
//
//   - The sender is on this machine: see origin.
//   - The round-trip time is at most thinRTT. If it is longer, something on the path delays packets,
//     for example an emulated network.
//   - The sender's slow start is over: see slowStartOver.
//   - The segment is Local. It may be short: every Write of a sender ends with a short segment, also in the
//     middle of a bulk transfer. PSH says nothing either: Linux sets it on every super-segment.
//   - No ACK is necessary for another reason: out-of-order or duplicate data, a filled gap, CE, a FIN,
//     or a window that becomes too small: see thinning. The peer is not being told of CE (ECE).
//   - Data arrives at minThinRate at least, so that thinBytes take half of thinDelay at most.
//   - While the ACK of thinBytes is on its way, the rest of the receive window is enough for the highest
//     rate, and so is the rest of the sender's congestion window and send buffer: see probing.
//   - Delayed ACKs have stopped the sender for at most 1 % of the time: see owed. A sender may wait for an
//     ACK because its buffer is full or, because of Nagle's algorithm, to send a short segment.
//
// Params.NoACKThinning turns ACK thinning off.
const (
	// thinBytes is the number of received bytes at which an ACK is sent: with super-segments of 64 KB,
	// after every fourth. With 100 KB and 300 KB the gain is less.
	thinBytes = 200 << 10

	// thinDelay is the maximum delay of an ACK. A round-trip time that the sender measures increases by
	// at most that much, or by up to 2 ms if this program has nothing to do, because Go's timers are late
	// then by up to 1 ms.
	thinDelay = Millisecond

	// minThinRate is the minimum rate of data in bytes per millisecond.
	minThinRate = 2 * thinBytes

	// thinRTT is the maximum round-trip time with ACK thinning. A sender on this machine has a
	// round-trip time of up to 1 ms while the processors are busy.
	thinRTT = 2 * Millisecond

	// probePeriod is how long a successful probe counts: see probing.
	probePeriod = 64 * Millisecond

	// A sender that sends within a round-trip time and resumeTime of the end of thinDelay has probably
	// waited for the ACK. After that, there is no ACK thinning for stallShare times as long as it waited.
	resumeTime = 500 * Microsecond
	stallShare = 100
)

// ackThinning is the state of ACK thinning.
type ackThinning struct {
	run    int  // bytes received since the sender may have begun slow start, at most 2^30
	recent int  // bytes received per millisecond in the last whole measurement, of at least 1 ms
	rate   int  // maximum of recent since slow start ended; 0: not known
	perRTT int  // what arrives in a round trip at that rate, in bytes
	bytes  int  // bytes received since the time since
	since  Time // start of the current measurement of recent; 0: none
	held   bool // timers.ack is the end of an ACK's delay by thinDelay
	proved Time // end of the time for which the last successful probe counts

	waited Time // time without data when thinDelay last ended a delay; 0: data has arrived since
	ended  Time // when that was
	debt   Time // how long ACK thinning has stopped the sender: see owed
	debtAt Time // when debt was set
}

// An origin says whether a peer is on this machine. Segments that are not super-segments show this. The
// kernel leaves the checksum of a local segment incomplete (Segment.Local), but a wire carries only
// complete checksums. Super-segments do not show the origin: those that the kernel merges from segments
// of a wire (GRO) have an incomplete checksum too. So if a TAP is in a bridge with a network card, the
// handshake of a peer beyond the card excludes that peer's connections from ACK thinning. If a SYN proxy
// of this machine (nftables synproxy) makes the handshake for such a peer, the peer's first segment that is
// no super-segment does.
type origin uint8

const (
	originUnknown origin = iota
	originLocal          // all segments that show the origin were Local
	originWire           // at least one was not
)

// noteOrigin updates the peer's origin from an acceptable segment.
func (c *Conn) noteOrigin(s *Segment) {
	switch o := &c.snd.origin; {
	case s.GSOSize != 0:
	case !s.Local:
		*o = originWire
	case *o == originUnknown:
		*o = originLocal
	}
}

// thinAck reports whether to delay the ACK of the data that has arrived, of which s has the last bytes.
// It then sets the timer that ends the delay.
func (c *Conn) thinAck(now Time, s *Segment) bool {
	r := &c.rcv
	h := &r.thin
	if c.p.NoACKThinning || !s.Local || c.snd.origin != originLocal || r.ackNow || c.ecn.echo || !c.slowStartOver() || h.owed(now) > 0 {
		return false
	}
	rtt := c.receiverLeastRTT()
	if rtt == 0 || rtt > thinRTT || h.recent < minThinRate {
		return false
	}
	h.perRTT = int(int64(h.rate) * int64(rtt) / int64(Millisecond))
	most := thinBytes + s.DataLen() // that an ACK covers; a probe covers perRTT more
	if int(r.edge-r.lastAck) < most+h.perRTT+s.DataLen() {
		return false
	}
	limit := thinBytes
	if h.probing(now) {
		limit = most + h.perRTT
	}
	if int(r.unacked) >= limit {
		if h.held && h.probing(now) {
			h.proved = now + probePeriod
		}
		return false
	}
	h.held = true
	if at := now + thinDelay; c.timers.ack == 0 || at < c.timers.ack {
		c.timers.ack = at
	}
	return true
}

// holdsAck reports whether ACK thinning is delaying an ACK.
func (c *Conn) holdsAck() bool { return c.active != nil && c.rcv.thin.held }

// thinning reports whether an ACK is being delayed and the rest of the window is enough meanwhile, so that
// no window update is necessary.
func (c *Conn) thinning() bool { return c.holdsAck() && c.window() >= c.rcv.thin.perRTT }

// slowStartOver reports whether the sender's slow start has ended. While each super-segment is
// acknowledged, the congestion window grows by at least half of the data sent in a round trip. After
// three receive windows of data, the congestion window is as large as the receive window, unless it
// does not limit the sender.
func (c *Conn) slowStartOver() bool { return c.rcv.thin.run/4 >= c.rcv.limit }

// probing reports whether this delay of an ACK is a probe. A sender whose congestion window or send
// buffer limits what it has in flight sends less while ACKs are delayed, even if it never waits for
// thinDelay: while the ACK of thinBytes is on its way, the rest must be enough for one round trip. A
// probe tests that: it delays the ACK until thinBytes, one more super-segment and what arrives in a round
// trip at the highest rate have arrived. If the sender waits before, the probe has failed.
func (h *ackThinning) probing(now Time) bool { return now >= h.proved }

// noteRun counts n bytes of received data. restarted means that the sender may be in slow start again.
func (c *Conn) noteRun(now Time, n int, restarted bool) {
	h := &c.rcv.thin
	if restarted {
		h.run, h.recent, h.rate, h.since, h.proved = 0, 0, 0, 0, 0
	}
	h.run = min(h.run+n, 1<<30)
	if !c.slowStartOver() {
		return
	}
	switch d := now - h.since; {
	case h.since == 0, now-c.rcv.lastData >= thinDelay: // the time without data has no part in the rate
		h.bytes, h.since = 0, now
	case d >= Millisecond:
		h.recent = int(int64(h.bytes) * int64(Millisecond) / int64(d))
		h.rate = max(h.rate, h.recent)
		h.bytes, h.since = 0, now
	}
	h.bytes += n
}

// late records that thinDelay has ended the delay of an ACK. lastData is when data last arrived.
func (h *ackThinning) late(now, lastData Time) {
	h.held = false
	h.waited, h.ended = max(now-lastData, 1), now
}

// noteArrival records that data has arrived. If that is soon after thinDelay has ended, the sender has
// probably waited for the ACK, and longer than without ACK thinning by the time without data. If it is
// later, the sender had no data, or did not run. rtt is the round-trip time.
func (h *ackThinning) noteArrival(now, rtt Time) {
	if h.waited == 0 {
		return
	}
	if now-h.ended < rtt+resumeTime {
		h.debt, h.debtAt = h.owed(now)+h.waited, now
		h.proved = 0
	}
	h.waited = 0
}

// owed returns how long ACK thinning has stopped the sender beyond a stallShare-th of the time since. While
// that is not 0, no ACK is delayed. So a sender that waits for each delayed ACK, for whatever reason, loses
// 1 % of its time. Only a sender that needs more than resumeTime to go on is not noticed.
func (h *ackThinning) owed(now Time) Time { return max(0, h.debt-(now-h.debtAt)/stallShare) }
