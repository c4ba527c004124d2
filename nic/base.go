package nic

import (
	"crypto/rand"
	mathrand "math/rand/v2"
	"net"
	"sync/atomic"

	"github.com/usernet/usernet/internal/tally"
	"github.com/usernet/usernet/stack/wire"
)

// Stats counts the frames of a device since it was made. A super-frame counts as one frame.
type Stats struct {
	Sent          uint64 // frames that Send accepted and passed on
	SentBytes     uint64 // their bytes, with the link-layer header
	SendDropped   uint64 // frames that Send accepted and dropped
	Received      uint64 // frames passed to recv
	ReceivedBytes uint64 // their bytes, with the link-layer header
	RecvDropped   uint64 // frames that arrived but were not passed to recv
}

// counters has the counters of each direction on separate cache lines, because different goroutines
// send and receive, often at the same time.
type counters struct {
	_           [64]byte
	sent        tally.Tally
	sendDropped atomic.Uint64
	_           [64]byte
	received    tally.Tally
	recvDropped atomic.Uint64
	_           [64]byte
}

// Stats returns the device's counters.
func (c *counters) Stats() Stats {
	st := Stats{SendDropped: c.sendDropped.Load(), RecvDropped: c.recvDropped.Load()}
	st.Sent, st.SentBytes = c.sent.Load()
	st.Received, st.ReceivedBytes = c.received.Load()
	return st
}

func (c *counters) countSent(frames, bytes int) { c.sent.Add(frames, bytes) }

// base is the part that the devices share: the function set by Attach, the closed flag, and the counters.
type base struct {
	counters
	recv   atomic.Pointer[func([]Frame)]
	closed atomic.Bool
}

// Attach sets the function to which the device passes received frames. A second
// call panics.
func (p *base) Attach(recv func(batch []Frame)) {
	if recv == nil {
		panic("nic: Attach of a nil function")
	}
	if !p.recv.CompareAndSwap(nil, &recv) {
		panic("nic: Attach was called twice on one device")
	}
}

// Attached reports whether Attach was called.
func (p *base) Attached() bool { return p.recv.Load() != nil }

// Close ends the link. A second Close returns net.ErrClosed.
func (p *base) Close() error {
	if !p.closed.CompareAndSwap(false, true) {
		return net.ErrClosed
	}
	return nil
}

// deliver passes a batch to recv and reports whether it did. It does not if there is no recv or the
// device is closed; the caller then counts the drops.
func (p *base) deliver(batch []Frame, bytes int) bool {
	recv := p.recv.Load()
	if recv == nil || p.closed.Load() {
		return false
	}
	p.received.Add(len(batch), bytes)
	(*recv)(batch)
	return true
}

const (
	vlanTagLen = 4 // IEEE 802.1Q

	maxPacket = 65535 // the largest IPv4 packet
	maxFrame  = maxPacket + wire.EthernetLen + vlanTagLen
)

// headerLen is the length of the link-layer header.
func (m Medium) headerLen() int {
	if m == IP {
		return 0
	}
	return wire.EthernetLen
}

// network returns the offset of the IP header of a frame, and the EtherType of that header. It
// returns ok = false if the frame is too short to have an IP header.
func (m Medium) network(b []byte) (offset int, typ wire.EtherType, ok bool) {
	offset = m.headerLen()
	if m == Ethernet && vlanTagged(b) {
		offset += vlanTagLen
	}
	if len(b) <= offset {
		return offset, 0, false
	}
	switch {
	case m == Ethernet:
		typ = wire.EtherType(b[offset-2])<<8 | wire.EtherType(b[offset-1])
	case b[0]>>4 == 4:
		typ = wire.EtherTypeIPv4
	case b[0]>>4 == 6:
		typ = wire.EtherTypeIPv6
	}
	return offset, typ, true
}

// minFrame is the length in bytes of the shortest frame that a device of this medium accepts.
func (m Medium) minFrame() int { return max(m.headerLen(), 1) }

// vlanTagged reports whether a VLAN tag follows the Ethernet header. The tag does not count towards
// the MTU.
func vlanTagged(head []byte) bool {
	if len(head) < wire.EthernetLen {
		return false
	}
	t := uint16(head[12])<<8 | uint16(head[13])
	return t == 0x8100 || t == 0x88a8
}

// carries reports whether the link can carry the frame as it is: the frame is not too long, and it
// asks for no offload that the link does not have.
func (l *Link) carries(f *Frame) bool {
	head := l.Medium.headerLen()
	if l.Medium == Ethernet && vlanTagged(f.Head) {
		head += vlanTagLen
	}
	if len(f.Head) < l.Medium.headerLen() || f.Len() == 0 {
		return false
	}
	if f.NeedsChecksum && (!l.TxChecksum ||
		int(f.ChecksumStart)+int(f.ChecksumOffset)+2 > len(f.Head)) {
		return false
	}
	if f.GSO == GSONone {
		return f.Len() <= l.MTU+head
	}
	most := l.GSO
	if f.GSO == GSOUDP {
		most = min(most, maxPacket)
	}
	return f.NeedsChecksum && f.GSOSize > 0 &&
		f.Len() <= most+head &&
		int(f.HeaderLen) <= len(f.Head) &&
		int(f.HeaderLen)+int(f.GSOSize) <= l.MTU+head
}

// each calls drop for each frame of a batch that the link does not carry, and pass for each run of
// consecutive frames that it carries. bytes is the total length of the run's frames.
func (l *Link) each(batch []Frame, pass func(run []Frame, bytes int), drop func()) {
	start, bytes := 0, 0
	for i := range batch {
		if l.carries(&batch[i]) {
			bytes += batch[i].Len()
			continue
		}
		if start < i {
			pass(batch[start:i], bytes)
		}
		drop()
		start, bytes = i+1, 0
	}
	if start < len(batch) {
		pass(batch[start:], bytes)
	}
}

// randomMAC returns a random, locally administered unicast address. In IEEE 802 section 8.2, bit 0
// of the first octet marks group addresses and bit 1 locally administered ones.
func randomMAC() (mac [6]byte) {
	rand.Read(mac[:]) // never fails: since Go 1.24 a broken source crashes the program
	mac[0] = mac[0]&^1 | 2
	return mac
}

// seededMAC returns the nth address that a seed determines, or a random one if the seed is zero.
func seededMAC(seed, n uint64) (mac [6]byte) {
	if seed == 0 {
		return randomMAC()
	}
	x := mathrand.NewPCG(seed, n).Uint64()
	for i := range mac {
		mac[i] = byte(x >> (8 * i))
	}
	mac[0] = mac[0]&^1 | 2
	return mac
}

// gsoSize returns the Link.GSO of a device whose configuration has the given GSO field. 0 in the field
// means the largest IPv4 packet, and a negative value means no super-frames, which is 0 in a Link.
func gsoSize(configured int) int {
	switch {
	case configured < 0:
		return 0
	case configured == 0:
		return maxPacket
	}
	return min(configured, MaxGSO)
}
