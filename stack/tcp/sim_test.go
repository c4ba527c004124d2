package tcp

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/usernet/usernet/stack/wire"
)

// The pair simulation has two Conns, a wire with the faults of real wires, and two applications that
// act at random. simOptions determine a run completely, so the options of a failing run reproduce the
// failure. TestSimulation simplifies the options of a failing run before it prints them.

// simOptions are the options of a run.
type simOptions struct {
	Seed               uint64
	Delay, Jitter      Time    // minimum delay of the wire, and maximum extra delay of a reordered segment
	Loss, Dup, Reorder float64 // probabilities for each segment
	Merge              bool    // the receivers merge segments, as with GRO
	LatePull           float64 // probability that a host calls Next only some time after an event
	SimOpen            bool    // both sides open the connection actively
	Cookie             bool    // the passive side answers the SYN with a cookie
	CE                 float64 // probability that a router marks a segment with ECT
	Waiters            bool    // TIME-WAIT uses a Waiter
	Numbers            simNumbers
	Old                bool // almost 2^32 bytes were transferred before: SND.UNA passes ISS, and RCV.NXT passes IRS
	Side               [2]simSide
}

// simSide are the options of one host and its application.
type simSide struct {
	MSS, GSO                    int
	Total                       int  // bytes to write
	Chunk, Bite                 int  // maximum size of a write, and of a read
	Pause                       Time // maximum time between two calls
	Late                        Time // time before the first read
	Recv, RecvMax               int
	Send, SendMax               int
	NoSACK, NoTS, NoWS, NewReno bool
	BBR                         bool // use BBR instead of CUBIC
	NoDelay, ECN, Await         bool // Await: a reader without data registers its buffer
	Pressure                    bool // memory pressure occurs from time to time
	End                         simEnd
	AbortAt                     Time // time of the Abort, for endAbort
	Keep                        KeepAlive
	Fiddle                      bool // change buffer limits, Nagle and the path MTU at random
}

// simEnd is the way in which an application ends.
type simEnd uint8

const (
	endPolitely simEnd = iota // CloseWrite, read to EOF, Close
	endClose                  // Close after the last write, even if the peer still sends
	endAbort                  // Abort at AbortAt
	endFirst                  // CloseWrite only after the peer's EOF, then Close
)

// simNumbers selects the initial sequence numbers. Half of them are random; simNumbers applies to the
// other half.
type simNumbers uint8

const (
	simWrap   simNumbers = iota // the numbers wrap within 100,000 bytes
	simAtOnce                   // the number of the SYN, or of the first text, wraps
	simSign                     // the numbers pass 2^31 within 100,000 bytes
)

// randomOptions returns the options for a seed.
func randomOptions(seed uint64) simOptions {
	r := rand.New(rand.NewPCG(seed, 2))
	chance := func(p float64) bool { return r.Float64() < p }
	o := simOptions{
		Seed: seed, Merge: chance(0.3), SimOpen: chance(0.15), Waiters: chance(0.5), Cookie: chance(0.1),
		Delay: [...]Time{0, 50 * Microsecond, Millisecond, 20 * Millisecond, 150 * Millisecond}[r.IntN(5)],
	}
	if chance(0.7) {
		o.Loss = [...]float64{0.01, 0.05, 0.15, 0.3}[r.IntN(4)]
	}
	if chance(0.4) {
		o.Dup = 0.2 * r.Float64()
	}
	if chance(0.5) {
		o.Reorder = 0.4 * r.Float64()
		o.Jitter = [...]Time{10 * Microsecond, Millisecond, 30 * Millisecond, 400 * Millisecond}[r.IntN(4)]
	}
	if chance(0.3) {
		o.LatePull = 0.5 * r.Float64()
	}
	if chance(0.3) {
		o.CE = 0.3 * r.Float64()
	}
	for i := range o.Side {
		s := &o.Side[i]
		s.MSS = [...]int{536, 1000, 1460, 4000, 8960}[r.IntN(5)]
		if chance(0.4) {
			s.GSO = 65536 - 1 - r.IntN(60000)
		}
		s.Total = [...]int{0, r.IntN(10), r.IntN(5000), r.IntN(20000), r.IntN(60000), r.IntN(60000), r.IntN(200000)}[r.IntN(7)]
		s.Chunk = 1 + max(r.IntN(70000)>>r.IntN(16), s.Total/100)
		s.Bite = 1 + max(r.IntN(70000)>>r.IntN(16), 2000)
		if chance(0.5) {
			s.Pause = [...]Time{100 * Microsecond, 10 * Millisecond, 300 * Millisecond, 5 * Second}[r.IntN(4)]
		}
		s.Recv = 1024 << r.IntN(8)
		s.RecvMax = s.Recv << r.IntN(6)
		s.Send = 1024 << r.IntN(8)
		s.SendMax = s.Send << r.IntN(6)
		s.NoSACK, s.NoTS, s.NoWS = chance(0.2), chance(0.3), chance(0.2)
		s.NewReno, s.NoDelay = chance(0.3), chance(0.5)
		s.End = [...]simEnd{endPolitely, endPolitely, endPolitely, endFirst, endClose, endAbort}[r.IntN(6)]
		s.AbortAt = Time(r.Int64N(int64(3 * Second)))
		s.Fiddle, s.ECN, s.Pressure, s.Await = chance(0.2), chance(0.4), chance(0.1), chance(0.4)
		if chance(0.1) {
			s.Keep = KeepAlive{Idle: 20 * Second, Interval: 5 * Second, Count: 40}
		}
		s.BBR = !s.NewReno && chance(0.5)
	}
	if o.Side[0].End == endFirst {
		o.Side[1].End = endPolitely // two sides with endFirst would wait for each other
	}
	o.Old, o.Numbers = chance(0.3), simNumbers(r.IntN(3))
	if chance(0.1) { // the minimum MSS
		for i := range o.Side {
			s := &o.Side[i]
			s.MSS = leastMSS + r.IntN(40)
			s.Total = min(s.Total, 8000)
			s.Chunk = min(s.Chunk, s.Total+1)
		}
	}
	if chance(0.25) { // each side writes more than the other side's window before it reads
		for i := range o.Side {
			s, other := &o.Side[i], &o.Side[1-i]
			s.Late = Time(r.Int64N(int64(20 * Second)))
			s.Total = max(s.Total, min(other.Recv+r.IntN(2*other.Recv), 100*s.MSS))
			s.Chunk = max(s.Chunk, s.Total/100)
			s.SendMax = max(s.SendMax, s.Total)
			s.Send = max(s.Send, s.SendMax>>r.IntN(3))
		}
	}
	return o
}

func (s *simSide) params() Params {
	p := DefaultParams()
	p.RecvBuffer, p.RecvBufferMax = s.Recv, s.RecvMax
	p.SendBuffer, p.SendBufferMax = s.Send, s.SendMax
	p.NoSACK, p.NoTimestamps, p.NoWindowScale, p.ECN = s.NoSACK, s.NoTS, s.NoWS, s.ECN
	if s.NewReno {
		p.Congestion = NewReno
	}
	if s.BBR {
		p.Congestion = BBR
	}
	return p
}

// simPattern is the data that applications write, from any offset modulo its period.
var simPattern = func() []byte {
	b := make([]byte, simPeriod+1<<18)
	for i := range b {
		j := i % simPeriod
		b[i] = byte(j ^ j>>8)
	}
	return b
}()

const simPeriod = 65521

// A simHost is a host of a run: a Conn and its application.
type simHost struct {
	side    *simSide
	p       Params
	c       Conn
	name    string
	made    bool // c is in use
	gone    bool // c is CLOSED, or a Waiter has taken over
	cookie  *simCookie
	waiter  *Waiter
	waitEnd Time
	wasOpen bool // the connection has been synchronized

	written, read        int  // bytes of the application
	fin, sawEOF          bool // the application has closed its direction; it has read EOF
	closed               bool // the application has called Close or Abort
	failed               bool // the Conn ended with an error
	appAt, pullAt        Time // time of the next call of act, and of a late pull; 0: none
	giveUp               Time // when the application gives up waiting
	state                State
	una, nxt, rnxt, edge Seq    // see watch
	losses               int    // consecutive losses of segments from this host
	await                []byte // the buffer that is registered with Await, or nil
}

// A simCookie is the state that a SYN cookie encodes.
type simCookie struct {
	cfg Config
	syn Segment
}

type simSegment struct {
	at  Time
	seg Segment
}

// A sim is a run of the simulation.
type sim struct {
	o     simOptions
	now   Time
	rng   *rand.Rand
	host  [2]simHost
	queue [2][]simSegment // segments to host 0, segments to host 1
	steps int
	trace *strings.Builder // nil: no trace
	err   error
}

// fail records the first error of the run, which ends the run.
func (w *sim) fail(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf("at %v: %s", float64(w.now)/float64(Second), fmt.Sprintf(format, args...))
	}
}

func (w *sim) log(format string, args ...any) {
	if w.trace != nil {
		fmt.Fprintf(w.trace, "%12.6f ", float64(w.now)/float64(Second))
		fmt.Fprintf(w.trace, format+"\n", args...)
	}
}

// iss returns an initial sequence number: see simNumbers.
func (w *sim) iss() Seq {
	if w.rng.IntN(2) > 0 {
		return Seq(w.rng.Uint32())
	}
	before := w.rng.Int32N(100_000)
	switch w.o.Numbers {
	case simSign:
		return 1<<31 - Seq(before)
	case simAtOnce:
		before %= 4
	}
	return Seq(-before)
}

func (w *sim) config(h *simHost) Config {
	return Config{
		Params: &h.p, ISS: w.iss(), TSOffset: uint32(w.iss()), MSS: h.side.MSS, GSO: h.side.GSO,
		NoDelay: h.side.NoDelay, Keep: h.side.Keep,
	}
}

// simulate runs o to its end, and returns an error if something went wrong.
func simulate(o simOptions, trace *strings.Builder) error {
	w := &sim{o: o, now: 1, rng: rand.New(rand.NewPCG(o.Seed, 3)), trace: trace}
	for i := range w.host {
		h := &w.host[i]
		h.side, h.p, h.name = &w.o.Side[i], o.Side[i].params(), string(rune('a'+i))
		h.giveUp = simPatience
		if h.side.Pressure {
			h.p.Pressure = func() bool { return w.now/(700*Millisecond)%3 == 1 }
		}
		if i == 0 || o.SimOpen {
			h.c.Open(w.now, w.config(h))
			h.made = true
			w.watch(h)
			w.after(i)
		}
	}
	for w.err == nil && w.step() {
	}
	if w.err == nil {
		w.judge()
	}
	return w.err
}

// judge checks the end of a run. A run is polite if no side aborts, closes early, or has an allowed reason
// to fail. A polite run must transfer all data.
func (w *sim) judge() {
	polite := true
	for i := range w.host {
		h := &w.host[i]
		polite = polite && (h.side.End == endPolitely || h.side.End == endFirst)
		timedOut := h.c.Err() == ErrTimedOut || h.c.Err() == ErrHostUnreachable
		// The ACK that carries a cookie is not retransmitted.
		polite = polite && !(w.o.Cookie && w.o.Loss > 0)
		// An orphan whose peer does not read is ended. So is a half-open connection, because a SYN,ACK is
		// retransmitted only a few times.
		polite = polite && !(h.c.orphan && timedOut && (w.o.Loss > 0.1 || h.c.snd.wnd == 0))
		polite = polite && !(h.c.passive && timedOut && !h.wasOpen)
	}
	for i := range w.host {
		h, other := &w.host[i], &w.host[1-i]
		if !h.made {
			continue // the Conn was never opened
		}
		if !h.gone {
			w.fail("%s is still %v", h.name, h.c.State())
		}
		if h.sawEOF && h.read != other.written {
			w.fail("%s read %d bytes and EOF, %s wrote %d", h.name, h.read, other.name, other.written)
		}
		if polite && (h.failed || !h.sawEOF || h.written != h.side.Total) {
			w.fail("%s ended with %v (EOF %v, %d of %d written) without an abort", h.name, h.c.Err(), h.sawEOF, h.written, h.side.Total)
		}
	}
}

// step advances to the time of the next event and handles all events of that time. It reports false at
// the end of the run.
func (w *sim) step() bool {
	var next Time
	for i := range w.host {
		h := &w.host[i]
		if q := w.queue[i]; len(q) > 0 {
			next = earliest(next, q[0].at)
		}
		if h.made && !h.gone {
			d, _ := h.c.Deadline()
			next = earliest(earliest(next, d), earliest(h.appAt, h.pullAt))
			if !h.closed {
				next = earliest(next, h.giveUp)
			}
		}
		next = earliest(next, h.waitEnd)
	}
	if next == 0 {
		return false
	}
	w.now = max(w.now, next)
	if w.steps++; w.steps > 60_000 || w.now > 4*3600*Second {
		w.fail("no end after %d steps", w.steps)
		return false
	}
	for i := range w.host {
		for len(w.queue[i]) > 0 && w.queue[i][0].at <= w.now {
			w.arrive(i)
		}
		h := &w.host[i]
		if h.waitEnd != 0 && h.waitEnd <= w.now {
			h.waitEnd, h.waiter = 0, nil
		}
		if !h.made || h.gone {
			continue
		}
		if d, ok := h.c.Deadline(); ok && d <= w.now {
			w.log("%s tick", h.name)
			h.c.Tick(w.now)
			w.after(i)
			if d, ok := h.c.Deadline(); ok && d <= w.now && h.pullAt == 0 {
				w.fail("%s: after Tick, the deadline %d has passed", h.name, d-w.now)
			}
		}
		if h.pullAt != 0 && h.pullAt <= w.now {
			w.pull(i)
		}
		if h.appAt != 0 && h.appAt <= w.now || !h.closed && h.giveUp <= w.now {
			w.act(i)
			w.after(i)
		}
	}
	return w.err == nil
}

// arrive takes the first segment for host i from the wire, merges those that follow if o.Merge is set,
// and passes the result to the host.
func (w *sim) arrive(i int) {
	q := w.queue[i]
	s := q[0].seg
	n := 1
	for w.o.Merge && n < len(q) && q[n].at <= w.now && mergeable(&s, &q[n].seg) {
		if s.GSOSize == 0 {
			s.GSOSize = len(s.Payload)
		}
		s.Payload = append(s.Payload[:len(s.Payload):len(s.Payload)], q[n].seg.Payload...)
		s.Flags |= q[n].seg.Flags
		n++
	}
	w.queue[i] = append(q[:0], q[n:]...)
	h := &w.host[i]
	w.log("%s < %s", h.name, w.show(&s, 1-i))
	switch {
	case !h.made && w.o.Cookie && s.has(wire.FlagSYN):
		w.answerWithCookie(i, &s)
	case h.cookie != nil && !h.made && s.Flags&(wire.FlagACK|wire.FlagRST) == wire.FlagACK &&
		Seq(s.Ack) == h.cookie.cfg.ISS+1 && s.Seq == h.cookie.syn.Seq+1:
		h.c.AcceptCookie(w.now, h.cookie.cfg, &h.cookie.syn)
		h.made = true
		w.watch(h)
		h.c.Segment(w.now, &s)
		w.after(i)
	case h.cookie != nil && !h.made:
		// Drop a segment without the cookie. The peer retransmits it after a segment with the cookie.
	case !h.made && s.Flags&(wire.FlagSYN|wire.FlagACK|wire.FlagRST) == wire.FlagSYN:
		h.c.Accept(w.now, w.config(h), &s)
		h.made = true
		w.watch(h)
		w.after(i)
	case h.waiter != nil:
		var out Segment
		switch h.waiter.Segment(w.now, &s, &out) {
		case WaitRestart:
			h.waitEnd = w.now + h.p.TimeWait
			w.transmit(i, &out)
		case WaitAck:
			w.transmit(i, &out)
		}
	case !h.made || h.gone:
		var out Segment
		if Reset(&s, &out) {
			w.transmit(i, &out)
		}
	default:
		h.c.Segment(w.now, &s)
		w.after(i)
	}
}

// answerWithCookie sends the SYN,ACK, and keeps only the state that a cookie encodes.
func (w *sim) answerWithCookie(i int, syn *Segment) {
	h := &w.host[i]
	if h.cookie == nil {
		h.cookie = &simCookie{cfg: w.config(h)}
	}
	h.cookie.syn = *syn
	h.cookie.syn.Payload = nil
	h.cookie.syn.Flags &^= wire.FlagECE | wire.FlagCWR
	var c Conn
	c.Accept(w.now, h.cookie.cfg, &h.cookie.syn)
	var out Segment
	for c.Next(w.now, &out) {
		w.transmit(i, &out)
	}
}

// mergeable reports whether GRO would append b to a.
func mergeable(a, b *Segment) bool {
	size := a.GSOSize
	if size == 0 {
		size = len(a.Payload)
	}
	const plain = wire.FlagACK
	return size > 0 && a.Flags == plain && b.Flags&^(wire.FlagPSH) == plain && len(a.Payload)%size == 0 &&
		len(b.Payload) > 0 && len(b.Payload) <= size && a.Seq+uint32(len(a.Payload)) == b.Seq && a.Ack == b.Ack && a.CE == b.CE &&
		a.Window == b.Window && a.TSVal == b.TSVal && a.TSEcr == b.TSEcr && a.NSACK == 0 && b.NSACK == 0 &&
		len(a.Payload)+len(b.Payload) < 65536
}

// after must follow each call on the Conn of host i. It calls Next and checks the Conn, or schedules
// this for later.
func (w *sim) after(i int) {
	h := &w.host[i]
	if first := !h.wasOpen && h.c.State().synchronized(); first && w.o.Old {
		// The numbers of bytes that still have to be transferred until SND.UNA passes ISS, and RCV.NXT passes IRS.
		few := func(n int) Seq { return Seq(w.rng.IntN(1 + min(n, 1<<w.rng.IntN(18)))) }
		age(&h.c, few(h.side.Total), few(w.o.Side[1-i].Total))
	}
	h.wasOpen = h.wasOpen || h.c.State().synchronized()
	if w.rng.Float64() < w.o.LatePull {
		h.pullAt = w.now + 1 + Time(w.rng.Int64N(int64(5*Millisecond)))
		w.check(i, false)
		return
	}
	w.pull(i)
}

// pull calls Next of host i until it returns false, puts the segments on the wire, and handles the
// events. A Conn that is dead or in TIME-WAIT is taken out of use.
func (w *sim) pull(i int) {
	h := &w.host[i]
	h.pullAt = 0
	var s Segment
	for n := 0; h.c.Next(w.now, &s); n++ {
		if n > 10_000 {
			w.fail("Next of %s does not end", h.name)
			return
		}
		w.transmit(i, &s)
	}
	w.check(i, true)
	ev := h.c.Events()
	if ev != 0 {
		w.log("%s events %b", h.name, ev)
	}
	if ev&(Readable|Writable|Connected|EOF|Failed) != 0 {
		h.appAt = earliest(h.appAt, w.now+w.pause(h))
	}
	if ev&Dead != 0 && !h.gone {
		w.log("%s is dead: %v", h.name, h.c.Err())
		// Received data can still be read.
		w.drain(i)
		h.gone = true
	} else if h.c.State() == TimeWait && w.o.Waiters && h.c.Readable() == 0 && !h.gone {
		w.takeAwaited(i)
		x := h.c.Waiter(w.now)
		h.sawEOF = true
		h.waiter, h.waitEnd, h.gone = &x, w.now+h.p.TimeWait, true
	}
}

// drain reads the remaining data of a Conn that has ended.
func (w *sim) drain(i int) {
	h := &w.host[i]
	if h.c.Err() != ErrNone {
		h.failed = true
	}
	if h.closed {
		return
	}
	w.takeAwaited(i)
	buf := make([]byte, 4096)
	for n := w.readSome(i, buf); n > 0; n = w.readSome(i, buf) {
	}
	h.sawEOF = h.sawEOF || h.c.AtEOF()
}

// transmit cuts a super-segment into segments, and puts them on the wire.
func (w *sim) transmit(from int, s *Segment) {
	h := &w.host[from]
	w.log("%s > %s", h.name, w.show(s, from))
	p := append(append(make([]byte, 0, s.DataLen()), s.Payload...), s.Payload2...)
	size := s.GSOSize
	if size == 0 {
		size = len(p)
		if h.made && s.DataLen() > largest(&h.c) {
			w.fail("%s sends a segment of %d bytes, MSS %d", h.name, s.DataLen(), h.c.snd.mss)
		}
	} else if len(p) <= size || len(p) > h.side.GSO {
		w.fail("%s sends a super-segment of %d bytes cut every %d", h.name, len(p), size)
	}
	if agreed := min(w.o.Side[0].MSS, w.o.Side[1].MSS); size+s.Len()-wire.TCPLen > agreed && !s.has(wire.FlagSYN) {
		w.fail("%s sends %d bytes of text and %d of options, of which %d were agreed on", h.name, size, s.Len()-wire.TCPLen, agreed)
	}
	for off := 0; ; {
		k := min(size, len(p)-off)
		x := *s
		x.GSOSize, x.Payload2 = 0, nil
		x.Seq += uint32(off)
		x.Payload = p[off : off+k : off+k]
		off += k
		if off < len(p) {
			x.Flags &^= wire.FlagFIN | wire.FlagPSH
		}
		w.put(from, &x)
		if off >= len(p) {
			return
		}
	}
}

// put puts a segment on the wire, which may lose, duplicate or delay it. The network loses no segment
// after two minutes, and never loses more than four consecutive segments in one direction. Therefore a
// connection must never time out.
func (w *sim) put(from int, s *Segment) {
	h := &w.host[from]
	if w.rng.Float64() < w.o.Loss && h.losses < 4 && w.now < 120*Second {
		h.losses++
		w.log("    lost %d+%d", s.Seq-uint32(h.c.snd.iss), len(s.Payload))
		return
	}
	h.losses = 0
	if s.ECT && w.rng.Float64() < w.o.CE {
		s.CE = true
	}
	for copies := 0; copies == 0 || copies < 3 && w.rng.Float64() < w.o.Dup; copies++ {
		at := w.now + w.o.Delay
		if w.rng.Float64() < w.o.Reorder {
			at += Time(w.rng.Int64N(int64(w.o.Jitter) + 1))
		}
		q := append(w.queue[1-from], simSegment{})
		j := len(q) - 1
		for ; j > 0 && q[j-1].at > at; j-- {
			q[j] = q[j-1]
		}
		q[j] = simSegment{at, *s}
		w.queue[1-from] = q
	}
}

// pause returns the time until the next call of the application on h.
func (w *sim) pause(h *simHost) Time {
	if h.side.Pause == 0 {
		return 0
	}
	return Time(w.rng.Int64N(int64(h.side.Pause)))
}

// simPatience is how long an application waits for progress before it closes.
const simPatience = 900 * Second

// act performs one round of calls of the application on host i.
func (w *sim) act(i int) {
	h := &w.host[i]
	c := &h.c
	h.appAt = 0
	if w.now >= h.giveUp {
		w.log("%s gives up waiting", h.name)
		h.closed = true
		c.Close(w.now)
		return
	}
	h.giveUp = w.now + simPatience
	if c.Err() != ErrNone {
		w.drain(i)
		return
	}
	if h.side.End == endAbort && w.now >= h.side.AbortAt && !h.closed {
		w.log("%s aborts", h.name)
		h.closed = true
		c.Abort(w.now)
		return
	}
	if h.closed {
		return
	}
	if h.side.Fiddle {
		w.fiddle(h)
	}
	busy := w.reads(i)
	if w.err == nil && w.writes(i) {
		busy = true
	}
	if c.AtEOF() && c.State() != Closed {
		h.sawEOF = true
	}
	if h.sawEOF && h.fin && !h.closed {
		w.log("%s closes", h.name)
		h.closed = true
		c.Close(w.now)
	}
	switch {
	case w.now < h.side.Late:
		h.appAt = h.side.Late
		if busy {
			h.appAt = min(h.appAt, w.now+max(w.pause(h), 1))
		}
	case busy:
		h.appAt = w.now + max(w.pause(h), 1)
	case h.side.End == endAbort:
		h.appAt = max(h.side.AbortAt, w.now+1)
	}
}

// reads reads once, or registers a buffer if there is no data. It reports whether another read may
// succeed at once.
func (w *sim) reads(i int) (busy bool) {
	h := &w.host[i]
	if w.now < h.side.Late {
		return false
	}
	w.takeAwaited(i)
	buf := make([]byte, 1+w.rng.IntN(h.side.Bite))
	if h.c.Readable() > 0 {
		w.readSome(i, buf)
		return h.c.Readable() > 0 || h.c.AtEOF()
	}
	if h.side.Await && !h.c.AtEOF() {
		if !h.c.Await(buf) {
			w.fail("%s cannot wait", h.name)
		}
		h.await = buf
	}
	return false
}

// takeAwaited takes back the buffer of a waiting reader on host i, and checks the data in it.
func (w *sim) takeAwaited(i int) {
	h := &w.host[i]
	if h.await != nil {
		w.taken(i, h.await[:h.c.Awaited(w.now)])
		h.await = nil
	}
}

func (w *sim) readSome(i int, buf []byte) int {
	w.takeAwaited(i)
	n := w.host[i].c.Read(w.now, buf)
	w.taken(i, buf[:n])
	return n
}

// taken checks and counts the data that the application on host i has read.
func (w *sim) taken(i int, buf []byte) {
	h := &w.host[i]
	n := len(buf)
	if n > 0 {
		// The peer's application does not give up while its data is read, however slowly.
		w.host[1-i].giveUp = w.now + simPatience
	}
	off := h.read % simPeriod
	for rest := buf; len(rest) > 0; {
		k := min(len(rest), 1<<16)
		if !bytes.Equal(rest[:k], simPattern[off:off+k]) {
			w.fail("%s reads other bytes than were written, in %d from %d", h.name, n, h.read)
		}
		off = (off + k) % simPeriod
		rest = rest[k:]
	}
	h.read += n
	if n > 0 {
		w.log("%s reads %d: %d", h.name, n, h.read)
	}
	if h.read > w.host[1-i].written {
		w.fail("%s has read %d bytes, %d were written", h.name, h.read, w.host[1-i].written)
	}
}

// writes writes once, or ends the direction after the last byte, as Side.End says. It reports whether
// the application should be called again soon.
func (w *sim) writes(i int) (busy bool) {
	h := &w.host[i]
	c := &h.c
	if h.fin || !c.State().synchronized() {
		return false
	}
	if rest := h.side.Total - h.written; rest > 0 {
		off := h.written % simPeriod
		k := min(1+w.rng.IntN(h.side.Chunk), rest, 1<<16)
		n := c.Write(w.now, simPattern[off:off+k])
		w.log("%s writes %d of %d", h.name, n, k)
		h.written += n
		return n == k
	}
	switch {
	case h.side.End == endClose:
		w.log("%s closes", h.name)
		h.fin, h.closed = true, true
		c.Close(w.now)
	case h.side.End == endFirst && !c.AtEOF():
		return false
	default:
		w.log("%s closes its side", h.name)
		h.fin = true
		c.CloseWrite(w.now)
	}
	return c.AtEOF()
}

// fiddle sometimes makes one random change or call on the Conn.
func (w *sim) fiddle(h *simHost) {
	switch w.rng.IntN(12) {
	case 0:
		n := 1024 << w.rng.IntN(7)
		w.log("%s receive limit %d", h.name, n)
		h.c.SetRecvLimit(n)
	case 1:
		n := 1024 << w.rng.IntN(7)
		w.log("%s send limit %d", h.name, n)
		h.c.SetSendLimit(n)
	case 2:
		h.c.SetNoDelay(w.rng.IntN(2) == 0)
	case 3:
		n := min(200+w.rng.IntN(1400), h.side.MSS) // at most the MSS of the link
		w.log("%s path MTU for %d", h.name, n)
		h.c.PathMTU(w.now, n)
	case 4:
		h.c.SoftError(ErrHostUnreachable)
	case 5:
		h.c.SetGSO([...]int{0, 9000, 65535}[w.rng.IntN(3)])
		h.side.GSO = max(h.side.GSO, 65535) // transmit checks super-segments against the largest limit
	case 6:
		w.log("%s reclaims memory", h.name)
		h.c.Reclaim(w.now, w.rng.IntN(2) == 0)
	}
}

// watch records the state of the Conn with which check compares the next one.
func (w *sim) watch(h *simHost) {
	c := &h.c
	h.state, h.una, h.nxt, h.rnxt, h.edge = c.state, c.snd.una, c.snd.nxt, c.rcv.nxt, c.rcv.edge
}

// check checks the invariants of host i. pulled reports that Next has returned false: some invariants
// hold only then.
func (w *sim) check(i int, pulled bool) {
	h := &w.host[i]
	c := &h.c
	if w.err != nil {
		return
	}
	if pulled {
		if err := checkConn(c); err != nil {
			w.fail("%s: %v", h.name, err)
		}
		c.Deactivate(w.now) // has no effect unless the connection is idle
	} else if err := checkBoard(c); err != nil {
		w.fail("%s: %v", h.name, err)
	}
	if !legalMove(h.state, c.state) {
		w.fail("%s goes from %v to %v", h.name, h.state, c.state)
	}
	if c.snd.una.Less(h.una) || c.snd.nxt.Less(h.nxt) {
		w.fail("%s: SND.UNA or SND.NXT went back", h.name)
	}
	pressure := h.p.Pressure != nil && h.p.Pressure() // see affordable
	if h.state != SynSent && (c.rcv.nxt.Less(h.rnxt) || c.rcv.edge.Less(h.edge) && !pressure) {
		w.fail("%s: RCV.NXT or the window's edge went back", h.name)
	}
	w.watch(h)
	w.checkPair(i)
}

// checkPair checks that the peer of host i has read, or can read, all data that it has acknowledged.
func (w *sim) checkPair(i int) {
	h, other := &w.host[i], &w.host[1-i]
	if !h.made || !other.made || h.gone || other.gone || other.closed || h.failed || !h.c.state.synchronized() || other.c.state == Closed {
		return
	}
	if acked, got := h.written-h.c.Unacked(), other.read+other.c.Readable()+other.c.rcv.got; acked > got && h.c.state != Closed {
		w.fail("%s has %d bytes acknowledged, %s got %d", h.name, acked, other.name, got)
	}
}

// show formats a segment, with numbers relative to the sender's ISS.
func (w *sim) show(s *Segment, from int) string {
	a, b := &w.host[from].c, &w.host[1-from].c
	t := fmt.Sprintf("%v %d+%d ack %d win %d", s.Flags, s.Seq-uint32(a.snd.iss), s.DataLen(), s.Ack-uint32(b.snd.iss), s.Window)
	for _, k := range s.SACK[:s.NSACK] {
		t += fmt.Sprintf(" sack %d-%d", k.Start-uint32(b.snd.iss), k.End-uint32(b.snd.iss))
	}
	if s.HasTS {
		t += fmt.Sprintf(" ts %d/%d", s.TSVal-a.snd.tsOffset, s.TSEcr-b.snd.tsOffset)
	}
	return t
}
