package wireguard

import (
	"context"
	"net"
	"net/netip"

	"golang.zx2c4.com/wireguard/tun"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
)

// A Net has the methods of Net in golang.zx2c4.com/wireguard/tun/netstack.
type Net struct {
	host *usernet.Host
}

// CreateNetTUN returns a device for device.NewDevice of golang.zx2c4.com/wireguard/device, and the Net of a new host
// inside the tunnel.
// localAddresses are the host's addresses, and dnsServers its name servers. mtu is the largest packet in
// bytes. Closing the device closes the host.
func CreateNetTUN(localAddresses, dnsServers []netip.Addr, mtu int) (tun.Device, *Net, error) {
	tunnel := nic.NewTunnel(nic.TunnelConfig{Name: "go", MTU: mtu})
	link := usernet.NIC{Device: tunnel}
	cfg := usernet.Config{}
	var v4, v6 bool
	for _, a := range localAddresses {
		a = a.Unmap()
		link.Addrs = append(link.Addrs, netip.PrefixFrom(a, a.BitLen()))
		v4, v6 = v4 || a.Is4(), v6 || a.Is6()
	}
	for _, a := range dnsServers {
		cfg.DNS = append(cfg.DNS, netip.AddrPortFrom(a.Unmap(), 53))
	}
	cfg.NICs = []usernet.NIC{link}
	host, err := usernet.New(cfg)
	if err != nil {
		return nil, nil, err
	}
	var all []netip.Prefix
	if v4 {
		all = append(all, netip.PrefixFrom(netip.IPv4Unspecified(), 0))
	}
	if v6 {
		all = append(all, netip.PrefixFrom(netip.IPv6Unspecified(), 0))
	}
	if err := addRoutes(host, lastLink(host), []Peer{{AllowedIPs: all}}); err != nil {
		host.Close()
		return nil, nil, err
	}
	return newTUN(tunnel, host.Close).up(), &Net{host}, nil
}

// Host returns the host, for operations for which Net has no method.
func (n *Net) Host() *usernet.Host { return n.host }

// Dial is DialContext without a context.
func (n *Net) Dial(network, address string) (net.Conn, error) {
	return n.DialContext(context.Background(), network, address)
}

// DialContext dials like net.Dialer. The networks "ping", "ping4" and "ping6" return a PingConn.
func (n *Net) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	switch network {
	case "ping", "ping4", "ping6":
		return n.dialPing(ctx, network, address)
	}
	return n.host.DialContext(ctx, network, address)
}

// DialContextTCP opens a connection to addr.
func (n *Net) DialContextTCP(ctx context.Context, addr *net.TCPAddr) (*usernet.TCPConn, error) {
	if addr == nil {
		return n.host.DialTCP("tcp", nil, nil) // fails as net.DialTCP does
	}
	c, err := n.host.DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return nil, err
	}
	return c.(*usernet.TCPConn), nil
}

// DialContextTCPAddrPort opens a connection to addr.
func (n *Net) DialContextTCPAddrPort(ctx context.Context, addr netip.AddrPort) (*usernet.TCPConn, error) {
	return n.DialContextTCP(ctx, net.TCPAddrFromAddrPort(addr))
}

// DialTCP opens a connection to addr.
func (n *Net) DialTCP(addr *net.TCPAddr) (*usernet.TCPConn, error) {
	return n.DialContextTCP(context.Background(), addr)
}

// DialTCPAddrPort opens a connection to addr.
func (n *Net) DialTCPAddrPort(addr netip.AddrPort) (*usernet.TCPConn, error) {
	return n.DialContextTCPAddrPort(context.Background(), addr)
}

// ListenTCP listens for connections to addr.
func (n *Net) ListenTCP(addr *net.TCPAddr) (*usernet.TCPListener, error) {
	return n.host.ListenTCP("tcp", addr)
}

// ListenTCPAddrPort listens for connections to addr.
func (n *Net) ListenTCPAddrPort(addr netip.AddrPort) (*usernet.TCPListener, error) {
	return n.ListenTCP(net.TCPAddrFromAddrPort(addr))
}

// DialUDP opens a socket that is connected to raddr. If raddr is nil, the socket is not connected.
func (n *Net) DialUDP(laddr, raddr *net.UDPAddr) (*usernet.UDPConn, error) {
	if raddr == nil {
		return n.host.ListenUDP("udp", laddr)
	}
	return n.host.DialUDP("udp", laddr, raddr)
}

// DialUDPAddrPort opens a socket that is connected to raddr. If raddr is the zero value, the socket is not connected.
func (n *Net) DialUDPAddrPort(laddr, raddr netip.AddrPort) (*usernet.UDPConn, error) {
	return n.DialUDP(udpAddr(laddr), udpAddr(raddr))
}

// ListenUDP opens a socket with the local address laddr.
func (n *Net) ListenUDP(laddr *net.UDPAddr) (*usernet.UDPConn, error) {
	return n.host.ListenUDP("udp", laddr)
}

// ListenUDPAddrPort opens a socket with the local address laddr.
func (n *Net) ListenUDPAddrPort(laddr netip.AddrPort) (*usernet.UDPConn, error) {
	return n.ListenUDP(udpAddr(laddr))
}

// udpAddr returns a as a *net.UDPAddr, or nil if a is the zero value.
func udpAddr(a netip.AddrPort) *net.UDPAddr {
	if a == (netip.AddrPort{}) {
		return nil
	}
	return net.UDPAddrFromAddrPort(a)
}

// LookupHost resolves a name with the name servers that CreateNetTUN was given.
func (n *Net) LookupHost(host string) ([]string, error) {
	return n.host.LookupHost(host)
}

// LookupContextHost is LookupHost with a context.
func (n *Net) LookupContextHost(ctx context.Context, host string) ([]string, error) {
	return n.host.Resolver().LookupHost(ctx, host)
}
