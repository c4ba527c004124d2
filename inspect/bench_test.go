package inspect

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/internal/hosttest"
)

// BenchmarkPage measures the throughput of 10,000 busy connections without a page, with a page that is closed, and with
// an open one that shows the connections by their rates. An operation is a round of three seconds with each of them, on
// the same connections, because two sets of connections differ by more than a page costs. The metrics closed/none and
// open/none are medians of the ratios within a round. Run it on a quiet machine:
//
//	go test ./inspect -run '^$' -bench Page -benchtime 20x
func BenchmarkPage(b *testing.B) {
	const conns, size, slice = 10_000, 16 << 10, 3 * time.Second
	from, to := hosttest.Pair(b)
	dialed, accepted := connect(b, from, to, conns)
	var received sync.WaitGroup
	for _, c := range accepted {
		go func() {
			buf := make([]byte, size)
			for {
				if _, err := io.ReadFull(c, buf); err != nil {
					return
				}
				received.Done()
			}
		}()
	}
	body := make([]byte, size)
	next := 0
	// rate returns the writes per second that arrive, on all connections in turn.
	rate := func() float64 {
		const window = 256 // writes in flight
		writes, start := 0, time.Now()
		for time.Since(start) < slice {
			received.Add(window)
			for range window {
				_, err := dialed[next].Write(body)
				require.NoError(b, err)
				next = (next + 1) % conns
			}
			received.Wait()
			writes += window
		}
		return float64(writes) / time.Since(start).Seconds()
	}
	// Without a page there is an HTTP server too: with it, Go's scheduler asks the kernel for events of the network, which
	// a program without sockets is spared.
	measure := map[string]func() float64{
		"none": func() float64 {
			srv := httptest.NewServer(http.NotFoundHandler())
			defer srv.Close()
			return rate()
		},
		"closed": func() float64 {
			srv := httptest.NewServer(Handler(to))
			defer srv.Close()
			return rate()
		},
		"open": func() float64 {
			srv := httptest.NewServer(Handler(to))
			defer srv.Close()
			defer followStream(b, srv, "api/stream?topics=overview,conns,drops&sort=rate&desc=1")()
			return rate()
		},
	}
	names := []string{"none", "closed", "open"}
	rate() // warm up
	var closed, open []float64
	for b.Loop() {
		got := map[string]float64{}
		for _, name := range names {
			got[name] = measure[name]()
		}
		closed, open = append(closed, got["closed"]/got["none"]), append(open, got["open"]/got["none"])
		names = append(names[1:], names[0]) // so that none of them is always first
	}
	slices.Sort(closed)
	slices.Sort(open)
	b.ReportMetric(closed[len(closed)/2], "closed/none")
	b.ReportMetric(open[len(open)/2], "open/none")
}

// followStream opens a stream and reads it until stop is called.
func followStream(tb testing.TB, srv *httptest.Server, path string) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, "GET", srv.URL+"/"+path, nil)
	require.NoError(tb, err)
	resp, err := srv.Client().Do(req)
	require.NoError(tb, err)
	require.Equal(tb, http.StatusOK, resp.StatusCode)
	done := make(chan bool)
	go func() {
		defer close(done)
		io.Copy(io.Discard, resp.Body)
	}()
	return func() {
		cancel()
		<-done
		resp.Body.Close()
	}
}

// BenchmarkConns measures one sample of 10,000 connections.
func BenchmarkConns(b *testing.B) {
	from, to := hosttest.Pair(b)
	connect(b, from, to, 10_000)
	for _, sort := range []string{"id", "recv_q", "cwnd", "rate"} {
		b.Run(sort, func(b *testing.B) {
			l := &connList{query: connQuery{sort: sort, limit: defaultPage}}
			b.ReportAllocs()
			for b.Loop() {
				l.sample(to)
			}
		})
	}
}

func TestAPageOfManyConnectionsAllocatesForThePageOnly(t *testing.T) {
	if racing {
		t.Skip("the race detector allocates")
	}
	from, to := hosttest.Pair(t)
	ln, err := to.Listen("tcp", ":8080")
	require.NoError(t, err)
	defer ln.Close()
	count := func(conns int, sort string) float64 {
		for range conns {
			c, err := from.Dial("tcp", hosttest.AddrB+":8080")
			require.NoError(t, err)
			t.Cleanup(func() { c.Close() })
		}
		l := &connList{query: connQuery{sort: sort, limit: 10}}
		l.sample(to)
		return testing.AllocsPerRun(5, func() { l.sample(to) })
	}
	few := count(100, "recv_q")
	many := count(900, "recv_q") // 1000 together
	require.Less(t, many, few+50, "the allocations are those of the page and of the iterator")
	require.Less(t, count(0, "cwnd"), few+50)
	require.Less(t, count(0, "rate"), few+100)
}

// Connections come and go, and so do clients of all topics: nothing blocks, and the race detector finds nothing.
func TestClientsComeAndGoWhileConnectionsDo(t *testing.T) {
	a, b := hosttest.Pair(t)
	h := NewHandler(b, Config{MaxStreams: 100, KeyLog: new(KeyLog)})
	ln, err := b.Listen("tcp", ":8080")
	require.NoError(t, err)
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
	kept, _ := connect(t, b, b, 1)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				c, err := a.Dial("tcp", hosttest.AddrB+":8080")
				if err != nil {
					t.Error(err)
					return
				}
				c.Write([]byte("hello"))
				io.ReadFull(c, make([]byte, 5))
				c.(*usernet.TCPConn).SetLinger(0)
				c.Close()
			}
		})
	}
	srv := httptest.NewServer(h)
	defer srv.Close()
	for i := range 4 {
		wg.Go(func() {
			for j := range 10 {
				path := []string{
					"api/stream?topics=overview,conns,drops,dropped,events&sort=rate&desc=1", "api/stream?topics=conn,segments&id=" + idOf(kept[0]),
					"api/all", "api/conns?sort=retrans",
				}[(i+j)%4]
				ctx, cancel := context.WithCancel(t.Context())
				req, err := http.NewRequestWithContext(ctx, "GET", srv.URL+"/"+path, nil)
				if err != nil {
					t.Error(err)
				}
				resp, err := srv.Client().Do(req)
				if err != nil || resp.StatusCode != 200 {
					t.Error(err, path)
				} else {
					io.ReadFull(resp.Body, make([]byte, 100))
					resp.Body.Close()
				}
				cancel()
			}
		})
	}
	wg.Wait()
}
