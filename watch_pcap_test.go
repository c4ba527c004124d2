package usernet_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/nic/pcap"
	"github.com/usernet/usernet/stack"
)

// lockedBuffer collects a key log, which several goroutines may write.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// capture writes the events of a Watcher that wait as a capture, with the key log before them.
func capture(t *testing.T, w *stack.Watcher, keys []byte) string {
	t.Helper()
	var file bytes.Buffer
	out, err := pcap.NewWriter(&file, pcap.Interface{Name: "host", Link: pcap.LinkEthernet})
	require.NoError(t, err)
	require.NoError(t, out.WriteKeyLog(keys))
	for {
		e, err := w.Next(context.Background())
		if errors.Is(err, net.ErrClosed) {
			break
		}
		require.NoError(t, err)
		require.Zero(t, e.Lost)
		p := pcap.Packet{Data: e.Data, Len: e.Len, Time: e.Time, Link: pcap.LinkEthernet, Direction: pcap.Inbound, Comment: e.Why()}
		if !e.Ethernet {
			p.Link = pcap.LinkRaw
		}
		if e.Outbound {
			p.Direction = pcap.Outbound
		}
		require.NoError(t, out.Write(p))
	}
	name := filepath.Join(t.TempDir(), "watched.pcapng")
	require.NoError(t, os.WriteFile(name, file.Bytes(), 0o644))
	return name
}

// TestWiresharkDecryptsWhatAHostSawAndSaysWhatWasDropped writes what a Watcher saw of an HTTPS request and of a dropped
// datagram as a capture. tshark must find the request and the comment.
func TestWiresharkDecryptsWhatAHostSawAndSaysWhatWasDropped(t *testing.T) {
	tshark, err := exec.LookPath("tshark")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("tshark is not installed")
		}
		t.Skip("tshark is not installed")
	}
	a, b := nic.Pipe(nic.PipeConfig{})
	host, err := usernet.New(usernet.Config{NIC: a, Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}})
	require.NoError(t, err)
	defer host.Close()
	peer, err := usernet.New(usernet.Config{NIC: b, Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24")}})
	require.NoError(t, err)
	defer peer.Close()
	w, err := host.Watch(stack.WatchConfig{Frames: true, Drops: true, Buffer: 64 << 20})
	require.NoError(t, err)
	defer w.Close()

	ln, err := host.Listen("tcp", ":443")
	require.NoError(t, err)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "the secret of "+r.URL.Path)
	}))
	server.Listener.Close()
	server.Listener = ln
	server.StartTLS()
	defer server.Close()
	var keys lockedBuffer
	client := &http.Client{Transport: &http.Transport{
		DialContext:     peer.DialContext,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true, KeyLogWriter: &keys},
	}}
	res, err := client.Get("https://192.0.2.1/well-kept")
	require.NoError(t, err)
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Equal(t, "the secret of /well-kept", string(body))
	client.CloseIdleConnections()
	conn, err := peer.Dial("udp", "192.0.2.1:9999")
	require.NoError(t, err)
	_, err = conn.Write([]byte("to nobody"))
	require.NoError(t, err)
	require.NoError(t, conn.Close())
	require.NoError(t, host.Close())

	name := capture(t, w, keys.b.Bytes())
	fields := func(filter string, fields ...string) string {
		args := []string{"-r", name, "-n", "-Y", filter, "-T", "fields"}
		for _, f := range fields {
			args = append(args, "-e", f)
		}
		out, err := exec.Command(tshark, args...).Output()
		require.NoError(t, err)
		return strings.TrimSpace(string(out))
	}
	require.Equal(t, "/well-kept", fields("http.request", "http.request.uri"))
	data := fields("http.response", "http.file_data") // text or hexadecimal: this depends on the version
	require.Contains(t, []string{string(body), fmt.Sprintf("%x", body)}, data)
	why := fields("frame.comment", "udp.dstport", "frame.comment")
	require.Contains(t, why, `9999`)
	require.Contains(t, why, `dropped: UDP port without a socket - RFC 1122 4.1.3.1: "UDP SHOULD send an ICMP Port Unreachable message."`)
	require.Empty(t, fields("tcp.checksum.status == 0 || udp.checksum.status == 0", "frame.number"))
}
