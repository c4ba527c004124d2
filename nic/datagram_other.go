//go:build !linux

package nic

import (
	"errors"
	"net"
	"sync/atomic"
	"syscall"
)

// datagramBuffer is the state of a datagramSocket that receives and sends one frame with each system
// call.
type datagramBuffer struct {
	connected bool
	buf       []byte
	batch     [1]Frame
	peer      atomic.Pointer[net.Addr] // the last sender
	sendMu    condMutex
	join      []byte // under sendMu
}

// setUp prepares the socket.
func (s *datagramSocket) setUp() error { return nil }

// read returns the next frame.
func (s *datagramSocket) read() (frames []Frame, dropped int, err error) {
	if s.io.buf == nil {
		s.io.buf = make([]byte, s.max+1)
	}
	n, from, err := s.conn.ReadFrom(s.io.buf)
	switch {
	case err != nil && passes(err):
		return nil, 1, nil
	case err != nil:
		return nil, 0, err
	}
	if s.learns() && from != nil && from.String() != "" {
		s.io.peer.Store(&from)
	}
	if u, ok := from.(*net.UDPAddr); ok {
		// A zone may be a name here and a number there.
		a, b := unmapped(u.AddrPort()), s.remote.udp
		if a.Port() != b.Port() || a.Addr().WithZone("") != b.Addr().WithZone("") {
			return nil, 1, nil
		}
	}
	if string(s.io.buf[:n]) == handshake {
		return nil, 0, nil
	}
	if n < s.min || n > s.max {
		return nil, 1, nil
	}
	s.io.batch[0] = Frame{Head: s.io.buf[:n]}
	return s.io.batch[:], 0, nil
}

// Errors of sockets on Windows. The POSIX names in package syscall have other values there.
const (
	wsaMessageSize syscall.Errno = 10040 // the datagram is longer than the buffer
	wsaNetReset    syscall.Errno = 10052 // the TTL of a datagram that was sent has expired
	wsaConnReset   syscall.Errno = 10054 // a datagram was sent to a port that no socket has
	wsaNoBuffers   syscall.Errno = 10055
)

// passes reports whether the next read may succeed after err. This is so if err concerns only one datagram, or a peer
// that is not there.
func passes(err error) bool {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return false
	}
	switch errno {
	case syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.ENOBUFS, syscall.ENOMEM, syscall.EINTR, syscall.EMSGSIZE,
		wsaMessageSize, wsaNetReset, wsaConnReset, wsaNoBuffers:
		return true
	}
	return false
}

// write sends the frames of a batch.
func (s *datagramSocket) write(batch []Frame) error {
	s.io.sendMu.lock()
	defer s.io.sendMu.unlock()
	to := s.remote.addr
	if p := s.io.peer.Load(); to == nil && p != nil {
		to = *p
	}
	for i := range batch {
		f := &batch[i]
		if to == nil || !s.loop.current().carries(f) {
			s.loop.sendDropped.Add(1)
			continue
		}
		s.io.join = f.AppendTo(s.io.join[:0])
		if _, err := s.conn.WriteTo(s.io.join, to); errors.Is(err, net.ErrClosed) {
			return err
		} else if err != nil {
			s.loop.sendDropped.Add(1)
		} else {
			s.loop.countSent(1, f.Len())
		}
	}
	return nil
}
