package nic

import (
	"net"
	"sync/atomic"
	"time"
)

// An Impairment describes what one direction of a link does to frames. The zero value changes
// nothing.
//
// A frame is first queued and transmitted (Queue, Rate), and then lost, changed or delayed. The
// probabilities are in the range 0 to 1 and independent of each other.
type Impairment struct {
	// Latency is the time from the end of a frame's transmission to its arrival.
	Latency time.Duration
	// Jitter adds to Latency a time drawn uniformly from -Jitter to +Jitter; the sum is at least
	// zero. Jitter alone does not reorder frames: a frame arrives no earlier than the frame before
	// it.
	Jitter time.Duration
	// Rate is the speed of the wire in bits per second. It counts the bytes of the frames including
	// their link-layer headers. 0 means infinite.
	Rate int64
	// Queue is how many bytes may be in transmission or wait for it. A frame that would exceed it
	// is dropped, unless the wire is idle. 0 stands for 100 frames of the link's maximum size.
	// Queue has no effect without a Rate.
	Queue int
	// Loss is the probability that a frame never arrives.
	Loss float64
	// LossBurst is the mean number of consecutive frames that are lost together. With 0 or 1, each
	// frame is lost independently. With more, losses come in bursts of geometrically distributed
	// length, and Loss is still the mean (the Gilbert-Elliott model, with a good state that loses
	// nothing and a bad state that loses everything). Loss must be at most LossBurst/(LossBurst+1).
	LossBurst float64
	// Duplicate is the probability that a frame arrives twice.
	Duplicate float64
	// Reorder is the probability that a frame is reordered. It arrives ReorderGap later, so that
	// frames that follow within that time overtake it. If ReorderGap is 0, the frame has no latency
	// instead and overtakes the frames before it, as in Linux netem.
	Reorder    float64
	ReorderGap time.Duration
	// Corrupt is the probability that a random bit of a frame is inverted.
	Corrupt float64
	// Limit is the maximum number of bytes that the direction holds: frames that are queued, in
	// transmission or delayed. A frame that would exceed it is dropped and counted in LimitDropped.
	// 0 stands for 256 MiB, or for what Queue, Rate and the delays need, if that is more. A link of
	// 100 Gbit/s and 100 ms holds 1.25 GB.
	Limit int64
}

// ImpairConfig configures an Impaired device.
type ImpairConfig struct {
	Out Impairment // of sent frames
	In  Impairment // of received frames
	// Seed seeds the random decisions. The nth frame of a direction is treated the same in every
	// run with the same seed and the same impairment.
	//
	// With a seed other than zero, delayed frames arrive one at a time. Each is up to 64 ns late,
	// so that it arrives at an instant that the timers of hosts do not use. Without a seed, events
	// at the same instant of virtual time happen in any order. Hosts in a testing/synctest bubble
	// send the same packets in each run if their Config.Rand is seeded and each of their links has
	// a latency and a seed.
	Seed uint64
}

// ImpairStats counts the frames of one direction. When no frame is in transit, Frames + Duplicated
// = QueueDropped + LimitDropped + Lost + Delivered + Discarded.
type ImpairStats struct {
	Frames       uint64 // frames that entered, counting each segment of a super-frame
	QueueDropped uint64 // dropped because the queue was full
	LimitDropped uint64 // dropped because of Limit
	Lost         uint64
	Duplicated   uint64 // duplicates made
	Reordered    uint64
	Corrupted    uint64
	Delivered    uint64 // frames passed on, including duplicates
	Discarded    uint64 // frames that the wrapped device did not accept, or that were dropped by Close
	UnderWay     int    // frames in transit
}

// Impaired is a Device that impairs the link of another one.
//
// An Impaired has no offloads, so its frames are those of a real wire: before it impairs received
// frames, it segments super-frames and completes checksums. Frames without a delay are delivered in
// the goroutine of the sender, and others by one timer for each direction. One goroutine at a time
// delivers in each direction. An unused device has no goroutine.
type Impaired struct {
	dev     Device
	link    atomic.Pointer[Link] // dev's link without offloads; replaced, never modified
	onLink  func()
	follows bool // whether dev calls linkChanged
	out, in *impairQueue
	invalid atomic.Uint64
	closed  atomic.Bool
	dead    atomic.Pointer[error] // the error that ended dev; nil while it works
}

var _ Device = (*Impaired)(nil)

// Impair returns an Impaired that wraps dev and is its only user.
func Impair(dev Device, cfg ImpairConfig) *Impaired {
	d := &Impaired{dev: dev}
	full := d.readLink()
	d.follows = notifyLink(dev, d.linkChanged)
	d.out = newDirection(cfg.Out, cfg.Seed, 0, full, d.pass)
	d.in = newDirection(cfg.In, cfg.Seed, 1, full, nil)
	return d
}

// readLink updates link from the wrapped device. It returns the length of the largest frame.
func (d *Impaired) readLink() int {
	link := d.dev.Link()
	link.GSO, link.TxChecksum = 0, false
	d.link.Store(&link)
	return link.MTU + link.Medium.headerLen()
}

// linkChanged is called when the link of the wrapped device has changed.
func (d *Impaired) linkChanged() {
	full := d.readLink()
	d.out.setFull(full)
	d.in.setFull(full)
	if d.onLink != nil {
		d.onLink()
	}
}

// NotifyLink registers f. It returns false if the wrapped device does not report changes of its link.
func (d *Impaired) NotifyLink(f func()) bool {
	d.onLink = f
	return d.follows
}

// Link describes the link of the wrapped device, without its offloads.
func (d *Impaired) Link() Link {
	l := *d.link.Load()
	l.Up = !d.closed.Load() && d.dead.Load() == nil && d.dev.Link().Up
	return l
}

// Attach attaches recv to the wrapped device, so that received frames are impaired.
func (d *Impaired) Attach(recv func(batch []Frame)) {
	d.in.deliver = func(batch []Frame) int {
		recv(batch)
		return len(batch)
	}
	d.dev.Attach(func(batch []Frame) {
		if d.closed.Load() {
			return
		}
		for i := range batch {
			if !d.in.take(d.link.Load().Medium, &batch[i]) {
				d.invalid.Add(1)
			}
		}
		d.in.drain()
	})
}

// Send accepts all frames. It drops those that a link without offloads cannot carry; Invalid counts
// them. After Close it returns net.ErrClosed, and after the wrapped device has failed, that
// device's error.
func (d *Impaired) Send(batch []Frame) (n int, err error) {
	if d.closed.Load() {
		return 0, net.ErrClosed
	}
	if err := d.dead.Load(); err != nil {
		return 0, *err
	}
	link := d.link.Load()
	link.each(batch, func(run []Frame, _ int) {
		for i := range run {
			d.out.take(link.Medium, &run[i])
		}
	}, func() { d.invalid.Add(1) })
	d.out.drain()
	return len(batch), nil
}

// pass sends frames that are due through the wrapped device, and returns how many it accepted.
func (d *Impaired) pass(batch []Frame) int {
	n, err := d.dev.Send(batch)
	if err != nil {
		d.dead.CompareAndSwap(nil, new(err)) // a copy: &err would be allocated for every batch
	}
	return n
}

// NotifyDown registers f with the wrapped device. If that device is not a DownNotifier, f is never
// called.
func (d *Impaired) NotifyDown(f func(err error)) { notifyDown(d.dev, f) }

// Unwrap returns the wrapped device.
func (d *Impaired) Unwrap() Device { return d.dev }

// Nonblocking returns the device if the Send of the wrapped device does not block, and nil
// otherwise.
func (d *Impaired) Nonblocking() Device {
	if !IsNonblocking(d.dev) {
		return nil
	}
	return d
}

// Close drops all frames in transit and closes the wrapped device.
func (d *Impaired) Close() error {
	if !d.closed.CompareAndSwap(false, true) {
		return net.ErrClosed
	}
	d.out.close()
	d.in.close()
	return d.dev.Close()
}

// SetOut changes the impairment of frames sent from now on. Frames in transit arrive as before.
// Later frames do not arrive before them unless they are reordered.
func (d *Impaired) SetOut(imp Impairment) { d.out.set(imp) }

// SetIn is like SetOut, for received frames.
func (d *Impaired) SetIn(imp Impairment) { d.in.set(imp) }

// OutStats returns the counters of sent frames.
func (d *Impaired) OutStats() ImpairStats { return d.out.snapshot() }

// InStats returns the counters of received frames.
func (d *Impaired) InStats() ImpairStats { return d.in.snapshot() }

// Invalid returns the number of frames, in both directions, that no wire carries. They are too
// long, or ask for offloads that the link does not have or that do not fit their headers.
func (d *Impaired) Invalid() uint64 { return d.invalid.Load() }
