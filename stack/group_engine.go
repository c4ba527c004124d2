package stack

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

const (
	groupRobustness = 2                           // the Robustness Variable; RFC 3376 8.1's default
	groupInterval   = tcp.Time(125 * time.Second) // the Query Interval; RFC 3376 8.2's default
	groupV3Repeat   = tcp.Time(time.Second)       // the Unsolicited Report Interval; RFC 3376 8.11
	groupV2Repeat   = tcp.Time(10 * time.Second)  // the same in version 2; RFC 2236 8.10
	groupMaxSources = 64                          // a query with more sources is for the whole group
)

// A groupEngine reports the groups that the host listens to. It is the host's side of IGMP version 3
// (RFC 3376, now RFC 9776), with the compatibility rules for queriers of version 2 (RFC 2236) and
// version 1 (RFC 1112).
//
// The engine also runs MLD, which is the same protocol: MLD version 2 (RFC 9777) is the engine's
// version 3, and MLD version 1 (RFC 2710) is the engine's version 2. The times and the rules are the
// same; the comments quote the IGMP RFCs. The message formats are in group_igmp.go and group_mld.go.
//
// One alarm serves all links. It is set while a report is scheduled. The cost of a change of one group
// does not depend on the number of other groups.
type groupEngine struct {
	s      *Stack
	mu     mutex[levelShared]
	due    groupHeap // scheduled reports
	alarm  alarm     // fires when the first report in due is due
	closed bool
}

// A groupLink is the state of one protocol, IGMP or MLD, on an interface.
type groupLink struct {
	ifc        *iface
	v6         bool                  // the protocol is MLD
	groups     groupMap[*groupState] // groups joined, or left with reports still to be sent
	robustness int                   // the querier's Robustness Variable; 0: the default
	interval   tcp.Time              // the querier's Query Interval; 0: the default
	general    groupDue              // the scheduled answer to a General Query (version 3)
	v1, v2     tcp.Time              // when the Older Version Querier Present timers end
	version    int                   // version in use; 0: none has been chosen yet
	gone       bool                  // the interface was detached: no more reports are sent
	unsourced  bool                  // MLD reports were sent from the unspecified address
}

// isReported reports whether the host sends reports for a group.
//
// RFC 3376 5: "the all-systems multicast address, 224.0.0.1, is handled as a
// special case. ... reception of packets destined to the all-systems
// multicast address, from all sources, is permanently enabled"; it is never reported.
//
// RFC 9777 6: "The link-scope all-nodes multicast address, (FF02::1), is handled as a special case";
// and "MLD messages are never sent for" it nor for "any multicast address of scope 0 (reserved) or 1
// (node-local)".
func isReported(group netip.Addr) bool {
	return group != allHosts() && group != allNodes6() && (group.Is4() || group.As16()[1]&0xf > 1)
}

func (l *groupLink) init(ifc *iface, v6 bool) { l.ifc, l.v6, l.general.link = ifc, v6, l }

// groupLink returns the state of the protocol of the group's family.
func (ifc *iface) groupLink(group netip.Addr) *groupLink {
	if group.Is6() {
		return &ifc.mld
	}
	return &ifc.igmp
}

// groupLinks returns the state of both protocols.
func (ifc *iface) groupLinks() [2]*groupLink { return [2]*groupLink{&ifc.igmp, &ifc.mld} }

// silent reports whether the host sends no reports on the link.
func (l *groupLink) silent() bool { return l.gone || l.ifc.loopback || l.ifc.dead.Load() }

// A groupState is a group on a link.
type groupState struct {
	addr   netip.Addr
	filter sourceFilter // the interface's filter, a combination of the sockets' filters
	due    groupDue     // scheduled for next()
	// Version 3: modes is the number of state-change reports that still have to include the filter mode.
	// For each changed source, changed has the number of reports that still have to include the source.
	// The next state-change report is sent at changeAt.
	modes    int
	changed  map[netip.Addr]int
	changeAt tcp.Time
	// answerAt is when the host answers a query for the group, or, in versions 1 and 2, repeats its
	// report; 0: neither is scheduled. sources are the sources that the query listed; nil means all.
	answerAt tcp.Time
	sources  []netip.Addr
	// last is set if this host was the last to report the group. In version 2 only the last host to
	// report a group sends a Leave Group message for it.
	last bool
}

// A groupQuery is a received query.
type groupQuery struct {
	version    int
	group      netip.Addr   // unspecified: all groups
	limit      tcp.Time     // the Max Response Time
	robustness int          // version 3: the querier's Robustness Variable; 0: not included
	interval   tcp.Time     // version 3: the querier's Query Interval; 0: not included
	sources    []netip.Addr // version 3, at most groupMaxSources; nil: the whole group
}

// changing reports whether more state-change reports are to be sent.
func (m *groupState) changing() bool { return m.modes > 0 || len(m.changed) > 0 }

// next returns the time of the next report of the group, or 0 if no report is scheduled.
func (m *groupState) next() tcp.Time {
	if m.changing() && (m.answerAt == 0 || m.changeAt < m.answerAt) {
		return m.changeAt
	}
	return m.answerAt
}

// change applies changes of sockets' filters, and starts the reports of the interfaces' filters that
// change with them. The caller drains afterwards.
func (g *groupEngine) change(cs ...groupChange) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.s.now()
	for i := range cs {
		g.changeOne(&cs[i], now)
	}
	g.run(now)
	g.arm(now)
}

func (g *groupEngine) changeOne(c *groupChange, now tcp.Time) {
	before, after := c.ifc.group.change(c.group, &c.from, &c.to)
	l := c.ifc.groupLink(c.group)
	if g.closed || l.silent() || !isReported(c.group) {
		return
	}
	version := g.updateVersion(l, now)
	m, _ := l.groups.get(c.group)
	if m == nil && !after.isMember() {
		return // the group was not reported and is not joined
	}
	if m == nil {
		m = &groupState{addr: c.group}
		m.due.link, m.due.group = l, m
		l.groups.set(c.group, m)
	}
	m.filter = after
	g.reportChange(l, m, version, &before, now)
}

// comeUp reports all groups of a link that has come up, as Linux does: the link may have other routers
// now. The caller drains afterwards.
func (g *groupEngine) comeUp(ifc *iface) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.s.now()
	for _, l := range ifc.groupLinks() {
		g.reportAll(l, now)
	}
	g.run(now)
	g.arm(now)
}

// reportAll reports all groups of a link as if they had just been joined.
func (g *groupEngine) reportAll(l *groupLink, now tcp.Time) {
	if g.closed || l.silent() {
		return
	}
	version := g.updateVersion(l, now)
	for _, m := range l.sorted() {
		if m.filter.isMember() {
			g.reportChange(l, m, version, &sourceFilter{}, now)
		}
	}
}

// addressed reports all MLD groups again, if the interface has got a link-local address since it sent
// reports from the unspecified address. The caller drains afterwards.
//
// RFC 3590 4: "Once a valid link-local address is available, a node SHOULD generate new MLD Report
// messages for all multicast addresses joined on the interface."
func (g *groupEngine) addressed(ifc *iface) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if l := &ifc.mld; l.unsourced && !ifc.linkLocal6().IsUnspecified() {
		l.unsourced = false
		now := g.s.now()
		g.reportAll(l, now)
		g.run(now)
		g.arm(now)
	}
}

// reportChange starts the reports of a change of a group's filter from before to m.filter. version is
// the version in use on the link. g.mu is held.
func (g *groupEngine) reportChange(l *groupLink, m *groupState, version int, before *sourceFilter, now tcp.Time) {
	if version == 3 {
		g.reportChangeV3(l, m, before, now)
		return
	}
	// Versions 1 and 2 report groups without sources.
	is, was := m.filter.isMember(), before.isMember()
	switch {
	case is && !was:
		// RFC 2236 3: "When a host joins a multicast group, it should immediately
		// transmit an unsolicited Version 2 Membership Report for that group";
		// "it is recommended that it be repeated once or twice after short
		// delays".
		l.sendV2Report(version, m.addr)
		m.last = true
		m.answerAt = now + g.delay(groupV2Repeat)
		g.due.set(&m.due, m.next())
	case was && !is:
		g.leave(l, version, m)
		g.forget(l, m)
	}
}

// reportChangeV3 is reportChange for version 3. It schedules the first report for now.
//
// RFC 3376 5.1: "To cover the possibility of the State-Change Report being missed by one or more
// multicast routers, it is retransmitted [Robustness Variable] - 1 more times, at intervals chosen at
// random from the range (0, [Unsolicited Report Interval])." A change during these retransmissions is
// reported at once, together with the earlier changes that still have to be retransmitted: "Each time a
// source is included in the difference report calculated above, retransmission state for that source
// needs to be maintained until [Robustness Variable] State-Change reports have been sent by the host."
func (g *groupEngine) reportChangeV3(l *groupLink, m *groupState, before *sourceFilter, now tcp.Time) {
	changed := false
	if m.filter.exclude != before.exclude {
		m.modes, changed = l.count(), true
	} else {
		m.filter.difference(before, func(source netip.Addr) {
			if m.changed == nil {
				m.changed = make(map[netip.Addr]int)
			}
			m.changed[source] = l.count()
			changed = true
		})
	}
	if !changed {
		return
	}
	if m.modes > 0 || !m.filter.isMember() {
		m.answerAt, m.sources = 0, nil // the state-change report says all that the answer would say
	}
	m.changeAt = now
	g.due.set(&m.due, m.next())
}

// leave sends a Leave Group message, in version 2, if this host was the last to report the group.
// RFC 2236 3: "If it was the last host to reply to a Query with a Membership Report
// for that group, it SHOULD send a Leave Group message". Version 1 has no such message.
func (g *groupEngine) leave(l *groupLink, version int, m *groupState) {
	if version == 2 && m.last {
		l.sendLeave(m.addr)
	}
}

// forget removes a group from a link.
func (g *groupEngine) forget(l *groupLink, m *groupState) {
	g.due.set(&m.due, 0)
	l.groups.delete(m.addr)
}

// count returns the Robustness Variable, which is the number of times that each change is reported.
func (l *groupLink) count() int {
	if l.robustness == 0 {
		return groupRobustness
	}
	return l.robustness
}

// updateVersion sets l.version to the version of the oldest querier that is present, and returns it. If
// the version has changed, updateVersion cancels all scheduled reports of the link.
//
// RFC 3376 7.2.1: "In order to switch gracefully between versions of IGMP, hosts keep
// both an IGMPv1 Querier Present timer and an IGMPv2 Querier Present timer per
// interface"; "Whenever a host changes its compatibility mode, it cancels all its
// pending response and retransmission timers."
func (g *groupEngine) updateVersion(l *groupLink, now tcp.Time) int {
	version := 3
	switch {
	case now < l.v1:
		version = 1
	case now < l.v2:
		version = 2
	}
	if l.version != version && l.version != 0 {
		g.general(l, 0)
		for _, m := range l.sorted() {
			m.modes, m.changed = 0, nil
			m.answerAt, m.sources = 0, nil
			g.due.set(&m.due, 0)
			if !m.filter.isMember() {
				l.groups.delete(m.addr)
			}
		}
	}
	l.version = version
	return version
}

// general schedules the answer to a General Query for time at. If at is 0, it cancels the answer.
func (g *groupEngine) general(l *groupLink, at tcp.Time) { g.due.set(&l.general, at) }

// delay returns a random duration in the range (0, limit], or 0 if limit is 0.
func (g *groupEngine) delay(limit tcp.Time) tcp.Time {
	if limit <= 0 {
		return 0
	}
	return tcp.Time(g.s.random.next(randGroup)%uint64(limit)) + 1
}

// input calls take to handle a received message, and then sends the reports that are due. take is called
// with the engine's lock held, and reports whether the message was used. input returns its result, or
// false if the link is silent. The caller drains afterwards.
func (g *groupEngine) input(l *groupLink, take func(now tcp.Time) bool) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || l.silent() {
		return false
	}
	now := g.s.now()
	ok := take(now)
	g.run(now)
	g.arm(now)
	return ok
}

// overheard handles the report of another host, of version 1 or 2: it cancels this host's own report of
// the group. It reports false if the host has not joined the group or uses version 3.
//
// RFC 2236 3: "If the host receives another host's Report (version 1 or 2)
// while it has a timer running, it stops its timer for the specified
// group and does not send a Report, in order to suppress duplicate Reports."
func (g *groupEngine) overheard(l *groupLink, group netip.Addr, now tcp.Time) bool {
	m, _ := l.groups.get(group)
	if m == nil || g.updateVersion(l, now) == 3 {
		return false
	}
	m.answerAt, m.last = 0, false
	g.due.set(&m.due, 0)
	return true
}

// query handles a query: it restarts the timer of the querier's version, and schedules the answer.
func (g *groupEngine) query(l *groupLink, q *groupQuery, now tcp.Time) {
	interval := l.interval
	if interval == 0 {
		interval = groupInterval
	}
	// RFC 3376 8.12: the Older Version Querier Present Timeout "MUST be ((the
	// Robustness Variable) times (the Query Interval in the last Query
	// received)) plus (one Query Response Interval)."
	until := now + tcp.Time(l.count())*interval + q.limit
	switch q.version {
	case 1:
		l.v1 = until
	case 2:
		l.v2 = until
	case 3:
		l.robustness, l.interval = q.robustness, q.interval
	}
	if g.updateVersion(l, now) == 3 {
		g.query3(l, q, now+g.delay(q.limit))
		return
	}
	asked := l.sorted() // the groups to answer for
	if !q.group.IsUnspecified() {
		asked = nil
		if m, _ := l.groups.get(q.group); m != nil {
			asked = append(asked, m)
		}
	}
	for _, m := range asked {
		// RFC 2236 3: "If a timer for the group is already running, it is reset to
		// the random value only if the requested Max Response Time is less than
		// the remaining value of the running timer."
		if m.answerAt == 0 || m.answerAt-now > q.limit {
			m.answerAt = now + g.delay(q.limit)
			g.due.set(&m.due, m.next())
		}
	}
}

// query3 schedules the answer to a query in version 3, by the rules of RFC 3376 5.2. at is the time that
// was selected at random for the answer.
func (g *groupEngine) query3(l *groupLink, q *groupQuery, at tcp.Time) {
	// "1. If there is a pending response to a previous General Query scheduled
	// sooner than the selected delay, no additional response needs to be
	// scheduled."
	if l.general.at != 0 && l.general.at <= at {
		return
	}
	// "2. If the received Query is a General Query, the interface timer is used to
	// schedule a response to the General Query after the selected delay."
	if q.group.IsUnspecified() {
		if l.groups.len() > 0 {
			g.general(l, at)
		}
		return
	}
	m, _ := l.groups.get(q.group)
	if m == nil || !m.filter.isMember() {
		return
	}
	defer func() { g.due.set(&m.due, m.next()) }()
	switch {
	case m.answerAt == 0:
		// "3. If the received Query is a Group-Specific Query or a Group-and-Source-
		// Specific Query and there is no pending response to a previous Query for
		// this group, then the group timer is used to schedule a report. If the
		// received Query is a Group-and-Source-Specific Query, the list of queried
		// sources is recorded"
		m.answerAt, m.sources = at, q.sources
		return
	case len(q.sources) == 0 || len(m.sources) == 0:
		// "4. If there already is a pending response to a previous Query scheduled for
		// this group, and either the new Query is a Group-Specific Query or the
		// recorded source-list associated with the group is empty, then the group
		// source-list is cleared"
		m.sources = nil
	default:
		// "5. ... then the group source list is augmented to contain the list of
		// sources in the new Query"
		m.sources = mergeSources(m.sources, q.sources)
	}
	m.answerAt = min(m.answerAt, at)
}

// querySources parses the source list of a query. Each address is size bytes long. The result is nil,
// which stands for the whole group, if the list is empty or has more than groupMaxSources addresses.
func querySources(b []byte, size int) []netip.Addr {
	n := len(b) / size
	if n == 0 || n > groupMaxSources {
		return nil
	}
	sources := make([]netip.Addr, n)
	for i := range sources {
		sources[i], _ = netip.AddrFromSlice(b[i*size : (i+1)*size])
	}
	return sources
}

// mergeSources returns the union of two lists of sources, or nil if the union has more than
// groupMaxSources addresses.
func mergeSources(have, more []netip.Addr) []netip.Addr {
	for _, a := range more {
		if !slices.Contains(have, a) {
			have = append(have, a)
		}
	}
	if len(have) > groupMaxSources {
		return nil
	}
	return have
}

// run sends the reports that are due on all links.
func (g *groupEngine) run(now tcp.Time) {
	due := g.due.take(now)
	// Sort by interface and group, because the order of the reports must not depend on that of the heap.
	slices.SortFunc(due, (*groupDue).compare)
	for len(due) > 0 {
		l := due[0].link
		n := slices.IndexFunc(due, func(d *groupDue) bool { return d.link != l })
		if n < 0 {
			n = len(due)
		}
		g.runLink(l, due[:n], now)
		due = due[n:]
	}
}

// runLink sends the reports that are due on a link, schedules the next ones, and forgets groups that were
// left and need no more reports. due is sorted.
func (g *groupEngine) runLink(l *groupLink, due []*groupDue, now tcp.Time) {
	version := g.updateVersion(l, now)
	all := due[0].group == nil // a General Query is to be answered
	ms := make([]*groupState, 0, len(due))
	for _, d := range due {
		if d.group != nil {
			ms = append(ms, d.group)
		}
	}
	if version < 3 {
		for _, m := range ms {
			if m.answerAt != 0 && m.answerAt <= now {
				m.answerAt, m.last = 0, true
				l.sendV2Report(version, m.addr)
			}
			g.due.set(&m.due, m.next())
		}
		return
	}
	g.runChanges(l, ms, now)
	if all {
		ms = l.sorted()
	}
	g.runAnswers(l, ms, all, now)
	for _, m := range ms {
		g.due.set(&m.due, m.next())
		if !m.changing() && !m.filter.isMember() {
			l.groups.delete(m.addr)
		}
	}
}

// runChanges sends one report of version 3 with all state changes that are due.
func (g *groupEngine) runChanges(l *groupLink, ms []*groupState, now tcp.Time) {
	r := groupReport{l: l}
	for _, m := range ms {
		if m.changing() && m.changeAt <= now {
			m.addChanges(&r)
			m.changeAt = now + g.delay(groupV3Repeat)
		}
	}
	r.send()
}

// addChanges adds the records of a group's state-change report to r, and counts down m.modes and
// m.changed.
//
// RFC 3376 5.1: "If the report should contain a Filter-Mode-Change record, then if the current
// filter-mode of the interface is INCLUDE, a TO_IN record is included in the report, otherwise a
// TO_EX record is included. If instead the report should contain Source-List-Change records, an
// ALLOW and a BLOCK record are included." The ALLOW record lists the changed sources that are to be
// forwarded, the BLOCK record those that are not.
func (m *groupState) addChanges(r *groupReport) {
	f := &m.filter
	m.last = f.isMember()
	switch {
	case m.modes > 0 && f.exclude:
		r.add(wire.GroupToExclude, m.addr, f.sources)
	case m.modes > 0:
		r.add(wire.GroupToInclude, m.addr, f.sources)
	default:
		var allow, block []netip.Addr
		for _, source := range slices.SortedFunc(maps.Keys(m.changed), netip.Addr.Compare) {
			if f.wants(source) {
				allow = append(allow, source)
			} else {
				block = append(block, source)
			}
		}
		// RFC 3376 5.1: "If the computed source list for either an ALLOW or a BLOCK record is empty,
		// that record is omitted".
		if len(allow) > 0 {
			r.add(wire.GroupAllow, m.addr, allow)
		}
		if len(block) > 0 {
			r.add(wire.GroupBlock, m.addr, block)
		}
	}
	m.modes = max(m.modes-1, 0)
	for source, n := range m.changed {
		if n--; n > 0 {
			m.changed[source] = n
		} else {
			delete(m.changed, source)
		}
	}
}

// runAnswers sends one report of version 3. It answers the queries for the groups in ms whose answers are
// due, or, if all is set, a General Query for all groups in ms.
func (g *groupEngine) runAnswers(l *groupLink, ms []*groupState, all bool, now tcp.Time) {
	r := groupReport{l: l}
	for _, m := range ms {
		if all || m.answerAt != 0 && m.answerAt <= now {
			m.addAnswer(&r, all)
			m.answerAt, m.sources = 0, nil
		}
	}
	r.send()
}

// addAnswer adds the record that answers a query to r. If general is set, the query was a General Query;
// otherwise m.sources are the sources that the query listed.
//
// RFC 3376 5.2: "If the interface has reception state for the specified address", the record contains
// the filter mode and the sources. For a list B of queried sources the record is IS_IN with A*B in mode
// INCLUDE and with B-A in mode EXCLUDE, where A is the interface's list; "if the resulting
// Current-State Record has an empty set of source addresses, then no response is sent."
func (m *groupState) addAnswer(r *groupReport, general bool) {
	f := &m.filter
	m.last = f.isMember()
	switch {
	case !f.isMember():
		// The group was left: there is no reception state to report.
	case !general && len(m.sources) > 0:
		wanted := slices.DeleteFunc(m.sources, func(source netip.Addr) bool { return !f.wants(source) })
		if len(wanted) > 0 {
			r.add(wire.GroupIsInclude, m.addr, wanted)
		}
	case f.exclude:
		r.add(wire.GroupIsExclude, m.addr, f.sources)
	default:
		r.add(wire.GroupIsInclude, m.addr, f.sources)
	}
}

// sorted returns the groups ordered by address.
func (l *groupLink) sorted() []*groupState {
	ms := make([]*groupState, 0, l.groups.len())
	for _, m := range l.groups.all() {
		ms = append(ms, m)
	}
	slices.SortFunc(ms, func(a, b *groupState) int { return a.addr.Compare(b.addr) })
	return ms
}

// A groupReport collects records for a report of version 3. When the report is full, it sends the report
// and starts another one.
type groupReport struct {
	l   *groupLink
	buf []byte
	n   int // number of records in buf
}

// add adds a record, or several if the sources do not fit one report.
//
// RFC 3376 4.2.16: a record that "contains so many source addresses that it does not fit within
// the size limit of a single Report message, if its Type is not MODE_IS_EXCLUDE or
// CHANGE_TO_EXCLUDE_MODE, is split into multiple Group Records, each containing a different
// subset of the source addresses and each sent in a separate Report message"; otherwise "a single
// Group Record is sent, containing as many source addresses as can fit, and the
// remaining source addresses are not reported".
func (r *groupReport) add(kind uint8, group netip.Addr, sources []netip.Addr) {
	room := r.l.reportRoom()
	// most is the number of sources that fit a report with a single record.
	most := max(1, (room-wire.GroupReportLen-wire.GroupRecordLen(group, 0))/(group.BitLen()/8))
	if len(sources) > most && (kind == wire.GroupIsExclude || kind == wire.GroupToExclude) {
		sources = sources[:most]
	}
	for {
		some := sources[:min(len(sources), most)]
		if r.n > 0 && len(r.buf)+wire.GroupRecordLen(group, len(some)) > room {
			r.send()
		}
		if r.n == 0 {
			r.buf = make([]byte, wire.GroupReportLen)
		}
		r.buf = wire.AppendGroupRecord(r.buf, kind, group, some)
		r.n++
		if sources = sources[len(some):]; len(sources) == 0 {
			return
		}
	}
}

// send sends the collected records, if there are any.
func (r *groupReport) send() {
	if r.n > 0 {
		r.l.sendReport(r.buf, r.n)
		r.n = 0
	}
}

// arm sets the alarm for the next scheduled report.
func (g *groupEngine) arm(now tcp.Time) {
	next := tcp.Time(0)
	if len(g.due) > 0 {
		next = g.due[0].at
	}
	g.alarm.move(now, next, g)
}

// fired is called by the alarm. It sends the reports that are due.
func (g *groupEngine) fired() {
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return
	}
	g.alarm.over()
	now := g.s.now()
	g.run(now)
	g.arm(now)
	g.mu.Unlock()
	g.s.drain()
}

// reportRoom returns the largest size in bytes of a report on the link, without the IP headers.
func (l *groupLink) reportRoom() int {
	if l.v6 {
		return l.ifc.ipMTU(true) - mldHeader
	}
	return l.ifc.mtu() - igmpHeader
}

// sendReport sends a report of version 3. b has space for the report's header, followed by n records.
func (l *groupLink) sendReport(b []byte, n int) {
	if l.v6 {
		l.sendMLDv2Report(b, n)
	} else {
		l.sendIGMPv3Report(b, n)
	}
}

// sendV2Report sends a report of version 1 or 2. The destination is the multicast address of the group.
func (l *groupLink) sendV2Report(version int, group netip.Addr) {
	switch {
	case l.v6:
		l.sendMLDv1(group, wire.ICMPv6MLDReport, group)
	case version == 1:
		l.sendIGMPv2(group, wire.IGMPv1Report, group)
	default:
		l.sendIGMPv2(group, wire.IGMPv2Report, group)
	}
}

// sendLeave sends a Leave Group message of IGMP version 2, or a Done message of MLD version 1. RFC 2236
// 3: a Leave goes "to the all-routers multicast group (224.0.0.2)". RFC 2710 4: a Done goes to "the
// link-scope all-routers multicast address (FF02::2)".
func (l *groupLink) sendLeave(group netip.Addr) {
	if l.v6 {
		l.sendMLDv1(netip.IPv6LinkLocalAllRouters(), wire.ICMPv6MLDDone, group)
	} else {
		l.sendIGMPv2(netip.AddrFrom4([4]byte{224, 0, 0, 2}), wire.IGMPv2Leave, group)
	}
}

// detach leaves all groups of an interface and reports this once. The caller drains afterwards.
func (g *groupEngine) detach(ifc *iface) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, l := range ifc.groupLinks() {
		g.leaveLink(l)
	}
}

// leaveLink reports once that the host has left all groups of a link, and stops all reports on the link.
// g.mu is held.
func (g *groupEngine) leaveLink(l *groupLink) {
	if l.silent() {
		return
	}
	version := g.updateVersion(l, g.s.now())
	r := groupReport{l: l}
	for _, m := range l.sorted() {
		g.due.set(&m.due, 0)
		if version < 3 {
			g.leave(l, version, m)
			continue
		}
		before := m.filter
		m.filter = sourceFilter{}
		g.reportChangeV3(l, m, &before, 0)
		m.addChanges(&r)
		g.due.set(&m.due, 0)
	}
	r.send()
	g.general(l, 0)
	l.gone, l.groups = true, groupMap[*groupState]{}
}

// close leaves all groups of all links, reports this once, and closes the alarm.
func (g *groupEngine) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	g.alarm.close()
	for _, ifc := range *g.s.ifaces.Load() {
		for _, l := range ifc.groupLinks() {
			g.leaveLink(l)
		}
	}
}
