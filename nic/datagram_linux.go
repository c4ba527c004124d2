package nic

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The maximum number of frames that one system call moves.
const (
	datagramReadBatch  = 32
	datagramWriteBatch = 32
)

// datagramSpace is the size in bytes that the device requests for each of the socket's two buffers.
const datagramSpace = 4 << 20

// datagramBuffer is the state of a datagramSocket that receives and sends several frames with each
// system call.
type datagramBuffer struct {
	raw       syscall.RawConn
	connected bool // the kernel knows the peer
	ops       sync.Pool
	peer      atomic.Pointer[rawAddr] // nil if there is no peer yet, or if connected is set

	// Only the reader uses these.
	fill  func(fd uintptr) bool
	bufs  [datagramReadBatch][]byte
	iovs  [datagramReadBatch]unix.Iovec
	msgs  [datagramReadBatch]mmsghdr
	from  [datagramReadBatch]rawAddr
	n     int // messages of the last read
	errno syscall.Errno
	batch [datagramReadBatch]Frame
}

// A rawAddr is a socket address in the kernel's form.
type rawAddr struct {
	b   [unix.SizeofSockaddrUnix]byte // a Unix socket has the longest address
	len uint32
}

// newRawAddr returns the kernel's form of an address.
func newRawAddr(a net.Addr) *rawAddr {
	r := new(rawAddr)
	be := binary.BigEndian
	switch a := a.(type) {
	case *net.UnixAddr:
		binary.NativeEndian.PutUint16(r.b[:], unix.AF_UNIX)
		r.len = uint32(2 + copy(r.b[2:len(r.b)-1], a.Name) + 1)
		if r.b[2] == '@' { // an abstract address: it begins with a NUL, and does not end with one
			r.b[2] = 0
			r.len--
		}
	case *net.UDPAddr:
		ap := unmapped(a.AddrPort())
		be.PutUint16(r.b[2:], ap.Port())
		if ap.Addr().Is4() {
			binary.NativeEndian.PutUint16(r.b[:], unix.AF_INET)
			*(*[4]byte)(r.b[4:]) = ap.Addr().As4()
			r.len = unix.SizeofSockaddrInet4
			break
		}
		binary.NativeEndian.PutUint16(r.b[:], unix.AF_INET6)
		*(*[16]byte)(r.b[8:]) = ap.Addr().As16()
		zone, _ := strconv.Atoi(a.Zone) // a number, or the name of an interface
		if ifc, err := net.InterfaceByName(a.Zone); err == nil {
			zone = ifc.Index
		}
		binary.NativeEndian.PutUint32(r.b[24:], uint32(zone))
		r.len = unix.SizeofSockaddrInet6
	}
	return r
}

// isUDP reports whether a UDP datagram comes from addr, whatever its zone.
func (r *rawAddr) isUDP(addr netip.AddrPort) bool {
	if binary.BigEndian.Uint16(r.b[2:]) != addr.Port() {
		return false
	}
	if addr.Addr().Is4() {
		return r.len == unix.SizeofSockaddrInet4 && [4]byte(r.b[4:8]) == addr.Addr().As4()
	}
	return r.len == unix.SizeofSockaddrInet6 && [16]byte(r.b[8:24]) == addr.Addr().As16()
}

// setUp prepares the socket. If it fails, it closes the socket.
func (s *datagramSocket) setUp() error {
	raw, err := s.conn.(syscall.Conn).SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) {
			// A failure only means more loss.
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, datagramSpace)
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF, datagramSpace)
		})
	}
	if err != nil {
		s.Close()
		return err
	}
	s.io.raw = raw
	s.io.fill = s.receive
	if s.remote.addr != nil {
		s.io.peer.Store(newRawAddr(s.remote.addr))
	}
	return nil
}

// makeBuffers allocates the buffer of each message.
func (s *datagramSocket) makeBuffers() {
	// Each buffer has room for one byte more than the longest frame. read drops a frame that fills the buffer: it is
	// too long.
	size := s.max + 1
	all := make([]byte, size*datagramReadBatch)
	for i := range s.io.bufs {
		s.io.bufs[i] = all[i*size:][:size:size]
		s.io.iovs[i].Base = &s.io.bufs[i][0]
		s.io.iovs[i].SetLen(size)
		hdr := &s.io.msgs[i].hdr
		hdr.Iov = &s.io.iovs[i]
		hdr.SetIovlen(1)
		if !s.io.connected {
			hdr.Name = &s.io.from[i].b[0]
			hdr.Namelen = uint32(len(s.io.from[i].b))
		}
	}
}

// read waits for frames and returns those that have arrived.
func (s *datagramSocket) read() (frames []Frame, dropped int, err error) {
	if s.io.bufs[0] == nil {
		s.makeBuffers()
	}
	s.io.n, s.io.errno = 0, 0
	if err := s.io.raw.Read(s.io.fill); err != nil {
		return nil, 0, err // after Close
	}
	switch s.io.errno {
	case 0:
	case unix.ECONNREFUSED, unix.ECONNRESET, unix.ENOBUFS, unix.ENOMEM:
		return nil, 1, nil // the peer is not there, or the kernel has no memory for the frame
	default:
		return nil, 0, os.NewSyscallError("recvmmsg", s.io.errno)
	}
	frames = s.io.batch[:0]
	for i := range s.io.n {
		b := s.io.bufs[i][:min(int(s.io.msgs[i].len), len(s.io.bufs[i]))]
		hdr := &s.io.msgs[i].hdr
		if !s.accepts(&s.io.from[i], hdr) {
			dropped++
			continue
		}
		switch {
		case string(b) == handshake:
		case len(b) < s.min || len(b) > s.max:
			dropped++
		default:
			frames = append(frames, Frame{Head: b})
		}
	}
	return frames, dropped, nil
}

// accepts reports whether to accept a message from the address from. If the device has no Remote, accepts makes this
// address the peer.
func (s *datagramSocket) accepts(from *rawAddr, hdr *unix.Msghdr) bool {
	if s.io.connected {
		return true
	}
	from.len = hdr.Namelen
	hdr.Namelen = uint32(len(from.b)) // for the next read
	if s.remote.udp.IsValid() {
		return from.isUDP(s.remote.udp)
	}
	// The device cannot send to a Unix socket that has no path.
	if s.learns() && from.len > 2 && int(from.len) <= len(from.b) {
		if p := s.io.peer.Load(); p == nil || p.len != from.len || string(p.b[:p.len]) != string(from.b[:from.len]) {
			s.io.peer.Store(&rawAddr{b: from.b, len: from.len})
		}
	}
	return true
}

// receive reads the frames that have arrived. It returns false if there are none.
func (s *datagramSocket) receive(fd uintptr) bool {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, fd,
			uintptr(unsafe.Pointer(&s.io.msgs[0])), datagramReadBatch, unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return false
		}
		s.io.n, s.io.errno = int(n), errno
		return true
	}
}

// datagramWrite is the state of one call of Send. It is pooled, so that a call allocates neither the
// closure nor the vectors.
type datagramWrite struct {
	sock  *datagramSocket
	batch []Frame
	next  int // index of the first frame that is in no message yet
	sent  int
	bytes int
	full  bool // the peer's queue was full, and the kernel does not report when it has space
	run   func(fd uintptr) bool
	peer  *rawAddr

	// The messages of one system call, of which [first,count) are not sent yet.
	first, count int
	from         [datagramWriteBatch]int // index in batch of each message's frame
	iovs         [datagramWriteBatch][2]unix.Iovec
	msgs         [datagramWriteBatch]mmsghdr
}

// If the socket is not connected, the kernel does not report when the full queue of the peer has space again.
// Send then tries again after fullWait, and doubles the wait after each further failure. When the wait exceeds
// maxFullWait, Send drops the frames that it has collected for the next system call.
const (
	fullWait    = 50 * time.Microsecond
	maxFullWait = 20 * time.Millisecond
)

// write sends the frames of a batch.
func (s *datagramSocket) write(batch []Frame) error {
	op, _ := s.io.ops.Get().(*datagramWrite)
	if op == nil {
		op = &datagramWrite{sock: s}
		op.run = op.frames
	}
	op.batch, op.next, op.sent, op.bytes, op.first, op.count = batch, 0, 0, 0, 0, 0
	op.peer = s.io.peer.Load()
	var err error
	for wait := fullWait; ; wait *= 2 {
		op.full = false
		sent := op.sent
		if err = s.io.raw.Write(op.run); err != nil || !op.full {
			break
		}
		if op.sent > sent {
			wait = fullWait // the peer reads
		}
		if wait > maxFullWait {
			s.loop.sendDropped.Add(uint64(op.count - op.first))
			op.first, wait = op.count, fullWait
		}
		time.Sleep(wait)
	}
	s.loop.countSent(op.sent, op.bytes)
	op.batch, op.peer = nil, nil
	clear(op.iovs[:])
	s.io.ops.Put(op)
	return err
}

// frames sends frames of the batch. It returns false if it has to wait until the socket is writable.
func (op *datagramWrite) frames(fd uintptr) bool {
	for {
		if op.first == op.count {
			if op.collect(); op.count == 0 {
				return true
			}
		}
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, fd,
			uintptr(unsafe.Pointer(&op.msgs[op.first])), uintptr(op.count-op.first), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			for _, i := range op.from[op.first : op.first+int(n)] {
				op.bytes += op.batch[i].Len()
			}
			op.sent += int(n)
			op.first += int(n)
		case unix.EINTR:
		case unix.EAGAIN:
			op.full = op.peer != nil
			return op.full
		default:
			// The peer is not there, or it cannot receive this frame.
			op.sock.loop.sendDropped.Add(1)
			op.first++
		}
	}
}

// collect makes messages of the next frames in the batch.
func (op *datagramWrite) collect() {
	op.first, op.count = 0, 0
	link := op.sock.loop.current()
	for ; op.next < len(op.batch) && op.count < datagramWriteBatch; op.next++ {
		f := &op.batch[op.next]
		if !link.carries(f) || op.peer == nil && !op.sock.io.connected {
			op.sock.loop.sendDropped.Add(1)
			continue
		}
		i := op.count
		iov := &op.iovs[i]
		iov[0].Base = &f.Head[0]
		iov[0].SetLen(len(f.Head))
		parts := 1
		if len(f.Body) > 0 {
			iov[1].Base = &f.Body[0]
			iov[1].SetLen(len(f.Body))
			parts = 2
		}
		hdr := &op.msgs[i].hdr
		hdr.Iov = &iov[0]
		hdr.SetIovlen(parts)
		hdr.Name, hdr.Namelen = nil, 0
		if op.peer != nil {
			hdr.Name, hdr.Namelen = &op.peer.b[0], op.peer.len
		}
		op.from[i] = op.next
		op.count++
	}
}
