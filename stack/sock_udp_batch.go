package stack

import (
	"net/netip"
	"syscall"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// A Datagram is an element of a batch of WriteBatch or ReadBatch.
type Datagram struct {
	Buffers [][]byte       // the pieces of the payload, to be sent in order or filled in order
	Addr    netip.AddrPort // the other end; invalid means, for WriteBatch, the address of Connect
	N       int            // number of bytes sent, or copied to Buffers
	Full    int            // length of the whole received payload, which may exceed N
	Meta    Meta           // set by ReadBatch
	Options SendOptions    // used by WriteBatch
}

// len returns the length of the payload to be sent.
func (d *Datagram) len() int {
	n := 0
	for _, b := range d.Buffers {
		n += len(b)
	}
	return n
}

// copyTo copies the payload to be sent to b, and returns its length.
func (d *Datagram) copyTo(b []byte) int {
	n := 0
	for _, p := range d.Buffers {
		n += copy(b[n:], p)
	}
	return n
}

// receive copies the datagram q, which was in the receive queue, to d.
func (d *Datagram) receive(q *datagram) {
	d.Addr, d.Meta = q.from, q.meta
	d.N, d.Full = 0, len(q.buf)
	for _, b := range d.Buffers {
		d.N += copy(b, q.buf[d.N:])
	}
}

// maxUDPRun is the maximum number of datagrams in a super-frame. It is UDP_MAX_SEGMENTS of Linux before
// 6.9, the most that such a kernel accepts.
const maxUDPRun = 64

// WriteBatch sends datagrams in order, sets N of each, and returns the number of datagrams that it has
// sent. It stops at the first datagram that it cannot send. Like sendmmsg(2), it returns an error only if
// it has sent none. To get the error of a later datagram, call WriteBatch again with the rest. Errors are
// those of WriteTo, and EDESTADDRREQ.
//
// Consecutive datagrams with the same length, address and options leave as one super-frame if the device
// segments super-frames. The last of these datagrams may be shorter.
func (u *UDP) WriteBatch(ms []Datagram) (n int, err error) {
	u.mu.Lock()
	var direct *txQueue
	for n < len(ms) && err == nil {
		if n > 0 && u.pending != 0 {
			break // the next call returns the error
		}
		var k int
		k, direct, err = u.writeRun(ms[n:])
		n += k
	}
	u.mu.Unlock()
	u.s.flush(direct)
	if n > 0 {
		err = nil
	}
	return n, err
}

// writeRun sends the first datagram of ms, together with the following datagrams that fit into the same
// super-frame, and returns their number. If it has left the datagram in a direct slot, it also returns the
// interface, for flush. u.mu is held.
func (u *UDP) writeRun(ms []Datagram) (n int, direct *txQueue, err error) {
	first := &ms[0]
	o := first.Options
	to := netip.AddrPortFrom(u.destination(first.Addr.Addr(), &o), first.Addr.Port())
	if !to.IsValid() && !u.closed {
		if to = u.remote; !to.IsValid() {
			return 0, nil, syscall.EDESTADDRREQ
		}
	}
	size := first.len()
	if err := u.ready(size, to, &o, &u.wd); err != nil {
		return 0, nil, err
	}
	n = 1
	total := size
	p := &u.path
	if int(p.ipLen)+wire.UDPLen+size <= p.mtu && !p.group {
		most := min(p.ifc.gso(), maxIPv4) - int(p.ipLen) - wire.UDPLen // negative if the device does not segment
		for last := size; n < min(len(ms), maxUDPRun) && last == size; n++ {
			m := &ms[n]
			last = m.len()
			if m.Addr != first.Addr || m.Options != first.Options || last == 0 || last > size || total+last > most {
				break
			}
			total += last
		}
	}
	now := u.coarse()
	sl := p.slot(now, wire.UDPLen+total, len(ms) == 1)
	at := transportAt + wire.UDPLen
	for i := range ms[:n] {
		ms[i].N = ms[i].copyTo(sl.buf[at:])
		at += ms[i].N
	}
	var meta frameMeta
	if n > 1 {
		meta = frameMeta{gso: nic.GSOUDP, gsoSize: size, headerLen: wire.UDPLen}
	}
	if direct, err = u.send(now, &sl, total, n, to, &o, &meta); err != nil {
		return 0, nil, err
	}
	return n, direct, nil
}

// ReadBatch waits for a datagram, then moves the queued datagrams to the elements of ms, as many as there
// are elements, and returns their number. The errors are those of ReadFrom.
func (u *UDP) ReadBatch(ms []Datagram) (n int, err error) {
	if len(ms) == 0 {
		return 0, nil
	}
	u.mu.Lock()
	for {
		if err = u.mayRead(); err != nil {
			u.mu.Unlock()
			return 0, err
		}
		if u.queue.n > 0 {
			break
		}
		u.readable.Wait()
	}
	// Pop up to 16 datagrams under the lock, and copy them without it.
	var few [16]datagram
	for n < len(ms) {
		ds := few[:0]
		for len(ds) < min(len(few), len(ms)-n) {
			if !u.queue.pop(&few[len(ds)]) {
				break
			}
			ds = few[:len(ds)+1]
		}
		u.mu.Unlock()
		for i := range ds {
			ms[n+i].receive(&ds[i])
			u.s.bufs.put(ds[i].buf)
		}
		if n += len(ds); len(ds) < len(few) {
			return n, nil
		}
		u.mu.Lock()
	}
	u.mu.Unlock()
	return n, nil
}
