//go:build linux

package taptest

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/nic/ppp"
)

// newUMLEthernet boots a guest with an Ethernet, and returns our end of the Ethernet. imp impairs the frames in both
// directions.
func newUMLEthernet(t *testing.T, imp nic.Impairment, modules ...string) (*uml, nic.Device) {
	t.Helper()
	wire, guest := socketPair(t, unix.SOCK_DGRAM)
	u := bootUML(t, umlConfig{modules: modules, ether: []*os.File{guest}})
	guest.Close()
	u.run(t, pppSecrets+"ip link set vec0 up")
	eth := nic.FromReadWriter(socketConn(t, wire), nic.Link{Name: "eth", MTU: 1500})
	return u, nic.Impair(eth, nic.ImpairConfig{Out: imp, In: imp, Seed: 3})
}

// rp-pppoe's server gives the host a session, and the host uses it. The server ends the session, and gives the host
// another one. When the host is closed, that session ends on the server too.
func TestHostUsesAPPPoEServer(t *testing.T) {
	t.Parallel()
	need(t, "linux.uml", "pppd", "pppoe-server", "curl", "ping", "busybox")
	u, eth := newUMLEthernet(t, nic.Impairment{}, "ppp_async", "pppoe")
	u.run(t, `
		cat >/run/options <<-END
			require-chap
			ipv6 ::1,::2
			ms-dns 198.51.100.1
			noccp
			debug
			logfile /run/ppp.log
		END
		pppoe-server -I vec0 -C isp -S internet -S tv -L `+pppd4+` -R `+ours4+` -N 4 -O /run/options`)
	dev, err := ppp.NewClient(eth, ppp.ClientConfig{
		Service: "internet", ACName: "isp",
		Config: ppp.Config{User: "joe", Password: "secret", DefaultRoute: true},
	})
	require.NoError(t, err)
	h := pppHost(t, dev)
	serveSite(t, h)
	awaitNegotiation(t, u, dev)
	require.Equal(t, 1492, dev.Link().MTU)
	require.Equal(t, "[198.51.100.1]", fmt.Sprint(dev.Config().DNS))
	usePPP(t, u, h, "ppp0", 1<<20)

	u.run(t, "pkill -TERM -x pppd") // ends the session
	require.Eventually(t, func() bool { return dev.LinkErr() != nil }, patience, time.Millisecond)
	awaitNegotiation(t, u, dev)
	require.NoError(t, h.Close())
	u.run(t, "for i in {1..600}; do pgrep -x pppd >/dev/null || exit 0; sleep 0.1; done; cat /run/ppp.log; false")
}

// The guest is a client of our server: with the PPPoE of its kernel, and with rp-pppoe's program. Frames are
// lost in both directions.
func TestGuestUsesOurPPPoEServer(t *testing.T) {
	t.Parallel()
	need(t, "linux.uml", "pppd", "pppoe", "curl", "ping", "busybox")
	for name, pppd := range map[string]string{
		"kernel":  "plugin rp-pppoe.so vec0 rp_pppoe_service internet",
		"program": "pty 'pppoe -I vec0 -S internet -C usernet -m 1412'",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u, eth := newUMLEthernet(t, nic.Impairment{Loss: 0.02, Duplicate: 0.01}, "ppp_async", "pppoe")
			server, err := ppp.NewServer(eth, ppp.ServerConfig{
				Services: []string{"internet"},
				Session: func(s ppp.Session) (ppp.Config, error) {
					return ppp.Config{
						Name: "ppp0", Local: netip.MustParseAddr(ours4), Remote: netip.MustParseAddr(pppd4),
						Authenticate: func(user string) (string, bool) { return "secret", user == "joe" },
					}, nil
				},
			})
			require.NoError(t, err)
			t.Cleanup(func() { server.Close() })
			u.run(t, "setsid pppd "+pppd+" user joe noauth noipdefault +ipv6 ipv6cp-accept-local nodetach persist holdoff 1 maxfail 0 debug logfile /run/ppp.log >/dev/null 2>&1 &")
			// With frames lost, a session may end during its negotiation. pppd then begins another.
			var dev *ppp.Device
			var h *usernet.Host
			for tries := 0; dev == nil; tries++ {
				require.Less(t, tries, 20)
				dev, err = server.Accept()
				require.NoError(t, err)
				h = pppHost(t, dev)
				for end := time.Now().Add(patience); len(dev.Config().Addrs) < 2 || !dev.Link().Up; time.Sleep(10 * time.Millisecond) {
					require.True(t, time.Now().Before(end), "%v\n%s", dev.LinkErr(), pppLog(t, u))
					if dev.Err() != nil {
						h.Close()
						dev = nil
						break
					}
				}
			}
			serveSite(t, h)
			require.Equal(t, "joe", dev.Peer())
			usePPP(t, u, h, "ppp0", 256<<10)
			require.Equal(t, 1, server.Sessions())
			u.run(t, "pkill -TERM -x pppd") // ends the session
			select {
			case <-h.Done():
			case <-time.After(patience):
				t.Fatal("the end of the session is not noticed")
			}
			require.Error(t, dev.Err())
			require.Eventually(t, func() bool { return server.Sessions() == 0 }, patience, 10*time.Millisecond)
		})
	}
}

// openPTY returns the master of a new pseudo-terminal, and the name of its other end.
func openPTY(t *testing.T) (master *os.File, name string) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	master = os.NewFile(uintptr(fd), "ptmx")
	t.Cleanup(func() { master.Close() })
	require.NoError(t, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	require.NoError(t, err)
	name = fmt.Sprintf("/dev/pts/%d", n)
	// Until the command opens the other end, nothing may be echoed.
	other, err := os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { other.Close() })
	out, err := exec.Command("stty", "-F", name, "raw", "-echo").CombinedOutput()
	require.NoError(t, err, "%s", out)
	return master, name
}

// passwordFile returns the name of a file with joe's password.
func passwordFile(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(name, []byte("secret\n"), 0o600))
	return name
}

// useServe fetches the page of a usernet serve from the guest by the host's IPv4 and link-local addresses,
// and ends the program.
func useServe(t *testing.T, u *uml, p *program, line string) {
	t.Helper()
	require.Regexp(t, "^serving on http://"+regexp.QuoteMeta(ours4)+"/", line)
	out := u.run(t, `
		curl -sS --fail --max-time 100 http://`+ours4+`/
		curl -gsS --fail --max-time 100 "http://[fe80::2%25ppp0]/"`)
	require.Equal(t, 2, len(regexp.MustCompile("Hello from").FindAllString(out, -1)), "%s", out)
	errs := p.interrupt()
	require.Contains(t, errs, "PPP link up")
	require.Contains(t, errs, ours4+"/32")
}

// The command serves over a pseudo-terminal on which pppd is the other end.
func TestServeOverPPP(t *testing.T) {
	t.Parallel()
	need(t, "linux.uml", "pppd", "curl", "ping", "busybox")
	exe := build(t)
	ns := newNamespace(t)
	master, line := openPTY(t)
	u := bootUML(t, umlConfig{modules: []string{"ppp_async"}, serial: master})
	master.Close()
	u.run(t, pppSecrets)
	startPPPD(t, u, "require-chap "+pppd4+":"+ours4+" ipv6 ::1,::2")
	p, first := ns.start(t, exe, "serve", "-ppp", line, "-user", "joe", "-password", passwordFile(t))
	useServe(t, u, p, first)
}

// The command serves over PPPoE on an interface of the kernel, whose other end is the guest's Ethernet.
func TestServeOverPPPoE(t *testing.T) {
	t.Parallel()
	need(t, "linux.uml", "pppd", "pppoe-server", "curl", "ping", "busybox")
	exe := build(t)
	ns := newNamespace(t)
	tap := ns.openTAP(t, true)
	u, eth := newUMLEthernet(t, nic.Impairment{}, "ppp_async", "pppoe")
	t.Cleanup(func() { eth.Close() })
	tap.Attach(func(batch []nic.Frame) { eth.Send(batch) })
	eth.Attach(func(batch []nic.Frame) { tap.Send(batch) })
	u.run(t, `
		printf '%s\n' require-chap 'ipv6 ::1,::2' noccp debug 'logfile /run/ppp.log' >/run/options
		pppoe-server -I vec0 -C isp -S internet -L `+pppd4+` -R `+ours4+` -N 4 -O /run/options`)
	p, first := ns.start(t, exe, "serve", "-pppoe", tapName, "-service", "internet", "-user", "joe", "-password", passwordFile(t))
	useServe(t, u, p, first)
	u.run(t, "for i in {1..600}; do pgrep -x pppd >/dev/null || exit 0; sleep 0.1; done; cat /run/ppp.log; false")
}
