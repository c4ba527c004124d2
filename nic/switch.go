package nic

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// SwitchConfig configures a Switch.
type SwitchConfig struct {
	// MTU is that of every port, in bytes; 1500 if zero.
	MTU int
	// GSO is the largest super-frame in bytes without the Ethernet header;
	// 65535 if zero, none if negative.
	GSO int
	// NoTxChecksum makes the senders complete their checksums. It turns off
	// super-frames too, which need the offload.
	NoTxChecksum bool
	// MaxMACs bounds the table of addresses; 1024 if zero. Frames to an
	// address that is not in the table go to all ports.
	MaxMACs int
	// MaxAge is how long an address is remembered after the last frame from it.
	// IEEE 802.1D section 7.9.2 recommends the 300 s that zero stands for.
	MaxAge time.Duration
	// Seed, unless it is zero, determines the MACs of the ports: the nth port of each switch with
	// this seed has the same MAC. Switches that are joined need different seeds.
	Seed uint64
}

// A Switch is a learning Ethernet bridge in memory. A frame goes to the port on
// which its destination was last seen as a source, or else to all other ports, in
// the goroutine of the sender and without a copy. A switch starts no timer, and goroutines only for
// attached devices whose Send may wait; it needs no Close. Switches must not form a ring: they have
// no spanning tree, and a broadcast would circulate until the sender's stack overflows.
type Switch struct {
	link   Link // of every port, except the name and the MAC
	max    int
	maxAge time.Duration
	seed   uint64

	ports atomic.Pointer[[]*SwitchPort] // replaced as a whole, under mu

	mu    sync.Mutex
	count int // of ports ever made, for their names
	macs  map[[6]byte]station
	swept time.Time // when old entries of the table were last removed
}

// station is where and when an address was last seen.
type station struct {
	port *SwitchPort
	seen time.Time
}

// switchMACs is the number of a switch's first address: a pipe with the same seed has others.
const switchMACs = 1 << 32

// NewSwitch returns a Switch without ports.
func NewSwitch(cfg SwitchConfig) *Switch {
	sw := &Switch{
		link:   Link{MTU: cfg.MTU, Medium: Ethernet, GSO: gsoSize(cfg.GSO), TxChecksum: !cfg.NoTxChecksum},
		max:    cfg.MaxMACs,
		maxAge: cfg.MaxAge,
		seed:   cfg.Seed,
		macs:   make(map[[6]byte]station),
	}
	if sw.link.MTU <= 0 {
		sw.link.MTU = 1500
	}
	if cfg.NoTxChecksum {
		sw.link.GSO = 0
	}
	if sw.max <= 0 {
		sw.max = 1024
	}
	if sw.maxAge <= 0 {
		sw.maxAge = 300 * time.Second
	}
	sw.ports.Store(new([]*SwitchPort))
	return sw
}

// A SwitchPort is one port of a Switch.
type SwitchPort struct {
	base
	sw      *Switch
	link    Link
	dev     Device    // the device that is attached to the switch; nil if the port is itself a Device
	plain   bool      // dev has fewer offloads than the switch
	scratch sync.Pool // of *plainScratch, where plain
	egress  *egress   // where the Send of dev may wait
}

var _ Device = (*SwitchPort)(nil)

// plainScratch has the temporary values for segmenting frames for a plain device.
type plainScratch struct {
	buf   []byte
	batch [1]Frame
}

// Port adds a port with a random locally administered MAC. Closing the port
// takes it off the switch.
func (sw *Switch) Port() *SwitchPort {
	return sw.add(&SwitchPort{sw: sw, link: sw.link})
}

// add puts a port on the switch: with the MAC of its device, or else one of its own.
func (sw *Switch) add(p *SwitchPort) *SwitchPort {
	sw.mu.Lock()
	defer sw.mu.Unlock()
	p.link.Name = "port" + strconv.Itoa(sw.count)
	if p.dev != nil {
		p.link.MAC = p.dev.Link().MAC
	} else {
		p.link.MAC = seededMAC(sw.seed, switchMACs+uint64(sw.count))
	}
	sw.count++
	ports := append(slices.Clone(*sw.ports.Load()), p)
	sw.ports.Store(&ports)
	return p
}

// Attach connects a device, such as a TAP or one end of a pipe, to the switch, which
// becomes its only user. The device must be an Ethernet with at least the
// switch's MTU. If it has fewer offloads than the switch, super-frames are segmented and checksums
// completed for it. Closing the returned port disconnects and closes the device; so does
// an error of the device's Send. If the device is not Nonblocking, a goroutine sends to it while frames
// are queued: copies of up to 6.5 MB, beyond which frames are dropped and counted.
func (sw *Switch) Attach(dev Device) (*SwitchPort, error) {
	if err := CheckFree(dev); err != nil {
		return nil, fmt.Errorf("nic: switch: %w", err)
	}
	l := dev.Link()
	if l.Medium != Ethernet {
		return nil, fmt.Errorf("nic: switch: %s is no Ethernet: %w", l.Name, errors.ErrUnsupported)
	}
	if l.MTU < sw.link.MTU {
		return nil, fmt.Errorf("nic: switch: the MTU of %s is %d, less than the switch's %d", l.Name, l.MTU, sw.link.MTU)
	}
	p := &SwitchPort{sw: sw, link: sw.link, dev: dev}
	p.plain = l.GSO < sw.link.GSO || !l.TxChecksum && sw.link.TxChecksum
	if !IsNonblocking(dev) {
		p.egress = &egress{dev: dev, dropped: &p.recvDropped, failed: func() { p.Close() }}
	}
	dev.Attach(func(batch []Frame) {
		if p.closed.Load() {
			return
		}
		sw.forward(p, batch)
	})
	return sw.add(p), nil
}

// Link describes the port.
func (p *SwitchPort) Link() Link {
	l := p.link
	l.Up = !p.closed.Load()
	return l
}

// Attach sets the function to which the port passes received frames. It panics at
// a second call, and on the port of an attached device.
func (p *SwitchPort) Attach(recv func(batch []Frame)) {
	if p.dev != nil {
		panic("nic: Attach to the switch port of a device")
	}
	p.base.Attach(recv)
}

// Attached reports whether Attach was called, or the port is that of a device.
func (p *SwitchPort) Attached() bool { return p.dev != nil || p.base.Attached() }

// Nonblocking returns the port: its Send does not wait.
func (p *SwitchPort) Nonblocking() Device { return p }

// Send passes the frames to the users of the other ports before it returns. It
// takes all of them. This port drops and counts those that the link cannot carry; a port without a
// user those that are for it. After Close, and on the port of an attached device, Send returns
// net.ErrClosed.
func (p *SwitchPort) Send(batch []Frame) (n int, err error) {
	if p.closed.Load() || p.dev != nil {
		return 0, net.ErrClosed
	}
	p.sw.forward(p, batch)
	return len(batch), nil
}

// Close takes the port off the switch, and closes the device that was attached
// to it.
func (p *SwitchPort) Close() error {
	if err := p.base.Close(); err != nil {
		return err
	}
	p.sw.remove(p)
	if p.dev != nil {
		return p.dev.Close()
	}
	return nil
}

// remove forgets a port.
func (sw *Switch) remove(p *SwitchPort) {
	sw.mu.Lock()
	defer sw.mu.Unlock()
	ports := slices.DeleteFunc(slices.Clone(*sw.ports.Load()), func(q *SwitchPort) bool { return q == p })
	sw.ports.Store(&ports)
	for mac, s := range sw.macs {
		if s.port == p {
			delete(sw.macs, mac)
		}
	}
}

// forward delivers frames that came from a port. Consecutive frames with the same addresses are
// delivered together.
func (sw *Switch) forward(from *SwitchPort, batch []Frame) {
	sw.link.each(batch, func(run []Frame, bytes int) {
		from.countSent(len(run), bytes)
		for len(run) > 0 {
			to, n := sw.route(from, run)
			sw.pass(from, to, run[:n])
			run = run[n:]
		}
	}, func() { from.sendDropped.Add(1) })
}

// pass passes frames to a port, or to all others if that is nil, but never to the port from which they
// came.
func (sw *Switch) pass(from, to *SwitchPort, run []Frame) {
	if to != nil {
		if to != from {
			to.receive(run)
		}
		return
	}
	// IEEE 802.1D section 7.12.6: "Frames containing any of the group MAC
	// Addresses specified in Table 7-10 in their destination address field shall
	// not be relayed by the Bridge."
	if reserved(run[0].Head) {
		return
	}
	for _, p := range *sw.ports.Load() {
		if p != from {
			p.receive(run)
		}
	}
}

// reserved reports whether the destination is 01-80-C2-00-00-00 to -0F.
func reserved(head []byte) bool {
	return head[0] == 0x01 && head[1] == 0x80 && head[2] == 0xc2 &&
		head[3] == 0 && head[4] == 0 && head[5]&0xf0 == 0
}

// route learns the source of the first frame of a run. It returns the port of its destination, or nil
// if that is not known or a group, and how many frames from the first on have the same addresses.
func (sw *Switch) route(from *SwitchPort, run []Frame) (to *SwitchPort, n int) {
	addrs := [12]byte(run[0].Head)
	dst, src := [6]byte(addrs[:6]), [6]byte(addrs[6:])
	for n = 1; n < len(run) && [12]byte(run[n].Head) == addrs; n++ {
	}
	now := time.Now()
	sw.mu.Lock()
	defer sw.mu.Unlock()
	if src[0]&1 == 0 && !from.closed.Load() {
		sw.learn(src, from, now)
	}
	if s, ok := sw.macs[dst]; ok && now.Sub(s.seen) < sw.maxAge {
		return s.port, n
	}
	return nil, n
}

// learn notes on which port an address was seen, if the table has room. The caller
// holds mu.
func (sw *Switch) learn(mac [6]byte, at *SwitchPort, now time.Time) {
	if _, known := sw.macs[mac]; !known && len(sw.macs) >= sw.max {
		// Old entries of a full table are removed at most once a second, so that a flood of
		// forged addresses costs little.
		if now.Sub(sw.swept) < time.Second {
			return
		}
		sw.swept = now
		for m, s := range sw.macs {
			if now.Sub(s.seen) >= sw.maxAge {
				delete(sw.macs, m)
			}
		}
		if len(sw.macs) >= sw.max {
			return
		}
	}
	sw.macs[mac] = station{at, now}
}

// receive passes frames to the port's user or to its device.
func (p *SwitchPort) receive(run []Frame) {
	bytes := 0
	for i := range run {
		bytes += run[i].Len()
	}
	if p.dev == nil {
		if !p.deliver(run, bytes) {
			p.recvDropped.Add(uint64(len(run)))
		}
		return
	}
	if p.closed.Load() {
		p.recvDropped.Add(uint64(len(run)))
		return
	}
	p.received.Add(len(run), bytes)
	if !p.plain {
		p.toDevice(run)
		return
	}
	s, _ := p.scratch.Get().(*plainScratch)
	if s == nil {
		s = new(plainScratch)
	}
	for i := range run {
		f := &run[i]
		if !f.NeedsChecksum && f.GSO == GSONone {
			p.toDevice(run[i : i+1])
			continue
		}
		ok := Ethernet.complete(f, func(n int) []byte {
			s.buf = slices.Grow(s.buf[:0], n)[:n]
			return s.buf
		}, func(b []byte) {
			s.batch[0] = Frame{Head: b}
			p.toDevice(s.batch[:])
		})
		if !ok {
			p.recvDropped.Add(1)
		}
	}
	s.batch[0] = Frame{}
	p.scratch.Put(s)
}

// toDevice sends frames through the attached device. If that fails, it closes the port.
func (p *SwitchPort) toDevice(run []Frame) {
	if p.egress != nil {
		p.recvDropped.Add(uint64(len(run) - p.egress.put(run)))
		return
	}
	n, err := p.dev.Send(run)
	p.recvDropped.Add(uint64(len(run) - n))
	if err != nil {
		p.Close()
	}
}
