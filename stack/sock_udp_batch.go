package stack

import (
	"net/netip"
	"syscall"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// A Datagram is one of those that WriteBatch sends or ReadBatch receives.
type Datagram struct {
	Buffers [][]byte       // to be filled one after the other, or what is sent
	Addr    netip.AddrPort // of the other end; invalid when sending on a connected socket
	N       int            // bytes that were read or sent
	Full    int            // length of what was received, of which N fitted
	Meta    Meta           // of what was received
	Options SendOptions    // for what is sent
}

// len is the length of what is to be sent.
func (d *Datagram) len() int {
	n := 0
	for _, b := range d.Buffers {
		n += len(b)
	}
	return n
}

// copyTo copies what is to be sent to b, and returns its length.
func (d *Datagram) copyTo(b []byte) int {
	n := 0
	for _, p := range d.Buffers {
		n += copy(b[n:], p)
	}
	return n
}

// receive takes a datagram of the queue.
func (d *Datagram) receive(q *datagram) {
	d.Addr, d.Meta = q.from, q.meta
	d.N, d.Full = 0, len(q.buf)
	for _, b := range d.Buffers {
		d.N += copy(b, q.buf[d.N:])
	}
}

// maxUDPRun is how many datagrams one super-frame may stand for: what the kernel
// takes, UDP_MAX_SEGMENTS of Linux before 6.9.
const maxUDPRun = 64

// WriteBatch sends datagrams in their order, sets N of each, and returns how many it has
// sent. The error, one of WriteTo's, or EDESTADDRREQ, is that of the datagram after them, and is
// told only if it is the first: as with sendmmsg(2), to write the rest tells it.
//
// Datagrams of one length that follow each other and go to one address with the
// same options leave as one super-frame where the link cuts them up; the last of
// them may be shorter.
func (u *UDP) WriteBatch(ms []Datagram) (n int, err error) {
	u.mu.Lock()
	var direct *iface
	for n < len(ms) && err == nil {
		if n > 0 && u.pending != 0 {
			break // it is for the next call to tell
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

// writeRun sends the first of the datagrams, with those that can go in one super-frame
// with it, and returns how many. The last one may be left for flush, as with write. The lock
// is held.
func (u *UDP) writeRun(ms []Datagram) (n int, direct *iface, err error) {
	first := &ms[0]
	o := first.Options
	to := netip.AddrPortFrom(u.destination(first.Addr.Addr(), &o), first.Addr.Port())
	if !to.IsValid() && !u.closed {
		if to = u.remote; !to.IsValid() {
			return 0, nil, syscall.EDESTADDRREQ
		}
	}
	size := first.len()
	if err := u.ready(size, to, &o); err != nil {
		return 0, nil, err
	}
	n = 1
	total := size
	p := &u.path
	if int(p.ipLen)+wire.UDPLen+size <= p.mtu && !p.group {
		most := p.ifc.gso() - int(p.ipLen) - wire.UDPLen
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

// ReadBatch waits for a datagram and takes as many as there are, at most one for
// each element of ms. It returns how many. The errors are those of ReadFrom.
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
