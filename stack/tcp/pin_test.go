package tcp

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// requireSame compares two segments. Their payloads may be divided into different pieces.
func requireSame(t *testing.T, want, got *Segment, seed uint64) {
	t.Helper()
	w, g := joined(want), joined(got)
	if w.TCP != g.TCP || w.GSOSize != g.GSOSize || w.ECT != g.ECT || !bytes.Equal(w.Payload, g.Payload) {
		require.Equal(t, w, g, "seed %d", seed)
	}
}

// joined returns a copy of a segment whose payload is in one piece, as the segment would arrive.
func joined(s *Segment) Segment {
	in := *s
	in.Payload = bytes.Join([][]byte{s.Payload, s.Payload2, s.Payload3, s.Pinned}, nil)
	in.Payload2, in.Payload3, in.Pinned, in.Block = nil, nil, nil, nil
	return in
}

func TestPinnedBytesAreSentLikeWrittenOnes(t *testing.T) {
	// Senders a and b get the same calls, except that b pins the data that a copies, and unpins it at any
	// time. All bytes of their segments must be equal.
	carried := 0
	for seed := range sampled(60) {
		r := rand.New(rand.NewPCG(seed, 77))
		p := DefaultParams()
		var pool poison
		p.Alloc, p.Free = pool.alloc, pool.free
		p.SendBuffer, p.SendBufferMax = 40_000, 40_000
		cfg := Config{Params: &p, ISS: 0xffff8000, MSS: 1460, GSO: []int{0, 65000}[seed%2], NoDelay: seed%3 > 0}
		var a, b, peer Conn // a copies, b pins
		now := Time(1)
		a.Open(now, cfg)
		b.Open(now, cfg)
		var s, s2 Segment
		require.True(t, a.Next(now, &s) && b.Next(now, &s2))
		peer.Accept(now, cfg, &s)
		var want, got []byte
		buf := make([]byte, 1<<16)
		pinned, left := []byte(nil), []byte(nil) // pinned bytes and remaining bytes of the current Write
		unpin := func() {
			b.Unpin()
			for i := range pinned {
				pinned[i] = 0xdd
			}
			pinned, left = nil, nil
		}
		write := func() {
			n := a.Write(now, left)
			require.Equal(t, n, b.Pin(now, left))
			want = append(want, left[:n]...)
			left = left[n:]
		}
		for range 1000 {
			now += Time(r.IntN(int(3 * Millisecond)))
			switch r.IntN(6) {
			case 0:
				unpin()
				pinned = make([]byte, 1+r.IntN(30_000), 30_008)
				for i := 0; i < len(pinned); i += 8 {
					binary.NativeEndian.PutUint64(pinned[i:i+8], r.Uint64())
				}
				left = pinned
				write()
			case 1:
				write()
			case 2:
				unpin()
			case 3:
				got = append(got, buf[:peer.Read(now, buf)]...)
			case 4:
				for _, c := range []*Conn{&a, &b, &peer} {
					if d, ok := c.Deadline(); ok && d <= now {
						c.Tick(now)
					}
				}
			}
			for a.Next(now, &s) {
				require.True(t, b.Next(now, &s2), "seed %d", seed)
				requireSame(t, &s, &s2, seed)
				if in := joined(&s); r.IntN(20) > 0 {
					peer.Segment(now, &in)
				}
			}
			require.False(t, b.Next(now, &s2), "seed %d", seed)
			for peer.Next(now, &s) {
				if r.IntN(20) > 0 {
					in := joined(&s)
					a.Segment(now, &in)
					in = joined(&s)
					b.Segment(now, &in)
				}
			}
			require.Equal(t, a.Events(), b.Events())
			require.Equal(t, a.Unacked(), b.Unacked())
		}
		require.True(t, bytes.HasPrefix(want, got), "seed %d", seed)
		carried += len(got)
		unpin()
		a.Abort(now)
		b.Abort(now)
		require.Zero(t, b.Unacked())
	}
	require.Greater(t, uint64(carried), sampled(10_000_000), "the test must transfer data")
}

// A poison is an allocator that overwrites freed memory, and never reuses it.
type poison struct{}

func (poison) alloc(n int) []byte { return make([]byte, n) }

func (poison) free(b []byte) {
	for i := range b {
		b[i] = 0xee
	}
}

func TestAQueueOfPinnedBytesHasNoRing(t *testing.T) {
	a, b := pairFor(t)
	a.SetSendLimit(64 << 10)
	require.Equal(t, 50_000, a.Pin(2, make([]byte, 50_000)))
	require.Nil(t, a.snd.buf.ring.b)
	var s Segment
	for a.Next(2, &s) {
		require.Empty(t, s.Payload)
		require.NotEmpty(t, s.Pinned)
		in := joined(&s)
		b.Segment(2, &in)
	}
	for b.Next(2, &s) {
		in := joined(&s)
		a.Segment(2, &in)
	}
	left := a.Unacked()
	require.Less(t, left, 50_000)
	require.NotZero(t, left)
	a.Unpin()
	require.Equal(t, left, a.Unacked())
	require.Equal(t, left, a.snd.buf.ring.n)
}

// pairFor returns the two ends of an established connection. There is no wire: the caller passes the
// segments of each end to the other.
func pairFor(t *testing.T) (a, b *Conn) {
	p := DefaultParams()
	cfg := Config{Params: &p, ISS: 1, MSS: 1460, NoDelay: true}
	a, b = new(Conn), new(Conn)
	var s Segment
	a.Open(1, cfg)
	require.True(t, a.Next(1, &s))
	b.Accept(1, cfg, &s)
	require.True(t, b.Next(1, &s))
	a.Segment(1, &s)
	require.True(t, a.Next(1, &s))
	b.Segment(1, &s)
	require.Equal(t, Established, b.State())
	return a, b
}

func TestAnApplicationMayAwaitPinnedBytes(t *testing.T) {
	a, b := pairFor(t)
	var s Segment
	pull := func(now Time, from, to *Conn) {
		for from.Next(now, &s) {
			in := joined(&s)
			to.Segment(now, &in)
		}
	}
	require.False(t, a.AwaitAcks(1, Millisecond), "nothing is pinned")

	require.Equal(t, 3000, a.Pin(1, make([]byte, 3000)))
	require.True(t, a.AwaitAcks(1, Millisecond))
	pull(1, a, b)
	a.Events()
	pull(1, b, a)
	require.NotZero(t, a.Events()&Writable)
	require.False(t, a.AwaitAcks(1, Millisecond), "all bytes are acknowledged")
	a.Unpin()
	require.Zero(t, a.Unacked())

	require.Equal(t, 3000, a.Pin(2, make([]byte, 3000)))
	require.True(t, a.AwaitAcks(2, Millisecond))
	a.Events()
	d, ok := a.Deadline()
	require.True(t, ok)
	require.Equal(t, Millisecond, d)
	a.Tick(d - 1)
	require.Zero(t, a.Events()&Writable)
	a.Tick(d)
	require.NotZero(t, a.Events()&Writable)
	require.False(t, a.AwaitAcks(d, Millisecond), "the deadline has come")
	a.Unpin()
	require.Equal(t, 3000, a.Unacked())
	at, _ := a.Deadline()
	require.NotEqual(t, d, at, "the deadline is removed")

	require.Equal(t, 3000, a.Pin(d, make([]byte, 3000)))
	require.True(t, a.AwaitAcks(d, 2*d))
	a.Abort(d)
	require.False(t, a.AwaitAcks(d, 2*d), "a reset connection has no pinned bytes")
}
