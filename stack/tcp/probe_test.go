package tcp

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// A flight that begins when nothing is outstanding has its probe as well: the
// first segment alone would have to wait for a delayed acknowledgement, the
// second takes that away. RFC 8985 7.2.
func TestAFlightFromIdleIsProbedBeforeTheTimeout(t *testing.T) {
	p := DefaultParams()
	w := newPair(t, 1, p)
	for w.a.State() != Established || w.b.p == nil || w.b.State() != Established {
		require.True(t, w.step(&p))
	}
	w.a.Write(w.now, make([]byte, 3*w.a.MSS()))
	var s Segment
	for range 3 {
		require.True(t, w.a.Next(w.now, &s))
	}
	require.False(t, w.a.Next(w.now, &s))
	// All of it is lost, or all acknowledgements are.
	d, ok := w.a.Deadline()
	require.True(t, ok)
	require.Equal(t, w.now+2*w.a.Info().RTT, d)
	w.now = d
	w.a.Tick(w.now)
	require.True(t, w.a.Next(w.now, &s), "the probe")
	require.EqualValues(t, w.a.snd.nxt-Seq(w.a.MSS()), s.Seq, "the last segment again")
	require.Zero(t, w.a.Info().Backoff)
}
