package usernet

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math"
	"net"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/usernet/usernet/stack"
	"github.com/usernet/usernet/stack/wire"
)

// PingConfig configures Ping. The zero value sends one request and waits one second for the answer.
type PingConfig struct {
	// Count is the number of requests; 1 if zero. If it is negative, Ping sends requests until the
	// context ends.
	Count int
	// Interval is the time from one request to the next; 1 s if zero. If it is negative, Ping sends
	// the next request as soon as the previous one has been answered or has timed out.
	Interval time.Duration
	// Timeout is how long Ping waits for the answer to a request; 1 s if zero.
	Timeout time.Duration
	// Size is the number of bytes of data in a request: 0 to 65507 over IPv4, 0 to 65527 over IPv6.
	Size int
	// TTL is the time to live of the requests, or their hop limit. Zero means a socket's default: 1
	// to a multicast address, otherwise 64 or the hop limit that IPv6 routers advertise.
	TTL uint8
	// TOS is the type of service of the requests, or their traffic class.
	TOS uint8
	// DontFragment forbids the fragmentation of large requests.
	DontFragment bool
	// OnReply, if not nil, is called for each answer, and for each request that times out. It runs
	// on the goroutine that called Ping.
	OnReply func(PingReply)
}

// A PingReply is an answer to a request, or reports that the request timed out.
type PingReply struct {
	// Seq is the number of the request: 0 to 65535, and then 0 again.
	Seq int
	// From is the source address of the answer. For an ICMP error, From may be the address of a
	// router. If the request timed out, From is invalid.
	From netip.Addr
	// RTT is the time from the request to the answer or to the timeout.
	RTT time.Duration
	// TTL is the time to live of the answer.
	TTL uint8
	// Size is the number of bytes of data in the answer.
	Size int
	// Duplicate reports whether this is a further answer to a request already answered.
	Duplicate bool
	// Err is nil for an echo reply, and os.ErrDeadlineExceeded if the request timed out. For an
	// ICMP error it is a syscall.Errno, as on Linux: EHOSTUNREACH for time exceeded and most kinds
	// of destination unreachable, EPROTO for a parameter problem.
	Err error
}

// PingStats are the results of a Ping.
type PingStats struct {
	Addr       netip.Addr // the address that was pinged
	Sent       int
	Received   int // requests that were answered
	Duplicates int // answers to requests already answered
	Errors     int // requests for which an ICMP error arrived
	// The shortest, mean and longest round-trip time, and the standard deviation.
	Min, Avg, Max, MDev time.Duration
}

// Loss returns the proportion of unanswered requests, 0 to 1.
func (s *PingStats) Loss() float64 {
	if s.Sent == 0 {
		return 0
	}
	return float64(s.Sent-s.Received) / float64(s.Sent)
}

const (
	maxPingData  = 65507 // RFC 791: the largest datagram, 65535 bytes, less 20+8 bytes of headers
	maxPingData6 = 65527 // RFC 8200 3: the largest payload, 65535 bytes, less 8 bytes of ICMP header
	echoLen      = 8     // RFC 792 and RFC 4443 4.1: the length of an echo message's header
)

// Ping sends ICMP echo requests (RFC 792, RFC 4443 4.1) to a host and returns statistics of the
// answers. If a name has several addresses, Ping uses the first one that Dial would try. Unanswered
// requests are not an error: PingStats counts them. PingStats is also valid if there is an error.
//
// The error is a *net.OpError. Its Op is "dial" if Ping cannot start, or if Count is not negative and
// ctx ends early; "write" if a request cannot be sent; and "read" if answers cannot be received, for
// example because the host was closed.
func (h *Host) Ping(ctx context.Context, addr string, cfg PingConfig) (PingStats, error) {
	network, proto := "ip:icmp", wire.ProtoICMP
	fail := func(to net.Addr, err error) (PingStats, error) {
		return PingStats{}, dialError(network, nil, to, err)
	}
	addrs, err := h.dialAddrs(ctx, h.lookup, network, addr, nil)
	if err != nil {
		return fail(nil, err)
	}
	ip, _, zone := addrIP(addrs[0])
	network, maxSize := "ip4:icmp", maxPingData
	if ip.To4() == nil {
		network, proto, maxSize = "ip6:ipv6-icmp", wire.ProtoICMPv6, maxPingData6
	}
	if cfg.Size < 0 || cfg.Size > maxSize {
		return fail(nil, syscall.EMSGSIZE)
	}
	f := h.family(network[:len("ip4")], nil, nil, false)
	if err := h.supported(f); err != nil {
		return fail(addrs[0], err)
	}
	to, err := f.addr(ip, zone)
	if err != nil {
		return fail(addrs[0], err)
	}
	raw, err := h.stack.OpenRaw(f.stack, uint16(proto), netip.Addr{})
	if err != nil {
		return fail(addrs[0], syscallError("socket", err))
	}
	defer raw.Close()
	p := newPinger(h, f, raw, to, cfg)
	// When ctx ends, a deadline in the past ends blocked calls.
	stop := context.AfterFunc(ctx, func() { raw.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	err = p.run(ctx)
	p.finish()
	if err == nil && ctx.Err() != nil && cfg.Count >= 0 {
		err = dialError(network, nil, addrs[0], contextError(ctx.Err()))
	}
	return p.stats, err
}

// A pinger is the state of one Ping.
type pinger struct {
	cfg    PingConfig
	fam    family
	loose  bool // accept echo replies from addresses other than to
	raw    *stack.Raw
	laddr  net.Addr
	to     netip.Addr // with its zone
	id     uint16
	msg    []byte // the request
	buf    []byte // receive buffer
	stats  PingStats
	out    []request     // unanswered, oldest first
	done   []request     // answered recently, to detect duplicates
	sum    time.Duration // of the round-trip times
	square float64       // sum of the squared round-trip times, in ns^2
}

type request struct {
	seq  uint16
	sent time.Time
}

func newPinger(h *Host, f family, raw *stack.Raw, to netip.Addr, cfg PingConfig) *pinger {
	if cfg.Count == 0 {
		cfg.Count = 1
	}
	if cfg.Interval == 0 {
		cfg.Interval = time.Second
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = time.Second
	}
	p := &pinger{cfg: cfg, fam: f, raw: raw, to: to, stats: PingStats{Addr: to}}
	// A request to a multicast, broadcast or unspecified address is answered from another address.
	// An IPv4 address that ends in 255 may be the broadcast address of a distant network. The
	// unspecified address stands for the host itself.
	p.loose = to.IsMulticast() || h.stack.IsBroadcast(to) || to.Is4() && to.As4()[3] == 255 || to.IsUnspecified()
	p.laddr = f.ipAddr(raw.LocalAddr())
	var id [2]byte
	h.fill(id[:])
	p.id = binary.BigEndian.Uint16(id[:])
	// The message: type, code, checksum (at 2), identifier (at 4), sequence number (at 6), data.
	p.msg = make([]byte, echoLen+cfg.Size)
	p.msg[0] = byte(wire.ICMPEcho)
	if f.six {
		p.msg[0] = byte(wire.ICMPv6Echo)
	}
	binary.BigEndian.PutUint16(p.msg[4:], p.id)
	for i := range p.msg[echoLen:] {
		p.msg[echoLen+i] = byte(i)
	}
	p.buf = make([]byte, echoLen+maxPingData6)
	return p
}

// run sends the requests and waits until all are answered or have timed out. It returns nil if ctx
// ends earlier.
func (p *pinger) run(ctx context.Context) error {
	var next time.Time // when the next request is due
	for ctx.Err() == nil {
		now := time.Now()
		p.expire(now)
		more := p.cfg.Count < 0 || p.stats.Sent < p.cfg.Count
		if !more && len(p.out) == 0 {
			return nil
		}
		if more && p.due(now, next) {
			if err := p.send(ctx); err != nil {
				return err
			}
			next = now.Add(p.cfg.Interval)
			continue
		}
		if err := p.receive(ctx, p.wake(more, next)); err != nil {
			return err
		}
	}
	return nil
}

// due reports whether it is time for the next request.
func (p *pinger) due(now, next time.Time) bool {
	if p.cfg.Interval < 0 {
		return len(p.out) == 0
	}
	return !now.Before(next)
}

// wake returns the time until which run waits for an answer: the time of the next request or the time of
// the next timeout, whichever is earlier. more says whether there is a next request, and next is its time.
func (p *pinger) wake(more bool, next time.Time) time.Time {
	if len(p.out) == 0 {
		return next
	}
	end := p.out[0].sent.Add(p.cfg.Timeout)
	if more && p.cfg.Interval > 0 && next.Before(end) {
		return next
	}
	return end
}

// send sends the next request.
func (p *pinger) send(ctx context.Context) error {
	seq := uint16(p.stats.Sent)
	binary.BigEndian.PutUint16(p.msg[6:], seq)
	binary.BigEndian.PutUint16(p.msg[2:], 0)
	if !p.fam.six { // an IPv6 raw socket sets the checksum itself
		binary.BigEndian.PutUint16(p.msg[2:], wire.Checksum(p.msg))
	}
	r := request{seq, time.Now()}
	// Record the request before it is sent: an in-memory link delivers the answer during WriteTo.
	p.out = append(p.out, r)
	p.stats.Sent++
	o := stack.SendOptions{TTL: p.cfg.TTL, TOS: p.cfg.TOS, DontFragment: p.cfg.DontFragment}
	p.raw.SetWriteDeadline(r.sent.Add(p.cfg.Timeout))
	if ctx.Err() != nil { // SetWriteDeadline may have replaced the deadline set when ctx ended
		return nil
	}
	_, err := p.raw.WriteTo(p.msg, p.to, o)
	// If the link accepts nothing until the deadline, the request counts as lost. It stays in p.out
	// until expire removes it.
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return &net.OpError{Op: "write", Net: p.network(), Source: p.laddr, Addr: p.fam.ipAddr(p.to), Err: syscallError("sendto", err)}
	}
	return nil
}

// network returns the network for errors.
func (p *pinger) network() string {
	if p.fam.six {
		return "ip6"
	}
	return "ip4"
}

// receive reads one message and processes it. It returns at time until if no message arrives.
func (p *pinger) receive(ctx context.Context, until time.Time) error {
	p.raw.SetReadDeadline(until)
	if ctx.Err() != nil { // SetReadDeadline may have replaced the deadline set when ctx ended
		return nil
	}
	n, _, from, meta, err := p.raw.ReadFrom(p.buf)
	switch {
	case err == nil:
		p.input(p.buf[:n], from, meta)
	case !errors.Is(err, os.ErrDeadlineExceeded):
		return &net.OpError{Op: "read", Net: p.network(), Source: p.laddr, Err: syscallError("recvfrom", err)}
	}
	return nil
}

// expire removes from p.out the requests that have timed out, and calls OnReply for each of them.
func (p *pinger) expire(now time.Time) {
	for len(p.out) > 0 && now.Sub(p.out[0].sent) >= p.cfg.Timeout {
		r := p.out[0]
		p.out = p.out[1:]
		p.report(PingReply{Seq: int(r.seq), RTT: now.Sub(r.sent), Err: os.ErrDeadlineExceeded})
	}
}

// report calls OnReply.
func (p *pinger) report(r PingReply) {
	if p.cfg.OnReply != nil {
		p.cfg.OnReply(r)
	}
}

// input processes an ICMP message. It ignores messages that do not answer a request of p.
func (p *pinger) input(msg []byte, from netip.Addr, meta stack.Meta) {
	if len(msg) < echoLen || !p.fam.six && wire.Checksum(msg) != 0 {
		return
	}
	reply := PingReply{From: from, TTL: meta.TTL, Size: len(msg) - echoLen}
	if p.isReply(msg) {
		if from.WithZone("") != p.to.WithZone("") && !p.loose || !bytes.Equal(msg[echoLen:], p.msg[echoLen:]) {
			return
		}
	} else {
		errno := p.errno(msg)
		if errno == 0 {
			return
		}
		reply.Err = errno
		if msg = p.quoted(msg[echoLen:]); msg == nil {
			return
		}
	}
	if binary.BigEndian.Uint16(msg[4:]) != p.id {
		return
	}
	p.answer(binary.BigEndian.Uint16(msg[6:]), reply)
}

// isReply reports whether a message is an echo reply.
func (p *pinger) isReply(msg []byte) bool {
	if p.fam.six {
		return wire.ICMPv6Type(msg[0]) == wire.ICMPv6EchoReply
	}
	return wire.ICMPType(msg[0]) == wire.ICMPEchoReply
}

// errno returns the errno of an ICMP error, and 0 for other messages.
func (p *pinger) errno(msg []byte) (errno syscall.Errno) {
	if p.fam.six {
		errno, _ = stack.ICMPv6Errno(wire.ICMPv6Type(msg[0]), msg[1])
	} else {
		errno, _ = stack.ICMPErrno(wire.ICMPType(msg[0]), msg[1])
	}
	return errno
}

// quoted returns the ICMP message in ip, the datagram that an ICMP error quotes. It returns nil if
// the message is not an echo request to p.to, or if the quote does not have the message's whole
// header.
func (p *pinger) quoted(ip []byte) []byte {
	if p.fam.six {
		q, r := wire.ParseQuoted6(ip)
		if r != wire.OK || q.Proto != wire.ProtoICMPv6 || q.Dst != p.to.WithZone("") || len(q.Transport) < echoLen || q.Transport[0] != p.msg[0] {
			return nil
		}
		return q.Transport
	}
	h, msg, r := wire.ParseQuoted(ip)
	if r != wire.OK || h.Proto != wire.ProtoICMP || h.Dst != p.to || len(msg) < echoLen || msg[0] != p.msg[0] {
		return nil
	}
	return msg
}

// answer records and reports a reply or an error for the request with the number seq.
func (p *pinger) answer(seq uint16, reply PingReply) {
	now := time.Now()
	reply.Seq = int(seq)
	same := func(r request) bool { return r.seq == seq }
	if i := slices.IndexFunc(p.done, same); i >= 0 && reply.Err == nil {
		reply.Duplicate, reply.RTT = true, now.Sub(p.done[i].sent)
		p.stats.Duplicates++
		p.report(reply)
		return
	}
	i := slices.IndexFunc(p.out, same)
	if i < 0 { // timed out, or an error for an answered request
		return
	}
	r := p.out[i]
	p.out = slices.Delete(p.out, i, i+1)
	reply.RTT = now.Sub(r.sent)
	if reply.Err != nil {
		p.stats.Errors++
		p.report(reply)
		return
	}
	const remembered = 1024
	if p.done = append(p.done, r); len(p.done) > remembered {
		p.done = slices.Delete(p.done, 0, len(p.done)-remembered)
	}
	if p.stats.Received == 0 || reply.RTT < p.stats.Min {
		p.stats.Min = reply.RTT
	}
	p.stats.Max = max(p.stats.Max, reply.RTT)
	p.stats.Received++
	p.sum += reply.RTT
	p.square += float64(reply.RTT) * float64(reply.RTT)
	p.report(reply)
}

// finish computes the statistics that need all round-trip times.
func (p *pinger) finish() {
	n := p.stats.Received
	if n == 0 {
		return
	}
	p.stats.Avg = p.sum / time.Duration(n)
	mean := float64(p.sum) / float64(n)
	p.stats.MDev = time.Duration(math.Sqrt(max(0, p.square/float64(n)-mean*mean)))
}
