package inspect

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWhatLimitsAConnectionIsTold(t *testing.T) {
	// A sender with data that waits, and room in both windows and in the buffer.
	sends := Info{SndMSS: 1000, SndWnd: 50_000, SndCwnd: 10_000, SndBuf: 100_000, Unacked: 9500, InFlight: 9500, NotSent: 20_000, BytesAcked: 5000}
	gets := Info{RcvMSS: 1000, RcvWnd: 50_000, RcvBuf: 60_000, BytesReceived: 5000}
	for _, c := range []struct {
		want string
		of   Info
		f    func(i *Info)
	}{
		{limitCwnd, sends, func(*Info) {}},
		{limitCwnd, sends, func(i *Info) { i.SndCwnd = 20_000 }},
		{limitPacing, sends, func(i *Info) { i.SndCwnd, i.PacingRate = 20_000, 1 }},
		{limitRwnd, sends, func(i *Info) { i.SndWnd = 10_000 }},
		{limitPeerReads, sends, func(i *Info) { i.SndWnd, i.Unacked, i.BytesAcked = 0, 0, 0 }},
		{limitLoss, sends, func(i *Info) { i.Recovery = true }},
		{limitLoss, sends, func(i *Info) { i.Lost = 1000 }},
		{limitLoss, sends, func(i *Info) { i.Backoff, i.BytesAcked = 1, 0 }},
		{limitLoss, sends, func(i *Info) { i.Retrans = 4 }},
		{limitWrites, sends, func(i *Info) { i.NotSent = 0 }},
		{limitSndBuf, sends, func(i *Info) { i.NotSent, i.SndBuf = 0, 10_000 }},
		{limitIdle, sends, func(i *Info) { i.NotSent, i.Unacked = 0, 0 }},
		{limitPeer, gets, func(*Info) {}},
		{limitReads, gets, func(i *Info) { i.RecvQ = 30_000 }},
		{limitReads, gets, func(i *Info) { i.RecvQ, i.RcvWnd, i.BytesReceived = 100, 0, 0 }},
		{limitReads, gets, func(i *Info) { i.RecvQ, i.BytesReceived = 100, 0 }},
		{limitLossIn, gets, func(i *Info) { i.OutOfOrder = 1000 }},
		{limitOwnWindow, gets, func(i *Info) { i.Timestamps, i.RcvRTTS = true, 3.5 }},
		{limitPeer, gets, func(i *Info) { i.Timestamps, i.RcvRTTS = true, 2 }},
	} {
		i := c.of
		c.f(&i)
		require.Equal(t, c.want, limitedBy(tally{retrans: 3}, &i, 0.5), "%+v", i)
	}
}
