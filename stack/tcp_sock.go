package stack

import (
	"context"
	"errors"
	"io"
	"math"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

// TCPInfo is the state of a connection, named as Linux's tcp_info.
type TCPInfo = tcp.Info

// A TCP is a TCP socket. The protocol's state machine is a tcp.Conn. The TCP adds the parts that depend
// on the host: a lock, an entry in the connection table, a timer, and the goroutines that wait. The
// methods of a TCP may be called concurrently.
//
// Every event is handled in the same steps: lock t.mu, call a method of the Conn, queue the segments
// that the Conn returns, wake goroutines, set the timer, unlock, transmit the queued segments.
//
// Memory that only an active connection needs is allocated on first use, because most connections are
// idle most of the time.
type TCP struct {
	tcpEntry // entry in the table; first, so that a lookup touches one cache line
	s        *Stack
	listener *TCPListener // the listener that received the SYN; nil for an active open

	mu      mutex[levelSocket]
	conn    tcp.Conn
	lastRun tcp.Time   // when run was last called
	path    *path      // shared with other connections, so it must not be modified
	waiters *waiters   // allocated on first use
	dl      *deadlines // allocated for the first deadline in the future

	timer   *sockTimer // nil while the connection is in the timer wheel
	timerAt tcp.Time   // when timer fires, or when the wheel reaches the connection; 0: no timer is set
	inWheel wheelSlot

	half    int32 // 1 + index in listener.half; 0: not half open; guarded by listener.mu
	linger  int32 // argument of SetLinger in seconds; negative: Close does not wait
	orphan  int32 // slot in orphans.slots, at least 2; negated while in the list orphanFIN; 0: not an orphan
	slot    uint8 // slot in the wheel; guarded by the wheel's lock
	direct  directState
	bulk    uint8 // 0, or the queue for bulk transfers, from 1: see useBulkQueue
	wheeled bool  // the connection is in the wheel, and the wheel has not reached its slot yet

	linked      bool   // the connection is in the table
	connected   bool   // the handshake was completed
	closed      bool   // the application or the stack has closed the socket
	canceled    bool   // the context of DialTCP ended during the handshake
	writing     bool   // a Write is in progress; further Writes wait
	yield       bool   // the next Write yields to other goroutines before it sends: see yieldBytes
	rdShut      bool   // CloseRead was called
	wrShut      bool   // CloseWrite was called
	errReported bool   // a call has returned the error that ended the connection
	queueFull   bool   // the connection waits for room in a transmit queue, which then calls txReady
	rdPast      bool   // the read deadline was set to a time in the past
	wrPast      bool   // the write deadline was set to a time in the past
	tos, ttl    uint8  // of sent packets; tos has zero ECN bits
	ipID        uint16 // the IP identification of the next packet

	zc *zeroCopySend // allocated by the first large Write
}

// waiters are the goroutines that wait for events of a connection. Readers wait on rd. Writers, DialTCP
// and Close wait on wr.
type waiters struct {
	rd, wr    sync.Cond
	n         int              // number of goroutines that wait
	untilIdle int              // number of readers to wake when the connection becomes idle
	zcReceive *zeroCopyReceive // allocated for the first reader whose buffer is large enough
}

// read waits on rd, and write waits on wr. The caller holds t.mu, which is released during the wait.
func (w *waiters) read()  { w.wait(&w.rd) }
func (w *waiters) write() { w.wait(&w.wr) }

func (w *waiters) wait(on *sync.Cond) {
	w.n++
	on.Wait()
	w.n--
}

// waiting returns t.waiters, allocating it on first use. t.mu is held.
func (t *TCP) waiting() *waiters {
	if t.waiters == nil {
		t.waiters = &waiters{}
		t.waiters.rd.L, t.waiters.wr.L = &t.mu, &t.mu
	}
	return t.waiters
}

// wakeReaders wakes all goroutines that wait on rd. t.mu is held.
func (t *TCP) wakeReaders() {
	if t.waiters != nil {
		t.waiters.rd.Broadcast()
	}
}

func (t *TCP) wakeWriters() {
	if t.waiters != nil {
		t.waiters.wr.Broadcast()
	}
}

// newTCP returns a socket that is not yet in the table.
func (s *Stack) newTCP(local, remote netip.AddrPort, p *path) *TCP {
	t := &TCP{s: s, path: p, linger: -1, ttl: p.hops}
	t.key, t.sock = makeTuple(local, remote, int(p.zone)), t
	return t
}

// config returns the initial configuration of the Conn for the socket's path. It also sets the first IP
// identification.
func (t *TCP) config(now tcp.Time, o *TCPOptions) tcp.Config {
	iss := t.s.isn(now, &t.key)
	t.ipID = uint16(iss >> 16) // unpredictable, as iss is
	cfg := tcp.Config{
		Params: &t.s.tcp.params,
		ISS:    iss, TSOffset: t.path.tsOffset,
		MSS:        t.path.mss(),
		AdvMSS:     t.path.advMSS(),
		GSO:        t.path.gso(),
		DefaultMSS: t.path.defaultMSS(),
		NoDelay:    true,
		Keep:       o.keepAlive(),
	}
	return cfg
}

// DialTCP opens a connection to remote and waits until it is established. If the address or the port of
// local is zero, DialTCP chooses it. Errors are *os.SyscallError with "bind" or "connect" and an errno,
// ctx.Err() if ctx ends first, or net.ErrClosed.
func (s *Stack) DialTCP(ctx context.Context, fam Family, local, remote netip.AddrPort, o TCPOptions) (*TCP, error) {
	growStack(false)
	if s.closed.Load() {
		return nil, net.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	la, localZone := s.unzone(local.Addr())
	ra, zone := s.unzone(remote.Addr())
	local, remote = netip.AddrPortFrom(la, local.Port()), netip.AddrPortFrom(ra, remote.Port())
	if a := local.Addr(); a.IsMulticast() || s.IsBroadcast(a) || a == loopbackBroadcast() {
		// Linux allows such a local address, and then sends from a unicast address of the host.
		local = netip.AddrPortFrom(netip.Addr{}, local.Port())
	} else if a.IsValid() && !a.IsUnspecified() && !s.IsLocal(a) {
		return nil, os.NewSyscallError("bind", syscall.EADDRNOTAVAIL)
	}
	if zone == 0 {
		zone = localZone // a link-local source address selects its link
	}
	// A multicast destination fails below, with ENETUNREACH.
	if err := connectable(fam, remote.Addr(), zone); err != nil && !remote.Addr().IsMulticast() {
		return nil, os.NewSyscallError("connect", err)
	}
	p, err := s.sharedRoute(remote.Addr(), local.Addr(), zone)
	if err != nil {
		return nil, os.NewSyscallError("connect", err)
	}
	if p.group || p.dst == loopbackBroadcast() {
		return nil, os.NewSyscallError("connect", syscall.ENETUNREACH)
	}
	t, old, err := s.bindDial(ctx, p, local.Port(), remote.Port())
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	if t.closed { // Stack.Close has found t in the table
		t.mu.Unlock()
		return nil, net.ErrClosed
	}
	now := s.now()
	cfg := t.config(now, &o)
	if old != nil {
		cfg.ISS = old.NextISS(cfg.ISS) // beyond the sequence numbers of the old connection
	}
	t.conn.Open(now, cfg)
	t.runDirect(now)
	if err := t.awaitConnect(ctx); err != nil {
		s.drain() // a canceled dial has queued a RST
		return nil, err
	}
	return t, nil
}

// TCPOptions are the initial socket options of a connection.
type TCPOptions struct {
	// KeepAlive turns keep-alive on. Idle is the time without traffic before the first probe, Interval
	// is the time between probes, and Count is their number. If a value is not positive, the default
	// applies: 15 s, 15 s and 9.
	KeepAlive      bool
	Idle, Interval time.Duration
	Count          int
}

// keepAlive returns the setting for the Conn, in which a negative Idle turns keep-alive off.
func (o *TCPOptions) keepAlive() tcp.KeepAlive {
	k := tcp.KeepAlive{Idle: 15 * tcp.Second, Interval: 15 * tcp.Second, Count: 9}
	if o.Idle > 0 {
		k.Idle = tcpTime(o.Idle)
	}
	if o.Interval > 0 {
		k.Interval = tcpTime(o.Interval)
	}
	if o.Count > 0 {
		k.Count = o.Count
	}
	if !o.KeepAlive {
		k.Idle = -k.Idle
	}
	return k
}

// bindDial makes the socket of an active open and inserts it into the table. If localPort is 0, it
// chooses a port as RFC 6056 recommends. old is the connection in TIME-WAIT that the socket replaces,
// or nil.
func (s *Stack) bindDial(ctx context.Context, p *path, localPort, remotePort uint16) (t *TCP, old *timeWait, err error) {
	local, remote := netip.AddrPortFrom(p.src, localPort), netip.AddrPortFrom(p.dst, remotePort)
	t = s.newTCP(local, remote, p)
	t.linked = true
	if localPort != 0 {
		s.tcp.listenMu.Lock() // so that no other socket takes the port between find and insert
		free := s.tcp.listeners.find(local, int(p.zone)) == nil && !s.tcp.table.ports.busy(&bound{addr: p.src, zone: int(p.zone)}, localPort, false) && s.tcp.table.insert(&t.tcpEntry)
		s.tcp.listenMu.Unlock()
		if !free {
			return nil, nil, os.NewSyscallError("bind", syscall.EADDRINUSE)
		}
	} else if old, err = s.bindEphemeral(ctx, t, p.src, remote); err != nil {
		return nil, nil, err
	}
	if s.closed.Load() {
		t.kill()
		return nil, nil, net.ErrClosed
	}
	return t, old, nil
}

// awaitConnect waits until the handshake has succeeded or failed, or ctx has ended. If ctx has ended, it
// aborts the connection; the caller must then drain.
func (t *TCP) awaitConnect(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.connected && !t.closed {
		return nil // a peer in this process may already have answered
	}
	if ctx.Done() != nil {
		defer context.AfterFunc(ctx, func() {
			t.mu.Lock()
			t.canceled = true
			t.wakeWriters()
			t.mu.Unlock()
		})()
	}
	for {
		switch {
		case t.closed:
			return net.ErrClosed
		case t.connected:
			t.waiters = nil // save memory; no other goroutine has the socket yet
			return nil
		case t.conn.Err() != tcp.ErrNone:
			t.closed = true
			return os.NewSyscallError("connect", errnoOf(t.conn.Err()))
		case t.canceled:
			t.closed = true
			now := t.s.now()
			t.conn.Abort(now)
			t.run(now)
			return ctx.Err()
		}
		t.waiting().write()
	}
}

// segment handles a received segment, which is in the packet in. It reports false if the connection has left the table since the
// caller looked it up.
func (t *TCP) segment(in *packet, now tcp.Time, seg *tcp.Segment) bool {
	// While the accept queue is full, the ACK that would complete a handshake is dropped. A RST is
	// always handled: RFC 9293 3.10.7.4 checks it before the ACK.
	if l := t.listener; l != nil && seg.Flags&(wire.FlagACK|wire.FlagRST) == wire.FlagACK && l.full() {
		t.mu.Lock()
		waiting := t.conn.State() == tcp.SynReceived
		t.mu.Unlock()
		if waiting {
			// Treat the segment as lost. The peer retransmits it, or this host retransmits its SYN,ACK.
			in.drop(dropAcceptQueue)
			return true
		}
	}
	t.mu.Lock()
	if !t.linked {
		t.mu.Unlock()
		return false
	}
	// now is when the batch that contains the segment arrived. run may have been called since then, with
	// a later time.
	now = max(now, t.lastRun)
	una := t.conn.Una()
	t.noteBulk(seg.DataLen()) // for the ACKs
	t.conn.Segment(now, seg)
	if t.conn.Una() != una { // the peer has acknowledged new data
		t.path.neigh.confirm(now)
	}
	ev := t.run(now)
	t.mu.Unlock()
	t.report(ev)
	return true
}

// report tells the listener that the handshake is complete, or that the connection has ended. The
// caller must not hold a lock.
func (t *TCP) report(ev tcp.Events) {
	if t.listener != nil && ev&(tcp.Connected|tcp.Dead) != 0 {
		t.listener.handshakeEnded(t, ev)
	}
}

// runDirect calls run and transmits the segments that run has queued. A small first segment leaves by
// direct transmit if path.slot allows that. The caller holds t.mu; runDirect unlocks it.
func (t *TCP) runDirect(now tcp.Time) {
	q := t.txQueue()
	t.direct = directAllowed
	t.run(now)
	if t.direct != directMade {
		q = nil
	}
	t.direct = directNo
	t.mu.Unlock()
	if q != nil {
		q.sendDirect()
	}
	t.s.drain() // all interfaces: if the routes have changed, the other segments are in another queue
}

// A directState says whether run may use direct transmit, and whether it did.
type directState uint8

const (
	directNo      directState = iota
	directAllowed             // run may make one direct slot
	directMade                // run has made one: the caller must call sendDirect
)

// run queues the segments that the Conn has to send, wakes goroutines, sets the timer, and returns the
// events of the Conn. Each method call that changes the Conn must be followed by run. t.mu is held.
func (t *TCP) run(now tcp.Time) tcp.Events {
	t.lastRun = now
	t.pull(now)
	ev := t.conn.Events()
	if ev != 0 {
		t.wake(ev)
	}
	if t.linked && t.conn.State() == tcp.TimeWait {
		t.linked = false // from now on, detached reports true
		t.watchEnded()
		t.s.tcp.waits.add(now, t)
	}
	if t.closed {
		t.s.tcp.orphans.track(now, t)
	}
	t.arm(now)
	return ev
}

// wake handles the events ev: it wakes the goroutines that wait for them, and removes a dead connection
// from the table. t.mu is held.
func (t *TCP) wake(ev tcp.Events) {
	if ev&tcp.Connected != 0 {
		t.connected = true
		t.watchOpened()
	}
	if ev&(tcp.Readable|tcp.EOF|tcp.Failed) != 0 {
		t.wakeReaders()
	}
	if ev&(tcp.Writable|tcp.Connected|tcp.Failed|tcp.Acked|tcp.Dead) != 0 {
		t.wakeWriters()
	}
	if ev&tcp.Dead != 0 && t.linked {
		t.unlink()
	}
}

// detached reports whether a timeWait has replaced the connection in the table. t.mu is held.
func (t *TCP) detached() bool { return !t.linked && t.conn.State() == tcp.TimeWait }

// unlink removes the connection from the table. A dial that waits for its port may then take the port.
// t.mu is held.
func (t *TCP) unlink() {
	t.linked = false
	t.watchEnded()
	t.s.tcp.table.remove(&t.tcpEntry)
	t.s.tcp.waits.freed(&t.key)
}

// txReady queues the segments that had to wait for the transmit queue. The queue calls txReady when it
// has room again.
func (t *TCP) txReady(*txQueue) {
	t.mu.Lock()
	t.queueFull = false
	ev := t.run(t.s.now())
	t.mu.Unlock()
	t.report(ev)
}

// pull queues segments of the Conn until the Conn has no more or the transmit queue is full. t.mu is
// held, so that the segments leave in the Conn's order.
func (t *TCP) pull(now tcp.Time) {
	var seg tcp.Segment
	for !t.queueFull {
		if !t.path.valid(t.s) {
			t.reroute(now)
		}
		if q := t.txQueue(); !t.path.noRoute && !q.room() && q.await(t) {
			t.queueFull = true
			return
		}
		if !t.conn.Next(now, &seg) {
			return
		}
		t.send(now, &seg)
	}
}

// reroute looks up the path again after a change of routes. If there is no path, the connection's
// segments are dropped until there is one, or until the connection times out.
func (t *TCP) reroute(now tcp.Time) {
	if t.direct == directAllowed {
		t.direct = directNo // runDirect would call sendDirect of the old queue
	}
	gen := t.s.gen.Load()
	p, err := t.s.sharedRoute(t.path.dst, t.path.src, int(t.path.zone))
	if err != nil || p.group {
		// As on Linux 6.18: if data is in flight, a connection that times out fails with ENETUNREACH,
		// otherwise with ETIMEDOUT.
		if !t.path.noRoute && t.conn.InFlight(t.conn.Una()) {
			t.conn.SoftError(tcp.ErrNetUnreachable)
		}
		old := *t.path
		old.gen = gen // do not repeat the lookup before the next change
		old.noRoute, old.neigh = true, nil
		t.path = &old
		return
	}
	if p.mtu != t.path.mtu {
		t.conn.PathMTU(now, p.mss())
	}
	t.path = p
	t.conn.SetGSO(p.gso())
}

// icmp handles an ICMP error about a segment with the sequence number seq.
func (t *TCP) icmp(e *icmpError, seq tcp.Seq) {
	t.mu.Lock()
	now := t.s.now()
	// RFC 5927 4.1: "the TCP sequence number contained in the payload of the
	// ICMP error message" has to be "of a segment that is in flight".
	if !t.linked || !t.conn.InFlight(seq) {
		t.mu.Unlock()
		t.s.dropError(dropICMPSequence, e)
		return
	}
	switch st := t.conn.State(); {
	case e.errno == syscall.EMSGSIZE:
		// seq is in flight, so the reported MTU is credible. It applies to all TCP connections to this
		// destination. pull finds their paths invalid and calls reroute.
		t.s.lowerPathMTU(t.path.dst, t.path.src, e.mtu)
	case (st == tcp.SynSent || st == tcp.SynReceived) && !e.reassembly:
		// As on Linux, an ICMP error ends a handshake at once. A reassembly timeout does not: a
		// fragment was lost, and a retransmission may arrive.
		t.conn.HardError(now, tcpErrOf(e.errno))
	default:
		// RFC 9293 3.9.2.2 MUST-56: "Since these Unreachable messages indicate soft error conditions, a
		// TCP implementation MUST NOT abort the connection". RFC 5927 5.2 extends this to hard errors
		// once the connection is established.
		t.conn.SoftError(tcpErrOf(e.errno))
	}
	ev := t.run(now)
	t.mu.Unlock()
	t.report(ev)
	t.s.drain()
}

// Read waits for received data and copies it to p. After the peer's FIN it returns io.EOF.
func (t *TCP) Read(p []byte) (int, error) { return t.read(p, false) }

// ErrIdle is returned by ReadActive when the connection has become idle.
var ErrIdle = errors.New("stack: the connection is idle")

// ReadActive is like Read, but it returns ErrIdle when the connection becomes idle. A connection becomes
// idle after half a second to two seconds without traffic. After ErrIdle the caller can free its buffer
// and call AwaitReadable.
func (t *TCP) ReadActive(p []byte) (int, error) { return t.read(p, true) }

// AwaitReadable waits until Read would return at once.
func (t *TCP) AwaitReadable() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for !t.readable() {
		t.waiting().read()
	}
}

// readable reports whether Read would return at once. t.mu is held.
func (t *TCP) readable() bool {
	switch {
	case t.closed, t.rdPast, t.dl != nil && t.dl.rd.expired():
		return true
	case t.conn.Readable() > 0, t.conn.AtEOF(), t.rdShut, t.conn.State() == tcp.Closed:
		return true
	}
	return t.conn.Err() != tcp.ErrNone && !t.errReported
}

// read implements Read, and ReadActive if untilIdle is set.
func (t *TCP) read(p []byte, untilIdle bool) (int, error) {
	t.mu.Lock()
	for {
		switch {
		case t.closed:
			t.mu.Unlock()
			return 0, net.ErrClosed
		case len(p) == 0:
			t.mu.Unlock()
			return 0, nil
		case t.rdPast || t.dl != nil && t.dl.rd.expired():
			t.mu.Unlock()
			return 0, os.ErrDeadlineExceeded
		}
		if t.conn.Readable() > 0 {
			now := t.s.now()
			n := t.conn.Read(now, p)
			t.wasRead(now)
			return n, nil
		}
		if err := t.readEnd(); err != nil {
			t.mu.Unlock()
			return 0, err
		}
		if untilIdle && t.conn.Idle() {
			t.mu.Unlock()
			return 0, ErrIdle
		}
		w := t.waiting()
		mine := t.conn.Await(p) // new data goes to p directly, unless another reader has offered its buffer
		if mine {
			t.offerBuffer(p)
		}
		if untilIdle {
			w.untilIdle++
		}
		w.read()
		if untilIdle {
			w.untilIdle--
		}
		if !mine {
			continue // look for data in the receive buffer
		}
		t.withdrawBuffer()
		// The data arrived at t.lastRun, just now. Using that time saves a reading of the clock.
		if n := t.conn.Awaited(t.lastRun); n > 0 {
			t.wasRead(t.lastRun)
			return n, nil
		}
	}
}

// wasRead does what remains after the application has read data: it sends an ACK if one is due, and sets
// the timer if none is set. The caller holds t.mu; wasRead unlocks it.
func (t *TCP) wasRead(now tcp.Time) {
	if !t.conn.AckDue() && t.timerAt != 0 {
		t.mu.Unlock()
		return
	}
	t.run(now)
	t.mu.Unlock()
	t.s.drain()
}

// Take removes all received data from the receive buffer and returns it without a copy: x, followed by
// y. The caller may use the data until it passes storage to Release. If storage is nil, Take has removed
// nothing, and the caller has to call Read.
func (t *TCP) Take() (x, y, storage []byte) {
	t.mu.Lock()
	if t.closed || t.rdPast || t.dl != nil && t.dl.rd.expired() {
		t.mu.Unlock()
		return nil, nil, nil
	}
	now := t.s.now()
	if x, y, storage = t.conn.Take(now); storage == nil {
		t.mu.Unlock()
		return nil, nil, nil
	}
	t.run(now)
	t.mu.Unlock()
	t.s.drain()
	return x, y, storage
}

// Release frees the storage that Take returned.
func (t *TCP) Release(storage []byte) { t.s.tcp.params.Free(storage) }

// readEnd returns io.EOF or the error that ends reading, or nil if more data may come. It returns the
// error of a failed connection only if no other call has returned it. t.mu is held.
func (t *TCP) readEnd() error {
	if t.conn.AtEOF() {
		return io.EOF // even if the connection failed after it received the FIN
	}
	if e := t.conn.Err(); e != tcp.ErrNone && !t.errReported {
		t.errReported = true // as on Linux, only one call returns the error
		return errnoOf(e)
	}
	if t.rdShut || t.conn.State() == tcp.Closed {
		return io.EOF
	}
	return nil
}

// CloseRead makes Read return io.EOF instead of waiting, once all received data is read.
func (t *TCP) CloseRead() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.shutdownErr(); err != nil {
		return err
	}
	t.rdShut = true
	t.conn.CloseRead()
	t.wakeReaders()
	return nil
}

// CloseWrite sends a FIN after the written data.
func (t *TCP) CloseWrite() error {
	growStack(false)
	t.mu.Lock()
	if err := t.shutdownErr(); err != nil {
		t.mu.Unlock()
		return err
	}
	if !t.wrShut {
		t.wrShut = true
		now := t.s.now()
		t.conn.CloseWrite(now)
		t.wakeWriters()
		t.runDirect(now)
		return nil
	}
	t.mu.Unlock()
	return nil
}

// shutdownErr returns the error with which CloseRead and CloseWrite have to fail, or nil. t.mu is held.
func (t *TCP) shutdownErr() error {
	switch {
	case t.closed:
		return net.ErrClosed
	case t.conn.State() == tcp.Closed || t.conn.State() == tcp.TimeWait:
		return syscall.ENOTCONN
	}
	return nil
}

// Close closes the socket. By default it returns at once, and the stack delivers the written data in the
// background; SetLinger can change that. A second Close returns net.ErrClosed.
func (t *TCP) Close() error {
	growStack(false)
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return net.ErrClosed
	}
	t.closed = true
	if t.dl != nil {
		t.dl.stop()
	}
	now := t.s.now()
	if t.linger == 0 {
		t.conn.Abort(now)
	} else {
		t.conn.Close(now)
	}
	t.wakeReaders()
	t.wakeWriters()
	linger := t.linger
	t.runDirect(now)
	t.s.limitOrphans()
	if linger > 0 {
		t.lingerFor(time.Duration(linger) * time.Second)
	}
	return nil
}

// lingerFor waits until all data and the FIN are acknowledged, for at most d.
func (t *TCP) lingerFor(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var dl deadline
	dl.set(time.Now().Add(d), &t.mu, t.wakeWriters)
	for !dl.expired() && t.linked && t.conn.State() != tcp.Closed && t.conn.State() != tcp.FinWait2 {
		t.waiting().write()
	}
	dl.stop()
}

// kill closes the socket and resets the connection. The stack and the listener call it when they close,
// and for a connection that Accept will not return.
func (t *TCP) kill() {
	t.mu.Lock()
	t.closed = true
	if t.dl != nil {
		t.dl.stop()
	}
	now := t.s.now()
	t.conn.Abort(now)
	t.run(now)
	if t.linked { // run has not removed it, because the Conn was never opened
		t.unlink()
	}
	t.wakeReaders()
	t.wakeWriters()
	t.mu.Unlock()
}

// abort resets the connection. The application's calls then fail with ECONNABORTED.
func (t *TCP) abort() {
	t.mu.Lock()
	now := t.s.now()
	t.conn.Abort(now)
	ev := t.run(now)
	t.wakeReaders()
	t.wakeWriters()
	t.mu.Unlock()
	t.report(ev)
}

// LocalAddr returns the connection's local address.
func (t *TCP) LocalAddr() netip.AddrPort { return t.zoned(t.key.local()) }

// RemoteAddr returns the peer's address.
func (t *TCP) RemoteAddr() netip.AddrPort { return t.zoned(t.key.remote()) }

// zoned returns a, with the connection's zone if the address is link-local.
func (t *TCP) zoned(a netip.AddrPort) netip.AddrPort {
	if !isLinkLocal6(a.Addr()) {
		return a
	}
	return t.s.zonedPort(a, t.key.zone())
}

// Info returns the state of the connection.
func (t *TCP) Info() TCPInfo {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.conn.Info(t.s.now())
}

// SetDeadline sets the read and the write deadline. The zero time means no deadline.
func (t *TCP) SetDeadline(d time.Time) error { return t.setDeadlines(d, true, true) }

// SetReadDeadline sets the time at which reads fail.
func (t *TCP) SetReadDeadline(d time.Time) error { return t.setDeadlines(d, true, false) }

// SetWriteDeadline sets the time at which writes fail.
func (t *TCP) SetWriteDeadline(d time.Time) error { return t.setDeadlines(d, false, true) }

func (t *TCP) setDeadlines(d time.Time, read, write bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return net.ErrClosed
	}
	// Setting a deadline in the past or removing one needs no timer and no memory. net/http does both
	// for each request, to end its background read.
	past := !d.IsZero() && time.Until(d) <= 0
	if t.dl == nil && !past && !d.IsZero() {
		t.dl = newDeadlines(t)
	}
	if read {
		t.rdPast = past
		if t.dl != nil {
			t.dl.rd.set(d, &t.mu, t.dl.wakeReaders)
		} else if past {
			t.wakeReaders()
		}
	}
	if write {
		t.wrPast = past
		if t.dl != nil {
			t.dl.wr.set(d, &t.mu, t.dl.wakeWriters)
		} else if past {
			t.wakeWriters()
		}
	}
	return nil
}

// deadlines are the read deadline and the write deadline of a connection.
type deadlines struct {
	rd, wr                   deadline
	wakeReaders, wakeWriters func()
}

func newDeadlines(t *TCP) *deadlines {
	return &deadlines{wakeReaders: t.wakeReaders, wakeWriters: t.wakeWriters}
}

func (d *deadlines) stop() {
	d.rd.stop()
	d.wr.stop()
}

// change calls f to change the connection's state, and then run. t.mu is held during both calls.
func (t *TCP) change(f func(now tcp.Time)) error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return net.ErrClosed
	}
	now := t.s.now()
	f(now)
	t.run(now)
	t.mu.Unlock()
	t.s.drain()
	return nil
}

// SetNoDelay(true) turns Nagle's algorithm off, and SetNoDelay(false) turns the algorithm on. Initially the
// algorithm is off.
func (t *TCP) SetNoDelay(on bool) error {
	return t.change(func(tcp.Time) { t.conn.SetNoDelay(on) })
}

// SetKeepAlive turns keep-alive on or off. The initial setting is that of TCPOptions.
func (t *TCP) SetKeepAlive(on bool) error {
	return t.changeKeepAlive(func(k *tcp.KeepAlive) {
		if on == (k.Idle < 0) {
			k.Idle = -k.Idle
		}
	})
}

// SetKeepAliveConfig sets the time without traffic before the first probe, the time between probes, and
// the number of probes. A value that is not positive leaves the setting unchanged.
func (t *TCP) SetKeepAliveConfig(idle, interval time.Duration, count int) error {
	return t.changeKeepAlive(func(k *tcp.KeepAlive) {
		if idle > 0 && k.Idle < 0 {
			k.Idle = -tcpTime(idle)
		} else if idle > 0 {
			k.Idle = tcpTime(idle)
		}
		if interval > 0 {
			k.Interval = tcpTime(interval)
		}
		if count > 0 {
			k.Count = count
		}
	})
}

// changeKeepAlive calls f to change the keep-alive setting. A negative Idle means that keep-alive is
// off.
func (t *TCP) changeKeepAlive(f func(k *tcp.KeepAlive)) error {
	return t.change(func(now tcp.Time) {
		k := t.conn.KeepAlive()
		f(&k)
		t.conn.SetKeepAlive(now, k)
	})
}

// SetLinger sets what Close does with unacknowledged data. If sec is negative, Close returns at once
// and the data is delivered in the background. If sec is 0, Close discards the data and resets the
// connection. If sec is positive, Close waits up to sec seconds until the data is delivered.
func (t *TCP) SetLinger(sec int) error {
	return t.change(func(tcp.Time) { t.linger = int32(max(min(sec, math.MaxInt32), -1)) })
}

// SetReadBuffer sets the size of the receive buffer in bytes, and turns off its auto-tuning.
func (t *TCP) SetReadBuffer(n int) error {
	return t.change(func(tcp.Time) { t.conn.SetRecvLimit(min(max(n, minTCPBuffer), maxTCPBuffer)) })
}

// SetWriteBuffer sets the size of the send buffer in bytes, and turns off its auto-tuning.
func (t *TCP) SetWriteBuffer(n int) error {
	return t.change(func(tcp.Time) { t.conn.SetSendLimit(min(max(n, minTCPBuffer), maxTCPBuffer)) })
}

// Limits of SetReadBuffer and SetWriteBuffer in bytes.
const (
	minTCPBuffer = 4 << 10
	maxTCPBuffer = 16 << 20
)
