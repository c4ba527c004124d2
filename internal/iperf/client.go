package iperf

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// A Client runs a test with a server.
type Client struct {
	// Dial makes the connections, as net.Dialer.DialContext does.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Network is "tcp", "tcp4" or "tcp6"; "tcp" if it is empty.
	Network string
	// Addr is the address of the server with its port.
	Addr   string
	Params Params
	// Interval is the time between reports of intervals. 0: there are none.
	Interval time.Duration
	Events   Events
}

// Run runs the test. If ctx ends, Run ends the test and returns the error of ctx. Other errors are those of Dial
// and of the connections, a *ServerError, ErrBusy, ErrTerminated, ErrClosed, ErrStalled and ErrProtocol; they may
// be wrapped.
func (c *Client) Run(ctx context.Context) error {
	network := c.Network
	if network == "" {
		network = "tcp"
	}
	r := &Report{Params: c.Params}
	ctrl, err := c.Dial(ctx, network, c.Addr)
	if err == nil {
		t := newTest(ctrl, false, c.Interval, &c.Events)
		t.Params = c.Params
		end := t.terminate(ctx, clientTerminate)
		var peer map[int]peerResult
		peer, err = c.run(ctx, t)
		err = end(err)
		t.close()
		r = t.report(peer)
	}
	if c.Events.End != nil {
		c.Events.End(r, err)
	}
	return err
}

func (c *Client) run(ctx context.Context, t *test) (map[int]peerResult, error) {
	mss := 0
	if i, ok := t.ctrl.(informed); ok {
		mss = i.Info().SndMSS
	}
	t.setDefaults(mss)
	if err := t.check(); err != nil {
		return nil, err
	}
	key := newCookie()
	t.ctrl.SetWriteDeadline(time.Now().Add(patience))
	if _, err := t.ctrl.Write(key[:]); err != nil {
		return nil, err
	}
	if err := expect(t.ctrl, paramExchange); err != nil {
		return nil, err
	}
	if err := writeMessage(t.ctrl, t.message()); err != nil {
		return nil, err
	}
	if err := expect(t.ctrl, createStreams); err != nil {
		return nil, err
	}
	if err := c.connect(ctx, t, key); err != nil {
		return nil, err
	}
	if err := expect(t.ctrl, testRunning); err != nil {
		return nil, err
	}
	t.start()
	next := t.nextState()
	if err := t.flow(ctx, next); err != nil {
		t.tick()
		return nil, err
	}
	return t.finish(next)
}

// connect makes the streams, and waits for TEST_START.
func (c *Client) connect(ctx context.Context, t *test, key cookie) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	made := make(chan error, 1)
	next := t.nextState()
	t.work.Go(func() {
		for range t.total() {
			s, err := c.dialStream(ctx, t, key)
			if err != nil {
				made <- err
				return
			}
			t.addStream(s)
		}
		made <- nil
	})
	select {
	case err := <-made:
		if err != nil {
			return err
		}
		return t.await(next, testStart)
	case m := <-next:
		if m.err == nil && m.state != testStart {
			m.err = unexpected(m.state, testStart)
		}
		if m.err != nil {
			cancel()
		}
		if err := <-made; m.err == nil {
			m.err = err
		}
		return m.err
	}
}

// dialStream connects a stream to the address of the control connection.
func (c *Client) dialStream(ctx context.Context, t *test, key cookie) (_ net.Conn, err error) {
	remote := t.ctrl.RemoteAddr()
	network := remote.Network()
	if t.UDP {
		network = "udp"
	}
	if strings.HasSuffix(c.Network, "4") || strings.HasSuffix(c.Network, "6") {
		network += c.Network[len(c.Network)-1:]
	}
	s, err := c.Dial(ctx, network, remote.String())
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { s.SetDeadline(time.Now()) })
	defer func() {
		if !stop() && err == nil {
			err = ctx.Err()
		}
		if err != nil {
			s.Close()
		}
	}()
	s.SetDeadline(time.Now().Add(patience))
	if !t.UDP {
		if _, err = s.Write(key[:]); err != nil {
			return nil, err
		}
	} else if err = greet(s); err != nil {
		return nil, fmt.Errorf("no answer to the first datagram: %w", err)
	}
	return s, s.SetDeadline(time.Time{})
}

// maxEarly is how many datagrams of a sender may arrive before the answer to a client's first datagram.
const maxEarly = 1000

// greet sends the first datagram of a stream, and waits for the answer.
func greet(s net.Conn) error {
	if _, err := io.WriteString(s, udpHello); err != nil {
		return err
	}
	buf := make([]byte, maxUDPBlock)
	for range maxEarly {
		n, err := s.Read(buf)
		if err != nil {
			return err
		}
		if got := string(buf[:n]); got == udpReply || got == udpReplyPast {
			return nil
		}
	}
	return ErrProtocol
}

// finish ends the test and exchanges the results.
func (t *test) finish(next <-chan stateMessage) (map[int]peerResult, error) {
	t.endSenders()
	t.tick()
	t.settle()
	t.ending.Store(true)
	if err := writeState(t.ctrl, testEnd); err != nil {
		return nil, err
	}
	if err := t.await(next, exchangeResults); err != nil {
		return nil, err
	}
	// The server has closed the streams with which it has sent over TCP.
	t.endReceivers((*stream).isDone)
	if err := writeMessage(t.ctrl, t.results()); err != nil {
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
	if err := expect(t.ctrl, displayResults); err != nil {
		return peer, err
	}
	writeState(t.ctrl, testDone) // an error does not matter: both have the results
	return peer, nil
}

// settleTime is how long a client waits after the last data, at least, before it sends TEST_END.
const settleTime = 50 * time.Millisecond

// settle waits until the data that this side has sent has probably been read. iperf3's server does not count what
// it has not read when TEST_END arrives. A test of TCP that ends after a time, or in which the server sends too,
// ends at once, as with iperf3.
func (t *test) settle() {
	if t.senders(true) > 0 || !t.UDP && !(t.budget.limited && t.budget.left.Load() <= 0) {
		return
	}
	end := time.Now().Add(lateTime)
	wait := settleTime
	for _, s := range t.streams {
		if t.UDP {
			break
		}
		info, known := s.tcpInfo()
		for known && info.Unacked+info.NotSent > 0 && time.Now().Before(end) {
			time.Sleep(time.Millisecond)
			info, known = s.tcpInfo()
		}
		wait = max(wait, min(2*time.Duration(info.RTT), lateTime))
	}
	time.Sleep(wait)
}
