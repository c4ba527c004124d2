package doh

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/usernet/usernet/internal/hosttest"
)

// serve starts an HTTPS server on the kernel's loopback. It returns a Client, a dial function that reaches the
// server, and the addresses for which dial was called.
func serve(t *testing.T, http2 bool, h http.HandlerFunc) (*Client, func(context.Context, string, string) (net.Conn, error), *[]string) {
	t.Helper()
	clientTLS, serverTLS := hosttest.TLS(t, "h2")
	clientTLS.ServerName, clientTLS.NextProtos, serverTLS.NextProtos = "", nil, nil
	s := httptest.NewUnstartedServer(h)
	s.TLS, s.EnableHTTP2 = serverTLS, http2
	s.StartTLS()
	t.Cleanup(s.Close)
	c, err := New(Config{URL: "https://" + hosttest.NameB + "/dns-query{?dns}", TLS: clientTLS})
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	var mu sync.Mutex
	dialed := new([]string)
	return c, func(ctx context.Context, network, address string) (net.Conn, error) {
		mu.Lock()
		*dialed = append(*dialed, network+" "+address)
		mu.Unlock()
		return new(net.Dialer).DialContext(ctx, network, s.Listener.Addr().String())
	}, dialed
}

func testQuery(t *testing.T) []byte {
	name := dnsmessage.MustNewName("host.test.")
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: 0x1234}, Questions: []dnsmessage.Question{{Name: name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}
	b, err := m.Pack()
	require.NoError(t, err)
	return b
}

// answer adds a record with a TTL of 300 s and an OPT record to a query.
func answer(query []byte) []byte {
	var m dnsmessage.Message
	if m.Unpack(query) != nil {
		return nil
	}
	m.Response = true
	m.Answers = []dnsmessage.Resource{{
		Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET, TTL: 300},
		Body:   &dnsmessage.AResource{A: [4]byte{192, 0, 2, 1}},
	}}
	var rh dnsmessage.ResourceHeader
	if rh.SetEDNS0(1232, dnsmessage.RCode(16), true) != nil {
		return nil
	}
	m.Additionals = []dnsmessage.Resource{{Header: rh, Body: &dnsmessage.OPTResource{}}}
	b, _ := m.Pack()
	return b
}

func TestExchangeOverHTTPS(t *testing.T) {
	for _, http2 := range []bool{true, false} {
		c, dial, dialed := serve(t, http2, func(w http.ResponseWriter, r *http.Request) {
			query, _ := io.ReadAll(r.Body)
			switch {
			case r.Method != "POST", r.URL.String() != "/dns-query", r.Header.Get("Content-Type") != mediaType,
				r.Header.Get("Accept") != mediaType, r.Header.Get("User-Agent") != "", r.Host != hosttest.NameB:
				http.Error(w, "bad request", http.StatusBadRequest)
			case query[0] != 0 || query[1] != 0: // RFC 8484 4.1: the ID should be 0
				http.Error(w, "bad ID", http.StatusBadRequest)
			case http2 != (r.ProtoMajor == 2):
				http.Error(w, "bad version", http.StatusHTTPVersionNotSupported)
			default:
				w.Header().Set("Content-Type", mediaType)
				w.Header().Set("Age", "100")
				w.Write(answer(query))
			}
		})
		for range 3 {
			got, err := c.Exchange(t.Context(), dial, netip.MustParseAddrPort("192.0.2.53:53"), testQuery(t))
			require.NoError(t, err)
			var m dnsmessage.Message
			require.NoError(t, m.Unpack(got))
			require.Equal(t, uint16(0x1234), m.ID)
			require.Equal(t, uint32(200), m.Answers[0].Header.TTL, "RFC 8484 5.1: the age is accounted for")
			require.Equal(t, uint32(1<<24|1<<15), m.Additionals[0].Header.TTL, "the TTL of an OPT record is none")
		}
		require.Equal(t, []string{"tcp 192.0.2.53:443"}, *dialed, "one connection, to the port of the URL")
		require.NoError(t, c.Close())
		_, err := c.Exchange(t.Context(), dial, netip.MustParseAddrPort("192.0.2.53:53"), testQuery(t))
		require.ErrorIs(t, err, net.ErrClosed)
	}
}

func TestBadResponsesOfAWebServer(t *testing.T) {
	for want, h := range map[string]http.HandlerFunc{
		"doh: server returned status 404":             http.NotFound,
		"doh: server returned status 302":             func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/other", http.StatusFound) },
		`doh: server returned media type "text/html"`: func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Content-Type", "text/html; charset=x") },
		"doh: server returned no DNS message": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", mediaType)
			w.Write(make([]byte, 70000))
		},
		"EOF": func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) },
	} {
		c, dial, _ := serve(t, false, h)
		_, err := c.Exchange(t.Context(), dial, netip.MustParseAddrPort("192.0.2.53:443"), testQuery(t))
		require.ErrorContains(t, err, want)
	}
	c, dial, _ := serve(t, true, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := c.Exchange(ctx, dial, netip.MustParseAddrPort("192.0.2.53:443"), testQuery(t))
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

// A server that sends without end is left after the largest message, and what it sent is not kept.
func TestAnEndlessResponseIsCut(t *testing.T) {
	for _, http2 := range []bool{true, false} {
		sent := make(chan int, 1)
		c, dial, _ := serve(t, http2, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", mediaType)
			n := 0
			for buf := make([]byte, 16<<10); r.Context().Err() == nil && n < 1<<30; {
				k, err := w.Write(buf)
				if n += k; err != nil {
					break
				}
			}
			sent <- n
		})
		_, err := c.Exchange(t.Context(), dial, netip.MustParseAddrPort("192.0.2.53:443"), testQuery(t))
		require.ErrorContains(t, err, "doh: server returned no DNS message")
		c.Close()
		require.Less(t, <-sent, 64<<20, "the rest is not read")
	}
}

func TestTheURLIsChecked(t *testing.T) {
	for url, ok := range map[string]bool{
		"https://dns.example/dns-query{?dns}": true, "https://dns.example/dns-query": true, "https://dns.example:8443/": true,
		"http://dns.example/dns-query": false, "https:///x": false, "https://dns.example/{dns}": false, "": false, "https://dns.example:0/": false,
		"https://[::1]/dns-query": true,
	} {
		_, err := New(Config{URL: url})
		require.Equal(t, ok, err == nil, "%q: %v", url, err)
	}
}

func FuzzReduceTTLs(f *testing.F) {
	f.Add(make([]byte, 12))
	f.Add([]byte{0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 1, 'a', 0, 0, 1, 0, 1, 0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 0, 0, 4, 1, 2, 3, 4})
	f.Fuzz(func(t *testing.T, msg []byte) {
		if len(msg) >= 12 {
			n := len(msg)
			reduceTTLs(msg, 100)
			require.Len(t, msg, n)
		}
	})
}
