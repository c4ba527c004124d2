package resolve

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

// The examples of RFC 6052 section 2.4.
func TestAddressesOfRFC6052(t *testing.T) {
	for prefix, want := range map[string]string{
		"2001:db8::/32":              "2001:db8:c000:221::",
		"2001:db8:100::/40":          "2001:db8:1c0:2:21::",
		"2001:db8:122::/48":          "2001:db8:122:c000:2:2100::",
		"2001:db8:122:300::/56":      "2001:db8:122:3c0:0:221::",
		"2001:db8:122:344::/64":      "2001:db8:122:344:c0:2:2100:0",
		"2001:db8:122:344::/96":      "2001:db8:122:344::c000:221",
		"64:ff9b:1:fffe:aaaa::/96":   "64:ff9b:1:fffe:aaaa::c000:221",
		"2001:db8:122:344:1::/64":    "2001:db8:122:344:c0:2:2100:0", // bits after the prefix do not count
		"2001:db8:1:2:ff00:3:4::/96": "2001:db8:1:2:ff00:3:c000:221",
	} {
		p := netip.MustParsePrefix(prefix)
		got := embed(p, [4]byte{192, 0, 2, 33})
		require.Equal(t, netip.MustParseAddr(want), got, prefix)
		only := embed(p, [4]byte{192, 0, 0, 170})
		found, ok := prefixIn(only.As16())
		require.True(t, ok, prefix)
		require.Equal(t, p.Masked(), found)
	}
	for _, a := range []string{
		"2001:db8::1", "::", "2001:db8::c000:ac", "2001:db8:122:344:ffc0:0:aa00:0",
		"2001:db8:c000:aa::c000:aa", // at two places
	} {
		_, ok := prefixIn(netip.MustParseAddr(a).As16())
		require.False(t, ok, a)
	}
}

// RFC 6052 section 3.1: "The Well-Known Prefix MUST NOT be used to represent non-global IPv4 addresses".
func TestPrivateAddressesAreNotInTheWellKnownPrefix(t *testing.T) {
	own := netip.MustParsePrefix("2001:db8:64::/96")
	for _, a := range []string{"10.0.0.1", "192.168.1.1", "100.64.0.1", "192.0.2.1", "0.1.2.3", "240.0.0.1", "198.18.0.1"} {
		require.Empty(t, synthesize([]netip.Prefix{wellKnown64}, addrs(a)), a)
		require.Len(t, synthesize([]netip.Prefix{own}, addrs(a)), 1, a)
	}
	for _, a := range []string{"127.0.0.1", "0.0.0.0", "224.0.0.1", "169.254.0.1", "2001:db8::1"} {
		require.Empty(t, synthesize([]netip.Prefix{own, wellKnown64}, addrs(a)), a)
	}
	require.Equal(t, addrs("64:ff9b::808:808"), synthesize([]netip.Prefix{wellKnown64}, addrs("8.8.8.8")))
}

func TestLookupsOnANetworkWithNAT64(t *testing.T) {
	z := zone{
		"four.test.":       {a("192.0.2.33")},
		"both.test.":       {a("192.0.2.34"), aaaa("2001:db8::34")},
		"txt.test.":        {cname("nowhere.test.")},
		"alias.test.":      {cname("four.test.")},
		ipv4Only:           {a("192.0.0.170"), a("192.0.0.171"), aaaa("2001:db8:64::c000:aa"), aaaa("2001:db8:64::c000:ab"), aaaa("2001:db8::bad")},
		"literal.v6.arpa.": {},
	}
	for _, tc := range []struct {
		name                string
		nat64, v4, learned  bool // Config.NAT64; the host has IPv4; the prefix is that of a router
		network, host, want string
	}{
		{"a name without AAAA", true, false, false, "ip", "four.test", "2001:db8:64::c000:221 192.0.2.33"},
		{"an alias", true, false, false, "ip6", "alias.test", "2001:db8:64::c000:221"},
		{"IPv6 only", true, false, false, "ip6", "four.test", "2001:db8:64::c000:221"},
		{"IPv4 only", true, false, false, "ip4", "four.test", "192.0.2.33"},
		{"a name with AAAA", true, false, false, "ip", "both.test", "2001:db8::34 192.0.2.34"},
		{"a name with AAAA, IPv6 only", true, false, false, "ip6", "both.test", "2001:db8::34"},
		{"a host with IPv4", true, true, false, "ip", "four.test", "192.0.2.33"},
		{"NAT64 is off", false, false, false, "ip", "four.test", "192.0.2.33"},
		{"a prefix of the router", true, false, true, "ip6", "four.test", "2001:db8:65::c000:221"},
		{"no such name", true, false, false, "ip6", "nowhere.test", "no such host"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := newNetwork(map[string]handler{server1: z.serve})
			cfg := Config{NAT64: tc.nat64, Rand: unmixed, Source: func(dst netip.Addr) netip.Addr {
				if dst.Unmap().Is4() && !tc.v4 {
					return netip.Addr{}
				}
				return map[bool]netip.Addr{true: netip.MustParseAddr("192.0.2.2"), false: netip.MustParseAddr("2001:db8::2")}[dst.Is4()]
			}}
			if tc.learned {
				cfg.Prefixes64 = func() []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix("2001:db8:65::/96")} }
			}
			r := resolverOn(n, cfg, server1)
			ips, err := r.LookupNetIP(t.Context(), tc.network, tc.host)
			if err != nil {
				require.ErrorContains(t, err, tc.want)
				return
			}
			got := ""
			for i, ip := range ips {
				if i > 0 {
					got += " "
				}
				got += ip.String()
			}
			require.Equal(t, tc.want, got)
			require.Equal(t, tc.nat64 && !tc.v4, len(r.Synthesize(t.Context(), netip.MustParseAddr("192.0.2.1"))) == 1)
			if !tc.nat64 || tc.learned || tc.v4 {
				require.NotContains(t, n.names(), ipv4Only)
			}
		})
	}
}
