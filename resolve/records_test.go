package resolve

import (
	"cmp"
	"net"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
)

func srv(priority, weight uint16, target string) dnsmessage.ResourceBody {
	return &dnsmessage.SRVResource{Priority: priority, Weight: weight, Port: 5060, Target: mustName(target)}
}

func mx(pref uint16, host string) dnsmessage.ResourceBody {
	return &dnsmessage.MXResource{Pref: pref, MX: mustName(host)}
}

func resolverOf(z zone) *Resolver {
	return resolverOn(newNetwork(map[string]handler{server1: z.serve}), Config{}, server1)
}

func TestSRVRecordsAreOfTheServiceOrTheNameItself(t *testing.T) {
	r := resolverOf(zone{
		"_sip._tcp.example.test.": {srv(2, 0, "two.test."), srv(1, 0, "one.test.")},
		"direct.test.":            {srv(1, 0, "d.test.")},
		"alias.test.":             {cname("_sip._tcp.example.test.")},
	})
	name, srvs, err := r.LookupSRV(t.Context(), "sip", "tcp", "example.test.")
	require.NoError(t, err)
	require.Equal(t, "_sip._tcp.example.test.", name)
	require.Equal(t, []*net.SRV{
		{Target: "one.test.", Port: 5060, Priority: 1},
		{Target: "two.test.", Port: 5060, Priority: 2},
	}, srvs)
	name, _, err = r.LookupSRV(t.Context(), "", "", "direct.test.")
	require.NoError(t, err)
	require.Equal(t, "direct.test.", name)
	name, _, err = r.LookupSRV(t.Context(), "", "", "alias.test.")
	require.NoError(t, err)
	require.Equal(t, "_sip._tcp.example.test.", name)
	_, _, err = r.LookupSRV(t.Context(), "ssh", "tcp", "example.test.")
	requireDNSError(t, err, "no such host", "_ssh._tcp.example.test.", server1)
}

func TestSRVRecordsOfAPriorityAreChosenByWeight(t *testing.T) {
	// RFC 2782: "larger weights SHOULD be given a proportionately higher probability".
	r := New(Config{Rand: counter()})
	first := make(map[string]int)
	const rounds = 4000
	for range rounds {
		srvs := []*net.SRV{
			{Target: "zero", Weight: 0, Priority: 1}, {Target: "three", Weight: 3, Priority: 1},
			{Target: "one", Weight: 1, Priority: 1}, {Target: "later", Weight: 1000, Priority: 2},
		}
		r.sortSRV(srvs)
		first[srvs[0].Target]++
		require.Equal(t, "later", srvs[3].Target)
		seen := map[string]bool{}
		for _, s := range srvs {
			seen[s.Target] = true
		}
		require.Len(t, seen, 4, "none is lost")
	}
	// The resolver draws a number from 0 to 4. 0 selects the record with weight 0, 1 selects the record
	// with weight 1, and 2 to 4 select the record with weight 3.
	require.InDelta(t, rounds/5, first["zero"], rounds/20)
	require.InDelta(t, rounds/5, first["one"], rounds/20)
	require.InDelta(t, 3*rounds/5, first["three"], rounds/20)
	require.Zero(t, first["later"])
}

func TestSRVRecordsOfWeight0KeepTheirOrder(t *testing.T) {
	// RFC 2782: "arrange all SRV RRs [...] in any order, except that all those with weight 0 are placed at the
	// beginning of the list".
	r := New(Config{Rand: counter()})
	for _, weights := range [][]uint16{{0, 0, 0, 0}, {0, 2, 0, 1, 0}, {5, 0, 0}} {
		var list []*net.SRV
		for i, w := range weights {
			list = append(list, &net.SRV{Port: uint16(i), Weight: w})
		}
		for range 200 {
			srvs := slices.Clone(list)
			r.sortSRV(srvs)
			require.ElementsMatch(t, list, srvs)
			zero := slices.DeleteFunc(srvs, func(s *net.SRV) bool { return s.Weight > 0 })
			require.True(t, slices.IsSortedFunc(zero, func(a, b *net.SRV) int { return cmp.Compare(a.Port, b.Port) }), weights)
		}
	}
}

// counter returns a splitmix64 generator, which returns the same numbers in every run.
func counter() func() uint64 {
	var x uint64
	return func() uint64 {
		x += 0x9e3779b97f4a7c15
		z := (x ^ x>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		return z ^ z>>31
	}
}

func TestMXRecordsAreSortedByPreferenceAndRandomAmongEquals(t *testing.T) {
	r := resolverOf(zone{"m.test.": {mx(20, "c.test."), mx(10, "a.test."), mx(10, "b.test."), mx(30, "192.0.2.1.")}})
	first := map[string]bool{}
	for range 64 {
		mxs, err := r.LookupMX(t.Context(), "m.test.")
		require.NoError(t, err)
		require.Len(t, mxs, 4)
		require.Equal(t, &net.MX{Host: "c.test.", Pref: 20}, mxs[2])
		require.Equal(t, "192.0.2.1.", mxs[3].Host, "addresses are tolerated")
		first[mxs[0].Host] = true
	}
	require.Equal(t, map[string]bool{"a.test.": true, "b.test.": true}, first)
}

func TestRecordsWithInvalidNamesAreLeftOut(t *testing.T) {
	const text = "DNS response contained records which contain invalid names"
	r := resolverOf(zone{
		"x.test.": {
			mx(1, "<html>.test."), mx(2, "good.test."),
			srv(1, 1, "a b.test."), srv(1, 1, "good.test."),
			&dnsmessage.NSResource{NS: mustName("-bad.test.")}, &dnsmessage.NSResource{NS: mustName("good.test.")},
		},
		"1.2.0.192.in-addr.arpa.": {
			&dnsmessage.PTRResource{PTR: mustName("$(rm).test.")}, &dnsmessage.PTRResource{PTR: mustName("good.test.")},
		},
		"alias.test.": {cname("bad name.test.")}, "bad name.test.": {a("192.0.2.1"), srv(1, 1, "good.test.")},
	})
	ctx := t.Context()
	mxs, err := r.LookupMX(ctx, "x.test.")
	requireDNSError(t, err, text, "x.test.", "")
	require.Equal(t, []*net.MX{{Host: "good.test.", Pref: 2}}, mxs)
	_, srvs, err := r.LookupSRV(ctx, "", "", "x.test.")
	requireDNSError(t, err, text, "x.test.", "")
	require.Len(t, srvs, 1)
	nss, err := r.LookupNS(ctx, "x.test.")
	requireDNSError(t, err, text, "x.test.", "")
	require.Equal(t, []*net.NS{{Host: "good.test."}}, nss)
	names, err := r.LookupAddr(ctx, "192.0.2.1")
	requireDNSError(t, err, text, "192.0.2.1", "")
	require.Equal(t, []string{"good.test."}, names)
	name, err := r.LookupCNAME(ctx, "alias.test.")
	requireDNSError(t, err, text, "alias.test.", "")
	require.Empty(t, name)
	_, _, err = r.LookupSRV(ctx, "", "", "alias.test.")
	requireDNSError(t, err, "SRV header name is invalid", "alias.test.", "")
}

func TestTheStringsOfATXTRecordAreJoined(t *testing.T) {
	r := resolverOf(zone{"t.test.": {
		&dnsmessage.TXTResource{TXT: []string{"v=spf1 ", "-all"}}, &dnsmessage.TXTResource{TXT: []string{""}},
	}})
	txts, err := r.LookupTXT(t.Context(), "t.test.")
	require.NoError(t, err)
	require.Equal(t, []string{"v=spf1 -all", ""}, txts)
}

func TestReverseNames(t *testing.T) {
	r := resolverOf(zone{
		"1.2.0.192.in-addr.arpa.": {&dnsmessage.PTRResource{PTR: mustName("four.test.")}},
		"1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.": {&dnsmessage.PTRResource{PTR: mustName("six.test.")}},
	})
	for addr, want := range map[string]string{
		"192.0.2.1": "four.test.", "::ffff:192.0.2.1": "four.test.", "2001:db8::1": "six.test.",
	} {
		names, err := r.LookupAddr(t.Context(), addr)
		require.NoError(t, err)
		require.Equal(t, []string{want}, names)
	}
	for _, addr := range []string{"", "host.test", "192.0.2", "fe80::1%eth0", "192.0.2.1:53"} {
		_, err := r.LookupAddr(t.Context(), addr)
		requireDNSError(t, err, "unrecognized address", addr, "")
	}
}
