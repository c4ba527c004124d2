package usernet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/usernet/usernet/dhcp"
	"github.com/usernet/usernet/stack"
)

// WaitOnline waits until the host can communicate beyond itself: until a link is up, and has both an
// address and a route for the family of the address.
//
// The address is neither a loopback nor a link-local one. Its Duplicate Address Detection or probing has
// finished, or is optimistic. It may come from Config, AddAddr, DHCP or an IPv6 router; the first such
// address suffices. The route is any over the link, other than one to link-local addresses or to the
// address itself: the default route, or the route to the network of the address. If the host's own DHCP
// client has added the address, WaitOnline also waits for the other settings of the lease, among them the
// default route and the name servers. A program that adds an address with AddAddr and then routes with
// AddRoute has to wait for its own routes itself.
//
// If the host is online, WaitOnline returns at once. If ctx ends first, the error says what each link
// lacks, and wraps ctx's error. If the host is closed, the error is net.ErrClosed.
func (h *Host) WaitOnline(ctx context.Context) error {
	for {
		changed := h.Changed()
		if errors.Is(h.Err(), net.ErrClosed) {
			return net.ErrClosed
		}
		// Read the interfaces before the DHCP clients. A client records an address before it adds the
		// address to the interface, so unready misses no address in infos.
		infos, routes := h.stack.Interfaces()[1:], h.stack.Routes()
		unready := h.unready()
		for i := range infos {
			if isOnline(&infos[i], routes, unready) {
				return nil
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("usernet: not online: %s: %w", h.whyOffline(infos), ctx.Err())
		}
	}
}

// isOnline reports whether an interface has an address and a route, as WaitOnline describes them. unready
// are the addresses of leases whose other settings the host has not applied yet.
func isOnline(info *stack.InterfaceInfo, routes []stack.Route, unready []netip.Addr) bool {
	return info.Up && slices.ContainsFunc(info.AddrInfo, func(a stack.AddrInfo) bool {
		return isGlobal(a) && !slices.Contains(unready, a.Prefix.Addr()) && hasRoute(info.Name, a.Prefix.Addr(), routes)
	})
}

// isGlobal reports whether an address is in use and valid beyond its link.
func isGlobal(a stack.AddrInfo) bool {
	return !a.Prefix.Addr().IsLinkLocalUnicast() && a.State != stack.AddrTentative && a.State != stack.AddrDuplicate
}

// hasRoute reports whether an interface has a route of a's family whose destination is neither a alone nor
// link-local addresses.
func hasRoute(name string, a netip.Addr, routes []stack.Route) bool {
	return slices.ContainsFunc(routes, func(r stack.Route) bool {
		self := r.Dst.IsSingleIP() && r.Dst.Addr() == a
		return r.NIC == name && r.Dst.Addr().Is4() == a.Is4() && !self && !r.Dst.Addr().IsLinkLocalUnicast()
	})
}

// whyOffline formats what the links lack, for people.
func (h *Host) whyOffline(infos []stack.InterfaceInfo) string {
	if len(infos) == 0 {
		return "there is no link"
	}
	clients := make(map[string]DHCPInfo)
	for _, d := range h.DHCP() {
		clients[d.NIC] = d
	}
	var all []string
	for i := range infos {
		info := &infos[i]
		d, ok := clients[info.Name]
		all = append(all, info.Name+": "+lack(info, d, ok))
	}
	return strings.Join(all, "; ")
}

// lack says what a link lacks. d describes the link's DHCP client if ok is set.
func lack(info *stack.InterfaceInfo, d DHCPInfo, ok bool) string {
	if !info.Up {
		return "the link is down"
	}
	for _, a := range info.AddrInfo {
		switch {
		case a.State == stack.AddrTentative:
			return fmt.Sprintf("it is not known yet whether %v is free", a.Prefix.Addr())
		case a.State == stack.AddrDuplicate:
			return fmt.Sprintf("%v is in use by %v", a.Prefix.Addr(), a.ConflictMAC)
		}
	}
	if i := slices.IndexFunc(info.AddrInfo, isGlobal); i >= 0 {
		return fmt.Sprintf("it has the address %v, and no route", info.AddrInfo[i].Prefix.Addr())
	}
	switch {
	case ok && d.Refusal != "":
		return "DHCP: " + d.Refusal
	case ok && d.State == dhcp.IPv6Only:
		return "DHCP: the network asks to do without IPv4, and there is no address of IPv6"
	case ok && info.Auto != nil:
		return fmt.Sprintf("nobody has answered %d messages of DHCP, and no router of IPv6 has said a prefix: is the link connected to the right network?", d.Tries)
	case ok:
		return fmt.Sprintf("nobody has answered %d messages of DHCP: is there a server on the link?", d.Tries)
	case info.Auto != nil:
		return "no router of IPv6 has said a prefix: is there one on the link?"
	}
	return "it has no address, and neither DHCP nor Auto to get one"
}
