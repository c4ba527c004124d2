package usernet

import (
	"context"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/usernet/usernet/stack"
)

// A Dialer has the options of a dial, with the names and meanings of net.Dialer. Only Host is
// required. Its methods may be called by several goroutines at the same time.
type Dialer struct {
	// Host is the host to dial from.
	Host *Host

	// Timeout is the maximum time of a dial, including the lookup of the name; 0 means no limit
	// except TCP's own. The earliest of Timeout, Deadline and the context's deadline applies. The
	// addresses of a name share the remaining time.
	Timeout time.Duration

	// Deadline is the time at which a dial fails. The zero time means no deadline.
	Deadline time.Time

	// LocalAddr is the address to dial from, of the type that belongs to the network. If it is nil,
	// the host chooses an address.
	LocalAddr net.Addr

	// DualStack has no effect.
	//
	// Deprecated: the fallback to the other family is on by default. A negative FallbackDelay turns
	// it off.
	DualStack bool

	// FallbackDelay is how long a dial to a name on "tcp" waits for the family of the name's first
	// address before it tries the other family in parallel (RFC 8305, Happy Eyeballs). Zero means
	// 300 ms. If it is negative, the dial tries one address after the other.
	FallbackDelay time.Duration

	// KeepAlive is how long a connection is idle before TCP sends keep-alive probes, rounded up to
	// whole seconds. Zero means 15 s; a negative value means no probes. It is ignored if
	// KeepAliveConfig.Enable is set.
	KeepAlive time.Duration

	// KeepAliveConfig has all the keep-alive settings; see TCPConn.SetKeepAliveConfig. If
	// SetKeepAliveConfig would refuse a value, its setting and those after it have their defaults.
	KeepAliveConfig net.KeepAliveConfig

	// Resolver looks up names instead of the host's own resolver. It sends its queries through the
	// kernel, unless its Dial is the Host's and PreferGo is set. The first lookup by any
	// net.Resolver makes a channel for the whole process: if this happens in a testing/synctest
	// bubble, lookups outside the bubble crash.
	Resolver *net.Resolver

	// LookupNetIP, if not nil, looks up names instead of Resolver and the host's own resolver. It
	// has the arguments of net.Resolver.LookupNetIP: network is "ip", "ip4" or "ip6". The dial
	// tries the addresses in the order returned.
	LookupNetIP func(ctx context.Context, network, host string) ([]netip.Addr, error)

	// Cancel cancels a dial when it is closed.
	//
	// Deprecated: use DialContext.
	Cancel <-chan struct{}

	// Control and ControlContext need a file descriptor, and a Host's socket has none. If one of
	// them is set, a dial fails with ENOTSUP.
	Control        func(network, address string, c syscall.RawConn) error
	ControlContext func(ctx context.Context, network, address string, c syscall.RawConn) error

	multipath bool
}

// MultipathTCP returns the value set by SetMultipathTCP.
func (d *Dialer) MultipathTCP() bool { return d.multipath }

// SetMultipathTCP only sets the value that MultipathTCP returns: connections are plain TCP.
func (d *Dialer) SetMultipathTCP(use bool) { d.multipath = use }

// Dial connects to the address on the network. The networks are tcp, udp and ip with their
// variants. For the forms of network and address, see net.Dial.
func (d *Dialer) Dial(network, address string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

// DialContext connects to the address on the network. Once it has returned, the
// context has no effect on the connection.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if d.Host == nil {
		return nil, dialError(network, nil, nil, errNoHost)
	}
	ctx, cancel := d.context(ctx)
	defer cancel()
	records := d.lookupHTTPS(ctx, network, address)
	addrs, err := d.Host.dialAddrs(ctx, d.lookup(), network, address, opAddr(d.LocalAddr))
	if records != nil {
		addrs, err = records.endpoints(ctx, addrs, err)
	}
	if err != nil {
		return nil, dialError(network, nil, nil, err)
	}
	return d.race(network).run(ctx, addrs)
}

// lookup returns the function that looks up names.
func (d *Dialer) lookup() lookupFunc {
	switch {
	case d.LookupNetIP != nil:
		return traced(d.LookupNetIP, false)
	case d.Resolver != nil:
		return traced(d.Resolver.LookupNetIP, true)
	}
	return d.Host.lookup
}

// race returns the settings for trying the addresses of a dial.
func (d *Dialer) race(network string) *race {
	return &race{
		network: network, local: d.LocalAddr, delay: d.FallbackDelay,
		dial: func(ctx context.Context, addr net.Addr) (net.Conn, error) { return d.dialOne(ctx, network, addr) },
	}
}

// DialTCP connects to raddr on "tcp", "tcp4" or "tcp6". If laddr is invalid, the host chooses the
// local address.
func (d *Dialer) DialTCP(ctx context.Context, network string, laddr, raddr netip.AddrPort) (*TCPConn, error) {
	ctx, cancel := d.context(ctx)
	defer cancel()
	return d.dialTCPAddr(ctx, network, net.TCPAddrFromAddrPort(laddr), net.TCPAddrFromAddrPort(raddr))
}

// DialUDP connects to raddr on "udp", "udp4" or "udp6". If laddr is invalid, the host chooses the
// local address.
func (d *Dialer) DialUDP(ctx context.Context, network string, laddr, raddr netip.AddrPort) (*UDPConn, error) {
	ctx, cancel := d.context(ctx)
	defer cancel()
	return d.dialUDPAddr(ctx, network, net.UDPAddrFromAddrPort(laddr), net.UDPAddrFromAddrPort(raddr))
}

// DialIP connects to raddr on a network such as "ip4:icmp". If laddr is invalid, the host chooses
// the local address.
func (d *Dialer) DialIP(ctx context.Context, network string, laddr, raddr netip.Addr) (*IPConn, error) {
	ctx, cancel := d.context(ctx)
	defer cancel()
	ipAddr := func(a netip.Addr) *net.IPAddr { return &net.IPAddr{IP: a.AsSlice(), Zone: a.Zone()} }
	return d.dialIPAddr(ctx, network, ipAddr(laddr), ipAddr(raddr))
}

// context returns the context of one dial, which ends at the earliest of the dial's limits: the end
// of ctx, Deadline, Timeout and Cancel. The returned function frees the context's resources.
func (d *Dialer) context(ctx context.Context) (context.Context, context.CancelFunc) {
	if ctx == nil {
		panic("nil context")
	}
	deadline := d.Deadline
	if d.Timeout != 0 {
		if t := time.Now().Add(d.Timeout); deadline.IsZero() || t.Before(deadline) {
			deadline = t
		}
	}
	cancel := func() {}
	if !deadline.IsZero() {
		ctx, cancel = context.WithDeadline(ctx, deadline)
	}
	if d.Cancel == nil {
		return ctx, cancel
	}
	outer := cancel
	ctx, cancel = context.WithCancel(ctx)
	select {
	case <-d.Cancel: // cancel now, before the goroutine runs
		cancel()
	default:
	}
	inner, stopped := ctx, make(chan struct{})
	go func() {
		defer close(stopped)
		select {
		case <-d.Cancel:
			cancel()
		case <-inner.Done():
		}
	}()
	return ctx, func() {
		cancel()
		outer()
		<-stopped
	}
}

// dialAddr dials one address.
func (d *Dialer) dialAddr(ctx context.Context, network string, addr net.Addr) (net.Conn, error) {
	switch raddr := addr.(type) {
	case *net.TCPAddr:
		laddr, _ := d.LocalAddr.(*net.TCPAddr)
		return asConn(d.dialTCP(ctx, network, laddr, raddr))
	case *net.UDPAddr:
		laddr, _ := d.LocalAddr.(*net.UDPAddr)
		return asConn(d.dialUDP(ctx, network, laddr, raddr))
	default:
		laddr, _ := d.LocalAddr.(*net.IPAddr)
		return asConn(d.dialIP(ctx, network, laddr, addr.(*net.IPAddr)))
	}
}

// asConn returns c as a net.Conn. If err is not nil, it returns a nil interface.
func asConn[C net.Conn](c C, err error) (net.Conn, error) {
	if err != nil {
		return nil, err
	}
	return c, nil
}

// control returns ENOTSUP if a callback is set: it would need a file descriptor.
func (d *Dialer) control() error {
	if d.Control != nil || d.ControlContext != nil {
		return syscall.ENOTSUP
	}
	return nil
}

// endpoints chooses the family of a dial and converts its addresses.
func (h *Host) endpoints(network string, laddr, raddr net.Addr) (f family, local, remote netip.AddrPort, err error) {
	localIP, _, _ := addrIP(laddr)
	remoteIP, _, _ := addrIP(raddr)
	f = h.family(network, localIP, remoteIP, false)
	if err = h.supported(f); err != nil {
		return f, local, remote, err
	}
	if local, err = f.addrPort(laddr); err != nil {
		return f, local, remote, syscallError("bind", err)
	}
	remote, err = f.addrPort(raddr)
	return f, local, remote, syscallError("connect", err)
}

// dialTCPAddr is like DialTCP, for net's addresses.
func (d *Dialer) dialTCPAddr(ctx context.Context, network string, laddr, raddr *net.TCPAddr) (*TCPConn, error) {
	switch network {
	case "tcp", "tcp4", "tcp6":
	default:
		return nil, dialError(network, laddr, raddr, net.UnknownNetworkError(network))
	}
	switch {
	case d.Host == nil:
		return nil, dialError(network, laddr, raddr, errNoHost)
	case raddr == nil:
		return nil, dialError(network, laddr, nil, errMissingAddress)
	}
	c, err := d.dialTCP(ctx, network, laddr, raddr)
	if err != nil {
		return nil, dialError(network, laddr, raddr, err)
	}
	return c, nil
}

// dialTCP dials. Its errors do not contain the addresses; the callers add them.
func (d *Dialer) dialTCP(ctx context.Context, network string, laddr, raddr *net.TCPAddr) (*TCPConn, error) {
	if err := d.control(); err != nil {
		return nil, err
	}
	h := d.Host
	f, local, remote, err := h.endpoints(network, laddr, raddr)
	if err != nil {
		return nil, err
	}
	for try := 0; ; try++ {
		t, err := h.stack.DialTCP(ctx, f.stack, local, remote, tcpOptions(d.KeepAlive, d.KeepAliveConfig))
		if err != nil {
			return nil, contextError(syscallError("connect", err))
		}
		// RFC 9293 3.5 (figure 8): a connection whose ephemeral port equals the dialed port may be
		// connected to itself. As net does, dialTCP closes such a connection and dials again, up to
		// twice.
		if local.Port() == 0 && t.LocalAddr() == t.RemoteAddr() {
			t.SetLinger(0)
			t.Close()
			if try < 2 {
				continue
			}
			return nil, syscallError("connect", syscall.ECONNREFUSED)
		}
		return h.newTCPConn(t, network, f), nil
	}
}

// dialUDPAddr is like DialUDP, for net's addresses.
func (d *Dialer) dialUDPAddr(ctx context.Context, network string, laddr, raddr *net.UDPAddr) (*UDPConn, error) {
	switch network {
	case "udp", "udp4", "udp6":
	default:
		return nil, dialError(network, laddr, raddr, net.UnknownNetworkError(network))
	}
	switch {
	case d.Host == nil:
		return nil, dialError(network, laddr, raddr, errNoHost)
	case raddr == nil:
		return nil, dialError(network, laddr, nil, errMissingAddress)
	}
	c, err := d.dialUDP(ctx, network, laddr, raddr)
	if err != nil {
		return nil, dialError(network, laddr, raddr, err)
	}
	return c, nil
}

func (d *Dialer) dialUDP(ctx context.Context, network string, laddr, raddr *net.UDPAddr) (*UDPConn, error) {
	if err := d.control(); err != nil {
		return nil, err
	}
	f, local, remote, err := d.Host.endpoints(network, laddr, raddr)
	if err != nil {
		return nil, err
	}
	u, err := d.Host.stack.OpenUDP(f.stack, local)
	if err != nil {
		return nil, syscallError("bind", err)
	}
	if err := u.Connect(remote); err != nil {
		u.Close()
		return nil, syscallError("connect", err)
	}
	if err := ctx.Err(); err != nil {
		u.Close()
		return nil, contextError(err)
	}
	c := d.Host.newUDPConn(u, network, f)
	if raddr.Port == 0 {
		c.ends().remote = raddr // as in net: for port 0 the kernel reports no peer
	}
	return c, nil
}

// dialIPAddr is like DialIP, for net's addresses.
func (d *Dialer) dialIPAddr(ctx context.Context, network string, laddr, raddr *net.IPAddr) (*IPConn, error) {
	switch {
	case d.Host == nil:
		return nil, dialError(network, laddr, raddr, errNoHost)
	case raddr == nil:
		return nil, dialError(network, laddr, nil, errMissingAddress)
	}
	c, err := d.dialIP(ctx, network, laddr, raddr)
	if err != nil {
		return nil, dialError(network, laddr, raddr, err)
	}
	return c, nil
}

func (d *Dialer) dialIP(ctx context.Context, network string, laddr, raddr *net.IPAddr) (*IPConn, error) {
	name, proto, err := parseNetwork(network, true)
	if err != nil {
		return nil, err
	}
	if name[0] != 'i' {
		return nil, net.UnknownNetworkError(network)
	}
	if err := d.control(); err != nil {
		return nil, err
	}
	f, local, remote, err := d.Host.endpoints(name, laddr, raddr)
	if err != nil {
		return nil, err
	}
	r, err := d.Host.openRaw(f, proto, local.Addr())
	if err != nil {
		return nil, syscallError("bind", err)
	}
	if err := r.Connect(remote.Addr()); err != nil {
		r.Close()
		return nil, syscallError("connect", err)
	}
	if err := ctx.Err(); err != nil {
		r.Close()
		return nil, contextError(err)
	}
	c := d.Host.newIPConn(r, name, f)
	c.ends().remote = raddr // as in net: for an IP socket the kernel reports no peer
	return c, nil
}

// maxProtocol is the largest protocol number for which Linux opens a socket: IPPROTO_MPTCP. It is
// larger than 255, the largest value of the field in the IP header.
const maxProtocol = 262

// openRaw opens a raw socket for a protocol and binds it to local.
func (h *Host) openRaw(f family, proto int, local netip.Addr) (*stack.Raw, error) {
	if proto > maxProtocol {
		return nil, os.NewSyscallError("socket", syscall.EINVAL)
	}
	if f.six && local.Is4() {
		return nil, syscall.EADDRNOTAVAIL // Linux does not bind a raw socket to an IPv4-mapped address
	}
	return h.stack.OpenRaw(f.stack, uint16(proto), local)
}

// Dial connects to the address on the network, as net.Dial does.
func (h *Host) Dial(network, address string) (net.Conn, error) {
	return h.DialContext(context.Background(), network, address)
}

// DialContext connects to the address on the network. It has the form of an http.Transport's
// DialContext.
func (h *Host) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	d := Dialer{Host: h}
	return d.DialContext(ctx, network, address)
}

// DialTimeout is like Dial, with a limit on its duration.
func (h *Host) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	d := Dialer{Host: h, Timeout: timeout}
	return d.Dial(network, address)
}

// DialTCP connects to raddr, as net.DialTCP does. If laddr is not nil, it is the local address.
func (h *Host) DialTCP(network string, laddr, raddr *net.TCPAddr) (*TCPConn, error) {
	d := Dialer{Host: h}
	return d.dialTCPAddr(context.Background(), network, laddr, raddr)
}

// DialUDP connects to raddr, as net.DialUDP does. If laddr is not nil, it is the local address.
func (h *Host) DialUDP(network string, laddr, raddr *net.UDPAddr) (*UDPConn, error) {
	d := Dialer{Host: h}
	return d.dialUDPAddr(context.Background(), network, laddr, raddr)
}

// DialIP connects to raddr, as net.DialIP does. If laddr is not nil, it is the local address.
func (h *Host) DialIP(network string, laddr, raddr *net.IPAddr) (*IPConn, error) {
	d := Dialer{Host: h}
	return d.dialIPAddr(context.Background(), network, laddr, raddr)
}
