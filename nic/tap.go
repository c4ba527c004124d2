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
	// MAC is the stack's own address, which must not be that of the kernel's
	// interface: the two are the stations of one small Ethernet. If zero it is a
	// random locally administered one.
	MAC [6]byte
	// NoOffload makes every frame pass by itself and with complete checksums, as
	// on a wire, instead of in super-frames of up to 64 KiB. Offloads are those
	// of Linux; the other systems have none. What is received may be joined after
	// all: see MergeReceived.
	NoOffload bool
	// Queues is how many queues the device has, each with a goroutine that reads
	// it, from 1, which 0 stands for, to 256. Send chooses a frame's queue by the
	// addresses and ports, and the kernel sends what belongs to a connection on the
	// queue on which it last saw the other direction: after its first packets it
	// stays in order. With two cores a second queue took a tenth more CPU time for
	// ping-pong on 16 connections and UDP, and a fifth less for four bulk transfers
	// at once. A device that exists has to be one with several queues, as by
	// ip tuntap add dev tap0 mode tap multi_queue. Only Linux has them.
	Queues int
	// Spin is how long the reader goes on looking for the next frame before it
	// sleeps: 0, not at all, to 10 ms. Other goroutines run in between, but it
	// takes a core that the kernel, or another process, may have more use for.
	// With two cores, the kernel's program on one of them, 5 us made no difference
	// that could be measured, 20 us cost some, and 200 us halved the rate of 16
	// connections and of UDP. It can pay on a machine with idle cores, for the
	// latency of lone requests. Only Linux has it. Close may take that long.
	Spin time.Duration
}

// TAP is the user's end of a TAP device: an Ethernet with the kernel as the
// other station. Its methods may be called by several goroutines.
//
// A TAP whose interface is down is not broken: what is sent is dropped and
// counted until it is up again. On Linux Link().Up is false meanwhile, the MTU is that of the
// interface as it is now, and the function given to NotifyLink is called when either
// changes. A TAP whose interface is deleted is broken: Send returns an error, Err tells it,
// Link().Up is false, and the function given to NotifyDown is called.
type TAP struct {
	rxLoop
	tapWriter
	created bool
	hostMAC atomic.Pointer[[6]byte]
}

var _ Device = (*TAP)(nil)

// OpenTAP opens a TAP device.
//
// On Linux, an interface that exists is attached to and left as it is: its
// addresses, its state and its persistence are those that its owner gave it, and
// Close leaves them so. It has to be free, and its owner has to be the user, or
// the user to have CAP_NET_ADMIN. An interface that does not exist is made, which
// needs CAP_NET_ADMIN, is given the address and the MTU of the configuration and
// set up, and is gone after Close.
//
// On Windows and macOS the interface is one that a driver has made (tap-windows6,
// tuntaposx), and is attached to. On other systems the error is
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
func (t *TAP) Name() string { return t.now().Name }

// Created reports whether OpenTAP made the interface, which is gone after Close
// then.
func (t *TAP) Created() bool { return t.created }

// HostMAC returns the address of the kernel's interface.
func (t *TAP) HostMAC() [6]byte { return *t.hostMAC.Load() }

// setHostMAC notes an address of the kernel's interface.
func (t *TAP) setHostMAC(mac []byte) {
	var m [6]byte
	copy(m[:], mac)
	t.hostMAC.Store(&m)
}

// Send writes the frames to the device. When the kernel has no room for more it
// returns how many it took. Frames that the link cannot carry, or that the
// kernel refuses, as it does all while the interface is down, are dropped and
// counted. After Close the error is net.ErrClosed, and after the device has come
// to an end by itself what Err returns.
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
	// maxSpin bounds how long a reader may look for frames without a rest.
	maxSpin = 10 * time.Millisecond
	// maxQueues is the kernel's bound, MAX_TAP_QUEUES of Linux.
	maxQueues = 256
)

// checkTAP finds what is wrong with a configuration before the system is asked.
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

// badName tells why no interface can have a name.
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

// TAPPermissionError is the error of OpenTAP when the user may not open the
// device. On Linux its text has the commands that make a device that the user
// may open.
// errors.Is(err, fs.ErrPermission) is true.
type TAPPermissionError struct {
	Name   string       // of the device; may be empty
	Addr   netip.Prefix // that the kernel's side should get; may be invalid
	Exists bool         // there is such an interface
	Err    error        // the system's error

	user string // who may not; if empty, who runs the program
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

// currentUser returns who runs this program, by number where there is no name: whoever types the commands
// is another user, root.
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

// Commands returns the commands that have a user able to open the device, to be
// run as root, on Linux.
func (e *TAPPermissionError) Commands(user string) (commands []string) {
	if errors.Is(e.Err, syscall.EACCES) {
		// EPERM is about the device. EACCES is about the file that leads to all
		// of them, which udev leaves open to everybody.
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
