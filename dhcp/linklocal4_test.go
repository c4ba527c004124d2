package dhcp

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// nextLinkLocal takes the next event, which must be of the given kind, and returns the event's address.
func nextLinkLocal(t *testing.T, l *LinkLocal4, kind EventKind4) netip.Addr {
	t.Helper()
	e, ok := l.NextEvent()
	require.True(t, ok)
	require.Equal(t, kind.String(), e.Kind.String())
	require.Equal(t, 16, e.Addr.Bits())
	return e.Addr.Addr()
}

// RFC 3927 2.1: uniform "in the range from 169.254.1.0 to 169.254.254.255 inclusive"; "different hosts do not
// generate the same sequence of numbers".
func TestLinkLocalAddressesAreSpread(t *testing.T) {
	seen := make(map[netip.Addr]int)
	third := make(map[byte]int)
	for i := range 50000 {
		m := [6]byte{2, 0, 0, byte(i >> 16), byte(i >> 8), byte(i)}
		l := NewLinkLocal4(m)
		require.Equal(t, l.addr, NewLinkLocal4(m).addr, "a host chooses the same each time")
		b := l.addr.As4()
		require.True(t, b[0] == 169 && b[1] == 254 && b[2] >= 1 && b[2] <= 254, "%v", l.addr)
		seen[l.addr]++
		third[b[2]]++
	}
	require.Greater(t, len(seen), 33000, "of 65024, at random 34900 are expected")
	require.Len(t, third, 254)
	for b, n := range third {
		require.InDelta(t, 50000/254, n, 80, "169.254.%d", b)
	}
}

func TestALinkLocalAddressIsAcquired(t *testing.T) {
	l := NewLinkLocal4(mac)
	require.False(t, l.Addr().IsValid())
	l.Start()
	l.Start()
	a := nextLinkLocal(t, l, Probe)
	_, ok := l.NextEvent()
	require.False(t, ok)
	l.Probed(start, true)
	require.Equal(t, a, nextLinkLocal(t, l, Acquired))
	require.Equal(t, a, l.Addr())
	require.True(t, l.Deadline().IsZero())
	l.Probed(start, false)
	_, ok = l.NextEvent()
	require.False(t, ok)
	l.Conflict(start)
	require.Equal(t, a, nextLinkLocal(t, l, Lost))
	b := nextLinkLocal(t, l, Probe)
	require.NotEqual(t, a, b)
	require.False(t, l.Addr().IsValid())
	l.Stop()
	_, ok = l.NextEvent()
	require.False(t, ok)
	l.Probed(start, true)
	require.False(t, l.Addr().IsValid(), "it is stopped")
	l.Conflict(start)
	l.Start()
	require.Equal(t, b, nextLinkLocal(t, l, Probe), "the last address first")
	l.Probed(start, true)
	nextLinkLocal(t, l, Acquired)
	l.Stop()
	require.Equal(t, b, nextLinkLocal(t, l, Lost))
}

// RFC 3927 2.2.1: after MAX_CONFLICTS conflicts, "no more than one new address per RATE_LIMIT_INTERVAL".
func TestProbesForLinkLocalAddressesAreLimited(t *testing.T) {
	l := NewLinkLocal4(mac)
	l.Start()
	seen := make(map[netip.Addr]bool)
	for range 10 {
		seen[nextLinkLocal(t, l, Probe)] = true
		l.Probed(start, false)
	}
	nextLinkLocal(t, l, Probe)
	require.Len(t, seen, 10)
	now := start
	for range 5 {
		l.Probed(now, false)
		require.Equal(t, now.Add(time.Minute), l.Deadline())
		l.Probed(now, true)
		l.Tick(now.Add(time.Minute - 1))
		_, ok := l.NextEvent()
		require.False(t, ok)
		now = now.Add(time.Minute)
		l.Tick(now)
		nextLinkLocal(t, l, Probe)
	}
	l.Stop()
	require.True(t, l.Deadline().IsZero())
}
