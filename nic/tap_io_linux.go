package nic

import (
	"encoding/binary"
	"io"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"github.com/usernet/usernet/stack/wire"
	"golang.org/x/sys/unix"
)

// How much a reader takes from a device at once: a large super-frame or a number
// of small frames. More room, and batches that are always filled, measured no
// better; small frames one at a time cost up to a tenth more CPU time. Segments
// that are merged make less work and fewer acknowledgements the more there are, and
// cost a third less CPU time than one by one.
const (
	readBatch = 32        // frames
	readRoom  = 128 << 10 // bytes
)

// tapReader reads an attached file through the runtime's poller.
//
// Reads and writes do not block, so that the scheduler need not be told of them:
// raw system calls take a tenth less CPU time with many small frames.
type tapReader struct {
	file   *os.File
	raw    syscall.RawConn
	header int // bytes before each frame
	buf    []byte
	fill   func(fd uintptr) bool
	// limit is how many frames the next batch may have: one after a wait, so that
	// it is not held up for others, and twice as many after each full batch.
	limit int
	merge *gro // nil: every frame stays by itself

	buffer func() ReceiveBuffer // nil: there are none
	small  int                  // frames since there was one that could have gone into a ReceiveBuffer
	end    func()               // of the ReceiveBuffer that the only frame is in; else nil
	iov    [3]unix.Iovec

	spin    time.Duration // how long to look again before a wait
	spinEnd time.Time     // of this wait; zero before it

	// What the last read found.
	frames  []Frame
	reads   int // frames that it found
	begin   int // where the last of them begins in buf
	used    int // bytes of buf
	dropped int
	err     error
}

// newTAPReader returns the source of an attached file.
func newTAPReader(file *os.File, raw syscall.RawConn, header int, spin time.Duration) *tapReader {
	r := &tapReader{file: file, raw: raw, header: header, spin: spin, limit: 1}
	r.frames = make([]Frame, 0, readBatch)
	r.fill = r.readBatch
	return r
}

// Close closes the file. The offloads are the device's, which may stay: the next
// one to attach to it has them only if it asks for them.
func (r *tapReader) Close() error {
	if r.header > 0 {
		r.raw.Control(func(fd uintptr) {
			unix.IoctlSetInt(int(fd), unix.TUNSETOFFLOAD, 0)
		})
	}
	return r.file.Close()
}

func (r *tapReader) read() (frames []Frame, dropped int, err error) {
	if r.buf == nil {
		r.buf = make([]byte, readRoom)
	}
	if r.reads == r.limit {
		r.limit = min(2*r.limit, readBatch)
	}
	r.frames, r.reads, r.used, r.dropped, r.err = r.frames[:0], 0, 0, 0, nil
	r.spinEnd = time.Time{}
	if err := r.raw.Read(r.fill); err != nil && r.err == nil {
		// While the interface is being deleted the poller may know before read
		// does. Its error is not exported; read's comes to the same. After Close
		// nobody asks.
		r.err = os.NewSyscallError("read", unix.EBADFD)
	}
	if r.merge != nil {
		r.merge.close(r.frames)
	}
	return r.frames, r.dropped, r.err
}

// mergeReceived has the frames of a batch merged. A device with offloads has them
// merged by the kernel.
func (r *tapReader) mergeReceived() {
	if r.header == 0 {
		r.merge = new(gro)
	}
}

// readBatch reads what is there and fits. It reports false if there is nothing.
func (r *tapReader) readBatch(fd uintptr) bool {
	// One byte more than fits shows a frame that was cut off.
	longest := r.header + maxFrame + 1
	for r.reads < r.limit && len(r.buf)-r.used >= longest {
		b := r.buf[r.used:][:longest]
		n, errno := r.readFrame(fd, b)
		switch {
		case errno == unix.EINTR:
		case errno == unix.EAGAIN:
			if r.reads > 0 {
				return true
			}
			// It is not behind: the next frame need not wait for others.
			r.limit = 1
			if !r.spins() {
				return false
			}
			runtime.Gosched() // to whom the last frames woke
		case errno != 0:
			r.err = os.NewSyscallError("read", errno)
			return true
		case n == 0:
			r.err = io.ErrUnexpectedEOF
			return true
		default:
			if r.end == nil {
				r.take(b[:n])
			}
			if r.expectsLarge() {
				return true // there is room for the next only when this one was delivered
			}
		}
	}
	return true
}

// spins reports whether to look again before the reader sleeps.
func (r *tapReader) spins() bool {
	if r.spin == 0 {
		return false
	}
	now := time.Now()
	if r.spinEnd.IsZero() {
		r.spinEnd = now.Add(r.spin)
	}
	return now.Before(r.spinEnd)
}

// take makes a frame of what was read.
func (r *tapReader) take(b []byte) {
	r.reads++
	if len(b) < r.header || len(b) > r.header+maxFrame {
		r.dropped++
		return
	}
	f, ok := Frame{Head: b}, len(b) >= wire.EthernetLen
	if r.header > 0 {
		f, ok = parseVnet(b, b[r.header:], nil)
	}
	if !ok {
		r.dropped++
		return
	}
	if r.merge == nil || !r.merge.add(r.frames, b) {
		r.frames = append(r.frames, f)
		r.begin = r.used
	}
	// The next frame begins on a cache line of its own.
	r.used = (r.begin + r.header + len(r.frames[len(r.frames)-1].Head) + 63) &^ 63
}

// fewFrames is how many frames after a large one may be followed by another: each
// write of an application ends with a short one.
const fewFrames = 4

// receiveInto has large frames read into buffers of the stack.
func (r *tapReader) receiveInto(buffer func() ReceiveBuffer) bool {
	if r.header == 0 {
		return false // there are none
	}
	r.buffer, r.small = buffer, fewFrames
	return true
}

func (r *tapReader) release() {
	if r.end != nil {
		r.end()
		r.end = nil
	}
}

// expectsLarge reports whether the next frame is likely to be one for a ReceiveBuffer.
func (r *tapReader) expectsLarge() bool { return r.buffer != nil && r.small < fewFrames }

// readFrame reads a frame into b; or into b and a ReceiveBuffer, whose End is then in r.end.
func (r *tapReader) readFrame(fd uintptr, b []byte) (n int, errno unix.Errno) {
	var into ReceiveBuffer
	if r.expectsLarge() {
		into = r.buffer()
	}
	if into.Buf == nil {
		n, _, errno := unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
		if errno == 0 {
			r.small++
			if n > yieldBytes {
				r.small = 0
			}
		}
		return int(n), errno
	}
	// Headers, what fits into the buffer, and what is longer.
	head := r.header + into.Headers
	body := into.Buf[:min(len(into.Buf), len(b)-head)]
	n, errno = r.readParts(fd, b[:head], body, b[head:len(b)-len(body)])
	if errno == 0 && n > head && n <= head+len(body) && r.takeZeroCopy(b[:head], body[:n-head]) {
		r.end, r.small = into.End, 0
		return n, 0
	}
	if errno == 0 {
		if r.small++; n > yieldBytes {
			r.small = fewFrames // others like it may follow
		}
		if in := min(n-head, len(body)); in > 0 {
			// Another frame than was expected goes where it would be without the buffer.
			copy(b[head+in:], b[head:n-in])
			copy(b[head:], body[:in])
		}
	}
	into.End()
	return n, errno
}

// readParts reads a frame to three places.
func (r *tapReader) readParts(fd uintptr, parts ...[]byte) (int, unix.Errno) {
	for i, p := range parts {
		r.iov[i].Base = unsafe.SliceData(p)
		r.iov[i].SetLen(len(p))
	}
	n, _, errno := unix.RawSyscall(unix.SYS_READV, fd, uintptr(unsafe.Pointer(&r.iov[0])), uintptr(len(parts)))
	r.iov = [3]unix.Iovec{} // it keeps no buffer from being freed
	return int(n), errno
}

// takeZeroCopy makes a frame of what was read into a ReceiveBuffer and the headers before it, if
// that is what is to be there.
func (r *tapReader) takeZeroCopy(head, body []byte) bool {
	f, ok := parseVnet(head, head[r.header:], body)
	if !ok || f.GSO != GSOTCP4 && f.GSO != GSOTCP6 || int(f.HeaderLen) != len(f.Head) {
		return false
	}
	r.reads++
	r.frames = append(r.frames, f)
	return true
}

// tapWriter writes frames to the device's file, or files.
type tapWriter struct {
	queues []syscall.RawConn
	off    tapOffload
	ops    sync.Pool // of *tapWrite
}

// tapWrite is one call of Send. It is pooled, so that the closure and the
// vector are not allocated for each.
type tapWrite struct {
	loop  *rxLoop
	batch []Frame
	n     int   // frames taken
	err   error // what ended the device
	bytes int
	sent  int
	off   tapOffload
	vnet  [vnetHeaderLen]byte
	iov   [3]unix.Iovec
	one   [vnetHeaderLen + oneBytes]byte // a frame in one piece
	piece []byte                         // of a super-frame that is cut up here
	run   func(fd uintptr)
}

// oneBytes is how long a frame may be, in bytes, to be copied behind the header
// that stands before it: to copy it costs less than the system call takes to gather
// two pieces.
const oneBytes = 512

func (w *tapWriter) write(l *rxLoop, batch []Frame) (n int, err error) {
	if len(w.queues) == 1 {
		return w.writeTo(w.queues[0], l, batch)
	}
	for n < len(batch) {
		q := w.queueOf(&batch[n])
		end := n + 1
		for end < len(batch) && w.queueOf(&batch[end]) == q {
			end++
		}
		k, err := w.writeTo(w.queues[q], l, batch[n:end])
		if n += k; err != nil || n < end {
			return n, err
		}
	}
	return n, nil
}

// queueOf chooses the queue of a frame by its addresses and ports, of which it does
// not matter which are the sender's.
func (w *tapWriter) queueOf(f *Frame) int {
	b := f.Head
	const ports4, ports6 = wire.EthernetLen + wire.IPv4Len, wire.EthernetLen + wire.IPv6Len
	if len(b) < ports4+4 {
		return 0
	}
	be := binary.BigEndian
	var h uint32
	switch ip := b[wire.EthernetLen:]; {
	case wire.EtherType(be.Uint16(b[12:])) == wire.EtherTypeIPv4:
		h = be.Uint32(ip[12:]) ^ be.Uint32(ip[16:])
		if hasPorts(ip[9]) && ip[0] == 0x45 && be.Uint16(ip[6:])&^ip4DontFragment == 0 {
			h ^= uint32(be.Uint16(b[ports4:]) ^ be.Uint16(b[ports4+2:]))
		}
	case wire.EtherType(be.Uint16(b[12:])) == wire.EtherTypeIPv6 && len(b) >= ports6+4:
		for i := 8; i < wire.IPv6Len; i += 4 {
			h ^= be.Uint32(ip[i:])
		}
		if hasPorts(ip[6]) {
			h ^= uint32(be.Uint16(b[ports6:]) ^ be.Uint16(b[ports6+2:]))
		}
	}
	h *= 0x9e3779b1 // 2^32 by the golden ratio: the upper bits depend on all
	return int(uint64(h) * uint64(len(w.queues)) >> 32)
}

// hasPorts reports whether ports begin a transport header.
func hasPorts(proto byte) bool { return proto == byte(wire.ProtoTCP) || proto == byte(wire.ProtoUDP) }

func (w *tapWriter) writeTo(queue syscall.RawConn, l *rxLoop, batch []Frame) (int, error) {
	op, _ := w.ops.Get().(*tapWrite)
	if op == nil {
		op = &tapWrite{off: w.off}
		op.run = op.frames
	}
	op.loop, op.batch, op.n, op.err, op.bytes, op.sent = l, batch, 0, nil, 0, 0
	// The writes do not block, and may overlap: that they have the file open is all
	// that is needed.
	err := queue.Control(op.run)
	if err == nil {
		err = op.err
	}
	n := op.n
	l.countSent(op.sent, op.bytes)
	op.batch, op.iov = nil, [3]unix.Iovec{}
	w.ops.Put(op)
	return n, err
}

// frames writes the batch. A full device is the caller's to wait for, or not.
func (op *tapWrite) frames(fd uintptr) {
	for op.n < len(op.batch) {
		f := &op.batch[op.n]
		if !op.loop.now().carries(f) {
			op.loop.sendDropped.Add(1)
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
			return
		case unix.EBADFD, unix.EBADF, unix.ENODEV, unix.ENXIO:
			// The interface was deleted.
			op.err = os.NewSyscallError("write", errno)
			return
		default:
			// EIO when the interface is down; otherwise the frame's fault.
			op.loop.sendDropped.Add(1)
		}
		op.n++
	}
}

// frame writes one frame.
func (op *tapWrite) frame(fd uintptr, f *Frame) unix.Errno {
	if f.GSO == GSOUDP && !op.off.uso {
		return op.cut(fd, f)
	}
	if len(f.Body) == 0 && (op.off.header == 0 || len(f.Head) <= oneBytes) {
		b := f.Head
		if op.off.header > 0 {
			putVnet(op.one[:], f)
			b = op.one[:vnetHeaderLen+copy(op.one[vnetHeaderLen:], b)]
		}
		_, _, errno := unix.RawSyscall(unix.SYS_WRITE, fd, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
		return errno
	}
	count := 0
	if op.off.header > 0 {
		putVnet(op.vnet[:], f)
		op.iov[0].Base = &op.vnet[0]
		op.iov[0].SetLen(vnetHeaderLen)
		count = 1
	}
	op.iov[count].Base = &f.Head[0]
	op.iov[count].SetLen(len(f.Head))
	count++
	if len(f.Body) > 0 {
		op.iov[count].Base = &f.Body[0]
		op.iov[count].SetLen(len(f.Body))
		count++
	}
	_, _, errno := unix.RawSyscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&op.iov[0])), uintptr(count))
	return errno
}

// cut writes a super-frame that the kernel does not know, piece by piece. After
// an error the pieces that follow are not written.
func (op *tapWrite) cut(fd uintptr, f *Frame) (errno unix.Errno) {
	alloc := func(n int) []byte {
		if cap(op.piece) < n {
			op.piece = make([]byte, n)
		}
		return op.piece[:n] // the one before it is written
	}
	ok := Ethernet.complete(f, alloc, func(piece []byte) {
		if errno == 0 {
			errno = op.frame(fd, &Frame{Head: piece})
		}
	})
	switch {
	case !ok:
		return unix.EINVAL
	case errno == unix.EAGAIN, errno == unix.EINTR, errno == unix.ENOBUFS:
		// To write it again would repeat the pieces that went well.
		return unix.EIO
	}
	return errno
}
