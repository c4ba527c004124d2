// Package doh has a client of DNS over HTTPS (RFC 8484) for a resolve.Resolver:
//
//	client, err := doh.New(doh.Config{URL: "https://dns.example/dns-query{?dns}"})
//	...
//	host, err := usernet.New(usernet.Config{
//		...
//		DNS:      []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:443")},
//		Resolver: resolve.Config{Exchange: client.Exchange},
//	})
//
// It is a package of its own so that a program without it does not contain an HTTP client.
package doh

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	mediaType   = "application/dns-message" // RFC 8484 section 6
	maxResponse = 65535                     // RFC 8484 section 6: "The maximum size of this media type is 65535 bytes."
	dnsPort     = 53
	idleTime    = 30 * time.Second
	maxServers  = 16
)

// Config configures a Client.
type Config struct {
	// URL is the URL or the URI template of the service, for example
	// "https://dns.example/dns-query{?dns}". Its scheme must be https. The certificate of the
	// server must be valid for the host of the URL.
	URL string
	// TLS has other settings, for example RootCAs; nil means the defaults.
	TLS *tls.Config
}

// A Client sends queries over HTTPS: HTTP/2, or HTTP/1.1 if the server does not support HTTP/2. It
// connects to the addresses of the Resolver's servers, so the host of the URL is never looked up. A Client
// belongs to one Resolver. Its methods may be called by several goroutines at the same time. An
// open connection has goroutines. The Client closes a connection that has been unused for 30 s, and Close closes all
// unused connections.
type Client struct {
	url  *url.URL
	port uint16
	tls  *tls.Config

	mu      sync.Mutex
	closed  bool
	clients map[netip.AddrPort]*http.Client
}

// New returns a Client. It returns an error if the URL is not an https URL or has a template other than
// "{?dns}" at its end.
func New(cfg Config) (*Client, error) {
	// The client sends POST requests. RFC 8484 4.1: "the URI Template is processed without any
	// variables when the HTTP method is POST".
	plain := strings.TrimSuffix(cfg.URL, "{?dns}")
	u, err := url.Parse(plain)
	if err != nil {
		return nil, fmt.Errorf("doh: %w", err)
	}
	if u.Scheme != "https" || u.Hostname() == "" || strings.ContainsAny(plain, "{}") {
		return nil, fmt.Errorf("doh: %q is not an https URL, possibly with {?dns} at the end", cfg.URL)
	}
	port := uint64(443)
	if p := u.Port(); p != "" {
		if port, err = strconv.ParseUint(p, 10, 16); err != nil || port == 0 {
			return nil, fmt.Errorf("doh: bad port in %q", cfg.URL)
		}
	}
	return &Client{url: u, port: uint16(port), tls: cfg.TLS, clients: make(map[netip.AddrPort]*http.Client)}, nil
}

// Exchange sends a query to a server and returns the response. It has the form of resolve.Config.Exchange. If
// the port of server is 53, Exchange uses the port of the URL. dial connects to the server; its network is
// "tcp". Exchange reduces the times to live in a response from an HTTP cache by the age of the response (RFC 8484
// section 5.1).
//
// The errors are those of net/http and net.ErrClosed. If the server returns a status other than 200, another media
// type or no DNS message, or if query is shorter than 12 bytes, the error has no type of its own.
func (c *Client) Exchange(ctx context.Context, dial func(ctx context.Context, network, address string) (net.Conn, error),
	server netip.AddrPort, query []byte) ([]byte, error) {
	if len(query) < 12 {
		return nil, errors.New("doh: a query has at least 12 bytes")
	}
	if server.Port() == dnsPort {
		server = netip.AddrPortFrom(server.Addr(), c.port)
	}
	client, err := c.client(dial, server)
	if err != nil {
		return nil, err
	}
	// RFC 8484 4.1: "DoH clients using media formats that include the ID field from the DNS message
	// header [...] SHOULD use a DNS ID of 0 in every DNS request."
	body := append([]byte{0, 0}, query[2:]...)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", mediaType)
	req.Header.Set("Accept", mediaType)
	req.Header["User-Agent"] = nil // RFC 8484 8.2: headers can identify the client
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("doh: server returned status %d", res.StatusCode)
	}
	if t, _, _ := strings.Cut(res.Header.Get("Content-Type"), ";"); !strings.EqualFold(strings.TrimSpace(t), mediaType) {
		return nil, fmt.Errorf("doh: server returned media type %.100q", t)
	}
	msg, err := io.ReadAll(io.LimitReader(res.Body, maxResponse+1))
	if err != nil {
		return nil, err
	}
	if len(msg) < 12 || len(msg) > maxResponse {
		return nil, errors.New("doh: server returned no DNS message")
	}
	copy(msg[:2], query[:2])
	if age, err := strconv.ParseUint(res.Header.Get("Age"), 10, 31); err == nil {
		reduceTTLs(msg, uint32(age))
	}
	return msg, nil
}

// client returns the HTTP client for a server.
func (c *Client) client(dial func(context.Context, string, string) (net.Conn, error), server netip.AddrPort) (*http.Client, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, net.ErrClosed
	}
	if client := c.clients[server]; client != nil {
		return client, nil
	}
	for addr, old := range c.clients {
		if len(c.clients) < maxServers {
			break
		}
		old.CloseIdleConnections()
		delete(c.clients, addr)
	}
	client := &http.Client{
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return dial(ctx, "tcp", server.String())
			},
			TLSClientConfig:   c.tls.Clone(),
			ForceAttemptHTTP2: true,
			IdleConnTimeout:   idleTime,
			// HTTP/2 pings find a dead connection, so that the next query does not use it.
			HTTP2: &http.HTTP2Config{SendPingTimeout: 5 * time.Second, PingTimeout: 5 * time.Second},
		},
		// Do not follow redirects: the program has configured the URL, and a redirect could name another
		// server.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	c.clients[server] = client
	return client, nil
}

// Close closes the idle connections. Later calls of Exchange fail with net.ErrClosed.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for _, client := range c.clients {
		client.CloseIdleConnections()
	}
	c.clients = nil
	return nil
}

// reduceTTLs subtracts age, in seconds, from the times to live in a DNS message, down to zero. RFC 8484
// section 5.1: "DoH clients MUST account for the Age of a response when calculating the DNS TTL of a
// response." reduceTTLs stops at a malformed record, and skips times to live of 2^31 s or more.
func reduceTTLs(msg []byte, age uint32) {
	const optType = 41 // its TTL field has other contents (RFC 6891 section 6.1.3)
	rest := msg[12:]
	for range binary.BigEndian.Uint16(msg[4:]) {
		if rest = skipName(rest); len(rest) < 4 {
			return
		}
		rest = rest[4:]
	}
	records := 0
	for i := 6; i < 12; i += 2 {
		records += int(binary.BigEndian.Uint16(msg[i:]))
	}
	for range records {
		if rest = skipName(rest); len(rest) < 10 {
			return
		}
		if ttl := binary.BigEndian.Uint32(rest[4:]); binary.BigEndian.Uint16(rest) != optType && ttl>>31 == 0 {
			binary.BigEndian.PutUint32(rest[4:], ttl-min(ttl, age))
		}
		n := 10 + int(binary.BigEndian.Uint16(rest[8:]))
		if len(rest) < n {
			return
		}
		rest = rest[n:]
	}
}

// skipName returns the bytes after the name at the start of b, or nil if the name is malformed.
func skipName(b []byte) []byte {
	for len(b) > 0 {
		switch n := int(b[0]); {
		case n == 0:
			return b[1:]
		case n >= 0xc0: // a pointer ends a name
			if len(b) < 2 {
				return nil
			}
			return b[2:]
		case n > 63 || len(b) < 1+n:
			return nil
		default:
			b = b[1+n:]
		}
	}
	return nil
}
