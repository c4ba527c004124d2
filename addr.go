package usernet

import (
	"context"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"

	"github.com/usernet/usernet/stack"
)

// A lookupFunc looks up the addresses of a name for a dial. It is the LookupNetIP of the host's own
// resolver or of a Dialer.
type lookupFunc func(ctx context.Context, network, host string) ([]netip.Addr, error)

// ipProtocols maps the protocol names in "ip4:name" to their numbers, from IANA's registry. The
// names are in lower case. The map is never modified.
var ipProtocols = map[string]int{
	"ip": 0, "icmp": 1, "igmp": 2, "ipencap": 4, "tcp": 6, "egp": 8, "igp": 9, "udp": 17, "dccp": 33,
	"ipv6": 41, "rsvp": 46, "gre": 47, "esp": 50, "ah": 51, "ipv6-icmp": 58, "icmp6": 58, "ospf": 89,
	"ipip": 94, "pim": 103, "vrrp": 112, "l2tp": 115, "sctp": 132, "udplite": 136,
}

// parseNetwork splits a network such as "ip4:icmp" into "ip4" and the number of the protocol. With
// needProto, an "ip" network without a protocol is an error.
func parseNetwork(network string, needProto bool) (name string, proto int, err error) {
	name, protocol, hasProto := network, "", false
	if i := strings.LastIndexByte(network, ':'); i >= 0 {
		name, protocol, hasProto = network[:i], network[i+1:], true
	}
	switch name {
	case "tcp", "tcp4", "tcp6", "udp", "udp4", "udp6":
		if !hasProto {
			return name, 0, nil
		}
	case "ip", "ip4", "ip6":
		if hasProto {
			proto, err = parseProtocol(protocol)
			return name, proto, err
		}
		if !needProto {
			return name, 0, nil
		}
	}
	return "", 0, net.UnknownNetworkError(network)
}

// tooLarge is the smallest number that net's parser rejects.
const tooLarge = 0xffffff

// parseProtocol returns the protocol with the number or the name s. As in net, it accepts numbers
// that are too large for a protocol; they fail when the socket is opened.
func parseProtocol(s string) (int, error) {
	n, digits := 0, s != ""
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			digits = false
			break
		}
		n = min(n*10+int(s[i]-'0'), tooLarge)
	}
	if digits && n < tooLarge {
		return n, nil
	}
	proto, ok := ipProtocols[strings.ToLower(s)]
	if !ok {
		return 0, &net.AddrError{Err: "unknown IP protocol specified", Addr: s}
	}
	return proto, nil
}

// makeAddr returns an address of the type for network: a *net.TCPAddr, *net.UDPAddr or *net.IPAddr.
func makeAddr(network string, ip net.IP, zone string, port int) net.Addr {
	switch network[0] {
	case 't':
		return &net.TCPAddr{IP: ip, Port: port, Zone: zone}
	case 'u':
		return &net.UDPAddr{IP: ip, Port: port, Zone: zone}
	}
	return &net.IPAddr{IP: ip, Zone: zone}
}

// resolvedAddr is like makeAddr, for a netip.Addr. It keeps the length of the address: in net, an
// IPv4 address from a name server has 4 bytes, and one from a literal or the hosts file has 16. A
// TCP address and its bytes are one allocation.
func resolvedAddr(network string, ip netip.Addr, port int) net.Addr {
	if network[0] == 't' {
		a := new(struct {
			net.TCPAddr
			ip [16]byte
		})
		b := a.ip[:]
		if ip.Is4() {
			b = b[:copy(b, ip.AsSlice()):net.IPv4len]
		} else {
			a.ip = ip.As16()
		}
		a.TCPAddr = net.TCPAddr{IP: b, Port: port, Zone: ip.Zone()}
		return &a.TCPAddr
	}
	return makeAddr(network, ip.AsSlice(), ip.Zone(), port)
}

// addrIP returns the IP address, the port and the zone of one of net's address types. For a nil
// pointer and for other types, the results are zero.
func addrIP(addr net.Addr) (ip net.IP, port int, zone string) {
	switch a := addr.(type) {
	case *net.TCPAddr:
		if a != nil {
			return a.IP, a.Port, a.Zone
		}
	case *net.UDPAddr:
		if a != nil {
			return a.IP, a.Port, a.Zone
		}
	case *net.IPAddr:
		if a != nil {
			return a.IP, 0, a.Zone
		}
	}
	return nil, 0, ""
}

func isWildcard(ip net.IP) bool { return ip == nil || ip.IsUnspecified() }

func isIPv4(addr net.Addr) bool {
	ip, _, _ := addrIP(addr)
	return ip.To4() != nil
}

// internetAddrs returns the addresses that addr stands for, at least one, in the order in which to
// try them. network is "tcp", "udp" or "ip", with or without a family. lookup resolves host names;
// the host's resolver resolves service names.
func (h *Host) internetAddrs(ctx context.Context, lookup lookupFunc, network, addr string) ([]net.Addr, error) {
	host, port := addr, 0
	if network[0] != 'i' && addr != "" { // an "ip" address has no port
		var service string
		var err error
		if host, service, err = net.SplitHostPort(addr); err != nil {
			return nil, err
		}
		if port, err = h.resolver.LookupPort(ctx, network, service); err != nil {
			return nil, err
		}
	}
	if host == "" {
		return []net.Addr{makeAddr(network, nil, "", port)}, nil
	}
	var one [1]netip.Addr
	ips, err := lookupIPs(ctx, lookup, network, host, one[:0])
	if err != nil {
		return nil, err
	}
	// "::" stands for the wildcard of both families.
	if len(ips) == 1 && ips[0].WithZone("") == netip.IPv6Unspecified() {
		ips = append(ips, in16(netip.IPv4Unspecified()))
	}
	addrs := make([]net.Addr, 0, len(ips))
	for _, ip := range ips { // the last byte of network is '4' or '6' if only one family is wanted
		is4 := ip.Is4() || ip.Is4In6()
		if network[len(network)-1] == '4' && !is4 || network[len(network)-1] == '6' && is4 {
			continue
		}
		addrs = append(addrs, resolvedAddr(network, ip, port))
	}
	if len(addrs) == 0 {
		return nil, &net.AddrError{Err: noSuitableAddress, Addr: host}
	}
	return addrs, nil
}

// lookupIPs returns the addresses of a host: of the family that network names, or of both families.
// If host is an IP address, lookupIPs appends it to ips, in which the caller can provide space.
func lookupIPs(ctx context.Context, lookup lookupFunc, network, host string, ips []netip.Addr) ([]netip.Addr, error) {
	// Literals are not passed to lookup: they may have zones, which LookupNetIP does not return.
	if ip, err := netip.ParseAddr(host); err == nil {
		return append(ips, in16(ip)), nil
	}
	switch network[len(network)-1] {
	case '4':
		return lookup(ctx, "ip4", host)
	case '6':
		return lookup(ctx, "ip6", host)
	}
	return lookup(ctx, "ip", host)
}

// in16 converts an IPv4 address to its 16-byte form. It returns other addresses unchanged.
func in16(ip netip.Addr) netip.Addr {
	if ip.Is4() {
		return netip.AddrFrom16(ip.As16())
	}
	return ip
}

// dialAddrs returns the addresses that a dial has to try. If local is not nil, dialAddrs leaves out
// the addresses whose family differs from that of local.
func (h *Host) dialAddrs(ctx context.Context, lookup lookupFunc, network, address string, local net.Addr) ([]net.Addr, error) {
	name, _, err := parseNetwork(network, true)
	if err != nil {
		return nil, err
	}
	if address == "" {
		return nil, errMissingAddress
	}
	addrs, err := h.internetAddrs(ctx, lookup, name, address)
	if h.nat64 && err == nil && len(addrs) == 1 && name[len(name)-1] != '4' {
		addrs = h.translated(ctx, name, addrs)
	}
	if err != nil || local == nil {
		return addrs, err
	}
	localIP, _, _ := addrIP(local)
	suitable := addrs[:0]
	for _, addr := range addrs {
		// local must have the type for the network. A type that is not from net never matches.
		if !sameType(addr, local) {
			return nil, &net.AddrError{Err: "mismatched local address type", Addr: local.String()}
		}
		ip, _, _ := addrIP(addr)
		if isWildcard(localIP) || isWildcard(ip) || (ip.To4() != nil) == (localIP.To4() != nil) {
			suitable = append(suitable, addr)
		}
	}
	if len(suitable) == 0 {
		return nil, &net.AddrError{Err: noSuitableAddress, Addr: local.String()}
	}
	return suitable, nil
}

// translated returns addrs, which has one element. If that element is an IPv4 address to which the host has no
// route, translated puts the IPv6 addresses that represent it behind NAT64 translators before it. RFC 7050
// section 1: applications with literals need this on a network without IPv4.
func (h *Host) translated(ctx context.Context, network string, addrs []net.Addr) []net.Addr {
	ip, port, _ := addrIP(addrs[0])
	a, ok := netip.AddrFromSlice(ip)
	if !ok || !a.Unmap().Is4() || h.stack.SourceFor(a.Unmap()).IsValid() {
		return addrs // not an IPv4 address, or the host has a route to it
	}
	var all []net.Addr
	for _, six := range h.resolver.Synthesize(ctx, a) {
		all = append(all, resolvedAddr(network, six, port))
	}
	return append(all, addrs...)
}

// sameType reports whether a and b are both *net.TCPAddr, both *net.UDPAddr or both *net.IPAddr.
func sameType(a, b net.Addr) (same bool) {
	switch a.(type) {
	case *net.TCPAddr:
		_, same = b.(*net.TCPAddr)
	case *net.UDPAddr:
		_, same = b.(*net.UDPAddr)
	case *net.IPAddr:
		_, same = b.(*net.IPAddr)
	}
	return same
}

// listenAddr returns the address to listen on. If address stands for several addresses, listenAddr
// returns the first IPv4 one.
func (h *Host) listenAddr(ctx context.Context, network, address string) (net.Addr, error) {
	name, _, err := parseNetwork(network, true)
	if err != nil {
		return nil, err
	}
	addrs, err := h.internetAddrs(ctx, h.lookup, name, address)
	if err != nil {
		return nil, err
	}
	return pickAddr(addrs, false), nil
}

// pickAddr returns the first IPv6 address if want6 is set, and otherwise the first IPv4 address. If
// there is none, it returns the first address.
func pickAddr(addrs []net.Addr, want6 bool) net.Addr {
	for _, addr := range addrs {
		if isIPv4(addr) != want6 {
			return addr
		}
	}
	return addrs[0]
}

// resolveAddr implements ResolveTCPAddr, ResolveUDPAddr and ResolveIPAddr. name is network without
// its protocol. resolveAddr prefers an IPv6 address if network is "tcp" or "udp" and address contains
// brackets, or if network is "ip" and address contains a colon. Otherwise it prefers an IPv4 address.
func (h *Host) resolveAddr(network, name, address string) (net.Addr, error) {
	addrs, err := h.internetAddrs(context.Background(), h.lookup, name, address)
	if err != nil {
		return nil, err
	}
	var want6 bool
	switch network {
	case "ip":
		want6 = strings.Contains(address, ":")
	case "tcp", "udp":
		want6 = strings.Contains(address, "[")
	}
	return pickAddr(addrs, want6), nil
}

// ResolveTCPAddr returns the address of a TCP end point, as net.ResolveTCPAddr
// does. The network is "tcp", "tcp4" or "tcp6".
func (h *Host) ResolveTCPAddr(network, address string) (*net.TCPAddr, error) {
	switch network {
	case "tcp", "tcp4", "tcp6":
	case "":
		network = "tcp"
	default:
		return nil, net.UnknownNetworkError(network)
	}
	addr, err := h.resolveAddr(network, network, address)
	if err != nil {
		return nil, err
	}
	return addr.(*net.TCPAddr), nil
}

// ResolveUDPAddr returns the address of a UDP end point, as net.ResolveUDPAddr
// does. The network is "udp", "udp4" or "udp6".
func (h *Host) ResolveUDPAddr(network, address string) (*net.UDPAddr, error) {
	switch network {
	case "udp", "udp4", "udp6":
	case "":
		network = "udp"
	default:
		return nil, net.UnknownNetworkError(network)
	}
	addr, err := h.resolveAddr(network, network, address)
	if err != nil {
		return nil, err
	}
	return addr.(*net.UDPAddr), nil
}

// ResolveIPAddr returns the address of a host, as net.ResolveIPAddr does. The
// network is "ip", "ip4" or "ip6".
func (h *Host) ResolveIPAddr(network, address string) (*net.IPAddr, error) {
	if network == "" {
		network = "ip"
	}
	name, _, err := parseNetwork(network, false)
	if err != nil {
		return nil, err
	}
	if name[0] != 'i' {
		return nil, net.UnknownNetworkError(network)
	}
	addr, err := h.resolveAddr(network, name, address)
	if err != nil {
		return nil, err
	}
	return addr.(*net.IPAddr), nil
}

// A family is the address family of a socket.
type family struct {
	stack stack.Family
	// six is set for an IPv6 socket. Its addresses have 16 bytes, even the IPv4 ones.
	six bool
}

// family returns the family of a socket, from its network and addresses. A listener on the wildcard
// address has both families if the host has IPv6.
func (h *Host) family(network string, local, remote net.IP, listen bool) family {
	switch network[len(network)-1] {
	case '4':
		return family{stack: stack.Family4}
	case '6':
		return family{stack: stack.Family6, six: true}
	}
	if listen && isWildcard(local) {
		if h.stack.HasIPv6() {
			return family{stack: stack.FamilyAny, six: true}
		}
		return family{stack: stack.Family4}
	}
	// A missing address counts as IPv4, as in net.
	is4 := func(ip net.IP) bool { return len(ip) <= net.IPv4len || ip.To4() != nil }
	if is4(local) && is4(remote) {
		return family{stack: stack.Family4}
	}
	return family{stack: stack.FamilyAny, six: true}
}

// supported returns an error if the host cannot open sockets of the family.
func (h *Host) supported(f family) error {
	if f.six && !h.stack.HasIPv6() {
		return os.NewSyscallError("socket", syscall.EAFNOSUPPORT)
	}
	return nil
}

// addr converts an address to the stack's form. A nil address becomes the wildcard of the family.
func (f family) addr(ip net.IP, zone string) (netip.Addr, error) {
	if !f.six {
		if len(ip) == 0 {
			return netip.IPv4Unspecified(), nil
		}
		ip4 := ip.To4()
		if ip4 == nil {
			return netip.Addr{}, &net.AddrError{Err: "non-IPv4 address", Addr: ip.String()}
		}
		return netip.AddrFrom4([4]byte(ip4)), nil
	}
	if len(ip) == 0 || ip.Equal(net.IPv4zero) {
		return netip.IPv6Unspecified(), nil
	}
	ip16 := ip.To16()
	if ip16 == nil {
		return netip.Addr{}, &net.AddrError{Err: "non-IPv6 address", Addr: ip.String()}
	}
	return netip.AddrFrom16([16]byte(ip16)).Unmap().WithZone(zone), nil
}

// netip is like addr, for a netip.Addr.
func (f family) netip(ip netip.Addr) (netip.Addr, error) {
	if !f.six {
		if !ip.Is4() && !ip.Is4In6() {
			return netip.Addr{}, &net.AddrError{Err: "non-IPv4 address", Addr: ip.String()}
		}
		return ip.Unmap(), nil
	}
	if !ip.IsValid() {
		return netip.IPv6Unspecified(), nil
	}
	return ip.Unmap(), nil
}

// shown converts an address from the stack's form to the form that the socket's methods return.
func (f family) shown(ip netip.Addr) netip.Addr {
	if f.six && ip.Is4() {
		return netip.AddrFrom16(ip.As16())
	}
	return ip
}

// addrPort is like addr, for an address with a port. It returns the zero AddrPort for a nil address.
// If the port is out of range, the error is a bare EINVAL. The caller adds the name of a system
// call.
func (f family) addrPort(addr net.Addr) (netip.AddrPort, error) {
	if opAddr(addr) == nil {
		return netip.AddrPort{}, nil
	}
	ip, port, zone := addrIP(addr)
	a, err := f.addr(ip, zone)
	if err == nil && (port < 0 || port > 0xffff) {
		err = syscall.EINVAL
	}
	return netip.AddrPortFrom(a, uint16(port)), err
}

func (f family) shownPort(ap netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(f.shown(ap.Addr()), ap.Port())
}

// tcpAddr converts the address of a TCP socket to a *net.TCPAddr.
func (f family) tcpAddr(ap netip.AddrPort) *net.TCPAddr {
	return net.TCPAddrFromAddrPort(f.shownPort(ap))
}

// A udpAddr holds a net.UDPAddr and the bytes of its IP, so that both are one allocation.
type udpAddr struct {
	net.UDPAddr
	ip [16]byte
}

// udpAddr converts the address of a UDP socket to a *net.UDPAddr, in one allocation.
func (f family) udpAddr(ap netip.AddrPort) *net.UDPAddr { return f.setUDPAddr(new(udpAddr), ap) }

// setUDPAddr is like udpAddr but uses a, which must be zero.
func (f family) setUDPAddr(a *udpAddr, ap netip.AddrPort) *net.UDPAddr {
	a.UDPAddr = net.UDPAddr{IP: f.bytes(ap.Addr(), &a.ip), Port: int(ap.Port()), Zone: ap.Addr().Zone()}
	return &a.UDPAddr
}

// tcpEnds returns both addresses of a TCP connection, in one allocation.
func (f family) tcpEnds(local, remote netip.AddrPort) *ends {
	a := new(struct {
		ends
		local, remote     net.TCPAddr
		localIP, remoteIP [16]byte
	})
	a.local = net.TCPAddr{IP: f.bytes(local.Addr(), &a.localIP), Port: int(local.Port()), Zone: local.Addr().Zone()}
	a.remote = net.TCPAddr{IP: f.bytes(remote.Addr(), &a.remoteIP), Port: int(remote.Port()), Zone: remote.Addr().Zone()}
	a.ends = ends{&a.local, &a.remote}
	return &a.ends
}

// bytes converts an address to a net.IP whose bytes are in b.
func (f family) bytes(ip netip.Addr, b *[16]byte) net.IP {
	if ip.Is4() && !f.six {
		v4 := ip.As4()
		return append(b[:0:4], v4[:]...)
	}
	if !ip.IsValid() {
		return nil
	}
	*b = ip.As16()
	return b[:]
}

// ipAddr converts the address of an IP socket to a *net.IPAddr.
func (f family) ipAddr(ip netip.Addr) *net.IPAddr {
	return &net.IPAddr{IP: f.shown(ip).AsSlice(), Zone: ip.Zone()}
}

// A udpAddrPort is a netip.AddrPort with the methods of net.Addr. Errors contain it as an address.
type udpAddrPort struct{ netip.AddrPort }

func (udpAddrPort) Network() string { return "udp" }
