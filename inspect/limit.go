package inspect

// The causes in Conn.LimitedBy.
const (
	limitIdle      = "idle"
	limitWrites    = "writes"
	limitSndBuf    = "sndbuf"
	limitRwnd      = "rwnd"
	limitPeerReads = "peer_reads"
	limitLoss      = "loss"
	limitCwnd      = "cwnd"
	limitPacing    = "pacing"
	limitReads     = "reads"
	limitOwnWindow = "own_window"
	limitLossIn    = "loss_in"
	limitPeer      = "peer"
)

// A tally is what a sample of a connection leaves for the next one.
type tally struct {
	in, out uint64 // bytes received and acknowledged
	retrans int    // segments
}

func tallyOf(i *Info) tally { return tally{i.BytesReceived, i.BytesAcked, i.Retrans} }

// limitedBy returns what limited a connection between two samples: was is from the first, and i, which is elapsed
// seconds later, is the second. It judges the direction in which more bytes were transferred.
func limitedBy(was tally, i *Info, elapsed float64) string {
	out, in := i.BytesAcked-was.out, i.BytesReceived-was.in
	sends := out > in
	if out == in {
		pending, holding := i.NotSent > 0 || i.Unacked > 0, i.RecvQ > 0 || i.OutOfOrder > 0
		sends = pending || !holding
	}
	if sends {
		return sendingLimit(was, i)
	}
	return receivingLimit(in, i, elapsed)
}

// sendingLimit returns what keeps this end from sending faster.
func sendingLimit(was tally, i *Info) string {
	room := i.SndWnd - i.Unacked // what the peer's window still takes
	switch {
	case i.NotSent == 0 && i.Unacked == 0:
		return limitIdle
	case i.NotSent == 0 && i.SndBuf > 0 && 10*i.Unacked >= 9*i.SndBuf:
		return limitSndBuf
	case i.NotSent == 0:
		return limitWrites
	case i.SndWnd < i.SndMSS && room <= 0:
		return limitPeerReads
	case i.Recovery || i.Lost > 0 || i.Backoff > 0 || i.Retrans > was.retrans:
		return limitLoss
	case room < i.SndMSS:
		return limitRwnd
	case i.InFlight+i.SndMSS > i.SndCwnd || i.PacingRate == 0:
		return limitCwnd
	}
	return limitPacing
}

// receivingLimit returns what keeps data from arriving faster. got is the number of bytes that have arrived.
func receivingLimit(got uint64, i *Info, elapsed float64) string {
	switch {
	case i.RecvQ > 0 && (i.RcvWnd < i.RcvMSS || 2*i.RecvQ >= i.RcvBuf):
		return limitReads
	case i.OutOfOrder > 0:
		return limitLossIn
	case got == 0 && i.RecvQ > 0:
		return limitReads
	case got == 0:
		return limitIdle
	// With timestamps the receiver knows the round trip, and what one carries shows whether it is a full window.
	case i.Timestamps && i.RcvRTTS > 0 && elapsed > 0 && float64(got)/elapsed*i.RcvRTTS >= 0.6*float64(i.RcvWnd):
		return limitOwnWindow
	}
	return limitPeer
}
