package dropin

import (
	"errors"
	"net"
	"net/netip"

	"github.com/usernet/usernet"
)

// An Interface is an interface of the default Host. It has the fields of net.Interface and can be
// converted to that type. It is a type of its own because its methods use the Host.
type Interface net.Interface

// The texts of these errors are net's.
var (
	errInvalidInterface      = errors.New("invalid network interface")
	errInvalidInterfaceIndex = errors.New("invalid network interface index")
	errInvalidInterfaceName  = errors.New("invalid network interface name")
	errNoSuchInterface       = errors.New("no such network interface")
)

// ethernet is nic.Ethernet, copied so that this package need not import nic.
const ethernet = 0

func routeError(err error) error { return &net.OpError{Op: "route", Net: "ip+net", Err: err} }

// ipNets converts the addresses of an interface to the form that net returns.
func ipNets(prefixes []netip.Prefix) []Addr {
	var addrs []Addr
	for _, p := range prefixes {
		ip := p.Addr().As16()
		addrs = append(addrs, &IPNet{IP: ip[:], Mask: CIDRMask(p.Bits(), p.Addr().BitLen())})
	}
	return addrs
}

// Addrs returns the addresses of the interface, each an *IPNet. It returns none if the Host has no
// such interface any more.
func (ifi *Interface) Addrs() ([]Addr, error) {
	if ifi == nil {
		return nil, routeError(errInvalidInterface)
	}
	h, err := hostFor("route", "ip+net")
	if err != nil {
		return nil, err
	}
	for _, info := range h.Interfaces() {
		if info.Index == ifi.Index {
			return ipNets(info.Addrs), nil
		}
	}
	return nil, nil
}

// MulticastAddrs returns the multicast groups that the interface receives, each an *IPAddr. It
// returns none if the Host has no such interface any more.
func (ifi *Interface) MulticastAddrs() ([]Addr, error) {
	if ifi == nil {
		return nil, routeError(errInvalidInterface)
	}
	h, err := hostFor("route", "ip+net")
	if err != nil {
		return nil, err
	}
	var addrs []Addr
	for _, info := range h.Interfaces() {
		if info.Index != ifi.Index {
			continue
		}
		for _, group := range info.Groups {
			ip := group.As16()
			addrs = append(addrs, &IPAddr{IP: ip[:]})
		}
	}
	return addrs, nil
}

// Interfaces returns the interfaces of the default Host, the loopback first.
func Interfaces() ([]Interface, error) {
	h, err := hostFor("route", "ip+net")
	if err != nil {
		return nil, err
	}
	return interfaces(h), nil
}

// interfaces describes the interfaces of a Host as net describes the kernel's.
func interfaces(h *usernet.Host) []Interface {
	var all []Interface
	for _, info := range h.Interfaces() {
		ifi := Interface{Index: info.Index, MTU: info.MTU, Name: info.Name, Flags: FlagUp}
		if info.Up {
			ifi.Flags |= FlagRunning
		}
		switch {
		case info.Loopback:
			ifi.Flags |= FlagLoopback
		case info.Medium == ethernet:
			ifi.Flags |= FlagBroadcast | FlagMulticast
			ifi.HardwareAddr = HardwareAddr(info.MAC[:])
		default:
			ifi.Flags |= FlagPointToPoint | FlagMulticast
		}
		all = append(all, ifi)
	}
	return all
}

// InterfaceAddrs returns the addresses of all interfaces of the default Host.
func InterfaceAddrs() ([]Addr, error) {
	h, err := hostFor("route", "ip+net")
	if err != nil {
		return nil, err
	}
	return h.InterfaceAddrs(), nil
}

// InterfaceByIndex returns the interface of the default Host that has the given index.
func InterfaceByIndex(index int) (*Interface, error) {
	if index <= 0 {
		return nil, routeError(errInvalidInterfaceIndex)
	}
	return findInterface(func(ifi *Interface) bool { return ifi.Index == index })
}

// InterfaceByName returns the interface of the default Host that has the given name.
func InterfaceByName(name string) (*Interface, error) {
	if name == "" {
		return nil, routeError(errInvalidInterfaceName)
	}
	return findInterface(func(ifi *Interface) bool { return ifi.Name == name })
}

func findInterface(is func(*Interface) bool) (*Interface, error) {
	h, err := hostFor("route", "ip+net")
	if err != nil {
		return nil, err
	}
	for _, ifi := range interfaces(h) {
		if is(&ifi) {
			return &ifi, nil
		}
	}
	return nil, routeError(errNoSuchInterface)
}
