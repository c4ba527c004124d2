package nic

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"github.com/songgao/water"
	"golang.org/x/sys/unix"
)

const tunFile = "/dev/net/tun"

// tapWriter writes frames to the device's file.
type tapWriter struct {
	raw syscall.RawConn
	ops sync.Pool // of *tapWrite
}

func openTAP(cfg TAPConfig) (*TAP, error) {
	before, err := net.InterfaceByName(cfg.Name)
	exists := cfg.Name != "" && err == nil
	if err := probeTAP(cfg.Name, exists); err != nil {
		return nil, tapError(cfg, err)
	}
	wcfg := water.Config{DeviceType: water.TAP}
	wcfg.Name = cfg.Name
	// Without it water would clear the persistence that the device's owner gave
	// it. A device that is there and free has it set already.
	wcfg.Persist = exists
	ifce, err := water.New(wcfg)
	if err != nil {
		return nil, tapError(cfg, err)
	}
	file, ok := ifce.ReadWriteCloser.(*os.File)
	if !ok {
		ifce.Close()
		return nil, fmt.Errorf("nic: open TAP %s: water gave no file", cfg.Name)
	}
	t, err := newTAP(cfg, ifce.Name(), file, before, exists)
	if err != nil {
		file.Close()
		return nil, err
	}
	return t, nil
}

// newTAP makes a TAP of an attached file.
func newTAP(cfg TAPConfig, name string, file *os.File, before *net.Interface, exists bool) (*TAP, error) {
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("nic: open TAP %s: %w", name, err)
	}
	now, err := net.InterfaceByName(name)
	if err != nil {
		return nil, fmt.Errorf("nic: open TAP %s: %w", name, err)
	}
	t := &TAP{created: !exists || now.Index != before.Index}
	t.raw = raw
	var persist error
	err = raw.Control(func(fd uintptr) {
		// A program that this one starts must not keep the device.
		unix.CloseOnExec(int(fd))
		if exists && t.created {
			// It was deleted since, and made again by us.
			persist = unix.IoctlSetInt(int(fd), unix.TUNSETPERSIST, 0)
		}
	})
	if err = errors.Join(err, persist); err != nil {
		return nil, fmt.Errorf("nic: open TAP %s: %w", name, err)
	}
	if t.created {
		if err := setUpTAP(name, now.Index, cfg); err != nil {
			return nil, fmt.Errorf("nic: set up TAP %s: %w", name, err)
		}
		now.MTU = cfg.MTU
	}
	copy(t.hostMAC[:], now.HardwareAddr)
	t.line.src = tapFile{file}
	// The interface's MTU may be raised while it is open.
	t.line.max = maxPacket + etherHeaderLen + vlanTagLen
	t.line.link = Link{Name: name, MAC: cfg.MAC, MTU: now.MTU, Medium: Ethernet}
	return t, nil
}

// tapFile is an attached file.
type tapFile struct{ *os.File }

// Read reads a frame.
func (f tapFile) Read(b []byte) (int, error) {
	n, err := f.File.Read(b)
	if err != nil && !errors.Is(err, os.ErrClosed) {
		var errno syscall.Errno
		if !errors.As(err, &errno) {
			// While the interface is being deleted the poller may know before
			// read does. Its error is not exported; read's comes to the same.
			err = os.NewSyscallError("read", unix.EBADFD)
		}
	}
	return n, err
}

// probeTAP finds out whether water will be able to open the device. When it is
// not, water leaves a file open that nobody can close any more; a caller who
// waits for a device to be free would run out of descriptors.
func probeTAP(name string, exists bool) error {
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
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		return unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	// With neither kind of device asked for, Linux checks the permission to make
	// one and then finds the request invalid.
	req.SetUint16(unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != unix.EINVAL {
		return err
	}
	return nil
}

// tapError says what an error of the system means for a TAP.
func tapError(cfg TAPConfig, err error) error {
	var hint string
	switch {
	case errors.Is(err, os.ErrPermission):
		return &TAPPermissionError{Name: cfg.Name, Addr: cfg.Addr, Err: err}
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		hint = " (" + tunFile + " is missing: modprobe tun)"
	case errors.Is(err, unix.EBUSY):
		hint = " (another process, or this one, has it open)"
	case errors.Is(err, unix.EINVAL):
		hint = " (the interface exists and is not a TAP device, or is one with several queues)"
	}
	return fmt.Errorf("nic: open TAP %s: %w%s", cfg.Name, err, hint)
}

// setUpTAP gives a new interface its MTU and address and sets it up.
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
		r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING | unix.IFF_BROADCAST | unix.IFF_MULTICAST)
		return nil
	})
	if err == nil && cfg.Addr.Addr().Is6() {
		err = os.NewSyscallError("set address", setAddr6(index, cfg.Addr))
	}
	return err
}

// setAddr6 adds an IPv6 address to an interface that is up.
func setAddr6(index int, addr netip.Prefix) error {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// struct in6_ifreq of linux/ipv6.h
	req := struct {
		addr   [16]byte
		prefix uint32
		index  int32
	}{addr.Addr().As16(), uint32(addr.Bits()), int32(index)}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFADDR, uintptr(unsafe.Pointer(&req)))
	if errno != 0 {
		return errno
	}
	return nil
}

// tapWrite is one call of Send. It is pooled, so that the closure and the
// vector are not allocated for each.
type tapWrite struct {
	line  *line
	batch []Frame
	n     int   // frames taken
	err   error // what ended the device
	bytes int
	sent  int
	iov   [2]unix.Iovec
	run   func(fd uintptr) bool
}

func (w *tapWriter) write(l *line, batch []Frame) (int, error) {
	op, _ := w.ops.Get().(*tapWrite)
	if op == nil {
		op = new(tapWrite)
		op.run = op.frames
	}
	op.line, op.batch, op.n, op.err, op.bytes, op.sent = l, batch, 0, nil, 0, 0
	err := w.raw.Write(op.run)
	if err == nil {
		err = op.err
	}
	n := op.n
	l.countSent(op.sent, op.bytes)
	op.batch, op.iov = nil, [2]unix.Iovec{}
	w.ops.Put(op)
	return n, err
}

// frames writes the batch. It always reports true: a full device is the
// caller's to wait for, or not.
func (op *tapWrite) frames(fd uintptr) bool {
	for op.n < len(op.batch) {
		f := &op.batch[op.n]
		if !op.line.link.carries(f) {
			op.line.sendDropped.Add(1)
			op.n++
			continue
		}
		switch errno := op.frame(fd, f); errno {
		case 0:
			op.sent++
			op.bytes += f.Len()
		case unix.EINTR:
			continue
		case unix.EAGAIN, unix.ENOBUFS:
			return true
		case unix.EBADFD, unix.EBADF, unix.ENODEV, unix.ENXIO:
			// The interface was deleted.
			op.err = os.NewSyscallError("write", errno)
			return true
		default:
			// EIO when the interface is down; otherwise the frame's fault.
			op.line.sendDropped.Add(1)
		}
		op.n++
	}
	return true
}

// frame writes one frame.
func (op *tapWrite) frame(fd uintptr, f *Frame) unix.Errno {
	op.iov[0].Base = &f.Head[0]
	op.iov[0].SetLen(len(f.Head))
	count := 1
	if len(f.Body) > 0 {
		op.iov[1].Base = &f.Body[0]
		op.iov[1].SetLen(len(f.Body))
		count = 2
	}
	_, _, errno := unix.Syscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&op.iov[0])), uintptr(count))
	return errno
}
