package stack

import (
	"math/bits"
	"sync/atomic"
)

// An idSource makes IP identifications.
//
// RFC 6864 4.3: "sources emitting non-atomic datagrams MUST NOT repeat IPv4 ID
// values within one MDL for a given source address/destination address/protocol
// tuple". The counter goes once around all values before one comes again, and
// a secret permutation hides from a receiver how many others were sent.
type idSource struct {
	counter  atomic.Uint32
	mul, xor uint16
}

func (d *idSource) init(secret uint64) {
	d.counter.Store(uint32(secret))
	d.mul = uint16(secret>>32) | 1 // odd, so that to multiply is a permutation
	d.xor = uint16(secret >> 48)
}

// nextIPID returns the next identification.
func (s *Stack) nextIPID() uint16 {
	d := &s.ids
	id := uint16(d.counter.Add(1))
	id = id*d.mul ^ d.xor
	id = bits.RotateLeft16(id, 7) * d.mul
	return id ^ id>>8
}
