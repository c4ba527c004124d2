package resolve

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
)

// Name servers learned from a router or a DHCP server may appear and disappear while the host runs.
func TestLearnedServersComeAndGo(t *testing.T) {
	const server9 = "192.0.2.9:53"
	z := zone{"www.a.test.": {&dnsmessage.TXTResource{TXT: []string{"x"}}}}
	n := newNetwork(map[string]handler{server9: z.serve})
	var servers []netip.AddrPort
	var search []string
	cfg := Config{Rand: unmixed, CacheSize: -1, Dial: n.Dial, Learned: func() ([]netip.AddrPort, []string) { return servers, search }}
	r := New(cfg)
	_, err := r.LookupTXT(t.Context(), "www.a.test")
	requireDNSError(t, err, "no such host", "www.a.test", "")
	servers = []netip.AddrPort{netip.MustParseAddrPort(server9), netip.MustParseAddrPort(server9)}
	got, err := r.LookupTXT(t.Context(), "www.a.test")
	require.NoError(t, err)
	require.Equal(t, []string{"x"}, got)
	require.Len(t, r.upstream(), 1, "an address counts once")
	first := r.upstream()[0]
	require.Same(t, first, r.upstream()[0], "what was learned of a server is kept")

	_, err = r.LookupTXT(t.Context(), "www")
	require.Error(t, err)
	search = []string{"a.test", "."}
	got, err = r.LookupTXT(t.Context(), "www")
	require.NoError(t, err)
	require.Equal(t, []string{"x"}, got)

	servers = nil
	_, err = r.LookupTXT(t.Context(), "www.a.test")
	require.Error(t, err)

	// Configured servers come first.
	n.servers[server1] = z.serve
	cfg.Servers = []netip.AddrPort{netip.MustParseAddrPort(server1)}
	cfg.Search = []string{"b.test"}
	servers = []netip.AddrPort{netip.MustParseAddrPort(server9)}
	r = New(cfg)
	require.Equal(t, []string{"b.test.", "a.test."}, r.domains())
	up := r.upstream()
	require.Len(t, up, 2)
	require.Equal(t, server1, up[0].addr)
}

// A laptop moves to another network, where the same names have other addresses.
func TestAnswersOfTheFormerNetworkAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		home, office := zone{"nas.test.": {a("192.0.2.7")}}, zone{"nas.test.": {a("198.51.100.7")}, "intra.test.": {a("198.51.100.8")}}
		n := newNetwork(map[string]handler{server1: home.serve, server2: office.serve})
		var mu sync.Mutex
		servers := []netip.AddrPort{netip.MustParseAddrPort(server1)}
		move := func(to ...string) {
			mu.Lock()
			defer mu.Unlock()
			servers = nil
			for _, s := range to {
				servers = append(servers, netip.MustParseAddrPort(s))
			}
		}
		r := New(Config{Rand: unmixed, Dial: n.Dial, Learned: func() ([]netip.AddrPort, []string) {
			mu.Lock()
			defer mu.Unlock()
			return servers, nil
		}})
		lookup := func(name string) string {
			ips, err := r.LookupNetIP(t.Context(), "ip4", name)
			if err != nil {
				return err.Error()
			}
			return ips[0].String()
		}
		require.Equal(t, "192.0.2.7", lookup("nas.test"))
		require.Contains(t, lookup("intra.test"), "no such host")
		asked := len(n.log())
		require.Equal(t, "192.0.2.7", lookup("nas.test"))
		require.Contains(t, lookup("intra.test"), "no such host")
		require.Len(t, n.log(), asked, "both answers are cached")
		move(server2)
		require.Equal(t, "198.51.100.7", lookup("nas.test"))
		require.Equal(t, "198.51.100.8", lookup("intra.test"), "a cached failure is forgotten too")
		asked = len(n.log())
		move(server2, server2)
		require.Equal(t, "198.51.100.7", lookup("nas.test"))
		require.Len(t, n.log(), asked, "the same servers are the same network")

		// A query whose server has gone moves to the new one, and an answer of the old network that comes
		// late is not cached.
		n.servers[server1] = func(network string, query []byte) [][]byte {
			time.Sleep(time.Second)
			return home.serve(network, query)
		}
		move(server1)
		time.AfterFunc(500*time.Millisecond, func() { move(server2) })
		require.Equal(t, "192.0.2.7", lookup("nas.test"))
		require.Equal(t, "198.51.100.7", lookup("nas.test"))
		n.servers[server1] = silent
		move(server1)
		time.AfterFunc(500*time.Millisecond, func() { move(server2) })
		start := time.Now()
		require.Equal(t, "198.51.100.7", lookup("nas.test"))
		require.Equal(t, defaultTimeout, time.Since(start))

		// A caller that asks after the move does not join a query that was sent before.
		move(server1)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go r.LookupNetIP(ctx, "ip4", "nas.test")
		time.Sleep(time.Second)
		move(server2)
		start = time.Now()
		require.Equal(t, "198.51.100.7", lookup("nas.test"))
		require.Zero(t, time.Since(start))
	})
}
