package dhcp

import (
	"encoding/binary"
	"encoding/json"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A link6 is a client and a server of DHCPv6 with a clock that the test sets.
type link6 struct {
	t      *testing.T
	c      *Client6
	s      *Server6
	now    time.Time
	sent   []MessageType6
	dead   bool                        // the server does not answer
	change func(r *Message6) *Message6 // of replies
}

func newLink6(t *testing.T, change func(*ClientConfig6, *ServerConfig6)) *link6 {
	t.Helper()
	cc := ClientConfig6{MAC: mac, Addrs: true, Rand: func() uint64 { return 0 }}
	sc := ServerConfig6{
		DUID: []byte{0, 3, 0, 1, 2, 0, 0, 0, 0, 1}, Prefix: netip.MustParsePrefix("2001:db8::/64"),
		Pools: []Range6{{addr("2001:db8::1:0"), addr("2001:db8::1:ff")}}, Valid: 2 * time.Hour,
		DNS: []netip.Addr{addr("2001:db8::53")}, NTP: []netip.Addr{addr("2001:db8::123")}, Search: []string{"a.test", "b.test"},
	}
	if change != nil {
		change(&cc, &sc)
	}
	s, err := NewServer6(sc, start)
	require.NoError(t, err)
	return &link6{t: t, c: NewClient6(cc), s: s, now: start}
}

// work delivers messages until there are none.
func (l *link6) work() {
	l.t.Helper()
	for m, ok := l.c.NextSend(); ok; m, ok = l.c.NextSend() {
		l.sent = append(l.sent, m.Type)
		m = mustParse6(l.t, m.Append(nil))
		if l.dead {
			continue
		}
		r := l.s.Receive(l.now, m)
		if r != nil && l.change != nil {
			r = l.change(r)
		}
		if r != nil {
			l.c.Receive(l.now, mustParse6(l.t, r.Append(nil)))
		}
	}
}

func mustParse6(t *testing.T, b []byte) *Message6 {
	t.Helper()
	m, err := ParseMessage6(b)
	require.NoError(t, err)
	return m
}

// next advances the clock to the client's deadline, and returns by how much.
func (l *link6) next() time.Duration {
	l.t.Helper()
	at := l.c.Deadline()
	require.False(l.t, at.IsZero(), "%v", l.c.State())
	d := at.Sub(l.now)
	l.now = at
	l.c.Tick(l.now)
	l.work()
	return d
}

// until runs the client until it is in a state.
func (l *link6) until(s State6) {
	l.t.Helper()
	for range 100 {
		if l.c.State() == s {
			return
		}
		l.next()
	}
	require.Equal(l.t, s, l.c.State())
}

func (l *link6) event(kind EventKind4) Event6 {
	l.t.Helper()
	e, ok := l.c.NextEvent()
	require.True(l.t, ok, "%v is due", kind)
	require.Equal(l.t, kind.String(), e.Kind.String(), "%s", e.Reason)
	return e
}

// took returns the types of the messages that the client has sent since the last call.
func (l *link6) took() (types []MessageType6) {
	types, l.sent = l.sent, nil
	return types
}

func (l *link6) serverEvents() (kinds []string) {
	for e, ok := l.s.NextEvent(); ok; e, ok = l.s.NextEvent() {
		kinds = append(kinds, e.Kind.String())
	}
	return kinds
}

// RFC 8415 18.2.1 to 18.2.5: a lease from its beginning to its end.
func TestAClientGetsAnIPv6Lease(t *testing.T) {
	l := newLink6(t, nil)
	l.c.Up(l.now)
	l.until(Bound6)
	require.Equal(t, []MessageType6{Solicit6, Request6}, l.took())
	require.Equal(t, []string{"assigned"}, l.serverEvents())
	lease := l.event(Acquired).Lease
	require.Same(t, lease, l.c.Lease())
	require.Len(t, lease.Addrs, 1)
	a := lease.Addrs[0]
	require.True(t, netip.MustParsePrefix("2001:db8::1:0/120").Contains(a.Prefix.Addr()))
	require.Equal(t, 128, a.Prefix.Bits())
	require.Equal(t, []time.Time{l.now.Add(time.Hour), l.now.Add(2 * time.Hour)}, []time.Time{a.PreferredUntil, a.ValidUntil})
	require.Equal(t, []time.Time{l.now.Add(30 * time.Minute), l.now.Add(48 * time.Minute), l.now.Add(2 * time.Hour)}, []time.Time{lease.Renew, lease.Rebind, lease.Expires})
	require.Equal(t, []netip.Addr{addr("2001:db8::53")}, lease.DNS)
	require.Equal(t, []netip.Addr{addr("2001:db8::123")}, lease.NTP)
	require.Equal(t, []string{"a.test", "b.test"}, lease.Search)

	require.Equal(t, 30*time.Minute, l.next())
	require.Equal(t, []MessageType6{Renew6}, l.took())
	require.Equal(t, []string{"extended"}, l.serverEvents())
	renewed := l.event(Renewed).Lease
	require.Equal(t, a.Prefix, renewed.Addrs[0].Prefix)
	require.Equal(t, l.now.Add(2*time.Hour), renewed.Expires)

	l.dead = true
	l.until(Renewing6)
	l.until(Rebinding6)
	require.Equal(t, renewed.Rebind, l.now)
	l.until(Soliciting6)
	require.Equal(t, renewed.Expires, l.now)
	require.Equal(t, "it has expired", l.event(Lost).Reason)
	types := l.took()
	require.Less(t, len(types), 40, "%v", types)
	require.Equal(t, []MessageType6{Renew6, Rebind6}, slices.Compact(types))

	l.dead = false
	l.until(Bound6)
	require.Equal(t, a.Prefix, l.event(Acquired).Lease.Addrs[0].Prefix, "the same again")
	l.took()
	l.c.Release(l.now)
	l.work()
	require.Equal(t, []MessageType6{Release6}, l.took())
	require.Equal(t, "it was released", l.event(Lost).Reason)
	require.Equal(t, Stopped6, l.c.State())
	require.True(t, l.c.Deadline().IsZero())
	require.Contains(t, l.serverEvents(), "returned")
	require.Empty(t, slices.Collect(l.s.Bindings()))
}

// RFC 8415 15 and 18.2.1: the first Solicit is sent after up to a second, then after 1, 2, 4 ... seconds up to
// SOL_MAX_RT.
func TestSolicitsBecomeRare(t *testing.T) {
	for name, seed := range map[string]uint64{"seed 0": 0, "seed 1<<63-1": 1<<63 - 1} {
		l := newLink6(t, func(c *ClientConfig6, _ *ServerConfig6) {
			r := rand.New(rand.NewPCG(seed, 1))
			c.Rand = r.Uint64
		})
		l.dead = true
		l.c.Up(l.now)
		require.LessOrEqual(t, l.next(), time.Second, name)
		last := time.Duration(0)
		for i := range 20 {
			d := l.next()
			if i == 0 {
				require.Greater(t, d, time.Second)
				require.LessOrEqual(t, d, 1100*time.Millisecond)
			} else if want := min(2*last, time.Hour); want < time.Hour {
				require.InDelta(t, want, d, float64(last)/10+1)
			} else {
				require.InDelta(t, time.Hour, d, float64(6*time.Minute))
			}
			last = d
		}
		// RFC 8415 21.24: SOL_MAX_RT of a server, even in an Advertise without an address.
		l.dead = false
		l.change = func(r *Message6) *Message6 {
			r.Options = slices.DeleteFunc(r.Options, func(o Option6) bool { return o.Code == Opt6IANA })
			r.Options.Add(Opt6SolMaxRT, []byte{0, 0, 0, 120})
			return r
		}
		l.next()
		l.event(Refused)
		l.next()
		require.InDelta(t, 2*time.Minute, l.next(), float64(12*time.Second))
	}
}

// RFC 8415 18.2.6.
func TestAStatelessClient(t *testing.T) {
	l := newLink6(t, func(c *ClientConfig6, s *ServerConfig6) {
		c.Addrs = false
		s.Pools, s.Prefix = nil, netip.Prefix{}
		s.Refresh = time.Hour
	})
	l.c.Up(l.now)
	l.until(Informed6)
	require.Equal(t, []MessageType6{InformationRequest6}, l.took())
	lease := l.event(Acquired).Lease
	require.Empty(t, lease.Addrs)
	require.Equal(t, []netip.Addr{addr("2001:db8::53")}, lease.DNS)
	require.Equal(t, time.Hour, l.next())
	l.until(Informed6)
	l.event(Renewed)

	// The network begins to assign addresses: the flag M of its routers is set.
	l.c.SetMode(l.now, true, false)
	require.Equal(t, "the network has changed how it configures hosts", l.event(Lost).Reason)
	require.Equal(t, Soliciting6, l.c.State())
	l.next()
	require.Empty(t, l.s.links[0].Pools)
	require.Equal(t, Soliciting6, l.c.State(), "a stateless server does not answer a Solicit")
}

func TestRapidCommit6(t *testing.T) {
	for _, server := range []bool{false, true} {
		l := newLink6(t, func(c *ClientConfig6, s *ServerConfig6) { c.RapidCommit, s.RapidCommit = true, server })
		l.c.Up(l.now)
		l.until(Bound6)
		require.Equal(t, server, len(l.took()) == 1, "with Rapid Commit, the client sends only a Solicit")
	}
}

// RFC 8415 18.2.9: a preference of 255 ends the wait for other servers.
func TestTheBestAdvertiseIsRequested(t *testing.T) {
	l := newLink6(t, func(_ *ClientConfig6, s *ServerConfig6) { s.Preference = 255 })
	l.c.Up(l.now)
	l.next()
	require.Equal(t, Bound6, l.c.State())

	l = newLink6(t, nil)
	var first *Message6
	l.change = func(r *Message6) *Message6 { // a second server
		if r.Type == Advertise6 {
			first = r
			return nil
		}
		return r
	}
	l.c.Up(l.now)
	l.next()
	other := &Message6{Type: Advertise6, XID: first.XID, Options: slices.Clone(first.Options)}
	other.Options[0].Data = []byte{0, 3, 0, 1, 9, 9, 9, 9, 9, 9}
	other.Options.Add(Opt6Preference, []byte{5})
	l.c.Receive(l.now, other)
	l.c.Receive(l.now, first)
	require.Equal(t, Soliciting6, l.c.State())
	l.next()
	require.Equal(t, []MessageType6{Solicit6, Request6}, l.took())
	require.EqualValues(t, 1, l.s.Stats().Foreign, "the Request was for the other server, which has the higher preference")
	// RFC 8415 18.2.2: after REQ_MAX_RC requests the client searches again.
	l.change = nil
	l.until(Soliciting6)
	require.Len(t, l.took(), 9, "with the first one, these are REQ_MAX_RC (10) requests")
	l.until(Bound6)
}

// RFC 8415 18.2.3 and 18.2.12.
func TestAClientConfirmsItsAddress(t *testing.T) {
	l := newLink6(t, nil)
	l.c.Up(l.now)
	l.until(Bound6)
	l.event(Acquired)
	l.took()
	l.c.Down()
	require.Equal(t, Stopped6, l.c.State())
	l.c.Up(l.now)
	l.next()
	require.Equal(t, []MessageType6{Confirm6}, l.took())
	require.Equal(t, Bound6, l.c.State())
	require.False(t, l.c.Deadline().IsZero(), "it renews")

	// Without an answer the client keeps its address.
	l.dead = true
	l.c.Down()
	l.c.Up(l.now)
	began := l.now
	l.until(Bound6)
	require.LessOrEqual(t, l.now.Sub(began), 11*time.Second)
	_, ok := l.c.NextEvent()
	require.False(t, ok)

	// Another network.
	l.dead = false
	l.s.links[0].Prefix = netip.MustParsePrefix("2001:db8:9::/64")
	l.c.Down()
	l.c.Up(l.now)
	l.next()
	require.Equal(t, "its addresses are not right for this link", l.event(Lost).Reason)
	require.Equal(t, Soliciting6, l.c.State())
}

// RFC 8415 18.2.8.
func TestAClientDeclinesAnAddress(t *testing.T) {
	l := newLink6(t, nil)
	l.c.Up(l.now)
	l.until(Bound6)
	a := l.event(Acquired).Lease.Addrs[0].Prefix.Addr()
	l.c.Conflict(l.now, addr("2001:db8::77"))
	require.Equal(t, Bound6, l.c.State(), "the address is not the client's")
	l.took()
	l.c.Conflict(l.now, a)
	l.work()
	require.Equal(t, []MessageType6{Decline6}, l.took())
	l.event(Refused)
	l.event(Lost)
	require.Equal(t, Declined, slices.Collect(l.s.Bindings())[0].State)
	l.until(Bound6)
	require.NotEqual(t, a, l.event(Acquired).Lease.Addrs[0].Prefix.Addr())
	l.now = l.now.Add(11 * time.Minute)
	l.s.Tick(l.now)
	require.Len(t, slices.Collect(l.s.Bindings()), 1)
}

// A server that has forgotten its bindings answers a Renew with the same address, since that is free.
func TestAServer6ForgetsItsBindings(t *testing.T) {
	l := newLink6(t, nil)
	l.c.Up(l.now)
	l.until(Bound6)
	a := l.event(Acquired).Lease.Addrs[0].Prefix
	saved, err := json.Marshal(slices.Collect(l.s.Bindings()))
	require.NoError(t, err)
	cfg := l.s.cfg
	l.s, err = NewServer6(cfg, l.now)
	require.NoError(t, err)
	l.next()
	require.Equal(t, a, l.event(Renewed).Lease.Addrs[0].Prefix)
	require.NoError(t, json.Unmarshal(saved, &cfg.Bindings))
	l.s, err = NewServer6(cfg, l.now)
	require.NoError(t, err)
	again, err := json.Marshal(slices.Collect(l.s.Bindings()))
	require.NoError(t, err)
	require.JSONEq(t, string(saved), string(again))
	// NoBinding, as other servers answer: the client sends a Request (RFC 8415 18.2.10.1).
	l.change = func(r *Message6) *Message6 {
		l.change = nil
		return &Message6{Type: Reply6, XID: r.XID, Options: append(r.Options[:2:2], (&ia6{id: l.c.cfg.IAID, status: NoBinding6}).option(Opt6IANA))}
	}
	l.took()
	l.next()
	require.Equal(t, []MessageType6{Renew6, Request6}, l.took())
	l.event(Refused)
	require.Equal(t, a, l.event(Renewed).Lease.Addrs[0].Prefix)
}

// RFC 8415 18.2.4 and 6.3: prefix delegation. The test writes the prefix into the replies of the server.
func TestAPrefixIsDelegated(t *testing.T) {
	l := newLink6(t, func(c *ClientConfig6, _ *ServerConfig6) { c.Prefixes, c.PrefixBits = true, 56 })
	want := netip.MustParsePrefix("2001:db8:5600::/56")
	hints := 0
	l.change = func(r *Message6) *Message6 {
		for i, o := range r.Options {
			if o.Code == Opt6IAPD {
				ia, _ := parseIA(o.Code, o.Data)
				ia = ia6{id: ia.id, t1: 100, t2: 200, items: []iaItem6{{want, 400, 800}}}
				r.Options[i] = ia.option(Opt6IAPD)
				hints++
			}
		}
		return r
	}
	l.c.Up(l.now)
	l.until(Bound6)
	lease := l.event(Acquired).Lease
	require.Len(t, lease.Addrs, 1)
	require.Equal(t, want, lease.Prefixes[0].Prefix)
	require.Equal(t, 2, hints)
	require.Equal(t, 100*time.Second, l.next(), "the earlier T1")
	l.event(Renewed)
	l.took()
	l.c.Down()
	l.c.Up(l.now)
	require.Equal(t, Rebinding6, l.c.State(), "RFC 8415 18.2.12: with prefixes, Rebind")
}

// RFC 8415 21.4: T1 is when the client extends the lease, and 0xffffffff means infinity. Of several associations, the
// earliest time counts (18.2.4), whatever their order.
func TestAnInfiniteT1HidesNoFiniteOne(t *testing.T) {
	l := newLink6(t, func(c *ClientConfig6, _ *ServerConfig6) { c.Prefixes = true })
	address := ia6{id: l.c.cfg.IAID, t1: infinity, t2: infinity, items: []iaItem6{{netip.MustParsePrefix("2001:db8::7/128"), infinity, infinity}}}
	prefix := ia6{id: l.c.cfg.IAID, t1: 100, t2: 160, items: []iaItem6{{netip.MustParsePrefix("2001:db8:7::/48"), 200, 300}}}
	for _, options := range []Options6{
		{address.option(Opt6IANA), prefix.option(Opt6IAPD)}, {prefix.option(Opt6IAPD), address.option(Opt6IANA)},
	} {
		lease, err := l.c.leaseOf(l.now, &Message6{Type: Reply6, Options: options})
		require.NoError(t, err)
		require.Equal(t, []time.Time{l.now.Add(100 * time.Second), l.now.Add(160 * time.Second)}, []time.Time{lease.Renew, lease.Rebind})
	}
	lease, err := l.c.leaseOf(l.now, &Message6{Type: Reply6, Options: Options6{address.option(Opt6IANA)}})
	require.NoError(t, err)
	require.Equal(t, Lease6{Addrs: lease.Addrs, Obtained: l.now, Options: lease.Options}, *lease, "it never ends")
}

func TestNonsenseOfServers6(t *testing.T) {
	l := newLink6(t, nil)
	l.c.Up(l.now)
	l.next()
	l.next()
	require.Equal(t, Bound6, l.c.State())
	good := l.c.Lease()
	l.event(Acquired)
	l.next()
	l.event(Renewed)
	l.dead = true
	l.next()
	require.Equal(t, Renewing6, l.c.State())
	// reply returns a Reply of the server with an IA.
	reply := func(ia *ia6) *Message6 {
		m := &Message6{Type: Reply6, XID: l.c.xid}
		m.Options.Add(Opt6ServerID, good.ServerID)
		m.Options.Add(Opt6ClientID, l.c.cfg.DUID)
		m.Options = append(m.Options, ia.option(Opt6IANA))
		return m
	}
	for name, change := range map[string]func(m *Message6){
		"another ID":     func(m *Message6) { m.XID++ },
		"another client": func(m *Message6) { m.Options[1].Data = []byte{1, 2, 3} },
		"no server":      func(m *Message6) { m.Options[0].Code = 99 },
		"another server": func(m *Message6) { m.Options[0].Data = []byte{1, 2, 3} },
		"a Reconfigure":  func(m *Message6) { m.Type = Reconfigure6 },
		"an Advertise":   func(m *Message6) { m.Type = Advertise6 },
		"a failure":      func(m *Message6) { m.Options.Add(Opt6Status, AppendStatus(nil, UnspecFail6, "no\x1b")) },
	} {
		m := reply(&ia6{id: l.c.cfg.IAID, items: []iaItem6{{good.Addrs[0].Prefix, 60, 60}}})
		change(m)
		l.c.Receive(l.now, m)
		require.Equal(t, Renewing6, l.c.State(), name)
	}
	require.Equal(t, "a server answers UnspecFail: no?", l.event(Refused).Reason)
	// RFC 8415 21.4: an IA with T1 after T2 is discarded. The client still has its lease.
	l.c.Receive(l.now, reply(&ia6{id: l.c.cfg.IAID, t1: 9, t2: 8, items: []iaItem6{{good.Addrs[0].Prefix, 60, 60}}}))
	l.event(Refused)
	require.Equal(t, Renewing6, l.c.State())
	// The server takes the address back.
	l.c.Receive(l.now, reply(&ia6{id: l.c.cfg.IAID, items: []iaItem6{{good.Addrs[0].Prefix, 0, 0}}}))
	l.event(Refused)
	require.Equal(t, "a server has taken it back", l.event(Lost).Reason)
	require.Equal(t, Soliciting6, l.c.State())
}

// RFC 8415 16: which identifiers a server requires.
func TestMessagesThatAServer6Discards(t *testing.T) {
	l := newLink6(t, nil)
	own, client := Option6{Opt6ServerID, l.s.cfg.DUID}, Option6{Opt6ClientID, DUIDFromMAC(mac)}
	other := Option6{Opt6ServerID, []byte{0, 3, 0, 1, 9}}
	ia := (&ia6{id: 1, items: []iaItem6{{netip.MustParsePrefix("2001:db8::1:7/128"), 0, 0}}}).option(Opt6IANA)
	for _, c := range []struct {
		kind    MessageType6
		options Options6
		answers bool
	}{
		{Solicit6, Options6{client, ia}, true}, {Solicit6, Options6{ia}, false}, {Solicit6, Options6{client, own, ia}, false}, {Solicit6, Options6{client}, false},
		{Request6, Options6{client, own, ia}, true}, {Request6, Options6{client, ia}, false}, {Request6, Options6{client, other, ia}, false},
		{Confirm6, Options6{client, ia}, true}, {Confirm6, Options6{client}, false}, {Confirm6, Options6{client, own, ia}, false},
		{Rebind6, Options6{client, ia}, true}, {Rebind6, Options6{client, own, ia}, false}, {Renew6, Options6{client, own, ia}, true}, {Renew6, Options6{client, ia}, false},
		{Decline6, Options6{client, own, ia}, true}, {Release6, Options6{client, own, ia}, true}, {Release6, Options6{own, ia}, false},
		{InformationRequest6, nil, true}, {InformationRequest6, Options6{other}, false}, {InformationRequest6, Options6{own}, true},
		{Reply6, Options6{client, own, ia}, false}, {Advertise6, Options6{client, own}, false}, {Reconfigure6, Options6{client, own}, false}, {77, Options6{client}, false},
		{Solicit6, Options6{{Opt6ClientID, make([]byte, 131)}, ia}, false}, {Solicit6, Options6{{Opt6ClientID, []byte{1}}, ia}, false},
	} {
		r := l.s.Receive(l.now, &Message6{Type: c.kind, XID: 5, Options: c.options})
		require.Equal(t, c.answers, r != nil, "%v %v", c.kind, c.options)
		if r != nil {
			require.EqualValues(t, 5, r.XID)
			server, _ := r.Options.Get(Opt6ServerID)
			require.Equal(t, l.s.cfg.DUID, server)
		}
	}
}

// Invented clients that send Solicits take no memory. With Requests they take MaxBindings addresses at most.
func TestAFloodOfSolicitsIsHarmless(t *testing.T) {
	l := newLink6(t, func(_ *ClientConfig6, s *ServerConfig6) {
		s.MaxBindings, s.Pools = 50, []Range6{{addr("2001:db8::"), addr("2001:db8::ffff:ffff:ffff:ffff")}}
	})
	for i := range uint32(2000) {
		client := Option6{Opt6ClientID, binary.BigEndian.AppendUint32([]byte{0, 3, 0, 1}, i)}
		m := &Message6{Type: Solicit6, Options: Options6{client, (&ia6{id: 1}).option(Opt6IANA)}}
		require.NotNil(t, l.s.Receive(l.now, m))
	}
	require.Empty(t, l.s.byAddr)
	for i := range uint32(200) {
		client := Option6{Opt6ClientID, binary.BigEndian.AppendUint32([]byte{0, 3, 0, 1}, i)}
		m := &Message6{Type: Request6, Options: Options6{client, {Opt6ServerID, l.s.cfg.DUID}, (&ia6{id: 1}).option(Opt6IANA)}}
		require.NotNil(t, l.s.Receive(l.now, m))
	}
	require.Len(t, l.s.byAddr, 50)
	require.EqualValues(t, 150, l.s.Stats().Full)
	l.s.Tick(l.now.Add(3 * time.Hour))
	require.Empty(t, l.s.byAddr)
	require.Empty(t, l.s.byClient)
}

// A message with many associations gets few addresses, because the search for each takes time.
func TestAssociationsOfAMessageAreLimited(t *testing.T) {
	l := newLink6(t, nil)
	m := &Message6{Type: Request6, Options: Options6{{Opt6ClientID, DUIDFromMAC(mac)}, {Opt6ServerID, l.s.cfg.DUID}}}
	for id := range uint32(90) {
		m.Options = append(m.Options, (&ia6{id: id}).option(Opt6IANA))
	}
	r := l.s.Receive(l.now, m)
	n := 0
	for _, o := range r.Options {
		if o.Code == Opt6IANA {
			n++
		}
	}
	require.Equal(t, maxItems6, n)
	require.Len(t, l.s.byAddr, maxItems6)
}

func TestReservations6(t *testing.T) {
	l := newLink6(t, func(c *ClientConfig6, s *ServerConfig6) {
		c.DUID = DUIDFromUUID([16]byte{7})
		s.Pools = []Range6{{addr("2001:db8::7"), addr("2001:db8::7")}}
		s.Reservations = []Reservation6{{DUID: DUIDFromUUID([16]byte{7}), Addr: addr("2001:db8::7")}}
	})
	other := &Message6{Type: Solicit6, Options: Options6{{Opt6ClientID, DUIDFromMACAndTime(mac, start)}, (&ia6{id: 1}).option(Opt6IANA)}}
	r := l.s.Receive(l.now, other)
	b, _ := r.Options.Get(Opt6IANA)
	ia, _ := parseIA(Opt6IANA, b)
	require.Equal(t, NoAddrsAvail6, ia.status)
	l.c.Up(l.now)
	l.until(Bound6)
	require.Equal(t, "2001:db8::7/128", l.event(Acquired).Lease.Addrs[0].Prefix.String())
	for _, bad := range []func(*ServerConfig6){
		func(c *ServerConfig6) { c.DUID = nil }, func(c *ServerConfig6) { c.Prefix = netip.Prefix{} },
		func(c *ServerConfig6) { c.Pools[0].Last = addr("2001:db8:1::") }, func(c *ServerConfig6) { c.Search = []string{"a b"} },
		func(c *ServerConfig6) { c.Reservations[0].DUID = nil },
	} {
		cfg := l.s.cfg
		cfg.Pools, cfg.Reservations = slices.Clone(cfg.Pools), slices.Clone(cfg.Reservations)
		bad(&cfg)
		_, err := NewServer6(cfg, start)
		require.Error(t, err)
	}
}

// limits6 returns messages at the limits of each length field.
func limits6() (all [][]byte) {
	add := func(t MessageType6, options ...Option6) {
		m := &Message6{Type: t, Options: append(Options6{{Opt6ServerID, DUIDFromMAC(mac)}, {Opt6ClientID, DUIDFromMAC(mac)}}, options...)}
		all = append(all, m.Append(nil))
	}
	address := ia6{id: 7, items: []iaItem6{{netip.MustParsePrefix("2001:db8::1/128"), 5, 6}}}
	one := address.option(Opt6IANA)
	for _, t := range []MessageType6{Reply6, Request6} {
		for _, n := range []int{0, 1, 2, 3, 4, 5, 12, 15, 16, 17, 130, 131} { // the length of each known option, one byte more, and one less
			for _, code := range []OptionCode6{Opt6IANA, Opt6Request, Opt6Preference, Opt6ElapsedTime, Opt6Status, Opt6RapidCommit, Opt6DNS,
				Opt6DomainSearch, Opt6IAPD, Opt6SNTP, Opt6Refresh, Opt6NTP, Opt6SolMaxRT, Opt6InfMaxRT, 4000} {
				add(t, one, Option6{code, make([]byte, n)})
			}
			all = append(all, (&Message6{Type: t, Options: Options6{{Opt6ServerID, make([]byte, n)}, {Opt6ClientID, make([]byte, n)}, one}}).Append(nil))
		}
		for n := range len(one.Data) { // an association that is cut off
			add(t, Option6{Opt6IANA, one.Data[:n]})
		}
		for _, bits := range []byte{0, 1, 63, 64, 65, 128, 255} { // lengths of prefixes
			o := (&ia6{id: 7, items: []iaItem6{{netip.MustParsePrefix("2001:db8::/32"), 5, 6}}}).option(Opt6IAPD)
			o.Data[12+4+8] = bits
			add(t, o)
		}
		for _, n := range []byte{62, 63, 64, 0xbf, 0xc0, 0xff} { // lengths of labels, and pointers
			add(t, one, Option6{Opt6DomainSearch, append(append([]byte{n}, slices.Repeat([]byte{'a'}, int(n&63))...), 0)})
		}
		for _, n := range []int{maxItems6, maxItems6 + 1, maxOptions6 - 2, maxOptions6 - 1} { // numbers of options
			add(t, slices.Repeat(Options6{one}, n)...)
			add(t, Option6{Opt6IANA, append(make([]byte, 12), Options6(slices.Repeat(Options6{{opt6IAAddr, one.Data[16:]}}, n)).append(nil)...)})
		}
		add(t, one, Option6{Opt6Status, make([]byte, 60000)})
		b := (&Message6{Type: t, Options: Options6{one}}).Append(nil)
		for _, n := range []uint16{0, 1, uint16(len(one.Data)) - 1, uint16(len(one.Data)) + 1, 65535} { // wrong lengths
			c := slices.Clone(b)
			binary.BigEndian.PutUint16(c[6:], n)
			all = append(all, c)
		}
	}
	return append(all, nil, []byte{7}, []byte{7, 0, 0}, []byte{7, 0, 0, 0}, []byte{7, 0, 0, 0, 0}, []byte{12, 0, 0, 0})
}

// Neither a client nor a server fails on any message, and a parsed message is encoded as it was.
func FuzzMessage6(f *testing.F) {
	l := &link6{c: NewClient6(ClientConfig6{MAC: mac, Addrs: true, Prefixes: true, Rand: func() uint64 { return 0 }})}
	l.c.state = Soliciting6
	f.Add(l.c.message(start, Solicit6).Append(nil))
	reply := &Message6{Type: Reply6, Options: Options6{{Opt6ServerID, DUIDFromMAC(mac)}, {Opt6ClientID, DUIDFromMAC(mac)},
		(&ia6{id: 7, t1: 1, t2: 2, items: []iaItem6{{netip.MustParsePrefix("2001:db8::1/128"), 5, 6}}, status: NoBinding6}).option(Opt6IANA),
		(&ia6{id: 7, items: []iaItem6{{netip.MustParsePrefix("2001:db8::/56"), infinity, infinity}}}).option(Opt6IAPD),
		{Opt6DNS, AppendAddrs6(nil, addr("2001:db8::53"))}, {Opt6DomainSearch, []byte("\x01a\x04test\x00")}, {Opt6NTP, Options6{{1, make([]byte, 16)}}.append(nil)},
		{Opt6SolMaxRT, []byte{0, 0, 0, 60}}, {Opt6Preference, []byte{255}}, {Opt6RapidCommit, nil}, {Opt6Refresh, []byte{0, 0, 9, 9}}, {Opt6Status, []byte{0, 0, 'x'}}}}
	f.Add(reply.Append(nil))
	for _, b := range limits6() {
		f.Add(b)
	}
	solicit := &Message6{Type: Solicit6, Options: Options6{{Opt6ClientID, DUIDFromMAC(mac)}, (&ia6{id: 1}).option(Opt6IANA), (&ia6{id: 1}).option(Opt6IAPD)}}
	for n := range maxRelays6 + 1 {
		f.Add(behind(solicit, slices.Repeat([]string{"2001:db8:2::1"}, n+1)...).Append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := ParseRelay6(b); err == nil {
			require.Equal(t, b, r.Append(nil))
			l := newLink6(t, func(_ *ClientConfig6, s *ServerConfig6) { s.Relayed, s.MaxBindings = relayedLinks(), 4 })
			if reply := l.s.ReceiveRelayed(l.now, r); reply != nil {
				again, err := ParseRelay6(reply.Append(nil))
				require.NoError(t, err)
				require.Equal(t, r.Link, again.Link)
			}
			require.LessOrEqual(t, len(l.s.byAddr), 4)
		}
		m, err := ParseMessage6(b)
		if err != nil {
			require.ErrorIs(t, err, ErrMalformed)
			return
		}
		require.Equal(t, b, m.Append(nil))
		l := newLink6(t, func(c *ClientConfig6, s *ServerConfig6) {
			c.Prefixes, c.RapidCommit, s.RapidCommit, s.MaxBindings = true, true, true, 4
		})
		l.s.Receive(l.now, m)
		l.s.Tick(l.now.Add(3 * time.Hour))
		require.LessOrEqual(t, len(l.s.byAddr), 4)
		for _, addrs := range []bool{true, false} {
			for s := Stopped6; s <= Informed6; s++ {
				c := NewClient6(l.c.cfg)
				c.cfg.IAID = 7
				c.cfg.Addrs, c.cfg.Prefixes = addrs, addrs
				c.held = &Lease6{ServerID: DUIDFromMAC(mac), Addrs: []LeaseItem6{{Prefix: netip.MustParsePrefix("2001:db8::1/128")}}, Rebind: start.Add(time.Hour)}
				c.server = c.held.ServerID
				if s == Soliciting6 || s == Informing6 {
					c.held = nil
				}
				c.state, c.tries, c.xid = s, 1, m.XID
				c.Receive(start, m)
				for range 30 {
					if at := c.Deadline(); !at.IsZero() {
						require.False(t, at.Before(start))
						c.Tick(at)
					}
				}
				if lease := c.held; lease != nil {
					require.LessOrEqual(t, len(lease.DNS)+len(lease.NTP), 2*maxServers)
					require.LessOrEqual(t, len(lease.Search), maxSearch)
				}
				require.LessOrEqual(t, len(c.events), 64)
			}
		}
	})
}

// A server is started again with its bindings and with a new reservation of an address that another client has.
func TestANewReservationEndsARestoredBinding(t *testing.T) {
	l := newLink6(t, nil)
	l.c.Up(l.now)
	l.until(Bound6)
	old := slices.Collect(l.s.Bindings())
	require.Len(t, old, 1)
	cfg := l.s.cfg
	cfg.Bindings = old
	cfg.Reservations = []Reservation6{{DUID: DUIDFromUUID([16]byte{7}), Addr: old[0].Addr}}
	s, err := NewServer6(cfg, l.now)
	require.NoError(t, err)
	require.Empty(t, slices.Collect(s.Bindings()))
	cfg.Reservations[0].DUID = old[0].DUID
	s, err = NewServer6(cfg, l.now)
	require.NoError(t, err)
	require.Len(t, slices.Collect(s.Bindings()), 1, "the reservation of the client itself")
}
