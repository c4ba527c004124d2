package usernet

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// forge6 is like forge, for an IPv6 frame with the bytes b. If back is set, the forged frame goes
// back to the sender.
func forge6(r *rand.Rand, like nic.Frame, b []byte, back bool, to int, link *nic.Link) []nic.Frame {
	if back {
		turnRound6(b)
	}
	setMACs(b, to)
	one := func(b []byte) []nic.Frame { return []nic.Frame{{Head: b}} }
	switch r.IntN(14) {
	case 0:
		return one(flip(r, b))
	case 1, 2:
		return one(fixFrame6(flip(r, cut(b, link.MTU))))
	case 3, 4:
		return one(forgeICMP6(r, like.AppendTo(nil), to))
	case 5:
		return one(forgeND(r, to))
	case 6:
		return one(forgeIP6(r, cut(b, link.MTU)))
	case 7, 8:
		return []nic.Frame{badOffload(r, b)}
	case 9:
		f := cloneFrame(like) // send it again
		setMACs(f.Head, to)
		return []nic.Frame{f}
	case 10:
		return forgeFragments6(r, cut(b, link.MTU))
	}
	return one(forgeTCP6(r, cut(b, link.MTU)))
}

// turnRound6 swaps the addresses, the ports, and TCP's sequence and acknowledgment numbers of an IPv6
// packet.
func turnRound6(b []byte) {
	ip := b[wire.EthernetLen:]
	var a [16]byte
	copy(a[:], ip[8:])
	copy(ip[8:24], ip[24:40])
	copy(ip[24:40], a[:])
	reversePorts(wire.Proto(ip[wire.IPv6NextOffset]), ip[wire.IPv6Len:])
	fixFrame6(b)
}

func fuzzAddr6(r *rand.Rand) netip.Addr {
	return netip.MustParseAddr([...]string{
		addr6A, addr6B, "2001:db8::9", "fe80::ff:fe00:a", "fe80::ff:fe00:b", "ff02::1", "ff02::1:ff00:1", "::", "::1", "2001:db8:9::1", "::ffff:192.0.2.1",
	}[r.IntN(11)])
}

// ethernetIP6 is like ethernetIP, for IPv6.
func ethernetIP6(to int, h wire.IPv6, payload []byte) []byte {
	payload = payload[:min(len(payload), 65535)]
	n := wire.EthernetLen + wire.IPv6Len
	b := make([]byte, n+len(payload))
	(&wire.Ethernet{Type: wire.EtherTypeIPv6}).Put(b)
	h.Put(b[wire.EthernetLen:], len(payload))
	copy(b[n:], payload)
	setMACs(b, to)
	return b
}

// forgeICMP6 makes an ICMPv6 message to the host at the end to. It is often an error that quotes the real packet in
// the frame b.
func forgeICMP6(r *rand.Rand, b []byte, to int) []byte {
	me, other := netip.MustParseAddr([...]string{addr6A, addr6B}[to]), netip.MustParseAddr([...]string{addr6B, addr6A}[to])
	if r.IntN(3) == 0 {
		other = fuzzAddr6(r)
	}
	h := wire.ICMPv6{Type: wire.ICMPv6Type([...]int{1, 1, 2, 2, 3, 4, 128, 129, 130, r.IntN(256)}[r.IntN(10)]), Code: uint8(r.IntN(9)), Rest: r.Uint32()}
	if h.Type == wire.ICMPv6TooBig {
		h.Code, h.Rest = 0, uint32([...]int{0, 1, 68, 1279, 1280, 1281, 1400, 1499, 1500, 65535}[r.IntN(10)])
	}
	quoted := forgeQuote(r, b[wire.EthernetLen:], 48, 48, 60, 80, 1200)
	msg := make([]byte, wire.ICMPLen+len(quoted))
	copy(msg[wire.ICMPLen:], quoted)
	msg[0], msg[1] = byte(h.Type), h.Code
	binary.BigEndian.PutUint32(msg[4:], h.Rest)
	return fixFrame6(ethernetIP6(to, wire.IPv6{Next: wire.ProtoICMPv6, HopLimit: 64, Src: other, Dst: me}, msg))
}

// forgeND makes a message of Neighbor Discovery or MLD.
func forgeND(r *rand.Rand, to int) []byte {
	body := make([]byte, 4+16+8*r.IntN(5))
	for i := range body {
		body[i] = byte(r.Uint32() >> r.IntN(32))
	}
	target := fuzzAddr6(r).As16()
	copy(body[4:], target[:])
	for at := 20; at < len(body); at += 8 {
		if mac := fuzzMAC(r); r.IntN(4) > 0 {
			body[at], body[at+1] = byte(1+r.IntN(2)), 1
			copy(body[at+2:], mac[:])
		}
	}
	src, dst := fuzzAddr6(r), fuzzAddr6(r)
	if r.IntN(2) == 0 {
		dst = netip.MustParseAddr([...]string{addr6A, addr6B}[to])
	}
	msg := make([]byte, 4+len(body))
	copy(msg[4:], body)
	// The types 133 to 137 are Neighbor Discovery (RFC 4861 4), 130 and 143 are MLD.
	msg[0] = [...]byte{133, 134, 135, 135, 136, 136, 137, 130, 143}[r.IntN(9)]
	return fixFrame6(ethernetIP6(to, wire.IPv6{Next: wire.ProtoICMPv6, HopLimit: [...]uint8{255, 255, 255, 64, 1}[r.IntN(5)], Src: src, Dst: dst}, msg))
}

// forgeIP6 changes the header of a packet, or adds extension headers.
func forgeIP6(r *rand.Rand, b []byte) []byte {
	h, p, reason := wire.ParseIPv6(b[wire.EthernetLen:])
	if reason != wire.OK {
		return flip(r, b)
	}
	switch r.IntN(7) {
	case 0:
		h.Src = fuzzAddr6(r)
	case 1:
		h.Dst = fuzzAddr6(r)
	case 2:
		h.HopLimit = uint8(r.IntN(3))
	case 3:
		h.Next = wire.Proto(r.IntN(256))
	case 4:
		h.TrafficClass, h.FlowLabel = uint8(r.Uint32()), r.Uint32()>>12
	case 5:
		for range 1 + r.IntN(4) {
			ext := make([]byte, 8*(1+r.IntN(3)))
			for i := range ext {
				ext[i] = [...]byte{0, 1, 2, 4, 5, 0x3e, 0xc2, byte(r.Uint32())}[r.IntN(8)]
			}
			ext[0], ext[1] = byte(h.Next), byte(len(ext)/8-1)
			// Hop-by-Hop Options, Routing, Destination Options, Fragment, Authentication, Mobility.
			h.Next = [...]wire.Proto{0, 43, 60, 44, 51, 135}[r.IntN(6)]
			p = append(ext, p...)
		}
	case 6:
		p = p[:r.IntN(len(p)+1)]
	}
	e := ethernetIP6(0, h, p)
	copy(e, b[:12])
	return fixFrame6(e)
}

// forgeFragments6 splits a real packet into fragments.
func forgeFragments6(r *rand.Rand, b []byte) []nic.Frame {
	h, p, reason := wire.ParseIPv6(b[wire.EthernetLen:])
	if reason != wire.OK || len(p) == 0 {
		return nil
	}
	id := r.Uint32()
	size := max(8, r.IntN(max(len(p), 9))&^7)
	return forgePieces(r, p, size, func(at int, more bool, piece []byte) []byte {
		payload := make([]byte, wire.FragmentLen, wire.FragmentLen+len(piece))
		payload[0] = byte(h.Next)
		field := uint16(at)
		if more {
			field |= 1
		}
		binary.BigEndian.PutUint16(payload[2:], field)
		binary.BigEndian.PutUint32(payload[4:], id)
		f := h
		f.Next = wire.ProtoFragment
		e := ethernetIP6(0, f, append(payload, piece...))
		copy(e, b[:12]) // the MACs of b
		return e
	})
}

// forgeTCP6 changes a real segment and sets its checksum.
func forgeTCP6(r *rand.Rand, b []byte) []byte {
	h, seg, reason := wire.ParseIPv6(b[wire.EthernetLen:])
	if reason != wire.OK || h.Next != wire.ProtoTCP {
		return fixFrame6(flip(r, b))
	}
	t, payload, reason := wire.ParseTCP(seg)
	if reason != wire.OK {
		return fixFrame6(flip(r, b))
	}
	e := ethernetIP6(0, h, forgeSegment(r, &t, payload))
	copy(e, b[:12])
	return fixFrame6(e)
}

// fixFrame6 is like fixFrame, for IPv6.
func fixFrame6(b []byte) []byte {
	if len(b) < wire.EthernetLen+wire.IPv6Len || !isType(b, wire.EtherTypeIPv6) {
		return b
	}
	src, dst, proto, p, whole, err := parseIP(b[wire.EthernetLen:])
	switch {
	case err != nil || !whole:
	case src.Is4In6() || dst.Is4In6():
		// Package wire computes no checksum over IPv4-mapped addresses. The stack drops a packet
		// with such an address before it verifies the checksum.
	case proto == wire.ProtoTCP && len(p) >= wire.TCPLen:
		wire.SetTCPChecksum(src, dst, p)
	case proto == wire.ProtoUDP && len(p) >= wire.UDPLen:
		p[6], p[7] = 0, 0
		if int(binary.BigEndian.Uint16(p[4:])) == len(p) {
			wire.SetUDPChecksum(src, dst, p)
		}
	case proto == wire.ProtoICMPv6 && len(p) >= 4:
		wire.SetICMPv6Checksum(src, dst, p)
	}
	return b
}
