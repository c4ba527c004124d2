package tcp

// This file lets a Conn send from memory that others have filled: WriteBlock adds the bytes of a Block to the
// send queue without copying them. The Block stays in use until its bytes are acknowledged.

// A Block is memory that send queues and frames refer to. Its owner counts its uses, and reuses the memory
// when there are none.
type Block struct {
	Done func() // ends one use; it may be called with any lock held
	Uses int32  // for the owner; package tcp does not use it
}

// tailBlock is the size in bytes of the Blocks for small Writes that follow the bytes of other Blocks.
const tailBlock = 4 << 10

// newBlock returns a Block with one use, and its memory of at least n bytes.
func (p *Params) newBlock(n int) (*Block, []byte) {
	if p.NewBlock != nil {
		return p.NewBlock(n)
	}
	return &Block{Done: func() {}}, make([]byte, n)
}

// A blockQueue holds the bytes of a send queue that are in Blocks. The zero value is an empty queue.
type blockQueue struct {
	list []extent // the extents of the queue are list[head:]
	head int
	n    int    // bytes in the queue
	tail *Block // the Block of the last extent, if put may use the rest of its memory; otherwise nil
}

// An extent is a part of a Block. Each extent is one use of its Block.
type extent struct {
	start uint64 // position of the first byte, counted from the first byte that the queue ever held
	p     []byte
	b     *Block
}

// blocks returns the bytes in Blocks, or nil if the Conn is idle.
func (c *Conn) blocks() *blockQueue {
	if c.active == nil {
		return nil
	}
	return &c.active.sendBlocks
}

// len returns the number of bytes in the queue, which may be nil.
func (q *blockQueue) len() int {
	if q == nil {
		return 0
	}
	return q.n
}

// end returns the position after the last byte of the queue.
func (q *blockQueue) end() uint64 {
	if q.head == len(q.list) {
		return 0
	}
	e := &q.list[len(q.list)-1]
	return e.start + uint64(len(e.p))
}

// add appends p, which is in b. It reports whether it has added an extent, which is one more use of b.
// Otherwise p continues the last extent.
func (q *blockQueue) add(b *Block, p []byte) bool {
	start := q.end()
	q.n += len(p)
	if q.head < len(q.list) {
		e := &q.list[len(q.list)-1]
		k := len(e.p)
		if e.b == b && k < cap(e.p) && &e.p[:k+1][k] == &p[0] {
			e.p = e.p[:k+len(p)]
			return false
		}
	}
	q.list = append(q.list, extent{start, p, b})
	q.tail = nil
	return true
}

// put appends a copy of p.
func (q *blockQueue) put(params *Params, p []byte) {
	if q.tail != nil {
		e := &q.list[len(q.list)-1]
		k := len(e.p)
		m := copy(e.p[k:cap(e.p)], p)
		e.p = e.p[:k+m]
		q.n += m
		p = p[m:]
	}
	if len(p) > 0 {
		b, mem := params.newBlock(max(len(p), tailBlock))
		q.add(b, mem[:copy(mem, p)])
		q.tail = b
	}
}

// payload adds n bytes, which begin off bytes from the head, to the payload of out, which may already have bytes of the ring. more means that
// pinned bytes follow. Otherwise the last piece becomes out.Pinned.
func (q *blockQueue) payload(p *Params, out *Segment, off, n int, more bool) {
	free := [...]*[]byte{&out.Payload, &out.Payload2, &out.Payload3, &out.Pinned}
	first, last := 0, len(free)
	for len(*free[first]) > 0 {
		first++
	}
	if more {
		last--
	}
	var pieces [len(free)][]byte
	got, b := q.slices(p, pieces[:0], off, n, last-first)
	if !more {
		out.Pinned, out.Block = got[len(got)-1], b
		got = got[:len(got)-1]
	}
	for i, piece := range got {
		*free[first+i] = piece
	}
}

// find returns the index of the extent that holds the byte off bytes from the head, and the offset of that
// byte in the extent.
func (q *blockQueue) find(off int) (i, at int) {
	pos := q.list[q.head].start + uint64(off)
	lo, hi := q.head, len(q.list)
	for lo+1 < hi {
		if mid := int(uint(lo+hi) / 2); q.list[mid].start <= pos {
			lo = mid
		} else {
			hi = mid
		}
	}
	return lo, int(pos - q.list[lo].start)
}

// slices appends to out the n bytes that begin off bytes from the head. If they are in more than most pieces,
// it first moves some of them to one Block. It returns the Block of the last piece.
func (q *blockQueue) slices(params *Params, out [][]byte, off, n, most int) ([][]byte, *Block) {
	i, at := q.find(off)
	j := i + 1 // the extents i to j-1 hold the bytes
	for have := len(q.list[i].p) - at; have < n; j++ {
		have += len(q.list[j].p)
	}
	switch {
	case j-i <= most:
	case most >= 3:
		q.join(params, i+1, j-1)
		j = i + 3
	default:
		q.join(params, i, j)
		i, at = q.find(off)
		j = i + 1
	}
	for k := i; k < j; k++ {
		p := q.list[k].p[at:]
		p = p[:min(len(p), n)]
		out = append(out, p)
		n -= len(p)
		at = 0
	}
	return out, q.list[j-1].b
}

// join moves the bytes of the extents i to j-1 to one Block.
func (q *blockQueue) join(params *Params, i, j int) {
	n := 0
	for _, e := range q.list[i:j] {
		n += len(e.p)
	}
	b, mem := params.newBlock(n)
	joined := extent{q.list[i].start, mem[:0:n], b}
	for k := range q.list[i:j] {
		e := &q.list[i+k]
		joined.p = append(joined.p, e.p...)
		e.b.Done()
	}
	q.list[i] = joined
	k := i + 1 + copy(q.list[i+1:], q.list[j:])
	clear(q.list[k:])
	q.list, q.tail = q.list[:k], nil
}

// drop removes n bytes from the head.
func (q *blockQueue) drop(n int) {
	q.n -= n
	for n > 0 {
		e := &q.list[q.head]
		if n < len(e.p) {
			e.p = e.p[n:]
			e.start += uint64(n)
			break
		}
		n -= len(e.p)
		e.b.Done()
		*e = extent{}
		q.head++
	}
	if q.n == 0 {
		q.list, q.head, q.tail = q.list[:0], 0, nil
	} else if q.head >= 16 && q.head >= len(q.list)/2 {
		k := copy(q.list, q.list[q.head:])
		clear(q.list[k:])
		q.list, q.head = q.list[:k], 0
	}
}

// WriteBlock is Write without the copy: the bytes of p that it accepts are sent from p, which is part of b, and
// must not change while b is in use. used reports whether b has one more use: the Conn calls b.Done when all
// bytes of this use are acknowledged, or the connection ends. WriteBlock must not be called between Pin and
// Unpin.
func (c *Conn) WriteBlock(now Time, b *Block, p []byte) (n int, used bool) {
	n = c.admit(now, p)
	if n == 0 {
		return 0, false
	}
	return n, c.active.sendBlocks.add(b, p[:n]) // admit has made the Conn active
}

// evenBurst returns n or less for a super-segment of n bytes that begins at seq: such that a frame can refer to
// all bytes of the super-segment that are in Blocks, except less than mss bytes. A frame can refer to the bytes
// of one Block only. The result is n or a multiple of mss.
func (c *Conn) evenBurst(seq Seq, n, mss int) int {
	q, ring := c.blocks(), c.snd.buf.ring.n
	if n <= mss || q.len() == 0 {
		return n
	}
	off := int(seq - c.dataStart())
	edge := max(ring-off, 0) // the distance from seq to the end of the Block whose bytes the frame refers to
	if off = max(off-ring, 0); off >= q.n || edge >= n {
		return n
	}
	i, at := q.find(off)
	edge += len(q.list[i].p) - at
	if edge < mss && i+1 < len(q.list) {
		edge += len(q.list[i+1].p)
	}
	if edge < n {
		n = max(edge/mss, 1) * mss
	}
	return n
}
