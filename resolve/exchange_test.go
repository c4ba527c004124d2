package resolve

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
)

var hostZone = zone{"host.test.": {a("192.0.2.80"), aaaa("2001:db8::80")}}

// A test in a synctest bubble ends only when all goroutines that lookups started have ended.

func TestEveryAttemptAtEveryServerHasItsTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(map[string]handler{server1: silent, server2: silent})
		cfg := Config{Timeout: 3 * time.Second, Attempts: 2}
		start := time.Now()
		_, err := resolverOn(n, cfg, server1, server2).LookupTXT(t.Context(), "host.test.")
		require.Equal(t, 12*time.Second, time.Since(start), "also if queries in mixed case are repeated in plain case")
		requireDNSError(t, err, "read pipe: i/o timeout", "host.test.", server2)
		n.asked = nil
		cfg.Rand = unmixed
		r := resolverOn(n, cfg, server1, server2)
		start = time.Now()
		_, err = r.LookupTXT(t.Context(), "host.test.")
		require.Equal(t, 12*time.Second, time.Since(start), "2 attempts x 2 servers x 3 s")
		e := requireDNSError(t, err, "read pipe: i/o timeout", "host.test.", server2)
		require.True(t, e.IsTimeout)
		require.True(t, e.Temporary())
		require.False(t, e.IsNotFound)
		var order []string
		for i, q := range n.log() {
			order = append(order, q.server)
			require.Equal(t, time.Duration(i)*3*time.Second, q.at.Sub(start))
		}
		require.Equal(t, []string{server1, server2, server1, server2}, order)
		require.Zero(t, n.open, "every connection is closed")
	})
}

func TestTheDefaultsAreThoseOfResolvConf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(map[string]handler{server1: silent})
		start := time.Now()
		_, err := resolverOn(n, Config{}, server1).LookupTXT(t.Context(), "host.test.")
		require.Error(t, err)
		require.Equal(t, 10*time.Second, time.Since(start), "2 attempts of 5 s")
	})
}

func TestAAndAAAAAreAskedAtTheSameTime(t *testing.T) {
	slow := func(network string, query []byte) [][]byte {
		time.Sleep(time.Second)
		return hostZone.serve(network, query)
	}
	for _, single := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(map[string]handler{server1: slow})
			r := resolverOn(n, Config{SingleRequest: single}, server1)
			start := time.Now()
			addrs, err := r.LookupHost(t.Context(), "host.test.")
			require.NoError(t, err)
			require.Equal(t, []string{"192.0.2.80", "2001:db8::80"}, addrs)
			want := time.Second
			if single {
				want = 2 * time.Second
			}
			require.Equal(t, want, time.Since(start))
		})
	}
}

func TestADeadServerIsPassedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(map[string]handler{server1: silent, server2: hostZone.serve})
		start := time.Now()
		addrs, err := resolverOn(n, Config{}, server1, server2).LookupHost(t.Context(), "host.test.")
		require.NoError(t, err)
		require.Len(t, addrs, 2)
		require.Equal(t, 5*time.Second, time.Since(start))
	})
}

func TestARefusingServerIsPassedOverAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(map[string]handler{server2: hostZone.serve})
		start := time.Now()
		_, err := resolverOn(n, Config{}, server1, server2).LookupHost(t.Context(), "host.test.")
		require.NoError(t, err)
		require.Zero(t, time.Since(start))
	})
}

func TestAServerThatCannotBeReachedIsATemporaryError(t *testing.T) {
	n := newNetwork(nil)
	_, err := resolverOn(n, Config{Attempts: 3}, server1).LookupTXT(t.Context(), "host.test.")
	e := requireDNSError(t, err, "dial udp: connect: connection refused", "host.test.", server1)
	require.True(t, e.IsTemporary)
	require.False(t, e.IsTimeout)
	require.False(t, errors.Is(err, syscall.ECONNREFUSED), "net does not unwrap it either")
	require.Equal(t, 3, n.dials)
}

func TestServerFailureGoesToTheNextServer(t *testing.T) {
	for _, rcode := range []dnsmessage.RCode{dnsmessage.RCodeServerFailure, dnsmessage.RCodeRefused} {
		n := newNetwork(map[string]handler{server1: failing(rcode), server2: hostZone.serve})
		addrs, err := resolverOn(n, Config{}, server1, server2).LookupHost(t.Context(), "host.test.")
		require.NoError(t, err)
		require.Len(t, addrs, 2)

		_, err = resolverOn(n, Config{}, server1).LookupHost(t.Context(), "host.test.")
		e := requireDNSError(t, err, "server misbehaving", "host.test.", server1)
		require.Equal(t, rcode == dnsmessage.RCodeServerFailure, e.IsTemporary)
		require.False(t, e.IsNotFound)
	}
}

func TestNXDOMAINIsFinal(t *testing.T) {
	n := newNetwork(map[string]handler{server1: zone{}.serve, server2: hostZone.serve})
	_, err := resolverOn(n, Config{Rand: unmixed}, server1, server2).LookupTXT(t.Context(), "host.test.")
	e := requireDNSError(t, err, "no such host", "host.test.", server1)
	require.True(t, e.IsNotFound)
	require.False(t, e.Temporary())
	require.Len(t, n.log(), 1)
}

func TestNoDataIsFinal(t *testing.T) {
	n := newNetwork(map[string]handler{server1: hostZone.serve, server2: hostZone.serve})
	_, err := resolverOn(n, Config{Rand: unmixed}, server1, server2).LookupMX(t.Context(), "host.test.")
	require.True(t, requireDNSError(t, err, "no such host", "host.test.", server1).IsNotFound)
	require.Len(t, n.log(), 1)
}

func TestALameReferralGoesToTheNextServer(t *testing.T) {
	ns := resource(mustName("test."), 60, &dnsmessage.NSResource{NS: mustName("ns.test.")})
	for name, lame := range map[string]func(*dnsmessage.Message){
		"a referral":                   func(m *dnsmessage.Message) { m.Authorities = append(m.Authorities, ns) },
		"an empty answer without EDNS": func(m *dnsmessage.Message) { m.Additionals = nil },
	} {
		t.Run(name, func(t *testing.T) {
			h := func(_ string, query []byte) [][]byte {
				m := respond(query)
				m.RecursionAvailable = false
				lame(m)
				return [][]byte{pack(m)}
			}
			n := newNetwork(map[string]handler{server1: h, server2: hostZone.serve})
			_, err := resolverOn(n, Config{}, server1, server2).LookupHost(t.Context(), "host.test.")
			require.NoError(t, err)
			_, err = resolverOn(n, Config{}, server1).LookupHost(t.Context(), "host.test.")
			requireDNSError(t, err, "lame referral", "host.test.", server1)
		})
	}
}

func TestRotateStartsEachQueryAtTheNextServer(t *testing.T) {
	n := newNetwork(map[string]handler{server1: zone{}.serve, server2: zone{}.serve, server3: zone{}.serve})
	for _, rotate := range []bool{true, false} {
		n.asked = nil
		r := resolverOn(n, Config{Rotate: rotate, Rand: unmixed}, server1, server2, server3)
		var got []string
		for range 4 {
			_, err := r.LookupTXT(t.Context(), "host.test.")
			require.Error(t, err)
		}
		for _, q := range n.log() {
			got = append(got, q.server)
		}
		if rotate {
			require.Equal(t, []string{server1, server2, server3, server1}, got)
		} else {
			require.Equal(t, []string{server1, server1, server1, server1}, got)
		}
	}
}

// truncating returns a handler that answers for z over TCP. Over UDP, it answers with TC set and without
// records, or, if raw is true, with a message that is cut off.
func truncating(z zone, raw bool) handler {
	return func(network string, query []byte) [][]byte {
		if network == "tcp" {
			return z.serve(network, query)
		}
		m := respond(query)
		m.Truncated = true
		if raw {
			z.resolve(m)
			b := pack(m)
			return [][]byte{b[:len(b)-len(b)/4]}
		}
		return [][]byte{pack(m)}
	}
}

func TestATruncatedAnswerIsAskedForAgainByTCP(t *testing.T) {
	for _, raw := range []bool{false, true} {
		big := zone{"big.test.": {}}
		for i := range 200 {
			big["big.test."] = append(big["big.test."], &dnsmessage.TXTResource{TXT: []string{strings.Repeat("x", i)}})
		}
		n := newNetwork(map[string]handler{server1: truncating(big, raw)})
		txts, err := resolverOn(n, Config{}, server1).LookupTXT(t.Context(), "big.test.")
		require.NoError(t, err)
		require.Len(t, txts, 200)
		log := n.log()
		require.Len(t, log, 2)
		require.Equal(t, "udp", log[0].network)
		require.Equal(t, "tcp", log[1].network)
	}
}

func TestUseTCPNeverAsksByUDP(t *testing.T) {
	n := newNetwork(map[string]handler{server1: hostZone.serve})
	_, err := resolverOn(n, Config{UseTCP: true}, server1).LookupHost(t.Context(), "host.test.")
	require.NoError(t, err)
	for _, q := range n.log() {
		require.Equal(t, "tcp", q.network)
	}
}

func TestTheQueryAnnouncesItsPayloadSizeAndADOnlyIfTrusted(t *testing.T) {
	for _, trust := range []bool{true, false} {
		var size int
		n := newNetwork(map[string]handler{server1: func(network string, query []byte) [][]byte {
			size, _, _ = ednsOf(query)
			return hostZone.serve(network, query)
		}})
		_, err := resolverOn(n, Config{TrustAD: trust, Families: onlyIPv4}, server1).LookupHost(t.Context(), "host.test.")
		require.NoError(t, err)
		require.Equal(t, 1232, size)
		require.Equal(t, trust, n.log()[0].ad)
	}
}

func onlyIPv4() (v4, v6 bool) { return true, false }

func TestAServerWithoutEDNSIsAskedWithout(t *testing.T) {
	for name, refuse := range map[string]func(query []byte) []byte{
		"FORMERR": func(query []byte) []byte { return failing(dnsmessage.RCodeFormatError)("", query)[0] },
		"NOTIMP":  func(query []byte) []byte { return failing(dnsmessage.RCodeNotImplemented)("", query)[0] },
		"FORMERR with a bare header": func(query []byte) []byte {
			b := make([]byte, headerLen)
			copy(b, query[:2])
			b[2], b[3] = 0x80, byte(dnsmessage.RCodeFormatError)
			return b
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNetwork(map[string]handler{server1: func(network string, query []byte) [][]byte {
				if _, _, ok := ednsOf(query); ok {
					return [][]byte{refuse(query)}
				}
				return hostZone.serve(network, query)
			}})
			r := resolverOn(n, Config{Families: onlyIPv4}, server1)
			for range 2 {
				_, err := r.LookupHost(t.Context(), "host.test.")
				require.NoError(t, err)
			}
			var edns []bool
			for _, q := range n.log() {
				edns = append(edns, q.edns)
			}
			require.Equal(t, []bool{true, false, false}, edns, "the resolver remembers that the server has no EDNS")
		})
	}
}

func TestAServerThatRefusesInAnyCaseIsNotTakenForOneWithoutEDNS(t *testing.T) {
	n := newNetwork(map[string]handler{server1: failing(dnsmessage.RCodeFormatError)})
	r := resolverOn(n, Config{Attempts: 1, Rand: unmixed}, server1)
	_, err := r.LookupTXT(t.Context(), "host.test.")
	requireDNSError(t, err, "server misbehaving", "host.test.", server1)
	require.False(t, r.servers[0].noEDNS.holds(time.Now()))
	require.Len(t, n.log(), 2)
}

func TestTheCaseOfTheNameIsMixedAndNotSeenInTheResult(t *testing.T) {
	z := zone{
		"a-host-with-a-long-name.example.test.": {a("192.0.2.80"), &dnsmessage.MXResource{Pref: 1, MX: mustName("mail.example.test.")}},
	}
	n := newNetwork(map[string]handler{server1: z.serve})
	r := resolverOn(n, Config{}, server1)
	const name = "A-Host-with-a-long-name.example.test."
	raw := make(map[string]bool)
	for range 4 {
		cname, err := r.LookupCNAME(t.Context(), name)
		require.NoError(t, err)
		require.Equal(t, name, cname, "the case that the caller wrote")
		mxs, err := r.LookupMX(t.Context(), name)
		require.NoError(t, err)
		require.Equal(t, "mail.example.test.", mxs[0].Host)
	}
	for _, q := range n.log() {
		require.Equal(t, lower(name), q.name)
		raw[q.raw] = true
	}
	require.Greater(t, len(raw), 2, "16 queries with 31 letters each cannot all look the same")
}

func TestNamesCompressedByTheQuestionGetTheCallersCase(t *testing.T) {
	h := func(_ string, query []byte) [][]byte {
		m := respond(query)
		q := m.Questions[0]
		// The packer compresses equal suffixes, so the target ends with a pointer into the question.
		m.Answers = append(m.Answers, resource(q.Name, 60, &dnsmessage.PTRResource{PTR: mustName("x." + q.Name.String())}))
		return [][]byte{pack(m)}
	}
	n := newNetwork(map[string]handler{server1: h})
	names, err := resolverOn(n, Config{}, server1).LookupAddr(t.Context(), "192.0.2.1")
	require.NoError(t, err)
	require.Equal(t, []string{"x.1.2.0.192.in-addr.arpa."}, names)
}

func TestAServerThatLosesTheCaseIsAskedInPlainCase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(map[string]handler{server1: func(network string, query []byte) [][]byte {
			m := respond(query)
			m.Questions[0].Name = mustName(lower(m.Questions[0].Name.String()))
			hostZone.resolve(m)
			return [][]byte{pack(m)}
		}})
		calls := uint64(0) // the random numbers are large, so that the case is mixed, and differ, so that the IDs do
		r := resolverOn(n, Config{Families: onlyIPv4, Rand: func() uint64 { calls++; return ^uint64(0) - calls }}, server1)
		start := time.Now()
		for range 2 {
			addrs, err := r.LookupHost(t.Context(), "Host.test.")
			require.NoError(t, err)
			require.Equal(t, []string{"192.0.2.80"}, addrs)
		}
		require.Zero(t, time.Since(start), "without waiting for another answer")
		log := n.log()
		require.Len(t, log, 3, "the second lookup knows")
		require.NotEqual(t, "Host.test.", log[0].raw)
		require.Equal(t, "Host.test.", log[1].raw)
		require.Equal(t, "Host.test.", log[2].raw)
		require.NotEqual(t, log[0].id, log[1].id)
	})
}

func TestForgedAnswersAreIgnored(t *testing.T) {
	forge := zone{"host.test.": {a("203.0.113.66")}, "other.test.": {a("203.0.113.66")}}
	requestion := func(m *dnsmessage.Message, q dnsmessage.Question) {
		m.Questions[0] = q
		forge.resolve(m)
	}
	for name, forged := range map[string]func(m *dnsmessage.Message){
		"wrong ID":    func(m *dnsmessage.Message) { m.ID++; forge.resolve(m) },
		"a query":     func(m *dnsmessage.Message) { m.Response = false; forge.resolve(m) },
		"other name":  func(m *dnsmessage.Message) { q := m.Questions[0]; q.Name = mustName("other.test."); requestion(m, q) },
		"other type":  func(m *dnsmessage.Message) { q := m.Questions[0]; q.Type = dnsmessage.TypeAAAA; requestion(m, q) },
		"other class": func(m *dnsmessage.Message) { q := m.Questions[0]; q.Class = dnsmessage.ClassCHAOS; requestion(m, q) },
		"no question": func(m *dnsmessage.Message) { forge.resolve(m); m.Questions = nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(map[string]handler{server1: func(network string, query []byte) [][]byte {
					m := respond(query)
					forged(m)
					return append([][]byte{pack(m), nil, query[:7], []byte("garbage that is no message")}, hostZone.serve(network, query)...)
				}, server2: func(_ string, query []byte) [][]byte {
					m := respond(query)
					forged(m)
					return [][]byte{pack(m)}
				}})
				addrs, err := resolverOn(n, Config{Families: onlyIPv4}, server1).LookupHost(t.Context(), "host.test.")
				require.NoError(t, err)
				require.Equal(t, []string{"192.0.2.80"}, addrs)

				start := time.Now()
				_, err = resolverOn(n, Config{Families: onlyIPv4, Attempts: 1}, server2).LookupHost(t.Context(), "host.test.")
				require.Error(t, err)
				require.Equal(t, 5*time.Second, time.Since(start), "the true answer is waited for to the end")
			})
		})
	}
}

func TestRecordsOfOtherNamesAreNotAnswers(t *testing.T) {
	h := func(network string, query []byte) [][]byte {
		m := respond(query)
		m.Answers = append(m.Answers, resource(mustName("evil.test."), 60, a("203.0.113.66")))
		hostZone.resolve(m)
		return [][]byte{pack(m)}
	}
	n := newNetwork(map[string]handler{server1: h})
	addrs, err := resolverOn(n, Config{Families: onlyIPv4}, server1).LookupHost(t.Context(), "host.test.")
	require.NoError(t, err)
	require.Equal(t, []string{"192.0.2.80"}, addrs)
}

func TestOverTCPAResponseThatDoesNotMatchIsAnError(t *testing.T) {
	h := func(network string, query []byte) [][]byte {
		b := hostZone.serve(network, query)[0]
		b[1]++
		return [][]byte{b}
	}
	n := newNetwork(map[string]handler{server1: h})
	_, err := resolverOn(n, Config{UseTCP: true}, server1).LookupTXT(t.Context(), "host.test.")
	requireDNSError(t, err, "invalid DNS response", "host.test.", server1)
}

func TestMalformedAnswersGoToTheNextServer(t *testing.T) {
	cut := func(network string, query []byte) [][]byte {
		m := respond(query)
		m.Additionals = nil
		hostZone.resolve(m)
		b := pack(m)
		return [][]byte{b[:len(b)-2]}
	}
	twice := func(network string, query []byte) [][]byte {
		m := respond(query)
		m.Questions = append(m.Questions, m.Questions[0])
		hostZone.resolve(m)
		return [][]byte{pack(m)}
	}
	n := newNetwork(map[string]handler{server1: cut, server2: twice, server3: hostZone.serve})
	cfg := Config{Families: onlyIPv4}
	_, err := resolverOn(n, cfg, server1).LookupHost(t.Context(), "host.test.")
	requireDNSError(t, err, "cannot unmarshal DNS message", "host.test.", server1)
	_, err = resolverOn(n, cfg, server2).LookupHost(t.Context(), "host.test.")
	requireDNSError(t, err, "invalid DNS response", "host.test.", server2)
	_, err = resolverOn(n, cfg, server1, server2, server3).LookupHost(t.Context(), "host.test.")
	require.NoError(t, err)
}

func TestEveryQueryHasItsOwnIDAndConnection(t *testing.T) {
	n := newNetwork(map[string]handler{server1: zone{"host.test.": {&dnsmessage.TXTResource{TXT: []string{"x"}}}}.serve})
	r := resolverOn(n, Config{}, server1)
	ids := make(map[uint16]bool)
	for range 50 {
		_, err := r.LookupTXT(t.Context(), "host.test.")
		require.NoError(t, err)
	}
	for _, q := range n.log() {
		ids[q.id] = true
	}
	require.Greater(t, len(ids), 40)
	require.Equal(t, 50, n.dials, "a new port each")
}

func TestCancelEndsALookupAtOnce(t *testing.T) {
	lookups := map[string]func(r *Resolver, ctx context.Context) error{
		"LookupHost":   func(r *Resolver, ctx context.Context) error { _, err := r.LookupHost(ctx, "host.test."); return err },
		"LookupIPAddr": func(r *Resolver, ctx context.Context) error { _, err := r.LookupIPAddr(ctx, "host.test."); return err },
		"LookupTXT":    func(r *Resolver, ctx context.Context) error { _, err := r.LookupTXT(ctx, "host.test."); return err },
	}
	for name, lookup := range lookups {
		server := server2 // the error names the last server, because net goes on to it
		if name == "LookupIPAddr" {
			server = "" // the error names no server, because net abandons the lookup
		}
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(map[string]handler{server1: silent, server2: silent})
				r := resolverOn(n, Config{}, server1, server2)

				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(time.Second, cancel)
				start := time.Now()
				err := lookup(r, ctx)
				require.Equal(t, time.Second, time.Since(start))
				e := requireDNSError(t, err, "operation was canceled", "host.test.", server)
				require.ErrorIs(t, err, context.Canceled)
				require.False(t, e.Timeout())
				require.False(t, e.Temporary())

				ctx, cancel = context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				start = time.Now()
				err = lookup(r, ctx)
				require.Equal(t, time.Second, time.Since(start))
				e = requireDNSError(t, err, "i/o timeout", "host.test.", server)
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.True(t, e.Timeout())
				require.True(t, e.Temporary())

				before := n.dials
				err = lookup(r, ctx)
				requireDNSError(t, err, "i/o timeout", "host.test.", server)
				require.Equal(t, before, n.dials, "a lookup that is over before it begins asks nobody")
				require.Zero(t, n.open)
			})
		})
	}
}

func TestADialThatOutlastsTheTimeoutIsATimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(map[string]handler{server1: hostZone.serve})
		r := resolverOn(n, Config{Attempts: 1}, server1)
		r.cfg.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		_, err := r.LookupTXT(t.Context(), "host.test.")
		e := requireDNSError(t, err, "i/o timeout", "host.test.", server1)
		require.True(t, e.IsTimeout)
	})
}

func TestTheRootCanBeAsked(t *testing.T) {
	n := newNetwork(map[string]handler{server1: zone{".": {&dnsmessage.NSResource{NS: mustName("a.root-servers.net.")}}}.serve})
	nss, err := resolverOn(n, Config{}, server1).LookupNS(t.Context(), ".")
	require.NoError(t, err)
	require.Equal(t, "a.root-servers.net.", nss[0].Host)
}

func TestTheLongestNameCanBeAsked(t *testing.T) {
	name := long(254)
	n := newNetwork(map[string]handler{server1: zone{name: {a("192.0.2.1")}}.serve})
	r := resolverOn(n, Config{}, server1)
	addrs, err := r.LookupHost(t.Context(), name)
	require.NoError(t, err)
	require.Equal(t, []string{"192.0.2.1"}, addrs)
	_, err = r.LookupHost(t.Context(), name[:253]) // without the final dot
	require.NoError(t, err)
	_, err = r.LookupHost(t.Context(), "a"+name)
	requireDNSError(t, err, "no such host", "a"+name, "")
}

func TestMixCaseTouchesLettersOnly(t *testing.T) {
	r := New(Config{Rand: func() uint64 { return ^uint64(0) }})
	require.Equal(t, "aBC-09_Z[@`{.tEST.", r.mixCaseString("Abc-09_z[@`{.Test."))
}

// mixCaseString is mixCase for a string.
func (r *Resolver) mixCaseString(s string) string {
	name := r.mixCase(mustName(s))
	return name.String()
}

// FuzzResponse passes arbitrary messages to the parser of responses. If match is true, it first copies the ID
// and the question of the query into the message, because the parser rejects other messages early.
func FuzzResponse(f *testing.F) {
	q := dnsmessage.Question{Name: mustName("host.test."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}
	query, err := New(Config{}).newQuery(q, dialect{edns: true, name: q.Name}, nil)
	require.NoError(f, err)
	query = query[2:]
	for _, z := range []zone{
		hostZone, {}, {"host.test.": {cname("a.test.")}, "a.test.": {cname("host.test.")}},
		{"host.test.": {cname("host.test.")}}, {"host.test.": {cname("b.test.")}, "b.test.": {a("192.0.2.1")}},
	} {
		f.Add(z.serve("udp", query)[0], false)
		f.Add(z.serve("udp", query)[0], true)
	}
	f.Fuzz(func(t *testing.T, msg []byte, match bool) {
		if match && len(msg) >= headerLen {
			msg = append([]byte(nil), msg...)
			copy(msg, query[:2])
			msg[2] |= 0x80
			binary.BigEndian.PutUint16(msg[4:], 1)
			msg = append(msg[:headerLen:headerLen], append(append([]byte(nil), query[headerLen:headerLen+questionLen(q)]...), msg[headerLen:]...)...)
		}
		rep, err := readResponse(msg, query, q)
		if err != nil {
			require.Nil(t, rep)
			return
		}
		ans, err := rep.judge(q)
		if err != nil {
			return
		}
		require.LessOrEqual(t, ans.aliases, len(rep.records))
		require.GreaterOrEqual(t, ans.ttl, time.Duration(0))
		require.Equal(t, ans.notFound, len(ans.records) == 0)
		for _, rr := range ans.records {
			require.IsType(t, &dnsmessage.AResource{}, rr.Body)
			require.True(t, equalFold(&rr.Header.Name, &ans.canonical))
		}
	})
}

func TestOverTCPCaseIsNoProof(t *testing.T) {
	n := newNetwork(map[string]handler{server1: func(network string, query []byte) [][]byte {
		m := respond(query)
		m.Questions[0].Name = mustName(lower(m.Questions[0].Name.String()))
		hostZone.resolve(m)
		return [][]byte{pack(m)}
	}})
	r := resolverOn(n, Config{UseTCP: true, Families: onlyIPv4}, server1)
	for range 4 {
		_, err := r.LookupHost(t.Context(), "host.test.")
		require.NoError(t, err)
	}
	require.Len(t, n.log(), 4)
	require.False(t, r.servers[0].losesCase.holds(time.Now()))
}

func TestAServerThatClosesTheStreamIsPassedOver(t *testing.T) {
	for name, sent := range map[string][]byte{"before the length": {}, "within the message": {0, 100, 1, 2, 3}} {
		t.Run(name, func(t *testing.T) {
			n := newNetwork(map[string]handler{server2: hostZone.serve})
			r := resolverOn(n, Config{UseTCP: true, Attempts: 1}, server1, server2)
			r.cfg.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
				if address == server2 {
					return n.Dial(ctx, network, address)
				}
				near, far := net.Pipe()
				go func() {
					defer far.Close()
					if _, err := readMessage(far, network); err == nil {
						far.Write(sent)
					}
				}()
				return near, nil
			}
			_, err := r.LookupHost(t.Context(), "host.test.")
			require.NoError(t, err)
			r.servers = r.servers[:1]
			_, err = r.LookupTXT(t.Context(), "host.test.")
			text := "EOF"
			if len(sent) > 0 {
				text = "unexpected EOF"
			}
			requireDNSError(t, err, text, "host.test.", server1)
		})
	}
}

func TestMalformedRecordsBesideTheAnswerAreIgnored(t *testing.T) {
	for name, extra := range map[string]dnsmessage.Resource{
		"SOA too short": {
			Header: dnsmessage.ResourceHeader{Name: mustName("test."), Type: dnsmessage.TypeSOA, Class: dnsmessage.ClassINET},
			Body:   &dnsmessage.UnknownResource{Type: dnsmessage.TypeSOA, Data: []byte{0, 0, 1}},
		},
		"unknown": {
			Header: dnsmessage.ResourceHeader{Name: mustName("test."), Type: 999, Class: dnsmessage.ClassINET},
			Body:   &dnsmessage.UnknownResource{Type: 999, Data: []byte{1}},
		},
	} {
		for _, cut := range []int{0, 1, 5} { // bytes that are missing at the end of the message
			n := newNetwork(map[string]handler{server1: func(_ string, query []byte) [][]byte {
				m := respond(query)
				m.Additionals = nil
				hostZone.resolve(m)
				m.Authorities = append(m.Authorities, extra)
				b := pack(m)
				return [][]byte{b[:len(b)-cut]}
			}})
			addrs, err := resolverOn(n, Config{Families: onlyIPv4}, server1).LookupHost(t.Context(), "host.test.")
			require.NoError(t, err, name)
			require.Equal(t, []string{"192.0.2.80"}, addrs)
		}
	}
}

func TestExtendedResponseCodesCount(t *testing.T) {
	// RFC 6891 6.1.3: BADVERS is 16. The low four bits alone would mean success.
	n := newNetwork(map[string]handler{server1: func(_ string, query []byte) [][]byte {
		m := respond(query)
		hostZone.resolve(m)
		require.NoError(t, m.Additionals[0].Header.SetEDNS0(1232, 16, false))
		return [][]byte{pack(m)}
	}})
	_, err := resolverOn(n, Config{Attempts: 1}, server1).LookupHost(t.Context(), "host.test.")
	requireDNSError(t, err, "server misbehaving", "host.test.", server1)
}

func TestAContextErrorInsideADialErrorIsFound(t *testing.T) {
	n := newNetwork(nil)
	r := resolverOn(n, Config{Attempts: 1}, server1)
	r.cfg.Dial = func(_ context.Context, network, _ string) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: network, Err: context.DeadlineExceeded}
	}
	_, err := r.LookupTXT(t.Context(), "host.test.")
	e := requireDNSError(t, err, "dial udp: context deadline exceeded", "host.test.", server1)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.True(t, e.IsTimeout)
}
