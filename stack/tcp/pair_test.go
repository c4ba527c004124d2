package tcp

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// A wirePair is two Conns on a wire, in virtual time.
type wirePair struct {
	t      testing.TB
	now    Time
	a, b   Conn
	delay  Time
	queue  [2][]inFlight // the segments to a and to b, by time of arrival
	rng    *rand.Rand
	loss   float64 // fraction of the segments that are lost
	dup    float64 // fraction that arrives twice
	reord  float64 // fraction that takes up to jitter longer
	jitter Time
	steps  int
}

type inFlight struct {
	at  Time
	seg Segment
}

// newPair makes a wirePair, in which a has begun to connect. The delay is 10 ms in each direction.
func newPair(t testing.TB, seed uint64, p Params) *wirePair {
	w := &wirePair{t: t, now: 1, delay: 10 * Millisecond, rng: rand.New(rand.NewPCG(seed, 1))}
	w.a.Open(w.now, Config{Params: &p, ISS: Seq(-w.rng.Int32N(400_000)), TSOffset: w.rng.Uint32(), MSS: 1460, NoDelay: true})
	return w
}

// deliver passes a segment to a (to is 0) or to b (to is 1). The first segment to b opens b.
func (w *wirePair) deliver(to int, s *Segment, p *Params) {
	c := &w.a
	if to == 1 {
		c = &w.b
		if c.p == nil {
			c.Accept(w.now, Config{Params: p, ISS: 1<<31 - Seq(w.rng.Int32N(400_000)), TSOffset: w.rng.Uint32(), MSS: 1460, NoDelay: true}, s)
			return
		}
	}
	c.Segment(w.now, s)
}

// flush takes the segments that both sides can send, and puts them on the wire.
func (w *wirePair) flush() {
	for i, c := range []*Conn{&w.a, &w.b} {
		if c.p == nil {
			continue // b is not open before the first SYN arrives
		}
		var s Segment
		for n := 0; c.Next(w.now, &s); n++ {
			require.Less(w.t, n, 20000, "Next must return false at some time")
			s.Payload = append(append([]byte(nil), s.Payload...), s.Payload2...)
			s.Payload2 = nil
			if w.rng.Float64() < w.loss {
				continue // the segment is lost
			}
			copies := 1
			if w.rng.Float64() < w.dup {
				copies = 2
			}
			for range copies {
				at := w.now + w.delay
				if w.rng.Float64() < w.reord {
					at += Time(w.rng.Int64N(int64(w.jitter) + 1))
				}
				w.queue[1-i] = append(w.queue[1-i], inFlight{at, s})
			}
		}
	}
}

// step advances to the next event. It reports false if there is none.
func (w *wirePair) step(p *Params) bool {
	w.flush()
	var next Time
	for i := range w.queue {
		for _, f := range w.queue[i] {
			next = earliest(next, f.at)
		}
	}
	for _, c := range []*Conn{&w.a, &w.b} {
		if c.p != nil {
			if d, ok := c.Deadline(); ok {
				next = earliest(next, d)
			}
		}
	}
	if next == 0 {
		return false
	}
	w.now = max(w.now, next)
	for i := range w.queue {
		for j := 0; j < len(w.queue[i]); {
			if w.queue[i][j].at > w.now {
				j++
				continue
			}
			s := w.queue[i][j].seg
			w.queue[i] = append(w.queue[i][:j], w.queue[i][j+1:]...)
			w.deliver(i, &s, p)
			w.flush()
		}
	}
	for _, c := range []*Conn{&w.a, &w.b} {
		if c.p != nil {
			if d, ok := c.Deadline(); ok && d <= w.now {
				c.Tick(w.now)
			}
		}
	}
	w.flush()
	w.steps++
	return true
}

// transfer sends data from a to b, closes both sides, and returns the data that b has read.
func (w *wirePair) transfer(p *Params, data []byte, steps int) []byte {
	var got []byte
	buf := make([]byte, 16<<10)
	rest := data
	closedA, closedB := false, false
	for range steps {
		if w.a.State().synchronized() && !closedA {
			rest = rest[w.a.Write(w.now, rest):]
			if len(rest) == 0 {
				w.a.CloseWrite(w.now)
				closedA = true
			}
		}
		if w.b.p != nil {
			for n := w.b.Read(w.now, buf); n > 0; n = w.b.Read(w.now, buf) {
				got = append(got, buf[:n]...)
			}
			if w.b.AtEOF() && !closedB {
				w.b.Close(w.now)
				closedB = true
			}
		}
		if !w.step(p) {
			break
		}
	}
	return got
}

func TestTransferArrivesWholeOverEveryKindOfWire(t *testing.T) {
	data := make([]byte, 400_000)
	for i := range data {
		data[i] = byte(i * 7 >> 3)
	}
	for _, tc := range []struct {
		name             string
		loss, dup, reord float64
		change           func(*Params)
	}{
		{name: "clean"},
		{name: "loss", loss: 0.02},
		{name: "heavy loss", loss: 0.15},
		{name: "duplicates", dup: 0.1},
		{name: "reordering", reord: 0.1},
		{name: "everything", loss: 0.05, dup: 0.05, reord: 0.1},
		{name: "no sack", loss: 0.05, reord: 0.02, change: func(p *Params) { p.NoSACK = true }},
		{name: "no timestamps", loss: 0.05, reord: 0.02, change: func(p *Params) { p.NoTimestamps = true }},
		{name: "bare", loss: 0.05, reord: 0.02, change: func(p *Params) { p.NoTimestamps, p.NoSACK, p.NoWindowScale = true, true, true }},
		{name: "newreno", loss: 0.05, change: func(p *Params) { p.Congestion = NewReno }},
		{name: "bbr", loss: 0.05, reord: 0.02, change: func(p *Params) { p.Congestion = BBR }},
		{name: "bbr without sack", loss: 0.05, change: func(p *Params) { p.Congestion, p.NoSACK = BBR, true }},
		{name: "tiny windows", loss: 0.02, change: func(p *Params) { p.RecvBuffer, p.RecvBufferMax = 3000, 3000 }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for seed := range uint64(20) {
				p := DefaultParams()
				if tc.change != nil {
					tc.change(&p)
				}
				w := newPair(t, seed, p)
				w.loss, w.dup, w.reord, w.jitter = tc.loss, tc.dup, tc.reord, 20*Millisecond
				got := w.transfer(&p, data, 200_000)
				require.True(t, bytes.Equal(data, got), "seed %d: %d of %d bytes, a %v b %v\n%+v\n%+v", seed, len(got), len(data), w.a.State(), w.b.State(), w.a.Info(0), w.b.Info(0))
				require.Equal(t, Closed, w.a.State(), "seed %d", seed)
				require.Equal(t, Closed, w.b.State(), "seed %d", seed)
			}
		})
	}
}
