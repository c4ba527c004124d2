//go:build linux

package taptest

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// sumOf returns the SHA-256 of r's data, in hexadecimal.
func sumOf(t *testing.T, r io.Reader) string {
	t.Helper()
	h := sha256.New()
	_, err := io.CopyBuffer(h, struct{ io.Reader }{r}, make([]byte, 256<<10))
	require.NoError(t, err)
	return hex.EncodeToString(h.Sum(nil))
}

// built has the path of the command, which all tests share. TestMain removes its directory.
var built struct {
	sync.Once
	dir, exe string
	err      error
}

// build builds the command on its first call, and returns its path. Every user may run the command.
func build(t *testing.T) string {
	t.Helper()
	built.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "usernet"); built.err != nil {
			return
		}
		if built.err = os.Chmod(built.dir, 0o755); built.err != nil {
			return
		}
		built.exe = filepath.Join(built.dir, "usernet")
		out, err := exec.Command("go", "build", "-o", built.exe, "github.com/usernet/usernet/cmd/usernet").CombinedOutput()
		if err != nil {
			built.err = fmt.Errorf("%w: %s", err, out)
		}
	})
	require.NoError(t, built.err)
	return built.exe
}

// A program is a usernet command that runs in a namespace.
type program struct {
	t    *testing.T
	cmd  *exec.Cmd
	out  *bufio.Reader
	errs bytes.Buffer
}

// start starts a program in the namespace and reads its first line.
func (ns *namespace) start(t *testing.T, args ...string) (p *program, line string) {
	t.Helper()
	p = &program{t: t, cmd: ns.command(t.Context(), args...)}
	stdout, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	p.cmd.Stderr = &p.errs
	require.NoError(t, p.cmd.Start())
	t.Cleanup(func() { p.cmd.Process.Kill() })
	p.out = bufio.NewReader(stdout)
	line, err = p.out.ReadString('\n')
	if err != nil {
		p.cmd.Wait()
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, p.errs.String())
	}
	return p, strings.TrimSpace(line)
}

// interrupt sends SIGINT, as Ctrl-C does, waits until the program ends, and returns its standard error.
func (p *program) interrupt() (errs string) {
	p.t.Helper()
	require.NoError(p.t, p.cmd.Process.Signal(syscall.SIGINT))
	_, err := io.Copy(io.Discard, p.out)
	require.NoError(p.t, err)
	require.NoError(p.t, p.cmd.Wait(), "%s", p.errs.String())
	return p.errs.String()
}

func TestServeCommandServesOverATAPThatItMakes(t *testing.T) {
	t.Parallel()
	need(t, "curl")
	exe := build(t)
	ns := newNamespace(t)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), []byte("a file\n"), 0o644))
	trace := filepath.Join(dir, "trace.pcapng")
	p, line := ns.start(t, exe, "serve", "-v", "-pcap", trace, dir)
	require.Equal(t, "serving on http://192.0.2.2/ and http://[2001:db8::2]/ (Ctrl-C ends)", line)
	require.Equal(t, "a file\n", ns.run(t, "curl", "-sS", "--fail", "http://192.0.2.2/file"))
	// The connection works at once, because the kernel's own address is not tentative. From a tentative
	// address the kernel would not connect; it would use ::1.
	require.Equal(t, "a file\n", ns.run(t, "curl", "-sS", "--fail", "--connect-timeout", "5", "-g", "http://[2001:db8::2]/file"))
	require.Contains(t, ns.run(t, "curl", "-sS", "--fail", "http://192.0.2.2/.usernet/"), "Hello from <span>192.0.2.2</span>")
	require.Contains(t, ns.run(t, "curl", "-sS", "--fail", "http://192.0.2.2/.usernet/facts"), `"This connection"`)
	errs := p.interrupt()
	require.Contains(t, errs, "msg=device name=usernet0")
	require.Contains(t, errs, "msg=address addr=192.0.2.2/24")
	require.Contains(t, errs, "msg=address addr=2001:db8::2/64")
	require.Contains(t, errs, "who-has 192.0.2.2", "-v shows frames")
	require.NotContains(t, ns.run(t, "ip", "-o", "link"), "usernet0", "the device is gone after the end")
	st, err := os.Stat(trace)
	require.NoError(t, err)
	require.Positive(t, st.Size())
}

// asNobody returns the beginning of a command that runs as an ordinary user who may open /dev/net/tun, as
// on most systems. The script makes such a file in dir. It mounts the file at /dev/net/tun in the mount
// namespace of "ip netns exec", so the host does not see the file there.
func (ns *namespace) asNobody(dir string) []string {
	return []string{"bash", "-euc", fmt.Sprintf(`
		mknod %[1]s/tun.$$ c 10 200
		chmod 666 %[1]s/tun.$$
		mount --bind %[1]s/tun.$$ /dev/net/tun
		exec setpriv --reuid=nobody --regid=nogroup --clear-groups --bounding-set=-all "$@"`, dir), "nobody"}
}

func TestServeCommandUsesADeviceOfTheUsersWithoutRoot(t *testing.T) {
	t.Parallel()
	need(t, "curl", "setpriv", "mount")
	exe := build(t)
	ns := newNamespace(t)
	ns.shell(t, `
		ip tuntap add dev tap7 mode tap user nobody
		ip addr add 198.51.100.1/24 dev tap7
		ip link set tap7 up`)
	dir, err := os.MkdirTemp("", "usernet")
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	nobody := ns.asNobody(dir)
	p, line := ns.start(t, append(nobody, exe, "serve", "-tap", "tap7")...)
	require.Equal(t, "serving on http://198.51.100.2/ (Ctrl-C ends)", line)
	require.Contains(t, ns.run(t, "curl", "-sS", "--fail", "http://198.51.100.2/"), "Hello from")
	p.interrupt()
	out := ns.run(t, "ip", "addr", "show", "dev", "tap7")
	require.Contains(t, out, "198.51.100.1/24", "the user's device has stayed, and its address")

	require.NotContains(t, p.errs.String(), "WARN")

	// The command also uses a device that is not up, and says so.
	ns.run(t, "ip", "link", "set", "tap7", "down")
	p, _ = ns.start(t, append(nobody, exe, "serve", "-tap", "tap7")...)
	ns.run(t, "ip", "link", "set", "tap7", "up")
	require.Contains(t, ns.run(t, "curl", "-sS", "--fail", "http://198.51.100.2/"), "Hello from")
	require.Contains(t, p.interrupt(), "tap7 is down, so no packets pass; run: sudo ip link set tap7 up\n")

	// A new device has no address and is not up.
	ns.shell(t, "ip addr flush dev tap7; ip link set tap7 down")
	p, line = ns.start(t, append(nobody, exe, "serve", "-tap", "tap7")...)
	require.Equal(t, "serving on http://192.0.2.2/ (Ctrl-C ends)", line)
	errs := p.interrupt()
	const advice = "tap7 has no address and is down, so no packets pass; run: "
	require.Contains(t, errs, advice+"sudo sh -c 'ip addr add 192.0.2.1/24 dev tap7 && ip link set tap7 up'\n")
	ns.shell(t, "ip addr add 192.0.2.1/24 dev tap7 && ip link set tap7 up")
	_, errs, err = ns.try(t, append(nobody, exe, "ping", "-tap", "tap7", "-c", "5", "-W", "30", "192.0.2.1")...)
	require.NoError(t, err, "the advised commands are enough: %s", errs)

	// If the user may not open the device, serve uses a wire in memory, and prints two lines of advice.
	p, line = ns.start(t, append(nobody, exe, "serve", "-tap", "other0")...)
	require.Equal(t, "serving on http://127.0.0.1:8080/ (Ctrl-C ends)", line)
	require.Contains(t, ns.run(t, "curl", "-sS", "--fail", "http://127.0.0.1:8080/"), "Hello from")
	errs = p.interrupt()
	require.Contains(t, errs, "no TAP device: operation not permitted\n")
	require.Contains(t, errs, "to get one: sudo sh -c 'ip tuntap add dev other0 mode tap user nobody && ")

	// The other commands need a device.
	_, errs, err = ns.try(t, append(nobody, exe, "echo", "-tap", "other0")...)
	require.Error(t, err)
	require.Contains(t, errs, "ip tuntap add dev other0 mode tap user nobody && ")
}

// The addresses and the port are those of smoltcp's example server.
func TestEchoCommandServesAtTheAddressOfSmoltcp(t *testing.T) {
	t.Parallel()
	need(t, "nc", "ping")
	exe := build(t)
	ns := newNamespace(t)
	_, line := ns.start(t, exe, "echo", "-addr", "192.168.69.1/24", "-host-addr", "192.168.69.100/24", "-udp-echo", "6969", "-no-ipv6")
	require.Equal(t, "echo on 192.168.69.1 (Ctrl-C ends)", line)
	require.Equal(t, "hello\n", ns.shell(t, "echo hello | nc -u -W 1 -w 30 192.168.69.1 6969"))
	require.Contains(t, ns.run(t, "ping", "-c", "3", "-i", "0.01", "-W", "30", "192.168.69.1"), " 3 received")
}

func TestEchoCommandAnswersAndRefusesATakenDevice(t *testing.T) {
	t.Parallel()
	need(t, "nc", "sha256sum", "ping")
	exe := build(t)
	ns := newNamespace(t)
	p, line := ns.start(t, exe, "echo", "-tcp-echo", "7777", "-udp-echo", "6969")
	require.Equal(t, "echo on 192.0.2.2 and 2001:db8::2 (Ctrl-C ends)", line)
	for _, port := range []string{"7", "7777"} {
		require.Equal(t, contentSum(t, 100_000)+"  -\n",
			ns.shell(t, fmt.Sprintf("%s 100000 | nc -N 192.0.2.2 %s | sha256sum", self(t, "generate"), port)))
	}
	for _, port := range []string{"7", "6969"} {
		require.Equal(t, "x\n", ns.shell(t, "echo x | nc -u -W 1 -w 30 192.0.2.2 "+port))
	}
	require.Empty(t, ns.shell(t, fmt.Sprintf("%s 100000 | nc -N 192.0.2.2 9", self(t, "generate"))), "discard answers nothing")

	// The services are reachable over IPv6 too.
	require.Equal(t, contentSum(t, 100_000)+"  -\n",
		ns.shell(t, fmt.Sprintf("%s 100000 | nc -6 -N 2001:db8::2 7777 | sha256sum", self(t, "generate"))))
	require.Equal(t, "x\n", ns.shell(t, "echo x | nc -6 -u -W 1 -w 30 2001:db8::2 6969"))
	require.Empty(t, ns.shell(t, fmt.Sprintf("%s 100000 | nc -6 -N 2001:db8::2 9", self(t, "generate"))), "discard answers nothing")
	require.Contains(t, ns.run(t, "ping", "-6", "-c", "3", "-i", "0.01", "-W", "30", "2001:db8::2"), " 3 received")

	_, errs, err := ns.try(t, exe, "echo")
	require.Error(t, err)
	require.Contains(t, errs, "device or resource busy")
	require.Contains(t, errs, "another program uses usernet0: -tap usernet1 makes another device")
	_, errs, err = ns.try(t, exe, "echo", "-tap", "other0", "-addr", "192.0.2.9/24")
	require.Error(t, err)
	require.Contains(t, errs, "clashes with 192.0.2.1/24 of usernet0")

	// A program reports that its device was deleted.
	ns.run(t, "ip", "link", "del", "usernet0")
	_, err = io.Copy(io.Discard, p.out)
	require.NoError(t, err)
	require.Error(t, p.cmd.Wait())
	require.Contains(t, p.errs.String(), "the link has failed")
}

// A command that waits for the other side ends when its device is deleted.
func TestCommandsEndWithTheirLink(t *testing.T) {
	t.Parallel()
	need(t, "iperf3")
	exe := build(t)
	for name, args := range map[string][]string{
		"get":          {"get", "http://192.0.2.1:8000/"},
		"iperf client": {"iperf", "-c", "192.0.2.1", "-p", "8000"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ns := newNamespace(t)
			var ln net.Listener
			require.NoError(t, ns.inside(func() (err error) {
				ln, err = net.Listen("tcp", ":8000")
				return err
			}))
			defer ln.Close()
			accepted := make(chan net.Conn, 1)
			go func() {
				if c, err := ln.Accept(); err == nil {
					if args[0] == "get" {
						// net/http fails if an answer comes before the request.
						http.ReadRequest(bufio.NewReader(c))
						io.WriteString(c, "HTTP/1.0 200 OK\r\nContent-Length: 100000\r\n\r\nhalf")
					}
					accepted <- c
				}
			}()
			var errs bytes.Buffer
			cmd := ns.command(t.Context(), append([]string{exe}, args...)...)
			cmd.Stderr = &errs
			require.NoError(t, cmd.Start())
			c := <-accepted
			defer c.Close()
			ns.run(t, "ip", "link", "del", "usernet0")
			require.Error(t, cmd.Wait())
			require.Regexp(t, "the link has failed: |network is down", errs.String())
		})
	}
	t.Run("iperf server", func(t *testing.T) {
		t.Parallel()
		ns := newNamespace(t)
		p, _ := ns.start(t, exe, "iperf", "-s")
		client := ns.command(t.Context(), "iperf3", "-c", "192.0.2.2", "-t", "600", "-b", "1M")
		require.NoError(t, client.Start())
		line, err := p.out.ReadString('\n')
		require.NoError(t, err)
		require.Contains(t, line, "Accepted connection")
		ns.run(t, "ip", "link", "del", "usernet0")
		_, err = io.Copy(io.Discard, p.out)
		require.NoError(t, err)
		require.Error(t, p.cmd.Wait())
		require.Regexp(t, "the link has failed: |network is down", p.errs.String())
		client.Process.Kill()
		client.Wait()
	})
}

func TestPingAndGetCommandsReachTheKernel(t *testing.T) {
	t.Parallel()
	need(t)
	exe := build(t)
	ns := newNamespace(t)
	for _, to := range []string{"192.0.2.1", "2001:db8::1"} {
		out := ns.run(t, exe, "ping", "-c", "3", "-i", "0.01", "-W", "30", "-s", "100", to)
		require.Contains(t, out, "108 bytes from "+to+": icmp_seq=1 ttl=64 time=")
		require.Contains(t, out, "3 packets transmitted, 3 received, 0% packet loss")
	}
	_, _, err := ns.try(t, exe, "ping", "-c", "1", "-W", "0.1", "192.0.2.77")
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 1, exit.ExitCode(), "nobody answers")

	ns.startHelper(t, "ready", "http", ":8000")
	dir := t.TempDir()
	file := filepath.Join(dir, "got")
	for _, to := range []string{"192.0.2.1", "[2001:db8::1]"} {
		ns.run(t, exe, "get", "-o", file, "http://"+to+":8000/content?n=1000000")
		f, err := os.Open(file)
		require.NoError(t, err)
		defer f.Close()
		require.Equal(t, contentSum(t, 1_000_000), sumOf(t, f))
	}
}

func TestDumpCommandPrintsWhatArrives(t *testing.T) {
	t.Parallel()
	need(t, "ping")
	exe := build(t)
	ns := newNamespace(t)
	p := &program{t: t, cmd: ns.command(t.Context(), exe, "dump", "-answer", "-c", "20")}
	var out bytes.Buffer
	p.cmd.Stdout, p.cmd.Stderr = &out, &p.errs
	require.NoError(t, p.cmd.Start())
	ns.shell(t, "until ping -q -c 1 -W 1 192.0.2.2; do sleep 0.1; done; ping -q -c 20 -i 0.002 192.0.2.2")
	require.NoError(t, p.cmd.Wait(), "%s", p.errs.String())
	require.Equal(t, 20, strings.Count(out.String(), "\n"))
	require.Contains(t, out.String(), "who-has 192.0.2.2")
	require.Contains(t, out.String(), "192.0.2.1 > 192.0.2.2")
}
