package usernet

import (
	"context"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/usernet/usernet/stack"
)

// A ListenConfig has the options of a listener, with the names and meanings of net.ListenConfig.
// Only Host is required.
type ListenConfig struct {
	// Host is the host to listen on.
	Host *Host

	// Control needs a file descriptor, and a Host's socket has none. If it is set, Listen and
	// ListenPacket fail with ENOTSUP.
	Control func(network, address string, c syscall.RawConn) error

	// KeepAlive is how long an accepted connection is idle before TCP sends keep-alive probes,
	// rounded up to whole seconds. Zero means 15 s; a negative value means no probes. It is ignored
	// if KeepAliveConfig.Enable is set.
	KeepAlive time.Duration

	// KeepAliveConfig has all the keep-alive settings of accepted connections, as in a Dialer.
	KeepAliveConfig net.KeepAliveConfig

	noMultipath bool
}

// MultipathTCP returns the value set by SetMultipathTCP. The default is true, as in net.
func (lc *ListenConfig) MultipathTCP() bool { return !lc.noMultipath }

// SetMultipathTCP only sets the value that MultipathTCP returns: connections are plain TCP.
func (lc *ListenConfig) SetMultipathTCP(use bool) { lc.noMultipath = !use }

// Listen listens on the local address. The network is "tcp", "tcp4" or "tcp6". For the forms of
// address, see net.Listen. The context only limits the lookup of the address.
func (lc *ListenConfig) Listen(ctx context.Context, network, address string) (net.Listener, error) {
	if lc.Host == nil {
		return nil, listenError(network, nil, errNoHost)
	}
	addr, err := lc.Host.listenAddr(ctx, network, address)
	if err != nil {
		return nil, listenError(network, nil, err)
	}
	laddr, ok := addr.(*net.TCPAddr)
	if !ok {
		return nil, listenError(network, addr, &net.AddrError{Err: "unexpected address type", Addr: address})
	}
	l, err := lc.listenTCP(network, laddr)
	if err != nil {
		return nil, listenError(network, addr, err)
	}
	return l, nil
}

// ListenPacket binds a socket to the local address. The networks are udp and ip with their
// variants. For the forms of address, see net.ListenPacket. The context only limits the lookup of
// the address.
func (lc *ListenConfig) ListenPacket(ctx context.Context, network, address string) (net.PacketConn, error) {
	if lc.Host == nil {
		return nil, listenError(network, nil, errNoHost)
	}
	addr, err := lc.Host.listenAddr(ctx, network, address)
	if err != nil {
		return nil, listenError(network, nil, err)
	}
	var c net.PacketConn
	switch laddr := addr.(type) {
	case *net.UDPAddr:
		c, err = lc.listenUDP(network, laddr)
	case *net.IPAddr:
		c, err = lc.listenIP(network, laddr)
	default:
		err = &net.AddrError{Err: "unexpected address type", Addr: address}
	}
	if err != nil {
		return nil, listenError(network, addr, err) // do not return c: it may hold a nil pointer
	}
	return c, nil
}

// control returns ENOTSUP if the callback is set: it would need a file descriptor.
func (lc *ListenConfig) control() error {
	if lc.Control != nil {
		return syscall.ENOTSUP
	}
	return nil
}

func (lc *ListenConfig) listenTCP(network string, laddr *net.TCPAddr) (*TCPListener, error) {
	if err := lc.control(); err != nil {
		return nil, err
	}
	f := lc.Host.family(network, laddr.IP, nil, true)
	if err := lc.Host.supported(f); err != nil {
		return nil, err
	}
	local, err := f.addrPort(laddr)
	if err != nil {
		return nil, syscallError("bind", err)
	}
	l, err := lc.Host.stack.ListenTCP(f.stack, local, stack.ListenOptions{TCP: tcpOptions(lc.KeepAlive, lc.KeepAliveConfig)})
	if err != nil {
		return nil, syscallError("listen", err)
	}
	return &TCPListener{ln: l, lc: *lc, net: network, family: f, laddr: f.tcpAddr(l.LocalAddr())}, nil
}

func (lc *ListenConfig) listenUDP(network string, laddr *net.UDPAddr) (*UDPConn, error) {
	if err := lc.control(); err != nil {
		return nil, err
	}
	f := lc.Host.family(network, laddr.IP, nil, true)
	if err := lc.Host.supported(f); err != nil {
		return nil, err
	}
	local, err := f.addrPort(laddr)
	if err != nil {
		return nil, syscallError("bind", err)
	}
	// As in net, a socket for a multicast group is bound to the port but not to the group, and
	// several such sockets may share the port.
	open := lc.Host.stack.OpenUDP
	if local.Addr().IsMulticast() {
		local = netip.AddrPortFrom(netip.Addr{}, local.Port())
		open = lc.Host.stack.OpenSharedUDP
	}
	u, err := open(f.stack, local)
	if err != nil {
		return nil, syscallError("bind", err)
	}
	return lc.Host.newUDPConn(u, network, f), nil
}

func (lc *ListenConfig) listenIP(network string, laddr *net.IPAddr) (*IPConn, error) {
	name, proto, err := parseNetwork(network, true)
	if err != nil {
		return nil, err
	}
	if name[0] != 'i' {
		return nil, net.UnknownNetworkError(network)
	}
	if err := lc.control(); err != nil {
		return nil, err
	}
	f := lc.Host.family(name, laddr.IP, nil, true)
	if err := lc.Host.supported(f); err != nil {
		return nil, err
	}
	local, err := f.addr(laddr.IP, laddr.Zone)
	if err != nil {
		return nil, err
	}
	r, err := lc.Host.openRaw(f, proto, local)
	if err != nil {
		return nil, syscallError("bind", err)
	}
	return lc.Host.newIPConn(r, name, f), nil
}

// A TCPListener listens for TCP connections. It has the methods of
// net.TCPListener except File and SyscallConn.
type TCPListener struct {
	ln     *stack.TCPListener
	lc     ListenConfig
	net    string
	family family
	laddr  *net.TCPAddr // the bound address
}

var _ net.Listener = (*TCPListener)(nil)

func (l *TCPListener) ok() bool { return l != nil && l.ln != nil }

func (l *TCPListener) opError(op, call string, err error) error {
	return &net.OpError{Op: op, Net: l.net, Addr: l.laddr, Err: syscallError(call, err)}
}

// AcceptTCP waits for the next connection.
func (l *TCPListener) AcceptTCP() (*TCPConn, error) {
	if !l.ok() {
		return nil, syscall.EINVAL
	}
	t, err := l.ln.Accept()
	if err != nil {
		return nil, l.opError("accept", "accept4", err)
	}
	return l.lc.Host.newTCPConn(t, l.net, l.family), nil
}

// Accept waits for the next connection, which is a *TCPConn.
func (l *TCPListener) Accept() (net.Conn, error) { return asConn(l.AcceptTCP()) }

// Close stops listening. It resets the connections that have not been accepted. Accepted
// connections stay open.
func (l *TCPListener) Close() error {
	if !l.ok() {
		return syscall.EINVAL
	}
	if err := l.ln.Close(); err != nil {
		return l.opError("close", "close", err)
	}
	return nil
}

// Addr returns the listener's address, a *net.TCPAddr. All calls return the same value, which the
// caller must not modify.
func (l *TCPListener) Addr() net.Addr { return opAddr(l.laddr) }

// SetDeadline sets the deadline of Accept. The zero time means no deadline. After Close, SetDeadline
// returns net.ErrClosed itself, not a *net.OpError, as in net.
func (l *TCPListener) SetDeadline(t time.Time) error {
	if !l.ok() {
		return syscall.EINVAL
	}
	return l.ln.SetDeadline(t)
}

// Listen listens on the local address for TCP connections, as net.Listen does.
func (h *Host) Listen(network, address string) (net.Listener, error) {
	lc := ListenConfig{Host: h}
	return lc.Listen(context.Background(), network, address)
}

// ListenPacket binds a UDP or IP socket to the local address, as net.ListenPacket
// does. Broadcast is allowed.
func (h *Host) ListenPacket(network, address string) (net.PacketConn, error) {
	lc := ListenConfig{Host: h}
	return lc.ListenPacket(context.Background(), network, address)
}

// ListenTCP listens on laddr, as net.ListenTCP does. If laddr has no IP address, the listener accepts
// connections to all of the host's addresses. If laddr has no port, the host chooses a free one.
func (h *Host) ListenTCP(network string, laddr *net.TCPAddr) (*TCPListener, error) {
	switch network {
	case "tcp", "tcp4", "tcp6":
	default:
		return nil, listenError(network, laddr, net.UnknownNetworkError(network))
	}
	if laddr == nil {
		laddr = &net.TCPAddr{}
	}
	lc := ListenConfig{Host: h}
	l, err := lc.listenTCP(network, laddr)
	if err != nil {
		return nil, listenError(network, laddr, err)
	}
	return l, nil
}

// ListenUDP binds a UDP socket to laddr, as net.ListenUDP does. If laddr has no IP address, the
// socket is bound to all of the host's addresses. If laddr has no port, the host chooses a free one.
func (h *Host) ListenUDP(network string, laddr *net.UDPAddr) (*UDPConn, error) {
	switch network {
	case "udp", "udp4", "udp6":
	default:
		return nil, listenError(network, laddr, net.UnknownNetworkError(network))
	}
	if laddr == nil {
		laddr = &net.UDPAddr{}
	}
	lc := ListenConfig{Host: h}
	c, err := lc.listenUDP(network, laddr)
	if err != nil {
		return nil, listenError(network, laddr, err)
	}
	return c, nil
}

// ListenIP binds an IP socket to laddr, as net.ListenIP does. The network is, for example,
// "ip4:icmp".
func (h *Host) ListenIP(network string, laddr *net.IPAddr) (*IPConn, error) {
	if laddr == nil {
		laddr = &net.IPAddr{}
	}
	lc := ListenConfig{Host: h}
	c, err := lc.listenIP(network, laddr)
	if err != nil {
		return nil, listenError(network, laddr, err)
	}
	return c, nil
}

// ListenMulticastUDP binds a UDP socket to the port of gaddr and joins gaddr's multicast group on an
// interface of the host, as net.ListenMulticastUDP does on an interface of the kernel. ifi selects
// the interface by its Index, or by its Name if Index is 0; if ifi is nil, the routes select it.
// Several such sockets may share a port, and each receives the datagrams for every group that any
// of them has joined. Datagrams that the socket sends to a group are not looped back.
func (h *Host) ListenMulticastUDP(network string, ifi *net.Interface, gaddr *net.UDPAddr) (*UDPConn, error) {
	switch network {
	case "udp", "udp4", "udp6":
	default:
		return nil, listenError(network, gaddr, net.UnknownNetworkError(network))
	}
	if gaddr == nil || gaddr.IP == nil {
		return nil, listenError(network, gaddr, errMissingAddress)
	}
	c, err := h.listenMulticast(network, ifi, gaddr)
	if err != nil {
		return nil, listenError(network, gaddr, err)
	}
	return c, nil
}

func (h *Host) listenMulticast(network string, ifi *net.Interface, gaddr *net.UDPAddr) (*UDPConn, error) {
	index, err := h.interfaceIndex(ifi)
	if err != nil {
		return nil, err
	}
	if network == "udp4" && gaddr.IP.To4() == nil && gaddr.IP.IsMulticast() {
		// As in net, the error is that of joining the IPv6 group on an IPv4 socket.
		return nil, syscallError("setsockopt", syscall.ENOPROTOOPT)
	}
	lc := ListenConfig{Host: h}
	c, err := lc.listenUDP(network, gaddr)
	if err != nil {
		return nil, err
	}
	if err := c.joinFirst(gaddr, index); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// joinFirst joins the group of a socket from ListenMulticastUDP. Before that it sets the socket's
// multicast interface and turns the loopback off, as net does.
func (c *UDPConn) joinFirst(gaddr *net.UDPAddr, index int) error {
	group, err := c.family.addr(gaddr.IP, gaddr.Zone)
	if err != nil {
		return err
	}
	if err = c.udp.SetMulticastInterface(index); err == nil {
		if err = c.udp.SetMulticastLoopback(false); err == nil {
			err = c.udp.Join(group, index)
		}
	}
	return syscallError("setsockopt", err)
}

// interfaceIndex returns the index of the interface that ifi names by its Index or, if Index is 0, by
// its Name. If ifi is nil, the result is 0, which means any interface. The stack checks whether an
// interface with the index exists.
func (h *Host) interfaceIndex(ifi *net.Interface) (int, error) {
	if ifi == nil {
		return 0, nil
	}
	if ifi.Index != 0 {
		return ifi.Index, nil
	}
	for _, info := range h.stack.Interfaces() {
		if info.Name == ifi.Name {
			return info.Index, nil
		}
	}
	return 0, syscallError("setsockopt", syscall.ENODEV)
}
