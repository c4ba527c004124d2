package nic

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/user"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/usernet/usernet/stack/wire"
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
	// NoOffload turns off super-frames of up to 64 KiB and incomplete checksums. Only Linux has
	// these offloads. Received segments may be merged even so: see MergeReceived.
	NoOffload bool
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
type TAP struct {
	rxLoop
	tapWriter
	created bool
	hostMAC atomic.Pointer[[6]byte]
}

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
	if err := checkTAP(&cfg); err != nil {
		return nil, err
	}
	return openTAP(cfg)
}

// Name returns the interface's name.
func (t *TAP) Name() string { return t.current().Name }

// Created reports whether OpenTAP created the interface. If so, Close deletes it.
func (t *TAP) Created() bool { return t.created }

// HostMAC returns the MAC address of the kernel's interface.
func (t *TAP) HostMAC() [6]byte { return *t.hostMAC.Load() }

// setHostMAC stores the MAC address of the kernel's interface.
func (t *TAP) setHostMAC(mac []byte) {
	var m [6]byte
	copy(m[:], mac)
	t.hostMAC.Store(&m)
}

// Send writes the frames to the device. If the kernel's queue is full, it returns how many frames
// it accepted. It drops and counts frames that the link cannot carry or that the kernel refuses;
// the kernel refuses all frames while the interface is down. After Close the error is
// net.ErrClosed, and after a failure the error that Err returns.
func (t *TAP) Send(batch []Frame) (n int, err error) {
	if err := t.sendError(); err != nil {
		return 0, err
	}
	n, err = t.write(&t.rxLoop, batch)
	if err != nil {
		t.fail(err)
		return n, t.sendError()
	}
	return n, nil
}

// The bounds of a TAP's MTU. The lower one is from RFC 791 section 3.2, "every internet module must
// be able to forward a datagram of 68 octets without further fragmentation". The upper one is the
// kernel's: 65535 less the Ethernet header.
const (
	minTAPMTU = 68
	maxTAPMTU = maxPacket - wire.EthernetLen
)

const (
	// maxSpin bounds how long a reader may poll before it sleeps.
	maxSpin = 10 * time.Millisecond
	// maxQueues is Linux's MAX_TAP_QUEUES.
	maxQueues = 256
)

// checkTAP checks a configuration and sets its defaults.
func checkTAP(cfg *TAPConfig) error {
	if why := badName(cfg.Name); why != "" && runtime.GOOS != "windows" {
		return fmt.Errorf("nic: bad TAP name %q: %s", cfg.Name, why)
	}
	if cfg.MTU != 0 && (cfg.MTU < minTAPMTU || cfg.MTU > maxTAPMTU) {
		return fmt.Errorf("nic: bad TAP MTU %d: not from %d to %d", cfg.MTU, minTAPMTU, maxTAPMTU)
	}
	if cfg.Queues < 0 || cfg.Queues > maxQueues {
		return fmt.Errorf("nic: bad number of TAP queues %d: not from 1 to %d", cfg.Queues, maxQueues)
	}
	if cfg.Spin < 0 || cfg.Spin > maxSpin {
		return fmt.Errorf("nic: bad TAP spin %v: not from 0 to %v", cfg.Spin, maxSpin)
	}
	if cfg.MAC[0]&1 != 0 {
		return fmt.Errorf("nic: bad TAP MAC %x: a group address", cfg.MAC)
	}
	for _, addr := range []netip.Prefix{cfg.Addr, cfg.Addr6} {
		if addr.IsValid() && (addr.Addr().IsUnspecified() || addr.Addr().IsMulticast()) {
			return fmt.Errorf("nic: bad TAP address %s: not that of a host", addr)
		}
	}
	if cfg.Addr6.IsValid() && !cfg.Addr6.Addr().Is6() {
		return fmt.Errorf("nic: bad TAP address %s: not of IPv6", cfg.Addr6)
	}
	if cfg.MTU == 0 {
		cfg.MTU = 1500
	}
	if cfg.MAC == ([6]byte{}) {
		cfg.MAC = randomMAC()
	}
	return nil
}

// badName returns the reason why an interface cannot have the name, or "" if it can.
func badName(name string) string {
	switch {
	case len(name) > 15:
		return "longer than 15 bytes"
	case name == "." || name == "..":
		return "not a name"
	case strings.ContainsAny(name, "/:% \t\n\v\f\r\x00"):
		return "has a slash, a colon, a percent sign or a space"
	}
	return ""
}

// TAPPermissionError is the error of OpenTAP if the user may not open the device. On Linux the text of
// the error contains the commands that give the user the permission. errors.Is(err, fs.ErrPermission)
// is true.
type TAPPermissionError struct {
	Name   string       // name of the device; may be empty
	Addr   netip.Prefix // the address for the kernel's side; may be invalid
	Exists bool         // whether the interface exists
	Err    error        // the system's error

	user string // the user without permission; if empty, the user who runs the program
}

func (e *TAPPermissionError) Error() string {
	if runtime.GOOS != "linux" {
		return fmt.Sprintf("nic: open TAP %s: %v", e.Name, e.Err)
	}
	who := e.user
	if who == "" {
		who = currentUser()
	}
	what := "make a device of your own"
	if e.Exists {
		what = "it exists: make it your own"
	}
	return fmt.Sprintf("nic: open TAP %s: %v; %s, once, as root:\n\t%s",
		e.name(), e.Err, what, strings.Join(e.Commands(who), "\n\t"))
}

// currentUser returns the name of the user who runs this program, or the numeric ID if the user has
// no name. The commands must name the user, because root runs them.
func currentUser() string {
	uid := strconv.Itoa(os.Geteuid())
	if u, err := user.LookupId(uid); err == nil && u.Username != "" {
		return u.Username
	}
	return uid
}

func (e *TAPPermissionError) name() string {
	if e.Name == "" {
		return "tap0"
	}
	return e.Name
}

// Commands returns the commands that allow the user to open the device, when root runs them on
// Linux.
func (e *TAPPermissionError) Commands(user string) (commands []string) {
	if errors.Is(e.Err, syscall.EACCES) {
		// EACCES means that the user may not open /dev/net/tun, although udev normally lets every
		// user open it. EPERM means that the user may not use the device.
		commands = append(commands, "chmod 666 /dev/net/tun")
		if e.Exists {
			return commands // the device may belong to the user; otherwise the next error is EPERM
		}
	}
	if e.Exists {
		commands = append(commands, fmt.Sprintf("ip tuntap del dev %s mode tap", e.name()))
	}
	addr := "192.0.2.1/24"
	if e.Addr.IsValid() {
		addr = e.Addr.String()
	}
	return append(commands,
		fmt.Sprintf("ip tuntap add dev %s mode tap user %s", e.name(), user),
		fmt.Sprintf("ip addr add %s dev %s", addr, e.name()),
		fmt.Sprintf("ip link set %s up", e.name()))
}

// Unwrap returns the system's error.
func (e *TAPPermissionError) Unwrap() error { return e.Err }
