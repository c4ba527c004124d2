package stack

import (
	"bytes"
	"hash/maphash"
	"slices"
	"sync/atomic"
)

// A tcpTable has the connections, by their tuples. It is a hash table whose
// entries are parts of what they stand for: a connection costs it one pointer of
// a bucket, and a lookup touches nothing that the segment's way does not.
type tcpTable struct {
	seed   maphash.Seed                        // nobody can choose ports that all fall into one bucket
	shards atomic.Pointer[[tcpShards]tcpShard] // allocated for the first segment
	ports  tcpPorts
}

const tcpShards = 64

// A tcpShard is a part of the table.
type tcpShard struct {
	mu      rwMutex[levelTable]
	buckets []*tcpEntry // a power of two of them, at least one for each entry
	n       int         // entries
}

// A tcpEntry is the place in the table of a connection, or of what is left of one
// in TIME-WAIT. All but next stays as it is while it is there.
type tcpEntry struct {
	key  tuple
	hash uint32
	next *tcpEntry // in the bucket; under the shard's lock
	sock *TCP      // the whole of which this is a part,
	wait *timeWait // or this
}

func (tt *tcpTable) hash(k *tuple) uint32 { return uint32(maphash.Bytes(tt.seed, k[:])) }

// parts are the shards of the table.
func (tt *tcpTable) parts() *[tcpShards]tcpShard {
	if p := tt.shards.Load(); p != nil {
		return p
	}
	tt.shards.CompareAndSwap(nil, new([tcpShards]tcpShard))
	return tt.shards.Load()
}

func (tt *tcpTable) shard(hash uint32) *tcpShard { return &tt.parts()[hash%tcpShards] }

// bucket is where the entries of a hash begin. There is one.
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

// link adds an entry whose tuple is not there. sh.mu is held.
func (sh *tcpShard) link(e *tcpEntry) {
	if sh.n == len(sh.buckets) {
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

// unlink takes an entry out, and reports whether it was there. sh.mu is held.
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

// lookup finds what a tuple names, if anything.
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

// insert adds an entry, and reports false where its tuple is taken.
func (tt *tcpTable) insert(e *tcpEntry) bool { return tt.put(e) == nil }

// put adds an entry, or returns the one that has its tuple.
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

// replace puts an entry in the place of one with the same tuple, and reports
// false where that is gone.
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

// remove takes an entry out, if it is there.
func (tt *tcpTable) remove(e *tcpEntry) {
	sh := tt.shard(e.hash)
	sh.mu.Lock()
	if sh.unlink(e) {
		tt.ports.add(&e.key, -1, -e.own())
	}
	sh.mu.Unlock()
}

// sockets returns all connections that are not in TIME-WAIT, ordered by their tuples.
func (tt *tcpTable) sockets() []*TCP {
	var all []*TCP
	for i := range tcpShards {
		all = tt.parts()[i].sockets(all)
	}
	slices.SortFunc(all, func(a, b *TCP) int { return bytes.Compare(a.key[:], b.key[:]) })
	return all
}

// sockets appends the connections of a shard that are not in TIME-WAIT.
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
