package stack

import (
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

// The time between two polls of a dead router. It doubles from the minimum to the maximum.
const (
	minRouterPoll = tcp.Time(10 * time.Second)
	maxRouterPoll = tcp.Time(80 * time.Second)
)

// A gateway is a router that is the next hop of a route. Only routes to a prefix with several routes
// have one: its state decides which of them is used.
//
// RFC 1122 3.3.1.4: "The IP layer MUST be able to detect the failure of a 'next-hop' gateway
// that is listed in its route cache and to choose an alternate gateway"; 3.3.1.5: "If it is
// the current default that failed, the IP layer MUST select a different default gateway
// (assuming more than one default is known) for the failed route and for establishing new
// routes."
//
// The neighbour table detects the failure. A router is dead after maxRequests requests without an
// answer, unless a TCP acknowledgment confirms in the meantime that it is reachable. It is dead until
// it answers.
type gateway struct {
	dead atomic.Bool
}

// A gatewayKey identifies a gateway.
type gatewayKey struct {
	ifc  *iface
	addr netip.Addr
}

// setGateways sets the gateways of a new table's routes. A gateway keeps its state from the old table.
func (t *routeTable) setGateways(old *routeTable) {
	for _, rs := range t.byPrefix {
		if len(rs) < 2 {
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

// isDead reports whether the route's gateway is dead. It is false if no other route has the prefix,
// because r.gateway is then nil.
func (r *route) isDead() bool { return r.gateway != nil && r.gateway.dead.Load() }

// routerFails marks a neighbour that does not answer as dead, if it is a gateway, and reports whether it
// is one. If the gateway was not dead before, the cached paths become invalid.
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

// routerAnswers marks a neighbour as not dead, if it is a gateway. The neighbour table calls it when the
// neighbour's address becomes known, and when the entry is removed, because the table then stops
// polling the neighbour.
func (ifc *iface) routerAnswers(addr netip.Addr) {
	t := ifc.s.table.Load()
	if t == nil || len(t.gateways) == 0 {
		return
	}
	if g := t.gateways[gatewayKey{ifc, addr}]; g != nil && g.dead.Swap(false) {
		ifc.s.gen.Add(1)
	}
}

// pollLater schedules the next poll of a dead router. t.mu is held.
func (t *neighborTable) pollLater(n *neighbor, now tcp.Time) {
	n.retryAt = now + min(minRouterPoll<<min(n.polls, 8), maxRouterPoll)
	n.polls++
	t.queue(n)
}

// sendByOtherRouter sends a datagram through another router on the same link, after the router that it
// waited for has failed. It reports false if the link has no other router. It does not use a router on
// another link: the caller drops the datagram, and the sender has to retransmit it.
func (s *Stack) sendByOtherRouter(ifc *iface, d *waitingDatagram) bool {
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
