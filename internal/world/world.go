// Package world runs one program in several networks: the kernel's, the loopback of a usernet host,
// and two hosts on a wire. The program must see the same in all of them.
package world

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/internal/hosttest"
)

// A World is a network in which a program runs: the kernel's or one of usernet's. Its functions are
// net's, with interfaces in place of the types that differ between the networks.
type World struct {
	Name   string
	Server string // address of the side that listens
	Client string // address of the side that dials
	Alone  string // an address of the listening side that no other process uses

	four bool // the hosts have IPv4 only
	self bool // client and server are the same host

	// Server6 and Client6 are the IPv6 addresses of the two sides. In a World without such addresses
	// they are ::1.
	Server6, Client6 string

	Dial         func(ctx context.Context, o DialOptions, network, address string) (net.Conn, error)
	DialTimeout  func(network, address string, timeout time.Duration) (net.Conn, error)
	DialTCP      func(network string, laddr, raddr *net.TCPAddr) (TCPConn, error)
	DialUDP      func(network string, laddr, raddr *net.UDPAddr) (UDPConn, error)
	DialIP       func(network string, laddr, raddr *net.IPAddr) (IPConn, error)
	DialTCPAddr  func(ctx context.Context, o DialOptions, network string, laddr, raddr netip.AddrPort) (TCPConn, error)
	DialUDPAddr  func(ctx context.Context, o DialOptions, network string, laddr, raddr netip.AddrPort) (UDPConn, error)
	DialIPAddr   func(ctx context.Context, o DialOptions, network string, laddr, raddr netip.Addr) (IPConn, error)
	Listen       func(network, address string) (net.Listener, error)
	ListenPacket func(network, address string) (net.PacketConn, error)
	OpenPacket   func(network, address string) (net.PacketConn, error) // ListenPacket on the side that dials
	ListenConfig func(o ListenOptions) ListenConfig
	BindTCP      func(network string, laddr *net.TCPAddr) (TCPListener, error)
	BindUDP      func(network string, laddr *net.UDPAddr) (UDPConn, error)
	BindIP       func(network string, laddr *net.IPAddr) (IPConn, error)
	ListenGroup  func(network string, ifi *net.Interface, group *net.UDPAddr) (UDPConn, error)

	ResolveTCP  func(network, address string) (*net.TCPAddr, error)
	ResolveUDP  func(network, address string) (*net.UDPAddr, error)
	ResolveIP   func(network, address string) (*net.IPAddr, error)
	LookupHost  func(host string) ([]string, error)
	LookupIP    func(host string) ([]net.IP, error)
	LookupNetIP func(ctx context.Context, network, host string) ([]netip.Addr, error)
	LookupPort  func(network, service string) (int, error)
	LookupAddr  func(addr string) ([]string, error)
	LookupCNAME func(host string) (string, error)
	LookupMX    func(name string) ([]*net.MX, error)
	LookupNS    func(name string) ([]*net.NS, error)
	LookupTXT   func(name string) ([]string, error)
	LookupSRV   func(service, proto, name string) (string, []*net.SRV, error)

	// Zero values and nil pointers of the connection and listener types.
	ZeroTCP                   TCPConn
	ZeroUDP                   UDPConn
	ZeroIP                    IPConn
	NilListener, ZeroListener TCPListener
}

// DialOptions are the options of net.Dialer and usernet.Dialer.
type DialOptions struct {
	Timeout    time.Duration
	Deadline   time.Time
	Local      net.Addr
	Fallback   time.Duration
	KeepAlive  time.Duration
	Config     net.KeepAliveConfig
	Multipath  bool
	Cancel     chan struct{}
	Control    func(network, address string, c syscall.RawConn) error
	ControlCtx func(ctx context.Context, network, address string, c syscall.RawConn) error
}

// ListenOptions are the options of net.ListenConfig and usernet.ListenConfig.
type ListenOptions struct {
	KeepAlive time.Duration
	Config    net.KeepAliveConfig
	Multipath bool
	Control   func(network, address string, c syscall.RawConn) error
}

// KernelDialer returns a net.Dialer with the options.
func KernelDialer(o DialOptions) *net.Dialer {
	d := &net.Dialer{
		Timeout: o.Timeout, Deadline: o.Deadline, LocalAddr: o.Local, FallbackDelay: o.Fallback, KeepAlive: o.KeepAlive,
		KeepAliveConfig: o.Config, Control: o.Control, ControlContext: o.ControlCtx,
	}
	//lint:ignore SA1019 the deprecated field must still work
	d.Cancel = o.Cancel
	if o.Multipath {
		d.SetMultipathTCP(true)
	}
	return d
}

// UsernetDialer returns a usernet.Dialer for the host h with the options.
func UsernetDialer(h *usernet.Host, o DialOptions) *usernet.Dialer {
	d := &usernet.Dialer{
		Host: h, Timeout: o.Timeout, Deadline: o.Deadline, LocalAddr: o.Local, FallbackDelay: o.Fallback, KeepAlive: o.KeepAlive,
		KeepAliveConfig: o.Config, Control: o.Control, ControlContext: o.ControlCtx,
	}
	//lint:ignore SA1019 the deprecated field must still work
	d.Cancel = o.Cancel
	if o.Multipath {
		d.SetMultipathTCP(true)
	}
	return d
}

// As converts the result of a function of net or a method of Host to an interface. It converts a
// nil pointer to a nil interface.
func As[I any, T any](c *T, err error) (I, error) {
	var none I
	if c == nil {
		return none, err
	}
	return any(c).(I), err
}

// preferGo makes package net use Go's resolver, because the C library's has its own error texts and services. It sets the
// variable at its first call only: tests run in parallel, and one may look up a name while another calls Kernel.
var preferGo = sync.OnceFunc(func() { net.DefaultResolver.PreferGo = true })

// Kernel returns the World of the kernel's loopback.
func Kernel() *World {
	preferGo()
	pid := os.Getpid() // for Alone: each process has an address of its own
	return &World{
		Name: "kernel", Server: "127.0.0.1", Client: "127.0.0.1", Server6: "::1", Client6: "::1", self: true,
		Alone: fmt.Sprintf("127.%d.%d.%d", 1+((pid>>16)&0x7f), (pid>>8)&0xff, pid&0xff),
		Dial: func(ctx context.Context, o DialOptions, network, address string) (net.Conn, error) {
			return KernelDialer(o).DialContext(ctx, network, address)
		},
		DialTimeout: net.DialTimeout,
		DialTCP: func(network string, laddr, raddr *net.TCPAddr) (TCPConn, error) {
			return As[TCPConn](net.DialTCP(network, laddr, raddr))
		},
		DialUDP: func(network string, laddr, raddr *net.UDPAddr) (UDPConn, error) {
			return As[UDPConn](net.DialUDP(network, laddr, raddr))
		},
		DialIP: func(network string, laddr, raddr *net.IPAddr) (IPConn, error) {
			return As[IPConn](net.DialIP(network, laddr, raddr))
		},
		DialTCPAddr: func(ctx context.Context, o DialOptions, network string, laddr, raddr netip.AddrPort) (TCPConn, error) {
			return As[TCPConn](KernelDialer(o).DialTCP(ctx, network, laddr, raddr))
		},
		DialUDPAddr: func(ctx context.Context, o DialOptions, network string, laddr, raddr netip.AddrPort) (UDPConn, error) {
			return As[UDPConn](KernelDialer(o).DialUDP(ctx, network, laddr, raddr))
		},
		DialIPAddr: func(ctx context.Context, o DialOptions, network string, laddr, raddr netip.Addr) (IPConn, error) {
			return As[IPConn](KernelDialer(o).DialIP(ctx, network, laddr, raddr))
		},
		Listen:       net.Listen,
		ListenPacket: net.ListenPacket,
		OpenPacket:   net.ListenPacket,
		ListenConfig: func(o ListenOptions) ListenConfig {
			lc := &net.ListenConfig{KeepAlive: o.KeepAlive, KeepAliveConfig: o.Config, Control: o.Control}
			if o.Multipath {
				lc.SetMultipathTCP(true)
			}
			return lc
		},
		BindTCP: func(network string, laddr *net.TCPAddr) (TCPListener, error) {
			return As[TCPListener](net.ListenTCP(network, laddr))
		},
		BindUDP: func(network string, laddr *net.UDPAddr) (UDPConn, error) {
			return As[UDPConn](net.ListenUDP(network, laddr))
		},
		BindIP: func(network string, laddr *net.IPAddr) (IPConn, error) {
			return As[IPConn](net.ListenIP(network, laddr))
		},
		ListenGroup: func(network string, ifi *net.Interface, group *net.UDPAddr) (UDPConn, error) {
			return As[UDPConn](net.ListenMulticastUDP(network, ifi, group))
		},
		ResolveTCP: net.ResolveTCPAddr, ResolveUDP: net.ResolveUDPAddr, ResolveIP: net.ResolveIPAddr,
		LookupHost: net.LookupHost, LookupIP: net.LookupIP, LookupNetIP: net.DefaultResolver.LookupNetIP,
		LookupPort: net.LookupPort, LookupAddr: net.LookupAddr, LookupCNAME: net.LookupCNAME,
		LookupMX: net.LookupMX, LookupNS: net.LookupNS, LookupTXT: net.LookupTXT, LookupSRV: net.LookupSRV,
		ZeroTCP:     &net.TCPConn{},
		ZeroUDP:     &net.UDPConn{},
		ZeroIP:      &net.IPConn{},
		NilListener: (*net.TCPListener)(nil), ZeroListener: &net.TCPListener{},
	}
}

// Usernet returns a World in which client dials and server listens. They may be the same host.
func Usernet(name string, client, server *usernet.Host, clientAddr, serverAddr string) *World {
	return &World{
		Name: name, Server: serverAddr, Client: clientAddr, Alone: serverAddr, Server6: "::1", Client6: "::1", self: client == server,
		Dial: func(ctx context.Context, o DialOptions, network, address string) (net.Conn, error) {
			return UsernetDialer(client, o).DialContext(ctx, network, address)
		},
		DialTimeout: client.DialTimeout,
		DialTCP: func(network string, laddr, raddr *net.TCPAddr) (TCPConn, error) {
			return As[TCPConn](client.DialTCP(network, laddr, raddr))
		},
		DialUDP: func(network string, laddr, raddr *net.UDPAddr) (UDPConn, error) {
			return As[UDPConn](client.DialUDP(network, laddr, raddr))
		},
		DialIP: func(network string, laddr, raddr *net.IPAddr) (IPConn, error) {
			return As[IPConn](client.DialIP(network, laddr, raddr))
		},
		DialTCPAddr: func(ctx context.Context, o DialOptions, network string, laddr, raddr netip.AddrPort) (TCPConn, error) {
			return As[TCPConn](UsernetDialer(client, o).DialTCP(ctx, network, laddr, raddr))
		},
		DialUDPAddr: func(ctx context.Context, o DialOptions, network string, laddr, raddr netip.AddrPort) (UDPConn, error) {
			return As[UDPConn](UsernetDialer(client, o).DialUDP(ctx, network, laddr, raddr))
		},
		DialIPAddr: func(ctx context.Context, o DialOptions, network string, laddr, raddr netip.Addr) (IPConn, error) {
			return As[IPConn](UsernetDialer(client, o).DialIP(ctx, network, laddr, raddr))
		},
		Listen:       server.Listen,
		ListenPacket: server.ListenPacket,
		OpenPacket:   client.ListenPacket,
		ListenConfig: func(o ListenOptions) ListenConfig {
			lc := &usernet.ListenConfig{Host: server, KeepAlive: o.KeepAlive, KeepAliveConfig: o.Config, Control: o.Control}
			if o.Multipath {
				lc.SetMultipathTCP(true)
			}
			return lc
		},
		BindTCP: func(network string, laddr *net.TCPAddr) (TCPListener, error) {
			return As[TCPListener](server.ListenTCP(network, laddr))
		},
		BindUDP: func(network string, laddr *net.UDPAddr) (UDPConn, error) {
			return As[UDPConn](server.ListenUDP(network, laddr))
		},
		BindIP: func(network string, laddr *net.IPAddr) (IPConn, error) {
			return As[IPConn](server.ListenIP(network, laddr))
		},
		ListenGroup: func(network string, ifi *net.Interface, group *net.UDPAddr) (UDPConn, error) {
			return As[UDPConn](server.ListenMulticastUDP(network, ifi, group))
		},
		ResolveTCP: client.ResolveTCPAddr, ResolveUDP: client.ResolveUDPAddr, ResolveIP: client.ResolveIPAddr,
		LookupHost: client.LookupHost, LookupIP: client.LookupIP, LookupNetIP: client.LookupNetIP,
		LookupPort: client.LookupPort, LookupAddr: client.LookupAddr, LookupCNAME: client.LookupCNAME,
		LookupMX: client.LookupMX, LookupNS: client.LookupNS, LookupTXT: client.LookupTXT, LookupSRV: client.LookupSRV,
		ZeroTCP:     &usernet.TCPConn{},
		ZeroUDP:     &usernet.UDPConn{},
		ZeroIP:      &usernet.IPConn{},
		NilListener: (*usernet.TCPListener)(nil), ZeroListener: &usernet.TCPListener{},
	}
}

// All returns the kernel's loopback, the loopback of a host, and two hosts on a wire.
func All(t *testing.T) []*World { return all(t) }

// AllFour is like All, but the usernet hosts have IPv4 only.
func AllFour(t *testing.T) []*World {
	ws := all(t, func(cfg *usernet.Config) { cfg.NoIPv6 = true })
	for _, w := range ws {
		w.four = true
	}
	return ws
}

func all(t *testing.T, change ...func(*usernet.Config)) []*World {
	lo := hosttest.Loopback(t, change...)
	a, b := hosttest.Pair(t, change...)
	return []*World{
		Kernel(),
		Usernet("loopback", lo, lo, "127.0.0.1", "127.0.0.1"),
		Usernet("pipe", a, b, hosttest.AddrA, hosttest.AddrB),
	}
}

// AllSix is like All, but each usernet host also has an IPv6 address on a link, and the wire carries IP
// packets instead of Ethernet frames.
func AllSix(t *testing.T) []*World {
	lo := hosttest.LoopbackSix(t)
	a, b := hosttest.PairSix(t)
	pipe := Usernet("pipe", a, b, hosttest.AddrA, hosttest.AddrB)
	pipe.Server6, pipe.Client6 = hosttest.Addr6B, hosttest.Addr6A
	return []*World{Kernel(), Usernet("loopback", lo, lo, "127.0.0.1", "127.0.0.1"), pipe}
}

// Self returns a World in which client and server are the same host, so the client can dial a wildcard
// address. For two hosts on a wire it returns the loopback of a third host.
func (w *World) Self(t *testing.T) *World {
	if w.self {
		return w
	}
	var lo *usernet.Host
	if w.Server6 != "::1" {
		lo = hosttest.LoopbackSix(t)
	} else {
		lo = hosttest.Loopback(t, func(cfg *usernet.Config) { cfg.NoIPv6 = w.four })
	}
	return Usernet(w.Name, lo, lo, "127.0.0.1", "127.0.0.1")
}

// Listener listens on a free port of the server.
func (w *World) Listener(t *testing.T) TCPListener {
	t.Helper()
	ln, err := w.Listen("tcp4", w.Server+":0")
	must(t, err)
	t.Cleanup(func() { ln.Close() })
	return ln.(TCPListener)
}

// Connect dials to a listener.
func (w *World) Connect(t *testing.T, ln net.Listener) TCPConn {
	t.Helper()
	c, err := w.Dial(context.Background(), DialOptions{}, "tcp", ln.Addr().String())
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return c.(TCPConn)
}

// Pair makes a TCP connection in a world.
func (w *World) Pair(t *testing.T) (client, server TCPConn) {
	t.Helper()
	ln, err := w.Listen("tcp", w.Server+":0")
	must(t, err)
	defer ln.Close()
	client = w.Connect(t, ln)
	s, err := ln.Accept()
	must(t, err)
	t.Cleanup(func() { s.Close() })
	return client, s.(TCPConn)
}

// Packets binds a UDP socket to a free port of the server.
func (w *World) Packets(t *testing.T) UDPConn {
	t.Helper()
	c, err := w.ListenPacket("udp4", w.Server+":0")
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return c.(UDPConn)
}

// UdpPair opens a UDP socket on the server, and a UDP socket on the client that is connected to it.
func (w *World) UdpPair(t *testing.T) (client, server UDPConn) {
	t.Helper()
	server = w.Packets(t)
	c, err := w.Dial(context.Background(), DialOptions{}, "udp", server.LocalAddr().String())
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return c.(UDPConn), server
}

// FreePort returns an address of the server on which nothing listens.
func FreePort(t *testing.T, w *World) string {
	t.Helper()
	ln, err := w.Listen("tcp4", w.Server+":0")
	must(t, err)
	must(t, ln.Close())
	return ln.Addr().String()
}

// Experimental is an IP protocol that nothing uses. RFC 3692 reserves it for experiments.
const Experimental = "ip4:253"

// Settle waits long enough for sent data to arrive and to be answered.
func Settle() { time.Sleep(10 * time.Millisecond) }

// TCPConn has the methods that net.TCPConn and usernet.TCPConn share.
type TCPConn interface {
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

// TCPListener has the methods that net.TCPListener and usernet.TCPListener share.
type TCPListener interface {
	net.Listener
	SetDeadline(t time.Time) error
}

// ListenConfig has the methods that net.ListenConfig and usernet.ListenConfig share.
type ListenConfig interface {
	Listen(ctx context.Context, network, address string) (net.Listener, error)
	ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error)
	MultipathTCP() bool
}

// UDPConn has the methods that net.UDPConn and usernet.UDPConn share.
type UDPConn interface {
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

// IPConn has the methods that net.IPConn and usernet.IPConn share.
type IPConn interface {
	net.Conn
	net.PacketConn
	ReadFromIP(b []byte) (int, *net.IPAddr, error)
	ReadMsgIP(b, oob []byte) (n, oobn, flags int, addr *net.IPAddr, err error)
	WriteToIP(b []byte, addr *net.IPAddr) (int, error)
	WriteMsgIP(b, oob []byte, addr *net.IPAddr) (n, oobn int, err error)
	SetReadBuffer(n int) error
	SetWriteBuffer(n int) error
}

// AcceptTCP calls AcceptTCP of a listener of either package.
func AcceptTCP(l TCPListener) (TCPConn, error) {
	if l, ok := l.(*net.TCPListener); ok {
		return As[TCPConn](l.AcceptTCP())
	}
	return As[TCPConn](l.(*usernet.TCPListener).AcceptTCP())
}

// IPPair opens an IP socket on the server, and an IP socket on the client that is connected to it.
func (w *World) IPPair(t *testing.T) (client, server IPConn) {
	t.Helper()
	pc, err := w.ListenPacket(Experimental, w.Server)
	must(t, err)
	t.Cleanup(func() { pc.Close() })
	c, err := w.Dial(context.Background(), DialOptions{}, Experimental, w.Server)
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return c.(IPConn), pc.(IPConn)
}

// ListenTCP listens on a free port of the server until the test ends.
func (w *World) ListenTCP(t *testing.T) net.Listener {
	t.Helper()
	ln, err := w.Listen("tcp", w.Server+":0")
	must(t, err)
	t.Cleanup(func() { ln.Close() })
	return ln
}

// ListenUDP opens a UDP socket on a free port of the address host, which is w.Client or w.Server. The
// socket is closed when the test ends.
func (w *World) ListenUDP(t *testing.T, host string) net.PacketConn {
	t.Helper()
	open := w.ListenPacket
	if host == w.Client {
		open = w.OpenPacket
	}
	pc, err := open("udp", host+":0")
	must(t, err)
	t.Cleanup(func() { pc.Close() })
	return pc
}

// To dials an address. The connection is closed when the test ends.
func (w *World) To(t *testing.T, a net.Addr) net.Conn {
	t.Helper()
	c, err := w.Dial(context.Background(), DialOptions{}, a.Network(), a.String())
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
