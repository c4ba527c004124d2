package tcp

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/stack/wire"
)

// ack passes an acknowledgement with SACK blocks to the Conn. All numbers are relative.
func (r *rig) ack(ack Seq, blocks ...block) {
	s := r.segment(wire.FlagACK, r.theirs(), ack, nil)
	r.sack(s, blocks...)
	r.c.Segment(r.now, s)
}

// sack appends SACK blocks to a segment of the peer.
func (r *rig) sack(s *Segment, blocks ...block) {
	for _, k := range blocks {
		s.SACK[s.NSACK] = wire.SACKBlock{Start: uint32(rigISS + 1 + k.start), End: uint32(rigISS + 1 + k.end)}
		s.NSACK++
	}
}

// flight returns a modern connection with n segments of 100 bytes in flight, and a measured round-trip
// time of 20 ms.
func flight(t testing.TB, n int) *rig {
	r := bare(t, rigOptions{modern: true, window: 60000})
	r.c.Write(r.now, make([]byte, 100))
	require.Equal(t, []int{0}, numbers(r.pull()))
	r.now += 20 * Millisecond
	r.ack(100)
	r.c.Write(r.now, make([]byte, 100*n))
	require.Len(t, numbers(r.pull()), n)
	return r
}

func TestATailLossProbeDoesNotUndoAnEarlierRecovery(t *testing.T) {
	r := flight(t, 10)
	before := r.c.Info(0).SndCwnd
	r.now += 20 * Millisecond
	r.ack(100, block{200, 1100})
	require.Equal(t, []int{100}, numbers(r.pull()))
	r.now += 20 * Millisecond
	r.ack(1100)
	after := r.c.Info(0)
	require.False(t, after.Recovery)
	require.Less(t, after.SndSsthresh, before, "a segment was lost: RFC 9438 4.6")

	// The next segments are late, not lost: the probe was unnecessary.
	r.c.Write(r.now, make([]byte, 200))
	stamp := r.c.tsVal(r.now)
	require.Equal(t, []int{1100, 1200}, numbers(r.pull()))
	require.Equal(t, []int{1200}, numbers(r.wait(100*Millisecond)), "RFC 8985 7.3")
	require.Zero(t, r.c.Info(0).Backoff, "a probe is not a timeout")
	s := r.segment(wire.FlagACK, r.theirs(), 1300, nil)
	s.TSEcr = stamp
	r.c.Segment(r.now, s)
	require.Equal(t, after.SndSsthresh, r.c.Info(0).SndSsthresh, "the earlier loss was real")
	require.LessOrEqual(t, r.c.Info(0).SndCwnd, after.SndCwnd)
}

func TestReorderingWithoutLossCostsNoWindow(t *testing.T) {
	// RFC 8985 4 (3): the reordering window adapts, so constant reordering on a path does not count as
	// loss.
	r := flight(t, 10)
	una := Seq(100)
	for range 50 {
		// The first segment of each flight arrives after all others, a little late.
		nxt := r.c.snd.nxt - rigISS - 1
		stamp := r.echo
		r.now += 20 * Millisecond
		r.ack(una, block{una + 100, nxt})
		again := numbers(r.pull())
		again = append(again, numbers(r.wait(4*Millisecond))...)
		s := r.segment(wire.FlagACK, r.theirs(), nxt, nil)
		s.TSEcr = stamp // the original arrived before its retransmission
		r.c.Segment(r.now, s)
		if len(again) > 0 {
			require.Equal(t, []int{int(una)}, again)
			r.now += 16 * Millisecond
			r.ack(nxt, block{una, una + 100}) // a DSACK: the second copy arrived
		}
		una = nxt
		r.c.Write(r.now, make([]byte, 1000))
		require.NotEmpty(t, numbers(r.pull()))
	}
	info := r.c.Info(0)
	require.Greater(t, info.SndSsthresh, 1<<20, "nothing was ever lost")
	require.LessOrEqual(t, info.Retrans, 3)
}

// slowBoard is a reference for the scoreboard: it has the state of each byte in flight.
type slowBoard struct {
	una, nxt Seq
	flags    map[Seq]sentFlags
}

func (b *slowBoard) count(f func(sentFlags) bool) (n int) {
	for q := b.una; q != b.nxt; q++ {
		if f(b.flags[q]) {
			n++
		}
	}
	return n
}

func TestScoreboardAgreesWithOneByteByByte(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 8))
		c := &Conn{p: &Params{}}
		c.activate(0)
		c.snd.mss = 10
		start := Seq(r.Uint32())
		c.snd.una, c.snd.nxt = start, start
		b := &c.sb
		slow := &slowBoard{una: start, nxt: start, flags: map[Seq]sentFlags{}}
		for step := range 200 {
			now := Time(step + 1)
			inside := func() Seq { return c.snd.una + Seq(r.IntN(int(c.snd.nxt-c.snd.una)+1)) }
			switch op := r.IntN(7); {
			case op <= 1 || c.snd.una == c.snd.nxt:
				n := 1 + r.IntN(40)
				b.push(c.snd.nxt, c.snd.nxt+Seq(n), now)
				c.snd.nxt += Seq(n)
				slow.nxt = c.snd.nxt
			case op == 2:
				ack := inside()
				if ack == c.snd.una {
					break
				}
				c.takeAck(&ackSample{now: now, prior: c.snd.una}, ack)
				for q := c.snd.una; q != ack; q++ {
					delete(slow.flags, q)
				}
				c.snd.una, slow.una = ack, ack
			case op == 3:
				k := block{inside(), inside()}
				if !k.start.Less(k.end) {
					break
				}
				c.sackBlock(&ackSample{now: now}, k)
				for q := k.start; q != k.end; q++ {
					slow.flags[q] = segSacked
				}
			case op == 4:
				i := b.find(inside())
				if i.c == nil {
					break
				}
				s := *i.sent()
				b.markLost(i)
				for q := s.seq; q != s.end; q++ {
					if slow.flags[q]&segSacked == 0 {
						slow.flags[q] = slow.flags[q]&^segResent | segLost
					}
				}
			case op == 5:
				i := b.firstOf(kindDue)
				due := slow.count(func(f sentFlags) bool { return f&(segLost|segResent) == segLost })
				require.Equal(t, due > 0, i.c != nil, "seed %d", seed)
				if i.c == nil {
					break
				}
				if n := i.sent().len(); n > 1 && r.IntN(2) == 0 {
					i, _ = b.split(i, i.sent().seq+Seq(1+r.IntN(n-1)))
				}
				s := *i.sent()
				for q := slow.una; q != s.seq; q++ {
					require.NotEqual(t, segLost, slow.flags[q]&(segLost|segResent), "seed %d: %d must be retransmitted before", seed, q)
				}
				b.markResent(i, now)
				for q := s.seq; q != s.end; q++ {
					slow.flags[q] |= segResent
				}
			case op == 6 && r.IntN(10) == 0:
				b.renege()
				for q := slow.una; q != slow.nxt; q++ {
					slow.flags[q] &^= segSacked
				}
			}
			has := func(f sentFlags) int { return slow.count(func(x sentFlags) bool { return x&f != 0 }) }
			require.Equal(t, has(segSacked), b.sacked, "seed %d step %d", seed, step)
			require.Equal(t, has(segLost), b.lost, "seed %d step %d", seed, step)
			require.Equal(t, has(segResent), b.resent, "seed %d step %d", seed, step)
			require.Equal(t, slow.count(func(f sentFlags) bool { return f&(segLost|segResent) == segLost }), b.due, "seed %d step %d", seed, step)
			c.state, c.snd.maxWnd = Established, 1<<30
			require.NoError(t, checkBoard(c), "seed %d step %d", seed, step)
		}
	}
}

func TestRecoverySendsNoFasterThanTheReducedWindow(t *testing.T) {
	// RFC 9937 5: in a recovery from few losses, PRR sends 0.7 segments for each delivered segment, and
	// cwnd is ssthresh at the end.
	for lost := 1; lost <= 3; lost++ {
		r := flight(t, 10)
		r.c.Write(r.now, make([]byte, 5000))
		out, delivered := 0, 0
		r.now += 20 * Millisecond
		hole := Seq(100 + 100*lost)
		for end := hole + 100; end <= 1100; end += 100 {
			r.ack(100, block{hole, end})
			delivered += 100
			for _, s := range r.pull() {
				out += s.DataLen()
			}
			if r.c.Info(0).Recovery {
				require.LessOrEqual(t, out, max(delivered, 300), "lost %d, delivered %d", lost, delivered)
			}
		}
		info := r.c.Info(0)
		require.True(t, info.Recovery)
		require.Equal(t, 700, info.SndSsthresh)
		r.now += 20 * Millisecond
		r.ack(r.c.snd.nxt - rigISS - 1)
		require.False(t, r.c.Info(0).Recovery)
		require.InDelta(t, 700, r.c.Info(0).SndCwnd, 100, "lost %d: at the end cwnd is ssthresh", lost)
	}
}

func TestABurstLossIsRepairedByDoubling(t *testing.T) {
	// RFC 9937 6.2: "safeACK = (SND.UNA advances and no further loss indicated)". Such an
	// acknowledgement allows one segment more than it reports as delivered. Without this rule, recovery
	// would send one segment per round trip when one segment is left in the pipe.
	r := flight(t, 10)
	una := Seq(1100)
	for range 4 { // slow start grows the window to 160 segments
		r.now += 20 * Millisecond
		r.ack(una)
		r.c.Write(r.now, make([]byte, 2*r.c.cc.cwnd))
		r.wait(19 * Millisecond)
		una = r.c.snd.nxt - rigISS - 1
	}
	r.now += 20 * Millisecond
	una = r.c.snd.una - rigISS - 1
	last := r.c.snd.nxt - rigISS - 1
	require.Greater(t, last-una, Seq(6000))
	r.c.snd.buf.ring.n = int(last - una) // no new data: every segment is a retransmission

	// All but the last four segments are lost.
	kept := block{last - 400, last}
	r.ack(una, kept)
	out := numbers(r.pull())
	rounds := 0
	for una != kept.start {
		rounds++
		require.Less(t, rounds, 12, "%d of %d are repaired", una, kept.start)
		start := r.now
		var next []int
		for i, n := range out {
			require.Equal(t, int(una), n)
			r.now = start + 20*Millisecond + Time(i)*10*Microsecond
			una += 100
			r.ack(una, kept)
			next = append(next, numbers(r.pull())...)
		}
		next = append(next, numbers(r.wait(19*Millisecond))...) // segments that the pacer held back
		out = next
	}
	require.Zero(t, r.c.Info(0).Backoff)
	require.LessOrEqual(t, r.c.Info(0).SndCwnd, r.c.Info(0).SndSsthresh+100)
}

func TestAnAckOfARetransmissionGivesNoRTTSample(t *testing.T) {
	// RFC 6298 3: Karn's algorithm applies to all data that an ACK acknowledges, because the ACK of later
	// data may have waited for the retransmission.
	r := flightWithoutTimestamps(t, 10)
	r.now += 20 * Millisecond
	r.ack(100, block{200, 1100})
	require.Equal(t, 100, numbers(r.pull())[0])
	r.now += 5 * Millisecond
	r.c.Write(r.now, make([]byte, 100))
	require.Equal(t, []int{1100}, numbers(r.pull()))
	before := r.c.Info(0)
	r.now += 100 * Millisecond // the retransmission is late, and the SACK of 1100 is lost
	r.ack(1200)
	require.Equal(t, before.RTT, r.c.Info(0).RTT)
	require.Equal(t, before.RTTVar, r.c.Info(0).RTTVar)
}

func TestWaitingBehindAHoleGivesNoRTTSample(t *testing.T) {
	// RFC 6298 3: "RTT samples MUST NOT be made using segments that were retransmitted", unless
	// timestamps distinguish the copies. Segments behind a hole are acknowledged only when a
	// retransmission fills the hole, so they give no sample either. The round-trip time is 50 ms.
	for _, cc := range []Congestion{CUBIC, BBR} {
		for _, sack := range []bool{false, true} {
			for _, stamps := range []bool{false, true} {
				t.Run(fmt.Sprintf("%v, SACK %v, timestamps %v", cc, sack, stamps), func(t *testing.T) {
					s := newNetsim(bottleneck{rate: 50e6, rtt: 50 * Millisecond, loss: 0.2, queue: 300_000}, cc, 1, 3)
					s.params.NoSACK, s.params.NoTimestamps = !sack, !stamps
					s.run(Second)
					f := s.flows[0]
					for f.arrived() < 1<<20 {
						s.run(s.now + 100*Millisecond)
						require.Less(t, f.snd.rtt.srtt, 100*Millisecond)
						require.Less(t, s.now, 300*Second, "%d bytes have arrived", f.arrived())
					}
				})
			}
		}
	}
}

func TestSuperSegmentsLeaveTheRemainderToNagle(t *testing.T) {
	// RFC 9293 3.7.4: "the sending TCP endpoint buffers all user data [...] until
	// the outstanding data has been acknowledged or until the TCP endpoint can
	// send a full-sized segment".
	r := bare(t, rigOptions{modern: true, window: 60000, gso: 65535, nagle: true})
	r.c.Write(r.now, make([]byte, 250))
	out := r.pull()
	require.Len(t, out, 1)
	require.Equal(t, 200, out[0].DataLen())
	require.Equal(t, 100, out[0].GSOSize)
	r.ack(200)
	require.Equal(t, []int{200}, numbers(r.pull()))
}

func TestAckedMeansThatTheFinIsAcknowledgedAsWell(t *testing.T) {
	r := finWait1(t, rigOptions{modern: true})
	r.c.Events()
	r.ack(rigFlight)
	require.Zero(t, r.c.Events()&Acked)
	r.ack(rigFlight + 1)
	require.NotZero(t, r.c.Events()&Acked)
}

func TestABufferBelowTheScaleUnitOpensTheWindow(t *testing.T) {
	r := bare(t, rigOptions{modern: true, change: func(p *Params) { p.RecvBufferMax = 1 << 30 }})
	require.EqualValues(t, 14, r.c.rcv.scale)
	r.c.SetRecvLimit(4096)
	buf := make([]byte, 65536)
	for range 200 {
		r.send(wire.FlagACK, r.theirs(), 0, make([]byte, min(100, r.c.window())))
		r.pull()
		r.c.Read(r.now, buf)
		r.pull()
	}
	require.Equal(t, Seq(200*100), r.theirs(), "RFC 7323 2.3: the window is a multiple of 2^14")
}

func TestNothingFollowsAFin(t *testing.T) {
	r := bare(t, rigOptions{modern: true})
	r.send(wire.FlagACK|wire.FlagFIN, 100, 0, make([]byte, 50)) // out of order
	r.send(wire.FlagACK, 140, 0, make([]byte, 50))              // 40 bytes beyond the window
	r.send(wire.FlagACK, 0, 0, make([]byte, 100))
	require.Equal(t, 150, r.c.Readable())
	require.Equal(t, CloseWait, r.c.State())
	require.NoError(t, checkRecv(&r.c))
	require.Equal(t, 150, r.c.Read(r.now, make([]byte, 500)))
	require.True(t, r.c.AtEOF())
}

func TestAFINBelowBufferedDataIsIgnored(t *testing.T) {
	r := bare(t, rigOptions{modern: true})
	r.send(wire.FlagACK, 100, 0, make([]byte, 50))
	r.send(wire.FlagACK|wire.FlagFIN, 50, 0, nil)
	r.send(wire.FlagACK, 0, 0, make([]byte, 100))
	require.Equal(t, 150, r.c.Readable())
	require.Equal(t, Established, r.c.State())
	r.send(wire.FlagACK|wire.FlagFIN, 150, 0, nil)
	require.Equal(t, CloseWait, r.c.State())
}

func TestAClosedWindowIsProbedWhileThePeerAnswers(t *testing.T) {
	// RFC 9293 3.8.6.1: "As long as the receiving TCP peer continues to send acknowledgments in
	// response to the probe segments, the sending TCP peer MUST allow the connection to stay open"
	// (MUST-37). The answers come at once, so at each timeout the last answer is as old as the timeout.
	r := bare(t, rigOptions{modern: true, window: 8})
	r.c.Write(r.now, make([]byte, 1000))
	r.pull()
	r.o.window = 0
	r.ack(8)
	require.Empty(t, r.pull())
	cwnd := r.c.Info(0).SndCwnd
	for range 40 {
		d, ok := r.c.Deadline()
		require.True(t, ok)
		r.now = d
		r.c.Tick(r.now)
		out := r.pull()
		require.Len(t, out, 1)
		require.Zero(t, out[0].DataLen())
		require.Equal(t, rigISS+8, Seq(out[0].Seq))
		r.ack(8)
		require.Empty(t, r.pull())
	}
	require.Equal(t, Established, r.c.State())
	require.Greater(t, r.now, 3600*Second)
	require.Equal(t, cwnd, r.c.Info(0).SndCwnd, "a closed window is no sign of congestion")
	r.o.window = 60000
	r.ack(8)
	require.Equal(t, 8, numbers(r.pull())[0])
}

func TestOversizedSegmentsAreNoCongestion(t *testing.T) {
	// RFC 1191 6.4: "a retransmission caused by a Datagram Too Big message should not change the
	// congestion window". The pacer holds some of these retransmissions back. An acknowledgement that
	// arrives in the meantime must not reduce the window either.
	r := flight(t, 10)
	r.now += 20 * Millisecond
	r.ack(1100)
	r.c.Write(r.now, make([]byte, 2000))
	require.Len(t, numbers(r.wait(10*Millisecond)), 20)
	before := r.c.Info(0)
	r.c.PathMTU(r.now, 72)
	r.pull()
	require.NotZero(t, r.c.sb.due, "the pacer holds some of it back")
	r.now += Millisecond
	r.ack(1200)
	require.False(t, r.c.Info(0).Recovery)
	require.Equal(t, before.SndSsthresh, r.c.Info(0).SndSsthresh)
	// A lost retransmission is a sign of congestion.
	r.wait(20 * Millisecond)
	require.Zero(t, r.c.sb.due)
	r.ack(1200, block{1300, 3100})
	require.True(t, r.c.Info(0).Recovery)
}
