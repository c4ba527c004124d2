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

// A gateway is the next hop of a route whose prefix has other routes too. Its state decides which of
// the routes is used.
//
// RFC 1122 3.3.1.4: "The IP layer MUST be able to detect the failure of a 'next-hop' gateway
// that is listed in its route cache and to choose an alternate gateway"; 3.3.1.5: "If it is
// the current default that failed, the IP layer MUST select a different default gateway
// (assuming more than one default is known) for the failed route and for establishing new
// routes." The neighbour table detects the failure: a router is dead once it has answered no request
// and no acknowledgment has confirmed it. It is dead until it answers.
type gateway struct {
	dead atomic.Bool
}

// A gatewayKey identifies a gateway.
type gatewayKey struct {
	ifc  *iface
	addr netip.Addr
}

// markRouters sets the gateways of a new table's routes. A gateway keeps its state from the old table.
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

// isDead reports whether the route's router does not answer and another route can replace this one.
func (r *route) isDead() bool { return r.router != nil && r.router.dead.Load() }

// routerFails records that a neighbour does not answer. It reports whether the neighbour is the gateway
// of routes that others can replace; if so, it invalidates the cached paths.
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

// routerAnswers records that a neighbour answers, or that its failure is no longer known.
func (ifc *iface) routerAnswers(addr netip.Addr) {
	t := ifc.s.table.Load()
	if t == nil || len(t.gateways) == 0 {
		return
	}
	if r := t.gateways[gatewayKey{ifc, addr}]; r != nil && r.dead.Swap(false) {
		ifc.s.gen.Add(1)
	}
}

// pollLater schedules the next poll of a dead router. t.mu is held.
func (t *neighborTable) pollLater(n *neighbor, now tcp.Time) {
	n.retryAt = now + min(minRouterPoll<<min(n.polls, 8), maxRouterPoll)
	n.polls++
	t.queue(n)
}

// sendAnotherWay sends a datagram that waited for a router by another router on the same link, after
// the first has failed. It reports false if there is none. A router on another link is not used; the
// datagram is then lost, and its sender has to retransmit it.
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
