package stack

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"sync/atomic"
	"syscall"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

const (
	maxIPv4    = 65535 // largest datagram
	defaultTTL = 64    // RFC 1122 3.2.1.7, and the value of the Assigned Numbers
)

// A frameMeta says what is left for the device to do with a packet.
// Offsets and lengths count from the first byte of the IP header.
type frameMeta struct {
	needsChecksum bool // the field holds the folded pseudo-header sum
	transportOff  int  // the transport header
	csumOffset    int  // the checksum field, from the transport header
	gso           nic.GSOKind
	gsoSize       int // payload bytes of each piece
	headerLen     int // IP and transport header

	body   []byte // what follows the packet's bytes in the frame, lent by
	lender *lending
}

// sendPacket sends the IP packet buf[headroom:headroom+n], which goes on in
// meta.body, on a path. The buffer comes from s.bufs and is given away. The frame
// is queued at the interface, or parked until the neighbour's address is known.
// Nothing is sent yet: the caller calls drain when it has released its locks.
//
// Whoever has a choice asks p.ifc.tx.room first; sendPacket never refuses.
func (s *Stack) sendPacket(p *path, buf []byte, n int, meta frameMeta) {
	s.sendPacketAt(s.now(), p, buf, n, &meta)
}

// sendPacketAt is sendPacket for a caller who knows the time.
func (s *Stack) sendPacketAt(now tcp.Time, p *path, buf []byte, n int, meta *frameMeta) {
	ifc := p.ifc
	if ifc.down.Load() {
		ifc.stats.TxDropped.Add(1)
		s.release(txEntry{buf: buf, lender: meta.lender})
		return
	}
	s.counts.ipSent.Add(1)
	e := ifc.frame(buf, n, meta)
	if ifc.linkLen == 0 {
		ifc.enqueue(e)
		return
	}
	if p.neigh == nil {
		copy(e.frame.Head, p.mac[:])
		ifc.enqueue(e)
		return
	}
	if mac, ok := p.neigh.lookup(now); ok {
		copy(e.frame.Head, mac[:])
		ifc.enqueue(e)
		return
	}
	ifc.neigh.send(p.neigh, p.src, e)
}

// frame makes a frame of the IP packet buf[headroom:headroom+n]. On Ethernet
// the destination is left for the caller to fill in.
func (ifc *iface) frame(buf []byte, n int, meta *frameMeta) txEntry {
	if meta.needsChecksum && !ifc.txChecksum {
		packet := buf[headroom : headroom+n]
		completeChecksum(packet, packet[meta.transportOff:], meta.transportOff, meta.csumOffset)
		meta.needsChecksum = false
	}
	head := buf[headroom-ifc.linkLen : headroom+n]
	if ifc.linkLen > 0 {
		h := wire.Ethernet{Src: ifc.mac, Type: wire.EtherTypeIPv4}
		h.Put(head)
		if len(meta.body) == 0 {
			head = pad(head)
		}
	}
	e := txEntry{frame: nic.Frame{Head: head, Body: meta.body}, buf: buf, lender: meta.lender}
	if meta.needsChecksum {
		f := &e.frame
		f.NeedsChecksum = true
		f.ChecksumStart = uint16(ifc.linkLen + meta.transportOff)
		f.ChecksumOffset = uint16(meta.csumOffset)
		if meta.gso != nic.GSONone {
			f.GSO = meta.gso
			f.GSOSize = uint16(meta.gsoSize)
			f.HeaderLen = uint16(ifc.linkLen + meta.headerLen)
		}
	}
	return e
}

// pad extends a short frame with zeros to the least that an Ethernet carries.
// RFC 894: "the data field should be padded (with octets of zero) to meet the
// Ethernet minimum frame size."
func pad(frame []byte) []byte {
	n := len(frame)
	if n >= wire.MinFrame || cap(frame) < wire.MinFrame {
		return frame
	}
	frame = frame[:wire.MinFrame]
	clear(frame[n:])
	return frame
}

// completeChecksum does what the device of an interface cannot do.
// segment is the transport header, in whose checksum field, at offset, the
// pseudo-header's sum stands, with all that follows. It begins at packet[start:], and the
// result goes there.
func completeChecksum(packet, segment []byte, start, offset int) {
	binary.BigEndian.PutUint16(packet[start+offset:], wire.FinishChecksum(segment, offset))
}

// An ipHeader is what the sender of a datagram chooses of its header.
type ipHeader struct {
	proto wire.Proto
	ttl   uint8
	tos   uint8
	df    bool // RFC 791's Don't Fragment
	loop  bool // the host itself is to hear a group's datagram too
}

// ipRoom is how many bytes a buffer has before the transport header.
const ipRoom = headroom + wire.IPv4Len

// sendIP sends a datagram whose n bytes of transport header and payload are
// buf[ipRoom:ipRoom+n]. The buffer comes from s.bufs and is given away, also
// on error. A datagram that is larger than the path allows is sent in
// fragments, or not at all if DF is asked for, with EMSGSIZE. meta is for
// what is not fragmented; its transportOff is filled in.
func (s *Stack) sendIP(p *path, h ipHeader, buf []byte, n int, meta frameMeta) error {
	total := wire.IPv4Len + n
	if total > maxIPv4 {
		s.bufs.put(buf)
		return syscall.EMSGSIZE
	}
	ip := wire.IPv4{
		TOS:          h.tos,
		ID:           s.nextIPID(),
		DontFragment: h.df && !p.mayFrag,
		TTL:          h.ttl,
		Proto:        h.proto,
		Src:          p.src,
		Dst:          p.dst,
	}
	if h.loop && (total <= p.mtu || !ip.DontFragment) {
		s.loop.put(s, p.ifc, &ip, buf[ipRoom:ipRoom+n], &meta)
	}
	if h.ttl == 0 && !p.ifc.loopback {
		// What has no hop to go reaches this host only.
		s.bufs.put(buf)
		return nil
	}
	if total <= p.mtu || meta.gso != nic.GSONone {
		ip.Put(buf[headroom:], n)
		meta.transportOff = wire.IPv4Len
		s.sendPacket(p, buf, total, meta)
		return nil
	}
	defer s.bufs.put(buf)
	if ip.DontFragment {
		return syscall.EMSGSIZE
	}
	if meta.needsChecksum {
		segment := buf[ipRoom : ipRoom+n]
		completeChecksum(segment, segment, 0, meta.csumOffset)
	}
	s.sendFragments(p, &ip, buf[ipRoom:ipRoom+n])
	return nil
}

// sendFragments sends a datagram's payload in as many fragments as it takes, or whole.
//
// RFC 791 3.2: "the data ... is divided into two portions on a 8 octet (64 bit)
// boundary"; all fragments have the identification of the datagram.
func (s *Stack) sendFragments(p *path, ip *wire.IPv4, payload []byte) {
	for off := 0; off < len(payload); {
		head := ip.HeaderLen()
		size := len(payload) - off
		if ip.MoreFragments = size > p.mtu-head; ip.MoreFragments {
			size = (p.mtu - head) &^ 7
		}
		ip.FragOffset = uint16(off)
		buf := s.bufs.get(headroom + head + size)
		ip.Put(buf[headroom:], size)
		copy(buf[headroom+head:], payload[off:off+size])
		if ip.IsFragment() {
			s.counts.fragsSent.Add(1)
		}
		s.sendPacket(p, buf, head+size, frameMeta{})
		off += size
		// RFC 791 3.1, of all that are sent: "Not copied on fragmentation, goes in first
		// fragment only."
		ip.Options = nil
	}
}

// reply sends a datagram that no socket is behind, with the given options of IPv4. Where the
// queue is full or there is no way back, it is lost. The buffer is as sendIP's.
func (s *Stack) reply(dst, src netip.Addr, h ipHeader, options, buf []byte, n int) {
	p, err := s.route(dst, src)
	if err != nil || p.group || !p.ifc.tx.room() {
		s.bufs.put(buf)
		s.drop(dropNoReply)
		return
	}
	if len(options) > 0 {
		ip := wire.IPv4{TOS: h.tos, ID: s.nextIPID(), TTL: h.ttl, Proto: h.proto, Src: p.src, Dst: p.dst, Options: options}
		if ip.HeaderLen()+n <= maxIPv4 {
			s.sendFragments(&p, &ip, buf[ipRoom:ipRoom+n])
		} else {
			s.drop(dropNoReply)
		}
		s.bufs.put(buf)
		return
	}
	if s.sendIP(&p, h, buf, n, frameMeta{}) != nil {
		s.drop(dropNoReply)
	}
}

// An idSource makes IP identifications.
//
// RFC 6864 4.3: "sources emitting non-atomic datagrams MUST NOT repeat IPv4 ID
// values within one MDL for a given source address/destination address/protocol
// tuple". The counter goes once around all values before one comes again, and
// a secret permutation hides from a receiver how many others were sent.
type idSource struct {
	counter  atomic.Uint32
	mul, xor uint16
}

func (d *idSource) init(secret uint64) {
	d.counter.Store(uint32(secret))
	d.mul = uint16(secret>>32) | 1 // odd, so that to multiply is a permutation
	d.xor = uint16(secret >> 48)
}

// nextIPID returns the next identification.
func (s *Stack) nextIPID() uint16 {
	d := &s.ids
	id := uint16(d.counter.Add(1))
	id = id*d.mul ^ d.xor
	id = bits.RotateLeft16(id, 7) * d.mul
	return id ^ id>>8
}
