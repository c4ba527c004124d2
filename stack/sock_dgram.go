package stack

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Meta describes a received datagram, apart from its payload and its source.
type Meta struct {
	Dst      netip.Addr // destination of the packet: the host's, a broadcast or a multicast address
	TTL, TOS uint8      // of the received packet
	NIC      int        // index of the interface that received it
}

// SendOptions are options of one datagram. The zero value selects the socket's options.
type SendOptions struct {
	TTL          uint8      // 0: the socket's TTL, which is initially 64, or 1 for multicast destinations
	TOS          uint8      // used if it is not 0 or SetTOS is set; otherwise the socket's TOS applies
	SetTOS       bool       // use TOS even if it is 0
	NIC          int        // index of the interface to send on; 0: the routes choose
	DontFragment bool       // fail with EMSGSIZE instead of fragmenting
	Src          netip.Addr // source address; invalid: the socket's, or one that the stack chooses
}

// datagramOverhead is the number of bytes that a queued datagram counts in addition to its buffer. It
// bounds the number of small datagrams in a queue.
const datagramOverhead = 128

// A datagram is an entry of a socket's receive queue. Its buffer belongs to the pool.
type datagram struct {
	buf  []byte
	head int // length of the IP header at the start of buf, on a raw socket
	from netip.AddrPort
	meta Meta
}

// A datagramQueue is the receive queue of a socket, in a ring that grows as needed.
type datagramQueue struct {
	ring  []datagram // its length is a power of two
	head  int
	n     int
	bytes int // buffers and overhead of the queued datagrams
	limit int // maximum of bytes, except for a single datagram
}

// push appends an entry for a datagram whose buffer has n bytes, and returns the entry for the caller to
// fill in. It returns nil if the queue is full. An empty queue accepts a datagram of any size.
func (q *datagramQueue) push(n int) *datagram {
	cost := n + datagramOverhead
	if q.n > 0 && q.bytes+cost > q.limit {
		return nil
	}
	if q.n == len(q.ring) {
		ring := make([]datagram, max(8, 2*len(q.ring)))
		for i := range q.n {
			ring[i] = q.ring[(q.head+i)%len(q.ring)]
		}
		q.ring, q.head = ring, 0
	}
	d := &q.ring[(q.head+q.n)&(len(q.ring)-1)]
	q.n++
	q.bytes += cost
	return d
}

// pop moves the oldest datagram to *d, and reports whether there was one.
func (q *datagramQueue) pop(d *datagram) bool {
	if q.n == 0 {
		return false
	}
	slot := &q.ring[q.head]
	*d = *slot
	slot.buf = nil
	q.head = (q.head + 1) & (len(q.ring) - 1)
	q.n--
	q.bytes -= cap(d.buf) + datagramOverhead
	// Free a ring that a burst has enlarged.
	if q.n == 0 && len(q.ring) > 256 {
		q.ring, q.head = nil, 0
	}
	return true
}

// A dgram is the common part of UDP and raw sockets: a receive queue, deadlines, and a cached path.
type dgram struct {
	s   *Stack
	fam Family

	mu       mutex[levelSocket]
	readable sync.Cond
	writable sync.Cond
	queue    datagramQueue
	remote   netip.AddrPort // invalid unless connected
	src      netip.Addr     // source address of the socket; invalid: chosen for each destination
	zone     int            // interface index if the socket's or the remote address is link-local; else 0
	path     path           // path of the last datagram sent
	pathSrc  netip.Addr     // the argument src of the lookup of path
	pathOver int            // the argument over of the lookup of path
	ttl, tos uint8          // of sent datagrams; ttl 0: the path's; mc has the TTL for multicast
	mc       multicast
	pending  syscall.Errno // an error that one call returns: the next, or one that waits now; 0: none
	closed   bool
	sealed   bool     // do not queue datagrams: the socket is closed or has a handler
	noSource bool     // see SetBroadcastWithoutSource
	enlisted []*iface // the interfaces whose transmit queues will call txReady
	rd, wd   deadline
	handler  func(b []byte, from netip.AddrPort, meta Meta) DropReason // called for received datagrams; nil: they are queued

	// received counts the datagrams that were passed to the queue or the handler. sent counts the UDP
	// datagrams that were sent. Neither count is in the stack's counters yet; see UDP.fold.
	received, sent uint64
	dropped        uint64 // datagrams that found the queue full
}

func (g *dgram) init(s *Stack, fam Family) {
	g.s, g.fam = s, fam
	g.mc.ttl, g.mc.loop = 1, true
	g.readable.L, g.writable.L = &g.mu, &g.mu
	g.queue.limit = s.udpBuffer
}

// receive waits for a datagram and copies it to b, as much as fits. It returns the number of bytes copied
// and the length of the whole datagram, and sets the other fields of *d. The IP header of a raw socket's
// datagram is part of what receive copies and counts only if header is set.
func (g *dgram) receive(b []byte, header bool, d *datagram) (n, full int, err error) {
	g.mu.Lock()
	err = g.await(d)
	g.mu.Unlock()
	if err != nil {
		return 0, 0, err
	}
	data := d.buf
	if !header {
		data = data[d.head:]
	}
	n, full = copy(b, data), len(data)
	g.s.bufs.put(d.buf)
	d.buf = nil
	return n, full, nil
}

// open returns net.ErrClosed if the socket is closed.
func (g *dgram) open() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return net.ErrClosed
	}
	return nil
}

// await waits for a datagram and moves it to *d. g.mu is held, but not during the wait.
func (g *dgram) await(d *datagram) error {
	for {
		if err := g.mayRead(); err != nil {
			return err
		}
		if g.queue.pop(d) {
			return nil
		}
		g.readable.Wait()
	}
}

// mayRead returns the error with which a read has to fail, or nil. A read that fails passes its wakeup
// on to the next reader if there are datagrams in the queue. g.mu is held.
func (g *dgram) mayRead() error {
	err := g.usable(&g.rd)
	if err != nil && g.queue.n > 0 {
		g.readable.Signal()
	}
	return err
}

// usable returns the error with which a call with deadline d has to fail, or nil. It consumes a pending
// error. g.mu is held.
func (g *dgram) usable(d *deadline) error {
	switch {
	case g.closed:
		return net.ErrClosed
	case d.expired():
		return os.ErrDeadlineExceeded
	case g.pending != 0:
		errno := g.pending
		g.pending = 0
		return errno
	}
	return nil
}

// enqueue appends a datagram with a copy of header and payload to the queue, or passes a copy of payload
// to the handler. ok is false if the queue is full or the socket is closed. why is the reason for which the handler has
// dropped the datagram, if it has. header is the IP header for a raw socket, and otherwise empty.
func (g *dgram) enqueue(header, payload []byte, from netip.AddrPort, meta *Meta) (ok bool, why DropReason) {
	buf := append(g.s.bufs.get(len(header) + len(payload))[:0], header...)
	buf = append(buf, payload...)
	g.mu.Lock()
	defer g.mu.Unlock()
	var d *datagram
	if !g.sealed {
		d = g.queue.push(cap(buf))
	}
	if d == nil {
		ok, why = g.handle(buf[len(header):], from, meta)
		if !ok {
			g.dropped++
		}
		g.s.bufs.put(buf)
		return ok, why
	}
	d.buf, d.head, d.from, d.meta = buf, len(header), from, *meta
	g.received++
	g.readable.Signal()
	return true, ""
}

// handle calls the handler with a datagram, and returns why the handler has dropped it. ok is false if the socket has no
// handler or is closed. g.mu is held, but not while the handler runs.
func (g *dgram) handle(b []byte, from netip.AddrPort, meta *Meta) (ok bool, why DropReason) {
	f := g.handler
	if f == nil || g.closed {
		return false, ""
	}
	g.received++
	g.mu.Unlock()
	defer g.mu.Lock()
	return true, f(b, from, *meta)
}

// SetHandler makes the socket pass each datagram that it receives from now on to f, instead of queueing
// the datagram for a read. The owner of the socket then needs no goroutine that waits for datagrams. The
// goroutines that receive from the links call f, possibly several of them at the same time. f must not
// block, must not send, and must not keep b. f must not be nil.
func (g *dgram) SetHandler(f func(b []byte, from netip.AddrPort, meta Meta)) {
	g.SetDroppingHandler(func(b []byte, from netip.AddrPort, meta Meta) DropReason {
		f(b, from, meta)
		return ""
	})
}

// SetDroppingHandler is SetHandler for an f that drops some of the datagrams, and then returns why. The stack tells its
// Watchers of them, with the bytes of the packet. It does not count them in Stats.Drops.
func (g *dgram) SetDroppingHandler(f func(b []byte, from netip.AddrPort, meta Meta) DropReason) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.handler, g.sealed = f, true
}

// fail makes one call return errno: the next one, or one that waits now.
func (g *dgram) fail(errno syscall.Errno) {
	g.mu.Lock()
	if !g.closed {
		g.pending = errno
		g.readable.Signal()
		g.writable.Broadcast()
	}
	g.mu.Unlock()
}

// route makes g.path a valid path to dst. If src is valid, it is the source address that the path must
// have. If over is not 0, it is the index of the interface that the path must use. g.mu is held.
func (g *dgram) route(dst, src netip.Addr, over int) error {
	if g.path.valid(g.s) && g.path.mtuGen == g.s.datagramMTU.gen.Load() && g.path.dst == dst && g.pathSrc == src && g.pathOver == over {
		return nil
	}
	p, err := g.lookup(dst, src, over)
	if err != nil {
		return err
	}
	g.setPath(p, src, over)
	return nil
}

// lookup finds a path to dst; src and over are as for route. If the host has lost the address that the
// socket is bound to, the error is ENETUNREACH, as on Linux. g.mu is held.
func (g *dgram) lookup(dst, src netip.Addr, over int) (path, error) {
	mtuGen := g.s.datagramMTU.gen.Load()
	p, err := g.s.routeOver(dst, src, over)
	p.mtuGen = mtuGen
	if err == syscall.EADDRNOTAVAIL && g.src.IsValid() && src == g.src {
		err = syscall.ENETUNREACH
	}
	if err == nil && !p.group {
		g.s.datagramMTU.apply(g.s, &p)
	}
	if err == nil && g.noSource && !src.IsValid() && p.dst == limitedBroadcast() {
		p.src = netip.IPv4Unspecified()
		p.makeHeader()
	}
	return p, err
}

// SetBroadcastWithoutSource makes the datagrams that the socket sends to 255.255.255.255 have the source
// 0.0.0.0, even if the host has addresses. A valid SendOptions.Src still selects another source.
//
// RFC 2131 4.1: "DHCP messages broadcast by a client prior to that client obtaining its IP address must
// have the source address field in the IP header set to 0." A static address, or the address of another
// lease, is not the address that the client is obtaining.
func (g *dgram) SetBroadcastWithoutSource() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.noSource, g.path = true, path{}
}

// source returns the source address for a datagram: o.Src, or else the socket's. If it is invalid, the
// stack chooses the source. g.mu is held.
func (g *dgram) source(o *SendOptions) netip.Addr {
	if o.Src.IsValid() {
		return o.Src
	}
	return g.src
}

// setPath caches p as the path of the socket. src and over are the arguments of the lookup. g.mu is held.
func (g *dgram) setPath(p path, src netip.Addr, over int) {
	if g.ttl != 0 {
		p.hops = g.ttl
	}
	g.path, g.pathSrc, g.pathOver = p, src, over
}

// awaitRoom waits until the transmit queue of the path to dst has room, and sets g.path to that path.
// It waits until the deadline d at the latest. g.mu is held, but not during the wait. Meanwhile other
// writers may change g.path, and the socket may be closed.
func (g *dgram) awaitRoom(dst, src netip.Addr, over int, d *deadline) error {
	for {
		if err := g.usable(d); err != nil {
			return err
		}
		if err := g.route(dst, src, over); err != nil {
			return err
		}
		ifc := g.path.ifc
		if ifc.tx.room() {
			return nil
		}
		// The queue may be full because no goroutine has drained it yet, so drain it.
		g.mu.Unlock()
		ifc.drain()
		g.mu.Lock()
		if g.closed || d.expired() || g.pending != 0 {
			continue // usable returns the error
		}
		// If an earlier writer failed during its wait, or another one waits too, g is enlisted already.
		enlisted := slices.Contains(g.enlisted, ifc)
		if !enlisted && ifc.tx.wait(g) {
			g.enlisted = append(g.enlisted, ifc)
			enlisted = true
		}
		if enlisted {
			g.writable.Wait()
		}
	}
}

// txReady wakes the writers. q, the shared queue of an interface, calls txReady when it has room again.
func (g *dgram) txReady(q *txQueue) {
	g.mu.Lock()
	g.enlisted = slices.DeleteFunc(g.enlisted, func(x *iface) bool { return x == q.ifc })
	g.writable.Broadcast()
	g.mu.Unlock()
}

// shut closes the socket and wakes all goroutines that wait. It reports whether the socket was open.
func (g *dgram) shut() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.closed, g.sealed = true, true
	g.rd.stop()
	g.wd.stop()
	for d := (datagram{}); g.queue.pop(&d); {
		g.s.bufs.put(d.buf)
	}
	for _, ifc := range g.enlisted {
		ifc.tx.unwait(g) // a queue that is stuck must not keep closed sockets
	}
	g.enlisted = nil
	g.queue.ring = nil
	g.path = path{}
	g.readable.Broadcast()
	g.writable.Broadcast()
	return true
}

// RemoteAddr returns the address that the socket is connected to, or an invalid address if it is not
// connected. The port is 0 for a raw socket.
func (g *dgram) RemoteAddr() netip.AddrPort {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.zoned(g.remote)
}

// zoned returns a, with the socket's zone if the address is link-local. g.mu is held.
func (g *dgram) zoned(a netip.AddrPort) netip.AddrPort {
	return g.s.zonedPort(a, g.zone)
}

// destination returns the destination address a without its zone. If o.NIC is 0, destination sets it to
// the interface that the zone of a, or else of o.Src, names. It removes the zone from o.Src.
func (g *dgram) destination(a netip.Addr, o *SendOptions) netip.Addr {
	if a.Is4() {
		return a
	}
	a, zone := g.s.unzone(a)
	src, srcZone := g.s.unzone(o.Src)
	o.Src = src
	if zone == 0 {
		zone = srcZone
	}
	if o.NIC == 0 {
		o.NIC = zone
	}
	return a
}

// SetDeadline sets the read and the write deadline. The zero time means no deadline. After a deadline,
// calls return os.ErrDeadlineExceeded, including calls that wait at that time.
func (g *dgram) SetDeadline(t time.Time) error { return g.setDeadlines(t, true, true) }

// SetReadDeadline sets the deadline of reads.
func (g *dgram) SetReadDeadline(t time.Time) error { return g.setDeadlines(t, true, false) }

// SetWriteDeadline sets the deadline of writes, which wait only while the transmit queue is full.
func (g *dgram) SetWriteDeadline(t time.Time) error { return g.setDeadlines(t, false, true) }

func (g *dgram) setDeadlines(t time.Time, read, write bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return net.ErrClosed
	}
	if read {
		g.rd.set(t, &g.mu, g.readable.Broadcast)
	}
	if write {
		g.wd.set(t, &g.mu, g.writable.Broadcast)
	}
	return nil
}

const minSocketBuffer = 2048

// SetReadBuffer sets the limit of the receive queue in bytes, including the overhead of the queue. A
// smaller n than 2048 counts as 2048. Datagrams that are already in the queue stay there.
func (g *dgram) SetReadBuffer(n int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return net.ErrClosed
	}
	g.queue.limit = max(n, minSocketBuffer)
	return nil
}

// SetWriteBuffer has no effect, because the sockets share the transmit queue of the interface. It returns
// net.ErrClosed if the socket is closed.
func (g *dgram) SetWriteBuffer(int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return net.ErrClosed
	}
	return nil
}

// sourceOf returns the source address of a socket that is bound to a: a itself if a is a unicast address
// of the host, and otherwise an invalid address, with which the stack chooses a source for each
// destination.
func (s *Stack) sourceOf(a netip.Addr) netip.Addr {
	if isUnicast(a) && s.IsLocal(a) {
		return a
	}
	return netip.Addr{}
}

// checkLocal checks the local address of a new socket, and returns the address without its zone. If local
// is unspecified or invalid, checkLocal returns the unspecified address of the family. zone is the index
// of the interface if the address has link or interface scope, and otherwise 0.
func (s *Stack) checkLocal(fam Family, local netip.Addr) (a netip.Addr, zone int, err error) {
	a, zone = s.unzone(local)
	switch v6 := s.HasIPv6(); {
	case fam == Family6 && !v6:
		return a, 0, syscall.EAFNOSUPPORT
	case !a.IsValid(), a.IsUnspecified():
		if fam == Family4 || !v6 {
			return netip.IPv4Unspecified(), 0, nil
		}
		return netip.IPv6Unspecified(), 0, nil
	case !fam.holds(a), a.Is6() && !v6:
		return a, 0, syscall.EAFNOSUPPORT
	}
	if isLinkLocal6(a) || a.Is6() && (a.IsLinkLocalMulticast() || a.IsInterfaceLocalMulticast()) {
		return a, zone, s.checkZone(a, zone)
	}
	if !a.IsMulticast() && !s.IsLocal(a) && !s.IsBroadcast(a) {
		return a, 0, syscall.EADDRNOTAVAIL
	}
	return a, 0, nil
}

// checkZone returns an error if a socket cannot be bound to the link-scope address a in the given zone. As
// on Linux, the zone is required.
func (s *Stack) checkZone(a netip.Addr, zone int) error {
	ifc := s.ifaceAt(zone)
	switch {
	case zone == 0:
		return syscall.EINVAL
	case ifc == nil:
		return syscall.ENODEV
	case !a.IsMulticast() && !ifc.owns(a):
		return syscall.EADDRNOTAVAIL
	}
	return nil
}
