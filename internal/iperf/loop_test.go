package iperf

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// An outcome is the end of a test on one side.
type outcome struct {
	report *Report
	err    error
}

// collect returns events that send the ends of tests to a channel.
func collect() (Events, chan outcome) {
	ends := make(chan outcome, 10)
	return Events{End: func(r *Report, err error) { ends <- outcome{r, err} }}, ends
}

// startServer starts a server on the kernel's loopback, and returns its address and the ends of its tests.
func startServer(t *testing.T, host string) (addr string, ends chan outcome) {
	t.Helper()
	ln, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	require.NoError(t, err)
	events, ends := collect()
	s := &Server{Listener: ln, ListenPacket: net.ListenPacket, Events: events}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	return ln.Addr().String(), ends
}

func newClient(addr string, p Params) (*Client, chan outcome) {
	events, ends := collect()
	return &Client{Dial: new(net.Dialer).DialContext, Addr: addr, Params: p, Events: events}, ends
}

// Both ends report the same bytes and datagrams, whatever the direction.
func TestBothEndsAgree(t *testing.T) {
	for host, all := range map[string]bool{"127.0.0.1": true, "::1": false} { // over IPv6, two of the cases suffice
		addr, serverEnds := startServer(t, host)
		for name, p := range map[string]Params{
			"tcp":          {Bytes: 3_000_001},
			"tcp reverse":  {Bytes: 3_000_001, Reverse: true},
			"tcp streams":  {Bytes: 3_000_001, Streams: 5, Block: 10_000},
			"tcp time":     {Duration: 300 * time.Millisecond, Rate: 50e6, Block: 1000},
			"tcp bidir":    {Duration: 300 * time.Millisecond, Bidir: true, Streams: 2},
			"udp":          {UDP: true, Bytes: 1_000_000, Rate: 200e6},
			"udp wide":     {UDP: true, Bytes: 1_000_000, Rate: 200e6, Wide: true, Block: 16},
			"udp reverse":  {UDP: true, Bytes: 1_000_000, Rate: 100e6, Reverse: true},
			"udp streams":  {UDP: true, Bytes: 1_000_000, Rate: 100e6, Streams: 3, Block: 60_000},
			"udp bidir":    {UDP: true, Duration: 300 * time.Millisecond, Rate: 20e6, Bidir: true, Streams: 2},
			"udp duration": {UDP: true, Duration: 300 * time.Millisecond},
		} {
			if !all && name != "tcp" && name != "udp streams" {
				continue
			}
			c, clientEnds := newClient(addr, p)
			require.NoError(t, c.Run(t.Context()), name)
			ours, theirs := <-clientEnds, <-serverEnds
			require.NoError(t, ours.err, name)
			require.NoError(t, theirs.err, name)
			require.Len(t, ours.report.Streams, ours.report.Params.total(), name)
			require.Len(t, theirs.report.Streams, len(ours.report.Streams), name)
			for i, a := range ours.report.Streams {
				b := theirs.report.Streams[i]
				require.Equal(t, a.ID, b.ID, name)
				require.Equal(t, !a.Sender, b.Sender, name)
				require.Equal(t, []int64{a.Sent, a.Received, a.Packets, a.Lost}, []int64{b.Sent, b.Received, b.Packets, b.Lost}, name)
				require.Equal(t, addrOf(a.Local), addrOf(b.Remote), name)
			}
			// The first total is of the direction in which the client sends, or with Reverse receives.
			for i, total := range ours.report.Totals() {
				require.Equal(t, total.Sender, i == 0 != p.Reverse, name)
				require.Positive(t, total.Received, name)
				if p.Bytes > 0 && !p.UDP {
					require.Equal(t, p.Bytes, total.Sent, name)
					require.Equal(t, p.Bytes, total.Received, name)
				}
				if p.Bytes > 0 && p.UDP && !p.Reverse { // the last block counts as a whole one
					require.Equal(t, (p.Bytes+int64(ours.report.Block)-1)/int64(ours.report.Block), total.Packets, name)
				}
			}
		}
	}
}

func TestASecondClientIsToldThatTheServerIsBusy(t *testing.T) {
	addr, ends := startServer(t, "127.0.0.1")
	first, _ := newClient(addr, Params{Duration: time.Hour, Rate: 1e6, Block: 1000})
	started := make(chan bool)
	first.Events.Start = func(*Report) { close(started) }
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { require.ErrorIs(t, first.Run(ctx), context.Canceled) })
	<-started
	for range 3 {
		second, _ := newClient(addr, Params{})
		require.ErrorIs(t, second.Run(t.Context()), ErrBusy)
	}
	cancel()
	wg.Wait()
	end := <-ends
	require.ErrorIs(t, end.err, ErrTerminated)
	require.Len(t, end.report.Streams, 1)
	// The server is then free again.
	third, _ := newClient(addr, Params{Bytes: 1000})
	require.NoError(t, third.Run(t.Context()))
	require.NoError(t, (<-ends).err)
}

// The one test is a UDP test, which the server refuses, because it has no ListenPacket.
func TestOneOffEndsAfterOneTest(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &Server{Listener: ln, OneOff: true}
	done := make(chan error, 1)
	go func() { done <- s.Serve(t.Context()) }()
	c, _ := newClient(ln.Addr().String(), Params{UDP: true})
	var refused *ServerError
	require.ErrorAs(t, c.Run(t.Context()), &refused)
	require.EqualError(t, refused, "the server reports: it does not have the protocol of the test (code 131, errno 0)")
	require.EqualError(t, <-done, "this server has no UDP")
}

func TestAServerThatEndsTellsTheClient(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &Server{Listener: ln}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	c, _ := newClient(ln.Addr().String(), Params{Duration: time.Hour, Rate: 1e6, Block: 1000})
	c.Events.Start = func(*Report) { cancel() }
	require.ErrorIs(t, c.Run(t.Context()), ErrTerminated)
	require.NoError(t, <-done)
}

// The outputs have the figures of the report.
func TestOutputsHaveTheFigures(t *testing.T) {
	addr, ends := startServer(t, "127.0.0.1")
	for _, p := range []Params{{Bytes: 2_000_000, Streams: 2}, {UDP: true, Bytes: 200_000, Rate: 100e6, Bidir: true}} {
		c, _ := newClient(addr, p)
		var text, out bytes.Buffer
		c.Interval = 10 * time.Millisecond
		asText, asJSON := Text(&text), JSON(&out)
		c.Events = Events{
			Start:    asText.Start,
			Interval: func(v *Interval) { asText.Interval(v); asJSON.Interval(v) },
			End:      func(r *Report, err error) { asText.End(r, err); asJSON.End(r, err) },
		}
		require.NoError(t, c.Run(t.Context()))
		r := (<-ends).report
		var got struct {
			Intervals []struct{ Streams []struct{ Bytes int64 } }
			End       struct {
				Sent     struct{ Bytes int64 } `json:"sum_sent"`
				Received struct{ Bytes int64 } `json:"sum_received"`
				Streams  []any
			}
		}
		require.NoError(t, json.Unmarshal(out.Bytes(), &got), out.String())
		require.Equal(t, r.Totals()[0].Sent, got.End.Sent.Bytes)
		require.Equal(t, r.Totals()[0].Received, got.End.Received.Bytes)
		require.Len(t, got.End.Streams, 2)
		var sum int64
		for _, v := range got.Intervals {
			for _, s := range v.Streams[:1] {
				sum += s.Bytes
			}
		}
		require.Equal(t, r.Streams[0].Sent, sum, "the intervals add up")
		require.Contains(t, text.String(), "Connected to 127.0.0.1:")
		require.Contains(t, text.String(), "Bytes")
		require.Contains(t, text.String(), "  sender\n")
		t.Log(text.String())
	}
}

// JSON output has a limited number of intervals, and tells how many it has left out.
func TestALongTestDoesNotFillTheMemory(t *testing.T) {
	var out bytes.Buffer
	events := JSON(&out)
	v := &Interval{End: time.Second, Streams: make([]StreamInterval, 100)}
	for range maxRecords/100 + 7 {
		events.Interval(v)
	}
	events.End(&Report{}, nil)
	var got struct {
		Intervals []any
		Dropped   int `json:"intervals_dropped"`
	}
	require.NoError(t, json.Unmarshal(out.Bytes(), &got))
	require.Len(t, got.Intervals, maxRecords/100)
	require.Equal(t, 7, got.Dropped)
}
