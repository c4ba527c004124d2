package stack

import (
	"encoding/binary"
	"time"

	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

// reassemblyTimeout is the IPv4 reassembly timeout, with the value of Linux. RFC 1122 3.3.2 recommends 60
// to 120 seconds, but on fast links identifications are reused within that time (RFC 4963 2).
const reassemblyTimeout = tcp.Time(30 * time.Second)

// inputFragment4 handles a received fragment. If the fragment completes its datagram, inputFragment4
// delivers the datagram.
func (s *Stack) inputFragment4(p *packet, h *wire.IPv4) {
	s.counts.fragsReceived.Add(1)
	off := int(h.FragOffset)
	switch {
	case len(p.payload) == 0,
		// RFC 791 3.2: fragments are cut "on a 8 octet (64 bit) boundary".
		h.MoreFragments && len(p.payload)%8 != 0,
		// The reassembled datagram must not be too long.
		off+len(p.payload)+wire.IPv4Len > maxIPv4:
		p.dropRx(dropBadFragment)
		return
	}
	// RFC 791 2.3: fragments belong to one datagram if they "have the same value for the four fields:
	// identification, source, destination, and protocol".
	key := fragmentKey{src: p.src, dst: p.dst, id: uint32(h.ID), proto: h.Proto}
	d := s.frags.input(p, key, off, h.MoreFragments)
	if d == nil {
		return
	}
	// Turn the first fragment's header into the datagram's: set TOS and total length, and clear the
	// fragment fields. ICMP errors about the datagram quote this header.
	be, header := binary.BigEndian, d.header
	header[1] = d.tos
	be.PutUint16(header[2:], uint16(min(len(header)+d.total, maxIPv4)))
	be.PutUint16(header[6:], be.Uint16(header[6:])&^0x3fff)
	be.PutUint16(header[10:], 0)
	be.PutUint16(header[10:], wire.Checksum(header))
	q, whole := s.frags.join(p, d, header)
	s.deliver(&q)
	s.bufs.put(whole)
}

// fragmentsLate4 sends an ICMP error about an incomplete datagram that has timed out. Its first fragment
// has arrived. RFC 792: "If fragment zero is not available then no time exceeded need be sent at all."
func (s *Stack) fragmentsLate4(d *datagramParts) {
	p := packet{
		ifc: d.ifc, src: d.key.src, dst: d.key.dst, proto: d.key.proto,
		header: d.header, payload: d.parts[d.first].buf[:d.length], broadcast: d.group,
	}
	s.sendICMPError(&p, icmpReassembly, 0)
}
