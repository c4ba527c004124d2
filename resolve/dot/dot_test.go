package dot

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/internal/hosttest"
)

var server = netip.MustParseAddrPort("192.0.2.53:853")

// A testServer is a DNS server over TLS. It answers each query by a copy of it after a delay, which is the
// number of seconds in byte 12 of the query.
type testServer struct {
	cfg    *tls.Config
	host   *usernet.Host
	mu     sync.Mutex
	dialed []string
	once   bool // close each connection after one response
	plain  bool // close each connection before the handshake
}

func newServer(t *testing.T) (*testServer, *Client) {
	client, server := hosttest.TLS(t, "dot")
	client.ServerName = ""
	s := &testServer{cfg: server, host: hosttest.Loopback(t)}
	go hosttest.Serve(hosttest.Listen(t, s.host, "127.0.0.1:853"), s.serve)
	c := &Client{ServerName: hosttest.NameB, TLS: client}
	t.Cleanup(func() { c.Close() })
	return s, c
}

func (s *testServer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.dialed = append(s.dialed, network+" "+address)
	s.mu.Unlock()
	return s.host.DialContext(ctx, network, "127.0.0.1:853")
}

func (s *testServer) serve(raw net.Conn) {
	s.mu.Lock()
	once, plain := s.once, s.plain
	s.mu.Unlock()
	defer raw.Close()
	if plain {
		return
	}
	c := tls.Server(raw, s.cfg)
	var writing sync.Mutex
	for {
		var length [2]byte
		if _, err := io.ReadFull(c, length[:]); err != nil {
			return
		}
		msg := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(c, msg); err != nil {
			return
		}
		answer := func() {
			writing.Lock()
			defer writing.Unlock()
			c.Write(length[:]) // two records, so that the client has to collect them
			c.Write(msg)
		}
		if once {
			answer()
			return
		}
		if msg[12] == 0 {
			answer()
		} else if msg[12] < 200 {
			time.AfterFunc(time.Duration(msg[12])*time.Second, answer)
		}
	}
}

// query returns a query that is answered after some seconds, with a serial number.
func query(id uint16, seconds, serial byte) []byte {
	q := make([]byte, 14)
	binary.BigEndian.PutUint16(q, id)
	q[12], q[13] = seconds, serial
	return q
}

// RFC 7858 section 3.3: a client should pipeline its queries over one connection; responses may come in any
// order.
func TestQueriesSharingAConnectionAreAnsweredInAnyOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		start := time.Now()
		var wg sync.WaitGroup
		for i := range byte(20) {
			wg.Go(func() {
				q := query(7, 20-i, i) // the same ID for all
				got, err := c.Exchange(t.Context(), s.dial, server, q)
				require.NoError(t, err)
				require.Equal(t, q, got)
				require.Equal(t, time.Duration(20-i)*time.Second, time.Since(start))
			})
		}
		wg.Wait()
		require.Equal(t, []string{"tcp 192.0.2.53:853"}, s.dialed)
		require.NoError(t, c.Close())
		_, err := c.Exchange(t.Context(), s.dial, server, query(1, 0, 0))
		require.ErrorIs(t, err, net.ErrClosed)
	})
}

func TestACallerThatGivesUpHarmsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		var wg sync.WaitGroup
		for i := range byte(5) {
			wg.Go(func() { // one of these reads for all
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i+1)*time.Second)
				defer cancel()
				_, err := c.Exchange(ctx, s.dial, server, query(1, 255, i))
				require.ErrorIs(t, err, context.DeadlineExceeded)
			})
		}
		for i := range byte(5) {
			wg.Go(func() {
				q := query(2, 4+i, i)
				got, err := c.Exchange(t.Context(), s.dial, server, q)
				require.NoError(t, err)
				require.Equal(t, q, got)
			})
		}
		wg.Wait()
		require.Len(t, s.dialed, 1)
	})
}

// Callers whose contexts have ended before the call, or end during it, leave the connection to the others.
func TestACallWithAnEndedContextHarmsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() {
			_, err := c.Exchange(t.Context(), s.dial, server, query(1, 5, 0))
			require.NoError(t, err)
		})
		time.Sleep(time.Second)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		for range 100 {
			_, err := c.Exchange(ended, s.dial, server, query(2, 0, 0))
			require.ErrorIs(t, err, context.Canceled)
			ctx, cancel := context.WithCancel(t.Context())
			wg.Go(cancel)
			if _, err = c.Exchange(ctx, s.dial, server, query(3, 0, 0)); err != nil {
				require.ErrorIs(t, err, context.Canceled)
			}
		}
		_, err := c.Exchange(t.Context(), s.dial, server, query(4, 0, 0))
		require.NoError(t, err)
		require.Len(t, s.dialed, 1)
	})
}

// The caller that connects for all gives up.
func TestTheNextCallerConnectsIfTheFirstGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		slow := func(ctx context.Context, network, address string) (net.Conn, error) {
			select {
			case <-time.After(2 * time.Second):
				return s.dial(ctx, network, address)
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err := c.Exchange(ctx, slow, server, query(1, 0, 0))
			require.ErrorIs(t, err, context.DeadlineExceeded)
		})
		wg.Go(func() {
			time.Sleep(time.Millisecond)
			_, err := c.Exchange(t.Context(), slow, server, query(1, 0, 0))
			require.NoError(t, err)
		})
		wg.Wait()
		require.Len(t, s.dialed, 1)
	})
}

// RFC 7766 section 6.2.4: a server may close a connection, and the client repeats its queries on a new one.
func TestAClosedConnectionIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		s.once = true
		for i := range 3 {
			_, err := c.Exchange(t.Context(), s.dial, server, query(1, 0, 0))
			require.NoError(t, err)
			synctest.Wait()
			require.Len(t, s.dialed, i+1)
		}
		s.plain = true // a server that always closes is not queried for ever
		_, err := c.Exchange(t.Context(), s.dial, server, query(1, 0, 0))
		require.Error(t, err)
		require.Len(t, s.dialed, 4)
	})
}

func TestAnIdleConnectionIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		for range 3 {
			_, err := c.Exchange(t.Context(), s.dial, server, query(1, 0, 0))
			require.NoError(t, err)
			time.Sleep(defaultIdle - time.Second)
		}
		require.Len(t, s.dialed, 1)
		_, err := c.Exchange(t.Context(), s.dial, server, query(1, 30, 0))
		require.NoError(t, err, "a connection in use is not closed")
		time.Sleep(defaultIdle + time.Second)
		_, err = c.Exchange(t.Context(), s.dial, server, query(1, 0, 0))
		require.NoError(t, err)
		require.Len(t, s.dialed, 2)
	})
}

func TestTheCertificateIsChecked(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(c *Client)
		ok     bool
	}{
		{"the right name", func(c *Client) {}, true},
		{"another name", func(c *Client) { c.ServerName = "other.test" }, false},
		{"the name of this server", func(c *Client) {
			c.ServerName, c.Names = "other.test", map[netip.Addr]string{server.Addr(): hosttest.NameB}
		}, true},
		{"no name: the address", func(c *Client) { c.ServerName = "" }, false},
		{"an unknown authority", func(c *Client) { c.TLS = nil }, false},
		{"no authentication", func(c *Client) { c.TLS, c.NoAuthentication = nil, true }, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, c := newServer(t)
			tc.change(c)
			_, err := c.Exchange(t.Context(), s.dial, netip.MustParseAddrPort("192.0.2.53:53"), query(1, 0, 0))
			require.Equal(t, tc.ok, err == nil, "%v", err)
			require.Equal(t, []string{"tcp 192.0.2.53:853"}, s.dialed, "port 53 stands for 853")
		})
	}
}

func TestCloseEndsQueries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		time.AfterFunc(time.Second, func() { c.Close() })
		_, err := c.Exchange(t.Context(), s.dial, server, query(1, 100, 0))
		require.ErrorIs(t, err, net.ErrClosed)
	})
}

// A connection with as many queries as it may have refuses the next one, and the others go on.
func TestTooManyQueriesHarmNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newServer(t)
		ctx, cancel := context.WithCancel(t.Context())
		var waiting sync.WaitGroup
		var answered atomic.Int32
		for i := range maxOutstanding {
			waiting.Go(func() {
				if _, err := c.Exchange(ctx, s.dial, server, query(uint16(i), 60, 0)); err == nil {
					answered.Add(1)
				}
			})
		}
		time.Sleep(time.Second)
		_, err := c.Exchange(ctx, s.dial, server, query(7, 0, 0))
		require.ErrorIs(t, err, errTooManyQueries)
		time.Sleep(2 * time.Minute)
		waiting.Wait()
		require.EqualValues(t, maxOutstanding, answered.Load())
		require.Len(t, s.dialed, 1)
		cancel()
	})
}
