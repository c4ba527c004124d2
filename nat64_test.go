package usernet

import (
	"net/netip"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/resolve"
)

// A host without IPv4 dials an IPv4 address by its representation in the network's NAT64 prefix. The other
// host stands for the translator: it has the address that represents 192.0.2.33.
func TestADialToAnIPv4LiteralOverNAT64(t *testing.T) {
	for _, nat64 := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			near, far := nic.Pipe(nic.PipeConfig{})
			prefix := netip.MustParsePrefix("2001:db8:64::/96")
			a, err := New(Config{
				NIC: near, Addrs: []netip.Prefix{netip.MustParsePrefix("2001:db8:64::5/64")},
				Resolver: resolve.Config{NAT64: nat64, Prefixes64: func() []netip.Prefix { return []netip.Prefix{prefix} }},
			})
			require.NoError(t, err)
			defer a.Close()
			b, err := New(Config{NIC: far, Addrs: []netip.Prefix{netip.MustParsePrefix("2001:db8:64::c000:221/64")}})
			require.NoError(t, err)
			defer b.Close()
			ln, err := b.Listen("tcp", ":80")
			require.NoError(t, err)
			defer ln.Close()
			c, err := a.Dial("tcp", "192.0.2.33:80")
			if !nat64 {
				require.ErrorContains(t, err, "network is unreachable")
				return
			}
			require.NoError(t, err)
			require.Equal(t, "[2001:db8:64::c000:221]:80", c.RemoteAddr().String())
			c.Close()
			_, err = a.Dial("tcp4", "192.0.2.33:80")
			require.ErrorContains(t, err, "network is unreachable")
			_, err = a.Listen("tcp", "192.0.2.33:80")
			require.ErrorContains(t, err, "cannot assign requested address")
		})
	}
}

// The host has no route to the Internet over IPv4, but it has an IPv4 network. A dial to an address in that
// network does not go through the translator.
func TestADialToAnIPv4NeighborWithNAT64(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := nic.Pipe(nic.PipeConfig{})
		prefix := netip.MustParsePrefix("2001:db8:64::/96")
		a, err := New(Config{
			NIC: near, Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8:64::5/64")},
			Resolver: resolve.Config{NAT64: true, Prefixes64: func() []netip.Prefix { return []netip.Prefix{prefix} }},
		})
		require.NoError(t, err)
		defer a.Close()
		b, err := New(Config{NIC: far, Addrs: []netip.Prefix{
			netip.MustParsePrefix("192.0.2.33/24"), netip.MustParsePrefix("2001:db8:64::c000:221/64"), netip.MustParsePrefix("2001:db8:64::c633:6421/64"),
		}})
		require.NoError(t, err)
		defer b.Close()
		ln, err := b.Listen("tcp", ":80")
		require.NoError(t, err)
		defer ln.Close()
		for to, want := range map[string]string{
			"192.0.2.33:80":    "192.0.2.33:80",               // on the link
			"198.51.100.33:80": "[2001:db8:64::c633:6421]:80", // there is no route to it
		} {
			c, err := a.Dial("tcp", to)
			require.NoError(t, err)
			require.Equal(t, want, c.RemoteAddr().String())
			c.Close()
		}
	})
}
