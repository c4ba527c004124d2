package usernet

import (
	"context"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/usernet/usernet/nic"
)

// The addresses of the hosts of newPair.
const (
	addrA = "192.0.2.1"
	addrB = "192.0.2.2"
)

// newHost makes a host on a device and closes it after the test.
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

// newPair makes two hosts with a wire between them.
func newPair(t testing.TB) (a, b *Host) {
	t.Helper()
	ea, eb := nic.Pipe(nic.PipeConfig{})
	return newHost(t, ea, addrA), newHost(t, eb, addrB)
}

// newImpairedPair makes two hosts with a wire between them that does the same to
// both directions.
func newImpairedPair(t testing.TB, imp nic.Impairment) (a, b *Host) {
	t.Helper()
	ea, eb := nic.Pipe(nic.PipeConfig{})
	return newHost(t, nic.Impair(ea, nic.ImpairConfig{Out: imp, In: imp, Seed: 7}), addrA), newHost(t, eb, addrB)
}

// newLoopback makes a host that has only its loopback.
func newLoopback(t testing.TB) *Host {
	t.Helper()
	h, err := New(Config{})
	require.NoError(t, err)
	t.Cleanup(func() { h.Close() })
	return h
}

// connect makes a connection from one host to a listener on the other, which may
// be the same.
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

// echo sends back what comes, and closes when the other end does.
func echo(c net.Conn) {
	defer c.Close()
	io.Copy(c, c)
}

// A world is a place where the same program runs: the kernel's network or one of ours.
type world struct {
	name   string
	server string // address of the side that listens
	client string // address of the side that dials

	dial         func(ctx context.Context, o dialOptions, network, address string) (net.Conn, error)
	listen       func(network, address string) (net.Listener, error)
	listenPacket func(network, address string) (net.PacketConn, error)
	openPacket   func(network, address string) (net.PacketConn, error) // listenPacket on the side that dials
}

type dialOptions struct {
	timeout  time.Duration
	deadline time.Time
	local    net.Addr
}

func kernelWorld() *world {
	return &world{
		name: "kernel", server: "127.0.0.1", client: "127.0.0.1",
		dial: func(ctx context.Context, o dialOptions, network, address string) (net.Conn, error) {
			d := net.Dialer{Timeout: o.timeout, Deadline: o.deadline, LocalAddr: o.local}
			return d.DialContext(ctx, network, address)
		},
		listen:       net.Listen,
		listenPacket: net.ListenPacket,
		openPacket:   net.ListenPacket,
	}
}

func usernetWorld(name string, client, server *Host, clientAddr, serverAddr string) *world {
	return &world{
		name: name, server: serverAddr, client: clientAddr,
		dial: func(ctx context.Context, o dialOptions, network, address string) (net.Conn, error) {
			d := Dialer{Host: client, Timeout: o.timeout, Deadline: o.deadline, LocalAddr: o.local}
			return d.DialContext(ctx, network, address)
		},
		listen:       server.Listen,
		listenPacket: server.ListenPacket,
		openPacket:   client.ListenPacket,
	}
}

// worlds returns the kernel's loopback, the loopback of a host, and two hosts on a wire.
func worlds(t *testing.T) []*world {
	lo := newLoopback(t)
	a, b := newPair(t)
	return []*world{
		kernelWorld(),
		usernetWorld("loopback", lo, lo, "127.0.0.1", "127.0.0.1"),
		usernetWorld("pipe", a, b, addrA, addrB),
	}
}

// pair makes a TCP connection in a world.
func (w *world) pair(t *testing.T) (client, server tcpConn) {
	t.Helper()
	ln, err := w.listen("tcp", w.server+":0")
	require.NoError(t, err)
	defer ln.Close()
	c, err := w.dial(context.Background(), dialOptions{}, "tcp", ln.Addr().String())
	require.NoError(t, err)
	s, err := ln.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { c.Close(); s.Close() })
	return c.(tcpConn), s.(tcpConn)
}

// tcpConn is what net.TCPConn and TCPConn have in common.
type tcpConn interface {
	net.Conn
	io.ReaderFrom
	io.WriterTo
	CloseRead() error
	CloseWrite() error
	SetLinger(sec int) error
	SetNoDelay(on bool) error
	SetKeepAlive(on bool) error
	SetKeepAlivePeriod(d time.Duration) error
	SetKeepAliveConfig(cfg net.KeepAliveConfig) error
	SetReadBuffer(n int) error
	SetWriteBuffer(n int) error
	MultipathTCP() (bool, error)
}
