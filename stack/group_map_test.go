package stack

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

// The number of groups crosses the limit between the slice and the map in both directions.
func TestAGroupMapAgreesWithAMap(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var m groupMap[int]
	want := map[netip.Addr]int{}
	crossed := 0
	for i := range 20_000 {
		group := netip.AddrFrom4([4]byte{224, 1, 2, byte(rnd.UintN(3 * groupScan))})
		was := len(want) > groupScan
		if rnd.UintN(100) < uint(30+40*(i/500%2)) { // alternately more deletions and more additions
			m.set(group, i)
			want[group] = i
		} else {
			m.delete(group)
			delete(want, group)
		}
		if was != (len(want) > groupScan) {
			crossed++
		}
		require.Equal(t, len(want), m.len())
		v, ok := m.get(group)
		w, there := want[group]
		require.Equal(t, there, ok)
		require.Equal(t, w, v)
		if i%10 == 0 {
			require.Equal(t, want, maps.Collect(m.all()))
		}
	}
	require.Greater(t, crossed, 20)
	for group := range want {
		for range m.all() {
			break
		}
		m.delete(group)
	}
	require.Zero(t, m.len())
	require.Nil(t, m.many, "an empty map becomes a slice again")
}
