package stack

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
	"sync/atomic"
)

// The range of ephemeral ports is that of Linux, because firewalls expect it. The RFCs have other ranges:
// RFC 6335 6 reserves 49152-65535, and RFC 6056 3.2 says: "ephemeral port selection algorithms should use
// the whole range 1024-65535".
const (
	minEphemeral = 32768
	maxEphemeral = 60999
	numEphemeral = maxEphemeral - minEphemeral + 1
)

// A portSource has the state of RFC 6056 3.3.4, "Algorithm 4: Double-Hash Port Selection": a counter
// for each class of destinations. A destination that knows the ports of its own connections cannot infer
// from them the ports of connections to other destinations.
type portSource struct {
	secret   uint64
	counters atomic.Pointer[[256]atomic.Uint32] // allocated for the first port
}

func (p *portSource) init(secret uint64) { p.secret = secret }

// counter returns the counter of a class of destinations. It allocates the counters on first use; they
// start at unpredictable values.
func (p *portSource) counter(class uint8) *atomic.Uint32 {
	all := p.counters.Load()
	if all == nil {
		all = new([256]atomic.Uint32)
		key := hashKey{p.secret, p.secret}
		for i := range all {
			all[i].Store(uint32(key.sum([]byte{byte(i)})))
		}
		p.counters.CompareAndSwap(nil, all)
		all = p.counters.Load()
	}
	return &all[class]
}

// ephemeralPort searches for a free port. It calls try once for each port of the range, until try returns
// true, and then returns that port. It reports false if try has returned false for all ports. hash selects
// the class and the first port: it is s.hashAddrs of the connection's addresses, with local port 0. For a
// socket without a remote address, hash is random.
func (s *Stack) ephemeralPort(hash uint64, try func(port uint16) bool) (uint16, bool) {
	counter := s.ports.counter(uint8(hash >> 56))
	// Several goroutines may search at the same time. Each starts at its own value of the counter.
	first := (counter.Add(1) + uint32(hash)) % numEphemeral // so that first+i does not overflow
	for i := range uint32(numEphemeral) {
		port := uint16(minEphemeral + (first+i)%numEphemeral)
		if try(port) {
			counter.Add(i) // the next search starts after this port
			return port, true
		}
	}
	return 0, false
}

// A hashKey is a secret key for SipHash-2-4 (Aumasson and Bernstein, 2012). Without the key, the hash is
// unpredictable.
type hashKey [2]uint64

// sum returns the SipHash-2-4 of b.
func (k *hashKey) sum(b []byte) uint64 {
	v0 := k[0] ^ 0x736f6d6570736575
	v1 := k[1] ^ 0x646f72616e646f6d
	v2 := k[0] ^ 0x6c7967656e657261
	v3 := k[1] ^ 0x7465646279746573
	round := func() {
		v0 += v1
		v1 = bits.RotateLeft64(v1, 13) ^ v0
		v0 = bits.RotateLeft64(v0, 32)
		v2 += v3
		v3 = bits.RotateLeft64(v3, 16) ^ v2
		v0 += v3
		v3 = bits.RotateLeft64(v3, 21) ^ v0
		v2 += v1
		v1 = bits.RotateLeft64(v1, 17) ^ v2
		v2 = bits.RotateLeft64(v2, 32)
	}
	last := uint64(len(b)) << 56
	for ; len(b) >= 8; b = b[8:] {
		m := binary.LittleEndian.Uint64(b)
		v3 ^= m
		round()
		round()
		v0 ^= m
	}
	for i, c := range b {
		last |= uint64(c) << (8 * i)
	}
	v3 ^= last
	round()
	round()
	v0 ^= last
	v2 ^= 0xff
	for range 4 {
		round()
	}
	return v0 ^ v1 ^ v2 ^ v3
}

// hashAddrs returns the hash of two addresses with ports, under the stack's key.
func (s *Stack) hashAddrs(local, remote netip.AddrPort) uint64 {
	var b [36]byte
	l, r := local.Addr().As16(), remote.Addr().As16()
	copy(b[:], l[:])
	copy(b[16:], r[:])
	binary.BigEndian.PutUint16(b[32:], local.Port())
	binary.BigEndian.PutUint16(b[34:], remote.Port())
	return s.key.sum(b[:])
}
