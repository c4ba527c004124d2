package mdns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// The times to live of RFC 6762 section 10, in seconds.
const (
	hostTTL  = 120  // "records that contain a host name"
	otherTTL = 4500 // 75 minutes
)

const (
	probes        = 3
	probeInterval = 250 * time.Millisecond
	announcements = 2
	// goodbyeInterval is the time between the two goodbyes for a record.
	goodbyeInterval = time.Second
	// RFC 6762 8.1: "If fifteen conflicts occur within any ten-second period, then the host MUST wait at
	// least five seconds before each successive additional probe attempt."
	maxConflicts  = 15
	conflictTime  = 10 * time.Second
	conflictDelay = 5 * time.Second
)

// Errors of Publish.
var (
	ErrBadService = errors.New("mdns: bad service")
	ErrExists     = errors.New("mdns: the service is published already")
)

// A Service is what a host offers: an instance of a service type at a port (RFC 6763).
type Service struct {
	// Instance is the name of the instance that users see, 1 to 63 bytes of UTF-8. It may contain spaces
	// and dots. If another host has an instance of the same name, the Node adds a number.
	Instance string
	// Type is the service type, for example "_http._tcp". Its labels begin with an underscore.
	Type string
	// Subtypes are subtypes for selective browsing, for example "_printer" (RFC 6763 section 7.1).
	Subtypes []string
	// Port is the port of the service; not 0.
	Port uint16
	// TXT are strings such as "path=/", each of at most 255 bytes (RFC 6763 section 6).
	TXT []string
	// Priority and Weight are fields of the SRV record (RFC 2782).
	Priority, Weight uint16
}

// A Published is a service that a Node publishes.
type Published struct{ g *group }

// Instance returns the name of the instance, which differs from Service.Instance after a conflict.
func (p *Published) Instance() string { return p.g.label }

// Established reports whether the service's name is verified to be unique, and the service is announced.
func (p *Published) Established() bool { return p.g.state >= announcing }

// The states of a group.
type state int

const (
	unpublished state = iota // the host has no address
	probing
	announcing
	established
)

// A group has the records of the host or of one service. Its unique names are verified and announced
// together.
type group struct {
	service *Service // nil: the host
	label   string   // the first label of the unique names, after renaming
	number  int      // the number in label; 1: none

	state     state
	at        time.Time // of the next step; zero: none
	step      int       // number of probes or announcements sent
	records   []*own
	conflicts []time.Time // of the last conflicts, oldest first
}

// An own record is a record that the Node publishes.
type own struct {
	record
	g      *group
	unique bool      // whether no other host may have records of the name
	sent   time.Time // when the record was last multicast, by this host or another one
	// announced reports whether this Node has sent the record, by multicast or unicast, and has not withdrawn
	// the record since. Other hosts may then have the record.
	announced bool
	repeats   bool // whether the record is in Node.again
}

// A farewell is a goodbye that is sent a second time.
type farewell struct {
	at      time.Time
	records []*own // their TTL is zero
}

// HostName returns the name of the host in presentation form, for example "laptop.local.". It is empty before
// the first SetAddrs, after Close, and if Config.Host is empty.
func (n *Node) HostName() string {
	if n.host == nil {
		return ""
	}
	return n.hostName().String()
}

// Established reports whether the host's name is verified to be unique and announced.
func (n *Node) Established() bool { return n.host != nil && n.host.state >= announcing }

func (n *Node) hostName() name {
	nm, _ := makeName(local, n.host.label)
	return nm
}

// SetAddrs sets the addresses of the host on the link. The host's name resolves to these addresses. The names
// are verified again if the host had no addresses before. The caller therefore sets no addresses when the link
// goes down, and the addresses when it comes up. The error says that Config.Host is too long.
func (n *Node) SetAddrs(now time.Time, addrs []netip.Addr) error {
	if n.cfg.Host == "" {
		return nil
	}
	if n.host == nil {
		if len(n.cfg.Host) > maxLabel {
			return errBadName
		}
		n.host = &group{label: n.cfg.Host, number: 1}
		n.groups = append(n.groups, n.host)
	}
	if slices.Equal(addrs, n.addrs) {
		return nil
	}
	first := len(n.addrs) == 0
	n.addrs = slices.Clone(addrs)
	for _, g := range n.groups {
		switch {
		case len(addrs) == 0: // the link is down, so there is nobody to say goodbye to
			g.state, g.at = unpublished, time.Time{}
		case first:
			n.probe(now, g, n.between(0, probeInterval))
		case g == n.host || g.state == probing:
			old := g.records
			if g.state == probing {
				n.probe(now, g, n.between(0, probeInterval))
			} else {
				n.rebuild(g)
				g.state, g.step, g.at = announcing, 0, now
			}
			n.withdraw(now, slices.DeleteFunc(slices.Clone(old), func(o *own) bool {
				return slices.ContainsFunc(g.records, func(x *own) bool { return x.same(&o.record) })
			}))
		}
	}
	n.reindex()
	return nil
}

// Publish publishes a service. The errors are ErrBadService, wrapped with the reason, and ErrExists if this
// Node publishes the same instance already.
func (n *Node) Publish(now time.Time, s Service) (*Published, error) {
	if n.cfg.Host == "" || n.host == nil {
		return nil, fmt.Errorf("%w: the host has no name", ErrBadService)
	}
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadService, err)
	}
	s.Subtypes, s.TXT = slices.Clone(s.Subtypes), slices.Clone(s.TXT)
	g := &group{service: &s, label: s.Instance, number: 1}
	if len(n.index[g.uniqueName().fold()]) > 0 {
		return nil, ErrExists
	}
	n.groups = append(n.groups, g)
	if len(n.addrs) > 0 {
		n.probe(now, g, n.between(0, probeInterval))
	}
	n.rebuild(g)
	n.reindexGroup(g)
	return &Published{g}, nil
}

// check returns an error that says what is wrong with a service, or nil.
func (s *Service) check() error {
	typ, err := parseName(s.Type)
	if err != nil {
		return err
	}
	labels := typ.labels()
	if len(labels) != 2 || labels[0][0] != '_' || labels[1] != "_tcp" && labels[1] != "_udp" {
		return fmt.Errorf("type %q is not of the form _service._tcp or _service._udp", s.Type)
	}
	if _, ok := makeName(local, s.Instance, labels[0], labels[1]); !ok {
		return errBadName
	}
	for _, sub := range s.Subtypes {
		if _, ok := makeName(local, sub, "_sub", labels[0], labels[1]); !ok {
			return errBadName
		}
	}
	size := 0
	for _, txt := range s.TXT {
		if size += 1 + len(txt); len(txt) > 255 {
			return errors.New("a string of TXT has more than 255 bytes")
		}
	}
	switch {
	case s.Port == 0:
		return errors.New("the port is zero")
	case size > maxMessage-maxName-200:
		// RFC 6763 6.2: the record should fit into one packet.
		return fmt.Errorf("TXT has %d bytes, which does not fit into a message", size)
	}
	return nil
}

// typeName returns the name of the service type.
func (s *Service) typeName() name {
	typ, _ := parseName(s.Type)
	l := typ.labels()
	nm, _ := makeName(local, l[0], l[1])
	return nm
}

// uniqueName returns the name whose uniqueness the group verifies.
func (g *group) uniqueName() name {
	if g.service == nil {
		nm, _ := makeName(local, g.label)
		return nm
	}
	nm, _ := makeName(g.service.typeName(), g.label)
	return nm
}

// Unpublish withdraws a service: other hosts remove it after one second (RFC 6762 section 10.1).
func (n *Node) Unpublish(now time.Time, p *Published) {
	if i := slices.Index(n.groups, p.g); i >= 0 {
		n.goodbye(now, p.g)
		p.g.state, p.g.at = unpublished, time.Time{}
		n.groups = slices.Delete(n.groups, i, i+1)
		n.reindex()
	}
}

// Close withdraws all records. The caller must then send the messages that Next returns.
func (n *Node) Close(now time.Time) {
	n.delayed, n.again = nil, nil
	for _, f := range n.goodbyes { // send the second goodbyes now, before they are due
		n.multicast(now, f.records, nil)
	}
	for _, g := range n.groups {
		n.goodbye(now, g)
		g.state, g.at = unpublished, time.Time{}
	}
	n.groups, n.host, n.addrs, n.goodbyes = nil, nil, nil, nil
	n.reindex()
}

// rebuild makes the records of a group.
func (n *Node) rebuild(g *group) {
	old := g.records
	g.records = nil
	add := func(nm name, typ uint16, ttl uint32, unique bool, data string) {
		o := &own{record: record{name: nm, typ: typ, ttl: ttl, flush: unique, data: data}, g: g, unique: unique}
		if i := slices.IndexFunc(old, func(x *own) bool { return x.same(&o.record) }); i >= 0 {
			o.sent, o.announced = old[i].sent, old[i].announced
		}
		g.records = append(g.records, o)
	}
	if g.service == nil {
		host := g.uniqueName()
		for _, a := range n.addrs {
			typ := uint16(typeAAAA)
			if a.Is4() {
				typ = typeA
			}
			add(host, typ, hostTTL, true, string(a.AsSlice()))
			add(reverseName(a), typePTR, hostTTL, true, string(host))
		}
		return
	}
	s, instance, typ := g.service, g.uniqueName(), g.service.typeName()
	srv := binary.BigEndian.AppendUint16(nil, s.Priority)
	srv = binary.BigEndian.AppendUint16(srv, s.Weight)
	srv = binary.BigEndian.AppendUint16(srv, s.Port)
	add(instance, typeSRV, hostTTL, true, string(srv)+string(n.hostName()))
	var txt strings.Builder
	for _, t := range s.TXT {
		txt.WriteByte(byte(len(t)))
		txt.WriteString(t)
	}
	if txt.Len() == 0 {
		txt.WriteByte(0) // RFC 6763 6.1: a TXT record without strings has one zero byte
	}
	add(instance, typeTXT, otherTTL, true, txt.String())
	add(typ, typePTR, otherTTL, false, string(instance))
	for _, sub := range s.Subtypes {
		if nm, ok := makeName(typ, sub, "_sub"); ok {
			add(nm, typePTR, otherTTL, false, string(instance))
		}
	}
	services, _ := makeName(local, "_services", "_dns-sd", "_udp")
	add(services, typePTR, otherTTL, false, string(typ)) // RFC 6763 9
}

// reverseName returns the name for the reverse lookup of an address. The data of the name's PTR record is the host's
// name.
func reverseName(a netip.Addr) name {
	const hex = "0123456789abcdef"
	if a.Is4() {
		b := a.As4()
		nm, _ := makeName("\x07in-addr\x04arpa\x00", fmt.Sprint(b[3]), fmt.Sprint(b[2]), fmt.Sprint(b[1]), fmt.Sprint(b[0]))
		return nm
	}
	var labels []string
	b := a.As16()
	for i := len(b) - 1; i >= 0; i-- {
		labels = append(labels, hex[b[i]&15:][:1], hex[b[i]>>4:][:1])
	}
	nm, _ := makeName("\x03ip6\x04arpa\x00", labels...)
	return nm
}

// reindex makes the index of own records by name.
func (n *Node) reindex() {
	n.index = make(map[name][]*own)
	for _, g := range n.groups {
		n.reindexGroup(g)
	}
	maps.DeleteFunc(n.denied, func(nm name, _ time.Time) bool { return n.index[nm] == nil })
}

// reindexGroup adds the records of a group to the index.
func (n *Node) reindexGroup(g *group) {
	for _, o := range g.records {
		k := o.name.fold()
		n.index[k] = append(n.index[k], o)
	}
}

// probe starts to verify the unique names of a group after a delay.
func (n *Node) probe(now time.Time, g *group, delay time.Duration) {
	n.rebuild(g)
	g.state, g.step, g.at = probing, 0, now.Add(delay)
}

// advance does the next step of each group whose time has come.
func (n *Node) advance(now time.Time) {
	var announce []*own
	var questions []question
	var proposed []record
	size := headerLen
	flush := func() {
		if len(questions) == 0 {
			return
		}
		w := newBuilder(0, 0)
		for _, q := range questions {
			w.question(q)
		}
		for i := range proposed {
			w.record(2, &proposed[i])
		}
		n.out = append(n.out, Message{Data: w.b})
		questions, proposed, size = nil, nil, headerLen
	}
	for _, g := range n.groups {
		if g.at.IsZero() || now.Before(g.at) {
			continue
		}
		if g.state == probing && g.step == probes {
			g.state, g.step = announcing, 0
		}
		g.step++
		switch g.state {
		case probing:
			q, records := g.probeMessage()
			more := len(q.name) + 4
			for i := range records {
				more += records[i].size()
			}
			if size+more > maxMessage {
				flush()
			}
			questions, proposed, size = append(questions, q), append(proposed, records...), size+more
			g.at = now.Add(probeInterval)
		case announcing:
			announce = append(announce, g.records...)
			// RFC 6762 8.3: "The Multicast DNS responder MUST send at least two unsolicited responses, one
			// second apart."
			g.at = now.Add(time.Second)
			if g.step == announcements {
				g.state, g.at = established, time.Time{}
			}
		default:
			g.at = time.Time{}
		}
	}
	flush()
	n.multicast(now, announce, nil)
}

// probeMessage returns the question and the proposed records of a probe. RFC 6762 section 8.1: "All probe
// queries SHOULD be done using the desired resource record name [...] and class [...], and query type ANY",
// with the unicast-response bit set.
func (g *group) probeMessage() (question, []record) {
	unique := g.uniqueName()
	var records []record
	for _, o := range g.records {
		if o.unique && o.name == unique {
			r := o.record
			r.flush = false // RFC 6762 10.2: the cache-flush bit is only for responses
			records = append(records, r)
		}
	}
	return question{name: unique, typ: typeANY, unicast: true}, records
}

// goodbye tells other hosts that the records of a group are gone. RFC 6762 section 10.1: a host should send
// "an unsolicited Multicast DNS response packet, giving the same resource record name, rrtype, rrclass, and
// rdata, but an RR TTL of zero."
func (n *Node) goodbye(now time.Time, g *group) {
	n.withdraw(now, g.records)
}

// withdraw multicasts records with a TTL of zero, and plans to multicast them again after one second. It omits the
// records that were never announced. It also omits the records that another group has announced too: for example, two
// services of one type share a record that names the type.
func (n *Node) withdraw(now time.Time, records []*own) {
	var gone []*own
	for _, o := range records {
		announced := o.announced
		o.announced = false
		if announced && !n.shared(o) {
			r := *o
			r.ttl, r.flush = 0, false
			gone = append(gone, &r)
		}
	}
	n.multicast(now, gone, nil)
	if len(gone) > 0 {
		n.goodbyes = append(n.goodbyes, farewell{now.Add(goodbyeInterval), gone})
	}
}

// shared reports whether another group has announced the same record as o.
func (n *Node) shared(o *own) bool {
	return slices.ContainsFunc(n.index[o.name.fold()], func(x *own) bool { return x.announced && x.g != o.g && x.same(&o.record) })
}

// repeatGoodbyes sends the second goodbyes that are due. The network may lose the first goodbye, and a host that does
// not receive a goodbye keeps the record for up to 75 minutes. repeatGoodbyes omits the records that have been
// published again.
func (n *Node) repeatGoodbyes(now time.Time) {
	var gone []*own
	n.goodbyes = slices.DeleteFunc(n.goodbyes, func(f farewell) bool {
		if now.Before(f.at) {
			return false
		}
		gone = append(gone, slices.DeleteFunc(f.records, func(o *own) bool { return n.current(o) != nil })...)
		return true
	})
	n.multicast(now, gone, nil)
}

// current returns the record that the Node publishes now and that is the same as o. It returns nil if there is no such
// record: since o was made, the service of o may have ended, or the host may have lost an address or its name.
func (n *Node) current(o *own) *own {
	for _, x := range n.index[o.name.fold()] {
		if x.g.state >= announcing && x.same(&o.record) {
			return x
		}
	}
	return nil
}

// checkConflict checks whether a record in a response shows that another host uses a unique name of this host. If so, a
// group that is probing gets another name, and a group that was announced probes its name again.
func (n *Node) checkConflict(now time.Time, r *record) {
	var lost *group
	for _, o := range n.index[r.name.fold()] {
		if !o.unique || o.g.state == unpublished {
			continue
		}
		if o.typ == r.typ && o.data == r.data {
			return // our own record, which another link of this host or a proxy has sent
		}
		// RFC 6762 8.1: while a group is probing, any record with the name is a conflict. RFC 6762 9: after
		// that, a conflict is a record "of the same name, rrtype and rrclass, but inconsistent rdata".
		if o.g.state == probing && o.name.fold() == o.g.uniqueName().fold() || o.typ == r.typ && r.ttl > 0 {
			lost = o.g
		}
	}
	switch {
	case lost == nil:
	case lost.state == probing:
		n.rename(now, lost)
	default:
		// RFC 6762 9: the host "MUST immediately reset its conflicted unique record to probing state, and
		// go through the startup steps".
		lost.state, lost.step, lost.at = probing, 0, now.Add(n.between(0, probeInterval))
	}
}

// rename gives a group another name after a conflict, and starts to verify the new name.
func (n *Node) rename(now time.Time, g *group) {
	g.number++
	base := n.cfg.Host
	format := "%s-%d" // RFC 6762 9 suggests this form for hosts; RFC 6763 D suggests "Name (2)" for services
	if g.service != nil {
		base, format = g.service.Instance, "%s (%d)"
	}
	for label := base; ; label = label[:len(label)-1] {
		if g.label = fmt.Sprintf(format, strings.ToValidUTF8(label, ""), g.number); len(g.label) <= maxLabel {
			break
		}
	}
	g.conflicts = append(slices.DeleteFunc(g.conflicts, func(t time.Time) bool { return now.Sub(t) > conflictTime }), now)
	delay := n.between(0, probeInterval)
	if len(g.conflicts) >= maxConflicts {
		g.conflicts = g.conflicts[len(g.conflicts)-maxConflicts:]
		delay = conflictDelay
	}
	n.probe(now, g, delay)
	if g == n.host {
		for _, s := range n.groups {
			if s != g {
				n.rebuild(s) // the SRV record of the service contains the new name
				if s.state >= announcing {
					s.state, s.step, s.at = announcing, 0, now.Add(probes*probeInterval+delay)
				}
			}
		}
	}
	n.reindex()
}

// checkProbe compares the proposed records of another host's probe with those of a group that probes the
// same name. RFC 6762 section 8.2: the host with the lexicographically later records wins. The other host
// waits one second and probes again.
func (n *Node) checkProbe(now time.Time, m *message) {
	for _, q := range m.questions {
		for _, g := range n.groups {
			if g.state != probing || g.uniqueName().fold() != q.name.fold() {
				continue
			}
			_, ours := g.probeMessage()
			var theirs []record
			for _, r := range m.authorities {
				if r.name.fold() == q.name.fold() {
					theirs = append(theirs, r)
				}
			}
			if len(theirs) > 0 && compareSets(ours, theirs) < 0 {
				g.step, g.at = 0, now.Add(time.Second)
			}
		}
	}
}

// compareSets sorts two sets of records and compares them as RFC 6762 section 8.2.1 says: by type, then by data.
// All records have the class IN.
func compareSets(x, y []record) int {
	order := func(a, b record) int {
		if a.typ != b.typ {
			return int(a.typ) - int(b.typ)
		}
		return strings.Compare(a.data, b.data)
	}
	slices.SortFunc(x, order)
	slices.SortFunc(y, order)
	return slices.CompareFunc(x, y, order)
}
