package tcp

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/stack/wire"
)

const (
	thinMSS   = 1460
	thinSuper = 44 * thinMSS // the payload of a full super-segment, 64,240 bytes
)

// A thinRig is a receiver and the script of a sender on the same machine.
type thinRig struct {
	t   *testing.T
	p   Params
	c   Conn
	now Time
	seq Seq // the sender's next number
}

// newThinRig makes a receiver that a sender has connected to. change may change the parameters, and the
// segments of the handshake; it may be nil.
func newThinRig(t *testing.T, rtt Time, change func(p *Params, s *Segment)) *thinRig {
	r := &thinRig{t: t, p: DefaultParams(), now: 1, seq: 1000}
	syn := &Segment{Local: true, TCP: wire.TCP{Seq: uint32(r.seq), Flags: wire.FlagSYN, Window: 65535, MSS: thinMSS,
		HasWScale: true, WScale: 7, SACKPermitted: true}}
	ack := &Segment{Local: true, TCP: wire.TCP{Flags: wire.FlagACK, Window: 65535}}
	if change != nil {
		change(&r.p, syn)
		change(&r.p, ack)
	}
	r.c.Accept(r.now, Config{Params: &r.p, ISS: 1, MSS: thinMSS, NoDelay: true}, syn)
	require.Equal(t, 1, r.pull())
	r.seq++
	r.now += rtt
	ack.Seq, ack.Ack = uint32(r.seq), 2
	r.c.Segment(r.now, ack)
	require.Equal(t, Established, r.c.State())
	return r
}

// pull returns how many segments the receiver sends.
func (r *thinRig) pull() (n int) {
	var s Segment
	for r.c.Next(r.now, &s) {
		n++
	}
	return n
}

// super returns the next super-segment of the sender.
func (r *thinRig) super() *Segment {
	return &Segment{TCP: wire.TCP{Seq: uint32(r.seq), Ack: uint32(r.c.snd.nxt), Flags: wire.FlagACK | wire.FlagPSH, Window: 65535},
		Payload: make([]byte, thinSuper), GSOSize: thinMSS, Local: true}
}

// deliver passes a segment to the receiver 15 microseconds later, and returns how many segments the
// receiver sends. The application reads at once.
func (r *thinRig) deliver(s *Segment) int {
	r.wait(15 * Microsecond)
	r.seq = Seq(s.Seq) + Seq(s.seqLen())
	r.c.Segment(r.now, s)
	r.c.discard(r.now, r.c.rcv.buf.n)
	return r.pull()
}

// bulk delivers n super-segments and returns the number of ACKs.
func (r *thinRig) bulk(n int) (acks int) {
	for range n {
		acks += r.deliver(r.super())
	}
	return acks
}

// wait advances the time by d and runs the timers. It returns how many segments the receiver sends.
func (r *thinRig) wait(d Time) (n int) {
	end := r.now + d
	for {
		at, ok := r.c.Deadline()
		if !ok || at > end {
			break
		}
		r.now = max(r.now, at)
		r.c.Tick(r.now)
		n += r.pull()
	}
	r.now = end
	return n
}

// thinned makes a receiver that thins its ACKs, and that has just sent an ACK.
func thinned(t *testing.T) *thinRig {
	r := newThinRig(t, 20*Microsecond, nil)
	r.begin()
	return r
}

// begin delivers super-segments until the first probe has succeeded.
func (r *thinRig) begin() {
	for n := 0; r.c.rcv.thin.proved == 0; n++ {
		require.Less(r.t, n, 400)
		r.bulk(1)
	}
	require.Zero(r.t, r.c.rcv.unacked)
}

func TestLocalBulkDataHasAnACKForEach200KB(t *testing.T) {
	r := thinned(t)
	require.Equal(t, 25, r.bulk(100))
	require.Equal(t, 0, r.bulk(3))
	require.Less(t, int(r.c.rcv.unacked), thinBytes)
	require.Equal(t, 1, r.bulk(1))
}

func TestSlowStartHasAnACKForEachSuperSegment(t *testing.T) {
	r := newThinRig(t, 20*Microsecond, nil)
	n := 0
	for ; r.c.rcv.thin.run+thinSuper < 4*r.c.rcv.limit; n++ {
		require.Equal(t, 1, r.bulk(1))
	}
	require.GreaterOrEqual(t, (n+1)*thinSuper, 4*r.c.rcv.limit)
	// After a loss and after an idle time, the sender may be in slow start again.
	r.begin()
	s := r.super()
	s.Seq += thinMSS
	require.Equal(t, 1, r.deliver(s))
	require.False(t, r.c.slowStartOver())
	r.seq = r.c.rcv.nxt
	require.Equal(t, 1, r.deliver(&Segment{TCP: wire.TCP{Seq: uint32(r.seq), Ack: 2, Flags: wire.FlagACK, Window: 65535},
		Payload: make([]byte, thinMSS), Local: true}))
	r.seq = r.c.rcv.nxt
	require.Equal(t, 10, r.bulk(10))
	r.begin()
	require.Zero(t, r.bulk(3))
	r.wait(2 * Second)
	require.Equal(t, 10, r.bulk(10))
}

func TestADelayedACKOfThinningLeavesAfter1ms(t *testing.T) {
	r := thinned(t)
	require.Zero(t, r.bulk(1))
	first := r.now
	require.Zero(t, r.bulk(2))
	d, ok := r.c.Deadline()
	require.True(t, ok)
	require.Equal(t, first+thinDelay, d)
	r.now = d
	r.c.Tick(r.now)
	require.Equal(t, 1, r.pull())
	require.Equal(t, r.c.rcv.nxt, r.c.rcv.lastAck)
	r.wait(thinDelay) // the sender has not waited for the ACK
	// Data of our own carries the ACK earlier.
	require.Zero(t, r.bulk(2))
	require.Equal(t, 100, r.c.Write(r.now, make([]byte, 100)))
	require.Equal(t, 1, r.pull())
	require.Equal(t, r.c.rcv.nxt, r.c.rcv.lastAck)
	require.Zero(t, r.c.timers.ack)
}

func TestWhatNeedsAnACKAtOnceHasIt(t *testing.T) {
	for name, change := range map[string]func(r *thinRig, s *Segment){
		"a super-segment that was merged": func(r *thinRig, s *Segment) { s.Local = false },
		"a single segment of a wire":      func(r *thinRig, s *Segment) { s.Payload, s.GSOSize, s.Local = s.Payload[:thinMSS], 0, false },
		"a FIN":                           func(r *thinRig, s *Segment) { s.Flags |= wire.FlagFIN },
		"a gap":                           func(r *thinRig, s *Segment) { s.Seq += thinMSS },
		"a duplicate":                     func(r *thinRig, s *Segment) { s.Seq -= thinSuper },
		"a partial duplicate":             func(r *thinRig, s *Segment) { s.Seq -= thinMSS },
		"a keep-alive probe":              func(r *thinRig, s *Segment) { s.Seq -= 2*thinSuper + 1; s.Payload, s.GSOSize = nil, 0 },
		"congestion on an ECN path":       func(r *thinRig, s *Segment) { r.c.ecn.on, s.CE = true, true },
		"congestion that was seen before": func(r *thinRig, s *Segment) { r.c.ecn.on, r.c.ecn.echo = true, true },
		"data beyond the window":          func(r *thinRig, s *Segment) { r.c.rcv.edge = r.c.rcv.nxt + thinMSS },
		"a window of less than 200 KB":    func(r *thinRig, s *Segment) { r.c.rcv.edge = r.c.rcv.lastAck + thinBytes },
		"a window that limits the rate": func(r *thinRig, s *Segment) {
			left := int(r.c.rcv.edge-r.c.rcv.lastAck) - thinBytes - 2*thinSuper
			r.c.rcv.thin.rate = int(Time(left)*Millisecond/r.c.receiverLeastRTT()) + 100
		},
		"a round-trip time of more than 2ms": func(r *thinRig, s *Segment) { r.c.rcv.drs.rtt, r.c.rcv.drs.least, r.c.rtt.min = 3*thinRTT, 0, 0 },
	} {
		t.Run(name, func(t *testing.T) {
			r := thinned(t)
			require.Zero(t, r.bulk(2))
			s := r.super()
			change(r, s)
			require.Equal(t, 1, r.deliver(s))
			require.Zero(t, r.c.rcv.unacked)
		})
	}
	r := thinned(t)
	require.Zero(t, r.bulk(3), "without a change, no ACK is sent")
}

// In a bulk transfer, the end of each Write of the sender is a short segment. If its ACK were sent at once, the ACK of
// 200 KB would not come about.
func TestTheEndOfAWriteIsThinnedToo(t *testing.T) {
	for name, change := range map[string]func(s *Segment){
		"a super-segment with a short end": func(s *Segment) { s.Payload = s.Payload[:len(s.Payload)-1] },
		"a single segment":                 func(s *Segment) { s.Payload, s.GSOSize = s.Payload[:thinMSS], 0 },
		"a short segment":                  func(s *Segment) { s.Payload, s.GSOSize = s.Payload[:100], 0 },
	} {
		t.Run(name, func(t *testing.T) {
			r := thinned(t)
			require.Zero(t, r.bulk(2))
			s := r.super()
			change(s)
			require.Zero(t, r.deliver(s))
			require.Equal(t, 1, r.bulk(2), "when there are 200 KB")
		})
	}
}

func TestAFilledGapHasAnACKAtOnce(t *testing.T) {
	r := thinned(t)
	gap := r.super()
	r.seq += thinSuper
	require.Equal(t, 1, r.bulk(1))
	require.Equal(t, 1, r.deliver(gap))
	require.Equal(t, Seq(gap.Seq)+2*thinSuper, r.c.rcv.lastAck)
}

// A bridge with a network card passes on super-segments that GRO has merged from segments of a wire. They
// look like those of this machine, but the handshake does not.
func TestPeersBeyondAWireAreNotThinned(t *testing.T) {
	for name, change := range map[string]func(p *Params, s *Segment){
		"the whole handshake": func(_ *Params, s *Segment) { s.Local = false },
		"the SYN":             func(_ *Params, s *Segment) { s.Local = s.Local && s.Flags&wire.FlagSYN == 0 },
		"the ACK":             func(_ *Params, s *Segment) { s.Local = s.Local && s.Flags&wire.FlagSYN != 0 },
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, 300, newThinRig(t, 20*Microsecond, change).bulk(300))
		})
	}
	t.Run("a later segment", func(t *testing.T) {
		r := thinned(t)
		s := r.super()
		s.Payload, s.GSOSize, s.Local = s.Payload[:thinMSS], 0, false
		r.deliver(s)
		require.Equal(t, 300, r.bulk(300))
	})
	t.Run("a SYN cookie", func(t *testing.T) {
		// The SYN is made from the cookie, so only the ACK shows where the peer is.
		for _, local := range []bool{false, true} {
			r := newThinRig(t, 20*Microsecond, nil)
			syn := &Segment{TCP: wire.TCP{Seq: uint32(r.seq - 1), Flags: wire.FlagSYN, Window: 65535, MSS: thinMSS, HasWScale: true}}
			r.c = Conn{}
			r.c.AcceptCookie(r.now, Config{Params: &r.p, ISS: 1, MSS: thinMSS}, syn)
			r.c.Segment(r.now, &Segment{Local: local, TCP: wire.TCP{Seq: uint32(r.seq), Ack: 2, Flags: wire.FlagACK, Window: 65535}})
			require.Equal(t, Established, r.c.State())
			require.Equal(t, local, r.c.snd.origin == originLocal)
		}
	})
	t.Run("thinning is off", func(t *testing.T) {
		r := newThinRig(t, 20*Microsecond, func(p *Params, _ *Segment) { p.NoACKThinning = true })
		require.Equal(t, 300, r.bulk(300))
	})
}

func TestAReaderStillUpdatesTheWindow(t *testing.T) {
	r := thinned(t)
	for 2*r.c.window() > r.c.rcv.limit {
		r.now += 15 * Microsecond
		s := r.super()
		r.seq += thinSuper
		r.c.Segment(r.now, s) // the application does not read
		r.pull()
	}
	require.False(t, r.c.AckDue())
	r.c.discard(r.now, r.c.rcv.buf.n)
	require.True(t, r.c.AckDue())
	require.Equal(t, 1, r.pull())
}

// A sender whose congestion window or send buffer has room for less than thinBytes waits for each ACK.
func TestThinningStopsForASenderThatWaits(t *testing.T) {
	for name, lateness := range map[string]Time{"at once": 0, "though the timer is late": 900 * Microsecond} {
		t.Run(name, func(t *testing.T) {
			r := thinned(t)
			begin, stopped := r.now, Time(0)
			for r.now-begin < 10*Second {
				if r.bulk(2) == 0 {
					at := r.now
					d, ok := r.c.Deadline()
					require.True(t, ok)
					r.now = d + lateness
					r.c.Tick(r.now)
					require.Equal(t, 1, r.pull())
					stopped += r.now - at // the sender sends as soon as it has the ACK
				}
			}
			require.Greater(t, stopped, 10*Second/stallShare*9/10, "thinning is tried again")
			require.Less(t, stopped, 10*Second/stallShare+2*thinDelay)
		})
	}
}

func TestThinningGoesOnForASenderThatDoesNotWait(t *testing.T) {
	for name, pause := range map[string]func(r *thinRig){
		"it waits for the processor": func(r *thinRig) { r.wait(3 * Millisecond) },
		"it has no data":             func(r *thinRig) { r.wait(50 * Millisecond) },
	} {
		t.Run(name, func(t *testing.T) {
			r := thinned(t)
			acks := 0
			for range 200 {
				acks += r.bulk(82)
				pause(r)
			}
			require.Less(t, acks, 200*82*3/10)
			require.Zero(t, r.c.rcv.thin.debt)
		})
	}
}

func TestASlowSenderIsNotThinned(t *testing.T) {
	r := thinned(t)
	require.Less(t, r.bulk(100), 50)
	acks := 0
	for range 100 {
		r.wait(thinSuper * Millisecond / (minThinRate - 10_000))
		acks += r.bulk(1)
	}
	require.Greater(t, acks, 90)
}

func TestAHeldACKIsNoSignOfAReply(t *testing.T) {
	r := thinned(t)
	require.Zero(t, r.bulk(2))
	require.Equal(t, 100, r.c.Write(r.now, make([]byte, 100)))
	require.Equal(t, 1, r.pull())
	require.False(t, r.c.rcv.pingpong)
}

func TestAFINEndsTheDelayOfAHeldACK(t *testing.T) {
	r := thinned(t)
	require.Zero(t, r.bulk(2))
	r.c.rcv.pingpong = true
	require.Equal(t, 1, r.deliver(&Segment{TCP: wire.TCP{Seq: uint32(r.seq), Ack: uint32(r.c.snd.nxt),
		Flags: wire.FlagACK | wire.FlagFIN, Window: 65535}, Local: true}))
}
