package wire

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// frame returns payload as a datagram in an Ethernet frame.
func frame(h IPv4, payload []byte) []byte {
	b := make([]byte, EthernetLen)
	e := Ethernet{Dst: MAC{2, 0, 0, 0, 0, 2}, Src: MAC{2, 0, 0, 0, 0, 1}, Type: EtherTypeIPv4}
	e.Put(b)
	return append(b, ipv4Packet(h, payload)...)
}

func tcpFrame(h TCP, payload string) []byte {
	b := tcpSegment(h, []byte(payload))
	SetTCPChecksum(host1, host2, b)
	return frame(IPv4{TTL: 64, Proto: ProtoTCP}, b)
}

func udpFrame(ip IPv4, payload string) []byte {
	b := udpDatagram(UDP{SrcPort: 53, DstPort: 40000}, []byte(payload))
	SetUDPChecksum(host1, host2, b)
	ip.TTL, ip.Proto = 64, ProtoUDP
	return frame(ip, b)
}

func icmpFrame(h ICMP, body []byte) []byte {
	return frame(IPv4{TTL: 64, Proto: ProtoICMP}, icmpMessage(h, body))
}

// changed flips the bits x in byte i of b, counted from the end if i is negative, and returns b.
func changed(b []byte, i int, x byte) []byte {
	b[(i+len(b))%len(b)] ^= x
	return b
}

func TestFramesAreDescribedInOneLine(t *testing.T) {
	const eth = "02:00:00:00:00:01 > 02:00:00:00:00:02 "
	syn := linuxSYNFields()
	quotedUDP := ipv4Packet(IPv4{TTL: 1, Proto: ProtoUDP}, unhex("0035 9c40 000e 0000"))
	for _, c := range []struct {
		want  string
		frame []byte
	}{
		{"02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff ARP who-has 192.0.2.1 tell 192.0.2.2", unhex(arpFrame)},
		{"02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff ARP reply 192.0.2.2 is-at 02:00:00:00:00:01",
			changed(unhex(arpFrame), EthernetLen+7, 3)},
		{"02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff ARP announce 192.0.2.2 is-at 02:00:00:00:00:01",
			changed(unhex(arpFrame), EthernetLen+27, 3)},
		{"02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff ARP [bad ARP packet, 46 bytes]", changed(unhex(arpFrame), EthernetLen, 1)},
		{"02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff type=0x806f len=46", changed(changed(unhex(arpFrame), 12, 0x88), 13, 0x69)},
		{eth + "IPv4 192.0.2.1:54321 > 192.0.2.2:80 TCP [SYN] seq=439041101 win=64240 mss=1460 ws=7 sackok ts=287454020/0 len=0",
			tcpFrame(syn, "")},
		{eth + "IPv4 192.0.2.1:0 > 192.0.2.2:0 TCP [PSH,ACK] seq=0 ack=9 win=0 sack=1-2,3-4 len=5",
			tcpFrame(TCP{Flags: FlagPSH | FlagACK, Ack: 9, NSACK: 2, SACK: [4]SACKBlock{{1, 2}, {3, 4}}}, "hello")},
		{eth + "IPv4 192.0.2.1:0 > 192.0.2.2:0 TCP [URG] seq=0 win=0 urg=7 len=0", tcpFrame(TCP{Flags: FlagURG, Urgent: 7}, "")},
		{eth + "IPv4 192.0.2.1:0 > 192.0.2.2:0 TCP [ACK] seq=0 ack=0 win=0 len=1 [bad TCP checksum]",
			changed(tcpFrame(TCP{Flags: FlagACK}, "x"), -1, 1)},
		{eth + "IPv4 192.0.2.1 > 192.0.2.2 TCP [bad TCP data offset, 20 bytes]", frame(IPv4{Proto: ProtoTCP}, make([]byte, 20))},
		{eth + "IPv4 192.0.2.1:53 > 192.0.2.2:40000 UDP len=6", udpFrame(IPv4{}, "answer")},
		{eth + "IPv4 192.0.2.1:53 > 192.0.2.2:40000 UDP len=6 [bad UDP checksum]", changed(udpFrame(IPv4{}, "answer"), -1, 1)},
		{eth + "IPv4 192.0.2.1:53 > 192.0.2.2:40000 UDP len=6 ipopts=4", udpFrame(IPv4{Options: []byte{1, 1, 1, 1}}, "answer")},
		{eth + "IPv4 192.0.2.1:53 > 192.0.2.2:40000 UDP len=6 frag=0+ id=77", udpFrame(IPv4{MoreFragments: true, ID: 77}, "answer")},
		{eth + "IPv4 192.0.2.1 > 192.0.2.2 UDP len=14 frag=1480 id=77", udpFrame(IPv4{FragOffset: 1480, ID: 77}, "answer")},
		{eth + "IPv4 192.0.2.1 > 192.0.2.2 UDP [short UDP datagram, 3 bytes]", frame(IPv4{Proto: ProtoUDP}, []byte("abc"))},
		{eth + "IPv4 192.0.2.1 > 192.0.2.2 ICMP echo id=1 seq=2 len=4", icmpFrame(ICMP{Type: ICMPEcho, Rest: EchoRest(1, 2)}, []byte("ping"))},
		{eth + "IPv4 192.0.2.1 > 192.0.2.2 ICMP echo reply id=1 seq=2 len=0 [bad ICMP checksum]",
			changed(icmpFrame(ICMP{Type: ICMPEchoReply, Rest: EchoRest(1, 2)}, nil), EthernetLen+IPv4Len+2, 1)},
		{eth + "IPv4 192.0.2.1 > 192.0.2.2 ICMP port unreachable (192.0.2.1:53 > 192.0.2.2:40000 UDP)",
			icmpFrame(ICMP{Type: ICMPUnreachable, Code: UnreachPort}, quotedUDP)},
		{eth + "IPv4 192.0.2.1 > 192.0.2.2 ICMP fragmentation needed mtu=1400 (192.0.2.1:53 > 192.0.2.2:40000 UDP)",
			icmpFrame(ICMP{Type: ICMPUnreachable, Code: UnreachFragNeeded, Rest: 1400}, quotedUDP)},
		{eth + "IPv4 192.0.2.1 > 192.0.2.2 ICMP time exceeded in transit ([short quote in ICMP error, 3 bytes])",
			icmpFrame(ICMP{Type: ICMPTimeExceeded}, []byte("abc"))},
		{eth + "IPv4 192.0.2.1 > 192.0.2.2 ICMP time exceeded in reassembly (192.0.2.1 > 192.0.2.2 ICMP)",
			icmpFrame(ICMP{Type: ICMPTimeExceeded, Code: ExceededReassembly}, ipv4Packet(IPv4{Proto: ProtoICMP}, make([]byte, 8)))},
		{eth + "IPv4 192.0.2.1 > 192.0.2.2 ICMP parameter problem pointer=20 ([bad quote in ICMP error, 28 bytes])",
			icmpFrame(ICMP{Type: ICMPParamProblem, Rest: 20 << 24}, make([]byte, 28))},
		{eth + "IPv4 192.0.2.1 > 192.0.2.2 ICMP timestamp len=12", icmpFrame(ICMP{Type: ICMPTimestamp}, make([]byte, 12))},
		{eth + "IPv4 192.0.2.1 > 192.0.2.2 ICMP type=200 code=7 len=0", icmpFrame(ICMP{Type: 200, Code: 7}, nil)},
		{eth + "IPv4 192.0.2.1 > 192.0.2.2 ICMP [short ICMP message, 3 bytes]", frame(IPv4{Proto: ProtoICMP}, []byte("abc"))},
		{eth + "IPv4 192.0.2.1 > 192.0.2.2 IGMP [bad IGMP checksum, 8 bytes]", frame(IPv4{Proto: ProtoIGMP}, make([]byte, 8))},
		{eth + "IPv4 192.0.2.1 > 192.0.2.2 IGMP query v3 0.0.0.0 tenths=100 sources=0", frame(IPv4{Proto: ProtoIGMP}, unhex("1164ec1e00000000 027d0000"))},
		{eth + "IPv4 192.0.2.1 > 192.0.2.2 IGMP report v1 224.0.0.251", frame(IPv4{Proto: ProtoIGMP}, unhex("12000d04e00000fb"))},
		{eth + "IPv4 192.0.2.1 > 192.0.2.2 IGMP report v2 224.0.0.251", frame(IPv4{Proto: ProtoIGMP}, unhex("16000904e00000fb"))},
		{eth + "IPv4 192.0.2.1 > 192.0.2.2 IGMP leave 224.0.0.251", frame(IPv4{Proto: ProtoIGMP}, unhex("17000804e00000fb"))},
		{eth + "IPv4 192.0.2.1 > 192.0.2.2 IGMP type=127 len=8", frame(IPv4{Proto: ProtoIGMP}, unhex("7f0080ff00000000"))},
		{eth + "IPv4 192.0.2.1 > 192.0.2.2 IGMP report v3 TO_EX 224.0.0.251 sources=0 IS_IN 224.0.0.251 sources=1",
			frame(IPv4{Proto: ProtoIGMP}, unhex("2200eccf00000002 04000000e00000fb 01000001e00000fbc6336401"))},
		{eth + "IPv4 192.0.2.1 > 192.0.2.2 proto=89 len=8", frame(IPv4{Proto: 89}, make([]byte, 8))},
		{eth + "IPv4 [bad IPv4 checksum, 28 bytes]", changed(frame(IPv4{Proto: 89}, make([]byte, 8)), EthernetLen+10, 1)},
		{"[short Ethernet frame, 13 bytes]", make([]byte, 13)},
	} {
		require.Equal(t, c.want, Describe(c.frame))
	}
}

func TestFramesWithoutEthernetAreDescribedByTheirVersion(t *testing.T) {
	b := udpFrame(IPv4{}, "answer")[EthernetLen:]
	require.Equal(t, "> IPv4 192.0.2.1:53 > 192.0.2.2:40000 UDP len=6", string(AppendFrame([]byte("> "), b, false)))
	v6 := unhex(`60000000 0008 3a 40 20010db8000000000000000000000001 ff020000000000000000000000000001`)
	require.Equal(t, "IPv6 [bad IPv6 payload length, 40 bytes]", string(AppendFrame(nil, v6, false)))
	require.Equal(t, "IPv6 [short IPv6 packet, 39 bytes]", string(AppendFrame(nil, v6[:39], false)))
	require.Equal(t, "IPv4 [short IPv4 packet, 0 bytes]", string(AppendFrame(nil, nil, false)))
}

func TestAnOffloadedChecksumIsNotReportedAsBad(t *testing.T) {
	seg := tcpSegment(TCP{Flags: FlagACK}, []byte("data"))
	sum := Fold(PseudoSum(host1, host2, uint8(ProtoTCP), len(seg)))
	seg[16], seg[17] = uint8(sum>>8), uint8(sum) // the pseudo-header only, as a sender leaves it to the device
	line := Describe(frame(IPv4{Proto: ProtoTCP}, seg))
	require.Equal(t, "02:00:00:00:00:01 > 02:00:00:00:00:02 IPv4 192.0.2.1:0 > 192.0.2.2:0 TCP [ACK] seq=0 ack=0 win=0 len=4 [checksum offloaded]", line)
}

func FuzzDescribe(f *testing.F) {
	f.Add(unhex(arpFrame), true)
	f.Add(tcpFrame(linuxSYNFields(), ""), true)
	f.Add(udpFrame(IPv4{MoreFragments: true}, "answer"), true)
	f.Add(icmpFrame(ICMP{Type: ICMPUnreachable, Code: UnreachPort}, ipv4Packet(IPv4{Proto: ProtoTCP}, make([]byte, 8))), true)
	f.Add([]byte{}, false)
	f.Fuzz(func(t *testing.T, b []byte, ethernet bool) {
		if ethernet && len(b) > EthernetLen {
			fixIPv4(b[EthernetLen:])
		} else if !ethernet {
			fixIPv4(b)
		}
		before := bytes.Clone(b)
		line := string(AppendFrame(nil, b, ethernet))
		require.NotEmpty(t, line)
		require.False(t, strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r > '~' }), "%q is not a line of text", line)
		require.True(t, bytes.Equal(before, b), "Describe must not change the frame")
	})
}
