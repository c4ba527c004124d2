package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/internal/netns"
)

// A lab holds the network namespaces in which everything runs. The harness touches nothing outside
// these namespaces. The namespace tap has only a loopback until a stack makes its device. A veth pair
// joins the two namespaces in veth. A second veth pair, without offloads, joins those in noGSO. A third, with BIG TCP,
// joins those in bigTCP.
type lab struct {
	tap                 namespace
	veth, noGSO, bigTCP [2]namespace // near and far
	bridge              namespace    // with the bridge br0; only for -links
	lossy               [2]namespace // without devices, for a kernelLink; only for -growth
	made                []namespace
	// ccs are the congestion controls that the kernel's sockets may have. The first one is the
	// default of the namespaces.
	ccs []string
}

// cc returns the congestion control to start with: cubic if sockets may have it, and otherwise the
// default. Without loss, cubic costs half as much as bbr, which paces.
func (l *lab) cc() string {
	if len(l.ccs) == 0 || slices.Contains(l.ccs, "cubic") {
		return "cubic"
	}
	return l.ccs[0]
}

// A namespace is a network namespace.
type namespace struct{ netns.Namespace }

const labPrefix = "usernet-bench-"

func newLab() (*lab, error) {
	sweep()
	l := &lab{}
	if err := l.build(); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (l *lab) build() (err error) {
	if l.tap, err = l.namespace("tap"); err != nil {
		return err
	}
	for i, side := range []string{"near", "far"} {
		if l.veth[i], err = l.namespace(side); err != nil {
			return err
		}
		if l.noGSO[i], err = l.namespace("plain" + side); err != nil {
			return err
		}
		if l.bigTCP[i], err = l.namespace("big" + side); err != nil {
			return err
		}
	}
	for _, pair := range [][2]namespace{l.veth, l.noGSO, l.bigTCP} {
		if err := join(pair); err != nil {
			return err
		}
	}
	for i := range 2 {
		if err := l.noGSO[i].Do(func() error { return offloadsOff(vethName) }); err != nil {
			return err
		}
		if err := l.bigTCP[i].Do(func() error { return raiseGSO(vethName, bigGSO) }); err != nil {
			return err
		}
	}
	return l.tap.Do(func() (err error) {
		l.ccs, err = settableCCs()
		return err
	})
}

// sysctls stop background traffic in a namespace, and provide enough ports for workloads that make a
// connection for each operation. They leave the buffer limits at the kernel's defaults.
var sysctls = map[string]string{
	"net/ipv6/conf/all/disable_ipv6":     "1",
	"net/ipv6/conf/default/disable_ipv6": "1",
	"net/ipv4/ip_local_port_range":       "10000 65535",
	"net/ipv4/tcp_tw_reuse":              "1",
	"net/ipv4/tcp_max_syn_backlog":       "4096",
	"net/core/somaxconn":                 "4096",
}

func (l *lab) namespace(name string) (namespace, error) {
	prefix := labPrefix
	if p := os.Getenv("USERNET_NETNS"); p != "" {
		prefix = p + "-bench-" // .ci/run removes what a killed test leaves
	}
	made, err := netns.Make(fmt.Sprintf("%s%d-%s", prefix, os.Getpid(), name))
	if err != nil {
		return namespace{}, err
	}
	ns := namespace{made}
	l.made = append(l.made, ns)
	return ns, ns.Do(func() error {
		for key, value := range sysctls {
			path := "/proc/sys/" + key
			if _, err := os.Stat(path); err != nil {
				continue // the kernel has no such setting, or not for each namespace
			}
			if err := os.WriteFile(path, []byte(value), 0); err != nil {
				return err
			}
		}
		return nil
	})
}

// vethName is the name of both ends of a veth pair.
const vethName = "veth0"

// join connects two namespaces with a veth pair.
func join(ns [2]namespace) error {
	near, far := string(ns[0].Namespace), string(ns[1].Namespace)
	for _, args := range [][]string{
		{"-n", near, "link", "add", vethName, "type", "veth", "peer", "name", vethName, "netns", far},
		{"-n", near, "addr", "add", nearAddr + prefixed, "dev", vethName},
		{"-n", far, "addr", "add", farAddr + prefixed, "dev", vethName},
		{"-n", near, "link", "set", vethName, "up"},
		{"-n", far, "link", "set", vethName, "up"},
	} {
		if err := ip(args...); err != nil {
			return err
		}
	}
	return nil
}

// offloadsOff does what ethtool -K ifc tso off gso off gro off does.
func offloadsOff(ifc string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, cmd := range []uint32{unix.ETHTOOL_STSO, unix.ETHTOOL_SGSO, unix.ETHTOOL_SGRO} {
		value := struct{ cmd, data uint32 }{cmd: cmd} // data 0 turns the offload off
		var req struct {
			name [unix.IFNAMSIZ]byte
			data unsafe.Pointer
			_    [16]byte
		}
		copy(req.name[:], ifc)
		req.data = unsafe.Pointer(&value)
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
		if errno != 0 {
			return fmt.Errorf("ethtool command %#x on %s: %w", cmd, ifc, errno)
		}
	}
	return nil
}

// makeBridge makes the namespace bridge.
func (l *lab) makeBridge() (err error) {
	if l.bridge, err = l.namespace("bridge"); err != nil {
		return err
	}
	// The hooks of iptables see frames of a bridge by default, but not those with tags.
	err = l.bridge.Do(func() error { return os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte("0"), 0) })
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := ip("-n", string(l.bridge.Namespace), "link", "add", bridgeName, "type", "bridge", "mcast_snooping", "0"); err != nil {
		return err
	}
	return ip("-n", string(l.bridge.Namespace), "link", "set", bridgeName, "up")
}

// makeLossy makes the namespaces for a kernelLink.
func (l *lab) makeLossy() (err error) {
	for i, side := range []string{"lossynear", "lossyfar"} {
		if l.lossy[i], err = l.namespace(side); err != nil {
			return err
		}
	}
	return nil
}

// close removes the namespaces.
func (l *lab) close() {
	for _, ns := range l.made {
		ns.Remove()
	}
	l.made = nil
}

// sweep removes the namespaces that a killed harness has left.
func sweep() {
	names, _ := filepath.Glob("/run/netns/" + labPrefix + "*")
	for _, path := range names {
		name := filepath.Base(path)
		pid, _, _ := strings.Cut(strings.TrimPrefix(name, labPrefix), "-")
		n, err := strconv.Atoi(pid)
		if err == nil && unix.Kill(n, 0) == unix.ESRCH {
			netns.Namespace(name).Remove()
		}
	}
}

func ip(args ...string) error {
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// start starts the command in the namespace, on the given core. If core is negative, the command may
// use all cores of this process.
func (ns namespace) start(cmd *exec.Cmd, core int) error {
	return ns.Do(func() error {
		if core < 0 {
			return cmd.Start()
		}
		var all, one unix.CPUSet
		if err := unix.SchedGetaffinity(0, &all); err != nil {
			return err
		}
		left := core
		for cpu := range 8 * int(unsafe.Sizeof(all)) { // find the permitted CPU with the index core
			if !all.IsSet(cpu) {
				continue
			}
			if left == 0 {
				one.Set(cpu)
				break
			}
			left--
		}
		if err := unix.SchedSetaffinity(0, &one); err != nil {
			return err
		}
		defer unix.SchedSetaffinity(0, &all)
		return cmd.Start()
	})
}
