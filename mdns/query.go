package mdns

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"time"
)

const (
	// maxInterval is the maximum time between two queries for the same name. RFC 6762 section 5.2: "When
	// the interval between queries reaches or exceeds 60 minutes, a querier MAY cap the interval".
	maxInterval = time.Hour
	// maxEvents is the maximum number of events of a Query that the caller has not read.
	maxEvents = 4 * maxCachedSet
)

// A Type is the type of a record that a Query asks for.
type Type uint16

// The types of records.
const (
	A    Type = typeA
	PTR  Type = typePTR
	TXT  Type = typeTXT
	AAAA Type = typeAAAA
	SRV  Type = typeSRV
)

// A Record is a record that another host has announced.
type Record struct {
	// Name is the name in presentation form with a final dot. In labels, a dot, a backslash and bytes that
	// are not printable UTF-8 are escaped: "\.", "\\", "\DDD".
	Name string
	Type Type
	// Addr is the address of an A or AAAA record.
	Addr netip.Addr
	// Target is the name in a PTR or SRV record, in the same form as Name. Port, Priority and Weight are the
	// other fields of an SRV record.
	Target                 string
	Port, Priority, Weight uint16
	// TXT are the strings of a TXT record.
	TXT []string
}

// An Event says that a record has appeared or disappeared.
type Event struct {
	Added  bool // false: removed
	Record Record
}

// An ask is a question that the Node repeats until no Query needs the answers.
type ask struct {
	question question
	queries  []*Query
	at       time.Time // of the next query
	interval time.Duration
	sent     int  // number of queries
	denied   bool // whether the owner of the name has said that there is no such record
}

func (q *ask) soon(at time.Time) {
	if q.at.IsZero() || at.Before(q.at) {
		q.at = at
	}
}

func (q *ask) event(added bool, r *record) {
	for _, x := range q.queries {
		x.add(added, r)
	}
}

// A Query wants the records of a name. The Node asks for them with decreasing frequency until End (RFC 6762
// section 5.2).
type Query struct {
	n      *Node
	ask    *ask
	events []Event
}

func (x *Query) add(added bool, r *record) {
	if len(x.events) < maxEvents {
		if out, ok := r.export(); ok {
			x.events = append(x.events, Event{added, out})
		}
	}
}

// Pending reports whether Events returns an event.
func (x *Query) Pending() bool { return len(x.events) > 0 }

// Denied reports whether the owner of the name has said that the name has no such records.
func (x *Query) Denied() bool { return x.ask.denied }

// Events returns the events since the last call, oldest first.
func (x *Query) Events() []Event {
	events := x.events
	x.events = nil
	return events
}

// Query starts a question for the records of a name in presentation form. Cached records are the first events. The
// first message is sent after 20 to 120 ms. If prompt is set, it is sent at once and asks for a unicast response, which
// suits a lookup. If prompt is set and a cached unique record answers the Query, no message is sent before the time to
// refresh that record. A Query for a question that is already being asked shares the messages of that question. The
// error says that the name is malformed.
func (n *Node) Query(now time.Time, s string, typ Type, prompt bool) (*Query, error) {
	nm, err := parseName(s)
	if err != nil {
		return nil, err
	}
	k := key{nm.fold(), uint16(typ)}
	q := n.questions[k]
	if q == nil {
		q = &ask{question: question{name: nm, typ: uint16(typ), unicast: prompt}}
		n.questions[k] = q
		// RFC 6762 5.2: "a Multicast DNS querier SHOULD also delay the first query of the series by a
		// randomly chosen amount in the range 20-120 ms." The query of a lookup for a user is not delayed.
		q.at = now.Add(n.between(20*time.Millisecond, 120*time.Millisecond))
	}
	if prompt && q.sent == 0 {
		q.at = now
	}
	x := &Query{n: n, ask: q}
	q.queries = append(q.queries, x)
	for _, e := range n.cache.entries[k] {
		if now.Before(e.expires) {
			x.add(true, &e.record)
			n.cache.soon(e.refresh)
			// The Node need not query for a unique record that is cached before the time to refresh it.
			if prompt && e.flush && now.Before(e.refresh) {
				q.at = e.refresh
			}
		}
	}
	return x, nil
}

// End ends a Query.
func (x *Query) End() {
	q := x.ask
	q.queries = slices.DeleteFunc(q.queries, func(y *Query) bool { return x == y })
	if k := (key{q.question.name.fold(), q.question.typ}); len(q.queries) == 0 && x.n.questions[k] == q {
		delete(x.n.questions, k)
	}
}

// sendQueries sends the questions that are due, with the known answers.
func (n *Node) sendQueries(now time.Time) {
	var due []*ask
	for _, q := range n.questions {
		if !q.at.IsZero() && !now.Before(q.at) {
			due = append(due, q)
		}
	}
	if len(due) == 0 {
		return
	}
	slices.SortFunc(due, func(a, b *ask) int {
		return strings.Compare(string(a.question.name)+string(rune(a.question.typ)), string(b.question.name)+string(rune(b.question.typ)))
	})
	var questions []question
	var answers []record
	size := headerLen
	flush := func() {
		n.multicastQuery(questions, answers)
		questions, answers, size = nil, nil, headerLen
	}
	for _, q := range due {
		more := len(q.question.name) + 4
		if size+more > maxMessage && len(questions) > 0 {
			flush()
		}
		size += more
		questions = append(questions, q.question)
		for _, e := range n.cache.entries[key{q.question.name.fold(), q.question.typ}] {
			// RFC 6762 7.1: a querier "MUST NOT include records in the Known-Answer list whose
			// remaining TTL is less than half of their original TTL."
			if left := e.remaining(now); time.Duration(left)*time.Second >= e.life/2 && left > 0 {
				known := e.record
				known.ttl, known.flush = left, false // 10.2: no cache-flush bit in known answers
				answers = append(answers, known)
				size += known.size()
			}
		}
		q.advance(now)
	}
	flush()
}

// advance plans the next query. RFC 6762 section 5.2: "the interval between the first two queries MUST be
// at least one second, [and] the intervals between successive queries MUST increase by at least a factor of
// two."
func (q *ask) advance(now time.Time) {
	q.interval = min(max(2*q.interval, time.Second), maxInterval)
	q.at = now.Add(q.interval)
	q.sent++
	q.question.unicast = false // 5.4: only the first query asks for a unicast response
}

// multicastQuery queues a query. If the known answers do not fit into one message, the TC bit says that more
// follow (RFC 6762 section 7.2).
func (n *Node) multicastQuery(questions []question, answers []record) {
	for first := true; first || len(answers) > 0; first = false {
		size := headerLen
		w := newBuilder(0, 0)
		if first {
			for _, q := range questions {
				w.question(q)
				size += len(q.name) + 4
			}
		}
		i := 0
		for ; i < len(answers) && (i == 0 && !first || size+answers[i].size() <= maxMessage); i++ {
			size += answers[i].size()
			w.record(1, &answers[i])
		}
		if answers = answers[i:]; len(answers) > 0 {
			binary.BigEndian.PutUint16(w.b[2:], flagTruncated)
		}
		n.out = append(n.out, Message{Data: w.b})
	}
}

// othersAsk handles a query of another host. RFC 6762 section 7.3: a host that is about to ask the same question, and
// that knows all the answers that the other host lists as known, "SHOULD treat its own query as having been sent".
func (n *Node) othersAsk(now time.Time, m *message) {
	if m.flags&flagTruncated != 0 {
		return
	}
	for _, o := range m.questions {
		k := key{o.name.fold(), o.typ}
		q := n.questions[k]
		if q == nil || o.unicast || q.at.IsZero() || q.at.After(now.Add(time.Second)) {
			continue
		}
		set := n.cache.entries[k]
		if !slices.ContainsFunc(m.answers, func(r record) bool {
			return r.typ == o.typ && r.name.fold() == k.name && !slices.ContainsFunc(set, func(e *cached) bool { return e.data == r.data })
		}) {
			q.advance(now)
		}
	}
}

// deny notes the types that an NSEC record denies. RFC 6762 section 6.1: the next name in the record is the record's
// own name, and the bitmap in the record has one window.
func (n *Node) deny(r *record) {
	own := len(r.name)
	if len(r.data) < own+2 || name(r.data[:own]).fold() != r.name.fold() || r.data[own] != 0 {
		return
	}
	bits := r.data[own+2:]
	for _, typ := range []uint16{typeA, typePTR, typeTXT, typeAAAA, typeSRV} {
		q := n.questions[key{r.name.fold(), typ}]
		if q != nil && (int(typ/8) >= len(bits) || bits[typ/8]&(0x80>>(typ%8)) == 0) {
			q.denied = r.ttl > 0
		}
	}
}

// export returns a record in the form for callers. It reports false if the data are malformed.
func (r *record) export() (Record, bool) {
	out := Record{Name: r.name.String(), Type: Type(r.typ)}
	switch r.typ {
	case typeA, typeAAAA:
		out.Addr, _ = netip.AddrFromSlice([]byte(r.data))
		return out, out.Addr.IsValid()
	case typePTR:
		out.Target = name(r.data).String()
	case typeSRV:
		b := []byte(r.data)
		out.Priority, out.Weight, out.Port = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:]), binary.BigEndian.Uint16(b[4:])
		out.Target = name(r.data[6:]).String()
	case typeTXT:
		for d := r.data; len(d) > 0; {
			l := int(d[0])
			if len(d) < 1+l {
				return out, false
			}
			if l > 0 {
				out.TXT = append(out.TXT, d[1:1+l])
			}
			d = d[1+l:]
		}
	}
	return out, true
}
