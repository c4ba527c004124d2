package tcp

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/stack/wire"
)

const (
	hostileWindow = 64 << 20
	hostileMSS    = 1300
)

// hostileFlight returns a connection with 64 MiB in flight, in full segments that were sent at different
// times.
func hostileFlight(t testing.TB) *rig {
	p := DefaultParams()
	p.SendBuffer, p.SendBufferMax = hostileWindow, hostileWindow
	r := &rig{t: t, o: rigOptions{modern: true, mss: hostileMSS}, now: 1, p: p, peer: 5000}
	r.c.Open(r.now, r.config())
	r.pull()
	syn := r.segment(wire.FlagSYN|wire.FlagACK, synNumber, 0, nil)
	syn.WScale = 14
	r.c.Segment(r.now, syn)
	r.pull()
	r.now += 20 * Millisecond
	r.hostileAck(r.echo, 0)
	r.c.cc.cwnd, r.c.cc.pace = maxWindow, nil
	text := make([]byte, 1<<20)
	for r.c.Write(r.now, text) > 0 {
	}
	var s Segment
	for r.c.Next(r.now, &s) {
		r.echo = s.TSVal
		r.now++
	}
	require.Greater(t, r.c.sb.n, hostileWindow/hostileMSS-2)
	return r
}

// hostileBoard is hostileFlight with a part of every segment SACKed. Its scoreboard has nearly the
// maximum number of pieces.
func hostileBoard(t testing.TB) *rig {
	r := hostileFlight(t)
	end := r.c.snd.nxt - rigISS - 1
	for k := Seq(0); k+3*hostileMSS < end; k += 3 * hostileMSS {
		r.now += 10 * Microsecond
		r.hostileAck(r.echo, 0, part(k, 300, 1300), part(k+hostileMSS, 300, 1300), part(k+2*hostileMSS, 300, 1300))
	}
	require.Greater(t, r.c.sb.n, 98_000)
	return r
}

// part returns the block of the bytes [from, to) of the segment that begins at k.
func part(k, from, to Seq) block { return block{k + from, k + to} }

// hostileAck passes an acknowledgement to a Conn, and returns how long that took.
func (r *rig) hostileAck(echo uint32, ack Seq, blocks ...block) time.Duration {
	s := r.segment(wire.FlagACK, r.theirs(), ack, nil)
	s.Window, s.TSEcr = hostileWindow>>14, echo
	r.sack(s, blocks...)
	begin := time.Now()
	r.c.Segment(r.now, s)
	return time.Since(begin)
}

// BenchmarkHostileSACK measures the cost of the most expensive acknowledgements (see measureWorst). Before
// them, the peer has cut the scoreboard into 100,000 pieces.
func BenchmarkHostileSACK(b *testing.B) {
	una := func(r *rig) Seq { return r.c.snd.una - rigISS - 1 }
	for _, tc := range []struct {
		name string
		ack  func(r *rig, n int, rnd *rand.Rand) time.Duration
	}{
		{"cut", func(r *rig, _ int, rnd *rand.Rand) time.Duration {
			// SACK one more byte of each of three random segments.
			oneByte := func() block {
				k := hostileMSS * Seq(rnd.IntN(hostileWindow/hostileMSS))
				from := Seq(rnd.IntN(300))
				return part(k, from, from+1)
			}
			return r.hostileAck(r.echo, una(r), oneByte(), oneByte(), oneByte())
		}},
		{"overlap", func(r *rig, n int, rnd *rand.Rand) time.Duration {
			// SACK a random range that was reported before. The first acknowledgement is not counted. It
			// reports 20,000 pieces for the first time, which takes 0.33 ms, or 16 ns for each piece. That
			// happens only once for each piece, so the data that we have sent bounds the total time.
			if n == 0 {
				return r.hostileAck(r.echo, una(r), block{hostileMSS, 30_000 * hostileMSS}) - time.Hour
			}
			k := hostileMSS * Seq(1+rnd.IntN(15_000))
			return r.hostileAck(r.echo, una(r), block{k, k + hostileMSS*Seq(1+rnd.IntN(15_000))})
		}},
		{"byte", func(r *rig, _ int, _ *rand.Rand) time.Duration {
			return r.hostileAck(r.echo, una(r)+1)
		}},
		{"duplicate", func(r *rig, _ int, _ *rand.Rand) time.Duration {
			return r.hostileAck(r.echo, una(r))
		}},
		{"spurious", func(r *rig, n int, _ *rand.Rand) time.Duration {
			var s Segment
			for range 3 {
				r.c.Next(r.now, &s)
			}
			// Alternately show that no loss was real, and that all data is lost. The first acknowledgement
			// is not counted, because it handles 17,000 pieces that earlier acknowledgements have marked.
			if n == 0 {
				return r.hostileAck(r.echo-1000, una(r)+1) - time.Hour
			}
			if n%2 == 0 {
				return r.hostileAck(r.echo-1000, una(r)+1)
			}
			return r.hostileAck(r.echo, una(r))
		}},
	} {
		b.Run(tc.name, func(b *testing.B) {
			var rnd *rand.Rand
			r := measureWorst(b, "ack", func() *rig {
				rnd = rand.New(rand.NewPCG(1, 2))
				return hostileBoard(b)
			}, func(r *rig, n int) time.Duration { return tc.ack(r, n, rnd) })
			b.ReportMetric(float64(r.c.sb.n), "pieces")
		})
	}
}

// measureWorst reports the mean and the maximum of the times that op returns. It calls op for each number
// below b.N, on each of five rigs from set, and returns the last rig. For each number the minimum of the
// five times counts, because a measurement may be interrupted. A negative time is not counted.
func measureWorst(b *testing.B, what string, set func() *rig, op func(r *rig, n int) time.Duration) *rig {
	least := make([]time.Duration, b.N)
	var r *rig
	for i := range 5 {
		b.StopTimer()
		r = set()
		b.StartTimer()
		for n := range least {
			r.now += 10 * Microsecond
			if d := op(r, n); i == 0 || d < least[n] {
				least[n] = d
			}
		}
	}
	var worst, sum time.Duration
	for _, d := range least {
		worst, sum = max(worst, d), sum+max(d, 0)
	}
	b.ReportMetric(float64(sum)/float64(b.N), "ns/"+what)
	b.ReportMetric(float64(worst), "worst-ns")
	return r
}

func TestTheTreeOfAHostilePeerStaysShallow(t *testing.T) {
	r := hostileBoard(t)
	b := &r.c.sb
	require.NoError(t, checkBoard(&r.c))
	require.LessOrEqual(t, float64(b.root.height), 1.45*math.Log2(float64(b.chunks+2)))
	// SACK the parts in between too: adjacent pieces are joined.
	end := r.c.snd.nxt - rigISS - 1
	for k := Seq(hostileMSS); k+3*hostileMSS < end; k += 3 * hostileMSS {
		r.now += 10 * Microsecond
		r.hostileAck(r.echo, 0, part(k, 0, 300), part(k+hostileMSS, 0, 300), part(k+2*hostileMSS, 0, 300))
	}
	require.NoError(t, checkBoard(&r.c))
	require.Less(t, b.n, 20)
	require.LessOrEqual(t, b.root.height, int8(3), "chunks with few pieces are joined")
	r.hostileAck(r.echo, end)
	require.LessOrEqual(t, b.chunks, keepPieces/chunkLen, "the memory is freed")
}

func TestAnACKMarksABoundedNumberLost(t *testing.T) {
	// RFC 9937 6.2 allows sending only about as much as was delivered. Later acknowledgements therefore
	// find the other losses in time.
	r := hostileFlight(t)
	end := r.c.snd.nxt - rigISS - 1
	r.now += 100 * Millisecond
	r.hostileAck(r.echo, 0, block{end - 10*hostileMSS, end})
	require.Equal(t, maxLost*hostileMSS, r.c.Info(0).Lost)
	r.hostileAck(r.echo, 0, block{end - 11*hostileMSS, end})
	require.Equal(t, 2*maxLost*hostileMSS, r.c.Info(0).Lost)
	r.wait(Second / 2)
	require.GreaterOrEqual(t, r.c.Info(0).Lost, int(end)-11*hostileMSS, "without further acknowledgements")
	require.NoError(t, checkBoard(&r.c))
}
