package nic

import (
	"math"
	"math/bits"
	"math/rand/v2"
	"sync"
	"time"
)

// defaultLimit is the default of Limit in bytes, unless the delays and the queue of a direction need
// more (see Impairment.limit).
const defaultLimit = 256 << 20

// drainBatch is the maximum number of frames in one call of deliver.
const drainBatch = 64

// An impairQueue is one direction of an impaired link: a wire with a rate, a queue before it and a
// delay behind it.
//
// mu is not held while frames are delivered. A goroutine that sets draining is the drainer until it
// clears draining. Only the drainer delivers.
type impairQueue struct {
	deliver func(batch []Frame) (n int) // only called by the drainer
	bufSize int                         // minimum capacity of a packet's buffer
	pool    sync.Pool                   // of *packet

	mu        sync.Mutex
	imp       Impairment
	full      int   // length of the largest frame in bytes
	limit     int64 // imp's limit, or the default
	losing    bool  // whether the last frame was lost
	rng       *rand.PCG
	start     time.Time // the zero of the int64 times; set by the first call of now
	origin    int64     // start in nanoseconds since 1970
	busy      int64     // when the wire will have sent everything that is queued
	rem       uint64    // the fraction of a nanosecond missing from busy, in units of 1/Rate
	lastDue   int64     // when the last frame that was not reordered is due
	lastHeld  int64     // when the last frame that was delayed by ReorderGap is due
	lastEarly int64     // when the last frame that was reordered without a ReorderGap is due
	slot      int64     // the direction's slot, from 1 to 14; 0 without a seed
	seq       uint64    // number of the next packet
	queue     packetQueue
	queued    int // bytes in queue
	timer     *time.Timer
	armed     bool  // timer is set
	armedAt   int64 // the time to which timer is set
	draining  bool  // a goroutine is the drainer
	closed    bool
	stats     ImpairStats

	batch   []Frame   // used only by the drainer
	packets []*packet // used only by the drainer
}

func newDirection(imp Impairment, seed, stream uint64, full int, deliver func([]Frame) int) *impairQueue {
	d := &impairQueue{imp: imp, rng: rand.NewPCG(seed, stream), bufSize: full, full: full, deliver: deliver}
	d.limit = imp.limit(full)
	if seed != 0 {
		d.slot = 1 + 2*int64(rand.NewPCG(seed, 0).Uint64()%7) + int64(stream&1)
	}
	return d
}

// With a seed, delayed frames arrive in slots, one frame at a time. A slot is an instant that no timer
// of a host uses. In a testing/synctest bubble, the goroutines that a frame wakes run until all of
// them block. Only then does the next frame arrive or the next timer fire. The scheduler therefore
// has no influence on what is sent.
//
// Time is divided into rounds of slotRound nanoseconds. The seed gives a direction four slots in
// each round: for a frame in order, for its duplicate, for a reordered frame, and for that frame's
// duplicate. There are seven choices of slots, so two links with different seeds may
// have the same slots. Slot 0 belongs to the hosts (see timerWait in package stack).
const (
	slotRound     = 64
	slotDuplicate = 16
	slotHeld      = 32
)

// inSlot returns the first slot of this direction that is not before due and is after last. kind is 0
// for a slot of frames in order, and slotHeld for one of reordered frames. Without a seed, inSlot returns
// due.
func (d *impairQueue) inSlot(due, last, kind int64) int64 {
	if d.slot == 0 {
		return due
	}
	at := max(due, last+1) + d.origin - d.slot - kind
	at += (slotRound - at%slotRound) % slotRound
	return at + d.slot + kind - d.origin
}

// limit returns the Limit of an impairment, or the default. full is the length of the largest
// frame.
func (imp *Impairment) limit(full int) int64 {
	if imp.Limit > 0 {
		return imp.Limit
	}
	// The direction must hold the queue and twice the bytes that are transmitted while a frame is
	// delayed: each of those frames may be duplicated.
	delay := float64(max(imp.Latency, 0)) + float64(imp.Jitter.Abs()) + float64(max(imp.ReorderGap, 0))
	onWire := delay * float64(max(imp.Rate, 0)) / 8 / float64(time.Second)
	asked := 2*(onWire+float64(full)) + float64(imp.queueLimit(full))
	return int64(max(min(asked, 1<<62), defaultLimit))
}

// queueLimit returns the Queue of an impairment, or the default.
func (imp *Impairment) queueLimit(full int) int {
	if imp.Queue > 0 {
		return imp.Queue
	}
	return 100 * full
}

// now returns the time since the first call. The caller holds mu.
func (d *impairQueue) now() int64 {
	if d.start.IsZero() {
		d.start = time.Now()
		d.origin = d.start.UnixNano()
	}
	return int64(time.Since(d.start))
}

// take enqueues a copy of f. If f is a super-frame, take enqueues its segments instead. It returns false
// if f is invalid.
func (d *impairQueue) take(m Medium, f *Frame) bool {
	var p *packet
	return m.complete(f, func(n int) []byte {
		p = d.packet(n)
		return p.buf
	}, func([]byte) { d.put(p) })
}

// packet returns a packet with a buffer of n bytes.
func (d *impairQueue) packet(n int) *packet {
	p, _ := d.pool.Get().(*packet)
	if p == nil {
		p = new(packet)
	}
	if cap(p.buf) < n {
		p.buf = make([]byte, n, max(n, d.bufSize))
	}
	p.buf = p.buf[:n]
	return p
}

// put impairs and enqueues one frame.
func (d *impairQueue) put(p *packet) {
	d.mu.Lock()
	kept := d.enqueue(p)
	d.mu.Unlock()
	if !kept {
		d.pool.Put(p)
	}
}

// enqueue impairs one frame and reports whether p is now in the queue.
func (d *impairQueue) enqueue(p *packet) (kept bool) {
	// Every frame draws the same number of random numbers, whatever the configuration and the
	// outcome. The outcome of one frame therefore does not change the next frame's.
	lost := d.loses()
	duplicate := d.chance(d.imp.Duplicate)
	corrupt := d.chance(d.imp.Corrupt)
	reorder := d.chance(d.imp.Reorder)
	jitter := d.unit()
	bit, _ := bits.Mul64(d.rng.Uint64(), uint64(len(p.buf))*8)

	d.stats.Frames++
	if d.closed {
		d.stats.Discarded++
		return false
	}
	now := d.now()
	copies := 1
	if duplicate && !lost {
		copies = 2
	}
	if int64(d.queued)+int64(copies*len(p.buf)) > d.limit {
		d.stats.LimitDropped++
		return false
	}
	sent, ok := d.transmit(now, len(p.buf))
	if !ok {
		d.stats.QueueDropped++
		return false
	}
	if lost {
		d.stats.Lost++
		return false
	}
	if corrupt && len(p.buf) > 0 {
		d.stats.Corrupted++
		p.buf[bit/8] ^= 1 << (bit % 8)
	}
	delay := int64(d.imp.Latency) + int64((2*jitter-1)*float64(d.imp.Jitter))
	p.due = sent + max(delay, 0)
	switch {
	case !reorder:
		if p.due = max(p.due, d.lastDue); p.due > now {
			p.due = d.inSlot(p.due, d.lastDue, 0)
		}
		d.lastDue = p.due
	case d.imp.ReorderGap > 0:
		d.stats.Reordered++
		p.due = d.inSlot(max(p.due, d.lastDue)+int64(d.imp.ReorderGap), d.lastHeld, slotHeld)
		d.lastHeld = p.due
	default:
		d.stats.Reordered++
		if p.due = sent; p.due > now { // the wire is not idle
			p.due = d.inSlot(p.due, d.lastEarly, slotHeld)
			d.lastEarly = p.due
		}
	}
	d.push(p, reorder)
	if duplicate {
		d.stats.Duplicated++
		twin := d.packet(len(p.buf))
		copy(twin.buf, p.buf)
		if twin.due = p.due; p.due > now && d.slot != 0 {
			twin.due += slotDuplicate
		}
		d.push(twin, reorder)
	}
	return true
}

// transmit returns when the last of n bytes will have been sent. It returns false if they exceed
// the queue.
func (d *impairQueue) transmit(now int64, n int) (sent int64, ok bool) {
	if d.imp.Rate <= 0 {
		return now, true
	}
	rate := uint64(d.imp.Rate)
	if d.busy <= now {
		d.busy, d.rem = now, 0
	} else {
		queue := d.imp.queueLimit(d.full)
		// Half a byte of tolerance: the backlog is computed from nanoseconds.
		if float64(n)+backlog(d.busy-now, rate) > float64(queue)+0.5 {
			return 0, false
		}
	}
	// The computation is exact, because rounding errors of many frames would add up.
	scaled := uint64(n)*8*uint64(time.Second) + d.rem
	d.busy += int64(scaled / rate)
	d.rem = scaled % rate
	return d.busy, true
}

// backlog returns the number of bytes that the wire sends in ns nanoseconds.
func backlog(ns int64, rate uint64) float64 {
	return float64(ns) * float64(rate) / 8 / float64(time.Second)
}

// set changes the impairment. It converts the backlog of queued frames to the new rate.
func (d *impairQueue) set(imp Impairment) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if now := d.now(); d.busy > now && imp.Rate != d.imp.Rate {
		left := backlog(d.busy-now, uint64(max(d.imp.Rate, 0)))
		d.busy, d.rem = now, 0
		if imp.Rate > 0 {
			ns := left * 8 * float64(time.Second) / float64(imp.Rate)
			d.busy += int64(min(ns, math.MaxInt64/4))
		}
	}
	d.imp, d.limit = imp, imp.limit(d.full)
}

// setFull changes the length of the largest frame.
func (d *impairQueue) setFull(full int) {
	d.mu.Lock()
	d.full, d.limit = full, d.imp.limit(full)
	d.mu.Unlock()
}

func (d *impairQueue) push(p *packet, reordered bool) {
	p.seq = d.seq
	d.seq++
	d.queued += len(p.buf)
	d.stats.UnderWay++
	d.queue.push(p, reordered)
}

// unit returns a random number in [0,1).
func (d *impairQueue) unit() float64 { return float64(d.rng.Uint64()>>11) / (1 << 53) }

func (d *impairQueue) chance(p float64) bool { return d.unit() < p }

// loses decides whether the next frame is lost.
func (d *impairQueue) loses() bool {
	loss, burst := d.imp.Loss, d.imp.LossBurst
	u := d.unit()
	switch {
	case burst <= 1 || loss <= 0 || loss >= 1:
		d.losing = u < loss
	case d.losing:
		d.losing = u >= 1/burst
	default:
		// In equilibrium, when bursts begin as often as they end, the proportion of lost frames is
		// loss.
		d.losing = u < loss/(1-loss)/burst
	}
	return d.losing
}

// drain delivers all frames that are due, in order, and arms the timer for the others. It returns
// at once if another goroutine, or an outer call in this goroutine, is the drainer.
func (d *impairQueue) drain() {
	d.mu.Lock()
	if d.draining {
		d.mu.Unlock()
		return
	}
	d.draining = true
	var now int64
	for {
		if now = d.now(); !d.collect(now) {
			break
		}
		d.mu.Unlock()
		n := d.deliver(d.batch)
		d.recycle()
		d.mu.Lock()
		d.stats.Delivered += uint64(n)
		d.stats.Discarded += uint64(len(d.batch) - n)
		d.stats.UnderWay -= len(d.batch)
	}
	d.draining = false
	d.arm(now)
	d.mu.Unlock()
}

// collect moves frames that are due into the batch, and reports whether the batch has any.
func (d *impairQueue) collect(now int64) bool {
	d.batch, d.packets = d.batch[:0], d.packets[:0]
	if d.closed {
		return false
	}
	for d.queue.len() > 0 && d.queue.due() <= now && len(d.batch) < drainBatch {
		p := d.queue.pop()
		d.queued -= len(p.buf)
		d.packets = append(d.packets, p)
		d.batch = append(d.batch, Frame{Head: p.buf})
	}
	return len(d.batch) > 0
}

// recycle frees the buffers of a delivered batch.
func (d *impairQueue) recycle() {
	for i, p := range d.packets {
		d.batch[i] = Frame{}
		d.packets[i] = nil
		d.pool.Put(p)
	}
}

// arm sets the timer for the next frame, unless it is already set to that time or earlier.
func (d *impairQueue) arm(now int64) {
	if d.closed || d.queue.len() == 0 {
		return
	}
	due := d.queue.due()
	if d.armed && d.armedAt <= due {
		return
	}
	d.armed, d.armedAt = true, due
	wait := time.Duration(due - now)
	if d.timer == nil {
		d.timer = time.AfterFunc(wait, d.fire)
		return
	}
	d.timer.Reset(wait)
}

// fire is the timer's function.
func (d *impairQueue) fire() {
	growStack(false)
	d.mu.Lock()
	d.armed = false
	d.mu.Unlock()
	d.drain()
}

// close drops the frames in transit.
func (d *impairQueue) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	if d.timer != nil {
		d.timer.Stop()
	}
	d.stats.Discarded += uint64(d.queue.len())
	d.stats.UnderWay -= d.queue.len()
	d.queue, d.queued = packetQueue{}, 0
}

func (d *impairQueue) snapshot() ImpairStats {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stats
}
