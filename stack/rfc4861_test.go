package stack

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// Tests of the requirements of RFC 4861 and RFC 4862 that no other file covers. docs/rfc4861.md and
// docs/rfc4862.md are generated from comments of tests.

// ndKinds returns a valid message of each kind. Each message changes the host's state or makes the host
// send a message.
func ndKinds() map[string]ndMessage {
	const dst = "2001:db8:5::5"
	sol := wire.NeighborSol{Target: addr("2001:db8::1"), Source: macB, HasSource: true}
	adv := wire.NeighborAdv{Target: addr("2001:db8::2"), Link: macB, HasLink: true}
	ra := wire.RouterAdv{Lifetime: 1800, Options: wire.AppendNDOption(nil, wire.NDSourceLink, macB[:])}
	raBody, raRest := ra.Append(nil)
	red := wire.RedirectMsg{Target: addr("fe80::98"), Dst: addr(dst), Link: macB, HasLink: true}
	return map[string]ndMessage{
		"router solicitation":  {typ: wire.ICMPv6RouterSol, src: llB, dst: "ff02::2", body: wire.AppendNDOption(nil, wire.NDSourceLink, macB[:])},
		"router advertisement": {typ: wire.ICMPv6RouterAdv, rest: raRest, src: llB, dst: "ff02::1", body: raBody},
		"solicitation":         {typ: wire.ICMPv6NeighborSol, src: "2001:db8::2", dst: wire.SolicitedNode(addr("2001:db8::1")).String(), body: sol.Append(nil)},
		"advertisement":        {typ: wire.ICMPv6NeighborAdv, rest: wire.NASolicited, src: "2001:db8::2", dst: "2001:db8::1", body: adv.Append(nil)},
		"redirect":             {typ: wire.ICMPv6Redirect, src: "fe80::99", dst: "2001:db8::1", body: red.Append(nil)},
	}
}

// afterND makes a host, sends it a frame, and returns a description of the host's state and of the
// messages that it has sent.
func afterND(t *testing.T, frame []byte) (seen string) {
	synctest.Test(t, func(t *testing.T) {
		s, p := ndHost(t, func(c *Config) {
			c.NICs[0].Auto = true
			c.NICs[0].Gateway6 = addr("fe80::99")
		})
		require.NoError(t, s.Advertise("", &RouterConfig{Lifetime: time.Hour}))
		time.Sleep(time.Hour)
		sendUDP6(t, openUDP(t, s, "[::]:9"), "2001:db8::2", "x") // starts a resolution
		p.take()
		p.send(frame)
		for _, n := range s.Neighbors() {
			seen += fmt.Sprintln(n.Addr, n.MAC, n.State, n.Router)
		}
		way, err := s.route(addr("2001:db8:5::5"), netip.Addr{})
		require.NoError(t, err)
		seen += fmt.Sprintln(s.Routes(), way.hop, len(p.sent()))
	})
	return seen
}

// RFC 4861 MUST-1 MUST-2 MUST-3 MUST-4: router solicitations.
// RFC 4861 MUST-12 MUST-13 MUST-14 MUST-15 MUST-16: router advertisements.
// RFC 4861 MUST-25 MUST-26 MUST-27 MUST-28 MUST-30: neighbour solicitations.
// RFC 4861 MUST-33 MUST-34: neighbour advertisements.
// RFC 4861 MUST-54 MUST-55: redirects.
func TestInvalidDiscoveryOfEachKindIsDropped(t *testing.T) {
	nothing := afterND(t, ndFrame(ndMessage{typ: wire.ICMPv6EchoReply, src: "2001:db8::2", dst: "2001:db8::1", body: []byte("x")}))
	for kind, m := range ndKinds() {
		require.NotEqual(t, nothing, afterND(t, ndFrame(m)), "%s: one that is valid", kind)
		for why, change := range map[string]func(m *ndMessage){
			"hop limit": func(m *ndMessage) { m.hops = 254 },
			"code":      func(m *ndMessage) { m.code = 1 },
			"option":    func(m *ndMessage) { m.body[len(m.body)-7] = 0 }, // the last option has the length 0
			"cut short": func(m *ndMessage) { m.body = m.body[:len(m.body)-1] },
		} {
			m := m
			m.body = slices.Clone(m.body)
			change(&m)
			require.Equal(t, nothing, afterND(t, ndFrame(m)), "%s: %s", kind, why)
		}
		least := map[wire.ICMPv6Type]int{
			wire.ICMPv6RouterAdv: 8, wire.ICMPv6NeighborSol: 16, wire.ICMPv6NeighborAdv: 16, wire.ICMPv6Redirect: 32,
		}
		if n := least[m.typ]; n > 0 {
			short := m
			short.body = m.body[:n-1]
			require.Equal(t, nothing, afterND(t, ndFrame(short)), "%s: too short", kind)
		}
		f := ndFrame(m)
		f[wire.EthernetLen+wire.IPv6Len+2] ^= 1
		require.Equal(t, nothing, afterND(t, f), "%s: checksum", kind)
	}
}

// RFC 4861 MUST-57: "The ICMP Destination Address field in the redirect message does not contain a multicast address."
func TestRedirectsOfGroupsAreDiscarded(t *testing.T) {
	nothing := afterND(t, ndFrame(ndMessage{typ: wire.ICMPv6EchoReply, src: "2001:db8::2", dst: "2001:db8::1", body: []byte("x")}))
	for _, m := range []wire.RedirectMsg{
		{Target: addr("fe80::98"), Dst: addr("ff05::1")},
		{Target: addr("2001:db8::98"), Dst: addr("2001:db8:5::5")},
	} {
		require.Equal(t, nothing, afterND(t, ndFrame(ndMessage{typ: wire.ICMPv6Redirect, src: "fe80::99", dst: "2001:db8::1", body: m.Append(nil)})))
	}
}

// RFC 4861 MUST-60: "Receivers MUST silently ignore any options they do not recognize and continue processing the message."
func TestUnknownOptionsOfDiscoveryAreIgnored(t *testing.T) {
	for kind, m := range ndKinds() {
		want := afterND(t, ndFrame(m))
		fixed := map[wire.ICMPv6Type]int{
			wire.ICMPv6RouterAdv: 8, wire.ICMPv6NeighborSol: 16, wire.ICMPv6NeighborAdv: 16, wire.ICMPv6Redirect: 32,
		}[m.typ]
		m.body = slices.Insert(slices.Clone(m.body), fixed, wire.AppendNDOption(nil, 200, make([]byte, 14))...)
		require.Equal(t, want, afterND(t, ndFrame(m)), kind)
	}
}

// RFC 4861 MUST-17: "a value of zero [...] (unspecified)" does not change the host's value.
func TestUnspecifiedFieldsOfRoutersChangeNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := autoHost(t)
		p.ra(ra{RouterAdv: wire.RouterAdv{HopLimit: 17, Reachable: 10_000, Retrans: 300}}, wire.AppendMTU(nil, 1400))
		nt := s.ifaceNamed("eth0").nd()
		reachable := nt.reachable
		p.ra(ra{})
		require.Equal(t, &AutoInfo{HopLimit: 17, MTU: 1400}, s.Interfaces()[1].Auto)
		require.Equal(t, reachable, nt.reachable)
		require.Equal(t, 300*time.Millisecond, time.Duration(nt.retrans))
	})
}

// RFC 4861 SHLD-9 MUST-52: a neighbour that does not answer in PROBE.
func TestASilentProbedNeighbourIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := ndHost(t)
		u := openUDP(t, s, "[::]:9")
		p.ns("2001:db8::1") // makes 2001:db8::2 known
		p.take()
		sendUDP6(t, u, "2001:db8::2", "x")
		time.Sleep(4900 * time.Millisecond)
		require.Len(t, p.sent(), 1, "DELAY_FIRST_PROBE_TIME")
		time.Sleep(10 * time.Second)
		sent := p.sent()
		require.Len(t, sent, 3, "MAX_UNICAST_SOLICIT")
		for _, line := range sent {
			require.True(t, strings.HasPrefix(line, macA.String()+" > "+macB.String()), line)
		}
		require.Equal(t, "failed", state6(s, "2001:db8::2"))
		sendUDP6(t, u, "2001:db8::2", "x")
		require.Contains(t, p.sent()[0], "ff02::1:ff00:2", "the next packet starts a new resolution")
	})
}

// RFC 4861 MUST-36.
// RFC 4862 MUST-2 MUST-4: the link-local address, and the groups that the host joins before it probes.
func TestALinkLocalAddressLasts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := nic.Pipe(nic.PipeConfig{MACs: [2][6]byte{macA, macB}, NoTxChecksum: true})
		var s *Stack
		joined := true
		b.Attach(func(batch []nic.Frame) {
			for i := range batch {
				text := wire.Describe(batch[i].AppendTo(nil))
				if strings.Contains(text, "solicitation") && s != nil {
					ifc := s.ifaceNamed("eth0")
					joined = joined && ifc.group.has(addr("ff02::1:ff00:7"))
				}
			}
		})
		s = newHost(t, a, "2001:db8::1/64")
		require.NoError(t, s.AddAddr("", prefix("2001:db8::7/64"), AddrOptions{}))
		require.True(t, joined)
		time.Sleep(1000 * time.Hour)
		require.Equal(t, "preferred", stateOf(s, llA))
		require.Zero(t, s.Interfaces()[1].AddrInfo[0].ValidUntil)
		require.Contains(t, s.Interfaces()[1].Groups, addr("ff02::1"))
		require.NoError(t, s.RemoveAddr("", addr("2001:db8::7")))
		require.False(t, s.ifaceNamed("eth0").group.has(addr("ff02::1:ff00:7")))
	})
}

// RFC 4862 MUST-19 MUST-20 SHLD-2: a deprecated address still works. An address whose valid lifetime has
// ended does not.
func TestADeprecatedAddressStillWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := autoHost(t)
		p.ra(ra{RouterAdv: wire.RouterAdv{Lifetime: 9000}}, prefixOption("2001:db8:1::/64", 3*time.Hour, time.Hour))
		p.ra(ra{RouterAdv: wire.RouterAdv{Lifetime: 9000}}, prefixOption("2001:db8:2::/64", 9*time.Hour, 9*time.Hour))
		old := autoAddrs(s, "2001:db8:1::/64")[0].Prefix.Addr()
		echo := func() (n int) {
			p.take()
			p.send(ethernet6(macA, ip6Packet(wire.IPv6{Next: wire.ProtoICMPv6, Src: addr("2001:db8:9::9"), Dst: old},
				echoRequest6(addr("2001:db8:9::9"), old, 1, 1, nil))))
			time.Sleep(time.Second)
			return len(p.take())
		}
		time.Sleep(2 * time.Hour)
		require.Equal(t, AddrDeprecated, autoAddrs(s, "2001:db8:1::/64")[0].State)
		require.NotZero(t, echo())
		way, err := s.route(addr("2001:db8:1::9"), netip.Addr{})
		require.NoError(t, err)
		require.NotEqual(t, old, way.src, "although the deprecated address shares its prefix with the destination")
		way, err = s.route(addr("2001:db8:9::9"), old)
		require.NoError(t, err)
		require.Equal(t, old, way.src)
		time.Sleep(2 * time.Hour)
		require.Zero(t, echo())
		_, err = s.route(addr("2001:db8:9::9"), old)
		require.ErrorIs(t, err, syscall.EADDRNOTAVAIL)
	})
}
