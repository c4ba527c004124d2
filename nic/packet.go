package nic

import "fmt"

// PacketConfig configures OpenPacket.
type PacketConfig struct {
	// Interface is the name of the interface, such as "eth0".
	Interface string
	// MAC is the stack's own address; zero stands for the interface's. Another address is added to
	// the interface. Most wireless networks, and many networks of virtual machines, do not permit
	// this.
	MAC [6]byte
	// Promiscuous makes the interface receive all frames on its link, and the device pass all of
	// them on. A bridge needs this.
	Promiscuous bool
	// Outgoing makes the device also pass on the frames that the kernel and other programs send on the
	// interface, but not those that the device itself sends. Without Promiscuous, only frames to MAC or to
	// a group address are passed on in either direction, so a program that watches the interface needs
	// both. A host must not use a device with Outgoing: the host would treat frames that this machine sends as
	// received frames.
	Outgoing bool
}

// Packet is a device that shares an interface with the kernel through a packet socket (packet(7)).
// Its methods may be called by several goroutines.
//
// While the interface is down, sent frames are dropped and counted, and Link().Up is false.
// Link().MTU follows the interface, as does Link().MAC if PacketConfig had none. The function of
// NotifyLink is called when one of the three changes. If the interface is deleted, the device fails
// within about a second: Send and Err return an error, Link().Up is false, and the function of
// NotifyDown is called.
type Packet struct {
	rxLoop
	packetSocket
}

var _ Device = (*Packet)(nil)

// OpenPacket opens a device on an interface of the kernel that has Ethernet frames, such as a
// network card or one end of a veth pair. The device accepts super-frames, which the interface or
// the kernel segments.
//
// The kernel receives the frames too. The kernel ignores them if it does not have the stack's addresses and
// does not forward packets. Without PacketConfig.Outgoing the device does not receive frames that the kernel
// sends on the interface, so the stack and the kernel cannot reach each other this way.
//
// Frames of VLANs arrive with their tags. A network card may drop the frames of VLANs that the kernel
// does not use, unless Promiscuous is set or "ethtool -K eth0 rx-vlan-filter off" has been run.
//
// OpenPacket needs Linux and CAP_NET_RAW. On other systems the error is errors.ErrUnsupported.
func OpenPacket(cfg PacketConfig) (*Packet, error) {
	if why := badName(cfg.Interface); why != "" {
		return nil, fmt.Errorf("nic: bad interface name %q: %s", cfg.Interface, why)
	}
	if cfg.Interface == "" {
		return nil, fmt.Errorf("nic: open packet socket: no interface named")
	}
	if cfg.MAC[0]&1 != 0 {
		return nil, fmt.Errorf("nic: bad MAC %x: a group address", cfg.MAC)
	}
	p, err := openPacket(cfg)
	if err != nil {
		return nil, fmt.Errorf("nic: open packet socket on %s: %w", cfg.Interface, err)
	}
	return p, nil
}

// Nonblocking returns the device: its Send does not block.
func (p *Packet) Nonblocking() Device { return p }

// Send sends the frames. If the kernel's queue is full, it returns how many frames it accepted. It
// drops and counts frames that the link cannot carry or that the kernel refuses; the kernel refuses
// all frames while the interface is down. After Close the error is net.ErrClosed, and after a
// failure the error that Err returns.
func (p *Packet) Send(batch []Frame) (n int, err error) {
	if err := p.sendError(); err != nil {
		return 0, err
	}
	n, err = p.write(&p.rxLoop, batch)
	if err != nil {
		p.fail(err)
		return n, p.sendError()
	}
	return n, nil
}

// Stats returns the device's counters. RecvDropped includes the frames that the kernel dropped
// because the socket's buffer was full.
func (p *Packet) Stats() Stats {
	p.recvDropped.Add(p.lost())
	return p.rxLoop.Stats()
}
