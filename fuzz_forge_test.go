package usernet

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// forge makes forged frames from the real frame like. from is the end of the wire that sent like, and to is the end
// that receives the forged frames.
func forge(r *rand.Rand, like nic.Frame, from, to int, link *nic.Link) []nic.Frame {
	b := like.AppendTo(nil)
	ip := len(b) >= wire.EthernetLen+wire.IPv4Len && isType(b, wire.EtherTypeIPv4)
	if len(b) > wire.EthernetLen+wire.IPv6Len && isType(b, wire.EtherTypeIPv6) {
		return forge6(r, like, b, from == to, to, link)
	}
	if from == to && ip {
		reversed(b) // the frame goes back to its sender
	}
	setMACs(b, to)
	one := func(b []byte) []nic.Frame { return []nic.Frame{{Head: b}} }
	switch k := r.IntN(20); {
	case k == 0:
		return one(noise(r))
	case k == 1:
		return one(forgeARP(r, to))
	case !ip:
		return one(flip(r, b))
	case k == 2:
		return one(flip(r, b))
	case k == 3:
		return one(fixFrame(flip(r, b)))
	case k == 4, k == 5:
		return one(forgeICMP(r, like.AppendTo(nil), from, to))
	case k == 6:
		return forgeFragments(r, b, link.MTU)
	case k == 7:
		return one(forgeIP(r, b))
	case k == 8, k == 9:
		return []nic.Frame{badOffload(r, b)}
	case k == 10:
		f := cloneFrame(like) // send it again
		setMACs(f.Head, to)
		return []nic.Frame{f}
	case k == 11:
		return one(forgeIGMP(r, to))
	}
	h, _, reason := wire.ParseIPv4(b[wire.EthernetLen:])
	if reason == wire.OK && h.Proto == wire.ProtoTCP && !h.IsFragment() {
		return one(forgeTCP(r, b, link.MTU))
	}
	return one(fixFrame(flip(r, cut(b, link.MTU))))
}

// setMACs sets the addresses of a frame from the other end to the end to.
func setMACs(b []byte, to int) {
	if len(b) >= wire.EthernetLen {
		copy(b, []byte{2, 0, 0, 0, 0, byte(0xa + to), 2, 0, 0, 0, 0, byte(0xb - to)})
	}
}

// reversed swaps the addresses, the ports, and TCP's sequence and acknowledgment numbers of an IPv4
// packet.
func reversed(b []byte) {
	ip := b[wire.EthernetLen:]
	var a [4]byte
	copy(a[:], ip[12:])
	copy(ip[12:16], ip[16:20])
	copy(ip[16:20], a[:])
	if at := int(ip[0]&15) * 4; at <= len(ip) {
		reversePorts(wire.Proto(ip[9]), ip[at:])
	}
	fixFrame(b)
}

// reversePorts swaps the ports of TCP and UDP, and TCP's sequence and acknowledgment numbers.
func reversePorts(proto wire.Proto, t []byte) {
	if len(t) < wire.TCPLen || proto != wire.ProtoTCP && proto != wire.ProtoUDP {
		return
	}
	t[0], t[1], t[2], t[3] = t[2], t[3], t[0], t[1]
	if proto == wire.ProtoTCP {
		for i := range 4 { // sequence and acknowledgement numbers
			t[4+i], t[8+i] = t[8+i], t[4+i]
		}
	}
}

// cut shortens a packet that is larger than the MTU. Such a packet was sent as a super-frame.
func cut(b []byte, mtu int) []byte {
	if len(b) <= wire.EthernetLen+mtu {
		return b
	}
	b = b[:wire.EthernetLen+mtu]
	if isType(b, wire.EtherTypeIPv6) {
		binary.BigEndian.PutUint16(b[wire.EthernetLen+wire.IPv6PayloadLenOffset:], uint16(mtu-wire.IPv6Len))
	} else {
		binary.BigEndian.PutUint16(b[wire.EthernetLen+2:], uint16(mtu))
	}
	return b
}

// noise returns a frame of random bytes, often one that begins like IPv4.
func noise(r *rand.Rand) []byte {
	b := make([]byte, 1+r.IntN([...]int{20, 100, 2000, 70_000}[r.IntN(4)]))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	if len(b) > 14 && r.IntN(2) == 0 {
		copy(b[12:], []byte{8, 0, 0x45}) // EtherType IPv4, version 4, a header of 20 bytes
	}
	return b
}

// flip changes some bytes of a frame at random.
func flip(r *rand.Rand, b []byte) []byte {
	for range 1 + r.IntN(4) {
		at := r.IntN(len(b))
		if len(b) > 14 && r.IntN(2) == 0 {
			at = 14 + r.IntN(min(len(b)-14, 60)) // in the headers
		}
		b[at] = [...]byte{b[at] ^ 1<<r.IntN(8), byte(r.Uint32()), 0, 255, b[at] + 1, b[at] - 1}[r.IntN(6)]
	}
	return b
}

func fuzzAddr(r *rand.Rand) netip.Addr {
	return [...]netip.Addr{
		netip.MustParseAddr(addrA), netip.MustParseAddr(addrB), netip.AddrFrom4([4]byte{192, 0, 2, byte(r.Uint32())}),
		netip.MustParseAddr("192.0.2.255"), netip.MustParseAddr("255.255.255.255"), netip.IPv4Unspecified(),
		netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("224.1.2.3"), netip.MustParseAddr("198.51.100.7"),
	}[r.IntN(9)]
}

func fuzzMAC(r *rand.Rand) wire.MAC {
	return [...]wire.MAC{{2, 0, 0, 0, 0, 0xa}, {2, 0, 0, 0, 0, 0xb}, {2, 0, 0, 0, 0, 0xc}, wire.Broadcast(), {}, {1, 0, 94, 1, 2, 3}}[r.IntN(6)]
}

func forgeARP(r *rand.Rand, to int) []byte {
	b := make([]byte, wire.EthernetLen+wire.ARPLen)
	dst := wire.Broadcast()
	if r.IntN(2) == 0 {
		dst = wire.MAC{2, 0, 0, 0, 0, byte(0xa + to)}
	}
	(&wire.Ethernet{Dst: dst, Src: fuzzMAC(r), Type: wire.EtherTypeARP}).Put(b)
	h := wire.ARP{Op: wire.ARPOp(1 + r.IntN(2)), SenderMAC: fuzzMAC(r), SenderIP: fuzzAddr(r), TargetMAC: fuzzMAC(r), TargetIP: fuzzAddr(r)}
	h.Put(b[wire.EthernetLen:])
	return b
}

// ethernetIP returns an IPv4 packet in a frame to the end to.
func ethernetIP(to int, h wire.IPv4, payload []byte) []byte {
	if h.TTL == 0 {
		h.TTL = 64
	}
	payload = payload[:min(len(payload), 65535-h.HeaderLen())]
	n := wire.EthernetLen + h.HeaderLen()
	b := make([]byte, n+len(payload))
	(&wire.Ethernet{Type: wire.EtherTypeIPv4}).Put(b)
	h.Put(b[wire.EthernetLen:], len(payload))
	copy(b[n:], payload)
	setMACs(b, to)
	return b
}

// forgeICMP makes an ICMP message to the host at the end to. It is often an error that quotes the real packet in the
// frame b.
func forgeICMP(r *rand.Rand, b []byte, from, to int) []byte {
	me, other := netip.MustParseAddr([...]string{addrA, addrB}[to]), netip.MustParseAddr([...]string{addrB, addrA}[to])
	if r.IntN(3) == 0 {
		other = fuzzAddr(r)
	}
	h := wire.ICMP{Type: wire.ICMPType([...]int{3, 3, 3, 3, 11, 12, 4, 5, 8, 13, r.IntN(256)}[r.IntN(11)]), Code: uint8(r.IntN(17)), Rest: r.Uint32()}
	if h.Type == wire.ICMPUnreachable && r.IntN(2) == 0 {
		h.Code, h.Rest = wire.UnreachFragNeeded, uint32([...]int{0, 1, 67, 68, 100, 296, 552, 576, 1280, 1499, 1500, 65535}[r.IntN(12)])
	}
	quoted := forgeQuote(r, b[wire.EthernetLen:], 28, 28, 40, 60, 548)
	msg := make([]byte, wire.ICMPLen+len(quoted))
	h.Put(msg, quoted)
	return ethernetIP(to, wire.IPv4{Proto: wire.ProtoICMP, Src: other, Dst: me}, msg)
}

// forgeQuote returns the start of a packet for an ICMP error, sometimes damaged. Its length is one of sizes,
// or below 100.
func forgeQuote(r *rand.Rand, ip []byte, sizes ...int) []byte {
	sizes = append(sizes, r.IntN(100))
	quoted := ip[:min(len(ip), sizes[r.IntN(len(sizes))])]
	if r.IntN(4) == 0 {
		quoted = flip(r, append([]byte{}, append(quoted, 0)...))
	}
	return quoted
}

func forgeIGMP(r *rand.Rand, to int) []byte {
	msg := make([]byte, 8+4*r.IntN(5))
	for i := range msg {
		msg[i] = byte(r.Uint32() >> r.IntN(32))
	}
	msg[0] = [...]byte{0x11, 0x11, 0x12, 0x16, 0x17, 0x22}[r.IntN(6)] // queries, reports and Leave Group
	if r.IntN(2) == 0 {
		copy(msg[4:], []byte{224, 1, 2, 3})
	}
	if len(msg) >= wire.IGMPv3Len && msg[0] == 0x11 {
		binary.BigEndian.PutUint16(msg[10:], uint16(len(msg)-wire.IGMPv3Len)/4) // number of sources
	}
	h := wire.IPv4{Proto: wire.ProtoIGMP, TTL: 1, Src: fuzzAddr(r), Dst: netip.MustParseAddr([...]string{"224.0.0.1", "224.1.2.3", addrA}[r.IntN(3)])}
	if r.IntN(2) == 0 {
		h.Options = wire.RouterAlertOption()
	}
	return fixFrame(ethernetIP(to, h, msg))
}

// forgeFragments splits a real packet into fragments.
func forgeFragments(r *rand.Rand, b []byte, mtu int) []nic.Frame {
	h, p, reason := wire.ParseIPv4(b[wire.EthernetLen:])
	if reason != wire.OK || h.IsFragment() {
		return nil
	}
	id := uint16(r.Uint32())
	size := max(8, r.IntN(min(max(len(p), 9), mtu-20))&^7)
	return forgePieces(r, p, size, func(at int, more bool, piece []byte) []byte {
		f := h
		f.ID, f.FragOffset, f.MoreFragments = id, uint16(at), more
		e := ethernetIP(0, f, piece)
		copy(e, b[:12]) // the MACs of b
		return e
	})
}

// forgePieces splits a payload into pieces of size bytes, and makes a fragment of each with the function
// fragment. Some fragments are lost, repeated, in a wrong place or in a wrong order.
func forgePieces(r *rand.Rand, p []byte, size int, fragment func(at int, more bool, piece []byte) []byte) (frames []nic.Frame) {
	for off := 0; off < len(p) && len(frames) < 100; off += size {
		n := min(size, len(p)-off)
		at, more := off, off+n < len(p)
		switch r.IntN(12) {
		case 0:
			continue
		case 1:
			at = max(0, off-8)
		case 2:
			more = !more
		case 3:
			at = 8 * r.IntN(8192)
		}
		frames = append(frames, nic.Frame{Head: fragment(at, more, p[off:off+n])})
		if r.IntN(10) == 0 {
			frames = append(frames, cloneFrame(frames[len(frames)-1]))
		}
	}
	if r.IntN(2) == 0 {
		r.Shuffle(len(frames), func(i, j int) { frames[i], frames[j] = frames[j], frames[i] })
	}
	return frames
}

// forgeIP changes the IPv4 header of a real packet and corrects its checksums.
func forgeIP(r *rand.Rand, b []byte) []byte {
	h, p, reason := wire.ParseIPv4(b[wire.EthernetLen:])
	if reason != wire.OK {
		return flip(r, b)
	}
	to := int(b[5]) - 0xa
	switch r.IntN(7) {
	case 0:
		h.Src = fuzzAddr(r)
	case 1:
		h.Dst = fuzzAddr(r)
	case 2:
		h.TTL = uint8(r.IntN(3))
	case 3:
		h.Proto = wire.Proto(r.IntN(256))
	case 4:
		h.TOS = uint8(r.Uint32())
	case 5:
		opts := make([]byte, 4*(1+r.IntN(9)))
		for i := range opts {
			opts[i] = [...]byte{0, 1, 7, 68, 131, 137, 148, 3, 4, 11, 40, 255, byte(r.Uint32())}[r.IntN(13)]
		}
		h.Options = opts
	case 6:
		p = p[:r.IntN(len(p)+1)]
	}
	e := ethernetIP(to, h, p)
	copy(e, b[:12])
	return fixFrame(e)
}

// forgeTCP changes a real segment and corrects its checksum.
func forgeTCP(r *rand.Rand, b []byte, mtu int) []byte {
	b = cut(b, mtu)
	ip := b[wire.EthernetLen:]
	h, seg, _ := wire.ParseIPv4(ip)
	t, payload, reason := wire.ParseTCP(seg)
	if reason != wire.OK {
		return fixFrame(flip(r, b))
	}
	out := forgeSegment(r, &t, payload)
	e := ethernetIP(0, wire.IPv4{Proto: h.Proto, TOS: h.TOS, ID: h.ID, DontFragment: h.DontFragment, Src: h.Src, Dst: h.Dst}, out)
	copy(e, b[:12])
	if r.IntN(20) == 0 {
		binary.BigEndian.PutUint16(e[wire.EthernetLen+wire.IPv4Len+18:], uint16(r.Uint32())) // the urgent pointer
	}
	return fixFrame(e)
}

// forgeSegment changes a segment. It does not set the checksum.
func forgeSegment(r *rand.Rand, t *wire.TCP, payload []byte) []byte {
	near := func(v uint32) uint32 {
		return v + [...]uint32{1, ^uint32(0), uint32(t.Window), -uint32(t.Window), uint32(len(payload)), -uint32(len(payload)),
			uint32(r.IntN(3000)), -uint32(r.IntN(3000)), 1 << 30, 1 << 31, r.Uint32()}[r.IntN(11)]
	}
	for range 1 + r.IntN(3) {
		switch r.IntN(13) {
		case 0, 1:
			t.Flags = wire.TCPFlags(r.IntN(256))
		case 2:
			t.Flags = [...]wire.TCPFlags{wire.FlagRST, wire.FlagRST | wire.FlagACK, wire.FlagSYN, wire.FlagSYN | wire.FlagACK, wire.FlagFIN | wire.FlagACK, wire.FlagACK}[r.IntN(6)]
		case 3, 4:
			t.Seq = near(t.Seq)
		case 5, 6:
			t.Ack = near(t.Ack)
		case 7:
			t.Window = [...]uint16{0, 1, 100, 65535, uint16(r.Uint32())}[r.IntN(5)]
		case 8:
			t.HasTS = !t.HasTS
		case 9:
			t.TSVal, t.TSEcr = near(t.TSVal), near(t.TSEcr)
		case 10:
			t.MSS = [...]uint16{0, 1, 48, 536, 65535}[r.IntN(5)]
		case 11:
			payload = payload[:r.IntN(len(payload)+1)]
		case 12:
			payload = append(append([]byte{}, payload...), make([]byte, r.IntN(100))...)
		}
	}
	var options []byte
	if r.IntN(3) == 0 {
		options = append(options, 1, 1, 5, byte(2+8*(1+r.IntN(2)))) // two NOPs, and SACK (RFC 2018 3) with one or two blocks
		for range 2 * (int(options[3]) / 8) {
			options = binary.BigEndian.AppendUint32(options, near(t.Ack))
		}
	} else if r.IntN(8) == 0 { // options of random bytes
		for range 4 * (1 + r.IntN(5)) {
			options = append(options, byte(r.Uint32()>>r.IntN(32)))
		}
	}
	n := t.Len()
	if n+len(options) > wire.MaxTCPLen {
		options = nil
	}
	out := make([]byte, n+len(options)+len(payload))
	t.Put(out)
	copy(out[n:], options)
	out[12] = byte((n+len(options))/4) << 4
	copy(out[n+len(options):], payload)
	return out
}

// badOffload returns a frame with wrong fields for checksum offload and GSO.
func badOffload(r *rand.Rand, b []byte) nic.Frame {
	f := nic.Frame{Head: b}
	if r.IntN(2) == 0 {
		k := r.IntN(len(b) + 1)
		f.Head, f.Body = b[:k:k], b[k:]
	}
	small := func() uint16 {
		return uint16([...]int{0, 1, 14, 20, 34, 54, 66, 100, r.IntN(2000), r.IntN(65536), 65535}[r.IntN(11)])
	}
	f.NeedsChecksum, f.ChecksumValid = r.IntN(2) == 0, r.IntN(2) == 0
	f.ChecksumStart, f.ChecksumOffset = small(), small()
	if r.IntN(2) == 0 {
		// The checksum of TCP or UDP after Ethernet and IPv4.
		f.ChecksumStart, f.ChecksumOffset = 34, [...]uint16{16, 6}[r.IntN(2)]
	}
	if r.IntN(3) > 0 {
		f.GSO = nic.GSOKind(r.IntN(6))
		f.GSOSize, f.HeaderLen = small(), small()
	}
	return f
}

// fixFrame corrects the checksums in an IPv4 frame. It removes the checksum of UDP.
func fixFrame(b []byte) []byte {
	if len(b) < wire.EthernetLen+wire.IPv4Len || b[12] != 8 || b[13] != 0 {
		return b
	}
	ip := b[wire.EthernetLen:]
	n := int(ip[0]&15) * 4
	if n < wire.IPv4Len || n > len(ip) {
		return b
	}
	ip[10], ip[11] = 0, 0
	binary.BigEndian.PutUint16(ip[10:], wire.Checksum(ip[:n]))
	h, p, reason := wire.ParseIPv4(ip)
	if reason != wire.OK || h.IsFragment() {
		return b
	}
	switch {
	case h.Proto == wire.ProtoTCP && len(p) >= wire.TCPLen:
		wire.SetTCPChecksum(h.Src, h.Dst, p)
	case h.Proto == wire.ProtoUDP && len(p) >= wire.UDPLen:
		p[6], p[7] = 0, 0
	case (h.Proto == wire.ProtoICMP || h.Proto == wire.ProtoIGMP) && len(p) >= 8:
		p[2], p[3] = 0, 0
		binary.BigEndian.PutUint16(p[2:], wire.Checksum(p))
	}
	return b
}
