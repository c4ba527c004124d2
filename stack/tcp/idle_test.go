package tcp

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAnIdleConnectionSendsTheSameSegments(t *testing.T) {
	// Connections a and b get the same calls, and a becomes idle whenever it can. Their segments and
	// deadlines must be the same. If SACK is on, the test loses no segments, because an idle connection
	// forgets the degree of reordering.
	idled := 0
	for seed := range sampled(60) {
		r := rand.New(rand.NewPCG(seed, 78))
		p := DefaultParams()
		p.ECN, p.NoTimestamps, p.NoSACK = seed%4 == 1, seed%5 == 0, seed%7 == 0
		p.SendBuffer, p.SendBufferMax = 40_000, 40_000
		p.RecvBuffer, p.RecvBufferMax = 30_000, 30_000
		if seed%3 == 0 {
			p.Congestion = NewReno
		}
		lose := func() bool { return p.NoSACK && r.IntN(4) == 0 }
		keep := KeepAlive{Idle: 700 * Millisecond, Interval: 300 * Millisecond, Count: 50}
		cfg := Config{Params: &p, ISS: 0xffff8000, MSS: 1460, NoDelay: seed%3 > 0, Keep: keep}
		var a, b, peer Conn // a becomes idle
		now := Time(1)
		a.Open(now, cfg)
		b.Open(now, cfg)
		var s, s2 Segment
		require.True(t, a.Next(now, &s) && b.Next(now, &s2))
		peer.Accept(now, cfg, &s)
		exchange := func() (more bool) {
			for a.Next(now, &s) {
				more = true
				require.True(t, b.Next(now, &s2), "seed %d", seed)
				requireSame(t, &s, &s2, seed)
				s.CE = p.ECN && r.IntN(20) == 0
				if in := joined(&s); !lose() {
					peer.Segment(now, &in)
				}
			}
			require.False(t, b.Next(now, &s2), "seed %d", seed)
			for peer.Next(now, &s) {
				more = true
				s.CE = p.ECN && r.IntN(20) == 0
				if !lose() {
					in := joined(&s)
					a.Segment(now, &in)
					in = joined(&s)
					b.Segment(now, &in)
				}
			}
			return more
		}
		buf := make([]byte, 1<<16)
		for range 400 {
			now += Time(r.IntN(int([]Time{3, 3, 3, 1500}[r.IntN(4)] * Millisecond)))
			for _, c := range []*Conn{&a, &b, &peer} {
				if d, ok := c.Deadline(); ok && d <= now {
					c.Tick(now)
				}
			}
			n := 1 + r.IntN(30_000)
			switch r.IntN(6) {
			case 0:
				require.Equal(t, a.Write(now, buf[:n]), b.Write(now, buf[:n]))
			case 1:
				peer.Write(now, buf[:n])
			case 2:
				peer.Read(now, buf)
			case 3:
				require.Equal(t, a.Read(now, buf[:n]), b.Read(now, buf[:n]))
			case 4:
				switch r.IntN(60) {
				case 0:
					a.CloseWrite(now)
					b.CloseWrite(now)
				case 1:
					peer.CloseWrite(now)
				}
			}
			for exchange() {
				now += Time(r.IntN(int(Millisecond)))
			}
			if a.active != nil {
				if a.Deactivate(now); a.active == nil {
					idled++
				}
			}
			b.probeOnly = b.probeOnly && b.active == nil // b stays active, so no probe activates it
			require.Equal(t, a.Events(), b.Events())
			require.Equal(t, a.State(), b.State())
			d, ok := a.Deadline()
			d2, ok2 := b.Deadline()
			require.Equal(t, d2, d)
			require.Equal(t, ok2, ok)
		}
	}
	require.Greater(t, uint64(idled), sampled(30), "the connection must become idle")
}
