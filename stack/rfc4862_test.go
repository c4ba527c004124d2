package stack

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// Tests of requirements of RFC 4861 and RFC 4862 that no other test is about. testdata/rfc4861.txt and
// rfc4862.txt name the tests.

// RFC 4861 4.1 to 4.6: reserved fields "MUST be initialized to zero by the sender and MUST be ignored by the receiver";
// RFC 4861 6.1.2, 7.1.1, 7.1.2 and 8.1: "The contents of any defined options that are not specified to be used with"
// such messages "MUST be ignored and the packet processed as normal."
func TestReservedFieldsAndStrangeOptionsAreIgnored(t *testing.T) {
	prefixInfo := prefixOption("2001:db8:7::/64", time.Hour, time.Hour)
	strange := map[wire.ICMPv6Type][]byte{
		wire.ICMPv6NeighborSol: slices.Concat(prefixInfo, wire.AppendMTU(nil, 1300), wire.AppendNDOption(nil, wire.NDTargetLink, make([]byte, 6))),
		wire.ICMPv6NeighborAdv: slices.Concat(prefixInfo, wire.AppendMTU(nil, 1300), wire.AppendNDOption(nil, wire.NDSourceLink, make([]byte, 6))),
		wire.ICMPv6RouterAdv:   wire.AppendNDOption(nil, wire.NDTargetLink, make([]byte, 6)),
	}
	sol := wire.NeighborSol{Target: addr("2001:db8::1"), Source: macB, HasSource: true}
	adv := wire.NeighborAdv{Target: addr("2001:db8::2"), Link: macB, HasLink: true}
	router := wire.RouterAdv{Lifetime: 1800, Options: wire.AppendNDOption(nil, wire.NDSourceLink, macB[:])}
	body, rest := router.Append(nil)
	for _, m := range []ndMessage{
		{typ: wire.ICMPv6NeighborSol, src: "2001:db8::2", dst: "ff02::1:ff00:1", body: sol.Append(nil)},
		{typ: wire.ICMPv6NeighborAdv, src: "2001:db8::2", dst: "2001:db8::1", rest: wire.NASolicited, body: adv.Append(nil)},
		{typ: wire.ICMPv6RouterAdv, src: llB, dst: "ff02::1", rest: rest, body: body},
	} {
		see := func(m ndMessage) (seen []any) {
			synctest.Test(t, func(t *testing.T) {
				s, p := ndHost(t, func(c *Config) { c.NICs[0].Auto = true })
				sendUDP6(t, openUDP(t, s, "[::]:9"), "2001:db8::2", "x")
				p.take()
				p.nd(m)
				seen = []any{p.sent(), s.Interfaces()[1].Gateway6, s.Interfaces()[1].MTU, len(s.Interfaces()[1].AddrInfo)}
				for _, n := range s.Neighbors() {
					seen = append(seen, n)
				}
			})
			return seen
		}
		want := see(m)
		reserved := m
		switch m.typ {
		case wire.ICMPv6NeighborSol:
			reserved.rest = 0xffffffff
		case wire.ICMPv6NeighborAdv:
			reserved.rest |= 0x1fffffff
		case wire.ICMPv6RouterAdv:
			reserved.rest |= 0x00070000 // the flags other than M, O and the preference
		}
		require.Equal(t, want, see(reserved), "type %d", m.typ)
		odd := m
		odd.body = slices.Concat(m.body, strange[m.typ])
		require.Equal(t, want, see(odd), "type %d", m.typ)
	}
}

// RFC 4861 4.6.2: "The bits in the prefix after the prefix length are reserved and MUST be initialized to zero by the
// sender and ignored by the receiver."
func TestBitsBehindAPrefixAreIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := autoHost(t)
		option := prefixOption("2001:db8:1::/64", time.Hour, time.Hour)
		for i := 24; i < 32; i++ {
			option[i] = 0xa5
		}
		p.ra(ra{}, option)
		require.Len(t, autoAddrs(s, "2001:db8:1::/64"), 1)
		p.ra(ra{}, prefixOption("2001:db8:1::/64", time.Hour, time.Hour))
		require.Len(t, autoAddrs(s, "2001:db8:1::/64"), 1, "it is the same prefix")
	})
}

// RFC 4861 6.2.6: "A host MUST silently discard any received Router Solicitation messages."
func TestAHostDiscardsRouterSolicitations(t *testing.T) {
	for _, auto := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s, p := ndHost(t, func(c *Config) { c.NICs[0].Auto = auto })
			before := s.Neighbors()
			for _, dst := range []string{"ff02::2", "ff02::1", llA} {
				p.nd(ndMessage{typ: wire.ICMPv6RouterSol, src: llB, dst: dst, body: wire.AppendNDOption(nil, wire.NDSourceLink, macB[:])})
			}
			time.Sleep(time.Second)
			require.NotContains(t, strings.Join(p.sent(), "\n"), "router advertisement")
			require.Equal(t, before, s.Neighbors(), "no neighbour is learned")
		})
	}
}

// RFC 4861 6.3.4: "the receipt of a Router Advertisement MUST NOT invalidate all information received in a previous
// advertisement or from another source."
func TestAnAdvertisementKeepsOtherInformation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := autoHost(t)
		p.ra(ra{src: "fe80::1"}, prefixOption("2001:db8:1::/64", time.Hour, time.Hour),
			wire.AppendRDNSS(nil, 600, addr("2001:db8::53")), wire.AppendMTU(nil, 1400))
		p.ra(ra{src: "fe80::2"}, prefixOption("2001:db8:2::/64", time.Hour, time.Hour))
		p.ra(ra{src: "fe80::1"})
		require.Len(t, autoAddrs(s, "2001:db8:1::/64"), 1)
		require.Len(t, autoAddrs(s, "2001:db8:2::/64"), 1)
		require.Equal(t, []netip.Addr{addr("2001:db8::53")}, s.Interfaces()[1].Auto.DNS)
		require.Equal(t, 1400, s.Interfaces()[1].Auto.MTU)
		routers := 0
		for _, r := range s.Routes() {
			if r.Dst.Bits() == 0 && r.Dst.Addr().Is6() {
				routers++
			}
		}
		require.Equal(t, 2, routers)
		require.NoError(t, routeError(s, "2001:db8:2::77"))
		require.NoError(t, routeError(s, "2001:db8:1::77"))
	})
}

// RFC 4861 7.2.1: "a node MUST NOT leave the solicited-node multicast group until all assigned addresses corresponding
// to that multicast address have been removed."
func TestASolicitedNodeGroupOutlivesOneAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := ndHost(t)
		require.NoError(t, s.AddAddr("", prefix("2001:db8:9::1/64"), AddrOptions{})) // the same solicited-node group
		time.Sleep(5 * time.Second)
		p.take()
		require.NoError(t, s.RemoveAddr("", addr("2001:db8::1")))
		time.Sleep(5 * time.Second)
		require.NotContains(t, strings.Join(p.sent(), "\n"), "ff02::1:ff00:1")
		h := wire.NeighborSol{Target: addr("2001:db8:9::1"), Source: macB, HasSource: true}
		p.nd(ndMessage{typ: wire.ICMPv6NeighborSol, src: llB, dst: "ff02::1:ff00:1", body: h.Append(nil)})
		require.Len(t, p.sent(), 1, "a solicitation to the group still reaches the host")
		require.NoError(t, s.RemoveAddr("", addr("2001:db8:9::1")))
		time.Sleep(5 * time.Second)
		require.Contains(t, strings.Join(p.sent(), "\n"), "TO_IN ff02::1:ff00:1")
	})
}

// RFC 4861 7.3.1: "Receipt of other Neighbor Discovery messages, such as Router Advertisements and Neighbor
// Advertisement with the Solicited flag set to zero, MUST NOT be treated as a reachability confirmation."
func TestOnlyAnAnswerConfirmsANeighbour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := autoHost(t)
		p.ra(ra{})
		require.Equal(t, "stale", state6(s, router6))
		p.na(router6, macB, wire.NARouter)
		require.Equal(t, "stale", state6(s, router6))
		p.ra(ra{})
		p.nd(ndMessage{typ: wire.ICMPv6NeighborSol, src: router6, dst: llA, body: (&wire.NeighborSol{Target: addr(llA), Source: macB, HasSource: true}).Append(nil)})
		require.Equal(t, "stale", state6(s, router6))
		// An unsolicited message does not end the probes either.
		sendUDP6(t, openUDP(t, s, "[::]:9"), router6+"%eth0", "x")
		time.Sleep(6 * time.Second)
		require.Equal(t, "probe", state6(s, router6))
		p.ra(ra{})
		p.na(router6, macB, wire.NARouter)
		require.Equal(t, "probe", state6(s, router6))
		p.nd(ndMessage{typ: wire.ICMPv6NeighborAdv, rest: wire.NASolicited | wire.NARouter, src: router6, dst: llA,
			body: (&wire.NeighborAdv{Target: addr(router6), Link: macB, HasLink: true}).Append(nil)})
		require.Equal(t, "reachable", state6(s, router6))
	})
}

// RFC 4862 5.4: "new implementations MUST NOT do that optimization": each address is probed, even if
// several have the same identifier.
func TestEachAddressOfAnIdentifierIsProbed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		id := strings.TrimPrefix(llA, "fe80::")
		s, p := hostAndPeer(t, with([]netip.Prefix{prefix("2001:db8:1:0:0:" + id + "/64"), prefix("2001:db8:2:0:0:" + id + "/64")}))
		synctest.Wait()
		probes := 0
		for _, line := range p.sent() {
			if strings.Contains(line, ":: > ff02::1:ff00:a ICMPv6 neighbor solicitation") {
				probes++
			}
		}
		require.Len(t, s.Interfaces()[1].AddrInfo, 3)
		require.Equal(t, 3, probes)
	})
}

// RFC 4862 5.1: "A node MUST allow" DupAddrDetectTransmits "to be configured by system management for each multicast-capable
// interface". The probes are RetransTimer apart, and the detection ends RetransTimer after the last
// probe. RFC 4862 5.4: with zero transmits there is no detection (NIC.DADTransmits: a negative number).
func TestTheNumberOfProbesCanBeSet(t *testing.T) {
	// With 10 transmits, the test also loops each probe back, and the host then sends dadMore more.
	for transmits, want := range map[int]int{0: 1, 1: 1, 3: 3, 10: 10, -1: 0} {
		synctest.Test(t, func(t *testing.T) {
			s, p := hostAndPeer(t, with([]netip.Prefix{prefix("2001:db8::1/64")}), func(c *Config) { c.NICs[0].DADTransmits = transmits })
			if want == 0 {
				require.Equal(t, "preferred", stateOf(s, "2001:db8::1"))
			}
			var at []time.Duration
			began := time.Now()
			for range 150 {
				for _, f := range p.take() {
					if strings.Contains(wire.Describe(f), ":: > ff02::1:ff00:1 ICMPv6 neighbor solicitation") {
						at = append(at, time.Since(began).Round(time.Second))
						f = slices.Clone(f)
						copy(f[6:], macB[:]) // a looped-back probe (RFC 7527); nic.Pipe passes no frame with the host's MAC
						if transmits == 10 {
							p.send(f)
						}
					}
				}
				if len(at) == want && want > 0 && transmits != 10 && time.Since(began) < at[want-1]+900*time.Millisecond {
					require.Equal(t, "optimistic", stateOf(s, "2001:db8::1"))
				}
				time.Sleep(100 * time.Millisecond)
			}
			if transmits == 10 {
				want += dadMore
			}
			require.Len(t, at, want)
			for i := range at {
				require.Equal(t, time.Duration(i)*time.Second, at[i])
			}
			require.Equal(t, "preferred", stateOf(s, "2001:db8::1"))
		})
	}
	_, err := New(Config{NICs: []NIC{{Device: nic.NewNull(nic.Link{MTU: 1500}), DADTransmits: 11}}})
	require.ErrorContains(t, err, "above 10")
}

// RFC 4862 5.4.3: "In all cases, a node MUST NOT respond to a Neighbor Solicitation for a tentative address." RFC 4862
// 5.4: "Other packets addressed to the tentative address should be silently discarded."
func TestATentativeAddressAnswersNoNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := hostAndPeer(t, with([]netip.Prefix{prefix("2001:db8::1/64")}), func(c *Config) { c.WaitForDAD = true })
		synctest.Wait()
		p.take()
		h := wire.NeighborSol{Target: addr("2001:db8::1"), Source: macB, HasSource: true}
		for _, dst := range []string{"ff02::1:ff00:1", "2001:db8::1"} {
			p.nd(ndMessage{typ: wire.ICMPv6NeighborSol, src: "2001:db8::2", dst: dst, body: h.Append(nil)})
		}
		adv := wire.NeighborAdv{Target: addr("2001:db8::1"), Link: macB, HasLink: true}
		p.nd(ndMessage{typ: wire.ICMPv6NeighborAdv, rest: wire.NASolicited, src: "2001:db8::1", dst: "2001:db8::1", body: adv.Append(nil)})
		p.send(ethernet6(macA, ip6Packet(wire.IPv6{Next: wire.ProtoUDP}, udpDatagram(addrPort("[2001:db8::2]:5"), addrPort("[2001:db8::1]:6"), nil))))
		require.Empty(t, p.sent())
		require.Equal(t, "tentative", stateOf(s, "2001:db8::1"), "a message to the tentative address itself is no sign of a duplicate")
		time.Sleep(3 * time.Second)
		require.Equal(t, "preferred", stateOf(s, "2001:db8::1"))
	})
}

// RFC 4862 5.4.2: "an interface MUST receive and process datagrams sent to the all-nodes multicast address or
// solicited-node multicast address of the tentative address during the delay period."
func TestDetectionListensBeforeItsFirstProbe(t *testing.T) {
	adv := wire.NeighborAdv{Target: addr("2001:db8::1"), Link: macB, HasLink: true}
	sol := wire.NeighborSol{Target: addr("2001:db8::1")}
	for _, m := range []ndMessage{
		{typ: wire.ICMPv6NeighborAdv, rest: wire.NAOverride, src: "2001:db8::1", dst: "ff02::1", body: adv.Append(nil)},
		{typ: wire.ICMPv6NeighborSol, src: "::", dst: "ff02::1:ff00:1", body: sol.Append(nil)},
	} {
		synctest.Test(t, func(t *testing.T) {
			s, p := hostAndPeer(t, with([]netip.Prefix{prefix("2001:db8::1/64")}), func(c *Config) { c.WaitForDAD = true })
			for _, line := range p.sent() {
				require.NotContains(t, line, "who-has 2001:db8::1", "the probe is delayed")
			}
			p.nd(m)
			require.Equal(t, "duplicate", stateOf(s, "2001:db8::1"))
			time.Sleep(3 * time.Second)
			for _, line := range p.sent() {
				require.NotContains(t, line, "2001:db8::1")
			}
		})
	}
}

// RFC 4862 5.5.4: "if an application explicitly specifies that the protocol stack use a deprecated address as a source
// address, the protocol stack must accept that"; "IP and higher layers (e.g., TCP, UDP) MUST continue to accept and process
// datagrams destined to a deprecated address"; the facility that prevents new communication "MUST be disabled by default".
func TestADeprecatedAddressIsStillUsable(t *testing.T) {
	s, p := hostAndPeer6(t)
	require.NoError(t, s.AddAddr("eth0", prefix("2001:db8::7/64"), AddrOptions{Preferred: -1}))
	require.Equal(t, "deprecated", stateOf(s, "2001:db8::7"))
	u := openUDP(t, s, "[2001:db8::7]:6")
	p.send(ip6Packet(wire.IPv6{Next: wire.ProtoUDP, Dst: addr("2001:db8::7")}, udpDatagram(addrPort("[2001:db8::2]:5"), addrPort("[2001:db8::7]:6"), []byte("hi"))))
	require.Equal(t, []string{"hi"}, texts(u))
	p.take()
	sendUDP6(t, u, "2001:db8::2", "x")
	_, err := s.ListenTCP(Family6, addrPort("[::]:80"), ListenOptions{})
	require.NoError(t, err)
	syn := make([]byte, wire.TCPLen)
	(&wire.TCP{SrcPort: 9, DstPort: 80, Flags: wire.FlagSYN, Window: 1000}).Put(syn)
	wire.SetTCPChecksum(addr("2001:db8::2"), addr("2001:db8::7"), syn)
	p.send(ip6Packet(wire.IPv6{Next: wire.ProtoTCP, Dst: addr("2001:db8::7")}, syn))
	frames := p.take()
	require.Len(t, frames, 2)
	for _, f := range frames {
		h, _, r := wire.ParseIPv6(f)
		require.Equal(t, wire.OK, r)
		require.Equal(t, addr("2001:db8::7"), h.Src)
	}
	// The host starts communication with a deprecated address only if it has no other.
	sendUDP6(t, openUDP(t, s, "[::]:7"), "2001:db8::2", "x")
	h, _, _ := wire.ParseIPv6(p.take()[0])
	require.Equal(t, addr("2001:db8::1"), h.Src)
	require.NoError(t, s.RemoveAddr("eth0", addr("2001:db8::1")))
	sendUDP6(t, openUDP(t, s, "[::]:8"), "2001:db8::2", "x")
	h, _, _ = wire.ParseIPv6(p.take()[0])
	require.Equal(t, addr("2001:db8::7"), h.Src)
}
