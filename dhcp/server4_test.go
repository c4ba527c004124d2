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

// A testServer4 is a server with a clock that the test sets.
type testServer4 struct {
	t   *testing.T
	s   *Server4
	now time.Time
}

// newTestServer4 makes a server for 192.0.2.0/24 with three addresses.
func newTestServer4(t *testing.T, change func(*ServerConfig4)) *testServer4 {
	t.Helper()
	cfg := ServerConfig4{ID: addr("192.0.2.1"), Link: Network4{
		Prefix: netip.MustParsePrefix("192.0.2.0/24"),
		Pools:  []Range4{{addr("192.0.2.10"), addr("192.0.2.12")}},
	}}
	if change != nil {
		change(&cfg)
	}
	s, err := NewServer4(cfg, start)
	require.NoError(t, err)
	return &testServer4{t: t, s: s, now: start}
}

// message makes a message of the client with the MAC 02:00:00:00:00:who.
func (b *testServer4) message(kind MessageType4, who byte, options ...Option4) *Message4 {
	m := &Message4{Op: BootRequest, HType: 1, XID: 0x1234, Flags: FlagBroadcast, CHAddr: []byte{2, 0, 0, 0, 0, who}}
	m.Options.Set(OptMessageType, []byte{byte(kind)})
	for _, o := range options {
		m.Options.Set(o.Code, o.Data)
	}
	return m
}

func requested(a string) Option4 { return Option4{OptRequestedAddr, AppendAddrs(nil, addr(a))} }

func to(server string) Option4 { return Option4{OptServerID, AppendAddrs(nil, addr(server))} }

// ask passes a message to the server and returns the reply; nil if there is none. The message is a broadcast
// unless it has a ciaddr.
func (b *testServer4) ask(m *Message4) *Reply4 {
	b.t.Helper()
	b.s.Receive(b.now, mustParse(b.t, mustAppend(b.t, m, 0)), !m.CIAddr.IsValid())
	return b.reply()
}

func (b *testServer4) reply() *Reply4 {
	b.t.Helper()
	checkTable(b.t, b.s)
	r, ok := b.s.NextReply()
	if !ok {
		return nil
	}
	_, more := b.s.NextReply()
	require.False(b.t, more)
	require.Equal(b.t, r.Message, mustParse(b.t, r.Payload))
	return &r
}

// want checks the type of the reply to a message and returns the reply.
func (b *testServer4) want(kind MessageType4, m *Message4) *Reply4 {
	b.t.Helper()
	r := b.ask(m)
	require.NotNil(b.t, r, "%v is due", kind)
	require.Equal(b.t, kind, r.Message.Type(), "%s", r.Message.Options.Text(OptMessage))
	return r
}

// lease gives a lease to a client and returns the address.
func (b *testServer4) lease(who byte, options ...Option4) string {
	b.t.Helper()
	a := b.want(Offer, b.message(Discover, who, options...)).Message.YIAddr
	m := b.message(Request, who, append(options, requested(a.String()), to("192.0.2.1"))...)
	require.Equal(b.t, a, b.want(ACK, m).Message.YIAddr)
	return a.String()
}

func (b *testServer4) events() (kinds []string) {
	for e, ok := b.s.NextEvent(); ok; e, ok = b.s.NextEvent() {
		kinds = append(kinds, e.Kind.String()+" "+e.Binding.Addr.String())
	}
	return kinds
}

// wait advances the clock.
func (b *testServer4) wait(d time.Duration) {
	b.now = b.now.Add(d)
	b.s.Tick(b.now)
	checkTable(b.t, b.s)
}

// checkTable checks that the parts of a server's table agree.
func checkTable(t *testing.T, s *Server4) {
	t.Helper()
	var offers, listed, timed, probing int
	held := make(map[clientKey]netip.Addr)
	for a, b := range s.table.byAddr {
		require.Equal(t, a, b.addr)
		require.True(t, b.net.Prefix.Contains(a) && !b.net.excluded[a])
		if b.key != (clientKey{}) {
			require.Same(t, b, s.table.byClient[b.key])
		}
		if b.waiting != nil {
			probing++
			require.Equal(t, Offered, b.state)
		}
		if b.at >= 0 {
			timed++
			require.Same(t, b, s.table.timed[b.at])
			require.NotEqual(t, Free, b.state)
		}
		switch b.state {
		case Free:
			if b.elem != nil {
				listed++
			}
		case Offered:
			offers++
			require.Same(t, b, s.table.byOffer[b.offered])
			require.GreaterOrEqual(t, b.at, 0)
		case Leased:
			_, twice := held[b.key]
			require.False(t, twice, "a client has two leases")
			held[b.key] = a
		}
	}
	lists := 0
	for i := range s.networks {
		if l := s.table.unused[i]; l != nil {
			lists += l.Len()
		}
		if l := s.table.used[i]; l != nil {
			lists += l.Len()
		}
	}
	require.Equal(t, listed, lists)
	require.Equal(t, offers, s.table.offers.Len())
	require.Len(t, s.table.byOffer, offers)
	require.Len(t, s.table.timed, timed)
	require.Equal(t, probing, s.table.probing)
	for key, b := range s.table.byClient {
		require.Equal(t, key, b.key)
		require.Same(t, b, s.table.byAddr[b.addr])
	}
	require.LessOrEqual(t, len(s.table.byAddr), s.cfg.MaxBindings)
	require.LessOrEqual(t, offers, maxOffers)
}

// RFC 2131 4.3.1, table 3, and RFC 6842.
func TestAServerOffersAndAssignsAnAddress(t *testing.T) {
	b := newTestServer4(t, func(cfg *ServerConfig4) {
		n := &cfg.Link
		n.Lease, n.MaxLease = 2*time.Hour, 4*time.Hour
		n.Routers, n.DNS, n.NTP = []netip.Addr{addr("192.0.2.2")}, []netip.Addr{addr("192.0.2.3"), addr("192.0.2.4")}, []netip.Addr{addr("192.0.2.5")}
		n.Routes = []Route4{{netip.MustParsePrefix("10.0.0.0/8"), addr("192.0.2.6")}}
		n.Domain, n.Search, n.MTU = "a.test", []string{"a.test", "b.test"}, 1400
		n.Options = Options4{{OptVendorInfo, []byte{1, 2, 3}}}
	})
	id := []byte{1, 2, 0, 0, 0, 0, 7}
	params := []byte{byte(OptMTU), byte(OptSubnetMask), byte(OptClasslessRoutes), byte(OptRouter), byte(OptDNS), byte(OptDomainName),
		byte(OptDomainSearch), byte(OptNTP), byte(OptVendorInfo), byte(OptHostName), byte(OptBroadcast)}
	m := b.message(Discover, 7, Option4{OptClientID, id}, Option4{OptParameters, params}, Option4{OptHostName, []byte("seven")})
	m.Flags, m.Secs = 0, 9
	offer := b.want(Offer, m)
	search, _ := AppendSearch(nil, []string{"a.test", "b.test"})
	want := &Message4{Op: BootReply, HType: 1, XID: 0x1234, YIAddr: addr("192.0.2.10"), CHAddr: m.CHAddr, Options: Options4{
		{OptMessageType, []byte{byte(Offer)}}, {OptServerID, []byte{192, 0, 2, 1}}, {OptClientID, id},
		{OptLeaseTime, []byte{0, 0, 0x1c, 0x20}}, {OptRenewalTime, []byte{0, 0, 0x0e, 0x10}}, {OptRebindingTime, []byte{0, 0, 0x18, 0x9c}},
		{OptSubnetMask, []byte{255, 255, 255, 0}}, // RFC 2132 3.3: before the router
		{OptMTU, []byte{5, 120}},
		{OptClasslessRoutes, []byte{8, 10, 192, 0, 2, 6, 0, 192, 0, 2, 2}}, // with the default route (RFC 3442)
		{OptRouter, []byte{192, 0, 2, 2}}, {OptDNS, []byte{192, 0, 2, 3, 192, 0, 2, 4}}, {OptDomainName, []byte("a.test")},
		{OptDomainSearch, search}, {OptNTP, []byte{192, 0, 2, 5}}, {OptVendorInfo, []byte{1, 2, 3}}, {OptBroadcast, []byte{192, 0, 2, 255}},
	}}
	require.Equal(t, want, offer.Message)
	require.Equal(t, netip.MustParseAddrPort("192.0.2.10:68"), offer.To)
	require.Equal(t, m.CHAddr, offer.MAC, "RFC 2131 4.1: to the hardware address")
	require.Empty(t, b.events(), "an offer is not a lease")

	m.Options.Set(OptMessageType, []byte{byte(Request)})
	m.Options.Set(OptRequestedAddr, []byte{192, 0, 2, 10})
	m.Options.Set(OptServerID, []byte{192, 0, 2, 1})
	ack := b.want(ACK, m)
	want.Options.Set(OptMessageType, []byte{byte(ACK)})
	require.Equal(t, want, ack.Message)
	e, ok := b.s.NextEvent()
	require.True(t, ok)
	lease := Binding4{Addr: addr("192.0.2.10"), State: Leased, ClientID: id, MAC: m.CHAddr, HostName: "seven", Until: start.Add(2 * time.Hour)}
	require.Equal(t, ServerEvent4{Assigned, lease}, e)
	require.Equal(t, []Binding4{lease}, slices.Collect(b.s.Bindings()))

	// The client renews, for longer than the default.
	b.now = b.now.Add(time.Hour)
	m = b.message(Request, 7, Option4{OptClientID, id}, Option4{OptLeaseTime, []byte{0, 0, 0x2a, 0x30}})
	m.CIAddr = addr("192.0.2.10")
	r := b.want(ACK, m)
	require.Equal(t, netip.MustParseAddrPort("192.0.2.10:68"), r.To)
	require.Nil(t, r.MAC)
	require.Equal(t, addr("192.0.2.10"), r.Message.CIAddr)
	seconds, _ := r.Message.Options.Uint32(OptLeaseTime)
	require.EqualValues(t, 10800, seconds)
	require.Equal(t, []string{"extended 192.0.2.10"}, b.events())
	require.Equal(t, b.now.Add(3*time.Hour), b.s.Deadline())
	for asked, want := range map[uint32]uint32{1: 60, infinity: 14400} { // minLease and MaxLease
		m.Options.Set(OptLeaseTime, binary.BigEndian.AppendUint32(nil, asked))
		seconds, _ := b.want(ACK, m).Message.Options.Uint32(OptLeaseTime)
		require.Equal(t, want, seconds)
	}
	b.events()
	b.wait(4 * time.Hour)
	require.Equal(t, []string{"ended 192.0.2.10"}, b.events())
	require.True(t, b.s.Deadline().IsZero())
	require.Equal(t, ServerStats4{Discovers: 1, Requests: 4, Offers: 1, ACKs: 4}, b.s.Stats())
}

func TestALeaseWithoutEnd(t *testing.T) {
	b := newTestServer4(t, func(cfg *ServerConfig4) { cfg.Link.Lease = 200 * 365 * 24 * time.Hour })
	b.lease(1)
	require.True(t, b.s.Deadline().IsZero())
	m := b.message(Request, 1)
	m.CIAddr = addr("192.0.2.10")
	r := b.want(ACK, m)
	seconds, _ := r.Message.Options.Uint32(OptLeaseTime)
	require.EqualValues(t, infinity, seconds)
	_, ok := r.Message.Options.Get(OptRenewalTime)
	require.False(t, ok)
	b.wait(150 * 365 * 24 * time.Hour)
	require.Equal(t, []string{"assigned 192.0.2.10", "extended 192.0.2.10"}, b.events())
}

// RFC 2131 4.3.1: the client's current address, else its previous one, else the one that it requests, else
// a new one. New clients get unused addresses first, and then the least recently used one.
func TestAddressesAreChosenInOrder(t *testing.T) {
	b := newTestServer4(t, nil)
	require.Equal(t, "192.0.2.12", b.lease(1, requested("192.0.2.12")))
	require.Equal(t, "192.0.2.12", b.lease(1), "the current one")
	require.Equal(t, "192.0.2.10", b.lease(2, requested("192.0.2.12")), "that is another client's")
	require.Equal(t, "192.0.2.11", b.lease(3, requested("198.51.100.7")), "that is of another network")
	require.Nil(t, b.ask(b.message(Discover, 4)))
	require.EqualValues(t, 1, b.s.Stats().Full)

	release := func(who byte, a string) {
		m := b.message(Release, who, to("192.0.2.1"))
		m.CIAddr = addr(a)
		require.Nil(t, b.ask(m))
		b.now = b.now.Add(time.Second)
	}
	b.events()
	release(3, "192.0.2.12")
	require.Empty(t, b.events(), "it is another client's")
	release(3, "192.0.2.11")
	release(1, "192.0.2.12")
	release(2, "192.0.2.10")
	require.Equal(t, []string{"returned 192.0.2.11", "returned 192.0.2.12", "returned 192.0.2.10"}, b.events())
	require.Equal(t, "192.0.2.10", b.lease(2), "the previous one")
	require.Equal(t, "192.0.2.11", b.lease(4), "the least recently used one")
	require.Equal(t, "192.0.2.12", b.lease(3), "its previous one has another client now")

	// Leases end in the order of their time.
	b.wait(2 * time.Hour)
	require.Equal(t, "192.0.2.11", b.lease(5, requested("192.0.2.11")), "a requested address may have been another client's")
	require.Equal(t, "192.0.2.10", b.lease(6))
	require.Equal(t, "192.0.2.12", b.lease(7))
}

// RFC 2131 4.3.2: what a server answers to a client that requests an address without an offer.
func TestAServerConfirmsOnlyWhatItKnows(t *testing.T) {
	for _, authoritative := range []bool{false, true} {
		b := newTestServer4(t, func(cfg *ServerConfig4) { cfg.Authoritative = authoritative })
		b.lease(1)
		b.lease(2)
		reboot := func(who byte, a string) *Message4 { return b.message(Request, who, requested(a)) }
		require.Equal(t, "192.0.2.10", b.want(ACK, reboot(1, "192.0.2.10")).Message.YIAddr.String())
		r := b.want(NAK, reboot(1, "198.51.100.10"))
		require.Equal(t, "198.51.100.10 is not an address of this network", r.Message.Options.Text(OptMessage))
		require.Equal(t, "255.255.255.255:68", r.To.String())
		_, ok := r.Message.Options.Get(OptLeaseTime)
		require.False(t, ok)
		require.False(t, r.Message.YIAddr.IsValid())
		r = b.want(NAK, reboot(1, "192.0.2.12"))
		require.Equal(t, "192.0.2.12 is not the address of this client", r.Message.Options.Text(OptMessage))
		r = b.want(NAK, reboot(3, "192.0.2.10"))
		require.Equal(t, "192.0.2.10 is the address of another client", r.Message.Options.Text(OptMessage))
		renew := b.message(Request, 4)
		renew.CIAddr = addr("192.0.2.10")
		require.Equal(t, "255.255.255.255:68", b.want(NAK, renew).To.String(), `"In all cases, when 'giaddr' is zero, the server broadcasts any DHCPNAK"`)
		if !authoritative {
			require.Nil(t, b.ask(reboot(3, "192.0.2.12")), `"it MUST remain silent"`)
			require.Nil(t, b.ask(reboot(3, "192.0.2.200")))
			require.EqualValues(t, 2, b.s.Stats().Unknown)
			continue
		}
		require.Equal(t, "192.0.2.12", b.want(ACK, reboot(3, "192.0.2.12")).Message.YIAddr.String())
		r = b.want(NAK, reboot(4, "192.0.2.200"))
		require.Equal(t, "192.0.2.200 is not available", r.Message.Options.Text(OptMessage))
		// After the end of its lease, a client gets the same address if that is free.
		b.wait(2 * time.Hour)
		require.Equal(t, "192.0.2.11", b.want(ACK, reboot(2, "192.0.2.11")).Message.YIAddr.String())
		require.Equal(t, "192.0.2.10", b.lease(5, requested("192.0.2.10")))
		r = b.want(NAK, reboot(1, "192.0.2.10"))
		require.Equal(t, "192.0.2.10 is the address of another client", r.Message.Options.Text(OptMessage))
	}
}

func TestAClientMayChooseAnotherServer(t *testing.T) {
	b := newTestServer4(t, func(cfg *ServerConfig4) { cfg.Link.Pools = []Range4{{addr("192.0.2.10"), addr("192.0.2.10")}} })
	b.want(Offer, b.message(Discover, 1))
	require.Nil(t, b.ask(b.message(Request, 1, requested("192.0.2.77"), to("192.0.2.9"))))
	require.EqualValues(t, 1, b.s.Stats().Foreign)
	require.Equal(t, "192.0.2.10", b.lease(2), "the offer has ended")
	require.Zero(t, b.s.Stats().Reclaimed)
	r := b.want(NAK, b.message(Request, 1, requested("192.0.2.10"), to("192.0.2.1")))
	require.Equal(t, "192.0.2.10 is not available", r.Message.Options.Text(OptMessage))
	b.want(NAK, b.message(Request, 1, requested("192.0.2.1"), to("192.0.2.1")))
	b.want(NAK, b.message(Request, 1, to("192.0.2.1")))
}

// The server was restarted between the offer and the request, so it does not know the offer.
func TestAnOfferIsForgotten(t *testing.T) {
	b := newTestServer4(t, nil)
	r := b.want(ACK, b.message(Request, 1, requested("192.0.2.11"), to("192.0.2.1")))
	require.Equal(t, "192.0.2.11", r.Message.YIAddr.String())
	require.Equal(t, "192.0.2.10", b.lease(2))
	require.Equal(t, "192.0.2.12", b.lease(3), "192.0.2.11 is not assigned twice")
}

// RFC 2131 4.3.3: "The server MUST mark the network address as not available".
func TestADeclinedAddressIsNotAssignedForAWhile(t *testing.T) {
	b := newTestServer4(t, nil)
	require.Equal(t, "192.0.2.10", b.lease(1))
	b.events()
	require.Nil(t, b.ask(b.message(Decline, 2, requested("192.0.2.10"), to("192.0.2.1"))), "of another client")
	require.Nil(t, b.ask(b.message(Decline, 1, requested("192.0.2.10"), to("192.0.2.9"))), "for another server")
	require.Nil(t, b.ask(b.message(Decline, 1, requested("192.0.2.11"), to("192.0.2.1"))), "of another address")
	require.Empty(t, b.events())
	require.EqualValues(t, 3, b.s.Stats().Unknown)
	require.Nil(t, b.ask(b.message(Decline, 1, requested("192.0.2.10"), to("192.0.2.1"))))
	require.Equal(t, []string{"in use 192.0.2.10"}, b.events())
	require.Equal(t, "192.0.2.11", b.lease(1, requested("192.0.2.10")))
	require.Equal(t, "192.0.2.12", b.lease(2))
	require.Nil(t, b.ask(b.message(Discover, 3)))
	b.wait(10*time.Minute - 1)
	require.Nil(t, b.ask(b.message(Discover, 3)))
	b.wait(1)
	require.Equal(t, "192.0.2.10", b.lease(3))
}

// RFC 2131 4.3.5: no lease time and no yiaddr, unicast to the client.
func TestAClientIsInformed(t *testing.T) {
	b := newTestServer4(t, func(cfg *ServerConfig4) { cfg.Link.DNS = []netip.Addr{addr("192.0.2.3")} })
	m := b.message(Inform, 1, Option4{OptParameters, []byte{byte(OptDNS)}})
	m.CIAddr = addr("192.0.2.99")
	r := b.want(ACK, m)
	require.Equal(t, Options4{
		{OptMessageType, []byte{byte(ACK)}}, {OptServerID, []byte{192, 0, 2, 1}}, {OptSubnetMask, []byte{255, 255, 255, 0}}, {OptDNS, []byte{192, 0, 2, 3}},
	}, r.Message.Options)
	require.False(t, r.Message.YIAddr.IsValid())
	require.Equal(t, "192.0.2.99:68", r.To.String())
	m.CIAddr = addr("198.51.100.99")
	require.Nil(t, b.ask(m), "the answer cannot be directed to an address outside the network")
	m.CIAddr = netip.Addr{}
	require.Nil(t, b.ask(m))
	require.Empty(t, slices.Collect(b.s.Bindings()))
}

// RFC 4039 3.1.
func TestRapidCommit(t *testing.T) {
	for _, enabled := range []bool{false, true} {
		b := newTestServer4(t, func(cfg *ServerConfig4) { cfg.RapidCommit = enabled })
		r := b.ask(b.message(Discover, 1, Option4{OptRapidCommit, nil}))
		_, ok := r.Message.Options.Get(OptRapidCommit)
		require.Equal(t, enabled, ok, `RFC 4039 4: "A server MUST include this option in a DHCPACK message sent in a response to a DHCPDISCOVER"`)
		if !enabled {
			require.Equal(t, Offer, r.Message.Type())
			continue
		}
		require.Equal(t, ACK, r.Message.Type())
		require.Equal(t, []string{"assigned 192.0.2.10"}, b.events())
		b.want(Offer, b.message(Discover, 2))
	}
}

// RFC 3046, 3527 and RFC 2131 4.1.
func TestRelayAgents(t *testing.T) {
	relayed := func(b *testServer4, kind MessageType4, who byte, options ...Option4) *Message4 {
		m := b.message(kind, who, options...)
		m.GIAddr, m.Hops, m.Flags = addr("198.51.100.1"), 1, 0
		return m
	}
	b := newTestServer4(t, nil)
	require.Nil(t, b.ask(relayed(b, Discover, 1)))
	require.EqualValues(t, 1, b.s.Stats().Relays)

	b = newTestServer4(t, func(cfg *ServerConfig4) {
		for _, p := range []string{"198.51.100.0/24", "203.0.113.0/24"} {
			n := netip.MustParsePrefix(p)
			first := n.Addr().Next().Next()
			cfg.Relayed = append(cfg.Relayed, Network4{Prefix: n, Pools: []Range4{{first, first.Next()}}, Routers: []netip.Addr{n.Addr().Next()}})
		}
	})
	agent := []byte{1, 2, 'a', 'b', 2, 1, 'c'}
	r := b.want(Offer, relayed(b, Discover, 1, Option4{OptRelayAgent, agent}))
	require.Equal(t, "198.51.100.2", r.Message.YIAddr.String())
	require.Equal(t, "198.51.100.1:67", r.To.String())
	require.Equal(t, addr("198.51.100.1"), r.Message.GIAddr)
	require.Equal(t, []byte{198, 51, 100, 1}, r.Message.Options.Addr(OptRouter).AsSlice())
	require.Equal(t, Option4{OptRelayAgent, agent}, r.Message.Options[len(r.Message.Options)-1], "unchanged, and last")
	b.want(ACK, relayed(b, Request, 1, requested("198.51.100.2"), to("192.0.2.1")))

	// The client renews by unicast, without the relay agent.
	m := b.message(Request, 1)
	m.CIAddr = addr("198.51.100.2")
	require.Equal(t, "198.51.100.2:68", b.want(ACK, m).To.String())
	// The client has moved to the server's link.
	b.s.Receive(b.now, b.message(Request, 1, requested("198.51.100.2")), true)
	require.Equal(t, NAK, b.reply().Message.Type())
	require.Equal(t, "192.0.2.10", b.lease(1), "a client may have an address in each network")

	r = b.want(NAK, relayed(b, Request, 1, requested("192.0.2.10")))
	require.EqualValues(t, FlagBroadcast, r.Message.Flags, `RFC 2131 4.3.2: "MUST set the broadcast bit in the DHCPNAK"`)
	require.Equal(t, "198.51.100.1:67", r.To.String())

	r = b.want(Offer, relayed(b, Discover, 2, Option4{OptRelayAgent, []byte{1, 1, 'a', 5, 4, 203, 0, 113, 0}}))
	require.Equal(t, "203.0.113.2", r.Message.YIAddr.String(), "RFC 3527: in the network that the agent selects")
	require.Equal(t, "198.51.100.1:67", r.To.String())
	m = relayed(b, Discover, 2)
	m.GIAddr = addr("10.0.0.1")
	require.Nil(t, b.ask(m), "an unknown network")
	require.EqualValues(t, 1, b.s.Stats().Relays)
	m = b.message(Discover, 3, Option4{OptRelayAgent, agent})
	_, ok := b.want(Offer, m).Message.Options.Get(OptRelayAgent)
	require.False(t, ok, "no agent has forwarded it")
}

// RFC 2131 4.1: where replies go. TestRelayAgents has the cases with giaddr.
func TestDestinationsOfReplies(t *testing.T) {
	b := newTestServer4(t, nil)
	m := b.message(Discover, 1)
	require.Equal(t, "255.255.255.255:68", b.want(Offer, m).To.String(), "the broadcast bit is set")
	m.Flags = 0
	require.Equal(t, "192.0.2.10:68", b.want(Offer, m).To.String())
	// A reply to a client without a unicast Ethernet address is broadcast.
	for _, change := range []func(){func() { m.HType = 6 }, func() { m.CHAddr = m.CHAddr[:5] }, func() { m.CHAddr = []byte{3, 0, 0, 0, 0, 1} }} {
		m.HType, m.CHAddr = 1, []byte{2, 0, 0, 0, 0, 1}
		change()
		r := b.want(Offer, m)
		require.Equal(t, "255.255.255.255:68", r.To.String())
		require.Nil(t, r.MAC)
	}
}

func TestReservations(t *testing.T) {
	b := newTestServer4(t, func(cfg *ServerConfig4) {
		cfg.Link.DNS = []netip.Addr{addr("192.0.2.3")}
		cfg.Link.Reservations = []Reservation4{
			{MAC: [6]byte{2, 0, 0, 0, 0, 1}, Addr: addr("192.0.2.10"), HostName: "one", Options: Options4{{OptDNS, []byte{192, 0, 2, 4}}}},
			{ClientID: []byte("two"), Addr: addr("192.0.2.200")},
		}
	})
	require.Equal(t, "192.0.2.11", b.lease(9, requested("192.0.2.10")), "not the reserved one")
	r := b.want(Offer, b.message(Discover, 1))
	require.Equal(t, "192.0.2.10", r.Message.YIAddr.String())
	require.Equal(t, "one", r.Message.Options.Name(OptHostName))
	require.Equal(t, addr("192.0.2.4"), r.Message.Options.Addr(OptDNS))
	require.Equal(t, "192.0.2.10", b.lease(1))
	// The boot loader and the system of a machine have different client identifiers.
	require.Equal(t, "192.0.2.10", b.lease(1, Option4{OptClientID, []byte("system")}))
	two := Option4{OptClientID, []byte("two")}
	require.Equal(t, "192.0.2.200", b.lease(2, two))
	b.want(ACK, b.message(Request, 2, two, requested("192.0.2.200")))
	require.Equal(t, "192.0.2.12", b.lease(3))
	require.Nil(t, b.ask(b.message(Discover, 4)))
	b.wait(2 * time.Hour)
	require.Len(t, slices.Collect(b.s.Bindings()), 4)
	require.Equal(t, "192.0.2.11", b.lease(4))
	require.Equal(t, "192.0.2.12", b.lease(5))
	require.Nil(t, b.ask(b.message(Discover, 6)), "reserved addresses are not given away")
	r = b.want(ACK, b.message(Request, 1, requested("192.0.2.10")))
	require.Equal(t, "one", r.Message.Options.Name(OptHostName))
	// Another machine uses the reserved address.
	require.Nil(t, b.ask(b.message(Decline, 1, requested("192.0.2.10"), to("192.0.2.1"))))
	require.Nil(t, b.ask(b.message(Discover, 1)))
	b.wait(10 * time.Minute)
	require.Equal(t, "192.0.2.10", b.lease(1))
}

// A client without a parameter list gets all options except IPv6-Only Preferred. RFC 8925 3.3: this option is
// only for clients that request it.
func TestOptionsThatAClientRequests(t *testing.T) {
	b := newTestServer4(t, func(cfg *ServerConfig4) {
		cfg.Link.IPv6Only, cfg.Link.MTU = 10*time.Minute, 1400
		for code := range OptionCode4(20) {
			cfg.Link.Options.Set(200+code, make([]byte, 100))
		}
		cfg.Link.Options.Set(OptMTU, []byte{5, 1})
	})
	r := b.want(Offer, b.message(Discover, 1))
	_, ok := r.Message.Options.Get(OptIPv6Only)
	require.False(t, ok)
	mtu, _ := r.Message.Options.Uint16(OptMTU)
	require.EqualValues(t, 5<<8|1, mtu, "Options replace the other fields")
	require.LessOrEqual(t, len(r.Payload), 548, "RFC 2131 2")
	_, ok = r.Message.Options.Get(200)
	require.True(t, ok)
	_, ok = r.Message.Options.Get(219)
	require.False(t, ok, "it does not fit")
	r = b.want(Offer, b.message(Discover, 1, Option4{OptParameters, []byte{219, byte(OptIPv6Only)}}))
	wait, _ := r.Message.Options.Uint32(OptIPv6Only)
	require.EqualValues(t, 600, wait)
	_, ok = r.Message.Options.Get(219)
	require.True(t, ok)
	_, ok = r.Message.Options.Get(OptMTU)
	require.False(t, ok, "not requested")
	// A message has at most the requested size, but 576 to 1500, less 28 bytes for the headers of IP and UDP.
	// Each of the 20 options takes 102 bytes, so less than that stays free.
	for size, most := range map[uint16]int{0: 548, 600: 572, 1500: 1472, 9000: 1472} {
		r = b.want(Offer, b.message(Discover, 1, Option4{OptMaxMessageSize, binary.BigEndian.AppendUint16(nil, size)}))
		require.LessOrEqual(t, len(r.Payload), most)
		require.Greater(t, len(r.Payload), most-110)
	}
}

// RFC 2131 3.1: "the server may probe the offered address with an ICMP Echo Request."
func TestAnAddressIsProbedBeforeItIsOffered(t *testing.T) {
	b := newTestServer4(t, func(cfg *ServerConfig4) { cfg.Probe = true })
	require.Nil(t, b.ask(b.message(Discover, 1)))
	a, ok := b.s.NextProbe()
	require.True(t, ok)
	require.Equal(t, "192.0.2.10", a.String())
	require.Nil(t, b.ask(b.message(Discover, 1)), "the probe is not answered yet")
	require.Nil(t, b.ask(b.message(Discover, 2)))
	_, ok = b.s.NextProbe()
	require.True(t, ok)
	b.s.Answered(b.now, a, []byte{2, 0, 0, 0, 0, 99})
	require.Equal(t, []string{"in use 192.0.2.10"}, b.events())
	require.Nil(t, b.reply())
	a, ok = b.s.NextProbe()
	require.True(t, ok)
	require.Equal(t, "192.0.2.12", a.String())
	b.wait(probeTime)
	var offered []string
	for r, ok := b.s.NextReply(); ok; r, ok = b.s.NextReply() {
		offered = append(offered, r.Message.YIAddr.String())
	}
	require.ElementsMatch(t, []string{"192.0.2.11", "192.0.2.12"}, offered)
	b.s.Answered(b.now, a, nil)
	require.Empty(t, b.events(), "too late")
	b.want(ACK, b.message(Request, 1, requested("192.0.2.12"), to("192.0.2.1")))
	b.wait(2 * time.Hour)
	require.Equal(t, "192.0.2.12", b.want(Offer, b.message(Discover, 1)).Message.YIAddr.String(), "it was the client's: no probe")

	// The client itself still has an address of which the server has no record.
	b = newTestServer4(t, func(cfg *ServerConfig4) { cfg.Probe = true })
	require.Nil(t, b.ask(b.message(Discover, 1, requested("192.0.2.11"))))
	a, _ = b.s.NextProbe()
	b.s.Answered(b.now, a, []byte{2, 0, 0, 0, 0, 1})
	require.Equal(t, a, b.reply().Message.YIAddr)
}

// Invented clients take neither memory nor the addresses of other clients.
func TestAFloodOfDiscoversIsHarmless(t *testing.T) {
	for _, probe := range []bool{false, true} {
		b := newTestServer4(t, func(cfg *ServerConfig4) {
			cfg.Probe = probe
			cfg.Link.Prefix = netip.MustParsePrefix("10.0.0.0/8")
			cfg.Link.Pools = []Range4{{addr("10.0.0.0"), addr("10.255.255.255")}}
			cfg.ID = addr("10.0.0.1")
		})
		r := rand.New(rand.NewPCG(1, 2))
		flood := func(n int) {
			for range n {
				m := b.message(Discover, 0)
				binary.BigEndian.PutUint32(m.CHAddr[2:], r.Uint32())
				b.now = b.now.Add(10 * time.Microsecond)
				b.s.Receive(b.now, m, true)
				for _, ok := b.s.NextReply(); ok; _, ok = b.s.NextReply() {
				}
				for _, ok := b.s.NextProbe(); ok; _, ok = b.s.NextProbe() {
				}
			}
		}
		flood(20000)
		checkTable(t, b.s)
		require.LessOrEqual(t, len(b.s.table.byAddr), maxOffers+1)
		b.s.Receive(b.now, b.message(Discover, 1), true)
		offer := b.reply()
		require.NotNil(t, offer)
		flood(maxOffers / 2)
		b.want(ACK, b.message(Request, 1, requested(offer.Message.YIAddr.String()), to("10.0.0.1")))
		b.wait(time.Hour)
		require.Len(t, b.s.table.byClient, 1)
	}
	// In a small pool the oldest offer is given to the next client.
	b := newTestServer4(t, nil)
	for who := range byte(200) {
		b.want(Offer, b.message(Discover, who))
		b.now = b.now.Add(time.Millisecond)
	}
	require.EqualValues(t, 197, b.s.Stats().Reclaimed)
	require.Len(t, b.s.table.byAddr, 3)
	require.Equal(t, "192.0.2.12", b.lease(200))
}

func TestTheNumberOfBindingsIsBounded(t *testing.T) {
	b := newTestServer4(t, func(cfg *ServerConfig4) {
		cfg.MaxBindings = 5
		cfg.Link.Pools = []Range4{{addr("192.0.2.10"), addr("192.0.2.250")}}
	})
	for who := range byte(5) {
		b.lease(who)
	}
	require.Nil(t, b.ask(b.message(Discover, 6)))
	require.Nil(t, b.ask(b.message(Discover, 6, requested("192.0.2.99"))))
	require.EqualValues(t, 2, b.s.Stats().Full)
	b.wait(2 * time.Hour)
	require.Equal(t, "192.0.2.10", b.lease(6))
}

// A server that is started again continues with the bindings of the earlier one.
func TestBindingsCanBeSaved(t *testing.T) {
	b := newTestServer4(t, nil)
	b.lease(1)
	b.lease(2, Option4{OptClientID, []byte("two")}, Option4{OptHostName, []byte("two")})
	b.lease(3)
	b.ask(b.message(Decline, 3, requested("192.0.2.12"), to("192.0.2.1")))
	saved, err := json.Marshal(slices.Collect(b.s.Bindings()))
	require.NoError(t, err)
	var old []Binding4
	require.NoError(t, json.Unmarshal(saved, &old))
	require.Len(t, old, 3)
	// The server ignores these bindings: addresses that it does not assign, a second binding of an address, an
	// unknown state, and a lease without a client.
	old = append(old, Binding4{Addr: addr("203.0.113.9"), State: Leased, MAC: mac[:]}, Binding4{Addr: addr("192.0.2.1"), State: Leased, MAC: mac[:]},
		Binding4{Addr: addr("192.0.2.10"), State: Leased, MAC: mac[:], Until: start.Add(9 * time.Hour)}, Binding4{State: 9}, Binding4{Addr: addr("192.0.2.99"), State: Leased})

	later := newTestServer4(t, func(cfg *ServerConfig4) { cfg.Bindings = old })
	checkTable(t, later.s)
	again, err := json.Marshal(slices.Collect(later.s.Bindings()))
	require.NoError(t, err)
	require.JSONEq(t, string(saved), string(again))
	require.Equal(t, b.s.Deadline(), later.s.Deadline())
	later.want(ACK, later.message(Request, 2, Option4{OptClientID, []byte("two")}, requested("192.0.2.11")))
	require.Nil(t, later.ask(later.message(Discover, 4)), "no free address")
	// Much later, the leases have ended, but the server remembers the clients.
	s, err := NewServer4(ServerConfig4{ID: addr("192.0.2.1"), Link: b.s.cfg.Link, Bindings: old}, start.Add(24*time.Hour))
	require.NoError(t, err)
	later = &testServer4{t, s, start.Add(24 * time.Hour)}
	require.Equal(t, "192.0.2.11", later.lease(2, Option4{OptClientID, []byte("two")}))
	require.Equal(t, "192.0.2.10", later.lease(1))
	require.Equal(t, "192.0.2.12", later.lease(4))
}

func TestMessagesThatNoClientSends(t *testing.T) {
	b := newTestServer4(t, nil)
	for name, change := range map[string]func(m *Message4){
		"a reply":                  func(m *Message4) { m.Op = BootReply },
		"no client":                func(m *Message4) { m.CHAddr = nil },
		"no type":                  func(m *Message4) { m.Options.Set(OptMessageType, nil) },
		"of a server":              func(m *Message4) { m.Options.Set(OptMessageType, []byte{byte(ACK)}) },
		"of an unknown type":       func(m *Message4) { m.Options.Set(OptMessageType, []byte{200}) },
		"a request for no address": func(m *Message4) { m.Options.Set(OptMessageType, []byte{byte(Request)}) },
	} {
		m := b.message(Discover, 1)
		change(m)
		require.Nil(t, b.ask(m), name)
	}
	require.EqualValues(t, 6, b.s.Stats().Invalid)
}

func TestServerConfigurationsThatCannotWork(t *testing.T) {
	good := Network4{Prefix: netip.MustParsePrefix("192.0.2.0/24")}
	for want, change := range map[string]func(*ServerConfig4){
		"dhcp: the server identifier 0.0.0.0 is not the address of a host":          func(c *ServerConfig4) { c.ID = addr("0.0.0.0") },
		"dhcp: the network 2001:db8::/64 is not an IPv4 prefix":                     func(c *ServerConfig4) { c.Link.Prefix = netip.MustParsePrefix("2001:db8::/64") },
		"dhcp: the pool from 192.0.2.9 to 192.0.2.8 is not a range of 192.0.2.0/24": func(c *ServerConfig4) { c.Link.Pools = []Range4{{addr("192.0.2.9"), addr("192.0.2.8")}} },
		"dhcp: the pool from 192.0.2.9 to 192.0.3.8 is not a range of 192.0.2.0/24": func(c *ServerConfig4) { c.Link.Pools = []Range4{{addr("192.0.2.9"), addr("192.0.3.8")}} },
		"dhcp: the networks 192.0.2.0/24 and 192.0.2.0/24 overlap":                  func(c *ServerConfig4) { c.Relayed = []Network4{good} },
		"dhcp: the reserved address 192.0.2.1 is not available in 192.0.2.0/24":     func(c *ServerConfig4) { c.Link.Reservations = []Reservation4{{MAC: mac, Addr: addr("192.0.2.1")}} },
		"dhcp: the router or server 224.0.0.1 is not the address of a host":         func(c *ServerConfig4) { c.Link.DNS = []netip.Addr{addr("224.0.0.1")} },
		`dhcp: "a..b" is not a domain name`:                                         func(c *ServerConfig4) { c.Link.Search = []string{"a..b"} },
		`dhcp: "a b" is not a domain name`:                                          func(c *ServerConfig4) { c.Link.Domain = "a b" },
		"dhcp: the MTU 67 is not from 68 to 65535":                                  func(c *ServerConfig4) { c.Link.MTU = 67 },
		"dhcp: option 51 is set by the server itself":                               func(c *ServerConfig4) { c.Link.Options = Options4{{OptLeaseTime, nil}} },
		`dhcp: "x y" is not a host name`: func(c *ServerConfig4) {
			c.Link.Reservations = []Reservation4{{MAC: mac, Addr: addr("192.0.2.7"), HostName: "x y"}}
		},
		"dhcp: there are two reservations of 192.0.2.7 or of its client": func(c *ServerConfig4) {
			c.Link.Reservations = []Reservation4{{MAC: mac, Addr: addr("192.0.2.7")}, {ClientID: []byte("x"), Addr: addr("192.0.2.7")}}
		},
	} {
		cfg := ServerConfig4{ID: addr("192.0.2.1"), Link: good}
		change(&cfg)
		_, err := NewServer4(cfg, start)
		require.EqualError(t, err, want)
	}
}

// Messages that a fuzzer makes never break the server's tables.
func FuzzServer4(f *testing.F) {
	seed := func(ms ...*Message4) (all []byte) {
		for _, m := range ms {
			b := mustSeed(m, 0)
			all = append(binary.BigEndian.AppendUint16(all, uint16(len(b))), b...)
		}
		return all
	}
	b := &testServer4{}
	renew := b.message(Request, 1)
	renew.CIAddr = addr("192.0.2.10")
	relay := b.message(Discover, 1, Option4{OptRelayAgent, []byte{5, 4, 198, 51, 100, 0}})
	relay.GIAddr = addr("198.51.100.1")
	f.Add(seed(b.message(Discover, 1), b.message(Request, 1, requested("192.0.2.10"), to("192.0.2.1")), renew, b.message(Decline, 1, requested("192.0.2.10"), to("192.0.2.1"))))
	f.Add(seed(b.message(Discover, 1, Option4{OptRapidCommit, nil}), relay, b.message(Request, 2, requested("192.0.2.11")), b.message(Discover, 7, Option4{OptMaxMessageSize, []byte{2, 90}})))
	f.Fuzz(func(t *testing.T, data []byte) {
		b := newTestServer4(t, func(cfg *ServerConfig4) {
			cfg.RapidCommit, cfg.Authoritative, cfg.Probe = true, true, len(data)%2 == 0
			cfg.Relayed = []Network4{{Prefix: netip.MustParsePrefix("198.51.100.0/24"), Pools: []Range4{{addr("198.51.100.0"), addr("198.51.100.3")}}}}
			cfg.Link.Reservations = []Reservation4{{MAC: mac, Addr: addr("192.0.2.11")}, {ClientID: []byte("x"), Addr: addr("192.0.2.99")}}
		})
		for len(data) >= 2 {
			n := min(int(binary.BigEndian.Uint16(data)), len(data)-2)
			m, err := ParseMessage4(data[2 : 2+n])
			data = data[2+n:]
			if err != nil {
				continue
			}
			b.s.Receive(b.now, m, m.Secs&1 == 0)
			for r, ok := b.s.NextReply(); ok; r, ok = b.s.NextReply() {
				require.Equal(t, r.Message, mustParse(t, r.Payload))
				require.LessOrEqual(t, len(r.Payload), 1472)
				if r.Message.YIAddr.IsValid() {
					require.NotNil(t, b.s.table.byAddr[r.Message.YIAddr])
				}
			}
			b.wait(time.Duration(m.Secs) * time.Second)
		}
	})
}
