package main

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/soypat/lneto"
	"github.com/soypat/lneto/tcp"
)

// A waker wakes one goroutine. If the goroutine is not waiting, its next wait returns at once.
type waker chan struct{}

func (w waker) wake() {
	select {
	case w <- struct{}{}:
	default:
	}
}

// wait waits until wake is called.
func (w waker) wait() { <-w }

// waitFor waits until wake is called, but for at most the duration most.
func (w waker) waitFor(most time.Duration) {
	t := time.NewTimer(most)
	defer t.Stop()
	select {
	case <-w:
	case <-t.C:
	}
}

// An lnetoDeadline is a deadline of reads or writes. It wakes the waiting goroutine at the time at.
type lnetoDeadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *lnetoDeadline) set(at time.Time, w waker) {
	d.at = at
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if left := time.Until(at); !at.IsZero() && left > 0 {
		d.timer = time.AfterFunc(left, w.wake)
	}
	w.wake()
}

func (d *lnetoDeadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

// An lnetoConn is a tcp.Conn whose callers wait without polling.
type lnetoConn struct {
	h   *lnetoHost
	tcp *tcp.Conn
	// id is the connection's ID. It differs from that of tcp if lneto has reused tcp for another
	// connection.
	id                 uint64
	key                uint32
	readable, writable waker
	rdead, wdead       lnetoDeadline
	dialed, closed     bool
	// hold sets held, and release sets released. While only held is set, the host does not send.
	held, released bool
}

var _ net.Conn = (*lnetoConn)(nil)

// conn makes an lnetoConn of t and adds it to h.conns. h.mu is held.
func (h *lnetoHost) conn(t *tcp.Conn) *lnetoConn {
	c := &lnetoConn{
		h: h, tcp: t, id: *t.ConnectionID(), key: lnetoKey(t.LocalPort(), t.RemotePort()),
		readable: make(waker, 1), writable: make(waker, 1),
		dialed: h.listeners[t.LocalPort()] == nil,
	}
	h.conns[c.key] = c
	return c
}

// remove removes the connection from its host. h.mu is held.
func (c *lnetoConn) remove() {
	c.closed = true
	if c.h.conns[c.key] == c {
		delete(c.h.conns, c.key)
	}
	if c.dialed {
		c.h.closing = append(c.h.closing, c.tcp)
	}
}

// over reports whether tcp no longer belongs to this connection. h.mu is held.
func (c *lnetoConn) over() bool { return c.closed || *c.tcp.ConnectionID() != c.id }

// arrived is called when a segment of the connection has arrived. h.mu is held.
func (c *lnetoConn) arrived() {
	if !c.held && !c.released {
		switch c.tcp.State() {
		case tcp.StateCloseWait:
			c.hold()
		case tcp.StateTimeWait:
			if c.tcp.BufferedInput() > 0 {
				c.hold()
			}
		}
	}
	c.readable.wake()
	c.writable.wake()
}

// hold stops the host from sending until the application has answered the peer's FIN, or until
// lnetoHold has passed. c.h.mu is held. It works around two faults of this version of lneto. First, when
// lneto is asked for a frame after the peer's FIN and nothing has been written yet, it closes its own
// side too. Second, when lneto has acknowledged a FIN that ends the connection, it discards unread
// data.
func (c *lnetoConn) hold() {
	c.held = true
	c.h.holding++
	time.AfterFunc(lnetoHold, func() {
		c.h.mu.Lock()
		defer c.h.mu.Unlock()
		c.release()
		c.h.pump()
	})
}

// release ends hold. Further calls have no effect. c.h.mu is held.
func (c *lnetoConn) release() {
	if c.held && !c.released {
		c.released = true
		c.h.holding--
	}
}

func (c *lnetoConn) Read(b []byte) (int, error) {
	for {
		if n, ok, err := c.tryRead(b); ok {
			return n, err
		}
		c.readable.wait()
	}
}

// tryRead reads if it need not wait. Otherwise ok is false.
func (c *lnetoConn) tryRead(b []byte) (n int, ok bool, err error) {
	c.h.mu.Lock()
	defer c.h.mu.Unlock()
	switch {
	case c.over():
		return 0, true, net.ErrClosed
	case c.tcp.BufferedInput() > 0 || !c.tcp.State().RxDataOpen():
		// There is data, or the end of the stream.
	case c.rdead.passed():
		return 0, true, os.ErrDeadlineExceeded
	default:
		return 0, false, nil
	}
	low := c.tcp.FreeInput() < lnetoBuffer/2 // the receive window is small
	n, err = c.tcp.Read(b)
	if c.tcp.State() == tcp.StateTimeWait && c.tcp.BufferedInput() == 0 && c.held {
		c.release()
		c.h.pump()
	} else if low {
		c.h.pump() // a window update may be due
	}
	return n, true, err
}

func (c *lnetoConn) Write(b []byte) (n int, err error) {
	for n < len(b) {
		m, ok, err := c.tryWrite(b[n:])
		if n += m; err != nil {
			return n, err
		}
		if !ok {
			c.writable.wait()
		}
	}
	return n, nil
}

// tryWrite writes as much as fits into the buffer, and sends. ok is false if the buffer is full.
func (c *lnetoConn) tryWrite(b []byte) (n int, ok bool, err error) {
	c.h.mu.Lock()
	defer c.h.mu.Unlock()
	room := c.tcp.FreeOutput()
	switch {
	case c.over() || !c.tcp.State().TxDataOpen():
		return 0, true, net.ErrClosed
	case c.wdead.passed():
		return 0, true, os.ErrDeadlineExceeded
	case room == 0:
		return 0, false, nil
	}
	n, err = c.tcp.Write(b[:min(room, len(b))])
	c.release()
	c.h.pump()
	return n, true, err
}

// CloseWrite calls lneto's Close, which ends the sending side; reading still works.
func (c *lnetoConn) CloseWrite() error {
	c.h.mu.Lock()
	defer c.h.mu.Unlock()
	if c.over() {
		return net.ErrClosed
	}
	err := c.tcp.Close()
	c.release()
	c.h.pump()
	return err
}

func (c *lnetoConn) Close() error {
	c.h.mu.Lock()
	defer c.h.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	if !c.over() {
		c.tcp.Close() // returns an error if tcp is already closing
	}
	c.remove()
	c.release()
	c.h.pump()
	c.readable.wake()
	c.writable.wake()
	return nil
}

func (c *lnetoConn) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

func (c *lnetoConn) SetReadDeadline(t time.Time) error {
	c.h.mu.Lock()
	defer c.h.mu.Unlock()
	c.rdead.set(t, c.readable)
	return nil
}

func (c *lnetoConn) SetWriteDeadline(t time.Time) error {
	c.h.mu.Lock()
	defer c.h.mu.Unlock()
	c.wdead.set(t, c.writable)
	return nil
}

func (c *lnetoConn) LocalAddr() net.Addr  { return &net.TCPAddr{Port: int(c.key >> 16)} }
func (c *lnetoConn) RemoteAddr() net.Addr { return &net.TCPAddr{Port: int(c.key & 0xffff)} }

// An lnetoSocket is a UDP socket for any number of peers. lneto's own UDP socket has only one peer,
// which must be known in advance. An lnetoSocket is a node of the stack, like lneto's DHCP server.
type lnetoSocket struct {
	h        *lnetoHost
	id       uint64
	port     uint16
	to       netip.AddrPort // the peer of a dialed socket
	in, out  []lnetoDatagram
	spare    [][]byte
	readable waker
	rdead    lnetoDeadline
	closed   bool
}

type lnetoDatagram struct {
	addr netip.AddrPort
	data []byte
}

var (
	_ lneto.StackNode = (*lnetoSocket)(nil)
	_ net.PacketConn  = (*lnetoSocket)(nil)
	_ net.Conn        = (*lnetoSocket)(nil)
	_ addrPortConn    = (*lnetoSocket)(nil)
)

func (h *lnetoHost) packetConn(port uint16, to netip.AddrPort) (*lnetoSocket, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if port == 0 {
		h.nextPort = max(h.nextPort+1, lnetoEphemeral) // 65535 wraps to lnetoEphemeral
		port = h.nextPort
	}
	s := &lnetoSocket{h: h, port: port, to: to, readable: make(waker, 1)}
	return s, h.stack.RegisterUDP(s, nil, 0)
}

func (s *lnetoSocket) LocalPort() uint16     { return s.port }
func (s *lnetoSocket) Protocol() uint64      { return uint64(lneto.IPProtoUDP) }
func (s *lnetoSocket) ConnectionID() *uint64 { return &s.id }

// datagram returns a datagram with a copy of data, in a reused buffer if there is one.
func (s *lnetoSocket) datagram(addr netip.AddrPort, data []byte) lnetoDatagram {
	var b []byte
	if n := len(s.spare); n > 0 {
		b, s.spare = s.spare[n-1], s.spare[:n-1]
	}
	return lnetoDatagram{addr, append(b[:0], data...)}
}

// take removes and returns the first datagram of a queue. Its data is valid while s.h.mu is held.
func (s *lnetoSocket) take(q *[]lnetoDatagram) lnetoDatagram {
	d := (*q)[0]
	*q = append((*q)[:0], (*q)[1:]...)
	s.spare = append(s.spare, d.data)
	return d
}

// Demux receives a datagram from the stack. The IP header begins at ip[0], and the UDP payload at
// ip[off].
func (s *lnetoSocket) Demux(ip []byte, off int) error {
	if len(s.in) < lnetoQueue {
		from := netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[12:])), binary.BigEndian.Uint16(ip[off-8:]))
		end := off - 8 + int(binary.BigEndian.Uint16(ip[off-4:]))
		s.in = append(s.in, s.datagram(from, ip[off:end]))
		s.readable.wake()
	}
	return nil
}

// Encapsulate writes the next datagram into a frame of the stack.
func (s *lnetoSocket) Encapsulate(frame []byte, ip, off int) (int, error) {
	if len(s.out) == 0 {
		return 0, nil
	}
	d := s.take(&s.out)
	to := d.addr.Addr().As4()
	copy(frame[ip+16:], to[:])
	binary.BigEndian.PutUint16(frame[off-6:], d.addr.Port())
	return copy(frame[off:], d.data), nil
}

func (s *lnetoSocket) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	for {
		s.h.mu.Lock()
		switch {
		case s.closed:
			s.h.mu.Unlock()
			return 0, netip.AddrPort{}, net.ErrClosed
		case len(s.in) > 0:
			d := s.take(&s.in)
			n := copy(b, d.data)
			s.h.mu.Unlock()
			return n, d.addr, nil
		case s.rdead.passed():
			s.h.mu.Unlock()
			return 0, netip.AddrPort{}, os.ErrDeadlineExceeded
		}
		s.h.mu.Unlock()
		s.readable.wait()
	}
}

func (s *lnetoSocket) WriteToUDPAddrPort(b []byte, addr netip.AddrPort) (int, error) {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	if s.closed {
		return 0, net.ErrClosed
	}
	s.out = append(s.out, s.datagram(addr, b))
	s.h.pump()
	return len(b), nil
}

func (s *lnetoSocket) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := s.ReadFromUDPAddrPort(b)
	return n, net.UDPAddrFromAddrPort(from), err
}

func (s *lnetoSocket) WriteTo(b []byte, addr net.Addr) (int, error) {
	return s.WriteToUDPAddrPort(b, addr.(*net.UDPAddr).AddrPort())
}

func (s *lnetoSocket) Read(b []byte) (int, error) {
	n, _, err := s.ReadFromUDPAddrPort(b)
	return n, err
}

func (s *lnetoSocket) Write(b []byte) (int, error) { return s.WriteToUDPAddrPort(b, s.to) }

func (s *lnetoSocket) Close() error {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	s.closed = true
	s.id++ // makes the stack remove the socket
	s.readable.wake()
	return nil
}

func (s *lnetoSocket) SetDeadline(t time.Time) error { return s.SetReadDeadline(t) }

func (s *lnetoSocket) SetReadDeadline(t time.Time) error {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	s.rdead.set(t, s.readable)
	return nil
}

func (s *lnetoSocket) SetWriteDeadline(time.Time) error { return nil }
func (s *lnetoSocket) LocalAddr() net.Addr              { return &net.UDPAddr{Port: int(s.port)} }
func (s *lnetoSocket) RemoteAddr() net.Addr             { return net.UDPAddrFromAddrPort(s.to) }
