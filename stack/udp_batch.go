package stack

import (
	"net/netip"
	"syscall"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// A Datagram is one of those that WriteBatch sends or ReadBatch received.
type Datagram struct {
	// B is the payload to send, or the buffer to receive into.
	B []byte
	// Addr is where to send to, or where a datagram came from. To send, an invalid
	// one stands for the address that the socket is connected to.
	Addr netip.AddrPort
	// Options are those of a datagram to be sent.
	Options SendOptions
	// N and Full are how many bytes were received into B and how many there were.
	N, Full int
	// Meta is what a received datagram says beside.
	Meta Meta
}

// maxUDPRun is how many datagrams one super-frame may stand for: what the kernel
// takes, UDP_MAX_SEGMENTS of Linux before 6.9.
const maxUDPRun = 64

// WriteBatch sends datagrams in their order and returns how many it has sent. The
// error, one of WriteTo's, is that of the datagram after them, and is told only
// if it is the first: as with sendmmsg(2), to write the rest tells it.
//
// Datagrams of one length that follow each other and go to one address with the
// same options leave as one super-frame where the link cuts them up; the last of
// them may be shorter.
func (u *UDP) WriteBatch(ms []Datagram) (n int, err error) {
	u.mu.Lock()
	for n < len(ms) && err == nil {
		var k int
		k, err = u.writeRun(ms[n:])
		n += k
	}
	u.mu.Unlock()
	u.s.drain()
	if n > 0 {
		err = nil
	}
	return n, err
}

// writeRun queues the first of the datagrams, with those that can go in one
// super-frame with it, and returns how many. The lock is held.
func (u *UDP) writeRun(ms []Datagram) (int, error) {
	first := &ms[0]
	to := unmap(first.Addr)
	if !to.IsValid() && !u.closed {
		if to = u.remote; !to.IsValid() {
			return 0, syscall.EDESTADDRREQ
		}
	}
	size := len(first.B)
	if size == 0 || len(ms) == 1 || len(ms[1].B) > size || len(ms[1].B) == 0 {
		if _, err := u.write(first.B, to, first.Options); err != nil {
			return 0, err
		}
		return 1, nil
	}
	if err := u.ready(size, to, &first.Options); err != nil {
		return 0, err
	}
	n, total := 1, size
	p := &u.path
	if wire.IPv4Len+wire.UDPLen+size <= p.mtu && !p.group {
		most := p.ifc.gso - wire.IPv4Len - wire.UDPLen
		for n < min(len(ms), maxUDPRun) && len(ms[n-1].B) == size {
			m := &ms[n]
			if m.Addr != first.Addr || m.Options != first.Options ||
				len(m.B) == 0 || len(m.B) > size || total+len(m.B) > most {
				break
			}
			total += len(m.B)
			n++
		}
	}
	buf := u.s.bufs.get(ipRoom + wire.UDPLen + total)
	at := ipRoom + wire.UDPLen
	for i := range ms[:n] {
		at += copy(buf[at:], ms[i].B)
	}
	var meta frameMeta
	if n > 1 {
		meta = frameMeta{gso: nic.GSOUDP, gsoSize: size, headerLen: wire.IPv4Len + wire.UDPLen}
	}
	if err := u.send(buf, total, to, &first.Options, meta); err != nil {
		return 0, err
	}
	u.s.counts.udpSent.Add(uint64(n))
	return n, nil
}

// ReadBatch waits for a datagram and takes as many as there are, at most one for
// each element of ms. It returns how many. The errors are those of ReadFrom.
func (u *UDP) ReadBatch(ms []Datagram) (n int, err error) {
	if len(ms) == 0 {
		return 0, nil
	}
	u.mu.Lock()
	for {
		if err = u.usable(&u.rd); err != nil {
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
			d, ok := u.queue.pop()
			if !ok {
				break
			}
			ds = append(ds, d)
		}
		u.mu.Unlock()
		for i := range ds {
			d, m := &ds[i], &ms[n+i]
			m.N, m.Full = copy(m.B, d.buf), len(d.buf)
			m.Addr, m.Meta = d.from, d.meta
			u.s.bufs.put(d.buf)
		}
		if n += len(ds); len(ds) < len(few) {
			return n, nil
		}
		u.mu.Lock()
	}
	u.mu.Unlock()
	return n, nil
}
