package tcp

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/stack/wire"
)

// A rig is a Conn with a peer that the test simulates. The methods take relative sequence numbers: ours
// are relative to ISS+1, and the peer's to IRS+1. The first byte of text therefore has the number 0 on
// both sides.
type rig struct {
	t    testing.TB
	c    Conn
	p    Params
	now  Time
	o    rigOptions
	peer uint32 // the peer's timestamp clock
	echo uint32 // the last timestamp that the Conn sent
}

// rigOptions describe a connection.
type rigOptions struct {
	modern     bool // timestamps, SACK and window scaling
	passive    bool // synReceived starts from a SYN of the peer
	zeroWindow bool // the receive buffer is full and the application does not read
	window     int  // window that the peer advertises, in bytes; default 2000
	mss        int  // default 100
	gso        int
	nagle      bool
	change     func(*Params)
}

const (
	rigISS    = Seq(0xfffffe00) // sequence numbers wrap early
	rigIRS    = Seq(0x7fffff00) // sequence numbers change sign early
	rigBuffer = 1000            // size of the receive buffer in bytes
	rigFlight = 300             // bytes in flight, in states that allow it
	rigScale  = 3               // the peer's window scale
	synNumber = ^Seq(0)         // the relative number of a SYN
)

// newRig makes a rig whose Conn is not open yet.
func newRig(t testing.TB, o rigOptions) *rig {
	if o.window == 0 {
		o.window = 2000
	}
	if o.mss == 0 {
		o.mss = 100
	}
	r := &rig{t: t, o: o, now: 1, p: DefaultParams(), peer: 5000}
	r.p.RecvBuffer, r.p.RecvBufferMax = rigBuffer, rigBuffer
	if o.modern {
		r.p.RecvBufferMax = 200_000 // gives a window scale of 2
	} else {
		r.p.NoSACK, r.p.NoTimestamps, r.p.NoWindowScale = true, true, true
	}
	if o.change != nil {
		o.change(&r.p)
	}
	return r
}

func (r *rig) config() Config {
	opt := 0
	if r.o.modern {
		opt = 12 // the timestamps option
	}
	return Config{Params: &r.p, ISS: rigISS, TSOffset: 0xfffffff0, MSS: r.o.mss + opt, GSO: r.o.gso, NoDelay: !r.o.nagle}
}

// segment returns a segment of the peer. It has the window and the timestamps that the peer would send.
func (r *rig) segment(flags wire.TCPFlags, seq, ack Seq, payload []byte) *Segment {
	s := &Segment{Payload: payload}
	s.Flags = flags
	s.Seq, s.Ack = uint32(rigIRS+1+seq), uint32(rigISS+1+ack)
	s.Window = uint16(r.o.window)
	if r.o.modern {
		s.HasTS, s.TSVal, s.TSEcr = true, r.peer, r.echo
		if flags&wire.FlagSYN == 0 {
			s.Window = uint16(r.o.window >> rigScale)
		} else {
			s.SACKPermitted, s.HasWScale, s.WScale = true, true, rigScale
		}
	}
	if flags&wire.FlagSYN != 0 {
		s.MSS = 8000
	}
	return s
}

// send passes a segment of the peer to the Conn.
func (r *rig) send(flags wire.TCPFlags, seq, ack Seq, payload []byte) {
	r.c.Segment(r.now, r.segment(flags, seq, ack, payload))
}

// pull returns the segments that the Conn sends now.
func (r *rig) pull() []Segment {
	r.t.Helper()
	var list []Segment
	var s Segment
	for r.c.Next(r.now, &s) {
		x := s
		x.Payload = append(append([]byte(nil), s.Payload...), s.Payload2...)
		x.Payload2 = nil
		r.echo = s.TSVal
		list = append(list, x)
		require.Less(r.t, len(list), 5000, "Next must return false at some time")
	}
	return list
}

// wait lets d pass, calls Tick at each deadline, and returns the segments that were sent.
func (r *rig) wait(d Time) []Segment {
	end := r.now + d
	list := r.pull()
	for {
		at, ok := r.c.Deadline()
		if !ok || at > end {
			break
		}
		r.now = max(r.now, at)
		r.c.Tick(r.now)
		list = append(list, r.pull()...)
	}
	r.now = end
	return list
}

// numbers returns the relative sequence numbers of the segments in list that have text.
func numbers(list []Segment) []int {
	var n []int
	for _, s := range list {
		if s.DataLen() > 0 {
			n = append(n, int(Seq(s.Seq)-rigISS-1))
		}
	}
	return n
}

// in fails the test unless the Conn is in the state want, and returns r.
func (r *rig) in(want State) *rig {
	r.t.Helper()
	require.Equal(r.t, want, r.c.State())
	return r
}

func synSent(t testing.TB, o rigOptions) *rig {
	r := newRig(t, o)
	r.c.Open(r.now, r.config())
	r.pull()
	r.now += 10 * Millisecond
	return r.in(SynSent)
}

func synReceived(t testing.TB, o rigOptions) *rig {
	if !o.passive {
		r := synSent(t, o)
		r.send(wire.FlagSYN, synNumber, 0, nil)
		r.pull()
		return r.in(SynReceived)
	}
	r := newRig(t, o)
	r.c.Accept(r.now, r.config(), r.segment(wire.FlagSYN, synNumber, 0, nil))
	r.pull()
	r.now += 10 * Millisecond
	return r.in(SynReceived)
}

// bare returns a connection in ESTABLISHED with nothing in flight.
func bare(t testing.TB, o rigOptions) *rig {
	r := synSent(t, o)
	r.send(wire.FlagSYN|wire.FlagACK, synNumber, 0, nil)
	r.pull()
	if o.zeroWindow {
		r.send(wire.FlagACK, 0, 0, make([]byte, rigBuffer))
		r.pull()
		require.Zero(t, r.c.window())
	}
	return r.in(Established)
}

// theirs returns the relative number of the peer's next byte.
func (r *rig) theirs() Seq { return r.c.rcv.nxt - rigIRS - 1 }

// established returns a connection in ESTABLISHED with rigFlight bytes in flight. The functions for the
// following states start from it.
func established(t testing.TB, o rigOptions) *rig {
	r := bare(t, o)
	require.Equal(t, rigFlight, r.c.Write(r.now, make([]byte, rigFlight)))
	r.pull()
	return r.in(Established)
}

func finWait1(t testing.TB, o rigOptions) *rig {
	r := established(t, o)
	r.c.CloseWrite(r.now)
	r.pull()
	return r.in(FinWait1)
}

func finWait2(t testing.TB, o rigOptions) *rig {
	r := finWait1(t, o)
	r.send(wire.FlagACK, r.theirs(), rigFlight+1, nil)
	r.pull()
	return r.in(FinWait2)
}

// peerFin passes the peer's FIN to the Conn.
func (r *rig) peerFin(ack Seq) {
	r.send(wire.FlagACK|wire.FlagFIN, r.theirs(), ack, nil)
	r.pull()
}

func closeWait(t testing.TB, o rigOptions) *rig {
	r := established(t, o)
	r.peerFin(0)
	return r.in(CloseWait)
}

func closing(t testing.TB, o rigOptions) *rig {
	r := finWait1(t, o)
	r.peerFin(0)
	return r.in(Closing)
}

func lastAck(t testing.TB, o rigOptions) *rig {
	r := closeWait(t, o)
	r.c.CloseWrite(r.now)
	r.pull()
	return r.in(LastAck)
}

func timeWait(t testing.TB, o rigOptions) *rig {
	r := finWait2(t, o)
	r.peerFin(rigFlight + 1)
	return r.in(TimeWait)
}
