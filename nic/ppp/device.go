package ppp

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/usernet/usernet/nic"
)

// closeTime is the maximum time that Close waits for the peer to confirm the end of the link. It is also the
// maximum time that a device delays its end until the last control frames have been sent.
const closeTime = 200 * time.Millisecond

// A line carries the frames of a Device: it is a stream of octets or a PPPoE session.
type line interface {
	// start begins to receive, and starts the machine as soon as the line is up.
	start()
	// tick does what is due on the line, and reacts to the state of the machine. Device.mu is held.
	tick(now time.Time)
	// deadline returns the time of the next tick, or the zero time. Device.mu is held.
	deadline() time.Time
	// control sends frames of control protocols in order. It may block if blocking reports true.
	control(frames []controlFrame)
	blocking() bool
	// data sends packets and returns how many it accepted. An error means that the line has failed.
	data(d *Device, batch []nic.Frame, fr framing, mtu int) (n int, err error)
	close() error
}

// A Device is one end of a PPP link. It is a nic.Device whose packets are IP packets.
//
// Attach begins the negotiation. The link is up while at least one of IPv4 and IPv6 is negotiated. The
// device tells its host the negotiated MTU and addresses. When the link goes down, the device negotiates it again,
// until Close. The device fails if another try would fail too: if the line fails, if the peer rejects our password or
// requires authentication and User is empty, or if the peer refuses both families. The device of a Server's
// session also fails when its link goes down. Err then returns the reason.
//
// Send drops packets while their family is not negotiated.
type Device struct {
	line line
	name string
	log  *slog.Logger
	recv atomic.Pointer[func([]nic.Frame)]

	view   atomic.Pointer[view] // what the machine has negotiated; replaced, never modified
	closed atomic.Bool
	dead   atomic.Pointer[error] // why the device has failed; nil while it works

	mu       sync.Mutex
	cond     sync.Cond // signals changes of ended and of sending
	m        *machine
	timer    *time.Timer
	applying bool // a goroutine is in apply, which calls onDown, onLink and onConfig
	sending  bool // a goroutine sends the frames in control
	control  []controlFrame
	ended    bool // the machine has ended
	endedAt  time.Time
	told     *view // what apply has told the user of the device
	toldEnd  bool
	toldDown atomic.Bool // onDown was called

	onDown   func(error)
	onLink   func()
	onConfig func(nic.NetConfig)

	sent, sentBytes, sendDropped         atomic.Uint64
	received, receivedBytes, recvDropped atomic.Uint64
}

// A view is the state of the link for senders and receivers of packets.
type view struct {
	mtu          int
	ipv4, ipv6   bool
	tx           framing
	rxACCM       uint32
	conf4, conf6 *nic.NetConfig
	err          error // why the link was last terminated
	failed       [2]error
}

var (
	_ nic.DownNotifier   = (*Device)(nil)
	_ nic.LinkNotifier   = (*Device)(nil)
	_ nic.Configurer     = (*Device)(nil)
	_ nic.AttachReporter = (*Device)(nil)
)

// newDevice returns a device; the caller sets its line. cfg has been checked.
func newDevice(cfg Config) *Device {
	d := &Device{name: cfg.Name, log: cfg.Logger, m: newMachine(cfg)}
	d.cond.L = &d.mu
	d.timer = time.AfterFunc(time.Hour, func() { d.step(func(time.Time) {}) })
	d.timer.Stop() // until collect sets it
	d.told = d.look()
	d.view.Store(d.told)
	return d
}

// look returns the state of the machine. d.mu is held.
func (d *Device) look() *view {
	m := d.m
	return &view{m.mtu, m.up4, m.up6, m.tx, m.rxACCM, m.conf4, m.conf6, m.last, [2]error{m.failed4, m.failed6}}
}

// Link describes the link. Its Medium is nic.IP. Up reports whether a family is negotiated.
func (d *Device) Link() nic.Link {
	v := d.view.Load()
	up := (v.ipv4 || v.ipv6) && !d.closed.Load() && d.dead.Load() == nil
	return nic.Link{Name: d.name, MTU: v.mtu, Medium: nic.IP, Up: up}
}

// NotifyDown registers f, which the device calls once if it fails. It must be called before Attach.
func (d *Device) NotifyDown(f func(err error)) { d.onDown = f }

// NotifyLink registers f, which the device calls when the link comes up or goes down, or its MTU changes. It
// returns true. It must be called before Attach.
func (d *Device) NotifyLink(f func()) bool {
	d.onLink = f
	return true
}

// NotifyConfig registers f, to which the device passes the addresses, routes and name servers that it has
// negotiated. It must be called before Attach.
func (d *Device) NotifyConfig(f func(nic.NetConfig)) { d.onConfig = f }

// Config returns the addresses, routes and name servers of the last negotiation.
func (d *Device) Config() nic.NetConfig { return d.view.Load().config() }

// config joins the configurations of both families.
func (v *view) config() (c nic.NetConfig) {
	for _, part := range []*nic.NetConfig{v.conf4, v.conf6} {
		if part != nil {
			c.Addrs = append(c.Addrs, part.Addrs...)
			c.Routes = append(c.Routes, part.Routes...)
			c.DNS = append(c.DNS, part.DNS...)
		}
	}
	return c
}

// Err returns nil while the device works, net.ErrClosed after Close, and the error that ended the device
// after a failure.
func (d *Device) Err() error {
	if err := d.dead.Load(); err != nil {
		return *err
	}
	if d.closed.Load() {
		return net.ErrClosed
	}
	return nil
}

// LinkErr says why the link is down, or why it went down last. It is nil if neither the link nor an attempt to
// establish it has failed since Attach.
func (d *Device) LinkErr() error { return d.view.Load().err }

// FamilyErrs say why IPv4 and IPv6 are not available on a link that is up. An error is nil if the family
// is available or its negotiation has not ended.
func (d *Device) FamilyErrs() (ipv4, ipv6 error) {
	v := d.view.Load()
	return v.failed[0], v.failed[1]
}

// Peer returns the user name by which the peer has authenticated itself; empty if it has not.
func (d *Device) Peer() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.m.remote.name
}

// Stats returns the device's counters. They count IP packets, without the frames of the negotiation.
func (d *Device) Stats() nic.Stats {
	return nic.Stats{
		Sent: d.sent.Load(), SentBytes: d.sentBytes.Load(), SendDropped: d.sendDropped.Load(),
		Received: d.received.Load(), ReceivedBytes: d.receivedBytes.Load(), RecvDropped: d.recvDropped.Load(),
	}
}

// Attached reports whether Attach was called.
func (d *Device) Attached() bool { return d.recv.Load() != nil }

// Attach sets the function to which received packets are passed, and begins the negotiation. A second call
// panics.
func (d *Device) Attach(recv func(batch []nic.Frame)) {
	if recv == nil {
		panic("ppp: Attach of a nil function")
	}
	if !d.recv.CompareAndSwap(nil, &recv) {
		panic("ppp: Attach was called twice on one device")
	}
	d.line.start()
	d.tellDown()
}

// step runs f and then what is due on the machine and the line, unless the machine has ended. It then sends the
// machine's frames and tells the user of the device what has changed. The caller must not hold a lock.
func (d *Device) step(f func(now time.Time)) {
	d.mu.Lock()
	now := time.Now()
	if !d.ended {
		f(now)
		d.m.tick(now)
		d.line.tick(now)
		d.collect()
	}
	d.mu.Unlock()
	d.flush()
	d.apply()
}

// collect takes the results of the machine, and sets the timer. d.mu is held.
func (d *Device) collect() {
	m := d.m
	if room := maxOutgoing - len(d.control); room > 0 {
		d.control = append(d.control, m.out[:min(room, len(m.out))]...)
	}
	m.out = nil
	at := m.deadline()
	if other := d.line.deadline(); at.IsZero() || !other.IsZero() && other.Before(at) {
		at = other
	}
	if m.done {
		d.ended, d.endedAt = true, time.Now()
		d.cond.Broadcast()
		at = d.endedAt.Add(closeTime) // see failed
	}
	if at.IsZero() || m.done && d.closed.Load() {
		d.timer.Stop()
	} else {
		d.timer.Reset(max(time.Until(at), 0))
	}
	if v := *d.look(); v != *d.view.Load() {
		d.view.Store(&v)
	}
}

// idle reports whether all control frames have been sent. d.mu is held.
func (d *Device) idle() bool { return !d.sending && len(d.control) == 0 }

// failed reports whether the device has to fail now, because the machine has ended. The failure waits, for
// closeTime at most, until the last control frames have been sent. d.mu is held.
func (d *Device) failed() bool {
	return d.ended && !d.toldEnd && !d.closed.Load() && (d.idle() || time.Since(d.endedAt) >= closeTime)
}

// drain waits until all control frames have been sent, or until the time end.
func (d *Device) drain(end time.Time) { d.await(end, d.idle) }

// await waits until cond holds, or until the time end. It calls cond with d.mu held.
func (d *Device) await(end time.Time, cond func() bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	late := false
	timer := time.AfterFunc(time.Until(end), func() {
		d.mu.Lock()
		late = true
		d.cond.Broadcast()
		d.mu.Unlock()
	})
	defer timer.Stop()
	for !cond() && !late {
		d.cond.Wait()
	}
}

// flush sends the frames of the negotiation. If sending may block, a goroutine sends the frames, and ends after
// the last one.
func (d *Device) flush() {
	d.mu.Lock()
	if d.sending || len(d.control) == 0 {
		d.mu.Unlock()
		return
	}
	d.sending = true
	d.mu.Unlock()
	if d.line.blocking() {
		go func() {
			d.sendControl()
			d.apply() // a failure may have waited for the last frame
		}()
	} else {
		d.sendControl()
	}
}

// sendControl sends the frames in d.control until there are none, and then clears d.sending. The caller has set
// d.sending.
func (d *Device) sendControl() {
	d.mu.Lock()
	for len(d.control) > 0 {
		frames := d.control
		d.control = nil
		d.mu.Unlock()
		d.line.control(frames)
		d.mu.Lock()
	}
	d.sending = false
	d.cond.Broadcast()
	d.mu.Unlock()
}

// apply tells the user of the device what has changed, one change after the other. If another goroutine is
// doing so, that goroutine tells the rest.
func (d *Device) apply() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.applying {
		return
	}
	d.applying = true
	for d.applyOnce() {
	}
	d.applying = false
}

// applyOnce tells the changes so far, and reports whether there were any. d.mu is held.
func (d *Device) applyOnce() bool {
	notes, v, told := d.m.notes, d.view.Load(), d.told
	failed := d.failed()
	if len(notes) == 0 && v == told && !failed {
		return false
	}
	d.m.notes, d.told = nil, v
	d.toldEnd = d.toldEnd || failed
	err := d.m.err
	d.mu.Unlock()
	defer d.mu.Lock()
	d.write(notes)
	if d.closed.Load() {
		return true
	}
	attached := d.Attached() // before Attach, the user may still register the functions
	if attached && d.onConfig != nil && (v.conf4 != told.conf4 || v.conf6 != told.conf6) {
		d.onConfig(v.config())
	}
	wasUp, up := told.ipv4 || told.ipv6, v.ipv4 || v.ipv6
	if attached && d.onLink != nil && (wasUp != up || v.mtu != told.mtu) {
		d.onLink()
	}
	if failed {
		d.fail(err)
	}
	return true
}

// write logs notes.
func (d *Device) write(notes []note) {
	if d.log == nil {
		return
	}
	for _, n := range notes {
		level := slog.LevelInfo
		if n.warn {
			level = slog.LevelWarn
		}
		d.log.Log(context.Background(), level, n.text, append([]any{"nic", d.name}, n.args...)...)
	}
}

// fail ends the device because of err.
func (d *Device) fail(err error) {
	if d.closed.Load() {
		return
	}
	err = fmt.Errorf("ppp: %s: %w", d.name, err)
	if !d.dead.CompareAndSwap(nil, &err) {
		return
	}
	d.line.close()
	d.tellDown()
}

// tellDown calls onDown once if the device has failed. Attach calls tellDown too, because the device may have
// failed before Attach.
func (d *Device) tellDown() {
	err := d.dead.Load()
	if err != nil && d.Attached() && d.onDown != nil && d.toldDown.CompareAndSwap(false, true) {
		d.onDown(*err)
	}
}

// lineFailed ends the device because the line has failed.
func (d *Device) lineFailed(err error) {
	d.step(func(now time.Time) { d.m.lost(now, err) })
}

// deliver passes packets to the user of the device.
func (d *Device) deliver(batch []nic.Frame) {
	if len(batch) == 0 {
		return
	}
	recv := d.recv.Load()
	if recv == nil || d.closed.Load() {
		d.recvDropped.Add(uint64(len(batch)))
		return
	}
	bytes := 0
	for i := range batch {
		bytes += batch[i].Len()
	}
	d.received.Add(uint64(len(batch)))
	d.receivedBytes.Add(uint64(bytes))
	(*recv)(batch)
}

// passes reports whether a received packet is for the user of the device: an IPv4 or IPv6 packet whose family is
// negotiated. Every other packet is for the machine.
func (d *Device) passes(proto uint16, info []byte) bool {
	v := d.view.Load()
	return proto == protoIPv4 && v.ipv4 && len(info) > 0 && info[0]>>4 == 4 ||
		proto == protoIPv6 && v.ipv6 && len(info) > 0 && info[0]>>4 == 6
}

// receive passes a frame to the machine.
func (d *Device) receive(proto uint16, info []byte) {
	if proto == protoIPv4 || proto == protoIPv6 {
		d.recvDropped.Add(1) // counted as a drop, even if the machine rejects the protocol
	}
	d.step(func(now time.Time) { d.m.receive(now, proto, info) })
}

// Nonblocking returns the device if its Send does not block, and nil otherwise. Send may block on a line of
// octets. On PPPoE it does not block if the Send of the Ethernet device does not.
func (d *Device) Nonblocking() nic.Device {
	if d.line.blocking() {
		return nil
	}
	return d
}

// Send sends packets. It drops and counts packets that are too long, that ask for offloads, or whose family
// is not negotiated. It blocks while a write to the line blocks. After Close it returns net.ErrClosed, and
// after a failure the error of Err.
func (d *Device) Send(batch []nic.Frame) (n int, err error) {
	if err := d.Err(); err != nil {
		return 0, err
	}
	v := d.view.Load()
	n, err = d.line.data(d, batch, v.tx, v.mtu)
	if err != nil {
		d.lineFailed(err)
		if e := d.Err(); e != nil {
			err = e
		}
	}
	return n, err
}

// protocol returns the protocol number of a packet to send. It returns 0, and counts the packet, if the
// packet must be dropped.
func (d *Device) protocol(f *nic.Frame, mtu int) uint16 {
	v := d.view.Load()
	if len(f.Head) > 0 && f.Len() <= mtu && !f.NeedsChecksum && f.GSO == nic.GSONone {
		switch {
		case f.Head[0]>>4 == 4 && v.ipv4:
			return protoIPv4
		case f.Head[0]>>4 == 6 && v.ipv6:
			return protoIPv6
		}
	}
	d.sendDropped.Add(1)
	return 0
}

// countSent counts a packet that was sent.
func (d *Device) countSent(f *nic.Frame) {
	d.sent.Add(1)
	d.sentBytes.Add(uint64(f.Len()))
}

// Close terminates the link and closes the line. It waits at most 200 ms for the peer's confirmation, and then
// at most 200 ms until a slow line has taken the last frames. A second Close returns net.ErrClosed.
func (d *Device) Close() error {
	if !d.closed.CompareAndSwap(false, true) {
		return net.ErrClosed
	}
	if d.dead.Load() != nil {
		return nil // the line is closed
	}
	d.step(d.m.close)
	d.await(time.Now().Add(closeTime), func() bool { return d.ended && d.idle() })
	d.step(func(time.Time) { d.m.end(net.ErrClosed) }) // if the peer has not confirmed
	d.drain(time.Now().Add(closeTime))
	d.timer.Stop()
	return d.line.close()
}
