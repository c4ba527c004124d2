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

// The maximum that a reader takes from a device at once: a large super-frame or a number of small
// frames. Measured: a larger maximum is no better, and neither is waiting for a full batch. To read
// small frames one at a time costs up to a tenth more CPU time. Merged segments (see gro) cost a third
// less than single ones, because the stack does less and sends fewer acknowledgements.
const (
	readBatch = 32        // frames
	readRoom  = 128 << 10 // bytes
)

// tapReader reads an attached file through the runtime's poller.
//
// Reads and writes do not block, so they are raw system calls, which bypass the scheduler. This
// saves a tenth of the CPU time with many small frames.
type tapReader struct {
	file   *os.File
	raw    syscall.RawConn
	medium Medium
	header int // bytes before each frame
	buf    []byte
	fill   func(fd uintptr) bool
	// limit is the maximum number of frames in the next batch. It is 1 after a wait, so that the
	// first frame is not delayed by others, and doubles after each full batch.
	limit int
	merge *gro // nil if frames are not merged

	buffer func() ReceiveBuffer // nil without zero-copy receive
	small  int                  // number of frames since the last one large enough for a ReceiveBuffer
	end    func()               // End of the ReceiveBuffer that holds the only frame read; nil if there is none
	iov    [3]unix.Iovec

	spin    time.Duration // how long to poll before the reader sleeps
	spinEnd time.Time     // when to stop polling; zero before the first poll

	// The result of the last read.
	frames  []Frame
	reads   int // number of frames read, before merging
	begin   int // offset in buf of the last frame
	used    int // bytes used in buf
	dropped int
	err     error
}

// newTAPReader returns a source that reads an attached file.
func newTAPReader(m Medium, file *os.File, raw syscall.RawConn, header int, spin time.Duration) *tapReader {
	r := &tapReader{medium: m, file: file, raw: raw, header: header, spin: spin, limit: 1}
	r.frames = make([]Frame, 0, readBatch)
	r.fill = r.readBatch
	return r
}

// Close turns off the offloads, which a persistent device would keep, and closes the file.
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
		// While the interface is being deleted, the poller may return an error before read(2) returns
		// one. The poller's error is not exported, so the error of read(2) replaces it. After Close
		// the error does not matter.
		r.err = os.NewSyscallError("read", unix.EBADFD)
	}
	if r.merge != nil {
		r.merge.close(r.frames)
	}
	return r.frames, r.dropped, r.err
}

// mergeReceived turns on merging within a batch. With offloads it does nothing, because the kernel
// merges.
func (r *tapReader) mergeReceived() {
	if r.header == 0 {
		r.merge = &gro{medium: r.medium}
	}
}

// readBatch reads the frames that have arrived, up to the limits. It returns false if there are
// none.
func (r *tapReader) readBatch(fd uintptr) bool {
	// A read that fills one byte more than the longest frame shows that the frame was truncated.
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
			// The reader has read everything, so the next frame need not wait for others.
			r.limit = 1
			if !r.spins() {
				return false
			}
			runtime.Gosched() // let the goroutines run that the last frames woke
		case errno != 0:
			r.err = os.NewSyscallError("read", errno)
			return true
		case n == 0:
			r.err = io.ErrUnexpectedEOF
			return true
		default:
			if r.end == nil { // otherwise takeZeroCopy has taken the frame
				r.take(b[:n])
			}
			if r.expectsLarge() {
				return true // deliver this frame before the next ReceiveBuffer is requested
			}
		}
	}
	return true
}

// spins reports whether to poll again before the reader sleeps.
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

// take makes a Frame of the bytes that a read returned.
func (r *tapReader) take(b []byte) {
	r.reads++
	if len(b) < r.header || len(b) > r.header+maxFrame {
		r.dropped++
		return
	}
	f, ok := Frame{Head: b}, len(b) >= r.medium.minFrame()
	if r.header > 0 {
		f, ok = r.medium.parseVnet(b, b[r.header:], nil)
	}
	if !ok {
		r.dropped++
		return
	}
	if r.merge == nil || !r.merge.add(r.frames, b) {
		r.frames = append(r.frames, f)
		r.begin = r.used
	}
	// The next frame begins on a new cache line.
	r.used = (r.begin + r.header + len(r.frames[len(r.frames)-1].Head) + 63) &^ 63
}

// fewFrames is how many consecutive small frames make the reader expect no large one. Each write of
// an application ends with a small frame.
const fewFrames = 4

// receiveInto turns on zero-copy receive of large frames.
func (r *tapReader) receiveInto(buffer func() ReceiveBuffer) bool {
	if r.header == 0 {
		return false // there are no large frames
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

// expectsLarge reports whether the next frame is likely to be large enough for a ReceiveBuffer.
func (r *tapReader) expectsLarge() bool { return r.buffer != nil && r.small < fewFrames }

// readFrame reads a frame into b, or into b and a ReceiveBuffer. In the second case it stores the
// buffer's End in r.end.
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
	// Read the headers into b, the payload that fits into the ReceiveBuffer, and the rest into b.
	head := r.header + into.Headers
	body := into.Buf[:min(len(into.Buf), len(b)-head)]
	n, errno = r.readParts(fd, b[:head], body, b[head:len(b)-len(body)])
	if errno == 0 && n > head && n <= head+len(body) && r.takeZeroCopy(b[:head], body[:n-head]) {
		r.end, r.small = into.End, 0
		return n, 0
	}
	if errno == 0 {
		if r.small++; n > yieldBytes {
			r.small = fewFrames // unsuitable for the buffer; more such frames may follow, so stop requesting buffers
		}
		if in := min(n-head, len(body)); in > 0 {
			// A frame that does not stay in the ReceiveBuffer must be contiguous in b.
			copy(b[head+in:], b[head:n-in])
			copy(b[head:], body[:in])
		}
	}
	into.End()
	return n, errno
}

// readParts reads a frame into up to three buffers.
func (r *tapReader) readParts(fd uintptr, parts ...[]byte) (int, unix.Errno) {
	for i, p := range parts {
		r.iov[i].Base = unsafe.SliceData(p)
		r.iov[i].SetLen(len(p))
	}
	n, _, errno := unix.RawSyscall(unix.SYS_READV, fd, uintptr(unsafe.Pointer(&r.iov[0])), uintptr(len(parts)))
	r.iov = [3]unix.Iovec{} // do not keep the buffers alive
	return int(n), errno
}

// takeZeroCopy makes a Frame of headers and a payload in a ReceiveBuffer. It returns false if the
// frame may not be in a ReceiveBuffer.
func (r *tapReader) takeZeroCopy(head, body []byte) bool {
	f, ok := r.medium.parseVnet(head, head[r.header:], body)
	if !ok || f.GSO != GSOTCP4 && f.GSO != GSOTCP6 || int(f.HeaderLen) != len(f.Head) {
		return false
	}
	r.reads++
	r.frames = append(r.frames, f)
	return true
}

// tapWriter writes frames to the device's files, one for each queue.
type tapWriter struct {
	medium Medium
	queues []syscall.RawConn
	off    tapOffload
	ops    sync.Pool // of *tapWrite
}

// tapWrite is the state of one call of Send. It is pooled, so that a call allocates neither the
// closure nor the vector.
type tapWrite struct {
	loop   *rxLoop
	batch  []Frame
	n      int   // frames accepted
	err    error // the error that ended the device
	bytes  int
	sent   int
	medium Medium
	off    tapOffload
	vnet   [vnetHeaderLen]byte
	iov    [3]unix.Iovec
	one    [vnetHeaderLen + oneBytes]byte // a short frame behind its virtio header
	piece  []byte                         // the segment that cut writes
	run    func(fd uintptr)
}

// oneBytes is the maximum length in bytes of a frame that is copied behind its virtio header. Up to
// this length, the copy costs less than gathering two parts in the system call.
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

// queueOf chooses the queue of a frame by its addresses and ports. Both directions of a connection
// have the same queue.
func (w *tapWriter) queueOf(f *Frame) int {
	network, typ, _ := w.medium.network(f.Head)
	const ports4, ports6 = wire.IPv4Len, wire.IPv6Len
	if len(f.Head) < network+ports4+4 {
		return 0
	}
	be := binary.BigEndian
	var h uint32
	switch ip := f.Head[network:]; {
	case typ == wire.EtherTypeIPv4:
		h = be.Uint32(ip[12:]) ^ be.Uint32(ip[16:])
		if hasPorts(ip[9]) && ip[0] == 0x45 && be.Uint16(ip[6:])&^ip4DontFragment == 0 {
			h ^= uint32(be.Uint16(ip[ports4:]) ^ be.Uint16(ip[ports4+2:]))
		}
	case typ == wire.EtherTypeIPv6 && len(ip) >= ports6+4:
		for i := 8; i < wire.IPv6Len; i += 4 {
			h ^= be.Uint32(ip[i:])
		}
		if hasPorts(ip[6]) {
			h ^= uint32(be.Uint16(ip[ports6:]) ^ be.Uint16(ip[ports6+2:]))
		}
	}
	h *= 0x9e3779b1 // 2^32 divided by the golden ratio: the upper bits depend on all bits
	return int(uint64(h) * uint64(len(w.queues)) >> 32)
}

// hasPorts reports whether the transport header begins with ports.
func hasPorts(proto byte) bool { return proto == byte(wire.ProtoTCP) || proto == byte(wire.ProtoUDP) }

func (w *tapWriter) writeTo(queue syscall.RawConn, l *rxLoop, batch []Frame) (int, error) {
	op, _ := w.ops.Get().(*tapWrite)
	if op == nil {
		op = &tapWrite{medium: w.medium, off: w.off}
		op.run = op.frames
	}
	op.loop, op.batch, op.n, op.err, op.bytes, op.sent = l, batch, 0, nil, 0, 0
	// The writes do not block and may overlap. Control keeps the file open during the call.
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

// frames writes frames of the batch until the device is full.
func (op *tapWrite) frames(fd uintptr) {
	for op.n < len(op.batch) {
		f := &op.batch[op.n]
		if !op.loop.current().carries(f) {
			op.loop.sendDropped.Add(1)
			op.n++
			continue
		}
		errno := op.frame(fd, f)
		if tooLarge(errno) && f.Len() > maxFrame {
			errno = op.cut(fd, f)
		}
		switch errno {
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
			// EIO means that the interface is down. Any other errno concerns this frame only.
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
	if op.off.jumbo && f.GSO == GSOTCP6 && f.Len()-op.medium.headerLen()-wire.IPv6Len > maxPayload6 {
		return op.jumbo(fd, f)
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

// cut segments a super-frame that the kernel does not support, and writes the segments. After an
// error it writes no more.
func (op *tapWrite) cut(fd uintptr, f *Frame) (errno unix.Errno) {
	alloc := func(n int) []byte {
		if cap(op.piece) < n {
			op.piece = make([]byte, n)
		}
		return op.piece[:n] // the previous segment has been written
	}
	ok := op.medium.complete(f, alloc, func(piece []byte) {
		if errno == 0 {
			errno = op.frame(fd, &Frame{Head: piece})
		}
	})
	switch {
	case !ok:
		return unix.EINVAL
	case errno == unix.EAGAIN, errno == unix.EINTR, errno == unix.ENOBUFS:
		// Sending the super-frame again would repeat the segments already written.
		return unix.EIO
	}
	return errno
}
