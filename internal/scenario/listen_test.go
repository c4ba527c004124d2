package scenario

import (
	"context"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/usernet/usernet/internal/hosttest"
	"github.com/usernet/usernet/internal/world"
)

func TestAClosedListenerAcceptsNobody(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		ln := w.ListenTCP(t)
		failed := make(chan error, 1)
		go func() {
			_, err := ln.Accept()
			failed <- err
		}()
		time.Sleep(10 * time.Millisecond)
		require.NoError(t, ln.Close())
		require.ErrorIs(t, <-failed, net.ErrClosed)
		_, err := ln.Accept()
		require.ErrorIs(t, err, net.ErrClosed)
		require.ErrorIs(t, ln.Close(), net.ErrClosed)
		_, err = w.Dial(context.Background(), world.DialOptions{}, "tcp", ln.Addr().String())
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
	})
}

func TestAPortIsListenedOnAgain(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		ln := w.ListenTCP(t)
		for range 10 {
			require.NoError(t, ln.Close())
			var err error
			ln, err = w.Listen("tcp", ln.Addr().String())
			require.NoError(t, err)
		}
		defer ln.Close()

		// The open connections of a closed listener do not keep the listener's port in use either.
		c := w.To(t, ln.Addr())
		s, err := ln.Accept()
		require.NoError(t, err)
		defer s.Close()
		require.NoError(t, ln.Close())
		again, err := w.Listen("tcp", ln.Addr().String())
		require.NoError(t, err)
		defer again.Close()
		c.Write([]byte("old"))
		require.Equal(t, "old", string(readFull(t, s, 3)))
		second := w.To(t, again.Addr())
		s2, err := again.Accept()
		require.NoError(t, err)
		defer s2.Close()
		second.Write([]byte("new"))
		require.Equal(t, "new", string(readFull(t, s2, 3)))
	})
}

func TestAPortHasOneListener(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		ln := w.ListenTCP(t)
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		for _, addr := range []string{ln.Addr().String(), "0.0.0.0:" + port} {
			_, err := w.Listen("tcp4", addr)
			require.ErrorIs(t, err, syscall.EADDRINUSE, addr)
		}
		// UDP has separate ports.
		pc, err := w.ListenPacket("udp4", ln.Addr().String())
		require.NoError(t, err)
		_, err = w.ListenPacket("udp4", "0.0.0.0:"+port)
		require.ErrorIs(t, err, syscall.EADDRINUSE)
		require.NoError(t, pc.Close())
		again, err := w.ListenPacket("udp4", pc.LocalAddr().String())
		require.NoError(t, err)
		again.Close()
	})
}

func TestAWildcardListensOnEachAddress(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		for _, addr := range []string{":0", "0.0.0.0:0"} {
			ln, err := w.Listen("tcp4", addr)
			require.NoError(t, err)
			_, port, _ := net.SplitHostPort(ln.Addr().String())
			require.Equal(t, "0.0.0.0:"+port, ln.Addr().String())
			_, err = w.Listen("tcp4", w.Server+":"+port)
			require.ErrorIs(t, err, syscall.EADDRINUSE)
			c, err := w.Dial(context.Background(), world.DialOptions{}, "tcp4", net.JoinHostPort(w.Server, port))
			require.NoError(t, err)
			s, err := ln.Accept()
			require.NoError(t, err)
			require.Equal(t, c.RemoteAddr().String(), s.LocalAddr().String(), "the connection has an address")
			c.Close()
			s.Close()
			ln.Close()
		}
	})
}

func TestADialIsMadeFromTheAddressItNames(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		ln := w.ListenTCP(t)
		from := func(local net.Addr) (net.Conn, error) {
			return w.Dial(context.Background(), world.DialOptions{Local: local}, "tcp", ln.Addr().String())
		}
		client := net.ParseIP(w.Client)
		for _, local := range []*net.TCPAddr{{IP: client}, {}, {IP: net.IPv4zero}} {
			c, err := from(local)
			require.NoError(t, err)
			require.Equal(t, w.Client, c.LocalAddr().(*net.TCPAddr).IP.String())
			require.NotZero(t, c.LocalAddr().(*net.TCPAddr).Port)
			c.Close()
		}
		_, err := from(&net.UDPAddr{IP: client})
		require.ErrorContains(t, err, "mismatched local address type")
		_, err = from(&net.TCPAddr{IP: net.IPv4(198, 51, 100, 77)})
		require.ErrorIs(t, err, syscall.EADDRNOTAVAIL)

		// The local port of a connection is in use. After a close with a reset, it is free again.
		c, err := from(&net.TCPAddr{IP: client})
		require.NoError(t, err)
		local := c.LocalAddr()
		_, err = from(local)
		require.ErrorIs(t, err, syscall.EADDRINUSE)
		require.NoError(t, c.(world.TCPConn).SetLinger(0))
		c.Close()
		c, err = from(local)
		require.NoError(t, err)
		require.Equal(t, local.String(), c.LocalAddr().String())
		c.Close()
	})
}

func TestADialIsCancelledByItsContext(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		ln := w.ListenTCP(t)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_, err := w.Dial(ctx, world.DialOptions{}, "tcp", ln.Addr().String())
		require.ErrorIs(t, err, context.Canceled)

		// A context that ends after the dial does not affect the connection.
		ctx, cancel = context.WithCancel(context.Background())
		c, err := w.Dial(ctx, world.DialOptions{}, "tcp", ln.Addr().String())
		require.NoError(t, err)
		defer c.Close()
		cancel()
		go hosttest.Serve(ln, hosttest.Echo)
		c.Write([]byte("there"))
		require.Equal(t, "there", string(readFull(t, c, 5)))
	})
}

func TestADialPastItsDeadlineTimesOut(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		ln := w.ListenTCP(t)
		options := []world.DialOptions{
			{Timeout: -time.Second}, {Deadline: time.Now().Add(-time.Second)}, {Deadline: time.Unix(1, 0)},
			{Timeout: time.Hour, Deadline: time.Now().Add(-time.Second)},
		}
		if w.Name != "virtual time" { // in virtual time, a handshake takes no time
			options = append(options, world.DialOptions{Timeout: time.Nanosecond})
		}
		for _, o := range options {
			_, err := w.Dial(context.Background(), o, "tcp", ln.Addr().String())
			var ne net.Error
			require.ErrorAs(t, err, &ne)
			require.True(t, ne.Timeout())
			require.ErrorContains(t, err, "i/o timeout")
		}
	})
}

func TestNetworksThatDoNotExist(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		for _, network := range []string{"", "tcp5", "udp0", "bogus", "tcp ", "ip:", "ip4", "ip9:icmp"} {
			_, err := w.Dial(context.Background(), world.DialOptions{}, network, "127.0.0.1:80")
			require.Error(t, err, network)
			_, err = w.Listen(network, "127.0.0.1:0")
			require.Error(t, err, network)
			_, err = w.ListenPacket(network, "127.0.0.1:0")
			require.Error(t, err, network)
		}
		_, err := w.Listen("udp", "127.0.0.1:0")
		require.ErrorContains(t, err, "unexpected address type")
		_, err = w.ListenPacket("tcp", "127.0.0.1:0")
		require.ErrorContains(t, err, "unexpected address type")
	})
}
