package tcp

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/stack/wire"
)

func TestTheDefaultsFillAGigabitOver100Milliseconds(t *testing.T) {
	l := bottleneck{rate: 1e9, rtt: 100 * Millisecond}
	l.queue = l.bdp()
	s := newNetsim(l, CUBIC, 1, 1)
	d := DefaultParams()
	s.params.RecvBufferMax, s.params.SendBufferMax = d.RecvBufferMax, d.SendBufferMax
	g, _ := s.measure(2*Second, 2*Second)
	require.Greater(t, g[0], 0.95*l.line())
}

func TestUnacceptableSegmentsDoNotChangeTSRecent(t *testing.T) {
	// RFC 5961 5.2: a segment that acknowledges a number out of range "MUST be discarded". Otherwise a
	// blind attacker that guesses a sequence number in the window could set TS.Recent, and PAWS would then
	// discard the peer's segments.
	for name, forge := range map[string]func(s *Segment){
		"ack too new": func(s *Segment) { s.Ack += 1 << 30 },
		"ack too old": func(s *Segment) { s.Ack -= 1 << 30 },
		"no ack":      func(s *Segment) { s.Flags = 0 },
		"syn":         func(s *Segment) { s.Flags |= wire.FlagSYN },
	} {
		t.Run(name, func(t *testing.T) {
			r := flight(t, 3)
			s := r.segment(wire.FlagACK, r.theirs(), 100, []byte("junk"))
			s.TSVal += 1 << 30
			forge(s)
			r.c.Segment(r.now, s)
			r.pull()
			r.peer++
			r.send(wire.FlagACK, r.theirs(), 400, []byte("text"))
			buf := make([]byte, 100)
			require.Equal(t, "text", string(buf[:r.c.Read(r.now, buf)]))
			require.Zero(t, r.c.Info(0).Unacked)
		})
	}
}

func TestAWindowProbeIsNotECNCapable(t *testing.T) {
	// RFC 3168 6.1.6: "the TCP data sender MUST NOT set either an ECT codepoint or
	// the CWR bit on window probe packets."
	a, b, now := ecnPair(t, true)
	var s, ack Segment
	b.SetRecvLimit(3000)
	probes := 0
	for range 200 {
		a.Write(now, make([]byte, 5000))
		for a.Next(now, &s) {
			b.Segment(now, &s)
			if a.Info(0).SndWnd == 0 {
				require.False(t, s.ECT)
				require.Zero(t, s.Flags&wire.FlagCWR)
				probes++
			}
			for b.Next(now, &ack) {
				a.Segment(now, &ack)
			}
		}
		if d, ok := a.Deadline(); ok {
			now = max(now, d)
			a.Tick(now)
		}
		if d, ok := b.Deadline(); ok && d <= now {
			b.Tick(now)
			for b.Next(now, &ack) {
				a.Segment(now, &ack)
			}
		}
	}
	require.NotZero(t, probes)
}

func TestALossSetsCWR(t *testing.T) {
	// RFC 3168 6.1.2: "When an ECN-Capable TCP sender reduces its congestion window
	// for any reason (because of a retransmit timeout, a Fast Retransmit, or in
	// response to an ECN Notification), the TCP sender sets the CWR flag in the TCP
	// header of the first new data packet sent after the window reduction."
	a, b, now := ecnPair(t, true)
	var s, ack Segment
	a.Write(now, make([]byte, 20*a.MSS()))
	cwr := 0
	for i := 0; a.Next(now, &s); i++ {
		if s.Flags&wire.FlagCWR != 0 {
			cwr++
		}
		now += Millisecond
		if i == 1 {
			continue // lost
		}
		b.Segment(now, &s)
		for b.Next(now, &ack) {
			a.Segment(now, &ack)
		}
	}
	require.NotZero(t, a.Info(0).Retrans)
	require.Equal(t, 1, cwr)
}

func TestASynThatDidNotAskForECNLeavesItOff(t *testing.T) {
	// RFC 3168 6.1.1: a host that has sent a SYN without ECN "MUST NOT set ECT on data packets", even
	// if the answer is to an earlier SYN, which had ECN. The host still echoes CE marks of the peer.
	p := DefaultParams()
	p.ECN = true
	var a, b Conn
	var s, syn, ack Segment
	now := Second
	a.Open(now, Config{Params: &p, ISS: 100, MSS: 1460, NoDelay: true})
	require.True(t, a.Next(now, &syn))
	b.Accept(now, Config{Params: &p, ISS: 900, MSS: 1460, NoDelay: true}, &syn)
	now, _ = a.Deadline()
	a.Tick(now)
	require.True(t, a.Next(now, &s))
	require.Zero(t, s.Flags&(wire.FlagECE|wire.FlagCWR))
	require.True(t, b.Next(now, &s))
	require.NotZero(t, s.Flags&wire.FlagECE)
	a.Segment(now, &s)
	a.Write(now, make([]byte, 3000))
	for a.Next(now, &s) {
		require.False(t, s.ECT)
		b.Segment(now, &s)
	}
	for b.Next(now, &ack) {
		a.Segment(now, &ack)
	}
	b.Write(now, make([]byte, 100))
	require.True(t, b.Next(now, &s))
	require.True(t, s.ECT)
	s.CE = true
	a.Segment(now, &s)
	require.True(t, a.Next(now, &ack))
	require.NotZero(t, ack.Flags&wire.FlagECE)
}

func TestTheUserTimeoutIsPunctual(t *testing.T) {
	for _, d := range []Time{Second, 5 * Second, 30 * Second, 300 * Second} {
		r := flight(t, 3)
		r.c.SetUserTimeout(d)
		begin := r.now
		for r.c.Err() == ErrNone {
			r.wait(100 * Millisecond)
			require.Less(t, r.now-begin, d+Second)
		}
		require.GreaterOrEqual(t, r.now-begin, d)
		require.Equal(t, ErrTimedOut, r.c.Err())
	}
}

func TestUserTimeoutEndsAStalledConnection(t *testing.T) {
	p := DefaultParams()
	p.UserTimeout = 5 * Second
	w := newPair(t, 1, p)
	for w.b.p == nil || w.b.State() != Established { // w.b.p is nil until the SYN arrives
		require.True(t, w.step(&p))
	}
	w.loss = 1
	start := w.now
	w.a.Write(w.now, []byte("x"))
	for w.a.Err() == ErrNone {
		require.True(t, w.step(&p))
	}
	require.Equal(t, ErrTimedOut, w.a.Err())
	require.Equal(t, 5*Second, w.now-start, "RFC 5482 2")
}

func TestSACKsOfSingleBytesAreBounded(t *testing.T) {
	r := bare(t, rigOptions{modern: true, window: 500_000, mss: 1000, change: func(p *Params) { p.SendBuffer, p.SendBufferMax = 1<<20, 1<<20 }})
	at := Seq(0)
	for at < 400_000 {
		r.c.Write(r.now, make([]byte, 1<<20))
		r.pull()
		r.now += 20 * Millisecond
		at = r.c.snd.nxt - rigISS - 1
		r.ack(at - 100)
	}
	r.c.Write(r.now, make([]byte, 1<<20))
	r.pull()
	una, nxt := r.c.snd.una-rigISS-1, r.c.snd.nxt-rigISS-1
	require.Greater(t, nxt-una, Seq(10_000))
	for s := una + 1; s+8 < nxt; s += 6 {
		r.ack(una, block{s, s + 1}, block{s + 2, s + 3}, block{s + 4, s + 5})
	}
	require.Less(t, r.c.sb.n, 2000)
	r.ack(una, block{una + 1000, nxt})
	require.GreaterOrEqual(t, r.c.Info(0).Sacked, int(nxt-una-1000), "complete pieces count as SACKed")
	require.NoError(t, checkConn(&r.c))
}

func TestASpuriousTimeoutRetransmitsLittle(t *testing.T) {
	// RFC 5682 2.1: the ACK of each segment is late. F-RTO finds that the timeout was spurious, without
	// timestamps.
	for name, sack := range map[string]bool{"with SACK": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			r := flightWithoutTimestamps(t, 10)
			r.c.sackOK = sack
			before := r.c.Info(0)
			r.c.Write(r.now, make([]byte, 2000))
			r.untilTimeout()
			tlp := 0
			if sack {
				tlp = 1 // the tail loss probe, which sends new data
			}
			for i := range Seq(10) {
				r.now += Millisecond
				r.ack(200 + 100*i)
				r.pull()
			}
			after := r.c.Info(0)
			require.LessOrEqual(t, after.Retrans, 1+tlp)
			require.GreaterOrEqual(t, after.SndCwnd, before.SndCwnd)
			require.Equal(t, before.SndSsthresh, after.SndSsthresh)
		})
	}
}

func TestAGenuineTimeoutContinuesAfterFRTO(t *testing.T) {
	// RFC 5682 2.1 step 3a: after a duplicate acknowledgement, "the TCP sender MUST [...]
	// continue with the conventional retransmission timeout recovery".
	r := flightWithoutTimestamps(t, 10)
	r.c.Write(r.now, make([]byte, 2000))
	r.untilTimeout()
	during := r.c.Info(0)
	r.now += 20 * Millisecond
	r.ack(200)
	out := numbers(r.pull())
	require.Len(t, out, 2)
	require.GreaterOrEqual(t, out[0], 1100, "new data: %v", out)
	r.now += 20 * Millisecond
	end := Seq(out[1] + 100)
	r.ack(200, block{Seq(out[0]), end})
	out = numbers(r.pull())
	require.NotEmpty(t, out)
	require.Equal(t, 200, out[0])
	require.Equal(t, during.SndSsthresh, r.c.Info(0).SndSsthresh)
	require.NoError(t, checkConn(&r.c))
}

func TestAFewBytesFarAwayMakeNoLargeBuffer(t *testing.T) {
	p := DefaultParams()
	w := newPair(t, 1, p)
	for w.b.p == nil || w.b.State() != Established || w.a.State() != Established {
		require.True(t, w.step(&p))
	}
	var s Segment
	c := &w.b
	for range 100 {
		w.now += 10 * Millisecond
		w.a.header(w.now, &s, w.a.snd.nxt+Seq(c.window())-1, wire.FlagACK, false)
		s.Payload = []byte("x")
		c.Segment(w.now, &s)
		for c.Next(w.now, &s) {
		}
	}
	require.Equal(t, p.RecvBuffer, c.Info(0).RcvBuf)
	require.LessOrEqual(t, len(c.rcv.buf.b), p.RecvBuffer)
}

func TestACookieGivesNoRTTSample(t *testing.T) {
	p := DefaultParams()
	now := 10 * Second
	syn := Segment{TCP: wire.TCP{Seq: 99, Flags: wire.FlagSYN, Window: 1000, HasTS: true, TSVal: 5, MSS: 1460}}
	var c Conn
	c.AcceptCookie(now, Config{Params: &p, ISS: 500, MSS: 1460}, &syn)
	ack := Segment{TCP: wire.TCP{Seq: 100, Ack: 501, Flags: wire.FlagACK, Window: 1000, HasTS: true, TSVal: 6, TSEcr: Timestamp(now, 0) - 100}}
	c.Segment(now, &ack)
	require.Equal(t, Established, c.State())
	require.Zero(t, c.Info(0).RTT, "the low bits of a cookie's timestamp are not a time")
}
