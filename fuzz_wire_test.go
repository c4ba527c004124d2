package usernet

import (
	"bytes"
	stdheap "container/heap"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// A fuzzWire is a wire between two hosts that a test controls. It checks every frame that the hosts
// send. It drops, repeats, delays and damages frames and, if it is hostile, sends forged frames
// made from earlier ones.
type fuzzWire struct {
	end     [2]*fuzzEnd
	loss    float64
	dup     float64
	damage  float64 // probability that a bit of a frame changes; see damaged
	partial float64 // probability that Send accepts only a part of a batch
	slow    float64 // probability that Send takes up to 20 ms
	forge   float64 // number of forged frames per frame
	latency time.Duration
	reorder float64     // probability of an extra delay, which is less than twice the latency plus 1 ms
	inline  bool        // no latency: the frame is received before Send returns
	raw     bool        // raw sockets may send arbitrary packets, so only TCP is checked
	cut     atomic.Bool // while set, all frames are lost

	mu     sync.Mutex
	errs   []error
	recent [64]nic.Frame // the frames that the hosts have sent last, undamaged; filled if forge > 0
	from   [64]int       // the ends that sent the recent frames
	passed int           // number of frames that the hosts have sent
	forged int           // number of forged frames
}

// A fuzzEnd is one end of a fuzzWire.
type fuzzEnd struct {
	w      *fuzzWire
	me     int
	link   nic.Link
	recv   atomic.Pointer[func([]nic.Frame)]
	closed atomic.Bool
	dead   atomic.Pointer[error]
	down   func(error)                   // set by NotifyDown
	sends  atomic.Int64                  // calls of Send
	stuck  atomic.Pointer[chan struct{}] // Send blocks until the channel is closed

	mu      sync.Mutex
	rng     *rand.Rand // decides what happens to this end's frames
	queue   heldFrames
	held    int // number of frames that were put into queue
	timer   *time.Timer
	running bool // the timer is set, or its function runs
}

type heldFrame struct {
	due   time.Time
	n     int // sequence number of the frame at its end of the wire
	frame nic.Frame
	to    int
}

// heldFrames is a heap of the frames on their way. The frame that is due first is at index 0. In a
// flood there may be 100,000 frames.
type heldFrames []heldFrame

func (h heldFrames) Len() int      { return len(h) }
func (h heldFrames) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *heldFrames) Push(x any)   { *h = append(*h, x.(heldFrame)) }

func (h heldFrames) Less(i, j int) bool {
	if !h[i].due.Equal(h[j].due) {
		return h[i].due.Before(h[j].due)
	}
	return h[i].n < h[j].n
}

func (h *heldFrames) Pop() any {
	last := len(*h) - 1
	x := (*h)[last]
	(*h)[last] = heldFrame{}
	*h = (*h)[:last]
	return x
}

var _ nic.Device = (*fuzzEnd)(nil)

// newFuzzWire makes a wire with its two ends. Forged frames are for hosts with the addresses addrA and addr6A
// at end 0, and addrB and addr6B at end 1.
func newFuzzWire(seed uint64, link nic.Link) *fuzzWire {
	w := &fuzzWire{}
	for i := range w.end {
		l := link
		l.Name = fmt.Sprint("fuzz", i)
		l.MAC = [6]byte{2, 0, 0, 0, 0, byte(0xa + i)}
		w.end[i] = &fuzzEnd{w: w, me: i, link: l, rng: rand.New(rand.NewPCG(seed, uint64(70+i)))}
	}
	return w
}

func (w *fuzzWire) fail(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.errs) < 10 {
		w.errs = append(w.errs, fmt.Errorf(format, args...))
	}
}

func (w *fuzzWire) err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return errors.Join(w.errs...)
}

func (e *fuzzEnd) Link() nic.Link {
	l := e.link
	l.Up = !e.closed.Load() && e.dead.Load() == nil
	return l
}

func (e *fuzzEnd) NotifyDown(f func(error)) { e.down = f }

func (e *fuzzEnd) Attach(recv func([]nic.Frame)) {
	if !e.recv.CompareAndSwap(nil, &recv) {
		e.w.fail("%s: Attach twice", e.link.Name)
	}
}

func (e *fuzzEnd) Close() error {
	if !e.closed.CompareAndSwap(false, true) {
		e.w.fail("%s: Close twice", e.link.Name)
		return net.ErrClosed
	}
	return nil
}

// die makes the device fail, as a hardware failure does.
func (e *fuzzEnd) die() {
	err := errors.New("fuzz: the device died")
	if e.dead.CompareAndSwap(nil, &err) && e.down != nil {
		e.down(err)
	}
}

// stick makes Send block until release, like a tunnel whose other end is stuck.
func (e *fuzzEnd) stick() {
	stuck := make(chan struct{})
	e.stuck.CompareAndSwap(nil, &stuck)
}

func (e *fuzzEnd) release() {
	if stuck := e.stuck.Swap(nil); stuck != nil {
		close(*stuck)
	}
}

func (e *fuzzEnd) Send(batch []nic.Frame) (int, error) {
	e.sends.Add(1)
	if e.closed.Load() {
		return 0, net.ErrClosed
	}
	if err := e.dead.Load(); err != nil {
		return 0, *err
	}
	if stuck := e.stuck.Load(); stuck != nil {
		<-*stuck
	}
	e.mu.Lock()
	if e.rng.Float64() < e.w.slow {
		d := time.Duration(e.rng.IntN(20_000)) * time.Microsecond
		e.mu.Unlock()
		time.Sleep(d)
		e.mu.Lock()
	}
	n := len(batch)
	if n == 0 {
		e.w.fail("%s: Send of no frame", e.link.Name)
	}
	if e.rng.Float64() < e.w.partial {
		n = e.rng.IntN(n + 1)
	}
	for i := range n {
		f := batch[i]
		if e.link.Medium == nic.IP {
			f = toEthernet(f, e.link.MAC)
		}
		if err := e.check(&f); err != nil {
			e.w.fail("%s sent %s: %w", e.link.Name, wire.Describe(f.AppendTo(nil)), err)
			continue
		}
		e.pass(f)
	}
	e.mu.Unlock()
	e.start()
	return n, nil
}

// pass loses, damages, delays or delivers a frame. e.mu is held.
func (e *fuzzEnd) pass(f nic.Frame) {
	w, r := e.w, e.rng
	f = cloneFrame(f)
	w.mu.Lock()
	k := w.passed % len(w.recent)
	w.passed++
	if w.forge > 0 {
		w.recent[k], w.from[k] = cloneFrame(f), e.me
	}
	w.mu.Unlock()
	if r.Float64() >= w.loss && !w.cut.Load() {
		e.hold(damaged(f, r, w.damage), 1-e.me)
		if r.Float64() < w.dup {
			e.hold(cloneFrame(f), 1-e.me)
		}
	}
	for p := w.forge; p > 0 && r.Float64() < p; p-- {
		w.mu.Lock()
		k := r.IntN(min(w.passed, len(w.recent)))
		like, from := cloneFrame(w.recent[k]), w.from[k]
		w.forged++
		w.mu.Unlock()
		to := r.IntN(2)
		for _, forged := range forge(r, like, from, to, &e.link) {
			e.hold(forged, to)
		}
	}
}

// hold schedules a frame to arrive after the wire's latency. e.mu is held.
func (e *fuzzEnd) hold(f nic.Frame, to int) {
	d := e.w.latency
	if e.rng.Float64() < e.w.reorder {
		d += time.Duration(e.rng.Int64N(int64(2*d + time.Millisecond)))
	}
	e.held++
	stdheap.Push(&e.queue, heldFrame{time.Now().Add(d), e.held, f, to})
}

// start delivers the queued frames: at once on an inline wire, and otherwise by a timer when they are
// due.
func (e *fuzzEnd) start() {
	if e.w.inline {
		e.deliver()
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.running || len(e.queue) == 0 {
		return
	}
	e.running = true
	d := max(time.Until(e.queue[0].due), 0)
	if e.timer == nil {
		e.timer = time.AfterFunc(d, func() {
			e.deliver()
			e.mu.Lock()
			e.running = false
			e.mu.Unlock()
			e.start()
		})
	} else {
		e.timer.Reset(d)
	}
}

// deliver takes the frames that are due and passes them to the ends, in batches.
func (e *fuzzEnd) deliver() {
	for {
		e.mu.Lock()
		now := time.Now()
		var batch []nic.Frame
		to := 0
		for most := 1 + e.rng.IntN(40); len(e.queue) > 0 && len(batch) < most; {
			h := e.queue[0]
			if h.due.After(now) || len(batch) > 0 && h.to != to {
				break
			}
			to = h.to
			batch = append(batch, h.frame)
			stdheap.Pop(&e.queue)
		}
		e.mu.Unlock()
		if len(batch) == 0 {
			return
		}
		e.w.end[to].receive(batch)
	}
}

// receive passes a batch to the host. Afterwards it checks that the host has not changed the frames,
// and overwrites them: the host must have copied the data that it keeps.
func (e *fuzzEnd) receive(batch []nic.Frame) {
	recv := e.recv.Load()
	if recv == nil || e.closed.Load() {
		return
	}
	if e.link.Medium == nic.IP {
		if batch = toIP(batch); len(batch) == 0 {
			return
		}
	}
	var before [][]byte
	for i := range batch {
		before = append(before, batch[i].AppendTo(nil))
	}
	frames := append([]nic.Frame(nil), batch...)
	(*recv)(batch)
	for i, f := range frames {
		if !bytes.Equal(before[i], f.AppendTo(nil)) {
			e.w.fail("%s: a frame that it received was changed: %s", e.link.Name, wire.Describe(before[i]))
		}
		for _, part := range [][]byte{f.Head, f.Body} {
			for k := range part {
				part[k] = 0xdb // overwrite the buffer
			}
		}
	}
}

// toEthernet adds an Ethernet header to a host's frame on an IP medium, so that all frames on a
// wire look alike.
func toEthernet(f nic.Frame, mac wire.MAC) nic.Frame {
	head := make([]byte, wire.EthernetLen, wire.EthernetLen+len(f.Head))
	typ := wire.EtherTypeIPv4
	// The MACs of the two ends differ in the last byte: 0xa and 0xb.
	if wire.Version(f.Head) == 6 {
		typ = wire.EtherTypeIPv6
	}
	(&wire.Ethernet{Dst: wire.MAC{2, 0, 0, 0, 0, 0xa ^ 0xb ^ mac[5]}, Src: mac, Type: typ}).Put(head)
	f.Head = append(head, f.Head...)
	if f.NeedsChecksum {
		f.ChecksumStart += wire.EthernetLen
	}
	if f.GSO != nic.GSONone {
		f.HeaderLen += wire.EthernetLen
	}
	return f
}

// toIP removes the Ethernet headers, and drops the frames that are not IP.
func toIP(batch []nic.Frame) (ip []nic.Frame) {
	for _, f := range batch {
		if len(f.Head) <= wire.EthernetLen || !isIP(f.Head) {
			continue
		}
		f.Head = f.Head[wire.EthernetLen:]
		f.ChecksumStart -= min(f.ChecksumStart, wire.EthernetLen)
		f.HeaderLen -= min(f.HeaderLen, wire.EthernetLen)
		ip = append(ip, f)
	}
	return ip
}

func cloneFrame(f nic.Frame) nic.Frame {
	f.Head, f.Body = bytes.Clone(f.Head), bytes.Clone(f.Body)
	return f
}

// isIP reports whether a frame carries IPv4 or IPv6.
func isIP(b []byte) bool { return isType(b, wire.EtherTypeIPv4) || isType(b, wire.EtherTypeIPv6) }

// isType reports whether a frame has the EtherType typ.
func isType(b []byte, typ wire.EtherType) bool {
	return len(b) >= wire.EthernetLen && wire.EtherType(binary.BigEndian.Uint16(b[12:])) == typ
}

// damaged inverts a bit of a frame with probability p. It does not change ARP frames, which have no checksum,
// or frames whose checksum is not complete, because the receiver could not detect the damage.
func damaged(f nic.Frame, r *rand.Rand, p float64) nic.Frame {
	if r.Float64() >= p || f.NeedsChecksum || len(f.Head) < wire.EthernetLen+wire.IPv4Len || !isIP(f.Head) {
		return f
	}
	bit := r.IntN(8 * f.Len())
	part := f.Head
	if bit >= 8*len(part) {
		bit, part = bit-8*len(part), f.Body
	}
	part[bit/8] ^= 1 << (bit % 8)
	return f
}

// check returns an error if the link cannot carry the frame that its host sends, or if a receiver would
// reject the frame.
func (e *fuzzEnd) check(f *nic.Frame) error {
	limit := e.link.MTU
	if f.GSO != nic.GSONone {
		limit = e.link.GSO
		if !f.NeedsChecksum || f.GSOSize == 0 || int(f.HeaderLen) > len(f.Head) {
			return fmt.Errorf("super-frame of %d, headers %d of %d", f.GSOSize, f.HeaderLen, len(f.Head))
		}
		if int(f.HeaderLen)+int(f.GSOSize) > e.link.MTU+wire.EthernetLen {
			return fmt.Errorf("pieces of %d+%d bytes at an MTU of %d", f.HeaderLen, f.GSOSize, e.link.MTU)
		}
	}
	if f.Len() > limit+wire.EthernetLen {
		return fmt.Errorf("%d bytes at an MTU of %d", f.Len(), limit)
	}
	if f.NeedsChecksum && !e.link.TxChecksum {
		return errors.New("its checksum is not complete")
	}
	b := f.AppendTo(nil)
	h, p, reason := wire.ParseEthernet(b)
	if reason != wire.OK || h.Src != wire.MAC(e.link.MAC) {
		return fmt.Errorf("Ethernet: %v", reason)
	}
	if h.Type == wire.EtherTypeARP {
		if _, reason := wire.ParseARP(p); reason != wire.OK {
			return fmt.Errorf("ARP: %v", reason)
		}
		return nil
	}
	src, dst, proto, p, whole, err := parseIP(p)
	if err != nil || !whole || e.w.raw && proto != wire.ProtoTCP {
		return err
	}
	switch proto {
	case wire.ProtoTCP:
		if _, _, reason = wire.ParseTCP(p); reason != wire.OK {
			return fmt.Errorf("TCP: %v", reason)
		}
		if !f.NeedsChecksum && !wire.TCPChecksumOK(src, dst, p) {
			return errors.New("TCP: bad checksum")
		}
	case wire.ProtoUDP:
		if _, _, reason = wire.ParseUDP(p); reason != wire.OK {
			return fmt.Errorf("UDP: %v", reason)
		}
		if !f.NeedsChecksum && !wire.UDPChecksumOK(src, dst, p) {
			return errors.New("UDP: bad checksum")
		}
	case wire.ProtoICMP:
		if _, _, reason = wire.ParseICMP(p); reason != wire.OK {
			return fmt.Errorf("ICMP: %v", reason)
		}
	case wire.ProtoICMPv6:
		if _, _, reason = wire.ParseICMPv6(src, dst, p); reason != wire.OK {
			return fmt.Errorf("ICMPv6: %v", reason)
		}
	}
	return nil
}

// parseIP reads the headers of an IP packet before the transport header. p is the rest of the packet, which begins
// with the transport header. whole reports whether the packet is not a fragment.
func parseIP(b []byte) (src, dst netip.Addr, proto wire.Proto, p []byte, whole bool, err error) {
	if wire.Version(b) == 6 {
		ip, p, reason := wire.ParseIPv6(b)
		if reason != wire.OK {
			return src, dst, 0, nil, false, fmt.Errorf("IPv6: %v", reason)
		}
		c, reason := wire.WalkIPv6(ip.Next, p)
		if reason != wire.OK {
			return src, dst, 0, nil, false, fmt.Errorf("IPv6: %v", reason)
		}
		return ip.Src, ip.Dst, c.Proto, p[c.Offset:], !c.Fragmented, nil
	}
	ip, p, reason := wire.ParseIPv4(b)
	if reason != wire.OK {
		return src, dst, 0, nil, false, fmt.Errorf("IPv4: %v", reason)
	}
	return ip.Src, ip.Dst, ip.Proto, p, !ip.IsFragment(), nil
}
