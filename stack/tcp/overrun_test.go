package tcp

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/stack/wire"
)

// Two peers have each written more than the other's window, and neither has read. Both windows are
// closed, and both peers have more data to send. From this state, the test tries every sequence of
// actions up to a length. An action is a read, a change of memory pressure, the arrival or the loss of a
// segment, or the next timer. After each sequence, the network becomes perfect, both sides read, and all
// data must arrive.

// An overrun is a pair of connections that have overrun each other's windows.
type overrun struct {
	o     overrunOptions
	now   Time
	p     [2]Params
	full  [2]bool // the host is under memory pressure
	c     [2]Conn
	queue [2][]Segment // queue[i] holds the segments to host i
	wrote [2]int
	read  [2]int
}

type overrunOptions struct {
	name        string
	buffer, mss int
	more        int // bytes written beyond the window
	change      func(*Params)
	early       bool   // the data that fills the windows is still in flight
	actions     string // actions to try: see do
	depth       int    // length of the sequences
}

const overrunDelay = 10 * Millisecond // time that a read or an arrival takes

// newOverrun makes two connected peers, each of which writes o.more bytes beyond the other's window.
func newOverrun(o overrunOptions) *overrun {
	w := &overrun{o: o, now: 1}
	for i := range w.c {
		p := &w.p[i]
		*p = DefaultParams()
		p.RecvBuffer, p.RecvBufferMax = o.buffer, o.buffer
		p.SendBuffer, p.SendBufferMax = 4*o.buffer, 4*o.buffer
		p.Pressure = func() bool { return w.full[i] }
		if o.change != nil {
			o.change(p)
		}
	}
	config := func(i int) Config {
		return Config{Params: &w.p[i], ISS: Seq(-700 + 1<<31*i), TSOffset: 77, MSS: o.mss, NoDelay: true}
	}
	w.c[0].Open(w.now, config(0))
	w.pull(0)
	w.c[1].Accept(w.now, config(1), &w.queue[1][0])
	w.queue[1] = nil
	w.pull(1)
	w.settle()
	for i := range w.c {
		w.wrote[i] = w.c[i].Write(w.now, simPattern[:o.buffer+o.more])
		w.c[i].CloseWrite(w.now)
		w.pull(i)
	}
	if !o.early {
		w.settle()
	}
	return w
}

// settle delivers all segments, those to each host in the order of sending, until neither host sends more.
func (w *overrun) settle() {
	for n := 0; n < 10_000 && (w.do('1') || w.do('0')); n++ {
	}
}

// pull appends the segments that host i sends to the queue of the other host.
func (w *overrun) pull(i int) {
	var s Segment
	for w.c[i].Next(w.now, &s) {
		x := s
		x.Payload = append(append([]byte(nil), s.Payload...), s.Payload2...)
		x.Payload2 = nil
		w.queue[1-i] = append(w.queue[1-i], x)
	}
}

// do performs one action, and reports whether it was possible.
func (w *overrun) do(a byte) bool {
	switch a {
	case '0', '1': // a segment arrives at host 0 or 1
		i := int(a - '0')
		if len(w.queue[i]) == 0 {
			return false
		}
		s := w.queue[i][0]
		w.queue[i] = w.queue[i][1:]
		w.now += overrunDelay
		w.c[i].Segment(w.now, &s)
		w.pull(i)
	case 'x', 'y': // a segment to host 0 or 1 is lost
		i := int(a - 'x')
		if len(w.queue[i]) == 0 {
			return false
		}
		w.queue[i] = w.queue[i][1:]
	case 'a', 'b', 'A', 'B': // host 0 or 1 reads a third of a buffer (a, b) or a whole buffer (A, B)
		i := int(a|0x20) - 'a'
		n := w.o.buffer
		if a >= 'a' {
			n /= 3
		}
		buf := make([]byte, n)
		if n = w.c[i].Read(w.now, buf); n == 0 {
			return false
		}
		if string(buf[:n]) != string(simPattern[w.read[i]:w.read[i]+n]) {
			panic("other bytes than were written")
		}
		w.now += overrunDelay
		w.read[i] += n
		w.pull(i)
	case 'm', 'n': // memory pressure on host 0 or 1 begins or ends
		w.full[a-'m'] = !w.full[a-'m']
	case 't': // time passes until the next timer
		var next Time
		for i := range w.c {
			if d, ok := w.c[i].Deadline(); ok {
				next = earliest(next, d)
			}
		}
		if next == 0 {
			return false
		}
		w.now = max(w.now, next)
		for i := range w.c {
			if d, ok := w.c[i].Deadline(); ok && d <= w.now {
				w.c[i].Tick(w.now)
				w.pull(i)
			}
		}
	}
	return true
}

// finish ends memory pressure, delivers all segments, reads on both sides, and returns an error if not
// all data arrives.
func (w *overrun) finish() error {
	w.full = [2]bool{}
	for end := w.now + 600*Second; w.now < end; {
		w.settle()
		for i := range w.c {
			for w.do("AB"[i]) {
			}
			if err := checkConn(&w.c[i]); err != nil {
				return err
			}
		}
		if w.read[0] == w.wrote[1] && w.read[1] == w.wrote[0] && w.c[0].AtEOF() && w.c[1].AtEOF() {
			return nil
		}
		if w.c[0].Err() != ErrNone || w.c[1].Err() != ErrNone {
			return fmt.Errorf("ended with %v and %v", w.c[0].Err(), w.c[1].Err())
		}
		if len(w.queue[0])+len(w.queue[1]) == 0 && !w.do('t') {
			return fmt.Errorf("nothing happens any more")
		}
	}
	return fmt.Errorf("0 read %d of %d, EOF %v; 1 read %d of %d, EOF %v; after ten minutes",
		w.read[0], w.wrote[1], w.c[0].AtEOF(), w.read[1], w.wrote[0], w.c[1].AtEOF())
}

// run performs the actions of a string, and reports whether all of them were possible.
func (w *overrun) run(actions string) bool {
	for i := range len(actions) {
		if !w.do(actions[i]) {
			return false
		}
	}
	return true
}

var overruns = []overrunOptions{
	{name: "plain", buffer: 1000, mss: 100, more: 500, actions: "01xyaAbBt", depth: 5,
		change: func(p *Params) { p.NoSACK, p.NoTimestamps, p.NoWindowScale = true, true, true }},
	{name: "only the FIN waits", buffer: 1000, mss: 100, more: 0, actions: "01xyABt", depth: 7},
	{name: "windows are rounded", buffer: 1000, mss: 100, more: 700, actions: "01xyaAbBt", depth: 5,
		change: func(p *Params) { p.RecvBufferMax = 4 << 20 }}, // a window scale with a unit of 64
	{name: "memory is short", buffer: 30_000, mss: 8000, more: 20_000, actions: "01xyaAbBmnt", depth: 4,
		change: func(p *Params) { p.NoWindowScale = true }},
	{name: "memory gets short early", buffer: 30_000, mss: 8000, more: 20_000, actions: "01xyaAbBmnt", depth: 4, early: true},
}

// RFC 9293 3.8.6: "a sending TCP peer MUST be robust against window shrinking"
// (MUST-34), and 3.8.6.1: "This mechanism is essential to guarantee that, when either
// TCP peer has a zero window, the reopening of the window will be reliably reported
// to the other."
func TestPeersThatOverrunEachOtherGoOn(t *testing.T) {
	for _, o := range overruns {
		t.Run(o.name, func(t *testing.T) {
			if !full(t) {
				o.depth--
			}
			count := 0
			var try func(done string)
			try = func(done string) {
				w := newOverrun(o)
				if !w.run(done) || t.Failed() {
					return // the last action was impossible, so the shorter sequence has the same result
				}
				count++
				if err := w.finish(); err != nil {
					t.Errorf("after %q: %v\n%+v\n%+v", done, err, w.c[0].Info(0), w.c[1].Info(0))
					return
				}
				if len(done) < o.depth {
					for i := range len(o.actions) {
						try(done + o.actions[i:i+1])
					}
				}
			}
			try("")
			t.Logf("%d orders", count)
			require.Greater(t, count, 100)
		})
	}
}

// RFC 9293 3.8.6: "a sending TCP peer MUST be robust against window shrinking" (MUST-34). Both peers
// shrink their windows, and each learns that the other did. Later a delayed copy arrives at each peer,
// which accepts data beyond the shrunk window. The acknowledgements of that data are lost. Each peer
// then sends from a sequence number that the other peer has already received.
func TestPeersThatBothShrinkHearEachOther(t *testing.T) {
	w := newOverrun(overrunOptions{buffer: 30_000, mss: 8000, more: 20_000, early: true, change: func(p *Params) { p.NoWindowScale = true }})
	w.full = [2]bool{true, true}
	var late, shrunk [2]Segment
	for range 2 { // the second segment does not fit in the shrunk window
		for i := range w.c {
			late[i] = w.queue[i][0]
			require.True(t, w.do("01"[i]))
			q := w.queue[1-i]
			shrunk[1-i] = q[len(q)-1]
		}
	}
	require.Zero(t, shrunk[0].Window)
	require.Zero(t, shrunk[1].Window)
	w.full = [2]bool{}
	for i := range w.c {
		require.True(t, w.do("AB"[i]))
		w.queue[i] = []Segment{late[i], shrunk[i]} // the other segments are lost
	}
	require.True(t, w.run("01"))
	for i := range w.c {
		require.Less(t, Seq(shrunk[1-i].Ack), w.c[i].rcv.nxt, "it has received more than it acknowledged")
		w.queue[i] = w.queue[i][:1]
	}
	require.True(t, w.run("01"))
	require.True(t, w.c[0].shut() && w.c[1].shut())
	require.NoError(t, w.finish())
}

// RFC 7323 2.4: "The receiver MUST honor, as in window, any segment that would have
// been in window for any <ACK> sent by the receiver."
func TestSegmentsInAnEarlierWindowAreAccepted(t *testing.T) {
	full := false
	r := established(t, rigOptions{change: func(p *Params) {
		p.RecvBuffer, p.RecvBufferMax = 40_000, 40_000
		p.Pressure = func() bool { return full }
	}})
	full = true
	r.send(wire.FlagACK, 0, 0, make([]byte, 30_000)) // 8 KiB are accepted
	r.pull()
	require.Equal(t, minBuffer, r.c.Readable())
	require.Zero(t, r.c.window())
	r.c.Deactivate(r.now + Second)
	r.send(wire.FlagACK, 40_000, 100, nil) // begins at the edge that was advertised first
	require.Equal(t, rigFlight-100, r.c.Unacked())
	require.Empty(t, r.pull())
	r.send(wire.FlagACK, 40_001, 200, nil)
	require.Equal(t, rigFlight-100, r.c.Unacked(), "the ACK number is beyond every window")
	require.Len(t, r.pull(), 1)
	r.send(wire.FlagRST, 39_999, 0, nil)
	require.Len(t, r.pull(), 1, "a challenge ACK")
	r.send(wire.FlagACK, minBuffer, 150, make([]byte, 100))
	require.Equal(t, minBuffer, r.c.Readable(), "but its text is not stored")
	require.Equal(t, rigFlight-150, r.c.Unacked())
}
