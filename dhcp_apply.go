package usernet

import (
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/usernet/usernet/dhcp"
	"github.com/usernet/usernet/stack"
)

// apply applies an event to the host.
func (d *dhcpClient) apply(e dhcp.Event4) {
	switch e.Kind {
	case dhcp.Probe:
		d.probe(e.Lease)
	case dhcp.Acquired, dhcp.Renewed:
		d.mu.Lock()
		d.info.Refusal = ""
		d.mu.Unlock()
		d.use(e.Lease)
		level, text := slog.LevelInfo, "DHCP lease acquired"
		if e.Kind == dhcp.Renewed {
			level, text = slog.LevelDebug, "DHCP lease renewed"
		}
		d.log(level, text, "addr", e.Lease.Addr, "server", e.Lease.Server, "routes", len(e.Lease.Routes), "dns", e.Lease.DNS, "expires", e.Lease.Expires)
	case dhcp.Lost:
		d.withdraw(e.Lease)
		d.log(slog.LevelInfo, "DHCP lease ended", "addr", e.Lease.Addr, "reason", e.Reason)
	case dhcp.Refused:
		d.mu.Lock()
		d.info.Refusal = e.Reason
		d.mu.Unlock()
		// Limit the log records, because any machine on the link can cause refusals.
		if now := time.Now(); d.refused.IsZero() || now.Sub(d.refused) >= dhcpRefusalTime {
			d.refused = now
			d.log(slog.LevelWarn, "DHCP", "reason", e.Reason)
		}
	}
}

// options returns the options with which the client adds the address of a lease.
func (d *dhcpClient) options(l *dhcp.Lease4) stack.AddrOptions {
	o := stack.AddrOptions{Origin: stack.AddrDHCP}
	if !l.Expires.IsZero() {
		o.Valid = max(time.Until(l.Expires), 1) // Valid 0 would mean no end
	}
	return o
}

// dhcpSettings are the settings, other than addresses, that a client has added to its host. Apart
// from addresses, the client removes only these settings. The mu of the client guards the settings.
type dhcpSettings struct {
	routes []stack.Route
	mtu    bool // the interface has the MTU of the lease
}

// probe starts to check whether the address of a lease is free.
func (d *dhcpClient) probe(l *dhcp.Lease4) {
	info := d.link()
	if info == nil {
		return // look will end the client
	}
	if a, ok := d.foreign(info, l.Addr.Addr()); ok {
		d.machine.Probed(time.Now(), a.State != stack.AddrDuplicate)
		return
	}
	if d.cfg.NoProbe {
		d.machine.Probed(time.Now(), true)
		return
	}
	o := d.options(l)
	o.Probe = true
	if err := d.addAddr(l.Addr, o); err != nil {
		// The host has the address on another link, or with another prefix length.
		d.log(slog.LevelWarn, "DHCP address cannot be used", "addr", l.Addr, "err", err)
		d.machine.Probed(time.Now(), false)
		return
	}
	d.probing = l
	if info := d.link(); info != nil {
		d.lookAtAddr(info, time.Now()) // if the address existed before, AddAddr did not start a probe
	}
}

// stopProbing removes the address that is being probed.
func (d *dhcpClient) stopProbing() {
	if l := d.probing; l != nil {
		d.probing = nil
		d.removeAddr(l.Addr.Addr())
	}
}

// lookAtAddr passes the state of the lease's address to the machine. If the program has removed the address and added it
// again, or has replaced it, lookAtAddr restores the routes of the lease.
func (d *dhcpClient) lookAtAddr(info *stack.InterfaceInfo, now time.Time) {
	l := d.machine.Lease()
	if d.probing != nil {
		l = d.probing
	}
	if l == nil {
		return
	}
	a, ok := addrOf(info, l.Addr.Addr())
	if !ok {
		a.State = stack.AddrPreferred // the program has removed the address; the client keeps the lease
	}
	switch {
	case a.State == stack.AddrTentative:
		// Still probing.
	case d.probing == nil && a.State == stack.AddrDuplicate:
		d.machine.Conflict(now)
	case d.probing == nil:
		// The client uses the lease, and no other machine is known to use the address of the lease.
		if d.compare(info, l) && ok {
			d.setRoutes(l)
		}
	case a.State == stack.AddrDuplicate:
		d.stopProbing()
		d.machine.Probed(now, false)
	default:
		d.probing = nil
		d.machine.Probed(now, true)
	}
}

// addrOf returns the entry of address a on an interface. It reports false if the interface does not have a.
func addrOf(info *stack.InterfaceInfo, a netip.Addr) (stack.AddrInfo, bool) {
	i := slices.IndexFunc(info.AddrInfo, func(x stack.AddrInfo) bool { return x.Prefix.Addr() == a })
	if i < 0 {
		return stack.AddrInfo{}, false
	}
	return info.AddrInfo[i], true
}

// foreign returns the entry of address a on an interface. It reports true if the interface has the address and the
// client has not added the address: then the program has added it. The client neither changes nor removes such an
// address, even if the address is that of a lease.
func (d *dhcpClient) foreign(info *stack.InterfaceInfo, a netip.Addr) (stack.AddrInfo, bool) {
	x, ok := addrOf(info, a)
	return x, ok && !(isClientOrigin(x.Origin) && d.hasAdded(a))
}

// isClientOrigin reports whether a client adds addresses with the origin o.
func isClientOrigin(o stack.AddrOrigin) bool { return o == stack.AddrDHCP || o == stack.AddrLinkLocal }

// leaseAddr returns the address of a lease on an interface, with the fields that change when the program
// removes, adds or replaces the address. The result is zero if the interface does not have the address.
func leaseAddr(info *stack.InterfaceInfo, l *dhcp.Lease4) stack.AddrInfo {
	a, _ := addrOf(info, l.Addr.Addr())
	return stack.AddrInfo{Prefix: a.Prefix, Origin: a.Origin, ValidUntil: a.ValidUntil}
}

// compare reports whether the program has changed the address of the lease since the last look. The stack may
// then have deleted routes that the client had added. compare removes these from d.applied.
func (d *dhcpClient) compare(info *stack.InterfaceInfo, l *dhcp.Lease4) bool {
	now := leaseAddr(info, l)
	if now == d.seen {
		return false
	}
	d.seen = now
	routes := d.h.stack.Routes()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.applied.routes = slices.DeleteFunc(d.applied.routes, func(r stack.Route) bool { return !slices.Contains(routes, r) })
	return true
}

// use adds the address of a lease, and the other settings of the lease, to the host.
func (d *dhcpClient) use(l *dhcp.Lease4) {
	info := d.link()
	if info == nil {
		return // look will end the client
	}
	d.compare(info, l)
	if _, ok := d.foreign(info, l.Addr.Addr()); !ok {
		if err := d.addAddr(l.Addr, d.options(l)); err != nil {
			d.log(slog.LevelWarn, "DHCP address cannot be used", "addr", l.Addr, "err", err)
			return
		}
	}
	if info := d.link(); info != nil {
		d.seen = leaseAddr(info, l)
	}
	d.setRoutes(l)
	d.setMTU(l.MTU)
}

// addAddr adds an address to the interface. If the runner ends during the call, addAddr removes the
// address again.
func (r *linkRunner) addAddr(p netip.Prefix, o stack.AddrOptions) error {
	a := p.Addr()
	r.mu.Lock()
	if r.ended {
		r.mu.Unlock()
		return net.ErrClosed
	}
	had := slices.Contains(r.addrs, a)
	if !had {
		r.addrs = append(r.addrs, a) // before AddAddr, so that WaitOnline ignores the address until the lease is applied
	}
	r.mu.Unlock()
	err := r.h.stack.AddAddr(r.nic, p, o)
	r.mu.Lock()
	ended := r.ended
	if err != nil && !had {
		r.addrs = slices.DeleteFunc(r.addrs, func(x netip.Addr) bool { return x == a })
	}
	r.mu.Unlock()
	if err == nil && ended {
		r.dropAddr(a)
	}
	return err
}

// hasAdded reports whether addAddr has added an address, or is adding it.
func (r *linkRunner) hasAdded(a netip.Addr) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Contains(r.addrs, a)
}

// removeAddr removes an address that addAddr has added.
func (r *linkRunner) removeAddr(a netip.Addr) {
	r.mu.Lock()
	n := len(r.addrs)
	r.addrs = slices.DeleteFunc(r.addrs, func(x netip.Addr) bool { return x == a })
	own := len(r.addrs) < n
	r.mu.Unlock()
	if own {
		r.dropAddr(a)
	}
}

// removeAddrs removes the addresses that addAddr has added, except those in keep.
func (r *linkRunner) removeAddrs(keep []netip.Addr) {
	r.mu.Lock()
	all := slices.Clone(r.addrs)
	r.mu.Unlock()
	for _, a := range all {
		if !slices.Contains(keep, a) {
			r.removeAddr(a)
		}
	}
}

// dropAddr removes an address from the interface, unless the program has removed or replaced it meanwhile.
func (r *linkRunner) dropAddr(a netip.Addr) {
	if r.h.stack.RemoveAddrOf(r.nic, a, stack.AddrDHCP) != nil {
		r.h.stack.RemoveAddrOf(r.nic, a, stack.AddrLinkLocal)
	}
}

// setRoutes replaces the client's routes by those of the lease.
func (d *dhcpClient) setRoutes(l *dhcp.Lease4) {
	want := leaseRoutes(l, d.nic)
	if d.linkLocal != nil {
		// RFC 3927 2.6.2: the host sends a packet to a link-local address "directly to its destination on the
		// same physical link", even if the source of the packet is a routable address.
		want = append(want, stack.Route{Dst: dhcp.LinkLocalNetwork4(), NIC: d.nic})
	}
	d.mu.Lock()
	var have, gone []stack.Route
	for _, r := range d.applied.routes {
		if slices.Contains(want, r) {
			have = append(have, r)
		} else {
			gone = append(gone, r)
		}
	}
	d.applied.routes = slices.Clone(have)
	d.mu.Unlock()
	for _, r := range gone {
		d.h.stack.DelRoute(r)
	}
	for _, r := range want {
		if slices.Contains(have, r) {
			continue
		}
		// EEXIST: the program has added the route itself.
		if err := d.addRoute(r); err != nil && !errors.Is(err, syscall.EEXIST) && !errors.Is(err, net.ErrClosed) {
			d.log(slog.LevelWarn, "DHCP route cannot be used", "to", r.Dst, "via", r.Via, "err", err)
		}
	}
}

// addRoute adds a route to the host. If the client ends during the call, addRoute removes the
// route again.
func (d *dhcpClient) addRoute(r stack.Route) error {
	if d.hasEnded() {
		return net.ErrClosed
	}
	if err := d.h.stack.AddRoute(r); err != nil {
		return err
	}
	d.mu.Lock()
	ended := d.ended
	if !ended {
		d.applied.routes = append(d.applied.routes, r)
	}
	d.mu.Unlock()
	if ended {
		d.h.stack.DelRoute(r)
	}
	return nil
}

// setMTU sets the IPv4 MTU of the interface. If mtu is 0, the lease has no MTU; setMTU then restores the MTU of the link
// if the client has changed it.
func (d *dhcpClient) setMTU(mtu int) {
	d.mu.Lock()
	ignore := d.ended || mtu == 0 && !d.applied.mtu
	if !ignore {
		d.applied.mtu = mtu != 0
	}
	d.mu.Unlock()
	if ignore {
		return
	}
	if err := d.h.stack.SetIPv4MTU(d.nic, mtu); err != nil {
		d.log(slog.LevelWarn, "DHCP MTU cannot be used", "mtu", mtu, "err", err)
	}
	if mtu != 0 && d.hasEnded() { // withdrawAll may have run before this call set the MTU
		d.h.stack.SetIPv4MTU(d.nic, 0)
	}
}

// leaseRoutes returns the routes of a lease, on-link routes first. If no network of the link
// contains a router, leaseRoutes adds a host route to the router: some clouds assign addresses with
// a 32-bit prefix.
func leaseRoutes(l *dhcp.Lease4, nic string) (routes []stack.Route) {
	var later []stack.Route
	for _, r := range l.Routes {
		route := stack.Route{Dst: r.Dst, Via: r.Via, NIC: nic}
		if r.Via.IsValid() {
			later = append(later, route)
		} else {
			routes = append(routes, route)
		}
	}
	for _, r := range later {
		onLink := l.Addr.Contains(r.Via) || slices.ContainsFunc(routes, func(x stack.Route) bool { return !x.Via.IsValid() && x.Dst.Contains(r.Via) })
		if !onLink {
			routes = append(routes, stack.Route{Dst: netip.PrefixFrom(r.Via, 32), NIC: nic})
		}
		routes = append(routes, r)
	}
	return routes
}

// withdraw removes the address of a lease and the other settings.
func (d *dhcpClient) withdraw(l *dhcp.Lease4) {
	d.mu.Lock()
	routes := d.applied.routes
	d.applied.routes = nil
	d.mu.Unlock()
	for _, r := range routes {
		d.h.stack.DelRoute(r)
	}
	d.setMTU(0)
	d.removeAddr(l.Addr.Addr())
}

// withdrawAll removes all settings of a client that has ended.
func (d *dhcpClient) withdrawAll() {
	d.mu.Lock()
	all := d.applied
	d.applied = dhcpSettings{}
	d.mu.Unlock()
	for _, r := range all.routes {
		d.h.stack.DelRoute(r)
	}
	if all.mtu {
		d.h.stack.SetIPv4MTU(d.nic, 0)
	}
	d.removeAddrs(nil)
}
