package usernet

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"net/netip"
	"slices"

	"github.com/usernet/usernet/dhcp"
	"github.com/usernet/usernet/stack"
)

// An EventKind says what has changed.
type EventKind uint8

// The kinds of events. The comment after each kind names the fields that an Event of this kind sets.
const (
	LinkAdded    EventKind = iota // NIC
	LinkRemoved                   // NIC
	LinkUp                        // NIC
	LinkDown                      // NIC; Err if the device has failed
	AddrAdded                     // NIC, Addr
	AddrChanged                   // NIC, Addr: its state, origin, prefix or ConflictMAC has changed
	AddrRemoved                   // NIC, Addr as it was
	RouteAdded                    // NIC, Route
	RouteRemoved                  // NIC, Route
	NamesChanged                  // Servers, Search
	LeaseChanged                  // NIC, and Lease or Lease6: a lease was acquired or renewed
	LeaseEnded                    // NIC, and Lease or Lease6 as it was
)

// String returns the kind in words, for example "address added".
func (k EventKind) String() string {
	names := [...]string{
		"link added", "link removed", "link up", "link down", "address added", "address changed",
		"address removed", "route added", "route removed", "name servers changed", "lease changed", "lease ended",
	}
	if int(k) >= len(names) {
		return fmt.Sprintf("event %d", uint8(k))
	}
	return names[k]
}

// An Event is a change of a host's configuration.
type Event struct {
	Kind EventKind
	NIC  string // name of the interface

	Addr    stack.AddrInfo
	Route   Route
	Servers []netip.AddrPort // name servers that the host has learned from the network, in the order of their use
	Search  []string         // search domains that the host has learned
	Lease   *dhcp.Lease4     // must not be modified
	Lease6  *dhcp.Lease6     // must not be modified
	Err     error
}

// Router returns the router of the default route that was added or removed. The address is invalid for any other event,
// and for a default route without a router.
func (e Event) Router() netip.Addr {
	if e.Route.Dst.IsValid() && e.Route.Dst.Bits() == 0 {
		return e.Route.Via
	}
	return netip.Addr{}
}

// String describes the event in a line.
func (e Event) String() string {
	text := e.Kind.String()
	if e.NIC != "" {
		text = e.NIC + ": " + text
	}
	for _, a := range e.args() {
		if a.Key != "nic" {
			text += fmt.Sprintf(" %s=%v", a.Key, a.Value)
		}
	}
	return text
}

// args returns the fields of the event as attributes, for a log and for String.
func (e Event) args() []slog.Attr {
	var all []slog.Attr
	if e.NIC != "" {
		all = append(all, slog.String("nic", e.NIC))
	}
	switch e.Kind {
	case LinkDown:
		if e.Err != nil {
			all = append(all, slog.Any("err", e.Err))
		}
	case AddrAdded, AddrChanged, AddrRemoved:
		all = append(all, slog.Any("addr", e.Addr.Prefix), slog.Any("state", e.Addr.State), slog.Any("origin", e.Addr.Origin))
	case RouteAdded, RouteRemoved:
		all = append(all, slog.Any("to", e.Route.Dst))
		if e.Route.Via.IsValid() {
			all = append(all, slog.Any("via", e.Route.Via))
		}
	case NamesChanged:
		all = append(all, slog.Any("servers", e.Servers), slog.Any("search", e.Search))
	case LeaseChanged, LeaseEnded:
		if e.Lease != nil {
			all = append(all, slog.Any("addr", e.Lease.Addr))
		}
	}
	return all
}

// Events returns an iterator over the changes of the host's configuration after this call: changes of links, addresses,
// routes, name servers and leases. The iterator waits for the next change. It ends when ctx ends or the host
// is closed.
//
//	for e := range host.Events(ctx) {
//		if e.Kind == usernet.AddrAdded {
//			fmt.Println("new address", e.Addr.Prefix)
//		}
//	}
//
// An event is the difference between two states of the host, so a change that is undone while the body
// of the loop runs may leave no event. Events are never queued: a slow loop costs no memory.
func (h *Host) Events(ctx context.Context) iter.Seq[Event] {
	last := h.configuration()
	return func(yield func(Event) bool) {
		for {
			changed := h.Changed()
			now := h.configuration()
			for _, e := range last.events(now) {
				if !yield(e) {
					return
				}
			}
			last = now
			if errors.Is(h.Err(), net.ErrClosed) {
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}
}

// Watch returns a stack.Watcher, which collects the frames, the dropped packets or the TCP connections of the host from
// now on, as cfg asks. The caller closes it. Unlike with Events, no change goes unnoticed: what finds the buffer full is
// counted. See stack.Stack.Watch.
func (h *Host) Watch(cfg stack.WatchConfig) (*stack.Watcher, error) {
	w, err := h.stack.Watch(cfg)
	if err != nil && !errors.Is(err, net.ErrClosed) {
		err = fmt.Errorf("usernet: %w", err)
	}
	return w, err
}

// A configuration is a snapshot of a host. The events are the differences between two snapshots.
type configuration struct {
	links   []stack.InterfaceInfo
	routes  []Route
	servers []netip.AddrPort
	search  []string
	leases  []DHCPInfo
	leases6 []DHCP6Info
}

func (h *Host) configuration() *configuration {
	c := &configuration{links: h.stack.Interfaces(), routes: h.stack.Routes(), leases: h.DHCP(), leases6: h.DHCP6()}
	c.servers, c.search = h.learnedDNS()
	return c
}

// link returns the interface with an index, or nil.
func (c *configuration) link(index int) *stack.InterfaceInfo {
	for i := range c.links {
		if c.links[i].Index == index {
			return &c.links[i]
		}
	}
	return nil
}

// events returns the events that lead from c to d.
func (c *configuration) events(d *configuration) []Event {
	var all []Event
	for i := range d.links {
		to := &d.links[i]
		from := c.link(to.Index)
		if from == nil {
			all = append(all, Event{Kind: LinkAdded, NIC: to.Name})
			from = &stack.InterfaceInfo{Up: true}
		}
		switch {
		case to.Up && (!from.Up || from.Name != "" && from.LinkChanges != to.LinkChanges):
			all = append(all, Event{Kind: LinkUp, NIC: to.Name})
		case from.Up && !to.Up:
			all = append(all, Event{Kind: LinkDown, NIC: to.Name, Err: to.Err})
		}
		all = append(all, addrEvents(to.Name, from.AddrInfo, to.AddrInfo)...)
	}
	for i := range c.links {
		if from := &c.links[i]; d.link(from.Index) == nil {
			all = append(all, addrEvents(from.Name, from.AddrInfo, nil)...)
			all = append(all, Event{Kind: LinkRemoved, NIC: from.Name})
		}
	}
	for _, r := range missing(c.routes, d.routes) {
		all = append(all, Event{Kind: RouteRemoved, NIC: r.NIC, Route: r})
	}
	for _, r := range missing(d.routes, c.routes) {
		all = append(all, Event{Kind: RouteAdded, NIC: r.NIC, Route: r})
	}
	if !slices.Equal(c.servers, d.servers) || !slices.Equal(c.search, d.search) {
		all = append(all, Event{Kind: NamesChanged, Servers: d.servers, Search: d.search})
	}
	return append(all, c.leaseEvents(d)...)
}

// addrEvents returns the events that lead from one list of addresses to another.
func addrEvents(name string, from, to []stack.AddrInfo) []Event {
	var all []Event
	find := func(list []stack.AddrInfo, a netip.Addr) int {
		return slices.IndexFunc(list, func(x stack.AddrInfo) bool { return x.Prefix.Addr() == a })
	}
	for _, a := range from {
		if find(to, a.Prefix.Addr()) < 0 {
			all = append(all, Event{Kind: AddrRemoved, NIC: name, Addr: a})
		}
	}
	for _, a := range to {
		i := find(from, a.Prefix.Addr())
		switch {
		case i < 0:
			all = append(all, Event{Kind: AddrAdded, NIC: name, Addr: a})
		case from[i].State != a.State || from[i].Origin != a.Origin || from[i].Prefix != a.Prefix || from[i].ConflictMAC != a.ConflictMAC:
			all = append(all, Event{Kind: AddrChanged, NIC: name, Addr: a})
		}
	}
	return all
}

// missing returns the elements of a that are not in b.
func missing(a, b []Route) []Route {
	return slices.DeleteFunc(slices.Clone(a), func(r Route) bool { return slices.Contains(b, r) })
}

// leaseEvents returns the events of leases that lead from c to d.
func (c *configuration) leaseEvents(d *configuration) []Event {
	var all []Event
	for _, to := range d.leases {
		i := slices.IndexFunc(c.leases, func(x DHCPInfo) bool { return x.NIC == to.NIC })
		if to.Lease != nil && (i < 0 || c.leases[i].Lease != to.Lease) {
			all = append(all, Event{Kind: LeaseChanged, NIC: to.NIC, Lease: to.Lease})
		}
	}
	for _, from := range c.leases {
		i := slices.IndexFunc(d.leases, func(x DHCPInfo) bool { return x.NIC == from.NIC })
		if from.Lease != nil && (i < 0 || d.leases[i].Lease == nil) {
			all = append(all, Event{Kind: LeaseEnded, NIC: from.NIC, Lease: from.Lease})
		}
	}
	for _, to := range d.leases6 {
		i := slices.IndexFunc(c.leases6, func(x DHCP6Info) bool { return x.NIC == to.NIC })
		if to.Lease != nil && (i < 0 || c.leases6[i].Lease != to.Lease) {
			all = append(all, Event{Kind: LeaseChanged, NIC: to.NIC, Lease6: to.Lease})
		}
	}
	for _, from := range c.leases6 {
		i := slices.IndexFunc(d.leases6, func(x DHCP6Info) bool { return x.NIC == from.NIC })
		if from.Lease != nil && (i < 0 || d.leases6[i].Lease == nil) {
			all = append(all, Event{Kind: LeaseEnded, NIC: from.NIC, Lease6: from.Lease})
		}
	}
	return all
}
