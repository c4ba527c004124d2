package nic

import "net"

// PipeConfig configures a Pipe. The zero value is a classic Ethernet that accepts super-frames.
type PipeConfig struct {
	// MTU is the largest network-layer packet in bytes; 1500 if zero.
	MTU int
	// GSO is the largest super-frame in bytes, without the Ethernet header, up to MaxGSO. 0 stands
	// for 65535, and a negative value for no super-frames.
	GSO int
	// NoTxChecksum makes the senders complete their checksums. It also turns off super-frames,
	// which need that offload.
	NoTxChecksum bool
	// Medium is the kind of header with which the frames begin.
	Medium Medium
	// MACs are the addresses of the two ends. A zero address is replaced by a random locally
	// administered one.
	MACs [2][6]byte
	// Seed, if it is not zero, determines the random addresses, so all pipes with this seed have
	// the same addresses. Pipes on one switch need different seeds.
	Seed uint64
}

// A PipeEnd is one end of a Pipe.
type PipeEnd struct {
	base
	link Link
	peer *PipeEnd
}

var _ Device = (*PipeEnd)(nil)

// Pipe returns the two ends of a wire in memory. Send passes frames to the user of the other end
// before it returns, in the goroutine of the sender and without a copy. Super-frames and incomplete
// checksums stay as they are. A pipe never blocks, does not serialize concurrent senders, and
// starts no goroutine.
//
// The sender drops and counts a frame that is too long or that asks for an offload that the link
// does not have. It also drops and counts a frame while the other end is closed or has no user.
// Closing one end does not take the other end down.
func Pipe(cfg PipeConfig) (a, b *PipeEnd) {
	link := Link{
		MTU:        cfg.MTU,
		Medium:     cfg.Medium,
		GSO:        gsoSize(cfg.GSO),
		TxChecksum: !cfg.NoTxChecksum,
	}
	if link.MTU <= 0 {
		link.MTU = 1500
	}
	if cfg.NoTxChecksum {
		link.GSO = 0
	}
	for i := range cfg.MACs {
		if cfg.MACs[i] == ([6]byte{}) {
			cfg.MACs[i] = seededMAC(cfg.Seed, uint64(i))
		}
	}
	a, b = &PipeEnd{link: link}, &PipeEnd{link: link}
	a.peer, b.peer = b, a
	a.link.Name, a.link.MAC = "pipe-a", cfg.MACs[0]
	b.link.Name, b.link.MAC = "pipe-b", cfg.MACs[1]
	return a, b
}

// Link describes the link. Up reports whether this end is open.
func (e *PipeEnd) Link() Link {
	l := e.link
	l.Up = !e.closed.Load()
	return l
}

// Nonblocking returns the device: its Send does not block.
func (e *PipeEnd) Nonblocking() Device { return e }

// Send passes the frames to the user of the other end before it returns. It accepts all of them.
// After Close it returns net.ErrClosed.
func (e *PipeEnd) Send(batch []Frame) (n int, err error) {
	if e.closed.Load() {
		return 0, net.ErrClosed
	}
	if len(batch) == 1 && e.link.carries(&batch[0]) {
		e.pass(batch, batch[0].Len()) // the usual case for datagrams
		return 1, nil
	}
	e.link.each(batch, e.pass, func() { e.sendDropped.Add(1) })
	return len(batch), nil
}

// pass passes frames that the link can carry to the user of the other end.
func (e *PipeEnd) pass(run []Frame, bytes int) {
	// The frames are counted first: the peer may read the counters during the delivery.
	if e.peer.recv.Load() == nil || e.peer.closed.Load() {
		e.sendDropped.Add(uint64(len(run)))
		return
	}
	e.countSent(len(run), bytes)
	e.peer.deliver(run, bytes)
}
