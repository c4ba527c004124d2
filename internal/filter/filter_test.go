package filter

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic/pcap"
	"github.com/usernet/usernet/stack/wire"
)

// ether puts an Ethernet header before a packet.
func ether(kind wire.EtherType, tag bool, b []byte) []byte {
	h := wire.Ethernet{Dst: wire.MAC{2, 0, 0, 0, 0, 2}, Src: wire.MAC{2, 0, 0, 0, 0, 1}, Type: kind}
	f := make([]byte, wire.EthernetLen)
	h.Put(f)
	if tag {
		f = append(f[:12], 0x81, 0, 0, 5, f[12], f[13])
	}
	return append(f, b...)
}

// ip returns an IP packet. ext has the extension headers of an IPv6 packet, and next is the type of the first one.
func ip(src, dst string, proto wire.Proto, ext []byte, next wire.Proto, payload []byte) []byte {
	s, d := netip.MustParseAddr(src), netip.MustParseAddr(dst)
	if s.Is4() {
		h := wire.IPv4{TTL: 64, Proto: proto, Src: s, Dst: d}
		b := make([]byte, wire.IPv4Len)
		h.Put(b, len(payload))
		return append(b, payload...)
	}
	b := make([]byte, wire.IPv6Len)
	if ext == nil {
		next = proto
	}
	b[0], b[6], b[7] = 6<<4, byte(next), 64
	binary.BigEndian.PutUint16(b[4:], uint16(len(ext)+len(payload)))
	copy(b[8:], s.AsSlice())
	copy(b[24:], d.AsSlice())
	return append(append(b, ext...), payload...)
}

// ports returns the start of a transport header.
func ports(src, dst uint16) []byte {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b, src)
	binary.BigEndian.PutUint16(b[2:], dst)
	b[12] = 5 << 4
	return b
}

func arpFrame(src, dst string) []byte {
	h := wire.ARP{Op: wire.ARPRequest, SenderIP: netip.MustParseAddr(src), TargetIP: netip.MustParseAddr(dst)}
	b := make([]byte, wire.ARPLen)
	h.Put(b)
	return ether(wire.EtherTypeARP, false, b)
}

// trace returns the frames of a trace that has each combination of protocol, end and address, and
// fragments, other protocols and frames that are cut.
func trace() (frames [][]byte) {
	add := func(src, dst string, proto wire.Proto, payload []byte) {
		kind := wire.EtherTypeIPv4
		if strings.Contains(src, ":") {
			kind = wire.EtherTypeIPv6
		}
		frames = append(frames, ether(kind, false, ip(src, dst, proto, nil, 0, payload)))
	}
	for _, pair := range [][2]string{
		{"192.0.2.1", "192.0.2.2"}, {"192.0.2.2", "198.51.100.9"}, {"203.0.113.7", "192.0.2.1"},
		{"2001:db8::1", "2001:db8::2"}, {"2001:db8:1::7", "2001:db8::1"}, {"fe80::1", "ff02::1"},
	} {
		for _, p := range [][2]uint16{{40000, 80}, {443, 50000}, {53, 53}, {80, 443}} {
			add(pair[0], pair[1], wire.ProtoTCP, ports(p[0], p[1]))
			add(pair[0], pair[1], wire.ProtoUDP, ports(p[0], p[1]))
		}
		add(pair[0], pair[1], wire.ProtoICMP, make([]byte, 8))
		add(pair[0], pair[1], wire.ProtoICMPv6, make([]byte, 8))
		add(pair[0], pair[1], wire.ProtoIGMP, make([]byte, 8))
		add(pair[0], pair[1], 89, ports(80, 443))
		add(pair[0], pair[1], protoSCTP, ports(80, 443))
		if !strings.Contains(pair[0], ":") {
			frames = append(frames, arpFrame(pair[0], pair[1]))
			later := ip(pair[0], pair[1], wire.ProtoUDP, nil, 0, ports(80, 443))
			later[7] = 9 // fragment offset
			// A header with four bytes of options.
			options := append([]byte{0x46}, append(ip(pair[0], pair[1], wire.ProtoTCP, nil, 0, nil)[1:], 1, 1, 1, 1)...)
			frames = append(frames, ether(wire.EtherTypeIPv4, false, later), ether(wire.EtherTypeIPv4, false, append(options, ports(80, 53)...)))
		}
	}
	return append(frames, ether(0x88cc, false, make([]byte, 46)))
}

// cut returns frames that end within a header. tcpdump drops such a frame as soon as a field is missing, even
// if the expression has "not" or "or" around it.
func cut() (frames [][]byte) {
	whole := trace()[0]
	six := ether(wire.EtherTypeIPv6, false, ip("2001:db8::1", "2001:db8::2", wire.ProtoTCP, nil, 0, ports(80, 443)))
	for _, n := range []int{14, 20, 24, 30, 34, 36, 38} {
		frames = append(frames, whole[:n])
	}
	for _, n := range []int{18, 21, 54, 56, 58} { // not within an address: tcpdump reads only as much of it as a prefix has
		frames = append(frames, six[:n])
	}
	return append(frames, arpFrame("192.0.2.1", "192.0.2.2")[:20])
}

// write writes frames to a file that tcpdump can read.
func write(t *testing.T, frames [][]byte) string {
	t.Helper()
	var buf bytes.Buffer
	w, err := pcap.NewWriter(&buf, pcap.Interface{Link: pcap.LinkEthernet})
	require.NoError(t, err)
	for i, f := range frames {
		require.NoError(t, w.Write(pcap.Packet{Data: f, Len: len(f), Time: time.Unix(int64(i), 0), Link: pcap.LinkEthernet}))
	}
	name := filepath.Join(t.TempDir(), "trace.pcapng")
	require.NoError(t, os.WriteFile(name, buf.Bytes(), 0o644))
	return name
}

// selected returns the numbers of the frames that an expression selects, as tcpdump -tttt prints their times.
func selected(t *testing.T, expr string, frames [][]byte) (numbers []string) {
	t.Helper()
	f, err := Parse(expr)
	require.NoError(t, err, expr)
	for i, b := range frames {
		if f.Match(b, true) {
			numbers = append(numbers, time.Unix(int64(i), 0).UTC().Format("15:04:05"))
		}
	}
	return numbers
}

// expressions are the expressions that the tests give to Parse and to tcpdump.
var expressions = []string{
	"ip", "ip6", "arp", "tcp", "udp", "icmp", "icmp6", "igmp",
	"host 192.0.2.1", "src host 192.0.2.1", "dst host 192.0.2.1", "src 192.0.2.1", "dst 2001:db8::1", "host fe80::1",
	"ip host 192.0.2.1", "arp host 192.0.2.1", "ip6 host 2001:db8::1", "arp src host 192.0.2.2", "ip dst 192.0.2.2",
	"net 192.0.2.0/24", "src net 192.0.2.0/24", "dst net 198.51.100.0/22", "net 2001:db8::/64", "ip6 src net 2001:db8::/32", "net 0.0.0.0/0",
	"src net 192.0.2.0/24 and dst net 192.0.2.0/24", "net 192.0.2.1", "net 192.0.2.0/31",
	"port 80", "src port 80", "dst port 80", "tcp port 80", "udp port 53", "tcp src port 443", "udp dst port 50000",
	"port 0", "port 65535",
	"not tcp", "! tcp", "not not tcp", "!!tcp", "not (tcp or udp)", "!(tcp||udp)",
	"tcp and port 80", "tcp && port 80", "tcp or arp", "tcp || arp",
	"arp or tcp and port 80", "arp or (tcp and port 80)", "tcp and port 80 or arp", "not tcp and not udp", "not tcp or not udp and ip",
	"port 80 or 443", "host 192.0.2.1 or 203.0.113.7", "not host 192.0.2.1 and 192.0.2.2", "tcp port 80 or 53",
	"src host 192.0.2.1 or 192.0.2.2", "host 192.0.2.1 and not port 80 and not 443",
	"((((ip))))", "ip and (host 192.0.2.1 or (port 53 and not (src 192.0.2.2)))",
	"host 192.0.2.1 and (port 80 or 443)",
}

// TestTcpdumpSelectsTheSameFrames gives each expression to tcpdump.
func TestTcpdumpSelectsTheSameFrames(t *testing.T) {
	tcpdump, err := exec.LookPath("tcpdump")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("tcpdump is not installed")
		}
		t.Skip("tcpdump is not installed")
	}
	frames := trace()
	// The files, by whether they have only whole frames: cut says which expressions need that.
	names := map[bool]string{true: write(t, frames), false: write(t, append(trace(), cut()...))}
	for _, expr := range expressions {
		frames := frames
		// With a prefix of length 0 tcpdump does not read the address.
		wholeOnly := strings.HasSuffix(expr, "/0") || strings.ContainsAny(expr, "!|") || strings.Contains(expr, "not") || strings.Contains(expr, " or ")
		if !wholeOnly {
			frames = append(frames, cut()...)
		}
		cmd := exec.Command(tcpdump, "-n", "-t", "-t", "-t", "-t", "-r", names[wholeOnly], expr)
		cmd.Env = append(os.Environ(), "TZ=UTC")
		var errs bytes.Buffer
		cmd.Stderr = &errs
		out, err := cmd.Output()
		require.NoError(t, err, "%s: %s", expr, errs.String())
		var want []string
		for _, line := range strings.Split(string(out), "\n") {
			if strings.HasPrefix(line, "1970-01-01 ") {
				want = append(want, line[11:19])
			}
		}
		require.Equal(t, want, selected(t, expr, frames), "%q", expr)
	}
	// Ports 0 and 65535 are in no frame. Each other expression selects some of the frames, but not all.
	for _, expr := range expressions {
		n := len(selected(t, expr, frames))
		require.True(t, (n > 0) == (expr != "port 0" && expr != "port 65535") && n < len(frames), "%q selects %d", expr, n)
	}
}

func TestAFilterSeesBehindTagsAndExtensionHeaders(t *testing.T) {
	// Extension headers. The first byte of each is the type of the next header.
	hop := []byte{58, 0, 5, 2, 0, 0, 1, 0}   // Hop-by-Hop Options: Router Alert
	first := []byte{17, 0, 0, 1, 0, 0, 0, 1} // Fragment, at offset 0
	later := []byte{17, 0, 1, 1, 0, 0, 0, 1} // Fragment, at offset 256
	ah := append([]byte{6, 4}, make([]byte, 22)...)
	two := append(append([]byte{44, 0}, make([]byte, 6)...), first...)
	const a, b = "2001:db8::1", "2001:db8::2"
	for name, c := range map[string]struct {
		frame   []byte
		yes, no string
	}{
		"tag":             {ether(wire.EtherTypeIPv4, true, ip("192.0.2.1", "192.0.2.2", wire.ProtoTCP, nil, 0, ports(1, 80))), "tcp dst port 80", "udp"},
		"cut in a tag":    {ether(wire.EtherTypeIPv4, true, nil)[:16], "not ip", "ip"},
		"hop-by-hop":      {ether(wire.EtherTypeIPv6, false, ip(a, b, wire.ProtoICMPv6, hop, wire.ProtoHopByHop, make([]byte, 8))), "icmp6", "tcp"},
		"first fragment":  {ether(wire.EtherTypeIPv6, false, ip(a, b, wire.ProtoUDP, first, wire.ProtoFragment, ports(1, 2))), "udp port 2", "tcp"},
		"later fragment":  {ether(wire.EtherTypeIPv6, false, ip(a, b, wire.ProtoUDP, later, wire.ProtoFragment, ports(1, 2))), "udp", "port 2"},
		"AH":              {ether(wire.EtherTypeIPv6, false, ip(a, b, wire.ProtoTCP, ah, protoAH, ports(1, 2))), "tcp port 1", "udp"},
		"two headers":     {ether(wire.EtherTypeIPv6, false, ip(a, b, wire.ProtoUDP, two, wire.ProtoDstOpts, ports(1, 2))), "udp port 1", "icmp6"},
		"cut header":      {ether(wire.EtherTypeIPv6, false, ip(a, b, wire.ProtoUDP, first, wire.ProtoFragment, nil))[:60], "ip6 host " + a, "udp"},
		"nothing but ip6": {ether(wire.EtherTypeIPv6, false, nil), "ip6", "udp"},
	} {
		f, err := Parse(c.yes)
		require.NoError(t, err)
		require.True(t, f.Match(c.frame, true), "%s: %s", name, c.yes)
		f, err = Parse(c.no)
		require.NoError(t, err)
		require.False(t, f.Match(c.frame, true), "%s: %s", name, c.no)
	}
	raw := ip(a, b, wire.ProtoTCP, nil, 0, ports(1, 80))
	f, err := Parse("ip6 and tcp port 80")
	require.NoError(t, err)
	require.True(t, f.Match(raw, false))
	require.False(t, f.Match(raw, true))
	require.False(t, f.Match(nil, false))
	f, err = Parse("  ")
	require.NoError(t, err)
	require.True(t, f.Match(nil, true), "an empty filter selects every frame")
}

func TestErrorsNameTheWordAndSayWhatIsAllowed(t *testing.T) {
	for expr, want := range map[string]string{
		"tcpp":                       `filter: "tcpp" at byte 0: ` + allowed,
		"tcp and":                    `filter: the end is missing: ` + allowed,
		"(tcp":                       `filter: the end is missing: and, or and ) are allowed here`,
		"tcp)":                       `filter: ")" at byte 3: only and, or and the end are allowed here`,
		"tcp udp":                    `filter: "udp" at byte 4: only and, or and the end are allowed here`,
		"or tcp":                     `filter: "or" at byte 0: ` + allowed,
		"()":                         `filter: ")" at byte 1: ` + allowed,
		"port http":                  `filter: "http" at byte 5: a port is a number from 0 to 65535`,
		"port 65536":                 `filter: "65536" at byte 5: a port is a number from 0 to 65535`,
		"port":                       `filter: the end is missing: a port is a number from 0 to 65535`,
		"host www.example.com":       `filter: "www.example.com" at byte 5: a host is an IPv4 or IPv6 address; names are not looked up`,
		"host fe80::1%eth0":          `filter: "fe80::1%eth0" at byte 5: an address in a packet has no zone`,
		"net 192.0.2":                `filter: "192.0.2" at byte 4: a net is an address with a prefix length, such as 192.0.2.0/24`,
		"net 192.0.2.1/24":           `filter: "192.0.2.1/24" at byte 4: the bits after the prefix are not zero; the net is 192.0.2.0/24`,
		"ip6 host 192.0.2.1":         `filter: "192.0.2.1" at byte 9: the address is of the other family`,
		"arp net 2001:db8::/32":      `filter: "2001:db8::/32" at byte 8: the address is of the other family`,
		"tcp host 192.0.2.1":         `filter: "host" at byte 4: tcp has no addresses: write tcp and ...; before host and net, allowed are ip, ip6 and arp`,
		"icmp port 7":                `filter: "port" at byte 5: icmp has no port: before port, allowed are tcp and udp`,
		"icmp6 src port 7":           `filter: "port" at byte 10: icmp6 has no port: before port, allowed are tcp and udp`,
		"arp port 7":                 `filter: "port" at byte 4: arp has no port: allowed after it are host and net; before port, allowed are tcp and udp`,
		"src tcp":                    `filter: "tcp" at byte 4: after src and dst, allowed are host, net, port and an address`,
		"port 80 or 192.0.2.1":       `filter: "192.0.2.1" at byte 11: a port is a number from 0 to 65535`,
		strings.Repeat("(", 101):     `filter: "(" at byte 100: there are more than 100 parentheses within each other`,
		strings.Repeat("not ", 5000): `filter: "not" at byte 16384: there are more than 4096 words`,
	} {
		_, err := Parse(expr)
		require.EqualError(t, err, want, "%.40q", expr)
		require.True(t, errors.As(err, new(*Error)))
	}
}

func TestMatchDoesNotAllocate(t *testing.T) {
	f, err := Parse("not (tcp port 80 or host 2001:db8::1) and net 192.0.2.0/24")
	require.NoError(t, err)
	frame := trace()[0]
	require.Zero(t, testing.AllocsPerRun(100, func() { f.Match(frame, true) }))
}

func FuzzFilter(f *testing.F) {
	for _, expr := range expressions {
		f.Add(expr, trace()[0])
	}
	f.Add("((((", []byte{})
	f.Fuzz(func(t *testing.T, expr string, frame []byte) {
		a, err := Parse(expr)
		if err != nil {
			var bad *Error
			require.True(t, errors.As(err, &bad))
			require.LessOrEqual(t, bad.Offset, len(expr))
			require.True(t, strings.HasPrefix(expr[bad.Offset:], bad.Word))
			return
		}
		if strings.TrimSpace(expr) == "" {
			return
		}
		b, err := Parse("not (" + expr + ")")
		if err != nil {
			return // too deep now
		}
		for _, ethernet := range []bool{true, false} {
			require.NotEqual(t, a.Match(frame, ethernet), b.Match(frame, ethernet))
		}
	})
}
