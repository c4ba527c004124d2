//go:build linux

package taptest

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// onVeth has the flags of a command on the interface of newSource. The host is beside the kernel, with
// other addresses on the same link.
const onVeth = "-i veth -no-ra -addr " + ourAddr + "/24 -addr " + ourAddr6 + "/64 -host-addr " + kernelAddr + "/24 -host-addr " + kernelAddr6 + "/64 "

// newSource makes a namespace whose link, veth, leads to the namespace first. The kernel of first has the
// addresses of the kernel's side of a TAP. The kernel's programs in source use the addresses that end with 3, and usernet
// those that end with 2.
func newSource(t *testing.T) (source, first *namespace) {
	t.Helper()
	source, first = newNamespace(t), newNamespace(t)
	source.shell(t, fmt.Sprintf(`
		ip link add veth type veth peer name veth netns %s
		ip addr add 192.0.2.3/24 dev veth
		ip -6 addr add 2001:db8::3/64 dev veth nodad
		ip link set veth up
		ip route add default via %s`, first.Namespace, kernelAddr))
	first.shell(t, fmt.Sprintf(`
		ip addr add %s/24 dev veth
		ip -6 addr add %s/64 dev veth nodad
		ip link set veth up`, kernelAddr, kernelAddr6))
	source.shell(t, "ip -6 route add default via "+kernelAddr6)
	return source, first
}

// TestTracerouteAndLinuxSeeTheSameRoute runs usernet traceroute and Debian's on the same route.
func TestTracerouteAndLinuxSeeTheSameRoute(t *testing.T) {
	t.Parallel()
	need(t, "traceroute", "sysctl", "nft")
	exe := build(t)
	source, first := newSource(t)
	second, _ := routersBehind(t, first)
	second.shell(t, `
		nft add table ip refuse
		nft add chain ip refuse forward '{ type filter hook forward priority 0; }'
		nft add rule ip refuse forward ip daddr 203.0.113.1 reject with icmp type host-unreachable
		nft add rule ip refuse forward ip daddr 203.0.113.2 reject with icmp type admin-prohibited
		nft add rule ip refuse forward ip daddr 203.0.113.4 reject with icmp type net-unreachable
		nft add rule ip refuse forward ip daddr 203.0.113.6 reject with icmp type prot-unreachable
		ip route add 203.0.113.0/24 via 198.51.100.6
		ip route add blackhole 203.0.113.5
		ip -6 route add unreachable 2001:db8:9::1
		ip -6 route add prohibit 2001:db8:9::2
		ip -6 route add blackhole 2001:db8:9::5`)
	first.shell(t, `
		ip route add 203.0.113.0/24 via 198.51.100.2
		ip -6 route add 2001:db8:9::/64 via 2001:db8:1::2`)
	times := regexp.MustCompile(`\d+\.\d{3} ms`)
	// want is the end of the output, in which T stands for each round-trip time.
	for _, c := range []struct{ args, want string }{
		{"198.51.100.6", " 3  198.51.100.6  T  T  T"},
		{"-I 198.51.100.6 200", " 3  198.51.100.6  T  T  T"},
		{"-T -p 9 198.51.100.6", " 3  198.51.100.6  T  T  T"},
		{"2001:db8:2::2", " 3  2001:db8:2::2  T  T  T"},
		{"-I 2001:db8:2::2 200", " 3  2001:db8:2::2  T  T  T"},
		{"-T -p 9 2001:db8:2::2", " 3  2001:db8:2::2  T  T  T"},
		{"-q 2 -f 2 -m 20 198.51.100.6", " 3  198.51.100.6  T  T"},
		{"203.0.113.1", " 3  198.51.100.2  T !H  T !H  T !H"},
		{"203.0.113.2", " 3  198.51.100.2  T !X  T !X  T !X"},
		{"-I 203.0.113.4", " 3  198.51.100.2  T !N  T !N  T !N"},
		{"-T 203.0.113.6", " 3  198.51.100.2  T !P  T !P  T !P"},
		{"-m 3 -w 3 203.0.113.5", " 3  * * *"},
		{"2001:db8:9::1", " 2  2001:db8:1::2  T !N  T !N  T !N"},
		{"2001:db8:9::2", " 2  2001:db8:1::2  T !X  T !X  T !X"},
		{"-m 3 -w 3 2001:db8:9::5", " 3  * * *"},
	} {
		run := func(program, more string) string {
			out, errs, err := source.try(t, "bash", "-c", program+" -n "+more+c.args)
			require.Empty(t, errs, c.args)
			if err != nil { // usernet: the destination has not answered
				require.NotContains(t, c.want, "T  T  T", c.args)
			}
			return times.ReplaceAllString(strings.TrimSpace(out), "T")
		}
		theirs, ours := run("traceroute", ""), run(exe+" traceroute", onVeth)
		// Debian's waits for a probe only three times as long as for the one before, so on a loaded machine it may
		// miss an answer.
		for n := 0; n < 20 && strings.Contains(theirs, "*") && !strings.Contains(c.want, "*"); n++ {
			theirs = run("traceroute", "")
		}
		if strings.Contains(c.args, "-T") { // Debian's prints the default length, and not that of its SYN
			_, theirs, _ = strings.Cut(theirs, "\n")
			_, ours, _ = strings.Cut(ours, "\n")
		}
		require.Equal(t, theirs, ours, c.args)
		require.True(t, strings.HasSuffix(ours, c.want), "%s: %s", c.args, ours)
	}
}

// TestScanAndNmapAgree scans the kernel of a namespace with usernet scan and with nmap, from the same link.
func TestScanAndNmapAgree(t *testing.T) {
	t.Parallel()
	need(t, "nmap", "nft", "socat", "sysctl")
	exe := build(t)
	source, target := newSource(t)
	target.shell(t, `
		sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0
		nft add table inet wall
		nft add chain inet wall in '{ type filter hook input priority 0; }'
		nft add rule inet wall in tcp dport 23 drop
		nft add rule inet wall in tcp dport 110 reject with icmpx type admin-prohibited
		nft add rule inet wall in tcp dport 143 reject with tcp reset
		nft add rule inet wall in udp dport 67 drop
		nft add rule inet wall in udp dport 69 reject with icmpx type admin-prohibited
		socat TCP6-LISTEN:22,fork,ipv6only=0 PIPE >/dev/null 2>&1 &
		socat TCP6-LISTEN:8080,fork,ipv6only=0 PIPE >/dev/null 2>&1 &
		socat UDP6-RECVFROM:53,fork,ipv6only=0 PIPE >/dev/null 2>&1 &
		socat UDP6-RECVFROM:123,fork,ipv6only=0 PIPE >/dev/null 2>&1 &
		socat -u UDP6-RECV:514,ipv6only=0 OPEN:/dev/null >/dev/null 2>&1 &
		for i in $(seq 300); do [ $(ss -tulnH | wc -l) -lt 5 ] || exit 0; sleep .1; done
		exit 1`)
	tcp := map[string]string{"22": "open", "23": "filtered", "80": "closed", "110": "filtered", "143": "closed", "8080": "open", "9999": "closed"}
	udp := map[string]string{"53": "open", "67": "open|filtered", "69": "filtered", "123": "open", "161": "closed", "514": "open|filtered", "9999": "closed"}
	for _, c := range []struct {
		how  string
		want map[string]string
	}{{"-sT", tcp}, {"-sS", tcp}, {"-sU", udp}} {
		ports := strings.Join(slices.Sorted(maps.Keys(c.want)), ",")
		for _, e := range families {
			about := c.how + " " + e.kernel
			nmap := source.run(t, "nmap", e.flag, "-n", "-Pn", c.how, "-p", ports, "-oG", "-", e.kernel)
			theirs := make(map[string]string)
			for _, m := range regexp.MustCompile(`(\d+)/([a-z|]+)/(?:tcp|udp)/`).FindAllStringSubmatch(nmap, -1) {
				theirs[m[1]] = m[2]
			}
			out := source.shell(t, exe+" scan "+onVeth+c.how+" -p "+ports+" "+e.kernel)
			ours := make(map[string]string)
			for _, m := range regexp.MustCompile(`(?m)^(\d+)/(?:tcp|udp) +([a-z|]+) `).FindAllStringSubmatch(out, -1) {
				ours[m[1]] = m[2]
			}
			require.Equal(t, theirs, ours, about)
			require.Equal(t, c.want, ours, about)
		}
	}
	// A scan by SYN segments resets the connections when they are half-open.
	require.Empty(t, target.run(t, "ss", "-tnH", "state", "syn-recv"))
}

// TestNCAndOpenBSDsSpeak connects usernet nc and Debian's netcat-openbsd in both directions. Each side sends a file,
// and closes its side at the end of it (-N).
func TestNCAndOpenBSDsSpeak(t *testing.T) {
	t.Parallel()
	need(t, "nc")
	exe := build(t)
	source, target := newSource(t)
	dir := t.TempDir()
	const size = 1 << 20
	file, sum := filepath.Join(dir, "file"), contentSum(t, size)
	out, err := os.Create(file)
	require.NoError(t, err)
	_, err = io.Copy(out, content(size))
	require.NoError(t, err)
	require.NoError(t, out.Close())
	ours := exe + " nc " + onVeth
	wait := func(ns *namespace, port string) {
		ns.shell(t, `for i in $(seq 600); do [ -z "$(ss -tulnH sport = :`+port+`)" ] || exit 0; sleep .1; done; exit 1`)
	}
	sumOfFile := func(name string) string {
		f, err := os.Open(filepath.Join(dir, name))
		require.NoError(t, err)
		defer f.Close()
		return sumOf(t, f)
	}
	for _, e := range families {
		// The kernel listens, and usernet connects.
		server := target.command(t.Context(), "bash", "-c", "nc -N -l "+e.kernel+" 7000 <"+file+" >"+dir+"/server")
		require.NoError(t, server.Start())
		wait(target, "7000")
		// Debian's nc -l ends with the input from its peer, and then may not have sent all, so ours ends last.
		source.shell(t, "(cat "+file+fmt.Sprintf("; for i in $(seq 600); do [ $(stat -c %%s %s/client) -lt %d ] || break; sleep .1; done) | ", dir, size)+
			ours+"-N "+e.kernel+" 7000 >"+dir+"/client")
		require.NoError(t, server.Wait())
		require.Equal(t, sum, sumOfFile("server"), e.name)
		require.Equal(t, sum, sumOfFile("client"), e.name)

		// usernet listens, and the kernel connects: twice, with -k.
		p := source.command(t.Context(), "bash", "-c", "exec "+ours+"-k -l 7001 >"+dir+"/ours </dev/null")
		require.NoError(t, p.Start())
		target.shell(t, "for i in $(seq 600); do nc -z "+e.ours+" 7001 && exit 0; sleep .1; done; exit 1")
		target.shell(t, "nc -N "+e.ours+" 7001 <"+file)
		target.shell(t, "echo again | nc -N "+e.ours+" 7001")
		require.Eventually(t, func() bool {
			st, err := os.Stat(dir + "/ours")
			return err == nil && st.Size() == size+int64(len("again\n"))
		}, patience, 20*time.Millisecond)
		require.NoError(t, p.Process.Signal(syscall.SIGINT))
		require.NoError(t, p.Wait())

		// Datagrams both ways, and the report of open ports.
		server = target.command(t.Context(), "bash", "-c", "echo pong | nc -u -l "+e.kernel+" 7002 >"+dir+"/udp")
		require.NoError(t, server.Start())
		wait(target, "7002")
		p = source.command(t.Context(), "bash", "-c", "exec "+ours+"-u "+e.kernel+" 7002 < <(echo ping) >"+dir+"/pong"+e.name)
		require.NoError(t, p.Start())
		require.Eventually(t, func() bool {
			got, err := os.ReadFile(dir + "/pong" + e.name)
			return err == nil && string(got) == "pong\n"
		}, patience, 20*time.Millisecond)
		require.NoError(t, p.Process.Signal(syscall.SIGINT))
		require.NoError(t, p.Wait())
		require.NoError(t, server.Process.Kill())
		server.Wait()
		got, err := os.ReadFile(dir + "/udp")
		require.NoError(t, err)
		require.Equal(t, "ping\n", string(got))
		_, errs, err := source.try(t, "bash", "-c", ours+"-z "+e.kernel+" 7000-7003")
		require.Error(t, err, "no port is open")
		require.Equal(t, 4, strings.Count(errs, "connection refused"), errs)
	}
}

// TestSSAndTheKernelAgree compares usernet ss and ss -ti of the kernel at both ends of one connection.
func TestSSAndTheKernelAgree(t *testing.T) {
	t.Parallel()
	need(t, "ss", "socat")
	exe := build(t)
	ns := newNamespace(t)
	dir := t.TempDir()
	const size = 4 << 20
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), make([]byte, size), 0o644))
	socket := filepath.Join(t.TempDir(), "s")
	p, _ := ns.start(t, exe, "serve", "-plain", "-inspect-socket", socket, dir) // the kernel counts a super-frame as one segment
	for _, e := range families {
		addr := e.ours
		if e.v6() {
			addr = "[" + addr + "]"
		}
		client := ns.command(t.Context(), "bash", "-c", `(printf 'GET /file HTTP/1.1\r\nHost: x\r\n\r\n'; exec sleep 1000) | socat - TCP:`+addr+`:80 >`+dir+`/got`)
		require.NoError(t, client.Start())
		var ours, theirs string
		number := func(info, name string) int {
			n, err := strconv.Atoi(ssField(info, name))
			require.NoError(t, err, "%s in %q", name, info)
			return n
		}
		list := func(command, where string) string {
			return strings.Join(strings.Fields(ns.shell(t, command+" "+where+" "+addr)), " ")
		}
		near := func(a, b int) bool { return a >= b-1 && a <= b+1 }
		// Wait until the last acknowledgements have arrived.
		require.Eventually(t, func() bool {
			ours, theirs = list(exe+" ss -tinH "+socket, "src"), list("ss -tinH", "dst")
			return strings.Contains(ours, "bytes_sent:4") && !strings.Contains(ours+theirs, " unacked:") && !strings.Contains(ours, " notsent:") &&
				number(theirs, "bytes_received") == number(ours, "bytes_acked") &&
				near(number(theirs, "segs_in"), number(ours, "segs_out")) && near(number(theirs, "segs_out"), number(ours, "segs_in"))
		}, patience, 50*time.Millisecond, "%v", e.name)
		about := fmt.Sprintf("ours: %s\nthe kernel's: %s", ours, theirs)
		t.Log(about)
		// The fields are the state, two queue lengths, the local address and the peer's address.
		a, b := strings.Fields(ours), strings.Fields(theirs)
		require.Equal(t, []string{"ESTAB", "0", "0", b[4], b[3]}, a[:5], about)
		require.Greater(t, number(ours, "bytes_acked"), size, about)
		require.Equal(t, number(ours, "bytes_received"), number(theirs, "bytes_acked")-1, "the kernel counts its SYN: %s", about)
		require.Equal(t, number(ours, "data_segs_out"), number(theirs, "data_segs_in"), about)
		require.Equal(t, number(ours, "data_segs_in"), number(theirs, "data_segs_out"), about)
		require.Equal(t, number(ours, "rcvmss"), number(theirs, "mss"), about)
		scale := func(info string) []string { return strings.Split(ssField(info, "wscale"), ",") }
		require.Equal(t, scale(ours), []string{scale(theirs)[1], scale(theirs)[0]}, about)
		require.Positive(t, number(ours, "cwnd"), about)

		// -K ends the connection at both ends.
		require.Contains(t, ns.run(t, exe, "ss", "-KntH", socket, "src", addr), b[3])
		client.Process.Kill()
		client.Wait()
		require.Empty(t, ns.shell(t, exe+" ss -tnH "+socket+" src "+addr))
		require.Empty(t, ns.shell(t, "ss -tnH dst "+addr))
	}
	p.interrupt()
}
