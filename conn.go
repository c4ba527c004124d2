package usernet

import (
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/usernet/usernet/stack"
)

// Defaults of keep-alive.
const (
	defaultKeepAliveIdle     = 15 * time.Second
	defaultKeepAliveInterval = 15 * time.Second
	defaultKeepAliveCount    = 9
)

// The largest values that Linux accepts. maxKeepAliveTime is MAX_TCP_KEEPIDLE and also
// MAX_TCP_KEEPINTVL; maxKeepAliveCount is MAX_TCP_KEEPCNT.
const (
	maxKeepAliveTime  = 32767 * time.Second
	maxKeepAliveCount = 127
)

// A socket has the methods that the stack's TCP, UDP and raw sockets share.
type socket interface {
	Close() error
	SetDeadline(t time.Time) error
	SetReadDeadline(t time.Time) error
	SetWriteDeadline(t time.Time) error
	SetReadBuffer(n int) error
	SetWriteBuffer(n int) error
}

// A conn is the part that TCPConn, UDPConn and IPConn share.
type conn struct {
	sock socket
	net  string // the network, for errors
	six  bool   // LocalAddr and RemoteAddr of a TCP connection have IPv6's form
	// The addresses, which do not change on Close. A TCP connection makes them on first use,
	// because most programs never use them.
	made atomic.Pointer[ends]
}

// An ends holds the addresses of a socket. remote is nil if the socket is not connected.
type ends struct{ local, remote net.Addr }

// ends returns the socket's addresses.
func (c *conn) ends() *ends {
	if e := c.made.Load(); e != nil {
		return e
	}
	t := c.sock.(*stack.TCP) // other sockets set made when they are created
	c.made.CompareAndSwap(nil, family{six: c.six}.tcpEnds(t.LocalAddr(), t.RemoteAddr()))
	return c.made.Load() // another goroutine may have been first
}

func (c *conn) ok() bool { return c != nil && c.sock != nil }

// opError wraps an error of a socket in a *net.OpError. call is the system call that returns the
// errno on Linux.
func (c *conn) opError(op, call string, err error) error {
	e := c.ends()
	return &net.OpError{Op: op, Net: c.net, Source: e.local, Addr: e.remote, Err: syscallError(call, err)}
}

// setError is like opError, for a socket option. As in net, the error has only the local address. If
// err is nil, setError returns nil.
func (c *conn) setError(err error) error {
	if err == nil {
		return nil
	}
	return &net.OpError{Op: "set", Net: c.net, Addr: c.ends().local, Err: syscallError("setsockopt", err)}
}

// Close closes the connection. Blocked calls return net.ErrClosed, and so does a second Close.
func (c *conn) Close() error {
	if !c.ok() {
		return syscall.EINVAL
	}
	if err := c.sock.Close(); err != nil {
		return c.opError("close", "close", err)
	}
	return nil
}

// LocalAddr returns the local address. All calls return the same value, which the caller must not
// modify.
func (c *conn) LocalAddr() net.Addr {
	if !c.ok() {
		return nil
	}
	return c.ends().local
}

// RemoteAddr returns the address of the other end, or nil if the socket is not connected. All calls
// return the same value, which the caller must not modify.
func (c *conn) RemoteAddr() net.Addr {
	if !c.ok() {
		return nil
	}
	return c.ends().remote
}

// SetDeadline sets the deadlines of reads and writes, as described in net.Conn. The zero time means
// no deadline. A deadline in the past wakes blocked calls.
func (c *conn) SetDeadline(t time.Time) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.setError(c.sock.SetDeadline(t))
}

// SetReadDeadline sets the deadline of reads.
func (c *conn) SetReadDeadline(t time.Time) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.setError(c.sock.SetReadDeadline(t))
}

// SetWriteDeadline sets the deadline of writes. It also ends a write that waits because a device's
// Send blocks.
func (c *conn) SetWriteDeadline(t time.Time) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.setError(c.sock.SetWriteDeadline(t))
}

// SetReadBuffer sets the size of the receive buffer in bytes. Buffered data stays.
func (c *conn) SetReadBuffer(bytes int) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.setError(c.sock.SetReadBuffer(bytes))
}

// SetWriteBuffer sets the size of the send buffer in bytes. Buffered data stays.
func (c *conn) SetWriteBuffer(bytes int) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.setError(c.sock.SetWriteBuffer(bytes))
}

// A TCPConn is a TCP connection. It has the methods of net.TCPConn except File and SyscallConn,
// because it has no file descriptor.
type TCPConn struct {
	conn
	tcp *stack.TCP
}

var (
	_ net.Conn      = (*TCPConn)(nil)
	_ io.ReaderFrom = (*TCPConn)(nil)
	_ io.WriterTo   = (*TCPConn)(nil)
)

// newTCPConn wraps a connection of the stack.
func (h *Host) newTCPConn(t *stack.TCP, network string, f family) *TCPConn {
	return &TCPConn{
		conn: conn{sock: t, net: network, six: f.six},
		tcp:  t,
	}
}

// tcpOptions returns the options that net sets on its connections. period is KeepAlive of a Dialer
// or ListenConfig, and applies unless cfg.Enable is set. A negative period turns keep-alive off. As
// in net, a value that Linux would refuse is not an error.
func tcpOptions(period time.Duration, cfg net.KeepAliveConfig) stack.TCPOptions {
	if !cfg.Enable && period >= 0 {
		cfg = net.KeepAliveConfig{Enable: true, Idle: period}
	}
	o := stack.TCPOptions{KeepAlive: cfg.Enable}
	o.Idle, o.Interval, o.Count, _ = keepAlive(cfg.Idle, cfg.Interval, cfg.Count)
	return o
}

// Read reads from the connection. At the end of the stream the error is io.EOF, not wrapped.
func (c *TCPConn) Read(b []byte) (int, error) {
	if !c.ok() {
		return 0, syscall.EINVAL
	}
	n, err := c.tcp.Read(b)
	if err != nil && err != io.EOF {
		err = c.opError("read", "read", err)
	}
	return n, err
}

// Write writes all of b to the connection, or returns an error. Concurrent writes are not
// interleaved.
func (c *TCPConn) Write(b []byte) (int, error) {
	if !c.ok() {
		return 0, syscall.EINVAL
	}
	n, err := c.tcp.Write(b)
	if err != nil {
		err = c.opError("write", "write", err)
	}
	return n, err
}

// CloseRead shuts down the reading side. Most callers should just use Close.
func (c *TCPConn) CloseRead() error {
	if !c.ok() {
		return syscall.EINVAL
	}
	if err := c.tcp.CloseRead(); err != nil {
		return c.opError("close", "shutdown", err)
	}
	return nil
}

// CloseWrite shuts down the writing side. The other end reads the data already written, and then
// io.EOF. Most callers should just use Close.
func (c *TCPConn) CloseWrite() error {
	if !c.ok() {
		return syscall.EINVAL
	}
	if err := c.tcp.CloseWrite(); err != nil {
		return c.opError("close", "shutdown", err)
	}
	return nil
}

// option is like setError, but the error has both addresses, as in net for TCP's socket options.
func (c *TCPConn) option(err error) error {
	if err == nil {
		return nil
	}
	return c.opError("set", "setsockopt", err)
}

// SetLinger sets how Close treats data that is not yet sent or acknowledged. With sec < 0, the
// default, TCP sends the data in the background. With sec == 0, TCP discards the data and resets
// the connection. With sec > 0, Close waits up to sec seconds until the data is acknowledged.
func (c *TCPConn) SetLinger(sec int) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.option(c.tcp.SetLinger(sec))
}

// SetNoDelay sets whether TCP sends small segments at once. The default is true. If it is false, TCP
// delays small segments while other data is unacknowledged (Nagle's algorithm, RFC 9293 3.7.4).
func (c *TCPConn) SetNoDelay(noDelay bool) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.option(c.tcp.SetNoDelay(noDelay))
}

// SetKeepAlive turns keep-alive on or off (RFC 9293 section 3.8.4).
func (c *TCPConn) SetKeepAlive(keepalive bool) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.option(c.tcp.SetKeepAlive(keepalive))
}

// SetKeepAlivePeriod sets how long the connection is idle before the first probe. The value is d
// rounded up to whole seconds, or 15 s if d is zero. A negative d changes nothing. If d is more than
// 32767 s, the error is EINVAL. The interval between probes does not change.
func (c *TCPConn) SetKeepAlivePeriod(d time.Duration) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	if d < 0 {
		return nil // even on a closed connection, as in net
	}
	return c.option(c.setKeepAlive(d, -1, -1))
}

// SetKeepAliveConfig sets all keep-alive options. A zero field means the default: an Idle of 15 s, an
// Interval of 15 s, a Count of 9. A negative field changes nothing. Times are rounded up to whole
// seconds. If a time is more than 32767 s or Count is more than 127, the error is EINVAL.
func (c *TCPConn) SetKeepAliveConfig(config net.KeepAliveConfig) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	if err := c.tcp.SetKeepAlive(config.Enable); err != nil {
		return c.option(err)
	}
	return c.option(c.setKeepAlive(config.Idle, config.Interval, config.Count))
}

// setKeepAlive sets the values that are not negative. A zero stands for the default. If one value is
// too large, setKeepAlive sets the values before it and returns EINVAL.
func (c *TCPConn) setKeepAlive(idle, interval time.Duration, count int) error {
	idle, interval, count, tooMuch := keepAlive(idle, interval, count)
	if err := c.tcp.SetKeepAliveConfig(idle, interval, count); err != nil {
		return err
	}
	return tooMuch
}

// keepAlive converts keep-alive settings to the stack's form. A zero becomes the default, and a
// negative value means that the stack does not change the setting. If Linux would refuse a value,
// the error is EINVAL, and that value and the following ones become -1.
func keepAlive(idle, interval time.Duration, count int) (time.Duration, time.Duration, int, error) {
	idle, interval = keepAliveTime(idle, defaultKeepAliveIdle), keepAliveTime(interval, defaultKeepAliveInterval)
	if count == 0 {
		count = defaultKeepAliveCount
	}
	switch {
	case idle > maxKeepAliveTime:
		return -1, -1, -1, syscall.EINVAL
	case interval > maxKeepAliveTime:
		return idle, -1, -1, syscall.EINVAL
	case count > maxKeepAliveCount:
		return idle, interval, -1, syscall.EINVAL
	}
	return idle, interval, count, nil
}

// keepAliveTime returns d rounded up to whole seconds, or standard if d is zero.
func keepAliveTime(d, standard time.Duration) time.Duration {
	switch {
	case d == 0:
		return standard
	case d < 0, d > maxKeepAliveTime:
		return d
	}
	return (d + time.Second - 1).Truncate(time.Second)
}

// MultipathTCP reports whether the connection uses Multipath TCP. It never does.
func (c *TCPConn) MultipathTCP() (bool, error) {
	if !c.ok() {
		return false, syscall.EINVAL
	}
	return false, nil
}

// Info returns a snapshot of the connection's state, for diagnosis and tests.
func (c *TCPConn) Info() stack.TCPInfo {
	if !c.ok() {
		return stack.TCPInfo{}
	}
	return c.tcp.Info()
}
