package nic

import (
	"encoding/binary"
	"errors"
	"os"
	"syscall"
	"time"
	"unsafe"

	"github.com/usernet/usernet/stack/wire"
	"golang.org/x/sys/unix"
)

// The maximum number of frames that one system call moves.
const (
	packetReadBatch  = 8 // each has a buffer for a super-frame
	packetWriteBatch = 16
)

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

// The limits of the time between checks whether an interface that is down still exists. The kernel
// does not report its deletion.
const (
	minDownWait = 10 * time.Millisecond
	maxDownWait = time.Second
)

// packetReader reads a packet socket through the runtime's poller.
type packetReader struct {
	file     *os.File
	raw      syscall.RawConn
	bufs     [packetReadBatch][]byte
	iovs     [packetReadBatch]unix.Iovec
	msgs     [packetReadBatch]mmsghdr
	aux      [packetReadBatch]packetAux
	fill     func(fd uintptr) bool
	downWait time.Duration // time between checks; 0 while the interface is up

	// The result of the last read.
	n     int // messages
	errno syscall.Errno
	batch [packetReadBatch]Frame
}

// newPacketReader returns a source that reads a bound socket.
func newPacketReader(file *os.File, raw syscall.RawConn) *packetReader {
	r := &packetReader{file: file, raw: raw}
	r.fill = r.receive
	return r
}

func (r *packetReader) Close() error { return r.file.Close() }

// makeBuffers allocates the buffer of each message.
func (r *packetReader) makeBuffers() {
	// A read that fills one byte more than the longest frame shows that the frame was truncated.
	const size = vnetHeaderLen + maxFrame + 1
	for i := range r.bufs {
		r.bufs[i] = make([]byte, vlanTagLen+size)
		r.iovs[i].Base = &r.bufs[i][vlanTagLen]
		r.iovs[i].SetLen(size)
		r.msgs[i].hdr.Control = (*byte)(unsafe.Pointer(&r.aux[i]))
		r.msgs[i].hdr.Iov = &r.iovs[i]
		r.msgs[i].hdr.SetIovlen(1)
	}
}

func (r *packetReader) read() (frames []Frame, dropped int, err error) {
	if r.bufs[0] == nil {
		r.makeBuffers()
	}
	if r.downWait > 0 {
		r.file.SetReadDeadline(time.Now().Add(r.downWait))
	}
	r.n, r.errno = 0, 0
	err = r.raw.Read(r.fill)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded), r.errno == unix.ENETDOWN:
		return nil, 0, r.whileDown()
	case err != nil:
		return nil, 0, err // after Close
	}
	switch r.errno {
	case 0:
	case unix.EINVAL, unix.ENOBUFS, unix.ENOMEM:
		// The kernel cannot describe the frame, or has no memory for it.
		return nil, 1, nil
	default:
		return nil, 0, os.NewSyscallError("recvmmsg", r.errno)
	}
	if r.downWait > 0 {
		r.downWait = 0
		r.file.SetReadDeadline(time.Time{})
	}
	frames = r.batch[:0]
	for i := range r.n {
		b := r.bufs[i][vlanTagLen:]
		b = b[:min(int(r.msgs[i].len), len(b))]
		if len(b) < vnetHeaderLen || len(b) > vnetHeaderLen+maxFrame {
			dropped++
			continue
		}
		if aux := &r.aux[i]; aux.hasTag(&r.msgs[i].hdr) && len(b) > vnetHeaderLen+2*macLen {
			b = aux.putTag(r.bufs[i][:vlanTagLen+len(b)])
		}
		f, ok := Ethernet.parseVnet(b, b[vnetHeaderLen:], nil)
		if !ok {
			dropped++
			continue
		}
		frames = append(frames, f)
	}
	return frames, dropped, nil
}

const macLen = 6

// A packetAux is the control message of a received frame: struct cmsghdr and struct tpacket_auxdata, see
// packet(7).
type packetAux struct {
	cmsg      unix.Cmsghdr
	status    uint32
	_, _      uint32 // lengths
	_, _      uint16 // offsets
	tci, tpid uint16 // the VLAN tag that the kernel has removed from the frame
	_         [4]byte
}

// hasTag reports whether the kernel has removed a VLAN tag from the frame of a message.
func (a *packetAux) hasTag(hdr *unix.Msghdr) bool {
	return hdr.Controllen >= unix.SizeofCmsghdr+20 && a.cmsg.Level == unix.SOL_PACKET &&
		a.cmsg.Type == unix.PACKET_AUXDATA && a.status&unix.TP_STATUS_VLAN_VALID != 0
}

// putTag puts the VLAN tag back into a frame. b has room for the tag, the virtio header and the frame.
// putTag returns the virtio header and the frame with the tag.
func (a *packetAux) putTag(b []byte) []byte {
	const addrs = vnetHeaderLen + 2*macLen
	copy(b, b[vlanTagLen:][:addrs])
	tpid := a.tpid
	if a.status&unix.TP_STATUS_VLAN_TPID_VALID == 0 {
		tpid = uint16(wire.EtherTypeVLAN)
	}
	binary.BigEndian.PutUint16(b[addrs:], tpid)
	binary.BigEndian.PutUint16(b[addrs+2:], a.tci)
	// The kernel counts from the beginning of the frame without the tag.
	if b[vnetFlags]&unix.VIRTIO_NET_HDR_F_NEEDS_CSUM != 0 {
		ne := binary.NativeEndian
		ne.PutUint16(b[vnetCsumStart:], ne.Uint16(b[vnetCsumStart:])+vlanTagLen)
	}
	return b
}

// receive reads the frames that have arrived. It returns false if there are none.
func (r *packetReader) receive(fd uintptr) bool {
	for i := range r.msgs {
		r.msgs[i].hdr.SetControllen(int(unsafe.Sizeof(packetAux{}))) // the kernel changes it
	}
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, fd,
			uintptr(unsafe.Pointer(&r.msgs[0])), packetReadBatch, unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return false
		}
		r.n, r.errno = int(n), errno
		return true
	}
}

// whileDown returns an error if the interface is down because it was deleted. It also lengthens the
// time to the next check.
func (r *packetReader) whileDown() (err error) {
	r.raw.Control(func(fd uintptr) {
		addr, e := unix.Getsockname(int(fd))
		if ll, ok := addr.(*unix.SockaddrLinklayer); e == nil && ok && ll.Ifindex <= 0 {
			err = os.NewSyscallError("recvmmsg", unix.ENODEV)
		}
	})
	r.downWait = min(max(minDownWait, 2*r.downWait), maxDownWait)
	return err
}

// packetWrite is the state of one call of Send. It is pooled, so that a call allocates neither the
// closure nor the vectors.
type packetWrite struct {
	loop  *rxLoop
	batch []Frame
	n     int   // frames accepted
	err   error // the error that ended the device
	bytes int
	sent  int
	run   func(fd uintptr) bool

	// The messages of one system call.
	count int
	from  [packetWriteBatch]int // index in batch of each message's frame
	vnet  [packetWriteBatch][vnetHeaderLen]byte
	iovs  [packetWriteBatch][3]unix.Iovec
	msgs  [packetWriteBatch]mmsghdr
}

func (p *packetSocket) write(l *rxLoop, batch []Frame) (int, error) {
	op, _ := p.ops.Get().(*packetWrite)
	if op == nil {
		op = new(packetWrite)
		op.run = op.frames
	}
	op.loop, op.batch, op.n, op.err, op.bytes, op.sent = l, batch, 0, nil, 0, 0
	err := p.raw.Write(op.run)
	if err == nil {
		err = op.err
	}
	n := op.n
	l.countSent(op.sent, op.bytes)
	op.batch = nil
	clear(op.iovs[:])
	p.ops.Put(op)
	return n, err
}

// frames sends frames of the batch until the kernel's queue is full. It always returns true, so
// that the poller does not wait.
func (op *packetWrite) frames(fd uintptr) bool {
	for op.n < len(op.batch) {
		op.collect()
		first := 0
		for first < op.count {
			n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, fd,
				uintptr(unsafe.Pointer(&op.msgs[first])), uintptr(op.count-first), unix.MSG_DONTWAIT, 0, 0)
			if errno == unix.EINTR {
				continue
			}
			if errno != 0 {
				if !op.failed(fd, &op.batch[op.from[first]], errno) {
					op.n = op.from[first]
					return true
				}
				n = 1
			} else {
				op.passed(first, first+int(n))
			}
			first += int(n)
		}
	}
	return true
}

// collect makes messages of the next frames in the batch.
func (op *packetWrite) collect() {
	op.count = 0
	for op.n < len(op.batch) && op.count < packetWriteBatch {
		f := &op.batch[op.n]
		if !op.loop.current().carries(f) {
			op.loop.sendDropped.Add(1)
			op.n++
			continue
		}
		i := op.count
		iov := &op.iovs[i]
		putVnet(op.vnet[i][:], f)
		iov[0].Base = &op.vnet[i][0]
		iov[0].SetLen(vnetHeaderLen)
		iov[1].Base = &f.Head[0]
		iov[1].SetLen(len(f.Head))
		parts := 2
		if len(f.Body) > 0 {
			iov[2].Base = &f.Body[0]
			iov[2].SetLen(len(f.Body))
			parts = 3
		}
		op.msgs[i].hdr.Iov = &iov[0]
		op.msgs[i].hdr.SetIovlen(parts)
		op.from[i] = op.n
		op.count++
		op.n++
	}
}

// passed counts the messages [from,to) as sent.
func (op *packetWrite) passed(from, to int) {
	op.sent += to - from
	for _, i := range op.from[from:to] {
		op.bytes += op.batch[i].Len()
	}
}

// failed handles a frame that the kernel did not accept. It returns false if the later frames
// cannot be sent either.
func (op *packetWrite) failed(fd uintptr, f *Frame, errno syscall.Errno) bool {
	switch errno {
	case unix.EAGAIN, unix.ENOBUFS:
		return false
	case unix.ENXIO, unix.ENODEV, unix.EBADF:
		// The interface was deleted.
		op.err = os.NewSyscallError("sendmmsg", errno)
		return false
	case unix.EINVAL:
		// Linux has USO since 6.2.
		if f.GSO == GSOUDP && op.cut(fd, f) {
			op.sent++
			op.bytes += f.Len()
			return true
		}
	}
	// ENETDOWN means that the interface is down. Any other errno concerns this frame only.
	op.loop.sendDropped.Add(1)
	return true
}

// cut segments a super-frame that the kernel does not support, and sends the segments. It reports
// whether all were sent; after an error it sends no more.
func (op *packetWrite) cut(fd uintptr, f *Frame) bool {
	var vnet [vnetHeaderLen]byte
	sent := true
	alloc := func(n int) []byte { return make([]byte, n) }
	ok := Ethernet.complete(f, alloc, func(piece []byte) {
		if sent {
			_, err := unix.SendmsgBuffers(int(fd), [][]byte{vnet[:], piece}, nil, nil, unix.MSG_DONTWAIT)
			sent = err == nil
		}
	})
	return ok && sent
}
