package stack

import (
	"math/bits"
	"sync"
	"unsafe"
)

// The sizes of pooled buffers are powers of two, from 1<<minBufClass to 1<<maxBufClass bytes. 256 bytes
// hold a bare ACK with all headers, and 128 KiB hold a super-frame with its headers. Larger buffers are
// for TCP's ring buffers, which have up to 32 MiB with DefaultParams.
const (
	minBufClass = 8
	maxBufClass = 25
)

// A bufPool hands out byte slices whose capacity is a power of two. It is safe for concurrent use and
// never blocks.
type bufPool struct {
	classes [maxBufClass + 1]sync.Pool // classes[c] has buffers of 1<<c bytes
}

// get returns a slice of length n. Its bytes are not cleared. A slice that is larger than the largest
// class is not pooled.
func (p *bufPool) get(n int) []byte {
	c := max(bits.Len(uint(n-1)), minBufClass)
	if n <= 0 {
		c = minBufClass
	}
	if c > maxBufClass {
		return make([]byte, n)
	}
	// The pool stores pointers to the first byte, because storing a slice in an interface would
	// allocate.
	if b, ok := p.classes[c].Get().(*byte); ok {
		return unsafe.Slice(b, 1<<c)[:n]
	}
	return make([]byte, n, 1<<c)
}

// put returns a slice from get to the pool. Nothing may refer to its memory any more. put ignores a slice
// whose capacity is not that of a class.
func (p *bufPool) put(b []byte) {
	n := cap(b)
	if n < 1<<minBufClass || n > 1<<maxBufClass || n&(n-1) != 0 {
		return // n is not the size of a class
	}
	p.classes[bits.Len(uint(n))-1].Put(unsafe.SliceData(b))
}
