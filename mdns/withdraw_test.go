package mdns

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// fromOther is the address of a host that is not a Node.
var fromOther = netip.MustParseAddrPort("192.0.2.9:5353")

// query returns a query for a name, whose labels are below local.
func query(typ uint16, labels ...string) []byte {
	nm, _ := makeName(local, labels...)
	w := newBuilder(0, 0)
	w.question(question{name: nm, typ: typ})
	return w.b
}

// said returns the records of a type that a node has multicast since message i of the log, with their times.
func (l *link) said(from, i int, typ uint16) (records []record, at []time.Time) {
	for _, s := range l.log[i:] {
		for _, r := range append(s.m.answers[:len(s.m.answers):len(s.m.answers)], s.m.additionals...) {
			if s.from == from && s.m.flags&flagResponse != 0 && r.typ == typ && !s.to.IsValid() {
				records, at = append(records, r), append(at, s.at)
			}
		}
	}
	return records, at
}

// A record is withdrawn while an answer with the record waits for its random delay. RFC 6762 section 8.4: a
// withdrawn record must not be announced, or other hosts would keep it until its TTL ends.
func TestADelayedAnswerIsNotSentAfterAGoodbye(t *testing.T) {
	for name, c := range map[string]struct {
		query  []byte
		typ    uint16
		change func(l *link, a *Node, p *Published)
	}{
		"a service ends": {query(typePTR, "_http", "_tcp"), typePTR, func(l *link, a *Node, p *Published) { a.Unpublish(l.now, p) }},
		"an address goes": {query(typeA, "alice"), typeA, func(l *link, a *Node, p *Published) {
			require.NoError(l.t, a.SetAddrs(l.now, []netip.Addr{netip.MustParseAddr("192.0.2.77")}))
		}},
		"the host is renamed": {query(typeSRV, "My Web. Server", "_http", "_tcp"), typeSRV, func(l *link, a *Node, p *Published) {
			a.rename(l.now, a.host)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLink(t)
			a := l.add("alice")
			p, err := a.Publish(l.now, web)
			require.NoError(t, err)
			l.run(10 * time.Second)
			old, _ := l.said(0, 0, c.typ)
			msg := append([]byte(nil), c.query...)
			msg[2] |= flagTruncated >> 8 // the answer waits for 400 to 500 ms
			a.Receive(l.now, msg, fromOther)
			l.run(10 * time.Millisecond)
			i := len(l.log)
			c.change(l, a, p)
			l.run(900 * time.Millisecond)
			for _, r := range old {
				now, _ := l.said(0, i, c.typ)
				for _, x := range now {
					require.False(t, x.ttl > 0 && x.same(&r), "%q has been withdrawn", r.data)
				}
			}
		})
	}
}

// A goodbye is lost. The second one removes the record from the caches of other hosts.
func TestALostGoodbyeIsRepeated(t *testing.T) {
	l := newLink(t)
	a, b := l.add("alice"), l.add("bob")
	q, err := b.Query(l.now, "_http._tcp.local", PTR, false)
	require.NoError(t, err)
	p, err := a.Publish(l.now, web)
	require.NoError(t, err)
	l.run(10 * time.Second)
	require.Len(t, q.Events(), 1)
	n := len(l.log)
	l.loss = 1
	a.Unpublish(l.now, p)
	require.NoError(t, a.SetAddrs(l.now, l.addrs[:1])) // remove its IPv6 address
	l.run(500 * time.Millisecond)
	l.loss = 0
	l.run(2 * time.Second)
	events := q.Events()
	require.Len(t, events, 1)
	require.False(t, events[0].Added)
	require.Empty(t, b.cache.entries[key{"\x05alice\x05local\x00", typeAAAA}])
	gone, at := l.said(0, n, typeTXT)
	require.Len(t, gone, 2, "at once and after a second")
	require.Equal(t, goodbyeInterval, at[1].Sub(at[0]))
	require.Zero(t, gone[1].ttl)
}

// A record that is published again within a second of its goodbye gets no second goodbye.
func TestAGoodbyeIsNotRepeatedAfterANewAnnouncement(t *testing.T) {
	l := newLink(t)
	a := l.add("alice")
	l.run(10 * time.Second)
	n := len(l.log)
	require.NoError(t, a.SetAddrs(l.now, l.addrs[:1]))
	l.run(500 * time.Millisecond)
	require.NoError(t, a.SetAddrs(l.now, []netip.Addr{l.addrs[0], netip.MustParseAddr("2001:db8::1")}))
	l.run(10 * time.Second)
	records, _ := l.said(0, n, typeAAAA)
	var ttls []uint32
	for _, r := range records {
		ttls = append(ttls, r.ttl)
	}
	require.Equal(t, []uint32{0, hostTTL, hostTTL}, ttls, "a goodbye and two announcements")
}

// A service ends while its names are verified again after a conflict. Other hosts have its records.
func TestAServiceEndsWhileItsNameIsVerifiedAgain(t *testing.T) {
	l := newLink(t)
	a, b := l.add("alice"), l.add("bob")
	q, err := b.Query(l.now, "_http._tcp.local", PTR, false)
	require.NoError(t, err)
	p, err := a.Publish(l.now, web)
	require.NoError(t, err)
	l.run(10 * time.Second)
	require.Len(t, q.Events(), 1)
	nm, _ := makeName(local, "My Web. Server", "_http", "_tcp")
	w := newBuilder(0, flagResponse)
	w.record(1, &record{name: nm, typ: typeTXT, ttl: 120, data: "\x01x"})
	a.Receive(l.now, w.b, fromOther)
	require.Equal(t, probing, p.g.state)
	a.Unpublish(l.now, p)
	l.run(2 * time.Second)
	require.Len(t, q.Events(), 1)
}

// Two services are of one type, and the second one is not announced yet when the first one ends. Then the second
// one ends.
func TestTheTypeOfTheLastServiceIsWithdrawn(t *testing.T) {
	l := newLink(t)
	a, b := l.add("alice"), l.add("bob")
	q, err := b.Query(l.now, "_services._dns-sd._udp.local", PTR, false)
	require.NoError(t, err)
	first, err := a.Publish(l.now, web)
	require.NoError(t, err)
	l.run(10 * time.Second)
	require.Len(t, q.Events(), 1)
	other := web
	other.Instance = "Other"
	second, err := a.Publish(l.now, other)
	require.NoError(t, err)
	l.run(100 * time.Millisecond)
	a.Unpublish(l.now, first)
	a.Unpublish(l.now, second)
	l.run(2 * time.Second)
	events := q.Events()
	require.Len(t, events, 1)
	require.False(t, events[0].Added)
}

// Two hosts have a service of the same type. The first host withdraws the type. The second host announces the
// type again, within the second for which caches still keep it (RFC 6762 sections 6.6 and 10.1).
func TestASharedRecordIsRescued(t *testing.T) {
	l := newLink(t)
	a, b, c := l.add("alice"), l.add("bob"), l.add("carol")
	q, err := c.Query(l.now, "_services._dns-sd._udp.local", PTR, false)
	require.NoError(t, err)
	p, err := a.Publish(l.now, web)
	require.NoError(t, err)
	other := web
	other.Instance = "Other"
	_, err = b.Publish(l.now, other)
	require.NoError(t, err)
	l.run(10 * time.Second)
	require.Len(t, q.Events(), 1)
	a.Unpublish(l.now, p)
	l.run(time.Minute)
	require.Empty(t, q.Events())
	// A flood of goodbyes makes the host answer once a second.
	services, _ := makeName(local, "_services", "_dns-sd", "_udp")
	w := newBuilder(0, flagResponse)
	w.record(1, &record{name: services, typ: typePTR, data: "\x05_http\x04_tcp\x05local\x00"})
	n := len(l.log)
	for range 500 {
		b.Receive(l.now, w.b, fromOther)
		l.run(10 * time.Millisecond)
	}
	records, _ := l.said(1, n, typePTR)
	require.LessOrEqual(t, len(records), 6)
	require.GreaterOrEqual(t, len(records), 5)
}

// RFC 6762 section 6: a record is not multicast until one second has elapsed since the last time. This applies
// to an NSEC record too. It is made when it is sent, from the records that exist then.
func TestADenialIsMulticastOnceASecond(t *testing.T) {
	l := newLink(t)
	a := l.add("alice")
	l.run(10 * time.Second)
	n := len(l.log)
	for range 30 {
		a.Receive(l.now, query(typeTXT, "alice"), fromOther)
		l.run(99 * time.Millisecond)
	}
	denials, at := l.said(0, n, typeNSEC)
	require.Len(t, denials, 3)
	require.GreaterOrEqual(t, at[1].Sub(at[0]), time.Second)

	l.run(time.Minute)
	n = len(l.log)
	msg := query(typeTXT, "alice")
	msg[2] |= flagTruncated >> 8 // the answer waits
	a.Receive(l.now, msg, fromOther)
	require.NoError(t, a.SetAddrs(l.now, l.addrs[:1])) // remove its IPv6 address
	l.run(time.Second)
	denials, _ = l.said(0, n, typeNSEC)
	require.Len(t, denials, 1)
	require.Equal(t, "\x05alice\x05local\x00\x00\x01\x40", denials[0].data, "only the bit of A is set")

	n = len(l.log)
	l.run(time.Minute)
	a.Receive(l.now, msg, fromOther)
	require.NoError(t, a.SetAddrs(l.now, nil))
	l.run(time.Second)
	denials, _ = l.said(0, n, typeNSEC)
	require.Empty(t, denials, "the host has no name")
}

// services returns the records of a node that say that there are services of a type.
func services(a *Node) []*own {
	nm, _ := makeName(local, "_services", "_dns-sd", "_udp")
	return a.index[nm.fold()]
}

// Two services share a record. For both of them the record is to be multicast again at the same moment, which
// is too soon after its last multicast.
func TestARecordOfTwoServicesIsRepeatedOnce(t *testing.T) {
	for _, first := range []int{0, 1} {
		l := newLink(t)
		a := l.add("alice")
		other := web
		other.Instance = "Other"
		for _, s := range []Service{web, other} {
			_, err := a.Publish(l.now, s)
			require.NoError(t, err)
		}
		l.run(10 * time.Second)
		both := services(a)
		require.Len(t, both, 2)
		n := len(l.log)
		for _, o := range []*own{both[first], both[1-first]} {
			o.sent, o.repeats = l.now.Add(-250*time.Millisecond), true
			a.again = append(a.again, repeat{o, l.now.Add(-100 * time.Millisecond), l.now, recordInterval})
		}
		l.run(5 * time.Second)
		records, at := l.said(0, n, typePTR)
		require.Len(t, records, 1)
		require.Len(t, at, 1)
		require.Empty(t, a.again)
	}
}

// The Node plans to multicast a record again. Before that, another host multicasts the record and then
// withdraws it. The repetition must follow the withdrawal.
func TestARescueFollowsThePlannedRepetition(t *testing.T) {
	l := newLink(t)
	a := l.add("alice")
	_, err := a.Publish(l.now, web)
	require.NoError(t, err)
	l.run(10 * time.Second)
	o := services(a)[0]
	n := len(l.log)
	start := l.now
	o.sent = start
	a.sendAgain(o, start.Add(100*time.Millisecond), recordInterval) // a query
	l.run(500 * time.Millisecond)
	a.suppress(l.now, &o.record)
	l.run(100 * time.Millisecond)
	gone := o.record
	gone.ttl = 0
	a.rescue(l.now, &gone)
	l.run(2 * time.Second)
	records, at := l.said(0, n, typePTR)
	require.NotEmpty(t, records)
	require.False(t, at[len(at)-1].Before(start.Add(600*time.Millisecond)))
}

func TestTheDenialsOfAQueryAreLimited(t *testing.T) {
	l := newLink(t)
	a := l.add("alice")
	l.run(10 * time.Second)
	nm, _ := makeName(local, "alice")
	w := newBuilder(0, flagTruncated)
	for i := range 1000 {
		w.question(question{name: nm, typ: uint16(1000 + i/2)})
	}
	a.Receive(l.now, w.b, fromOther)
	require.Len(t, a.delayed, 1)
	require.Len(t, a.delayed[0].denied, maxDenied)
}
