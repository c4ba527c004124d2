// Package tcp is TCP (RFC 9293) as a pure state machine. A [Conn] has no clock,
// no lock, no goroutine, no address and no randomness of its own: segments, the
// application's calls and the time go in, segments and events come out, and
// equal inputs give equal outputs to the byte.
//
// The caller serialises all calls on one Conn, and after each of them
//
//   - pulls [Conn.Next] until it returns false, and sends what it gave,
//   - asks [Conn.Events] whom to wake,
//   - asks [Conn.Deadline] when to call [Conn.Tick].
package tcp

import (
	"github.com/usernet/usernet/stack/wire"
)

// Time is nanoseconds since the stack began. The zero Time is "never" where a
// field holds a deadline, so a stack begins at 1 or later.
type Time int64

// Durations in the unit of Time.
const (
	Microsecond Time = 1000
	Millisecond      = 1000 * Microsecond
	Second           = 1000 * Millisecond
)

// Seq is a sequence number. Comparison is modulo 2^32 (RFC 9293 3.4).
type Seq uint32

// Less reports a < b in sequence space.
func (a Seq) Less(b Seq) bool { return int32(a-b) < 0 }

// LessEq reports a =< b in sequence space.
func (a Seq) LessEq(b Seq) bool { return int32(a-b) <= 0 }

// In reports whether a lies in the n numbers that begin with start.
func (a Seq) In(start Seq, n int) bool { return uint32(a-start) < uint32(n) }

func maxSeq(a, b Seq) Seq {
	if a.Less(b) {
		return b
	}
	return a
}

func minSeq(a, b Seq) Seq {
	if a.Less(b) {
		return a
	}
	return b
}

// State is a state of RFC 9293 3.3.2. LISTEN is not here: a listener makes a
// Conn only when a SYN has come.
type State uint8

const (
	Closed State = iota
	SynSent
	SynReceived
	Established
	FinWait1
	FinWait2
	CloseWait
	Closing
	LastAck
	TimeWait
)

func (s State) String() string {
	return [...]string{"CLOSED", "SYN-SENT", "SYN-RECEIVED", "ESTABLISHED", "FIN-WAIT-1",
		"FIN-WAIT-2", "CLOSE-WAIT", "CLOSING", "LAST-ACK", "TIME-WAIT"}[s]
}

// synchronized tells the states in which both sides know the other's sequence
// numbers (RFC 9293 3.5.1).
func (s State) synchronized() bool { return s >= Established }

// Err is why a connection ended, or ErrNone.
type Err uint8

const (
	ErrNone            Err = iota
	ErrRefused             // RST in answer to our SYN
	ErrReset               // RST on a connection that stood
	ErrTimedOut            // retransmissions or keep-alive probes went unanswered
	ErrHostUnreachable     // ICMP, or the neighbour is silent
	ErrNetUnreachable
	ErrProtocol    // ICMP protocol unreachable
	ErrProhibited  // ICMP administratively prohibited
	ErrMessageSize // the path takes no segment at all
	ErrAborted     // Abort was called here
	ErrPipe        // RST after the peer's FIN
	ErrHostDown    // ICMP destination host unknown
	ErrIsolated    // ICMP source host isolated
	ErrSourceRoute // ICMP source route failed
	ErrParameter   // ICMP parameter problem
)

func (e Err) String() string {
	return [...]string{"none", "refused", "reset", "timed out", "host unreachable", "net unreachable",
		"protocol error", "prohibited", "message too long", "aborted", "broken pipe",
		"host down", "host isolated", "source route failed", "parameter problem"}[e]
}

// Events tells the caller what has changed since it last asked.
type Events uint16

const (
	Readable  Events = 1 << iota // Read would return data
	Writable                     // Write would take data
	Connected                    // the handshake is complete
	EOF                          // the peer's FIN has been reached
	Failed                       // the connection broke: see Conn.Err
	Acked                        // everything written, FIN included, has been acknowledged
	Dead                         // nothing more will come of this Conn; forget it
)

// A Segment is a TCP segment, received or to be sent. Ports are the caller's
// business and are not looked at here.
type Segment struct {
	wire.TCP

	// Payload is borrowed: by Conn.Segment for the call, and from Conn.Next
	// until the next call on the Conn. What goes out may be in two pieces,
	// because the send ring wraps, and what comes in because the frame is.
	Payload  []byte
	Payload2 []byte

	// Pinned is the last part of the payload of a segment from Conn.Next: bytes of the
	// buffer that was given to Conn.Pin. It stays valid until the owner changes that
	// buffer, so it may be used after Conn.Unpin.
	Pinned []byte

	// CE is set on a received segment whose IP header says that congestion was
	// experienced. ECT is set on a received segment whose IP header says that the
	// transport understands that, and on one to be sent whose IP header is to say so
	// (RFC 3168 5).
	CE, ECT bool

	hadSYN bool // Conn has taken the SYN from it: the window is not scaled

	// GSOSize, when not 0, says that this is a super-segment: the payload is
	// more than one segment on the wire, cut every GSOSize bytes.
	GSOSize int
}

// DataLen is the number of payload bytes.
func (s *Segment) DataLen() int { return len(s.Payload) + len(s.Payload2) + len(s.Pinned) }

// seqLen is SEG.LEN of RFC 9293 3.3.1: payload, SYN and FIN.
func (s *Segment) seqLen() int {
	n := s.DataLen()
	if s.Flags&wire.FlagSYN != 0 {
		n++
	}
	if s.Flags&wire.FlagFIN != 0 {
		n++
	}
	return n
}

func (s *Segment) has(f wire.TCPFlags) bool { return s.Flags&f != 0 }

// Reset makes in out the RST that answers a segment for which there is no
// connection (RFC 9293 3.10.7.1), and reports whether one is due.
func Reset(s, out *Segment) bool {
	// "If the incoming segment contains a RST, it is discarded."
	if s.has(wire.FlagRST) {
		return false
	}
	*out = Segment{}
	if s.has(wire.FlagACK) {
		// <SEQ=SEG.ACK><CTL=RST>
		out.Seq = s.Ack
		out.Flags = wire.FlagRST
		return true
	}
	// <SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>
	out.Ack = s.Seq + uint32(s.seqLen())
	out.Flags = wire.FlagRST | wire.FlagACK
	return true
}

// Params are what all connections of a host have in common.
// They do not change once a Conn was made with them.
type Params struct {
	// Receive and send buffers: the size in bytes that a connection begins
	// with, and the one that auto-tuning may take it to. A send buffer that may
	// grow begins with twice the initial congestion window where that is less.
	RecvBuffer, RecvBufferMax int
	SendBuffer, SendBufferMax int

	// Congestion is the congestion control: CUBIC by default. BBR is for paths
	// that lose at random, where it uses what the others leave, and for those
	// with long queues, which it keeps short; where nothing is lost, CUBIC gives
	// a few percent more.
	Congestion Congestion

	// MinRTO and MaxRTO bound the retransmission timeout. RFC 6298 2.4 says one
	// second for the lower bound; like every current host we use 200 ms.
	MinRTO, MaxRTO Time

	// SynRetries and Retries are how often a SYN and other segments are sent
	// again before the connection is given up (R2 of RFC 9293 3.8.3). Of a SYN
	// it "MUST be set large enough to provide retransmission of the segment for
	// at least 3 minutes": 7, which is 247 s.
	SynRetries, Retries uint8
	// SynAckRetries is how often the SYN,ACK of a passive open is sent again before it is
	// given up. Nobody waits for that one, and many may be an attack (RFC 4987 3.3): 5,
	// as with Linux, which is 63 s.
	SynAckRetries uint8

	// FinTimeout bounds FIN-WAIT-2 of a connection that the application closed.
	FinTimeout Time
	// TimeWait is how long TIME-WAIT lasts: 2 MSL.
	TimeWait Time
	// DelayedAck is the most an acknowledgement is held back. RFC 9293
	// 3.8.6.3: it "MUST be less than 0.5 seconds".
	DelayedAck Time

	// Features that are on unless they are turned off, for tests and for
	// peers that cannot bear them.
	NoSACK, NoTimestamps, NoWindowScale bool

	// Alloc and Free manage the memory of the rings. Alloc returns a slice of at least
	// n bytes whose capacity is a power of two. If nil, make is used, and the garbage
	// collector frees.
	Alloc func(n int) []byte
	Free  func([]byte)
	// Spare is a pool for the part of a Conn that an idle one does without, such as a
	// sync.Pool. If nil, the garbage collector frees it.
	Spare interface {
		Get() any
		Put(any)
	}
	// Pressure reports memory pressure. While it returns true, no buffer grows beyond
	// minBuffer bytes, even to honour a window already advertised. Nil: there is never
	// memory pressure.
	Pressure func() bool

	// UserTimeout is how long data may stay unacknowledged before a connection
	// is given up (RFC 9293 3.8.3, RFC 5482 2); 0: Retries decides.
	// SetUserTimeout changes it for a connection.
	UserTimeout Time

	// ECN says whether to ask for explicit congestion notification when opening
	// (RFC 3168 6.1.1). A peer that asks for it is always given it.
	ECN bool
}

// minBuffer is what a connection may buffer in each direction under memory pressure, in bytes.
const minBuffer = 8 << 10

// DefaultParams are the values that Linux hosts use, or RFCs where those say more.
// Buffers may grow to what fills 1 Gbit/s over 100 ms, and recovers from a loss
// there: two and a half times the 12.5 MB that are in flight.
func DefaultParams() Params {
	return Params{
		RecvBuffer: 128 << 10, RecvBufferMax: 32 << 20,
		SendBuffer: 128 << 10, SendBufferMax: 32 << 20,
		MinRTO: 200 * Millisecond, MaxRTO: 120 * Second,
		SynRetries: 7, Retries: 15, SynAckRetries: 5,
		FinTimeout: 60 * Second, TimeWait: 60 * Second,
		DelayedAck: 40 * Millisecond,
	}
}

// Config is what one connection begins with.
type Config struct {
	*Params

	ISS      Seq    // initial send sequence number, unpredictable (RFC 6528)
	TSOffset uint32 // added to the timestamp clock (RFC 7323 5.4)
	MSS      int    // the largest segment that the path can carry, in bytes of payload without options
	AdvMSS   int    // the largest segment that can be received, for the MSS option, likewise; 0: MSS
	GSO      int    // the most payload bytes that Next may put in one segment; 0: no super-segments
	NoDelay  bool   // do not wait to fill segments (RFC 9293 3.7.4: Nagle's algorithm is off)
	Keep     KeepAlive
}

// KeepAlive is RFC 9293 3.8.4. It is off while Idle is 0.
type KeepAlive struct {
	Idle     Time // quiet time before the first probe
	Interval Time // between probes
	Count    int  // probes without an answer before the connection is given up
}
