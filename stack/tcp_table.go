package stack

import (
	"bytes"
	"hash/maphash"
	"slices"
	"sync/atomic"
)

// A tcpTable maps tuples to connections. It is a hash table whose entries are embedded in the connections,
// so the table itself needs only the pointers of the buckets. Most of the memory that a lookup reads is
// needed for handling the segment anyway.
type tcpTable struct {
	seed   maphash.Seed                        // random, so that peers cannot choose ports that share a bucket
	shards atomic.Pointer[[tcpShards]tcpShard] // allocated for the first segment
	ports  tcpPorts
}

const tcpShards = 64

// A tcpShard is a part of the table.
type tcpShard struct {
	mu      rwMutex[levelTable]
	buckets []*tcpEntry // heads of the linked lists; their number is a power of two, and at least n
	n       int         // number of entries
}

// A tcpEntry is the entry of a TCP or of a timeWait, which embeds it. While the entry is in the table, only
// next changes.
type tcpEntry struct {
	key  tuple
	hash uint32
	next *tcpEntry // next entry in the bucket; guarded by the shard's mu
	sock *TCP      // the TCP that embeds the entry, or nil
	wait *timeWait // the timeWait that embeds the entry, or nil
}

func (tt *tcpTable) hash(k *tuple) uint32 { return uint32(maphash.Bytes(tt.seed, k[:])) }

// parts returns the shards of the table, allocating them on first use.
func (tt *tcpTable) parts() *[tcpShards]tcpShard {
	if p := tt.shards.Load(); p != nil {
		return p
	}
	tt.shards.CompareAndSwap(nil, new([tcpShards]tcpShard))
	return tt.shards.Load()
}

func (tt *tcpTable) shard(hash uint32) *tcpShard { return &tt.parts()[hash%tcpShards] }

// bucket returns the head of the bucket of a hash. The shard must have buckets. sh.mu is held.
func (sh *tcpShard) bucket(hash uint32) **tcpEntry {
	return &sh.buckets[int(hash/tcpShards)&(len(sh.buckets)-1)]
}

// find returns the entry of a tuple, or nil. sh.mu is held.
func (sh *tcpShard) find(hash uint32, k *tuple) *tcpEntry {
	if sh.n == 0 {
		return nil
	}
	e := *sh.bucket(hash)
	for e != nil && (e.hash != hash || e.key != *k) {
		e = e.next
	}
	return e
}

// link adds an entry whose tuple is not in the shard. sh.mu is held.
func (sh *tcpShard) link(e *tcpEntry) {
	if sh.n == len(sh.buckets) { // double the buckets
		old := sh.buckets
		sh.buckets = make([]*tcpEntry, max(8, 2*len(old)))
		for _, f := range old {
			for f != nil {
				next, b := f.next, sh.bucket(f.hash)
				f.next, *b = *b, f
				f = next
			}
		}
	}
	b := sh.bucket(e.hash)
	e.next, *b = *b, e
	sh.n++
}

// unlink removes an entry, and reports whether it was in the shard. sh.mu is held.
func (sh *tcpShard) unlink(e *tcpEntry) bool {
	if sh.n == 0 {
		return false
	}
	b := sh.bucket(e.hash)
	for *b != e {
		if *b == nil {
			return false
		}
		b = &(*b).next
	}
	*b, e.next = e.next, nil
	sh.n--
	return true
}

// lookup returns the TCP or the timeWait of a tuple, or nil for both if the table has no such entry.
func (tt *tcpTable) lookup(k *tuple) (*TCP, *timeWait) {
	h := tt.hash(k)
	sh := tt.shard(h)
	sh.mu.RLock()
	e := sh.find(h, k)
	sh.mu.RUnlock()
	if e == nil {
		return nil, nil
	}
	return e.sock, e.wait
}

// insert adds an entry. It reports false if the table has an entry with its tuple.
func (tt *tcpTable) insert(e *tcpEntry) bool { return tt.put(e) == nil }

// put adds an entry and returns nil. If the table has an entry with the same tuple, put adds nothing and
// returns that entry.
func (tt *tcpTable) put(e *tcpEntry) (taken *tcpEntry) {
	e.hash = tt.hash(&e.key)
	sh := tt.shard(e.hash)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if taken = sh.find(e.hash, &e.key); taken != nil {
		return taken
	}
	sh.link(e)
	tt.ports.add(&e.key, 1, e.own())
	return nil
}

// replace replaces old by e, which has the same tuple. It reports false if old is not in the table.
func (tt *tcpTable) replace(old, e *tcpEntry) bool {
	e.hash = old.hash
	sh := tt.shard(e.hash)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if !sh.unlink(old) {
		return false
	}
	sh.link(e)
	tt.ports.add(&e.key, 0, e.own()-old.own())
	return true
}

// remove removes an entry if it is in the table.
func (tt *tcpTable) remove(e *tcpEntry) {
	sh := tt.shard(e.hash)
	sh.mu.Lock()
	if sh.unlink(e) {
		tt.ports.add(&e.key, -1, -e.own())
	}
	sh.mu.Unlock()
}

// sockets returns all connections that are not in TIME-WAIT, ordered by tuple.
func (tt *tcpTable) sockets() []*TCP {
	var all []*TCP
	for i := range tcpShards {
		all = tt.parts()[i].sockets(all)
	}
	slices.SortFunc(all, func(a, b *TCP) int { return bytes.Compare(a.key[:], b.key[:]) })
	return all
}

// sockets appends the connections of the shard that are not in TIME-WAIT to all.
func (sh *tcpShard) sockets(all []*TCP) []*TCP {
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	for _, e := range sh.buckets {
		for ; e != nil; e = e.next {
			if e.sock != nil {
				all = append(all, e.sock)
			}
		}
	}
	return all
}
