package dhcp

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// behind returns a message as it arrives through relay agents. links are their link-addresses; that of the agent
// closest to the client is the first.
func behind(m *Message6, links ...string) *Relay6 {
	inner := m.Append(nil)
	var r *Relay6
	for i, l := range links {
		r = &Relay6{Type: RelayForward6, Hops: uint8(i), Link: addr(l), Peer: addr("fe80::7"), Options: Options6{{Opt6InterfaceID, []byte{'i', byte(i)}}, {Opt6RelayMessage, inner}}}
		inner = r.Append(nil)
	}
	return r
}

func relayedLinks() []Link6 {
	return []Link6{
		{Prefix: netip.MustParsePrefix("2001:db8:1::/64"), Pools: []Range6{{addr("2001:db8:1::100"), addr("2001:db8:1::1ff")}}},
		{
			Prefix: netip.MustParsePrefix("2001:db8:2::/64"), Reservations: []Reservation6{{DUIDFromMAC(mac), addr("2001:db8:2::7")}},
			Delegated: []PrefixPool6{{netip.MustParsePrefix("2001:db8:100::/40"), 56}},
		},
	}
}

// RFC 8415 19.3: a reply goes back through the relay agents of the message, with their hop counts, addresses and
// interface identifiers. 13.1: the link is that of the agent closest to the client.
func TestAClientBehindRelayAgents(t *testing.T) {
	for name, links := range map[string][]string{
		"one":                     {"2001:db8:2::1"},
		"two":                     {"2001:db8:2::1", "2001:db8:1::1"},
		"two, outer without link": {"2001:db8:2::1", "::"},
		"two, inner without link": {"::", "2001:db8:2::1"},
		"nine":                    {"2001:db8:2::1", "::", "::", "::", "::", "::", "::", "::", "::"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLink6(t, func(c *ClientConfig6, s *ServerConfig6) {
				s.Relayed = relayedLinks()
				c.Prefixes = true
			})
			ask := func() {
				for m, ok := l.c.NextSend(); ok; m, ok = l.c.NextSend() {
					forward := behind(m, links...)
					reply := l.s.ReceiveRelayed(l.now, mustRelay6(t, forward.Append(nil)))
					require.NotNil(t, reply, "%v", m.Type)
					for i, link := range slices.Backward(links) {
						require.Equal(t, []any{RelayReply6, uint8(i), addr(link), addr("fe80::7")}, []any{reply.Type, reply.Hops, reply.Link, reply.Peer})
						id, _ := reply.Options.Get(Opt6InterfaceID)
						require.Equal(t, []byte{'i', byte(i)}, id)
						inner, _ := reply.Options.Get(Opt6RelayMessage)
						if i > 0 {
							reply = mustRelay6(t, inner)
							continue
						}
						l.c.Receive(l.now, mustParse6(t, inner))
					}
				}
			}
			l.c.Up(l.now)
			for range 3 {
				l.now = l.c.Deadline()
				l.c.Tick(l.now)
				ask()
			}
			lease := l.event(Acquired).Lease
			require.Equal(t, "2001:db8:2::7/128", lease.Addrs[0].Prefix.String())
			require.Len(t, lease.Prefixes, 1)
			require.Equal(t, 56, lease.Prefixes[0].Prefix.Bits())
			require.Len(t, slices.Collect(l.s.Bindings()), 2)
			l.c.Release(l.now)
			ask()
			require.Empty(t, slices.Collect(l.s.Bindings()))
		})
	}
}

func mustRelay6(t *testing.T, b []byte) *Relay6 {
	t.Helper()
	require.True(t, b[0] == byte(RelayReply6) || IsRelayed6(b))
	r, err := ParseRelay6(b)
	require.NoError(t, err)
	return r
}

// A server ignores Relay-forward messages from links that it does not serve, and malformed messages.
func TestMessagesOfRelayAgentsThatAreIgnored(t *testing.T) {
	solicit := &Message6{Type: Solicit6, Options: Options6{{Opt6ClientID, DUIDFromMAC(mac)}, (&ia6{id: 1}).option(Opt6IANA)}}
	l := newLink6(t, func(_ *ClientConfig6, s *ServerConfig6) { s.Relayed = relayedLinks() })
	require.NotNil(t, l.s.ReceiveRelayed(l.now, behind(solicit, "2001:db8:1::1")))
	for name, r := range map[string]*Relay6{
		"another link":                  behind(solicit, "2001:db8:3::1"),
		"the server's own link":         behind(solicit, "2001:db8::1"), // its clients ask by multicast
		"no link":                       behind(solicit, "::"),
		"ten agents":                    behind(solicit, slices.Repeat([]string{"2001:db8:1::1"}, maxRelays6+1)...),
		"a reply":                       {Type: RelayReply6, Link: addr("2001:db8:1::1"), Peer: addr("fe80::7"), Options: Options6{{Opt6RelayMessage, solicit.Append(nil)}}},
		"no message":                    {Type: RelayForward6, Link: addr("2001:db8:1::1"), Peer: addr("fe80::7")},
		"empty relay message option":    {Type: RelayForward6, Link: addr("2001:db8:1::1"), Peer: addr("fe80::7"), Options: Options6{{Opt6RelayMessage, nil}}},
		"truncated client message":      {Type: RelayForward6, Link: addr("2001:db8:1::1"), Peer: addr("fe80::7"), Options: Options6{{Opt6RelayMessage, solicit.Append(nil)[:9]}}},
		"truncated inner Relay-forward": {Type: RelayForward6, Link: addr("2001:db8:1::1"), Peer: addr("fe80::7"), Options: Options6{{Opt6RelayMessage, []byte{12, 0}}}},
		"inner Relay-reply":             {Type: RelayForward6, Link: addr("2001:db8:1::1"), Peer: addr("fe80::7"), Options: Options6{{Opt6RelayMessage, (&Relay6{Type: RelayReply6, Link: addr("2001:db8:1::1"), Peer: addr("fe80::7")}).Append(nil)}}},
	} {
		before := l.s.Stats()
		require.Nil(t, l.s.ReceiveRelayed(l.now, r), name)
		after := l.s.Stats()
		require.Equal(t, before.Relayed+1, after.Relayed)
		require.Equal(t, before.Invalid+before.Foreign+1, after.Invalid+after.Foreign, name)
	}
	l = newLink6(t, nil)
	require.Nil(t, l.s.ReceiveRelayed(l.now, behind(solicit, "2001:db8::1")), "relay agents are not served")
	for _, bad := range [][]byte{nil, {12}, make([]byte, relayHeader6), append([]byte{12}, make([]byte, relayHeader6-2)...), append([]byte{12}, make([]byte, relayHeader6+2)...)} {
		_, err := ParseRelay6(bad)
		require.ErrorIs(t, err, ErrMalformed)
	}
}

// A client that has moved to another link gets an address there, and its old address is free.
func TestAClientMovesToAnotherRelayedLink(t *testing.T) {
	l := newLink6(t, func(_ *ClientConfig6, s *ServerConfig6) {
		s.Relayed = relayedLinks()
		s.Relayed[1].Pools = []Range6{{addr("2001:db8:2::100"), addr("2001:db8:2::1ff")}}
		s.MaxBindings = 1 // the old address makes room for the new one
	})
	old := ""
	for _, link := range []string{"2001:db8:1::1", "2001:db8:2::1"} {
		ia := &ia6{id: 1}
		if old != "" {
			ia.items = []iaItem6{{netip.MustParsePrefix(old), 0, 0}}
		}
		m := &Message6{Type: Request6, Options: Options6{{Opt6ServerID, l.s.cfg.DUID}, {Opt6ClientID, DUIDFromUUID([16]byte{9})}, ia.option(Opt6IANA)}}
		r := l.s.ReceiveRelayed(l.now, behind(m, link))
		inner, _ := r.Options.Get(Opt6RelayMessage)
		b, _ := mustParse6(t, inner).Options.Get(Opt6IANA)
		got, _ := parseIA(Opt6IANA, b)
		if old != "" {
			require.Equal(t, iaItem6{netip.MustParsePrefix(old), 0, 0}, got.items[0])
			got.items = got.items[1:]
		}
		require.Len(t, got.items, 1)
		require.NotEqual(t, old, got.items[0].prefix.String())
		old = got.items[0].prefix.String()
		require.Len(t, slices.Collect(l.s.Bindings()), 1)
	}
	require.Equal(t, []string{"assigned", "ended", "assigned"}, l.serverEvents())
}

// A server delegates different prefixes to different clients until there are none, and the same one again to a client
// that renews.
func TestAServer6DelegatesPrefixes(t *testing.T) {
	l := newLink6(t, func(c *ClientConfig6, s *ServerConfig6) {
		c.Addrs, c.Prefixes, s.Pools = false, true, nil
		s.Delegated = []PrefixPool6{{netip.MustParsePrefix("2001:db8:100::/62"), 64}}
	})
	l.c.Up(l.now)
	l.until(Bound6)
	first := l.event(Acquired).Lease.Prefixes[0].Prefix
	require.True(t, netip.MustParsePrefix("2001:db8:100::/62").Contains(first.Addr()))
	l.next()
	require.Equal(t, first, l.event(Renewed).Lease.Prefixes[0].Prefix)
	seen := map[netip.Prefix]bool{first: true}
	ask := func(i byte) *ia6 {
		m := &Message6{Type: Request6, Options: Options6{{Opt6ServerID, l.s.cfg.DUID}, {Opt6ClientID, DUIDFromUUID([16]byte{i})}, (&ia6{id: 1}).option(Opt6IAPD)}}
		b, _ := l.s.Receive(l.now, m).Options.Get(Opt6IAPD)
		ia, ok := parseIA(Opt6IAPD, b)
		require.True(t, ok)
		return &ia
	}
	for i := range byte(3) {
		p := ask(i).items[0].prefix
		require.False(t, seen[p])
		seen[p] = true
	}
	require.Equal(t, NoPrefixAvail6, ask(9).status)
	require.EqualValues(t, 1, l.s.Stats().Full)

	// The bindings survive a restart. A released prefix is free again.
	cfg := l.s.cfg
	cfg.Bindings = slices.Collect(l.s.Bindings())
	s, err := NewServer6(cfg, l.now)
	require.NoError(t, err)
	require.Equal(t, cfg.Bindings, slices.Collect(s.Bindings()))
	l.s = s
	l.c.Release(l.now)
	l.work()
	require.Equal(t, first, ask(9).items[0].prefix)
	l.s.Tick(l.now.Add(3 * time.Hour))
	require.Empty(t, l.s.byAddr)
	for _, bad := range []PrefixPool6{{}, {netip.MustParsePrefix("2001:db8::/56"), 48}, {netip.MustParsePrefix("2001:db8::/56"), 65}, {netip.MustParsePrefix("192.0.2.0/24"), 30}} {
		cfg.Delegated = []PrefixPool6{bad}
		_, err := NewServer6(cfg, l.now)
		require.Error(t, err)
	}
	for _, p := range []PrefixPool6{{netip.MustParsePrefix("2001:db8::/32"), 64}, {netip.MustParsePrefix("2000::/1"), 64}, {netip.MustParsePrefix("2001:db8::/48"), 48}} {
		for _, n := range []uint64{0, 1, prefixes6(p) - 1} {
			require.True(t, n >= prefixes6(p) || p.contains(p.prefixAt(n)), "%v %d", p, n)
		}
	}
}

// Two links may share a pool. Overlapping pools must delegate prefixes of one length, so that no delegated prefix
// contains another one.
func TestOverlappingPoolsMustDelegateOneLength(t *testing.T) {
	cfg := ServerConfig6{DUID: DUIDFromMAC(mac), Prefix: netip.MustParsePrefix("2001:db8::/64"), Relayed: relayedLinks()}
	cfg.Relayed[0].Delegated = []PrefixPool6{{netip.MustParsePrefix("2001:db8:100::/40"), 56}}
	_, err := NewServer6(cfg, start)
	require.NoError(t, err)
	cfg.Relayed[0].Delegated = []PrefixPool6{{netip.MustParsePrefix("2001:db8:101::/48"), 60}}
	_, err = NewServer6(cfg, start)
	require.ErrorContains(t, err, "overlap, but have prefixes of different lengths")
}

// The size of a pool is right if its ends differ in the upper 64 bits. It is at most 2^62.
func TestPoolSizeAcrossA64BitBoundary(t *testing.T) {
	require.EqualValues(t, 512, poolSize(Range6{addr("2001:db8::ffff:ffff:ffff:ff00"), addr("2001:db8:0:1::ff")}))
	require.EqualValues(t, 1<<62, poolSize(Range6{addr("2001:db8::"), addr("2001:db8:0:1::")}))
}
