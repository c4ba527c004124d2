package stack

import (
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

// The time between two polls of a dead router doubles from minRouterPoll to maxRouterPoll.
const (
	minRouterPoll = tcp.Time(10 * time.Second)
	maxRouterPoll = tcp.Time(80 * time.Second)
)

// A gateway is the state of a router that is the next hop of a route. A route has a gateway only if there
// are other routes to the same prefix. An IPv6 route also has one if another router has a route to a shorter
// prefix that contains the prefix of the route. The states of the gateways decide which of these routes is
// used.
//
// RFC 1122 3.3.1.4: "The IP layer MUST be able to detect the failure of a 'next-hop' gateway
// that is listed in its route cache and to choose an alternate gateway"; 3.3.1.5: "If it is
// the current default that failed, the IP layer MUST select a different default gateway
// (assuming more than one default is known) for the failed route and for establishing new
// routes."
//
// The neighbour table detects the failure. A router becomes dead after maxRequests requests without an
// answer, unless a TCP acknowledgment confirms before then that the router is reachable. A dead router
// stays dead until it answers.
type gateway struct {
	dead atomic.Bool
}

// A gatewayKey identifies a gateway.
type gatewayKey struct {
	ifc  *iface
	addr netip.Addr
}

// setGateways sets the gateways of the routes of t, which is a new table. It reuses the gateways of old,
// the table before t, so a dead router stays dead. old may be nil.
func (t *routeTable) setGateways(old *routeTable) {
	for first, end := 0, 0; first < len(t.routes); first = end {
		end = prefixEnd(t.routes, first)
		rs := t.routes[first:end]
		if len(rs) < 2 && !t.hasNextBest(&rs[0]) {
			continue
		}
		for i := range rs {
			if rs[i].ifc.linkLen == 0 || !rs[i].via.IsValid() {
				continue // no neighbour table, or no next hop
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
			rs[i].gateway = t.gateways[k]
		}
	}
}

// hasNextBest reports whether a router other than that of r has a route to a shorter prefix that contains
// the prefix of r.
//
// RFC 4191 3.2: if the router of the best route is not reachable, the host uses the next best matching
// route whose router is reachable. RFC 1122 3.3.1 has no such rule, so for IPv4 only the longest prefix counts.
func (t *routeTable) hasNextBest(r *route) bool {
	if !r.via.Is6() {
		return false
	}
	for _, bits := range t.lens6 {
		if bits >= r.dst.Bits() {
			continue
		}
		shorter, _ := r.dst.Addr().Prefix(bits)
		rs := t.to(shorter)
		for i := range rs {
			if o := &rs[i]; o.via.IsValid() && (o.via != r.via || o.ifc != r.ifc) {
				return true
			}
		}
	}
	return false
}

// isDead reports whether the route's router is dead. A route without a gateway is never dead.
func (r *route) isDead() bool { return r.gateway != nil && r.gateway.dead.Load() }

// routerFails marks a neighbour that does not answer as dead, if a gateway exists for it. It reports
// whether a gateway exists. If the router was not dead before, routerFails makes all cached paths
// invalid.
func (ifc *iface) routerFails(addr netip.Addr) bool {
	t := ifc.s.table.Load()
	if t == nil {
		return false
	}
	g := t.gateways[gatewayKey{ifc, addr}]
	if g == nil {
		return false
	}
	if !g.dead.Swap(true) {
		ifc.s.gen.Add(1)
	}
	return true
}

// routerDead reports whether a neighbour is a dead router.
func (ifc *iface) routerDead(addr netip.Addr) bool {
	t := ifc.s.table.Load()
	if t == nil {
		return false
	}
	g := t.gateways[gatewayKey{ifc, addr}]
	return g != nil && g.dead.Load()
}

// routerAnswers marks a neighbour as not dead, if a gateway exists for it. If the router was dead,
// routerAnswers makes all cached paths invalid. The neighbour table calls routerAnswers when the
// neighbour is known to be reachable, or has a permanent entry. The table also calls routerAnswers when it
// removes the neighbour's entry, because the removal ends the polls of the neighbour.
func (ifc *iface) routerAnswers(addr netip.Addr) {
	t := ifc.s.table.Load()
	if t == nil || len(t.gateways) == 0 {
		return
	}
	if g := t.gateways[gatewayKey{ifc, addr}]; g != nil && g.dead.Swap(false) {
		ifc.s.gen.Add(1)
	}
}

// pollLater schedules the next poll of the dead router n. t.mu is held.
func (t *neighborTable) pollLater(n *neighbor, now tcp.Time) {
	n.retryAt = now + min(minRouterPoll<<min(n.polls, 8), maxRouterPoll)
	n.polls++
	t.queue(n)
}

// sendByOtherHop sends a datagram by another next hop on the same link, because the neighbour for which the
// datagram waited has failed. That neighbour may be one of several routers, or the target of a redirect
// that has been removed. sendByOtherHop returns false if the routes lead to the same neighbour, to a dead
// router, or to another link. The caller then drops the datagram. Even if the routes lead to a
// router on another link, the sender has to retransmit the datagram.
func (s *Stack) sendByOtherHop(ifc *iface, d *waitingDatagram, failed netip.Addr) bool {
	src, dst := wire.Ends(d.frames[0].frame.Head[ifc.linkLen:])
	p, err := s.route(dst, src)
	if err != nil || p.ifc != ifc || p.neigh == nil || p.hop == failed || ifc.routerDead(p.hop) {
		return false
	}
	for i := range d.frames {
		ifc.neighbors(p.hop).send(p.neigh, d.src, d.tx, &d.frames[i])
	}
	return true
}
