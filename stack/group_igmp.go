package stack

import (
	"bytes"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

const (
	igmpRobustness = 2                           // RFC 3376 8.1, until a querier says otherwise
	igmpInterval   = tcp.Time(125 * time.Second) // RFC 3376 8.2, likewise
	igmpV3Repeat   = tcp.Time(time.Second)       // RFC 3376 8.11: Unsolicited Report Interval
	igmpV2Repeat   = tcp.Time(10 * time.Second)  // RFC 2236 8.10: the same of version 2
	igmpTenth      = tcp.Time(time.Second / 10)  // unit of the time that queries give
	igmpMaxSources = 64                          // remembered of a query; more ask for the whole group
	igmpTOS        = 0xc0                        // RFC 3376 4: "IP Precedence of Internetwork Control"
	igmpHeader     = wire.IPv4Len + 4            // with the router alert
)

// An igmp tells the routers which groups the host listens to: the host's side of IGMP
// version 3, RFC 3376 (now RFC 9776), in which every membership is of any source, with what it
// prescribes for links whose querier speaks version 2 (RFC 2236) or 1 (RFC 1112).
// All links share one timer, which runs while something is due. A change costs what its own group
// costs, however many others there are.
type igmp struct {
	s      *Stack
	mu     sync.Mutex
	due    igmpHeap    // what is to be said at some time
	timer  *time.Timer // nil until first needed
	at     tcp.Time    // when the timer fires; 0: it does not run
	closed bool
}

// An igmpLink is what an interface has to say, and to whom.
type igmpLink struct {
	groups     map[netip.Addr]*igmpGroup // those joined, and those left of which something is to be said
	robustness int                       // 0: the default
	interval   tcp.Time                  // between queries; 0: the default
	general    igmpDue                   // version 3: when all groups are reported
	v1, v2     tcp.Time                  // until when there is a querier of that version
	version    int                       // that was spoken last; 0: none yet
	gone       bool                      // nothing is said any more
}

// An igmpGroup is a group on a link.
type igmpGroup struct {
	addr   netip.Addr
	member bool
	due    igmpDue // the earlier of changeAt and answerAt
	// Version 3: how often the change, which is that to the present state, is still to be
	// told, and when next.
	changes  int
	changeAt tcp.Time
	// When a query for the group is answered; 0: there is none. The sources are those
	// that it asked for; none means the group as such.
	answerAt tcp.Time
	sources  []byte
	// Version 2: we were the last to report the group, so that it is ours to say when
	// it is left.
	last bool
}

// next is when there is something to be said of the group; 0: never.
func (m *igmpGroup) next() tcp.Time {
	if m.changes > 0 && (m.answerAt == 0 || m.changeAt < m.answerAt) {
		return m.changeAt
	}
	return m.answerAt
}

// change changes by n how often groups are joined, and tells the routers where that
// makes a difference. The caller drains afterwards.
func (g *igmp) change(n int, ms ...membership) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.s.now()
	for _, m := range ms {
		g.changeOne(m.ifc, m.group, n, now)
	}
	g.run(now)
	g.arm(now)
}

func (g *igmp) changeOne(ifc *iface, group netip.Addr, n int, now tcp.Time) {
	before, after := ifc.group.add(group, n)
	if (before > 0) == (after > 0) {
		return
	}
	// RFC 3376 5: "the all-systems multicast address, 224.0.0.1, is handled as a
	// special case. ... reception of packets destined to the all-systems
	// multicast address, from all sources, is permanently enabled"; it is never reported.
	if group == allHosts() || ifc.loopback || ifc.dead.Load() || ifc.igmp.gone || g.closed {
		return
	}
	l := &ifc.igmp
	version := g.speak(ifc, now)
	m := l.groups[group]
	if m == nil {
		if l.groups == nil {
			l.groups = make(map[netip.Addr]*igmpGroup)
		}
		m = &igmpGroup{addr: group}
		m.due.ifc, m.due.group = ifc, m
		l.groups[group] = m
	}
	m.member = after > 0
	g.tell(ifc, m, version, now)
}

// comeUp tells the routers of a link that has come up, where there may be others than before,
// which groups the host listens to, as Linux does. The caller drains afterwards.
func (g *igmp) comeUp(ifc *iface) {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := &ifc.igmp
	if g.closed || l.gone {
		return
	}
	now := g.s.now()
	version := g.speak(ifc, now)
	for _, m := range l.sorted() {
		if m.member {
			g.tell(ifc, m, version, now)
		}
	}
	g.run(now)
	g.arm(now)
}

// tell begins to tell the routers of a link that a group has been joined or left. g.mu is held.
func (g *igmp) tell(ifc *iface, m *igmpGroup, version int, now tcp.Time) {
	l := &ifc.igmp
	m.answerAt, m.sources = 0, nil
	switch {
	case version == 3:
		// RFC 3376 5.1: "To cover the possibility of the State-Change Report being
		// missed by one or more multicast routers, it is retransmitted
		// [Robustness Variable] - 1 more times, at intervals chosen at random
		// from the range (0, [Unsolicited Report Interval])."
		m.changes, m.changeAt = l.count(), now
	case m.member:
		// RFC 2236 3: "When a host joins a multicast group, it should immediately
		// transmit an unsolicited Version 2 Membership Report for that group";
		// "it is recommended that it be repeated once or twice after short
		// delays".
		g.report(ifc, version, m.addr)
		m.last = true
		m.answerAt = now + g.delay(igmpV2Repeat)
	default:
		g.leave(ifc, version, m.addr, m)
		g.forget(l, m)
		return
	}
	g.due.set(&m.due, m.next())
}

// forget forgets a group of a link.
func (g *igmp) forget(l *igmpLink, m *igmpGroup) {
	g.due.set(&m.due, 0)
	delete(l.groups, m.addr)
}

// count is the robustness variable: how often a change is told.
func (l *igmpLink) count() int {
	if l.robustness == 0 {
		return igmpRobustness
	}
	return l.robustness
}

// speak returns the version that the link's queriers understand, and forgets what was
// to be said where it has changed.
//
// RFC 3376 7.2.1: "In order to switch gracefully between versions of IGMP, hosts keep
// both an IGMPv1 Querier Present timer and an IGMPv2 Querier Present timer per
// interface"; "Whenever a host changes its compatibility mode, it cancels all its
// pending response and retransmission timers."
func (g *igmp) speak(ifc *iface, now tcp.Time) int {
	l := &ifc.igmp
	version := 3
	switch {
	case now < l.v1:
		version = 1
	case now < l.v2:
		version = 2
	}
	if l.version != version && l.version != 0 {
		g.general(ifc, 0)
		for group, m := range l.groups {
			m.changes, m.answerAt, m.sources = 0, 0, nil
			g.due.set(&m.due, 0)
			if !m.member {
				delete(l.groups, group)
			}
		}
	}
	l.version = version
	return version
}

// general sets when all groups of a link are reported; 0: not at all.
func (g *igmp) general(ifc *iface, at tcp.Time) {
	d := &ifc.igmp.general
	d.ifc = ifc
	g.due.set(d, at)
}

// delay returns a random time from the range (0, limit].
func (g *igmp) delay(limit tcp.Time) tcp.Time {
	if limit <= 0 {
		return 0
	}
	return tcp.Time(g.s.rand64()%uint64(limit)) + 1
}

// inputIGMP works on an IGMP message.
func (s *Stack) inputIGMP(p *packet) {
	h, r := wire.ParseIGMP(p.payload)
	if r != wire.OK {
		s.drop(r)
		return
	}
	s.counts.igmpReceived.Add(1)
	if p.ifc.loopback || !s.igmp.input(p, &h) {
		s.drop(dropIGMP)
	}
}

// input works on a message, and reports whether it was for hosts.
func (g *igmp) input(p *packet, h *wire.IGMP) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := &p.ifc.igmp
	if g.closed || l.gone {
		return false
	}
	now := g.s.now()
	switch h.Type {
	case wire.IGMPQuery:
		// RFC 3376 9.1, against forged queries: "Hosts SHOULD ignore v2 or v3 Queries
		// without the Router-Alert option"; "Hosts SHOULD ignore v1, v2 or v3 General
		// Queries sent to a multicast address other than 224.0.0.1".
		if h.Version > 1 && !wire.RouterAlert(p.header[wire.IPv4Len:]) {
			return false
		}
		if h.Group.IsUnspecified() && p.dst != allHosts() {
			return false
		}
		g.query(p.ifc, h, now)
		g.run(now)
		g.arm(now)
		return true
	case wire.IGMPv1Report, wire.IGMPv2Report:
		// RFC 2236 3: "If the host receives another host's Report (version 1 or 2)
		// while it has a timer running, it stops its timer for the specified
		// group and does not send a Report, in order to suppress duplicate Reports."
		if m := l.groups[h.Group]; m != nil && g.speak(p.ifc, now) < 3 && h.Group == p.dst {
			m.answerAt, m.last = 0, false
			g.due.set(&m.due, 0)
			return true
		}
	}
	return false
}

// query takes a query, and chooses when to answer.
func (g *igmp) query(ifc *iface, h *wire.IGMP, now tcp.Time) {
	l := &ifc.igmp
	limit := tcp.Time(h.Tenths) * igmpTenth
	interval := l.interval
	if interval == 0 {
		interval = igmpInterval
	}
	// RFC 3376 8.12: the Older Version Querier Present Timeout "MUST be ((the
	// Robustness Variable) times (the Query Interval in the last Query
	// received)) plus (one Query Response Interval)."
	until := now + tcp.Time(l.count())*interval + limit
	switch h.Version {
	case 1:
		l.v1 = until
	case 2:
		l.v2 = until
	case 3:
		l.robustness = h.Robustness
		l.interval = tcp.Time(h.Interval) * tcp.Time(time.Second)
	}
	general := h.Group.IsUnspecified()
	if g.speak(ifc, now) == 3 {
		g.query3(ifc, h, now, g.delay(limit))
		return
	}
	asked := l.sorted()
	if !general {
		asked = nil
		if m := l.groups[h.Group]; m != nil {
			asked = append(asked, m)
		}
	}
	for _, m := range asked {
		// RFC 2236 3: "If a timer for the group is already running, it is reset to
		// the random value only if the requested Max Response Time is less than
		// the remaining value of the running timer."
		if m.answerAt == 0 || m.answerAt-now > limit {
			m.answerAt = now + g.delay(limit)
			g.due.set(&m.due, m.next())
		}
	}
}

// query3 applies the rules of RFC 3376 5.2, in their order.
func (g *igmp) query3(ifc *iface, h *wire.IGMP, now, delay tcp.Time) {
	l := &ifc.igmp
	at := now + delay
	// "1. If there is a pending response to a previous General Query scheduled
	// sooner than the selected delay, no additional response needs to be
	// scheduled."
	if l.general.at != 0 && l.general.at <= at {
		return
	}
	// "2. If the received Query is a General Query, the interface timer is used to
	// schedule a response to the General Query after the selected delay."
	if h.Group.IsUnspecified() {
		if len(l.groups) > 0 {
			g.general(ifc, at)
		}
		return
	}
	m := l.groups[h.Group]
	if m == nil || !m.member {
		return
	}
	defer func() { g.due.set(&m.due, m.next()) }()
	sources := h.Sources
	if len(sources) > 4*igmpMaxSources {
		sources = nil
	}
	switch {
	case m.answerAt == 0:
		// "3. If the received Query is a Group-Specific Query or a Group-and-Source-
		// Specific Query and there is no pending response to a previous Query for
		// this group, then the group timer is used to schedule a report. If the
		// received Query is a Group-and-Source-Specific Query, the list of queried
		// sources is recorded"
		m.answerAt, m.sources = at, bytes.Clone(sources)
		return
	case len(sources) == 0 || len(m.sources) == 0:
		// "4. If there already is a pending response to a previous Query scheduled for
		// this group, and either the new Query is a Group-Specific Query or the
		// recorded source-list associated with the group is empty, then the group
		// source-list is cleared"
		m.sources = nil
	default:
		// "5. ... then the group source list is augmented to contain the list of
		// sources in the new Query"
		m.sources = mergeSources(m.sources, sources)
	}
	m.answerAt = min(m.answerAt, at)
}

// mergeSources appends the addresses of 4 bytes that are not there yet; nil if that
// were too many.
func mergeSources(have, more []byte) []byte {
	for s := range slices.Chunk(more, 4) {
		if !slices.ContainsFunc(slices.Collect(slices.Chunk(have, 4)), func(h []byte) bool { return bytes.Equal(h, s) }) {
			have = append(have, s...)
		}
	}
	if len(have) > 4*igmpMaxSources {
		return nil
	}
	return have
}

// run says what is due, on all links.
func (g *igmp) run(now tcp.Time) {
	due := g.due.take(now)
	// By link and by group, so that equal states say equal things.
	slices.SortFunc(due, (*igmpDue).compare)
	for len(due) > 0 {
		ifc := due[0].ifc
		n := slices.IndexFunc(due, func(d *igmpDue) bool { return d.ifc != ifc })
		if n < 0 {
			n = len(due)
		}
		g.runLink(ifc, due[:n], now)
		due = due[n:]
	}
}

// runLink says what is due on a link.
func (g *igmp) runLink(ifc *iface, due []*igmpDue, now tcp.Time) {
	l := &ifc.igmp
	version := g.speak(ifc, now)
	all := due[0].group == nil
	ms := make([]*igmpGroup, 0, len(due))
	for _, d := range due {
		if d.group != nil {
			ms = append(ms, d.group)
		}
	}
	if version < 3 {
		for _, m := range ms {
			if m.answerAt != 0 && m.answerAt <= now {
				m.answerAt, m.last = 0, true
				g.report(ifc, version, m.addr)
			}
			g.due.set(&m.due, m.next())
		}
		return
	}
	g.runChanges(ifc, ms, now)
	if all {
		ms = l.sorted()
	}
	g.runAnswers(ifc, ms, all, now)
	for _, m := range ms {
		g.due.set(&m.due, m.next())
		if m.changes == 0 && !m.member {
			delete(l.groups, m.addr)
		}
	}
}

// runChanges sends the changes that are due in one report of version 3.
func (g *igmp) runChanges(ifc *iface, ms []*igmpGroup, now tcp.Time) {
	r := igmpReport{g: g, ifc: ifc}
	for _, m := range ms {
		if m.changes == 0 || m.changeAt > now {
			continue
		}
		kind := uint8(wire.IGMPToInclude)
		if m.member {
			kind = wire.IGMPToExclude
		}
		r.add(kind, m.addr, nil)
		m.changes--
		m.changeAt = now + g.delay(igmpV3Repeat)
	}
	r.send()
}

// runAnswers sends the answers that are due in one report of version 3: of the groups whose time
// has come, or of all.
//
// RFC 3376 5.2: to a general query "one Current-State Record is sent for each multicast
// address for which the specified interface has reception state". Of the sources that
// were asked for, a member in mode EXCLUDE without sources wants all: IS_IN.
func (g *igmp) runAnswers(ifc *iface, ms []*igmpGroup, all bool, now tcp.Time) {
	r := igmpReport{g: g, ifc: ifc}
	for _, m := range ms {
		due := m.answerAt != 0 && m.answerAt <= now
		if !m.member || !all && !due {
			continue
		}
		if all || len(m.sources) == 0 {
			r.add(wire.IGMPIsExclude, m.addr, nil)
		} else {
			r.add(wire.IGMPIsInclude, m.addr, m.sources)
		}
		m.answerAt, m.sources = 0, nil
	}
	r.send()
}

// sorted returns the groups in order.
func (l *igmpLink) sorted() []*igmpGroup {
	return slices.SortedFunc(maps.Values(l.groups), func(a, b *igmpGroup) int { return a.addr.Compare(b.addr) })
}

// An igmpReport collects records for a report of version 3, and begins another where
// they are more than a datagram takes.
type igmpReport struct {
	g   *igmp
	ifc *iface
	buf []byte
	n   int // records
}

func (r *igmpReport) add(kind uint8, group netip.Addr, sources []byte) {
	if r.n > 0 && len(r.buf)+wire.IGMPRecordLen+len(sources) > r.ifc.mtu()-igmpHeader {
		r.send()
	}
	if r.n == 0 {
		r.buf = make([]byte, wire.IGMPLen)
	}
	r.buf = wire.AppendIGMPRecord(r.buf, kind, group, sources)
	r.n++
}

// send sends what was collected, if anything.
// RFC 3376 4.2.14: "Version 3 Reports are sent with an IP destination address of
// 224.0.0.22, to which all IGMPv3-capable multicast routers listen."
func (r *igmpReport) send() {
	if r.n == 0 {
		return
	}
	wire.PutIGMPv3Report(r.buf, r.n)
	r.g.send(r.ifc, netip.AddrFrom4([4]byte{224, 0, 0, 22}), r.buf)
	r.n = 0
}

// report sends a report of version 1 or 2, which goes to the group itself.
func (g *igmp) report(ifc *iface, version int, group netip.Addr) {
	var b [wire.IGMPLen]byte
	typ := wire.IGMPv2Report
	if version == 1 {
		typ = wire.IGMPv1Report
	}
	wire.PutIGMP(b[:], typ, group)
	g.send(ifc, group, b[:])
}

// leave tells that a group was left, where that is for us to say.
// RFC 2236 3: "If it was the last host to reply to a Query with a Membership Report
// for that group, it SHOULD send a Leave Group message to the all-routers multicast
// group (224.0.0.2)." Version 1 has no such message.
func (g *igmp) leave(ifc *iface, version int, group netip.Addr, m *igmpGroup) {
	if version != 2 || !m.last {
		return
	}
	var b [wire.IGMPLen]byte
	wire.PutIGMP(b[:], wire.IGMPv2Leave, group)
	g.send(ifc, netip.AddrFrom4([4]byte{224, 0, 0, 2}), b[:])
}

// send queues a message. Where the queue is full it is lost, as on a link that
// loses it: that is why it is repeated.
//
// RFC 3376 4: "Every IGMP message described in this document is sent with an IP
// Time-to-Live of 1, IP Precedence of Internetwork Control (e.g., Type of Service
// 0xc0), and carries an IP Router Alert option [RFC-2113] in its IP header."
func (g *igmp) send(ifc *iface, dst netip.Addr, message []byte) {
	s := g.s
	if !ifc.tx.room() {
		s.drop(dropNoReply)
		return
	}
	// RFC 3376 4.2.13: a host without an address yet sends from 0.0.0.0.
	src := ifc.sourceFor(dst)
	if !src.IsValid() {
		src = netip.IPv4Unspecified()
	}
	p := path{ifc: ifc, src: src, dst: dst, hop: dst, group: true, mac: wire.MulticastMAC(dst), mtu: ifc.mtu()}
	p.makeHeader()
	now := s.now()
	sl := p.slot(now, len(message), false)
	copy(sl.buf[transportAt:], message)
	s.counts.igmpSent.Add(1)
	h := ipHeader{proto: wire.ProtoIGMP, tos: igmpTOS, ttl: 1, df: true, more: &ipMore{options: wire.RouterAlertOption()}}
	s.emit(now, &p, &h, &sl, len(message), &frameMeta{})
}

// arm sets the timer to what is due next on any link.
func (g *igmp) arm(now tcp.Time) {
	next := tcp.Time(0)
	if len(g.due) > 0 {
		next = g.due[0].at
	}
	if next == g.at {
		return
	}
	g.at = next
	switch {
	case next == 0:
		g.timer.Stop()
	case g.timer == nil:
		g.timer = time.AfterFunc(time.Duration(next-now), g.fired)
	default:
		g.timer.Reset(time.Duration(next - now))
	}
}

// fired runs when the timer does.
func (g *igmp) fired() {
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return
	}
	g.at = 0
	now := g.s.now()
	g.run(now)
	g.arm(now)
	g.mu.Unlock()
	g.s.drain()
}

// detach tells the routers of a link that the host leaves all of its groups. The
// caller drains afterwards.
func (g *igmp) detach(ifc *iface) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.goodbye(ifc)
}

func (g *igmp) goodbye(ifc *iface) {
	l := &ifc.igmp
	if l.gone || ifc.dead.Load() {
		return
	}
	version := g.speak(ifc, g.s.now())
	r := igmpReport{g: g, ifc: ifc}
	for _, m := range l.sorted() {
		g.due.set(&m.due, 0)
		if version < 3 {
			g.leave(ifc, version, m.addr, m)
		} else if m.member || m.changes > 0 {
			r.add(wire.IGMPToInclude, m.addr, nil)
		}
	}
	r.send()
	g.general(ifc, 0)
	l.gone, l.groups = true, nil
}

// close leaves all groups and ends the timer.
func (g *igmp) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	if g.timer != nil {
		g.timer.Stop()
	}
	for _, ifc := range *g.s.ifaces.Load() {
		g.goodbye(ifc)
	}
}
