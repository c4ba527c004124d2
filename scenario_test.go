package usernet

import (
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

// everywhere runs a scenario of package net's own on the kernel's loopback, on the
// loopback of a host and between two hosts, there also in virtual time.
func everywhere(t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	for _, w := range worlds(t) {
		t.Run(w.name, func(t *testing.T) { f(t, w) })
	}
	t.Run("virtual time", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a, b := newPair(t)
			f(t, usernetWorld("virtual time", a, b, addrA, addrB))
		})
	})
}

// listenTCP listens on a free port of the server's until the test ends.
func (w *world) listenTCP(t *testing.T) net.Listener {
	t.Helper()
	ln, err := w.listen("tcp", w.server+":0")
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	return ln
}

// listenUDP opens a UDP socket on a free port of the server's or the client's until the
// test ends.
func (w *world) listenUDP(t *testing.T, host string) net.PacketConn {
	t.Helper()
	open := w.listenPacket
	if host == w.client {
		open = w.openPacket
	}
	pc, err := open("udp", host+":0")
	require.NoError(t, err)
	t.Cleanup(func() { pc.Close() })
	return pc
}

// to dials, and closes the connection when the test ends.
func (w *world) to(t *testing.T, a net.Addr) net.Conn {
	t.Helper()
	c, err := w.dial(context.Background(), dialOptions{}, a.Network(), a.String())
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// text makes n bytes that are not the same at two places.
func text(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i) ^ byte(i>>8) ^ byte(i>>16)
	}
	return b
}

// readFull reads n bytes.
func readFull(t *testing.T, r io.Reader, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	_, err := io.ReadFull(r, b)
	require.NoError(t, err)
	return b
}
