package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// A gvisorTAP is a link endpoint for gVisor on a TAP device. With offloads it uses IFF_VNET_HDR and
// super-frames in both directions, which gVisor's own endpoint, fdbased, does not do on a TAP. Like
// usernet, gvisorTAP reads through the runtime's poller, and passes frames to the stack on the
// goroutine that reads them. Like fdbased, it reads a frame into several buffers and copies nothing.
type gvisorTAP struct {
	gvisorLink
	file *os.File
	raw  syscall.RawConn
}

var (
	_ stack.LinkEndpoint = (*gvisorTAP)(nil)
	_ stack.GSOEndpoint  = (*gvisorTAP)(nil)
)

const vnetHeader = 10 // the length of struct virtio_net_hdr in bytes

func newGVisorTAP(offload bool) (*gvisorTAP, error) {
	file, err := openTAP(offload)
	if err != nil {
		return nil, fmt.Errorf("gVisor's TAP: %w", err)
	}
	e := &gvisorTAP{file: file}
	e.gvisorLink = gvisorLink{
		offload: offload, mac: "\x02\x00\x00\x00\x00\x02",
		send: e.write, begin: func() { go e.read() }, end: func() { e.file.Close() },
	}
	if e.raw, err = e.file.SyscallConn(); err != nil {
		e.file.Close()
		return nil, err
	}
	return e, nil
}

// openTAP makes a TAP device whose kernel side has nearAddr. The returned file works with the runtime's
// poller.
func openTAP(offload bool) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := attachTAP(fd, offload); err != nil {
		unix.Close(fd)
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "/dev/net/tun")
	for _, args := range [][]string{
		{"addr", "add", nearAddr + prefixed, "dev", tapName},
		{"link", "set", tapName, "up"},
	} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			file.Close()
			return nil, fmt.Errorf("ip %v: %w: %s", args, err, out)
		}
	}
	return file, nil
}

func attachTAP(fd int, offload bool) error {
	req, err := unix.NewIfreq(tapName)
	if err != nil {
		return err
	}
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if offload {
		flags |= unix.IFF_VNET_HDR
	}
	req.SetUint16(flags)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return err
	}
	if !offload {
		return unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, 0)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, vnetHeader); err != nil {
		return err
	}
	return unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4|unix.TUN_F_TSO6)
}

// bufferSizes are the sizes of the buffers into which read reads a frame, as in fdbased. A short frame
// uses few buffers. All buffers together, 65664 bytes, hold the longest frame: an Ethernet header and
// an IP packet of 65535 bytes.
var bufferSizes = [...]int{128, 256, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768}

// read reads frames until the file is closed.
func (e *gvisorTAP) read() {
	var views [len(bufferSizes)]*buffer.View
	var vnet [vnetHeader]byte
	iovecs := make([]unix.Iovec, 0, len(views)+1)
	for {
		iovecs = iovecs[:0]
		skip := 0
		if e.offload {
			skip = vnetHeader
			iovecs = append(iovecs, unix.Iovec{Base: &vnet[0], Len: vnetHeader})
		}
		for i, v := range views {
			if v == nil {
				v = buffer.NewViewSize(bufferSizes[i])
				views[i] = v
			}
			iovecs = append(iovecs, unix.Iovec{Base: v.BasePtr(), Len: uint64(v.Size())})
		}
		n, err := e.readv(iovecs)
		if err != nil {
			return
		}
		if n -= skip; n <= header.EthernetMinimumSize {
			continue
		}
		var b buffer.Buffer
		for i, left := 0, n; left > 0; i++ {
			v := views[i]
			views[i] = nil
			if left < v.Size() {
				v.CapLength(left)
			}
			left -= v.Size()
			b.Append(v)
		}
		e.deliver(b)
	}
}

func (e *gvisorTAP) readv(iovecs []unix.Iovec) (n int, err error) {
	var errno unix.Errno
	err = e.raw.Read(func(fd uintptr) bool {
		for {
			var r uintptr
			r, _, errno = unix.Syscall(unix.SYS_READV, fd, uintptr(unsafe.Pointer(&iovecs[0])), uintptr(len(iovecs)))
			if errno != unix.EINTR {
				n = int(r)
				return errno != unix.EAGAIN
			}
		}
	})
	if err == nil && errno != 0 {
		err = errno
	}
	return n, err
}

func (e *gvisorTAP) write(pkt *stack.PacketBuffer) tcpip.Error {
	var vnet [vnetHeader]byte
	var array [8]unix.Iovec
	iovecs := array[:0]
	if e.offload {
		putVnet(vnet[:], pkt)
		iovecs = append(iovecs, unix.Iovec{Base: &vnet[0], Len: vnetHeader})
	}
	for _, s := range pkt.AsSlices() {
		if len(s) > 0 {
			iovecs = append(iovecs, unix.Iovec{Base: &s[0], Len: uint64(len(s))})
		}
	}
	// Control suffices instead of Write: a TAP accepts or drops a frame without blocking.
	var errno unix.Errno
	err := e.raw.Control(func(fd uintptr) {
		_, _, errno = unix.Syscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&iovecs[0])), uintptr(len(iovecs)))
	})
	if err != nil {
		return &tcpip.ErrClosedForSend{}
	}
	if errno != 0 {
		return tcpip.TranslateErrno(errno)
	}
	return nil
}

// putVnet writes the struct virtio_net_hdr for a packet to b, which must be zeroed.
func putVnet(b []byte, pkt *stack.PacketBuffer) {
	gso := &pkt.GSOOptions
	if gso.Type == stack.GSONone {
		return
	}
	ne := binary.NativeEndian
	ne.PutUint16(b[2:], uint16(pkt.HeaderSize()))
	if gso.NeedsCsum {
		b[0] = unix.VIRTIO_NET_HDR_F_NEEDS_CSUM
		ne.PutUint16(b[6:], header.EthernetMinimumSize+gso.L3HdrLen)
		ne.PutUint16(b[8:], gso.CsumOffset)
	}
	if pkt.Data().Size() > int(gso.MSS) {
		b[1] = unix.VIRTIO_NET_HDR_GSO_TCPV4
		ne.PutUint16(b[4:], gso.MSS)
	}
}
