package nic

import (
	"net/netip"
	"time"
)

// TAPConfig configures OpenTAP.
type TAPConfig struct {
	// Name is the interface's name, such as "tap0". It has 1 to 15 bytes without spaces, slashes,
	// colons and percent signs. On Windows it is the name in the Control Panel. If it is empty,
	// Linux creates a device and names it, and Windows uses the first device.
	Name string
	// Addr is the address for the kernel's side, with its prefix length. OpenTAP uses it only for a
	// device that it creates. It may be zero.
	Addr netip.Prefix
	// Addr6 is an IPv6 address for the kernel's side, in addition to Addr. The kernel uses it at
	// once, without Duplicate Address Detection.
	Addr6 netip.Prefix
	// MTU is the MTU of a device that OpenTAP creates; 1500 if zero. An existing device keeps its
	// own.
	MTU int
	// MAC is the stack's own address. It must differ from the address of the kernel's interface,
	// which is the other station on this Ethernet. Zero stands for a random locally administered
	// address.
	MAC [6]byte
	// NoOffload turns off super-frames and incomplete checksums. Only Linux has
	// these offloads. Received segments may be merged even so: see MergeReceived.
	NoOffload bool
	// GSO is the largest super-frame in bytes that the host may send to the kernel, without the
	// Ethernet header. Values up to MaxGSO are possible, and a negative value means no super-frames.
	// The limit is 65535 in spite of a larger value if the kernel is not Linux 6.8 or later: those
	// accept larger super-frames of TCP (BIG TCP). If GSO is zero, the limit is 192 KiB on such a
	// kernel, if the kernel's interface has an address that is not link-local and forwards no
	// packets, and otherwise 65535. The kernel would have to segment what it forwards or bridges.
	// Received super-frames have at most 65535 bytes in any case.
	GSO int
	// Queues is the number of queues of the device, 1 to 256; 0 stands for 1. A goroutine reads
	// each queue. Send chooses the queue of a frame by its addresses and ports. The kernel sends
	// the frames of a connection on the queue from which it last received a frame of the
	// connection, so they stay in order after the first packets. Measured with two cores: a second
	// queue took a tenth more CPU time for ping-pong on 16 connections and for UDP, and a fifth
	// less for four simultaneous bulk transfers. If Queues is above 1, an existing device must have
	// been created for several queues, as by ip tuntap add dev tap0 mode tap multi_queue. Only Linux
	// supports several queues.
	Queues int
	// Spin is how long the reader polls for the next frame before it sleeps, 0 to 10 ms; 0 means no
	// polling. Other goroutines run between polls, but the reader keeps a core that the kernel or
	// another process may need. Measured with two cores, one of which ran the peer's program in the
	// kernel: 5 us made no difference, 20 us cost a little, and 200 us halved the rates of 16
	// connections and of UDP. Polling can reduce the latency of single requests on a machine with
	// idle cores. Only Linux supports polling. Close may take as long as Spin.
	Spin time.Duration
}

// TAP is the program's end of a TAP device, an Ethernet whose other station is the kernel. Its
// methods may be called by several goroutines.
//
// While the interface is down, sent frames are dropped and counted. On Linux, Link().Up is then
// false, Link().MTU follows the interface, and the function of NotifyLink is called when either
// changes. If the interface is deleted, the device fails: Send and Err return an error, Link().Up
// is false, and the function of NotifyDown is called.
type TAP struct{ tunTap }

var _ Device = (*TAP)(nil)

// OpenTAP opens a TAP device.
//
// On Linux, if the interface exists, OpenTAP attaches to it. Neither OpenTAP nor Close then changes
// its addresses, state or persistence. The interface must not be in use, and the user must be its
// owner or have CAP_NET_ADMIN. If the interface does not exist, OpenTAP creates it, which needs
// CAP_NET_ADMIN. It gives the interface the addresses and the MTU of cfg and sets it up; Close
// deletes it.
//
// On Windows and macOS, OpenTAP attaches to an interface of a driver (tap-windows6, tuntaposx). On
// other systems the error is errors.ErrUnsupported.
//
// If the user lacks the permission, the error is a *TAPPermissionError.
func OpenTAP(cfg TAPConfig) (*TAP, error) {
	t := new(TAP)
	if err := t.openAny(Ethernet, cfg); err != nil {
		return nil, err
	}
	return t, nil
}

// HostMAC returns the MAC address of the kernel's interface.
func (t *TAP) HostMAC() [6]byte { return *t.hostMAC.Load() }

// Nonblocking returns the device if its Send does not block, as on Linux, and nil otherwise.
func (t *TAP) Nonblocking() Device {
	if !t.nonblocking() {
		return nil
	}
	return t
}
