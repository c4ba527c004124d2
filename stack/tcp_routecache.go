package stack

import (
	"net/netip"
)

// maxPaths is the maximum number of paths in a pathCache.
const maxPaths = 4096

// A pathCache holds paths that connections share. A path is immutable. After a change of routes, a
// connection looks up a new path.
type pathCache struct {
	mu rwMutex[levelTable]
	m  map[pathEnds]*path
}

// pathEnds is the key of a path. If src is invalid, the stack chooses the source. zone is the index of
// the interface, or 0 if the routes choose it.
type pathEnds struct {
	dst, src netip.Addr
	zone     int
}

// sharedRoute returns the path for a connection. Connections with the same addresses share a path: a server
// needs a path for each connection that it accepts, and a cached path is found faster. The caller must not
// modify the path.
func (s *Stack) sharedRoute(dst, src netip.Addr, zone int) (*path, error) {
	c := &s.tcp.paths
	ends := pathEnds{dst, src, zone}
	c.mu.RLock()
	p := c.m[ends]
	c.mu.RUnlock()
	if p != nil && p.valid(s) {
		return p, nil
	}
	return s.findRoute(ends)
}

// findRoute looks up a path in the routing table and adds it to the cache.
func (s *Stack) findRoute(ends pathEnds) (*path, error) {
	found, err := s.routeOver(ends.dst, ends.src, ends.zone)
	if err != nil {
		return nil, err
	}
	p := &found
	p.tsOffset = s.tsOffset(p.src, p.dst)
	if p.group {
		return p, nil // no connection uses a path to a multicast or broadcast address
	}
	c := &s.tcp.paths
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil {
		c.m = make(map[pathEnds]*path)
	}
	if _, ok := c.m[ends]; !ok && len(c.m) >= maxPaths {
		for victim := range c.m { // any entry; connections that use the path keep it
			delete(c.m, victim)
			break
		}
	}
	c.m[ends] = p
	return p, nil
}
