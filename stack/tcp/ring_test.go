package tcp

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRingAgreesWithASlice(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 6))
		var pool freeList
		p := &Params{}
		if seed%2 == 0 {
			p.Alloc, p.Free = pool.alloc, pool.free
		}
		var q ring
		var want []byte // the queue
		next := byte(0)
		for range 300 {
			switch n := r.IntN(5000); r.IntN(4) {
			case 0, 1:
				text := make([]byte, n)
				for i := range text {
					text[i] = next
					next += 7
				}
				q.reserve(p, q.n+n, q.n)
				q.put(q.n, text)
				q.n += n
				want = append(want, text...)
			case 2:
				n = min(n, q.n)
				q.drop(n)
				want = want[n:]
			case 3:
				if q.n == 0 {
					q.free(p)
					require.Empty(t, q.b)
				}
			}
			require.Equal(t, len(want), q.n)
			require.Zero(t, len(q.b)&(len(q.b)-1), "a power of two")
			require.LessOrEqual(t, q.n, len(q.b))
			off := r.IntN(q.n + 1)
			k := r.IntN(q.n - off + 1)
			a, b := q.slices(off, k)
			require.True(t, bytes.Equal(want[off:off+k], append(append([]byte(nil), a...), b...)), "seed %d: %d+%d of %d", seed, off, k, q.n)
		}
	}
}

func TestAGrowingRingKeepsBytesBeyondTheQueue(t *testing.T) {
	// Out-of-order data is in the ring beyond the queue.
	var q ring
	p := &Params{}
	q.reserve(p, minRing, 0)
	q.drop(0)
	q.head = minRing - 10 // the storage wraps
	q.put(500, []byte("later"))
	q.reserve(p, 3*minRing, 505)
	a, b := q.slices(500, 5)
	require.Equal(t, "later", string(append(append([]byte(nil), a...), b...)))
	require.Len(t, q.b, 4*minRing)
}

func TestSeqComparesModulo32Bits(t *testing.T) {
	// RFC 9293 3.4: "all arithmetic dealing with sequence numbers must be
	// performed modulo 2^32".
	r := rand.New(rand.NewPCG(1, 7))
	for range 10_000 {
		a := Seq(r.Uint32())
		d := Seq(r.Uint32N(1<<31-1)) + 1 // 1 to 2^31-1 ahead
		require.True(t, a.Less(a+d))
		require.False(t, (a + d).Less(a))
		require.True(t, a.LessEq(a+d) && a.LessEq(a) && !a.Less(a))
		require.Equal(t, a+d, maxSeq(a, a+d))
		require.Equal(t, a, minSeq(a+d, a))
		n := int(r.Uint32N(1<<31-1)) + 1
		require.True(t, a.In(a, n))
		require.True(t, (a+Seq(n-1)).In(a, n))
		require.False(t, (a+Seq(n)).In(a, n))
		require.False(t, (a-1).In(a, n))
		require.False(t, a.In(a, 0))
	}
}

func TestNamesOfStatesAndErrors(t *testing.T) {
	for s := Closed; s <= TimeWait; s++ {
		require.NotEmpty(t, s.String())
		require.Equal(t, s >= Established, s.synchronized(), s)
	}
	seen := map[string]bool{}
	for e := ErrNone; e <= ErrPipe; e++ {
		require.False(t, seen[e.String()], e)
		seen[e.String()] = true
	}
}
