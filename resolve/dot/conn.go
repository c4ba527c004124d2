package dot

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"
)

var errTooManyQueries = errors.New("dot: too many outstanding queries")

const (
	// maxOutstanding is the maximum number of outstanding queries on a connection.
	maxOutstanding = 4096
	// writeTime is how long a Write may go on after the caller's context has ended.
	writeTime = 100 * time.Millisecond
)

// A conn is a TLS connection to a server. It has no goroutine that reads: one of the callers that wait for a
// response reads messages for all of these callers, until its own response has arrived.
type conn struct {
	idleTime time.Duration
	ready    chan struct{} // closed when tls or err is set
	tls      *tls.Conn
	err      error

	// writing holds a token while no goroutine writes. reading holds a token while no goroutine reads.
	writing, reading chan struct{}
	// buf holds received bytes that do not form a complete message yet. Only the reader uses it.
	buf []byte

	mu      sync.Mutex
	failed  error // not nil after the connection has ended
	nextID  uint16
	waiting map[uint16]*waiter // outstanding queries by the ID on this connection
	idle    *time.Timer        // ends the connection; runs while no query is outstanding
}

// A waiter is an outstanding query.
type waiter struct {
	id       uint16        // the ID of the caller's query
	arrived  chan struct{} // closed when response or err is set
	response []byte
	err      error
}

func newConn(idle time.Duration) *conn {
	cn := &conn{
		idleTime: idle, ready: make(chan struct{}), waiting: make(map[uint16]*waiter),
		writing: make(chan struct{}, 1), reading: make(chan struct{}, 1),
	}
	cn.writing <- struct{}{}
	cn.reading <- struct{}{}
	return cn
}

// open connects and sets tls or err.
func (cn *conn) open(ctx context.Context, c *Client, dial func(context.Context, string, string) (net.Conn, error), server netip.AddrPort) {
	raw, err := dial(ctx, "tcp", server.String())
	if err != nil {
		cn.err = err
		return
	}
	t := tls.Client(raw, c.config(server.Addr()))
	if err := t.HandshakeContext(ctx); err != nil {
		raw.Close()
		cn.err = err
		return
	}
	cn.mu.Lock()
	defer cn.mu.Unlock()
	if cn.failed != nil { // the Client was closed
		raw.Close()
		cn.err = cn.failed
		return
	}
	cn.tls = t
	cn.idle = time.AfterFunc(cn.idleTime, func() { cn.closeIfIdle() })
}

// isClosed reports whether the connection has ended.
func (cn *conn) isClosed() bool {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	return cn.failed != nil
}

// closeIfIdle ends the connection if it is open and no query is outstanding. It reports whether it did so.
func (cn *conn) closeIfIdle() bool {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	if cn.failed != nil || cn.tls == nil || len(cn.waiting) > 0 {
		return false
	}
	cn.end(net.ErrClosed)
	return true
}

// fail ends the connection. Outstanding queries fail with err.
func (cn *conn) fail(err error) {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	cn.end(err)
}

// end ends the connection, as fail does. cn.mu is held. A second call does nothing.
func (cn *conn) end(err error) {
	if cn.failed != nil {
		return
	}
	cn.failed = err
	for id, w := range cn.waiting {
		w.err = err
		close(w.arrived)
		delete(cn.waiting, id)
	}
	if cn.tls != nil {
		cn.idle.Stop()
		// Do not call tls.Conn.Close: it waits until it has sent an alert. RFC 7858 3.4 requires no alert.
		cn.tls.NetConn().Close()
	}
}

// add registers a query. It returns the query's ID on this connection.
func (cn *conn) add(w *waiter) (id uint16, err error) {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	if cn.failed != nil {
		return 0, cn.failed
	}
	if len(cn.waiting) >= maxOutstanding {
		return 0, errTooManyQueries
	}
	// RFC 7766 6.2.1: "clients MUST take care to avoid Message ID collisions" of outstanding queries.
	for cn.waiting[cn.nextID] != nil {
		cn.nextID++
	}
	id = cn.nextID
	cn.nextID++
	cn.waiting[id] = w
	cn.idle.Stop()
	return id, nil
}

// drop removes a query, so that a response to it is ignored. If no other query is outstanding, drop starts the idle
// timer.
func (cn *conn) drop(id uint16, w *waiter) {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	if cn.waiting[id] == w {
		delete(cn.waiting, id)
	}
	if cn.failed == nil && len(cn.waiting) == 0 {
		cn.idle.Reset(cn.idleTime)
	}
}

// roundTrip sends a query and waits for its response.
func (cn *conn) roundTrip(ctx context.Context, query []byte) ([]byte, error) {
	w := &waiter{id: binary.BigEndian.Uint16(query), arrived: make(chan struct{})}
	id, err := cn.add(w)
	if err != nil {
		return nil, err
	}
	defer cn.drop(id, w)
	msg := make([]byte, 2, 2+len(query))
	binary.BigEndian.PutUint16(msg, uint16(len(query)))
	msg = append(msg, query...)
	binary.BigEndian.PutUint16(msg[2:], id)
	select {
	case <-cn.writing:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err := ctx.Err(); err != nil {
		cn.writing <- struct{}{}
		return nil, err
	}
	// An interrupted Write ends the connection for all callers. Therefore a Write is interrupted only if it
	// blocks until writeTime after the end of ctx.
	stop := interruptedBy(ctx, cn.tls.SetWriteDeadline, writeTime)
	_, err = cn.tls.Write(msg)
	stop()
	cn.writing <- struct{}{}
	if err != nil {
		cn.fail(err) // after a write has timed out, a TLS connection is unusable
		return nil, err
	}
	for {
		select {
		case <-w.arrived:
			return w.response, w.err
		default:
		}
		select {
		case <-w.arrived:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-cn.reading:
			cn.read(ctx, w)
			cn.reading <- struct{}{}
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
		}
	}
}

// interruptedBy makes a read or write time out when the duration after has passed since the end of ctx. The caller
// must call stop after the read or write.
func interruptedBy(ctx context.Context, setDeadline func(time.Time) error, after time.Duration) (stop func()) {
	ended := make(chan struct{})
	cancel := context.AfterFunc(ctx, func() {
		setDeadline(time.Now().Add(after))
		close(ended)
	})
	return func() {
		if !cancel() {
			<-ended
			setDeadline(time.Time{})
		}
	}
}

// read reads messages until the response to w has arrived, ctx ends or the connection fails.
func (cn *conn) read(ctx context.Context, w *waiter) {
	stop := interruptedBy(ctx, cn.tls.SetReadDeadline, 0)
	defer stop()
	for {
		select {
		case <-w.arrived:
			return
		default:
		}
		if len(cn.buf) >= 2 {
			if n := 2 + int(binary.BigEndian.Uint16(cn.buf)); len(cn.buf) >= n {
				cn.deliver(cn.buf[2:n])
				cn.buf = append(cn.buf[:0], cn.buf[n:]...)
				continue
			}
		}
		chunk := make([]byte, 2048)
		n, err := cn.tls.Read(chunk)
		cn.buf = append(cn.buf, chunk[:n]...)
		if err != nil && ctx.Err() == nil {
			cn.fail(err)
		}
		if err != nil {
			return
		}
	}
}

// deliver passes a response to the query with its ID. It ignores other messages.
func (cn *conn) deliver(msg []byte) {
	if len(msg) < 12 {
		return
	}
	cn.mu.Lock()
	defer cn.mu.Unlock()
	id := binary.BigEndian.Uint16(msg)
	w := cn.waiting[id]
	if w == nil {
		return
	}
	delete(cn.waiting, id)
	w.response = append([]byte(nil), msg...)
	binary.BigEndian.PutUint16(w.response, w.id)
	close(w.arrived)
}
