package nic

import (
	"net/netip"
	"time"
)

// TUNConfig configures OpenTUN.
type TUNConfig struct {
	// Name is the interface's name, such as "tun0". It has 1 to 15 bytes without spaces, slashes,
	// colons and percent signs. If it is empty, the system chooses a name. On macOS it is "utun"
	// and a number. On Windows it is the name in the Control Panel, and empty means the first
	// device.
	Name string
	// Addr is the address for the kernel's side, with its prefix length. On Linux, OpenTUN uses it
	// only for a device that it creates, and it may be zero. Windows needs it.
	Addr netip.Prefix
	// Addr6 is an IPv6 address for the kernel's side of a device that OpenTUN creates, in addition
	// to Addr. Only Linux uses it.
	Addr6 netip.Prefix
	// MTU is the MTU in bytes of a device that OpenTUN creates: 68 to 65535; 1500 if zero. An
	// existing device keeps its own.
	MTU int
	// NoOffload turns off super-frames and incomplete checksums. Only Linux has
	// these offloads. Received segments may be merged even so: see MergeReceived.
	NoOffload bool
	// GSO is the largest super-frame in bytes that the host may send to the kernel. It means the same
	// as TAPConfig.GSO.
	GSO int
	// Queues is the number of queues of the device, 1 to 256; 0 stands for 1. It means the same as
	// TAPConfig.Queues.
	Queues int
	// Spin is how long the reader polls for the next packet before it sleeps, 0 to 10 ms. It means
	// the same as TAPConfig.Spin.
	Spin time.Duration
}

// TUN is the program's end of a TUN device, a link without Ethernet: its frames begin with the IP
// header, and no station has a MAC address. The other end is the kernel. The methods of a TUN may be
// called by several goroutines.
//
// While the interface is down, sent packets are dropped and counted. On Linux, Link().Up is then
// false, Link().MTU follows the interface, and the function of NotifyLink is called when either
// changes. If the interface is deleted, the device fails: Send and Err return an error, Link().Up
// is false, and the function of NotifyDown is called.
type TUN struct{ tunTap }

var _ Device = (*TUN)(nil)

// OpenTUN opens a TUN device.
//
// On Linux it does for a TUN what OpenTAP does for a TAP: it attaches to an existing interface, also
// to a persistent one that belongs to the user, or creates one, which needs CAP_NET_ADMIN. It turns
// off the four bytes that Linux can put before each packet (IFF_NO_PI), whatever the last user of
// the interface did.
//
// On macOS, OpenTUN creates a utun device without addresses. On Windows it attaches to an interface
// of tap-windows6. On other systems the error is errors.ErrUnsupported.
//
// If the user lacks the permission, the error is a *TAPPermissionError.
func OpenTUN(cfg TUNConfig) (*TUN, error) {
	t := new(TUN)
	err := t.openAny(IP, TAPConfig{
		Name: cfg.Name, Addr: cfg.Addr, Addr6: cfg.Addr6, MTU: cfg.MTU,
		NoOffload: cfg.NoOffload, GSO: cfg.GSO, Queues: cfg.Queues, Spin: cfg.Spin,
	})
	if err != nil {
		return nil, err
	}
	return t, nil
}

// Nonblocking returns the device if its Send does not block, as on Linux, and nil otherwise.
func (t *TUN) Nonblocking() Device {
	if !t.nonblocking() {
		return nil
	}
	return t
}
