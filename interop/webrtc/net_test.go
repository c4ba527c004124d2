package webrtc

import (
	"net"

	"github.com/pion/transport/v3"

	"github.com/usernet/usernet"
)

// hostNet is a host as the network interface of pion's packages. Only methods with pion's own types
// are written here; the others are the Host's.
type hostNet struct {
	*usernet.Host
}

var _ transport.Net = hostNet{}

func (n hostNet) ListenUDP(network string, laddr *net.UDPAddr) (transport.UDPConn, error) {
	return asUDPConn(n.Host.ListenUDP(network, laddr))
}

func (n hostNet) DialUDP(network string, laddr, raddr *net.UDPAddr) (transport.UDPConn, error) {
	return asUDPConn(n.Host.DialUDP(network, laddr, raddr))
}

func (n hostNet) DialTCP(network string, laddr, raddr *net.TCPAddr) (transport.TCPConn, error) {
	return asTCPConn(n.Host.DialTCP(network, laddr, raddr))
}

func (n hostNet) ListenTCP(network string, laddr *net.TCPAddr) (transport.TCPListener, error) {
	ln, err := n.Host.ListenTCP(network, laddr)
	if err != nil {
		return nil, err
	}
	return listener{ln}, nil
}

type listener struct {
	*usernet.TCPListener
}

func (l listener) AcceptTCP() (transport.TCPConn, error) { return asTCPConn(l.TCPListener.AcceptTCP()) }

// asUDPConn returns c as a transport.UDPConn, and a nil interface if c is nil.
func asUDPConn(c *usernet.UDPConn, err error) (transport.UDPConn, error) {
	if err != nil {
		return nil, err
	}
	return c, nil
}

// asTCPConn is like asUDPConn, for TCP.
func asTCPConn(c *usernet.TCPConn, err error) (transport.TCPConn, error) {
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (n hostNet) Interfaces() ([]*transport.Interface, error) {
	var all []*transport.Interface
	for _, info := range n.Host.Interfaces() {
		flags := net.FlagMulticast | net.FlagBroadcast
		if info.Loopback {
			flags = net.FlagLoopback
		}
		if info.Up {
			flags |= net.FlagUp | net.FlagRunning
		}
		ifc := transport.NewInterface(net.Interface{
			Index: info.Index, MTU: info.MTU, Name: info.Name, HardwareAddr: info.MAC[:], Flags: flags,
		})
		for _, a := range info.Addrs {
			ifc.AddAddress(&net.IPNet{IP: a.Addr().AsSlice(), Mask: net.CIDRMask(a.Bits(), a.Addr().BitLen())})
		}
		all = append(all, ifc)
	}
	return all, nil
}

func (n hostNet) InterfaceByIndex(index int) (*transport.Interface, error) {
	return n.find(func(i *transport.Interface) bool { return i.Index == index })
}

func (n hostNet) InterfaceByName(name string) (*transport.Interface, error) {
	return n.find(func(i *transport.Interface) bool { return i.Name == name })
}

func (n hostNet) find(is func(*transport.Interface) bool) (*transport.Interface, error) {
	all, err := n.Interfaces()
	if err != nil {
		return nil, err
	}
	for _, i := range all {
		if is(i) {
			return i, nil
		}
	}
	return nil, transport.ErrInterfaceNotFound
}

// CreateDialer makes a dialer with the options of a net.Dialer.
func (n hostNet) CreateDialer(d *net.Dialer) transport.Dialer {
	return &usernet.Dialer{
		Host: n.Host, Timeout: d.Timeout, Deadline: d.Deadline, LocalAddr: d.LocalAddr,
		FallbackDelay: d.FallbackDelay, KeepAlive: d.KeepAlive, KeepAliveConfig: d.KeepAliveConfig, Resolver: d.Resolver,
		Control: d.Control, ControlContext: d.ControlContext,
	}
}
