package mdns

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"time"
)

const (
	// maxDelayed is the maximum number of responses that wait for their time.
	maxDelayed = 256
	// maxDenied is the maximum number of questions of a query that are answered with a denial.
	maxDenied = 32
	// legacyTTL is the maximum TTL of a response to a legacy resolver, which does not implement Multicast DNS.
	// RFC 6762 section 6.7: "The resource record TTL given in a legacy unicast response SHOULD NOT be greater
	// than ten seconds".
	legacyTTL = 10
	// recordInterval is the minimum time between two multicasts of a record. RFC 6762 section 6: a responder
	// "MUST NOT (except in the one special case of answering probe queries) multicast a record on a given
	// interface until at least one second has elapsed since the last time that record was multicast on that
	// particular interface". The answer to a probe waits for probeInterval only.
	recordInterval = time.Second
)

// A response is a multicast response that waits for its time. When the time comes, records that the Node no
// longer publishes are omitted.
type response struct {
	at      time.Time
	asked   time.Time      // when the query was received
	from    netip.AddrPort // the querier
	more    bool           // whether the querier sends more known answers
	probe   bool           // whether the query was a probe
	records []*own
	denied  []question // the questions for types that the name did not have
}

// A repeat is a plan to multicast a record again at the time at. The record was asked for too soon after its last
// multicast, or another host has withdrawn it (see rescue).
type repeat struct {
	o         *own
	asked, at time.Time
	interval  time.Duration // see recordInterval
}

// receiveQuery answers a query.
func (n *Node) receiveQuery(now time.Time, m *message, from netip.AddrPort) {
	if len(m.authorities) > 0 {
		n.checkProbe(now, m)
	}
	if len(m.questions) == 0 {
		n.moreKnown(now, m, from)
		return
	}
	legacy := from.Port() != Port
	if !legacy {
		n.othersAsk(now, m)
	}
	var multi, uni response
	shared := false
	for _, q := range m.questions {
		found, unique, sharedToo := n.answersTo(q)
		shared = shared || sharedToo
		for _, o := range found {
			if !legacy && known(m.answers, o) {
				continue
			}
			// RFC 6762 5.4: a question with the unicast-response bit is answered by unicast, "unless the
			// responder has not multicast that record recently (within one quarter of its TTL)".
			recent := now.Sub(o.sent) < time.Duration(o.ttl)*time.Second/4
			if legacy || q.unicast && (recent || len(m.authorities) > 0) {
				uni.add(o)
			} else {
				multi.add(o)
			}
		}
		if unique == nil || len(found) > 0 {
			continue
		}
		r := &multi
		if legacy || q.unicast {
			r = &uni
		}
		if len(r.denied) < maxDenied && !slices.Contains(r.denied, q) {
			r.denied = append(r.denied, q)
		}
	}
	n.sendUnicast(m, &uni, from, legacy)
	if len(multi.records)+len(multi.denied) == 0 {
		return
	}
	multi.from, multi.probe, multi.asked, multi.at = from, len(m.authorities) > 0, now, now
	switch {
	case m.flags&flagTruncated != 0:
		// RFC 6762 7.2: after a query with the TC bit, a responder waits 400 to 500 ms for more known
		// answers.
		multi.more, multi.at = true, now.Add(n.between(400*time.Millisecond, 500*time.Millisecond))
	case shared:
		// RFC 6762 6: "each responder SHOULD delay its response by a random amount of time selected with
		// uniform random distribution in the range 20-120 ms", unless no other host can answer.
		multi.at = now.Add(n.between(20*time.Millisecond, 120*time.Millisecond))
	}
	if len(n.delayed) < maxDelayed {
		n.delayed = append(n.delayed, &multi)
	}
	n.sendDelayed(now)
}

func (r *response) add(o *own) {
	if !slices.ContainsFunc(r.records, func(x *own) bool { return x.same(&o.record) }) {
		r.records = append(r.records, o)
	}
}

// known reports whether o is among the known answers of a query. RFC 6762 section 7.1: a responder does not
// send a record that the querier lists with at least half of the record's TTL.
func known(answers []record, o *own) bool {
	return slices.ContainsFunc(answers, func(r record) bool { return r.ttl >= o.ttl/2 && r.same(&o.record) })
}

// moreKnown removes records from the delayed responses to a querier if a further message of the querier has
// them as known answers.
func (n *Node) moreKnown(now time.Time, m *message, from netip.AddrPort) {
	for _, r := range n.delayed {
		if !r.more || r.from != from {
			continue
		}
		r.records = slices.DeleteFunc(r.records, func(o *own) bool { return known(m.answers, o) })
		if m.flags&flagTruncated != 0 {
			r.at = now.Add(n.between(400*time.Millisecond, 500*time.Millisecond))
		}
	}
}

// answersTo returns the own records that answer a question. If no other host may have records of the name, unique is
// one of the Node's records of the name; otherwise it is nil. shared reports whether other hosts may answer too.
func (n *Node) answersTo(q question) (found []*own, unique *own, shared bool) {
	for _, o := range n.index[q.name.fold()] {
		if o.g.state < announcing {
			continue
		}
		shared = shared || !o.unique
		if o.unique {
			unique = o
		}
		if q.typ == o.typ || q.typ == typeANY {
			found = append(found, o)
		}
	}
	return found, unique, shared
}

// denials returns NSEC records that deny the types in questions. It omits a question whose name is not unique to this
// host, and a question that a record answers that the Node publishes now.
func (n *Node) denials(questions []question) (all []record) {
	for _, q := range questions {
		if found, unique, _ := n.answersTo(q); unique != nil && len(found) == 0 &&
			!slices.ContainsFunc(all, func(r record) bool { return r.name == unique.name }) {
			all = append(all, n.denial(unique))
		}
	}
	return all
}

// denial returns an NSEC record with the types that exist for a unique name. RFC 6762 section 6.1: "Any time
// a responder receives a query for a name for which it has verified exclusive ownership, for a type for which
// that name has no records, the responder MUST [...] respond asserting the nonexistence of that record".
func (n *Node) denial(of *own) record {
	var bits [32]byte
	last := 0
	for _, o := range n.index[of.name.fold()] {
		bits[o.typ/8] |= 0x80 >> (o.typ % 8)
		last = max(last, int(o.typ/8))
	}
	data := string(of.name) + string([]byte{0, byte(last + 1)}) + string(bits[:last+1])
	return record{name: of.name, typ: typeNSEC, flush: true, ttl: of.ttl, data: data}
}

// suppress notes that another host has just sent a record that this host publishes too. The delayed responses then
// omit the record. RFC 6762 section 7.4: the TTL of the other host's record must not be less than that of our record.
func (n *Node) suppress(now time.Time, r *record) {
	if len(n.delayed)+len(n.again) == 0 {
		return
	}
	for _, o := range n.index[r.name.fold()] {
		if o.same(r) && r.ttl >= o.ttl {
			o.sent = now
		}
	}
}

// rescue makes the Node multicast a record again if another host has withdrawn it or sent it with a short TTL. RFC 6762
// section 6.6: "If the TTL of B's resource record given in the message is less than half the true TTL from A's point of
// view, then A MUST mark its record to be announced via multicast."
func (n *Node) rescue(now time.Time, r *record) {
	for _, o := range n.index[r.name.fold()] {
		if o.g.state >= announcing && r.ttl < o.ttl/2 && o.same(r) {
			n.sendAgain(o, now, recordInterval)
		}
	}
}

// sendAgain plans to multicast a record again when interval has passed since its last multicast, but not before the
// time asked, at which the record was asked for.
func (n *Node) sendAgain(o *own, asked time.Time, interval time.Duration) {
	r := repeat{o, asked, o.sent.Add(interval), interval}
	if r.at.Before(asked) {
		r.at = asked
	}
	if !o.repeats {
		o.repeats = true
		n.again = append(n.again, r)
		return
	}
	x := &n.again[slices.IndexFunc(n.again, func(x repeat) bool { return x.o == o })]
	if x.asked.Before(asked) {
		x.asked = asked // the record must be multicast after the last request for it
	}
	if r.at.Before(x.at) {
		x.at, x.interval = r.at, interval // the answer to a probe may be sent earlier
	}
}

// sendDelayed sends the delayed responses and the repeats that are due. One message may have the records of several
// responses.
func (n *Node) sendDelayed(now time.Time) {
	var records []*own
	var denied []question
	add := func(o *own, asked time.Time, interval time.Duration) {
		switch o = n.current(o); {
		case o == nil || !o.sent.Before(asked): // withdrawn, or multicast since the query
		case now.Sub(o.sent) < interval:
			n.sendAgain(o, asked, interval) // the querier may have lost the last multicast
		case !slices.ContainsFunc(records, func(x *own) bool { return x.same(&o.record) }):
			records = append(records, o)
		}
	}
	var again []repeat
	n.again = slices.DeleteFunc(n.again, func(r repeat) bool {
		due := !now.Before(r.at)
		if due {
			r.o.repeats = false // cleared for all records before the first add: add may plan a record again
			again = append(again, r)
		}
		return due
	})
	for _, r := range again {
		add(r.o, r.asked, r.interval)
	}
	n.delayed = slices.DeleteFunc(n.delayed, func(r *response) bool {
		if now.Before(r.at) {
			return false
		}
		interval := recordInterval
		if r.probe {
			interval = probeInterval
		}
		for _, o := range r.records {
			add(o, r.asked, interval)
		}
		denied = append(denied, r.denied...)
		return true
	})
	denials := slices.DeleteFunc(n.denials(denied), func(r record) bool {
		return now.Sub(n.denied[r.name.fold()]) < recordInterval
	})
	for _, r := range denials {
		n.denied[r.name.fold()] = now
	}
	n.multicast(now, records, denials)
}

// multicast queues responses with records and denials, as many in a message as fit. It adds the records that a querier
// would ask for next if they fit too.
func (n *Node) multicast(now time.Time, records []*own, denials []record) {
	for _, o := range records {
		o.sent, o.announced = now, true
	}
	for len(records)+len(denials) > 0 {
		w := newBuilder(0, flagResponse|flagAuthoritative)
		size, i, j := headerLen, 0, 0
		for ; i < len(records) && (i == 0 || size+records[i].size() <= maxMessage); i++ {
			size += records[i].size()
			w.record(1, &records[i].record)
		}
		if i == len(records) {
			for ; j < len(denials) && (i+j == 0 || size+denials[j].size() <= maxMessage); j++ {
				size += denials[j].size()
				w.record(1, &denials[j])
			}
		}
		for _, o := range n.extras(records[:i]) {
			if now.Sub(o.sent) < recordInterval {
				continue
			}
			if size += o.size(); size > maxMessage {
				break
			}
			w.record(3, &o.record)
			o.sent, o.announced = now, true
		}
		records, denials = records[i:], denials[j:]
		n.out = append(n.out, Message{Data: w.b})
	}
}

// extras returns the additional records for a response with the given records. RFC 6763 section 12 recommends the SRV
// and TXT records for a PTR record, and the address records for an SRV record.
func (n *Node) extras(records []*own) []*own {
	var extra []*own
	add := func(nm name, types ...uint16) {
		for _, o := range n.index[nm.fold()] {
			if slices.Contains(types, o.typ) && o.g.state >= announcing && !slices.Contains(records, o) && !slices.Contains(extra, o) {
				extra = append(extra, o)
			}
		}
	}
	for _, o := range records {
		if o.ttl == 0 {
			continue
		}
		switch o.typ {
		case typePTR:
			if name(o.data).fold() != n.hostNameFold() {
				add(name(o.data), typeSRV, typeTXT)
			}
		case typeSRV:
			add(name(o.data[6:]), typeA, typeAAAA)
		case typeA, typeAAAA:
			add(o.name, typeA, typeAAAA) // RFC 6762 6.2: the other addresses of the name
		}
		if len(extra) > 64 {
			break
		}
	}
	for _, o := range slices.Clone(extra) {
		if o.typ == typeSRV {
			add(name(o.data[6:]), typeA, typeAAAA)
		}
	}
	return extra
}

func (n *Node) hostNameFold() name {
	if n.host == nil {
		return ""
	}
	return n.hostName().fold()
}

// sendUnicast queues a unicast response. RFC 6762 section 6.7: a response to a legacy resolver has the ID and
// the question of the query, short TTLs and no cache-flush bits.
func (n *Node) sendUnicast(m *message, r *response, to netip.AddrPort, legacy bool) {
	if len(r.records)+len(r.denied) == 0 {
		return
	}
	id := uint16(0)
	if legacy {
		id = m.id
	}
	w := newBuilder(id, flagResponse|flagAuthoritative)
	size := headerLen
	if legacy {
		for _, q := range m.questions {
			q.unicast = false
			w.question(q)
			size += len(q.name) + 4
		}
	}
	put := func(section int, x record) {
		n := x.size()
		if size+n > maxMessage {
			if legacy && section == 1 { // RFC 6762 18.5: the TC bit has its usual meaning in legacy responses
				binary.BigEndian.PutUint16(w.b[2:], flagResponse|flagAuthoritative|flagTruncated)
			}
			return
		}
		size += n
		if legacy {
			x.ttl, x.flush = min(x.ttl, legacyTTL), false
		}
		w.record(section, &x)
	}
	for _, o := range r.records {
		o.announced = true
		put(1, o.record)
	}
	for _, d := range n.denials(r.denied) {
		put(1, d)
	}
	for _, o := range n.extras(r.records) {
		o.announced = true
		put(3, o.record)
	}
	n.out = append(n.out, Message{Data: w.b, To: to})
}
