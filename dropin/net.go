// Code generated from what package net exports by dropin/internal/gen. DO NOT EDIT.

package dropin

import (
	"context"
	"net"
	"net/netip"

	"github.com/usernet/usernet"
)

// Constants of net.
const (
	FlagBroadcast    = net.FlagBroadcast
	FlagLoopback     = net.FlagLoopback
	FlagMulticast    = net.FlagMulticast
	FlagPointToPoint = net.FlagPointToPoint
	FlagRunning      = net.FlagRunning
	FlagUp           = net.FlagUp
	IPv4len          = net.IPv4len
	IPv6len          = net.IPv6len
)

// Variables of net. They are copies, but share what the values point to.
var (
	ErrClosed                  = net.ErrClosed
	ErrWriteToConnected        = net.ErrWriteToConnected
	IPv4allrouter              = net.IPv4allrouter
	IPv4allsys                 = net.IPv4allsys
	IPv4bcast                  = net.IPv4bcast
	IPv4zero                   = net.IPv4zero
	IPv6interfacelocalallnodes = net.IPv6interfacelocalallnodes
	IPv6linklocalallnodes      = net.IPv6linklocalallnodes
	IPv6linklocalallrouters    = net.IPv6linklocalallrouters
	IPv6loopback               = net.IPv6loopback
	IPv6unspecified            = net.IPv6unspecified
	IPv6zero                   = net.IPv6zero
)

// Types of net that are data, interfaces or errors. UnixConn and UnixListener are here because type
// switches name them: nothing in this package returns one.
type (
	Addr                = net.Addr
	AddrError           = net.AddrError
	Buffers             = net.Buffers
	Conn                = net.Conn
	DNSConfigError      = net.DNSConfigError
	DNSError            = net.DNSError
	Error               = net.Error
	Flags               = net.Flags
	HardwareAddr        = net.HardwareAddr
	IP                  = net.IP
	IPAddr              = net.IPAddr
	IPMask              = net.IPMask
	IPNet               = net.IPNet
	InvalidAddrError    = net.InvalidAddrError
	KeepAliveConfig     = net.KeepAliveConfig
	Listener            = net.Listener
	MX                  = net.MX
	NS                  = net.NS
	OpError             = net.OpError
	PacketConn          = net.PacketConn
	ParseError          = net.ParseError
	SRV                 = net.SRV
	TCPAddr             = net.TCPAddr
	UDPAddr             = net.UDPAddr
	UnixAddr            = net.UnixAddr
	UnixConn            = net.UnixConn
	UnixListener        = net.UnixListener
	UnknownNetworkError = net.UnknownNetworkError
)

// Connections and listeners of usernet, with the methods of their namesakes in net.
type (
	IPConn      = usernet.IPConn
	TCPConn     = usernet.TCPConn
	TCPListener = usernet.TCPListener
	UDPConn     = usernet.UDPConn
)

// CIDRMask is net.CIDRMask.
func CIDRMask(ones, bits int) IPMask { return net.CIDRMask(ones, bits) }

// DialIP is net.DialIP, on the default Host.
func DialIP(network string, laddr, raddr *IPAddr) (*IPConn, error) {
	h, err := hostFor("dial", network)
	if err != nil {
		return nil, err
	}
	return h.DialIP(network, laddr, raddr)
}

// DialTCP is net.DialTCP, on the default Host.
func DialTCP(network string, laddr, raddr *TCPAddr) (*TCPConn, error) {
	h, err := hostFor("dial", network)
	if err != nil {
		return nil, err
	}
	return h.DialTCP(network, laddr, raddr)
}

// DialUDP is net.DialUDP, on the default Host.
func DialUDP(network string, laddr, raddr *UDPAddr) (*UDPConn, error) {
	h, err := hostFor("dial", network)
	if err != nil {
		return nil, err
	}
	return h.DialUDP(network, laddr, raddr)
}

// IPv4 is net.IPv4.
func IPv4(a, b, c, d byte) IP { return net.IPv4(a, b, c, d) }

// IPv4Mask is net.IPv4Mask.
func IPv4Mask(a, b, c, d byte) IPMask { return net.IPv4Mask(a, b, c, d) }

// JoinHostPort is net.JoinHostPort.
func JoinHostPort(host, port string) string { return net.JoinHostPort(host, port) }

// ListenIP is net.ListenIP, on the default Host.
func ListenIP(network string, laddr *IPAddr) (*IPConn, error) {
	h, err := hostFor("listen", network)
	if err != nil {
		return nil, err
	}
	return h.ListenIP(network, laddr)
}

// ListenTCP is net.ListenTCP, on the default Host.
func ListenTCP(network string, laddr *TCPAddr) (*TCPListener, error) {
	h, err := hostFor("listen", network)
	if err != nil {
		return nil, err
	}
	return h.ListenTCP(network, laddr)
}

// ListenUDP is net.ListenUDP, on the default Host.
func ListenUDP(network string, laddr *UDPAddr) (*UDPConn, error) {
	h, err := hostFor("listen", network)
	if err != nil {
		return nil, err
	}
	return h.ListenUDP(network, laddr)
}

// LookupAddr is net.LookupAddr, with DefaultResolver.
func LookupAddr(addr string) (names []string, err error) {
	return DefaultResolver.LookupAddr(context.Background(), addr)
}

// LookupCNAME is net.LookupCNAME, with DefaultResolver.
func LookupCNAME(host string) (cname string, err error) {
	return DefaultResolver.LookupCNAME(context.Background(), host)
}

// LookupHost is net.LookupHost, with DefaultResolver.
func LookupHost(host string) (addrs []string, err error) {
	return DefaultResolver.LookupHost(context.Background(), host)
}

// LookupMX is net.LookupMX, with DefaultResolver.
func LookupMX(name string) ([]*MX, error) {
	return DefaultResolver.LookupMX(context.Background(), name)
}

// LookupNS is net.LookupNS, with DefaultResolver.
func LookupNS(name string) ([]*NS, error) {
	return DefaultResolver.LookupNS(context.Background(), name)
}

// LookupPort is net.LookupPort, with DefaultResolver.
func LookupPort(network, service string) (port int, err error) {
	return DefaultResolver.LookupPort(context.Background(), network, service)
}

// LookupSRV is net.LookupSRV, with DefaultResolver.
func LookupSRV(service, proto, name string) (cname string, addrs []*SRV, err error) {
	return DefaultResolver.LookupSRV(context.Background(), service, proto, name)
}

// LookupTXT is net.LookupTXT, with DefaultResolver.
func LookupTXT(name string) ([]string, error) {
	return DefaultResolver.LookupTXT(context.Background(), name)
}

// ParseCIDR is net.ParseCIDR.
func ParseCIDR(s string) (IP, *IPNet, error) { return net.ParseCIDR(s) }

// ParseIP is net.ParseIP.
func ParseIP(s string) IP { return net.ParseIP(s) }

// ParseMAC is net.ParseMAC.
func ParseMAC(s string) (hw HardwareAddr, err error) { return net.ParseMAC(s) }

// Pipe is net.Pipe.
func Pipe() (Conn, Conn) { return net.Pipe() }

// ResolveUnixAddr is net.ResolveUnixAddr.
func ResolveUnixAddr(network, address string) (*UnixAddr, error) {
	return net.ResolveUnixAddr(network, address)
}

// SplitHostPort is net.SplitHostPort.
func SplitHostPort(hostport string) (host, port string, err error) {
	return net.SplitHostPort(hostport)
}

// TCPAddrFromAddrPort is net.TCPAddrFromAddrPort.
func TCPAddrFromAddrPort(addr netip.AddrPort) *TCPAddr { return net.TCPAddrFromAddrPort(addr) }

// UDPAddrFromAddrPort is net.UDPAddrFromAddrPort.
func UDPAddrFromAddrPort(addr netip.AddrPort) *UDPAddr { return net.UDPAddrFromAddrPort(addr) }
