package contract

import (
	"context"
	"encoding/binary"
	"net"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/usernet/usernet/internal/world"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
)

// privileged returns a behaviour that runs run, and skips the test without root, which the kernel requires. The server
// has an address that no other process uses, because a raw socket receives the packets of all processes.
func privileged(run func(t *testing.T, w *world.World) []any) func(*testing.T, *world.World) []any {
	return func(t *testing.T, w *world.World) []any {
		if os.Geteuid() != 0 {
			t.Skip("needs root, to open IP sockets of the kernel")
		}
		own := *w
		own.Server = w.Alone
		return run(t, &own)
	}
}

// ipBehaviours returns the behaviours of IP sockets.
func ipBehaviours() []behaviour {
	all := []behaviour{
		{"ends of IP sockets", func(t *testing.T, w *world.World) []any {
			c, s := w.IPPair(t)
			return []any{s.LocalAddr(), s.RemoteAddr(), c.LocalAddr(), c.RemoteAddr()}
		}, "ip HOST"},
		{"bind IP to all addresses", binding(world.Experimental, "0.0.0.0"), "ip 0.0.0.0"},
		{"bind IP to no address", binding(world.Experimental, ""), "ip 0.0.0.0"},
		{"bind IP by a protocol's name", binding("ip4:icmp", "HOST"), "ip HOST"},
		{"bind IP by a protocol's name in capitals", binding("ip4:ICMP", "HOST"), "ip HOST"},
		{"bind IP to an address that is not ours", binding(world.Experimental, "203.0.113.77"), "bind: cannot assign requested address"},
		{"dial on protocol 0", dialing("ip4:0", "HOST", world.DialOptions{}), "socket: protocol not supported"},
		{"dial on a protocol that is too large", dialing("ip4:300", "HOST", world.DialOptions{}), "socket: invalid argument"},
		{"bind IP to protocol 256, which does not fit in the IP header", binding("ip4:256", "HOST"), "ip HOST"},
		{"bind IP to protocol 262, the last that Linux has", binding("ip4:262", "HOST"), "ip HOST"},
		{"bind IP to protocol 263", binding("ip4:263", "HOST"), "socket: invalid argument"},
		{"an IP socket of a protocol that is too large sends, and receives nothing", func(t *testing.T, w *world.World) []any {
			pc, err := w.ListenPacket("ip4:257", w.Server)
			require.NoError(t, err)
			defer pc.Close()
			n, err := pc.WriteTo([]byte("is sent with the lower 8 bits"), pc.LocalAddr())
			require.NoError(t, pc.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
			b := make([]byte, 100)
			_, _, rerr := pc.ReadFrom(b)
			return []any{n, err, rerr}
		}, "i/o timeout"},
		{"bind IP to a protocol that is too large", binding("ip4:70000", "HOST"), "socket: invalid argument"},
		{"dial on ip to an IPv4 literal", dialing("ip:253", "HOST", world.DialOptions{}), "ip HOST"},
		{"dial IP to the wildcard, and to no address", func(t *testing.T, w *world.World) []any {
			w = w.Self(t)
			none, err := w.DialIP(world.Experimental, nil, &net.IPAddr{})
			require.NoError(t, err)
			defer none.Close()
			zero, err := w.DialIP(world.Experimental, nil, &net.IPAddr{IP: net.IPv4zero})
			require.NoError(t, err)
			defer zero.Close()
			return []any{none.LocalAddr(), none.RemoteAddr(), zero.LocalAddr(), zero.RemoteAddr()}
		}, "ip 0.0.0.0"},
		{"dial IP from an address of the wrong type", dialing(world.Experimental, "HOST", world.DialOptions{Local: &net.UDPAddr{}}), "mismatched local address type"},
		{"dial IP from an address that is not ours", dialing(world.Experimental, "HOST", world.DialOptions{Local: &net.IPAddr{IP: net.IP{203, 0, 113, 77}}}), "bind: cannot assign requested address"},
		{"dial IP with a timeout that is over", dialing(world.Experimental, "HOST", world.DialOptions{Timeout: -1}), "i/o timeout"},
		{"DialIP and ListenIP", func(t *testing.T, w *world.World) []any {
			addr := &net.IPAddr{IP: net.ParseIP(w.Server)}
			s, err := w.BindIP(world.Experimental, addr)
			require.NoError(t, err)
			defer s.Close()
			c, err := w.DialIP(world.Experimental, nil, addr)
			require.NoError(t, err)
			defer c.Close()
			return []any{s.LocalAddr(), c.RemoteAddr()}
		}, "ip HOST"},
		{"DialIP on ip4 to IPv6", func(t *testing.T, w *world.World) []any {
			_, err := w.DialIP(world.Experimental, nil, &net.IPAddr{IP: net.IPv6loopback})
			return []any{err}
		}, "non-IPv4 address"},
		{"ReadFrom of an IP socket begins after the IP header", func(t *testing.T, w *world.World) []any {
			c, s := w.IPPair(t)
			seen := write(c, "payload")
			b := make([]byte, 100)
			n, from, err := s.ReadFrom(b)
			return append(seen, received(b, n, from, err)...)
		}, "<nil>"},
		{"ReadFromIP of an IP socket", func(t *testing.T, w *world.World) []any {
			c, s := w.IPPair(t)
			seen := write(c, "payload")
			b := make([]byte, 100)
			n, from, err := s.ReadFromIP(b)
			return append(seen, received(b, n, from, err)...)
		}, "<nil>"},
		{"ReadFrom of an IP socket into a small buffer", func(t *testing.T, w *world.World) []any {
			c, s := w.IPPair(t)
			require.NoError(t, writeAll(c, "more than fits"))
			b := make([]byte, 24)
			n, from, err := s.ReadFrom(b)
			return []any{from, err, n}
		}, "4"},
		{"an empty Read of an IP socket", func(t *testing.T, w *world.World) []any {
			c, s := w.IPPair(t)
			require.NoError(t, writeAll(c, "stays"))
			seen := read(s, 0)
			b := make([]byte, 100)
			n, from, err := s.ReadFrom(b)
			return append(seen, received(b, n, from, err)...)
		}, "<nil>"},
		{"Read of an IP socket begins with the IP header", func(t *testing.T, w *world.World) []any {
			c, s := w.IPPair(t)
			require.NoError(t, writeAll(c, "payload"))
			b := make([]byte, 100)
			n, err := s.Read(b)
			require.NoError(t, err)
			return []any{n, headerOf(b), b[20:n]}
		}, `"payload"`},
		{"ReadMsgIP of an IP socket begins with the IP header", func(t *testing.T, w *world.World) []any {
			c, s := w.IPPair(t)
			require.NoError(t, writeAll(c, "payload"))
			b := make([]byte, 24)
			n, oobn, flags, from, err := s.ReadMsgIP(b, nil)
			require.NoError(t, err)
			return []any{from, n, oobn, flags, headerOf(b), b[20:n]}
		}, `"payl"`},
		{"answers on IP sockets by all ways of writing", func(t *testing.T, w *world.World) []any {
			c, s := w.IPPair(t)
			to := c.LocalAddr().(*net.IPAddr)
			n1, err1 := s.WriteTo([]byte("1"), to)
			n2, err2 := s.WriteToIP([]byte("2"), to)
			n3, _, err3 := s.WriteMsgIP([]byte("3"), nil, to)
			seen := []any{n1, err1, n2, err2, n3, err3}
			b := make([]byte, 100)
			for range 3 {
				n, from, err := c.ReadFrom(b)
				seen = append(seen, received(append([]byte(nil), b...), n, from, err)...)
			}
			return seen
		}, "<nil>"},
		{"WriteTo on a connected IP socket", func(t *testing.T, w *world.World) []any {
			c, _ := w.IPPair(t)
			_, err1 := c.WriteTo([]byte("x"), c.RemoteAddr())
			_, _, err2 := c.WriteMsgIP([]byte("x"), nil, c.RemoteAddr().(*net.IPAddr))
			_, _, err3 := c.WriteMsgIP([]byte("x"), nil, nil)
			return []any{err1, err2, err3}
		}, "use of WriteTo with pre-connected connection"},
		{"a connected IP socket receives only from its peer", func(t *testing.T, w *world.World) []any {
			w = w.Self(t)
			c, s := w.IPPair(t)
			other, err := w.BindIP(world.Experimental, &net.IPAddr{IP: net.IPv4(127, 0, 0, 3)})
			require.NoError(t, err)
			defer other.Close()
			_, err1 := other.WriteTo([]byte("other"), c.LocalAddr())
			_, err2 := s.WriteTo([]byte("peer"), c.LocalAddr())
			b := make([]byte, 100)
			n, from, err := c.ReadFrom(b)
			return append([]any{err1, err2}, received(b, n, from, err)...)
		}, "<nil>"},
		{"wrong addresses on an IP socket", func(t *testing.T, w *world.World) []any {
			_, s := w.IPPair(t)
			_, none := s.WriteTo([]byte("x"), nil)
			_, wrong := s.WriteTo([]byte("x"), &net.UDPAddr{IP: net.ParseIP(w.Server), Port: 1})
			_, missing := s.WriteToIP([]byte("x"), nil)
			_, _, msg := s.WriteMsgIP([]byte("x"), nil, nil)
			_, family := s.WriteToIP([]byte("x"), &net.IPAddr{IP: net.IPv6loopback})
			return []any{writeErr(s), none, wrong, missing, msg, family}
		}, "non-IPv4 address"},
		{"too large a datagram on an IP socket", func(t *testing.T, w *world.World) []any {
			c, _ := w.IPPair(t)
			_, err := c.Write(make([]byte, 65536-20))
			return []any{err}
		}, "message too long"},
		{"deadlines of an IP socket", func(t *testing.T, w *world.World) []any {
			c, s := w.IPPair(t)
			require.NoError(t, s.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
			_, _, from := s.ReadFrom(make([]byte, 1))
			require.NoError(t, c.SetDeadline(time.Unix(1, 0)))
			return []any{from, readErr(c), writeErr(c)}
		}, "i/o timeout"},
		{"every method of a closed IP socket", func(t *testing.T, w *world.World) []any {
			c, s := w.IPPair(t)
			require.NoError(t, c.Close())
			got := after(func() error { return readErr(s) })
			require.NoError(t, s.Close())
			seen := append([]any{<-got}, ipMethods(s, c.LocalAddr().(*net.IPAddr))...)
			return append(append(seen, ipMethods(c, nil)...), c.LocalAddr(), c.RemoteAddr())
		}, "ip HOST"},
		{"ping", func(t *testing.T, w *world.World) []any {
			c, err := w.Dial(context.Background(), world.DialOptions{}, "ip4:icmp", w.Server)
			require.NoError(t, err)
			defer c.Close()
			id := os.Getpid() & 0xffff
			request := icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: id, Seq: 7, Data: []byte("ping")}}
			b, err := request.Marshal(nil)
			require.NoError(t, err)
			_, err = c.Write(b)
			require.NoError(t, err)
			require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Second)))
			for {
				b := make([]byte, 100)
				n, from, err := c.(world.IPConn).ReadFrom(b)
				if err != nil {
					return []any{err}
				}
				m, err := icmp.ParseMessage(1, b[:n])
				require.NoError(t, err)
				// Over the loopback, the socket also receives the request: skip it.
				if echo, ok := m.Body.(*icmp.Echo); ok && m.Type == ipv4.ICMPTypeEchoReply && echo.ID == id {
					return []any{from, echo.Seq, echo.Data}
				}
			}
		}, `"ping"`},
	}
	for i := range all {
		all[i].run = privileged(all[i].run)
	}
	return all
}

// headerOf returns the parts of an IPv4 header that are the same in all Worlds: version and header length,
// protocol, total length, TTL, and whether the addresses are unspecified.
func headerOf(b []byte) []any {
	return []any{b[0], b[9], binary.BigEndian.Uint16(b[2:]), b[8], net.IP(b[12:16]).IsUnspecified(), net.IP(b[16:20]).IsUnspecified()}
}
