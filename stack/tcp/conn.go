package tcp

import (
	"github.com/usernet/usernet/stack/wire"
)

// A Conn is one connection: the TCB of RFC 9293 3.3.1, and what loss recovery,
// congestion control and the timers need. Make it with Open or Accept.
//
//	Send sequence space                  Receive sequence space
//
//	     1         2          3               1          2          3
//	----------|----------|----------      ----------|----------|----------
//	       SND.UNA    SND.NXT    SND.UNA         RCV.NXT    RCV.NXT
//	                            +SND.WND                   +RCV.WND
//
//	1 acknowledged   2 sent   3 may be sent      1 received   2 may come   3 not yet
type Conn struct {
	p     *Params
	state State
	err   Err
	soft  Err // last soft error, reported if the connection then times out

	events Events

	passive   bool // came from Accept
	orphan    bool // the application has closed: nobody will read
	shutRead  bool // CloseRead: nobody will read what comes once our side is closed too
	noDelay   bool
	synUnsent bool // a SYN or SYN,ACK is to be sent now
	rstUnsent bool // a RST is to be sent now, and then the Conn is dead

	sackOK bool // SACK permitted by both sides (RFC 2018 2)
	tsOK   bool // timestamps on every segment (RFC 7323 3.2)
	wsOK   bool // windows are scaled (RFC 7323 2.2)
	ecn    ecnState

	retrans uint32 // segments sent again, ever

	snd sendState
	rcv recvState
	rtt rttEstimator
	cc  congestionState

	*active          // nil while the Conn is idle: see activate
	pl      *plpmtud // nil unless larger segments are searched for

	timers timers
	keep   KeepAlive
	giveUp Time // the user timeout; 0: Retries decides

	delivered uint64 // bytes known to have arrived, ever
}

type sendState struct {
	iss      Seq
	una      Seq    // oldest number not yet acknowledged; what is in buf begins here (or at iss+1)
	nxt      Seq    // next number to be sent for the first time: it never goes back
	wnd      uint32 // window last offered by the peer, scaled, from una
	maxWnd   uint32 // the largest it ever offered (MAX.SND.WND of RFC 5961 5.2)
	wl1      Seq    // SEG.SEQ of the last window update
	wl2      Seq    // SEG.ACK of the last window update
	tsOffset uint32

	mss  int // payload bytes of a full segment: options already taken off
	gso  int // most payload bytes in a super-segment; 0: none
	peer int // MSS that the peer announced, without options

	buf   sendQueue
	limit int // bytes that buf may hold

	lastData Time // when data was last sent, for the idle restart; before that, the SYN
	progress Time // when SND.UNA last moved, something was first in flight, or the window was found shut

	scale    uint8 // Snd.Wind.Shift
	opt      uint8 // bytes of options on every segment
	fixed    bool  // the application has set limit: it is not tuned
	fin      bool  // a FIN follows the last byte of buf
	finSent  bool
	full     bool // Write took less than it was given: the application waits
	synAgain bool // the SYN was sent more than once: its round-trip time is ambiguous
}

type recvState struct {
	irs    Seq
	nxt    Seq    // next number expected
	edge   Seq    // right edge of the window that was advertised: RCV.NXT+RCV.WND
	synWnd uint16 // the window of our SYN, which is never scaled (RFC 7323 2.2)
	scale  uint8  // Rcv.Wind.Shift
	quick  uint8  // segments that are still acknowledged at once

	mss      int    // payload bytes of a full segment that comes in, an estimate
	announce uint32 // the MSS option of our SYN
	unacked  uint32 // bytes received and not yet acknowledged

	buf   ring
	await []byte // a waiting reader's buffer, which text in order goes to at once
	got   int    // bytes in await
	limit int    // bytes that buf may hold

	*arrivals // in Conn.active; nil while the Conn is idle

	last        Time // when a segment last came that the peer must have sent
	lastData    Time // when text in the window last came
	tsRecentAt  Time
	challengeAt Time // when the second began in which there were so many challenges: see replyAllowed

	lastAck  Seq    // Last.ACK.sent
	tsRecent uint32 // TS.Recent of RFC 7323 4.3
	markTS   uint32 // what TS.Recent was once, and
	markSeq  Seq    // the number that the segment began with which it came from: see overtaken
	finSeq   Seq    // number of the FIN
	rstSeq   uint32 // of the RST that is to be sent

	challenges uint8
	fixed      bool // the application has set limit: it is not tuned
	fin        bool // a FIN has come, with finSeq
	edgeMoved  bool // edge is no longer the one that the SYN advertised
	rstNow     bool // a RST with rstSeq answers a bad acknowledgement
	ackNow     bool // an acknowledgement is due at once
	chatty     bool // the application answers: an acknowledgement can ride on its data
	placing    bool // what follows got in await is another's to write to
}

// A block is the sequence numbers from start up to, not including, end.
type block struct{ start, end Seq }

// Open begins an active open: Next has the SYN.
func (c *Conn) Open(now Time, cfg Config) {
	c.init(now, cfg)
	c.state = SynSent
	c.synUnsent = true
	c.snd.nxt = c.snd.iss + 1
}

// Accept begins a passive open for a SYN that a listener took: Next has the
// SYN,ACK.
func (c *Conn) Accept(now Time, cfg Config, syn *Segment) {
	c.init(now, cfg)
	c.passive = true
	c.state = SynReceived
	c.synUnsent = true
	c.snd.nxt = c.snd.iss + 1
	c.takeSyn(now, syn)
	c.takeOptions(syn)
	c.snd.wnd = uint32(syn.Window)
	c.snd.maxWnd = c.snd.wnd
	// RFC 9293 3.10.7.2: "If there are other controls or text in the segment,
	// then queue it for processing later" - text is taken now, and acknowledged.
	if syn.DataLen() > 0 || syn.has(wire.FlagFIN) {
		c.takeData(now, Seq(syn.Seq)+1, syn)
	}
}

// AcceptCookie is Accept for a connection whose SYN was answered without a
// Conn, by a SYN cookie. syn is what the cookie tells of it, and cfg.ISS is the
// cookie; the segment that brought it is given to Segment next.
func (c *Conn) AcceptCookie(now Time, cfg Config, syn *Segment) {
	c.Accept(now, cfg, syn)
	c.synUnsent = false
}

// WindowScale is Rcv.Wind.Shift: it lets the largest buffer be advertised
// (RFC 7323 2.3: at most 14).
func (p *Params) WindowScale() uint8 {
	var shift uint8
	for shift < 14 && 65535<<shift < max(p.RecvBufferMax, p.RecvBuffer) {
		shift++
	}
	return shift
}

func (c *Conn) init(now Time, cfg Config) {
	*c = Conn{}
	c.p, c.noDelay, c.keep, c.giveUp = cfg.Params, cfg.NoDelay, cfg.Keep, cfg.UserTimeout
	s := &c.snd
	s.iss, s.una, s.nxt = cfg.ISS, cfg.ISS, cfg.ISS
	s.tsOffset = cfg.TSOffset
	s.mss = cfg.MSS
	s.peer = defaultMSS
	s.gso = cfg.GSO
	c.startSendLimit()
	c.rcv.limit = c.p.RecvBuffer
	c.rcv.synWnd = uint16(min(c.bufferLimit(c.rcv.limit), 65535))
	c.rcv.mss, c.rcv.announce = cfg.MSS, uint32(cfg.MSS)
	if cfg.AdvMSS > 0 {
		// RFC 9293 3.7.1: the option tells what can be received, "MMS_R - 20", and
		// not what is known of the path, which may be another one in that direction.
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

// defaultMSS: RFC 9293 3.7.1: "If an MSS Option is not received at connection
// setup, TCP implementations MUST assume a default send MSS of 536 (576-40) for
// IPv4 or 1220 (1280 - 60) for IPv6".
const defaultMSS = 536

// takeSyn records the numbers of the peer's SYN.
func (c *Conn) takeSyn(now Time, s *Segment) {
	r := &c.rcv
	r.irs = Seq(s.Seq)
	r.nxt = r.irs + 1
	r.lastAck = r.nxt
	r.drs.seq, r.drs.at = r.nxt, now
	// The window that goes out on the SYN,ACK or on the ACK that follows.
	r.edge = r.nxt + Seq(r.synWnd)
	r.maxEdge = r.edge
}

// takeOptions settles the options of a SYN (RFC 7323 2.2 and 3.2, RFC 2018 2).
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
		c.snd.opt = 12
	}
	c.ecnSetup(s)
	if s.MSS != 0 {
		c.snd.peer = int(s.MSS)
	}
	// RFC 9293 3.7.1: Eff.snd.MSS = min(SendMSS+20, MMS_S) - TCPhdrsize - IPoptionsize
	c.snd.mss = max(min(c.snd.mss, c.snd.peer), leastMSS) - int(c.snd.opt)
	c.rcv.mss = max(c.rcv.mss, leastMSS) - int(c.snd.opt)
	c.cc.start(c)
	c.startSendLimit()
}

// withdrawOptions takes back what a SYN that comes again does not offer any more.
// Clients leave options off after some tries, in case they are why nobody answers. To
// one that has done so timestamps and SACK blocks mean nothing, and its windows are
// not scaled. What a SYN offers that the first did not is not taken: an old duplicate
// would not be told from it.
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
	peer := defaultMSS
	if s.MSS != 0 {
		peer = int(s.MSS)
	}
	c.snd.peer = min(c.snd.peer, peer)
	c.snd.mss = max(min(full, c.snd.peer), leastMSS) - int(c.snd.opt)
	c.cc.start(c)
	c.startSendLimit()
}

// startSendLimit sets what the send buffer holds at first. One that is tuned begins with
// twice the initial window, so that what is acknowledged can be followed at once, as
// tuneSend keeps it: a peer that never opens its window costs no more than that.
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

// leastMSS is the least that the link, or the peer's option, can make of a segment:
// text and options (RFC 9293 3.7.1). RFC 791 3.2: "Every internet module must be able
// to forward a datagram of 68 octets without further fragmentation."
const leastMSS = 68 - wire.IPv4Len - wire.TCPLen

// minMSS is the least text that a forged ICMP message, or a black hole, can make of it.
const minMSS = 48

// leastText is the least text of a full segment: of SACK blocks it carries no more
// than leave so much. Timestamps and leastMSS do.
const leastText = 8

// State is the connection's state.
func (c *Conn) State() State { return c.state }

// Err says why the connection broke, or ErrNone.
func (c *Conn) Err() Err { return c.err }

// Events returns what has changed since it was last called.
func (c *Conn) Events() Events {
	e := c.events
	c.events = 0
	return e
}

// MSS is the payload of a full segment that goes out, in bytes.
func (c *Conn) MSS() int { return c.snd.mss }

// Readable is the number of bytes that Read would return.
func (c *Conn) Readable() int { return c.rcv.buf.n }

// AtEOF reports that the peer's FIN has come and everything before it was read.
func (c *Conn) AtEOF() bool {
	return c.rcv.buf.n == 0 && c.finReceived()
}

// finReceived tells that the peer's FIN has been reached in sequence.
func (c *Conn) finReceived() bool {
	return c.rcv.fin && c.rcv.nxt == c.rcv.finSeq+1
}

// Unacked is what was written and not yet acknowledged, in bytes.
func (c *Conn) Unacked() int { return c.snd.buf.len() }

// Read takes received bytes in order. It returns 0 where there are none.
func (c *Conn) Read(now Time, p []byte) int {
	r := &c.rcv
	n := min(len(p), r.buf.n)
	if n == 0 {
		return 0
	}
	x, y := r.buf.slices(0, n)
	copy(p[copy(p, x):], y)
	r.buf.drop(n)
	if r.buf.n == 0 && len(r.ooo) == 0 {
		r.buf.giveBack(c.p)
	}
	c.tuneReceive(now)
	c.updateWindow()
	return n
}

// Take takes all that can be read, where it lies: x and then y, in storage that
// the caller gives back with Params.Free. It returns nil where there is nothing, or
// where there is more than that, behind a hole.
func (c *Conn) Take(now Time) (x, y, storage []byte) {
	r := &c.rcv
	if r.buf.n == 0 || len(r.ooo) > 0 {
		return nil, nil, nil
	}
	x, y = r.buf.slices(0, r.buf.n)
	storage = r.buf.b
	r.buf = ring{was: int32(len(storage))}
	c.tuneReceive(now)
	c.updateWindow()
	return x, y, storage
}

// Await offers p for what comes next in order, so that it is copied once; the
// caller waits, and takes p back with Awaited, while not Placing, before it uses it. It reports
// false when somebody else waits already.
func (c *Conn) Await(p []byte) bool {
	if c.rcv.await != nil {
		return false
	}
	c.rcv.await, c.rcv.got = p, 0
	return true
}

// Awaited ends what Await began, and returns how many bytes have come. They were
// read: a Readable event told of them.
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

// Place returns the free part of a waiting reader's buffer (zero-copy receive). The caller may
// write the payload of the next segment in order there, and then pass the segment to Segment
// with that memory as its Payload, which is not copied. Place returns nil if the buffer has
// less than least bytes free, or if data could not be placed in order. header is the expected
// length of the segment's TCP header.
//
// Until that segment or a call of Placed, only the caller writes to the buffer, and the reader
// must wait while Placing reports true.
func (c *Conn) Place(least int) (room []byte, header int) {
	r := &c.rcv
	if r.placing || len(r.await)-r.got < least || r.buf.n > 0 || c.active != nil && len(r.ooo) > 0 {
		return nil, 0
	}
	r.placing = true
	return r.await[r.got:], wire.TCPLen + int(c.snd.opt)
}

// Placing reports whether Place has handed out the reader's buffer.
func (c *Conn) Placing() bool { return c.rcv.placing }

// Placed takes back the buffer that Place returned.
func (c *Conn) Placed() { c.rcv.placing = false }

// AckDue reports whether an acknowledgement is to be sent at once: after Read, that
// the window has opened.
func (c *Conn) AckDue() bool { return c.rcv.ackNow }

// bufferLimit returns limit, or at most minBuffer under memory pressure.
func (c *Conn) bufferLimit(limit int) int {
	if limit > minBuffer && c.p.Pressure != nil && c.p.Pressure() {
		return minBuffer
	}
	return limit
}

// CloseWrite queues a FIN behind what was written (RFC 9293 3.10.4). The
// application may go on reading.
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

// Close is CloseWrite by an application that will not read any more either.
// Data that has come and was not read, or that comes now, is answered with a
// RST: RFC 9293 3.10.4 with RFC 1122 4.2.2.13: "If such a host issues a CLOSE
// call while received data is still pending in TCP, or if new data is received
// after CLOSE is called, its TCP SHOULD send a RST to show that data was lost."
func (c *Conn) Close(now Time) {
	c.orphan = true
	switch {
	case c.state == Closed || c.state == SynSent:
		c.die(ErrNone)
	case c.rcv.buf.n > 0:
		// As on Linux that holds for what came before the peer's FIN, too.
		c.abort(c.state != TimeWait)
	default:
		c.dropOutOfOrder() // nobody will read it
		c.CloseWrite(now)
		if c.state == FinWait2 {
			c.timers.wait = now + c.p.FinTimeout
		}
		if c.state == TimeWait {
			c.die(ErrNone)
		}
	}
}

// CloseRead tells that the application will not read any more, though it holds
// the Conn. As with Linux that changes nothing while our side is open; data that comes
// after CloseWrite breaks the connection, and the peer gets a RST.
func (c *Conn) CloseRead() { c.shutRead = true }

// Abort ends the connection at once; the peer is sent a RST where it has one
// to get (RFC 9293 3.10.5).
func (c *Conn) Abort(now Time) {
	switch c.state {
	case Closed:
		// It broke before, and what had come by then will not be read.
		c.rcv.buf.n = 0
		c.rcv.buf.giveBack(c.p)
	case SynSent, TimeWait:
		c.abort(false) // "respond with an ok and delete the TCB"
	case Closing, LastAck:
		// The same, where the peer gets all that we have sent, our FIN included. What
		// waits behind its window will not come, and without a reset the peer would
		// wait for it; Linux sends one too.
		c.abort(c.waits())
	default:
		c.abort(true)
	}
}

// abort ends the connection at once, with a RST or without.
func (c *Conn) abort(reset bool) {
	if reset {
		c.failReset(ErrAborted)
	} else {
		c.fail(ErrAborted)
	}
}

// HardError ends the connection for a reason that came from outside, such as an
// ICMP message that answers its SYN.
func (c *Conn) HardError(now Time, e Err) {
	if c.state != Closed {
		c.fail(e)
	}
}

// SoftError notes a reason that may pass (RFC 9293 3.9.2.2: "MUST NOT abort
// the connection"); a timeout later is reported as it.
func (c *Conn) SoftError(e Err) { c.soft = e }

// failReset is fail with a RST to the peer, which stands where the peer takes it.
func (c *Conn) failReset(e Err) {
	seq := c.snd.nxt
	if c.state.synchronized() {
		seq = c.ackSeq()
	}
	c.rstUnsent, c.rcv.rstNow, c.rcv.rstSeq = true, false, uint32(seq)
	c.fail(e)
	c.events &^= Dead // until Next has given the RST
}

// fail breaks the connection: blocked callers learn why.
func (c *Conn) fail(e Err) {
	if c.err == ErrNone {
		c.err = e
	}
	c.events |= Failed | Readable | Writable
	c.die(e)
}

// die ends the Conn: state CLOSED, no timer, no memory but what was received.
func (c *Conn) die(e Err) {
	// Text that came with a SYN: nobody has the connection to read it from.
	half := c.state == SynSent || c.state == SynReceived
	c.state = Closed
	c.timers = timers{}
	c.synUnsent = false
	c.snd.buf.clear()
	c.snd.buf.ring.giveBack(c.p)
	c.cc.release()
	c.pl = nil
	if c.active != nil {
		c.sb.release()
		c.rcv.ooo = nil
		c.rcv.nsack = 0
	}
	c.rcv.ackNow = false
	// What was acknowledged to the peer stays readable after a reset or a
	// timeout. Only an application that wants no more loses it.
	if e == ErrAborted || c.orphan || half {
		c.rcv.buf.n = 0
		c.rcv.buf.giveBack(c.p)
	}
	c.events |= Dead
}

// SetNoDelay turns Nagle's algorithm off (true) or on (RFC 9293 3.7.4).
func (c *Conn) SetNoDelay(on bool) { c.noDelay = on }

// KeepAlive is the setting of the keep-alive.
func (c *Conn) KeepAlive() KeepAlive { return c.keep }

// SetKeepAlive changes the keep-alive; an Idle that is not positive turns it off.
func (c *Conn) SetKeepAlive(now Time, k KeepAlive) {
	c.keep = k
	c.timers.keepProbes = 0
}

// SetUserTimeout sets how long data may stay unacknowledged before the
// connection is given up; 0: Retries decides. RFC 9293 3.8.3: "An application
// MUST (MUST-21) be able to set the value for R2 for a particular connection."
func (c *Conn) SetUserTimeout(d Time) { c.giveUp = d }

// SetSendLimit fixes the send buffer's size in bytes. What is queued stays.
func (c *Conn) SetSendLimit(n int) {
	c.snd.limit, c.snd.fixed = n, true
	if c.snd.full && c.WriteSpace() > 0 {
		c.snd.full = false
		c.events |= Writable
	}
}

// SetRecvLimit fixes the receive buffer's size in bytes. What was advertised
// stays advertised: RFC 9293 3.8.6: "A TCP receiver SHOULD NOT shrink the
// window".
func (c *Conn) SetRecvLimit(n int) {
	c.rcv.limit, c.rcv.fixed = n, true
	c.updateWindow()
}

// timers hold a deadline each; 0 is off.
type timers struct {
	rtx     Time // retransmission, probe or reordering, as rtxKind says
	rto     Time // when the retransmission timeout comes, if rtx is a probe before it
	ack     Time // delayed acknowledgement
	persist Time // zero window, or a window too small to use
	wait    Time // FIN-WAIT-2 of an orphan, and TIME-WAIT

	keepAt Time // when the last keep-alive probe was sent

	rtxKind    timerKind
	backoff    uint8 // doublings of rtx
	persists   uint8 // doublings of persist: probes since the window shut
	probes     uint8 // zero-window probes without an answer
	keepProbes uint8 // keep-alive probes without an answer
	keepNow    bool  // one is to be sent
	probeNow   bool  // a zero-window probe, or what a small window allows, is to be sent
}

type timerKind uint8

const (
	rtxRTO timerKind = iota
	rtxTLP
	rtxReorder
)

// Deadline is when Tick wants to be called, and whether it does at all.
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

func earliest(a, b Time) Time {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// keepDeadline is when the next keep-alive probe is due. RFC 9293 3.8.4:
// "Keep-alive packets MUST only be sent when no sent data is outstanding, and
// no data or acknowledgment packets have been received for the connection
// within an interval". As on Linux, data that waits for the window counts as well:
// it has its own probes.
func (c *Conn) keepDeadline() Time {
	if c.keep.Idle <= 0 || c.snd.una != c.snd.nxt || c.waits() || !c.state.synchronized() || c.state == TimeWait {
		return 0
	}
	if c.timers.keepProbes > 0 {
		return c.timers.keepAt + max(c.keep.Interval, Millisecond)
	}
	return c.rcv.last + c.keep.Idle
}

// giveUpDeadline is when the user timeout ends the connection, unless something is
// acknowledged before. It does not wait for a retransmission: those are up to two
// minutes apart.
func (c *Conn) giveUpDeadline() Time {
	if c.giveUp <= 0 || !c.state.synchronized() || c.state == TimeWait {
		return 0
	}
	if t := &c.timers; c.snd.una == c.snd.nxt && !(c.snd.wnd == 0 && (t.persist != 0 || t.probeNow)) {
		return 0
	}
	return c.snd.progress + c.giveUp
}

// Tick runs what is due. It may come at any time, late or for nothing.
func (c *Conn) Tick(now Time) {
	t := &c.timers
	if d := c.cc.pace.deadline(); d != 0 && now >= d {
		c.cc.pace.release() // Next is pulled now
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
		t.ack = 0
		c.rcv.ackNow = true
		c.rcv.chatty = false
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

// TickHalfOpen is Tick for a passive open whose SYN,ACK is not to be sent again more than
// retries times, where that is less than Params.SynAckRetries.
func (c *Conn) TickHalfOpen(now Time, retries uint8) {
	t := &c.timers
	if c.state == SynReceived && c.passive && t.backoff >= retries && t.rtx != 0 && now >= t.rtx {
		c.timedOut()
		return
	}
	c.Tick(now)
}

func (c *Conn) keepExpired(now Time) {
	t := &c.timers
	if int(t.keepProbes) >= min(max(c.keep.Count, 1), 255) {
		c.timedOut()
		return
	}
	t.keepProbes++
	t.keepAt = now
	t.keepNow = true
	// It is idle: nothing is in flight, and nothing came for a while.
	c.cc.release()
	if c.active != nil {
		c.sb.shrink(0)
		if len(c.rcv.ooo) == 0 {
			c.rcv.ooo = nil
		}
	}
}

// timedOut ends a connection whose peer does not answer.
func (c *Conn) timedOut() {
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

// SetGSO changes the most payload bytes of one outgoing segment; 0: no
// super-segments.
func (c *Conn) SetGSO(n int) { c.snd.gso = n }

// InFlight reports whether seq is a number that was sent and is not yet
// acknowledged.
func (c *Conn) InFlight(seq Seq) bool {
	return c.state != Closed && c.snd.una.LessEq(seq) && seq.Less(c.snd.nxt)
}
