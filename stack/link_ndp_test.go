package stack

import (
	"context"
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

// The link-local addresses that are made from macA and macB.
const llA, llB = "fe80::ff:fe00:a", "fe80::ff:fe00:b"

// ndHost makes the host 2001:db8::1 on a plain Ethernet, with a peer at the other end, and waits until
// duplicate address detection has ended. The caller is in a synctest bubble.
func ndHost(t testing.TB, change ...func(*Config)) (*Stack, *peer) {
	t.Helper()
	change = append([]func(*Config){with([]netip.Prefix{prefix("2001:db8::1/64")})}, change...)
	s, p := hostAndPeer(t, change...)
	time.Sleep(3 * time.Second)
	synctest.Wait()
	p.take()
	return s, p
}

// An ndMessage describes a message that peer.nd sends. The default destination is the host's address,
// and the default hop limit is 255, that of Neighbor Discovery.
type ndMessage struct {
	typ      wire.ICMPv6Type
	code     uint8
	rest     uint32
	src, dst string
	hops     uint8
	to       wire.MAC // by default the address that dst maps to, or macA
	body     []byte
}

// nd sends the Neighbor Discovery message m to the host.
func (p *peer) nd(m ndMessage) {
	p.t.Helper()
	p.send(ndFrame(m))
}

// ndFrame returns the Ethernet frame of m, with its checksum.
func ndFrame(m ndMessage) []byte {
	src, dst := addr(m.src), addr(m.dst)
	b := make([]byte, wire.ICMPLen+len(m.body))
	h := wire.ICMPv6{Type: m.typ, Code: m.code, Rest: m.rest}
	h.Put(src, dst, b, m.body)
	if m.hops == 0 {
		m.hops = wire.NDHopLimit
	}
	if m.to == (wire.MAC{}) {
		m.to = macA
		if dst.IsMulticast() {
			m.to = wire.MulticastMAC(dst)
		}
	}
	return ethernet6(m.to, ip6Packet(wire.IPv6{Next: wire.ProtoICMPv6, HopLimit: m.hops, Src: src, Dst: dst}, b))
}

func ethernet6(to wire.MAC, packet []byte) []byte {
	b := ethernet(to, packet)
	eth := wire.Ethernet{Dst: to, Src: macB, Type: wire.EtherTypeIPv6}
	eth.Put(b)
	return b
}

// ns sends a Neighbor Solicitation for target, an address of the host, from 2001:db8::2.
func (p *peer) ns(target string) {
	p.t.Helper()
	h := wire.NeighborSol{Target: addr(target), Source: macB, HasSource: true}
	p.nd(ndMessage{typ: wire.ICMPv6NeighborSol, src: "2001:db8::2", dst: wire.SolicitedNode(addr(target)).String(), body: h.Append(nil)})
}

// na sends a Neighbor Advertisement of target with the link address mac. It goes to 2001:db8::1 if flags
// has NASolicited, and to all nodes otherwise.
func (p *peer) na(target string, mac wire.MAC, flags uint32) {
	p.t.Helper()
	h := wire.NeighborAdv{Target: addr(target), Link: mac, HasLink: mac != wire.MAC{}}
	dst := "2001:db8::1"
	if flags&wire.NASolicited == 0 {
		dst = "ff02::1"
	}
	p.nd(ndMessage{typ: wire.ICMPv6NeighborAdv, rest: flags, src: target, dst: dst, body: h.Append(nil)})
}

// neighbor6 returns the host's entry of the neighbour a, or the zero Neighbor if there is none.
func neighbor6(s *Stack, a string) (n Neighbor) {
	for _, n := range s.Neighbors() {
		if n.Addr == addr(a) {
			return n
		}
	}
	return n
}

// state6 returns the state of the neighbour a, or "" if the table has no entry of a.
func state6(s *Stack, a string) string {
	n := neighbor6(s, a)
	if !n.Addr.IsValid() {
		return ""
	}
	return n.State.String()
}

// sendUDP6 sends a datagram to an address.
func sendUDP6(t *testing.T, u *UDP, to, payload string) {
	t.Helper()
	_, err := u.WriteTo([]byte(payload), netip.AddrPortFrom(addr(to), 9), SendOptions{})
	require.NoError(t, err)
}

func TestTCPRunsOverIPv6OnEthernet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		da, db := nic.Pipe(nic.PipeConfig{MACs: [2][6]byte{macA, macB}})
		a := newHost(t, da, "2001:db8::1/64")
		b := newHost(t, db, "2001:db8::2/64")
		for _, remote := range []string{"[2001:db8::2]:80", "[" + llB + "%eth0]:80"} {
			l, err := b.ListenTCP(Family6, addrPort("[::]:80"), ListenOptions{})
			require.NoError(t, err)
			c, err := a.DialTCP(context.Background(), FamilyAny, netip.AddrPort{}, addrPort(remote), TCPOptions{})
			require.NoError(t, err, "a configured address is usable at once")
			d, err := l.Accept()
			require.NoError(t, err)
			_, err = c.Write([]byte("x"))
			require.NoError(t, err)
			_, err = d.Read(make([]byte, 10))
			require.NoError(t, err)
			l.Close()
		}
		require.Equal(t, "reachable", state6(a, "2001:db8::2"))
	})
}

// RFC 4861 7.2.2 and 7.2.3.
//
// RFC 4861 MUST-42 MUST-43 MUST-44 MUST-45 MUST-46.
func TestASolicitationIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := ndHost(t)
		p.ns("2001:db8::1")
		require.Equal(t, []string{macA.String() + " > " + macB.String() +
			" IPv6 2001:db8::1 > 2001:db8::2 ICMPv6 neighbor advertisement 2001:db8::1 is-at " + macA.String() + " solicited override"}, p.sent())
		require.Equal(t, "stale", state6(s, "2001:db8::2"))
		// The answer to a DAD probe goes to all nodes.
		h := wire.NeighborSol{Target: addr(llA)}
		p.nd(ndMessage{typ: wire.ICMPv6NeighborSol, src: "::", dst: wire.SolicitedNode(addr(llA)).String(), body: h.Append(nil)})
		require.Equal(t, []string{macA.String() + " > 33:33:00:00:00:01 IPv6 " + llA + " > ff02::1 ICMPv6 neighbor advertisement " +
			llA + " is-at " + macA.String() + " override"}, p.sent())
		require.Len(t, s.Neighbors(), 1)
		// A solicitation from a changed link address updates the entry, which keeps its IsRouter flag.
		p.na("2001:db8::2", macB, wire.NASolicited|wire.NARouter)
		require.Equal(t, "reachable", state6(s, "2001:db8::2"))
		macC := wire.MAC{2, 0, 0, 0, 0, 0xc}
		h = wire.NeighborSol{Target: addr(llA), Source: macC, HasSource: true}
		p.nd(ndMessage{typ: wire.ICMPv6NeighborSol, src: "2001:db8::2", dst: wire.SolicitedNode(addr(llA)).String(), body: h.Append(nil)})
		n := neighbor6(s, "2001:db8::2")
		require.Equal(t, NeighborStale, n.State)
		require.Equal(t, macC, n.MAC)
		require.True(t, n.Router)
	})
}

// RFC 4861 7.1.1, 7.1.2 and RFC 6980 5.
//
// RFC 4861 MUST-25 MUST-27 MUST-28 MUST-29 MUST-30 MUST-31 MUST-32 MUST-33 MUST-35 MUST-41.
func TestInvalidNeighborDiscoveryIsDropped(t *testing.T) {
	sol := wire.NeighborSol{Target: addr("2001:db8::1"), Source: macB, HasSource: true}
	group := wire.SolicitedNode(addr("2001:db8::1")).String()
	ns := ndMessage{typ: wire.ICMPv6NeighborSol, src: "2001:db8::2", dst: group, body: sol.Append(nil)}
	adv := wire.NeighborAdv{Target: addr("2001:db8::2"), Link: macB, HasLink: true}
	na := ndMessage{typ: wire.ICMPv6NeighborAdv, src: "2001:db8::2", dst: "2001:db8::1", rest: wire.NASolicited, body: adv.Append(nil)}
	change := func(m ndMessage, f func(*ndMessage)) ndMessage {
		m.body = slices.Clone(m.body)
		f(&m)
		return m
	}
	for _, c := range []struct {
		why string
		m   ndMessage
		r   wire.Reason
	}{
		{"hop limit 254", change(ns, func(m *ndMessage) { m.hops = 254 }), dropNDHopLimit},
		{"hop limit 254", change(na, func(m *ndMessage) { m.hops = 254 }), dropNDHopLimit},
		{"code", change(ns, func(m *ndMessage) { m.code = 1 }), wire.BadND},
		{"code", change(na, func(m *ndMessage) { m.code = 1 }), wire.BadND},
		{"too short", change(ns, func(m *ndMessage) { m.body = m.body[:15] }), wire.ShortND},
		{"multicast target", change(ns, func(m *ndMessage) { m.body[0] = 0xff }), wire.BadND},
		{"option of length 0", change(ns, func(m *ndMessage) { m.body[17] = 0 }), wire.BadNDOption},
		{"probe with an option", change(ns, func(m *ndMessage) { m.src = "::" }), wire.BadND},
		{"probe to one node", change(ns, func(m *ndMessage) { m.src, m.dst, m.body = "::", "2001:db8::1", m.body[:16] }), wire.BadND},
		{"another host", change(ns, func(m *ndMessage) { m.body[0] = 0x20; m.body[1] = 2 }), dropNDTarget},
		{"group MAC", change(ns, func(m *ndMessage) { m.body[18] = 1 }), dropBadNDSender},
		{"own MAC", change(na, func(m *ndMessage) { copy(m.body[18:], macA[:]) }), dropBadNDSender},
		{"solicited to all", change(na, func(m *ndMessage) { m.dst = "ff02::1" }), wire.BadND},
	} {
		synctest.Test(t, func(t *testing.T) {
			s, p := ndHost(t)
			p.nd(c.m)
			require.Equal(t, 1, dropped(s, c.r), "%s: %v", c.why, s.Stats().Drops)
			require.Empty(t, p.sent(), c.why)
			require.Empty(t, s.Neighbors(), c.why)
		})
	}
	synctest.Test(t, func(t *testing.T) {
		s, p := ndHost(t)
		// "Nodes MUST silently ignore [...] if the packets carrying them include an IPv6 Fragmentation
		// Header", even if it is an atomic fragment.
		f := ndFrame(ns)
		icmp := f[wire.EthernetLen+wire.IPv6Len:]
		frag := make([]byte, wire.FragmentLen, wire.FragmentLen+len(icmp))
		frag[0] = byte(wire.ProtoICMPv6)
		p.send(ethernet6(wire.MulticastMAC(addr(group)), ip6Packet(wire.IPv6{Next: wire.ProtoFragment, HopLimit: 255,
			Src: addr("2001:db8::2"), Dst: addr(group)}, append(frag, icmp...))))
		require.Equal(t, 1, dropped(s, dropNDFragment))
		require.Empty(t, p.sent())
	})
}

// RFC 6980 5, for a message that was reassembled.
func TestFragmentedNeighborDiscoveryIsIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := ndHost(t)
		h := wire.NeighborSol{Target: addr("2001:db8::1"), Source: macB, HasSource: true}
		group := wire.SolicitedNode(addr("2001:db8::1"))
		f := ndFrame(ndMessage{typ: wire.ICMPv6NeighborSol, src: "2001:db8::2", dst: group.String(), body: h.Append(nil)})
		icmp := f[wire.EthernetLen+wire.IPv6Len:]
		for _, pc := range []piece{{0, 16}, {16, len(icmp)}} {
			p.send(ethernet6(wire.MulticastMAC(group), fragment6(wire.IPv6{HopLimit: 255, Src: addr("2001:db8::2"), Dst: group}, nil, wire.ProtoICMPv6, 7, icmp, pc)))
		}
		require.Equal(t, 1, dropped(s, dropNDFragment), "%v", s.Stats().Drops)
		require.Empty(t, p.sent())
	})
}

// RFC 4861 7.3.3: resolution and the states of a neighbour that answers.
//
// RFC 4861 MUST-37 MUST-38 MUST-39 MUST-47 MUST-52.
func TestAnIPv6NeighbourIsResolvedAndVerified(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := ndHost(t)
		u := openUDP(t, s, "[::]:9")
		sendUDP6(t, u, "2001:db8::2", "one")
		ask := macA.String() + " > 33:33:ff:00:00:02 IPv6 2001:db8::1 > ff02::1:ff00:2 ICMPv6 neighbor solicitation who-has 2001:db8::2 from " + macA.String()
		require.Equal(t, []string{ask}, p.sent())
		require.Equal(t, "incomplete", state6(s, "2001:db8::2"))
		time.Sleep(time.Second + time.Millisecond)
		require.Equal(t, []string{ask}, p.sent())
		p.na("2001:db8::2", macB, wire.NASolicited|wire.NAOverride)
		sent := p.sent()
		require.Len(t, sent, 1)
		require.Contains(t, sent[0], "[2001:db8::1]:9 > [2001:db8::2]:9")
		require.Equal(t, "reachable", state6(s, "2001:db8::2"))
		time.Sleep(31 * time.Second)
		require.Equal(t, "stale", state6(s, "2001:db8::2"))
		sendUDP6(t, u, "2001:db8::2", "two")
		require.Equal(t, "delay", state6(s, "2001:db8::2"))
		require.Len(t, p.sent(), 1)
		time.Sleep(5*time.Second + time.Millisecond)
		require.Equal(t, "probe", state6(s, "2001:db8::2"))
		require.Equal(t, []string{macA.String() + " > " + macB.String() +
			" IPv6 2001:db8::1 > 2001:db8::2 ICMPv6 neighbor solicitation who-has 2001:db8::2 from " + macA.String()}, p.sent())
		// An advertisement without the Router flag clears the entry's IsRouter flag.
		p.na("2001:db8::2", macB, wire.NASolicited|wire.NARouter)
		require.True(t, neighbor6(s, "2001:db8::2").Router)
		p.na("2001:db8::2", macB, wire.NASolicited)
		require.False(t, neighbor6(s, "2001:db8::2").Router)
	})
}

// RFC 4861 MUST-39 MUST-40.
func TestASilentIPv6NeighbourIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := ndHost(t)
		began := time.Now()
		_, err := s.DialTCP(context.Background(), FamilyAny, netip.AddrPort{}, addrPort("[2001:db8::7]:80"), TCPOptions{})
		require.ErrorIs(t, err, syscall.EHOSTUNREACH)
		require.InDelta(t, 3, time.Since(began).Seconds(), 0.1)
		time.Sleep(10 * time.Second)
		p.take()
		failed := s.Stats().ND.Failed
		require.NotZero(t, failed) // 2 if the SYN that is due at 3 s leaves after the failure
		sendUDP6(t, openUDP(t, s, "[::]:9"), "2001:db8::8", "x")
		time.Sleep(10 * time.Second)
		require.Len(t, p.sent(), 3, "RFC 4861 10: MAX_MULTICAST_SOLICIT")
		require.Equal(t, failed+1, s.Stats().ND.Failed)
	})
}

// RFC 4862 5.4.2, RFC 4429 and RFC 7527.
//
// RFC 4862 MUST-1 MUST-3 MUST-5.
func TestANewAddressIsProbed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := hostAndPeer(t, with([]netip.Prefix{prefix("2001:db8::1/64")}))
		var probes, adverts []string
		for _, f := range p.take() {
			switch text := wire.Describe(f); {
			case strings.Contains(text, "neighbor solicitation"):
				probes = append(probes, text)
			case strings.Contains(text, "advertisement"):
				adverts = append(adverts, text)
			}
		}
		// RFC 9131 6.1.2: an optimistic address is advertised too, and "the Override flag MUST NOT be set".
		require.Equal(t, []string{macA.String() + " > 33:33:00:00:00:02 IPv6 2001:db8::1 > ff02::2 ICMPv6 neighbor advertisement 2001:db8::1 is-at " + macA.String()}, adverts)
		require.Equal(t, []string{
			macA.String() + " > 33:33:ff:00:00:0a IPv6 :: > ff02::1:ff00:a ICMPv6 neighbor solicitation who-has " + llA,
			macA.String() + " > 33:33:ff:00:00:01 IPv6 :: > ff02::1:ff00:1 ICMPv6 neighbor solicitation who-has 2001:db8::1",
		}, probes)
		states := func() (list []string) {
			for _, a := range s.Interfaces()[1].AddrInfo {
				list = append(list, a.Prefix.Addr().String()+" "+a.State.String())
			}
			return list
		}
		require.Equal(t, []string{llA + " optimistic", "2001:db8::1 optimistic"}, states())
		// "clear the 'Override' flag": a previous owner of the address is not displaced.
		p.ns("2001:db8::1")
		sent := p.sent()
		require.Len(t, sent, 1)
		require.True(t, strings.HasSuffix(sent[0], "is-at "+macA.String()+" solicited"), sent[0])
		// A solicitation does not teach neighbours the optimistic address.
		u := openUDP(t, s, "[::]:9")
		sendUDP6(t, u, "2001:db8::2", "x")
		time.Sleep(10 * time.Millisecond)
		require.Len(t, p.sent(), 1, "no solicitation, because the peer's own one has made an entry")
		sendUDP6(t, u, "2001:db8::3", "x")
		require.Equal(t, []string{macA.String() + " > 33:33:ff:00:00:03 IPv6 2001:db8::1 > ff02::1:ff00:3 ICMPv6 neighbor solicitation who-has 2001:db8::3"}, p.sent())
		changed := s.Changed()
		time.Sleep(2 * time.Second)
		<-changed
		require.Equal(t, []string{llA + " preferred", "2001:db8::1 preferred"}, states())
		// RFC 9131 6.1.2: the host advertises the preferred address again.
		require.Contains(t, strings.Join(p.sent(), "\n"), "2001:db8::1 > ff02::2 ICMPv6 neighbor advertisement 2001:db8::1 is-at "+macA.String())
	})
}

// stateOf returns the state of the host's address a.
func stateOf(s *Stack, a string) string {
	for _, ifc := range s.Interfaces() {
		for _, i := range ifc.AddrInfo {
			if i.Prefix.Addr() == addr(a) {
				return i.State.String()
			}
		}
	}
	return ""
}

// RFC 4862 5.4.3 and 5.4.4.
//
// RFC 4862 MUST-7 MUST-8 MUST-9.
func TestADuplicateIsGivenUp(t *testing.T) {
	group := wire.SolicitedNode(addr("2001:db8::1")).String()
	probe := func(nonce *[6]byte) ndMessage {
		h := wire.NeighborSol{Target: addr("2001:db8::1")}
		if nonce != nil {
			h.Nonce, h.HasNonce = *nonce, true
		}
		return ndMessage{typ: wire.ICMPv6NeighborSol, src: "::", dst: group, body: h.Append(nil)}
	}
	adv := wire.NeighborAdv{Target: addr("2001:db8::1"), Link: macB, HasLink: true}
	defence := ndMessage{typ: wire.ICMPv6NeighborAdv, rest: wire.NAOverride, src: "2001:db8::1", dst: "ff02::1", body: adv.Append(nil)}
	for _, wait := range []bool{false, true} {
		for _, c := range []struct {
			m   ndMessage
			mac wire.MAC // of the other node, if m has it
		}{
			{probe(nil), wire.MAC{}},
			{probe(&[6]byte{1, 2, 3, 4, 5, 6}), wire.MAC{}},
			{defence, macB},
		} {
			synctest.Test(t, func(t *testing.T) {
				s, p := hostAndPeer(t, with([]netip.Prefix{prefix("2001:db8::1/64")}), func(c *Config) { c.WaitForDAD = wait })
				changed := s.Changed()
				if wait {
					require.Equal(t, "tentative", stateOf(s, "2001:db8::1"))
					require.False(t, s.IsLocal(addr("2001:db8::1")))
				}
				p.nd(c.m)
				require.Equal(t, "duplicate", stateOf(s, "2001:db8::1"))
				require.False(t, s.IsLocal(addr("2001:db8::1")))
				<-changed
				require.Equal(t, c.mac, s.Interfaces()[1].AddrInfo[1].ConflictMAC)
				time.Sleep(5 * time.Second)
				require.Equal(t, "preferred", stateOf(s, llA))
				p.take()
				p.ns("2001:db8::1")
				require.Empty(t, p.sent())
				// Added again, the address is probed again.
				require.NoError(t, s.AddAddr("", prefix("2001:db8::1/64"), AddrOptions{}))
				time.Sleep(5 * time.Second)
				require.Equal(t, "preferred", stateOf(s, "2001:db8::1"))
			})
		}
	}
}

// RFC 4862 5.4.3: "If the source address of the Neighbor Solicitation is a unicast address, the
// sender is performing address resolution on the target; the solicitation should be silently
// ignored."
//
// RFC 4862 MUST-6 MUST-10 SHLD-1.
func TestATentativeAddressIsNotUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := hostAndPeer(t, with([]netip.Prefix{prefix("2001:db8::1/64")}), func(c *Config) { c.WaitForDAD = true })
		synctest.Wait()
		require.NotContains(t, strings.Join(p.sent(), "\n"), "solicitation", "the probe is delayed")
		p.ns("2001:db8::1")
		require.Equal(t, 1, dropped(s, dropTentative))
		_, err := s.OpenUDP(Family6, addrPort("[2001:db8::1]:9"))
		require.ErrorIs(t, err, syscall.EADDRNOTAVAIL)
		p.send(ethernet6(macA, ip6Packet(wire.IPv6{Next: wire.ProtoICMPv6}, echoRequest6(addr("2001:db8::2"), addr("2001:db8::1"), 1, 1, nil))))
		require.Equal(t, 1, dropped(s, dropNotLocal))
		time.Sleep(time.Second + time.Millisecond)
		require.Contains(t, strings.Join(p.sent(), "\n"), ":: > ff02::1:ff00:1 ICMPv6 neighbor solicitation")
		time.Sleep(time.Second)
		openUDP(t, s, "[2001:db8::1]:9")
	})
}

// Routes that depend on an address stay while the address is tentative or optimistic.
func TestRoutesOutlastTentativeAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := hostAndPeer(t, func(c *Config) {
			c.WaitForDAD = true
			c.NICs[0].Addrs, c.NICs[0].Gateway6 = []netip.Prefix{prefix("2001:db8::1/64")}, addr("2001:db8::2")
			c.Routes = []Route{{Dst: prefix("2001:db8:5::/48"), Via: addr("2001:db8::3"), Src: addr("2001:db8::1")}}
		})
		for range 2 {
			require.Error(t, routeError(s, "2001:db8:5::1"), "there is no source yet")
			require.Error(t, routeError(s, "2001:db8:9::1"))
			time.Sleep(4 * time.Second)
			require.NoError(t, routeError(s, "2001:db8:5::1"))
			require.NoError(t, routeError(s, "2001:db8:9::1"))
			require.Equal(t, addr("2001:db8::2"), s.Interfaces()[1].Gateway6)
			s.reattach((*s.ifaces.Load())[1]) // as if the link had come up
		}
	})
}

// RFC 7527 4.2: the host's own probe, looped back by the network, is not another node's.
//
// RFC 4862 MUST-7.
func TestALoopedProbeIsNoDuplicate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := hostAndPeer(t, with([]netip.Prefix{prefix("2001:db8::1/64")}))
		probes := 0
		for range 80 {
			for _, f := range p.take() {
				if text := wire.Describe(f); strings.Contains(text, ":: > ff02::1:ff00:1 ") {
					probes++
					f = slices.Clone(f)
					copy(f[6:], macB[:]) // nic.Pipe would not pass it otherwise
					p.send(f)
				}
			}
			time.Sleep(100 * time.Millisecond)
		}
		require.Equal(t, "preferred", stateOf(s, "2001:db8::1"))
		require.Equal(t, 1+dadMore, probes, "RFC 7527 4.1: MAX_MULTICAST_SOLICIT more")
	})
}

// RFC 4861 8.1 and 8.3.
//
// RFC 4861 MUST-53 MUST-56 MUST-58 SHLD-10.
func TestARedirectOfTheFirstHopIsUsed(t *testing.T) {
	const dst = "2001:db8:5::5"
	gateway := func(c *Config) { c.NICs[0].Gateway6 = addr("fe80::99") }
	redirect := func(target, dst string, mac wire.MAC) []byte {
		m := wire.RedirectMsg{Target: addr(target), Dst: addr(dst), Link: mac, HasLink: mac != wire.MAC{}}
		return m.Append(nil)
	}
	msg := func(src string, body []byte) ndMessage {
		return ndMessage{typ: wire.ICMPv6Redirect, src: src, dst: "2001:db8::1", body: body}
	}
	hop := func(s *Stack) string {
		p, err := s.route(addr(dst), netip.Addr{})
		require.NoError(t, err)
		return p.hop.String()
	}
	macC := wire.MAC{2, 0, 0, 0, 0, 0xc}
	synctest.Test(t, func(t *testing.T) {
		s, p := ndHost(t, gateway)
		require.Equal(t, addr("fe80::99"), s.Interfaces()[1].Gateway6)
		require.Equal(t, "fe80::99", hop(s))
		p.nd(msg("fe80::99", redirect("fe80::98", dst, macC)))
		require.Equal(t, "fe80::98", hop(s))
		n := neighbor6(s, "fe80::98")
		require.Equal(t, Neighbor{NIC: "eth0", Addr: addr("fe80::98"), MAC: macC, State: NeighborStale, Router: true}, n)
		// The new first hop may redirect again, to the destination itself.
		p.nd(msg("fe80::99", redirect(dst, dst, macB)))
		require.Equal(t, "fe80::98", hop(s), "fe80::99 is no longer the first hop")
		p.nd(msg("fe80::98", redirect(dst, dst, macB)))
		require.Equal(t, dst, hop(s))
		require.False(t, neighbor6(s, dst).Router)
		// A redirect to a neighbour that does not answer is removed.
		u := openUDP(t, s, "[::]:9")
		sendUDP6(t, u, dst, "x")
		time.Sleep(10 * time.Second)
		require.Equal(t, "fe80::99", hop(s))
	})
	synctest.Test(t, func(t *testing.T) {
		s, p := ndHost(t, gateway)
		p.nd(msg("fe80::99", redirect("fe80::98", dst, macC)))
		require.Equal(t, "fe80::98", hop(s))
		// The redirect was for the route by fe80::99.
		r := Route{Dst: prefix("2001:db8:5::/48"), Via: addr("fe80::77"), NIC: "eth0"}
		require.NoError(t, s.AddRoute(r))
		require.Equal(t, "fe80::77", hop(s))
		require.NoError(t, s.DelRoute(r))
		require.Equal(t, "fe80::98", hop(s))
		// Flushing the neighbours and removing the link remove the redirects.
		s.FlushNeighbors()
		require.Equal(t, "fe80::99", hop(s))
		p.nd(msg("fe80::99", redirect("fe80::98", dst, macC)))
		require.Len(t, s.redirects.m, 1)
		require.NoError(t, s.RemoveNIC("eth0"))
		require.Empty(t, s.redirects.m)
	})
	for why, m := range map[string]ndMessage{
		"from another router":       msg("fe80::98", redirect("fe80::97", dst, macC)),
		"from a host":               msg("2001:db8::2", redirect("fe80::97", dst, macC)),
		"target is this host":       msg("fe80::99", redirect(llA, dst, macC)),
		"destination is this host":  msg("fe80::99", redirect("2001:db8::1", "2001:db8::1", macC)),
		"destination is on-link":    msg("fe80::99", redirect("fe80::97", "2001:db8::7", macC)),
		"destination is link-local": msg("fe80::99", redirect("fe80::97", "fe80::7", macC)),
		"group MAC":                 msg("fe80::99", redirect("fe80::97", dst, wire.MAC{1, 0, 0, 0, 0, 1})),
	} {
		synctest.Test(t, func(t *testing.T) {
			s, p := ndHost(t, gateway)
			p.nd(m)
			require.Equal(t, 1, dropped(s, dropRedirect), why)
			require.Equal(t, "fe80::99", hop(s), why)
		})
	}
	synctest.Test(t, func(t *testing.T) {
		s, p := ndHost(t, func(c *Config) { c.NICs[0].Gateway6 = addr("2001:db8::99") })
		p.nd(msg("2001:db8::99", redirect("fe80::98", dst, macC)))
		require.Equal(t, "2001:db8::99", hop(s), "IP Source Address MUST be the link-local address")
	})
	synctest.Test(t, func(t *testing.T) {
		s, p := ndHost(t, gateway, func(c *Config) { c.NoRedirects = true })
		p.nd(msg("fe80::99", redirect("fe80::98", dst, macC)))
		require.Equal(t, "fe80::99", hop(s))
	})
}

// RFC 6583: memory is bounded, and entries in use are not evicted.
func TestAFloodOfSolicitationsIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := ndHost(t)
		u := openUDP(t, s, "[::]:9")
		sendUDP6(t, u, "2001:db8::2", "x")
		p.na("2001:db8::2", macB, wire.NASolicited|wire.NAOverride)
		p.take()
		from := addr("2001:db8::1:0:0:0")
		h := wire.NeighborSol{Target: addr("2001:db8::1"), Source: macB, HasSource: true}
		for range 3 * maxNeighbors {
			p.nd(ndMessage{typ: wire.ICMPv6NeighborSol, src: from.String(), dst: "ff02::1:ff00:1", body: h.Append(nil)})
			from = from.Next()
		}
		require.Len(t, p.take(), 3*maxNeighbors, "each is answered")
		require.Len(t, s.Neighbors(), maxNeighbors)
		require.Equal(t, "reachable", state6(s, "2001:db8::2"))
		// A scan by the host is bounded in the same way.
		to := addr("2001:db8::2:0:0:0")
		for range 3 * maxNeighbors {
			_, err := u.WriteTo([]byte("x"), netip.AddrPortFrom(to, 9), SendOptions{})
			require.NoError(t, err)
			to = to.Next()
		}
		require.Len(t, s.Neighbors(), maxNeighbors)
		require.Equal(t, "reachable", state6(s, "2001:db8::2"))
		time.Sleep(time.Minute)
		synctest.Wait()
		table := s.ifaceNamed("eth0").nd()
		require.Zero(t, table.waiting)
		require.Empty(t, table.asking)
	})
}

func TestStaticNeighborsOfIPv6(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := ndHost(t, func(c *Config) {
			c.Neighbors = []Neighbor{{NIC: "eth0", Addr: addr("2001:db8::2"), MAC: macB}, {NIC: "eth0", Addr: addr("fe80::2"), MAC: macB}}
		})
		u := openUDP(t, s, "[::]:9")
		sendUDP6(t, u, "2001:db8::2", "x")
		sendUDP6(t, u, "fe80::2%eth0", "x")
		require.Len(t, payloads6(p.take()), 2)
		p.na("2001:db8::2", wire.MAC{2, 9}, wire.NAOverride)
		require.Equal(t, macB, neighbor6(s, "2001:db8::2").MAC)
	})
}

// payloads6 returns the payloads of the UDP datagrams among frames.
func payloads6(frames [][]byte) (list []string) {
	for _, f := range frames {
		h, b, r := wire.ParseIPv6(f[wire.EthernetLen:])
		if r == wire.OK && h.Next == wire.ProtoUDP {
			list = append(list, string(b[wire.UDPLen:]))
		}
	}
	return list
}

// If another node uses an address of the host, the host defends the address and logs that.
//
// RFC 4861 MUST-51.
func TestAnAddressOfIPv6IsDefended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := ndHost(t)
		adv := wire.NeighborAdv{Target: addr("2001:db8::1"), Link: macB, HasLink: true}
		m := ndMessage{typ: wire.ICMPv6NeighborAdv, rest: wire.NAOverride, src: "2001:db8::1", dst: "ff02::1", body: adv.Append(nil)}
		for range 3 {
			p.nd(m)
		}
		require.Equal(t, []string{macA.String() + " > 33:33:00:00:00:01 IPv6 2001:db8::1 > ff02::1 ICMPv6 neighbor advertisement 2001:db8::1 is-at " +
			macA.String() + " override"}, p.sent(), "once in ten seconds")
		require.Equal(t, macB, s.Interfaces()[1].AddrInfo[1].ConflictMAC)
		require.Equal(t, "preferred", stateOf(s, "2001:db8::1"), "a static address is kept")
		// A copy of the host's own message is ignored.
		adv.Link = macA
		m.body = adv.Append(nil)
		time.Sleep(time.Minute)
		p.nd(m)
		require.Empty(t, p.sent())
	})
}

// RFC 4862 5.3 and 5.4: when a link comes up, its addresses are probed again, as on Linux.
func TestALinkThatComesUpIsProbedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := nic.Pipe(nic.PipeConfig{MACs: [2][6]byte{macA, macB}, NoTxChecksum: true})
		dev := newChangeable(a)
		_ = b
		s := newHost(t, dev, "2001:db8::1/64")
		time.Sleep(3 * time.Second)
		require.Equal(t, "preferred", stateOf(s, "2001:db8::1"))
		dev.Plug(false)
		dev.Plug(true)
		require.Equal(t, "optimistic", stateOf(s, "2001:db8::1"))
		time.Sleep(3 * time.Second)
		require.Equal(t, "preferred", stateOf(s, "2001:db8::1"))
	})
}

// RFC 4861 6.3.6: "Routers that are reachable or probably reachable [...] SHOULD be preferred over
// routers whose reachability is unknown or suspect". Packets that wait for a router that does not
// answer are sent to another router.
//
// RFC 4861 SHLD-5.
func TestAnotherIPv6RouterReplacesADeadOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := ndHost(t, func(c *Config) {
			for _, via := range []string{"fe80::98", "fe80::99"} {
				c.Routes = append(c.Routes, Route{Dst: prefix("::/0"), Via: addr(via), NIC: "eth0"})
			}
		})
		u := openUDP(t, s, "[::]:9")
		sendUDP6(t, u, "2001:db8:9::1", "x")
		require.Contains(t, p.sent()[0], "who-has fe80::98")
		time.Sleep(3*time.Second + time.Millisecond)
		require.Contains(t, strings.Join(p.sent(), "\n"), "who-has fe80::99")
		p.na("fe80::99", macB, wire.NASolicited|wire.NAOverride|wire.NARouter)
		require.Equal(t, []string{"x"}, payloads6(p.take()))
	})
}
