//go:build linux

package taptest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
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

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
)

// serveSite serves site over usernet on port 80, with an unchanged http.Server.
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

// curlDownload fetches n bytes with curl and compares their hash.
func curlDownload(t *testing.T, ns *namespace, n int64) {
	t.Helper()
	out := ns.shell(t, fmt.Sprintf("curl -sS --fail http://%s/content?n=%d | sha256sum", ourAddr, n))
	require.Equal(t, contentSum(t, n), strings.Fields(out)[0], "the SHA-256 of what curl got")
}

// curlUpload sends n bytes with curl and compares the hash of what arrived.
func curlUpload(t *testing.T, ns *namespace, n int64) {
	t.Helper()
	out := ns.shell(t, fmt.Sprintf("%s %d | curl -sS --fail -T - http://%s/sum", self(t, "generate"), n, ourAddr))
	require.Equal(t, fmt.Sprintf("%d %s\n", n, contentSum(t, n)), out, "the SHA-256 of what the server got")
}

func TestCurlDownloadsAndUploadsIntact(t *testing.T) {
	t.Parallel()
	onBothLinks(t, []string{"curl", "sha256sum"}, func(t *testing.T, ns *namespace, h *usernet.Host, plain bool) {
		serveSite(t, h)
		large := int64(bulk)
		if plain {
			large = someBulk
		}
		for _, n := range []int64{0, 1, 1448, 1449, 100_000, large} {
			curlDownload(t, ns, n)
			curlUpload(t, ns, n)
		}
	})
}

func TestCurlDownloadsAndUploadsIntactThroughLossInEachDirection(t *testing.T) {
	t.Parallel()
	onBothLinks(t, []string{"curl", "sha256sum", "nft"}, func(t *testing.T, ns *namespace, h *usernet.Host, plain bool) {
		serveSite(t, h)
		ns.drop(t)
		// A super-frame is lost as a whole: it takes more bytes for as many losses.
		size := int64(bulk)
		if plain {
			size = someBulk
		}
		curlDownload(t, ns, size)
		curlUpload(t, ns, size)
		in, out := ns.dropped(t)
		require.Positive(t, in, "packets of ours that the kernel dropped")
		require.Positive(t, out, "packets of its own that the kernel dropped")
		t.Logf("the kernel dropped %d packets of ours and %d of its own", in, out)
	})
}

func TestManyCurlsAtOnceAreServed(t *testing.T) {
	t.Parallel()
	ns, h := newLink(t, "curl", "sha256sum")
	serveSite(t, h)
	const curls, size = 200, 256 << 10
	dir := t.TempDir()
	out := ns.shell(t, fmt.Sprintf(
		"curl -sS --fail --http1.1 --parallel --parallel-immediate --parallel-max %[1]d -w '%%{http_code} %%{size_download}\\n' -o '%[4]s/got_#1' 'http://%[2]s/content?n=%[3]d&i=[1-%[1]d]'",
		curls, ourAddr, size, dir))
	require.Equal(t, strings.Repeat(fmt.Sprintf("200 %d\n", size), curls), out)
	files, err := filepath.Glob(dir + "/got_*")
	require.NoError(t, err)
	require.Len(t, files, curls)
	want := contentSum(t, size)
	for _, line := range strings.Split(strings.TrimSpace(ns.shell(t, "sha256sum "+dir+"/got_*")), "\n") {
		require.Equal(t, want, strings.Fields(line)[0], line)
	}

	// And as many processes, so that nothing is shared.
	out = ns.shell(t, fmt.Sprintf(
		"for i in $(seq %d); do curl -sS --fail 'http://%s/content?n=%d' | sha256sum & done; wait", curls, ourAddr, size))
	require.Equal(t, strings.Repeat(want+"  -\n", curls), out)
}

func TestPingAnswersEverySizeWithoutLoss(t *testing.T) {
	t.Parallel()
	ns, _ := newLink(t, "ping")
	// Every size that fits a frame, once, and those at an edge, or larger than a
	// frame, many times.
	out := ns.shell(t, fmt.Sprintf(
		"for s in $(seq 0 %d 1472); do ping -q -M do -c 1 -W 5 -s $s %s >/dev/null || echo lost $s; done", pingStep, ourAddr))
	require.Empty(t, out)
	// Without room for a time ping does not know how long an answer takes, and waits for
	// the last no longer than from one to the next: those go alone.
	require.Empty(t, ns.shell(t, fmt.Sprintf(
		"for s in 0 1 7 8 9 15; do for i in $(seq 50); do ping -q -c 1 -W 5 -s $s %s >/dev/null || echo lost $s; done; done", ourAddr)))
	for _, size := range []int{16, 17, 18, 19, 56, 1471, 1472, 1473, 1480, 4000, 30000, 65507} {
		// One at a time (-A): two dozen of the largest would fill the device's queue, and after the
		// last ping waits for answers no longer than two round trips, which a loaded machine exceeds.
		// TestPingFloodIsAnsweredWithoutLoss has many under way.
		out := ns.run(t, "ping", "-q", "-A", "-c", "100", "-W", "5", "-s", fmt.Sprint(size), ourAddr)
		require.Contains(t, out, "100 packets transmitted, 100 received, 0% packet loss", "size %d", size)
	}
}

func TestPingFloodIsAnsweredWithoutLoss(t *testing.T) {
	ns, _ := newLink(t, "ping")
	out := ns.run(t, "ping", "-q", "-f", "-c", "10000", ourAddr)
	require.Contains(t, out, "10000 packets transmitted, 10000 received, 0% packet loss")
}

func TestUsernetPingsTheKernel(t *testing.T) {
	t.Parallel()
	_, h := newLink(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for _, size := range []int{0, 1, 56, 1472} {
		st, err := h.Ping(ctx, kernelAddr, usernet.PingConfig{Count: 20, Interval: -1, Timeout: 30 * time.Second, Size: size})
		require.NoError(t, err)
		require.Equal(t, 20, st.Sent, "size %d", size)
		require.Equal(t, 20, st.Received, "size %d", size)
	}
}

func TestNetcatAndSocatAreEchoed(t *testing.T) {
	t.Parallel()
	ns, h := newLink(t, "nc", "socat", "sha256sum")
	serveEcho(t, h)
	const size = 1 << 20
	want := contentSum(t, size) + "  -\n"
	for _, c := range []struct{ name, command string }{
		{"nc", "nc -N " + ourAddr + " 7"},
		{"socat", "socat -t 60 - TCP:" + ourAddr + ":7"},
	} {
		t.Run(c.name+" over TCP", func(t *testing.T) {
			require.Equal(t, want, ns.shell(t, fmt.Sprintf("%s %d | %s | sha256sum", self(t, "generate"), size, c.command)))
		})
	}
	for _, c := range []struct{ name, command string }{
		{"nc", "nc -u -W 1 -w 30 " + ourAddr + " 7"},
		{"socat", "socat -t 1 - UDP:" + ourAddr + ":7"},
	} {
		t.Run(c.name+" over UDP", func(t *testing.T) {
			require.Equal(t, "a datagram\n", ns.shell(t, "echo a datagram | "+c.command))
			// One that is sent in several fragments, and comes back so.
			const large = 8000
			require.Equal(t, contentSum(t, large)+"  -\n",
				ns.shell(t, fmt.Sprintf("%s %d | %s | sha256sum", self(t, "generate"), large, strings.Replace(c.command, "socat", "socat -b 65507", 1))))
		})
	}
}

func TestUsernetClientFetchesFromAKernelServer(t *testing.T) {
	t.Parallel()
	onBothLinks(t, nil, func(t *testing.T, ns *namespace, h *usernet.Host, plain bool) {
		ns.startHelper(t, "ready", "http", kernelAddr+":8000")
		client := &http.Client{Transport: &http.Transport{DialContext: h.DialContext}}
		defer client.CloseIdleConnections()
		base := "http://" + kernelAddr + ":8000"
		for _, n := range []int64{0, 1, 100_000, someBulk} {
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
	})
}

func TestWrkSeesNoError(t *testing.T) {
	t.Parallel()
	ns, h := newLink(t, "wrk")
	serveSite(t, h)
	out := ns.run(t, "wrk", "-t", "2", "-c", "64", "-d", wrkPeriod, "http://"+ourAddr+"/")
	t.Log(out)
	require.NotContains(t, out, "Socket errors")
	require.NotContains(t, out, "Non-2xx")
	require.Regexp(t, `[1-9]\d* requests in`, out)
}

func TestWrkSeesNoErrorWithAConnectionForEachRequest(t *testing.T) {
	t.Parallel()
	ns, h := newLink(t, "wrk")
	serveSite(t, h)
	out := ns.run(t, "wrk", "-t", "2", "-c", "64", "-d", "2s", "-H", "Connection: close", "http://"+ourAddr+"/")
	t.Log(out)
	require.NotContains(t, out, "Socket errors")
	require.NotContains(t, out, "Non-2xx")
	require.Regexp(t, `[1-9]\d* requests in`, out)
}

func TestConnectionToAClosedPortIsRefusedInBothDirections(t *testing.T) {
	t.Parallel()
	ns, h := newLink(t, "curl", "nc")
	_, errs, err := ns.try(t, "curl", "-sS", "--connect-timeout", "30", "http://"+ourAddr+":81/")
	require.Error(t, err)
	require.Regexp(t, `Failed to connect|Could not connect|refused`, errs)
	var exit interface{ ExitCode() int }
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 7, exit.ExitCode(), "curl says that it could not connect, not that time ran out")

	_, err = h.DialTimeout("tcp", kernelAddr+":81", 30*time.Second)
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	require.EqualError(t, err, "dial tcp "+kernelAddr+":81: connect: connection refused")

	// UDP learns it from ICMP.
	c, err := h.Dial("udp", kernelAddr+":81")
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Write([]byte("anybody?"))
	require.NoError(t, err)
	require.NoError(t, c.SetReadDeadline(time.Now().Add(30*time.Second)))
	_, err = c.Read(make([]byte, 1))
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
}

// faulty is what tshark shows of frames that are not as they should be.
// Where the sum of a segment is 0, the kernel writes 0xffff (CSUM_MANGLED_0), which tshark calls bad.
const faulty = "_ws.malformed || ip.checksum.status == 0 || tcp.checksum.status == 0 && tcp.checksum != 0xffff || " +
	"udp.checksum.status == 0 || icmp.checksum.status == 0 || tcp.checksum == 0xffff && ip.src == " + ourAddr

func TestSharkFindsNothingWrongInACapture(t *testing.T) {
	t.Parallel()
	need(t, "tshark", "curl", "ping", "nc")
	for name, plain := range map[string]bool{"super-frames": false, "plain frames": true} {
		t.Run(name, func(t *testing.T) { captureARun(t, plain) })
	}
}

// captureARun has a bit of everything pass, and looks at it with tshark.
func captureARun(t *testing.T, plain bool) {
	ns := newNamespace(t)
	file := filepath.Join(t.TempDir(), "run.pcapng")
	f, err := os.Create(file)
	require.NoError(t, err)
	defer f.Close()
	capt := nic.Capture(ns.openTAP(t, plain), f, nic.CaptureConfig{})
	h := newHost(t, capt)
	serveSite(t, h)
	serveEcho(t, h)
	ns.startHelper(t, "ready", "http", kernelAddr+":8000")

	curlDownload(t, ns, 3<<20)
	curlUpload(t, ns, 3<<20)
	ns.run(t, "ping", "-q", "-c", "5", "-i", "0.002", "-s", "1472", ourAddr)
	ns.run(t, "ping", "-q", "-c", "5", "-i", "0.002", "-s", "5000", ourAddr)
	ns.shell(t, "echo a datagram | nc -u -W 1 -w 30 "+ourAddr+" 7")
	_, _, err = ns.try(t, "curl", "-sS", "http://"+ourAddr+":81/")
	require.Error(t, err)
	_, _, err = ns.try(t, "bash", "-c", "echo x | nc -u -w 1 "+ourAddr+" 81")
	_ = err // whether nc minds the ICMP error is its own affair
	_, err = h.Dial("tcp", kernelAddr+":81")
	require.Error(t, err)
	client := &http.Client{Transport: &http.Transport{DialContext: h.DialContext}}
	resp, err := client.Get("http://" + kernelAddr + ":8000/content?n=1000000")
	require.NoError(t, err)
	require.Equal(t, contentSum(t, 1_000_000), sumOf(t, resp.Body))
	require.NoError(t, resp.Body.Close())
	client.CloseIdleConnections()
	sendBatch(t, h)
	require.NoError(t, h.Close())
	require.NoError(t, capt.Err())
	require.NoError(t, f.Close())

	there := []string{"arp", "icmp.type == 8", "icmp.type == 0", "icmp.code == 3", "udp", "ip.flags.mf == 1",
		"tcp.flags.reset == 1", "tcp.flags.fin == 1", "tcp.checksum.status == 1 && tcp.srcport == 80"}
	// What is not a fault of a frame but would be one of ours is the second.
	absent := []string{faulty, "tcp.analysis.ack_lost_segment || tcp.analysis.window_full && tcp.analysis.zero_window_probe && tcp.len > 1"}
	if plain {
		absent = append(absent, "frame.len > 1514")
	} else { // the batch in one frame
		there = append(there, "udp.dstport == 9 && udp.length == 7208 && udp.checksum.status == 1")
	}
	for i, n := range ns.shark(t, file, slices.Concat(there, absent)) {
		if i < len(there) {
			require.Positive(t, n, "the capture has no %q", there[i])
		} else {
			require.Zero(t, n, "the capture has %q", absent[i-len(there)])
		}
	}
}

// shark tells how many frames of a capture each of the filters has, in one run of tshark:
// to start it takes longer than to read the file.
func (ns *namespace) shark(t *testing.T, file string, filters []string) (frames []int) {
	t.Helper()
	// A port that the system has chosen may be that of a protocol which tshark knows.
	const chosen = ".port==32768-60999,data"
	out := ns.run(t, "tshark", "-q", "-r", file, "-d", "tcp"+chosen, "-d", "udp"+chosen, "-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE",
		"-o", "udp.check_checksum:TRUE", "-z", "io,stat,0,"+strings.Join(filters, ","))
	for line := range strings.Lines(out) {
		if !strings.Contains(line, "<>") {
			continue
		}
		// | interval | frames | bytes | frames | bytes | ... |
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

// sendBatch sends datagrams that the device may carry in one frame.
func sendBatch(t *testing.T, h *usernet.Host) {
	t.Helper()
	pc, err := h.ListenPacket("udp", ":0")
	require.NoError(t, err)
	defer pc.Close()
	var ms []usernet.Message
	for i := range 6 {
		to := &net.UDPAddr{IP: net.ParseIP(kernelAddr), Port: 9}
		ms = append(ms, usernet.Message{Buffers: [][]byte{bytes.Repeat([]byte{byte(i)}, 1200)}, Addr: to})
	}
	n, err := pc.(*usernet.UDPConn).WriteBatch(ms, 0)
	require.NoError(t, err)
	require.Equal(t, len(ms), n)
}

func TestDeviceThatVanishesLosesNothingThatWasAcknowledged(t *testing.T) {
	t.Parallel()
	ns, h := newLink(t)
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
	ns.run(t, "ip", "link", "del", tapName)
	waitDown(t, h)

	// The kernel had an acknowledgement for all of it.
	got := make([]byte, sent)
	require.NoError(t, c.SetReadDeadline(time.Now().Add(patience)))
	_, err = io.ReadFull(c, got)
	require.NoError(t, err)
	want, err := io.ReadAll(content(sent))
	require.NoError(t, err)
	require.Equal(t, want, got)

	// More will not come, and that is an error of net's kind, not an end.
	require.NoError(t, c.SetReadDeadline(time.Now().Add(50*time.Millisecond)))
	_, err = c.Read(got)
	requireOpError(t, err, "read")
	require.NotErrorIs(t, err, io.EOF)

	// Neither new connections nor datagrams have a way out.
	_, err = h.DialTimeout("tcp", kernelAddr+":81", 30*time.Second)
	requireOpError(t, err, "dial")
	require.Regexp(t, `network is (unreachable|down)|no route to host`, err.Error())
	pc, err := h.ListenPacket("udp", ":0")
	require.NoError(t, err)
	_, err = pc.WriteTo([]byte("x"), &net.UDPAddr{IP: net.ParseIP(kernelAddr), Port: 7})
	requireOpError(t, err, "write")
	require.Regexp(t, `network is (unreachable|down)|no route to host`, err.Error())

	// Close still wakes whoever waits.
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

// waitDown waits until the host knows that its device is gone.
func waitDown(t *testing.T, h *usernet.Host) {
	t.Helper()
	require.Eventually(t, func() bool {
		for _, ifc := range h.Interfaces() {
			if ifc.Name == tapName {
				return !ifc.Up
			}
		}
		return true
	}, patience, time.Millisecond, "the device is gone, and the host says that it is up")
}

// requireOpError checks that err is what package net's functions return: a bare
// *net.OpError of the operation.
func requireOpError(t *testing.T, err error, op string) {
	t.Helper()
	require.Error(t, err)
	operr, ok := err.(*net.OpError)
	require.True(t, ok, "%T: %v", err, err)
	require.Equal(t, op, operr.Op)
}

// Not in parallel: a process that another test is just starting keeps a closed device.
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
