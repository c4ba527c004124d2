package stack

import (
	"net/netip"
	"syscall"
)

// A Datagram is one of a batch.
type Datagram struct {
	Buffers [][]byte       // to be filled one after the other, or what is sent
	Addr    netip.AddrPort // of the other end; invalid when sending on a connected socket
	N       int            // bytes that were read or sent
	Full    int            // length of what was received, of which N fitted
	Meta    Meta           // of what was received
	Options SendOptions    // for what is sent

	queued datagram
}

// ReadBatch waits for a datagram and reads it and those that wait with it, up to
// len(ds), which must not be 0. It returns how many there were. The errors are as ReadFrom's.
func (u *UDP) ReadBatch(ds []Datagram) (n int, err error) {
	u.mu.Lock()
	if ds[0].queued, err = u.await(); err == nil {
		for n = 1; n < len(ds); n++ {
			var ok bool
			if ds[n].queued, ok = u.queue.pop(); !ok {
				break
			}
		}
	}
	u.mu.Unlock()
	for i := range n {
		d := &ds[i]
		d.Addr, d.Meta = d.queued.from, d.queued.meta
		d.N, d.Full = 0, len(d.queued.buf)
		for _, b := range d.Buffers {
			d.N += copy(b, d.queued.buf[d.N:])
		}
		u.s.bufs.put(d.queued.buf)
		d.queued = datagram{}
	}
	return n, err
}

// WriteBatch sends datagrams, and sets N of each. It returns how many were sent,
// and an error only if the first was not. The errors are as WriteTo's, with EDESTADDRREQ for
// one without an address on a socket that is not connected.
func (u *UDP) WriteBatch(ds []Datagram) (n int, err error) {
	u.mu.Lock()
	for n = 0; n < len(ds); n++ {
		if n > 0 && u.pending != 0 {
			break // it is for the next call to tell
		}
		d := &ds[n]
		to := unmap(d.Addr)
		if !to.IsValid() {
			if to = u.remote; !to.IsValid() && !u.closed {
				err = syscall.EDESTADDRREQ
				break
			}
		}
		if d.N, err = u.writeBuffers(d.Buffers, to, d.Options); err != nil {
			break
		}
	}
	u.mu.Unlock()
	u.s.drain()
	if n > 0 {
		err = nil
	}
	return n, err
}

// writeBuffers queues a datagram that is in pieces. The lock is held.
func (u *UDP) writeBuffers(bufs [][]byte, to netip.AddrPort, o SendOptions) (int, error) {
	if len(bufs) == 1 {
		return u.write(bufs[0], to, o)
	}
	total := 0
	for _, b := range bufs {
		total += len(b)
	}
	joined := u.s.bufs.get(total)[:0]
	for _, b := range bufs {
		joined = append(joined, b...)
	}
	n, err := u.write(joined, to, o)
	u.s.bufs.put(joined)
	return n, err
}
