package main

import (
	"bytes"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic/pcap"
	"github.com/usernet/usernet/stack/wire"
)

// captureFile writes a capture and returns its name. The capture has an ARP request, an echo request, an
// echo request that is cut off, an echo request without an Ethernet header, and a packet of an unknown link type.
func captureFile(t *testing.T) string {
	t.Helper()
	arp := make([]byte, wire.EthernetLen+wire.ARPLen)
	eth := wire.Ethernet{Dst: wire.Broadcast(), Src: wire.MAC{2, 0, 0, 0, 0, 1}, Type: wire.EtherTypeARP}
	eth.Put(arp)
	req := wire.ARP{Op: wire.ARPRequest, SenderMAC: eth.Src, SenderIP: netip.MustParseAddr("192.0.2.1"), TargetIP: netip.MustParseAddr("192.0.2.2")}
	req.Put(arp[wire.EthernetLen:])

	echo := make([]byte, wire.EthernetLen+wire.IPv4Len+wire.ICMPLen+4)
	eth = wire.Ethernet{Dst: wire.MAC{2, 0, 0, 0, 0, 2}, Src: wire.MAC{2, 0, 0, 0, 0, 1}, Type: wire.EtherTypeIPv4}
	eth.Put(echo)
	ip := wire.IPv4{TTL: 64, Proto: wire.ProtoICMP, Src: netip.MustParseAddr("192.0.2.1"), Dst: netip.MustParseAddr("192.0.2.2")}
	ip.Put(echo[wire.EthernetLen:], wire.ICMPLen+4)
	icmp := wire.ICMP{Type: wire.ICMPEcho, Rest: wire.EchoRest(7, 1)}
	icmp.Put(echo[wire.EthernetLen+wire.IPv4Len:], []byte("ping"))

	var buf bytes.Buffer
	w, err := pcap.NewWriter(&buf, pcap.Interface{Link: pcap.LinkEthernet})
	require.NoError(t, err)
	at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.Local)
	for i, p := range []pcap.Packet{
		{Data: arp, Len: len(arp), Direction: pcap.Outbound},
		{Data: echo, Len: len(echo), Direction: pcap.Inbound},
		{Data: echo[:20], Len: len(echo)},
	} {
		p.Time, p.Link = at.Add(time.Duration(i)*time.Second), pcap.LinkEthernet
		require.NoError(t, w.Write(p))
	}
	require.NoError(t, w.Write(pcap.Packet{Data: echo[14:], Len: len(echo) - 14, Time: at, Link: pcap.LinkRaw}))
	require.NoError(t, w.Write(pcap.Packet{Data: []byte("radio"), Len: 5, Time: at, Link: 105})) // 105 is IEEE 802.11
	name := filepath.Join(t.TempDir(), "capture")
	require.NoError(t, os.WriteFile(name, buf.Bytes(), 0o644))
	return name
}

func TestDumpPrintsACapture(t *testing.T) {
	name := captureFile(t)
	code, out, errs := runLine(t, "dump", "-r", name)
	require.Equal(t, exitOK, code, errs)
	require.Equal(t, `03:04:05.000006 out  02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff ARP who-has 192.0.2.2 tell 192.0.2.1
03:04:06.000006 in   02:00:00:00:00:01 > 02:00:00:00:00:02 IPv4 192.0.2.1 > 192.0.2.2 ICMP echo id=7 seq=1 len=4
03:04:07.000006 02:00:00:00:00:01 > 02:00:00:00:00:02 IPv4 [short IPv4 packet, 6 bytes] [20 of 46 bytes captured]
03:04:05.000006 IPv4 192.0.2.1 > 192.0.2.2 ICMP echo id=7 seq=1 len=4
03:04:05.000006 link type 105 len=5
`, out)

	_, out, _ = runLine(t, "dump", "-r", name, "-c", "1", "icmp", "or", "tcp")
	require.Equal(t, 1, strings.Count(out, "\n"))
	require.Contains(t, out, "echo id=7")

	_, out, _ = runLine(t, "dump", "-r", name, "-x", "arp")
	require.Contains(t, out, `
    0x0000: ffff ffff ffff 0200 0000 0001 0806 0001  ................
    0x0010: 0800 0604 0001 0200 0000 0001 c000 0201  ................
    0x0020: 0000 0000 0000 c000 0202                 ..........

`)
	_, out, _ = runLine(t, "dump", "-vv", "-r", name, "icmp and src 192.0.2.1")
	require.Contains(t, out, "\nEthernet\n    destination: 02:00:00:00:00:02\n")
	require.Contains(t, out, "\nICMP\n    type: 8 (echo)\n")
}

func TestDumpWritesWhatTheFilterSelects(t *testing.T) {
	name := captureFile(t)
	to := filepath.Join(t.TempDir(), "to")
	code, out, errs := runLine(t, "dump", "-r", name, "-w", to, "icmp")
	require.Equal(t, exitOK, code, errs)
	code, again, errs := runLine(t, "dump", "-r", to)
	require.Equal(t, exitOK, code, errs)
	require.Equal(t, out, again)
	require.Equal(t, 2, strings.Count(out, "\n"))

	code, out, errs = runLine(t, "dump", "-r", name, "-w", to, "udp")
	require.Equal(t, exitOK, code, errs)
	require.Empty(t, out)
	f, err := os.Open(to)
	require.NoError(t, err)
	defer f.Close()
	r, err := pcap.NewReader(f)
	require.NoError(t, err, "a capture without packets is a capture")
	_, err = r.Next()
	require.Equal(t, io.EOF, err)
}

func TestDumpSaysWhatIsWrong(t *testing.T) {
	name := captureFile(t)
	b, err := os.ReadFile(name)
	require.NoError(t, err)
	cut := filepath.Join(t.TempDir(), "cut")
	require.NoError(t, os.WriteFile(cut, b[:len(b)-6], 0o644))
	code, out, errs := runLine(t, "dump", "-r", cut)
	require.Equal(t, exitFailure, code)
	require.Equal(t, 4, strings.Count(out, "\n"), "the frames before it are printed")
	require.Contains(t, errs, "unexpected EOF")
	code, _, errs = runLine(t, "dump", "-r", cut+"ting")
	require.Equal(t, exitFailure, code)
	require.Contains(t, errs, "no such file")
	for line, want := range map[string]string{
		"-r x tpc port 80":    `filter: "tpc" at byte 0: allowed here are host, net,`,
		"-r x -i eth0":        "-r and -i: there is only one source of frames",
		"-r x -answer":        "-r and -answer",
		"-r x -pcap y":        "-r and -pcap",
		"-wire":               "ping -wire -v shows frames there",
		"-c -1":               "-c is negative",
		"-i eth0 -vde /x":     "-i and -vde: there is only one link",
		"-stream x -tap tap0": "-stream and -tap: there is only one link",
		"-i eth0 -plain":      "a packet socket always has offloads",
		"-i eth0 -answer":     "-i needs -addr",
		"-dgram x -stream y":  "-stream and -dgram: there is only one link",
	} {
		code, _, errs := runLine(t, append([]string{"dump"}, strings.Fields(line)...)...)
		require.Equal(t, exitUsage, code, line)
		require.Contains(t, errs, want, line)
	}
	for line, want := range map[string]string{
		"-stream x":              "-stream x: it is unix:PATH or tcp:IP:PORT",
		"-stream tcp:host:1":     `"host:1" is not an IP address with a port`,
		"-stream unix:/nowhere":  "no such file or directory",
		"-dgram udp:127.0.0.1:0": "it is unix:PATH, unix:PATH,PATH or udp:IP:PORT,IP:PORT",
		"-vde /nowhere[0]":       "a port is a number from 1 to 255",
	} {
		code, _, errs := runLine(t, append([]string{"dump"}, strings.Fields(line)...)...)
		require.Equal(t, exitFailure, code, line)
		require.Contains(t, errs, want, line)
	}
	code, _, errs = runLine(t, "serve", "-i", "lo")
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "-i needs -addr, an address on the network of the interface, or -auto")
}
