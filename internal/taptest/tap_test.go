//go:build linux

package taptest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
)

// serveSite serves site over usernet on port 80, with an unmodified http.Server.
func serveSite(t *testing.T, h *usernet.Host) {
	t.Helper()
	ln, err := h.Listen("tcp", ":80")
	require.NoError(t, err)
	srv := &http.Server{Handler: site()}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
}

// serveEcho serves TCP and UDP echo over usernet on port 7.
func serveEcho(t *testing.T, h *usernet.Host) {
	t.Helper()
	ln, err := h.Listen("tcp", ":7")
	require.NoError(t, err)
	pc, err := h.ListenPacket("udp", ":7")
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close(); pc.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			pc.WriteTo(buf[:n], from)
		}
	}()
}

// curlDownload downloads n bytes with curl and compares their hash.
func curlDownload(t *testing.T, ns *namespace, e end, n int64) {
	t.Helper()
	out := ns.shell(t, fmt.Sprintf("curl -sS --fail '%s?n=%d' | sha256sum", e.url("/content"), n))
	require.Equal(t, contentSum(t, n), strings.Fields(out)[0], "the SHA-256 of what curl got")
}

// curlUpload uploads n bytes with curl and compares the hash of the received data.
func curlUpload(t *testing.T, ns *namespace, e end, n int64) {
	t.Helper()
	out := ns.shell(t, fmt.Sprintf("%s %d | curl -sS --fail -T - '%s'", self(t, "generate"), n, e.url("/sum")))
	require.Equal(t, fmt.Sprintf("%d %s\n", n, contentSum(t, n)), out, "the SHA-256 of what the server got")
}

// fetch downloads n bytes from the kernel's server on port 8000, uploads n bytes to it, and compares the
// hashes.
func fetch(t *testing.T, h *usernet.Host, e end, n int64) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DialContext: h.DialContext}}
	defer client.CloseIdleConnections()
	base := "http://" + strings.Replace(e.at("8000"), "%", "%25", 1)
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

// TestLargeTransfersAreIntact makes each side download from the other and upload to it, over each
// family.
func TestLargeTransfersAreIntact(t *testing.T) {
	t.Parallel()
	onBothLinks(t, []string{"curl", "sha256sum"}, func(t *testing.T, ns *namespace, h *usernet.Host, plain bool) {
		serveSite(t, h)
		ns.startHelper(t, "ready", "http", ":8000")
		size := bulk
		if plain {
			size = someBulk
		}
		for _, e := range families {
			curlDownload(t, ns, e, size)
			curlUpload(t, ns, e, size)
			fetch(t, h, e, someBulk)
		}
	})
}

func TestLargeTransfersAreIntactThroughLossInEachDirection(t *testing.T) {
	t.Parallel()
	onBothLinks(t, []string{"curl", "sha256sum", "nft"}, func(t *testing.T, ns *namespace, h *usernet.Host, plain bool) {
		serveSite(t, h)
		ns.drop(t)
		// A super-frame is lost as a whole, so more bytes are needed for the same number of losses.
		size := bulk
		if plain {
			size = someBulk
		}
		for _, e := range families {
			beforeIn, beforeOut := ns.dropped(t)
			in, out := beforeIn, beforeOut
			for in == beforeIn || out == beforeOut { // a transfer may lose nothing
				curlDownload(t, ns, e, size)
				curlUpload(t, ns, e, size)
				in, out = ns.dropped(t)
			}
			t.Logf("%s: the kernel dropped %d packets of ours and %d of its own", e.name, in-beforeIn, out-beforeOut)
		}
	})
}

func TestManyCurlsAtOnceAreServed(t *testing.T) {
	t.Parallel()
	ns, h := newLink(t, "curl", "sha256sum")
	serveSite(t, h)
	const curls, size = 100, 256 << 10
	want := contentSum(t, size)
	for _, e := range families {
		dir := t.TempDir()
		out := ns.shell(t, fmt.Sprintf(
			"curl -sS --fail --http1.1 --parallel --parallel-immediate --parallel-max %[1]d -w '%%{http_code} %%{size_download}\\n' -o '%[4]s/got_#1' '%[2]s?n=%[3]d&i=[1-%[1]d]'",
			curls, strings.NewReplacer("[", `\[`, "]", `\]`).Replace(e.url("/content")), size, dir))
		require.Equal(t, strings.Repeat(fmt.Sprintf("200 %d\n", size), curls), out)
		files, err := filepath.Glob(dir + "/got_*")
		require.NoError(t, err)
		require.Len(t, files, curls)
		for _, line := range strings.Split(strings.TrimSpace(ns.shell(t, "sha256sum "+dir+"/got_*")), "\n") {
			require.Equal(t, want, strings.Fields(line)[0], line)
		}
	}

	// Each curl is its own process, so that the clients share nothing.
	out := ns.shell(t, fmt.Sprintf(
		"for i in $(seq %d); do curl -sS --fail '%s?n=%d' | sha256sum & curl -sS --fail -g '%s?n=%[3]d' | sha256sum & done; wait",
		curls/2, families[0].url("/content"), size, families[1].url("/content")))
	require.Equal(t, strings.Repeat(want+"  -\n", curls), out)
}

// TestPingAnswersEverySizeWithoutLoss makes the kernel send and receive packets of all sizes.
//
// RFC 8200 MUST-31 MUST-32.
func TestPingAnswersEverySizeWithoutLoss(t *testing.T) {
	t.Parallel()
	onBothLinks(t, []string{"ping"}, func(t *testing.T, ns *namespace, h *usernet.Host, plain bool) {
		for _, e := range ns.ends(t, h) {
			header, most := 20+8, 65507
			if e.v6() {
				header, most = 40+8, 65527
			}
			// Send one packet of each size that fits in a frame, and several packets of sizes that are at
			// a limit or larger than a frame.
			ping := fmt.Sprintf("ping %s -q -W 5", e.flag)
			if !plain {
				require.Empty(t, ns.shell(t, fmt.Sprintf(
					"for s in $(seq 0 %d %d); do %s -c 1 -s $s %s >/dev/null || echo lost $s; done", pingStep, 1500-header, ping, e.ours)))
			}
			// If a packet is too short for a timestamp, ping does not know the round-trip time and
			// waits for the last answer only as long as the interval. These sizes run alone.
			require.Empty(t, ns.shell(t, fmt.Sprintf(
				"for s in 0 1 7 8 9 15; do for i in $(seq %d); do %s -c 1 -s $s %s >/dev/null || echo lost $s; done; done", pings/2, ping, e.ours)))
			for _, size := range []int{16, 17, 18, 19, 56, 1499 - header, 1500 - header, 1501 - header, 1480, 4000, 30000, 65000, most} {
				// Send one packet at a time (-A), because two dozen of the largest packets would fill the
				// device's queue. TestPingFloodIsAnsweredWithoutLoss sends many packets at a time.
				ns.pingWithoutLoss(t, e, pings, "-A", "-s", fmt.Sprint(size))
			}
		}
		st := h.Stats().IP
		require.NotZero(t, st.Reassembled)
		require.Zero(t, st.ReassemblyFailed)
	})
}

func TestPingFloodIsAnsweredWithoutLoss(t *testing.T) {
	ns, _ := newLink(t, "ping")
	for _, e := range families {
		ns.pingWithoutLoss(t, e, 10000, "-f")
	}
}

// pingWithoutLoss runs ping, and waits until the kernel has counted an answer to each of the n requests.
// With -A and -f, ping itself waits for the last answers only two round trips, which is too short on a
// loaded machine: its own count of answers may be too small. The namespace must have no other pings.
func (ns *namespace) pingWithoutLoss(t *testing.T, e end, n int, args ...string) {
	t.Helper()
	before := ns.echoReplies(t, e)
	args = append([]string{"ping", e.flag, "-q", "-W", "5", "-c", fmt.Sprint(n)}, args...)
	out := ns.run(t, append(args, e.ours)...)
	require.Contains(t, out, fmt.Sprintf("%d packets transmitted", n), "%v", args)
	require.NotRegexp(t, "duplicates|errors|corrupted|wrong", out, "%v", args)
	require.Eventually(t, func() bool { return ns.echoReplies(t, e) == before+n }, patience, 10*time.Millisecond, "%v: %s", args, out)
}

// echoReplies returns the number of echo replies that the kernel has received in the namespace.
func (ns *namespace) echoReplies(t *testing.T, e end) (n int) {
	t.Helper()
	name := "IcmpInEchoReps"
	if e.v6() {
		name = "Icmp6InEchoReplies"
	}
	out := ns.run(t, "nstat", "-asz", name)
	i := strings.Index(out, name)
	require.GreaterOrEqual(t, i, 0, out)
	_, err := fmt.Sscan(out[i+len(name):], &n)
	require.NoError(t, err)
	return n
}

func TestUsernetPingsTheKernel(t *testing.T) {
	t.Parallel()
	ns, h := newLink(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, e := range ns.ends(t, h) {
		for _, size := range []int{0, 1, 56, 1452, 1453, 1472, 1473, 5000, 65000} {
			st, err := h.Ping(ctx, e.kernel, usernet.PingConfig{Count: 20, Interval: -1, Timeout: 30 * time.Second, Size: size})
			require.NoError(t, err)
			require.Equal(t, 20, st.Sent, "size %d", size)
			require.Equal(t, 20, st.Received, "size %d", size)
		}
	}
	require.NotEmpty(t, h.Neighbors())
}

func TestADeletedDeviceLosesNoAcknowledgedData(t *testing.T) {
	t.Parallel()
	need(t)
	for name, open := range map[string]func(*testing.T, bool) (*namespace, nic.Device){
		tapName: func(t *testing.T, plain bool) (*namespace, nic.Device) { return newTAP(t, plain) },
		tunName: func(t *testing.T, plain bool) (*namespace, nic.Device) { return newTUN(t, plain) },
	} {
		t.Run(name, func(t *testing.T) {
			ns, dev := open(t, false)
			vanish(t, ns, newHost(t, dev), name)
		})
	}
}

// vanish deletes the host's device, whose interface has the given name, while the host holds data that it has
// acknowledged and that has not been read.
func vanish(t *testing.T, ns *namespace, h *usernet.Host, name string) {
	ln, err := h.Listen("tcp", ":5000")
	require.NoError(t, err)
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := ln.Accept()
		if err == nil {
			accepted <- c
		}
	}()
	const sent = 32 << 10
	ns.startHelper(t, "acknowledged", "send", ourAddr+":5000", fmt.Sprint(sent))
	var c net.Conn
	select {
	case c = <-accepted:
	case <-time.After(patience):
		t.Fatal("the connection was not accepted")
	}
	defer c.Close()
	ns.run(t, "ip", "link", "del", name)
	waitDown(t, h, name)

	// The kernel has an acknowledgement for all data, so the host must still deliver all of it.
	got := make([]byte, sent)
	require.NoError(t, c.SetReadDeadline(time.Now().Add(patience)))
	_, err = io.ReadFull(c, got)
	require.NoError(t, err)
	want, err := io.ReadAll(content(sent))
	require.NoError(t, err)
	require.Equal(t, want, got)

	// No more data will arrive. Read returns an error like those of package net, and not EOF.
	require.NoError(t, c.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
	_, err = c.Read(got)
	requireOpError(t, err, "read")
	require.NotErrorIs(t, err, io.EOF)

	// New connections and datagrams fail, too.
	_, err = h.DialTimeout("tcp", kernelAddr+":81", 30*time.Second)
	requireOpError(t, err, "dial")
	require.Regexp(t, `network is (unreachable|down)|no route to host`, err.Error())
	pc, err := h.ListenPacket("udp", ":0")
	require.NoError(t, err)
	_, err = pc.WriteTo([]byte("x"), &net.UDPAddr{IP: net.ParseIP(kernelAddr), Port: 7})
	requireOpError(t, err, "write")
	require.Regexp(t, `network is (unreachable|down)|no route to host`, err.Error())

	// Close still wakes blocked calls.
	woken := make(chan error, 1)
	require.NoError(t, c.SetReadDeadline(time.Time{}))
	go func() {
		_, err := c.Read(got)
		woken <- err
	}()
	require.NoError(t, h.Close())
	select {
	case err = <-woken:
		requireOpError(t, err, "read")
	case <-time.After(patience):
		t.Fatal("the reader was not woken")
	}
}

// waitDown waits until the host has noticed that its device is gone.
func waitDown(t *testing.T, h *usernet.Host, name string) {
	t.Helper()
	require.Eventually(t, func() bool {
		for _, ifc := range h.Interfaces() {
			if ifc.Name == name {
				return !ifc.Up
			}
		}
		return true
	}, patience, time.Millisecond, "the device is gone, and the host says that it is up")
}

// requireOpError checks that err is a *net.OpError of the operation, and not wrapped, as package net
// returns errors.
func requireOpError(t *testing.T, err error, op string) {
	t.Helper()
	require.Error(t, err)
	operr, ok := err.(*net.OpError)
	require.True(t, ok, "%T: %v", err, err)
	require.Equal(t, op, operr.Op)
}

// This test does not run in parallel, because a process that another test is starting may keep a closed
// device open.
func TestMissingAndBusyDevicesAreClearErrors(t *testing.T) {
	need(t)
	ns := newNamespace(t)
	tap := ns.openTAP(t, false)
	open := func(name string) error {
		return ns.inside(func() error {
			second, err := nic.OpenTAP(nic.TAPConfig{Name: name})
			if err == nil {
				second.Close()
			}
			return err
		})
	}
	err := open(tapName)
	require.ErrorIs(t, err, syscall.EBUSY)
	require.Regexp(t, regexp.QuoteMeta(tapName), err.Error())

	err = open("lo")
	require.ErrorIs(t, err, syscall.EINVAL)
	require.Regexp(t, `not a TAP`, err.Error())

	err = open("a-name-that-is-too-long")
	require.Error(t, err)
	require.Contains(t, err.Error(), "longer than 15 bytes")

	require.NoError(t, tap.Close())
	_, err = tap.Send([]nic.Frame{{Head: make([]byte, 60)}})
	require.ErrorIs(t, err, net.ErrClosed)
	out := ns.run(t, "ip", "-o", "link")
	require.NotContains(t, out, tapName, "a device that OpenTAP made is gone after Close")
}

func TestTakenPortAndMalformedAddressAreClearErrors(t *testing.T) {
	t.Parallel()
	_, h := newLink(t)
	ln, err := h.Listen("tcp", ":80")
	require.NoError(t, err)
	defer ln.Close()
	_, err = h.Listen("tcp", ":80")
	requireOpError(t, err, "listen")
	require.ErrorIs(t, err, syscall.EADDRINUSE)
	require.Regexp(t, `^listen tcp .*:80: bind: address already in use$`, err.Error())

	for address, want := range map[string]string{
		"192.0.2.1":        "dial tcp: address 192.0.2.1: missing port in address",
		"192.0.2.1:http:1": "dial tcp: address 192.0.2.1:http:1: too many colons in address",
		"192.0.2.1:99999":  "dial tcp: address 99999: invalid port",
		"192.0.2.1:nosuch": "dial tcp: lookup tcp/nosuch: unknown port",
	} {
		_, err = h.Dial("tcp", address)
		requireOpError(t, err, "dial")
		require.EqualError(t, err, want)
	}
	_, err = h.Dial("carrier-pigeon", "192.0.2.1:80")
	require.True(t, errors.As(err, new(net.UnknownNetworkError)), "%v", err)
}
