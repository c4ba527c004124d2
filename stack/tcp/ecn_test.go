package tcp

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/stack/wire"
)

// ecnPair returns an established connection between a and b. If ask is true, a offers ECN. There is no
// network: the caller passes the segments of each side to the other.
func ecnPair(t *testing.T, ask bool) (a, b *Conn, now Time) {
	pa, pb := DefaultParams(), DefaultParams()
	pa.ECN = ask
	a, b = new(Conn), new(Conn)
	now = Second
	a.Open(now, Config{Params: &pa, ISS: 100, MSS: 1460, NoDelay: true})
	var s Segment
	require.True(t, a.Next(now, &s))
	require.Equal(t, ask, s.Flags&(wire.FlagECE|wire.FlagCWR) == wire.FlagECE|wire.FlagCWR)
	b.Accept(now, Config{Params: &pb, ISS: 900, MSS: 1460, NoDelay: true}, &s)
	now += 10 * Millisecond
	require.True(t, b.Next(now, &s))
	require.Equal(t, ask, s.Flags&wire.FlagECE != 0, "RFC 3168 6.1.1: the SYN,ACK agrees")
	require.Zero(t, s.Flags&wire.FlagCWR)
	a.Segment(now, &s)
	require.True(t, a.Next(now, &s))
	require.Zero(t, s.Flags&(wire.FlagECE|wire.FlagCWR))
	b.Segment(now, &s)
	require.Equal(t, Established, b.State())
	return a, b, now
}

func TestCEReducesCwndOncePerWindowOfData(t *testing.T) {
	a, b, now := ecnPair(t, true)
	before := a.Info(0).SndCwnd
	a.Write(now, make([]byte, 20*a.MSS()))
	var s, ack Segment
	marks, echoes, cwr := 0, 0, 0
	for i := 0; a.Next(now, &s); i++ {
		require.True(t, s.ECT, "data is ECN-capable")
		s.CE = i == 2
		if s.CE {
			marks++
		}
		if s.Flags&wire.FlagCWR != 0 {
			cwr++
		}
		now += Millisecond
		b.Segment(now, &s)
		for b.Next(now, &ack) {
			require.False(t, ack.ECT, "RFC 3168 6.1.4: a pure acknowledgement is not ECN-capable")
			if ack.Flags&wire.FlagECE != 0 {
				echoes++
			}
			a.Segment(now, &ack)
		}
	}
	require.Equal(t, 1, marks)
	require.Greater(t, echoes, 0)
	require.Equal(t, 1, cwr, "RFC 3168 6.1.2: one reduction, and so one CWR, per window of data")
	require.Less(t, a.Info(0).SndSsthresh, before)
	require.Greater(t, a.Info(0).SndSsthresh, before/2, "CUBIC sets ssthresh to 0.7 cwnd (RFC 9438 4.6)")
	require.False(t, b.ecn.echo, "CWR has ended the echo")
}

func TestWithoutNegotiationNothingIsMarkedOrEchoed(t *testing.T) {
	a, b, now := ecnPair(t, false)
	a.Write(now, make([]byte, 3*a.MSS()))
	var s Segment
	for a.Next(now, &s) {
		require.False(t, s.ECT)
		s.CE = true // as a faulty router might do
		b.Segment(now, &s)
		for b.Next(now, &s) {
			require.Zero(t, s.Flags&wire.FlagECE)
			a.Segment(now, &s)
		}
	}
}

func TestARetransmissionIsNotECNCapable(t *testing.T) {
	a, _, now := ecnPair(t, true)
	a.Write(now, make([]byte, 100))
	var s Segment
	require.True(t, a.Next(now, &s))
	require.True(t, s.ECT)
	d, ok := a.Deadline()
	require.True(t, ok)
	a.Tick(d) // sends a tail loss probe
	require.True(t, a.Next(d, &s))
	require.False(t, s.ECT, "RFC 3168 6.1.5")
}
