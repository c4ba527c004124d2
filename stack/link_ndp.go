package stack

import (
	"net/netip"

	"github.com/usernet/usernet/stack/wire"
)

// This file has Neighbour Discovery (RFC 4861): what is asked and answered. What is learnt
// is kept by neighborTable.

// solicit asks for the link address of a neighbour: all that may have the address, or with unicast
// the one that had mac.
func (ifc *iface) solicit(target, src netip.Addr, mac wire.MAC, unicast bool) {
	dst := target
	if !unicast {
		dst = wire.SolicitedNode(target)
		mac = wire.MulticastMAC(dst)
	}
	// RFC 4861 4.3: the source link-layer address option "MUST NOT be included when the source IP
	// address is the unspecified address. Otherwise, [...] this option MUST be included in
	// multicast solicitations and SHOULD be included in unicast solicitations."
	ns := wire.NeighborSol{Target: target, Source: ifc.mac(), HasSource: !src.IsUnspecified()}
	ifc.sendND(wire.ICMPv6NeighborSol, 0, src, dst, mac, ns.Append(nil))
}

// sendND queues a message of Neighbour Discovery for the station with the link address mac. If the
// queue is full it is lost.
func (ifc *iface) sendND(typ wire.ICMPv6Type, rest uint32, src, dst netip.Addr, mac wire.MAC, body []byte) {
	if ifc.down.Load() || !src.Is6() {
		return
	}
	if !ifc.tx.room() {
		ifc.stats.TxDropped.Add(1)
		return
	}
	s := ifc.s
	p := path{ifc: ifc, src: src, dst: dst, hop: dst, group: dst.IsMulticast(), mac: wordOf(mac), mtu: ifc.mtu()}
	p.makeHeader()
	now := s.now()
	n := wire.ICMPLen + len(body)
	sl := p.slot(now, n, false)
	h := wire.ICMPv6{Type: typ, Rest: rest}
	h.Put(src, dst, sl.buf[transportAt:], body)
	s.emit(now, &p, &ipHeader{proto: wire.ProtoICMPv6, ttl: wire.NDHopLimit}, &sl, n, &frameMeta{})
}
