package tcp

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/stack/wire"
)

func TestAGigabitOverATenthOfASecondFillsWithTheDefaults(t *testing.T) {
	l := bottleneck{rate: 1e9, rtt: 100 * Millisecond}
	l.queue = l.bdp()
	s := newNetsim(l, CUBIC, 1, 1)
	d := DefaultParams()
	s.params.RecvBufferMax, s.params.SendBufferMax = d.RecvBufferMax, d.SendBufferMax
	g, _ := s.measure(2*Second, 2*Second)
	require.Greater(t, g[0], 0.95*l.line())
}

func TestWhatIsNotAcceptedDoesNotChangeTheTimestampThatIsExpected(t *testing.T) {
	// RFC 5961 5.2: what acknowledges a number out of range "MUST be discarded". A
	// blind sender that hits the window would else have its timestamp believed, and
	// what the peer sends discarded by PAWS from then on.
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
			require.Zero(t, r.c.Info().Unacked)
		})
	}
}
