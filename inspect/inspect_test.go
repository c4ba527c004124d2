package inspect

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/internal/hosttest"
)

// connect makes n connections from a to b, which are closed after the test.
func connect(t testing.TB, a, b *usernet.Host, n int) (dialed, accepted []*usernet.TCPConn) {
	t.Helper()
	ln, err := b.Listen("tcp", ":80")
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	for range n {
		c, err := a.Dial("tcp", net.JoinHostPort(hosttest.AddrB, "80"))
		require.NoError(t, err)
		d, err := ln.Accept()
		require.NoError(t, err)
		t.Cleanup(func() { c.Close(); d.Close() })
		dialed, accepted = append(dialed, c.(*usernet.TCPConn)), append(accepted, d.(*usernet.TCPConn))
	}
	return dialed, accepted
}

// idOf returns the ID of a connection.
func idOf(c *usernet.TCPConn) string { return c.LocalAddr().String() + "->" + c.RemoteAddr().String() }

// ask sends a request to a handler as a client on the same machine does.
func ask(h http.Handler, method, path string, change ...func(*http.Request)) *http.Response {
	r := httptest.NewRequest(method, "http://localhost:8080/debug/usernet/"+path, nil)
	r.RemoteAddr = "127.0.0.1:40000"
	for _, f := range change {
		f(r)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

// get gets a value from a handler.
func get[T any](t testing.TB, h http.Handler, path string) (v T) {
	t.Helper()
	resp := ask(h, "GET", path)
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, resp.StatusCode, "%s: %s", path, b)
	require.Equal(t, "application/json", resp.Header.Get("Content-Type"))
	d := json.NewDecoder(strings.NewReader(string(b)))
	d.DisallowUnknownFields()
	require.NoError(t, d.Decode(&v), "%s: %s", path, b)
	return v
}

// refused returns the sentence with which a handler refuses a request.
func refused(t testing.TB, h http.Handler, status int, method, path string, change ...func(*http.Request)) string {
	t.Helper()
	resp := ask(h, method, path, change...)
	require.Equal(t, status, resp.StatusCode, path)
	var e Error
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&e))
	require.NotEmpty(t, e.Error)
	return e.Error
}

func TestTheHandlerShowsTheHost(t *testing.T) {
	// Without IPv6, no report of MLD is dropped.
	a, b := hosttest.Pair(t, func(cfg *usernet.Config) { cfg.NoIPv6 = true })
	dialed, accepted := connect(t, a, b, 1)
	_, err := dialed[0].Write([]byte("hello"))
	require.NoError(t, err)
	_, err = io.ReadFull(accepted[0], make([]byte, 5))
	require.NoError(t, err)
	u, err := b.ListenPacket("udp4", ":53")
	require.NoError(t, err)
	defer u.Close()
	h := Handler(b)

	o := get[Overview](t, h, "api/overview")
	require.Equal(t, "lo", o.Interfaces[0].Name)
	require.Len(t, o.Interfaces, 2)
	require.Contains(t, o.Interfaces[1].Addrs, hosttest.AddrB+"/24")
	require.Positive(t, o.Interfaces[1].RxFrames)
	require.Equal(t, map[string]int{"ESTABLISHED": 1}, o.Totals.ByState)
	require.Equal(t, 1, o.Totals.Listeners)
	require.Equal(t, 1, o.Totals.Sockets)
	require.Equal(t, uint64(1), o.Stats.TCP.Events["PassiveOpens"])
	require.Positive(t, o.Host.UptimeS)
	require.Positive(t, o.Memory.HeapInUse)

	conns := get[Conns](t, h, "api/conns")
	require.Equal(t, 1, conns.Total)
	c := conns.Conns[0]
	require.Equal(t, idOf(accepted[0]), c.ID)
	require.True(t, c.Passive)
	require.Equal(t, uint64(5), c.BytesIn)

	d := get[ConnDetail](t, h, "api/conn?id="+url.QueryEscape(c.ID))
	require.Equal(t, c.ID, d.Conn.ID)
	require.Equal(t, uint64(5), d.Info.BytesReceived)
	require.Equal(t, accepted[0].Info().SndMSS, d.Info.SndMSS)
	require.Positive(t, d.Info.SndWScale)
	require.Positive(t, d.Info.RcvWScale)

	l := get[Listeners](t, h, "api/listeners").Listeners
	require.Len(t, l, 1)
	require.Equal(t, "0.0.0.0:80", l[0].Local)
	s := get[Sockets](t, h, "api/sockets")
	require.Equal(t, "udp", s.Sockets[0].Protocol)
	require.Equal(t, "0.0.0.0:53", s.Sockets[0].Local)
	n := get[Neighbors](t, h, "api/neighbors").Neighbors
	require.Equal(t, hosttest.AddrA, n[0].Addr)
	require.Len(t, n[0].MAC, 17)
	require.Contains(t, get[Routes](t, h, "api/routes").Routes, Route{Dst: "192.0.2.0/24", NIC: o.Interfaces[1].Name, Src: hosttest.AddrB})
	require.Contains(t, get[Groups](t, h, "api/groups").Groups, Group{NIC: o.Interfaces[1].Name, Addr: "224.0.0.1"})
	require.NotEmpty(t, get[Addresses](t, h, "api/addresses").Addresses)
	require.Empty(t, get[Leases](t, h, "api/leases").Leases)
	require.Empty(t, get[Names](t, h, "api/names").Servers)
	require.Empty(t, get[Drops](t, h, "api/drops").Reasons)
	all := get[All](t, h, "api/all")
	require.Equal(t, 1, all.Conns.Total)
	require.Equal(t, o.Interfaces[1].Addrs, all.Overview.Interfaces[1].Addrs)
}

func TestThePageHasNothingFromOutside(t *testing.T) {
	h := Handler(hosttest.Loopback(t))
	resp := ask(h, "GET", "")
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Equal(t, "text/html; charset=utf-8", resp.Header.Get("Content-Type"))
	require.Contains(t, resp.Header.Get("Content-Security-Policy"), "default-src 'none'")
	require.Contains(t, resp.Header.Get("Content-Security-Policy"), "frame-ancestors 'none'")
	require.Equal(t, "nosniff", resp.Header.Get("X-Content-Type-Options"))
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NotContains(t, string(b), "http://")
	require.NotContains(t, string(b), "https://")
}

func TestAbortResetsAConnection(t *testing.T) {
	a, b := hosttest.Pair(t)
	_, accepted := connect(t, a, b, 1)
	path := "api/abort?id=" + url.QueryEscape(idOf(accepted[0]))
	header := func(r *http.Request) { r.Header.Set("X-Usernet-Inspect", "1") }
	require.Contains(t, refused(t, Handler(b), 403, "POST", path, header), "AllowAbort")
	h := NewHandler(b, Config{AllowAbort: true})
	require.Contains(t, refused(t, h, 403, "POST", path), "X-Usernet-Inspect")
	require.Contains(t, refused(t, h, 405, "GET", path), "POST")
	require.Equal(t, http.StatusOK, ask(h, "POST", path, header).StatusCode)
	_, err := accepted[0].Read(make([]byte, 1))
	require.Error(t, err)
	require.Contains(t, refused(t, h, 404, "POST", path, header), "no connection")
}

func TestConnectionsAreSortedFilteredAndPaged(t *testing.T) {
	a, b := hosttest.Pair(t)
	dialed, accepted := connect(t, a, b, 5)
	for i, c := range dialed {
		_, err := c.Write(make([]byte, 100*(5-i)))
		require.NoError(t, err)
		_, err = io.ReadFull(accepted[i], make([]byte, 100*(5-i)))
		require.NoError(t, err)
	}
	h := Handler(b)
	ids := func(path string) (all []string) {
		for _, c := range get[Conns](t, h, path).Conns {
			all = append(all, c.ID)
		}
		return all
	}
	want := func(order ...int) (all []string) {
		for _, i := range order {
			all = append(all, idOf(accepted[i]))
		}
		return all
	}
	require.Equal(t, want(4, 3, 2, 1, 0), ids("api/conns?sort=bytes_in"))
	require.Equal(t, want(0, 1), ids("api/conns?sort=bytes_in&desc=1&limit=2"))
	require.Equal(t, want(2, 3), ids("api/conns?sort=bytes_in&desc=1&limit=2&offset=2"))
	require.Empty(t, ids("api/conns?offset=1000000"))
	port := netip.MustParseAddrPort(dialed[3].LocalAddr().String()).String()
	require.Equal(t, want(3), ids("api/conns?q="+port))
	require.Len(t, ids("api/conns?q=establ"), 5)
	require.Len(t, ids("api/conns?state=established"), 5)
	require.Empty(t, ids("api/conns?state=TIME-WAIT"))
	for key := range infoKeys {
		require.Len(t, ids("api/conns?sort="+key), 5)
	}
	for key := range plainKeys {
		require.Len(t, ids("api/conns?sort="+key), 5)
	}
	got := get[Conns](t, h, "api/conns?limit=2&q=192.0.2.1")
	require.Equal(t, 5, got.Total)
	require.Nil(t, got.Conns[0].RateIn)
}

func TestParametersAreChecked(t *testing.T) {
	h := Handler(hosttest.Loopback(t))
	for _, path := range []string{
		"api/conns?limit=0", "api/conns?limit=1001", "api/conns?limit=x", "api/conns?offset=-1", "api/conns?sort=nonsense",
		"api/conns?desc=2", "api/conns?q=" + strings.Repeat("a", 201), "api/conns?nonsense=1", "api/conns?limit=1&limit=2",
		"api/conn", "api/conn?id=1", "api/conn?id=192.0.2.1:1", "api/conn?id=%zz", "api/conns?q=" + strings.Repeat("a", 5000),
		"api/stream", "api/stream?topics=", "api/stream?topics=nonsense", "api/stream?topics=overview,overview", "api/stream?topics=all",
		"api/stream?topics=overview&interval_ms=1", "api/stream?topics=overview&interval_ms=99999999", "api/stream?topics=conn",
	} {
		refused(t, h, http.StatusBadRequest, "GET", path)
	}
	refused(t, h, 404, "GET", "api/nonsense")
	refused(t, h, 404, "GET", "api/conn?id=127.0.0.1:1->127.0.0.1:2")
	refused(t, h, 404, "GET", "api/stream?topics=conn&id=127.0.0.1:1->127.0.0.1:2")
	refused(t, h, 404, "GET", "nonsense")
	refused(t, h, 405, "POST", "api/conns")
	refused(t, h, 405, "POST", "")
}

func FuzzParameters(f *testing.F) {
	for _, s := range []string{"topics=conns&sort=rtt_s&desc=1", "id=192.0.2.1:80->[2001:db8::1]:90", "limit=1000&offset=5&q=a%00", "interval_ms=100", "%", "a=b"} {
		f.Add(s)
	}
	host := hosttest.Loopback(f)
	h := Handler(host)
	f.Fuzz(func(t *testing.T, query string) {
		for _, topic := range topics {
			r := httptest.NewRequest("GET", "http://localhost/api/"+topic, nil)
			r.URL.RawQuery, r.RemoteAddr = query, "[::1]:1"
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			require.True(t, json.Valid(w.Body.Bytes()), "%s", w.Body)
			require.Contains(t, []int{200, 400, 404}, w.Code)
		}
	})
}
