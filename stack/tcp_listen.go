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
	// Backlog bounds the connections that stand and were not yet accepted:
	// 4096 if zero. Further handshakes are not completed.
	Backlog int
	// TCP is what the connections begin with.
	TCP TCPOptions
}

// A TCPListener takes connections for a local address.
type TCPListener struct {
	s       *Stack
	local   netip.AddrPort
	at      bound // its address
	backlog int
	options TCPOptions

	n          atomic.Int32 // connections in queue, to be read without mu
	nhalf      atomic.Int32 // those in half, likewise
	overflowAt atomic.Int64 // when half was last full, as tcp.Time; 0: never

	mu     mutex[levelListener]
	cond   sync.Cond
	dl     deadline
	half   []*TCP // in SYN-RECEIVED, in no order
	queue  []*TCP // established; those from head on are not yet accepted
	head   int
	closed bool
}

// ListenTCP listens on local, whose zero address means all addresses of the
// family, and whose zero port is chosen. Errors are *os.SyscallError with
// "bind" and an errno, or net.ErrClosed. Connections in TIME-WAIT on the port
// do not stand in the way.
func (s *Stack) ListenTCP(fam Family, local netip.AddrPort, o ListenOptions) (*TCPListener, error) {
	if s.closed.Load() {
		return nil, net.ErrClosed
	}
	a, zone, err := s.checkLocal(fam, local.Addr())
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

// bindable reports whether nothing stands in the way of a listener there.
func (ts *tcpState) bindable(b *bound, port uint16) bool {
	return !ts.listeners.conflicts(b, port) && !ts.table.ports.busy(b, port, true)
}

// full reports that no further connection is completed for now.
func (l *TCPListener) full() bool { return int(l.n.Load()) >= l.backlog }

// synAckRetries is how often a SYN,ACK is sent again: fewer times as the queue of those
// that are half open fills, so that its places become free sooner (RFC 4987 3.3).
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

// syn takes a SYN: RFC 9293 3.10.7.2. It reports false when nobody listens any
// more. old is the connection in TIME-WAIT whose place is taken, or nil.
func (l *TCPListener) syn(now tcp.Time, local, remote netip.AddrPort, zone int, seg *tcp.Segment, old *timeWait) bool {
	s := l.s
	p, err := s.sharedRoute(remote.Addr(), local.Addr(), zone)
	if err != nil || p.group {
		s.drop(dropNoReply)
		return true
	}
	if l.full() {
		s.drop(dropAcceptQueue)
		return true
	}
	if !s.admits(now) {
		s.drop(dropTCPMemory)
		return true
	}
	if int(l.nhalf.Load()) >= s.tcp.synBacklog {
		l.overflowAt.Store(int64(now))
		l.sendCookie(local, remote, zone, p, seg)
		return true
	}
	return l.open(now, local, remote, p, func(t *TCP, cfg tcp.Config) {
		if old != nil {
			cfg.ISS = old.NextISS(cfg.ISS)
		}
		t.conn.Accept(now, cfg, seg)
	})
}

// open puts a new connection among those that are half open, and lets begin
// start it. It reports false when nobody listens any more.
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
	// The socket's lock is taken before anyone can find it, so that a second
	// copy of the SYN meets an open connection.
	t.mu.Lock()
	if !s.tcp.table.insert(&t.tcpEntry) {
		t.mu.Unlock()
		l.mu.Unlock()
		return true // a copy of the SYN was quicker
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

// handshakeEnded moves a connection whose handshake is complete to those that can be
// accepted, and forgets one that ended before it was.
func (l *TCPListener) handshakeEnded(t *TCP, ev tcp.Events) {
	l.mu.Lock()
	half := l.forget(t)
	switch {
	case !half:
		// It stands in the queue, or was accepted: Accept returns it even if it
		// has been reset meanwhile, as the kernel does.
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

// forget takes a connection out of those that are half open, and reports whether
// it was one. l.mu is held.
func (l *TCPListener) forget(t *TCP) bool {
	if t.half == 0 {
		return false
	}
	n := len(l.half) - 1
	last := l.half[n]
	l.half[t.half-1], last.half = last, t.half
	l.half[n], t.half = nil, 0
	if l.half = l.half[:n]; n == 0 && cap(l.half) > 64 {
		l.half = nil
	}
	l.nhalf.Store(int32(n))
	return true
}

// Accept waits for a connection.
func (l *TCPListener) Accept() (*TCP, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		switch {
		case l.closed:
			return nil, net.ErrClosed
		case l.dl.expired():
			if len(l.queue) > l.head {
				l.cond.Signal() // we may have been woken for it: it is the next one's now
			}
			return nil, os.ErrDeadlineExceeded
		case len(l.queue) > l.head:
			return l.take(), nil
		case l.s.life.cut.Load() && !l.local.Addr().IsLoopback():
			// Nobody can connect any more but the host itself. accept(2) has it among
			// "already-pending network errors".
			return nil, syscall.ENETDOWN
		}
		l.cond.Wait()
	}
}

// take returns the connection that has waited longest. l.mu is held.
func (l *TCPListener) take() *TCP {
	t := l.queue[l.head]
	l.queue[l.head] = nil
	if l.head++; l.head == len(l.queue) {
		l.queue, l.head = l.queue[:0], 0
		if cap(l.queue) > 64 {
			l.queue = nil
		}
	} else if l.head >= 64 && l.head >= len(l.queue)/2 {
		n := copy(l.queue, l.queue[l.head:])
		clear(l.queue[n:])
		l.queue, l.head = l.queue[:n], 0
	}
	l.n.Store(int32(len(l.queue) - l.head))
	return t
}

// LocalAddr is the address that is listened on.
func (l *TCPListener) LocalAddr() netip.AddrPort {
	return netip.AddrPortFrom(l.s.zoned(l.local.Addr(), l.at.zone), l.local.Port())
}

// SetDeadline sets when Accept stops waiting; the zero time means never.
func (l *TCPListener) SetDeadline(d time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return net.ErrClosed
	}
	l.dl.set(d, &l.mu, l.cond.Broadcast)
	return nil
}

// Close ends the listening. Connections that were not accepted are reset, those
// that were stay. A second Close returns net.ErrClosed.
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
