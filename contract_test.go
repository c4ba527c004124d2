package usernet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// An observation is all that a program can see of an error without being told more
// than its types in net.
type observation struct {
	Text               string
	BareOpError        bool
	Op, Net            string
	Source, Addr       string
	Syscall            string
	Is                 []string
	Timeout, Temporary bool
}

// observe looks at an error that occurred in a world. Addresses become those of the
// client and the server, and ports P.
func observe(w *world, err error) observation {
	if err == nil {
		return observation{Text: "<nil>"}
	}
	plain := func(s string) string {
		s = regexp.MustCompile(`:\d+\b`).ReplaceAllString(s, ":P")
		s = strings.ReplaceAll(s, w.server, "HOST")
		return strings.ReplaceAll(s, w.client, "HOST")
	}
	o := observation{Text: plain(err.Error())}
	if oe, ok := err.(*net.OpError); ok {
		o.BareOpError, o.Op, o.Net = true, oe.Op, oe.Net
		if oe.Source != nil {
			o.Source = fmt.Sprintf("%T %s", oe.Source, plain(oe.Source.String()))
		}
		if oe.Addr != nil {
			o.Addr = plain(oe.Addr.Network() + " " + oe.Addr.String())
		}
	}
	var se *os.SyscallError
	if errors.As(err, &se) {
		o.Syscall = se.Syscall
	}
	var ne interface {
		Timeout() bool
		Temporary() bool
	}
	if errors.As(err, &ne) {
		o.Timeout, o.Temporary = ne.Timeout(), ne.Temporary()
	}
	for _, target := range []error{
		io.EOF, net.ErrClosed, net.ErrWriteToConnected, os.ErrDeadlineExceeded, context.Canceled, context.DeadlineExceeded,
		syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EPIPE, syscall.ENOTCONN, syscall.EADDRINUSE,
		syscall.EADDRNOTAVAIL, syscall.EDESTADDRREQ, syscall.EMSGSIZE, syscall.EINVAL, syscall.ENETUNREACH,
		syscall.EHOSTUNREACH, syscall.ETIMEDOUT, syscall.EAFNOSUPPORT,
	} {
		if errors.Is(err, target) {
			o.Is = append(o.Is, target.Error())
		}
	}
	return o
}

// A scenario is a program whose errors are the same everywhere.
type scenario struct {
	name string
	run  func(t *testing.T, w *world) []error
	want string // what the last error's text ends in, to see that it is the one that is meant
}

func TestErrorsAreThoseOfTheKernel(t *testing.T) {
	ws := worlds(t)
	for _, s := range slices.Concat(dialScenarios(), listenScenarios(), tcpScenarios(), closedScenarios(), udpScenarios()) {
		t.Run(s.name, func(t *testing.T) {
			var kernel []observation
			for _, w := range ws {
				var seen []observation
				for _, err := range s.run(t, w) {
					seen = append(seen, observe(w, err))
				}
				require.NotEmpty(t, seen)
				require.True(t, strings.HasSuffix(seen[len(seen)-1].Text, s.want), "%s: %q does not end in %q", w.name, seen[len(seen)-1].Text, s.want)
				if w.name == "kernel" {
					kernel = seen
					continue
				}
				require.Len(t, seen, len(kernel))
				for i := range kernel {
					require.Equal(t, kernel[i], seen[i], "error %d in the world %q", i, w.name)
				}
			}
		})
	}
}

// freePort returns a port of the server's on which nobody listens.
func freePort(t *testing.T, w *world) string {
	ln, err := w.listen("tcp4", w.server+":0")
	require.NoError(t, err)
	require.NoError(t, ln.Close())
	return ln.Addr().String()
}

// dialing is a scenario of one dial to an address in which HOST is the server's.
func dialing(network, address string, o dialOptions) func(*testing.T, *world) []error {
	return func(t *testing.T, w *world) []error {
		c, err := w.dial(context.Background(), o, network, strings.ReplaceAll(address, "HOST", w.server))
		if err == nil {
			c.Close()
		}
		return []error{err}
	}
}

func dialScenarios() []scenario {
	past := time.Now().Add(-time.Second)
	return []scenario{
		{"dial to a closed port is refused", func(t *testing.T, w *world) []error {
			_, err := w.dial(context.Background(), dialOptions{}, "tcp", freePort(t, w))
			return []error{err}
		}, "connect: connection refused"},
		{"dial with a cancelled context", func(t *testing.T, w *world) []error {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			_, err := w.dial(ctx, dialOptions{}, "tcp", w.server+":80")
			return []error{err}
		}, "operation was canceled"},
		{"dial with a context past its deadline", func(t *testing.T, w *world) []error {
			ctx, cancel := context.WithDeadline(context.Background(), past)
			defer cancel()
			_, err := w.dial(ctx, dialOptions{}, "tcp", w.server+":80")
			return []error{err}
		}, "i/o timeout"},
		{"dial with a timeout that is over", dialing("tcp", "HOST:80", dialOptions{timeout: -1}), "i/o timeout"},
		{"dial with a deadline that is over", dialing("tcp", "HOST:80", dialOptions{deadline: past}), "i/o timeout"},
		{"dial UDP with a deadline that is over", dialing("udp", "HOST:80", dialOptions{deadline: past}), "i/o timeout"},
		{"dial from an address that is not ours", dialing("tcp", "HOST:80", dialOptions{local: &net.TCPAddr{IP: net.IP{203, 0, 113, 77}}}), "bind: cannot assign requested address"},
		{"dial UDP from an address that is not ours", dialing("udp", "HOST:80", dialOptions{local: &net.UDPAddr{IP: net.IP{203, 0, 113, 77}}}), "bind: cannot assign requested address"},
		{"dial from an address of the wrong type", dialing("tcp", "HOST:80", dialOptions{local: &net.UDPAddr{}}), "mismatched local address type"},
		{"dial from an address of the wrong family", dialing("tcp", "HOST:80", dialOptions{local: &net.TCPAddr{IP: net.ParseIP("2001:db8::1")}}), "no suitable address found"},
		{"dial to the broadcast address", dialing("tcp", "255.255.255.255:80", dialOptions{}), "connect: network is unreachable"},
		{"dial without a port", dialing("tcp", "HOST", dialOptions{}), "missing port in address"},
		{"dial to nothing", dialing("tcp", "", dialOptions{}), "missing address"},
		{"dial with too many colons", dialing("tcp", "HOST:80:80", dialOptions{}), "too many colons in address"},
		{"dial with an open bracket", dialing("tcp", "[::1:80", dialOptions{}), "missing ']' in address"},
		{"dial to an unknown service", dialing("tcp", "HOST:no-such-service", dialOptions{}), "unknown port"},
		{"dial to a port that is too large", dialing("tcp", "HOST:65536", dialOptions{}), "invalid port"},
		{"dial to a negative port", dialing("udp", "HOST:-1", dialOptions{}), "invalid port"},
		{"dial an IPv4 literal on tcp6", dialing("tcp6", "HOST:80", dialOptions{}), "no suitable address found"},
		{"dial an IPv6 literal on udp4", dialing("udp4", "[::1]:80", dialOptions{}), "no suitable address found"},
		{"dial on an unknown network", dialing("sctp", "HOST:80", dialOptions{}), "unknown network sctp"},
		{"dial on a TCP network with a protocol", dialing("tcp:stream", "HOST:80", dialOptions{}), "unknown network tcp:stream"},
		{"dial IP without a protocol", dialing("ip4", "HOST", dialOptions{}), "unknown network ip4"},
		{"dial an unknown IP protocol", dialing("ip4:no-such", "HOST", dialOptions{}), "unknown IP protocol specified"},
	}
}

func listenScenarios() []scenario {
	listening := func(network, address string) func(*testing.T, *world) []error {
		return func(t *testing.T, w *world) []error {
			_, err := w.listen(network, strings.ReplaceAll(address, "HOST", w.server))
			return []error{err}
		}
	}
	binding := func(network, address string) func(*testing.T, *world) []error {
		return func(t *testing.T, w *world) []error {
			_, err := w.listenPacket(network, strings.ReplaceAll(address, "HOST", w.server))
			return []error{err}
		}
	}
	return []scenario{
		{"listen on a taken port", func(t *testing.T, w *world) []error {
			ln, err := w.listen("tcp4", w.server+":0")
			require.NoError(t, err)
			defer ln.Close()
			_, err = w.listen("tcp4", ln.Addr().String())
			return []error{err}
		}, "bind: address already in use"},
		{"bind a taken UDP port", func(t *testing.T, w *world) []error {
			c, err := w.listenPacket("udp4", w.server+":0")
			require.NoError(t, err)
			defer c.Close()
			_, err = w.listenPacket("udp4", c.LocalAddr().String())
			return []error{err}
		}, "bind: address already in use"},
		{"listen on an address that is not ours", listening("tcp", "203.0.113.77:80"), "bind: cannot assign requested address"},
		{"bind a UDP address that is not ours", binding("udp", "203.0.113.77:80"), "bind: cannot assign requested address"},
		{"listen on a packet network", listening("udp", "HOST:0"), "unexpected address type"},
		{"bind a packet socket on a stream network", binding("tcp", "HOST:0"), "unexpected address type"},
		{"listen on an unknown network", listening("nope", "HOST:0"), "unknown network nope"},
		{"listen without a port", listening("tcp", "HOST"), "missing port in address"},
		{"listen on a port that is too large", listening("tcp", "HOST:70000"), "invalid port"},
		{"bind IP without a protocol", binding("ip4", "HOST"), "unknown network ip4"},
		{"accept past the deadline", func(t *testing.T, w *world) []error {
			ln, err := w.listen("tcp4", w.server+":0")
			require.NoError(t, err)
			defer ln.Close()
			require.NoError(t, ln.(interface{ SetDeadline(time.Time) error }).SetDeadline(time.Now().Add(-time.Second)))
			_, err = ln.Accept()
			return []error{err}
		}, "i/o timeout"},
	}
}

func tcpScenarios() []scenario {
	past := time.Unix(1, 0)
	return []scenario{
		{"read past the deadline", func(t *testing.T, w *world) []error {
			c, _ := w.pair(t)
			require.NoError(t, c.SetReadDeadline(past))
			_, err := c.Read(make([]byte, 1))
			return []error{err}
		}, "i/o timeout"},
		{"write past the deadline", func(t *testing.T, w *world) []error {
			c, _ := w.pair(t)
			require.NoError(t, c.SetWriteDeadline(past))
			_, empty := c.Write(nil)
			_, err := c.Write(make([]byte, 1))
			return []error{empty, err}
		}, "i/o timeout"},
		{"a deadline wakes a blocked read", func(t *testing.T, w *world) []error {
			c, _ := w.pair(t)
			require.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
			_, err := c.Read(make([]byte, 1))
			return []error{err}
		}, "i/o timeout"},
		{"read after the peer's FIN", func(t *testing.T, w *world) []error {
			c, s := w.pair(t)
			require.NoError(t, s.Close())
			_, err := c.Read(make([]byte, 1))
			_, again := c.Read(make([]byte, 1))
			return []error{err, again}
		}, "EOF"},
		{"read after a reset, then read and write", func(t *testing.T, w *world) []error {
			c, s := w.pair(t)
			require.NoError(t, s.SetLinger(0))
			require.NoError(t, s.Close())
			_, err := c.Read(make([]byte, 1))
			_, second := c.Read(make([]byte, 1))
			_, third := c.Write(make([]byte, 1))
			return []error{err, second, third}
		}, "broken pipe"},
		{"write after a reset, then write and read", func(t *testing.T, w *world) []error {
			c, s := w.pair(t)
			require.NoError(t, s.SetLinger(0))
			require.NoError(t, s.Close())
			_, err := c.Write(make([]byte, 1))
			_, second := c.Write(make([]byte, 1))
			_, third := c.Read(make([]byte, 1))
			return []error{err, second, third}
		}, "EOF"},
		{"the peer closes with data unread", func(t *testing.T, w *world) []error {
			c, s := w.pair(t)
			_, err := c.Write([]byte("unread"))
			require.NoError(t, err)
			require.NoError(t, s.Close())
			_, err = c.Read(make([]byte, 1))
			return []error{err}
		}, "connection reset by peer"},
		{"write after CloseWrite", func(t *testing.T, w *world) []error {
			c, _ := w.pair(t)
			first := c.CloseWrite()
			second := c.CloseWrite()
			_, err := c.Write([]byte("x"))
			return []error{first, second, err}
		}, "broken pipe"},
		{"read after CloseRead", func(t *testing.T, w *world) []error {
			c, _ := w.pair(t)
			first := c.CloseRead()
			_, err := c.Read(make([]byte, 1))
			return []error{first, err}
		}, "EOF"},
		{"shutdown after a reset", func(t *testing.T, w *world) []error {
			c, s := w.pair(t)
			require.NoError(t, s.SetLinger(0))
			require.NoError(t, s.Close())
			_, err := c.Read(make([]byte, 1))
			return []error{err, c.CloseRead(), c.CloseWrite()}
		}, "shutdown: transport endpoint is not connected"},
		{"write after the peer has closed, then write and read", func(t *testing.T, w *world) []error {
			c, s := w.pair(t)
			require.NoError(t, s.Close())
			_, first := c.Write([]byte("x"))
			time.Sleep(5 * time.Millisecond) // the answer is a reset
			_, second := c.Write([]byte("x"))
			_, third := c.Write([]byte("x"))
			_, err := c.Read(make([]byte, 1))
			return []error{first, second, third, err}
		}, "EOF"},
		{"read after the peer has closed and reset", func(t *testing.T, w *world) []error {
			c, s := w.pair(t)
			require.NoError(t, s.Close())
			_, first := c.Write([]byte("x"))
			time.Sleep(5 * time.Millisecond)
			_, second := c.Read(make([]byte, 1))
			_, third := c.Write([]byte("x"))
			return []error{first, second, third}
		}, "broken pipe"},
		{"shutdown after the peer has closed", func(t *testing.T, w *world) []error {
			c, s := w.pair(t)
			require.NoError(t, s.Close())
			_, err := c.Read(make([]byte, 1))
			return []error{err, c.CloseRead(), c.CloseWrite()}
		}, "<nil>"},
		{"shutdown after both sides have closed for writing", func(t *testing.T, w *world) []error {
			c, s := w.pair(t)
			first := c.CloseWrite()
			second := s.CloseWrite()
			_, err := c.Read(make([]byte, 1))
			time.Sleep(5 * time.Millisecond)
			_, again := s.Read(make([]byte, 1))
			_, write := c.Write([]byte("x"))
			return []error{first, second, err, again, c.CloseWrite(), c.CloseRead(), s.CloseWrite(), write}
		}, "broken pipe"},
		{"data that is there is not read past the deadline", func(t *testing.T, w *world) []error {
			c, s := w.pair(t)
			_, err := s.Write([]byte("x"))
			require.NoError(t, err)
			require.NoError(t, s.Close())
			time.Sleep(5 * time.Millisecond)
			require.NoError(t, c.SetReadDeadline(past))
			_, err = c.Read(make([]byte, 1))
			require.NoError(t, c.SetReadDeadline(time.Time{}))
			_, data := c.Read(make([]byte, 1))
			_, end := c.Read(make([]byte, 1))
			return []error{err, data, end}
		}, "EOF"},
		{"data that came before a reset is read before it", func(t *testing.T, w *world) []error {
			c, s := w.pair(t)
			_, err := s.Write([]byte("x"))
			require.NoError(t, err)
			require.NoError(t, s.SetLinger(0))
			require.NoError(t, s.Close())
			time.Sleep(5 * time.Millisecond)
			_, data := c.Read(make([]byte, 1))
			_, second := c.Read(make([]byte, 1))
			_, third := c.Read(make([]byte, 1))
			return []error{data, second, third}
		}, "EOF"},
		{"CloseRead wakes a blocked read", func(t *testing.T, w *world) []error {
			c, _ := w.pair(t)
			got := make(chan error)
			go func() {
				_, err := c.Read(make([]byte, 1))
				got <- err
			}()
			time.Sleep(5 * time.Millisecond)
			require.NoError(t, c.CloseRead())
			return []error{<-got}
		}, "EOF"},
		{"CloseWrite wakes a blocked write", func(t *testing.T, w *world) []error {
			c, _ := w.pair(t)
			got, data := make(chan error), make([]byte, 64<<20)
			go func() {
				_, err := c.Write(data)
				got <- err
			}()
			time.Sleep(20 * time.Millisecond)
			require.NoError(t, c.CloseWrite())
			return []error{<-got}
		}, "broken pipe"},
		{"a deadline wakes a blocked write", func(t *testing.T, w *world) []error {
			c, _ := w.pair(t)
			require.NoError(t, c.SetWriteDeadline(time.Now().Add(20*time.Millisecond)))
			_, err := c.Write(make([]byte, 64<<20))
			_, again := c.Write([]byte("x"))
			return []error{err, again}
		}, "i/o timeout"},
		{"a reset wakes a blocked write", func(t *testing.T, w *world) []error {
			c, s := w.pair(t)
			require.NoError(t, s.SetReadBuffer(4096))
			require.NoError(t, c.SetWriteBuffer(4096))
			_, err := c.Write([]byte("unread"))
			require.NoError(t, err)
			got, data := make(chan error), make([]byte, 64<<20)
			go func() {
				_, err := c.Write(data)
				got <- err
			}()
			// If it were not blocked yet, the kernel would say EPIPE as likely as not.
			time.Sleep(50 * time.Millisecond)
			require.NoError(t, s.Close(), "with data unread")
			err = <-got
			_, end := c.Read(make([]byte, 1))
			return []error{err, end}
		}, "EOF"},
		{"a reset wakes a blocked read", func(t *testing.T, w *world) []error {
			c, s := w.pair(t)
			got := make(chan error)
			go func() {
				_, err := c.Read(make([]byte, 1))
				got <- err
			}()
			time.Sleep(5 * time.Millisecond)
			require.NoError(t, s.SetLinger(0))
			require.NoError(t, s.Close())
			err := <-got
			_, write := c.Write([]byte("x"))
			return []error{err, write}
		}, "broken pipe"},
		{"a connection that is not accepted is reset by the listener's Close", func(t *testing.T, w *world) []error {
			ln, err := w.listen("tcp4", w.server+":0")
			require.NoError(t, err)
			accepted, err := w.dial(context.Background(), dialOptions{}, "tcp", ln.Addr().String())
			require.NoError(t, err)
			defer accepted.Close()
			s, err := ln.Accept()
			require.NoError(t, err)
			defer s.Close()
			waiting, err := w.dial(context.Background(), dialOptions{}, "tcp", ln.Addr().String())
			require.NoError(t, err)
			defer waiting.Close()
			require.NoError(t, ln.Close())
			_, stays := s.Write([]byte("x"))
			_, reads := accepted.Read(make([]byte, 1))
			_, err = waiting.Read(make([]byte, 1))
			return []error{stays, reads, err}
		}, "connection reset by peer"},
		{"listen again where a connection is in TIME-WAIT", func(t *testing.T, w *world) []error {
			ln, err := w.listen("tcp4", w.server+":0")
			require.NoError(t, err)
			c, err := w.dial(context.Background(), dialOptions{}, "tcp", ln.Addr().String())
			require.NoError(t, err)
			s, err := ln.Accept()
			require.NoError(t, err)
			require.NoError(t, s.Close())
			_, err = c.Read(make([]byte, 1))
			require.Equal(t, io.EOF, err)
			require.NoError(t, c.Close())
			require.NoError(t, ln.Close())
			again, err := w.listen("tcp4", ln.Addr().String())
			if err == nil {
				again.Close()
			}
			return []error{err}
		}, "<nil>"},
		{"an empty read", func(t *testing.T, w *world) []error {
			c, _ := w.pair(t)
			require.NoError(t, c.SetReadDeadline(past))
			_, err := c.Read(nil)
			return []error{err}
		}, "<nil>"},
		{"ReadFrom that cannot write", func(t *testing.T, w *world) []error {
			c, _ := w.pair(t)
			require.NoError(t, c.CloseWrite())
			// Not one of those that the kernel has a system call for.
			_, err := c.ReadFrom(strings.NewReader("x"))
			return []error{err}
		}, "write: broken pipe"},
		{"WriteTo that cannot read", func(t *testing.T, w *world) []error {
			c, _ := w.pair(t)
			require.NoError(t, c.SetReadDeadline(past))
			_, err := c.WriteTo(io.Discard)
			return []error{err}
		}, "i/o timeout"},
	}
}

func closedScenarios() []scenario {
	return []scenario{
		{"every method of a closed connection", func(t *testing.T, w *world) []error {
			c, _ := w.pair(t)
			require.NoError(t, c.SetDeadline(time.Unix(1, 0)), "being expired as well does not matter")
			require.NoError(t, c.Close())
			_, read := c.Read(make([]byte, 1))
			_, write := c.Write(make([]byte, 1))
			_, writeNothing := c.Write(nil)
			_, readFrom := c.ReadFrom(strings.NewReader("x"))
			_, writeTo := c.WriteTo(io.Discard)
			return []error{
				read, write, writeNothing, readFrom, writeTo,
				c.SetDeadline(time.Now()), c.SetReadDeadline(time.Now()), c.SetWriteDeadline(time.Now()),
				c.SetReadBuffer(4096), c.SetWriteBuffer(4096), c.SetNoDelay(false), c.SetLinger(1),
				c.SetKeepAlive(true), c.SetKeepAlivePeriod(time.Second), c.SetKeepAliveConfig(net.KeepAliveConfig{}),
				c.CloseRead(), c.CloseWrite(), c.Close(),
			}
		}, "use of closed network connection"},
		{"Close wakes a blocked read", func(t *testing.T, w *world) []error {
			c, _ := w.pair(t)
			got := make(chan error)
			go func() {
				_, err := c.Read(make([]byte, 1))
				got <- err
			}()
			time.Sleep(5 * time.Millisecond)
			require.NoError(t, c.Close())
			return []error{<-got}
		}, "use of closed network connection"},
		{"Close wakes a blocked write", func(t *testing.T, w *world) []error {
			c, _ := w.pair(t)
			got, data := make(chan error), make([]byte, 64<<20)
			go func() {
				_, err := c.Write(data)
				got <- err
			}()
			time.Sleep(20 * time.Millisecond)
			require.NoError(t, c.Close())
			return []error{<-got}
		}, "use of closed network connection"},
		{"every method of a closed listener", func(t *testing.T, w *world) []error {
			ln, err := w.listen("tcp4", w.server+":0")
			require.NoError(t, err)
			got := make(chan error)
			go func() {
				_, err := ln.Accept()
				got <- err
			}()
			time.Sleep(5 * time.Millisecond)
			require.NoError(t, ln.Close())
			_, accept := ln.Accept()
			return []error{<-got, accept, ln.(interface{ SetDeadline(time.Time) error }).SetDeadline(time.Now()), ln.Close()}
		}, "use of closed network connection"},
		{"every method of a closed UDP socket", func(t *testing.T, w *world) []error {
			pc, err := w.listenPacket("udp4", w.server+":0")
			require.NoError(t, err)
			c := pc.(udpConn)
			require.NoError(t, c.Close())
			to := &net.UDPAddr{IP: net.ParseIP(w.server).To4(), Port: 9}
			_, read := c.Read(make([]byte, 1))
			_, _, readFrom := c.ReadFrom(make([]byte, 1))
			_, _, _, _, readMsg := c.ReadMsgUDP(make([]byte, 1), nil)
			_, write := c.Write([]byte("x"))
			_, writeTo := c.WriteTo([]byte("x"), to)
			_, writeToAddrPort := c.WriteToUDPAddrPort([]byte("x"), to.AddrPort())
			_, _, writeMsg := c.WriteMsgUDP([]byte("x"), nil, to)
			return []error{
				read, readFrom, readMsg, write, writeTo, writeToAddrPort, writeMsg,
				c.SetDeadline(time.Now()), c.SetReadBuffer(4096), c.SetWriteBuffer(4096), c.Close(),
			}
		}, "use of closed network connection"},
	}
}

// udpConn is what net.UDPConn and UDPConn have in common.
type udpConn interface {
	net.Conn
	net.PacketConn
	ReadFromUDP(b []byte) (int, *net.UDPAddr, error)
	ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error)
	ReadMsgUDP(b, oob []byte) (n, oobn, flags int, addr *net.UDPAddr, err error)
	ReadMsgUDPAddrPort(b, oob []byte) (n, oobn, flags int, addr netip.AddrPort, err error)
	WriteToUDP(b []byte, addr *net.UDPAddr) (int, error)
	WriteToUDPAddrPort(b []byte, addr netip.AddrPort) (int, error)
	WriteMsgUDP(b, oob []byte, addr *net.UDPAddr) (n, oobn int, err error)
	WriteMsgUDPAddrPort(b, oob []byte, addr netip.AddrPort) (n, oobn int, err error)
	SetReadBuffer(n int) error
	SetWriteBuffer(n int) error
}

func udpScenarios() []scenario {
	listen := func(t *testing.T, w *world) udpConn {
		c, err := w.listenPacket("udp4", w.server+":0")
		require.NoError(t, err)
		t.Cleanup(func() { c.Close() })
		return c.(udpConn)
	}
	// dial connects to a port that is open or not.
	dial := func(t *testing.T, w *world, open bool) udpConn {
		s := listen(t, w)
		c, err := w.dial(context.Background(), dialOptions{}, "udp", s.LocalAddr().String())
		require.NoError(t, err)
		t.Cleanup(func() { c.Close() })
		if !open {
			require.NoError(t, s.Close())
		}
		return c.(udpConn)
	}
	return []scenario{
		{"a read past the deadline of a UDP socket", func(t *testing.T, w *world) []error {
			c := listen(t, w)
			require.NoError(t, c.SetReadDeadline(time.Unix(1, 0)))
			_, _, from := c.ReadFrom(make([]byte, 1))
			_, _, _, _, msg := c.ReadMsgUDPAddrPort(make([]byte, 1), nil)
			_, err := c.Read(make([]byte, 1))
			return []error{from, msg, err}
		}, "i/o timeout"},
		{"a read after a port unreachable", func(t *testing.T, w *world) []error {
			c := dial(t, w, false)
			_, first := c.Write([]byte("x"))
			require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Second)))
			_, err := c.Read(make([]byte, 1))
			return []error{first, err}
		}, "read: connection refused"},
		{"a write after a port unreachable, once", func(t *testing.T, w *world) []error {
			c := dial(t, w, false)
			_, first := c.Write([]byte("x"))
			_, second := c.Write([]byte("x"))
			return []error{first, second}
		}, "write: connection refused"},
		{"ReadFrom after a port unreachable", func(t *testing.T, w *world) []error {
			c := dial(t, w, false)
			_, first := c.Write([]byte("x"))
			_, _, err := c.ReadFrom(make([]byte, 1))
			return []error{first, err}
		}, "recvfrom: connection refused"},
		{"ReadMsgUDP after a port unreachable", func(t *testing.T, w *world) []error {
			c := dial(t, w, false)
			_, first := c.Write([]byte("x"))
			_, _, _, _, err := c.ReadMsgUDP(make([]byte, 1), nil)
			return []error{first, err}
		}, "recvmsg: connection refused"},
		{"WriteTo on a connected socket", func(t *testing.T, w *world) []error {
			c := dial(t, w, true)
			to := c.RemoteAddr().(*net.UDPAddr)
			_, err := c.WriteTo([]byte("x"), to)
			_, addrPort := c.WriteToUDPAddrPort([]byte("x"), to.AddrPort())
			_, _, msg := c.WriteMsgUDP([]byte("x"), nil, to)
			_, _, msgAddrPort := c.WriteMsgUDPAddrPort([]byte("x"), nil, to.AddrPort())
			_, _, fine := c.WriteMsgUDP([]byte("x"), nil, nil)
			return []error{err, addrPort, msg, fine, msgAddrPort}
		}, "use of WriteTo with pre-connected connection"},
		{"Write on a socket that is not connected", func(t *testing.T, w *world) []error {
			_, err := listen(t, w).Write([]byte("x"))
			return []error{err}
		}, "write: destination address required"},
		{"WriteTo an address of another type", func(t *testing.T, w *world) []error {
			c := listen(t, w)
			_, none := c.WriteTo([]byte("x"), nil)
			_, err := c.WriteTo([]byte("x"), &net.TCPAddr{IP: net.ParseIP(w.server), Port: 1})
			return []error{none, err}
		}, "invalid argument"},
		{"WriteTo a missing address", func(t *testing.T, w *world) []error {
			c := listen(t, w)
			_, err := c.WriteToUDP([]byte("x"), nil)
			_, addrPort := c.WriteToUDPAddrPort([]byte("x"), netip.AddrPort{})
			_, _, msg := c.WriteMsgUDP([]byte("x"), nil, nil)
			return []error{addrPort, msg, err}
		}, "missing address"},
		{"WriteTo an IPv6 address on udp4", func(t *testing.T, w *world) []error {
			c := listen(t, w)
			to := &net.UDPAddr{IP: net.ParseIP("2001:db8::1"), Port: 9}
			_, err := c.WriteTo([]byte("x"), to)
			_, addrPort := c.WriteToUDPAddrPort([]byte("x"), to.AddrPort())
			return []error{addrPort, err}
		}, "non-IPv4 address"},
		{"WriteTo port 0", func(t *testing.T, w *world) []error {
			c := listen(t, w)
			_, err := c.WriteTo([]byte("x"), &net.UDPAddr{IP: net.ParseIP(w.server), Port: 0})
			return []error{err}
		}, "sendto: invalid argument"},
		{"a datagram that is too large", func(t *testing.T, w *world) []error {
			c := dial(t, w, true)
			_, most := c.Write(make([]byte, 65507))
			_, err := c.Write(make([]byte, 65508))
			return []error{most, err}
		}, "write: message too long"},
	}
}

func TestDatagramsAreReadAsFromTheKernel(t *testing.T) {
	for _, w := range worlds(t) {
		t.Run(w.name, func(t *testing.T) {
			pc, err := w.listenPacket("udp4", w.server+":0")
			require.NoError(t, err)
			s := pc.(udpConn)
			defer s.Close()
			nc, err := w.dial(context.Background(), dialOptions{}, "udp", s.LocalAddr().String())
			require.NoError(t, err)
			c := nc.(udpConn)
			defer c.Close()
			for _, payload := range []string{"first", "", "third"} {
				n, err := c.Write([]byte(payload))
				require.NoError(t, err)
				require.Equal(t, len(payload), n)
			}
			b := make([]byte, 3)
			n, _, flags, from, err := s.ReadMsgUDPAddrPort(b, nil)
			require.NoError(t, err)
			require.Equal(t, "fir", string(b[:n]))
			require.Equal(t, 0x20, flags, "MSG_TRUNC")
			require.Equal(t, c.LocalAddr().String(), from.String())
			n, _, flags, addr, err := s.ReadMsgUDP(b, nil)
			require.NoError(t, err)
			require.Zero(t, n, "an empty datagram is read as such")
			require.Zero(t, flags)
			require.Equal(t, c.LocalAddr().String(), addr.String())
			n, addr2, err := s.ReadFrom(b)
			require.NoError(t, err, "truncation is silent")
			require.Equal(t, "thi", string(b[:n]))
			require.Equal(t, c.LocalAddr().String(), addr2.(*net.UDPAddr).String())

			_, err = s.WriteTo([]byte("back"), addr2)
			require.NoError(t, err)
			n, err = c.Read(b)
			require.NoError(t, err)
			require.Equal(t, "bac", string(b[:n]))
		})
	}
}

func TestDataQueuedBeforeCloseReadStaysReadable(t *testing.T) {
	for _, w := range worlds(t) {
		t.Run(w.name, func(t *testing.T) {
			c, s := w.pair(t)
			_, err := s.Write([]byte("before"))
			require.NoError(t, err)
			if w.name == "kernel" {
				time.Sleep(5 * time.Millisecond) // until it is there
			}
			require.NoError(t, c.CloseRead())
			_, err = s.Write([]byte(" and after"))
			require.NoError(t, err)
			var got []byte
			b := make([]byte, 64)
			for len(got) < len("before and after") {
				n, err := c.Read(b)
				require.NoError(t, err)
				got = append(got, b[:n]...)
			}
			require.Equal(t, "before and after", string(got))
			_, err = c.Read(b)
			require.Equal(t, io.EOF, err)
		})
	}
}

func TestAddressesAreNetsAndOutliveTheConnection(t *testing.T) {
	for _, w := range worlds(t) {
		t.Run(w.name, func(t *testing.T) {
			c, s := w.pair(t)
			local, remote := c.LocalAddr().(*net.TCPAddr), c.RemoteAddr().(*net.TCPAddr)
			require.Equal(t, w.client, local.IP.String())
			require.Equal(t, w.server, remote.IP.String())
			require.NotZero(t, local.Port)
			require.Equal(t, local.String(), s.RemoteAddr().String())
			require.Equal(t, remote.String(), s.LocalAddr().String())
			require.NoError(t, c.Close())
			require.Same(t, local, c.LocalAddr())
			require.Same(t, remote, c.RemoteAddr())

			pc, err := w.listenPacket("udp4", ":0")
			require.NoError(t, err)
			require.Equal(t, "0.0.0.0", pc.LocalAddr().(*net.UDPAddr).IP.String())
			require.Nil(t, pc.(net.Conn).RemoteAddr(), "not connected")
			require.NoError(t, pc.Close())
			require.Equal(t, "0.0.0.0", pc.LocalAddr().(*net.UDPAddr).IP.String())
		})
	}
}

func TestDialToAWildcardIsDialToTheHostItself(t *testing.T) {
	for _, w := range worlds(t)[:2] {
		t.Run(w.name, func(t *testing.T) {
			ln, err := w.listen("tcp4", ":0")
			require.NoError(t, err)
			defer ln.Close()
			require.Equal(t, "0.0.0.0", ln.Addr().(*net.TCPAddr).IP.String())
			_, port, _ := net.SplitHostPort(ln.Addr().String())
			for _, host := range []string{"", "0.0.0.0", "localhost"} {
				c, err := w.dial(context.Background(), dialOptions{}, "tcp4", host+":"+port)
				require.NoError(t, err)
				require.Equal(t, "127.0.0.1:"+port, c.RemoteAddr().String())
				require.NoError(t, c.Close())
			}
		})
	}
}

func TestSettingsAreTaken(t *testing.T) {
	for _, w := range worlds(t) {
		t.Run(w.name, func(t *testing.T) {
			c, _ := w.pair(t)
			for i, err := range []error{
				c.SetNoDelay(false), c.SetNoDelay(true), c.SetLinger(-1), c.SetLinger(3),
				c.SetKeepAlive(false), c.SetKeepAlive(true), c.SetKeepAlivePeriod(0), c.SetKeepAlivePeriod(time.Minute), c.SetKeepAlivePeriod(-1),
				c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: -1, Count: 3}),
				c.SetReadBuffer(1), c.SetReadBuffer(1 << 20), c.SetWriteBuffer(1), c.SetWriteBuffer(1 << 20),
				c.SetDeadline(time.Now().Add(time.Hour)), c.SetDeadline(time.Time{}), c.SetLinger(0),
			} {
				require.NoError(t, err, "setting %d", i)
			}
			multipath, err := c.MultipathTCP()
			require.NoError(t, err)
			require.False(t, multipath)
		})
	}
}
