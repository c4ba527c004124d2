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

// PingConfig says how to ping. The zero value sends one request and waits a second for
// the answer.
type PingConfig struct {
	// Count is the number of requests; 1 if zero. If negative, they are sent until the
	// context ends.
	Count int
	// Interval is the time from one request to the next; 1 s if zero. If negative, the
	// next request follows the answer, or the end of the wait, at once.
	Interval time.Duration
	// Timeout is how long the answer to a request is waited for; 1 s if zero.
	Timeout time.Duration
	// Size is the number of bytes of data in a request, 0 to 65507, or to 65527 over IPv6.
	Size int
	// TTL is the time to live of the requests, or their hop limit; 64 if zero.
	TTL uint8
	// TOS is the type of service of the requests, or their traffic class.
	TOS uint8
	// DontFragment forbids to send large requests in fragments.
	DontFragment bool
	// OnReply, if not nil, is called for everything that comes in answer, in the goroutine
	// of Ping.
	OnReply func(PingReply)
}

// A PingReply is what came in answer to a request, or that nothing did.
type PingReply struct {
	// Seq is the number of the request, from 0, modulo 65536.
	Seq int
	// From is the address that the answer came from: with an error, a router's perhaps.
	// It is invalid where no answer came in time.
	From netip.Addr
	// RTT is the time from the request to the answer.
	RTT time.Duration
	// TTL is the time to live of the answer.
	TTL uint8
	// Size is the number of bytes of data in the answer.
	Size int
	// Duplicate tells that the request had been answered before.
	Duplicate bool
	// Err is nil for an echo reply; os.ErrDeadlineExceeded where none came in time; or a
	// syscall.Errno for an ICMP error, as Linux has it: EHOSTUNREACH for time exceeded and most
	// kinds of destination unreachable, EPROTO for a parameter problem.
	Err error
}

// PingStats are the results of a Ping.
type PingStats struct {
	Addr       netip.Addr // that was pinged
	Sent       int
	Received   int // requests with an answer
	Duplicates int // further answers
	Errors     int // requests that an ICMP error came for
	// Of the round trips: the shortest, the mean, the longest and the standard deviation.
	Min, Avg, Max, MDev time.Duration
}

// Loss is the part of the requests that was not answered, 0 to 1.
func (s *PingStats) Loss() float64 {
	if s.Sent == 0 {
		return 0
	}
	return float64(s.Sent-s.Received) / float64(s.Sent)
}

const (
	maxPingData  = 65507 // RFC 791: what fits into the largest datagram after 20+8 bytes of headers
	maxPingData6 = 65527 // RFC 8200 3: the payload length does not count the header of 40 bytes
	echoLen      = 8     // RFC 792 and RFC 4443 4.1: the header of an echo message
)

// Ping sends ICMP echo requests (RFC 792, RFC 4443 4.1) to a host and tells of the answers. A name
// with several addresses is pinged at the first one that Dial would try. That some or all requests are not answered is no error, but seen in the PingStats, which are
// valid beside an error too. The error is a *net.OpError: of Op "dial" if the address is not found
// or ctx ended early, and of Op "write" if a request cannot be sent.
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
	most := maxPingData
	if network = "ip4:icmp"; ip.To4() == nil {
		network, proto, most = "ip6:ipv6-icmp", wire.ProtoICMPv6, maxPingData6
	}
	if cfg.Size < 0 || cfg.Size > most {
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
	stop := context.AfterFunc(ctx, func() { raw.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	err = p.run(ctx)
	p.finish()
	if err == nil && ctx.Err() != nil && cfg.Count >= 0 {
		err = dialError(network, nil, addrs[0], contextError(ctx.Err()))
	}
	return p.stats, err
}

// A pinger is one Ping under way.
type pinger struct {
	cfg    PingConfig
	fam    family
	loose  bool // answers come from other addresses than the one that is pinged
	raw    *stack.Raw
	laddr  net.Addr
	to     netip.Addr // with its zone
	id     uint16
	msg    []byte // the request
	buf    []byte // what is received
	stats  PingStats
	out    []request // without an answer so far, oldest first
	done   []request // answered not long ago, to tell duplicates
	sum    time.Duration
	square float64 // of the round trips, in ns^2
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
	// A group, a broadcast address, also one that looks as if it were that of a distant network,
	// or the host itself as 0.0.0.0.
	p.loose = to.IsMulticast() || h.stack.IsBroadcast(to) || to.Is4() && to.As4()[3] == 255 || to.IsUnspecified()
	p.laddr = f.ipAddr(raw.LocalAddr())
	var id [2]byte
	h.fill(id[:])
	p.id = binary.BigEndian.Uint16(id[:])
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

// run sends the requests and waits for the answers to all of them, or for the end
// of the context, of which it says nothing.
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

// wake returns when there is something to do even if no message comes.
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
	if !p.fam.six { // else the socket fills it in
		binary.BigEndian.PutUint16(p.msg[2:], wire.Checksum(p.msg))
	}
	r := request{seq, time.Now()}
	// Known before it is sent: on a link in memory, the answer comes first.
	p.out = append(p.out, r)
	p.stats.Sent++
	o := stack.SendOptions{TTL: p.cfg.TTL, TOS: p.cfg.TOS, DontFragment: p.cfg.DontFragment}
	p.raw.SetWriteDeadline(r.sent.Add(p.cfg.Timeout))
	if ctx.Err() != nil {
		return nil // the deadline that ended Ping may have been before this one
	}
	_, err := p.raw.WriteTo(p.msg, p.to, o)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) { // else the link takes nothing: it is lost
		return &net.OpError{Op: "write", Net: p.network(), Source: p.laddr, Addr: p.fam.ipAddr(p.to), Err: syscallError("sendto", err)}
	}
	return nil
}

// network is that of the errors.
func (p *pinger) network() string {
	if p.fam.six {
		return "ip6"
	}
	return "ip4"
}

// receive takes one message, or none until the given time.
func (p *pinger) receive(ctx context.Context, until time.Time) error {
	p.raw.SetReadDeadline(until)
	// The end of the context sets a deadline too, before or after this one.
	if ctx.Err() != nil {
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

// expire gives up on the requests whose time is over.
func (p *pinger) expire(now time.Time) {
	for len(p.out) > 0 && now.Sub(p.out[0].sent) >= p.cfg.Timeout {
		r := p.out[0]
		p.out = p.out[1:]
		p.tell(PingReply{Seq: int(r.seq), RTT: now.Sub(r.sent), Err: os.ErrDeadlineExceeded})
	}
}

func (p *pinger) tell(r PingReply) {
	if p.cfg.OnReply != nil {
		p.cfg.OnReply(r)
	}
}

// input takes an ICMP message, which may have nothing to do with us.
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

// errno is that of an ICMP error, or 0 for other messages.
func (p *pinger) errno(msg []byte) (errno syscall.Errno) {
	if p.fam.six {
		errno, _ = stack.ICMPv6Errno(wire.ICMPv6Type(msg[0]), msg[1])
	} else {
		errno, _ = stack.ICMPErrno(wire.ICMPType(msg[0]), msg[1])
	}
	return errno
}

// quoted returns the ICMP message that a quoted datagram begins with, at least its
// header, if it is a request to where we send ours.
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

// answer takes note of what came for a request.
func (p *pinger) answer(seq uint16, reply PingReply) {
	now := time.Now()
	reply.Seq = int(seq)
	same := func(r request) bool { return r.seq == seq }
	if i := slices.IndexFunc(p.done, same); i >= 0 && reply.Err == nil {
		reply.Duplicate, reply.RTT = true, now.Sub(p.done[i].sent)
		p.stats.Duplicates++
		p.tell(reply)
		return
	}
	i := slices.IndexFunc(p.out, same)
	if i < 0 {
		return
	}
	r := p.out[i]
	p.out = slices.Delete(p.out, i, i+1)
	reply.RTT = now.Sub(r.sent)
	if reply.Err != nil {
		p.stats.Errors++
		p.tell(reply)
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
	p.tell(reply)
}

// finish computes what needs all round trips.
func (p *pinger) finish() {
	n := p.stats.Received
	if n == 0 {
		return
	}
	p.stats.Avg = p.sum / time.Duration(n)
	mean := float64(p.sum) / float64(n)
	p.stats.MDev = time.Duration(math.Sqrt(max(0, p.square/float64(n)-mean*mean)))
}
