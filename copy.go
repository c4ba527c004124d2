package usernet

import (
	"io"
	"net"
	"os"
	"reflect"
	"syscall"

	"github.com/usernet/usernet/stack"
)

// ReadFrom and WriteTo copy as little as they can. ReadFrom reads from its source into memory that the stack
// sends from (stack.SendBlock). WriteTo passes the received data itself to its sink. From one TCPConn to another,
// the memory with the received data becomes memory to be sent. Compared with a plain copy, http.ServeContent sends 1.21
// times as much (T15 of bench), and proxies to and from the kernel 1.00 to 1.07 times (T16, T17). Who hides these methods,
// as in io.Copy(struct{ io.Writer }{c}, r), gets a plain copy; FuzzReadFrom compares the two.

// copyClasses is the number of sizes of the memory that ReadFrom reads into, and copyBuffer is the largest in
// bytes: 4, 16 and 64 KiB.
const (
	copyClasses = 3
	copyBuffer  = 64 << 10
)

// copySize returns the size in bytes of a class.
func copySize(class int) int { return copyBuffer >> (2 * (copyClasses - 1 - class)) }

// ReadFrom reads from r until io.EOF and writes the data to the connection. The data is read into the memory that it
// is sent from. While ReadFrom waits for r it holds no lock, and at most 64 KiB: nothing if r is a connection of a
// Host or of package net, otherwise 4 KiB after a short Read.
func (c *TCPConn) ReadFrom(r io.Reader) (int64, error) {
	if !c.ok() {
		return 0, syscall.EINVAL
	}
	var n int64
	var err error
	if w, ok := r.(io.WriterTo); ok {
		n, err = w.WriteTo(copyTarget{c})
	} else {
		n, err = c.copyFrom(r)
	}
	if err != nil && err != io.EOF {
		err = c.opError("readfrom", "write", err)
	}
	return n, err
}

// A copyTarget is the writer that ReadFrom passes to its source's WriteTo. If WriteTo calls
// io.Copy, io.Copy calls copyFrom. With the TCPConn itself as the writer, io.Copy would call
// ReadFrom again, in an endless recursion.
type copyTarget struct{ c *TCPConn }

func (w copyTarget) Write(p []byte) (int, error)               { return w.c.Write(p) }
func (w copyTarget) ReadFrom(r io.Reader) (n int64, err error) { return w.c.copyFrom(r) }

// writeBlock is Write of p, which is in the memory of b.
func (c *TCPConn) writeBlock(b *stack.SendBlock, p []byte) (int, error) {
	n, err := c.tcp.WriteBlock(b, p)
	if err != nil {
		err = c.opError("write", "write", err)
	}
	return n, err
}

// copyFrom is io.Copy into SendBlocks, whose size adapts to the size of the reads.
func (c *TCPConn) copyFrom(r io.Reader) (n int64, err error) {
	src := newCopySource(r)
	class := src.firstClass()
	for {
		b, k, rerr := src.next(c.tcp, class)
		var werr error
		if k > 0 {
			var done int
			done, werr = c.writeBlock(b, b.Bytes()[:k])
			n += int64(done)
		}
		if b != nil {
			b.Free()
		}
		full := k == copySize(class)
		switch {
		case werr != nil:
			return n, werr
		case rerr == io.EOF:
			return n, nil
		case rerr != nil:
			return n, rerr
		case full && class < copyClasses-1:
			class++
		case class > 0 && (!full && !src.prompt || k <= copySize(class-1)):
			class-- // the next Read may wait for a long time
		}
	}
}

// A copySource is the source of copyFrom.
type copySource struct {
	r       io.Reader
	limited bool          // r is an io.LimitedReader
	conn    *TCPConn      // the connection that r reads, or nil
	system  *systemSource // the connection of package net that r reads, or nil
	prompt  bool          // next does not hold a SendBlock for long
}

// newCopySource returns the source for r: a connection of a Host or of package net, perhaps in an
// io.LimitedReader, or another reader.
func newCopySource(r io.Reader) copySource {
	s := copySource{r: r}
	for {
		l, ok := r.(*io.LimitedReader)
		if !ok {
			break
		}
		s.limited, r = true, l.R
	}
	switch src := r.(type) {
	case *TCPConn:
		if src.ok() {
			s.conn, s.prompt = src, true
		}
	case syscall.Conn:
		if packageOf(src) == "net" {
			s.system = newSystemSource(src)
			s.prompt = s.system != nil
		} else if packageOf(src) == "os" {
			s.prompt = s.limited // as http.ServeContent reads a file, not a pipe
		}
	}
	return s
}

// packageOf returns the path of the package of c's type. Types outside package net, such as a struct that embeds a
// *net.TCPConn, may hold data that they have already read from the descriptor. A Read of them need not wait for the
// descriptor.
func packageOf(c syscall.Conn) string {
	t := reflect.TypeOf(c)
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t.PkgPath()
}

// left returns how many bytes r may still provide because of its limits, at most most.
func (s *copySource) left(most int) int {
	n := int64(most)
	for r := s.r; ; {
		l, ok := r.(*io.LimitedReader)
		if !ok {
			return int(max(n, 0))
		}
		n, r = min(n, l.N), l.R
	}
}

// took subtracts n bytes from the limits of r.
func (s *copySource) took(n int) {
	for r := s.r; ; {
		l, ok := r.(*io.LimitedReader)
		if !ok {
			return
		}
		l.N -= int64(n)
		r = l.R
	}
}

// firstClass returns the class of the first read. It is the smallest for a source that may provide little, or that may
// wait for a long time.
func (s *copySource) firstClass() int {
	class := 0
	if s.limited && s.prompt {
		for n := s.left(copyBuffer); class < copyClasses-1 && copySize(class) < n; {
			class++
		}
	}
	return class
}

// next reads once, at most as many bytes as the size of the class, into a SendBlock for dst. The caller calls Free of
// the SendBlock if it is not nil. If the source is a connection, next holds no SendBlock while it waits.
func (s *copySource) next(dst *stack.TCP, class int) (b *stack.SendBlock, n int, err error) {
	switch limit := s.left(copySize(class)); {
	case limit == 0: // r returns its error
	case s.conn != nil:
		s.conn.tcp.AwaitReadable()
	case s.system != nil:
		if b, n, err = s.system.next(dst, copySize(class), limit); b != nil || err != nil {
			s.took(n)
			return b, n, err
		}
	}
	b = dst.NewBlock(copySize(class))
	n, err = s.r.Read(b.Bytes())
	return b, n, err
}

// readError returns the error that a Read of c returns if the system call fails with errno. c is a connection of
// package net.
func readError(c syscall.Conn, errno error) error {
	err := &net.OpError{Op: "read", Err: os.NewSyscallError("read", errno)}
	if conn, ok := c.(net.Conn); ok && conn.LocalAddr() != nil {
		err.Net, err.Source, err.Addr = conn.LocalAddr().Network(), conn.LocalAddr(), conn.RemoteAddr()
	}
	return err
}

// WriteTo reads from the connection until io.EOF and writes the data to w. w gets the received data itself, which it
// must not use after its Write has returned.
func (c *TCPConn) WriteTo(w io.Writer) (int64, error) {
	if !c.ok() {
		return 0, syscall.EINVAL
	}
	s := copySink{w: w}
	switch w := w.(type) {
	case *TCPConn:
		if w.ok() {
			s.conn = w
		}
	case copyTarget:
		s.conn = w.c
	}
	n, err := c.writeTo(s)
	if err != nil {
		err = c.opError("writeto", "read", err)
	}
	return n, err
}

// writeTo is io.Copy without a copy: it passes the received data itself to w. When there is no data
// and the connection is active, writeTo waits with a buffer, into which the stack copies the data
// directly from the link's frames. While the connection is idle, writeTo waits without a buffer.
func (c *TCPConn) writeTo(w copySink) (n int64, err error) {
	active := false
	for {
		k := 0
		if x, y, storage := c.tcp.Take(); storage != nil { // the data is x followed by y
			k, err = w.write(c.tcp, x, y, storage)
		} else if !active {
			c.tcp.AwaitReadable()
			active = true
		} else {
			b := w.newBlock(c)
			k, err = c.tcp.ReadActive(b.Bytes())
			switch {
			case err == stack.ErrIdle:
				active, err = false, nil
			case err == io.EOF:
				b.Free()
				return n, nil
			case err != nil:
				err = c.opError("read", "read", err)
			default:
				k, err = w.writeBlock(b, b.Bytes()[:k])
			}
			b.Free()
		}
		n += int64(k)
		if err != nil {
			return n, err
		}
	}
}

// A copySink is the sink of writeTo. If conn is not nil, w writes to conn.
type copySink struct {
	w    io.Writer
	conn *TCPConn
}

// newBlock returns a SendBlock for received data of c.
func (s *copySink) newBlock(c *TCPConn) *stack.SendBlock {
	if s.conn != nil {
		c = s.conn
	}
	return c.tcp.NewBlock(copyBuffer)
}

// writeBlock writes p, which is in the memory of b.
func (s *copySink) writeBlock(b *stack.SendBlock, p []byte) (int, error) {
	if s.conn != nil {
		return s.conn.writeBlock(b, p)
	}
	n, err := s.w.Write(p)
	if err == nil && n != len(p) {
		err = io.ErrShortWrite
	}
	return max(n, 0), err
}

// write writes x and y, which are in storage. src.Take has returned them. The storage is released even if w panics.
func (s *copySink) write(src *stack.TCP, x, y, storage []byte) (n int, err error) {
	if s.conn == nil {
		defer src.Release(storage)
		if n, err = s.writeBlock(nil, x); err == nil && len(y) > 0 {
			var k int
			k, err = s.writeBlock(nil, y)
			n += k
		}
		return n, err
	}
	b := src.TakeBlock(s.conn.tcp, storage)
	defer b.Free()
	if n, err = s.writeBlock(b, x); err == nil && len(y) > 0 {
		var k int
		k, err = s.writeBlock(b, y)
		n += k
	}
	return n, err
}
