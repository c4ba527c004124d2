package nic

import "net"

// LoopbackConfig configures a Loopback.
type LoopbackConfig struct {
	// MTU is the largest packet in bytes; 65535 if zero, the length of the largest IPv4 packet.
	MTU int
	// GSO is the largest super-frame in bytes. 0 stands for 65535, and a negative value for no
	// super-frames.
	GSO int
	// NoTxChecksum makes the sender complete its checksums. It also turns off super-frames, which
	// need that offload.
	NoTxChecksum bool
}

// Loopback is a link that passes sent frames to its own user, in the goroutine of the sender,
// before Send returns. Its medium is IP.
type Loopback struct {
	base
	link Link
}

var _ Device = (*Loopback)(nil)

// NewLoopback returns a Loopback.
func NewLoopback(cfg LoopbackConfig) *Loopback {
	lo := &Loopback{link: Link{
		Name:       "lo",
		MTU:        cfg.MTU,
		Medium:     IP,
		GSO:        gsoSize(cfg.GSO),
		TxChecksum: !cfg.NoTxChecksum,
	}}
	if lo.link.MTU <= 0 {
		lo.link.MTU = maxPacket
	}
	if cfg.NoTxChecksum {
		lo.link.GSO = 0
	}
	return lo
}

// Link describes the link.
func (lo *Loopback) Link() Link {
	l := lo.link
	l.Up = !lo.closed.Load()
	return l
}

// Nonblocking returns the device: its Send does not block.
func (lo *Loopback) Nonblocking() Device { return lo }

// Send passes the frames to recv before it returns. It accepts all of them. It drops and counts
// frames that the link cannot carry. After Close it returns net.ErrClosed.
func (lo *Loopback) Send(batch []Frame) (n int, err error) {
	if lo.closed.Load() {
		return 0, net.ErrClosed
	}
	lo.link.each(batch, func(run []Frame, bytes int) {
		lo.countSent(len(run), bytes)
		if !lo.deliver(run, bytes) {
			lo.recvDropped.Add(uint64(len(run)))
		}
	}, func() { lo.sendDropped.Add(1) })
	return len(batch), nil
}
