package tcp

import "sort"

// A sent is a piece of the sequence space that was sent in one segment, or in
// one super-segment, and that is not yet acknowledged.
type sent struct {
	seq, end Seq
	at       Time // when it was last sent
	flags    sentFlags
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

// A scoreboard knows what is in flight. Its pieces lie in the order of their
// numbers, without gaps, from SND.UNA to SND.NXT.
//
// Of the bytes between SND.UNA and SND.NXT, sacked have arrived, lost have
// left the network, and resent have entered it a second time; so what the
// network holds (the pipe of RFC 6675) is the whole - sacked - lost + resent.
type scoreboard struct {
	segs []sent // the live ones begin at head
	head int

	sacked int // bytes with segSacked
	lost   int // bytes with segLost
	resent int // bytes with segResent
	due    int // bytes with segLost that were not sent again: to be sent now

	dueFrom  Seq // no due piece lies before it
	rackFrom Seq // every piece before it is sacked or lost
	fack     Seq // the highest end that was ever acknowledged, selectively or not

	again     []resend // what was sent again, in the order of sending
	againHead int

	cache [4]block // SACK blocks of the last acknowledgement: already marked
	reno  int      // without SACK: bytes that duplicate acknowledgements stand for

	small [4]sent // the first storage of segs: enough for a conversation
}

// A resend names a piece that was sent again and the time of it.
type resend struct {
	seq Seq
	at  Time
}

func (b *scoreboard) init() { b.segs = b.small[:0] }

// release gives up what is in flight and the memory for it.
func (b *scoreboard) release() {
	*b = scoreboard{}
	b.init()
}

func (b *scoreboard) live() []sent { return b.segs[b.head:] }

// reset forgets an empty board's history: what comes next begins at una.
func (b *scoreboard) reset(una Seq) {
	b.segs, b.head = b.segs[:0], 0
	b.again, b.againHead = b.again[:0], 0
	b.shrink(keepPieces)
	b.sacked, b.lost, b.resent, b.due, b.reno = 0, 0, 0, 0, 0
	b.dueFrom, b.rackFrom, b.fack = una, una, una
	b.cache = [4]block{}
}

// keepPieces is how many pieces an empty board has room for: enough that one
// that empties with every acknowledgement need not be made anew each time. A
// connection that stays idle gives them up as well.
const keepPieces = 1024

// shrink gives up the memory of an empty board if it is for more than n pieces.
func (b *scoreboard) shrink(n int) {
	if cap(b.segs) > max(n, len(b.small)) {
		b.segs = b.small[:0]
	}
	if cap(b.again) > n {
		b.again = nil
	}
}

// push appends what was just sent for the first time.
func (b *scoreboard) push(seq, end Seq, now Time) {
	if len(b.segs) == 0 {
		b.reset(seq)
	}
	b.compact()
	b.segs = append(b.segs, sent{seq: seq, end: end, at: now})
}

// compact makes room at the end of a full slice whose beginning is free.
func (b *scoreboard) compact() {
	if len(b.segs) == cap(b.segs) && b.head > 0 && b.head >= len(b.segs)/2 {
		n := copy(b.segs, b.segs[b.head:])
		b.segs, b.head = b.segs[:n], 0
	}
}

// find returns the index in segs of the piece that holds seq, or len(segs).
func (b *scoreboard) find(seq Seq) int {
	l := b.live()
	return b.head + sort.Search(len(l), func(i int) bool { return seq.Less(l[i].end) })
}

// split cuts piece i at seq, which lies inside it.
func (b *scoreboard) split(i int, seq Seq) {
	b.segs = append(b.segs, sent{})
	copy(b.segs[i+1:], b.segs[i:])
	b.segs[i].end = seq
	b.segs[i+1].seq = seq
	if b.segs[i+1].flags&segResent != 0 {
		b.noteAgain(seq, b.segs[i+1].at)
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

// markSacked notes that piece i has arrived.
func (b *scoreboard) markSacked(i int) {
	s := &b.segs[i]
	b.forget(s)
	s.flags = s.flags&segEver | segSacked
	b.sacked += s.len()
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

// markLost takes piece i for lost: if it was sent again, that copy. It returns
// how many bytes that is.
func (b *scoreboard) markLost(i int) int {
	s := &b.segs[i]
	if s.flags&segSacked != 0 || s.flags&(segLost|segResent) == segLost {
		return 0
	}
	b.forget(s)
	s.flags = s.flags&^segResent | segLost
	b.lost += s.len()
	b.due += s.len()
	if s.seq.Less(b.dueFrom) {
		b.dueFrom = s.seq
	}
	return s.len()
}

// markAllLost takes for lost whatever has not arrived.
func (b *scoreboard) markAllLost() {
	for i := b.head; i < len(b.segs); i++ {
		b.markLost(i)
	}
}

// markResent notes that piece i was sent again.
func (b *scoreboard) markResent(i int, now Time) {
	s := &b.segs[i]
	b.forget(s)
	s.flags |= segResent | segEver
	s.at = now
	b.resent += s.len()
	if s.flags&segLost != 0 {
		b.lost += s.len()
	}
	b.noteAgain(s.seq, now)
}

// nextDue returns the index of the first piece that is to be sent again, or -1.
func (b *scoreboard) nextDue() int {
	if b.due == 0 {
		return -1
	}
	for i := b.find(b.dueFrom); i < len(b.segs); i++ {
		if b.segs[i].flags&(segLost|segResent) == segLost {
			b.dueFrom = b.segs[i].seq
			return i
		}
	}
	panic("tcp: bytes are due that no piece holds")
}

// renege takes back every selective acknowledgement. RFC 2018 8: "the data
// receiver is permitted to discard data in its queue that has not been
// acknowledged to the data sender, even if the data has already been reported".
func (b *scoreboard) renege() {
	for i := b.head; i < len(b.segs); i++ {
		s := &b.segs[i]
		if s.flags&segSacked != 0 {
			b.sacked -= s.len()
			s.flags &^= segSacked
		}
	}
	b.cache = [4]block{}
	if b.head < len(b.segs) {
		b.rackFrom = b.segs[b.head].seq
		b.fack = b.rackFrom
	}
}
