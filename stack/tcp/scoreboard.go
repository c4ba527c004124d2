package tcp

// A sent is a piece of the sequence space that was sent in one segment, or in
// one super-segment, and that is not yet acknowledged; or neighbouring ones that
// have all arrived.
type sent struct {
	seq, end Seq
	at       Time // when it was last sent
	flags    sentFlags
	pieces   uint8  // of how many pieces this was made, at most 255
	tx       uint32 // the number of its txRecord, where there are any
}

type sentFlags uint8

const (
	segSacked sentFlags = 1 << iota // selectively acknowledged
	segLost                         // taken for lost
	segResent                       // sent again, and that copy is in flight
	segEver                         // was ever sent again: its round-trip time is ambiguous
)

func (s *sent) len() int { return int(s.end - s.seq) }

// A sentKind is what is to be looked for on the board. A piece that is selectively
// acknowledged is of no kind, every other one is of one.
type sentKind uint8

const (
	kindDue    sentKind = 1 << iota // lost, and to be sent again
	kindOpen                        // sent once, and nothing is known of it
	kindResent                      // sent again, and nothing is known of that copy
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

// A scoreboard knows what is in flight. Its pieces lie in the order of their
// numbers, without gaps, from SND.UNA to SND.NXT.
//
// Of the bytes between SND.UNA and SND.NXT, sacked have arrived, lost have
// left the network, and resent have entered it a second time; so what the
// network holds (the pipe of RFC 6675) is the whole - sacked - lost + resent.
//
// How many pieces there are is up to the peer: a window of 64 MiB that it reports
// segment by segment makes 100,000. So they lie in chunks, which are the nodes of a
// balanced tree (see scoreboard_tree.go): a piece is found, cut or joined, and the
// next one of a kind is found, in logarithmic time; and what is sent and arrives in
// order is appended to the last chunk and taken from the first.
type scoreboard struct {
	root        *chunk
	first, last *chunk
	n           int    // how many pieces there are
	free        *chunk // chunks that are not in use, linked by up
	chunks      int    // how many chunks there are, in use or not, without one

	sacked int // bytes with segSacked
	lost   int // bytes with segLost
	resent int // bytes with segResent
	due    int // bytes with segLost that were not sent again: to be sent now

	fack Seq // the highest end that was ever acknowledged, selectively or not

	again     []resend // what was sent again, in the order of sending
	againHead int

	cache [4]block // SACK blocks of the last acknowledgement: already marked
	reno  int      // without SACK: bytes that duplicate acknowledgements stand for

	one   chunk   // the first chunk, with
	small [4]sent // its first storage: enough for a conversation
}

// A resend names a piece that was sent again and the time of it.
type resend struct {
	seq Seq
	at  Time
}

func (b *scoreboard) init() {
	b.one.list = b.small[:0]
	b.free = &b.one
}

// release gives up what is in flight and the memory for it.
func (b *scoreboard) release() {
	*b = scoreboard{}
	b.init()
}

// reset forgets an empty board's history: what comes next begins at una.
func (b *scoreboard) reset(una Seq) {
	b.again, b.againHead = b.again[:0], 0
	b.shrink(keepPieces)
	b.sacked, b.lost, b.resent, b.due, b.reno = 0, 0, 0, 0, 0
	b.fack = una
	b.cache = [4]block{}
}

// keepPieces is how many pieces an empty board has room for: enough that one
// that empties with every acknowledgement need not be made anew each time. A
// connection that stays idle gives them up as well.
const keepPieces = 1024

// shrink gives up the memory of an empty board if it is for more than n pieces.
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

// push appends what was just sent for the first time, and returns the piece.
func (b *scoreboard) push(seq, end Seq, now Time) *sent {
	if b.n == 0 {
		b.reset(seq)
	}
	c := b.last
	if c == nil || len(c.list) >= chunkLen && c.head < chunkLen/2 {
		c = b.insertChunk(c)
	}
	c.room()
	c.list = append(c.list, sent{seq: seq, end: end, at: now, pieces: 1})
	b.n++
	if c.count[kindOpen]++; c.count[kindOpen] == 1 {
		b.fix(c)
	}
	return &c.list[len(c.list)-1]
}

// split cuts piece p at seq, which lies inside it, and returns both halves.
func (b *scoreboard) split(p piece, seq Seq) (x, y piece) {
	rest := *p.sent()
	rest.seq = seq
	p.sent().end = seq
	if rest.flags&segResent != 0 {
		b.noteAgain(seq, rest.at)
	}
	return b.insert(p, rest)
}

// trim takes from the first piece what lies before una, which is inside it.
func (b *scoreboard) trim(una Seq) {
	s := b.firstPiece().sent()
	s.seq = una
	if s.flags&segResent != 0 {
		b.noteAgain(una, s.at)
	}
}

// noteAgain keeps the order of sending; a piece that split gets its entry late,
// which delays the judgement on it and does no harm.
func (b *scoreboard) noteAgain(seq Seq, at Time) {
	if b.againHead > 32 && b.againHead > len(b.again)/2 {
		n := copy(b.again, b.again[b.againHead:])
		b.again, b.againHead = b.again[:n], 0
	}
	b.again = append(b.again, resend{seq, at})
}

// markSacked notes that piece p has arrived, and joins it with its neighbours
// that have. It returns the piece that p is now part of.
func (b *scoreboard) markSacked(p piece) piece {
	s := p.sent()
	b.forget(s)
	b.flag(p, s.flags&segEver|segSacked)
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

// join makes piece t a part of piece s, which lies before it. Both have arrived.
func (b *scoreboard) join(s, t *sent) {
	s.end = t.end
	s.flags |= t.flags
	s.pieces = uint8(min(int(s.pieces)+int(t.pieces), 255))
	if s.at < t.at {
		s.at, s.tx = t.at, t.tx
	}
}

// forget takes a piece out of every count.
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

// markLost takes piece p for lost: if it was sent again, that copy. It returns
// how many bytes that is.
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

// markAllLost takes for lost whatever has not arrived.
func (b *scoreboard) markAllLost() {
	for p := b.firstOf(kindOpen | kindResent); p.c != nil; p = b.nextOf(p, kindOpen|kindResent) {
		b.markLost(p)
	}
}

// markResent notes that piece p was sent again.
func (b *scoreboard) markResent(p piece, now Time) {
	s := p.sent()
	b.forget(s)
	b.flag(p, s.flags|segResent|segEver)
	s.at = now
	b.resent += s.len()
	if s.flags&segLost != 0 {
		b.lost += s.len()
	}
	b.noteAgain(s.seq, now)
}

// unmarkDue takes back that what is due was lost.
func (b *scoreboard) unmarkDue() {
	for p := b.firstOf(kindDue); p.c != nil; p = b.nextOf(p, kindDue) {
		b.forget(p.sent())
		b.flag(p, p.sent().flags&^segLost)
	}
}

// renege takes back every selective acknowledgement. RFC 2018 8: "the data
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
