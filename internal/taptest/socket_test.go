//go:build linux

package taptest

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/nic/pcap"
)

// kernelAddrsOn gives an interface of the namespace the kernel's addresses of both families, and brings it
// up.
func (ns *namespace) kernelAddrsOn(t *testing.T, name string) {
	t.Helper()
	ns.shell(t, fmt.Sprintf(`
		ip addr add %[2]s/24 dev %[1]s
		ip -6 addr add %[3]s/64 dev %[1]s nodad
		ip link set %[1]s up`, name, kernelAddr, kernelAddr6))
}

// newVeth makes two namespaces that a veth pair connects. The end in far, veth1, has the kernel's
// addresses. The end in near, veth0, has none.
func newVeth(t *testing.T) (near, far *namespace) {
	t.Helper()
	near, far = newNamespace(t), newNamespace(t)
	near.shell(t, fmt.Sprintf(`
		ip link add veth0 type veth peer name veth1 netns %s
		ip link set veth0 up`, far.Namespace))
	far.kernelAddrsOn(t, "veth1")
	return near, far
}

// background starts a program in the namespace that runs until the end of the test. It returns a function that
// returns the program's output so far.
func (ns *namespace) background(t *testing.T, args ...string) func() string {
	t.Helper()
	cmd := ns.command(t.Context(), args...)
	out := filepath.Join(t.TempDir(), "out")
	f, err := os.Create(out)
	require.NoError(t, err)
	defer f.Close()
	cmd.Stdout, cmd.Stderr = f, f
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return func() string {
		b, _ := os.ReadFile(out)
		return string(b)
	}
}

// awaitFile waits until a file exists. log returns what the program that makes it has printed.
func awaitFile(t *testing.T, name string, log func() string) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(name); err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s does not appear: %s", name, log())
		}
	}
}

// curlBoth gets the start page over both families.
func (ns *namespace) curlBoth(t *testing.T) {
	t.Helper()
	for _, e := range families {
		require.Contains(t, ns.run(t, "curl", "-sS", "--fail", "-g", "--retry", "5", "--retry-all-errors", e.url("/")),
			"Hello from", e.name)
	}
}

// transfer moves size bytes of content in both directions between a host and the kernel in the namespace.
func (ns *namespace) transfer(t *testing.T, h *usernet.Host, size int) {
	t.Helper()
	ln, err := h.Listen("tcp", ":80")
	require.NoError(t, err)
	srv := &http.Server{Handler: site()}
	go srv.Serve(ln)
	defer srv.Close()
	for _, e := range families {
		url := e.url(fmt.Sprintf("/content?n=%d", size))
		require.Equal(t, contentSum(t, int64(size))+"  -\n", ns.shell(t, fmt.Sprintf("curl -sS --fail -g '%s' | sha256sum", url)), e.name)
		require.Equal(t, fmt.Sprintf("%d %s\n", size, contentSum(t, int64(size))),
			ns.shell(t, fmt.Sprintf("%s %d | curl -sS --fail -g -T - '%s'", self(t, "generate"), size, e.url("/sum"))), e.name)
	}
}

// transferUnderLoss transfers a MiB each way until the rules of drop have dropped a packet. A super-frame
// counts as one packet, so that a single transfer may lose none.
func (ns *namespace) transferUnderLoss(t *testing.T, h *usernet.Host) {
	t.Helper()
	for dropped := 0; dropped == 0; {
		ns.transfer(t, h, mib)
		in, out := ns.dropped(t)
		dropped = in + out
	}
}

// mib is the number of bytes of a transfer.
const mib = 1 << 20

func TestServeCommandServesOverAVeth(t *testing.T) {
	t.Parallel()
	need(t, "curl", "ping")
	exe := build(t)
	near, far := newVeth(t)
	p, line := near.start(t, exe, "serve", "-i", "veth0", "-addr", ourAddr+"/24", "-addr", ourAddr6+"/64")
	require.Equal(t, "serving on http://192.0.2.2/ and http://[2001:db8::2]/ (Ctrl-C ends)", line)
	far.curlBoth(t)
	require.Contains(t, far.run(t, "curl", "-sS", "--fail", "http://192.0.2.2/.usernet/"), "the interface veth0")
	p.interrupt()
	require.NotContains(t, near.run(t, "ip", "addr", "show", "dev", "veth0"), ourAddr, "the interface is as it was")

	// ping has -I, because its -i is the interval.
	out := near.run(t, exe, "ping", "-I", "veth0", "-addr", ourAddr+"/24", "-c", "2", "-i", "0.01", kernelAddr)
	require.Contains(t, out, " 2 received")
}

func TestAHostOnAVethBearsLoss(t *testing.T) {
	t.Parallel()
	need(t, "curl", "nft", "sha256sum")
	near, far := newVeth(t)
	var dev *nic.Packet
	require.NoError(t, near.inside(func() (err error) {
		dev, err = nic.OpenPacket(nic.PacketConfig{Interface: "veth0"})
		return err
	}))
	t.Cleanup(func() { dev.Close() })
	h := newHost(t, dev)
	far.drop(t)
	far.transferUnderLoss(t, h)
}

func TestDumpCommandWatchesAnInterface(t *testing.T) {
	t.Parallel()
	need(t, "ping", "tcpdump")
	exe := build(t)
	near, far := newVeth(t)
	near.run(t, "ip", "addr", "add", ourAddr+"/24", "dev", "veth0")
	file := filepath.Join(t.TempDir(), "ping.pcapng")
	p := &program{t: t, cmd: near.command(t.Context(), exe, "dump", "-i", "veth0", "-vv", "-w", file, "-c", "10", "icmp and host "+kernelAddr)}
	var out bytes.Buffer
	p.cmd.Stdout, p.cmd.Stderr = &out, &p.errs
	require.NoError(t, p.cmd.Start())
	done := make(chan error, 1)
	go func() { done <- p.cmd.Wait() }()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ping := far.command(ctx, "ping", "-q", "-i", "0.05", ourAddr)
	require.NoError(t, ping.Start())
	require.NoError(t, <-done, "%s", p.errs.String())
	cancel()
	ping.Wait()
	require.Contains(t, out.String(), "veth0 in   ")
	require.Contains(t, out.String(), "veth0 out  ", "what the kernel sends is seen too")
	require.Equal(t, 10, strings.Count(out.String(), "\nEthernet\n"))
	require.Equal(t, 10, strings.Count(out.String(), "\n    checksum: 0x")/2, "of IPv4 and of ICMP")
	require.NotContains(t, out.String(), "(bad)")

	got := near.run(t, "tcpdump", "-n", "-r", file)
	require.Equal(t, 10, strings.Count(got, "ICMP echo re"), got)
	require.NotContains(t, got, "bad")
}

// newSwitch starts a vde_switch in the namespace, and returns the directory of the switch. One port of the switch is
// a TAP with the kernel's addresses.
func (ns *namespace) newSwitch(t *testing.T) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "vde.ctl")
	// A switch that is not a daemon exits at the end of its standard input.
	log := ns.background(t, "bash", "-c", fmt.Sprintf("sleep infinity | vde_switch -s %s -t %s", dir, tapName))
	awaitFile(t, filepath.Join(dir, "ctl"), log)
	ns.shell(t, "until ip link show dev "+tapName+" >/dev/null 2>&1; do sleep 0.05; done")
	ns.kernelAddrsOn(t, tapName)
	return dir
}

func TestServeCommandServesOverVDE(t *testing.T) {
	t.Parallel()
	need(t, "curl", "vde_switch")
	exe := build(t)
	ns := newNamespace(t)
	dir := ns.newSwitch(t)
	p, line := ns.start(t, exe, "serve", "-vde", dir+"[3]")
	require.Equal(t, "serving on http://192.0.2.2/ and http://[2001:db8::2]/ (Ctrl-C ends)", line)
	ns.curlBoth(t)

	// A second host on the switch reaches the first one.
	for _, url := range []string{"http://192.0.2.2/", "http://[2001:db8::2]/"} {
		out := ns.run(t, exe, "get", "-vde", dir, "-addr", "192.0.2.3/24", "-addr", "2001:db8::3/64", url)
		require.Contains(t, out, "Hello from")
	}
	_, errs, err := ns.try(t, exe, "serve", "-vde", dir+"[99]")
	require.Error(t, err, "the switch has 32 ports")
	require.Contains(t, errs, "open VDE port: the switch does not give port 99")
	p.interrupt()
	files, err := filepath.Glob(filepath.Join(dir, ".*"))
	require.NoError(t, err)
	require.Empty(t, files, "no socket stays behind")
}

func TestAHostOnAVDESwitchBearsLoss(t *testing.T) {
	t.Parallel()
	need(t, "curl", "vde_switch", "nft", "sha256sum")
	ns := newNamespace(t)
	dev, err := nic.OpenVDE(nic.VDEConfig{Path: ns.newSwitch(t)})
	require.NoError(t, err)
	h := newHost(t, dev)
	ns.drop(t)
	ns.transferUnderLoss(t, h)
}

func TestAVDEPortFailsWithItsSwitch(t *testing.T) {
	t.Parallel()
	need(t, "vde_switch")
	dir := filepath.Join(t.TempDir(), "vde.ctl")
	ns := newNamespace(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cmd := ns.command(ctx, "bash", "-c", "exec vde_switch -s "+dir)
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	awaitFile(t, filepath.Join(dir, "ctl"), func() string { return "" })
	dev, err := nic.OpenVDE(nic.VDEConfig{Path: dir})
	require.NoError(t, err)
	h := newHost(t, dev)
	stdin.Close() // ends the switch
	cmd.Wait()
	select {
	case <-h.Done():
	case <-time.After(patience):
		t.Fatal("the host does not notice")
	}
	require.ErrorContains(t, h.Err(), "the switch has closed the port")
}

// startPasst starts passt in a namespace that has an interface with a default route, as passt requires. The
// guest has ourAddr and ourAddr6, and port 8080 of the namespace is the guest's port 80.
func startPasst(t *testing.T) (ns *namespace, socket string) {
	t.Helper()
	ns, other := newNamespace(t), newNamespace(t)
	ns.shell(t, fmt.Sprintf(`
		ip link add veth0 type veth peer name veth1 netns %s
		ip addr add 192.168.69.1/24 dev veth0
		ip -6 addr add 2001:db8:69::1/64 dev veth0 nodad
		ip link set veth0 up
		ip -n %[1]s link set veth1 up
		ip route add default via 192.168.69.254
		ip -6 route add default via 2001:db8:69::fe dev veth0`, other.Namespace))
	dir, err := os.MkdirTemp("", "usernet")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket = filepath.Join(dir, "passt")
	log := ns.background(t, "passt", "-f", "--runas", "0", "-s", socket, "-i", "veth0", "-t", "8080:80", "-u", "none",
		"-a", ourAddr, "-n", "24", "-g", kernelAddr, "-a", ourAddr6, "-g", kernelAddr6)
	// passt prints this line when it listens.
	for end := time.Now().Add(patience); !strings.Contains(log(), "You can now start qemu"); time.Sleep(10 * time.Millisecond) {
		require.True(t, time.Now().Before(end), log())
	}
	return ns, socket
}

func TestServeCommandServesAsTheGuestOfPasst(t *testing.T) {
	t.Parallel()
	need(t, "curl", "passt")
	exe := build(t)
	ns, socket := startPasst(t)
	p, line := ns.start(t, exe, "serve", "-stream", "unix:"+socket)
	require.Equal(t, "serving on http://192.0.2.2/ and http://[2001:db8::2]/ (Ctrl-C ends)", line)
	for _, host := range []string{"127.0.0.1", "[::1]"} {
		require.Contains(t, ns.run(t, "curl", "-sS", "--fail", "-g", "--retry", "5", "--retry-all-errors", "http://"+host+":8080/"), "Hello from", host)
	}
	p.interrupt()

	// The guest's connections leave through sockets of passt: the kernel's address of the veth is reached.
	ns.startHelper(t, "ready", "http", ":8000")
	out := ns.run(t, exe, "get", "-stream", "unix:"+socket, "http://192.168.69.1:8000/")
	require.Equal(t, "hello\n", out)
	out = ns.run(t, exe, "get", "-stream", "unix:"+socket, "http://[2001:db8:69::1]:8000/")
	require.Equal(t, "hello\n", out)
}

// usernet serve -auto gets its addresses from passt, by DHCP, DHCPv6 and a router advertisement, and serves curl over
// both families. passt forwards no multicasts from outside, so no other machine can ask for the guest's name.
func TestServeAutoAsTheGuestOfPasst(t *testing.T) {
	t.Parallel()
	need(t, "curl", "passt")
	exe := build(t)
	ns, socket := startPasst(t)
	p, line := ns.start(t, exe, "serve", "-auto", "-stream", "unix:"+socket)
	require.Regexp(t, `^serving on http://192\.0\.2\.2/ and http://\[2001:db8::[0-9a-f:]+\]/ \(Ctrl-C ends\)$`, line)
	for _, host := range []string{"127.0.0.1", "[::1]"} {
		require.Contains(t, ns.run(t, "curl", "-sS", "--fail", "-g", "--retry", "20", "--retry-all-errors", "http://"+host+":8080/"), "Hello from", host)
	}
	errs := p.interrupt()
	require.Contains(t, errs, "DHCP lease acquired")

	ns.startHelper(t, "ready", "http", ":8000")
	for _, url := range []string{"http://192.168.69.1:8000/", "http://[2001:db8:69::1]:8000/"} {
		require.Equal(t, "hello\n", ns.run(t, exe, "get", "-auto", "-stream", "unix:"+socket, url))
	}
}

// TestServeCommandServesAVirtualMachine has a second usernet host in place of QEMU. The server stays when
// the machine is started again.
func TestServeCommandServesAVirtualMachine(t *testing.T) {
	t.Parallel()
	need(t)
	exe := build(t)
	ns := newNamespace(t)
	dir := t.TempDir()
	for name, c := range map[string][2][]string{
		"stream, unix": {{"-stream", "listen:unix:" + dir + "/vm"}, {"-stream", "unix:" + dir + "/vm"}},
		"stream, tcp":  {{"-stream", "listen:tcp:127.0.0.1:7777"}, {"-stream", "tcp:127.0.0.1:7777"}},
		"dgram, unix":  {{"-dgram", "unix:" + dir + "/a," + dir + "/b"}, {"-dgram", "unix:" + dir + "/b," + dir + "/a"}},
		"dgram, udp":   {{"-dgram", "udp:127.0.0.1:7001,127.0.0.1:7002"}, {"-dgram", "udp:127.0.0.1:7002,127.0.0.1:7001"}},
	} {
		p, line := ns.start(t, append([]string{exe, "serve"}, c[0]...)...)
		require.Equal(t, "serving on http://192.0.2.2/ and http://[2001:db8::2]/ (Ctrl-C ends)", line, name)
		for range 2 {
			for _, url := range []string{"http://192.0.2.2/", "http://[2001:db8::2]/"} {
				args := append([]string{exe, "get", "-mac", "02:00:00:00:00:07", "-addr", "192.0.2.3/24", "-addr", "2001:db8::3/64", url}, c[1]...)
				require.Contains(t, ns.run(t, args...), "Hello from", name)
			}
		}
		p.interrupt()
	}
}

// A recorded ping is replayed to a host, which answers.
func TestAReplayedPingIsAnswered(t *testing.T) {
	t.Parallel()
	need(t, "ping", "tcpdump")
	ns, h := newLink(t, "ping", "tcpdump")
	file := filepath.Join(t.TempDir(), "ping.pcap")
	log := ns.background(t, "tcpdump", "-i", tapName, "-U", "-w", file, "icmp and src "+kernelAddr)
	for end := time.Now().Add(patience); !strings.Contains(log(), "listening on"); time.Sleep(10 * time.Millisecond) {
		require.True(t, time.Now().Before(end), log())
	}
	ns.run(t, "ping", "-q", "-c", "3", "-i", "0.05", ourAddr)
	mac := h.Interfaces()[1].MAC
	var record []byte
	for end := time.Now().Add(patience); countPackets(record) < 3; time.Sleep(10 * time.Millisecond) {
		require.True(t, time.Now().Before(end), "tcpdump has not written the frames")
		record, _ = os.ReadFile(file)
	}
	replay, err := nic.OpenReplay(bytes.NewReader(record), nic.ReplayConfig{MAC: mac, Speed: 10})
	require.NoError(t, err)
	again, err := usernet.New(usernet.Config{NIC: replay, Addrs: []netip.Prefix{netip.MustParsePrefix(ourAddr + "/24")}})
	require.NoError(t, err)
	defer again.Close()
	select {
	case <-again.Done():
	case <-time.After(patience):
		t.Fatal("the replay does not end")
	}
	require.ErrorContains(t, again.Err(), "EOF")
	require.Equal(t, uint64(3), again.Stats().ICMP.Received)
}

// countPackets returns the number of whole packets in a capture, which may end within a packet.
func countPackets(b []byte) (n int) {
	r, err := pcap.NewReader(bytes.NewReader(b))
	for err == nil {
		if _, err = r.Next(); err == nil {
			n++
		}
	}
	return n
}
