package usernet

import (
	"net"
	"net/netip"
	"syscall"

	"github.com/usernet/usernet/stack"
)

// A Message is a datagram of a batch, with the fields of x/net/ipv4's Message.
type Message struct {
	Buffers [][]byte // the parts of the payload
	OOB     []byte   // control messages, or a buffer for them
	Addr    net.Addr // a *net.UDPAddr: the source, or the destination (nil on a connected socket)
	N       int      // bytes of the payload that were read or sent
	NN      int      // bytes of OOB that were read or sent
	Flags   int      // of a received datagram: MSG_TRUNC (0x20) and MSG_CTRUNC (8)
}

// waitForOne is Linux's MSG_WAITFORONE. ReadBatch always behaves as if it were set.
const waitForOne = 0x10000

// ReadBatch waits for a datagram. It reads this datagram and those queued behind it, up to len(ms)
// in all, as the ReadBatch of x/net/ipv4 does on Linux. It returns the number of datagrams. On an
// error it returns 0, where x/net/ipv4 returns -1. ReadBatch locks the socket once. If flags is
// neither 0 nor MSG_WAITFORONE (0x10000), the error is ENOTSUP.
func (c *UDPConn) ReadBatch(ms []Message, flags int) (int, error) {
	if !c.ok() {
		return 0, syscall.EINVAL
	}
	if flags&^waitForOne != 0 {
		return 0, c.opError("read", "recvmmsg", syscall.ENOTSUP)
	}
	if len(ms) == 0 {
		return 0, nil
	}
	ds := c.host.getBatch(len(ms))
	defer c.host.putBatch(ds)
	for i := range ms {
		(*ds)[i].Buffers = ms[i].Buffers
	}
	n, err := c.udp.ReadBatch(*ds)
	if err != nil {
		return 0, c.opError("read", "recvmmsg", err)
	}
	addrs := make([]udpAddr, n) // one allocation for the batch
	for i := range n {
		m, d := &ms[i], &(*ds)[i]
		m.N = d.N
		m.NN, m.Flags = c.receivedControl(m.OOB, d.N, d.Full, d.Addr.Addr(), &d.Meta)
		m.Addr = c.family.setUDPAddr(&addrs[i], d.Addr)
	}
	return n, nil
}

// WriteBatch sends datagrams, as the WriteBatch of x/net/ipv4 does on Linux. It returns the number
// of datagrams sent, and an error only if it could not send the first one. WriteBatch locks the
// socket once. It blocks only while the link's queue is full. If flags is not 0, the error is
// ENOTSUP.
func (c *UDPConn) WriteBatch(ms []Message, flags int) (int, error) {
	if !c.ok() {
		return 0, syscall.EINVAL
	}
	if flags != 0 {
		return 0, c.opError("write", "sendmmsg", syscall.ENOTSUP)
	}
	if len(ms) == 0 {
		return 0, nil
	}
	ds := c.host.getBatch(len(ms))
	defer c.host.putBatch(ds)
	k := 0        // number of valid datagrams before the first invalid one
	var bad error // error of the first invalid datagram, dropped if another is sent
	for ; k < len(ms); k++ {
		d := &(*ds)[k]
		if d.Addr, bad = c.batchAddr(ms[k].Addr); bad != nil {
			break
		}
		if bad = sendControl(ms[k].OOB, c.controlKind(d.Addr.Addr()), &d.Options); bad != nil {
			break
		}
		d.Buffers = ms[k].Buffers
	}
	n := 0
	if k > 0 {
		if n, bad = c.udp.WriteBatch((*ds)[:k]); n > 0 {
			bad = nil
		}
	}
	for i := range n {
		ms[i].N, ms[i].NN = (*ds)[i].N, len(ms[i].OOB)
	}
	if bad != nil {
		to := opAddr(ms[0].Addr)
		if to == nil {
			to = c.ends().remote
		}
		return 0, c.sendError("sendmmsg", to, controlError(ms[0].OOB, c.controlKind((*ds)[0].Addr.Addr()), bad))
	}
	return n, nil
}

// batchAddr returns the destination of a message. It is the zero AddrPort on a connected socket.
func (c *UDPConn) batchAddr(addr net.Addr) (netip.AddrPort, error) {
	switch a := addr.(type) {
	case nil:
		if !c.connected() {
			return netip.AddrPort{}, errMissingAddress
		}
		return netip.AddrPort{}, nil
	case *net.UDPAddr:
		switch {
		case a == nil:
			return netip.AddrPort{}, errMissingAddress
		case c.connected():
			return netip.AddrPort{}, net.ErrWriteToConnected
		}
		return c.family.addrPort(a)
	}
	return netip.AddrPort{}, syscall.EINVAL
}

// getBatch returns n zero datagrams. The caller returns them with putBatch.
func (h *Host) getBatch(n int) *[]stack.Datagram {
	ds, ok := h.batches.Get().(*[]stack.Datagram)
	if !ok || cap(*ds) < n {
		all := make([]stack.Datagram, n)
		return &all
	}
	*ds = (*ds)[:n]
	return ds
}

func (h *Host) putBatch(ds *[]stack.Datagram) {
	clear(*ds)
	h.batches.Put(ds)
}
