package tcp

import "math/bits"

// minRing is the smallest ring in bytes.
const minRing = 2048

// A ring is a byte queue. Its storage is allocated on first use, grows by doubling, and is
// freed when the queue is empty. len(b) is 0 or a power of two.
type ring struct {
	b    []byte
	n    int   // bytes in the queue
	head int32 // index in b of the first byte
	was  int32 // length of b when it was last freed
}

// bulk is the minimum number of bytes for which reserve allocates the length that the ring had before
// it was freed, if that length is larger. Otherwise a ring that is emptied by each read would grow by
// doubling after each read. This growth was half of the cost of copying.
const bulk = 16 << 10

// reserve grows the ring to at least n bytes from the head. used is the number of bytes from the head
// that reserve preserves. Some of these bytes may lie beyond the queue (out-of-order data).
func (r *ring) reserve(p *Params, n, used int) {
	if n <= len(r.b) {
		return
	}
	size := 1 << bits.Len(uint(max(n, minRing)-1))
	if n >= bulk && int(r.was) > size && (p.Pressure == nil || !p.Pressure()) {
		size = int(r.was)
	}
	r.resize(p, size, used)
}

// resize allocates new storage of size bytes, a power of two. used is the number of bytes from the head
// that resize moves to the new storage.
func (r *ring) resize(p *Params, size, used int) {
	var b []byte
	if p.Alloc != nil {
		b = p.Alloc(size)
		b = b[:cap(b)]
	} else {
		b = make([]byte, size)
	}
	x, y := r.slices(0, used)
	copy(b[copy(b, x):], y)
	if r.b != nil && p.Free != nil {
		p.Free(r.b)
	}
	r.b, r.head = b, 0
}

// slices returns the n bytes that begin off bytes from the head, in two parts if they wrap around.
func (r *ring) slices(off, n int) (a, b []byte) {
	if n == 0 {
		return nil, nil
	}
	i := (int(r.head) + off) & (len(r.b) - 1)
	if i+n <= len(r.b) {
		return r.b[i : i+n], nil
	}
	return r.b[i:], r.b[:i+n-len(r.b)]
}

// put copies p to the position off bytes from the head. This position may be beyond the queue.
func (r *ring) put(off int, p []byte) {
	a, b := r.slices(off, len(p))
	copy(b, p[copy(a, p):])
}

// drop removes n bytes from the head of the queue.
func (r *ring) drop(n int) {
	r.n -= n
	if len(r.b) > 0 {
		r.head = (r.head + int32(n)) & int32(len(r.b)-1)
	}
}

// free frees the storage. The caller has copied the contents or no longer needs them.
func (r *ring) free(p *Params) {
	if r.b != nil {
		r.was = int32(len(r.b))
	}
	if r.b != nil && p.Free != nil {
		p.Free(r.b)
	}
	r.b, r.head = nil, 0
}

// shrink frees the storage if the queue is empty. If a quarter of the storage is at least minRing bytes and
// holds the queue, shrink moves the queue to the smallest storage that holds it.
func (r *ring) shrink(p *Params) {
	if size := 1 << bits.Len(uint(max(r.n, minRing)-1)); r.n == 0 {
		r.free(p)
	} else if len(r.b) >= 4*size {
		r.resize(p, size, r.n)
	}
	r.was = 0
}
