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
	// pathMTUAge is when a lowered MTU is forgotten, as RFC 1191 6.3 suggests.
	pathMTUAge = tcp.Time(10 * time.Minute)
	// minPathMTU is the least that an ICMP message can lower a path to. A path
	// below it exists hardly anywhere, but forged messages do; on one that is
	// said to be below, DF is not set.
	minPathMTU = 552
)

// A pmtuCache remembers to which destinations only smaller packets pass. A host has
// two. What ICMP tells of TCP segments that are in flight is hard to forge, and holds
// for everybody. What it tells of datagrams anybody can say who guesses a port, so it
// holds for datagrams only.
type pmtuCache struct {
	n   atomic.Int32  // entries, to be read without mu
	gen atomic.Uint32 // of what holds for datagrams only; paths of older ones are void

	s *Stack

	mu     mutex[levelTable]
	m      map[netip.Addr]pathMTU
	alarm  alarm // for the entry that is forgotten first
	closed bool
}

type pathMTU struct {
	mtu   int
	frag  bool // fragment rather than set DF
	until tcp.Time
}

// apply lowers the MTU of a path to what is known of its destination.
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

// lowerPathMTU takes note that a TCP segment to dst was too big. The caller has made
// sure that this host has sent it and that it is in flight. mtu is the next hop's, or
// 0. It never raises the MTU.
func (s *Stack) lowerPathMTU(dst netip.Addr, mtu int) { s.pmtu.lower(s, dst, mtu) }

// lowerDatagramMTU is lowerPathMTU for what no TCP segment was.
func (s *Stack) lowerDatagramMTU(dst netip.Addr, mtu int) { s.datagramMTU.lower(s, dst, mtu) }

func (c *pmtuCache) lower(s *Stack, dst netip.Addr, mtu int) {
	if isLinkLocal6(dst) {
		return // the link tells its MTU by itself, and there is no router on the way
	}
	p, err := s.route(dst, netip.Addr{})
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
		for victim := range c.m { // any: the next message brings it back
			delete(c.m, victim)
			break
		}
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

// changed makes the paths void that the cache is about. What anybody may say of datagrams costs
// TCP's paths nothing.
func (c *pmtuCache) changed(s *Stack) {
	if c == &s.datagramMTU {
		c.gen.Add(1)
	} else {
		s.gen.Add(1)
	}
}

// arm sets the alarm for the entry that is forgotten first. c.mu is held.
func (c *pmtuCache) arm(now tcp.Time) {
	if c.alarm.at != 0 || len(c.m) == 0 {
		return // an entry that comes later lasts longer
	}
	var first tcp.Time
	for _, e := range c.m {
		if first == 0 || e.until < first {
			first = e.until
		}
	}
	c.alarm.set(now, max(first, now+tcp.Second), c)
}

// fired forgets what is too old. RFC 1191 6.3: "The PMTU estimate is set to the MTU of
// the associated first hop", and "Packetization layers using this route are notified of
// the increase": their paths are void, so they look for a path before they send.
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

// close ends the cache with its stack.
func (c *pmtuCache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.alarm.close()
}

// plateau is the MTU to try next where a router does not name one, for a packet
// that had the given total length.
// RFC 1191 7.1 lists the sizes that links have; the greatest below the length
// of what did not pass is the next to try.
func plateau(total int) int {
	for _, mtu := range [...]int{32000, 17914, 8166, 4352, 2002, 1492, 1006, 508, 296} {
		if mtu < total {
			return mtu
		}
	}
	return minMTU
}
