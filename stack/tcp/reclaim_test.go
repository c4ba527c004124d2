package tcp

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/stack/wire"
)

// RFC 2018 8: "The data receiver is permitted to discard data in its queue that has not
// been acknowledged to the data sender, even if the data has already been reported in a
// SACK option."
func TestReclaimDiscardsOutOfOrderData(t *testing.T) {
	text := bytes.Repeat([]byte("0123456789"), 1000)
	for name, tc := range map[string]struct {
		ranges [][2]int // received data, in this order
		wait   Time     // time between the last data and Reclaim
		all    bool     // argument of Reclaim
		held   bool     // out-of-order data remains
	}{
		"much data":           {[][2]int{{0, 1000}, {2000, 10_000}}, 0, false, true},
		"much data, old":      {[][2]int{{0, 1000}, {2000, 10_000}}, 2 * Second, false, false},
		"much data, all":      {[][2]int{{0, 1000}, {2000, 10_000}}, 0, true, false},
		"a byte far away":     {[][2]int{{9999, 10_000}}, 0, false, false},
		"data near, old":      {[][2]int{{0, 10}, {20, 30}}, 2 * Second, false, false},
		"data near":           {[][2]int{{0, 10}, {20, 30}}, 0, false, true},
		"none, much not read": {[][2]int{{0, 10_000}}, 2 * Second, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := bare(t, rigOptions{modern: true})
			r.c.SetRecvLimit(64 << 10)
			r.pull()
			begin := r.theirs()
			send := func(lo, hi int) {
				r.send(wire.FlagACK, begin+Seq(lo), 0, text[lo:hi])
				r.pull()
			}
			for _, k := range tc.ranges {
				send(k[0], k[1])
			}
			got := make([]byte, r.c.Readable()/2)
			n := r.c.Read(r.now, got)
			r.now += tc.wait
			before := len(r.c.rcv.buf.b)
			r.c.Reclaim(r.now, tc.all)
			require.Equal(t, tc.held, r.c.rcv.ooo.n > 0)
			require.LessOrEqual(t, len(r.c.rcv.buf.b), before)
			if !tc.held {
				require.LessOrEqual(t, len(r.c.rcv.buf.b), max(4*r.c.Readable(), 4*minRing))
			}
			require.NoError(t, checkConn(&r.c))
			// Retransmissions then deliver all data.
			for lo := 0; lo < len(text); lo += 500 {
				send(lo, lo+500)
			}
			got = append(got, make([]byte, len(text)-n)...)
			require.Equal(t, len(text)-n, r.c.Read(r.now, got[n:]))
			require.Equal(t, text, got)
			require.NoError(t, checkConn(&r.c))
		})
	}
}

func TestReclaimShrinksASendBufferThatDrained(t *testing.T) {
	r := bare(t, rigOptions{modern: true, window: 200_000})
	r.c.SetSendLimit(128 << 10)
	text := bytes.Repeat([]byte("0123456789"), 10_000)
	require.Equal(t, len(text), r.c.Write(r.now, text))
	sent := 0
	for sent < len(text)-100 {
		for _, s := range r.pull() {
			sent = int(Seq(s.Seq)-r.c.snd.iss) - 1 + s.DataLen()
		}
		r.now += 10 * Millisecond
		r.ack(Seq(min(sent, len(text)-100)))
	}
	require.Equal(t, 128<<10, len(r.c.snd.buf.ring.b))
	r.c.Reclaim(r.now, false)
	require.Equal(t, minRing, len(r.c.snd.buf.ring.b))
	a, b := r.c.snd.buf.ring.slices(0, 100)
	require.Equal(t, text[len(text)-100:], append(append([]byte(nil), a...), b...))
	require.NoError(t, checkConn(&r.c))
}

func TestAnOrphanHoldsNoOutOfOrderData(t *testing.T) {
	r := bare(t, rigOptions{modern: true})
	r.send(wire.FlagACK, r.theirs()+10, 0, make([]byte, 100))
	r.pull()
	require.NotZero(t, r.c.rcv.ooo.n)
	r.c.Close(r.now)
	require.Nil(t, r.c.rcv.buf.b)
	r.pull()
	require.NoError(t, checkConn(&r.c))
}
