package stack

import (
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

// This file has the router's side of Neighbour Discovery (RFC 4861 6.2): it sends Router Advertisements
// and answers Router Solicitations. It does not forward packets.

const (
	defaultAdvInterval = 600 * time.Second // RFC 4861 6.2.1, MaxRtrAdvInterval
	// RFC 4861 10.
	initialAdvInterval = 16 * tcp.Second // MAX_INITIAL_RTR_ADVERT_INTERVAL
	initialAdvs        = 3               // MAX_INITIAL_RTR_ADVERTISEMENTS
	minAdvGap          = 3 * tcp.Second  // MIN_DELAY_BETWEEN_RAS
	maxAdvDelay        = tcp.Second / 2  // MAX_RA_DELAY_TIME

	maxDomain = 254 // RFC 1035 2.3.4, with a final dot
)

// A RouterConfig is what this host advertises as an IPv6 router. The lifetimes have a resolution of
// seconds, and start when another host receives an advertisement. A negative lifetime means infinity,
// except that Lifetime must not be negative.
type RouterConfig struct {
	// Lifetime, from Interval to 65535 s, is how long other hosts may use this host as a default router. 0
	// means that they must not. Preference is this router's preference over others: -1, 0 or 1 (RFC 4191).
	Lifetime   time.Duration
	Preference int
	// Interval, from 4 to 1800 s, is the longest time between two advertisements. 0 means 600 s.
	Interval time.Duration
	// Prefixes are the link's prefixes.
	Prefixes []RouterPrefix
	// DNS are at most 8 name servers, and Search is the search list (RFC 8106). Both are valid for
	// DNSLifetime. A DNSLifetime of 0 means three times Interval.
	DNS         []netip.Addr
	Search      []string
	DNSLifetime time.Duration
	// NAT64 is the prefix of a NAT64 translator (RFC 8781), valid for DNSLifetime. An invalid prefix is
	// not advertised.
	NAT64 netip.Prefix
	// HopLimit is the hop limit that other hosts should use, and MTU is the link's MTU in bytes. A value
	// of 0 means that this router does not specify it.
	HopLimit uint8
	MTU      int
	// Managed means that DHCPv6 provides addresses. Other means that it provides other configuration.
	Managed, Other bool
}

// A RouterPrefix is a prefix of a link.
type RouterPrefix struct {
	Prefix netip.Prefix
	// Valid and Preferred are the lifetimes of the prefix. 0 means 30 days for Valid, and 7 days for
	// Preferred (RFC 4861 6.2.1).
	Valid, Preferred time.Duration
	// OffLink means that hosts reach addresses of the prefix through the router. NoAuto means that
	// hosts do not form addresses from the prefix.
	OffLink, NoAuto bool
}

// A routerAdv is the state of an interface that sends Router Advertisements. Stack.mu protects it.
type routerAdv struct {
	adv      wire.RouterAdv // without the source link-layer address option
	interval tcp.Time       // the longest time between two advertisements
	sent     int            // advertisements sent since the last call of Advertise
	last     tcp.Time       // when the last advertisement was sent; 0: none was sent
	at       tcp.Time       // when the next advertisement is due; 0: as soon as sendRouterAdv can send it
}

// Advertise makes the interface with the name nic send Router Advertisements and answer Router
// Solicitations. Another call replaces the configuration. If cfg is nil, the interface stops advertising,
// and a last advertisement tells other hosts that this host is no longer a router.
//
// If nic is empty, the stack must have exactly one interface besides the loopback. The link's MTU must be
// at least 1280. The interface gets a link-local address if it has none.
//
// The errors are ENODEV if there is no such interface, EINVAL for a configuration that cannot be
// advertised, and net.ErrClosed.
func (s *Stack) Advertise(nic string, cfg *RouterConfig) error {
	err := s.advertiseRouter(nic, cfg)
	if err != nil && err != net.ErrClosed {
		return fmt.Errorf("stack: Advertise: %w", err)
	}
	s.drain()
	return err
}

func (s *Stack) advertiseRouter(nic string, cfg *RouterConfig) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed.Load() {
		return net.ErrClosed
	}
	ifc, err := s.linkNamed(nic)
	if err != nil {
		return err
	}
	now := s.now()
	r := ifc.router
	if cfg == nil {
		s.endRouter(ifc)
		return nil
	}
	adv, err := cfg.message(ifc)
	if err != nil {
		return err
	}
	list := s.withLinkLocal(ifc, ifc.list())
	if len(list) > len(ifc.list()) {
		s.setAddrs(ifc, list)
	}
	// RFC 4861 6.2.4: after a change, a router may send "up to MAX_INITIAL_RTR_ADVERTISEMENTS" at short
	// intervals. stepRouter does so because next.sent starts at 0.
	next := &routerAdv{adv: adv, interval: tcpTime(cfg.Interval), at: now}
	if next.interval == 0 {
		next.interval = tcp.Time(defaultAdvInterval)
	}
	if r != nil {
		next.last = r.last
		next.at = max(now, r.last+minAdvGap)
	}
	s.setRouter(ifc, next)
	s.ageAddrs() // sends the first advertisement if it is due, and sets the alarm
	return nil
}

// endRouter sends the final advertisement of a router and ends that role. s.mu is held.
//
// RFC 4861 6.2.5: a router that ceases to advertise "SHOULD transmit one or more [...] final multicast Router
// Advertisements on the interface with a Router Lifetime field of zero."
func (s *Stack) endRouter(ifc *iface) {
	if r := ifc.router; r != nil {
		r.adv.Lifetime = 0
		s.sendRouterAdv(ifc, r)
		s.setRouter(ifc, nil)
	}
}

// setRouter replaces the router state of an interface. If r is nil, the interface is no longer a router.
// setRouter also joins or leaves the all-routers group, of which a router is a member (RFC 4861 6.2.2).
// s.mu is held.
func (s *Stack) setRouter(ifc *iface, r *routerAdv) {
	had := ifc.router != nil
	ifc.router = r
	ifc.isRouter.Store(r != nil)
	// all excludes no source, so this filter accepts every source. The zero sourceFilter accepts no source,
	// which means that the group is not joined.
	if all := (sourceFilter{exclude: true}); had != (r != nil) {
		c := groupChange{ifc: ifc, group: allRouters6(), to: all}
		if had {
			c.from, c.to = all, sourceFilter{}
		}
		s.groups.change(c)
	}
}

// message returns the Router Advertisement for a configuration, or EINVAL with a reason.
func (c *RouterConfig) message(ifc *iface) (adv wire.RouterAdv, err error) {
	bad := func(format string, args ...any) (wire.RouterAdv, error) {
		return adv, fmt.Errorf(format+": %w", append(args, syscall.EINVAL)...)
	}
	interval := c.Interval
	if interval == 0 {
		interval = defaultAdvInterval
	}
	switch {
	case !ifc.carries6():
		return bad("%s carries no IPv6", ifc.name)
	case c.Lifetime < 0 || c.Lifetime > math.MaxUint16*time.Second:
		return bad("a lifetime of %v is not from 0 to 65535 s", c.Lifetime)
	case c.Preference < -1 || c.Preference > 1:
		return bad("a preference of %d is none of -1, 0 and 1", c.Preference)
	case interval < 4*time.Second || interval > 1800*time.Second:
		return bad("an interval of %v is not from 4 to 1800 s", c.Interval)
	case c.Lifetime != 0 && c.Lifetime < interval:
		// RFC 4861 6.2.1, AdvDefaultLifetime: "MUST be either zero or between MaxRtrAdvInterval and 9000
		// seconds". RFC 8319 4 raises the upper limit to 65535 seconds.
		return bad("a lifetime of %v is shorter than the interval of %v", c.Lifetime, interval)
	case c.MTU != 0 && (c.MTU < wire.MinIPv6MTU || c.MTU > ifc.mtu()):
		return bad("an MTU of %d is not from %d to that of the link, %d", c.MTU, wire.MinIPv6MTU, ifc.mtu())
	}
	adv = wire.RouterAdv{
		HopLimit: c.HopLimit, Managed: c.Managed, Other: c.Other,
		Preference: wire.Preference(c.Preference), Lifetime: uint16(c.Lifetime / time.Second),
	}
	for _, p := range c.Prefixes {
		i := wire.PrefixInfo{
			Prefix: p.Prefix.Masked(), OnLink: !p.OffLink, Auto: !p.NoAuto,
			Valid: seconds(p.Valid, 30*24*time.Hour), Preferred: seconds(p.Preferred, 7*24*time.Hour),
		}
		switch {
		case !p.Prefix.IsValid():
			return bad("%s", malformed(p.Prefix))
		case !p.Prefix.Addr().Is6(), !isRoutable6(i.Prefix):
			return bad("%v is no prefix of an IPv6 network", p.Prefix)
		case i.Preferred > i.Valid:
			return bad("%v is preferred for longer than it is valid", p.Prefix)
		}
		adv.Options = i.Append(adv.Options)
	}
	if c.MTU != 0 {
		adv.Options = wire.AppendMTU(adv.Options, uint32(c.MTU))
	}
	life := seconds(c.DNSLifetime, 3*interval)
	for _, a := range c.DNS {
		if !isUnicast(a) || !a.Is6() || a.Is4In6() || a.Zone() != "" {
			return bad("%v is no address of an IPv6 name server", a)
		}
	}
	if len(c.DNS) > maxAutoDNS {
		return bad("%d name servers are more than %d", len(c.DNS), maxAutoDNS)
	}
	if len(c.DNS) > 0 {
		adv.Options = wire.AppendRDNSS(adv.Options, life, c.DNS...)
	}
	for _, name := range c.Search {
		if len(name) > maxDomain {
			return bad("a domain name of %d bytes is too long", len(name))
		}
		option := wire.AppendDNSSL(nil, life, name)
		if _, names, _ := wire.ParseDNSSL(option[2:]); !isDomain(names) {
			return bad("%q is no domain name", name)
		}
		adv.Options = append(adv.Options, option...)
	}
	if c.NAT64.IsValid() {
		if !slices.Contains([]int{32, 40, 48, 56, 64, 96}, c.NAT64.Bits()) || !c.NAT64.Addr().Is6() {
			return bad("%v is no prefix of NAT64: it has 32, 40, 48, 56, 64 or 96 bits", c.NAT64)
		}
		adv.Options = wire.AppendPREF64(adv.Options, c.NAT64, life)
	}
	// The message header has 16 bytes, and the source link-layer address option has 8.
	if n := wire.IPv6Len + 16 + len(adv.Options) + 8; n > wire.MinIPv6MTU || wire.CheckNDOptions(adv.Options) != wire.OK {
		return bad("an advertisement of %d bytes is too long", n)
	}
	return adv, nil
}

// isDomain reports whether names begins with a valid domain name. names has the format of the DNSSL
// option.
func isDomain(names []byte) bool {
	_, _, ok := wire.NextDomain(names)
	return ok
}

// seconds returns the lifetime d in seconds, as an option contains it. The parameter zero is the default:
// the lifetime that a d of 0 stands for. A negative d means infinity.
func seconds(d, zero time.Duration) uint32 {
	switch {
	case d == 0:
		d = zero
	case d < 0:
		return math.MaxUint32
	}
	return uint32(min(d/time.Second, math.MaxUint32-1)) // MaxUint32 would be infinity
}

// stepRouter sends an advertisement if one is due, and schedules the next. s.mu is held.
//
// RFC 4861 6.2.4: "the interval timer is reset to a uniformly distributed random value between the
// interface's configured MinRtrAdvInterval and MaxRtrAdvInterval". Here MinRtrAdvInterval is always a
// third of MaxRtrAdvInterval. If the advertisement cannot be sent yet, it stays due: ageAddrs calls
// stepRouter again when a link-local address becomes usable, and when the link comes up.
func (s *Stack) stepRouter(ifc *iface, now tcp.Time) {
	r := ifc.router
	if r == nil || r.at > now {
		return
	}
	if !s.sendRouterAdv(ifc, r) {
		r.at = 0
		return
	}
	r.last = now
	r.sent++
	least := r.interval / 3
	wait := least + tcp.Time(s.random.next(randND)%uint64(r.interval-least))
	if r.sent < initialAdvs {
		wait = min(wait, initialAdvInterval)
	}
	r.at = now + wait
}

// beginAdvertising schedules the first advertisement of a router after its link has come up. s.mu is held.
//
// RFC 4861 6.2.4: "For the first few advertisements (up to MAX_INITIAL_RTR_ADVERTISEMENTS) sent from an
// interface when it becomes an advertising interface", the interval is at most
// MAX_INITIAL_RTR_ADVERT_INTERVAL.
func (s *Stack) beginAdvertising(ifc *iface, now tcp.Time) {
	if r := ifc.router; r != nil {
		r.sent, r.at = 0, now
		if r.last != 0 {
			r.at = max(now, r.last+minAdvGap)
		}
	}
}

// sendRouterAdv sends the advertisement of r to all nodes, from a link-local address of the interface. If
// no such address is usable or the link is down, it sends nothing and returns false.
func (s *Stack) sendRouterAdv(ifc *iface, r *routerAdv) bool {
	if ifc.down6() {
		return false
	}
	for _, a := range ifc.list() {
		if !isLinkLocal6(a.addr()) || !a.usable() {
			continue
		}
		adv := r.adv
		if adv.Lifetime == 0 {
			// RFC 4191 2.2: "If the Router Lifetime value is zero, the preference value MUST be set to
			// (00) by the sender".
			adv.Preference = wire.PreferMedium
		}
		if ifc.includesLinkAddr(a.addr()) {
			mac := ifc.mac()
			adv.Options = wire.AppendNDOption(slices.Clip(adv.Options), wire.NDSourceLink, mac[:])
		}
		body, rest := adv.Append(nil)
		ifc.sendND(wire.ICMPv6RouterAdv, rest, a.addr(), allNodes6(), nil, body)
		return true
	}
	return false
}

// inputRouterSol schedules the answer to a Router Solicitation, if the host is a router on the
// interface (RFC 4861 6.1.1 and 6.2.6).
func (ifc *iface) inputRouterSol(p *packet, body []byte) wire.Reason {
	if !ifc.isRouter.Load() {
		return dropICMPType
	}
	s := ifc.s
	mac, hasMAC, r := wire.ParseRouterSol(body)
	switch {
	case r != wire.OK:
		return r
	case p.src.IsUnspecified():
		// RFC 4861 6.1.1: "If the IP source address is the unspecified address, there is no source
		// link-layer address option in the message."
		if hasMAC {
			return wire.BadND
		}
	case ifc.linkLen == 0: // there are no neighbour entries
	case hasMAC && !ifc.isStation(mac):
		return dropBadNDSender
	case !ifc.mayLearn(p.src):
		p.drop(dropOffLinkND)
	default:
		// RFC 4861 6.2.6: "Whether or not a Source Link-Layer Address option is provided, if a Neighbor
		// Cache entry for the solicitation's sender exists (or is created) the entry's IsRouter flag MUST
		// be set to FALSE."
		how := updateHost
		if hasMAC {
			how |= updateMAC | updateOverride | updateCreate
		}
		if ifc.nd().learn(p.src, mac, how) {
			s.forgetRouter(ifc, p.src)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := ifc.router; a != nil && !s.closed.Load() {
		// RFC 4861 6.2.6: "a router MUST delay the response by a random value between 0 and
		// MAX_RA_DELAY_TIME seconds"; consecutive advertisements to all nodes "MUST be rate limited to no
		// more than one advertisement every MIN_DELAY_BETWEEN_RAS seconds."
		now := s.now()
		at := now + tcp.Time(s.random.next(randND)%uint64(maxAdvDelay))
		if a.last != 0 {
			at = max(at, a.last+minAdvGap)
		}
		a.at = min(a.at, at)
		s.armAddrs()
	}
	return wire.OK
}
