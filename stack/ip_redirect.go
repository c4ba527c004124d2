package stack

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/usernet/usernet/stack/wire"
)

// maxRedirects is the maximum number of redirects that a host keeps.
const maxRedirects = 1024

// redirects holds the next hops that Redirect messages have set for destinations. The redirects and the
// routing table together serve as the Destination Cache of RFC 4861 5.1.
type redirects struct {
	n atomic.Int32 // number of entries; read without mu

	mu mutex[levelLink]
	m  map[redirectKey]redirect
}

// A redirect is the new next hop for a destination: hop is a router, or the destination itself. via is the
// next hop that the routing table gave when the Redirect arrived. The host uses the redirect only while the
// routing table still gives via.
type redirect struct{ hop, via netip.Addr }

type redirectKey struct {
	ifc *iface
	dst netip.Addr
}

// compare orders keys by interface and destination.
func (k redirectKey) compare(o redirectKey) int {
	return cmp.Or(cmp.Compare(k.ifc.index, o.ifc.index), k.dst.Compare(o.dst))
}

// hop returns the next hop that a Redirect has set for a destination on an interface. via is the next hop
// by the routing table. The result is invalid if there is no redirect for dst and via.
func (r *redirects) hop(ifc *iface, dst, via netip.Addr) netip.Addr {
	if r.n.Load() == 0 {
		return netip.Addr{}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.m[redirectKey{ifc, dst}]; e.via == via {
		return e.hop
	}
	return netip.Addr{}
}

// set stores a redirect to hop. via is the next hop by the routing table. If there are maxRedirects
// already, set removes one.
func (r *redirects) set(ifc *iface, dst, hop, via netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := redirectKey{ifc, dst}
	if _, ok := r.m[k]; !ok && len(r.m) >= maxRedirects {
		// Remove the lowest key and not just any key, so that runs with the same seed do the same.
		delete(r.m, slices.MinFunc(slices.Collect(maps.Keys(r.m)), redirectKey.compare))
	}
	if r.m == nil {
		r.m = make(map[redirectKey]redirect)
	}
	r.m[k] = redirect{hop, via}
	r.n.Store(int32(len(r.m)))
}

// forget removes the redirects on an interface whose next hop is hop, because hop does not answer or is
// no longer a router. If hop is invalid, forget removes all redirects on the interface. If it removes
// any, it makes all cached paths invalid.
func (r *redirects) forget(ifc *iface, hop netip.Addr) {
	if r.n.Load() == 0 {
		return
	}
	r.mu.Lock()
	n := len(r.m)
	maps.DeleteFunc(r.m, func(k redirectKey, e redirect) bool {
		return k.ifc == ifc && (!hop.IsValid() || e.hop == hop)
	})
	r.n.Store(int32(len(r.m)))
	changed := len(r.m) < n
	r.mu.Unlock()
	if changed {
		ifc.s.gen.Add(1)
	}
}

// inputRedirect handles a received Redirect: it checks the message (RFC 4861 8.1), and then stores the
// new next hop (RFC 4861 8.3).
func (ifc *iface) inputRedirect(p *packet, body []byte) wire.Reason {
	s := ifc.s
	m, r := wire.ParseRedirect(body)
	if r != wire.OK {
		return r
	}
	if s.noRedirects || m.HasLink && !ifc.isStation(m.Link) || m.Target.IsLoopback() || s.hasOn(ifc, m.Target) {
		return dropRedirect
	}
	// RFC 4861 8.1: "IP Source Address is a link-local address"; "The IP source address of the Redirect
	// is the same as the current first-hop router for the specified ICMP Destination Address."
	via, hop := ifc.firstHop(m.Dst)
	if !isLinkLocal6(p.src) || hop != p.src {
		return dropRedirect
	}
	if m.HasLink {
		// RFC 4861 8.3: "If the redirect contains a Target Link-Layer Address option, the host either
		// creates or updates the Neighbor Cache entry for the target. [...] If the Target Address is not
		// the same as the Destination Address, the host MUST set IsRouter to TRUE for the target."
		how := updateMAC | updateOverride | updateCreate
		if m.Target != m.Dst {
			how |= updateRouter
		}
		ifc.nd().learn(m.Target, m.Link, how)
	}
	s.redirects.set(ifc, m.Dst, m.Target, via)
	s.gen.Add(1)
	return wire.OK
}

// firstHop returns the first-hop router of an interface for dst. via is the router by the routing table. hop
// is the router that the host uses, which differs from via if there is a redirect. Both are invalid if no
// router of the interface leads to dst.
//
// firstHop considers only the routes over the interface, because the redirected packet was sent over the
// interface. The best route to dst may be over another interface: the source or the socket of the packet
// may have chosen this one. Among the routes over one interface the source does not matter (see lookup):
// rule 5.5 of RFC 6724 chooses the source by the next hop, and not the next hop by the source.
func (ifc *iface) firstHop(dst netip.Addr) (via, hop netip.Addr) {
	t := ifc.s.table.Load()
	if isLinkLocal6(dst) || t.isLocal(dst) {
		return via, hop
	}
	r, err := t.lookup(dst, netip.Addr{}, ifc)
	if err != nil || !r.via.IsValid() {
		return via, hop
	}
	if hop = ifc.s.redirects.hop(ifc, dst, r.via); !hop.IsValid() {
		hop = r.via
	}
	return r.via, hop
}
