package stack

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"

	"github.com/usernet/usernet/nic"
)

// A negotiated is the configuration of an interface whose device has negotiated it with the other end of
// the link. Only one goroutine at a time changes it. That goroutine holds Stack.mu to write, but not to read.
// All others hold Stack.mu to read.
type negotiated struct {
	addrs  []netip.Addr // added to the interface
	routes []Route      // added to the stack
	dns    []netip.Addr
}

// configure replaces the configuration that the device has negotiated. It adds the new addresses before it
// removes the old ones. Otherwise the interface could lose the last address of a family in between, and with
// it the other routes of the family. An address that the interface has from another origin stays as it is.
func (ifc *iface) configure(c nic.NetConfig) {
	s, n := ifc.s, ifc.negotiated
	var addrs []netip.Addr
	for _, p := range c.Addrs {
		err := s.AddAddr(ifc.name, p, AddrOptions{Origin: AddrNegotiated})
		if own, ok := ifc.addr(p.Addr()); errors.Is(err, syscall.EEXIST) && ok && own.prefix == p {
			continue
		}
		if err != nil {
			ifc.warn("negotiated address cannot be used", "addr", p, err)
			continue
		}
		addrs = append(addrs, p.Addr())
	}
	for _, a := range n.addrs {
		if !slices.Contains(addrs, a) {
			s.RemoveAddrOf(ifc.name, a, AddrNegotiated) // fails if the program has removed or replaced it
		}
	}
	var routes []Route
	for _, p := range c.Routes {
		r := Route{Dst: p, NIC: ifc.name}
		err := s.AddRoute(r)
		switch {
		case err == nil, errors.Is(err, syscall.EEXIST) && slices.Contains(n.routes, r):
			routes = append(routes, r)
		case !errors.Is(err, syscall.EEXIST): // EEXIST: the program has added the route itself
			ifc.warn("negotiated route cannot be used", "to", p, err)
		}
	}
	for _, r := range n.routes {
		if !slices.Contains(routes, r) {
			s.DelRoute(r) // fails if the route went with the last address of its family
		}
	}
	s.mu.Lock()
	n.addrs, n.routes, n.dns = addrs, routes, slices.Clone(c.DNS)
	s.mu.Unlock()
	s.changes.notify()
}

// warn logs that a part of the configuration cannot be used. It logs nothing if the reason is that the stack is
// closed or the interface was removed.
func (ifc *iface) warn(text, key string, value fmt.Stringer, err error) {
	if !errors.Is(err, net.ErrClosed) && !errors.Is(err, syscall.ENODEV) {
		ifc.s.log.Warn(text, "nic", ifc.name, key, value, "err", err)
	}
}
