package nic

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/usernet/usernet/nic/pcap"
	"github.com/usernet/usernet/stack/wire"
)

// bigPayload is a payload that makes a super-frame of almost MaxGSO bytes.
const bigPayload = MaxGSO - 100

// bigSpecs returns super-frames of TCP that are too long for the length fields of their IP headers.
func bigSpecs() map[string]packetSpec {
	return map[string]packetSpec{
		"tcp4":         {tcp: true, options: pattern(12)},
		"tcp6":         {tcp: true, v6: true},
		"tcp4 on vlan": {tcp: true, vlan: true},
		"tcp6 on vlan": {tcp: true, vlan: true, v6: true},
		"tcp4 on ip":   {tcp: true, medium: IP},
		"tcp6 on ip":   {tcp: true, medium: IP, v6: true},
	}
}

func TestALargeSuperFrameIsCutIntoThePacketsThatItStandsFor(t *testing.T) {
	for name, spec := range bigSpecs() {
		for _, n := range []int{65535, 70_001, bigPayload} {
			t.Run(fmt.Sprint(name, " ", n), func(t *testing.T) {
				checkCut(t, spec, n, 1448, true)
				checkCut(t, spec, n, 9000, false)
			})
		}
	}
}

func TestOnlyTCPHasLargeSuperFrames(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, tcp := range []bool{false, true} {
			for gso, passes := range map[int]bool{0: false, 65535: false, MaxGSO: tcp} {
				a, b := Pipe(PipeConfig{GSO: gso})
				a.Attach(func([]Frame) {})
				var r recorder
				b.Attach(r.recv)
				f := packetSpec{tcp: tcp, v6: v6, payload: pattern(bigPayload)}.super(t, 1000, true)
				n, err := a.Send([]Frame{f})
				require.NoError(t, err)
				require.Equal(t, 1, n)
				require.Equal(t, passes, r.count() == 1, "tcp %v, IPv6 %v, GSO %d", tcp, v6, gso)
			}
		}
	}
}

// received returns the TCP payload of frames without offloads, which must be in order, and checks their headers
// and their checksums.
func received(t *testing.T, frames [][]byte) (payload []byte) {
	t.Helper()
	for _, b := range frames {
		require.LessOrEqual(t, len(b), 1514)
		h, ip, r := wire.ParseEthernet(b)
		require.Equal(t, wire.OK, r)
		require.Equal(t, wire.EtherTypeIPv4, h.Type)
		p, segment, r := wire.ParseIPv4(ip)
		require.Equal(t, wire.OK, r)
		require.True(t, wire.TCPChecksumOK(p.Src, p.Dst, segment))
		_, data, r := wire.ParseTCP(segment)
		require.Equal(t, wire.OK, r)
		payload = append(payload, data...)
	}
	return payload
}

// An impaired link, a port of a switch without super-frames, and an adapter for single frames receive segments.
func TestLargeSuperFramesAreCutForDevicesThatCannotPassThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		want := pattern(bigPayload)
		f := packetSpec{tcp: true, payload: want}.super(t, 1448, true)

		// The sender of a large super-frame is a port of the switch.
		sw := NewSwitch(SwitchConfig{GSO: MaxGSO})
		near, far := framePipe()
		sw.Attach(FromReadWriter(near, Link{}))
		port := sw.Port()
		port.Attach(func([]Frame) {})
		var got [][]byte
		done := make(chan struct{})
		go func() {
			defer close(done)
			buf := make([]byte, 2000)
			for len(got) < (bigPayload+1447)/1448 {
				n, err := far.Read(buf)
				if err != nil {
					return
				}
				got = append(got, bytes.Clone(buf[:n]))
			}
		}()
		_, err := port.Send([]Frame{f})
		require.NoError(t, err)
		<-done
		require.Equal(t, want, received(t, got), "a device on a switch")
		port.Close()
		near.Close()

		a, b := Pipe(PipeConfig{GSO: MaxGSO})
		slow := Impair(a, ImpairConfig{In: Impairment{Latency: time.Millisecond}})
		var r recorder
		slow.Attach(r.recv)
		b.Attach(func([]Frame) {})
		b.Send([]Frame{f})
		time.Sleep(time.Second)
		require.Equal(t, want, received(t, r.all()), "an impaired pipe")
	})
}

func TestATunnelCutsLargeSuperFrames(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		tun := NewTunnel(TunnelConfig{GSO: MaxGSO, MTU: 1500})
		tun.Attach(func([]Frame) {})
		want := pattern(bigPayload)
		_, err := tun.Send([]Frame{packetSpec{medium: IP, tcp: true, v6: v6, payload: want}.super(t, 1400, true)})
		require.NoError(t, err)
		bufs, sizes := tunnelBuffers(200, 2000)
		n, err := tun.Read(bufs, sizes, 0)
		require.NoError(t, err)
		require.Equal(t, (len(want)+1399)/1400, n)
		var got []byte
		for i := range n {
			header := 20 + wire.IPv4Len
			if v6 {
				header = 20 + wire.IPv6Len
			}
			got = append(got, bufs[i][header:sizes[i]]...)
			require.NotContains(t, string(wire.AppendFrame(nil, bufs[i][:sizes[i]], false)), "checksum")
		}
		require.Equal(t, want, got)
		require.NoError(t, tun.Close())
	}
}

// A capture has large super-frames in pieces with lengths in their headers. Wireshark reads them.
func TestACaptureOfLargeSuperFramesIsReadable(t *testing.T) {
	var file bytes.Buffer
	a, b := Pipe(PipeConfig{GSO: MaxGSO})
	c := Capture(a, &file, CaptureConfig{})
	c.Attach(func([]Frame) {})
	var arrived recorder
	b.Attach(arrived.recv)
	var sent []byte
	for _, v6 := range []bool{false, true} {
		f := packetSpec{tcp: true, v6: v6, payload: pattern(bigPayload)}.super(t, 1000, true)
		_, err := c.Send([]Frame{f})
		require.NoError(t, err)
		sent = append(sent, pattern(bigPayload)...)
	}
	require.NoError(t, c.Err())
	require.Equal(t, 2, arrived.count(), "the device gets them whole")

	r, err := pcap.NewReader(bytes.NewReader(file.Bytes()))
	require.NoError(t, err)
	var got []byte
	records := 0
	for p, err := r.Next(); err != io.EOF; p, err = r.Next() {
		require.NoError(t, err)
		records++
		h, ip, _ := wire.ParseEthernet(p.Data)
		require.LessOrEqual(t, len(ip), 65535)
		require.NotContains(t, wire.Describe(p.Data), "checksum", "the checksum is good")
		header := wire.IPv4Len
		if h.Type == wire.EtherTypeIPv6 {
			header = wire.IPv6Len
		}
		got = append(got, ip[header+wire.TCPLen:]...)
	}
	require.Equal(t, sent, got)
	require.Equal(t, 10, records)

	tshark, err := exec.LookPath("tshark")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("tshark is not installed")
		}
		t.Skip("tshark is not installed")
	}
	name := filepath.Join(t.TempDir(), "big.pcapng")
	require.NoError(t, os.WriteFile(name, file.Bytes(), 0o600))
	out, err := exec.Command(tshark, "-r", name, "-n", "-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE",
		"-T", "fields", "-e", "tcp.len", "-e", "tcp.checksum.status", "-e", "_ws.malformed").Output()
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	require.Len(t, lines, records)
	total := 0
	for _, line := range lines {
		f := strings.Split(line, "\t")
		n, err := strconv.Atoi(f[0])
		require.NoError(t, err, line)
		total += n
		require.Equal(t, []string{"1", ""}, f[1:], "good, and not malformed")
	}
	require.Equal(t, len(sent), total)
}
