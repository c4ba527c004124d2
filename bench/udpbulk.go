package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/usernet/usernet"
)

// udpRun is the number of datagrams that one call sends if Batch is set: as many of 1400 bytes as fit into a super-frame
// of UDP.
const udpRun = 46

// startDatagramSink starts a server that counts the bytes of the datagrams that arrive. The server answers each byte on a
// TCP connection to the same port with the count so far and the time on its clock.
func startDatagramSink(n *network, t *task) error {
	addr := fmt.Sprintf(":%d", t.Port)
	pc, err := n.listenPacket(t.network("udp"), addr)
	if err != nil {
		return err
	}
	ln, err := n.listen(t.network("tcp"), addr)
	if err != nil {
		return err
	}
	var arrived atomic.Int64
	go receiveDatagrams(pc, t.Batch, &arrived)
	go accept(ln, func(c net.Conn) {
		defer c.Close()
		var one [1]byte
		for {
			if _, err := io.ReadFull(c, one[:]); err != nil {
				return
			}
			answer := binary.BigEndian.AppendUint64(nil, uint64(arrived.Load()))
			if _, err := c.Write(binary.BigEndian.AppendUint64(answer, uint64(clock()))); err != nil {
				return
			}
		}
	})
	return nil
}

// receiveDatagrams counts the bytes that arrive on pc: in batches on usernet, and in super-frames on the kernel if
// batch is set.
func receiveDatagrams(pc net.PacketConn, batch bool, arrived *atomic.Int64) {
	buf := make([]byte, 64<<10)
	switch c := pc.(type) {
	case *usernet.UDPConn:
		ms := make([]usernet.Message, udpRun)
		for i := range ms {
			ms[i].Buffers = [][]byte{make([]byte, 2048)}
		}
		for {
			n, err := c.ReadBatch(ms, 0)
			if err != nil {
				return
			}
			total := 0
			for i := range ms[:n] {
				total += ms[i].N
			}
			arrived.Add(int64(total))
		}
	case *net.UDPConn:
		if raw, err := c.SyscallConn(); batch && err == nil {
			// Without GRO the kernel cuts the super-frames for the reader.
			raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_GRO, 1) })
		}
		for {
			n, _, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			arrived.Add(int64(n))
		}
	}
	for {
		n, _, err := pc.ReadFrom(buf)
		if err != nil {
			return
		}
		arrived.Add(int64(n))
	}
}

// blast sends datagrams until the run ends. The report has the server's count instead of the sender's.
func (c *client) blast(count *counter) error {
	conn, err := c.dial(c.t.network("udp"))
	if err != nil {
		return err
	}
	defer conn.Close()
	control, err := c.dial(c.t.network("tcp"))
	if err != nil {
		return err
	}
	defer control.Close()
	c.control = control
	write := datagramWriter(conn, c.t.Size, c.t.Batch)
	c.connected <- struct{}{}
	for !c.stop.Load() {
		n, err := write()
		if errors.Is(err, syscall.ENOBUFS) {
			continue // the kernel's queue is full
		}
		if err != nil {
			return err
		}
		count.Add(int64(n))
	}
	return nil
}

// arrived asks the server how many bytes of datagrams have arrived, and when it has read that on its clock.
func (c *client) arrived() (n int64, at time.Duration, err error) {
	var answer [16]byte
	if _, err := c.control.Write([]byte{0}); err != nil {
		return 0, 0, err
	}
	_, err = io.ReadFull(c.control, answer[:])
	return int64(binary.BigEndian.Uint64(answer[:])), time.Duration(binary.BigEndian.Uint64(answer[8:])), err
}

// datagramWriter returns a function that sends datagrams of a size and returns the number of bytes sent. With batch it
// sends udpRun in a call, if the stack has a call for that.
func datagramWriter(conn net.Conn, size int, batch bool) func() (int, error) {
	if batch {
		switch c := conn.(type) {
		case *usernet.UDPConn:
			ms := make([]usernet.Message, udpRun)
			for i := range ms {
				ms[i].Buffers = [][]byte{make([]byte, size)}
			}
			return func() (int, error) {
				n, err := c.WriteBatch(ms, 0)
				return n * size, err
			}
		case *net.UDPConn:
			buf := make([]byte, udpRun*size)
			oob := segmentControl(size)
			return func() (int, error) {
				n, _, err := c.WriteMsgUDP(buf, oob, nil)
				return n, err
			}
		}
	}
	buf := make([]byte, size)
	return func() (int, error) { return conn.Write(buf) }
}

// segmentControl returns the control message UDP_SEGMENT, which makes Linux cut a message into datagrams of a size.
func segmentControl(size int) []byte {
	oob := make([]byte, unix.CmsgSpace(2))
	binary.NativeEndian.PutUint64(oob, uint64(unix.CmsgLen(2)))
	binary.NativeEndian.PutUint32(oob[8:], unix.IPPROTO_UDP)
	binary.NativeEndian.PutUint32(oob[12:], unix.UDP_SEGMENT)
	binary.NativeEndian.PutUint16(oob[16:], uint16(size))
	return oob
}
