package nic

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/songgao/water"
	"golang.org/x/sys/unix"
)

const tunFile = "/dev/net/tun"

// open opens the device. If offloads are wanted and the kernel has them, it attaches to the device
// itself, because package water does not support them. Otherwise it opens the device through water.
func (t *tunTap) open(m Medium, cfg TAPConfig) error {
	before, err := net.InterfaceByName(cfg.Name)
	exists := cfg.Name != "" && err == nil
	several := cfg.Queues > 1
	var file *os.File
	var name string
	var off tapOffload
	if !cfg.NoOffload {
		if file, name, off, err = attachOffload(m, cfg.Name, several); err != nil {
			return tapError(m, cfg, exists, err)
		}
	}
	if file == nil {
		if file, name, err = attachPlain(m, cfg.Name, exists, several); err != nil {
			return tapError(m, cfg, exists, err)
		}
	}
	files := []*os.File{file}
	for err == nil && len(files) < cfg.Queues {
		if file, err = attachQueue(m, name, off.header > 0); err == nil {
			files = append(files, file)
		}
	}
	if err == nil {
		t.tapWriter.medium, t.off = m, off
		err = t.begin(cfg, name, files, before, exists)
	}
	if err != nil {
		for _, file := range files {
			file.Close()
		}
		return fmt.Errorf("nic: open %s %s: %w", m.tunTap(), name, err)
	}
	return nil
}

// follow applies a new state of the kernel's interface to the link.
func (t *tunTap) follow(st linkState) {
	link, was := *t.current(), *t.hostMAC.Load()
	t.setHostMAC(st.mac[:])
	if link.MTU == st.mtu && link.Up == st.up && was == st.mac {
		return
	}
	link.MTU, link.Up = st.mtu, st.up
	t.setLink(link)
}

// nonblocking reports whether Send does not block.
func (t *tunTap) nonblocking() bool { return true }

// tapOffload describes the offloads of an attached file.
type tapOffload struct {
	header int  // length of the header before each frame: vnetHeaderLen, or 0 without offloads
	uso    bool // whether the kernel segments UDP super-frames
	jumbo  bool // whether a large IPv6 super-frame needs a Jumbo Payload option: see bigTCP
}

// attachOffload attaches to a device with offloads. If the kernel refuses for a reason that may not
// apply without offloads, it returns neither a file nor an error.
func attachOffload(m Medium, name string, several bool) (*os.File, string, tapOffload, error) {
	off := tapOffload{header: vnetHeaderLen}
	fd, err := unix.Open(tunFile, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, "", off, err
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(tapFlags(m, true, several))
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	switch err {
	case nil:
	case unix.EPERM, unix.EACCES, unix.EBUSY:
		unix.Close(fd)
		return nil, "", off, err
	default:
		unix.Close(fd)
		return nil, "", off, nil
	}
	if off.uso, err = setOffload(fd); err != nil {
		unix.Close(fd)
		return nil, "", off, nil
	}
	// NewFile comes last: the poller cannot use the file before a device is attached.
	return os.NewFile(uintptr(fd), tunFile), req.Name(), off, nil
}

// tapFlags returns the flags for attaching a file. They replace those of the last user of an existing
// device. Without IFF_NO_PI, four bytes with flags and an EtherType would precede each frame.
func tapFlags(m Medium, vnet, several bool) uint16 {
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if m == IP {
		flags = unix.IFF_TUN | unix.IFF_NO_PI
	}
	if vnet {
		flags |= unix.IFF_VNET_HDR
	}
	if several {
		flags |= unix.IFF_MULTI_QUEUE
	}
	return flags
}

// attachQueue attaches one more queue to a device that this process has open.
func attachQueue(m Medium, name string, vnet bool) (*os.File, error) {
	fd, err := unix.Open(tunFile, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(tapFlags(m, vnet, true))
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("attach a queue: %w", err)
	}
	return os.NewFile(uintptr(fd), tunFile), nil
}

// setOffload turns on the virtio header, super-frames of TCP and, if the kernel supports them,
// super-frames of UDP. uso reports whether super-frames of UDP are on. setOffload sets all
// offloads, because an existing device keeps the settings of its last user.
func setOffload(fd int) (uso bool, err error) {
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, vnetHeaderLen); err != nil {
		return false, err
	}
	little := int(binary.NativeEndian.Uint16([]byte{1, 0}))
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETLE, little&1); err != nil {
		return false, err
	}
	const tcp = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6
	// Linux has USO since 6.2.
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, tcp|unix.TUN_F_USO4|unix.TUN_F_USO6); err == nil {
		return true, nil
	}
	return false, unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, tcp)
}

// attachPlain attaches to a device without offloads.
func attachPlain(m Medium, name string, exists, several bool) (*os.File, string, error) {
	if err := probeTAP(m, name, exists, several); err != nil {
		return nil, "", err
	}
	wcfg := water.Config{DeviceType: waterType(m)}
	wcfg.Name, wcfg.MultiQueue = name, several
	// An existing device that no process has open is persistent and must stay so. If Persist were
	// false, water would make the device non-persistent.
	wcfg.Persist = exists
	ifce, err := water.New(wcfg)
	if err != nil {
		return nil, "", err
	}
	file, ok := ifce.ReadWriteCloser.(*os.File)
	if !ok {
		ifce.Close()
		return nil, "", errors.New("water gave no file")
	}
	return file, ifce.Name(), nil
}

// begin makes the device of attached files, one for each queue.
func (t *tunTap) begin(cfg TAPConfig, name string, files []*os.File, before *net.Interface, exists bool) error {
	m, off := t.tapWriter.medium, t.off
	now, err := net.InterfaceByName(name)
	if err != nil {
		return err
	}
	t.created = !exists || now.Index != before.Index
	for _, file := range files {
		raw, err := file.SyscallConn()
		if err != nil {
			return err
		}
		t.queues = append(t.queues, raw)
		t.rxLoop.more = append(t.rxLoop.more, newTAPReader(m, file, raw, off.header, cfg.Spin))
	}
	t.rxLoop.src, t.rxLoop.more = t.rxLoop.more[0], t.rxLoop.more[1:]
	var ctl error
	err = t.queues[0].Control(func(fd uintptr) {
		// Child processes must not keep the device open.
		unix.CloseOnExec(int(fd))
		if exists && t.created {
			// The device was deleted after the check, and attaching created a new one.
			ctl = unix.IoctlSetInt(int(fd), unix.TUNSETPERSIST, 0)
		}
		if off.header == 0 {
			// The last user may have left offloads on.
			ctl = errors.Join(ctl, unix.IoctlSetInt(int(fd), unix.TUNSETOFFLOAD, 0))
		}
	})
	if err = errors.Join(err, ctl); err != nil {
		return err
	}
	if t.created {
		if err := setUpTAP(name, now.Index, cfg); err != nil {
			return fmt.Errorf("set it up: %w", err)
		}
		now.MTU = cfg.MTU
	}
	t.setHostMAC(now.HardwareAddr)
	link := Link{Name: name, MAC: cfg.MAC, MTU: now.MTU, Medium: m, Up: true}
	if off.header > 0 {
		var gso int
		gso, t.off.jumbo = tapGSO(cfg.GSO, now)
		link.GSO, link.TxChecksum = gso, true
	}
	t.setLink(link)
	t.rxLoop.watch = watchLink(now.Index, t.follow)
	return nil
}

// probeTAP checks that water will be able to open the device. If water fails, it leaks a
// descriptor, so a caller who polls for a free device would run out of descriptors.
func probeTAP(m Medium, name string, exists, several bool) error {
	fd, err := unix.Open(tunFile, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if exists {
		req.SetUint16(tapFlags(m, false, several))
		return unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	// If the request names neither a TAP nor a TUN device, Linux checks the permission to create
	// one and then rejects the request as invalid.
	req.SetUint16(unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != unix.EINVAL {
		return err
	}
	return nil
}

// tapError wraps a system error from opening a TAP or a TUN in an error that adds the likely reason.
func tapError(m Medium, cfg TAPConfig, exists bool, err error) error {
	var hint string
	switch {
	case errors.Is(err, os.ErrPermission):
		return &TAPPermissionError{Medium: m, Name: cfg.Name, Addr: cfg.Addr, Exists: exists, Err: err, user: currentUser()}
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		hint = " (" + tunFile + " is missing: modprobe tun)"
	case errors.Is(err, unix.EBUSY):
		hint = " (another process, or this one, has it open)"
	case errors.Is(err, unix.EINVAL):
		hint = " (the interface exists and is not a %s device, or is one with several queues)"
		if cfg.Queues > 1 {
			hint = " (the interface exists and is not a %s device with several queues)"
		}
		hint = fmt.Sprintf(hint, m.tunTap())
	}
	return fmt.Errorf("nic: open %s %s: %w%s", m.tunTap(), cfg.Name, err, hint)
}

// waterType returns the type of a device in package water.
func waterType(m Medium) water.DeviceType {
	if m == IP {
		return water.TUN
	}
	return water.TAP
}

// setUpTAP sets the MTU and the address of a new interface and brings it up.
func setUpTAP(name string, index int, cfg TAPConfig) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	set := func(what string, request uint, fill func(*unix.Ifreq) error) error {
		req, err := unix.NewIfreq(name)
		if err == nil {
			err = fill(req)
		}
		if err == nil {
			err = unix.IoctlIfreq(fd, request, req)
		}
		return os.NewSyscallError(what, err)
	}
	err = set("set MTU", unix.SIOCSIFMTU, func(r *unix.Ifreq) error {
		r.SetUint32(uint32(cfg.MTU))
		return nil
	})
	if err != nil {
		return err
	}
	if addr := cfg.Addr.Addr(); addr.Is4() {
		err = set("set address", unix.SIOCSIFADDR, func(r *unix.Ifreq) error {
			return r.SetInet4Addr(addr.AsSlice())
		})
		if err == nil {
			err = set("set netmask", unix.SIOCSIFNETMASK, func(r *unix.Ifreq) error {
				return r.SetInet4Addr(net.CIDRMask(cfg.Addr.Bits(), 32))
			})
		}
		if err != nil {
			return err
		}
	}
	err = set("set up", unix.SIOCSIFFLAGS, func(r *unix.Ifreq) error {
		// Keep the other flags: without IFF_NOARP the kernel would run Duplicate Address Detection on
		// a TUN.
		err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, r)
		r.SetUint16(r.Uint16() | unix.IFF_UP)
		return err
	})
	for _, addr := range []netip.Prefix{cfg.Addr, cfg.Addr6} {
		if err == nil && addr.Addr().Is6() {
			err = os.NewSyscallError("set address", setAddr6(index, addr))
		}
	}
	return err
}
