package resolve

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
)

// A cannedAnswer describes a possible answer of a server to a query for one type of records of a name.
type cannedAnswer struct {
	rcode   dnsmessage.RCode
	alias   bool // the name is an alias of target.test
	records bool // the answer has a record of the type
	cut     bool // the message ends inside a record
	soa     bool // the answer has an SOA record
}

func cannedAnswers() map[string]cannedAnswer {
	return map[string]cannedAnswer{
		"ok":          {records: true},
		"okcut":       {records: true, cut: true},
		"cut":         {cut: true},
		"nodata":      {soa: true},
		"servfail":    {rcode: dnsmessage.RCodeServerFailure},
		"refused":     {rcode: dnsmessage.RCodeRefused},
		"alias":       {alias: true, records: true},
		"aliascut":    {alias: true, cut: true},
		"aliasokcut":  {alias: true, records: true, cut: true},
		"aliasnodata": {alias: true, soa: true},
		"aliasonly":   {alias: true},
	}
}

// to returns the answer to a query.
func (s cannedAnswer) to(query []byte) []byte {
	m := respond(query)
	m.Additionals = nil
	m.RCode = s.rcode
	q := m.Questions[0]
	name := q.Name
	if s.alias {
		m.Answers = append(m.Answers, resource(q.Name, 60, cname("target.test.")))
		name = mustName("target.test.")
	}
	if q.Type == dnsmessage.TypeCNAME {
		s.records = false
	}
	if s.records {
		m.Answers = append(m.Answers, resource(name, 60, someBody(q.Type)))
	}
	if s.cut {
		m.Answers = append(m.Answers, resource(name, 60, someBody(q.Type)))
	}
	if s.soa {
		m.Authorities = append(m.Authorities, soa(60))
	}
	b := pack(m)
	if s.cut {
		b = b[:len(b)-2]
	}
	return b
}

func someBody(typ dnsmessage.Type) dnsmessage.ResourceBody {
	switch typ {
	case dnsmessage.TypeA:
		return a("192.0.2.1")
	case dnsmessage.TypeAAAA:
		return aaaa("2001:db8::1")
	case dnsmessage.TypeTXT:
		return &dnsmessage.TXTResource{TXT: []string{"text"}}
	case dnsmessage.TypeMX:
		return mx(1, "target.test.")
	case dnsmessage.TypeNS:
		return &dnsmessage.NSResource{NS: mustName("target.test.")}
	case dnsmessage.TypeSRV:
		return srv(1, 1, "target.test.")
	}
	return cname("target.test.")
}

// cannedHandler is a handler for names whose first three labels are keys of cannedAnswers. These labels select the
// answers for A, AAAA and CNAME.
func cannedHandler(_ string, query []byte) [][]byte {
	_, q := parseQuery(query)
	labels := strings.Split(lower(q.Name.String()), ".")
	label, ok := map[dnsmessage.Type]int{dnsmessage.TypeA: 0, dnsmessage.TypeAAAA: 1, dnsmessage.TypeCNAME: 2}[q.Type]
	if len(labels) < 4 || !ok {
		return [][]byte{cannedAnswer{soa: true}.to(query)}
	}
	canned, ok := cannedAnswers()[labels[label]]
	if !ok {
		panic(labels[label])
	}
	return [][]byte{canned.to(query)}
}

// TestWhatOneTypeSaysIsEnough queries names for which the server gives all combinations of answers
// for A, AAAA and CNAME that are consistent or failures.
func TestWhatOneTypeSaysIsEnough(t *testing.T) {
	address := listen(t, cannedHandler)
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, address)
	}
	cfg := systemConfig(t)
	cfg.Dial = dial
	theirs, ours := &net.Resolver{PreferGo: true, Dial: dial}, New(cfg)
	compared := 0
	for A, a := range cannedAnswers() {
		for AAAA, aaaa := range cannedAnswers() {
			for _, CNAME := range []string{"aliasonly", "nodata", "servfail", "cut"} {
				all := []cannedAnswer{a, aaaa, cannedAnswers()[CNAME]}
				isAlias := func(s cannedAnswer) bool { return s.alias }
				isNone := func(s cannedAnswer) bool { return !s.alias && (s.records || s.soa) }
				if slices.ContainsFunc(all, isAlias) && slices.ContainsFunc(all, isNone) {
					continue
				}
				compared++
				name := fmt.Sprintf("%s.%s.%s.test.", A, AAAA, CNAME)
				want, wantErr := sorted(theirs.LookupHost(t.Context(), name))
				got, gotErr := sorted(ours.LookupHost(t.Context(), name))
				require.Equal(t, want, got, "%s: %v, %v", name, wantErr, gotErr)
				requireNotFound(t, gotErr, !slices.ContainsFunc(all[:2], failed), name)

				canonical, gotErr := ours.LookupCNAME(t.Context(), name)
				if theirs, err := theirs.LookupCNAME(t.Context(), name); err == nil {
					require.NoError(t, gotErr, name)
					require.Equal(t, theirs, canonical, name)
				}
				// net learns an alias only from the answer for CNAME, or from an answer with addresses.
				if slices.ContainsFunc(all, func(s cannedAnswer) bool { return s.alias && (s.records || !s.cut) }) {
					require.NoError(t, gotErr, name)
					require.Equal(t, "target.test.", canonical, name)
				}
				requireNotFound(t, gotErr, !slices.ContainsFunc(all, failed), name)
			}
		}
	}
	require.Greater(t, compared, 200)
}

func failed(s cannedAnswer) bool { return s.cut || s.rcode != dnsmessage.RCodeSuccess }

// requireNotFound checks that err, if not nil, says that the name does not exist if and only if known is
// true.
func requireNotFound(t *testing.T, err error, known bool, name string) {
	t.Helper()
	if err != nil {
		require.Equal(t, known, isNotFound(err), "%s: %v", name, err)
	}
}

func TestAFailureOutweighsThatThereIsNothing(t *testing.T) {
	for name, fail := range map[string]handler{
		"SERVFAIL":   failing(dnsmessage.RCodeServerFailure),
		"REFUSED":    failing(dnsmessage.RCodeRefused),
		"unreadable": func(_ string, query []byte) [][]byte { return [][]byte{cannedAnswer{cut: true}.to(query)} },
		"silence":    silent,
	} {
		for _, failing := range []string{"www.test.", "www.test.a.test.", "www.test.b.test."} {
			t.Run(name+" of "+failing, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					n := newNetwork(map[string]handler{server1: func(network string, query []byte) [][]byte {
						if _, q := parseQuery(query); lower(q.Name.String()) == failing {
							return fail(network, query)
						}
						return zone{}.serve(network, query)
					}})
					for _, ndots := range []int{1, 5} { // the name without a domain is queried first, or last
						r := resolverOn(n, Config{Attempts: 1, Ndots: ndots, Search: []string{"a.test", "b.test"}}, server1)
						for what, lookup := range map[string]func() error{
							"Host":  func() error { _, err := r.LookupHost(t.Context(), "www.test"); return err },
							"IP":    func() error { _, err := r.LookupIP(t.Context(), "ip4", "www.test"); return err },
							"CNAME": func() error { _, err := r.LookupCNAME(t.Context(), "www.test"); return err },
							"TXT":   func() error { _, err := r.LookupTXT(t.Context(), "www.test"); return err },
							"MX":    func() error { _, err := r.LookupMX(t.Context(), "www.test"); return err },
							"NS":    func() error { _, err := r.LookupNS(t.Context(), "www.test"); return err },
							"SRV":   func() error { _, _, err := r.LookupSRV(t.Context(), "", "", "www.test"); return err },
						} {
							err := lookup()
							require.Error(t, err, what)
							require.False(t, isNotFound(err), "%s, ndots %d: %v", what, ndots, err)
							require.Contains(t, err.Error(), "lookup www.test on ", what)
						}
					}
				})
			})
		}
	}
}
