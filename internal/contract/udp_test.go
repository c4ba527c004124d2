package contract

import (
	"bytes"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/usernet/usernet/internal/world"
)

func udpBehaviours() []behaviour {
	// dial returns a socket that is connected to a port. The port is closed if open is false.
	dial := func(t *testing.T, w *world.World, open bool) world.UDPConn {
		c, s := w.UdpPair(t)
		if !open {
			require.NoError(t, s.Close())
		}
		return c
	}
	return []behaviour{
		{"a read past the deadline of a UDP socket", func(t *testing.T, w *world.World) []any {
			c := w.Packets(t)
			require.NoError(t, c.SetReadDeadline(time.Unix(1, 0)))
			_, _, from := c.ReadFrom(make([]byte, 1))
			_, _, _, _, msg := c.ReadMsgUDPAddrPort(make([]byte, 1), nil)
			_, err := c.Read(make([]byte, 1))
			return []any{from, msg, err}
		}, "i/o timeout"},
		{"a read after a port unreachable", func(t *testing.T, w *world.World) []any {
			c := dial(t, w, false)
			_, first := c.Write([]byte("x"))
			require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Second)))
			_, err := c.Read(make([]byte, 1))
			return []any{first, err}
		}, "read: connection refused"},
		{"a write after a port unreachable, once", func(t *testing.T, w *world.World) []any {
			c := dial(t, w, false)
			_, first := c.Write([]byte("x"))
			_, second := c.Write([]byte("x"))
			return []any{first, second}
		}, "write: connection refused"},
		{"ReadFrom after a port unreachable", func(t *testing.T, w *world.World) []any {
			c := dial(t, w, false)
			_, first := c.Write([]byte("x"))
			_, _, err := c.ReadFrom(make([]byte, 1))
			return []any{first, err}
		}, "recvfrom: connection refused"},
		{"ReadMsgUDP after a port unreachable", func(t *testing.T, w *world.World) []any {
			c := dial(t, w, false)
			_, first := c.Write([]byte("x"))
			_, _, _, _, err := c.ReadMsgUDP(make([]byte, 1), nil)
			return []any{first, err}
		}, "recvmsg: connection refused"},
		{"WriteTo on a connected socket", func(t *testing.T, w *world.World) []any {
			c := dial(t, w, true)
			to := c.RemoteAddr().(*net.UDPAddr)
			_, err := c.WriteTo([]byte("x"), to)
			_, addrPort := c.WriteToUDPAddrPort([]byte("x"), to.AddrPort())
			_, _, msg := c.WriteMsgUDP([]byte("x"), nil, to)
			_, _, msgAddrPort := c.WriteMsgUDPAddrPort([]byte("x"), nil, to.AddrPort())
			_, _, fine := c.WriteMsgUDP([]byte("x"), nil, nil)
			return []any{err, addrPort, msg, fine, msgAddrPort}
		}, "use of WriteTo with pre-connected connection"},
		{"Write on a socket that is not connected", func(t *testing.T, w *world.World) []any {
			_, err := w.Packets(t).Write([]byte("x"))
			return []any{err}
		}, "write: destination address required"},
		{"WriteTo an address of another type", func(t *testing.T, w *world.World) []any {
			c := w.Packets(t)
			_, none := c.WriteTo([]byte("x"), nil)
			_, err := c.WriteTo([]byte("x"), &net.TCPAddr{IP: net.ParseIP(w.Server), Port: 1})
			return []any{none, err}
		}, "invalid argument"},
		{"WriteTo a missing address", func(t *testing.T, w *world.World) []any {
			c := w.Packets(t)
			_, err := c.WriteToUDP([]byte("x"), nil)
			_, addrPort := c.WriteToUDPAddrPort([]byte("x"), netip.AddrPort{})
			_, _, msg := c.WriteMsgUDP([]byte("x"), nil, nil)
			return []any{addrPort, msg, err}
		}, "missing address"},
		{"WriteTo an IPv6 address on udp4", func(t *testing.T, w *world.World) []any {
			c := w.Packets(t)
			to := &net.UDPAddr{IP: net.ParseIP("2001:db8::1"), Port: 9}
			_, err := c.WriteTo([]byte("x"), to)
			_, addrPort := c.WriteToUDPAddrPort([]byte("x"), to.AddrPort())
			return []any{addrPort, err}
		}, "non-IPv4 address"},
		{"WriteTo port 0", func(t *testing.T, w *world.World) []any {
			c := w.Packets(t)
			_, err := c.WriteTo([]byte("x"), &net.UDPAddr{IP: net.ParseIP(w.Server), Port: 0})
			return []any{err}
		}, "sendto: invalid argument"},
		{"a datagram that is too large", func(t *testing.T, w *world.World) []any {
			c := dial(t, w, true)
			_, most := c.Write(make([]byte, 65507)) // 65535 without the IP and UDP headers
			_, err := c.Write(make([]byte, 65508))
			return []any{most, err}
		}, "write: message too long"},
	}
}

// received returns the results of a read of a datagram.
func received(b []byte, n int, from any, err error) []any {
	return []any{n, b[:max(n, 0)], from, err}
}

// datagramBehaviours returns the behaviours of reads and writes.
func datagramBehaviours() []behaviour {
	return []behaviour{
		{"one datagram is one read", func(t *testing.T, w *world.World) []any {
			c, s := w.UdpPair(t)
			return slices.Concat(write(c, "one"), write(c, "two"), read(s, 100), read(s, 100))
		}, "<nil>"},
		{"Read cuts a datagram short without an error", func(t *testing.T, w *world.World) []any {
			c, s := w.UdpPair(t)
			return slices.Concat(write(c, "too long"), write(c, "next"), read(s, 3), read(s, 100))
		}, "<nil>"},
		{"ReadFrom cuts a datagram short without an error", func(t *testing.T, w *world.World) []any {
			c, s := w.UdpPair(t)
			require.NoError(t, writeAll(c, "too long"))
			b := make([]byte, 3)
			n, from, err := s.ReadFrom(b)
			return received(b, n, from, err)
		}, "<nil>"},
		// The flag is MSG_TRUNC, 32.
		{"ReadMsgUDP says that a datagram was cut short", func(t *testing.T, w *world.World) []any {
			c, s := w.UdpPair(t)
			require.NoError(t, writeAll(c, "too long"))
			b := make([]byte, 3)
			n, oobn, flags, from, err := s.ReadMsgUDP(b, make([]byte, 100))
			return append(received(b, n, from, err), oobn, flags)
		}, "32"},
		{"ReadMsgUDP of a datagram that fits", func(t *testing.T, w *world.World) []any {
			c, s := w.UdpPair(t)
			require.NoError(t, writeAll(c, "fit"))
			b := make([]byte, 3)
			n, oobn, flags, from, err := s.ReadMsgUDP(b, nil)
			return append(received(b, n, from, err), oobn, flags)
		}, "0"},
		{"ReadMsgUDPAddrPort says that a datagram was cut short", func(t *testing.T, w *world.World) []any {
			c, s := w.UdpPair(t)
			require.NoError(t, writeAll(c, "too long"))
			b := make([]byte, 3)
			n, oobn, flags, from, err := s.ReadMsgUDPAddrPort(b, nil)
			return append(received(b, n, from, err), oobn, flags)
		}, "32"},
		{"ReadMsgUDP into no buffer", func(t *testing.T, w *world.World) []any {
			c, s := w.UdpPair(t)
			require.NoError(t, writeAll(c, "first"))
			require.NoError(t, writeAll(c, "second"))
			n, oobn, flags, from, err := s.ReadMsgUDP(nil, nil)
			return append([]any{n, oobn, flags, from, err}, read(s, 100)...)
		}, "<nil>"},
		{"ReadFromUDP and ReadFromUDPAddrPort", func(t *testing.T, w *world.World) []any {
			c, s := w.UdpPair(t)
			require.NoError(t, writeAll(c, "first"))
			require.NoError(t, writeAll(c, "second"))
			b := make([]byte, 100)
			n, from, err := s.ReadFromUDP(b)
			seen := received(bytes.Clone(b), n, from, err)
			n, addrPort, err := s.ReadFromUDPAddrPort(b)
			return append(append(seen, received(b, n, addrPort, err)...), addrPort.Addr().Is4(), addrPort.String() == from.String())
		}, "true"},
		{"an empty datagram", func(t *testing.T, w *world.World) []any {
			c, s := w.UdpPair(t)
			return slices.Concat(write(c, ""), write(c, "x"), read(s, 100), read(s, 100))
		}, "<nil>"},
		{"an empty datagram by WriteTo", func(t *testing.T, w *world.World) []any {
			c, s := w.UdpPair(t)
			n, err := s.WriteTo(nil, c.LocalAddr())
			seen := []any{n, err}
			b := make([]byte, 10)
			n, from, err := c.ReadFrom(b)
			return append(seen, received(b, n, from, err)...)
		}, "<nil>"},
		{"an empty Read of a UDP socket while nothing waits", func(t *testing.T, w *world.World) []any {
			c, s := w.UdpPair(t)
			require.NoError(t, s.SetReadDeadline(time.Now().Add(time.Second)))
			seen := read(s, 0)
			require.NoError(t, writeAll(c, "stays"))
			return slices.Concat(seen, read(s, 0), read(s, 100))
		}, "<nil>"},
		{"an empty Read of a UDP socket past the deadline, and after Close", func(t *testing.T, w *world.World) []any {
			c := w.Packets(t)
			require.NoError(t, c.SetReadDeadline(time.Unix(1, 0)))
			seen := read(c, 0)
			require.NoError(t, c.Close())
			return append(seen, read(c, 0)...)
		}, "use of closed network connection"},
		{"an empty ReadFrom takes a datagram away", func(t *testing.T, w *world.World) []any {
			c, s := w.UdpPair(t)
			require.NoError(t, writeAll(c, "gone"))
			require.NoError(t, writeAll(c, "next"))
			n, from, err := s.ReadFrom(nil)
			return append([]any{n, from, err}, read(s, 100)...)
		}, "<nil>"},
		{"the largest datagram", func(t *testing.T, w *world.World) []any {
			c, s := w.UdpPair(t)
			data := bytes.Repeat([]byte("0123456789"), 6551)[:65507]
			n, err := c.Write(data)
			b := make([]byte, 1<<16)
			m, from, readErr := s.ReadFromUDP(b)
			return []any{n, err, m, readErr, from, bytes.Equal(b[:m], data)}
		}, "true"},
		{"an answer to a datagram", func(t *testing.T, w *world.World) []any {
			c, s := w.UdpPair(t)
			require.NoError(t, writeAll(c, "question"))
			b := make([]byte, 100)
			_, from, err := s.ReadFrom(b)
			require.NoError(t, err)
			n, err := s.WriteTo([]byte("answer"), from)
			return append([]any{n, err}, read(c, 100)...)
		}, "<nil>"},
		{"answers by all ways of writing", func(t *testing.T, w *world.World) []any {
			c, s := w.UdpPair(t)
			to := c.LocalAddr().(*net.UDPAddr)
			mapped := netip.AddrPortFrom(netip.AddrFrom16(to.AddrPort().Addr().As16()), uint16(to.Port))
			n1, err1 := s.WriteToUDP([]byte("1"), to)
			n2, err2 := s.WriteToUDPAddrPort([]byte("2"), to.AddrPort())
			n3, _, err3 := s.WriteMsgUDP([]byte("3"), nil, to)
			n4, _, err4 := s.WriteMsgUDPAddrPort([]byte("4"), nil, to.AddrPort())
			n5, err5 := s.WriteToUDPAddrPort([]byte("5"), mapped)
			n6, err6 := s.WriteTo([]byte("6"), &net.UDPAddr{IP: to.IP.To16(), Port: to.Port})
			seen := []any{n1, err1, n2, err2, n3, err3, n4, err4, n5, err5, n6, err6}
			for range 6 {
				seen = append(seen, read(c, 10)...)
			}
			return seen
		}, "<nil>"},
		{"all ways of reading on a connected socket", func(t *testing.T, w *world.World) []any {
			c, s := w.UdpPair(t)
			for range 4 {
				_, err := s.WriteTo([]byte("x"), c.LocalAddr())
				require.NoError(t, err)
			}
			b := make([]byte, 10)
			_, a1, err1 := c.ReadFrom(b)
			_, a2, err2 := c.ReadFromUDPAddrPort(b)
			_, _, _, a3, err3 := c.ReadMsgUDP(b, nil)
			return append([]any{a1, err1, a2, err2, a3, err3}, read(c, 10)...)
		}, "<nil>"},
		{"a connected socket receives only from its peer", func(t *testing.T, w *world.World) []any {
			c, s := w.UdpPair(t)
			other := w.Packets(t)
			_, err := other.WriteTo([]byte("other"), c.LocalAddr())
			seen := []any{err}
			_, err = s.WriteTo([]byte("peer"), c.LocalAddr())
			return append(append(seen, err), read(c, 100)...)
		}, "<nil>"},
		{"a datagram to a wildcard socket", func(t *testing.T, w *world.World) []any {
			s, err := w.BindUDP("udp4", nil)
			require.NoError(t, err)
			defer s.Close()
			to := &net.UDPAddr{IP: net.ParseIP(w.Server), Port: s.LocalAddr().(*net.UDPAddr).Port}
			c, err := w.DialUDP("udp", nil, to)
			require.NoError(t, err)
			defer c.Close()
			require.NoError(t, writeErr(c))
			b := make([]byte, 10)
			n, from, err := s.ReadFrom(b)
			seen := received(b, n, from, err)
			_, err = s.WriteTo([]byte("back"), from)
			return append(append(seen, err), read(c, 10)...)
		}, "<nil>"},
		{"a datagram to no address is to the host itself", func(t *testing.T, w *world.World) []any {
			w = w.Self(t)
			s := w.Packets(t)
			port := s.LocalAddr().(*net.UDPAddr).Port
			n, err := s.WriteTo([]byte("nil"), &net.UDPAddr{Port: port})
			m, zero := s.WriteTo([]byte("zero"), &net.UDPAddr{IP: net.IPv4zero, Port: port})
			return slices.Concat([]any{n, err, m, zero}, read(s, 10), read(s, 10))
		}, "<nil>"},
		{"a datagram to the loopback's broadcast address", func(t *testing.T, w *world.World) []any {
			w = w.Self(t)
			s, err := w.ListenPacket("udp4", ":0")
			require.NoError(t, err)
			defer s.Close()
			n, err := s.WriteTo([]byte("to all"), &net.UDPAddr{IP: net.IP{127, 255, 255, 255}, Port: s.LocalAddr().(*net.UDPAddr).Port})
			if err != nil {
				return []any{err}
			}
			b := make([]byte, 10)
			require.NoError(t, s.SetReadDeadline(time.Now().Add(time.Second)))
			m, from, err := s.ReadFrom(b)
			return append([]any{n}, received(b, m, from, err)...)
		}, "<nil>"},
		{"a socket that is not connected has no other end", func(t *testing.T, w *world.World) []any {
			c, s := w.UdpPair(t)
			return []any{s.RemoteAddr(), s.LocalAddr(), c.LocalAddr(), c.RemoteAddr()}
		}, "udp HOST:P"},
		{"interfaces of a UDP socket", func(t *testing.T, w *world.World) []any {
			c, s := w.UdpPair(t)
			var seen []any
			for _, v := range []any{c, s} {
				_, conn := v.(net.Conn)
				_, packets := v.(net.PacketConn)
				_, closeWriter := v.(interface{ CloseWrite() error })
				_, buffers := v.(interface{ SetReadBuffer(int) error })
				seen = append(seen, conn, packets, buffers, closeWriter)
			}
			return seen
		}, "false"},
		{"two sockets of different addresses and one port", func(t *testing.T, w *world.World) []any {
			w = w.Self(t)
			first := w.Packets(t)
			port := first.LocalAddr().(*net.UDPAddr).Port
			second, err := w.BindUDP("udp4", &net.UDPAddr{IP: net.IP{127, 0, 0, 2}, Port: port})
			require.NoError(t, err)
			defer second.Close()
			_, err1 := second.WriteTo([]byte("to the first"), first.LocalAddr())
			_, err2 := first.WriteTo([]byte("to the second"), second.LocalAddr())
			return slices.Concat([]any{err1, err2}, read(first, 100), read(second, 100))
		}, "<nil>"},
	}
}

// udpErrorBehaviours returns the behaviours of undelivered datagrams and wrong addresses.
func udpErrorBehaviours() []behaviour {
	// closed returns a connected socket whose other end is closed.
	closed := func(t *testing.T, w *world.World) world.UDPConn {
		c, s := w.UdpPair(t)
		require.NoError(t, s.Close())
		return c
	}
	return []behaviour{
		{"every other write to a closed port is refused", func(t *testing.T, w *world.World) []any {
			c := closed(t, w)
			var seen []any
			for range 5 {
				seen = append(seen, writeErr(c))
				world.Settle()
			}
			return append(seen, writeErr(c))
		}, "write: connection refused"},
		{"a port unreachable wakes a blocked read", func(t *testing.T, w *world.World) []any {
			c := closed(t, w)
			got := after(func() error { return readErr(c) })
			return []any{writeErr(c), <-got}
		}, "read: connection refused"},
		{"a port unreachable comes before a datagram that waits", func(t *testing.T, w *world.World) []any {
			c, s := w.UdpPair(t)
			_, err := s.WriteTo([]byte("waits"), c.LocalAddr())
			require.NoError(t, err)
			require.NoError(t, s.Close())
			require.NoError(t, writeErr(c))
			world.Settle()
			return append([]any{readErr(c)}, read(c, 100)...)
		}, "<nil>"},
		{"a port unreachable by all ways of reading and writing", func(t *testing.T, w *world.World) []any {
			c := closed(t, w)
			b := make([]byte, 10)
			var seen []any
			for _, f := range []func() error{
				func() error { _, _, err := c.ReadFrom(b); return err },
				func() error { _, _, err := c.ReadFromUDP(b); return err },
				func() error { _, _, err := c.ReadFromUDPAddrPort(b); return err },
				func() error { _, _, _, _, err := c.ReadMsgUDP(b, nil); return err },
				func() error { _, _, _, _, err := c.ReadMsgUDPAddrPort(b, nil); return err },
				func() error { _, _, err := c.WriteMsgUDP(b, nil, nil); return err },
				func() error { _, _, err := c.WriteMsgUDPAddrPort(b, nil, netip.AddrPort{}); return err },
				func() error { _, err := c.Read(nil); return err },
				func() error { _, err := c.Write(nil); return err },
			} {
				seen = append(seen, writeErr(c))
				world.Settle()
				seen = append(seen, f())
			}
			return seen
		}, "<nil>"},
		{"what ReadMsgUDP returns beside an error", func(t *testing.T, w *world.World) []any {
			c := closed(t, w)
			require.NoError(t, writeErr(c))
			world.Settle()
			n, oobn, flags, from, err := c.ReadMsgUDP(make([]byte, 10), nil)
			return []any{err, oobn, flags, from != nil, n}
		}, "-1"},
		{"a past deadline comes before a port unreachable", func(t *testing.T, w *world.World) []any {
			c := closed(t, w)
			require.NoError(t, writeErr(c))
			world.Settle()
			require.NoError(t, c.SetDeadline(time.Unix(1, 0)))
			seen := []any{readErr(c), writeErr(c), c.SetDeadline(time.Time{})}
			return append(seen, readErr(c))
		}, "read: connection refused"},
		{"a port that is opened again after a port unreachable", func(t *testing.T, w *world.World) []any {
			c, s := w.UdpPair(t)
			require.NoError(t, s.Close())
			first := writeErr(c)
			world.Settle()
			again, err := w.ListenPacket("udp4", s.LocalAddr().String())
			require.NoError(t, err)
			defer again.Close()
			return append([]any{first, writeErr(c), writeErr(c)}, read(again.(world.UDPConn), 10)...)
		}, "<nil>"},
		{"a socket that is not connected gets no error of a closed port", func(t *testing.T, w *world.World) []any {
			gone := w.Packets(t)
			require.NoError(t, gone.Close())
			c := w.Packets(t)
			_, first := c.WriteTo([]byte("x"), gone.LocalAddr())
			world.Settle()
			_, second := c.WriteTo([]byte("x"), gone.LocalAddr())
			require.NoError(t, c.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
			return []any{first, second, readErr(c)}
		}, "i/o timeout"},
		{"WriteTo a port that is too large, and a negative one", func(t *testing.T, w *world.World) []any {
			c := w.Packets(t)
			ip := net.ParseIP(w.Server)
			_, large := c.WriteTo([]byte("x"), &net.UDPAddr{IP: ip, Port: 65536 + 9})
			_, negative := c.WriteToUDP([]byte("x"), &net.UDPAddr{IP: ip, Port: -9})
			_, _, msg := c.WriteMsgUDP([]byte("x"), nil, &net.UDPAddr{IP: ip, Port: 65536 + 9})
			return []any{large, negative, msg}
		}, "sendmsg: invalid argument"},
		{"WriteMsgUDP with malformed out-of-band data", func(t *testing.T, w *world.World) []any {
			c, s := w.UdpPair(t)
			to := c.LocalAddr().(*net.UDPAddr)
			n, oobn, err := s.WriteMsgUDP([]byte("x"), make([]byte, 5), to)
			seen := []any{n, oobn, err}
			// This control message has a header whose length exceeds the data.
			n, oobn, err = s.WriteMsgUDP([]byte("x"), bytes.Repeat([]byte{0x7f}, 16), to)
			return append(seen, n, oobn, err)
		}, "sendmsg: invalid argument"},
		{"too large a datagram by all ways of writing", func(t *testing.T, w *world.World) []any {
			c, s := w.UdpPair(t)
			b, to := make([]byte, 65508), c.LocalAddr().(*net.UDPAddr)
			_, err1 := s.WriteTo(b, to)
			_, err2 := s.WriteToUDPAddrPort(b, to.AddrPort())
			_, _, err3 := s.WriteMsgUDP(b, nil, to)
			_, _, err4 := s.WriteMsgUDPAddrPort(b, nil, to.AddrPort())
			return []any{err1, err2, err3, err4}
		}, "sendmsg: message too long"},
		{"WriteMsgUDP on a socket that is not connected, without an address", func(t *testing.T, w *world.World) []any {
			_, _, msg := w.Packets(t).WriteMsgUDP([]byte("x"), nil, nil)
			_, _, addrPort := w.Packets(t).WriteMsgUDPAddrPort([]byte("x"), nil, netip.AddrPort{})
			return []any{msg, addrPort}
		}, "missing address"},
		{"WriteTo a nil address of UDP", func(t *testing.T, w *world.World) []any {
			_, err := w.Packets(t).WriteTo([]byte("x"), (*net.UDPAddr)(nil))
			return []any{err}
		}, "missing address"},
		{"WriteTo an address of another type on a connected socket", func(t *testing.T, w *world.World) []any {
			c, _ := w.UdpPair(t)
			_, wrong := c.WriteTo([]byte("x"), &net.IPAddr{IP: net.ParseIP(w.Server)})
			_, none := c.WriteTo([]byte("x"), nil)
			_, missing := c.WriteToUDP([]byte("x"), nil)
			return []any{wrong, none, missing}
		}, "use of WriteTo with pre-connected connection"},
		{"WriteTo IPv6 by all ways of writing on udp4", func(t *testing.T, w *world.World) []any {
			c := w.Packets(t)
			to := &net.UDPAddr{IP: net.IPv6loopback, Port: 9}
			_, err1 := c.WriteToUDP([]byte("x"), to)
			_, _, err2 := c.WriteMsgUDP([]byte("x"), nil, to)
			_, _, err3 := c.WriteMsgUDPAddrPort([]byte("x"), nil, to.AddrPort())
			return []any{err1, err2, err3}
		}, "non-IPv4 address"},
		{"WriteTo IPv6 on a socket of an IPv4 address", func(t *testing.T, w *world.World) []any {
			c, err := w.ListenPacket("udp", w.Server+":0")
			require.NoError(t, err)
			defer c.Close()
			_, err = c.WriteTo([]byte("x"), &net.UDPAddr{IP: net.IPv6loopback, Port: 9})
			return []any{err}
		}, "non-IPv4 address"},
		{"Write past the deadline on a socket that is not connected", func(t *testing.T, w *world.World) []any {
			c := w.Packets(t)
			require.NoError(t, c.SetWriteDeadline(time.Unix(1, 0)))
			return []any{writeErr(c)}
		}, "i/o timeout"},
		{"UDP from a host's port to itself", func(t *testing.T, w *world.World) []any {
			w = w.Self(t)
			s := w.Packets(t)
			n, err := s.WriteTo([]byte("to me"), s.LocalAddr())
			b := make([]byte, 10)
			m, from, readErr := s.ReadFrom(b)
			return append([]any{n, err}, received(b, m, from, readErr)...)
		}, "<nil>"},
	}
}
