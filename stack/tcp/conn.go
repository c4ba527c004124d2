package tcp

import (
	"cmp"

	"github.com/usernet/usernet/stack/wire"
)

// A Conn is one connection: the TCB of RFC 9293 3.3.1 with the state of loss recovery,
// congestion control and the timers. Open, Accept or AcceptCookie initialises it.
//
//	Send sequence space                  Receive sequence space
//
//	     1         2          3               1          2          3
//	----------|----------|----------      ----------|----------|----------
//	       SND.UNA    SND.NXT    SND.UNA         RCV.NXT    RCV.NXT
//	                            +SND.WND                   +RCV.WND
//
//	1 acknowledged   2 sent   3 may be sent      1 received   2 allowed   3 not allowed
type Conn struct {
	p     *Params
	state State
	err   Err
	soft  Err // last soft error, reported instead of ErrTimedOut if the connection times out

	keepCount uint8 // KeepAlive.Count

	events Events

	passive   bool // opened by Accept or AcceptCookie
	orphan    bool // the application has called Close
	shutRead  bool // the application has called CloseRead
	noDelay   bool // Nagle's algorithm is off
	synUnsent bool // Next must send a SYN or SYN,ACK
	rstUnsent bool // Next must send a RST; then the Conn is dead

	sackOK bool  // SACK permitted by both sides (RFC 2018 2)
	tsOK   bool  // timestamps on every segment (RFC 7323 3.2)
	wsOK   bool  // windows are scaled (RFC 7323 2.2)
	last   State // the state before CLOSED; CLOSED if the Conn has not ended or was never opened
	ecn    ecnState

	defaultMSS uint16 // Config.DefaultMSS, or defaultMSS
	peerMSS    uint16 // the peer's MSS option, or defaultMSS

	// Segments and bytes since the Conn was opened; a super-segment counts as the segments that it makes on the
	// wire.
	retrans       uint32
	segsOut       uint32 // all segments
	segsIn        uint32
	dataSegsIn    uint32 // segments with a payload
	bytesRetrans  uint64
	bytesReceived uint64 // bytes in order, without the FIN

	snd sendState
	rcv recvState
	rtt rttEstimator
	cc  congestionState

	*active          // nil while the Conn is idle: see activate
	pl      *plpmtud // path MTU discovery; nil while no larger segment size is searched for

	timers       timers
	keepIdle     Time // KeepAlive.Idle
	keepInterval Time // KeepAlive.Interval
	userTimeout  Time // 0: Params.Retries is the limit

	delivered uint64 // bytes known to have arrived since the Conn was opened
}

type sendState struct {
	iss      Seq
	una      Seq    // oldest unacknowledged number. buf begins at una, or at iss+1 before the SYN is acknowledged
	nxt      Seq    // next new number to be sent; it never decreases
	wnd      uint32 // window last advertised by the peer, in bytes from una
	maxWnd   uint32 // the largest window that the peer ever advertised (MAX.SND.WND of RFC 5961 5.2)
	wl1      Seq    // SEG.SEQ of the last window update
	wl2      Seq    // SEG.ACK of the last window update
	tsOffset uint32 // Config.TSOffset

	mss      int    // payload bytes of a full segment: the MSS less opt
	gso      int32  // maximum payload of a super-segment in bytes; 0: no super-segments
	dataSegs uint32 // segments sent with a payload, counted as Conn.segsOut

	buf   sendQueue
	limit int // bytes that buf may hold

	lastData Time // when new data was last sent; during the handshake, when the first SYN was sent; 0: never

	// progress is the start of the user timeout. It is the last time at which SND.UNA advanced, new data was
	// sent while nothing was in flight, or the persist timer began while nothing was in flight.
	progress Time

	scale    uint8 // Snd.Wind.Shift
	opt      uint8 // bytes of options on every segment
	fixed    bool  // the application has set limit; no auto-tuning
	fin      bool  // a FIN follows the last byte of buf
	finSent  bool
	full     bool   // Write or Pin could not take all bytes: report Writable when there is room
	synAgain bool   // the SYN was retransmitted: its round-trip time is ambiguous
	origin   origin // where the peer is; here because one byte more in recvState would take eight
}

type recvState struct {
	irs    Seq
	nxt    Seq    // next number expected
	edge   Seq    // right edge of the window that was advertised: RCV.NXT+RCV.WND
	synWnd uint16 // the window of our SYN, which is never scaled (RFC 7323 2.2)
	scale  uint8  // Rcv.Wind.Shift
	quick  uint8  // number of further segments to acknowledge immediately

	mss      int    // estimated payload bytes of a full segment from the peer
	announce uint32 // the value of our MSS option
	unacked  uint32 // bytes received and not yet acknowledged

	buf   ring
	await []byte // a waiting reader's buffer, to which in-order data is copied directly
	got   int    // bytes that were copied to await
	limit int    // bytes that buf may hold

	*arrivals // points into Conn.active; nil while the Conn is idle

	last        Time // when a segment that proves the peer alive last arrived
	lastData    Time // when data in the window last arrived
	tsRecentAt  Time // when tsRecent was set
	challengeAt Time // start of the second in which challenges is counted: see replyAllowed

	lastAck  Seq    // Last.ACK.sent
	tsRecent uint32 // TS.Recent of RFC 7323 4.3
	markTS   uint32 // an earlier TS.Recent, kept to detect overtaken segments
	markSeq  Seq    // SEG.SEQ of the segment that carried markTS: see overtaken
	finSeq   Seq    // number of the FIN
	rstSeq   uint32 // number of the RST to be sent

	challenges  uint8
	fixed       bool // the application has set limit; no auto-tuning
	fin         bool // a FIN with number finSeq has arrived, perhaps out of order
	edgeMoved   bool // edge is no longer the one that the SYN advertised
	rstNow      bool // Next must send a RST with rstSeq; unlike rstUnsent, this does not end the Conn
	ackNow      bool // Next must send an acknowledgement
	pingpong    bool // the application replies quickly, so its data can carry acknowledgements (as on Linux)
	bufferTaken bool // TakeBuffer has handed out the part of await after got
}

// A block is the sequence numbers from start up to, but not including, end.
type block struct{ start, end Seq }

// Open begins an active open. Next then returns the SYN.
func (c *Conn) Open(now Time, cfg Config) {
	c.init(now, cfg)
	c.state = SynSent
	c.synUnsent = true
	c.snd.nxt = c.snd.iss + 1
	c.count(ActiveOpens)
}

// Accept begins a passive open for a SYN that a listener received. Next then returns the
// SYN,ACK.
func (c *Conn) Accept(now Time, cfg Config, syn *Segment) {
	c.init(now, cfg)
	c.passive = true
	c.state = SynReceived
	c.synUnsent = true
	c.snd.nxt = c.snd.iss + 1
	c.takeSyn(now, syn)
	c.takeOptions(syn)
	c.noteOrigin(syn)
	c.snd.wnd = uint32(syn.Window)
	c.snd.maxWnd = c.snd.wnd
	// RFC 9293 3.10.7.2: "If there are other controls or text in the segment, then queue it for
	// processing later". This implementation stores and acknowledges text at once.
	if syn.DataLen() > 0 || syn.has(wire.FlagFIN) {
		c.takeData(now, Seq(syn.Seq)+1, syn)
	}
}

// AcceptCookie is Accept for a connection whose SYN was answered with a SYN cookie, so no Conn existed
// until now. syn is the SYN as reconstructed from the cookie, and cfg.ISS is the cookie. The caller
// then passes the segment that carried the cookie to Segment.
func (c *Conn) AcceptCookie(now Time, cfg Config, syn *Segment) {
	c.Accept(now, cfg, syn)
	c.synUnsent = false
	c.snd.origin = originUnknown // of the segment that syn was made from, the cookie tells nothing
}

// WindowScale returns Rcv.Wind.Shift: the smallest shift, at most 14 (RFC 7323 2.3), with which the
// largest receive buffer can be advertised.
func (p *Params) WindowScale() uint8 {
	var shift uint8
	for shift < 14 && 65535<<shift < max(p.RecvBufferMax, p.RecvBuffer) {
		shift++
	}
	return shift
}

func (c *Conn) init(now Time, cfg Config) {
	*c = Conn{}
	c.p, c.noDelay, c.userTimeout = cfg.Params, cfg.NoDelay, cfg.UserTimeout
	c.SetKeepAlive(now, cfg.Keep)
	s := &c.snd
	s.iss, s.una, s.nxt = cfg.ISS, cfg.ISS, cfg.ISS
	s.tsOffset = cfg.TSOffset
	s.mss = cfg.MSS
	c.defaultMSS = defaultMSS
	if cfg.DefaultMSS > 0 {
		c.defaultMSS = uint16(cfg.DefaultMSS)
	}
	c.peerMSS = c.defaultMSS
	s.gso = int32(cfg.GSO)
	c.startSendLimit()
	c.rcv.limit = c.p.RecvBuffer
	c.rcv.synWnd = uint16(min(c.bufferLimit(c.rcv.limit), 65535))
	c.rcv.mss, c.rcv.announce = cfg.MSS, uint32(cfg.MSS)
	if cfg.AdvMSS > 0 {
		// RFC 9293 3.7.1: the value of the MSS option is "MMS_R - 20". MMS_R is what this host can receive.
		// The value does not depend on the MTU of the path to the peer, because the peer's segments may
		// come over another path.
		c.rcv.announce = uint32(cfg.AdvMSS)
	}
	c.rcv.quick = quickSegments
	c.rcv.last = now
	if !c.p.NoWindowScale {
		c.rcv.scale = c.p.WindowScale()
	}
	c.activateForData(now)
	c.cc.init(c)
}

// defaultMSS is the default of Config.DefaultMSS. RFC 9293 3.7.1: "If an MSS Option is not received at
// connection setup, TCP implementations MUST assume a default send MSS of 536 (576-40) for IPv4 or 1220
// (1280 - 60) for IPv6".
const defaultMSS = 536

// takeSyn records the numbers of the peer's SYN.
func (c *Conn) takeSyn(now Time, s *Segment) {
	r := &c.rcv
	r.irs = Seq(s.Seq)
	r.nxt = r.irs + 1
	r.lastAck = r.nxt
	r.drs.seq, r.drs.at = r.nxt, now
	// The window that our SYN or SYN,ACK advertises.
	r.edge = r.nxt + Seq(r.synWnd)
	r.maxEdge = r.edge
}

// takeOptions negotiates the options of the connection from the peer's SYN (RFC 7323 2.2 and
// 3.2, RFC 2018 2).
func (c *Conn) takeOptions(s *Segment) {
	c.sackOK = s.SACKPermitted && !c.p.NoSACK
	c.tsOK = s.HasTS && !c.p.NoTimestamps
	c.wsOK = s.HasWScale && !c.p.NoWindowScale
	if c.wsOK {
		// RFC 7323 2.3: "If a Window Scale option is received with a shift.cnt
		// value larger than 14, the TCP SHOULD log the error but MUST use 14".
		c.snd.scale = min(s.WScale, 14)
	} else {
		c.rcv.scale = 0
	}
	if c.tsOK {
		c.rcv.tsRecent, c.rcv.tsRecentAt = s.TSVal, c.rcv.last
		c.rcv.markTS, c.rcv.markSeq = s.TSVal, Seq(s.Seq)
		c.snd.opt = 12 // the Timestamps option, padded
	}
	c.ecnSetup(s)
	if s.MSS != 0 {
		c.peerMSS = s.MSS
	}
	// RFC 9293 3.7.1: Eff.snd.MSS = min(SendMSS+20, MMS_S) - TCPhdrsize - IPoptionsize
	c.snd.mss = max(min(c.snd.mss, int(c.peerMSS)), leastMSS) - int(c.snd.opt)
	c.rcv.mss = max(c.rcv.mss, leastMSS) - int(c.snd.opt)
	c.cc.start(c)
	c.startSendLimit()
}

// withdrawOptions disables the options that a retransmitted SYN no longer offers. Clients leave
// options off after some attempts, in case a middlebox drops SYNs that have them. Such a client
// ignores timestamps and SACK blocks and does not scale its windows. Options that only the
// retransmission offers stay disabled, because it may be an old duplicate.
func (c *Conn) withdrawOptions(s *Segment) {
	c.sackOK = c.sackOK && s.SACKPermitted
	if c.wsOK && !s.HasWScale {
		c.wsOK, c.snd.scale, c.rcv.scale = false, 0, 0
	}
	full := c.snd.mss + int(c.snd.opt)
	if c.tsOK && !s.HasTS {
		c.tsOK = false
		c.rcv.mss += int(c.snd.opt)
		c.snd.opt = 0
	}
	if s.Flags&(wire.FlagECE|wire.FlagCWR) != wire.FlagECE|wire.FlagCWR {
		c.ecn.on = false
	}
	peer := c.defaultMSS
	if s.MSS != 0 {
		peer = s.MSS
	}
	c.peerMSS = min(c.peerMSS, peer)
	c.snd.mss = max(min(full, int(c.peerMSS)), leastMSS) - int(c.snd.opt)
	c.cc.start(c)
	c.startSendLimit()
}

// startSendLimit sets the initial size of the send buffer. A buffer with auto-tuning starts with at
// most twice the initial congestion window, the ratio that tuneSend keeps. A peer that never opens its
// window costs no more memory than that.
func (c *Conn) startSendLimit() {
	s := &c.snd
	if s.fixed {
		return
	}
	s.limit = c.p.SendBuffer
	if c.p.SendBuffer < c.p.SendBufferMax {
		s.limit = min(s.limit, 2*initialWindow(s.mss))
	}
}

// leastMSS is the lower bound of the MSS, payload and options together (RFC 9293 3.7.1),
// whatever the link or the peer's option says. RFC 791 3.2: "Every internet module must be able
// to forward a datagram of 68 octets without further fragmentation."
const leastMSS = 68 - wire.IPv4Len - wire.TCPLen

// minMSS is the lower bound to which ICMP messages, perhaps forged, and the detection of black
// holes can reduce the payload of a segment.
const minMSS = 48

// minData is the minimum payload of a full segment: SACK blocks that leave less room are not sent.
// A segment of leastMSS with only the Timestamps option has 16 bytes of payload.
const minData = 8

// State returns the state of the connection.
func (c *Conn) State() State { return c.state }

// Err returns why the connection failed, or ErrNone.
func (c *Conn) Err() Err { return c.err }

// Events returns what has changed since the last call.
func (c *Conn) Events() Events {
	e := c.events
	c.events = 0
	return e
}

// MSS returns the payload of a full outgoing segment in bytes.
func (c *Conn) MSS() int { return c.snd.mss }

// Readable returns the number of bytes that Read would return.
func (c *Conn) Readable() int { return c.rcv.buf.n }

// AtEOF reports whether the peer's FIN has arrived and all data before it was read.
func (c *Conn) AtEOF() bool {
	return c.rcv.buf.n == 0 && c.finReceived()
}

// finReceived reports whether RCV.NXT has passed the peer's FIN.
func (c *Conn) finReceived() bool {
	return c.rcv.fin && c.rcv.nxt == c.rcv.finSeq+1
}

// Unacked returns the number of bytes that were written and are not yet acknowledged.
func (c *Conn) Unacked() int { return c.snd.buf.len(c.blocks()) }

// Read copies received data to p and returns the number of bytes, 0 if there is none.
func (c *Conn) Read(now Time, p []byte) int {
	r := &c.rcv
	n := min(len(p), r.buf.n)
	if n == 0 {
		return 0
	}
	x, y := r.buf.slices(0, n)
	copy(p[copy(p, x):], y)
	r.buf.drop(n)
	if r.buf.n == 0 && r.ooo.n == 0 {
		r.buf.free(c.p)
	}
	c.tuneReceive(now)
	c.updateWindow()
	return n
}

// Take removes all readable data together with the ring's storage, without a copy: the data is
// x followed by y, and the caller frees storage with Params.Free. It returns nil if there is no
// data, or if the ring also holds out-of-order data.
func (c *Conn) Take(now Time) (x, y, storage []byte) {
	r := &c.rcv
	if r.buf.n == 0 || r.ooo.n > 0 {
		return nil, nil, nil
	}
	x, y = r.buf.slices(0, r.buf.n)
	storage = r.buf.b
	r.buf = ring{was: int32(len(storage))}
	c.tuneReceive(now)
	c.updateWindow()
	return x, y, storage
}

// Await registers p as the buffer of a waiting reader: the next data in order is copied to it
// directly. The reader must call Awaited before it uses p, and must not call Awaited while BufferTaken
// returns true. Await returns false if another reader is registered.
func (c *Conn) Await(p []byte) bool {
	if c.rcv.await != nil {
		return false
	}
	c.rcv.await, c.rcv.got = p, 0
	return true
}

// Awaited ends Await and returns the number of bytes that were copied to the reader's buffer. These
// bytes count as read. A Readable event has announced them.
func (c *Conn) Awaited(now Time) int {
	r := &c.rcv
	n := r.got
	r.await, r.got = nil, 0
	if n > 0 {
		c.tuneReceive(now)
		c.updateWindow()
	}
	return n
}

// TakeBuffer returns free, the free part of a waiting reader's buffer (zero-copy receive). The caller may
// write the payload of the next in-order segment to the beginning of free, and then pass Segment a segment
// whose Payload is that part of free. Segment does not copy that payload. TakeBuffer returns nil if the
// buffer is already taken or has less than least bytes free, or if earlier data is unread or missing. header
// is the expected length of the segment's TCP header.
//
// The caller owns the buffer until it passes that segment to Segment or calls ReturnBuffer. Until then
// BufferTaken returns true, the Conn does not write to the buffer, and the reader must wait.
func (c *Conn) TakeBuffer(least int) (free []byte, header int) {
	r := &c.rcv
	if r.bufferTaken || len(r.await)-r.got < least || r.buf.n > 0 || c.active != nil && r.ooo.n > 0 {
		return nil, 0
	}
	r.bufferTaken = true
	return r.await[r.got:], wire.TCPLen + int(c.snd.opt)
}

// BufferTaken reports whether TakeBuffer has handed out the reader's buffer.
func (c *Conn) BufferTaken() bool { return c.rcv.bufferTaken }

// ReturnBuffer ends TakeBuffer: the caller no longer writes to the buffer.
func (c *Conn) ReturnBuffer() { c.rcv.bufferTaken = false }

// AckDue reports whether Next will send an acknowledgement. After Read that means a window
// update.
func (c *Conn) AckDue() bool { return c.rcv.ackNow }

// bufferLimit returns limit, or at most minBuffer under memory pressure.
func (c *Conn) bufferLimit(limit int) int {
	if limit > minBuffer && c.p.Pressure != nil && c.p.Pressure() {
		return minBuffer
	}
	return limit
}

// CloseWrite queues a FIN behind the data written so far (RFC 9293 3.10.4). The application may
// still read.
func (c *Conn) CloseWrite(now Time) {
	switch c.state {
	case SynReceived:
		// "queue for processing after entering ESTABLISHED state."
		c.snd.fin = true
	case Established:
		// "Queue this until all preceding SENDs have been segmentized, then form
		// a FIN segment and send it. In any case, enter FIN-WAIT-1 state."
		c.snd.fin = true
		c.state = FinWait1
	case CloseWait:
		c.snd.fin = true
		c.state = LastAck
	}
}

// Close is CloseWrite by an application that will not read any more either. If received data was not
// read, or more arrives later, the connection is reset: RFC 9293 3.10.4 with RFC 1122 4.2.2.13: "If
// such a host issues a CLOSE call while received data is still pending in TCP, or if new data is
// received after CLOSE is called, its TCP SHOULD send a RST to show that data was lost."
func (c *Conn) Close(now Time) {
	c.orphan = true
	switch {
	case c.state == Closed || c.state == SynSent:
		c.die(ErrNone)
	case c.rcv.buf.n > 0:
		// As on Linux, unread data resets the connection even after the peer's FIN. In TIME-WAIT
		// no RST is sent.
		c.abort(c.state != TimeWait)
	default:
		c.dropOutOfOrder() // the application will not read it
		c.CloseWrite(now)
		if c.state == FinWait2 {
			c.timers.wait = now + c.p.FinTimeout
		}
		if c.state == TimeWait {
			c.die(ErrNone)
		}
	}
}

// CloseRead records that the application will not read any more but keeps the Conn. As on Linux,
// arriving data is still accepted while our side is open. If the application has also called CloseWrite,
// arriving data resets the connection.
func (c *Conn) CloseRead() { c.shutRead = true }

// Abort ends the connection at once, with a RST to the peer in the states in which RFC 9293
// 3.10.5 asks for one.
func (c *Conn) Abort(now Time) {
	switch c.state {
	case Closed:
		// The connection has ended already: discard data that was received but not read.
		c.rcv.buf.n = 0
		c.rcv.buf.free(c.p)
	case SynSent, TimeWait:
		c.abort(false) // "respond with an ok and delete the TCB"
	case Closing, LastAck:
		// Delete the TCB without a RST only if all data and our FIN were sent. Unsent data is lost, and
		// without a RST the peer would wait for that data. Linux sends a RST too.
		c.abort(c.hasUnsent())
	default:
		c.abort(true)
	}
}

// abort ends the connection at once, with or without a RST.
func (c *Conn) abort(reset bool) {
	if reset {
		c.failReset(ErrAborted)
	} else {
		c.fail(ErrAborted)
	}
}

// HardError ends the connection with an error from outside, such as an ICMP message that
// answers the SYN.
func (c *Conn) HardError(now Time, e Err) {
	if c.state != Closed {
		c.fail(e)
	}
}

// SoftError records an error that may be transient (RFC 9293 3.9.2.2: "MUST NOT abort the
// connection"). If the connection times out later, that error is reported.
func (c *Conn) SoftError(e Err) { c.soft = e }

// failReset ends the connection with an error, as fail does, and makes Next send a RST with a sequence
// number that the peer accepts.
func (c *Conn) failReset(e Err) {
	seq := c.snd.nxt
	if c.state.synchronized() {
		seq = c.ackSeq()
	}
	c.rstUnsent, c.rcv.rstNow, c.rcv.rstSeq = true, false, uint32(seq)
	c.fail(e)
	c.events &^= Dead // reported when Next has returned the RST
}

// fail ends the connection with an error and wakes blocked callers.
func (c *Conn) fail(e Err) {
	if c.err == ErrNone {
		c.err = e
	}
	c.events |= Failed | Readable | Writable
	c.die(e)
}

// die enters CLOSED, stops all timers and frees all memory except that of received data.
func (c *Conn) die(e Err) {
	// half: the handshake is not complete, so no application can read data that came with the SYN.
	half := c.state == SynSent || c.state == SynReceived
	if half {
		c.count(AttemptFails)
	} else if c.state == Established || c.state == CloseWait {
		c.count(EstabResets)
	}
	if c.state != Closed {
		c.last = c.state
	}
	c.state = Closed
	c.timers = timers{}
	c.synUnsent = false
	c.snd.buf.clear(c.blocks())
	c.snd.buf.ring.free(c.p)
	c.cc.release()
	c.pl = nil
	if c.active != nil {
		c.sb.release()
		c.rcv.ooo = oooQueue{}
		c.rcv.nsack = 0
	}
	c.rcv.ackNow = false
	// Acknowledged data stays readable after a reset or a timeout, unless the
	// application has aborted or closed the connection.
	if e == ErrAborted || c.orphan || half {
		c.rcv.buf.n = 0
		c.rcv.buf.free(c.p)
	}
	c.events |= Dead
}

// End returns why the Conn has ended, and the state in which it was before CLOSED, which is CLOSED if the Conn was
// never opened. After the FINs of both sides, the error is ErrNone. Otherwise it is Err, but with the cause where Err
// tells the application something else: ErrReset for a RST after the peer's FIN, ErrTimedOut for an orphan whose peer
// has sent no FIN, ErrRefused for a passive open that the peer has given up, and ErrAborted for an active open that
// the application has given up. In other states than CLOSED, End returns the state and Err.
func (c *Conn) End() (State, Err) {
	if c.state != Closed {
		return c.state, c.err
	}
	e := c.err
	switch c.last {
	case SynSent:
		e = cmp.Or(e, ErrAborted)
	case SynReceived:
		e = cmp.Or(e, ErrRefused)
	case FinWait2:
		e = cmp.Or(e, ErrTimedOut)
	case Closing:
		e = cmp.Or(e, ErrReset) // without a RST, TIME-WAIT would have followed
	case LastAck:
		if !c.snd.finSent || c.snd.una != c.snd.nxt {
			e = cmp.Or(e, ErrReset)
		}
	case CloseWait:
		if e == ErrPipe {
			e = ErrReset
		}
	}
	return c.last, e
}

// SetNoDelay turns Nagle's algorithm off (true) or on (RFC 9293 3.7.4).
func (c *Conn) SetNoDelay(on bool) { c.noDelay = on }

// KeepAlive returns the keep-alive setting.
func (c *Conn) KeepAlive() KeepAlive {
	return KeepAlive{Idle: c.keepIdle, Interval: c.keepInterval, Count: int(c.keepCount)}
}

// SetKeepAlive changes the keep-alive setting. If k.Idle <= 0, keep-alive is off.
func (c *Conn) SetKeepAlive(now Time, k KeepAlive) {
	c.keepIdle, c.keepInterval = k.Idle, k.Interval
	c.keepCount = uint8(min(max(k.Count, 1), 255))
	c.timers.keepProbes = 0
}

// SetUserTimeout sets how long data may stay unacknowledged before the connection fails. If d
// is 0, Params.Retries is the limit. RFC 9293 3.8.3: "An application MUST (MUST-21) be able to
// set the value for R2 for a particular connection."
func (c *Conn) SetUserTimeout(d Time) { c.userTimeout = d }

// SetSendLimit sets the send buffer's size in bytes and turns auto-tuning off. Queued data
// stays, even if it exceeds n.
func (c *Conn) SetSendLimit(n int) {
	c.snd.limit, c.snd.fixed = n, true
	if c.snd.full && c.WriteSpace() > 0 {
		c.snd.full = false
		c.events |= Writable
	}
}

// SetRecvLimit sets the receive buffer's size in bytes and turns auto-tuning off. It does not take
// back a window that was advertised. RFC 9293 3.8.6: "A TCP receiver SHOULD NOT shrink the window".
func (c *Conn) SetRecvLimit(n int) {
	c.rcv.limit, c.rcv.fixed = n, true
	c.updateWindow()
}

// timers holds the deadlines of the timers; 0 means that a timer is off.
type timers struct {
	rtx     Time // retransmission timeout, tail loss probe or reordering timer, see rtxKind
	rto     Time // deadline of the retransmission timeout, even while rtx is the deadline of a tail loss probe
	ack     Time // delayed acknowledgement
	persist Time // zero window, or a window too small to use
	wait    Time // end of an orphan's FIN-WAIT-2, or of TIME-WAIT

	keepAt Time // when the last keep-alive probe was sent

	rtxKind    timerKind
	backoff    uint8 // doublings of the retransmission timeout
	persists   uint8 // doublings of the persist timeout: probes since the window shut
	probes     uint8 // zero-window probes without an answer
	keepProbes uint8 // keep-alive probes without an answer
	keepNow    bool  // Next must send a keep-alive probe
	probeNow   bool  // Next must send a zero-window probe, or as much as a small window allows
}

type timerKind uint8

const (
	rtxRTO timerKind = iota
	rtxTLP
	rtxReorder
)

// Deadline returns the time at which Tick must be called, and false if no timer is set.
func (c *Conn) Deadline() (Time, bool) {
	t := &c.timers
	d := earliest(earliest(t.rtx, t.ack), earliest(t.persist, t.wait))
	d = earliest(d, earliest(c.keepDeadline(), c.cc.pace.deadline()))
	if c.active != nil {
		d = earliest(d, c.awaitAcksBy)
	}
	d = earliest(d, c.giveUpDeadline())
	return d, d != 0
}

// earliest returns the earlier of two deadlines. A deadline of 0 is never.
func earliest(a, b Time) Time {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// keepDeadline returns the time of the next keep-alive probe, or 0. RFC 9293 3.8.4: "Keep-alive packets
// MUST only be sent when no sent data is outstanding, and no data or acknowledgment packets have been
// received for the connection within an interval". As on Linux, no keep-alive probes are sent while
// data waits for the peer's window either: zero-window probes are sent instead.
func (c *Conn) keepDeadline() Time {
	if c.keepIdle <= 0 || c.snd.una != c.snd.nxt || c.hasUnsent() || !c.state.synchronized() || c.state == TimeWait {
		return 0
	}
	if c.timers.keepProbes > 0 {
		return c.timers.keepAt + max(c.keepInterval, Millisecond)
	}
	return c.rcv.last + c.keepIdle
}

// giveUpDeadline returns the time at which the user timeout ends the connection, or 0. The user timeout
// has a deadline of its own, because retransmissions may be two minutes apart.
func (c *Conn) giveUpDeadline() Time {
	if c.userTimeout <= 0 || !c.state.synchronized() || c.state == TimeWait {
		return 0
	}
	// The user timeout runs only while data is in flight or a zero window is probed.
	if t := &c.timers; c.snd.una == c.snd.nxt && !(c.snd.wnd == 0 && (t.persist != 0 || t.probeNow)) {
		return 0
	}
	return c.snd.progress + c.userTimeout
}

// Tick handles the timers that have expired. It may be called at any time, late or early.
func (c *Conn) Tick(now Time) {
	t := &c.timers
	if d := c.cc.pace.deadline(); d != 0 && now >= d {
		c.cc.pace.release() // the caller calls Next now
	}
	if t.wait != 0 && now >= t.wait {
		t.wait = 0
		c.die(ErrNone)
		return
	}
	if d := c.giveUpDeadline(); d != 0 && now >= d {
		c.timedOut()
		return
	}
	if t.ack != 0 && now >= t.ack {
		if c.holdsAck() {
			c.rcv.thin.late(now, c.rcv.lastData)
		} else {
			c.rcv.pingpong = false // the application did not reply in time
		}
		t.ack = 0
		c.count(DelayedACKs)
		c.rcv.ackNow = true
	}
	if t.rtx != 0 && now >= t.rtx {
		t.rtx = 0
		c.rtxExpired(now)
	}
	if t.persist != 0 && now >= t.persist {
		t.persist = 0
		c.persistExpired()
	}
	if c.state == Closed {
		return
	}
	if c.active != nil && c.awaitAcksBy != 0 && now >= c.awaitAcksBy {
		c.endAwaitAcks()
	}
	if d := c.keepDeadline(); d != 0 && now >= d {
		c.keepExpired(now)
	}
}

// TickHalfOpen is Tick with a limit on the retransmissions of a passive open's SYN,ACK that may
// be lower than Params.SynAckRetries.
func (c *Conn) TickHalfOpen(now Time, retries uint8) {
	t := &c.timers
	if c.state == SynReceived && c.passive && t.backoff >= retries && t.rtx != 0 && now >= t.rtx {
		c.timedOut()
		return
	}
	c.Tick(now)
}

// keepExpired schedules a keep-alive probe, or ends the connection if too many probes were not
// answered.
func (c *Conn) keepExpired(now Time) {
	t := &c.timers
	if int(t.keepProbes) >= int(c.keepCount) {
		c.timedOut()
		return
	}
	t.keepProbes++
	t.keepAt = now
	t.keepNow = true
	// The connection is idle: free memory.
	c.cc.release()
	if c.active != nil {
		c.sb.shrink(0)
		if c.rcv.ooo.n == 0 {
			c.rcv.ooo = oooQueue{}
		}
	}
}

// timedOut ends the connection because the peer does not answer.
func (c *Conn) timedOut() {
	c.count(AbortOnTimeout)
	e := ErrTimedOut
	if c.soft != ErrNone {
		e = c.soft
	}
	if c.state.synchronized() {
		c.failReset(e)
	} else {
		c.fail(e)
	}
}

// SetGSO changes the maximum payload of a super-segment, in bytes; 0 turns super-segments off.
func (c *Conn) SetGSO(n int) { c.snd.gso = int32(n) }

// InFlight reports whether seq was sent and is not yet acknowledged.
func (c *Conn) InFlight(seq Seq) bool {
	return c.state != Closed && c.snd.una.LessEq(seq) && seq.Less(c.snd.nxt)
}
