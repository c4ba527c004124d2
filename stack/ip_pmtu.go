package stack

import (
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

const (
	maxPathMTUs = 1024
	// pathMTUAge is the lifetime of an entry, as RFC 1191 6.3 suggests.
	pathMTUAge = tcp.Time(10 * time.Minute)
	// minPathMTU is the smallest IPv4 path MTU that an ICMP message can set. Smaller MTUs are rare, but
	// forged messages report them. If a message reports a smaller MTU, the path MTU becomes minPathMTU,
	// and packets on the path do not have DF set.
	minPathMTU = 552
)

// A pmtuCache has the path MTUs that ICMP messages have lowered. A stack has two caches. Stack.pmtu has
// the MTUs from messages about TCP segments in flight, which are hard to forge. They apply to all
// packets. Stack.datagramMTU has the MTUs from messages about other datagrams. To forge these, it
// suffices to guess a port, so they apply only to datagrams that are not TCP segments.
type pmtuCache struct {
	n   atomic.Int32  // entries; read without mu
	gen atomic.Uint32 // datagramMTU only: datagram paths of an older generation are invalid

	s *Stack

	mu     mutex[levelTable]
	m      map[netip.Addr]pathMTU
	alarm  alarm // for the entry that expires first
	closed bool
}

// A pathMTU is the path MTU to a destination.
type pathMTU struct {
	mtu   int
	frag  bool     // packets are fragmented and do not have DF set
	until tcp.Time // when the entry expires
}

// apply lowers the MTU of a path to the known path MTU of its destination.
func (c *pmtuCache) apply(s *Stack, p *path) {
	if c.n.Load() == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.m[p.dst]; ok && s.now() < e.until {
		p.mtu = min(p.mtu, e.mtu)
		p.mayFrag = p.mayFrag || e.frag
	}
}

// lowerPathMTU lowers the path MTU to dst, because a TCP segment from src to dst was too large for a next
// hop with the MTU mtu. The caller has checked that the segment is in flight. lowerPathMTU never raises
// the path MTU.
func (s *Stack) lowerPathMTU(dst, src netip.Addr, mtu int) { s.pmtu.lower(s, dst, src, mtu) }

// lowerDatagramMTU is lowerPathMTU for a datagram that is not a TCP segment. The caller has found a
// socket that may have sent the datagram, or the datagram is an ICMPv6 echo reply: see echoLog.
func (s *Stack) lowerDatagramMTU(dst, src netip.Addr, mtu int) { s.datagramMTU.lower(s, dst, src, mtu) }

// lower sets the path MTU to dst to mtu, or to the smallest allowed value, if mtu is below the MTU of the
// path from src to dst. The path depends on src: see routeTable.lookup.
func (c *pmtuCache) lower(s *Stack, dst, src netip.Addr, mtu int) {
	if isLinkLocal6(dst) {
		return // there is no router on the way
	}
	p, err := s.route(dst, src)
	if err != nil || p.group || p.ifc.loopback {
		return
	}
	if c.apply(s, &p); mtu >= p.mtu {
		return
	}
	now := s.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	if c.m == nil {
		c.m = make(map[netip.Addr]pathMTU)
	}
	if _, ok := c.m[dst]; !ok && len(c.m) >= maxPathMTUs {
		// Remove the entry that expires first. If several expire at the same time, remove the one with
		// the lowest address: a run with a seed is then repeatable. If the entry is still needed, the
		// next ICMP message restores it.
		victim := netip.Addr{}
		for a, e := range c.m {
			if x := c.m[victim]; !victim.IsValid() || e.until < x.until || e.until == x.until && a.Less(victim) {
				victim = a
			}
		}
		delete(c.m, victim)
	}
	least := minPathMTU
	if p.v6 {
		// RFC 8201 4: "A node must not reduce its estimate of the Path MTU below the IPv6 minimum
		// link MTU in response to a Packet Too Big message."
		least = wire.MinIPv6MTU
	}
	c.m[dst] = pathMTU{mtu: max(mtu, min(least, p.mtu)), frag: mtu < least && !p.v6, until: now + pathMTUAge}
	c.n.Store(int32(len(c.m)))
	c.arm(now)
	c.changed(s)
}

// changed makes all cached paths invalid to which the cache applies. A change of datagramMTU leaves the paths
// of TCP valid.
func (c *pmtuCache) changed(s *Stack) {
	if c == &s.datagramMTU {
		c.gen.Add(1)
	} else {
		s.gen.Add(1)
	}
}

// arm sets the alarm for the entry that expires first, at least one second from now. c.mu is held.
func (c *pmtuCache) arm(now tcp.Time) {
	if c.alarm.at != 0 || len(c.m) == 0 {
		return // the alarm is set already, and a new entry expires later
	}
	var first tcp.Time
	for _, e := range c.m {
		if first == 0 || e.until < first {
			first = e.until
		}
	}
	c.alarm.set(now, max(first, now+tcp.Second), c)
}

// fired is called by the alarm. It removes expired entries. If it removes any, it makes the cached paths
// invalid, and the next packet of a socket gets a new path. RFC 1191 6.3: "The PMTU estimate is set to
// the MTU of the associated first hop", and "Packetization layers using this route are notified of the
// increase".
func (c *pmtuCache) fired() {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.s.now()
	c.alarm.over()
	n := len(c.m)
	for dst, e := range c.m {
		if now >= e.until {
			delete(c.m, dst)
		}
	}
	c.n.Store(int32(len(c.m)))
	if len(c.m) < n {
		c.changed(c.s)
	}
	c.arm(now)
}

// close stops the alarm. lower then adds no more entries.
func (c *pmtuCache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.alarm.close()
}

// plateau estimates the path MTU if a router reports none. total is the length of the packet that was too
// large. RFC 1191 7.1 lists the MTUs of common links; plateau returns the largest of them that is below
// total.
func plateau(total int) int {
	for _, mtu := range [...]int{32000, 17914, 8166, 4352, 2002, 1492, 1006, 508, 296} {
		if mtu < total {
			return mtu
		}
	}
	return minMTU
}
