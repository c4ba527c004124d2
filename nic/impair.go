package nic

import (
	"net"
	"sync/atomic"
	"time"
)

// An Impairment is what one direction of a link does to frames. The zero value
// does nothing to them.
//
// A frame first waits for its turn on the wire (Queue, Rate), and is then lost,
// changed or delayed. The probabilities are in the range 0 to 1 and are
// independent of each other.
type Impairment struct {
	// Latency is the time that a frame is under way, after its last bit was put
	// on the wire.
	Latency time.Duration
	// Jitter adds to Latency a time drawn uniformly from -Jitter to +Jitter; the
	// sum is never below zero. Jitter alone does not reorder: a frame that drew
	// less than the frame before it arrives together with it.
	Jitter time.Duration
	// Rate is the speed of the wire in bits per second, counting the bytes of
	// the frames with their link-layer headers; 0 is infinite.
	Rate int64
	// Queue is how many bytes may be on the wire or waiting for it. A frame
	// that finds less room is dropped, unless the wire is idle. 0 is room for
	// 100 frames of the link's full size. It has no meaning without a Rate.
	Queue int
	// Loss is the probability that a frame never arrives.
	Loss float64
	// LossBurst is the mean number of frames in a row that are lost together; 0 and 1
	// lose each frame independently of the others. With more, losses come in bursts, of
	// geometrically distributed length, and Loss is still the mean (the model of
	// Gilbert and Elliott, with a good state that loses nothing and a bad one that
	// loses all). Loss is to be at most LossBurst/(LossBurst+1).
	LossBurst float64
	// Duplicate is the probability that a frame arrives twice.
	Duplicate float64
	// Reorder is the probability that a frame loses its place in the order. It
	// is held back by ReorderGap, so that the frames that follow within that
	// time overtake it; with a ReorderGap of 0 it has no latency, and so
	// overtakes those before it, as with Linux netem.
	Reorder    float64
	ReorderGap time.Duration
	// Corrupt is the probability that a random bit of a frame is inverted.
	Corrupt float64
	// Limit is how many bytes the direction may hold at most: frames that wait for the
	// wire, are on it, or are delayed. A frame that would be more is dropped and counted
	// by LimitDropped. 0 is 256 MiB, or as much as Queue, Rate and the delays ask for,
	// where that is more. A link of 100 Gbit/s and 100 ms holds 1.25 GB.
	Limit int64
}

// ImpairConfig configures an Impaired device.
type ImpairConfig struct {
	Out Impairment // of what is sent
	In  Impairment // of what is received
	// Seed starts the random decisions. The nth frame of a direction meets the
	// same fate in every run with the same seed and the same impairment.
	//
	// With a seed other than zero, delayed frames arrive one at a time, each up to 64 ns
	// later than it would, at instants that the timers of hosts do not use. Without that, what
	// happens at the same instant of virtual time happens in any order. In a testing/synctest bubble,
	// hosts whose Config.Rand is seeded, on links with a latency and a seed, then send the same
	// packets in each run.
	Seed uint64
}

// ImpairStats counts what befell the frames of one direction. When nothing is
// under way, Frames + Duplicated = QueueDropped + LimitDropped + Lost + Delivered + Discarded.
type ImpairStats struct {
	Frames       uint64 // frames that came, super-frames cut up
	QueueDropped uint64 // found the queue full
	LimitDropped uint64 // would have been beyond the Limit
	Lost         uint64
	Duplicated   uint64 // duplicates made
	Reordered    uint64
	Corrupted    uint64
	Delivered    uint64 // frames passed on, duplicates too
	Discarded    uint64 // the device below had no room, or was closed
	UnderWay     int    // frames that wait to be passed on
}

// Impaired is a Device in front of another one, whose link it makes worse.
//
// Its frames are those of a real wire: it offers no offloads, and super-frames
// and unfinished checksums of the other end are finished before anything is
// done to them. Delivery is in the goroutine of the sender when nothing delays
// it, else in that of one timer for each direction; one goroutine at a time
// delivers in each direction. A device that is forgotten keeps no goroutine.
type Impaired struct {
	dev     Device
	link    atomic.Pointer[Link] // of dev, without its offloads; replaced, never changed
	onLink  func()
	told    bool // linkChanged will be called
	out, in *impairQueue
	invalid atomic.Uint64
	closed  atomic.Bool
	dead    atomic.Pointer[error] // why the device below takes nothing any more
}

var _ Device = (*Impaired)(nil)

// Impair puts an Impaired in front of dev, whose only user it becomes.
func Impair(dev Device, cfg ImpairConfig) *Impaired {
	d := &Impaired{dev: dev}
	full := d.readLink()
	d.told = notifyLink(dev, d.linkChanged)
	d.out = newDirection(cfg.Out, cfg.Seed, 0, full, d.pass)
	d.in = newDirection(cfg.In, cfg.Seed, 1, full, nil)
	return d
}

// readLink asks the device below for its link. It returns the length of the largest frame.
func (d *Impaired) readLink() int {
	link := d.dev.Link()
	link.GSO, link.TxChecksum = 0, false
	d.link.Store(&link)
	return link.MTU + link.Medium.headerLen()
}

// linkChanged is called when the link of the device below has changed.
func (d *Impaired) linkChanged() {
	full := d.readLink()
	d.out.setFull(full)
	d.in.setFull(full)
	if d.onLink != nil {
		d.onLink()
	}
}

// NotifyLink has f called when the link of the device below changes, where it is one that can
// tell, which it reports. It must be called before Attach.
func (d *Impaired) NotifyLink(f func()) bool {
	d.onLink = f
	return d.told
}

// Link describes the link of the device below, without its offloads.
func (d *Impaired) Link() Link {
	l := *d.link.Load()
	l.Up = !d.closed.Load() && d.dead.Load() == nil && d.dev.Link().Up
	return l
}

// Attach attaches recv, behind the impairment, to the device below.
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

// Send takes all frames. Those that a link without offloads could not carry are
// dropped and counted by Invalid. After Close it returns net.ErrClosed; after
// the device below has failed, its error.
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

// pass sends what is due through the device below.
func (d *Impaired) pass(batch []Frame) int {
	n, err := d.dev.Send(batch)
	if err != nil {
		d.dead.CompareAndSwap(nil, new(err)) // a copy: &err would be allocated for every batch
	}
	return n
}

// NotifyDown has f called once if the device below comes to an end by itself,
// where it is one that can tell. It must be called before Attach.
func (d *Impaired) NotifyDown(f func(err error)) { notifyDown(d.dev, f) }

// Unwrap returns the device below.
func (d *Impaired) Unwrap() Device { return d.dev }

// Nonblocking returns the device if the Send of the one below does not wait.
func (d *Impaired) Nonblocking() Device {
	if !IsNonblocking(d.dev) {
		return nil
	}
	return d
}

// Close drops all frames under way and closes the device below.
func (d *Impaired) Close() error {
	if !d.closed.CompareAndSwap(false, true) {
		return net.ErrClosed
	}
	d.out.close()
	d.in.close()
	return d.dev.Close()
}

// SetOut changes what is done to the frames that are sent from now on. Frames
// under way arrive when they would have, and those that follow in the order do
// not arrive before them.
func (d *Impaired) SetOut(imp Impairment) { d.out.set(imp) }

// SetIn changes what is done to the frames that are received from now on.
func (d *Impaired) SetIn(imp Impairment) { d.in.set(imp) }

// OutStats returns the counters of what was sent.
func (d *Impaired) OutStats() ImpairStats { return d.out.snapshot() }

// InStats returns the counters of what was received.
func (d *Impaired) InStats() ImpairStats { return d.in.snapshot() }

// Invalid counts the frames, of both directions, that could not be put on a
// wire: too long, or with offloads that were not offered or make no sense.
func (d *Impaired) Invalid() uint64 { return d.invalid.Load() }
