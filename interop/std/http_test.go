package std

import (
	"bufio"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/internal/hosttest"
)

// content returns n bytes without repetitions, the same each time.
func content(n int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{'u', 's', 'e', 'r', 'n', 'e', 't'}), n)
}

// sum returns the length and the SHA-256 of the rest of r.
func sum(t *testing.T, r io.Reader) (text string) {
	t.Helper()
	h := sha256.New()
	n, err := io.CopyBuffer(h, struct{ io.Reader }{r}, make([]byte, 256<<10))
	require.NoError(t, err)
	return fmt.Sprintf("%d %x", n, h.Sum(nil))
}

// site returns a handler with many kinds of pages.
func site() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /hello", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello over %s", r.Proto)
	})
	mux.HandleFunc("GET /large", func(w http.ResponseWriter, r *http.Request) {
		io.CopyBuffer(struct{ io.Writer }{w}, content(streamed), make([]byte, 256<<10))
	})
	mux.HandleFunc("PUT /sum", func(w http.ResponseWriter, r *http.Request) {
		h := sha256.New()
		n, err := io.CopyBuffer(h, struct{ io.Reader }{r.Body}, make([]byte, 256<<10))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		fmt.Fprintf(w, "%d %x", n, h.Sum(nil))
	})
	mux.HandleFunc("GET /ticks", func(w http.ResponseWriter, r *http.Request) {
		for i := range 5 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			http.NewResponseController(w).Flush()
		}
	})
	mux.HandleFunc("GET /late", func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(20 * time.Millisecond)
		rc := http.NewResponseController(w)
		rc.SetWriteDeadline(time.Unix(1, 0))
		_, err := w.Write(make([]byte, 1<<20))
		if err == nil {
			err = rc.Flush()
		}
		if err == nil {
			panic("wrote after the deadline")
		}
	})
	mux.HandleFunc("GET /ws", echoFrames)
	return mux
}

// echoFrames is a WebSocket (RFC 6455) that sends every text frame back.
func echoFrames(w http.ResponseWriter, r *http.Request) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		http.Error(w, "not a WebSocket", http.StatusUpgradeRequired)
		return
	}
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer c.Close()
	fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		acceptKey(r.Header.Get("Sec-WebSocket-Key")))
	for {
		if err := rw.Flush(); err != nil {
			return
		}
		op, payload, err := readFrame(rw)
		if err != nil {
			return
		}
		if err := writeFrame(rw, op, payload, nil); err != nil {
			return
		}
	}
}

// RFC 6455 4.2.2: the key, with a GUID appended, hashed with SHA-1, in base64.
func acceptKey(key string) string {
	h := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(h[:])
}

// writeFrame writes a final frame of RFC 6455 5.2, masked if there is a mask. It always uses the 16-bit form of the
// length, which the first length 126 announces.
func writeFrame(w io.Writer, op byte, payload, mask []byte) error {
	b := []byte{0x80 | op, 126}
	b = binary.BigEndian.AppendUint16(b, uint16(len(payload)))
	if mask != nil {
		b[1] |= 0x80
		b = append(b, mask...)
	}
	at := len(b)
	b = append(b, payload...)
	if mask != nil {
		for i := range payload {
			b[at+i] ^= mask[i%4]
		}
	}
	_, err := w.Write(b)
	return err
}

// readFrame reads a frame as writeFrame writes them.
func readFrame(r io.Reader) (op byte, payload []byte, err error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	if head[1]&0x7f != 126 {
		return 0, nil, fmt.Errorf("length %d: not one of ours", head[1]&0x7f)
	}
	var mask [4]byte
	if head[1]&0x80 != 0 {
		if _, err := io.ReadFull(r, mask[:]); err != nil {
			return 0, nil, err
		}
	}
	payload = make([]byte, binary.BigEndian.Uint16(head[2:]))
	if _, err := io.ReadFull(r, payload); err != nil {
		return 0, nil, err
	}
	for i := range payload {
		payload[i] ^= mask[i%4]
	}
	return head[0] & 0x0f, payload, nil
}

// serveHTTP serves a handler until the end of the test, over TLS if cfg is not nil.
func serveHTTP(t *testing.T, ln net.Listener, handler http.Handler, cfg *tls.Config) {
	t.Helper()
	server := &http.Server{Handler: handler, TLSConfig: cfg, ErrorLog: log.New(io.Discard, "", 0)}
	served := make(chan error, 1)
	go func() {
		if cfg == nil {
			served <- server.Serve(ln)
		} else {
			served <- server.ServeTLS(ln, "", "")
		}
	}()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		require.NoError(t, server.Shutdown(ctx))
		require.ErrorIs(t, <-served, http.ErrServerClosed)
	})
}

// newClient makes a client on a host.
func newClient(t *testing.T, h *usernet.Host, cfg *tls.Config, h2 bool) *http.Client {
	transport := &http.Transport{DialContext: h.DialContext, TLSClientConfig: cfg, ForceAttemptHTTP2: h2}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// get returns the body and the protocol of a page.
func get(t *testing.T, client *http.Client, url string) (body, proto string) {
	t.Helper()
	resp, err := client.Get(url)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.StatusCode, "%s", b)
	return string(b), resp.Proto
}

// browse makes the requests that a browser makes.
func browse(t *testing.T, client *http.Client, url, proto string) {
	body, got := get(t, client, url+"/hello")
	require.Equal(t, proto, got)
	require.Equal(t, "hello over "+proto, body)

	body, _ = get(t, client, url+"/ticks")
	require.Equal(t, "data: 0\n\ndata: 1\n\ndata: 2\n\ndata: 3\n\ndata: 4\n\n", body)

	req, err := http.NewRequest("PUT", url+"/sum", content(3<<20))
	require.NoError(t, err)
	resp, err := client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, sum(t, content(3<<20)), string(b))

	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			resp, err := client.Get(url + "/hello")
			if err != nil {
				t.Errorf("one of many requests: %v", err)
				return
			}
			defer resp.Body.Close()
			if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "hello over "+proto {
				t.Errorf("one of many requests: %q, %v", b, err)
			}
		})
	}
	wg.Wait()

	resp, err = client.Get(url + "/late")
	if err == nil {
		_, err = io.ReadAll(resp.Body)
		resp.Body.Close()
	}
	// A proxy that has not started its answer reports the failure with the status 502.
	if err == nil && resp.StatusCode != http.StatusBadGateway {
		t.Fatal("the handler's write deadline had passed, but the answer is whole")
	}
}

func TestHTTP1(t *testing.T) {
	h := hosttest.Named(t, "client.test", "server.test")
	serveHTTP(t, hosttest.Listen(t, h[1], ":80"), site(), nil)
	browse(t, newClient(t, h[0], nil, false), "http://server.test", "HTTP/1.1")
}

func TestHTTP1OverTLS(t *testing.T) {
	h := hosttest.Named(t, "client.test", "server.test")
	cert, pool := hosttest.Certificate(t, "server.test")
	serveHTTP(t, hosttest.Listen(t, h[1], ":https"), site(), &tls.Config{Certificates: []tls.Certificate{cert}})
	browse(t, newClient(t, h[0], &tls.Config{RootCAs: pool}, false), "https://server.test", "HTTP/1.1")
}

func TestHTTP2OverTLS(t *testing.T) {
	h := hosttest.Named(t, "client.test", "server.test")
	cert, pool := hosttest.Certificate(t, "server.test")
	serveHTTP(t, hosttest.Listen(t, h[1], ":https"), site(), &tls.Config{Certificates: []tls.Certificate{cert}})
	browse(t, newClient(t, h[0], &tls.Config{RootCAs: pool}, true), "https://server.test", "HTTP/2.0")
}

// newProxy runs a reverse proxy on the second host for the third host's site.
func newProxy(t *testing.T, h []*usernet.Host) {
	backend, err := url.Parse("http://backend.test")
	require.NoError(t, err)
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(backend) },
		Transport: newClient(t, h[1], nil, false).Transport,
		ErrorLog:  log.New(io.Discard, "", 0),
	}
	serveHTTP(t, hosttest.Listen(t, h[2], ":80"), site(), nil)
	serveHTTP(t, hosttest.Listen(t, h[1], ":80"), proxy, nil)
}

func TestReverseProxy(t *testing.T) {
	h := hosttest.Named(t, "client.test", "proxy.test", "backend.test")
	newProxy(t, h)
	browse(t, newClient(t, h[0], nil, false), "http://proxy.test", "HTTP/1.1")
}

func TestWebSocketUpgradeThroughReverseProxy(t *testing.T) {
	h := hosttest.Named(t, "client.test", "proxy.test", "backend.test")
	newProxy(t, h)
	for _, name := range []string{"backend.test", "proxy.test"} {
		c, err := h[0].Dial("tcp", name+":http")
		require.NoError(t, err)
		defer c.Close()
		key := "dGhlIHNhbXBsZSBub25jZQ=="
		_, err = fmt.Fprintf(c, "GET /ws HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n\r\n", name, key)
		require.NoError(t, err)
		r := bufio.NewReader(c)
		resp, err := http.ReadResponse(r, nil)
		require.NoError(t, err)
		require.Equal(t, http.StatusSwitchingProtocols, resp.StatusCode)
		require.Equal(t, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", resp.Header.Get("Sec-WebSocket-Accept"), "the example of RFC 6455 1.3")
		for _, text := range []string{"one", strings.Repeat("two", 10000), ""} {
			require.NoError(t, writeFrame(c, 1, []byte(text), []byte{1, 2, 3, 4}))
			op, got, err := readFrame(r)
			require.NoError(t, err)
			require.Equal(t, byte(1), op)
			require.Equal(t, text, string(got))
		}
		require.NoError(t, c.(*usernet.TCPConn).CloseWrite())
		_, err = r.ReadByte()
		require.ErrorIs(t, err, io.EOF)
	}
}

func TestLargeDownloadAndUploadArriveWhole(t *testing.T) {
	h := hosttest.Named(t, "client.test", "server.test")
	serveHTTP(t, hosttest.Listen(t, h[1], ":80"), site(), nil)
	client := newClient(t, h[0], nil, false)
	want := sum(t, content(streamed))

	resp, err := client.Get("http://server.test/large")
	require.NoError(t, err)
	require.Equal(t, want, sum(t, resp.Body))
	require.NoError(t, resp.Body.Close())

	// A body without a length is sent in chunks, and the connection is used again.
	reused := false
	trace := &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused }}
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), "PUT", "http://server.test/sum", content(streamed))
	require.NoError(t, err)
	resp, err = client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, want, string(b))
	require.True(t, reused)
}
