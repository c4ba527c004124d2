package resolve

import (
	"context"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
)

// late is h after a second.
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
				r := resolverOn(n, Config{CacheSize: cacheSize}, server1)
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

func TestWhoGivesUpDoesNotTakeTheOthersAlong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(map[string]handler{server1: late(hostZone.serve)})
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
		limited(0, 500*ms, context.DeadlineExceeded, 500*ms)       // asks, and gives up
		limited(100*ms, 300*ms, context.DeadlineExceeded, 400*ms)  // waits, and gives up
		limited(200*ms, 10*time.Second, nil, 1500*ms)              // asks again when the first has given up
		limited(300*ms, 10*time.Second, nil, 1500*ms)              // or this one does
		limited(1600*ms, 10*time.Second, nil, 2600*ms)             // comes later
		limited(700*ms, 500*ms, context.DeadlineExceeded, 1200*ms) // waits for the second
		wg.Wait()
		require.Len(t, n.log(), 3)
		require.Empty(t, r.flights)
	})
}

func TestAnErrorIsEachOnesOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(map[string]handler{server1: late(failing(dnsmessage.RCodeServerFailure))})
		r := resolverOn(n, Config{Attempts: 1, Search: []string{"a.test"}, Ndots: 5}, server1)
		var wg sync.WaitGroup
		for _, name := range []string{"host", "host.a.test."} { // the same question at first
			wg.Go(func() {
				_, err := r.LookupTXT(t.Context(), name)
				requireDNSError(t, err, "server misbehaving", name, server1)
			})
		}
		wg.Wait()
		require.Len(t, n.log(), 2, "host.a.test. once, and host.")
	})
}

func TestADialThatPanicsLeavesNobodyWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(map[string]handler{server1: hostZone.serve})
		r := resolverOn(n, Config{}, server1)
		good := r.cfg.Dial
		r.cfg.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			r.cfg.Dial = good
			time.Sleep(time.Second)
			panic("of the caller's")
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			require.Panics(t, func() { r.LookupTXT(t.Context(), "host.test.") })
		})
		wg.Go(func() {
			time.Sleep(time.Millisecond)
			_, err := r.LookupTXT(t.Context(), "host.test.")
			require.True(t, isNotFound(err), "the server was asked")
		})
		wg.Wait()
	})
}
