package dhcp

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// How much of a list is taken from a server.
const (
	maxServers = 8
	maxSearch  = 16
	maxRoutes  = 64
)

// fallbackLease is the time of a lease whose server says none.
const fallbackLease = time.Hour

// infinity is a time that does not end. RFC 2131 3.3: "The time value of 0xffffffff is reserved to represent
// 'infinity'."
const infinity = 1<<32 - 1

// A Lease4 is an address with what a server has told beside it.
type Lease4 struct {
	// Addr is the address with the length of its network.
	Addr netip.Prefix
	// Server is the identifier of the server, an address of it.
	Server netip.Addr
	// Routes are by the option of classless static routes, and without that option the default
	// routes by the routers (RFC 3442).
	Routes []Route4
	// DNS and NTP are servers.
	DNS, NTP []netip.Addr
	// Search are domains to search, and Domain is that of the host. HostName is the name that the
	// server has given to it. Names that a host cannot have are left out.
	Search           []string
	Domain, HostName string
	// MTU is that of the link in bytes; 0: not told, or out of range.
	MTU int
	// IPv6Only is for how long to do without IPv4; 0: not told (RFC 8925).
	IPv6Only time.Duration
	// Obtained is when the lease began. Renew (T1) and Rebind (T2) are when the client begins to ask for
	// more time, the server first and then all of them, and Expires is when the lease ends. The zero time
	// means never.
	Obtained, Renew, Rebind, Expires time.Time
	// Options are all options as they were received.
	Options Options4
}

// Why an offer or a lease is not taken.
var (
	errNoServer = errors.New("it names no server")
	errZero     = errors.New("its lease time is 0")
)

// leaseOf makes a lease of a message. obtained is when the client asked for it.
//
// RFC 2131 4.4.1: "The client records the lease expiration time as the sum of the time at which the original
// request was sent and the duration of the lease from the DHCPACK message."
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
	// RFC 2132 5.1: "The minimum legal value for the MTU is 68." Below 576, of which RFC 791 has each host
	// receive datagrams, a server would only do harm; Linux's clients ignore such values too.
	if mtu, ok := o.Uint16(OptMTU); ok && mtu >= 576 {
		l.MTU = int(mtu)
	}
	if v, ok := o.Uint32(OptIPv6Only); ok {
		// RFC 8925 3.4: MIN_V6ONLY_WAIT, "The lower boundary for V6ONLY_WAIT", is 300 seconds.
		l.IPv6Only = max(time.Duration(v)*time.Second, 300*time.Second)
	}
	return l, nil
}

// setAddr takes the address and the length of its network.
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
	// RFC 3021 2.1: a network of 31 bits has neither of the two.
	if network := l.Addr.Masked(); bits <= 30 && (a == network.Addr() || !network.Contains(a.Next())) {
		return fmt.Errorf("%v is the network or the broadcast address of its network", l.Addr)
	}
	return nil
}

// setTimes sets the times of a lease that ends.
//
// RFC 2131 4.4.5: "T1 defaults to (0.5 * duration_of_lease). T2 defaults to (0.875 * duration_of_lease)." "T1 MUST be
// earlier than T2, which, in turn, MUST be earlier than the time at which the client's lease will expire." What a
// server says otherwise is ignored.
func (l *Lease4) setTimes(d time.Duration) {
	t1, t2 := d/2, d*7/8
	if s, ok := l.Options.Uint32(OptRebindingTime); ok && s > 0 && time.Duration(s)*time.Second < d {
		t2 = time.Duration(s) * time.Second
		t1 = min(t1, t2*4/7)
	}
	if s, ok := l.Options.Uint32(OptRenewalTime); ok && s > 0 && time.Duration(s)*time.Second < t2 {
		t1 = time.Duration(s) * time.Second
	}
	l.Renew, l.Rebind, l.Expires = l.Obtained.Add(t1), l.Obtained.Add(t2), l.Obtained.Add(d)
}

// setRoutes takes the routes.
//
// RFC 3442: "If the DHCP server returns both a Classless Static Routes option and a Router option, the DHCP client
// MUST ignore the Router option."
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
