// Package tcp is TCP (RFC 9293) as a pure state machine. A [Conn] has no clock,
// no lock, no goroutine, no address and no randomness of its own: segments, the
// application's calls and the time go in, segments and events come out, and
// equal inputs give equal outputs to the byte.
//
// The caller serialises all calls on one Conn, and after each of them
//
//   - calls [Conn.Next] until it returns false, and sends the segments,
//   - calls [Conn.Events] to learn which goroutines to wake,
//   - calls [Conn.Deadline] to learn when to call [Conn.Tick].
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

// State is a state of RFC 9293 3.3.2. There is no LISTEN: a listener creates a Conn only when
// a SYN has arrived.
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

// synchronized reports whether both sides know the other's sequence numbers in state s
// (RFC 9293 3.5.1).
func (s State) synchronized() bool { return s >= Established }

// Err is why a connection ended, or ErrNone.
type Err uint8

const (
	ErrNone            Err = iota
	ErrRefused             // RST in answer to our SYN
	ErrReset               // RST on an established connection
	ErrTimedOut            // retransmissions or keep-alive probes went unanswered
	ErrHostUnreachable     // ICMP host unreachable, or the neighbour does not answer
	ErrNetUnreachable
	ErrProtocol    // ICMP protocol unreachable
	ErrProhibited  // ICMP administratively prohibited
	ErrMessageSize // the path's MTU is too small for any segment
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

// Events is what has changed since the last call of Conn.Events.
type Events uint16

const (
	Readable  Events = 1 << iota // Read would return data
	Writable                     // Write would take data
	Connected                    // the handshake is complete
	EOF                          // the peer's FIN was received, and all data before it
	Failed                       // the connection broke: see Conn.Err
	Acked                        // everything written, FIN included, has been acknowledged
	Dead                         // the Conn is finished: it sends nothing more and can be dropped
)

// A Segment is a TCP segment, received or to be sent. Package tcp ignores the ports.
type Segment struct {
	wire.TCP

	// Payload and Payload2 are two consecutive pieces of the payload; the second is often empty.
	// Conn.Segment does not keep them after it returns. Those of a segment from Conn.Next are valid
	// until the next call on the Conn.
	Payload  []byte
	Payload2 []byte

	// Payload3 is a third piece of the payload of a segment from Conn.Next, usually empty.
	Payload3 []byte

	// Pinned is the last part of the payload of a segment from Conn.Next. If Block is nil, it is bytes
	// of the buffer that was given to Conn.Pin. It stays valid until the owner changes that buffer, so
	// it may be used after Conn.Unpin. If Block is not nil, Pinned is bytes of that Block, which are
	// valid until the next call on the Conn. A caller that needs the bytes longer uses the Block.
	Pinned []byte
	Block  *Block

	// CE is set on a received segment whose IP header has the CE codepoint. ECT is set on
	// a received segment whose IP header has an ECT codepoint, and on a segment to be sent
	// that needs one (RFC 3168 5).
	CE, ECT bool

	hadSYN bool // the Conn has cleared the SYN flag: the window is not scaled

	// GSOSize is not 0 for a super-segment. Its payload makes several segments on the wire, each of
	// GSOSize bytes except the last.
	GSOSize int

	// Local is set on a received segment whose checksum the kernel of this machine has left incomplete.
	// If the segment is no super-segment, its sender is on this machine.
	Local bool
}

// DataLen returns the number of payload bytes.
func (s *Segment) DataLen() int {
	return len(s.Payload) + len(s.Payload2) + len(s.Payload3) + len(s.Pinned)
}

// seqLen returns SEG.LEN of RFC 9293 3.3.1: payload, SYN and FIN.
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

// Reset writes to out the RST that answers a segment for which there is no connection
// (RFC 9293 3.10.7.1). It returns false if the segment must not be answered.
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

// Params are the parameters that all connections of a host share. They must not change once a
// Conn uses them.
type Params struct {
	// Receive and send buffers in bytes: the initial size, and the maximum for
	// auto-tuning. A send buffer that may grow starts with at most twice the initial
	// congestion window.
	RecvBuffer, RecvBufferMax int
	SendBuffer, SendBufferMax int

	// Congestion is the congestion control, CUBIC by default. BBR suits paths with random
	// loss, where it reaches a higher rate than the others, and paths with long queues,
	// which it keeps short. Without loss CUBIC is a few percent faster.
	Congestion Congestion

	// MinRTO and MaxRTO bound the retransmission timeout. RFC 6298 2.4 says one
	// second for the lower bound; like every current host we use 200 ms.
	MinRTO, MaxRTO Time

	// SynRetries and Retries are the number of times that a SYN and any other segment are retransmitted
	// before the connection fails (R2 of RFC 9293 3.8.3). For a SYN, R2 "MUST be set large enough to
	// provide retransmission of the segment for at least 3 minutes": 7 retries take 247 s.
	SynRetries, Retries uint8
	// SynAckRetries is the number of times that the SYN,ACK of a passive open is retransmitted. Its
	// default is lower than that of SynRetries, because no application waits for the connection, and
	// many half-open connections may be an attack (RFC 4987 3.3). The default is 5, as on Linux: the
	// connection fails after 63 s.
	SynAckRetries uint8

	// FinTimeout bounds FIN-WAIT-2 of a connection that the application closed.
	FinTimeout Time
	// TimeWait is how long TIME-WAIT lasts: 2 MSL.
	TimeWait Time
	// DelayedAck is the maximum delay of an acknowledgement. RFC 9293 3.8.6.3: it "MUST
	// be less than 0.5 seconds".
	DelayedAck Time

	// NoSACK, NoTimestamps and NoWindowScale turn off options that are on by default, for tests
	// and for peers that do not handle the options.
	NoSACK, NoTimestamps, NoWindowScale bool

	// NoACKThinning turns off ACK thinning, which acknowledges bulk data from a sender on this machine
	// less often than every second segment.
	NoACKThinning bool

	// Alloc and Free manage the memory of the rings. Alloc returns a slice of at least
	// n bytes whose capacity is a power of two. If they are nil, make allocates, and the
	// garbage collector frees.
	Alloc func(n int) []byte
	Free  func([]byte)
	// NewBlock returns a Block with one use, and its memory: a slice of at least n bytes. The Conn
	// needs it for bytes that follow those of WriteBlock. If it is nil, make allocates.
	NewBlock func(n int) (*Block, []byte)
	// Spare is a pool, such as a sync.Pool, for the part of a Conn that exists only while the
	// Conn is active. If Spare is nil, the garbage collector frees that part.
	Spare interface {
		Get() any
		Put(any)
	}
	// Pressure reports memory pressure. While it returns true, no buffer grows beyond
	// minBuffer bytes, even to honour a window already advertised. If Pressure is nil, there
	// is never memory pressure.
	Pressure func() bool

	// Count counts n events of a kind. If Count is nil, nothing is counted.
	Count func(k Counter, n int)

	// UserTimeout is how long data may stay unacknowledged before the connection fails
	// (RFC 9293 3.8.3, RFC 5482 2). If it is 0, Retries is the limit.
	// Conn.SetUserTimeout changes it for one connection.
	UserTimeout Time

	// ECN requests explicit congestion notification in active opens (RFC 3168 6.1.1).
	// Passive opens always accept a peer's request.
	ECN bool
}

// minBuffer is the maximum size of each of a connection's two buffers under memory pressure, in bytes.
const minBuffer = 8 << 10

// DefaultParams returns Linux's values, or those of the RFCs where an RFC demands more. The maximum
// buffers fill a path of 1 Gbit/s and 100 ms and recover from a loss on it: two and a half
// times its bandwidth-delay product of 12.5 MB.
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

// Config is the initial configuration of one connection.
type Config struct {
	*Params

	ISS      Seq    // initial send sequence number, unpredictable (RFC 6528)
	TSOffset uint32 // added to the timestamp clock (RFC 7323 5.4)
	MSS      int    // the largest segment that the path can carry, in bytes of payload without options
	AdvMSS   int    // the MSS option to send, in bytes: the largest segment that can be received; 0: MSS
	// DefaultMSS is the MSS, in bytes, of a peer that sends no MSS option: 1220 over IPv6
	// (RFC 9293 3.7.1). 0 means 536, the value over IPv4.
	DefaultMSS int
	GSO        int  // the maximum payload of a super-segment from Next, in bytes; 0: no super-segments
	NoDelay    bool // turn Nagle's algorithm off (RFC 9293 3.7.4)
	Keep       KeepAlive
}

// KeepAlive configures keep-alive probes (RFC 9293 3.8.4). If Idle <= 0, no probes are sent.
type KeepAlive struct {
	Idle     Time // idle time before the first probe
	Interval Time // time between probes
	Count    int  // unanswered probes after which the connection fails
}
