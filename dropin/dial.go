package dropin

import (
	"context"
	"net/netip"
	"syscall"
	"time"

	"github.com/usernet/usernet"
)

// A Dialer is a net.Dialer for the default Host. Its fields are those of
// net.Dialer and usernet.Dialer.
type Dialer struct {
	Timeout   time.Duration
	Deadline  time.Time
	LocalAddr Addr

	// DualStack has no effect.
	//
	// Deprecated: the fallback to the other family is on by default. A negative FallbackDelay turns
	// it off.
	DualStack bool

	FallbackDelay   time.Duration
	KeepAlive       time.Duration
	KeepAliveConfig KeepAliveConfig

	// Resolver looks up names; DefaultResolver if nil.
	Resolver *Resolver

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

// on converts the Dialer to a usernet.Dialer for the Host h.
func (d *Dialer) on(h *usernet.Host) *usernet.Dialer {
	r := d.Resolver
	if r == nil {
		r = DefaultResolver
	}
	return &usernet.Dialer{
		Host:            h,
		Timeout:         d.Timeout,
		Deadline:        d.Deadline,
		LocalAddr:       d.LocalAddr,
		FallbackDelay:   d.FallbackDelay,
		KeepAlive:       d.KeepAlive,
		KeepAliveConfig: d.KeepAliveConfig,
		LookupNetIP:     r.byHost(h).LookupNetIP,
		Cancel:          d.Cancel, //lint:ignore SA1019 the deprecated field must still work
		Control:         d.Control,
		ControlContext:  d.ControlContext,
	}
}

// Dial connects to the address on the network. See net.Dialer.
func (d *Dialer) Dial(network, address string) (Conn, error) {
	return d.DialContext(context.Background(), network, address)
}

// DialContext connects to the address on the network. See net.Dialer.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (Conn, error) {
	h, err := hostFor("dial", network)
	if err != nil {
		return nil, err
	}
	return d.on(h).DialContext(ctx, network, address)
}

// DialTCP connects to raddr. See net.Dialer.
func (d *Dialer) DialTCP(ctx context.Context, network string, laddr netip.AddrPort, raddr netip.AddrPort) (*TCPConn, error) {
	h, err := hostFor("dial", network)
	if err != nil {
		return nil, err
	}
	return d.on(h).DialTCP(ctx, network, laddr, raddr)
}

// DialUDP connects to raddr. See net.Dialer.
func (d *Dialer) DialUDP(ctx context.Context, network string, laddr netip.AddrPort, raddr netip.AddrPort) (*UDPConn, error) {
	h, err := hostFor("dial", network)
	if err != nil {
		return nil, err
	}
	return d.on(h).DialUDP(ctx, network, laddr, raddr)
}

// DialIP connects to raddr. See net.Dialer.
func (d *Dialer) DialIP(ctx context.Context, network string, laddr netip.Addr, raddr netip.Addr) (*IPConn, error) {
	h, err := hostFor("dial", network)
	if err != nil {
		return nil, err
	}
	return d.on(h).DialIP(ctx, network, laddr, raddr)
}

// Dial is net.Dial, on the default Host.
func Dial(network, address string) (Conn, error) {
	var d Dialer
	return d.Dial(network, address)
}

// DialTimeout is net.DialTimeout, on the default Host.
func DialTimeout(network, address string, timeout time.Duration) (Conn, error) {
	d := Dialer{Timeout: timeout}
	return d.Dial(network, address)
}
