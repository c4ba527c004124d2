package resolve

import (
	"bytes"
	"context"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
)

// A cookieServer is a name server with DNS cookies. Its fields may be changed between queries.
type cookieServer struct {
	zone     zone
	cookie   []byte // the valid server cookie; nil: the server does not support cookies
	require  bool   // whether UDP queries without the valid cookie get BADCOOKIE
	mangle   func(option []byte) []byte
	seen     [][]byte // COOKIE options of the queries; nil for none
	networks []string
}

// cookieOf returns the COOKIE option of a query, or nil.
func cookieOf(query []byte) []byte {
	var p dnsmessage.Parser
	if _, err := p.Start(query); err != nil || p.SkipAllQuestions() != nil || p.SkipAllAnswers() != nil || p.SkipAllAuthorities() != nil {
		return nil
	}
	if rh, err := p.AdditionalHeader(); err != nil || rh.Type != dnsmessage.TypeOPT {
		return nil
	}
	opt, err := p.OPTResource()
	if err != nil {
		return nil
	}
	for _, o := range opt.Options {
		if o.Code == optionCookie {
			return o.Data
		}
	}
	return nil
}

// setCookie adds a COOKIE option to a response, and the extended part of rcode.
func setCookie(m *dnsmessage.Message, option []byte, rcode dnsmessage.RCode) {
	m.RCode = rcode & 0xf
	for i := range m.Additionals {
		if opt, ok := m.Additionals[i].Body.(*dnsmessage.OPTResource); ok {
			m.Additionals[i].Header.TTL = uint32(rcode>>4) << 24
			opt.Options = append(opt.Options, dnsmessage.Option{Code: optionCookie, Data: option})
		}
	}
}

func (s *cookieServer) serve(network string, query []byte) [][]byte {
	sent := cookieOf(query)
	s.seen = append(s.seen, sent)
	s.networks = append(s.networks, network)
	m := respond(query)
	valid := sent != nil && bytes.Equal(sent[8:], s.cookie)
	rcode := dnsmessage.RCodeSuccess
	if s.require && network == "udp" && !valid {
		rcode = rcodeBadCookie
	} else {
		s.zone.resolve(m)
		rcode = m.RCode
	}
	if sent != nil && s.cookie != nil {
		option := slices.Concat(sent[:8], s.cookie)
		if s.mangle != nil {
			option = s.mangle(option)
		}
		setCookie(m, option, rcode)
	}
	return [][]byte{pack(m)}
}

// fixed is a Config.Rand that is not all zero: it mixes the case of names.
func fixed() uint64 { return 0x5555_5555_5555_5555 }

// serverCookie returns a server cookie of 16 bytes n.
func serverCookie(n byte) []byte { return bytes.Repeat([]byte{n}, 16) }

// RFC 7873 section 5.3: "If the COOKIE option Client Cookie is correct, the client caches the Server
// Cookie provided".
func TestTheServerCookieIsReturned(t *testing.T) {
	s := &cookieServer{zone: hostZone, cookie: serverCookie(7)}
	r := resolverOn(newNetwork(map[string]handler{server1: s.serve}), Config{Rand: fixed}, server1)
	for range 2 {
		_, err := r.LookupTXT(t.Context(), "host.test.")
		require.Error(t, err, "no such record")
	}
	require.GreaterOrEqual(t, len(s.seen), 3)
	require.Len(t, s.seen[0], 8, "a client cookie only")
	for _, c := range s.seen[1:] {
		require.Equal(t, slices.Concat(s.seen[0], serverCookie(7)), c)
	}
	s.cookie = serverCookie(8) // the server has changed its secret, and accepts the old one for a while
	_, err := r.LookupTXT(t.Context(), "host.test.")
	require.Error(t, err)
	_, err = r.LookupTXT(t.Context(), "host.test.")
	require.Error(t, err)
	require.Equal(t, serverCookie(8), s.seen[len(s.seen)-1][8:])
}

// RFC 7873 section 5.3: "The client SHOULD retry the request using the new Server Cookie from the
// response."
func TestBADCOOKIEIsRetriedWithTheNewCookie(t *testing.T) {
	s := &cookieServer{zone: hostZone, cookie: serverCookie(7), require: true}
	r := resolverOn(newNetwork(map[string]handler{server1: s.serve}), Config{Rand: fixed}, server1)
	_, err := r.LookupIP(t.Context(), "ip4", "host.test.")
	require.NoError(t, err)
	require.Equal(t, []string{"udp", "udp"}, s.networks)
	// RFC 7873 section 5.3: "If the reply to a retried request with a fresh Server Cookie is BADCOOKIE,
	// the client SHOULD retry using TCP as the transport".
	s.networks = nil
	s.mangle = func(option []byte) []byte { return append(option[:8:8], serverCookie(9)...) }
	s.cookie = serverCookie(1)
	_, err = r.LookupIP(t.Context(), "ip4", "host.test.")
	require.NoError(t, err)
	require.Equal(t, []string{"udp", "udp", "tcp"}, s.networks)
}

// RFC 7873 section 5.3: a client "MUST discard the response if it contains an illegal COOKIE option length
// or an incorrect Client Cookie value."
func TestAResponseWithAWrongCookieIsDiscarded(t *testing.T) {
	for name, mangle := range map[string]func(option []byte) []byte{
		"another client cookie": func(o []byte) []byte { return append([]byte{o[0] ^ 1}, o[1:]...) },
		"too short":             func(o []byte) []byte { return o[:7] },
		"empty":                 func(o []byte) []byte { return nil },
		"a short server cookie": func(o []byte) []byte { return o[:15] },
		"a long server cookie":  func(o []byte) []byte { return append(o, make([]byte, 17)...) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &cookieServer{zone: hostZone, cookie: serverCookie(7), mangle: mangle}
				forged := 0
				h := func(network string, query []byte) [][]byte {
					good := *s
					good.mangle = nil
					if cookieOf(query) == nil {
						return nil
					}
					forged++
					return append(s.serve(network, query), good.serve(network, query)...)
				}
				n := newNetwork(map[string]handler{server1: h})
				r := resolverOn(n, Config{Rand: fixed}, server1)
				start := time.Now()
				_, err := r.LookupIP(t.Context(), "ip4", "host.test.")
				require.NoError(t, err, "the genuine response comes second")
				require.Zero(t, time.Since(start))
				require.Equal(t, 1, forged)
			})
		})
	}
}

// RFC 7873 section 5.3: "If the client is expecting the response to contain a COOKIE option and it is
// missing, the response MUST be discarded."
func TestAResponseWithoutTheExpectedCookieLeadsToTCP(t *testing.T) {
	forgery := zone{"host.test.": {a("203.0.113.66")}}
	s := &cookieServer{zone: hostZone, cookie: serverCookie(7)}
	forge := false
	n := newNetwork(map[string]handler{server1: func(network string, query []byte) [][]byte {
		if forge && network == "udp" {
			return forgery.serve(network, query) // the forger has guessed all but the cookie
		}
		return s.serve(network, query)
	}})
	r := resolverOn(n, Config{Rand: fixed}, server1)
	lookup := func() string {
		t.Helper()
		ips, err := r.LookupNetIP(t.Context(), "ip4", "host.test.")
		require.NoError(t, err)
		return ips[0].String()
	}
	require.Equal(t, "192.0.2.80", lookup())
	forge = true
	require.Equal(t, "192.0.2.80", lookup())
	require.Equal(t, "tcp", s.networks[len(s.networks)-1])
	// A forged FORMERR must not turn cookies off either.
	n.servers[server1] = func(network string, query []byte) [][]byte {
		if network == "udp" {
			return [][]byte{{query[0], query[1], 0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0}}
		}
		return s.serve(network, query)
	}
	require.Equal(t, "192.0.2.80", lookup())
	require.Equal(t, "tcp", s.networks[len(s.networks)-1])
	n.servers[server1] = s.serve
	require.Equal(t, "192.0.2.80", lookup())
	require.Len(t, s.seen[len(s.seen)-1], 24, "the cookie is still in use")

	// A server that no longer sends cookies says so over TCP, and is then queried over UDP again.
	s.cookie, s.networks = nil, nil
	lookup()
	lookup()
	require.Equal(t, []string{"udp", "tcp", "udp"}, s.networks)
}

// RFC 9018 section 3: a Client Cookie belongs to one address of the client.
func TestAnotherLocalAddressHasAnotherClientCookie(t *testing.T) {
	var j cookieJar
	n := uint64(0)
	random := func() uint64 { n++; return n }
	a1, a2 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	first := j.cookie(a1, random)
	require.Len(t, first, 8)
	j.learn(first, serverCookie(7))
	require.Equal(t, slices.Concat(first, serverCookie(7)), j.cookie(a1, random))
	second := j.cookie(a2, random)
	require.Len(t, second, 8, "the server cookie is not for this address")
	require.NotEqual(t, first, second)
	j.learn(first, serverCookie(8)) // a late response to the first address
	require.False(t, j.known())
}

// Some firewalls drop queries with a COOKIE option.
func TestAServerThatDropsCookiesIsQueriedWithoutThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(map[string]handler{server1: func(network string, query []byte) [][]byte {
			if cookieOf(query) != nil {
				return nil
			}
			return hostZone.serve(network, query)
		}})
		r := resolverOn(n, Config{Rand: fixed}, server1)
		for i := range 4 {
			start := time.Now()
			_, err := r.LookupIP(t.Context(), "ip4", "host.test.")
			require.NoError(t, err)
			want := time.Duration(0)
			if i < 2 {
				want = defaultTimeout / 2
			}
			require.LessOrEqual(t, time.Since(start), want)
		}
	})
}

func TestCookiesCanBeTurnedOff(t *testing.T) {
	s := &cookieServer{zone: hostZone, cookie: serverCookie(7)}
	r := resolverOn(newNetwork(map[string]handler{server1: s.serve}), Config{Rand: fixed, NoCookies: true}, server1)
	_, err := r.LookupIP(t.Context(), "ip4", "host.test.")
	require.NoError(t, err)
	require.Equal(t, [][]byte{nil}, s.seen)
}

// Concurrent queries share the client cookie.
func TestConcurrentQueriesShareACookie(t *testing.T) {
	var mu sync.Mutex
	s := &cookieServer{zone: hostZone, cookie: serverCookie(7), require: true}
	n := newNetwork(map[string]handler{server1: func(network string, query []byte) [][]byte {
		mu.Lock()
		defer mu.Unlock()
		return s.serve(network, query)
	}})
	r := resolverOn(n, Config{Rand: random, Dial: n.Dial}, server1)
	var wg sync.WaitGroup
	for _, name := range []string{"a.test.", "b.test.", "c.test.", "host.test."} {
		wg.Go(func() {
			r.LookupTXT(context.Background(), name)
		})
	}
	wg.Wait()
	for _, c := range s.seen[1:] {
		if len(c) > 0 {
			require.Equal(t, s.seen[0][:8], c[:8])
		}
	}
}
