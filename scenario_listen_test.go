package usernet

import (
	"context"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAClosedListenerAcceptsNobody(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		ln := w.listenTCP(t)
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
		_, err = w.dial(context.Background(), dialOptions{}, "tcp", ln.Addr().String())
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
	})
}

func TestAPortIsListenedOnAgain(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		ln := w.listenTCP(t)
		for range 10 {
			require.NoError(t, ln.Close())
			var err error
			ln, err = w.listen("tcp", ln.Addr().String())
			require.NoError(t, err)
		}
		defer ln.Close()

		// Nor do the connections of a former listener hold the port.
		c := w.to(t, ln.Addr())
		s, err := ln.Accept()
		require.NoError(t, err)
		defer s.Close()
		require.NoError(t, ln.Close())
		again, err := w.listen("tcp", ln.Addr().String())
		require.NoError(t, err)
		defer again.Close()
		c.Write([]byte("old"))
		require.Equal(t, "old", string(readFull(t, s, 3)))
		second := w.to(t, again.Addr())
		s2, err := again.Accept()
		require.NoError(t, err)
		defer s2.Close()
		second.Write([]byte("new"))
		require.Equal(t, "new", string(readFull(t, s2, 3)))
	})
}

func TestAPortHasOneListener(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		ln := w.listenTCP(t)
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		for _, addr := range []string{ln.Addr().String(), "0.0.0.0:" + port} {
			_, err := w.listen("tcp4", addr)
			require.ErrorIs(t, err, syscall.EADDRINUSE, addr)
		}
		// UDP has ports of its own.
		pc, err := w.listenPacket("udp4", ln.Addr().String())
		require.NoError(t, err)
		_, err = w.listenPacket("udp4", "0.0.0.0:"+port)
		require.ErrorIs(t, err, syscall.EADDRINUSE)
		require.NoError(t, pc.Close())
		again, err := w.listenPacket("udp4", pc.LocalAddr().String())
		require.NoError(t, err)
		again.Close()
	})
}

func TestAWildcardListensOnEachAddress(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		for _, addr := range []string{":0", "0.0.0.0:0"} {
			ln, err := w.listen("tcp4", addr)
			require.NoError(t, err)
			_, port, _ := net.SplitHostPort(ln.Addr().String())
			require.Equal(t, "0.0.0.0:"+port, ln.Addr().String())
			_, err = w.listen("tcp4", w.server+":"+port)
			require.ErrorIs(t, err, syscall.EADDRINUSE)
			c, err := w.dial(context.Background(), dialOptions{}, "tcp4", net.JoinHostPort(w.server, port))
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
	everywhere(t, func(t *testing.T, w *world) {
		ln := w.listenTCP(t)
		from := func(local net.Addr) (net.Conn, error) {
			return w.dial(context.Background(), dialOptions{local: local}, "tcp", ln.Addr().String())
		}
		client := net.ParseIP(w.client)
		for _, local := range []*net.TCPAddr{{IP: client}, {}, {IP: net.IPv4zero}} {
			c, err := from(local)
			require.NoError(t, err)
			require.Equal(t, w.client, c.LocalAddr().(*net.TCPAddr).IP.String())
			require.NotZero(t, c.LocalAddr().(*net.TCPAddr).Port)
			c.Close()
		}
		_, err := from(&net.UDPAddr{IP: client})
		require.ErrorContains(t, err, "mismatched local address type")
		_, err = from(&net.TCPAddr{IP: net.IPv4(198, 51, 100, 77)})
		require.ErrorIs(t, err, syscall.EADDRNOTAVAIL)

		// The port that it names is taken, and free again when it is closed with a reset.
		c, err := from(&net.TCPAddr{IP: client})
		require.NoError(t, err)
		local := c.LocalAddr()
		_, err = from(local)
		require.ErrorIs(t, err, syscall.EADDRINUSE)
		require.NoError(t, c.(tcpConn).SetLinger(0))
		c.Close()
		c, err = from(local)
		require.NoError(t, err)
		require.Equal(t, local.String(), c.LocalAddr().String())
		c.Close()
	})
}

func TestADialIsCancelledByItsContext(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		ln := w.listenTCP(t)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_, err := w.dial(ctx, dialOptions{}, "tcp", ln.Addr().String())
		require.ErrorIs(t, err, context.Canceled)

		// A context that ends after the dial leaves the connection alone.
		ctx, cancel = context.WithCancel(context.Background())
		c, err := w.dial(ctx, dialOptions{}, "tcp", ln.Addr().String())
		require.NoError(t, err)
		defer c.Close()
		cancel()
		go serve(ln, echo)
		c.Write([]byte("there"))
		require.Equal(t, "there", string(readFull(t, c, 5)))
	})
}

func TestADialHasNoTimeAtAll(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		ln := w.listenTCP(t)
		options := []dialOptions{
			{timeout: -time.Second}, {deadline: time.Now().Add(-time.Second)}, {deadline: time.Unix(1, 0)},
			{timeout: time.Hour, deadline: time.Now().Add(-time.Second)},
		}
		if w.name != "virtual time" { // where a handshake takes none
			options = append(options, dialOptions{timeout: time.Nanosecond})
		}
		for _, o := range options {
			_, err := w.dial(context.Background(), o, "tcp", ln.Addr().String())
			var ne net.Error
			require.ErrorAs(t, err, &ne)
			require.True(t, ne.Timeout())
			require.ErrorContains(t, err, "i/o timeout")
		}
	})
}

func TestNetworksThatDoNotExist(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world) {
		for _, network := range []string{"", "tcp5", "udp0", "bogus", "tcp ", "ip:", "ip4", "ip9:icmp"} {
			_, err := w.dial(context.Background(), dialOptions{}, network, "127.0.0.1:80")
			require.Error(t, err, network)
			_, err = w.listen(network, "127.0.0.1:0")
			require.Error(t, err, network)
			_, err = w.listenPacket(network, "127.0.0.1:0")
			require.Error(t, err, network)
		}
		_, err := w.listen("udp", "127.0.0.1:0")
		require.ErrorContains(t, err, "unexpected address type")
		_, err = w.listenPacket("tcp", "127.0.0.1:0")
		require.ErrorContains(t, err, "unexpected address type")
	})
}
