// Package dot has a client of DNS over TLS (RFC 7858) for a resolve.Resolver:
//
//	client := &dot.Client{ServerName: "dns.example"}
//	host, err := usernet.New(usernet.Config{
//		...
//		DNS:      []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:853")},
//		Resolver: resolve.Config{Exchange: client.Exchange},
//	})
//
// It is a package of its own so that a program without it does not contain a TLS client.
package dot

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	dnsPort = 53
	// defaultPort is the port of DNS over TLS (RFC 7858 section 3.1).
	defaultPort = 853
	// defaultIdle is the default of Client.IdleTimeout. RFC 7858 section 3.4: clients "SHOULD NOT
	// immediately close a connection after each response".
	defaultIdle = 10 * time.Second
	// maxConns is the maximum number of connections. A Client exceeds it only if more connections are being opened or
	// have outstanding queries. A Client has one connection for each server.
	maxConns = 16
)

// A Client sends queries over TLS. It uses one connection for each server, over which several queries can
// be outstanding (RFC 7858 section 3.3), and connects again when the server has closed the connection. A
// Client belongs to one Resolver: a connection that one call has dialed serves other calls too. Its methods may be
// called by several goroutines at the same time. It has no goroutine between calls.
type Client struct {
	// ServerName is the name for which the certificate of the server must be valid: the strict privacy
	// profile (RFC 8310 section 5). Names has the names of single servers, which take precedence. A server
	// without a name must have a certificate for its IP address.
	ServerName string
	Names      map[netip.Addr]string
	// NoAuthentication accepts any certificate: the opportunistic privacy profile. The queries are
	// then encrypted, but the server may be any machine. The field Opportunistic of resolve.Config also
	// allows queries in clear.
	NoAuthentication bool
	// TLS has other settings, for example RootCAs. The Client uses a copy of TLS, in which it sets
	// ServerName. It also sets NextProtos and ClientSessionCache if they are not set, and
	// InsecureSkipVerify if NoAuthentication is true.
	TLS *tls.Config
	// IdleTimeout is how long an unused connection stays open; 10 s if not positive.
	IdleTimeout time.Duration

	mu     sync.Mutex
	closed bool
	conns  map[netip.AddrPort]*conn
	cache  tls.ClientSessionCache
}

// Exchange sends a query to a server and returns the response. It has the form of resolve.Config.Exchange. If
// the port of server is 53, Exchange uses port 853. dial connects to the server; its network is "tcp".
//
// The errors are those of dial, of the TLS handshake and of the connection, ctx.Err, and net.ErrClosed. If the length
// of query is not from 12 to 65535 bytes, the error has no type of its own.
func (c *Client) Exchange(ctx context.Context, dial func(ctx context.Context, network, address string) (net.Conn, error),
	server netip.AddrPort, query []byte) ([]byte, error) {
	if len(query) < 12 || len(query) > 0xffff {
		return nil, errors.New("dot: a query has 12 to 65535 bytes")
	}
	if server.Port() == dnsPort {
		server = netip.AddrPortFrom(server.Addr(), defaultPort)
	}
	for {
		cn, mine, err := c.conn(server)
		if err != nil {
			return nil, err
		}
		if mine {
			cn.open(ctx, c, dial, server)
			if cn.err != nil {
				c.remove(server, cn)
			}
			close(cn.ready)
		}
		select {
		case <-cn.ready:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if cn.err != nil {
			if !mine && ctx.Err() == nil && isContextError(cn.err) {
				continue // the caller that dialed has given up
			}
			return nil, cn.err
		}
		response, err := cn.roundTrip(ctx, query)
		if err == nil {
			return response, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if errors.Is(err, errTooManyQueries) {
			return nil, err // the connection works
		}
		c.remove(server, cn)
		if mine {
			return nil, err
		}
		// RFC 7766 6.2.4: a server may close an idle connection at any time. Exchange repeats the query on a
		// new connection.
	}
}

func isContextError(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// conn returns the connection to a server. If there is none, it adds one, and reports that the caller must
// open it.
func (c *Client) conn(server netip.AddrPort) (cn *conn, mine bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, false, net.ErrClosed
	}
	if cn := c.conns[server]; cn != nil && !cn.isClosed() {
		return cn, false, nil
	}
	if c.conns == nil {
		c.conns = make(map[netip.AddrPort]*conn)
	}
	for addr, old := range c.conns {
		if len(c.conns) < maxConns {
			break
		}
		if old.isClosed() || old.closeIfIdle() {
			delete(c.conns, addr)
		}
	}
	idle := c.IdleTimeout
	if idle <= 0 {
		idle = defaultIdle
	}
	cn = newConn(idle)
	c.conns[server] = cn
	return cn, true, nil
}

// remove ends a connection that has failed, and removes it from c.conns.
func (c *Client) remove(server netip.AddrPort, cn *conn) {
	cn.fail(net.ErrClosed)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conns[server] == cn {
		delete(c.conns, server)
	}
}

// Close closes the connections. Queries in progress and later ones fail with net.ErrClosed.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	conns := c.conns
	c.conns = nil
	c.mu.Unlock()
	for _, cn := range conns {
		cn.fail(net.ErrClosed)
	}
	return nil
}

// config returns the TLS configuration for a server.
func (c *Client) config(server netip.Addr) *tls.Config {
	cfg := &tls.Config{}
	if c.TLS != nil {
		cfg = c.TLS.Clone()
	}
	switch name := c.Names[server]; {
	case name != "":
		cfg.ServerName = name
	case c.ServerName != "":
		cfg.ServerName = c.ServerName
	default:
		cfg.ServerName = server.WithZone("").String()
	}
	if c.NoAuthentication {
		cfg.InsecureSkipVerify = true
	}
	if len(cfg.NextProtos) == 0 {
		cfg.NextProtos = []string{"dot"} // IANA's registry of ALPN protocol IDs
	}
	if cfg.ClientSessionCache == nil {
		c.mu.Lock()
		if c.cache == nil {
			c.cache = tls.NewLRUClientSessionCache(maxConns)
		}
		cfg.ClientSessionCache = c.cache
		c.mu.Unlock()
	}
	return cfg
}
