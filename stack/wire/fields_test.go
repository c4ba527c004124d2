package wire

import (
	"bytes"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic/pcap"
)

func TestEachFieldHasALine(t *testing.T) {
	require.Equal(t, `Ethernet
    destination: 02:00:00:00:00:02
    source: 02:00:00:00:00:01
    type: 0x0800 (IPv4)
IPv4
    version: 4
    header length: 20 bytes
    DSCP: 0
    ECN: 0 (not ECN-capable)
    total length: 64 bytes
    identification: 0x0000
    do not fragment: not set
    more fragments: not set
    fragment offset: 0 bytes
    time to live: 64
    protocol: 6 (TCP)
    checksum: 0xf6b4 (good)
    source: 192.0.2.1
    destination: 192.0.2.2
TCP
    source port: 54321
    destination port: 80
    sequence number: 439041101
    acknowledgment number: 0
    header length: 40 bytes
    flags: SYN
    window: 64240
    checksum: 0x80e4 (good)
    urgent pointer: 0
    option: maximum segment size 1460
    option: SACK permitted
    option: timestamps 287454020, 0
    option: no operation
    option: window scale 7
Data
    length: 4 bytes
`, string(AppendFields(nil, tcpFrame(linuxSYNFields(), "data"), true)))
}

func TestTheFieldsOfALargeSuperFrameAreThoseOfAnother(t *testing.T) {
	segment := make([]byte, 100_000)
	(&TCP{SrcPort: 1, DstPort: 2, Flags: FlagACK}).Put(segment)
	four, six := bigIPv4(IPv4Len+len(segment)), bigIPv6(len(segment))
	SetTCPChecksum(host1, host2, segment)
	copy(four[IPv4Len:], segment)
	SetTCPChecksum(six1, six2, segment)
	copy(six[IPv6Len:], segment)
	for _, b := range [][]byte{four, six} {
		text := string(AppendFields(nil, b, false))
		require.Contains(t, text, "length: 0 bytes\n")
		require.Contains(t, text, "    length: 99980 bytes\n")
		require.NotContains(t, text, "bad")
		require.NotContains(t, text, "malformed")
		line := string(AppendFrame(nil, b, false))
		require.Contains(t, line, "len=99980")
		require.NotContains(t, line, "checksum")
	}
}

// routerAdv returns a frame with a Router Advertisement that has each option.
func routerAdv() []byte {
	opts := AppendNDOption(nil, NDSourceLink, []byte{2, 0, 0, 0, 0, 9})
	opts = AppendMTU(opts, 1400)
	pi := PrefixInfo{Prefix: netip.MustParsePrefix("2001:db8::/64"), OnLink: true, Auto: true, Valid: 7200, Preferred: 3600}
	opts = pi.Append(opts)
	ri := RouteInfo{Prefix: netip.MustParsePrefix("2001:db8:1::/48"), Preference: PreferHigh, Lifetime: 60}
	opts = ri.Append(opts)
	opts = AppendRDNSS(opts, 30, six1, six2)
	opts = AppendDNSSL(opts, 31, "example.com", "example.net")
	opts = AppendPREF64(opts, netip.MustParsePrefix("64:ff9b::/96"), 80)
	opts = AppendNDOption(opts, NDNonce, []byte{1, 2, 3, 4, 5, 6})
	ra := RouterAdv{HopLimit: 64, Other: true, Preference: PreferLow, Lifetime: 1800, Reachable: 1000, Retrans: 2000, Options: opts}
	body, rest := ra.Append(nil)
	return icmp6Frame(ICMPv6{Type: ICMPv6RouterAdv, Rest: rest}, body)
}

// frame6 returns an IPv6 packet in an Ethernet frame.
func frame6(h IPv6, payload []byte) []byte {
	b := make([]byte, EthernetLen)
	e := Ethernet{Dst: MAC{2, 0, 0, 0, 0, 2}, Src: MAC{2, 0, 0, 0, 0, 1}, Type: EtherTypeIPv6}
	e.Put(b)
	return append(b, ipv6Packet(h, payload)...)
}

func icmp6Frame(h ICMPv6, body []byte) []byte {
	b := make([]byte, ICMPLen+len(body))
	h.Put(six1, six2, b, body)
	return frame6(IPv6{Next: ProtoICMPv6, HopLimit: 255}, b)
}

// fieldFrames returns frames that have each header and each kind of message.
func fieldFrames() [][]byte {
	quoted := ipv4Packet(IPv4{TTL: 1, Proto: ProtoUDP}, unhex("0035 9c40 000e 0000"))
	quotedTCP := ipv4Packet(IPv4{TTL: 1, Proto: ProtoTCP}, unhex("0035 9c40 01020304"))
	quoted6 := ipv6Packet(IPv6{Next: ProtoUDP, HopLimit: 1}, unhex("0035 9c40 000e 0000"))
	udp6 := udpDatagram(UDP{SrcPort: 53, DstPort: 40000}, []byte("answer"))
	SetUDPChecksum(six1, six2, udp6)
	target := six2.AsSlice()
	tagged := tcpFrame(TCP{SrcPort: 1, DstPort: 2}, "x")
	tagged = append(append(bytes.Clone(tagged[:12]), 0x81, 0, 0xb0, 5), tagged[12:]...)
	return [][]byte{
		unhex(arpFrame),
		changed(unhex(arpFrame), EthernetLen+7, 3),
		tagged,
		tcpFrame(linuxSYNFields(), ""),
		tcpFrame(TCP{SrcPort: 9, DstPort: 10, Flags: FlagPSH | FlagACK, Ack: 9, NSACK: 2, SACK: [4]SACKBlock{{1, 2}, {3, 4}}}, "hello"),
		changed(tcpFrame(TCP{Flags: FlagACK}, "x"), -1, 1),
		udpFrame(IPv4{TOS: 0xb9, ID: 99, DontFragment: true}, "answer"),
		udpFrame(IPv4{Options: []byte{148, 4, 0, 0}}, "answer"),
		udpFrame(IPv4{MoreFragments: true, ID: 77}, "answer"),
		udpFrame(IPv4{FragOffset: 1480, ID: 77}, "answer"),
		icmpFrame(ICMP{Type: ICMPEcho, Rest: EchoRest(1, 2)}, []byte("ping")),
		icmpFrame(ICMP{Type: ICMPUnreachable, Code: UnreachPort}, quoted),
		icmpFrame(ICMP{Type: ICMPUnreachable, Code: UnreachFragNeeded, Rest: 1400}, quotedTCP),
		icmpFrame(ICMP{Type: ICMPTimeExceeded}, quoted),
		icmpFrame(ICMP{Type: ICMPParamProblem, Rest: 20 << 24}, quoted),
		icmpFrame(ICMP{Type: ICMPRedirect, Rest: 0xc0000209}, quoted),
		frame(IPv4{Proto: ProtoIGMP, TTL: 1}, unhex("1164ec1e00000000 027d0000")),
		frame(IPv4{Proto: ProtoIGMP, TTL: 1}, unhex("2200eccf00000002 04000000e00000fb 01000001e00000fbc6336401")),
		frame6(IPv6{Next: ProtoUDP, HopLimit: 64, FlowLabel: 0x12345, TrafficClass: 0x2d}, udp6),
		frame6(IPv6{Next: ProtoHopByHop, HopLimit: 1}, append(ext(ProtoUDP, 1, 5, 2, 0, 0), udp6...)),
		frame6(IPv6{Next: ProtoRouting, HopLimit: 1}, append(unhex("11 00 02 00 00000000"), udp6...)),
		frame6(IPv6{Next: ProtoFragment, HopLimit: 64}, append(unhex("11 00 0001 01020304"), udp6...)),
		frame6(IPv6{Next: ProtoFragment, HopLimit: 64}, append(unhex("11 00 0010 01020304"), udp6...)),
		icmp6Frame(ICMPv6{Type: ICMPv6Echo, Rest: EchoRest(7, 8)}, []byte("ping")),
		icmp6Frame(ICMPv6{Type: ICMPv6TooBig, Rest: 1280}, quoted6),
		icmp6Frame(ICMPv6{Type: ICMPv6Unreachable, Code: Unreach6Port}, quoted6),
		icmp6Frame(ICMPv6{Type: ICMPv6NeighborSol}, AppendNDOption(target, NDSourceLink, []byte{2, 0, 0, 0, 0, 1})),
		icmp6Frame(ICMPv6{Type: ICMPv6NeighborAdv, Rest: NARouter | NARouter>>2}, AppendNDOption(target, NDTargetLink, []byte{2, 0, 0, 0, 0, 1})),
		icmp6Frame(ICMPv6{Type: ICMPv6Redirect}, append(bytes.Clone(target), target...)),
		icmp6Frame(ICMPv6{Type: ICMPv6MLDv2Report, Rest: 1}, append(unhex("04 00 0001"), append(bytes.Clone(target), target...)...)),
		icmp6Frame(ICMPv6{Type: ICMPv6MLDQuery, Rest: 1000 << 16}, append(bytes.Clone(target), 0, 0, 0, 0)),
		routerAdv(),
		frame(IPv4{Proto: 89, TTL: 1}, make([]byte, 8)),
	}
}

// TestTsharkSeesTheSameFields compares the values of fields with those of tshark.
func TestTsharkSeesTheSameFields(t *testing.T) {
	tshark, err := exec.LookPath("tshark")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("tshark is not installed")
		}
		t.Skip("tshark is not installed")
	}
	// Each entry is the name of a field in tshark, then the header and the name of that field in AppendFields.
	fields := [][3]string{
		{"eth.type", "Ethernet", "type"}, {"vlan.id", "VLAN tag", "VLAN"}, {"vlan.priority", "VLAN tag", "priority"},
		{"arp.opcode", "ARP", "operation"}, {"arp.src.proto_ipv4", "ARP", "sender IP"}, {"arp.dst.hw_mac", "ARP", "target MAC"},
		{"ip.len", "IPv4", "total length"}, {"ip.dsfield.dscp", "IPv4", "DSCP"}, {"ip.dsfield.ecn", "IPv4", "ECN"},
		{"ip.id", "IPv4", "identification"}, {"ip.ttl", "IPv4", "time to live"},
		{"ip.proto", "IPv4", "protocol"}, {"ip.checksum", "IPv4", "checksum"}, {"ip.src", "IPv4", "source"}, {"ip.dst", "IPv4", "destination"},
		{"ipv6.flow", "IPv6", "flow label"}, {"ipv6.plen", "IPv6", "payload length"}, {"ipv6.hlim", "IPv6", "hop limit"},
		{"ipv6.tclass.dscp", "IPv6", "DSCP"}, {"ipv6.nxt", "IPv6", "next header"}, {"ipv6.src", "IPv6", "source"},
		{"ipv6.fraghdr.ident", "IPv6 Fragment", "identification"}, {"ipv6.routing.type", "IPv6 Routing", "routing type"},
		{"tcp.srcport", "TCP", "source port"}, {"tcp.seq_raw", "TCP", "sequence number"}, {"tcp.ack_raw", "TCP", "acknowledgment number"},
		{"tcp.hdr_len", "TCP", "header length"}, {"tcp.window_size_value", "TCP", "window"}, {"tcp.checksum", "TCP", "checksum"},
		{"udp.srcport", "UDP", "source port"}, {"udp.dstport", "UDP", "destination port"}, {"udp.length", "UDP", "length"}, {"udp.checksum", "UDP", "checksum"},
		{"icmp.type", "ICMP", "type"}, {"icmp.code", "ICMP", "code"}, {"icmp.mtu", "ICMP", "MTU"}, {"icmp.redir_gw", "ICMP", "gateway"},
		{"igmp.type", "IGMP", "type"}, {"igmp.checksum", "IGMP", "checksum"},
		{"icmpv6.type", "ICMPv6", "type"}, {"icmpv6.code", "ICMPv6", "code"}, {"icmpv6.checksum", "ICMPv6", "checksum"},
		{"icmpv6.mtu", "ICMPv6", "MTU"}, {"icmpv6.nd.ns.target_address", "ICMPv6", "target"},
		{"icmpv6.nd.ra.router_lifetime", "ICMPv6", "router lifetime"}, {"icmpv6.nd.ra.cur_hop_limit", "ICMPv6", "hop limit"},
		{"icmpv6.nd.ra.retrans_timer", "ICMPv6", "retransmission timer"}, {"icmpv6.opt.mtu", "ICMPv6", "MTU"},
		{"icmpv6.opt.prefix.valid_lifetime", "ICMPv6", "valid lifetime"}, {"icmpv6.opt.rdnss", "ICMPv6", "name server"},
	}
	frames := fieldFrames()
	var buf bytes.Buffer
	w, err := pcap.NewWriter(&buf, pcap.Interface{Link: pcap.LinkEthernet})
	require.NoError(t, err)
	for _, b := range frames {
		require.NoError(t, w.Write(pcap.Packet{Data: b, Len: len(b), Time: time.Unix(0, 0), Link: pcap.LinkEthernet}))
	}
	name := filepath.Join(t.TempDir(), "frames")
	require.NoError(t, os.WriteFile(name, buf.Bytes(), 0o644))
	args := []string{"-r", name, "-n", "-T", "fields", "-E", "separator=;", "-E", "occurrence=f", "-o", "ip.defragment:FALSE", "-o", "ipv6.defragment:FALSE"}
	for _, f := range fields {
		args = append(args, "-e", f[0])
	}
	out, err := exec.Command(tshark, args...).Output()
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	require.Len(t, lines, len(frames))
	compared := map[string]bool{}
	for i, line := range lines {
		text := string(AppendFields(nil, frames[i], true))
		for j, want := range strings.Split(line, ";") {
			f := fields[j]
			got, ok := fieldOf(text, f[1], f[2])
			if want == "" || !ok {
				continue // for example, tshark also has this name for a field of a quoted packet
			}
			require.Equal(t, number(want), number(got), "frame %d: %s\n%s", i, f[0], text)
			compared[f[0]] = true
		}
	}
	for _, f := range fields {
		require.True(t, compared[f[0]], "no frame has %s", f[0])
	}
}

// fieldOf returns the first value of a field of a header in a text of AppendFields.
func fieldOf(text, header, name string) (string, bool) {
	_, rest, ok := strings.Cut("\n"+text, "\n"+header+"\n")
	for line := range strings.SplitSeq(rest, "\n") {
		if !strings.HasPrefix(line, "    ") {
			break
		}
		if v, has := strings.CutPrefix(line, "    "+name+": "); ok && has {
			v, _, _ = strings.Cut(v, " ")
			return v, true
		}
	}
	return "", false
}

// number converts decimal and hexadecimal numbers to one form, and returns other values unchanged.
func number(s string) string {
	if n, err := strconv.ParseUint(s, 0, 64); err == nil {
		return strconv.FormatUint(n, 10)
	}
	return s
}

func TestFieldsOfChecksumsAndCutHeaders(t *testing.T) {
	fields := func(b []byte) string { return string(AppendFields(nil, b, true)) }
	require.Contains(t, fields(changed(tcpFrame(TCP{Flags: FlagACK}, "x"), -1, 1)), "(bad)\n    urgent")
	seg := tcpSegment(TCP{Flags: FlagACK}, []byte("data"))
	sum := Fold(PseudoSum(host1, host2, uint8(ProtoTCP), len(seg)))
	seg[16], seg[17] = uint8(sum>>8), uint8(sum)
	require.Contains(t, fields(frame(IPv4{Proto: ProtoTCP}, seg)), "(offloaded)\n    urgent")
	require.Contains(t, fields(udpFrame(IPv4{MoreFragments: true}, "answer")), "(not verified)\nData")
	none := frame(IPv4{Proto: ProtoUDP}, udpDatagram(UDP{}, nil))
	require.Contains(t, fields(none), "checksum: 0x0000 (none)\n")
	require.Contains(t, fields(make([]byte, 13)), "Ethernet\n    cut: 13 bytes of 14\n")
	require.Contains(t, fields(tcpFrame(linuxSYNFields(), "")[:60]), "TCP\n    source port: 54321\n")
	require.Contains(t, fields(tcpFrame(linuxSYNFields(), "")[:60]), "cut: 26 bytes of 40\n")
	require.Contains(t, fields(icmpFrame(ICMP{Type: ICMPUnreachable, Code: UnreachPort}, ipv4Packet(IPv4{Proto: ProtoTCP}, unhex("0035 9c40 01020304")))),
		"quoted TCP\n    source port: 53\n    destination port: 40000\n    sequence number: 16909060\n")
	ra := fields(routerAdv())
	for _, line := range []string{
		"preference: low", "prefix: 2001:db8::/64", "on-link: set", "route: 2001:db8:1::/48", "preference: high", "search domain: example.net.",
		"NAT64 prefix: 64:ff9b::/96", "nonce: 010203040506", "source MAC: 02:00:00:00:00:09",
	} {
		require.Contains(t, ra, "    "+line+"\n")
	}
	raw := ipv6Packet(IPv6{Next: ProtoNone}, nil)
	require.Contains(t, string(AppendFields(nil, raw, false)), "next header: 59 (nothing)")
	require.Contains(t, string(AppendFields(nil, nil, false)), "IPv4\n    cut: 0 bytes of 20\n")
}

// A frame may be cut anywhere: AppendFields does not panic.
func TestFieldsOfFramesCutAnywhere(t *testing.T) {
	for _, b := range fieldFrames() {
		for n := range len(b) {
			require.NotEmpty(t, AppendFields(nil, b[:n:n], true))
		}
	}
}

// longOption returns an IPv6 packet whose Hop-by-Hop header of 264 bytes has an option of 254 bytes.
func longOption() []byte {
	header := append([]byte{byte(ProtoNone), 32, 5, 254}, make([]byte, 260)...)
	return ipv6Packet(IPv6{Next: ProtoHopByHop}, header)
}

func TestFieldsOfAnOptionOfTheGreatestLength(t *testing.T) {
	require.Contains(t, string(AppendFields(nil, longOption(), false)), "option")
}

func FuzzFields(f *testing.F) {
	for _, b := range fieldFrames() {
		f.Add(b, true)
	}
	f.Add([]byte{}, false)
	f.Add(longOption(), false)
	f.Fuzz(func(t *testing.T, b []byte, ethernet bool) {
		before := bytes.Clone(b)
		text := string(AppendFields([]byte("> "), b, ethernet))
		require.True(t, strings.HasPrefix(text, "> "))
		require.True(t, strings.HasSuffix(text, "\n"))
		require.False(t, strings.ContainsFunc(text, func(r rune) bool { return r != '\n' && (r < ' ' || r > '~') }), "%q", text)
		require.True(t, bytes.Equal(before, b), "AppendFields must not change the frame")
	})
}
