package resolve

import (
	"container/list"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	// maxTTL is the maximum time that an answer is cached. RFC 8767 4 recommends a cap of days to
	// weeks. It is lower here, because a stub resolver can always query its server again.
	maxTTL = 24 * time.Hour
	// maxNegativeTTL is the maximum time that a negative answer is cached. RFC 2308 5: "values of
	// one to three hours have been found to work well".
	maxNegativeTTL = 3 * time.Hour
	// maxCachedRecords is the maximum number of records of a cached answer. A message may have 5,000 short records, which
	// take more than a megabyte in memory.
	maxCachedRecords = 64
)

type cacheKey struct {
	name string // rooted, in lower case
	typ  dnsmessage.Type
}

type cacheEntry struct {
	key     cacheKey
	ans     *answer // shared by the callers; never modified
	expires time.Time
}

// A cache keeps positive and negative answers for their time to live. When it is full, it evicts
// the least recently used answer.
type cache struct {
	max int

	mu      sync.Mutex
	entries map[cacheKey]*list.Element
	recent  list.List // of *cacheEntry, the most recently used first
}

func newCache(max int) *cache {
	return &cache{max: max, entries: make(map[cacheKey]*list.Element)}
}

// get returns the answer for key, or nil. A nil cache is empty.
func (c *cache) get(key cacheKey, now time.Time) *answer {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	el, ok := c.entries[key]
	if !ok {
		return nil
	}
	e := el.Value.(*cacheEntry)
	if !now.Before(e.expires) {
		c.recent.Remove(el)
		delete(c.entries, key)
		return nil
	}
	c.recent.MoveToFront(el)
	return e.ans
}

// put stores ans for its time to live, if that is not zero. It does not store an answer with many records.
func (c *cache) put(key cacheKey, ans *answer, now time.Time) {
	ttl := min(ans.ttl, maxTTL)
	if ans.notFound {
		ttl = min(ttl, maxNegativeTTL)
	}
	// RFC 1035 3.2.1: "Zero values are interpreted to mean that the RR can only be
	// used for the transaction in progress, and should not be cached."
	if c == nil || ttl <= 0 || len(ans.records) > maxCachedRecords {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e := &cacheEntry{key: key, ans: ans, expires: now.Add(ttl)}
	if el, ok := c.entries[key]; ok {
		el.Value = e
		c.recent.MoveToFront(el)
		return
	}
	c.entries[key] = c.recent.PushFront(e)
	for c.recent.Len() > c.max {
		oldest := c.recent.Back()
		delete(c.entries, oldest.Value.(*cacheEntry).key)
		c.recent.Remove(oldest)
	}
}

// clear removes all answers.
func (c *cache) clear() {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.entries)
	c.recent.Init()
}
