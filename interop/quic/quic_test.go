package quic

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/internal/hosttest"
	"github.com/usernet/usernet/nic"
)

// farAway is a link to a distant network.
var farAway = nic.Impairment{Latency: 50 * time.Millisecond, Loss: 0.01}

var config = quic.Config{EnableDatagrams: true, MaxIdleTimeout: 30 * time.Second}

// connect makes a QUIC connection between two hosts. It is closed at the end of the test.
func connect(t *testing.T, a, b *usernet.Host) (client, server *quic.Conn) {
	t.Helper()
	clientTLS, serverTLS := hosttest.TLS(t, "echo")
	pc, err := b.ListenPacket("udp", ":4433")
	require.NoError(t, err)
	tr := &quic.Transport{Conn: pc}
	ln, err := tr.Listen(serverTLS, &config)
	require.NoError(t, err)
	clientTr := &quic.Transport{Conn: listenPacket(t, a)}
	raddr, err := a.ResolveUDPAddr("udp", "server.test:4433")
	require.NoError(t, err)
	client, err = clientTr.Dial(t.Context(), raddr, clientTLS, &config)
	require.NoError(t, err)
	server, err = ln.Accept(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, client.CloseWithError(0, "bye"))
		require.NoError(t, clientTr.Close())
		require.NoError(t, tr.Close())
		require.NoError(t, pc.Close())
	})
	return client, server
}

func listenPacket(t *testing.T, h *usernet.Host) net.PacketConn {
	t.Helper()
	pc, err := h.ListenPacket("udp", ":0")
	require.NoError(t, err)
	t.Cleanup(func() { pc.Close() })
	return pc
}

// echo sends back the data of each stream, and each datagram.
func echo(ctx context.Context, c *quic.Conn) {
	go func() {
		for {
			d, err := c.ReceiveDatagram(ctx)
			if err != nil {
				return
			}
			c.SendDatagram(d)
		}
	}()
	for {
		s, err := c.AcceptStream(ctx)
		if err != nil {
			return
		}
		go func() {
			defer s.Close()
			io.Copy(s, s)
		}()
	}
}

// content returns n bytes without repetitions, the same each time.
func content(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{'q'}).Read(b)
	return b
}

// exercise sends data over several concurrent streams, and checks that it comes back.
func exercise(ctx context.Context, t *testing.T, c *quic.Conn, data []byte) {
	t.Helper()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			s, err := c.OpenStreamSync(ctx)
			if err != nil {
				t.Errorf("open: %v", err)
				return
			}
			go func() {
				s.Write(data)
				s.Close()
			}()
			back, err := io.ReadAll(s)
			if err != nil || !bytes.Equal(data, back) {
				t.Errorf("%d of %d bytes came back: %v", len(back), len(data), err)
			}
		})
	}
	wg.Wait()
}

func TestStreamsAndDatagrams(t *testing.T) {
	a, b := hosttest.Pair(t)
	client, server := connect(t, a, b)
	go echo(t.Context(), server)
	require.Equal(t, client.LocalAddr().(*net.UDPAddr).Port, server.RemoteAddr().(*net.UDPAddr).Port)
	require.Equal(t, "192.0.2.1", server.RemoteAddr().(*net.UDPAddr).IP.String())
	exercise(t.Context(), t, client, content(1<<20))
	for i := range 10 {
		require.NoError(t, client.SendDatagram([]byte{byte(i)}))
		d, err := client.ReceiveDatagram(t.Context())
		require.NoError(t, err)
		require.Equal(t, []byte{byte(i)}, d)
	}
}

func TestLossyLinkInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, impair := hosttest.ImpairedPair(t, 3)
		impair(farAway)
		began := time.Now()
		client, server := connect(t, a, b)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go echo(ctx, server)
		exercise(ctx, t, client, content(200<<10))
		require.Greater(t, time.Since(began), 4*farAway.Latency)

		// The link is cut. Blocked calls end when the connection has been idle too long.
		impair(nic.Impairment{Loss: 1})
		s, err := client.OpenStreamSync(ctx)
		require.NoError(t, err)
		_, err = s.Write([]byte("lost"))
		require.NoError(t, err)
		began = time.Now()
		_, err = s.Read(make([]byte, 1))
		var idle *quic.IdleTimeoutError
		require.ErrorAs(t, err, &idle)
		require.InDelta(t, 30, time.Since(began).Seconds(), 5)
	})
}

func TestServerThatIsNotThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := hosttest.Pair(t)
		clientTLS, _ := hosttest.TLS(t, "echo")
		pc := listenPacket(t, a)
		tr := &quic.Transport{Conn: pc}
		began := time.Now()
		_, err := tr.Dial(t.Context(), &net.UDPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 4433}, clientTLS, &config)
		var timeout net.Error
		require.ErrorAs(t, err, &timeout)
		require.True(t, timeout.Timeout())
		require.Equal(t, 5*time.Second, time.Since(began), "an unconnected socket is not told of a closed port")
		require.NoError(t, tr.Close())
		require.NoError(t, pc.Close())
	})
}

// site says hello, answers an upload with its size and SHA-256, and serves content.
func site() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /hello", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello over %s", r.Proto)
	})
	mux.HandleFunc("PUT /sum", func(w http.ResponseWriter, r *http.Request) {
		h := sha256.New()
		n, err := io.Copy(h, r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		fmt.Fprintf(w, "%d %x", n, h.Sum(nil))
	})
	mux.HandleFunc("GET /content", func(w http.ResponseWriter, r *http.Request) { w.Write(content(4 << 20)) })
	return mux
}

// newSite serves HTTP/3 on one host and makes a client on the other.
func newSite(t *testing.T, a, b *usernet.Host) *http.Client {
	t.Helper()
	clientTLS, serverTLS := hosttest.TLS(t, http3.NextProtoH3)
	pc, err := b.ListenPacket("udp", ":https")
	require.NoError(t, err)
	s := &http3.Server{Handler: site(), TLSConfig: serverTLS}
	served := make(chan error, 1)
	go func() { served <- s.Serve(pc) }()
	tr := &quic.Transport{Conn: listenPacket(t, a)}
	h3 := &http3.Transport{
		TLSClientConfig: clientTLS,
		Dial: func(ctx context.Context, addr string, tlsConfig *tls.Config, config *quic.Config) (*quic.Conn, error) {
			raddr, err := a.ResolveUDPAddr("udp", addr)
			if err != nil {
				return nil, err
			}
			return tr.DialEarly(ctx, raddr, tlsConfig, config)
		},
	}
	t.Cleanup(func() {
		require.NoError(t, h3.Close())
		require.NoError(t, tr.Close())
		require.NoError(t, s.Close())
		require.ErrorIs(t, <-served, http.ErrServerClosed)
		require.NoError(t, pc.Close())
	})
	return &http.Client{Transport: h3}
}

// read returns the body of a response.
func read(t *testing.T, resp *http.Response, err error) []byte {
	t.Helper()
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.StatusCode, "%s", b)
	return b
}

func TestHTTP3(t *testing.T) {
	a, b := hosttest.Pair(t)
	client := newSite(t, a, b)
	resp, err := client.Get("https://server.test/hello")
	require.Equal(t, "hello over HTTP/3.0", string(read(t, resp, err)))

	resp, err = client.Get("https://server.test/content")
	require.True(t, bytes.Equal(content(4<<20), read(t, resp, err)))

	data := content(4 << 20)
	req, err := http.NewRequest("PUT", "https://server.test/sum", bytes.NewReader(data))
	require.NoError(t, err)
	resp, err = client.Do(req)
	require.Equal(t, fmt.Sprintf("%d %x", len(data), sha256.Sum256(data)), string(read(t, resp, err)))

	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			resp, err := client.Get("https://server.test/hello")
			if err != nil {
				t.Errorf("one of many requests: %v", err)
				return
			}
			defer resp.Body.Close()
			if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "hello over HTTP/3.0" {
				t.Errorf("one of many requests: %q, %v", b, err)
			}
		})
	}
	wg.Wait()
}
