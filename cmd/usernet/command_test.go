package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/internal/site"
	"github.com/usernet/usernet/nic"
)

// No test in this package opens a TAP. The tests in internal/taptest do, each in its own network
// namespace.

// A safeBuffer is a buffer that a command writes while a test reads it.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// runLine runs a command line to its end.
func runLine(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs safeBuffer
	code = run(t.Context(), args, terminal{&out, &errs})
	return code, out.String(), errs.String()
}

func TestWrongUseExitsWithTwoAndSaysWhat(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "usernet is a TCP/IP stack"},
		{[]string{"fly"}, `unknown command "fly"`},
		{[]string{"serve", "-colour"}, "flag provided but not defined: -colour"},
		{[]string{"serve", "a", "b"}, `unexpected argument "b"`},
		{[]string{"serve", "-addr", "192.0.2.2"}, `invalid value "192.0.2.2" for flag -addr: /24 is missing, the length of its network: 192.0.2.2/24`},
		{[]string{"serve", "-addr", "192.0.2.0/24"}, "-addr: the first and the last address of 192.0.2.0/24 are not those of hosts"},
		{[]string{"serve", "-addr", "192.0.2.255/24"}, "-addr: the first and the last address of 192.0.2.0/24 are not those of hosts"},
		{[]string{"serve", "-addr", "224.0.0.1/24"}, "-addr: not the address of a host"},
		{[]string{"serve", "-addr", "127.0.0.2/8"}, "-addr: 127.0.0.0/8 belongs to the loopback"},
		{[]string{"serve", "-host-addr", "2001:db8::2"}, "-host-addr: /64 is missing"},
		{[]string{"serve", "-host-addr", "2001:db8::/64"}, "-host-addr: the first address of 2001:db8::/64 is that of its routers"},
		{[]string{"serve", "-addr", "fe80::1/64"}, "-addr: the link-local address is made from -mac"},
		{[]string{"serve", "-addr", "::1/128"}, "-addr: ::1 belongs to the loopback"},
		{[]string{"serve", "-addr", "::ffff:192.0.2.2/120"}, "-addr: an IPv4 address is written 192.0.2.2"},
		{[]string{"serve", "-addr", "ff02::1/64"}, "-addr: not the address of a host"},
		{[]string{"serve", "-addr", "192.0.2.2/24", "-addr", "192.0.2.3/24"}, "-addr: only one IPv4 address is allowed, and it is already 192.0.2.2/24"},
		{[]string{"serve", "-addr", "2001:db8::2/64", "-addr", "2001:db8::3/64"}, "-addr: only one IPv6 address is allowed, and it is already 2001:db8::2/64"},
		{[]string{"serve", "-mac", "02:00:00:00:00"}, "-mac: not an address of six bytes"},
		{[]string{"serve", "-mac", "01:00:5e:00:00:01"}, "-mac: the address of a group"},
		{[]string{"serve", "-mac", "00:00:00:00:00:00"}, "-mac: all zero"},
		{[]string{"serve", "-listen", "80"}, "-listen 80: the colon is missing, as in :80"},
		{[]string{"serve", "-listen", "192.0.2.2"}, "-listen 192.0.2.2: missing port in address"},
		{[]string{"serve", "-listen", ":99999"}, `-listen :99999: "99999" is no port`},
		{[]string{"serve", "-listen", "nobody.example:80"}, `"nobody.example" is no address`},
		{[]string{"serve", "-wire", "-listen", "[2001:db8::1]:80"}, "-listen [2001:db8::1]:80: our address is 192.0.2.2 or 2001:db8::2"},
		{[]string{"serve", "-tun", "tun0", "-tap", "tap0"}, "-tun and -tap: there is only one link"},
		{[]string{"dump", "-tun", "tun0", "-mac", "02:00:00:00:00:01"}, "-tun and -mac: a TUN device has no MAC addresses"},
		{[]string{"echo", "-tun", "tun0", "-wire"}, "-tun and -wire: there is only one link"},
		{[]string{"serve", "-vlan", "0"}, "-vlan 0 is not from 1 to 4094"},
		{[]string{"dump", "-vlan", "4095"}, "-vlan 4095 is not from 1 to 4094"},
		{[]string{"ping", "-tun", "tun0", "-vlan", "5", "x"}, "-tun and -vlan: a TUN device has no Ethernet, and so no VLANs"},
		{[]string{"serve", "-auto", "-wire"}, "-auto and -wire: there is no DHCP server on a wire in memory"},
		{[]string{"ping", "-auto", "-addr", "192.0.2.2/24", "x"}, "-auto with -addr or -host-addr: the network gives the addresses"},
		{[]string{"get", "-auto", "-host-addr", "192.0.2.2/24", "x"}, "-auto with -addr or -host-addr: the network gives the addresses"},
		{[]string{"echo", "-auto", "-wire"}, "-auto and -wire"},
		{[]string{"serve", "-ppp", "/dev/ttyS0", "-pppoe", "eth0"}, "-ppp and -pppoe: there is only one link"},
		{[]string{"serve", "-pppoe", "eth0", "-wire"}, "there is only one link"},
		{[]string{"ping", "-ppp", "/dev/ttyS0", "-tap", "tap0", "x"}, "there is only one link"},
		{[]string{"get", "-ppp", "/dev/ttyS0", "-auto", "x"}, "-auto and -ppp or -pppoe: the peer gives the addresses"},
		{[]string{"echo", "-ppp", "/dev/ttyS0", "-mac", "02:00:00:00:00:01"}, "-ppp and -mac: a line has no MAC addresses"},
		{[]string{"serve", "-ppp", "/dev/ttyS0", "-service", "x"}, "-service is for -pppoe"},
		{[]string{"serve", "-user", "joe"}, "-user, -password and -service are for -ppp and -pppoe"},
		{[]string{"serve", "-pppoe", "eth0", "-password", "x"}, "-password without -user"},
		{[]string{"dump", "-auto"}, "flag provided but not defined: -auto"},
		{[]string{"echo", "-no-ipv6", "-addr", "2001:db8::2/64"}, "-no-ipv6 with an IPv6 address in -addr or -host-addr"},
		{[]string{"dump", "-no-ipv6", "-host-addr", "2001:db8::2/64"}, "-no-ipv6 with an IPv6 address"},
		{[]string{"get", "-auto", "-tun", "tun0", "-no-ra", "x"}, "-auto on a TUN device with -no-ipv6 or -no-ra"},
		{[]string{"serve", "-auto", "-tun", "tun0", "-no-ipv6"}, "-auto on a TUN device with -no-ipv6 or -no-ra"},
		{[]string{"serve", "-listen", "127.0.0.1:80"}, "the loopback of this stack is not the kernel's: nobody else can reach it; -listen :80 is at 1"},
		{[]string{"serve", "-listen", "localhost:http"}, "the loopback of this stack is not the kernel's"},
		{[]string{"serve", "-listen", "203.0.113.9:80"}, "-listen 203.0.113.9:80: our address is 1"},
		{[]string{"serve", "-wire", "-listen", "203.0.113.9:80"}, "-listen 203.0.113.9:80: our address is 192.0.2.2 or 2001:db8::2"},
		{[]string{"echo", "-tcp-echo", "9"}, "-tcp-echo 9: the port already has a service"},
		{[]string{"echo", "-udp-echo", "9", "-udp-echo", "9"}, "-udp-echo 9: the port already has a service"},
		{[]string{"get", "ftp://192.0.2.1/"}, `the scheme "ftp" is neither http nor https`},
		{[]string{"get", "http:///x"}, "the host is missing"},
		{[]string{"version", "x"}, `unexpected argument "x"`},
		{[]string{"serve", "-host-addr", "1.2.3/24"}, `ParseAddr("1.2.3"): IPv4 address too short`},
		{[]string{"echo", "x"}, `unexpected argument "x"`},
		{[]string{"echo", "-tcp-echo", "0"}, "not a port from 1 to 65535"},
		{[]string{"echo", "-udp-echo", "70000"}, "not a port from 1 to 65535"},
		{[]string{"ping"}, "one address is needed"},
		{[]string{"ping", "-c", "-1", "a"}, "-c is negative"},
		{[]string{"ping", "-s", "65508", "a"}, "-s is not from 0 to 65507"},
		{[]string{"ping", "-t", "0", "a"}, "-t is not from 1 to 255"},
		{[]string{"ping", "-i", "NaN", "a"}, "-i is not from 0 to"},
		{[]string{"ping", "-W", "0", "a"}, "-W is not above 0"},
		{[]string{"ping", "-dns", "x", "a"}, "-dns: "},
		{[]string{"traceroute"}, "one host is needed"},
		{[]string{"traceroute", "a", "b", "c"}, "one host is needed"},
		{[]string{"traceroute", "a", "0"}, "the length of the packets is not from 1 to 65000"},
		{[]string{"traceroute", "-I", "-T", "a"}, "-I and -T: there is only one kind of packets"},
		{[]string{"traceroute", "-4", "-6", "a"}, "-4 and -6: there is only one destination"},
		{[]string{"traceroute", "-f", "0", "a"}, "-f is not from 1 to 255"},
		{[]string{"traceroute", "-f", "9", "-m", "8", "a"}, "-m is not from 9 to 255"},
		{[]string{"traceroute", "-q", "11", "a"}, "-q is not from 1 to 10"},
		{[]string{"traceroute", "-N", "0", "a"}, "-N is not from 1 to 10000"},
		{[]string{"traceroute", "-w", "NaN", "a"}, "-w is not above 0"},
		{[]string{"traceroute", "-z", "-1", "a"}, "-z is not from 0 to"},
		{[]string{"traceroute", "-p", "65536", "a"}, "-p is not from 1 to 65535"},
		{[]string{"traceroute", "-p", "0", "a"}, "-p is not from 1 to 65535"},
		{[]string{"traceroute", "-T", "-p", "0", "a"}, "-p is not from 1 to 65535"},
		{[]string{"traceroute", "-I", "-p", "-1", "a"}, "-p is not from 0 to 65535"},
		{[]string{"traceroute", "-t", "256", "a"}, "-t is not from 0 to 255"},
		{[]string{"scan"}, "one host is needed"},
		{[]string{"scan", "-sS", "-sU", "a"}, "-sT, -sS and -sU: one scan at a time"},
		{[]string{"scan", "-p", "0", "a"}, `"0" is no port from 1 to 65535`},
		{[]string{"scan", "-p", "1-65536", "a"}, `"65536" is no port from 1 to 65535`},
		{[]string{"scan", "-p", "9-8", "a"}, "9-8: the range ends before it begins"},
		{[]string{"scan", "-p", "22,,23", "a"}, `"" is no port`},
		{[]string{"scan", "-p", "nosuch", "a"}, `"nosuch" is no port`},
		{[]string{"scan", "-rate", "0", "a"}, "-rate is not from 0.1 to"},
		{[]string{"scan", "-parallel", "0", "a"}, "-parallel is not from 1 to"},
		{[]string{"scan", "-retries", "-1", "a"}, "-retries is not from 0 to 20"},
		{[]string{"scan", "-w", "NaN", "a"}, "-w is not from 0.001 to"},
		{[]string{"nc"}, "a host and a port are needed"},
		{[]string{"nc", "-l"}, "-l needs a port"},
		{[]string{"nc", "-l", "-z", "80"}, "-l and -z: nothing is sent to a listener"},
		{[]string{"nc", "-k", "a", "80"}, "-k without -l"},
		{[]string{"nc", "-l", "-p", "9", "80"}, "-p with -l: the port is an argument"},
		{[]string{"nc", "a", "http-x"}, `"http-x" is no port`},
		{[]string{"nc", "a", "80-81"}, "several ports without -z"},
		{[]string{"nc", "-w", "-1", "a", "80"}, "-w is not from 0 to"},
		{[]string{"nc", "-4", "-6", "a", "80"}, "-4 and -6"},
		{[]string{"ss"}, "the target is missing"},
		{[]string{"ss", "-ty", "x"}, "flag provided but not defined: -ty"},
		{[]string{"ss", "x", "state", "up"}, `filter: there is no state "up"; the states are all, `},
		{[]string{"ss", "x", "dport", "="}, `filter: "" is not a port`},
		{[]string{"ss", "x", "dport", "=", ":99999"}, `filter: "99999" is not a port`},
		{[]string{"ss", "x", "dst", "1.2.3"}, `filter: "1.2.3" is not an address`},
		{[]string{"ss", "x", "dst", "192.0.2.0/33"}, `filter: "192.0.2.0/33" is not an address`},
		{[]string{"ss", "x", "(", "sport", ":80"}, "filter: a parenthesis is not closed"},
		{[]string{"ss", "x", "sport", ":80", ")"}, `filter: unexpected ")"`},
		{[]string{"ss", "x", "sport", ":80", "or"}, "filter: a condition is missing at the end"},
		{[]string{"ss", "x", "port", "80"}, `filter: "port" is not a condition`},
		{[]string{"ss", "x", strings.Repeat("(", 1000)}, "filter: too many parentheses"},
		{[]string{"ss", "-K", "x"}, "-K needs a filter"},
		{[]string{"ss", "-K", "-u", "x", "state", "all"}, "-K and -u"},
		{[]string{"ss", "-s", "-K", "x", "state", "all"}, "-s and -K"},
		{[]string{"ss", "-s", "x", "sport", ":80"}, "-s counts all sockets: it cannot be combined with"},
		{[]string{"ss", "-s4", "x"}, "-s counts all sockets"},
		{[]string{"ss", "-sut", "x"}, "-s counts all sockets"},
		{[]string{"ss", "ftp://127.0.0.1/"}, `the scheme "ftp" is neither http nor https`},
		{[]string{"ss", "http:///x"}, "the host is missing"},
		{[]string{"top"}, "one target is needed"},
		{[]string{"top", "-d", "0.4", "x"}, "-d is not from 0.5 to 60"},
		{[]string{"top", "-sort", "x", "x"}, "-sort x: the keys are rate, "},
		{[]string{"top", "-n", "-1", "x"}, "-n is negative"},
		{[]string{"top", "-limit", "0", "x"}, "-limit is not from 1 to 1000"},
		{[]string{"get"}, "one URL is needed"},
		{[]string{"get", "-wire", "http://[x"}, "missing ']' in host"},
		{[]string{"iperf"}, "either -s or -c HOST is needed"},
		{[]string{"iperf", "-s", "-c", "x"}, "either -s or -c HOST is needed"},
		{[]string{"iperf", "-c", "x", "y"}, `unexpected argument "y"`},
		{[]string{"iperf", "-c", "x", "-1"}, "-1 is for -s"},
		{[]string{"iperf", "-s", "-R"}, "-R is for -c: the client decides about the test"},
		{[]string{"iperf", "-s", "-wire"}, "-s and -wire: nobody else is on a wire in memory"},
		{[]string{"iperf", "-c", "x", "-4", "-6"}, "-4 and -6: only one of them is possible"},
		{[]string{"iperf", "-s", "-6", "-no-ipv6"}, "-6 and -no-ipv6"},
		{[]string{"iperf", "-c", "x", "-R", "-bidir"}, "-R and -bidir: only one of them is possible"},
		{[]string{"iperf", "-c", "x", "-n", "1", "-t", "1"}, "-n and -t: only one of them is possible"},
		{[]string{"iperf", "-c", "x", "-n", "0"}, "-n is 0"},
		{[]string{"iperf", "-c", "x", "-n", "1Q"}, `invalid value "1Q" for flag -n: not a number as in 1500, 10M or 1.5G`},
		{[]string{"iperf", "-c", "x", "-b", "NaN"}, "flag -b: not a number"},
		{[]string{"iperf", "-c", "x", "-b", "-1"}, "flag -b: not a number"},
		{[]string{"iperf", "-c", "x", "-b", "9999999T"}, "or too large"},
		{[]string{"iperf", "-c", "x", "-P", "129"}, "-P is not from 1 to 128"},
		{[]string{"iperf", "-c", "x", "-p", "0"}, "-p is not from 1 to 65535"},
		{[]string{"iperf", "-c", "x", "-t", "NaN"}, "-t is not above 0 and up to 86400"},
		{[]string{"iperf", "-c", "x", "-i", "0.01"}, "-i is neither 0 nor from 0.1 to 86400"},
		{[]string{"iperf", "-c", "x", "-u", "-l", "15"}, "-l is not from 16 to 65507"},
		{[]string{"iperf", "-c", "x", "-l", "2M"}, "-l is more than 1M"},
		{[]string{"dump", "-wire"}, "nobody sends on a wire in memory"},
		{[]string{"dump", "-c", "-1"}, "-c is negative"},
	} {
		code, out, errs := runLine(t, c.args...)
		require.Equal(t, exitUsage, code, "%v", c.args)
		require.Empty(t, out, "%v", c.args)
		require.Contains(t, errs, c.want, "%v", c.args)
		// The message is in terms of the command, not of the package that has found the fault.
		require.NotContains(t, errs, "stack: ", "%v", c.args)
		require.NotContains(t, errs, "NIC 0", "%v", c.args)
	}
}

func TestHelpShowsFlagsAndExamples(t *testing.T) {
	for _, args := range [][]string{{"help"}, {"-h"}, {"--help"}} {
		code, out, errs := runLine(t, args...)
		require.Equal(t, exitOK, code)
		require.Empty(t, errs)
		for _, c := range commands() {
			require.Contains(t, out, c.name)
			require.Contains(t, out, c.what)
		}
	}
	for _, c := range commands() {
		for _, args := range [][]string{{c.name, "-h"}, {"help", c.name}} {
			code, out, errs := runLine(t, args...)
			require.Equal(t, exitOK, code, "%v", args)
			require.Empty(t, errs, "%v", args)
			require.Contains(t, out, "Examples:\n  usernet "+c.name, "%v", args)
			hasLink := !slices.Contains([]string{"inspect", "ss", "top", "version"}, c.name)
			require.Equal(t, hasLink, strings.Contains(out, "-tap name"), "%v", args)
		}
	}
}

func TestFailureExitsWithOneAndSaysWhy(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"serve", "-wire", missing}, "no such file or directory"},
		{[]string{"serve", "-wire", "command_test.go"}, "is not a directory"},
		{[]string{"serve", "-wire", "-pcap", filepath.Join(missing, "x")}, "no such file or directory"},
		{[]string{"serve", "-wire", "-addr", "10.0.0.1/24", "-host-addr", "10.0.1.1/24"}, "are not on one network"},
		{[]string{"ping", "-wire", "nobody.example"}, "lookup nobody.example: no such host"},
		{[]string{"traceroute", "-wire", "nobody.example"}, "lookup nobody.example: no such host"},
		{[]string{"traceroute", "-wire", "-6", "192.0.2.1"}, "192.0.2.1: no suitable address"},
		{[]string{"scan", "-wire", "nobody.example"}, "lookup nobody.example: no such host"},
		{[]string{"scan", "-wire", "-no-ipv6", "-p", "1", "2001:db8::1"}, "2001:db8::1"},
		{[]string{"nc", "-wire", "192.0.2.1", "81"}, "connect: connection refused"},
		{[]string{"nc", "-wire", "-l", "192.0.2.9", "80"}, "bind: cannot assign requested address"},
		{[]string{"ss", missing}, "no such file or directory"},
		{[]string{"top", "command_test.go"}, "command_test.go is not a Unix socket"},
		{[]string{"get", "-wire", "http://192.0.2.1:81/"}, "connect: connection refused"},
		{[]string{"get", "-wire", "http://192.0.2.1/nothing"}, "404 Not Found"},
		{[]string{"iperf", "-wire", "-c", "nobody.example"}, "lookup nobody.example: no such host"},
		{[]string{"iperf", "-wire", "-c", "192.0.2.2"}, "connect: connection refused"},
	} {
		code, _, errs := runLine(t, c.args...)
		require.Equal(t, exitFailure, code, "%v: %s", c.args, errs)
		require.Contains(t, errs, c.want, "%v", c.args)
		require.NotContains(t, errs, "no TAP device", "%v", c.args)
	}
}

func TestPingOnAWirePrintsWhatPingPrints(t *testing.T) {
	code, out, errs := runLine(t, "ping", "-wire", "-c", "3", "-i", "0", "-s", "100", "192.0.2.1")
	require.Equal(t, exitOK, code, errs)
	lines := strings.Split(out, "\n")
	require.Equal(t, "PING 192.0.2.1: 100(128) bytes of data.", lines[0])
	for i := range 3 {
		require.Regexp(t, `^108 bytes from 192\.0\.2\.1: icmp_seq=`+string(rune('1'+i))+` ttl=64 time=[0-9.]+ ms$`, lines[1+i])
	}
	require.Equal(t, "--- 192.0.2.1 ping statistics ---", lines[5])
	require.Regexp(t, `^3 packets transmitted, 3 received, 0% packet loss, time \d+ms$`, lines[6])
	require.Regexp(t, `^rtt min/avg/max/mdev = \d+\.\d{3}/\d+\.\d{3}/\d+\.\d{3}/\d+\.\d{3} ms$`, lines[7])

	code, out, _ = runLine(t, "ping", "-wire", "-c", "1", "-W", "0.05", "192.0.2.99")
	require.Equal(t, exitFailure, code, "without an answer")
	require.Contains(t, out, "1 packets transmitted, 0 received")
	require.Contains(t, out, "100% packet loss")
}

func TestCommandsSpeakIPv6OnAWire(t *testing.T) {
	code, out, errs := runLine(t, "ping", "-wire", "-c", "2", "-i", "0", "2001:db8::1")
	require.Equal(t, exitOK, code, errs)
	require.Regexp(t, `^PING 2001:db8::1: 56 data bytes\n64 bytes from 2001:db8::1: icmp_seq=1 ttl=64 time=`, out)
	require.Contains(t, out, "2 packets transmitted, 2 received, 0% packet loss")

	code, out, errs = runLine(t, "get", "-wire", "http://[2001:db8::1]/")
	require.Equal(t, exitOK, code, errs)
	require.Contains(t, out, "<html")
}

func TestPingEndsWithASummaryAtCtrlC(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var out, errs safeBuffer
	done := make(chan int)
	go func() { done <- run(ctx, []string{"ping", "-wire", "-i", "0.01", "192.0.2.1"}, terminal{&out, &errs}) }()
	require.Eventually(t, func() bool { return strings.Contains(out.String(), "icmp_seq=3") }, time.Minute, time.Millisecond)
	cancel()
	require.Equal(t, exitOK, <-done, errs.String())
	require.Contains(t, out.String(), "0% packet loss")
}

func TestReplyLinesNameEveryOutcome(t *testing.T) {
	from := netip.MustParseAddr("192.0.2.1")
	for _, c := range []struct {
		r    usernet.PingReply
		want string
	}{
		{usernet.PingReply{From: from, RTT: 1234 * time.Nanosecond, TTL: 64, Size: 56}, "64 bytes from 192.0.2.1: icmp_seq=1 ttl=64 time=0.001 ms"},
		{usernet.PingReply{Seq: 9, From: from, RTT: 12345 * time.Microsecond, TTL: 3, Size: 0, Duplicate: true}, "8 bytes from 192.0.2.1: icmp_seq=10 ttl=3 time=12.3 ms (DUP!)"},
		{usernet.PingReply{Seq: 1, From: from, RTT: 2340 * time.Millisecond}, "8 bytes from 192.0.2.1: icmp_seq=2 ttl=0 time=2340 ms"},
		{usernet.PingReply{Seq: 1, Err: os.ErrDeadlineExceeded}, "no answer yet for icmp_seq=2"},
		{usernet.PingReply{From: from, Err: syscall.EHOSTUNREACH}, "From 192.0.2.1 icmp_seq=1 no route to host"},
		{usernet.PingReply{Err: io.ErrUnexpectedEOF}, "icmp_seq=1 unexpected EOF"},
	} {
		require.Equal(t, c.want, replyLine(&c.r))
	}
}

// serve starts the serve command and returns the address that it prints.
func serve(t *testing.T, args ...string) (url string, errs *safeBuffer, end func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var out safeBuffer
	errs = new(safeBuffer)
	done := make(chan int, 1)
	go func() { done <- run(ctx, append([]string{"serve", "-wire"}, args...), terminal{&out, errs}) }()
	var line string
	require.Eventually(t, func() bool {
		var whole bool
		line, _, whole = strings.Cut(out.String(), "\n")
		return whole || len(done) > 0
	}, time.Minute, time.Millisecond)
	require.Regexp(t, `^serving on http://127\.0\.0\.1:\d+/ \(Ctrl-C ends\)$`, line, errs.String())
	return strings.Fields(line)[2], errs, func() int {
		cancel()
		return <-done
	}
}

// get fetches a page from the kernel's side of a bridge.
func get(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusOK, resp.StatusCode)
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return string(b)
}

func TestServeOnAWireIsReachableForABrowser(t *testing.T) {
	defer http.DefaultClient.CloseIdleConnections()
	trace := filepath.Join(t.TempDir(), "trace.pcapng")
	url, errs, end := serve(t, "-pcap", trace, "-v")
	page := get(t, url)
	require.Contains(t, page, "Hello from <span>192.0.2.2</span> and <span>2001:db8::2</span>")
	require.Contains(t, page, "<li>IPv4<small>")
	require.Contains(t, page, "This connection")
	require.NotContains(t, page, "http://", "the page needs nothing from elsewhere")

	var f site.Facts
	require.NoError(t, json.Unmarshal([]byte(get(t, url+".usernet/facts")), &f))
	require.Equal(t, "192.0.2.2", f.Addr)
	require.Positive(t, f.RTT)
	require.Equal(t, "This connection", f.Groups[0].Name)
	require.Contains(t, f.Groups[0].Facts, site.Fact{Name: "to", Value: "192.0.2.2:80"})
	require.Equal(t, "2001:db8::2", f.Addr6)
	require.Contains(t, f.Groups[1].Facts, site.Fact{Name: "IPv6 address", Value: "2001:db8::2"})
	// The host has probed its IPv6 addresses with Neighbor Solicitations.
	for _, name := range []string{"ICMP received, sent", "Neighbor Discovery received, sent", "ICMPv6 received, sent"} {
		i := slices.IndexFunc(f.Groups[2].Facts, func(f site.Fact) bool { return f.Name == name })
		require.NotEqual(t, -1, i, name)
		if strings.HasPrefix(name, "Neighbor") {
			require.NotContains(t, f.Groups[2].Facts[i].Value, ", 0", name)
		}
	}

	require.Equal(t, exitOK, end())
	_, err := http.Get(url)
	require.Error(t, err, "after the end")
	log := errs.String()
	for _, want := range []string{"msg=device name=pipe", "msg=address addr=192.0.2.2/24", "msg=route to=0.0.0.0/0 via=192.0.2.1", "msg=protocols", "ARP who-has 192.0.2.2", "TCP"} {
		require.Contains(t, log, want)
	}
	b, err := os.ReadFile(trace)
	require.NoError(t, err)
	require.True(t, bytes.HasPrefix(b, []byte{0x0a, 0x0d, 0x0d, 0x0a}), "a pcapng file")
}

// TestThePageNamesTheFamilyOfItsConnection gets the start page over IPv6 and over IPv4.
func TestThePageNamesTheFamilyOfItsConnection(t *testing.T) {
	for addr, want := range map[string]string{"192.0.2.1": "<li>IPv4<small>", "[2001:db8::1]": "<li>IPv6<small>"} {
		code, out, errs := runLine(t, "get", "-wire", "http://"+addr+"/")
		require.Equal(t, exitOK, code, errs)
		require.Contains(t, out, "Hello from <span>192.0.2.1</span> and <span>2001:db8::1</span>")
		require.Contains(t, out, want)
	}
}

func TestServeServesTheFilesOfADirectory(t *testing.T) {
	defer http.DefaultClient.CloseIdleConnections()
	dir := t.TempDir()
	content := strings.Repeat("0123456789abcdef", 1<<16)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a file"), []byte(content), 0o644))
	first, _, endFirst := serve(t, dir)
	second, _, endSecond := serve(t, dir)
	require.NotEqual(t, first, second, "the second takes the next free port")
	for _, url := range []string{first, second} {
		require.Equal(t, content, get(t, url+"a%20file"))
		require.Contains(t, get(t, url), "a%20file", "a list of the files")
		require.Contains(t, get(t, url+".usernet/"), "Hello from")
	}
	require.Equal(t, exitOK, endFirst())
	require.Equal(t, exitOK, endSecond())
}

func TestGetOnAWireFetchesThePage(t *testing.T) {
	code, out, errs := runLine(t, "get", "-wire", "http://192.0.2.1/")
	require.Equal(t, exitOK, code, errs)
	require.Contains(t, out, "Hello from <span>192.0.2.1</span>")

	file := filepath.Join(t.TempDir(), "page")
	code, out, errs = runLine(t, "get", "-wire", "-o", file, "http://192.0.2.1/")
	require.Equal(t, exitOK, code, errs)
	require.Empty(t, out)
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Contains(t, string(b), "Hello from")
}

func TestEchoServicesAnswer(t *testing.T) {
	var l linkFlags
	log := slog.New(slog.DiscardHandler)
	n, err := l.openWire(terminal{io.Discard, io.Discard}, log)
	require.NoError(t, err)
	defer n.Close()
	s := services{log: log}
	defer s.close()
	require.NoError(t, s.start(n.host, ports{7777}, ports{6969}))
	for _, port := range []string{"7", "7777"} {
		c, err := n.peer.Dial("tcp", "192.0.2.2:"+port)
		require.NoError(t, err)
		_, err = io.WriteString(c, "hello")
		require.NoError(t, err)
		require.NoError(t, c.(*usernet.TCPConn).CloseWrite())
		b, err := io.ReadAll(c)
		require.NoError(t, err)
		require.Equal(t, "hello", string(b))
		require.NoError(t, c.Close())
	}
	c, err := n.peer.Dial("tcp", "192.0.2.2:9")
	require.NoError(t, err)
	_, err = c.Write(make([]byte, 1<<20))
	require.NoError(t, err)
	require.NoError(t, c.(*usernet.TCPConn).CloseWrite())
	b, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Empty(t, b, "discard answers nothing")
	require.NoError(t, c.Close())
	for _, port := range []string{"7", "6969"} {
		c, err := n.peer.Dial("udp", "192.0.2.2:"+port)
		require.NoError(t, err)
		for _, size := range []int{0, 1, 1472, 9000} {
			msg := bytes.Repeat([]byte{'x'}, size)
			_, err = c.Write(msg)
			require.NoError(t, err)
			buf := make([]byte, 1<<16)
			require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Minute)))
			got, err := c.Read(buf)
			require.NoError(t, err)
			require.Equal(t, msg, buf[:got])
		}
		require.NoError(t, c.Close())
	}

	// A port in use is an error that names the port.
	err = (&services{log: log}).start(n.host, nil, nil)
	require.EqualError(t, err, "listen tcp :7: bind: address already in use")
}

// Two UDP echo servers would send a datagram to each other without end, if its source were one of them.
func TestUDPEchoDoesNotAnswerServicesOfInetd(t *testing.T) {
	var l linkFlags
	log := slog.New(slog.DiscardHandler)
	n, err := l.openWire(terminal{io.Discard, io.Discard}, log)
	require.NoError(t, err)
	defer n.Close()
	s := services{log: log}
	defer s.close()
	require.NoError(t, s.start(n.host, nil, nil))
	c, err := n.peer.ListenPacket("udp", ":0")
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Minute)))
	buf := make([]byte, 100)
	for _, port := range []string{"7", "13", "17", "19", "37"} {
		service, err := n.peer.ListenPacket("udp", ":"+port)
		require.NoError(t, err)
		to := &net.UDPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 7}
		_, err = service.WriteTo([]byte("forged"), to)
		require.NoError(t, err)
		// The server answers in order, so an answer to service would arrive before the answer to c.
		_, err = c.WriteTo([]byte("hello"), to)
		require.NoError(t, err)
		_, _, err = c.ReadFrom(buf)
		require.NoError(t, err)
		require.NoError(t, service.SetReadDeadline(time.Now().Add(time.Millisecond)))
		_, _, err = service.ReadFrom(buf)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded, port)
		require.NoError(t, service.Close())
	}
}

// pair returns both ends of a TCP connection of the kernel on 127.0.0.1.
func pair(t *testing.T) (a, b *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	dialed, err := net.Dial("tcp4", ln.Addr().String())
	require.NoError(t, err)
	accepted, err := ln.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { dialed.Close(); accepted.Close() })
	return dialed.(*net.TCPConn), accepted.(*net.TCPConn)
}

// newTestBridge returns a bridge that connects with dial, and the connection of a client to it.
func newTestBridge(t *testing.T, dial func(context.Context) (net.Conn, error)) (*bridge, net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	b := newBridge(ln, slog.New(slog.DiscardHandler), dial)
	t.Cleanup(b.Close)
	c, err := net.Dial("tcp4", ln.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return b, c
}

func TestBridgeKeepsHalfClose(t *testing.T) {
	inner, far := pair(t)
	_, near := newTestBridge(t, func(context.Context) (net.Conn, error) { return inner, nil })
	_, err := io.WriteString(near, "question")
	require.NoError(t, err)
	require.NoError(t, near.(*net.TCPConn).CloseWrite())
	got, err := io.ReadAll(far)
	require.NoError(t, err)
	require.Equal(t, "question", string(got))
	_, err = io.WriteString(far, "answer")
	require.NoError(t, err, "the other direction is still open")
	require.NoError(t, far.Close())
	got, err = io.ReadAll(near)
	require.NoError(t, err)
	require.Equal(t, "answer", string(got))
}

// failsOnce is a listener whose first Accept fails, as in a process that has too many open files.
type failsOnce struct {
	net.Listener
	failed atomic.Bool
}

func (l *failsOnce) Accept() (net.Conn, error) {
	if !l.failed.Swap(true) {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.Addr(), Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	return l.Listener.Accept()
}

func TestTooManyOpenFilesEndNoService(t *testing.T) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	log := slog.New(slog.DiscardHandler)
	go acceptLoop(&failsOnce{Listener: ln}, log, echo)
	outer, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	b := newBridge(&failsOnce{Listener: outer}, log, func(context.Context) (net.Conn, error) { return net.Dial("tcp4", ln.Addr().String()) })
	defer b.Close()
	c, err := net.Dial("tcp4", outer.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(time.Minute)))
	_, err = io.WriteString(c, "hello")
	require.NoError(t, err)
	got := make([]byte, 5)
	_, err = io.ReadFull(c, got)
	require.NoError(t, err)
	require.Equal(t, "hello", string(got))
}

func TestBridgePassesAResetOn(t *testing.T) {
	inner, far := pair(t)
	_, near := newTestBridge(t, func(context.Context) (net.Conn, error) { return inner, nil })
	_, err := io.WriteString(far, "half of the ans")
	require.NoError(t, err)
	buf := make([]byte, 15)
	_, err = io.ReadFull(near, buf)
	require.NoError(t, err)
	require.NoError(t, far.SetLinger(0))
	require.NoError(t, far.Close())
	_, err = io.ReadAll(near)
	require.Error(t, err, "a reset is not an end")
}

func TestBridgeThatCannotDialResets(t *testing.T) {
	connected := make(chan struct{}) // otherwise connect may report an early reset
	_, near := newTestBridge(t, func(context.Context) (net.Conn, error) {
		<-connected
		return nil, io.ErrUnexpectedEOF
	})
	close(connected)
	_, err := io.ReadAll(near)
	require.Error(t, err, "a reset is not an end")
}

func TestBridgeEndsWithItsConnectionsAndDials(t *testing.T) {
	inner, _ := pair(t)
	dialing := make(chan bool, 2)
	first := true
	b, near := newTestBridge(t, func(ctx context.Context) (net.Conn, error) {
		defer func() { first = false }()
		dialing <- true
		if first {
			return inner, nil
		}
		<-ctx.Done()
		return nil, ctx.Err()
	})
	<-dialing
	second, err := net.Dial("tcp4", b.ln.Addr().String())
	require.NoError(t, err)
	defer second.Close()
	<-dialing
	b.Close()
	_, err = near.Read(make([]byte, 1))
	require.Error(t, err)
	_, err = second.Read(make([]byte, 1))
	require.Error(t, err)
}

func TestTraceShowsFramesOfBothDirections(t *testing.T) {
	a, b := nic.Pipe(nic.PipeConfig{})
	var shown safeBuffer
	dev := trace(a, &tracer{w: &shown})
	got := 0
	dev.Attach(func(batch []nic.Frame) { got += len(batch) })
	b.Attach(func(batch []nic.Frame) {})
	// An ARP request.
	frame := []byte("\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02\x08\x06" +
		"\x00\x01\x08\x00\x06\x04\x00\x01\x02\x00\x00\x00\x00\x02\xc0\x00\x02\x01\x00\x00\x00\x00\x00\x00\xc0\x00\x02\x02")
	_, err := dev.Send([]nic.Frame{{Head: frame[:14], Body: frame[14:]}})
	require.NoError(t, err)
	_, err = b.Send([]nic.Frame{{Head: frame}})
	require.NoError(t, err)
	require.Equal(t, 1, got)
	lines := strings.Split(strings.TrimSpace(shown.String()), "\n")
	require.Len(t, lines, 2)
	const what = " 02:00:00:00:00:02 > 02:00:00:00:00:01 ARP who-has 192.0.2.2 tell 192.0.2.1"
	require.Regexp(t, `^\d\d:\d\d:\d\d\.\d{6} pipe-a out`+what+"$", lines[0])
	require.Regexp(t, `^\d\d:\d\d:\d\d\.\d{6} pipe-a in `+what+"$", lines[1])
}

// TestASmallMTULeavesIPv4Only makes the hosts of the commands on a link whose MTU is too small for IPv6.
func TestASmallMTULeavesIPv4Only(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	ours, other := prefixes{four: prefix("192.0.2.2/24")}, prefixes{four: prefix("192.0.2.1/24")}
	for mtu, auto := range map[int]bool{1000: false, 1279: false, 1280: true} {
		a, b := nic.Pipe(nic.PipeConfig{MTU: mtu})
		defer b.Close()
		h, err := new(linkFlags).newHost(a, ours, other, nil, true, log)
		require.NoError(t, err, mtu)
		defer h.Close()
		require.Equal(t, auto, h.Interfaces()[1].Auto != nil, mtu)
		require.Equal(t, []netip.Prefix{ours.four}, slices.DeleteFunc(h.Addrs(), func(p netip.Prefix) bool { return p.Addr().Is6() || p.Addr().IsLoopback() }))
	}
}

// With -auto, a command starts when the host has the routes of its lease, and not only the address.
func TestAutoWaitsForTheWholeLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := nic.Pipe(nic.PipeConfig{})
		far.Attach(func([]nic.Frame) {})
		h, err := usernet.New(usernet.Config{NIC: near, Addrs: []netip.Prefix{netip.MustParsePrefix("2001:db8::2/64")}, DHCP: true})
		require.NoError(t, err)
		defer h.Close()
		n := newNetwork(plans{}, "link", slog.New(slog.DiscardHandler))
		n.host = h
		// The client has added the address, and not yet its routes.
		require.NoError(t, h.AddAddr("", netip.MustParsePrefix("192.0.2.2/24"), usernet.AddrOptions{}))
		start := time.Now()
		require.NoError(t, n.awaitAddrs(t.Context(), &linkFlags{auto: true}))
		require.GreaterOrEqual(t, time.Since(start), settingsTime)
		require.Equal(t, "192.0.2.2", n.addr.String())
	})
}

func TestIPv6AndItsRoutersCanBeTurnedOff(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	ours, other := prefixes{four: prefix("192.0.2.2/24")}, prefixes{four: prefix("192.0.2.1/24")}
	for _, c := range []struct {
		flags     linkFlags
		six, auto bool
	}{{linkFlags{}, true, true}, {linkFlags{noRA: true}, true, false}, {linkFlags{noIPv6: true}, false, false}} {
		a, b := nic.Pipe(nic.PipeConfig{})
		defer b.Close()
		h, err := c.flags.newHost(a, ours, other, nil, true, log)
		require.NoError(t, err)
		defer h.Close()
		require.Equal(t, c.auto, h.Interfaces()[1].Auto != nil, c)
		require.Equal(t, c.six, slices.ContainsFunc(h.Addrs(), func(p netip.Prefix) bool { return p.Addr().Is6() }), c)
	}

	// The plan ignores the IPv6 addresses that the kernel's side of a device has.
	l := linkFlags{noIPv6: true}
	p, err := l.plan(kernel("tap0", "192.0.2.1/24", "tap0", "2001:db8::1/64"), nil, true)
	require.NoError(t, err)
	require.Equal(t, plan{}, p.six)
	require.Equal(t, "192.0.2.2/24", p.four.addr.String())

	code, out, errs := runLine(t, "ping", "-wire", "-no-ipv6", "-c", "1", "192.0.2.1")
	require.Equal(t, exitOK, code, errs)
	require.Contains(t, out, "1 received")
	code, _, errs = runLine(t, "ping", "-wire", "-no-ipv6", "-c", "1", "-W", "0.1", "2001:db8::1")
	require.Equal(t, exitFailure, code)
	require.NotEmpty(t, errs)
}

func TestPortsThatAreTakenAreSkipped(t *testing.T) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	port := ln.Addr().(*net.TCPAddr).Port
	next, err := listenLoopback("127.0.0.1", port)
	require.NoError(t, err)
	defer next.Close()
	require.Greater(t, next.Addr().(*net.TCPAddr).Port, port)
}
