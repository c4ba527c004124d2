package resolve

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
)

func TestLiteralsAreNeverAsked(t *testing.T) {
	n := newNetwork(map[string]handler{server1: zone{}.serve})
	r := resolverOn(n, Config{}, server1)
	for _, host := range []string{"192.0.2.1", "2001:db8::1", "fe80::1%eth0", "::ffff:192.0.2.1", "::"} {
		addrs, err := r.LookupHost(t.Context(), host)
		require.NoError(t, err)
		require.Equal(t, []string{host}, addrs)
		ips, err := r.LookupIPAddr(t.Context(), host)
		require.NoError(t, err)
		require.Len(t, ips, 1)
		require.Len(t, ips[0].IP, net.IPv6len)
		_, zone, _ := strings.Cut(host, "%")
		require.Equal(t, zone, ips[0].Zone)
	}
	require.Empty(t, n.log())
}

func TestLocalhostIsLoopbackAndNeverAsked(t *testing.T) {
	n := newNetwork(map[string]handler{server1: zone{}.serve})
	r := resolverOn(n, Config{Search: []string{"example.test"}}, server1)
	for _, name := range []string{"localhost", "localhost.", "LocalHost", "a.b.localhost", "A.localhost."} {
		addrs, err := r.LookupHost(t.Context(), name)
		require.NoError(t, err)
		require.Equal(t, []string{"127.0.0.1", "::1"}, addrs)
		// RFC 6761 6.3: "negative responses for all other query types".
		_, err = r.LookupTXT(t.Context(), name)
		require.True(t, requireDNSError(t, err, "no such host", name, "").IsNotFound)
	}
	cname, err := r.LookupCNAME(t.Context(), "A.Localhost")
	require.NoError(t, err)
	require.Equal(t, "a.localhost.", cname)
	_, err = r.LookupHost(t.Context(), "bad..localhost")
	require.Error(t, err)
	require.Empty(t, n.log())

	r = resolverOn(n, Config{Families: onlyIPv4}, server1)
	addrs, err := r.LookupHost(t.Context(), "localhost")
	require.NoError(t, err)
	require.Equal(t, []string{"127.0.0.1"}, addrs)

	// The result has only the loopback addresses that the host can reach, or both if it can reach none.
	for _, c := range []struct{ reachable, want []string }{
		{[]string{"127.0.0.1"}, []string{"127.0.0.1"}},
		{[]string{"::1"}, []string{"::1"}},
		{nil, []string{"127.0.0.1", "::1"}},
		{[]string{"127.0.0.1", "::1"}, []string{"::1", "127.0.0.1"}}, // RFC 6724 2.1: precedence 50 and 35
	} {
		r = resolverOn(n, Config{Source: func(dst netip.Addr) netip.Addr {
			if slices.Contains(c.reachable, dst.String()) {
				return dst
			}
			return netip.Addr{}
		}}, server1)
		addrs, err = r.LookupHost(t.Context(), "localhost")
		require.NoError(t, err)
		require.Equal(t, c.want, addrs)
	}
}

func TestSpecialNamesDoNotExistAndAreNeverAsked(t *testing.T) {
	n := newNetwork(map[string]handler{server1: zone{}.serve})
	r := resolverOn(n, Config{Search: []string{"example.test"}}, server1)
	for _, name := range []string{"x.onion", "x.ONION.", "a.x.onion", "x.invalid", "invalid.", "", "a..b", "-a.test", "a-.test", "a b", "192.0.2.256", "1.2", "\u00e9.test", "fe80::1%", strings.Repeat("a", 64) + ".test"} {
		_, err := r.LookupHost(t.Context(), name)
		require.True(t, requireDNSError(t, err, "no such host", name, "").IsNotFound)
		_, err = r.LookupIPAddr(t.Context(), name)
		requireDNSError(t, err, "no such host", name, "")
		_, err = r.LookupCNAME(t.Context(), name)
		requireDNSError(t, err, "no such host", name, "")
	}
	require.Empty(t, n.log())
}

func TestWithoutServersOnlyLocalNamesExist(t *testing.T) {
	var hosts Hosts
	hosts.Add(netip.MustParseAddr("192.0.2.7"), "seven.test", "seven")
	for _, r := range []*Resolver{
		New(Config{Hosts: hosts}),
		New(Config{Hosts: hosts, Servers: []netip.AddrPort{netip.MustParseAddrPort(server1)}}), // without Dial
	} {
		addrs, err := r.LookupHost(t.Context(), "Seven")
		require.NoError(t, err)
		require.Equal(t, []string{"192.0.2.7"}, addrs)
		_, err = r.LookupHost(t.Context(), "other.test")
		require.True(t, requireDNSError(t, err, "no such host", "other.test", "").IsNotFound)
	}
}

func TestHostsComeBeforeTheServers(t *testing.T) {
	var hosts Hosts
	hosts.Add(netip.MustParseAddr("192.0.2.7"), "Seven.test", "seven")
	hosts.Add(netip.MustParseAddr("2001:db8::7"), "seven.test")
	n := newNetwork(map[string]handler{server1: zone{}.serve})
	r := resolverOn(n, Config{Hosts: hosts}, server1)

	addrs, err := r.LookupHost(t.Context(), "seven.TEST.")
	require.NoError(t, err)
	require.Equal(t, []string{"192.0.2.7", "2001:db8::7"}, addrs)
	ips, err := r.LookupNetIP(t.Context(), "ip4", "seven.test")
	require.NoError(t, err)
	require.Equal(t, []netip.Addr{netip.MustParseAddr("::ffff:192.0.2.7")}, ips, "mapped, as in net")
	_, err = r.LookupIP(t.Context(), "ip6", "seven")
	require.Equal(t, &net.AddrError{Err: "no suitable address found", Addr: "seven"}, err)
	cname, err := r.LookupCNAME(t.Context(), "seven")
	require.NoError(t, err)
	require.Equal(t, "seven.test.", cname)
	names, err := r.LookupAddr(t.Context(), "192.0.2.7")
	require.NoError(t, err)
	require.Equal(t, []string{"Seven.test.", "seven"}, names)
	require.Empty(t, n.log())

	hosts.Add(netip.MustParseAddr("192.0.2.8"), "seven.test")
	addrs, err = r.LookupHost(t.Context(), "seven.test")
	require.NoError(t, err)
	require.Len(t, addrs, 2, "New has copied the hosts")
}

func TestSearchListAndNdots(t *testing.T) {
	const sub, dom = "sub.example.test", "example.test."
	for _, tt := range []struct {
		name  string
		ndots int // Config.Ndots: 0 is the default, 1, and -1 is 0
		want  []string
	}{
		{"www", 0, []string{"www.sub.example.test.", "www.example.test.", "www."}},
		{"www.", 0, []string{"www."}},
		{"www.x", 0, []string{"www.x.", "www.x.sub.example.test.", "www.x.example.test."}},
		{"www.x", 2, []string{"www.x.sub.example.test.", "www.x.example.test.", "www.x."}},
		{"www.x.y", 2, []string{"www.x.y.", "www.x.y.sub.example.test.", "www.x.y.example.test."}},
		{"www.x.", 5, []string{"www.x."}},
		{"www", -1, []string{"www.", "www.sub.example.test.", "www.example.test."}},
		{long(245)[:244], 0, []string{long(245)}}, // too long with each domain of the search list
		{long(240)[:239], 0, []string{long(240), long(240) + "example.test."}},
		{long(241)[:240], 0, []string{long(241), long(241) + "example.test."}}, // 254 bytes, the maximum
		{long(242)[:241], 0, []string{long(242)}},
	} {
		n := newNetwork(map[string]handler{server1: zone{}.serve})
		r := resolverOn(n, Config{Search: []string{sub, dom, "."}, Ndots: tt.ndots, Rand: unmixed}, server1)
		_, err := r.LookupTXT(t.Context(), tt.name)
		require.True(t, requireDNSError(t, err, "no such host", tt.name, server1).IsNotFound)
		require.Equal(t, tt.want, n.names(), "%s with ndots %d", tt.name, tt.ndots)
	}
}

func TestTheSearchEndsAtTheFirstNameThatHasTheRecord(t *testing.T) {
	z := zone{"www.a.test.": {&dnsmessage.TXTResource{TXT: []string{"x"}}}, "www.b.test.": {a("192.0.2.2")}}
	n := newNetwork(map[string]handler{server1: z.serve})
	r := resolverOn(n, Config{Search: []string{"a.test", "b.test", "c.test"}, Families: onlyIPv4, Rand: unmixed}, server1)
	addrs, err := r.LookupHost(t.Context(), "www")
	require.NoError(t, err)
	require.Equal(t, []string{"192.0.2.2"}, addrs)
	require.Equal(t, []string{"www.a.test.", "www.b.test."}, n.names(), "a name without the record does not count")
}

func TestTheErrorIsTheOneAboutTheNameAsGiven(t *testing.T) {
	h := func(network string, query []byte) [][]byte {
		if _, q := parseQuery(query); lower(q.Name.String()) == "www." {
			return failing(dnsmessage.RCodeServerFailure)(network, query)
		}
		return zone{}.serve(network, query)
	}
	n := newNetwork(map[string]handler{server1: h})
	_, err := resolverOn(n, Config{Search: []string{"a.test"}}, server1).LookupHost(t.Context(), "www")
	require.True(t, requireDNSError(t, err, "server misbehaving", "www", server1).IsTemporary)
}

func TestAFailureForOneFamilyOutweighsNoDataForTheOther(t *testing.T) {
	for _, broken := range []dnsmessage.Type{dnsmessage.TypeA, dnsmessage.TypeAAAA} {
		h := func(network string, query []byte) [][]byte {
			if _, q := parseQuery(query); q.Type == broken {
				return failing(dnsmessage.RCodeServerFailure)(network, query)
			}
			return zone{"x.test.": {}}.serve(network, query)
		}
		n := newNetwork(map[string]handler{server1: h})
		_, err := resolverOn(n, Config{}, server1).LookupHost(t.Context(), "x.test.")
		e := requireDNSError(t, err, "server misbehaving", "x.test.", server1)
		require.False(t, e.IsNotFound)
	}
}

func TestOneFamilyIsEnough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := func(network string, query []byte) [][]byte {
			if _, q := parseQuery(query); q.Type == dnsmessage.TypeAAAA {
				return nil
			}
			return hostZone.serve(network, query)
		}
		n := newNetwork(map[string]handler{server1: h})
		addrs, err := resolverOn(n, Config{Attempts: 1}, server1).LookupHost(t.Context(), "host.test.")
		require.NoError(t, err)
		require.Equal(t, []string{"192.0.2.80"}, addrs)
	})
}

func TestOnlyTheFamiliesOfTheHostAreAskedFor(t *testing.T) {
	A, AAAA := dnsmessage.TypeA, dnsmessage.TypeAAAA
	for _, tt := range []struct {
		network string
		v4, v6  bool
		want    []dnsmessage.Type
	}{
		{"ip", true, true, []dnsmessage.Type{A, AAAA}},
		{"ip", true, false, []dnsmessage.Type{A}},
		{"ip", false, true, []dnsmessage.Type{AAAA}},
		{"ip", false, false, []dnsmessage.Type{A, AAAA}},
		{"ip6", true, false, []dnsmessage.Type{AAAA}},
		{"ip4", false, true, []dnsmessage.Type{A}},
	} {
		n := newNetwork(map[string]handler{server1: hostZone.serve})
		r := resolverOn(n, Config{Families: func() (bool, bool) { return tt.v4, tt.v6 }}, server1)
		ips, err := r.LookupIP(t.Context(), tt.network, "host.test.")
		require.NoError(t, err)
		require.Len(t, ips, len(tt.want))
		var got []dnsmessage.Type
		for _, q := range n.log() {
			got = append(got, q.typ)
		}
		require.ElementsMatch(t, tt.want, got)
	}
}

func TestLookupIPTakesIPNetworksOnly(t *testing.T) {
	for _, network := range []string{"", "tcp", "udp4", "ip5", "unix"} {
		_, err := New(Config{}).LookupIP(t.Context(), network, "192.0.2.1")
		require.Equal(t, net.UnknownNetworkError(network), err)
	}
}

func TestAliasesAreFollowed(t *testing.T) {
	z := zone{
		"a.test.":      {cname("B.test.")},
		"b.test.":      {cname("c.test.")},
		"c.test.":      {a("192.0.2.3")},
		"dangling.":    {cname("dangling2.")},
		"dangling2.":   {cname("nowhere.")},
		"loop.test.":   {cname("loop2.test.")},
		"loop2.test.":  {cname("loop.test.")},
		"self.test.":   {cname("self.test.")},
		"hidden.test.": {cname("x.onion.")},
	}
	// lazy is a server that returns only the first alias and no SOA, as authoritative servers and some
	// proxies do.
	lazy := func(_ string, query []byte) [][]byte {
		m := respond(query)
		z.resolve(m)
		m.RCode, m.Authorities = dnsmessage.RCodeSuccess, nil
		if len(m.Answers) > 1 {
			m.Answers = m.Answers[:1]
		} else if len(m.Answers) == 0 {
			m.Authorities = append(m.Authorities, soa(negativeTTL))
		}
		return [][]byte{pack(m)}
	}
	reversed := func(network string, query []byte) [][]byte {
		m := respond(query)
		z.resolve(m)
		for i, j := 0, len(m.Answers)-1; i < j; i, j = i+1, j-1 {
			m.Answers[i], m.Answers[j] = m.Answers[j], m.Answers[i]
		}
		return [][]byte{pack(m)}
	}
	for name, h := range map[string]handler{"within a message": z.serve, "in any order": reversed, "by asking again": lazy} {
		t.Run(name, func(t *testing.T) {
			n := newNetwork(map[string]handler{server1: h})
			r := resolverOn(n, Config{}, server1)
			addrs, err := r.LookupHost(t.Context(), "a.test.")
			require.NoError(t, err)
			require.Equal(t, []string{"192.0.2.3"}, addrs)
			canonical, err := r.LookupCNAME(t.Context(), "A.test.")
			require.NoError(t, err)
			require.Equal(t, "c.test.", canonical)

			canonical, err = r.LookupCNAME(t.Context(), "dangling.")
			require.NoError(t, err, "an alias of nothing is still an alias")
			require.Equal(t, "nowhere.", canonical)
			_, err = r.LookupHost(t.Context(), "dangling.")
			requireDNSError(t, err, "no such host", "dangling.", server1)

			for _, loop := range []string{"loop.test.", "self.test."} {
				n.asked = nil
				_, err = r.LookupHost(t.Context(), loop)
				requireDNSError(t, err, "no such host", loop, server1)
				_, err = r.LookupCNAME(t.Context(), loop)
				requireDNSError(t, err, "no such host", loop, server1)
				require.LessOrEqual(t, len(n.log()), 5*maxChain, "a loop costs little")
			}
			n.asked = nil
			_, err = r.LookupHost(t.Context(), "hidden.test.")
			require.Error(t, err)
			canonical, err = r.LookupCNAME(t.Context(), "hidden.test.")
			require.NoError(t, err)
			require.Equal(t, "x.onion.", canonical)
			require.NotContains(t, n.names(), "x.onion.")
		})
	}
}

// chain returns a handler for a.test. A chain of n aliases leads over n0.test. to n{n-1}.test., which has an
// address. The handler returns at most atOnce aliases in one answer.
func chain(n, atOnce int) handler {
	return func(_ string, query []byte) [][]byte {
		m := respond(query)
		name := m.Questions[0].Name
		i := 0
		fmt.Sscanf(lower(name.String()), "n%d.", &i)
		if lower(name.String()) != "a.test." {
			i++
		}
		for range atOnce {
			if i == n {
				break
			}
			next := mustName(fmt.Sprintf("n%d.test.", i))
			m.Answers = append(m.Answers, resource(name, recordTTL, &dnsmessage.CNAMEResource{CNAME: next}))
			name = next
			i++
		}
		switch {
		case i < n:
		case m.Questions[0].Type == dnsmessage.TypeA:
			m.Answers = append(m.Answers, resource(name, recordTTL, a("192.0.2.3")))
		default:
			m.Authorities = append(m.Authorities, soa(negativeTTL))
		}
		return [][]byte{pack(m)}
	}
}

func TestALongChainOfAliasesResolves(t *testing.T) {
	for _, c := range []struct{ length, atOnce int }{{60, 60}, {60, 30}, {maxChain + 1, 1}, {2000, 1000}} {
		n := newNetwork(map[string]handler{server1: chain(c.length, c.atOnce)})
		r := resolverOn(n, Config{UseTCP: true}, server1)
		addrs, err := r.LookupHost(t.Context(), "a.test.")
		require.NoError(t, err, "%v", c)
		require.Equal(t, []string{"192.0.2.3"}, addrs)
		canonical, err := r.LookupCNAME(t.Context(), "a.test.")
		require.NoError(t, err, "%v", c)
		require.Equal(t, fmt.Sprintf("n%d.test.", c.length-1), canonical)
	}
}

func TestTooManyAliasesIsNotNoSuchHost(t *testing.T) {
	n := newNetwork(map[string]handler{server1: chain(maxChain+2, 1)})
	r := resolverOn(n, Config{Rand: unmixed}, server1)
	_, err := r.LookupHost(t.Context(), "a.test.")
	e := requireDNSError(t, err, "too many aliases", "a.test.", server1)
	require.False(t, e.IsNotFound)
	_, err = r.LookupTXT(t.Context(), "a.test.")
	requireDNSError(t, err, "too many aliases", "a.test.", server1)
	_, err = r.LookupCNAME(t.Context(), "a.test.")
	requireDNSError(t, err, "too many aliases", "a.test.", server1)
	require.LessOrEqual(t, len(n.log()), 8*(maxChain+1), "the number of queries is bounded")

	// If the servers do not follow all aliases, the resolver does not know whether the last name exists.
	n = newNetwork(map[string]handler{server1: chain(1000, 1)})
	_, err = resolverOn(n, Config{Search: []string{"b.test"}}, server1).LookupHost(t.Context(), "a.test")
	requireDNSError(t, err, "too many aliases", "a.test", server1)
}

func TestAReplyThatIsCutGivesItsWholeAddresses(t *testing.T) {
	var addrs []dnsmessage.ResourceBody
	for i := range 200 {
		addrs = append(addrs, a(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}).String()))
	}
	for name, truncated := range map[string]bool{"truncated": true, "not marked": false} {
		n := newNetwork(map[string]handler{server1: func(network string, query []byte) [][]byte {
			m := respond(query)
			m.Additionals = nil
			m.Truncated = truncated
			zone{"host.test.": addrs}.resolve(m)
			b := pack(m)
			return [][]byte{b[:len(b)-7]}
		}})
		r := resolverOn(n, Config{Families: onlyIPv4, CacheSize: 10}, server1)
		got, err := r.LookupHost(t.Context(), "host.test.")
		require.NoError(t, err, name)
		require.Len(t, got, 199, name)
		require.Equal(t, truncated, n.log()[len(n.log())-1].network == "tcp", name)
		require.Empty(t, r.cache.entries, "an incomplete answer is not cached")
	}
}

func TestAnAliasOfANameWithoutTheRecordIsNotAskedForAgain(t *testing.T) {
	z := zone{"a.test.": {cname("b.test.")}, "b.test.": {a("192.0.2.1")}}
	n := newNetwork(map[string]handler{server1: z.serve})
	_, err := resolverOn(n, Config{Rand: unmixed}, server1).LookupMX(t.Context(), "a.test.")
	requireDNSError(t, err, "no such host", "a.test.", server1)
	require.Equal(t, []string{"a.test."}, n.names(), "the SOA record says that b.test has no MX record")
}

func TestAddressesAreOrderedBySource(t *testing.T) {
	z := zone{"host.test.": {a("192.0.2.80"), aaaa("2001:db8::80"), aaaa("2001:db8:1::80")}}
	n := newNetwork(map[string]handler{server1: z.serve})
	r := resolverOn(n, Config{Source: func(dst netip.Addr) netip.Addr {
		if dst.Is4() {
			return netip.MustParseAddr("192.0.2.2")
		}
		return netip.MustParseAddr("2001:db8:1::2")
	}}, server1)
	addrs, err := r.LookupHost(t.Context(), "host.test.")
	require.NoError(t, err)
	require.Equal(t, []string{"2001:db8:1::80", "2001:db8::80", "192.0.2.80"}, addrs)
	r.cfg.Deprecated = netip.Addr.Is6
	addrs, err = r.LookupHost(t.Context(), "host.test.")
	require.NoError(t, err)
	require.Equal(t, []string{"192.0.2.80", "2001:db8:1::80", "2001:db8::80"}, addrs, "RFC 6724 6, rule 3")
}

func TestAnswersAreKeptForTheirTimeToLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(map[string]handler{server1: hostZone.serve})
		r := resolverOn(n, Config{CacheSize: 10, Families: onlyIPv4, Rand: unmixed}, server1)
		lookup := func(queries int) {
			t.Helper()
			addrs, err := r.LookupHost(t.Context(), "host.test.")
			require.NoError(t, err)
			require.Equal(t, []string{"192.0.2.80"}, addrs)
			require.Len(t, n.log(), queries)
		}
		lookup(1)
		time.Sleep(recordTTL*time.Second - time.Nanosecond)
		lookup(1)
		time.Sleep(time.Nanosecond)
		lookup(2)

		addrs, err := r.LookupHost(t.Context(), "HOST.test.")
		require.NoError(t, err)
		require.Len(t, addrs, 1)
		require.Len(t, n.log(), 2, "case makes no difference")

		missing := func(queries int) {
			t.Helper()
			_, err := r.LookupHost(t.Context(), "nowhere.test.")
			e := requireDNSError(t, err, "no such host", "nowhere.test.", server1)
			require.True(t, e.IsNotFound)
			require.Len(t, n.log(), queries)
		}
		missing(3)
		time.Sleep(negativeTTL*time.Second - time.Nanosecond)
		missing(3)
		time.Sleep(time.Nanosecond)
		missing(4)
	})
}

func TestFailuresAndAnswersWithoutTTLAreNotKept(t *testing.T) {
	var calls atomic.Int32
	z := zone{"host.test.": {a("192.0.2.80")}}
	for name, change := range map[string]func(m *dnsmessage.Message){
		"SERVFAIL":             func(m *dnsmessage.Message) { m.RCode = dnsmessage.RCodeServerFailure; m.Answers = nil },
		"TTL 0":                func(m *dnsmessage.Message) { m.Answers[0].Header.TTL = 0 },
		"TTL with the top bit": func(m *dnsmessage.Message) { m.Answers[0].Header.TTL = 1<<31 + 60 },
		"NXDOMAIN without SOA": func(m *dnsmessage.Message) { m.RCode = dnsmessage.RCodeNameError; m.Answers = nil },
		"no data without SOA":  func(m *dnsmessage.Message) { m.Answers = nil },
		"SOA with minimum 0": func(m *dnsmessage.Message) {
			s := soa(60)
			s.Body.(*dnsmessage.SOAResource).MinTTL = 0
			m.Answers, m.Authorities = nil, []dnsmessage.Resource{s}
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNetwork(map[string]handler{server1: func(_ string, query []byte) [][]byte {
				calls.Add(1)
				m := respond(query)
				z.resolve(m)
				change(m)
				return [][]byte{pack(m)}
			}})
			r := resolverOn(n, Config{CacheSize: 10, Families: onlyIPv4, Attempts: 1, Rand: unmixed}, server1)
			for i := range 3 {
				calls.Store(0)
				r.LookupHost(t.Context(), "host.test.")
				require.EqualValues(t, 1, calls.Load(), "lookup %d", i)
			}
			require.Empty(t, r.cache.entries)
		})
	}
}

func TestTheTTLOfAnAliasedAnswerIsTheLeastOfAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(map[string]handler{server1: func(_ string, query []byte) [][]byte {
			m := respond(query)
			zone{"a.test.": {cname("b.test.")}, "b.test.": {a("192.0.2.1")}}.resolve(m)
			m.Answers[0].Header.TTL = 5
			return [][]byte{pack(m)}
		}})
		r := resolverOn(n, Config{CacheSize: 10, Families: onlyIPv4}, server1)
		for _, want := range []int{1, 1, 2} {
			_, err := r.LookupHost(t.Context(), "a.test.")
			require.NoError(t, err)
			require.Len(t, n.log(), want)
			time.Sleep(3 * time.Second)
		}
	})
}

func TestTheCacheIsBoundedAndForgetsTheLeastRecentlyUsed(t *testing.T) {
	c := newCache(2)
	now := time.Now()
	key := func(s string) cacheKey { return cacheKey{s, dnsmessage.TypeA} }
	ans := &answer{ttl: time.Minute}
	c.put(key("a."), ans, now)
	c.put(key("b."), ans, now)
	require.NotNil(t, c.get(key("a."), now))
	c.put(key("c."), ans, now)
	require.Nil(t, c.get(key("b."), now))
	require.NotNil(t, c.get(key("a."), now))
	c.put(key("a."), &answer{ttl: time.Hour}, now)
	require.Equal(t, 2, c.recent.Len())
	require.Len(t, c.entries, 2)
	require.Nil(t, c.get(key("c."), now.Add(time.Minute)))
	require.NotNil(t, c.get(key("a."), now.Add(time.Minute)))
	require.Len(t, c.entries, 1, "what has expired is gone")

	c.put(key("long."), &answer{ttl: 10 * maxTTL}, now)
	require.NotNil(t, c.get(key("long."), now.Add(maxTTL-1)))
	require.Nil(t, c.get(key("long."), now.Add(maxTTL)))
	c.put(key("none."), &answer{notFound: true, ttl: maxTTL}, now)
	require.Nil(t, c.get(key("none."), now.Add(maxNegativeTTL)))
}

// A hostile server answers each question with as many records as fit into a message. Such answers are not cached, so they
// take no memory after the lookup.
func TestHugeAnswersAreNotCached(t *testing.T) {
	n := newNetwork(map[string]handler{server1: func(network string, query []byte) [][]byte {
		var q dnsmessage.Message
		require.NoError(t, q.Unpack(query))
		b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: q.ID, Response: true, Truncated: network == "udp"})
		b.EnableCompression()
		require.NoError(t, b.StartQuestions())
		require.NoError(t, b.Question(q.Questions[0]))
		require.NoError(t, b.StartAnswers())
		h := dnsmessage.ResourceHeader{Name: q.Questions[0].Name, Class: dnsmessage.ClassINET, TTL: 3600}
		for i := 0; i < 2000 && network != "udp"; i++ {
			if q.Questions[0].Type == dnsmessage.TypeA {
				require.NoError(t, b.AResource(h, dnsmessage.AResource{A: [4]byte{192, 0, 2, byte(i)}}))
			} else {
				require.NoError(t, b.HTTPSResource(h, dnsmessage.HTTPSResource{SVCBResource: dnsmessage.SVCBResource{
					Priority: uint16(1 + i), Target: mustName("."), Params: []dnsmessage.SVCParam{{Key: 667, Value: []byte{1}}},
				}}))
			}
		}
		msg, err := b.Finish()
		require.NoError(t, err)
		return [][]byte{msg}
	}})
	r := resolverOn(n, Config{CacheSize: 100, Families: onlyIPv4}, server1)
	for i := range 20 {
		_, bindings, err := r.LookupHTTPS(t.Context(), fmt.Sprintf("h%d.test", i), 0)
		require.NoError(t, err)
		require.Len(t, bindings, 2000)
		addrs, err := r.LookupHost(t.Context(), fmt.Sprintf("a%d.test", i))
		require.NoError(t, err)
		require.Len(t, addrs, 2000)
	}
	require.Empty(t, r.cache.entries)
}

func TestACachedLookupAllocatesLittle(t *testing.T) {
	n := newNetwork(map[string]handler{server1: hostZone.serve})
	r := resolverOn(n, Config{CacheSize: 10, Families: onlyIPv4}, server1)
	lookup := func() {
		if _, err := r.LookupHost(t.Context(), "host.test."); err != nil {
			t.Error(err)
		}
	}
	lookup()
	require.LessOrEqual(t, testing.AllocsPerRun(100, lookup), 20.0)
}

func TestConcurrentLookupsDoNotDisturbEachOther(t *testing.T) {
	z := zone{}
	for i := range 8 {
		z[string(rune('a'+i))+".test."] = []dnsmessage.ResourceBody{a(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}).String())}
	}
	n := newNetwork(map[string]handler{server1: z.serve, server2: z.serve})
	r := resolverOn(n, Config{CacheSize: 4, Rotate: true}, server1, server2)
	errs := make(chan error)
	for g := range 8 {
		go func() {
			for i := range 40 {
				k := (g + i) % 8
				addrs, err := r.LookupHost(t.Context(), string(rune('a'+k))+".test.")
				if err == nil && addrs[0] != netip.AddrFrom4([4]byte{192, 0, 2, byte(k)}).String() {
					err = &net.AddrError{Err: "wrong address", Addr: addrs[0]}
				}
				if err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	for range 8 {
		require.NoError(t, <-errs)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	require.Zero(t, n.open)
}

func TestLookupsWorkInsideAndOutsideOfBubbles(t *testing.T) {
	lookup := func(t *testing.T) {
		n := newNetwork(map[string]handler{server1: hostZone.serve})
		r := resolverOn(n, Config{CacheSize: 4}, server1)
		for range 2 {
			_, err := r.LookupHost(t.Context(), "host.test.")
			require.NoError(t, err)
			_, err = r.LookupPort(t.Context(), "tcp", "http")
			require.NoError(t, err)
		}
	}
	lookup(t)
	synctest.Test(t, lookup)
	lookup(t)
	synctest.Test(t, lookup)
}

func TestASearchThatIsCutOffDoesNotSayThatThereIsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(map[string]handler{server1: func(network string, query []byte) [][]byte {
			time.Sleep(2 * time.Second)
			return zone{}.serve(network, query)
		}})
		r := resolverOn(n, Config{Search: []string{"a.test", "b.test"}}, server1)
		for _, limit := range []time.Duration{3 * time.Second, 4 * time.Second} { // during the second query, and at its end
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			_, err := r.LookupTXT(ctx, "www")
			cancel()
			require.False(t, isNotFound(err), "www.b.test and www were not asked for")
			require.ErrorIs(t, err, context.DeadlineExceeded)
		}
	})
}

func TestADomainThatCannotBePartOfANameIsAnErrorOfItsOwn(t *testing.T) {
	n := newNetwork(map[string]handler{server1: zone{}.serve})
	r := resolverOn(n, Config{Search: []string{strings.Repeat("a", 64) + ".test"}, Ndots: 5, Rand: unmixed}, server1)
	_, err := r.LookupTXT(t.Context(), "www")
	requireDNSError(t, err, "no such host", "www", server1)
	require.Equal(t, []string{"www."}, n.names())
}

func ExampleResolver() {
	hosts, _ := ParseHosts(strings.NewReader("192.0.2.80  web.example.test web"))
	r := New(Config{Hosts: hosts})
	addrs, _ := r.LookupHost(context.Background(), "web")
	fmt.Println(addrs)
	_, err := r.LookupHost(context.Background(), "other")
	fmt.Println(err)
	// Output:
	// [192.0.2.80]
	// lookup other: no such host
}
