package usernet

import (
	"context"
	"net"
	"net/netip"

	"github.com/usernet/usernet/resolve"
)

// Resolver returns the host's resolver. Its methods take a context.
func (h *Host) Resolver() *resolve.Resolver { return h.resolver }

// LookupHost returns the addresses of a host, as net.LookupHost does.
func (h *Host) LookupHost(host string) ([]string, error) {
	return h.resolver.LookupHost(context.Background(), host)
}

// LookupIP returns the addresses of a host, as net.LookupIP does.
func (h *Host) LookupIP(host string) ([]net.IP, error) {
	return h.resolver.LookupIP(context.Background(), "ip", host)
}

// LookupNetIP returns the addresses of a host, as LookupNetIP of net.Resolver does. The
// network is "ip", "ip4" or "ip6".
func (h *Host) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	return h.resolver.LookupNetIP(ctx, network, host)
}

// LookupAddr returns the names of an address, as net.LookupAddr does.
func (h *Host) LookupAddr(addr string) ([]string, error) {
	return h.resolver.LookupAddr(context.Background(), addr)
}

// LookupCNAME returns the canonical name of a host, as net.LookupCNAME does.
func (h *Host) LookupCNAME(host string) (string, error) {
	return h.resolver.LookupCNAME(context.Background(), host)
}

// LookupPort returns the port of a service, as net.LookupPort does.
func (h *Host) LookupPort(network, service string) (int, error) {
	return h.resolver.LookupPort(context.Background(), network, service)
}

// LookupSRV returns the SRV records of a service and their canonical name, as
// net.LookupSRV does.
func (h *Host) LookupSRV(service, proto, name string) (cname string, addrs []*net.SRV, err error) {
	return h.resolver.LookupSRV(context.Background(), service, proto, name)
}

// LookupMX returns the MX records of a domain, as net.LookupMX does.
func (h *Host) LookupMX(name string) ([]*net.MX, error) {
	return h.resolver.LookupMX(context.Background(), name)
}

// LookupNS returns the NS records of a domain, as net.LookupNS does.
func (h *Host) LookupNS(name string) ([]*net.NS, error) {
	return h.resolver.LookupNS(context.Background(), name)
}

// LookupTXT returns the TXT records of a domain, as net.LookupTXT does.
func (h *Host) LookupTXT(name string) ([]string, error) {
	return h.resolver.LookupTXT(context.Background(), name)
}
