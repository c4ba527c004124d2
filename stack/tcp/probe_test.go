package tcp

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// RFC 8985 7.2: a flight that begins when nothing is in flight has a tail loss probe too. The probe
// timeout includes the delay of a delayed acknowledgement only while a single segment is in flight. The
// second segment of the flight therefore shortens the timeout.
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
	// All segments or all acknowledgements are lost.
	d, ok := w.a.Deadline()
	require.True(t, ok)
	require.Equal(t, w.now+2*w.a.Info(0).RTT, d)
	w.now = d
	w.a.Tick(w.now)
	require.True(t, w.a.Next(w.now, &s), "a probe must be sent")
	require.EqualValues(t, w.a.snd.nxt-Seq(w.a.MSS()), s.Seq, "the probe must be the last segment")
	require.Zero(t, w.a.Info(0).Backoff)
}
