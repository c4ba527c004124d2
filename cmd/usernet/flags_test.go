package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
)

func TestFlagsMayFollowArguments(t *testing.T) {
	for _, c := range []struct{ line, rest, o string }{
		{"-o x a b", "a b", "x"},
		{"a -o x b", "a b", "x"},
		{"a b -o x", "a b", "x"},
		{"a -o=x -v b", "a b", "x"},
		{"-o x -- a -v", "a -v", "x"},
		{"a -- -o x", "a -o x", ""},
		{"a -", "a -", ""},
		{"-o -- a -v", "a", "--"},
		{"a -o -- b -v -- -v", "a b -v", "--"},
		{"-v -- -o x", "-o x", ""},
		{"", "", ""},
	} {
		fs := flag.NewFlagSet("test", flag.ContinueOnError)
		o := fs.String("o", "", "")
		fs.Bool("v", false, "")
		rest, err := parseArgs(fs, strings.Fields(c.line))
		require.NoError(t, err, c.line)
		require.Equal(t, c.rest, strings.Join(rest, " "), c.line)
		require.Equal(t, c.o, *o, c.line)
	}
	code, out, errs := runLine(t, "ping", "192.0.2.1", "-wire", "-c", "1")
	require.Equal(t, exitOK, code, errs)
	require.Contains(t, out, "1 received")
	_, _, errs = runLine(t, "ping", "192.0.2.1", "-wire", "-colour")
	require.Contains(t, errs, "flag provided but not defined: -colour")
}

func TestGetTakesHTTPWhereThereIsNoScheme(t *testing.T) {
	for s, want := range map[string]string{
		"192.0.2.1":                 "http://192.0.2.1",
		"192.0.2.1:8000/x?y":        "http://192.0.2.1:8000/x?y",
		"www.example.com":           "http://www.example.com",
		"localhost:8080":            "http://localhost:8080",
		"[2001:db8::1]:80":          "http://[2001:db8::1]:80",
		"https://www.example.com/x": "https://www.example.com/x",
		"192.0.2.1/?u=http://b":     "http://192.0.2.1/?u=http://b",
		"http:///x":                 "",
		"file:///etc/passwd":        "",
		"192.0.2.1:x":               "",
	} {
		got, err := parseURL(s)
		if want == "" {
			require.Error(t, err, s)
			continue
		}
		require.NoError(t, err, s)
		require.Equal(t, want, got)
	}
	code, out, errs := runLine(t, "get", "192.0.2.1", "-wire")
	require.Equal(t, exitOK, code, errs)
	require.Contains(t, out, "Hello from")
}

func TestVersionTellsWhatItWasBuiltOf(t *testing.T) {
	code, out, errs := runLine(t, "version")
	require.Equal(t, exitOK, code, errs)
	require.Regexp(t, `^usernet .*go\d.* `+runtime.GOOS+"/"+runtime.GOARCH+"\n$", out)
	for _, name := range []string{"-version", "--version"} {
		_, same, _ := runLine(t, name)
		require.Equal(t, out, same)
	}
	where := " " + runtime.GOOS + "/" + runtime.GOARCH
	info := &debug.BuildInfo{GoVersion: "go1.99"}
	info.Main.Version = "v1.2.3"
	require.Equal(t, "usernet v1.2.3 go1.99"+where, version(info))
	info.Main.Version = "(devel)"
	info.Settings = []debug.BuildSetting{{Key: "vcs.revision", Value: "0123456789abcdef"}, {Key: "vcs.modified", Value: "true"}}
	require.Equal(t, "usernet (devel) commit 0123456789ab with changes go1.99"+where, version(info))
	require.Equal(t, "usernet (version unknown) "+runtime.Version()+where, version(nil))
}

func TestAdviceIsWhatThisUserHasToType(t *testing.T) {
	denied := &tapError{name: "usernet0", err: &nic.TAPPermissionError{Name: "usernet0", Err: syscall.EPERM}}
	busy := &tapError{name: "usernet0", err: syscall.EBUSY}
	missing := &tapError{name: "usernet0", err: os.ErrNotExist}
	const container = "to get one in a container: start it with --cap-add NET_ADMIN --device /dev/net/tun"
	noDevice := func(string) bool { return false }
	for _, c := range []struct {
		name string
		err  *tapError
		at   environment
		want string
	}{
		{"a user", denied, environment{user: "ann"}, "to get one: sudo sh -c 'ip tuntap add dev usernet0 mode tap user ann && " +
			"ip addr add 192.0.2.1/24 dev usernet0 && ip link set usernet0 up'"},
		{"a user in a container", denied, environment{user: "ann", container: true}, "to get one: sudo sh -c 'ip tuntap add dev usernet0 mode tap user ann && " +
			"ip addr add 192.0.2.1/24 dev usernet0 && ip link set usernet0 up'\n" + container},
		{"root of a container that does not look like one", denied, environment{root: true}, container},
		{"without the driver", missing, environment{}, "to get one: sudo modprobe tun"},
		{"root without the driver", missing, environment{root: true}, "to get one: modprobe tun"},
		{"in a container without the device", missing, environment{root: true, container: true}, container},
		{"usernet0 is in use", busy, environment{exists: noDevice}, "another program uses usernet0: -tap usernet1 makes another device"},
		{"usernet0 is in use and usernet1 exists", busy, environment{exists: func(name string) bool { return name == "usernet1" }},
			"another program uses usernet0: -tap usernet2 makes another device"},
		{"a device without a number", &tapError{name: "tap", err: syscall.EBUSY}, environment{exists: noDevice}, "another program uses tap: -tap tap1 makes another device"},
		{"a user who wants a TUN", &tapError{name: "tun0", err: &nic.TAPPermissionError{Medium: nic.IP, Name: "tun0", Err: syscall.EPERM}, tun: true}, environment{user: "ann"},
			"to get one: sudo sh -c 'ip tuntap add dev tun0 mode tun user ann && ip addr add 192.0.2.1/24 dev tun0 && ip link set tun0 up'"},
		{"a TUN in use", &tapError{name: "tun0", err: syscall.EBUSY, tun: true}, environment{exists: noDevice}, "another program uses tun0: -tun tun1 makes another device"},
	} {
		c.at.system = "linux"
		lines := c.at.noTAP(c.err)
		require.True(t, strings.HasPrefix(lines[0], "no "+c.err.kind()+" device: "), "%s: %s", c.name, lines[0])
		require.Equal(t, c.want, strings.Join(lines[1:], "\n"), c.name)
		// The commands have the name of the user: $USER would be root in a command that sudo runs.
		require.NotContains(t, strings.Join(lines, ""), "$", c.name)
	}
	macOS := environment{system: "darwin"}
	require.Contains(t, macOS.noTAP(denied)[1], "install")
	require.Len(t, (&environment{system: "linux"}).noTAP(&tapError{name: "usernet0", err: errors.New("nic: odd")}), 1)

	user, root := environment{}, environment{root: true}
	// The last arguments of notReady say whether the TAP has an address, and whether it is up.
	require.Empty(t, user.notReady("tap0", "192.0.2.1/24", true, true))
	require.Equal(t, "tap0 is down, so no packets pass; run: sudo ip link set tap0 up", user.notReady("tap0", "192.0.2.1/24", true, false))
	require.Equal(t, "tap0 has no address, so no packets pass; run: ip addr add 192.0.2.1/24 dev tap0", root.notReady("tap0", "192.0.2.1/24", false, true))
	require.Equal(t, "tap0 has no address and is down, so no packets pass; run: sudo sh -c 'ip addr add 192.0.2.1/24 dev tap0 && ip link set tap0 up'",
		user.notReady("tap0", "192.0.2.1/24", false, false))
	require.NotContains(t, userName(), "$")
	require.NotEmpty(t, userName())
}

// freePort returns a port of 127.0.0.1 that is free now.
func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	return strconv.Itoa(ln.Addr().(*net.TCPAddr).Port)
}

// On a wire, the address of -listen is the kernel's side of the bridge, which is always 127.0.0.1.
func TestServeOnAWireUsesThePortOfListen(t *testing.T) {
	defer http.DefaultClient.CloseIdleConnections()
	for _, host := range []string{"", "127.0.0.1", "localhost", "192.0.2.2", "0.0.0.0", "[::]"} {
		port := freePort(t)
		url, _, end := serve(t, "-listen", host+":"+port)
		require.Equal(t, "http://127.0.0.1:"+port+"/", url, host)
		require.Contains(t, get(t, url), "Hello from")
		require.Equal(t, exitOK, end())
	}
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	code, _, errs := runLine(t, "serve", "-wire", "-listen", ln.Addr().String())
	require.Equal(t, exitFailure, code)
	require.Contains(t, errs, "address already in use", "serve does not choose another port if -listen names one")
}

func TestTheMACIsTheOneThatWasAskedFor(t *testing.T) {
	_, errs, end := serve(t, "-mac", "02-00-5e-10-00-07")
	require.Equal(t, exitOK, end())
	require.Contains(t, errs.String(), "mac=02:00:5e:10:00:07")
}

func TestAFailedCommandLeavesItsOutputFileAlone(t *testing.T) {
	dir := t.TempDir()
	code, _, errs := runLine(t, "get", "-wire", "-o", dir, "192.0.2.1")
	require.Equal(t, exitFailure, code)
	require.Contains(t, errs, "is a directory")

	// If the command fails, an existing file keeps its contents, and a new file does not stay.
	old, made := filepath.Join(dir, "old"), filepath.Join(dir, "made")
	require.NoError(t, os.WriteFile(old, []byte(strings.Repeat("before, and longer than any page is\n", 100_000)), 0o644))
	for _, file := range []string{old, made} {
		code, _, _ = runLine(t, "get", "-wire", "-o", file, "192.0.2.1/nothing")
		require.Equal(t, exitFailure, code)
		code, _, _ = runLine(t, "serve", "-wire", "-pcap", file, "-addr", "10.0.0.1/24", "-host-addr", "10.0.1.1/24")
		require.Equal(t, exitFailure, code)
	}
	b, err := os.ReadFile(old)
	require.NoError(t, err)
	require.Contains(t, string(b), "before")
	require.NoFileExists(t, made)

	code, _, errs = runLine(t, "get", "-wire", "-o", old, "192.0.2.1")
	require.Equal(t, exitOK, code, errs)
	b, err = os.ReadFile(old)
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(string(b), "<!"), "it is written from its beginning")
	require.True(t, strings.HasSuffix(strings.TrimSpace(string(b)), "</html>"), "and is not longer than it has to be")
	code, _, errs = runLine(t, "get", "-wire", "-o", os.DevNull, "192.0.2.1")
	require.Equal(t, exitOK, code, errs)
}

// A stuckDevice is a link that can get stuck. While stuck is set, Send and Close block until the channel release
// is closed.
type stuckDevice struct {
	nic.Device
	stuck   atomic.Bool
	release chan struct{}
}

func (d *stuckDevice) Send(batch []nic.Frame) (int, error) {
	if d.stuck.Load() {
		<-d.release
	}
	return d.Device.Send(batch)
}

func (d *stuckDevice) Close() error {
	if d.stuck.Load() {
		<-d.release
	}
	return d.Device.Close()
}

// Whatever the clients do, and even if the link is stuck, a server ends within a second of Ctrl-C,
// in virtual time.
func TestCtrlCEndsAServerWithinASecond(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "big"), make([]byte, 64<<20), 0o644))
	for _, stuck := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			ea, eb := nic.Pipe(nic.PipeConfig{})
			dev := &stuckDevice{Device: ea, release: make(chan struct{})}
			host := func(dev nic.Device, addr string) *usernet.Host {
				h, err := usernet.New(usernet.Config{NIC: dev, Addrs: []netip.Prefix{netip.MustParsePrefix(addr + "/24")}})
				require.NoError(t, err)
				return h
			}
			client := host(eb, "192.0.2.2")
			defer client.Close()
			n := &network{
				host: host(dev, "192.0.2.1"), addr: netip.MustParseAddr("192.0.2.1"), link: "a test's",
				down: make(chan error, 1), log: slog.New(slog.DiscardHandler),
			}
			listen, err := parseListen(":80", true)
			require.NoError(t, err)
			var out safeBuffer
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() {
				err := n.serve(ctx, terminal{&out, io.Discard}, &inspectFlags{on: true}, listen, dir)
				n.Close()
				done <- err
			}()
			synctest.Wait()
			require.Contains(t, out.String(), "serving on")
			for _, c := range []struct {
				request string
				read    int // bytes of the answer that the client reads
			}{
				{"", 0},                                   // no request yet
				{"GET / HTTP/1.1\r\nHost: a", 0},          // half of a request
				{"GET /big HTTP/1.0\r\n\r\n", 0},          // an answer that the client does not read
				{"GET /big HTTP/1.0\r\n\r\n", 99},         // an answer of which the client reads the beginning
				{"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 99}, // a connection that is kept after the answer
			} {
				conn, err := client.Dial("tcp", "192.0.2.1:80")
				require.NoError(t, err)
				defer conn.Close()
				_, err = io.WriteString(conn, c.request)
				require.NoError(t, err)
				_, err = io.ReadFull(conn, make([]byte, c.read))
				require.NoError(t, err)
			}
			synctest.Wait()
			dev.stuck.Store(stuck)
			began := time.Now()
			cancel()
			require.NoError(t, <-done)
			require.LessOrEqual(t, time.Since(began), time.Second)
			close(dev.release)
		})
	}
}

// The other commands also end at once, whatever they wait for.
func TestCtrlCEndsACommandAtOnce(t *testing.T) {
	for _, line := range [][]string{
		{"echo", "-wire"},
		{"ping", "-wire", "192.0.2.99", "-W", "60"},
		{"get", "-wire", "192.0.2.99"},
		{"iperf", "-wire", "-c", "192.0.2.99"},
		{"iperf", "-wire", "-c", "192.0.2.1", "-u", "-b", "1K", "-t", "3600"},
		{"get", "-wire", "nobody.example", "-dns", "192.0.2.99"},
		{"ping", "-wire", "nobody.example", "-dns", "192.0.2.99"},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan int, 1)
			go func() { done <- run(ctx, line, terminal{io.Discard, io.Discard}) }()
			synctest.Wait()
			require.Empty(t, done, "%s waits", line)
			began := time.Now()
			cancel()
			<-done
			require.Zero(t, time.Since(began), "%s", line)
		})
	}
}
