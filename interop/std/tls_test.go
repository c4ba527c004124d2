package std

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/internal/hosttest"
)

// serveTLS tells each client whether its session was resumed, and then sends back the data that it
// receives.
func serveTLS(ln net.Listener, cfg *tls.Config) {
	hosttest.Serve(ln, func(c net.Conn) {
		s := tls.Server(c, cfg)
		defer s.Close()
		if err := s.Handshake(); err != nil {
			return
		}
		fmt.Fprintf(s, "%-5t", s.ConnectionState().DidResume)
		io.Copy(s, s)
	})
}

// talk has a short conversation and returns whether each side resumed a session.
func talk(t *testing.T, h *usernet.Host, cfg *tls.Config) (client, server bool) {
	t.Helper()
	raw, err := h.Dial("tcp", "server.test:4433")
	require.NoError(t, err)
	c := tls.Client(raw, cfg)
	defer c.Close()
	var told [5]byte
	_, err = io.ReadFull(c, told[:])
	require.NoError(t, err)
	_, err = io.WriteString(c, "hello")
	require.NoError(t, err)
	// TLS has its own half-close. The peer answers it and ends.
	require.NoError(t, c.CloseWrite())
	back, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Equal(t, "hello", string(back))
	return c.ConnectionState().DidResume, string(told[:]) == "true "
}

func TestTLSSessionsAreResumed(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			h := hosttest.Named(t, "client.test", "server.test")
			cert, pool := hosttest.Certificate(t, "server.test")
			go serveTLS(hosttest.Listen(t, h[1], ":4433"), &tls.Config{Certificates: []tls.Certificate{cert}, MaxVersion: version})
			cfg := &tls.Config{RootCAs: pool, ServerName: "server.test", ClientSessionCache: tls.NewLRUClientSessionCache(1)}
			for i := range 3 {
				client, server := talk(t, h[0], cfg)
				require.Equal(t, i > 0, client, "connection %d", i)
				require.Equal(t, i > 0, server, "connection %d", i)
			}
		})
	}
}

func TestTLSClientRefusesAServerItDoesNotKnow(t *testing.T) {
	h := hosttest.Named(t, "client.test", "server.test")
	cert, _ := hosttest.Certificate(t, "server.test")
	_, other := hosttest.Certificate(t, "server.test")
	go serveTLS(hosttest.Listen(t, h[1], ":4433"), &tls.Config{Certificates: []tls.Certificate{cert}})
	raw, err := h[0].Dial("tcp", "server.test:4433")
	require.NoError(t, err)
	defer raw.Close()
	err = tls.Client(raw, &tls.Config{RootCAs: other, ServerName: "server.test"}).Handshake()
	var unknown *tls.CertificateVerificationError
	require.ErrorAs(t, err, &unknown)
}
