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
	// Name is the interface's name, such as "tap0": 1 to 15 bytes without
	// spaces, slashes, colons and percent signs, or on Windows the name that the
	// Control Panel shows. If it is empty, Linux makes a device and names it, and
	// Windows takes the first one.
	Name string
	// Addr is the address to give to the kernel's side, with the length of its
	// network's prefix. It is used only for a device that OpenTAP makes, and may
	// be left zero there too.
	Addr netip.Prefix
	// Addr6 is an IPv6 address for the kernel's side beside Addr. The kernel uses it when its search for
	// duplicates is over, after a second.
	Addr6 netip.Prefix
	// MTU is that of a device that OpenTAP makes; 1500 if zero. One that exists
	// keeps its own.
	MTU int
	// MAC is the stack's own address, which must differ from that of the kernel's
	// interface, the other station on this Ethernet. If zero it is a
	// random locally administered one.
	MAC [6]byte
	// NoOffload turns off super-frames of up to 64 KiB and incomplete checksums. Only
	// Linux has these offloads. Received segments may be merged all the same: see MergeReceived.
	NoOffload bool
	// Queues is the number of queues of the device, each with a goroutine that reads
	// it: 1 (which 0 stands for) to 256. Send chooses the queue of a frame by its
	// addresses and ports. The kernel sends the frames of a connection on the
	// queue on which it last received from it, so that they stay in order after the first
	// packets. With two cores, a second queue took a tenth more CPU time for
	// ping-pong on 16 connections and for UDP, and a fifth less for four bulk transfers
	// at once. A device that exists must have several queues, as after
	// ip tuntap add dev tap0 mode tap multi_queue. Only Linux has them.
	Queues int
	// Spin is how long the reader polls for the next frame before it
	// sleeps: 0 (not at all) to 10 ms. Other goroutines run in between, but the reader
	// keeps a core that the kernel or another process may need.
	// With two cores, and the peer's program in the kernel on one of them, 5 us made no measurable
	// difference, 20 us cost a little, and 200 us halved the rates of 16
	// connections and of UDP. Spinning can reduce the latency of single requests on a machine with
	// idle cores. Only Linux has it. Close may take that long.
	Spin time.Duration
}

// TAP is the user's end of a TAP device: an Ethernet with the kernel as the
// other station. Its methods may be called by several goroutines.
//
// While the interface is down, frames that are sent are dropped and
// counted. On Linux Link().Up is false meanwhile, Link().MTU follows the
// interface, and the function of NotifyLink is called when either
// changes. If the interface is deleted, the device has failed: Send and Err return an error,
// Link().Up is false, and the function of NotifyDown is called.
type TAP struct {
	rxLoop
	tapWriter
	created bool
	hostMAC atomic.Pointer[[6]byte]
}

var _ Device = (*TAP)(nil)

// OpenTAP opens a TAP device.
//
// On Linux, OpenTAP attaches to an interface that exists, and changes none of its
// addresses, state and persistence; nor does Close. The interface must not be in use, and the user
// must be its owner or have CAP_NET_ADMIN. An interface that does not exist is created, which
// needs CAP_NET_ADMIN; it gets the address and the MTU of the configuration, is
// set up, and is deleted by Close.
//
// On Windows and macOS, OpenTAP attaches to an interface of a driver (tap-windows6,
// tuntaposx). On other systems the error is
// errors.ErrUnsupported.
//
// The error for a lack of permission is a *TAPPermissionError.
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

// HostMAC returns the address of the kernel's interface.
func (t *TAP) HostMAC() [6]byte { return *t.hostMAC.Load() }

// setHostMAC notes an address of the kernel's interface.
func (t *TAP) setHostMAC(mac []byte) {
	var m [6]byte
	copy(m[:], mac)
	t.hostMAC.Store(&m)
}

// Send writes the frames to the device. If the kernel has no room for more, it
// returns how many it took. It drops and counts frames that the link cannot carry or that the
// kernel refuses, as it refuses all while the interface is down.
// After Close the error is net.ErrClosed, and after the device has failed that of Err.
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

// The bounds of a TAP's MTU: RFC 791 section 3.2, "every internet module must be
// able to forward a datagram of 68 octets without further fragmentation", and
// what is left of 65535 for the kernel's interface.
const (
	minTAPMTU = 68
	maxTAPMTU = maxPacket - wire.EthernetLen
)

const (
	// maxSpin bounds how long a reader may poll before it sleeps.
	maxSpin = 10 * time.Millisecond
	// maxQueues is the kernel's bound, MAX_TAP_QUEUES of Linux.
	maxQueues = 256
)

// checkTAP checks a configuration and fills in its defaults.
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

// badName returns why an interface cannot have the name, or "".
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

// TAPPermissionError is the error of OpenTAP if the user may not open the
// device. On Linux its text has the commands that allow it.
// errors.Is(err, fs.ErrPermission) is true.
type TAPPermissionError struct {
	Name   string       // of the device; may be empty
	Addr   netip.Prefix // that the kernel's side should get; may be invalid
	Exists bool         // there is such an interface
	Err    error        // the system's error

	user string // the user without permission; if empty, the one who runs the program
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

// currentUser returns the name of the user who runs this program, or its number if it has no name. The
// commands need it, because root runs them.
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

// Commands returns the commands that, run as root on Linux, allow the user to open the device.
func (e *TAPPermissionError) Commands(user string) (commands []string) {
	if errors.Is(e.Err, syscall.EACCES) {
		// EPERM is about the device, EACCES about /dev/net/tun, which udev opens to everybody.
		commands = append(commands, "chmod 666 /dev/net/tun")
		if e.Exists {
			return commands // it may be the user's: the next try will tell
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
