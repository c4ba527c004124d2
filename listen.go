package usernet

import (
	"context"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/usernet/usernet/stack"
)

// A ListenConfig has the options of a listener, with the names and meanings that
// they have in net.ListenConfig. Only Host is needed.
type ListenConfig struct {
	// Host is the host to listen on.
	Host *Host

	// Control is for the descriptor of the socket. There is none, so that Listen and
	// ListenPacket fail with ENOTSUP if it is set.
	Control func(network, address string, c syscall.RawConn) error

	// KeepAlive is how long an accepted connection is idle before keep-alive probes are
	// sent. Zero means 15 s, a negative value no probes. It is rounded up to whole seconds, and
	// ignored if KeepAliveConfig.Enable is set.
	KeepAlive time.Duration

	// KeepAliveConfig has all of the keep-alive settings of accepted connections, as in a
	// Dialer.
	KeepAliveConfig net.KeepAliveConfig

	noMultipath bool
}

// MultipathTCP returns the value set by SetMultipathTCP. It is true before, as in net.
func (lc *ListenConfig) MultipathTCP() bool { return !lc.noMultipath }

// SetMultipathTCP is accepted, and has no effect: connections are plain TCP.
func (lc *ListenConfig) SetMultipathTCP(use bool) { lc.noMultipath = !use }

// Listen listens on the local address. See net.Listen for its forms; the network is
// "tcp", "tcp4" or "tcp6". The context is for the lookup of the address only.
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

// ListenPacket binds a socket to the local address. See net.ListenPacket for its
// forms; the networks are udp and ip with their variants. The context is for the lookup of
// the address only.
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
		return nil, listenError(network, addr, err) // not c, which may hold a nil pointer
	}
	return c, nil
}

// control returns ENOTSUP if there is a callback, which needs a descriptor.
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
	// As with net, a socket for a multicast group is bound only to the port, which it
	// may share with other such sockets.
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
	laddr  *net.TCPAddr
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

// Close stops listening. It resets connections that were not accepted; accepted ones stay.
func (l *TCPListener) Close() error {
	if !l.ok() {
		return syscall.EINVAL
	}
	if err := l.ln.Close(); err != nil {
		return l.opError("close", "close", err)
	}
	return nil
}

// Addr returns the listener's address, a *net.TCPAddr. It is shared by all calls and
// not to be changed.
func (l *TCPListener) Addr() net.Addr { return opAddr(l.laddr) }

// SetDeadline sets the deadline of Accept. The zero time means none. After Close it returns
// net.ErrClosed itself, as in net.
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

// ListenTCP listens on laddr, as net.ListenTCP does: on all of the host's addresses if laddr has none,
// and on a free port if it has none.
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

// ListenUDP binds a UDP socket to laddr, as net.ListenUDP does: to all of the host's addresses if laddr has
// none, and to a free port if it has none.
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

// ListenIP binds an IP socket to laddr, as net.ListenIP does. The network is
// "ip4:icmp" or its like.
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

// ListenMulticastUDP binds a UDP socket to the port of a multicast group, and joins the
// group on an interface of the host, as net.ListenMulticastUDP does on one of the
// kernel's. ifi names the interface by its Index or its Name; if it is nil, the routes choose
// one. Several sockets may listen on one port this way; each receives the datagrams to all groups that
// any of them has joined. Datagrams that the socket sends to a group are not looped back.
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
		// net fails only when it joins.
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

// joinFirst does what net does with the socket of ListenMulticastUDP.
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

// interfaceIndex returns the index of a net.Interface, which may have only a name; 0 stands
// for any. The stack checks whether the index exists.
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
