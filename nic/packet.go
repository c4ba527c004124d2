package nic

import "fmt"

// PacketConfig configures OpenPacket.
type PacketConfig struct {
	// Interface is the name of the interface, such as "eth0".
	Interface string
	// MAC is the stack's own address; that of the interface if zero. For another
	// one the interface is told to receive it, too, which some networks do not
	// allow: most wireless ones, and many of virtual machines.
	MAC [6]byte
	// Promiscuous has the interface receive everything on its link, and the
	// device pass all of it on: for a bridge.
	Promiscuous bool
}

// Packet is a device that sends and receives on an interface of the kernel,
// beside the kernel, by a socket for packets. Its methods may be called by
// several goroutines.
//
// A Packet whose interface is down is not broken: what is sent is dropped and
// counted until it is up again. Link().Up is false meanwhile, the MTU is that of the
// interface as it is now, as is the MAC where PacketConfig had none, and the function given to
// NotifyLink is called when one of them changes. One whose interface is deleted is broken:
// within a second or so Send returns an error, Err tells it, Link().Up is false, and the
// function given to NotifyDown is called.
type Packet struct {
	rxLoop
	packetSocket
}

var _ Device = (*Packet)(nil)

// OpenPacket opens a device on an interface of the kernel that has Ethernet
// frames: a network card, or one end of a veth pair. It takes super-frames,
// which the interface or the kernel cuts up.
//
// The kernel sees what arrives, too. It does not mind it if the stack's
// addresses are none of its own and it does not forward packets. What the kernel
// itself sends on the interface is not received: the two cannot talk to each
// other this way. Frames that are tagged for a VLAN are not received.
//
// It needs Linux and CAP_NET_RAW. On other systems the error is
// errors.ErrUnsupported.
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

// Nonblocking returns the device: its Send does not wait.
func (p *Packet) Nonblocking() Device { return p }

// Send sends the frames. When the kernel has no room for more it returns how
// many it took. Frames that the link cannot carry, or that the kernel refuses,
// as it does all while the interface is down, are dropped and counted. After
// Close the error is net.ErrClosed, and after the device has come to an end by
// itself what Err returns.
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

// Stats returns the device's counters. RecvDropped has in it what the kernel had
// no room for.
func (p *Packet) Stats() Stats {
	p.recvDropped.Add(p.lost())
	return p.rxLoop.Stats()
}
