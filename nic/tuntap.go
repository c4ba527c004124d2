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
)

// A tunTap is a TAP or a TUN. The medium of its link says which.
type tunTap struct {
	rxLoop
	tapWriter
	created bool
	hostMAC atomic.Pointer[[6]byte] // MAC address of the kernel's interface; only a TAP has one
}

// tunTap returns the kind of device that has the medium: "TUN" for IP, and otherwise "TAP".
func (m Medium) tunTap() string {
	if m == IP {
		return "TUN"
	}
	return "TAP"
}

// openAny opens a device. cfg.MAC is not used for a TUN.
func (t *tunTap) openAny(m Medium, cfg TAPConfig) error {
	if err := checkTunTap(m, &cfg); err != nil {
		return err
	}
	return t.open(m, cfg)
}

// Name returns the interface's name.
func (t *tunTap) Name() string { return t.current().Name }

// Created reports whether OpenTAP or OpenTUN created the interface. If so, Close deletes it.
func (t *tunTap) Created() bool { return t.created }

// setHostMAC stores the MAC address of the kernel's interface.
func (t *tunTap) setHostMAC(mac []byte) {
	var m [6]byte
	copy(m[:], mac)
	t.hostMAC.Store(&m)
}

// Send writes the frames to the device. If the kernel's queue is full, it returns how many frames
// it accepted. It drops and counts frames that the link cannot carry or that the kernel refuses;
// the kernel refuses all frames while the interface is down. After Close, Send returns
// net.ErrClosed. After a failure, Send returns the error of Err.
func (t *tunTap) Send(batch []Frame) (n int, err error) {
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

const (
	// minTAPMTU is the smallest MTU of a TAP or a TUN.
	//
	// RFC 791 3.2: "Every internet module must be able to forward a datagram of 68 octets without
	// further fragmentation."
	minTAPMTU = 68
	// maxSpin bounds how long a reader may poll before it sleeps.
	maxSpin = 10 * time.Millisecond
	// maxQueues is Linux's MAX_TAP_QUEUES.
	maxQueues = 256
)

// checkTunTap checks a configuration and sets its defaults.
func checkTunTap(m Medium, cfg *TAPConfig) error {
	kind := m.tunTap()
	// The kernel's limit is 65535 bytes with the link-layer header.
	maxMTU := maxPacket - m.headerLen()
	if why := badName(cfg.Name); why != "" && runtime.GOOS != "windows" {
		return fmt.Errorf("nic: bad %s name %q: %s", kind, cfg.Name, why)
	}
	if cfg.MTU != 0 && (cfg.MTU < minTAPMTU || cfg.MTU > maxMTU) {
		return fmt.Errorf("nic: bad %s MTU %d: not from %d to %d", kind, cfg.MTU, minTAPMTU, maxMTU)
	}
	if cfg.Queues < 0 || cfg.Queues > maxQueues {
		return fmt.Errorf("nic: bad number of %s queues %d: not from 1 to %d", kind, cfg.Queues, maxQueues)
	}
	if cfg.Spin < 0 || cfg.Spin > maxSpin {
		return fmt.Errorf("nic: bad %s spin %v: not from 0 to %v", kind, cfg.Spin, maxSpin)
	}
	if cfg.MAC[0]&1 != 0 {
		return fmt.Errorf("nic: bad TAP MAC %x: a group address", cfg.MAC)
	}
	for _, addr := range []netip.Prefix{cfg.Addr, cfg.Addr6} {
		if addr.IsValid() && (addr.Addr().IsUnspecified() || addr.Addr().IsMulticast()) {
			return fmt.Errorf("nic: bad %s address %s: not that of a host", kind, addr)
		}
	}
	if cfg.Addr6.IsValid() && !cfg.Addr6.Addr().Is6() {
		return fmt.Errorf("nic: bad %s address %s: not of IPv6", kind, cfg.Addr6)
	}
	if cfg.MTU == 0 {
		cfg.MTU = 1500
	}
	if m == Ethernet && cfg.MAC == ([6]byte{}) {
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

// TAPPermissionError is the error of OpenTAP and OpenTUN if the user may not open the device. On Linux
// the text of the error contains the commands that give the user the permission.
// errors.Is(err, fs.ErrPermission) is true.
type TAPPermissionError struct {
	Medium Medium       // Ethernet for a TAP, IP for a TUN
	Name   string       // name of the device; may be empty
	Addr   netip.Prefix // the address for the kernel's side; may be invalid
	Exists bool         // whether the interface exists
	Err    error        // the system's error

	user string // the user without permission; if empty, the user who runs the program
}

func (e *TAPPermissionError) Error() string {
	if runtime.GOOS != "linux" {
		return fmt.Sprintf("nic: open %s %s: %v", e.Medium.tunTap(), e.Name, e.Err)
	}
	who := e.user
	if who == "" {
		who = currentUser()
	}
	what := "make a device of your own"
	if e.Exists {
		what = "it exists: make it your own"
	}
	return fmt.Sprintf("nic: open %s %s: %v; %s, once, as root:\n\t%s",
		e.Medium.tunTap(), e.name(), e.Err, what, strings.Join(e.Commands(who), "\n\t"))
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
		return e.mode() + "0"
	}
	return e.Name
}

// mode returns the mode of the device for ip tuntap: "tap" or "tun".
func (e *TAPPermissionError) mode() string { return strings.ToLower(e.Medium.tunTap()) }

// Commands returns the commands that allow the user to open the device, when root runs them on
// Linux.
func (e *TAPPermissionError) Commands(user string) (commands []string) {
	if errors.Is(e.Err, syscall.EACCES) {
		// EACCES means that the user may not open /dev/net/tun, although udev normally lets every
		// user open it. EPERM means that the user may not use the device.
		commands = append(commands, "chmod 666 /dev/net/tun")
		if e.Exists {
			return commands // the user may own the device; if not, the next attempt to open it fails with EPERM
		}
	}
	if e.Exists {
		commands = append(commands, fmt.Sprintf("ip tuntap del dev %s mode %s", e.name(), e.mode()))
	}
	addr := "192.0.2.1/24"
	if e.Addr.IsValid() {
		addr = e.Addr.String()
	}
	return append(commands,
		fmt.Sprintf("ip tuntap add dev %s mode %s user %s", e.name(), e.mode(), user),
		fmt.Sprintf("ip addr add %s dev %s", addr, e.name()),
		fmt.Sprintf("ip link set %s up", e.name()))
}

// Unwrap returns the system's error.
func (e *TAPPermissionError) Unwrap() error { return e.Err }
