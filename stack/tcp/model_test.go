package tcp

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/stack/wire"
)

// The model computes what RFC 9293 says that a segment does to a connection. It follows the RFC section
// by section, without regard to speed. The test compares it with Conn for every state, set of flags,
// position of the sequence number, position of the acknowledgement number, and length.

// A tcb is the state of a connection that section 3.10.7 needs.
type tcb struct {
	state         State
	passive       bool
	iss, una, nxt Seq
	wnd, maxWnd   uint32
	wl1, wl2      Seq
	irs, rcvNxt   Seq
	rcvWnd        int
	finSent       bool // nxt-1 is our FIN
	scale         uint8
	err           Err
	answer        string // what the segment makes the Conn send: "", "ACK", "SYN,ACK" or "RST <seq>"
	delivered     int    // bytes of text delivered to the user
	restart       bool   // the 2 MSL timer restarts
	afterFIN      bool   // the segment reached text processing after the peer's FIN

	// Only deviations use these fields.
	lastAck, farEdge Seq  // our last acknowledgement, and the right edge of the widest window ever advertised
	admit, finBeyond bool // m.first accepts any segment; a FIN may have the first number after the window
}

// tcbOf returns the model's state for a Conn.
func tcbOf(c *Conn) tcb {
	return tcb{
		state: c.state, passive: c.passive, iss: c.snd.iss, una: c.snd.una, nxt: c.snd.nxt,
		wnd: c.snd.wnd, maxWnd: c.snd.maxWnd, wl1: c.snd.wl1, wl2: c.snd.wl2,
		irs: c.rcv.irs, rcvNxt: c.rcv.nxt, rcvWnd: c.window(), finSent: c.snd.finSent, scale: c.snd.scale,
		lastAck: c.rcv.lastAck, farEdge: c.farEdge(),
	}
}

// A deviation is a rule in which Conn deliberately differs from the letter of RFC 9293. If applies
// reports true for the state before the segment, change corrects the result m of the model.
type deviation struct {
	reason  string
	applies func(m *tcb, s *Segment) bool
	change  func(before, m *tcb, s *Segment)
}

var deviations = []deviation{
	{
		reason: "A repeated SYN in SYN-RECEIVED shows that our SYN,ACK was lost, so the Conn sends the SYN,ACK again. " +
			"3.10.7.4 would send an ACK, which a peer in SYN-SENT answers with a RST.",
		applies: func(m *tcb, s *Segment) bool {
			return m.state == SynReceived && Seq(s.Seq) == m.irs && s.has(wire.FlagSYN) && !s.has(wire.FlagACK|wire.FlagRST)
		},
		change: func(before, m *tcb, _ *Segment) { *m = *before; m.answer = "SYN,ACK" },
	},
	{
		reason: "Another SYN in the window ends a connection in SYN-RECEIVED. As on Linux, a RST tells the peer at once.",
		applies: func(m *tcb, s *Segment) bool {
			return m.state == SynReceived && m.passive && s.has(wire.FlagSYN) && !s.has(wire.FlagRST)
		},
		change: func(before, m *tcb, s *Segment) {
			switch {
			case m.state != Closed: // the SYN was not in the window
			case s.has(wire.FlagACK):
				m.answer = fmt.Sprint("RST ", s.Ack)
			default:
				m.answer = fmt.Sprintf("%v seq 0 ack %d", wire.FlagRST|wire.FlagACK, Seq(s.Seq)+Seq(s.seqLen()))
			}
		},
	},
	{
		reason: "A SYN,ACK at IRS in SYN-RECEIVED after an active open is the other half of a simultaneous open. The Conn first trims " +
			"its SYN, which lies before the window. 3.10.7.4 would answer the segment and wait for another ACK.",
		applies: func(m *tcb, s *Segment) bool {
			const flags = wire.FlagSYN | wire.FlagACK | wire.FlagRST
			return m.state == SynReceived && !m.passive && Seq(s.Seq) == m.irs && s.Flags&flags == wire.FlagSYN|wire.FlagACK
		},
		change: func(before, m *tcb, s *Segment) {
			*m = *before
			x := *s
			x.Flags &^= wire.FlagSYN
			x.Seq++
			// RFC 7323 2.2: the window of a <SYN,ACK> "MUST NOT be scaled".
			m.scale = 0
			m.finBeyond = true // see the deviation for a FIN after the window
			m.arrives(&x)
			m.scale = before.scale
		},
	},
	{
		reason: "A segment is accepted from the last acknowledgement that we sent, which its sender may not have received, up to the " +
			"right edge of the widest window that was ever advertised (RFC 7323 2.4). With table 6, the ACKs of a peer that has " +
			"filled the window are ignored. If both peers have filled the windows, each ignores the other for ever.",
		applies: func(m *tcb, s *Segment) bool {
			seq, n := Seq(s.Seq), s.seqLen()
			from := m.lastAck
			if n > 0 {
				from = m.rcvNxt - Seq(n) + 1 // the last number of the segment is RCV.NXT
			}
			return m.state != SynSent && s.has(wire.FlagACK) && !s.has(wire.FlagRST|wire.FlagSYN) &&
				from.LessEq(seq) && seq.LessEq(m.farEdge)
		},
		change: func(before, m *tcb, s *Segment) { m.again(before, s, func() { m.admit = true }) },
	},
	{
		reason: "A FIN takes no room in the buffer, so as on Linux it may have the first number after the window. Otherwise a " +
			"connection with a closed window would stay open until the application reads.",
		applies: func(m *tcb, s *Segment) bool {
			return s.has(wire.FlagFIN) && !s.has(wire.FlagSYN) && Seq(s.Seq)+Seq(s.DataLen()) == m.rcvNxt+Seq(m.rcvWnd)
		},
		change: func(before, m *tcb, s *Segment) { m.again(before, s, func() { m.finBeyond = true }) },
	},
	{
		reason: "A segment that advances SND.UNA is the newest, so its window counts even if its number is less than SND.WL1, as the " +
			"number of a retransmission is. SND.WND counts from SND.UNA, so the old SND.WND would be too large.",
		applies: func(m *tcb, s *Segment) bool { return m.state != SynSent && Seq(s.Seq).Less(m.wl1) },
		change: func(before, m *tcb, s *Segment) {
			if m.una != before.una {
				m.wnd, m.wl1, m.wl2 = uint32(s.Window)<<m.scale, Seq(s.Seq), Seq(s.Ack)
			}
		},
	},
	{
		reason:  "A RST is judged by its number, whatever text it has (MUST-66, SHLD-2). The first step would drop a RST with text if the window is closed.",
		applies: func(m *tcb, s *Segment) bool { return m.state != SynSent && s.has(wire.FlagRST) },
		change: func(before, m *tcb, s *Segment) {
			*m = *before
			m.second(s)
		},
	},
	{
		reason: "A RST outside the window is dropped. If it is within the widest window that was ever advertised, it gets a challenge ACK instead.",
		applies: func(m *tcb, s *Segment) bool {
			return m.state != SynSent && s.has(wire.FlagRST) && m.rcvNxt.Less(Seq(s.Seq)) && Seq(s.Seq).Less(m.farEdge)
		},
		change: func(_, m *tcb, _ *Segment) { m.answer = "ACK" },
	},
	{
		reason: "macOS sends a RST with the number of the FIN that it has just sent, and ignores challenge ACKs. As on Linux, such a RST ends the connection.",
		applies: func(m *tcb, s *Segment) bool {
			return (m.state == CloseWait || m.state == Closing || m.state == LastAck) && s.has(wire.FlagRST) && Seq(s.Seq)+1 == m.rcvNxt
		},
		change: func(_, m *tcb, s *Segment) {
			x := *s
			x.Seq++
			m.second(&x)
		},
	},
	{
		reason: "No text and no other FIN can follow the peer's FIN. 3.10.7.4 ignores them; the Conn answers with an ACK, which tells the " +
			"peer our numbers. The second FIN does not move RCV.NXT and does not restart TIME-WAIT.",
		applies: func(m *tcb, s *Segment) bool {
			return m.afterFIN && (s.DataLen() > 0 || s.has(wire.FlagFIN))
		},
		change: func(before, m *tcb, _ *Segment) {
			m.answer, m.restart = "ACK", m.restart && before.state != TimeWait
		},
	},
	{
		reason: "A retransmitted FIN in TIME-WAIT lies before the window. The first step of 3.10.7.4 drops it, although " +
			"its fifth step is meant to restart the 2 MSL timeout for it.",
		applies: func(m *tcb, s *Segment) bool {
			return m.state == TimeWait && s.has(wire.FlagFIN) && s.has(wire.FlagACK) && !s.has(wire.FlagRST) && Seq(s.Seq)+Seq(s.seqLen()) == m.rcvNxt
		},
		change: func(_, m *tcb, _ *Segment) { m.restart = true },
	},
	{
		reason: "An ACK in SYN-SENT of a number that was never sent comes from a peer that still has an old connection. The RST ends " +
			"the old connection. As on Linux, the SYN is sent again after the RST, once.",
		applies: func(m *tcb, s *Segment) bool {
			return m.state == SynSent && s.has(wire.FlagACK) && !s.has(wire.FlagRST) &&
				(Seq(s.Ack).LessEq(m.iss) || m.nxt.Less(Seq(s.Ack)))
		},
		change: func(_, m *tcb, _ *Segment) { m.answer += fmt.Sprintf("SYN seq %d ack 0", m.iss) },
	},
}

// again restores m to before, calls set to change m, and processes the segment s again. m keeps admit
// and finBeyond, which an earlier deviation may have set.
func (m *tcb) again(before *tcb, s *Segment, set func()) {
	admit, beyond := m.admit, m.finBeyond
	*m = *before
	m.admit, m.finBeyond = admit, beyond
	set()
	m.arrives(s)
}

// arrives processes the segment s as SEGMENT ARRIVES of RFC 9293 3.10.7 does, for the states of a Conn.
func (m *tcb) arrives(s *Segment) {
	if m.state == SynSent {
		m.arrivesSynSent(s)
		return
	}
	for _, step := range []func(*Segment) bool{m.first, m.second, m.fourth, m.fifth, m.seventh} {
		if !step(s) {
			return
		}
	}
	m.eighth(s)
}

// arrivesSynSent processes a segment in SYN-SENT: RFC 9293 3.10.7.3.
func (m *tcb) arrivesSynSent(s *Segment) {
	seq, ack := Seq(s.Seq), Seq(s.Ack)
	acceptable := false
	// "First, check the ACK bit:"
	if s.has(wire.FlagACK) {
		// "If SEG.ACK =< ISS or SEG.ACK > SND.NXT, send a reset (unless the RST
		// bit is set, if so drop the segment and return) <SEQ=SEG.ACK><CTL=RST>
		// and discard the segment. Return."
		if ack.LessEq(m.iss) || m.nxt.Less(ack) {
			if !s.has(wire.FlagRST) {
				m.answer = fmt.Sprint("RST ", s.Ack)
			}
			return
		}
		// "If SND.UNA < SEG.ACK =< SND.NXT, then the ACK is acceptable."
		acceptable = m.una.Less(ack) && ack.LessEq(m.nxt)
	}
	// "Second, check the RST bit: [...] If the ACK was acceptable, then signal
	// to the user "error: connection reset", drop the segment, enter CLOSED
	// state, delete TCB, and return. Otherwise (no ACK), drop the segment and
	// return."
	if s.has(wire.FlagRST) {
		if acceptable {
			m.state, m.err = Closed, ErrRefused
		}
		return
	}
	// "Third, check the security": there is none.
	// "Fourth, check the SYN bit: [...] If the SYN bit is on [...] then RCV.NXT is
	// set to SEG.SEQ+1, IRS is set to SEG.SEQ. SND.UNA should be advanced to
	// equal SEG.ACK (if there is an ACK)".
	if s.has(wire.FlagSYN) {
		m.irs, m.rcvNxt, m.rcvWnd = seq, seq+1, rigBuffer
		// RFC 7323 2.2: "The window field in a segment where the SYN bit is set
		// [...] MUST NOT be scaled."
		m.wnd, m.wl1, m.wl2 = uint32(s.Window), seq, ack
		text := *s
		text.Seq++
		if acceptable {
			m.una = ack
		}
		// "If SND.UNA > ISS (our SYN has been ACKed), change the connection state
		// to ESTABLISHED, form an ACK segment <SEQ=SND.NXT><ACK=RCV.NXT><CTL=ACK>
		// and send it. [...] If there are other controls or text in the segment,
		// then continue processing at the sixth step".
		if m.iss.Less(m.una) {
			m.state, m.answer = Established, "ACK"
			m.seventh(&text)
			m.eighth(&text)
			return
		}
		// "Otherwise, enter SYN-RECEIVED, form a SYN,ACK segment and send it. [...]
		// If there are other controls or text in the segment, queue them for
		// processing after the ESTABLISHED state has been reached". The SYN,ACK
		// acknowledges the queued text, so the model processes it at once.
		m.state = Established
		m.seventh(&text)
		m.eighth(&text)
		m.state, m.answer = SynReceived, "SYN,ACK"
	}
	// "Fifth, if neither of the SYN or RST bits is set, then drop the segment
	// and return."
}

// first: "First, check sequence number", with table 6 of 3.4.
func (m *tcb) first(s *Segment) bool {
	seq, n := Seq(s.Seq), s.seqLen()
	last := seq + Seq(n) - 1
	inWindow := func(x Seq) bool { // RCV.NXT =< x < RCV.NXT+RCV.WND
		return m.rcvNxt.LessEq(x) && x.Less(m.rcvNxt+Seq(m.rcvWnd))
	}
	acceptable := m.admit
	switch {
	case acceptable:
	case n == 0 && m.rcvWnd == 0:
		acceptable = seq == m.rcvNxt
	case n == 0:
		acceptable = inWindow(seq)
	case m.rcvWnd == 0:
		acceptable = false
	default:
		acceptable = inWindow(seq) || inWindow(last)
	}
	if acceptable {
		return true
	}
	// "If an incoming segment is not acceptable, an acknowledgment should be
	// sent in reply (unless the RST bit is set, if so drop the segment and
	// return): <SEQ=SND.NXT><ACK=RCV.NXT><CTL=ACK>".
	if !s.has(wire.FlagRST) {
		m.answer = "ACK"
	}
	return false
}

// second: "Second, check the RST bit", with RFC 5961 section 3.
func (m *tcb) second(s *Segment) bool {
	if !s.has(wire.FlagRST) {
		return true
	}
	seq := Seq(s.Seq)
	switch {
	// "1) If the RST bit is set and the sequence number is outside the current
	// receive window, silently drop the segment."
	case seq != m.rcvNxt && (seq.Less(m.rcvNxt) || !seq.Less(m.rcvNxt+Seq(m.rcvWnd))):
	// "2) If the RST bit is set and the sequence number exactly matches the next
	// expected sequence number (RCV.NXT), then TCP endpoints MUST reset the
	// connection in the manner prescribed below".
	case seq == m.rcvNxt:
		switch m.state {
		case SynReceived:
			// "return this connection to the LISTEN state" or "the connection was
			// refused; signal the user". A Conn enters CLOSED in both cases.
			m.err = ErrRefused
		case Established, FinWait1, FinWait2:
			m.err = ErrReset
		case CloseWait:
			m.err = ErrPipe // the peer's FIN was received before: Linux signals EPIPE instead of ECONNRESET
		}
		m.state = Closed
	// "3) If the RST bit is set and the sequence number does not exactly match
	// the next expected sequence value, yet is within the current receive
	// window, TCP endpoints MUST send an acknowledgment (challenge ACK)".
	default:
		m.answer = "ACK"
	}
	return false
}

// fourth: "Fourth, check the SYN bit".
func (m *tcb) fourth(s *Segment) bool {
	if !s.has(wire.FlagSYN) {
		return true
	}
	// "SYN-RECEIVED STATE: If the connection was initiated with a passive OPEN,
	// then return this connection to the LISTEN state and return. Otherwise,
	// handle per the directions for synchronized states below."
	if m.state == SynReceived && m.passive {
		m.state = Closed
		return false
	}
	// "RFC 5961 recommends that in these synchronized states, if the SYN bit is
	// set, irrespective of the sequence number, TCP endpoints MUST send a
	// "challenge ACK" to the remote peer".
	m.answer = "ACK"
	return false
}

// fifth: "Fifth, check the ACK field".
func (m *tcb) fifth(s *Segment) bool {
	// "if the ACK bit is off, drop the segment and return."
	if !s.has(wire.FlagACK) {
		return false
	}
	seq, ack := Seq(s.Seq), Seq(s.Ack)
	if m.state == SynReceived {
		// "If SND.UNA < SEG.ACK =< SND.NXT, then enter ESTABLISHED state and
		// continue processing with the variables below set to: SND.WND <- SEG.WND,
		// SND.WL1 <- SEG.SEQ, SND.WL2 <- SEG.ACK. If the segment acknowledgment is
		// not acceptable, form a reset segment <SEQ=SEG.ACK><CTL=RST> and send it."
		if !m.una.Less(ack) || m.nxt.Less(ack) {
			m.answer = fmt.Sprint("RST ", s.Ack)
			return false
		}
		m.state = Established
		m.wnd, m.wl1, m.wl2 = uint32(s.Window)<<m.scale, seq, ack
		m.maxWnd = max(m.maxWnd, m.wnd)
	}
	// "[RFC 5961 section 5: the] ACK value is considered acceptable only if it is
	// in the range of ((SND.UNA - MAX.SND.WND) =< SEG.ACK =< SND.NXT). All
	// incoming segments whose ACK value doesn't satisfy the above condition MUST
	// be discarded and an ACK sent back."
	if ack.Less(m.una-Seq(m.maxWnd)) || m.nxt.Less(ack) {
		m.answer = "ACK"
		return false
	}
	// "If SND.UNA < SEG.ACK =< SND.NXT, then set SND.UNA <- SEG.ACK. [...] If the
	// ACK is a duplicate (SEG.ACK =< SND.UNA), it can be ignored."
	if m.una.Less(ack) {
		m.una = ack
	}
	// "If SND.UNA =< SEG.ACK =< SND.NXT, the send window should be updated. If
	// (SND.WL1 < SEG.SEQ or (SND.WL1 = SEG.SEQ and SND.WL2 =< SEG.ACK)), set
	// SND.WND <- SEG.WND, set SND.WL1 <- SEG.SEQ, and set SND.WL2 <- SEG.ACK."
	if m.una.LessEq(ack) && ack.LessEq(m.nxt) && (m.wl1.Less(seq) || m.wl1 == seq && m.wl2.LessEq(ack)) {
		m.wnd, m.wl1, m.wl2 = uint32(s.Window)<<m.scale, seq, ack
	}
	finAcked := m.finSent && m.una == m.nxt
	switch m.state {
	case FinWait1:
		// "if the FIN segment is now acknowledged, then enter FIN-WAIT-2 and
		// continue processing in that state."
		if finAcked {
			m.state = FinWait2
		}
	case Closing:
		// "if the ACK acknowledges our FIN, then enter the TIME-WAIT state;
		// otherwise, ignore the segment."
		if finAcked {
			m.state, m.restart = TimeWait, true
		}
	case LastAck:
		// "If our FIN is now acknowledged, delete the TCB, enter the CLOSED
		// state, and return."
		if finAcked {
			m.state = Closed
			return false
		}
	}
	return true
}

// seventh: "Seventh, process the segment text". The model omits the sixth step, because the URG bit
// changes no state.
func (m *tcb) seventh(s *Segment) bool {
	switch m.state {
	case Established, FinWait1, FinWait2:
	default:
		// "This should not occur since a FIN has been received from the remote
		// side. Ignore the segment text."
		m.afterFIN = true
		return true
	}
	seq, n := Seq(s.Seq), s.DataLen()
	if n == 0 {
		return true
	}
	// "In the following it is assumed that the segment is the idealized segment
	// that begins at RCV.NXT and does not exceed the window. One could tailor
	// actual segments to fit this assumption by trimming off any portions that
	// lie outside the window [...] and only processing further if the segment
	// then begins at RCV.NXT. Segments with higher beginning sequence numbers
	// SHOULD be held for later processing."
	if seq.LessEq(m.rcvNxt) {
		taken := min(max(int(int32(seq+Seq(n)-m.rcvNxt)), 0), m.rcvWnd)
		m.delivered += taken
		m.rcvNxt += Seq(taken)
		m.rcvWnd -= taken
	}
	// "Send an acknowledgment of the form: <SEQ=SND.NXT><ACK=RCV.NXT><CTL=ACK>".
	m.answer = "ACK"
	return true
}

// eighth: "Eighth, check the FIN bit".
func (m *tcb) eighth(s *Segment) {
	if !s.has(wire.FlagFIN) {
		return
	}
	if m.afterFIN {
		// "CLOSE-WAIT: Remain in the CLOSE-WAIT state", and so on; "TIME-WAIT:
		// Remain in the TIME-WAIT state. Restart the 2 MSL time-wait timeout."
		m.restart = m.restart || m.state == TimeWait
		return
	}
	m.answer = "ACK"
	// A FIN that does not follow the received text is ignored: text before it is missing, or was trimmed
	// because it lies beyond the window. Nor is a FIN accepted with a closed window.
	if fin := Seq(s.Seq) + Seq(s.DataLen()); fin != m.rcvNxt || m.rcvWnd == 0 && !m.finBeyond {
		return
	}
	// "If the FIN bit is set, signal the user "connection closing" [...], advance
	// RCV.NXT over the FIN, and send an acknowledgment for the FIN."
	m.rcvNxt++
	m.rcvWnd--
	switch m.state {
	case Established:
		m.state = CloseWait
	case FinWait1:
		// "If our FIN has been ACKed (perhaps in this segment), then enter TIME-WAIT [...]; otherwise,
		// enter the CLOSING state." Our FIN is not acknowledged here: fifth would have entered FIN-WAIT-2.
		m.state = Closing
	case FinWait2:
		m.state, m.restart = TimeWait, true
	}
}

// A modelCase is a segment to test in a state.
type modelCase struct {
	flags    wire.TCPFlags
	seq, ack Seq // absolute numbers
	n        int
}

var modelText = func() []byte {
	b := make([]byte, rigBuffer+100)
	for i := range b {
		b[i] = byte(i*7 + 1)
	}
	return b
}()

// modelCases calls run for each segment to test in the state m. If brief is true, it omits segments that
// are similar to others.
func modelCases(m tcb, brief bool, run func(modelCase)) {
	w := Seq(m.rcvWnd)
	seqs := []Seq{
		m.rcvNxt - 1<<30, m.rcvNxt - w - 1, m.irs, m.rcvNxt - 5, m.rcvNxt - 1, m.rcvNxt, m.rcvNxt + 1,
		m.rcvNxt + w/2, m.rcvNxt + w - 1, m.rcvNxt + w, m.rcvNxt + w + 1, m.rcvNxt + 1<<30,
	}
	acks := []Seq{
		m.una - 1<<30, m.una - Seq(m.maxWnd) - 1, m.una - Seq(m.maxWnd), m.una - 1, m.una, m.una + 1,
		m.una + 150, m.nxt - 1, m.nxt, m.nxt + 1, m.nxt + 1<<30,
	}
	lengths := []int{0, 1, 5, 10, int(w), int(w) + 1}
	if w < 2 {
		lengths = lengths[:4]
	}
	for flags := range wire.TCPFlags(64) {
		few, hasACK := flags&(wire.FlagPSH|wire.FlagURG) != 0, flags&wire.FlagACK != 0
		for i, seq := range seqs {
			for j, ack := range acks {
				for k, n := range lengths {
					switch {
					case !hasACK && j > 0:
						// The acknowledgement number has no meaning.
					case few && (i < 4 || hasACK && j < 4 || k == 1 || k == 2):
						// PSH and URG change nothing, so fewer combinations suffice.
					case brief && (k == 1 || k == 2 || i == 2 || i == 10 || hasACK && (j == 0 || j == 10)):
						// A brief run omits numbers and lengths that are similar to others.
					default:
						run(modelCase{flags, seq, ack, n})
					}
				}
			}
		}
	}
}

// try passes the segment of k to a Conn and to the model, and compares the results.
func try(t *testing.T, r *rig, k modelCase) {
	c := &r.c
	readable := c.Readable()
	before := tcbOf(c)
	s := r.segment(k.flags, k.seq-rigIRS-1, k.ack-rigISS-1, modelText[:k.n])
	s.Window += 8 // differs from the previous window
	want := before
	want.arrives(s)
	for _, d := range deviations {
		at := before
		at.afterFIN = want.afterFIN
		if d.applies(&at, s) {
			d.change(&before, &want, s)
		}
	}
	wait := c.timers.wait
	r.now += Millisecond
	c.Segment(r.now, s)

	got := tcbOf(c)
	got.err = c.err
	got.restart = c.timers.wait != wait && c.state == TimeWait
	got.delivered = c.Readable() - readable
	for _, out := range r.pull() {
		got.answer += describe(c, &out)
	}
	if at := c.timers.ack; at != 0 && at <= r.now+answerTime {
		// RFC 9293 allows delaying an acknowledgement. If the Conn waits for an answer of the application
		// to carry it, the timer sends it.
		c.Tick(at)
		for _, out := range r.pull() {
			got.answer += describe(c, &out)
		}
	}
	// Ignore the fields that only the model has, that have no effect any more, or that other tests check.
	want.afterFIN, want.admit, want.finBeyond = false, false, false
	want.lastAck, want.farEdge, got.lastAck, got.farEdge = 0, 0, 0, 0
	got.maxWnd, got.rcvWnd, want.maxWnd, want.rcvWnd = 0, 0, 0, 0
	if got.state == Closed {
		want.wnd, want.wl1, want.wl2 = got.wnd, got.wl1, got.wl2
		want.una, want.rcvNxt = got.una, got.rcvNxt
	}
	got.finSent = want.finSent
	if before.state == SynSent {
		got.scale = 0 // the model ignores the options of a SYN
	}
	if got != want {
		t.Fatalf("%v, segment %+v\nRCV.NXT %d RCV.WND %d SND.UNA %d SND.NXT %d\ngot  %+v\nwant %+v",
			before.state, k, before.rcvNxt, before.rcvWnd, before.una, before.nxt, got, want)
	}
	if err := checkConn(c); err != nil {
		t.Fatalf("%v, segment %+v: %v", before.state, k, err)
	}
	if got.delivered > 0 {
		a, b := c.rcv.buf.slices(0, c.rcv.buf.n)
		text := append(append([]byte(nil), a...), b...)[readable:]
		off := int(before.rcvNxt - k.seq)
		if before.state == SynSent || s.has(wire.FlagSYN) {
			off = 0
		}
		require.True(t, bytes.Equal(modelText[off:off+got.delivered], text), "%v, segment %+v: other text", before.state, k)
	}
}

// describe returns the kind of a sent segment, as in tcb.answer. A pure ACK must have SND.NXT and RCV.NXT.
func describe(c *Conn, s *Segment) string {
	switch {
	case s.DataLen() > 0:
		return fmt.Sprintf("text %v", s.Flags)
	case s.Flags == wire.FlagACK && Seq(s.Seq) == c.snd.nxt && Seq(s.Ack) == c.rcv.nxt:
		return "ACK"
	case s.Flags == wire.FlagSYN|wire.FlagACK && Seq(s.Seq) == c.snd.iss && Seq(s.Ack) == c.rcv.nxt:
		return "SYN,ACK"
	case s.Flags == wire.FlagRST:
		return fmt.Sprint("RST ", s.Seq)
	}
	return fmt.Sprintf("%v seq %d ack %d", s.Flags, s.Seq, s.Ack)
}

func TestSegmentAgreesWithALiteralReadingOfRFC9293(t *testing.T) {
	type constructor func(testing.TB, rigOptions) *rig
	count := 0
	for _, st := range []struct {
		name string
		make constructor
		o    rigOptions
	}{
		{"SYN-SENT", synSent, rigOptions{}},
		{"SYN-RECEIVED after an active open", synReceived, rigOptions{}},
		{"SYN-RECEIVED after a passive open", synReceived, rigOptions{passive: true}},
		{"ESTABLISHED", established, rigOptions{}},
		{"ESTABLISHED with a closed window", established, rigOptions{zeroWindow: true}},
		{"FIN-WAIT-1", finWait1, rigOptions{}},
		{"FIN-WAIT-1 with a closed window", finWait1, rigOptions{zeroWindow: true}},
		{"FIN-WAIT-2", finWait2, rigOptions{}},
		{"FIN-WAIT-2 with a closed window", finWait2, rigOptions{zeroWindow: true}},
		{"CLOSE-WAIT", closeWait, rigOptions{}},
		{"CLOSING", closing, rigOptions{}},
		{"LAST-ACK", lastAck, rigOptions{}},
		{"TIME-WAIT", timeWait, rigOptions{}},
	} {
		for _, modern := range []bool{false, true} {
			name := st.name
			if modern {
				name += ", with every option, old"
			}
			t.Run(name, func(t *testing.T) {
				st.o.modern = modern
				setUp := func() *rig {
					r := st.make(t, st.o)
					if modern && r.c.state.synchronized() {
						age(&r.c, 0, 0) // SND.UNA is ISS and RCV.NXT is IRS
					}
					return r
				}
				modelCases(tcbOf(&setUp().c), modern || !full(t), func(k modelCase) {
					count++
					try(t, setUp(), k)
				})
			})
		}
	}
	t.Logf("%d cases", count)
	require.Greater(t, count, 50_000)
}
