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
	// MTU is the MTU of every port in bytes; 1500 if zero.
	MTU int
	// GSO is the largest super-frame in bytes, without the Ethernet header, up to MaxGSO. 0 stands
	// for 65535, and a negative value for no super-frames.
	GSO int
	// NoTxChecksum makes the senders complete their checksums. It also turns off super-frames,
	// which need that offload.
	NoTxChecksum bool
	// MaxMACs bounds the address table; 1024 if zero. Frames to an address that is not in the table
	// go to all ports.
	MaxMACs int
	// MaxAge is how long the table keeps an address after the last frame from it; 300 s if zero, as
	// IEEE 802.1D section 7.9.2 recommends.
	MaxAge time.Duration
	// Seed, if it is not zero, determines the MACs of the ports: the nth port of each switch with
	// this seed has the same MAC. Connected switches need different seeds.
	Seed uint64
}

// A Switch is a learning Ethernet bridge in memory. It forwards a frame to the port on which the
// destination was last seen as a source. If the destination was not seen, the Switch forwards the frame
// to all other ports. It forwards in the goroutine of the sender and without a copy.
//
// A Switch has no timer. It starts goroutines only for attached devices whose Send may block, and
// needs no Close. Switches must not form a ring: they have no spanning tree, and a broadcast would
// circulate until the sender's goroutine stack overflows.
type Switch struct {
	link   Link // the link of every port, without name and MAC
	max    int
	maxAge time.Duration
	seed   uint64

	ports atomic.Pointer[[]*SwitchPort] // replaced, never modified; stored with mu held

	mu    sync.Mutex
	count int // number of ports ever made, for their names
	macs  map[[6]byte]station
	swept time.Time // when old entries of the table were last removed
}

// A station records where and when an address was last seen.
type station struct {
	port *SwitchPort
	seen time.Time
}

// switchMACs is the number of a switch's first address for seededMAC. It differs from a pipe's, so
// that a pipe with the same seed has other addresses.
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
	dev     Device    // the attached device; nil if the port is itself used as a Device
	plain   bool      // whether dev has fewer offloads than the switch
	scratch sync.Pool // of *plainScratch; used if plain
	egress  *egress   // nil unless the Send of dev may block
}

var _ Device = (*SwitchPort)(nil)

// plainScratch has the buffers for segmenting frames for a plain device.
type plainScratch struct {
	buf   []byte
	batch [1]Frame
}

// Port adds a port with a random locally administered MAC. Closing the port removes it from the
// switch.
func (sw *Switch) Port() *SwitchPort {
	return sw.add(&SwitchPort{sw: sw, link: sw.link})
}

// add adds a port. The port has the MAC of its device or, without a device, one of its own.
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

// Attach connects a device, such as a TAP or one end of a pipe, to the switch, which becomes its
// only user. The device must be an Ethernet with at least the switch's MTU. If it has fewer
// offloads than the switch, the port segments super-frames and completes checksums for it. Closing
// the returned port disconnects and closes the device, and so does an error of the device's Send.
// If the device is not Nonblocking, the port queues copies of frames, up to 6.5 MB, and a goroutine
// sends them. Further frames are dropped and counted.
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

// Attach sets the function to which the port passes received frames. It panics at a second call,
// and if a device is attached to the port.
func (p *SwitchPort) Attach(recv func(batch []Frame)) {
	if p.dev != nil {
		panic("nic: Attach to the switch port of a device")
	}
	p.base.Attach(recv)
}

// Attached reports whether Attach was called or a device is attached to the port.
func (p *SwitchPort) Attached() bool { return p.dev != nil || p.base.Attached() }

// Nonblocking returns the port: its Send does not block.
func (p *SwitchPort) Nonblocking() Device { return p }

// Send passes the frames to the users of the other ports before it returns. It accepts all of them.
// The sending port drops and counts frames that the link cannot carry. A receiving port without a
// user drops and counts the frames for it. After Close, and if a device is attached to the port,
// Send returns net.ErrClosed.
func (p *SwitchPort) Send(batch []Frame) (n int, err error) {
	if p.closed.Load() || p.dev != nil {
		return 0, net.ErrClosed
	}
	p.sw.forward(p, batch)
	return len(batch), nil
}

// Close removes the port from the switch and closes the device that was attached to it.
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

// remove removes a port and its addresses.
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

// forward delivers frames that came from a port. It delivers consecutive frames with the same
// addresses together.
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

// pass passes frames to a port or, if to is nil, to all ports. It never passes them to the port
// from which they came.
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

// route learns the source of the first frame of a run. It returns the port of the destination, or
// nil if the destination is unknown or a group address. n is how many of the first frames have the same
// addresses.
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

// learn records the port on which an address was seen, if the table is not full. The caller holds
// mu.
func (sw *Switch) learn(mac [6]byte, at *SwitchPort, now time.Time) {
	if _, known := sw.macs[mac]; !known && len(sw.macs) >= sw.max {
		// A full table is swept at most once a second, so that a flood of forged addresses costs
		// little.
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

// receive passes frames to the port's user or to the attached device.
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

// toDevice sends frames through the attached device. If Send fails, it closes the port.
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
