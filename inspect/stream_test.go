package inspect

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/internal/hosttest"
)

// A stream is the end of the client that reads a stream of events.
type stream struct {
	t      *testing.T
	status int
	header http.Header
	r      *bufio.Reader
	end    func() // leaves the stream, and waits until the handler has ended
}

// A streamWriter is the ResponseWriter of a stream, in memory: a stream works in a bubble.
type streamWriter struct {
	header http.Header
	status chan int
	w      *io.PipeWriter
}

func (w *streamWriter) Header() http.Header         { return w.header }
func (w *streamWriter) WriteHeader(n int)           { w.status <- n }
func (w *streamWriter) Write(p []byte) (int, error) { return w.w.Write(p) }
func (w *streamWriter) Flush()                      {}

// open opens a stream.
func open(t *testing.T, h http.Handler, path string) *stream {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	pr, pw := io.Pipe()
	w := &streamWriter{header: http.Header{}, status: make(chan int, 1), w: pw}
	r := httptest.NewRequestWithContext(ctx, "GET", "http://localhost/"+path, nil)
	r.RemoteAddr = "127.0.0.1:1"
	done := make(chan bool)
	go func() {
		defer close(done)
		h.ServeHTTP(w, r)
		pw.Close()
	}()
	s := &stream{t: t, header: w.header, r: bufio.NewReader(pr)}
	s.status = <-w.status
	s.end = func() { cancel(); pr.Close(); <-done }
	t.Cleanup(s.end)
	if s.status == http.StatusOK {
		line, err := s.r.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, ": stream of package inspect\n", line)
	}
	return s
}

// next returns the next event, without comments.
func (s *stream) next() (topic, data string) {
	s.t.Helper()
	for {
		line, err := s.r.ReadString('\n')
		require.NoError(s.t, err)
		line = strings.TrimSuffix(line, "\n")
		switch key, value, _ := strings.Cut(line, ": "); {
		case line == "" && topic != "":
			return topic, data
		case key == "event":
			topic = value
		case key == "data":
			data = value
		}
	}
}

// nextOf waits for an event of a topic.
func nextOf[T any](s *stream, topic string) (v T) {
	s.t.Helper()
	for {
		got, data := s.next()
		if got == topic {
			require.NoError(s.t, json.Unmarshal([]byte(data), &v))
			return v
		}
	}
}

func TestAStreamSamplesWhileThereIsAClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := hosttest.Pair(t)
		dialed, accepted := connect(t, a, b, 1)
		h := Handler(b)
		l := h.(*server).from.(*live)
		require.Empty(t, l.feeds)
		s := open(t, h, "api/stream?topics=overview,events&interval_ms=1000")
		require.Equal(t, 200, s.status)
		require.Equal(t, "text/event-stream", s.header.Get("Content-Type"))
		first := nextOf[Overview](s, "overview")
		list := open(t, h, "api/stream?topics=conns&interval_ms=1000")
		require.Nil(t, nextOf[Conns](list, "conns").Conns[0].RateIn)
		_, err := dialed[0].Write(make([]byte, 5000))
		require.NoError(t, err)
		_, err = io.ReadFull(accepted[0], make([]byte, 5000))
		require.NoError(t, err)
		c := nextOf[Conns](list, "conns").Conns[0]
		require.Equal(t, 5000.0, *c.RateIn)
		require.Zero(t, *c.RateOut)
		require.Len(t, l.feeds, 3)
		list.end()
		require.Equal(t, time.Second, nextOf[Overview](s, "overview").Time.Sub(first.Time))
		require.NoError(t, b.AddAddr(b.Interfaces()[1].Name, netip.MustParsePrefix("198.51.100.1/24"), usernet.AddrOptions{}))
		e := nextOf[ChangeEvent](s, "events")
		for !strings.Contains(e.Text, "198.51.100.1/24") { // the detection of duplicates may end in between
			e = nextOf[ChangeEvent](s, "events")
		}
		require.Equal(t, "address added", e.Kind)
		s.end()
		synctest.Wait()
		require.Empty(t, l.feeds, "the samplers end with the last client")
	})
}

func TestClientsShareASampler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, b := hosttest.Pair(t)
		h := Handler(b)
		l := h.(*server).from.(*live)
		s := open(t, h, "api/stream?topics=overview")
		x := nextOf[Overview](s, "overview")
		time.Sleep(100 * time.Millisecond)
		s2 := open(t, h, "api/stream?topics=overview")
		y := nextOf[Overview](s2, "overview")
		require.Equal(t, x.Time, y.Time, "a new client gets the last sample at once")
		require.Len(t, l.feeds, 1)
		s.end()
		require.Len(t, l.feeds, 1)
		require.NotEqual(t, y.Time, nextOf[Overview](s2, "overview").Time)
		s3 := open(t, h, "api/stream?topics=overview&interval_ms=5000")
		nextOf[Overview](s3, "overview")
		require.Len(t, l.feeds, 2, "another interval is another sampler")
	})
}

func TestTheStreamOfAConnectionHasItsEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := hosttest.Pair(t)
		dialed, accepted := connect(t, a, b, 1)
		h := Handler(a)
		s := open(t, h, "api/stream?topics=conn&interval_ms=100&id="+url.QueryEscape(idOf(dialed[0])))
		d := nextOf[ConnDetail](s, "conn")
		require.Equal(t, "ESTABLISHED", d.Info.State)
		require.Empty(t, d.Events)
		require.Empty(t, d.Conn.LimitedBy, "there is no sample before")
		// The peer's application does not read, so its window closes.
		require.NoError(t, accepted[0].SetReadBuffer(4096))
		go dialed[0].Write(make([]byte, 10<<20))
		kinds := make(map[string]bool)
		for !kinds["window_closed"] {
			for _, e := range nextOf[ConnDetail](s, "conn").Events {
				kinds[e.Kind] = true
			}
		}
		require.Equal(t, limitPeerReads, nextOf[ConnDetail](s, "conn").Conn.LimitedBy)
		list := open(t, h, "api/stream?topics=conns&interval_ms=100")
		require.Empty(t, nextOf[Conns](list, "conns").Conns[0].LimitedBy)
		require.Equal(t, limitPeerReads, nextOf[Conns](list, "conns").Conns[0].LimitedBy)
		require.NoError(t, dialed[0].SetLinger(0))
		dialed[0].Close()
		for !d.Ended {
			d = nextOf[ConnDetail](s, "conn")
		}
		require.Equal(t, ConnEvent{Time: d.Time, Kind: "state", Text: "CLOSED"}, d.Events[0])
		require.Nil(t, d.Info)
	})
}

func TestStreamsDoNotKeepAHostFromClosing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, b := hosttest.Pair(t)
		h := Handler(b)
		s := open(t, h, "api/stream?topics=overview,conns,events,drops")
		nextOf[Overview](s, "overview")
		require.NoError(t, b.Close())
		nextOf[struct{}](s, "closed")
		_, err := io.ReadAll(s.r)
		require.NoError(t, err, "the handler ends")
		synctest.Wait()
		require.Empty(t, h.(*server).from.(*live).feeds)
		require.Contains(t, refused(t, h, 503, "GET", "api/stream?topics=overview"), "closed")
		get[Overview](t, h, "api/overview")
	})
}

func TestTheNumberOfStreamsIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHandler(hosttest.Loopback(t), Config{MaxStreams: 2})
		s := open(t, h, "api/stream?topics=overview")
		open(t, h, "api/stream?topics=conns")
		require.Contains(t, refused(t, h, 503, "GET", "api/stream?topics=overview"), "too many")
		s.end()
		require.Equal(t, 200, open(t, h, "api/stream?topics=overview").status)
	})
}

func TestASlowClientLosesEventsAndIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := Handler(hosttest.Loopback(t))
		s := open(t, h, "api/stream?topics=overview&interval_ms=500")
		nextOf[Overview](s, "overview")
		time.Sleep(2 * eventQueue * 500 * time.Millisecond) // the client reads nothing
		lost := nextOf[struct{ Lost int }](s, "lost")
		require.InDelta(t, 2*eventQueue, lost.Lost, 5)
		require.Less(t, time.Since(nextOf[Overview](s, "overview").Time), time.Second, "of the samples, only the newest is kept for a slow client")
	})
}

func TestTheEventsThatWaitAreBounded(t *testing.T) {
	s := newSubscriber()
	for range 100 {
		s.put(event{"conns", make([]byte, eventBytes)}, true)
		s.put(event{"overview", make([]byte, eventBytes)}, true)
	}
	require.Len(t, s.queue, 2, "of each table, the newest waits")
	require.Equal(t, uint64(198), s.lost)
	for range 100 {
		s.put(event{"dropped", make([]byte, eventBytes/10)}, false)
	}
	require.Len(t, s.queue, 2+10)
	require.Equal(t, uint64(198+90), s.lost)
	n := 0
	for {
		if _, ok, _ := s.take(); !ok {
			break
		}
		n++
	}
	require.Equal(t, 12, n)
	require.Zero(t, s.bytes+s.count)
	// The queue is also bounded by its number of events: these are small.
	for range 2 * eventQueue {
		s.put(event{"segments", make([]byte, 2*eventBytes/eventQueue/4)}, false)
	}
	require.Len(t, s.queue, eventQueue)
	s = newSubscriber()
	s.put(event{"conn", make([]byte, 2*eventBytes)}, false)
	require.Len(t, s.queue, 1, "an event that is larger than the queue passes alone")
}

func TestAStreamIsKeptOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, Handler(hosttest.Loopback(t)), "api/stream?topics=events")
		began := time.Now()
		line := ""
		for line != ": ping\n" {
			var err error
			line, err = s.r.ReadString('\n')
			require.NoError(t, err)
		}
		require.Equal(t, pingInterval, time.Since(began))
	})
}
