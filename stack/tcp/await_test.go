package tcp

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/stack/wire"
)

func TestInOrderDataGoesStraightToAWaitingReader(t *testing.T) {
	p := DefaultParams()
	w := newPair(t, 1, p)
	for w.b.p == nil || w.b.State() != Established {
		require.True(t, w.step(&p))
	}
	buf := make([]byte, 4000)
	require.True(t, w.b.Await(buf))
	require.False(t, w.b.Await(make([]byte, 1)), "only one reader may be registered")
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
	require.EqualValues(t, 5000, w.a.Info(0).Delivered)
	require.Equal(t, data[:4000], buf)
	rest := make([]byte, 2000)
	require.Equal(t, 1000, w.b.Read(w.now, rest))
	require.Equal(t, data[4000:], rest[:1000])
	require.Zero(t, w.b.Awaited(w.now), "no reader waits")
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
				// The reader takes the data that arrived in its buffer, then the data in the ring. Then it
				// waits again.
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

// awaiting returns an established connection, and a reader's buffer of n bytes that is registered with
// Await.
func awaiting(t *testing.T, n int) (r *rig, buf []byte) {
	r = established(t, rigOptions{modern: true})
	buf = make([]byte, n)
	require.True(t, r.c.Await(buf))
	return r, buf
}

// place copies text to the buffer that the Conn offers, as a device does, and returns the part of the
// buffer that has the text.
func (r *rig) place(text []byte) []byte {
	r.t.Helper()
	room, header := r.c.TakeBuffer(len(text))
	require.Equal(r.t, wire.TCPLen+12, header, "with timestamps")
	require.True(r.t, r.c.BufferTaken())
	return room[:copy(room, text)]
}

func TestPlacedDataIsNotCopied(t *testing.T) {
	r, buf := awaiting(t, 500)
	for i := range 2 {
		text := bytes.Repeat([]byte{byte('a' + i)}, 100)
		placed := r.place(text)
		require.Same(t, &buf[100*i], &placed[0])
		none, _ := r.c.TakeBuffer(1)
		require.Nil(t, none, "only one buffer at a time")
		r.send(wire.FlagACK, Seq(100*i), rigFlight, placed)
		require.False(t, r.c.BufferTaken(), "the buffer must be returned")
	}
	none, _ := r.c.TakeBuffer(301)
	require.Nil(t, none, "more than the free bytes")
	require.Equal(t, 200, r.c.Awaited(r.now))
	require.Equal(t, bytes.Repeat([]byte("a"), 100), buf[:100])
	require.Equal(t, bytes.Repeat([]byte("b"), 100), buf[100:200])
	none, _ = r.c.TakeBuffer(1)
	require.Nil(t, none, "no reader waits")
}

func TestNoBufferIsOfferedBesideQueuedData(t *testing.T) {
	r, _ := awaiting(t, 500)
	r.send(wire.FlagACK, 10, rigFlight, []byte("behind a hole"))
	room, _ := r.c.TakeBuffer(1)
	require.Nil(t, room)

	r, _ = awaiting(t, 3)
	r.send(wire.FlagACK, 0, rigFlight, []byte("more than the reader can take"))
	room, _ = r.c.TakeBuffer(0)
	require.Nil(t, room)
}

func TestPlacedDataNeedNotBeTheNextBytes(t *testing.T) {
	text := noise(400)
	for name, send := range map[string]func(r *rig){
		"a part of it has arrived before": func(r *rig) {
			r.send(wire.FlagACK, 0, rigFlight, text[:150])
			r.send(wire.FlagACK, 0, rigFlight, r.place(text[:400]))
		},
		"all of it has arrived before": func(r *rig) {
			r.send(wire.FlagACK, 0, rigFlight, r.place(text[:150]))
			r.send(wire.FlagACK, 0, rigFlight, r.place(text[:150]))
			r.c.ReturnBuffer()
			r.send(wire.FlagACK, 150, rigFlight, text[150:])
		},
		"it is behind a hole": func(r *rig) {
			r.send(wire.FlagACK, 150, rigFlight, r.place(text[150:]))
			require.True(r.t, r.c.BufferTaken(), "data was copied from the buffer")
			r.c.ReturnBuffer()
			r.send(wire.FlagACK, 0, rigFlight, text[:150])
		},
		"the bytes before it arrive while it is placed": func(r *rig) {
			placed := r.place(text[150:])
			r.send(wire.FlagACK, 0, rigFlight, text[:150])
			require.True(r.t, r.c.BufferTaken(), "the buffer must not be overwritten")
			r.send(wire.FlagACK, 150, rigFlight, placed)
			r.c.ReturnBuffer()
		},
		"it comes in two parts": func(r *rig) {
			s := r.segment(wire.FlagACK, 0, rigFlight, r.place(text[:100]))
			s.Payload2 = text[100:]
			r.c.Segment(r.now, s)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, buf := awaiting(t, 900)
			send(r)
			require.False(t, r.c.BufferTaken())
			n := r.c.Awaited(r.now)
			n += r.c.Read(r.now, buf[n:])
			require.True(t, bytes.Equal(text, buf[:n]))
		})
	}
}

// noise returns n pseudo-random bytes.
func noise(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i * i >> 3)
	}
	return p
}
