package stack

import (
	"context"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/usernet/usernet/internal/filter"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/tcp"
)

// A WatchKind is the kind of a WatchEvent.
type WatchKind uint8

const (
	// FrameReceived is a frame that an interface has received. The stack has not checked it yet. A frame of a
	// VLAN without an interface is one of the first interface of the device.
	FrameReceived WatchKind = iota
	// FrameSent is a frame that the stack gives to a device. If the device does not accept the frame, a
	// PacketDropped follows.
	FrameSent
	// PacketDropped is a packet that the stack has dropped, or has counted in Stats.Drops for another reason.
	// If frames are watched too, a received frame that is dropped has both events.
	PacketDropped
	// ConnOpened is a TCP connection whose handshake is complete.
	ConnOpened
	// ConnFailed is a TCP connection whose handshake has failed. Err says why.
	ConnFailed
	// ConnClosed is the end of a TCP connection after ConnOpened: both sides have sent and acknowledged a FIN,
	// or Err says why the connection has ended. A connection that enters TIME-WAIT is closed.
	ConnClosed
)

// String returns the kind in words, for example "packet dropped".
func (k WatchKind) String() string {
	names := [...]string{"frame received", "frame sent", "packet dropped", "connection opened", "connection failed", "connection closed"}
	if int(k) >= len(names) {
		return fmt.Sprintf("event %d", uint8(k))
	}
	return names[k]
}

// A WatchEvent is a frame, a dropped packet, or the beginning or end of a TCP connection. The receiver of the event
// owns it.
type WatchEvent struct {
	Kind WatchKind
	// Time is the time of the event. In a testing/synctest bubble it is virtual time.
	Time time.Time
	// Lost is the number of events that the Watcher has lost since the previous event that it has returned.
	Lost uint64
	// NIC is the name of the interface. It is empty if it is not known, and for connections.
	NIC string

	// Data has the bytes of the frame or packet, at most WatchConfig.SnapLen, and Len is the number of bytes
	// before that cut. A super-frame (GSO) is one event. If it has more than 65535 bytes, the length in its IP
	// header is 0; Wireshark reads that in IPv6 only with its option ipv6.tso_support. Incomplete checksums are
	// completed. Data is nil if the bytes of a dropped packet are not at hand, for example because its headers
	// are not written yet.
	Data []byte
	Len  int
	// Ethernet says that Data begins with an Ethernet header. Otherwise it begins with an IP header.
	Ethernet bool
	// GSO and GSOSize describe a super-frame, as in nic.Frame.
	GSO     nic.GSOKind
	GSOSize int // payload bytes of each segment

	// Outbound says that the host itself has sent the frame or the dropped packet.
	Outbound bool
	// Reason is why the packet was dropped. If the host has dropped its own answer to a packet, the event has
	// the bytes of that packet.
	Reason DropReason

	// Local and Remote are the ends of a connection. For a dropped packet, they are its addresses and, for TCP
	// and UDP, its ports, as far as they are known; 0 is a port that is not known. For a frame they are invalid.
	Local, Remote netip.AddrPort
	// Passive says that the peer has opened the connection.
	Passive bool
	// Duration is the time from ConnOpened to ConnClosed. It is 0 if nobody watched connections at ConnOpened.
	Duration time.Duration
	// Info has the totals of a connection for ConnFailed and ConnClosed: segments, bytes and retransmissions.
	// Its State is TIME-WAIT or the last one before CLOSED. Info is nil for other kinds.
	Info *TCPInfo
	// Err is why the connection has ended, and nil after the FINs of both sides. It is syscall.ECONNRESET after a
	// RST of the peer, and ECONNREFUSED if that RST came during the handshake, or a SYN in SYN-RECEIVED (RFC 9293
	// 3.10.7.4). It is ECONNABORTED if this host has ended the connection without a FIN. It is ETIMEDOUT if the
	// peer did not answer, or has not sent its FIN in time after a Close (FIN-WAIT-2). Other errors are those of
	// a Read.
	Err error
}

// Why returns the reason of a dropped packet with its rule, if there is one, in one line. It returns an empty string
// for other events. It suits as the comment of a packet in a capture.
func (e *WatchEvent) Why() string {
	switch rule := e.Reason.Rule(); {
	case e.Kind != PacketDropped:
		return ""
	case rule == "":
		return "dropped: " + string(e.Reason)
	default:
		return "dropped: " + string(e.Reason) + " - " + rule
	}
}

// WatchConfig says what a Watcher gets. At least one of Frames, Drops and Conns must be set.
type WatchConfig struct {
	Frames bool // FrameReceived and FrameSent
	Drops  bool // PacketDropped
	Conns  bool // ConnOpened, ConnFailed and ConnClosed
	// Filter selects frames and dropped packets by an expression as that of tcpdump, for example "tcp port 80
	// and not host 192.0.2.1". An empty expression selects all. The filter has no effect on connections and on
	// drops without bytes. The primitives are host, net, port, ip, ip6, arp, tcp, udp, icmp, icmp6 and igmp.
	Filter string
	// SnapLen is the largest number of bytes of Data. 0 means all.
	SnapLen int
	// Buffer is the memory in bytes of the events that wait for the reader. Events that find it full are lost.
	// 0 means 1 MiB.
	Buffer int
	// Notify is called in a goroutine of its own after an event was put into an empty buffer, if it is not nil. It
	// then calls Next, until Next would wait. Calls may overlap. Such a Watcher needs no goroutine between events.
	Notify func()
}

const (
	defaultWatchBuffer = 1 << 20
	watchOverhead      = 384 // memory of an event without its Data, in bytes
)

// A Watcher collects events of a stack until Close is called or the stack is closed. Traffic never waits for
// a Watcher: if its buffer is full, events are lost and counted. Its methods may be called by several
// goroutines.
type Watcher struct {
	s      *Stack
	cfg    WatchConfig
	filter *filter.Filter // nil: all
	used   atomic.Int64   // bytes of the buffer in use
	lost   atomic.Uint64
	wake   chan struct{} // has a value if queue may have an event that no reader has seen
	done   chan struct{} // closed by end
	notify *time.Timer   // calls WatchConfig.Notify; nil if that is nil

	mu       mutex[levelWatch]
	queue    []WatchEvent // oldest first
	reported uint64       // the value of lost that the events up to the last one of queue have told
	ended    bool         // no more events are put
	closed   bool         // Close was called
}

// A watchSet is the list of a stack's Watchers and what they want together.
type watchSet struct {
	list                 []*Watcher // immutable
	frames, drops, conns bool
}

// A watchState is the part of a Stack that has its Watchers.
type watchState struct {
	set    atomic.Pointer[watchSet] // nil: nobody watches
	mu     mutex[levelTable]        // serializes changes of set
	closed bool                     // under mu

	timesMu mutex[levelWatch]
	times   map[*TCP]tcp.Time // when the open connections were opened, if somebody watched; nil if nobody does
}

// Watch returns a Watcher that gets the events from now on. The caller has to call Close of the Watcher. A
// stack without a Watcher reads one pointer per batch of frames for it.
//
// The error is that of an invalid WatchConfig, or net.ErrClosed.
func (s *Stack) Watch(cfg WatchConfig) (*Watcher, error) {
	if !cfg.Frames && !cfg.Drops && !cfg.Conns {
		return nil, fmt.Errorf("stack: Watch: none of Frames, Drops and Conns is set")
	}
	if cfg.SnapLen < 0 || cfg.Buffer < 0 {
		return nil, fmt.Errorf("stack: Watch: SnapLen %d or Buffer %d is negative", cfg.SnapLen, cfg.Buffer)
	}
	if cfg.Buffer == 0 {
		cfg.Buffer = defaultWatchBuffer
	}
	w := &Watcher{s: s, cfg: cfg, wake: make(chan struct{}, 1), done: make(chan struct{})}
	if cfg.Filter != "" {
		f, err := filter.Parse(cfg.Filter)
		if err != nil {
			return nil, fmt.Errorf("stack: Watch: %w", err)
		}
		w.filter = f
	}
	if cfg.Notify != nil {
		w.notify = time.AfterFunc(time.Hour, cfg.Notify) // put sets the timer
		w.notify.Stop()
	}
	s.watch.mu.Lock()
	defer s.watch.mu.Unlock()
	if s.watch.closed {
		return nil, net.ErrClosed
	}
	var list []*Watcher
	if old := s.watch.set.Load(); old != nil {
		list = slices.Clone(old.list)
	}
	s.watch.store(append(list, w))
	return w, nil
}

// store replaces the list. ws.mu is held.
func (ws *watchState) store(list []*Watcher) {
	set := &watchSet{list: list}
	for _, w := range list {
		set.frames = set.frames || w.cfg.Frames
		set.drops = set.drops || w.cfg.Drops
		set.conns = set.conns || w.cfg.Conns
	}
	if len(list) == 0 {
		ws.set.Store(nil)
	} else {
		ws.set.Store(set)
	}
	if !set.conns {
		ws.timesMu.Lock()
		ws.times = nil
		ws.timesMu.Unlock()
	}
}

// close ends all Watchers.
func (ws *watchState) close() {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.closed = true
	if set := ws.set.Load(); set != nil {
		for _, w := range set.list {
			w.end()
		}
	}
	ws.store(nil)
}

// Close ends the Watcher and discards the events that wait. A second Close returns net.ErrClosed.
func (w *Watcher) Close() error {
	ws := &w.s.watch
	ws.mu.Lock()
	if old := ws.set.Load(); old != nil {
		ws.store(slices.DeleteFunc(slices.Clone(old.list), func(x *Watcher) bool { return x == w }))
	}
	ws.mu.Unlock()
	w.end()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return net.ErrClosed
	}
	w.closed, w.queue = true, nil
	if w.notify != nil {
		w.notify.Stop()
	}
	return nil
}

// end makes Next fail once the queue is empty.
func (w *Watcher) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.ended {
		w.ended = true
		close(w.done)
	}
}

// Lost returns the number of events that were lost because the buffer was full.
func (w *Watcher) Lost() uint64 { return w.lost.Load() }

// Next returns the oldest event that was not returned yet, and waits for one if there is none. Its error is
// net.ErrClosed after Close of the Watcher, or after the last event of a closed stack. Otherwise it is the
// error of ctx.
func (w *Watcher) Next(ctx context.Context) (WatchEvent, error) {
	for {
		if e, ok := w.take(); ok {
			return e, nil
		}
		select {
		case <-w.wake:
		case <-ctx.Done():
			return WatchEvent{}, ctx.Err()
		case <-w.done:
			if e, ok := w.take(); ok { // it was put before the end
				return e, nil
			}
			return WatchEvent{}, net.ErrClosed
		}
	}
}

// Events returns an iterator over the events that Next returns. It ends when Next fails.
func (w *Watcher) Events(ctx context.Context) iter.Seq[WatchEvent] {
	return func(yield func(WatchEvent) bool) {
		for {
			e, err := w.Next(ctx)
			if err != nil || !yield(e) {
				return
			}
		}
	}
}

// take removes the oldest event.
func (w *Watcher) take() (e WatchEvent, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queue) == 0 {
		return e, false
	}
	e = w.queue[0]
	w.queue[0] = WatchEvent{}
	if w.queue = w.queue[1:]; len(w.queue) == 0 {
		w.queue = nil
	} else {
		w.signal() // for another reader
	}
	w.used.Add(-e.memory())
	return e, true
}

// signal wakes a reader.
func (w *Watcher) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// memory returns the part of the buffer that the event takes, in bytes.
func (e *WatchEvent) memory() int64 {
	n := watchOverhead + len(e.Data)
	if e.Info != nil {
		n += watchOverhead
	}
	return int64(n)
}

// wants reports whether the Watcher gets events of a kind.
func (w *Watcher) wants(k WatchKind) bool {
	switch k {
	case FrameReceived, FrameSent:
		return w.cfg.Frames
	case PacketDropped:
		return w.cfg.Drops
	}
	return w.cfg.Conns
}
