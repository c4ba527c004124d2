package usernet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/usernet/usernet/dhcp"
	"github.com/usernet/usernet/stack"
)

// WaitOnline waits until the host has an address that is reachable from beyond its link. The
// address is neither a loopback nor a link-local one, its link is up, and its Duplicate Address
// Detection or probing has finished or is optimistic. With DHCP and Auto, the first address of
// either suffices. If there is such an address, WaitOnline returns at once.
//
// If ctx ends first, the error says what each link lacks, and wraps ctx's error. If the host is
// closed, the error is net.ErrClosed.
func (h *Host) WaitOnline(ctx context.Context) error {
	for {
		changed := h.Changed()
		if errors.Is(h.Err(), net.ErrClosed) {
			return net.ErrClosed
		}
		infos, leases := h.stack.Interfaces()[1:], h.leases()
		for i := range infos {
			if isOnline(&infos[i], leases) {
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

// leases returns the addresses of the host's DHCP leases.
func (h *Host) leases() map[netip.Addr]bool {
	leases := make(map[netip.Addr]bool)
	for _, d := range h.DHCP() {
		if d.Lease != nil {
			leases[d.Lease.Addr.Addr()] = true
		}
	}
	return leases
}

// isOnline reports whether an interface has an address that is reachable from beyond the link. leases
// are the addresses whose DHCP lease the host has applied completely.
func isOnline(info *stack.InterfaceInfo, leases map[netip.Addr]bool) bool {
	if !info.Up {
		return false
	}
	for _, a := range info.AddrInfo {
		p := a.Prefix.Addr()
		switch {
		case p.IsLinkLocalUnicast(), a.State == stack.AddrTentative, a.State == stack.AddrDuplicate:
			// Not reachable from beyond the link, or not in use.
		case a.Origin == stack.AddrDHCP && !leases[p] && p.Is4():
			// The host has not yet applied the lease's routes and name servers.
		default:
			return true
		}
	}
	return false
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
