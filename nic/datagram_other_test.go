//go:build !linux

package nic

import (
	"errors"
	"net"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// A failingConn is a PacketConn whose ReadFrom returns the given errors, one after the other. The last one is
// returned again and again.
type failingConn struct {
	net.PacketConn
	errs chan error
	last error
}

func (c *failingConn) ReadFrom([]byte) (int, net.Addr, error) {
	select {
	case c.last = <-c.errs:
	default:
	}
	return 0, nil, &net.OpError{Op: "read", Net: "udp", Err: c.last}
}

func (c *failingConn) LocalAddr() net.Addr { return &net.UDPAddr{} }
func (c *failingConn) Close() error        { return nil }

// A read error that will not go away ends the device. Others are counted as drops.
func TestDatagramReadErrorEndsTheDevice(t *testing.T) {
	broken := errors.New("the socket is broken")
	conn := &failingConn{errs: make(chan error, 10)}
	for _, err := range []error{syscall.ECONNREFUSED, wsaConnReset, wsaMessageSize, syscall.ENOBUFS, broken} {
		conn.errs <- err
	}
	d := new(Datagram)
	d.start(&datagramSocket{conn: conn}, Link{Name: "udp", MTU: 1500, Up: true})
	down := make(chan error, 1)
	d.NotifyDown(func(err error) { down <- err })
	d.Attach(func([]Frame) {})
	require.ErrorIs(t, <-down, broken)
	require.ErrorIs(t, d.Err(), broken)
	require.False(t, d.Link().Up)
	require.Equal(t, uint64(4), d.Stats().RecvDropped)
}
