package tcp

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// openPair makes a wirePair with an established connection.
func openPair(t *testing.T) *wirePair {
	p := DefaultParams()
	w := newPair(t, 1, p)
	for w.b.p == nil || w.b.State() != Established {
		require.True(t, w.step(&p))
	}
	return w
}

// RFC 9293 3.9.2.2: a soft error may be transient. An acknowledgement of new data shows that the error
// was transient. A later timeout is then reported as ErrTimedOut, and not as that error.
func TestASoftErrorIsForgottenWhenDataArrives(t *testing.T) {
	w := openPair(t)
	w.a.Write(w.now, make([]byte, 100))
	w.a.SoftError(ErrNetUnreachable)
	for w.a.Unacked() > 0 {
		require.True(t, w.step(w.a.p))
	}
	w.loss = 1
	w.a.Write(w.now, make([]byte, 100))
	for w.a.Err() == ErrNone {
		require.True(t, w.step(w.a.p))
	}
	require.Equal(t, ErrTimedOut, w.a.Err())
}

func TestKeepAliveGivesUpWithAnyProbeCount(t *testing.T) {
	w := openPair(t)
	w.a.SetKeepAlive(w.now, KeepAlive{Idle: Second, Interval: Second, Count: 1000})
	w.loss = 1
	for range 3000 {
		if w.a.Err() != ErrNone {
			break
		}
		require.True(t, w.step(w.a.p))
	}
	require.Equal(t, ErrTimedOut, w.a.Err())
}

// cacheable does not fall when the RTT grows, and does not overflow an int of 32 bits (GOARCH=386 go test).
func TestBuffersMayGrowOnEveryPath(t *testing.T) {
	last := 0
	for _, rtt := range []Time{0, Millisecond, 171 * Millisecond, 172 * Millisecond, 250 * Millisecond, Second, 10 * Second} {
		n := cacheable(rtt)
		require.GreaterOrEqual(t, n, max(last, 128<<10), "%d ns", rtt)
		last = n
	}
}

func TestReceiveBufferGrowsForThePathOnly(t *testing.T) {
	// The round-trip time is twice the delay. 150 µs leaves room for a measured time that is longer.
	for _, test := range []struct {
		delay, pause Time
		least, most  int // bounds of the limit of the receive buffer
	}{
		{50 * Microsecond, 0, 128 << 10, cacheable(150 * Microsecond)},
		{50 * Microsecond, 5 * Millisecond, 128 << 10, cacheable(150 * Microsecond)},
		{10 * Millisecond, 5 * Millisecond, 1 << 20, DefaultParams().RecvBufferMax},
	} {
		p := DefaultParams()
		w := newPair(t, 1, p)
		w.delay = test.delay
		buf := make([]byte, 128<<10)
		for n, steps := 0, 0; n < 20<<20; steps++ {
			if w.a.State() == Established {
				w.a.Write(w.now, buf)
			}
			if w.b.p != nil {
				n += w.b.Read(w.now, buf)
			}
			if steps%100 == 99 {
				w.now += test.pause // neither side runs, as if another process had the processor
			}
			require.True(t, w.step(&p))
		}
		require.GreaterOrEqual(t, w.b.rcv.limit, test.least)
		require.LessOrEqual(t, w.b.rcv.limit, test.most)
	}
}
