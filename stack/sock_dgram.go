package stack

import (
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

// Meta is what a datagram says beside its payload.
type Meta struct {
	Dst      netip.Addr // to which it was sent: the host's own, or a group
	TTL, TOS uint8      // as received
	NIC      int        // index of the interface
}

// SendOptions are a datagram's own. The zero value is what most use.
type SendOptions struct {
	TTL          uint8      // 0: the socket's, which is 64, or 1 to a multicast group
	TOS          uint8      // 0: the socket's, unless SetTOS
	SetTOS       bool       // TOS holds even if it is 0
	NIC          int        // index of the interface to leave by; 0: by the routes
	DontFragment bool       // EMSGSIZE rather than fragments
	Src          netip.Addr // one of the host's addresses; invalid: the socket's, or chosen
}

// datagramOverhead is what a datagram in a queue counts beside its buffer, so
// that many small ones are bounded as well.
const datagramOverhead = 128

// A datagram waits in a socket's queue. Its buffer is of the pool.
type datagram struct {
	buf  []byte
	head int // bytes of the IP header that buf begins with, on a raw socket
	from netip.AddrPort
	meta Meta
}

// A datagramQueue is a ring that grows to what is needed.
type datagramQueue struct {
	ring  []datagram // of a power of two
	head  int
	n     int
	bytes int // of buffers and overhead
	limit int
}

// push appends a datagram whose buffer has n bytes, for the caller to fill in, or returns nil
// where the queue is full. One always has room, however large it is.
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

// pop moves the oldest datagram to d, and reports whether there was one.
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
	// What a burst left is not kept for the next one.
	if q.n == 0 && len(q.ring) > 256 {
		q.ring, q.head = nil, 0
	}
	return true
}

// A dgram is what UDP and raw sockets have in common: a queue, deadlines, and a
// cached path.
type dgram struct {
	s   *Stack
	fam Family

	mu       mutex[levelSocket]
	readable sync.Cond
	writable sync.Cond
	queue    datagramQueue
	remote   netip.AddrPort // invalid unless connected
	src      netip.Addr     // that the socket sends from; invalid: chosen for each destination
	zone     int            // index of the interface, where the socket's or the remote address is link-local; else 0
	path     path           // of the last datagram sent
	pathSrc  netip.Addr     // the source that was asked for
	pathOver int            // the interface that was asked for
	ttl, tos uint8          // of what is sent; groups have a ttl of their own. A ttl of 0 is the path's
	mc       multicast
	pending  syscall.Errno // reported once, by whatever comes next
	closed   bool
	enlisted *iface // where txReady is to come from; nil: nowhere
	rd, wd   deadline

	// Not yet in the stack's counters: those that were put into the queue, and those of UDP
	// that were sent.
	received, sent uint64
}

func (g *dgram) init(s *Stack, fam Family) {
	g.s, g.fam = s, fam
	g.mc.ttl, g.mc.loop = 1, true
	g.readable.L, g.writable.L = &g.mu, &g.mu
	g.queue.limit = s.udpBuffer
}

// receive waits for a datagram, copies it to b and returns its whole length, and in d
// what else there is of it. What it has of an IP header belongs to it only if header says so.
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

// await waits for a datagram. The lock is held, and released while it waits.
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

// mayRead is usable for reads. One that leaves may have been woken for what is in the
// queue: that is the next one's then.
func (g *dgram) mayRead() error {
	err := g.usable(&g.rd)
	if err != nil && g.queue.n > 0 {
		g.readable.Signal()
	}
	return err
}

// usable returns why a read or write cannot go on, if so.
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

// enqueue puts a copy of a payload, and of the IP header if it is to be read, into the
// queue. It reports whether there was room and the socket was open.
func (g *dgram) enqueue(header, payload []byte, from netip.AddrPort, meta *Meta) bool {
	buf := append(g.s.bufs.get(len(header) + len(payload))[:0], header...)
	buf = append(buf, payload...)
	g.mu.Lock()
	defer g.mu.Unlock()
	var d *datagram
	if !g.closed {
		d = g.queue.push(cap(buf))
	}
	if d == nil {
		g.s.bufs.put(buf)
		return false
	}
	d.buf, d.head, d.from, d.meta = buf, len(header), from, *meta
	g.received++
	g.readable.Signal()
	return true
}

// fail has the next call, or those that wait, return an error, once.
func (g *dgram) fail(errno syscall.Errno) {
	g.mu.Lock()
	if !g.closed {
		g.pending = errno
		g.readable.Signal()
		g.writable.Broadcast()
	}
	g.mu.Unlock()
}

// route brings g.path to dst up to date, from a source and over an interface if these
// are asked for. The lock is held.
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

// lookup finds the path to dst. As on Linux, there is no route from the address of a socket
// that the host does not have any more: ENETUNREACH. The lock is held.
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
	return p, err
}

// source is the source address that is asked for, by the call or the socket.
func (g *dgram) source(o *SendOptions) netip.Addr {
	if o.Src.IsValid() {
		return o.Src
	}
	return g.src
}

func (g *dgram) setPath(p path, src netip.Addr, over int) {
	if g.ttl != 0 {
		p.hops = g.ttl
	}
	g.path, g.pathSrc, g.pathOver = p, src, over
}

// awaitRoom waits until the interface on the path to dst takes more, and leaves
// that path in g.path. The lock is held, and released while it waits: another
// writer may have sent elsewhere, and the socket may have been closed.
func (g *dgram) awaitRoom(dst, src netip.Addr, over int) error {
	for {
		if err := g.usable(&g.wd); err != nil {
			return err
		}
		if err := g.route(dst, src, over); err != nil {
			return err
		}
		ifc := g.path.ifc
		if ifc.tx.room() {
			return nil
		}
		// What waits may have nobody to send it but us.
		g.mu.Unlock()
		ifc.drain()
		g.mu.Lock()
		if g.closed || g.wd.expired() || g.pending != 0 {
			continue
		}
		// Those that gave up before have left the socket enlisted.
		if g.enlisted == ifc || ifc.tx.wait(g) {
			g.enlisted = ifc
			g.writable.Wait()
		}
	}
}

// txReady is called when an interface has room again.
func (g *dgram) txReady() {
	g.mu.Lock()
	g.enlisted = nil
	g.writable.Broadcast()
	g.mu.Unlock()
}

// shut closes the socket and wakes all who wait. It reports whether it was
// open.
func (g *dgram) shut() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.closed = true
	g.rd.stop()
	g.wd.stop()
	for d := (datagram{}); g.queue.pop(&d); {
		g.s.bufs.put(d.buf)
	}
	g.queue.ring = nil
	g.path = path{}
	g.readable.Broadcast()
	g.writable.Broadcast()
	return true
}

// RemoteAddr returns the address that the socket is connected to, or an invalid
// one. A raw socket's has no port.
func (g *dgram) RemoteAddr() netip.AddrPort {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.zoned(g.remote)
}

// zoned gives an address of the socket its zone, if it is link-local. The lock is held.
func (g *dgram) zoned(a netip.AddrPort) netip.AddrPort {
	return g.s.zonedPort(a, g.zone)
}

// destination takes the address of a datagram that is to be sent apart: it is returned without its
// zone, which chooses the interface unless o does.
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

// SetDeadline sets both deadlines; the zero time means none. What waits when a
// deadline passes, and what is called after it, returns os.ErrDeadlineExceeded.
func (g *dgram) SetDeadline(t time.Time) error { return g.setDeadlines(t, true, true) }

// SetReadDeadline sets the deadline of reads.
func (g *dgram) SetReadDeadline(t time.Time) error { return g.setDeadlines(t, true, false) }

// SetWriteDeadline sets the deadline of writes, which wait only while the link
// takes nothing more.
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

// SetReadBuffer sets how many bytes may wait in the receive queue, the queue's
// own needs included. Less than 2048 becomes 2048. What is there stays.
func (g *dgram) SetReadBuffer(n int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return net.ErrClosed
	}
	g.queue.limit = max(n, minSocketBuffer)
	return nil
}

// SetWriteBuffer does nothing to an open socket: what is written is in the
// link's queue, which the sockets share.
func (g *dgram) SetWriteBuffer(int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return net.ErrClosed
	}
	return nil
}

// sourceOf is the address that a socket bound to a sends from; invalid where that is one of
// many, or a group's.
func (s *Stack) sourceOf(a netip.Addr) netip.Addr {
	if isUnicast(a) && s.IsLocal(a) {
		return a
	}
	return netip.Addr{}
}

// checkLocal checks and completes the address of a new socket: an unspecified
// or missing one becomes that of the family. It is returned without its zone; zone is the index of
// the interface of one that belongs to a link, else 0.
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

// checkZone tells whether a socket can be bound to an address of a link. As on Linux, it has to say of
// which.
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
