package dropin

import (
	"context"
	"net"
	"syscall"
	"time"

	"github.com/usernet/usernet"
)

// A ListenConfig is a net.ListenConfig for the default Host. Its fields are those of
// net.ListenConfig and usernet.ListenConfig.
type ListenConfig struct {
	// Control needs a file descriptor, and a Host's socket has none. If it is set, Listen and
	// ListenPacket fail with ENOTSUP.
	Control         func(network, address string, c syscall.RawConn) error
	KeepAlive       time.Duration
	KeepAliveConfig KeepAliveConfig

	noMultipath bool
}

// MultipathTCP returns the value set by SetMultipathTCP. The default is true, as in net.
func (lc *ListenConfig) MultipathTCP() bool { return !lc.noMultipath }

// SetMultipathTCP only sets the value that MultipathTCP returns: connections are plain TCP.
func (lc *ListenConfig) SetMultipathTCP(use bool) { lc.noMultipath = !use }

// on converts the ListenConfig to a usernet.ListenConfig for the default Host. It also returns the
// address, with a host name replaced by its IP address if DefaultResolver has to look it up.
func (lc *ListenConfig) on(ctx context.Context, network, address string) (*usernet.ListenConfig, string, error) {
	h, err := hostFor("listen", network)
	if err != nil {
		return nil, "", err
	}
	if address, err = DefaultResolver.literal(ctx, h, network, address); err != nil {
		return nil, "", &net.OpError{Op: "listen", Net: network, Err: err}
	}
	return &usernet.ListenConfig{
		Host:            h,
		Control:         lc.Control,
		KeepAlive:       lc.KeepAlive,
		KeepAliveConfig: lc.KeepAliveConfig,
	}, address, nil
}

// Listen listens on the local address. See net.ListenConfig.
func (lc *ListenConfig) Listen(ctx context.Context, network, address string) (Listener, error) {
	on, address, err := lc.on(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return on.Listen(ctx, network, address)
}

// ListenPacket binds a socket to the local address. See net.ListenConfig.
func (lc *ListenConfig) ListenPacket(ctx context.Context, network, address string) (PacketConn, error) {
	on, address, err := lc.on(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return on.ListenPacket(ctx, network, address)
}

// Listen is net.Listen, on the default Host.
func Listen(network, address string) (Listener, error) {
	var lc ListenConfig
	return lc.Listen(context.Background(), network, address)
}

// ListenPacket is net.ListenPacket, on the default Host.
func ListenPacket(network, address string) (PacketConn, error) {
	var lc ListenConfig
	return lc.ListenPacket(context.Background(), network, address)
}

// ListenMulticastUDP is net.ListenMulticastUDP, on the default Host.
func ListenMulticastUDP(network string, ifi *Interface, gaddr *UDPAddr) (*UDPConn, error) {
	h, err := hostFor("listen", network)
	if err != nil {
		return nil, err
	}
	return h.ListenMulticastUDP(network, (*net.Interface)(ifi), gaddr)
}
