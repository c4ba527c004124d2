package stack

import (
	"net/netip"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// inputARP handles a received ARP packet by the algorithm of RFC 826, "Packet Reception", and the rules
// of RFC 5227. The frame f contains the packet b.
func (ifc *iface) inputARP(f *nic.Frame, b []byte) {
	s := ifc.s
	h, r := wire.ParseARP(b)
	if r != wire.OK {
		s.dropFrame(r, ifc, f, false)
		return
	}
	s.counts.arpReceived.Add(1)
	if h.SenderMAC.IsMulticast() || h.SenderMAC == (wire.MAC{}) ||
		h.SenderIP.IsMulticast() || h.SenderIP.IsLoopback() || isReserved(h.SenderIP) {
		s.dropFrame(dropBadARPSender, ifc, f, false)
		return
	}
	if h.SenderMAC == ifc.mac() {
		s.dropFrame(dropBadARPSender, ifc, f, false) // a copy of a packet that this host has sent
		return
	}
	if addr, ok := ifc.claimed(&h); ok && s.giveUpDuplicate(ifc, addr, h.SenderMAC, f) {
		return
	}
	forUs := ifc.owns(h.TargetIP) && !ifc.loopback
	switch {
	case h.SenderIP.IsUnspecified():
		// RFC 5227 2.1.1: a probe has "an all-zeroes 'sender IP address'". The host answers a probe, but
		// learns nothing from it.
	case ifc.owns(h.SenderIP):
		ifc.conflict(h.SenderIP, h.SenderMAC, f)
		return
	default:
		// RFC 826: "If the pair <protocol type, sender protocol address> is already in my translation
		// table, update the sender hardware address field of the entry"; a new entry is made only after
		// "?Am I the target protocol address?". An unsolicited reply makes no entry.
		//
		// A sender that is not on the link gets an answer, but no entry: no route leads to it on this
		// link.
		how := updateMAC | updateOverride
		switch {
		case !forUs: // only update an existing entry
		case h.Op == wire.ARPReply:
			how |= updateSolicited
		case s.table.Load().onLink(ifc, h.SenderIP):
			how |= updateCreate
		}
		ifc.neigh4.learn(h.SenderIP, h.SenderMAC, how)
	}
	if forUs && h.Op == wire.ARPRequest {
		if !ifc.tx.room() {
			s.dropFrame(dropNoReply, ifc, f, false)
			return
		}
		ifc.sendARP(wire.ARPReply, h.SenderMAC, h.TargetIP, h.SenderMAC, h.SenderIP)
	}
}

// sendARP queues an ARP packet to the link address to. sender is an address of the interface. target and
// addr are the target's link address and IP address. If the queue is full, sendARP drops the packet;
// otherwise the queue of a stuck device would grow with each neighbour.
func (ifc *iface) sendARP(op wire.ARPOp, to wire.MAC, sender netip.Addr, target wire.MAC, addr netip.Addr) {
	if ifc.down.Load() || !sender.Is4() {
		return
	}
	if !ifc.tx.room() {
		ifc.stats.TxDropped.Add(1)
		ifc.s.dropFlow(dropTxQueue, netip.AddrPortFrom(sender, 0), netip.AddrPortFrom(addr, 0))
		return
	}
	if sender.IsLinkLocalUnicast() {
		// RFC 3927 2.5: "All ARP packets (*replies* as well as requests) that contain a Link-Local 'sender IP
		// address' MUST be sent using link-layer broadcast instead of link-layer unicast."
		to = wire.Broadcast()
	}
	frame := ifc.s.bufs.get(ifc.linkLen + wire.ARPLen)
	ifc.putLink(frame, to, wire.EtherTypeARP)
	arp := wire.ARP{Op: op, SenderMAC: ifc.mac(), SenderIP: sender, TargetMAC: target, TargetIP: addr}
	arp.Put(frame[ifc.linkLen:])
	ifc.s.counts.arpSent.Add(1)
	ifc.tx.enqueue(&txEntry{frame: nic.Frame{Head: ifc.pad(frame)}, buf: frame})
}

// announce announces an address of the host on the link. RFC 5227 3: an announcement is an ARP request
// whose sender and target IP addresses are both the announced address.
func (ifc *iface) announce(a netip.Addr) {
	if a.Is6() {
		ifc.announce6(a)
		return
	}
	ifc.sendARP(wire.ARPRequest, wire.Broadcast(), a, wire.MAC{}, a)
}
