//go:build linux

package taptest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/ipv6"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
)

// A recorder6 keeps the MLD messages that pass a device: ours go out, and the kernel's come in.
type recorder6 struct {
	*nic.TAP
	mu           sync.Mutex
	ours, kernel []string
}

func (r *recorder6) Nonblocking() nic.Device { return r }

func (r *recorder6) Send(batch []nic.Frame) (int, error) {
	r.record(&r.ours, batch)
	return r.TAP.Send(batch)
}

func (r *recorder6) Attach(recv func(batch []nic.Frame)) {
	r.TAP.Attach(func(batch []nic.Frame) {
		r.record(&r.kernel, batch)
		recv(batch)
	})
}

// record appends what a router sees of the reports of a batch about the test's groups, with the last byte of the
// group, which differs, as a dot.
func (r *recorder6) record(to *[]string, batch []nic.Frame) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range batch {
		f := batch[i].AppendTo(nil)
		if len(f) < 62 || binary.BigEndian.Uint16(f[12:]) != 0x86dd || f[20] != 0 || f[54] != 58 {
			continue
		}
		b := f[62 : 54+int(binary.BigEndian.Uint16(f[18:]))]
		if b[0] == 130 || !strings.Contains(fmt.Sprintf("%x", b), "ff35"+strings.Repeat("0", 24)+"12") {
			continue // a query, which is the test's own, or about other groups
		}
		clear(b[2:4]) // the checksum is of the group too
		text := fmt.Sprintf("to %x %x, hop limit %d, source fe80 %v, options %x: %x",
			f[:6], f[38:54], f[21], f[22] == 0xfe && f[23] == 0x80, f[54:62], b)
		text = strings.NewReplacer("0000001204", "00000012..", "0000001205", "00000012..",
			"333300001204", "3333000012..", "333300001205", "3333000012..").Replace(text)
		if !slices.Contains(*to, text) { // how often it is said is a matter of chance
			*to = append(*to, text)
		}
	}
}

// both waits until both have said something, and returns and forgets it.
func (r *recorder6) both(t *testing.T, n int) (ours, kernel []string) {
	t.Helper()
	require.Eventually(t, func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.ours) >= n && len(r.kernel) >= n
	}, 20*time.Second, 5*time.Millisecond, "a report of each")
	r.mu.Lock()
	defer r.mu.Unlock()
	ours, kernel, r.ours, r.kernel = r.ours, r.kernel, nil, nil
	return ours, kernel
}

// TestMLDIsSpokenAsByTheKernel has a socket of ours and one of the kernel's change their filters of a group alike,
// and be asked the same, in both versions.
func TestMLDIsSpokenAsByTheKernel(t *testing.T) {
	t.Parallel()
	need(t)
	ns := newNamespace(t)
	rec := &recorder6{TAP: ns.openTAP(t, true)}
	h, err := usernet.New(usernet.Config{NIC: rec, Addrs: []netip.Prefix{netip.MustParsePrefix(ourAddr6 + "/64")}})
	require.NoError(t, err)
	defer h.Close()
	ns.kernelLinkLocal(t)
	var ifi *net.Interface
	var theirs *ipv6.PacketConn
	var querier *ipv6.PacketConn
	require.NoError(t, ns.inside(func() error {
		var err error
		if ifi, err = net.InterfaceByName(tapName); err != nil {
			return err
		}
		c, err := net.ListenPacket("udp6", "[::]:5000")
		if err != nil {
			return err
		}
		theirs = ipv6.NewPacketConn(c)
		q, err := net.ListenPacket("ip6:58", "::")
		if err != nil {
			return err
		}
		querier = ipv6.NewPacketConn(q)
		return nil
	}))
	defer theirs.Close()
	defer querier.Close()
	ours, err := h.ListenUDP("udp6", &net.UDPAddr{Port: 5000})
	require.NoError(t, err)
	ourGroup, theirGroup := netip.MustParseAddr("ff35::1204"), netip.MustParseAddr("ff35::1205")
	ip := func(a netip.Addr) net.Addr { return &net.IPAddr{IP: a.AsSlice()} }
	one, two := netip.MustParseAddr("2001:db8::a1"), netip.MustParseAddr("2001:db8::a2")
	const group = "ff3500000000000000000000000012.."
	const hex1, hex2 = "20010db80000000000000000000000a1", "20010db80000000000000000000000a2"
	settle := func() { // the repetition comes within a second
		time.Sleep(1100 * time.Millisecond)
		rec.both(t, 0)
	}
	all := func(f func(ifi *net.Interface, group netip.Addr) error) func(*net.Interface, netip.Addr, netip.Addr) error {
		return func(_ *net.Interface, group, _ netip.Addr) error { return f(nil, group) }
	}
	xall := func(f func(ifi *net.Interface, group net.Addr) error) func(*net.Interface, net.Addr, net.Addr) error {
		return func(ifi *net.Interface, group, _ net.Addr) error { return f(ifi, group) }
	}
	for _, c := range []struct {
		what string
		our  func(ifi *net.Interface, group, source netip.Addr) error
		xnet func(ifi *net.Interface, group, source net.Addr) error
		src  netip.Addr
		want string // record, sources
	}{
		{"join a source", ours.JoinSourceGroup, theirs.JoinSourceSpecificGroup, one, "05000001" + group + hex1},
		{"join another", ours.JoinSourceGroup, theirs.JoinSourceSpecificGroup, two, "05000001" + group + hex2},
		{"leave the first", ours.LeaveSourceGroup, theirs.LeaveSourceSpecificGroup, one, "06000001" + group + hex1},
		{"leave the last", ours.LeaveSourceGroup, theirs.LeaveSourceSpecificGroup, two, "06000001" + group + hex2},
		{"join all", all(ours.JoinGroup), xall(theirs.JoinGroup), one, "04000000" + group},
		{"block a source", ours.BlockSource, theirs.ExcludeSourceSpecificGroup, one, "06000001" + group + hex1},
		{"unblock it", ours.UnblockSource, theirs.IncludeSourceSpecificGroup, one, "05000001" + group + hex1},
		{"leave", all(ours.LeaveGroup), xall(theirs.LeaveGroup), one, "03000000" + group},
	} {
		rec.both(t, 0)
		require.NoError(t, c.our(nil, ourGroup, c.src), c.what)
		require.NoError(t, c.xnet(ifi, ip(theirGroup), ip(c.src)), c.what)
		o, k := rec.both(t, 1)
		require.Equal(t, k, o, "%s; expected is the kernel's", c.what)
		require.Len(t, o, 1, c.what)
		require.True(t, strings.HasSuffix(o[0], ": 8f00000000000001"+c.want), "%s: %s does not end in %s", c.what, o[0], c.want)
		settle()
	}
}

// TestASwitchThatSnoopsPassesTheGroupsOfIPv6 puts our host and a sender on a bridge of the kernel's that passes a group only
// to ports that have reported it by MLD.
func TestASwitchThatSnoopsPassesTheGroupsOfIPv6(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"2", "1"} {
		t.Run("version "+version, func(t *testing.T) {
			need(t, "bridge")
			ns := newNamespace(t)
			tap := ns.openTAP(t, true)
			ns.shell(t, `
				ip link add br0 type bridge mcast_snooping 1 mcast_querier 1 mcast_mld_version `+version+` \
					mcast_query_response_interval 20 mcast_startup_query_interval 100 mcast_query_interval 300 mcast_last_member_interval 20 \
					mcast_membership_interval 3000
				ip addr flush dev tap0
				ip link set tap0 master br0
				ip link add sender type veth peer name port
				ip link set port master br0
				ip link set dev port up
				ip link set dev sender up
				ip -6 addr add 2001:db8::1/64 dev sender nodad
				ip link set dev br0 up`)
			h, err := usernet.New(usernet.Config{NIC: tap, Addrs: []netip.Prefix{netip.MustParsePrefix(ourAddr6 + "/64")}})
			require.NoError(t, err)
			defer h.Close()
			const group = "ff15::1234"
			ours, err := h.ListenUDP("udp6", &net.UDPAddr{Port: 5000})
			require.NoError(t, err)
			require.NoError(t, ours.JoinGroup(nil, netip.MustParseAddr(group)))
			has := func(port, group string) bool {
				return strings.Contains(ns.run(t, "bridge", "mdb", "show"), "port "+port+" grp "+group+" ")
			}
			require.Eventually(t, func() bool { return has(tapName, group) }, 20*time.Second, 20*time.Millisecond, "the bridge knows of us")
			require.Eventually(t, func() bool { return has(tapName, "ff02::1:ff00:2") }, 20*time.Second, 20*time.Millisecond,
				"and of our solicited-node group")
			require.False(t, has("port", group))
			before := h.Stats().MLD
			require.Eventually(t, func() bool {
				now := h.Stats().MLD
				return now.Received > before.Received && now.Sent > before.Sent
			}, 30*time.Second, 20*time.Millisecond, "its queries are answered")

			var theirs *net.UDPConn
			require.NoError(t, ns.inside(func() error {
				var err error
				theirs, err = net.ListenUDP("udp6", &net.UDPAddr{IP: net.ParseIP("2001:db8::1")})
				return err
			}))
			defer theirs.Close()
			ns.run(t, "ip", "-6", "route", "add", "ff15::/16", "dev", "sender", "table", "local")
			_, err = theirs.WriteTo([]byte("hello"), &net.UDPAddr{IP: net.ParseIP(group), Port: 5000})
			require.NoError(t, err)
			ours.SetReadDeadline(time.Now().Add(10 * time.Second))
			b := make([]byte, 100)
			n, from, err := ours.ReadFromUDP(b)
			require.NoError(t, err)
			require.Equal(t, "hello", string(b[:n]))
			require.Equal(t, "2001:db8::1", from.IP.String())

			require.NoError(t, ours.Close())
			require.Eventually(t, func() bool { return !has(tapName, group) }, 20*time.Second, 20*time.Millisecond, "it knows that we left")
		})
	}
}

// A sixSocket is what is done with groups on a UDP socket of IPv6, ours or the kernel's.
type sixSocket struct {
	join, leave             func(ifi *net.Interface, group netip.Addr) error
	joinSource, leaveSource func(ifi *net.Interface, group, source netip.Addr) error
	block, unblock          func(ifi *net.Interface, group, source netip.Addr) error
	ifi                     *net.Interface
	listen                  func(network string, ifi *net.Interface, gaddr *net.UDPAddr) (net.PacketConn, error)
	sender                  net.PacketConn
}

// errnoOf is an error as its errno, or its text.
func errnoOf(err error) string {
	var errno syscall.Errno
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &errno):
		return errno.Error()
	}
	return err.Error()
}

// TestGroupsOfIPv6FailAsOnTheKernel does the same with a socket of the kernel's and one of ours.
func TestGroupsOfIPv6FailAsOnTheKernel(t *testing.T) {
	t.Parallel()
	ns, h := newLink6(t, true)
	ns.kernelLinkLocal(t)
	ip := func(a netip.Addr) net.Addr { return &net.IPAddr{IP: a.AsSlice()} }
	var kernel, ours sixSocket
	var multicast func(network string, ifi *net.Interface, gaddr *net.UDPAddr) (net.PacketConn, error)
	require.NoError(t, ns.inside(func() error {
		var err error
		if kernel.ifi, err = net.InterfaceByName(tapName); err != nil {
			return err
		}
		c, err := net.ListenPacket("udp6", "[::]:5000")
		if err != nil {
			return err
		}
		p := ipv6.NewPacketConn(c)
		one := func(f func(*net.Interface, net.Addr) error) func(*net.Interface, netip.Addr) error {
			return func(ifi *net.Interface, group netip.Addr) error { return f(ifi, ip(group)) }
		}
		two := func(f func(*net.Interface, net.Addr, net.Addr) error) func(*net.Interface, netip.Addr, netip.Addr) error {
			return func(ifi *net.Interface, group, source netip.Addr) error { return f(ifi, ip(group), ip(source)) }
		}
		kernel.join, kernel.leave = one(p.JoinGroup), one(p.LeaveGroup)
		kernel.joinSource, kernel.leaveSource = two(p.JoinSourceSpecificGroup), two(p.LeaveSourceSpecificGroup)
		kernel.block, kernel.unblock = two(p.ExcludeSourceSpecificGroup), two(p.IncludeSourceSpecificGroup)
		kernel.sender = c
		return nil
	}))
	multicast = func(network string, ifi *net.Interface, gaddr *net.UDPAddr) (c net.PacketConn, err error) {
		inside := ns.inside(func() error {
			var u *net.UDPConn
			if u, err = net.ListenMulticastUDP(network, ifi, gaddr); err == nil {
				c = u
			}
			return nil
		})
		require.NoError(t, inside)
		return c, err
	}
	kernel.listen = multicast
	c, err := h.ListenUDP("udp6", &net.UDPAddr{Port: 5000})
	require.NoError(t, err)
	ours = sixSocket{
		join: c.JoinGroup, leave: c.LeaveGroup, joinSource: c.JoinSourceGroup, leaveSource: c.LeaveSourceGroup,
		block: c.BlockSource, unblock: c.UnblockSource, ifi: &net.Interface{Index: 2}, sender: c,
		listen: func(network string, ifi *net.Interface, gaddr *net.UDPAddr) (net.PacketConn, error) {
			u, err := h.ListenMulticastUDP(network, ifi, gaddr)
			if err != nil {
				return nil, err
			}
			return u, nil
		},
	}
	defer kernel.sender.Close()
	program := func(s *sixSocket) (lines []string) {
		step := func(what string, err error) { lines = append(lines, what+": "+errnoOf(err)) }
		group, one, two := netip.MustParseAddr("ff35::77"), netip.MustParseAddr("2001:db8::a1"), netip.MustParseAddr("2001:db8::a2")
		nowhere := &net.Interface{Index: 9999, Name: "none"}
		step("leave what is not joined", s.leave(s.ifi, group))
		step("leave a source of it", s.leaveSource(s.ifi, group, one))
		step("block a source of it", s.block(s.ifi, group, one))
		step("join a host", s.join(s.ifi, one))
		step("join nowhere", s.join(nowhere, group))
		step("join a source nowhere", s.joinSource(nowhere, group, one))
		step("join a source of a host", s.joinSource(s.ifi, one, one))
		step("join a source", s.joinSource(s.ifi, group, one))
		step("again", s.joinSource(s.ifi, group, one))
		step("another", s.joinSource(s.ifi, group, two))
		step("join the group", s.join(s.ifi, group))
		step("block a source", s.block(s.ifi, group, one))
		step("leave a source", s.leaveSource(s.ifi, group, one))
		step("again", s.leaveSource(s.ifi, group, one))
		step("leave the last", s.leaveSource(s.ifi, group, two))
		step("leave the group", s.leave(s.ifi, group))
		step("join the group", s.join(s.ifi, group))
		step("again", s.join(s.ifi, group))
		step("unblock a source", s.unblock(s.ifi, group, one))
		step("block a source", s.block(s.ifi, group, one))
		step("again", s.block(s.ifi, group, one))
		step("join a source", s.joinSource(s.ifi, group, two))
		step("unblock it", s.unblock(s.ifi, group, one))
		step("leave the group", s.leave(s.ifi, group))
		step("again", s.leave(s.ifi, group))
		step("join the group of all nodes", s.join(s.ifi, netip.MustParseAddr("ff02::1")))
		step("leave it", s.leave(s.ifi, netip.MustParseAddr("ff02::1")))
		for _, x := range []struct{ network, group string }{
			{"udp6", "ff02::5678"}, {"udp", "ff02::5678"}, {"udp4", "ff02::5678"}, {"udp6", "224.1.2.3"}, {"udp6", "::1"},
		} {
			l, err := s.listen(x.network, s.ifi, &net.UDPAddr{IP: net.ParseIP(x.group), Port: 5678})
			step("ListenMulticastUDP "+x.network+" "+x.group, err)
			if err == nil {
				lines = append(lines, l.LocalAddr().Network()+" "+l.LocalAddr().String())
				l.Close()
			}
		}
		return lines
	}
	require.Equal(t, program(&kernel), program(&ours), "expected is the kernel's")
}

// TestGroupsOfIPv6ReachTheKernelAndComeFromIt sends to a link-local group both ways.
func TestGroupsOfIPv6ReachTheKernelAndComeFromIt(t *testing.T) {
	t.Parallel()
	for _, plain := range []bool{false, true} {
		ns, h := newLink6(t, plain)
		ns.kernelLinkLocal(t)
		gaddr := &net.UDPAddr{IP: net.ParseIP("ff02::5678"), Port: 5678}
		var theirs *net.UDPConn
		require.NoError(t, ns.inside(func() error {
			ifi, err := net.InterfaceByName(tapName)
			if err != nil {
				return err
			}
			theirs, err = net.ListenMulticastUDP("udp6", ifi, gaddr)
			return err
		}))
		defer theirs.Close()
		ours, err := h.ListenMulticastUDP("udp6", &net.Interface{Index: 2}, gaddr)
		require.NoError(t, err)
		b := make([]byte, 10000)
		for _, n := range []int{5, 3000} { // in one packet, and in fragments
			data := []byte(strings.Repeat("x", n))
			_, err = ours.WriteTo(data, gaddr)
			require.NoError(t, err)
			require.NoError(t, theirs.SetReadDeadline(time.Now().Add(patience)))
			got, from, err := theirs.ReadFromUDP(b)
			require.NoError(t, err)
			require.Equal(t, n, got)
			require.Equal(t, linkLocal(t, h).String(), from.IP.String())
			_, err = theirs.WriteTo(data, &net.UDPAddr{IP: gaddr.IP, Port: 5678, Zone: tapName})
			require.NoError(t, err)
			require.NoError(t, ours.SetReadDeadline(time.Now().Add(patience)))
			got, from, err = ours.ReadFromUDP(b)
			require.NoError(t, err)
			require.Equal(t, n, got)
			require.True(t, from.IP.IsLinkLocalUnicast())
			require.NotEmpty(t, from.Zone)
		}
	}
}
