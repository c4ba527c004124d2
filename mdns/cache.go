package mdns

import (
	"slices"
	"time"
)

const (
	// maxCached is the maximum number of cached records, and maxCachedSet that of one name and type.
	maxCached    = 8192
	maxCachedSet = 2048
	// maxTTL limits the time to live of a received record.
	maxTTL = 24 * time.Hour
)

// A cache has the records that others have announced.
type cache struct {
	entries map[key][]*cached
	total   int
	next    time.Time // no record expires or is refreshed before this time; zero if no record does at all
}

// A cached record is valid until expires.
type cached struct {
	record
	received time.Time
	life     time.Duration
	expires  time.Time
	// refresh is when to query for the record again, if there is a question for it. Zero means that there
	// are no further queries.
	refresh time.Time
	queries int // number of such queries so far
}

// soon sets next to at, if at is earlier. A zero at has no effect.
func (c *cache) soon(at time.Time) {
	if !at.IsZero() && (c.next.IsZero() || at.Before(c.next)) {
		c.next = at
	}
}

// remaining returns the time to live that is left, in seconds.
func (e *cached) remaining(now time.Time) uint32 {
	return uint32(max(0, e.expires.Sub(now)) / time.Second)
}

// renew starts the life of a record.
func (e *cached) renew(now time.Time, life time.Duration) {
	e.received, e.life, e.expires, e.queries = now, life, now.Add(life), 0
	e.refresh = now.Add(life * 80 / 100)
}

// learn caches a record. A record with a TTL of zero makes the same cached record expire after one second. learn passes
// an NSEC record to deny and does not cache it.
func (n *Node) learn(now time.Time, r *record) {
	switch r.typ {
	case typeNSEC:
		n.deny(r)
		return
	case typeANY, typeOPT:
		return
	}
	c, k := &n.cache, key{r.name.fold(), r.typ}
	set := c.entries[k]
	if r.flush {
		for _, e := range set {
			// RFC 6762 10.2: "all old records with that name, rrtype, and rrclass that were received more
			// than one second ago are declared invalid, and marked to expire from the cache in one
			// second."
			if e.data != r.data && now.Sub(e.received) > time.Second && e.expires.After(now.Add(time.Second)) {
				e.expires, e.refresh = now.Add(time.Second), time.Time{}
				c.soon(e.expires)
			}
		}
	}
	i := slices.IndexFunc(set, func(e *cached) bool { return e.data == r.data })
	life := min(time.Duration(r.ttl)*time.Second, maxTTL)
	switch {
	case i >= 0 && life == 0:
		// RFC 6762 10.1: a record that is withdrawn is kept for one second. In this time, another host for
		// which the record is still valid can announce the record again.
		set[i].expires, set[i].refresh = now.Add(time.Second), time.Time{}
		c.soon(set[i].expires)
		return
	case life == 0:
		return
	case i >= 0:
		set[i].name = r.name
		set[i].renew(now, life)
		c.soon(set[i].refresh)
		return
	}
	wanted := n.questions[k] != nil
	if len(set) >= maxCachedSet || c.total >= maxCached && !(wanted && n.evict()) {
		return
	}
	e := &cached{record: *r}
	e.renew(now, life)
	c.entries[k] = append(c.entries[k], e)
	c.total++
	c.soon(e.refresh)
	if q := n.questions[k]; q != nil {
		q.denied = false
		q.event(true, &e.record)
	}
}

// evict removes the records of one name and type for which there is no question. It reports false if there are
// no such records.
func (n *Node) evict() bool {
	for k, set := range n.cache.entries {
		if n.questions[k] == nil {
			n.cache.total -= len(set)
			delete(n.cache.entries, k)
			return true
		}
	}
	return false
}

// expire removes records whose life has ended. If there is a question for a record that is about to expire, expire
// makes the next query for this question due.
//
// RFC 6762 section 5.2: "The querier should plan to issue a query at 80% of the record lifetime, and then if no answer
// is received, at 85%, 90%, and 95%."
func (n *Node) expire(now time.Time) {
	c := &n.cache
	if c.next.IsZero() || now.Before(c.next) {
		return
	}
	c.next = time.Time{}
	for k, set := range c.entries {
		q := n.questions[k]
		kept := set[:0]
		for _, e := range set {
			if !now.Before(e.expires) {
				c.total--
				if q != nil {
					q.event(false, &e.record)
				}
				continue
			}
			if q != nil && !e.refresh.IsZero() && !now.Before(e.refresh) {
				q.soon(now)
				if e.queries++; e.queries > 3 {
					e.refresh = time.Time{}
				} else {
					// RFC 6762 5.2: "A random variation of 2% of the record TTL should be added".
					e.refresh = e.received.Add(e.life*time.Duration(80+5*e.queries)/100 + n.between(0, e.life/50+1))
				}
			}
			if q != nil {
				c.soon(e.refresh)
			}
			c.soon(e.expires)
			kept = append(kept, e)
		}
		clear(set[len(kept):])
		if len(kept) == 0 {
			delete(c.entries, k)
		} else {
			c.entries[k] = kept
		}
	}
}
