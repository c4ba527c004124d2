package usernet

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

// Source filters return the same errors in both worlds.
func TestSourceFiltersFailAsOnTheKernel(t *testing.T) {
	group := netip.MustParseAddr("232.1.2.3")
	one, two := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")
	inBothWorlds(t, func(l *log) {
		c, _ := l.listenOn("0.0.0.0:0")
		step := func(what string, err error) { l.note("%s: %s", what, why(err)) }
		step("leave a source of a group that is not joined", c.LeaveSourceGroup(l.w.lo, group, one))
		step("block a source of it", c.BlockSource(l.w.lo, group, one))
		step("unblock a source of it", c.UnblockSource(l.w.lo, group, one))
		step("join a source of a host", c.JoinSourceGroup(l.w.lo, one, one))
		step("join a source", c.JoinSourceGroup(l.w.lo, group, one))
		step("again", c.JoinSourceGroup(l.w.lo, group, one))
		step("another", c.JoinSourceGroup(l.w.lo, group, two))
		step("join the group", c.JoinGroup(l.w.lo, group))
		step("block a source", c.BlockSource(l.w.lo, group, one))
		step("unblock a source", c.UnblockSource(l.w.lo, group, one))
		step("leave a source", c.LeaveSourceGroup(l.w.lo, group, one))
		step("again", c.LeaveSourceGroup(l.w.lo, group, one))
		step("leave the last", c.LeaveSourceGroup(l.w.lo, group, two))
		step("leave the group", c.LeaveGroup(l.w.lo, group))

		step("join the group", c.JoinGroup(l.w.lo, group))
		step("unblock a source", c.UnblockSource(l.w.lo, group, one))
		step("block a source", c.BlockSource(l.w.lo, group, one))
		step("again", c.BlockSource(l.w.lo, group, one))
		step("block another", c.BlockSource(l.w.lo, group, two))
		step("join a source", c.JoinSourceGroup(l.w.lo, group, two))
		step("leave a source", c.LeaveSourceGroup(l.w.lo, group, two))
		step("unblock a source", c.UnblockSource(l.w.lo, group, one))
		step("again", c.UnblockSource(l.w.lo, group, one))
		step("leave the group", c.LeaveGroup(l.w.lo, group))
		step("again", c.LeaveGroup(l.w.lo, group))

		step("join the group", c.JoinGroup(l.w.lo, group))
		step("join one source instead of all", c.JoinSourceGroup(l.w.lo, group, one))
		step("leave it", c.LeaveSourceGroup(l.w.lo, group, one))
		step("leave the group", c.LeaveGroup(l.w.lo, group))
		require.NoError(l.t, c.Close())
	})
	ourWorld := ourGroups(t)
	c, err := ourWorld.listen("udp4", "0.0.0.0:0")
	require.NoError(t, err)
	six := netip.MustParseAddr("2001:db8::1")
	require.Equal(t, "cannot assign requested address", why(c.JoinSourceGroup(ourWorld.lo, group, six)))
	require.Equal(t, "cannot assign requested address", why(c.JoinSourceGroup(ourWorld.lo, group, netip.Addr{})))
	require.Equal(t, "invalid argument", why(c.LeaveGroup(ourWorld.lo, six)))
	require.NoError(t, c.Close())
	require.ErrorIs(t, c.JoinSourceGroup(ourWorld.lo, group, one), net.ErrClosed)
	require.ErrorIs(t, c.UnblockSource(ourWorld.lo, group, one), net.ErrClosed)
	require.Equal(t, "invalid argument", why((&UDPConn{}).BlockSource(nil, group, one)))
}

// After each step, sockets with and without filters receive from two sources.
func TestSourceFiltersAreHeardAsOnTheKernel(t *testing.T) {
	group := ownGroup()
	inBothWorlds(t, func(l *log) {
		g := netip.MustParseAddr(group)
		one, two := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")
		c := l.join("239.255.255.254", 0) // a socket of ListenMulticastUDP shares its port
		port := c.LocalAddr().(*net.UDPAddr).Port
		other := l.join("239.255.255.254", port)
		from := map[netip.Addr]groupSocket{}
		for _, a := range []netip.Addr{one, two} {
			s, _ := l.listenOn(fmt.Sprintf("%v:0", a))
			require.NoError(l.t, s.SetMulticastInterface(l.w.lo))
			from[a] = s
		}
		n := 0
		// observe logs the result of a step, and what both sockets then receive from each source.
		observe := func(what string, err error) {
			l.note("%s: %s", what, why(err))
			for _, a := range []netip.Addr{one, two} {
				n++
				l.say(from[a], group, port, fmt.Sprintf("%d of %v", n, a))
				l.hear("the one", c)
				l.hear("the other", other)
			}
		}
		observe("nobody is a member", nil)
		observe("the one joins a source", c.JoinSourceGroup(l.w.lo, g, one))
		observe("and another", c.JoinSourceGroup(l.w.lo, g, two))
		observe("and leaves the first", c.LeaveSourceGroup(l.w.lo, g, one))
		observe("the other joins the first", other.JoinSourceGroup(l.w.lo, g, one))
		observe("the one leaves the second, and so the group", c.LeaveSourceGroup(l.w.lo, g, two))
		observe("the one joins all", c.JoinGroup(l.w.lo, g))
		observe("and blocks the first", c.BlockSource(l.w.lo, g, one))
		observe("the other leaves", other.LeaveSourceGroup(l.w.lo, g, one))
		observe("the one blocks the second too", c.BlockSource(l.w.lo, g, two))
		observe("the other joins all", other.JoinGroup(l.w.lo, g))
		observe("and blocks the second", other.BlockSource(l.w.lo, g, two))
		observe("and unblocks it", other.UnblockSource(l.w.lo, g, two))
		observe("the other leaves the group", other.LeaveGroup(l.w.lo, g))
		observe("the one unblocks the first", c.UnblockSource(l.w.lo, g, one))
		observe("the one leaves", c.LeaveGroup(l.w.lo, g))
	})
}
