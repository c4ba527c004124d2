package stack

import (
	"net/netip"
	"slices"
	"sync/atomic"
)

// A sourceFilter is the filter of a socket, or of an interface, for the sources of a group (RFC 3376
// 3). The zero value accepts no source, which means that the group is not joined. A sourceFilter is
// immutable.
type sourceFilter struct {
	exclude bool         // mode EXCLUDE: all sources but the listed ones; else INCLUDE: only the listed ones
	sources []netip.Addr // the listed sources, in ascending order
}

// isMember reports whether the filter accepts any source, which means that the group is joined. RFC 3376
// 2: "a filter mode of INCLUDE and an empty source list" is "to leave the group".
func (f *sourceFilter) isMember() bool { return f.exclude || len(f.sources) > 0 }

// wants reports whether the filter accepts a source.
func (f *sourceFilter) wants(source netip.Addr) bool { return f.lists(source) != f.exclude }

// lists reports whether a source is in the filter's list.
func (f *sourceFilter) lists(source netip.Addr) bool {
	_, found := slices.BinarySearchFunc(f.sources, source, netip.Addr.Compare)
	return found
}

// with returns a copy of f with source added to its list.
func (f *sourceFilter) with(source netip.Addr) sourceFilter {
	i, _ := slices.BinarySearchFunc(f.sources, source, netip.Addr.Compare)
	return sourceFilter{f.exclude, slices.Insert(slices.Clone(f.sources), i, source)}
}

// without returns a copy of f with source removed from its list.
func (f *sourceFilter) without(source netip.Addr) sourceFilter {
	return sourceFilter{f.exclude, slices.DeleteFunc(slices.Clone(f.sources), func(a netip.Addr) bool { return a == source })}
}

// difference calls yield for each source that is listed by only one of f and g. The two filters have the
// same mode.
func (f *sourceFilter) difference(g *sourceFilter, yield func(netip.Addr)) {
	for _, a := range f.sources {
		if !g.lists(a) {
			yield(a)
		}
	}
	for _, a := range g.sources {
		if !f.lists(a) {
			yield(a)
		}
	}
}

// A reception combines the filters of all sockets for a group on an interface.
type reception struct {
	exclude int                       // number of filters in mode EXCLUDE
	include int                       // number of filters in mode INCLUDE that list sources
	sources map[netip.Addr]sourceUses // an entry for each listed source; nil until first needed
}

// sourceUses counts the filters of each mode that list a source.
type sourceUses struct{ exclude, include int }

// wants reports whether any of the filters accepts a source.
func (r *reception) wants(source netip.Addr) bool {
	u := r.sources[source]
	return u.include > 0 || u.exclude < r.exclude
}

// count adds f to the counts n times. It removes f if n is negative.
func (r *reception) count(f *sourceFilter, n int) {
	switch {
	case f.exclude:
		r.exclude += n
	case len(f.sources) > 0:
		r.include += n
	}
	for _, a := range f.sources {
		u := r.sources[a]
		if f.exclude {
			u.exclude += n
		} else {
			u.include += n
		}
		if u == (sourceUses{}) {
			delete(r.sources, a)
			continue
		}
		if r.sources == nil {
			r.sources = make(map[netip.Addr]sourceUses)
		}
		r.sources[a] = u
	}
}

// filter returns the filter of the interface, which accepts each source that any socket's filter
// accepts.
//
// RFC 3376 3.2: if any record "has a filter mode of EXCLUDE, then the filter mode of the
// interface record is EXCLUDE, and the source list of the interface record is the intersection
// of the source lists of all socket records in EXCLUDE mode, minus those source addresses that
// appear in any of the socket records in INCLUDE mode"; else it is INCLUDE, "and the source
// list of the interface record is the union".
func (r *reception) filter() sourceFilter {
	f := sourceFilter{exclude: r.exclude > 0}
	for a := range r.sources {
		if r.wants(a) != f.exclude {
			f.sources = append(f.sources, a)
		}
	}
	slices.SortFunc(f.sources, netip.Addr.Compare)
	return f
}

// A groupTable has the receptions of an interface by group. To change it, a caller holds the lock of the
// stack's groupEngine too. mu is the last lock in the lock order.
type groupTable struct {
	n  atomic.Int32 // joined.len(); read without mu
	mu rwMutex[levelLink]
	// A reception has counts instead of a list of filters: the cost of a change then does not depend on
	// the number of sockets.
	joined groupMap[reception]
}

// allHosts is the group to which every multicast host belongs.
// RFC 1112 4: "224.0.0.1 is assigned to the permanent group of all IP hosts".
func allHosts() netip.Addr { return netip.AddrFrom4([4]byte{224, 0, 0, 1}) }

// allNodes6 is the group to which every node of IPv6 belongs (RFC 4291 2.7.1).
func allNodes6() netip.Addr { return netip.IPv6LinkLocalAllNodes() }

// has reports whether the interface has joined a group.
func (g *groupTable) has(group netip.Addr) bool {
	joined, _ := g.wants(group, netip.Addr{})
	return joined
}

// wants reports whether the interface has joined a group, and whether any socket accepts the source. The
// groups of all nodes are always joined.
func (g *groupTable) wants(group, source netip.Addr) (joined, ok bool) {
	if group == allHosts() || group == allNodes6() {
		return true, true
	}
	if g.n.Load() == 0 {
		return false, false
	}
	g.mu.RLock()
	defer g.mu.RUnlock()
	r, joined := g.joined.get(group)
	return joined, joined && r.wants(source)
}

// list returns the joined groups in ascending order. v6 says whether the interface receives IPv6, and so
// is in the group of all IPv6 nodes.
func (g *groupTable) list(v6 bool) []netip.Addr {
	groups := []netip.Addr{allHosts()}
	if v6 {
		groups = append(groups, allNodes6())
	}
	g.mu.RLock()
	for group := range g.joined.all() {
		groups = append(groups, group)
	}
	g.mu.RUnlock()
	slices.SortFunc(groups, netip.Addr.Compare)
	return slices.Compact(groups)
}

// change replaces a socket's filter, which was from, by the filter to. It returns the interface's filters
// before and after the change. The zero filter stands for a socket that has not joined.
func (g *groupTable) change(group netip.Addr, from, to *sourceFilter) (before, after sourceFilter) {
	g.mu.Lock()
	defer g.mu.Unlock()
	r, _ := g.joined.get(group)
	before = r.filter()
	r.count(from, -1)
	r.count(to, 1)
	after = r.filter()
	if r.exclude == 0 && r.include == 0 {
		g.joined.delete(group)
	} else {
		g.joined.set(group, r)
	}
	g.n.Store(int32(g.joined.len()))
	return before, after
}
