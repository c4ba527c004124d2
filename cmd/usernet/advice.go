package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/usernet/usernet/nic"
)

// A tapError is a failure to open the TAP or the TUN.
type tapError struct {
	name string
	err  error
	tun  bool // the device is a TUN
}

// kind returns the kind of the device.
func (e *tapError) kind() string {
	if e.tun {
		return "TUN"
	}
	return "TAP"
}

func (e *tapError) Error() string { return strings.TrimPrefix(e.err.Error(), "nic: ") }
func (e *tapError) Unwrap() error { return e.err }

// cannotTAP reports whether err means that this user or this system cannot have a TAP device. On
// systems other than Linux, every failure to open a TAP device means this, because the driver is
// rarely installed.
func cannotTAP(err error) bool {
	if !errors.As(err, new(*tapError)) {
		return false
	}
	return runtime.GOOS != "linux" || errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, errors.ErrUnsupported)
}

// An environment holds the facts about the system on which the advice depends.
type environment struct {
	system    string // runtime.GOOS
	root      bool
	container bool
	user      string
	exists    func(iface string) bool
}

func thisEnvironment() environment {
	e := environment{system: runtime.GOOS, root: os.Geteuid() == 0, user: userName()}
	for _, file := range []string{"/.dockerenv", "/run/.containerenv"} {
		if _, err := os.Stat(file); err == nil {
			e.container = true
		}
	}
	// systemd-nspawn, LXC and Podman set this variable (systemd's Container Interface).
	e.container = e.container || os.Getenv("container") != ""
	e.exists = func(iface string) bool { _, err := net.InterfaceByName(iface); return err == nil }
	return e
}

// userName returns the name of the current user, or the numeric ID if the user has no name.
func userName() string {
	uid := strconv.Itoa(os.Getuid())
	if u, err := user.LookupId(uid); err == nil && u.Username != "" {
		return u.Username
	}
	return uid
}

// asRoot returns a command line that runs the commands as root. It uses sudo unless the user is root.
func (e *environment) asRoot(commands ...string) string {
	switch {
	case e.root:
		return strings.Join(commands, " && ")
	case len(commands) == 1:
		return "sudo " + commands[0]
	}
	return "sudo sh -c '" + strings.Join(commands, " && ") + "'"
}

// noTAP returns a line that says why there is no TAP or TUN, followed by lines that say how to get one.
func (e *environment) noTAP(err *tapError) []string {
	const containerAdvice = "to get one in a container: start it with --cap-add NET_ADMIN --device /dev/net/tun"
	why := fmt.Sprintf("no %s device: %v", err.kind(), err)
	var perm *nic.TAPPermissionError
	switch {
	case e.system != "linux":
		return []string{why, "to get one: run usernet on Linux, or install tap-windows6 (Windows) or tuntaposx (macOS)"}
	case errors.As(err, &perm):
		// The text of perm contains the commands. Use perm.Err, because the commands are the second line.
		why = fmt.Sprintf("no %s device: %v", err.kind(), perm.Err)
		// Root lacks the permission only if its capabilities were removed, as in a container.
		if e.root {
			return []string{why, containerAdvice}
		}
		lines := []string{why, "to get one: " + e.asRoot(perm.Commands(e.user)...)}
		if e.container {
			lines = append(lines, containerAdvice)
		}
		return lines
	case errors.Is(err, syscall.EBUSY):
		return []string{why, fmt.Sprintf("another program uses %s: -%s %s makes another device", err.name, strings.ToLower(err.kind()), e.nextTAP(err.name))}
	case e.container:
		return []string{why, containerAdvice}
	case errors.Is(err, fs.ErrNotExist):
		return []string{why, "to get one: " + e.asRoot("modprobe tun")}
	}
	return []string{why}
}

// nextTAP returns the first name after name that no interface has: usernet1 after usernet0.
func (e *environment) nextTAP(name string) string {
	stem := strings.TrimRight(name, "0123456789")
	n, _ := strconv.Atoi(name[len(stem):])
	for {
		n++
		if next := stem + strconv.Itoa(n); !e.exists(next) {
			return next
		}
	}
}

// noVLAN returns a message with the commands that give the kernel an interface for a VLAN on the TAP. host is
// its address, with the prefix length.
func (e *environment) noVLAN(tap string, vlan int, host string) string {
	name := fmt.Sprintf("%s.%d", tap, vlan)
	return fmt.Sprintf("the kernel has no address in VLAN %d on %s; run: %s", vlan, tap, e.asRoot(
		fmt.Sprintf("ip link add link %s name %s type vlan id %d", tap, name, vlan),
		fmt.Sprintf("ip addr add %s dev %s", host, name),
		fmt.Sprintf("ip link set %s up", name)))
}

// notReady returns a message that says what the user's TAP lacks and which commands to run. It returns
// "" if hasAddr and up are set: the kernel's side has an address and is up. host is the address to add
// to the kernel's side, with its prefix length.
func (e *environment) notReady(tap, host string, hasAddr, up bool) string {
	var lacks, commands []string
	if !hasAddr {
		lacks = append(lacks, "has no address")
		commands = append(commands, fmt.Sprintf("ip addr add %s dev %s", host, tap))
	}
	if !up {
		lacks = append(lacks, "is down")
		commands = append(commands, fmt.Sprintf("ip link set %s up", tap))
	}
	if lacks == nil {
		return ""
	}
	return fmt.Sprintf("%s %s, so no packets pass; run: %s", tap, strings.Join(lacks, " and "), e.asRoot(commands...))
}
