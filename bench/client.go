package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// A client runs the client side of one workload.
type client struct {
	n    *network
	t    *task
	stop atomic.Bool // set when the time is over
	// dialing has a value for each connection that is being made. It limits their number.
	dialing chan struct{}
	// connected receives a value from each goroutine when its connection is established. begin is
	// closed when all connections are established.
	connected, begin chan struct{}

	control net.Conn // for udpBulk: the connection on which the server tells what has arrived

	mu     sync.Mutex
	counts []*counter
	conns  []net.Conn
	failed int
	lost   int
	note   string
}

// A counter counts the operations or bytes of one goroutine. It fills a cache line, so that goroutines
// on different cores do not share one.
type counter struct {
	atomic.Int64
	_ [56]byte
}

// runClient runs the client side of the task.
func runClient(n *network, t *task) (report, error) {
	n, err := wrapped(n, t)
	if err != nil {
		return report{}, err
	}
	c := &client{n: n, t: t, dialing: make(chan struct{}, dialers)}
	var work func(*counter) error
	loops := t.N
	switch t.Kind {
	case send:
		return c.send()
	case flow:
		work = c.flow
	case recv:
		work = c.recv
	case pingpong:
		work = c.pingpong
	case short:
		work = c.short
	case udpEcho:
		work, loops = c.datagrams, 1
	case files:
		work = c.fetch
	case h2:
		work = c.h2()
	case unary:
		work, err = c.unary()
	case names:
		work, err = c.lookups()
	case udpBulk:
		work = c.blast
	case goHTTP:
		work = c.http()
	default:
		err = fmt.Errorf("no client for %q", t.Kind)
	}
	if err != nil {
		return report{}, err
	}
	return c.run(loops, work)
}

// run runs work in loops goroutines. The report's Count is the difference of their counters between the
// end of the warm-up and the end of the run.
func (c *client) run(loops int, work func(*counter) error) (report, error) {
	var wg sync.WaitGroup
	errs := make(chan error, loops)
	c.connected, c.begin = make(chan struct{}, loops), make(chan struct{})
	for range loops {
		n := new(counter)
		c.counts = append(c.counts, n)
		wg.Go(func() {
			if err := work(n); err != nil && !c.stop.Load() {
				errs <- err
			}
		})
	}
	for range loops {
		select {
		case err := <-errs:
			return report{}, err
		case <-c.connected:
		}
	}
	close(c.begin)
	wait := func(d time.Duration) error {
		select {
		case err := <-errs:
			return err
		case <-time.After(d):
			return nil
		}
	}
	if err := wait(c.t.warmUp()); err != nil {
		return report{}, err
	}
	first, begin, err := c.count()
	if err != nil {
		return report{}, err
	}
	if err := wait(c.t.Time); err != nil {
		return report{}, err
	}
	last, end, err := c.count()
	if err != nil {
		return report{}, err
	}
	total := last
	c.stop.Store(true)
	c.mu.Lock()
	for _, conn := range c.conns {
		// Without a deadline, a call that waits for a lost answer would never end.
		conn.SetDeadline(time.Now().Add(time.Second))
		if c.t.Kind == recv || c.t.Kind == flow || c.t.Kind == files {
			conn.Close()
		}
	}
	c.mu.Unlock()
	wg.Wait()
	if c.t.Kind != udpBulk { // blast has closed the connection on which the server was asked
		if total, _, err = c.count(); err != nil {
			return report{}, err
		}
	}
	return report{
		Count: float64(last - first), Time: end - begin, Total: float64(total),
		Errors: c.failed, Lost: c.lost, Note: c.note,
	}, nil
}

// count returns the number of operations or bytes so far, and the time at which it was read, on the clock of the side that
// counts. The time to ask the server for its count is therefore not part of the time between two counts.
func (c *client) count() (n int64, at time.Duration, err error) {
	switch c.t.Kind {
	case flow:
		return c.t.arrived.Load(), clock(), nil
	case udpBulk:
		return c.arrived()
	}
	for _, m := range c.counts {
		n += m.Load()
	}
	return n, clock(), nil
}

// started is the time at which clock returns 0.
var started = time.Now()

// clock returns the monotonic time of this process.
func clock() time.Duration { return time.Since(started) }

func (c *client) addr() string { return net.JoinHostPort(c.t.Addr, strconv.Itoa(c.t.Port)) }

// dialers is the maximum number of concurrent dials in a workload whose connections stay open.
const dialers = 64

func (c *client) dial(network string) (net.Conn, error) {
	if c.t.Kind != short {
		c.dialing <- struct{}{}
		defer func() { <-c.dialing }()
	}
	conn, err := c.n.dial(network, c.addr())
	if err == nil && c.t.Kind != short {
		c.mu.Lock()
		c.conns = append(c.conns, conn)
		c.mu.Unlock()
	}
	return conn, err
}

// fail counts a failed operation.
func (c *client) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failed++
	if c.note == "" {
		c.note = err.Error()
	}
}

// send writes on all connections for the time of the run. On each connection, the server reports at the
// end how many bytes arrived.
func (c *client) send() (report, error) {
	var wg sync.WaitGroup
	var total atomic.Uint64
	errs := make(chan error, c.t.N)
	time.AfterFunc(c.t.Time, func() { c.stop.Store(true) })
	begin := time.Now()
	for range c.t.N {
		wg.Go(func() {
			n, err := c.sendOne()
			total.Add(n)
			if err != nil {
				errs <- err
			}
		})
	}
	wg.Wait()
	took := time.Since(begin)
	select {
	case err := <-errs:
		return report{}, err
	default:
	}
	n := float64(total.Load())
	return report{Count: n, Time: took, Total: n}, nil
}

func (c *client) sendOne() (uint64, error) {
	conn, err := c.dial(c.t.network("tcp"))
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(c.t.Time + 10*time.Second))
	buf := make([]byte, c.t.Setup.Chunk)
	var sent uint64
	for !c.stop.Load() {
		n, err := conn.Write(buf)
		sent += uint64(n)
		if err != nil {
			return 0, err
		}
	}
	half, ok := conn.(interface{ CloseWrite() error })
	if !ok {
		return 0, errors.New("no CloseWrite")
	}
	if err := half.CloseWrite(); err != nil {
		return 0, err
	}
	var answer [8]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return 0, fmt.Errorf("the server's count: %w", err)
	}
	got := binary.BigEndian.Uint64(answer[:])
	if got != sent {
		return 0, fmt.Errorf("%d bytes of %d arrived", got, sent)
	}
	return got, nil
}

// flow writes on one connection until the run ends. The server, in the same process, counts the bytes.
func (c *client) flow(*counter) error {
	conn, err := c.dial(c.t.network("tcp"))
	if err != nil {
		return err
	}
	defer conn.Close()
	c.connected <- struct{}{}
	buf := make([]byte, c.t.Setup.Chunk)
	for !c.stop.Load() {
		if _, err := conn.Write(buf); err != nil {
			return err
		}
	}
	return nil
}

func (c *client) recv(count *counter) error {
	conn, err := c.dial(c.t.network("tcp"))
	if err != nil {
		return err
	}
	defer conn.Close()
	c.connected <- struct{}{}
	buf := make([]byte, c.t.Setup.Chunk)
	for !c.stop.Load() {
		n, err := conn.Read(buf)
		if err != nil {
			return err
		}
		count.Add(int64(n))
	}
	return nil
}

func (c *client) pingpong(count *counter) error {
	conn, err := c.dial(c.t.network("tcp"))
	if err != nil {
		return err
	}
	defer conn.Close()
	c.connected <- struct{}{}
	<-c.begin
	buf := make([]byte, 1)
	for !c.stop.Load() {
		if _, err := conn.Write(buf); err != nil {
			return err
		}
		if _, err := conn.Read(buf); err != nil {
			return err
		}
		count.Add(1)
	}
	return nil
}

func (c *client) short(count *counter) error {
	c.connected <- struct{}{} // each operation makes its own connection
	buf := make([]byte, 1)
	for !c.stop.Load() {
		if err := c.shortOnce(buf); err != nil {
			c.fail(err)
			time.Sleep(time.Millisecond)
			continue
		}
		count.Add(1)
	}
	return nil
}

func (c *client) shortOnce(buf []byte) error {
	conn, err := c.dial(c.t.network("tcp"))
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.Write(buf); err != nil {
		return err
	}
	if _, err := conn.Read(buf); err != nil {
		return err
	}
	// The server closes first, so its side has TIME-WAIT.
	if _, err := conn.Read(buf); err != io.EOF {
		return fmt.Errorf("%v instead of EOF", err)
	}
	return nil
}

// datagrams keeps N datagrams in flight on one socket.
func (c *client) datagrams(count *counter) error {
	conn, err := c.dial(c.t.network("udp"))
	if err != nil {
		return err
	}
	defer conn.Close()
	c.connected <- struct{}{}
	out, in := make([]byte, c.t.Size), make([]byte, 64<<10)
	for !c.stop.Load() {
		for range c.t.N {
			if _, err := conn.Write(out); err != nil {
				return err
			}
		}
		if err := c.echoes(conn, out, in, count); err != nil {
			return err
		}
	}
	return nil
}

// echoes sends a new datagram for each echo that arrives. It returns nil if no echo arrives for 100 to
// 200 ms: then all datagrams in flight are lost.
func (c *client) echoes(conn net.Conn, out, in []byte, count *counter) error {
	const patience = 100 * time.Millisecond
	conn.SetReadDeadline(time.Now().Add(patience))
	arrived := false // since the deadline was set: setting it for each echo would cost time
	for !c.stop.Load() {
		n, err := conn.Read(in)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if !arrived {
				c.lost += c.t.N
				return nil
			}
			conn.SetReadDeadline(time.Now().Add(patience))
			arrived = false
			continue
		}
		if err != nil {
			return err
		}
		arrived = true
		if n != len(out) {
			return fmt.Errorf("an echo of %d bytes", n)
		}
		count.Add(1)
		if _, err := conn.Write(out); err != nil {
			return err
		}
	}
	return nil
}

func (c *client) http() func(*counter) error {
	tr := &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return c.n.dial(c.t.network("tcp"), addr)
		},
		MaxIdleConns:        c.t.N,
		MaxIdleConnsPerHost: c.t.N,
		DisableKeepAlives:   c.t.Close,
		DisableCompression:  true,
	}
	cl := &http.Client{Transport: tr}
	url := "http://" + c.addr() + "/"
	get := func() error {
		resp, err := cl.Get(url)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		n, err := io.Copy(io.Discard, resp.Body)
		if err == nil && n != 13 { // len("Hello, World!")
			err = fmt.Errorf("a body of %d bytes", n)
		}
		return err
	}
	return func(count *counter) error {
		c.connected <- struct{}{} // the transport makes the connections
		for !c.stop.Load() {
			if err := get(); err != nil {
				c.fail(err)
				time.Sleep(time.Millisecond)
				continue
			}
			count.Add(1)
		}
		return nil
	}
}
