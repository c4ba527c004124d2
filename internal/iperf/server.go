package iperf

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/usernet/usernet/internal/accept"
)

// A Server runs the tests of clients, one after the other. While a test runs, it refuses other clients, which
// then report that the server is busy.
type Server struct {
	// Listener accepts the control connections and the TCP streams. Serve closes it.
	Listener net.Listener
	// ListenPacket opens the socket for the UDP streams of a test, as net.ListenPacket does. The address is that
	// of the control connection. If ListenPacket is nil, the server refuses UDP tests.
	ListenPacket func(network, address string) (net.PacketConn, error)
	// Interval is the time between reports of intervals. 0: there are none.
	Interval time.Duration
	// Events are those of the tests. End is also called for a client that sends a cookie and no test.
	Events Events
	// OneOff ends Serve after one test. Serve then returns the error of the test.
	OneOff bool
	// Warn, if not nil, is called with temporary errors of the listener.
	Warn func(err error)
}

// cookieTime is how long a new connection may take for its cookie. maxWaiting is how many connections may wait
// with theirs.
const (
	cookieTime = 10 * time.Second
	maxWaiting = 256
)

// A serving is a Server at work.
type serving struct {
	*Server

	mu       sync.Mutex
	waiting  map[net.Conn]bool // connections whose cookie is being read
	key      cookie            // of the running test
	running  bool
	offers   chan offer // takes the streams of the running test; nil: none are wanted
	closed   bool
	ended    error // of the test, with OneOff
	handlers sync.WaitGroup
}

// An offer is a connection with the cookie of the running test. Order is its number in the order in which the
// server accepted its connections.
type offer struct {
	conn  net.Conn
	order int
}

// Serve serves until ctx ends, until the listener fails, or with OneOff until a test has ended. It returns nil if
// ctx has ended. It ends a test that runs.
func (v *Server) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &serving{Server: v, waiting: make(map[net.Conn]bool)}
	stop := context.AfterFunc(ctx, func() { v.Listener.Close() })
	defer stop()
	order := 0
	err := accept.Serve(ctx, v.Listener, func(err error, _ time.Duration) {
		if v.Warn != nil {
			v.Warn(err)
		}
	}, func(c net.Conn) {
		order++
		n := order
		if !s.wait(c) {
			c.Close()
			return
		}
		s.handlers.Go(func() { s.handle(ctx, c, n) })
	})
	v.Listener.Close()
	cancel()
	s.mu.Lock()
	s.closed = true
	for c := range s.waiting {
		c.Close()
	}
	s.mu.Unlock()
	s.handlers.Wait()
	if err == nil {
		err = s.ended
	}
	return err
}

// wait adds a connection to those whose cookie is being read. It reports false if there are too many.
func (s *serving) wait(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.waiting) >= maxWaiting {
		return false
	}
	s.waiting[c] = true
	return true
}

// handle reads the cookie of a connection. A connection is then the control connection of a new test, a stream of
// the running one, or refused.
func (s *serving) handle(ctx context.Context, c net.Conn, order int) {
	var key cookie
	c.SetReadDeadline(time.Now().Add(cookieTime))
	_, err := io.ReadFull(c, key[:])
	s.mu.Lock()
	delete(s.waiting, c)
	begins, taken := false, false
	switch {
	case err != nil || s.closed:
		s.mu.Unlock()
		c.Close()
		return
	case !s.running:
		s.running, s.key, begins = true, key, true
	case s.offers != nil && s.key == key:
		select {
		case s.offers <- offer{c, order}:
			taken = true
		default: // it has all of its streams
		}
	}
	s.mu.Unlock()
	switch {
	case begins:
		s.test(ctx, c)
	case !taken:
		c.SetWriteDeadline(time.Now().Add(time.Second))
		writeState(c, accessDenied)
		c.Close()
	}
}

// test runs a test.
func (s *serving) test(ctx context.Context, ctrl net.Conn) {
	ctrl.SetReadDeadline(time.Time{})
	t := newTest(ctrl, true, s.Interval, &s.Events)
	end := t.terminate(ctx, serverTerminate)
	peer, err := s.run(ctx, t)
	err = end(err)
	if err != nil && ctx.Err() == nil {
		t.refuse(err)
	}
	s.want(nil)
	t.close()
	s.mu.Lock()
	s.running = false
	if s.OneOff {
		s.ended = err
	}
	s.mu.Unlock()
	if s.Events.End != nil {
		s.Events.End(t.report(peer), err)
	}
	if s.OneOff {
		s.Listener.Close()
	}
}

// want sets where the streams of the test go. It closes those that the previous channel still has.
func (s *serving) want(offers chan offer) {
	s.mu.Lock()
	old := s.offers
	s.offers = offers
	s.mu.Unlock()
	for old != nil {
		select {
		case o := <-old:
			o.conn.Close()
		default:
			return
		}
	}
}

// A setupError is the failure of a server to begin a test. Its code is sent to the client.
type setupError struct {
	code int32
	err  error
}

func (e *setupError) Error() string { return e.err.Error() }
func (e *setupError) Unwrap() error { return e.err }

// refuse tells the client why the server ends the test.
func (t *test) refuse(err error) {
	if errors.Is(err, ErrTerminated) || errors.Is(err, ErrClosed) {
		return
	}
	var wrong *rangeError
	var setup *setupError
	var code int32
	switch {
	case errors.As(err, &wrong):
		code = wrong.code
	case errors.As(err, &setup):
		code = setup.code
	}
	said := serverTerminate
	if code != 0 {
		said = serverError
	}
	b := []byte{byte(said)}
	if code != 0 {
		b = binary.BigEndian.AppendUint32(b, uint32(code))
		b = binary.BigEndian.AppendUint32(b, 0)
	}
	t.ctrl.SetWriteDeadline(time.Now().Add(time.Second))
	t.ctrl.Write(b)
}

// run runs a test until both sides have the results.
func (s *serving) run(ctx context.Context, t *test) (map[int]peerResult, error) {
	if err := writeState(t.ctrl, paramExchange); err != nil {
		return nil, err
	}
	var m paramsMessage
	err := receiveMessage(t.ctrl, maxParams, &m)
	if err == nil {
		t.peer = m.Version[:min(len(m.Version), 32)]
		t.Params, err = m.params()
	}
	if errors.Is(err, ErrProtocol) {
		err = &setupError{codeRecvParams, err}
	}
	if err != nil {
		return nil, err
	}
	next := t.nextState()
	connect := s.acceptStreams
	if t.UDP {
		connect = s.greetStreams
	}
	if err := connect(ctx, t, next); err != nil {
		return nil, err
	}
	if err := writeState(t.ctrl, testStart); err != nil {
		return nil, err
	}
	t.start() // before the client may send
	if err := writeState(t.ctrl, testRunning); err != nil {
		return nil, err
	}
	if err := t.flow(ctx, next); err != nil {
		t.tick()
		return nil, err
	}
	return t.serveResults()
}

// serveResults exchanges the results after TEST_END.
func (t *test) serveResults() (map[int]peerResult, error) {
	t.ending.Store(true)
	t.endSenders()
	t.tick()
	for _, s := range t.streams {
		if s.sender && !t.UDP {
			s.conn.Close() // the client reads until the end of the stream
		}
	}
	if err := writeState(t.ctrl, exchangeResults); err != nil {
		return nil, err
	}
	var m resultsMessage
	if err := receiveMessage(t.ctrl, maxResults, &m); err != nil {
		return nil, err
	}
	peer, err := m.results(t.streams)
	if err != nil {
		return nil, err
	}
	t.endReceivers(func(s *stream) bool {
		if t.UDP {
			return s.packets.Load() >= peer[s.id].packets
		}
		return s.isDone() || s.bytes.Load() >= peer[s.id].bytes
	})
	if err := writeMessage(t.ctrl, t.results()); err != nil {
		return peer, err
	}
	if err := writeState(t.ctrl, displayResults); err != nil {
		return peer, err
	}
	if err := expect(t.ctrl, testDone); err != nil && !errors.Is(err, ErrClosed) {
		return peer, err
	}
	return peer, nil
}

// early returns the error of a client that says something before the test runs.
func early(m stateMessage) error {
	if m.err != nil {
		return m.err
	}
	return fmt.Errorf("%w: %v before the test runs", ErrProtocol, m.state)
}

// acceptStreams waits for the TCP streams. They are numbered in the order in which they were accepted, which
// need not be that of their cookies.
func (s *serving) acceptStreams(ctx context.Context, t *test, next <-chan stateMessage) error {
	offers := make(chan offer, t.total())
	s.want(offers)
	if err := writeState(t.ctrl, createStreams); err != nil {
		return err
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	var got []offer
	defer func() {
		for _, o := range got {
			o.conn.Close()
		}
	}()
	for len(got) < t.total() {
		select {
		case o := <-offers:
			o.conn.SetReadDeadline(time.Time{})
			i := len(got)
			for i > 0 && got[i-1].order > o.order {
				i--
			}
			got = append(got, offer{})
			copy(got[i+1:], got[i:])
			got[i] = o
		case m := <-next:
			return early(m)
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			return &setupError{codeCreateStream, fmt.Errorf("%w: %d of %d streams were connected", ErrStalled, len(got), t.total())}
		}
	}
	s.want(nil)
	for _, o := range got {
		t.addStream(o.conn)
	}
	got = nil
	return nil
}

// A packetStream is a UDP stream of a server. All streams share a socket. Their datagrams are read by
// readPackets.
type packetStream struct {
	net.PacketConn
	to net.Addr
}

func (p *packetStream) Write(b []byte) (int, error)     { return p.WriteTo(b, p.to) }
func (p *packetStream) Read([]byte) (int, error)        { return 0, net.ErrClosed }
func (p *packetStream) RemoteAddr() net.Addr            { return p.to }
func (p *packetStream) SetReadDeadline(time.Time) error { return nil }

// greetStreams opens the socket and waits until the UDP streams have begun. The datagrams of all streams are then
// read in the background.
func (s *serving) greetStreams(ctx context.Context, t *test, next <-chan stateMessage) error {
	if s.ListenPacket == nil {
		return &setupError{codeProtocol, errors.New("this server has no UDP")}
	}
	pc, err := s.ListenPacket("udp", t.ctrl.LocalAddr().String())
	if err != nil {
		return &setupError{codeListen, err}
	}
	t.packets = pc
	if c, ok := pc.(interface{ SetReadBuffer(int) error }); ok {
		c.SetReadBuffer(datagramBuffer) // the system may allow less
	}
	all, ended := make(chan struct{}), make(chan struct{})
	t.work.Go(func() {
		defer close(ended)
		t.readPackets(all)
	})
	err = writeState(t.ctrl, createStreams)
	if err == nil {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		select {
		case <-all:
			return nil
		case m := <-next:
			err = early(m)
		case <-ctx.Done():
			err = ctx.Err()
		case <-timer.C:
			err = &setupError{codeCreateStream, fmt.Errorf("%w: the UDP streams did not begin", ErrStalled)}
		}
	}
	pc.Close()
	<-ended
	return err
}

// addrOf returns the address of a TCP or UDP end point.
func addrOf(a net.Addr) netip.AddrPort {
	v, ok := a.(interface{ AddrPort() netip.AddrPort })
	if !ok {
		return netip.AddrPort{}
	}
	ap := v.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// readPackets reads datagrams until the socket is closed. The first one from a port of the client begins a
// stream. When all streams have begun, readPackets closes the channel all.
func (t *test) readPackets(all chan<- struct{}) {
	client := addrOf(t.ctrl.RemoteAddr()).Addr()
	streams := make(map[netip.AddrPort]*stream)
	buf := make([]byte, maxUDPBlock+1)
	for {
		n, from, err := t.packets.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(time.Millisecond) // such as an ICMP error
			continue
		}
		addr := addrOf(from)
		s := streams[addr]
		switch {
		case t.flowing.Load():
			if s != nil && !s.sender {
				t.receivedDatagram(s, buf[:n])
			}
		case n != len(udpHello) || addr.Addr() != client:
		case s == nil && len(streams) == t.total():
		default:
			t.packets.WriteTo([]byte(udpReply), from)
			if s != nil {
				continue // the answer may have been lost
			}
			t.addStream(&packetStream{t.packets, from})
			streams[addr] = t.streams[len(t.streams)-1]
			if len(streams) == t.total() {
				close(all)
			}
		}
	}
}
