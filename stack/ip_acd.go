package stack

import (
	"net/netip"
	"slices"

	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

// This file has the probes of IPv4 Address Conflict Detection (RFC 5227 2.1). They find out whether
// another machine on the link uses an address before the host uses it. ip_addr.go handles conflicts of
// addresses that the host uses.

// The constants of RFC 5227 1.1.
const (
	probeWait        = tcp.Second // longest delay before the first probe
	probeNum         = 3          // number of probes
	probeMin         = tcp.Second // shortest time between two probes
	probeMax         = 2 * tcp.Second
	announceWait     = 2 * tcp.Second // time between the last probe and the first announcement
	announceNum      = 2              // number of announcements
	announceInterval = 2 * tcp.Second // time between two announcements
)

// probe starts the probes for an IPv4 address, and makes the address tentative until the probes have
// ended. probe does nothing on a link without ARP. s.mu is held, or the caller is New.
//
// RFC 5227 2.1.1: the host should "wait for a random time interval selected uniformly in the range zero
// to PROBE_WAIT seconds".
func (s *Stack) probe(ifc *iface, a *ifaceAddr, now tcp.Time) {
	if ifc.neigh4 == nil || !a.addr().Is4() {
		return
	}
	a.dad = &dad{at: now + s.between(0, probeWait), left: probeNum}
	if a.state == AddrDeprecated {
		a.preferred = now // endDAD makes the address AddrDeprecated again
	}
	a.state = AddrTentative
}

// between returns a random duration in the range [least, most).
func (s *Stack) between(least, most tcp.Time) tcp.Time {
	return least + tcp.Time(s.random.next(randACD)%uint64(most-least))
}

// stepProbe sends the next probe or announcement for an IPv4 address. With the first announcement, the
// host begins to use the address. stepProbe reports whether it has changed *a. While the link is down,
// stepProbe only stops the probes, and reattach restarts them. s.mu is held; the caller drains.
//
// RFC 5227 2.1.1: the host "should then send PROBE_NUM probe packets, each of these probe packets spaced
// randomly and uniformly, PROBE_MIN to PROBE_MAX seconds apart". RFC 5227 2.3: it "MUST then announce
// that it is commencing to use the address by broadcasting ANNOUNCE_NUM ARP Announcements, spaced
// ANNOUNCE_INTERVAL seconds apart."
func (s *Stack) stepProbe(ifc *iface, a *ifaceAddr, now tcp.Time) (changed bool) {
	d := a.dad
	if ifc.down.Load() {
		d.at = 0
		return false
	}
	if d.left > 0 {
		d.left--
		d.at = now + announceWait
		if d.left > 0 {
			d.at = now + s.between(probeMin, probeMax)
		}
		// RFC 5227 2.1.1: "The 'sender IP address' field MUST be set to all zeroes".
		ifc.sendARP(wire.ARPRequest, wire.Broadcast(), netip.IPv4Unspecified(), wire.MAC{}, a.addr())
		return false
	}
	ifc.announce(a.addr())
	d.announced++
	if d.announced < announceNum {
		*a = endDAD(*a, now)
		a.dad = d // for the other announcements
		d.at = now + announceInterval
		return true
	}
	a.dad = nil
	return true
}

// probes reports whether the host is sending probes for an IPv4 address on the interface.
func (ifc *iface) probes(addr netip.Addr) bool {
	a, ok := ifc.addr(addr)
	return ok && addr.Is4() && a.detecting()
}

// claimed returns an address for which the host is sending probes, if the received ARP packet h shows that
// another machine uses the address or also sends probes for it. Otherwise ok is false.
//
// RFC 5227 2.1.1: "If during this period [...] the host receives any ARP packet (Request *or* Reply) on
// the interface where the probe is being performed, where the packet's 'sender IP address' is the
// address being probed for, then the host MUST treat this address as being in use by some other host";
// "In addition, if during this period the host receives any ARP Probe where the packet's 'target IP
// address' is the address being probed for, and the packet's 'sender hardware address' is not the
// hardware address of any of the host's interfaces, then the host SHOULD similarly treat this as an
// address conflict".
func (ifc *iface) claimed(h *wire.ARP) (addr netip.Addr, ok bool) {
	if ifc.probes(h.SenderIP) {
		return h.SenderIP, true
	}
	if h.Op != wire.ARPRequest || !h.SenderIP.IsUnspecified() || !ifc.probes(h.TargetIP) {
		return addr, false
	}
	own := slices.ContainsFunc(*ifc.s.ifaces.Load(), func(other *iface) bool { return other.mac() == h.SenderMAC })
	return h.TargetIP, !own
}
