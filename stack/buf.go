package stack

import (
	"math/bits"
	"sync"
	"unsafe"
)

// Buffers are pooled by powers of two from 1<<minBufClass to 1<<maxBufClass
// bytes: 256 bytes hold a bare acknowledgement with every header, 128 KiB a
// super-frame with its headers, and the classes above serve TCP's rings, the largest
// of which are of DefaultParams' 32 MiB.
const (
	minBufClass = 8
	maxBufClass = 25
)

// bufPool hands out byte slices whose capacity is a power of two.
// It is safe for concurrent use, and nothing in it waits.
type bufPool struct {
	classes [maxBufClass + 1]sync.Pool
}

// get returns a slice of length n whose bytes are not cleared.
func (p *bufPool) get(n int) []byte {
	c := max(bits.Len(uint(n-1)), minBufClass)
	if n <= 0 {
		c = minBufClass
	}
	if c > maxBufClass {
		return make([]byte, n)
	}
	// The pool holds pointers to the first byte, because a slice in an
	// interface would be allocated anew at each put.
	if b, ok := p.classes[c].Get().(*byte); ok {
		return unsafe.Slice(b, 1<<c)[:n]
	}
	return make([]byte, n, 1<<c)
}

// put gives a slice from get back. Nobody may hold a part of it any more.
func (p *bufPool) put(b []byte) {
	n := cap(b)
	if n < 1<<minBufClass || n > 1<<maxBufClass || n&(n-1) != 0 {
		return
	}
	p.classes[bits.Len(uint(n))-1].Put(unsafe.SliceData(b))
}
