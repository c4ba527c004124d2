package tcp

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/stack/wire"
)

// stamped returns a segment of the peer with n bytes from the absolute sequence number seq, and with the
// timestamp ts.
func (r *rig) stamped(seq Seq, n int, ts uint32) *Segment {
	s := r.segment(wire.FlagACK, seq-rigIRS-1, 0, make([]byte, n))
	s.TSVal = ts
	return s
}

func TestDataOvertakenByARetransmissionIsAccepted(t *testing.T) {
	r := bare(t, rigOptions{modern: true, window: 60000})
	nxt := r.c.rcv.nxt
	ts := r.c.rcv.tsRecent
	// The first segment is lost and the second is delayed. The third arrives, then the retransmission of
	// the first, then the second.
	r.c.Segment(r.now, r.stamped(nxt+200, 100, ts+12))
	r.c.Segment(r.now, r.stamped(nxt, 100, ts+40))
	require.Equal(t, ts+40, r.c.rcv.tsRecent)
	require.Equal(t, nxt+100, r.c.rcv.nxt)
	r.c.Segment(r.now, r.stamped(nxt+100, 100, ts+11))
	require.Equal(t, nxt+300, r.c.rcv.nxt)
	require.Equal(t, ts+40, r.c.rcv.tsRecent, "RFC 7323 4.3 (2): it is not older than before")
}

func TestNewDataOvertakenByARetransmissionIsAccepted(t *testing.T) {
	// The delayed segment is the last one: no data beyond it has arrived.
	for _, at := range []Seq{300, 250} {
		r := bare(t, rigOptions{modern: true, window: 60000})
		nxt := r.c.rcv.nxt
		ts := r.c.rcv.tsRecent
		r.c.Segment(r.now, r.stamped(nxt+200, 100, ts+12))
		r.c.Segment(r.now, r.stamped(nxt, 100, ts+40))
		r.c.Segment(r.now, r.stamped(nxt+at, 100, ts+39))
		require.Equal(t, []block{{nxt + 200, nxt + at + 100}}, r.c.rcv.ooo.blocks())
		require.Equal(t, ts+40, r.c.rcv.tsRecent)
	}
}

func TestPAWSDiscardsPossibleOldDuplicates(t *testing.T) {
	// RFC 7323 5.3 R1. The mark is an earlier TS.Recent, and shows which segments may have been overtaken: see
	// Conn.overtaken.
	for name, tc := range map[string]struct {
		at    Seq
		older uint32 // how much older the timestamp is than TS.Recent
		flags wire.TCPFlags
	}{
		"as old as the mark":  {at: 100, older: 40},
		"older than the mark": {at: 100, older: 60},
		"beyond, and older":   {at: 300, older: 60},
		"a SYN":               {at: 100, older: 20, flags: wire.FlagSYN},
	} {
		r := bare(t, rigOptions{modern: true, window: 60000})
		nxt := r.c.rcv.nxt
		ts := r.c.rcv.tsRecent
		require.Equal(t, ts, r.c.rcv.markTS, "the SYN's")
		r.c.Segment(r.now, r.stamped(nxt+200, 100, ts+12))
		r.c.Segment(r.now, r.stamped(nxt, 100, ts+40))
		s := r.stamped(nxt+tc.at, 100, ts+40-tc.older)
		s.Flags |= tc.flags
		r.c.Segment(r.now, s)
		require.Equal(t, nxt+100, r.c.rcv.nxt, name)
		require.Len(t, r.c.rcv.ooo.blocks(), 1, name)
		require.Equal(t, block{nxt + 200, nxt + 300}, r.c.rcv.ooo.blocks()[0], name)
	}
	// Without a hole, an old segment is discarded too.
	r := bare(t, rigOptions{modern: true, window: 60000})
	r.c.Segment(r.now, r.stamped(r.c.rcv.nxt, 100, r.c.rcv.tsRecent+40))
	nxt := r.c.rcv.nxt
	r.c.Segment(r.now, r.stamped(nxt, 100, r.c.rcv.tsRecent-20))
	require.Equal(t, nxt, r.c.rcv.nxt)
}

// TestNoOldDuplicatePassesPAWS sends through the sequence space many times and keeps all sent segments.
// It checks that no kept segment would be accepted as other text, because its sequence number, modulo
// 2^32, is in the current window.
func TestNoOldDuplicatePassesPAWS(t *testing.T) {
	const window = 1 << 30 // RFC 7323 2.3: less than this
	type copyOf struct {
		seq uint64
		n   int
		ts  uint64
	}
	passed, refused := 0, 0
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var c Conn
		c.active = &active{}
		r := &c.rcv
		ts, una, nxt := rng.Uint64N(1<<32), rng.Uint64N(1<<32), uint64(0)
		nxt = una
		r.tsRecent, r.markTS, r.markSeq = uint32(ts), uint32(ts), Seq(una)
		now, arrived := Time(1), una
		var sent []copyOf
		most := 1 + rng.Uint64N(1<<27)
		for range 400 {
			// The sender sends new text, or retransmits some that is in flight.
			switch k := rng.IntN(4); {
			case k < 3 && nxt-una < window-most:
				n := 1 + rng.Uint64N(most)
				sent = append(sent, copyOf{nxt, int(n), ts})
				nxt += n
			case nxt > una:
				n := 1 + rng.Uint64N(min(most, nxt-una))
				seq := una + rng.Uint64N(nxt-una-n+1)
				sent = append(sent, copyOf{seq, int(n), ts})
			}
			ts += rng.Uint64N(1 << rng.IntN(29))
			// Some of the sent text arrives, in order. Each arrival sets TS.Recent to the timestamp of the
			// arrived copy. The sender learns of an arrival later, because acknowledgements take time.
			for _, p := range sent[max(0, len(sent)-20):] {
				if p.seq <= arrived && arrived < p.seq+uint64(p.n) && rng.IntN(3) > 0 && int32(uint32(p.ts)-r.tsRecent) >= 0 {
					c.takeStamp(now, Seq(p.seq), uint32(p.ts))
					arrived = p.seq + uint64(p.n)
				}
			}
			if rng.IntN(2) == 0 {
				una = max(una, arrived-rng.Uint64N(arrived-una+1))
			}
			for _, p := range sent {
				end := p.seq + uint64(p.n)
				offset := Seq(end) - Seq(arrived)
				if offset == 0 || offset >= window || int32(uint32(p.ts)-r.tsRecent) >= 0 || ts-p.ts >= 1<<31 {
					continue // not in the window, or subject to RFC 7323 5.5
				}
				if !c.overtaken(Seq(end), uint32(p.ts)) {
					refused++
					continue
				}
				passed++
				require.Equal(t, arrived+uint64(offset), end, "seed %d: of an earlier round", seed)
			}
		}
	}
	require.Greater(t, passed, 1000)
	require.Greater(t, refused, 1000)
}
