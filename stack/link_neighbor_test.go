package stack

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/stack/wire"
)

// RFC 4861 7.2.5 and appendix C: the effect of an advertisement on an entry, for each state.
//
// RFC 4861 MUST-47 MUST-48 MUST-49 SHLD-7.
func TestAdvertisementsChangeStatesByTheTable(t *testing.T) {
	const (
		none = iota
		same
		other
	)
	type row struct {
		st   neighborState
		link int
		s, o bool
		next neighborState
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
			row{neighIncomplete, none, false, o, neighIncomplete, false},
			row{neighIncomplete, none, true, o, neighIncomplete, false},
			row{neighIncomplete, other, false, o, neighStale, true},
			row{neighIncomplete, other, true, o, neighReachable, true},
		)
	}
	for _, st := range []neighborState{neighReachable, neighStale, neighDelay, neighProbe} {
		// "If the Override flag is clear and the supplied link-layer address differs from that in
		// the cache, then one of two actions takes place: a. If the state of the entry is
		// REACHABLE, set it to STALE, but do not update the entry in any other way. b. Otherwise,
		// the received advertisement should be ignored".
		kept := st
		if st == neighReachable {
			kept = neighStale
		}
		rows = append(rows,
			row{st, other, false, false, kept, false},
			row{st, other, true, false, kept, false},
			// "If the Override flag is set, or the supplied link-layer address is the same as that in
			// the cache, or no Target Link-Layer Address option was supplied, [...] If the Solicited flag
			// is set, the state of the entry MUST be set to REACHABLE. If the Solicited flag is zero and
			// the link-layer address was updated with a different address, the state MUST be set to
			// STALE. Otherwise, the entry's state remains unchanged."
			row{st, other, false, true, neighStale, true},
			row{st, other, true, true, neighReachable, true},
		)
		for _, link := range []int{none, same} {
			for _, o := range []bool{false, true} {
				rows = append(rows,
					row{st, link, false, o, st, false},
					row{st, link, true, o, neighReachable, false})
			}
		}
	}
	// "If no entry exists, the advertisement SHOULD be silently discarded." A permanent entry does not
	// change.
	for _, link := range []int{none, same, other} {
		for _, s := range []bool{false, true} {
			for _, o := range []bool{false, true} {
				rows = append(rows,
					row{neighUnknown, link, s, o, neighUnknown, false},
					row{neighPermanent, link, s, o, neighPermanent, false},
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
		next, take, ok := r.st.update(how, r.link != same)
		if !ok {
			next, take = r.st, false
		}
		text := fmt.Sprintf("%v link=%d solicited=%v override=%v", r.st, r.link, r.s, r.o)
		require.Equal(t, r.next, next, text)
		require.Equal(t, r.take, take, text)
	}
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
	require.Equal(t, []string{"2"}, payloads(p.take()), "the one that answers is still known")
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
