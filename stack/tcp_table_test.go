package stack

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/usernet/usernet/stack/tcp"
)

func TestTheTableFindsWhatIsInItAndNothingElse(t *testing.T) {
	s, err := New(Config{})
	require.NoError(t, err)
	defer s.Close()
	tt := &s.tcp.table
	rng := rand.New(rand.NewPCG(1, 2))
	entry := func(i int) *TCP {
		a := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		return s.newTCP(netip.AddrPortFrom(addrA, 80), netip.AddrPortFrom(a, uint16(i)), &path{ifc: s.lo})
	}
	have := map[int]*TCP{} // the reference table
	for range 20_000 {
		i := rng.IntN(3000)
		e := entry(i)
		old := have[i]
		switch rng.IntN(3) {
		case 0:
			require.Equal(t, old == nil, tt.insert(&e.tcpEntry))
			if old == nil {
				have[i] = e
			}
		case 1:
			tt.remove(&e.tcpEntry) // must not remove the entry old, which has the same tuple
			if old != nil {
				tt.remove(&old.tcpEntry)
				delete(have, i)
			}
		case 2:
			require.Equal(t, old != nil, old != nil && tt.replace(&old.tcpEntry, &e.tcpEntry))
			if old != nil {
				have[i] = e
			}
		}
		found, wait := tt.lookup(&e.key)
		require.Same(t, have[i], found)
		require.Nil(t, wait)
	}
	require.Len(t, tt.sockets(), len(have))
	for _, e := range have {
		tt.remove(&e.tcpEntry)
	}
	require.Empty(t, tt.sockets())
}

func TestALookupIsAsShortBesideManyConnections(t *testing.T) {
	s, err := New(Config{})
	require.NoError(t, err)
	defer s.Close()
	tt := &s.tcp.table
	const n = 100_000
	for i := range n {
		// Many clients differ from others only in the port, or only in the address.
		a := netip.AddrFrom4([4]byte{10, 0, byte(i % 4), 1})
		e := s.newTCP(netip.AddrPortFrom(addrA, 80), netip.AddrPortFrom(a, uint16(i/4)), &path{ifc: s.lo})
		require.True(t, tt.insert(&e.tcpEntry))
	}
	longest, steps := 0, 0
	for i := range tcpShards {
		for _, e := range tt.parts()[i].buckets {
			k := 0
			for ; e != nil; e = e.next {
				k++
				steps += k
			}
			longest = max(longest, k)
		}
	}
	require.Less(t, float64(steps)/n, 2.0, "entries examined per lookup")
	require.Less(t, longest, 16)
}

func TestTheWheelReachesConnectionsBeforeDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := New(Config{})
		require.NoError(t, err)
		w := &s.tcp.wheel
		rng := rand.New(rand.NewPCG(3, 4))
		// The connections are not open, so their ticks do nothing.
		var all []*TCP
		left := map[*TCP]tcp.Time{} // connections in the wheel, and when they leave it
		check := func(now tcp.Time) {
			w.mu.Lock()
			defer w.mu.Unlock()
			n := 0
			for _, c := range all {
				d, waits := left[c]
				if c.inWheel.next != nil {
					n++
					require.True(t, waits, "a removed connection must not be in the wheel")
				} else if waits {
					require.LessOrEqual(t, d, now+wheelStep*wheelSlots, "not much earlier than the deadline")
					delete(left, c)
				}
				if waits && d <= now {
					require.Nil(t, c.inWheel.next, "every connection left the wheel")
				}
			}
			require.Equal(t, n, w.n)
		}
		for i := range 2000 {
			now := s.now()
			switch rng.IntN(4) {
			case 0, 1:
				c := s.newTCP(netip.AddrPortFrom(addrA, 80), netip.AddrPortFrom(addrB, uint16(i)), &path{ifc: s.lo})
				all = append(all, c)
				d := now + minWheelWait + tcp.Time(rng.Int64N(int64(time.Minute)))
				at := w.put(c, now, d)
				require.LessOrEqual(t, at, d)
				require.Greater(t, at, now)
				left[c] = at
			case 2:
				if len(all) > 0 {
					c := all[rng.IntN(len(all))]
					w.remove(c)
					delete(left, c)
				}
			case 3:
				time.Sleep(time.Duration(rng.Int64N(int64(3 * time.Second))))
				synctest.Wait()
				check(s.now())
			}
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		check(s.now())
		require.Zero(t, w.n)
		require.NoError(t, s.Close())
	})
}
