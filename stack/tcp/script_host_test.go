package tcp

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/usernet/usernet/stack/wire"
)

const (
	scriptStart    = 1000 * Second // time at which a script begins
	scriptPatience = 3600 * Second // how long "*" waits
	scriptTSOffset = 0xfffffc18    // 2^32 - 1000, so that the timestamp clock wraps early
)

// scriptNumbers are the sequence numbers of a run of a script.
type scriptNumbers struct {
	name string
	iss  Seq    // our initial sequence number
	peer uint32 // added to the peer's numbers in the script
	old  bool   // 2^32-1 bytes were transferred in each direction before, so SND.UNA is ISS again
}

var scriptRuns = []scriptNumbers{
	{name: "numbers wrap", iss: 1<<32 - 1500, peer: 1<<32 - 700},
	{name: "numbers change sign", iss: 1<<31 - 1500, peer: 1<<31 - 700},
	{name: "numbers begin at the end", iss: 1<<32 - 5, peer: 1<<32 - 1},
	{name: "the connection is old", iss: 5000, peer: 1 << 31, old: true},
}

// age changes ISS and IRS as if the connection had already sent 2^32-1-sent bytes and received
// 2^32-1-received bytes.
func age(c *Conn, sent, received Seq) {
	c.snd.iss, c.rcv.irs = c.snd.una+sent, c.rcv.nxt+received
}

// scriptByte returns the data byte at the relative sequence number rel, in both directions. All received
// data is compared with these bytes.
func scriptByte(rel uint32) byte { return byte(rel*7 + rel>>8) }

// A scriptHost is the part of a host that a script needs: one Conn at a time, a listener, TIME-WAIT,
// and system calls, in virtual time. It uses the Conn as package stack does.
type scriptHost struct {
	scriptNumbers
	params    Params
	cfg       Config
	pathMSS   int // known MSS of the path, not reduced by the TCP options
	tolerance Time

	now  Time
	last Time // time of the last event of the script

	fds      map[int]*scriptFD
	listener *scriptFD
	queue    []*scriptSock // connections that wait for accept
	sock     *scriptSock   // the connection that receives segments, or else the last such connection
	wait     *Waiter
	waitEnd  Time

	out     []scriptOut // sent segments that the script has not expected yet
	blocked *scriptCall // the call that blocks, or nil
	err     error

	tsKnown bool   // tsBase is set
	tsBase  uint32 // added to our timestamps in the script: see tsOut
}

// A scriptFD is a descriptor of the script: a listener, or a socket with its options.
type scriptFD struct {
	sock     *scriptSock // nil: not connected
	nonblock bool
	nodelay  bool
	linger   int // SO_LINGER in seconds; -1: off
	keepOn   bool
	keep     KeepAlive
}

// A scriptSock is a connection.
type scriptSock struct {
	conn        Conn
	fd          *scriptFD
	iss         Seq
	linked      bool // receives segments: it is neither dead nor in TIME-WAIT
	errReported bool
	connected   bool
	rdShut      bool
	wrShut      bool
	readAt      uint32 // sequence number of the next byte to read
	writeAt     uint32 // sequence number of the next byte to write
}

// A scriptOut is a sent segment, with the numbers to which the script's numbers are relative.
type scriptOut struct {
	at   Time
	seg  Segment
	iss  Seq
	peer uint32
}

// A scriptCall is a call that may block. try makes it, or continues it, and reports whether it is done.
type scriptCall struct {
	ev       *pktEvent
	from, to Time
	deadline Time // 0: the call has no timeout
	try      func() (ret int, errno string, done bool)
}

// newScriptHost makes a host with the options of a script.
func newScriptHost(options map[string]string, n scriptNumbers) (*scriptHost, error) {
	h := &scriptHost{scriptNumbers: n, params: DefaultParams(), now: scriptStart, last: scriptStart, fds: map[int]*scriptFD{}}
	p := &h.params
	h.cfg = Config{Params: p, MSS: 1460, ISS: h.iss, TSOffset: scriptTSOffset}
	for name, value := range options {
		n, err := strconv.Atoi(value)
		if value != "" && err != nil && name != "congestion" {
			return nil, err
		}
		switch name {
		case "mss":
			h.cfg.MSS = n
		case "default_mss":
			h.cfg.DefaultMSS = n
		case "gso":
			h.cfg.GSO = n
		case "tolerance_usecs":
			h.tolerance = Time(n) * Microsecond
		case "congestion":
			p.Congestion = map[string]Congestion{"newreno": NewReno, "cubic": CUBIC, "bbr": BBR}[value]
		case "rcvbuf":
			p.RecvBuffer, p.RecvBufferMax = n, n
		case "rcvbuf_max":
			p.RecvBufferMax = n
		case "sndbuf":
			p.SendBuffer, p.SendBufferMax = n, n
		case "min_rto_ms":
			p.MinRTO = Time(n) * Millisecond
		case "max_rto_s":
			p.MaxRTO = Time(n) * Second
		case "delayed_ack_ms":
			p.DelayedAck = Time(n) * Millisecond
		case "syn_retries":
			p.SynRetries = uint8(n)
		case "retries":
			p.Retries = uint8(n)
		case "fin_timeout_s":
			p.FinTimeout = Time(n) * Second
		case "time_wait_s":
			p.TimeWait = Time(n) * Second
		case "user_timeout_s":
			p.UserTimeout = Time(n) * Second
		case "ecn":
			p.ECN = true
		case "no_sack":
			p.NoSACK = true
		case "no_timestamps":
			p.NoTimestamps = true
		case "no_wscale":
			p.NoWindowScale = true
		default:
			return nil, fmt.Errorf("option %q is not known", name)
		}
	}
	h.pathMSS = h.cfg.MSS
	return h, nil
}

// state returns the name of the state, as %{ state }% compares it.
func (h *scriptHost) state() string {
	switch {
	case h.wait != nil:
		return TimeWait.String()
	case h.sock != nil && (h.sock.linked || h.sock.conn.State() != TimeWait):
		return h.sock.conn.State().String()
	case h.sock != nil:
		return Closed.String()
	case h.listener != nil:
		return "LISTEN"
	}
	return Closed.String()
}

// deadline returns the time of the next timer, and whether there is one.
func (h *scriptHost) deadline() (Time, bool) {
	var d Time
	if h.sock != nil && h.sock.linked {
		d, _ = h.sock.conn.Deadline()
	}
	if h.wait != nil {
		d = earliest(d, h.waitEnd)
	}
	if h.blocked != nil {
		d = earliest(d, h.blocked.deadline)
	}
	return d, d != 0
}

// advance runs the timers and lets time pass until the time to.
func (h *scriptHost) advance(to Time) error {
	return h.advanceUntil(to, func() bool { return false })
}

// advanceUntil runs the timers and lets time pass until the time to, or until stop returns true.
func (h *scriptHost) advanceUntil(to Time, stop func() bool) error {
	for steps := 0; h.err == nil && !stop(); steps++ {
		d, ok := h.deadline()
		if !ok || d > to {
			h.now = max(h.now, to)
			break
		}
		if steps > 10000 {
			return errors.New("timers fire without end")
		}
		h.now = max(h.now, d)
		if h.wait != nil && h.now >= h.waitEnd {
			h.wait = nil
		}
		if h.sock != nil && h.sock.linked {
			h.sock.conn.Tick(h.now)
		}
		h.run()
	}
	if b := h.blocked; h.err == nil && b != nil && h.now > b.to+h.tolerance {
		h.err = fmt.Errorf("%s still blocks at %s", b.ev.text, formatTime(h.now))
	}
	return h.err
}

// run must follow every call on the Conn. It takes the segments that the Conn sends, and continues the
// blocked call as long as that makes progress.
func (h *scriptHost) run() {
	for h.err == nil {
		h.pull()
		if h.blocked == nil {
			return
		}
		b := h.blocked
		var before uint32
		if h.sock != nil {
			before = h.sock.writeAt
		}
		if ret, errno, done := b.try(); done {
			h.blocked = nil
			h.err = h.returned(b.ev, b.from, b.to, ret, errno)
		} else if h.sock == nil || h.sock.writeAt == before {
			return
		}
	}
}

// pull takes the segments that the Conn sends, and handles its events. A Conn in TIME-WAIT is replaced by a Waiter.
func (h *scriptHost) pull() {
	s := h.sock
	if s == nil || !s.linked {
		return
	}
	var seg Segment
	for n := 0; s.conn.Next(h.now, &seg); n++ {
		if n > 5000 {
			h.err = errors.New("Next never stops")
			return
		}
		h.sent(&seg)
	}
	if err := checkConn(&s.conn); err != nil && h.err == nil {
		h.err = err
	}
	s.conn.Deactivate(h.now) // has no effect unless the connection is idle
	ev := s.conn.Events()
	if ev&Connected != 0 {
		s.connected = true
		if h.old {
			age(&s.conn, 0, 0)
		}
		h.applyKeepAlive(s)
		if s.conn.passive {
			h.queue = append(h.queue, s)
		}
	}
	switch {
	case ev&Dead != 0:
		s.linked = false
	case s.conn.State() == TimeWait:
		s.linked = false
		w := s.conn.Waiter(h.now)
		h.wait, h.waitEnd = &w, h.now+h.params.TimeWait
	}
}

// sent appends a segment of the Conn to h.out. It first writes the segment to bytes and parses them, to
// find fields that are not on the wire.
func (h *scriptHost) sent(seg *Segment) {
	o := scriptOut{at: h.now, seg: *seg, iss: h.iss, peer: h.peer}
	if h.sock != nil {
		o.iss = h.sock.iss
	}
	if seg.Seq == 0 && seg.has(wire.FlagRST) {
		o.iss = 0 // a RST in answer to a segment without ACK has the number 0, and none of ours
	}
	o.seg.Payload = append(append([]byte(nil), seg.Payload...), seg.Payload2...)
	o.seg.Payload2 = nil
	b := make([]byte, seg.Len())
	seg.Put(b)
	hdr, _, why := wire.ParseTCP(b)
	if why != wire.OK || hdr != seg.TCP {
		h.err = fmt.Errorf("%s: does not fit its form on the wire: %+v", h.formatOut(o), hdr)
	}
	for i, x := range o.seg.Payload {
		if rel := seg.Seq - uint32(o.iss) + uint32(i); x != scriptByte(rel) {
			h.err = fmt.Errorf("%s: the byte at %d is wrong", h.formatOut(o), rel)
			break
		}
	}
	h.out = append(h.out, o)
}

// receive passes a segment of the script to its connection, to the Waiter, or to the listener.
func (h *scriptHost) receive(g *pktSegment) error {
	iss := h.iss
	if h.sock != nil {
		iss = h.sock.iss
	}
	s := Segment{TCP: g.opt, CE: g.mark == "ce", ECT: g.mark == "ce" || g.mark == "ect0"}
	s.Seq = g.start + h.peer
	s.Flags, s.Urgent = g.flags, g.urg
	if s.has(wire.FlagACK) {
		s.Ack = g.ack + uint32(iss)
	}
	s.Window = uint16(max(g.win, 0))
	for i := range s.NSACK {
		s.SACK[i].Start += uint32(iss)
		s.SACK[i].End += uint32(iss)
	}
	if s.HasTS && s.TSEcr != 0 {
		s.TSEcr += h.tsBase
	}
	first := g.start
	if s.has(wire.FlagSYN) {
		first++
	}
	for i := range g.n {
		s.Payload = append(s.Payload, scriptByte(first+uint32(i)))
	}
	h.deliver(&s, g.start)
	h.run()
	return h.err
}

// deliver passes a segment to its connection, to the Waiter or to the listener, or answers it with a
// RST. start is the segment's number in the script.
func (h *scriptHost) deliver(s *Segment, start uint32) {
	if h.sock != nil && h.sock.linked {
		h.sock.conn.Segment(h.now, s)
		return
	}
	var out Segment
	iss := h.iss
	if h.wait != nil {
		switch v := h.wait.Segment(h.now, s, &out); v {
		case WaitDrop:
			return
		case WaitEnd:
			h.wait = nil
			return
		case WaitAck, WaitRestart:
			if v == WaitRestart {
				h.waitEnd = h.now + h.params.TimeWait
			}
			h.sent(&out)
			return
		}
		iss = h.wait.NextISS(iss)
	}
	if h.listener != nil && s.Flags&(wire.FlagSYN|wire.FlagACK|wire.FlagRST) == wire.FlagSYN {
		h.wait = nil
		fd := *h.listener
		h.sock = &scriptSock{fd: &fd, iss: iss, linked: true, readAt: start + 1, writeAt: 1}
		fd.sock = h.sock
		cfg := h.cfg
		cfg.ISS, cfg.NoDelay = iss, fd.nodelay
		h.sock.conn.Accept(h.now, cfg, s)
		return
	}
	if Reset(s, &out) {
		h.sent(&out)
	}
}

// receiveICMP handles an ICMP error as package stack does.
func (h *scriptHost) receiveICMP(ev *pktEvent) error {
	s := h.sock
	if s == nil || !s.linked || !s.conn.InFlight(Seq(ev.seg.start)+s.iss) {
		return nil
	}
	code := ev.icmp[1]
	errs := map[string]Err{
		"net_unreachable": ErrNetUnreachable, "host_unreachable": ErrHostUnreachable,
		"protocol_unreachable": ErrProtocol, "port_unreachable": ErrRefused,
		"admin_prohibited": ErrProhibited, "ttl_exceeded": ErrHostUnreachable,
	}
	switch e, known := errs[code]; {
	case code == "frag_needed" && len(ev.icmp) == 4:
		mtu, err := strconv.Atoi(ev.icmp[3])
		if err != nil {
			return err
		}
		if mss := mtu - wire.IPv4Len - wire.TCPLen; mss < h.pathMSS {
			h.pathMSS = mss
			s.conn.PathMTU(h.now, mss)
		}
	case !known:
		return fmt.Errorf("icmp %q is not known", code)
	case !s.conn.State().synchronized():
		s.conn.HardError(h.now, e)
	default:
		s.conn.SoftError(e)
	}
	h.run()
	return h.err
}

func (h *scriptHost) applyKeepAlive(s *scriptSock) {
	k := s.fd.keep
	if !s.fd.keepOn {
		k = KeepAlive{}
	}
	s.conn.SetKeepAlive(h.now, k)
}

// check compares the names in %{ }% with their values.
func (h *scriptHost) check(list []pktCheck) error {
	for _, k := range list {
		got, err := h.value(k.name)
		if err != nil {
			return err
		}
		if !holds(got, k.op, k.want) {
			return fmt.Errorf("%s is %v", k.name, got)
		}
	}
	return nil
}

// holds reports whether got op want holds. Values that are not numbers have only == and !=.
func holds(got any, op, want string) bool {
	g, ok := got.(int)
	w, err := strconv.Atoi(want)
	if !ok || err != nil {
		return op == "==" && fmt.Sprint(got) == want || op == "!=" && fmt.Sprint(got) != want
	}
	switch op {
	case "==":
		return g == w
	case "!=":
		return g != w
	case "<":
		return g < w
	case "<=":
		return g <= w
	case ">":
		return g > w
	case ">=":
		return g >= w
	}
	return false
}

// value returns the value of a name in %{ }%. Names of tcp_info have its units (segments and
// microseconds). Some other names are in bytes.
func (h *scriptHost) value(name string) (any, error) {
	if name == "state" {
		return h.state(), nil
	}
	if h.sock == nil {
		return nil, fmt.Errorf("%s: there is no connection", name)
	}
	c := &h.sock.conn
	f := c.Info(0)
	segs := func(n int) int { return (n + f.SndMSS - 1) / f.SndMSS }
	flag := func(b bool) int {
		if b {
			return 1
		}
		return 0
	}
	us := func(t Time) int { return int(time.Duration(t).Microseconds()) }
	v, ok := map[string]any{
		"err": c.Err().String(), "deadline": 0,
		"tcpi_snd_cwnd": f.SndCwnd / f.SndMSS, "cwnd_bytes": f.SndCwnd,
		"tcpi_snd_ssthresh": segs(f.SndSsthresh), "ssthresh_bytes": f.SndSsthresh,
		"tcpi_snd_mss": f.SndMSS, "tcpi_rcv_mss": f.RcvMSS,
		"tcpi_snd_wnd": f.SndWnd, "tcpi_rcv_wnd": f.RcvWnd,
		"tcpi_unacked": segs(f.Unacked), "tcpi_sacked": segs(f.Sacked), "tcpi_lost": segs(f.Lost),
		"inflight_bytes": f.InFlight, "tcpi_notsent_bytes": f.NotSent,
		"tcpi_rto": us(f.RTO), "tcpi_rtt": us(f.RTT), "tcpi_rttvar": us(f.RTTVar), "tcpi_min_rtt": us(f.MinRTT),
		"tcpi_total_retrans": f.Retrans, "tcpi_backoff": f.Backoff,
		"recovery": flag(f.Recovery), "sack": flag(f.SACK), "timestamps": flag(f.Timestamps), "wscale": flag(f.WScale),
		"sndbuf": f.SndBuf, "rcvbuf": f.RcvBuf, "readable": c.Readable(),
	}[name]
	if !ok {
		return nil, fmt.Errorf("%q is not known", name)
	}
	if name == "deadline" { // milliseconds from now, or -1 if there is no timer
		v = -1
		if d, ok := h.deadline(); ok {
			v = int((d - h.now) / Millisecond)
		}
	}
	return v, nil
}
