package resolve

import (
	"net/netip"
	"testing"

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
