package mdns

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A link connects nodes in virtual time. It delivers each message at once, or loses it.
type link struct {
	t     *testing.T
	now   time.Time
	rng   *rand.Rand
	nodes []*Node
	addrs []netip.Addr
	loss  float64
	log   []sent
}

// sent is a message on the link.
type sent struct {
	at   time.Time
	from int
	to   netip.AddrPort
	m    *message
}

func newLink(t *testing.T) *link {
	return &link{t: t, now: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), rng: rand.New(rand.NewPCG(1, 2))}
}

// add adds node number i, counted from 1, with the addresses 192.0.2.i and 2001:db8::i.
func (l *link) add(host string) *Node {
	n := New(Config{Host: host, Rand: l.rng.Uint64})
	i := len(l.nodes) + 1
	l.nodes = append(l.nodes, n)
	a := netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})
	l.addrs = append(l.addrs, a)
	require.NoError(l.t, n.SetAddrs(l.now, []netip.Addr{a, netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", i))}))
	return n
}

// step delivers the messages that the nodes have queued, and returns the time of the next event.
func (l *link) step() (next time.Time) {
	for again := true; again; {
		again = false
		for i, n := range l.nodes {
			for m, ok := n.Next(); ok; m, ok = n.Next() {
				again = true
				l.deliver(i, m)
			}
		}
	}
	for _, n := range l.nodes {
		if d := n.Deadline(); !d.IsZero() && (next.IsZero() || d.Before(next)) {
			next = d
		}
	}
	return next
}

func (l *link) deliver(from int, m Message) {
	parsed, err := parse(m.Data)
	require.NoError(l.t, err)
	require.LessOrEqual(l.t, len(m.Data), 1452)
	l.log = append(l.log, sent{l.now, from, m.To, parsed})
	for j, n := range l.nodes {
		if j == from || m.To.IsValid() && m.To.Addr() != l.addrs[j] || l.rng.Float64() < l.loss {
			continue
		}
		n.Receive(l.now, m.Data, netip.AddrPortFrom(l.addrs[from], Port))
	}
}

// run lets time pass.
func (l *link) run(d time.Duration) {
	for end := l.now.Add(d); ; {
		next := l.step()
		if next.IsZero() || next.After(end) {
			l.now = end
			return
		}
		if next.After(l.now) {
			l.now = next
		}
		for _, n := range l.nodes {
			n.Tick(l.now)
		}
	}
}

// count returns the number of messages in the log for which f is true.
func (l *link) count(f func(s sent) bool) int {
	n := 0
	for _, s := range l.log {
		if f(s) {
			n++
		}
	}
	return n
}

// lookup asks for the records of a name and returns those that arrive within a second.
func (l *link) lookup(n *Node, name string, typ Type) []Record {
	q, err := n.Query(l.now, name, typ, true)
	require.NoError(l.t, err)
	defer q.End()
	n.Tick(l.now)
	l.run(time.Second)
	var all []Record
	for _, e := range q.Events() {
		if e.Added {
			all = append(all, e.Record)
		}
	}
	return all
}

var web = Service{Instance: "My Web. Server", Type: "_http._tcp", Port: 80, TXT: []string{"path=/"}, Subtypes: []string{"_printer"}}

// RFC 6762 sections 8.1 and 8.3.
func TestANameIsProbedAndAnnounced(t *testing.T) {
	l := newLink(t)
	a := l.add("host")
	start := l.now
	require.False(t, a.Established())
	l.run(10 * time.Second)
	require.True(t, a.Established())
	require.Equal(t, "host.local.", a.HostName())
	require.Len(t, l.log, 5)
	for i, s := range l.log[:3] {
		require.Len(t, s.m.questions, 1)
		require.True(t, s.m.questions[0].unicast)
		require.Equal(t, uint16(typeANY), s.m.questions[0].typ)
		require.Len(t, s.m.authorities, 2)
		require.False(t, s.m.authorities[0].flush)
		if i > 0 {
			require.Equal(t, probeInterval, s.at.Sub(l.log[i-1].at))
		}
	}
	require.Less(t, l.log[0].at.Sub(start), probeInterval)
	require.Equal(t, probeInterval, l.log[3].at.Sub(l.log[2].at))
	require.Equal(t, time.Second, l.log[4].at.Sub(l.log[3].at))
	for _, s := range l.log[3:] {
		require.NotZero(t, s.m.flags&flagAuthoritative)
		require.Len(t, s.m.answers, 4, "two addresses and their names")
		for _, r := range s.m.answers {
			require.True(t, r.flush)
			require.Equal(t, uint32(120), r.ttl)
		}
	}
}

func TestAHostResolvesTheNamesOfAnother(t *testing.T) {
	l := newLink(t)
	a, b := l.add("alice"), l.add("Bob")
	l.run(5 * time.Second)
	b.cache.entries = map[key][]*cached{} // as if Bob had joined the link later
	b.cache.total = 0
	got := l.lookup(b, "ALICE.local", A)
	require.Equal(t, []Record{{Name: "alice.local.", Type: A, Addr: l.addrs[0]}}, got)
	require.Equal(t, "2001:db8::1", l.lookup(b, "alice.local", AAAA)[0].Addr.String())
	require.Equal(t, "alice.local.", l.lookup(b, "1.2.0.192.in-addr.arpa", PTR)[0].Target)
	require.Empty(t, l.lookup(b, "carol.local", A))
	// RFC 6762 6.1: the host that owns a unique name says that the name has no record of a type.
	n := len(l.log)
	q, err := b.Query(l.now, "alice.local", TXT, true)
	require.NoError(t, err)
	b.Tick(l.now)
	l.run(time.Second)
	require.True(t, q.Denied())
	require.False(t, q.Pending())
	nsec := l.log[n+1].m.answers[0]
	require.Equal(t, uint16(typeNSEC), nsec.typ)
	require.Equal(t, "\x05alice\x05local\x00\x00\x04\x40\x00\x00\x08", nsec.data, "the bits of A and AAAA are set")
	// A cached answer needs no query.
	n = len(l.log)
	require.Len(t, l.lookup(b, "alice.local", A), 1)
	require.Len(t, l.log, n)
	_ = a
}

// RFC 6762 section 9, and 8.1: two hosts with one name.
func TestTwoHostsWithOneName(t *testing.T) {
	l := newLink(t)
	a := l.add("host")
	l.run(5 * time.Second)
	b := l.add("host")
	l.run(5 * time.Second)
	require.Equal(t, "host.local.", a.HostName())
	require.Equal(t, "host-2.local.", b.HostName())
	require.True(t, b.Established())
	c := l.add("HOST")
	l.run(5 * time.Second)
	require.Equal(t, "HOST-3.local.", c.HostName())
	require.Equal(t, l.addrs[1], l.lookup(a, "host-2.local", A)[0].Addr)
}

// RFC 6762 section 8.2: of two hosts that probe at the same time, the one with the lexicographically later
// data wins.
func TestSimultaneousProbesAreDecided(t *testing.T) {
	for range 20 {
		l := newLink(t)
		seed := rand.Uint64()
		l.rng = rand.New(rand.NewPCG(seed, 1))
		a, b, c := l.add("host"), l.add("host"), l.add("host")
		l.run(20 * time.Second)
		names := []string{a.HostName(), b.HostName(), c.HostName()}
		slices.Sort(names)
		require.Equal(t, []string{"host-2.local.", "host-3.local.", "host.local."}, names, "seed %d", seed)
	}
}

// Two links are joined to one. A host on the first link and a host on the second have the same name.
func TestAConflictAfterTheAnnouncement(t *testing.T) {
	l := newLink(t)
	l.loss = 1
	a, b := l.add("host"), l.add("host")
	l.run(time.Minute)
	require.True(t, a.Established() && b.Established())
	l.loss = 0
	other := l.add("other")
	l.lookup(other, "host.local", A)
	l.run(10 * time.Second)
	require.NotEqual(t, a.HostName(), b.HostName())
	require.True(t, a.Established() && b.Established())
}

// The lease of the IPv4 address ends, and the host gets another address. The host withdraws only the records
// of the old address.
func TestAnAddressThatGoesIsWithdrawn(t *testing.T) {
	l := newLink(t)
	a, b := l.add("alice"), l.add("bob")
	l.run(5 * time.Second)
	require.Len(t, l.lookup(b, "alice.local", A), 1)
	n := len(l.log)
	require.NoError(t, a.SetAddrs(l.now, []netip.Addr{netip.MustParseAddr("192.0.2.99"), netip.MustParseAddr("2001:db8::1")}))
	l.run(3 * time.Second)
	require.Equal(t, 4, len(l.log)-n, "two goodbyes and two announcements")
	require.Len(t, l.log[n].m.answers, 2, "the address and its reverse name")
	require.Zero(t, l.log[n].m.answers[0].ttl)
	require.Equal(t, "192.0.2.99", l.lookup(b, "alice.local", A)[0].Addr.String())
	// The link goes down and comes up: the name is verified again.
	n = len(l.log)
	require.NoError(t, a.SetAddrs(l.now, nil))
	require.False(t, a.Established())
	l.run(time.Second)
	require.Len(t, l.log, n)
	require.NoError(t, a.SetAddrs(l.now, l.addrs[:1]))
	l.run(3 * time.Second)
	require.Equal(t, uint16(typeANY), l.log[n].m.questions[0].typ)
	require.True(t, a.Established())
}

func TestRenamingEndsWithin63Bytes(t *testing.T) {
	l := newLink(t)
	long := strings.Repeat("ä", 31) + "x"
	var nodes []*Node
	for range 3 {
		nodes = append(nodes, l.add(long))
		l.run(5 * time.Second)
	}
	require.Equal(t, strings.Repeat("ä", 30)+"-3.local.", nodes[2].HostName())
}

// RFC 6763 sections 4 and 12.
func TestBrowseFindsServicesAndTheirEnd(t *testing.T) {
	for _, loss := range []float64{0, 0.2} {
		l := newLink(t)
		l.loss = loss
		a, b := l.add("alice"), l.add("bob")
		q, err := b.Query(l.now, "_http._tcp.local", PTR, false)
		require.NoError(t, err)
		l.run(time.Minute)
		p, err := a.Publish(l.now, web)
		require.NoError(t, err)
		_, err = a.Publish(l.now, web)
		require.ErrorIs(t, err, ErrExists)
		l.run(time.Minute)
		require.True(t, p.Established())
		const instance = `My Web\. Server._http._tcp.local.`
		require.Equal(t, []Event{{true, Record{Name: "_http._tcp.local.", Type: PTR, Target: instance}}}, q.Events())
		require.Equal(t, []Record{{Name: instance, Type: SRV, Target: "alice.local.", Port: 80}}, l.lookup(b, instance, SRV))
		require.Equal(t, []string{"path=/"}, l.lookup(b, instance, TXT)[0].TXT)
		if loss == 0 {
			require.Equal(t, instance, l.lookup(b, "_printer._sub._http._tcp.local", PTR)[0].Target)
			require.Equal(t, "_http._tcp.local.", l.lookup(b, "_services._dns-sd._udp.local", PTR)[0].Target)
			a.Unpublish(l.now, p)
			l.run(2 * time.Second)
			require.Equal(t, []Event{{false, Record{Name: "_http._tcp.local.", Type: PTR, Target: instance}}}, q.Events())
			continue
		}
		// The host vanishes without a goodbye.
		l.loss = 1
		l.run(3 * time.Hour)
		require.Equal(t, []Event{{false, Record{Name: "_http._tcp.local.", Type: PTR, Target: instance}}}, q.Events())
	}
}

// RFC 6762 section 5.2: the intervals between queries "MUST increase by at least a factor of two".
func TestQueriesBackOff(t *testing.T) {
	l := newLink(t)
	b := l.add("")
	q, err := b.Query(l.now, "_http._tcp.local", PTR, false)
	require.NoError(t, err)
	l.run(24 * time.Hour)
	var last time.Duration
	for i, s := range l.log[1:] {
		gap := s.at.Sub(l.log[i].at)
		require.GreaterOrEqual(t, gap, time.Second)
		require.GreaterOrEqual(t, gap, min(2*last, maxInterval))
		last = gap
	}
	require.Less(t, len(l.log), 40)
	q.End()
	n := len(l.log)
	l.run(24 * time.Hour)
	require.Len(t, l.log, n)
	require.True(t, b.Deadline().IsZero())
}

// RFC 6762 section 5.2: the querier asks for a record again at 80% of the record's lifetime.
func TestARecordInUseIsRenewed(t *testing.T) {
	l := newLink(t)
	a, b := l.add("alice"), l.add("bob")
	q, err := b.Query(l.now, "alice.local", A, false)
	require.NoError(t, err)
	l.run(time.Hour)
	require.Len(t, q.Events(), 1, "the record never expired")
	require.Less(t, l.count(func(s sent) bool { return s.from == 0 && s.at.After(l.now.Add(-30*time.Minute)) }), 25)
	_ = a
}

// RFC 6762 sections 7.1 and 7.2: the responder does not send the answers that the querier lists as known, even
// if the list fills several messages.
func TestAThousandServices(t *testing.T) {
	l := newLink(t)
	a, b := l.add("alice"), l.add("bob")
	for i := range 1000 {
		_, err := a.Publish(l.now, Service{Instance: fmt.Sprintf("service %d", i), Type: "_http._tcp", Port: 80})
		require.NoError(t, err)
	}
	l.run(10 * time.Second)
	q, err := b.Query(l.now, "_http._tcp.local", PTR, false)
	require.NoError(t, err)
	l.run(5 * time.Second)
	require.Len(t, q.Events(), 1000)
	truncated := l.count(func(s sent) bool { return s.from == 1 && s.m.flags&flagTruncated != 0 })
	require.NotZero(t, truncated)
	require.Zero(t, l.count(func(s sent) bool {
		return s.from == 0 && s.at.After(l.now.Add(-4*time.Second)) && s.m.flags&flagResponse != 0
	}), "all answers are known")
	a.Close(l.now)
	l.run(2 * time.Second)
	events := q.Events()
	require.Len(t, events, 1000)
	require.False(t, events[0].Added)
	require.Zero(t, len(b.cache.entries[key{"\x05_http\x04_tcp\x05local\x00", typePTR}]))
}

// RFC 6762 section 6: "a record [must not be] multicast [...] until at least one second has elapsed".
func TestARecordIsMulticastOnceASecond(t *testing.T) {
	l := newLink(t)
	a := l.add("alice")
	l.run(5 * time.Second)
	from := netip.MustParseAddrPort("192.0.2.9:5353")
	w := newBuilder(0, 0)
	nm, _ := makeName(local, "alice")
	w.question(question{name: nm, typ: typeA})
	n := len(l.log)
	start := l.now
	for range 20 {
		a.Receive(l.now, w.b, from)
		l.run(99 * time.Millisecond)
	}
	require.Equal(t, 2, len(l.log)-n)
	require.Equal(t, time.Second, l.log[n+1].at.Sub(start), "the querier that asks again has lost the answer")
	l.run(time.Minute)
	require.Equal(t, 3, len(l.log)-n)
}

// RFC 6762 section 6.7: queries from a port other than 5353 come from simple resolvers, for example dig.
func TestALegacyQuerierGetsAUnicastAnswer(t *testing.T) {
	l := newLink(t)
	a := l.add("alice")
	l.run(5 * time.Second)
	w := newBuilder(0x1234, 0)
	nm, _ := makeName(local, "alice")
	w.question(question{name: nm, typ: typeA})
	from := netip.MustParseAddrPort("192.0.2.9:40000")
	a.Receive(l.now, w.b, from)
	m, ok := a.Next()
	require.True(t, ok)
	require.Equal(t, from, m.To)
	p, err := parse(m.Data)
	require.NoError(t, err)
	require.Equal(t, uint16(0x1234), p.id)
	require.Len(t, p.questions, 1)
	require.Equal(t, uint32(10), p.answers[0].ttl)
	require.False(t, p.answers[0].flush)
	// A response from such a port is ignored (section 6).
	w = newBuilder(0, flagResponse)
	w.record(1, &record{name: nm, typ: typeA, ttl: 120, data: "\x01\x02\x03\x04"})
	a.Receive(l.now, w.b, from)
	require.Empty(t, a.cache.entries)
	a.Receive(l.now, w.b, netip.MustParseAddrPort("192.0.2.9:5353"))
	require.Len(t, a.cache.entries, 1)
}

// RFC 6762 section 10.2: a record with the cache-flush bit replaces older ones after one second.
func TestTheCacheFlushBitReplacesOldRecords(t *testing.T) {
	l := newLink(t)
	b := l.add("")
	nm, _ := makeName(local, "x")
	q, err := b.Query(l.now, "x.local", A, false)
	require.NoError(t, err)
	say := func(data string, ttl uint32, flush bool) {
		w := newBuilder(0, flagResponse)
		w.record(1, &record{name: nm, typ: typeA, ttl: ttl, flush: flush, data: data})
		b.Receive(l.now, w.b, netip.MustParseAddrPort("192.0.2.9:5353"))
	}
	say("\x01\x01\x01\x01", 120, true)
	say("\x02\x02\x02\x02", 120, true) // both belong to one set
	require.Len(t, q.Events(), 2)
	l.run(2 * time.Second)
	require.Empty(t, q.Events())
	say("\x03\x03\x03\x03", 120, true)
	require.Len(t, q.Events(), 1)
	l.run(1100 * time.Millisecond)
	require.Len(t, q.Events(), 2, "the old ones are removed")
	say("\x03\x03\x03\x03", 0, true) // 10.1: a goodbye
	l.run(500 * time.Millisecond)
	say("\x03\x03\x03\x03", 120, true) // another host still has it
	l.run(2 * time.Second)
	require.Empty(t, q.Events())
}

// A flood of hostile answers takes only bounded memory. Answers for other names do not displace the answers
// for the name of a query.
func TestAFloodOfAnswersIsBounded(t *testing.T) {
	l := newLink(t)
	b := l.add("bob")
	q, err := b.Query(l.now, "x.local", A, false)
	require.NoError(t, err)
	from := netip.MustParseAddrPort("192.0.2.9:5353")
	x, _ := makeName(local, "x")
	for i := range 30000 {
		nm, _ := makeName(local, fmt.Sprint("name", i))
		if i%2 == 0 {
			nm = x
		}
		w := newBuilder(0, flagResponse)
		w.record(1, &record{name: nm, typ: typeA, ttl: 1 << 30, data: string([]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})})
		b.Receive(l.now, w.b, from)
		for range 3 {
			b.Next()
		}
	}
	total := 0
	for _, set := range b.cache.entries {
		total += len(set)
	}
	require.Equal(t, b.cache.total, total)
	require.LessOrEqual(t, total, maxCached)
	require.Len(t, b.cache.entries[key{x, typeA}], maxCachedSet)
	require.LessOrEqual(t, len(q.Events()), maxEvents)
}

func TestBadServicesAreRefused(t *testing.T) {
	n := newLink(t).add("host")
	for _, s := range []Service{
		{}, {Instance: "x", Type: "http._tcp", Port: 80}, {Instance: "x", Type: "_http", Port: 80}, {Instance: "x", Type: "_http._sctp", Port: 80},
		{Instance: "", Type: "_http._tcp", Port: 80}, {Instance: strings.Repeat("x", 64), Type: "_http._tcp", Port: 80},
		{Instance: "x", Type: "_http._tcp"}, {Instance: "x", Type: "_http._tcp", Port: 1, TXT: []string{strings.Repeat("x", 256)}},
		{Instance: "x", Type: "_http._tcp", Port: 1, TXT: slices.Repeat([]string{strings.Repeat("x", 255)}, 6)},
		{Instance: "x", Type: "_http._tcp", Port: 1, Subtypes: []string{""}},
	} {
		_, err := n.Publish(time.Time{}, s)
		require.ErrorIs(t, err, ErrBadService, "%+v", s)
	}
}

func TestNamesWithControlCharacters(t *testing.T) {
	for s, want := range map[string]string{
		"a.local": "a.local.", `a\.b.local.`: `a\.b.local.`, `a\\.local`: `a\\.local.`, `\000\127\031.local`: `\000\127\031.local.`,
		`\195\164.local`: "ä.local.", `\255.local`: `\255.local.`, "a b.local": "a b.local.", `\194\133.x`: `\194\133.x.`,
	} {
		n, err := parseName(s)
		require.NoError(t, err, s)
		require.Equal(t, want, n.String())
	}
	for _, s := range []string{"", ".", "a..b", ".a", `\`, `\256`, strings.Repeat("a", 64), strings.Repeat("a.", 128)} {
		_, err := parseName(s)
		require.Error(t, err, s)
	}
}

func FuzzName(f *testing.F) {
	for _, s := range []string{"a.local", `a\.b.local.`, `\000\127.local`, `\255`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := parseName(s)
		if err != nil {
			return
		}
		again, err := parseName(n.String())
		require.NoError(t, err)
		require.Equal(t, n, again)
	})
}

// FuzzReceive passes messages to a node that publishes a service and asks for names.
func FuzzReceive(f *testing.F) {
	l := newLink(&testing.T{})
	a, b := l.add("alice"), l.add("alice")
	a.Publish(l.now, web)
	b.Query(l.now, "_http._tcp.local", PTR, false)
	for range 20 {
		for _, n := range l.nodes {
			n.Tick(l.now)
			for m, ok := n.Next(); ok; m, ok = n.Next() {
				f.Add(m.Data, uint16(Port))
				for _, o := range l.nodes {
					o.Receive(l.now, m.Data, netip.MustParseAddrPort("192.0.2.7:5353"))
				}
			}
		}
		l.now = l.now.Add(100 * time.Millisecond)
	}
	f.Fuzz(func(t *testing.T, data []byte, port uint16) {
		l := newLink(t)
		a := l.add("alice")
		_, err := a.Publish(l.now, web)
		require.NoError(t, err)
		for _, typ := range []Type{PTR, SRV, TXT, A} {
			_, err = a.Query(l.now, "_http._tcp.local", typ, false)
			require.NoError(t, err)
		}
		for range 3 {
			a.Receive(l.now, data, netip.AddrPortFrom(netip.MustParseAddr("192.0.2.9"), port))
			l.run(time.Second)
		}
	})
}

// A legacy querier asks for more than fits into a message. RFC 6762 section 18.5: "In legacy unicast response messages, the
// TC bit has the same meaning as in conventional Unicast DNS".
func TestACutLegacyAnswerIsTruncated(t *testing.T) {
	for _, n := range []int{2, 60} {
		l := newLink(t)
		a := l.add("alice")
		for i := range n {
			s := web
			s.Instance = fmt.Sprintf("A web server with a long name, %d", i)
			_, err := a.Publish(l.now, s)
			require.NoError(t, err)
		}
		l.run(10 * time.Second)
		q := query(typePTR, "_http", "_tcp")
		a.Receive(l.now, q, netip.MustParseAddrPort("192.0.2.9:40000"))
		m, ok := a.Next()
		require.True(t, ok)
		p, err := parse(m.Data)
		require.NoError(t, err)
		require.LessOrEqual(t, len(m.Data), maxMessage)
		require.Equal(t, n == 60, p.flags&flagTruncated != 0)
		require.Equal(t, n == 60, len(p.answers) < n)
	}
}
