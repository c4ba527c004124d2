package addrsel

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPolicyTable(t *testing.T) {
	// The values are those of the table in RFC 6724 2.1.
	for addr, want := range map[string][2]uint8{
		"::1": {50, 0}, "2001:db8::1": {40, 1}, "::": {1, 3}, "::192.0.2.1": {1, 3},
		"192.0.2.1": {35, 4}, "127.0.0.1": {35, 4}, "::ffff:192.0.2.1": {35, 4},
		"2002:c000:201::1": {30, 2}, "2001::1": {5, 5}, "2001:0:ffff::1": {5, 5}, "2001:1::1": {40, 1},
		"fc00::1": {3, 13}, "fdff::1": {3, 13}, "fec0::1": {1, 11}, "3ffe::1": {1, 12},
		"fe80::1": {40, 1}, "ff02::1": {40, 1},
	} {
		p := policyOf(netip.MustParseAddr(addr))
		require.Equal(t, want, [2]uint8{p.precedence, p.label}, addr)
	}
}

func TestScopes(t *testing.T) {
	for addr, want := range map[string]uint8{
		"127.0.0.1": scopeLinkLocal, "169.254.1.1": scopeLinkLocal, "::ffff:169.254.1.1": scopeLinkLocal,
		"::1": scopeLinkLocal, "fe80::1": scopeLinkLocal, "fe80::1%eth0": scopeLinkLocal,
		// RFC 6724 3.2: "addresses in private ranges" have global scope.
		"10.0.0.1": scopeGlobal, "192.168.0.1": scopeGlobal, "192.0.2.1": scopeGlobal,
		"2001:db8::1": scopeGlobal, "fc00::1": scopeGlobal,
		"fec0::1": scopeSiteLocal, "feff::1": scopeSiteLocal,
		"ff01::1": 1, "ff02::1": 2, "ff05::1": 5, "ff0e::1": 14,
	} {
		require.Equal(t, want, scopeOf(netip.MustParseAddr(addr)), addr)
	}
}

func TestCommonPrefixLen(t *testing.T) {
	for _, tt := range []struct {
		s, d string
		want int
	}{
		{"2001:db8::1", "2001:db8::1", 64},
		{"2001:db8:0:0:1::", "2001:db8::", 64},
		{"2001:db8:0:1::", "2001:db8::", 63},
		{"2001:db8::", "3001:db8::", 3},
		{"8000::", "::1", 0},
		{"2001:db8::", "192.0.2.1", 0},
		{"192.0.2.1", "192.0.2.1", 0},
	} {
		require.Equal(t, tt.want, commonPrefixLen(netip.MustParseAddr(tt.s), netip.MustParseAddr(tt.d)), "%s %s", tt.s, tt.d)
	}
}

// A pair is a destination and the source address for it. src is "" if there is no source address.
type pair struct{ dst, src string }

func TestTheRulesOfRFC6724(t *testing.T) {
	for name, tt := range map[string]struct{ better, worse pair }{
		// The examples of RFC 6724 10.2, and one pair for each rule.
		"rule 1: unreachable": {
			pair{"192.0.2.1", "192.0.2.9"}, pair{"2001:db8::1", ""}},
		"rule 2: matching scope": {
			pair{"198.51.100.121", "198.51.100.117"}, pair{"2001:db8:1::1", "fe80::1"}},
		"rule 2: link-local IPv4 source": {
			pair{"2001:db8:1::1", "2001:db8:1::2"}, pair{"198.51.100.121", "169.254.13.78"}},
		"rule 5: matching label": {
			pair{"2001:db8:1::1", "2001:db8:1::2"}, pair{"2002:c633:6401::1", "2001:db8:1::2"}},
		"rule 5: 6to4 from 6to4": {
			pair{"2002:c633:6401::1", "2002:c633:6401::2"}, pair{"2001:db8:1::1", "2002:c633:6401::2"}},
		"rule 6: IPv6 over IPv4": {
			pair{"2001:db8:1::1", "2001:db8:1::2"}, pair{"10.1.2.3", "10.1.2.4"}},
		"rule 6: native over 6to4": {
			pair{"2001:db8:1::1", "2001:db8:1::2"}, pair{"2002:c633:6401::1", "2002:c633:6401::2"}},
		"rule 6: IPv4 over unique local": {
			pair{"192.0.2.1", "192.0.2.9"}, pair{"fc00::1", "fc00::2"}},
		"rule 8: smaller scope": {
			pair{"fe80::1", "fe80::2"}, pair{"2001:db8:1::1", "2001:db8:1::2"}},
		"rule 9: longest prefix": {
			pair{"2001:db8:1::1", "2001:db8:1::2"}, pair{"2001:db8:3ffe::1", "2001:db8:3f44::2"}},
		"rule 9: the other way": {
			pair{"2001:db8:3ffe::1", "2001:db8:3f44::2"}, pair{"2001:dba::1", "2001:db8:3f44::2"}},
	} {
		a, b := tt.better.destination(), tt.worse.destination()
		require.Negative(t, compare(a, b), name)
		require.Positive(t, compare(b, a), name)
	}
	for name, tt := range map[string]struct{ a, b pair }{
		"rule 1: neither is reachable": {pair{"2001:db8::1", ""}, pair{"192.0.2.1", ""}},
		"rule 9 is not for IPv4":       {pair{"192.0.2.1", "192.0.2.9"}, pair{"203.0.113.1", "192.0.2.9"}},
		"rule 10":                      {pair{"2001:db8::1", "2001:db8::9"}, pair{"2001:db8::2", "2001:db8::9"}},
	} {
		a, b := tt.a.destination(), tt.b.destination()
		require.Zero(t, compare(a, b), name)
		require.Zero(t, compare(b, a), name)
	}
}

func (p pair) destination() destination {
	var src netip.Addr
	if p.src != "" {
		src = netip.MustParseAddr(p.src)
	}
	return newDestination(netip.MustParseAddr(p.dst), src, false)
}

func TestTheOrderDoesNotDependOnTheFormOfAddresses(t *testing.T) {
	srcs := map[netip.Addr]netip.Addr{
		netip.MustParseAddr("192.0.2.1"):    netip.MustParseAddr("192.0.2.9"),
		netip.MustParseAddr("203.0.113.1"):  netip.MustParseAddr("192.0.2.9"),
		netip.MustParseAddr("2001:db8::1"):  netip.MustParseAddr("2001:db8::9"),
		netip.MustParseAddr("fe80::1%eth0"): netip.MustParseAddr("fe80::9"),
		netip.MustParseAddr("2001:db9::1"):  {},
	}
	source := func(dst netip.Addr) netip.Addr {
		src, ok := srcs[dst]
		require.True(t, ok, "asked about %s", dst)
		return src
	}
	addrs := []netip.Addr{
		netip.MustParseAddr("2001:db9::1"), netip.MustParseAddr("::ffff:203.0.113.1"), netip.MustParseAddr("192.0.2.1"),
		netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("fe80::1%eth0"),
	}
	want := []netip.Addr{addrs[4], addrs[3], addrs[1], addrs[2], addrs[0]}
	SortDestinations(addrs, source, nil)
	require.Equal(t, want, addrs)
}

// RFC 6724 6, rule 3: "If Source(DA) is deprecated and Source(DB) is not, then prefer DB."
func TestDeprecatedSourcesAreAvoided(t *testing.T) {
	srcs := map[string]string{
		"2001:db8:1::1": "2001:db8:1::2", // rule 9 alone prefers this one
		"2001:db8:2::1": "2001:db8:3::2",
		"198.51.100.1":  "198.51.100.2",
		"fe80::1":       "2001:db8:3::2", // not of the same scope: rule 2 comes first
		"2001:db8:4::1": "",
	}
	addrs := func(as ...string) (list []netip.Addr) {
		for _, a := range as {
			list = append(list, netip.MustParseAddr(a))
		}
		return list
	}
	source := func(dst netip.Addr) (src netip.Addr) {
		if a := srcs[dst.String()]; a != "" {
			src = netip.MustParseAddr(a)
		}
		return src
	}
	list := addrs("2001:db8:4::1", "fe80::1", "2001:db8:1::1", "2001:db8:2::1", "198.51.100.1")
	SortDestinations(list, source, nil)
	require.Equal(t, addrs("2001:db8:1::1", "2001:db8:2::1", "198.51.100.1", "fe80::1", "2001:db8:4::1"), list)
	SortDestinations(list, source, func(src netip.Addr) bool {
		require.True(t, src.IsValid())
		return src == netip.MustParseAddr("2001:db8:1::2")
	})
	require.Equal(t, addrs("2001:db8:2::1", "198.51.100.1", "2001:db8:1::1", "fe80::1", "2001:db8:4::1"), list)
}

func TestCompareIsAnOrder(t *testing.T) {
	// compare is a strict weak order in each family, so the result of sorting does not depend on the order
	// of the input.
	var all []destination
	for _, dst := range []string{"2001:db8::1", "2001:db8:1::1", "fe80::1", "::1", "fc00::1", "2002::1", "2001::1", "fec0::1", "3ffe::1", "::5"} {
		for _, src := range []string{"", "2001:db8::2", "fe80::2", "fc00::2", "2002::2", "::1"} {
			d := pair{dst, src}.destination()
			all = append(all, d)
			d.deprecated = src != ""
			all = append(all, d)
		}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		a, b, c := all[rng.IntN(len(all))], all[rng.IntN(len(all))], all[rng.IntN(len(all))]
		require.Equal(t, sign(compare(a, b)), -sign(compare(b, a)))
		if compare(a, b) <= 0 && compare(b, c) <= 0 {
			require.LessOrEqual(t, compare(a, c), 0)
		}
	}
	rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	slices.SortStableFunc(all, compare)
	require.True(t, slices.IsSortedFunc(all, compare))
}

func sign(n int) int { return max(-1, min(n, 1)) }

func TestSourcesAreChosenByTheRulesOfRFC6724(t *testing.T) {
	src := func(s string) Source { return Source{Prefix: netip.MustParsePrefix(s)} }
	with := func(s Source, change func(*Source)) Source { change(&s); return s }
	plain := src("2001:db8:1::1/64")
	for name, tt := range map[string]struct {
		dst           string
		better, worse Source
	}{
		// The examples of RFC 6724 10.1, and one for each rule.
		"rule 1: same address":                {"2001:db8:1::1", src("2001:db8:1::1/64"), src("2001:db8:1::2/64")},
		"rule 2: global for global":           {"2001:db8:1::1", src("2001:db8:3::1/64"), src("fe80::1/64")},
		"rule 2: global for a site's group":   {"ff05::1", src("2001:db8:3::1/64"), src("fe80::1/64")},
		"rule 2: link-local for a link-local": {"fe80::9", src("fe80::1/64"), src("2001:db8:3::1/64")},
		"rule 2: IPv4":                        {"198.51.100.1", src("192.0.2.1/24"), src("169.254.1.1/16")},
		"rule 3: not deprecated":              {"2001:db8:1::9", src("2001:db8:3::1/64"), with(plain, func(s *Source) { s.Deprecated = true })},
		"rule 5: of the interface":            {"2001:db8:1::9", with(src("2001:db8:3::1/64"), func(s *Source) { s.Outgoing = true }), plain},
		"rule 5.5: of the next hop":           {"2001:db8:1::9", with(src("2001:db8:3::1/64"), func(s *Source) { s.NextHop = true }), plain},
		"rule 6: 6to4 for 6to4":               {"2002:c633:6401::1", src("2002:c633:6401::d5e3:7953:13eb:22e8/64"), src("2001:db8:1::2/64")},
		"rule 6: unique local for the same":   {"fd11:2233:4455::9", src("fd00:aabb::1/64"), src("2001:db8:1::2/64")},
		"rule 7: temporary":                   {"2001:db8:1::d5e3:0:0:1", with(src("2001:db8:1::d5e3:7953:13eb:22e8/64"), func(s *Source) { s.Temporary = true }), src("2001:db8:1::2/64")},
		"rule 8: longest prefix":              {"2001:db8:1::9", plain, src("2001:db8:3::1/64")},
		"rule 8: IPv4":                        {"192.0.2.9", src("192.0.2.1/24"), src("198.51.100.1/24")},
	} {
		dst := netip.MustParseAddr(tt.dst)
		require.True(t, Better(dst, tt.better, tt.worse), name)
		require.False(t, Better(dst, tt.worse, tt.better), name)
	}
	// RFC 6724 2.2: only the prefix counts, not the interface ID.
	a, b := src("2001:db8:1::8/64"), src("2001:db8:1::1/64")
	require.False(t, Better(netip.MustParseAddr("2001:db8:1::9"), a, b))
	require.False(t, Better(netip.MustParseAddr("2001:db8:1::9"), b, a))
}
