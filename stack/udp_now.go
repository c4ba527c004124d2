package stack

import (
	"encoding/binary"
	"net/netip"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// A udpHead is the headers of a datagram, of which the next one on the same path
// differs in lengths, identification and checksums only.
type udpHead struct {
	paths    uint32 // the socket's at that time; 0: there is none yet
	port     uint16 // of the destination
	ttl, tos uint8
	df       bool

	bytes  [ipRoom + wire.UDPLen]byte // the link's, without the neighbour, IP's and UDP's
	ip     uint64                     // sum of IP's, without length and identification
	pseudo uint64                     // sum of UDP's pseudo-header, without the length
}

// make makes the headers of datagrams on the socket's path.
func (d *udpHead) make(u *UDP, h *ipHeader, port uint16) {
	p := &u.path
	d.paths, d.port = u.paths, port
	d.ttl, d.tos, d.df = h.ttl, h.tos, h.df
	if p.ifc.linkLen > 0 {
		link := wire.Ethernet{Src: p.ifc.mac, Type: wire.EtherTypeIPv4}
		link.Put(d.bytes[headroom-p.ifc.linkLen:])
	}
	ip := wire.IPv4{TOS: h.tos, DontFragment: h.df && !p.mayFrag, TTL: h.ttl, Proto: wire.ProtoUDP, Src: p.src, Dst: p.dst}
	head := d.bytes[headroom:ipRoom]
	ip.Put(head, 0)
	head[2], head[3], head[10], head[11] = 0, 0, 0, 0
	d.ip = wire.Sum(head, 0)
	udp := wire.UDP{SrcPort: u.local.Port(), DstPort: port}
	udp.Put(d.bytes[ipRoom:], 0)
	d.pseudo = wire.PseudoSum(p.src, p.dst, uint8(wire.ProtoUDP), 0)
}

// claim claims the turn of the interface on u.path for a datagram of size bytes, which are
// in parts, that can go at once, and makes its frame there: it needs no buffer and no place
// in a queue. ready was called. The lock is held.
func (u *UDP) claim(size int, to netip.AddrPort, o *SendOptions, parts ...[]byte) bool {
	p := &u.path
	ifc := p.ifc
	n := wire.UDPLen + size
	if p.group || wire.IPv4Len+n > p.mtu || ipRoom+n > txDirect || ifc.down.Load() {
		return false
	}
	mac := p.mac
	if p.neigh != nil {
		var ok bool
		if mac, ok = p.neigh.lookup(u.s.coarse(u.sentNow%64 == 63)); !ok {
			return false
		}
	}
	if !ifc.tx.claim() {
		return false
	}
	h := u.header(wire.ProtoUDP, o)
	d := &u.head
	if d.paths != u.paths || d.port != to.Port() || d.ttl != h.ttl || d.tos != h.tos || d.df != h.df {
		d.make(u, &h, to.Port())
	}
	buf := ifc.tx.bytes[:ipRoom+n]
	*(*[ipRoom + wire.UDPLen]byte)(buf) = d.bytes
	payload := buf[ipRoom+wire.UDPLen:]
	for _, b := range parts {
		payload = payload[copy(payload, b):]
	}
	be := binary.BigEndian
	total, id := uint16(wire.IPv4Len+n), u.s.nextIPID()
	ip := buf[headroom:ipRoom]
	be.PutUint16(ip[2:], total)
	be.PutUint16(ip[4:], id)
	be.PutUint16(ip[10:], ^wire.Fold(d.ip+uint64(total)+uint64(id)))
	datagram := buf[ipRoom:]
	be.PutUint16(datagram[4:], uint16(n))
	frame := buf[headroom-ifc.linkLen:]
	if ifc.linkLen > 0 {
		*(*wire.MAC)(frame) = mac
		frame = pad(frame)
	}
	f := &ifc.tx.batch[0]
	*f = nic.Frame{Head: frame}
	sum := d.pseudo + uint64(n)
	if ifc.txChecksum {
		be.PutUint16(datagram[6:], wire.Fold(sum))
		f.NeedsChecksum = true
		f.ChecksumStart = uint16(ifc.linkLen + wire.IPv4Len)
		f.ChecksumOffset = wire.UDPChecksumOffset
	} else {
		be.PutUint16(datagram[6:], wire.Fold(sum))
		completeChecksum(datagram, datagram, 0, wire.UDPChecksumOffset)
	}
	u.sentNow++
	return true
}
