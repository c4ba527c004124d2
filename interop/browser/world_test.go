//go:build linux

package browser

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/inspect"
	"github.com/usernet/usernet/internal/hosttest"
	"github.com/usernet/usernet/nic"
)

// mount is where the inspector is mounted.
const mount = "/debug/usernet/"

// A server serves an inspector on the kernel's loopback.
type server struct {
	url     string       // of the page
	streams atomic.Int32 // streams that are open
}

// show serves the inspector of a host.
func show(t *testing.T, h *usernet.Host, cfg inspect.Config) *server {
	t.Helper()
	return serve(t, inspect.NewHandler(h, cfg))
}

// serve serves an inspector.
func serve(t *testing.T, inspector http.Handler) *server {
	t.Helper()
	s := new(server)
	mux := http.NewServeMux()
	mux.HandleFunc(mount, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/api/stream") {
			s.streams.Add(1)
			defer s.streams.Add(-1)
		}
		inspector.ServeHTTP(w, r)
	})
	srv := httptest.NewServer(mux)
	t.Cleanup(func() {
		srv.CloseClientConnections() // streams are open as long as the page is
		srv.Close()
	})
	s.url = srv.URL + mount
	return s
}

// A transfer is a connection over which one host sends to another until the test ends.
type transfer struct {
	from, to *usernet.Host // from sends
	id       string        // of the connection at the sender
	backID   string        // at the receiver
}

// slow is a wire on which a transfer is slow enough to watch.
var slow = nic.Impairment{Latency: 10 * time.Millisecond, Rate: 50e6, Queue: 128 << 10}

// newTransfer makes two hosts on a wire, and a connection whose sender writes all the time. receive is what the
// receiver does; if it is nil, the receiver does not read.
func newTransfer(t *testing.T, imp nic.Impairment, receive func(c *usernet.TCPConn), options ...func(*usernet.TCPConn)) *transfer {
	t.Helper()
	return newTransferOf(t, imp, writeAll, receive, options...)
}

// writeAll writes all the time.
func writeAll(c *usernet.TCPConn) { io.Copy(c, hosttest.Zeros{}) }

// writeSeldom writes a little now and then.
func writeSeldom(c *usernet.TCPConn) {
	for {
		if _, err := c.Write(make([]byte, 100)); err != nil {
			return
		}
		time.Sleep(30 * time.Millisecond)
	}
}

// newTransferOf is like newTransfer; send is what the sender does.
func newTransferOf(t *testing.T, imp nic.Impairment, send, receive func(c *usernet.TCPConn), options ...func(*usernet.TCPConn)) *transfer {
	t.Helper()
	a, b, impair := hosttest.ImpairedPair(t, 1)
	impair(imp)
	client, server := hosttest.Connect(t, a, b, hosttest.AddrB)
	for _, o := range options {
		o(server)
	}
	var running sync.WaitGroup
	running.Go(func() { send(client) })
	if receive != nil {
		running.Go(func() { receive(server) })
	}
	t.Cleanup(func() {
		client.SetLinger(0)
		client.Close()
		server.SetLinger(0)
		server.Close()
		running.Wait()
	})
	return &transfer{from: a, to: b, id: idOf(client), backID: idOf(server)}
}

// idOf returns the inspector's name for a connection.
func idOf(c net.Conn) string { return c.LocalAddr().String() + "->" + c.RemoteAddr().String() }

// view returns the URL fragment that opens the page's view of a connection; id is from idOf.
func view(id string) string { return "#/conn?id=" + url.QueryEscape(id) }

// discard reads all.
func discard(c *usernet.TCPConn) { io.Copy(io.Discard, c) }
