package dropin

import (
	"context"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/usernet/usernet"
)

// minAddrTime is what an address gets of the time that is left, if it is left.
const minAddrTime = 2 * time.Second

// A Dialer is a net.Dialer for the default Host. For the meaning of its fields see
// there and at usernet.Dialer.
type Dialer struct {
	Timeout   time.Duration
	Deadline  time.Time
	LocalAddr Addr

	// DualStack has no effect.
	//
	// Deprecated: the fallback is on by default, and turned off by a negative FallbackDelay.
	DualStack bool

	FallbackDelay   time.Duration
	KeepAlive       time.Duration
	KeepAliveConfig KeepAliveConfig

	// Resolver is DefaultResolver if nil. The addresses that one with a Dial of its own
	// finds are tried one after the other.
	Resolver *Resolver

	// Cancel cancels a dial when it is closed.
	//
	// Deprecated: use DialContext.
	Cancel <-chan struct{}

	// Control and ControlContext make a dial fail with ENOTSUP: there is no descriptor to control.
	Control        func(network, address string, c syscall.RawConn) error
	ControlContext func(ctx context.Context, network, address string, c syscall.RawConn) error

	multipath bool
}

// MultipathTCP reports what SetMultipathTCP was told.
func (d *Dialer) MultipathTCP() bool { return d.multipath }

// SetMultipathTCP is accepted, and has no effect: connections are plain TCP.
func (d *Dialer) SetMultipathTCP(use bool) { d.multipath = use }

// on returns the same Dialer for a Host, but for Resolver and Cancel.
func (d *Dialer) on(h *usernet.Host) *usernet.Dialer {
	return &usernet.Dialer{
		Host:            h,
		Timeout:         d.Timeout,
		Deadline:        d.Deadline,
		LocalAddr:       d.LocalAddr,
		FallbackDelay:   d.FallbackDelay,
		KeepAlive:       d.KeepAlive,
		KeepAliveConfig: d.KeepAliveConfig,
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
	ctx, done := d.context(ctx)
	defer done()
	r := d.Resolver
	if r == nil {
		r = DefaultResolver
	}
	if !r.hasDial() {
		return d.on(h).DialContext(ctx, network, address)
	}
	return d.dialBy(ctx, h, r, network, address)
}

// DialTCP connects to raddr. See net.Dialer.
func (d *Dialer) DialTCP(ctx context.Context, network string, laddr netip.AddrPort, raddr netip.AddrPort) (*TCPConn, error) {
	h, err := hostFor("dial", network)
	if err != nil {
		return nil, err
	}
	ctx, done := d.context(ctx)
	defer done()
	return d.on(h).DialTCP(ctx, network, laddr, raddr)
}

// DialUDP connects to raddr. See net.Dialer.
func (d *Dialer) DialUDP(ctx context.Context, network string, laddr netip.AddrPort, raddr netip.AddrPort) (*UDPConn, error) {
	h, err := hostFor("dial", network)
	if err != nil {
		return nil, err
	}
	ctx, done := d.context(ctx)
	defer done()
	return d.on(h).DialUDP(ctx, network, laddr, raddr)
}

// DialIP connects to raddr. See net.Dialer.
func (d *Dialer) DialIP(ctx context.Context, network string, laddr netip.Addr, raddr netip.Addr) (*IPConn, error) {
	h, err := hostFor("dial", network)
	if err != nil {
		return nil, err
	}
	ctx, done := d.context(ctx)
	defer done()
	return d.on(h).DialIP(ctx, network, laddr, raddr)
}

// dialBy dials the addresses that a Resolver with a Dial of its own finds, one
// after the other. The error is that of the first.
func (d *Dialer) dialBy(ctx context.Context, h *usernet.Host, r *Resolver, network, address string) (Conn, error) {
	one := d.on(h)
	if one.Timeout != 0 { // it is for all of the addresses and for the lookup
		if t := time.Now().Add(one.Timeout); one.Deadline.IsZero() || t.Before(one.Deadline) {
			one.Deadline = t
		}
		one.Timeout = 0
	}
	if !one.Deadline.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, one.Deadline)
		defer cancel()
	}
	addrs, err := r.literals(ctx, h, network, address)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	var first error
	for i, addr := range addrs {
		if deadline, ok := ctx.Deadline(); ok {
			one.Timeout = max(time.Until(deadline)/time.Duration(len(addrs)-i), minAddrTime)
		}
		c, err := one.DialContext(ctx, network, addr)
		if err == nil {
			return c, nil
		}
		if first == nil {
			first = err
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, first
}

// context returns the context of one dial, which ends when Cancel is closed, and what is
// to be called after the dial.
func (d *Dialer) context(ctx context.Context) (context.Context, func()) {
	if ctx == nil {
		panic("nil context")
	}
	if d.Cancel == nil {
		return ctx, func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		select {
		case <-d.Cancel:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		cancel()
		<-stopped
	}
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
