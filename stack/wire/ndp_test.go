package wire

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNeighborMessagesHaveTheseBytes(t *testing.T) {
	sol := NeighborSol{Target: link1, Source: MAC{2, 0, 0, 0, 0, 1}, HasSource: true, Nonce: [6]byte{1, 2, 3, 4, 5, 6}, HasNonce: true}
	b := sol.Append(nil)
	require.Equal(t, unhex("fe800000000000000000000000000001 0101020000000001 0e01010203040506"), b)
	got, r := ParseNeighborSol(b)
	require.Equal(t, OK, r)
	require.Equal(t, sol, got)
	// Without options, as in duplicate address detection.
	got, r = ParseNeighborSol(b[:16])
	require.Equal(t, OK, r)
	require.Equal(t, NeighborSol{Target: link1}, got)

	adv := NeighborAdv{Target: link1, Link: MAC{2, 0, 0, 0, 0, 1}, HasLink: true}
	b = adv.Append(nil)
	require.Equal(t, unhex("fe800000000000000000000000000001 0201020000000001"), b)
	again, r := ParseNeighborAdv(b)
	require.Equal(t, OK, r)
	require.Equal(t, adv, again)
}

func TestInvalidNeighborMessagesAreRefused(t *testing.T) {
	good := (&NeighborSol{Target: link1, Source: MAC{2}, HasSource: true}).Append(nil)
	parsers := map[string]func([]byte) Reason{
		"solicitation":  func(b []byte) Reason { _, r := ParseNeighborSol(b); return r },
		"advertisement": func(b []byte) Reason { _, r := ParseNeighborAdv(b); return r },
	}
	for name, parse := range parsers {
		for n := range len(good) {
			want := BadNDOption
			switch {
			case n < 16:
				want = ShortND
			case n == 16:
				want = OK
			}
			require.Equal(t, want, parse(good[:n]), "%s of %d bytes", name, n)
		}
		// "All included options have a length that is greater than zero."
		require.Equal(t, BadNDOption, parse(changed(bytes.Clone(good), 17, 1)), name)
		// "Target Address is not a multicast address."
		require.Equal(t, BadND, parse((&NeighborSol{Target: group1}).Append(nil)), name)
		// Options of an unknown type, 200.
		require.Equal(t, BadNDOption, parse(append(good[:16:16], bytes.Repeat([]byte{200, 1, 0, 0, 0, 0, 0, 0}, maxNDOptions+1)...)), name)
		require.Equal(t, OK, parse(append(good[:16:16], bytes.Repeat([]byte{200, 1, 0, 0, 0, 0, 0, 0}, maxNDOptions-1)...)), name)
	}
}

func TestRouterAdvertisementsAreReadAndWritten(t *testing.T) {
	h := RouterAdv{HopLimit: 64, Managed: true, Other: true, Preference: PreferHigh, Lifetime: 1800, Reachable: 30000, Retrans: 1000}
	prefix := PrefixInfo{Prefix: netip.MustParsePrefix("2001:db8:1::/64"), OnLink: true, Auto: true, Valid: 86400, Preferred: 14400}
	h.Options = AppendNDOption(nil, NDSourceLink, []byte{2, 0, 0, 0, 0, 9})
	h.Options = prefix.Append(h.Options)
	h.Options = AppendMTU(h.Options, 1400)
	route := RouteInfo{Prefix: netip.MustParsePrefix("2001:db8:2::/48"), Preference: PreferLow, Lifetime: 600}
	h.Options = route.Append(h.Options)
	h.Options = AppendRDNSS(h.Options, 300, six1, six2)
	h.Options = AppendNDOption(h.Options, NDDNSSL, unhex("0000 0000012c 04 74657374 00"))
	h.Options = AppendNDOption(h.Options, NDPREF64, unhex("0708 0064ff9b0000000000000000"))

	body, rest := h.Append(nil)
	require.Equal(t, uint32(0x40c80708), rest) // 64, M and O, preference 01, 1800
	require.Equal(t, unhex("00007530 000003e8"), body[:8])
	got, r := ParseRouterAdv(rest, body)
	require.Equal(t, OK, r)
	require.Equal(t, h, got)
	mac, ok := got.SourceLink()
	require.True(t, ok)
	require.Equal(t, MAC{2, 0, 0, 0, 0, 9}, mac)

	seen := map[NDOptionType]int{}
	for o, rest, ok := NextNDOption(got.Options); ok; o, rest, ok = NextNDOption(rest) {
		seen[o.Type]++
		switch o.Type {
		case NDPrefix:
			p, ok := ParsePrefixInfo(o.Body)
			require.True(t, ok)
			require.Equal(t, prefix, p)
		case NDMTU:
			mtu, ok := ParseMTU(o.Body)
			require.True(t, ok)
			require.Equal(t, uint32(1400), mtu)
		case NDRoute:
			p, ok := ParseRouteInfo(o.Body)
			require.True(t, ok)
			require.Equal(t, route, p)
		case NDRDNSS:
			life, addrs, ok := ParseRDNSS(o.Body)
			require.True(t, ok)
			require.Equal(t, uint32(300), life)
			require.Equal(t, append(six1.AsSlice(), six2.AsSlice()...), addrs)
		case NDDNSSL:
			life, names, ok := ParseDNSSL(o.Body)
			require.True(t, ok)
			require.Equal(t, uint32(300), life)
			require.Equal(t, "\x04test\x00", string(names[:6]))
		case NDPREF64:
			p, life, ok := ParsePREF64(o.Body)
			require.True(t, ok)
			require.Equal(t, "64:ff9b::/96", p.String())
			require.Equal(t, uint32(1800), life)
		}
	}
	require.Len(t, seen, 7)
	for n := range 8 {
		_, r := ParseRouterAdv(rest, body[:n])
		require.Equal(t, ShortND, r)
	}
}

// RFC 4191 2.2: "If the Reserved (10) value is received, the receiver MUST treat the value as if
// it were (00)."
func TestReservedPreferenceIsMedium(t *testing.T) {
	for bits, want := range []Preference{PreferMedium, PreferHigh, PreferMedium, PreferLow} {
		h, r := ParseRouterAdv(uint32(bits)<<raPreferenceAt, make([]byte, 8))
		require.Equal(t, OK, r)
		require.Equal(t, want, h.Preference)
	}
	// In a route option the rule differs: "the Route Information Option MUST be ignored."
	_, ok := ParseRouteInfo(unhex("00 10 00000001"))
	require.False(t, ok)
}

func TestNDOptionsOfImpossibleLengthsAreIgnored(t *testing.T) {
	for n := range 48 { // length of the option without type and length
		b := make([]byte, n)
		_, prefix := ParsePrefixInfo(b)
		require.Equal(t, n == 30, prefix)
		_, mtu := ParseMTU(b)
		require.Equal(t, n == 6, mtu)
		_, _, rdnss := ParseRDNSS(b)
		require.Equal(t, n == 22 || n == 38, rdnss)
		_, _, dnssl := ParseDNSSL(b)
		require.Equal(t, n >= 14, dnssl)
		_, _, pref64 := ParsePREF64(b)
		require.Equal(t, n == 14, pref64)
		_, route := ParseRouteInfo(b)
		require.Equal(t, n >= 6 && n <= 22, route)
	}
	long := make([]byte, 30)
	long[0] = 129 // the prefix length
	_, ok := ParsePrefixInfo(long)
	require.False(t, ok)
	_, ok = ParseRouteInfo(unhex("41 00 00000001 2001 0db8 0000 0000"))
	require.False(t, ok, "a prefix of 65 bits in 8 bytes")
	_, _, ok = ParsePREF64(unhex("000e 0064ff9b0000000000000000"))
	require.False(t, ok, "a prefix length code of 6")
}

func TestRedirectsAreReadAndWritten(t *testing.T) {
	h := RedirectMsg{Target: link1, Dst: six2, Link: MAC{2, 0, 0, 0, 0, 3}, HasLink: true}
	b := h.Append(nil)
	got, r := ParseRedirect(b)
	require.Equal(t, OK, r)
	require.Equal(t, unhex("0201020000000003"), got.Options)
	got.Options = nil
	require.Equal(t, h, got)
	for n := range 32 {
		_, r := ParseRedirect(b[:n])
		require.Equal(t, ShortND, r)
	}
	_, r = ParseRedirect((&RedirectMsg{Target: six2, Dst: six2}).Append(nil))
	require.Equal(t, OK, r, "the destination is on the link")
	_, r = ParseRedirect((&RedirectMsg{Target: six1, Dst: six2}).Append(nil))
	require.Equal(t, BadND, r, "the target is not link-local")
	_, r = ParseRedirect((&RedirectMsg{Target: link1, Dst: group1}).Append(nil))
	require.Equal(t, BadND, r, "the destination is a group")
}

func TestMLDQueriesAreReadByTheirLength(t *testing.T) {
	group := group1.AsSlice()
	q, r := ParseMLDQuery(1000<<16, group)
	require.Equal(t, OK, r)
	require.Equal(t, MLDQuery{Version: 1, Group: group1, Millis: 1000}, q)

	v2 := append(bytes.Clone(group), 2, 125, 0, 1)
	v2 = append(v2, six1.AsSlice()...)
	q, r = ParseMLDQuery(0x8001<<16, v2)
	require.Equal(t, OK, r)
	// RFC 9777 5.1.3: "Maximum Response Delay = (mant | 0x1000) << (exp+3)".
	require.Equal(t, MLDQuery{Version: 2, Group: group1, Millis: 0x1001 << 3, Robustness: 2, Interval: 125, Sources: six1.AsSlice()}, q)
	for n := range len(v2) {
		_, r := ParseMLDQuery(0, v2[:n])
		switch {
		case n < MLDLen:
			require.Equal(t, ShortMLD, r)
		case n == MLDLen:
			require.Equal(t, OK, r)
		default:
			require.Equal(t, BadMLDLength, r)
		}
	}
}

func TestMLDRecordsHaveTheseBytes(t *testing.T) {
	b := AppendGroupRecord(nil, GroupToExclude, group1, nil)
	require.Equal(t, append([]byte{4, 0, 0, 0}, group1.AsSlice()...), b)
	b = AppendGroupRecord(nil, GroupIsInclude, group1, []netip.Addr{six1})
	require.Equal(t, uint16(1), binary.BigEndian.Uint16(b[2:]))
	require.Len(t, b, GroupRecordLen(group1, 1))
}

func TestIPv6FramesAreDescribedInOneLine(t *testing.T) {
	icmp6 := func(src, dst netip.Addr, h ICMPv6, body []byte) []byte {
		b := make([]byte, ICMPLen+len(body))
		h.Put(src, dst, b, body)
		return ipv6Packet(IPv6{Next: ProtoICMPv6, Src: src, Dst: dst, HopLimit: 255}, b)
	}
	udp := udpDatagram(UDP{SrcPort: 53, DstPort: 40000}, []byte("answer"))
	SetUDPChecksum(six1, six2, udp)
	seg := tcpSegment(TCP{SrcPort: 80, DstPort: 1, Flags: FlagACK}, nil)
	SetTCPChecksum(six1, six2, seg)
	frag := make([]byte, FragmentLen)
	(&Fragment{Next: ProtoUDP, More: true, ID: 9}).Put(frag)
	later := make([]byte, FragmentLen)
	(&Fragment{Next: ProtoUDP, Offset: 1232, ID: 9}).Put(later)
	alert := make([]byte, RouterAlertLen)
	PutRouterAlert(alert, ProtoICMPv6)
	report := make([]byte, ICMPLen)
	record := AppendGroupRecord(nil, GroupToExclude, group1, nil)
	report = append(report, record...)
	(&ICMPv6{Type: ICMPv6MLDv2Report, Rest: 1}).Put(link1, group1, report, record)
	ra := RouterAdv{Lifetime: 1800}
	ra.Options = (&PrefixInfo{Prefix: netip.MustParsePrefix("2001:db8::/64")}).Append(AppendMTU(nil, 1280))
	raBody, raRest := ra.Append(nil)
	for _, c := range []struct {
		want string
		b    []byte
	}{
		{"IPv6 [2001:db8::1]:53 > [2001:db8::2]:40000 UDP len=6", ipv6Packet(IPv6{Next: ProtoUDP}, udp)},
		{"IPv6 [2001:db8::1]:80 > [2001:db8::2]:1 TCP [ACK] seq=0 ack=0 win=0 len=0", ipv6Packet(IPv6{Next: ProtoTCP}, seg)},
		{"IPv6 [2001:db8::1]:53 > [2001:db8::2]:40000 UDP len=6 ext=16", ipv6Packet(IPv6{Next: ProtoDstOpts}, append(ext(ProtoUDP, 2), udp...))},
		{"IPv6 [2001:db8::1]:53 > [2001:db8::2]:40000 UDP len=6 frag=0+ id=9 ext=8", ipv6Packet(IPv6{Next: ProtoFragment}, append(frag, append(udp, 0, 0)...))},
		{"IPv6 2001:db8::1 > 2001:db8::2 UDP len=4 frag=1232 id=9 ext=8", ipv6Packet(IPv6{Next: ProtoFragment}, append(later, 1, 2, 3, 4))},
		{"IPv6 2001:db8::1 > 2001:db8::2 [IPv6 source route, 8 bytes]", ipv6Packet(IPv6{Next: ProtoRouting}, ext(ProtoUDP, 1, 0, 1))},
		{"IPv6 2001:db8::1 > 2001:db8::2 nothing len=0", ipv6Packet(IPv6{Next: ProtoNone}, nil)},
		{"IPv6 2001:db8::1 > 2001:db8::2 ICMPv6 echo id=1 seq=2 len=4", icmp6(six1, six2, ICMPv6{Type: ICMPv6Echo, Rest: EchoRest(1, 2)}, []byte("data"))},
		{"IPv6 2001:db8::2 > 2001:db8::1 ICMPv6 packet too big mtu=1280 ([2001:db8::1]:53 > [2001:db8::2]:40000 UDP)",
			icmp6(six2, six1, ICMPv6{Type: ICMPv6TooBig, Rest: 1280}, ipv6Packet(IPv6{Next: ProtoUDP}, udp))},
		{"IPv6 2001:db8::2 > 2001:db8::1 ICMPv6 port unreachable ([2001:db8::1]:53 > [2001:db8::2]:40000 UDP)",
			icmp6(six2, six1, ICMPv6{Type: ICMPv6Unreachable, Code: Unreach6Port}, ipv6Packet(IPv6{Next: ProtoUDP}, udp))},
		{"IPv6 :: > ff02::1:ff00:2 ICMPv6 neighbor solicitation who-has fe80::1",
			icmp6(netip.IPv6Unspecified(), group1, ICMPv6{Type: ICMPv6NeighborSol}, (&NeighborSol{Target: link1}).Append(nil))},
		{"IPv6 fe80::1 > 2001:db8::2 ICMPv6 neighbor advertisement fe80::1 is-at 02:00:00:00:00:07 solicited override",
			icmp6(link1, six2, ICMPv6{Type: ICMPv6NeighborAdv, Rest: NASolicited | NAOverride}, (&NeighborAdv{Target: link1, Link: MAC{2, 0, 0, 0, 0, 7}, HasLink: true}).Append(nil))},
		{"IPv6 fe80::1 > ff02::1:ff00:2 ICMPv6 router advertisement lifetime=1800 mtu=1280 prefix=2001:db8::/64",
			icmp6(link1, group1, ICMPv6{Type: ICMPv6RouterAdv, Rest: raRest}, raBody)},
		{"IPv6 fe80::1 > ff02::1:ff00:2 ICMPv6 router solicitation", icmp6(link1, group1, ICMPv6{Type: ICMPv6RouterSol}, nil)},
		{"IPv6 fe80::1 > ff02::1:ff00:2 ICMPv6 MLD report v2 TO_EX ff02::1:ff00:2 sources=0 ext=8",
			ipv6Packet(IPv6{Next: ProtoHopByHop, Src: link1, Dst: group1}, append(alert, report...))},
		{"IPv6 fe80::1 > ff02::1:ff00:2 ICMPv6 MLD query v1 :: ms=1000 sources=0", icmp6(link1, group1, ICMPv6{Type: ICMPv6MLDQuery, Rest: 1000 << 16}, make([]byte, 16))},
		{"IPv6 fe80::1 > 2001:db8::2 ICMPv6 redirect 2001:db8::2 via fe80::1", icmp6(link1, six2, ICMPv6{Type: ICMPv6Redirect}, (&RedirectMsg{Target: link1, Dst: six2}).Append(nil))},
		{"IPv6 2001:db8::1 > 2001:db8::2 ICMPv6 echo id=1 seq=2 len=0 [bad ICMPv6 checksum]", changed(icmp6(six1, six2, ICMPv6{Type: ICMPv6Echo, Rest: EchoRest(1, 3)}, nil), -1, 1)},
	} {
		require.Equal(t, c.want, string(AppendFrame(nil, c.b, false)))
	}
}

func FuzzND(f *testing.F) {
	ra := RouterAdv{Options: (&PrefixInfo{Prefix: netip.MustParsePrefix("2001:db8::/64")}).Append(nil)}
	body, rest := ra.Append(nil)
	f.Add(byte(ICMPv6RouterAdv), rest, body)
	f.Add(byte(ICMPv6NeighborSol), uint32(0), (&NeighborSol{Target: link1, HasNonce: true}).Append(nil))
	f.Add(byte(ICMPv6NeighborAdv), uint32(NAOverride), (&NeighborAdv{Target: link1, HasLink: true}).Append(nil))
	f.Add(byte(ICMPv6Redirect), uint32(0), (&RedirectMsg{Target: link1, Dst: six2}).Append(nil))
	f.Add(byte(ICMPv6MLDQuery), uint32(0), make([]byte, 36))
	f.Fuzz(func(t *testing.T, typ byte, rest uint32, b []byte) {
		if h, r := ParseNeighborSol(b); r == OK {
			again, r := ParseNeighborSol(h.Append(nil))
			require.Equal(t, OK, r)
			require.Equal(t, h, again)
		}
		if h, r := ParseNeighborAdv(b); r == OK {
			again, r := ParseNeighborAdv(h.Append(nil))
			require.Equal(t, OK, r)
			require.Equal(t, h, again)
		}
		if h, r := ParseRouterAdv(rest, b); r == OK {
			body, rest := h.Append(nil)
			require.Equal(t, b, body)
			again, r := ParseRouterAdv(rest, body)
			require.Equal(t, OK, r)
			require.Equal(t, h, again)
			for o, rest, ok := NextNDOption(h.Options); ok; o, rest, ok = NextNDOption(rest) {
				if p, ok := ParsePrefixInfo(o.Body); ok {
					same, _, _ := NextNDOption(p.Append(nil))
					q, ok := ParsePrefixInfo(same.Body)
					require.True(t, ok)
					require.Equal(t, p, q)
				}
				if p, ok := ParseRouteInfo(o.Body); ok {
					same, _, _ := NextNDOption(p.Append(nil))
					q, ok := ParseRouteInfo(same.Body)
					require.True(t, ok)
					require.Equal(t, p, q)
				}
				ParsePREF64(o.Body)
				ParseRDNSS(o.Body)
				ParseDNSSL(o.Body)
			}
		}
		ParseRedirect(b)
		ParseMLDQuery(rest, b)
		// AppendFrame must append one line for any message.
		m := make([]byte, ICMPLen+len(b)%60000)
		(&ICMPv6{Type: ICMPv6Type(typ), Rest: rest}).Put(link1, six2, m, b[:len(b)%60000])
		line := AppendFrame(nil, ipv6Packet(IPv6{Next: ProtoICMPv6, Src: link1}, m), false)
		require.NotContains(t, string(line), "\n")
	})
}

// The example in RFC 4291 2.7.1.
func TestSolicitedNodeTakesTheLast24Bits(t *testing.T) {
	require.Equal(t, netip.MustParseAddr("ff02::1:ff0e:8c6c"), SolicitedNode(netip.MustParseAddr("4037::01:800:200e:8c6c")))
}
