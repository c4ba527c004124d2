package dhcp

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// The maximum lengths of lists from a server.
const (
	maxServers = 8
	maxSearch  = 16
	maxRoutes  = 64
)

// fallbackLease is the duration of a lease if the server gives none.
const fallbackLease = time.Hour

// infinity is the value of a duration without an end. RFC 2131 3.3: "The time value of 0xffffffff
// is reserved to represent 'infinity'."
const infinity = 1<<32 - 1

// A Lease4 is an address with the other settings from a server.
type Lease4 struct {
	// Addr is the address with its prefix length.
	Addr netip.Prefix
	// Server is the server identifier, which is one of the server's addresses.
	Server netip.Addr
	// Routes are from the option of classless static routes. Without that option they are default
	// routes through the routers (RFC 3442).
	Routes []Route4
	// DNS and NTP are the addresses of servers.
	DNS, NTP []netip.Addr
	// Search are the search domains, Domain is the host's domain, and HostName is the name that the
	// server has given to the host. Names that a host cannot have are omitted.
	Search           []string
	Domain, HostName string
	// MTU is the MTU of the link in bytes; 0 if absent or out of range.
	MTU int
	// IPv6Only is how long the host should do without IPv4; 0 if absent (RFC 8925).
	IPv6Only time.Duration
	// Obtained is when the lease began. From Renew (T1) on, the client asks its server to extend the
	// lease, and from Rebind (T2) on, it asks all servers. Expires is when the lease ends. The zero
	// time means never.
	Obtained, Renew, Rebind, Expires time.Time
	// Options are all received options.
	Options Options4
}

// The reasons to reject an offer or a lease.
var (
	errNoServer = errors.New("it names no server")
	errZero     = errors.New("its lease time is 0")
)

// leaseOf returns the lease in a message. obtained is when the client sent the request.
//
// RFC 2131 4.4.1: "The client records the lease expiration time as the sum of the time at which the
// original request was sent and the duration of the lease from the DHCPACK message."
func leaseOf(m *Message4, obtained time.Time) (*Lease4, error) {
	o := m.Options
	l := &Lease4{Obtained: obtained, Options: o}
	if l.Server = o.Addr(OptServerID); !isHost(l.Server) {
		return nil, errNoServer
	}
	if err := l.setAddr(m); err != nil {
		return nil, err
	}
	seconds, ok := o.Uint32(OptLeaseTime)
	switch {
	case !ok:
		l.setTimes(fallbackLease)
	case seconds == 0:
		return nil, errZero
	case seconds != infinity:
		l.setTimes(time.Duration(seconds) * time.Second)
	}
	l.setRoutes()
	l.DNS, l.NTP = o.Addrs(OptDNS, maxServers), o.Addrs(OptNTP, maxServers)
	l.HostName, l.Domain = o.Name(OptHostName), o.Name(OptDomainName)
	if b, ok := o.Get(OptDomainSearch); ok {
		l.Search, _ = parseSearch(b, maxSearch)
	}
	// RFC 2132 5.1: "The minimum legal value for the MTU is 68." Values below 576, the length of a
	// datagram that each host must receive (RFC 791), would only do harm. Linux's clients ignore
	// them too.
	if mtu, ok := o.Uint16(OptMTU); ok && mtu >= 576 {
		l.MTU = int(mtu)
	}
	if v, ok := o.Uint32(OptIPv6Only); ok {
		// RFC 8925 3.4: MIN_V6ONLY_WAIT, "The lower boundary for V6ONLY_WAIT", is 300 seconds.
		l.IPv6Only = max(time.Duration(v)*time.Second, 300*time.Second)
	}
	return l, nil
}

// setAddr sets the address with its prefix length.
func (l *Lease4) setAddr(m *Message4) error {
	a := m.YIAddr
	if !a.IsValid() || a.IsUnspecified() {
		return errors.New("it has no address")
	}
	if !isHost(a) {
		return fmt.Errorf("%v cannot be the address of a host", a)
	}
	bits := classBits(a)
	if mask, ok := m.Options.Uint32(OptSubnetMask); ok {
		if bits, ok = maskBits(mask); !ok || bits == 0 {
			return fmt.Errorf("the mask of %v is %#08x", a, mask)
		}
	}
	l.Addr = netip.PrefixFrom(a, bits)
	// RFC 3021 2.1: a network with a 31-bit prefix has neither a network nor a broadcast address.
	if network := l.Addr.Masked(); bits <= 30 && (a == network.Addr() || !network.Contains(a.Next())) {
		return fmt.Errorf("%v is the network or the broadcast address of its network", l.Addr)
	}
	return nil
}

// setTimes sets the times of a lease that ends.
//
// RFC 2131 4.4.5: "T1 defaults to (0.5 * duration_of_lease). T2 defaults to (0.875 *
// duration_of_lease)." "T1 MUST be earlier than T2, which, in turn, MUST be earlier than the time
// at which the client's lease will expire." If the server's values violate this, they are ignored.
func (l *Lease4) setTimes(d time.Duration) {
	t1, t2 := d/2, d/8*7 // divide first: d may be 136 years, and d*7 would overflow
	if s, ok := l.Options.Uint32(OptRebindingTime); ok && s > 0 && time.Duration(s)*time.Second < d {
		t2 = time.Duration(s) * time.Second
		t1 = min(t1, t2/7*4)
	}
	if s, ok := l.Options.Uint32(OptRenewalTime); ok && s > 0 && time.Duration(s)*time.Second < t2 {
		t1 = time.Duration(s) * time.Second
	}
	l.Renew, l.Rebind, l.Expires = l.Obtained.Add(t1), l.Obtained.Add(t2), l.Obtained.Add(d)
}

// setRoutes sets the routes.
//
// RFC 3442: "If the DHCP server returns both a Classless Static Routes option and a Router option,
// the DHCP client MUST ignore the Router option."
func (l *Lease4) setRoutes() {
	if b, ok := l.Options.Get(OptClasslessRoutes); ok {
		if routes, ok := parseRoutes(b, maxRoutes); ok {
			l.Routes = routes
			return
		}
	}
	for _, via := range l.Options.Addrs(OptRouter, maxServers) {
		if via != l.Addr.Addr() {
			l.Routes = append(l.Routes, Route4{Dst: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Via: via})
		}
	}
}
