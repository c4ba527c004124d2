package resolve

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
)

// The differential test makes the same lookups with this package and with package net. Both resolvers
// query one server on 127.0.0.1, over UDP and TCP of the kernel.

// systemConfig returns the configuration that net's resolver reads on this machine.
func systemConfig(t *testing.T) Config {
	t.Helper()
	var cfg Config
	if f, err := os.Open("/etc/resolv.conf"); err == nil {
		cfg, err = ParseResolvConf(f)
		f.Close()
		require.NoError(t, err)
	}
	if len(cfg.Servers) == 0 {
		cfg.Servers = []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53"), netip.MustParseAddrPort("[::1]:53")}
	}
	if len(cfg.Search) == 0 {
		hostname, err := os.Hostname()
		require.NoError(t, err)
		if _, domain, ok := strings.Cut(hostname, "."); ok && domain != "" {
			cfg.Search = []string{domain}
		}
	}
	if f, err := os.Open("/etc/hosts"); err == nil {
		cfg.Hosts, err = ParseHosts(f)
		f.Close()
		require.NoError(t, err)
	}
	return cfg
}

// A lookuper has the methods that net.Resolver and Resolver share.
type lookuper interface {
	LookupHost(ctx context.Context, host string) ([]string, error)
	LookupIPAddr(ctx context.Context, host string) ([]net.IPAddr, error)
	LookupIP(ctx context.Context, network, host string) ([]net.IP, error)
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
	LookupPort(ctx context.Context, network, service string) (int, error)
	LookupCNAME(ctx context.Context, host string) (string, error)
	LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
	LookupMX(ctx context.Context, name string) ([]*net.MX, error)
	LookupNS(ctx context.Context, name string) ([]*net.NS, error)
	LookupTXT(ctx context.Context, name string) ([]string, error)
	LookupAddr(ctx context.Context, addr string) ([]string, error)
}

var (
	_ lookuper = (*net.Resolver)(nil)
	_ lookuper = (*Resolver)(nil)
)

func diffZone() zone {
	big := []dnsmessage.ResourceBody{}
	for i := range 100 {
		big = append(big, &dnsmessage.TXTResource{TXT: []string{fmt.Sprint(i, strings.Repeat("x", 200))}})
	}
	return zone{
		"host.test.":              {a("192.0.2.80"), aaaa("2001:db8::80")},
		"half.test.":              {a("192.0.2.80"), aaaa("2001:db8::80")},
		"four.test.":              {a("192.0.2.4")},
		"six.test.":               {aaaa("2001:db8::6")},
		"mapped.test.":            {aaaa("::ffff:192.0.2.6")},
		"many.test.":              {a("192.0.2.1"), a("192.0.2.2"), a("192.0.2.3")},
		"alias.test.":             {cname("host.test.")},
		"alias2.test.":            {cname("alias.test.")},
		"dangling.test.":          {cname("nowhere.test.")},
		"empty.test.":             {},
		"mail.test.":              {mx(20, "b.test."), mx(10, "a.test."), mx(30, "192.0.2.1."), mx(0, ".")},
		"badmail.test.":           {mx(10, "a b.test."), mx(20, "ok.test.")},
		"_sip._tcp.test.":         {srv(2, 0, "two.test."), srv(1, 5, "one.test.")},
		"srv.test.":               {srv(1, 1, "one.test."), srv(2, 1, "-bad.test.")},
		"txt.test.":               {&dnsmessage.TXTResource{TXT: []string{"a", "b c"}}, &dnsmessage.TXTResource{TXT: []string{""}}},
		"big.test.":               big,
		"test.":                   {&dnsmessage.NSResource{NS: mustName("ns1.test.")}, &dnsmessage.NSResource{NS: mustName("ns2.test.")}},
		"1.2.0.192.in-addr.arpa.": {&dnsmessage.PTRResource{PTR: mustName("host.test.")}, &dnsmessage.PTRResource{PTR: mustName("Other.test.")}},
		"9.2.0.192.in-addr.arpa.": {&dnsmessage.PTRResource{PTR: mustName("b@d.test.")}},
		"6.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.": {&dnsmessage.PTRResource{PTR: mustName("six.test.")}},
	}
}

// diffHandler serves the zone, serves big answers over TCP, and misbehaves for some names.
func diffHandler() handler {
	z := diffZone()
	return func(network string, query []byte) [][]byte {
		_, q := parseQuery(query)
		switch lower(q.Name.String()) {
		case "tcpcut.test.", "udpcut.test.", "chain.test.", "lower.test.", "sub.lower.test.":
			if q.Type == dnsmessage.TypeCNAME {
				return [][]byte{cannedAnswer{soa: true}.to(query)}
			}
		}
		switch lower(q.Name.String()) {
		case "servfail.test.":
			return failing(dnsmessage.RCodeServerFailure)(network, query)
		case "refused.test.":
			return failing(dnsmessage.RCodeRefused)(network, query)
		case "half.test.", "half.a.test.":
			if q.Type == dnsmessage.TypeAAAA || q.Type == dnsmessage.TypeTXT {
				return failing(dnsmessage.RCodeServerFailure)(network, query)
			}
		case "notimp.test.":
			return failing(dnsmessage.RCodeNotImplemented)(network, query)
		case "formerr.test.":
			return failing(dnsmessage.RCodeFormatError)(network, query)
		case "yxdomain.test.":
			return failing(dnsmessage.RCode(6))(network, query)
		case "badvers.test.": // the extended response code 16
			m := respond(query)
			for i := range m.Additionals {
				m.Additionals[i].Header.TTL = 1 << 24
			}
			return [][]byte{pack(m)}
		case "two.test.":
			m := respond(query)
			m.Questions = append(m.Questions, m.Questions[0])
			return [][]byte{pack(m)}
		case "short.test.": // too long for UDP, and malformed over TCP
			m := respond(query)
			if m.Truncated = network == "udp"; m.Truncated {
				return [][]byte{pack(m)}
			}
			return [][]byte{pack(m)[:11]}
		case "cut.test.": // truncated over TCP too
			m := respond(query)
			m.Truncated = true
			m.Answers = []dnsmessage.Resource{resource(q.Name, 1, a("192.0.2.9"))}
			if q.Type != dnsmessage.TypeA {
				m.Answers = nil
			}
			return [][]byte{pack(m)}
		case "tcpcut.test.", "udpcut.test.": // the message ends within the last of many records
			m := respond(query)
			m.Additionals = nil
			if q.Name.String()[0]|0x20 == 't' {
				m.Truncated = true
				if network == "udp" {
					return [][]byte{pack(m)}
				}
			}
			for i := range 20 {
				m.Answers = append(m.Answers, resource(q.Name, 60, someBody(q.Type)))
				if q.Type == dnsmessage.TypeA {
					m.Answers[i].Body = &dnsmessage.AResource{A: [4]byte{192, 0, 2, byte(i)}}
				}
			}
			b := pack(m)
			return [][]byte{b[:len(b)-3]}
		case "chain.test.": // a chain of 60 aliases, more than any real name has
			m := respond(query)
			name := q.Name
			for i := range 60 {
				next := mustName(fmt.Sprintf("chain%d.test.", i))
				m.Answers = append(m.Answers, resource(name, 60, &dnsmessage.CNAMEResource{CNAME: next}))
				name = next
			}
			if q.Type == dnsmessage.TypeA || q.Type == dnsmessage.TypeTXT {
				m.Answers = append(m.Answers, resource(name, 60, someBody(q.Type)))
			}
			if network == "udp" {
				m.Truncated, m.Answers = true, nil
			}
			return [][]byte{pack(m)}
		case "lower.test.", "sub.lower.test.": // a server that knows only names in lower case
			if q.Name.String() != lower(q.Name.String()) {
				return failing(dnsmessage.RCodeNameError)(network, query)
			}
			m := respond(query)
			m.Answers = []dnsmessage.Resource{resource(q.Name, 60, someBody(q.Type))}
			return [][]byte{pack(m)}
		case "nodata.test.": // authoritative, without an SOA
			m := respond(query)
			m.Authoritative, m.RecursionAvailable = true, false
			return [][]byte{pack(m)}
		case "lame.test.":
			m := respond(query)
			m.RecursionAvailable, m.Additionals = false, nil
			return [][]byte{pack(m)}
		case "malformed.test.":
			m := respond(query)
			m.Header.RCode, m.Additionals = dnsmessage.RCodeSuccess, nil
			b := pack(m)
			b[7] = 1 // the header announces one answer, but there is none
			return [][]byte{b}
		}
		m := respond(query)
		z.resolve(m)
		if b := pack(m); network == "tcp" || len(b) <= ednsSize {
			return [][]byte{b}
		}
		m.Truncated, m.Answers = true, nil
		return [][]byte{pack(m)}
	}
}

// outcome is the part of a result that the test compares.
type outcome struct {
	value any
	text  string
	dns   net.DNSError
	kind  string
	is    []bool // what errors.Is says about each of the context errors
}

func outcomeOf(value any, err error) outcome {
	o := outcome{value: value, kind: fmt.Sprintf("%T", err)}
	if err != nil {
		o.text = err.Error()
		var e *net.DNSError
		if errors.As(err, &e) {
			o.dns = *e
			o.dns.UnwrapErr = nil // errors.Is below compares the wrapped error
		}
		for _, target := range []error{context.Canceled, context.DeadlineExceeded, os.ErrDeadlineExceeded} {
			o.is = append(o.is, errors.Is(err, target))
		}
	}
	return o
}

// sorted sorts a result before the comparison. net queries A and AAAA at the same time, and the order of
// their answers determines the order of the families if there are no source addresses.
func sorted[T any](s []T, err error) ([]T, error) {
	slices.SortFunc(s, func(a, b T) int { return cmp.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	return s, err
}

func TestResultsAndErrorsAreThoseOfNet(t *testing.T) {
	address := listen(t, diffHandler())
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, address)
	}
	cfg := systemConfig(t)
	cfg.Dial = dial
	theirs, ours := &net.Resolver{PreferGo: true, Dial: dial}, New(cfg)

	hosts := []string{
		"host.test.", "HOST.Test.", "four.test.", "six.test.", "mapped.test.", "many.test.", "alias.test.", "alias2.test.",
		"dangling.test.", "empty.test.", "nowhere.test.", "nowhere", "host.test", "Four.test", "",
		"servfail.test.", "refused.test.", "lame.test.", "malformed.test.",
		"notimp.test.", "formerr.test.", "yxdomain.test.", "badvers.test.", "two.test.", "short.test.", "cut.test.", "nodata.test.",
		"tcpcut.test.", "udpcut.test.", "chain.test.", "lower.test.", "sub.lower.test.",
		"192.0.2.1", "::1", "::", "::ffff:192.0.2.1", "fe80::1%eth0", "192.0.2.256", "1.2", "0x7f.1", "127.1",
		"-bad.test", "a..b", ".", "a b.test", "\u00e9.test", strings.Repeat("a", 64) + ".test.", long(254), "b" + long(254),
	}
	for name := range cfg.Hosts.byName { // names of this machine
		hosts = append(hosts, name)
	}
	ctx := t.Context()
	compareAll := func(what string, lookup func(r lookuper) (any, error)) {
		t.Helper()
		require.Equal(t, outcomeOf(lookup(theirs)), outcomeOf(lookup(ours)), what)
	}
	for _, host := range hosts {
		compareAll("LookupHost "+host, func(r lookuper) (any, error) { return sorted(r.LookupHost(ctx, host)) })
		compareAll("LookupIPAddr "+host, func(r lookuper) (any, error) { return sorted(r.LookupIPAddr(ctx, host)) })
		for _, network := range []string{"ip", "ip4", "ip6", "tcp", ""} {
			compareAll("LookupIP "+network+host, func(r lookuper) (any, error) { return sorted(r.LookupIP(ctx, network, host)) })
			compareAll("LookupNetIP "+network+host, func(r lookuper) (any, error) { return sorted(r.LookupNetIP(ctx, network, host)) })
		}
		// For a chain of aliases, net's LookupCNAME returns one of two names, at random.
		if host != "alias2.test." && host != "chain.test." {
			compareAll("LookupCNAME "+host, func(r lookuper) (any, error) { return r.LookupCNAME(ctx, host) })
		}
	}
	for _, name := range append(hosts, "mail.test.", "badmail.test.", "txt.test.", "big.test.", "test.", "srv.test.") {
		if isLocalhost(name) {
			continue // net queries the server for this name, and this package does not
		}
		compareAll("LookupMX "+name, func(r lookuper) (any, error) { return r.LookupMX(ctx, name) })
		compareAll("LookupNS "+name, func(r lookuper) (any, error) { return r.LookupNS(ctx, name) })
		compareAll("LookupTXT "+name, func(r lookuper) (any, error) { return r.LookupTXT(ctx, name) })
		compareAll("LookupSRV "+name, func(r lookuper) (any, error) {
			cname, srvs, err := r.LookupSRV(ctx, "", "", name)
			return []any{cname, srvs}, err
		})
	}
	for _, service := range []string{"sip", "ssh"} {
		compareAll("LookupSRV "+service, func(r lookuper) (any, error) {
			cname, srvs, err := r.LookupSRV(ctx, service, "tcp", "test.")
			return []any{cname, srvs}, err
		})
	}
	for _, addr := range []string{
		"192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2", "192.0.2.9", "2001:db8::6", "fe80::1%eth0", "127.0.0.1", "::1", "host.test", "", "192.0.2",
	} {
		compareAll("LookupAddr "+addr, func(r lookuper) (any, error) { return r.LookupAddr(ctx, addr) })
	}
	comparePorts(t, theirs, ours)
}

func comparePorts(t *testing.T, theirs, ours lookuper) {
	t.Helper()
	for _, network := range []string{"tcp", "tcp4", "udp", "udp6", "ip", "", "bogus"} {
		for _, service := range []string{
			"", "0", "80", "65535", "65536", "-1", "+1", "-", "+", "1073741823", "1073741824", "4294967296", "99999999999x", "1 2",
			"http", "HTTP", "https", "ssh", "domain", "smtp", "ftp", "telnet", "pop3s", "imaps", "nosuchservice", "http ",
		} {
			want, wantErr := theirs.LookupPort(t.Context(), network, service)
			got, gotErr := ours.LookupPort(t.Context(), network, service)
			if wantErr != nil && gotErr == nil {
				// net knows only the services in this machine's /etc/services.
				require.ErrorContains(t, wantErr, "unknown port")
				require.Contains(t, []string{"http", "https", "ssh", "domain", "smtp", "ftp", "telnet", "pop3s", "imaps"}, lower(service))
				continue
			}
			require.Equal(t, outcomeOf(want, wantErr), outcomeOf(got, gotErr), "LookupPort %q %q", network, service)
		}
	}
}

func TestACanceledLookupFailsAsInNet(t *testing.T) {
	address := listen(t, silent)
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, address)
	}
	cfg := systemConfig(t)
	cfg.Dial = dial
	theirs, ours := &net.Resolver{PreferGo: true, Dial: dial}, New(cfg)
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	expired, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	for _, ctx := range []context.Context{canceled, expired} {
		for what, lookup := range map[string]func(r lookuper) (any, error){
			"LookupIPAddr": func(r lookuper) (any, error) { return r.LookupIPAddr(ctx, "host.test.") },
			"LookupHost":   func(r lookuper) (any, error) { return r.LookupHost(ctx, "host.test.") },
			"LookupTXT":    func(r lookuper) (any, error) { return r.LookupTXT(ctx, "host.test.") },
			"LookupCNAME":  func(r lookuper) (any, error) { return r.LookupCNAME(ctx, "host.test.") },
		} {
			require.Equal(t, outcomeOf(lookup(theirs)), outcomeOf(lookup(ours)), "%s, %v", what, ctx.Err())
		}
	}
}

func TestACanceledLookupOfAnAddressIsNoAnswer(t *testing.T) {
	r := New(Config{Hosts: Hosts{}})
	r.cfg.Hosts.Add(netip.MustParseAddr("192.0.2.7"), "known.test")
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	expired, cancel := context.WithTimeout(t.Context(), 0)
	defer cancel()
	// After its context has ended, a lookup fails even if its result is known without a query, because net
	// does not wait for the goroutine of the lookup. Only literals, which net parses first, have a result.
	for _, host := range []string{"localhost", "known.test", "no..name", "x.invalid", "host.test."} {
		_, err := r.LookupIPAddr(canceled, host)
		require.ErrorIs(t, err, context.Canceled, host)
		require.EqualError(t, err, "lookup "+host+": operation was canceled")
		_, err = r.LookupNetIP(expired, "ip4", host)
		require.ErrorIs(t, err, context.DeadlineExceeded, host)
		require.EqualError(t, err, "lookup "+host+": i/o timeout")
	}
	addrs, err := r.LookupIPAddr(canceled, "192.0.2.7")
	require.NoError(t, err)
	require.Len(t, addrs, 1)
	_, err = r.LookupIPAddr(canceled, "")
	require.EqualError(t, err, "lookup : no such host")
}

func TestStrictErrorsAreThoseOfNet(t *testing.T) {
	address := listen(t, diffHandler())
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, address)
	}
	cfg := systemConfig(t)
	cfg.Dial = dial
	for _, strict := range []bool{false, true} {
		cfg.StrictErrors = strict
		theirs, ours := &net.Resolver{PreferGo: true, StrictErrors: strict, Dial: dial}, New(cfg)
		for _, host := range []string{"half.test.", "half.test", "host.test.", "nowhere.test.", "servfail.test.", "refused.test.", "four.test"} {
			for what, lookup := range map[string]func(r lookuper) (any, error){
				"LookupHost":  func(r lookuper) (any, error) { return sorted(r.LookupHost(t.Context(), host)) },
				"LookupNetIP": func(r lookuper) (any, error) { return sorted(r.LookupNetIP(t.Context(), "ip", host)) },
				"LookupIP":    func(r lookuper) (any, error) { return sorted(r.LookupIP(t.Context(), "ip4", host)) },
				"LookupTXT":   func(r lookuper) (any, error) { return r.LookupTXT(t.Context(), host) },
			} {
				require.Equal(t, outcomeOf(lookup(theirs)), outcomeOf(lookup(ours)), "%s %s, strict %v", what, host, strict)
			}
		}
	}
}

func TestStrictErrorsEndTheSearch(t *testing.T) {
	n := newNetwork(map[string]handler{server1: func(network string, query []byte) [][]byte {
		if _, q := parseQuery(query); lower(q.Name.String()) == "x.a.test." {
			return failing(dnsmessage.RCodeServerFailure)(network, query)
		}
		return zone{"x.b.test.": {a("192.0.2.1"), &dnsmessage.TXTResource{TXT: []string{"b"}}}}.serve(network, query)
	}})
	cfg := Config{Search: []string{"a.test", "b.test"}, Attempts: 1}
	lax := resolverOn(n, cfg, server1)
	addrs, err := lax.LookupHost(t.Context(), "x")
	require.NoError(t, err)
	require.Equal(t, []string{"192.0.2.1"}, addrs)
	cfg.StrictErrors = true
	strict := resolverOn(n, cfg, server1)
	_, err = strict.LookupHost(t.Context(), "x")
	require.True(t, requireDNSError(t, err, "server misbehaving", "x", server1).IsTemporary)
	_, err = strict.LookupTXT(t.Context(), "x")
	requireDNSError(t, err, "server misbehaving", "x", server1)
}

// TestAnyNameIsTreatedAsByNet looks up names with all combinations of the characters that matter. It leaves
// out the special names of RFC 6761 and RFC 7686, because net knows only some of them.
func TestAnyNameIsTreatedAsByNet(t *testing.T) {
	address := listen(t, diffHandler())
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, address)
	}
	cfg := systemConfig(t)
	cfg.Dial, cfg.CacheSize = dial, -1
	theirs, ours := &net.Resolver{PreferGo: true, Dial: dial}, New(cfg)
	parts := []string{
		"a", "A", "-", "_", ".", "..", "host", "four", "test", "test.", "lan", "1", "255", "0x1", "xn--", "alias", "\u00e9", " ", "\t", "\n", "\x00",
		"%", "%lo", ":", "::", "[", "]", "\\", "*", "@", "/", strings.Repeat("b", 63), strings.Repeat("c", 64),
	}
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range 500 {
		var b strings.Builder
		for range 1 + rnd.IntN(5) {
			b.WriteString(parts[rnd.IntN(len(parts))])
			if rnd.IntN(2) == 0 {
				b.WriteByte('.')
			}
		}
		name := b.String()
		for what, lookup := range map[string]func(r lookuper) (any, error){
			"LookupHost":  func(r lookuper) (any, error) { return sorted(r.LookupHost(t.Context(), name)) },
			"LookupNetIP": func(r lookuper) (any, error) { return sorted(r.LookupNetIP(t.Context(), "ip", name)) },
			"LookupTXT":   func(r lookuper) (any, error) { return r.LookupTXT(t.Context(), name) },
			"LookupCNAME": func(r lookuper) (any, error) { return r.LookupCNAME(t.Context(), name) },
			"LookupAddr":  func(r lookuper) (any, error) { return r.LookupAddr(t.Context(), name) },
		} {
			require.Equal(t, outcomeOf(lookup(theirs)), outcomeOf(lookup(ours)), "%s %q (seed %d)", what, name, seed)
		}
	}
}
