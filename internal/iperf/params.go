package iperf

import (
	"fmt"
	"time"
)

// Limits of a test, as in iperf3.
const (
	maxStreams  = 128
	maxDuration = 24 * time.Hour
	maxTCPBlock = 1 << 20
	minUDPBlock = 16
	maxUDPBlock = 65507
	maxRate     = 1 << 50 // bits per second
)

// Defaults of a test, as in iperf3.
const (
	defaultDuration = 10 * time.Second
	defaultTCPBlock = 128 << 10
	defaultUDPBlock = 1460
	defaultUDPRate  = 1 << 20
)

// Params are the parameters of a test, which the client chooses.
type Params struct {
	UDP     bool
	Reverse bool // the server sends, and the client receives
	Bidir   bool // both send; not with Reverse
	// Streams is how many streams there are in each direction, 1 to 128. 0 means 1.
	Streams int
	// Duration is how long the test runs, up to 24 hours. If both Duration and Bytes are 0, it is 10 s.
	// iperf3 has whole seconds: a server gets the value rounded up.
	Duration time.Duration
	// Bytes ends the test after so many bytes of all streams. 0: only Duration ends the test. A TCP
	// sender sends exactly Bytes; a UDP sender sends whole datagrams.
	Bytes int64
	// Rate is the rate of each stream in bits of payload per second. 0 means 1 Mbit/s (2^20) for UDP, and as
	// fast as possible for TCP. Negative: as fast as possible.
	Rate int64
	// Block is the size of a write, up to 1 MiB, or of a datagram, 16 to 65507 bytes. 0 means 128 KiB for
	// TCP. For UDP it means the maximum segment size of the control connection if that is known, and otherwise
	// 1460 bytes.
	Block int
	// Wide selects 64-bit instead of 32-bit counters in the datagrams.
	Wide bool
}

// Proto returns "TCP" or "UDP".
func (p *Params) Proto() string {
	if p.UDP {
		return "UDP"
	}
	return "TCP"
}

// setDefaults replaces the zero values that mean a default. mss is the maximum segment size of the control
// connection, or 0.
func (p *Params) setDefaults(mss int) {
	if p.Streams == 0 {
		p.Streams = 1
	}
	if p.Duration == 0 && p.Bytes == 0 {
		p.Duration = defaultDuration
	}
	if p.Rate == 0 && p.UDP {
		p.Rate = defaultUDPRate
	}
	p.Rate = max(p.Rate, 0)
	switch {
	case p.Block != 0:
	case !p.UDP:
		p.Block = defaultTCPBlock
	case mss >= minUDPBlock && mss <= maxUDPBlock:
		p.Block = mss
	default:
		p.Block = defaultUDPBlock
	}
}

// A rangeError says which parameter is out of range. The server sends its code to the client.
type rangeError struct {
	code int32
	text string
}

func (e *rangeError) Error() string { return e.text }

// check returns an error if a parameter is out of range.
func (p *Params) check() error {
	bad := func(code int32, format string, args ...any) error {
		return &rangeError{code, fmt.Sprintf(format, args...)}
	}
	switch {
	case p.Streams < 1 || p.Streams > maxStreams:
		return bad(codeStreams, "%d streams, not 1 to %d", p.Streams, maxStreams)
	case p.Duration < 0 || p.Duration > maxDuration:
		return bad(codeDuration, "a duration of %v, not 0 to %v", p.Duration, maxDuration)
	case p.Duration == 0 && p.Bytes == 0:
		return bad(codeDuration, "neither a duration nor a number of bytes")
	case p.Bytes < 0 || p.Bytes > maxCount:
		return bad(codeDuration, "%d bytes, not 0 to %d", p.Bytes, int64(maxCount))
	case p.Rate < 0 || p.Rate > maxRate:
		return bad(codeProtocol, "a rate of %d bit/s, not 0 to %d", p.Rate, int64(maxRate))
	case p.UDP && (p.Block < minUDPBlock || p.Block > maxUDPBlock):
		return bad(codeUDPBlockSize, "datagrams of %d bytes, not %d to %d", p.Block, minUDPBlock, maxUDPBlock)
	case p.Block < 1 || p.Block > maxTCPBlock:
		return bad(codeBlockSize, "blocks of %d bytes, not 1 to %d", p.Block, maxTCPBlock)
	case p.Reverse && p.Bidir:
		return bad(codeProtocol, "a test is either reverse or bidirectional")
	}
	return nil
}

// A paramsMessage is what a client sends to describe a test. The server ignores what it does not know, for
// example the title and the congestion control.
type paramsMessage struct {
	TCP       flag   `json:"tcp,omitempty"`
	UDP       flag   `json:"udp,omitempty"`
	SCTP      flag   `json:"sctp,omitempty"`
	Omit      number `json:"omit"`
	Time      number `json:"time"`
	Num       number `json:"num"`
	Blocks    number `json:"blockcount"`
	Parallel  number `json:"parallel"`
	Reverse   flag   `json:"reverse,omitempty"`
	Bidir     flag   `json:"bidirectional,omitempty"`
	Len       number `json:"len"`
	Bandwidth number `json:"bandwidth,omitempty"`
	Pacing    number `json:"pacing_timer"`
	Wide      flag   `json:"udp_counters_64bit,omitempty"`
	Version   string `json:"client_version"`
}

// message returns the message for a server.
func (p *Params) message() paramsMessage {
	return paramsMessage{
		TCP: flag(!p.UDP), UDP: flag(p.UDP),
		Time: number((p.Duration + time.Second - 1) / time.Second), Num: number(p.Bytes),
		Parallel: number(p.Streams), Reverse: flag(p.Reverse), Bidir: flag(p.Bidir),
		Len: number(p.Block), Bandwidth: number(p.Rate), Pacing: 1000, Wide: flag(p.Wide),
		Version: "3.12",
	}
}

// params returns the parameters that a client has sent, or a *rangeError.
func (m *paramsMessage) params() (Params, error) {
	p := Params{UDP: bool(m.UDP), Reverse: bool(m.Reverse), Bidir: bool(m.Bidir), Wide: bool(m.Wide)}
	switch {
	case bool(m.SCTP) || m.TCP == m.UDP:
		return p, &rangeError{codeProtocol, "the test is neither TCP nor UDP"}
	case m.Omit != 0:
		return p, &rangeError{codeOmit, "the test omits its beginning, which this server cannot do"}
	case !(m.Time >= 0 && m.Time <= number(maxDuration/time.Second)):
		return p, &rangeError{codeDuration, fmt.Sprintf("a duration of %v s", m.Time)}
	}
	p.Duration = time.Duration(float64(m.Time) * float64(time.Second))
	var blocks, streams, block int64
	for _, f := range []struct {
		name string
		from number
		to   *int64
	}{
		{"num", m.Num, &p.Bytes}, {"blockcount", m.Blocks, &blocks}, {"parallel", m.Parallel, &streams},
		{"len", m.Len, &block}, {"bandwidth", m.Bandwidth, &p.Rate},
	} {
		n, ok := f.from.count()
		if !ok {
			return p, &rangeError{codeRecvParams, fmt.Sprintf("%s is %v", f.name, f.from)}
		}
		*f.to = n
	}
	p.Streams, p.Block = int(min(streams, maxStreams+1)), int(min(block, maxTCPBlock+1))
	if p.Block == 0 && !p.UDP {
		p.Block = defaultTCPBlock
	}
	if blocks > 0 {
		p.Bytes = min(blocks, maxCount/int64(max(p.Block, 1))) * int64(p.Block)
	}
	return p, p.check()
}

// A resultsMessage is what each side sends to the other at the end.
type resultsMessage struct {
	CPU            number          `json:"cpu_util_total"`
	CPUUser        number          `json:"cpu_util_user"`
	CPUSystem      number          `json:"cpu_util_system"`
	HasRetransmits number          `json:"sender_has_retransmits"` // 1: yes, 0: no, -1: this side does not send
	Congestion     string          `json:"congestion_used,omitempty"`
	Streams        []streamMessage `json:"streams"`
}

// A streamMessage has the results of a stream on one side. Bytes is what that side has sent or received.
type streamMessage struct {
	ID             number `json:"id"`
	Bytes          number `json:"bytes"`
	Retransmits    number `json:"retransmits"` // -1: not known
	Jitter         number `json:"jitter"`      // seconds
	Errors         number `json:"errors"`      // lost datagrams
	OmittedErrors  number `json:"omitted_errors"`
	Packets        number `json:"packets"`
	OmittedPackets number `json:"omitted_packets"`
	Start          number `json:"start_time"` // seconds
	End            number `json:"end_time"`
}

// A peerResult is a checked streamMessage.
type peerResult struct {
	bytes, retransmits, lost, packets int64
	jitter, seconds                   float64
}

// results returns the results by the stream's ID. The streams with the IDs in want have to be among them.
func (m *resultsMessage) results(want []*stream) (map[int]peerResult, error) {
	all := make(map[int]peerResult, len(want))
	for _, s := range want {
		all[s.id] = peerResult{bytes: -1}
	}
	for i := range m.Streams {
		r := &m.Streams[i]
		id, ok := r.ID.count()
		if old, known := all[int(id)]; !ok || !known || old.bytes >= 0 {
			return nil, fmt.Errorf("%w: the results have a stream %v", ErrProtocol, r.ID)
		}
		var p peerResult
		var ok1, ok2, ok3 bool
		p.bytes, ok1 = r.Bytes.count()
		p.lost, ok2 = r.Errors.count()
		p.packets, ok3 = r.Packets.count()
		if !ok1 || !ok2 || !ok3 || !(r.Jitter >= 0 && r.Jitter < maxCount) {
			return nil, fmt.Errorf("%w: the results of stream %d are not numbers of bytes and packets", ErrProtocol, id)
		}
		// iperf3 sends -1, and also 2^64-1, if it does not know.
		if p.retransmits, ok = r.Retransmits.count(); !ok {
			p.retransmits = -1
		}
		p.jitter = float64(r.Jitter)
		if seconds := float64(r.End - r.Start); seconds >= 0 && seconds < maxCount {
			p.seconds = seconds
		}
		all[int(id)] = p
	}
	for _, s := range want {
		if all[s.id].bytes < 0 {
			return nil, fmt.Errorf("%w: the results have no stream %d", ErrProtocol, s.id)
		}
	}
	return all, nil
}
