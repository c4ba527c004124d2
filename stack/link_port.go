package stack

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// maxVLAN is the highest VLAN ID of an interface.
//
// IEEE 802.1Q table 9-2: the VID 0 "indicates that the tag header contains only priority information", and
// the VID FFF "shall not be configured as a PVID or a member of a VID set, or transmitted in a tag header".
const maxVLAN = 4094

// maxLinkLen is the length in bytes of the longest link header: Ethernet with a VLAN tag.
const maxLinkLen = wire.EthernetLen + wire.VLANTagLen

// A port is a device of a stack with the interfaces that use it: at most one without a VLAN, and at most
// one for each VLAN. It is small, so that an idle host needs little memory.
type port struct {
	sole atomic.Pointer[iface] // the only interface, if it has no VLAN; otherwise nil
	// cause is the error with which the device has failed; nil while the device works.
	cause atomic.Pointer[error]
	// table has the interfaces. It is nil until an interface with a VLAN joins or sole leaves. Stack.mu is held
	// when sole and table are stored.
	table atomic.Pointer[vlanTable]

	once     sync.Once   // attaches the device
	notifies bool        // the device reports changes of its link; set by once
	zeroCopy atomic.Bool // the device asks for receive buffers
	turn     *sendTurn   // nil if Send of the device does not block
}

// A vlanTable has the interfaces of a device.
type vlanTable struct {
	ifaces []*iface              // in ascending order of their VLANs; immutable
	last   atomic.Pointer[iface] // the interface that received frames last; nil if none has received any
}

func newPort(dev nic.Device) *port {
	p := new(port)
	if !nic.IsNonblocking(dev) {
		p.turn = new(sendTurn)
	}
	return p
}

// join makes the interface receive from its device. The first interface that joins attaches the device.
func (p *port) join(ifc *iface) {
	ifc.s.mu.Lock()
	list := append(p.ifaces(), ifc)
	slices.SortFunc(list, func(a, b *iface) int { return int(a.vlan) - int(b.vlan) })
	p.store(list)
	ifc.s.mu.Unlock()
	p.once.Do(func() { p.attach(ifc) })
	// The link may have changed since New or AddNIC, so read it once.
	if p.notifies {
		ifc.readLink()
	}
	// The device may have failed before the interface was in the table.
	if err := p.cause.Load(); err != nil {
		ifc.failed(*err)
	}
}

// leave ends the reception of an interface.
func (p *port) leave(ifc *iface) {
	ifc.s.mu.Lock()
	defer ifc.s.mu.Unlock()
	p.store(slices.DeleteFunc(p.ifaces(), func(x *iface) bool { return x == ifc }))
}

// store stores the interfaces. Stack.mu is held.
func (p *port) store(list []*iface) {
	var sole *iface
	if len(list) == 1 && list[0].vlan == 0 {
		sole = list[0]
	}
	if sole == nil || p.table.Load() != nil {
		p.table.Store(&vlanTable{ifaces: list})
	}
	p.sole.Store(sole) // stored last: a reader that has loaded nil from sole then finds the interfaces in table
}

// ifaces returns a new slice of the interfaces.
func (p *port) ifaces() []*iface {
	sole := p.sole.Load() // before table: see store
	if t := p.table.Load(); t != nil {
		return slices.Clone(t.ifaces)
	}
	if sole != nil {
		return []*iface{sole}
	}
	return nil
}

// attach registers for the notifications of the device and begins to receive. first is an interface of the
// device.
func (p *port) attach(first *iface) {
	dev := first.dev
	// Learn when the device fails.
	if d, ok := dev.(nic.DownNotifier); ok {
		d.NotifyDown(p.failed)
	}
	// Learn when the link changes.
	if d, ok := dev.(nic.LinkNotifier); ok {
		p.notifies = d.NotifyLink(p.linkChanged)
	}
	// Learn the addresses that the device negotiates. Such a device has no VLANs, so first is its only interface.
	if d := nic.ConfigurerOf(dev); d != nil {
		d.NotifyConfig(first.configure)
	}
	// Turn on GRO if the device can merge received segments.
	if d, ok := dev.(nic.ReceiveMerger); ok {
		d.MergeReceived()
	}
	// A device with zero-copy receive asks receiveBuffer for the buffer of a payload.
	if d, ok := dev.(nic.ZeroCopyReceiver); ok {
		p.zeroCopy.Store(d.ReceiveInto(p.receiveBuffer))
	}
	// This function literal needs no more stack space than the method value first.recv would. Stack space
	// matters, because on an in-memory link the sender's goroutine runs the function.
	dev.Attach(func(batch []nic.Frame) {
		if ifc := p.sole.Load(); ifc != nil {
			ifc.recv(batch)
		} else {
			p.split(batch)
		}
	})
}

// split passes received frames to the interfaces of their VLANs. Consecutive frames of one VLAN go to their
// interface in one batch.
func (p *port) split(batch []nic.Frame) {
	t := p.table.Load()
	if t == nil || len(t.ifaces) == 0 {
		return // the device has no interface any more
	}
	for len(batch) > 0 {
		vlan, n := vlanOf(&batch[0]), 1
		for n < len(batch) && vlanOf(&batch[n]) == vlan {
			n++
		}
		ifc := t.last.Load() // most often, the next frame is of the same VLAN
		if ifc == nil || ifc.vlan != vlan {
			if ifc = t.of(vlan); ifc != nil {
				t.last.Store(ifc)
			}
		}
		if ifc != nil {
			ifc.recv(batch[:n])
		} else {
			first := t.ifaces[0]
			if ws := first.s.watch.set.Load(); ws != nil && ws.frames {
				ws.putFrames(first, batch[:n], FrameReceived)
			}
			for i := range batch[:n] {
				first.s.dropFrame(dropVLAN, first, &batch[i], false)
			}
		}
		batch = batch[n:]
	}
}

// of returns the interface with a VLAN, or nil if there is none. VLAN 0 stands for the interface without a VLAN.
func (t *vlanTable) of(vlan uint16) *iface {
	i, found := slices.BinarySearchFunc(t.ifaces, vlan, func(ifc *iface, vlan uint16) int { return int(ifc.vlan) - int(vlan) })
	if !found {
		return nil
	}
	return t.ifaces[i]
}

// vlanOf returns the VLAN of a frame. It returns 0 for a frame without a tag and for a frame whose tag has only
// a priority, because such frames belong to no VLAN.
func vlanOf(f *nic.Frame) uint16 {
	b := f.Head
	if len(b) < maxLinkLen || b[12] != byte(wire.EtherTypeVLAN>>8) || b[13] != byte(wire.EtherTypeVLAN&0xff) {
		return 0
	}
	return uint16(b[14]&0x0f)<<8 | uint16(b[15])
}

// receiveBuffer returns the buffer of a waiting reader, for the device to write to; see zeroCopyReceive. If
// the device has an interface with a VLAN, the reader is a reader of the interface that received last.
func (p *port) receiveBuffer() nic.ReceiveBuffer {
	ifc := p.sole.Load()
	if t := p.table.Load(); ifc == nil && t != nil {
		ifc = t.last.Load()
	}
	if ifc == nil {
		return nic.ReceiveBuffer{}
	}
	return ifc.receiveBuffer()
}

// linkChanged handles a change of the device's link. The caller must not hold a lock.
func (p *port) linkChanged() {
	for _, ifc := range p.ifaces() {
		ifc.linkChanged()
	}
}

// failed takes the interfaces down because the device has failed with err. The caller must not hold a lock.
func (p *port) failed(err error) {
	p.cause.CompareAndSwap(nil, &err) // stored first: an interface that joins now is in p.ifaces or sees cause
	for _, ifc := range p.ifaces() {
		ifc.failed(err)
	}
}

// portOf returns the port of a device and the first of its interfaces, or nil if no interface uses the
// device.
func portOf(ifaces []*iface, dev nic.Device) (*port, *iface) {
	for _, ifc := range ifaces {
		if nic.Same(ifc.dev, dev) {
			return ifc.port, ifc
		}
	}
	return nil, nil
}

// A sendTurn makes the interfaces of a device send one at a time, if Send of the device may block (see
// nic.Device). Only drainAsync waits for it, in a goroutine that sends frames of one interface only.
type sendTurn struct {
	mu    mutex[levelLink]
	cond  sync.Cond
	taken bool
}

func (t *sendTurn) take() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cond.L == nil {
		t.cond.L = &t.mu
	}
	for t.taken {
		t.cond.Wait()
	}
	t.taken = true
}

func (t *sendTurn) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.taken = false
	t.cond.Signal()
}
