package stack

import (
	"net/netip"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

// A packet is a received IP packet. It is on the stack of the goroutine that received it.
type packet struct {
	ifc        *iface
	now        tcp.Time // when its batch was received; 0: the clock was not read yet
	src, dst   netip.Addr
	proto      wire.Proto
	ttl, tos   uint8
	header     []byte   // the IP header as received, for ICMP quotes; borrowed
	payload    []byte   // the transport header and its payload; borrowed
	tail       []byte   // TCP only: bytes of the TCP payload that follow payload; borrowed
	frame      []byte   // the Head of the frame; nil if the packet was in several frames or in none; borrowed
	at         uint16   // offset of the IP header in frame
	plain      bool     // IPv6 only: the result of plain6; false if plain6 was not called
	checksumOK bool     // do not verify the checksum: the device did, or the packet was in memory only
	csumOffset int      // offset in payload of an incomplete checksum; 0: it is complete
	link       wire.MAC // IPv6 on Ethernet only: the source MAC of the frame
	scope      uint16   // IPv6 on the loopback only: index of the interface of link-local addresses; else 0
	gso        nic.GSOKind
	local      bool // as in nic.Frame
	gsoSize    int  // payload bytes of each segment of a super-frame; else 0
	broadcast  bool // dst or the frame's destination MAC is a broadcast or multicast address
}

// time returns the time at which the packet was received. It reads the clock if necessary.
func (p *packet) time() tcp.Time {
	if p.now == 0 {
		p.now = p.ifc.s.now()
	}
	return p.now
}

// recv handles a batch of frames that the device has received. The frames are valid only until recv
// returns.
func (ifc *iface) recv(batch []nic.Frame) {
	if ifc.dead.Load() || ifc.s.closed.Load() {
		return // the device may deliver a last batch while it closes
	}
	var now tcp.Time // read when first needed: reading the clock may cost as much as all other work
	if ws := ifc.s.watch.set.Load(); ws != nil && ws.frames {
		ws.putFrames(ifc, batch, FrameReceived)
	}
	bytes := 0
	for i := range batch {
		f := &batch[i]
		bytes += f.Len()
		if len(f.Body) == 0 || ifc.takesParts(f) {
			now = ifc.inputFrame(now, f, f.Head, f.Body)
			continue
		}
		now = ifc.inputJoined(now, f)
	}
	ifc.stats.Rx.Add(len(batch), bytes)
	ifc.s.drain()
}

// inputJoined is inputFrame for a frame whose Head and Body have to be joined first.
func (ifc *iface) inputJoined(now tcp.Time, f *nic.Frame) tcp.Time {
	joined := *f
	joined.Head, joined.Body = f.AppendTo(ifc.s.bufs.get(f.Len())[:0]), nil
	now = ifc.inputFrame(now, &joined, joined.Head, nil)
	ifc.s.bufs.put(joined.Head)
	return now
}

// takesParts reports whether the Head and the Body of a frame can stay separate. They can if the frame is
// a TCP super-frame, whose headers are all in Head, and if there is no raw socket.
func (ifc *iface) takesParts(f *nic.Frame) bool {
	if !f.NeedsChecksum || len(f.Head) < ifc.linkLen+wire.IPv4Len || len(ifc.s.raw.sockets()) > 0 {
		return false
	}
	ip := f.Head[ifc.linkLen:]
	return f.GSO == nic.GSOTCP4 && wire.Proto(ip[9]) == wire.ProtoTCP ||
		f.GSO == nic.GSOTCP6 && wire.Proto(ip[wire.IPv6NextOffset]) == wire.ProtoTCP
}

// inputFrame handles the frame f, whose bytes are b followed by tail. now is the time of the batch, or 0
// if the clock was not read yet. inputFrame returns now, or the time if it has read the clock.
func (ifc *iface) inputFrame(now tcp.Time, f *nic.Frame, b, tail []byte) tcp.Time {
	if ifc.linkLen == 0 {
		// Without a link header, the version field of the IP header tells IPv4 from IPv6.
		if wire.Version(b) == 6 && ifc.takes6() {
			return ifc.inputIPv6(now, f, b, tail, false)
		}
		return ifc.inputIPv4(now, f, b, tail, false)
	}
	h, payload, r := wire.ParseEthernet(b)
	if r != wire.OK {
		ifc.drop(r, f)
		return now
	}
	group := h.Dst.IsMulticast()
	if !group && h.Dst != ifc.mac() {
		ifc.drop(dropOtherMAC, f)
		return now
	}
	if h.Src.IsMulticast() {
		ifc.drop(dropMulticastMAC, f)
		return now
	}
	typ := h.Type
	if typ == wire.EtherTypeVLAN {
		if typ, payload = ifc.untag(f, payload); payload == nil {
			return now
		}
	}
	switch typ {
	case wire.EtherTypeIPv4:
		return ifc.inputIPv4(now, f, payload, tail, group)
	case wire.EtherTypeIPv6:
		if ifc.takes6() {
			return ifc.inputIPv6(now, f, payload, tail, group)
		}
		ifc.drop(dropEtherType, f)
	case wire.EtherTypeARP:
		ifc.inputARP(f, payload)
	default:
		ifc.drop(dropEtherType, f)
	}
	return now
}

// untag returns the type and the payload of a frame with a VLAN tag, which is at the beginning of b. The tag must
// have the interface's VLAN or, on an interface without a VLAN, only a priority. Otherwise untag drops the frame and
// returns a nil payload.
func (ifc *iface) untag(f *nic.Frame, b []byte) (wire.EtherType, []byte) {
	tag, payload, r := wire.ParseVLANTag(b)
	if r == wire.OK && (tag.ID != ifc.vlan || tag.Type == wire.EtherTypeVLAN) { // there is one tag at most
		r = dropVLAN
	}
	if r != wire.OK {
		ifc.drop(r, f)
		return 0, nil
	}
	return tag.Type, payload
}

// takes6 reports whether the interface receives IPv6.
func (ifc *iface) takes6() bool { return ifc.carries6() }
