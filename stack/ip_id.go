package stack

import "sync/atomic"

// idCounters is how many counters of identifications a host has. A power of two.
const idCounters = 1024

// An idSource makes the identifications of IPv4 datagrams that may be fragmented.
//
// RFC 6864 4.3: "sources emitting non-atomic datagrams MUST NOT repeat IPv4 ID
// values within one MDL for a given source address/destination address/protocol
// tuple". All datagrams of a pair of addresses take theirs from one counter, which several pairs
// may share. Each pair adds an offset of its own, a keyed hash: who sees the identifications of one
// pair can predict those of no other.
//
// An atomic datagram (one with DF set, that is no fragment) needs none. RFC 6864 4.1: "Originating
// sources MAY set the IPv4 ID field of atomic datagrams to any value." It is 0, as on Linux, but in
// TCP, where each connection counts its packets.
type idSource struct {
	counters atomic.Pointer[[idCounters]atomic.Uint32] // allocated for the first path
}

// of returns the counter and the offset for a hash of a pair of addresses.
func (d *idSource) of(hash uint64) (*atomic.Uint32, uint16) {
	all := d.counters.Load()
	if all == nil {
		d.counters.CompareAndSwap(nil, new([idCounters]atomic.Uint32))
		all = d.counters.Load()
	}
	return &all[hash%idCounters], uint16(hash >> 48)
}

// nextID returns the first of n consecutive identifications for datagrams on the path; n is at
// least 1.
func (p *path) nextID(n uint16) uint16 {
	return uint16(p.ids.Add(uint32(n))) - n + p.idOffset
}
