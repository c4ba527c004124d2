//go:build linux

package taptest

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/internal/iperf"
)

// An iperf3 client sends a GiB to the host over IPv6, and receives a GiB from it. The host forwards the
// connections to the server.
func TestIperf3MovesAGibibyteOverIPv6(t *testing.T) {
	t.Parallel()
	const size = 1 << 30
	ns, h := newLink(t, "iperf3", "ss")
	e := families[1]
	for i, options := range [][]string{nil, {"--reverse"}} {
		port := strconv.Itoa(5201 + i) // a server is not ready at once after a test
		ns.daemon(t, "iperf3", "-s", "-B", "127.0.0.1", "-p", port)
		ns.shell(t, "until ss -Hltn 'sport = :"+port+"' | grep -q "+port+"; do sleep 0.02; done")
		forward(t, ns, h, port, "127.0.0.1:"+port)
		var got struct {
			End struct {
				Sent     struct{ Bytes int64 } `json:"sum_sent"`
				Received struct{ Bytes int64 } `json:"sum_received"`
			}
			Error string
		}
		out := ns.run(t, append([]string{"iperf3", e.flag, "--json", "-c", e.ours, "-p", port, "-n", "1G"}, options...)...)
		require.NoError(t, json.Unmarshal([]byte(out), &got))
		require.Empty(t, got.Error)
		require.GreaterOrEqual(t, got.End.Sent.Bytes, int64(size), "%v", options)
		// The test ends when the sender has sent the GiB. The last bytes are then still in the buffers of the
		// host, which forwards them.
		require.Greater(t, got.End.Received.Bytes, int64(size/10*9), "%v", options)
	}
}

// An iperf3End is what iperf3 and usernet iperf report at the end of a test, as far as the tests read it.
type iperf3End struct {
	Error string
	End   struct {
		Streams []struct {
			Sender, Receiver struct {
				Bytes  int64
				Sender bool
			}
			UDP struct {
				Bytes, Packets int64
				Lost           int64 `json:"lost_packets"`
				Sender         bool
			}
		}
		Sum struct {
			Packets int64
			Lost    int64 `json:"lost_packets"`
		}
		Sent struct {
			Bytes, Retransmits int64
		} `json:"sum_sent"`
		Received struct{ Bytes int64 } `json:"sum_received"`
	}
}

func parseIperf3(t *testing.T, out string) (r iperf3End) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(out), &r), out)
	require.Empty(t, r.Error)
	return r
}

// losses counts datagrams with the data of a test, and decides which of them are lost: one in twenty.
type losses struct{ in, out atomic.Int64 }

// drop reports whether a datagram of n bytes is lost. count is in or out.
func (l *losses) drop(count *atomic.Int64, n int) bool { return n >= 500 && count.Add(1)%20 == 10 }

// A lossyPacketConn is a socket that loses datagrams of both directions.
type lossyPacketConn struct {
	net.PacketConn
	losses
}

func (l *lossyPacketConn) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, from, err := l.PacketConn.ReadFrom(b)
		if err != nil || !l.drop(&l.in, n) {
			return n, from, err
		}
	}
}

func (l *lossyPacketConn) WriteTo(b []byte, to net.Addr) (int, error) {
	if l.drop(&l.out, len(b)) {
		return len(b), nil
	}
	return l.PacketConn.WriteTo(b, to)
}

// A lossyConn is like a lossyPacketConn, but connected.
type lossyConn struct {
	net.Conn
	losses
}

func (l *lossyConn) Read(b []byte) (int, error) {
	for {
		n, err := l.Conn.Read(b)
		if err != nil || !l.drop(&l.in, n) {
			return n, err
		}
	}
}

func (l *lossyConn) Write(b []byte) (int, error) {
	if l.drop(&l.out, len(b)) {
		return len(b), nil
	}
	return l.Conn.Write(b)
}

// requireLoss requires that the losses of lossyPacketConn and lossyConn were counted: one datagram in twenty, and more on
// a busy machine. Datagrams that are lost after the last received one are not counted, so the bound is a little lower.
func requireLoss(t *testing.T, received, lost int64, about ...any) {
	t.Helper()
	require.GreaterOrEqual(t, lost, (received+lost)/20-4, about...)
}

// iperfServer starts a server of iperf's protocol on the host. Its UDP sockets lose datagrams.
func iperfServer(t *testing.T, h *usernet.Host) (reports chan *iperf.Report) {
	t.Helper()
	ln, err := h.Listen("tcp", ":5201")
	require.NoError(t, err)
	reports = make(chan *iperf.Report, 1)
	s := &iperf.Server{
		Listener: ln,
		ListenPacket: func(network, address string) (net.PacketConn, error) {
			c, err := h.ListenPacket(network, address)
			if err != nil {
				return nil, err
			}
			return &lossyPacketConn{PacketConn: c}, nil
		},
		Events: iperf.Events{End: func(r *iperf.Report, err error) {
			if err != nil {
				t.Errorf("the server: %v", err)
			}
			reports <- r
		}},
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	return reports
}

// TestIperf3MeasuresUsernet runs iperf3's client with a usernet server. Both report the same bytes, and the
// same lost datagrams.
func TestIperf3MeasuresUsernet(t *testing.T) {
	t.Parallel()
	ns, h := newLink(t, "iperf3")
	reports := iperfServer(t, h)
	for _, e := range ns.ends(t, h) {
		for _, options := range []string{
			"-n 2M", "-n 2M -R", "-n 2M -P 3", "-n 2M -R -P 2", "-t 1 -b 20M --bidir",
			"-u -n 1M -b 20M -l 1000", "-u -n 1M -b 20M -l 1000 -R --udp-counters-64bit", "-u -n 1M -b 20M -P 2 -l 1400 --udp-counters-64bit",
			"-u -t 1 -b 5M -l 1000 --bidir",
		} {
			out := ns.run(t, append([]string{"iperf3", e.flag, "--json", "-c", e.ours}, strings.Fields(options)...)...)
			theirs, ours := parseIperf3(t, out), <-reports
			about := e.flag + " " + options
			require.Len(t, theirs.End.Streams, len(ours.Streams), about)
			for i, s := range ours.Streams {
				their := theirs.End.Streams[i]
				if ours.UDP {
					require.Equal(t, !s.Sender, their.UDP.Sender, about)
					require.Equal(t, []int64{s.Packets, s.Lost}, []int64{their.UDP.Packets, their.UDP.Lost}, about)
				} else {
					require.Equal(t, !s.Sender, their.Sender.Sender, about)
					require.Equal(t, []int64{s.Sent, s.Received}, []int64{their.Sender.Bytes, their.Receiver.Bytes}, about)
				}
			}
			for _, total := range ours.Totals() {
				if ours.UDP {
					requireLoss(t, total.Received/int64(ours.Block), total.Lost, about)
				}
			}
			first := ours.Totals()[0]
			if ours.Bytes > 0 && !ours.UDP {
				require.Equal(t, first.Sent, first.Received, about)
				require.GreaterOrEqual(t, first.Sent, ours.Bytes, about)
				require.Equal(t, []int64{first.Sent, first.Received}, []int64{theirs.End.Sent.Bytes, theirs.End.Received.Bytes}, about)
				if ours.Reverse {
					require.Equal(t, ours.Bytes, first.Sent, about)
					require.Equal(t, first.Retransmits, theirs.End.Sent.Retransmits, about)
				}
			}
		}
	}
}

// TestUsernetMeasuresIperf3 runs a usernet client with iperf3's server. iperf3's server prints only what it has
// counted itself.
func TestUsernetMeasuresIperf3(t *testing.T) {
	t.Parallel()
	ns, h := newLink(t, "iperf3", "ss")
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := h.DialContext(ctx, network, address)
		if err != nil || !strings.HasPrefix(network, "udp") {
			return c, err
		}
		return &lossyConn{Conn: c}, nil
	}
	port := 5300
	for _, e := range ns.ends(t, h) {
		for _, p := range []iperf.Params{
			{Bytes: 2_000_001}, {Bytes: 2 << 20, Reverse: true}, {Bytes: 3_000_001, Streams: 3}, {Duration: time.Second, Bidir: true, Rate: 20e6},
			{UDP: true, Bytes: 1e6, Rate: 20e6, Block: 1000}, {UDP: true, Bytes: 1e6, Rate: 20e6, Block: 1000, Wide: true, Reverse: true},
			{UDP: true, Duration: time.Second, Rate: 5e6, Streams: 2}, {UDP: true, Duration: time.Second, Rate: 5e6, Bidir: true, Wide: true, Block: 1000},
		} {
			port++
			var out bytes.Buffer
			server := ns.command(t.Context(), "iperf3", "-s", "-1", "--json", "-p", strconv.Itoa(port))
			server.Stdout = &out
			require.NoError(t, server.Start())
			ns.shell(t, "until ss -Hltn 'sport = :"+strconv.Itoa(port)+"' | grep -q "+strconv.Itoa(port)+"; do sleep 0.02; done")
			var ours *iperf.Report
			c := iperf.Client{
				Dial: dial, Network: e.network("tcp"), Addr: e.at(strconv.Itoa(port)), Params: p,
				Events: iperf.Events{End: func(r *iperf.Report, err error) { ours = r }},
			}
			require.NoError(t, c.Run(t.Context()), "%v %+v", e.flag, p)
			require.NoError(t, server.Wait())
			theirs := parseIperf3(t, out.String())
			compareWithServer(t, ours, &theirs, e.flag)
		}
	}
}

// compareWithServer compares the figures of a client with those that an iperf3 server has printed.
func compareWithServer(t *testing.T, ours *iperf.Report, theirs *iperf3End, flag string) {
	t.Helper()
	about := []any{"%s %+v", flag, ours.Params}
	require.Len(t, theirs.End.Streams, len(ours.Streams), about...)
	for i, s := range ours.Streams {
		their := theirs.End.Streams[i]
		switch {
		case ours.UDP && s.Sender:
			require.Equal(t, s.Lost, their.UDP.Lost, about...)
			requireLoss(t, s.Received/int64(ours.Block), s.Lost, about...)
		case ours.UDP:
			require.Equal(t, s.Sent, their.UDP.Bytes, about...)
			requireLoss(t, s.Received/int64(ours.Block), s.Lost, about...)
		case s.Sender:
			require.Equal(t, s.Received, their.Receiver.Bytes, about...)
			require.GreaterOrEqual(t, s.Retransmits, int64(0), "the stack counts retransmissions; -1 would mean unknown")
			require.Positive(t, s.MaxCwnd)
		default:
			require.Equal(t, s.Sent, their.Sender.Bytes, about...)
			require.LessOrEqual(t, s.Received, s.Sent, about...)
		}
	}
	first := ours.Totals()[0]
	if ours.UDP || ours.Bytes == 0 {
		return
	}
	if ours.Reverse {
		// The client reads to the end of the streams.
		require.Equal(t, first.Sent, first.Received, about...)
		require.GreaterOrEqual(t, first.Sent, ours.Bytes, about...)
		return
	}
	require.Equal(t, ours.Bytes, first.Sent, about...)
	require.Equal(t, first.Received, theirs.End.Received.Bytes, about...)
	require.LessOrEqual(t, first.Received, first.Sent, about...)
}

// TestIperfCommandAndIperf3MeasureEachOther runs the command as server and as client.
func TestIperfCommandAndIperf3MeasureEachOther(t *testing.T) {
	t.Parallel()
	need(t, "iperf3", "ss")
	exe := build(t)
	ns := newNamespace(t)
	p, line := ns.start(t, exe, "iperf", "-s")
	require.Equal(t, "iperf server on port 5201 of 192.0.2.2 and 2001:db8::2 (Ctrl-C ends)", line)
	for _, to := range []string{"192.0.2.2", "2001:db8::2"} {
		for _, options := range []string{"-n 1M", "-u -n 100K -b 20M -l 1000"} {
			r := parseIperf3(t, ns.run(t, append([]string{"iperf3", "--json", "-c", to}, strings.Fields(options)...)...))
			require.Positive(t, r.End.Received.Bytes)
			for read := ""; !strings.Contains(read, "receiver"); {
				var err error
				read, err = p.out.ReadString('\n')
				require.NoError(t, err)
			}
		}
	}
	// While a test runs, another client is refused.
	busy := ns.command(t.Context(), "iperf3", "-c", "192.0.2.2", "-t", "600", "-b", "1M")
	require.NoError(t, busy.Start())
	read, err := p.out.ReadString('\n')
	for err == nil && !strings.HasPrefix(read, "Accepted") {
		read, err = p.out.ReadString('\n')
	}
	require.NoError(t, err)
	_, errs, err := ns.try(t, "iperf3", "-c", "192.0.2.2")
	require.Error(t, err)
	require.Contains(t, errs, "the server is busy running a test")
	require.NoError(t, busy.Process.Kill())
	busy.Wait()
	for read = ""; !strings.Contains(read, "receiver"); {
		read, err = p.out.ReadString('\n')
		require.NoError(t, err)
	}
	require.Contains(t, p.interrupt(), "usernet iperf: the test of 192.0.2.1:")

	ns.daemon(t, "iperf3", "-s")
	ns.shell(t, "until ss -Hltn 'sport = :5201' | grep -q 5201; do sleep 0.02; done")
	for _, to := range []string{"192.0.2.1", "2001:db8::1"} {
		for _, options := range []string{"-n 1M -P 2", "-n 1M -R", "-u -n 100K -b 20M", "-u -n 100K -b 20M -bidir"} {
			r := parseIperf3(t, ns.run(t, append([]string{exe, "iperf", "-J", "-c", to}, strings.Fields(options)...)...))
			require.Positive(t, r.End.Received.Bytes, options)
			require.LessOrEqual(t, r.End.Received.Bytes, r.End.Sent.Bytes, options)
		}
	}
}
