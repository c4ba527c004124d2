package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// scanNetwork makes a network in which the peer listens on TCP 22 and 8080 and answers on UDP 7 and 53.
func scanNetwork(t *testing.T) *network {
	t.Helper()
	n, err := new(linkFlags).openWire(terminal{io.Discard, io.Discard}, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(func() { n.Close() })
	for _, port := range []int{22, 8080} {
		ln, err := n.peer.Listen("tcp", fmt.Sprintf(":%d", port))
		require.NoError(t, err)
		t.Cleanup(func() { ln.Close() })
		go acceptLoop(ln, slog.New(slog.DiscardHandler), echo)
	}
	for _, port := range []int{7, 53} {
		pc, err := n.peer.ListenPacket("udp", fmt.Sprintf(":%d", port))
		require.NoError(t, err)
		t.Cleanup(func() { pc.Close() })
		go echoPackets(pc, slog.New(slog.DiscardHandler))
	}
	return n
}

// scan runs the command on a network. It returns the first line of the output, and the rest.
func scan(t *testing.T, n *network, f scanFlags, host string) (first, rest string) {
	t.Helper()
	f.rate, f.parallel, f.wait = max(f.rate, 1000), max(f.parallel, 10), cmp.Or(f.wait, 60)
	var out strings.Builder
	require.NoError(t, f.run(t.Context(), terminal{&out, io.Discard}, n.host, host))
	first, rest, _ = strings.Cut(out.String(), "\n")
	return first, rest
}

func TestScanFindsOpenPorts(t *testing.T) {
	n := scanNetwork(t)
	var ports portList
	require.NoError(t, ports.Set("20-25,ssh,http-alt"))
	want := `PORT      STATE         SERVICE
20/tcp    closed        ftp-data
21/tcp    closed        ftp
22/tcp    open          ssh
23/tcp    closed        telnet
24/tcp    closed        unknown
25/tcp    closed        smtp
8080/tcp  open          http-alt
`
	for _, host := range []string{"192.0.2.1", "2001:db8::1"} {
		for _, syn := range []bool{false, true} {
			first, rest := scan(t, n, scanFlags{ports: ports, syn: syn}, host)
			require.Regexp(t, `^`+host+` \(`+host+`\): 7 ports in \d+\.\d s$`, first)
			require.Equal(t, want, rest, "%s, SYN %v", host, syn)
			_, rest = scan(t, n, scanFlags{syn: syn, rate: 1e6, retries: 5, wait: 1}, host)
			require.Equal(t, "Not shown: 1023 closed\nPORT      STATE         SERVICE\n22/tcp    open          ssh\n", rest)
		}
		_, rest := scan(t, n, scanFlags{ports: portList{7, 9, 53}, udp: true}, host)
		require.Equal(t, "PORT      STATE         SERVICE\n7/udp     open          echo\n9/udp     closed        discard\n53/udp    open          domain\n", rest)
	}
	_, rest := scan(t, n, scanFlags{ports: ports, open: true}, "192.0.2.1")
	require.Equal(t, "Not shown: 5 closed\nPORT      STATE         SERVICE\n22/tcp    open          ssh\n8080/tcp  open          http-alt\n", rest)
}

// A host that nobody answers for has only filtered ports, after all retries.
func TestScanRetriesAndEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := scanNetwork(t)
		for _, f := range []scanFlags{{}, {syn: true}, {udp: true}} {
			f.retries, f.wait, f.ports = 1, 2, portList{1, 2, 3}
			began := time.Now()
			_, rest := scan(t, n, f, "192.0.2.99")
			require.NotContains(t, rest, "closed")
			require.Equal(t, 3, strings.Count(rest, "filtered"), rest)
			require.Equal(t, f.udp, strings.Contains(rest, "open|filtered"))
			require.LessOrEqual(t, time.Since(began), 5*time.Second)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for _, f := range []scanFlags{{}, {syn: true}, {udp: true}} {
			f.rate, f.parallel, f.wait = 10, 10, 100
			began := time.Now()
			require.EqualError(t, f.run(ctx, terminal{io.Discard, io.Discard}, n.host, "192.0.2.99"), "interrupted")
			require.LessOrEqual(t, time.Since(began), time.Second)
		}
	})
}

func TestScanKeepsItsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := scanNetwork(t)
		for _, f := range []scanFlags{{}, {syn: true}, {udp: true}} {
			f.rate, f.parallel, f.wait = 10, 100, 1
			f.ports = portList{1, 2, 3, 4, 5, 6}
			began := time.Now()
			require.NoError(t, f.run(t.Context(), terminal{io.Discard, io.Discard}, n.host, "192.0.2.1"))
			// Six probes at 10 a second have five intervals.
			require.Equal(t, 500*time.Millisecond, time.Since(began).Truncate(time.Millisecond))
		}
	})
}

// A port that answers only a later try tells that the host limits the rate of its ICMP errors. Then the scan
// doubles its interval (50 ms to 1 s) and tries each port once more (10 times at most).
func TestScanOfUDPSlowsDownForARateLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &scanner{udp: true, tries: 3, interval: time.Millisecond, timeout: time.Second, parallel: 100, states: make(map[uint16]portState)}
		r := &rawScan{scanner: s, ports: map[uint16]*portProbe{1: {tries: 1}, 2: {tries: 2}, 3: {tries: 2}, 4: {tries: 3}}}
		r.answer(scanAnswer{1, stateClosed})
		require.Equal(t, []any{time.Millisecond, 3}, []any{s.interval, s.tries})
		r.answer(scanAnswer{2, stateClosed})
		require.Equal(t, []any{50 * time.Millisecond, 4}, []any{s.interval, s.tries})
		for range 10 {
			delete(s.states, 3) // the port has not answered yet
			r.answer(scanAnswer{3, stateClosed})
		}
		require.Equal(t, []any{time.Second, 10}, []any{s.interval, s.tries})
		r.answer(scanAnswer{4, stateOpen})
		require.Equal(t, stateOpen, s.states[4])
	})
}
