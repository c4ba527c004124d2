package tcp

import "math/bits"

// minRing is the smallest ring in bytes.
const minRing = 2048

// A ring is a byte queue whose storage is made when it is first needed, doubles
// while it must, and is given back when the queue is empty.
// len(b) is 0 or a power of two.
type ring struct {
	b    []byte
	n    int   // bytes in the queue
	head int32 // index in b of the first byte
	was  int32 // length of b when it was last given back
}

// bulk is the size in bytes from which a ring that is made anew gets the length
// that it had: a transfer that empties it with each read would otherwise double
// it again and again, and spent half its copying on that.
const bulk = 16 << 10

// reserve makes room for n bytes from the head, whether they are in the queue
// or beyond it, and keeps what is in the first used bytes.
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

// resize moves what is in the first used bytes to storage of size bytes, a power of two.
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

// slices returns the n bytes that begin off bytes from the head.
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

// put copies p to off bytes from the head, which may be beyond the queue.
func (r *ring) put(off int, p []byte) {
	a, b := r.slices(off, len(p))
	copy(b, p[copy(a, p):])
}

// drop takes n bytes from the head of the queue.
func (r *ring) drop(n int) {
	r.n -= n
	if len(r.b) > 0 {
		r.head = (r.head + int32(n)) & int32(len(r.b)-1)
	}
}

// giveBack returns the storage; the caller has copied or no longer needs what
// is in it.
func (r *ring) giveBack(p *Params) {
	if r.b != nil {
		r.was = int32(len(r.b))
	}
	if r.b != nil && p.Free != nil {
		p.Free(r.b)
	}
	r.b, r.head = nil, 0
}

// shrink gives back storage that is not in use, if that is three quarters of it or more.
func (r *ring) shrink(p *Params) {
	if size := 1 << bits.Len(uint(max(r.n, minRing)-1)); r.n == 0 {
		r.giveBack(p)
	} else if len(r.b) >= 4*size {
		r.resize(p, size, r.n)
	}
	r.was = 0
}
