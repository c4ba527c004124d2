package nic

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// The packets leave a queue in the order of due, and packets that are due at the same time in the order of seq.
func TestPacketsLeaveAQueueInOrder(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var q packetQueue
		var want []*packet // the reference: a sorted slice
		inOrder := 0
		for seq := range uint64(300) {
			p := &packet{seq: seq, due: int64(seq/3) * 10}
			reordered := rng.IntN(20) == 0
			if reordered {
				p.due += rng.Int64N(200) - 50
			} else if rng.IntN(50) == 0 {
				p.due -= 30 // less than its predecessor's, but not said to be reordered
			} else {
				inOrder++
			}
			q.push(p, reordered)
			at, _ := slices.BinarySearchFunc(want, p, func(a, b *packet) int {
				if a.before(b) {
					return -1
				}
				return 1
			})
			want = slices.Insert(want, at, p)
			for len(want) > 0 && rng.IntN(2) == 0 {
				require.Equal(t, len(want), q.len())
				require.Equal(t, want[0].due, q.due())
				require.Same(t, want[0], q.pop(), "seed %d", seed)
				want = want[1:]
			}
		}
		for _, p := range want {
			require.Same(t, p, q.pop(), "seed %d", seed)
		}
		require.Zero(t, q.len())
	}
}

// A packet that is delayed for long does not make those after it slow: they stay in the ring.
func TestOnlyReorderedPacketsAreInTheHeap(t *testing.T) {
	var q packetQueue
	q.push(&packet{due: 1000}, true)
	for i := range int64(100) {
		q.push(&packet{due: i, seq: uint64(i + 1)}, false)
	}
	require.Len(t, q.rest, 1)
	require.Equal(t, 100, q.n)
}

// The ring grows to what is in transit at a time, not to what passes.
func TestARingIsUsedAgain(t *testing.T) {
	var q packetQueue
	p := &packet{}
	for i := range 10_000 {
		p.due = int64(i)
		q.push(p, false)
		require.Same(t, p, q.pop())
	}
	require.Len(t, q.ring, 16)
}
