package tcp

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// freeList implements Params.Alloc and Params.Free as a stack does, by reusing buffers.
type freeList struct{ list [][]byte }

func (f *freeList) alloc(n int) []byte {
	for i, b := range f.list {
		if cap(b) == n {
			last := len(f.list) - 1
			f.list[i] = f.list[last]
			f.list = f.list[:last]
			return b
		}
	}
	return make([]byte, n)
}

func (f *freeList) free(b []byte) { f.list = append(f.list, b) }

// A loop is two established connections and a lossy wire of preallocated segments.
type loop struct {
	now    Time
	c      [2]Conn
	wire   [2][]Segment // wire[i] holds the segments that c[i] sent
	text   [2][]byte
	lose   int // every lose-th data segment from c[0] is lost; 0: none
	sent   int // data segments from c[0]
	buf    []byte
	pooled freeList
	p      Params
}

func newLoop(t *testing.T, gso int, cc Congestion) *loop {
	l := &loop{now: 1, p: DefaultParams(), buf: make([]byte, 256<<10)}
	l.p.Congestion = cc
	l.p.Alloc, l.p.Free = l.pooled.alloc, l.pooled.free
	// Fix the buffer sizes, because growing a buffer allocates.
	l.p.RecvBuffer, l.p.SendBuffer = 256<<10, 256<<10
	l.p.RecvBufferMax, l.p.SendBufferMax = 256<<10, 256<<10
	for i := range l.wire {
		l.wire[i] = make([]Segment, 0, 1024)
		l.text[i] = make([]byte, 1<<20)
	}
	cfg := Config{Params: &l.p, ISS: 0xffff0000, MSS: 1460, GSO: gso, NoDelay: true}
	l.c[0].Open(l.now, cfg)
	var syn Segment
	require.True(t, l.c[0].Next(l.now, &syn))
	l.c[1].Accept(l.now, cfg, &syn)
	for range 3 {
		l.round()
	}
	require.Equal(t, Established, l.c[0].State())
	require.Equal(t, Established, l.c[1].State())
	return l
}

// round takes the segments that each side can send, delivers them a millisecond later, and runs the
// timers.
func (l *loop) round() {
	for i := range l.c {
		l.wire[i] = l.wire[i][:0]
		text := l.text[i]
		for len(l.wire[i]) < cap(l.wire[i]) {
			k := len(l.wire[i])
			l.wire[i] = l.wire[i][:k+1]
			s := &l.wire[i][k]
			if !l.c[i].Next(l.now, s) {
				l.wire[i] = l.wire[i][:k]
				break
			}
			n := copy(text, s.Payload)
			n += copy(text[n:], s.Payload2)
			s.Payload, s.Payload2 = text[:n], nil
			text = text[n:]
		}
	}
	l.now += Millisecond
	for i := range l.c {
		for k := range l.wire[i] {
			s := &l.wire[i][k]
			if i == 0 && s.DataLen() > 0 && l.lose > 0 {
				if l.sent++; l.sent%l.lose == 0 {
					continue // the segment is lost
				}
			}
			l.c[1-i].Segment(l.now, s)
		}
		l.c[i].Events()
	}
	for i := range l.c {
		if d, ok := l.c[i].Deadline(); ok && d <= l.now {
			l.c[i].Tick(l.now)
		}
	}
}

// bulk runs some rounds, in which c[0] sends as much as it can and c[1] reads. It returns the number of
// bytes read. Tests measure two runs: AllocsPerRun rounds the average down, so one stray allocation by the
// runtime does not count.
func (l *loop) bulk(rounds int) (read int) {
	for range rounds {
		l.c[0].Write(l.now, l.buf)
		l.round()
		read += l.c[1].Read(l.now, l.buf)
	}
	return read
}

func TestBulkDataAllocatesNothing(t *testing.T) {
	rounds := int(sampled(1000))
	for _, cc := range []Congestion{CUBIC, NewReno, BBR} {
		l := newLoop(t, 0, cc)
		l.bulk(rounds)
		var read int
		n := testing.AllocsPerRun(2, func() { read = l.bulk(rounds) })
		require.Zero(t, n, cc)
		require.Greater(t, read, 100_000*rounds, "%v must transfer data", cc)
	}
}

func TestSuperSegmentsAllocateNothing(t *testing.T) {
	for _, cc := range []Congestion{CUBIC, BBR} {
		l := newLoop(t, 65000, cc)
		l.bulk(1000)
		n := testing.AllocsPerRun(2, func() { l.bulk(1000) })
		require.Zero(t, n, cc)
	}
}

func TestPingPongAllocatesNothing(t *testing.T) {
	l := newLoop(t, 0, CUBIC)
	msg := make([]byte, 100)
	turns := 0
	exchange := func() {
		for i := range 200 {
			from, to := &l.c[i%2], &l.c[1-i%2]
			if from.Write(l.now, msg) == len(msg) {
				turns++
			}
			for to.Readable() == 0 {
				l.round()
			}
			to.Read(l.now, l.buf)
		}
	}
	exchange()
	require.Zero(t, testing.AllocsPerRun(2, exchange))
	require.Equal(t, 4*200, turns, "the first exchange, the warm-up of AllocsPerRun, and two measured ones")
}

func TestLossRecoveryAllocatesNothing(t *testing.T) {
	for _, tc := range []struct {
		name string
		gso  int
		lose int
		cc   Congestion
	}{
		{"one in 500", 0, 500, CUBIC}, {"one in 40", 0, 40, CUBIC}, {"one in 11", 0, 11, CUBIC},
		{"super-segments", 16000, 30, CUBIC}, {"bbr", 0, 40, BBR}, {"bbr with super-segments", 16000, 30, BBR},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := newLoop(t, tc.gso, tc.cc)
			l.lose = tc.lose
			l.bulk(int(sampled(20_000)))
			before := l.c[0].Info(0).Retrans
			rounds := int(sampled(5_000))
			n := testing.AllocsPerRun(2, func() { l.bulk(rounds) })
			require.Zero(t, n)
			require.Greater(t, l.c[0].Info(0).Retrans-before, rounds/50, "there must be retransmissions")
		})
	}
}

func TestOpeningAConnectionAllocatesNothing(t *testing.T) {
	p := DefaultParams()
	p.Spare = new(spares)
	cfg := Config{Params: &p, ISS: 1, MSS: 1460}
	var a, b Conn
	var s Segment
	n := testing.AllocsPerRun(100, func() {
		a.Open(1, cfg)
		a.Next(1, &s)
		b.Accept(1, cfg, &s)
		b.Next(1, &s)
		a.Segment(2, &s)
		a.Next(2, &s)
		b.Segment(3, &s)
		if b.State() != Established {
			panic("not established")
		}
		for _, c := range []*Conn{&a, &b} {
			if c.Deactivate(idleAfter + 3); c.active != nil {
				panic("the connection is still active")
			}
		}
	})
	require.Zero(t, n)
}

// spares is like a sync.Pool, but it keeps all items.
type spares []any

func (p *spares) Get() any {
	if len(*p) == 0 {
		return nil
	}
	x := (*p)[len(*p)-1]
	*p = (*p)[:len(*p)-1]
	return x
}

func (p *spares) Put(x any) { *p = append(*p, x) }
