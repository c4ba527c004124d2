package stack

import (
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/usernet/usernet/stack/tcp"
)

// ListenOptions are the options of a listener.
type ListenOptions struct {
	// Backlog is the maximum number of established connections that wait for Accept. While that many
	// wait, no further handshake is completed. If Backlog is 0, the maximum is 4096.
	Backlog int
	// TCP are the initial socket options of the connections.
	TCP TCPOptions
}

// A TCPListener accepts connections to a local address. Its methods may be called concurrently.
type TCPListener struct {
	s       *Stack
	local   netip.AddrPort
	at      bound // address and family, for the conflict rules of binding
	backlog int
	options TCPOptions

	n          atomic.Int32 // connections that wait in queue; read without mu
	nhalf      atomic.Int32 // len(half); read without mu
	overflowAt atomic.Int64 // tcp.Time of the last SYN that found half full; 0: never

	mu     mutex[levelListener]
	cond   sync.Cond
	dl     deadline
	half   []*TCP // connections in SYN-RECEIVED, unordered
	queue  []*TCP // established connections that wait for Accept, from index head on
	head   int
	closed bool
}

// ListenTCP listens on the address and port of local. The zero address means all addresses of the family.
// If the port is 0, ListenTCP chooses a free port. Connections in TIME-WAIT do not prevent it from using
// their port. Errors are *os.SyscallError with "socket" or "bind" and an errno, or net.ErrClosed.
func (s *Stack) ListenTCP(fam Family, local netip.AddrPort, o ListenOptions) (*TCPListener, error) {
	if s.closed.Load() {
		return nil, net.ErrClosed
	}
	a, zone, err := s.checkLocal(fam, local.Addr())
	if err == nil && a.Is6() && a.IsMulticast() {
		err = syscall.EINVAL // as on Linux, which accepts only multicast addresses of IPv4
	}
	if err != nil {
		call := "bind"
		if err == syscall.EAFNOSUPPORT {
			call = "socket"
		}
		return nil, os.NewSyscallError(call, err)
	}
	l := &TCPListener{s: s, at: bind(fam, a, zone), backlog: o.Backlog, options: o.TCP}
	l.cond.L = &l.mu
	if l.backlog <= 0 {
		l.backlog = defaultBacklog
	}
	ts := &s.tcp
	ts.listenMu.Lock()
	defer ts.listenMu.Unlock()
	// try sets l.local, and reports whether the listener can bind to the port.
	try := func(port uint16) bool {
		l.local = netip.AddrPortFrom(a, port)
		return ts.bindable(&l.at, port)
	}
	if p := local.Port(); p != 0 {
		if !try(p) {
			return nil, os.NewSyscallError("bind", syscall.EADDRINUSE)
		}
	} else if _, ok := s.ephemeralPort(s.random.next(randPort), try); !ok {
		return nil, os.NewSyscallError("bind", syscall.EADDRINUSE)
	}
	ts.listeners.add(l)
	if s.closed.Load() {
		ts.listeners.remove(l)
		return nil, net.ErrClosed
	}
	return l, nil
}

// bindable reports whether a listener can bind to b and port. ts.listenMu is held.
func (ts *tcpState) bindable(b *bound, port uint16) bool {
	return !ts.listeners.conflicts(b, port) && !ts.table.ports.busy(b, port, true)
}

// full reports whether the accept queue is full. While it is, no further handshake is completed.
func (l *TCPListener) full() bool { return int(l.n.Load()) >= l.backlog }

// synAckRetries returns how many times a SYN,ACK is retransmitted. The number falls as the queue of
// half-open connections fills, so that their entries become free sooner (RFC 4987 3.3).
func (l *TCPListener) synAckRetries() uint8 {
	switch eighths := 8 * int(l.nhalf.Load()) / l.s.tcp.synBacklog; {
	case eighths <= 4:
		return l.s.tcp.params.SynAckRetries
	case eighths == 5:
		return 4
	case eighths == 6:
		return 3
	}
	return 2
}

// syn handles a received SYN (RFC 9293 3.10.7.2), which is in the packet in: it opens a connection, answers with a SYN cookie, or
// drops the SYN. It reports false if the listener is closed. old is the connection in TIME-WAIT that the
// new connection replaces, or nil.
func (l *TCPListener) syn(in *packet, local, remote netip.AddrPort, zone int, seg *tcp.Segment, old *timeWait) bool {
	s, now := l.s, in.time()
	p, err := s.sharedRoute(remote.Addr(), local.Addr(), zone)
	if err != nil || p.group {
		in.drop(dropNoReply)
		return true
	}
	if l.full() {
		in.drop(dropAcceptQueue)
		return true
	}
	if !s.admits(now) {
		in.drop(dropTCPMemory)
		return true
	}
	if int(l.nhalf.Load()) >= s.tcp.synBacklog {
		l.overflowAt.Store(int64(now))
		l.sendCookie(local, remote, zone, p, seg)
		return true
	}
	return l.open(now, local, remote, p, func(t *TCP, cfg tcp.Config) {
		if old != nil {
			cfg.ISS = old.NextISS(cfg.ISS) // beyond the sequence numbers of the old connection
		}
		t.conn.Accept(now, cfg, seg)
	})
}

// open adds a half-open connection, and calls begin to give the Conn its first segment. It reports false
// if the listener is closed.
func (l *TCPListener) open(now tcp.Time, local, remote netip.AddrPort, p *path, begin func(*TCP, tcp.Config)) bool {
	s := l.s
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return false
	}
	t := s.newTCP(local, remote, p)
	t.listener = l
	t.linked = true
	// Lock the socket before insert makes it visible to other goroutines: a goroutine that handles a
	// second copy of the SYN then waits until begin has opened the connection.
	t.mu.Lock()
	if !s.tcp.table.insert(&t.tcpEntry) {
		t.mu.Unlock()
		l.mu.Unlock()
		return true // another goroutine has handled a copy of the SYN
	}
	l.half = append(l.half, t)
	t.half = int32(len(l.half))
	l.nhalf.Store(t.half)
	l.mu.Unlock()
	begin(t, t.config(now, &l.options))
	ev := t.run(now)
	t.mu.Unlock()
	t.report(ev)
	return true
}

// handshakeEnded moves a connection from half to queue if its handshake is complete. If the connection has
// ended during the handshake, or the listener is closed, it discards the connection. ev are the events of
// the connection.
func (l *TCPListener) handshakeEnded(t *TCP, ev tcp.Events) {
	l.mu.Lock()
	half := l.forget(t)
	switch {
	case !half:
		// The connection is in queue already, or was accepted. As on Linux, Accept returns the connection
		// even if it has been reset meanwhile.
		l.mu.Unlock()
	case l.closed:
		l.mu.Unlock()
		t.kill()
	case ev&tcp.Connected != 0:
		l.queue = append(l.queue, t)
		l.n.Store(int32(len(l.queue) - l.head))
		l.cond.Signal()
		l.mu.Unlock()
	default:
		l.mu.Unlock()
		t.kill()
	}
}

// forget removes a connection from half, and reports whether it was there. l.mu is held.
func (l *TCPListener) forget(t *TCP) bool {
	if t.half == 0 {
		return false
	}
	n := len(l.half) - 1
	last := l.half[n] // takes the place of t
	l.half[t.half-1], last.half = last, t.half
	l.half[n], t.half = nil, 0
	if l.half = l.half[:n]; n == 0 && cap(l.half) > 64 {
		l.half = nil
	}
	l.nhalf.Store(int32(n))
	return true
}

// Accept waits for a connection and returns it. Errors are net.ErrClosed, os.ErrDeadlineExceeded and
// syscall.ENETDOWN.
func (l *TCPListener) Accept() (*TCP, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		switch {
		case l.closed:
			return nil, net.ErrClosed
		case l.dl.expired():
			if len(l.queue) > l.head {
				l.cond.Signal() // pass on a wakeup that this goroutine may have consumed
			}
			return nil, os.ErrDeadlineExceeded
		case len(l.queue) > l.head:
			return l.take(), nil
		case l.s.life.cut.Load() && !l.local.Addr().IsLoopback():
			// All links have failed, so only the host itself could still connect. accept(2) lists ENETDOWN
			// among the "already-pending network errors".
			return nil, syscall.ENETDOWN
		}
		l.cond.Wait()
	}
}

// take removes the oldest connection from queue and returns it. l.mu is held.
func (l *TCPListener) take() *TCP {
	t := l.queue[l.head]
	l.queue[l.head] = nil
	if l.head++; l.head == len(l.queue) {
		l.queue, l.head = l.queue[:0], 0
		if cap(l.queue) > 64 {
			l.queue = nil
		}
	} else if l.head >= 64 && l.head >= len(l.queue)/2 {
		// At least half of queue is unused: move the rest to the front.
		n := copy(l.queue, l.queue[l.head:])
		clear(l.queue[n:])
		l.queue, l.head = l.queue[:n], 0
	}
	l.n.Store(int32(len(l.queue) - l.head))
	return t
}

// LocalAddr returns the address that the listener is bound to.
func (l *TCPListener) LocalAddr() netip.AddrPort {
	return netip.AddrPortFrom(l.s.zoned(l.local.Addr(), l.at.zone), l.local.Port())
}

// SetDeadline sets the time at which Accept fails. The zero time means no deadline.
func (l *TCPListener) SetDeadline(d time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return net.ErrClosed
	}
	l.dl.set(d, &l.mu, l.cond.Broadcast)
	return nil
}

// Close stops listening. It resets the connections that Accept has not returned, and does not change the
// others. A second Close returns net.ErrClosed.
func (l *TCPListener) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return net.ErrClosed
	}
	l.closed = true
	l.dl.stop()
	rest := append(l.half, l.queue[l.head:]...)
	for _, t := range l.half {
		t.half = 0
	}
	l.half, l.queue, l.head = nil, nil, 0
	l.n.Store(0)
	l.nhalf.Store(0)
	l.cond.Broadcast()
	l.mu.Unlock()
	ts := &l.s.tcp
	ts.listenMu.Lock()
	ts.listeners.remove(l)
	ts.listenMu.Unlock()
	for _, t := range rest {
		t.kill()
	}
	l.s.drain()
	return nil
}
