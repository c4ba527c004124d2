package stack

import (
	"net/netip"
)

// maxPaths bounds the paths that are kept to be shared.
const maxPaths = 4096

// A pathCache has the paths that connections share. The paths do not change: when
// routes do, connections look for another one.
type pathCache struct {
	mu rwMutex[levelTable]
	m  map[pathEnds]*path
}

// pathEnds are what is asked for: without a source, one is chosen. zone is the index of an interface;
// 0: by the routes.
type pathEnds struct {
	dst, src netip.Addr
	zone     int
}

// sharedRoute is route for a connection: many of them have the same path, and a
// server looks for one with each connection that it is asked for.
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

// findRoute is sharedRoute where there is none yet.
func (s *Stack) findRoute(ends pathEnds) (*path, error) {
	found, err := s.routeOver(ends.dst, ends.src, ends.zone)
	if err != nil {
		return nil, err
	}
	p := &found
	p.tsOffset = s.tsOffset(p.src, p.dst)
	if p.group {
		return p, nil
	}
	c := &s.tcp.paths
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil {
		c.m = make(map[pathEnds]*path)
	}
	if _, ok := c.m[ends]; !ok && len(c.m) >= maxPaths {
		for victim := range c.m { // any: whoever misses it finds it anew
			delete(c.m, victim)
			break
		}
	}
	c.m[ends] = p
	return p, nil
}
