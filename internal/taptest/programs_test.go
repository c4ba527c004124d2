//go:build linux

package taptest

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
)

// programs has programs of the kernel's side, and functions that use the host with them. The host has a
// site on port 80, echo on port 7, ssh on port 22, and nothing on port 81.
var programs = []struct {
	name   string
	tools  []string
	noZone bool // the program does not accept a link-local address with a zone
	run    func(t *testing.T, ns *namespace, e end)
}{
	{name: "curl", tools: []string{"curl", "sha256sum"}, run: func(t *testing.T, ns *namespace, e end) {
		// 1428 and 1448 bytes fill a segment over IPv6 and over IPv4.
		for _, n := range []int64{0, 1, 1428, 1429, 1448, 1449, 100_000, 1 << 20} {
			curlDownload(t, ns, e, n)
			curlUpload(t, ns, e, n)
		}
		_, errs, err := ns.try(t, "curl", "-sS", "--connect-timeout", "30", strings.TrimSuffix(e.url("/"), "/")+":81/")
		require.Regexp(t, `Failed to connect|Could not connect|refused`, errs)
		var exit interface{ ExitCode() int }
		require.ErrorAs(t, err, &exit)
		require.Equal(t, 7, exit.ExitCode(), "curl says that it could not connect, not that time ran out")
	}},
	{name: "wrk", tools: []string{"wrk"}, noZone: true, run: func(t *testing.T, ns *namespace, e end) {
		out := ns.run(t, "wrk", "-t", "1", "-c", "8", "-d", "1s", e.url("/slow"))
		requireWrk(t, out)
	}},
	{name: "ping", tools: []string{"ping"}, run: func(t *testing.T, ns *namespace, e end) {
		for _, size := range []int{16, 56, 1452, 1472, 5000, 65000} {
			ns.pingWithoutLoss(t, e, 5, "-i", "0.01", "-s", fmt.Sprint(size))
		}
	}},
	{name: "nc", tools: []string{"nc", "sha256sum"}, run: func(t *testing.T, ns *namespace, e end) {
		echoes(t, ns, "nc "+e.flag+" -N "+e.ours+" 7", "nc "+e.flag+" -u -W 1 -w 30 "+e.ours+" 7")
		ns.try(t, "bash", "-c", "echo x | nc "+e.flag+" -u -w 1 "+e.ours+" 81") // nc may or may not report the ICMP error
	}},
	{name: "socat", tools: []string{"socat", "sha256sum"}, run: func(t *testing.T, ns *namespace, e end) {
		to := e.flag[1:] + ":" + e.ours + ":7"
		if e.v6() {
			to = "6:[" + e.ours + "]:7"
		}
		echoes(t, ns, "socat -t 60 - TCP"+to, "socat -b 65507 -t 1 - UDP"+to)
	}},
	{name: "ssh", tools: []string{"ssh", "ssh-keygen", "dropbear", "dropbearkey", "mount", "sha256sum"}, run: func(t *testing.T, ns *namespace, e end) {
		ssh := sshTo(t, ns, e)
		require.Equal(t, "hello\n", ns.shell(t, ssh+" echo hello"))
		const n = 1 << 20
		require.Equal(t, contentSum(t, n)+"  -\n", ns.shell(t, fmt.Sprintf("%s %d | %s cat | sha256sum", self(t, "generate"), n, ssh)))
	}},
	{name: "nmap", tools: []string{"nmap"}, run: func(t *testing.T, ns *namespace, e end) {
		args := []string{"nmap", "-n", "-Pn", "-oG", "-", "--reason", "-p"}
		if e.v6() {
			args = slices.Insert(args, 1, "-6")
		}
		for _, x := range []struct{ scan, ports, want string }{
			{"-sT", "7,80,81", "7/open/tcp//echo///, 80/open/tcp//http///, 81/closed/tcp"},
			{"-sS", "7,80,81", "7/open/tcp//echo///, 80/open/tcp//http///, 81/closed/tcp"},
			{"-sA", "80,81", "80/unfiltered/tcp//http///, 81/unfiltered/tcp"},
			{"-sF", "80,81", "80/open|filtered/tcp//http///, 81/closed/tcp"},
			{"-sU", "81", "81/closed/udp"},
		} {
			require.Contains(t, ns.run(t, append(args, x.ports, x.scan, e.ours)...), "Ports: "+x.want, "nmap %s", x.scan)
		}
	}},
	{name: "traceroute", tools: []string{"traceroute"}, run: func(t *testing.T, ns *namespace, e end) {
		for _, how := range []string{"", "-I", "-T"} {
			out := ns.shell(t, "traceroute "+e.flag+" -n -z 20 -w 5 "+how+" "+e.ours)
			lines := strings.Split(strings.TrimSpace(out), "\n")
			require.Len(t, lines, 2, how)
			require.Regexp(t, `^ 1  \S+( +[0-9.]+ ms){3}$`, lines[1], how)
			require.Equal(t, e.ours, strings.Fields(lines[1])[1])
		}
	}},
	{name: "tracepath", tools: []string{"tracepath"}, run: func(t *testing.T, ns *namespace, e end) {
		out := ns.run(t, "tracepath", e.flag, "-n", e.ours)
		require.Regexp(t, `Resume: pmtu 1500 hops 1 back 1`, out)
	}},
}

// requireWrk checks that wrk made requests, and reports no error.
func requireWrk(t *testing.T, out string) {
	t.Helper()
	t.Log(out)
	require.NotContains(t, out, "Socket errors")
	require.NotContains(t, out, "Non-2xx")
	require.Regexp(t, `[1-9]\d* requests in`, out)
}

// echoes sends data to the echo servers with the commands tcp and udp, and compares the answers.
func echoes(t *testing.T, ns *namespace, tcp, udp string) {
	t.Helper()
	const size, large = 1 << 20, 8000
	require.Equal(t, contentSum(t, size)+"  -\n", ns.shell(t, fmt.Sprintf("%s %d | %s | sha256sum", self(t, "generate"), size, tcp)))
	require.Equal(t, "a datagram\n", ns.shell(t, "echo a datagram | "+udp))
	// This datagram is sent in several fragments, and comes back in fragments.
	require.Equal(t, contentSum(t, large)+"  -\n", ns.shell(t, fmt.Sprintf("%s %d | %s | sha256sum", self(t, "generate"), large, udp)))
}

// sshPort is the port of the dropbear on the kernel's side, on 127.0.0.1. The test forwards connections to
// the host's port 22 to this dropbear.
const sshPort = "2222"

// sshTo starts a dropbear, and returns the first part of a command line that runs a command over ssh.
func sshTo(t *testing.T, ns *namespace, e end) string {
	t.Helper()
	dir := t.TempDir()
	ns.shell(t, "cd "+dir+` && mkdir -m 700 .ssh
		ssh-keygen -q -t ed25519 -N '' -f key
		cp key.pub .ssh/authorized_keys
		dropbearkey -t ed25519 -f host 2>/dev/null | grep ^ssh-ed25519 | sed 's/^/ours /' > known`)
	// The directory is root's home, but only in the mount namespace of "ip netns exec".
	ns.daemon(t, "bash", "-euc", "chmod 700 "+dir+"; mount --bind "+dir+" /root; exec dropbear -F -E -s -r "+dir+"/host -p 127.0.0.1:"+sshPort)
	require.Eventually(t, func() bool {
		return ns.inside(func() error {
			c, err := net.Dial("tcp", "127.0.0.1:"+sshPort)
			if err == nil {
				c.Close()
			}
			return err
		}) == nil
	}, patience, 10*time.Millisecond)
	return fmt.Sprintf("ssh -F none -o BatchMode=yes -o IdentitiesOnly=yes -o HostKeyAlias=ours -o UserKnownHostsFile=%[1]s/known -i %[1]s/key root@%[2]s",
		dir, e.ours)
}

// serveSSH forwards connections to the host's port 22 to the kernel's dropbear.
func serveSSH(t *testing.T, ns *namespace, h *usernet.Host) {
	t.Helper()
	forward(t, ns, h, "22", "127.0.0.1:"+sshPort)
}

// forward forwards connections to a port of the host to a server on the kernel's side.
func forward(t *testing.T, ns *namespace, h *usernet.Host, port, server string) {
	t.Helper()
	ln, err := h.Listen("tcp", ":"+port)
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			var to net.Conn
			if err := ns.inside(func() (err error) { to, err = net.Dial("tcp", server); return err }); err != nil {
				c.Close()
				continue
			}
			for a, b := range map[net.Conn]net.Conn{c: to, to: c} {
				go func() {
					io.Copy(a, b)
					a.(interface{ CloseWrite() error }).CloseWrite()
				}()
			}
		}
	}()
}

// faulty is a tshark filter for incorrect frames. It allows two cases that tshark calls bad. If the
// checksum of a segment is 0, the kernel writes 0xffff (CSUM_MANGLED_0). A datagram that the kernel quotes
// in an ICMP error may have no complete checksum, because usernet has left the checksum to the device.
const faulty = "_ws.malformed || ip.checksum.status == 0 || tcp.checksum.status == 0 && tcp.checksum != 0xffff || " +
	"udp.checksum.status == 0 && !(icmp || icmpv6) || icmp.checksum.status == 0 || icmpv6.checksum.status == 0 || " +
	"tcp.checksum == 0xffff && (ip.src == " + ourAddr + " || ipv6.src == " + ourAddr6 + ")"

// TestProgramsReachTheHost uses a host from the kernel's programs, over IPv4, over IPv6 and by the
// link-local address. Then it uses the kernel's servers from the host, and tshark checks all frames.
func TestProgramsReachTheHost(t *testing.T) {
	t.Parallel()
	need(t, "tshark", "curl", "ping", "nc", "nft")
	for name, plain := range links {
		t.Run(name, func(t *testing.T) { useAndCapture(t, plain) })
	}
}

// useAndCapture is the test of TestProgramsReachTheHost for one kind of TAP.
func useAndCapture(t *testing.T, plain bool) {
	ns, tap := newTAP(t, plain)
	file := filepath.Join(t.TempDir(), "run.pcapng")
	f, err := os.Create(file)
	require.NoError(t, err)
	defer f.Close()
	capt := nic.Capture(tap, f, nic.CaptureConfig{})
	h := newHost(t, capt)
	serveSite(t, h)
	serveEcho(t, h)
	serveSSH(t, ns, h)
	ns.startHelper(t, "ready", "http", ":8000")
	ends := ns.ends(t, h)
	if plain {
		ends = families
	}
	for _, e := range ends {
		for _, p := range programs {
			if p.noZone && strings.Contains(e.ours, "%") {
				continue
			}
			t.Run(p.name+" over "+e.name, func(t *testing.T) {
				need(t, p.tools...)
				p.run(t, ns, e)
			})
		}
		t.Run("usernet over "+e.name, func(t *testing.T) { useTheKernel(t, ns, h, e) })
	}
	ns.drop(t)
	for _, e := range families {
		curlDownload(t, ns, e, 2<<20)
		curlUpload(t, ns, e, 2<<20)
	}
	require.NoError(t, h.Close())
	require.NoError(t, capt.Err())
	require.NoError(t, f.Close())

	present := []string{"arp", "icmp.type == 8", "icmp.type == 0", "icmp.code == 3", "udp", "ip.flags.mf == 1",
		"icmpv6.type == 128", "icmpv6.type == 129", "icmpv6.type == 1 && icmpv6.code == 4", "icmpv6.type == 4 && icmpv6.code == 1",
		"icmpv6.type == 135", "icmpv6.type == 136", "ipv6.fraghdr.more == 1", "ipv6.src == " + ourAddr6 + " && tcp && ipv6.flow != 0",
		"ip && tcp.flags.reset == 1", "ip && tcp.flags.fin == 1", "ip && tcp.checksum.status == 1 && tcp.srcport == 80",
		"ipv6 && tcp.flags.reset == 1", "ipv6 && tcp.flags.fin == 1", "ipv6 && tcp.checksum.status == 1 && tcp.srcport == 80"}
	// The second filter matches correct frames that would show a fault of the stack. The third filter
	// matches segments without a flow label.
	absent := []string{faulty, "tcp.analysis.ack_lost_segment || tcp.analysis.window_full && tcp.analysis.zero_window_probe && tcp.len > 1",
		"ipv6.src == " + ourAddr6 + " && tcp && ipv6.flow == 0"}
	if plain {
		absent = append(absent, "frame.len > 1514")
	} else { // the six datagrams of sendBatch, of 1200 bytes each, are in one frame
		present = append(present, "ip && udp.dstport == 9 && udp.length == 7208 && udp.checksum.status == 1",
			"ipv6 && udp.dstport == 9 && udp.length == 7208 && udp.checksum.status == 1", "ipv6 && frame.len > 20000")
	}
	for i, n := range ns.shark(t, file, slices.Concat(present, absent)) {
		if i < len(present) {
			require.Positive(t, n, "the capture has no %q", present[i])
		} else {
			require.Zero(t, n, "the capture has %q", absent[i-len(present)])
		}
	}
}

// useTheKernel uses the kernel's servers from the host.
func useTheKernel(t *testing.T, ns *namespace, h *usernet.Host, e end) {
	for _, n := range []int64{0, 1, 100_000, 1_000_000} {
		fetch(t, h, e, n)
	}
	_, err := h.DialTimeout("tcp", e.at("81"), 30*time.Second)
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	require.EqualError(t, err, "dial tcp "+e.at("81")+": connect: connection refused")
	// On both sides, a UDP socket learns from an ICMP error that the port is closed.
	ours, err := h.Dial("udp", e.at("81"))
	require.NoError(t, err)
	defer ours.Close()
	var theirs net.Conn
	require.NoError(t, ns.inside(func() (err error) {
		theirs, err = net.Dial("udp", net.JoinHostPort(e.ours, "81"))
		if err != nil {
			return err
		}
		// Send a packet of an unknown protocol. The filters check the answer of the host.
		c, err := net.Dial("ip"+e.flag[1:]+":253", e.ours)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte("who?"))
		return err
	}))
	defer theirs.Close()
	for _, c := range []net.Conn{theirs, ours} {
		_, err = c.Write([]byte("anybody?"))
		require.NoError(t, err)
		require.NoError(t, c.SetReadDeadline(time.Now().Add(30*time.Second)))
		_, err = c.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
	}
	sendBatch(t, h, e)
}

func TestWrkSeesNoError(t *testing.T) {
	t.Parallel()
	ns, h := newLink(t, "wrk")
	serveSite(t, h)
	for i, how := range []string{"Connection: close", "Connection: keep-alive"} {
		for j, e := range families {
			if i == j || long { // a short run has fewer combinations, because wrk runs for at least a second
				requireWrk(t, ns.run(t, "wrk", "-t", "2", "-c", "64", "-d", wrkPeriod, "-H", how, e.url("/")))
			}
		}
	}
}

// shark returns how many frames of a capture match each of the filters. It runs tshark only once, because
// the start of tshark takes longer than reading the file.
func (ns *namespace) shark(t *testing.T, file string, filters []string) (frames []int) {
	t.Helper()
	// Otherwise tshark might take an ephemeral port for the port of a protocol that it knows.
	const chosen = ".port==32768-60999,data"
	out := ns.run(t, "tshark", "-q", "-r", file, "-d", "tcp"+chosen, "-d", "udp"+chosen, "-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE",
		"-o", "udp.check_checksum:TRUE", "-z", "io,stat,0,"+strings.Join(filters, ","))
	for line := range strings.Lines(out) {
		if !strings.Contains(line, "<>") {
			continue
		}
		// A line has the form | interval | frames | bytes | frames | bytes | ... |
		columns := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		for i := 1; i < len(columns); i += 2 {
			n, err := strconv.Atoi(strings.TrimSpace(columns[i]))
			require.NoError(t, err, line)
			frames = append(frames, n)
		}
	}
	require.Len(t, frames, len(filters), out)
	return frames
}

// sendBatch sends a batch of datagrams that the device may send as one super-frame.
func sendBatch(t *testing.T, h *usernet.Host, e end) {
	t.Helper()
	pc, err := h.ListenPacket("udp", ":0")
	require.NoError(t, err)
	defer pc.Close()
	var ms []usernet.Message
	to := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(e.at("9")))
	for i := range 6 {
		ms = append(ms, usernet.Message{Buffers: [][]byte{bytes.Repeat([]byte{byte(i)}, 1200)}, Addr: to})
	}
	n, err := pc.(*usernet.UDPConn).WriteBatch(ms, 0)
	require.NoError(t, err)
	require.Equal(t, len(ms), n)
}
