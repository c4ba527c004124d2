package stack

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

// RFC 4861 7.2.5 and appendix C: the effect of an advertisement on an entry, for each state.
//
// RFC 4861 MUST-47 MUST-48 MUST-49 SHLD-7.
func TestAdvertisementsChangeStatesByTheTable(t *testing.T) {
	const ( // the link address in the advertisement, compared with that of the entry
		none = iota
		same
		other
	)
	type row struct {
		st   NeighborState
		link int
		s, o bool // the Solicited and Override flags
		next NeighborState
		take bool // the link address of the advertisement is stored
	}
	var rows []row
	// "If the target's neighbor cache entry is in the INCOMPLETE state [...] If the link layer
	// has addresses and no Target Link-Layer Address option is included, the receiving node SHOULD silently
	// discard the received advertisement. Otherwise, [...] records the link-layer address [...] If
	// the advertisement's Solicited flag is set, the state of the entry is set to REACHABLE;
	// otherwise, it is set to STALE."; "the Override flag is ignored if the entry is in the
	// INCOMPLETE state."
	for _, o := range []bool{false, true} {
		rows = append(rows,
			row{NeighborIncomplete, none, false, o, NeighborIncomplete, false},
			row{NeighborIncomplete, none, true, o, NeighborIncomplete, false},
			row{NeighborIncomplete, other, false, o, NeighborStale, true},
			row{NeighborIncomplete, other, true, o, NeighborReachable, true},
		)
	}
	for _, st := range []NeighborState{NeighborReachable, NeighborStale, NeighborDelay, NeighborProbe} {
		// "If the Override flag is clear and the supplied link-layer address differs from that in
		// the cache, then one of two actions takes place: a. If the state of the entry is
		// REACHABLE, set it to STALE, but do not update the entry in any other way. b. Otherwise,
		// the received advertisement should be ignored".
		kept := st
		if st == NeighborReachable {
			kept = NeighborStale
		}
		rows = append(rows,
			row{st, other, false, false, kept, false},
			row{st, other, true, false, kept, false},
			// "If the Override flag is set, or the supplied link-layer address is the same as that in
			// the cache, or no Target Link-Layer Address option was supplied, [...] If the Solicited flag
			// is set, the state of the entry MUST be set to REACHABLE. If the Solicited flag is zero and
			// the link-layer address was updated with a different address, the state MUST be set to
			// STALE. Otherwise, the entry's state remains unchanged."
			row{st, other, false, true, NeighborStale, true},
			row{st, other, true, true, NeighborReachable, true},
		)
		for _, link := range []int{none, same} {
			for _, o := range []bool{false, true} {
				rows = append(rows,
					row{st, link, false, o, st, false},
					row{st, link, true, o, NeighborReachable, false})
			}
		}
	}
	// "If no entry exists, the advertisement SHOULD be silently discarded." A permanent entry does not
	// change.
	for _, link := range []int{none, same, other} {
		for _, s := range []bool{false, true} {
			for _, o := range []bool{false, true} {
				rows = append(rows,
					row{NeighborFailed, link, s, o, NeighborFailed, false},
					row{NeighborPermanent, link, s, o, NeighborPermanent, false},
					row{neighGone, link, s, o, neighGone, false})
			}
		}
	}
	for _, r := range rows {
		var how neighborUpdate
		if r.link != none {
			how |= updateMAC
		}
		if r.s {
			how |= updateSolicited
		}
		if r.o {
			how |= updateOverride
		}
		text := fmt.Sprintf("%v link=%d solicited=%v override=%v", r.st, r.link, r.s, r.o)
		if r.st != neighGone { // no entry of the table is in this state
			checkLearn(t, r.st, how, r.link == same, r.next, r.take, text)
		}
		next, take, _ := r.st.update(how, r.link != same)
		require.Equal(t, r.next, next, text)
		require.Equal(t, r.take, take, text)
	}
}

// checkLearn tests one row of the table with a real entry, 10 s after its last confirmation. RFC 4861
// 7.3.1: only an answer confirms that the neighbour is reachable.
func checkLearn(t *testing.T, st NeighborState, how neighborUpdate, same bool, next NeighborState, take bool, text string) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := ndHost(t)
		old, mac := macB, wire.MAC{2, 0, 0, 0, 0, 0xc}
		if st == NeighborFailed || st == NeighborIncomplete {
			old = wire.MAC{}
		}
		tab := (*s.ifaces.Load())[1].nd()
		n := tab.get(addr("2001:db8::77"))
		n.word.Store(packNeighbor(old, st))
		n.confirmed.Store(int64(s.now()))
		n.tries = 2
		began := n.confirmed.Load()
		time.Sleep(10 * time.Second)
		switch {
		case how&updateMAC == 0:
			mac = wire.MAC{}
		case same:
			mac = old
		}
		tab.learn(n.addr, mac, how)
		if !take {
			mac = old
		}
		got, gotNext := unpackNeighbor(n.word.Load())
		require.Equal(t, next, gotNext, text)
		require.Equal(t, mac, got, text)
		if next == NeighborReachable && how&updateSolicited != 0 {
			require.Equal(t, int64(s.now()), n.confirmed.Load(), text)
			return
		}
		if !take {
			require.Equal(t, began, n.confirmed.Load(), text)
			require.Equal(t, 2, n.tries, text)
		}
	})
}

// RFC 6583 7.1: entries that other hosts create do not evict entries that the host uses.
func TestRequestersEvictNoUsedEntry(t *testing.T) {
	s, p := hostAndPeerOn8(t)
	u := openUDP(t, s, "0.0.0.0:9")
	sendTo2(t, u, "1")
	p.reply()
	p.take()
	from := addr("10.9.0.1")
	for range 3 * maxNeighbors {
		p.arp(macA, wire.ARP{Op: wire.ARPRequest, SenderMAC: macB, SenderIP: from, TargetIP: addr("192.0.2.1")})
		from = from.Next()
	}
	require.Len(t, s.Neighbors(), maxNeighbors)
	p.take()
	sendTo2(t, u, "2")
	require.Equal(t, []string{"2"}, payloads(p.take()), "the neighbour that answered is still in the table")
}

// hostAndPeerOn8 is hostAndPeer with a second network that has many addresses.
func hostAndPeerOn8(t *testing.T) (*Stack, *peer) {
	return hostAndPeer(t, func(c *Config) {
		c.NICs[0].Addrs = append(c.NICs[0].Addrs, netip.MustParsePrefix("10.0.0.1/8"))
	})
}

// An entry that a fast scan evicts is freed at once, and not only when its next request would be due.
func TestAScanLeavesNothingBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := ndHost(t)
		u := openUDP(t, s, "[::]:9")
		to := addr("2001:db8::1:0:0")
		for range 20 * maxNeighbors {
			sendUDP6(t, u, to.String(), "x")
			to = to.Next()
		}
		require.LessOrEqual(t, len((*s.ifaces.Load())[1].nd().asking), 3*maxNeighbors)
	})
}

func TestSolicitationsEvictNoPendingEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := ndHost(t)
		u := openUDP(t, s, "[::]:9")
		sendUDP6(t, u, "2001:db8::2", "x")
		from := addr("2001:db8::1:0:0")
		for range 3 * maxNeighbors {
			h := wire.NeighborSol{Target: addr("2001:db8::1"), Source: macB, HasSource: true}
			p.nd(ndMessage{typ: wire.ICMPv6NeighborSol, src: from.String(), dst: "2001:db8::1", body: h.Append(nil)})
			from = from.Next()
		}
		p.take()
		p.na("2001:db8::2", macB, wire.NASolicited|wire.NAOverride)
		require.Len(t, p.sent(), 1)
	})
}

// answer sends the Neighbor Advertisement with which a router answers a solicitation from llA.
func (p *peer) answer(router string, mac wire.MAC) {
	p.t.Helper()
	p.nd(ndMessage{typ: wire.ICMPv6NeighborAdv, rest: wire.NARouter | wire.NASolicited | wire.NAOverride, src: router, dst: llA,
		body: (&wire.NeighborAdv{Target: addr(router), Link: mac, HasLink: true}).Append(nil)})
}

// RFC 4861 7.3.1: a Router Advertisement "MUST NOT be treated as a reachability confirmation". So a
// router that sends advertisements but does not answer is replaced (6.3.6).
func TestARouterThatOnlyAdvertisesIsReplaced(t *testing.T) {
	const router2 = "fe80::2222"
	macC := wire.MAC{2, 0, 0, 0, 0, 0xc}
	synctest.Test(t, func(t *testing.T) {
		s, p := autoHost(t)
		p.ra(ra{}, prefixOption("2001:db8::/64", time.Hour, time.Hour))
		p.ra(ra{src: router2})
		time.Sleep(3 * time.Second)
		u := openUDP(t, s, "[::]:9")
		answers := true
		// run sends one datagram and some unsolicited messages per second. It counts the datagrams that go to
		// the first router.
		run := func(seconds int) (first int) {
			for range seconds {
				sendUDP6(t, u, "2001:db8:9::9", "x")
				p.ra(ra{})
				p.na(router6, macB, wire.NARouter|wire.NAOverride)
				body, rest := (&wire.RouterAdv{Lifetime: 1800}).Append(nil) // without a link address
				p.nd(ndMessage{typ: wire.ICMPv6RouterAdv, rest: rest, src: router6, dst: "ff02::1", body: body})
				synctest.Wait()
				for _, f := range p.take() {
					line := wire.Describe(f)
					switch {
					case strings.Contains(line, "2001:db8:9::9") && wire.MAC(f[:6]) == macB:
						first++
					case answers && strings.Contains(line, "who-has "+router6):
						p.answer(router6, macB)
					case strings.Contains(line, "who-has "+router2):
						p.answer(router2, macC)
					}
				}
				time.Sleep(time.Second)
			}
			return first
		}
		require.Equal(t, 60, run(60))
		answers = false
		// REACHABLE_TIME varies up to 45 s; 5 s of DELAY and 3 s of PROBE follow.
		require.LessOrEqual(t, run(60), 54)
		require.Zero(t, run(120), "its advertisements do not make it the first choice again")
		answers = true
		run(1 + int(maxRouterPoll/tcp.Time(time.Second)))
		require.Equal(t, 60, run(60), "the first router answers again")
	})
}

// RFC 4861 7.2.5 about INCOMPLETE: without a link address "the receiving node SHOULD silently discard the
// received advertisement"; 6.3.4: a Router Advertisement without a link address changes only IsRouter. The
// waiting packets continue to wait.
func TestWaitingPacketsNeedALinkAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := autoHost(t)
		advertise := func() {
			body, rest := (&wire.RouterAdv{Lifetime: 1800, Options: prefixOption("2001:db8::/64", time.Hour, time.Hour)}).Append(nil)
			p.nd(ndMessage{typ: wire.ICMPv6RouterAdv, rest: rest, src: router6, dst: "ff02::1", body: body})
		}
		advertise()
		time.Sleep(3 * time.Second)
		p.take()
		ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
		defer cancel()
		go s.DialTCP(ctx, FamilyAny, netip.AddrPort{}, addrPort("[2001:db8:9::9]:80"), TCPOptions{})
		synctest.Wait()
		require.Equal(t, "incomplete", state6(s, router6))
		for range 2 {
			advertise()
			p.nd(ndMessage{typ: wire.ICMPv6NeighborAdv, rest: wire.NARouter | wire.NASolicited, src: router6, dst: llA,
				body: (&wire.NeighborAdv{Target: addr(router6)}).Append(nil)})
			time.Sleep(1100 * time.Millisecond)
		}
		require.Equal(t, "incomplete", state6(s, router6))
		asked := 0
		for _, line := range p.sent() {
			require.NotContains(t, line, "TCP")
			if strings.Contains(line, "who-has "+router6) {
				asked++
			}
		}
		require.Equal(t, 3, asked, "one per RetransTimer, and no restart")
		p.answer(router6, macB)
		synctest.Wait()
		require.Contains(t, strings.Join(p.sent(), "\n"), "TCP")
		cancel()
		synctest.Wait()
	})
}

// RFC 1122 2.3.2.1: a repeated ARP packet that answers no request does not prolong the time for which a
// neighbour is reachable. (RFC 4861 7.3.1 says the same of IPv6.)
func TestRepeatedARPDoesNotProlongReachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := hostAndPeer(t)
		u := openUDP(t, s, "0.0.0.0:9")
		sendTo2(t, u, "1")
		p.reply()
		state := func() string { return s.Neighbors()[0].State.String() }
		require.Equal(t, "reachable", state())
		for range 6 {
			time.Sleep(5 * time.Second)
			p.reply() // unsolicited
			for _, op := range []wire.ARPOp{wire.ARPRequest, wire.ARPReply} {
				for _, to := range []string{"192.0.2.2", "192.0.2.1"} {
					p.arp(wire.Broadcast(), wire.ARP{Op: op, SenderMAC: macB, SenderIP: addr("192.0.2.2"), TargetIP: addr(to)})
				}
			}
		}
		require.Equal(t, "stale", state())
	})
}

// RFC 4861 7.2.5: with the Override flag clear and another link address than the stored one, the host must not
// "update the entry in any other way", so IsRouter does not change.
func TestAnIgnoredAdvertisementRemovesNoRouter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := autoHost(t)
		p.ra(ra{}, prefixOption("2001:db8::/64", time.Hour, time.Hour))
		time.Sleep(3 * time.Second)
		routed := func() bool {
			_, err := s.route(addr("2001:db8:9::9"), netip.Addr{})
			return err == nil
		}
		p.na(router6, wire.MAC{2, 0, 0, 0, 0, 0xc}, 0)
		require.True(t, routed())
		require.True(t, neighbor6(s, router6).Router)
		p.na(router6, macB, 0)
		require.False(t, routed(), "RFC 4861 7.3.3: the neighbour is no longer a router")
	})
}

// deadRouter makes a host whose first router is dead and whose second router is fe80::2222. It returns the
// entry of the dead router.
func deadRouter(t *testing.T, reachable uint32) (*Stack, *peer, *neighbor) {
	const router2 = "fe80::2222"
	s, p := autoHost(t)
	p.ra(ra{RouterAdv: wire.RouterAdv{Reachable: reachable}}, prefixOption("2001:db8::/64", time.Hour, time.Hour))
	p.ra(ra{src: router2})
	time.Sleep(3 * time.Second)
	u := openUDP(t, s, "[::]:9")
	for range 60 {
		sendUDP6(t, u, "2001:db8:9::9", "x")
		p.answer(router2, wire.MAC{2, 0, 0, 0, 0, 0xc})
		time.Sleep(time.Second)
	}
	n := s.ifaceNamed("eth0").nd().get(addr(router6))
	require.True(t, s.ifaceNamed("eth0").routerDead(n.addr))
	return s, p, n
}

// RFC 4861 7.3.1: "receipt of a (new) acknowledgment indicates that previously sent data reached the peer".
// A dead router is alive after that, even if ReachableTime is short.
func TestAConfirmationRevivesADeadRouter(t *testing.T) {
	for _, reachable := range []uint32{0, 10, 30_000} {
		synctest.Test(t, func(t *testing.T) {
			s, p, n := deadRouter(t, reachable)
			p.ra(ra{RouterAdv: wire.RouterAdv{Reachable: reachable}})
			require.Equal(t, "probe", state6(s, router6))
			n.confirm(s.now())
			time.Sleep(2 * time.Second)
			way, err := s.route(addr("2001:db8:9::9"), netip.Addr{})
			require.NoError(t, err)
			require.Equal(t, router6, way.hop.String(), "ReachableTime %d ms", reachable)
		})
	}
}

// RFC 6583 7.1: a router that has answered a poll is an entry that the host has resolved. Requesters do not
// evict it.
func TestRequestersDoNotEvictARevivedRouter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p, _ := deadRouter(t, 0)
		from := addr("2001:db8::1:0:0")
		ask := func(times int) {
			for range times {
				h := wire.NeighborSol{Target: addr(llA), Source: macB, HasSource: true}
				p.nd(ndMessage{typ: wire.ICMPv6NeighborSol, src: from.String(), dst: wire.SolicitedNode(addr(llA)).String(), body: h.Append(nil)})
				from = from.Next()
			}
		}
		ask(2 * maxNeighbors)
		p.answer(router6, macB)
		require.Equal(t, "reachable", state6(s, router6))
		ask(1)
		require.Equal(t, "reachable", state6(s, router6))
		ask(2 * maxNeighbors)
		require.Equal(t, "reachable", state6(s, router6))
	})
}

// A dead router to which packets are sent again, because there is no other router, is still dead after a
// scan of unused addresses.
func TestAScanDoesNotReviveTheOnlyRouters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p, n := deadRouter(t, 0)
		ifc := s.ifaceNamed("eth0")
		u := openUDP(t, s, "[::]:99")
		for range 60 { // the other router does not answer either
			sendUDP6(t, u, "2001:db8:9::9", "x")
			time.Sleep(time.Second)
		}
		p.take()
		sendUDP6(t, u, "2001:db8:9::9", "x")
		require.Equal(t, "incomplete", state6(s, router6))
		to := addr("2001:db8::1:0:0")
		for range 2 * maxNeighbors {
			sendUDP6(t, u, to.String(), "x")
			to = to.Next()
		}
		require.True(t, ifc.routerDead(n.addr))
	})
}

// RFC 6583 7.1: a node that asks for this host and then changes its link address has an entry that the host
// has not resolved. Such entries evict no entry that the host has resolved.
func TestForgedChangesEvictNoUsedEntry(t *testing.T) {
	s, p := hostAndPeerOn8(t)
	u := openUDP(t, s, "0.0.0.0:9")
	sendTo2(t, u, "1")
	p.reply()
	from, other := addr("10.9.0.1"), wire.MAC{2, 0, 0, 0, 0, 0xc}
	for range 3 * maxNeighbors {
		p.arp(macA, wire.ARP{Op: wire.ARPRequest, SenderMAC: macB, SenderIP: from, TargetIP: addr("192.0.2.1")})
		p.arp(macA, wire.ARP{Op: wire.ARPRequest, SenderMAC: other, SenderIP: from, TargetIP: addr("10.8.0.1")})
		from = from.Next()
	}
	p.take()
	sendTo2(t, u, "2")
	require.Equal(t, []string{"2"}, payloads(p.take()), "the neighbour that answered is still in the table")
}
