//go:build linux

package taptest

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
)

// fetch6 downloads from a kernel's server on port 8000 and uploads to it, and compares the SHA-256.
func fetch6(t *testing.T, h *usernet.Host, n int64) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DialContext: h.DialContext}}
	defer client.CloseIdleConnections()
	base := "http://[" + kernelAddr6 + "]:8000"
	resp, err := client.Get(fmt.Sprintf("%s/content?n=%d", base, n))
	require.NoError(t, err)
	require.Equal(t, contentSum(t, n), sumOf(t, resp.Body), "download of %d bytes", n)
	require.NoError(t, resp.Body.Close())
	req, err := http.NewRequest(http.MethodPut, base+"/sum", content(n))
	require.NoError(t, err)
	resp, err = client.Do(req)
	require.NoError(t, err)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, fmt.Sprintf("%d %s\n", n, contentSum(t, n)), string(body), "upload of %d bytes", n)
}

func TestUsernetClientFetchesOverIPv6(t *testing.T) {
	t.Parallel()
	for _, plain := range []bool{false, true} {
		ns, h := newLink6(t, plain)
		ns.startHelper(t, "ready", "http", "["+kernelAddr6+"]:8000")
		for _, n := range []int64{0, 1, 1428, 100_000, someBulk} {
			fetch6(t, h, n)
		}
	}
}

func TestUsernetClientFetchesOverIPv6ThroughLoss(t *testing.T) {
	t.Parallel()
	ns, h := newLink6(t, true, "nft") // of super-frames there are too few to lose one
	ns.startHelper(t, "ready", "http", "["+kernelAddr6+"]:8000")
	ns.drop(t)
	fetch6(t, h, 8<<20)
	in, out := ns.dropped(t)
	require.NotZero(t, in)
	require.NotZero(t, out)
}

// Both ends answer for a closed port: TCP with a reset, UDP with an ICMPv6 error.
func TestClosedPortsOfIPv6AreRefused(t *testing.T) {
	t.Parallel()
	ns, h := newLink6(t, false, "curl")
	_, errs, err := ns.try(t, "curl", "-6", "-sS", "--connect-timeout", "30", "http://["+ourAddr6+"]:81/")
	require.Error(t, err)
	require.Regexp(t, `Failed to connect|Could not connect|refused`, errs)
	_, err = h.DialTimeout("tcp", "["+kernelAddr6+"]:81", 30*time.Second)
	require.EqualError(t, err, "dial tcp ["+kernelAddr6+"]:81: connect: connection refused")
	var theirs net.Conn
	require.NoError(t, ns.inside(func() (err error) {
		theirs, err = net.Dial("udp", "["+ourAddr6+"]:81")
		return err
	}))
	defer theirs.Close()
	ours, err := h.Dial("udp", "["+kernelAddr6+"]:81")
	require.NoError(t, err)
	defer ours.Close()
	for _, c := range []net.Conn{theirs, ours} {
		_, err = c.Write([]byte("anybody?"))
		require.NoError(t, err)
		require.NoError(t, c.SetReadDeadline(time.Now().Add(30*time.Second)))
		_, err = c.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
	}
}

// RFC 4443 and RFC 8200 4: what the kernel thinks of our Parameter Problem, and tshark of all that passes.
func TestSharkFindsNothingWrongInACaptureOfIPv6(t *testing.T) {
	t.Parallel()
	need(t, "tshark", "curl", "ping", "nc")
	for name, plain := range map[string]bool{"super-frames": false, "plain frames": true} {
		t.Run(name, func(t *testing.T) { captureIPv6(t, plain) })
	}
}

func captureIPv6(t *testing.T, plain bool) {
	ns := newNamespace(t)
	file := filepath.Join(t.TempDir(), "run.pcapng")
	f, err := os.Create(file)
	require.NoError(t, err)
	defer f.Close()
	tap := ns.openTAP(t, plain)
	ns.run(t, "ip", "-6", "addr", "add", kernelAddr6+"/64", "dev", tapName, "nodad")
	capt := nic.Capture(tap, f, nic.CaptureConfig{})
	h, err := usernet.New(usernet.Config{NIC: capt, Addrs: []netip.Prefix{netip.MustParsePrefix(ourAddr6 + "/64")}})
	require.NoError(t, err)
	defer h.Close()
	serveSite(t, h)
	serveEcho(t, h)
	ns.startHelper(t, "ready", "http", "["+kernelAddr6+"]:8000")

	url := "http://[" + ourAddr6 + "]"
	ns.shell(t, fmt.Sprintf("curl -6 -sS --fail '%s/content?n=3000000' > /dev/null", url))
	ns.shell(t, fmt.Sprintf("%s 3000000 | curl -6 -sS --fail -T - '%s/sum'", self(t, "generate"), url))
	ns.run(t, "ping", "-6", "-q", "-c", "5", "-i", "0.002", "-s", "1452", ourAddr6)
	ns.shell(t, "echo a datagram | nc -6 -u -W 1 -w 30 "+ourAddr6+" 7")
	_, _, err = ns.try(t, "curl", "-6", "-sS", "http://["+ourAddr6+"]:81/")
	require.Error(t, err)
	ns.try(t, "bash", "-c", "echo x | nc -6 -u -w 1 "+ourAddr6+" 81")
	require.NoError(t, ns.inside(func() error {
		// A protocol that is not known.
		c, err := net.Dial("ip6:253", ourAddr6)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte("who?"))
		return err
	}))
	_, err = h.Dial("tcp", "["+kernelAddr6+"]:81")
	require.Error(t, err)
	fetch6(t, h, 1_000_000)
	pc, err := h.ListenPacket("udp", ":0")
	require.NoError(t, err)
	var ms []usernet.Message
	for i := range 6 {
		to := &net.UDPAddr{IP: net.ParseIP(kernelAddr6), Port: 9}
		ms = append(ms, usernet.Message{Buffers: [][]byte{bytes.Repeat([]byte{byte(i)}, 1200)}, Addr: to})
	}
	n, err := pc.(*usernet.UDPConn).WriteBatch(ms, 0)
	require.NoError(t, err)
	require.Equal(t, len(ms), n)
	require.NoError(t, h.Close())
	require.NoError(t, capt.Err())
	require.NoError(t, f.Close())

	there := []string{"icmpv6.type == 128", "icmpv6.type == 129", "icmpv6.type == 1 && icmpv6.code == 4", "icmpv6.type == 4 && icmpv6.code == 1",
		"icmpv6.type == 135", "icmpv6.type == 136", "udp", "tcp.flags.reset == 1", "tcp.flags.fin == 1",
		"tcp.checksum.status == 1 && tcp.srcport == 80", "ipv6.src == " + ourAddr6 + " && tcp && ipv6.flow != 0"}
	absent := []string{"_ws.malformed || tcp.checksum.status == 0 && tcp.checksum != 0xffff || udp.checksum.status == 0 || icmpv6.checksum.status == 0",
		"tcp.checksum == 0xffff && ipv6.src == " + ourAddr6,
		"ipv6.src == " + ourAddr6 + " && tcp && ipv6.flow == 0",
		"tcp.analysis.ack_lost_segment || tcp.analysis.window_full && tcp.analysis.zero_window_probe && tcp.len > 1"}
	if plain {
		absent = append(absent, "frame.len > 1514")
	} else {
		there = append(there, "udp.dstport == 9 && udp.length == 7208 && udp.checksum.status == 1", "frame.len > 20000")
	}
	for i, n := range ns.shark(t, file, slices.Concat(there, absent)) {
		if i < len(there) {
			require.Positive(t, n, "the capture has no %q", there[i])
		} else {
			require.Zero(t, n, "the capture has %q", absent[i-len(there)])
		}
	}
}
