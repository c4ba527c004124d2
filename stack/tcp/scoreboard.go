package tcp

// A sent is an unacknowledged piece of the sequence space. It was sent in one segment or
// super-segment, or it is several adjacent SACKed pieces joined.
type sent struct {
	seq, end Seq
	at       Time // when it was last sent
	flags    sentFlags
	pieces   uint8  // number of pieces joined in this piece, counted up to 255
	tx       uint32 // with BBR, the number of its txRecord
}

type sentFlags uint8

const (
	segSacked     sentFlags = 1 << iota // selectively acknowledged
	segLost                             // marked lost
	segResent                           // retransmitted, and that copy is in flight
	segEverResent                       // was retransmitted at least once: its round-trip time is ambiguous
)

func (s *sent) len() int { return int(s.end - s.seq) }

// A sentKind classifies pieces for searches. A SACKed piece has kind 0. Any other piece is of exactly
// one of the kinds kindDue, kindOpen and kindResent.
type sentKind uint8

const (
	kindDue    sentKind = 1 << iota // lost, and to be retransmitted
	kindOpen                        // sent once, neither SACKed nor lost
	kindResent                      // retransmitted, that copy neither SACKed nor lost
	kindAny    = kindDue | kindOpen | kindResent
)

func (s *sent) kind() sentKind {
	switch {
	case s.flags&segSacked != 0:
		return 0
	case s.flags&segResent != 0:
		return kindResent
	case s.flags&segLost != 0:
		return kindDue
	}
	return kindOpen
}

// A scoreboard holds the pieces between SND.UNA and SND.NXT, in sequence order and without gaps.
//
// sacked counts the bytes that have been received, lost the bytes that have left the network, and resent
// the bytes that have entered it a second time. So the number of bytes in the network (the pipe of
// RFC 6675) is
// SND.NXT - SND.UNA - sacked - lost + resent.
//
// By its SACK blocks the peer determines the number of pieces, up to maxPieces: about 100,000 in a
// window of 64 MiB. The pieces are stored in chunks, the nodes of a balanced tree (see
// scoreboard_tree.go). It takes logarithmic time to find, split or join a piece, or to find the next
// piece of a kind. In the common case pieces are appended to the last chunk and removed from the first.
type scoreboard struct {
	root        *chunk
	first, last *chunk
	n           int    // number of pieces
	free        *chunk // list of unused chunks, linked by up
	chunks      int    // number of chunks, used and unused, besides the field one

	sacked int // bytes with segSacked
	lost   int // bytes with segLost
	resent int // bytes with segResent
	due    int // bytes with segLost and without segResent: to be retransmitted

	fack Seq // the highest number ever acknowledged, cumulatively or by SACK

	again     []resend // retransmissions, in the order of sending
	againHead int      // index in again of the first that may still be in flight

	cache [4]block // SACK blocks of the last acknowledgement, already marked
	reno  int      // without SACK: bytes that the duplicate acknowledgements stand for

	one   chunk   // the first chunk
	small [4]sent // the initial storage of the chunk one, enough for request and response
}

// A resend is the sequence number and time of a retransmission.
type resend struct {
	seq Seq
	at  Time
}

func (b *scoreboard) init() {
	b.one.list = b.small[:0]
	b.free = &b.one
}

// release removes all pieces and frees their memory.
func (b *scoreboard) release() {
	*b = scoreboard{}
	b.init()
}

// reset clears the history of an empty scoreboard. The next piece begins at una.
func (b *scoreboard) reset(una Seq) {
	b.again, b.againHead = b.again[:0], 0
	b.shrink(keepPieces)
	b.sacked, b.lost, b.resent, b.due, b.reno = 0, 0, 0, 0, 0
	b.fack = una
	b.cache = [4]block{}
}

// keepPieces is the number of pieces for which an empty scoreboard keeps memory. A connection in which
// each acknowledgement empties the scoreboard need not allocate this memory again. An idle connection
// frees it too.
const keepPieces = 1024

// shrink frees the memory of an empty scoreboard if it has room for more than n pieces.
func (b *scoreboard) shrink(n int) {
	if b.chunks*chunkLen+cap(b.one.list) > max(n, len(b.small)) {
		b.one = chunk{}
		b.chunks = 0
		b.init()
	}
	if cap(b.again) > n {
		b.again = nil
	}
}

// push appends a piece that is sent for the first time.
func (b *scoreboard) push(seq, end Seq, now Time) *sent {
	c := b.last
	switch {
	case b.n == 0:
		b.fack, b.reno, b.cache = seq, 0, [4]block{} // all else is as reset has left it
		c = b.pushFirst()
	case len(c.list) >= chunkLen && c.head < chunkLen/2:
		c = b.insertChunk(c)
	default:
		c.room()
	}
	c.list = append(c.list, sent{seq: seq, end: end, at: now, pieces: 1})
	b.n++
	if c.count[kindOpen]++; c.below&kindOpen == 0 {
		b.fix(c)
	}
	return &c.list[len(c.list)-1]
}

// split splits piece p at seq, which lies inside it, and returns both halves.
func (b *scoreboard) split(p piece, seq Seq) (x, y piece) {
	rest := *p.sent()
	rest.seq = seq
	p.sent().end = seq
	if rest.flags&segResent != 0 {
		b.noteAgain(seq, rest.at)
	}
	return b.insert(p, rest)
}

// trim removes the part before una from the first piece, which contains una.
func (b *scoreboard) trim(una Seq) {
	s := b.firstPiece().sent()
	s.seq = una
	if s.flags&segResent != 0 {
		b.noteAgain(una, s.at)
	}
}

// noteAgain appends an entry to again. The entry for the second half of a split piece is older than the
// entries before it. Loss detection therefore reaches that entry late, which does no harm.
func (b *scoreboard) noteAgain(seq Seq, at Time) {
	if b.againHead > 32 && b.againHead > len(b.again)/2 {
		n := copy(b.again, b.again[b.againHead:])
		b.again, b.againHead = b.again[:n], 0
	}
	b.again = append(b.again, resend{seq, at})
}

// markSacked marks piece p as SACKed and joins it with adjacent SACKed pieces. It returns the
// piece that contains p afterwards.
func (b *scoreboard) markSacked(p piece) piece {
	s := p.sent()
	b.forget(s)
	b.flag(p, s.flags&segEverResent|segSacked)
	b.sacked += s.len()
	if next := b.next(p); next.c != nil && next.sent().flags&segSacked != 0 {
		b.join(s, next.sent())
		b.remove(next)
	}
	if prev := b.prev(p); prev.c != nil && prev.sent().flags&segSacked != 0 {
		b.join(prev.sent(), p.sent())
		b.remove(p)
		p = prev
	}
	return b.pack(p)
}

// join adds piece t to piece s, which precedes it. Both are SACKed.
func (b *scoreboard) join(s, t *sent) {
	s.end = t.end
	s.flags |= t.flags
	s.pieces = uint8(min(int(s.pieces)+int(t.pieces), 255))
	if s.at < t.at {
		s.at, s.tx = t.at, t.tx
	}
}

// forget subtracts a piece from all byte counts.
func (b *scoreboard) forget(s *sent) {
	n := s.len()
	if s.flags&segSacked != 0 {
		b.sacked -= n
	}
	if s.flags&segResent != 0 {
		b.resent -= n
	}
	if s.flags&segLost != 0 {
		b.lost -= n
		if s.flags&segResent == 0 {
			b.due -= n
		}
	}
}

// markLost marks piece p lost, or its retransmitted copy if there is one. It returns the number of bytes
// marked: 0 if p is SACKed, or was marked lost before and not retransmitted.
func (b *scoreboard) markLost(p piece) int {
	s := p.sent()
	if s.kind()&(kindOpen|kindResent) == 0 {
		return 0
	}
	b.forget(s)
	b.flag(p, s.flags&^segResent|segLost)
	b.lost += s.len()
	b.due += s.len()
	return s.len()
}

// markAllLost marks all pieces that are not SACKed as lost.
func (b *scoreboard) markAllLost() { b.markLargerLost(0) }

// markLargerLost marks the pieces of more than n bytes that are not SACKed as lost.
func (b *scoreboard) markLargerLost(n int) {
	for p := b.firstOf(kindOpen | kindResent); p.c != nil; p = b.nextOf(p, kindOpen|kindResent) {
		if p.sent().len() > n {
			b.markLost(p)
		}
	}
}

// markResent records that piece p was retransmitted.
func (b *scoreboard) markResent(p piece, now Time) {
	s := p.sent()
	b.forget(s)
	b.flag(p, s.flags|segResent|segEverResent)
	s.at = now
	b.resent += s.len()
	if s.flags&segLost != 0 {
		b.lost += s.len()
	}
	b.noteAgain(s.seq, now)
}

// unmarkDue clears segLost on all pieces that are due for retransmission.
func (b *scoreboard) unmarkDue() {
	for p := b.firstOf(kindDue); p.c != nil; p = b.nextOf(p, kindDue) {
		b.forget(p.sent())
		b.flag(p, p.sent().flags&^segLost)
	}
}

// renege clears all SACK marks. RFC 2018 8: "the data
// receiver is permitted to discard data in its queue that has not been
// acknowledged to the data sender, even if the data has already been reported".
func (b *scoreboard) renege() {
	for p := b.firstPiece(); p.c != nil; p = b.next(p) {
		if s := p.sent(); s.flags&segSacked != 0 {
			b.sacked -= s.len()
			b.flag(p, s.flags&^segSacked)
		}
	}
	b.cache = [4]block{}
	if b.n > 0 {
		b.fack = b.firstPiece().sent().seq
	}
}
