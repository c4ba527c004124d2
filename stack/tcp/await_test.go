package tcp

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTextInOrderGoesStraightToAWaitingReader(t *testing.T) {
	p := DefaultParams()
	w := newPair(t, 1, p)
	for w.b.p == nil || w.b.State() != Established {
		require.True(t, w.step(&p))
	}
	buf := make([]byte, 4000)
	require.True(t, w.b.Await(buf))
	require.False(t, w.b.Await(make([]byte, 1)), "one at a time")
	data := make([]byte, 5000)
	for i := range data {
		data[i] = byte(i)
	}
	w.a.Write(w.now, data)
	for w.b.rcv.got < len(buf) || w.b.Readable() < 1000 {
		require.True(t, w.step(&p))
	}
	require.Equal(t, 4000, w.b.Awaited(w.now))
	for w.a.Unacked() > 0 {
		require.True(t, w.step(&p))
	}
	require.EqualValues(t, 5000, w.a.Info().Delivered)
	require.Equal(t, data[:4000], buf)
	rest := make([]byte, 2000)
	require.Equal(t, 1000, w.b.Read(w.now, rest))
	require.Equal(t, data[4000:], rest[:1000])
	require.Zero(t, w.b.Awaited(w.now), "nobody waits")
}

func TestAWaitingReaderGetsEveryByteInOrderOverABadWire(t *testing.T) {
	data := make([]byte, 300_000)
	for i := range data {
		data[i] = byte(i * 7 >> 3)
	}
	for seed := range uint64(20) {
		p := DefaultParams()
		w := newPair(t, seed, p)
		w.loss, w.dup, w.reord, w.jitter = 0.03, 0.03, 0.1, 20*Millisecond
		var got []byte
		buf := make([]byte, 10_000)
		rest := data
		for steps := 0; len(got) < len(data); steps++ {
			require.Less(t, steps, 200_000, "seed %d", seed)
			if w.a.State().synchronized() {
				rest = rest[w.a.Write(w.now, rest):]
			}
			if w.b.p != nil {
				// What came while it waited, then what is in the ring, then it waits.
				got = append(got, buf[:w.b.Awaited(w.now)]...)
				for w.b.Readable() > 0 {
					got = append(got, buf[:w.b.Read(w.now, buf)]...)
				}
				require.True(t, w.b.Await(buf[:1+w.rng.IntN(len(buf))]))
			}
			if len(got) < len(data) {
				require.True(t, w.step(&p))
			}
		}
		require.True(t, bytes.Equal(data, got), "seed %d", seed)
	}
}
