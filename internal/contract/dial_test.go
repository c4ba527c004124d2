package contract

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/usernet/usernet/internal/world"
)

// dialing returns a behaviour of one dial. HOST in address stands for the server's address.
func dialing(network, address string, o world.DialOptions) func(*testing.T, *world.World) []any {
	return func(t *testing.T, w *world.World) []any {
		return dialed(w.Dial(context.Background(), o, network, strings.ReplaceAll(address, "HOST", w.Server)))
	}
}

func dialBehaviours() []behaviour {
	past := time.Now().Add(-time.Second)
	return []behaviour{
		{"dial to a closed port is refused", func(t *testing.T, w *world.World) []any {
			_, err := w.Dial(context.Background(), world.DialOptions{}, "tcp", world.FreePort(t, w))
			return []any{err}
		}, "connect: connection refused"},
		{"dial with a cancelled context", func(t *testing.T, w *world.World) []any {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			_, err := w.Dial(ctx, world.DialOptions{}, "tcp", w.Server+":80")
			return []any{err}
		}, "operation was canceled"},
		{"dial with a context past its deadline", func(t *testing.T, w *world.World) []any {
			ctx, cancel := context.WithDeadline(context.Background(), past)
			defer cancel()
			_, err := w.Dial(ctx, world.DialOptions{}, "tcp", w.Server+":80")
			return []any{err}
		}, "i/o timeout"},
		{"dial with a timeout that is over", dialing("tcp", "HOST:80", world.DialOptions{Timeout: -1}), "i/o timeout"},
		{"dial with a deadline that is over", dialing("tcp", "HOST:80", world.DialOptions{Deadline: past}), "i/o timeout"},
		{"dial UDP with a deadline that is over", dialing("udp", "HOST:80", world.DialOptions{Deadline: past}), "i/o timeout"},
		{"dial from an address that is not ours", dialing("tcp", "HOST:80", world.DialOptions{Local: &net.TCPAddr{IP: net.IP{203, 0, 113, 77}}}), "bind: cannot assign requested address"},
		{"dial UDP from an address that is not ours", dialing("udp", "HOST:80", world.DialOptions{Local: &net.UDPAddr{IP: net.IP{203, 0, 113, 77}}}), "bind: cannot assign requested address"},
		{"dial from an address of the wrong type", dialing("tcp", "HOST:80", world.DialOptions{Local: &net.UDPAddr{}}), "mismatched local address type"},
		{"dial from an address of the wrong family", dialing("tcp", "HOST:80", world.DialOptions{Local: &net.TCPAddr{IP: net.ParseIP("2001:db8::1")}}), "no suitable address found"},
		{"dial to the broadcast address", dialing("tcp", "255.255.255.255:80", world.DialOptions{}), "connect: network is unreachable"},
		{"dial without a port", dialing("tcp", "HOST", world.DialOptions{}), "missing port in address"},
		{"dial to nothing", dialing("tcp", "", world.DialOptions{}), "missing address"},
		{"dial with too many colons", dialing("tcp", "HOST:80:80", world.DialOptions{}), "too many colons in address"},
		{"dial with an open bracket", dialing("tcp", "[::1:80", world.DialOptions{}), "missing ']' in address"},
		{"dial to an unknown service", dialing("tcp", "HOST:no-such-service", world.DialOptions{}), "unknown port"},
		{"dial to a port that is too large", dialing("tcp", "HOST:65536", world.DialOptions{}), "invalid port"},
		{"dial to a negative port", dialing("udp", "HOST:-1", world.DialOptions{}), "invalid port"},
		{"dial an IPv4 literal on tcp6", dialing("tcp6", "HOST:80", world.DialOptions{}), "no suitable address found"},
		{"dial an IPv6 literal on udp4", dialing("udp4", "[::1]:80", world.DialOptions{}), "no suitable address found"},
		{"dial on an unknown network", dialing("sctp", "HOST:80", world.DialOptions{}), "unknown network sctp"},
		{"dial on a TCP network with a protocol", dialing("tcp:stream", "HOST:80", world.DialOptions{}), "unknown network tcp:stream"},
		{"dial IP without a protocol", dialing("ip4", "HOST", world.DialOptions{}), "unknown network ip4"},
		{"dial an unknown IP protocol", dialing("ip4:no-such", "HOST", world.DialOptions{}), "unknown IP protocol specified"},
	}
}

// dialed returns the addresses of the connection, or the error.
func dialed(c net.Conn, err error) []any {
	if err != nil {
		return []any{err}
	}
	defer c.Close()
	return []any{c.LocalAddr(), c.RemoteAddr()}
}

// reaching returns a behaviour of a dial to a listener or a UDP socket. PORT in address stands for the port
// of that listener or socket.
func reaching(network, address string, o world.DialOptions) func(*testing.T, *world.World) []any {
	return func(t *testing.T, w *world.World) []any {
		var addr net.Addr
		if strings.HasPrefix(network, "udp") {
			addr = w.Packets(t).LocalAddr()
		} else {
			addr = w.Listener(t).Addr()
		}
		_, port, err := net.SplitHostPort(addr.String())
		require.NoError(t, err)
		return dialed(w.Dial(context.Background(), o, network, strings.NewReplacer("HOST", w.Server, "PORT", port).Replace(address)))
	}
}

// reachingSelf returns a behaviour of a dial to a host's own wildcard listener.
func reachingSelf(network, address string) func(*testing.T, *world.World) []any {
	return func(t *testing.T, w *world.World) []any {
		w = w.Self(t)
		ln, err := w.Listen("tcp4", ":0")
		require.NoError(t, err)
		defer ln.Close()
		_, port, err := net.SplitHostPort(ln.Addr().String())
		require.NoError(t, err)
		return dialed(w.Dial(context.Background(), world.DialOptions{}, network, strings.ReplaceAll(address, "PORT", port)))
	}
}

func dialAddrBehaviours() []behaviour {
	none := world.DialOptions{}
	return []behaviour{
		{"dial tcp shows both ends", reaching("tcp", "HOST:PORT", none), "tcp HOST:P"},
		{"dial tcp4 shows both ends", reaching("tcp4", "HOST:PORT", none), "tcp HOST:P"},
		{"dial udp shows both ends", reaching("udp", "HOST:PORT", none), "udp HOST:P"},
		{"dial udp4 shows both ends", reaching("udp4", "HOST:PORT", none), "udp HOST:P"},
		{"dial an IPv4 literal in brackets", reaching("tcp", "[HOST]:PORT", none), "tcp HOST:P"},
		{"dial an IPv4 literal in IPv6's form", reaching("tcp", "[::ffff:HOST]:PORT", none), "tcp HOST:P"},
		{"dial a port with zeros before it", reaching("tcp", "HOST:000PORT", none), "tcp HOST:P"},
		{"dial a port with a sign", reaching("tcp", "HOST:+PORT", none), "tcp HOST:P"},
		{"dial a service of UDP by its name", dialing("udp", "HOST:domain", none), "udp HOST:53"},
		{"dial a service of TCP by its name in capitals", dialing("tcp", "HOST:POP3", none), "connect: connection refused"},
		{"dial the host itself by an empty name", reachingSelf("tcp4", ":PORT"), "tcp HOST:P"},
		{"dial the host itself by the wildcard", reachingSelf("tcp4", "0.0.0.0:PORT"), "tcp HOST:P"},
		{"dial the host itself by IPv6's wildcard on tcp4", reachingSelf("tcp4", "[::]:PORT"), "tcp HOST:P"},
		{"dial the host itself as localhost", reachingSelf("tcp4", "localhost:PORT"), "tcp HOST:P"},
		{"dial the host itself as localhost in capitals", reachingSelf("tcp4", "LocalHost:PORT"), "tcp HOST:P"},
		{"dial another address of the loopback", reachingSelf("tcp", "127.9.8.7:PORT"), "tcp 127.9.8.7:P"},
		{"dial port 0", dialing("tcp", "HOST:0", none), "connect: connection refused"},
		{"dial an empty port", dialing("tcp", "HOST:", none), "connect: connection refused"},
		{"dial UDP to port 0, and write", func(t *testing.T, w *world.World) []any {
			c, err := w.Dial(context.Background(), none, "udp", w.Server+":0")
			require.NoError(t, err)
			defer c.Close()
			return []any{c.RemoteAddr(), writeErr(c)}
		}, "<nil>"},
		{"dial UDP to the host itself by the wildcard, with a port and without", func(t *testing.T, w *world.World) []any {
			w = w.Self(t)
			var seen []any
			for _, addr := range []string{":", "0.0.0.0:0", ":9", "0.0.0.0:9"} {
				c, err := w.Dial(context.Background(), none, "udp4", addr)
				require.NoError(t, err)
				defer c.Close()
				seen = append(seen, c.RemoteAddr())
			}
			return seen
		}, "udp HOST:9"},
		{"dial a port that is no number", dialing("tcp", "HOST:0x50", none), "unknown port"},
		{"dial a port that overflows", dialing("udp", "HOST:99999999999999999999", none), "invalid port"},
		{"dial a service of TCP on UDP", dialing("udp", "HOST:smtp", none), "unknown port"},
		{"dial a zone of IPv6 on tcp4", dialing("tcp4", "[fe80::1%lo]:80", none), "no suitable address found"},
		{"dial an IPv4-mapped address on tcp6", dialing("tcp6", "[::ffff:HOST]:80", none), "no suitable address found"},
		{"dial an invalid name", dialing("tcp", "no..name:80", none), "no such host"},
		{"dial a name with a space", dialing("udp", "a b:80", none), "no such host"},
		{"dial UDP to nothing", dialing("udp", "", none), "missing address"},
		{"dial IP to nothing", dialing("ip4:icmp", "", none), "missing address"},
		{"dial on no network", dialing("", "HOST:80", none), "unknown network "},
		{"dial on a network in capitals", dialing("TCP", "HOST:80", none), "unknown network TCP"},
		{"dial on a protocol without a name", dialing("ip4:", "HOST", none), "unknown IP protocol specified"},
		{"dial on a protocol of too many digits", dialing("ip4:99999999", "HOST", none), "unknown IP protocol specified"},
		{"dial on a negative protocol", dialing("ip4:-1", "HOST", none), "unknown IP protocol specified"},
		{"dial on ip6 to an IPv4 literal", dialing("ip6:ipv6-icmp", "HOST", none), "no suitable address found"},
		{"dial on a Unix network", dialing("unix", "/nowhere/to/be/found", none), "connect: no such file or directory"},
		{"dial from a port that is chosen", reaching("tcp", "HOST:PORT", world.DialOptions{Local: &net.TCPAddr{}}), "tcp HOST:P"},
		{"dial from a nil address of TCP", reaching("tcp", "HOST:PORT", world.DialOptions{Local: (*net.TCPAddr)(nil)}), "tcp HOST:P"},
		{"dial UDP from an address of the wrong type", dialing("udp", "HOST:80", world.DialOptions{Local: &net.IPAddr{}}), "mismatched local address type"},
		{"dial TCP from a Unix address", dialing("tcp", "HOST:80", world.DialOptions{Local: &net.UnixAddr{Name: "x", Net: "unix"}}), "mismatched local address type"},
		{"dial from a port that is too large", dialing("tcp", "HOST:80", world.DialOptions{Local: &net.TCPAddr{Port: 65536}}), "bind: invalid argument"},
		{"dial from a taken port", func(t *testing.T, w *world.World) []any {
			w = w.Self(t)
			ln := w.Listener(t)
			_, err := w.Dial(context.Background(), world.DialOptions{Local: ln.Addr()}, "tcp", world.FreePort(t, w))
			return []any{err}
		}, "bind: address already in use"},
		{"dial with a context that is cancelled and past its deadline", func(t *testing.T, w *world.World) []any {
			ctx, cancel := context.WithDeadline(context.Background(), time.Unix(1, 0))
			cancel()
			_, err := w.Dial(ctx, none, "tcp", w.Server+":80")
			return []any{err}
		}, "i/o timeout"},
		{"dial UDP with a cancelled context", func(t *testing.T, w *world.World) []any {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			return dialed(w.Dial(ctx, none, "udp", w.Server+":80"))
		}, "operation was canceled"},
		{"dial with a cause of the cancellation", func(t *testing.T, w *world.World) []any {
			ctx, cancel := context.WithCancelCause(context.Background())
			cancel(errors.New("the cause"))
			return dialed(w.Dial(ctx, none, "tcp", w.Server+":80"))
		}, "operation was canceled"},
		{"dial with a Cancel that is closed", func(t *testing.T, w *world.World) []any {
			quit := make(chan struct{})
			close(quit)
			var err error
			// Try again if the dial ends before another goroutine has seen that quit is closed.
			for range 1000 {
				var c net.Conn
				if c, err = w.Dial(context.Background(), world.DialOptions{Cancel: quit}, "tcp", w.Server+":1"); err == nil {
					c.Close()
				} else if errors.Is(err, context.Canceled) {
					break
				}
			}
			return []any{err}
		}, "operation was canceled"},
		{"dial with no context", func(t *testing.T, w *world.World) (seen []any) {
			defer func() { seen = []any{recover()} }()
			var ctx context.Context
			w.Dial(ctx, none, "tcp", w.Server+":80")
			return nil
		}, `"nil context"`},
		{"dial to the broadcast address of the loopback", dialing("tcp", "127.255.255.255:80", none), "connect: network is unreachable"},
		{"dial from a group", func(t *testing.T, w *world.World) []any {
			o := world.DialOptions{Local: &net.TCPAddr{IP: net.IPv4(224, 0, 0, 1)}}
			return dialed(w.Dial(context.Background(), o, "tcp", w.Listener(t).Addr().String()))
		}, "tcp HOST:P"},
		{"dial from the broadcast address of the loopback, and from that of all networks", func(t *testing.T, w *world.World) []any {
			lo := w.Self(t)
			o := world.DialOptions{Local: &net.TCPAddr{IP: net.IPv4(127, 255, 255, 255)}}
			seen := dialed(lo.Dial(context.Background(), o, "tcp", lo.Listener(t).Addr().String()))
			o.Local = &net.TCPAddr{IP: net.IPv4bcast}
			return append(seen, dialed(w.Dial(context.Background(), o, "tcp", w.Listener(t).Addr().String()))...)
		}, "tcp HOST:P"},
		{"dial from a group to a closed port", func(t *testing.T, w *world.World) []any {
			o := world.DialOptions{Local: &net.TCPAddr{IP: net.IPv4(224, 0, 0, 1)}}
			return dialed(w.Dial(context.Background(), o, "tcp", world.FreePort(t, w)))
		}, "connect: connection refused"},
		{"DialTimeout that has time", func(t *testing.T, w *world.World) []any {
			return dialed(w.DialTimeout("tcp", w.Listener(t).Addr().String(), time.Minute))
		}, "tcp HOST:P"},
		{"DialTimeout without a limit", func(t *testing.T, w *world.World) []any {
			return dialed(w.DialTimeout("tcp", w.Listener(t).Addr().String(), 0))
		}, "tcp HOST:P"},
		{"DialTimeout that is over", func(t *testing.T, w *world.World) []any {
			return dialed(w.DialTimeout("tcp", w.Server+":80", time.Nanosecond))
		}, "i/o timeout"},
		{"dial with a Control function", func(t *testing.T, w *world.World) []any {
			o := world.DialOptions{Control: func(string, string, syscall.RawConn) error { return nil }}
			_, err := w.Dial(context.Background(), o, "tcp", world.FreePort(t, w))
			return []any{err}
		}, "connection refused"},
		{"dial with all settings of keep-alive, and Multipath TCP", func(t *testing.T, w *world.World) []any {
			ln := w.Listener(t)
			var seen []any
			for _, o := range []world.DialOptions{
				{KeepAlive: -1}, {KeepAlive: time.Hour}, {Config: net.KeepAliveConfig{Enable: true}},
				{Config: net.KeepAliveConfig{Enable: true, Idle: -1, Interval: -1, Count: -1}},
				{Config: net.KeepAliveConfig{Enable: true, Count: 1000}}, // too large, and therefore ignored
				{Multipath: true}, {Fallback: -1}, {Fallback: time.Hour},
			} {
				seen = append(seen, dialed(w.Dial(context.Background(), o, "tcp", ln.Addr().String()))...)
			}
			return seen
		}, "tcp HOST:P"},
	}
}

func typedDialBehaviours() []behaviour {
	ctx := context.Background()
	v4 := func(w *world.World) net.IP { return net.ParseIP(w.Server).To4() }
	v6 := net.ParseIP("2001:db8::1")
	// tcp, udp and ip return the observation of a typed dial.
	tcp := func(c world.TCPConn, err error) []any { return dialed(c, err) }
	udp := func(c world.UDPConn, err error) []any { return dialed(c, err) }
	ip := func(c world.IPConn, err error) []any { return dialed(c, err) }
	return []behaviour{
		{"DialTCP to a listener", func(t *testing.T, w *world.World) []any {
			return tcp(w.DialTCP("tcp", nil, w.Listener(t).Addr().(*net.TCPAddr)))
		}, "tcp HOST:P"},
		{"DialTCP to nowhere", func(t *testing.T, w *world.World) []any { return tcp(w.DialTCP("tcp", nil, nil)) }, "missing address"},
		{"DialTCP on UDP", func(t *testing.T, w *world.World) []any {
			return tcp(w.DialTCP("udp", nil, &net.TCPAddr{IP: v4(w), Port: 80}))
		}, "unknown network udp"},
		{"DialTCP to nowhere on an unknown network", func(t *testing.T, w *world.World) []any { return tcp(w.DialTCP("x", nil, nil)) }, "unknown network x"},
		{"DialTCP on tcp4 to IPv6", func(t *testing.T, w *world.World) []any {
			return tcp(w.DialTCP("tcp4", nil, &net.TCPAddr{IP: v6, Port: 80}))
		}, "non-IPv4 address"},
		{"DialTCP on tcp4 from IPv6", func(t *testing.T, w *world.World) []any {
			return tcp(w.DialTCP("tcp4", &net.TCPAddr{IP: v6}, &net.TCPAddr{IP: v4(w), Port: 80}))
		}, "non-IPv4 address"},
		{"DialTCP to an address of three bytes", func(t *testing.T, w *world.World) []any {
			return tcp(w.DialTCP("tcp4", nil, &net.TCPAddr{IP: net.IP{1, 2, 3}, Port: 80}))
		}, "non-IPv4 address"},
		{"DialTCP to a port that is too large", func(t *testing.T, w *world.World) []any {
			return tcp(w.DialTCP("tcp4", nil, &net.TCPAddr{IP: v4(w), Port: 65536 + 80}))
		}, "connect: invalid argument"},
		{"DialTCP to a negative port", func(t *testing.T, w *world.World) []any {
			return tcp(w.DialTCP("tcp4", nil, &net.TCPAddr{IP: v4(w), Port: -1}))
		}, "connect: invalid argument"},
		{"DialTCP that is refused", func(t *testing.T, w *world.World) []any {
			addr, err := net.ResolveTCPAddr("tcp", world.FreePort(t, w))
			require.NoError(t, err)
			return tcp(w.DialTCP("tcp", nil, addr))
		}, "connect: connection refused"},
		{"DialTCP from an address that is not ours", func(t *testing.T, w *world.World) []any {
			return tcp(w.DialTCP("tcp", &net.TCPAddr{IP: net.IP{203, 0, 113, 77}, Port: 7}, &net.TCPAddr{IP: v4(w), Port: 80}))
		}, "bind: cannot assign requested address"},
		{"DialTCP without an IP address, to a closed port", func(t *testing.T, w *world.World) []any {
			return tcp(w.DialTCP("tcp4", nil, &net.TCPAddr{Port: 1}))
		}, "connect: connection refused"},
		{"DialUDP to nowhere", func(t *testing.T, w *world.World) []any { return udp(w.DialUDP("udp", nil, nil)) }, "missing address"},
		{"DialUDP on TCP", func(t *testing.T, w *world.World) []any {
			return udp(w.DialUDP("tcp", nil, &net.UDPAddr{IP: v4(w), Port: 80}))
		}, "unknown network tcp"},
		{"DialUDP on udp4 to IPv6", func(t *testing.T, w *world.World) []any {
			return udp(w.DialUDP("udp4", nil, &net.UDPAddr{IP: v6, Port: 80}))
		}, "non-IPv4 address"},
		{"DialUDP to a port that is too large", func(t *testing.T, w *world.World) []any {
			return udp(w.DialUDP("udp4", nil, &net.UDPAddr{IP: v4(w), Port: 70000}))
		}, "connect: invalid argument"},
		{"DialUDP from a port that is too large", func(t *testing.T, w *world.World) []any {
			return udp(w.DialUDP("udp4", &net.UDPAddr{Port: 70000}, &net.UDPAddr{IP: v4(w), Port: 9}))
		}, "bind: invalid argument"},
		{"DialUDP from a taken port", func(t *testing.T, w *world.World) []any {
			c, _ := w.UdpPair(t)
			return udp(w.DialUDP("udp", c.LocalAddr().(*net.UDPAddr), &net.UDPAddr{IP: v4(w), Port: 9}))
		}, "bind: address already in use"},
		{"DialUDP without an IP address", func(t *testing.T, w *world.World) []any {
			return udp(w.DialUDP("udp4", nil, &net.UDPAddr{Port: 9}))
		}, ":9"},
		{"DialIP to nowhere", func(t *testing.T, w *world.World) []any { return ip(w.DialIP("ip4:icmp", nil, nil)) }, "missing address"},
		{"DialIP on TCP", func(t *testing.T, w *world.World) []any { return ip(w.DialIP("tcp", nil, &net.IPAddr{IP: v4(w)})) }, "unknown network tcp"},
		{"DialIP without a protocol", func(t *testing.T, w *world.World) []any { return ip(w.DialIP("ip4", nil, &net.IPAddr{IP: v4(w)})) }, "unknown network ip4"},
		{"Dialer.DialTCP to a listener", func(t *testing.T, w *world.World) []any {
			to := w.Listener(t).Addr().(*net.TCPAddr).AddrPort()
			return tcp(w.DialTCPAddr(ctx, world.DialOptions{}, "tcp", netip.AddrPort{}, to))
		}, "tcp HOST:P"},
		{"Dialer.DialTCP with a timeout that is over", func(t *testing.T, w *world.World) []any {
			to := netip.AddrPortFrom(netip.MustParseAddr(w.Server), 80)
			return tcp(w.DialTCPAddr(ctx, world.DialOptions{Timeout: -1}, "tcp", netip.AddrPort{}, to))
		}, "i/o timeout"},
		{"Dialer.DialTCP on an unknown network", func(t *testing.T, w *world.World) []any {
			to := netip.AddrPortFrom(netip.MustParseAddr(w.Server), 80)
			return tcp(w.DialTCPAddr(ctx, world.DialOptions{}, "tcp5", netip.AddrPort{}, to))
		}, "unknown network tcp5"},
		{"Dialer.DialTCP to an invalid address", func(t *testing.T, w *world.World) []any {
			return tcp(w.DialTCPAddr(ctx, world.DialOptions{}, "tcp4", netip.AddrPort{}, netip.AddrPort{}))
		}, "connect: connection refused"},
		{"Dialer.DialUDP to a socket", func(t *testing.T, w *world.World) []any {
			to := w.Packets(t).LocalAddr().(*net.UDPAddr).AddrPort()
			return udp(w.DialUDPAddr(ctx, world.DialOptions{}, "udp", netip.AddrPort{}, to))
		}, "udp HOST:P"},
		{"Dialer.DialUDP with a cancelled context", func(t *testing.T, w *world.World) []any {
			to := netip.AddrPortFrom(netip.MustParseAddr(w.Server), 9)
			gone, cancel := context.WithCancel(ctx)
			cancel()
			return udp(w.DialUDPAddr(gone, world.DialOptions{}, "udp", netip.AddrPort{}, to))
		}, "operation was canceled"},
		{"Dialer.DialIP on an unknown network", func(t *testing.T, w *world.World) []any {
			return ip(w.DialIPAddr(ctx, world.DialOptions{}, "ip4:nobody", netip.Addr{}, netip.MustParseAddr(w.Server)))
		}, "unknown IP protocol specified"},
	}
}
