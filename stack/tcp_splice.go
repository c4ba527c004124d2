package stack

import (
	"sync/atomic"

	"github.com/usernet/usernet/stack/tcp"
)

// This file sends data from the memory that a source has read it into (as splice and sendfile do in a kernel).
// The caller fills a SendBlock without holding a lock, and WriteBlock adds the SendBlock's bytes to the send
// queue. Frames refer to these bytes. The SendBlock is free when all its bytes are acknowledged and no frame
// refers to it. WriteBlock waits for neither, so the caller can fill the next SendBlock meanwhile.
//
// The data is copied once, into the SendBlock. A Write of the same data, after a Read into a buffer of the
// caller, copies it once more: the bytes that are unacknowledged when the Write ends.

const (
	// minSendBlock is the size in bytes of a SendBlock under memory pressure.
	minSendBlock = 4 << 10
	// sparseBlock limits the memory that few bytes occupy: WriteBlock copies the bytes if they are less
	// than 1/sparseBlock of the SendBlock.
	sparseBlock = 4
)

// A SendBlock is memory for data to be sent. The caller of NewBlock or TakeBlock has to call Free.
type SendBlock struct {
	tcp.Block // its Uses counts the caller, extents of send queues, and frames; changed atomically

	s       *Stack // whose pool the SendBlock is from
	from    *Stack // whose receive buffer mem was; nil if mem is from s.bufs
	mem     []byte
	charged bool // mem counts as memory in use of s
}

// newSendBlock returns a SendBlock without memory, with one use.
func (s *Stack) newSendBlock() *SendBlock {
	b, _ := s.tcp.sendBlocks.Get().(*SendBlock)
	if b == nil {
		b = &SendBlock{s: s}
		b.Done = b.Free
	}
	b.Uses = 1
	return b
}

// newTCPBlock implements Params.NewBlock.
func (s *Stack) newTCPBlock(n int) (*tcp.Block, []byte) {
	b := s.newSendBlock()
	b.mem = s.bufs.get(n)
	b.charge()
	return &b.Block, b.mem[:cap(b.mem)]
}

// NewBlock returns a SendBlock with memory of size bytes, which must be a power of two of at least 4 KiB. Under
// memory pressure, it has 4 KiB.
func (t *TCP) NewBlock(size int) *SendBlock {
	if size > minSendBlock && t.s.tcp.pressure() {
		size = minSendBlock
	}
	b := t.s.newSendBlock()
	b.mem = t.s.bufs.get(size)
	return b
}

// TakeBlock returns a SendBlock for a connection dst whose memory is storage, which t.Take has returned.
func (t *TCP) TakeBlock(dst *TCP, storage []byte) *SendBlock {
	b := dst.s.newSendBlock()
	b.mem, b.from = storage, t.s
	return b
}

// Bytes returns the memory of the SendBlock, to be filled before WriteBlock.
func (b *SendBlock) Bytes() []byte { return b.mem }

// charge counts the memory of b as memory in use. That of a receive buffer counts already.
func (b *SendBlock) charge() {
	if b.from == nil && !b.charged {
		b.charged = true
		b.s.tcp.charge(int64(cap(b.mem)))
	}
}

// Free ends one use of the SendBlock. After the last, the memory returns to its pool.
func (b *SendBlock) Free() {
	if atomic.AddInt32(&b.Uses, -1) > 0 {
		return
	}
	if b.charged {
		b.s.tcp.used.Add(-int64(cap(b.mem)))
	}
	if b.from != nil {
		b.from.tcp.params.Free(b.mem)
	} else {
		b.s.bufs.put(b.mem)
	}
	b.mem, b.from, b.charged = nil, nil, false
	b.s.tcp.sendBlocks.Put(b)
}

// use counts one more use of b, by a frame or an extent.
func use(b *tcp.Block) { atomic.AddInt32(&b.Uses, 1) }

// WriteBlock sends p, which is in the memory of b. It returns when all bytes are in the send queue, and waits
// while the send buffer is full. The caller must not change p afterwards, even if WriteBlock fails; it may fill
// other parts of b, and then calls Free. The bytes of concurrent Writes and WriteBlocks do not mix.
//
// Few bytes in much memory are copied, and so are all bytes under memory pressure, as by Write.
func (t *TCP) WriteBlock(b *SendBlock, p []byte) (n int, err error) {
	if len(p) < max(gatherBytes, cap(b.mem)/sparseBlock) || t.s.tcp.pressure() {
		return t.Write(p)
	}
	growStack(false)
	t.mu.Lock()
	if err := t.beginWrite(); err != nil {
		t.mu.Unlock()
		return 0, err
	}
	if len(p) >= pinBytes {
		t.useBulkQueue()
	}
	if t.yield {
		t.yieldNow()
	}
	return t.writeQueued(b, p)
}
