package stack

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

const (
	maxUDPPayload  = maxIPv4 - wire.IPv4Len - wire.UDPLen // 65507
	maxUDPPayload6 = maxIPv6 - wire.UDPLen                // 65527
)

// A UDP is a UDP socket. Its methods may be called concurrently. Errors are net.ErrClosed,
// os.ErrDeadlineExceeded and syscall.Errno.
type UDP struct {
	dgram
	local  netip.AddrPort // guarded by mu; Connect may change it
	shared bool           // other shared sockets may be bound to the same address and port
}

// udpBuckets is the number of buckets of a udpTable.
const udpBuckets = 512

// A udpTable maps ports to sockets. Sockets with the same port differ in their local addresses, or are
// shared.
type udpTable struct {
	// buckets is allocated for the first socket. A bucket is read without mu. To change a bucket, replace
	// it with mu held.
	buckets atomic.Pointer[[udpBuckets]atomic.Pointer[[]udpBinding]]

	mu     mutex[levelTable]
	closed bool
	folded atomic.Uint64 // number of closed sockets whose counts were added to the stack's counters
}

// A udpBinding is the entry of a socket in a udpTable.
type udpBinding struct {
	u    *UDP
	at   bound
	port uint16
	peer netip.AddrPort // invalid unless the socket is connected
}

// binding returns the entry for the socket's current addresses. u.mu is held, unless the socket is new.
func (u *UDP) binding() udpBinding {
	return udpBinding{u: u, at: bind(u.fam, u.local.Addr(), u.zone), port: u.local.Port(), peer: u.remote}
}

// at returns the bucket of a port. The bucket may also contain sockets with other ports.
func (t *udpTable) at(port uint16) []udpBinding {
	if all := t.buckets.Load(); all != nil {
		if bs := all[port%udpBuckets].Load(); bs != nil {
			return *bs
		}
	}
	return nil
}

// set replaces the bucket of a port. t.mu is held.
func (t *udpTable) set(port uint16, bs []udpBinding) {
	all := t.buckets.Load()
	if all == nil {
		all = new([udpBuckets]atomic.Pointer[[]udpBinding])
		t.buckets.Store(all)
	}
	all[port%udpBuckets].Store(&bs)
}

// find returns the socket for a unicast datagram from remote to local, or nil. A socket that is bound to
// the address precedes a socket that is bound to all addresses. Sockets that are connected to another
// peer are not considered. zone is the index of the interface if an address is link-local, else 0.
func (t *udpTable) find(local, remote netip.AddrPort, zone int) *UDP {
	var best *UDP
	score := 0
	bs := t.at(local.Port())
	for i := range bs {
		// Of sockets that fit equally well, take the newest, as on Linux.
		if n := bs[i].fit(local, remote, zone); n > 0 && n >= score {
			best, score = bs[i].u, n
		}
	}
	return best
}

// fit returns a score for how well the socket fits a datagram from remote to local, or 0 if the datagram
// is not for the socket. As on Linux, a wildcard of one family fits better than a wildcard of both.
func (b *udpBinding) fit(local, remote netip.AddrPort, zone int) int {
	if b.port != local.Port() || !b.at.takes(local.Addr(), zone) {
		return 0
	}
	n := 1
	switch b.at.all {
	case 0:
		n += 4
	case ipv4, ipv6:
		n++
	}
	if b.peer.IsValid() {
		if b.peer != remote {
			return 0
		}
		n += 2
	}
	return n
}

// findAll appends to us all sockets for a multicast or broadcast datagram to local. As on Linux, these
// include sockets that have not joined the group.
func (t *udpTable) findAll(us []*UDP, local, remote netip.AddrPort, zone int) []*UDP {
	bs := t.at(local.Port())
	for i := range bs {
		if bs[i].fit(local, remote, zone) > 0 {
			us = append(us, bs[i].u)
		}
	}
	return us
}

// free reports whether no socket in the table conflicts with the binding b. shared says that the new
// socket is shared; two shared sockets never conflict. t.mu is held.
func (t *udpTable) free(b *udpBinding, shared bool) bool {
	for _, have := range t.at(b.port) {
		if have.port == b.port && !(shared && have.u.shared) && have.at.conflicts(&b.at) {
			return false
		}
	}
	return true
}

// add adds a socket. t.mu is held. append may write into the array of the current bucket, but only behind
// its end, where readers do not look.
func (t *udpTable) add(b udpBinding) { t.set(b.port, append(t.at(b.port), b)) }

// remove removes a socket. t.mu is held.
func (t *udpTable) remove(u *UDP, port uint16) {
	bs := t.at(port)
	i := slices.IndexFunc(bs, func(have udpBinding) bool { return have.u == u })
	if i < 0 {
		return
	}
	rest := make([]udpBinding, 0, len(bs)-1)
	t.set(port, append(append(rest, bs[:i]...), bs[i+1:]...))
}

// rebind replaces the entry of a socket. t.mu is held.
func (t *udpTable) rebind(b udpBinding) {
	bs := slices.Clone(t.at(b.port))
	for i := range bs {
		if bs[i].u == b.u {
			bs[i] = b
		}
	}
	t.set(b.port, bs)
}

// counted returns the numbers of received and sent datagrams. Each is the sum of the stack's counter and
// the counts of the open sockets. If a socket folds its counts into the counters meanwhile, counted starts
// again.
func (t *udpTable) counted(received, sent *atomic.Uint64) (uint64, uint64) {
	for {
		folded := t.folded.Load()
		r, n := received.Load(), sent.Load()
		for i := range udpBuckets {
			for _, b := range t.at(uint16(i)) {
				b.u.mu.Lock()
				r, n = r+b.u.received, n+b.u.sent
				b.u.mu.Unlock()
			}
		}
		if t.folded.Load() == folded {
			return r, n
		}
	}
}

// closeAll closes every socket.
func (t *udpTable) closeAll() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	for i := range udpBuckets {
		for _, b := range t.at(uint16(i)) {
			b.u.shut()
			b.u.fold()
		}
	}
	t.buckets.Store(nil)
}

// OpenUDP opens a UDP socket that is bound to local. An invalid or unspecified address means all
// addresses of the host. Port 0 means a free port, chosen as RFC 6056 recommends. Errors are
// EADDRINUSE, EADDRNOTAVAIL, EAFNOSUPPORT and net.ErrClosed.
func (s *Stack) OpenUDP(fam Family, local netip.AddrPort) (*UDP, error) {
	return s.openUDP(fam, local, false)
}

// OpenSharedUDP is OpenUDP for a socket that shares its address and port with other sockets opened by
// OpenSharedUDP, as with Linux's SO_REUSEADDR. Each of these sockets gets a copy of a multicast or broadcast
// datagram. A unicast datagram goes to the newest of them.
func (s *Stack) OpenSharedUDP(fam Family, local netip.AddrPort) (*UDP, error) {
	return s.openUDP(fam, local, true)
}

func (s *Stack) openUDP(fam Family, local netip.AddrPort, shared bool) (*UDP, error) {
	addr, zone, err := s.checkLocal(fam, local.Addr())
	if err != nil {
		return nil, err
	}
	u := &UDP{shared: shared}
	u.init(s, fam)
	u.src, u.zone = s.sourceOf(addr), zone
	hash := uint64(0)
	if local.Port() == 0 {
		hash = s.random.next(randPort)
	}
	t := &s.udp
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, net.ErrClosed
	}
	// take binds the socket to a port, if the port is free. Only a port that the caller has chosen can be
	// shared.
	take := func(port uint16) bool {
		u.local = netip.AddrPortFrom(addr, port)
		b := u.binding()
		if !t.free(&b, shared && local.Port() != 0) {
			return false
		}
		t.add(b)
		return true
	}
	if port := local.Port(); port != 0 {
		if !take(port) {
			return nil, syscall.EADDRINUSE
		}
	} else if _, ok := s.ephemeralPort(hash, take); !ok {
		return nil, syscall.EADDRINUSE
	}
	return u, nil
}

// Connect makes the socket send to and receive from remote only. A socket that is bound to all
// addresses becomes bound to the source address of the path to remote. The errors are those of the
// route lookup.
func (u *UDP) Connect(remote netip.AddrPort) error {
	var o SendOptions
	remote = netip.AddrPortFrom(u.destination(remote.Addr(), &o), remote.Port())
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return net.ErrClosed
	}
	if err := connectable(u.fam, remote.Addr(), u.over(remote.Addr(), &o)); err != nil {
		return err
	}
	src, over := u.source(&o), u.over(remote.Addr(), &o)
	p, err := u.lookup(remote.Addr(), src, over)
	if err != nil {
		return err
	}
	remote = netip.AddrPortFrom(p.dst, remote.Port())
	t := &u.s.udp
	t.mu.Lock()
	defer t.mu.Unlock()
	if u.local.Addr().IsUnspecified() {
		u.local = netip.AddrPortFrom(p.src, u.local.Port())
		u.src = u.s.sourceOf(p.src)
	}
	u.remote = remote
	if local := u.local.Addr(); p.zone != 0 || !isLinkLocal6(local) && !local.IsMulticast() {
		u.zone = int(p.zone) // if p.zone is 0, this removes the zone of an earlier Connect
	}
	if !t.closed {
		t.rebind(u.binding())
	}
	u.setPath(p, src, over)
	return nil
}

// LocalAddr returns the address that the socket is bound to.
func (u *UDP) LocalAddr() netip.AddrPort {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.zoned(u.local)
}

// ReadFrom waits for a datagram and copies its payload to b, as much as fits. full is the length of the
// whole payload. On a connected socket, an ICMP error makes one call fail.
func (u *UDP) ReadFrom(b []byte) (n, full int, from netip.AddrPort, meta Meta, err error) {
	var d datagram
	n, full, err = u.receive(b, false, &d)
	return n, full, d.from, d.meta, err
}

// Read is ReadFrom without the source address. As with read(2), Read with an empty b returns at once and
// reads nothing.
func (u *UDP) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, u.open()
	}
	var d datagram
	n, _, err := u.receive(b, false, &d)
	return n, err
}

// Write sends a datagram on a connected socket. It fails with EDESTADDRREQ if the socket is not
// connected.
func (u *UDP) Write(b []byte) (int, error) {
	u.mu.Lock()
	if !u.closed && !u.wd.expired() && !u.remote.IsValid() {
		u.mu.Unlock()
		return 0, syscall.EDESTADDRREQ
	}
	now, err := u.write(b, u.remote, &SendOptions{})
	u.mu.Unlock()
	return u.written(b, now, err)
}

// WriteTo sends a datagram. It waits only while the transmit queue is full. The errors are those of the
// route lookup; EMSGSIZE if b is larger than 65507 bytes (65527 over IPv6), or would be fragmented and
// DontFragment is set; EINVAL for port 0; EAFNOSUPPORT; and on a connected socket the errors that ICMP
// reports.
func (u *UDP) WriteTo(b []byte, to netip.AddrPort, o SendOptions) (int, error) {
	u.mu.Lock()
	now, err := u.write(b, netip.AddrPortFrom(u.destination(to.Addr(), &o), to.Port()), &o)
	u.mu.Unlock()
	return u.written(b, now, err)
}

// WriteToBefore is WriteTo with end as the deadline, instead of the socket's write deadline. end must not
// be zero. With WriteToBefore, each of several callers that share the socket can have its own deadline.
func (u *UDP) WriteToBefore(end time.Time, b []byte, to netip.AddrPort, o SendOptions) (int, error) {
	var d deadline
	u.mu.Lock()
	d.set(end, &u.mu, u.writable.Broadcast)
	to = netip.AddrPortFrom(u.destination(to.Addr(), &o), to.Port())
	err := u.ready(len(b), to, &o, &d)
	d.stop()
	var direct *txQueue
	if err == nil {
		now := u.coarse()
		sl := u.path.slot(now, wire.UDPLen+len(b), true)
		copy(sl.buf[transportAt+wire.UDPLen:], b)
		direct, err = u.send(now, &sl, len(b), 1, to, &o, &frameMeta{})
	}
	u.mu.Unlock()
	return u.written(b, direct, err)
}

// WriteToMAC is WriteToBefore for a receiver on the link whose link address is mac. The host does not resolve
// the destination. A DHCP server sends its messages in this way to clients that do not answer ARP requests
// for their new address yet. On a link without link addresses, mac is ignored.
func (u *UDP) WriteToMAC(end time.Time, b []byte, to netip.AddrPort, mac wire.MAC, o SendOptions) (int, error) {
	var d deadline
	u.mu.Lock()
	d.set(end, &u.mu, u.writable.Broadcast)
	to = netip.AddrPortFrom(u.destination(to.Addr(), &o), to.Port())
	err := u.ready(len(b), to, &o, &d)
	d.stop()
	var direct *txQueue
	if err == nil {
		now := u.coarse()
		if u.path.neigh != nil {
			u.path.neigh, u.path.mac = nil, wordOf(mac)
		}
		sl := u.path.slot(now, wire.UDPLen+len(b), true)
		copy(sl.buf[transportAt+wire.UDPLen:], b)
		direct, err = u.send(now, &sl, len(b), 1, to, &o, &frameMeta{})
		u.path = path{} // its MAC is for this datagram only
	}
	u.mu.Unlock()
	return u.written(b, direct, err)
}

// write builds a datagram and queues it, or leaves it in a direct slot. u.mu is held. The caller must
// call written after it has unlocked u.mu.
func (u *UDP) write(b []byte, to netip.AddrPort, o *SendOptions) (direct *txQueue, err error) {
	if err := u.ready(len(b), to, o, &u.wd); err != nil {
		return nil, err
	}
	now := u.coarse()
	sl := u.path.slot(now, wire.UDPLen+len(b), true)
	copy(sl.buf[transportAt+wire.UDPLen:], b)
	return u.send(now, &sl, len(b), 1, to, o, &frameMeta{})
}

// coarse returns the time for a datagram. It starts the coarse clock at every 64th datagram, so that a
// socket that sends many need not read the exact time for each.
func (u *UDP) coarse() tcp.Time { return u.s.coarse(u.sent%64 == 63) }

// written transmits the datagram that write has built, and returns the results of WriteTo.
func (u *UDP) written(b []byte, direct *txQueue, err error) (int, error) {
	u.s.flush(direct)
	if err != nil {
		return 0, err
	}
	return len(b), nil
}

// ready prepares to send a datagram with n bytes of payload: it sets u.path and waits for room in the
// transmit queue, until the deadline d at the latest. It returns nil if the datagram can be sent. u.mu is
// held, but not during the wait.
func (u *UDP) ready(n int, to netip.AddrPort, o *SendOptions, d *deadline) error {
	if err := u.usable(d); err != nil {
		return err
	}
	switch {
	case !to.Addr().IsValid(), to.Port() == 0 && to != u.remote:
		return syscall.EINVAL // as on Linux, port 0 is valid only if the socket is connected to it
	case !u.fam.holds(to.Addr()):
		return u.fam.refusal(to.Addr())
	case n > maxUDPPayload && (n > maxUDPPayload6 || to.Addr().Is4()):
		return syscall.EMSGSIZE
	}
	src, over := u.source(o), u.over(to.Addr(), o)
	if err := u.route(to.Addr(), src, over); err != nil {
		return err
	}
	if !u.path.ifc.tx.room() {
		return u.awaitRoom(to.Addr(), src, over, d)
	}
	return nil
}

// send sends a datagram that ready has accepted. The slot sl has size bytes of payload behind the room for
// the UDP header. If count > 1, the payload is that of a super-frame of count datagrams, which meta
// describes. send takes ownership of the slot. If it has left the frame in a direct slot, it returns the
// interface, and the caller must pass that to flush. u.mu is held.
func (u *UDP) send(now tcp.Time, sl *slot, size, count int, to netip.AddrPort, o *SendOptions, meta *frameMeta) (direct *txQueue, err error) {
	p, n := &u.path, wire.UDPLen+size
	b := sl.buf[transportAt:]
	udp := wire.UDP{SrcPort: u.local.Port(), DstPort: to.Port()}
	udp.Put(b, size)
	binary.BigEndian.PutUint16(b[wire.UDPChecksumOffset:], p.pseudoSum(wire.ProtoUDP, n))
	meta.checksum, meta.csumOffset = true, wire.UDPChecksumOffset
	var h ipHeader
	u.header(&h, wire.ProtoUDP, o)
	h.count = uint16(count)
	if direct, err = u.s.send(now, p, &h, sl, n, meta); err == nil {
		u.sent += uint64(count)
	}
	return direct, err
}

// Close closes the socket. Calls that wait return net.ErrClosed. A second Close returns net.ErrClosed.
func (u *UDP) Close() error {
	if !u.shut() {
		return net.ErrClosed
	}
	u.fold()
	t, port := &u.s.udp, u.LocalAddr().Port()
	t.mu.Lock()
	if !t.closed {
		t.remove(u, port)
	}
	t.mu.Unlock()
	u.leaveAll()
	u.s.drain()
	return nil
}

// fold adds the counts of a closed socket to the stack's counters.
func (u *UDP) fold() {
	u.mu.Lock()
	defer u.mu.Unlock()
	c := &u.s.counts
	c.udpReceived.Add(u.received)
	c.udpSent.Add(u.sent)
	u.received, u.sent = 0, 0
	u.s.udp.folded.Add(1)
}

// inputUDP handles a UDP datagram.
func (s *Stack) inputUDP(p *packet) {
	h, payload, r := wire.ParseUDP(p.payload)
	if r != wire.OK {
		p.drop(r)
		return
	}
	// RFC 1122 4.1.3.4: "If a UDP datagram is received with a checksum that is
	// non-zero and invalid, UDP MUST silently discard the datagram."
	// RFC 8200 8.1: "IPv6 receivers must discard UDP packets containing a zero checksum".
	// An incomplete checksum (p.csumOffset is not 0) may be zero.
	if !p.checksumOK && !wire.UDPChecksumOK(p.src, p.dst, p.payload[:h.Length]) ||
		h.Checksum == 0 && p.csumOffset == 0 && p.src.Is6() {
		p.drop(wire.BadUDPChecksum)
		return
	}
	from, to := netip.AddrPortFrom(p.src, h.SrcPort), netip.AddrPortFrom(p.dst, h.DstPort)
	zone := p.zone()
	meta := Meta{Dst: p.dst, TTL: p.ttl, TOS: p.tos, NIC: p.ifc.index}
	if p.broadcast {
		var few [8]*UDP
		us := s.udp.findAll(few[:0], to, from, zone)
		from = s.zonedPort(from, zone)
		if len(us) == 0 {
			p.drop(dropUDPNoSocket)
		}
		for _, u := range us {
			if u.wantsGroup(p) {
				u.input(p, payload, from, &meta)
			}
		}
		return
	}
	u := s.udp.find(to, from, zone)
	if u == nil {
		p.drop(dropUDPNoSocket)
		// RFC 1122 4.1.3.1: "If a datagram arrives addressed to a UDP port for
		// which there is no pending LISTEN call, UDP SHOULD send an ICMP Port
		// Unreachable message."
		s.sendICMPError(p, icmpPort, 0)
		return
	}
	if zone != 0 {
		from = s.zonedPort(from, zone)
	}
	u.input(p, payload, from, &meta)
}

// input queues a datagram, or each datagram of a super-frame, for the application to read.
func (u *UDP) input(p *packet, payload []byte, from netip.AddrPort, meta *Meta) {
	size := max(len(payload), 1) // payload bytes of one datagram
	if p.gso == nic.GSOUDP && p.gsoSize > 0 {
		size = p.gsoSize
	}
	for {
		piece := payload[:min(size, len(payload))]
		if ok, why := u.enqueue(nil, piece, from, meta); !ok {
			p.drop(dropUDPQueue)
		} else if why != "" {
			p.report(why)
		}
		if payload = payload[len(piece):]; len(payload) == 0 {
			return
		}
	}
}

// isConnectedTo reports whether the socket is connected to remote. The address of remote has no zone.
func (u *UDP) isConnectedTo(remote netip.AddrPort) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.remote == remote
}

// udpICMP reports an ICMP error to the connected socket whose datagram caused it.
//
// RFC 1122 4.1.3.3: "UDP MUST pass to the application layer all ICMP error messages that it receives
// from the IP layer." As on Linux, errors that may be transient are not reported.
func (s *Stack) udpICMP(e *icmpError) {
	sport := uint16(e.transport[0])<<8 | uint16(e.transport[1])
	dport := uint16(e.transport[2])<<8 | uint16(e.transport[3])
	remote := netip.AddrPortFrom(e.remote, dport)
	u := s.udp.find(netip.AddrPortFrom(e.local, sport), remote, e.zone)
	if u == nil {
		s.dropError(dropBadICMPError, e)
		return
	}
	report := e.hard
	if e.errno == syscall.EMSGSIZE {
		s.lowerDatagramMTU(e.remote, e.local, e.mtu)
		report = true // for IPv4 and IPv6, as on Linux (udp_err, udpv6_err)
	}
	if report && u.isConnectedTo(remote) {
		u.fail(e.errno)
	}
}
