package main

import (
	"io"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/usernet/usernet"
)

func TestTracerouteOnAWirePrintsWhatTraceroutePrints(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"192.0.2.1", `^traceroute to 192\.0\.2\.1 \(192\.0\.2\.1\), 30 hops max, 60 byte packets\n 1  192\.0\.2\.1 \(192\.0\.2\.1\)(  \d+\.\d{3} ms){3}\n$`},
		{"-n -q 1 -m 5 192.0.2.1 1000", `^traceroute to 192\.0\.2\.1 \(192\.0\.2\.1\), 5 hops max, 1000 byte packets\n 1  192\.0\.2\.1  \d+\.\d{3} ms\n$`},
		{"-I -n 2001:db8::1", `^traceroute to 2001:db8::1 \(2001:db8::1\), 30 hops max, 80 byte packets\n 1  2001:db8::1(  \d+\.\d{3} ms){3}\n$`},
		{"-I -n -p 0 192.0.2.1", `^traceroute to 192\.0\.2\.1 \(192\.0\.2\.1\), 30 hops max, 60 byte packets\n 1  192\.0\.2\.1(  \d+\.\d{3} ms){3}\n$`},
		{"-T -n -p 81 2001:db8::1", `^traceroute to 2001:db8::1 \(2001:db8::1\), 30 hops max, 64 byte packets\n 1  2001:db8::1(  \d+\.\d{3} ms){3}\n$`},
		{"-T -n 192.0.2.1", `^traceroute to 192\.0\.2\.1 \(192\.0\.2\.1\), 30 hops max, 44 byte packets\n 1  192\.0\.2\.1(  \d+\.\d{3} ms){3}\n$`},
	} {
		code, out, errs := runLine(t, append([]string{"traceroute", "-wire"}, strings.Fields(c.args)...)...)
		require.Equal(t, exitOK, code, errs)
		require.Regexp(t, c.want, out)
	}
	code, out, errs := runLine(t, "traceroute", "-wire", "-n", "-w", "0.01", "-f", "9", "-m", "10", "192.0.2.99")
	require.Equal(t, exitFailure, code)
	require.Empty(t, errs)
	require.Equal(t, "traceroute to 192.0.2.99 (192.0.2.99), 10 hops max, 60 byte packets\n 9  * * *\n10  * * *\n", out)
}

func TestTracerouteMarksErrors(t *testing.T) {
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.9")
	ms := 1500 * time.Microsecond
	icmp := func(typ, code uint8, mtu int) usernet.TraceReply {
		return usernet.TraceReply{From: a, RTT: ms, Final: true, ICMP: true, Type: typ, Code: code, MTU: mtu, Err: syscall.EHOSTUNREACH}
	}
	// Type 3 is Destination Unreachable of IPv4 (RFC 792). IPv6 (RFC 4443 3) has 1 for Destination Unreachable,
	// 2 for Packet Too Big and 4 for Parameter Problem.
	lost := usernet.TraceReply{Err: os.ErrDeadlineExceeded}
	for _, c := range []struct {
		six     bool
		replies []usernet.TraceReply
		want    string
	}{
		{false, []usernet.TraceReply{lost, {From: a, RTT: ms}, {From: b, RTT: ms}}, " 7  * 192.0.2.1  1.500 ms 192.0.2.9  1.500 ms\n"},
		{false, []usernet.TraceReply{icmp(3, 0, 0), icmp(3, 1, 0), icmp(3, 2, 0)}, " 7  192.0.2.1  1.500 ms !N  1.500 ms !H  1.500 ms !P\n"},
		{false, []usernet.TraceReply{icmp(3, 4, 1400), icmp(3, 13, 0), icmp(3, 99, 0)}, " 7  192.0.2.1  1.500 ms !F-1400  1.500 ms !X  1.500 ms !<99>\n"},
		{true, []usernet.TraceReply{icmp(1, 0, 0), icmp(1, 1, 0), icmp(1, 3, 0)}, " 7  192.0.2.1  1.500 ms !N  1.500 ms !X  1.500 ms !H\n"},
		{true, []usernet.TraceReply{icmp(1, 6, 0), icmp(2, 0, 1280), icmp(4, 1, 0)}, " 7  192.0.2.1  1.500 ms !<6>  1.500 ms !F-1280  1.500 ms !P\n"},
		{true, []usernet.TraceReply{{Err: syscall.EHOSTUNREACH}, lost}, " 7  !H *\n"},
	} {
		var out strings.Builder
		printHop(&out, usernet.TraceHop{TTL: 7, Replies: c.replies}, c.six, netip.Addr.String)
		require.Equal(t, c.want, out.String())
	}
}

func TestTracerouteAsksForNames(t *testing.T) {
	l := linkFlags{dns: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:53")}}
	n, err := l.openWire(terminal{io.Discard, io.Discard}, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	defer n.Close()
	asked := servePTR(t, n.peer, "gate.example.")
	var f traceFlags
	f.cfg.MaxTTL, f.cfg.Method = 30, usernet.TraceICMP
	var out safeBuffer
	require.NoError(t, f.run(t.Context(), terminal{&out, io.Discard}, n.host, "192.0.2.1"))
	require.Regexp(t, `\n 1  gate\.example \(192\.0\.2\.1\)(  \d+\.\d{3} ms){3}\n$`, out.String())
	require.Equal(t, []string{"1.2.0.192.in-addr.arpa."}, asked())
}

// servePTR answers each question for the name of an address with name. asked returns the questions.
func servePTR(t *testing.T, h *usernet.Host, name string) (asked func() []string) {
	t.Helper()
	pc, err := h.ListenPacket("udp", ":53")
	require.NoError(t, err)
	var questions []string
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 1500)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(b[:n]) != nil {
				continue
			}
			q := m.Questions[0]
			questions = append(questions, strings.ToLower(q.Name.String())) // the resolver mixes the case
			m.Response, m.RecursionAvailable, m.Additionals = true, true, nil
			m.Answers = []dnsmessage.Resource{{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: dnsmessage.TypePTR, Class: dnsmessage.ClassINET, TTL: 60},
				Body:   &dnsmessage.PTRResource{PTR: dnsmessage.MustNewName(name)},
			}}
			if answer, err := m.Pack(); err == nil {
				pc.WriteTo(answer, from)
			}
		}
	}()
	return func() []string {
		pc.Close()
		<-done
		return questions
	}
}
