package usernet

import (
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/usernet/usernet/nic"
)

// The addresses of the hosts of newPair.
const (
	addrA = "192.0.2.1"
	addrB = "192.0.2.2"
)

// newHost makes a host on a device. The host is closed after the test.
func newHost(t testing.TB, dev nic.Device, addr string, change ...func(*Config)) *Host {
	t.Helper()
	cfg := Config{NIC: dev, Addrs: []netip.Prefix{netip.MustParsePrefix(addr + "/24")}}
	for _, f := range change {
		f(&cfg)
	}
	h, err := New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { h.Close() })
	return h
}

// newPair makes two hosts on a wire. The functions of change modify the configurations of both hosts.
func newPair(t testing.TB, change ...func(*Config)) (a, b *Host) {
	t.Helper()
	ea, eb := nic.Pipe(nic.PipeConfig{})
	return newHost(t, ea, addrA, change...), newHost(t, eb, addrB, change...)
}

// newImpairedPair makes two hosts on a wire with the same impairment in both directions.
func newImpairedPair(t testing.TB, imp nic.Impairment) (a, b *Host) {
	t.Helper()
	ea, eb := nic.Pipe(nic.PipeConfig{})
	return newHost(t, nic.Impair(ea, nic.ImpairConfig{Out: imp, In: imp}), addrA), newHost(t, eb, addrB)
}

// withoutIPv6 disables IPv6.
func withoutIPv6(cfg *Config) { cfg.NoIPv6 = true }

// newLoopback makes a host with only its loopback.
func newLoopback(t testing.TB) *Host {
	t.Helper()
	h, err := New(Config{})
	require.NoError(t, err)
	t.Cleanup(func() { h.Close() })
	return h
}

// connect makes a connection from one host to another, which may be the same host.
func connect(t testing.TB, from, to *Host, addr string) (client, server *TCPConn) {
	t.Helper()
	ln, err := to.Listen("tcp", net.JoinHostPort(addr, "0"))
	require.NoError(t, err)
	defer ln.Close()
	c, err := from.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	s, err := ln.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { c.Close(); s.Close() })
	return c.(*TCPConn), s.(*TCPConn)
}

// serve accepts connections and runs f for each, until the listener is closed.
func serve(ln net.Listener, f func(net.Conn)) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go f(c)
	}
}

// echo sends back the data that it receives, and closes the connection when the other end does.
func echo(c net.Conn) {
	defer c.Close()
	io.Copy(c, c)
}

// text returns n bytes that form a long pattern, so that misplaced data is detected.
func text(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i) ^ byte(i>>8) ^ byte(i>>16)
	}
	return b
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
