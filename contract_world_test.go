package usernet

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A world is a place where the same program runs: the kernel's network or one of ours.
// What it has are net's functions, with interfaces for the types that are the world's own.
type world struct {
	name   string
	server string // address of the side that listens
	client string // address of the side that dials
	alone  string // the server's too, and of no other process

	dial         func(ctx context.Context, o dialOptions, network, address string) (net.Conn, error)
	dialTimeout  func(network, address string, timeout time.Duration) (net.Conn, error)
	dialTCP      func(network string, laddr, raddr *net.TCPAddr) (tcpConn, error)
	dialUDP      func(network string, laddr, raddr *net.UDPAddr) (udpConn, error)
	dialIP       func(network string, laddr, raddr *net.IPAddr) (ipConn, error)
	dialTCPAddr  func(ctx context.Context, o dialOptions, network string, laddr, raddr netip.AddrPort) (tcpConn, error)
	dialUDPAddr  func(ctx context.Context, o dialOptions, network string, laddr, raddr netip.AddrPort) (udpConn, error)
	dialIPAddr   func(ctx context.Context, o dialOptions, network string, laddr, raddr netip.Addr) (ipConn, error)
	listen       func(network, address string) (net.Listener, error)
	listenPacket func(network, address string) (net.PacketConn, error)
	openPacket   func(network, address string) (net.PacketConn, error) // on the side that dials
	listenConfig func(o listenOptions) listenConfig
	bindTCP      func(network string, laddr *net.TCPAddr) (tcpListener, error)
	bindUDP      func(network string, laddr *net.UDPAddr) (udpConn, error)
	bindIP       func(network string, laddr *net.IPAddr) (ipConn, error)
	listenGroup  func(network string, ifi *net.Interface, group *net.UDPAddr) (udpConn, error)

	resolveTCP  func(network, address string) (*net.TCPAddr, error)
	resolveUDP  func(network, address string) (*net.UDPAddr, error)
	resolveIP   func(network, address string) (*net.IPAddr, error)
	lookupHost  func(host string) ([]string, error)
	lookupIP    func(host string) ([]net.IP, error)
	lookupNetIP func(ctx context.Context, network, host string) ([]netip.Addr, error)
	lookupPort  func(network, service string) (int, error)
	lookupAddr  func(addr string) ([]string, error)
	lookupCNAME func(host string) (string, error)
	lookupMX    func(name string) ([]*net.MX, error)
	lookupNS    func(name string) ([]*net.NS, error)
	lookupTXT   func(name string) ([]string, error)
	lookupSRV   func(service, proto, name string) (string, []*net.SRV, error)

	// Connections that were never made.
	zeroTCP                   tcpConn
	zeroUDP                   udpConn
	zeroIP                    ipConn
	nilListener, zeroListener tcpListener
}

type dialOptions struct {
	timeout    time.Duration
	deadline   time.Time
	local      net.Addr
	fallback   time.Duration
	keepAlive  time.Duration
	config     net.KeepAliveConfig
	multipath  bool
	cancel     chan struct{}
	control    func(network, address string, c syscall.RawConn) error
	controlCtx func(ctx context.Context, network, address string, c syscall.RawConn) error
}

type listenOptions struct {
	keepAlive time.Duration
	config    net.KeepAliveConfig
	multipath bool
	control   func(network, address string, c syscall.RawConn) error
}

func kernelDialer(o dialOptions) *net.Dialer {
	d := &net.Dialer{
		Timeout: o.timeout, Deadline: o.deadline, LocalAddr: o.local, FallbackDelay: o.fallback, KeepAlive: o.keepAlive,
		KeepAliveConfig: o.config, Control: o.control, ControlContext: o.controlCtx,
	}
	//lint:ignore SA1019 it has to work as long as it is there
	d.Cancel = o.cancel
	if o.multipath {
		d.SetMultipathTCP(true)
	}
	return d
}

func usernetDialer(h *Host, o dialOptions) *Dialer {
	d := &Dialer{
		Host: h, Timeout: o.timeout, Deadline: o.deadline, LocalAddr: o.local, FallbackDelay: o.fallback, KeepAlive: o.keepAlive,
		KeepAliveConfig: o.config, Cancel: o.cancel, Control: o.control, ControlContext: o.controlCtx,
	}
	if o.multipath {
		d.SetMultipathTCP(true)
	}
	return d
}

// as turns what a function of net or a method of Host returned into an interface, and
// a nil pointer into none.
func as[I any, T any](c *T, err error) (I, error) {
	var none I
	if c == nil {
		return none, err
	}
	return any(c).(I), err
}

func kernelWorld() *world {
	// The C library's resolver has texts and services of its own.
	if !net.DefaultResolver.PreferGo {
		net.DefaultResolver.PreferGo = true
	}
	pid := os.Getpid()
	return &world{
		name: "kernel", server: "127.0.0.1", client: "127.0.0.1",
		alone: fmt.Sprintf("127.%d.%d.%d", 1+pid>>16&0x7f, pid>>8&0xff, pid&0xff),
		dial: func(ctx context.Context, o dialOptions, network, address string) (net.Conn, error) {
			return kernelDialer(o).DialContext(ctx, network, address)
		},
		dialTimeout: net.DialTimeout,
		dialTCP: func(network string, laddr, raddr *net.TCPAddr) (tcpConn, error) {
			return as[tcpConn](net.DialTCP(network, laddr, raddr))
		},
		dialUDP: func(network string, laddr, raddr *net.UDPAddr) (udpConn, error) {
			return as[udpConn](net.DialUDP(network, laddr, raddr))
		},
		dialIP: func(network string, laddr, raddr *net.IPAddr) (ipConn, error) {
			return as[ipConn](net.DialIP(network, laddr, raddr))
		},
		dialTCPAddr: func(ctx context.Context, o dialOptions, network string, laddr, raddr netip.AddrPort) (tcpConn, error) {
			return as[tcpConn](kernelDialer(o).DialTCP(ctx, network, laddr, raddr))
		},
		dialUDPAddr: func(ctx context.Context, o dialOptions, network string, laddr, raddr netip.AddrPort) (udpConn, error) {
			return as[udpConn](kernelDialer(o).DialUDP(ctx, network, laddr, raddr))
		},
		dialIPAddr: func(ctx context.Context, o dialOptions, network string, laddr, raddr netip.Addr) (ipConn, error) {
			return as[ipConn](kernelDialer(o).DialIP(ctx, network, laddr, raddr))
		},
		listen:       net.Listen,
		listenPacket: net.ListenPacket,
		openPacket:   net.ListenPacket,
		listenConfig: func(o listenOptions) listenConfig {
			lc := &net.ListenConfig{KeepAlive: o.keepAlive, KeepAliveConfig: o.config, Control: o.control}
			if o.multipath {
				lc.SetMultipathTCP(true)
			}
			return lc
		},
		bindTCP: func(network string, laddr *net.TCPAddr) (tcpListener, error) {
			return as[tcpListener](net.ListenTCP(network, laddr))
		},
		bindUDP: func(network string, laddr *net.UDPAddr) (udpConn, error) {
			return as[udpConn](net.ListenUDP(network, laddr))
		},
		bindIP: func(network string, laddr *net.IPAddr) (ipConn, error) {
			return as[ipConn](net.ListenIP(network, laddr))
		},
		listenGroup: func(network string, ifi *net.Interface, group *net.UDPAddr) (udpConn, error) {
			return as[udpConn](net.ListenMulticastUDP(network, ifi, group))
		},
		resolveTCP: net.ResolveTCPAddr, resolveUDP: net.ResolveUDPAddr, resolveIP: net.ResolveIPAddr,
		lookupHost: net.LookupHost, lookupIP: net.LookupIP, lookupNetIP: net.DefaultResolver.LookupNetIP,
		lookupPort: net.LookupPort, lookupAddr: net.LookupAddr, lookupCNAME: net.LookupCNAME,
		lookupMX: net.LookupMX, lookupNS: net.LookupNS, lookupTXT: net.LookupTXT, lookupSRV: net.LookupSRV,
		zeroTCP:     &net.TCPConn{},
		zeroUDP:     &net.UDPConn{},
		zeroIP:      &net.IPConn{},
		nilListener: (*net.TCPListener)(nil), zeroListener: &net.TCPListener{},
	}
}

func usernetWorld(name string, client, server *Host, clientAddr, serverAddr string) *world {
	return &world{
		name: name, server: serverAddr, client: clientAddr, alone: serverAddr,
		dial: func(ctx context.Context, o dialOptions, network, address string) (net.Conn, error) {
			return usernetDialer(client, o).DialContext(ctx, network, address)
		},
		dialTimeout: client.DialTimeout,
		dialTCP: func(network string, laddr, raddr *net.TCPAddr) (tcpConn, error) {
			return as[tcpConn](client.DialTCP(network, laddr, raddr))
		},
		dialUDP: func(network string, laddr, raddr *net.UDPAddr) (udpConn, error) {
			return as[udpConn](client.DialUDP(network, laddr, raddr))
		},
		dialIP: func(network string, laddr, raddr *net.IPAddr) (ipConn, error) {
			return as[ipConn](client.DialIP(network, laddr, raddr))
		},
		dialTCPAddr: func(ctx context.Context, o dialOptions, network string, laddr, raddr netip.AddrPort) (tcpConn, error) {
			return as[tcpConn](usernetDialer(client, o).DialTCP(ctx, network, laddr, raddr))
		},
		dialUDPAddr: func(ctx context.Context, o dialOptions, network string, laddr, raddr netip.AddrPort) (udpConn, error) {
			return as[udpConn](usernetDialer(client, o).DialUDP(ctx, network, laddr, raddr))
		},
		dialIPAddr: func(ctx context.Context, o dialOptions, network string, laddr, raddr netip.Addr) (ipConn, error) {
			return as[ipConn](usernetDialer(client, o).DialIP(ctx, network, laddr, raddr))
		},
		listen:       server.Listen,
		listenPacket: server.ListenPacket,
		openPacket:   client.ListenPacket,
		listenConfig: func(o listenOptions) listenConfig {
			lc := &ListenConfig{Host: server, KeepAlive: o.keepAlive, KeepAliveConfig: o.config, Control: o.control}
			if o.multipath {
				lc.SetMultipathTCP(true)
			}
			return lc
		},
		bindTCP: func(network string, laddr *net.TCPAddr) (tcpListener, error) {
			return as[tcpListener](server.ListenTCP(network, laddr))
		},
		bindUDP: func(network string, laddr *net.UDPAddr) (udpConn, error) {
			return as[udpConn](server.ListenUDP(network, laddr))
		},
		bindIP: func(network string, laddr *net.IPAddr) (ipConn, error) {
			return as[ipConn](server.ListenIP(network, laddr))
		},
		listenGroup: func(network string, ifi *net.Interface, group *net.UDPAddr) (udpConn, error) {
			return as[udpConn](server.ListenMulticastUDP(network, ifi, group))
		},
		resolveTCP: client.ResolveTCPAddr, resolveUDP: client.ResolveUDPAddr, resolveIP: client.ResolveIPAddr,
		lookupHost: client.LookupHost, lookupIP: client.LookupIP, lookupNetIP: client.LookupNetIP,
		lookupPort: client.LookupPort, lookupAddr: client.LookupAddr, lookupCNAME: client.LookupCNAME,
		lookupMX: client.LookupMX, lookupNS: client.LookupNS, lookupTXT: client.LookupTXT, lookupSRV: client.LookupSRV,
		zeroTCP:     &TCPConn{},
		zeroUDP:     &UDPConn{},
		zeroIP:      &IPConn{},
		nilListener: (*TCPListener)(nil), zeroListener: &TCPListener{},
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

// self is a world in which client and server are one host, so that wildcards lead from
// one to the other. If they are not, it is the loopback of a third.
func (w *world) self(t *testing.T) *world {
	if w.name != "pipe" {
		return w
	}
	lo := newLoopback(t)
	return usernetWorld(w.name, lo, lo, "127.0.0.1", "127.0.0.1")
}

// listener listens on a free port of the server's.
func (w *world) listener(t *testing.T) tcpListener {
	t.Helper()
	ln, err := w.listen("tcp4", w.server+":0")
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	return ln.(tcpListener)
}

// connect dials to a listener.
func (w *world) connect(t *testing.T, ln net.Listener) tcpConn {
	t.Helper()
	c, err := w.dial(context.Background(), dialOptions{}, "tcp", ln.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c.(tcpConn)
}

// pair makes a TCP connection in a world.
func (w *world) pair(t *testing.T) (client, server tcpConn) {
	t.Helper()
	ln, err := w.listen("tcp", w.server+":0")
	require.NoError(t, err)
	defer ln.Close()
	client = w.connect(t, ln)
	s, err := ln.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	return client, s.(tcpConn)
}

// packets binds a UDP socket to a free port of the server's.
func (w *world) packets(t *testing.T) udpConn {
	t.Helper()
	c, err := w.listenPacket("udp4", w.server+":0")
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c.(udpConn)
}

// udpPair makes a UDP socket of the server's and one that is connected to it.
func (w *world) udpPair(t *testing.T) (client, server udpConn) {
	t.Helper()
	server = w.packets(t)
	c, err := w.dial(context.Background(), dialOptions{}, "udp", server.LocalAddr().String())
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c.(udpConn), server
}

// freePort returns an address of the server's on which nobody listens.
func freePort(t *testing.T, w *world) string {
	t.Helper()
	ln, err := w.listen("tcp4", w.server+":0")
	require.NoError(t, err)
	require.NoError(t, ln.Close())
	return ln.Addr().String()
}

// settle waits until what was sent has arrived and was answered.
func settle() { time.Sleep(10 * time.Millisecond) }

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

// tcpListener is what net.TCPListener and TCPListener have in common.
type tcpListener interface {
	net.Listener
	SetDeadline(t time.Time) error
}

// listenConfig is what net.ListenConfig and ListenConfig have in common.
type listenConfig interface {
	Listen(ctx context.Context, network, address string) (net.Listener, error)
	ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error)
	MultipathTCP() bool
}

// udpConn is what net.UDPConn and UDPConn have in common.
type udpConn interface {
	net.Conn
	net.PacketConn
	ReadFromUDP(b []byte) (int, *net.UDPAddr, error)
	ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error)
	ReadMsgUDP(b, oob []byte) (n, oobn, flags int, addr *net.UDPAddr, err error)
	ReadMsgUDPAddrPort(b, oob []byte) (n, oobn, flags int, addr netip.AddrPort, err error)
	WriteToUDP(b []byte, addr *net.UDPAddr) (int, error)
	WriteToUDPAddrPort(b []byte, addr netip.AddrPort) (int, error)
	WriteMsgUDP(b, oob []byte, addr *net.UDPAddr) (n, oobn int, err error)
	WriteMsgUDPAddrPort(b, oob []byte, addr netip.AddrPort) (n, oobn int, err error)
	SetReadBuffer(n int) error
	SetWriteBuffer(n int) error
}

// ipConn is what net.IPConn and IPConn have in common.
type ipConn interface {
	net.Conn
	net.PacketConn
	ReadFromIP(b []byte) (int, *net.IPAddr, error)
	ReadMsgIP(b, oob []byte) (n, oobn, flags int, addr *net.IPAddr, err error)
	WriteToIP(b []byte, addr *net.IPAddr) (int, error)
	WriteMsgIP(b, oob []byte, addr *net.IPAddr) (n, oobn int, err error)
	SetReadBuffer(n int) error
	SetWriteBuffer(n int) error
}

// acceptTCP is AcceptTCP of a listener of either world.
func acceptTCP(l tcpListener) (tcpConn, error) {
	if l, ok := l.(*net.TCPListener); ok {
		return as[tcpConn](l.AcceptTCP())
	}
	return as[tcpConn](l.(*TCPListener).AcceptTCP())
}
