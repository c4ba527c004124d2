package stack

import (
	"iter"
	"net/netip"
	"time"

	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

// A ConnInfo describes a TCP connection, as a line of ss does.
type ConnInfo struct {
	Local, Remote netip.AddrPort
	State         tcp.State
	RecvQ         int           // bytes received that the application has not read
	SendQ         int           // bytes written that the peer has not acknowledged
	Passive       bool          // the peer opened the connection
	Orphan        bool          // the application has closed the connection
	Timer         tcp.TimerKind // the timer that expires first
	Expires       time.Duration // the time until Timer expires; 0 if Timer is tcp.TimerNone

	sock *TCP
}

// Info returns the current details of the connection. It reports false if the connection is in TIME-WAIT
// or has ended.
func (c *ConnInfo) Info() (info TCPInfo, ok bool) {
	if c.sock == nil {
		return info, false
	}
	c.sock.mu.Lock()
	defer c.sock.mu.Unlock()
	if !c.sock.open() {
		return info, false
	}
	return c.sock.conn.Info(c.sock.s.now()), true
}

// open reports whether the connection has begun and has not ended. A TCP is already in the table for a moment
// before its Conn is opened. t.mu is held.
func (t *TCP) open() bool { return t.linked && t.conn.State() != tcp.Closed }

// Abort resets the connection, as ss -K does. A Read or Write of the application then fails with
// ECONNABORTED. A connection in TIME-WAIT is left alone.
func (c *ConnInfo) Abort() {
	if c.sock != nil {
		c.sock.abort()
		c.sock.s.drain()
	}
}

// Conns returns an iterator over the TCP connections in no particular order. Half-open connections and
// connections in TIME-WAIT are included. A ConnInfo has the state of the moment at which the iterator reaches
// the connection. The iterator may or may not return a connection that opens or ends during the loop. No lock
// is held while the body of the loop runs, so the loop does not block traffic.
func (s *Stack) Conns() iter.Seq[ConnInfo] {
	return func(yield func(ConnInfo) bool) {
		shards := s.tcp.table.shards.Load()
		if shards == nil {
			return
		}
		var all []*tcpEntry
		for i := range shards {
			all = shards[i].entries(all[:0])
			for _, e := range all {
				if info, ok := s.connInfo(e); ok && !yield(info) {
					return
				}
			}
		}
	}
}

// Conn returns the TCP connection with the given addresses. It reports false if there is no such connection. A
// link-local address needs its zone.
func (s *Stack) Conn(local, remote netip.AddrPort) (info ConnInfo, ok bool) {
	if !local.IsValid() || !remote.IsValid() || s.tcp.table.shards.Load() == nil {
		return info, false
	}
	l, zone := s.unzone(local.Addr())
	r, index := s.unzone(remote.Addr())
	k := makeTuple(netip.AddrPortFrom(l, local.Port()), netip.AddrPortFrom(r, remote.Port()), max(zone, index))
	h := s.tcp.table.hash(&k)
	sh := s.tcp.table.shard(h)
	sh.mu.RLock()
	e := sh.find(h, &k)
	sh.mu.RUnlock()
	if e == nil {
		return info, false
	}
	return s.connInfo(e)
}

// entries appends the entries of the shard to all.
func (sh *tcpShard) entries(all []*tcpEntry) []*tcpEntry {
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	for _, e := range sh.buckets {
		for ; e != nil; e = e.next {
			all = append(all, e)
		}
	}
	return all
}

// connInfo describes an entry of the table. It reports false if the connection has not begun or has ended.
func (s *Stack) connInfo(e *tcpEntry) (info ConnInfo, ok bool) {
	zone := e.key.zone()
	info = ConnInfo{Local: s.zonedPort(e.key.local(), zone), Remote: s.zonedPort(e.key.remote(), zone), sock: e.sock}
	var expires tcp.Time
	if t := e.sock; t != nil {
		t.mu.Lock()
		info.State = t.conn.State()
		info.RecvQ, info.SendQ = t.conn.Readable(), t.conn.Unacked()
		info.Passive, info.Orphan = t.listener != nil, t.closed
		info.Timer, expires = t.conn.Timer()
		ok = t.open()
		t.mu.Unlock()
	} else if w := &s.tcp.waits; e.wait != nil {
		info.State, info.Timer = tcp.TimeWait, tcp.TimerTimeWait
		w.mu.Lock()
		expires, ok = e.wait.expires, !e.wait.gone
		w.mu.Unlock()
	}
	if info.Timer != tcp.TimerNone {
		info.Expires = max(time.Duration(expires-s.now()), 0)
	}
	return info, ok
}

// A ListenerInfo describes a TCP listener.
type ListenerInfo struct {
	Local    netip.AddrPort
	Family   Family // of the connections that the listener accepts
	Queue    int    // established connections that wait for Accept
	Backlog  int    // the maximum of Queue
	HalfOpen int    // connections in SYN-RECEIVED
}

// Listeners returns an iterator over the TCP listeners, ordered by address and port.
func (s *Stack) Listeners() iter.Seq[ListenerInfo] {
	return func(yield func(ListenerInfo) bool) {
		for _, l := range s.tcp.listeners.all() {
			info := ListenerInfo{
				Local: s.zonedPort(l.local, l.at.zone), Family: l.at.family(),
				Queue: int(l.n.Load()), Backlog: l.backlog, HalfOpen: int(l.nhalf.Load()),
			}
			if !yield(info) {
				return
			}
		}
	}
}

// A SocketInfo describes a UDP socket or a raw socket.
type SocketInfo struct {
	Protocol  wire.Proto     // wire.ProtoUDP, or the protocol of a raw socket
	Raw       bool           // the socket is a raw socket
	Family    Family         // of the datagrams that the socket receives
	Local     netip.AddrPort // a raw socket has port 0
	Remote    netip.AddrPort // invalid unless the socket is connected
	RecvQ     int            // bytes of the receive queue in use, with the overhead of each datagram
	RecvLimit int            // the maximum of RecvQ
	Datagrams int            // number of datagrams in the receive queue
	Received  uint64         // datagrams that were queued or passed to the socket's handler
	Sent      uint64         // datagrams sent; only UDP sockets count them
	Dropped   uint64         // datagrams dropped because the receive queue was full
}

// Sockets returns an iterator over the UDP and the raw sockets, in no particular order. As with Conns, a
// SocketInfo has the state of the moment at which the iterator reaches the socket, and no lock is held while
// the body of the loop runs.
func (s *Stack) Sockets() iter.Seq[SocketInfo] {
	return func(yield func(SocketInfo) bool) {
		for i := range udpBuckets {
			for _, b := range s.udp.at(uint16(i)) {
				info := SocketInfo{Protocol: wire.ProtoUDP, Family: b.at.family(), Local: s.zonedPort(netip.AddrPortFrom(b.at.addr, b.port), b.at.zone)}
				if b.u.describe(&info); !yield(info) {
					return
				}
			}
		}
		for _, r := range s.raw.sockets() {
			ends := r.ends.Load()
			info := SocketInfo{
				Protocol: wire.Proto(r.proto), Raw: true, Family: ends.local.family(),
				Local: s.zonedPort(netip.AddrPortFrom(ends.local.addr, 0), ends.local.zone),
			}
			if r.describe(&info); !yield(info) {
				return
			}
		}
	}
}

// describe sets the fields of info that UDP and raw sockets have in common.
func (g *dgram) describe(info *SocketInfo) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.remote.IsValid() {
		info.Remote = g.s.zonedPort(g.remote, g.zone)
	}
	info.RecvQ, info.RecvLimit, info.Datagrams = g.queue.bytes, g.queue.limit, g.queue.n
	info.Received, info.Sent, info.Dropped = g.received, g.sent, g.dropped
}
