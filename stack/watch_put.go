package stack

import (
	"encoding/binary"
	"net/netip"
	"time"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

// This file counts what the stack drops, and passes it to the Watchers, as well as frames and connections.

// dropFrame counts a dropped packet, which is in the frame f, or in none if f is nil. The interface is ifc. outbound says that the host has sent the frame.
func (s *Stack) dropFrame(r wire.Reason, ifc *iface, f *nic.Frame, outbound bool) {
	s.counts.drops[r].Add(1)
	if ws := s.watch.set.Load(); ws != nil && ws.drops {
		e := WatchEvent{Kind: PacketDropped, Reason: reasonText(r), Outbound: outbound}
		ws.putFrame(&e, ifc, f)
	}
}

// drop counts a received frame that the interface drops, under the reason r.
func (ifc *iface) drop(r wire.Reason, f *nic.Frame) {
	ifc.stats.RxDropped.Add(1)
	ifc.s.dropFrame(r, ifc, f, false)
}

// dropTx counts a frame that the interface does not send, under the reason r.
func (ifc *iface) dropTx(r wire.Reason, f *nic.Frame) {
	ifc.stats.TxDropped.Add(1)
	ifc.s.dropFrame(r, ifc, f, true)
}

// dropIP counts an outgoing packet that the interface does not send. The packet has no link header yet. The other
// parameters are those of makeFrame.
func (ifc *iface) dropIP(r wire.Reason, buf []byte, at, n int, meta *frameMeta) {
	ifc.stats.TxDropped.Add(1)
	s := ifc.s
	s.counts.drops[r].Add(1)
	if ws := s.watch.set.Load(); ws != nil && ws.drops {
		ws.putIP(r, ifc, buf[at:transportAt+n], transportAt-at, meta)
	}
}

// putIP reports that an outgoing packet was dropped. The packet has no link header. head is its IP header, of
// headerLen bytes, with what follows it in memory.
func (ws *watchSet) putIP(r wire.Reason, ifc *iface, head []byte, headerLen int, meta *frameMeta) {
	f := nic.Frame{Head: head, Body: meta.body, GSO: meta.gso, GSOSize: uint16(meta.gsoSize)}
	f.NeedsChecksum = meta.checksum
	f.ChecksumStart, f.ChecksumOffset = uint16(headerLen), uint16(meta.csumOffset)
	e := WatchEvent{Kind: PacketDropped, Reason: reasonText(r), Outbound: true, NIC: ifc.name}
	ws.putBytes(&e, ifc, &f)
}

// dropRx counts a received packet that the interface drops, under the reason r.
func (p *packet) dropRx(r wire.Reason) {
	p.ifc.stats.RxDropped.Add(1)
	p.drop(r)
}

// drop counts a received packet that the host drops, under the reason r.
func (p *packet) drop(r wire.Reason) {
	p.ifc.s.counts.drops[r].Add(1)
	p.report(reasonText(r))
}

// report tells the Watchers of a received packet that was dropped.
func (p *packet) report(why DropReason) {
	if ws := p.ifc.s.watch.set.Load(); ws != nil && ws.drops {
		ws.putPacket(p, why)
	}
}

// ReportDrop tells the Watchers of a message that a user of the stack wanted to send, and has dropped for the reason why
// before it was a packet. nic is the index of the interface, or 0. remote is where the message was to go; it may be
// invalid. Stats.Drops does not count the message.
func (s *Stack) ReportDrop(why DropReason, nic int, remote netip.AddrPort) {
	ws := s.watch.set.Load()
	if ws == nil || !ws.drops {
		return
	}
	e := WatchEvent{Kind: PacketDropped, Reason: why, Outbound: true, Remote: remote}
	for _, ifc := range *s.ifaces.Load() {
		if ifc.index == nic {
			e.NIC = ifc.name
		}
	}
	ws.put(s, &e, &watchBytes{})
}

// dropError counts an ICMP error that the host does not believe.
func (s *Stack) dropError(r wire.Reason, e *icmpError) {
	if in := &e.received; in.ifc != nil {
		p := packet{ifc: in.ifc, header: in.header, payload: in.payload, src: e.from, dst: e.local}
		p.drop(r)
		return
	}
	s.dropFlow(r, netip.AddrPortFrom(e.local, 0), netip.AddrPortFrom(e.remote, 0))
}

// dropFlow counts an outgoing packet that has no headers yet. The addresses may be invalid.
func (s *Stack) dropFlow(r wire.Reason, local, remote netip.AddrPort) {
	s.counts.drops[r].Add(1)
	if ws := s.watch.set.Load(); ws != nil && ws.drops {
		e := WatchEvent{Kind: PacketDropped, Reason: reasonText(r), Outbound: true, Local: local, Remote: remote}
		ws.put(s, &e, &watchBytes{})
	}
}

// putFrames reports the frames of a batch.
func (ws *watchSet) putFrames(ifc *iface, batch []nic.Frame, k WatchKind) {
	for i := range batch {
		ws.putFrame(&WatchEvent{Kind: k, Outbound: k == FrameSent}, ifc, &batch[i])
	}
}

// receivedFrame returns the frame that contained the packet. If there is none, the frame is empty.
func (p *packet) receivedFrame() nic.Frame {
	f := nic.Frame{Head: p.frame, Body: p.tail}
	if p.gso != nic.GSONone {
		f.GSO, f.GSOSize = p.gso, uint16(p.gsoSize)
	}
	if p.csumOffset != 0 {
		f.NeedsChecksum = true
		f.ChecksumStart, f.ChecksumOffset = p.at+uint16(len(p.header)), uint16(p.csumOffset)
	}
	return f
}

// putFrame reports an event with the bytes of f, which may be nil.
func (ws *watchSet) putFrame(e *WatchEvent, ifc *iface, f *nic.Frame) {
	e.NIC = ifc.name
	if f == nil {
		ws.put(ifc.s, e, &watchBytes{})
		return
	}
	e.Ethernet = ifc.linkLen > 0
	ws.putBytes(e, ifc, f)
}

// putBytes reports an event with the bytes of f, which begins with a link header if e.Ethernet is set.
func (ws *watchSet) putBytes(e *WatchEvent, ifc *iface, f *nic.Frame) {
	e.GSO, e.GSOSize = f.GSO, int(f.GSOSize)
	b := watchBytes{head: f.Head, body: f.Body, scoped: ifc.loopback}
	if f.NeedsChecksum {
		b.frame = f
	}
	ws.put(ifc.s, e, &b)
}

// putPacket reports that a received packet was dropped.
func (ws *watchSet) putPacket(p *packet, why DropReason) {
	e := WatchEvent{Kind: PacketDropped, Reason: why, NIC: p.ifc.name}
	var from, to uint16
	if (p.proto == wire.ProtoTCP || p.proto == wire.ProtoUDP) && len(p.payload) >= 4 && !laterFragment(p.header) {
		from, to = binary.BigEndian.Uint16(p.payload), binary.BigEndian.Uint16(p.payload[2:])
	}
	e.Local, e.Remote = netip.AddrPortFrom(cloneAddr(p.dst), to), netip.AddrPortFrom(cloneAddr(p.src), from)
	if p.frame != nil {
		f := p.receivedFrame()
		ws.putFrame(&e, p.ifc, &f)
		return
	}
	s := p.ifc.s
	n := len(p.header) + len(p.payload) + len(p.tail)
	if n == 0 {
		ws.put(s, &e, &watchBytes{})
		return
	}
	joined := append(append(append(s.bufs.get(n)[:0], p.header...), p.payload...), p.tail...)
	f := p.receivedFrame()
	f.Head, f.Body = joined, nil
	f.ChecksumStart = uint16(len(p.header)) // the bytes have no link header
	ws.putBytes(&e, p.ifc, &f)
	s.bufs.put(joined)
}

// laterFragment reports whether an IPv4 header is that of a fragment without the beginning of the datagram.
func laterFragment(header []byte) bool {
	const offset = 0x1fff // mask of the fragment offset (RFC 791 3.1)
	return len(header) >= wire.IPv4Len && wire.Version(header) == 4 && binary.BigEndian.Uint16(header[6:])&offset != 0
}

// cloneAddr returns a, which has no zone. Storing a itself would make the compiler move packets to the heap, because
// it does not tell the pointers in a packet apart.
func cloneAddr(a netip.Addr) netip.Addr {
	switch {
	case a.Is4():
		return netip.AddrFrom4(a.As4())
	case a.Is6():
		return netip.AddrFrom16(a.As16())
	}
	return netip.Addr{}
}

// put gives an event to the Watchers that want it. The caller may hold locks.
func (ws *watchSet) put(s *Stack, e *WatchEvent, b *watchBytes) {
	e.Time = s.wallTime(s.now())
	for _, w := range ws.list {
		w.put(e, b)
	}
}

// put appends a copy of e, with a copy of the bytes b, or counts the event as lost.
func (w *Watcher) put(e *WatchEvent, b *watchBytes) {
	if !w.wants(e.Kind) || w.filter != nil && len(b.head) > 0 && !w.match(e, b) {
		return
	}
	keep := len(b.head) + len(b.body)
	if w.cfg.SnapLen > 0 {
		keep = min(keep, w.cfg.SnapLen)
	}
	need := e.memory() + int64(keep)
	if w.used.Add(need) > int64(w.cfg.Buffer) {
		w.used.Add(-need)
		w.lost.Add(1)
		return
	}
	own := *e
	own.Len = len(b.head) + len(b.body)
	if keep > 0 {
		own.Data = b.copy(w.s, keep)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return
	}
	lost := w.lost.Load()
	own.Lost, w.reported = lost-w.reported, lost
	if w.notify != nil && len(w.queue) == 0 {
		now := w.s.now()
		w.notify.Reset(timerWait(now, now))
	}
	w.queue = append(w.queue, own)
	w.signal()
}

// match reports whether the filter selects the bytes.
func (w *Watcher) match(e *WatchEvent, b *watchBytes) bool {
	if !b.scoped || len(b.head) < wire.IPv6Len || wire.Version(b.head) != 6 {
		return w.filter.Match(b.head, e.Ethernet)
	}
	c := append(w.s.bufs.get(len(b.head))[:0], b.head...)
	takeScope(c[8:40])
	ok := w.filter.Match(c, e.Ethernet)
	w.s.bufs.put(c)
	return ok
}

// A watchBytes has the bytes of an event: those of head, followed by those of body.
type watchBytes struct {
	head, body []byte
	frame      *nic.Frame // of head and body, if their checksum is incomplete; else nil
	scoped     bool       // link-local addresses may contain the index of an interface: see putScope
}

// copy returns a copy of the first n bytes. It completes the checksum.
func (b *watchBytes) copy(s *Stack, n int) []byte {
	c := make([]byte, n)
	switch f := b.frame; {
	case f == nil:
		copy(c[copy(c, b.head):], b.body)
	case n == len(b.head)+len(b.body):
		copy(c[copy(c, b.head):], b.body)
		finishFrame(f, c)
	default:
		whole := f.AppendTo(s.bufs.get(f.Len())[:0])
		finishFrame(f, whole)
		copy(c, whole)
		s.bufs.put(whole)
	}
	if b.scoped && n >= wire.IPv6Len && wire.Version(c) == 6 {
		takeScope(c[8:40])
	}
	return c
}

// finishFrame completes the checksum in c, a copy of the bytes of f.
func finishFrame(f *nic.Frame, c []byte) {
	if int(f.ChecksumStart)+int(f.ChecksumOffset)+2 <= len(c) {
		completeChecksum(c[f.ChecksumStart:], int(f.ChecksumOffset))
	}
}

// watchOpened reports that the handshake of the connection is complete. t.mu is held.
func (t *TCP) watchOpened() {
	if ws := t.s.watch.set.Load(); ws != nil && ws.conns {
		t.s.watch.opened(t)
		ws.put(t.s, &WatchEvent{Kind: ConnOpened, Local: t.LocalAddr(), Remote: t.RemoteAddr(), Passive: t.listener != nil}, &watchBytes{})
	}
}

// opened stores the time at which a connection was opened. It is not in the TCP, where it would need memory for each
// connection of a host that nobody watches.
func (ws *watchState) opened(t *TCP) {
	ws.timesMu.Lock()
	defer ws.timesMu.Unlock()
	if set := ws.set.Load(); set == nil || !set.conns {
		return // store has just set times to nil
	}
	if ws.times == nil {
		ws.times = make(map[*TCP]tcp.Time)
	}
	ws.times[t] = t.lastRun
}

// duration returns the time from opened to now and forgets the connection. It returns 0 if opened was not called.
func (ws *watchState) duration(t *TCP, now tcp.Time) time.Duration {
	ws.timesMu.Lock()
	defer ws.timesMu.Unlock()
	at, ok := ws.times[t]
	if !ok {
		return 0
	}
	delete(ws.times, t)
	return time.Duration(now - at)
}

// watchEnded reports that the connection has ended, or that its handshake has failed. t.mu is held.
func (t *TCP) watchEnded() {
	ws := t.s.watch.set.Load()
	if ws == nil || !ws.conns {
		return
	}
	last, why := t.conn.End()
	if last == tcp.Closed {
		return // the Conn was never opened
	}
	e := WatchEvent{Kind: ConnClosed, Local: t.LocalAddr(), Remote: t.RemoteAddr(), Passive: t.listener != nil, Err: errnoOf(why)}
	now := t.s.now()
	if t.connected {
		e.Duration = t.s.watch.duration(t, now)
	} else {
		e.Kind = ConnFailed
	}
	info := t.conn.Info(now)
	info.State = last
	e.Info = &info
	ws.put(t.s, &e, &watchBytes{})
}
