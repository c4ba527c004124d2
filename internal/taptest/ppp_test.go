//go:build linux

package taptest

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/nic/ppp"
)

// The addresses of both ends of a PPP link. They are the same as on a TAP.
const (
	pppd4, pppd6 = kernelAddr, kernelAddr6
	ours4, ours6 = ourAddr, ourAddr6
)

// pppSecrets makes a new /etc/ppp for the guest. Its only users are joe and isp, and it hides the options of the
// machine.
const pppSecrets = `
mount -t tmpfs none /etc/ppp
echo 'joe * secret *
isp * other *' | tee /etc/ppp/chap-secrets >/etc/ppp/pap-secrets
touch /etc/ppp/options
chmod 600 /etc/ppp/*-secrets
`

// startPPPD starts pppd on the guest's serial line 1 with more options.
func startPPPD(t *testing.T, u *uml, options string) {
	t.Helper()
	u.run(t, `setsid pppd ttyS1 115200 local nocrtscts nodetach persist holdoff 1 maxfail 0 debug logfile /run/ppp.log `+options+` >/dev/null 2>&1 &`)
}

// pppLog returns what pppd has logged.
func pppLog(t *testing.T, u *uml) string {
	out, _ := u.try(t, "cat /run/ppp.log")
	return out
}

// pppHost makes a host on a device, with an address of IPv6 beside those that are negotiated.
func pppHost(t *testing.T, dev nic.Device) *usernet.Host {
	t.Helper()
	h, err := usernet.New(usernet.Config{NIC: dev, Addrs: []netip.Prefix{netip.MustParsePrefix(ours6 + "/64")}})
	require.NoError(t, err)
	t.Cleanup(func() { h.Close() })
	return h
}

// awaitNegotiation waits until the device has both families.
func awaitNegotiation(t *testing.T, u *uml, dev *ppp.Device) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if dev.Link().Up && len(dev.Config().Addrs) == 2 {
			return
		}
		err4, err6 := dev.FamilyErrs()
		require.True(t, time.Now().Before(end) && dev.Err() == nil, "%v, %v, %v, %v\n%s", dev.LinkErr(), err4, err6, dev.Err(), pppLog(t, u))
	}
}

// usePPP runs traffic of both families between the host and the guest, whose interface is dev: ping, and
// HTTP with size bytes each way, checked by their SHA-256.
func usePPP(t *testing.T, u *uml, h *usernet.Host, dev string, size int64) {
	t.Helper()
	u.run(t, fmt.Sprintf(`
		for i in {1..1200}; do ip -br addr show %[1]s | grep -q %[2]s && break; sleep 0.1; done
		ip -6 addr add %[3]s/64 dev %[1]s nodad
		ping -c 3 -i 0.2 -W 30 %[4]s
		ping -6 -c 3 -i 0.2 -W 30 %[5]s`, dev, pppd4, pppd6, ours4, ours6))
	for _, to := range []string{pppd4, pppd6, guestLinkLocal(t, u, dev)} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		for answered := 0; answered == 0; { // frames may be lost
			st, err := h.Ping(ctx, to, usernet.PingConfig{Count: 1})
			require.NoError(t, err, "%s", to)
			answered = st.Received
		}
		cancel()
	}
	for _, url := range []string{"http://" + ours4, "http://[" + ours6 + "]"} {
		out := u.run(t, fmt.Sprintf(`
			curl -gsS --fail --max-time 150 '%[1]s/content?n=%[2]d' >/run/content
			sha256sum </run/content
			curl -gsS --fail --max-time 150 -T /run/content %[1]s/sum`, url, size))
		sum := contentSum(t, size)
		require.Equal(t, []string{sum, "-", fmt.Sprint(size), sum}, strings.Fields(out))
	}
	// Now the host is the client.
	u.run(t, "mkdir -p /run/www; cp /run/content /run/www; busybox httpd -p 8000 -h /run/www >/dev/null 2>&1") // httpd listens when the script ends
	client := &http.Client{Transport: &http.Transport{DialContext: h.DialContext, DisableKeepAlives: true}, Timeout: patience}
	for _, url := range []string{"http://" + pppd4, "http://[" + pppd6 + "]"} {
		resp, err := client.Get(url + ":8000/content")
		require.NoError(t, err)
		require.Equal(t, contentSum(t, size), sumOf(t, resp.Body))
		resp.Body.Close()
	}
}

// guestLinkLocal returns the link-local address of the guest's interface dev, with the host's interface, ppp0, as its
// zone.
func guestLinkLocal(t *testing.T, u *uml, dev string) string {
	t.Helper()
	out := u.run(t, "ip -6 -o addr show dev "+dev+" scope link | sed 's/.*inet6 \\([^ /]*\\).*/\\1/'")
	return strings.TrimSpace(out) + "%ppp0"
}

// pppd assigns the addresses. With CHAP both ends authenticate themselves, and with PAP only the host does. Data of
// both families crosses the link in both directions. Then pppd negotiates the link again, and the host ends it.
func TestHostDialsIntoPPPD(t *testing.T) {
	t.Parallel()
	need(t, "linux.uml", "pppd", "curl", "ping", "busybox")
	for _, method := range []string{"chap", "pap"} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			serial, guest := socketPair(t, unix.SOCK_STREAM)
			u := bootUML(t, umlConfig{modules: []string{"ppp_async", "ppp_deflate"}, serial: guest})
			guest.Close()
			u.run(t, pppSecrets)
			cfg := ppp.Config{User: "joe", Password: "secret", DefaultRoute: true, InterfaceID: 2}
			options := "require-" + method
			if method == "pap" {
				cfg.Methods = ppp.PAP
			} else {
				cfg.Authenticate = func(user string) (string, bool) { return "other", user == "isp" }
				options += " user isp remotename joe"
			}
			startPPPD(t, u, options+" "+pppd4+":"+ours4+" ipv6 ::1,::2 ms-dns 198.51.100.1 ms-dns 198.51.100.2")
			dev, err := ppp.New(socketConn(t, serial), cfg)
			require.NoError(t, err)
			h := pppHost(t, dev)
			serveSite(t, h)
			awaitNegotiation(t, u, dev)
			require.Equal(t, "["+ours4+"/32 fe80::2/64]", fmt.Sprint(dev.Config().Addrs))
			require.Equal(t, "[198.51.100.1 198.51.100.2]", fmt.Sprint(dev.Config().DNS))
			size := int64(1 << 20)
			if method == "pap" {
				size = 64 << 10
			}
			usePPP(t, u, h, "ppp0", size)

			// pppd renegotiates.
			u.run(t, "pkill -HUP -x pppd")
			require.Eventually(t, func() bool { return dev.LinkErr() != nil }, patience, 10*time.Millisecond)
			require.ErrorContains(t, dev.LinkErr(), "the peer has terminated the link")
			awaitNegotiation(t, u, dev)
			require.NoError(t, h.Close())
			u.run(t, "for i in {1..600}; do grep -q 'LCP terminated by peer' /run/ppp.log && exit; sleep 0.1; done; cat /run/ppp.log; false")
		})
	}
}

// A lossyLine loses every 40th Write.
type lossyLine struct {
	net.Conn
	writes atomic.Int64
}

func (l *lossyLine) Write(b []byte) (int, error) {
	if l.writes.Add(1)%40 == 0 {
		return len(b), nil
	}
	return l.Conn.Write(b)
}

// pppd is the client: it authenticates itself, and gets its address and name servers. Frames are lost.
func TestPPPDDialsIntoAHost(t *testing.T) {
	t.Parallel()
	need(t, "linux.uml", "pppd", "curl", "ping", "busybox")
	for _, method := range []ppp.Methods{ppp.CHAP, ppp.PAP} {
		t.Run(fmt.Sprint(method), func(t *testing.T) {
			t.Parallel()
			serial, guest := socketPair(t, unix.SOCK_STREAM)
			u := bootUML(t, umlConfig{modules: []string{"ppp_async", "ppp_deflate"}, serial: guest})
			guest.Close()
			u.run(t, pppSecrets)
			dev, err := ppp.New(&lossyLine{Conn: socketConn(t, serial)}, ppp.Config{
				Local: netip.MustParseAddr(ours4), Remote: netip.MustParseAddr(pppd4), MTU: 1400,
				DNS: []netip.Addr{netip.MustParseAddr("198.51.100.1")}, Methods: method,
				Authenticate: func(user string) (string, bool) { return "secret", user == "joe" },
			})
			require.NoError(t, err)
			h := pppHost(t, dev)
			serveSite(t, h)
			startPPPD(t, u, "noauth user joe usepeerdns noipdefault defaultroute ipv6cp-accept-local +ipv6")
			awaitNegotiation(t, u, dev)
			require.Equal(t, "joe", dev.Peer())
			usePPP(t, u, h, "ppp0", 64<<10)
			require.Contains(t, u.run(t, "ip link show ppp0"), "mtu 1400")
			log := pppLog(t, u)
			require.Contains(t, log, "primary   DNS address 198.51.100.1")
			require.NoError(t, h.Close())
		})
	}
}

// pppd has the wrong password. The log of both ends says so, and nothing hangs.
func TestHostRefusesPPPD(t *testing.T) {
	t.Parallel()
	need(t, "linux.uml", "pppd")
	serial, guest := socketPair(t, unix.SOCK_STREAM)
	u := bootUML(t, umlConfig{modules: []string{"ppp_async"}, serial: guest})
	guest.Close()
	u.run(t, pppSecrets)
	dev, err := ppp.New(socketConn(t, serial), ppp.Config{
		Local: netip.MustParseAddr(ours4), Remote: netip.MustParseAddr(pppd4),
		Authenticate: func(user string) (string, bool) { return "changed", true },
	})
	require.NoError(t, err)
	pppHost(t, dev)
	startPPPD(t, u, "noauth user joe")
	require.Eventually(t, func() bool { return dev.LinkErr() != nil }, patience, 10*time.Millisecond)
	require.ErrorContains(t, dev.LinkErr(), `the user name or password of the peer, "joe", is wrong`)
	u.run(t, "for i in {1..600}; do grep -q 'CHAP authentication failed' /run/ppp.log && exit; sleep 0.1; done; cat /run/ppp.log; false")
}
