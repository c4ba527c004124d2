package resolve

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
)

// RFC 8467 section 4.1: "Clients SHOULD pad queries to the closest multiple of 128 octets."
func TestEncryptedQueriesArePadded(t *testing.T) {
	var queries [][]byte
	r := New(Config{
		Servers: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:853")}, CacheSize: -1,
		Exchange: func(_ context.Context, _ DialFunc, server netip.AddrPort, query []byte) ([]byte, error) {
			require.Equal(t, "192.0.2.1:853", server.String())
			queries = append(queries, query)
			return hostZone.serve("tcp", query)[0], nil
		},
	})
	for _, name := range []string{"host.test.", "a.", long(60), long(80), long(128), long(250)} {
		ips, err := r.LookupIP(t.Context(), "ip4", name)
		if name == "host.test." {
			require.NoError(t, err)
			require.Equal(t, "192.0.2.80", ips[0].String())
		} else {
			require.ErrorContains(t, err, "no such host")
		}
	}
	require.Len(t, queries, 6, "the case is not mixed, so no query is repeated")
	for _, q := range queries {
		require.Zero(t, len(q)%128)
		require.LessOrEqual(t, len(q), 384)
	}
}

func TestAFailureOfTheEncryptionIsAnError(t *testing.T) {
	n := newNetwork(map[string]handler{server1: hostZone.serve})
	broken := errors.New("tls: bad certificate")
	for name, exchange := range map[string]func(query []byte) ([]byte, error){
		"tls: bad certificate": func([]byte) ([]byte, error) { return nil, broken },
		"invalid DNS response": func(query []byte) ([]byte, error) { return make([]byte, 12), nil },
		"server misbehaving": func(query []byte) ([]byte, error) {
			return failing(dnsmessage.RCodeServerFailure)("tcp", query)[0], nil
		},
	} {
		cfg := Config{Exchange: func(_ context.Context, _ DialFunc, _ netip.AddrPort, query []byte) ([]byte, error) {
			return exchange(query)
		}}
		_, err := resolverOn(n, cfg, server1).LookupIP(t.Context(), "ip4", "host.test.")
		require.ErrorContains(t, err, name)
	}
	require.Empty(t, n.log(), "nothing is sent in clear")
}

// RFC 7858 section 4.1: with opportunistic privacy, a client may fall back to clear text.
func TestOpportunisticQueriesFallBackToClearText(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(map[string]handler{server1: hostZone.serve})
		var mu sync.Mutex
		tried, works := 0, false
		cfg := Config{Opportunistic: true, Exchange: func(ctx context.Context, _ DialFunc, _ netip.AddrPort, query []byte) ([]byte, error) {
			mu.Lock()
			tried++
			ok := works
			mu.Unlock()
			if ok {
				return hostZone.serve("tcp", query)[0], nil
			}
			<-ctx.Done() // port 853 is filtered
			return nil, ctx.Err()
		}}
		r := resolverOn(n, cfg, server1)
		lookup := func() time.Duration {
			t.Helper()
			start := time.Now()
			_, err := r.LookupIP(t.Context(), "ip4", "host.test.")
			require.NoError(t, err)
			return time.Since(start)
		}
		require.Equal(t, defaultTimeout/2, lookup())
		require.Zero(t, lookup(), "the server is known to be without encryption")
		require.Equal(t, 1, tried)
		time.Sleep(lessonTime)
		works = true
		inClear := len(n.log())
		require.Zero(t, lookup())
		require.Len(t, n.log(), inClear)
		require.Equal(t, 2, tried)
	})
}

// A server that is down answers neither with encryption nor without. After it has come back, queries are encrypted
// at once.
func TestAServerThatIsDownDoesNotEndEncryption(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(map[string]handler{server1: silent})
		up := false
		r := resolverOn(n, Config{Opportunistic: true, Exchange: func(ctx context.Context, _ DialFunc, _ netip.AddrPort, query []byte) ([]byte, error) {
			if up {
				return hostZone.serve("tcp", query)[0], nil
			}
			<-ctx.Done()
			return nil, ctx.Err()
		}}, server1)
		_, err := r.LookupIP(t.Context(), "ip4", "host.test.")
		require.Error(t, err)
		up = true
		inClear := len(n.log())
		require.NotZero(t, inClear)
		_, err = r.LookupIP(t.Context(), "ip4", "host.test.")
		require.NoError(t, err)
		require.Len(t, n.log(), inClear)
	})
}

func TestExchangeNeedsNoDial(t *testing.T) {
	cfg := Config{Servers: []netip.AddrPort{netip.MustParseAddrPort(server1)}}
	cfg.Exchange = func(_ context.Context, dial DialFunc, _ netip.AddrPort, query []byte) ([]byte, error) {
		require.Nil(t, dial)
		return hostZone.serve("tcp", query)[0], nil
	}
	_, err := New(cfg).LookupHost(t.Context(), "host.test")
	require.NoError(t, err)
}

var _ DialFunc = (&net.Dialer{}).DialContext
