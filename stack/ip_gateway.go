package stack

import (
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

// How long to wait before a router that has not answered is asked again, which doubles
// from the first to the second.
const (
	minRouterPoll = tcp.Time(10 * time.Second)
	maxRouterPoll = tcp.Time(80 * time.Second)
)

// A gateway is the next hop of routes beside which there are others of the same prefix.
//
// RFC 1122 3.3.1.4: "The IP layer MUST be able to detect the failure of a 'next-hop' gateway
// that is listed in its route cache and to choose an alternate gateway"; 3.3.1.5: "If it is
// the current default that failed, the IP layer MUST select a different default gateway
// (assuming more than one default is known) for the failed route and for establishing new
// routes." What tells is the neighbour table: a router that is used, neither answers ARP nor
// is confirmed by what is acknowledged, is dead until it answers.
type gateway struct {
	dead atomic.Bool
}

// A gatewayKey names a gateway.
type gatewayKey struct {
	ifc  *iface
	addr netip.Addr
}

// markRouters finds the routers of a new table for which others can stand in. Those that
// were dead in the old one still are.
func (t *routeTable) markRouters(old *routeTable) {
	for _, rs := range t.at {
		if len(rs) < 2 {
			continue
		}
		for i := range rs {
			if rs[i].ifc.linkLen == 0 || !rs[i].via.IsValid() {
				continue
			}
			if t.gateways == nil {
				t.gateways = make(map[gatewayKey]*gateway)
			}
			k := gatewayKey{rs[i].ifc, rs[i].via}
			if t.gateways[k] == nil && old != nil {
				t.gateways[k] = old.gateways[k]
			}
			if t.gateways[k] == nil {
				t.gateways[k] = new(gateway)
			}
			rs[i].router = t.gateways[k]
		}
	}
}

// isDead reports whether the route leads to a router that does not answer, though there are
// other routes.
func (r *route) isDead() bool { return r.router != nil && r.router.dead.Load() }

// routerFails takes note that a neighbour does not answer. It reports whether it is a router
// for which others can stand in: then paths are looked for anew.
func (ifc *iface) routerFails(addr netip.Addr) bool {
	t := ifc.s.table.Load()
	if t == nil {
		return false
	}
	r := t.gateways[gatewayKey{ifc, addr}]
	if r == nil {
		return false
	}
	if !r.dead.Swap(true) {
		ifc.s.gen.Add(1)
	}
	return true
}

// routerAnswers takes note that a neighbour answers, or is not known to be silent any more.
func (ifc *iface) routerAnswers(addr netip.Addr) {
	t := ifc.s.table.Load()
	if t == nil || len(t.gateways) == 0 {
		return
	}
	if r := t.gateways[gatewayKey{ifc, addr}]; r != nil && r.dead.Swap(false) {
		ifc.s.gen.Add(1)
	}
}

// pollLater has a dead router asked for again after a while. t.mu is held.
func (t *neighborTable) pollLater(n *neighbor, now tcp.Time) {
	n.retryAt = now + min(minRouterPoll<<min(n.polls, 8), maxRouterPoll)
	n.polls++
	t.queue(n)
}

// sendAnotherWay sends a datagram that waited for a router in vain by another one on the
// same link, and reports whether it did. What would have to leave by another link is lost, and
// its sender sends it again.
func (s *Stack) sendAnotherWay(ifc *iface, d *waitingDatagram) bool {
	src, dst := wire.Ends(d.frames[0].frame.Head[ifc.linkLen:])
	p, err := s.route(dst, src)
	if err != nil || p.ifc != ifc || p.neigh == nil {
		return false
	}
	if other := s.table.Load().gateways[gatewayKey{ifc, p.hop}]; other == nil || other.dead.Load() {
		return false
	}
	for _, e := range d.frames {
		ifc.neighbors(p.hop).send(p.neigh, d.src, e)
	}
	return true
}
