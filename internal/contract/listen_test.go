package contract

import (
	"context"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/usernet/usernet/internal/world"
)

// listening returns a behaviour of one Listen. HOST in address stands for the server's address.
func listening(network, address string) func(*testing.T, *world.World) []any {
	return func(t *testing.T, w *world.World) []any {
		ln, err := w.Listen(network, strings.ReplaceAll(address, "HOST", w.Server))
		if err != nil {
			return []any{err}
		}
		defer ln.Close()
		return []any{ln.Addr()}
	}
}

// bound returns the address of a packet socket, or the error.
func bound(c net.PacketConn, err error) []any {
	if err != nil {
		return []any{err}
	}
	defer c.Close()
	return []any{c.(net.Conn).RemoteAddr(), c.LocalAddr()}
}

// binding returns a behaviour of one ListenPacket. HOST in address stands for the server's address.
func binding(network, address string) func(*testing.T, *world.World) []any {
	return func(t *testing.T, w *world.World) []any {
		return bound(w.ListenPacket(network, strings.ReplaceAll(address, "HOST", w.Server)))
	}
}

func listenBehaviours() []behaviour {
	return []behaviour{
		{"listen on a taken port", func(t *testing.T, w *world.World) []any {
			ln, err := w.Listen("tcp4", w.Server+":0")
			require.NoError(t, err)
			defer ln.Close()
			_, err = w.Listen("tcp4", ln.Addr().String())
			return []any{err}
		}, "bind: address already in use"},
		{"bind a taken UDP port", func(t *testing.T, w *world.World) []any {
			c, err := w.ListenPacket("udp4", w.Server+":0")
			require.NoError(t, err)
			defer c.Close()
			_, err = w.ListenPacket("udp4", c.LocalAddr().String())
			return []any{err}
		}, "bind: address already in use"},
		{"listen on an address that is not ours", listening("tcp", "203.0.113.77:80"), "bind: cannot assign requested address"},
		{"bind a UDP address that is not ours", binding("udp", "203.0.113.77:80"), "bind: cannot assign requested address"},
		{"listen on a group", listening("tcp", "224.0.0.1:0"), "tcp 224.0.0.1:P"},
		{"listen on the broadcast address", listening("tcp", "255.255.255.255:0"), "tcp 255.255.255.255:P"},
		{"listen on the broadcast address of the loopback", listening("tcp", "127.255.255.255:0"), "tcp 127.255.255.255:P"},
		{"listen on a packet network", listening("udp", "HOST:0"), "unexpected address type"},
		{"bind a packet socket on a stream network", binding("tcp", "HOST:0"), "unexpected address type"},
		{"listen on an unknown network", listening("nope", "HOST:0"), "unknown network nope"},
		{"listen without a port", listening("tcp", "HOST"), "missing port in address"},
		{"listen on a port that is too large", listening("tcp", "HOST:70000"), "invalid port"},
		{"bind IP without a protocol", binding("ip4", "HOST"), "unknown network ip4"},
		{"accept past the deadline", func(t *testing.T, w *world.World) []any {
			ln, err := w.Listen("tcp4", w.Server+":0")
			require.NoError(t, err)
			defer ln.Close()
			require.NoError(t, ln.(interface{ SetDeadline(time.Time) error }).SetDeadline(time.Now().Add(-time.Second)))
			_, err = ln.Accept()
			return []any{err}
		}, "i/o timeout"},
		{"listen on tcp4 on all addresses", listening("tcp4", ":0"), "tcp 0.0.0.0:P"},
		{"listen on tcp4 on no address", listening("tcp4", ""), "tcp 0.0.0.0:P"},
		{"listen on tcp4 on the wildcard without a port", listening("tcp4", "0.0.0.0:"), "tcp 0.0.0.0:P"},
		{"listen on tcp4 on IPv6's wildcard", listening("tcp4", "[::]:0"), "tcp 0.0.0.0:P"},
		{"listen on tcp on all addresses", listening("tcp", ":0"), ":P"},
		{"listen on one address", listening("tcp", "HOST:0"), "tcp HOST:P"},
		{"listen on an IPv4-mapped address", listening("tcp", "[::ffff:HOST]:0"), "tcp HOST:P"},
		{"listen on localhost", listening("tcp4", "localhost:0"), "tcp HOST:P"},
		{"listen on IPv6 on tcp4", listening("tcp4", "[::1]:0"), "no suitable address found"},
		{"listen on an invalid name", listening("tcp", "no..name:0"), "no such host"},
		{"listen on an unknown service", listening("tcp", "HOST:nothing"), "unknown port"},
		{"listen on a negative port", listening("tcp", "HOST:-5"), "invalid port"},
		{"listen on a network of IP", listening("ip4:icmp", "HOST"), "unexpected address type"},
		{"bind udp4 to all addresses", binding("udp4", ":0"), "udp 0.0.0.0:P"},
		{"bind udp4 to no address", binding("udp4", ""), "udp 0.0.0.0:P"},
		{"bind udp4 to one address", binding("udp4", "HOST:0"), "udp HOST:P"},
		{"bind udp4 to IPv6", binding("udp4", "[::1]:0"), "no suitable address found"},
		{"bind UDP to a group is to all addresses", binding("udp4", "224.0.0.251:0"), "udp 0.0.0.0:P"},
		{"bind UDP to the broadcast address", binding("udp4", "255.255.255.255:0"), "udp 255.255.255.255:P"},
		{"bind UDP on an unknown network", binding("udp5", "HOST:0"), "unknown network udp5"},
		{"bind IP to an unknown protocol", binding("ip4:nobody", "HOST"), "unknown IP protocol specified"},
		{"bind UDP without a port", binding("udp", "HOST"), "missing port in address"},
		{"listen on one address where all are taken", func(t *testing.T, w *world.World) []any {
			ln, err := w.Listen("tcp4", ":0")
			require.NoError(t, err)
			defer ln.Close()
			_, port, _ := net.SplitHostPort(ln.Addr().String())
			return listening("tcp4", "HOST:"+port)(t, w)
		}, "bind: address already in use"},
		{"listen on all addresses where one is taken", func(t *testing.T, w *world.World) []any {
			_, port, _ := net.SplitHostPort(w.Listener(t).Addr().String())
			return listening("tcp4", ":"+port)(t, w)
		}, "bind: address already in use"},
		{"TCP and UDP share the number of a port", func(t *testing.T, w *world.World) []any {
			_, port, _ := net.SplitHostPort(w.Listener(t).Addr().String())
			return binding("udp4", "HOST:"+port)(t, w)
		}, "udp HOST:P"},
		{"two addresses share the number of a port", func(t *testing.T, w *world.World) []any {
			w = w.Self(t)
			_, port, _ := net.SplitHostPort(w.Listener(t).Addr().String())
			return listening("tcp4", "127.0.0.2:"+port)(t, w)
		}, "tcp 127.0.0.2:P"},
		{"listen again after Close", func(t *testing.T, w *world.World) []any {
			ln := w.Listener(t)
			c := w.Connect(t, ln)
			s, err := ln.Accept()
			require.NoError(t, err)
			defer s.Close()
			require.NoError(t, ln.Close())
			_, port, _ := net.SplitHostPort(ln.Addr().String())
			// The accepted connection still works.
			return append([]any{writeErr(c), readErr(s)}, listening("tcp4", "HOST:"+port)(t, w)...)
		}, "tcp HOST:P"},
		{"listen on the local port of a connection", func(t *testing.T, w *world.World) []any {
			w = w.Self(t)
			c, _ := w.Pair(t)
			return listening("tcp4", c.LocalAddr().String())(t, w)
		}, "bind: address already in use"},
		{"bind a UDP port again after Close", func(t *testing.T, w *world.World) []any {
			c := w.Packets(t)
			require.NoError(t, c.Close())
			return binding("udp4", c.LocalAddr().String())(t, w)
		}, "udp HOST:P"},
		{"bind all addresses of UDP where one is taken", func(t *testing.T, w *world.World) []any {
			_, port, _ := net.SplitHostPort(w.Packets(t).LocalAddr().String())
			return binding("udp4", ":"+port)(t, w)
		}, "bind: address already in use"},
		{"ListenTCP on no address", func(t *testing.T, w *world.World) []any {
			ln, err := w.BindTCP("tcp4", nil)
			require.NoError(t, err)
			defer ln.Close()
			return []any{ln.Addr()}
		}, "tcp 0.0.0.0:P"},
		{"ListenTCP on UDP, and on a port that is too large, and on IPv6", func(t *testing.T, w *world.World) []any {
			_, network := w.BindTCP("udp", nil)
			_, large := w.BindTCP("tcp4", &net.TCPAddr{Port: 65536})
			_, negative := w.BindTCP("tcp4", &net.TCPAddr{Port: -1})
			_, family := w.BindTCP("tcp4", &net.TCPAddr{IP: net.IPv6loopback})
			return []any{network, large, negative, family}
		}, "non-IPv4 address"},
		{"ListenUDP on no address", func(t *testing.T, w *world.World) []any {
			c, err := w.BindUDP("udp4", nil)
			require.NoError(t, err)
			return bound(c, err)
		}, "udp 0.0.0.0:P"},
		{"ListenUDP on TCP, and on a port that is too large, and on IPv6", func(t *testing.T, w *world.World) []any {
			_, network := w.BindUDP("tcp", nil)
			_, large := w.BindUDP("udp4", &net.UDPAddr{Port: 65536})
			_, negative := w.BindUDP("udp4", &net.UDPAddr{Port: -1})
			_, family := w.BindUDP("udp4", &net.UDPAddr{IP: net.IPv6loopback})
			return []any{network, large, negative, family}
		}, "non-IPv4 address"},
		{"ListenIP without a protocol, and on UDP", func(t *testing.T, w *world.World) []any {
			_, protocol := w.BindIP("ip4", nil)
			_, network := w.BindIP("udp", nil)
			return []any{protocol, network}
		}, "unknown network udp"},
		{"ListenMulticastUDP without a group, and on TCP", func(t *testing.T, w *world.World) []any {
			_, none := w.ListenGroup("udp4", nil, nil)
			_, empty := w.ListenGroup("udp4", nil, &net.UDPAddr{Port: 7})
			_, network := w.ListenGroup("tcp", nil, &net.UDPAddr{IP: net.IPv4allsys})
			return []any{none, empty, network}
		}, "unknown network tcp"},
		{"two sockets of a group share a port", func(t *testing.T, w *world.World) []any {
			lo := &net.Interface{Index: 1, Name: "lo"}
			group := &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251)}
			first, err := w.ListenGroup("udp4", lo, group)
			require.NoError(t, err)
			defer first.Close()
			group.Port = first.LocalAddr().(*net.UDPAddr).Port
			second, err := w.ListenGroup("udp4", lo, group)
			if err != nil {
				return []any{err}
			}
			return append([]any{first.LocalAddr()}, bound(second, err)...)
		}, "udp 0.0.0.0:P"},
		{"a socket of a group and one that is bound to the port", func(t *testing.T, w *world.World) []any {
			lo := &net.Interface{Index: 1, Name: "lo"}
			c, err := w.ListenGroup("udp4", lo, &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251)})
			require.NoError(t, err)
			defer c.Close()
			_, port, _ := net.SplitHostPort(c.LocalAddr().String())
			return binding("udp4", ":"+port)(t, w)
		}, "bind: address already in use"},
		{"ListenMulticastUDP on an interface that is not there", func(t *testing.T, w *world.World) []any {
			_, err := w.ListenGroup("udp4", &net.Interface{Index: 9999, Name: "none"}, &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251), Port: 7779})
			return []any{err != nil}
		}, "true"},
		{"a ListenConfig with all settings", func(t *testing.T, w *world.World) []any {
			var seen []any
			for _, o := range []world.ListenOptions{
				{}, {KeepAlive: -1}, {KeepAlive: time.Hour}, {Config: net.KeepAliveConfig{Enable: true, Count: 3}}, {Multipath: true},
			} {
				lc := w.ListenConfig(o)
				ln, err := lc.Listen(context.Background(), "tcp4", w.Server+":0")
				require.NoError(t, err)
				c := w.Connect(t, ln)
				s, err := ln.Accept()
				require.NoError(t, err)
				seen = append(seen, lc.MultipathTCP(), writeErr(s), readErr(c), s.Close(), ln.Close(), ln.Addr())
			}
			return seen
		}, "tcp HOST:P"},
		{"a ListenConfig with a cancelled context", func(t *testing.T, w *world.World) []any {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			ln, err := w.ListenConfig(world.ListenOptions{}).Listen(ctx, "tcp4", w.Server+":0")
			if err == nil {
				ln.Close()
			}
			return append([]any{err}, bound(w.ListenConfig(world.ListenOptions{}).ListenPacket(ctx, "udp4", w.Server+":0"))...)
		}, "udp HOST:P"},
		{"a ListenConfig with a Control function", func(t *testing.T, w *world.World) []any {
			lc := w.ListenConfig(world.ListenOptions{Control: func(string, string, syscall.RawConn) error { return nil }})
			ln, err := lc.Listen(context.Background(), "tcp4", w.Server+":0")
			if err == nil {
				ln.Close()
			}
			return append([]any{err}, bound(lc.ListenPacket(context.Background(), "udp4", w.Server+":0"))...)
		}, "udp HOST:P"},
	}
}

func acceptBehaviours() []behaviour {
	return []behaviour{
		{"Accept shows both ends", func(t *testing.T, w *world.World) []any {
			ln := w.Listener(t)
			c := w.Connect(t, ln)
			s, err := ln.Accept()
			require.NoError(t, err)
			defer s.Close()
			_, tcp := s.(world.TCPConn)
			return []any{tcp, s.LocalAddr().String() == ln.Addr().String(), s.RemoteAddr().String() == c.LocalAddr().String(), s.RemoteAddr(), s.LocalAddr()}
		}, "tcp HOST:P"},
		{"AcceptTCP on a wildcard shows the address that was dialed", func(t *testing.T, w *world.World) []any {
			ln, err := w.BindTCP("tcp4", nil)
			require.NoError(t, err)
			defer ln.Close()
			_, port, _ := net.SplitHostPort(ln.Addr().String())
			c, err := w.Dial(context.Background(), world.DialOptions{}, "tcp", net.JoinHostPort(w.Server, port))
			require.NoError(t, err)
			defer c.Close()
			s, err := world.AcceptTCP(ln)
			require.NoError(t, err)
			defer s.Close()
			return []any{s.LocalAddr()}
		}, "tcp HOST:P"},
		{"connections are accepted in the order in which they came", func(t *testing.T, w *world.World) []any {
			ln := w.Listener(t)
			var clients []net.Conn
			for range 5 {
				clients = append(clients, w.Connect(t, ln))
			}
			var seen []any
			for _, c := range clients {
				s, err := ln.Accept()
				require.NoError(t, err)
				seen = append(seen, s.RemoteAddr().String() == c.LocalAddr().String())
				s.Close()
			}
			return seen
		}, "true"},
		{"Accept past the deadline though a connection waits", func(t *testing.T, w *world.World) []any {
			ln := w.Listener(t)
			w.Connect(t, ln)
			world.Settle()
			require.NoError(t, ln.SetDeadline(time.Unix(1, 0)))
			_, late := ln.Accept()
			require.NoError(t, ln.SetDeadline(time.Time{}))
			s, err := ln.Accept()
			require.NoError(t, err)
			return []any{s.Close(), late}
		}, "i/o timeout"},
		{"a deadline wakes a blocked Accept", func(t *testing.T, w *world.World) []any {
			ln := w.Listener(t)
			require.NoError(t, ln.SetDeadline(time.Now().Add(10*time.Millisecond)))
			c, err := ln.Accept()
			return []any{c, err}
		}, "i/o timeout"},
		{"a deadline that is moved into the past wakes a blocked Accept", func(t *testing.T, w *world.World) []any {
			ln := w.Listener(t)
			require.NoError(t, ln.SetDeadline(time.Now().Add(time.Hour)))
			got := after(func() error {
				_, err := ln.Accept()
				return err
			})
			return []any{ln.SetDeadline(time.Unix(1, 0)), <-got}
		}, "i/o timeout"},
		{"Close wakes all blocked Accepts", func(t *testing.T, w *world.World) []any {
			ln := w.Listener(t)
			accept := func() error {
				c, err := world.AcceptTCP(ln)
				if c != nil {
					c.Close()
				}
				return err
			}
			first, second := after(accept), after(accept)
			return []any{ln.Close(), <-first, <-second}
		}, "use of closed network connection"},
		{"methods of a closed listener whose deadline is over", func(t *testing.T, w *world.World) []any {
			ln := w.Listener(t)
			require.NoError(t, ln.SetDeadline(time.Unix(1, 0)))
			require.NoError(t, ln.Close())
			_, accept := ln.Accept()
			_, tcp := world.AcceptTCP(ln)
			return []any{ln.Addr(), accept, tcp, ln.SetDeadline(time.Time{}), ln.Close()}
		}, "use of closed network connection"},
		{"one of many concurrent Closes of a listener succeeds", func(t *testing.T, w *world.World) []any {
			ln := w.Listener(t)
			return []any{concurrently(8, ln.Close)}
		}, `"1 of 8 without an error"`},
		{"a connection that was reset before it was accepted", func(t *testing.T, w *world.World) []any {
			ln := w.Listener(t)
			reset(t, w.Connect(t, ln))
			s, err := ln.Accept()
			require.NoError(t, err)
			defer s.Close()
			return []any{s.RemoteAddr(), readErr(s), writeErr(s), readErr(s)}
		}, "EOF"},
		{"data that came before Accept, and its end", func(t *testing.T, w *world.World) []any {
			ln := w.Listener(t)
			c := w.Connect(t, ln)
			require.NoError(t, writeErr(c))
			require.NoError(t, c.Close())
			world.Settle()
			s, err := ln.Accept()
			require.NoError(t, err)
			defer s.Close()
			return append(all(s), s.RemoteAddr())
		}, "tcp HOST:P"},
		{"a dial after the listener's Close", func(t *testing.T, w *world.World) []any {
			ln := w.Listener(t)
			c := w.Connect(t, ln)
			s, err := ln.Accept()
			require.NoError(t, err)
			defer s.Close()
			require.NoError(t, ln.Close())
			_, err = w.Dial(context.Background(), world.DialOptions{}, "tcp", ln.Addr().String())
			return []any{writeErr(s), readErr(c), err}
		}, "connect: connection refused"},
		{"a write on a connection that was never accepted", func(t *testing.T, w *world.World) []any {
			ln := w.Listener(t)
			c := w.Connect(t, ln)
			first := writeErr(c)
			require.NoError(t, ln.Close())
			world.Settle()
			return []any{first, writeErr(c), writeErr(c), readErr(c)}
		}, "EOF"},
		{"a second listener on a port does not disturb the first", func(t *testing.T, w *world.World) []any {
			ln := w.Listener(t)
			_, taken := w.Listen("tcp4", ln.Addr().String())
			c := w.Connect(t, ln)
			s, err := ln.Accept()
			require.NoError(t, err)
			defer s.Close()
			return []any{taken, writeErr(c), readErr(s)}
		}, "<nil>"},
	}
}
