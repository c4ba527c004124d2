package dhcp

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var start = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

var mac = [6]byte{2, 0, 0, 0, 0, 7}

// A testClient4 is a client with a clock that the test sets.
type testClient4 struct {
	t   *testing.T
	c   *Client4
	now time.Time
}

// newTestClient4 makes a client whose random numbers all have the mean value, so that times are not
// spread.
func newTestClient4(t *testing.T, change func(*ClientConfig4)) *testClient4 {
	cfg := ClientConfig4{MAC: mac, HostName: "host", Rand: func() uint64 { return uint64(time.Second) }}
	if change != nil {
		change(&cfg)
	}
	return &testClient4{t: t, c: NewClient4(cfg), now: start}
}

func (b *testClient4) sent() *Send4 {
	b.t.Helper()
	s, ok := b.c.NextSend()
	if !ok {
		return nil
	}
	return &s
}

// want returns the next sent message, which must be of the given type.
func (b *testClient4) want(kind MessageType4) *Message4 {
	b.t.Helper()
	s := b.sent()
	require.NotNil(b.t, s, "%v is to be sent in %v", kind, b.c.State())
	require.Equal(b.t, kind, s.Message.Type())
	// The message can be encoded and parsed.
	m := mustParse(b.t, mustAppend(b.t, s.Message, MinMessageSize4))
	require.Equal(b.t, s.Message.Options, m.Options)
	return s.Message
}

// quiet checks that nothing is sent.
func (b *testClient4) quiet() {
	b.t.Helper()
	require.Nil(b.t, b.sent())
}

// event returns the next event, which must be of the given kind.
func (b *testClient4) event(kind EventKind4) Event4 {
	b.t.Helper()
	e, ok := b.c.NextEvent()
	require.True(b.t, ok, "the event %v is due", kind)
	require.Equal(b.t, kind.String(), e.Kind.String(), "%s", e.Reason)
	return e
}

func (b *testClient4) noEvent() {
	b.t.Helper()
	e, ok := b.c.NextEvent()
	require.False(b.t, ok, "%+v", e)
}

// next advances the clock to the deadline, and returns by how much.
func (b *testClient4) next() time.Duration {
	b.t.Helper()
	at := b.c.Deadline()
	require.False(b.t, at.IsZero(), "there is a deadline in %v", b.c.State())
	require.False(b.t, at.Before(b.now), "it is in the future")
	before := b.now
	b.c.Tick(at.Add(-time.Nanosecond))
	b.quiet()
	b.now = at
	b.c.Tick(b.now)
	return b.now.Sub(before)
}

// reply makes a server's reply.
func (b *testClient4) reply(kind MessageType4, server, yi string, seconds uint32, options ...Option4) *Message4 {
	m := &Message4{Op: BootReply, HType: 1, XID: b.c.xid, CHAddr: mac[:]}
	m.Options.Set(OptMessageType, []byte{byte(kind)})
	if server != "" {
		m.Options.Set(OptServerID, AppendAddrs(nil, addr(server)))
	}
	if yi != "" {
		m.YIAddr = addr(yi)
		m.Options.Set(OptLeaseTime, []byte{byte(seconds >> 24), byte(seconds >> 16), byte(seconds >> 8), byte(seconds)})
		m.Options.Set(OptSubnetMask, []byte{255, 255, 255, 0})
		m.Options.Set(OptRouter, AppendAddrs(nil, addr("192.0.2.1")))
	}
	for _, o := range options {
		m.Options.Set(o.Code, o.Data)
	}
	return m
}

func (b *testClient4) receive(m *Message4) { b.c.Receive(b.now, m) }

// bound brings the client to BOUND with 192.0.2.7 of 192.0.2.1.
func (b *testClient4) bound(seconds uint32) *Lease4 {
	b.t.Helper()
	b.c.Up(b.now)
	b.want(Discover)
	return b.selected("192.0.2.1", "192.0.2.7", seconds)
}

// selected gives a lease to a client in SELECTING.
func (b *testClient4) selected(server, a string, seconds uint32) *Lease4 {
	b.t.Helper()
	b.receive(b.reply(Offer, server, a, seconds))
	m := b.want(Request)
	require.Equal(b.t, addr(a), m.Options.Addr(OptRequestedAddr))
	require.Equal(b.t, addr(server), m.Options.Addr(OptServerID))
	b.receive(b.reply(ACK, server, a, seconds))
	require.Equal(b.t, a, b.event(Probe).Lease.Addr.Addr().String())
	require.Equal(b.t, Probing, b.c.State())
	b.c.Probed(b.now, true)
	l := b.event(Acquired).Lease
	b.quiet()
	b.noEvent()
	require.Equal(b.t, Bound, b.c.State())
	return l
}

// RFC 2131 3.1 and 4.4.1, table 5.
func TestAClientGetsALease(t *testing.T) {
	b := newTestClient4(t, func(cfg *ClientConfig4) {
		cfg.VendorClass, cfg.Parameters = "usernet", []OptionCode4{OptNTP, 150}
	})
	require.Equal(t, Stopped, b.c.State())
	require.True(t, b.c.Deadline().IsZero())
	b.c.Up(b.now)
	require.Equal(t, Selecting, b.c.State())
	m := b.want(Discover)
	require.EqualValues(t, BootRequest, m.Op)
	require.EqualValues(t, 1, m.HType)
	require.Equal(t, mac[:], m.CHAddr)
	require.EqualValues(t, FlagBroadcast, m.Flags)
	require.False(t, m.CIAddr.IsValid() || m.YIAddr.IsValid() || m.GIAddr.IsValid())
	id, _ := m.Options.Get(OptClientID)
	require.Equal(t, ClientID(mac), id)
	require.Equal(t, "host", m.Options.Name(OptHostName))
	require.Equal(t, "usernet", m.Options.Text(OptVendorClass))
	size, _ := m.Options.Uint16(OptMaxMessageSize)
	require.EqualValues(t, 1500, size)
	params, _ := m.Options.Get(OptParameters)
	require.Less(t, slices.Index(params, byte(OptClasslessRoutes)), slices.Index(params, byte(OptRouter)), "RFC 3442")
	require.EqualValues(t, 150, params[len(params)-1])
	require.NotContains(t, params, byte(OptIPv6Only))
	_, ok := m.Options.Get(OptServerID)
	require.False(t, ok)

	b.now = b.now.Add(3 * time.Second)
	search, err := AppendSearch(nil, []string{"a.test", "b.test"})
	require.NoError(t, err)
	options := []Option4{
		{OptDNS, AppendAddrs(nil, addr("192.0.2.1"), addr("192.0.2.2"))}, {OptNTP, AppendAddrs(nil, addr("192.0.2.3"))},
		{OptDomainSearch, search}, {OptDomainName, []byte("a.test")}, {OptHostName, []byte("seven")}, {OptMTU, []byte{5, 120}},
		{OptClientID, ClientID(mac)},
	}
	b.receive(b.reply(Offer, "192.0.2.1", "192.0.2.7", 3600, options...))
	m = b.want(Request)
	require.False(t, m.CIAddr.IsValid())
	require.EqualValues(t, FlagBroadcast, m.Flags)
	require.Zero(t, m.Secs, "the same value as in the DHCPDISCOVER")
	b.now = b.now.Add(time.Second)
	b.receive(b.reply(ACK, "192.0.2.1", "192.0.2.7", 3600, options...))
	require.Nil(t, b.c.Lease(), "the address is not used yet")
	b.event(Probe)
	b.now = b.now.Add(5 * time.Second)
	b.c.Probed(b.now, true)
	l := b.event(Acquired).Lease
	require.Same(t, l, b.c.Lease())
	asked := start.Add(3 * time.Second)
	require.Equal(t, &Lease4{
		Addr: netip.MustParsePrefix("192.0.2.7/24"), Server: addr("192.0.2.1"),
		Routes: []Route4{{netip.MustParsePrefix("0.0.0.0/0"), addr("192.0.2.1")}},
		DNS:    []netip.Addr{addr("192.0.2.1"), addr("192.0.2.2")}, NTP: []netip.Addr{addr("192.0.2.3")},
		Search: []string{"a.test", "b.test"}, Domain: "a.test", HostName: "seven", MTU: 1400,
		Obtained: asked, Renew: asked.Add(30 * time.Minute), Rebind: asked.Add(52*time.Minute + 30*time.Second), Expires: asked.Add(time.Hour),
		Options: l.Options,
	}, l)

	b.c.Release()
	s := b.sent()
	require.Equal(t, Release, s.Message.Type())
	require.Equal(t, addr("192.0.2.1"), s.To, `RFC 2131 4.4.4: "The client unicasts DHCPRELEASE messages to the server."`)
	require.Equal(t, addr("192.0.2.7"), s.Message.CIAddr)
	require.Equal(t, addr("192.0.2.1"), s.Message.Options.Addr(OptServerID))
	require.Equal(t, "it was released", b.event(Lost).Reason)
	require.Equal(t, Stopped, b.c.State())
	require.True(t, b.c.Deadline().IsZero())
	b.c.Release()
	b.quiet()
	b.noEvent()
}

// RFC 2131 4.1: "the delay before the first retransmission SHOULD be 4 seconds randomized by the value of a uniform random
// number chosen from the range -1 to +1"; doubled "up to a maximum of 64 seconds".
func TestDiscoverIsRepeatedMoreAndMoreSeldom(t *testing.T) {
	for _, random := range []uint64{0, uint64(time.Second), uint64(2*time.Second - 1)} {
		b := newTestClient4(t, func(cfg *ClientConfig4) { cfg.Rand = func() uint64 { return random } })
		b.c.Up(b.now)
		first := b.want(Discover)
		for i, s := range []int{4, 8, 16, 32, 64, 64, 64} {
			require.Equal(t, i+1, b.c.Tries())
			d := b.next()
			require.Equal(t, time.Duration(s)*time.Second+time.Duration(random)-time.Second, d)
			m := b.want(Discover)
			require.Equal(t, first.XID, m.XID)
			require.EqualValues(t, b.now.Sub(start)/time.Second, m.Secs)
		}
		for range 100000 / 64 { // the field does not overflow
			b.next()
			m := b.want(Discover)
			require.EqualValues(t, min(b.now.Sub(start)/time.Second, 65535), m.Secs)
		}
	}
}

// The server of a week's lease fails: RFC 2131 4.4.5.
func TestAWeeksLeaseWithADeadServer(t *testing.T) {
	const week = 7 * 24 * time.Hour
	b := newTestClient4(t, nil)
	b.bound(uint32(week / time.Second))
	// The lease is renewed once, at half of its time less the fuzz.
	d := b.next()
	require.InDelta(t, week/2, d, float64(week/64))
	require.Equal(t, Renewing, b.c.State())
	s, _ := b.c.NextSend()
	require.Equal(t, addr("192.0.2.1"), s.To, "RFC 2131 4.4.5: it is unicast to the server")
	m := s.Message
	require.Equal(t, addr("192.0.2.7"), m.CIAddr)
	require.Zero(t, m.Flags)
	for _, code := range []OptionCode4{OptServerID, OptRequestedAddr} { // 4.3.2: "MUST NOT be filled in"
		_, ok := m.Options.Get(code)
		require.False(t, ok, "%d", code)
	}
	renewed := b.now
	b.now = b.now.Add(time.Second)
	b.receive(b.reply(ACK, "192.0.2.1", "192.0.2.7", uint32(week/time.Second)))
	l := b.event(Renewed).Lease
	require.Equal(t, renewed.Add(week), l.Expires, "the lease counts from the request")
	require.Equal(t, Bound, b.c.State())

	// Then the server does not answer. The client waits half of the remaining time before each
	// request, until T2.
	b.next()
	var waits []time.Duration
	for b.c.State() == Renewing {
		s, _ := b.c.NextSend()
		require.Equal(t, addr("192.0.2.1"), s.To)
		require.Equal(t, Request, s.Message.Type())
		waits = append(waits, b.next())
	}
	require.Equal(t, l.Rebind, b.now)
	for i := range waits[:len(waits)-2] { // the last wait is cut short by T2
		require.InDelta(t, max(waits[i]/2, time.Minute), waits[i+1], 2, "%v", waits)
	}
	require.Less(t, len(waits), 16)
	n := 0
	for b.c.State() == Rebinding {
		s, ok := b.c.NextSend()
		require.True(t, ok)
		require.False(t, s.To.IsValid(), "to all servers")
		require.Equal(t, addr("192.0.2.7"), s.Message.CIAddr)
		require.Nil(t, b.sent())
		b.noEvent()
		b.next()
		n++
	}
	require.Less(t, n, 16)
	require.Equal(t, l.Expires, b.now)
	require.Equal(t, "it has expired", b.event(Lost).Reason)
	require.Nil(t, b.c.Lease())
	m = b.want(Discover)
	require.Equal(t, addr("192.0.2.7"), m.Options.Addr(OptRequestedAddr), "the same again if possible")

	// Another server has taken over.
	b.selected("192.0.2.99", "192.0.2.8", 3600)
}

func TestAnotherServerRebinds(t *testing.T) {
	b := newTestClient4(t, nil)
	b.bound(3600)
	for b.c.State() != Rebinding {
		b.next()
		b.want(Request)
	}
	b.receive(b.reply(ACK, "192.0.2.99", "192.0.2.7", 7200))
	require.Equal(t, addr("192.0.2.99"), b.event(Renewed).Lease.Server)
	b.next()
	require.Equal(t, addr("192.0.2.99"), b.sent().To)
}

// With a lease of two minutes, the client sends several requests before the lease ends, although
// RFC 2131 4.4.5 requires 60 seconds between requests.
func TestAShortLeaseSurvivesLostRequests(t *testing.T) {
	b := newTestClient4(t, nil)
	l := b.bound(120)
	n := 0
	for b.now.Before(l.Expires) {
		if b.next(); b.now.Before(l.Expires) {
			b.want(Request)
			n++
		}
	}
	require.GreaterOrEqual(t, n, 6)
	require.LessOrEqual(t, n, 15)
}

func TestALeaseOfOneSecond(t *testing.T) {
	b := newTestClient4(t, nil)
	b.bound(1)
	require.GreaterOrEqual(t, b.next(), 480*time.Millisecond)
	b.want(Request)
	b.next() // T2
	b.want(Request)
	b.next()
	b.event(Lost)
	b.want(Discover)
}

// RFC 2131 3.3: "The time value of 0xffffffff is reserved to represent 'infinity'."
func TestLeasesWithoutEndAndNearlySo(t *testing.T) {
	b := newTestClient4(t, nil)
	l := b.bound(infinity)
	require.True(t, l.Expires.IsZero() && l.Renew.IsZero())
	require.True(t, b.c.Deadline().IsZero())
	b.c.Tick(b.now.Add(200 * 365 * 24 * time.Hour))
	require.Equal(t, Bound, b.c.State())

	b = newTestClient4(t, nil)
	l = b.bound(infinity - 1) // of 136 years
	require.Equal(t, []int{2068, 2119, 2136}, []int{l.Renew.Year(), l.Rebind.Year(), l.Expires.Year()})
	b.next()
	require.Equal(t, 2068, b.now.Year())
	b.want(Request)
}

// RFC 2131 4.4.5: "T1 MUST be earlier than T2, which, in turn, MUST be earlier than the time at which the client's lease
// will expire."
func TestTimesOfAServer(t *testing.T) {
	secs := func(n byte) []byte { return []byte{0, 0, 0, n} }
	// t1 and t2 are the times of the server in seconds, for a lease of 100 seconds. The client replaces a time
	// that is 0 or not before the next one: T2 by 7/8 of the lease, and T1 by half of the lease or, if that is
	// less, 4/7 of the server's T2.
	for _, c := range []struct{ t1, t2, want1, want2 int }{
		{0, 0, 50, 87}, {10, 20, 10, 20}, {0, 20, 11, 20}, {90, 0, 50, 87}, {0, 200, 50, 87}, {30, 100, 30, 87}, {20, 20, 11, 20},
	} {
		m := &Message4{YIAddr: addr("192.0.2.7"), Options: Options4{
			{OptServerID, []byte{192, 0, 2, 1}}, {OptLeaseTime, secs(100)}, {OptRenewalTime, secs(byte(c.t1))}, {OptRebindingTime, secs(byte(c.t2))},
		}}
		l, err := leaseOf(m, start)
		require.NoError(t, err)
		require.Equal(t, c.want1, int(l.Renew.Sub(start)/time.Second), "%+v", c)
		require.Equal(t, c.want2, int(l.Rebind.Sub(start)/time.Second), "%+v", c)
	}
	l, err := leaseOf(&Message4{YIAddr: addr("172.16.2.7"), Options: Options4{{OptServerID, []byte{192, 0, 2, 1}}}}, start)
	require.NoError(t, err)
	require.Equal(t, fallbackLease, l.Expires.Sub(start))
	require.Equal(t, 16, l.Addr.Bits(), "without a mask, the prefix length of the address's class")
}

func TestNonsenseOfServersIsNotTaken(t *testing.T) {
	b := newTestClient4(t, nil)
	b.c.Up(b.now)
	b.want(Discover)
	offer := func(f func(m *Message4)) *Message4 {
		m := b.reply(Offer, "192.0.2.1", "192.0.2.7", 60)
		f(m)
		return m
	}
	// Messages for other clients are ignored without an event.
	for name, m := range map[string]*Message4{
		"a request":       offer(func(m *Message4) { m.Op = BootRequest }),
		"another's ID":    offer(func(m *Message4) { m.XID++ }),
		"another MAC":     offer(func(m *Message4) { m.CHAddr = []byte{2, 0, 0, 0, 0, 8} }),
		"another link":    offer(func(m *Message4) { m.HType = 6 }),
		"another client":  offer(func(m *Message4) { m.Options.Set(OptClientID, []byte{1, 2}) }), // RFC 6842 3
		"no type":         offer(func(m *Message4) { m.Options.Set(OptMessageType, nil) }),
		"an early ACK":    offer(func(m *Message4) { m.Options.Set(OptMessageType, []byte{byte(ACK)}) }),
		"an early NAK":    offer(func(m *Message4) { m.Options.Set(OptMessageType, []byte{byte(NAK)}) }),
		"of a client":     offer(func(m *Message4) { m.Options.Set(OptMessageType, []byte{byte(Discover)}) }),
		"an unknown type": offer(func(m *Message4) { m.Options.Set(OptMessageType, []byte{99}) }),
	} {
		b.receive(m)
		require.Equal(t, Selecting, b.c.State(), name)
		b.quiet()
		b.noEvent()
	}
	for want, m := range map[string]*Message4{
		"an offer of 192.0.2.1 is not taken: its lease time is 0":                                                   b.reply(Offer, "192.0.2.1", "192.0.2.7", 0),
		"an offer of an unknown server is not taken: it names no server":                                            b.reply(Offer, "", "192.0.2.7", 60),
		"an offer of 224.0.0.1 is not taken: it names no server":                                                    b.reply(Offer, "224.0.0.1", "192.0.2.7", 60),
		"an offer of 192.0.2.1 is not taken: 127.0.0.1 cannot be the address of a host":                             b.reply(Offer, "192.0.2.1", "127.0.0.1", 60),
		"an offer of 192.0.2.1 is not taken: 240.0.0.1 cannot be the address of a host":                             b.reply(Offer, "192.0.2.1", "240.0.0.1", 60),
		"an offer of 192.0.2.1 is not taken: it has no address":                                                     b.reply(Offer, "192.0.2.1", "0.0.0.0", 60),
		"an offer of 192.0.2.1 is not taken: the mask of 192.0.2.7 is 0xff00ff00":                                   b.reply(Offer, "192.0.2.1", "192.0.2.7", 60, Option4{OptSubnetMask, []byte{255, 0, 255, 0}}),
		"an offer of 192.0.2.1 is not taken: the mask of 192.0.2.7 is 0x00000000":                                   b.reply(Offer, "192.0.2.1", "192.0.2.7", 60, Option4{OptSubnetMask, []byte{0, 0, 0, 0}}),
		"an offer of 192.0.2.1 is not taken: 192.0.2.255/24 is the network or the broadcast address of its network": b.reply(Offer, "192.0.2.1", "192.0.2.255", 60),
	} {
		b.receive(m)
		require.Equal(t, want, b.event(Refused).Reason)
		require.Equal(t, Selecting, b.c.State())
		b.quiet()
	}
	for range 100 {
		b.receive(b.reply(Offer, "192.0.2.1", "192.0.2.7", 0))
	}
	for range maxRefusals {
		b.event(Refused)
	}
	b.noEvent() // a flood is not queued

	b.receive(b.reply(Offer, "192.0.2.1", "192.0.2.7", 60))
	b.want(Request)
	b.receive(b.reply(ACK, "192.0.2.2", "192.0.2.7", 60))
	require.Equal(t, "a lease of 192.0.2.2 is not taken: 192.0.2.1 was asked", b.event(Refused).Reason)
	b.receive(b.reply(ACK, "192.0.2.1", "192.0.2.8", 60))
	require.Equal(t, "a lease of 192.0.2.1 is not taken: it is of 192.0.2.8, and 192.0.2.7 was asked for", b.event(Refused).Reason)
	b.receive(b.reply(NAK, "192.0.2.2", "", 0))
	b.noEvent()
	b.now = b.now.Add(2 * time.Second)
	b.receive(b.reply(ACK, "192.0.2.1", "192.0.2.7", 1))
	require.Equal(t, "a lease of 192.0.2.1 is not taken: it came after its end", b.event(Refused).Reason)
	require.Equal(t, Requesting, b.c.State())
}

// One of two servers does not keep its offers. The client then uses the other one.
func TestTheServerThatKeepsItsOfferIsUsed(t *testing.T) {
	b := newTestClient4(t, nil)
	b.c.Up(b.now)
	b.want(Discover)
	b.receive(b.reply(Offer, "192.0.2.1", "192.0.2.7", 60))
	b.receive(b.reply(Offer, "192.0.2.2", "192.0.2.8", 60)) // too late
	for i := range maxRequests {
		require.Equal(t, addr("192.0.2.7"), b.want(Request).Options.Addr(OptRequestedAddr))
		require.Equal(t, 4*time.Second<<i, b.next())
	}
	require.Equal(t, "192.0.2.1 has offered 192.0.2.7 and does not answer a request for it", b.event(Refused).Reason)
	b.want(Discover)
	b.receive(b.reply(Offer, "192.0.2.1", "192.0.2.7", 60))
	b.quiet()
	b.receive(b.reply(Offer, "192.0.2.2", "192.0.2.8", 60))
	b.want(Request)
	b.receive(b.reply(NAK, "192.0.2.2", "", 0, Option4{OptMessage, []byte("taken")}))
	require.Equal(t, "192.0.2.2 refuses: taken", b.event(Refused).Reason)

	// Now both are avoided. The client accepts an avoided server's offer if no other one arrives in
	// time.
	b.want(Discover)
	b.receive(b.reply(Offer, "192.0.2.1", "192.0.2.7", 60))
	b.quiet()
	require.Equal(t, 4*time.Second, b.next())
	require.Equal(t, addr("192.0.2.1"), b.want(Request).Options.Addr(OptServerID))
	b.receive(b.reply(ACK, "192.0.2.1", "192.0.2.7", 60))
	b.event(Probe)
}

// A server that always refuses what it offers gets fewer and fewer requests.
func TestALoopOfRefusalsSlowsDown(t *testing.T) {
	b := newTestClient4(t, nil)
	b.c.Up(b.now)
	for i := range 20 {
		b.want(Discover)
		b.receive(b.reply(Offer, "192.0.2.1", "192.0.2.7", 60))
		if i > 0 {
			b.next() // after a refusal, the client first waits for offers of other servers
		}
		b.want(Request)
		b.receive(b.reply(NAK, "192.0.2.1", "", 0))
		b.event(Refused)
		if i > 0 {
			require.Equal(t, min(time.Second<<(i-1), 64*time.Second), b.next())
		}
	}
	require.Less(t, 10*time.Minute, b.now.Sub(start))
}

// RFC 2131 3.1.5 and RFC 5227 2.1.1.
func TestAnAddressInUseIsDeclined(t *testing.T) {
	b := newTestClient4(t, nil)
	b.c.Up(b.now)
	for i := range 12 {
		b.want(Discover)
		b.receive(b.reply(Offer, "192.0.2.1", "192.0.2.7", 60))
		b.want(Request)
		b.receive(b.reply(ACK, "192.0.2.1", "192.0.2.7", 60))
		b.event(Probe)
		b.c.Probed(b.now, false)
		s := b.sent()
		m := s.Message
		require.Equal(t, Decline, m.Type())
		require.False(t, s.To.IsValid())
		require.False(t, m.CIAddr.IsValid())
		require.Equal(t, addr("192.0.2.7"), m.Options.Addr(OptRequestedAddr))
		require.Equal(t, addr("192.0.2.1"), m.Options.Addr(OptServerID))
		_, ok := m.Options.Get(OptParameters)
		require.False(t, ok, "RFC 2131 table 5: MUST NOT")
		require.Equal(t, "192.0.2.7 is in use by another host", b.event(Refused).Reason)
		want := declineWait
		if i >= maxConflicts-1 {
			want = rateLimitInterval
		}
		require.Equal(t, want, b.next())
	}
	_, ok := b.want(Discover).Options.Get(OptRequestedAddr)
	require.False(t, ok)
}

// A client that is stopped while it probes an address returns the address. It broadcasts the message,
// because it must not use the address yet.
func TestAnAddressBeingProbedIsReleased(t *testing.T) {
	released := func(b *testClient4, to, a, server string) {
		s := b.sent()
		require.NotNil(t, s)
		require.Equal(t, Release, s.Message.Type())
		require.Equal(t, to, s.To.String())
		require.Equal(t, addr(a), s.Message.CIAddr)
		require.Equal(t, addr(server), s.Message.Options.Addr(OptServerID))
		_, ok := s.Message.Options.Get(OptRequestedAddr)
		require.False(t, ok, "RFC 2131 table 5: MUST NOT")
	}
	probing := func(b *testClient4, server, a string) {
		b.want(Discover)
		b.receive(b.reply(Offer, server, a, 60))
		b.want(Request)
		b.receive(b.reply(ACK, server, a, 60))
		b.event(Probe)
	}
	b := newTestClient4(t, nil)
	b.c.Up(b.now)
	probing(b, "192.0.2.1", "192.0.2.7")
	b.c.Release()
	released(b, "invalid IP", "192.0.2.7", "192.0.2.1")
	b.quiet()
	b.noEvent()
	require.Equal(t, Stopped, b.c.State())
	b.c.Release()
	b.quiet()

	// The client returns a lease in use too, by unicast.
	b = newTestClient4(t, nil)
	b.bound(3600)
	b.c.Down()
	b.c.Up(b.now)
	for range maxReboots {
		b.want(Request)
		b.next()
	}
	probing(b, "192.0.2.2", "192.0.2.8")
	b.c.Release()
	released(b, "192.0.2.1", "192.0.2.7", "192.0.2.1")
	released(b, "invalid IP", "192.0.2.8", "192.0.2.2")
	b.quiet()
	require.Equal(t, "it was released", b.event(Lost).Reason)
	b.noEvent()

	// A client whose link is down sends nothing.
	b = newTestClient4(t, nil)
	b.c.Up(b.now)
	probing(b, "192.0.2.1", "192.0.2.7")
	b.c.Down()
	b.c.Release()
	b.quiet()
}

func TestAConflictThatAppearsLater(t *testing.T) {
	b := newTestClient4(t, nil)
	b.bound(3600)
	b.now = b.now.Add(time.Minute)
	b.c.Conflict(b.now)
	require.Equal(t, "another host uses it", b.event(Lost).Reason)
	b.event(Refused)
	b.want(Decline)
	require.Equal(t, 10*time.Second, b.next())
	b.want(Discover)
	b.selected("192.0.2.1", "192.0.2.9", 60)
}

// RFC 2131 3.2: a client that remembers its address requests it first.
func TestAnAddressOfBeforeIsAskedForFirst(t *testing.T) {
	b := newTestClient4(t, func(cfg *ClientConfig4) { cfg.Lease = addr("192.0.2.7") })
	b.c.Up(b.now)
	require.Equal(t, Rebooting, b.c.State())
	m := b.want(Request)
	require.Equal(t, addr("192.0.2.7"), m.Options.Addr(OptRequestedAddr))
	require.False(t, m.CIAddr.IsValid())
	_, ok := m.Options.Get(OptServerID) // 4.3.2: "'server identifier' MUST NOT be filled in"
	require.False(t, ok)
	b.receive(b.reply(ACK, "192.0.2.1", "192.0.2.7", 60))
	b.event(Probe)
	b.c.Probed(b.now, true)
	b.event(Acquired)

	// No server answers, so the client searches for servers.
	b = newTestClient4(t, func(cfg *ClientConfig4) { cfg.Lease = addr("192.0.2.7") })
	b.c.Up(b.now)
	b.want(Request)
	b.next()
	b.want(Request)
	b.next()
	require.Equal(t, 12*time.Second, b.now.Sub(start))
	require.Equal(t, addr("192.0.2.7"), b.want(Discover).Options.Addr(OptRequestedAddr))
}

// A laptop moves to another network.
func TestAMoveToAnotherNetwork(t *testing.T) {
	b := newTestClient4(t, nil)
	b.bound(3600)
	b.c.Down()
	require.NotNil(t, b.c.Lease(), "the address stays while the link is down for a moment")
	b.now = b.now.Add(time.Minute)
	b.c.Up(b.now)
	b.want(Request)
	b.receive(b.reply(NAK, "198.51.100.1", "", 0))
	b.event(Refused)
	require.Equal(t, "198.51.100.1 has taken it back", b.event(Lost).Reason)
	b.want(Discover)
	b.selected("198.51.100.1", "198.51.100.7", 60)

	// The servers of the next network do not answer requests for unknown addresses.
	b.c.Down()
	b.c.Up(b.now)
	b.want(Request)
	b.next()
	b.want(Request)
	b.next()
	b.want(Discover)
	require.NotNil(t, b.c.Lease(), `RFC 2131 3.2: "the client MAY choose to use the previously allocated network address"`)
	b.receive(b.reply(Offer, "203.0.113.1", "203.0.113.7", 60))
	b.want(Request)
	b.receive(b.reply(ACK, "203.0.113.1", "203.0.113.7", 60))
	b.event(Probe)
	b.c.Probed(b.now, true)
	require.Equal(t, "203.0.113.7 takes its place", b.event(Lost).Reason)
	b.event(Acquired)

	// In the same network again, nothing changes.
	b.c.Down()
	b.c.Up(b.now)
	b.want(Request)
	b.receive(b.reply(ACK, "203.0.113.1", "203.0.113.7", 60))
	b.event(Renewed)
	b.noEvent()
}

func TestALeaseEndsWhileTheLinkIsDown(t *testing.T) {
	b := newTestClient4(t, nil)
	b.bound(60)
	b.c.Down()
	require.Equal(t, time.Minute, b.next())
	b.event(Lost)
	b.quiet()
	require.True(t, b.c.Deadline().IsZero())
	b.c.Conflict(b.now)
	b.c.Probed(b.now, true)
	b.quiet()
	b.noEvent()
	b.c.Up(b.now)
	require.Equal(t, addr("192.0.2.7"), b.want(Request).Options.Addr(OptRequestedAddr))
}

// The servers do not answer, and the lease ends during the search.
func TestALeaseEndsWhileServersAreLookedFor(t *testing.T) {
	b := newTestClient4(t, nil)
	l := b.bound(60)
	b.c.Down()
	b.c.Up(b.now)
	for b.now.Before(l.Expires) {
		for b.sent() != nil {
		}
		b.next()
	}
	require.Equal(t, l.Expires, b.now)
	b.event(Lost)
	require.Equal(t, Selecting, b.c.State())
	b.sent()
}

func TestNAKWhileRenewing(t *testing.T) {
	b := newTestClient4(t, nil)
	b.bound(3600)
	b.next()
	b.want(Request)
	b.receive(b.reply(NAK, "192.0.2.99", "", 0))
	require.Equal(t, Renewing, b.c.State(), "a DHCPNAK of a server that was not asked is ignored")
	b.receive(b.reply(NAK, "192.0.2.1", "", 0))
	b.event(Refused)
	b.event(Lost)
	b.want(Discover)
}

// RFC 8925 3.2.
func TestANetworkThatPrefersIPv6(t *testing.T) {
	b := newTestClient4(t, func(cfg *ClientConfig4) { cfg.IPv6Only = true })
	b.c.Up(b.now)
	params, _ := b.want(Discover).Options.Get(OptParameters)
	require.Contains(t, params, byte(OptIPv6Only))
	b.receive(b.reply(Offer, "192.0.2.1", "192.0.2.7", 60, Option4{OptIPv6Only, []byte{0, 0, 7, 8}}))
	require.Equal(t, IPv6Only, b.c.State())
	b.quiet()
	require.Equal(t, 1800*time.Second, b.next())
	b.want(Discover)
	b.receive(b.reply(Offer, "192.0.2.1", "192.0.2.7", 60, Option4{OptIPv6Only, []byte{0, 0, 0, 0}}))
	require.Equal(t, 300*time.Second, b.next(), "MIN_V6ONLY_WAIT")
	b.want(Discover)
	b.receive(b.reply(Offer, "192.0.2.1", "192.0.2.7", 60, Option4{OptIPv6Only, []byte{0, 0, 0}}))
	b.want(Request) // "The client MUST ignore the IPv6-Only Preferred option if the length field value is not 4."

	// A host that needs IPv4 does not request the option and ignores it.
	b = newTestClient4(t, nil)
	b.c.Up(b.now)
	b.want(Discover)
	b.receive(b.reply(Offer, "192.0.2.1", "192.0.2.7", 60, Option4{OptIPv6Only, []byte{0, 0, 7, 8}}))
	b.want(Request)
}

// FuzzClient4 makes calls and passes messages to the client in any order.
func FuzzClient4(f *testing.F) {
	f.Add([]byte{0, 1, 16, 2, 17, 3, 4, 5, 5, 5})
	f.Add([]byte{0, 1, 16, 2, 17, 3, 5, 19, 6, 7, 0, 18, 5, 5, 5, 8})
	f.Fuzz(func(t *testing.T, ops []byte) {
		n := uint64(0)
		b := newTestClient4(t, func(cfg *ClientConfig4) {
			cfg.IPv6Only = len(ops)%2 == 0
			cfg.Rand = func() uint64 { n += 0x9e3779b97f4a7c15; return n }
		})
		for _, op := range ops[:min(len(ops), 500)] {
			b.now = b.now.Add(time.Duration(op) * 37 * time.Millisecond)
			server := []string{"192.0.2.1", "192.0.2.2", "", "127.0.0.1"}[op>>4&3]
			a := []string{"192.0.2.7", "198.51.100.7"}[op>>6&1]
			switch op & 15 {
			case 0:
				b.c.Up(b.now)
			case 1, 2:
				b.receive(b.reply(Offer, server, a, uint32(op)))
			case 3, 4:
				b.receive(b.reply(ACK, server, a, uint32(op>>5)*60))
			case 5:
				if at := b.c.Deadline(); at.After(b.now) {
					b.now = at
				}
			case 6:
				b.receive(b.reply(NAK, server, "", 0))
			case 7:
				b.c.Down()
			case 8:
				b.c.Release()
			case 9, 10, 11, 12:
				b.c.Probed(b.now, op&15 != 9)
			case 13:
				b.c.Conflict(b.now)
			case 14:
				b.receive(b.reply(Offer, server, a, 60, Option4{OptIPv6Only, []byte{0, 0, 0, op}}))
			}
			b.c.Tick(b.now)
			b.check()
		}
	})
}

// check verifies the invariants after each call.
func (b *testClient4) check() {
	t := b.t
	require.LessOrEqual(t, len(b.c.sends), 3)
	require.LessOrEqual(t, len(b.c.events), maxRefusals+4)
	for s := b.sent(); s != nil; s = b.sent() {
		mustParse(t, mustAppend(t, s.Message, MinMessageSize4))
		require.False(t, b.c.down)
	}
	for e, ok := b.c.NextEvent(); ok; e, ok = b.c.NextEvent() {
		require.Equal(t, e.Kind == Refused, e.Lease == nil)
	}
	at := b.c.Deadline()
	require.True(t, at.IsZero() || at.After(b.now), "%v: the deadline %v is over at %v", b.c.State(), at, b.now)
	switch b.c.State() {
	case Stopped, Probing:
		require.True(t, b.c.next.IsZero())
	case Bound, Renewing, Rebinding:
		require.NotNil(t, b.c.Lease())
	default:
		require.False(t, b.c.next.IsZero())
	}
}
