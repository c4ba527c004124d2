package usernet

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/usernet/usernet/nic"
)

// newCertificate makes a certificate for an address and a pool that trusts it. The certificate is
// valid in real time and in the time of a bubble.
func newCertificate(t testing.TB, addr string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "usernet test"},
		NotBefore:             time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:              time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC),
		IPAddresses:           []net.IP{net.ParseIP(addr)},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: cert}, pool
}

// A site is an http.Server on one host and a client on another.
type site struct {
	server *http.Server
	client *http.Client
	url    string
	served chan error    // what Serve returned
	slow   chan struct{} // receives a value when a request for /slow has arrived
}

// newSite serves a handler at addr on the host server, and makes a client on the host client. With TLS,
// both use HTTP/2.
func newSite(t testing.TB, client, server *Host, addr string, withTLS bool, handler http.Handler, configure ...func(*http.Server)) *site {
	t.Helper()
	ln, err := server.Listen("tcp", net.JoinHostPort(addr, "0"))
	require.NoError(t, err)
	transport := &http.Transport{DialContext: client.DialContext, ForceAttemptHTTP2: withTLS}
	s := &site{
		server: &http.Server{},
		client: &http.Client{Transport: transport},
		url:    "http://" + ln.Addr().String(),
		served: make(chan error, 1),
		slow:   make(chan struct{}, 10),
	}
	s.server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			s.slow <- struct{}{}
		}
		handler.ServeHTTP(w, r)
	})
	for _, f := range configure {
		f(s.server)
	}
	serve := func() error { return s.server.Serve(ln) }
	if withTLS {
		cert, pool := newCertificate(t, addr)
		s.url = "https://" + ln.Addr().String()
		s.server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool}
		serve = func() error { return s.server.ServeTLS(ln, "", "") }
	}
	go func() { s.served <- serve() }()
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		s.server.Close()
	})
	return s
}

// shutdown shuts the server down gracefully.
func (s *site) shutdown(t testing.TB) {
	t.Helper()
	s.client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	require.NoError(t, s.server.Shutdown(ctx))
	require.Equal(t, http.ErrServerClosed, <-s.served)
}

// testHandler returns a handler with many kinds of pages.
func testHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/hello", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello %s", r.RemoteAddr)
	})
	mux.HandleFunc("/sum", func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.New()
		n, err := io.Copy(sum, r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprintf(w, "%d %x %v", n, sum.Sum(nil), r.TransferEncoding)
	})
	mux.HandleFunc("/bytes", func(w http.ResponseWriter, r *http.Request) {
		for range 64 {
			w.Write(bytes.Repeat([]byte("0123456789abcdef"), 512)) // 8 KiB
			http.NewResponseController(w).Flush()
		}
	})
	mux.HandleFunc("/hang", func(w http.ResponseWriter, r *http.Request) {
		<-r.Context().Done() // ends when the server notices that the client has gone
	})
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(50 * time.Millisecond)
		io.WriteString(w, "at last")
	})
	mux.HandleFunc("/hijack", func(w http.ResponseWriter, r *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		defer c.Close()
		fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		rw.Flush()
		io.Copy(c, rw)
	})
	return mux
}

// get returns the body of a page.
func (s *site) get(t testing.TB, path string) (*http.Response, string) {
	t.Helper()
	resp, err := s.client.Get(s.url + path)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.StatusCode, string(body))
	return resp, string(body)
}

// exercise makes the requests that programs make. major is the expected version of HTTP, and upload is the size of an
// upload in bytes.
func (s *site) exercise(t testing.TB, major, upload int) {
	resp, body := s.get(t, "/hello")
	require.Equal(t, major, resp.ProtoMajor)
	require.Contains(t, body, "hello ")

	// Keep-alive: the connection of the first request is used again.
	reused := false
	trace := &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused }}
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(context.Background(), trace), "GET", s.url+"/hello", nil)
	require.NoError(t, err)
	resp, err = s.client.Do(req)
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, resp.Body)
	require.NoError(t, err)
	resp.Body.Close()
	require.True(t, reused)

	// An upload of unknown length is chunked in HTTP/1.1.
	data := make([]byte, upload)
	rand.Read(data)
	resp, err = s.client.Post(s.url+"/sum", "application/octet-stream", io.MultiReader(bytes.NewReader(data)))
	require.NoError(t, err)
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	resp.Body.Close()
	encoding := "[chunked]"
	if major == 2 {
		encoding = "[]"
	}
	require.Equal(t, fmt.Sprintf("%d %x %s", upload, sha256.Sum256(data), encoding), string(text))

	_, body = s.get(t, "/bytes")
	require.Equal(t, 512<<10, len(body))

	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			resp, err := s.client.Get(s.url + "/hello")
			if err == nil {
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			if err != nil {
				t.Errorf("one of many requests: %v", err)
			}
		})
	}
	wg.Wait()
}

// hijack switches a connection to another protocol.
func (s *site) hijack(t testing.TB, client *Host) {
	c, err := client.Dial("tcp", s.url[len("http://"):])
	require.NoError(t, err)
	defer c.Close()
	_, err = io.WriteString(c, "GET /hijack HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nearly")
	require.NoError(t, err)
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusSwitchingProtocols, resp.StatusCode)
	_, err = io.WriteString(c, " and late")
	require.NoError(t, err)
	require.NoError(t, c.(*TCPConn).CloseWrite())
	got, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Equal(t, "early and late", string(got))
}

// timeOut makes requests that are not answered in time.
func (s *site) timeOut(t testing.TB) {
	impatient := &http.Client{Transport: s.client.Transport, Timeout: time.Second}
	_, err := impatient.Get(s.url + "/hang")
	var ne net.Error
	require.ErrorAs(t, err, &ne)
	require.True(t, ne.Timeout())
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(500*time.Millisecond, cancel)
	req, err := http.NewRequestWithContext(ctx, "GET", s.url+"/hang", nil)
	require.NoError(t, err)
	_, err = s.client.Do(req)
	require.ErrorIs(t, err, context.Canceled)
}

// slowShutdown shuts the server down while it handles a request.
func (s *site) slowShutdown(t testing.TB) {
	got := make(chan error, 1)
	go func() {
		resp, err := s.client.Get(s.url + "/slow")
		if err == nil {
			var body []byte
			body, err = io.ReadAll(resp.Body)
			resp.Body.Close()
			if err == nil && string(body) != "at last" {
				err = errors.New("cut short: " + string(body))
			}
		}
		got <- err
	}()
	<-s.slow
	s.shutdown(t)
	require.NoError(t, <-got)
	_, err := s.client.Get(s.url + "/hello")
	require.Error(t, err)
}

func TestHTTP1OverPipe(t *testing.T) {
	a, b := newPair(t)
	s := newSite(t, a, b, addrB, false, testHandler())
	s.exercise(t, 1, 4<<20)
	s.hijack(t, a)
	s.slowShutdown(t)
}

func TestHTTP2OverPipe(t *testing.T) {
	a, b := newPair(t)
	s := newSite(t, a, b, addrB, true, testHandler())
	s.exercise(t, 2, 4<<20)
	s.slowShutdown(t)
}

func TestHTTPOverLoopback(t *testing.T) {
	h := newLoopback(t)
	s := newSite(t, h, h, "127.0.0.1", false, testHandler())
	s.exercise(t, 1, 4<<20)
	s.shutdown(t)
}

// farAway is a link to a distant network: a round trip takes 100 ms, and one frame in a hundred is
// lost.
var farAway = nic.Impairment{Latency: 50 * time.Millisecond, Loss: 0.01}

func TestHTTP1OverLossyLinkInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		a, b := newImpairedPair(t, farAway)
		s := newSite(t, a, b, addrB, false, testHandler())
		s.exercise(t, 1, 256<<10)
		s.hijack(t, a)
		s.timeOut(t)
		s.slowShutdown(t)
		require.Greater(t, time.Since(began), 2*time.Second, "virtual time has passed")
	})
}

func TestHTTP2OverLossyLinkInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		a, b := newImpairedPair(t, farAway)
		s := newSite(t, a, b, addrB, true, testHandler())
		s.exercise(t, 2, 256<<10)
		s.timeOut(t)
		s.slowShutdown(t)
		require.Greater(t, time.Since(began), 2*time.Second, "virtual time has passed")
	})
}

func TestHTTPServerTimeoutsInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newImpairedPair(t, nic.Impairment{Latency: 50 * time.Millisecond})
		s := newSite(t, a, b, addrB, false, testHandler(), func(srv *http.Server) { srv.ReadHeaderTimeout = 2 * time.Second })
		c, err := a.Dial("tcp", s.url[len("http://"):])
		require.NoError(t, err)
		defer c.Close()
		began := time.Now()
		_, err = io.WriteString(c, "GET / HT")
		require.NoError(t, err)
		_, err = io.ReadAll(c)
		require.NoError(t, err, "the server has closed the connection in an orderly way")
		waited := time.Since(began)
		require.GreaterOrEqual(t, waited, 2*time.Second)
		require.Less(t, waited, 2*time.Second+200*time.Millisecond)
	})
}
