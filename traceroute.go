package usernet

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/usernet/usernet/stack"
	"github.com/usernet/usernet/stack/wire"
)

// A TraceMethod is the kind of packet that Traceroute sends.
type TraceMethod uint8

const (
	TraceUDP  TraceMethod = iota // UDP datagrams to ports that are probably closed
	TraceICMP                    // ICMP echo requests
	TraceTCP                     // TCP SYN segments; an open port's answer is reset
)

// TracerouteConfig configures Traceroute. In the zero value, it sends three UDP datagrams for each hop,
// up to 30 hops.
type TracerouteConfig struct {
	// Network is "ip4" or "ip6" for an address of that family, or "ip" for either; "ip" if empty.
	Network string
	// Method is the kind of packet that is sent.
	Method TraceMethod
	// FirstTTL and MaxTTL are the first and the last time to live, or hop limit: 1 to 255; 1 and 30
	// if zero.
	FirstTTL, MaxTTL int
	// Probes is the number of packets for each hop, 1 to 10; 3 if zero.
	Probes int
	// Parallel is the largest number of packets that wait for their answers at the same time; 16 if
	// zero.
	Parallel int
	// Timeout is how long Traceroute waits for the answer to a packet; 3 s if zero.
	Timeout time.Duration
	// Interval is the time from one packet to the next. Zero means no limit but Parallel.
	Interval time.Duration
	// Port is the destination port: of TCP, 80 if zero; of the first UDP datagram, 33434 if zero.
	// Each further datagram is sent to the next port, which after 65535 is 1. For ICMP, Port is the
	// sequence number of the first request.
	Port uint16
	// Size is the number of bytes of data of a UDP datagram or an echo request, 0 to 65000. Negative
	// means none; zero means 32 bytes. A SYN has no data.
	Size int
	// TOS is the type of service of the packets, or their traffic class.
	TOS uint8
	// DontFragment forbids the fragmentation of the packets.
	DontFragment bool
	// OnHop, if not nil, is called for each hop in order, as soon as all its packets are answered or
	// have timed out. It runs on the goroutine that called Traceroute.
	OnHop func(TraceHop)
}

// A TraceHop has the answers to the packets with one time to live.
type TraceHop struct {
	TTL     int
	Replies []TraceReply // one for each packet, in the order in which they were sent
}

// A TraceReply is the answer to one packet of Traceroute.
type TraceReply struct {
	// From is the address that answered. It is invalid if the packet timed out or was not sent.
	From netip.Addr
	// RTT is the time from the packet to the answer.
	RTT time.Duration
	// TTL is the time to live of the answer.
	TTL uint8
	// Final reports whether the route ends here: the destination has answered, or a router has
	// refused to forward the packet.
	Final bool
	// ICMP reports whether the answer is an ICMP message. Type and Code are those of the message.
	ICMP       bool
	Type, Code uint8
	// MTU is the next-hop MTU in the message, if the packet was too large; else 0.
	MTU int
	// Err is nil if a router has reported that the time to live was exceeded, or if the destination
	// has answered: with an echo reply, with Port Unreachable, with a UDP datagram, or with a SYN-ACK
	// or RST. It is os.ErrDeadlineExceeded if the packet timed out. For other ICMP errors it is a
	// syscall.Errno, as in a PingReply. It is also an Errno if the host itself could not send the
	// packet, such as EHOSTUNREACH if the next hop does not answer ARP.
	Err error
}

// Limits and default values of Traceroute.
const (
	defaultTraceTTL    = 30
	defaultTraceProbes = 3
	maxTraceProbes     = 10
	defaultParallel    = 16
	traceTimeout       = 3 * time.Second
	traceSize          = 32
	maxTraceSize       = 65000
	traceUDPPort       = 33434 // the port that every traceroute has used since the first one
	traceTCPPort       = 80

	// The source ports of SYNs are above the ephemeral ports, and below 65536 - 255*maxTraceProbes.
	firstTracePort = 61000
	numTracePorts  = 1 << 10
)

// withDefaults returns cfg with its default values filled in, or EINVAL if a value is out of range.
func (cfg TracerouteConfig) withDefaults() (TracerouteConfig, error) {
	set := func(to *int, value int) {
		if *to == 0 {
			*to = value
		}
	}
	set(&cfg.FirstTTL, 1)
	set(&cfg.MaxTTL, max(cfg.FirstTTL, defaultTraceTTL))
	set(&cfg.Probes, defaultTraceProbes)
	set(&cfg.Parallel, defaultParallel)
	set(&cfg.Size, traceSize)
	cfg.Size = max(cfg.Size, 0)
	if cfg.Timeout <= 0 {
		cfg.Timeout = traceTimeout
	}
	if cfg.Network == "" {
		cfg.Network = "ip"
	}
	if cfg.Port == 0 {
		cfg.Port = map[TraceMethod]uint16{TraceUDP: traceUDPPort, TraceTCP: traceTCPPort}[cfg.Method]
	}
	switch {
	case cfg.Method > TraceTCP, cfg.FirstTTL < 1, cfg.MaxTTL > 255, cfg.FirstTTL > cfg.MaxTTL, cfg.Parallel < 1,
		cfg.Probes < 1 || cfg.Probes > maxTraceProbes:
		return cfg, syscall.EINVAL
	case cfg.Size > maxTraceSize:
		return cfg, syscall.EMSGSIZE
	}
	return cfg, nil
}

// Traceroute finds the routers on the way to a host. It sends packets with a rising time to live, or hop
// limit, and each router that drops one reports this by ICMP (RFC 792, RFC 4443 3.3). Traceroute ends at
// the hop that is the destination, or whose router refuses to forward, or at cfg.MaxTTL. It returns the
// hops in order. If a name has several addresses, Traceroute uses the first one that Dial would try.
// Routers that do not answer are not an error. The hops are also valid if there is an error.
//
// The error is a *net.OpError. Its Op is "dial" if Traceroute cannot start (EINVAL or EMSGSIZE if a value
// in cfg is out of range) or if ctx ends early, "write" if a packet cannot be sent, and "read" if answers
// cannot be received, for example because the host was closed.
func (h *Host) Traceroute(ctx context.Context, addr string, cfg TracerouteConfig) ([]TraceHop, error) {
	network := cfg.Network + ":icmp"
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, dialError(network, nil, nil, err)
	}
	switch network = cfg.Network + ":icmp"; cfg.Network {
	case "ip", "ip4", "ip6":
	default:
		return nil, dialError(cfg.Network, nil, nil, net.UnknownNetworkError(cfg.Network))
	}
	addrs, err := h.dialAddrs(ctx, h.lookup, network, addr, nil)
	if err != nil {
		return nil, dialError(network, nil, nil, err)
	}
	t, err := h.newTracer(addrs[0], cfg)
	if err != nil {
		return nil, dialError(network, nil, addrs[0], err)
	}
	defer t.close()
	// When ctx ends, a deadline in the past ends blocked calls.
	stop := context.AfterFunc(ctx, t.expireAll)
	defer stop()
	hops, err := t.run(ctx)
	if err == nil && ctx.Err() != nil {
		err = dialError(network, nil, addrs[0], contextError(ctx.Err()))
	}
	return hops, err
}

// A tracer is the state of one Traceroute.
type tracer struct {
	cfg   TracerouteConfig
	fam   family
	to    netip.Addr // with its zone
	src   netip.Addr // our address, for the checksum of TCP
	id    uint16     // identifier of echo requests, or port of the first SYN
	seq   uint32     // sequence number of SYNs
	icmp  *stack.Raw // receives the ICMP messages, and sends the echo requests
	tcp   *stack.Raw // nil without TraceTCP
	udp   *stack.UDP // nil without TraceUDP
	laddr net.Addr

	answers chan traceAnswer
	failed  chan error    // has the first error of a reader
	done    chan struct{} // closed by close
	readers sync.WaitGroup

	probes []traceProbe
	next   int // index of the next probe to send
	last   int // the hop at which the route ends, or cfg.MaxTTL
}

// A traceProbe is the state of one packet. The packet with the index i is one for hop
// FirstTTL + i/Probes.
type traceProbe struct {
	sent  time.Time
	over  bool // answered, timed out, or not sent
	reply TraceReply
}

// A traceAnswer is an answer to the probe with the given index.
type traceAnswer struct {
	index int
	at    time.Time
	reply TraceReply
}

// newTracer opens the sockets of a Traceroute and starts their readers.
func (h *Host) newTracer(addr net.Addr, cfg TracerouteConfig) (t *tracer, err error) {
	ip, _, zone := addrIP(addr)
	network, proto := "ip4", wire.ProtoICMP
	if ip.To4() == nil {
		network, proto = "ip6", wire.ProtoICMPv6
	}
	f := h.family(network, nil, nil, false)
	if err := h.supported(f); err != nil {
		return nil, err
	}
	t = &tracer{cfg: cfg, fam: f, last: cfg.MaxTTL, done: make(chan struct{}), failed: make(chan error, 1)}
	if t.to, err = f.addr(ip, zone); err != nil {
		return nil, err
	}
	if t.to.IsUnspecified() { // it stands for the host itself
		if t.to = netip.IPv6Loopback(); !f.six {
			t.to = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		}
	}
	if t.src = h.stack.SourceFor(t.to); !t.src.IsValid() {
		return nil, syscallError("connect", syscall.ENETUNREACH)
	}
	t.probes = make([]traceProbe, (cfg.MaxTTL-cfg.FirstTTL+1)*cfg.Probes)
	t.answers = make(chan traceAnswer, len(t.probes)) // so that a slow OnHop does not delay the readers
	var random [6]byte
	h.fill(random[:])
	t.id = uint16(random[0])<<8 | uint16(random[1])
	t.seq = uint32(random[2])<<24 | uint32(random[3])<<16 | uint32(random[4])<<8 | uint32(random[5])
	if cfg.Method == TraceTCP {
		t.id = firstTracePort + t.id%numTracePorts
	}
	if t.icmp, err = h.stack.OpenRaw(f.stack, uint16(proto), netip.Addr{}); err != nil {
		return nil, syscallError("socket", err)
	}
	t.laddr = f.ipAddr(t.icmp.LocalAddr())
	switch cfg.Method {
	case TraceTCP:
		if t.tcp, err = h.stack.OpenRaw(f.stack, uint16(wire.ProtoTCP), netip.Addr{}); err == nil && f.six {
			err = t.tcp.SetChecksum(true, tcpChecksumOffset)
		}
	case TraceUDP:
		t.udp, err = h.stack.OpenUDP(f.stack, netip.AddrPort{})
	}
	if err != nil {
		t.close()
		return nil, syscallError("socket", err)
	}
	t.start()
	return t, nil
}

// tcpChecksumOffset is the offset of the checksum in a TCP header, in bytes (RFC 9293 3.1).
const tcpChecksumOffset = 16

// start starts a reader for each socket.
func (t *tracer) start() {
	t.read(func(b []byte) (traceAnswer, bool, error) {
		n, _, from, meta, err := t.icmp.ReadFrom(b)
		if err != nil {
			return traceAnswer{}, false, err
		}
		a, ok := t.icmpAnswer(b[:n])
		a.reply.From, a.reply.TTL = from, meta.TTL
		return a, ok, nil
	})
	if t.tcp != nil {
		t.read(func(b []byte) (traceAnswer, bool, error) {
			n, _, from, meta, err := t.tcp.ReadFrom(b)
			if err != nil {
				return traceAnswer{}, false, err
			}
			a, ok := t.tcpAnswer(b[:n], from)
			a.reply.From, a.reply.TTL = from, meta.TTL
			return a, ok, nil
		})
	}
	if t.udp != nil {
		t.read(func(b []byte) (traceAnswer, bool, error) {
			_, _, from, meta, err := t.udp.ReadFrom(b)
			a := traceAnswer{index: t.udpIndex(from.Port()), reply: TraceReply{From: from.Addr(), TTL: meta.TTL, Final: true}}
			return a, t.isFrom(from.Addr()), err
		})
	}
}

// read starts a reader, which calls f until a call fails. f receives a packet and returns the answer in
// it; ok is false if the packet is not an answer.
func (t *tracer) read(f func(b []byte) (a traceAnswer, ok bool, err error)) {
	t.readers.Add(1)
	go func() {
		defer t.readers.Done()
		buf := make([]byte, 1<<16)
		for {
			a, ok, err := f(buf)
			if err != nil {
				select {
				case t.failed <- err:
				default:
				}
				return
			}
			if !ok || a.index < 0 || a.index >= len(t.probes) {
				continue
			}
			a.at = time.Now()
			select {
			case t.answers <- a:
			case <-t.done:
				return
			}
		}
	}()
}

// expireAll ends the calls that wait on the sockets.
func (t *tracer) expireAll() {
	past := time.Unix(1, 0)
	t.icmp.SetDeadline(past)
	if t.tcp != nil {
		t.tcp.SetDeadline(past)
	}
	if t.udp != nil {
		t.udp.SetDeadline(past)
	}
}

// close closes the sockets and waits for the readers.
func (t *tracer) close() {
	close(t.done)
	t.icmp.Close()
	if t.tcp != nil {
		t.tcp.Close()
	}
	if t.udp != nil {
		t.udp.Close()
	}
	t.readers.Wait()
}

// run sends the probes and returns the hops. It returns nil as the error if ctx ends earlier.
func (t *tracer) run(ctx context.Context) (hops []TraceHop, err error) {
	var due time.Time // when the next probe may be sent
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		t.drain()
		now := time.Now()
		waiting, first := t.expire(now)
		hops = t.report(hops)
		if len(hops) == t.last-t.cfg.FirstTTL+1 {
			return hops, nil
		}
		more := t.next < t.end() && waiting < t.cfg.Parallel
		if more && !now.Before(due) {
			if err := t.send(ctx, t.next); err != nil {
				return hops, err
			}
			t.next++
			due = now.Add(t.cfg.Interval)
			continue
		}
		wake := first.Add(t.cfg.Timeout)
		if more && (waiting == 0 || due.Before(wake)) {
			wake = due
		}
		timer.Reset(time.Until(wake))
		select {
		case a := <-t.answers:
			t.answer(a)
		case err := <-t.failed:
			if ctx.Err() == nil {
				return hops, &net.OpError{Op: "read", Net: t.network(), Source: t.laddr, Err: syscallError("recvfrom", err)}
			}
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	return hops, nil
}

// end returns the index after the last probe that the route needs.
func (t *tracer) end() int { return (t.last - t.cfg.FirstTTL + 1) * t.cfg.Probes }

// network returns the network for errors.
func (t *tracer) network() string {
	if t.fam.six {
		return "ip6"
	}
	return "ip4"
}

// drain processes the answers that have arrived.
func (t *tracer) drain() {
	for {
		select {
		case a := <-t.answers:
			t.answer(a)
		default:
			return
		}
	}
}

// answer records the first answer to a probe.
func (t *tracer) answer(a traceAnswer) {
	if a.index >= t.next || t.probes[a.index].over {
		return
	}
	p := &t.probes[a.index]
	a.reply.RTT = a.at.Sub(p.sent)
	p.over, p.reply = true, a.reply
	if a.reply.Final {
		t.last = min(t.last, t.cfg.FirstTTL+a.index/t.cfg.Probes)
	}
}

// expire ends the probes that have timed out. It returns the number of probes that wait for their answers,
// and when the first of them was sent.
func (t *tracer) expire(now time.Time) (waiting int, first time.Time) {
	for i := range t.probes[:min(t.next, t.end())] {
		p := &t.probes[i]
		switch {
		case p.over:
		case now.Sub(p.sent) >= t.cfg.Timeout:
			p.over, p.reply.Err = true, os.ErrDeadlineExceeded
		default:
			if waiting++; waiting == 1 {
				first = p.sent
			}
		}
	}
	return waiting, first
}

// report appends to hops the hops that are complete, and calls OnHop for each of them.
func (t *tracer) report(hops []TraceHop) []TraceHop {
	for t.cfg.FirstTTL+len(hops) <= t.last {
		hop := TraceHop{TTL: t.cfg.FirstTTL + len(hops)}
		for _, p := range t.probes[len(hops)*t.cfg.Probes:][:t.cfg.Probes] {
			if !p.over {
				return hops
			}
			hop.Replies = append(hop.Replies, p.reply)
		}
		if hops = append(hops, hop); t.cfg.OnHop != nil {
			t.cfg.OnHop(hop)
		}
	}
	return hops
}

// send sends the probe with index i. If the host cannot reach the next hop, that is the result of the
// probe, and not an error of send.
func (t *tracer) send(ctx context.Context, i int) error {
	p := &t.probes[i]
	p.sent = time.Now()
	o := stack.SendOptions{TTL: uint8(t.cfg.FirstTTL + i/t.cfg.Probes), TOS: t.cfg.TOS, DontFragment: t.cfg.DontFragment}
	end := p.sent.Add(t.cfg.Timeout)
	var err error
	switch t.cfg.Method {
	case TraceICMP:
		t.icmp.SetWriteDeadline(end)
		if ctx.Err() != nil { // SetWriteDeadline may have replaced the deadline set when ctx ended
			return nil
		}
		_, err = t.icmp.WriteTo(t.echo(i), t.to, o)
	case TraceTCP:
		t.tcp.SetWriteDeadline(end)
		if ctx.Err() != nil {
			return nil
		}
		o.Src = t.src
		_, err = t.tcp.WriteTo(t.syn(i), t.to, o)
	default:
		t.udp.SetWriteDeadline(end)
		if ctx.Err() != nil {
			return nil
		}
		_, err = t.udp.WriteTo(t.data(), netip.AddrPortFrom(t.to, t.udpPort(i)), o)
	}
	switch {
	case err == nil, errors.Is(err, os.ErrDeadlineExceeded): // if the link accepts nothing, the probe times out
	case err == syscall.EHOSTUNREACH:
		p.over, p.reply.Err = true, err
	default:
		return &net.OpError{Op: "write", Net: t.network(), Source: t.laddr, Addr: t.fam.ipAddr(t.to), Err: syscallError("sendto", err)}
	}
	return nil
}
