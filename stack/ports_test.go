package stack

import (
	"encoding/binary"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
)

func TestSipHashGivesTheValuesOfItsAuthors(t *testing.T) {
	// The key is 00 01 .. 0f and the message 00 01 .. (length-1).
	var k, m [16]byte
	for i := range k {
		k[i], m[i] = byte(i), byte(i)
	}
	key := hashKey{binary.LittleEndian.Uint64(k[:]), binary.LittleEndian.Uint64(k[8:])}
	require.Equal(t, uint64(0x726fdb47dd0e0e31), key.sum(m[:0]))
	require.Equal(t, uint64(0xa129ca6149be45e5), key.sum(m[:15]))
}

func TestEphemeralPortsAreInRangeAndAllOfThemAreTried(t *testing.T) {
	s := newHost(t, nic.NewNull(nic.Link{}), "192.0.2.1/24")
	seen := make(map[uint16]int)
	search := func(hash uint64) {
		clear(seen)
		_, ok := s.ephemeralPort(hash, func(port uint16) bool {
			seen[port]++
			return false
		})
		require.False(t, ok)
		require.Equal(t, numEphemeral, len(seen)) // require.Len prints the whole map
		for port, n := range seen {
			require.Equal(t, 1, n)
			require.True(t, port >= minEphemeral && port <= maxEphemeral)
		}
	}
	search(s.random.next(randPort))
	s.ports.counter(0).Store(math.MaxUint32 - numEphemeral/2)
	search(0) // the counter overflows during this search
}

func TestEphemeralPortsAreUnrelatedByDestination(t *testing.T) {
	s := newHost(t, nic.NewNull(nic.Link{}), "192.0.2.1/24")
	port := func(remote string) uint16 {
		p, ok := s.ephemeralPort(s.hashAddrs(addrPort("192.0.2.1:0"), addrPort(remote)), func(uint16) bool { return true })
		require.True(t, ok)
		return p
	}
	a, b := port("192.0.2.2:80"), port("192.0.2.3:80")
	require.NotEqual(t, a+1, b)
	require.Equal(t, (a-minEphemeral+1)%numEphemeral, port("192.0.2.2:80")-minEphemeral, "the next port for the same destination")
}

func TestAWildcardSocketTakesAnEphemeralPort(t *testing.T) {
	s := newHost(t, nic.NewNull(nic.Link{}), "192.0.2.1/24")
	ports := make(map[uint16]bool)
	for range 200 {
		u := openUDP(t, s, "0.0.0.0:0")
		p := u.LocalAddr().Port()
		require.True(t, p >= minEphemeral && p <= maxEphemeral)
		require.False(t, ports[p])
		ports[p] = true
		require.Equal(t, "0.0.0.0", u.LocalAddr().Addr().String())
	}
}
