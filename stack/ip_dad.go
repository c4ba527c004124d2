package stack

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

// This file has Duplicate Address Detection for IPv6 (RFC 4862 5.4). It finds out whether another node
// on the link uses an address of the host.

const (
	dadTransmits    = 1 // RFC 4862 5.1: the default of DupAddrDetectTransmits
	maxDADTransmits = 10
	dadMore         = 3          // RFC 7527 4.1: MAX_MULTICAST_SOLICIT more probes after one has looped back
	dadFirstDelay   = tcp.Second // RFC 4861 10: MAX_RTR_SOLICITATION_DELAY
)

// A dad is the state of the detection for one address, IPv6 or IPv4 (see ip_acd.go). Stack.mu protects
// it.
type dad struct {
	at     tcp.Time  // time of the next step; 0: the detection waits until the link is up
	sent   int       // IPv6: probes sent
	left   int       // probes still to be sent
	looped bool      // IPv6: one of the probes of this host has come back
	nonces [][6]byte // IPv6: the nonces of the latest probes

	announced int // IPv4: announcements sent
}

// addr returns the interface's entry for an address, in any state.
func (ifc *iface) addr(a netip.Addr) (ifaceAddr, bool) {
	list := ifc.list()
	for i := range list {
		if list[i].addr() == a {
			return list[i], true
		}
	}
	return ifaceAddr{}, false
}

// detect starts the detection for an IPv6 address. The address becomes tentative if Config.WaitForDAD is
// set, and optimistic otherwise. detect does nothing if the interface performs no detection.
//
// RFC 4429 2.1: an optimistic address "is available for use, subject to the restrictions given in this
// document". RFC 4862 5.4.2: the first probe of a node that has come up "SHOULD delay [...] by a random
// delay between 0 and MAX_RTR_SOLICITATION_DELAY".
func (s *Stack) detect(ifc *iface, a *ifaceAddr, now tcp.Time) {
	if ifc.linkLen == 0 || !a.addr().Is6() || ifc.dadTransmits < 0 {
		// RFC 4862 5.4: "An interface whose DupAddrDetectTransmits variable is set to zero does
		// not perform Duplicate Address Detection." A negative dadTransmits stands for that zero.
		return
	}
	a.dad = &dad{left: int(ifc.dadTransmits)}
	if a.state == AddrDeprecated {
		a.preferred = now // endDAD makes the address AddrDeprecated again
	}
	a.state = AddrOptimistic
	if s.waitForDAD {
		a.state = AddrTentative
	}
	if ifc.begun {
		a.dad.at = s.dadBegins(now)
	}
}

// dadBegins returns the time at which the first probe for an address is sent.
func (s *Stack) dadBegins(now tcp.Time) tcp.Time {
	if s.waitForDAD {
		now += tcp.Time(s.random.next(randND) % uint64(dadFirstDelay))
	}
	return now
}

// reattach begins anew on a link that has come up, because the link may have other nodes now. It restarts
// the detection for all IPv6 addresses, the probes for tentative IPv4 addresses, the solicitation of
// routers, and the advertisements of this host as a router. No lock is held; the caller drains.
func (s *Stack) reattach(ifc *iface) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	list := slices.Clone(ifc.list())
	for i := range list {
		a := &list[i]
		switch {
		case a.addr().Is4() && a.state == AddrTentative:
			s.probe(ifc, a, now)
		case a.addr().Is4():
			a.dad = nil // no more announcements: the caller announces the address
		case a.usable() || a.state == AddrTentative:
			s.detect(ifc, a, now)
		}
	}
	allowTemporary(list, netip.Prefix{}, true)
	s.setAddrs(ifc, list)
	s.beginSoliciting(ifc, now)
	s.beginAdvertising(ifc, now)
	s.ageAddrs()
}

// stepDAD sends the next probe for an address. It reports true if all probes have been sent and the
// detection is done. While the link is down, stepDAD only stops the detection, and reattach restarts
// it. s.mu is held.
func (s *Stack) stepDAD(ifc *iface, a *ifaceAddr, now tcp.Time) (done bool) {
	d := a.dad
	if ifc.down6() {
		d.at = 0
		return false
	}
	if d.left == 0 {
		if !d.looped {
			return true
		}
		// RFC 7527 4.1: a probe has looped back. The link is probed again, because another node's probe
		// may have been lost in the loop.
		d.looped, d.left = false, dadMore
	}
	d.left--
	d.sent++
	d.at = now + ifc.retransTime()
	ns := wire.NeighborSol{Target: a.addr(), HasNonce: true}
	binary.BigEndian.PutUint32(ns.Nonce[2:], uint32(s.random.next(randND)))
	binary.BigEndian.PutUint16(ns.Nonce[:], uint16(s.random.next(randND)))
	if len(d.nonces) > max(dadMore, int(ifc.dadTransmits)) {
		d.nonces = d.nonces[1:]
	}
	d.nonces = append(d.nonces, ns.Nonce)
	// RFC 4862 5.4.2: "The IP source is set to the unspecified address, and the IP destination
	// is set to the solicited-node multicast address of the target address."
	ifc.sendND(wire.ICMPv6NeighborSol, 0, netip.IPv6Unspecified(), wire.SolicitedNode(a.addr()), nil, ns.Append(nil))
	if d.sent == 1 && a.state == AddrOptimistic {
		ifc.advertiseToRouters(a.addr(), 0)
	}
	return false
}

// endDAD returns a with the state of an address that has no duplicate.
func endDAD(a ifaceAddr, now tcp.Time) ifaceAddr {
	a.dad, a.state = nil, AddrPreferred
	if a.preferred != 0 && a.preferred <= now {
		a.state = AddrDeprecated
	}
	return a
}

// advertiseToRouters advertises a new address to the routers of a link. They then need no address
// resolution for the first packets that come back.
//
// RFC 9131 6.1.2: "a node SHOULD send up to MAX_NEIGHBOR_ADVERTISEMENT Neighbor Advertisement
// messages" when it configures a global address. "the Override flag MUST NOT be set" if the address is
// optimistic, and "SHOULD NOT" be set otherwise. "The destination address SHOULD be set to the
// all-routers multicast address."
func (ifc *iface) advertiseToRouters(a netip.Addr, flags uint32) {
	if !isLinkLocal6(a) {
		ifc.advertise(a, allRouters6(), nil, flags)
	}
}

// contest handles a received probe for an address that is in detection. The probe is either the host's
// own probe, looped back, or the probe of another node that begins to use the address. In the second
// case contest gives up the address.
//
// RFC 7527 4.2: a node that receives its own nonce "SHOULD log a system management message and
// MUST NOT consider the received NS(DAD) message as an indication" of a duplicate.
func (s *Stack) contest(p *packet, ns *wire.NeighborSol) wire.Reason {
	ifc := p.ifc
	s.mu.Lock()
	a, _ := ifc.addr(ns.Target)
	own := a.dad != nil && ns.HasNonce && slices.Contains(a.dad.nonces, ns.Nonce)
	if own {
		// If the additional probes loop back too, they do not cause further probes.
		a.dad.looped = a.dad.sent <= int(ifc.dadTransmits)
	}
	s.mu.Unlock()
	if own {
		return dropTentative
	}
	f := p.receivedFrame()
	if !s.giveUpDuplicate(ifc, ns.Target, wire.MAC{}, &f) && ifc.owns(ns.Target) {
		ifc.advertise(ns.Target, allNodes6(), nil, wire.NAOverride) // the detection has just ended
	}
	return wire.OK
}

// giveUpDuplicate gives up an address because the detection has found that another node uses it. mac is
// the link address of the other node; zero if not known. If the detection has ended, giveUpDuplicate does
// nothing and returns false. No lock is held.
//
// RFC 4862 5.4.5: "A tentative address that is determined to be a duplicate as described above MUST
// NOT be assigned to an interface, and the node SHOULD log a system management error."
func (s *Stack) giveUpDuplicate(ifc *iface, addr netip.Addr, mac wire.MAC, f *nic.Frame) bool {
	ok, last := s.markDuplicate(ifc, addr, mac)
	if !ok {
		return false
	}
	s.dropFrame(dropAddressConflict, ifc, f, false)
	s.log.Warn("address is in use by another machine, and was given up", "nic", ifc.name, "addr", addr, "mac", mac)
	if last {
		s.log.Error("too many addresses of a prefix are in use by other machines", "nic", ifc.name, "addr", addr)
	}
	s.drain()
	return true
}

// markDuplicate sets the state of an address to AddrDuplicate. ok is false if the address is not in
// detection. last reports whether the host does not try another address in the prefix of a router, because
// too many addresses were duplicates.
func (s *Stack) markDuplicate(ifc *iface, addr netip.Addr, mac wire.MAC) (ok, last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := ifc.find(addr)
	if s.closed.Load() || i < 0 || !ifc.list()[i].detecting() {
		return false, false
	}
	list := slices.Clone(ifc.list())
	list[i].state, list[i].conflictMAC, list[i].dad = AddrDuplicate, mac, nil
	list, last = s.replaceDuplicate(ifc, list, &list[i], s.now())
	s.setAddrs(ifc, list)
	s.ageAddrs()
	return true, last
}

// linkLocalOf returns the link-local address for the MAC of an Ethernet link.
//
// RFC 2464 4 and 5: the interface identifier is the EUI-64, "formed by complementing the
// 'Universal/Local' (U/L) bit", appended to FE80::/64.
func linkLocalOf(mac wire.MAC) netip.Prefix {
	a := [16]byte{0: 0xfe, 1: 0x80, 8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5]}
	return netip.PrefixFrom(netip.AddrFrom16(a), 64)
}

// withLinkLocal returns list with an IPv6 link-local address added, or list itself if it has a link-local
// address or the link cannot carry IPv6. On Ethernet the address is made from the MAC. s.mu is held, or
// the caller is New.
//
// RFC 4291 2.1: "All interfaces are required to have at least one Link-Local unicast address".
func (s *Stack) withLinkLocal(ifc *iface, list []ifaceAddr) []ifaceAddr {
	if !ifc.carries6() || slices.ContainsFunc(list, func(a ifaceAddr) bool { return isLinkLocal6(a.addr()) }) {
		return list
	}
	p := netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfe, 0x80}), 64)
	if ifc.linkLen > 0 {
		p = linkLocalOf(ifc.mac())
	} else {
		p = netip.PrefixFrom(s.stableAddr(ifc, p, 0), p.Bits()) // there is no MAC
	}
	a := ifaceAddr{prefix: p, origin: AddrLinkLocal, defence: new(defence)}
	s.detect(ifc, &a, s.now())
	return append(slices.Clip(list), a)
}

// needsLinkLocal reports whether the interface has an IPv6 link-local address even if none is
// configured. This is so on Ethernet, and on a link without MAC addresses if the interface is
// configured by routers and the device does not negotiate the address.
func (ifc *iface) needsLinkLocal() bool {
	return ifc.linkLen > 0 || ifc.auto != nil && ifc.negotiated == nil
}

// beginIPv6 begins to use IPv6 after the MTU of a link has become large enough, as Linux does: it gives the
// interface a link-local address, and then does for IPv6 what reattach does. No lock is held.
func (s *Stack) beginIPv6(ifc *iface) {
	s.mu.Lock()
	now := s.now()
	list := slices.Clone(ifc.list())
	for i := range list {
		if a := &list[i]; a.usable() || a.state == AddrTentative {
			s.detect(ifc, a, now)
		}
	}
	if ifc.needsLinkLocal() {
		list = s.withLinkLocal(ifc, list)
	}
	s.setAddrs(ifc, list)
	s.beginSoliciting(ifc, now)
	s.beginAdvertising(ifc, now)
	s.ageAddrs()
	s.mu.Unlock()
	s.drain()
}

// joinSolicited joins the solicited-node groups of the interface's addresses and leaves those of
// removed addresses. s.mu is held.
//
// RFC 4861 7.2.1: "When a multicast-capable interface becomes enabled, the node MUST join the
// all-nodes multicast address on that interface, as well as the solicited-node multicast address
// corresponding to each of the IP addresses assigned to the interface." RFC 4862 5.4.2 requires it for
// tentative addresses too.
func (ifc *iface) joinSolicited() {
	if ifc.linkLen == 0 {
		return
	}
	var want []netip.Addr
	for _, a := range ifc.list() {
		if a.addr().Is6() && a.state != AddrDuplicate {
			if g := wire.SolicitedNode(a.addr()); !slices.Contains(want, g) {
				want = append(want, g)
			}
		}
	}
	had := ifc.solicited
	ifc.solicited = want
	all := sourceFilter{exclude: true}
	var cs []groupChange
	for _, g := range want {
		if !slices.Contains(had, g) {
			cs = append(cs, groupChange{ifc: ifc, group: g, to: all})
		}
	}
	for _, g := range had {
		if !slices.Contains(want, g) {
			cs = append(cs, groupChange{ifc: ifc, group: g, from: all})
		}
	}
	if len(cs) > 0 {
		ifc.s.groups.change(cs...)
	}
}
