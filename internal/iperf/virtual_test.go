package iperf

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
)

// hosts returns two hosts, on a wire in memory.
func hosts(t *testing.T, impair nic.Impairment) (client, server *usernet.Host) {
	t.Helper()
	a, b := nic.Pipe(nic.PipeConfig{})
	host := func(dev nic.Device, addr string) *usernet.Host {
		h, err := usernet.New(usernet.Config{NIC: dev, Addrs: []netip.Prefix{netip.MustParsePrefix(addr)}})
		require.NoError(t, err)
		return h
	}
	return host(nic.Impair(a, nic.ImpairConfig{In: impair, Out: impair, Seed: 1}), "192.0.2.1/24"), host(b, "192.0.2.2/24")
}

// A clocked is a socket that notes when datagrams with a header arrive.
type clocked struct {
	net.PacketConn
	mu    sync.Mutex
	times []time.Time
}

func (c *clocked) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := c.PacketConn.ReadFrom(b)
	if n >= headerSize(false) {
		c.mu.Lock()
		c.times = append(c.times, time.Now())
		c.mu.Unlock()
	}
	return n, from, err
}

// onHosts runs a test of a client with a server on the two hosts, in virtual time.
func onHosts(t *testing.T, impair nic.Impairment, p Params) (ours, theirs *Report, arrivals []time.Time) {
	t.Helper()
	a, b := hosts(t, impair)
	defer a.Close()
	defer b.Close()
	ln, err := b.Listen("tcp", ":5201")
	require.NoError(t, err)
	events, serverEnds := collect()
	var socket *clocked
	s := &Server{Listener: ln, OneOff: true, Events: events, ListenPacket: func(network, address string) (net.PacketConn, error) {
		pc, err := b.ListenPacket(network, address)
		socket = &clocked{PacketConn: pc}
		return socket, err
	}}
	done := make(chan error, 1)
	go func() { done <- s.Serve(t.Context()) }()
	events, clientEnds := collect()
	c := &Client{Dial: a.DialContext, Addr: "192.0.2.2:5201", Params: p, Events: events}
	require.NoError(t, c.Run(t.Context()))
	require.NoError(t, <-done)
	if socket != nil {
		arrivals = socket.times
	}
	return (<-clientEnds).report, (<-serverEnds).report, arrivals
}

// At 10 Mbit/s a datagram of 1250 bytes is sent each millisecond, and none at the end of the test.
func TestDatagramsAreSentAtTheirRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _, arrivals := onHosts(t, nic.Impairment{}, Params{UDP: true, Rate: 10e6, Block: 1250, Duration: time.Second})
		require.EqualValues(t, 1000, r.Streams[0].Packets)
		require.EqualValues(t, 1_250_000, r.Streams[0].Received)
		require.Zero(t, r.Streams[0].Lost)
		require.Zero(t, r.Streams[0].Jitter)
		require.Len(t, arrivals, 1000)
		for i, at := range arrivals {
			require.Equal(t, time.Duration(i)*time.Millisecond, at.Sub(arrivals[0]))
		}
		require.Equal(t, time.Second, r.Streams[0].SentTime)
	})
}

// Each stream has the rate, whichever side sends.
func TestEachStreamHasTheRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, p := range []Params{
			{UDP: true, Rate: 10e6, Block: 1250, Duration: time.Second, Streams: 3},
			{UDP: true, Rate: 10e6, Block: 1250, Duration: time.Second, Streams: 2, Bidir: true, Wide: true},
			{Rate: 10e6, Block: 1250, Duration: time.Second, Streams: 2, Bidir: true},
		} {
			r, _, _ := onHosts(t, nic.Impairment{}, p)
			require.Len(t, r.Streams, r.Params.total())
			for _, s := range r.Streams {
				require.InDelta(t, 1_250_000, s.Received, 1250, "stream %d: %+v", s.ID, s)
			}
		}
		r, _, _ := onHosts(t, nic.Impairment{}, Params{UDP: true, Rate: 10e6, Block: 1250, Bytes: 1_000_000, Reverse: true})
		require.InDelta(t, 800e6, float64(r.Streams[0].ReceivedTime), 2e6)
	})
}

// Over a link that loses and delays, both ends count the same, and TCP reports its retransmissions.
func TestLossIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad := nic.Impairment{Latency: 20 * time.Millisecond, Loss: 0.02}
		for _, reverse := range []bool{false, true} {
			ours, theirs, _ := onHosts(t, bad, Params{UDP: true, Rate: 10e6, Block: 1250, Duration: 2 * time.Second, Reverse: reverse})
			a, b := ours.Streams[0], theirs.Streams[0]
			require.Equal(t, a.Lost, b.Lost)
			require.Equal(t, a.Packets, b.Packets)
			require.InDelta(t, 0.02, float64(a.Lost)/float64(a.Packets), 0.015)
			require.LessOrEqual(t, a.Lost+a.Received/1250, a.Packets)

			ours, theirs, _ = onHosts(t, bad, Params{Bytes: 2_000_000, Reverse: reverse})
			a, b = ours.Streams[0], theirs.Streams[0]
			require.Equal(t, []int64{2_000_000, 2_000_000, a.Retransmits}, []int64{b.Sent, b.Received, b.Retransmits})
			require.Equal(t, []int64{2_000_000, 2_000_000}, []int64{a.Sent, a.Received})
			require.Positive(t, a.Retransmits)
		}
	})
}

// A test whose stream has failed is no success, even if its end comes before the failure is looked at.
func TestAFailedStreamFailsTheTest(t *testing.T) {
	reset := errors.New("the stream was reset")
	for range 20 { // a select with several ready channels takes any of them
		synctest.Test(t, func(t *testing.T) {
			for name, p := range map[string]Params{"server": {}, "bytes": {Bytes: 1}, "duration": {Duration: time.Nanosecond}} {
				ctrl, peer := net.Pipe()
				defer ctrl.Close()
				defer peer.Close()
				x := newTest(ctrl, name == "server", 0, new(Events))
				x.Params = p
				next := make(chan stateMessage, 1)
				if name == "server" {
					next <- stateMessage{state: testEnd}
				}
				x.failed <- reset
				close(x.sent)
				require.ErrorIs(t, x.flow(t.Context(), next), reset, name)
			}
		})
	}
}

// A server tells a client that sends nothing that it has waited long enough, at each step of a test.
func TestAServerDoesNotWaitForASilentClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := hosts(t, nic.Impairment{})
		defer a.Close()
		defer b.Close()
		ln, err := b.Listen("tcp", ":5201")
		require.NoError(t, err)
		events, ends := collect()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- (&Server{Listener: ln, ListenPacket: b.ListenPacket, Events: events}).Serve(ctx) }()
		steps := []string{"", "cookie", "params", "streams", "nothing", "results"}
		for i, step := range steps {
			c := dialRaw(t, a)
			began := time.Now()
			for _, said := range steps[:i+1] {
				c.say(t, a, said)
			}
			_, err := c.Read(make([]byte, 100))
			for err == nil {
				_, err = c.Read(make([]byte, 100))
			}
			require.Less(t, time.Since(began), 5*time.Minute, step)
			if step != "" {
				require.Error(t, (<-ends).err, step)
			}
			c.close()
		}
		cancel()
		require.NoError(t, <-done)
	})
}

// Ctrl-C ends a client and a server at once, whatever they wait for.
func TestAnEndedContextEndsAClientAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := hosts(t, nic.Impairment{})
		defer a.Close()
		defer b.Close()
		ln, err := b.Listen("tcp", ":5201")
		require.NoError(t, err)
		// The server has sent no state, one or two, when the context ends. The last test is one of UDP.
		for n := range 4 {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			c := &Client{Dial: a.DialContext, Addr: "192.0.2.2:5201", Params: Params{UDP: n == 3}}
			go func() { done <- c.Run(ctx) }()
			conn, err := ln.Accept()
			require.NoError(t, err)
			conn.Write([]byte{byte(paramExchange), byte(createStreams)}[:min(n, 2)])
			synctest.Wait()
			began := time.Now()
			cancel()
			require.ErrorIs(t, <-done, context.Canceled)
			require.Zero(t, time.Since(began))
			conn.Close()
		}
	})
}

// The test counts the lost datagrams and the jitter again, in a slow and obvious way.
func TestDatagramsAreCountedAsInTheReference(t *testing.T) {
	order := []int64{1, 2, 3, 7, 5, 8, 8, 20, 19, 18, 21}
	s := &stream{udp: true, wide: true}
	base := time.Unix(1_700_000_000, 0)
	var jitter, previous float64
	seen := make(map[int64]bool)
	for i, n := range order {
		sent := base.Add(time.Duration(n) * time.Millisecond)
		at := base.Add(time.Duration(i*i+40) * time.Millisecond) // the transit time changes, so there is jitter
		b := make([]byte, 100)
		putHeader(b, true, n, sent)
		require.True(t, s.datagram(b, at, 0))
		seen[n] = true
		transit := at.Sub(sent).Seconds()
		if i > 0 {
			jitter += (math.Abs(transit-previous) - jitter) / 16
		}
		previous = transit
	}
	lost, disorder, got := s.loss()
	// 4, 6 and 9 to 17 are missing. The duplicate of 8 counts as out of order, and so as not lost, as in iperf3.
	missing := 0
	for n := range slices.Max(order) {
		if n > 0 && !seen[n] {
			missing++
		}
	}
	require.Equal(t, 11, missing)
	require.EqualValues(t, missing-1, lost)
	require.EqualValues(t, 4, disorder)
	require.InDelta(t, jitter, got, 1e-6)
	require.EqualValues(t, 1100, s.bytes.Load())
	require.EqualValues(t, 21, s.packets.Load())
	require.False(t, s.datagram(make([]byte, 15), base, 0), "too short")
	b := make([]byte, 16)
	binary.BigEndian.PutUint64(b[8:], math.MaxUint64)
	require.False(t, s.datagram(b, base, 0), "no test reaches this number")
}

func TestDueAfterIsExact(t *testing.T) {
	require.Equal(t, time.Millisecond, dueAfter(1250, 10e6))
	require.Equal(t, 1000*time.Second, dueAfter(1250e6, 10e6))
	require.Equal(t, 2*maxDuration, dueAfter(maxCount, 1)) // the result is limited
	require.Zero(t, dueAfter(0, 1))
}
