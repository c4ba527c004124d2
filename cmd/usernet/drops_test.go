package main

import (
	"context"
	"io"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/stack"
)

func TestDroppedPacketsArePrintedWithTheirReason(t *testing.T) {
	var l linkFlags
	var out safeBuffer
	n, err := l.openWire(terminal{&out, &out}, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	defer n.Close()
	var none dropFlags
	end, err := none.print(n.host, &out)
	require.NoError(t, err)
	end()
	drops := dropFlags{on: true}
	end, err = drops.print(n.host, &out)
	require.NoError(t, err)
	c, err := n.peer.Dial("udp", "192.0.2.2:4")
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Write([]byte("to nobody"))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return strings.Contains(out.String(), "RFC 1122 4.1.3.1") }, time.Minute, time.Millisecond)
	end()
	require.Regexp(t, `(?m)^\d\d:\d\d:\d\d\.\d{6} \S+ in   .* 192\.0\.2\.1:\d+ > 192\.0\.2\.2:4 UDP len=9
    dropped: UDP port without a socket
    RFC 1122 4\.1\.3\.1: "UDP SHOULD send an ICMP Port Unreachable message\."
`, out.String())
}

func TestADropWithoutBytesNamesItsAddresses(t *testing.T) {
	e := stack.WatchEvent{Kind: stack.PacketDropped, Outbound: true, Reason: "route is gone", Lost: 3}
	require.Equal(t, "(3 dropped packets are not shown)\n00:00:00.000000 out  of which no bytes are known\n    dropped: route is gone\n", string(appendDrop(nil, &e)))
	e.Lost = 0
	e.Local, e.Remote = netip.MustParseAddrPort("192.0.2.1:5"), netip.MustParseAddrPort("192.0.2.2:6")
	require.Equal(t, "00:00:00.000000 out  192.0.2.1:5 to 192.0.2.2:6\n    dropped: route is gone\n", string(appendDrop(nil, &e)))
	e.Outbound = false
	require.Equal(t, "00:00:00.000000 in   192.0.2.2:6 to 192.0.2.1:5\n    dropped: route is gone\n", string(appendDrop(nil, &e)))
}

// With the flag, echo still ends at once at Ctrl-C.
func TestEchoWithDropsEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out, errs safeBuffer
	done := make(chan int, 1)
	go func() { done <- run(ctx, []string{"echo", "-wire", "-drops"}, terminal{&out, &errs}) }()
	require.Eventually(t, func() bool { return strings.Contains(out.String(), "Ctrl-C") || len(done) > 0 }, time.Minute, time.Millisecond)
	cancel()
	require.Equal(t, exitOK, <-done, errs.String())
}

// dump -drops follows another program by the socket of its inspector. It prints 20 drops. At most a
// dozen of them are not datagrams of the test: both hosts report their IPv6 groups, and drop each
// other's reports.
func TestDumpPrintsTheDropsOfARunningProgram(t *testing.T) {
	var l linkFlags
	n, err := l.openWire(terminal{io.Discard, io.Discard}, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	defer n.Close()
	show := inspectFlags{socket: filepath.Join(t.TempDir(), "un.sock")}
	end, err := show.listenSocket(n.host)
	require.NoError(t, err)
	defer end()
	var out, errs safeBuffer
	done := make(chan int, 1)
	go func() {
		done <- run(t.Context(), []string{"dump", "-drops", show.socket, "-c", "20", "-vv", "-x"}, terminal{&out, &errs})
	}()
	c, err := n.peer.Dial("udp", "192.0.2.2:4")
	require.NoError(t, err)
	defer c.Close()
	var code int
	require.Eventually(t, func() bool { // the stream begins at an unknown time
		_, _ = c.Write([]byte("to nobody"))
		select {
		case code = <-done:
			return true
		default:
			return false
		}
	}, time.Minute, 10*time.Millisecond)
	require.Equal(t, exitOK, code, errs.String())
	require.Equal(t, 20, strings.Count(out.String(), "\n    dropped: "), out.String())
	require.Greater(t, strings.Count(out.String(), "dropped: UDP port without a socket\n    RFC 1122 4.1.3.1: "), 1, out.String())
	require.Regexp(t, `192\.0\.2\.1:\d+ > 192\.0\.2\.2:4 UDP len=9`, out.String())
	require.Contains(t, out.String(), "0x0010: ")

	for want, args := range map[string][]string{
		"cannot be combined":        {"dump", "-drops", show.socket, "udp"},
		"no such file or directory": {"dump", "-drops", show.socket + ".no"},
	} {
		var errs safeBuffer
		require.NotEqual(t, exitOK, run(t.Context(), args, terminal{io.Discard, &errs}))
		require.Contains(t, errs.String(), want)
	}
}
