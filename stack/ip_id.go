package stack

import "sync/atomic"

// idCounters is the number of identification counters of a host. It is a power of two.
const idCounters = 1024

// An idSource makes the identifications of IPv4 datagrams that may be fragmented, and of IPv6
// fragments.
//
// RFC 6864 4.3: "sources emitting non-atomic datagrams MUST NOT repeat IPv4 ID values within one MDL
// for a given source address/destination address/protocol tuple". All datagrams from one address to
// another use the same counter. Several pairs of addresses may share a counter, but each pair adds its
// own offset, a keyed hash. The identifications of one pair then do not reveal those of another.
//
// An atomic datagram has DF set and is not a fragment. It needs no identification. RFC 6864 4.1:
// "Originating sources MAY set the IPv4 ID field of atomic datagrams to any value." As on Linux, the
// identification is 0 if the sender asked for DF. If the stack itself has set DF, the datagram gets an
// identification all the same, because a router may ignore DF. TCP does not use an idSource: each connection
// counts its own packets.
type idSource struct {
	counters atomic.Pointer[[idCounters]atomic.Uint32] // allocated for the first path
}

// of returns the counter and the offset for a pair of addresses. hash is a keyed hash of the pair.
func (d *idSource) of(hash uint64) (*atomic.Uint32, uint16) {
	all := d.counters.Load()
	if all == nil {
		d.counters.CompareAndSwap(nil, new([idCounters]atomic.Uint32))
		all = d.counters.Load()
	}
	return &all[hash%idCounters], uint16(hash >> 48)
}

// nextID reserves n consecutive identifications for IPv4 datagrams on the path, and returns the first. n
// must be at least 1.
func (p *path) nextID(n uint16) uint16 {
	return uint16(p.ids.Add(uint32(n))) - n + p.idOffset
}
