package guide

import (
	"io"
	"net"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/docs/guide/internal/lab"
	"github.com/usernet/usernet/nic"
)

// The solutions of the exercises are tests, named after the chapter and the exercise. They run in virtual time.

// solution runs f in virtual time. What other goroutines have collected is read after synctest.Wait, which waits until they
// are idle.
func solution(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

// pair makes two hosts on a wire with an impairment, 192.0.2.1 and 192.0.2.2, 2001:db8::1 and 2001:db8::2. wrap, if it is
// not nil, wraps the first host's device.
func pair(t *testing.T, imp nic.Impairment, seed uint64, wrap func(nic.Device) nic.Device) (a, b *usernet.Host) {
	left, right := lab.Wire()
	var dev nic.Device = lab.Slow(left, imp, seed)
	if wrap != nil {
		dev = wrap(dev)
	}
	a = lab.Host(dev, 1, "192.0.2.1/24", "2001:db8::1/64")
	b = lab.Host(right, 2, "192.0.2.2/24", "2001:db8::2/64")
	closeLater(t, a, b)
	return a, b
}

// closeLater closes the closers in their order at the end of the test.
func closeLater(t *testing.T, closers ...io.Closer) {
	t.Cleanup(func() {
		for _, c := range closers {
			c.Close()
		}
	})
}

// connect opens a TCP connection from a to 192.0.2.2.
func connect(t *testing.T, a, b *usernet.Host) (client, server *usernet.TCPConn) {
	t.Helper()
	ln, err := b.Listen("tcp", "192.0.2.2:4000")
	require.NoError(t, err)
	c, err := a.Dial("tcp", "192.0.2.2:4000")
	require.NoError(t, err)
	s, err := ln.Accept()
	require.NoError(t, err)
	require.NoError(t, ln.Close())
	return c.(*usernet.TCPConn), s.(*usernet.TCPConn)
}

// echoUDP serves the echo protocol on a socket until it is closed.
func echoUDP(pc net.PacketConn) {
	buf := make([]byte, 2000)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return
		}
		pc.WriteTo(buf[:n], from)
	}
}
