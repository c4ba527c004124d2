package stack

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBoundTakesItsFamily(t *testing.T) {
	for _, x := range []struct {
		fam   Family
		bound string
		takes string
		want  bool
	}{
		{Family4, "0.0.0.0", "192.0.2.1", true},
		{Family4, "0.0.0.0", "2001:db8::1", false},
		{Family6, "::", "2001:db8::1", true},
		{Family6, "::", "192.0.2.1", false},
		{FamilyAny, "::", "2001:db8::1", true},
		{FamilyAny, "::", "192.0.2.1", true},
		{FamilyAny, "0.0.0.0", "192.0.2.1", true},
		{FamilyAny, "0.0.0.0", "2001:db8::1", false},
		{Family4, "192.0.2.1", "192.0.2.1", true},
		{Family4, "192.0.2.1", "192.0.2.2", false},
		{FamilyAny, "2001:db8::1", "2001:db8::1", true},
		{FamilyAny, "2001:db8::1", "192.0.2.1", false},
	} {
		b := bind(x.fam, addr(x.bound), 0)
		require.Equal(t, x.want, b.takes(addr(x.takes), 0), "%+v", x)
	}
}

// A listener that is bound to an address is found before a listener that is bound to the wildcard of its
// family. A wildcard listener of both families is found for either family. A wildcard listener of IPv6
// only is not found for IPv4.
func TestListenersAreFoundByFamily(t *testing.T) {
	var tl tcpListeners
	listen := func(fam Family, local string) *TCPListener {
		ap := addrPort(local)
		l := &TCPListener{local: ap, at: bind(fam, ap.Addr(), 0)}
		require.False(t, tl.conflicts(&l.at, ap.Port()), local)
		tl.add(l)
		return l
	}
	dual := listen(FamilyAny, "[::]:80")
	only := listen(Family6, "[::]:81")
	four := listen(Family4, "0.0.0.0:81")
	one := listen(Family4, "192.0.2.1:82")
	require.Same(t, dual, tl.find(addrPort("192.0.2.1:80"), 0))
	require.Same(t, dual, tl.find(addrPort("[2001:db8::1]:80"), 0))
	require.Same(t, four, tl.find(addrPort("192.0.2.1:81"), 0))
	require.Same(t, only, tl.find(addrPort("[2001:db8::1]:81"), 0))
	require.Same(t, one, tl.find(addrPort("192.0.2.1:82"), 0))
	require.Nil(t, tl.find(addrPort("[2001:db8::1]:82"), 0))
	for _, x := range []struct {
		fam   Family
		local string
		want  bool
	}{
		{Family4, "0.0.0.0:80", true}, {Family4, "192.0.2.1:80", true}, {Family6, "[::]:80", true}, {Family6, "[::1]:80", true},
		{FamilyAny, "[::]:81", true}, {Family6, "[::]:82", false}, {FamilyAny, "[::]:82", true}, {Family4, "192.0.2.2:82", false},
	} {
		b := bind(x.fam, addrPort(x.local).Addr(), 0)
		require.Equal(t, x.want, tl.conflicts(&b, addrPort(x.local).Port()), x.local)
	}
	for _, l := range []*TCPListener{dual, only, four} {
		tl.remove(l)
		tl.remove(l) // already removed
	}
	require.Nil(t, tl.find(addrPort("192.0.2.1:80"), 0))
	require.Nil(t, tl.find(addrPort("[2001:db8::1]:81"), 0))
	require.Len(t, tl.all(), 1)
}
