package usernet

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/usernet/usernet/mdns"
	"github.com/usernet/usernet/resolve"
)

// An MDNSInstance is an instance of a service that another machine has published.
type MDNSInstance struct {
	Name string // in presentation form, see mdns.Record
	// Host is the name of the machine, for example "printer.local.", and Addrs are its addresses. A
	// link-local IPv6 address has the zone of the interface.
	Host  string
	Addrs []netip.Addr
	Port  uint16
	TXT   []string
}

// start starts queries and returns an mdnsWait for them. If the error is nil, the caller must pass the mdnsWait to
// finish when it no longer needs the queries.
func (l *mdnsLink) start(name string, prompt bool, types ...mdns.Type) (*mdnsWait, error) {
	w := &mdnsWait{ready: make(chan struct{}, 1)}
	err := error(net.ErrClosed)
	l.do(func(now time.Time) {
		err = nil
		for _, typ := range types {
			var q *mdns.Query
			if q, err = l.node.Query(now, name, typ, prompt); err != nil {
				return
			}
			w.queries = append(w.queries, q)
		}
		l.waits = append(l.waits, w)
	})
	return w, err
}

// finish ends the queries of w.
func (l *mdnsLink) finish(w *mdnsWait) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, q := range w.queries {
		q.End()
	}
	l.waits = slices.DeleteFunc(l.waits, func(x *mdnsWait) bool { return x == w })
}

// take returns the events of w. It sets answered[i] if query i has been answered or denied. It reports false if the
// link has ended.
func (l *mdnsLink) take(w *mdnsWait, answered []bool) (events []mdns.Event, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, q := range w.queries {
		more := q.Events()
		answered[i] = answered[i] || len(more) > 0 || q.Denied()
		events = append(events, more...)
	}
	return events, !l.ended
}

// lookup asks for records of some types. It returns when all types are answered or denied, or when no further answer
// has come within the duration more after the last answer. Without any answer it returns after mdnsTimeout, and the
// result is empty.
func (l *mdnsLink) lookup(ctx context.Context, name string, more time.Duration, types ...mdns.Type) ([]mdns.Record, error) {
	w, err := l.start(name, true, types...)
	if err != nil {
		return nil, err
	}
	defer l.finish(w)
	var records []mdns.Record
	answered := make([]bool, len(types))
	timer := time.NewTimer(mdnsTimeout)
	defer timer.Stop()
	for {
		events, ok := l.take(w, answered)
		if !ok {
			return nil, net.ErrClosed
		}
		for _, e := range events {
			if e.Added {
				records = append(records, e.Record)
			}
		}
		if !slices.Contains(answered, false) {
			return records, nil
		}
		if len(events) > 0 {
			timer.Reset(more)
		}
		select {
		case <-w.ready:
		case <-timer.C:
			return records, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// mdnsLookup returns the addresses of a name below "local.". It is the resolver's Multicast function. network is
// "ip", "ip4" or "ip6". Without an answer the result is empty. used is false if Multicast DNS is off.
func (h *Host) mdnsLookup(ctx context.Context, network, name string) (addrs []netip.Addr, used bool, err error) {
	types := []mdns.Type{mdns.A, mdns.AAAA}
	switch network {
	case "ip4":
		types = types[:1]
	case "ip6":
		types = types[1:]
	}
	links := h.mdns.Load().list()
	addrs, err = mdnsLookupAll(ctx, links, name, types, (*mdnsLink).addrsOf)
	return addrs, len(links) > 0, err
}

// mdnsRecords is the resolver's MulticastRecords function. It asks on all interfaces if zone is empty, and otherwise
// only on the interface with this name or index.
func (h *Host) mdnsRecords(ctx context.Context, zone, name string, types ...uint16) (records []resolve.MulticastRecord, used bool, err error) {
	links := slices.DeleteFunc(h.mdns.Load().list(), func(l *mdnsLink) bool {
		return zone != "" && zone != l.nic && zone != strconv.Itoa(l.index)
	})
	wanted := make([]mdns.Type, len(types))
	for i, typ := range types {
		wanted[i] = mdns.Type(typ)
	}
	records, err = mdnsLookupAll(ctx, links, name, wanted, func(_ *mdnsLink, found []mdns.Record) (all []resolve.MulticastRecord) {
		for _, r := range found {
			all = append(all, resolve.MulticastRecord{
				Type: uint16(r.Type), Addr: r.Addr, Target: r.Target, Port: r.Port, Priority: r.Priority, Weight: r.Weight, TXT: r.TXT,
			})
		}
		return all
	})
	// Two links may lead to the same network, and then return the same answers.
	var distinct []resolve.MulticastRecord
	for _, r := range records {
		if !slices.ContainsFunc(distinct, func(x resolve.MulticastRecord) bool { return reflect.DeepEqual(x, r) }) {
			distinct = append(distinct, r)
		}
	}
	return distinct, len(links) > 0, err
}

// mdnsLookupAll looks up a name on several links at the same time. When the first link has an answer, the lookups on
// the other links end after mdnsMoreTime at the latest. convert converts the records of a link. mdnsLookupAll returns
// an error only if no link has an answer.
func mdnsLookupAll[T any](ctx context.Context, links []*mdnsLink, name string, types []mdns.Type, convert func(*mdnsLink, []mdns.Record) []T) (all []T, err error) {
	type result struct {
		found []T
		err   error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan result)
	for _, l := range links {
		go func() {
			records, err := l.lookup(ctx, name, mdnsMoreTime, types...)
			results <- result{convert(l, records), err}
		}()
	}
	for range links {
		r := <-results
		if len(all) == 0 && len(r.found) > 0 {
			defer time.AfterFunc(mdnsMoreTime, cancel).Stop()
		}
		all = append(all, r.found...)
		if r.err != nil {
			err = r.err
		}
	}
	if len(all) > 0 {
		err = nil
	}
	return all, err
}

// addrsOf returns the addresses in records. Link-local IPv6 addresses get the zone of the interface.
func (l *mdnsLink) addrsOf(records []mdns.Record) (addrs []netip.Addr) {
	for _, r := range records {
		if !r.Addr.IsValid() {
			continue
		}
		if r.Addr.Is6() && r.Addr.IsLinkLocalUnicast() {
			r.Addr = r.Addr.WithZone(l.nic)
		}
		addrs = append(addrs, r.Addr)
	}
	return addrs
}

// lookupDial looks up the host of a dial. LookupNetIP drops zones, as in package net. The link-local addresses of
// machines on the link need zones, so lookupDial calls LookupIPAddr for a name of Multicast DNS.
func (h *Host) lookupDial(ctx context.Context, network, host string) ([]netip.Addr, error) {
	if h.mdns.Load() == nil || !isLocalName(host) {
		return h.resolver.LookupNetIP(ctx, network, host)
	}
	all, err := h.resolver.LookupIPAddr(ctx, host)
	if err != nil {
		return nil, err
	}
	addrs := make([]netip.Addr, 0, len(all))
	for _, a := range all {
		ip, _ := netip.AddrFromSlice(a.IP)
		if is4 := ip.Unmap().Is4(); network == "ip" || is4 == (network == "ip4") {
			addrs = append(addrs, ip.WithZone(a.Zone))
		}
	}
	if len(addrs) == 0 {
		return nil, &net.AddrError{Err: noSuitableAddress, Addr: host}
	}
	return addrs, nil
}

// Browse finds the instances of a service type such as "_http._tcp" on all interfaces with Multicast DNS (RFC
// 6763 section 4). It calls f for each instance that appears or disappears, in the goroutine of the caller,
// until ctx ends. The Target of the event's record is the name for LookupInstance. The error is ctx.Err(), or
// net.ErrClosed if one of the interfaces has been removed. If no interface has Multicast DNS, the error wraps ENODEV. A
// malformed type is an error too.
func (h *Host) Browse(ctx context.Context, service string, f func(mdns.Event)) error {
	links := h.mdns.Load().list()
	if len(links) == 0 {
		return fmt.Errorf("usernet: Browse: mDNS is off: %w", syscall.ENODEV)
	}
	shared := make(chan struct{}, 1)
	waits := make([]*mdnsWait, 0, len(links))
	for _, l := range links {
		w := &mdnsWait{ready: shared}
		err := error(net.ErrClosed)
		l.do(func(now time.Time) {
			var q *mdns.Query
			if q, err = l.node.Query(now, service+".local.", mdns.PTR, false); err == nil {
				w.queries = append(w.queries, q)
				l.waits = append(l.waits, w)
			}
		})
		if err == net.ErrClosed {
			return err
		}
		if err != nil {
			return fmt.Errorf("usernet: Browse: %w", err)
		}
		defer l.finish(w)
		waits = append(waits, w)
	}
	answered := make([]bool, 1)
	for {
		for i, w := range waits {
			events, ok := links[i].take(w, answered)
			if !ok {
				return net.ErrClosed
			}
			for _, e := range events {
				f(e)
			}
		}
		select {
		case <-shared:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// LookupInstance returns the machine, the port and the other data of an instance that Browse has found.
// LookupInstance asks on one interface after the other, and waits four seconds for a first answer on each. If no
// machine answers, the error is a *net.DNSError whose IsNotFound is set, or net.ErrClosed if an interface was removed
// meanwhile.
func (h *Host) LookupInstance(ctx context.Context, name string) (*MDNSInstance, error) {
	var closed error // of an interface that was removed meanwhile
	for _, l := range h.mdns.Load().list() {
		// RFC 6763 6: every service has a TXT record. If the TXT record is lost, the Node asks for it again
		// after a second.
		records, err := l.lookup(ctx, name, mdnsLostTime, mdns.SRV, mdns.TXT)
		if err == net.ErrClosed {
			closed = err
			continue
		}
		if err != nil {
			return nil, err
		}
		in := &MDNSInstance{Name: name}
		for _, r := range records {
			switch r.Type {
			case mdns.SRV:
				in.Host, in.Port = r.Target, r.Port
			case mdns.TXT:
				in.TXT = r.TXT
			}
		}
		if in.Host == "" {
			continue
		}
		if records, err = l.lookup(ctx, in.Host, mdnsMoreTime, mdns.A, mdns.AAAA); err != nil {
			return nil, err
		}
		in.Addrs = l.addrsOf(records)
		return in, nil
	}
	if closed != nil {
		return nil, closed
	}
	return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
}
