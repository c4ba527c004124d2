package usernet

import (
	"io"
	"net"
	"os"
	"reflect"
	"sync"
	"syscall"
	"unsafe"

	"github.com/usernet/usernet/stack"
)

// copyBuffer is the size in bytes of the largest buffers of ReadFrom and WriteTo.
const copyBuffer = 64 << 10

// copyBuffers are the free buffers of ReadFrom and WriteTo, by size. The pools hold pointers to the
// first byte, so that Put does not allocate.
type copyBuffers [3]sync.Pool // of *byte

// copySize returns the size in bytes of the buffers of a class: 4, 16 or 64 KiB.
func copySize(class int) int { return copyBuffer >> (2 * (len(copyBuffers{}) - 1 - class)) }

func (p *copyBuffers) get(class int) []byte {
	if b, ok := p[class].Get().(*byte); ok {
		return unsafe.Slice(b, copySize(class))
	}
	return make([]byte, copySize(class))
}

// put returns a buffer to the pool.
func (p *copyBuffers) put(class int, b []byte) { p[class].Put(unsafe.SliceData(b)) }

// ReadFrom reads from r until io.EOF and writes the data to the connection.
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

// copyFrom is io.Copy with a buffer that adapts to the size of the reads, starting at 4 KiB. While
// copyFrom waits for a source that is a connection of a Host or of package net, it holds no buffer.
func (c *TCPConn) copyFrom(r io.Reader) (n int64, err error) {
	class, full := 0, false
	for {
		if err := awaitReadable(r, full); err != nil {
			return n, err
		}
		buf := c.pool.get(class)
		k, rerr := r.Read(buf)
		var werr error
		if k > 0 {
			var done int
			done, werr = c.Write(buf[:k])
			n += int64(done)
		}
		c.pool.put(class, buf)
		full = k == copySize(class)
		switch {
		case werr != nil:
			return n, werr
		case rerr == io.EOF:
			return n, nil
		case rerr != nil:
			return n, rerr
		case full && class < len(c.pool)-1:
			class++
		case !full && class > 0:
			class-- // the next Read may wait for a long time
		}
	}
}

// awaitReadable waits until a Read of r would not block, if r is a connection of a Host or of package
// net, or an io.LimitedReader of one. For other readers it returns at once. For a connection of package
// net, the wait costs a system call. If more is set, awaitReadable saves this call: the last Read
// filled its buffer, so there is probably more data. If the connection of package net has failed,
// awaitReadable returns the error that Read would have returned.
func awaitReadable(r io.Reader, more bool) error {
	for {
		switch src := r.(type) {
		case *io.LimitedReader:
			if src.N <= 0 {
				return nil
			}
			r = src.R
		case *TCPConn:
			if src.ok() {
				src.tcp.AwaitReadable()
			}
			return nil
		case syscall.Conn:
			if !more && ofNet(src) {
				if err := awaitDescriptor(src); err != nil {
					return readError(src, err)
				}
			}
			return nil
		default:
			return nil
		}
	}
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

// ofNet reports whether c is of a type of package net. Other types, such as a struct that embeds a
// *net.TCPConn, may hold data that they have already read from the descriptor. A Read of them need not
// wait for the descriptor.
func ofNet(c syscall.Conn) bool {
	t := reflect.TypeOf(c)
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t.PkgPath() == "net"
}

// WriteTo reads from the connection until io.EOF and writes the data to w.
func (c *TCPConn) WriteTo(w io.Writer) (int64, error) {
	if !c.ok() {
		return 0, syscall.EINVAL
	}
	n, err := c.writeTo(w)
	if err != nil {
		err = c.opError("writeto", "read", err)
	}
	return n, err
}

// writeTo is io.Copy without a copy: it passes the received data itself to w. When there is no data
// and the connection is active, writeTo waits with a buffer, into which the stack copies the data
// directly from the link's frames. While the connection is idle, writeTo waits without a buffer.
func (c *TCPConn) writeTo(w io.Writer) (n int64, err error) {
	const class = len(copyBuffers{}) - 1
	active := false
	for {
		var buf []byte
		x, y, storage := c.tcp.Take() // the data is x followed by y
		if storage == nil {
			if !active {
				c.tcp.AwaitReadable()
				active = true
				continue
			}
			buf = c.pool.get(class)
			k, err := c.tcp.ReadActive(buf)
			if err != nil {
				c.pool.put(class, buf)
			}
			switch {
			case err == stack.ErrIdle:
				active = false
				continue
			case err == io.EOF:
				return n, nil
			case err != nil:
				return n, c.opError("read", "read", err)
			}
			x = buf[:k]
		}
		for _, p := range [2][]byte{x, y} {
			if len(p) == 0 || err != nil {
				continue
			}
			k, werr := w.Write(p)
			n += int64(max(k, 0))
			switch {
			case werr != nil:
				err = werr
			case k != len(p):
				err = io.ErrShortWrite
			}
		}
		if storage != nil {
			c.tcp.Release(storage)
		} else {
			c.pool.put(class, buf)
		}
		if err != nil {
			return n, err
		}
	}
}
