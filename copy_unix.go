//go:build unix

package usernet

import (
	"io"
	"net"
	"syscall"

	"github.com/usernet/usernet/stack"
)

// A systemSource is a stream connection of package net that ReadFrom reads. It makes each SendBlock when the
// connection has data, and reads with one system call.
type systemSource struct {
	conn syscall.Conn
	raw  syscall.RawConn
	try  func(fd uintptr) bool // the method value read, allocated once

	// Argument and result of read.
	dst         *stack.TCP
	size, limit int
	b           *stack.SendBlock
	n           int
	errno       error
}

// newSystemSource returns the source for c, or nil if c is not a stream connection. c is of a type of package net.
func newSystemSource(c syscall.Conn) *systemSource {
	conn, ok := c.(net.Conn)
	if !ok || conn.LocalAddr() == nil {
		return nil
	}
	if n := conn.LocalAddr().Network(); n != "tcp" && n != "unix" {
		return nil // a Read returns one packet
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	s := &systemSource{conn: c, raw: raw}
	s.try = s.read
	return s
}

// next waits for data and reads at most limit bytes into a SendBlock of a size in bytes. It returns a nil SendBlock
// and no error if the connection is closed or its deadline passes; a Read of the connection then reports this.
func (s *systemSource) next(dst *stack.TCP, size, limit int) (b *stack.SendBlock, n int, err error) {
	s.dst, s.size, s.limit = dst, size, limit
	s.n, s.errno = 0, nil
	s.raw.Read(s.try)
	b, s.b = s.b, nil
	switch {
	case b == nil:
	case s.errno != nil:
		err = readError(s.conn, s.errno)
	case s.n == 0:
		err = io.EOF
	}
	return b, s.n, err
}

// read reads from the descriptor. It reports false if there is no data.
func (s *systemSource) read(fd uintptr) bool {
	b := s.dst.NewBlock(s.size)
	p := b.Bytes()
	p = p[:min(len(p), s.limit)]
	for {
		n, err := syscall.Read(int(fd), p)
		switch err {
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			b.Free()
			return false
		}
		s.b, s.n, s.errno = b, max(n, 0), err
		return true
	}
}
