package main

import (
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"

	"github.com/usernet/usernet/nic"
)

// A gvisorLink is the part that the harness's link endpoints for gVisor share. The links are Ethernet.
type gvisorLink struct {
	offload bool // frames have virtio headers, and the other side does checksums and segmentation
	mac     tcpip.LinkAddress
	send    func(*stack.PacketBuffer) tcpip.Error
	begin   func() // starts reading; called when a dispatcher is attached
	end     func() // closes the device

	mu         sync.RWMutex
	dispatcher stack.NetworkDispatcher
}

// gvisorWire makes two stacks on usernet's wire, because gVisor has no wire with latency and loss.
func gvisorWire(latency time.Duration, loss float64) (near, far *network, err error) {
	a, b := wire(0, latency, loss)
	s1, err := gvisorStack(gvisorOn(a), nearAddr)
	if err != nil {
		return nil, nil, err
	}
	s2, err := gvisorStack(gvisorOn(b), farAddr)
	if err != nil {
		return nil, nil, err
	}
	return ofGVisor(s1, func() { a.Close() }), ofGVisor(s2, func() { b.Close() }), nil
}

// gvisorOn makes a link endpoint from a device.
func gvisorOn(dev nic.Device) *gvisorLink {
	mac := dev.Link().MAC
	e := &gvisorLink{mac: tcpip.LinkAddress(mac[:]), end: func() { dev.Close() }}
	e.send = func(pkt *stack.PacketBuffer) tcpip.Error {
		v := pkt.ToView()
		defer v.Release()
		if _, err := dev.Send([]nic.Frame{{Head: v.AsSlice()}}); err != nil {
			return &tcpip.ErrClosedForSend{}
		}
		return nil
	}
	e.begin = func() {
		dev.Attach(func(batch []nic.Frame) {
			for i := range batch {
				e.deliver(buffer.MakeWithData(batch[i].AppendTo(nil)))
			}
		})
	}
	return e
}

func (e *gvisorLink) deliver(b buffer.Buffer) {
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: b})
	defer pkt.DecRef()
	e.mu.RLock()
	d := e.dispatcher
	e.mu.RUnlock()
	if d == nil || !e.ParseHeader(pkt) {
		return
	}
	dst := header.Ethernet(pkt.LinkHeader().Slice()).DestinationAddress()
	if dst != e.mac && dst[0]&1 == 0 { // a unicast frame to another host
		return
	}
	// With offloads, the frames come from the kernel and have never been on a wire.
	pkt.RXChecksumValidated = e.offload
	d.DeliverNetworkPacket(pkt.NetworkProtocolNumber, pkt)
}

// WritePackets sends the packets one after the other.
func (e *gvisorLink) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	for i, pkt := range pkts.AsSlice() {
		if err := e.send(pkt); err != nil {
			return i, err
		}
	}
	return pkts.Len(), nil
}

// Attach sets the dispatcher. With the first dispatcher it starts reading.
func (e *gvisorLink) Attach(d stack.NetworkDispatcher) {
	e.mu.Lock()
	defer e.mu.Unlock()
	begin := e.dispatcher == nil && d != nil
	e.dispatcher = d
	if begin {
		e.begin()
	}
}

// IsAttached reports whether there is a dispatcher.
func (e *gvisorLink) IsAttached() bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.dispatcher != nil
}

// AddHeader prepends an Ethernet header to the packet.
func (e *gvisorLink) AddHeader(pkt *stack.PacketBuffer) {
	header.Ethernet(pkt.LinkHeader().Push(header.EthernetMinimumSize)).Encode(&header.EthernetFields{
		SrcAddr: pkt.EgressRoute.LocalLinkAddress,
		DstAddr: pkt.EgressRoute.RemoteLinkAddress,
		Type:    pkt.NetworkProtocolNumber,
	})
}

// ParseHeader removes the Ethernet header from the packet. It reports false if the packet is too short.
func (e *gvisorLink) ParseHeader(pkt *stack.PacketBuffer) bool {
	b, ok := pkt.LinkHeader().Consume(header.EthernetMinimumSize)
	if ok {
		pkt.NetworkProtocolNumber = header.Ethernet(b).Type()
	}
	return ok
}

// Capabilities returns CapabilityResolutionRequired: link addresses must be resolved. With offloads, it
// adds CapabilityRXChecksumOffload: received checksums need no verification.
func (e *gvisorLink) Capabilities() stack.LinkEndpointCapabilities {
	caps := stack.LinkEndpointCapabilities(stack.CapabilityResolutionRequired)
	if e.offload {
		caps |= stack.CapabilityRXChecksumOffload
	}
	return caps
}

// SupportedGSO returns HostGSOSupported with offloads: the kernel segments super-frames.
func (e *gvisorLink) SupportedGSO() stack.SupportedGSO {
	if e.offload {
		return stack.HostGSOSupported
	}
	return stack.GSONotSupported
}

// GSOMaxSize returns the length of the longest super-frame, 0 without offloads.
func (e *gvisorLink) GSOMaxSize() uint32 {
	if e.offload {
		return 65535 - header.EthernetMinimumSize
	}
	return 0
}

// Close ends the link.
func (e *gvisorLink) Close() { e.end() }

// The rest of stack.LinkEndpoint.

func (e *gvisorLink) MTU() uint32                             { return 1500 }
func (e *gvisorLink) SetMTU(mtu uint32)                       {}
func (e *gvisorLink) MaxHeaderLength() uint16                 { return header.EthernetMinimumSize }
func (e *gvisorLink) LinkAddress() tcpip.LinkAddress          { return e.mac }
func (e *gvisorLink) SetLinkAddress(tcpip.LinkAddress)        {}
func (e *gvisorLink) Wait()                                   {}
func (e *gvisorLink) SetOnCloseAction(func())                 {}
func (e *gvisorLink) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }
