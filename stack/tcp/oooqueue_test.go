package tcp

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/usernet/usernet/stack/wire"
)

// blocks returns all blocks of the queue.
func (q *oooQueue) blocks() (all []block) {
	for _, run := range q.runs {
		all = append(all, run.blocks...)
	}
	return all
}

// check checks the counters of the queue, and the sizes of its runs.
func (q *oooQueue) check() error {
	n, bytes := 0, 0
	for i, run := range q.runs {
		k := len(run.blocks)
		if k == 0 || k > runLen {
			return fmt.Errorf("run %d of %d has %d blocks", i, len(q.runs), k)
		}
		if i > 0 && len(q.runs[i-1].blocks)+k <= runLen/4 {
			return fmt.Errorf("runs %d and %d have %d and %d blocks", i-1, i, len(q.runs[i-1].blocks), k)
		}
		if sum := bytesOf(run.blocks); sum != run.bytes {
			return fmt.Errorf("run %d has %d bytes, counted as %d", i, sum, run.bytes)
		}
		n += k
		bytes += int(run.bytes)
	}
	if n != int(q.n) || bytes != int(q.bytes) {
		return fmt.Errorf("%d blocks of %d bytes, counted as %d of %d", n, bytes, q.n, q.bytes)
	}
	return nil
}

// A slowQueue is a reference. It records for each sequence number from base on whether the byte has
// arrived.
type slowQueue struct {
	base Seq
	have []bool
}

func (q *slowQueue) at(s Seq) bool { return s-q.base < Seq(len(q.have)) && q.have[s-q.base] }

// around returns k, extended by the adjacent bytes that have arrived.
func (q *slowQueue) around(k block) block {
	for q.at(k.start - 1) {
		k.start--
	}
	for q.at(k.end) {
		k.end++
	}
	return k
}

// blocks returns the blocks of adjacent bytes that have arrived.
func (q *slowQueue) blocks() (all []block) {
	for i := 0; i < len(q.have); i++ {
		if q.have[i] {
			s := q.base + Seq(i)
			all = append(all, q.around(block{s, s + 1}))
			i = int(all[len(all)-1].end - q.base)
		}
	}
	return all
}

// set marks all bytes of k as arrived, or as not arrived if have is false. It returns the first run of
// bytes in k that had arrived before.
func (q *slowQueue) set(k block, have bool) (overlap block) {
	for s := k.start; s != k.end; s++ {
		switch was := q.at(s); {
		case was && overlap == (block{}):
			overlap = block{s, s + 1}
		case was && overlap.end == s:
			overlap.end++
		}
		q.have[s-q.base] = have
	}
	return overlap
}

func TestOutOfOrderQueueIsAsASlowOne(t *testing.T) {
	most := int32(0)
	for seed := range sampled(12) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		size := 1 << (5 + rnd.IntN(11)) // size of the range of sequence numbers, which contains 0
		slow := slowQueue{-Seq(rnd.IntN(2 * size)), make([]bool, size)}
		nxt := slow.base // RCV.NXT
		// A block has up to long bytes. One block in first begins at RCV.NXT, and one in beside near the end of another.
		long, first, beside := 1<<rnd.IntN(6), 1<<rnd.IntN(16), 1<<rnd.IntN(8)
		if seed%4 == 0 {
			size, long, first, beside = 1<<15, 1, 1<<15, 1<<7 // many blocks
			slow.have = make([]bool, size)
		}
		var q oooQueue
		for step := 0; step < 10_000 && slow.around(block{nxt, nxt}).end-slow.base < Seq(size)-2; step++ {
			room := size - int(nxt-slow.base) - 1
			at := rnd.IntN(room)
			switch {
			case rnd.IntN(first) == 0:
				at = 0
			case rnd.IntN(beside) == 0 && q.n > 0:
				run := q.runs[rnd.IntN(len(q.runs))].blocks
				at = int(run[rnd.IntN(len(run))].end-nxt) + rnd.IntN(3) - 1
			}
			n := 1 + rnd.IntN(long)
			if rnd.IntN(1000) == 0 {
				n = room // overlap many blocks
			}
			at = min(at, room-1)
			k := block{nxt + Seq(at), nxt + Seq(min(at+n, room))}
			adjoins := slow.around(k) != k
			want := slow.set(k, true)
			require.Equal(t, adjoins || want != (block{}), q.touches(k))
			if at == 0 {
				end, overlap := q.takeFirst(k)
				require.Equal(t, want, overlap)
				require.Equal(t, slow.around(k).end, end)
				slow.set(block{nxt, end}, false)
				nxt = end
			} else {
				whole, overlap := q.add(k)
				require.Equal(t, want, overlap)
				require.Equal(t, slow.around(k), whole)
			}
			if step < 200 || step%500 == 0 {
				require.Equal(t, slow.blocks(), q.blocks(), "seed %d, step %d: %v", seed, step, k)
				require.NoError(t, q.check())
			}
			most = max(most, q.n)
		}
	}
	require.Greater(t, most, int32(sampled(20)*runLen), "there were many blocks")
}

// hostileHoles returns a connection whose peer has sent only every fourth byte, up to the maximum number
// of holes.
func hostileHoles(t testing.TB) *rig {
	r := bare(t, rigOptions{modern: true, mss: hostileMSS, change: func(p *Params) { p.RecvBuffer, p.RecvBufferMax = 1<<20, 1<<20 }})
	for k := range Seq(maxHoles) {
		r.hostileData(4*k+4, 1)
	}
	require.EqualValues(t, maxHoles, r.c.rcv.ooo.n)
	return r
}

// hostileData passes a segment of n bytes with the relative sequence number at to the Conn. It returns
// how long that took.
func (r *rig) hostileData(at Seq, n int) time.Duration {
	s := r.segment(wire.FlagACK, at, 0, make([]byte, n))
	begin := time.Now()
	r.c.Segment(r.now, s)
	d := time.Since(begin)
	for r.c.Next(r.now, s) {
	}
	return d
}

// BenchmarkHostileHoles measures the cost of the most expensive segments (see measureWorst). Before them,
// the peer has made the maximum number of holes.
func BenchmarkHostileHoles(b *testing.B) {
	for _, tc := range []struct {
		name string
		send func(r *rig, n int, rnd *rand.Rand) time.Duration
	}{
		{"anywhere", func(r *rig, n int, rnd *rand.Rand) time.Duration {
			// Alternately fill a hole, and divide another one.
			k := Seq(1 + rnd.IntN(maxHoles-1))
			if n%2 == 0 {
				return r.hostileData(4*k, 4)
			}
			return r.hostileData(4*k+2, 1)
		}},
		{"first", func(r *rig, n int, _ *rand.Rand) time.Duration {
			return r.hostileData(4*Seq(n%maxHoles), 4)
		}},
		{"many", func(r *rig, n int, _ *rand.Rand) time.Duration {
			// A merged segment of 64 KiB fills all holes. Later segments make new holes, one by one.
			k := Seq(n / maxHoles * 64 << 10)
			if n%maxHoles == 0 {
				defer r.c.Read(r.now, make([]byte, 64<<10))
				return r.hostileData(k-1, 64<<10)
			}
			return r.hostileData(k+Seq(64<<10+4*(n%maxHoles)), 1)
		}},
	} {
		b.Run(tc.name, func(b *testing.B) {
			var rnd *rand.Rand
			r := measureWorst(b, "segment", func() *rig {
				rnd = rand.New(rand.NewPCG(1, 2))
				return hostileHoles(b)
			}, func(r *rig, n int) time.Duration { return tc.send(r, n, rnd) })
			b.ReportMetric(float64(r.c.rcv.ooo.n), "holes")
		})
	}
}
