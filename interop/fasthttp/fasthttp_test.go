package fasthttp

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/internal/hosttest"
)

// serve serves until the end of the test.
func serve(t *testing.T, h *usernet.Host, change ...func(*fasthttp.Server)) {
	t.Helper()
	ln, err := h.Listen("tcp", ":80")
	require.NoError(t, err)
	s := &fasthttp.Server{Handler: handle, MaxRequestBodySize: 64 << 20, Logger: silent{}}
	for _, f := range change {
		f(s)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	t.Cleanup(func() {
		require.NoError(t, s.Shutdown())
		require.NoError(t, <-served)
	})
}

type silent struct{}

func (silent) Printf(string, ...any) {}

func handle(ctx *fasthttp.RequestCtx) {
	switch string(ctx.Path()) {
	case "/hello":
		ctx.WriteString("hello " + ctx.RemoteIP().String())
	case "/echo":
		ctx.Write(ctx.PostBody())
	case "/stream":
		ctx.SetBodyStreamWriter(func(w *bufio.Writer) {
			for range 1000 {
				w.Write(bytes.Repeat([]byte("0123456789"), 1000))
			}
		})
	case "/hijack":
		ctx.HijackSetNoResponse(true)
		ctx.Hijack(func(c net.Conn) { io.Copy(c, c) })
	default:
		ctx.NotFound()
	}
}

// newClient makes a client on a host.
func newClient(t *testing.T, h *usernet.Host) *fasthttp.Client {
	c := &fasthttp.Client{Dial: func(addr string) (net.Conn, error) { return h.Dial("tcp", addr) }, MaxConnsPerHost: 50}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

func TestRequests(t *testing.T) {
	a, b := hosttest.Pair(t)
	serve(t, b)
	client := newClient(t, a)
	code, body, err := client.Get(nil, "http://server.test/hello")
	require.NoError(t, err)
	require.Equal(t, fasthttp.StatusOK, code)
	require.Equal(t, "hello 192.0.2.1", string(body))
	code, _, err = client.Get(nil, "http://server.test/nothing")
	require.NoError(t, err)
	require.Equal(t, fasthttp.StatusNotFound, code)

	_, body, err = client.Get(nil, "http://server.test/stream")
	require.NoError(t, err)
	require.True(t, bytes.Equal(bytes.Repeat([]byte("0123456789"), 1_000_000), body))

	data := make([]byte, 16<<20)
	rand.Read(data)
	req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(req)
	defer fasthttp.ReleaseResponse(resp)
	req.Header.SetMethod("POST")
	req.SetRequestURI("http://server.test/echo")
	req.SetBody(data)
	require.NoError(t, client.Do(req, resp))
	require.True(t, bytes.Equal(data, resp.Body()))
}

func TestManyRequestsAtOnce(t *testing.T) {
	a, b := hosttest.Pair(t)
	serve(t, b)
	client := newClient(t, a)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			var body []byte
			for range 100 {
				var err error
				if _, body, err = client.Get(body[:0], "http://server.test/hello"); err != nil || string(body) != "hello 192.0.2.1" {
					t.Errorf("one of many requests: %q, %v", body, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestPipelinedRequests(t *testing.T) {
	a, b := hosttest.Pair(t)
	serve(t, b)
	client := &fasthttp.PipelineClient{
		Addr: "server.test:80",
		Dial: func(addr string) (net.Conn, error) { return a.Dial("tcp", addr) },
	}
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
			defer fasthttp.ReleaseRequest(req)
			defer fasthttp.ReleaseResponse(resp)
			req.SetRequestURI("http://server.test/hello")
			if err := client.Do(req, resp); err != nil || string(resp.Body()) != "hello 192.0.2.1" {
				t.Errorf("one of many requests: %q, %v", resp.Body(), err)
			}
		})
	}
	wg.Wait()
}

func TestHijackedConnection(t *testing.T) {
	a, b := hosttest.Pair(t)
	serve(t, b)
	c, err := a.Dial("tcp", "server.test:80")
	require.NoError(t, err)
	defer c.Close()
	_, err = io.WriteString(c, "GET /hijack HTTP/1.1\r\nHost: server.test\r\n\r\nand then")
	require.NoError(t, err)
	require.NoError(t, c.(*usernet.TCPConn).CloseWrite())
	back, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Equal(t, "and then", string(back))
}

func TestServerThatIsNotThere(t *testing.T) {
	a, _ := hosttest.Pair(t)
	_, _, err := newClient(t, a).Get(nil, "http://server.test/hello")
	require.EqualError(t, err, "dial tcp 192.0.2.2:80: connect: connection refused")
}
