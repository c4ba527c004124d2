package websocket

import (
	"context"
	"crypto/rand"
	"io"
	"log"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	coder "github.com/coder/websocket"
	gorilla "github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/internal/hosttest"
)

// patience ends a test that hangs.
const patience = time.Minute

// serve serves an echo page for each package until the end of the test.
func serve(t *testing.T, h *usernet.Host) {
	t.Helper()
	ln, err := h.Listen("tcp", ":80")
	require.NoError(t, err)
	mux := http.NewServeMux()
	mux.HandleFunc("/gorilla", echoGorilla)
	mux.HandleFunc("/coder", echoCoder)
	s := &http.Server{Handler: mux, ErrorLog: log.New(io.Discard, "", 0)}
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	t.Cleanup(func() {
		require.NoError(t, s.Close())
		require.ErrorIs(t, <-served, http.ErrServerClosed)
	})
}

func echoGorilla(w http.ResponseWriter, r *http.Request) {
	up := gorilla.Upgrader{EnableCompression: true, Subprotocols: []string{"echo"}}
	c, err := up.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer c.Close()
	for {
		kind, m, err := c.ReadMessage()
		if err != nil {
			return
		}
		if err := c.WriteMessage(kind, m); err != nil {
			return
		}
	}
}

func echoCoder(w http.ResponseWriter, r *http.Request) {
	c, err := coder.Accept(w, r, &coder.AcceptOptions{CompressionMode: coder.CompressionContextTakeover, Subprotocols: []string{"echo"}})
	if err != nil {
		return
	}
	defer c.CloseNow()
	c.SetReadLimit(-1)
	for {
		kind, m, err := c.Read(r.Context())
		if err != nil {
			return
		}
		if err := c.Write(r.Context(), kind, m); err != nil {
			return
		}
	}
}

// messages returns the messages that the tests send.
func messages() [][]byte {
	large := make([]byte, 1<<20)
	rand.Read(large)
	return [][]byte{{}, []byte("hello"), make([]byte, 100_000), large}
}

// dialGorilla connects to a page of the server with gorilla's client.
func dialGorilla(t *testing.T, h *usernet.Host, page string) *gorilla.Conn {
	t.Helper()
	d := &gorilla.Dialer{NetDialContext: h.DialContext, EnableCompression: true, Subprotocols: []string{"echo"}}
	c, resp, err := d.DialContext(t.Context(), "ws://server.test/"+page, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusSwitchingProtocols, resp.StatusCode)
	require.Equal(t, "echo", c.Subprotocol())
	t.Cleanup(func() { c.Close() })
	return c
}

// dialCoder connects to a page of the server with coder's client.
func dialCoder(ctx context.Context, t *testing.T, h *usernet.Host, page string) *coder.Conn {
	t.Helper()
	tr := &http.Transport{DialContext: h.DialContext}
	t.Cleanup(tr.CloseIdleConnections)
	c, _, err := coder.Dial(ctx, "ws://server.test/"+page, &coder.DialOptions{
		HTTPClient:      &http.Client{Transport: tr},
		CompressionMode: coder.CompressionContextTakeover,
		Subprotocols:    []string{"echo"},
	})
	require.NoError(t, err)
	require.Equal(t, "echo", c.Subprotocol())
	c.SetReadLimit(-1)
	t.Cleanup(func() { c.CloseNow() })
	return c
}

func TestMessagesComeBackToGorilla(t *testing.T) {
	for _, page := range []string{"gorilla", "coder"} {
		t.Run("from "+page, func(t *testing.T) {
			a, b := hosttest.Pair(t)
			serve(t, b)
			c := dialGorilla(t, a, page)
			for _, m := range messages() {
				require.NoError(t, c.WriteMessage(gorilla.BinaryMessage, m))
				kind, back, err := c.ReadMessage()
				require.NoError(t, err)
				require.Equal(t, gorilla.BinaryMessage, kind)
				require.Equal(t, len(m), len(back))
				require.Equal(t, string(m), string(back))
			}
			bye := gorilla.FormatCloseMessage(gorilla.CloseNormalClosure, "bye")
			require.NoError(t, c.WriteControl(gorilla.CloseMessage, bye, time.Now().Add(patience)))
			_, _, err := c.ReadMessage()
			require.True(t, gorilla.IsCloseError(err, gorilla.CloseNormalClosure), "%v", err)
		})
	}
}

func TestMessagesComeBackToCoder(t *testing.T) {
	for _, page := range []string{"gorilla", "coder"} {
		t.Run("from "+page, func(t *testing.T) {
			a, b := hosttest.Pair(t)
			serve(t, b)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			c := dialCoder(ctx, t, a, page)
			for _, m := range messages() {
				require.NoError(t, c.Write(ctx, coder.MessageBinary, m))
				kind, back, err := c.Read(ctx)
				require.NoError(t, err)
				require.Equal(t, coder.MessageBinary, kind)
				require.Equal(t, len(m), len(back))
				require.Equal(t, string(m), string(back))
			}
			require.NoError(t, c.Close(coder.StatusNormalClosure, "bye"))
		})
	}
}

func TestManyWebSocketsAtOnce(t *testing.T) {
	a, b := hosttest.Pair(t)
	serve(t, b)
	var conns []*gorilla.Conn
	for range 100 {
		conns = append(conns, dialGorilla(t, a, "gorilla"))
	}
	var wg sync.WaitGroup
	for _, c := range conns {
		wg.Go(func() {
			for range 20 {
				if err := c.WriteMessage(gorilla.TextMessage, []byte("ping")); err != nil {
					t.Errorf("write: %v", err)
					return
				}
				if _, m, err := c.ReadMessage(); err != nil || string(m) != "ping" {
					t.Errorf("read: %q, %v", m, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestDeadlinesAndPingsInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := hosttest.Pair(t)
		serve(t, b)
		began := time.Now()
		g := dialGorilla(t, a, "gorilla")
		require.NoError(t, g.SetReadDeadline(began.Add(10*time.Second)))
		pong := make(chan string, 1)
		g.SetPongHandler(func(data string) error { pong <- data; return nil })
		require.NoError(t, g.WriteControl(gorilla.PingMessage, []byte("there?"), began.Add(time.Second)))
		_, _, err := g.ReadMessage()
		require.ErrorContains(t, err, "i/o timeout")
		require.Equal(t, "there?", <-pong)
		require.Equal(t, 10*time.Second, time.Since(began))

		c := dialCoder(t.Context(), t, a, "coder")
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, _, err = c.Read(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 20*time.Second, time.Since(began))
		// Closed, so that the handlers of the server end.
		require.NoError(t, g.Close())
		c.CloseNow()
	})
}
