package resolve

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAConfigGoesThroughAResolverUnchanged(t *testing.T) {
	for _, ndots := range []int{-1, 1, 3} {
		cfg := New(Config{
			Ndots:   ndots,
			Servers: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")},
			Search:  []string{"example.org"},
		}).Config()
		require.Equal(t, ndots, cfg.Ndots)
		again := New(cfg).Config()
		cfg.Rand, again.Rand = nil, nil
		require.Equal(t, cfg, again)
	}
}
