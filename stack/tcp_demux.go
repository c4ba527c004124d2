package stack

import (
	"encoding/binary"
	"hash/maphash"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

// TCPConfig has the settings of TCP. The zero value selects the defaults.
type TCPConfig struct {
	// Params are the parameters of the protocol. If it is nil, they are tcp.DefaultParams. The stack
	// sets Alloc, Free, NewBlock, Spare, Pressure and Count itself.
	Params *tcp.Params
	// SynBacklog is the maximum number of half-open connections of one listener. Beyond that number, the
	// listener answers with SYN cookies. If SynBacklog is 0, the maximum is 1024.
	SynBacklog int
	// Memory is the budget of all send and receive buffers together, in bytes. If Memory is 0, the budget
	// is 1 GiB. While at least three quarters of the budget are in use, buffers do not grow, the receive
	// window of each connection shrinks to its minimum, and stalled orphans are reset. While the whole
	// budget is in use, a new connection causes the reset of orphans that still have data to send, and
	// about once a second the loss of all data that was received out of order. If that frees no memory,
	// the stack drops the SYN.
	Memory int64
	// TimeWaits is the maximum number of connections in TIME-WAIT. If there are more, the oldest is
	// removed. If TimeWaits is 0, the maximum is 32768.
	TimeWaits int
	// Orphans is the maximum number of orphans: connections that the application has closed, but whose
	// peer has not acknowledged all data or has not sent its FIN. If there are more, old orphans are
	// reset. If Orphans is 0, the maximum is 32768. Under memory pressure, orphans that make no progress
	// are reset as well.
	Orphans int
}

const (
	defaultSynBacklog = 1024
	defaultTimeWaits  = 32768
	defaultBacklog    = 4096 // Linux's net.core.somaxconn
	defaultTCPMemory  = 1 << 30
)

// tcpState is the state of TCP that all connections of a stack share.
type tcpState struct {
	sendBlocks sync.Pool // of *SendBlock
	params     tcp.Params
	synBacklog int
	memory     int64        // budget of the buffers in bytes
	used       atomic.Int64 // bytes of the budget that are in use

	table     tcpTable
	listenMu  mutex[levelBind] // held while a local port is chosen and taken
	listeners tcpListeners
	waits     timeWaits
	cookies   cookieKeys
	orphans   orphans
	reclaimer reclaimer
	wheel     timerWheel
	paths     pathCache
	timers    sync.Pool // of *sockTimer: timers that no connection uses

	// tcp.Time of the last pass of reclaimBuffers without and with all; 0: never
	reclaimedSoft, reclaimedHard atomic.Int64

	events atomic.Pointer[[tcp.NumCounters]atomic.Uint64] // allocated for the first event
}

// A tuple identifies a connection: the local and the remote address in their 16-byte form, then the
// local and the remote port. It contains no pointers, so it is hashed as one array of bytes.
type tuple [36]byte

// makeTuple returns the tuple of a connection. zone is the index of the interface if one of the addresses
// is link-local, and otherwise 0.
func makeTuple(local, remote netip.AddrPort, zone int) (k tuple) {
	l, r := local.Addr().As16(), remote.Addr().As16()
	copy(k[:16], l[:])
	copy(k[16:32], r[:])
	binary.BigEndian.PutUint16(k[32:], local.Port())
	binary.BigEndian.PutUint16(k[34:], remote.Port())
	if zone != 0 {
		k.setZone(0, zone)
		k.setZone(16, zone)
	}
	return k
}

// setZone stores an interface index in the address that begins at k[at], if that address is link-local.
// The index takes bits 16 to 31, which are zero in link-local addresses (RFC 4291 2.5.6). filter6 drops a
// packet with a link-local address in which these bits are not zero.
func (k *tuple) setZone(at, zone int) {
	if k[at] == 0xfe && k[at+1]&0xc0 == 0x80 {
		binary.BigEndian.PutUint16(k[at+2:], uint16(zone))
	}
}

// zone returns the index of the interface if one of the addresses is link-local, and otherwise 0.
func (k *tuple) zone() int {
	for _, at := range [...]int{0, 16} {
		if k[at] == 0xfe && k[at+1]&0xc0 == 0x80 {
			return int(binary.BigEndian.Uint16(k[at+2:]))
		}
	}
	return 0
}

// local returns the local address, without its zone, and the local port.
func (k *tuple) local() netip.AddrPort {
	return netip.AddrPortFrom(k.addr(0), binary.BigEndian.Uint16(k[32:]))
}

// remote returns the remote address, without its zone, and the remote port.
func (k *tuple) remote() netip.AddrPort {
	return netip.AddrPortFrom(k.addr(16), binary.BigEndian.Uint16(k[34:]))
}

// addr returns the address that begins at k[at], without its zone.
func (k *tuple) addr(at int) netip.Addr {
	b := [16]byte(k[at:])
	if b[0] == 0xfe && b[1]&0xc0 == 0x80 {
		b[2], b[3] = 0, 0
	}
	return netip.AddrFrom16(b).Unmap()
}

func (k *tuple) ports() (local, remote uint16) {
	return binary.BigEndian.Uint16(k[32:]), binary.BigEndian.Uint16(k[34:])
}

// initTCP initializes s.tcp.
func (s *Stack) initTCP(cfg TCPConfig) {
	ts := &s.tcp
	ts.params = tcp.DefaultParams()
	if cfg.Params != nil {
		ts.params = *cfg.Params
	}
	ts.memory = cfg.Memory
	if ts.memory <= 0 {
		ts.memory = defaultTCPMemory
	}
	ts.params.Alloc = func(n int) []byte {
		b := s.bufs.get(n)
		ts.charge(int64(cap(b)))
		return b
	}
	ts.params.Free = func(b []byte) {
		ts.used.Add(-int64(cap(b)))
		s.bufs.put(b)
	}
	ts.params.NewBlock = s.newTCPBlock
	ts.params.Count = ts.count
	ts.params.Spare = new(sync.Pool)
	ts.params.Pressure = ts.pressure
	ts.synBacklog = cfg.SynBacklog
	if ts.synBacklog <= 0 {
		ts.synBacklog = defaultSynBacklog
	}
	ts.table.seed = maphash.MakeSeed()
	ts.waits.init(s, cfg.TimeWaits)
	if ts.orphans.limit = cfg.Orphans; ts.orphans.limit <= 0 {
		ts.orphans.limit = defaultOrphans
	}
	ts.reclaimer.s = s
	ts.wheel.s, ts.wheel.queue.s = s, s
}

// count counts n events of a kind.
func (ts *tcpState) count(k tcp.Counter, n int) {
	all := ts.events.Load()
	if all == nil {
		ts.events.CompareAndSwap(nil, new([tcp.NumCounters]atomic.Uint64))
		all = ts.events.Load()
	}
	all[k].Add(uint64(n))
}

// charge adds n bytes to the memory in use, and starts the reclaimer under memory pressure.
func (ts *tcpState) charge(n int64) {
	if ts.used.Add(n) >= ts.memory/4*3 {
		ts.reclaimer.kick()
	}
}

// inputTCP handles a TCP segment that is addressed to this host.
func (s *Stack) inputTCP(p *packet) {
	var seg tcp.Segment
	payload, r := seg.TCP.Parse(p.payload)
	if r != wire.OK {
		p.dropRx(r)
		return
	}
	// The payload is that of p.payload followed by p.tail. Either may be empty.
	if seg.Payload, seg.Payload2 = payload, p.tail; len(payload) == 0 {
		seg.Payload, seg.Payload2 = p.tail, nil
	}
	if !p.checksumOK && !wire.TCPChecksumOK(p.src, p.dst, p.payload) {
		p.dropRx(wire.BadTCPChecksum)
		return
	}
	if p.broadcast {
		// RFC 9293 3.9.2.3 MUST-57: "A TCP implementation MUST silently discard an incoming SYN segment
		// that is addressed to a broadcast or multicast address". No other segment is valid there
		// either.
		p.dropRx(dropTCPBroadcast)
		return
	}
	s.counts.tcpIn.Add(1)
	seg.GSOSize, seg.Local = p.gsoSize, p.local
	seg.CE, seg.ECT = p.tos&3 == 3, p.tos&3 != 0 // the ECN field: RFC 3168 5
	local := netip.AddrPortFrom(p.dst, seg.DstPort)
	remote := netip.AddrPortFrom(p.src, seg.SrcPort)
	zone := p.zone()
	k := makeTuple(local, remote, zone)
	sock, wait := s.tcp.table.lookup(&k)
	var old *timeWait // the connection in TIME-WAIT that a new connection may replace, or nil
	for sock != nil || wait != nil {
		if sock != nil {
			if sock.segment(p, p.time(), &seg) {
				return
			}
		} else if old = wait; s.tcp.waits.segment(p.time(), wait, &seg) {
			return
		}
		// The entry has left the table: the connection or the timeWait has ended, or another entry has
		// replaced it. Look again.
		sock, wait = s.tcp.table.lookup(&k)
	}
	if seg.Flags&(wire.FlagSYN|wire.FlagACK|wire.FlagRST) == wire.FlagSYN {
		if l := s.tcp.listeners.find(local, zone); l != nil && l.syn(p, local, remote, zone, &seg, old) {
			return
		}
	}
	if seg.Flags&(wire.FlagSYN|wire.FlagACK|wire.FlagRST) == wire.FlagACK {
		// The ACK may answer a SYN cookie.
		if l := s.tcp.listeners.find(local, zone); l != nil && l.takeCookie(p, local, remote, zone, &seg) {
			return
		}
	}
	if seg.Flags&(wire.FlagSYN|wire.FlagACK|wire.FlagRST) == 0 && s.tcp.listeners.find(local, zone) != nil {
		// RFC 9293 3.10.7.2, fourth: "Drop the segment and return. Any other control
		// or data-bearing segment (not containing SYN) must have an ACK".
		p.dropRx(dropTCPListen)
		return
	}
	s.resetTCP(local, remote, zone, &seg)
}

// resetTCP answers a segment that belongs to no connection with a RST, unless the segment is a RST.
func (s *Stack) resetTCP(local, remote netip.AddrPort, zone int, in *tcp.Segment) {
	var out tcp.Segment
	if !tcp.Reset(in, &out) {
		return
	}
	s.tcp.count(tcp.OutRsts, 1)
	s.sendLone(local, remote, zone, &out)
}

// sendLone sends a segment that has no payload and belongs to no socket. It fills in the ports and the
// checksum.
func (s *Stack) sendLone(local, remote netip.AddrPort, zone int, out *tcp.Segment) {
	out.SrcPort, out.DstPort = local.Port(), remote.Port()
	n := out.Len()
	buf := s.bufs.get(transportAt + n)
	b := buf[transportAt : transportAt+n]
	out.Put(b)
	wire.SetTCPChecksum(local.Addr(), remote.Addr(), b)
	s.counts.tcpOut.Add(1)
	s.reply(remote.Addr(), local.Addr(), zone, ipHeader{proto: wire.ProtoTCP, df: dfAlways}, buf, n)
}

// tcpICMP handles an ICMP error about a segment of this host. The neighbour table reports a failed
// resolution in the same form.
func (s *Stack) tcpICMP(e *icmpError) {
	if len(e.transport) < 8 { // the ports and the sequence number
		return
	}
	local := netip.AddrPortFrom(e.local, binary.BigEndian.Uint16(e.transport))
	remote := netip.AddrPortFrom(e.remote, binary.BigEndian.Uint16(e.transport[2:]))
	k := makeTuple(local, remote, e.zone)
	if t, _ := s.tcp.table.lookup(&k); t != nil {
		t.icmp(e, tcp.Seq(binary.BigEndian.Uint32(e.transport[4:])))
	}
}

// closeTCP closes every listener, resets every connection, and stops the timers of TCP.
func (s *Stack) closeTCP() {
	for _, l := range s.tcp.listeners.all() {
		l.Close()
	}
	for _, t := range s.tcp.table.sockets() {
		t.kill()
	}
	s.tcp.waits.close()
	s.tcp.wheel.close()
	s.tcp.reclaimer.close()
}

// isn returns the initial sequence number of a connection. RFC 6528 3: "ISN = M + F(localip, localport,
// remoteip, remoteport, secretkey)", where M is a timer with a resolution of 4 microseconds.
func (s *Stack) isn(now tcp.Time, k *tuple) tcp.Seq {
	m := uint32(now / (4 * tcp.Microsecond))
	return tcp.Seq(m + uint32(s.key.sum(k[:])))
}

// tsOffset returns the offset of the timestamps that local sends to remote (RFC 7323 5.4). All connections
// between two addresses have the same offset, so that PAWS works across successive connections.
func (s *Stack) tsOffset(local, remote netip.Addr) uint32 {
	return uint32(s.hashAddrs(netip.AddrPortFrom(local, 0), netip.AddrPortFrom(remote, 0)) >> 32)
}

// errnoOf returns the errno with which the methods of a TCP report the error e of a connection, or nil if
// e is tcp.ErrNone.
func errnoOf(e tcp.Err) error {
	switch e {
	case tcp.ErrRefused:
		return syscall.ECONNREFUSED
	case tcp.ErrReset:
		return syscall.ECONNRESET
	case tcp.ErrTimedOut:
		return syscall.ETIMEDOUT
	case tcp.ErrHostUnreachable:
		return syscall.EHOSTUNREACH
	case tcp.ErrNetUnreachable:
		return syscall.ENETUNREACH
	case tcp.ErrProtocol:
		return syscall.ENOPROTOOPT
	case tcp.ErrProhibited:
		return syscall.EACCES
	case tcp.ErrMessageSize:
		return syscall.EMSGSIZE
	case tcp.ErrPipe:
		return syscall.EPIPE
	case tcp.ErrHostDown:
		return errHostDown
	case tcp.ErrIsolated:
		return errHostIsolated
	case tcp.ErrSourceRoute:
		return syscall.EOPNOTSUPP
	case tcp.ErrParameter:
		return syscall.EPROTO
	case tcp.ErrAborted:
		return syscall.ECONNABORTED
	}
	return nil
}

// tcpErrOf is the inverse of errnoOf for the errors that ICMP reports. It returns tcp.ErrHostUnreachable
// for any other errno.
func tcpErrOf(errno syscall.Errno) tcp.Err {
	switch errno {
	case syscall.ECONNREFUSED:
		return tcp.ErrRefused
	case syscall.ENETUNREACH:
		return tcp.ErrNetUnreachable
	case syscall.ENOPROTOOPT:
		return tcp.ErrProtocol
	case errHostDown:
		return tcp.ErrHostDown
	case errHostIsolated:
		return tcp.ErrIsolated
	case syscall.EOPNOTSUPP:
		return tcp.ErrSourceRoute
	case syscall.EPROTO:
		return tcp.ErrParameter
	case syscall.EACCES:
		return tcp.ErrProhibited
	case syscall.EMSGSIZE:
		return tcp.ErrMessageSize
	}
	return tcp.ErrHostUnreachable
}
