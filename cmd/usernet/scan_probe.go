package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/stack/wire"
)

// connect scans by connections.
func (s *scanner) connect(outer context.Context) error {
	ctx, cancel := context.WithCancelCause(outer)
	defer cancel(nil)
	work := make(chan uint16)
	var wg sync.WaitGroup
	var mu sync.Mutex // guards s.states and next
	var next time.Time
	pause := func() {
		mu.Lock()
		now := time.Now()
		if next.Before(now) {
			next = now
		}
		wait := next.Sub(now)
		next = next.Add(s.interval)
		mu.Unlock()
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
	for range min(s.parallel, len(s.ports)) {
		wg.Go(func() {
			for port := range work {
				state, err := s.connectTo(ctx, port, pause)
				if err != nil {
					cancel(err)
					continue
				}
				mu.Lock()
				s.states[port] = state
				mu.Unlock()
			}
		})
	}
	for _, port := range s.ports {
		select {
		case work <- port:
		case <-ctx.Done():
		}
	}
	close(work)
	wg.Wait()
	if err := interrupted(outer); err != nil {
		return err
	}
	return context.Cause(ctx)
}

// connectTo connects to a port, at most s.tries times. It resets the connection, so that none remains in
// TIME-WAIT. It calls pause before each try.
func (s *scanner) connectTo(ctx context.Context, port uint16, pause func()) (portState, error) {
	for range s.tries {
		pause()
		try, cancel := context.WithTimeout(ctx, s.timeout)
		d := usernet.Dialer{Host: s.host}
		c, err := d.DialTCP(try, "tcp", netip.AddrPort{}, netip.AddrPortFrom(s.to, port))
		cancel()
		switch {
		case err == nil:
			c.SetLinger(0)
			c.Close()
			return stateOpen, nil
		case ctx.Err() != nil:
			return "", ctx.Err()
		case errors.Is(err, syscall.ECONNREFUSED):
			return stateClosed, nil
		case errors.Is(err, context.DeadlineExceeded):
		case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, net.ErrClosed),
			errors.Is(err, syscall.EADDRNOTAVAIL), errors.Is(err, syscall.EAFNOSUPPORT):
			return "", err
		default: // an ICMP error, or no answer of ARP
			return stateFiltered, nil
		}
	}
	return stateFiltered, nil
}

// A rawScan is the state of a scan by SYN segments or by datagrams.
type rawScan struct {
	*scanner
	six     bool
	src     netip.Addr
	icmp    net.PacketConn
	tcp     *usernet.IPConn  // sends the SYNs; nil for UDP
	sock    *usernet.UDPConn // sends the datagrams; for TCP, it only keeps its port number for the SYNs
	local   uint16           // our port
	seq     uint32           // of the SYNs
	answers chan scanAnswer
	failed  chan error
	done    chan struct{}
	readers sync.WaitGroup

	queue []uint16              // ports to probe, in order
	out   []uint16              // ports that wait for their answers, in the order in which they were probed
	ports map[uint16]*portProbe // by number
}

// A portProbe is the state of the probes of one port.
type portProbe struct {
	tries int
	sent  time.Time // of the last one
}

// A scanAnswer is the state of a port as a received packet shows it.
type scanAnswer struct {
	port  uint16
	state portState
}

// raw scans by SYN segments, or by datagrams if s.udp is set.
func (s *scanner) raw(ctx context.Context) error {
	r, err := s.newRaw()
	if err != nil {
		return err
	}
	defer r.close()
	return r.run(ctx)
}

func (s *scanner) newRaw() (_ *rawScan, err error) {
	r := &rawScan{
		scanner: s, six: s.to.Is6(), src: s.host.Stack().SourceFor(s.to),
		answers: make(chan scanAnswer, 1024), failed: make(chan error, 1), done: make(chan struct{}),
		queue: append([]uint16(nil), s.ports...), ports: make(map[uint16]*portProbe),
	}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	if !r.src.IsValid() {
		return nil, fmt.Errorf("%v: %w", s.to, syscall.ENETUNREACH)
	}
	for _, port := range s.ports {
		r.ports[port] = new(portProbe)
	}
	family, icmp := "4", "ip4:icmp"
	if r.six {
		family, icmp = "6", "ip6:ipv6-icmp"
	}
	if r.icmp, err = s.host.ListenPacket(icmp, ""); err != nil {
		return nil, err
	}
	// A UDP socket has an ephemeral port, which others cannot predict. The SYNs use the same number, so a scan of TCP
	// opens the socket, too.
	pc, err := s.host.ListenPacket("udp"+family, ":0")
	if err != nil {
		return nil, err
	}
	r.sock = pc.(*usernet.UDPConn)
	r.local = uint16(pc.LocalAddr().(*net.UDPAddr).Port)
	r.read(r.readICMP)
	if s.udp {
		r.read(r.readUDP)
		return r, nil
	}
	raw, err := s.host.ListenPacket("ip"+family+":tcp", "")
	if err != nil {
		return nil, err
	}
	r.tcp = raw.(*usernet.IPConn)
	if r.six {
		const checksumOffset = 16 // RFC 9293 3.1
		if err := r.tcp.SetChecksum(true, checksumOffset); err != nil {
			return nil, err
		}
	}
	r.seq = uint32(r.local)<<16 ^ uint32(time.Now().UnixNano())
	r.read(r.readTCP)
	return r, nil
}

// read starts a reader, which calls f until a call fails.
func (r *rawScan) read(f func(b []byte) (scanAnswer, bool, error)) {
	r.readers.Go(func() {
		buf := make([]byte, 1<<16)
		for {
			a, ok, err := f(buf)
			if err != nil {
				select {
				case r.failed <- err:
				default:
				}
				return
			}
			if _, asked := r.ports[a.port]; !ok || !asked {
				continue
			}
			select {
			case r.answers <- a:
			case <-r.done:
				return
			}
		}
	})
}

func (r *rawScan) close() {
	close(r.done)
	if r.icmp != nil {
		r.icmp.Close()
	}
	if r.sock != nil {
		r.sock.Close()
	}
	if r.tcp != nil {
		r.tcp.Close()
	}
	r.readers.Wait()
}

// maxInterval is the longest time between probes that a scan of UDP chooses itself. Linux sends about one
// ICMP error a second to an address.
const maxInterval = time.Second

// run probes all ports.
func (r *rawScan) run(ctx context.Context) error {
	var due time.Time // of the next probe
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		for more := true; more; {
			select {
			case a := <-r.answers:
				r.answer(a)
			default:
				more = false
			}
		}
		now := time.Now()
		r.expire(now)
		if len(r.queue) == 0 && len(r.out) == 0 {
			return nil
		}
		more := len(r.queue) > 0 && len(r.out) < r.parallel
		if more && !now.Before(due) {
			port := r.queue[0]
			r.queue = r.queue[1:]
			if _, done := r.states[port]; done { // answered while it waited for its next try
				continue
			}
			if err := r.send(port, now); err != nil {
				return err
			}
			due = now.Add(r.interval)
			continue
		}
		wake := due
		if len(r.out) > 0 {
			if end := r.ports[r.out[0]].sent.Add(r.timeout); !more || end.Before(due) {
				wake = end
			}
		}
		timer.Reset(time.Until(wake))
		select {
		case a := <-r.answers:
			r.answer(a)
		case err := <-r.failed:
			return err
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	return interrupted(ctx)
}

// answer records the state of a port.
func (r *rawScan) answer(a scanAnswer) {
	if _, known := r.states[a.port]; known || r.ports[a.port].tries == 0 {
		return
	}
	r.states[a.port] = a.state
	for i, port := range r.out {
		if port == a.port {
			r.out = append(r.out[:i], r.out[i+1:]...)
			break
		}
	}
	// If only a later try was answered, the host limits the rate of its ICMP errors. Then the scan becomes
	// slower, and probes each port more times.
	if r.udp && a.state == stateClosed && r.ports[a.port].tries > 1 {
		r.interval = min(max(2*r.interval, 50*time.Millisecond), max(r.interval, maxInterval))
		r.tries = min(r.tries+1, 10)
	}
}

// expire handles the ports whose probe has timed out: it queues them for another probe or, after the last probe, sets
// their state.
func (r *rawScan) expire(now time.Time) {
	for len(r.out) > 0 {
		port := r.out[0]
		p := r.ports[port]
		if now.Sub(p.sent) < r.timeout {
			return
		}
		r.out = r.out[1:]
		switch {
		case p.tries < r.tries:
			r.queue = append(r.queue, port)
		case r.udp:
			r.states[port] = stateOpenOrFiltered
		default:
			r.states[port] = stateFiltered
		}
	}
}

// send probes a port.
func (r *rawScan) send(port uint16, now time.Time) error {
	p := r.ports[port]
	p.tries++
	p.sent = now
	r.out = append(r.out, port)
	var err error
	if end := now.Add(r.timeout); r.udp {
		r.sock.SetWriteDeadline(end)
		_, err = r.sock.WriteToUDPAddrPort(udpPayload(port), netip.AddrPortFrom(r.to, port))
	} else {
		r.tcp.SetWriteDeadline(end)
		_, err = r.tcp.WritePacket(r.syn(port), usernet.PacketInfo{Remote: netip.AddrPortFrom(r.to, 0), Local: r.src})
	}
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, syscall.EHOSTUNREACH) {
		return nil // if the packet was not sent, the port has no answer
	}
	return err
}

// syn returns the SYN for a port.
func (r *rawScan) syn(port uint16) []byte {
	h := wire.TCP{SrcPort: r.local, DstPort: port, Seq: r.seq, Flags: wire.FlagSYN, Window: 1024, MSS: 1460}
	b := make([]byte, h.Len())
	h.Put(b)
	if !r.six { // an IPv6 raw socket sets the checksum itself
		wire.SetTCPChecksum(r.src, r.to, b)
	}
	return b
}

// udpPayload returns the datagram for a port. Some services answer only their own requests.
func udpPayload(port uint16) []byte {
	switch port {
	case 53, 5353: // a query for the name servers of the root (RFC 1035 4.1)
		return []byte{0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1}
	case 123: // a request of a client of version 4 (RFC 5905 7.3)
		return append([]byte{0x23}, make([]byte, 47)...)
	}
	return nil
}

func (r *rawScan) readUDP(b []byte) (scanAnswer, bool, error) {
	_, from, err := r.sock.ReadFromUDPAddrPort(b)
	return scanAnswer{from.Port(), stateOpen}, r.isTarget(from.Addr()), err
}

// readTCP reads a segment. It cannot verify the checksum, which is not complete yet if the sender offloads it.
// The acknowledgment of r.seq shows that the segment is an answer. The host itself answers a SYN-ACK with a RST,
// because it has no such connection.
func (r *rawScan) readTCP(b []byte) (a scanAnswer, ok bool, err error) {
	n, info, err := r.tcp.ReadPacket(b)
	if err != nil {
		return a, false, err
	}
	b = b[:n]
	h, _, bad := wire.ParseTCP(b)
	if bad != wire.OK || !r.isTarget(info.Remote.Addr()) || h.DstPort != r.local || h.Flags&wire.FlagACK == 0 || h.Ack != r.seq+1 {
		return a, false, nil
	}
	switch {
	case h.Flags&wire.FlagRST != 0:
		return scanAnswer{h.SrcPort, stateClosed}, true, nil
	case h.Flags&wire.FlagSYN != 0:
		return scanAnswer{h.SrcPort, stateOpen}, true, nil
	}
	return a, false, nil
}

func (r *rawScan) isTarget(a netip.Addr) bool { return a.WithZone("") == r.to.WithZone("") }

// readICMP reads an ICMP message. A port is closed if it is unreachable for a datagram. With other errors
// and for a SYN it is filtered, as in nmap.
func (r *rawScan) readICMP(b []byte) (a scanAnswer, ok bool, err error) {
	n, from, err := r.icmp.ReadFrom(b)
	if err != nil {
		return a, false, err
	}
	const header = 8
	if b = b[:n]; n < header || !r.six && wire.Checksum(b) != 0 {
		return a, false, nil
	}
	proto, dst, ports, ok := unreachable(b, r.six)
	wanted := wire.ProtoTCP
	if r.udp {
		wanted = wire.ProtoUDP
	}
	if !ok || proto != wanted || !r.isTarget(dst) || binary.BigEndian.Uint16(ports) != r.local {
		return a, false, nil
	}
	a = scanAnswer{binary.BigEndian.Uint16(ports[2:]), stateFiltered}
	addr, _ := netip.AddrFromSlice(from.(*net.IPAddr).IP)
	closed := b[1] == wire.UnreachPort
	if r.six {
		closed = b[1] == wire.Unreach6Port
	}
	if r.udp && closed && r.isTarget(addr.Unmap()) {
		a.state = stateClosed
	}
	return a, true, nil
}

// unreachable returns what a Destination Unreachable message quotes: the protocol, the destination, and the
// first 8 bytes after the IP headers.
func unreachable(b []byte, six bool) (proto wire.Proto, dst netip.Addr, ports []byte, ok bool) {
	if six {
		q, bad := wire.ParseQuoted6(b[wire.ICMPLen:])
		return q.Proto, q.Dst, q.Transport, bad == wire.OK && wire.ICMPv6Type(b[0]) == wire.ICMPv6Unreachable && len(q.Transport) >= 8
	}
	h, t, bad := wire.ParseQuoted(b[wire.ICMPLen:])
	return h.Proto, h.Dst, t, bad == wire.OK && wire.ICMPType(b[0]) == wire.ICMPUnreachable && len(t) >= 8
}
