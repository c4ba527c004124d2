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
	// forged messages report them. If a message reports a smaller one, DF is not set on the path.
	minPathMTU = 552
)

// A pmtuCache has the path MTUs that ICMP messages have lowered. A stack has two. Messages about TCP
// segments in flight are hard to forge: their MTUs apply to all packets. To forge a message about
// another datagram it suffices to guess a port: its MTU applies to datagrams only.
type pmtuCache struct {
	n   atomic.Int32  // entries; read without mu
	gen atomic.Uint32 // of datagramMTU: datagram paths of older generations are invalid

	s *Stack

	mu     mutex[levelTable]
	m      map[netip.Addr]pathMTU
	alarm  alarm // for the entry that expires first
	closed bool
}

type pathMTU struct {
	mtu   int
	frag  bool // fragment rather than set DF
	until tcp.Time
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

// lowerPathMTU lowers the path MTU because a TCP segment to dst was too large. The caller has checked
// that the segment is in flight. mtu is the MTU of the next hop. lowerPathMTU never raises the path
// MTU.
func (s *Stack) lowerPathMTU(dst, src netip.Addr, mtu int) { s.pmtu.lower(s, dst, src, mtu) }

// lowerDatagramMTU is lowerPathMTU for a datagram that is not a TCP segment.
func (s *Stack) lowerDatagramMTU(dst, src netip.Addr, mtu int) { s.datagramMTU.lower(s, dst, src, mtu) }

// lower lowers the MTU to dst if it is below that of the path, which depends on the source: see
// routeTable.lookup.
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
		// Any entry will do, because the next ICMP message restores it. The one with the lowest address of
		// those that expire first makes a run with a seed repeatable.
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

// changed invalidates the paths that the cache applies to. Changes of datagramMTU do not invalidate the
// paths of TCP.
func (c *pmtuCache) changed(s *Stack) {
	if c == &s.datagramMTU {
		c.gen.Add(1)
	} else {
		s.gen.Add(1)
	}
}

// arm sets the alarm for the entry that expires first. c.mu is held.
func (c *pmtuCache) arm(now tcp.Time) {
	if c.alarm.at != 0 || len(c.m) == 0 {
		return // a new entry expires later
	}
	var first tcp.Time
	for _, e := range c.m {
		if first == 0 || e.until < first {
			first = e.until
		}
	}
	c.alarm.set(now, max(first, now+tcp.Second), c)
}

// fired is called by the alarm. It removes expired entries. RFC 1191 6.3: "The PMTU estimate is set to
// the MTU of the associated first hop", and "Packetization layers using this route are notified of the
// increase": their paths become invalid, and the next packet gets a new one.
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

// close stops the alarm.
func (c *pmtuCache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.alarm.close()
}

// plateau estimates the next MTU to try if a router reports none. total is the length of the packet
// that was too large. RFC 1191 7.1 lists the MTUs of common links; plateau returns the largest below
// total.
func plateau(total int) int {
	for _, mtu := range [...]int{32000, 17914, 8166, 4352, 2002, 1492, 1006, 508, 296} {
		if mtu < total {
			return mtu
		}
	}
	return minMTU
}
