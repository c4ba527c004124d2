package iperf

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Events are functions that a client or a server calls while it works. Each may be nil. The calls for one test
// do not overlap.
type Events struct {
	// Start is called when the data begins to flow.
	Start func(*Report)
	// Interval is called after each interval, and after the last, which may be shorter.
	Interval func(*Interval)
	// End is called at the end of a test. If err is not nil, the report has what was measured until then, and
	// it may lack streams.
	End func(r *Report, err error)
}

// A Report has the results of a test. Before the end of the test, it has the parameters and the streams only.
type Report struct {
	Params
	// Server reports whether this side is the server.
	Server bool
	// Local and Remote are the addresses of the control connection.
	Local, Remote net.Addr
	Began         time.Time
	// Peer is iperf3's version on the client's side, if this side is the server.
	Peer string
	// Complete reports whether the results of the other side are known. Otherwise they are 0 in Streams.
	Complete bool
	Streams  []StreamReport
}

// A StreamReport has the results of a stream.
type StreamReport struct {
	ID            int
	Sender        bool // this side sends
	Local, Remote net.Addr
	// Bytes of payload that the one side has sent, and the other has read, and the times from the start of
	// the test to the end of sending and of reading.
	Sent, Received            int64
	SentTime, ReceivedTime    time.Duration
	Retransmits               int64 // segments; -1: not known
	MaxCwnd                   int64 // the largest congestion window, in bytes, at the ends of intervals; 0: not known
	Packets, Lost, OutOfOrder int64 // datagrams sent, lost, and received after a later one
	Jitter                    time.Duration
}

// An Interval has what the streams have done in an interval.
type Interval struct {
	Start, End time.Duration // since the start of the test
	Streams    []StreamInterval
}

// A StreamInterval has what a stream has done in an interval.
type StreamInterval struct {
	ID          int
	Sender      bool
	Bytes       int64
	Retransmits int64         // segments; -1: not known
	Cwnd        int64         // bytes; 0: not known
	RTT         time.Duration // 0: not known
	Packets     int64         // datagrams sent, or received and lost
	Lost        int64
	Jitter      time.Duration
}

// stallTime is how long a test may go on without any data.
const stallTime = 2 * time.Minute

// lateTime is how long a receiver waits for data that the sender has reported and that has not arrived yet,
// after the last data: for TCP, and for datagrams, which may have been lost.
const (
	lateTime         = 3 * time.Second
	lateDatagramTime = 200 * time.Millisecond
)

// datagramBuffer is the size of the receive buffers for datagrams. It is larger than the usual ones, so that a
// pause of the reader does not count as loss.
const datagramBuffer = 1 << 20

// A test is a running test on one side.
type test struct {
	Params
	server   bool
	events   *Events
	interval time.Duration
	ctrl     net.Conn
	peer     string
	packets  net.PacketConn // the socket of a server's UDP streams
	flowing  atomic.Bool    // start was called

	streams []*stream
	pattern []byte // what the senders send
	budget  budget // of the senders of this side
	began   time.Time

	stop     chan struct{} // closed when the senders have to end
	stopOnce sync.Once
	ending   atomic.Bool // TEST_END was sent or received: receivers may end
	received atomic.Int64
	enough   chan struct{} // closed when Bytes were received
	sent     chan struct{} // closed when all senders have ended
	failed   chan error    // the first failure of a stream
	work     sync.WaitGroup

	previous []StreamInterval // totals at the end of the last interval
	lastEnd  time.Duration
}

func newTest(ctrl net.Conn, server bool, interval time.Duration, events *Events) *test {
	return &test{
		ctrl: ctrl, server: server, interval: interval, events: events,
		stop: make(chan struct{}), enough: make(chan struct{}), sent: make(chan struct{}), failed: make(chan error, 1),
	}
}

func (t *test) since() time.Duration { return time.Since(t.began) }

func (t *test) stopped() bool {
	select {
	case <-t.stop:
		return true
	default:
		return false
	}
}

// senders returns how many streams the side sends with that is the server or the client.
func (p *Params) senders(server bool) int {
	if p.Bidir || p.Reverse == server {
		return p.Streams
	}
	return 0
}

// total returns the number of streams.
func (p *Params) total() int { return p.senders(false) + p.senders(true) }

// addStream adds the next stream. The client's senders come first.
func (t *test) addStream(c net.Conn) {
	i := len(t.streams)
	fromClient := i < t.senders(false)
	if c, ok := c.(interface{ SetReadBuffer(int) error }); ok && t.UDP {
		c.SetReadBuffer(datagramBuffer) // the system may allow less
	}
	s := &stream{id: streamID(i), sender: fromClient != t.server, udp: t.UDP, wide: t.Wide, conn: c, retransmits: -1, done: make(chan struct{})}
	t.streams = append(t.streams, s)
}

// start starts the streams.
func (t *test) start() {
	t.began = time.Now()
	if t.senders(t.server) > 0 {
		t.pattern = make([]byte, t.Block)
		rnd := rand.NewChaCha8([32]byte{'i', 'p', 'e', 'r', 'f'})
		rnd.Read(t.pattern)
	}
	// A server that sends datagrams goes on until the client has received enough.
	if t.Bytes > 0 && !(t.server && t.UDP) {
		t.budget.limited = true
		t.budget.left.Store(t.Bytes)
	}
	t.previous = make([]StreamInterval, len(t.streams))
	t.flowing.Store(true)
	if t.events.Start != nil {
		t.events.Start(t.report(nil))
	}
	var sending sync.WaitGroup
	for _, s := range t.streams {
		var run func(*stream) error
		switch {
		case s.sender:
			run = t.send
		case t.UDP && t.server:
			close(s.done) // one goroutine reads the datagrams of all streams
			continue
		default:
			run = t.receive
		}
		work := func() {
			defer close(s.done)
			if err := run(s); err != nil {
				select {
				case t.failed <- fmt.Errorf("stream %d: %w", s.id, err):
				default:
				}
			}
		}
		t.work.Go(work)
		if s.sender {
			sending.Go(func() { <-s.done })
		}
	}
	if t.senders(t.server) > 0 {
		t.work.Go(func() {
			sending.Wait()
			close(t.sent)
		})
	}
}

// A stateMessage is a state from the control connection, or why there is none.
type stateMessage struct {
	state state
	err   error
}

// nextState reads the next state in the background, without a deadline.
func (t *test) nextState() <-chan stateMessage {
	next := make(chan stateMessage, 1)
	t.ctrl.SetReadDeadline(time.Time{})
	t.work.Go(func() {
		s, err := readState(t.ctrl)
		next <- stateMessage{s, err}
	})
	return next
}

// await returns the state that nextState reads. It waits for patience.
func (t *test) await(next <-chan stateMessage, want state) error {
	t.ctrl.SetReadDeadline(time.Now().Add(patience))
	m := <-next
	if m.err == nil && m.state != want {
		return unexpected(m.state, want)
	}
	return m.err
}

// flow waits while the data flows. On the client, the test ends after its duration or its bytes. On the server it
// ends with the state TEST_END.
func (t *test) flow(ctx context.Context, next <-chan stateMessage) error {
	var ticks <-chan time.Time
	if t.interval > 0 {
		ticker := time.NewTicker(t.interval)
		defer ticker.Stop()
		ticks = ticker.C
	}
	check := time.NewTicker(time.Second)
	defer check.Stop()
	limit := stallTime
	if t.Rate > 0 {
		limit += dueAfter(int64(t.Block), t.Rate)
	}
	var end <-chan time.Time
	if t.Duration > 0 {
		d := t.Duration
		if t.server {
			d += patience
		}
		timer := time.NewTimer(d)
		defer timer.Stop()
		end = timer.C
	}
	var sent, enough <-chan struct{}
	if !t.server {
		enough = t.enough
		if t.Bytes > 0 && !t.Reverse {
			sent = t.sent
		}
	}
	var failure error
	var fail <-chan time.Time
	last, progress := int64(0), time.Now()
	for {
		select {
		case m := <-next:
			if m.err == nil && !(t.server && m.state == testEnd) {
				m.err = fmt.Errorf("%w: %v while the test runs", ErrProtocol, m.state)
			}
			if m.err == nil && t.fails(&failure) {
				return failure
			}
			return m.err
		case <-ctx.Done():
			return ctx.Err()
		case <-end:
			if t.server {
				return fmt.Errorf("%w: it does not end", ErrStalled)
			}
			if !t.fails(&failure) {
				return nil
			}
			end, fail = nil, time.After(time.Second)
		case <-sent:
			if !t.fails(&failure) {
				return nil
			}
			sent, fail = nil, time.After(time.Second)
		case <-enough:
			return nil
		case err := <-t.failed:
			// The control connection may tell the reason.
			failure, fail = err, time.After(time.Second)
		case <-fail:
			return failure
		case <-ticks:
			t.tick()
		case <-check.C:
			if n := t.totalBytes(); n != last {
				last, progress = n, time.Now()
			} else if time.Since(progress) > limit {
				return fmt.Errorf("%w: no data for %v", ErrStalled, limit)
			}
		}
	}
}

// fails reports whether a stream has failed. failure is the error that was received from t.failed; fails sets it if it
// is nil.
func (t *test) fails(failure *error) bool {
	if *failure == nil {
		select {
		case *failure = <-t.failed:
		default:
		}
	}
	return *failure != nil
}

func (t *test) totalBytes() (n int64) {
	for _, s := range t.streams {
		n += s.bytes.Load()
	}
	return n
}

// tick reports an interval.
func (t *test) tick() {
	now := t.since()
	v := Interval{Start: t.lastEnd, End: now}
	if now <= t.lastEnd {
		return
	}
	for i, s := range t.streams {
		total := StreamInterval{ID: s.id, Sender: s.sender, Bytes: s.bytes.Load(), Packets: s.packets.Load(), Retransmits: -1}
		lost, _, jitter := s.loss()
		total.Lost = lost
		info, known := s.sample()
		if known {
			total.Retransmits = int64(info.Retrans)
		}
		d, was := total, t.previous[i]
		d.Bytes -= was.Bytes
		d.Packets -= was.Packets
		d.Lost -= was.Lost
		d.Jitter = seconds(jitter)
		if known {
			d.Retransmits -= max(was.Retransmits, 0)
			d.Cwnd, d.RTT = int64(info.SndCwnd), time.Duration(info.RTT)
		}
		t.previous[i] = total
		v.Streams = append(v.Streams, d)
	}
	t.lastEnd = now
	var moved int64
	for i := range v.Streams {
		moved += v.Streams[i].Bytes
	}
	if moved == 0 && v.End-v.Start < t.interval/10 {
		return // the test has ended with an interval
	}
	if t.events.Interval != nil && t.interval > 0 {
		t.events.Interval(&v)
	}
}

// seconds converts a number of seconds, which may come from the peer, to a Duration.
func seconds(s float64) time.Duration {
	if !(s >= 0 && s < 1e9) {
		return 0
	}
	return time.Duration(s * float64(time.Second))
}

// endSenders stops the senders and waits until they have ended.
func (t *test) endSenders() {
	t.stopOnce.Do(func() { close(t.stop) })
	for _, s := range t.streams {
		if s.sender {
			s.conn.SetWriteDeadline(time.Now())
			<-s.done
			s.sample()
		}
	}
}

// endReceivers waits for the data that is still on the way, and stops the receivers. done reports whether a
// stream has all its data.
func (t *test) endReceivers(done func(*stream) bool) {
	late := lateTime
	if t.UDP {
		late = lateDatagramTime
	}
	last, progress := t.totalBytes(), time.Now()
	for {
		waits := false
		for _, s := range t.streams {
			waits = waits || !s.sender && !done(s)
		}
		if n := t.totalBytes(); n != last {
			last, progress = n, time.Now()
		}
		if !waits || time.Since(progress) >= late || time.Since(t.began)-t.lastEnd > patience {
			break
		}
		time.Sleep(time.Millisecond)
	}
	for _, s := range t.streams {
		if !s.sender {
			s.conn.SetReadDeadline(time.Now())
			<-s.done
			s.mu.Lock()
			s.final = true
			s.mu.Unlock()
		}
	}
}

// isDone reports whether the goroutine of the stream has ended.
func (s *stream) isDone() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// results returns the message for the peer.
func (t *test) results() resultsMessage {
	m := resultsMessage{HasRetransmits: -1}
	end := t.lastEnd.Seconds()
	if t.senders(t.server) > 0 {
		m.HasRetransmits = 0
	}
	for _, s := range t.streams {
		lost, _, jitter := s.loss()
		if s.retransmits >= 0 {
			m.HasRetransmits = 1
		}
		m.Streams = append(m.Streams, streamMessage{
			ID: number(s.id), Bytes: number(s.bytes.Load()), Retransmits: number(s.retransmits), Jitter: number(jitter),
			Errors: number(min(lost, maxCount)), Packets: number(s.packets.Load()), End: number(end),
		})
	}
	return m
}

// report returns the report. peer has the results of the other side; it may be nil.
func (t *test) report(peer map[int]peerResult) *Report {
	r := &Report{Params: t.Params, Server: t.server, Local: t.ctrl.LocalAddr(), Remote: t.ctrl.RemoteAddr(), Began: t.began, Peer: t.peer, Complete: peer != nil}
	for _, s := range t.streams {
		lost, disorder, jitter := s.loss()
		v := StreamReport{ID: s.id, Sender: s.sender, Local: s.conn.LocalAddr(), Remote: s.conn.RemoteAddr(), Retransmits: s.retransmits, MaxCwnd: s.maxCwnd}
		ours, end := s.bytes.Load(), time.Duration(s.last.Load())
		p := peer[s.id]
		theirs := seconds(p.seconds)
		if s.sender {
			v.Sent, v.Received, v.SentTime, v.ReceivedTime = ours, p.bytes, t.lastEnd, theirs
			v.Packets, v.Lost, v.Jitter = s.packets.Load(), p.lost, seconds(p.jitter)
		} else {
			v.Sent, v.Received, v.SentTime, v.ReceivedTime = p.bytes, ours, theirs, end
			v.Packets, v.Lost, v.OutOfOrder, v.Jitter = max(p.packets, s.packets.Load()), lost, disorder, seconds(jitter)
			v.Retransmits = -1
			if peer != nil {
				v.Retransmits = p.retransmits
			}
		}
		r.Streams = append(r.Streams, v)
	}
	return r
}

// close ends what still runs and closes the streams and the control connection.
func (t *test) close() {
	t.ending.Store(true)
	t.stopOnce.Do(func() { close(t.stop) })
	for _, s := range t.streams {
		s.conn.Close()
	}
	if t.packets != nil {
		t.packets.Close()
	}
	t.ctrl.Close()
	t.work.Wait()
}

// terminate has the test end when ctx ends: it tells the peer and closes the control connection. The function
// that it returns ends this. It replaces an error by that of ctx if ctx has ended.
func (t *test) terminate(ctx context.Context, s state) (end func(err error) error) {
	done := make(chan struct{})
	tell := func() {
		defer close(done)
		t.ctrl.SetWriteDeadline(time.Now().Add(time.Second))
		t.ctrl.Write([]byte{byte(s)})
		t.ctrl.Close()
	}
	stop := context.AfterFunc(ctx, tell)
	return func(err error) error {
		switch {
		case !stop():
			<-done
		case ctx.Err() != nil: // the function has not been started yet
			tell()
		default:
			return err
		}
		if err != nil {
			err = ctx.Err()
		}
		return err
	}
}
