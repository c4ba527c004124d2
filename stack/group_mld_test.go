package stack

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// newRouter6 makes a router that records the MLD messages of a host.
func newRouter6(t *testing.T) *router {
	t.Helper()
	return newRouterOf(t, describeMLD, with(both[0]))
}

// describeMLD returns an MLD message as text, and "" for any other frame and for a report about the
// host's solicited-node groups. It does not use package wire.
func describeMLD(t *testing.T, f []byte) string {
	if f[12] != 0x86 || f[13] != 0xdd || f[20] != 0 || f[54] != 58 { // not IPv6 with options before ICMPv6
		return ""
	}
	require.Equal(t, byte(1), f[21], "hop limit")
	require.Equal(t, []byte{58, 0, 5, 2, 0, 0, 1, 0}, f[54:62], "hop-by-hop options with a router alert")
	b := f[62 : 54+int(binary.BigEndian.Uint16(f[18:]))] // after Ethernet (14 bytes), IPv6 (40) and options (8)
	src, dst := netip.AddrFrom16([16]byte(f[22:38])), netip.AddrFrom16([16]byte(f[38:54]))
	require.Zero(t, ^wire.Fold(wire.Sum(b, wire.PseudoSum(src, dst, 58, len(b)))), "checksum")
	require.Equal(t, wire.MulticastMAC(dst), wire.MAC(f[:6]))
	to := " > " + dst.String()
	if !isLinkLocal6(src) {
		to = " from " + src.String() + to
	}
	at := func(i int) string { return netip.AddrFrom16([16]byte(b[i : i+16])).String() }
	switch b[0] {
	case 131: // a version 1 report
		require.Len(t, b, 24)
		return quiet("report " + at(8) + to)
	case 132:
		return quiet("done " + at(8) + to)
	}
	require.Equal(t, byte(143), b[0]) // a version 2 report
	n := int(binary.BigEndian.Uint16(b[6:]))
	words := []string{"v2"}
	b = b[8:]
	for range n {
		k := int(binary.BigEndian.Uint16(b[2:]))
		word := []string{"", "IS_IN", "IS_EX", "TO_IN", "TO_EX", "ALLOW", "BLOCK"}[b[0]] + " " + at(4)
		for i := range k {
			word += "," + at(20+16*i)
		}
		if !strings.Contains(word, " ff02::1:ff") {
			words = append(words, word)
		}
		b = b[20+16*k:]
	}
	require.Empty(t, b, "what follows the records")
	if len(words) == 1 {
		return ""
	}
	return strings.Join(words, " ") + to
}

// quiet returns text, or "" if it is about a solicited-node group.
func quiet(text string) string {
	if strings.Contains(text, " ff02::1:ff") {
		return ""
	}
	return text
}

// ask6 sends an MLD message as a router does. message is hexadecimal, with the checksum as 0000.
func (r *router) ask6(dst, message string) {
	r.t.Helper()
	r.say6(wire.IPv6{HopLimit: 1, Src: addr("fe80::2"), Dst: addr(dst)}, message, true)
}

// say6 sends an MLD message, with the Router Alert option if alert is true. message is hexadecimal,
// with the checksum as 0000.
func (r *router) say6(h wire.IPv6, message string, alert bool) {
	r.t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(message, " ", ""))
	require.NoError(r.t, err)
	wire.SetICMPv6Checksum(h.Src, h.Dst, b)
	if h.Next = wire.ProtoICMPv6; alert {
		h.Next = wire.ProtoHopByHop
		b = append([]byte{58, 0, 5, 2, 0, 0, 1, 0}, b...)
	}
	mac := macA
	if h.Dst.IsMulticast() {
		mac = wire.MulticastMAC(h.Dst)
	}
	eth := make([]byte, wire.EthernetLen)
	(&wire.Ethernet{Dst: mac, Src: macB, Type: wire.EtherTypeIPv6}).Put(eth)
	r.send(append(eth, ip6Packet(h, b)...))
}

const (
	noGroup   = "00000000000000000000000000000000"
	hexGroup  = "ff350000000000000000000000001234" // ff35::1234
	general1  = "82 00 0000 2710 0000" + noGroup   // MLDv1, answer within 10 s
	general2  = general1 + "02 7d 0000"            // MLDv2, robustness 2, every 125 s
	ofGroup1  = "82 00 0000 03e8 0000" + hexGroup  // MLDv1, answer within 1 s
	ofGroup2  = ofGroup1 + "02 7d 0000"            // MLDv2
	hexSource = "20010db8000000000000000000000007" // 2001:db8::7
	ofSource2 = "82 00 0000 03e8 0000" + hexGroup + "02 7d 0001" + hexSource
)

var (
	group6     = netip.MustParseAddr("ff35::1234")
	six7, six8 = netip.MustParseAddr("2001:db8::7"), netip.MustParseAddr("2001:db8::8")
)

const toV2 = " > ff02::16"

func openUDP6(t *testing.T, s *Stack, port int) *UDP {
	t.Helper()
	return openUDP(t, s, fmt.Sprintf("[::]:%d", port))
}

// RFC 8200 MUST-12 SHLD-3.
func TestTheFirstReportOfMLDHasTheseBytes(t *testing.T) {
	s, p := hostAndPeer(t, with(both[0]))
	u := openUDP6(t, s, 5)
	p.take()
	require.NoError(t, u.Join(group6, 2))
	frames := p.take()
	require.Len(t, frames, 1)
	f := frames[0]
	clear(f[15:18]) // the flow label
	f[14] = 0x60
	clear(f[64:66]) // the checksum, which other tests check by describeMLD
	require.Equal(t, strings.ReplaceAll(""+
		"333300000016 02000000000a 86dd"+ // to the MAC of ff02::16
		"60000000 0024 00 01 fe80000000000000000000fffe00000a ff020000000000000000000000000016"+
		"3a00 0502 0000 0100"+ // Router Alert with the value for MLD
		"8f00 0000 00000001"+ // version 2, one record
		"04000000 ff350000000000000000000000001234", " ", ""), hex.EncodeToString(f), "TO_EX, no sources")
}

// RFC 9777 6.1: as in IGMP, each change is reported [Robustness Variable] times.
func TestChangesAreReportedByMLD(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter6(t)
		u, v := openUDP6(t, r.s, 5), openUDP6(t, r.s, 6)
		step := func(want string, err error) {
			t.Helper()
			require.NoError(t, err)
			synctest.Wait()
			require.Equal(t, []string{want + toV2}, r.texts(), "at once")
			require.Equal(t, []string{want + toV2}, r.after(time.Second), "and once more within a second")
			require.Empty(t, r.after(time.Minute))
		}
		r.after(time.Minute)
		step("v2 ALLOW ff35::1234,2001:db8::7", u.JoinSource(group6, six7, 2))
		step("v2 ALLOW ff35::1234,2001:db8::8", u.JoinSource(group6, six8, 2))
		step("v2 BLOCK ff35::1234,2001:db8::7", u.LeaveSource(group6, six7, 2))
		step("v2 TO_EX ff35::1234", v.Join(group6, 2))
		step("v2 BLOCK ff35::1234,2001:db8::7", v.BlockSource(group6, six7, 2))
		step("v2 ALLOW ff35::1234,2001:db8::7", v.UnblockSource(group6, six7, 2))
		step("v2 TO_IN ff35::1234,2001:db8::8", v.Leave(group6, 2))
		step("v2 BLOCK ff35::1234,2001:db8::8", u.Close())
		step("v2 TO_EX ff02::fb", v.Join(addr("ff02::fb%eth0"), 0))
		step("v2 TO_IN ff02::fb", v.Leave(addr("ff02::fb%2"), 0))
	})
}

// RFC 9777 6.2 and 6.3.
func TestQueriesOfMLDAreAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter6(t)
		u := openUDP6(t, r.s, 5)
		ask := func(dst, query string, limit time.Duration, want ...string) {
			t.Helper()
			r.after(time.Minute)
			r.ask6(dst, query)
			var texts []string
			for _, w := range want {
				texts = append(texts, w+toV2)
			}
			require.Equal(t, texts, r.after(limit))
			require.Empty(t, r.after(time.Minute))
		}
		require.NoError(t, u.Join(group6, 2))
		require.NoError(t, u.JoinSource(addr("ff35::5"), six7, 2))
		ask("ff02::1", general2, 10*time.Second, "v2 IS_IN ff35::5,2001:db8::7 IS_EX ff35::1234")
		ask("ff35::1234", ofGroup2, time.Second, "v2 IS_EX ff35::1234")
		ask("fe80::1", ofGroup2, time.Second, "v2 IS_EX ff35::1234") // RFC 9777 5.1.15: "any of the addresses"
		ask("ff35::1234", ofSource2, time.Second, "v2 IS_IN ff35::1234,2001:db8::7")
		require.NoError(t, u.BlockSource(group6, six7, 2))
		ask("ff35::1234", ofSource2, time.Second)
		require.EqualValues(t, 5, r.s.Stats().MLD.Received)
		// A floating-point response time: RFC 9777 5.1.3, (0x1000 | 0) << 3 ms.
		r.ask6("ff35::1234", "82 00 0000 8000 0000"+hexGroup+"02 7d 0000")
		require.Len(t, r.after(32768*time.Millisecond), 1)
	})
}

// RFC 2710, and RFC 9777 8.2.1 for a host that supports version 2.
func TestAnMLDv1QuerierGetsVersion1Reports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter6(t)
		u := openUDP6(t, r.s, 5)
		report, done := []string{"report ff35::1234 > ff35::1234"}, []string{"done ff35::1234 > ff02::2"}
		r.ask6("ff02::1", general1)
		r.after(time.Minute)
		require.NoError(t, u.Join(group6, 2))
		synctest.Wait()
		require.Equal(t, report, r.texts())
		require.Equal(t, report, r.after(10*time.Second), "repeated once")
		require.Empty(t, r.after(30*time.Second))
		r.ask6("ff35::1234", ofGroup1)
		require.Equal(t, report, r.after(time.Second))
		r.ask6("ff02::1", general2)
		require.Equal(t, report, r.after(10*time.Second), "the older querier sets the version")
		require.NoError(t, u.Leave(group6, 2))
		require.Equal(t, done, r.after(time.Minute))

		// RFC 2710 4: a report of another node suppresses the report of the host. The host then sends no
		// Done.
		require.NoError(t, u.Join(group6, 2))
		r.after(time.Minute)
		r.ask6("ff02::1", general1)
		r.ask6("ff35::1234", "83 00 0000 0000 0000"+hexGroup)
		require.Empty(t, r.after(time.Minute))
		require.NoError(t, u.Leave(group6, 2))
		require.Empty(t, r.after(time.Minute))

		// The old querier times out, so the next report is of version 2. It too makes the host the last member
		// that reported. The host therefore sends a Done to the next version 1 querier.
		r.after(time.Hour)
		require.NoError(t, u.Join(group6, 2))
		r.after(time.Minute)
		r.ask6("ff02::1", "82 00 0000 ffff 0000"+noGroup)
		require.NoError(t, u.Leave(group6, 2))
		require.Equal(t, done, r.after(time.Minute))

		// RFC 9777 9.12: the old querier times out 2 * 125 + 10 s after its last query.
		r.ask6("ff02::1", general1)
		r.after(260 * time.Second)
		require.NoError(t, u.Join(group6, 2))
		require.Equal(t, []string{"v2 TO_EX ff35::1234" + toV2, "v2 TO_EX ff35::1234" + toV2}, r.after(time.Minute))
	})
}

// RFC 9777 6.2: a query has a link-local source, hop limit 1 and the Router Alert option. RFC 9777 10.1:
// a general query is sent to all nodes.
func TestInvalidMLDMessagesAreIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter6(t)
		u := openUDP6(t, r.s, 5)
		require.NoError(t, u.Join(group6, 2))
		r.after(time.Minute)
		h := wire.IPv6{HopLimit: 1, Src: addr("fe80::2"), Dst: addr("ff02::1")}
		routed, global, toGroup := h, h, h
		routed.HopLimit, global.Src, toGroup.Dst = 2, six7, group6
		for i, c := range []struct {
			why     wire.Reason
			h       wire.IPv6
			message string
			alert   bool
		}{
			{dropMLD, routed, general2, true},
			{dropMLD, global, general2, true},
			{dropMLD, h, general2, false},
			{dropMLD, toGroup, general2, true},
			{dropMLD, h, "8f 00 0000 0000 0000", true},                  // a version 2 report
			{dropMLD, h, "84 00 0000 0000 0000" + hexGroup, true},       // a Done
			{dropMLD, toGroup, "83 00 0000 0000 0000" + hexGroup, true}, // version 2 ignores reports
			{wire.BadMLDLength, h, general1 + "0000", true},
			{wire.BadMLDLength, toGroup, ofSource2[:len(ofSource2)-2], true},
			{wire.ShortMLD, h, general1[:len(general1)-2], true},
			{wire.ShortMLD, h, "83 00 0000 0000 0000", true},
		} {
			before := dropped(r.s, c.why)
			r.say6(c.h, c.message, c.alert)
			require.Equal(t, before+1, dropped(r.s, c.why), "%d: %v", i, r.s.Stats().Drops)
		}
		require.Empty(t, r.after(time.Hour))
		r.ask6("ff35::1234", ofGroup2)
		require.Len(t, r.after(time.Minute), 1, "valid queries are answered")
		// RFC 9777 5.1.12: octets behind a query count for its checksum, and are ignored otherwise.
		r.ask6("ff02::1", general2+"00")
		require.Len(t, r.after(time.Minute), 1)
	})
}

// RFC 9777 6: the all-nodes group and groups of scope 0 and 1 are never reported.
func TestNodeLocalGroupsAreNotReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter6(t)
		u := openUDP6(t, r.s, 5)
		require.NoError(t, u.Join(addr("ff02::1"), 2))
		require.NoError(t, u.Join(addr("ff01::5"), 2))
		require.NoError(t, u.Join(group6, 1))
		r.ask6("ff02::1", general2)
		require.Empty(t, r.after(time.Minute))
		require.Contains(t, r.s.Interfaces()[1].Groups, addr("ff02::1"))
		require.Contains(t, r.s.Interfaces()[1].Groups, addr("224.0.0.1"))
		require.Contains(t, r.s.Interfaces()[0].Groups, group6)
	})
}

// RFC 9777 5.2.13: a host without a link-local address sends reports from the unspecified address.
func TestAHostWithoutLinkLocalAddressReports(t *testing.T) {
	d, e := nic.Pipe(nic.PipeConfig{Medium: nic.IP, NoTxChecksum: true})
	p := &peer{t: t, dev: e}
	e.Attach(func(batch []nic.Frame) {
		p.mu.Lock()
		defer p.mu.Unlock()
		for i := range batch {
			p.frames = append(p.frames, batch[i].AppendTo(nil))
		}
	})
	s := newHost(t, d, "2001:db8::1/64")
	u := openUDP6(t, s, 5)
	p.take()
	require.NoError(t, u.Join(group6, 2))
	frames := p.take()
	require.Len(t, frames, 1)
	h, payload, r := wire.ParseIPv6(frames[0])
	require.Equal(t, wire.OK, r)
	require.Equal(t, netip.IPv6Unspecified(), h.Src)
	_, _, r = wire.ParseICMPv6(h.Src, h.Dst, payload[wire.RouterAlertLen:])
	require.Equal(t, wire.OK, r)
}

// The messages of one of the two protocols do not affect the other protocol.
func TestIGMPAndMLDAreIndependent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouterOf(t, func(t *testing.T, f []byte) string {
			if text := describeMLD(t, f); text != "" {
				return text
			}
			text := describeIGMP(t, f)
			if text != "" {
				require.Equal(t, addr("192.0.2.1"), netip.AddrFrom4([4]byte(f[26:30])))
			}
			return text
		}, with([]netip.Prefix{both[0][2], both[0][1], both[0][0]})) // the IPv4 address is not the first
		u := openUDP6(t, r.s, 5)
		r.ask("224.0.0.1", generalV2)
		r.after(time.Minute)
		require.NoError(t, u.Join(group6, 2))
		require.NoError(t, u.Join(addr("224.1.2.3"), 2))
		synctest.Wait()
		require.Equal(t, []string{"v2 TO_EX ff35::1234" + toV2, "v2 report 224.1.2.3 > 224.1.2.3"}, r.texts())
		r.after(time.Minute)
		require.NoError(t, r.s.Close())
		require.Equal(t, []string{"leave 224.1.2.3 > 224.0.0.2", "v2 TO_IN ff35::1234" + toV2}, r.after(time.Minute))
	})
}

func TestManyGroupsOfIPv6FitTheirDatagrams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouter6(t)
		u := openUDP6(t, r.s, 5)
		for i := range 400 {
			require.NoError(t, u.Join(netip.AddrFrom16([16]byte{0xff, 0x35, 14: byte(i >> 8), 15: byte(i)}), 2))
		}
		r.after(time.Minute)
		r.ask6("ff02::1", general2)
		var counts []int
		for _, m := range r.after(10 * time.Second) {
			counts = append(counts, strings.Count(m, "IS_EX"))
		}
		sum := 0
		for i, n := range counts {
			if sum += n; i < len(counts)-1 {
				require.InDelta(t, 72, n, 2, "(1500 - 48 - 8) / 20")
			}
		}
		require.Equal(t, 400, sum)
	})
}

// Sockets may join groups on an interface, and receive the datagrams to these groups.
func TestSocketsOfIPv6JoinGroups(t *testing.T) {
	a, b := twoHosts6(t, nic.PipeConfig{})
	u := openUDP6(t, a, 9)
	one, two := openShared(t, b, "[::]:9"), openShared(t, b, "[::]:9")
	four := openUDP(t, b, "0.0.0.0:8")
	only4, err := b.OpenUDP(Family4, addrPort("0.0.0.0:7"))
	require.NoError(t, err)
	defer only4.Close()
	require.Equal(t, syscall.EINVAL, only4.Join(group6, 2), "a socket of IPv4")
	require.Equal(t, syscall.EINVAL, one.Join(addr("2001:db8::1"), 2))
	require.Equal(t, syscall.ENODEV, one.Join(group6, 99))
	require.NoError(t, four.Join(group6, 2))
	require.NoError(t, four.Leave(group6, 2))
	require.Equal(t, syscall.EADDRNOTAVAIL, one.Leave(group6, 2))
	require.Equal(t, syscall.EADDRNOTAVAIL, one.JoinSource(group6, addr("192.0.2.1"), 2))
	require.NoError(t, one.Join(group6, 0), "on the first link with IPv6")
	require.Equal(t, syscall.EADDRINUSE, one.Join(group6, 2))

	say(t, u, "[ff35::1234]:9", "all", SendOptions{NIC: 2})
	require.Equal(t, []string{"all"}, texts(one))
	got, metas := take(two)
	require.Equal(t, []string{"all"}, got)
	require.EqualValues(t, 1, metas[0].TTL, "RFC 3493 5.2: IPV6_MULTICAST_HOPS is 1")
	require.Equal(t, group6, metas[0].Dst)
	require.NoError(t, one.BlockSource(group6, addr("2001:db8::1"), 2))
	say(t, u, "[ff35::1234]:9", "blocked", SendOptions{NIC: 2})
	require.Empty(t, texts(one))
	require.Empty(t, texts(two))
	require.Equal(t, 1, dropped(b, dropSourceFilter))
	require.NoError(t, two.JoinSource(group6, addr("2001:db8::1"), 2))
	say(t, u, "[ff35::1234]:9", "for two", SendOptions{NIC: 2})
	require.Empty(t, texts(one))
	require.Equal(t, []string{"for two"}, texts(two))

	// A member receives its own datagrams.
	require.NoError(t, u.Join(group6, 2))
	say(t, u, "[ff35::1234]:9", "self", SendOptions{NIC: 2})
	require.Equal(t, []string{"self"}, texts(u))
	_, err = u.WriteTo(make([]byte, 3000), addrPort("[ff35::1234]:9"), SendOptions{NIC: 2})
	require.NoError(t, err)
	require.Len(t, queued(t, u), 3000, "also a datagram that leaves in fragments")
	got, _ = take(two)
	require.Len(t, got, 2, "members on other hosts receive them too")
	require.NoError(t, u.SetMulticastLoopback(false))
	say(t, u, "[ff35::1234]:9", "self", SendOptions{NIC: 2})
	require.Empty(t, texts(u))
}

// RFC 3590 4: groups that were reported from the unspecified address are reported again from the
// link-local address.
func TestReportsAreRepeatedFromTheNewAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRouterOf(t, describeMLD, with(both[0][:2]), func(cfg *Config) { cfg.WaitForDAD = true })
		u := openUDP6(t, r.s, 5)
		require.NoError(t, u.Join(group6, 2))
		synctest.Wait()
		require.Equal(t, []string{"v2 TO_EX ff35::1234 from ::" + toV2}, r.texts())
		messages := r.after(time.Minute)
		require.Contains(t, messages, "v2 TO_EX ff35::1234"+toV2)
		require.GreaterOrEqual(t, len(messages), 2)
		require.Empty(t, r.after(time.Hour))
	})
}

// RFC 9777 6: the solicited-node groups of a host are reported, for switches with MLD snooping. The
// addresses 2001:db8::1 and fe80::1 share the group ff02::1:ff00:1.
func TestSolicitedNodeGroupsAreReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := hostAndPeer(t, with(both[0]))
		count := func() (n int) {
			for _, line := range p.sent() {
				n += strings.Count(line, "TO_EX ff02::1:ff00:1")
			}
			return n
		}
		require.NotZero(t, count())
		require.NoError(t, s.RemoveAddr("eth0", addr("2001:db8::1")))
		require.NoError(t, s.RemoveAddr("eth0", addr("fe80::1")))
		synctest.Wait()
		left := 0
		for _, line := range p.sent() {
			left += strings.Count(line, "TO_IN ff02::1:ff00:1")
		}
		require.Equal(t, 1, left, "when the last address of the group is removed")
	})
}

func TestALinkBelow1280HasNoReportsOfMLD(t *testing.T) {
	// With such MTUs a report has almost no space for sources.
	for _, mtu := range []int{minMTU, 92, 1279} {
		other, _ := nic.Pipe(nic.PipeConfig{})
		s, p := hostAndPeerOn(t, nic.PipeConfig{MTU: mtu, NoTxChecksum: true}, func(c *Config) {
			c.NICs = append(c.NICs, NIC{Device: other, Addrs: []netip.Prefix{prefix("2001:db8::1/64")}})
		})
		u, err := s.OpenUDP(Family6, addrPort("[::]:9"))
		require.NoError(t, err)
		require.NoError(t, u.JoinSource(addr("ff15::9"), addr("2001:db8::5"), 2))
		for _, line := range p.sent() {
			require.NotContains(t, line, "IPv6")
		}
	}
}
