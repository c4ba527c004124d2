package tcp

import "sort"

// This file is the storage of a scoreboard: chunks of pieces in an AVL tree with parent links.
// Each chunk records which kinds of pieces are in it and in its subtree.

// chunkLen is the maximum number of pieces in a chunk. Moving that many pieces costs about as much as
// finding a piece in the tree.
const chunkLen = 64

// A chunk holds consecutive pieces, at least one while it is in the tree.
type chunk struct {
	list            []sent // the pieces, from head on
	head            int
	count           [kindAny + 1]uint8 // number of pieces of each kind; count[0] is that of SACKed pieces
	height          int8
	below           sentKind // kinds of the pieces in the subtree of the chunk
	up, left, right *chunk
}

// A piece is the position of a sent in the scoreboard. It is valid until a piece is inserted or
// removed. The zero piece means none.
type piece struct {
	c *chunk
	i int
}

func (p piece) sent() *sent { return &p.c.list[p.i] }

// live returns the number of pieces in c.
func (c *chunk) live() int { return len(c.list) - c.head }

// room prepares a chunk that is not full for one more piece. If the list has reached the end of its array,
// room moves the pieces to the beginning of the array. The array of a chunk has chunkLen elements, except
// that of scoreboard.one, which starts small and grows by append. While that array is small and less than
// half of it is free, room leaves the pieces where they are, so that append grows the array.
func (c *chunk) room() {
	if len(c.list) == cap(c.list) && c.head > 0 && (c.head >= len(c.list)/2 || len(c.list) >= chunkLen) {
		c.list = c.list[:copy(c.list, c.list[c.head:])]
		c.head = 0
	}
}

// kinds are the kinds of the pieces in c.
func (c *chunk) kinds() (k sentKind) {
	for _, x := range [...]sentKind{kindDue, kindOpen, kindResent} {
		if c.count[x] > 0 {
			k |= x
		}
	}
	return k
}

// flag sets the flags of piece p and updates the kinds in the tree.
func (b *scoreboard) flag(p piece, flags sentFlags) {
	s := p.sent()
	was := s.kind()
	s.flags = flags
	if is := s.kind(); is != was {
		p.c.count[was]--
		p.c.count[is]++
		if p.c.count[was] == 0 || p.c.count[is] == 1 {
			b.fix(p.c)
		}
	}
}

// insert inserts s after piece p and returns the new positions of both.
func (b *scoreboard) insert(p piece, s sent) (piece, piece) {
	c := p.c
	if c.live() == chunkLen {
		k := b.insertChunk(c)
		half := c.head + chunkLen/2
		k.list = append(k.list, c.list[half:]...)
		c.list = c.list[:half]
		for i := range k.list {
			x := k.list[i].kind()
			c.count[x]--
			k.count[x]++
		}
		b.fix(k)
		b.fix(c)
		if p.i >= half {
			p = piece{k, p.i - half}
			c = k
		}
	}
	p.i -= c.head
	c.room()
	p.i += c.head
	c.list = append(c.list, sent{})
	copy(c.list[p.i+2:], c.list[p.i+1:])
	c.list[p.i+1] = s
	b.n++
	if c.count[s.kind()]++; c.count[s.kind()] == 1 {
		b.fix(c)
	}
	return p, piece{c, p.i + 1}
}

// remove removes piece p.
func (b *scoreboard) remove(p piece) {
	c := p.c
	x := p.sent().kind()
	b.n--
	c.count[x]--
	if p.i == c.head {
		c.head++
	} else {
		c.list = append(c.list[:p.i], c.list[p.i+1:]...)
	}
	if c.live() == 0 {
		b.removeChunk(c)
	} else if c.count[x] == 0 {
		b.fix(c)
	}
}

// removeFirst removes the first piece, of which s is a copy.
func (b *scoreboard) removeFirst(s *sent) {
	c := b.first
	x := s.kind()
	b.n--
	c.head++
	switch c.count[x]--; {
	case c.head < len(c.list):
		if c.count[x] == 0 {
			b.fix(c)
		}
	case b.n == 0:
		b.removeOnly(c)
	default:
		b.removeChunk(c)
	}
}

// pushFirst adds the first chunk to an empty tree. The caller adds a piece of kindOpen to it.
//
// With requests and responses, most pushes find an empty tree and a free chunk, so pushFirst then skips the
// general steps of insertChunk. It sets below to its value with the caller's piece, so that push need not
// call fix.
func (b *scoreboard) pushFirst() *chunk {
	c := b.free
	if c == nil {
		return b.insertChunk(nil)
	}
	b.free, c.up = c.up, nil
	c.height, c.below = 1, kindOpen
	b.root, b.first, b.last = c, c, c
	return c
}

// removeOnly removes the empty chunk c, the only one of the tree. Its counts are already zero.
func (b *scoreboard) removeOnly(c *chunk) {
	c.list, c.head, c.below = c.list[:0], 0, 0
	c.up, b.free = b.free, c
	b.root, b.first, b.last = nil, nil, nil
}

// pack merges the chunk of piece p with a neighbour if both have few pieces, so that the number
// of chunks stays proportional to that of the pieces. It returns the new position of p.
func (b *scoreboard) pack(p piece) piece {
	c := p.c
	at := p.i - c.head
	if c.live() > chunkLen/4 {
		return p
	}
	if next := c.next(); next != nil && c.live()+next.live() <= chunkLen/2 {
		b.pour(c, next)
	}
	if prev := c.prev(); prev != nil && c.live()+prev.live() <= chunkLen/2 {
		at += prev.live()
		b.pour(prev, c)
		c = prev
	}
	return piece{c, c.head + at}
}

// pour moves the pieces of chunk k to the end of c, the chunk before k, and removes k.
func (b *scoreboard) pour(c, k *chunk) {
	c.list = c.list[:copy(c.list, c.list[c.head:])]
	c.head = 0
	c.list = append(c.list, k.list[k.head:]...)
	for i, n := range k.count {
		c.count[i] += n
	}
	k.count = [kindAny + 1]uint8{}
	b.removeChunk(k)
	b.fix(c)
}

// firstPiece returns the piece at SND.UNA, or none.
func (b *scoreboard) firstPiece() piece {
	if b.first == nil {
		return piece{}
	}
	return piece{b.first, b.first.head}
}

// lastPiece returns the piece before SND.NXT, or none.
func (b *scoreboard) lastPiece() piece {
	if b.last == nil {
		return piece{}
	}
	return piece{b.last, len(b.last.list) - 1}
}

// next returns the piece after p, or none.
func (b *scoreboard) next(p piece) piece {
	if p.i++; p.i < len(p.c.list) {
		return p
	}
	c := p.c.next()
	if c == nil {
		return piece{}
	}
	return piece{c, c.head}
}

// prev returns the piece before p, or none.
func (b *scoreboard) prev(p piece) piece {
	if p.i--; p.i >= p.c.head {
		return p
	}
	c := p.c.prev()
	if c == nil {
		return piece{}
	}
	return piece{c, len(c.list) - 1}
}

// find returns the piece that holds seq, or none.
func (b *scoreboard) find(seq Seq) piece {
	for c := b.root; c != nil; {
		switch {
		case seq.Less(c.list[c.head].seq):
			c = c.left
		case seq.Less(c.list[len(c.list)-1].end):
			l := c.list[c.head:]
			return piece{c, c.head + sort.Search(len(l), func(i int) bool { return seq.Less(l[i].end) })}
		default:
			c = c.right
		}
	}
	return piece{}
}

// firstOf returns the first piece that is of one of the kinds, or none.
func (b *scoreboard) firstOf(kinds sentKind) piece { return b.root.firstOf(kinds) }

// nextOf returns the first piece after p that is of one of the kinds, or none.
func (b *scoreboard) nextOf(p piece, kinds sentKind) piece {
	if p.c.kinds()&kinds != 0 {
		for p.i++; p.i < len(p.c.list); p.i++ {
			if p.sent().kind()&kinds != 0 {
				return p
			}
		}
	}
	return p.c.nextOf(kinds)
}

// firstOf is scoreboard.firstOf for the subtree c, which may be nil.
func (c *chunk) firstOf(kinds sentKind) piece {
	if c == nil || c.below&kinds == 0 {
		return piece{}
	}
	for {
		switch {
		case c.left != nil && c.left.below&kinds != 0:
			c = c.left
		case c.kinds()&kinds != 0:
			p := piece{c, c.head}
			for p.sent().kind()&kinds == 0 {
				p.i++
			}
			return p
		default:
			c = c.right
		}
	}
}

// nextOf returns the first piece in the chunks after c that is of one of the kinds, or none.
func (c *chunk) nextOf(kinds sentKind) piece {
	if p := c.right.firstOf(kinds); p.c != nil {
		return p
	}
	for up := c.up; up != nil; c, up = up, up.up {
		if up.left != c {
			continue
		}
		if up.kinds()&kinds != 0 {
			p := piece{up, up.head}
			for p.sent().kind()&kinds == 0 {
				p.i++
			}
			return p
		}
		if p := up.right.firstOf(kinds); p.c != nil {
			return p
		}
	}
	return piece{}
}

// insertChunk inserts an empty chunk after c, or into an empty tree. The caller adds pieces.
func (b *scoreboard) insertChunk(c *chunk) *chunk {
	k := b.free
	if k == nil {
		k = &chunk{list: make([]sent, 0, chunkLen)}
		b.chunks++
	} else {
		b.free = k.up
	}
	k.height, k.up = 1, nil
	if c == b.last {
		b.last = k
	}
	switch {
	case c == nil:
		b.root, b.first = k, k
	case c.right == nil:
		c.right, k.up = k, c
	default:
		c = c.right.leftmost()
		c.left, k.up = k, c
	}
	b.fix(k.up)
	return k
}

// removeChunk removes the empty chunk c from the tree.
func (b *scoreboard) removeChunk(c *chunk) {
	if c == b.first {
		b.first = c.next()
	}
	if c == b.last {
		b.last = c.prev()
	}
	from := c.up // the lowest chunk below which something has changed
	var moved *chunk
	switch {
	case c.left == nil:
		b.replace(c, c.right)
	case c.right == nil:
		b.replace(c, c.left)
	default:
		// k, the chunk after c, has no left child. It takes c's place.
		k := c.right.leftmost()
		from, moved = k, k
		if k.up != c {
			from = k.up
			b.replace(k, k.right)
			k.right = c.right
			k.right.up = k
		}
		k.left = c.left
		k.left.up = k
		k.height, k.below = c.height, c.below // fix compares with the old values
		b.replace(c, k)
	}
	*c = chunk{list: c.list[:0], up: b.free}
	b.free = c
	b.fix(from)
	b.fix(moved)
}

// replace replaces the subtree c by the subtree k, which may be nil.
func (b *scoreboard) replace(c, k *chunk) {
	switch up := c.up; {
	case up == nil:
		b.root = k
	case up.left == c:
		up.left = k
	default:
		up.right = k
	}
	if k != nil {
		k.up = c.up
	}
}

// update recomputes c.height and c.below from the children.
func (c *chunk) update() {
	c.height, c.below = 0, c.kinds()
	if l := c.left; l != nil {
		c.height, c.below = l.height, c.below|l.below
	}
	if r := c.right; r != nil {
		c.height, c.below = max(c.height, r.height), c.below|r.below
	}
	c.height++
}

// lean returns the height of the left subtree of c minus that of the right one.
func (c *chunk) lean() (d int8) {
	if c.left != nil {
		d = c.left.height
	}
	if c.right != nil {
		d -= c.right.height
	}
	return d
}

// fix restores heights, balance and kinds from c up to the root.
func (b *scoreboard) fix(c *chunk) {
	for c != nil {
		height, below := c.height, c.below
		switch d := c.lean(); {
		case d > 1:
			if c.left.lean() < 0 {
				b.rotateLeft(c.left)
			}
			c = b.rotateRight(c)
		case d < -1:
			if c.right.lean() > 0 {
				b.rotateRight(c.right)
			}
			c = b.rotateLeft(c)
		default:
			c.update()
		}
		if c.height == height && c.below == below {
			return // nothing changes for the ancestors
		}
		c = c.up
	}
}

// rotateLeft rotates c to the left: the right child of c takes c's place. rotateLeft returns that child.
func (b *scoreboard) rotateLeft(c *chunk) *chunk {
	k := c.right
	b.replace(c, k)
	if c.right = k.left; c.right != nil {
		c.right.up = c
	}
	k.left, c.up = c, k
	c.update()
	k.update()
	return k
}

// rotateRight rotates c to the right: the left child of c takes c's place. rotateRight returns that child.
func (b *scoreboard) rotateRight(c *chunk) *chunk {
	k := c.left
	b.replace(c, k)
	if c.left = k.right; c.left != nil {
		c.left.up = c
	}
	k.right, c.up = c, k
	c.update()
	k.update()
	return k
}

func (c *chunk) leftmost() *chunk {
	for c.left != nil {
		c = c.left
	}
	return c
}

// next returns the chunk after c, or nil.
func (c *chunk) next() *chunk {
	if c.right != nil {
		return c.right.leftmost()
	}
	for c.up != nil && c.up.right == c {
		c = c.up
	}
	return c.up
}

// prev returns the chunk before c, or nil.
func (c *chunk) prev() *chunk {
	if c.left != nil {
		c = c.left
		for c.right != nil {
			c = c.right
		}
		return c
	}
	for c.up != nil && c.up.left == c {
		c = c.up
	}
	return c.up
}
