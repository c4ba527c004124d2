package dropin

import (
	"cmp"
	"context"
	"net"
	"net/netip"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/resolve"
)

// A Resolver is a net.Resolver for the default Host: it queries the servers of the Host's own
// resolver over the Host. A nil Resolver is equivalent to the zero value.
type Resolver struct {
	// PreferGo has no effect: the only resolver is in Go.
	PreferGo bool

	// StrictErrors ends a lookup at the first temporary error. Otherwise the lookup returns the
	// results that it has. With StrictErrors, results are not cached.
	StrictErrors bool

	// Dial, if not nil, connects to a name server instead of the Host. address is that of one of the
	// Host's servers or, as in net, 127.0.0.1:53 if the Host has none. Dial may connect to another
	// server. With Dial, results are not cached.
	Dial func(ctx context.Context, network, address string) (Conn, error)
}

// DefaultResolver is the Resolver of the Lookup functions, the Resolve functions, Listen, and a
// Dialer without a Resolver.
var DefaultResolver = &Resolver{}

// isHosts reports whether the Resolver is equivalent to the Host's own resolver.
func (r *Resolver) isHosts() bool { return r == nil || r.Dial == nil && !r.StrictErrors }

// by returns the resolver of package resolve that does the lookups of r. If there is no default Host,
// it returns an error for name.
func (r *Resolver) by(name string) (*resolve.Resolver, error) {
	h := current.Load()
	if h == nil {
		return nil, &net.DNSError{UnwrapErr: errNoHost, Err: errNoHost.Error(), Name: name}
	}
	return r.byHost(h), nil
}

// byHost is like by, for the Host h.
func (r *Resolver) byHost(h *usernet.Host) *resolve.Resolver {
	if r.isHosts() {
		return h.Resolver()
	}
	cfg := h.Resolver().Config()
	cfg.StrictErrors = r.StrictErrors
	cfg.CacheSize = -1 // no cache
	if r.Dial == nil {
		return resolve.New(cfg)
	}
	cfg.Dial = r.Dial
	if len(cfg.Servers) == 0 {
		cfg.Servers = []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 53)}
	}
	return resolve.New(cfg)
}

// literals looks up the host name in an address and returns the address once for each IP address of
// the name, with the name replaced. If the address has no name or is malformed, literals returns the
// address unchanged, and the Host handles it.
func (r *Resolver) literals(ctx context.Context, h *usernet.Host, network, address string) ([]string, error) {
	family, host, port := "ip", address, ""
	switch network[:min(len(network), 3)] {
	case "tcp", "udp":
		var err error
		if host, port, err = net.SplitHostPort(address); err != nil {
			return []string{address}, nil
		}
		if _, err = h.LookupPort(network, port); err != nil {
			return []string{address}, nil
		}
		family += network[3:] // "4", "6" or nothing: LookupPort has checked the network
	case "ip4", "ip6":
		family = network[:3]
	default:
		if len(network) < 2 || network[:2] != "ip" {
			return []string{address}, nil
		}
	}
	if _, err := netip.ParseAddr(host); err == nil || host == "" {
		return []string{address}, nil
	}
	ips, err := r.byHost(h).LookupNetIP(ctx, family, host)
	if err != nil {
		return nil, err
	}
	var addrs []string
	for _, ip := range ips {
		addr := ip.Unmap().String()
		if network[0] != 'i' {
			addr = net.JoinHostPort(addr, port)
		}
		addrs = append(addrs, addr)
	}
	return addrs, nil
}

// literal is like literals, for calls that use only one address. It returns the first IPv4 address or,
// if there is none, the first address, as net does.
func (r *Resolver) literal(ctx context.Context, h *usernet.Host, network, address string) (string, error) {
	if r.isHosts() {
		return address, nil
	}
	addrs, err := r.literals(ctx, h, network, address)
	if err != nil {
		return "", err
	}
	for _, addr := range addrs {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			host = addr
		}
		if ip, err := netip.ParseAddr(host); err == nil && ip.Is4() {
			return addr, nil
		}
	}
	return addrs[0], nil
}

// LookupAddr returns the names of an address. See net.Resolver.
func (r *Resolver) LookupAddr(ctx context.Context, addr string) ([]string, error) {
	by, err := r.by(addr)
	if err != nil {
		return nil, err
	}
	return by.LookupAddr(ctx, addr)
}

// LookupCNAME returns the canonical name of a host. See net.Resolver.
func (r *Resolver) LookupCNAME(ctx context.Context, host string) (string, error) {
	by, err := r.by(host)
	if err != nil {
		return "", err
	}
	return by.LookupCNAME(ctx, host)
}

// LookupHost returns the addresses of a host. See net.Resolver.
func (r *Resolver) LookupHost(ctx context.Context, host string) (addrs []string, err error) {
	by, err := r.by(host)
	if err != nil {
		return nil, err
	}
	return by.LookupHost(ctx, host)
}

// LookupIP returns the addresses of a host for a network. See net.Resolver.
func (r *Resolver) LookupIP(ctx context.Context, network, host string) ([]IP, error) {
	by, err := r.by(host)
	if err != nil {
		return nil, err
	}
	return by.LookupIP(ctx, network, host)
}

// LookupIPAddr returns the addresses of a host. See net.Resolver.
func (r *Resolver) LookupIPAddr(ctx context.Context, host string) ([]IPAddr, error) {
	by, err := r.by(host)
	if err != nil {
		return nil, err
	}
	return by.LookupIPAddr(ctx, host)
}

// LookupMX returns the MX records of a domain. See net.Resolver.
func (r *Resolver) LookupMX(ctx context.Context, name string) ([]*MX, error) {
	by, err := r.by(name)
	if err != nil {
		return nil, err
	}
	return by.LookupMX(ctx, name)
}

// LookupNS returns the NS records of a domain. See net.Resolver.
func (r *Resolver) LookupNS(ctx context.Context, name string) ([]*NS, error) {
	by, err := r.by(name)
	if err != nil {
		return nil, err
	}
	return by.LookupNS(ctx, name)
}

// LookupNetIP returns the addresses of a host for a network. See net.Resolver.
func (r *Resolver) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	by, err := r.by(host)
	if err != nil {
		return nil, err
	}
	return by.LookupNetIP(ctx, network, host)
}

// LookupPort returns the port of a service. See net.Resolver.
func (r *Resolver) LookupPort(ctx context.Context, network, service string) (port int, err error) {
	by, err := r.by(network + "/" + service)
	if err != nil {
		return 0, err
	}
	return by.LookupPort(ctx, network, service)
}

// LookupSRV returns the SRV records of a service and the name that has them. See net.Resolver.
func (r *Resolver) LookupSRV(ctx context.Context, service, proto, name string) (string, []*SRV, error) {
	by, err := r.by(name)
	if err != nil {
		return "", nil, err
	}
	return by.LookupSRV(ctx, service, proto, name)
}

// LookupTXT returns the TXT records of a domain. See net.Resolver.
func (r *Resolver) LookupTXT(ctx context.Context, name string) ([]string, error) {
	by, err := r.by(name)
	if err != nil {
		return nil, err
	}
	return by.LookupTXT(ctx, name)
}

// LookupIP is net.LookupIP, with DefaultResolver.
func LookupIP(host string) ([]IP, error) {
	return DefaultResolver.LookupIP(context.Background(), "ip", host)
}

// ResolveTCPAddr is net.ResolveTCPAddr, with DefaultResolver.
func ResolveTCPAddr(network, address string) (*TCPAddr, error) {
	h, address, err := resolving(cmp.Or(network, "tcp"), address)
	if err != nil {
		return nil, err
	}
	return h.ResolveTCPAddr(network, address)
}

// ResolveUDPAddr is net.ResolveUDPAddr, with DefaultResolver.
func ResolveUDPAddr(network, address string) (*UDPAddr, error) {
	h, address, err := resolving(cmp.Or(network, "udp"), address)
	if err != nil {
		return nil, err
	}
	return h.ResolveUDPAddr(network, address)
}

// ResolveIPAddr is net.ResolveIPAddr, with DefaultResolver.
func ResolveIPAddr(network, address string) (*IPAddr, error) {
	h, address, err := resolving(cmp.Or(network, "ip"), address)
	if err != nil {
		return nil, err
	}
	return h.ResolveIPAddr(network, address)
}

// resolving returns the default Host and the address, with a host name replaced by its IP address if
// DefaultResolver has to look it up.
func resolving(network, address string) (*usernet.Host, string, error) {
	h, err := hostFor("lookup", network)
	if err != nil {
		return nil, "", err
	}
	address, err = DefaultResolver.literal(context.Background(), h, network, address)
	return h, address, err
}
