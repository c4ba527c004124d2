package stack

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"

	"github.com/usernet/usernet/stack/wire"
)

// A Raw is a raw socket. It receives a copy of every datagram of one IP protocol, and sends datagrams of
// that protocol. The stack itself handles received datagrams as it would without the socket.
type Raw struct {
	dgram
	proto uint16
	ends  atomic.Pointer[rawEnds] // replaced with mu held, never modified; read without mu

	// checksum is the offset of the checksum in the payload in bytes, over IPv6. It is negative if the
	// socket has no checksum. It is read without mu.
	checksum atomic.Int32
}

// rawEnds are the addresses that select the datagrams for a raw socket.
type rawEnds struct {
	local bound
	peer  netip.Addr // invalid unless the socket is connected
}

// fit reports whether a datagram from remote to local is for the socket. zone is the index of the
// interface if an address is link-local, else 0.
func (e *rawEnds) fit(local, remote netip.Addr, zone int) bool {
	return e.local.takes(local, zone) && (!e.peer.IsValid() || e.peer == remote)
}

// A rawTable holds all raw sockets.
type rawTable struct {
	all    atomic.Pointer[[]*Raw] // replaced with mu held, never modified; read without mu
	mu     mutex[levelTable]
	closed bool
}

// sockets returns all sockets.
func (t *rawTable) sockets() []*Raw {
	if all := t.all.Load(); all != nil {
		return *all
	}
	return nil
}

// closeAll closes every socket.
func (t *rawTable) closeAll() {
	t.mu.Lock()
	t.closed = true
	all := t.sockets()
	t.all.Store(nil)
	t.mu.Unlock()
	for _, r := range all {
		r.shut()
	}
}

// protoRaw is Linux's IPPROTO_RAW. Data written to a socket of this protocol begins with the IP header.
const protoRaw = 255

// OpenRaw opens a raw socket for an IP protocol. It is bound to a local address, or to all addresses of
// the host if local is invalid or unspecified.
//
// As on Linux, a socket with a protocol above 255 receives nothing, and sends with the lower 8 bits of
// the protocol. Data written to a socket with protocol 255 begins with an IP header (see raw(7)). In that
// header, the stack fills in the length and the checksum, and the source and the identification if they
// are 0. The datagram is sent to the address that WriteTo or Connect names, even if the header has another
// destination, and is never fragmented.
//
// Errors are EADDRNOTAVAIL, EAFNOSUPPORT, EPROTONOSUPPORT for protocol 0, and net.ErrClosed.
func (s *Stack) OpenRaw(fam Family, proto uint16, local netip.Addr) (*Raw, error) {
	addr, zone, err := s.checkLocal(fam, local)
	if err != nil {
		return nil, err
	}
	if proto == 0 {
		return nil, syscall.EPROTONOSUPPORT
	}
	r := &Raw{proto: proto}
	r.checksum.Store(defaultChecksum(proto))
	if addr.Is6() {
		fam = Family6 // as on Linux, an IPv6 raw socket receives no IPv4 packets
	}
	r.ends.Store(&rawEnds{local: bind(fam, addr, zone)})
	r.init(s, fam)
	r.src, r.zone = s.sourceOf(addr), zone
	t := &s.raw
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, net.ErrClosed
	}
	all := append(slices.Clip(t.sockets()), r)
	t.all.Store(&all)
	return r, nil
}

// noChecksum says that a raw socket has no checksum.
const noChecksum = -1

// protoMobility is the Mobility Header (RFC 6275 6.1).
const protoMobility = 135

// defaultChecksum returns the initial Raw.checksum of a socket. It is that of Linux.
func defaultChecksum(proto uint16) int32 {
	switch proto {
	case uint16(wire.ProtoICMPv6):
		return wire.ICMPv6ChecksumOffset
	case protoMobility:
		return 4
	}
	return noChecksum
}

// SetChecksum makes an IPv6 socket compute the checksum of each datagram that it sends and verify that of
// each datagram that it receives. The checksum covers the payload and the pseudo-header of RFC 8200 8.1.
// offset is the position of the 16-bit checksum in the payload in bytes. If on is false or offset is
// negative, there is no checksum. A write fails with EINVAL if the payload ends before the checksum. A
// received datagram with a wrong checksum is dropped.
//
// By default, sockets of ICMPv6 and of the Mobility Header (RFC 6275 6.1) have a checksum, and others have
// none. RFC 3542 3.1 forbids changing this for ICMPv6. SetChecksum allows the change, like Linux's option
// IPV6_CHECKSUM of level SOL_RAW, which x/net/ipv6 uses.
//
// Errors are EINVAL if offset is odd or above 65535, ENOPROTOOPT for an IPv4 socket, and net.ErrClosed.
func (r *Raw) SetChecksum(on bool, offset int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closed:
		return net.ErrClosed
	case r.fam != Family6:
		return syscall.ENOPROTOOPT
	case !on, offset < 0:
		offset = noChecksum
	case offset%2 != 0, offset > maxIPv6:
		return syscall.EINVAL
	}
	r.checksum.Store(int32(offset))
	return nil
}

// putChecksum computes the checksum of an IPv6 datagram and stores it in data, if the socket has a checksum.
// It fails if the datagram is too short. r.path must be valid, and r.mu held.
func (r *Raw) putChecksum(data []byte) error {
	at := int(r.checksum.Load())
	switch {
	case r.proto == uint16(wire.ProtoICMPv6) && len(data) < 2, r.proto == protoMobility && len(data) < 4:
		return syscall.EFAULT // as on Linux, which first reads the type of the message
	case at == noChecksum:
		return nil
	case at >= len(data)-1:
		return syscall.EINVAL
	}
	sum := data[at : at+2]
	sum[0], sum[1] = 0, 0
	c := ^wire.Fold(wire.Sum(data, wire.PseudoSum(r.path.src, r.path.dst, uint8(r.proto), len(data))))
	if c == 0 && r.proto == uint16(wire.ProtoUDP) {
		c = 0xffff // RFC 8200 8.1: a zero UDP checksum would mean that there is none
	}
	binary.BigEndian.PutUint16(sum, c)
	return nil
}

// sumOK reports whether the checksum over the payload and the pseudo-header is valid.
func (p *packet) sumOK() bool {
	if p.csumOffset != 0 {
		return true // the checksum is not complete yet: the sending host offloads it
	}
	return wire.Fold(wire.Sum(p.payload, wire.PseudoSum(p.src, p.dst, uint8(p.proto), len(p.payload)))) == 0xffff
}

// Connect makes the socket send to and receive from remote only. A socket that is bound to all
// addresses becomes bound to the source address of the path to remote. The errors are those of the
// route lookup.
func (r *Raw) Connect(remote netip.Addr) error {
	var o SendOptions
	remote = r.destination(remote, &o)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return net.ErrClosed
	}
	src, over := r.source(&o), r.over(remote, &o)
	if err := connectable(r.fam, remote, over); err != nil {
		return err
	}
	p, err := r.lookup(remote, src, over)
	if err != nil {
		return err
	}
	local := r.ends.Load().local
	if local.wildcard() {
		local = bind(r.fam, p.src, 0)
		r.src = r.s.sourceOf(p.src)
	}
	if a := local.addr; p.zone != 0 || !isLinkLocal6(a) && !a.IsMulticast() {
		r.zone, local.zone = int(p.zone), int(p.zone)
	}
	r.remote = netip.AddrPortFrom(p.dst, 0)
	r.setPath(p, src, over)
	r.ends.Store(&rawEnds{local: local, peer: p.dst})
	return nil
}

// LocalAddr returns the address that the socket is bound to.
func (r *Raw) LocalAddr() netip.Addr {
	at := r.ends.Load().local
	return r.s.zoned(at.addr, at.zone)
}

// ReadFrom waits for a datagram and copies its payload to b, as much as fits. full is the length of the
// whole payload.
func (r *Raw) ReadFrom(b []byte) (n, full int, from netip.Addr, meta Meta, err error) {
	var d datagram
	n, full, err = r.receive(b, false, &d)
	return n, full, d.from.Addr(), d.meta, err
}

// ReadHeader is ReadFrom, but for an IPv4 datagram the payload that it returns begins with the IP header,
// as with recvmsg(2).
func (r *Raw) ReadHeader(b []byte) (n, full int, from netip.Addr, meta Meta, err error) {
	var d datagram
	n, full, err = r.receive(b, true, &d)
	return n, full, d.from.Addr(), d.meta, err
}

// Read is ReadHeader without the source address. As with read(2), Read with an empty b returns at once and
// reads nothing.
func (r *Raw) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, r.open()
	}
	n, _, _, _, err := r.ReadHeader(b)
	return n, err
}

// Write sends a datagram on a connected socket. It fails with EDESTADDRREQ if the socket is not
// connected.
func (r *Raw) Write(b []byte) (int, error) {
	r.mu.Lock()
	if !r.closed && !r.wd.expired() && !r.remote.IsValid() {
		r.mu.Unlock()
		return 0, syscall.EDESTADDRREQ
	}
	n, err := r.write(b, r.remote.Addr(), SendOptions{})
	r.mu.Unlock()
	r.s.drain()
	return n, err
}

// WriteTo sends a datagram with the payload b, in fragments if necessary. The errors are those of
// UDP.WriteTo.
func (r *Raw) WriteTo(b []byte, to netip.Addr, o SendOptions) (int, error) {
	r.mu.Lock()
	to = r.destination(to, &o)
	n, err := r.write(b, to, o)
	r.mu.Unlock()
	r.s.drain()
	return n, err
}

// write queues a datagram. r.mu is held, but not while write waits for room in the transmit queue.
func (r *Raw) write(b []byte, to netip.Addr, o SendOptions) (int, error) {
	if err := r.usable(&r.wd); err != nil {
		return 0, err
	}
	switch {
	case !to.IsValid():
		return 0, syscall.EINVAL
	case !r.fam.holds(to):
		return 0, r.fam.refusal(to)
	// ownHeader checks the length of a datagram that has its own header.
	case len(b) > maxIPv4-wire.IPv4Len && r.proto != protoRaw && (len(b) > maxIPv6 || to.Is4()):
		return 0, syscall.EMSGSIZE
	}
	src, over := r.source(&o), r.over(to, &o)
	if err := r.route(to, src, over); err != nil {
		return 0, err
	}
	if !r.path.ifc.tx.room() {
		if err := r.awaitRoom(to, src, over, &r.wd); err != nil {
			return 0, err
		}
	}
	var h ipHeader
	r.header(&h, wire.Proto(r.proto), &o)
	if r.proto == protoRaw {
		if err := r.ownHeader(b, &h); err != nil {
			return 0, err
		}
	}
	data := b[len(h.appHeader()):]
	now := r.s.now()
	sl := r.path.slot(now, len(data), false)
	copy(sl.buf[transportAt:], data)
	if r.path.v6 && r.proto != protoRaw {
		// RFC 3542 3.1: "the kernel will calculate and insert the ICMPv6 checksum". With IPV6_CHECKSUM it
		// does so for other protocols.
		if err := r.putChecksum(sl.buf[transportAt : transportAt+len(data)]); err != nil {
			r.s.bufs.put(sl.buf)
			return 0, err
		}
	}
	if _, err := r.s.send(now, &r.path, &h, &sl, len(data), &frameMeta{}); err != nil {
		return 0, err
	}
	r.s.counts.rawSent.Add(1)
	return len(b), nil
}

// ownHeader makes h use the IP header at the start of b. The errors are those of Linux: EMSGSIZE if b
// is larger than the link's MTU, EINVAL if b does not begin with a whole header. r.path must be valid, and
// r.mu held.
func (r *Raw) ownHeader(b []byte, h *ipHeader) error {
	if len(b) > r.path.ifc.mtu() {
		return syscall.EMSGSIZE
	}
	if r.path.v6 {
		if len(b) < wire.IPv6Len {
			return syscall.EINVAL
		}
		h.more = &ipMore{header: b[:wire.IPv6Len]}
		h.loop = h.loop && netip.AddrFrom16([16]byte(b[24:])) == r.path.dst // the header's destination
		return nil
	}
	if len(b) < wire.IPv4Len {
		return syscall.EINVAL
	}
	n := int(b[0]&15) * 4
	if n < wire.IPv4Len || n > len(b) {
		return syscall.EINVAL
	}
	h.more = &ipMore{header: b[:n]}
	h.loop = h.loop && netip.AddrFrom4([4]byte(b[16:])) == r.path.dst // the header's destination
	return nil
}

// Close closes the socket. Calls that wait return net.ErrClosed. A second Close returns net.ErrClosed.
func (r *Raw) Close() error {
	if !r.shut() {
		return net.ErrClosed
	}
	t := &r.s.raw
	t.mu.Lock()
	all := slices.DeleteFunc(slices.Clone(t.sockets()), func(have *Raw) bool { return have == r })
	t.all.Store(&all)
	t.mu.Unlock()
	r.leaveAll()
	r.s.drain()
	return nil
}

// inputRaw passes a copy of a datagram to each raw socket that the datagram is for. It reports whether
// there is such a socket.
func (s *Stack) inputRaw(p *packet) bool {
	if len(p.tail) > 0 {
		return false // takesParts has found no raw socket for the frame; ignore a socket opened since then
	}
	header := p.header
	if p.src.Is6() {
		header = nil // RFC 3542 3: "raw sockets [...] the IPv6 header is not passed"
	}
	// summed says that the checksum is known to be valid.
	found, summed := false, p.checksumOK && p.proto == wire.ProtoICMPv6
	for _, r := range s.raw.sockets() {
		if r.proto != uint16(p.proto) || !r.ends.Load().fit(p.dst, p.src, p.zone()) || !r.wantsGroup(p) {
			continue
		}
		found = true
		// RFC 3542 3.1: "the kernel will verify the ICMPv6 checksum on input", and that of a socket with
		// IPV6_CHECKSUM.
		if !summed && p.src.Is6() && r.checksum.Load() >= 0 {
			if summed = p.sumOK(); !summed {
				if p.proto != wire.ProtoICMPv6 { // inputICMPv6 counts those of ICMPv6
					p.drop(dropRawChecksum)
				}
				continue
			}
		}
		meta := Meta{Dst: p.dst, TTL: p.ttl, TOS: p.tos, NIC: p.ifc.index}
		if ok, _ := r.enqueue(header, p.payload, netip.AddrPortFrom(s.zoned(p.src, p.zone()), 0), &meta); ok {
			s.counts.rawReceived.Add(1)
		} else {
			p.drop(dropRawQueue)
		}
	}
	return found
}

// rawICMP reports an ICMP error to the connected raw sockets whose datagrams caused it. It lowers the
// path MTU if the datagram may have come from a raw socket, connected or not, and was too large.
func (s *Stack) rawICMP(proto wire.Proto, e *icmpError) {
	for _, r := range s.raw.sockets() {
		ends := r.ends.Load()
		if r.proto != uint16(proto) || !ends.fit(e.local, e.remote, e.zone) {
			continue
		}
		if e.errno == syscall.EMSGSIZE {
			s.lowerDatagramMTU(e.remote, e.local, e.mtu)
		}
		if e.hard && ends.peer.IsValid() {
			r.fail(e.errno)
		}
	}
}
