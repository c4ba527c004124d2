package contract

import (
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/usernet/usernet/internal/world"
)

// closedBehaviours returns the behaviours of closed listeners, connections and sockets. The string after
// each function is its behaviour.want.
func closedBehaviours() []behaviour {
	return []behaviour{
		{"every method of a closed connection", func(t *testing.T, w *world.World) []any {
			c, _ := w.Pair(t)
			require.NoError(t, c.SetDeadline(time.Unix(1, 0)), "an expired deadline does not change the errors")
			require.NoError(t, c.Close())
			_, read := c.Read(make([]byte, 1))
			_, write := c.Write(make([]byte, 1))
			_, writeNothing := c.Write(nil)
			_, readFrom := c.ReadFrom(strings.NewReader("x"))
			_, writeTo := c.WriteTo(io.Discard)
			return []any{
				read, write, writeNothing, readFrom, writeTo,
				c.SetDeadline(time.Now()), c.SetReadDeadline(time.Now()), c.SetWriteDeadline(time.Now()),
				c.SetReadBuffer(4096), c.SetWriteBuffer(4096), c.SetNoDelay(false), c.SetLinger(1),
				c.SetKeepAlive(true), c.SetKeepAlivePeriod(time.Second), c.SetKeepAliveConfig(net.KeepAliveConfig{}),
				c.CloseRead(), c.CloseWrite(), c.Close(),
			}
		}, "use of closed network connection"},
		{"Close wakes a blocked read", func(t *testing.T, w *world.World) []any {
			c, _ := w.Pair(t)
			got := make(chan error)
			go func() {
				_, err := c.Read(make([]byte, 1))
				got <- err
			}()
			world.Settle()
			require.NoError(t, c.Close())
			return []any{<-got}
		}, "use of closed network connection"},
		{"Close wakes a blocked write", func(t *testing.T, w *world.World) []any {
			c, _ := w.Pair(t)
			got, data := make(chan error), make([]byte, 64<<20)
			go func() {
				_, err := c.Write(data)
				got <- err
			}()
			time.Sleep(20 * time.Millisecond) // longer than Settle, because Write must fill the buffers first
			require.NoError(t, c.Close())
			return []any{<-got}
		}, "use of closed network connection"},
		{"every method of a closed listener", func(t *testing.T, w *world.World) []any {
			ln, err := w.Listen("tcp4", w.Server+":0")
			require.NoError(t, err)
			got := make(chan error)
			go func() {
				_, err := ln.Accept()
				got <- err
			}()
			world.Settle()
			require.NoError(t, ln.Close())
			_, accept := ln.Accept()
			return []any{<-got, accept, ln.(interface{ SetDeadline(time.Time) error }).SetDeadline(time.Now()), ln.Close()}
		}, "use of closed network connection"},
		{"every method of a closed UDP socket", func(t *testing.T, w *world.World) []any {
			pc, err := w.ListenPacket("udp4", w.Server+":0")
			require.NoError(t, err)
			c := pc.(world.UDPConn)
			require.NoError(t, c.Close())
			to := &net.UDPAddr{IP: net.ParseIP(w.Server).To4(), Port: 9}
			_, read := c.Read(make([]byte, 1))
			_, _, readFrom := c.ReadFrom(make([]byte, 1))
			_, _, _, _, readMsg := c.ReadMsgUDP(make([]byte, 1), nil)
			_, write := c.Write([]byte("x"))
			_, writeTo := c.WriteTo([]byte("x"), to)
			_, writeToAddrPort := c.WriteToUDPAddrPort([]byte("x"), to.AddrPort())
			_, _, writeMsg := c.WriteMsgUDP([]byte("x"), nil, to)
			return []any{
				read, readFrom, readMsg, write, writeTo, writeToAddrPort, writeMsg,
				c.SetDeadline(time.Now()), c.SetReadBuffer(4096), c.SetWriteBuffer(4096), c.Close(),
			}
		}, "use of closed network connection"},
		{"one of many concurrent Closes of a connection succeeds", func(t *testing.T, w *world.World) []any {
			c, _ := w.Pair(t)
			return []any{concurrently(8, c.Close)}
		}, `"1 of 8 without an error"`},
		{"one of many concurrent Closes of a UDP socket succeeds", func(t *testing.T, w *world.World) []any {
			return []any{concurrently(8, w.Packets(t).Close)}
		}, `"1 of 8 without an error"`},
		{"Close wakes several reads", func(t *testing.T, w *world.World) []any {
			c, _ := w.Pair(t)
			first, second := after(func() error { return readErr(c) }), after(func() error { return readErr(c) })
			return []any{c.Close(), <-first, <-second}
		}, "use of closed network connection"},
		{"Close of a connection that was reset", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			reset(t, s)
			return []any{c.Close(), c.Close(), readErr(c), writeErr(c)}
		}, "use of closed network connection"},
		{"Close of a connection that was shut down", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			require.NoError(t, c.CloseWrite())
			require.NoError(t, s.Close())
			world.Settle()
			return []any{c.Close(), c.CloseWrite(), c.CloseRead(), c.Close()}
		}, "use of closed network connection"},
		{"Close wakes a blocked read of a UDP socket", func(t *testing.T, w *world.World) []any {
			c, s := w.UdpPair(t)
			first := after(func() error { return readErr(c) })
			second := after(func() error {
				_, _, err := s.ReadFrom(make([]byte, 1))
				return err
			})
			return []any{c.Close(), <-first, s.Close(), <-second}
		}, "use of closed network connection"},
		{"every method of a closed UDP socket that was connected", func(t *testing.T, w *world.World) []any {
			c, _ := w.UdpPair(t)
			to := c.RemoteAddr().(*net.UDPAddr)
			require.NoError(t, c.SetDeadline(time.Unix(1, 0)))
			require.NoError(t, c.Close())
			return append(udpMethods(c, to), c.RemoteAddr())
		}, "udp HOST:P"},
		{"every method of a closed UDP socket, with nil addresses", func(t *testing.T, w *world.World) []any {
			c := w.Packets(t)
			require.NoError(t, c.Close())
			return append(udpMethods(c, nil), c.LocalAddr())
		}, "udp HOST:P"},
		{"a closed UDP socket keeps its addresses", func(t *testing.T, w *world.World) []any {
			c, s := w.UdpPair(t)
			local, remote, bound := c.LocalAddr(), c.RemoteAddr(), s.LocalAddr()
			require.NoError(t, c.Close())
			require.NoError(t, s.Close())
			return []any{c.LocalAddr() == local, c.RemoteAddr() == remote, s.LocalAddr() == bound, s.RemoteAddr(), s.LocalAddr()}
		}, "udp HOST:P"},
	}
}

// zeroBehaviours returns the behaviours of zero connections and listeners, and of a nil listener. It leaves
// out nil connections, because those of package net panic.
func zeroBehaviours() []behaviour {
	return []behaviour{
		{"every method of a zero TCPConn", func(t *testing.T, w *world.World) []any { return tcpMethods(w.ZeroTCP) }, "invalid argument"},
		{"every method of a zero UDPConn", func(t *testing.T, w *world.World) []any {
			return append([]any{w.ZeroUDP.RemoteAddr()}, udpMethods(w.ZeroUDP, nil)...)
		}, "invalid argument"},
		{"every method of a zero IPConn", func(t *testing.T, w *world.World) []any { return ipMethods(w.ZeroIP, nil) }, "invalid argument"},
		{"every method of a nil TCPListener", func(t *testing.T, w *world.World) []any { return listenerMethods(w.NilListener) }, "invalid argument"},
		{"every method of a zero TCPListener", func(t *testing.T, w *world.World) []any { return listenerMethods(w.ZeroListener) }, "invalid argument"},
	}
}

// listenerMethods calls the methods of l that return an error. It returns their results.
func listenerMethods(l world.TCPListener) []any {
	c, accept := l.Accept()
	_, tcp := world.AcceptTCP(l)
	return []any{c, accept, tcp, l.SetDeadline(time.Time{}), l.Close()}
}

// tcpMethods calls every method of c and returns the results.
func tcpMethods(c world.TCPConn) []any {
	_, multipath := c.MultipathTCP()
	n, readFrom := c.ReadFrom(strings.NewReader("x"))
	m, writeTo := c.WriteTo(io.Discard)
	return []any{
		c.LocalAddr(), c.RemoteAddr(), readErr(c), writeErr(c), n, readFrom, m, writeTo, multipath,
		c.SetDeadline(time.Now()), c.SetReadDeadline(time.Now()), c.SetWriteDeadline(time.Now()),
		c.SetReadBuffer(4096), c.SetWriteBuffer(4096), c.SetNoDelay(false), c.SetLinger(1),
		c.SetKeepAlive(true), c.SetKeepAlivePeriod(time.Second), c.SetKeepAliveConfig(net.KeepAliveConfig{}),
		c.CloseRead(), c.CloseWrite(), c.Close(),
	}
}

// udpMethods calls every method of c and returns the results. It passes to, which may be nil, to the
// methods that take an address.
func udpMethods(c world.UDPConn, to *net.UDPAddr) []any {
	var addrPort netip.AddrPort
	var addr net.Addr
	if to != nil {
		addrPort, addr = to.AddrPort(), to
	}
	b := make([]byte, 1)
	_, a1, readFrom := c.ReadFrom(b)
	_, a2, readFromUDP := c.ReadFromUDP(b)
	_, a3, readFromAddrPort := c.ReadFromUDPAddrPort(b)
	_, _, _, _, readMsg := c.ReadMsgUDP(b, nil)
	_, _, _, _, readMsgAddrPort := c.ReadMsgUDPAddrPort(b, nil)
	_, writeTo := c.WriteTo(b, addr)
	_, writeToUDP := c.WriteToUDP(b, to)
	_, writeToAddrPort := c.WriteToUDPAddrPort(b, addrPort)
	_, _, writeMsg := c.WriteMsgUDP(b, nil, to)
	_, _, writeMsgAddrPort := c.WriteMsgUDPAddrPort(b, nil, addrPort)
	return []any{
		readErr(c), a1 == nil, readFrom, a2 == nil, readFromUDP, a3, readFromAddrPort, readMsg, readMsgAddrPort,
		writeErr(c), writeTo, writeToUDP, writeToAddrPort, writeMsg, writeMsgAddrPort,
		c.SetDeadline(time.Now()), c.SetReadDeadline(time.Now()), c.SetWriteDeadline(time.Now()),
		c.SetReadBuffer(4096), c.SetWriteBuffer(4096), c.Close(),
	}
}

// ipMethods calls every method of c and returns the results. It passes to, which may be nil, to the
// methods that take an address.
func ipMethods(c world.IPConn, to *net.IPAddr) []any {
	var addr net.Addr
	if to != nil {
		addr = to
	}
	b := make([]byte, 1)
	_, a1, readFrom := c.ReadFrom(b)
	_, a2, readFromIP := c.ReadFromIP(b)
	_, _, _, _, readMsg := c.ReadMsgIP(b, nil)
	_, writeTo := c.WriteTo(b, addr)
	_, writeToIP := c.WriteToIP(b, to)
	_, _, writeMsg := c.WriteMsgIP(b, nil, to)
	return []any{
		readErr(c), a1 == nil, readFrom, a2 == nil, readFromIP, readMsg, writeErr(c), writeTo, writeToIP, writeMsg,
		c.SetDeadline(time.Now()), c.SetReadDeadline(time.Now()), c.SetWriteDeadline(time.Now()),
		c.SetReadBuffer(4096), c.SetWriteBuffer(4096), c.Close(),
	}
}
