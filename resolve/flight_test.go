package resolve

import (
	"context"
	"net"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
)

// late returns a handler that calls h after a second.
func late(h handler) handler {
	return func(network string, query []byte) [][]byte {
		time.Sleep(time.Second)
		return h(network, query)
	}
}

func TestEqualQuestionsAreAskedOnce(t *testing.T) {
	for name, cacheSize := range map[string]int{"with a cache": 10, "without": -1} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(map[string]handler{server1: late(hostZone.serve)})
				r := resolverOn(n, Config{CacheSize: cacheSize, Rand: unmixed}, server1)
				start := time.Now()
				var wg sync.WaitGroup
				for i := range 1000 {
					wg.Go(func() {
						host := []string{"host.test.", "HOST.test.", "host.Test."}[i%3]
						cname, err := r.LookupCNAME(t.Context(), host)
						require.NoError(t, err)
						require.Equal(t, host, cname, "each gets its own case")
						_, err = r.LookupHost(t.Context(), "nowhere.test.")
						requireDNSError(t, err, "no such host", "nowhere.test.", server1)
					})
				}
				wg.Wait()
				require.Equal(t, 2*time.Second, time.Since(start))
				require.Len(t, n.log(), 5, "A, AAAA and CNAME of the one, A and AAAA of the other")
				require.Empty(t, r.flights)
			})
		})
	}
}

func TestALookupEndsWithItsLastWaiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(map[string]handler{server1: late(hostZone.serve), server2: silent})
		r := resolverOn(n, Config{}, server1)
		start := time.Now()
		var wg sync.WaitGroup
		limited := func(after, limit time.Duration, want error, took time.Duration) {
			wg.Go(func() {
				time.Sleep(after)
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				defer cancel()
				_, err := r.LookupIP(ctx, "ip4", "host.test.")
				require.ErrorIs(t, err, want)
				require.Equal(t, took, time.Since(start))
			})
		}
		const ms = time.Millisecond
		limited(0, 500*ms, context.DeadlineExceeded, 500*ms)      // starts the flight, and gives up
		limited(100*ms, 300*ms, context.DeadlineExceeded, 400*ms) // joins the flight, and gives up
		limited(200*ms, 10*time.Second, nil, 1000*ms)             // gets the answer of the first query
		limited(600*ms, 10*time.Second, nil, 1000*ms)             // joins after the first caller has given up, and gets the same answer
		limited(1600*ms, 10*time.Second, nil, 2600*ms)            // starts a new flight
		wg.Wait()
		require.Len(t, n.log(), 2)
		require.Empty(t, r.flights)

		// A flight ends when its last caller has given up. A later caller does not join it.
		r = resolverOn(n, Config{Attempts: 10}, server2)
		start = time.Now()
		limited(0, 500*ms, context.DeadlineExceeded, 500*ms)
		limited(100*ms, 600*ms, context.DeadlineExceeded, 700*ms)
		limited(700*ms, 300*ms, context.DeadlineExceeded, 1000*ms)
		wg.Wait()
		require.Zero(t, n.open)
		require.Empty(t, r.flights)
		queries := len(n.log())
		time.Sleep(time.Hour)
		require.Len(t, n.log(), queries)
	})
}

func TestTheImpatientDoNotStarveAPatientLookup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(map[string]handler{server1: late(hostZone.serve)})
		r := resolverOn(n, Config{CacheSize: 10}, server1)
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() {
				for {
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(100+i)*time.Millisecond)
					_, err := r.LookupIP(ctx, "ip4", "host.test.")
					cancel()
					if err == nil {
						return // from now on, the cache answers at once
					}
				}
			})
		}
		time.Sleep(250 * time.Millisecond)
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, err := r.LookupIP(ctx, "ip4", "host.test.")
		took := time.Since(start)
		queries := len(n.log())
		wg.Wait()
		require.NoError(t, err)
		require.LessOrEqual(t, took, time.Second)
		require.Equal(t, 1, queries, "the callers that gave up did not end the query")
	})
}

type contextKey struct{}

func TestALookupHasTheValuesOfTheCallerThatBeganIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(map[string]handler{server1: silent})
		r := resolverOn(n, Config{Attempts: 2, Rand: unmixed}, server1)
		var seen []any
		r.cfg.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			seen = append(seen, ctx.Value(contextKey{}))
			_, limited := ctx.Deadline()
			require.True(t, limited, "by the resolver's own timeout")
			return n.Dial(ctx, network, address)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.WithValue(t.Context(), contextKey{}, "first"), time.Second)
			defer cancel()
			r.LookupTXT(ctx, "host.test.")
		})
		wg.Go(func() {
			time.Sleep(time.Millisecond)
			_, err := r.LookupTXT(context.WithValue(t.Context(), contextKey{}, "second"), "host.test.")
			require.Error(t, err)
		})
		wg.Wait()
		require.Equal(t, "first", seen[0])
		require.Nil(t, seen[len(seen)-1], "a context that has ended has no values any more, as in net")
	})
}

func TestEachCallersErrorHasItsOwnName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(map[string]handler{server1: late(failing(dnsmessage.RCodeServerFailure))})
		r := resolverOn(n, Config{Attempts: 1, Search: []string{"a.test"}, Ndots: 5, Rand: unmixed}, server1)
		var wg sync.WaitGroup
		for _, name := range []string{"host", "host.a.test."} { // the first query of both is for host.a.test.
			wg.Go(func() {
				_, err := r.LookupTXT(t.Context(), name)
				requireDNSError(t, err, "server misbehaving", name, server1)
			})
		}
		wg.Wait()
		require.Len(t, n.log(), 2, "host.a.test. once, and host.")
	})
}

func TestADialThatDoesNotReturnLeavesNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(map[string]handler{server1: hostZone.serve})
		r := resolverOn(n, Config{}, server1)
		r.cfg.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			r.cfg.Dial = n.Dial
			time.Sleep(time.Second)
			runtime.Goexit() // as t.FailNow does
			return nil, nil
		}
		for _, want := range []string{"lookup ended without a result", "no such host"} {
			var wg sync.WaitGroup
			for range 2 {
				wg.Go(func() {
					_, err := r.LookupTXT(t.Context(), "host.test.")
					require.ErrorContains(t, err, want)
				})
			}
			wg.Wait()
		}
	})
}
