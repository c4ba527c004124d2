package resolve

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
)

// flipped is a Config.Rand that changes the case of every letter of a name.
func flipped() uint64 { return ^uint64(0) }

// inLowerCase returns a handler that uses h for names in lower case and refuse for other names.
func inLowerCase(h, refuse handler) handler {
	return func(network string, query []byte) [][]byte {
		if _, q := parseQuery(query); q.Name.String() != lower(q.Name.String()) {
			return refuse(network, query)
		}
		return h(network, query)
	}
}

// responding returns a handler whose answer is an empty response modified by change.
func responding(change func(m *dnsmessage.Message)) handler {
	return func(_ string, query []byte) [][]byte {
		m := respond(query)
		change(m)
		return [][]byte{pack(m)}
	}
}

func refusals() map[string]handler {
	return map[string]handler{
		"NXDOMAIN":             zone{}.serve,
		"NXDOMAIN without SOA": failing(dnsmessage.RCodeNameError),
		"no data":              zone{"host.test.": {}}.serve,
		"no data without SOA":  responding(func(*dnsmessage.Message) {}),
		"REFUSED":              failing(dnsmessage.RCodeRefused),
		"SERVFAIL":             failing(dnsmessage.RCodeServerFailure),
		"NOTIMP":               failing(dnsmessage.RCodeNotImplemented),
		"FORMERR":              failing(dnsmessage.RCodeFormatError),
		"another code":         failing(dnsmessage.RCode(9)),
		"a referral": responding(func(m *dnsmessage.Message) {
			m.RecursionAvailable, m.Additionals = false, nil
		}),
		"two questions": responding(func(m *dnsmessage.Message) { m.Questions = append(m.Questions, m.Questions[0]) }),
		"an answer that cannot be read": func(_ string, query []byte) [][]byte {
			m := respond(query)
			m.Additionals = nil
			b := pack(m)
			b[7] = 1 // the header announces one answer, but there is none
			return [][]byte{b}
		},
		"an alias without an end": func(_ string, query []byte) [][]byte {
			m := respond(query)
			m.Answers = []dnsmessage.Resource{resource(m.Questions[0].Name, 60, cname("nowhere.test."))}
			m.RCode = dnsmessage.RCodeNameError
			return [][]byte{pack(m)}
		},
		"the question in lower case": func(network string, query []byte) [][]byte {
			m := respond(query)
			m.Questions[0].Name = mustName(lower(m.Questions[0].Name.String()))
			return [][]byte{pack(m)}
		},
	}
}

func TestAServerMayKnowLowerCaseOnly(t *testing.T) {
	for name, refuse := range refusals() {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(map[string]handler{server1: inLowerCase(hostZone.serve, refuse)})
				r := resolverOn(n, Config{Families: onlyIPv4, Attempts: 1, Rand: flipped}, server1)
				start := time.Now()
				lookup := func() (raw []string) {
					t.Helper()
					n.asked = nil
					addrs, err := r.LookupHost(t.Context(), "host.test.")
					require.NoError(t, err)
					require.Equal(t, []string{"192.0.2.80"}, addrs)
					for _, q := range n.log() {
						raw = append(raw, q.raw)
					}
					return raw
				}
				raw := lookup()
				require.Equal(t, "HOST.TEST.", raw[0])
				require.Equal(t, "host.test.", raw[len(raw)-1])
				require.Equal(t, []string{"host.test."}, lookup(), "the resolver remembers that the server needs lower case")
				require.Zero(t, time.Since(start), "without waiting")
				time.Sleep(lessonTime)
				require.Equal(t, raw, lookup(), "after lessonTime, mixed case is tried again")
			})
		})
	}
}

func TestAServerMayBeSilentAboutMixedCase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(map[string]handler{server1: inLowerCase(hostZone.serve, silent)})
		r := resolverOn(n, Config{Families: onlyIPv4, Attempts: 1, Timeout: 4 * time.Second, Rand: flipped}, server1)
		for i, want := range []time.Duration{2 * time.Second, 2 * time.Second, 0, 0} {
			start := time.Now()
			addrs, err := r.LookupHost(t.Context(), "host.test.")
			require.NoError(t, err)
			require.Equal(t, []string{"192.0.2.80"}, addrs)
			require.Equal(t, want, time.Since(start), "lookup %d", i)
		}
		time.Sleep(lessonTime)
		start := time.Now()
		_, err := r.LookupHost(t.Context(), "host.test.")
		require.NoError(t, err)
		require.Equal(t, 2*time.Second, time.Since(start), "after lessonTime, mixed case is tried again")
		require.Zero(t, n.open)
	})
}

// Even if callers never wait until half of the timeout, the resolver must learn that the server is
// silent.
func TestSilenceIsLearntFromAbandonedLookups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(map[string]handler{server1: inLowerCase(hostZone.serve, silent)})
		r := resolverOn(n, Config{Rand: flipped}, server1)
		lookup := func(limit time.Duration) error {
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			_, err := r.LookupHost(ctx, "host.test.")
			return err
		}
		require.ErrorIs(t, lookup(silence-1), context.DeadlineExceeded)
		require.ErrorIs(t, lookup(silence-1), context.DeadlineExceeded, "the first lookup was too short to count")
		require.ErrorIs(t, lookup(silence), context.DeadlineExceeded)
		require.NoError(t, lookup(silence), "the server was silent about A and about AAAA, so lower case is used")
	})
}

// A server that is down answers neither queries in mixed case nor queries in lower case. As soon as it has
// come back, queries are in mixed case again.
func TestAServerThatIsDownDoesNotEndMixedCase(t *testing.T) {
	for name, limit := range map[string]time.Duration{"patient callers": time.Hour, "callers that give up": 2 * time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var up atomic.Bool
				n := newNetwork(map[string]handler{server1: func(network string, query []byte) [][]byte {
					if !up.Load() {
						return nil
					}
					return hostZone.serve(network, query)
				}})
				r := resolverOn(n, Config{Rand: flipped, CacheSize: -1}, server1)
				lookup := func() error {
					ctx, cancel := context.WithTimeout(t.Context(), limit)
					defer cancel()
					_, err := r.LookupHost(ctx, "host.test.")
					return err
				}
				for range 4 {
					require.Error(t, lookup())
				}
				up.Store(true)
				n.asked = nil
				require.NoError(t, lookup())
				for _, q := range n.log() {
					require.Equal(t, "HOST.TEST.", q.raw)
				}
				require.Zero(t, n.open)
			})
		})
	}
}

func TestOneLostPacketDoesNotEndMixedCase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lost atomic.Bool // the next query is lost
		n := newNetwork(map[string]handler{server1: func(network string, query []byte) [][]byte {
			if lost.Swap(false) {
				return nil
			}
			return hostZone.serve(network, query)
		}})
		r := resolverOn(n, Config{Families: onlyIPv4, Rand: flipped}, server1)
		for range 5 {
			n.asked = nil
			lost.Store(true)
			_, err := r.LookupHost(t.Context(), "host.test.")
			require.NoError(t, err)
			require.Len(t, n.log(), 2, "in mixed case, and at half time in plain case")
			_, err = r.LookupHost(t.Context(), "host.test.")
			require.NoError(t, err)
			require.Equal(t, "HOST.TEST.", n.log()[2].raw)
		}
	})
}

func TestASlowServerIsWaitedForInBothCases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(map[string]handler{server1: func(network string, query []byte) [][]byte {
			time.Sleep(4 * time.Second)
			return hostZone.serve(network, query)
		}})
		r := resolverOn(n, Config{Families: onlyIPv4, Attempts: 1, Rand: flipped}, server1)
		for range 3 {
			start := time.Now()
			_, err := r.LookupHost(t.Context(), "host.test.")
			require.NoError(t, err)
			require.Equal(t, 4*time.Second, time.Since(start), "the first query is answered")
			require.Zero(t, n.open)
		}
		require.False(t, r.servers[0].losesCase.holds(time.Now()), "it is slow, not silent")
		time.Sleep(4 * time.Second) // until the server has answered the abandoned query
	})
}

func TestARefusalInBothCasesCounts(t *testing.T) {
	for name, refuse := range refusals() {
		t.Run(name, func(t *testing.T) {
			n := newNetwork(map[string]handler{server1: refuse})
			r := resolverOn(n, Config{Families: onlyIPv4, Attempts: 1, Rand: flipped}, server1)
			for range 2 {
				n.asked = nil
				_, err := r.LookupHost(t.Context(), "host.test.")
				require.Error(t, err)
				log := n.log()
				require.Equal(t, "HOST.TEST.", log[0].raw, "the case was not the reason, so it is still mixed")
				require.Equal(t, "host.test.", log[len(log)-1].raw)
				if name == "the question in lower case" {
					break
				}
			}
			require.Zero(t, n.open)
		})
	}
	synctest.Test(t, func(t *testing.T) {
		// The second question is not answered, so the first answer is the result.
		n := newNetwork(map[string]handler{server1: inLowerCase(silent, zone{}.serve)})
		r := resolverOn(n, Config{Attempts: 1, Rand: flipped}, server1)
		start := time.Now()
		_, err := r.LookupHost(t.Context(), "host.test.")
		requireDNSError(t, err, "no such host", "host.test.", server1)
		require.Equal(t, 5*time.Second, time.Since(start))
	})
}

func TestATruncatedAnswerIsAskedForInPlainCase(t *testing.T) {
	n := newNetwork(map[string]handler{server1: inLowerCase(hostZone.serve, truncating(zone{}, false))})
	addrs, err := resolverOn(n, Config{Families: onlyIPv4, Rand: flipped}, server1).LookupHost(t.Context(), "host.test.")
	require.NoError(t, err)
	require.Equal(t, []string{"192.0.2.80"}, addrs)
	require.Len(t, n.log(), 2)
	require.Equal(t, "tcp", n.log()[1].network)
}

func TestEDNSIsTriedAgainAfterAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old := true
		n := newNetwork(map[string]handler{server1: func(network string, query []byte) [][]byte {
			if _, _, ok := ednsOf(query); ok && old {
				return failing(dnsmessage.RCodeFormatError)(network, query)
			}
			return hostZone.serve(network, query)
		}})
		r := resolverOn(n, Config{Families: onlyIPv4}, server1)
		lookup := func() (edns []bool) {
			n.asked = nil
			_, err := r.LookupHost(t.Context(), "host.test.")
			require.NoError(t, err)
			for _, q := range n.log() {
				edns = append(edns, q.edns)
			}
			return edns
		}
		require.Equal(t, []bool{true, false}, lookup())
		old = false
		time.Sleep(lessonTime - 1)
		require.Equal(t, []bool{false}, lookup())
		time.Sleep(time.Nanosecond)
		require.Equal(t, []bool{true}, lookup())
	})
}

// Most names have addresses of one family, and most hosts query the addresses of both families.
func TestAnAddressInMixedCaseVouchesForOtherTypes(t *testing.T) {
	four := zone{"host.test.": {a("192.0.2.80")}}
	for name, c := range map[string]struct {
		serve handler
		asked []string // queries for AAAA
	}{
		"A is answered first": {func(network string, query []byte) [][]byte {
			if _, q := parseQuery(query); q.Type == dnsmessage.TypeAAAA {
				time.Sleep(time.Second)
			}
			return four.serve(network, query)
		}, []string{"HOST.TEST."}},
		"A is answered last": {func(network string, query []byte) [][]byte {
			if _, q := parseQuery(query); q.Type == dnsmessage.TypeA {
				time.Sleep(time.Second)
			}
			return four.serve(network, query)
		}, []string{"HOST.TEST."}},
		"A is answered too late": {func(network string, query []byte) [][]byte {
			if _, q := parseQuery(query); q.Type == dnsmessage.TypeA {
				time.Sleep(3 * time.Second)
			}
			return four.serve(network, query)
		}, []string{"HOST.TEST.", "host.test."}},
		"A is known in lower case only": {func(network string, query []byte) [][]byte {
			// Answer when both queries have been sent: once the host knows that the server loses the case, it
			// sends AAAA in lower case only.
			time.Sleep(time.Millisecond)
			return inLowerCase(four.serve, zone{}.serve)(network, query)
		}, []string{"HOST.TEST.", "host.test."}},
		"there is no such name": {zone{}.serve, []string{"HOST.TEST.", "host.test."}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(map[string]handler{server1: c.serve})
				r := resolverOn(n, Config{Rand: flipped, Timeout: 4 * time.Second}, server1)
				r.LookupHost(t.Context(), "host.test.")
				var asked []string
				for _, q := range n.log() {
					if q.typ == dnsmessage.TypeAAAA {
						asked = append(asked, q.raw)
					}
				}
				require.Equal(t, c.asked, asked)
				time.Sleep(4 * time.Second) // until the server has answered the abandoned query
			})
		})
	}
}
